//! What does a check cost while something else goes on in the store: revocations, a sweep, a snapshot?
//!
//! Means only; `rivals` has the latencies of single checks. `RESCIND_SCALE=full` has a million entries instead of 100,000.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rescind::{Clock, Credential, Durability, ManualClock, Options, Revocation, Store, Subject, Timestamp, Verdict};

/// How many different ids are asked for.
const PROBES: u64 = 1 << 14;

fn entries() -> u64 {
    // Criterion's test mode runs each bench once, to see that it works.
    if std::env::args().any(|argument| argument == "--test") {
        1_000
    } else if std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full") {
        1_000_000
    } else {
        100_000
    }
}

/// A 36-character id, as a UUID is.
fn id(space: u8, n: u64) -> String {
    let mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{space:08x}-{:04x}-4000-8000-{:012x}", mixed >> 48, n)
}

fn fill(store: &Store, entries: u64) {
    for first in (0..entries).step_by(10_000) {
        let batch = (first..entries.min(first + 10_000)).map(|n| Revocation::of(Subject::token(id(1, n))));
        store.revoke_many(batch).unwrap();
    }
    store.maintain();
}

/// Ends the other thread however the measurement ends.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Measures checks of what is not revoked while another thread does something over and over.
fn during(c: &mut Criterion, activity: &str, store: &Store, mut act: impl FnMut() + Send) {
    let absent: Vec<_> = (0..PROBES).map(|n| id(9, n)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                act();
            }
        });
        let _done = Done(&done);
        let mut group = c.benchmark_group("load");
        group.throughput(Throughput::Elements(1));
        let mut turns = absent.iter().cycle();
        group.bench_function(BenchmarkId::new("absent", activity), |b| {
            b.iter(|| {
                let token = turns.next().unwrap();
                assert_eq!(store.check(black_box(&Credential::new().token(token))), Verdict::Clear);
            });
        });
    });
}

/// The same entries are revoked over and over, so that the table keeps its size however long this takes.
fn writer(c: &mut Criterion) {
    let entries = entries();
    let store = Store::in_memory();
    fill(&store, entries);
    let mut numbers = (0..entries).cycle();
    during(c, "writer", &store, || {
        let n = numbers.next().unwrap();
        store.revoke(Revocation::of(Subject::token(id(1, n)))).unwrap();
    });
}

/// A tenth of the entries are revoked and forgotten again.
fn sweep(c: &mut Criterion) {
    let entries = entries();
    let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
    let store = Options::new().clock(clock.clone()).background(false).open_in_memory().unwrap();
    fill(&store, entries);
    during(c, "sweep", &store, || {
        let until = clock.wall().saturating_add(Duration::from_secs(3600));
        let batch = (0..entries / 10).map(|n| Revocation::of(Subject::token(id(2, n))).until(until));
        store.revoke_many(batch).unwrap();
        clock.advance(Duration::from_secs(24 * 3600));
        assert!(store.maintain().forgotten > 0);
    });
}

fn snapshot(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new().durability(Durability::Memory).background(false);
    let store = options.open(directory.path().join("store")).unwrap();
    fill(&store, entries());
    during(c, "snapshot", &store, || _ = store.snapshot().unwrap());
    store.close().unwrap();
}

criterion_group!(benches, writer, sweep, snapshot);
criterion_main!(benches);
