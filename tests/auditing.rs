//! Audit records as the store makes them, and sinks that fail.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::sync::Arc;

use parking_lot::Mutex;
use rescind::audit::{self, Action, AuditError, AuditRecord, AuditSink, JsonLines, Outcome};
use rescind::storage::MemoryStorage;
use rescind::{
    Change, Channel, Credential, InitiatingEntity, Key, ManualClock, Options, Reason, Revocation, Subject, Timestamp,
    Verdict, WriteError,
};

/// Keeps what it is given.
#[derive(Clone, Debug, Default)]
struct Keep(Arc<Mutex<Vec<AuditRecord>>>);

impl AuditSink for Keep {
    fn record(&self, record: &AuditRecord) -> Result<(), AuditError> {
        self.0.lock().push(record.clone());
        Ok(())
    }
}

/// Takes nothing.
#[derive(Debug)]
struct Broken;

impl AuditSink for Broken {
    fn record(&self, _: &AuditRecord) -> Result<(), AuditError> {
        Err(AuditError::Other("broken".into()))
    }
}

/// Waits until it is let go.
#[derive(Debug)]
struct Stuck(Arc<Mutex<()>>);

impl AuditSink for Stuck {
    fn record(&self, _: &AuditRecord) -> Result<(), AuditError> {
        let _until_released = self.0.lock();
        Ok(())
    }
}

fn options() -> Options {
    let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
    Options::new().clock(clock).background(false).key(Key::from_bytes([3; 32])).segment_bytes(4096)
}

#[test]
fn every_change_becomes_one_record() {
    let keep = Keep::default();
    let store = options().retain_labels(true).audit(keep.clone()).open_on(Arc::new(MemoryStorage::new())).unwrap();
    let bob = || Subject::user("bob").in_tenant("acme").at_issuer("https://id.example");
    store
        .revoke(
            Revocation::of(bob())
                .because(Reason::Offboarding)
                .by("carol")
                .note("left")
                .on_behalf_of(InitiatingEntity::Admin)
                .through(Channel::Event)
                .transaction("txn-1"),
        )
        .unwrap();
    store.revoke_many(["a", "b"].map(|id| Revocation::of(Subject::token(id)))).unwrap();
    store.disable(bob()).unwrap();
    store.enable(Change::of(bob()).by("dave")).unwrap();
    store.enable(bob()).unwrap();
    store.lift(bob()).unwrap();
    store.revoke(Revocation::of(bob()).reissue()).unwrap();
    let digest = store.explain(&bob()).unwrap().unwrap().digest.to_string();
    store.close().unwrap();

    let records = keep.0.lock();
    assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    let first = &records[0];
    assert_eq!((first.action, &first.outcome), (Action::Revoke, &Outcome::Durable));
    assert_eq!((first.target.kind.as_str(), first.target.digest.as_str()), ("user", digest.as_str()));
    assert_eq!(first.target.label.as_deref(), Some("bob"));
    assert_eq!(first.target.issuer.as_deref(), Some("https://id.example"));
    assert_eq!((first.tenant.as_deref(), first.txn.as_deref()), (Some("acme"), Some("txn-1")));
    assert_eq!((first.reason.as_str(), first.note.as_deref()), ("offboarding", Some("left")));
    assert_eq!((first.initiating_entity, first.channel), (InitiatingEntity::Admin, Channel::Event));
    assert_eq!((first.effect.as_deref(), first.time.as_str()), (Some("reauthenticate"), "2027-01-15T08:00:00.000Z"));
    assert_eq!(first.actor.as_ref().map(|actor| actor.id.as_str()), Some("carol"));
    assert_eq!(first.sessions_affected, None, "never invented");
    let outline: Vec<_> = records.iter().map(|r| (r.action, r.effect.as_deref(), r.outcome.as_str())).collect();
    assert_eq!(
        outline,
        [
            (Action::Revoke, Some("reauthenticate"), "durable"),
            (Action::Revoke, Some("denied"), "durable"),
            (Action::Revoke, Some("denied"), "durable"),
            (Action::Disable, Some("disabled"), "durable"),
            (Action::Enable, None, "durable"),
            (Action::Enable, None, "unchanged"),
            (Action::Lift, None, "durable"),
            (Action::Revoke, Some("reissue"), "durable"),
        ]
    );
}

#[test]
fn names_are_in_the_records_only_if_retained() {
    let keep = Keep::default();
    let store = options().audit(keep.clone()).open_in_memory().unwrap();
    store.revoke(Revocation::of(Subject::user("bob").in_tenant("acme").at_issuer("iss"))).unwrap();
    store.close().unwrap();
    let records = keep.0.lock();
    let record = &records[0];
    assert_eq!((&record.tenant, &record.target.label, &record.target.issuer), (&None, &None, &None));
    assert_eq!(record.outcome, Outcome::Memory);
}

#[test]
fn a_failing_sink_blocks_no_denial_and_is_counted() {
    let keep = Keep::default();
    let store = options().audit(Broken).audit(keep.clone()).open_on(Arc::new(MemoryStorage::new())).unwrap();
    for n in 0..10 {
        store.revoke(Revocation::of(Subject::token(n.to_string()))).unwrap();
    }
    store.close().unwrap();
    assert_eq!(store.stats().audit_failures, 10);
    assert_eq!(keep.0.lock().len(), 10, "the other sink gets everything");
}

#[test]
fn a_stuck_sink_blocks_no_denial_and_its_losses_are_counted() {
    const RECORDS: usize = 70_000;
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock();
    let store = options().audit(Stuck(Arc::clone(&gate))).open_in_memory().unwrap();
    for first in (0..RECORDS).step_by(1000) {
        let batch = (first..first + 1000).map(|n| Revocation::of(Subject::token(n.to_string())));
        store.revoke_many(batch).unwrap();
    }
    assert_eq!(store.len(), RECORDS);
    assert!(matches!(store.check(&Credential::new().token("69999")), Verdict::Revoked(_)));
    let lost = store.stats().audit_failures as usize;
    assert!((RECORDS - 65_536 - 1..RECORDS).contains(&lost), "{lost}");
    drop(held);
    store.close().unwrap();
}

#[test]
fn a_write_that_is_not_durable_is_recorded_as_failed() {
    let keep = Keep::default();
    let storage = MemoryStorage::new();
    let store = options().audit(keep.clone()).open_on(Arc::new(storage.clone())).unwrap();
    storage.fail_at(storage.operations(), std::io::ErrorKind::StorageFull, true);
    let error = store.revoke(Revocation::of(Subject::token("t"))).unwrap_err();
    assert!(matches!(error, WriteError::NotDurable(_)), "{error}");
    assert!(matches!(store.check(&Credential::new().token("t")), Verdict::Revoked(_)), "the safe side");
    store.close().unwrap_err();
    let records = keep.0.lock();
    assert!(matches!(&records[0].outcome, Outcome::Failed { error } if error.contains("wal-")), "{records:?}");
}

#[test]
fn the_chain_of_the_json_lines_holds_across_reopens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    for round in 0..3 {
        let store = options().audit(JsonLines::open(&path).unwrap()).open_in_memory().unwrap();
        store.revoke(Revocation::of(Subject::token(round.to_string()))).unwrap();
        store.close().unwrap();
        drop(store);
    }
    assert_eq!(audit::verify(&path).unwrap().records, 3);
}
