//! Three processes that share what is revoked, by gossip on loopback: no server.
//!
//! `cargo run --release --features gossip --example cluster`
//!
//! One revokes, and the others deny within a millisecond or so. One is killed, and misses something; when it is started again it
//! answers neither "clear" nor anything else that it cannot know, until it has caught up.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it tells what happens, and when; real time passes"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rescind::wire::Engine;
use rescind::wire::gossip::{Credentials, Gossip, TestAuthority};
use rescind::{Credential, Key, NodeId, Options, Reason, Replication, Revocation, Subject, Verdict};

const NAMES: [&str; 3] = ["one", "two", "three"];
const USERS: [&str; 3] = ["alice", "bob", "carol"];
const PATIENCE: Duration = Duration::from_secs(20);

type Failure = Box<dyn Error>;

/// A replica: this is what a service does, and all of it.
fn replica(name: &str, folder: &Path, listen: SocketAddr, seed: &str) -> Result<(), Failure> {
    // All replicas share a key. This one is no secret.
    let store = Options::new().key(Key::from_bytes([42; 32])).open(folder.join(name))?;
    let replica =
        store.replicate(Replication::trusting_issuers("example", NodeId::named(name), NAMES.map(NodeId::named)))?;
    let file = |what: &str| folder.join(format!("{name}.{what}"));
    let credentials = Credentials::from_files(file("pem"), file("key"), folder.join("authority.pem"))?;
    let wire = Gossip::new(listen, credentials).seed(seed).start(&replica)?;

    // From here on it only shows what happens, and takes orders.
    let store = replica.store().clone();
    thread::spawn(move || {
        let mut last: [Option<String>; USERS.len()] = Default::default();
        loop {
            for (user, last) in USERS.iter().zip(&mut last) {
                let verdict = match store.check(&Credential::new().user(*user).issued_at_secs(1_700_000_000)) {
                    Verdict::Clear => "clear".to_owned(),
                    Verdict::Revoked(_) => "revoked".to_owned(),
                    Verdict::Unknown(cause) => format!("unknown: {cause}"),
                };
                if last.as_ref() != Some(&verdict) {
                    println!("{} {user} {verdict}", micros());
                    *last = Some(verdict);
                }
            }
            thread::sleep(Duration::from_micros(20));
        }
    });
    for order in io::stdin().lock().lines() {
        let begun = micros();
        replica.store().revoke(Revocation::of(Subject::user(order?)).because(Reason::Offboarding).by("example"))?;
        println!("{begun} done");
    }
    wire.close();
    Ok(())
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()
}

/// What a replica says: who, when, and what.
struct Said {
    name: &'static str,
    at: u128,
    what: String,
}

struct Process {
    child: Child,
    orders: ChildStdin,
}

struct Cluster<'a> {
    folder: &'a Path,
    addresses: BTreeMap<&'static str, SocketAddr>,
    processes: BTreeMap<&'static str, Process>,
    verdicts: BTreeMap<(&'static str, String), String>,
    says: Sender<Said>,
    said: Receiver<Said>,
}

impl Cluster<'_> {
    fn start(&mut self, name: &'static str) -> Result<(), Failure> {
        let address = |name| self.addresses.get(name).map(ToString::to_string).ok_or("no such replica");
        let seed = if name == "one" { "two" } else { "one" };
        let mut child = Command::new(std::env::current_exe()?)
            .args([name, &self.folder.display().to_string()])
            .args([address(name)?, address(seed)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let orders = child.stdin.take().ok_or("no input")?;
        let says = self.says.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((at, what)) = line.split_once(' ')
                    && let Ok(at) = at.parse()
                {
                    says.send(Said { name, at, what: what.to_owned() }).ok();
                }
            }
        });
        self.processes.insert(name, Process { child, orders });
        Ok(())
    }

    /// Shows what is said until something holds; times are from `since`.
    fn show_until(
        &mut self,
        since: u128,
        about: &[&str],
        holds: impl Fn(&BTreeMap<(&'static str, String), String>) -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.verdicts) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Said { name, at, what } = self.said.recv_timeout(left).map_err(|_| "it takes too long")?;
            if let Some((user, verdict)) = what.split_once(' ') {
                if about.contains(&user) {
                    let millis = at.saturating_sub(since) as f64 / 1000.0;
                    println!("  {millis:9.2} ms  {name:5}  {user} is {verdict}");
                }
                self.verdicts.insert((name, user.to_owned()), verdict.to_owned());
            }
        }
        Ok(())
    }

    /// Has a user revoked on a replica, and gives when that began.
    fn revoke(&mut self, name: &'static str, user: &str) -> Result<u128, Failure> {
        let begun = micros();
        writeln!(self.processes.get_mut(name).ok_or("no such replica")?.orders, "{user}")?;
        Ok(begun)
    }
}

fn is(verdicts: &BTreeMap<(&'static str, String), String>, name: &'static str, user: &str, verdict: &str) -> bool {
    verdicts.get(&(name, user.to_owned())).is_some_and(|held| held.starts_with(verdict))
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [name, folder, listen, seed] = arguments.as_slice() {
        return replica(name, Path::new(folder), listen.parse()?, seed);
    }
    let folder = tempfile::tempdir()?;
    let authority = TestAuthority::new()?;
    std::fs::write(folder.path().join("authority.pem"), authority.pem())?;
    let mut addresses = BTreeMap::new();
    for name in NAMES {
        let issued = authority.issue_pem(name)?;
        std::fs::write(folder.path().join(format!("{name}.pem")), issued.certificate)?;
        std::fs::write(folder.path().join(format!("{name}.key")), issued.key)?;
        addresses.insert(name, std::net::UdpSocket::bind(("127.0.0.1", 0))?.local_addr()?);
    }
    let (says, said) = channel();
    let (processes, verdicts) = (BTreeMap::new(), BTreeMap::new());
    let mut cluster = Cluster { folder: folder.path(), addresses, processes, verdicts, says, said };

    println!("three replicas start");
    let begun = micros();
    for name in NAMES {
        cluster.start(name)?;
    }
    cluster.show_until(begun, &["alice"], |verdicts| NAMES.iter().all(|name| is(verdicts, name, "alice", "clear")))?;

    println!("alice is revoked on one");
    let begun = cluster.revoke("one", "alice")?;
    cluster
        .show_until(begun, &["alice"], |verdicts| NAMES.iter().all(|name| is(verdicts, name, "alice", "revoked")))?;

    println!("three is killed (kill -9), and bob is revoked on two");
    let mut killed = cluster.processes.remove("three").ok_or("three is not there")?;
    killed.child.kill()?;
    killed.child.wait()?;
    let begun = cluster.revoke("two", "bob")?;
    cluster.show_until(begun, &["bob"], |verdicts| {
        ["one", "two"].iter().all(|name| is(verdicts, name, "bob", "revoked"))
    })?;

    println!("three is started again: what it holds binds, and for the rest it waits");
    cluster.verdicts.retain(|(name, _), _| *name != "three");
    let begun = micros();
    cluster.start("three")?;
    cluster.show_until(begun, &USERS, |verdicts| {
        USERS.iter().all(|user| verdicts.contains_key(&("three", (*user).to_owned())))
    })?;
    // Alice, too, if it was killed before its disk had what it heard: whoever revoked had it on theirs.
    if USERS.iter().any(|user| is(&cluster.verdicts, "three", user, "clear")) {
        return Err("three said more than it could know".into());
    }
    cluster.show_until(begun, &USERS, |verdicts| {
        ["alice", "bob"].iter().all(|user| is(verdicts, "three", user, "revoked"))
            && is(verdicts, "three", "carol", "clear")
    })?;
    for (_, mut process) in std::mem::take(&mut cluster.processes) {
        drop(process.orders);
        process.child.wait()?;
    }
    println!("three did not answer before it had caught up");
    Ok(())
}
