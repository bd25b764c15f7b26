//! Real disks without room: a small tmpfs, a small ext4, and a disk whose own disk is full, so that syncs fail of what
//! was written with success.

use std::fs;
use std::path::Path;

use rescind::{Options, Revocation, Store, Subject, WriteError};

use crate::harness::{Failure, Harness, Outcome, holds, lost, scaled};
use crate::mount::{Disk, Mounted, needs_root};
use crate::workload::is_denied;

fn open(path: &Path) -> Result<Store, Failure> {
    let options = Options::new().segment_bytes(16 * 1024).snapshot_after_bytes(1 << 40).background(false);
    options.open(path).map_err(|error| Failure::Lost(format!("it does not open: {error}")))
}

/// What was acknowledged, and what is denied in memory only.
#[derive(Default)]
struct Told {
    acknowledged: Vec<String>,
    refused: Vec<String>,
}

impl Told {
    /// Revokes until so many revocations in a row are refused.
    fn revoke_until_full(&mut self, store: &Store, prefix: &str) -> Outcome {
        let mut refused = 0;
        for number in 0_u64.. {
            let token = format!("{prefix}-{number}");
            // Of different lengths, so that segments and pages fill up anyhow.
            let actor = "x".repeat((number * 31 % 200) as usize + 1);
            let result = store.revoke(Revocation::of(Subject::token(&*token)).by(actor));
            holds(is_denied(store, &token), || format!("{token} is not denied at once"))?;
            match result {
                Ok(_) => {
                    self.acknowledged.push(token);
                    refused = 0;
                }
                Err(WriteError::NotDurable(_)) => {
                    self.refused.push(token);
                    refused += 1;
                }
                Err(error) => return lost(error.to_string()),
            }
            if refused == 4 {
                return Ok(());
            }
        }
        Ok(())
    }

    fn check(&self, store: &Store, with_refused: bool) -> Outcome {
        let refused = self.refused.iter().filter(|_| with_refused);
        let forgotten = self.acknowledged.iter().chain(refused).find(|token| !is_denied(store, token));
        holds(forgotten.is_none(), || format!("{forgotten:?} is forgotten"))
    }
}

/// Fills the disk, looks at what a killed process would leave, frees the disk, and fails unless the store goes on and
/// everything is there.
fn fill_and_heal(store_at: &Path, ballast: u64, free: impl FnOnce()) -> Outcome {
    let mut told = Told::default();
    let store = open(store_at)?;
    // A segment is kept in reserve.
    store.maintain();
    fs::write(store_at.with_extension("ballast"), vec![1; ballast as usize]).ok();
    told.revoke_until_full(&store, "a")?;
    let stats = store.stats();
    holds(stats.unsaved == told.refused.len() as u64, || format!("{} unsaved", stats.unsaved))?;
    holds(store.snapshot().is_err(), || "a snapshot on a full disk".into())?;

    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("copy");
    copy_directory(store_at, &copy);
    told.check(&open(&copy)?, false)?;

    free();
    store.snapshot().map_err(|error| Failure::Lost(format!("there is room again, and: {error}")))?;
    holds(store.stats().unsaved == 0 && store.stats().write_error.is_none(), || {
        "healed, and it does not say so".into()
    })?;
    for number in 0..200 {
        let token = format!("b-{number}");
        match store.revoke(Revocation::of(Subject::token(&*token))) {
            Ok(_) => told.acknowledged.push(token),
            Err(error) => return lost(format!("healed, and: {error}")),
        }
    }
    copy_directory(store_at, &elsewhere.path().join("again"));
    told.check(&open(&elsewhere.path().join("again"))?, true)?;
    store.close().map_err(|error| Failure::Lost(error.to_string()))?;
    told.check(&open(store_at)?, true)
}

/// What a process leaves that is killed now.
fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_full_tmpfs_acknowledges_nothing_falsely_and_heals() {
    let mut harness = Harness::new("enospc-tmpfs");
    let tried = needs_root().and_then(|()| {
        let parent = tempfile::tempdir().unwrap();
        drop(Mounted::tmpfs(&parent, "probe", 64)?);
        for case in 0..scaled(12, 120) {
            harness.case(
                || format!("case {case}"),
                || {
                    let disk = Mounted::tmpfs(&parent, "disk", 256).map_err(Failure::Lost)?;
                    fill_and_heal(&disk.at.join("revocations"), case * 1_531, || disk.resize(8 * 1024))
                },
            );
        }
        Ok(())
    });
    if let Err(why) = tried {
        harness.skip(why);
    }
    harness.finish();
}

#[test]
fn a_full_ext4_acknowledges_nothing_falsely_and_heals() {
    let mut harness = Harness::new("enospc-ext4");
    let tried = needs_root().and_then(|()| {
        for case in 0..scaled(6, 60) {
            let parent = tempfile::tempdir().unwrap();
            let disk = Disk::sparse(parent.path(), parent.path().join("disk"), 3)?;
            let mounted = disk.mount()?;
            // Most of the room is taken by something that can go.
            let hog = mounted.at.join("hog");
            fs::write(&hog, vec![1; 900 * 1024]).ok();
            harness.case(
                || format!("case {case}"),
                || fill_and_heal(&mounted.at.join("revocations"), case * 1_531, || fs::remove_file(&hog).unwrap()),
            );
        }
        Ok(())
    });
    if let Err(why) = tried {
        harness.skip(why);
    }
    harness.finish();
}

/// The disk takes writes and fails at the sync, for what it is kept on is full. A sync that is tried again would succeed,
/// with zeros on disk.
#[test]
fn a_disk_whose_syncs_fail_or_lie_acknowledges_nothing_falsely() {
    let mut harness = Harness::new("failing-fsync");
    let (mut failed, mut unreadable) = (0, 0);
    let tried = needs_root().and_then(|()| {
        for case in 0..scaled(6, 60) {
            let parent = tempfile::tempdir().unwrap();
            let thin = Mounted::tmpfs(&parent, "thin", 1_900 + case * 7)?;
            let disk = Disk::sparse(&thin.at, parent.path().join("disk"), 24)?;
            harness.case(
                || format!("case {case}"),
                || {
                    let mut told = Told::default();
                    {
                        let mounted = disk.mount().map_err(Failure::Lost)?;
                        let store = open(&mounted.at.join("revocations"))?;
                        told.revoke_until_full(&store, "a")?;
                        failed += told.refused.len() as u64;
                        // It may try to heal, and that must not make it worse.
                        store.snapshot().ok();
                        drop(store);
                    }
                    thin.resize(64 * 1024);
                    let mounted = match disk.mount() {
                        Ok(mounted) => mounted,
                        // The file system itself did not survive: nothing is told falsely by that.
                        Err(_) => {
                            unreadable += 1;
                            return Ok(());
                        }
                    };
                    told.check(&open(&mounted.at.join("revocations"))?, false)
                },
            );
        }
        Ok(())
    });
    if let Err(why) = tried {
        harness.skip(why);
    }
    harness.note("refused", failed);
    harness.note("file_systems_lost", unreadable);
    harness.finish();
}
