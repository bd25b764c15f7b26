//! Nodes: each a store on a disk of its own, with a clock of its own.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{Freshness, Key, ManualClock, NodeId, Options, Replica, Replication, Store, Timestamp};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::network::{Agenda, Event, Random, Weather};

pub(crate) const TICK: Duration = Duration::from_millis(200);
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(6);
pub(crate) const START: u64 = 1_800_000_000;

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) clock: ManualClock,
    pub(crate) disk: Option<Arc<MemoryStorage>>,
    pub(crate) replica: Option<Replica>,
    pub(crate) is_hostile: bool,
    /// Rises with each start, so that ticks of an earlier life are known as such.
    life: u64,
}

impl Node {
    pub(crate) fn store(&self) -> Option<&Store> {
        self.replica.as_ref().map(Replica::store)
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| matches!(replica.freshness(), Freshness::Fresh { .. }))
    }
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Duration,
    pub(crate) agenda: Agenda,
    pub(crate) random: Random,
    pub(crate) weather: Weather,
    /// Pairs that cannot reach each other.
    pub(crate) cut: HashSet<(usize, usize)>,
    pub(crate) events: u64,
    pub(crate) trace: u64,
    pub(crate) bytes: u64,
    options: Box<dyn Fn(NodeId) -> Replication>,
}

impl Cluster {
    pub(crate) fn new(random: Random, options: impl Fn(NodeId) -> Replication + 'static) -> Self {
        Self {
            nodes: Vec::new(),
            now: Duration::ZERO,
            agenda: Agenda::default(),
            random,
            weather: Weather::FAIR,
            cut: HashSet::new(),
            events: 0,
            trace: 0,
            bytes: 0,
            options: Box::new(options),
        }
    }

    pub(crate) fn id(index: usize) -> NodeId {
        NodeId::from_bytes((index as u128 + 1).to_be_bytes())
    }

    /// A node whose clock is off by so much, on a disk or in memory only.
    pub(crate) fn add(&mut self, wall: Timestamp, has_disk: bool, is_hostile: bool) {
        let id = Self::id(self.nodes.len());
        let disk = has_disk.then(|| Arc::new(MemoryStorage::new()));
        let clock = ManualClock::at(wall);
        self.nodes.push(Node { id, clock, disk, replica: None, is_hostile, life: 0 });
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].replica.is_some()
    }

    /// Starts a node. `false` if its disk does not let it.
    pub(crate) fn start(&mut self, index: usize) -> bool {
        let node = &mut self.nodes[index];
        let options = Options::new()
            .key(Key::from_bytes([7; 32]))
            .clock(node.clock.clone())
            .background(false)
            .segment_bytes(16_384);
        let store = match &node.disk {
            Some(disk) => options.open_on(Arc::clone(disk) as Arc<_>),
            None => options.open_in_memory(),
        };
        let Ok(store) = store else { return false };
        let replica = store.replicate((self.options)(node.id)).unwrap();
        let peers = (0..self.nodes.len()).map(Self::id);
        replica.set_peers(peers);
        let node = &mut self.nodes[index];
        node.replica = Some(replica);
        node.life += 1;
        let (life, first) = (node.life, Duration::from_millis(self.random.below(200)));
        self.agenda.add(self.now + first, Event::Tick { node: index, life });
        true
    }

    /// Ends a node's process, or its power. What it keeps in memory is gone, and what it keeps on a disk is what a disk
    /// keeps.
    pub(crate) fn stop(&mut self, index: usize, loses_power: bool) {
        let seed = self.random.next();
        let node = &mut self.nodes[index];
        if let (Some(disk), true) = (&mut node.disk, node.replica.is_some()) {
            let image = if loses_power { disk.crash_image(seed) } else { disk.kill_image() };
            *disk = Arc::new(image);
        }
        node.replica = None;
        if loses_power {
            node.clock.reboot();
        }
    }

    pub(crate) fn wipe(&mut self, index: usize) {
        if let Some(disk) = &mut self.nodes[index].disk {
            *disk = Arc::new(MemoryStorage::new());
        }
    }

    /// Lets time pass for everyone.
    pub(crate) fn advance_to(&mut self, at: Duration) {
        let by = at - self.now;
        self.now = at;
        if by > Duration::ZERO {
            self.nodes.iter().for_each(|node| node.clock.advance(by));
        }
    }

    /// Does what is due next, if that is by a time. Tells which node it concerned; none where there was none.
    pub(crate) fn step(&mut self, by: Duration) -> Option<(Event, Option<usize>)> {
        let (at, event) = self.agenda.next(by)?;
        // Time may have jumped ahead of what was due.
        let at = at.max(self.now);
        self.advance_to(at);
        self.events += 1;
        let node = match &event {
            Event::Deliver { from, to, bytes } => {
                let (sender, receiver) = (self.nodes[*from].id, &self.nodes[*to]);
                if let Some(replica) = &receiver.replica {
                    // What is refused is counted by the replica.
                    replica.receive(sender, bytes).ok();
                }
                Some(*to)
            }
            Event::Tick { node, life } if self.nodes[*node].life == *life => {
                if let Some(replica) = &self.nodes[*node].replica {
                    replica.tick();
                    self.agenda.add(at + TICK, Event::Tick { node: *node, life: *life });
                }
                Some(*node)
            }
            Event::Tick { .. } | Event::Act => None,
        };
        if let Some(node) = node {
            self.settle(node);
        }
        Some((event, node))
    }

    /// Waits for a node's log, and sends what it has to say.
    pub(crate) fn settle(&mut self, index: usize) {
        let node = &self.nodes[index];
        let Some(replica) = node.replica.clone() else { return };
        if node.disk.is_some() {
            replica.store().maintain();
        }
        while let Some(transmit) = replica.poll_transmit() {
            let to = self.nodes.iter().position(|node| node.id == transmit.to).unwrap();
            self.bytes += transmit.bytes.len() as u64;
            let hash = xxh3_64_with_seed(&transmit.bytes, self.trace);
            self.trace = hash ^ (self.now.as_nanos() as u64) ^ ((index as u64) << 32) ^ to as u64;
            if self.cut.contains(&(index, to)) {
                continue;
            }
            for (delay, bytes) in self.weather.carry(&mut self.random, &transmit.bytes) {
                self.agenda.add(self.now + delay, Event::Deliver { from: index, to, bytes });
            }
        }
    }
}
