//! gRPC, asked by tonic's client.

use std::net::SocketAddr;

use rescind::service::{Guard, RegisteredClaims, RevocationLayer};
use rescind::{Options, Revocation, Store, Subject};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Code, Request, Status};

use super::process::Service;
use super::text_codec::TextCodec;

pub(crate) async fn call(
    channel: &Channel,
    path: &'static str,
    text: &str,
    token: Option<&str>,
) -> Result<String, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(text.to_owned());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    Ok(client.unary(request, PathAndQuery::from_static(path), TextCodec).await?.into_inner())
}

pub(crate) fn metadata<'a>(status: &'a Status, name: &str) -> Option<&'a str> {
    status.metadata().get(name).map(|value| value.to_str().unwrap())
}

/// The status of HTTP that stands for a code of gRPC.
fn http(result: &Result<String, Status>) -> u16 {
    match result.as_ref().map_err(Status::code) {
        Ok(_) => 200,
        Err(Code::Unauthenticated) => 401,
        Err(Code::Unavailable) => 503,
        Err(code) => panic!("{code}"),
    }
}

#[tokio::test]
async fn the_tonic_interceptor() {
    let service = Service::start("tonic_service");
    let channel = Channel::from_shared(service.url.clone()).unwrap().connect().await.unwrap();
    let list = async |token: Option<&str>| call(&channel, "/orders.Orders/List", "", token).await;
    let login = async |user: &str| call(&channel, "/orders.Admin/Login", user, None).await.unwrap();
    let (alice, bob, carol) = (login("alice").await, login("bob,4000").await, login("carol").await);

    let clear = list(Some(&alice)).await;
    assert_eq!(clear.as_deref().unwrap(), "three orders");
    let nobody = list(None).await.unwrap_err();
    assert_eq!(
        (nobody.code(), metadata(&nobody, "www-authenticate")),
        (Code::Unauthenticated, Some(r#"Bearer realm="orders""#))
    );
    let old = list(Some(&bob)).await.unwrap_err();
    assert_eq!(old.code(), Code::Unauthenticated);
    assert!(metadata(&old, "www-authenticate").unwrap().ends_with(r#"max_age="3600""#));

    call(&channel, "/orders.Admin/Revoke", "alice", None).await.unwrap();
    let revoked = list(Some(&alice)).await;
    let status = revoked.as_ref().unwrap_err();
    assert!(metadata(status, "www-authenticate").unwrap().contains(r#"error="invalid_token""#));
    assert_eq!(status.message(), "the token was revoked: log in again");
    assert!(list(Some(&carol)).await.is_ok(), "nobody else");

    call(&channel, "/orders.Admin/Close", "", None).await.unwrap();
    let unknown = list(Some(&carol)).await;
    let status = unknown.as_ref().unwrap_err();
    assert_eq!(
        (metadata(status, "grpc-retry-pushback-ms"), metadata(status, "retry-after")),
        (Some("1000"), Some("1"))
    );
    assert_eq!(metadata(status, "www-authenticate"), None);
    println!(
        "service tonic clear={} revoked={} unknown={} (grpc 0 {} {})",
        http(&clear),
        http(&revoked),
        http(&unknown),
        revoked.unwrap_err().code() as i32,
        unknown.unwrap_err().code() as i32
    );
}

/// The tower layer answers gRPC in its own words.
#[tokio::test]
async fn the_tower_layer_before_a_tonic_service() {
    #[derive(Clone)]
    struct Claims(RegisteredClaims);
    impl rescind::service::Claims for Claims {
        fn credential(&self) -> rescind::Credential<'_> {
            self.0.credential()
        }
    }
    let store: Store = Options::new().open_in_memory().unwrap();
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let url = format!("http://{}", incoming.local_addr().unwrap());
    // Whoever calls says who it is: this is not about verifying.
    let verify = tonic::service::InterceptorLayer::new(|mut request: Request<()>| {
        let user = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        if let Some(user) = user {
            let mut claims = RegisteredClaims::default();
            claims.sub = user.strip_prefix("Bearer ").map(str::to_owned);
            claims.iat = Some(1.0);
            request.extensions_mut().insert(Claims(claims));
        }
        Ok(request)
    });
    let server = Server::builder()
        .layer(verify)
        .layer(RevocationLayer::<Claims>::new(Guard::new(&store)))
        .add_service(Echo)
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let echo = async |user: Option<&str>| call(&channel, "/test.Echo/Echo", "hello", user).await;
    assert_eq!(echo(Some("alice")).await.unwrap(), "hello");
    store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
    let revoked = echo(Some("alice")).await.unwrap_err();
    assert_eq!((revoked.code(), revoked.message()), (Code::Unauthenticated, "the token was revoked: log in again"));
    assert_eq!(echo(Some("bob")).await.unwrap(), "hello");
    assert_eq!(echo(None).await.unwrap_err().code(), Code::Unauthenticated);
    store.close().unwrap();
    assert_eq!(echo(Some("bob")).await.unwrap_err().code(), Code::Unavailable);
    server.abort();
}

/// Gives back what it is given.
#[derive(Clone)]
pub(crate) struct Echo;

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl tonic::server::UnaryService<String> for Echo {
    type Response = String;
    type Future = tonic::codegen::BoxFuture<tonic::Response<String>, Status>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        Box::pin(async move { Ok(tonic::Response::new(request.into_inner())) })
    }
}

impl tonic::codegen::Service<tonic::codegen::http::Request<tonic::body::Body>> for Echo {
    type Response = tonic::codegen::http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::codegen::http::Request<tonic::body::Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(tonic::server::Grpc::new(TextCodec).unary(echo, request).await) })
    }
}
