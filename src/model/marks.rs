//! Who decided what about a subject, and which of it is undone: by cause and effect, not by time.
//!
//! Each decision is a *mark* of a *life*, with a number that grows from mark to mark. An undo names, per life, the highest
//! number that its author held. So it takes back what its author had seen and nothing else, whatever the clocks say. The
//! argument is in [`manual::causality`](crate::manual::causality).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// How many lives are remembered of which nothing stands. What is dropped beyond that is an undo: a peer that still holds the
/// mark can bring the denial back, and never an admission.
const UNDONE_LIVES_MAX: usize = 64;

/// One run of one store, from open to close. No two have the same name; later ones have greater names while the clock goes
/// forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Life([u8; 16]);

impl Life {
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A life that began at a time; `tag` tells it from others of the same time.
    pub(crate) fn new(start: Timestamp, tag: u64) -> Self {
        let mut bytes = [0; 16];
        let (head, tail) = bytes.split_at_mut(8);
        head.copy_from_slice(&start.as_nanos().to_be_bytes());
        tail.copy_from_slice(&tag.to_be_bytes());
        Self(bytes)
    }
}

impl Life {
    /// The life in whose name others decide what this one has decided, where they refuse the time that it gave. They all name
    /// it alike, so that they decide once.
    pub(crate) fn substitute(self) -> Self {
        let mut bytes = self.0;
        bytes.iter_mut().skip(8).for_each(|byte| *byte = !*byte);
        Self(bytes)
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Up to which number the marks of each life are undone, in the order of the lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undone(Vec<(Life, Timestamp)>);

impl Undone {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (Life, Timestamp)> {
        self.0.iter().copied()
    }

    /// Whether a mark is undone.
    pub(crate) fn covers(&self, life: Life, number: Timestamp) -> bool {
        let place = self.0.binary_search_by_key(&life, |(life, _)| *life);
        place.ok().and_then(|place| self.0.get(place)).is_some_and(|(_, undone)| number <= *undone)
    }

    /// Undoes the marks of a life up to a number.
    pub(crate) fn raise(&mut self, life: Life, number: Timestamp) {
        match self.0.binary_search_by_key(&life, |(life, _)| *life) {
            Ok(place) => {
                if let Some((_, undone)) = self.0.get_mut(place) {
                    *undone = number.max(*undone);
                }
            }
            Err(place) => self.0.insert(place, (life, number)),
        }
    }

    pub(crate) fn join(&mut self, other: &Self) {
        other.iter().for_each(|(life, number)| self.raise(life, number));
    }

    /// Forgets all but the latest lives.
    pub(crate) fn prune(&mut self) {
        let excess = self.0.len().saturating_sub(UNDONE_LIVES_MAX);
        self.0.drain(..excess);
    }

    /// What of this the other names too: joined in over the other, it undoes nothing more.
    pub(crate) fn within(&self, known: &Self) -> Self {
        let common = self.iter().filter_map(|(life, number)| {
            let place = known.0.binary_search_by_key(&life, |(life, _)| *life).ok()?;
            known.0.get(place).map(|(_, known)| (life, number.min(*known)))
        });
        Self(common.collect())
    }

    /// The highest number in it.
    pub(crate) fn latest(&self) -> Timestamp {
        self.iter().map(|(_, number)| number).max().unwrap_or_default()
    }

    pub(super) fn is_canonical(&self) -> bool {
        self.0.is_sorted_by(|(a, _), (b, _)| a < b)
            && self.0.len() <= UNDONE_LIVES_MAX
            && self.0.iter().all(|(_, number)| *number > Timestamp::MIN)
    }
}

/// What one life last decided, and up to which number that life's decisions are undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record<T> {
    pub(crate) life: Life,
    /// The number of its last mark, and what that says.
    pub(crate) mark: Option<(Timestamp, T)>,
    /// Marks up to this number are undone.
    pub(crate) undone: Timestamp,
}

impl<T> Record<T> {
    /// The mark, if it stands.
    pub(crate) fn standing(&self) -> Option<&(Timestamp, T)> {
        self.mark.as_ref().filter(|(number, _)| *number > self.undone)
    }
}

/// Decisions of which each life has one: its last. In the order of the lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marks<T>(Vec<Record<T>>);

impl<T> Default for Marks<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone + Ord> Marks<T> {
    /// One decision.
    pub(crate) fn one(life: Life, number: Timestamp, what: T) -> Self {
        Self(vec![Record { life, mark: Some((number, what)), undone: Timestamp::MIN }])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Record<T>> {
        self.0.iter()
    }

    /// Every mark that stands, with its life.
    pub(crate) fn standing(&self) -> impl Iterator<Item = (Life, &(Timestamp, T))> {
        self.0.iter().filter_map(|record| Some((record.life, record.standing()?)))
    }

    /// The last mark that stands; of several with one number, the same on every replica.
    pub(crate) fn latest_standing(&self) -> Option<&(Timestamp, T)> {
        self.standing().max_by_key(|(life, (number, what))| (*number, *life, what.clone())).map(|(_, mark)| mark)
    }

    /// Whether any mark stands.
    #[inline]
    pub(crate) fn stand(&self) -> bool {
        self.0.iter().any(|record| record.standing().is_some())
    }

    /// The undoing of all that stands; none if nothing does.
    pub(crate) fn undoing(&self) -> Option<Self> {
        let records = self.standing().map(|(life, (number, _))| Record { life, mark: None, undone: *number });
        let records: Vec<_> = records.collect();
        (!records.is_empty()).then_some(Self(records))
    }

    /// The highest number in it.
    pub(crate) fn latest(&self) -> Timestamp {
        let numbers = |record: &Record<T>| record.mark.as_ref().map_or(Timestamp::MIN, |(number, _)| *number);
        self.0.iter().map(|record| numbers(record).max(record.undone)).max().unwrap_or_default()
    }

    /// Makes this the least that is at least both.
    pub(crate) fn join(&mut self, other: Self) {
        for record in other.0 {
            match self.0.binary_search_by_key(&record.life, |known| known.life) {
                Ok(place) => {
                    if let Some(known) = self.0.get_mut(place) {
                        known.mark = known.mark.take().max(record.mark);
                        known.undone = known.undone.max(record.undone);
                    }
                }
                Err(place) => self.0.insert(place, record),
            }
        }
        self.prune();
    }

    fn prune(&mut self) {
        let gone = |record: &Record<T>| record.standing().is_none();
        let mut excess = self.0.iter().filter(|record| gone(record)).count().saturating_sub(UNDONE_LIVES_MAX);
        self.0.retain(|record| {
            let drops = excess > 0 && gone(record);
            excess -= usize::from(drops);
            !drops
        });
    }

    /// Whether it undoes anything.
    pub(crate) fn undoes(&self) -> bool {
        self.0.iter().any(|record| record.undone > Timestamp::MIN)
    }

    /// The same without what would be undone beyond what is `known`: joined in over that, it un-denies nothing.
    pub(crate) fn without_undoing(&self, known: Option<&Self>) -> Self {
        let undone = |life: Life| {
            let records = known.map(|known| known.0.as_slice()).unwrap_or_default();
            let place = records.binary_search_by_key(&life, |record| record.life).ok();
            place.and_then(|place| records.get(place)).map_or(Timestamp::MIN, |record| record.undone)
        };
        let records =
            self.0.iter().map(|record| Record { undone: record.undone.min(undone(record.life)), ..record.clone() });
        Self(records.filter(|record| record.mark.is_some() || record.undone > Timestamp::MIN).collect())
    }

    pub(super) fn is_canonical(&self) -> bool {
        let says_something = |record: &Record<T>| match &record.mark {
            Some((number, _)) => *number > Timestamp::MIN,
            None => record.undone > Timestamp::MIN,
        };
        let gone = self.0.iter().filter(|record| record.standing().is_none()).count();
        self.0.is_sorted_by(|a, b| a.life < b.life) && self.0.iter().all(says_something) && gone <= UNDONE_LIVES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(number: u8) -> Life {
        Life::from_bytes([number; 16])
    }

    fn at(number: u64) -> Timestamp {
        Timestamp::from_nanos(number)
    }

    #[test]
    fn undo_covers_the_marks_that_its_author_held_and_no_other() {
        let mut author = Marks::one(life(1), at(5), 'a');
        author.join(Marks::one(life(2), at(3), 'b'));
        let undo = author.undoing().unwrap();
        let mut other = author.clone();
        // Made before the undo arrives, by a life whose clock is behind, and by one that the author had not heard of.
        other.join(Marks::one(life(2), at(4), 'c'));
        other.join(Marks::one(life(3), at(1), 'd'));
        other.join(undo);
        let standing: Vec<_> = other.standing().map(|(_, (_, what))| *what).collect();
        assert_eq!(standing, ['c', 'd']);
    }

    #[test]
    fn lives_of_which_nothing_stands_are_bounded_and_standing_marks_are_kept() {
        let mut marks = Marks::one(life(0), at(9), 'a');
        for number in 1..200 {
            let mark = Marks::one(life(number), at(1), 'b');
            marks.join(mark.clone());
            if number > 1 {
                marks.join(mark.undoing().unwrap());
            }
        }
        assert_eq!(marks.standing().count(), 2);
        assert_eq!(marks.iter().len(), 2 + UNDONE_LIVES_MAX);
        assert!(marks.is_canonical());
        let mut undone = Undone::default();
        (0..200).for_each(|number| undone.raise(life(number), at(1)));
        undone.prune();
        assert!(undone.is_canonical() && undone.covers(life(199), at(1)) && !undone.covers(life(0), at(1)));
    }

    #[test]
    fn what_is_left_without_undoing_un_denies_nothing() {
        let known = Marks::one(life(1), at(5), 'a');
        let mut change = known.undoing().unwrap();
        change.join(Marks::one(life(2), at(6), 'b'));
        let mut joined = known.clone();
        joined.join(change.without_undoing(Some(&known)));
        assert_eq!(joined.standing().count(), 2);
        joined.join(change);
        assert_eq!(joined.standing().count(), 1);
    }
}
