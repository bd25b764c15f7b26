//! What is refused of a peer's entries: what could never be taken back, or is kept without end.

use std::time::Duration;

use crate::model::{Entry, Timestamp};

/// How many epochs of both sorts a subject may have: those that stores make keep far below this.
const EPOCHS_MAX: usize = 128;

/// Whether an entry is refused.
///
/// An epoch further in the future than clocks may differ would bind whatever is yet to be issued, and could never be taken
/// back; a lift or an enabling would undo what is yet to be done. The time of a token's revocation does neither.
pub(crate) fn is_refused(entry: &Entry, now: Timestamp, skew: Duration, max_retention: Option<Duration>) -> bool {
    let horizon = now.saturating_add(skew);
    match entry {
        Entry::Narrow(entry) => {
            let is_kept_too_long = |most: Duration| entry.until.end() > horizon.saturating_add(most);
            entry.lifted > horizon || max_retention.is_some_and(is_kept_too_long)
        }
        Entry::Wide(entry) => entry.latest() > horizon,
    }
}

/// Whether an entry has grown beyond all measure.
pub(crate) fn is_crowded(entry: &Entry) -> bool {
    match entry {
        Entry::Narrow(_) => false,
        Entry::Wide(entry) => entry.reauthenticate.len() + entry.reissue.len() > EPOCHS_MAX,
    }
}
