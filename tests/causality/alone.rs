//! One store, its clock, and its issuers.

use std::sync::Arc;

use parking_lot::Mutex;
use rescind::audit::{AuditError, AuditRecord, AuditSink};
use rescind::storage::MemoryStorage;
use rescind::{Cause, ManualClock, Revocation, Store, Subject, Timestamp, Verdict, WriteError};

use super::{Effect, alice, at, effect, is_clear, is_revoked, millis, options, revocation, secs};

/// A store on a disk, and what is needed to open it again.
struct World {
    clock: ManualClock,
    disk: MemoryStorage,
    store: Store,
}

impl World {
    fn at(wall: Timestamp) -> Self {
        let (clock, disk) = (ManualClock::at(wall), MemoryStorage::new());
        let store = options(&clock).open_on(Arc::new(disk.clone())).unwrap();
        Self { clock, disk, store }
    }

    fn reopen(&mut self) {
        self.store.close().unwrap();
        self.store = options(&self.clock).open_on(Arc::new(self.disk.clone())).unwrap();
    }

    /// The same in the running store and in one that is opened again.
    fn twice(&mut self, holds: impl Fn(&Store)) {
        holds(&self.store);
        self.reopen();
        holds(&self.store);
    }
}

/// Keeps what it is given.
#[derive(Clone, Debug, Default)]
struct Keep(Arc<Mutex<Vec<AuditRecord>>>);

impl AuditSink for Keep {
    fn record(&self, record: &AuditRecord) -> Result<(), AuditError> {
        self.0.lock().push(record.clone());
        Ok(())
    }
}

/// What a revocation can be: each makes an epoch of now.
const REVOCATIONS: [fn(&Store); 4] = [
    |store| _ = store.revoke(revocation()).unwrap(),
    |store| _ = store.revoke(revocation().reissue()).unwrap(),
    |store| _ = store.revoke_many([Revocation::of(Subject::token("other")), revocation()]).unwrap(),
    |store| {
        store.disable(Subject::user("alice")).unwrap();
        store.enable(Subject::user("alice")).unwrap();
    },
];

#[test]
fn clocks_that_agree_let_a_new_login_in_at_once() {
    for revoke in REVOCATIONS {
        let mut world = World::at(at(0).saturating_add(millis(250)));
        let old = alice(at(0).saturating_add(millis(250)));
        assert!(is_clear(&world.store, &old));
        revoke(&world.store);
        world.clock.advance(millis(1));
        let new = alice(at(0).saturating_add(millis(251)));
        let (stamp, whole) = (world.store.admissible_from(&old), alice(at(1)));
        assert_eq!(stamp, at(1));
        world.twice(|store| {
            assert!(is_revoked(store, &old));
            assert!(is_clear(store, &new) && is_clear(store, &whole));
        });
    }
}

#[test]
fn store_behind_what_it_has_seen_within_the_skew_revokes_up_to_that() {
    for revoke in REVOCATIONS {
        let mut world = World::at(at(0));
        let old = alice(at(0));
        assert!(is_clear(&world.store, &old));
        world.clock.set_wall(at(-50));
        assert!(is_clear(&world.store, &old), "within the leeway");
        revoke(&world.store);
        world.twice(|store| assert!(is_revoked(store, &old)));
        assert!(is_revoked(&world.store, &alice(at(-50))), "a new login is dead until the clock has passed that");
        world.clock.advance(secs(51));
        world.twice(|store| {
            assert!(is_revoked(store, &old));
            assert!(is_clear(store, &alice(at(1))));
        });
    }
}

#[test]
fn store_behind_beyond_the_skew_denies_outright_until_the_clock_has_caught_up() {
    // Ten minutes, and 1970, as after a boot before the time is set.
    for behind in [at(-600), Timestamp::MIN] {
        for revoke in REVOCATIONS {
            let mut world = World::at(at(0));
            world.store.maintain();
            let old = alice(at(-100));
            assert!(is_clear(&world.store, &old));
            world.clock.reboot();
            world.clock.set_wall(behind);
            world.reopen();
            assert_eq!(world.store.check(&old), Verdict::Unknown(Cause::Clock));
            revoke(&world.store);
            assert!(world.store.stats().time_in_doubt);
            world.twice(|store| {
                store.maintain();
                assert_eq!(store.stats().pending_epochs, 1);
                assert!(is_revoked(store, &old));
                assert!(is_revoked(store, &alice(behind)), "whatever a credential says");
                assert!(is_revoked(store, &alice(at(5))));
            });
            // Somebody sets the clock.
            world.clock.set_wall(at(10));
            assert!(is_revoked(&world.store, &old) && is_revoked(&world.store, &alice(at(11))));
            world.store.maintain();
            world.twice(|store| {
                assert_eq!(store.stats().pending_epochs, 0);
                assert!(is_revoked(store, &old) && is_revoked(store, &alice(at(10))));
                assert!(is_clear(store, &alice(at(11))));
            });
        }
    }
}

#[test]
fn revocation_in_doubt_is_told_in_receipt_audit_and_explanation() {
    let clock = ManualClock::at(at(0));
    let sink = Keep::default();
    let store = options(&clock).audit(sink.clone()).open_in_memory().unwrap();
    store.maintain();
    clock.set_wall(at(-600));
    let receipt = store.revoke(revocation()).unwrap();
    assert_eq!((receipt.changed, receipt.pending, receipt.beyond_borne_out), (1, 1, None));
    let facts = store.explain(&Subject::user("alice")).unwrap().unwrap().facts;
    assert_eq!(facts.iter().map(|fact| fact.effect).collect::<Vec<_>>(), [Effect::Pending]);
    let denial = store.check(&alice(at(5)));
    assert!(denial.to_string().contains("clock was in doubt"), "{denial}");
    clock.set_wall(at(1));
    store.maintain();
    store.close().unwrap();
    let records: Vec<_> = sink.0.lock().iter().map(|record| serde_json::to_value(record).unwrap()).collect();
    let said = |record: &serde_json::Value| {
        (record["action"].as_str().unwrap().to_owned(), record["pending"] == true, record["epoch"].is_string())
    };
    let said: Vec<_> = records.iter().map(said).collect();
    assert_eq!(said, [("revoke".to_owned(), true, false), ("settle".to_owned(), false, true)]);
}

#[test]
fn new_store_at_1970_denies_outright_until_the_clock_is_set() {
    let mut world = World::at(Timestamp::MIN);
    assert_eq!(world.store.check(&alice(Timestamp::from_secs(5))), Verdict::Unknown(Cause::Clock));
    world.store.revoke(revocation()).unwrap();
    world.clock.set_wall(at(0));
    world.twice(|store| {
        store.maintain();
        assert!(is_revoked(store, &alice(at(-100))) && is_clear(store, &alice(at(1))));
    });
}

#[test]
fn time_of_an_event_beyond_a_clock_that_is_behind_is_an_error_and_changes_nothing() {
    let world = World::at(at(0));
    world.store.maintain();
    world.clock.set_wall(at(-600));
    let result = world.store.revoke(revocation().at(at(0)));
    assert!(matches!(result, Err(WriteError::EpochInFuture { .. })), "{result:?}");
    assert!(world.store.is_empty());
}

/// The clock is read several times in the course of a call; it may be set back between any two.
#[test]
fn clock_that_is_set_back_during_the_call_makes_no_revocation_void() {
    for back in [50, 600] {
        for reading in 0..12 {
            let clock = super::concurrent::SteppingClock::new(at(0));
            let store = rescind::Options::new().clock(clock.clone()).background(false).open_in_memory().unwrap();
            let old = alice(at(0));
            assert!(is_clear(&store, &old));
            clock.set_back_after(reading, secs(back));
            store.revoke(revocation()).unwrap();
            assert!(is_revoked(&store, &old), "{back} s, after {reading}");
            clock.set_wall(at(1));
            store.maintain();
            assert!(is_revoked(&store, &old), "{back} s, after {reading}");
            clock.set_wall(at(3));
            assert!(is_clear(&store, &alice(at(3))), "{back} s, after {reading}");
        }
    }
}

#[test]
fn epoch_beyond_borne_out_time_is_told_and_one_call_mends_it() {
    let year = secs(365 * 24 * 3600);
    let mut world = World::at(at(0));
    let old = alice(at(0));
    assert!(is_clear(&world.store, &old));
    world.clock.set_wall(at(0).saturating_add(year));
    let receipt = world.store.revoke(revocation().sparing_session("mine")).unwrap();
    assert_eq!((receipt.pending, receipt.beyond_borne_out), (0, Some(year)));
    world.clock.set_wall(at(10));
    // A clock that was set back by that much is believed once it has gone on for an hour, as told in the manual.
    world.clock.advance(secs(3700));
    world.store.maintain();
    let new = || alice(at(3710));
    world.twice(|store| assert!(is_revoked(store, &old) && is_revoked(store, &new())));
    assert!(world.store.restate_epochs(Subject::user("alice")).unwrap().is_changed());
    assert!(!world.store.restate_epochs(Subject::user("alice")).unwrap().is_changed(), "it is mended");
    world.clock.advance(secs(1));
    world.twice(|store| {
        assert!(is_revoked(store, &old) && is_revoked(store, &new()));
        assert!(is_clear(store, &alice(at(3711))));
        assert!(is_clear(store, &old.clone().session("mine")), "whom the epoch spares is spared still");
    });
}

#[test]
fn store_that_was_suspended_goes_on_as_if_it_was_not() {
    let mut world = World::at(at(0));
    let old = alice(at(0));
    assert!(is_clear(&world.store, &old));
    // The boot clock counts time asleep.
    world.clock.advance(secs(7 * 3600));
    let receipt = world.store.revoke(revocation()).unwrap();
    assert_eq!((receipt.pending, receipt.beyond_borne_out), (0, None));
    world.clock.advance(secs(1));
    world.twice(|store| assert!(is_revoked(store, &old) && is_clear(store, &alice(at(7 * 3600 + 1)))));
}

#[test]
fn issuer_that_is_ahead_within_the_leeway_is_revoked_up_to_what_it_may_have_issued() {
    for ahead in [1, 20, 59] {
        for revoke in REVOCATIONS {
            let mut world = World::at(at(0));
            let presented = alice(at(ahead));
            assert!(is_clear(&world.store, &presented), "within the leeway");
            world.clock.advance(millis(900));
            // One that was issued later, and is presented for the first time after the revocation.
            let unseen = alice(at(ahead).saturating_add(millis(900)));
            let of_another = || alice(at(1)).issuer("https://other.example");
            revoke(&world.store);
            world.clock.advance(millis(100));
            world.twice(|store| {
                assert!(is_revoked(store, &presented), "{ahead}");
                if ahead > 2 {
                    assert!(is_revoked(store, &unseen), "{ahead}");
                    assert!(is_clear(store, &of_another()), "other issuers are not concerned");
                }
            });
            // Two seconds later a new login is let in.
            world.clock.advance(secs(2));
            world.twice(|store| assert!(is_clear(store, &alice(at(ahead + 4))), "{ahead}"));
        }
    }
}

#[test]
fn issuer_that_is_ahead_is_remembered_across_a_restart() {
    let mut world = World::at(at(0));
    let presented = alice(at(20));
    assert!(is_clear(&world.store, &presented));
    world.reopen();
    world.clock.advance(secs(1));
    let unseen = alice(at(21));
    world.store.revoke(revocation()).unwrap();
    assert!(is_revoked(&world.store, &presented) && is_revoked(&world.store, &unseen));
    // Of one that was killed, what maintenance has written down.
    let world = World::at(at(0));
    assert!(is_clear(&world.store, &presented));
    world.store.maintain();
    let store = options(&world.clock).open_on(Arc::new(world.disk.kill_image())).unwrap();
    store.revoke(revocation()).unwrap();
    assert!(is_revoked(&store, &presented));
}

#[test]
fn issuer_that_is_ahead_beyond_the_leeway_is_refused_before_and_after() {
    let world = World::at(at(0));
    let presented = alice(at(100));
    assert_eq!(effect(&world.store, &presented), Effect::FromTheFuture);
    world.store.revoke(revocation()).unwrap();
    assert!(is_revoked(&world.store, &presented));
}

#[test]
fn issuer_that_is_behind_is_revoked_and_lets_in_once_its_clock_has_passed_the_epoch() {
    let mut world = World::at(at(0));
    let old = alice(at(-20));
    assert!(is_clear(&world.store, &old));
    world.store.revoke(revocation()).unwrap();
    world.clock.advance(secs(15));
    world.twice(|store| assert!(is_revoked(store, &old) && is_revoked(store, &alice(at(-5)))));
    world.clock.advance(secs(6));
    world.twice(|store| assert!(is_revoked(store, &old) && is_clear(store, &alice(at(1)))));
}

/// A script that disables, enables, logs in, revokes, logs in, ... within one second.
#[test]
fn stamps_given_out_between_two_revocations_are_bound_by_the_second() {
    for with_issuer in [true, false] {
        let mut world = World::at(at(0).saturating_add(millis(100)));
        let asked = if with_issuer { alice(at(0)) } else { rescind::Credential::new().user("alice") }.tenant("acme");
        let mut issued = Vec::new();
        for (round, revoke) in REVOCATIONS.iter().chain(&REVOCATIONS).enumerate() {
            match round % 3 {
                2 => _ = world.store.revoke(Revocation::of(Subject::tenant("acme"))).unwrap(),
                _ => revoke(&world.store),
            }
            for old in &issued {
                assert!(is_revoked(&world.store, old), "{round}: {old:?}");
            }
            world.clock.advance(millis(10));
            let login = alice(world.store.admissible_from(&asked)).tenant("acme");
            assert!(is_clear(&world.store, &login), "{round}: {login:?}");
            issued.push(login);
        }
        let (last, old) = issued.split_last().unwrap();
        world.clock.advance(secs(20));
        world.twice(|store| {
            assert!(old.iter().all(|old| is_revoked(store, old)));
            assert!(is_clear(store, last));
        });
    }
}

/// Who asks may not say all that the credential will name.
#[test]
fn stamp_that_was_given_out_is_bound_by_whatever_the_credential_may_name() {
    for revoked in [
        Subject::tenant("acme"),
        Subject::client("app"),
        Subject::group("staff"),
        Subject::device("phone"),
        Subject::everyone(),
        Subject::everyone().at_issuer("https://id.example"),
        Subject::tenant("acme").at_issuer("https://id.example"),
        Subject::user("alice").in_tenant("acme"),
        Subject::user("alice"),
    ] {
        for is_presented in [true, false] {
            let world = World::at(at(0).saturating_add(millis(100)));
            world.store.revoke(revocation()).unwrap();
            let asked = rescind::Credential::new().user("alice");
            let stamp = world.store.admissible_from(&asked);
            assert_eq!(stamp, at(1));
            let login = alice(stamp).tenant("acme").client("app").groups(&["staff"]).device("phone");
            assert!(!is_presented || is_clear(&world.store, &login));
            // Nobody else is concerned: whoever logs in is let in with the same second.
            world.store.revoke(Revocation::of(Subject::user("bob"))).unwrap();
            assert_eq!(world.store.admissible_from(&rescind::Credential::new().user("bob")), at(1));
            world.store.revoke(Revocation::of(revoked.clone())).unwrap();
            assert!(is_revoked(&world.store, &login), "{revoked:?}, presented before: {is_presented}");
        }
    }
}

/// Many accounts in one second: the stamps of one move nobody else's epoch.
#[test]
fn stamps_of_many_users_do_not_run_ahead_of_the_clock() {
    let world = World::at(at(0).saturating_add(millis(100)));
    for number in 0..500 {
        let name = format!("user-{number}");
        let login = |stamp| alice(stamp).user(&name).tenant("acme");
        world.store.revoke(Revocation::of(Subject::user(&*name))).unwrap();
        let stamp = world.store.admissible_from(&login(at(0)));
        assert_eq!(stamp, at(1), "{number}");
        assert!(is_clear(&world.store, &login(stamp)));
        world.clock.advance(millis(1));
    }
    assert_eq!(world.store.stats().entries, 500);
}

#[test]
fn lift_and_enable_take_back_pending_revocations_too() {
    let world = World::at(at(0));
    world.store.maintain();
    world.clock.set_wall(at(-600));
    world.store.revoke(revocation()).unwrap();
    assert!(world.store.lift(Subject::user("alice")).unwrap().is_changed());
    world.clock.set_wall(at(1));
    world.store.maintain();
    assert!(is_clear(&world.store, &alice(at(0))));
}

/// A jump within the skew that nothing bears out: what was let in meanwhile carries times from after it.
#[test]
fn clock_that_was_ahead_for_a_moment_within_the_skew_revokes_up_to_what_it_has_shown() {
    for revoke in REVOCATIONS {
        let mut world = World::at(at(0));
        world.clock.set_wall(at(50));
        let old = alice(at(50));
        assert!(is_clear(&world.store, &old));
        world.clock.set_wall(at(1));
        revoke(&world.store);
        world.clock.set_wall(at(51));
        world.twice(|store| assert!(is_revoked(store, &old) && is_clear(store, &alice(at(51)))));
    }
}

/// A clock that was set back is believed after an hour, but never against a time that the boot clock has borne out.
#[test]
fn clock_that_was_set_back_behind_borne_out_time_stays_in_doubt() {
    let mut world = World::at(at(0));
    world.store.maintain();
    let old = alice(at(0));
    assert!(is_clear(&world.store, &old));
    world.clock.set_wall(at(-3 * 3600));
    world.clock.advance(secs(3700));
    world.store.maintain();
    world.clock.advance(secs(10));
    assert_eq!(world.store.revoke(revocation()).unwrap().pending, 1);
    world.twice(|store| assert!(is_revoked(store, &old)));
    world.clock.set_wall(at(5));
    world.store.maintain();
    world.twice(|store| assert!(is_revoked(store, &old) && is_clear(store, &alice(at(6)))));
}

/// A life whose epoch is given its time later says nothing of the epochs of another.
#[test]
fn epoch_that_is_given_its_time_leaves_those_of_other_lives() {
    let mut world = World::at(at(0));
    world.store.revoke(revocation()).unwrap();
    world.store.maintain();
    world.clock.set_wall(at(-600));
    world.reopen();
    assert_eq!(world.store.revoke(revocation().sparing_session("mine")).unwrap().pending, 1);
    world.clock.set_wall(at(10));
    world.store.maintain();
    assert_eq!(world.store.stats().pending_epochs, 0);
    let mine = |stamp| alice(at(stamp)).session("mine");
    world.twice(|store| {
        assert!(is_revoked(store, &mine(0)), "it was never spared by the first");
        assert!(is_clear(store, &mine(1)) && is_revoked(store, &alice(at(1))));
    });
}

/// The disk fails: the revocation is in memory all the same, with its time.
#[test]
fn epoch_that_cannot_be_logged_binds_as_if_it_was() {
    for revoke in [revocation, || revocation().reissue()] {
        let world = World::at(at(0));
        let old = alice(at(0));
        assert!(is_clear(&world.store, &old));
        world.disk.fail_at(world.disk.operations() + 1, std::io::ErrorKind::StorageFull, true);
        let result = world.store.revoke(revoke());
        assert!(matches!(result, Err(WriteError::NotDurable(_))), "{result:?}");
        world.clock.advance(secs(1));
        assert!(is_revoked(&world.store, &old) && is_clear(&world.store, &alice(at(1))));
        world.disk.clear_faults();
    }
}
