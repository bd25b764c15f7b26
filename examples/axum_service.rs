//! A service in axum that refuses whoever is revoked, and closes their WebSockets.
//!
//! `cargo run --features examples --example axum_service`, and then, with what it prints:
//!
//! ```text
//! TOKEN=$(curl -s "$URL/login?user=alice")
//! curl -i -H "Authorization: Bearer $TOKEN" $URL/orders
//! curl -X POST "$URL/admin/revoke?user=alice"
//! curl -i -H "Authorization: Bearer $TOKEN" $URL/orders
//! ```
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "an example lives in real time, and prints")]

mod issuer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRef, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use issuer::Issuer;
use rescind::service::{Claims, Guard, Live, RegisteredClaims, RevocationLayer};
use rescind::{Credential, Options, Reason, Revocation, Store, Subject, Verdict};
use serde::{Deserialize, Serialize};

/// What the tokens of this service hold.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct OurClaims {
    #[serde(flatten)]
    registered: RegisteredClaims,
    tenant: String,
}

impl Claims for OurClaims {
    fn credential(&self) -> Credential<'_> {
        self.registered.credential().tenant(&*self.tenant)
    }
}

/// Where people log in. It would be a service of its own.
struct Login {
    issuer: Issuer,
    issued: AtomicU64,
}

#[derive(Clone, FromRef)]
struct App {
    store: Store,
    guard: Guard,
    login: Arc<Login>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A real service opens a directory. This one lasts as long as the process.
    let store = Options::new().max_credential_age(std::time::Duration::from_secs(3600)).open_in_memory()?;
    let guard = Guard::new(&store).realm("orders");
    let issuing = Login { issuer: Issuer::new()?, issued: AtomicU64::new(0) };
    let app = App { store, guard: guard.clone(), login: Arc::new(issuing) };

    let router = Router::new()
        .route("/orders", get(async || "three orders\n"))
        .route("/live", get(live))
        // The layer that is added last runs first: tokens are verified, and then it is asked whether they are revoked.
        .layer(RevocationLayer::<OurClaims>::new(guard))
        // Here the handler's own argument asks.
        .route("/me", get(async |Live(claims): Live<OurClaims>| claims.registered.sub.unwrap_or_default()))
        .layer(from_fn_with_state(app.clone(), verify))
        .route("/login", get(login))
        .route("/admin/revoke", post(revoke))
        .route("/admin/close", post(close))
        .with_state(app);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}

/// Verifies the token, and leaves its claims in the extensions. Who brings none is refused by the guard.
async fn verify(State(login): State<Arc<Login>>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) {
        let Ok(verified) = login.issuer.verify::<OurClaims>(token) else {
            // Every 401 says how to authenticate (RFC 6750 section 3).
            let challenge = r#"Bearer realm="orders", error="invalid_token""#;
            return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response();
        };
        request.extensions_mut().insert(verified.claims);
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Person {
    user: String,
    /// How long ago the person authenticated, in seconds.
    #[serde(default)]
    ago: u64,
}

async fn login(State(login): State<Arc<Login>>, Query(person): Query<Person>) -> Result<String, StatusCode> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?.as_secs();
    let number = login.issued.fetch_add(1, Ordering::Relaxed);
    let mut registered = RegisteredClaims::default();
    registered.jti = Some(format!("token-{number}"));
    registered.sid = Some(format!("session-{}", person.user));
    registered.sub = Some(person.user);
    registered.iat = Some(now as f64);
    registered.auth_time = Some(now.saturating_sub(person.ago) as f64);
    registered.exp = Some((now + 900) as f64);
    let claims = OurClaims { registered, tenant: "acme".to_owned() };
    login.issuer.sign(&claims).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

#[derive(Deserialize)]
struct What {
    user: Option<String>,
    token: Option<String>,
}

/// A real service asks here who does that.
async fn revoke(State(store): State<Store>, Query(what): Query<What>) -> Result<&'static str, StatusCode> {
    let user = what.user.map(|user| Subject::user(user).in_tenant("acme"));
    let subject = user.or(what.token.map(Subject::token)).ok_or(StatusCode::BAD_REQUEST)?;
    let pending = store.submit(Revocation::of(subject).because(Reason::Administrative).by("admin"));
    // It denies by now; this waits until it is on disk.
    pending.map_err(|_| StatusCode::BAD_REQUEST)?.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok("revoked\n")
}

/// To see what happens where the store cannot answer.
async fn close(State(store): State<Store>) -> StatusCode {
    if store.close().is_ok() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
}

/// A connection that outlives its request: it is watched, and closed once it is revoked.
async fn live(Live(claims): Live<OurClaims>, State(store): State<Store>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |socket| converse(socket, store, claims).await)
}

async fn converse(mut socket: WebSocket, store: Store, claims: OurClaims) {
    // The token is left out: when it is rotated, the connection goes on.
    let mut lasting = claims.clone();
    lasting.registered.jti = None;
    lasting.registered.exp = None;
    let Ok(mut revoked) = store.watch(&lasting.credential()) else { return };
    loop {
        tokio::select! {
            verdict = &mut revoked => {
                let (code, reason) = match verdict {
                    // Policy: what was agreed on does not hold any more (RFC 6455 section 7.4.1).
                    Verdict::Revoked(_) => (1008, "revoked"),
                    // Try again later, of IANA's registry of close codes: as with 503, nobody is logged out by it.
                    _ => (1013, "try again"),
                };
                let frame = CloseFrame { code, reason: reason.into() };
                socket.send(Message::Close(Some(frame))).await.ok();
                return;
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    if socket.send(Message::Text(text)).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}
