//! Some replicas, each with a clock of its own, and a network that can be cut.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{ManualClock, NodeId, Options, Replica, Replication, Store};

use super::{at, options};

const TICK: Duration = Duration::from_millis(250);

pub(crate) fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// One process.
pub(crate) struct Node {
    pub(crate) clock: ManualClock,
    pub(crate) replica: Replica,
}

#[derive(Default)]
pub(crate) struct Group {
    pub(crate) nodes: Vec<Node>,
    /// Pairs of places between which nothing goes, in this direction.
    cut: RefCell<BTreeSet<(usize, usize)>>,
}

impl Group {
    /// Replicas that all issue, with clocks that are off by so many seconds.
    pub(crate) fn of(offsets: &[i64]) -> Self {
        let mut group = Self::default();
        for (number, offset) in (1..).zip(offsets) {
            group.start(number, *offset, offsets.len(), |options| options);
        }
        group.meet();
        group
    }

    /// Starts a process under a name, in memory only.
    pub(crate) fn start(
        &mut self,
        name: u8,
        offset: i64,
        issuers: usize,
        with: impl FnOnce(Options) -> Options,
    ) -> usize {
        let clock = ManualClock::at(at(offset));
        // The others have been up for a while.
        let store = with(options(&clock)).open_in_memory().unwrap();
        self.add(name, clock, store, issuers)
    }

    pub(crate) fn start_on(
        &mut self,
        name: u8,
        clock: ManualClock,
        disk: &MemoryStorage,
        issuers: usize,
        with: impl FnOnce(Options) -> Options,
    ) -> usize {
        let store = with(options(&clock)).open_on(Arc::new(disk.clone())).unwrap();
        self.add(name, clock, store, issuers)
    }

    fn add(&mut self, name: u8, clock: ManualClock, store: Store, issuers: usize) -> usize {
        let issuers = (1..=issuers).map(|issuer| id(u8::try_from(issuer).unwrap()));
        let replica = store.replicate(Replication::trusting_issuers("test", id(name), issuers)).unwrap();
        self.nodes.push(Node { clock, replica });
        self.nodes.len() - 1
    }

    /// Tells everybody who is there.
    pub(crate) fn meet(&self) {
        for node in &self.nodes {
            node.replica.set_peers(self.nodes.iter().map(|node| node.replica.node()));
        }
    }

    pub(crate) fn store(&self, place: usize) -> &Store {
        self.nodes[place].replica.store()
    }

    /// Cuts the way from one place to another, or mends it.
    pub(crate) fn cut(&self, from: usize, to: usize, is_cut: bool) {
        let mut cut = self.cut.borrow_mut();
        if is_cut {
            cut.insert((from, to))
        } else {
            cut.remove(&(from, to))
        };
    }

    /// Cuts one place off, or mends that.
    pub(crate) fn isolate(&self, place: usize, is_cut: bool) {
        for other in (0..self.nodes.len()).filter(|other| *other != place) {
            self.cut(place, other, is_cut);
            self.cut(other, place, is_cut);
        }
    }

    /// Hands over all that is to be sent, until nothing is. What is for a name goes to every process that bears it.
    pub(crate) fn deliver(&self) {
        let mut idle = false;
        while !idle {
            idle = true;
            for (from, sender) in self.nodes.iter().enumerate() {
                while let Some(message) = sender.replica.poll_transmit() {
                    idle = false;
                    for (to, receiver) in self.nodes.iter().enumerate() {
                        let is_for = receiver.replica.node() == message.to;
                        if is_for && !self.cut.borrow().contains(&(from, to)) {
                            receiver.replica.receive(sender.replica.node(), &message.bytes).unwrap();
                        }
                    }
                }
            }
        }
    }

    /// Lets time pass, with maintenance every second.
    pub(crate) fn pass(&self, time: Duration) {
        let mut passed = Duration::ZERO;
        while passed < time {
            passed += TICK;
            for node in &self.nodes {
                node.clock.advance(TICK);
                node.replica.tick();
                if passed.subsec_millis() == 0 {
                    node.replica.store().maintain();
                }
            }
            self.deliver();
        }
    }

    pub(crate) fn is_fresh(&self, place: usize) -> bool {
        matches!(self.nodes[place].replica.freshness(), rescind::Freshness::Fresh { .. })
    }
}
