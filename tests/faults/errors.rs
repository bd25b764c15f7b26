//! Any operation on the disk fails, once or from then on.

use std::io::ErrorKind;
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{Durability, OpenError, RecoveryError};

use crate::harness::{Failure, Harness, Outcome, holds, lost, scaled};
use crate::workload::{Told, is_denied, open, operations, options, reopen, revoke, run};

/// The kinds of ENOSPC, EIO, EROFS, EDQUOT, EACCES, a write of nothing, ETIMEDOUT and ENOMEM.
const KINDS: [ErrorKind; 8] = [
    ErrorKind::StorageFull,
    ErrorKind::Other,
    ErrorKind::ReadOnlyFilesystem,
    ErrorKind::QuotaExceeded,
    ErrorKind::PermissionDenied,
    ErrorKind::WriteZero,
    ErrorKind::TimedOut,
    ErrorKind::OutOfMemory,
];

#[test]
fn an_error_at_any_operation_acknowledges_nothing_falsely() {
    let mut harness = Harness::new("error");
    let hour = Duration::from_secs(3600);
    for durability in [Durability::Sync, Durability::Interval(hour), Durability::Memory] {
        for operation in (0..operations(durability)).step_by(scaled(2, 1)) {
            for kind in &KINDS[..scaled(1, KINDS.len())] {
                for sticky in [false, true] {
                    let what = || format!("{durability:?}, {kind:?} at operation {operation}, sticky: {sticky}");
                    harness.case(what, || {
                        let disk = MemoryStorage::new();
                        disk.fail_at(operation, *kind, sticky);
                        let told = run(&disk, options().durability(durability), false)?;
                        disk.clear_faults();
                        afterwards(&disk, &told, durability == Durability::Sync)
                    });
                }
            }
        }
    }
    harness.finish();
}

/// What was acknowledged is there, whether the power goes now, or the process ends and the next one goes on, on the same
/// system, and only then the power goes: what that read may never have reached the disk.
fn afterwards(disk: &MemoryStorage, told: &Told, survives_power_cuts: bool) -> Outcome {
    let check = |disk: &MemoryStorage, told: &Told, how: &str| {
        let checked = reopen(disk).and_then(|store| told.check(&store).map(|()| store));
        checked.map_err(|(Failure::Lost(what) | Failure::Silent(what))| Failure::Lost(format!("{how}: {what}")))
    };
    for seed in [0, u64::MAX].into_iter().chain(1..scaled(2, 4)).filter(|_| survives_power_cuts) {
        check(&disk.crash_image(seed), told, &format!("a power cut with seed {seed}"))?;
    }
    let disk = disk.kill_image();
    let store = check(&disk, told, "a kill")?;
    if revoke(&store, "after").is_err() {
        return lost("after a kill: nothing is wrong with the disk any more");
    }
    for seed in [0, u64::MAX, 1] {
        let store = check(&disk.crash_image(seed), told, &format!("a kill, and a power cut with seed {seed}"))?;
        holds(is_denied(&store, "after"), || format!("seed {seed}: the next process was forgotten"))?;
    }
    Ok(())
}

/// A failing read is never taken for the end of a file, and recovery may fail at any operation of its own.
#[test]
fn an_error_while_opening_is_an_error_and_loses_nothing() {
    let mut harness = Harness::new("error-in-recovery");
    for operation in (0..=operations(Durability::Sync)).step_by(scaled(11, 3)) {
        let disk = MemoryStorage::new();
        disk.crash_at(operation);
        let Ok(told) = run(&disk, options(), true) else { continue };
        let image = || disk.crash_image(operation + 1);
        let sound = image();
        drop(open(&sound));
        for kind in &KINDS[..scaled(1, KINDS.len())] {
            for sticky in [false, true] {
                for (reads, count) in [(true, sound.reads()), (false, sound.operations())] {
                    for at in 0..count {
                        let which = if reads { "read" } else { "change" };
                        let what = || format!("crash at {operation}, then {kind:?} at {which} {at}, sticky: {sticky}");
                        harness.case(what, || {
                            let disk = image();
                            let fail = if reads { MemoryStorage::fail_read_at } else { MemoryStorage::fail_at };
                            fail(&disk, at, *kind, sticky);
                            match open(&disk) {
                                Ok(store) => told.check(&store)?,
                                Err(OpenError::Recovery(RecoveryError::File(_))) => {}
                                Err(error) => {
                                    return lost(format!("a failed disk is taken for something else: {error}"));
                                }
                            }
                            disk.clear_faults();
                            told.check(&reopen(&disk.kill_image())?)?;
                            told.check(&reopen(&disk.crash_image(at))?)
                        });
                    }
                }
            }
        }
    }
    harness.finish();
}
