//! Two processes and plain TCP: what is revoked in one is denied in the other.
//!
//! `cargo run --release --example bring_your_own_transport`
//!
//! The transport is [`serve`]: a thread that reads, and a loop that ticks and writes. On a real network it would be TLS
//! with certificates on both sides, and who the peer is would come from its certificate.
#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::error::Error;
use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rescind::{
    Credential, Freshness, Key, NodeId, Options, Reason, Replica, Replication, Revocation, Subject, Verdict,
};

/// No message is longer.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Carries messages to and from one peer until the connection ends.
fn serve(replica: &Replica, peer: NodeId, stream: &TcpStream) -> io::Result<()> {
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> io::Result<()> {
            let mut stream = stream;
            loop {
                let mut length = [0; 4];
                stream.read_exact(&mut length)?;
                let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
                if length > MESSAGE_BYTES_MAX {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let mut bytes = vec![0; length];
                stream.read_exact(&mut bytes)?;
                // What is refused is counted, and changes nothing.
                replica.receive(peer, &bytes).ok();
            }
        });
        let mut writer = stream;
        let wakes = replica.subscribe();
        while !reader.is_finished() {
            wakes.recv_timeout(Duration::from_millis(100)).ok();
            replica.tick();
            while let Some(message) = replica.poll_transmit_to(peer) {
                let length = u32::try_from(message.bytes.len()).unwrap_or(u32::MAX);
                writer.write_all(&length.to_le_bytes())?;
                writer.write_all(&message.bytes)?;
            }
        }
        Ok(())
    })
}

fn start(name: &str) -> Result<Replica, Box<dyn Error>> {
    // Replicas share a key. This one is no secret.
    let store = Options::new().key(Key::from_bytes([42; 32])).open_in_memory()?;
    let (one, two) = (NodeId::named("one"), NodeId::named("two"));
    let replica = store.replicate(Replication::trusting_issuers("example", NodeId::named(name), [one, two]))?;
    replica.set_peers([one, two]);
    Ok(replica)
}

fn alice() -> Credential<'static> {
    Credential::new().user("alice").issued_at_secs(1_700_000_000)
}

#[expect(clippy::disallowed_methods, reason = "what a person waits is timed")]
/// Waits until the verdict is one of those that are waited for, and says how long that took.
fn watch(name: &str, replica: &Replica, until: impl Fn(&Verdict) -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        let verdict = replica.store().check(&alice());
        if until(&verdict) {
            println!("{name}: alice is {verdict} after {:?}", begun.elapsed());
            return begun.elapsed();
        }
        thread::sleep(Duration::from_micros(50));
    }
}

/// The second process: it is told where the first listens.
fn second(address: &str) -> Result<(), Box<dyn Error>> {
    let replica = start("two")?;
    println!("two: alice is {}", replica.store().check(&alice()));
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    thread::scope(|scope| {
        let served = scope.spawn(|| serve(&replica, NodeId::named("one"), &stream));
        watch("two", &replica, |verdict| *verdict == Verdict::Clear);
        println!("two: ready");
        watch("two", &replica, |verdict| matches!(verdict, Verdict::Revoked(_)));
        // The connection ends when the first process does.
        served.join().map(drop)
    })
    .map_err(|_| "the transport panicked")?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "what a person waits is timed")]
fn main() -> Result<(), Box<dyn Error>> {
    if let Some(address) = std::env::args().nth(1) {
        return second(&address);
    }
    let replica = start("one")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?.to_string();
    let mut child = Command::new(std::env::current_exe()?).arg(address).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("no output of the second process")?;
    let mut lines = io::BufReader::new(output).lines();
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let connection = stream.try_clone()?;
    let transport = replica.clone();
    thread::spawn(move || serve(&transport, NodeId::named("two"), &connection));

    for line in lines.by_ref() {
        let line = line?;
        println!("{line}");
        if line.ends_with("ready") {
            break;
        }
    }
    watch("one", &replica, |verdict| *verdict == Verdict::Clear);
    let begun = Instant::now();
    replica.store().revoke(Revocation::of(Subject::user("alice")).because(Reason::Offboarding).by("example"))?;
    let position = replica.position();
    println!("one: alice is {}", replica.store().check(&alice()));
    let is_held = replica.wait_until_held(position, 1, Duration::from_secs(5));
    println!("one: held by the other: {is_held}, known after {:?}", begun.elapsed());
    if let Some(line) = lines.next() {
        println!("{}", line?);
    }
    let Freshness::Fresh { .. } = replica.freshness() else { return Err("the replica is not fresh".into()) };
    stream.shutdown(std::net::Shutdown::Both)?;
    child.wait()?;
    println!("revoked in one process, denied in the other");
    Ok(())
}
