//! Live connections: told at once when they are revoked, and only then.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a failed test panics, a harness says what it measured, and here it is real time that passes"
)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use rescind::{
    Cause, Credential, Effect, Key, ManualClock, NodeId, Options, Replication, Revocation, Store, Subject, Timestamp,
    Verdict, Watch,
};

const T0: u64 = 1_800_000_000;
/// Longer than the period in which everybody is asked about anyway.
const LONG: Duration = Duration::from_millis(1_300);
/// Shorter than so many periods as there are tries.
const SOON: Duration = Duration::from_secs(8);

fn connection() -> Credential<'static> {
    Credential::new().tenant("acme").user("alice").session("s1").issued_at_secs(T0 - 60).auth_time_secs(T0 - 600)
}

fn store() -> (Store, ManualClock) {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    (Options::new().clock(clock.clone()).background(false).open_in_memory().unwrap(), clock)
}

/// Waits for a verdict, but not for ever.
fn told(watch: &Watch) -> Verdict {
    let begun = Instant::now();
    loop {
        if let Some(verdict) = watch.verdict() {
            return verdict;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody was told");
        thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn whoever_is_revoked_is_told_and_nobody_else() {
    let (store, _) = store();
    let alice = store.watch(&connection()).unwrap();
    let bob = store.watch(&connection().user("bob").session("s2")).unwrap();
    let late = store.watch(&connection().user("carol").session("s3")).unwrap();
    assert_eq!((alice.verdict(), bob.verdict()), (None, None));
    store.revoke(Revocation::of(Subject::user("alice").in_tenant("acme"))).unwrap();
    assert!(matches!(told(&alice), Verdict::Revoked(denial) if matches!(denial.effect, Effect::Reauthenticate { .. })));
    thread::sleep(LONG);
    assert_eq!(bob.verdict(), None);
    store.revoke(Revocation::of(Subject::tenant("acme")).sparing_session("s2")).unwrap();
    assert!(matches!(told(&late), Verdict::Revoked(_)));
    assert_eq!(bob.verdict(), None, "it is spared");
    store.disable(Subject::user("bob")).unwrap();
    assert!(matches!(bob.wait(), Verdict::Revoked(_)));

    // Who is revoked already is told at once, without a thread in between.
    let dead = store.watch(&connection()).unwrap();
    assert!(matches!(dead.verdict(), Some(Verdict::Revoked(_))));
}

#[test]
fn groups_and_opaque_tokens_are_watched_too() {
    let (store, _) = store();
    let groups = vec!["admins".to_owned(), "staff".to_owned()];
    let member = store.watch(&connection().groups(&groups)).unwrap();
    drop(groups);
    let opaque = store.watch(&Credential::new().opaque_token("secret")).unwrap();
    store.revoke(Revocation::of(Subject::group("staff"))).unwrap();
    assert!(matches!(told(&member), Verdict::Revoked(_)));
    assert_eq!(opaque.verdict(), None);
    store.revoke(Revocation::of(Subject::opaque_token("secret"))).unwrap();
    assert!(matches!(told(&opaque), Verdict::Revoked(_)));
}

#[test]
fn a_rotation_ends_no_connection() {
    let (store, clock) = store();
    // The connection is of the session; its token is none of its business.
    let by_session = store.watch(&connection()).unwrap();
    store.revoke(Revocation::of(Subject::token("jti-1"))).unwrap();
    // One that names its token is given the next before the old one is revoked.
    let by_token = store.watch(&connection().token("jti-2")).unwrap();
    by_token.replace(&connection().token("jti-3"));
    store.revoke(Revocation::of(Subject::token("jti-2"))).unwrap();
    // After a change of claims, whoever has refreshed goes on.
    store.revoke(Revocation::of(Subject::user("alice")).reissue()).unwrap();
    assert!(matches!(told(&by_session), Verdict::Revoked(denial) if matches!(denial.effect, Effect::Reissue { .. })));
    assert!(matches!(told(&by_token), Verdict::Revoked(_)));
    clock.advance(Duration::from_secs(1));
    let refreshed = store.watch(&connection().issued_at_secs(T0 + 1)).unwrap();
    thread::sleep(LONG);
    assert_eq!(refreshed.verdict(), None);
    // To be given a dead one is to be told.
    refreshed.replace(&connection().token("jti-1"));
    assert!(matches!(refreshed.verdict(), Some(Verdict::Revoked(_))));
}

#[test]
fn what_dies_of_age_is_told_and_not_knowing_ends_nothing() {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    let options = Options::new().clock(clock.clone()).background(false).key(Key::from_bytes([4; 32]));
    let store = options.max_credential_age(Duration::from_secs(900)).open_in_memory().unwrap();
    let aging = store.watch(&connection().auth_time_secs(T0)).unwrap();
    let [one, two] = ["one", "two"].map(NodeId::named);
    let _replica = store.replicate(Replication::trusting_issuers("test", one, [one, two])).unwrap();
    assert_eq!(store.check(&connection()), Verdict::Unknown(Cause::Bootstrapping));
    clock.advance(Duration::from_secs(800));
    store.maintain();
    thread::sleep(LONG);
    assert_eq!(aging.verdict(), None);
    clock.advance(Duration::from_secs(1_000));
    store.maintain();
    assert!(matches!(told(&aging), Verdict::Revoked(_)));
}

#[test]
fn what_a_peer_has_revoked_is_told() {
    let clock = ManualClock::at(Timestamp::from_secs(T0));
    let options = || Options::new().clock(clock.clone()).background(false).key(Key::from_bytes([4; 32]));
    let stores = [0, 1].map(|_| options().open_in_memory().unwrap());
    let nodes = ["one", "two"].map(NodeId::named);
    let replicas = [0, 1].map(|n: usize| {
        let replica = stores[n].replicate(Replication::trusting_issuers("test", nodes[n], nodes)).unwrap();
        replica.set_peers(nodes);
        replica
    });
    let begun = Instant::now();
    for n in 0..20 {
        let session = format!("s{n}");
        let watch = stores[1].watch(&connection().session(&*session)).unwrap();
        assert_eq!(watch.verdict(), None);
        stores[0].revoke(Revocation::of(Subject::session(&*session))).unwrap();
        while let Some(message) = replicas[0].poll_transmit() {
            replicas[1].receive(nodes[0], &message.bytes).unwrap();
        }
        assert!(matches!(told(&watch), Verdict::Revoked(_)));
    }
    assert!(begun.elapsed() < SOON, "they were found out, and not told");
}

#[test]
fn who_watches_a_store_that_is_closed_is_told_so() {
    let (store, _) = store();
    let watch = store.watch(&connection()).unwrap();
    store.close().unwrap();
    assert_eq!(watch.verdict(), Some(Verdict::Unknown(Cause::Closed)));
    assert_eq!(store.watch(&connection()).unwrap().wait(), Verdict::Unknown(Cause::Closed));
    let (other, _) = self::store();
    let watch = other.watch(&connection()).unwrap();
    drop(other);
    assert_eq!(watch.wait(), Verdict::Unknown(Cause::Closed), "the last clone is gone");
}

/// Counts how often it is woken.
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn it_is_a_future() {
    let (store, _) = store();
    let mut watch = store.watch(&connection()).unwrap();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    assert_eq!(Pin::new(&mut watch).poll(&mut context), Poll::Pending);
    store.revoke(Revocation::of(Subject::session("s9"))).unwrap();
    assert_eq!(Pin::new(&mut watch).poll(&mut context), Poll::Pending);
    store.revoke(Revocation::of(Subject::session("s1"))).unwrap();
    let verdict = told(&watch);
    assert_eq!(Pin::new(&mut watch).poll(&mut context), Poll::Ready(verdict));
    assert_eq!(count.0.load(Ordering::SeqCst), 1, "woken once");
}

#[test]
fn a_token_that_is_revoked_is_told_and_not_found_out() {
    let (store, _) = store();
    let begun = Instant::now();
    for n in 0..8 {
        let token = format!("jti-{n}");
        let watch = store.watch(&connection().token(&*token)).unwrap();
        store.revoke(Revocation::of(Subject::token(&*token))).unwrap();
        assert!(matches!(told(&watch), Verdict::Revoked(_)));
    }
    assert!(begun.elapsed() < SOON / 2, "it was found out, and not told");
}

#[test]
fn of_very_many_each_is_told_soon_and_whoever_has_gone_is_forgotten() {
    const COUNT: usize = 20_000;
    let (store, _) = store();
    let watches: Vec<Watch> = (0..COUNT)
        .map(|n| store.watch(&Credential::new().user(format!("user-{n}")).issued_at_secs(T0 - 60)).unwrap())
        .collect();
    assert_eq!(store.stats().watches, COUNT);
    let mut times = Vec::new();
    for n in (0..COUNT).step_by(COUNT / 50) {
        let begun = Instant::now();
        store.revoke(Revocation::of(Subject::user(format!("user-{n}")))).unwrap();
        assert!(matches!(told(&watches[n]), Verdict::Revoked(_)));
        times.push(begun.elapsed());
    }
    assert!(times.iter().sum::<Duration>() < SOON, "they were found out, and not told: {times:?}");
    times.sort_unstable();
    println!("watch connections={COUNT} p50_us={} max_us={}", times[25].as_micros(), times[49].as_micros());
    assert_eq!(store.stats().watches, COUNT - 50);
    drop(watches);
    assert_eq!(store.stats().watches, 0);
}
