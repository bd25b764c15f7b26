//! A WebSocket in a real client is closed as soon as its credential is revoked.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use reqwest::Client;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::process::Service;

const CONNECTIONS: usize = 300;

async fn connect(service: &Service, token: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let mut request = format!("{}/live", service.url.replace("http", "ws")).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    connect_async(request).await.unwrap().0
}

/// Whether it is open: it gives back what it is given.
async fn is_open(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>) -> bool {
    socket.send(Message::text("hello")).await.unwrap();
    matches!(socket.next().await, Some(Ok(Message::Text(text))) if text == "hello")
}

#[tokio::test]
async fn it_is_closed_within_milliseconds_of_the_revocation_and_not_by_a_rotation() {
    let (service, client) = (Service::start("axum_service"), Client::new());
    let login = async |user: &str| {
        let response = client.get(format!("{}/login?user={user}", service.url)).send().await.unwrap();
        response.text().await.unwrap()
    };
    let revoke = async |what: String| {
        let response = client.post(format!("{}/admin/revoke?{what}", service.url)).send().await.unwrap();
        response.error_for_status().unwrap();
    };
    // The first token that this service issues is rotated: that kills the token, and not the connection.
    let (first, second) = (login("rotating").await, login("rotating").await);
    let mut rotating = connect(&service, &first).await;
    revoke("token=token-0".to_owned()).await;
    let orders =
        async |token: &str| client.get(format!("{}/orders", service.url)).bearer_auth(token).send().await.unwrap();
    assert_eq!((orders(&first).await.status().as_u16(), orders(&second).await.status().as_u16()), (401, 200));

    let mut sockets = Vec::new();
    for number in 0..CONNECTIONS {
        let token = login(&format!("user-{number}")).await;
        let mut socket = connect(&service, &token).await;
        assert!(is_open(&mut socket).await);
        sockets.push(socket);
    }
    let mut closed = Vec::new();
    for number in (0..CONNECTIONS).rev() {
        let mut socket = sockets.pop().unwrap();
        let revoked = Instant::now();
        let close = async {
            match socket.next().await.unwrap().unwrap() {
                Message::Close(frame) => (frame.unwrap(), revoked.elapsed()),
                other => panic!("{other}"),
            }
        };
        let ((frame, elapsed), ()) = tokio::join!(close, revoke(format!("user=user-{number}")));
        assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Policy, "revoked"));
        closed.push(elapsed);
    }
    assert!(is_open(&mut rotating).await, "all others were closed, and this one is not");
    // Where the store cannot say any more, the client is to come back: nobody is logged out.
    client.post(format!("{}/admin/close", service.url)).send().await.unwrap().error_for_status().unwrap();
    let Some(Ok(Message::Close(Some(frame)))) = rotating.next().await else { panic!("it stays open") };
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Again, "try again"));
    closed.sort_unstable();
    let at = |percent: usize| closed[closed.len() * percent / 100].as_micros();
    println!(
        "service websocket closed={CONNECTIONS} p50_us={} p99_us={} max_us={} (from the request to revoke to the close frame)",
        at(50),
        at(99),
        closed[closed.len() - 1].as_micros()
    );
    assert!(closed[closed.len() * 99 / 100] < Duration::from_millis(100));
}
