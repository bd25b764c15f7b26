//! What recovery, rotation and snapshots do in one particular case, each with the least that shows it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{
    Acknowledgement, Durability, ManualClock, OpenError, Options, RecoveryError, Revocation, SnapshotError, Store,
    Subject, Timestamp, WriteError,
};

use crate::harness::scaled;
use crate::hooked::Hooked;
use crate::image::{Files, HEADER_BYTES, Image, State, names, reseal, token};
use crate::workload::{SEGMENT_BYTES, START_SECS, is_denied, is_disabled, open, options, revoke};

fn open_files(files: Files) -> Result<Store, OpenError> {
    open(&MemoryStorage::from_files(files))
}

/// Opens an altered image in which nothing may be missing.
fn open_whole(image: &Image, files: Files, what: &str) -> Store {
    let store = open_files(files).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(State::of(&store, image.tokens), *image.state(), "{what}");
    store
}

fn recovery_error(result: Result<Store, OpenError>) -> RecoveryError {
    match result {
        Ok(store) => panic!("opened: {:?}", store.stats().recovery),
        Err(OpenError::Recovery(error)) => error,
        Err(error) => panic!("not an error of recovery: {error}"),
    }
}

fn assert_corrupt(result: Result<Store, OpenError>, what: &str) {
    let error = recovery_error(result);
    assert!(matches!(error, RecoveryError::Corrupt { .. }), "{what}: {error}");
}

#[test]
fn a_torn_tail_is_reported_and_wiped() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    revoke(&store, "kept").unwrap();
    // The power goes while the next frame is written: a part of it reaches the disk.
    disk.crash_at(disk.operations());
    assert!(matches!(revoke(&store, "torn"), Err(WriteError::NotDurable(_))));
    let torn = (1..200).map(|seed| disk.crash_image(seed)).find(|image| {
        let bytes = &image.files()[&names(&image.files(), "wal-")[0]];
        bytes.windows(4).filter(|window| window == b"RFRM").count() == 2
            && !is_denied(&open(&image.crash_image(0)).unwrap(), "torn")
    });
    let torn = torn.expect("some seed tears the frame");

    let store = open(&torn).unwrap();
    assert!(store.stats().recovery.torn_tail_bytes > 0);
    assert!(is_denied(&store, "kept") && !is_denied(&store, "torn"));
    revoke(&store, "next").unwrap();
    drop(store);

    let store = open(&torn.crash_image(0)).unwrap();
    assert_eq!(store.stats().recovery.torn_tail_bytes, 0);
    assert!(is_denied(&store, "kept") && is_denied(&store, "next") && !is_denied(&store, "torn"));
}

#[test]
fn a_damaged_snapshot_is_made_up_for_by_the_one_before_it_and_the_log() {
    let image = Image::closed(12, &[3, 8]);
    let snapshots = names(&image.files, "snap-");
    let newest = snapshots.last().unwrap();
    assert_eq!(snapshots.len(), 2);
    let whole = |files: Files, what: String| {
        let report = open_whole(&image, files, &what).stats().recovery;
        assert_eq!(report.damaged_snapshots, std::slice::from_ref(newest), "{what}");
        assert_eq!(report.snapshot_batch, Some(3), "{what}");
    };
    let len = image.files[newest].len();
    // A version that is not known is not called damage: a later version of rescind may know it.
    for bit in (0..len * 8).filter(|bit| !(8..12).contains(&(bit / 8))).step_by(scaled(3, 1)) {
        let mut files = image.files.clone();
        files.get_mut(newest).unwrap()[bit / 8] ^= 1 << (bit % 8);
        whole(files, format!("bit {bit}"));
    }
    for shorter in (0..len).step_by(scaled(3, 1)) {
        let mut files = image.files.clone();
        files.get_mut(newest).unwrap().truncate(shorter);
        whole(files, format!("truncated to {shorter}"));
    }
    let mut files = image.files.clone();
    files.get_mut(newest).unwrap().push(0);
    whole(files, "a byte more".into());
}

#[test]
fn a_damaged_snapshot_without_another_is_refused() {
    let mut image = Image::closed(80, &[30, 60]);
    let snapshots = names(&image.files, "snap-");
    image.files.remove(&snapshots[0]);
    assert!(!image.files.contains_key("wal-0000000000000001.log"), "the log does not reach back");
    open_whole(&image, image.files.clone(), "one snapshot is enough");
    for bit in (0..image.files[&snapshots[1]].len() * 8).step_by(scaled(101, 1)) {
        let mut files = image.files.clone();
        files.get_mut(&snapshots[1]).unwrap()[bit / 8] ^= 1 << (bit % 8);
        recovery_error(open_files(files));
    }
}

#[test]
fn a_store_without_its_head_is_not_taken_for_a_new_one() {
    let disk = MemoryStorage::new();
    let stored = || options_with_stored_key().open_on(Arc::new(disk.clone()));
    revoke(&stored().unwrap(), "a").unwrap();
    let files = disk.files();
    assert!(files.contains_key("KEY") && files["KEY"].len() == 32);
    let without = |name: &str| {
        let mut files = files.clone();
        files.remove(name).unwrap();
        options_with_stored_key().open_on(Arc::new(MemoryStorage::from_files(files)))
    };
    assert_corrupt(without("STORE"), "no STORE");
    // A process that was killed has left no MARK: then it is the log that tells.
    let mut killed = files.clone();
    killed.retain(|name, _| name != "STORE" && name != "MARK");
    assert_corrupt(options_with_stored_key().open_on(Arc::new(MemoryStorage::from_files(killed))), "no STORE, no MARK");
    assert!(matches!(recovery_error(without("KEY")), RecoveryError::KeyMissing));
    assert!(matches!(recovery_error(open_files(files.clone())), RecoveryError::WrongKey { .. }));
    for bit in 0..256 {
        let mut files = files.clone();
        files.get_mut("KEY").unwrap()[bit / 8] ^= 1 << (bit % 8);
        let opened = options_with_stored_key().open_on(Arc::new(MemoryStorage::from_files(files)));
        assert!(matches!(recovery_error(opened), RecoveryError::WrongKey { .. }), "bit {bit}");
    }
    for len in [0, 31, 33] {
        let mut files = files.clone();
        files.get_mut("KEY").unwrap().resize(len, 0);
        recovery_error(options_with_stored_key().open_on(Arc::new(MemoryStorage::from_files(files))));
    }
}

fn options_with_stored_key() -> Options {
    Options::new().background(false).segment_bytes(SEGMENT_BYTES)
}

#[test]
fn a_receipt_says_what_it_is_worth() {
    let interval = Durability::Interval(Duration::from_secs(3600));
    let acknowledgements = [
        (Durability::Sync, Acknowledgement::Durable),
        (interval, Acknowledgement::Accepted),
        (Durability::Memory, Acknowledgement::Memory),
    ];
    for (durability, acknowledgement) in acknowledgements {
        let disk = MemoryStorage::new();
        let store = options().durability(durability).open_on(Arc::new(disk.clone())).unwrap();
        assert_eq!(revoke(&store, "a").unwrap().acknowledgement, acknowledgement);
        let kept = is_denied(&open(&disk.crash_image(0)).unwrap(), "a");
        assert_eq!(kept, acknowledgement == Acknowledgement::Durable);
        assert!(is_denied(&open(&disk.kill_image()).unwrap(), "a"));
        store.close().unwrap();
        assert!(is_denied(&open(&disk.crash_image(0)).unwrap(), "a"), "closing syncs");
    }
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    store.disable(Subject::user("user")).unwrap();
    revoke(&store, "lifted").unwrap();
    disk.fail_at(disk.operations() + 1, ErrorKind::Other, false);
    assert!(matches!(revoke(&store, "a"), Err(WriteError::NotDurable(_))));
    assert!(is_denied(&store, "a"), "it denies all the same");
    assert!(store.stats().write_error.is_some());

    let operations = disk.operations();
    assert!(matches!(revoke(&store, "b"), Err(WriteError::NotDurable(_))));
    assert!(is_denied(&store, "b"));
    assert!(matches!(store.enable(Subject::user("user")), Err(WriteError::NotDurable(_))));
    assert!(is_disabled(&store, "user"), "what undoes is not applied");
    assert!(matches!(store.lift(Subject::token("lifted")), Err(WriteError::NotDurable(_))));
    assert!(is_denied(&store, "lifted"), "what undoes is not applied");
    assert_eq!(disk.operations(), operations, "the disk is left alone");

    let store = open(&disk.crash_image(0)).unwrap();
    assert!(is_denied(&store, "lifted") && is_disabled(&store, "user") && !is_denied(&store, "b"));
}

#[test]
fn the_log_does_not_grow_without_end() {
    let clock = ManualClock::at(Timestamp::from_secs(START_SECS));
    let options = || options().clock(clock.clone()).snapshot_after_bytes(8192);
    let disk = MemoryStorage::new();
    let mut store = options().open_on(Arc::new(disk.clone())).unwrap();
    let mut largest = 0;
    let rounds = scaled(60, 600);
    for round in 0..rounds {
        let secs = START_SECS + round * 1000;
        let batch = (0..40).map(|index| {
            let subject = Subject::token(format!("{round}-{index}"));
            Revocation::of(subject).until_secs(secs + 500)
        });
        store.revoke_many(batch).unwrap();
        store.revoke(Revocation::of(Subject::user("always the same")).sparing_session(format!("{round}"))).unwrap();
        clock.advance(Duration::from_secs(1000));
        let report = store.maintain();
        assert!(report.snapshot.is_none_or(|snapshot| snapshot.is_ok()));
        if round % 7 == 0 {
            drop(store);
            store = options().open_on(Arc::new(disk.clone())).unwrap();
        }
        largest = largest.max(disk.files().values().map(Vec::len).sum());
    }
    assert!(store.len() < 200, "{} entries", store.len());
    assert!(largest < 64 * 1024, "{largest} bytes");
}

/// A sync that failed in one process, and a write that the next one acknowledged.
#[test]
fn what_an_earlier_process_failed_to_sync_is_written_again() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    revoke(&store, "a").unwrap();
    disk.fail_at(disk.operations() + 1, ErrorKind::StorageFull, false);
    assert!(revoke(&store, "never on disk").is_err());
    drop(store);

    // The page cache has it, the disk has not, and nothing marks it as to be written.
    let disk = disk.kill_image();
    let store = open(&disk).unwrap();
    revoke(&store, "b").unwrap();
    let store = open(&disk.crash_image(0)).unwrap();
    assert!(is_denied(&store, "a") && is_denied(&store, "b"));
}

/// The same for the frame that ends a segment.
#[test]
fn an_end_that_an_earlier_process_failed_to_sync_is_written_again() {
    let mut tried = 0;
    for operation in 0..12 {
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        let mut index = 0;
        while names(&disk.files(), "wal-").len() < 2 {
            revoke(&store, &token(index)).unwrap();
            index += 1;
        }
        // The same again, with a fault in the rotation.
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        (0..index - 1).for_each(|index| assert!(revoke(&store, &token(index)).is_ok()));
        disk.fail_at(disk.operations() + operation, ErrorKind::Other, false);
        let is_acknowledged = revoke(&store, "rotates").is_ok();
        drop(store);

        let disk = disk.kill_image();
        let store = open(&disk).unwrap();
        revoke(&store, "after").unwrap();
        let store = open(&disk.crash_image(0)).unwrap_or_else(|error| panic!("operation {operation}: {error}"));
        assert!((0..index - 1).all(|index| is_denied(&store, &token(index))) && is_denied(&store, "after"));
        assert!(is_denied(&store, "rotates") || !is_acknowledged);
        tried += 1;
    }
    assert_eq!(tried, 12);
}

/// A batch that needs a larger segment replaces one that is still empty: after an error in between it must be clear
/// which of the two is written to.
#[test]
fn a_rotation_that_may_have_happened_is_not_taken_for_one_that_has_not() {
    let large = || (0..90).map(|index| Revocation::of(Subject::session(format!("large-{index}"))));
    for tokens in [0, 12] {
        let rotation = |disk: &MemoryStorage| {
            let store = open(disk).unwrap();
            (0..tokens).for_each(|index| assert!(revoke(&store, &token(index)).is_ok()));
            store
        };
        let disk = MemoryStorage::new();
        let store = rotation(&disk);
        let first = disk.operations();
        store.revoke_many(large()).unwrap();
        for operation in first..disk.operations() {
            let disk = MemoryStorage::new();
            let store = rotation(&disk);
            disk.fail_at(operation, ErrorKind::Other, false);
            assert!(store.revoke_many(large()).is_err());
            let small = revoke(&store, "small");
            drop(store);

            let what = format!("{tokens} tokens, operation {operation}");
            for image in [disk.crash_image(0), disk.kill_image(), disk.crash_image(u64::MAX)] {
                let store = open(&image).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(small.is_err() || is_denied(&store, "small"), "{what}: acknowledged, and forgotten");
                assert!((0..tokens).all(|index| is_denied(&store, &token(index))), "{what}");
            }
        }
    }
}

#[test]
fn what_cannot_be_written_takes_no_room() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    let large = || (0..90).map(|index| Revocation::of(Subject::session(format!("large-{index}"))));
    let is_temporary = |name: &String| name.ends_with(".tmp");
    // Create a file, then fail to write to it, or to sync it.
    for (after, round) in (1..5).zip(0..) {
        disk.fail_at(disk.operations() + after, ErrorKind::StorageFull, false);
        let failed = store.revoke_many(large()).is_err();
        assert!(failed && !disk.files().keys().any(is_temporary), "segment, operation {after}: {disk:?}");
        if store.stats().write_error.is_some() {
            break;
        }
        revoke(&store, &format!("{round}")).unwrap();
        disk.fail_at(disk.operations() + after, ErrorKind::StorageFull, false);
        let failed = store.snapshot().is_err();
        assert!(!failed || !disk.files().keys().any(is_temporary), "snapshot, operation {after}: {disk:?}");
    }
}

/// A snapshot of the last batch of a segment, and a crash before that segment has its end frame.
#[test]
fn a_segment_that_ends_with_a_snapshot_gets_its_end_frame() {
    let count = {
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        (0..).find(|index| {
            revoke(&store, &token(*index)).unwrap();
            names(&disk.files(), "wal-").len() > 1
        })
    };
    let count = count.unwrap();
    for operation in 0..12 {
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        for index in 0..count {
            if index == 3 {
                store.snapshot().unwrap();
            }
            revoke(&store, &token(index)).unwrap();
        }
        store.snapshot().unwrap();
        disk.crash_at(disk.operations() + operation);
        assert!(revoke(&store, "crashed").is_err() || operation > 9);
        drop(store);
        for seed in [0, u64::MAX] {
            let disk = disk.crash_image(seed);
            let store = open(&disk).unwrap();
            revoke(&store, "after").unwrap();
            drop(store);
            // The newest snapshot turns out to be damaged: the one before it and the log must do.
            let mut files = disk.files();
            let newest = names(&files, "snap-").pop().unwrap();
            files.get_mut(&newest).unwrap()[200] ^= 1;
            let store = open_files(files).unwrap_or_else(|error| panic!("operation {operation}, seed {seed}: {error}"));
            assert!((0..count).all(|index| is_denied(&store, &token(index))) && is_denied(&store, "after"));
        }
    }
}

#[test]
fn a_damaged_snapshot_does_not_count_as_the_one_before() {
    let image = Image::closed(80, &[30, 60]);
    let mut files = image.files.clone();
    let damage = |files: &mut Files| {
        let newest = names(files, "snap-").into_iter().rfind(|name| name.ends_with(".snap")).unwrap();
        files.get_mut(&newest).unwrap()[200] ^= 1;
    };
    damage(&mut files);
    let disk = MemoryStorage::from_files(files);
    let store = open(&disk).unwrap();
    assert_eq!(store.stats().recovery.damaged_snapshots.len(), 1);
    revoke(&store, "next").unwrap();
    store.snapshot().unwrap();
    drop(store);

    let mut files = disk.files();
    damage(&mut files);
    let store = open_files(files).unwrap();
    assert!((0..80).all(|index| is_denied(&store, &token(index))) && is_denied(&store, "next"));
    assert_eq!(store.stats().recovery.snapshot_batch, Some(30));
}

#[test]
fn files_whose_names_only_look_like_ours_are_left_alone() {
    let image = Image::closed(4, &[2]);
    for name in ["wal-+00000000000001.log", "wal-000000000000000A.log", "snap-00000000000000AA.snap", "note.txt"] {
        let mut files = image.files.clone();
        files.insert(name.to_owned(), b"not ours".to_vec());
        let disk = MemoryStorage::from_files(files);
        let store = open(&disk).unwrap_or_else(|error| panic!("{name}: {error}"));
        store.snapshot().unwrap();
        assert!((0..4).all(|index| is_denied(&store, &token(index))), "{name}");
        assert_eq!(disk.files()[name], b"not ours");
    }
}

/// Numbers at the end of what 64 bits hold are refused, and not counted on from.
#[test]
fn absurd_batch_numbers_are_refused() {
    let image = Image::closed(4, &[2]);
    let snapshot = names(&image.files, "snap-").pop().unwrap();
    let segment = names(&image.files, "wal-").pop().unwrap();
    for batch in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let mut files = image.files.clone();
        let mut bytes = files.remove(&snapshot).unwrap();
        reseal(&mut bytes[..HEADER_BYTES], 48, &batch.to_le_bytes());
        files.insert(format!("snap-{batch:016x}.snap"), bytes);
        open_whole(&image, files.clone(), "a name of another sort").snapshot().unwrap();

        // Without a log there is nothing else to go by.
        let mut bytes = files.remove(&segment).unwrap();
        assert_corrupt(open_files(files.clone()), "no log");
        reseal(&mut bytes[..HEADER_BYTES], 48, &batch.to_le_bytes());
        files.insert(format!("wal-{batch:016x}.log"), bytes);
        assert_corrupt(open_files(files), "a log of another place");
    }
}

#[test]
fn a_snapshot_that_does_not_read_back_is_not_used() {
    let disk = MemoryStorage::new();
    let forgetful = Hooked::new(&disk).altering(|name, bytes| {
        // The end of a frame, and not of a header.
        if name.starts_with("snap-") && bytes.len() != HEADER_BYTES {
            *bytes.last_mut().unwrap() ^= 1;
        }
    });
    let store = options().open_on(Arc::new(forgetful)).unwrap();
    (0..60).for_each(|index| _ = revoke(&store, &token(index)).unwrap());
    for _ in 0..3 {
        assert!(matches!(store.snapshot(), Err(SnapshotError::NotTrustworthy(_))));
    }
    assert!(disk.files().keys().all(|name| !name.starts_with("snap-")), "{disk:?}");
    let store = open(&disk.crash_image(0)).unwrap();
    assert!((0..60).all(|index| is_denied(&store, &token(index))));
}

/// Whoever may choose what is written into a frame, an actor's name for instance, must not be able to make a torn tail look
/// like damage: what looks like a later frame there has the checksums of no store.
#[test]
fn what_is_written_into_a_frame_does_not_pass_for_one() {
    let image = Image::killed(8, &[]);
    let (name, last) = image.frames.last().unwrap();
    let mut forged = b"RFRM\x01\0\0\0".to_vec();
    // No payload; batch, previous and synced far beyond what there is; no times.
    for word in [0_u64, 1 << 40, 0, 1 << 40, 0, 0, 0] {
        forged.extend_from_slice(&word.to_le_bytes());
    }
    for _ in 0..2 {
        forged.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&forged).to_le_bytes());
    }
    let mut files = image.files.clone();
    let torn = &mut files.get_mut(name).unwrap()[last.start..];
    torn.fill(0);
    torn[200..200 + forged.len()].copy_from_slice(&forged);
    torn[..40].fill(b'x');
    let store = open_files(files).unwrap();
    assert_eq!(State::of(&store, image.tokens), image.states[7]);
    assert!(store.stats().recovery.torn_tail_bytes > 0);
}

/// How many tokens fit into the first segment.
pub(crate) fn tokens_in_a_segment() -> usize {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    let rotates = |index: &usize| {
        revoke(&store, &token(*index)).unwrap();
        names(&disk.files(), "wal-").len() > 1
    };
    (0..).find(rotates).unwrap()
}

/// A sync of the directory fails in a rotation. Whoever goes on must not write that the new segment is there before its
/// name is on disk.
#[test]
fn the_name_of_a_segment_is_on_disk_before_the_one_before_says_so() {
    let count = tokens_in_a_segment();
    for operation in 0..12 {
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        (0..count).for_each(|index| _ = revoke(&store, &token(index)).unwrap());
        disk.fail_at(disk.operations() + operation, ErrorKind::Other, false);
        let is_acknowledged = revoke(&store, "rotates").is_ok();
        let killed = disk.kill_image();
        drop(store);
        let operations = {
            let disk = killed.kill_image();
            drop(open(&disk));
            disk.operations()
        };
        for crash in 0..operations {
            let disk = killed.kill_image();
            disk.crash_at(crash);
            drop(open(&disk));
            for seed in [0, u64::MAX, crash + 1] {
                let opened = open(&disk.crash_image(seed));
                let store = opened.unwrap_or_else(|error| panic!("{operation}, then {crash}, seed {seed}: {error}"));
                assert!((0..count).all(|index| is_denied(&store, &token(index))));
                assert!(is_denied(&store, "rotates") || !is_acknowledged);
            }
        }
    }
}

/// A first open that did not end leaves a key, and perhaps an empty log: the next one goes on with them. Whatever else is
/// there is not taken for a store's.
#[test]
fn what_a_first_open_left_over_is_taken_up() {
    let stored = |files: &Files| options_with_stored_key().open_on(Arc::new(MemoryStorage::from_files(files.clone())));
    let disk = MemoryStorage::new();
    let key_id = options_with_stored_key().open_on(Arc::new(disk.clone())).unwrap().key_id();
    let mut files = disk.files();
    files.retain(|name, _| name == "KEY" || name.starts_with("wal-"));
    assert_eq!(files.len(), 2);
    for extra in ["wal-0000000000000001.log.tmp", "KEY.tmp"] {
        let mut files = files.clone();
        files.insert(extra.to_owned(), b"half".to_vec());
        let store = stored(&files).unwrap();
        assert_eq!(store.key_id(), key_id, "the key that is there is used");
    }
    files.remove("wal-0000000000000001.log");
    assert_eq!(stored(&files).unwrap().key_id(), key_id);
    files.insert("note.txt".to_owned(), b"not ours".to_vec());
    assert_corrupt(stored(&files), "something else");
}

#[test]
fn a_head_of_another_length_is_damage() {
    let image = Image::closed(4, &[]);
    for len in [0, 127, 129, 4096] {
        let mut files = image.files.clone();
        files.get_mut("STORE").unwrap().resize(len, 0);
        assert_corrupt(open_files(files), &format!("STORE of {len} bytes"));
    }
}

/// The report says what was read, and how much of it is log.
#[test]
fn recovery_reports_what_it_read() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    (0..10).for_each(|index| _ = revoke(&store, &token(index)).unwrap());
    store.snapshot().unwrap();
    let batch = (10..15).map(|index| Revocation::of(Subject::token(token(index))));
    store.revoke_many(batch).unwrap();
    revoke(&store, &token(15)).unwrap();
    let log_bytes = store.stats().log_bytes;
    store.close().unwrap();
    let stats = open(&disk).unwrap().stats();
    let report = &stats.recovery;
    assert_eq!((report.snapshot_batch, report.snapshot_records), (Some(10), 11), "with the limits");
    assert_eq!((report.log_batches, report.log_records, report.marked_batch), (2, 6, Some(12)));
    assert_eq!((stats.log_bytes, report.torn_tail_bytes), (log_bytes, 0));
    assert!(log_bytes > 0 && stats.snapshot_bytes == disk.files()["snap-000000000000000a.snap"].len() as u64);
}

/// What is wrong with the only snapshot is what is said, where the log does not reach back; where it does, it is enough.
#[test]
fn without_any_snapshot_the_log_must_reach_back() {
    let damage = |image: &Image, wanted: usize| {
        let mut files = image.files.clone();
        let snapshots = names(&files, "snap-");
        assert_eq!(snapshots.len(), wanted);
        snapshots.iter().for_each(|name| files.get_mut(name).unwrap()[200] ^= 1);
        files
    };
    let image = Image::closed(80, &[30, 60]);
    match recovery_error(open_files(damage(&image, 2))) {
        RecoveryError::Corrupt { segment, .. } => assert!(segment.starts_with("snap-"), "{segment}"),
        error => panic!("{error}"),
    }
    let image = Image::closed(12, &[6]);
    let store = open_whole(&image, damage(&image, 1), "the log reaches back");
    assert_eq!(store.stats().recovery.snapshot_batch, None);
    assert_eq!(store.stats().recovery.damaged_snapshots.len(), 1);
}

#[test]
fn a_snapshot_under_another_ones_name_is_set_aside() {
    let image = Image::closed(75, &[12, 50]);
    let snapshots = names(&image.files, "snap-");
    let mut files = image.files.clone();
    files.insert(snapshots[1].clone(), image.files[&snapshots[0]].clone());
    let store = open_whole(&image, files, "the older one and the log");
    assert_eq!(store.stats().recovery.damaged_snapshots, snapshots[1..]);
}

/// After a torn tail nothing of it is left, to the last byte.
#[test]
fn a_torn_tail_is_wiped_to_its_last_byte() {
    let image = Image::killed(6, &[]);
    let (name, last) = image.frames.last().unwrap();
    for end in [last.start + 1, last.start + 2, last.end - 1, last.end + 700] {
        let mut files = image.files.clone();
        let bytes = files.get_mut(name).unwrap();
        bytes[last.start..].fill(0);
        bytes[last.start..end].fill(b'x');
        let disk = MemoryStorage::from_files(files);
        let report = open(&disk).unwrap().stats().recovery;
        assert_eq!(report.torn_tail_bytes, (end - last.start) as u64);
        assert!(disk.files()[name][last.start..].iter().all(|byte| *byte == 0), "{end}");
    }
}

/// The same where it is the frame that ends a segment which was torn, and the next one is there already.
#[test]
fn a_torn_end_of_a_segment_is_reported_and_written_anew() {
    let count = tokens_in_a_segment();
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    (0..count).for_each(|index| _ = revoke(&store, &token(index)).unwrap());
    let full = disk.files()["wal-0000000000000001.log"].clone();
    revoke(&store, &token(count)).unwrap();
    drop(store);
    let mut files = disk.files();
    let last = names(&files, "wal-").pop().unwrap();
    files.remove("MARK");
    files.get_mut(&last).unwrap()[HEADER_BYTES..].fill(0);
    let first = files.get_mut("wal-0000000000000001.log").unwrap();
    let start = full.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    first[start + 40..].fill(0);
    let disk = MemoryStorage::from_files(files);
    let store = open(&disk).unwrap();
    assert!(store.stats().recovery.torn_tail_bytes > 0);
    assert!((0..count).all(|index| is_denied(&store, &token(index))));
    revoke(&store, "next").unwrap();
    drop(store);
    assert!(is_denied(&open(&disk.crash_image(0)).unwrap(), "next"));
}

/// The blocks of a snapshot are numbered, and each names the one before.
#[test]
fn a_block_out_of_its_place_is_damage() {
    let image = Image::closed(12, &[6]);
    let name = names(&image.files, "snap-").pop().unwrap();
    let bytes = &image.files[&name];
    let seed = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    let end = bytes.len() - 80;
    // The number of the last block, and the checksum of the one before it.
    for at in [16, 24] {
        let mut files = image.files.clone();
        let frame = &mut files.get_mut(&name).unwrap()[end..];
        frame[at] ^= 1;
        for (from, to) in [(64, 72), (72, 80)] {
            let checksum = xxhash_rust::xxh3::xxh3_64_with_seed(&frame[..from], seed);
            frame[from..to].copy_from_slice(&checksum.to_le_bytes());
        }
        let store = open_whole(&image, files, &format!("field {at}"));
        assert_eq!(store.stats().recovery.damaged_snapshots, std::slice::from_ref(&name), "field {at}");
    }
}

/// `MARK` is written by maintenance where there is news, and by closing; what it says is how far the log is on disk.
#[test]
fn the_mark_follows_the_log() {
    let clock = ManualClock::at(Timestamp::from_secs(START_SECS));
    let disk = MemoryStorage::new();
    let store = options().clock(clock.clone()).open_on(Arc::new(disk.clone())).unwrap();
    let field =
        |at: usize| disk.files().get("MARK").map(|mark| u64::from_le_bytes(mark[at..at + 8].try_into().unwrap()));
    let (batch, wall) = (|| field(48), || field(72).map(|nanos| nanos / 1_000_000_000));
    revoke(&store, "a").unwrap();
    assert_eq!(batch(), None);
    store.maintain();
    assert_eq!((batch(), wall()), (Some(1), Some(START_SECS)));
    for count in 2..5 {
        revoke(&store, &token(count)).unwrap();
        store.maintain();
        assert_eq!(batch(), Some(count as u64));
    }
    // Where there is nothing new it tells the time, once a minute.
    let operations = disk.operations();
    clock.advance(Duration::from_secs(59));
    store.maintain();
    assert_eq!((disk.operations(), wall()), (operations, Some(START_SECS)));
    clock.advance(Duration::from_secs(1));
    store.maintain();
    assert_eq!((disk.operations(), wall()), (operations + 1, Some(START_SECS + 60)));
    revoke(&store, "last").unwrap();
    store.close().unwrap();
    assert_eq!(batch(), Some(5));
    assert_eq!(open(&disk.crash_image(0)).unwrap().stats().recovery.marked_batch, Some(5), "and it is on disk");
}

/// It is evidence, and not needed: one that is torn, too long, or gone vouches for nothing.
#[test]
fn a_mark_that_says_nothing_is_as_good_as_none() {
    let image = Image::closed(6, &[]);
    let with = |mark: Option<Vec<u8>>| {
        let mut files = image.files.clone();
        files.remove("MARK");
        files.extend(mark.map(|mark| ("MARK".to_owned(), mark)));
        open_whole(&image, files, "MARK").stats().recovery.marked_batch
    };
    let mark = &image.files["MARK"];
    assert_eq!(with(Some(mark.clone())), Some(6));
    assert_eq!(with(None), None);
    for len in [0, 1, 127, 129, 10_000] {
        let mut mark = mark.clone();
        mark.resize(len, 0);
        assert_eq!(with(Some(mark)), None, "{len} bytes");
    }
}

/// Everything that is read of a sound store is needed: no failed read is passed over.
#[test]
fn every_failed_read_is_an_error() {
    for image in [Image::closed(4, &[]), Image::closed(75, &[12, 50])] {
        let reads = {
            let disk = MemoryStorage::from_files(image.files.clone());
            drop(open(&disk).unwrap());
            disk.reads()
        };
        let mut refused = 0;
        for read in 0..reads {
            let disk = MemoryStorage::from_files(image.files.clone());
            disk.fail_read_at(read, ErrorKind::Other, false);
            match open(&disk) {
                Err(OpenError::Recovery(RecoveryError::File(_))) => refused += 1,
                // Once open, MARK is looked for when it is first written.
                Ok(_) => assert!(read + 1 == reads, "read {read} of {reads}"),
                Err(error) => panic!("read {read}: {error}"),
            }
        }
        assert!(refused >= reads - 1 && refused > 10, "{refused} of {reads}");
    }
}
