//! Limits that differ between replicas, and that change.

use rescind::storage::MemoryStorage;
use rescind::{
    Change, Credential, Effect, InvalidRevocation, ManualClock, Reason, Revocation, Store, Subject, Verdict, WriteError,
};

use super::group::Group;
use super::{T0, at, is_clear, is_revoked, options, secs};

const AGE: u64 = 900;

/// A credential of alice in acme, of a login at a time.
fn login(secs: i64) -> Credential<'static> {
    Credential::new().tenant("acme").user("alice").issued_at(at(secs)).auth_time(at(secs))
}

fn alice() -> Revocation {
    Revocation::of(Subject::user("alice").in_tenant("acme"))
}

/// A replica forgets an epoch that its maximum age makes superfluous; one without that age, and without the entry, joins.
#[test]
fn replica_with_a_longer_age_does_not_admit_what_another_has_forgotten() {
    let scopes: [fn(&Store); 2] = [
        |store| _ = store.set_max_credential_age(Subject::everyone(), secs(AGE)).unwrap(),
        |store| _ = store.tenant("acme").unwrap().set_max_credential_age(secs(AGE)).unwrap(),
    ];
    // By an option of one replica only, and by an age that was set.
    let by_option = |options: rescind::Options| options.max_credential_age(secs(AGE));
    for set in [None, Some(scopes[0]), Some(scopes[1])] {
        let mut group = Group::default();
        group.start(1, 0, 1, |options| if set.is_none() { by_option(options) } else { options });
        group.meet();
        group.pass(secs(3));
        if let Some(set) = set {
            set(group.store(0));
        }
        group.store(0).revoke(alice()).unwrap();
        // Beyond age and grace, and the quarter of an hour by which replicas forget.
        group.pass(secs(AGE + 300 + 1000));
        let forgot = group.store(0).stats().forgotten > 0;
        assert_eq!(forgot, set.is_some(), "an age that others do not share forgets nothing");
        let place = group.start(2, 3 + AGE as i64 + 1300, 1, |options| options);
        group.meet();
        group.pass(secs(5));
        assert!(group.is_fresh(place));
        assert!(is_revoked(group.store(place), &login(2)));
        assert!(is_clear(group.store(place), &login(AGE as i64 + 1300)));
    }
}

#[test]
fn age_that_is_set_at_one_replica_binds_all_and_is_replaced_and_removed_there() {
    let group = Group::of(&[0, 0, 0]);
    group.pass(secs(3));
    let store = group.store(0);
    store
        .set_max_credential_age(Change::of(Subject::tenant("acme")).because(Reason::Policy).by("ops"), secs(AGE))
        .unwrap();
    group.pass(secs(1));
    let other = || login(-1000).tenant("globex");
    for place in 0..3 {
        let store = group.store(place);
        let too_old = Effect::TooOld { limit: secs(AGE) };
        assert!(matches!(store.check(&login(-1000)), Verdict::Revoked(denial) if denial.effect == too_old));
        assert!(is_clear(store, &login(0)) && is_clear(store, &other()));
        assert!(is_revoked(store, &Credential::new().tenant("acme")), "it does not say how old it is");
        let facts = store.explain(&Subject::tenant("acme")).unwrap().unwrap().facts;
        assert_eq!((facts[0].effect, facts[0].actor.as_deref()), (too_old, Some("ops")));
    }
    // Longer, from another replica: what was dead stays dead.
    group.store(1).set_max_credential_age(Subject::tenant("acme"), secs(10_000)).unwrap();
    group.pass(secs(2));
    for place in 0..3 {
        assert!(is_revoked(group.store(place), &login(-1000)) && is_clear(group.store(place), &login(-890)));
    }
    assert!(group.store(2).clear_max_credential_age(Subject::tenant("acme")).unwrap().is_changed());
    group.pass(secs(20_000));
    for place in 0..3 {
        assert!(is_revoked(group.store(place), &login(-1000)) && is_clear(group.store(place), &login(0)));
        assert!(!group.store(place).clear_max_credential_age(Subject::tenant("acme")).unwrap().is_changed());
    }
}

#[test]
fn shorter_of_two_concurrent_ages_binds_until_one_is_set_anew() {
    let group = Group::of(&[0, 0]);
    group.pass(secs(3));
    group.store(0).set_max_credential_age(Subject::tenant("acme"), secs(AGE)).unwrap();
    group.store(1).set_max_credential_age(Subject::tenant("acme"), secs(10_000)).unwrap();
    group.pass(secs(3));
    assert!((0..2).all(|place| is_revoked(group.store(place), &login(-1000))));
    group.pass(secs(60));
    assert!((0..2).all(|place| is_revoked(group.store(place), &login(-840))), "it is too old by now");
    group.store(0).set_max_credential_age(Subject::tenant("acme"), secs(20_000)).unwrap();
    group.pass(secs(3));
    assert!((0..2).all(|place| is_revoked(group.store(place), &login(-1000)),), "what was dead stays dead");
    assert!((0..2).all(|place| is_clear(group.store(place), &login(-800))));
    group.pass(secs(2000));
    assert!((0..2).all(|place| is_clear(group.store(place), &login(-800))));
}

/// One that was cut off goes on forgetting by the shorter age, after it was made longer elsewhere.
#[test]
fn replica_that_learns_late_of_a_longer_age_raises_the_floor_to_what_it_has_forgotten() {
    let group = Group::of(&[0, 0]);
    group.pass(secs(3));
    group.store(0).set_max_credential_age(Subject::tenant("acme"), secs(AGE)).unwrap();
    group.pass(secs(3));
    group.isolate(1, true);
    group.store(0).set_max_credential_age(Subject::tenant("acme"), secs(100_000)).unwrap();
    // Known to the second only, and forgotten there.
    group.store(1).revoke(alice()).unwrap();
    let old = login(5);
    group.pass(secs(AGE + 300 + 1000));
    assert!(group.store(1).stats().forgotten > 0);
    group.isolate(1, false);
    group.pass(secs(5));
    for place in 0..2 {
        assert!(is_revoked(group.store(place), &old), "at {place}");
        assert!(is_clear(group.store(place), &login(AGE as i64 + 1000)), "at {place}");
    }
}

/// With another leeway a new replica used to stay bootstrapping: it counted what the other had forgotten.
#[test]
fn replica_with_a_longer_leeway_becomes_fresh_and_treats_as_expired_what_others_have_forgotten() {
    for leeway in [60, 3600, 100_000] {
        let mut group = Group::default();
        group.start(1, 0, 1, |options| options);
        group.meet();
        group.pass(secs(3));
        let token = |name: &'static str, exp: i64| Credential::new().token(name).issued_at(at(0)).expires_at(at(exp));
        group.store(0).revoke(Revocation::of(Subject::token("t")).until(at(100))).unwrap();
        group.pass(secs(3000));
        assert_eq!(group.store(0).stats().forgotten, 1);
        let place = group.start(2, 3003, 1, |options| options.leeway(secs(leeway)));
        group.meet();
        group.pass(secs(5));
        assert!(group.is_fresh(place), "{leeway}: {:?}", group.nodes[place].replica.freshness());
        assert!(is_revoked(group.store(place), &token("t", 100)), "{leeway}");
        // What has not been forgotten yet is admitted as long as its own leeway says.
        assert!(is_clear(group.store(place), &token("other", 3000)), "{leeway}");
        group.store(0).revoke(Revocation::of(Subject::token("other")).until(at(3600))).unwrap();
        group.pass(secs(5));
        assert!(is_revoked(group.store(place), &token("other", 3600)) && group.is_fresh(place), "{leeway}");
    }
}

/// The same across a restart of the laxer one, which hears of nobody before it is asked.
#[test]
fn what_was_taken_over_as_expired_outlasts_a_restart() {
    let mut group = Group::default();
    group.start(1, 0, 1, |options| options);
    group.meet();
    group.pass(secs(3));
    group.store(0).revoke(Revocation::of(Subject::token("t")).until(at(100))).unwrap();
    group.pass(secs(3000));
    let (clock, disk) = (ManualClock::at(at(3003)), MemoryStorage::new());
    let place = group.start_on(2, clock.clone(), &disk, 1, |options| options.leeway(secs(100_000)));
    group.meet();
    group.pass(secs(5));
    assert!(group.is_fresh(place));
    group.nodes.remove(place).replica.store().close().unwrap();
    let store = options(&clock).leeway(secs(100_000)).open_on(std::sync::Arc::new(disk)).unwrap();
    assert!(is_revoked(&store, &Credential::new().token("t").issued_at(at(0)).expires_at(at(100))));
}

/// A store that has forgotten by the ages of its options becomes a replica: others must not take that for "never revoked".
#[test]
fn store_that_has_forgotten_by_its_own_age_brings_floors_into_a_cluster() {
    let (clock, disk) = (ManualClock::at(at(0)), MemoryStorage::new());
    let aged = |options: rescind::Options| options.tenant_max_credential_age("acme", secs(AGE));
    let store = aged(options(&clock)).open_on(std::sync::Arc::new(disk.clone())).unwrap();
    store.revoke(alice()).unwrap();
    clock.advance(secs(AGE + 1000));
    assert_eq!(store.maintain().forgotten, 1);
    store.close().unwrap();
    let mut group = Group::default();
    group.start_on(1, clock, &disk, 1, aged);
    group.start(2, AGE as i64 + 1000, 1, |options| options);
    group.meet();
    group.pass(secs(5));
    assert!(group.is_fresh(1));
    assert!(is_revoked(group.store(1), &login(-5)) && is_revoked(group.store(0), &login(-5)));
    assert!(is_revoked(group.store(1), &login(999)), "dead by age before it was forgotten");
    assert!(is_clear(group.store(1), &login(1001)));
}

#[test]
fn age_of_what_has_none_is_an_error_and_changes_nothing() {
    let store = options(&ManualClock::at(at(0))).open_in_memory().unwrap();
    let invalid = |result| match result {
        Err(WriteError::Invalid(invalid)) => invalid,
        other => panic!("{other:?}"),
    };
    for subject in [Subject::user("u"), Subject::token("t"), Subject::tenant("acme").at_issuer("i")] {
        let result = invalid(store.set_max_credential_age(subject, secs(AGE)));
        assert!(matches!(result, InvalidRevocation::NotAged { .. }), "{result:?}");
    }
    let zero = invalid(store.set_max_credential_age(Subject::tenant("acme"), secs(0)));
    assert_eq!(zero, InvalidRevocation::ZeroAge);
    assert!(store.is_empty() && T0 > 0);
}

/// One store alone, on a disk: ages that are set forget as those of the options do, and outlast a restart.
#[test]
fn age_that_is_set_forgets_epochs_and_outlasts_a_restart() {
    let (clock, disk) = (ManualClock::at(at(0)), MemoryStorage::new());
    let open = || options(&clock).open_on(std::sync::Arc::new(disk.clone())).unwrap();
    let store = open();
    store.set_max_credential_age(Subject::tenant("acme"), secs(AGE)).unwrap();
    store.revoke(alice()).unwrap();
    store.snapshot().unwrap();
    store.revoke(Revocation::of(Subject::user("bob").in_tenant("acme"))).unwrap();
    store.close().unwrap();
    let store = open();
    assert!(is_revoked(&store, &login(-1)) && is_clear(&store, &login(1)));
    clock.advance(secs(AGE + 301));
    assert_eq!(store.maintain().forgotten, 2);
    assert!(is_revoked(&store, &login(-1)) && is_clear(&store, &login(AGE as i64)));
    assert!(store.clear_max_credential_age(Subject::tenant("acme")).unwrap().is_changed());
    for store in [store, open()] {
        assert!(is_revoked(&store, &login(-1)) && is_clear(&store, &login(302)));
        store.close().unwrap();
    }
}

/// Whoever was cut off when a block was undone still holds it, and brings it back if nobody else knows of the undoing.
#[test]
fn block_that_was_undone_stays_undone_after_credentials_that_old_are_forgotten() {
    let group = Group::of(&[0, 0]);
    group.pass(secs(3));
    group.store(0).set_max_credential_age(Subject::everyone(), secs(AGE)).unwrap();
    group.store(0).disable(Subject::user("alice")).unwrap();
    group.pass(secs(3));
    group.isolate(1, true);
    assert!(group.store(0).enable(Subject::user("alice")).unwrap().is_changed());
    group.pass(secs(AGE + 300 + 2000));
    group.isolate(1, false);
    group.pass(secs(5));
    let now = AGE as i64 + 2300;
    assert!((0..2).all(|place| is_clear(group.store(place), &login(now))));
}
