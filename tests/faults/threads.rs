//! Many threads write, snapshots and healing go on among them, the disk fails now and then, and the power goes at any
//! moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rescind::storage::MemoryStorage;
use rescind::{Revocation, Store, Subject, WriteError};

use crate::harness::{Failure, Harness, Outcome, Random, holds, scaled};
use crate::workload::{is_denied, open, reopen};

/// How many revocations a thread makes.
const WRITES: usize = 24;

#[derive(Clone, Default)]
struct Told {
    /// Batches of two tokens each.
    acknowledged: Vec<String>,
    refused: Vec<String>,
}

fn members(batch: &str) -> [String; 2] {
    [format!("{batch}-a"), format!("{batch}-b")]
}

impl Told {
    /// What was acknowledged is there; of the rest all or nothing.
    fn check(&self, store: &Store) -> Outcome {
        for (batch, must_be) in
            self.acknowledged.iter().map(|b| (b, true)).chain(self.refused.iter().map(|b| (b, false)))
        {
            let there = members(batch).iter().filter(|token| is_denied(store, token)).count();
            let is_right = there == 2 || (there == 0 && !must_be);
            holds(is_right, || format!("{there} of 2 of {batch}, acknowledged: {must_be}"))?;
        }
        Ok(())
    }
}

fn round(seed: u64) -> Outcome {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    let told = Mutex::new(Told::default());
    let (done, random) = (AtomicBool::new(false), &mut Random(seed));
    let is_faulty = random.below(3) == 0;
    if is_faulty {
        disk.fail_at(disk.operations() + random.below(60), std::io::ErrorKind::Other, false);
    }
    std::thread::scope(|scope| -> Outcome {
        let writers: Vec<_> = (0..3)
            .map(|thread| {
                let (store, told) = (&store, &told);
                scope.spawn(move || -> Outcome {
                    for number in 0..WRITES {
                        let batch = format!("{thread}-{number}");
                        let tokens = members(&batch);
                        let result = store.revoke_many(tokens.iter().map(|id| Revocation::of(Subject::token(&**id))));
                        let denied = tokens.iter().all(|token| is_denied(store, token));
                        holds(denied, || format!("{batch} is not denied at once"))?;
                        match result {
                            Ok(_) => told.lock().acknowledged.push(batch),
                            Err(WriteError::NotDurable(_)) if is_faulty => told.lock().refused.push(batch),
                            Err(error) => {
                                return Err(Failure::Lost(format!("nothing is wrong with the disk: {error}")));
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let (store, done_writing) = (&store, &done);
        let keeper = scope.spawn(move || {
            while !done_writing.load(Ordering::Relaxed) {
                store.maintain();
                store.snapshot().ok();
            }
        });
        // The power goes, in another world, while they are at it.
        let mut outcome = Ok(());
        while outcome.is_ok() && !writers.iter().all(|writer| writer.is_finished()) {
            let before = told.lock().clone();
            let image = disk.crash_image([0, u64::MAX, random.next()][random.below(3) as usize]);
            outcome = reopen(&image).and_then(|store| before.check(&store));
        }
        done.store(true, Ordering::Relaxed);
        keeper.join().unwrap();
        writers.into_iter().try_for_each(|writer| writer.join().unwrap())?;
        outcome
    })?;
    let told = told.into_inner();
    told.check(&store)?;
    let is_saved = store.snapshot().is_ok();
    holds(is_saved, || "the fault is over, and there is no snapshot".into())?;
    let all = Told { acknowledged: [told.acknowledged, told.refused].concat(), refused: Vec::new() };
    all.check(&reopen(&disk.crash_image(0))?)
}

#[test]
fn threads_that_write_while_snapshots_and_faults_go_on_lose_nothing() {
    let mut harness = Harness::new("threads");
    for seed in 0..scaled(150, 5_000) {
        harness.case(|| format!("seed {seed}"), || round(seed));
    }
    harness.finish();
}

/// At capacity new revocations are refused, whichever thread they come from, and none that is there goes.
#[test]
fn a_full_store_drops_nothing() {
    let mut harness = Harness::new("capacity");
    for seed in 0..scaled(20, 200) {
        harness.case(
            || format!("seed {seed}"),
            || {
                let disk = MemoryStorage::new();
                let store = crate::workload::options().capacity(50).open_on(Arc::new(disk.clone())).unwrap();
                let told = Mutex::new(Vec::new());
                std::thread::scope(|scope| {
                    for thread in 0..8 {
                        let (store, told) = (&store, &told);
                        scope.spawn(move || {
                            for number in 0..20 {
                                let token = format!("{thread}-{number}");
                                match store.revoke(Revocation::of(Subject::token(&*token))) {
                                    Ok(_) => told.lock().push(token),
                                    Err(error) => {
                                        assert!(matches!(error, WriteError::CapacityExceeded { .. }), "{error}")
                                    }
                                }
                            }
                        });
                    }
                });
                let told = told.into_inner();
                holds(told.len() == 50 && store.len() == 50, || format!("{} of {}", told.len(), store.len()))?;
                let store = reopen(&disk.crash_image(0))?;
                holds(told.iter().all(|token| is_denied(&store, token)), || "something was dropped".into())
            },
        );
    }
    harness.finish();
}
