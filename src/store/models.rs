//! Models of what threads do to a store at once: a scheduler tries one order after another, and whatever order it was,
//! what was acknowledged is on disk, and of a batch all or nothing.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --release --lib shuttle_`; `RESCIND_SCALE=full` tries more orders.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a model that fails panics")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shuttle::rand::Rng;

use super::{CloseError, Durability, Options, Replica, Rotation, Store, WriteError};
use crate::clock::ManualClock;
use crate::model::{Credential, Key, Revocation, Subject, Timestamp, Verdict};
use crate::replication::{Freshness, NodeId, Replication};
use crate::storage::{MemoryStorage, Storage, StorageFile};
use crate::sync::thread;

/// Tries many orders: at random, and with few changes of who is preferred.
fn try_orders(model: fn()) {
    let orders = if std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full") { 20_000 } else { 2_000 };
    shuttle::check_random(model, orders);
    shuttle::check_pct(model, orders, 3);
}

/// Another thread may go on here, or this one: whereas one that *yields* is put behind all others.
fn step() {
    shuttle::sync::atomic::AtomicBool::new(true).load(shuttle::sync::atomic::Ordering::SeqCst);
}

/// A storage at whose every operation another thread may go on. It may have no room for another segment.
#[derive(Debug)]
struct Stepping {
    disk: MemoryStorage,
    has_room: bool,
}

#[derive(Debug)]
struct SteppingFile(Box<dyn StorageFile>);

impl Storage for Stepping {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        step();
        if !self.has_room && name.starts_with("wal-") {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Box::new(SteppingFile(self.disk.create(name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(SteppingFile(self.disk.open(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        step();
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        step();
        self.disk.sync_directory()
    }
}

impl StorageFile for SteppingFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        step();
        self.0.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        step();
        self.0.sync()
    }
}

fn options() -> Options {
    let clock = ManualClock::at(Timestamp::from_secs(1_700_000_000));
    Options::new().key(Key::from_bytes([7; 32])).clock(clock).background(false).segment_bytes(4096)
}

fn open(disk: &MemoryStorage, options: Options) -> Store {
    options.open_on(Arc::new(Stepping { disk: disk.clone(), has_room: true })).unwrap()
}

/// A token, in the table of rows, and a user, in the map of what is wide: a walk meets them at different times.
fn batch(name: &str) -> [Revocation; 2] {
    [Revocation::of(Subject::token(name)), Revocation::of(Subject::user(name))]
}

/// How much of a batch is denied.
fn denied(store: &Store, name: &str) -> usize {
    let credentials = [Credential::new().token(name), Credential::new().user(name)];
    credentials.iter().filter(|credential| matches!(store.check(credential), Verdict::Revoked(_))).count()
}

/// What was told, shared by the threads of a model. Nobody is stopped while holding it.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(String, bool)>>>);

impl Told {
    /// Revokes a batch, which must be denied at once, and notes whether that was acknowledged.
    fn revoke(&self, store: &Store, name: &str) {
        let result = store.revoke_many(batch(name));
        match result {
            Err(WriteError::Closed) => assert_eq!(denied(store, name), 0, "refused, and it is there"),
            _ => {
                assert_eq!(denied(store, name), 2, "denied at once");
                self.0.lock().push((name.to_owned(), result.is_ok()));
            }
        }
    }

    fn so_far(&self) -> Vec<(String, bool)> {
        self.0.lock().clone()
    }
}

/// What was acknowledged is there, of the rest all or nothing.
fn check(disk: &MemoryStorage, told: &[(String, bool)], names: &[&str]) {
    let store = open(disk, options());
    for (name, acknowledged) in told {
        let there = denied(&store, name);
        assert!(there == 2 || (there == 0 && !acknowledged), "{there} of {name}, acknowledged: {acknowledged}");
    }
    for name in names {
        assert_ne!(denied(&store, name), 1, "half of {name}");
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Two threads revoke, one takes snapshots, and the power goes at some moment.
fn writers_and_snapshots(durability: Durability, may_fail: bool) {
    let disk = MemoryStorage::new();
    let store = open(&disk, options().durability(durability));
    if may_fail {
        // So that a rotation may fail as well.
        fill(&store);
        let after = shuttle::rand::thread_rng().gen_range(0..24);
        disk.fail_at(disk.operations() + after, io::ErrorKind::Other, false);
    }
    let told = Told::default();
    let writers = [&NAMES[..2], &NAMES[2..]].map(|names| {
        let (store, told) = (store.clone(), told.clone());
        thread::spawn(move || names.iter().for_each(|name| told.revoke(&store, name)))
    });
    let snapshotter = {
        let store = store.clone();
        thread::spawn(move || {
            store.snapshot().ok();
            store.maintain();
        })
    };
    let power = {
        let (disk, told) = (disk.clone(), told.clone());
        thread::spawn(move || {
            for _ in 0..shuttle::rand::thread_rng().gen_range(0..60) {
                step();
            }
            let told = told.so_far();
            let seed = [0, u64::MAX, shuttle::rand::thread_rng().gen_range(1..1_000)];
            (told, disk.crash_image(seed[shuttle::rand::thread_rng().gen_range(0..3)]))
        })
    };
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    snapshotter.join().unwrap();
    let (before, image) = power.join().unwrap();
    match durability {
        Durability::Sync => check(&image, &before, &NAMES),
        // What is accepted is not on disk yet.
        _ => check(&image, &[], &NAMES),
    }
    if durability == Durability::Sync {
        check(&disk.crash_image(0), &told.so_far(), &NAMES);
    }
    // The fault is over: a snapshot saves everything.
    store.snapshot().unwrap();
    assert_eq!(store.stats().unsaved, 0);
    let all: Vec<_> = NAMES.iter().map(|name| ((*name).to_owned(), true)).collect();
    check(&disk.crash_image(0), &all, &NAMES);
}

#[test]
fn shuttle_what_is_acknowledged_survives_a_power_cut_among_writers_and_snapshots() {
    try_orders(|| writers_and_snapshots(Durability::Sync, false));
}

#[test]
fn shuttle_nothing_is_lost_when_the_disk_fails_among_writers_and_snapshots() {
    try_orders(|| writers_and_snapshots(Durability::Sync, true));
}

#[test]
fn shuttle_what_is_accepted_is_whole_or_not_there() {
    try_orders(|| writers_and_snapshots(Durability::Interval(Duration::from_secs(1)), false));
}

/// A batch that there is no room for is in memory, whole, and not in the log: no snapshot has a half of it.
#[test]
fn shuttle_a_batch_that_is_refused_is_not_half_in_a_snapshot() {
    try_orders(|| {
        let disk = MemoryStorage::new();
        // The segment in use is full but for one batch.
        let store = open(&disk, options());
        fill(&store);
        drop(store);
        let store = options().open_on(Arc::new(Stepping { disk: disk.clone(), has_room: false })).unwrap();
        let writer = {
            let store = store.clone();
            thread::spawn(move || NAMES.map(|name| store.revoke_many(batch(name)).is_ok()))
        };
        store.snapshot().ok();
        let acknowledged = writer.join().unwrap();
        assert!(!acknowledged[2], "there is no room for all of them");
        let told: Vec<_> = NAMES.iter().zip(acknowledged).map(|(name, told)| ((*name).to_owned(), told)).collect();
        check(&disk.crash_image(0), &told, &NAMES);
    });
}

/// Leaves room for a batch or two in the first segment.
fn fill(store: &Store) {
    store.revoke_many((0..70).map(|number| Revocation::of(Subject::token(format!("filler-{number}"))))).unwrap();
}

/// The log before a snapshot is not read again: nothing of it may be missing in the snapshot.
#[test]
fn shuttle_a_snapshot_has_all_that_the_log_before_it_has() {
    try_orders(|| {
        let disk = MemoryStorage::new();
        let store = open(&disk, options());
        let told = Told::default();
        let writer = {
            let (store, told) = (store.clone(), told.clone());
            thread::spawn(move || told.revoke(&store, "a"))
        };
        store.snapshot().unwrap();
        writer.join().unwrap();
        check(&disk.crash_image(0), &told.so_far(), &["a"]);
    });
}

/// Of those who present one refresh token at once, one rotates it, and all are given the same successor, whatever the order.
#[test]
fn shuttle_a_token_that_is_presented_by_many_is_used_once() {
    try_orders(|| {
        let store = open(&MemoryStorage::new(), options());
        let rotate =
            |store: &Store| store.refresh_families().rotate(&Credential::new().family("f").token("first")).unwrap();
        let others = [(); 2].map(|()| {
            let store = store.clone();
            thread::spawn(move || rotate(&store))
        });
        let mut rotations = vec![rotate(&store)];
        rotations.extend(others.map(|other| other.join().unwrap()));
        let (mut first, mut successors) = (0, Vec::new());
        for rotation in rotations {
            match rotation {
                Rotation::Rotated(successor) => {
                    first += 1;
                    successors.push(successor);
                }
                Rotation::Repeated(successor) => successors.push(successor),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((first, successors.len()), (1, 3));
        assert!(successors.iter().all(|successor| *successor == successors[0]));
    });
}

/// Whoever is told that it is closed has changed nothing; what was acknowledged before is on disk.
#[test]
fn shuttle_closing_among_writers_and_snapshots_loses_nothing() {
    try_orders(|| {
        let disk = MemoryStorage::new();
        let store = open(&disk, options());
        let told = Told::default();
        let writers = NAMES.map(|name| {
            let (store, told) = (store.clone(), told.clone());
            thread::spawn(move || told.revoke(&store, name))
        });
        let snapshotter = {
            let store = store.clone();
            thread::spawn(move || store.snapshot().ok())
        };
        let closed: Result<(), CloseError> = store.close();
        closed.unwrap();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        snapshotter.join().unwrap();
        let told = told.so_far();
        assert!(told.iter().all(|(_, acknowledged)| *acknowledged), "nothing was wrong with the disk: {told:?}");
        check(&disk.crash_image(0), &told, &NAMES);
    });
}

#[test]
fn shuttle_at_capacity_no_order_drops_anything() {
    try_orders(|| {
        let disk = MemoryStorage::new();
        let store = open(&disk, options().capacity(4));
        let writers = NAMES.map(|name| {
            let store = store.clone();
            thread::spawn(move || store.revoke_many(batch(name)).is_ok())
        });
        let acknowledged = writers.map(|writer| writer.join().unwrap());
        assert_eq!(acknowledged.iter().filter(|acknowledged| **acknowledged).count(), 2);
        let store = open(&disk.crash_image(0), options());
        for (name, acknowledged) in NAMES.iter().zip(acknowledged) {
            assert_eq!(denied(&store, name), if acknowledged { 2 } else { 0 });
        }
    });
}

/// Whether all of a batch is denied.
fn is_whole(store: &Store, name: &str) -> bool {
    denied(store, name) == 2
}

/// Hands over all that two replicas have to say.
fn exchange(replicas: &[Replica; 2]) {
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        replicas[from].tick();
        while let Some(message) = replicas[from].poll_transmit() {
            replicas[to].receive(replicas[from].node(), &message.bytes).unwrap();
        }
    }
}

#[test]
fn shuttle_replicas_hold_what_is_revoked_while_they_talk() {
    try_orders(|| {
        let clock = ManualClock::at(Timestamp::from_secs(1_700_000_000));
        let nodes = [1, 2].map(|number| NodeId::from_bytes([number; 16]));
        let disk = MemoryStorage::new();
        let stores =
            [open(&disk, options().clock(clock.clone())), options().clock(clock.clone()).open_in_memory().unwrap()];
        let replicas = [0, 1].map(|index| {
            let replica = stores[index].replicate(Replication::trusting_issuers("model", nodes[index], nodes)).unwrap();
            replica.set_peers(nodes);
            replica
        });
        let writers = [0, 1].map(|index| {
            let (store, replica) = (stores[index].clone(), replicas[index].clone());
            thread::spawn(move || {
                let name = ["one", "two"][index];
                store.revoke_many(batch(name)).unwrap();
                assert!(is_whole(&store, name));
                let position = replica.position();
                store.revoke(Revocation::of(Subject::token("lifted"))).unwrap();
                store.lift(Subject::token("lifted")).unwrap();
                position
            })
        });
        let driver = {
            let (replicas, clock) = (replicas.clone(), clock.clone());
            thread::spawn(move || {
                for _ in 0..3 {
                    clock.advance(Duration::from_secs(1));
                    exchange(&replicas);
                }
            })
        };
        let positions = writers.map(|writer| writer.join().unwrap());
        driver.join().unwrap();
        // A comparison takes some messages back and forth.
        for _ in 0..12 {
            clock.advance(Duration::from_secs(1));
            exchange(&replicas);
        }
        for index in 0..2 {
            assert!(is_whole(&stores[index], "one") && is_whole(&stores[index], "two"));
            assert_eq!(replicas[index].held_by(positions[index]), 1);
            assert_eq!(replicas[index].held_by(replicas[index].position()), 1);
            assert!(matches!(replicas[index].freshness(), Freshness::Fresh { .. }));
        }
        // What a peer sent is on the disk, too.
        stores[0].close().unwrap();
        drop((stores, replicas));
        let again = open(&disk, options());
        assert!(is_whole(&again, "one") && is_whole(&again, "two"));
    });
}
