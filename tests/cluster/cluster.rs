//! Nodes: each a store on a disk of its own, with a clock of its own.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{Clock, Freshness, Key, ManualClock, NodeId, Options, Replica, Replication, Store, Timestamp};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::network::{Agenda, Event, Random, Weather};

pub(crate) const TICK: Duration = Duration::from_millis(200);
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(6);
pub(crate) const START: u64 = 1_800_000_000;
/// Where the payload of a message begins, and how that of a heartbeat does.
const ENVELOPE_BYTES: usize = 48;
const HEARTBEAT: u8 = 0;

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) clock: ManualClock,
    pub(crate) disk: Option<Arc<MemoryStorage>>,
    pub(crate) replica: Option<Replica>,
    pub(crate) is_hostile: bool,
    /// What its limits are.
    pub(crate) with: fn(Options) -> Options,
    /// Rises with each start, so that ticks of an earlier life are known as such.
    pub(crate) life: u64,
}

impl Node {
    pub(crate) fn store(&self) -> Option<&Store> {
        self.replica.as_ref().map(Replica::store)
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| matches!(replica.freshness(), Freshness::Fresh { .. }))
    }
}

/// The heartbeats of one node, as another has heard them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) process: u64,
    /// Since when without a pause, and last.
    pub(crate) since: Duration,
    last: Duration,
    /// When the latest was sent.
    pub(crate) sent: Duration,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Duration,
    pub(crate) agenda: Agenda,
    pub(crate) random: Random,
    pub(crate) weather: Weather,
    /// What each node has heard of each other, since it was started.
    pub(crate) heard: Vec<BTreeMap<usize, Heard>>,
    /// Pairs that cannot reach each other.
    pub(crate) cut: HashSet<(usize, usize)>,
    pub(crate) events: u64,
    pub(crate) trace: u64,
    pub(crate) bytes: u64,
    options: Box<dyn Fn(NodeId) -> Replication>,
}

fn options(clock: &ManualClock) -> Options {
    Options::new().key(Key::from_bytes([7; 32])).clock(clock.clone()).background(false).segment_bytes(16_384)
}

/// A disk with a new store on it. Its random id, from which the names of its lives follow, is the same each time, so that a
/// seed gives the same run.
fn new_disk(index: usize, clock: &ManualClock) -> MemoryStorage {
    type Made = BTreeMap<(usize, Timestamp, Duration, u64), BTreeMap<String, Vec<u8>>>;
    static MADE: Mutex<Made> = Mutex::new(BTreeMap::new());
    let made_at = (index, clock.wall(), clock.boot(), clock.boot_id());
    let mut made = MADE.lock().unwrap();
    let files = made.entry(made_at).or_insert_with(|| {
        let disk = MemoryStorage::new();
        options(clock).open_on(Arc::new(disk.clone())).unwrap().close().unwrap();
        disk.files()
    });
    MemoryStorage::from_files(files.clone())
}

impl Cluster {
    pub(crate) fn new(random: Random, options: impl Fn(NodeId) -> Replication + 'static) -> Self {
        Self {
            nodes: Vec::new(),
            now: Duration::ZERO,
            agenda: Agenda::default(),
            random,
            weather: Weather::FAIR,
            heard: Vec::new(),
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
        self.add_as(Self::id(self.nodes.len()), wall, has_disk, is_hostile);
    }

    /// The same under a name, which another node may bear.
    pub(crate) fn add_as(&mut self, id: NodeId, wall: Timestamp, has_disk: bool, is_hostile: bool) {
        let clock = ManualClock::at(wall);
        let disk = has_disk.then(|| Arc::new(new_disk(self.nodes.len(), &clock)));
        self.nodes.push(Node { id, clock, disk, replica: None, is_hostile, with: |options| options, life: 0 });
        self.heard.push(BTreeMap::new());
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].replica.is_some()
    }

    /// Starts a node. `false` if its disk does not let it.
    pub(crate) fn start(&mut self, index: usize) -> bool {
        let node = &mut self.nodes[index];
        let options = (node.with)(options(&node.clock));
        let store = match &node.disk {
            Some(disk) => options.open_on(Arc::clone(disk) as Arc<_>),
            None => options.open_in_memory(),
        };
        let Ok(store) = store else { return false };
        let replica = store.replicate((self.options)(node.id)).unwrap();
        replica.set_peers(self.nodes.iter().map(|node| node.id));
        let node = &mut self.nodes[index];
        node.replica = Some(replica);
        self.heard[index].clear();
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
        let node = &mut self.nodes[index];
        if let Some(disk) = &mut node.disk {
            *disk = Arc::new(new_disk(index, &node.clock));
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
            Event::Deliver { from, to, sent, bytes } => {
                let (sender, receiver) = (self.nodes[*from].id, &self.nodes[*to]);
                if let Some(replica) = &receiver.replica {
                    // What is refused is counted by the replica.
                    let is_taken = replica.receive(sender, bytes).is_ok();
                    if is_taken && bytes[ENVELOPE_BYTES] == HEARTBEAT {
                        let process = self.nodes[*from].life;
                        let new = Heard { process, since: at, last: at, sent: *sent };
                        let heard = self.heard[*to].entry(*from).or_insert(new);
                        if heard.process != process || at - heard.last > STALE_AFTER / 2 {
                            *heard = new;
                        }
                        (heard.last, heard.sent) = (at, heard.sent.max(*sent));
                    }
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
            self.bytes += transmit.bytes.len() as u64;
            let hash = xxh3_64_with_seed(&transmit.bytes, self.trace);
            for to in (0..self.nodes.len()).filter(|to| self.nodes[*to].id == transmit.to && *to != index) {
                self.trace = hash ^ (self.now.as_nanos() as u64) ^ ((index as u64) << 32) ^ to as u64;
                if self.cut.contains(&(index, to)) {
                    continue;
                }
                for (delay, bytes) in self.weather.carry(&mut self.random, &transmit.bytes) {
                    self.agenda.add(self.now + delay, Event::Deliver { from: index, to, sent: self.now, bytes });
                }
            }
        }
    }
}
