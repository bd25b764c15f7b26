//! Stamps from beyond the clock: of credentials that were let in, and those that the store has given out. An epoch binds those
//! of its subject.
//!
//! They are kept per subject, without tenant and issuer, and only until the clock has passed them: as a rule there are none.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::model::{Locator, Timestamp};
use crate::sync::Mutex;

const SHARDS: usize = 16;
/// How many subjects have a stamp of their own. What more there are share one, which moves everybody's epoch.
const SUBJECTS_MAX: usize = 1 << 16;

/// The latest stamp from beyond the clock of each subject that has one.
pub(super) struct Stamps {
    shards: [Mutex<HashMap<Locator, Timestamp>>; SHARDS],
    subjects: AtomicUsize,
    /// The latest of all, and of those that have no room.
    latest: AtomicU64,
    others: AtomicU64,
}

impl Stamps {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            subjects: AtomicUsize::new(0),
            latest: AtomicU64::new(0),
            others: AtomicU64::new(0),
        }
    }

    fn shard(&self, subject: Locator) -> Option<&Mutex<HashMap<Locator, Timestamp>>> {
        self.shards.get(subject.as_u64() as usize % SHARDS)
    }

    /// A credential that names a subject is about to be let in, or such a stamp is given out.
    pub(super) fn note(&self, subject: Locator, stamp: Timestamp) {
        self.latest.fetch_max(stamp.as_nanos(), Ordering::SeqCst);
        let Some(shard) = self.shard(subject) else { return };
        let mut shard = shard.lock();
        if let Some(known) = shard.get_mut(&subject) {
            *known = stamp.max(*known);
        } else if self.subjects.load(Ordering::Relaxed) < SUBJECTS_MAX {
            shard.insert(subject, stamp);
            self.subjects.fetch_add(1, Ordering::Relaxed);
        } else {
            self.note_of_any(stamp);
        }
    }

    /// The same, of whatever subject.
    pub(super) fn note_of_any(&self, stamp: Timestamp) {
        self.latest.fetch_max(stamp.as_nanos(), Ordering::SeqCst);
        self.others.fetch_max(stamp.as_nanos(), Ordering::SeqCst);
    }

    /// The latest stamp of a subject, as far as is known.
    pub(super) fn of(&self, subject: Locator) -> Timestamp {
        let own = self.shard(subject).and_then(|shard| shard.lock().get(&subject).copied());
        own.unwrap_or_default().max(Timestamp::from_nanos(self.others.load(Ordering::SeqCst)))
    }

    /// The latest stamp of all.
    pub(super) fn latest(&self) -> Timestamp {
        Timestamp::from_nanos(self.latest.load(Ordering::SeqCst))
    }

    /// Forgets what the clock has passed.
    pub(super) fn prune(&self, now: Timestamp) {
        if self.subjects.load(Ordering::Relaxed) == 0 {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock();
            let before = shard.len();
            shard.retain(|_, stamp| *stamp > now);
            self.subjects.fetch_sub(before - shard.len(), Ordering::Relaxed);
        }
    }

    /// Forgets all, for the clock was wrong.
    pub(super) fn clear(&self) {
        self.prune(Timestamp::MAX);
        self.latest.store(0, Ordering::SeqCst);
        self.others.store(0, Ordering::SeqCst);
    }

    /// Those that the clock has not passed, if they are no more than `most`; and the latest of the others.
    pub(super) fn standing(&self, now: Timestamp, most: usize) -> (Vec<(Locator, Timestamp)>, Option<Timestamp>) {
        let others = Some(Timestamp::from_nanos(self.others.load(Ordering::SeqCst))).filter(|stamp| *stamp > now);
        if self.latest() <= now {
            return (Vec::new(), None);
        }
        let mut standing = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            standing.extend(shard.iter().filter(|(_, stamp)| **stamp > now).map(|(subject, stamp)| (*subject, *stamp)));
            if standing.len() > most {
                return (Vec::new(), Some(self.latest()));
            }
        }
        standing.sort_unstable();
        (standing, others)
    }
}

impl fmt::Debug for Stamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stamps").field("subjects", &self.subjects).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn each_subject_has_its_own_stamp_until_the_clock_has_passed_it() {
        let stamps = Stamps::new();
        let [alice, bob] = [1, 17].map(Locator::from_u64);
        stamps.note(alice, at(5));
        stamps.note(bob, at(7));
        stamps.note(alice, at(4));
        assert_eq!((stamps.of(alice), stamps.of(bob), stamps.latest()), (at(5), at(7), at(7)));
        assert_eq!(stamps.standing(at(0), 8), (vec![(alice, at(5)), (bob, at(7))], None));
        assert_eq!(stamps.standing(at(5), 8), (vec![(bob, at(7))], None));
        assert_eq!(stamps.standing(at(0), 1), (vec![], Some(at(7))), "too many to be told one by one");
        stamps.prune(at(5));
        assert_eq!((stamps.of(alice), stamps.of(bob)), (Timestamp::MIN, at(7)));
        stamps.prune(at(7));
        assert_eq!((stamps.of(bob), stamps.standing(at(7), 8)), (Timestamp::MIN, (vec![], None)));
    }

    #[test]
    fn more_subjects_than_there_is_room_for_share_a_stamp() {
        let stamps = Stamps::new();
        for subject in 0..SUBJECTS_MAX as u64 {
            stamps.note(Locator::from_u64(subject), at(5));
        }
        assert_eq!(stamps.of(Locator::from_u64(u64::MAX)), Timestamp::MIN);
        stamps.note(Locator::from_u64(u64::MAX), at(6));
        assert_eq!((stamps.of(Locator::from_u64(u64::MAX)), stamps.of(Locator::from_u64(1))), (at(6), at(6)));
        stamps.prune(at(5));
        stamps.note(Locator::from_u64(u64::MAX), at(9));
        assert_eq!((stamps.of(Locator::from_u64(u64::MAX)), stamps.of(Locator::from_u64(1))), (at(9), at(6)));
    }
}
