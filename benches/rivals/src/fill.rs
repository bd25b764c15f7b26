//! What the measurements of load, memory and disk fill stores with, and how far they go.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rescind::{Durability, Options, Reason, Revocation, Store, Subject};
use tempfile::TempDir;

use crate::queries::{self, Space};
use crate::settings;

/// How many go into one commit of a store that is being filled.
const FILLED_AT_ONCE: usize = 1000;

/// `RIVALS_SCALE=small`: seconds instead of minutes, to see that everything works. Its figures mean nothing.
pub fn is_small() -> bool {
    std::env::var("RIVALS_SCALE").is_ok_and(|scale| scale == "small")
}

/// How many entries there are where one size is enough.
pub fn largest_size() -> u64 {
    let largest = settings::sizes().into_iter().max().unwrap_or(0);
    if is_small() { largest.min(100_000) } else { largest }
}

/// A new directory on the disk that is measured: that of `RIVALS_DIR`, or of temporary files.
pub fn directory() -> TempDir {
    let directory = match std::env::var_os("RIVALS_DIR") {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    };
    directory.expect("RIVALS_DIR: a directory to measure in")
}

/// Seconds since 1970, a day from now.
pub fn tomorrow() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (now + Duration::from_secs(24 * 3600)).as_secs()
}

/// The revocation of token `n` with what usually belongs to it: when it expires, why, and by whom.
pub fn revocation(n: u64, expires: u64) -> Revocation {
    let token = Subject::token(queries::id_string(Space::Revoked, n));
    Revocation::of(token).until_secs(expires).because(Reason::Logout).by("sessions-service")
}

/// Revokes tokens that expire tomorrow, in large commits.
pub fn fill(store: &Store, tokens: Range<u64>) {
    let expires = tomorrow();
    for first in tokens.clone().step_by(FILLED_AT_ONCE) {
        let batch = first..tokens.end.min(first + FILLED_AT_ONCE as u64);
        store.revoke_many(batch.map(|n| revocation(n, expires))).expect("a store that takes revocations");
    }
}

/// Options that leave syncs and maintenance to whoever measures.
pub fn unattended() -> Options {
    Options::new().durability(Durability::Memory).background(false)
}

/// Makes a store of many tokens in a directory, as a log or as a snapshot.
pub fn make_store(path: &Path, tokens: u64, as_snapshot: bool) {
    let store = unattended().open(path).expect("a new store");
    fill(&store, 0..tokens);
    if as_snapshot {
        store.snapshot().expect("a snapshot");
    }
    store.close().expect("everything on disk");
}
