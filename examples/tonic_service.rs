//! A service in tonic that refuses whoever is revoked, by interceptors.
//!
//! `cargo run --features examples --example tonic_service`. So that it needs no compiler of protocol buffers, its messages are
//! texts, and what would be generated is written out.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "an example lives in real time, and prints")]

mod issuer;
mod text_codec;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use issuer::Issuer;
use jsonwebtoken::TokenData;
use rescind::service::{Guard, RegisteredClaims, RevocationInterceptor};
use rescind::{Options, Reason, Revocation, Store, Subject};
use text_codec::TextCodec;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

struct App {
    store: Store,
    issuer: Issuer,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A real service opens a directory. This one lasts as long as the process.
    let store = Options::new().max_credential_age(std::time::Duration::from_secs(3600)).open_in_memory()?;
    let guard = Guard::new(&store).realm("orders");
    let app = Arc::new(App { store, issuer: Issuer::new()? });

    // The outer one runs first: tokens are verified, and then it is asked whether they are revoked.
    let guarded = InterceptedService::new(Orders, RevocationInterceptor::<TokenData<RegisteredClaims>>::new(guard));
    let orders = InterceptedService::new(guarded, Verify(Arc::clone(&app)));
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("listening on http://{}", incoming.local_addr()?);
    Server::builder().add_service(orders).add_service(Admin(app)).serve_with_incoming(incoming).await?;
    Ok(())
}

/// Verifies the token, and leaves its claims in the extensions. Who brings none is refused by the guard.
#[derive(Clone)]
struct Verify(Arc<App>);

impl Interceptor for Verify {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) {
            let verified = self.0.issuer.verify::<RegisteredClaims>(token);
            let claims = verified.map_err(|_| Status::unauthenticated("the token does not verify"))?;
            request.extensions_mut().insert(claims);
        }
        Ok(request)
    }
}

/// `orders.Orders/List`.
#[derive(Clone)]
struct Orders;

impl UnaryService<String> for Orders {
    type Response = String;
    type Future = BoxFuture<Response<String>, Status>;

    fn call(&mut self, _: Request<String>) -> Self::Future {
        Box::pin(async { Ok(Response::new("three orders".to_owned())) })
    }
}

/// `orders.Admin/Login`, `/Revoke` and `/Close`. A real service asks who does that.
#[derive(Clone)]
struct Admin(Arc<App>);

struct AdminCall(Arc<App>, String);

impl UnaryService<String> for AdminCall {
    type Response = String;
    type Future = BoxFuture<Response<String>, Status>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let (app, method, text) = (Arc::clone(&self.0), self.1.clone(), request.into_inner());
        Box::pin(async move {
            let unavailable = |error: &dyn std::error::Error| Status::unavailable(error.to_string());
            match method.as_str() {
                "/orders.Admin/Login" => login(&app, text).map(Response::new),
                "/orders.Admin/Revoke" => {
                    let revocation = Revocation::of(Subject::user(text)).because(Reason::Administrative).by("admin");
                    let pending =
                        app.store.submit(revocation).map_err(|error| Status::invalid_argument(error.to_string()))?;
                    // It denies by now; this waits until it is on disk.
                    pending.await.map_err(|error| unavailable(&error))?;
                    Ok(Response::new("revoked".to_owned()))
                }
                // To see what happens where the store cannot answer.
                "/orders.Admin/Close" => {
                    app.store.close().map_err(|error| unavailable(&error))?;
                    Ok(Response::new("closed".to_owned()))
                }
                _ => Err(Status::unimplemented(method)),
            }
        })
    }
}

/// `user`, or `user,seconds since the person authenticated`.
fn login(app: &App, text: String) -> Result<String, Status> {
    let (user, ago) = text.split_once(',').unwrap_or((&text, "0"));
    let ago: u64 = ago.parse().map_err(|_| Status::invalid_argument("not a number of seconds"))?;
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| Status::internal(error.to_string()))?.as_secs();
    let mut claims = RegisteredClaims::default();
    claims.jti = Some(format!("token-of-{user}"));
    claims.sub = Some(user.to_owned());
    claims.iat = Some(now as f64);
    claims.auth_time = Some(now.saturating_sub(ago) as f64);
    claims.exp = Some((now + 900) as f64);
    app.issuer.sign(&claims).map_err(|error| Status::internal(error.to_string()))
}

// What `tonic-prost-build` would generate.

impl NamedService for Orders {
    const NAME: &'static str = "orders.Orders";
}

impl NamedService for Admin {
    const NAME: &'static str = "orders.Admin";
}

type Served = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

fn unary<S>(service: S, request: http::Request<Body>) -> Served
where
    S: UnaryService<String, Response = String> + Send + 'static,
    S::Future: Send,
{
    Box::pin(async move { Ok(Grpc::new(TextCodec).unary(service, request).await) })
}

impl Service<http::Request<Body>> for Orders {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Served;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Served {
        unary(self.clone(), request)
    }
}

impl Service<http::Request<Body>> for Admin {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Served;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Served {
        let method = request.uri().path().to_owned();
        unary(AdminCall(Arc::clone(&self.0), method), request)
    }
}
