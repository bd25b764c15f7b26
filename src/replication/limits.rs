//! What is refused of a peer's entries: what lies too far in the future, or is kept without end.

use crate::model::{Entry, EpochKind, Mark, Marks, Retention, Timestamp};

/// How many marks a subject may have: those that stores make keep far below this.
const MARKS_MAX: usize = 128;

/// What a peer's entry may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The latest floor, and the latest epoch for every issuer.
    pub(crate) epoch: Timestamp,
    /// The latest epoch for one issuer, which may be ahead by the leeway.
    pub(crate) line: Timestamp,
    /// The longest retention of a token, session or family.
    pub(crate) until: Option<Timestamp>,
}

impl Bounds {
    /// Removes from an entry what it may not hold, and gives it; none if there was nothing.
    ///
    /// An epoch further in the future than clocks may differ would bind whatever is yet to be issued. Numbers of marks are not
    /// held to anything: they order what one life did, and are compared with no clock.
    pub(crate) fn refuse(&self, entry: &mut Entry) -> Option<Refused> {
        let mut refused = Refused::default();
        match entry {
            Entry::Narrow(entry) => {
                let is_refused = self.until.is_some_and(|most| entry.until.end() > most);
                if is_refused {
                    (entry.denials, entry.until) = (Marks::default(), Retention::from_secs(0));
                }
                is_refused.then_some(refused)
            }
            Entry::Wide(entry) => {
                let mut is_refused = entry.floor > self.epoch;
                if is_refused {
                    entry.floor = Timestamp::MIN;
                }
                let sorts =
                    [(EpochKind::Reauthenticate, &mut entry.reauthenticate), (EpochKind::Reissue, &mut entry.reissue)];
                let is_late = |mark: &Mark| mark.epoch > if mark.issuer.is_some() { self.line } else { self.epoch };
                for (kind, epochs) in sorts {
                    let late = epochs.iter().filter(|mark| is_late(mark));
                    refused.epochs.extend(late.map(|mark| (kind, mark.clone())));
                    epochs.retain(|mark| !is_late(mark));
                }
                is_refused |= !refused.epochs.is_empty();
                is_refused.then_some(refused)
            }
        }
    }
}

/// What was removed from an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Epochs that lie too far in the future.
    pub(crate) epochs: Vec<(EpochKind, Mark)>,
}

/// Whether an entry has grown beyond all measure.
pub(crate) fn is_crowded(entry: &Entry) -> bool {
    match entry {
        Entry::Narrow(entry) => entry.denials.iter().len() > MARKS_MAX,
        Entry::Wide(entry) => {
            let epochs = entry.reauthenticate.iter().len() + entry.reissue.iter().len();
            epochs + entry.blocks.iter().len() + entry.ages.iter().len() > MARKS_MAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntryCause, Epochs, Life, NarrowEntry, WideEntry};

    fn secs(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn life(number: u8) -> Life {
        Life::from_bytes([number; 16])
    }

    fn mark(epoch: Timestamp, at: Timestamp) -> Mark {
        Mark {
            epoch,
            at,
            life: Life::new(at, 0),
            in_doubt: epoch == Mark::PENDING,
            issuer: None,
            cause: EntryCause::default(),
            spared: Vec::new(),
        }
    }

    const BOUNDS: Bounds = Bounds { epoch: secs_of(1_060), line: secs_of(1_122), until: Some(secs_of(1_560)) };

    const fn secs_of(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn only_what_lies_too_far_in_the_future_is_refused() {
        let of_one = Some(crate::model::Digest::from_bytes([7; 16]));
        let of_issuer = |mark: Mark| Mark { issuer: of_one, ..mark };
        let kept =
            [mark(secs(1_060), secs(9_999)), of_issuer(mark(secs(1_122), secs(5))), mark(Mark::PENDING, secs(6))];
        let refused = [mark(secs(1_061), secs(7)), of_issuer(mark(secs(1_123), secs(8)))];
        for reissue in [false, true] {
            let entry = |marks: Vec<Mark>| match reissue {
                false => WideEntry { reauthenticate: Epochs::of(marks), floor: secs(1_060), ..WideEntry::default() },
                true => WideEntry { reissue: Epochs::of(marks), floor: secs(1_060), ..WideEntry::default() },
            };
            let expected = Entry::Wide(entry(kept.to_vec()));
            let mut given = expected.clone();
            assert_eq!((BOUNDS.refuse(&mut given), &given), (None, &expected));
            let mut given = Entry::Wide(entry(kept.iter().chain(&refused).cloned().collect()));
            let kind = if reissue { EpochKind::Reissue } else { EpochKind::Reauthenticate };
            let epochs = refused.iter().rev().map(|mark| (kind, mark.clone())).collect();
            assert_eq!((BOUNDS.refuse(&mut given), &given), (Some(Refused { epochs }), &expected));
        }
        let mut floor = Entry::Wide(WideEntry { floor: secs(1_061), ..WideEntry::default() });
        assert!(BOUNDS.refuse(&mut floor).is_some() && floor.is_void());
        let blocks = Marks::one(life(1), secs(u64::MAX), EntryCause::default());
        let blocked = &mut Entry::Wide(WideEntry { blocks, ..WideEntry::default() });
        assert_eq!(BOUNDS.refuse(blocked), None, "a number is no time");
    }

    #[test]
    fn retention_beyond_the_limit_is_refused() {
        let until = |until| Entry::Narrow(NarrowEntry::denied(life(1), secs(5), EntryCause::default(), until));
        assert_eq!(BOUNDS.refuse(&mut until(Retention::from_secs(1_560))), None);
        for long in [Retention::from_secs(1_561), Retention::FOR_GOOD] {
            let mut entry = until(long);
            assert!(BOUNDS.refuse(&mut entry).is_some() && entry.is_void());
            assert_eq!(Bounds { until: None, ..BOUNDS }.refuse(&mut until(long)), None);
        }
    }

    #[test]
    fn more_marks_than_any_store_makes_are_too_many() {
        let crowd = |count: usize| {
            let mut entry = WideEntry::default();
            for number in 0..count {
                let mark = Mark { life: Life::new(secs(number as u64), 0), ..mark(secs(9), secs(1)) };
                entry.join(WideEntry { reauthenticate: Epochs::one(mark), ..WideEntry::default() });
            }
            Entry::Wide(entry)
        };
        assert!(!is_crowded(&crowd(MARKS_MAX)) && is_crowded(&crowd(MARKS_MAX + 1)));
    }
}
