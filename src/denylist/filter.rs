//! A blocked Bloom filter that only ever says "certainly absent", and can be rebuilt while it is read.
//!
//! One 64-bit word per key, four bits of it, about sixteen bits a key: one load per question. Bits are never cleared in
//! a filter that is in use. To forget, or to grow, a second filter is filled beside the first and takes its place.
//!
//! # How a reader never sees a false "absent"
//!
//! All generations live in slots that are never freed, two per size (an even and an odd one), so that nothing needs to
//! be reclaimed. `state` names the slot in use, the slot being filled, and counts switches. A reader loads the state,
//! then the word, then the state again behind an acquire fence. The words of a slot are cleared only after `state` has
//! stopped naming it, with a release fence between: a reader that loaded a cleared word sees another state, and answers
//! "maybe".
//!
//! An insertion comes after the insertion into the table, and sets bits in the slot in use and in the one being filled.
//! A rebuild names the new slot first and walks the table second. Whatever key the walk misses was put into the table
//! after the walk had passed its shard, so its insertion (ordered by the shard's lock) sees the new slot named.

use std::sync::OnceLock;

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::model::Locator;

/// Sizes are powers of two, from 2^10 words (8 KiB, made for 4,096 keys) on.
const SIZE_LOG2_MIN: u32 = if cfg!(all(test, loom)) { 0 } else { 10 };
/// The largest has 2^32 words (32 GiB): enough for 17 billion keys.
const SIZE_LOG2_MAX: u32 = 32;
const SLOTS: usize = (2 * (SIZE_LOG2_MAX - SIZE_LOG2_MIN + 1) as usize).next_power_of_two();
const BITS_PER_KEY: u64 = 16;
/// In the state: no slot is being filled.
const NONE: u64 = 0xff;

/// The filter.
pub(super) struct Filter {
    /// Bits 0..8: the slot in use. Bits 8..16: the slot being filled, or [`NONE`]. The rest counts changes.
    state: AtomicU64,
    slots: [OnceLock<Box<[AtomicU64]>>; SLOTS],
}

#[derive(Clone, Copy)]
struct State(u64);

impl State {
    const fn active(self) -> usize {
        (self.0 & 0xff) as usize % SLOTS
    }

    const fn filling(self) -> Option<usize> {
        let slot = (self.0 >> 8) & 0xff;
        if slot == NONE { None } else { Some(slot as usize) }
    }

    const fn next(self, active: usize, filling: Option<usize>) -> Self {
        let count = (self.0 >> 16).wrapping_add(1);
        let filling = match filling {
            Some(slot) => slot as u64,
            None => NONE,
        };
        Self(count << 16 | filling << 8 | active as u64)
    }
}

/// The four bits of a locator within its word, from its lower half.
#[inline]
const fn bits(locator: u64) -> u64 {
    1 << (locator & 63) | 1 << (locator >> 6 & 63) | 1 << (locator >> 12 & 63) | 1 << (locator >> 18 & 63)
}

/// Which word: by the upper half, so that it does not depend on the bits, and that keys in the order of their locators
/// meet words in the order of their addresses.
#[inline]
fn word(words: &[AtomicU64], locator: u64) -> Option<&AtomicU64> {
    // There are a power of two of them, 2^32 at most.
    let shift = 32_u32.wrapping_sub(words.len().trailing_zeros());
    words.get(((locator >> 32) as usize).wrapping_shr(shift))
}

/// The filter at one moment, for any number of questions.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    filter: &'a Filter,
    state: u64,
    words: &'a [AtomicU64],
}

impl View<'_> {
    /// Whether a key may be present. `false` is certain if the view [is current](Self::is_current) *afterwards*.
    #[inline]
    pub(crate) fn may_contain(&self, locator: Locator) -> bool {
        self.missing(locator) == 0
    }

    /// The bits of a key that are not set: with none missing, the key [may be present](Self::may_contain).
    #[inline]
    pub(crate) fn missing(&self, locator: Locator) -> u64 {
        let locator = locator.as_u64();
        let found = word(self.words, locator).map_or(u64::MAX, |word| word.load(Ordering::Relaxed));
        bits(locator) & !found
    }

    /// Whether the filter has not been switched since the view was taken.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        fence(Ordering::Acquire);
        self.filter.state.load(Ordering::Relaxed) == self.state
    }
}

/// The size class for a number of keys.
fn size_for(keys: usize) -> u32 {
    let words = (keys as u64).saturating_mul(BITS_PER_KEY).div_ceil(64).next_power_of_two();
    words.trailing_zeros().clamp(SIZE_LOG2_MIN, SIZE_LOG2_MAX)
}

impl Filter {
    pub(super) fn new() -> Self {
        let filter = Self { state: AtomicU64::new(NONE << 8), slots: [const { OnceLock::new() }; SLOTS] };
        filter.words(0);
        filter
    }

    /// The words of a slot, made on first use.
    fn words(&self, slot: usize) -> &[AtomicU64] {
        let Some(cell) = self.slots.get(slot) else { return &[] };
        cell.get_or_init(|| {
            let words = 1_usize << (SIZE_LOG2_MIN + slot as u32 / 2);
            std::iter::repeat_with(AtomicU64::default).take(words).collect()
        })
    }

    /// The filter as it is now.
    #[inline]
    pub(super) fn view(&self) -> View<'_> {
        let state = self.state.load(Ordering::Acquire);
        let words = self.slots.get(State(state).active()).and_then(OnceLock::get);
        View { filter: self, state, words: words.map_or(&[], |words| &**words) }
    }

    /// Whether a key may be present. `false` is certain.
    #[cfg(test)]
    fn may_contain(&self, locator: Locator) -> bool {
        let view = self.view();
        view.may_contain(locator) || !view.is_current()
    }

    /// Adds a key, which must be in the table already.
    pub(super) fn insert(&self, locator: Locator) {
        let locator = locator.as_u64();
        let state = State(self.state.load(Ordering::Acquire));
        for slot in [Some(state.active()), state.filling()].into_iter().flatten() {
            if let Some(word) = word(self.words(slot), locator) {
                word.fetch_or(bits(locator), Ordering::Release);
            }
        }
    }

    /// How many keys the filter in use is made for.
    pub(super) fn capacity(&self) -> usize {
        let words = self.words(State(self.state.load(Ordering::Acquire)).active()).len() as u64;
        usize::try_from(words * 64 / BITS_PER_KEY).unwrap_or(usize::MAX)
    }

    /// Memory of all generations in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.slots.iter().filter_map(OnceLock::get).map(|words| words.len() * 8).sum()
    }

    /// Fills a new filter made for `keys` keys and puts it into use. Only one thread may rebuild at a time; `fill` adds
    /// every key of the table, from as many threads as it likes.
    pub(super) fn rebuild(&self, keys: usize, fill: impl FnOnce(Filling<'_>)) {
        let state = State(self.state.load(Ordering::Acquire));
        let pair = (size_for(keys) - SIZE_LOG2_MIN) as usize * 2;
        let slot = if state.active() == pair { pair + 1 } else { pair };
        let words = self.words(slot);
        fence(Ordering::Release);
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        let filling = state.next(state.active(), Some(slot));
        self.state.store(filling.0, Ordering::Release);
        fill(Filling(words));
        self.state.store(filling.next(slot, None).0, Ordering::Release);
    }
}

/// A filter that is being filled.
#[derive(Clone, Copy)]
pub(super) struct Filling<'a>(&'a [AtomicU64]);

impl Filling<'_> {
    /// Adds every key that `walk` gives.
    pub(super) fn add(self, walk: impl FnOnce(&mut dyn FnMut(Locator))) {
        let set = |(word, bits): (Option<&AtomicU64>, u64)| {
            if let Some(word) = word {
                word.fetch_or(bits, Ordering::Relaxed);
            }
        };
        // Keys that share a word come one after another where the walk is in the order of their locators.
        let mut pending: (Option<&AtomicU64>, u64) = (None, 0);
        walk(&mut |locator| {
            let locator = locator.as_u64();
            let word = word(self.0, locator);
            if let (Some(last), Some(word)) = (pending.0, word)
                && std::ptr::eq(last, word)
            {
                pending.1 |= bits(locator);
            } else {
                set(std::mem::replace(&mut pending, (word, bits(locator))));
            }
        });
        set(pending);
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// Every order of loads and stores that the memory model allows: `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`.
#[cfg(all(test, loom))]
mod loom_models {
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::*;

    const KEY: Locator = Locator::from_u64(0x1234_5678_9abc_def0);

    #[test]
    fn loom_a_reader_never_misses_a_key_that_was_there_all_along() {
        loom::model(|| {
            let filter = Arc::new(Filter::new());
            filter.insert(KEY);
            let rebuilder = {
                let filter = Arc::clone(&filter);
                // Twice, so that the slot in which the reader may have begun is cleared under it.
                thread::spawn(move || (0..2).for_each(|_| filter.rebuild(1, |filling| filling.add(|add| add(KEY)))))
            };
            assert!(filter.may_contain(KEY));
            rebuilder.join().unwrap();
            assert!(filter.may_contain(KEY));
        });
    }

    #[test]
    fn loom_an_insertion_during_a_rebuild_is_not_lost() {
        loom::model(|| {
            let filter = Arc::new(Filter::new());
            // The table, as one shard under its lock.
            let table = Arc::new(Mutex::new(false));
            let writer = {
                let (filter, table) = (Arc::clone(&filter), Arc::clone(&table));
                thread::spawn(move || {
                    *table.lock().unwrap() = true;
                    filter.insert(KEY);
                })
            };
            filter.rebuild(1, |filling| {
                if *table.lock().unwrap() {
                    filling.add(|add| add(KEY));
                }
            });
            writer.join().unwrap();
            assert!(filter.may_contain(KEY));
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn locator(n: u64) -> Locator {
        Locator::from_u64(
            n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9),
        )
    }

    #[test]
    fn what_was_inserted_may_be_present_and_most_else_is_absent() {
        let filter = Filter::new();
        filter.rebuild(10_000, |_| {});
        for n in 0..10_000 {
            filter.insert(locator(n));
        }
        assert!((0..10_000).all(|n| filter.may_contain(locator(n))));
        let false_positives = (10_000..110_000).filter(|n| filter.may_contain(locator(*n))).count();
        assert!(false_positives < 2_000, "{false_positives} of 100,000");
    }

    #[test]
    fn what_is_inserted_during_a_rebuild_is_in_what_comes_of_it() {
        let filter = Filter::new();
        for keys in [1, 100_000, 1] {
            filter.rebuild(keys, |_| filter.insert(locator(keys as u64)));
            assert!(filter.may_contain(locator(keys as u64)));
        }
    }

    #[test]
    fn a_rebuild_forgets_what_is_gone() {
        let filter = Filter::new();
        for n in 0..100 {
            filter.insert(locator(n));
        }
        filter.rebuild(50, |filling| filling.add(|add| (0..50).for_each(|n| add(locator(n)))));
        assert!((0..50).all(|n| filter.may_contain(locator(n))));
        assert!((50..100).filter(|n| filter.may_contain(locator(*n))).count() < 10);
    }

    #[test]
    fn readers_never_miss_a_key_while_filters_are_rebuilt() {
        let filter = Filter::new();
        for n in 0..500 {
            filter.insert(locator(n));
        }
        let (done, checks) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!((0..500).all(|n| filter.may_contain(locator(n))));
                    checks.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut rounds = 0;
            // On a busy machine the reader gets its turn late.
            while rounds < 2_000 || checks.load(Ordering::Relaxed) < 100 && !reader.is_finished() {
                let keys = if rounds % 2 == 0 { 500 } else { 5_000 };
                filter.rebuild(keys, |filling| filling.add(|add| (0..500).for_each(|n| add(locator(n)))));
                rounds += 1;
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().is_ok());
        });
    }
}
