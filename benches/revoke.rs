//! What does a revocation cost: by durability, alone, in batches, and from many callers at once? On the disk that holds the
//! temporary directory.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rescind::{Durability, Options, Revocation, Store, Subject};

fn revocation(n: u64) -> Revocation {
    Revocation::of(Subject::token(format!("00000000-0000-4000-8000-{n:012x}")))
}

fn revoke(c: &mut Criterion) {
    let mut group = c.benchmark_group("revoke");
    for (name, durability) in [
        ("sync", Durability::Sync),
        ("interval", Durability::Interval(Duration::from_millis(100))),
        ("memory", Durability::Memory),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = Options::new().durability(durability).open(directory.path().join("store")).unwrap();
        let mut n = 0_u64;
        let mut fresh = move || {
            n += 1;
            revocation(n)
        };
        for size in [1_u64, 64, 1024] {
            group.throughput(Throughput::Elements(size));
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter_batched(
                    || (0..size).map(|_| fresh()).collect::<Vec<_>>(),
                    |batch| store.revoke_many(batch).unwrap(),
                    BatchSize::SmallInput,
                );
            });
        }
        store.close().unwrap();
    }
}

/// The time that each of so many callers takes for so many revocations, one waiting for the other's sync or sharing it.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn by_callers(store: &Store, next: &AtomicU64, callers: usize, revocations: u64) -> Duration {
    let barrier = Barrier::new(callers + 1);
    let mut start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..revocations {
                    store.revoke(revocation(next.fetch_add(1, Ordering::Relaxed))).unwrap();
                }
            });
        }
        barrier.wait();
        start = Instant::now();
    });
    start.elapsed()
}

fn concurrent(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let store = Options::new().open(directory.path().join("store")).unwrap();
    let next = AtomicU64::new(0);
    let mut group = c.benchmark_group("revoke_concurrently");
    group.sample_size(20);
    for callers in [1, 8, 64] {
        group.throughput(Throughput::Elements(callers as u64));
        group.bench_function(BenchmarkId::new("sync", callers), |b| {
            b.iter_custom(|revocations| by_callers(&store, &next, callers, revocations));
        });
    }
    store.close().unwrap();
}

criterion_group!(benches, revoke, concurrent);
criterion_main!(benches);
