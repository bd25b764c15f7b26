//! Replicas over QUIC on loopback: who is let in, who is not, and who comes back.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed test panics, and here it is real time that passes"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rescind::wire::gossip::{Credentials, Gossip, TestAuthority};
use rescind::wire::{Engine, Wire, WireError};
use rescind::{
    Cause, Credential, Durability, Freshness, Key, NodeId, Options, Replica, Replication, Revocation, Store, Subject,
    Verdict,
};

const NAMES: [&str; 3] = ["one.test", "two.test", "three.test"];
const PATIENCE: Duration = Duration::from_secs(20);

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn replica_in(cluster: &str, name: &str, store: &Store) -> Replica {
    let replication = Replication::trusting_issuers(cluster, NodeId::named(name), NAMES.map(NodeId::named));
    let (heartbeat, stale_after) = (Duration::from_millis(100), Duration::from_secs(2));
    store.replicate(replication.heartbeat(heartbeat).stale_after(stale_after)).unwrap()
}

fn replica(name: &str) -> Replica {
    replica_in("test", name, &Options::new().key(Key::from_bytes([5; 32])).open_in_memory().unwrap())
}

fn is_fresh(replica: &Replica) -> bool {
    matches!(replica.freshness(), Freshness::Fresh { .. })
}

fn denies(replica: &Replica, token: &str) -> bool {
    matches!(replica.store().check(&Credential::new().token(token)), Verdict::Revoked(_))
}

fn revoke(replica: &Replica, token: &str) {
    replica.store().revoke(Revocation::of(Subject::token(token))).unwrap();
}

struct Node {
    replica: Replica,
    wire: Wire,
}

impl Node {
    fn address(&self) -> SocketAddr {
        self.wire.local_addr().unwrap()
    }
}

fn start(replica: Replica, port: u16, credentials: Credentials, seeds: &[SocketAddr]) -> Node {
    let gossip = Gossip::new(loopback(port), credentials);
    let gossip = seeds.iter().fold(gossip, |gossip, seed| gossip.seed(seed.to_string()));
    Node { wire: gossip.start(&replica).unwrap(), replica }
}

/// Three replicas, of which the first is the seed of the others.
fn three(authority: &TestAuthority) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for name in NAMES {
        let seeds: Vec<SocketAddr> = nodes.iter().map(Node::address).take(1).collect();
        nodes.push(start(replica(name), 0, authority.issue(name).unwrap(), &seeds));
    }
    wait_until("all are fresh", || nodes.iter().all(|node| is_fresh(&node.replica)));
    nodes
}

#[test]
fn what_one_revokes_all_deny_and_they_find_each_other_by_one_seed() {
    let authority = TestAuthority::new().unwrap();
    let nodes = three(&authority);
    assert!(nodes.iter().all(|node| node.wire.stats().peers == 2), "{nodes:?}", nodes = nodes[0].wire);
    revoke(&nodes[1].replica, "t");
    wait_until("all deny", || nodes.iter().all(|node| denies(&node.replica, "t")));
    let position = nodes[1].replica.position();
    assert!(nodes[1].replica.wait_until_held(position, 2, PATIENCE));
    let stats = nodes[1].wire.stats();
    assert!(stats.connected && stats.messages_in > 0 && stats.messages_out > 0 && stats.refused == 0, "{stats:?}");
    assert_eq!((stats.rejected, stats.gaps, stats.resets), (0, 0, 0));
}

#[test]
fn replicas_on_loopback_need_no_certificates_if_that_is_said() {
    let one = replica(NAMES[0]);
    let wire = Gossip::unauthenticated_on_loopback(loopback(0), NAMES[0]).start(&one).unwrap();
    let address = wire.local_addr().unwrap();
    let others = NAMES[1..].iter().map(|name| {
        let replica = replica(name);
        let gossip = Gossip::unauthenticated_on_loopback(loopback(0), name).seed(address.to_string());
        Node { wire: gossip.start(&replica).unwrap(), replica }
    });
    let others: Vec<Node> = others.collect();
    wait_until("all are fresh", || is_fresh(&one) && others.iter().all(|node| is_fresh(&node.replica)));
    let error = Gossip::unauthenticated_on_loopback("0.0.0.0:0".parse().unwrap(), "x.test").start(&replica("x.test"));
    assert!(matches!(error, Err(WireError::Options(why)) if why.contains("loopback")));

    // Whoever believes everybody is not believed by those who ask for certificates.
    let authority = TestAuthority::new().unwrap();
    let strict = start(replica("strict.test"), 0, authority.issue("strict.test").unwrap(), &[address]);
    wait_until("it is refused", || strict.wire.stats().last_error.is_some());
    thread::sleep(Duration::from_millis(300));
    assert_eq!(strict.wire.stats().peers, 0);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let authority = TestAuthority::new().unwrap();
    let issued = |name: &str| authority.issue(name).unwrap();
    let error = Gossip::new(loopback(0), issued("two.test")).start(&replica("one.test")).unwrap_err();
    assert!(error.to_string().contains("NodeId::named(\"two.test\")"), "{error}");
    let anywhere = "0.0.0.0:0".parse().unwrap();
    let error = Gossip::new(anywhere, issued("one.test")).start(&replica("one.test")).unwrap_err();
    assert!(error.to_string().contains("Gossip::advertise"), "{error}");
    let node = start(replica("one.test"), 0, issued("one.test"), &[]);
    let taken = Gossip::new(node.address(), issued("one.test")).start(&replica("one.test")).unwrap_err();
    assert!(matches!(taken, WireError::Listen { address, .. } if address == node.address()));
}

#[test]
fn credentials_that_are_not_usable_are_refused_by_name() {
    let (authority, other) = (TestAuthority::new().unwrap(), TestAuthority::new().unwrap());
    let (one, two) = (authority.issue_pem("one.test").unwrap(), authority.issue_pem("two.test").unwrap());
    let error = |certificate: &str, key: &str, authority: &str| {
        Credentials::from_pem(certificate, key, authority).unwrap_err().to_string()
    };
    assert!(error("", &one.key, authority.pem()).starts_with("the certificate: "));
    assert!(error(&one.certificate, "", authority.pem()).starts_with("the key: "));
    assert!(error(&one.certificate, &one.key, "").starts_with("the authority: "));
    assert!(error(&one.certificate, &two.key, authority.pem()).starts_with("the certificate: "), "it has another key");
    assert!(error(authority.pem(), &one.key, authority.pem()).contains("no DNS name"));
    let missing = Credentials::from_files("/nowhere/cert.pem", "/nowhere/key.pem", "/nowhere/ca.pem").unwrap_err();
    assert!(missing.to_string().starts_with("/nowhere/cert.pem: "), "{missing}");

    let credentials = Credentials::from_pem(&one.certificate, &one.key, authority.pem()).unwrap();
    assert!(!format!("{credentials:?} {one:?}").contains("PRIVATE"));
    let error = credentials.replace(&two.certificate, &two.key, other.pem()).unwrap_err();
    assert!(error.to_string().contains("two.test"), "{error}");
    assert!(credentials.reload().unwrap_err().to_string().contains("replace"));
    assert_eq!(credentials.name(), "one.test");
}

/// Lets so much time pass that whoever could come in would have.
fn knock() {
    thread::sleep(Duration::from_secs(2));
}

/// Nobody has come in, and those who were in are as they were.
fn assert_untouched(nodes: &[Node], intruder: &Node) {
    assert_eq!(intruder.wire.stats().peers, 0);
    assert!(!is_fresh(&intruder.replica));
    for node in nodes {
        assert!(is_fresh(&node.replica) && node.wire.stats().peers == 2);
        assert!(!denies(&node.replica, "forged"));
    }
}

#[test]
fn a_foreign_certificate_gets_nowhere() {
    let authority = TestAuthority::new().unwrap();
    let nodes = three(&authority);
    let foreign = TestAuthority::new().unwrap();
    // It even has the name of a member, and trusts the right authority.
    let issued = foreign.issue_pem(NAMES[2]).unwrap();
    let credentials = Credentials::from_pem(&issued.certificate, &issued.key, authority.pem()).unwrap();
    let intruder = start(replica(NAMES[2]), 0, credentials, &[nodes[0].address(), nodes[1].address()]);
    revoke(&intruder.replica, "forged");
    wait_until("it is refused", || nodes[0].wire.stats().refused > 0 && nodes[1].wire.stats().refused > 0);
    knock();
    assert_untouched(&nodes, &intruder);
}

#[test]
fn another_cluster_gets_nowhere() {
    let authority = TestAuthority::new().unwrap();
    let nodes = three(&authority);
    let store = Options::new().key(Key::from_bytes([5; 32])).open_in_memory().unwrap();
    let other = replica_in("other", "four.test", &store);
    let intruder = start(other, 0, authority.issue("four.test").unwrap(), &[nodes[0].address()]);
    revoke(&intruder.replica, "forged");
    wait_until("it is refused", || nodes[0].wire.stats().refused > 0);
    knock();
    assert_untouched(&nodes, &intruder);
    assert!(intruder.wire.stats().last_error.is_some());
}

#[test]
fn who_is_not_admitted_gets_nowhere() {
    let authority = TestAuthority::new().unwrap();
    let replicas = NAMES.map(replica);
    let mut nodes: Vec<Node> = Vec::new();
    for (name, replica) in NAMES.into_iter().zip(replicas) {
        let mut gossip = Gossip::new(loopback(0), authority.issue(name).unwrap()).admitting(NAMES);
        if let Some(seed) = nodes.first() {
            gossip = gossip.seed(seed.address().to_string());
        }
        nodes.push(Node { wire: gossip.start(&replica).unwrap(), replica });
    }
    wait_until("all are fresh", || nodes.iter().all(|node| is_fresh(&node.replica)));
    let intruder = start(replica("four.test"), 0, authority.issue("four.test").unwrap(), &[nodes[0].address()]);
    revoke(&intruder.replica, "forged");
    wait_until("it is refused", || nodes[0].wire.stats().refused > 0);
    knock();
    assert!(nodes.iter().all(|node| node.wire.stats().peers == 2 && !denies(&node.replica, "forged")));
}

/// A client that speaks QUIC, but is no replica.
fn connect(
    runtime: &tokio::runtime::Runtime,
    to: SocketAddr,
    authority: &TestAuthority,
    own: Option<&str>,
    protocol: &str,
) -> Result<(quinn::Endpoint, quinn::Connection), String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let issued = authority.issue_pem(name).unwrap();
            let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    runtime.block_on(async {
        let endpoint = quinn::Endpoint::client(loopback(0)).unwrap();
        let connecting = endpoint.connect_with(quinn::ClientConfig::new(Arc::new(config)), to, NAMES[0]).unwrap();
        let connection = connecting.await.map_err(|error| error.to_string())?;
        // In TLS 1.3 the client learns of a refusal after its own part is done.
        match tokio::time::timeout(Duration::from_millis(500), connection.closed()).await {
            Ok(error) => Err(error.to_string()),
            Err(_) => Ok((endpoint, connection)),
        }
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn protocol() -> String {
    format!("rescind/1/{}", rescind::ClusterId::named("test"))
}

#[test]
fn no_certificate_gets_nowhere() {
    let authority = TestAuthority::new().unwrap();
    let nodes = three(&authority);
    let runtime = runtime();
    let error = connect(&runtime, nodes[0].address(), &authority, None, &protocol()).unwrap_err();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    wait_until("it is counted", || nodes[0].wire.stats().refused > 0);
    // With one, the same client is let in: it is for the certificate that it was not.
    assert!(connect(&runtime, nodes[0].address(), &authority, Some("four.test"), &protocol()).is_ok());
    // And without the protocol it is not.
    let error = connect(&runtime, nodes[0].address(), &authority, Some("four.test"), "rescind/1/other").unwrap_err();
    assert!(error.contains("application protocol") || error.contains("120"), "{error}");
    assert!(nodes.iter().all(|node| is_fresh(&node.replica)));
}

#[test]
fn forged_and_replayed_messages_get_nowhere() {
    let authority = TestAuthority::new().unwrap();
    let nodes = three(&authority);
    // What a real replica, with the right key and cluster, says to the first node: taken down, and sent by somebody else.
    let store = Options::new().key(Key::from_bytes([5; 32])).open_in_memory().unwrap();
    let recorded = replica_in("test", NAMES[1], &store);
    recorded.set_peers([NodeId::named(NAMES[0])]);
    revoke(&recorded, "forged");
    let mut messages = Vec::new();
    while let Some(message) = recorded.poll_transmit() {
        messages.push(message.bytes.to_vec());
    }
    assert!(!messages.is_empty());
    messages.push(b"no message at all".to_vec());
    messages.push(vec![0; 2 * 1024 * 1024]);

    // The sender has a certificate, but is no member.
    let runtime = runtime();
    let (_endpoint, connection) =
        connect(&runtime, nodes[0].address(), &authority, Some("four.test"), &protocol()).unwrap();
    runtime.block_on(async {
        for message in &messages {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(message).await.ok();
            stream.finish().ok();
        }
        connection.send_datagram(b"no datagram".to_vec().into()).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    });
    // The longest is not even read to its end.
    let given_up = || nodes[0].wire.stats().dropped as usize;
    wait_until("they are given up", || given_up() >= messages.len() - 1 && nodes[0].wire.stats().rejected > 0);
    assert!(nodes.iter().all(|node| is_fresh(&node.replica) && !denies(&node.replica, "forged")));
    drop(connection);

    // What a member has said once changes nothing when it says it again.
    revoke(&nodes[1].replica, "t");
    wait_until("all deny", || nodes.iter().all(|node| denies(&node.replica, "t")));
    nodes[1].replica.store().lift(Subject::token("t")).unwrap();
    wait_until("it is lifted", || nodes.iter().all(|node| !denies(&node.replica, "t")));
    let bus = nodes[1].replica.bus();
    revoke(&nodes[1].replica, "again");
    let news = bus.poll_broadcast().unwrap();
    wait_until("all deny", || nodes.iter().all(|node| denies(&node.replica, "again")));
    nodes[1].replica.store().lift(Subject::token("again")).unwrap();
    wait_until("it is lifted", || nodes.iter().all(|node| !denies(&node.replica, "again")));
    for _ in 0..3 {
        nodes[0].replica.receive(nodes[1].replica.node(), &news).unwrap();
    }
    assert!(!denies(&nodes[0].replica, "again") && !denies(&nodes[0].replica, "t"));
}

#[test]
fn certificates_are_replaced_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (TestAuthority::new().unwrap(), TestAuthority::new().unwrap());
    let write = |name: &str, issuer: &TestAuthority, authorities: &str| {
        let issued = issuer.issue_pem(name).unwrap();
        let path = |what: &str| folder.path().join(format!("{name}.{what}"));
        for (what, text) in [("pem", &*issued.certificate), ("key", &*issued.key), ("ca", authorities)] {
            std::fs::write(path(what), text).unwrap();
        }
    };
    let path = |name: &str, what: &str| folder.path().join(Path::new(&format!("{name}.{what}")));
    let mut nodes: Vec<(Node, Credentials)> = Vec::new();
    for name in NAMES {
        write(name, &old, old.pem());
        let credentials = Credentials::from_files(path(name, "pem"), path(name, "key"), path(name, "ca")).unwrap();
        let seeds: Vec<SocketAddr> = nodes.iter().map(|(node, _)| node.address()).take(1).collect();
        nodes.push((start(replica(name), 0, credentials.clone(), &seeds), credentials));
    }
    let all_fresh = || nodes.iter().all(|(node, _)| is_fresh(&node.replica));
    wait_until("all are fresh", all_fresh);
    // First all trust both authorities, then all have certificates of the new one, then the old one is trusted no longer.
    let both = format!("{}{}", old.pem(), new.pem());
    for (issuer, authorities) in [(&old, &*both), (&new, &*both), (&new, new.pem())] {
        for (name, (_, credentials)) in NAMES.into_iter().zip(&nodes) {
            write(name, issuer, authorities);
            credentials.reload().unwrap();
        }
        thread::sleep(Duration::from_millis(300));
        wait_until("all are connected again", || {
            all_fresh() && nodes.iter().all(|(node, _)| node.wire.stats().connected)
        });
        let token = format!("t-{}", nodes[0].0.wire.stats().connects);
        revoke(&nodes[2].0.replica, &token);
        wait_until("all deny", || nodes.iter().all(|(node, _)| denies(&node.replica, &token)));
    }
    let late = start(replica("four.test"), 0, old.issue("four.test").unwrap(), &[nodes[0].0.address()]);
    wait_until("the old authority is nobody", || nodes[0].0.wire.stats().refused > 0);
    assert_eq!(late.wire.stats().peers, 0);
    // What is not usable is not taken.
    std::fs::write(path(NAMES[0], "key"), "no key").unwrap();
    assert!(nodes[0].1.reload().is_err());
    wait_until("all are fresh", all_fresh);
}

#[test]
fn versions_are_agreed_upon_and_who_has_none_in_common_is_refused() {
    let authority = TestAuthority::new().unwrap();
    let speaking = |name: &str, versions: &[u8], seeds: &[SocketAddr]| {
        let replica = replica(name);
        let gossip = Gossip::new(loopback(0), authority.issue(name).unwrap()).speaking(versions);
        let gossip = seeds.iter().fold(gossip, |gossip, seed| gossip.seed(seed.to_string()));
        Node { wire: gossip.start(&replica).unwrap(), replica }
    };
    // An upgrade under way: one old, two that speak both.
    let one = speaking(NAMES[0], &[1], &[]);
    let two = speaking(NAMES[1], &[2, 1], &[one.address()]);
    let three = speaking(NAMES[2], &[2, 1], &[one.address()]);
    let nodes = [one, two, three];
    wait_until("all are fresh", || nodes.iter().all(|node| is_fresh(&node.replica)));
    revoke(&nodes[0].replica, "t");
    wait_until("all deny", || nodes.iter().all(|node| denies(&node.replica, "t")));
    // Somebody who has left the old version behind too early.
    let ahead = speaking("four.test", &[2], &[nodes[0].address()]);
    wait_until("it is refused", || nodes[0].wire.stats().refused > 0);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(ahead.wire.stats().peers, 0);
    assert!(ahead.wire.stats().last_error.is_some());
}

fn open(folder: &Path) -> Store {
    Options::new().key(Key::from_bytes([5; 32])).durability(Durability::Memory).open(folder).unwrap()
}

#[test]
fn who_comes_back_elsewhere_or_without_its_disk_is_known_and_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new().unwrap();
    let seed = start(replica(NAMES[0]), 0, authority.issue(NAMES[0]).unwrap(), &[]);
    let others = [seed.address()];
    let second = start(replica(NAMES[1]), 0, authority.issue(NAMES[1]).unwrap(), &others);
    let third = |path: &Path| {
        let store = open(path);
        start(replica_in("test", NAMES[2], &store), 0, authority.issue(NAMES[2]).unwrap(), &others)
    };
    let here = third(&folder.path().join("a"));
    let all_fresh = |third: &Node| [&seed, &second, third].iter().all(|node| is_fresh(&node.replica));
    wait_until("all are fresh", || all_fresh(&here));
    revoke(&here.replica, "before");
    wait_until("the others deny", || denies(&seed.replica, "before") && denies(&second.replica, "before"));
    let was_at = here.address();
    let store = here.replica.store().clone();
    drop(here);
    store.close().unwrap();
    revoke(&seed.replica, "meanwhile");

    // Its disk is wiped, and the port is another.
    let back = third(&folder.path().join("b"));
    assert_ne!(back.address(), was_at);
    assert!(!denies(&back.replica, "before"));
    let verdict = back.replica.store().check(&Credential::new().token("before"));
    assert_eq!(verdict, Verdict::Unknown(Cause::Bootstrapping));
    wait_until("it has caught up", || all_fresh(&back));
    assert!(denies(&back.replica, "before") && denies(&back.replica, "meanwhile"));
    revoke(&back.replica, "after");
    wait_until("the others deny", || denies(&seed.replica, "after") && denies(&second.replica, "after"));
    assert!([&seed, &second].iter().all(|node| node.wire.stats().peers == 2));
}

#[test]
fn who_is_left_alone_finds_the_others_again() {
    let authority = TestAuthority::new().unwrap();
    let seed = start(replica(NAMES[0]), 0, authority.issue(NAMES[0]).unwrap(), &[]);
    let address = seed.address();
    let others: Vec<Node> =
        NAMES[1..].iter().map(|name| start(replica(name), 0, authority.issue(name).unwrap(), &[address])).collect();
    let all_fresh = |seed: &Node| is_fresh(&seed.replica) && others.iter().all(|node| is_fresh(&node.replica));
    wait_until("all are fresh", || all_fresh(&seed));
    drop(seed);
    wait_until("they are stale without an issuer", || others.iter().all(|node| !is_fresh(&node.replica)));
    // It has no seeds itself, and comes back where it was.
    let seed = start(replica(NAMES[0]), address.port(), authority.issue(NAMES[0]).unwrap(), &[]);
    wait_until("all are fresh", || all_fresh(&seed));
}
