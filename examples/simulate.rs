//! A cluster of thirty on one thread, in simulated time: news spread, a partition, a replica that loses its disk.
//!
//! `cargo run --release --example simulate [seed] [picture.svg]`
//!
//! It prints what happens, and draws what each replica answers about one credential: clear, revoked, or "I cannot know".
//! The same seed gives the same run.
#![allow(clippy::print_stdout, reason = "it tells what happens")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rescind::{
    Cause, Credential, Key, ManualClock, NodeId, Options, Reason, Replica, Replication, Revocation, Subject, Timestamp,
    Verdict,
};

const NODES: usize = 30;
/// The first so many issue.
const ISSUERS: usize = 3;
/// Those from here on are in the other half when the network is cut.
const FAR: usize = 20;
const START: u64 = 1_800_000_000;
const STEP: Duration = Duration::from_millis(10);
const LENGTH: Duration = Duration::from_secs(32);

/// When a message arrives, whose it is, whom it is for, and what is in it; with a number, so that order is certain.
type InFlight = Reverse<(Duration, u64, usize, usize, Arc<[u8]>)>;

struct Simulation {
    clock: ManualClock,
    now: Duration,
    replicas: Vec<Option<Replica>>,
    in_flight: BinaryHeap<InFlight>,
    sent: u64,
    bytes: u64,
    is_cut: bool,
    random: u64,
}

fn id(index: usize) -> NodeId {
    NodeId::named(&format!("node {index}"))
}

fn alice() -> Credential<'static> {
    Credential::new().user("alice").issued_at_secs(START - 3600)
}

impl Simulation {
    fn new(seed: u64) -> Result<Self, Box<dyn Error>> {
        let clock = ManualClock::at(Timestamp::from_secs(START));
        let (in_flight, replicas) = (BinaryHeap::new(), Vec::new());
        let mut simulation =
            Self { clock, now: Duration::ZERO, replicas, in_flight, sent: 0, bytes: 0, is_cut: false, random: seed };
        for index in 0..NODES {
            let replica = simulation.start(index)?;
            simulation.replicas.push(Some(replica));
        }
        Ok(simulation)
    }

    /// A replica that knows nothing yet.
    fn start(&self, index: usize) -> Result<Replica, Box<dyn Error>> {
        let options = Options::new().key(Key::from_bytes([1; 32])).clock(self.clock.clone()).background(false);
        let replication = Replication::trusting_issuers("simulated", id(index), (0..ISSUERS).map(id));
        let replica = options.open_in_memory()?.replicate(replication.stale_after(Duration::from_secs(5)))?;
        replica.set_peers((0..NODES).map(id));
        Ok(replica)
    }

    fn put(&mut self, index: usize, replica: Option<Replica>) {
        if let Some(place) = self.replicas.get_mut(index) {
            *place = replica;
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// One in fifty messages is lost; the others take 5 to 30 ms, a few of them ten times as long.
    fn send(&mut self, from: usize, to: usize, bytes: Arc<[u8]>) {
        self.sent += 1;
        self.bytes += bytes.len() as u64;
        let is_cut = self.is_cut && (from < FAR) != (to < FAR);
        if is_cut || self.random(50) == 0 {
            return;
        }
        let slow = if self.random(20) == 0 { 10 } else { 1 };
        let delay = Duration::from_millis((5 + self.random(25)) * slow);
        self.in_flight.push(Reverse((self.now + delay, self.sent, from, to, bytes)));
    }

    fn step(&mut self) {
        self.now += STEP;
        self.clock.advance(STEP);
        while self.in_flight.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
            let Some(Reverse((_, _, from, to, bytes))) = self.in_flight.pop() else { break };
            if let Some(Some(replica)) = self.replicas.get(to) {
                replica.receive(id(from), &bytes).ok();
            }
        }
        for from in 0..NODES {
            let Some(Some(replica)) = self.replicas.get(from).cloned() else { continue };
            replica.tick();
            while let Some(message) = replica.poll_transmit() {
                if let Some(to) = (0..NODES).find(|to| id(*to) == message.to) {
                    self.send(from, to, message.bytes);
                }
            }
        }
    }

    fn verdict(&self, index: usize) -> Verdict {
        let replica = self.replicas.get(index).and_then(Option::as_ref);
        replica.map_or(Verdict::Unknown(Cause::Closed), |replica| replica.store().check(&alice()))
    }

    fn replica(&self, index: usize) -> Result<&Replica, &'static str> {
        self.replicas.get(index).and_then(Option::as_ref).ok_or("a replica that is down")
    }
}

fn counted(verdicts: &[Verdict]) -> String {
    let (mut clear, mut revoked, mut unknown) = (0, 0, 0);
    for verdict in verdicts {
        match verdict {
            Verdict::Clear => clear += 1,
            Verdict::Revoked(_) => revoked += 1,
            Verdict::Unknown(_) => unknown += 1,
        }
    }
    format!("{clear:2} clear  {revoked:2} revoked  {unknown:2} cannot know")
}

/// One row a replica, one column a tenth of a second.
fn picture(samples: &[Vec<Verdict>], notes: &[(Duration, &str)]) -> Result<String, std::fmt::Error> {
    let (cell, height, left, top) = (4, 12, 70, 60);
    let width = left + samples.len() * cell + 20;
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{}" font-family="sans-serif" font-size="11">"#,
        top + NODES * height + 50
    )?;
    writeln!(svg, r##"<rect width="100%" height="100%" fill="#ffffff"/>"##)?;
    for row in 0..NODES {
        let y = top + row * height;
        let role = if row < ISSUERS { "issuer" } else { "node" };
        writeln!(svg, r#"<text x="4" y="{}">{role} {row}</text>"#, y + 10)?;
        let mut start = 0;
        let color = |column: usize| match samples.get(column).and_then(|verdicts| verdicts.get(row)) {
            Some(Verdict::Clear) => "#9bd0a0",
            Some(Verdict::Revoked(_)) => "#c0504d",
            Some(Verdict::Unknown(_)) => "#c8c8c8",
            None => "",
        };
        for column in 1..=samples.len() {
            if color(column) != color(start) {
                let (x, width) = (left + start * cell, (column - start) * cell);
                writeln!(
                    svg,
                    r#"<rect x="{x}" y="{y}" width="{width}" height="{}" fill="{}"/>"#,
                    height - 2,
                    color(start)
                )?;
                start = column;
            }
        }
    }
    for (number, (at, note)) in notes.iter().enumerate() {
        let x = left + usize::try_from(at.as_millis() / 100).unwrap_or(0) * cell;
        let y = 14 + number % 3 * 15;
        writeln!(
            svg,
            r##"<line x1="{x}" y1="{y}" x2="{x}" y2="{}" stroke="#333" stroke-dasharray="2 2"/>"##,
            top + NODES * height
        )?;
        writeln!(svg, r#"<text x="{}" y="{y}">{:.0} s: {note}</text>"#, x + 3, at.as_secs_f64())?;
    }
    let y = top + NODES * height + 30;
    for (index, (color, what)) in
        [("#9bd0a0", "clear"), ("#c0504d", "revoked"), ("#c8c8c8", "cannot know")].iter().enumerate()
    {
        let x = left + index * 110;
        writeln!(
            svg,
            r#"<rect x="{x}" y="{}" width="12" height="12" fill="{color}"/><text x="{}" y="{y}">{what}</text>"#,
            y - 10,
            x + 18
        )?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

fn main() -> Result<(), Box<dyn Error>> {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let path = std::env::args().nth(2).unwrap_or_else(|| "target/simulation.svg".to_owned());
    let mut simulation = Simulation::new(seed)?;
    let (mut samples, mut notes, mut delays, mut said) = (Vec::new(), Vec::new(), Vec::new(), String::new());
    let mut revoked_at: Option<(Duration, [bool; NODES])> = None;
    println!(
        "{NODES} replicas, {ISSUERS} of which issue; messages take 5 to 300 ms, one in fifty is lost; seed {seed}\n"
    );
    while simulation.now < LENGTH {
        simulation.step();
        let second = |secs| simulation.now == Duration::from_secs(secs);
        let mut note = None;
        if second(5) {
            note = Some("the network is cut between nodes 19 and 20");
            simulation.is_cut = true;
        } else if second(7) {
            note = Some("alice is offboarded on issuer 0");
            let alice = Subject::user("alice");
            simulation.replica(0)?.store().revoke(Revocation::of(alice).because(Reason::Offboarding).by("hr"))?;
            revoked_at = Some((simulation.now, [false; NODES]));
        } else if second(16) {
            note = Some("the network is whole again");
            simulation.is_cut = false;
        } else if second(20) {
            note = Some("node 9 fails, and loses its disk");
            simulation.put(9, None);
        } else if second(24) {
            note = Some("node 9 is back, with nothing");
            let replica = simulation.start(9)?;
            simulation.put(9, Some(replica));
        }
        let verdicts: Vec<Verdict> = (0..NODES).map(|index| simulation.verdict(index)).collect();
        if let Some((at, known)) = &mut revoked_at {
            for (verdict, known) in verdicts.iter().zip(known) {
                if !*known && matches!(verdict, Verdict::Revoked(_)) {
                    *known = true;
                    delays.push(simulation.now - *at);
                }
            }
        }
        if let Some(note) = note {
            println!("{:6.2} s  -- {note}", simulation.now.as_secs_f64());
            notes.push((simulation.now, note));
        }
        let counts = counted(&verdicts);
        if counts != said {
            println!("{:6.2} s  {counts}", simulation.now.as_secs_f64());
            said = counts;
        }
        if simulation.now.as_millis() % 100 == 0 {
            samples.push(verdicts);
        }
    }
    delays.sort_unstable();
    let of =
        |share: usize| delays.get((delays.len() * share).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
    println!(
        "\nrevoked on one, denied on half after {:?}, on the connected two thirds after {:?}, on all after {:?}",
        of(50),
        of(66),
        of(100)
    );
    println!("{} messages, {} bytes in {:?} of simulated time", simulation.sent, simulation.bytes, simulation.now);
    std::fs::write(&path, picture(&samples, &notes)?)?;
    println!("the picture is in {path}");
    let all = (0..NODES).all(|index| matches!(simulation.verdict(index), Verdict::Revoked(_)));
    if all { Ok(()) } else { Err("some replica does not deny in the end".into()) }
}
