//! What it costs to find what differs: bytes and messages, against the model; and a new replica that fetches everything.

use std::time::{Duration, Instant};

use rescind::{
    Credential, Freshness, Key, ManualClock, Options, Replica, Replication, Revocation, Subject, Timestamp, Verdict,
};

use crate::cluster::{Cluster, START};
use crate::is_full_scale;

/// Two replicas that hand each other what they say, and what that came to.
struct Pair {
    clock: ManualClock,
    nodes: [Replica; 2],
    messages: u64,
    bytes: u64,
}

impl Pair {
    fn new() -> Self {
        let clock = ManualClock::at(Timestamp::from_secs(START));
        let nodes = [0, 1].map(|index| {
            let store = Options::new().key(Key::from_bytes([7; 32])).clock(clock.clone()).background(false);
            let issuers = [Cluster::id(0), Cluster::id(1)];
            let replication = Replication::trusting_issuers("sync", Cluster::id(index), issuers);
            let replica = store.open_in_memory().unwrap().replicate(replication).unwrap();
            replica.set_peers(issuers);
            replica
        });
        Self { clock, nodes, messages: 0, bytes: 0 }
    }

    /// Hands over what there is, up to so many messages. `false` if there are more.
    fn deliver(&mut self, most: u64) -> bool {
        let mut handed = 0;
        loop {
            let mut idle = true;
            for (sender, receiver) in [(0, 1), (1, 0)] {
                while let Some(message) = self.nodes[sender].poll_transmit() {
                    if handed == most {
                        return false;
                    }
                    (idle, handed) = (false, handed + 1);
                    self.messages += 1;
                    self.bytes += message.bytes.len() as u64;
                    self.nodes[receiver].receive(self.nodes[sender].node(), &message.bytes).unwrap();
                }
            }
            if idle {
                return true;
            }
        }
    }

    fn lose_everything(&self) {
        self.nodes.iter().for_each(|node| while node.poll_transmit().is_some() {});
    }

    fn tick(&self, by: Duration) {
        self.clock.advance(by);
        self.nodes.iter().for_each(Replica::tick);
    }

    fn is_fresh(&self) -> bool {
        let now_fresh =
            |node: &Replica| matches!(node.freshness(), Freshness::Fresh { age } if age < Duration::from_secs(3));
        self.nodes.iter().all(now_fresh) && self.nodes[0].store().len() == self.nodes[1].store().len()
    }

    /// Ticks until both hold the same, and know it.
    fn until_fresh(&mut self) {
        for _ in 0..100 {
            self.tick(Duration::from_millis(500));
            assert!(self.deliver(u64::MAX));
            if self.is_fresh() {
                return;
            }
        }
        panic!("they never agree");
    }
}

fn revoke(node: &Replica, numbers: std::ops::Range<u64>) {
    let numbers: Vec<u64> = numbers.collect();
    for numbers in numbers.chunks(10_000) {
        let revocations = numbers.iter().map(|number| {
            // They expire within a day, or within a month, or never.
            let until = match number % 10 {
                0 => None,
                1..4 => Some(START + 3600 + number * 7919 % (30 * 24 * 3600)),
                _ => Some(START + 3600 + number * 7919 % (24 * 3600)),
            };
            let revocation = Revocation::of(Subject::token(number.to_string())).by("load");
            until.map_or(revocation.clone(), |until| revocation.until(Timestamp::from_secs(until)))
        });
        node.store().revoke_many(revocations).unwrap();
    }
}

/// Memory of this process in MiB: now, and at most.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what it costs here is measured")]
fn sync_costs_and_bootstrap() {
    let entries: u64 = if is_full_scale() { 10_000_000 } else { 50_000 };
    let mut pair = Pair::new();
    revoke(&pair.nodes[0], 0..entries);
    pair.lose_everything();

    // A new replica fetches everything, and is cut off in the middle.
    let before = memory().0;
    let begun = Instant::now();
    let mut cuts = 0;
    pair.tick(Duration::from_millis(500));
    let pages = entries * 42 / 65_536;
    for share in [pages / 4, pages / 2] {
        // A little at a time, and never so little that anybody stops waiting for it.
        for _ in 0..12 {
            pair.deliver(share / 6);
            pair.tick(Duration::from_millis(100));
        }
        let reached = pair.nodes[1].store().len() as u64;
        if reached > 0 && reached < entries {
            cuts += 1;
        }
        pair.lose_everything();
        let other = Credential::new().token("not revoked").issued_at_secs(START - 9);
        assert!(matches!(pair.nodes[1].store().check(&other), Verdict::Unknown(_)), "it has not caught up");
        // Longer than anybody waits for an answer.
        (0..10).for_each(|_| pair.tick(Duration::from_millis(500)));
        pair.lose_everything();
    }
    pair.until_fresh();
    let took = begun.elapsed();
    let (_, peak) = memory();
    println!(
        "bootstrap entries={entries} seconds={:.1} bytes={} bytes_per_entry={:.1} messages={} cuts={cuts} rss_before_mib={before} rss_peak_mib={peak}",
        took.as_secs_f64(),
        pair.bytes,
        pair.bytes as f64 / entries as f64,
        pair.messages,
    );
    assert!(cuts > 0, "it was cut off in the middle");
    // What was under way when the cut came is fetched again, and no more than that.
    assert!(pair.bytes < entries * 45 + 3_000_000, "{}", pair.bytes);

    // What a comparison costs, by how much differs.
    let mut next = entries;
    for (differences, model) in [(0_u64, 16_u64), (1, 1_400), (100, 87_000), (10_000, 4_500_000)] {
        pair.until_fresh();
        revoke(&pair.nodes[0], next..next + differences);
        next += differences;
        pair.lose_everything();
        (pair.messages, pair.bytes) = (0, 0);
        // Heartbeats that are sent while nothing differs, in the same number of rounds.
        let begun = Instant::now();
        pair.until_fresh();
        let (messages, bytes, took) = (pair.messages, pair.bytes, begun.elapsed());
        println!(
            "sync entries={entries} differences={differences} messages={messages} bytes={bytes} model_bytes={model} seconds={:.3}",
            took.as_secs_f64()
        );
        if is_full_scale() {
            // Heartbeats are not in the model.
            assert!(bytes < model + model / 2 + 4_000, "{bytes} for {differences}");
        }
    }
}
