//! What the layer costs a service under load: requests per second of an axum service without it, with it, and with one that asks
//! Redis `EXISTS` for every request, in turns, as ratios.
//!
//! `cargo bench --features examples,redis --bench service`; needs `redis-server` on the `PATH` for the last. With `-- --test` each runs
//! for a moment, and the figures mean nothing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark"
)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, map_request};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use redis::aio::MultiplexedConnection;
use rescind::service::{Guard, RegisteredClaims, RevocationLayer};
use rescind::{Options, Revocation, Store, Subject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How many tokens are revoked, here and in Redis.
const REVOKED: usize = 1_000_000;
/// How many other tokens make requests, one after the other.
const PRESENTED: usize = 100_000;
/// How many connections are kept alive.
const CONNECTIONS: usize = 32;

struct Scale {
    revoked: usize,
    rounds: usize,
    round: Duration,
}

#[tokio::main]
async fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let scale = if is_test {
        Scale { revoked: 1_000, rounds: 1, round: Duration::from_millis(100) }
    } else {
        Scale { revoked: REVOKED, rounds: 9, round: Duration::from_secs(2) }
    };
    let store = Options::new().open_in_memory().unwrap();
    let names = (0..scale.revoked).map(|number| format!("revoked-{number}"));
    store.revoke_many(names.clone().map(|name| Revocation::of(Subject::token(name)))).unwrap();

    let mut services = vec![
        ("plain", serve(router()).await),
        ("idle_layer", serve(idle()).await),
        ("rescind", serve(guarded(&store)).await),
    ];
    let redis = Redis::start().await;
    if let Some(redis) = &redis {
        redis.fill(names).await;
        services.push(("redis", serve(asking(redis.connection.clone())).await));
    } else {
        println!("skipped: redis-server not found");
    }

    let mut rates = vec![Vec::new(); services.len()];
    for round in 0..scale.rounds {
        // Each goes first as often as the others.
        for turn in 0..services.len() {
            let index = (turn + round) % services.len();
            rates[index].push(load(services[index].1, scale.round).await);
        }
    }
    let median = |rates: &[f64]| {
        let mut sorted = rates.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    for (index, (name, _)) in services.iter().enumerate() {
        let ratios: Vec<f64> = rates[index].iter().zip(&rates[0]).map(|(rate, plain)| rate / plain).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!(
            "service-overhead {name} ratio={:.3} [{least:.3}..{most:.3}] requests_per_second={:.0} rounds={} revoked={}",
            median(&ratios),
            median(&rates[index]),
            scale.rounds,
            scale.revoked
        );
    }
}

/// The service without any layer of ours: it is told who makes the request, as by whatever verifies tokens.
fn router() -> Router {
    Router::new().route("/", get(async || "hello")).layer(map_request(verified))
}

/// With a layer that does nothing: what axum takes for any.
fn idle() -> Router {
    Router::new().route("/", get(async || "hello")).layer(Idle).layer(map_request(verified))
}

#[derive(Clone)]
struct Idle;

#[derive(Clone)]
struct IdleService<S>(S);

impl<S> tower_layer::Layer<S> for Idle {
    type Service = IdleService<S>;

    fn layer(&self, inner: S) -> IdleService<S> {
        IdleService(inner)
    }
}

impl<S: tower_service::Service<Request>> tower_service::Service<Request> for IdleService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> S::Future {
        self.0.call(request)
    }
}

fn guarded(store: &Store) -> Router {
    let layer = RevocationLayer::<Arc<RegisteredClaims>>::new(Guard::new(store));
    Router::new().route("/", get(async || "hello")).layer(layer).layer(map_request(verified))
}

fn asking(connection: MultiplexedConnection) -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .layer(from_fn(ask_redis))
        .layer(Extension(connection))
        .layer(map_request(verified))
}

async fn verified(mut request: Request) -> Request {
    static CLAIMS: std::sync::OnceLock<Vec<Arc<RegisteredClaims>>> = std::sync::OnceLock::new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let claims = CLAIMS.get_or_init(|| {
        let one = |number| {
            let mut claims = RegisteredClaims::default();
            claims.jti = Some(format!("live-{number}"));
            claims.sub = Some(format!("user-{}", number % 1_000));
            claims.iat = Some(1_700_000_000.0);
            Arc::new(claims)
        };
        (0..PRESENTED).map(one).collect()
    });
    request.extensions_mut().insert(Arc::clone(&claims[NEXT.fetch_add(1, Ordering::Relaxed) % PRESENTED]));
    request
}

async fn ask_redis(request: Request, next: Next) -> Result<Response, StatusCode> {
    let claims = request.extensions().get::<Arc<RegisteredClaims>>().ok_or(StatusCode::UNAUTHORIZED)?;
    let mut connection = request.extensions().get::<MultiplexedConnection>().unwrap().clone();
    let exists = redis::cmd("EXISTS").arg(claims.jti.as_deref()).query_async::<bool>(&mut connection).await;
    match exists {
        Ok(false) => Ok(next.run(request).await),
        Ok(true) => Err(StatusCode::UNAUTHORIZED),
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Requests per second: each connection asks, waits for the answer, and asks again.
async fn load(address: SocketAddr, time: Duration) -> f64 {
    let start = Instant::now();
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(converse(address, start + time))).collect();
    let mut requests = 0;
    for connection in connections {
        requests += connection.await.unwrap();
    }
    f64::from(requests) / start.elapsed().as_secs_f64()
}

async fn converse(address: SocketAddr, until: Instant) -> u32 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut requests, mut answer) = (0, [0; 1024]);
    while Instant::now() < until {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        // The whole answer comes in one piece: it is short.
        let length = stream.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200") && answer[..length].ends_with(b"hello"));
        requests += 1;
    }
    requests
}

struct Redis {
    child: Child,
    connection: MultiplexedConnection,
}

impl Redis {
    async fn start() -> Option<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port().to_string();
        let child = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
        for _ in 0..100 {
            if let Ok(connection) = client.get_multiplexed_async_connection().await {
                return Some(Self { child, connection });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("redis-server does not answer");
    }

    async fn fill(&self, names: impl Iterator<Item = String>) {
        let names: Vec<String> = names.collect();
        for names in names.chunks(10_000) {
            let mut pipe = redis::pipe();
            names.iter().for_each(|name| _ = pipe.set(name, 1).ignore());
            pipe.query_async::<()>(&mut self.connection.clone()).await.unwrap();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
