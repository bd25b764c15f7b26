//! A store and its peers: what is told, what is refused, and when nothing may be said.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::sync::Arc;
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{
    Alarm, Cause, Credential, Freshness, Key, Link, ManualClock, NodeId, Options, Rejected, Replica, ReplicateError,
    Replication, Revocation, Store, Subject, Timestamp, Verdict,
};

const T0: u64 = 1_800_000_000;
const TICK: Duration = Duration::from_millis(250);

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn options(clock: &ManualClock) -> Options {
    Options::new().key(Key::from_bytes([3; 32])).clock(clock.clone()).background(false)
}

fn trusting(node: u8, issuers: &[u8]) -> Replication {
    Replication::trusting_issuers("test", id(node), issuers.iter().map(|issuer| id(*issuer)))
}

/// The kinds of messages, by the first byte of their payload.
const HEARTBEAT: u8 = 0;
const DELTA: u8 = 1;
const PAGE: u8 = 6;
const HELD: u8 = 10;

/// Some replicas that share a clock, and hand each other whatever they have to say.
struct Group {
    clock: ManualClock,
    replicas: Vec<Replica>,
}

impl Group {
    fn new(replications: Vec<Replication>) -> Self {
        let clock = ManualClock::at(Timestamp::from_secs(T0));
        let replicas = replications.into_iter().map(|replication| {
            let store = options(&clock).open_in_memory().unwrap();
            store.replicate(replication).unwrap()
        });
        let group = Self { replicas: replicas.collect(), clock };
        group.meet();
        group
    }

    /// So many that all issue.
    fn of(count: u8) -> Self {
        let all: Vec<u8> = (1..=count).collect();
        Self::new(all.iter().map(|node| trusting(*node, &all)).collect())
    }

    fn meet(&self) {
        for replica in &self.replicas {
            replica.set_peers(self.replicas.iter().map(Replica::node));
        }
    }

    fn store(&self, index: usize) -> &Store {
        self.replicas[index].store()
    }

    /// Hands over all that is to be sent, until nothing is, but for what `lost` says is lost.
    fn deliver(&self, lost: impl Fn(NodeId, NodeId) -> bool) {
        self.deliver_but(|from, to, _| lost(from, to));
    }

    /// The same, where it also depends on the message what is lost.
    fn deliver_but(&self, lost: impl Fn(NodeId, NodeId, &[u8]) -> bool) {
        loop {
            let mut idle = true;
            for sender in &self.replicas {
                while let Some(message) = sender.poll_transmit() {
                    idle = false;
                    let receiver = self.replicas.iter().find(|replica| replica.node() == message.to).unwrap();
                    if !lost(sender.node(), message.to, &message.bytes) {
                        receiver.receive(sender.node(), &message.bytes).unwrap();
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    fn pass(&self, time: Duration) {
        self.pass_without(time, |_, _| false);
    }

    fn pass_without(&self, time: Duration, lost: impl Fn(NodeId, NodeId) -> bool) {
        let mut passed = Duration::ZERO;
        while passed < time {
            self.clock.advance(TICK);
            passed += TICK;
            self.replicas.iter().for_each(Replica::tick);
            self.deliver(&lost);
        }
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn token(name: &str) -> Credential<'_> {
    Credential::new().token(name).issued_at_secs(T0 - 100)
}

fn user(name: &str) -> Credential<'_> {
    Credential::new().user(name).issued_at_secs(T0 - 100)
}

fn is_revoked(store: &Store, credential: &Credential<'_>) -> bool {
    matches!(store.check(credential), Verdict::Revoked(_))
}

#[test]
fn a_store_without_peers_answers_at_once_and_one_with_peers_once_it_has_caught_up() {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    let store = options(&clock).open_in_memory().unwrap();
    assert_eq!(store.check(&token("t")), Verdict::Clear);
    store.revoke(Revocation::of(Subject::token("known"))).unwrap();
    let _replica = store.replicate(trusting(1, &[1, 2])).unwrap();
    assert_eq!(store.check(&token("t")), Verdict::Unknown(Cause::Bootstrapping));
    assert!(is_revoked(&store, &token("known")), "what is held binds");
    assert!(matches!(store.replicate(trusting(1, &[1, 2])), Err(ReplicateError::Already)));

    let group = Group::of(2);
    assert_eq!(group.store(0).check(&token("t")), Verdict::Unknown(Cause::Bootstrapping));
    assert_eq!(group.replicas[0].freshness(), Freshness::Bootstrapping);
    group.pass(secs(3));
    assert_eq!(group.store(0).check(&token("t")), Verdict::Clear);
    assert!(matches!(group.replicas[0].freshness(), Freshness::Fresh { age } if age <= secs(2)));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let store = options(&ManualClock::at(Timestamp::from_secs(T0))).open_in_memory().unwrap();
    let refused = [
        Replication::trusting_issuers("test", id(1), []),
        Replication::agreeing_with("test", id(1), 0, [id(2)]),
        Replication::agreeing_with("test", id(1), 2, [id(2)]),
        trusting(1, &[2]).stale_after(secs(1)),
    ];
    for options in refused {
        assert!(matches!(store.replicate(options), Err(ReplicateError::Options(_))));
    }
    assert_eq!(store.check(&token("t")), Verdict::Clear, "nothing has changed");
}

#[test]
fn what_is_revoked_on_one_is_denied_on_all_and_undone_on_all() {
    let group = Group::of(3);
    group.pass(secs(3));
    group.store(0).revoke(Revocation::of(Subject::token("t"))).unwrap();
    group.store(1).disable(Subject::user("u")).unwrap();
    let many = (0..2_000).map(|n| Revocation::of(Subject::token(format!("many-{n}"))));
    group.store(2).revoke_many(many).unwrap();
    group.deliver(|_, _| false);
    for index in 0..3 {
        assert!(is_revoked(group.store(index), &token("t")) && is_revoked(group.store(index), &user("u")));
        assert!((0..2_000).all(|n| is_revoked(group.store(index), &token(&format!("many-{n}")))));
    }
    group.store(2).lift(Subject::token("t")).unwrap();
    group.store(2).enable(Subject::user("u")).unwrap();
    group.deliver(|_, _| false);
    for index in 0..3 {
        assert_eq!(group.store(index).check(&token("t")), Verdict::Clear);
        let fresh_login = Credential::new().user("u").issued_at_secs(T0 + 60);
        assert_eq!(group.store(index).check(&fresh_login), Verdict::Clear);
        assert!(is_revoked(group.store(index), &user("u")), "disabling made everyone log in again");
    }
}

#[test]
fn a_replica_that_hears_nothing_says_so_and_one_that_missed_something_catches_up_first() {
    let group = Group::of(2);
    group.pass(secs(3));
    let cut = |_, _| true;
    group.pass_without(secs(8), cut);
    assert_eq!(group.store(1).check(&token("t")), Verdict::Clear);
    group.pass_without(secs(4), cut);
    group.store(0).revoke(Revocation::of(Subject::token("t"))).unwrap();
    assert_eq!(group.store(1).check(&token("t")), Verdict::Unknown(Cause::Stale));
    assert!(matches!(group.replicas[1].freshness(), Freshness::Stale { age } if age > secs(10)));
    // The news itself is lost for good: the gap is noticed, and contents are compared.
    group.deliver(cut);
    for _ in 0..40 {
        group.pass(TICK);
        assert_ne!(group.store(1).check(&token("t")), Verdict::Clear);
    }
    assert!(is_revoked(group.store(1), &token("t")));
    assert_eq!(group.store(1).check(&token("other")), Verdict::Clear);
    assert!(group.replicas.iter().any(|replica| replica.stats().comparisons > 0));
}

#[test]
fn silence_of_one_issuer_is_not_made_up_for_by_the_others() {
    let group = Group::of(3);
    group.pass(secs(3));
    // The third reaches nobody; the first two hear each other.
    group.pass_without(secs(15), |from, to| from == id(3) || to == id(3));
    assert_eq!(group.store(0).check(&token("t")), Verdict::Unknown(Cause::Stale));
    // Through the second, the first hears of the third.
    group.pass_without(secs(6), |from, to| (from, to) == (id(3), id(1)) || (from, to) == (id(1), id(3)));
    assert_eq!(group.store(0).check(&token("t")), Verdict::Clear);
}

#[test]
fn who_agrees_with_enough_anchors_is_fresh() {
    let anchors = [id(1), id(2), id(3)];
    let agreeing = |node: u8| {
        Replication::agreeing_with("test", id(node), 2, anchors.into_iter().filter(move |one| *one != id(node)))
    };
    let group = Group::new((1..=4).map(agreeing).collect());
    group.pass(secs(4));
    assert!((0..4).all(|index| group.store(index).check(&token("t")) == Verdict::Clear));
    // With one of the three it cannot agree, and that is too few: there were two to be agreed with, for each of them.
    group.pass_without(secs(12), |from, to| from == id(3) || to == id(3));
    assert_eq!(group.store(3).check(&token("t")), Verdict::Clear);
    assert_eq!(group.store(0).check(&token("t")), Verdict::Unknown(Cause::Stale));
    group.store(3).revoke(Revocation::of(Subject::token("t"))).unwrap();
    group.pass(secs(4));
    assert!((0..4).all(|index| is_revoked(group.store(index), &token("t"))), "anyone may issue");
    assert_eq!(group.store(0).check(&token("other")), Verdict::Clear);
}

#[test]
fn who_answers_when_stale_always_answers() {
    let group = Group::new(vec![Replication::answering_when_stale("test", id(1)), trusting(2, &[1, 2])]);
    assert_eq!(group.store(0).check(&token("t")), Verdict::Clear);
    group.store(1).revoke(Revocation::of(Subject::token("t"))).unwrap();
    group.pass(secs(4));
    assert!(is_revoked(group.store(0), &token("t")));
    group.pass_without(secs(60), |_, _| true);
    assert_eq!(group.store(0).check(&token("other")), Verdict::Clear);
}

#[test]
fn a_position_is_held_once_peers_say_so() {
    let group = Group::of(3);
    group.pass(secs(3));
    group.store(0).revoke(Revocation::of(Subject::token("t"))).unwrap();
    let position = group.replicas[0].position();
    assert_eq!(group.replicas[0].held_by(position), 0);
    assert!(!group.replicas[0].wait_until_held(position, 1, Duration::ZERO));
    group.pass_without(TICK * 2, |_, to| to == id(3));
    assert_eq!(group.replicas[0].held_by(position), 1);
    group.pass(secs(4));
    assert_eq!(group.replicas[0].held_by(position), 2);
    assert!(group.replicas[0].wait_until_held(position, 2, Duration::ZERO));
}

#[test]
fn waiting_ends_when_the_last_peer_tells() {
    let group = Group::of(2);
    group.pass(secs(3));
    group.store(0).revoke(Revocation::of(Subject::token("t"))).unwrap();
    let (replica, position) = (group.replicas[0].clone(), group.replicas[0].position());
    let waiter = std::thread::spawn(move || replica.wait_until_held(position, 1, secs(600)));
    group.pass(secs(2));
    assert!(waiter.join().unwrap());
}

#[test]
fn the_canary_is_denied_everywhere_or_there_is_an_alarm() {
    let group =
        Group::new(vec![trusting(1, &[1, 2, 3]).canary(secs(30)), trusting(2, &[1, 2, 3]), trusting(3, &[1, 2, 3])]);
    group.pass(secs(3));
    let report = group.replicas[0].canary().unwrap();
    assert!(report.is_denied_everywhere(), "{report:?}");
    assert_eq!((report.number, report.denied_by.len()), (1, 2));
    assert!(group.replicas[0].alarms().is_empty());
    // The news reach the third no more, and nor do questions.
    group.pass_without(secs(45), |_, to| to == id(3));
    let Ok(Alarm::Canary(alarm)) = group.replicas[0].alarms().try_recv() else { panic!("no alarm") };
    assert_eq!((alarm.number, alarm.denied_here, alarm.missing), (2, true, vec![id(3)]));
    assert!(group.replicas[0].alarms().is_empty(), "one alarm for one canary");
    group.pass(secs(40));
    assert!(group.replicas[0].canary().unwrap().is_denied_everywhere());
    assert_eq!(group.store(0).len(), group.store(1).len());
}

#[test]
fn messages_of_others_are_refused_before_they_are_looked_at() {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    let replica = |key: u8, cluster: &str, node: u8| {
        let options = options(&clock).key(Key::from_bytes([key; 32]));
        let store = options.open_in_memory().unwrap();
        let replica = store.replicate(Replication::trusting_issuers(cluster, id(node), [id(1), id(2)])).unwrap();
        replica.set_peers([id(1), id(2)]);
        replica.tick();
        replica
    };
    let ours = replica(3, "test", 1);
    let message = |from: &Replica| from.poll_transmit_to(id(1)).unwrap().bytes;
    assert_eq!(ours.receive(id(2), &message(&replica(3, "other", 2))), Err(Rejected::OtherCluster));
    assert_eq!(ours.receive(id(2), &message(&replica(4, "test", 2))), Err(Rejected::OtherKey));
    let good = message(&replica(3, "test", 2));
    assert_eq!(ours.receive(id(9), &good), Err(Rejected::Stranger { from: id(9) }));
    let mut next = good.to_vec();
    next[4] += 1;
    assert_eq!(ours.receive(id(2), &next), Err(Rejected::Version { version: good[4] + 1 }));
    assert_eq!(ours.receive(id(2), &vec![0; 3 << 20]), Err(Rejected::TooLong { bytes: 3 << 20 }));
    for place in 0..good.len() {
        let mut damaged = good.to_vec();
        damaged[place] ^= 0x10;
        assert!(ours.receive(id(2), &damaged).is_err(), "{place}");
        assert!(ours.receive(id(2), &good[..place]).is_err(), "{place}");
    }
    assert_eq!(ours.receive(id(2), &good), Ok(()));
    assert_eq!(ours.stats().messages_in, 1);
    assert_eq!(ours.stats().rejected as usize, 5 + 2 * good.len());
}

/// Two replicas whose clocks are right, and a third whose clock is a year ahead.
fn with_one_a_year_ahead() -> Group {
    let mut group = Group::of(2);
    let clock = ManualClock::at(Timestamp::from_secs(T0 + 365 * 24 * 3600));
    let store = options(&clock).open_in_memory().unwrap();
    group.replicas.push(store.replicate(Replication::answering_when_stale("test", id(9))).unwrap());
    group.meet();
    group
}

/// A peer whose clock is years ahead, and that hears of nobody, cannot revoke what is yet to be issued: its revocation counts
/// from when it is heard, and the rest goes on.
#[test]
fn epoch_beyond_the_skew_counts_from_when_it_is_heard_and_the_rest_of_the_entry_is_taken() {
    let group = with_one_a_year_ahead();
    let pass = |secs| group.pass_without(secs, |_, to| to == id(9));
    pass(secs(3));
    group.store(0).revoke(Revocation::of(Subject::session("s"))).unwrap();
    pass(secs(1));
    let ahead = group.store(2);
    assert_eq!(ahead.revoke(Revocation::of(Subject::everyone())).unwrap().pending, 0);
    ahead.disable(Subject::user("blocked")).unwrap();
    ahead.revoke(Revocation::of(Subject::token("t"))).unwrap();
    pass(secs(5));
    for index in 0..2 {
        let store = group.store(index);
        let session = Credential::new().session("s").issued_at_secs(T0 - 100);
        assert!(is_revoked(store, &session));
        assert!(is_revoked(store, &user("u")), "it existed");
        let new = Credential::new().user("u").issued_at(Timestamp::from_secs(T0 + 6)).expires_at_secs(T0 + 99);
        assert_eq!(store.check(&new), Verdict::Clear, "the epoch of next year is refused");
        assert!(is_revoked(store, &user("blocked")), "a block has no time");
        assert!(is_revoked(store, &token("t")), "a token is denied, whatever the clock");
        assert!(group.replicas[index].stats().refused >= 2);
        assert!(matches!(group.replicas[index].freshness(), Freshness::Fresh { .. }));
    }
}

/// Nor is what it says of credentials believed that it has let in from beyond its clock, or of stamps that it has given out.
#[test]
fn what_a_peer_a_year_ahead_has_let_in_locks_nobody_out() {
    for gives_out in [false, true] {
        let group = with_one_a_year_ahead();
        let pass = |secs| group.pass_without(secs, |_, to| to == id(9));
        pass(secs(3));
        let login = |stamp: u64| {
            Credential::new().issuer("https://id.example").user("u").issued_at_secs(stamp).auth_time_secs(stamp)
        };
        let ahead = T0 + 365 * 24 * 3600;
        if gives_out {
            group.store(2).revoke(Revocation::of(Subject::user("u"))).unwrap();
            assert!(group.store(2).admissible_from(&Credential::new()) >= Timestamp::from_secs(ahead));
            _ = group.store(2).admissible_from(&Credential::new().user("u"));
        } else {
            assert_eq!(group.store(2).check(&login(ahead + 20)), Verdict::Clear);
        }
        pass(secs(2));
        group.store(0).revoke(Revocation::of(Subject::user("u"))).unwrap();
        pass(secs(5));
        for index in 0..2 {
            assert!(is_revoked(group.store(index), &login(T0 + 3)), "{gives_out}, {index}");
            assert_eq!(group.store(index).check(&login(T0 + 9)), Verdict::Clear, "{gives_out}, {index}");
        }
    }
}

/// One that hears of the others knows that its clock is contradicted: what it revokes is denied outright, until those whose
/// clocks are right have given it a time. It answers for nobody meanwhile.
#[test]
fn revocation_of_a_replica_whose_clock_is_outvoted_gets_the_time_of_the_others() {
    let group = with_one_a_year_ahead();
    group.pass(secs(3));
    let ahead = group.store(2);
    assert!(ahead.stats().time_in_doubt && !group.store(0).stats().time_in_doubt);
    assert!(group.replicas[2].stats().is_clock_contradicted);
    assert!(group.replicas[2].alarms().try_iter().any(|alarm| alarm == Alarm::ClockContradicted));
    assert_eq!(ahead.revoke(Revocation::of(Subject::everyone())).unwrap().pending, 1);
    group.deliver(|_, _| false);
    let new = || Credential::new().user("u").issued_at(Timestamp::from_secs(T0 + 60)).expires_at_secs(T0 + 99);
    for index in 0..3 {
        assert!(is_revoked(group.store(index), &user("u")) && is_revoked(group.store(index), &new()), "{index}");
    }
    group.store(0).maintain();
    group.deliver(|_, _| false);
    for index in 0..2 {
        assert!(is_revoked(group.store(index), &user("u")), "{index}");
        assert_eq!(group.store(index).check(&new()), Verdict::Clear, "{index}");
        assert_eq!(group.store(index).stats().pending_epochs, 0);
        assert_eq!(group.replicas[index].stats().refused, 0);
    }
}

#[test]
fn what_is_kept_too_long_is_refused() {
    let group = Group::new(vec![trusting(1, &[1, 2]).max_retention(secs(3600)), trusting(2, &[1, 2])]);
    group.pass(secs(3));
    let until = |secs| Timestamp::from_secs(T0 + secs);
    group.store(1).revoke(Revocation::of(Subject::token("long")).until(until(7200))).unwrap();
    group.store(1).revoke(Revocation::of(Subject::token("good"))).unwrap();
    group.store(1).revoke(Revocation::of(Subject::token("short")).until(until(3600))).unwrap();
    group.deliver(|_, _| false);
    assert_eq!(group.store(0).len(), 1);
    assert!(is_revoked(group.store(0), &token("short")));
    assert_eq!(group.replicas[0].stats().refused, 2);
}

#[test]
fn a_replica_without_room_says_that_it_does_not_hold_everything() {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    let small = options(&clock).capacity(10).open_in_memory().unwrap().replicate(trusting(1, &[1, 2])).unwrap();
    let large = options(&clock).open_in_memory().unwrap().replicate(trusting(2, &[1, 2])).unwrap();
    let group = Group { clock, replicas: vec![small, large] };
    group.meet();
    group.pass(secs(3));
    assert_eq!(group.store(0).check(&token("other")), Verdict::Clear);
    group.store(1).revoke_many((0..11).map(|n| Revocation::of(Subject::token(n.to_string())))).unwrap();
    group.pass(secs(20));
    assert_eq!(group.store(0).len(), 10);
    assert_eq!(group.store(0).check(&token("other")), Verdict::Unknown(Cause::Stale));
    assert_eq!(group.store(1).check(&token("other")), Verdict::Clear, "it holds all that the other issued");
}

/// Entries end by the quarter of an hour, so that what one has just forgotten is not sent to it again.
#[test]
fn what_has_expired_is_forgotten_on_all_and_makes_no_difference() {
    let group = Group::of(3);
    group.pass(secs(3));
    for n in 0..200 {
        let until = Timestamp::from_secs(T0 + 60 * n);
        group.store(n as usize % 3).revoke(Revocation::of(Subject::token(n.to_string())).until(until)).unwrap();
    }
    group.deliver(|_, _| false);
    let merged: u64 = group.replicas.iter().map(|replica| replica.stats().merged).sum();
    for round in 0..30 {
        group.clock.advance(secs(600));
        // One of them forgets at once, the others only later.
        group.store(round % 3).maintain();
        group.pass(secs(4));
        assert!((0..3).all(|index| group.store(index).check(&token("other")) == Verdict::Clear), "{round}");
    }
    (0..3).for_each(|index| _ = group.store(index).maintain());
    assert!((0..3).all(|index| group.store(index).is_empty()));
    assert_eq!(group.replicas.iter().map(|replica| replica.stats().merged).sum::<u64>(), merged);
    assert_eq!(group.replicas.iter().map(|replica| replica.stats().comparisons).sum::<u64>(), 0);
}

#[test]
fn what_peers_sent_is_in_the_log_before_it_undoes() {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    let disk = Arc::new(MemoryStorage::new());
    let durable =
        options(&clock).open_on(Arc::clone(&disk) as Arc<_>).unwrap().replicate(trusting(1, &[1, 2])).unwrap();
    let other = options(&clock).open_in_memory().unwrap().replicate(trusting(2, &[1, 2])).unwrap();
    let group = Group { clock: clock.clone(), replicas: vec![durable, other] };
    group.meet();
    group.pass(secs(3));
    group.store(1).revoke(Revocation::of(Subject::token("kept"))).unwrap();
    group.store(1).revoke(Revocation::of(Subject::token("lifted"))).unwrap();
    group.deliver(|_, _| false);
    group.store(0).maintain();
    let denied = group.store(0).check(&token("lifted"));
    assert!(matches!(denied, Verdict::Revoked(_)));
    // The disk fails: what denies does so all the same, what undoes does not.
    disk.fail_at(disk.operations() + 1, std::io::ErrorKind::StorageFull, true);
    group.store(1).lift(Subject::token("lifted")).unwrap();
    group.store(1).revoke(Revocation::of(Subject::token("unlogged"))).unwrap();
    group.deliver(|_, _| false);
    group.store(0).maintain();
    assert!(is_revoked(group.store(0), &token("unlogged")));
    assert_eq!(group.store(0).check(&token("lifted")), denied);
    assert!(group.store(0).stats().unsaved > 0);
    disk.clear_faults();
    let image = Arc::new(disk.crash_image(7));
    drop(group);
    let again = options(&clock).open_on(image).unwrap();
    assert!(is_revoked(&again, &token("kept")), "what a peer sent is remembered");
}

#[test]
fn new_replicas_are_fresh_after_a_few_round_trips() {
    let group = Group::of(2);
    group.pass(TICK);
    assert!((0..2).all(|index| group.store(index).check(&token("t")) == Verdict::Clear));
    let group = Group::of(3);
    group.pass(TICK * 2);
    assert!((0..3).all(|index| group.store(index).check(&token("t")) == Verdict::Clear));
}

/// A second life of a replica: another store, the same name.
fn reborn(group: &mut Group, index: usize, replication: Replication) {
    let store = options(&group.clock).open_in_memory().unwrap();
    group.replicas[index] = store.replicate(replication).unwrap();
    group.meet();
}

/// An issuer that has lost its disk must not say "this is all I have issued" before it has asked the others.
#[test]
fn who_has_lost_its_disk_does_not_vouch_for_itself() {
    let mut group = Group::of(3);
    group.pass(secs(3));
    group.store(0).revoke(Revocation::of(Subject::token("t"))).unwrap();
    // The second has it, the third does not.
    group.deliver(|_, to| to == id(3));
    // The first loses everything, and cannot reach the second. The third reaches both, but of the second it gets nothing
    // but heartbeats: the first byte of a payload says what it is.
    reborn(&mut group, 0, trusting(1, &[1, 2, 3]));
    let begun = rescind::Clock::wall(&group.clock);
    for _ in 0..80 {
        group.clock.advance(TICK);
        group.replicas.iter().for_each(Replica::tick);
        group.deliver_but(|from, to, bytes| {
            let of_the_second = from == id(2) || to == id(2);
            of_the_second && (from == id(1) || to == id(1) || bytes[48] != HEARTBEAT)
        });
        if rescind::Clock::wall(&group.clock).saturating_since(begun) > secs(11) {
            assert_ne!(group.store(2).check(&token("t")), Verdict::Clear);
        }
    }
    group.pass(secs(10));
    for index in 0..3 {
        assert!(is_revoked(group.store(index), &token("t")));
        assert_eq!(group.store(index).check(&token("other")), Verdict::Clear);
    }
}

/// What a heartbeat echoes is a time of the life in which it was sent: another life may be as old by its clock.
#[test]
fn an_echo_from_before_a_reboot_is_no_news() {
    let clocks = [0, 1].map(|_| ManualClock::at(Timestamp::from_secs(T0)));
    let start = |index: usize| {
        let store = options(&clocks[index]).open_in_memory().unwrap();
        let replica = store.replicate(trusting(index as u8 + 1, &[1, 2])).unwrap();
        replica.set_peers([id(1), id(2)]);
        replica
    };
    let exchange = |one: &Replica, two: &Replica| {
        clocks.iter().for_each(|clock| clock.advance(secs(1)));
        for _ in 0..4 {
            one.tick();
            two.tick();
            while let Some(message) = one.poll_transmit() {
                two.receive(id(1), &message.bytes).unwrap();
            }
            while let Some(message) = two.poll_transmit() {
                one.receive(id(2), &message.bytes).unwrap();
            }
        }
    };
    let (one, two) = (start(0), start(1));
    (0..3).for_each(|_| exchange(&one, &two));
    // A heartbeat of the first is held up on the way. It echoes a time of the second's first life.
    clocks.iter().for_each(|clock| clock.advance(secs(1)));
    one.tick();
    let late: Vec<_> = std::iter::from_fn(|| one.poll_transmit()).collect();
    assert!(!late.is_empty());
    one.store().revoke(Revocation::of(Subject::token("t"))).unwrap();
    drop(two);
    // Its machine is started anew, and after some time its clock says what it said then.
    clocks[1].reboot();
    clocks[1].advance(secs(3600 + 5));
    clocks[1].set_wall(rescind::Clock::wall(&clocks[0]));
    let two = start(1);
    for message in late {
        two.receive(id(1), &message.bytes).unwrap();
        assert_eq!(two.store().check(&token("t")), Verdict::Unknown(Cause::Bootstrapping));
    }
    (0..4).for_each(|_| exchange(&one, &two));
    assert!(is_revoked(two.store(), &token("t")));
    assert_eq!(two.store().check(&token("other")), Verdict::Clear);
}

#[test]
fn what_has_no_room_in_the_outbox_is_noticed_and_repaired() {
    let group = Group::of(2);
    group.pass(secs(3));
    let many =
        |name: &str| (0..40_000).map(|n| Revocation::of(Subject::token(format!("{name}-{n}")))).collect::<Vec<_>>();
    // Nobody takes anything out of the outbox meanwhile.
    group.store(0).revoke_many(many("first")).unwrap();
    group.store(0).revoke_many(many("second")).unwrap();
    // Only news and heartbeats arrive: nothing tells what is missing but the numbers.
    for _ in 0..48 {
        group.clock.advance(TICK);
        group.replicas.iter().for_each(Replica::tick);
        group.deliver_but(|_, _, bytes| bytes[48] > DELTA && bytes[48] < HELD);
    }
    assert_eq!(group.store(1).check(&token("other")), Verdict::Unknown(Cause::Stale));
    group.pass(secs(10));
    for name in ["first", "second"] {
        assert!((0..40_000).all(|n| is_revoked(group.store(1), &token(&format!("{name}-{n}")))));
    }
    assert_eq!(group.store(1).check(&token("other")), Verdict::Clear);
}

#[test]
fn a_peer_that_does_not_deny_the_canary_says_so() {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    let full = options(&clock).capacity(0).open_in_memory().unwrap().replicate(trusting(1, &[1, 2])).unwrap();
    let other = options(&clock).open_in_memory().unwrap().replicate(trusting(2, &[1, 2])).unwrap();
    let group = Group { clock, replicas: vec![full, other] };
    group.meet();
    group.pass(secs(3));
    assert_eq!(group.replicas[1].start_canary(), 1);
    assert_eq!(group.replicas[1].start_canary(), 1, "it is out still");
    group.pass(secs(12));
    let Ok(Alarm::Canary(alarm)) = group.replicas[1].alarms().try_recv() else { panic!("no alarm") };
    assert_eq!((alarm.denied_here, alarm.missing), (true, vec![id(1)]));
    let report = group.replicas[1].canary().unwrap();
    assert_eq!(report.denied_by, [(id(1), None)]);
    assert!(!report.is_denied_everywhere());
    assert_eq!(group.replicas[1].start_canary(), 2);
}

/// Rows that share an actor are short in a message, and long in the log.
#[test]
fn a_page_that_is_long_in_the_log_is_taken_in_whole() {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    let disk = Arc::new(MemoryStorage::new());
    let durable =
        options(&clock).open_on(Arc::clone(&disk) as Arc<_>).unwrap().replicate(trusting(1, &[1, 2])).unwrap();
    let store = options(&clock).open_in_memory().unwrap();
    let actor = "a".repeat(rescind::ACTOR_BYTES_MAX);
    let many = (0..30_000).map(|n| Revocation::of(Subject::token(n.to_string())).by(actor.as_str()));
    for chunk in many.collect::<Vec<_>>().chunks(5_000) {
        store.revoke_many(chunk.to_vec()).unwrap();
    }
    let other = store.replicate(trusting(2, &[1, 2])).unwrap();
    let group = Group { clock: clock.clone(), replicas: vec![durable, other] };
    group.meet();
    group.pass(secs(10));
    group.store(0).maintain();
    assert_eq!((group.store(0).len(), group.store(0).stats().unsaved), (30_000, 0));
    assert_eq!(group.store(0).check(&token("other")), Verdict::Clear);
    let image = Arc::new(disk.kill_image());
    drop(group);
    assert_eq!(options(&clock).open_on(image).unwrap().len(), 30_000);
}

#[test]
fn differences_on_both_sides_are_mended_in_one_comparison() {
    let group = Group::of(2);
    group.pass(secs(3));
    let revoke = |index: usize, names: std::ops::Range<u64>| {
        group.store(index).revoke_many(names.map(|n| Revocation::of(Subject::token(n.to_string())))).unwrap();
        group.deliver(|_, _| true);
    };
    group.store(0).revoke_many((0..3_000).map(|n| Revocation::of(Subject::token(format!("shared-{n}"))))).unwrap();
    group.deliver(|_, _| false);
    revoke(0, 0..40);
    revoke(1, 100..140);
    group.store(1).disable(Subject::user("u")).unwrap();
    group.deliver(|_, _| true);
    group.pass(secs(6));
    for index in 0..2 {
        assert!((0..40).chain(100..140).all(|n: u64| is_revoked(group.store(index), &token(&n.to_string()))));
        assert!(is_revoked(group.store(index), &user("u")));
        assert_eq!(group.store(index).len(), 3_081);
    }
    assert_eq!(group.replicas.iter().map(|replica| replica.stats().comparisons).sum::<u64>(), 1);
}

#[test]
fn what_is_undone_on_a_disk_is_told() {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    let disk = Arc::new(MemoryStorage::new());
    let durable = options(&clock).open_on(disk).unwrap().replicate(trusting(1, &[1, 2])).unwrap();
    let other = options(&clock).open_in_memory().unwrap().replicate(trusting(2, &[1, 2])).unwrap();
    let group = Group { clock, replicas: vec![durable, other] };
    group.meet();
    group.pass(secs(3));
    group.store(0).revoke(Revocation::of(Subject::token("t"))).unwrap();
    group.deliver(|_, _| false);
    assert!(is_revoked(group.store(1), &token("t")));
    group.store(0).lift(Subject::token("t")).unwrap();
    group.deliver(|_, _| false);
    assert_eq!(group.store(1).check(&token("t")), Verdict::Clear, "at once, and not by a comparison");
}

/// What a heartbeat says includes all that was revoked before it, also what nobody has asked for yet.
#[test]
fn a_heartbeat_tells_of_what_waits_in_the_outbox() {
    let group = Group::of(2);
    group.pass(secs(3));
    for n in 0..12 {
        group.clock.advance(secs(1));
        group.store(0).revoke(Revocation::of(Subject::token(n.to_string()))).unwrap();
        // News are lost, heartbeats are not: the first byte of a payload says what it is.
        group.replicas.iter().for_each(Replica::tick);
        group.deliver_but(|_, _, bytes| bytes[48] != HEARTBEAT);
    }
    assert_eq!(group.store(1).check(&token("0")), Verdict::Unknown(Cause::Stale));
    assert_eq!(group.store(1).check(&token("other")), Verdict::Unknown(Cause::Stale));
}

/// Whoever has borne a later number is told so, believes it once in a while, and nobody believes a number of years ahead.
#[test]
fn a_peer_cannot_make_a_replica_give_up_its_name_again_and_again() {
    let group = Group::of(2);
    group.pass(secs(3));
    let first = group.replicas[0].position();
    // A second life of the first replica whose clock is an hour behind: its number is lower.
    let clock = ManualClock::at(Timestamp::from_secs(T0 - 30));
    let store = options(&clock).open_in_memory().unwrap();
    let reborn = store.replicate(trusting(1, &[1, 2])).unwrap();
    reborn.set_peers([id(1), id(2)]);
    let group = Group { clock: group.clock.clone(), replicas: vec![reborn, group.replicas[1].clone()] };
    for _ in 0..40 {
        clock.advance(TICK);
        group.pass(TICK);
    }
    assert_ne!(group.replicas[0].position(), first, "it has taken a number of its own");
    store.revoke(Revocation::of(Subject::token("t"))).unwrap();
    group.deliver(|_, _| false);
    assert!(is_revoked(group.store(1), &token("t")), "and its news are heard");
    assert_eq!(group.store(1).check(&token("other")), Verdict::Clear);
}

#[test]
fn a_peer_that_asks_for_too_much_is_not_answered_and_the_others_are() {
    let group = Group::of(3);
    group.pass(secs(3));
    group.store(0).revoke_many((0..5_000).map(|n| Revocation::of(Subject::token(n.to_string())))).unwrap();
    group.deliver(|_, _| true);
    // The comparison that the second begins, over and over: it is of 48 bytes and a few more, and is answered with more.
    let mut comparison = None;
    for _ in 0..8 {
        group.clock.advance(TICK);
        group.replicas.iter().for_each(Replica::tick);
        for index in 0..3 {
            while let Some(message) = group.replicas[index].poll_transmit() {
                let is_comparison = message.bytes[48] == 2;
                if is_comparison && index == 0 {
                    comparison = Some(message.bytes.clone());
                }
                let receiver = group.replicas.iter().find(|replica| replica.node() == message.to).unwrap();
                receiver.receive(group.replicas[index].node(), &message.bytes).unwrap();
            }
        }
    }
    let comparison = comparison.unwrap();
    let answers_to = |count: usize| {
        let before = group.replicas[0].stats().messages_out;
        (0..count).for_each(|_| group.replicas[0].receive(id(2), &comparison).unwrap());
        while group.replicas[0].poll_transmit_to(id(2)).is_some() {}
        group.replicas[0].stats().messages_out - before
    };
    let answers = answers_to(1_000);
    assert!((1..200).contains(&answers), "{answers}");
    assert_eq!(answers_to(10), 0);
    group.store(0).revoke(Revocation::of(Subject::token("news"))).unwrap();
    group.deliver(|_, _| false);
    assert!(is_revoked(group.store(2), &token("news")), "the others are heard");
    group.pass(secs(2));
    assert_ne!(answers_to(1), 0, "a moment later it is answered again");
}

#[test]
fn pages_that_are_lost_are_asked_for_again() {
    let mut group = Group::of(2);
    group.store(0).revoke_many((0..20_000).map(|n| Revocation::of(Subject::token(n.to_string())))).unwrap();
    group.pass(secs(10));
    // Both are asked to compare again and again meanwhile, by the other one.
    for index in 0..2 {
        reborn(&mut group, index, trusting(index as u8 + 1, &[1, 2]));
        for _ in 0..24 {
            group.clock.advance(TICK);
            group.replicas.iter().for_each(Replica::tick);
            group.deliver_but(|_, _, bytes| bytes[48] == PAGE);
        }
        assert!(group.store(index).len() < 20_000);
        group.pass(secs(12));
        assert_eq!(group.store(index).len(), 20_000);
        assert_eq!(group.store(index).check(&token("other")), Verdict::Clear);
    }
}

/// What a replica has refused it lacks, and a third that holds the same as it does lacks that, too.
#[test]
fn replica_that_has_refused_something_does_not_vouch_for_others() {
    let limited = trusting(2, &[1]).max_retention(secs(3600));
    let group = Group::new(vec![trusting(1, &[1]), limited, trusting(3, &[1])]);
    let exchange = |only_heartbeats: bool| {
        group.clock.advance(TICK);
        group.replicas.iter().for_each(Replica::tick);
        let is_between = |from, to| [(id(1), id(3)), (id(3), id(1))].contains(&(from, to));
        group.deliver_but(|from, to, bytes| only_heartbeats && is_between(from, to) && bytes[48] != HEARTBEAT);
    };
    (0..12).for_each(|_| exchange(false));
    assert_eq!(group.store(2).check(&token("t")), Verdict::Clear);
    let until = Timestamp::from_secs(T0 + 7200);
    group.store(0).revoke(Revocation::of(Subject::token("t")).until(until)).unwrap();
    (0..60).for_each(|_| exchange(true));
    assert!(group.replicas[1].stats().refused > 0);
    assert_eq!(group.store(1).len() + group.store(2).len(), 0);
    assert_eq!(group.store(2).check(&token("t")), Verdict::Unknown(Cause::Stale));
    (0..20).for_each(|_| exchange(false));
    assert!(is_revoked(group.store(2), &token("t")));
}

/// An issuer that has lost its disk does not take a third party for enough, which lacks what it has lost as well.
#[test]
fn who_has_lost_its_disk_asks_the_other_issuers() {
    let mut group = Group::new([1, 2, 3].map(|node| trusting(node, &[1, 2])).into());
    group.pass(secs(3));
    group.store(0).revoke(Revocation::of(Subject::token("t"))).unwrap();
    // The second has it. The third, which issues nothing, does not, and goes on hearing the second's heartbeats only.
    group.deliver(|_, to| to == id(3));
    reborn(&mut group, 0, trusting(1, &[1, 2]));
    for _ in 0..20 {
        group.clock.advance(TICK);
        group.replicas.iter().for_each(Replica::tick);
        group.deliver_but(|from, to, bytes| {
            let (first, second, third) = (id(1), id(2), id(3));
            let apart = (from == first && to == second) || (from == second && to == first);
            let only_heartbeats = (from == second && to == third) || (from == third && to == second);
            apart || only_heartbeats && bytes[48] != HEARTBEAT
        });
        assert_ne!(group.store(0).check(&token("t")), Verdict::Clear);
    }
    group.pass(secs(10));
    assert!(is_revoked(group.store(0), &token("t")));
    assert_eq!(group.store(0).check(&token("other")), Verdict::Clear);
}

#[test]
fn a_bus_is_given_news_once_and_the_rest_is_addressed() {
    let group = Group::new((1..=3).map(|node| trusting(node, &[1, 2, 3])).collect());
    group.replicas.iter().for_each(|replica| replica.set_peers([]));
    let nodes = [id(1), id(2), id(3)];
    let buses: Vec<Link> = group.replicas.iter().map(Replica::bus).collect();
    buses.iter().for_each(|bus| bus.set_peers(nodes));
    group.pass(secs(3));
    assert_eq!(group.store(1).check(&token("t")), Verdict::Clear, "they tell each other where they are");

    group.store(0).revoke(Revocation::of(Subject::token("t"))).unwrap();
    assert!(group.replicas[0].poll_transmit().is_none(), "nobody is told by itself");
    let news = buses[0].poll_broadcast().unwrap();
    assert!(buses[0].poll_broadcast().is_none(), "once");
    assert!(group.replicas.iter().all(|replica| replica.poll_transmit().is_none()));
    for other in [1, 2] {
        assert!(!is_revoked(group.store(other), &token("t")));
        group.replicas[other].receive(id(1), &news).unwrap();
        assert!(is_revoked(group.store(other), &token("t")));
    }
    // What the bus loses is found where it lacks.
    group.store(1).revoke(Revocation::of(Subject::token("lost"))).unwrap();
    assert!(buses[1].poll_broadcast().is_some());
    group.pass(secs(4));
    assert!(is_revoked(group.store(0), &token("lost")) && is_revoked(group.store(2), &token("lost")));
}

#[test]
fn the_peers_are_those_of_all_links_and_go_with_them() {
    let group = Group::of(3);
    let replica = &group.replicas[0];
    let peers = |replica: &Replica| replica.stats().peers.iter().map(|peer| peer.node).collect::<Vec<_>>();
    replica.set_peers([id(2)]);
    let (link, bus) = (replica.link(), replica.bus());
    link.set_peers([id(1), id(3)]);
    bus.set_peers([id(3), id(4)]);
    assert_eq!(peers(replica), [id(2), id(3), id(4)]);
    group.store(0).revoke(Revocation::of(Subject::token("t"))).unwrap();
    assert!(link.poll_broadcast().is_none(), "it is no bus");
    // Who is reached both ways is told both ways.
    let told: Vec<bool> = [2, 3, 4].iter().map(|node| replica.poll_transmit_to(id(*node)).is_some()).collect();
    assert_eq!((told, bus.poll_broadcast().is_some()), (vec![true, true, false], true));
    drop(link);
    assert_eq!(peers(replica), [id(2), id(3), id(4)]);
    drop(bus);
    assert_eq!(peers(replica), [id(2)]);
}
