//! What a failed write does to later calls, and how a store and its operator get out of it without losing a denial.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rescind::storage::{MemoryStorage, Storage};
use rescind::{
    Acknowledgement, CloseError, CopyError, Durability, ManualClock, Options, RecoveryError, Revocation, SnapshotError,
    Store, Subject, Timestamp, WriteError, verify_on,
};

use crate::hooked::Hooked;
use crate::workload::{START_SECS, is_denied, is_disabled, open, options, revoke};

/// A store in which a sync has failed, under a token that is denied in memory only and an `enable` that was not made.
fn poisoned(disk: &MemoryStorage, options: Options) -> Store {
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    revoke(&store, "kept").unwrap();
    store.disable(Subject::user("user")).unwrap();
    // The write succeeds, the sync does not.
    disk.fail_at(disk.operations() + 1, ErrorKind::Other, false);
    assert!(matches!(store.enable(Subject::user("user")), Err(WriteError::NotDurable(_))));
    assert!(matches!(revoke(&store, "memory only"), Err(WriteError::NotDurable(_))));
    assert!(is_denied(&store, "memory only") && is_disabled(&store, "user"));
    let stats = store.stats();
    assert!(stats.write_error.is_some() && stats.unsaved == 1, "{stats:?}");
    store
}

fn assert_sound(disk: &MemoryStorage) {
    let found = verify_on(disk).unwrap();
    assert!(found.is_sound(), "{found:?}");
}

#[test]
fn a_snapshot_heals_saves_what_was_in_memory_only_and_makes_nothing_that_was_refused() {
    let disk = MemoryStorage::new();
    let store = poisoned(&disk, options());
    store.snapshot().unwrap();
    let stats = store.stats();
    assert!(stats.write_error.is_none() && stats.unsaved == 0, "{stats:?}");
    // And what they make superfluous is gone.
    let count = |prefix: &str| disk.files().keys().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((count("snap-"), count("wal-")), (2, 1));
    assert_eq!(revoke(&store, "next").unwrap().acknowledgement, Acknowledgement::Durable);
    for image in [disk.crash_image(0), disk.crash_image(u64::MAX), disk.kill_image()] {
        let store = open(&image).unwrap();
        assert!(["kept", "memory only", "next"].iter().all(|token| is_denied(&store, token)));
        assert!(is_disabled(&store, "user"), "what was refused was not made");
    }
    // Also where the last snapshot turns out damaged, so that the one before it and the log must do.
    let mut files = disk.crash_image(0).files();
    let newest = files.keys().rfind(|name| name.starts_with("snap-")).unwrap().clone();
    files.get_mut(&newest).unwrap()[200] ^= 1;
    let fallen_back = open(&MemoryStorage::from_files(files)).unwrap();
    assert_eq!(fallen_back.stats().recovery.damaged_snapshots, [newest]);
    assert!(["kept", "memory only", "next"].iter().all(|token| is_denied(&fallen_back, token)));
    assert!(is_disabled(&fallen_back, "user"), "what was refused is not in the log");

    assert!(store.enable(Subject::user("user")).unwrap().is_changed());
    assert!(!is_disabled(&open(&disk.crash_image(0)).unwrap(), "user"));
    store.close().unwrap();
    assert_sound(&disk);
}

/// An `enable` was refused. Once the log goes on, that is settled: it must not come to be after a crash, although there is
/// no snapshot yet, for want of room.
#[test]
fn what_was_refused_is_wiped_from_the_log() {
    let (disk, shut) = (MemoryStorage::new(), Arc::new(AtomicBool::new(false)));
    let is_shut = Arc::clone(&shut);
    let refuse = move |name: &str| match name.starts_with("snap-") && is_shut.load(Ordering::Relaxed) {
        true => Err(ErrorKind::StorageFull.into()),
        false => Ok(()),
    };
    let store = options().open_on(Arc::new(Hooked::new(&disk).before_create(refuse))).unwrap();
    store.disable(Subject::user("user")).unwrap();
    disk.fail_at(disk.operations() + 1, ErrorKind::Other, false);
    assert!(matches!(store.enable(Subject::user("user")), Err(WriteError::NotDurable(_))));
    shut.store(true, Ordering::Relaxed);
    assert!(matches!(store.snapshot(), Err(SnapshotError::File(_))));
    assert!(store.stats().write_error.is_none(), "the log goes on");
    revoke(&store, "next").unwrap();
    let store = open(&disk.crash_image(0)).unwrap();
    assert!(is_disabled(&store, "user") && is_denied(&store, "next"));
}

/// The same where what was written is acknowledged before it is synced.
#[test]
fn what_was_accepted_stays_when_a_store_heals() {
    let disk = MemoryStorage::new();
    let interval = Durability::Interval(Duration::from_secs(3600));
    let store = options().durability(interval).open_on(Arc::new(disk.clone())).unwrap();
    revoke(&store, "accepted").unwrap();
    assert!(store.disable(Subject::user("user")).unwrap().is_changed());
    assert!(store.enable(Subject::user("user")).unwrap().is_changed());
    disk.fail_at(disk.operations(), ErrorKind::Other, false);
    // A snapshot syncs first.
    assert!(matches!(store.snapshot(), Err(SnapshotError::File(_))));
    assert!(store.stats().write_error.is_some());
    store.snapshot().unwrap();
    let store = open(&disk.crash_image(0)).unwrap();
    assert!(is_denied(&store, "accepted") && !is_disabled(&store, "user"));
}

#[test]
fn maintenance_heals_by_itself_with_growing_pauses() {
    let clock = ManualClock::at(Timestamp::from_secs(START_SECS));
    let disk = MemoryStorage::new();
    let store = poisoned(&disk, options().clock(clock.clone()));
    disk.fail_at(disk.operations(), ErrorKind::StorageFull, true);
    let mut attempts = Vec::new();
    for second in 0..200 {
        if let Some(snapshot) = store.maintain().snapshot {
            assert!(matches!(snapshot, Err(SnapshotError::Poisoned { .. })), "{snapshot:?}");
            attempts.push(second);
        }
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(attempts, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    disk.clear_faults();
    let healed = (0..60).find(|_| {
        clock.advance(Duration::from_secs(1));
        store.maintain().snapshot.is_some_and(|snapshot| snapshot.is_ok())
    });
    assert!(healed.is_some());
    assert!(is_denied(&open(&disk.crash_image(0)).unwrap(), "memory only"));
    assert!(store.stats().unsaved == 0 && store.maintain().snapshot.is_none(), "and that is all");
}

#[test]
fn closing_saves_what_it_can_and_says_what_it_cannot() {
    let disk = MemoryStorage::new();
    let store = poisoned(&disk, options());
    store.close().unwrap();
    assert!(is_denied(&open(&disk.crash_image(0)).unwrap(), "memory only"));
    assert_sound(&disk);

    let disk = MemoryStorage::new();
    let store = poisoned(&disk, options());
    disk.fail_at(disk.operations(), ErrorKind::Other, true);
    assert!(matches!(store.close(), Err(CloseError::NotDurable(_))));
    disk.clear_faults();
    let store_after = open(&disk.crash_image(0)).unwrap();
    assert!(is_denied(&store_after, "kept") && is_disabled(&store_after, "user"));
    // It is closed, and what it knew can still be had.
    let elsewhere = MemoryStorage::new();
    store.backup_on(Arc::new(elsewhere.clone())).unwrap();
    assert!(is_denied(&open(&elsewhere.crash_image(0)).unwrap(), "memory only"));
}

/// A write that was not begun poisons nothing; and what is denied in memory only is saved all the same.
#[test]
fn a_rotation_for_which_there_is_no_room_is_made_up_for() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    let large = || (0..90).map(|index| Revocation::of(Subject::session(format!("large-{index}"))));
    disk.fail_at(disk.operations(), ErrorKind::StorageFull, false);
    assert!(matches!(store.revoke_many(large()), Err(WriteError::NotDurable(_))));
    let stats = store.stats();
    assert!(stats.write_error.is_none() && stats.unsaved == 90, "{stats:?}");
    assert!(!is_denied(&open(&disk.kill_image()).unwrap(), "next"));
    revoke(&store, "next").unwrap();
    assert!(store.maintain().snapshot.unwrap().is_ok());
    assert_eq!(store.stats().unsaved, 0);
    let store = open(&disk.crash_image(0)).unwrap();
    assert_eq!(store.len(), 91);
}

#[test]
fn a_segment_is_kept_in_reserve_for_when_there_is_no_room() {
    let (disk, shut) = (MemoryStorage::new(), Arc::new(AtomicBool::new(false)));
    let is_shut = Arc::clone(&shut);
    // A full disk, or no handles left.
    let refuse =
        move |_: &str| if is_shut.load(Ordering::Relaxed) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) };
    let store = options().open_on(Arc::new(Hooked::new(&disk).before_create(refuse))).unwrap();
    store.maintain();
    shut.store(true, Ordering::Relaxed);
    let acknowledged = (0..200).take_while(|index| revoke(&store, &format!("token-{index}")).is_ok()).count();
    // What fits into the segment in use and into the one in reserve.
    let segments = disk.files().keys().filter(|name| name.starts_with("wal-")).count();
    assert!(segments == 2 && acknowledged > 40, "{acknowledged} in {segments}");
    assert!(store.stats().write_error.is_none());
    shut.store(false, Ordering::Relaxed);
    assert!(store.maintain().snapshot.unwrap().is_ok());
    store.maintain();
    assert!(disk.files().contains_key("spare.tmp"), "there is a reserve again");
    // And it is used, also after the store has healed from something worse.
    disk.fail_at(disk.operations() + 1, ErrorKind::Other, false);
    assert!(revoke(&store, "fails").is_err() && store.stats().write_error.is_some());
    store.snapshot().unwrap();
    store.maintain();
    shut.store(true, Ordering::Relaxed);
    let again = (0..200).take_while(|index| revoke(&store, &format!("again-{index}")).is_ok()).count();
    assert!(again > 40, "{again}");
    shut.store(false, Ordering::Relaxed);
    let after = open(&disk.crash_image(0)).unwrap();
    assert!((0..=acknowledged).all(|index| is_denied(&after, &format!("token-{index}"))));
}

#[test]
fn a_file_that_was_removed_is_not_written_to() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    revoke(&store, "before").unwrap();
    disk.remove("wal-0000000000000001.log").unwrap();
    assert!(matches!(revoke(&store, "after"), Err(WriteError::NotDurable(_))));
    let error = store.snapshot().unwrap_err();
    assert!(
        matches!(&error, SnapshotError::Poisoned { source, .. } if matches!(**source, RecoveryError::Corrupt { .. })),
        "{error}"
    );
    let elsewhere = MemoryStorage::new();
    store.backup_on(Arc::new(elsewhere.clone())).unwrap();
    let store = open(&elsewhere.crash_image(0)).unwrap();
    assert!(is_denied(&store, "before") && is_denied(&store, "after"));
}

#[test]
fn a_backup_is_a_store_of_its_own() {
    let disk = MemoryStorage::new();
    let with_stored_key = || Options::new().background(false).segment_bytes(4096).retain_labels(true);
    let store = with_stored_key().open_on(Arc::new(disk.clone())).unwrap();
    (0..40).for_each(|index| _ = revoke(&store, &format!("token-{index}")).unwrap());
    store.disable(Subject::user("user")).unwrap();
    let backup = MemoryStorage::new();
    let report = store.backup_on(Arc::new(backup.clone())).unwrap();
    assert_eq!(report.entries, 41);
    assert_sound(&backup);
    assert_eq!(backup.files()["KEY"], disk.files()["KEY"]);
    assert_ne!(backup.files()["STORE"], disk.files()["STORE"], "files of the two cannot be confounded");
    let restored = with_stored_key().open_on(Arc::new(backup.crash_image(0))).unwrap();
    assert!((0..40).all(|index| is_denied(&restored, &format!("token-{index}"))));
    assert_eq!(restored.list(), store.list());
    revoke(&restored, "next").unwrap();

    let refused = store.backup_on(Arc::new(backup)).unwrap_err();
    assert!(
        matches!(&refused, CopyError::File(error) if error.source.kind() == ErrorKind::DirectoryNotEmpty),
        "{refused}"
    );
    // The store of a key that was given keeps none, and so does its backup; one in memory can be kept, too.
    let backup = MemoryStorage::new();
    open(&MemoryStorage::new()).unwrap().backup_on(Arc::new(backup.clone())).unwrap();
    assert!(!backup.files().contains_key("KEY"));
    let (store, backup) = (Store::in_memory(), MemoryStorage::new());
    revoke(&store, "token").unwrap();
    store.backup_on(Arc::new(backup.clone())).unwrap();
    assert!(is_denied(&with_stored_key().open_on(Arc::new(backup)).unwrap(), "token"));
}

/// At every operation of a backup: an error changes nothing, and what is there is no store.
#[test]
fn a_backup_that_fails_leaves_no_store() {
    let store = open(&MemoryStorage::new()).unwrap();
    revoke(&store, "token").unwrap();
    let operations = {
        let backup = MemoryStorage::new();
        store.backup_on(Arc::new(backup.clone())).unwrap();
        backup.operations()
    };
    for operation in 0..operations {
        let backup = MemoryStorage::new();
        backup.fail_at(operation, ErrorKind::StorageFull, false);
        assert!(store.backup_on(Arc::new(backup.clone())).is_err(), "{operation}");
        backup.clear_faults();
        let opened = options().create_if_missing(false).open_on(Arc::new(backup.crash_image(u64::MAX)));
        let is_complete = opened.as_ref().is_ok_and(|store| is_denied(store, "token"));
        assert!(opened.is_err() || is_complete, "{operation}");
    }
    assert!(operations > 10 && is_denied(&store, "token"));
}
