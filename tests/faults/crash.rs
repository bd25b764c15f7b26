//! The power goes, or the process is killed, at any operation on the disk.

use std::time::Duration;

use rescind::Durability;
use rescind::storage::MemoryStorage;

use crate::harness::{Harness, Outcome, holds, scaled};
use crate::workload::{Told, is_denied, open, operations, options, reopen, revoke, run};

/// Nothing unsynced survives, everything does, or some of it.
fn seeds(small: u64, full: u64) -> impl Iterator<Item = u64> {
    [0, u64::MAX].into_iter().chain(1..scaled(small, full))
}

/// What a workload was told before the power went at an operation, and the disk then.
fn crashed_at(operation: u64, durability: Durability) -> Result<(MemoryStorage, Told), crate::harness::Failure> {
    let disk = MemoryStorage::new();
    disk.crash_at(operation);
    let told = run(&disk, options().durability(durability), true)?;
    Ok((disk, told))
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    let (mut crash, mut again) = (Harness::new("crash"), Harness::new("crash-in-recovery"));
    for operation in 0..=operations(Durability::Sync) {
        let mut before = None;
        crash.case(
            || format!("operation {operation}"),
            || {
                before = Some(crashed_at(operation, Durability::Sync)?);
                Ok(())
            },
        );
        let Some((disk, told)) = before else { continue };
        for seed in seeds(8, 220) {
            let image = disk.crash_image(seed);
            crash.case(|| format!("operation {operation}, seed {seed}"), || told.check(&reopen(&image)?));
            // And again, while that recovers.
            if seed > 2 {
                continue;
            }
            let recovery_operations = image.operations();
            for second in (0..recovery_operations).step_by(scaled(3, 1)) {
                let image = disk.crash_image(seed);
                image.crash_at(second);
                drop(open(&image));
                for second_seed in [0, u64::MAX, operation + second + 1] {
                    let what = || format!("operation {operation}, seed {seed}, then {second}, seed {second_seed}");
                    again.case(what, || told.check(&reopen(&image.crash_image(second_seed))?));
                }
            }
        }
    }
    crash.finish();
    again.finish();
}

/// Something fails, the store heals itself, and meanwhile the power goes.
#[test]
fn a_crash_while_a_store_heals_loses_nothing_acknowledged() {
    let mut harness = Harness::new("crash-in-healing");
    for operation in (0..operations(Durability::Sync)).step_by(scaled(7, 1)) {
        for after in (1..scaled(30, 60)).step_by(scaled(3, 1)) {
            let disk = MemoryStorage::new();
            disk.fail_at(operation, std::io::ErrorKind::Other, false);
            disk.crash_at(operation + after);
            let mut before = None;
            harness.case(
                || format!("failed at {operation}, crashed {after} later"),
                || {
                    before = Some(run(&disk, options(), false)?);
                    Ok(())
                },
            );
            let Some(told) = before else { continue };
            for seed in [0, u64::MAX, operation + after] {
                let what = || format!("failed at {operation}, crashed {after} later, seed {seed}");
                harness.case(what, || told.check(&reopen(&disk.crash_image(seed))?));
            }
        }
    }
    harness.finish();
}

/// What is acknowledged before it is on disk survives the end of the process; a power cut takes the end of it, and no
/// more than since the last snapshot.
#[test]
fn what_is_accepted_survives_a_kill_and_a_crash_takes_only_its_end() {
    let (mut kill, mut crash) = (Harness::new("accepted-kill"), Harness::new("accepted-crash"));
    for durability in [Durability::Memory, Durability::Interval(Duration::from_secs(3600))] {
        for operation in (0..=operations(durability)).step_by(scaled(2, 1)) {
            let mut before = None;
            let what = || format!("{durability:?}, operation {operation}");
            kill.case(what, || {
                let (disk, told) = crashed_at(operation, durability)?;
                told.check(&reopen(&disk.kill_image())?)?;
                before = Some((disk, told));
                Ok(())
            });
            let Some((disk, told)) = before else { continue };
            for seed in seeds(6, 80) {
                crash
                    .case(|| format!("{}, seed {seed}", what()), || takes_only_the_end(&disk.crash_image(seed), &told));
            }
        }
    }
    kill.finish();
    crash.finish();
}

fn takes_only_the_end(disk: &MemoryStorage, told: &Told) -> Outcome {
    let store = reopen(disk)?;
    let denied: Vec<bool> = told.revoked.iter().map(|token| is_denied(&store, token)).collect();
    let held = denied.iter().take_while(|denied| **denied).count();
    holds(denied.iter().skip(held).all(|denied| !denied), || format!("a hole: {denied:?}"))?;
    holds(held >= told.snapshotted, || format!("{held}, and the snapshot had {}", told.snapshotted))?;
    told.check_batches(&store, false)?;
    // What comes in the place of what was torn stays, whatever of that was still there.
    let next = ["token-97", "token-98", "token-99"];
    holds(next.iter().all(|token| revoke(&store, token).is_ok()), || "nothing is wrong with the disk".into())?;
    let store = reopen(&disk.crash_image(0))?;
    holds(next.iter().all(|token| is_denied(&store, token)), || "what came afterwards is forgotten".into())
}
