//! What peers say of their clocks and of their limits, and what follows for ours.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::Timestamp;
use crate::replication::{Hearsay, NodeId, Told};
use crate::sync::Mutex;

use super::belief::Time;

/// What each peer said last.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<BTreeMap<NodeId, Said>>);

#[derive(Clone, Copy, Debug)]
struct Said {
    wall: Timestamp,
    at: Duration,
    limits: Told,
}

/// How the clocks of peers stand to ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Votes {
    agree: usize,
    ahead: usize,
    behind: usize,
}

impl Votes {
    /// Ours counts, too.
    fn all(self) -> usize {
        1 + self.agree + self.ahead + self.behind
    }

    /// Whether a majority, with ours, agrees.
    fn is_confirmed(self) -> bool {
        2 * (1 + self.agree) > self.all()
    }

    /// Whether a majority agrees with ours, and others are among it.
    pub(super) fn is_confirmed_by_others(self) -> bool {
        self.is_confirmed() && self.agree > 0
    }

    /// Whether most are on one side of us.
    pub(super) fn is_outvoted(self) -> bool {
        2 * self.ahead.max(self.behind) > self.all()
    }
}

impl Peers {
    /// Takes in what a peer says, and tells whether its limits are news.
    pub(super) fn hear(&self, peer: NodeId, told: &Hearsay) -> bool {
        let said = Said { wall: told.wall, at: told.at, limits: told.limits };
        let before = self.0.lock().insert(peer, said);
        before.is_none_or(|before| before.limits != told.limits)
    }

    /// Forgets those that are no peers any more.
    pub(super) fn retain(&self, is_peer: impl Fn(NodeId) -> bool) {
        self.0.lock().retain(|node, _| is_peer(*node));
    }

    /// The longest leeway that any of them has told of.
    pub(super) fn longest_leeway(&self) -> Duration {
        let longest = self.0.lock().values().map(|said| said.limits.leeway).max();
        Duration::from_nanos(longest.unwrap_or_default())
    }

    /// What the clock of a peer shows now, and its limits.
    pub(super) fn of(&self, peer: NodeId, now: Duration) -> Option<(Timestamp, Told)> {
        let said = *self.0.lock().get(&peer)?;
        Some((said.wall.saturating_add(now.saturating_sub(said.at)), said.limits))
    }

    /// Adds the clocks of those that were heard within a window to what is believed, and tells how they stand to ours.
    ///
    /// A clock within the skew is believed. Of those beyond it, as long as no majority agrees with ours, nobody can say which
    /// is right: then the time is in doubt.
    pub(super) fn weigh(&self, time: &mut Time, skew: Duration, now: Duration, window: Duration) -> Votes {
        let said = self.0.lock();
        let recent = || said.values().filter(|said| now.saturating_sub(said.at) <= window);
        let walls = || recent().map(|said| said.wall.saturating_add(now.saturating_sub(said.at)));
        let (earliest, latest) = (time.wall.saturating_sub(skew), time.wall.saturating_add(skew));
        let mut votes = Votes::default();
        for wall in walls() {
            match wall {
                ahead if ahead > latest => votes.ahead += 1,
                behind if behind < earliest => votes.behind += 1,
                _ => votes.agree += 1,
            }
        }
        let is_confirmed = votes.is_confirmed();
        for wall in walls().filter(|wall| *wall <= latest || !is_confirmed) {
            time.hear(wall);
        }
        if !is_confirmed && votes.ahead + votes.behind > 0 {
            time.dispute();
        }
        votes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Bin;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const SKEW: Duration = Duration::from_secs(60);
    const WINDOW: Duration = Duration::from_secs(10);

    fn hearsay(wall: Timestamp) -> Hearsay {
        let horizon = Bin::of(Timestamp::MIN);
        Hearsay {
            wall,
            at: Duration::ZERO,
            believed: wall,
            lines: Vec::new(),
            stamps: Default::default(),
            limits: Told::default(),
            horizon,
        }
    }

    /// What follows from peers whose clocks are off by so many seconds: whether the time is in doubt, whether ours is
    /// outvoted, and by how many seconds the believed time is ahead.
    fn weigh(offsets: &[i64]) -> (bool, bool, u64) {
        let peers = Peers::default();
        for (number, offset) in (0..).zip(offsets) {
            let by = Duration::from_secs(offset.unsigned_abs());
            let wall = if *offset < 0 { NOW.saturating_sub(by) } else { NOW.saturating_add(by) };
            let told = hearsay(wall);
            peers.hear(NodeId::from_bytes([number; 16]), &told);
        }
        let mut time = Time::new(NOW, NOW, SKEW);
        let is_outvoted = peers.weigh(&mut time, SKEW, Duration::ZERO, WINDOW).is_outvoted();
        (time.is_in_doubt(), is_outvoted, time.believed.saturating_since(NOW).as_secs())
    }

    #[test]
    fn clocks_within_the_skew_are_believed_and_a_majority_decides_beyond_it() {
        assert_eq!(weigh(&[]), (false, false, 0));
        assert_eq!(weigh(&[50, -50]), (false, false, 50));
        // One against one: nobody can say.
        for off in [600, -600] {
            assert_eq!(weigh(&[off]), (true, false, 0));
            assert_eq!(weigh(&[off, 5]), (false, false, 5), "two against one");
            assert_eq!(weigh(&[off, off]), (true, true, 0), "one against two");
            assert_eq!(weigh(&[off, off, 0]), (true, false, 0), "two against two");
        }
        assert_eq!(weigh(&[600, -600]), (true, false, 0));
    }

    #[test]
    fn clocks_that_were_not_heard_lately_do_not_count() {
        let peers = Peers::default();
        let told = hearsay(NOW);
        peers.hear(NodeId::from_bytes([1; 16]), &told);
        for (now, is_in_doubt) in [(10, true), (11, false)] {
            let now = Duration::from_secs(now);
            let wall = NOW.saturating_add(now).saturating_sub(Duration::from_secs(600));
            let mut time = Time::new(wall, wall, SKEW);
            peers.weigh(&mut time, SKEW, now, WINDOW);
            assert_eq!(time.is_in_doubt(), is_in_doubt);
        }
    }
}
