//! A service in actix-web that refuses whoever is revoked.
//!
//! `cargo run --features examples --example actix_service`, and then as with `axum_service`.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "an example lives in real time, and prints")]

mod issuer;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::dev::{Service, ServiceRequest};
use actix_web::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use actix_web::web::{self, Data, Query};
use actix_web::{App, HttpMessage, HttpResponse, HttpServer, error};
use issuer::Issuer;
use jsonwebtoken::TokenData;
use rescind::service::{Guard, RegisteredClaims, RevocationMiddleware};
use rescind::{Options, Reason, Revocation, Store, Subject};
use serde::Deserialize;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A real service opens a directory. This one lasts as long as the process.
    let store = Options::new().max_credential_age(std::time::Duration::from_secs(3600)).open_in_memory()?;
    let issuer = Arc::new(Issuer::new()?);
    let guard = Guard::new(&store).realm("orders");
    let server = HttpServer::new(move || {
        let issuer = Arc::clone(&issuer);
        let orders = web::scope("/orders")
            // What is wrapped last runs first: tokens are verified, and then it is asked whether they are revoked.
            .wrap(RevocationMiddleware::<TokenData<RegisteredClaims>>::new(guard.clone()))
            .wrap_fn({
                let issuer = Arc::clone(&issuer);
                move |request, service| {
                    let verified = verify(&request, &issuer);
                    let served = verified.map(|()| service.call(request));
                    async move { served?.await }
                }
            })
            .route("", web::get().to(async || "three orders\n"));
        App::new()
            .app_data(Data::new(store.clone()))
            .app_data(Data::from(issuer))
            .service(orders)
            .route("/login", web::get().to(login))
            .route("/admin/revoke", web::post().to(revoke))
            .route("/admin/close", web::post().to(close))
    });
    let server = server.workers(2).bind("127.0.0.1:0")?;
    for address in server.addrs() {
        println!("listening on http://{address}");
    }
    actix_web::rt::System::new().block_on(server.run())?;
    Ok(())
}

/// Verifies the token, and leaves its claims in the extensions. Who brings none is refused by the guard.
fn verify(request: &ServiceRequest, issuer: &Issuer) -> Result<(), actix_web::Error> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) {
        let verified = issuer.verify::<RegisteredClaims>(token).map_err(|error| {
            // Every 401 says how to authenticate (RFC 6750 section 3).
            let challenge = r#"Bearer realm="orders", error="invalid_token""#;
            let response = HttpResponse::Unauthorized().insert_header((WWW_AUTHENTICATE, challenge)).finish();
            error::InternalError::from_response(error, response)
        })?;
        request.extensions_mut().insert(verified);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Login {
    user: String,
    /// How long ago the person authenticated, in seconds.
    #[serde(default)]
    ago: u64,
}

async fn login(issuer: Data<Issuer>, login: Query<Login>) -> Result<String, actix_web::Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(error::ErrorInternalServerError)?.as_secs();
    let Login { user, ago } = login.into_inner();
    let mut claims = RegisteredClaims::default();
    claims.jti = Some(format!("token-of-{user}"));
    claims.sub = Some(user);
    claims.iat = Some(now as f64);
    claims.auth_time = Some(now.saturating_sub(ago) as f64);
    claims.exp = Some((now + 900) as f64);
    issuer.sign(&claims).map_err(error::ErrorInternalServerError)
}

#[derive(Deserialize)]
struct Who {
    user: String,
}

/// A real service asks here who does that.
async fn revoke(store: Data<Store>, who: Query<Who>) -> Result<&'static str, actix_web::Error> {
    let revocation = Revocation::of(Subject::user(&*who.user)).because(Reason::Administrative).by("admin");
    // It denies by now; this waits until it is on disk.
    store.submit(revocation).map_err(error::ErrorBadRequest)?.await.map_err(error::ErrorServiceUnavailable)?;
    Ok("revoked\n")
}

/// To see what happens where the store cannot answer.
async fn close(store: Data<Store>) -> HttpResponse {
    if store.close().is_ok() { HttpResponse::Ok().finish() } else { HttpResponse::InternalServerError().finish() }
}
