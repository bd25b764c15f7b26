//! Redis: the server is killed, emptied, paused, trimmed, and replaced by a replica that lacks what it had acknowledged.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ::redis::{Connection, Value};
use rescind::wire::redis::Redis;
use rescind::wire::{Engine, Wire, WireStats};
use rescind::{ClusterId, Credential, Key, NodeId, Options, Replica, Replication, Revocation, Store, Subject, Verdict};

use super::Case;
use super::support::{
    Cluster, Lack, Measured, Outcome, STALE_AFTER, Server, free_port, is_fresh, is_full, node_id, percentile, program,
    propagation, wait_until,
};

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "redis kill-9", run: || with_server(kill_9) },
        Case { name: "redis restart-empty", run: || with_server(restart_empty) },
        Case { name: "redis flushed", run: || with_server(flushed) },
        Case { name: "redis trimmed", run: || with_server(trimmed) },
        Case { name: "redis paused", run: || with_server(paused) },
        Case { name: "redis failover", run: || with_server(failover) },
        Case { name: "redis tls", run: || with_server(tls) },
        Case { name: "redis refill", run: || with_server(refill) },
        Case { name: "redis+gossip either-fails", run: || with_server(either_fails) },
        Case { name: "redis propagation", run: || with_server(told_propagation) },
    ]
}

fn with_server(run: impl Fn(&Path) -> Outcome) -> Outcome {
    match program("redis-server") {
        Some(program) => run(&program),
        None => Outcome::Skipped(Lack::Server("redis-server")),
    }
}

/// How many revocations are tried in each part of a case.
fn some() -> usize {
    if is_full() { 5_000 } else { 500 }
}

const SOON: Duration = Duration::from_secs(30);

/// A server that may be killed and started again, on the same port and disk.
struct RedisServer {
    program: PathBuf,
    port: u16,
    arguments: Vec<String>,
    directory: tempfile::TempDir,
    process: Option<Server>,
}

impl RedisServer {
    fn start(program: &Path, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self { program: program.to_owned(), port: free_port(), arguments, directory, process: None };
        server.restart();
        server
    }

    fn restart(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new(&self.program);
        command.args(["--bind", "127.0.0.1", "--save", "", "--dir"]).arg(self.directory.path());
        if !self.arguments.iter().any(|argument| argument == "--tls-port") {
            command.args(["--port", &port]);
        }
        command.args(self.arguments.iter().map(|argument| argument.replace("PORT", &port)));
        self.process = Some(Server::spawn(&mut command, self.port));
    }

    fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    fn signal(&self, signal: &str) {
        self.process.as_ref().unwrap().signal(signal);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn client(&self) -> Connection {
        client(self.port)
    }

    fn ask<T: ::redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut question = ::redis::cmd(command[0]);
        question.arg(&command[1..]);
        question.query(&mut self.client()).unwrap()
    }

    fn news(&self) -> usize {
        self.ask(&["XLEN", &key("news")])
    }
}

fn client(port: u16) -> Connection {
    ::redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap().get_connection().unwrap()
}

/// The cluster's name is that of the harness.
fn key(of: &str) -> String {
    format!("rescind:{{{}}}:{of}", ClusterId::named("wires"))
}

fn connect(url: &str) -> impl Fn(&Replica) -> Wire {
    move |replica| Redis::new(url).start(replica).unwrap()
}

fn stats(cluster: &Cluster) -> Vec<WireStats> {
    cluster.nodes.iter().map(|node| node.wire.as_ref().unwrap().stats()).collect()
}

/// Waits until all stores hold so many subjects.
fn wait_until_held(cluster: &Cluster, count: usize) {
    wait_until("all hold it", SOON, || cluster.nodes.iter().all(|node| node.store.len() >= count));
}

/// Until all know that they are cut off, and again that they are not.
fn wait_until_connected(cluster: &Cluster, connected: bool, at_most: Duration) {
    let what = format!("connected: {connected}");
    wait_until(&what, at_most, || stats(cluster).iter().all(|stats| stats.connected == connected));
}

/// A port that leads to another, as long as it does.
struct Relay {
    port: u16,
    to: Arc<Mutex<(Option<u16>, Vec<TcpStream>)>>,
}

impl Relay {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay =
            Self { port: listener.local_addr().unwrap().port(), to: Arc::new(Mutex::new((Some(port), vec![]))) };
        let state = Arc::clone(&relay.to);
        // Ends with the process.
        thread::spawn(move || {
            for near in listener.incoming() {
                let mut state = state.lock().unwrap();
                let far = state.0.and_then(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
                let (Ok(near), Some(far)) = (near, far) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    to.set_nodelay(true).unwrap();
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        io::copy(&mut from, &mut to).ok();
                        to.shutdown(Shutdown::Both).ok();
                        from.shutdown(Shutdown::Both).ok();
                    });
                }
                state.1.extend([near, far]);
            }
        });
        relay
    }

    fn cut(&self) {
        let mut state = self.to.lock().unwrap();
        state.0 = None;
        state.1.drain(..).for_each(|stream| {
            stream.shutdown(Shutdown::Both).ok();
        });
    }

    fn lead_to(&self, port: u16) {
        self.to.lock().unwrap().0 = Some(port);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// Two engines serve the same replicas; first the one is gone, then the other.
fn either_fails(program: &Path) -> Outcome {
    let mut server = RedisServer::start(program, &["--appendonly", "yes"]);
    let mut cluster = Cluster::start(3, super::gossip::connector());
    let by_redis: Vec<Wire> = cluster.nodes.iter().map(|node| connect(&server.url())(&node.replica)).collect();
    let all_connected = || by_redis.iter().all(|wire| wire.stats().connected && wire.stats().peers == 2);
    let all_fresh = |cluster: &Cluster| cluster.nodes.iter().all(|node| is_fresh(&node.replica));
    wait_until("all are connected", SOON, all_connected);
    (0..3).for_each(|node| cluster.revoke(node, some()));
    server.kill();
    (0..3).for_each(|node| cluster.revoke(node, some()));
    thread::sleep(2 * STALE_AFTER);
    assert!(all_fresh(&cluster), "without Redis");
    server.restart();
    wait_until("all are connected", SOON, all_connected);
    cluster.nodes.iter_mut().for_each(|node| node.wire.take().unwrap().close());
    (0..3).for_each(|node| cluster.revoke(node, some()));
    thread::sleep(2 * STALE_AFTER);
    assert!(all_fresh(&cluster), "without gossip");
    cluster.converge(SOON)
}

/// Killed while all nodes revoke, and started again with what it has on disk.
fn kill_9(program: &Path) -> Outcome {
    let mut server = RedisServer::start(program, &["--appendonly", "yes"]);
    let cluster = Cluster::start(3, connect(&server.url()));
    thread::scope(|scope| {
        scope.spawn(|| (0..2 * some()).for_each(|number| cluster.revoke(number % 3, 1)));
        wait_until("it has begun", SOON, || cluster.nodes[0].store.len() > 50);
        server.kill();
    });
    wait_until_connected(&cluster, false, Duration::from_secs(3));
    (0..3).for_each(|node| cluster.revoke(node, some()));
    server.restart();
    wait_until_connected(&cluster, true, SOON);
    assert!(stats(&cluster).iter().all(|stats| stats.resets > 0 && stats.connects >= 4), "{:?}", stats(&cluster));
    cluster.converge(SOON)
}

/// The server comes back without anything. What was published lately is there again.
fn restart_empty(program: &Path) -> Outcome {
    let mut server = RedisServer::start(program, &["--appendonly", "no"]);
    let cluster = Cluster::start(3, connect(&server.url()));
    (0..3).for_each(|node| cluster.revoke(node, some()));
    wait_until_held(&cluster, 3 * some());
    let before = server.news();
    assert!(before > 0);
    server.kill();
    wait_until_connected(&cluster, false, Duration::from_secs(3));
    (0..3).for_each(|node| cluster.revoke(node, some()));
    server.restart();
    wait_until_connected(&cluster, true, SOON);
    assert!(stats(&cluster).iter().all(|stats| stats.resets > 0), "{:?}", stats(&cluster));
    wait_until("what was lost is published again", SOON, || server.news() > before);
    cluster.converge(SOON)
}

/// Emptied while everybody is connected: a reader then waits in silence.
fn flushed(program: &Path) -> Outcome {
    let server = RedisServer::start(program, &["--appendonly", "no"]);
    let cluster = Cluster::start(3, connect(&server.url()));
    (0..3).for_each(|node| cluster.revoke(node, some()));
    wait_until_held(&cluster, 3 * some());
    let (before, connects) = (server.news(), stats(&cluster).iter().map(|stats| stats.connects).sum::<u64>());
    server.ask::<()>(&["FLUSHALL"]);
    (0..3).for_each(|node| cluster.revoke(node, some()));
    wait_until("all have seen it", SOON, || stats(&cluster).iter().all(|stats| stats.resets > 0));
    wait_until("what was lost is published again", SOON, || server.news() > before);
    assert_eq!(stats(&cluster).iter().map(|stats| stats.connects).sum::<u64>(), connects, "nobody was cut off");
    cluster.converge(SOON)
}

/// What one node has not read is trimmed while it is cut off.
fn trimmed(program: &Path) -> Outcome {
    let server = RedisServer::start(program, &["--appendonly", "no"]);
    let relay = Relay::to(server.port);
    let cluster = Cluster::start(3, |replica| {
        let is_last = replica.node() == node_id(2);
        connect(&if is_last { relay.url() } else { server.url() })(replica)
    });
    (0..3).for_each(|node| cluster.revoke(node, some()));
    wait_until_held(&cluster, 3 * some());
    relay.cut();
    wait_until("it is cut off", SOON, || !stats(&cluster)[2].connected);
    (0..3).for_each(|node| cluster.revoke(node, some()));
    let both = &cluster.nodes[..2];
    wait_until("the others hold theirs", SOON, || both.iter().all(|node| node.store.len() >= 5 * some()));
    let gone: usize = server.ask(&["XTRIM", &key("news"), "MAXLEN", "3"]);
    assert!(gone > 0);
    relay.lead_to(server.port);
    wait_until("it has found the gap", SOON, || stats(&cluster)[2].gaps > 0);
    let gaps: Vec<u64> = stats(&cluster).iter().map(|stats| stats.gaps).collect();
    assert_eq!(gaps, [0, 0, 1]);
    cluster.converge(SOON)
}

/// Stopped for five seconds, with its connections open.
fn paused(program: &Path) -> Outcome {
    let server = RedisServer::start(program, &["--appendonly", "no"]);
    let cluster = Cluster::start(3, connect(&server.url()));
    (0..3).for_each(|node| cluster.revoke(node, some()));
    server.signal("-STOP");
    let begun = Instant::now();
    wait_until_connected(&cluster, false, Duration::from_secs(3));
    (0..3).for_each(|node| cluster.revoke(node, some()));
    thread::sleep(Duration::from_secs(5).saturating_sub(begun.elapsed()));
    let doubted = cluster
        .nodes
        .iter()
        .all(|node| matches!(node.store.check(&Credential::new().token("never revoked")), Verdict::Unknown(_)));
    assert!(doubted, "who hears nothing says so");
    server.signal("-CONT");
    wait_until_connected(&cluster, true, SOON);
    cluster.converge(SOON)
}

/// The primary is killed, and what takes over lacks its last writes.
fn failover(program: &Path) -> Outcome {
    let mut primary = RedisServer::start(program, &["--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
    let link = Relay::to(primary.port);
    let to_primary = ["--appendonly", "no", "--replicaof", "127.0.0.1", &link.port.to_string()];
    let replica = RedisServer::start(program, &to_primary);
    wait_until("the replica is linked", SOON, || {
        replica.ask::<String>(&["INFO", "replication"]).contains("master_link_status:up")
    });
    let (front, late) = (Relay::to(primary.port), Relay::to(primary.port));
    let cluster = Cluster::start(3, |replica| {
        let is_last = replica.node() == node_id(2);
        connect(&if is_last { late.url() } else { front.url() })(replica)
    });
    (0..3).for_each(|node| cluster.revoke(node, some()));
    wait_until_held(&cluster, 3 * some());
    wait_until("the replica has it", SOON, || replica.news() == primary.news());
    // From here on nothing is replicated, and one node reads nothing either.
    link.cut();
    late.cut();
    wait_until("it is cut off", SOON, || !stats(&cluster)[2].connected);
    (0..2).for_each(|node| cluster.revoke(node, some()));
    wait_until("the others hold it", SOON, || cluster.nodes[1].store.len() >= 5 * some());
    let (acknowledged, replicated) = (primary.news(), replica.news());
    assert!(acknowledged > replicated, "{acknowledged} {replicated}");
    primary.kill();
    replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    for relay in [&front, &late] {
        relay.cut();
        relay.lead_to(replica.port);
    }
    wait_until_connected(&cluster, true, SOON);
    assert!(stats(&cluster).iter().all(|stats| stats.resets > 0), "{:?}", stats(&cluster));
    wait_until("what was lost is published again", SOON, || replica.news() >= acknowledged);
    cluster.converge(SOON)
}

/// An authority, and what it signs.
struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// A certificate and its key.
    fn signs(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// TLS with certificates on both sides, and a user that may do only what the manual says. The wrong ones are told why.
fn tls(program: &Path) -> Outcome {
    const PASSWORD: &str = "p@ss:/word";
    let (own, foreign) = (Authority::new("own"), Authority::new("foreign"));
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (certificate, private) = own.signs("localhost");
    let (certificate, private) = (write("certificate", &certificate), write("key", &private));
    let authority = write("authority", &own.issuer.pem());
    let rule = "-@all +ping +time +info +xadd +xread +xtrim +xinfo|stream +pexpire +zadd +zrem +zrangebyscore +zremrangebyscore";
    let users = format!("user default off\nuser rescind on >{PASSWORD} ~{}* {rule}\n", key(""));
    let users = write("users", &users);
    let tls = ["--port", "0", "--tls-port", "PORT", "--tls-cert-file", &certificate, "--tls-key-file", &private];
    let more = ["--tls-ca-cert-file", &authority, "--tls-auth-clients", "yes", "--aclfile", &users];
    let server = RedisServer::start(program, &[&tls[..], &more].concat());

    let url = |password: &str| format!("rediss://rescind:{password}@localhost:{}", server.port);
    let encoded = "p%40ss%3A%2Fword";
    let engine = |password: &str, authority: &Authority, shown: Option<&Authority>| {
        let redis = Redis::new(url(password)).root_certificates(authority.issuer.pem());
        match shown {
            None => redis,
            Some(shown) => {
                let (certificate, private) = shown.signs("replica");
                redis.client_certificate(certificate, private)
            }
        }
    };
    for (what, redis, said) in [
        ("a foreign server", engine(encoded, &foreign, Some(&own)), "invalid peer certificate"),
        ("a wrong password", engine("secret-and-wrong", &own, Some(&own)), "WRONGPASS"),
        ("no certificate", engine(encoded, &own, None), "alert"),
        ("a foreign certificate", engine(encoded, &own, Some(&foreign)), "alert"),
    ] {
        let replication = Replication::trusting_issuers("wires", node_id(9), [node_id(9)]);
        let replica = Store::in_memory_replica(replication);
        let wire = redis.start(&replica).unwrap();
        wait_until(what, SOON, || wire.stats().refused > 1);
        let stats = wire.stats();
        let error = stats.last_error.unwrap();
        assert!(error.contains(said), "{what}: {error}");
        assert!(!error.contains("secret") && !error.contains("p@ss"), "{error}");
        assert!(!stats.connected && stats.connects == 0, "{what}");
    }

    let cluster = Cluster::start(3, |replica| engine(encoded, &own, Some(&own)).start(replica).unwrap());
    (0..3).for_each(|node| cluster.revoke(node, some()));
    wait_until_held(&cluster, 3 * some());
    assert!(stats(&cluster).iter().all(|stats| stats.connected && stats.last_error.is_none()), "{:?}", stats(&cluster));
    cluster.converge(SOON)
}

trait InMemory {
    fn in_memory_replica(replication: Replication) -> Replica;
}

impl InMemory for Store {
    fn in_memory_replica(replication: Replication) -> Replica {
        let store = Options::new().key(Key::from_bytes([7; 32])).open_in_memory().unwrap();
        store.replicate(replication).unwrap()
    }
}

/// Whoever is new gets what others have issued who are gone.
fn refill(program: &Path) -> Outcome {
    let server = RedisServer::start(program, &["--appendonly", "no"]);
    let ids = [node_id(0), node_id(1)];
    let start = |node: NodeId| {
        let replica = Store::in_memory_replica(Replication::trusting_issuers("wires", node, ids));
        let wire = Redis::new(server.url()).start(&replica).unwrap();
        (replica, wire)
    };
    let tokens: Vec<String> = (0..10 * some()).map(|number| format!("token-{number}")).collect();
    let (issuer, wire) = start(ids[0]);
    let revocations = tokens.iter().map(|token| Revocation::of(Subject::token(&**token)));
    issuer.store().revoke_many(revocations).unwrap();
    wait_until("it is published", SOON, || wire.stats().connected && server.news() > 0);
    let present = || server.ask::<BTreeMap<String, f64>>(&["ZRANGE", &key("nodes"), "0", "-1", "WITHSCORES"]);
    assert!(present().contains_key(&ids[0].to_string()));
    let begun = Instant::now();
    wire.close();
    assert!(begun.elapsed() < Duration::from_secs(1), "it stops soon");
    drop(issuer);
    assert!(present().is_empty(), "it has left");

    let begun = Instant::now();
    let (heir, wire) = start(ids[1]);
    let is_denied =
        |token: &String| matches!(heir.store().check(&Credential::new().token(&**token)), Verdict::Revoked(_));
    let is_lost = |token: &&String| !is_denied(token);
    while tokens.iter().any(|token| !is_denied(token)) && begun.elapsed() < SOON {
        thread::sleep(Duration::from_millis(5));
    }
    let converged = begun.elapsed();
    let stale_clear = heir.store().check(&Credential::new().token("another")) == Verdict::Clear;
    assert_eq!((wire.stats().rejected, wire.stats().gaps), (0, 0), "{:?}", wire.stats());
    wait_until("who is gone is no peer", SOON, || wire.stats().peers == 0);
    server.signal("-STOP");
    let begun = Instant::now();
    wire.close();
    assert!(begun.elapsed() < Duration::from_secs(1), "it stops soon though the server does not answer");
    Outcome::Held(Measured {
        tried: tokens.len(),
        lost: tokens.iter().filter(is_lost).count(),
        stale_clear: u64::from(stale_clear),
        converged,
    })
}

/// How long messages of plain publish/subscribe take, one after another; sorted.
pub fn pubsub_baseline(port: u16, count: usize) -> Vec<Duration> {
    let origin = Instant::now();
    let mut subscriber = client(port);
    let mut subscription = subscriber.as_pubsub();
    subscription.subscribe("baseline").unwrap();
    let mut took: Vec<Duration> = thread::scope(|scope| {
        scope.spawn(move || {
            let mut publisher = client(port);
            for _ in 0..count {
                let sent = u64::try_from(origin.elapsed().as_nanos()).unwrap();
                ::redis::cmd("PUBLISH").arg("baseline").arg(sent).exec(&mut publisher).unwrap();
                thread::sleep(Duration::from_micros(300));
            }
        });
        let receive = |_| {
            let sent: u64 = subscription.get_message().unwrap().get_payload().unwrap();
            origin.elapsed() - Duration::from_nanos(sent)
        };
        (0..count).map(receive).collect()
    });
    took.sort();
    took
}

/// How long it takes to ask the server at each request, as whoever has no copy of their own does; sorted.
pub fn per_request_baseline(port: u16, count: usize) -> Vec<Duration> {
    let mut connection = client(port);
    let mut ask = |number: usize| {
        let begun = Instant::now();
        let answer = ::redis::cmd("EXISTS").arg(format!("revoked:{number}")).query::<Value>(&mut connection).unwrap();
        assert_eq!(answer, Value::Int(0));
        begun.elapsed()
    };
    let mut took: Vec<Duration> = (0..count).map(&mut ask).collect();
    took.sort();
    took
}

fn told_propagation(program: &Path) -> Outcome {
    const COUNT: usize = 10_000;
    let server = RedisServer::start(program, &["--appendonly", "no"]);
    let cluster = Cluster::start(2, connect(&server.url()));
    let propagated = propagation(&cluster, COUNT);
    drop(cluster);
    let figures = [
        ("", propagated),
        ("pubsub_", pubsub_baseline(server.port, COUNT)),
        ("per_request_", per_request_baseline(server.port, COUNT)),
    ];
    let told = figures.iter().flat_map(|(name, took)| {
        [("p50", 500), ("p99", 990), ("p999", 999)]
            .map(|(label, at)| format!(" {name}{label}_us={}", percentile(took, at).as_micros()))
    });
    println!("wire redis propagation tried={COUNT}{}", told.collect::<String>());
    Outcome::Told
}
