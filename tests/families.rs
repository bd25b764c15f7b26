//! What may be used once: refresh tokens, which have successors, and proofs, which have none.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use proptest::prelude::*;
use rescind::audit::{AuditError, AuditRecord, AuditSink};
use rescind::storage::MemoryStorage;
use rescind::{
    Cause, Claim, Credential, Key, ManualClock, Options, Reason, RefreshFamilies, Revocation, Rotation, Store, Subject,
    Timestamp, Use, Verdict, WriteError,
};

const NOW: u64 = 1_800_000_000;

fn clock() -> ManualClock {
    ManualClock::at(Timestamp::from_secs(NOW))
}

fn options(clock: &ManualClock) -> Options {
    Options::new().clock(clock.clone()).background(false).key(Key::from_bytes([3; 32])).segment_bytes(64 * 1024)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn token(id: &str) -> Credential<'_> {
    Credential::new().user("alice").family("f").token(id).issued_at_secs(NOW)
}

fn successor(rotation: Rotation) -> String {
    match rotation {
        Rotation::Rotated(successor) | Rotation::Repeated(successor) => successor.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn is_dead(store: &Store) -> bool {
    matches!(store.check(&token("any access token")), Verdict::Revoked(denial) if denial.reason == Reason::TokenReuse)
}

/// A hundred threads present one token at the same moment, again and again: by whatever order, one of them rotates it and
/// all are given the same successor; nobody is logged out. Then somebody comes with it after the grace.
#[test]
fn of_a_hundred_refreshes_at_once_one_rotates_and_all_are_given_the_same_successor() {
    let clock = clock();
    let store = options(&clock).open_on(Arc::new(MemoryStorage::new())).unwrap();
    let families = store.refresh_families();
    let mut presented = "first".to_owned();
    let rounds = 20;
    for _ in 0..rounds {
        let barrier = Barrier::new(100);
        let rotations: Vec<Rotation> = std::thread::scope(|scope| {
            let one = || {
                barrier.wait();
                families.rotate(&token(&presented)).unwrap()
            };
            let threads: Vec<_> = (0..100).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let rotated = rotations.iter().filter(|rotation| matches!(rotation, Rotation::Rotated(_))).count();
        let repeated = rotations.iter().filter(|rotation| matches!(rotation, Rotation::Repeated(_))).count();
        assert_eq!((rotated, repeated), (1, 99));
        let mut successors: Vec<String> = rotations.into_iter().map(successor).collect();
        successors.dedup();
        assert_eq!(successors.len(), 1, "one successor");
        assert_eq!(store.check(&token("any access token")), Verdict::Clear, "nobody is logged out");
        presented = successors.remove(0);
    }
    println!("families refreshes={} rotated={rounds} successors={rounds} logged_out=0", rounds * 100);
    // The predecessor of the one that is current: within the grace it is given it, after that it is stolen.
    assert!(matches!(families.rotate(&token(&presented)).unwrap(), Rotation::Rotated(_)));
    clock.advance(secs(31));
    assert_eq!(families.rotate(&token(&presented)).unwrap(), Rotation::Reused);
    assert!(is_dead(&store));
}

/// What a family is, without hashes: which tokens were used, when, and what follows each.
struct Naive {
    used: HashMap<usize, u64>,
    is_revoked: bool,
    grace: u64,
}

#[derive(Debug, PartialEq)]
enum Expected {
    Rotated,
    Repeated,
    Reused,
    Refused,
}

impl Naive {
    /// Token number `n` is followed by `n + 1`.
    fn rotate(&mut self, token: usize, now: u64) -> Expected {
        if self.is_revoked {
            return Expected::Refused;
        }
        match self.used.get(&token) {
            None => {
                self.used.insert(token, now);
                Expected::Rotated
            }
            Some(at) if now - at <= self.grace && !self.used.contains_key(&(token + 1)) => Expected::Repeated,
            Some(_) => {
                self.is_revoked = true;
                Expected::Reused
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Present the newest token that was given out, or one so many before it.
    Present(usize),
    Advance(u64),
    Revoke,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Present(0)),
        3 => Just(Step::Present(1)),
        1 => (2..4_usize).prop_map(Step::Present),
        3 => (1..40_u64).prop_map(Step::Advance),
        1 => Just(Step::Reopen),
        1 => (0..20_u64).prop_map(|n| if n == 0 { Step::Revoke } else { Step::Advance(n) }),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_family_does_as_the_naive_one(steps in steps(), grace in 0..70_u64, is_opaque: bool) {
        let (clock, disk) = (clock(), MemoryStorage::new());
        let open = || options(&clock).open_on(Arc::new(disk.clone())).unwrap();
        let mut store = open();
        let rotate = |store: &Store, id: &str| {
            let presented = Credential::new().family("f").tenant("acme");
            let presented = if is_opaque { presented.opaque_token(id) } else { presented.token(id) };
            store.refresh_families().grace(secs(grace)).rotate(&presented).unwrap()
        };
        let mut naive = Naive { used: HashMap::new(), is_revoked: false, grace: grace.min(60) };
        let (mut given, mut now) = (vec!["first".to_owned()], 0);
        for step in steps {
            match step {
                Step::Present(before) => {
                    let number = given.len().saturating_sub(before + 1);
                    let got = rotate(&store, &given[number]);
                    let expected = naive.rotate(number, now);
                    let seen = match got {
                        Rotation::Rotated(successor) => {
                            prop_assert_eq!(number + 1, given.len());
                            given.push(successor.as_str().to_owned());
                            Expected::Rotated
                        }
                        Rotation::Repeated(successor) => {
                            prop_assert_eq!(successor.as_str(), &given[number + 1]);
                            Expected::Repeated
                        }
                        Rotation::Reused => Expected::Reused,
                        Rotation::Refused(verdict) => {
                            prop_assert!(matches!(verdict, Verdict::Revoked(_)));
                            Expected::Refused
                        }
                    };
                    prop_assert_eq!(seen, expected);
                }
                Step::Advance(seconds) => {
                    now += seconds;
                    clock.advance(secs(seconds));
                }
                Step::Revoke => {
                    store.revoke(Revocation::of(Subject::family("f").in_tenant("acme"))).unwrap();
                    naive.is_revoked = true;
                }
                Step::Reopen => {
                    store.close().unwrap();
                    store = open();
                }
            }
        }
        let access = store.check(&Credential::new().family("f").tenant("acme").token("access"));
        prop_assert_eq!(access != Verdict::Clear, naive.is_revoked, "access tokens die with their family, and not before");
    }
}

#[test]
fn a_successor_is_the_same_wherever_the_key_is_the_same() {
    let clock = clock();
    let open = |byte| options(&clock).key(Key::from_bytes([byte; 32])).open_in_memory().unwrap();
    let first =
        |store: &Store, presented: &Credential<'_>| successor(store.refresh_families().rotate(presented).unwrap());
    let (one, other, foreign) = (open(3), open(3), open(4));
    let given = first(&one, &token("first"));
    assert_eq!(given, first(&other, &token("first")), "two replicas that have not heard of each other fork nothing");
    assert_ne!(given, first(&foreign, &token("first")));
    assert_ne!(given, first(&one, &token("first").family("g")), "families have nothing in common");
    assert_ne!(given, first(&one, &token("first").tenant("acme")), "nor have tenants");
    assert_eq!((given.len(), given.chars().all(|c| c.is_ascii_hexdigit())), (64, true));
}

#[test]
fn an_explicit_revocation_ends_the_grace() {
    let clock = clock();
    for subject in [Subject::token("first"), Subject::user("alice"), Subject::family("f")] {
        let store = options(&clock).open_in_memory().unwrap();
        let families = store.refresh_families();
        assert!(matches!(families.rotate(&token("first")).unwrap(), Rotation::Rotated(_)));
        assert!(matches!(families.rotate(&token("first")).unwrap(), Rotation::Repeated(_)));
        store.revoke(Revocation::of(subject)).unwrap();
        assert!(matches!(families.rotate(&token("first")).unwrap(), Rotation::Refused(Verdict::Revoked(_))));
    }
}

#[test]
fn what_cannot_be_known_is_refused_and_uses_nothing_up() {
    let clock = clock();
    let store = options(&clock).require_claim(Claim::User).open_in_memory().unwrap();
    let families = store.refresh_families();
    let refused = |presented: &Credential<'_>| match families.rotate(presented).unwrap() {
        Rotation::Refused(Verdict::Unknown(cause)) => cause,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&token("t").family("")), Cause::MalformedClaim(Claim::Family));
    assert_eq!(refused(&Credential::new().user("u").token("t")), Cause::MissingClaim(Claim::Family));
    assert_eq!(refused(&Credential::new().user("u").family("f")), Cause::MissingClaim(Claim::Token));
    assert_eq!(refused(&Credential::new().family("f").token("t")), Cause::MissingClaim(Claim::User));
    assert!(store.is_empty());
    let expired = token("t").expires_at_secs(NOW - 61);
    assert!(matches!(families.rotate(&expired).unwrap(), Rotation::Refused(Verdict::Revoked(_))));
    store.close().unwrap();
    assert_eq!(refused(&token("t")), Cause::Closed);
}

#[test]
fn what_is_used_is_kept_as_long_as_it_could_be_used_again() {
    let clock = clock();
    let store = options(&clock).open_in_memory().unwrap();
    let families = store.refresh_families().token_lifetime(secs(3_600));
    // One that says when it expires, one that does not, and a family that is dead.
    let dated = token("dated").expires_at_secs(NOW + 600);
    assert!(matches!(families.rotate(&dated).unwrap(), Rotation::Rotated(_)));
    assert!(matches!(families.rotate(&token("undated")).unwrap(), Rotation::Rotated(_)));
    clock.advance(secs(31));
    assert_eq!(families.rotate(&dated).unwrap(), Rotation::Reused);
    assert_eq!(store.len(), 3);
    clock.advance(secs(600 + 60 + 301));
    assert_eq!((store.maintain().forgotten, store.len()), (1, 2), "after exp, leeway and grace");
    assert!(is_dead(&store));
    clock.advance(secs(3_600));
    assert_eq!((store.maintain().forgotten, store.len()), (2, 0), "nothing that was issued before can be alive");
}

#[test]
fn a_failed_disk_gives_out_no_successor_and_a_repetition_does() {
    let (clock, disk) = (clock(), MemoryStorage::new());
    let store = options(&clock).open_on(Arc::new(disk.clone())).unwrap();
    let families: RefreshFamilies = store.refresh_families();
    disk.fail_at(disk.operations(), io::ErrorKind::StorageFull, true);
    assert!(matches!(families.rotate(&token("first")), Err(WriteError::NotDurable(_))));
    disk.clear_faults();
    let given = successor(families.rotate(&token("first")).unwrap());
    assert!(matches!(families.rotate(&token("first")).unwrap(), Rotation::Repeated(_)), "it counts as used");
    store.snapshot().unwrap();
    drop((families, store));
    let store = options(&clock).open_on(Arc::new(disk)).unwrap();
    let families = store.refresh_families();
    assert!(matches!(families.rotate(&token("first")).unwrap(), Rotation::Repeated(_)), "and the snapshot saved that");
    assert!(matches!(families.rotate(&token(&given)).unwrap(), Rotation::Rotated(_)));
}

#[test]
fn a_successor_is_not_shown() {
    let store = options(&clock()).open_in_memory().unwrap();
    let rotation = store.refresh_families().rotate(&token("first")).unwrap();
    let shown = format!("{rotation:?}");
    assert_eq!(shown, "Rotated(Successor(<redacted>))");
}

#[test]
fn of_a_hundred_who_replay_a_proof_one_is_the_first() {
    let clock = clock();
    let store = options(&clock).open_on(Arc::new(MemoryStorage::new())).unwrap();
    let proofs = store.replay_set("dpop").unwrap();
    let until = Timestamp::from_secs(NOW + 60);
    for round in 0..20 {
        let (id, barrier) = (format!("jti-{round}"), Barrier::new(100));
        let first = std::thread::scope(|scope| {
            let one = || {
                barrier.wait();
                proofs.insert("https://api.example/", &id, until).unwrap()
            };
            let threads: Vec<_> = (0..100).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|used| *used == Use::First).count()
        });
        assert_eq!(first, 1);
    }
}

#[test]
fn an_id_is_one_of_its_set_and_its_scope() {
    let (clock, disk) = (clock(), MemoryStorage::new());
    let until = Timestamp::from_secs(NOW + 60);
    let long = "x".repeat(5_000);
    let store = options(&clock).open_on(Arc::new(disk.clone())).unwrap();
    let (proofs, assertions) = (store.replay_set("dpop").unwrap(), store.replay_set("assertions").unwrap());
    for (scope, id) in [("ab", "c"), ("a", "bc"), ("", "abc"), ("", &*long), (&*long, "c")] {
        assert_eq!(proofs.insert(scope, id, until).unwrap(), Use::First);
        assert_eq!(assertions.insert(scope, id, until).unwrap(), Use::First);
        assert_eq!(proofs.insert(scope, id, until).unwrap(), Use::Replay);
    }
    assert_eq!(store.check(&Credential::new().token("c").issuer("a")), Verdict::Clear, "no token is revoked by it");
    assert!(matches!(proofs.insert("a", "", until), Err(WriteError::Invalid(_))));
    let past = Timestamp::from_secs(NOW - 61);
    assert!(matches!(proofs.insert("a", "old", past), Err(WriteError::RetentionInPast { .. })));
    assert!(store.replay_set(&"n".repeat(2_000)).is_err());
    store.close().unwrap();
    let store = options(&clock).open_on(Arc::new(disk)).unwrap();
    assert_eq!(store.replay_set("dpop").unwrap().insert("ab", "c", until).unwrap(), Use::Replay, "after a restart");
    clock.advance(secs(60 + 60 + 301));
    store.maintain();
    assert!(store.is_empty(), "too old to be presented: forgotten");
}

#[test]
fn what_is_used_up_is_no_matter_for_the_audit_and_what_is_stolen_is() {
    #[derive(Debug, Clone, Default)]
    struct Seen(Arc<parking_lot::Mutex<Vec<AuditRecord>>>);
    impl AuditSink for Seen {
        fn record(&self, record: &AuditRecord) -> Result<(), AuditError> {
            self.0.lock().push(record.clone());
            Ok(())
        }
    }
    let (clock, seen) = (clock(), Seen::default());
    let store = options(&clock).audit(seen.clone()).open_in_memory().unwrap();
    let families = store.refresh_families().grace(Duration::ZERO);
    assert!(matches!(families.rotate(&token("first")).unwrap(), Rotation::Rotated(_)));
    assert_eq!(store.replay_set("dpop").unwrap().insert("", "p", Timestamp::from_secs(NOW + 60)).unwrap(), Use::First);
    clock.advance(secs(1));
    assert_eq!(families.rotate(&token("first")).unwrap(), Rotation::Reused);
    store.close().unwrap();
    let records = seen.0.lock();
    let reasons: Vec<_> = records.iter().map(|record| record.reason.clone()).collect();
    assert_eq!(reasons, ["token_reuse"]);
}
