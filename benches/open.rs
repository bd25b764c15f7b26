//! How long does it take to open a store: from a log, and from a snapshot?
//!
//! `RESCIND_SCALE=full` adds a snapshot of ten million entries.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rescind::{Durability, Options, Revocation, Store, Subject};

fn cases() -> Vec<(&'static str, u64)> {
    // Criterion's test mode runs each bench once, to see that it works.
    if std::env::args().any(|argument| argument == "--test") {
        return vec![("log", 1_000), ("snapshot", 1_000)];
    }
    let mut cases = vec![("log", 100_000), ("snapshot", 100_000)];
    if std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full") {
        cases.push(("snapshot", 10_000_000));
    }
    cases
}

fn open(c: &mut Criterion) {
    for (from, entries) in cases() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        // No snapshot but the one that is asked for.
        let store = Options::new().durability(Durability::Memory).background(false).open(&path).unwrap();
        for first in (0..entries).step_by(10_000) {
            let batch =
                (first..entries.min(first + 10_000)).map(|n| Revocation::of(Subject::token(format!("jti-{n}"))));
            store.revoke_many(batch).unwrap();
        }
        if from == "snapshot" {
            store.snapshot().unwrap();
        }
        store.close().unwrap();
        let mut group = c.benchmark_group("open");
        group.throughput(Throughput::Elements(entries)).sample_size(10);
        group.bench_function(BenchmarkId::new(from, entries), |b| {
            b.iter(|| {
                let store = Store::open(&path).unwrap();
                assert_eq!(store.len() as u64, entries);
                store.close().unwrap();
            });
        });
    }
}

criterion_group!(benches, open);
criterion_main!(benches);
