//! A store that another process writes, read along: it answers as the writer does, and says so when it cannot know.
//!
//! `RESCIND_SCALE=full` runs the processes for longer, and more cases.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed test panics"
)]

mod alike;
mod processes;

use std::sync::Arc;
use std::time::Duration;

use rescind::storage::{FileStorage, MemoryStorage, Storage};
use rescind::{
    Cause, Credential, Durability, Effect, Freshness, Key, ManualClock, NodeId, OpenError, Options, RecoveryError,
    ReplicateError, Replication, Revocation, SnapshotError, Store, Subject, Timestamp, Verdict, WriteError,
};

const NOW: u64 = 1_800_000_000;

fn is_full() -> bool {
    std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full")
}

fn clock() -> ManualClock {
    ManualClock::at(Timestamp::from_secs(NOW))
}

fn options(clock: &ManualClock) -> Options {
    Options::new()
        .clock(clock.clone())
        .background(false)
        .key(Key::from_bytes([5; 32]))
        .segment_bytes(4096)
        .snapshot_after_bytes(u64::MAX)
}

/// A writer and its follower, on one disk.
fn pair(clock: &ManualClock) -> (MemoryStorage, Store, Store) {
    let disk = MemoryStorage::new();
    let writer = options(clock).open_on(Arc::new(disk.clone())).unwrap();
    let follower = options(clock).open_read_only_on(Arc::new(disk.clone())).unwrap();
    (disk, writer, follower)
}

fn token(id: &str) -> Credential<'_> {
    Credential::new().token(id).issued_at_secs(NOW)
}

fn revoke(store: &Store, id: impl Into<String>) {
    store.revoke(Revocation::of(Subject::token(id))).unwrap();
}

fn is_denied(store: &Store, id: &str) -> bool {
    matches!(store.check(&token(id)), Verdict::Revoked(_))
}

fn following(store: &Store) -> rescind::Following {
    store.stats().following.unwrap()
}

#[test]
fn what_is_written_before_and_after_denies() {
    let (clock, disk) = (clock(), MemoryStorage::new());
    let writer = options(&clock).open_on(Arc::new(disk.clone())).unwrap();
    revoke(&writer, "in the snapshot");
    writer.snapshot().unwrap();
    revoke(&writer, "in the log");
    let follower = options(&clock).open_read_only_on(Arc::new(disk)).unwrap();
    assert!(is_denied(&follower, "in the snapshot") && is_denied(&follower, "in the log"));
    assert_eq!(follower.check(&token("later")), Verdict::Clear);
    revoke(&writer, "later");
    assert_eq!(follower.check(&token("later")), Verdict::Clear, "until it has looked");
    follower.maintain();
    assert!(is_denied(&follower, "later"));
    assert_eq!(following(&follower).freshness, Freshness::Fresh { age: Duration::ZERO });
    assert_eq!(follower.len(), writer.len());
}

#[test]
fn nothing_can_be_changed_through_it() {
    let clock = clock();
    let (disk, writer, follower) = pair(&clock);
    revoke(&writer, "a");
    let before = (disk.operations(), disk.files());
    follower.maintain();
    assert!(matches!(follower.revoke(Revocation::of(Subject::token("b"))), Err(WriteError::ReadOnly)));
    assert!(matches!(follower.enable(Subject::user("u")), Err(WriteError::ReadOnly)));
    assert!(matches!(follower.snapshot(), Err(SnapshotError::ReadOnly)));
    let member = Replication::trusting_issuers("c", NodeId::from_bytes([1; 16]), [NodeId::from_bytes([2; 16])]);
    assert!(matches!(follower.replicate(member), Err(ReplicateError::ReadOnly)));
    let proofs = follower.replay_set("dpop").unwrap();
    assert!(matches!(proofs.insert("", "p", Timestamp::from_secs(NOW + 60)), Err(WriteError::ReadOnly)));
    assert!(!is_denied(&follower, "b"));
    assert_eq!(
        follower.backup_on(Arc::new(MemoryStorage::new())).unwrap().entries,
        1,
        "a copy of it is another matter"
    );
    follower.close().unwrap();
    assert_eq!(follower.check(&token("c")), Verdict::Unknown(Cause::Closed));
    assert!((disk.operations(), disk.files()) == before);
}

#[test]
fn without_a_store_there_is_nothing_to_follow() {
    let open = |disk: MemoryStorage| options(&clock()).open_read_only_on(Arc::new(disk)).unwrap_err();
    assert!(matches!(open(MemoryStorage::new()), OpenError::Recovery(RecoveryError::NoStore)));
    let clock = clock();
    let (disk, _writer, _) = pair(&clock);
    let wrong = options(&clock).key(Key::from_bytes([6; 32])).open_read_only_on(Arc::new(disk));
    assert!(matches!(wrong, Err(OpenError::Recovery(RecoveryError::WrongKey { .. }))));
}

#[test]
fn whoever_has_not_looked_for_too_long_does_not_know() {
    let clock = clock();
    let (_, writer, follower) = pair(&clock);
    revoke(&writer, "a");
    follower.maintain();
    clock.advance(Duration::from_secs(5));
    assert_eq!(follower.check(&token("b")), Verdict::Clear);
    clock.advance(Duration::from_millis(1));
    assert_eq!(follower.check(&token("b")), Verdict::Unknown(Cause::Stale));
    assert!(is_denied(&follower, "a"), "what is known binds");
    assert!(matches!(following(&follower).freshness, Freshness::Stale { age } if age > Duration::from_secs(5)));
    follower.maintain();
    assert_eq!(follower.check(&token("b")), Verdict::Clear);
}

#[test]
fn what_is_undone_waits_until_that_is_on_disk() {
    let clock = clock();
    let (disk, writer, follower) = pair(&clock);
    let bob = Credential::new().user("bob").issued_at_secs(NOW + 20);
    clock.advance(Duration::from_secs(10));
    writer.disable(Subject::user("bob")).unwrap();
    clock.advance(Duration::from_secs(10));
    writer.enable(Subject::user("bob")).unwrap();
    assert_eq!(writer.check(&bob), Verdict::Clear);
    follower.maintain();
    assert!(matches!(follower.check(&bob), Verdict::Revoked(denial) if denial.effect == Effect::Disabled));
    // Its writer says once a second how far the log is on disk.
    writer.maintain();
    follower.maintain();
    assert_eq!(follower.check(&bob), Verdict::Clear);

    // And what was never on disk is never undone here, although it could be read for a while.
    writer.disable(Subject::user("bob")).unwrap();
    disk.fail_at(disk.operations() + 1, std::io::ErrorKind::Other, false);
    assert!(matches!(writer.enable(Subject::user("bob")), Err(WriteError::NotDurable(_))));
    follower.maintain();
    clock.advance(Duration::from_secs(1));
    writer.snapshot().unwrap();
    writer.maintain();
    for _ in 0..3 {
        follower.maintain();
    }
    assert!(matches!(writer.check(&bob), Verdict::Revoked(_)));
    assert!(matches!(follower.check(&bob), Verdict::Revoked(_)));
    assert_eq!(follower.check(&token("other")), Verdict::Clear, "and it goes on");
}

/// What the log never had is in the snapshot that made up for it.
#[test]
fn what_a_full_disk_refused_is_known_once_a_snapshot_has_saved_it() {
    let clock = clock();
    let (disk, writer, follower) = pair(&clock);
    disk.fail_at(disk.operations(), std::io::ErrorKind::StorageFull, true);
    assert!(matches!(writer.revoke(Revocation::of(Subject::token("a"))), Err(WriteError::NotDurable(_))));
    follower.maintain();
    assert!(is_denied(&writer, "a"));
    disk.clear_faults();
    writer.snapshot().unwrap();
    for _ in 0..3 {
        follower.maintain();
    }
    assert!(is_denied(&follower, "a"));
    assert_eq!(following(&follower).rereads, 1);
    revoke(&writer, "b");
    follower.maintain();
    assert!(is_denied(&follower, "b"));
}

#[test]
fn whoever_is_too_far_behind_reads_everything_again() {
    let clock = clock();
    let (_, writer, follower) = pair(&clock);
    for round in 0..6 {
        for number in 0..100 {
            revoke(&writer, format!("{round}-{number}"));
        }
        writer.snapshot().unwrap();
    }
    // The segment that it was reading is gone, and so is the next.
    for _ in 0..3 {
        follower.maintain();
    }
    assert!((0..6).all(|round| (0..100).all(|number| is_denied(&follower, &format!("{round}-{number}")))));
    assert_eq!(following(&follower).rereads, 1);
    assert_eq!(follower.check(&token("other")), Verdict::Clear);
}

#[test]
fn a_damaged_log_is_not_taken_for_the_end_of_it() {
    let clock = clock();
    let (disk, writer, follower) = pair(&clock);
    revoke(&writer, "a");
    follower.maintain();
    revoke(&writer, "b");
    revoke(&writer, "c");
    // The frame of `b`: it ends where the one before has ended, and nobody has read it yet.
    let name = "wal-0000000000000001.log";
    let bytes = disk.files()[name].clone();
    let starts: Vec<usize> =
        bytes.windows(4).enumerate().filter(|(_, four)| four == b"RFRM").map(|(at, _)| at).collect();
    disk.open(name).unwrap().write_all_at(&[0xff; 8], starts[starts.len() - 2] as u64 + 80).unwrap();
    writer.maintain();
    for _ in 0..1_000 {
        clock.advance(Duration::from_millis(10));
        follower.maintain();
    }
    assert!(is_denied(&follower, "a"));
    assert_eq!(follower.check(&token("c")), Verdict::Unknown(Cause::Stale), "it was revoked, and cannot be read");
    assert!(following(&follower).error.unwrap().contains("wal-"), "it says which file is damaged");
}

#[test]
fn the_writers_ages_are_limits_here_too() {
    let (clock, disk) = (clock(), MemoryStorage::new());
    let hour = Duration::from_secs(3600);
    let limited = options(&clock).max_credential_age(hour).tenant_max_credential_age("acme", hour / 4);
    let writer = limited.open_on(Arc::new(disk.clone())).unwrap();
    let follower = options(&clock).open_read_only_on(Arc::new(disk)).unwrap();
    let aged = |secs: u64| token("t").issued_at_secs(clock_secs(&clock) - secs);
    for _ in 0..3 {
        for (tenant, age) in [("other", 3600), ("acme", 900)] {
            let (old, young) = (aged(age + 2).tenant(tenant), aged(age - 2).tenant(tenant));
            for store in [&writer, &follower] {
                assert!(matches!(store.check(&old), Verdict::Revoked(_)), "{tenant}");
                assert_eq!(store.check(&young), Verdict::Clear, "{tenant}");
            }
        }
        clock.advance(Duration::from_secs(1000));
        writer.maintain();
        follower.maintain();
    }
}

#[test]
fn whoever_was_too_far_behind_while_limits_changed_does_not_know() {
    let clock = clock();
    let (disk, writer, follower) = pair(&clock);
    drop(writer);
    // By a shorter leeway, something may have been forgotten that has not expired here.
    let writer = options(&clock).leeway(Duration::from_secs(1)).open_on(Arc::new(disk)).unwrap();
    follower.maintain();
    assert_eq!(follower.check(&token("t")), Verdict::Clear, "whatever is written is read before it is forgotten");
    for round in 0..3 {
        for number in 0..100 {
            revoke(&writer, format!("{round}-{number}"));
        }
        writer.snapshot().unwrap();
    }
    for _ in 0..1_000 {
        clock.advance(Duration::from_millis(10));
        follower.maintain();
    }
    assert!(is_denied(&follower, "0-0") && is_denied(&follower, "2-99"), "what it has read binds");
    assert_eq!(follower.check(&token("t")), Verdict::Unknown(Cause::Stale));
    assert!(following(&follower).error.unwrap().contains("limits have changed"));
}

#[test]
fn what_is_undone_counts_once_the_log_has_gone_on_in_another_segment() {
    let (clock, disk) = (clock(), MemoryStorage::new());
    let writer = options(&clock).durability(Durability::Memory).open_on(Arc::new(disk.clone())).unwrap();
    let follower = options(&clock).open_read_only_on(Arc::new(disk)).unwrap();
    revoke(&writer, "t");
    writer.lift(Subject::token("t")).unwrap();
    writer.maintain();
    follower.maintain();
    assert!(is_denied(&follower, "t"), "nothing was synced");
    for number in 0..40 {
        revoke(&writer, format!("{number}"));
    }
    follower.maintain();
    assert_eq!(follower.check(&token("t")), Verdict::Clear);
}

fn clock_secs(clock: &ManualClock) -> u64 {
    rescind::Clock::wall(clock).as_secs()
}

/// A follower of a replica is no fresher than that.
#[test]
fn whoever_follows_a_replica_knows_no_more_than_that() {
    let clock = clock();
    let (disk, writer, follower) = pair(&clock);
    assert_eq!(follower.check(&token("a")), Verdict::Clear, "a writer without peers has missed nothing");
    let (one, two) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
    let other = options(&clock).open_in_memory().unwrap();
    let join = |store: &Store, node, peer| {
        let replica = store.replicate(Replication::trusting_issuers("c", node, [one, two])).unwrap();
        replica.set_peers([peer]);
        replica
    };
    let (replica, peer) = (join(&writer, one, two), join(&other, two, one));
    follower.maintain();
    assert_eq!(writer.check(&token("a")), Verdict::Unknown(Cause::Bootstrapping));
    assert_eq!(follower.check(&token("a")), Verdict::Unknown(Cause::Bootstrapping));
    let talk = || {
        for _ in 0..20 {
            clock.advance(Duration::from_millis(250));
            for (from, to, name) in [(&replica, &peer, one), (&peer, &replica, two)] {
                from.tick();
                while let Some(transmit) = from.poll_transmit() {
                    to.receive(name, &transmit.bytes).unwrap();
                }
            }
        }
    };
    talk();
    follower.maintain();
    assert_eq!(writer.check(&token("a")), Verdict::Clear);
    assert_eq!(follower.check(&token("a")), Verdict::Clear);
    // The peer is silent: both become stale, however often the follower looks.
    for _ in 0..12 {
        clock.advance(Duration::from_secs(1));
        replica.tick();
        follower.maintain();
    }
    assert_eq!(writer.check(&token("a")), Verdict::Unknown(Cause::Stale));
    assert_eq!(follower.check(&token("a")), Verdict::Unknown(Cause::Stale));
    talk();
    follower.maintain();
    assert_eq!(follower.check(&token("a")), Verdict::Clear);
    // The writer ends: what it said ends, too. The next one is no replica.
    drop((replica, writer));
    for _ in 0..12 {
        clock.advance(Duration::from_secs(1));
        follower.maintain();
    }
    assert_eq!(follower.check(&token("a")), Verdict::Unknown(Cause::Stale));
    let _next = options(&clock).open_on(Arc::new(disk)).unwrap();
    follower.maintain();
    assert_eq!(follower.check(&token("a")), Verdict::Clear);
}

#[test]
fn what_a_writer_said_before_a_reboot_says_nothing() {
    let clock = clock();
    let (_, writer, follower) = pair(&clock);
    clock.advance(Duration::from_secs(100_000));
    let node = NodeId::from_bytes([1; 16]);
    let _replica = writer.replicate(Replication::answering_when_stale("c", node)).unwrap();
    follower.maintain();
    let before = follower.check(&token("a"));
    clock.reboot();
    follower.maintain();
    assert_eq!((before, follower.check(&token("a"))), (Verdict::Clear, Verdict::Unknown(Cause::Bootstrapping)));
}

#[test]
fn a_directory_that_was_replaced_is_not_followed_any_more() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("revocations");
    let clock = clock();
    let open = || options(&clock).durability(Durability::Memory).open(&path).unwrap();
    let writer = open();
    let follower = options(&clock).open_read_only(&path).unwrap();
    revoke(&writer, "a");
    follower.maintain();
    assert!(is_denied(&follower, "a"));
    drop(writer);
    std::fs::rename(&path, parent.path().join("old")).unwrap();
    let _restored = open();
    for _ in 0..1_000 {
        clock.advance(Duration::from_millis(10));
        follower.maintain();
    }
    assert_eq!(follower.check(&token("b")), Verdict::Unknown(Cause::Stale));
    assert!(following(&follower).error.unwrap().contains("another directory is in its place"));
    assert!(FileStorage::open_beside(&path).unwrap().create("x").is_err(), "whoever reads along writes nothing");
}
