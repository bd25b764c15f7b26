//! Replicas in this process, who watches them, and servers that can be killed.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rescind::wire::Wire;
use rescind::{
    Credential, Durability, Freshness, Key, NodeId, Options, Replica, Replication, Revocation, Store, Subject, Verdict,
};

pub const HEARTBEAT: Duration = Duration::from_millis(200);
pub const STALE_AFTER: Duration = Duration::from_secs(2);

pub enum Outcome {
    Held(Measured),
    /// A case that prints figures of its own.
    Told,
    /// It was not tried, for want of this.
    Skipped(Lack),
}

/// What a machine may lack.
#[derive(Clone, Copy, Debug)]
pub enum Lack {
    /// The program of a server.
    Server(&'static str),
    /// Namespaces, or what breaks the network in them.
    Network,
}

impl Lack {
    /// The word by which it is required.
    pub fn sort(self) -> &'static str {
        match self {
            Self::Server(_) => "servers",
            Self::Network => "network",
        }
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server(program) => write!(f, "{program} not found"),
            Self::Network => f.write_str("network namespaces are needed, with ip, nft and tc, and root"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    pub tried: usize,
    pub lost: usize,
    pub stale_clear: u64,
    pub converged: Duration,
}

pub fn is_full() -> bool {
    std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full")
}

/// Where a program is; none if it is not installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Waits until something holds, and gives how long that took.
pub fn wait_until(what: &str, at_most: Duration, holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < at_most, "not within {at_most:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

/// A server process, killed when dropped.
pub struct Server {
    pub child: Child,
}

impl Server {
    pub fn spawn(command: &mut Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("a server listens", Duration::from_secs(10), || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        Self { child }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub struct Node {
    pub store: Store,
    pub replica: Replica,
    pub wire: Option<Wire>,
    _directory: tempfile::TempDir,
}

/// Replicas in this process that share a wire, and a watcher that asks all of them, all the time.
pub struct Cluster {
    pub nodes: Vec<Node>,
    acknowledged: Arc<Mutex<Vec<(String, Instant)>>>,
    stale_clear: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    watcher: Option<thread::JoinHandle<()>>,
}

pub fn node_id(number: usize) -> NodeId {
    NodeId::named(&node_name(number))
}

fn is_denied(store: &Store, token: &str) -> bool {
    matches!(store.check(&Credential::new().token(token)), Verdict::Revoked(_))
}

impl Cluster {
    /// Each trusts all to issue, and is connected by `connect`.
    pub fn start(count: usize, connect: impl Fn(&Replica) -> Wire) -> Self {
        let nodes = (0..count).map(|number| {
            let directory = tempfile::tempdir().unwrap();
            let options = Options::new().key(Key::from_bytes([7; 32])).durability(Durability::Memory);
            let store = options.open(directory.path().join("store")).unwrap();
            let all = (0..count).map(node_id);
            let replication = Replication::trusting_issuers("wires", node_id(number), all);
            let replica = store.replicate(replication.heartbeat(HEARTBEAT).stale_after(STALE_AFTER)).unwrap();
            let wire = Some(connect(&replica));
            Node { store, replica, wire, _directory: directory }
        });
        let mut cluster = Self {
            nodes: nodes.collect(),
            acknowledged: Arc::default(),
            stale_clear: Arc::default(),
            done: Arc::default(),
            watcher: None,
        };
        let stores: Vec<Store> = cluster.nodes.iter().map(|node| node.store.clone()).collect();
        let (acknowledged, stale_clear, done) =
            (Arc::clone(&cluster.acknowledged), Arc::clone(&cluster.stale_clear), Arc::clone(&cluster.done));
        cluster.watcher = Some(thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let now = Instant::now();
                let due = |(_, at): &&(String, Instant)| now.duration_since(*at) > STALE_AFTER;
                let old: Vec<String> = acknowledged
                    .lock()
                    .unwrap()
                    .iter()
                    .rev()
                    .filter(due)
                    .take(200)
                    .map(|(token, _)| token.clone())
                    .collect();
                for (store, token) in stores.iter().flat_map(|store| old.iter().map(move |token| (store, token))) {
                    if store.check(&Credential::new().token(token)) == Verdict::Clear {
                        stale_clear.fetch_add(1, Ordering::Relaxed);
                    }
                }
                thread::sleep(Duration::from_millis(2));
            }
        }));
        cluster.wait_until_fresh(Duration::from_secs(20));
        cluster
    }

    pub fn wait_until_fresh(&self, at_most: Duration) -> Duration {
        wait_until("all are fresh", at_most, || self.nodes.iter().all(|node| is_fresh(&node.replica)))
    }

    /// Revokes so many tokens on a node, all of which it acknowledges.
    pub fn revoke(&self, node: usize, count: usize) {
        for _ in 0..count {
            let token = format!("token-{}", self.acknowledged.lock().unwrap().len());
            self.nodes[node].store.revoke(Revocation::of(Subject::token(&*token))).unwrap();
            self.acknowledged.lock().unwrap().push((token, Instant::now()));
        }
    }

    /// Revokes so many tokens on a node as fast as it can.
    pub fn flood(&self, node: usize, count: usize) {
        for chunk in 0..count.div_ceil(10_000) {
            let tokens = (0..10_000).map(|n| format!("flood-{chunk}-{n}"));
            let tokens: Vec<String> = tokens.take(count - chunk * 10_000).collect();
            let commands = tokens.iter().map(|token| Revocation::of(Subject::token(&**token)));
            self.nodes[node].store.revoke_many(commands).unwrap();
            let now = Instant::now();
            self.acknowledged.lock().unwrap().extend(tokens.into_iter().map(|token| (token, now)));
        }
    }

    fn lost(&self) -> usize {
        let acknowledged = self.acknowledged.lock().unwrap();
        let denied = |token: &str| self.nodes.iter().all(|node| is_denied(&node.store, token));
        acknowledged.iter().filter(|(token, _)| !denied(token)).count()
    }

    /// Waits until all deny all that was acknowledged, and are fresh; how long that took is counted from here.
    pub fn converge(self, at_most: Duration) -> Outcome {
        let begun = Instant::now();
        while begun.elapsed() < at_most && (self.lost() > 0 || !self.nodes.iter().all(|node| is_fresh(&node.replica))) {
            thread::sleep(Duration::from_millis(5));
        }
        let converged = begun.elapsed();
        let all_fresh = self.nodes.iter().all(|node| is_fresh(&node.replica));
        for node in self.nodes.iter().filter(|_| !all_fresh) {
            println!("not fresh: {:?} {:?}", node.replica.stats(), node.wire);
        }
        assert!(all_fresh, "all are fresh in the end");
        // The watcher looks once more, and longer than anybody may be stale.
        thread::sleep(STALE_AFTER + Duration::from_millis(200));
        // Not in one statement: the first would keep the lock that the second takes.
        let tried = self.acknowledged.lock().unwrap().len();
        let lost = self.lost();
        Outcome::Held(Measured { tried, lost, stale_clear: self.stale_clear.load(Ordering::Relaxed), converged })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            watcher.join().ok();
        }
    }
}

pub fn is_fresh(replica: &Replica) -> bool {
    matches!(replica.freshness(), Freshness::Fresh { .. })
}

/// The value at some thousandths of a sorted list.
pub fn percentile(sorted: &[Duration], thousandths: usize) -> Duration {
    sorted.get((sorted.len() * thousandths).div_ceil(1000).saturating_sub(1)).copied().unwrap_or_default()
}

pub fn node_name(number: usize) -> String {
    format!("node-{number}")
}

/// Where a process runs.
#[derive(Clone, Debug)]
pub enum Place {
    Here,
    /// In a network namespace with this name.
    Namespace(String),
}

/// Revokes so many tokens on the first node, one after another, and gives for each how long it took from the call until the
/// second node denies it; sorted. Nobody waits for the one before, so that a slow one does not hide those behind it.
pub fn propagation(cluster: &Cluster, count: usize) -> Vec<Duration> {
    let (sender, revoked) = std::sync::mpsc::channel();
    let (from, to) = (&cluster.nodes[0].store, &cluster.nodes[1].store);
    let mut took: Vec<Duration> = thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..count {
                let (token, begun) = (format!("timed-{number}"), Instant::now());
                from.revoke(Revocation::of(Subject::token(&*token))).unwrap();
                sender.send((token, begun)).unwrap();
                thread::sleep(Duration::from_micros(300));
            }
        });
        let until_denied = |(token, begun): (String, Instant)| {
            while !is_denied(to, &token) {
                assert!(begun.elapsed() < Duration::from_secs(30), "{token} is not denied");
                thread::yield_now();
            }
            begun.elapsed()
        };
        revoked.into_iter().map(until_denied).collect()
    });
    took.sort();
    took
}
