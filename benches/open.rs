//! How long does it take to open a store: from a log, and from a snapshot?
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rescind::{Revocation, Store, Subject};

fn open(c: &mut Criterion) {
    const ENTRIES: u64 = 100_000;
    let mut group = c.benchmark_group("open");
    group.throughput(Throughput::Elements(ENTRIES)).sample_size(10);
    for from in ["log", "snapshot"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = Store::open(&path).unwrap();
        for first in (0..ENTRIES).step_by(10_000) {
            let batch = (first..first + 10_000).map(|n| Revocation::of(Subject::token(format!("jti-{n}"))));
            store.revoke_many(batch).unwrap();
        }
        if from == "snapshot" {
            store.snapshot().unwrap();
        }
        store.close().unwrap();
        group.bench_function(BenchmarkId::new(from, ENTRIES), |b| {
            b.iter(|| {
                let store = Store::open(&path).unwrap();
                assert_eq!(store.len(), ENTRIES as usize);
                store.close().unwrap();
            });
        });
    }
}

criterion_group!(benches, open);
criterion_main!(benches);
