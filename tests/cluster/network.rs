//! A network on one thread: what is sent arrives later, twice, out of order or not at all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

/// Sebastiano Vigna's SplitMix64: any seed will do.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// So many times in a thousand.
    pub(crate) fn chance(&mut self, of_thousand: u64) -> bool {
        self.below(1000) < of_thousand
    }
}

/// What happens at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Deliver { from: usize, to: usize, sent: Duration, bytes: Arc<[u8]> },
    Tick { node: usize, life: u64 },
    Act,
}

/// Events in the order of their times.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    number: u64,
}

impl Agenda {
    pub(crate) fn add(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    /// The next event, if it is due by a time.
    pub(crate) fn next(&mut self, by: Duration) -> Option<(Duration, Event)> {
        if self.events.peek()?.0.0 > by {
            return None;
        }
        self.events.pop().map(|Reverse((at, _, event))| (at, event))
    }
}

/// What the network does to messages.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// Lost, repeated, and damaged on the way: in a thousand.
    pub(crate) loss: u64,
    pub(crate) repeats: u64,
    pub(crate) damage: u64,
    /// At least, and at most, in milliseconds.
    pub(crate) delay: (u64, u64),
}

impl Weather {
    pub(crate) const FAIR: Self = Self { loss: 0, repeats: 0, damage: 0, delay: (1, 20) };

    /// When copies of a message arrive, and what is in them.
    pub(crate) fn carry(&self, random: &mut Random, bytes: &Arc<[u8]>) -> Vec<(Duration, Arc<[u8]>)> {
        if random.chance(self.loss) {
            return Vec::new();
        }
        let copies = 1 + u64::from(random.chance(self.repeats));
        (0..copies)
            .map(|_| {
                let delay = self.delay.0 + random.below(self.delay.1 - self.delay.0 + 1);
                let mut bytes = Arc::clone(bytes);
                if random.chance(self.damage) {
                    let mut damaged = bytes.to_vec();
                    let place = random.below(damaged.len() as u64) as usize;
                    damaged[place] ^= 1 << random.below(8);
                    damaged.truncate(damaged.len() - random.below(2) as usize);
                    bytes = damaged.into();
                }
                (Duration::from_millis(delay), bytes)
            })
            .collect()
    }
}
