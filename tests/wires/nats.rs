//! NATS JetStream: a real `nats-server`, killed, emptied, stopped and cut off.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rescind::wire::nats::Nats;
use rescind::wire::{Engine, Wire, WireStats};
use rescind::{ClusterId, Credential, NodeId, Replica, Revocation, Subject, Verdict};

use super::Case;
use super::support::{
    Cluster, Lack, Outcome, STALE_AFTER, Server, free_port, is_fresh, is_full, node_id, percentile, program,
    propagation, wait_until,
};

const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(40);

pub fn cases() -> Vec<Case> {
    vec![
        Case { name: "nats propagation", run: || with_server(propagate) },
        Case { name: "nats kill-9", run: || with_server(kill_9) },
        Case { name: "nats restart-empty", run: || with_server(restart_empty) },
        Case { name: "nats rolled-back", run: || with_server(rolled_back) },
        Case { name: "nats recreated", run: || with_server(recreated) },
        Case { name: "nats trimmed", run: || with_server(trimmed) },
        Case { name: "nats paused", run: || with_server(paused) },
        Case { name: "nats late", run: || with_server(late) },
        Case { name: "nats closed", run: || with_server(closed) },
        Case { name: "nats refused", run: || with_server(refused) },
        Case { name: "nats tls", run: || with_server(tls) },
        Case { name: "nats permitted", run: || with_server(permitted) },
        Case { name: "nats small-payload", run: || with_server(small_payload) },
    ]
}

/// A server that can be started again where it was.
struct Broker {
    binary: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
}

impl Broker {
    fn new(binary: PathBuf) -> Self {
        Self { binary, directory: tempfile::tempdir().unwrap(), port: free_port(), arguments: Vec::new() }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn start(&self) -> Server {
        let mut command = Command::new(&self.binary);
        command.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]).arg(self.data());
        Server::spawn(command.args(&self.arguments), self.port)
    }

    fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    fn with_config(self, config: &str) -> Self {
        let path = self.directory.path().join("config");
        std::fs::write(&path, config).unwrap();
        self.with(&["-c", path.to_str().unwrap()])
    }

    fn nats(&self) -> Nats {
        Nats::new(url(self.port))
    }

    /// Does something as an operator would.
    fn administer<T>(&self, what: impl AsyncFnOnce(jetstream::Context) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(url(self.port)).await.unwrap();
            what(jetstream::new(client)).await
        })
    }

    fn stream_info(&self) -> jetstream::stream::Info {
        self.administer(async |context| {
            for _ in 0..200 {
                if let Ok(stream) = context.get_stream(stream_name()).await {
                    return stream.cached_info().clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("there is no stream");
        })
    }
}

fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

fn stream_name() -> String {
    format!("rescind-{}", ClusterId::named("wires"))
}

fn with_server(case: impl FnOnce(Broker) -> Outcome) -> Outcome {
    let Some(binary) = program("nats-server") else { return Outcome::Skipped(Lack::Server("nats-server")) };
    case(Broker::new(binary))
}

fn start(nats: &Nats, replica: &Replica) -> Wire {
    nats.clone().start(replica).unwrap()
}

fn is_denied(cluster: &Cluster, node: usize, token: &str) -> bool {
    matches!(cluster.nodes[node].store.check(&Credential::new().token(token)), Verdict::Revoked(_))
}

fn stats(cluster: &Cluster, node: usize) -> WireStats {
    cluster.nodes[node].wire.as_ref().unwrap().stats()
}

fn all_stats(cluster: &Cluster) -> impl Iterator<Item = WireStats> {
    (0..cluster.nodes.len()).map(|node| stats(cluster, node))
}

/// Revokes on all nodes in turn, for a while.
fn revoke_for(cluster: &Cluster, time: Duration) {
    let begun = Instant::now();
    for turn in 0.. {
        if begun.elapsed() >= time {
            break;
        }
        cluster.revoke(turn % cluster.nodes.len(), 1);
        thread::sleep(Duration::from_micros(500));
    }
}

/// Revokes so many on node 0, and waits until the stream holds them. What is revoked at once is one message: they are
/// revoked apart, and at least half of them are messages of their own.
fn publish(broker: &Broker, cluster: &Cluster, count: usize) {
    let before = broker.stream_info().state.last_sequence;
    for _ in 0..count {
        cluster.revoke(0, 1);
        thread::sleep(Duration::from_millis(1));
    }
    let half = before + count as u64 / 2;
    wait_until("the stream holds them", PATIENCE, || broker.stream_info().state.last_sequence >= half);
}

/// Kills the server while all revoke, and starts it again after all have noticed; some more is revoked meanwhile.
fn die_and_return(broker: &Broker, server: Server, cluster: &Cluster, meanwhile: impl FnOnce()) -> Server {
    revoke_for(cluster, Duration::from_millis(500));
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(150));
            server.kill();
        });
        revoke_for(cluster, Duration::from_millis(600));
    });
    meanwhile();
    wait_until("all are stale", 3 * STALE_AFTER, || cluster.nodes.iter().all(|node| !is_fresh(&node.replica)));
    assert!(all_stats(cluster).all(|stats| !stats.connected && stats.last_error.is_some()));
    revoke_for(cluster, Duration::from_millis(200));
    let server = broker.start();
    revoke_for(cluster, Duration::from_millis(200));
    server
}

fn kill_9(broker: Broker) -> Outcome {
    let server = broker.start();
    let nats = broker.nats();
    let cluster = Cluster::start(NODES, |replica| start(&nats, replica));
    let server = die_and_return(&broker, server, &cluster, || {});
    cluster.wait_until_fresh(PATIENCE);
    wait_until("all are connected", PATIENCE, || {
        all_stats(&cluster).all(|stats| stats.connected && stats.connects >= 2)
    });
    // Consumers of the connections before do not pile up.
    wait_until("each has a consumer", PATIENCE, || broker.stream_info().state.consumer_count == NODES);
    let outcome = cluster.converge(PATIENCE);
    drop(server);
    outcome
}

fn restart_empty(broker: Broker) -> Outcome {
    let server = broker.start();
    let nats = broker.nats();
    let cluster = Cluster::start(NODES, |replica| start(&nats, replica));
    let wipe = || std::fs::remove_dir_all(broker.data()).unwrap();
    // For longer than is revoked after the server is killed: so many messages there are not again but by being published again.
    revoke_for(&cluster, Duration::from_millis(1_500));
    let published = broker.stream_info().state.messages;
    let _server = die_and_return(&broker, server, &cluster, wipe);
    wait_until("all have noticed", PATIENCE, || all_stats(&cluster).all(|stats| stats.resets > 0));
    // What was published shortly before is there again.
    wait_until("it is published again", PATIENCE, || broker.stream_info().state.messages > published);
    cluster.converge(PATIENCE)
}

/// The server is put back to an earlier state, and has gone on from there by the time that a node sees it again: only by
/// what is in the stream can that be told from one that has just gone on.
fn rolled_back(broker: Broker) -> Outcome {
    let server = broker.start();
    let relay = Relay::start(broker.port);
    let (nats, by_relay) = (broker.nats(), Nats::new(url(relay.port)));
    let cluster = Cluster::start(2, |replica| start(via(replica, &nats, &by_relay), replica));
    publish(&broker, &cluster, 100);
    server.signal("-STOP");
    let earlier = broker.directory.path().join("earlier");
    copy(&broker.data(), &earlier);
    server.signal("-CONT");
    publish(&broker, &cluster, 200);
    wait_until("node 1 has read all", PATIENCE, || is_denied(&cluster, 1, "token-299"));
    let before = broker.stream_info();
    relay.cut();
    server.kill();
    std::fs::remove_dir_all(broker.data()).unwrap();
    std::fs::rename(earlier, broker.data()).unwrap();
    let _server = broker.start();
    wait_until("node 0 has noticed", PATIENCE, || stats(&cluster, 0).resets > 0);
    publish(&broker, &cluster, 700);
    let after = broker.stream_info();
    assert_eq!(after.created, before.created);
    assert!(after.state.last_sequence > before.state.last_sequence && after.state.first_sequence == 1);
    assert_eq!(stats(&cluster, 1).resets, 0);
    relay.heal();
    wait_until("node 1 has noticed", PATIENCE, || stats(&cluster, 1).resets > 0);
    cluster.converge(PATIENCE)
}

fn recreated(broker: Broker) -> Outcome {
    let _server = broker.start();
    let nats = broker.nats();
    let cluster = Cluster::start(NODES, |replica| start(&nats, replica));
    revoke_for(&cluster, Duration::from_millis(300));
    let before = broker.stream_info();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            broker.administer(async |context| {
                context.delete_stream(stream_name()).await.unwrap();
                thread::sleep(Duration::from_millis(100));
                context.create_stream(before.config.clone()).await.unwrap();
            });
        });
        revoke_for(&cluster, Duration::from_millis(800));
    });
    assert_ne!(broker.stream_info().created, before.created);
    wait_until("all have noticed", PATIENCE, || all_stats(&cluster).all(|stats| stats.resets > 0));
    // And once more, with nobody to make it again but the replicas. What was published is far more than what comes now.
    let published = broker.stream_info().state.messages;
    broker.administer(async |context| context.delete_stream(stream_name()).await.map(drop)).unwrap();
    revoke_for(&cluster, Duration::from_millis(200));
    wait_until("all have noticed", PATIENCE, || all_stats(&cluster).all(|stats| stats.resets > 1));
    wait_until("it is published again", PATIENCE, || broker.stream_info().state.messages > published);
    cluster.converge(PATIENCE)
}

fn trimmed(broker: Broker) -> Outcome {
    let _server = broker.start();
    let relay = Relay::start(broker.port);
    let (nats, by_relay) = (broker.nats(), Nats::new(url(relay.port)));
    let cluster = Cluster::start(2, |replica| start(via(replica, &nats, &by_relay), replica));
    publish(&broker, &cluster, 100);
    cluster.wait_until_fresh(PATIENCE);
    relay.cut();
    wait_until("node 1 is cut off", PATIENCE, || !stats(&cluster, 1).connected);
    publish(&broker, &cluster, 300);
    broker.administer(async |context| {
        context.get_stream(stream_name()).await.unwrap().purge().await.unwrap();
    });
    wait_until("node 1 is stale", PATIENCE, || !is_fresh(&cluster.nodes[1].replica));
    relay.heal();
    wait_until("node 1 has noticed", PATIENCE, || stats(&cluster, 1).gaps > 0);
    assert_eq!((stats(&cluster, 0).gaps, stats(&cluster, 1).resets), (0, 0));
    cluster.converge(PATIENCE)
}

fn paused(broker: Broker) -> Outcome {
    let server = broker.start();
    let nats = broker.nats();
    let cluster = Cluster::start(NODES, |replica| start(&nats, replica));
    revoke_for(&cluster, Duration::from_millis(300));
    server.signal("-STOP");
    let begun = Instant::now();
    revoke_for(&cluster, Duration::from_millis(500));
    wait_until("all are stale", 3 * STALE_AFTER, || cluster.nodes.iter().all(|node| !is_fresh(&node.replica)));
    thread::sleep(Duration::from_secs(5).saturating_sub(begun.elapsed()));
    server.signal("-CONT");
    cluster.converge(PATIENCE)
}

/// The server is started after the nodes.
fn late(broker: Broker) -> Outcome {
    let nats = broker.nats();
    let server = Arc::new(Mutex::new(None));
    let broker = Arc::new(broker);
    let starting = thread::spawn({
        let (server, broker) = (Arc::clone(&server), Arc::clone(&broker));
        move || {
            thread::sleep(Duration::from_secs(2));
            *server.lock().unwrap() = Some(broker.start());
        }
    });
    let cluster = Cluster::start(NODES, |replica| {
        let wire = start(&nats, replica);
        wait_until("that nobody is there is told", PATIENCE, || wire.stats().last_error.is_some());
        assert!(!wire.stats().connected);
        wire
    });
    starting.join().unwrap();
    revoke_for(&cluster, Duration::from_millis(200));
    let outcome = cluster.converge(PATIENCE);
    drop(server);
    outcome
}

/// A node says that it goes, and comes again.
fn closed(broker: Broker) -> Outcome {
    let _server = broker.start();
    let nats = broker.nats();
    let mut cluster = Cluster::start(NODES, |replica| start(&nats, replica));
    wait_until("each has a consumer", PATIENCE, || broker.stream_info().state.consumer_count == NODES);
    let wire = cluster.nodes[2].wire.take().unwrap();
    let begun = Instant::now();
    wire.close();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    wait_until("the others know", Duration::from_secs(1), || (0..2).all(|node| stats(&cluster, node).peers == 1));
    assert_eq!(broker.stream_info().state.consumer_count, 2);
    cluster.revoke(0, 300);
    wait_until("it is stale", PATIENCE, || !is_fresh(&cluster.nodes[2].replica));
    cluster.nodes[2].wire = Some(start(&nats, &cluster.nodes[2].replica));
    cluster.converge(PATIENCE)
}

fn refused(broker: Broker) -> Outcome {
    let broker = broker.with(&["--user", "rescind", "--pass", "right"]);
    let _server = broker.start();
    let nats = broker.nats();
    let cluster = Cluster::start(NODES, |replica| {
        let wrong = nats.clone().user_and_password("rescind", "wrong-hunter2").start(replica).unwrap();
        let refused = || wrong.stats().last_error.filter(|error| error.contains("refuses these credentials"));
        wait_until("the wrong password is refused", PATIENCE, || refused().is_some());
        assert!(wrong.stats().refused > 0 && !wrong.stats().connected && wrong.stats().connects == 0);
        assert!(!format!("{wrong:?}{nats:?}").contains("hunter2"));
        let begun = Instant::now();
        drop(wrong);
        assert!(begun.elapsed() < Duration::from_secs(1));
        Nats::new(format!("nats://rescind:right@127.0.0.1:{}", broker.port)).start(replica).unwrap()
    });
    revoke_for(&cluster, Duration::from_millis(200));
    assert!(all_stats(&cluster).all(|stats| stats.connected && stats.refused == 0));
    cluster.converge(PATIENCE)
}

/// Certificates on both sides; a server of another authority, a client without a certificate, and a server without TLS
/// are refused, and it is said why.
fn tls(broker: Broker) -> Outcome {
    let directory = broker.directory.path().to_owned();
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        format!("{path:?}")
    };
    let (ours, foreign) = (Authority::new(), Authority::new());
    let (server_certificate, server_key) = ours.issue("127.0.0.1");
    let (client_certificate, client_key) = ours.issue("replica");
    let config = format!(
        "tls {{ cert_file: {}, key_file: {}, ca_file: {}, verify: true }}",
        write("server.pem", &server_certificate),
        write("server.key", &server_key),
        write("ca.pem", &ours.pem)
    );
    let plain = Broker::new(broker.binary.clone());
    let broker = broker.with_config(&config);
    let (_server, _plain) = (broker.start(), plain.start());
    let secure = || Nats::new(format!("tls://127.0.0.1:{}", broker.port));
    let with_certificate = |nats: Nats| nats.client_certificate(&*client_certificate, &*client_key);
    let each: [(&str, Nats); 4] = [
        ("of another authority", with_certificate(secure().root_certificates(&*foreign.pem))),
        ("of an authority that the system does not know", with_certificate(secure())),
        ("without a client certificate", secure().root_certificates(&*ours.pem)),
        ("without TLS", plain.nats().root_certificates(&*ours.pem)),
    ];
    let is_first = AtomicBool::new(true);
    let cluster = Cluster::start(2, |replica| {
        for (what, nats) in each.iter().filter(|_| is_first.load(Ordering::Relaxed)) {
            let wire = start(nats, replica);
            wait_until(what, PATIENCE, || wire.stats().last_error.is_some());
            thread::sleep(Duration::from_millis(500));
            let stats = wire.stats();
            println!("wire nats tls {what}: {}", stats.last_error.as_deref().unwrap());
            assert!(!stats.connected && stats.connects == 0, "{what}: {stats:?}");
        }
        is_first.store(false, Ordering::Relaxed);
        start(&with_certificate(secure().root_certificates(&*ours.pem)), replica)
    });
    revoke_for(&cluster, Duration::from_millis(200));
    cluster.converge(PATIENCE)
}

struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn issue(&self, name: &str) -> (String, String) {
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// The permissions that the documentation gives are enough, and each may speak for itself only.
fn permitted(broker: Broker) -> Outcome {
    let cluster_id = ClusterId::named("wires");
    let user = |node: NodeId| {
        let text = r#"{ user: "N", password: "word", permissions: {
            publish: [
                "rescind.C.news.N", "rescind.C.to.*.N", "rescind.C.here.N",
                "$JS.API.STREAM.INFO.rescind-C", "$JS.API.STREAM.CREATE.rescind-C",
                "$JS.API.CONSUMER.CREATE.rescind-C.N", "$JS.API.CONSUMER.DELETE.rescind-C.N",
                "$JS.API.CONSUMER.MSG.NEXT.rescind-C.N"
            ],
            subscribe: ["rescind.C.to.N.*", "rescind.C.here.*", "rescind.C.inbox.N.>"]
        } }"#;
        text.replace("rescind.C.", &format!("rescind.{cluster_id}."))
            .replace("rescind-C", &stream_name())
            .replace(".N\"", &format!(".{node}\""))
            .replace(".N.", &format!(".{node}."))
            .replace("\"N\"", &format!("\"{node}\""))
    };
    let users: Vec<String> = (0..NODES).map(|number| user(node_id(number))).collect();
    let broker = broker.with_config(&format!("authorization {{ users: [{}] }}", users.join(",")));
    let _server = broker.start();
    let nats = broker.nats();
    let cluster = Cluster::start(NODES, |replica| {
        nats.clone().user_and_password(replica.node().to_string(), "word").start(replica).unwrap()
    });
    revoke_for(&cluster, Duration::from_millis(500));
    // What the user of one node publishes for another does not arrive.
    let before: Vec<u64> = all_stats(&cluster).map(|stats| stats.rejected).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let violations = Arc::new(Mutex::new(Vec::new()));
    runtime.block_on(async {
        let told = Arc::clone(&violations);
        let options = async_nats::ConnectOptions::with_user_and_password(node_id(2).to_string(), "word".into());
        let options = options.event_callback(move |event| {
            told.lock().unwrap().push(event.to_string());
            std::future::ready(())
        });
        let client = options.connect(url(broker.port)).await.unwrap();
        for subject in ["news.M", "here.M", "to.P.M", "inbox.P.x.y"] {
            let (other, third) = (node_id(0).to_string(), node_id(1).to_string());
            let subject = format!("rescind.{cluster_id}.{}", subject.replace('M', &other).replace('P', &third));
            client.publish(subject, "forged".into()).await.unwrap();
        }
        client.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    let violations = violations.lock().unwrap();
    let refused = violations.iter().filter(|event| event.to_lowercase().contains("permissions violation")).count();
    assert_eq!(refused, 4, "{violations:?}");
    let after: Vec<u64> = all_stats(&cluster).map(|stats| stats.rejected).collect();
    assert_eq!((after, all_stats(&cluster).find_map(|stats| stats.last_error)), (before, None));
    cluster.converge(PATIENCE)
}

/// A server that takes but short messages: what is too long is given up and told of, and nothing else suffers.
fn small_payload(broker: Broker) -> Outcome {
    let broker = broker.with_config("max_payload: 2048");
    let _server = broker.start();
    let nats = broker.nats();
    let cluster = Cluster::start(2, |replica| start(&nats, replica));
    // One write of many entries is one message.
    let many = (0..1000).map(|number| Revocation::of(Subject::token(&*format!("one of many {number}"))));
    cluster.nodes[0].store.revoke_many(many).unwrap();
    wait_until("it is given up", PATIENCE, || stats(&cluster, 0).dropped > 0);
    let error = stats(&cluster, 0).last_error.unwrap();
    assert!(error.contains("too long"), "{error}");
    assert!(all_stats(&cluster).all(|stats| stats.connected && stats.connects == 1));
    cluster.revoke(0, 100);
    let arrived = |token: &str| is_denied(&cluster, 1, token);
    wait_until("what is short arrives", PATIENCE, || arrived("token-99"));
    thread::sleep(STALE_AFTER + Duration::from_millis(200));
    let lacks = (0..1000).filter(|number| !arrived(&format!("one of many {number}"))).count();
    assert!(lacks > 0 && !is_fresh(&cluster.nodes[1].replica), "{lacks}");
    println!("wire nats small-payload told: {error}");
    Outcome::Told
}

fn propagate(broker: Broker) -> Outcome {
    let _server = broker.start();
    let nats = broker.nats();
    let cluster = Cluster::start(2, |replica| start(&nats, replica));
    // Both read the stream before anything is timed.
    cluster.revoke(0, 1);
    wait_until("node 1 reads", PATIENCE, || stats(&cluster, 1).messages_in > 10);
    thread::sleep(Duration::from_millis(500));
    let times = propagation(&cluster, if is_full() { 100_000 } else { 10_000 });
    let at = |thousandths| percentile(&times, thousandths).as_micros();
    println!("wire nats propagation tried={} p50_us={} p99_us={} p999_us={}", times.len(), at(500), at(990), at(999));
    Outcome::Told
}

fn via<'a>(replica: &Replica, direct: &'a Nats, by_relay: &'a Nats) -> &'a Nats {
    if replica.node() == node_id(1) { by_relay } else { direct }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Passes connections on to a port, until it is cut.
struct Relay {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
    is_cut: Arc<AtomicBool>,
}

impl Relay {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Self { port, open: Arc::default(), is_cut: Arc::default() };
        let (open, is_cut) = (Arc::clone(&relay.open), Arc::clone(&relay.is_cut));
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let mut open = open.lock().unwrap();
                if is_cut.load(Ordering::Acquire) {
                    continue;
                }
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    from.set_nodelay(true).unwrap();
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || pass(from, to));
                }
                open.extend([near, far]);
            }
        });
        relay
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        for stream in self.open.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    fn heal(&self) {
        self.is_cut.store(false, Ordering::Release);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}
