//! What does a revocation cost: by durability, alone and in batches? On the disk that holds the temporary directory.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rescind::{Durability, Options, Revocation, Subject};

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
            Revocation::of(Subject::token(format!("00000000-0000-4000-8000-{n:012x}")))
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

criterion_group!(benches, revoke);
criterion_main!(benches);
