//! A store that was written when the format last changed: today's code opens it and finds everything.
//!
//! Until 0.1 is released the format may change without migration: `cargo test --test vectors -- --ignored` then writes the
//! vectors anew.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{
    Change, Credential, Effect, Key, ManualClock, OpenError, Options, Reason, RecoveryError, Revocation, Store,
    Subject, Timestamp, Verdict, verify_on,
};

const START: Timestamp = Timestamp::from_secs(1_700_000_000);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store")
}

fn options() -> Options {
    let clock = ManualClock::at(START.saturating_add(Duration::from_secs(60)));
    Options::new()
        .key(Key::from_bytes([0x5a; 32]))
        .clock(clock)
        .background(false)
        .segment_bytes(4096)
        .retain_labels(true)
        .tenant_max_credential_age("acme", Duration::from_secs(3600))
}

fn files() -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// One of every kind of entry and record, in a snapshot and in the log after it.
fn fill(store: &Store) {
    let until = START.saturating_add(Duration::from_secs(600));
    store.revoke(Revocation::of(Subject::token("t1")).until(until).because(Reason::Logout).by("alice")).unwrap();
    store.revoke(Revocation::of(Subject::opaque_token("secret")).because(Reason::Other(200))).unwrap();
    store.revoke(Revocation::of(Subject::session("s1").in_tenant("acme").at_issuer("iss"))).unwrap();
    store.revoke(Revocation::of(Subject::user("bob").in_tenant("acme")).because(Reason::Offboarding)).unwrap();
    store.disable(Change::of(Subject::client("app")).because(Reason::Compromise).by("carol")).unwrap();
    store.revoke(Revocation::of(Subject::token("t0"))).unwrap();
    store.lift(Subject::token("t0")).unwrap();
    store.snapshot().unwrap();
    store.revoke(Revocation::of(Subject::tenant("beta")).sparing_session("admin")).unwrap();
    store.revoke(Revocation::of(Subject::group("g").at_issuer("iss")).reissue()).unwrap();
    store.revoke_many(["f1", "f2"].map(|id| Revocation::of(Subject::family(id)))).unwrap();
    store.lift(Subject::family("f2")).unwrap();
    store.disable(Subject::device("d")).unwrap();
    store.enable(Subject::device("d")).unwrap();
    // Rows of several actors, a second segment, a second snapshot.
    for index in 0..FILLERS {
        let revocation = Revocation::of(Subject::token(format!("filler-{index}"))).by(format!("actor-{}", index % 3));
        store.revoke(revocation.because(Reason::Other(u8::try_from(index + 100).unwrap()))).unwrap();
        if index == FILLERS / 2 {
            store.snapshot().unwrap();
        }
    }
    store.close().unwrap();
}

const FILLERS: usize = 40;

#[test]
#[ignore = "writes the vectors of a new format"]
fn write_vectors() {
    let storage = MemoryStorage::new();
    // Opened with a higher age than the first time: that is what puts a floor under the tenant.
    let first = options().tenant_max_credential_age("acme", Duration::from_secs(1800));
    first.open_on(Arc::new(storage.clone())).unwrap().close().unwrap();
    fill(&options().open_on(Arc::new(storage.clone())).unwrap());
    if folder().exists() {
        fs::remove_dir_all(folder()).unwrap();
    }
    fs::create_dir_all(folder()).unwrap();
    for (name, bytes) in storage.files() {
        fs::write(folder().join(name), bytes).unwrap();
    }
}

#[test]
fn store_that_was_written_in_this_format_is_opened_whole() {
    let store = options().open_on(Arc::new(MemoryStorage::from_files(files()))).unwrap();
    assert_eq!(store.len(), 12 + FILLERS);
    let recovery = store.stats().recovery;
    assert_eq!(recovery.torn_tail_bytes, 0);
    let before = 12 + FILLERS / 2 + 1;
    assert_eq!(recovery.snapshot_records, before as u64 + 1, "entries, and the limits");
    assert_eq!(recovery.marked_batch, Some(recovery.snapshot_batch.unwrap() + recovery.log_batches));
    let segments = files().keys().filter(|name| name.starts_with("wal-")).count();
    assert!(segments >= 2 && files().contains_key("MARK"));
    assert!(verify_on(&MemoryStorage::from_files(files())).unwrap().is_sound());
    let effect = |credential: Credential<'_>| match store.check(&credential.issued_at(START).auth_time(START)) {
        Verdict::Revoked(denial) => Some((denial.effect, denial.reason)),
        Verdict::Clear => None,
        Verdict::Unknown(cause) => panic!("{cause}"),
    };
    let new = || Credential::new();
    let epoch = START.saturating_add(Duration::from_secs(60));
    let again = Effect::Reauthenticate { epoch };
    assert_eq!(effect(new().token("t1")), Some((Effect::Revoked, Reason::Logout)));
    assert_eq!(effect(new().opaque_token("secret")), Some((Effect::Revoked, Reason::Other(200))));
    assert_eq!(effect(new().token("secret")), None);
    assert_eq!(effect(new().token("t0")), None, "lifted before the snapshot");
    let t1 = store.explain(&Subject::token("t1")).unwrap().unwrap();
    assert_eq!(t1.until, Some(START.saturating_add(Duration::from_secs(600))));
    assert_eq!(t1.facts[0].actor.as_deref(), Some("alice"));
    assert_eq!(effect(new().session("s1").tenant("acme").issuer("iss")), Some((Effect::Revoked, Reason::Unspecified)));
    assert_eq!(effect(new().user("bob").tenant("acme")), Some((again, Reason::Offboarding)));
    assert_eq!(effect(new().user("bob")), None);
    assert_eq!(effect(new().client("app")), Some((Effect::Disabled, Reason::Compromise)));
    assert_eq!(effect(new().tenant("beta")), Some((again, Reason::Unspecified)));
    assert_eq!(effect(new().tenant("beta").session("admin")), None);
    assert_eq!(effect(new().groups(&["g"]).issuer("iss")), Some((Effect::Reissue { epoch }, Reason::Unspecified)));
    assert_eq!(effect(new().family("f1")), Some((Effect::Revoked, Reason::Unspecified)));
    assert_eq!(effect(new().family("f2")), None, "lifted");
    assert_eq!(effect(new().device("d")), Some((again, Reason::Unspecified)), "enabled, and the epoch stays");
    for index in 0..FILLERS {
        let filler = store.explain(&Subject::token(format!("filler-{index}"))).unwrap().unwrap();
        assert_eq!(filler.facts[0].actor.as_deref(), Some(&*format!("actor-{}", index % 3)));
        assert_eq!(filler.facts[0].reason, Reason::Other(u8::try_from(index + 100).unwrap()));
    }
    let acme = store.explain(&Subject::tenant("acme")).unwrap().unwrap();
    let floor = START.saturating_add(Duration::from_secs(60)).saturating_sub(Duration::from_secs(1800));
    assert_eq!(acme.facts[0].effect, Effect::Reauthenticate { epoch: floor });
    let bob = store.explain(&Subject::user("bob").in_tenant("acme")).unwrap().unwrap();
    assert_eq!(bob.label.as_deref(), Some("bob"));
}

/// The error of a store whose `STORE` says that it is of another format, with a checksum that holds or not.
fn error_of_format(version: u8) -> RecoveryError {
    let mut files = files();
    let head = files.get_mut("STORE").unwrap();
    head[8] = version;
    let checksum = xxhash_rust::xxh3::xxh3_64(&head[..120]);
    head[120..128].copy_from_slice(&checksum.to_le_bytes());
    match options().open_on(Arc::new(MemoryStorage::from_files(files))).unwrap_err() {
        OpenError::Recovery(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn store_of_a_development_version_is_refused_by_name() {
    for version in 1..4 {
        let error = error_of_format(version);
        assert!(error.to_string().contains("development version"), "{error}");
        assert!(
            matches!(&error, RecoveryError::DevelopmentFormat { file, version: found } if file == "STORE" && *found == u32::from(version)),
            "{error:?}"
        );
    }
}

#[test]
fn store_of_a_later_format_is_refused_by_its_number() {
    let error = error_of_format(5);
    assert!(matches!(&error, RecoveryError::UnknownFormat { file, version: 5 } if file == "STORE"), "{error:?}");
}
