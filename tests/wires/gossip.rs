//! Gossip between processes: in namespaces of their own where the network is broken, and killed.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rescind::Replica;
use rescind::wire::gossip::{Gossip, TestAuthority};
use rescind::wire::{Engine, Wire};

use super::Case;
use super::network::{Network, Relay};
use super::node::{Process, Setup, write_certificates};
use super::support::{
    Cluster, HEARTBEAT, Lack, Measured, Outcome, Place, STALE_AFTER, free_port, is_full, node_id, node_name,
    percentile, propagation,
};

const PATIENCE: Duration = Duration::from_secs(60);

pub fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, run };
    vec![
        case("gossip drop-25", drop_25 as fn() -> Outcome),
        case("gossip partition", partition),
        case("gossip narrow", narrow),
        case("gossip reorder", reorder),
        case("gossip kill-9", kill_9),
        case("gossip wiped-and-moved", wiped_and_moved),
        case("gossip flood", flood),
        case("gossip nodes-24", nodes_24),
        case("gossip propagation", propagation_figures),
    ]
}

/// How much more is tried at full scale.
fn scale() -> usize {
    if is_full() { 10 } else { 1 }
}

/// Processes, and what they acknowledged.
struct Nodes {
    processes: Vec<Option<Process>>,
    /// Names and how many, of each run of tokens.
    acknowledged: Vec<(String, usize)>,
    /// Of those that were killed.
    stale_clear: u64,
}

fn setup(folder: &Path, number: usize, count: usize, listen: SocketAddr, seed: SocketAddr) -> Setup {
    let folder = folder.to_owned();
    Setup { number, count, folder, listen, advertised: listen, seed, heartbeat: HEARTBEAT, stale_after: STALE_AFTER }
}

impl Nodes {
    fn new(processes: Vec<Process>) -> Self {
        let mut nodes =
            Self { processes: processes.into_iter().map(Some).collect(), acknowledged: Vec::new(), stale_clear: 0 };
        nodes.wait("all are fresh", |nodes| nodes.running().all(|process| process.report().3));
        nodes
    }

    fn running(&mut self) -> impl Iterator<Item = &mut Process> {
        self.processes.iter_mut().flatten()
    }

    fn wait(&mut self, what: &str, holds: impl Fn(&mut Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !holds(self) {
            if begun.elapsed() > PATIENCE {
                for process in self.running() {
                    let (report, stats) = (process.ask("report"), process.ask("stats"));
                    println!("{}: {report} {stats}", process.setup.number);
                }
                panic!("not within {PATIENCE:?}: {what}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        begun.elapsed()
    }

    fn revoke(&mut self, number: usize, count: usize) {
        let name = format!("run{}", self.acknowledged.len());
        assert_eq!(self.processes[number].as_mut().unwrap().ask(&format!("revoke {name} 0 {count} 0")), "ok");
        self.running().for_each(|process| _ = process.ask(&format!("expect {name} 0 {count}")));
        self.acknowledged.push((name, count));
    }

    fn kill(&mut self, number: usize) -> (Setup, Place) {
        let mut process = self.processes[number].take().unwrap();
        self.stale_clear += process.report().2;
        process.kill()
    }

    fn restart(&mut self, setup: Setup, place: Place) {
        let number = setup.number;
        let mut process = Process::start(setup, place);
        for (name, count) in &self.acknowledged {
            process.ask(&format!("expect {name} 0 {count}"));
        }
        self.processes[number] = Some(process);
    }

    fn converge(mut self) -> Outcome {
        let tried: usize = self.acknowledged.iter().map(|(_, count)| count).sum();
        let converged = self.wait("all deny all and are fresh", |nodes| {
            nodes.running().all(|process| {
                let (expected, denied, _, is_fresh) = process.report();
                expected == tried && denied == tried && is_fresh
            })
        });
        let stale_after = self.running().map(|process| process.setup.stale_after).max().unwrap_or_default();
        thread::sleep(stale_after + Duration::from_millis(200));
        let (mut lost, mut stale_clear) = (0, self.stale_clear);
        for process in self.running() {
            let (_, denied, late, _) = process.report();
            lost = lost.max(tried - denied);
            stale_clear += late;
        }
        Outcome::Held(Measured { tried, lost, stale_clear, converged })
    }
}

/// So many nodes in namespaces of their own.
fn in_network(folder: &Path, count: usize) -> Option<(Network, Nodes)> {
    in_network_with(folder, count, HEARTBEAT, STALE_AFTER)
}

/// The same, with other times.
fn in_network_with(
    folder: &Path,
    count: usize,
    heartbeat: Duration,
    stale_after: Duration,
) -> Option<(Network, Nodes)> {
    let network = Network::new(count)?;
    write_certificates(folder, count);
    let seed = Network::address(0);
    let start = |number| {
        let setup = setup(folder, number, count, Network::address(number), seed);
        Process::start(Setup { heartbeat, stale_after, ..setup }, Network::place(number))
    };
    Some((network, Nodes::new((0..count).map(start).collect())))
}

fn no_network() -> Outcome {
    Outcome::Skipped(Lack::Network)
}

fn drop_25() -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let Some((network, mut nodes)) = in_network(folder.path(), 5) else { return no_network() };
    network.lose(25);
    for round in 0..20 * scale() {
        nodes.revoke(round % 5, 10);
    }
    // It converges while packets are still lost.
    nodes.converge()
}

fn partition() -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let Some((network, mut nodes)) = in_network(folder.path(), 5) else { return no_network() };
    for _ in 0..scale().min(3) {
        network.part(2);
        for round in 0..12 {
            nodes.revoke(round % 5, 10);
            thread::sleep(Duration::from_millis(500));
        }
        // Longer than anybody may be stale: nobody says more than it knows.
        let unsure = nodes
            .running()
            .filter_map(|process| Some(process.ask("check nobodys")).filter(|verdict| verdict.starts_with("unknown")));
        assert_eq!(unsure.count(), 5, "each lacks some issuer");
        network.heal();
        nodes.wait("all are fresh", |nodes| nodes.running().all(|process| process.report().3));
    }
    network.part(3);
    nodes.revoke(0, 50);
    nodes.revoke(4, 50);
    thread::sleep(STALE_AFTER * 2);
    network.heal();
    nodes.converge()
}

fn narrow() -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    // The times that are the default: what is missed is asked for again after three heartbeats, and if those were of 200 ms, what
    // is on its way over so narrow a path would be asked for again and again.
    let (heartbeat, stale_after) = (Duration::from_secs(1), Duration::from_secs(10));
    let Some((network, mut nodes)) = in_network_with(folder.path(), 3, heartbeat, stale_after) else {
        return no_network();
    };
    network.narrow(2, 256);
    nodes.revoke(0, 1_000);
    nodes.revoke(2, 200);
    nodes.converge()
}

fn reorder() -> Outcome {
    let (folder, count) = (tempfile::tempdir().unwrap(), 3);
    write_certificates(folder.path(), count);
    let listens: Vec<SocketAddr> = (0..count).map(|_| ([127, 0, 0, 1], free_port()).into()).collect();
    // Whoever dials goes through the relay of whom it dials, so both ways of every connection are delayed.
    let relays: Vec<Relay> = listens.iter().map(|listen| Relay::start(*listen, (20, 200))).collect();
    let start = |number: usize| {
        let setup = setup(folder.path(), number, count, listens[number], relays[0].address());
        Process::start(Setup { advertised: relays[number].address(), ..setup }, Place::Here)
    };
    let mut nodes = Nodes::new((0..count).map(start).collect());
    for round in 0..20 * scale() {
        nodes.revoke(round % count, 10);
    }
    nodes.converge()
}

/// Nodes on loopback, each on a port that stays its own.
fn on_loopback(folder: &Path, count: usize) -> Nodes {
    write_certificates(folder, count);
    let listens: Vec<SocketAddr> = (0..count).map(|_| ([127, 0, 0, 1], free_port()).into()).collect();
    let start = |number: usize| Process::start(setup(folder, number, count, listens[number], listens[0]), Place::Here);
    Nodes::new((0..count).map(start).collect())
}

fn kill_9() -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = on_loopback(folder.path(), 4);
    for round in 0..6 * scale() {
        let victim = round % 4;
        // What it acknowledged just before it is killed must be there afterwards, whether it had told anybody or not.
        nodes.revoke(victim, 20);
        let (setup, place) = nodes.kill(victim);
        nodes.revoke((victim + 1) % 4, 20);
        if round % 2 == 0 {
            thread::sleep(STALE_AFTER + Duration::from_millis(500));
        }
        nodes.restart(setup, place);
        nodes.wait("all are fresh", |nodes| nodes.running().all(|process| process.report().3));
    }
    nodes.converge()
}

fn wiped_and_moved() -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = on_loopback(folder.path(), 4);
    for victim in [1, 2, 3, 0] {
        nodes.revoke(victim, 50);
        nodes.wait("the others hold it", |nodes| {
            nodes.running().all(|process| {
                let (expected, denied, ..) = process.report();
                expected == denied
            })
        });
        let (setup, place) = nodes.kill(victim);
        std::fs::remove_dir_all(setup.store()).unwrap();
        let neighbour = nodes.processes.iter().flatten().next().unwrap().setup.listen;
        let listen: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        nodes.restart(Setup { listen, advertised: listen, seed: neighbour, ..setup }, place);
        let verdict = nodes.processes[victim].as_mut().unwrap().ask("check nobodys");
        assert_ne!(verdict, "clear", "it has lost its disk, and has asked nobody yet");
        nodes.wait("all are fresh", |nodes| nodes.running().all(|process| process.report().3));
    }
    nodes.converge()
}

/// More at once than queues hold: most of it is found by comparing contents.
fn flood() -> Outcome {
    let cluster = Cluster::start(3, connector());
    cluster.flood(0, 100_000 * scale());
    cluster.converge(PATIENCE)
}

/// Seconds of processor time that a process has taken.
fn processor_secs(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    // In ticks of a hundredth of a second.
    (ticks(11) + ticks(12)) / 100.0
}

/// What a cluster of 24 costs when nothing happens, and how fast news spread in it. Heartbeats and limits are the defaults.
fn nodes_24() -> Outcome {
    const COUNT: usize = 24;
    let folder = tempfile::tempdir().unwrap();
    let Some(network) = Network::new(COUNT) else { return no_network() };
    write_certificates(folder.path(), COUNT);
    let begun = Instant::now();
    let processes = (0..COUNT).map(|number| {
        let setup = setup(folder.path(), number, COUNT, Network::address(number), Network::address(0));
        let (heartbeat, stale_after) = (Duration::from_secs(1), Duration::from_secs(10));
        Process::start(Setup { heartbeat, stale_after, ..setup }, Network::place(number))
    });
    let processes: Vec<Process> = processes.collect();
    let started = begun.elapsed();
    let mut nodes = Nodes::new(processes);
    let joined = begun.elapsed();
    assert!(nodes.running().all(|process| process.ask("peers") == (COUNT - 1).to_string()));

    let pids: Vec<u32> = nodes.running().map(|process| process.pid()).collect();
    thread::sleep(Duration::from_secs(3));
    let measured = Duration::from_secs(if is_full() { 60 } else { 10 });
    let now = || {
        let processor: f64 = pids.iter().map(|pid| processor_secs(*pid)).sum();
        let bytes: u64 = (0..COUNT).map(|number| network.bytes(number).1).sum();
        (processor, bytes)
    };
    let before = now();
    thread::sleep(measured);
    let after = now();
    let per_node = measured.as_secs_f64() * COUNT as f64;
    let (processor, bytes) = ((after.0 - before.0) / per_node, (after.1 - before.1) as f64 / per_node);

    let count = 200 * scale();
    for process in nodes.running().skip(1) {
        process.ask(&format!("observe timed 0 {count}"));
    }
    let reply = nodes.processes[0].as_mut().unwrap().ask(&format!("revoke timed 0 {count} 20000"));
    let revoked: Vec<u128> = reply.split(' ').skip(1).map(|time| time.parse().unwrap()).collect();
    nodes.running().for_each(|process| _ = process.ask(&format!("expect timed 0 {count}")));
    nodes.acknowledged.push(("timed".to_owned(), count));
    nodes.wait("all deny all", |nodes| nodes.running().all(|process| process.report().1 == count));
    let mut took = Vec::new();
    for process in nodes.running().skip(1) {
        let reply = process.ask("observed");
        let seen = reply.split(' ').map(|time| time.parse::<u128>().unwrap());
        took.extend(seen.zip(&revoked).map(|(seen, revoked)| Duration::from_micros((seen - revoked) as u64)));
    }
    assert_eq!(took.len(), count * (COUNT - 1));
    took.sort_unstable();
    let [p50, p99, p999, most] =
        [500, 990, 999, 1000].map(|thousandths| percentile(&took, thousandths).as_secs_f64() * 1e3);
    println!(
        "wire gossip nodes-24 figures started_ms={} joined_ms={} cpu_percent_per_node={:.2} sent_bytes_per_s_per_node={bytes:.0} \
         p50_ms={p50:.2} p99_ms={p99:.2} p999_ms={p999:.2} max_ms={most:.2}",
        started.as_millis(),
        joined.as_millis(),
        processor * 100.0,
    );
    nodes.converge()
}

/// A connection for each of the replicas of a [`Cluster`].
pub fn connector() -> impl Fn(&Replica) -> Wire {
    let authority = TestAuthority::new().unwrap();
    let seed = OnceCell::new();
    move |replica| {
        let name = (0..64).find(|number| node_id(*number) == replica.node()).map(node_name).unwrap();
        let mut gossip = Gossip::new(([127, 0, 0, 1], 0).into(), authority.issue(&name).unwrap());
        if let Some(seed) = seed.get() {
            gossip = gossip.seed(SocketAddr::to_string(seed));
        }
        let wire = gossip.start(replica).unwrap();
        seed.set(wire.local_addr().unwrap()).ok();
        wire
    }
}

fn propagation_figures() -> Outcome {
    let cluster = Cluster::start(2, connector());
    let took = propagation(&cluster, 10_000);
    let [p50, p99, p999] = [500, 990, 999].map(|thousandths| percentile(&took, thousandths).as_micros());
    println!("wire gossip propagation tried={} p50_us={p50} p99_us={p99} p999_us={p999}", took.len());
    Outcome::Told
}
