//! A real file system loses power while a store writes to it.

use std::path::Path;
use std::sync::mpsc;

use rescind::{Options, Revocation, Store, Subject};

use crate::harness::{Harness, Outcome, Random, holds, lost, scaled};
use crate::mount::{Breaker, Disk, Mounted, needs_root};
use crate::workload::is_denied;

fn open(path: &Path) -> Result<Store, rescind::OpenError> {
    let options = Options::new().segment_bytes(16 * 1024).snapshot_after_bytes(32 * 1024);
    options.background(false).open(path)
}

/// Two threads revoke until the disk is gone; their acknowledgements are counted, and at some point the power is cut.
fn write_until_the_power_goes(
    store: &Store,
    (cycle, cut_after): (u64, u64),
    acknowledged: &mut Vec<String>,
    cut: impl FnOnce(),
) {
    let (told, heard) = mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, told) = (store.clone(), told.clone());
            scope.spawn(move || {
                for number in 0_u64.. {
                    let id = format!("{cycle}-{thread}-{number}");
                    let tokens = if number % 7 == 3 { vec![id.clone(), format!("{id}+")] } else { vec![id] };
                    let batch = tokens.iter().map(|token| Revocation::of(Subject::token(&**token)));
                    if store.revoke_many(batch).is_err() {
                        return;
                    }
                    told.send(tokens).unwrap();
                    // Snapshots and the mark are under way now and then when the power goes.
                    if number % 23 == 11 {
                        store.maintain();
                    }
                    if number % 61 == 40 {
                        store.snapshot().ok();
                    }
                }
            });
        }
        drop(told);
        for _ in 0..cut_after {
            acknowledged.extend(heard.recv().unwrap());
        }
        cut();
        // What was acknowledged before the threads met an error was acknowledged before the power went.
        acknowledged.extend(heard.iter().flatten());
    });
}

fn check(mounted: &Mounted, acknowledged: &[String]) -> Result<Store, crate::harness::Failure> {
    let store = match open(&mounted.at.join("revocations")) {
        Ok(store) => store,
        Err(error) => return Err(crate::harness::Failure::Lost(error.to_string())),
    };
    let forgotten: Vec<&String> = acknowledged.iter().filter(|token| !is_denied(&store, token)).collect();
    holds(forgotten.is_empty(), || format!("{} acknowledged, forgotten: {forgotten:?}", acknowledged.len()))?;
    Ok(store)
}

#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let mut harness = Harness::new("power-cut");
    if let Err(why) = try_power_cuts(&mut harness) {
        harness.skip(why);
    }
    harness.finish();
}

fn try_power_cuts(harness: &mut Harness) -> Result<(), String> {
    needs_root()?;
    let parent = tempfile::tempdir().unwrap();
    let disk = Disk::sparse(parent.path(), parent.path().join("disk"), 64)?;
    let mut breaker = Breaker::new()?;
    // Whether it can be done at all.
    breaker.cut(&disk.mount()?)?;
    let mut acknowledged = Vec::new();
    let mut random = Random(1);
    for cycle in 0..scaled(40, 1_000) {
        let cut_after = random.below(60);
        harness.case(
            || format!("cycle {cycle}, cut after {cut_after}"),
            || {
                let mounted = match disk.mount() {
                    Ok(mounted) => mounted,
                    Err(error) => return lost(format!("the file system is lost: {error}")),
                };
                let store = check(&mounted, &acknowledged)?;
                write_until_the_power_goes(&store, (cycle, cut_after), &mut acknowledged, || {
                    breaker.cut(&mounted).unwrap()
                });
                drop(store);
                Ok(())
            },
        );
    }
    harness.case(
        || "after the last cycle".to_owned(),
        || -> Outcome { check(&disk.mount().map_err(crate::harness::Failure::Lost)?, &acknowledged).map(drop) },
    );
    harness.note("acknowledged", acknowledged.len() as u64);
    Ok(())
}
