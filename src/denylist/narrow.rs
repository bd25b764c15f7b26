//! Tokens, sessions and families: rows of 42 bytes in linear-probing tables that are kept in the order of their locators.
//!
//! A row's place follows from its locator, and rows of a shard stand in the order of their locators. So a table grows,
//! is swept and is written to disk in one pass from front to back, a snapshot loads without a search, and the filter
//! (whose words are ordered by locator too) is filled in the order of its memory.
//!
//! A locator only says where to look. A row is the one that is asked for if its digest and its
//! shape are.
//!
//! Readers share a shard's lock, writers hold it for the length of one insertion: where a shard grows or is swept, its
//! successor is made beside it first. Only one thread may write at a time, which is the caller's to see to.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;

use crate::model::{Digest, Identity, Locator, Retention, Row, Shape, Timestamp};

/// Many small shards: the successor of one is made within a millisecond, even of tens of millions.
pub(super) const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 10;
/// A table is made anew when 92% of it are filled, ...
const FULL: (usize, usize) = (23, 25);
/// ... and is then filled to 85%.
const GROWTH: (usize, usize) = (20, 17);
/// How far the last rows may be pushed beyond the end before a table is made anew.
const OVERHANG_MAX: usize = 32;
/// How many rows may share one locator. More come by design only, and have no place here: they would be searched one by
/// one.
const EQUAL_MAX: usize = 8;

/// The table.
pub(super) struct NarrowTable {
    shards: Box<[Padded]>,
    /// No row may be forgotten before this second.
    earliest: AtomicU32,
}

/// A cache line of its own for each lock.
#[derive(Default)]
#[repr(align(64))]
struct Padded(RwLock<Shard>);

/// Rows by locator: each at its home place or after it, with no gap in between.
#[derive(Debug)]
pub(super) struct Shard {
    /// As many places as there are homes, and the overhang.
    rows: Vec<Row>,
    homes: usize,
    len: usize,
    /// No row may be forgotten before this.
    earliest: Retention,
}

/// There are too many rows of this locator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crowded;

impl Default for Shard {
    fn default() -> Self {
        Self { rows: Vec::new(), homes: 0, len: 0, earliest: Retention::FOR_GOOD }
    }
}

impl Shard {
    /// The table of `len` rows, given in the order of their locators.
    fn build(len: usize, rows: impl Iterator<Item = Row>) -> Self {
        let homes = len * GROWTH.0 / GROWTH.1 + 1;
        let mut shard = Self { rows: Vec::new(), homes, len: 0, earliest: Retention::FOR_GOOD };
        let places = homes + homes.min(OVERHANG_MAX);
        shard.rows.reserve_exact(places);
        for row in rows {
            let home = shard.home(row.locator);
            if home > shard.rows.len() {
                shard.rows.resize(home, Row::VACANT);
            }
            shard.rows.push(row);
            shard.len += 1;
            shard.earliest = shard.earliest.min(row.until);
        }
        shard.rows.resize(places.max(shard.rows.len()), Row::VACANT);
        shard
    }

    /// Where the search for a locator begins.
    #[inline]
    fn home(&self, locator: Locator) -> usize {
        let in_shard = locator.as_u64() << SHARD_BITS;
        ((u128::from(in_shard) * self.homes as u128) >> 64) as usize
    }

    fn occupied(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.is_vacant())
    }

    /// The rows of a locator, with their places.
    #[inline]
    fn rows_of(&self, locator: Locator) -> impl Iterator<Item = (usize, &Row)> {
        let home = self.home(locator);
        let rows = self.rows.get(home..).unwrap_or_default().iter().zip(home..);
        rows.take_while(move |(row, _)| !row.is_vacant() && { row.locator } <= locator)
            .filter(move |(row, _)| { row.locator } == locator)
            .map(|(row, place)| (place, row))
    }

    fn place_of(&self, subject: Identity) -> Option<usize> {
        self.rows_of(subject.locator).find(|(_, row)| row.is_of(subject)).map(|(place, _)| place)
    }

    /// Puts a row that is not there in its place. `false` if there is no room; then nothing has changed.
    fn insert(&mut self, row: Row) -> bool {
        if self.len * FULL.1 >= self.homes * FULL.0 {
            return false;
        }
        let home = self.home(row.locator);
        let Some(rows) = self.rows.get_mut(home..) else { return false };
        // Rows of the same locator stay in the order in which they came.
        let after = |other: &Row| other.is_vacant() || { other.locator } > { row.locator };
        let Some(place) = rows.iter().position(after) else { return false };
        let Some(rows) = rows.get_mut(place..) else { return false };
        let Some(gap) = rows.iter().position(Row::is_vacant) else { return false };
        rows.copy_within(..gap, 1);
        if let Some(first) = rows.first_mut() {
            *first = row;
        }
        self.len += 1;
        self.earliest = self.earliest.min(row.until);
        true
    }

    fn remove(&mut self, place: usize) {
        // What follows moves up, as far as it is not at home.
        let after = place + 1;
        let moved = self.rows.get(after..).unwrap_or_default().iter().zip(after..);
        let moved = moved.take_while(|(row, place)| !row.is_vacant() && self.home(row.locator) < *place).count();
        self.rows.copy_within(after..after + moved, place);
        if let Some(last) = self.rows.get_mut(place + moved) {
            *last = Row::VACANT;
            self.len -= 1;
        }
    }
}

/// Which shard a locator belongs to.
#[inline]
pub(super) const fn shard_of(locator: Locator) -> usize {
    (locator.as_u64() >> (64 - SHARD_BITS)) as usize
}

impl NarrowTable {
    pub(super) fn new() -> Self {
        let shards = std::iter::repeat_with(Padded::default).take(SHARDS).collect();
        Self { shards, earliest: AtomicU32::new(Retention::FOR_GOOD.as_secs()) }
    }

    #[inline]
    fn shard(&self, locator: Locator) -> Option<&RwLock<Shard>> {
        self.shards.get(shard_of(locator)).map(|padded| &padded.0)
    }

    /// The row of a subject. The digest is asked for only where there is a row of that locator.
    #[inline]
    pub(super) fn get(&self, shape: Shape, locator: Locator, digest: impl FnOnce() -> Digest) -> Option<Row> {
        let shard = self.shard(locator)?.read();
        let mut rows = shard.rows_of(locator).map(|(_, row)| row).peekable();
        rows.peek()?;
        let subject = Identity { locator, digest: digest(), shape };
        rows.find(|row| row.is_of(subject)).copied()
    }

    /// Puts a row in the place of the one of its subject, or adds it. Tells whether it was added.
    pub(super) fn put(&self, row: Row) -> Result<bool, Crowded> {
        let (Some(lock), Some(subject)) = (self.shard(row.locator), row.identity()) else { return Err(Crowded) };
        self.earliest.fetch_min({ row.until }.as_secs(), Ordering::Relaxed);
        let mut shard = lock.write();
        if let Some(place) = shard.place_of(subject) {
            if let Some(place) = shard.rows.get_mut(place) {
                *place = row;
            }
            shard.earliest = shard.earliest.min(row.until);
            return Ok(false);
        }
        if shard.rows_of(row.locator).count() >= EQUAL_MAX {
            return Err(Crowded);
        }
        if !shard.insert(row) {
            drop(shard);
            let successor = {
                let shard = lock.read();
                let is_before = |other: &&Row| { other.locator } <= { row.locator };
                let after = shard.occupied().skip_while(is_before);
                let rows = shard.occupied().take_while(is_before).chain([&row]).chain(after);
                Shard::build(shard.len + 1, rows.copied())
            };
            replace(lock, successor);
        }
        Ok(true)
    }

    /// Removes the row of a subject. Tells whether there was one.
    pub(super) fn remove(&self, subject: Identity) -> bool {
        let Some(mut shard) = self.shard(subject.locator).map(RwLock::write) else { return false };
        let place = shard.place_of(subject);
        place.inspect(|place| shard.remove(*place)).is_some()
    }

    /// Copies the rows of one shard, in the order of their locators.
    pub(super) fn rows(&self, shard: usize, out: &mut Vec<Row>) {
        if let Some(shard) = self.shards.get(shard).map(|padded| padded.0.read()) {
            out.reserve(shard.len);
            out.extend(shard.occupied());
        }
    }

    /// Visits the rows with locators in a range, in their order, until `visit` says no.
    pub(super) fn for_each_in(&self, first: Locator, last: Locator, mut visit: impl FnMut(&Row) -> bool) {
        for (index, shard) in
            (shard_of(first)..).zip(self.shards.get(shard_of(first)..=shard_of(last)).unwrap_or_default())
        {
            let shard = shard.0.read();
            // A row is never before its home.
            let start = if index == shard_of(first) { shard.home(first) } else { 0 };
            let rows = shard.rows.get(start..).unwrap_or_default().iter().filter(|row| !row.is_vacant());
            for row in rows.skip_while(|row| { row.locator } < first) {
                if { row.locator } > last || !visit(row) {
                    return;
                }
            }
        }
    }

    /// The locator of every row of these shards, in rising order.
    pub(super) fn for_each_locator(&self, shards: Range<usize>, mut visit: impl FnMut(Locator)) {
        for shard in self.shards.get(shards).unwrap_or_default() {
            shard.0.read().occupied().for_each(|row| visit(row.locator));
        }
    }

    /// Whether there may be rows to be forgotten: most of the time there are none.
    pub(super) fn has_ended(&self, ended: Timestamp) -> bool {
        Retention::from_secs(self.earliest.load(Ordering::Relaxed)).end() < ended
    }

    /// Finds out before when no row may be forgotten.
    pub(super) fn settle(&self) {
        let earliest = self.shards.iter().map(|padded| padded.0.read().earliest).min();
        self.earliest.store(earliest.unwrap_or(Retention::FOR_GOOD).as_secs(), Ordering::Relaxed);
    }

    /// Removes the rows of one shard that may be forgotten before `ended`, and gives them back.
    pub(super) fn forget(&self, shard: usize, ended: Timestamp) -> Vec<Row> {
        let Some(lock) = self.shards.get(shard).map(|padded| &padded.0) else { return Vec::new() };
        let (gone, successor) = {
            let shard = lock.read();
            if shard.earliest.end() >= ended {
                return Vec::new();
            }
            let (gone, kept): (Vec<Row>, Vec<Row>) = shard.occupied().partition(|row| { row.until }.end() < ended);
            (gone, Shard::build(kept.len(), kept.into_iter()))
        };
        replace(lock, successor);
        gone
    }

    /// Puts a table of one shard in its place, if there is nothing there yet.
    pub(super) fn adopt(&self, shard: usize, table: Shard) -> bool {
        let Some(mut shard) = self.shards.get(shard).map(|padded| padded.0.write()) else { return false };
        let is_empty = shard.len == 0;
        if is_empty {
            self.earliest.fetch_min(table.earliest.as_secs(), Ordering::Relaxed);
            *shard = table;
        }
        is_empty
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        let rows = |padded: &Padded| padded.0.read().rows.capacity() * size_of::<Row>();
        self.shards.iter().map(rows).sum::<usize>() + self.shards.len() * size_of::<Padded>()
    }
}

/// The table of rows of one shard; none if they are not in the order of their locators, or not all different.
pub(super) fn table_of(rows: &[Row]) -> Option<Shard> {
    let in_order = rows.is_sorted_by(|a, b| { a.locator } <= { b.locator });
    let of_one_locator = |rows: &[Row]| {
        let different =
            |(index, row): (usize, &Row)| rows.iter().skip(index + 1).all(|other| other.identity() != row.identity());
        rows.len() <= EQUAL_MAX && rows.iter().enumerate().all(different)
    };
    let sound = in_order && rows.chunk_by(|a, b| { a.locator } == { b.locator }).all(of_one_locator);
    sound.then(|| Shard::build(rows.len(), rows.iter().copied()))
}

/// The old table is freed after the lock is.
fn replace(lock: &RwLock<Shard>, successor: Shard) {
    let old = std::mem::replace(&mut *lock.write(), successor);
    drop(old);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{EntryCause, Kind, Life, NarrowEntry};

    fn digest(n: u64) -> Digest {
        Digest::from_bytes(u128::from(n).to_le_bytes())
    }

    const SHAPE: Shape = Shape::of(Kind::Token, 0);

    fn identity(locator: u64, digest_of: u64) -> Identity {
        Identity { locator: Locator::from_u64(locator), digest: digest(digest_of), shape: SHAPE }
    }

    fn row(locator: u64, digest_of: u64, until: u32) -> Row {
        let (at, until) = (Timestamp::from_nanos(1), Retention::from_secs(until));
        let entry = NarrowEntry::denied(Life::from_bytes([1; 16]), at, EntryCause::default(), until);
        Row::of(identity(locator, digest_of), &entry, 0).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put { locator: u64, digest: u64, until: u32 },
        Remove { locator: u64, digest: u64 },
        Forget { ended: u64 },
    }

    /// Locators that crowd: few shards, few homes, many equal, and the very last home of a shard.
    fn locators() -> impl Strategy<Value = u64> {
        let clustered = (0_u64..3, 0_u64..40).prop_map(|(shard, n)| shard << 54 | n << 49);
        let last = (0_u64..40).prop_map(|n| (1 << 54) - 1 - n);
        prop_oneof![4 => clustered, 2 => last, 1 => any::<u64>()]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let put = (locators(), 0_u64..12, 0_u32..100);
        let step = prop_oneof![
            12 => put.prop_map(|(locator, digest, until)| Step::Put { locator, digest, until }),
            3 => (locators(), 0_u64..12).prop_map(|(locator, digest)| Step::Remove { locator, digest }),
            1 => (0_u64..30).prop_map(|ended| Step::Forget { ended }),
        ];
        proptest::collection::vec(step, 0..400)
    }

    fn assert_sound(table: &NarrowTable) {
        for (index, shard) in table.shards.iter().enumerate() {
            let shard = shard.0.read();
            assert_eq!(shard.occupied().count(), shard.len);
            let occupied: Vec<_> = shard.rows.iter().enumerate().filter(|(_, row)| !row.is_vacant()).collect();
            assert!(occupied.is_sorted_by_key(|(_, row)| { row.locator }));
            for (place, row) in occupied {
                let home = shard.home(row.locator);
                assert!(home <= place && shard.rows[home..place].iter().all(|row| !row.is_vacant()), "a gap");
                assert_eq!(shard_of(row.locator), index);
                assert!(shard.earliest <= { row.until });
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn it_holds_what_a_map_holds(steps in steps()) {
            let table = NarrowTable::new();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put { locator, digest, until } => {
                        let of_locator = model.range((locator, 0)..=(locator, u64::MAX)).count();
                        let is_known = model.contains_key(&(locator, digest));
                        let expected = if !is_known && of_locator >= EQUAL_MAX { Err(Crowded) } else { Ok(!is_known) };
                        prop_assert_eq!(table.put(row(locator, digest, until)), expected);
                        if expected.is_ok() {
                            model.insert((locator, digest), until);
                        }
                    }
                    Step::Remove { locator, digest: of } => {
                        let removed = table.remove(identity(locator, of));
                        prop_assert_eq!(removed, model.remove(&(locator, of)).is_some());
                    }
                    Step::Forget { ended } => {
                        let mut gone = 0;
                        (0..SHARDS).for_each(|shard| gone += table.forget(shard, Timestamp::from_secs(ended)).len());
                        let before = model.len();
                        model.retain(|_, until| u64::from(*until) >= ended);
                        prop_assert_eq!(gone, before - model.len());
                    }
                }
            }
            assert_sound(&table);
            for (&(locator, of), &until) in &model {
                let found = table.get(SHAPE, Locator::from_u64(locator), || digest(of)).unwrap();
                prop_assert_eq!({ found.until }, Retention::from_secs(until));
                prop_assert!(table.get(SHAPE, Locator::from_u64(locator), || digest(99)).is_none());
            }
            let mut rows = Vec::new();
            (0..SHARDS).for_each(|shard| table.rows(shard, &mut rows));
            prop_assert_eq!(rows.len(), model.len());
            let is_sorted = rows.is_sorted_by_key(|row| { row.locator });
            prop_assert!(is_sorted);
            let loaded = NarrowTable::new();
            for rows in rows.chunk_by(|a, b| shard_of(a.locator) == shard_of(b.locator)) {
                let shard = shard_of(rows[0].locator);
                prop_assert!(loaded.adopt(shard, table_of(rows).unwrap()));
                prop_assert!(!loaded.adopt(shard, table_of(rows).unwrap()), "it is taken");
            }
            assert_sound(&loaded);
            let mut again = Vec::new();
            (0..SHARDS).for_each(|shard| loaded.rows(shard, &mut again));
            prop_assert_eq!(again, rows);
        }
    }

    #[test]
    fn rows_that_are_not_in_order_or_twice_make_no_table() {
        let (a, b) = (row(1 << 20, 1, 0), row(2 << 20, 2, 0));
        assert!(table_of(&[a, b]).is_some());
        assert!(table_of(&[b, a]).is_none());
        assert!(table_of(&[a, a]).is_none());
        let equal: Vec<Row> = (0..9).map(|n| row(1 << 20, n, 0)).collect();
        assert!(table_of(&equal[..8]).is_some());
        assert!(table_of(&equal).is_none());
    }

    #[test]
    fn a_row_takes_42_bytes() {
        assert_eq!(size_of::<Row>(), 42);
    }
}
