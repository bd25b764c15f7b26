//! The store as its users see it: writing, waiting, asking why, bad input, capacity, closing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{
    Acknowledgement, Actor, Cause, Change, Claim, Credential, Durability, Effect, InvalidRevocation, InvalidSubject,
    Key, Kind, LocalSubject, ManualClock, OpenError, Options, Reason, Revocation, Store, Subject, Timestamp, Verdict,
    WriteError,
};

const NOW: u64 = 1_800_000_000;

fn clock() -> ManualClock {
    ManualClock::at(Timestamp::from_secs(NOW))
}

fn options(clock: &ManualClock) -> Options {
    Options::new().clock(clock.clone()).background(false).key(Key::from_bytes([9; 32])).segment_bytes(64 * 1024)
}

fn secs(offset: i64) -> Timestamp {
    Timestamp::from_secs(NOW.checked_add_signed(offset).unwrap())
}

fn effect(verdict: Verdict) -> Effect {
    match verdict {
        Verdict::Revoked(denial) => denial.effect,
        other => panic!("{other}"),
    }
}

#[test]
fn the_shape_of_the_public_surface() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}
    is_shareable::<Store>();
    fn is_future<T: Future<Output = Result<rescind::Receipt, WriteError>> + Send>() {}
    is_future::<rescind::Pending>();
}

#[test]
fn a_submission_denies_at_once_and_can_be_awaited_or_waited_for() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let clock = clock();
    let store = options(&clock).open_on(Arc::new(MemoryStorage::new())).unwrap();
    let pending = store.submit(Revocation::of(Subject::token("t1"))).unwrap();
    assert_eq!(effect(store.check(&Credential::new().token("t1"))), Effect::Revoked, "before it is acknowledged");
    assert_eq!(pending.wait().unwrap().acknowledgement, Acknowledgement::Durable);

    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut pending = pin!(store.submit_many(["a", "b"].map(|id| Revocation::of(Subject::token(id)))).unwrap());
    let mut was_pending = false;
    let receipt = loop {
        match pending.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(receipt) => break receipt.unwrap(),
            Poll::Pending => {
                was_pending = true;
                std::thread::yield_now();
            }
        }
    };
    assert_eq!((receipt.changed, receipt.acknowledgement), (2, Acknowledgement::Durable));
    assert!(!was_pending || count.0.load(Ordering::SeqCst) <= 1, "woken once at most");
}

#[test]
fn the_receipt_says_what_was_promised() {
    let clock = clock();
    for (durability, expected) in [
        (Durability::Sync, Acknowledgement::Durable),
        (Durability::Interval(Duration::from_secs(1)), Acknowledgement::Accepted),
        (Durability::Memory, Acknowledgement::Memory),
    ] {
        let store = options(&clock).durability(durability).open_on(Arc::new(MemoryStorage::new())).unwrap();
        assert_eq!(store.revoke(Revocation::of(Subject::token("t"))).unwrap().acknowledgement, expected);
        assert_eq!(store.enable(Subject::user("nobody")).unwrap().acknowledgement, expected);
    }
    assert_eq!(
        Store::in_memory().revoke(Revocation::of(Subject::token("t"))).unwrap().acknowledgement,
        Acknowledgement::Memory
    );
}

#[test]
fn many_callers_share_commits() {
    const CALLERS: usize = 16;
    const EACH: usize = 50;
    let clock = clock();
    let store = options(&clock).open_on(Arc::new(MemoryStorage::new())).unwrap();
    let barrier = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (store, barrier) = (&store, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let pending: Vec<_> = (0..EACH)
                    .map(|n| store.submit(Revocation::of(Subject::token(format!("{caller}/{n}")))).unwrap())
                    .collect();
                pending.into_iter().for_each(|pending| assert!(pending.wait().unwrap().is_changed()));
            });
        }
    });
    assert_eq!(store.len(), CALLERS * EACH);
    assert!(store.stats().batches < (CALLERS * EACH) as u64, "{} commits", store.stats().batches);
}

#[test]
fn capacity_refuses_the_new_and_keeps_the_old_from_eight_threads() {
    const CAPACITY: usize = 500;
    let clock = clock();
    let store = options(&clock).capacity(CAPACITY).open_in_memory().unwrap();
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, refused) = (&store, &refused);
            scope.spawn(move || {
                for n in 0..200 {
                    let id = format!("{thread}/{n}");
                    match store.revoke(Revocation::of(Subject::token(id.as_str()))) {
                        Ok(_) => assert_eq!(effect(store.check(&Credential::new().token(&id))), Effect::Revoked),
                        Err(WriteError::CapacityExceeded { capacity, .. }) => {
                            assert_eq!(capacity, CAPACITY);
                            assert_eq!(store.check(&Credential::new().token(&id)), Verdict::Clear);
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert_eq!(store.len(), CAPACITY);
    assert_eq!(refused.into_inner(), 8 * 200 - CAPACITY);
    // A batch that does not fit changes nothing; what is known already fits at any time.
    let batch = ["x", "y"].map(|id| Revocation::of(Subject::session(id)));
    assert!(matches!(store.revoke_many(batch), Err(WriteError::CapacityExceeded { .. })));
    let known = (0..8).find(|n| !matches!(store.check(&Credential::new().token(format!("{n}/0"))), Verdict::Clear));
    store.revoke(Revocation::of(Subject::token(format!("{}/0", known.unwrap())))).unwrap();
}

#[test]
fn bad_input_gets_an_error_that_says_what_to_do_and_changes_nothing() {
    let clock = clock();
    let store = options(&clock).open_in_memory().unwrap();
    let long = "x".repeat(1025);
    let refused = |revocation: Revocation, expected: &str| {
        let error = store.revoke(revocation).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(store.is_empty());
        error
    };
    refused(Revocation::of(Subject::token("")), "the token is empty");
    refused(Revocation::of(Subject::opaque_token("")), "the token is empty");
    refused(Revocation::of(Subject::user("u").in_tenant("")), "the tenant is empty");
    refused(Revocation::of(Subject::user("u").at_issuer("")), "the issuer is empty");
    refused(Revocation::of(Subject::session(long.as_str())), "1025 bytes long, the limit is 1024");
    refused(Revocation::of(Subject::tenant("a").in_tenant("b")), "cannot be inside a tenant");
    refused(Revocation::of(Subject::everyone().in_tenant("b")), "use Subject::tenant");
    refused(Revocation::of(Subject::user("u")).until(secs(60)), "leave out until");
    refused(Revocation::of(Subject::token("t")).at(secs(0)), "denied outright and has no epoch");
    refused(Revocation::of(Subject::token("t")).reissue(), "denied outright and has no epoch");
    refused(Revocation::of(Subject::session("t")).sparing_session("s"), "denied outright and has no epoch");
    refused(Revocation::of(Subject::user("u")).sparing_session(""), "spared session: the session is empty");
    refused(Revocation::of(Subject::user("u")).at_secs(f64::NAN), "names no time");
    refused(Revocation::of(Subject::token("u")).until_secs(-1), "names no time");
    refused(Revocation::of(Subject::token("u")).note("n".repeat(1025)), "the note is 1025 bytes");
    refused(Revocation::of(Subject::token("u")).by("n".repeat(257)), "the actor is 257 bytes");
    let many = (0..65).fold(Revocation::of(Subject::user("u")), |r, n| r.sparing_session(format!("s{n}")));
    refused(many, "65 sessions to spare, the limit is 64");
    let future = refused(Revocation::of(Subject::user("u")).at(secs(61)), "check the clock that made it");
    assert!(matches!(future, WriteError::EpochInFuture { skew, .. } if skew == Duration::from_secs(60)));
    let past = refused(Revocation::of(Subject::token("t")).until(secs(-61)), "has expired already");
    assert!(matches!(past, WriteError::RetentionInPast { .. }));
    for subject in [Subject::token("t"), Subject::group("g"), Subject::everyone()] {
        let error = store.disable(subject).unwrap_err();
        assert!(matches!(error, WriteError::Invalid(InvalidRevocation::NotDisableable { .. })), "{error}");
    }
    let batch = [Revocation::of(Subject::token("good")), Revocation::of(Subject::token(""))];
    assert!(matches!(store.revoke_many(batch), Err(WriteError::InBatch { index: 1, .. })));
    assert!(store.is_empty());
    assert!(matches!(store.tenant(""), Err(InvalidSubject::Empty { .. })));
    // At the limits it works.
    store.revoke(Revocation::of(Subject::session("x".repeat(1024)))).unwrap();
    store.revoke(Revocation::of(Subject::user("u")).at(secs(60))).unwrap();
    store.revoke(Revocation::of(Subject::token("t")).until(secs(-60))).unwrap();
    assert_eq!(store.len(), 3);
}

#[test]
fn options_that_contradict_themselves_are_refused() {
    for options in [
        Options::new().max_credential_age(Duration::ZERO),
        Options::new().tenant_max_credential_age("acme", Duration::ZERO),
        Options::new().durability(Durability::Interval(Duration::ZERO)),
    ] {
        assert!(matches!(options.open_in_memory(), Err(OpenError::Options(_))));
    }
    let nameless = Options::new().tenant_max_credential_age("", Duration::from_secs(1));
    assert!(matches!(nameless.open_in_memory(), Err(OpenError::Tenant(_))));
}

#[test]
fn explain_says_why_since_when_and_by_whom() {
    let clock = clock();
    let store = options(&clock).retain_labels(true).open_in_memory().unwrap();
    let bob = Subject::user("bob").in_tenant("acme");
    assert_eq!(store.explain(&bob).unwrap(), None);
    store.disable(Change::of(bob.clone()).because(Reason::Compromise).by("carol")).unwrap();
    clock.advance(Duration::from_secs(10));
    store.enable(bob.clone()).unwrap();
    store.revoke(Revocation::of(bob.clone()).reissue().because(Reason::ClaimsChange).sparing_session("s")).unwrap();

    let explanation = store.explain(&bob).unwrap().unwrap();
    assert_eq!((explanation.label.as_deref(), explanation.subject.kind), (Some("bob"), Kind::User));
    assert!(explanation.denies());
    let fact = |wanted: fn(&Effect) -> bool| explanation.facts.iter().find(|fact| wanted(&fact.effect)).unwrap();
    let flag = fact(|effect| *effect == Effect::Disabled);
    assert_eq!((flag.undone, flag.since, flag.reason), (true, secs(0), Reason::Compromise));
    assert_eq!(flag.actor.as_deref(), Some("carol"));
    let epoch = fact(|effect| matches!(effect, Effect::Reauthenticate { .. }));
    assert_eq!((epoch.undone, epoch.actor.as_deref()), (false, Some("carol")));
    let reissue = fact(|effect| matches!(effect, Effect::Reissue { epoch } if *epoch == secs(10)));
    assert_eq!((reissue.reason, reissue.spared_sessions, reissue.actor.as_deref()), (Reason::ClaimsChange, 1, None));

    store.revoke(Revocation::of(Subject::token("t")).until(secs(600)).by("dave")).unwrap();
    let token = store.explain(&Subject::token("t")).unwrap().unwrap();
    assert_eq!((token.until, token.label), (Some(secs(600)), None));
    assert_eq!(store.list(), [explanation], "tokens are not listed");
    assert_eq!(store.explain(&Subject::user("bob")).unwrap(), None, "another subject");
}

#[test]
fn a_tenants_handle_acts_in_its_tenant_alone() {
    let clock = clock();
    let store = options(&clock).open_in_memory().unwrap();
    let acme = store.tenant("acme").unwrap();
    let of = |tenant: &'static str| {
        Credential::new().tenant(tenant).user("alice").session("s").issued_at(secs(-10)).auth_time(secs(-10))
    };
    acme.revoke(Revocation::of(LocalSubject::user("alice"))).unwrap();
    assert!(matches!(effect(acme.check(&of("acme"))), Effect::Reauthenticate { .. }));
    assert!(matches!(effect(store.check(&of("acme"))), Effect::Reauthenticate { .. }));
    assert_eq!(store.check(&of("beta")), Verdict::Clear);
    assert_eq!(acme.check(&of("beta")), Verdict::Unknown(Cause::ForeignTenant));
    // The handle supplies the tenant that a credential leaves out.
    let nameless = Credential::new().user("alice").issued_at(secs(-10));
    assert!(matches!(acme.check(&nameless), Verdict::Revoked(_)));
    assert_eq!(store.check(&nameless), Verdict::Clear);
    // Everyone in the handle's eyes is its tenant; the acting session is spared.
    acme.lift(LocalSubject::user("alice")).unwrap();
    acme.revoke(Revocation::of(LocalSubject::everyone()).sparing_session("s")).unwrap();
    assert_eq!(acme.check(&of("acme")), Verdict::Clear);
    assert!(matches!(acme.check(&of("acme").session("other")), Verdict::Revoked(_)));
    assert_eq!(store.check(&of("beta").session("other")), Verdict::Clear);
    acme.disable(LocalSubject::everyone()).unwrap();
    assert_eq!(effect(acme.check(&of("acme"))), Effect::Disabled);
    assert_eq!(acme.enable(LocalSubject::everyone()).unwrap().changed, 1);
    assert!(acme.explain(LocalSubject::everyone()).unwrap().unwrap().denies());
}

#[test]
fn a_session_started_in_the_second_of_an_epoch_can_be_admitted() {
    let clock = ManualClock::at(Timestamp::from_nanos(NOW * 1_000_000_000 + 400_000_000));
    let store = options(&clock).open_in_memory().unwrap();
    let alice = || Credential::new().user("alice");
    assert_eq!(store.admissible_from(&alice()), secs(0));
    store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
    clock.advance(Duration::from_millis(100));
    // Logged in again at .5, but the claim says the whole second.
    let login = |at: Timestamp| alice().issued_at(at).auth_time(at);
    assert!(matches!(store.check(&login(secs(0))), Verdict::Revoked(_)));
    let from = store.admissible_from(&alice());
    assert_eq!(from, secs(1));
    assert_eq!(store.check(&login(from)), Verdict::Clear);
    assert_eq!(store.admissible_from(&Credential::new().user("bob")), secs(0));
    // An epoch of long ago is no reason to date a login back.
    clock.advance(Duration::from_secs(3600));
    assert_eq!(store.admissible_from(&alice()), secs(3600));
}

#[test]
fn a_lift_that_is_on_its_way_does_not_void_what_comes_after_it() {
    let clock = clock();
    let store = options(&clock).open_on(Arc::new(MemoryStorage::new())).unwrap();
    // The clock stands still all the while.
    let credential = Credential::new().user("u").token("t").issued_at(secs(-1));
    for _ in 0..100 {
        store.revoke(Revocation::of(Subject::token("t"))).unwrap();
        store.revoke(Revocation::of(Subject::user("u"))).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| store.lift(Subject::token("t")).unwrap());
            scope.spawn(|| store.lift(Subject::user("u")).unwrap());
        });
        assert_eq!(store.check(&credential), Verdict::Clear);
        store.revoke(Revocation::of(Subject::token("t"))).unwrap();
        assert_eq!(effect(store.check(&credential)), Effect::Revoked);
        store.lift(Subject::token("t")).unwrap();
        store.revoke(Revocation::of(Subject::user("u"))).unwrap();
        assert!(matches!(effect(store.check(&credential)), Effect::Reauthenticate { .. }));
    }
}

/// More credentials than one batch, naming few subjects and many, the short way and the long, revoked and not.
#[test]
fn check_many_says_what_check_says() {
    let store = Store::in_memory();
    let subjects = [
        Subject::token("t3"),
        Subject::opaque_token("secret"),
        Subject::session("s5").in_tenant("acme"),
        Subject::user("u7").in_tenant("acme").at_issuer("iss"),
        Subject::group("g2"),
        Subject::tenant("beta"),
        Subject::family("f".repeat(1000)),
    ];
    store.revoke_many(subjects.map(Revocation::of)).unwrap();
    let long = "f".repeat(1000);
    let many: Vec<String> = (0..40).map(|n| format!("g{}", n + 1)).collect();
    let names: Vec<[String; 3]> = (0..200).map(|n| ["t", "s", "u"].map(|kind| format!("{kind}{}", n % 10))).collect();
    let credentials: Vec<Credential<'_>> = (0_u64..)
        .zip(&names)
        .map(|(n, [token, session, user])| {
            let mut credential = Credential::new();
            credential = match n % 7 {
                0 => credential.opaque_token(if n % 2 == 0 { "secret" } else { "another" }),
                _ => credential.token(token),
            };
            if n % 3 > 0 {
                credential = credential.session(session).user(user).tenant(if n % 5 == 0 { "beta" } else { "acme" });
            }
            if n % 4 == 0 {
                credential = credential.issuer("iss").expires_at_secs(if n % 8 == 0 { 1_u64 } else { 1 << 33 });
            }
            if n % 11 == 0 {
                credential = credential.groups(if n % 2 == 0 { &many[..1] } else { &many[..] });
            }
            if n % 13 == 0 { credential.family(&long) } else { credential }
        })
        .collect();
    let mut verdicts = vec![Verdict::Clear; 3];
    for len in [0, 1, 31, 32, 33, 200] {
        store.check_many(&credentials[..len], &mut verdicts);
        let expected: Vec<Verdict> = credentials[..len].iter().map(|credential| store.check(credential)).collect();
        assert_eq!(verdicts, expected, "of {len}");
    }
    let revoked = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Revoked(_))).count();
    assert!((50..150).contains(&revoked), "{revoked}");
}

#[test]
fn check_many_answers_in_order() {
    let clock = clock();
    let store = options(&clock).require_claim(Claim::User).open_in_memory().unwrap();
    store.revoke(Revocation::of(Subject::token("t1"))).unwrap();
    let credentials: Vec<_> =
        (0..3).map(|n| Credential::new().user("u").token(format!("t{n}"))).chain([Credential::new()]).collect();
    let mut verdicts = vec![Verdict::Clear; 9];
    store.check_many(&credentials, &mut verdicts);
    let expected: Vec<_> = credentials.iter().map(|credential| store.check(credential)).collect();
    assert_eq!(verdicts, expected);
    assert_eq!(effect(verdicts[1]), Effect::Revoked);
    assert_eq!(verdicts[3], Verdict::Unknown(Cause::MissingClaim(Claim::User)));
}

#[test]
fn a_closed_store_clears_nobody_and_frees_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path).unwrap();
    let clone = store.clone();
    store.revoke(Revocation::of(Subject::token("dead"))).unwrap();
    assert!(matches!(Store::open(&path), Err(OpenError::Directory(_))), "in use");
    store.close().unwrap();
    assert!(matches!(clone.check(&Credential::new().token("dead")), Verdict::Revoked(_)), "what is held still binds");
    assert_eq!(clone.check(&Credential::new().token("alive")), Verdict::Unknown(Cause::Closed));
    assert!(matches!(clone.revoke(Revocation::of(Subject::token("t"))), Err(WriteError::Closed)));
    assert!(matches!(clone.lift(Subject::token("dead")), Err(WriteError::Closed)));
    assert!(clone.snapshot().is_err());
    clone.close().unwrap();
    // The directory is free although clones are alive; and dropping the last clone closes as well.
    let reopened = Store::open(&path).unwrap();
    assert_eq!(reopened.len(), 1);
    drop(reopened);
    assert_eq!(Store::open(&path).unwrap().len(), 1);
}

#[test]
fn a_clock_behind_what_was_seen_clears_nobody_until_it_catches_up() {
    let clock = clock();
    let storage = Arc::new(MemoryStorage::new());
    let store = options(&clock).open_on(storage.clone()).unwrap();
    store.revoke(Revocation::of(Subject::token("dead"))).unwrap();
    store.close().unwrap();
    clock.set_wall(secs(-3600));
    clock.reboot();
    let store = options(&clock).open_on(storage.clone()).unwrap();
    // Without the doubt about the clock, this would be dead: its date lies in the future.
    let fresh = Credential::new().token("alive").issued_at(secs(0));
    assert_eq!(store.check(&fresh), Verdict::Unknown(Cause::Clock));
    assert_eq!(store.check(&Credential::new().token("alive")), Verdict::Clear, "it has no age to be judged");
    assert!(matches!(store.check(&Credential::new().token("dead")), Verdict::Revoked(_)), "what is held still binds");
    clock.advance(Duration::from_secs(3600));
    assert_eq!(store.check(&fresh), Verdict::Clear);
    store.close().unwrap();
    clock.set_wall(secs(-3600));
    clock.reboot();
    let store = options(&clock).accept_clock(true).open_on(storage).unwrap();
    assert_eq!(store.check(&Credential::new().token("alive")), Verdict::Clear);
}

#[test]
fn a_forward_step_of_the_clock_forgets_nothing() {
    let clock = clock();
    let store = options(&clock).open_in_memory().unwrap();
    store.revoke(Revocation::of(Subject::token("t")).until(secs(600))).unwrap();
    clock.set_wall(secs(365 * 24 * 3600));
    assert_eq!(store.maintain().forgotten, 0);
    clock.set_wall(secs(0));
    assert!(matches!(store.check(&Credential::new().token("t").expires_at(secs(600))), Verdict::Revoked(_)));
    clock.advance(Duration::from_secs(600 + 60 + 300 + 1));
    assert_eq!(store.maintain().forgotten, 1);
}

#[test]
fn the_thread_of_the_store_maintains_it() {
    // Real time: the one test that waits for the thread, on a condition and not for a time.
    let store = Options::new()
        .leeway(Duration::ZERO)
        .max_clock_skew(Duration::ZERO)
        .retention_grace(Duration::ZERO)
        .open_in_memory()
        .unwrap();
    store.revoke(Revocation::of(Subject::token("t")).until(store.stats().borne_out_time)).unwrap_err();
    let soon = store.stats().borne_out_time.saturating_add(Duration::from_secs(2));
    store.revoke(Revocation::of(Subject::token("t")).until(soon)).unwrap();
    while store.stats().forgotten == 0 {
        std::thread::yield_now();
    }
    assert!(store.is_empty());
}

#[test]
fn an_actor_has_an_address_and_a_session_for_the_record() {
    let actor = Actor::service("gateway").from_ip(IpAddr::V4(Ipv4Addr::LOCALHOST)).in_session("row-7");
    let receipt = Store::in_memory().revoke(Revocation::of(Subject::token("t")).by(actor)).unwrap();
    assert!(receipt.is_changed());
}

#[test]
fn the_filter_grows_without_maintenance_too() {
    let store = Store::in_memory();
    for first in (0..100_000).step_by(1000) {
        let batch = (first..first + 1000).map(|n| Revocation::of(Subject::token(n.to_string())));
        store.revoke_many(batch).unwrap();
    }
    assert!(store.stats().filter_rebuilds >= 2, "{}", store.stats().filter_rebuilds);
    // Maintenance fits it exactly: two bytes per entry, up to twice that, and the smaller ones that came before.
    store.maintain();
    let stats = store.stats();
    assert!((200_000..1_000_000).contains(&stats.filter_bytes), "{}", stats.filter_bytes);
}

#[test]
fn a_tool_keeps_the_limits_that_the_service_has_recorded() {
    let (clock, disk) = (clock(), MemoryStorage::new());
    let service = || {
        let limited = options(&clock).leeway(Duration::from_secs(10)).retention_grace(Duration::from_secs(70));
        limited
            .max_credential_age(Duration::from_secs(1_000))
            .tenant_max_credential_age("acme", Duration::from_secs(500))
    };
    drop(service().open_on(Arc::new(disk.clone())).unwrap());
    let recorded = disk.files();
    let tool = options(&clock).keep_recorded_limits(true).open_on(Arc::new(disk.clone())).unwrap();
    let log = |files: std::collections::BTreeMap<String, Vec<u8>>| files["wal-0000000000000001.log"].clone();
    assert_eq!(log(disk.files()), log(recorded), "nothing is recorded anew");
    assert!(matches!(
        effect(tool.check(&Credential::new().user("u").issued_at(secs(-1_001)))),
        Effect::TooOld { limit } if limit == Duration::from_secs(1_000)
    ));
    // What it writes is forgotten by these limits, and no sooner.
    tool.revoke(Revocation::of(Subject::token("t")).until(secs(100))).unwrap();
    tool.revoke(Revocation::of(Subject::user("bob").in_tenant("acme"))).unwrap();
    clock.advance(Duration::from_secs(180));
    assert_eq!((tool.maintain().forgotten, tool.len()), (0, 2), "exp, leeway and grace");
    clock.advance(Duration::from_secs(1));
    assert_eq!((tool.maintain().forgotten, tool.len()), (1, 1));
    clock.advance(Duration::from_secs(391));
    assert_eq!((tool.maintain().forgotten, tool.len()), (1, 0), "the age of the tenant, and grace");
    tool.snapshot().unwrap();
    drop(tool);
    // The service finds its limits, and makes up for none.
    let service = service().open_on(Arc::new(disk)).unwrap();
    assert_eq!(service.list(), [], "no floor");
}
