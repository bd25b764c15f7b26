//! The stacks that speak HTTP, asked by reqwest.

use reqwest::{Client, Response};

use super::process::Service;

const INVALID: &str =
    r#"Bearer realm="orders", error="invalid_token", error_description="the token was revoked: log in again""#;
const TOO_OLD: &str = r#"Bearer realm="orders", error="insufficient_user_authentication", error_description="authenticated too long ago: log in again", max_age="3600""#;

async fn get(client: &Client, url: &str, token: Option<&str>) -> Response {
    let request = client.get(url);
    token.map_or(request.try_clone().unwrap(), |token| request.bearer_auth(token)).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

async fn drive(stack: &str, example: &str, path: &str) {
    let service = Service::start(example);
    let (client, url) = (Client::new(), format!("{}{path}", service.url));
    let login = async |query: &str| {
        let response = client.get(format!("{}/login?{query}", service.url)).send().await.unwrap();
        response.error_for_status().unwrap().text().await.unwrap()
    };
    let post = async |path: &str| {
        client.post(format!("{}{path}", service.url)).send().await.unwrap().error_for_status().unwrap();
    };
    let (alice, bob, carol) = (login("user=alice").await, login("user=bob&ago=4000").await, login("user=carol").await);

    let clear = get(&client, &url, Some(&alice)).await;
    assert_eq!(clear.status(), 200);
    assert_eq!((header(&clear, "www-authenticate"), header(&clear, "cache-control")), (None, None));

    let nobody = get(&client, &url, None).await;
    assert_eq!(
        (nobody.status().as_u16(), header(&nobody, "www-authenticate")),
        (401, Some(r#"Bearer realm="orders""#))
    );
    let forged = get(&client, &url, Some("forged")).await;
    assert_eq!(
        (forged.status().as_u16(), header(&forged, "www-authenticate")),
        (401, Some(r#"Bearer realm="orders", error="invalid_token""#))
    );

    let old = get(&client, &url, Some(&bob)).await;
    assert_eq!((old.status().as_u16(), header(&old, "www-authenticate")), (401, Some(TOO_OLD)));

    post("/admin/revoke?user=alice").await;
    let revoked = get(&client, &url, Some(&alice)).await;
    assert_eq!((revoked.status().as_u16(), header(&revoked, "www-authenticate")), (401, Some(INVALID)));
    assert_eq!(header(&revoked, "content-type"), Some("application/json"));
    assert_eq!((header(&revoked, "cache-control"), header(&revoked, "retry-after")), (Some("no-store"), None));
    let revoked_status = revoked.status().as_u16();
    let body: serde_json::Value = revoked.json().await.unwrap();
    assert_eq!(body["error"], "invalid_token");
    assert_eq!(get(&client, &url, Some(&carol)).await.status(), 200, "nobody else");

    post("/admin/close").await;
    let unknown = get(&client, &url, Some(&carol)).await;
    assert_eq!((unknown.status().as_u16(), header(&unknown, "retry-after")), (503, Some("1")));
    assert_eq!((header(&unknown, "www-authenticate"), header(&unknown, "set-cookie")), (None, None));
    assert_eq!(get(&client, &url, Some(&alice)).await.status(), 401, "what is known binds");
    println!(
        "service {stack} clear={} revoked={revoked_status} unknown={}",
        clear.status().as_u16(),
        unknown.status().as_u16()
    );
}

#[tokio::test]
async fn the_tower_layer() {
    drive("tower", "axum_service", "/orders").await;
}

#[tokio::test]
async fn the_axum_extractor() {
    drive("axum", "axum_service", "/me").await;
}

#[tokio::test]
async fn the_actix_middleware() {
    drive("actix", "actix_service", "/orders").await;
}
