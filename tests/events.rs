//! What an operator reads in the logs, by the feature `tracing`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rescind::storage::MemoryStorage;
use rescind::{Key, ManualClock, NodeId, Options, Replication, Revocation, Store, Subject, Timestamp};
use tracing::field::{Field, Visit};
use tracing::span;

/// Keeps every event as a line.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, " {value:?}").unwrap();
        } else {
            write!(self.0, " {}={value:?}", field.name()).unwrap();
        }
    }
}

impl tracing::Subscriber for Recorder {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("rescind")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(format!("{} {}:", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        self.0.lock().push(line.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// All in one test: the store's threads log as well, so there is one recorder for the process.
#[test]
fn every_event_is_logged_once_and_names_nobody() {
    let recorder = Recorder::default();
    tracing::subscriber::set_global_default(recorder.clone()).unwrap();
    let all = Mutex::new(String::new());
    let take = || {
        let lines: Vec<String> = recorder.0.lock().drain(..).collect();
        lines.iter().for_each(|line| writeln!(all.lock(), "{line}").unwrap());
        lines
    };
    let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
    let options =
        || Options::new().clock(clock.clone()).background(false).key(Key::from_bytes([1; 32])).segment_bytes(4096);
    let disk = MemoryStorage::new();
    let open = || options().open_on(Arc::new(disk.clone())).unwrap();
    let opened = |entries: u64, read_only: bool, snapshot: u64, batches: u64| {
        format!(
            "INFO rescind::store: opened entries={entries} read_only={read_only} snapshot_records={snapshot} log_batches={batches} torn_tail_bytes=0"
        )
    };

    let store = open();
    store.revoke(Revocation::of(Subject::token("canary-token"))).unwrap();
    store.revoke(Revocation::of(Subject::user("canary-user").in_tenant("canary-tenant")).by("canary-actor")).unwrap();
    store.snapshot().unwrap();
    store.close().unwrap();
    store.close().unwrap();
    let events = take();
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(events[0], opened(0, false, 0, 0));
    assert!(events[1].starts_with("INFO rescind::store: snapshot taken entries=2 bytes="), "{events:?}");
    assert_eq!(events[2], "INFO rescind::store: closed");

    // A damaged snapshot, of two.
    let store = open();
    store.snapshot().unwrap();
    store.revoke(Revocation::of(Subject::token("canary-other"))).unwrap();
    store.snapshot().unwrap();
    drop(store);
    let mut files = disk.files();
    let last = files.keys().rfind(|name| name.starts_with("snap-")).unwrap().clone();
    let bytes = files.get_mut(&last).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    take();
    let damaged = MemoryStorage::from_files(files);
    drop(options().open_on(Arc::new(damaged)).unwrap());
    let events = take();
    assert_eq!(
        events[1],
        format!("WARN rescind::store: a damaged snapshot was set aside, and the one before it used file=\"{last}\"")
    );

    // A disk that fails, and one that works again.
    let store = open();
    let follower = options().open_read_only_on(Arc::new(disk.clone())).unwrap();
    let events = take();
    assert_eq!(events[0], opened(3, false, 4, 0));
    assert_eq!(events[1], "INFO rescind::store: fresh: it holds all that it should, and answers");
    assert_eq!(events[2], opened(3, true, 4, 0));
    disk.fail_at(disk.operations() + 1, std::io::ErrorKind::Other, false);
    store.revoke(Revocation::of(Subject::token("canary-third"))).unwrap_err();
    let events = take();
    let wanted = "ERROR rescind::store: a commit was not written: what it denies is in memory only, until a snapshot has saved it denials=1 error=\"cannot sync";
    assert!(events.len() == 1 && events[0].starts_with(wanted), "{events:?}");
    disk.fail_at(disk.operations(), std::io::ErrorKind::StorageFull, true);
    store.snapshot().unwrap_err();
    let events = take();
    assert!(
        events[0].starts_with("WARN rescind::store: no snapshot was taken, it will be tried again error=\""),
        "{events:?}"
    );
    disk.clear_faults();
    store.snapshot().unwrap();
    let events = take();
    assert_eq!(events[0], "INFO rescind::store: the log goes on in a new segment after a failed write");
    assert!(events[1].starts_with("INFO rescind::store: snapshot taken"), "{events:?}");

    // The follower finds that it must read everything again; then it does not look for a while.
    follower.maintain();
    let events = take();
    assert_eq!(
        events,
        ["WARN rescind::store: the log of the writer is no longer what was read: everything is read again rereads=1"]
    );
    disk.fail_read_at(disk.reads(), std::io::ErrorKind::Other, true);
    clock.advance(Duration::from_secs(6));
    follower.maintain();
    let events = take();
    let [cannot, stale] = &events[..] else { panic!("{events:?}") };
    assert!(
        cannot.starts_with("WARN rescind::store: the log of the writer cannot be read on error=\"cannot "),
        "{cannot}"
    );
    assert_eq!(
        stale,
        "WARN rescind::store: stale: it has not heard of everything for too long, and gives Unknown for what is not revoked"
    );
    disk.clear_faults();

    // A replica that has no peer to hear of.
    let replica = store.replicate(Replication::answering_when_stale("c", NodeId::from_bytes([1; 16]))).unwrap();
    replica.tick();
    assert_eq!(take(), ["INFO rescind::store: fresh: it holds all that it should, and answers"]);

    // A clock that is set back, and right again.
    let set = |secs: i64| clock.set_wall(Timestamp::from_secs(1_800_000_006_u64.checked_add_signed(secs).unwrap()));
    set(-600);
    store.maintain();
    store.maintain();
    let doubt = "ERROR rescind::store: the time is in doubt: revocations deny their subjects outright until the clock is set right wall=\"2027-01-15T07:50:06.000Z\" latest=\"2027-01-15T08:00:06.000Z\"";
    assert_eq!(take(), [doubt], "once");
    store.revoke(Revocation::of(Subject::user("canary-doubt"))).unwrap();
    let events = take();
    let wanted = "ERROR rescind::store: the clock is in doubt: subjects that were revoked are denied outright until the time is settled epochs=1";
    assert!(events.len() == 1 && events[0].starts_with(wanted), "{events:?}");
    set(1);
    store.maintain();
    let events = take();
    assert_eq!(events[0], "INFO rescind::store: the time is no longer in doubt");
    assert_eq!(
        events[1],
        "INFO rescind::store: epochs that were made while the clock was in doubt have been given their time epochs=1"
    );
    set(1_000);
    store.revoke(Revocation::of(Subject::user("canary-ahead"))).unwrap();
    let wanted = "WARN rescind::store: an epoch lies beyond what the boot clock bears out: nobody concerned can log in until then, unless it is restated seconds=";
    let events = take();
    assert!(events.len() == 1 && events[0].starts_with(wanted), "{events:?}");
    set(1);

    // Peers: one is ahead, and was started with another leeway.
    in_a_cluster(&take);

    // A disk that fails for good.
    disk.fail_at(disk.operations(), std::io::ErrorKind::Other, true);
    store.revoke(Revocation::of(Subject::token("canary-fourth"))).unwrap_err();
    store.close().unwrap_err();
    let events = take();
    let wanted = "ERROR rescind::store: closed, but not everything is on disk error=\"";
    assert!(events.last().unwrap().starts_with(wanted), "{events:?}");
    let in_memory: Store = options().open_in_memory().unwrap();
    in_memory.close().unwrap();
    take();
    assert!(!all.lock().contains("canary"), "somebody is named: {}", all.lock());
}

/// A peer whose clock is ahead, and which revokes before it has heard of anybody.
fn in_a_cluster(take: &dyn Fn() -> Vec<String>) {
    let right = Timestamp::from_secs(1_800_000_000);
    let ids = [1, 2, 3].map(|number| NodeId::from_bytes([number; 16]));
    let clocks = [600, 0, 0].map(|ahead| ManualClock::at(right.saturating_add(Duration::from_secs(ahead))));
    let replicas: Vec<_> = std::iter::zip(ids, &clocks)
        .map(|(id, clock)| {
            let leeway = Duration::from_secs(if id == ids[0] { 30 } else { 60 });
            let options = Options::new().clock(clock.clone()).background(false).key(Key::from_bytes([1; 32]));
            let store = options.leeway(leeway).open_in_memory().unwrap();
            let replica = store.replicate(Replication::trusting_issuers("c", id, ids)).unwrap();
            replica.set_peers(ids);
            replica
        })
        .collect();
    let pass = |secs: u64, hears_first: bool| {
        for _ in 0..secs * 4 {
            for (replica, clock) in std::iter::zip(&replicas, &clocks) {
                clock.advance(Duration::from_millis(250));
                replica.tick();
            }
            for sender in &replicas {
                while let Some(message) = sender.poll_transmit() {
                    let is_cut = !hears_first && (sender.node() == ids[0] || message.to == ids[0]);
                    let receiver = replicas.iter().find(|replica| replica.node() == message.to).unwrap();
                    if !is_cut {
                        receiver.receive(sender.node(), &message.bytes).unwrap();
                    }
                }
            }
        }
    };
    pass(5, false);
    replicas[0].store().revoke(Revocation::of(Subject::user("canary-peer"))).unwrap();
    take();
    pass(5, true);
    let count = |events: &[String], wanted: &str| events.iter().filter(|event| event.starts_with(wanted)).count();
    let events = take();
    let wanted = "WARN rescind::store: a peer has revoked subjects from a time too far in the future: they are revoked from now on instead subjects=1";
    assert!((1..=2).contains(&count(&events, wanted)), "{events:?}");
    let refused = "WARN rescind::store: entries of peers were refused: they lie too far in the future, or are kept too long entries=";
    assert_eq!(count(&events, refused), 2, "once for each of the others: {events:?}");
    let limits =
        "WARN rescind::store: a peer was started with another leeway, grace or maximum age than this replica node=";
    assert_eq!(count(&events, limits), 4, "the first of both others, and both of the first: {events:?}");
    let contradicted = "ERROR rescind::store: most peers contradict the wall clock";
    assert_eq!(count(&events, contradicted), 1, "{events:?}");
    clocks[0].set_wall(rescind::Clock::wall(&clocks[1]));
    pass(5, true);
    assert_eq!(count(&take(), "INFO rescind::store: peers no longer contradict the wall clock"), 1);
}
