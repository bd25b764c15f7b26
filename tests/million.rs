//! A million tokens, revoked, closed and reopened: all there, none else, and forgotten in time.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::sync::Arc;
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{Credential, Key, ManualClock, Options, Revocation, Store, Subject, Timestamp, Verdict};

const TOKENS: u64 = 1_000_000;
const BATCH: u64 = 20_000;
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn is_revoked(store: &Store, id: &str) -> bool {
    match store.check(&Credential::new().token(id)) {
        Verdict::Revoked(_) => true,
        Verdict::Clear => false,
        Verdict::Unknown(cause) => panic!("{cause}"),
    }
}

fn revoke_all(store: &Store) {
    let until = NOW.saturating_add(Duration::from_secs(3600));
    for first in (0..TOKENS).step_by(BATCH as usize) {
        let batch = (first..first + BATCH).map(|n| Revocation::of(Subject::token(format!("jti-{n}"))).until(until));
        assert_eq!(store.revoke_many(batch).unwrap().changed, BATCH as usize);
    }
}

fn expect_all(store: &Store) {
    assert_eq!(store.len(), TOKENS as usize);
    assert!((0..TOKENS).all(|n| is_revoked(store, &format!("jti-{n}"))), "every revoked token is denied");
    assert!(!(0..TOKENS).any(|n| is_revoked(store, &format!("other-{n}"))), "and no other");
}

#[test]
fn a_million_tokens_survive_a_reopen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path).unwrap();
    // Real time here: the tokens end in the far future.
    let until = Timestamp::from_secs(10_000_000_000);
    for first in (0..TOKENS).step_by(BATCH as usize) {
        let batch = (first..first + BATCH).map(|n| Revocation::of(Subject::token(format!("jti-{n}"))).until(until));
        store.revoke_many(batch).unwrap();
    }
    expect_all(&store);
    store.close().unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    expect_all(&store);
    let report = store.snapshot().unwrap();
    assert_eq!(report.entries, TOKENS);
    store.close().unwrap();
    drop(store);
    expect_all(&Store::open(&path).unwrap());
}

#[test]
fn a_million_tokens_are_forgotten_when_they_have_expired() {
    let clock = ManualClock::at(NOW);
    let storage = Arc::new(MemoryStorage::new());
    let options =
        || Options::new().clock(clock.clone()).background(false).key(Key::from_bytes([1; 32])).segment_bytes(1 << 20);
    let store = options().open_on(storage.clone()).unwrap();
    revoke_all(&store);
    store.maintain();
    expect_all(&store);
    clock.advance(Duration::from_secs(3600 + 60 + 300 + 1));
    assert_eq!(store.maintain().forgotten, TOKENS as usize);
    assert_eq!(store.len(), 0);
    // Two snapshots later nothing of them is on disk.
    store.snapshot().unwrap();
    store.revoke(Revocation::of(Subject::token("last"))).unwrap();
    store.snapshot().unwrap();
    let bytes: usize = storage.files().values().map(Vec::len).sum();
    assert!(bytes < 3 << 20, "{bytes} bytes are left");
    store.close().unwrap();
    assert_eq!(options().open_on(storage).unwrap().len(), 1);
}
