//! What does a check cost: by size, by outcome, by number of subjects named? Beside it, in the same run, the map that
//! people write by hand, asked once per subject.
//!
//! `RESCIND_SCALE=full` adds ten million entries.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::hint::black_box;
use std::time::Instant;

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

criterion_group!(benches, check);
criterion_main!(benches);
