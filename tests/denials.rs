//! What a denial says of a credential that lacks a claim, and what an unknown verdict says of one that is at fault itself.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rescind::audit::{Action, AuditError, AuditRecord, AuditSink};
use rescind::{
    Cause, Change, Claim, Credential, Denial, Effect, ManualClock, NodeId, NumericDate, Options, Replication,
    Revocation, Store, Subject, Timestamp, Verdict,
};

const NOW: u64 = 1_800_000_000;
/// Long before every epoch and age here, and shortly after.
const OLD: u64 = NOW - 1_000;
const NEW: u64 = NOW + 50;
const AGE: Duration = Duration::from_secs(500);

fn options(clock: &ManualClock) -> Options {
    Options::new().background(false).clock(clock.clone())
}

/// What a credential says about one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Nonsense,
    Old,
    New,
}

impl Said {
    const ALL: [Self; 4] = [Self::Nothing, Self::Nonsense, Self::Old, Self::New];

    fn date(self) -> Option<NumericDate> {
        match self {
            Self::Nothing => None,
            Self::Nonsense => Some(f64::NAN.into()),
            Self::Old => Some(OLD.into()),
            Self::New => Some(NEW.into()),
        }
    }

    fn is_valid(self) -> bool {
        matches!(self, Self::Old | Self::New)
    }
}

/// The times of a credential of alice.
#[derive(Clone, Copy, Debug)]
struct Times {
    auth_time: Said,
    session_start: Said,
    iat: Said,
}

impl Times {
    fn all() -> impl Iterator<Item = Self> {
        let pairs = Said::ALL.into_iter().flat_map(|one| Said::ALL.map(|other| (one, other)));
        pairs.flat_map(|(auth_time, session_start)| Said::ALL.map(|iat| Self { auth_time, session_start, iat }))
    }

    fn credential(self) -> Credential<'static> {
        let mut credential = Credential::new().user("alice");
        if let Some(date) = self.auth_time.date() {
            credential = credential.auth_time_secs(date);
        }
        if let Some(date) = self.session_start.date() {
            credential = credential.session_started_at_secs(date);
        }
        if let Some(date) = self.iat.date() {
            credential = credential.issued_at_secs(date);
        }
        credential
    }

    /// What a re-authenticate epoch compares.
    fn authentication(self) -> Option<Said> {
        [self.auth_time, self.session_start, self.iat].into_iter().find(|said| said.is_valid())
    }

    /// The same, with one claim that is new.
    fn with(self, claim: Claim) -> Self {
        match claim {
            Claim::AuthTime => Self { auth_time: Said::New, ..self },
            Claim::SessionStart => Self { session_start: Said::New, ..self },
            Claim::IssuedAt => Self { iat: Said::New, ..self },
            claim => panic!("{claim} is no time"),
        }
    }
}

/// What a rule should make of the times: nothing, a denial for a time that is old, or one for a claim that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    NotDenied,
    Old,
    Missing(Claim),
}

fn by_authentication(times: Times) -> Expected {
    match times.authentication() {
        None => Expected::Missing(Claim::AuthTime),
        Some(Said::Old) => Expected::Old,
        Some(_) => Expected::NotDenied,
    }
}

fn by_issuance(times: Times) -> Expected {
    match times.iat {
        Said::Nothing | Said::Nonsense => Expected::Missing(Claim::IssuedAt),
        Said::Old => Expected::Old,
        Said::New => Expected::NotDenied,
    }
}

fn by_age(times: Times) -> Expected {
    match by_issuance(times) {
        Expected::NotDenied if times.authentication() == Some(Said::Old) => Expected::Old,
        other => other,
    }
}

/// Holds a store, 100 s after it was opened and something was decided, against what is expected.
fn agrees(
    open: impl Fn(Options) -> Store,
    decide: impl Fn(&Store),
    requires: Claim,
    expected: fn(Times) -> Expected,
    shows: &str,
) {
    let clock = ManualClock::at(Timestamp::from_secs(NOW));
    let store = open(options(&clock));
    decide(&store);
    clock.advance(Duration::from_secs(100));
    let denial = |times: Times| match store.check(&times.credential()) {
        Verdict::Revoked(denial) => Some(denial),
        Verdict::Clear | Verdict::Unknown(Cause::MalformedClaim(_)) => None,
        Verdict::Unknown(cause) => panic!("{times:?}: {cause}"),
    };
    let (mut missing, mut old) = (0, 0);
    for times in Times::all() {
        let found = denial(times);
        let said = match found {
            None => Expected::NotDenied,
            Some(Denial { missing: None, .. }) => Expected::Old,
            Some(Denial { missing: Some(claim), .. }) => Expected::Missing(claim),
        };
        assert_eq!(said, expected(times), "{times:?}: {found:?}");
        let Some(found) = found else { continue };
        assert_eq!(found.requires(), Some(requires), "{times:?}: {found:?}");
        let shown = found.to_string();
        assert_eq!(shown.contains(shows), found.missing.is_none(), "{shown}");
        let Some(claim) = found.missing else {
            old += 1;
            continue;
        };
        missing += 1;
        for claim in claim.any_of() {
            assert!(shown.contains(claim.as_str()), "{shown}");
            let mended = denial(times.with(*claim));
            assert!(mended.is_none_or(|denial| denial.missing.is_none()), "{claim} mends {times:?}: {mended:?}");
        }
    }
    assert!(missing > 0 && old > 0, "{missing} {old}");
}

fn in_memory(options: Options) -> Store {
    options.open_in_memory().unwrap()
}

#[test]
fn reauthenticate_epoch_names_auth_time_only_if_no_time_serves() {
    let revoke = |store: &Store| _ = store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
    agrees(in_memory, revoke, Claim::AuthTime, by_authentication, "must log in again");
    let disable = |store: &Store| {
        store.disable(Subject::user("alice")).unwrap();
        store.enable(Subject::user("alice")).unwrap();
    };
    agrees(in_memory, disable, Claim::AuthTime, by_authentication, "must log in again");
}

#[test]
fn reissue_epoch_names_iat_whatever_else_is_there() {
    let revoke = |store: &Store| _ = store.revoke(Revocation::of(Subject::user("alice")).reissue()).unwrap();
    agrees(in_memory, revoke, Claim::IssuedAt, by_issuance, "needs a fresh token");
}

#[test]
fn maximum_age_names_iat_whether_it_is_an_option_or_was_set() {
    let aged = |options: Options| in_memory(options.max_credential_age(AGE));
    agrees(aged, |_| {}, Claim::IssuedAt, by_age, "older than");
    let set = |store: &Store| _ = store.set_max_credential_age(Subject::everyone(), AGE).unwrap();
    agrees(in_memory, set, Claim::IssuedAt, by_age, "older than");
}

#[test]
fn floor_under_a_longer_age_names_iat() {
    let lengthen = |store: &Store| {
        store.set_max_credential_age(Subject::everyone(), AGE).unwrap();
        store.clear_max_credential_age(Subject::everyone()).unwrap();
    };
    agrees(in_memory, lengthen, Claim::IssuedAt, by_age, "must log in again");
}

#[test]
fn denial_that_compares_nothing_names_no_claim() {
    let clock = ManualClock::at(Timestamp::from_secs(NOW));
    let store = options(&clock).open_in_memory().unwrap();
    store.revoke(Revocation::of(Subject::token("jti"))).unwrap();
    store.disable(Subject::user("bob")).unwrap();
    // A narrow entry that was lifted once is kept in another way.
    for _ in 0..2 {
        store.revoke(Revocation::of(Subject::session("sid"))).unwrap();
        store.lift(Subject::session("sid")).unwrap();
    }
    store.revoke(Revocation::of(Subject::session("sid"))).unwrap();
    for (credential, effect) in [
        (Credential::new().token("jti"), Effect::Revoked),
        (Credential::new().session("sid"), Effect::Revoked),
        (Credential::new().user("bob"), Effect::Disabled),
        (Credential::new().expires_at_secs(OLD), Effect::Expired),
        (Credential::new().issued_at_secs(NOW + 10_000), Effect::FromTheFuture),
    ] {
        let Verdict::Revoked(denial) = store.check(&credential) else { panic!("{credential:?}") };
        assert_eq!((denial.effect, denial.missing, denial.requires()), (effect, None, None), "{denial}");
    }
}

#[test]
fn pending_epoch_names_no_claim_because_none_would_help() {
    let clock = ManualClock::at(Timestamp::from_secs(NOW));
    let store = options(&clock).open_in_memory().unwrap();
    clock.set_wall(Timestamp::from_secs(NOW - 10_000_000));
    store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
    let Verdict::Revoked(denial) = store.check(&Credential::new().user("alice")) else { panic!() };
    assert_eq!((denial.effect, denial.missing, denial.requires()), (Effect::Pending, None, None), "{denial}");
    let facts = store.explain(&Subject::user("alice")).unwrap().unwrap().facts;
    assert_eq!((facts[0].effect, facts[0].requires), (Effect::Pending, Some(Claim::AuthTime)), "it will compare that");
}

#[test]
fn explanation_tells_which_claim_each_fact_requires() {
    let clock = ManualClock::at(Timestamp::from_secs(NOW));
    let store = options(&clock).open_in_memory().unwrap();
    let requires = |subject: &Subject| {
        let facts = store.explain(subject).unwrap().unwrap().facts;
        facts.into_iter().map(|fact| fact.requires).collect::<Vec<_>>()
    };
    store.revoke(Revocation::of(Subject::token("jti"))).unwrap();
    assert_eq!(requires(&Subject::token("jti")), [None]);
    let bob = Subject::user("bob");
    store.disable(bob.clone()).unwrap();
    store.revoke(Revocation::of(bob.clone()).reissue()).unwrap();
    assert_eq!(requires(&bob), [None, Some(Claim::AuthTime), Some(Claim::IssuedAt)], "disabled, and two epochs");
    store.set_max_credential_age(Subject::everyone(), AGE).unwrap();
    store.clear_max_credential_age(Subject::everyone()).unwrap();
    let facts = store.explain(&Subject::everyone()).unwrap().unwrap().facts;
    let floor = facts.iter().find(|fact| matches!(fact.effect, Effect::Reauthenticate { .. })).unwrap();
    assert_eq!(floor.requires, Some(Claim::IssuedAt));
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

#[test]
fn audit_tells_which_claim_an_epoch_or_an_age_requires() {
    let (clock, keep) = (ManualClock::at(Timestamp::from_secs(NOW)), Keep::default());
    let store = options(&clock).audit(keep.clone()).open_in_memory().unwrap();
    let alice = || Subject::user("alice");
    store.revoke(Revocation::of(Subject::token("jti"))).unwrap();
    store.revoke(Revocation::of(alice())).unwrap();
    store.revoke(Revocation::of(alice()).reissue()).unwrap();
    store.disable(alice()).unwrap();
    store.enable(alice()).unwrap();
    store.lift(alice()).unwrap();
    store.set_max_credential_age(Change::of(Subject::tenant("acme")), AGE).unwrap();
    store.clear_max_credential_age(Change::of(Subject::tenant("acme"))).unwrap();
    store.close().unwrap();
    let records = keep.0.lock();
    let requires: Vec<_> = records.iter().map(|record| (record.action, record.requires)).collect();
    let expected = [
        (Action::Revoke, None),
        (Action::Revoke, Some(Claim::AuthTime)),
        (Action::Revoke, Some(Claim::IssuedAt)),
        (Action::Disable, Some(Claim::AuthTime)),
        (Action::Enable, None),
        (Action::Lift, None),
        (Action::SetAge, Some(Claim::IssuedAt)),
        // What was dead by age stays dead, and so does what lacks `iat`.
        (Action::ClearAge, Some(Claim::IssuedAt)),
    ];
    assert_eq!(requires, expected);
    let json = serde_json::to_value(&records[1]).unwrap();
    assert_eq!(json["requires"], serde_json::json!(["auth_time", "session_start", "iat"]), "any one of these serves");
    assert_eq!(serde_json::to_value(&records[2]).unwrap()["requires"], serde_json::json!(["iat"]));
    assert!(serde_json::to_value(&records[0]).unwrap().get("requires").is_none());
}

#[test]
fn audit_of_a_settled_epoch_tells_which_claim_it_requires() {
    let (clock, keep) = (ManualClock::at(Timestamp::from_secs(NOW)), Keep::default());
    let store = options(&clock).audit(keep.clone()).open_in_memory().unwrap();
    clock.set_wall(Timestamp::from_secs(NOW - 10_000_000));
    store.revoke(Revocation::of(Subject::user("alice")).reissue()).unwrap();
    clock.set_wall(Timestamp::from_secs(NOW));
    store.maintain();
    store.close().unwrap();
    let requires: Vec<_> =
        keep.0.lock().iter().map(|record| (record.action, record.pending, record.requires)).collect();
    assert_eq!(
        requires,
        [(Action::Revoke, true, Some(Claim::IssuedAt)), (Action::Settle, false, Some(Claim::IssuedAt))]
    );
}

#[test]
fn cause_lies_with_the_credential_iff_it_names_a_claim_of_it() {
    for (cause, claim) in [
        (Cause::MissingClaim(Claim::Device), Some(Claim::Device)),
        (Cause::MalformedClaim(Claim::IssuedAt), Some(Claim::IssuedAt)),
        (Cause::ForeignTenant, Some(Claim::Tenant)),
        (Cause::Clock, None),
        (Cause::Bootstrapping, None),
        (Cause::Stale, None),
        (Cause::Closed, None),
    ] {
        assert_eq!((cause.claim(), cause.lies_with_credential()), (claim, claim.is_some()), "{cause}");
    }
}

/// A retry would find the credential's fault once the store can say again, so that is what is told.
#[test]
fn fault_of_the_credential_is_told_even_where_the_store_cannot_say() {
    let clock = ManualClock::at(Timestamp::from_secs(NOW));
    let options = || options(&clock).require_claim(Claim::Tenant);
    let lacking = Credential::new().user("alice").issued_at_secs(NOW);
    let malformed = Credential::new().user("").tenant("acme").issued_at_secs(NOW);
    let sound = Credential::new().user("alice").tenant("acme").issued_at_secs(NOW);
    let tells = |store: &Store, cause: Cause| {
        assert_eq!(store.check(&lacking), Verdict::Unknown(Cause::MissingClaim(Claim::Tenant)), "{cause}");
        assert_eq!(store.check(&malformed), Verdict::Unknown(Cause::MalformedClaim(Claim::User)), "{cause}");
        assert_eq!(store.check(&sound), Verdict::Unknown(cause));
    };

    let replica = options().open_in_memory().unwrap();
    let (one, two) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
    let _replica = replica.replicate(Replication::trusting_issuers("c", one, [two])).unwrap();
    tells(&replica, Cause::Bootstrapping);

    let store = options().open_in_memory().unwrap();
    store.close().unwrap();
    tells(&store, Cause::Closed);

    let store = options().open_in_memory().unwrap();
    store.revoke(Revocation::of(Subject::token("jti"))).unwrap();
    clock.set_wall(Timestamp::from_secs(NOW - 10_000));
    tells(&store, Cause::Clock);
}

#[test]
fn what_is_revoked_takes_precedence_over_a_fault_of_the_credential() {
    let clock = ManualClock::at(Timestamp::from_secs(NOW));
    let store = options(&clock).require_claim(Claim::Tenant).open_in_memory().unwrap();
    store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
    let Verdict::Revoked(denial) = store.check(&Credential::new().user("alice")) else { panic!() };
    assert_eq!(denial.missing, Some(Claim::AuthTime));
}

/// Nobody would be told any more, so a watch must not wait.
#[test]
fn watch_of_a_faulty_credential_ends_at_once_on_a_closed_store() {
    let store = Store::in_memory();
    store.close().unwrap();
    let watch = store.watch(&Credential::new().user("")).unwrap();
    assert_eq!(watch.verdict(), Some(Verdict::Unknown(Cause::Closed)));
}
