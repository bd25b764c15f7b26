//! What was published lately, or could not be yet.

use std::collections::VecDeque;
use std::sync::Arc;

/// How many bytes are kept.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// For how many ticks what was published is kept.
const TICKS_KEPT: u64 = 120;

/// What is kept so that it can be published, or published again where a server has lost it.
#[derive(Default)]
pub(super) struct Outbox {
    /// The oldest first. Those that have been published come before those that have not.
    kept: VecDeque<Kept>,
    published: usize,
    bytes: usize,
    tick: u64,
}

struct Kept {
    bytes: Arc<[u8]>,
    /// When it was published last.
    tick: u64,
}

impl Outbox {
    /// Keeps one more, and gives up the oldest where there is no room; how many of those had not been published.
    pub(super) fn push(&mut self, bytes: Arc<[u8]>) -> u64 {
        self.bytes += bytes.len();
        self.kept.push_back(Kept { bytes, tick: self.tick });
        let mut lost = 0;
        while self.bytes > BYTES_MAX {
            lost += u64::from(self.published == 0);
            self.forget_oldest();
        }
        lost
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.bytes -= oldest.bytes.len();
            self.published = self.published.saturating_sub(1);
        }
    }

    /// What has not been published, up to so many bytes, or one.
    pub(super) fn next(&self, bytes_max: usize) -> impl Iterator<Item = &[u8]> {
        let mut bytes = 0;
        self.kept.range(self.published..).map(|kept| &*kept.bytes).enumerate().map_while(move |(index, next)| {
            bytes += next.len();
            (index == 0 || bytes <= bytes_max).then_some(next)
        })
    }

    pub(super) fn has_next(&self) -> bool {
        self.published < self.kept.len()
    }

    /// So many more have been published.
    pub(super) fn published(&mut self, count: usize) {
        let until = self.published.saturating_add(count).min(self.kept.len());
        let tick = self.tick;
        self.kept.range_mut(self.published..until).for_each(|kept| kept.tick = tick);
        self.published = until;
    }

    /// All is to be published again.
    pub(super) fn again(&mut self) {
        self.published = 0;
    }

    /// A second has passed.
    pub(super) fn tick(&mut self) {
        self.tick += 1;
        let tick = self.tick;
        let is_old = |kept: &Kept| kept.tick + TICKS_KEPT < tick;
        while self.published > 0 && self.kept.front().is_some_and(is_old) {
            self.forget_oldest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(byte: u8, length: usize) -> Arc<[u8]> {
        vec![byte; length].into()
    }

    fn next(outbox: &Outbox, bytes_max: usize) -> Vec<u8> {
        outbox.next(bytes_max).map(|bytes| bytes[0]).collect()
    }

    #[test]
    fn it_is_published_in_order_and_again_when_asked_for() {
        let mut outbox = Outbox::default();
        assert!(!outbox.has_next());
        assert_eq!((1..=3).map(|byte| outbox.push(message(byte, 10))).sum::<u64>(), 0);
        assert_eq!(next(&outbox, 20), [1, 2]);
        outbox.published(2);
        assert_eq!(next(&outbox, 5), [3], "one however long it is");
        outbox.published(7);
        assert!(!outbox.has_next());
        outbox.again();
        assert_eq!(next(&outbox, 100), [1, 2, 3]);
    }

    #[test]
    fn the_oldest_is_given_up_and_counted_only_if_it_was_never_published() {
        let mut outbox = Outbox::default();
        for byte in 0..8 {
            assert_eq!(outbox.push(message(byte, BYTES_MAX / 8)), 0);
        }
        outbox.published(2);
        assert_eq!(outbox.push(message(8, BYTES_MAX / 8)), 0);
        assert_eq!(next(&outbox, BYTES_MAX / 8), [2]);
        assert_eq!(outbox.push(message(9, BYTES_MAX / 4)), 1);
        assert_eq!(next(&outbox, BYTES_MAX / 8), [3]);
    }

    #[test]
    fn what_was_published_is_forgotten_in_time_and_what_was_not_is_kept() {
        let mut outbox = Outbox::default();
        outbox.push(message(1, 10));
        outbox.push(message(2, 10));
        (0..TICKS_KEPT * 2).for_each(|_| outbox.tick());
        outbox.published(1);
        outbox.tick();
        outbox.again();
        assert_eq!(next(&outbox, 100), [1, 2], "it was published a second ago");
        outbox.published(1);
        (0..=TICKS_KEPT).for_each(|_| outbox.tick());
        outbox.again();
        assert_eq!(next(&outbox, 100), [2]);
    }
}
