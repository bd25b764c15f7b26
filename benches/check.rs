//! What does a check cost: by size, by outcome, by number of subjects named, by how many hit, many at a time, on several
//! threads? Beside it, in the same run, the map that people write by hand, asked once per subject.
//!
//! `RESCIND_SCALE=full` adds ten million entries.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;
use rescind::{Credential, Revocation, Store, Subject, Verdict};

/// How many different ids are asked for, in an order that no prefetcher foresees.
const PROBES: u64 = 1 << 16;

fn sizes() -> Vec<u64> {
    // Criterion's test mode runs each bench once, to see that it works.
    if std::env::args().any(|argument| argument == "--test") {
        return vec![1_000];
    }
    let mut sizes = vec![1_000, 100_000, 1_000_000];
    if std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full") {
        sizes.push(10_000_000);
    }
    sizes
}

/// A 36-character id, as a UUID is.
fn id(space: u8, n: u64) -> String {
    let mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{space:08x}-{:04x}-4000-8000-{:012x}{:04x}", n & 0xffff, mixed >> 16, mixed & 0xffff)[..36].to_owned()
}

fn probes(space: u8, size: u64) -> Vec<String> {
    (0..PROBES).map(|n| id(space, n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % size)).collect()
}

fn store(size: u64) -> Store {
    let store = Store::in_memory();
    for first in (0..size).step_by(10_000) {
        let batch = (first..size.min(first + 10_000)).map(|n| Revocation::of(Subject::token(id(1, n))));
        store.revoke_many(batch).unwrap();
    }
    // The other kinds are in use too, so that every subject named has to be asked for.
    store.revoke(Revocation::of(Subject::session(id(2, size)))).unwrap();
    store.revoke(Revocation::of(Subject::user(id(3, size)))).unwrap();
    store.revoke(Revocation::of(Subject::tenant(id(4, size)))).unwrap();
    store.maintain();
    store
}

#[expect(clippy::disallowed_methods, reason = "the rival's values are instants")]
fn by_hand(size: u64) -> DashMap<String, Instant> {
    let map = DashMap::new();
    let now = Instant::now();
    (0..size).for_each(|n| _ = map.insert(id(1, n), now));
    map
}

fn check(c: &mut Criterion) {
    for size in sizes() {
        let store = store(size);
        let by_hand = by_hand(size);
        let absent = probes(9, PROBES);
        let present = probes(1, size);
        let (sessions, users, tenants) = (probes(10, PROBES), probes(11, PROBES), probes(12, 64));
        let mut group = c.benchmark_group(format!("check/{size}"));
        group.throughput(Throughput::Elements(1));
        let mut next = 0;
        let mut turn = move || {
            next = (next + 1) % PROBES as usize;
            next
        };
        let mut rescind = |name: &str, subjects: usize, tokens: &[String], expect_clear: bool| {
            group.bench_function(BenchmarkId::new(format!("rescind/{name}"), subjects), |b| {
                b.iter(|| {
                    let turn = turn();
                    let mut credential = Credential::new().token(&tokens[turn]);
                    if subjects >= 2 {
                        credential = credential.session(&sessions[turn]);
                    }
                    if subjects >= 4 {
                        credential = credential.user(&users[turn]).tenant(&tenants[turn]);
                    }
                    let verdict = store.check(black_box(&credential));
                    assert_eq!(verdict == Verdict::Clear, expect_clear);
                });
            });
        };
        for subjects in [1, 2, 4] {
            rescind("absent", subjects, &absent, true);
        }
        rescind("present", 1, &present, false);
        for subjects in [1, 2, 4] {
            group.bench_function(BenchmarkId::new("DashMap<String, Instant>/absent", subjects), |b| {
                let asked = [&absent, &sessions, &users, &tenants];
                b.iter(|| {
                    let turn = turn();
                    let hit = asked[..subjects].iter().any(|ids| by_hand.contains_key(black_box(&ids[turn])));
                    assert!(!hit);
                });
            });
        }
        group.bench_function(BenchmarkId::new("DashMap<String, Instant>/present", 1), |b| {
            b.iter(|| assert!(by_hand.contains_key(black_box(&present[turn()]))));
        });
    }
}

/// Which of the ids asked for are revoked, where some percent are.
fn mix(size: u64, percent: u64) -> Vec<String> {
    // Spread as evenly as a remainder is by a multiplier that shares no factor with 100.
    let is_hit = |n: u64| n.wrapping_mul(37) % 100 < percent;
    let (absent, present) = (probes(9, PROBES), probes(1, size));
    let pairs = absent.into_iter().zip(present).enumerate();
    pairs.map(|(n, (absent, present))| if is_hit(n as u64) { present } else { absent }).collect()
}

fn hits(c: &mut Criterion) {
    for size in sizes() {
        let store = store(size);
        let mut group = c.benchmark_group(format!("hits/{size}"));
        group.throughput(Throughput::Elements(1));
        for percent in [0, 1, 50, 100] {
            let tokens = mix(size, percent);
            let mut turns = tokens.iter().cycle();
            group.bench_function(BenchmarkId::new("rescind", format!("{percent}%")), |b| {
                b.iter(|| {
                    let token = turns.next().unwrap();
                    store.check(black_box(&Credential::new().token(token)))
                });
            });
        }
    }
}

fn check_many(c: &mut Criterion) {
    for size in sizes() {
        let store = store(size);
        let tokens = probes(9, PROBES);
        let credentials: Vec<_> = tokens.iter().map(|token| Credential::new().token(token)).collect();
        let mut group = c.benchmark_group(format!("check_many/{size}"));
        for many in [32, 1024] {
            group.throughput(Throughput::Elements(many as u64));
            let mut turns = credentials.chunks(many).cycle();
            let mut verdicts = Vec::with_capacity(many);
            group.bench_function(BenchmarkId::new("rescind", many), |b| {
                b.iter(|| {
                    store.check_many(black_box(turns.next().unwrap()), &mut verdicts);
                    assert_eq!(verdicts.len(), many);
                });
            });
        }
    }
}

/// The time that so many checks take on each of so many threads, from the first to begin to the last to end.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn on_threads(store: &Store, tokens: &[String], threads: usize, checks: u64) -> Duration {
    let barrier = Barrier::new(threads);
    let check_all = |first: usize| {
        let mut turns = tokens.iter().cycle().skip(first);
        barrier.wait();
        let start = Instant::now();
        for _ in 0..checks {
            let token = turns.next().unwrap();
            assert_eq!(store.check(black_box(&Credential::new().token(token))), Verdict::Clear);
        }
        (start, Instant::now())
    };
    thread::scope(|scope| {
        let check_all = &check_all;
        // Each begins elsewhere, so that none finds in a cache what another has just asked for.
        let each = (0..threads).map(|thread| scope.spawn(move || check_all(thread * tokens.len() / threads)));
        let times: Vec<_> = each.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect();
        let start = times.iter().map(|(start, _)| *start).min().unwrap();
        times.iter().map(|(_, end)| *end - start).max().unwrap()
    })
}

fn threads(c: &mut Criterion) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for size in sizes() {
        let store = store(size);
        let tokens = probes(9, PROBES);
        let mut group = c.benchmark_group(format!("threads/{size}"));
        for threads in [1, 2, 4, 8].into_iter().filter(|threads| *threads <= cores) {
            group.throughput(Throughput::Elements(threads as u64));
            group.bench_function(BenchmarkId::new("rescind/absent", threads), |b| {
                b.iter_custom(|checks| on_threads(&store, &tokens, threads, checks));
            });
        }
    }
}

criterion_group!(benches, check, hits, check_many, threads);
criterion_main!(benches);
