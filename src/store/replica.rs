//! A store in a cluster: the seam between the store and the replication protocol.
//!
//! Writers put what they changed into the outbox; whoever drives the replica takes it out, and numbers it. So no writer
//! waits for the protocol, which itself waits for writers when it merges.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Reading;
use crate::codec::{self, Record};
use crate::journal::{FileError, Fresh};
use crate::model::{Bin, Cause, Entry, Fingerprint, Identity, Item, Locator, Node, Rows, Sum, Timestamp};
use crate::replication::{
    ClusterId, Content, Freshness, Merged, NodeId, Protocol, Rejected, Replication, Transmit, is_crowded, is_refused,
};
use crate::sync::{Condvar, Mutex};

use super::canary::{Canary, CanaryAlarm};
use super::committer::{Commit, Message};
use super::lag::Lag;
use super::link::Links;
use super::receipt::Duty;
use super::{Engine, Pending, Shared, Store, events};

/// How many changed entries may wait to be numbered.
const OUTBOX_MAX: usize = 65_536;
/// How much of what a peer sends goes into one commit, in bytes: rows that share an actor are longer in the log.
const COMMIT_BYTES: usize = 1024 * 1024;
/// How many alarms may wait to be looked at.
const ALARMS_MAX: usize = 16;

/// Until when "nothing denies it" may be said, in nanoseconds since boot.
#[derive(Debug)]
pub(super) struct Gate(AtomicU64);

impl Gate {
    /// Never known to be fresh.
    const BOOTSTRAPPING: u64 = 0;
    /// A store that has no peers has missed nothing.
    const OPEN: u64 = u64::MAX;

    pub(super) fn open() -> Self {
        Self(AtomicU64::new(Self::OPEN))
    }

    /// Why nothing may be said; none if it may. The time since boot is asked for only where it matters.
    #[inline]
    pub(super) fn doubt(&self, boot: impl FnOnce() -> Duration) -> Option<Cause> {
        match self.0.load(Ordering::Acquire) {
            Self::OPEN => None,
            Self::BOOTSTRAPPING => Some(Cause::Bootstrapping),
            until => (boot().as_nanos() > u128::from(until)).then_some(Cause::Stale),
        }
    }

    /// Until when it is open, from here on, in nanoseconds since boot; 0 if it is shut.
    pub(super) fn set(&self, until: Option<Duration>) -> u64 {
        let nanos = |until: Duration| u64::try_from(until.as_nanos()).unwrap_or(Self::OPEN).clamp(1, Self::OPEN - 1);
        let until = until.map_or(Self::BOOTSTRAPPING, nanos);
        self.0.store(until, Ordering::Release);
        until
    }
}

/// What writers and the replica share.
pub(super) struct Replicating {
    protocol: Mutex<Protocol>,
    outbox: Mutex<Outbox>,
    lag: Mutex<Lag>,
    /// Taken before the protocol's lock.
    pub(super) links: Mutex<Links>,
    pub(super) canary: Mutex<Canary>,
    options: Replication,
    /// What those are told who read the store along, if it keeps anything on disk.
    told: Mutex<Option<Telling>>,
    /// Whether it was fresh when that was last looked at.
    was_fresh: AtomicBool,
    /// Who is told that there is something to be sent.
    subscribers: Mutex<Vec<Sender<()>>>,
    alarm: Sender<CanaryAlarm>,
    alarms: Receiver<CanaryAlarm>,
    /// Held by nobody for long: what is waited for is told by `progressed`.
    progress: Mutex<()>,
    progressed: Condvar,
}

/// What those are told who read the store along: until when it is fresh.
struct Telling {
    file: Fresh,
    until: u64,
}

impl Telling {
    /// Says it, where it is news: what was said before ends by itself, and nobody waits for the disk.
    fn tell(&mut self, until: u64, stale_after: Duration, reading: impl FnOnce() -> Reading) {
        let is_longer =
            until.saturating_sub(self.until) > u64::try_from(stale_after.as_nanos() / 20).unwrap_or(u64::MAX);
        if (is_longer || until < self.until) && self.file.write(until, reading()).is_ok() {
            self.until = until;
        }
    }
}

/// What was changed here and has not been numbered yet.
#[derive(Default)]
struct Outbox {
    items: Vec<Item>,
    /// Some had no room: a number is left out, so that the others notice.
    overflowed: bool,
}

impl Replicating {
    /// Has entries sent that were changed here, and are in the tables.
    pub(super) fn publish(&self, items: Vec<Item>) {
        let mut outbox = self.outbox.lock();
        if outbox.items.len() + items.len() > OUTBOX_MAX {
            outbox.overflowed = true;
        } else {
            outbox.items.extend(items);
        }
        drop(outbox);
        self.wake();
    }

    /// Whoever has not woken up yet will find this too; whoever is gone is forgotten.
    fn wake(&self) {
        let is_there =
            |subscriber: &Sender<()>| !matches!(subscriber.try_send(()), Err(TrySendError::Disconnected(())));
        self.subscribers.lock().retain(is_there);
    }

    pub(super) fn options(&self) -> &Replication {
        &self.options
    }

    /// Leaves an alarm, if there is room for it.
    pub(super) fn raise(&self, alarm: CanaryAlarm) {
        self.alarm.try_send(alarm).ok();
    }

    /// Numbers what was changed.
    fn drain(&self, protocol: &mut Protocol, wall: Timestamp) {
        let Outbox { items, overflowed } = std::mem::take(&mut *self.outbox.lock());
        if !items.is_empty() {
            protocol.publish(&items, wall);
        }
        if overflowed {
            protocol.leave_gap();
        }
    }
}

impl fmt::Debug for Replicating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicating").field("node", &self.options.node).finish_non_exhaustive()
    }
}

/// How far a replica has issued revocations: see [`Replica::position`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    incarnation: u64,
    sequence: u64,
}

/// The store could not be made a replica. Nothing has changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicateError {
    /// It is one already.
    #[error("the store is a replica already: clone the Replica that there is")]
    Already,
    /// The options make no sense.
    #[error("{0}")]
    Options(&'static str),
    /// The store was opened read-only.
    #[error("the store was opened read-only, and follows what another process writes: make that one a replica")]
    ReadOnly,
    /// Those who read the store along cannot be told how fresh it is.
    #[error(transparent)]
    File(Arc<FileError>),
}

/// A store's part in a cluster: bytes in, bytes out, and a tick. Cheap to clone; clones share one replica.
///
/// It has no thread and no socket. Whoever has a transport calls [`tick`](Self::tick) several times a second, hands what
/// arrives to [`receive`](Self::receive), and sends what [`poll_transmit`](Self::poll_transmit) gives.
///
/// A transport must know who is at its other end: a replica believes what its peers say of themselves. It may lose,
/// repeat, delay and reorder messages.
#[derive(Clone, Debug)]
pub struct Replica {
    store: Store,
    state: Arc<Replicating>,
}

impl Store {
    /// Makes the store a replica in a cluster. From here on checks of what is not revoked give
    /// [`Unknown`](crate::Verdict::Unknown) until the replica is fresh, and whenever it no longer is.
    ///
    /// All replicas of a cluster need the same [key](crate::Options::key), and should have the same limits.
    ///
    /// # Errors
    /// See [`ReplicateError`]. Nothing has changed.
    pub fn replicate(&self, options: Replication) -> Result<Replica, ReplicateError> {
        options.validate().map_err(ReplicateError::Options)?;
        if self.engine.following.is_some() {
            return Err(ReplicateError::ReadOnly);
        }
        let shared = &self.shared;
        if shared.replicating.get().is_some() {
            return Err(ReplicateError::Already);
        }
        let incarnation = incarnation(Reading::now(&*shared.clock), shared.high_water());
        let (alarm, alarms) = bounded(ALARMS_MAX);
        let told = match &self.engine.snapshotter {
            Some(snapshotter) => snapshotter
                .fresh(Reading::now(&*shared.clock))
                .map_err(|error| ReplicateError::File(Arc::new(error)))?
                .map(|file| Telling { file, until: Gate::BOOTSTRAPPING }),
            None => None,
        };
        let state = Arc::new(Replicating {
            protocol: Mutex::new(Protocol::new(options.clone(), shared.keyring.id(), incarnation)),
            outbox: Mutex::default(),
            lag: Mutex::default(),
            links: Mutex::default(),
            canary: Mutex::default(),
            options,
            told: Mutex::new(told),
            was_fresh: AtomicBool::new(false),
            subscribers: Mutex::default(),
            alarm,
            alarms,
            progress: Mutex::default(),
            progressed: Condvar::default(),
        });
        {
            // What is written from here on is in the sums and in the outbox.
            let _writing = self.engine.writing.lock();
            shared.replicating.set(Arc::clone(&state)).map_err(|_| ReplicateError::Already)?;
            let limits = shared.limits.clone();
            let end_of_wide = Box::new(move |entry: &_, scope| super::maintenance::end_of_wide(&limits, entry, scope));
            shared.denylist.keep_sums(shared.keyring.content_hasher(), end_of_wide);
        }
        let replica = Replica { store: self.clone(), state };
        replica.with(|_, _, _| ());
        Ok(replica)
    }
}

impl Replica {
    /// Says who the peers are, in place of those before: messages go to them, and are taken from them only. Those of
    /// [`link`](Self::link)s stay.
    pub fn set_peers(&self, peers: impl IntoIterator<Item = NodeId>) {
        let mut links = self.state.links.lock();
        let peers: Vec<NodeId> = peers.into_iter().collect();
        self.with(|protocol, _, _| links.set(Links::OWN, peers, protocol));
    }

    /// The name of this replica.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.state.options.node
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.state.options.cluster
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes in a message of a peer. It may have to wait for the disk.
    ///
    /// # Errors
    /// See [`Rejected`]. Nothing has changed.
    pub fn receive(&self, from: NodeId, bytes: &[u8]) -> Result<(), Rejected> {
        let (received, has_output) = self.with(|protocol, now, content| {
            let received = protocol.receive(from, bytes, now, content);
            (received, protocol.has_output())
        });
        let received = received?;
        if has_output || received.is_some() {
            self.state.wake();
        }
        // Whoever waits has seen what was so before this, or is woken.
        drop(self.state.progress.lock());
        self.state.progressed.notify_all();
        if let Some(issued) = received {
            let lag = self.store.shared.clock.wall().saturating_since(issued);
            self.state.lag.lock().record(lag);
        }
        Ok(())
    }

    /// Does what is due. To be called several times within a [heartbeat](Replication::heartbeat).
    pub fn tick(&self) {
        self.tend_canary();
        self.with(|protocol, now, content| {
            self.state.canary.lock().follow(protocol, now);
            protocol.tick(now, content);
        });
    }

    /// Where alarms are told of: that a [canary](Self::start_canary) was not denied everywhere in time.
    #[must_use]
    pub fn alarms(&self) -> &Receiver<CanaryAlarm> {
        &self.state.alarms
    }

    pub(super) fn state(&self) -> &Replicating {
        &self.state
    }

    /// The next message to be sent, to each peer in turn; none for now.
    #[must_use]
    pub fn poll_transmit(&self) -> Option<Transmit> {
        self.with(|protocol, _, _| protocol.poll_transmit())
    }

    /// The next message to be sent to one peer; none for now.
    #[must_use]
    pub fn poll_transmit_to(&self, peer: NodeId) -> Option<Transmit> {
        self.with(|protocol, _, _| protocol.poll_transmit_to(peer))
    }

    /// Where it is told from here on that there is something to be sent: for a thread that would otherwise sleep until the
    /// next tick. Call [`tick`](Self::tick) then, and send.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<()> {
        let (wake, wakes) = bounded(1);
        self.state.subscribers.lock().push(wake);
        wakes
    }

    /// How recently this replica is known to have held all that it should.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.with(|protocol, now, _| protocol.freshness(now))
    }

    /// How far this replica has issued: all that was revoked here before this was called, and what it had issued before.
    #[must_use]
    pub fn position(&self) -> Position {
        let (incarnation, sequence) = self.with(|protocol, _, _| protocol.position());
        Position { incarnation, sequence }
    }

    /// How many peers are known to hold all up to a position. It is learnt within a round trip and a tick.
    #[must_use]
    pub fn held_by(&self, position: Position) -> usize {
        self.with(|protocol, _, _| protocol.holders((position.incarnation, position.sequence)).count())
    }

    /// Waits until so many peers are known to hold all up to a position, and tells whether they are. Others must go on
    /// driving the replica meanwhile.
    #[must_use = "false says that they may not hold it"]
    pub fn wait_until_held(&self, position: Position, peers: usize, at_most: Duration) -> bool {
        let begun = self.store.shared.clock.boot();
        let mut progress = self.state.progress.lock();
        while self.held_by(position) < peers {
            let passed = self.store.shared.clock.boot().saturating_sub(begun);
            let Some(left) = at_most.checked_sub(passed).filter(|left| !left.is_zero()) else { return false };
            self.state.progressed.wait_for(&mut progress, left);
        }
        true
    }

    /// Figures for an operator.
    #[must_use]
    pub fn stats(&self) -> ReplicaStats {
        let [p50, p99, p999] = self.state.lag.lock().percentiles([500, 990, 999]);
        self.with(|protocol, now, _| {
            let since = |at: Option<Duration>| at.map(|at| now.saturating_sub(at));
            let peers = protocol.peers().map(|node| {
                let (seen, agreed) = protocol.peer_times(node).unwrap_or_default();
                PeerStats { node, seen: since(seen), agreed: since(agreed) }
            });
            let counts = &protocol.counts;
            ReplicaStats {
                freshness: protocol.freshness(now),
                peers: peers.collect(),
                messages_in: counts.messages_in,
                bytes_in: counts.bytes_in,
                messages_out: counts.messages_out,
                bytes_out: counts.bytes_out,
                rejected: counts.rejected,
                refused: counts.refused,
                dropped: protocol.dropped(),
                comparisons: counts.comparisons,
                deltas_in: counts.deltas_in,
                deltas_out: counts.deltas_out,
                merged: counts.changed,
                propagation_p50: p50,
                propagation_p99: p99,
                propagation_p999: p999,
            }
        })
    }

    /// Everything that is done with the protocol is done here: what was revoked is numbered first, and afterwards the gate
    /// says what follows.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Protocol, Duration, &dyn Content) -> T) -> T {
        let shared = &*self.store.shared;
        let content = Held { engine: &self.store.engine, options: &self.state.options };
        let mut protocol = self.state.protocol.lock();
        self.state.drain(&mut protocol, shared.clock.wall());
        let now = shared.clock.boot();
        let outcome = act(&mut protocol, now, &content);
        let until = shared.gate.set(match protocol.known_fresh(now) {
            Some(_) if protocol.is_ungated() => Some(Duration::MAX),
            known => known.map(|at| at.saturating_add(self.state.options.stale_after)),
        });
        let is_fresh = until > u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        if let Some(told) = &mut *self.state.told.lock() {
            told.tell(until, self.state.options.stale_after, || Reading::now(&*shared.clock));
        }
        drop(protocol);
        if self.state.was_fresh.swap(is_fresh, Ordering::Relaxed) != is_fresh {
            events::freshness(is_fresh);
        }
        outcome
    }
}

/// A number for this start that no other has, and that is higher than those before as long as the clock goes forward: the
/// time, to 16 milliseconds. A clock that has been set back shows the same latest time at several starts; its own readings
/// are different at each.
fn incarnation(now: Reading, seen: Timestamp) -> u64 {
    let mut readings = [0; 24];
    for (place, reading) in readings.chunks_mut(8).zip([now.wall.as_nanos(), now.boot.as_nanos() as u64, now.boot_id]) {
        place.copy_from_slice(&reading.to_le_bytes());
    }
    now.wall.max(seen).as_nanos() & !0xff_ffff | xxh3_64(&readings) & 0xff_ffff
}

/// How a replica is doing. Times are as long ago; counts are since it was started.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ReplicaStats {
    /// How recently it is known to have held all that it should.
    pub freshness: Freshness,
    /// How it stands with each peer.
    pub peers: Vec<PeerStats>,
    /// Messages taken in.
    pub messages_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Messages given out to be sent.
    pub messages_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Messages that were refused.
    pub rejected: u64,
    /// Entries of peers that were refused, each time they came: what lies too far in the future, or is kept too long. Alarm
    /// on any.
    pub refused: u64,
    /// Messages that found no room in a queue. What they said is repaired.
    pub dropped: u64,
    /// How often contents were compared, because they differed.
    pub comparisons: u64,
    /// News taken in.
    pub deltas_in: u64,
    /// News given out.
    pub deltas_out: u64,
    /// Entries of peers that changed anything.
    pub merged: u64,
    /// How long half of the news took to arrive, by the clocks of both ends.
    pub propagation_p50: Duration,
    /// The same of 99 in 100.
    pub propagation_p99: Duration,
    /// The same of 999 in 1,000.
    pub propagation_p999: Duration,
}

/// How a replica stands with a peer.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PeerStats {
    /// Who.
    pub node: NodeId,
    /// How long ago it was heard of.
    pub seen: Option<Duration>,
    /// How long ago it held just what is held here.
    pub agreed: Option<Duration>,
}

/// The store, as the protocol sees it.
struct Held<'a> {
    engine: &'a Engine,
    options: &'a Replication,
}

impl Content for Held<'_> {
    fn cutoff(&self) -> Bin {
        let shared = &*self.engine.shared;
        Bin::of(shared.clock.wall().saturating_sub(shared.policy.leeway))
    }

    fn horizon(&self) -> Bin {
        self.engine.shared.horizon()
    }

    fn root(&self, cutoff: Bin) -> Sum {
        self.engine.shared.denylist.root(cutoff)
    }

    fn children(&self, node: Node, cutoff: Bin) -> [Sum; Node::CHILDREN] {
        self.engine.shared.denylist.children(node, cutoff)
    }

    fn page(
        &self,
        node: Node,
        from: Locator,
        cutoff: Bin,
        bytes: usize,
        wanted: &dyn Fn(Fingerprint) -> bool,
    ) -> (Rows, Vec<Item>, Option<Locator>) {
        let page = self.engine.shared.denylist.page(node, from, cutoff, bytes, wanted);
        (page.rows, page.items, page.more)
    }

    fn merge(&self, rows: Rows, items: Vec<Item>) -> Merged {
        let actor = |number: u32| rows.actors.get(number as usize).cloned();
        let of_rows = rows.rows.iter().filter_map(|row| {
            let entry = Entry::Narrow(row.entry(actor(row.actor)));
            let Identity { locator, digest, shape } = row.identity()?;
            Some(Item { digest, locator, shape, entry, scope: None, label: None })
        });
        self.engine.merge(of_rows.chain(items), self.options.max_retention)
    }

    fn denies(&self, subject: Identity) -> bool {
        let item = self.engine.shared.denylist.item(subject);
        item.is_some_and(|item| item.entry.denies_outright())
    }
}

impl Engine {
    /// The write path of what peers send: it is held to bounds, applied, logged.
    fn merge(&self, items: impl Iterator<Item = Item>, max_retention: Option<Duration>) -> Merged {
        let shared = &*self.shared;
        let (now, horizon, skew) = (shared.clock.wall(), shared.horizon(), shared.policy.skew);
        let (mut merged, mut taken, mut undoing) = (Merged::default(), Taken::default(), Vec::new());
        let writing = self.writing.lock();
        if shared.is_closed() {
            return Merged { incomplete: true, ..merged };
        }
        let mut room = shared.capacity.saturating_sub(shared.denylist.len());
        for item in items {
            if shared.bin(&item) < horizon {
                continue;
            }
            let known = shared.denylist.item(item.identity()).map(|known| known.entry);
            let joined =
                known.clone().map_or_else(|| item.entry.clone(), |known| known.joined_with(item.entry.clone()));
            if known.as_ref() == Some(&joined) {
                continue;
            }
            if is_refused(&item.entry, now, skew, max_retention) || is_crowded(&joined) {
                merged.refused += 1;
                continue;
            }
            if known.is_none() {
                if room == 0 {
                    merged.incomplete = true;
                    continue;
                }
                room -= 1;
            }
            match taken.add(item, known.as_ref()) {
                Ok(()) => merged.changed += 1,
                Err(_) => merged.refused += 1,
            }
            if taken.payload.len() >= COMMIT_BYTES {
                undoing.extend(self.take_in(std::mem::take(&mut taken)));
            }
        }
        undoing.extend(self.take_in(taken));
        drop(writing);
        // What undoes counts once it is in the log, and what is said next is to be said of that. If it cannot be logged,
        // contents differ.
        undoing.into_iter().for_each(|pending| _ = pending.wait().ok());
        if shared.denylist.filter_is_overfull() {
            self.fit_filter();
        }
        merged
    }

    /// From here on it denies, whatever becomes of the disk. What undoes waits for the log; for that there is something to
    /// wait for.
    fn take_in(&self, taken: Taken) -> Option<Pending> {
        let Taken { payload, denials, undo } = taken;
        match &self.commits {
            Some(commits) if !payload.is_empty() => {
                let (duty, pending) = Duty::new();
                let undoes = !undo.is_empty();
                let commit = Commit { payload, undo, denials: denials.len(), audits: Vec::new(), duty, is_own: false };
                // If the committer is gone, writers are told.
                commits.send(Message::Commit(commit)).ok();
                self.shared.denylist.join_all(denials);
                self.shared.watchers.notify();
                undoes.then_some(pending)
            }
            _ => {
                self.shared.denylist.join_all(denials.into_iter().chain(undo));
                self.shared.watchers.notify();
                None
            }
        }
    }
}

/// Entries of a peer that have passed every test.
#[derive(Default)]
struct Taken {
    /// Encoded records.
    payload: Vec<u8>,
    denials: Vec<Item>,
    /// What may take effect only once it is logged.
    undo: Vec<Item>,
}

impl Taken {
    fn add(&mut self, item: Item, known: Option<&Entry>) -> Result<(), codec::EncodeError> {
        let record = Record::Entry(item);
        codec::encode(&record, &mut self.payload)?;
        if let Record::Entry(item) = record {
            let denying = item.entry.without_undoing(known);
            if denying == item.entry {
                self.denials.push(item);
            } else {
                self.denials.push(Item { entry: denying, ..item.clone() });
                self.undo.push(item);
            }
        }
        Ok(())
    }
}

impl Shared {
    /// The first bin of which nothing is forgotten.
    fn horizon(&self) -> Bin {
        let now = self.reading().wall;
        Bin::of(now.saturating_sub(self.policy.kept_beyond()).saturating_sub(self.policy.leeway))
    }

    /// The bin in which an entry ends.
    fn bin(&self, item: &Item) -> Bin {
        Bin::of(match &item.entry {
            Entry::Narrow(entry) => entry.until.end(),
            Entry::Wide(entry) => super::maintenance::end_of_wide(&self.limits, entry, item.scope),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_starts_have_the_same_number() {
        let reading = |wall: u64, boot: u64| Reading {
            wall: Timestamp::from_nanos(wall),
            boot: Duration::from_nanos(boot),
            boot_id: 1,
        };
        let (later, seen) = (Timestamp::from_secs(9), Timestamp::from_secs(5));
        // The clock was set back: it has seen the same time at each start.
        let numbers = [reading(1, 1), reading(2, 2), reading(2, 3)].map(|now| incarnation(now, later));
        assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2] && numbers[0] != numbers[2]);
        let second = |wall: u64| incarnation(reading(wall, 1), seen);
        assert!(second(6_000_000_000) < second(6_034_000_000), "as long as it goes forward, so do they");
        assert!(second(1) > 4_980_000_000, "what was seen counts");
    }
}
