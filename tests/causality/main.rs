//! What existed is dead, whatever the clocks say: the table of situations in `manual::causality`, row by row, and what
//! happens where limits differ or a name has two lives.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

mod alone;
mod cluster;
mod concurrent;
mod group;
mod limits;
mod tokens;
mod twins;

use std::time::Duration;

use rescind::{Credential, Effect, Key, ManualClock, Options, Revocation, Store, Subject, Timestamp, Verdict};

/// When the clocks start.
const T0: u64 = 1_800_000_000;

/// So many seconds after the start.
fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(T0.checked_add_signed(secs).unwrap())
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn options(clock: &ManualClock) -> Options {
    Options::new().key(Key::from_bytes([3; 32])).clock(clock.clone()).background(false).segment_bytes(16 * 1024)
}

/// A credential of alice that was issued at a time, after a login at that time.
fn alice(stamp: Timestamp) -> Credential<'static> {
    Credential::new().issuer("https://id.example").user("alice").issued_at(stamp).auth_time(stamp)
}

fn revocation() -> Revocation {
    Revocation::of(Subject::user("alice"))
}

fn is_revoked(store: &Store, credential: &Credential<'_>) -> bool {
    matches!(store.check(credential), Verdict::Revoked(_))
}

fn is_clear(store: &Store, credential: &Credential<'_>) -> bool {
    store.check(credential) == Verdict::Clear
}

fn effect(store: &Store, credential: &Credential<'_>) -> Effect {
    match store.check(credential) {
        Verdict::Revoked(denial) => denial.effect,
        other => panic!("{other}"),
    }
}
