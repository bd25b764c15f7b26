//! How much is known of what each replica has issued.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::NodeId;
use super::message::Known;

/// How many deltas are remembered that came before those they follow.
const PENDING_MAX: usize = 1024;

/// What is known of one replica's deltas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Origin {
    incarnation: u64,
    /// All up to this delta is held; none if it is not known what was issued before this incarnation.
    reached: Option<u64>,
    /// Whether something in these was refused: then others cannot rely on it that whoever holds the same holds all.
    is_partial: bool,
    /// Deltas that are held after a gap.
    pending: BTreeSet<u64>,
    /// All that had been issued at this time is held.
    heard: Option<Duration>,
}

impl Origin {
    /// Tells whether the incarnation is the latest.
    fn enter(&mut self, incarnation: u64) -> bool {
        if incarnation > self.incarnation {
            // What was issued before, and what has become of it, only a comparison tells.
            *self = Self { incarnation, heard: self.heard, ..Self::default() };
        }
        incarnation == self.incarnation
    }

    fn close_gap(&mut self) {
        let Some(mut reached) = self.reached else { return };
        while let Some(first) = self.pending.first().copied().filter(|first| *first <= reached + 1) {
            self.pending.remove(&first);
            reached = reached.max(first);
        }
        self.reached = Some(reached);
    }
}

/// What is known of every replica's deltas.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(BTreeMap<NodeId, Origin>);

impl Origins {
    /// Whether a delta is held, as far as is remembered.
    pub(super) fn holds(&self, origin: NodeId, incarnation: u64, sequence: u64) -> bool {
        self.0.get(&origin).is_some_and(|known| {
            incarnation < known.incarnation
                || incarnation == known.incarnation
                    && (known.reached.is_some_and(|reached| sequence <= reached) || known.pending.contains(&sequence))
        })
    }

    /// A delta is held, but for what was refused in it.
    pub(super) fn delivered(&mut self, origin: NodeId, incarnation: u64, sequence: u64, is_partial: bool) {
        let known = self.0.entry(origin).or_default();
        if known.enter(incarnation) && known.pending.len() < PENDING_MAX {
            known.is_partial |= is_partial;
            known.pending.insert(sequence);
            known.close_gap();
        }
    }

    /// All up to a delta is held.
    pub(super) fn reach(&mut self, origin: NodeId, incarnation: u64, sequence: u64) {
        let known = self.0.entry(origin).or_default();
        if known.enter(incarnation) {
            if known.reached <= Some(sequence) {
                known.is_partial = false;
            }
            known.reached = known.reached.max(Some(sequence));
            known.close_gap();
        }
    }

    /// At a time, a replica had issued no more than this: if that is held, so is all that had been issued then.
    pub(super) fn hear(&mut self, origin: NodeId, incarnation: u64, sequence: u64, at: Duration) {
        if let Some(known) = self.0.get_mut(&origin)
            && known.incarnation == incarnation
            && known.reached >= Some(sequence)
        {
            known.heard = known.heard.max(Some(at));
        }
    }

    /// The time of which all is held that a replica had issued.
    pub(super) fn heard(&self, origin: NodeId) -> Option<Duration> {
        self.0.get(&origin)?.heard
    }

    /// Whether more is known to have been issued than is held.
    pub(super) fn lacks(&self, origin: NodeId, incarnation: u64, sequence: u64) -> bool {
        self.0.get(&origin).is_none_or(|known| {
            known.incarnation < incarnation || known.incarnation == incarnation && known.reached < Some(sequence)
        })
    }

    /// Up to which delta of which incarnation all is held.
    pub(super) fn reached(&self, origin: NodeId) -> Option<(u64, u64)> {
        let known = self.0.get(&origin)?;
        known.reached.map(|reached| (known.incarnation, reached))
    }

    /// The latest incarnation of a replica that is known of.
    pub(super) fn incarnation(&self, origin: NodeId) -> Option<u64> {
        self.0.get(&origin).map(|known| known.incarnation)
    }

    /// What is said of these in a heartbeat.
    pub(super) fn known(&self, origins: &[NodeId], now: Duration) -> Vec<Known> {
        let known = origins.iter().filter_map(|origin| {
            let known = self.0.get(origin)?;
            let heard = now.saturating_sub(known.heard?);
            let age = u64::try_from(heard.as_nanos()).unwrap_or(u64::MAX);
            let (incarnation, is_partial) = (known.incarnation, known.is_partial);
            Some(Known { origin: *origin, incarnation, sequence: known.reached?, age, is_partial })
        });
        known.take(super::message::ORIGINS_MAX).collect()
    }

    /// Keeps only these.
    pub(super) fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.0.retain(|origin, _| keep(origin));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId::from_bytes([1; 16]);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_gap_is_closed_by_what_comes_late() {
        let mut origins = Origins::default();
        origins.reach(A, 5, 0);
        for sequence in [1, 3, 4, 6] {
            origins.delivered(A, 5, sequence, false);
        }
        assert_eq!(origins.reached(A), Some((5, 1)));
        assert!(origins.holds(A, 5, 4) && !origins.holds(A, 5, 2) && !origins.holds(A, 5, 5));
        origins.delivered(A, 5, 2, false);
        assert_eq!(origins.reached(A), Some((5, 4)));
        origins.reach(A, 5, 5);
        assert_eq!(origins.reached(A), Some((5, 6)), "what was there already counts");
        origins.reach(A, 5, 2);
        assert_eq!(origins.reached(A), Some((5, 6)), "and nothing is taken back");
    }

    #[test]
    fn a_new_incarnation_is_compared_before_it_counts() {
        let mut origins = Origins::default();
        origins.delivered(A, 5, 1, false);
        assert_eq!(origins.reached(A), None, "nobody knows what was before");
        origins.reach(A, 5, 1);
        origins.hear(A, 5, 1, secs(3));
        assert_eq!(origins.heard(A), Some(secs(3)));
        origins.hear(A, 5, 2, secs(4));
        assert_eq!(origins.heard(A), Some(secs(3)), "the second is missing");
        origins.delivered(A, 9, 1, false);
        origins.hear(A, 9, 1, secs(5));
        assert_eq!((origins.reached(A), origins.heard(A)), (None, Some(secs(3))));
        origins.delivered(A, 5, 2, false);
        origins.reach(A, 5, 7);
        assert_eq!(origins.reached(A), None, "what is late from before changes nothing");
        origins.reach(A, 9, 0);
        assert_eq!(origins.reached(A), Some((9, 1)));
        assert!(
            origins.lacks(A, 9, 2) && !origins.lacks(A, 9, 1) && !origins.lacks(A, 5, 9) && origins.lacks(A, 10, 0)
        );
    }

    #[test]
    fn what_was_refused_is_told_until_all_is_held() {
        let mut origins = Origins::default();
        let is_partial = |origins: &Origins| origins.known(&[A], secs(9))[0].is_partial;
        origins.reach(A, 5, 0);
        origins.hear(A, 5, 0, secs(1));
        origins.delivered(A, 5, 1, false);
        assert!(!is_partial(&origins));
        origins.delivered(A, 5, 2, true);
        origins.delivered(A, 5, 3, false);
        assert!(is_partial(&origins));
        origins.reach(A, 5, 2);
        assert!(is_partial(&origins), "who holds less than this does not tell");
        origins.reach(A, 5, 3);
        assert!(!is_partial(&origins));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut origins = Origins::default();
        origins.reach(A, 1, 0);
        (2..10_000).for_each(|sequence| origins.delivered(A, 1, sequence, false));
        assert!(origins.0[&A].pending.len() <= PENDING_MAX);
    }
}
