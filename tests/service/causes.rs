//! Requests whose credential is at fault itself: 401 or UNAUTHENTICATED, with the claim named; and nothing asks for a retry, which
//! would not help.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{FromRef, Request};
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use rescind::service::{Claims, Guard, Live, Refusal, RegisteredClaims, RevocationInterceptor, RevocationLayer};
use rescind::service::{Page, RevocationMiddleware};
use rescind::{Cause, Claim, Credential, Options, Revocation, Store, Subject};
use tonic::service::{Interceptor, InterceptorLayer};
use tonic::transport::Channel;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Code, Status};

use super::grpc::{Echo, call, metadata};

/// What the tokens of this service hold.
#[derive(Clone, Default, serde::Deserialize)]
struct OurClaims {
    #[serde(flatten)]
    registered: RegisteredClaims,
    tenant: Option<String>,
}

impl Claims for OurClaims {
    fn credential(&self) -> Credential<'_> {
        let credential = self.registered.credential();
        match &self.tenant {
            Some(tenant) => credential.tenant(tenant.as_str()),
            None => credential,
        }
    }
}

/// Whoever calls says what it claims, in JSON: this is not about verifying.
fn claims(header: Option<&str>) -> Option<OurClaims> {
    header.and_then(|value| value.strip_prefix("Bearer ")).map(|text| serde_json::from_str(text).unwrap())
}

#[derive(Clone, FromRef)]
struct App {
    guard: Guard,
}

/// A store that requires a tenant; everyone in `beta` has to log in again, and in `gamma` to refresh; in `delta` age counts.
fn store() -> Store {
    let age = Duration::from_secs(900);
    let store = Options::new().require_claim(Claim::Tenant).tenant_max_credential_age("delta", age);
    let store = store.open_in_memory().unwrap();
    store.revoke(Revocation::of(Subject::tenant("beta"))).unwrap();
    store.revoke(Revocation::of(Subject::tenant("gamma")).reissue()).unwrap();
    store.revoke(Revocation::of(Subject::user("mallory").in_tenant("acme"))).unwrap();
    store
}

/// What a credential says that is at fault, and what its bearer is told.
const FAULTS: [(&str, &str); 6] = [
    (r#"{"sub":"alice"}"#, "the token lacks the required claim tenant"),
    (r#"{"sub":"","tenant":"acme"}"#, "the claim user of the token is malformed"),
    (r#"{"sub":"alice","iat":-1,"tenant":"acme"}"#, "the claim iat of the token is malformed"),
    (
        r#"{"sub":"alice","tenant":"beta"}"#,
        "the token lacks a valid auth_time, session_start or iat, which an epoch requires",
    ),
    (r#"{"sub":"alice","tenant":"gamma","auth_time":1}"#, "the token lacks a valid iat, which an epoch requires"),
    (r#"{"sub":"alice","tenant":"delta"}"#, "the token lacks a valid iat, which a maximum age requires"),
];

fn challenge(description: &str) -> String {
    format!(r#"Bearer realm="orders", error="invalid_token", error_description="{description}""#)
}

#[tokio::test]
async fn http_answers_a_faulty_credential_401_and_a_closed_store_503() {
    let store = store();
    let guard = Guard::new(&store).realm("orders");
    let verify = async |mut request: Request, next: Next| {
        let header = request.headers().get("authorization").map(|value| value.to_str().unwrap());
        if let Some(claims) = claims(header) {
            request.extensions_mut().insert(claims);
        }
        next.run(request).await
    };
    let router = axum::Router::new()
        .route("/layer", get(async || "served"))
        .layer(RevocationLayer::<OurClaims>::new(guard.clone()))
        .route("/extractor", get(async |_: Live<OurClaims>| "served"))
        .layer(from_fn(verify))
        .with_state(App { guard });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let client = reqwest::Client::new();
    let ask = async |path: &str, claims: &str| {
        client.get(format!("{url}{path}")).bearer_auth(claims).header("cookie", "session=1").send().await.unwrap()
    };
    let header = |response: &reqwest::Response, name: &str| {
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    let sound = r#"{"sub":"alice","tenant":"acme"}"#;
    for path in ["/layer", "/extractor"] {
        assert_eq!(ask(path, sound).await.status(), 200);
        for (claims, description) in FAULTS {
            let response = ask(path, claims).await;
            assert_eq!(response.status(), 401, "{path} {claims}");
            assert_eq!(header(&response, "www-authenticate"), Some(challenge(description)), "{path} {claims}");
            assert_eq!(header(&response, "retry-after"), None, "{path} {claims}: no retry helps");
            assert_eq!(header(&response, "set-cookie"), None, "{path} {claims}: the session has not ended");
            assert_eq!(header(&response, "clear-site-data"), None, "{path} {claims}");
            let body: serde_json::Value = response.json().await.unwrap();
            assert_eq!((&body["error"], &body["error_description"]), (&"invalid_token".into(), &description.into()));
        }
    }
    store.close().unwrap();
    for path in ["/layer", "/extractor"] {
        let closed = ask(path, sound).await;
        assert_eq!((closed.status().as_u16(), header(&closed, "retry-after")), (503, Some("1".to_owned())));
        assert_eq!(header(&closed, "www-authenticate"), None);
        let (claims, description) = FAULTS[0];
        let faulty = ask(path, claims).await;
        assert_eq!(faulty.status(), 401, "{path}: a retry would find the same fault");
        assert_eq!(header(&faulty, "www-authenticate"), Some(challenge(description)));
    }
    server.abort();
}

#[test]
fn actix_answers_a_faulty_credential_401_and_a_closed_store_503() {
    use actix_web::dev::Service as _;
    use actix_web::{App, HttpMessage, test, web};

    let store = store();
    let guard = Guard::new(&store).realm("orders");
    actix_web::rt::System::new().block_on(async {
        let app =
            App::new().wrap(RevocationMiddleware::<OurClaims>::new(guard)).route("/", web::get().to(async || "ok"));
        let service = test::init_service(app).await;
        let ask = async |said: &str| {
            let request = test::TestRequest::get().uri("/").to_request();
            request.extensions_mut().insert(serde_json::from_str::<OurClaims>(said).unwrap());
            service.call(request).await.unwrap()
        };
        let header = |response: &actix_web::dev::ServiceResponse<_>, name: &str| {
            let response: &actix_web::dev::ServiceResponse<actix_web::body::EitherBody<actix_web::body::BoxBody>> =
                response;
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let sound = r#"{"sub":"alice","tenant":"acme"}"#;
        assert_eq!(ask(sound).await.status().as_u16(), 200);
        for (claims, description) in FAULTS {
            let response = ask(claims).await;
            assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (401, None), "{claims}");
            assert_eq!(header(&response, "www-authenticate"), Some(challenge(description)), "{claims}");
            assert_eq!(header(&response, "set-cookie"), None, "{claims}");
        }
        store.close().unwrap();
        let closed = ask(sound).await;
        assert_eq!((closed.status().as_u16(), header(&closed, "retry-after")), (503, Some("1".to_owned())));
    });
}

fn agrees(status: &Status, code: Code, description: &str, challenge: Option<&str>, pushback: Option<&str>) {
    assert_eq!((status.code(), status.message()), (code, description));
    assert_eq!(metadata(status, "www-authenticate"), challenge, "{description}");
    assert_eq!(metadata(status, "grpc-retry-pushback-ms"), pushback, "{description}");
    assert_eq!(metadata(status, "retry-after").is_some(), pushback.is_some(), "{description}");
}

const UNKNOWN: &str = "it is not known whether the token was revoked: try again";

#[tokio::test]
async fn grpc_answers_a_faulty_credential_16_and_a_closed_store_14() {
    let store = store();
    let guard = Guard::new(&store).realm("orders");
    let verify = InterceptorLayer::new(|mut request: tonic::Request<()>| {
        let header = request.metadata().get("authorization").map(|value| value.to_str().unwrap());
        if let Some(claims) = claims(header) {
            request.extensions_mut().insert(claims);
        }
        Ok(request)
    });
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let url = format!("http://{}", incoming.local_addr().unwrap());
    let server = Server::builder()
        .layer(verify)
        .layer(RevocationLayer::<OurClaims>::new(guard))
        .add_service(Echo)
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let echo = async |claims: &str| call(&channel, "/test.Echo/Echo", "hello", Some(claims)).await;
    let sound = r#"{"sub":"alice","tenant":"acme"}"#;
    assert_eq!(echo(sound).await.unwrap(), "hello");
    for (claims, description) in FAULTS {
        let status = echo(claims).await.unwrap_err();
        agrees(&status, Code::Unauthenticated, description, Some(&challenge(description)), None);
    }
    store.close().unwrap();
    agrees(&echo(sound).await.unwrap_err(), Code::Unavailable, UNKNOWN, None, Some("1000"));
    server.abort();
}

#[test]
fn interceptor_answers_a_faulty_credential_16_and_a_closed_store_14() {
    let store = store();
    let mut interceptor = RevocationInterceptor::<OurClaims>::new(Guard::new(&store).realm("orders"));
    let mut ask = |said: &str| {
        let mut request = tonic::Request::new(());
        request.extensions_mut().insert(serde_json::from_str::<OurClaims>(said).unwrap());
        interceptor.call(request).map(drop)
    };
    let sound = r#"{"sub":"alice","tenant":"acme"}"#;
    ask(sound).unwrap();
    for (claims, description) in FAULTS {
        agrees(&ask(claims).unwrap_err(), Code::Unauthenticated, description, Some(&challenge(description)), None);
    }
    store.close().unwrap();
    agrees(&ask(sound).unwrap_err(), Code::Unavailable, UNKNOWN, None, Some("1000"));
}

#[test]
fn verdict_of_a_tenant_handle_is_decided_and_answered_as_any_other() {
    let store = store();
    let (guard, acme) = (Guard::new(&store), store.tenant("acme").unwrap());
    let alice = Credential::new().user("alice");
    assert_eq!(guard.decide(acme.check(&alice)), Ok(()), "the handle supplies the tenant");
    let mallory = guard.decide(acme.check(&Credential::new().user("mallory")));
    assert!(matches!(mallory, Err(Refusal::Revoked(_))), "{mallory:?}");
    let refusal = guard.decide(acme.check(&alice.clone().tenant("beta"))).unwrap_err();
    assert_eq!(refusal, Refusal::Invalid(Cause::ForeignTenant));
    let status = guard.status(&refusal);
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "the token is of another tenant"));
    assert_eq!(guard.answer(&refusal).status, 401);
    // A page of one's own is told apart what happened, so that it can keep the session.
    let page = |refusal: &Refusal| Page { content_type: "text/plain", body: refusal.to_string() };
    let answer = guard.page(page).answer(&refusal);
    assert_eq!((answer.status, &*answer.body), (401, "invalid: the credential names another tenant"));
    store.close().unwrap();
    let closed = Guard::new(&store).decide(acme.check(&alice));
    assert_eq!(closed, Err(Refusal::Unknown(Cause::Closed)));
}
