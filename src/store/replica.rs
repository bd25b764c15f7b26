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
use crate::codec::{self, Limits};
use crate::journal::{FileError, Fresh};
use crate::model::{
    Bin, Cause, Entry, EpochKind, Epochs, Fingerprint, Identity, Item, Life, Locator, Mark, Node, Rows, Sum, Timestamp,
    WideEntry,
};
use crate::replication::{
    Bounds, ClusterId, Content, Freshness, Hearsay, Line, Merged, NodeId, Protocol, Refused, Rejected, Replication,
    STAMPS_MAX, Stamps, Told, Transmit, is_crowded,
};
use crate::sync::{Condvar, Mutex};

use super::alarm::Alarm;
use super::canary::Canary;
use super::committer::{Commit, Message};
use super::hearsay::Peers;
use super::lag::Lag;
use super::link::Links;
use super::{Engine, Pending, Shared, Store, Time, belief, events};

/// How many changed entries may wait to be numbered.
const OUTBOX_MAX: usize = 65_536;
/// How much of what a peer sends goes into one commit, in bytes: rows that share an actor are longer in the log.
const COMMIT_BYTES: usize = 1024 * 1024;
/// How many alarms may wait to be looked at.
const ALARMS_MAX: usize = 16;
/// How often the log is told at most that entries of peers are refused.
const REFUSED_TOLD_EVERY: Duration = Duration::from_secs(60);

/// Until when "nothing denies it" may be said, in nanoseconds since boot.
#[derive(Debug)]
pub(super) struct Gate(AtomicU64);

impl Gate {
    /// Never known to be fresh.
    const BOOTSTRAPPING: u64 = 0;
    /// Most peers contradict the wall clock, so that ages cannot be judged.
    const OUTVOTED: u64 = 1;
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
            Self::OUTVOTED => Some(Cause::Clock),
            until => (boot().as_nanos() > u128::from(until)).then_some(Cause::Stale),
        }
    }

    /// Until when it is open, from here on, in nanoseconds since boot; 0 if it is shut.
    pub(super) fn set(&self, until: Option<Duration>) -> u64 {
        let nanos = |until: Duration| u64::try_from(until.as_nanos()).unwrap_or(Self::OPEN).clamp(2, Self::OPEN - 1);
        let until = until.map_or(Self::BOOTSTRAPPING, nanos);
        self.0.store(until, Ordering::Release);
        until
    }

    /// Shuts it because of the clock.
    fn outvote(&self) -> u64 {
        self.0.store(Self::OUTVOTED, Ordering::Release);
        0
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
    /// What peers say of their clocks.
    pub(super) clocks: Peers,
    /// Whether most of them contradict ours, when that was last looked at.
    is_outvoted: AtomicBool,
    /// Who is told that there is something to be sent.
    subscribers: Mutex<Vec<Sender<()>>>,
    alarm: Sender<Alarm>,
    alarms: Receiver<Alarm>,
    /// Entries of peers that were refused, and when the log was told of that last.
    refused: Mutex<Untold>,
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

/// What the log has not been told of.
#[derive(Default)]
struct Untold {
    entries: u64,
    /// When it was told last, since boot.
    told_at: Option<Duration>,
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

    /// What is said by a replica that is no peer any more counts no longer.
    pub(super) fn forget_strangers(&self, protocol: &Protocol) {
        self.clocks.retain(|node| protocol.peers().any(|peer| peer == node));
    }

    pub(super) fn options(&self) -> &Replication {
        &self.options
    }

    /// Leaves an alarm, if there is room for it.
    pub(super) fn raise(&self, alarm: Alarm) {
        events::alarm(&alarm);
        self.alarm.try_send(alarm).ok();
    }

    /// Tells the log how many entries of peers were refused, now and then: they come again as long as they are what they are.
    fn tell_of_refused(&self, entries: u64, now: Duration) {
        if entries == 0 {
            return;
        }
        let mut untold = self.refused.lock();
        untold.entries += entries;
        if untold.told_at.is_none_or(|at| now.saturating_sub(at) >= REFUSED_TOLD_EVERY) {
            events::refused_of_peer(untold.entries);
            *untold = Untold { entries: 0, told_at: Some(now) };
        }
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
    life: Life,
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
        let life = shared.new_life(&options);
        let (alarm, alarms) = bounded(ALARMS_MAX);
        let told = match &self.engine.snapshotter {
            Some(snapshotter) => snapshotter
                .fresh(Reading::now(&*shared.clock))
                .map_err(|error| ReplicateError::File(Arc::new(error)))?
                .map(|file| Telling { file, until: Gate::BOOTSTRAPPING }),
            None => None,
        };
        let state = Arc::new(Replicating {
            protocol: Mutex::new(Protocol::new(options.clone(), shared.keyring.id(), life, shared.clock.boot())),
            outbox: Mutex::default(),
            lag: Mutex::default(),
            links: Mutex::default(),
            canary: Mutex::default(),
            options,
            told: Mutex::new(told),
            was_fresh: AtomicBool::new(false),
            clocks: Peers::default(),
            is_outvoted: AtomicBool::new(false),
            subscribers: Mutex::default(),
            alarm,
            alarms,
            refused: Mutex::default(),
            progress: Mutex::default(),
            progressed: Condvar::default(),
        });
        {
            // What is written from here on is in the sums and in the outbox.
            let _writing = self.engine.writing.lock();
            *shared.life.lock() = life;
            shared.replicating.set(Arc::clone(&state)).map_err(|_| ReplicateError::Already)?;
            shared.denylist.keep_sums(shared.keyring.content_hasher());
            self.engine.forget_as_replica();
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
        self.with(|protocol, _, _| {
            links.set(Links::OWN, peers, protocol);
            self.state.forget_strangers(protocol);
        });
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
        self.look_at_clocks();
        self.with(|protocol, now, content| {
            self.state.canary.lock().follow(protocol, now);
            protocol.tick(now, content);
        });
    }

    /// Where alarms are told of; see [`Alarm`].
    #[must_use]
    pub fn alarms(&self) -> &Receiver<Alarm> {
        &self.state.alarms
    }

    /// Sees whether most peers contradict the wall clock, and alarms.
    fn look_at_clocks(&self) {
        let is_outvoted = self.store.shared.is_outvoted();
        if self.state.is_outvoted.swap(is_outvoted, Ordering::Relaxed) != is_outvoted {
            match is_outvoted {
                true => self.state.raise(Alarm::ClockContradicted),
                false => events::clock_agreed(),
            }
        }
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
        let (life, sequence) = self.with(|protocol, _, _| protocol.position());
        Position { life, sequence }
    }

    /// How many peers are known to hold all up to a position. It is learnt within a round trip and a tick.
    #[must_use]
    pub fn held_by(&self, position: Position) -> usize {
        self.with(|protocol, _, _| protocol.holders((position.life, position.sequence)).count())
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
            let shared = &*self.store.shared;
            let (wall, limits) = (shared.clock.wall(), shared.told_limits());
            let peers = protocol.peers().map(|node| {
                let (seen, agreed) = protocol.peer_times(node).unwrap_or_default();
                let said = self.state.clocks.of(node, now);
                PeerStats {
                    node,
                    seen: since(seen),
                    agreed: since(agreed),
                    clock_ahead: said.map(|(theirs, _)| theirs.saturating_since(wall)),
                    clock_behind: said.map(|(theirs, _)| wall.saturating_since(theirs)),
                    limits_differ: said.map(|(_, theirs)| theirs != limits),
                    has_twins: protocol.has_twins(node),
                }
            });
            let counts = &protocol.counts;
            ReplicaStats {
                freshness: protocol.freshness(now),
                has_twins: protocol.has_twins(self.node()),
                twins_noticed: counts.twins,
                is_clock_contradicted: self.state.is_outvoted.load(Ordering::Relaxed),
                peers: peers.collect(),
                messages_in: counts.messages_in,
                bytes_in: counts.bytes_in,
                messages_out: counts.messages_out,
                bytes_out: counts.bytes_out,
                rejected: counts.rejected,
                refused: counts.refused,
                substituted: counts.substituted,
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
        let content = Held { engine: &self.store.engine, state: &self.state };
        let mut protocol = self.state.protocol.lock();
        self.state.drain(&mut protocol, shared.clock.wall());
        let now = shared.clock.boot();
        let outcome = act(&mut protocol, now, &content);
        if protocol.is_cloned() {
            let life = shared.new_life(&self.state.options);
            protocol.renew(life, now);
            *shared.life.lock() = life;
            self.state.raise(Alarm::Twins { node: self.node() });
        }
        for node in protocol.take_twins() {
            self.state.raise(Alarm::Twins { node });
        }
        let is_outvoted = self.state.is_outvoted.load(Ordering::Relaxed) && !protocol.is_ungated();
        let until = if is_outvoted {
            shared.gate.outvote()
        } else {
            shared.gate.set(match protocol.known_fresh(now) {
                Some(_) if protocol.is_ungated() => Some(Duration::MAX),
                known => known.map(|at| at.saturating_add(self.state.options.stale_after)),
            })
        };
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

/// How a replica is doing. Times are as long ago; counts are since it was started.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ReplicaStats {
    /// How recently it is known to have held all that it should.
    pub freshness: Freshness,
    /// Whether another process speaks under the name of this replica. Alarm on it, and end one of them.
    pub has_twins: bool,
    /// How often several processes were noticed that speak under one name, this replica's or a peer's. Alarm on any.
    pub twins_noticed: u64,
    /// Whether most peers contradict the wall clock by more than the allowed skew. Checks of what is not revoked then give
    /// [`Unknown`](crate::Verdict::Unknown).
    pub is_clock_contradicted: bool,
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
    /// Subjects that were revoked from the time of this replica on, because a peer had revoked them from a time too far in the
    /// future. The revocation binds all the same; the peer's clock is wrong. Alarm on any.
    pub substituted: u64,
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
    /// By how much its wall clock is ahead of this replica's, less the time that its last message was on its way; none if it
    /// has not been heard.
    pub clock_ahead: Option<Duration>,
    /// By how much its wall clock is behind this replica's, plus the time that its last message was on its way.
    pub clock_behind: Option<Duration>,
    /// Whether it was started with another leeway, grace or maximum age.
    pub limits_differ: Option<bool>,
    /// Whether several processes speak under its name.
    pub has_twins: bool,
}

/// The store, as the protocol sees it.
struct Held<'a> {
    engine: &'a Engine,
    state: &'a Replicating,
}

impl Content for Held<'_> {
    fn cutoff(&self) -> Bin {
        let shared = &*self.engine.shared;
        Bin::of(shared.clock.wall().saturating_sub(shared.policy.leeway).max(shared.expired()))
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
        let of_rows = rows.rows.iter().filter_map(|row| {
            let entry = Entry::Narrow(row.entry(rows.authors.get(row.author as usize)?));
            let Identity { locator, digest, shape } = row.identity()?;
            Some(Item { digest, locator, shape, entry, scope: None, label: None })
        });
        let merged = self.engine.merge(of_rows.chain(items), self.state.options.max_retention);
        self.state.tell_of_refused(merged.refused, self.engine.shared.clock.boot());
        merged
    }

    fn denies(&self, subject: Identity) -> bool {
        let item = self.engine.shared.denylist.item(subject);
        item.is_some_and(|item| item.entry.denies_outright())
    }

    fn wall(&self) -> Timestamp {
        self.engine.shared.clock.wall()
    }

    fn believed(&self) -> Timestamp {
        self.engine.shared.believed_time().believed
    }

    fn lines(&self) -> Vec<Line> {
        let shared = &*self.engine.shared;
        let lines = shared.belief.told(shared.passed(), shared.clock.boot()).into_iter();
        lines.map(|(issuer, stamp)| Line { issuer, stamp }).collect()
    }

    fn stamps(&self) -> Stamps {
        let shared = &*self.engine.shared;
        shared.stamps.standing(shared.passed(), STAMPS_MAX)
    }

    fn has_news(&self) -> bool {
        self.engine.shared.news.take_for_peers()
    }

    fn limits(&self) -> Told {
        self.engine.shared.told_limits()
    }

    fn hear(&self, peer: NodeId, told: Hearsay) {
        let shared = &*self.engine.shared;
        if self.state.clocks.hear(peer, &told) && told.limits != shared.told_limits() {
            events::other_limits(peer);
        }
        shared.hear_clocks(told.believed);
        // What the peer may have forgotten because it had expired must have expired here, too.
        let horizon = told.horizon.start();
        if horizon <= shared.clock.wall() {
            self.engine.expire(horizon);
        }
        // What lies further ahead than anything that is let in is not believed.
        let wall = shared.clock.wall().saturating_add(shared.policy.skew);
        let latest = belief::latest_line(wall, shared.longest_leeway());
        for Line { issuer, stamp } in told.lines.into_iter().filter(|line| line.stamp <= latest) {
            shared.belief.hear(issuer, stamp);
        }
        let (stamps, others) = told.stamps;
        for (subject, stamp) in stamps.into_iter().filter(|(_, stamp)| *stamp <= latest) {
            shared.stamps.note(subject, stamp);
        }
        others.filter(|stamp| *stamp <= latest).into_iter().for_each(|stamp| shared.stamps.note_of_any(stamp));
    }
}

impl Engine {
    /// The write path of what peers send: it is held to bounds, applied, logged.
    fn merge(&self, items: impl Iterator<Item = Item>, max_retention: Option<Duration>) -> Merged {
        let shared = &*self.shared;
        let horizon = shared.horizon();
        let time = shared.believed_time();
        let bounds = Bounds {
            epoch: time.horizon(),
            line: belief::latest_line(time.horizon(), shared.longest_leeway()),
            until: max_retention.map(|most| time.horizon().saturating_add(most)),
        };
        let (mut merged, mut taken, mut undoing) = (Merged::default(), Taken::default(), Vec::new());
        let mut own_items: Vec<Item> = Vec::new();
        let writing = self.writing.lock();
        if shared.is_closed() {
            return Merged { incomplete: true, ..merged };
        }
        let mut room = shared.capacity.saturating_sub(shared.denylist.len_with_held());
        for mut item in items {
            if shared.bin(&item) < horizon {
                continue;
            }
            let known = shared.denylist.item(item.identity()).map(|known| known.entry);
            let mut is_own = false;
            if let Some(refused) = bounds.refuse(&mut item.entry) {
                merged.refused += 1;
                is_own = shared.substitute(&refused, &mut item.entry, known.as_ref(), &time);
                merged.substituted += u64::from(is_own);
            }
            if item.entry.is_void() {
                continue;
            }
            let joined =
                known.clone().map_or_else(|| item.entry.clone(), |known| known.joined_with(item.entry.clone()));
            if known.as_ref() == Some(&joined) {
                continue;
            }
            if is_crowded(&joined) {
                merged.refused += 1;
                continue;
            }
            is_own |= shared.keep_floor(&mut item, known.as_ref(), &joined);
            if known.is_none() {
                if room == 0 {
                    merged.incomplete = true;
                    continue;
                }
                room -= 1;
            }
            let own = is_own.then(|| item.clone());
            match taken.add(item, known.as_ref()) {
                Ok(()) => merged.changed += 1,
                Err(_) => merged.refused += 1,
            }
            own_items.extend(own);
            if taken.payload.len() >= COMMIT_BYTES {
                undoing.extend(self.take_in(std::mem::take(&mut taken)));
            }
        }
        undoing.extend(self.take_in(taken));
        shared.publish(own_items.iter());
        drop(writing);
        // What undoes counts once it is in the log, and what is said next is to be said of that. If it cannot be logged,
        // contents differ.
        undoing.into_iter().for_each(|pending| _ = pending.wait().ok());
        if shared.denylist.filter_is_overfull() {
            self.fit_filter();
        }
        if merged.substituted > 0 {
            events::substituted(merged.substituted);
        }
        merged
    }

    /// From here on it denies, whatever becomes of the disk. What undoes waits for the log; for that there is something to
    /// wait for.
    fn take_in(&self, taken: Taken) -> Option<Pending> {
        let Taken { payload, denials, undo } = taken;
        if denials.iter().any(|item| item.entry.is_pending()) {
            self.shared.has_pending.store(true, Ordering::Relaxed);
        }
        match &self.commits {
            Some(commits) if !payload.is_empty() => {
                let (mut commit, pending) = Commit::new(false);
                let undoes = !undo.is_empty();
                (commit.payload, commit.undo, commit.denials) = (payload, undo, denials.len());
                commit.changed = commit.undo.len() + commit.denials;
                // If the committer is gone, writers are told.
                commits.send(Message::Commit(commit)).ok();
                self.shared.join(denials);
                undoes.then_some(pending)
            }
            _ => {
                self.shared.join(denials.into_iter().chain(undo));
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
        codec::encode_item(&item, &mut self.payload)?;
        let denying = item.entry.without_undoing(known);
        if denying == item.entry {
            self.denials.push(item);
        } else {
            if !denying.is_void() {
                self.denials.push(Item { entry: denying, ..item.clone() });
            }
            self.undo.push(item);
        }
        Ok(())
    }
}

impl Replicating {
    /// Whether there is anybody who might know better.
    pub(super) fn has_peers(&self) -> bool {
        self.protocol.lock().peers().next().is_some()
    }
}

impl Shared {
    /// A life that no other process has.
    fn new_life(&self, options: &Replication) -> Life {
        let mut bytes = self.life.lock().as_bytes().to_vec();
        bytes.extend_from_slice(options.node.as_bytes());
        super::open::life(Reading::now(&*self.clock), self.high_water(), &bytes)
    }

    /// Whether most peers contradict the wall clock.
    fn is_outvoted(&self) -> bool {
        self.weighed_time().1.is_outvoted()
    }

    /// Where a peer has set a longer maximum age: what was dead by the shorter one stays dead, here and elsewhere, for what it
    /// denied may have been forgotten here. Tells whether that is so.
    fn keep_floor(&self, item: &mut Item, known: Option<&Entry>, joined: &Entry) -> bool {
        let (Entry::Wide(entry), Some(Entry::Wide(known)), Entry::Wide(joined)) = (&mut item.entry, known, joined)
        else {
            return false;
        };
        let floor = self.floor_under(known.age(), joined.age(), self.clock.wall());
        floor.into_iter().for_each(|floor| entry.floor = entry.floor.max(floor));
        floor.is_some()
    }

    /// Revokes now what a peer revokes from a time too far ahead: its clock is wrong, and the revocation is meant all the same.
    /// Tells whether there is anything that is not revoked so already.
    fn substitute(&self, refused: &Refused, entry: &mut Entry, known: Option<&Entry>, time: &Time) -> bool {
        let Entry::Wide(entry) = entry else { return false };
        let mut substitutes = false;
        let nothing = WideEntry::default();
        let known = if let Some(Entry::Wide(known)) = known { known } else { &nothing };
        for (kind, mark) in refused.epochs.iter().filter(|(_, mark)| mark.issuer.is_none()) {
            let (known, epochs) = match kind {
                EpochKind::Reauthenticate => (&known.reauthenticate, &mut entry.reauthenticate),
                EpochKind::Reissue => (&known.reissue, &mut entry.reissue),
            };
            // That of a mark that was in doubt is given anew in any case, and the latest stands.
            let life = if mark.in_doubt { mark.life } else { mark.life.substitute() };
            if known.knows(life, mark.at) {
                continue;
            }
            let mark = Mark { epoch: Mark::PENDING, in_doubt: true, life, ..mark.clone() };
            let marks = match time.is_in_doubt() {
                true => vec![mark],
                false => self.timed(&mark, time, self.stamps.latest(), self.clock.boot()),
            };
            epochs.join(Epochs::of(marks));
            substitutes = true;
        }
        substitutes
    }

    /// What peers are told of the limits.
    fn told_limits(&self) -> Told {
        let limits = self.limits();
        let Limits { max_age, tenants, leeway, kept, .. } = &*limits;
        let mut bytes = Vec::with_capacity(tenants.len() * 24);
        for (tenant, _, age) in tenants {
            bytes.extend_from_slice(tenant.as_bytes());
            bytes.extend_from_slice(&age.to_le_bytes());
        }
        Told { leeway: *leeway, kept: *kept, max_age: *max_age, tenants: xxh3_64(&bytes) }
    }

    /// The first bin of which nothing is forgotten.
    fn horizon(&self) -> Bin {
        let now = self.reading().wall;
        Bin::of(now.saturating_sub(self.policy.kept_beyond()).saturating_sub(self.policy.leeway))
    }

    /// The bin in which an entry ends.
    fn bin(&self, item: &Item) -> Bin {
        Bin::of(match &item.entry {
            Entry::Narrow(entry) => entry.until.end(),
            Entry::Wide(entry) => self.denylist.ages().end_of(entry, item.scope),
        })
    }
}
