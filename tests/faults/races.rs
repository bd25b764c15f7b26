//! Two things at once, in the one order that matters.

use std::cell::Cell;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{
    Credential, Durability, ManualClock, Pending, Revocation, SnapshotError, Store, Subject, Timestamp, Verdict,
    WriteError,
};

use crate::hooked::{Hooked, HookedClock, stop};
use crate::image::token;
use crate::recovery::tokens_in_a_segment;
use crate::workload::{START_SECS, is_denied, open, options, revoke};

#[test]
fn a_panic_in_the_storage_leaves_nobody_waiting() {
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = Arc::clone(&armed);
    let hook = move || assert!(!is_armed.load(Ordering::Relaxed), "a defect in the storage");
    let disk = MemoryStorage::new();
    let store = options().open_on(Arc::new(Hooked::new(&disk).before_sync(Arc::new(hook)))).unwrap();
    revoke(&store, "before").unwrap();
    armed.store(true, Ordering::Relaxed);
    let (answer, answered) = channel();
    let asking = store.clone();
    let asker = std::thread::spawn(move || {
        for token in ["during", "after"] {
            answer.send(revoke(&asking, token)).unwrap();
        }
    });
    for _ in 0..2 {
        let answer = answered.recv_timeout(Duration::from_secs(20)).expect("an answer");
        assert!(matches!(answer, Err(WriteError::NotDurable(_))), "{answer:?}");
    }
    asker.join().unwrap();
    assert!(is_denied(&store, "during") && is_denied(&store, "after"), "they deny all the same");
    assert!(store.stats().write_error.is_some());
    assert!(store.snapshot().is_err() && store.close().is_err());
    assert!(is_denied(&open(&disk.crash_image(0)).unwrap(), "before"));
}

#[test]
fn a_snapshot_that_meets_a_close_is_refused() {
    let (sync, hook) = stop();
    let disk = Arc::new(Hooked::new(&MemoryStorage::new()).before_sync(hook));
    let store = options().durability(Durability::Memory).open_on(disk).unwrap();
    revoke(&store, "a").unwrap();
    sync.arm();
    let closing = store.clone();
    let closer = std::thread::spawn(move || closing.close());
    sync.wait();

    // The committer is busy with its last sync.
    let (answer, answered) = channel();
    let asker = std::thread::spawn(move || answer.send(store.snapshot()).unwrap());
    let early = answered.recv_timeout(Duration::from_millis(200));
    sync.release();
    let answer = early.or_else(|_| answered.recv_timeout(Duration::from_secs(20))).expect("an answer");
    assert!(matches!(answer, Err(SnapshotError::Closed)), "{answer:?}");
    closer.join().unwrap().unwrap();
    asker.join().unwrap();
}

/// What a snapshot has seen of a batch must be in the log before it counts: or half of the batch may be all that is left.
#[test]
fn a_snapshot_waits_for_what_it_has_seen() {
    thread_local! {
        static IS_SNAPSHOTTING: Cell<bool> = const { Cell::new(false) };
    }
    let disk = MemoryStorage::new();
    let (sync, sync_hook) = stop();
    let (clock, clock_hook) = stop();
    // Once the log has been synced, and before anything is copied, the time is taken.
    let clock_hook = Arc::new(move || {
        if IS_SNAPSHOTTING.replace(false) {
            clock_hook();
        }
    });
    let manual = ManualClock::at(Timestamp::from_secs(START_SECS));
    let options = options().clock(HookedClock(manual, clock_hook));
    let store = options.open_on(Arc::new(Hooked::new(&disk).before_sync(sync_hook))).unwrap();
    revoke(&store, "before").unwrap();
    let (answer, answered) = channel();
    let snapshotting = store.clone();
    clock.arm();
    let snapshotter = std::thread::spawn(move || {
        IS_SNAPSHOTTING.set(true);
        answer.send(snapshotting.snapshot()).unwrap();
    });
    clock.wait();
    // The sync of the log that comes next is held up, and then fails.
    sync.arm();
    let revoking = store.clone();
    let revoker = std::thread::spawn(move || revoke(&revoking, "refused"));
    sync.wait();
    // It is on its way to the disk and into memory at once.
    while !is_denied(&store, "refused") {
        std::thread::yield_now();
    }
    clock.release();
    let early = answered.recv_timeout(Duration::from_millis(200));
    assert!(early.is_err(), "{early:?}");
    disk.fail_at(disk.operations(), ErrorKind::Other, false);
    sync.release();
    assert!(revoker.join().unwrap().is_err());
    assert!(answered.recv_timeout(Duration::from_secs(20)).unwrap().is_err());
    snapshotter.join().unwrap();
    assert!(disk.files().keys().all(|name| !name.starts_with("snap-")));
}

/// The next spare segment is made under the name of the one that is being put to use: not before that has another.
#[test]
fn a_spare_segment_is_not_replaced_while_it_is_put_to_use() {
    thread_local! {
        static READINGS: Cell<u32> = const { Cell::new(0) };
    }
    let count = tokens_in_a_segment();
    let (sync, sync_hook) = stop();
    let (clock, clock_hook) = stop();
    // Maintenance has asked for the time once before, and does so again when it comes to the spare segment.
    let clock_hook = Arc::new(move || {
        let readings = READINGS.get();
        READINGS.set(readings.saturating_sub(1));
        if readings == 1 {
            clock_hook();
        }
    });
    let disk = MemoryStorage::new();
    let manual = ManualClock::at(Timestamp::from_secs(START_SECS));
    let options = options().clock(HookedClock(manual, clock_hook));
    let store = options.open_on(Arc::new(Hooked::new(&disk).before_sync(sync_hook))).unwrap();
    store.maintain();
    (0..count).for_each(|index| _ = revoke(&store, &token(index)).unwrap());

    let maintaining = store.clone();
    clock.arm();
    let maintainer = std::thread::spawn(move || {
        READINGS.set(2);
        maintaining.maintain();
    });
    clock.wait();
    // The first sync of what comes next is that of the spare segment's header.
    sync.arm();
    let revoking = store.clone();
    let revoker = std::thread::spawn(move || revoke(&revoking, "rotates"));
    sync.wait();
    clock.release();
    // It has nothing to do but to make the next, if it may.
    let made = (0..200).find(|_| {
        std::thread::yield_now();
        maintainer.is_finished()
    });
    sync.release();
    revoker.join().unwrap().unwrap();
    maintainer.join().unwrap();
    assert_eq!(made, None, "the next one was made in its place");
    assert!(is_denied(&open(&disk.crash_image(0)).unwrap(), "rotates"));
    assert!(disk.files().contains_key("spare.tmp"));
}

/// The check has found nothing when the revocation begins, and notes that the credential is from beyond the clock once the
/// revocation has seen to that: it is to look again, and not to let in what outlives the revocation.
#[test]
fn check_that_meets_a_revocation_on_its_way_to_the_disk_looks_again() {
    let (sync, sync_hook) = stop();
    let revoking: Arc<Mutex<Option<Store>>> = Arc::default();
    let pending: Arc<Mutex<Option<Pending>>> = Arc::default();
    let clock_hook = {
        let (revoking, pending) = (Arc::clone(&revoking), Arc::clone(&pending));
        move || {
            let store = revoking.lock().unwrap().take();
            if let Some(store) = store {
                let submitted = store.submit(Revocation::of(Subject::user("alice"))).unwrap();
                *pending.lock().unwrap() = Some(submitted);
            }
        }
    };
    let clock = HookedClock(ManualClock::at(Timestamp::from_secs(START_SECS)), Arc::new(clock_hook));
    let disk = Hooked::new(&MemoryStorage::new()).before_sync(sync_hook);
    let store = options().clock(clock).open_on(Arc::new(disk)).unwrap();
    let old = Credential::new().user("alice").issued_at_secs(START_SECS + 1).auth_time_secs(START_SECS + 1);
    sync.arm();
    *revoking.lock().unwrap() = Some(store.clone());
    let verdict = store.check(&old);
    sync.wait();
    sync.release();
    pending.lock().unwrap().take().unwrap().wait().unwrap();
    assert!(verdict != Verdict::Clear || matches!(store.check(&old), Verdict::Revoked(_)));
    assert!(matches!(verdict, Verdict::Revoked(_)), "{verdict}");
}
