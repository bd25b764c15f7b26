//! What is refused of a peer's entries: what could never be taken back, or is kept without end.

use std::time::Duration;

use crate::model::{Entry, Timestamp, WideEntry};

/// How many epochs of both sorts a subject may have: those that stores make keep far below this.
const EPOCHS_MAX: usize = 128;

/// Whether an entry is refused.
///
/// An epoch further in the future than clocks may differ would bind whatever is yet to be issued, and a flag could not be
/// cleared before that time; a lift or an enabling would undo what is yet to be done. When a revocation was made does
/// nothing of the sort: what it denies is over with the next token, or the next login.
pub(crate) fn is_refused(entry: &Entry, now: Timestamp, skew: Duration, max_retention: Option<Duration>) -> bool {
    let horizon = now.saturating_add(skew);
    match entry {
        Entry::Narrow(entry) => {
            let is_kept_too_long = |most: Duration| entry.until.end() > horizon.saturating_add(most);
            entry.lifted > horizon || max_retention.is_some_and(is_kept_too_long)
        }
        Entry::Wide(entry) => {
            let WideEntry { reauthenticate, reissue, disabled, lifted, enabled, floor } = entry;
            let epochs = reauthenticate.iter().chain(reissue.iter()).map(|mark| mark.epoch);
            let latest = epochs.chain(disabled.iter().map(|(at, _)| *at)).max().unwrap_or_default();
            latest.max(*lifted).max(*enabled).max(*floor) > horizon
        }
    }
}

/// Whether an entry has grown beyond all measure.
pub(crate) fn is_crowded(entry: &Entry) -> bool {
    match entry {
        Entry::Narrow(_) => false,
        Entry::Wide(entry) => entry.reauthenticate.len() + entry.reissue.len() > EPOCHS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntryCause, Epochs, Mark, NarrowEntry, Retention};

    fn secs(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn mark(epoch: Timestamp, at: Timestamp) -> Epochs {
        Epochs::one(Mark { epoch, at, cause: EntryCause::default(), spared: Vec::new() })
    }

    fn is_refused_at(now: u64, entry: Entry) -> bool {
        is_refused(&entry, secs(now), Duration::from_secs(60), None)
    }

    #[test]
    fn what_would_bind_or_undo_what_is_yet_to_come_is_refused() {
        type Change = fn(&mut WideEntry, Timestamp);
        let each: [Change; 6] = [
            |entry, time| entry.reauthenticate = mark(time, secs(5)),
            |entry, time| entry.reissue = mark(time, secs(5)),
            |entry, time| entry.disabled = Some((time, EntryCause::default())),
            |entry, time| entry.lifted = time,
            |entry, time| entry.enabled = time,
            |entry, time| entry.floor = time,
        ];
        for (index, change) in each.iter().enumerate() {
            let entry = |time| {
                let mut entry = WideEntry::default();
                change(&mut entry, secs(time));
                Entry::Wide(entry)
            };
            assert!(!is_refused_at(1_000, entry(1_060)) && is_refused_at(1_000, entry(1_061)), "{index}");
        }
        assert!(!is_refused_at(
            1_000,
            Entry::Wide(WideEntry { reissue: mark(secs(5), secs(9_999)), ..Default::default() })
        ));
        let narrow = |at, lifted| {
            let entry = NarrowEntry::denied(secs(at), EntryCause::default(), Retention::FOR_GOOD);
            Entry::Narrow(NarrowEntry { lifted: secs(lifted), ..entry })
        };
        assert!(!is_refused_at(1_000, narrow(9_999, 1_060)) && is_refused_at(1_000, narrow(5, 1_061)));
    }

    #[test]
    fn what_would_be_kept_too_long_is_refused_where_there_is_a_limit() {
        let until = |until| Entry::Narrow(NarrowEntry::denied(secs(5), EntryCause::default(), until));
        let limited =
            |entry: &Entry| is_refused(entry, secs(1_000), Duration::from_secs(60), Some(Duration::from_secs(500)));
        assert!(!limited(&until(Retention::from_secs(1_560))) && limited(&until(Retention::from_secs(1_561))));
        assert!(limited(&until(Retention::FOR_GOOD)) && !is_refused_at(1_000, until(Retention::FOR_GOOD)));
    }

    #[test]
    fn more_epochs_than_any_store_makes_are_too_many() {
        let epochs = |count: u64| {
            let spared = |n: u64| vec![crate::model::Digest::from_bytes(u128::from(n).to_be_bytes())];
            let mark =
                |n| Mark { epoch: secs(9_999 - n), at: secs(n), cause: EntryCause::default(), spared: spared(n) };
            let mut entry = WideEntry::default();
            for n in 0..count {
                entry.join(WideEntry { reauthenticate: Epochs::one(mark(n)), ..WideEntry::default() });
            }
            Entry::Wide(entry)
        };
        assert!(!is_crowded(&epochs(EPOCHS_MAX as u64 - 1)) && is_crowded(&epochs(EPOCHS_MAX as u64 + 2)));
    }
}
