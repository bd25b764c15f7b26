//! The state machine: what a replica says to its peers, and what it makes of what they say.

mod comparison;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::codec;
use crate::model::{Bin, Fingerprint, Identity, Item, KeyId, Life, Locator, Node, Rows, Sum, Timestamp};

use super::message::{
    Delta, Envelope, Heartbeat, Known, LINES_MAX, LIVES_MAX, Line, Message, ORIGINS_MAX, Stamps, Told,
};
use super::origins::Origins;
use super::queue::{Queue, Transmit};
use super::{NodeId, Rejected, Replication, Trust};

/// How many bytes of entries one message brings, more or less.
const PAGE_BYTES: usize = 64 * 1024;
/// In a larger cluster not everyone is told everything by everyone.
const MESH_MAX: usize = 64;
/// After how many heartbeats without an answer a comparison is taken to be lost.
const PATIENCE: u32 = 3;

/// What a replica compares and merges: the store's denylist.
pub(crate) trait Content {
    /// The first bin that counts here: credentials of which all end earlier are dead.
    fn cutoff(&self) -> Bin;
    /// The first bin of which nothing has been forgotten.
    fn horizon(&self) -> Bin;
    /// The sum of all that ends in a bin or later.
    fn root(&self, cutoff: Bin) -> Sum;
    /// The sums of a node's children.
    fn children(&self, node: Node, cutoff: Bin) -> [Sum; Node::CHILDREN];
    /// Entries of a node, from a locator on, as far as they are wanted; and where to go on, if there are more.
    fn page(
        &self,
        node: Node,
        from: Locator,
        cutoff: Bin,
        bytes: usize,
        wanted: &dyn Fn(Fingerprint) -> bool,
    ) -> (Rows, Vec<Item>, Option<Locator>);
    /// Takes in a peer's entries.
    fn merge(&self, rows: Rows, items: Vec<Item>) -> Merged;
    /// Whether whatever names a subject is denied.
    fn denies(&self, subject: Identity) -> bool;
    /// The wall clock.
    fn wall(&self) -> Timestamp;
    /// The latest time that there is reason to believe in.
    fn believed(&self) -> Timestamp;
    /// The issuers that are ahead of it.
    fn lines(&self) -> Vec<Line>;
    /// The latest stamps from beyond it, of the subjects of credentials.
    fn stamps(&self) -> Stamps;
    /// Whether peers should hear at once of what is ahead.
    fn has_news(&self) -> bool;
    /// The limits that this replica was started with.
    fn limits(&self) -> Told;
    /// Takes in what a peer says of its clock, of issuers that are ahead, and of its limits.
    fn hear(&self, peer: NodeId, told: Hearsay);
}

/// What a peer says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Hearsay {
    /// Its wall clock when it said so, and when that arrived, since boot.
    pub(crate) wall: Timestamp,
    pub(crate) at: Duration,
    /// The latest time that it has reason to believe in.
    pub(crate) believed: Timestamp,
    pub(crate) lines: Vec<Line>,
    pub(crate) stamps: Stamps,
    pub(crate) limits: Told,
    /// The first bin of which it has forgotten nothing.
    pub(crate) horizon: Bin,
}

/// What became of a peer's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    /// How many changed anything.
    pub(crate) changed: u64,
    /// How many were refused, now and as long as they are what they are.
    pub(crate) refused: u64,
    /// How many of those were revoked from the present time on instead.
    pub(crate) substituted: u64,
    /// Whether some had no room, or could not be taken in for another reason of ours.
    pub(crate) incomplete: bool,
}

/// How recently a replica is known to have held all that it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Freshness {
    /// It has not held all of it since it was started.
    Bootstrapping,
    /// It held all of it so long ago.
    Fresh {
        /// How long ago, at most.
        age: Duration,
    },
    /// It held all of it so long ago, which is too long.
    Stale {
        /// How long ago, at most.
        age: Duration,
    },
}

/// What has been counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) messages_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) messages_out: u64,
    pub(crate) bytes_out: u64,
    pub(crate) rejected: u64,
    pub(crate) deltas_out: u64,
    pub(crate) deltas_in: u64,
    pub(crate) changed: u64,
    pub(crate) refused: u64,
    pub(crate) substituted: u64,
    pub(crate) comparisons: u64,
    /// How often two lives of one name were noticed that speak beside each other.
    pub(crate) twins: u64,
}

#[derive(Debug, Default)]
struct Peer {
    queue: Queue,
    /// The lives that its last heartbeats bore, when they were sent by its clock, which may begin anew with each, and when
    /// they came.
    echo: BTreeMap<Life, (u64, Duration)>,
    /// When it was last heard of.
    seen: Option<Duration>,
    /// Whether it has held just what we hold, since we were started.
    has_agreed: bool,
    /// When it last did, having caught up itself.
    agreed: Option<Duration>,
    /// When its content was first found to differ, since it last did not.
    differs: Option<Duration>,
    /// When the comparison of contents last went on.
    compared: Option<Duration>,
    /// What is to be fetched from it: each node, from where on.
    fetches: BTreeMap<Node, (Bin, Locator)>,
    /// The nodes of which a page is on its way.
    fetching: BTreeSet<Node>,
    /// When the last page was asked for, or came.
    paged: Duration,
    /// How many of our entries may still be looked at for its sake, until its next heartbeat is due.
    allowance: u64,
    /// Up to which delta of ours it holds all.
    holds: Option<(Life, u64)>,
    /// Up to which delta of its own it has been told that we hold all.
    told: Option<(Life, u64)>,
    next_heartbeat: Duration,
    /// Whether it is told news by itself, and not only by a bus.
    is_direct: bool,
    /// The first bin that counts there, and the first of which nothing has been forgotten there.
    bins: Option<(Bin, Bin)>,
}

/// The state of a replica towards its peers.
#[derive(Debug)]
pub(crate) struct Protocol {
    options: Replication,
    envelope: Envelope,
    life: Life,
    sequence: u64,
    /// Another process goes by this life, as after a clone: it needs another.
    is_cloned: bool,
    /// The names of which several lives speak.
    twins: BTreeSet<NodeId>,
    /// Those of which that is news.
    new_twins: Vec<NodeId>,
    peers: BTreeMap<NodeId, Peer>,
    /// What goes to everybody at once, by each transport that does so.
    buses: BTreeMap<u64, Queue>,
    origins: Origins,
    /// Whose turn it is to be sent something.
    turn: Option<NodeId>,
    random: u64,
    /// When peers are next allowed to have us look at entries.
    next_allowance: Duration,
    pub(crate) counts: Counts,
    /// Answers to probes: which, from whom, and whether the subject is denied there.
    answers: Vec<(u64, NodeId, bool)>,
}

impl Protocol {
    /// No other process, nor this one before, may have had the same life.
    pub(crate) fn new(options: Replication, key_id: KeyId, life: Life, now: Duration) -> Self {
        // Nobody needs to be kept from guessing it, but replicas must not all choose alike.
        let node = u128::from_le_bytes(*options.node.as_bytes());
        let seed = (node as u64 ^ (node >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let [.., a, b, c, d] = *life.as_bytes();
        let mut origins = Origins::default();
        origins.live(options.node, life, 0, now);
        Self {
            envelope: Envelope { cluster: options.cluster, key_id },
            options,
            life,
            sequence: 0,
            is_cloned: false,
            twins: BTreeSet::new(),
            new_twins: Vec::new(),
            peers: BTreeMap::new(),
            buses: BTreeMap::new(),
            origins,
            turn: None,
            random: seed ^ u64::from(u32::from_be_bytes([a, b, c, d])),
            next_allowance: Duration::ZERO,
            counts: Counts::default(),
            answers: Vec::new(),
        }
    }

    /// Says who the peers are: those that are told news one by one, and others, which hear them by a bus. What is known of
    /// those that stay is kept.
    pub(crate) fn set_peers(
        &mut self,
        direct: impl IntoIterator<Item = NodeId>,
        by_bus: impl IntoIterator<Item = NodeId>,
    ) {
        let mut known = std::mem::take(&mut self.peers);
        let direct = direct.into_iter().map(|peer| (peer, true));
        for (node, is_direct) in direct.chain(by_bus.into_iter().map(|peer| (peer, false))) {
            if node != self.options.node && !self.peers.contains_key(&node) {
                let new = || Peer { allowance: comparison::ALLOWANCE_MIN, ..Peer::default() };
                let peer = known.remove(&node).unwrap_or_else(new);
                self.peers.insert(node, Peer { is_direct, ..peer });
            }
        }
        let (peers, options) = (&self.peers, &self.options);
        self.origins.retain(|origin| is_tracked(peers, options, *origin));
    }

    /// From here on news go to a bus too.
    pub(crate) fn open_bus(&mut self, bus: u64) {
        self.buses.insert(bus, Queue::default());
    }

    pub(crate) fn close_bus(&mut self, bus: u64) {
        self.buses.remove(&bus);
    }

    /// The next message that a bus is to hand to everybody.
    pub(crate) fn poll_broadcast(&mut self, bus: u64) -> Option<Arc<[u8]>> {
        let bytes = self.buses.get_mut(&bus)?.pop()?;
        self.counts.messages_out += 1;
        self.counts.bytes_out += bytes.len() as u64;
        Some(bytes)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// Numbers entries that were changed here, and sends them on their way.
    pub(crate) fn publish(&mut self, items: &[Item], wall: Timestamp) {
        // No entry alone is too long to be sent.
        let Some(entries) = encoded(&Rows::default(), items) else { return self.leave_gap() };
        if entries.len() > PAGE_BYTES && items.len() > 1 {
            let (first, second) = items.split_at(items.len() / 2);
            self.publish(first, wall);
            return self.publish(second, wall);
        }
        self.sequence += 1;
        let direct: Vec<NodeId> = self.direct_peers().collect();
        let is_mesh = direct.len() <= MESH_MAX;
        let delta = Delta {
            origin: self.options.node,
            life: self.life,
            sequence: self.sequence,
            issued: wall.as_nanos(),
            hops: if is_mesh { 0 } else { self.hops(direct.len()) },
            entries,
        };
        let to = if is_mesh { direct } else { self.some(direct, self.options.fanout) };
        self.counts.deltas_out += 1;
        if let Some(bytes) = self.send_all(&to, &Message::Delta(delta)) {
            self.buses.values_mut().for_each(|bus| bus.push(Arc::clone(&bytes), true));
        }
    }

    /// Through how many hands a delta goes in a cluster of this size, and a few more.
    fn hops(&self, peers: usize) -> u8 {
        let fanout = self.options.fanout.max(2);
        let (mut reached, mut hops) = (1_usize, 0_u8);
        while reached < peers {
            reached = reached.saturating_mul(fanout);
            hops += 1;
        }
        hops + 3
    }

    /// Leaves out a number, so that the others notice that they lack something.
    pub(crate) fn leave_gap(&mut self) {
        self.sequence += 1;
    }

    /// Whether it answers whatever it has missed.
    pub(crate) fn is_ungated(&self) -> bool {
        self.options.trust == Trust::Nothing
    }

    /// How far this replica has issued.
    pub(crate) fn position(&self) -> (Life, u64) {
        (self.life, self.sequence)
    }

    /// Whether another process goes by this life.
    pub(crate) fn is_cloned(&self) -> bool {
        self.is_cloned
    }

    /// Begins another life, which no process has had.
    pub(crate) fn renew(&mut self, life: Life, now: Duration) {
        (self.life, self.sequence, self.is_cloned) = (life, 0, false);
        self.origins.live(self.options.node, life, 0, now);
    }

    /// The names of which several lives speak beside each other, where that is news.
    pub(crate) fn take_twins(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.new_twins)
    }

    /// Whether several lives of a name speak beside each other.
    pub(crate) fn has_twins(&self, node: NodeId) -> bool {
        self.twins.contains(&node)
    }

    /// Which peers are known to hold all that was issued up to a position.
    pub(crate) fn holders(&self, (life, sequence): (Life, u64)) -> impl Iterator<Item = NodeId> {
        let holds = move |peer: &Peer| peer.holds.is_some_and(|(of, held)| of == life && held >= sequence);
        self.peers.iter().filter(move |(_, peer)| holds(peer)).map(|(id, _)| *id)
    }

    /// Asks some peers whether they deny a subject.
    pub(crate) fn probe(&mut self, to: &[NodeId], number: u64, subject: Identity) {
        let Identity { locator, digest, shape } = subject;
        self.send_all(to, &Message::Probe { number, shape, locator, digest });
    }

    /// What peers answered to probes since this was last asked.
    pub(crate) fn take_answers(&mut self) -> Vec<(u64, NodeId, bool)> {
        std::mem::take(&mut self.answers)
    }

    /// The next message to be sent: each peer in turn.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        let waits = |(id, peer): (&NodeId, &Peer)| (!peer.queue.is_empty()).then_some(*id);
        let later =
            self.turn.and_then(|turn| self.peers.range((Bound::Excluded(turn), Bound::Unbounded)).find_map(waits));
        let to = later.or_else(|| self.peers.iter().find_map(waits))?;
        self.poll_transmit_to(to)
    }

    /// The next message to be sent to one peer.
    pub(crate) fn poll_transmit_to(&mut self, to: NodeId) -> Option<Transmit> {
        let bytes = self.peers.get_mut(&to)?.queue.pop()?;
        self.turn = Some(to);
        self.counts.messages_out += 1;
        self.counts.bytes_out += bytes.len() as u64;
        Some(Transmit { to, bytes })
    }

    /// Whether anything is to be sent.
    pub(crate) fn has_output(&self) -> bool {
        self.peers.values().map(|peer| &peer.queue).chain(self.buses.values()).any(|queue| !queue.is_empty())
    }

    /// How many messages found no room in the queues.
    pub(crate) fn dropped(&self) -> u64 {
        self.peers.values().map(|peer| &peer.queue).chain(self.buses.values()).map(|queue| queue.dropped).sum()
    }

    /// The time of which it is known that all was held that should be; none if it never was.
    pub(crate) fn known_fresh(&self, now: Duration) -> Option<Duration> {
        let heard = |node: NodeId| self.origins.heard(node, now, self.options.stale_after);
        // What a twin of this replica issues has to be held like that of any other issuer.
        let own = Some(self.options.node).filter(|node| self.has_twins(*node));
        match &self.options.trust {
            Trust::Nothing => Some(now),
            // What it issued itself, and lost with its disk, the other issuers have; a third party may have none of it.
            Trust::Issuers(issuers) if issuers.contains(&self.options.node) && !self.has_caught_up() => None,
            Trust::Issuers(issuers) => {
                let others = issuers.iter().copied().filter(|issuer| *issuer != self.options.node);
                // The least of them: none, if of one nothing is known; now, if there are no others.
                others.chain(own).map(heard).min().unwrap_or(Some(now))
            }
            Trust::Anchors { agreeing, anchors } => {
                // Who holds the same as one of two lives need not hold the same as the other.
                let anchors = anchors.iter().filter(|anchor| own.is_none() && !self.has_twins(**anchor));
                let agreed = anchors.filter_map(|anchor| self.peers.get(anchor)?.agreed);
                let mut agreed: Vec<Duration> = agreed.collect();
                agreed.sort_unstable_by(|a, b| b.cmp(a));
                agreed.get(agreeing.checked_sub(1)?).copied()
            }
        }
    }

    /// Whether this replica has held just what the others hold that it relies on, since it was started: what its own disk
    /// may have lost is back, as far as any of them had it. Whether they had caught up themselves does not matter, or all
    /// would wait for each other.
    fn has_caught_up(&self) -> bool {
        let has_agreed = |node: &NodeId| self.peers.get(node).is_some_and(|peer| peer.has_agreed);
        match &self.options.trust {
            Trust::Nothing => true,
            Trust::Issuers(issuers) => issuers.iter().all(|node| *node == self.options.node || has_agreed(node)),
            Trust::Anchors { agreeing, anchors } => anchors.iter().filter(|node| has_agreed(node)).count() >= *agreeing,
        }
    }

    pub(crate) fn freshness(&self, now: Duration) -> Freshness {
        let Some(at) = self.known_fresh(now) else { return Freshness::Bootstrapping };
        let age = now.saturating_sub(at);
        if age <= self.options.stale_after { Freshness::Fresh { age } } else { Freshness::Stale { age } }
    }

    /// When a peer was last heard of, and when it last held just what is held here.
    pub(crate) fn peer_times(&self, peer: NodeId) -> Option<(Option<Duration>, Option<Duration>)> {
        self.peers.get(&peer).map(|peer| (peer.seen, peer.agreed))
    }

    /// Takes in a message. Gives the time at which it was issued, by the origin's clock, if it is news.
    pub(crate) fn receive(
        &mut self,
        from: NodeId,
        bytes: &[u8],
        now: Duration,
        content: &dyn Content,
    ) -> Result<Option<Timestamp>, Rejected> {
        let opened = self.envelope.open(bytes);
        // Another life of this replica may be heard by the same transport.
        let is_own = from == self.options.node;
        let known = is_own || self.peers.contains_key(&from);
        let known = if known { opened } else { Err(Rejected::Stranger { from }) };
        let message = known.inspect_err(|_| self.counts.rejected += 1)?;
        if is_own {
            return self.on_message_of_own_name(message, now, content);
        }
        self.counts.messages_in += 1;
        self.counts.bytes_in += bytes.len() as u64;
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.seen = Some(now);
        }
        match message {
            Message::Heartbeat(heartbeat) => self.on_heartbeat(from, heartbeat, now, content),
            Message::Delta(delta) => return self.on_delta(from, delta, now, content),
            Message::Compare { cutoff, nodes } => self.on_compare(from, cutoff, &nodes, now, content),
            Message::List { cutoff, nodes } => self.on_list(from, cutoff, &nodes, now, content),
            Message::Want { cutoff, nodes } => self.on_want(from, cutoff, &nodes, content),
            Message::Fetch { cutoff, node, from: start } => self.on_fetch(from, cutoff, node, start, content),
            Message::Page { cutoff, node, entries, more } => {
                self.expect_more(from, cutoff, more.map(|more| (node, more)), Some(node), now);
                self.take_in(from, &entries, now, content)?;
            }
            Message::Entries { cutoff, entries, rest } => {
                self.expect_more(from, cutoff, rest, None, now);
                self.take_in(from, &entries, now, content)?;
            }
            Message::Probe { number, shape, locator, digest } => {
                let denied = content.denies(Identity { locator, digest, shape });
                self.send(from, &Message::Denied { number, denied });
            }
            Message::Denied { number, denied } => {
                if self.answers.len() < ORIGINS_MAX {
                    self.answers.push((number, from, denied));
                }
            }
            Message::Held { life, sequence } => self.on_own(from, life, sequence),
        }
        Ok(None)
    }

    /// Another life of this replica has spoken, or what this one said has come back.
    fn on_message_of_own_name(
        &mut self,
        message: Message,
        now: Duration,
        content: &dyn Content,
    ) -> Result<Option<Timestamp>, Rejected> {
        let node = self.options.node;
        match message {
            Message::Heartbeat(heartbeat) if heartbeat.life != self.life => {
                let (sent, delay) = (Duration::from_nanos(heartbeat.sent), self.options.stale_after);
                self.origins.speak(node, heartbeat.life, sent, now, None, delay);
            }
            Message::Heartbeat(heartbeat) => self.is_cloned |= heartbeat.sequence > self.sequence,
            Message::Delta(delta) if delta.life != self.life => return self.on_delta(node, delta, now, content),
            _ => {}
        }
        Ok(None)
    }

    fn merge(&mut self, entries: &[u8], content: &dyn Content) -> Result<Merged, Rejected> {
        let malformed = |error: codec::DecodeError| Rejected::Malformed(error.to_string());
        let (rows, items) =
            codec::decode_entries(entries).map_err(malformed).inspect_err(|_| self.counts.rejected += 1)?;
        let merged = content.merge(rows, items);
        self.counts.changed += merged.changed;
        self.counts.refused += merged.refused;
        self.counts.substituted += merged.substituted;
        Ok(merged)
    }

    fn on_delta(
        &mut self,
        from: NodeId,
        mut delta: Delta,
        now: Duration,
        content: &dyn Content,
    ) -> Result<Option<Timestamp>, Rejected> {
        let (origin, life, sequence) = (delta.origin, delta.life, delta.sequence);
        let is_own = origin == self.options.node && life == self.life;
        if is_own || self.origins.holds(origin, life, sequence) {
            return Ok(None);
        }
        // Whatever life it is of: to take it in never harms.
        let merged = self.merge(&delta.entries, content)?;
        self.counts.deltas_in += 1;
        if !merged.incomplete && is_tracked(&self.peers, &self.options, origin) {
            self.origins.delivered(origin, life, sequence, merged.refused > 0, now);
        }
        let issued = Timestamp::from_nanos(delta.issued);
        if delta.hops > 0 {
            delta.hops -= 1;
            let others = self.direct_peers().filter(|peer| *peer != from && *peer != origin).collect();
            let to = self.some(others, self.options.fanout);
            self.send_all(&to, &Message::Delta(delta));
        }
        Ok(Some(issued))
    }

    fn on_heartbeat(&mut self, from: NodeId, heartbeat: Heartbeat, now: Duration, content: &dyn Content) {
        let Heartbeat {
            sent, echo, life, sequence, wall, believed, twins, limits, horizon, line, cutoff, root, ..
        } = heartbeat;
        let Heartbeat { lines, stamps, origins, vouches, wants_reply, .. } = heartbeat;
        // It was sent after the heartbeat that it echoes: what it says was so then, or later.
        let echoed = echo.iter().find(|(of, _)| *of == self.life).map(|(_, at)| Duration::from_nanos(*at));
        let at = echoed.filter(|at| *at <= now);
        let is_late = self.peers.get(&from).and_then(|peer| peer.echo.get(&life)).is_some_and(|(last, _)| *last > sent);
        if !is_late {
            let [wall, believed] = [wall, believed].map(Timestamp::from_nanos);
            content.hear(from, Hearsay { wall, at: now, believed, lines, stamps, limits, horizon });
        }
        // A peer that has forgotten what counts here cannot be compared with.
        let is_comparable = content.horizon() <= cutoff && cutoff <= content.cutoff().next();
        let is_equal = is_comparable && horizon <= cutoff && content.root(cutoff) == root;
        self.origins.speak(from, life, Duration::from_nanos(sent), now, at, self.options.stale_after);
        if twins.iter().any(|(life, _)| *life == self.life) {
            for (twin, age) in twins.into_iter().filter(|(life, _)| *life != self.life) {
                let alive = at.unwrap_or(now).checked_sub(Duration::from_nanos(age));
                self.origins.tell(self.options.node, twin, alive, now);
            }
        }
        let mut all = origins;
        if vouches {
            all.push(Known { origin: from, life, sequence, age: 0, is_partial: false });
        }
        let mut lacks = false;
        for known in &all {
            let (origin, life, sequence) = (known.origin, known.life, known.sequence);
            if origin == self.options.node && life == self.life {
                self.on_own(from, life, sequence);
            } else if is_tracked(&self.peers, &self.options, origin) {
                let alive = at.and_then(|at| at.checked_sub(Duration::from_nanos(known.age)));
                // Who may be a twin of this replica is said in so many words.
                if origin != from && origin != self.options.node {
                    self.origins.tell(origin, life, alive, now);
                }
                if is_equal && !known.is_partial {
                    self.origins.reach(origin, life, sequence);
                }
                lacks |= origin != self.options.node && self.origins.lacks(origin, life, sequence);
                alive.into_iter().for_each(|at| self.origins.hear(origin, life, sequence, at));
            }
        }
        let had_caught_up = self.has_caught_up();
        let has_heard = self.origins.heard(from, now, self.options.stale_after).is_some();
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if !is_late {
            peer.echo.insert(life, (sent, now));
            let oldest = peer.echo.iter().min_by_key(|(_, (_, came))| *came).map(|(life, _)| *life);
            oldest.filter(|_| peer.echo.len() > LIVES_MAX).into_iter().for_each(|life| _ = peer.echo.remove(&life));
            peer.bins = Some((line, horizon));
        }
        if is_equal {
            peer.has_agreed = true;
            peer.agreed = peer.agreed.max(at.filter(|_| vouches));
            peer.differs = None;
            peer.fetches.clear();
        } else {
            let since = *peer.differs.get_or_insert(now);
            // What is on its way is given time to arrive; of two replicas, one begins.
            let heartbeat = self.options.heartbeat;
            let is_first = self.options.node < from;
            let grace = heartbeat * if is_first { 1 } else { 2 };
            let has_waited = now.saturating_sub(since) >= grace;
            let pause = heartbeat * if peer.fetching.is_empty() { 1 } else { PATIENCE };
            let is_idle = peer.compared.is_none_or(|at| now.saturating_sub(at) >= pause);
            let is_urgent = !has_heard && (lacks || !peer.has_agreed);
            if is_idle && (has_waited || is_urgent) {
                self.compare(from, now, content);
            }
        }
        if !had_caught_up && self.has_caught_up() {
            // Others may have waited for this.
            self.peers.values_mut().for_each(|peer| peer.next_heartbeat = now);
        }
        if wants_reply {
            self.send_heartbeat(from, now, content, false);
        }
    }

    /// A peer has told what it knows of this life.
    fn on_own(&mut self, from: NodeId, life: Life, sequence: u64) {
        if life != self.life {
            return;
        }
        if sequence > self.sequence {
            // This one has issued no such delta: a process that was cloned from this one has.
            self.is_cloned = true;
        } else if let Some(peer) = self.peers.get_mut(&from) {
            let held = peer.holds.filter(|(of, _)| *of == life).map_or(0, |(_, held)| held);
            peer.holds = Some((life, sequence.max(held)));
        }
    }

    /// Does what is due. To be called several times within a heartbeat.
    pub(crate) fn tick(&mut self, now: Duration, content: &dyn Content) {
        let is_mesh = self.peers.len() <= MESH_MAX;
        if content.has_news() {
            self.peers.values_mut().for_each(|peer| peer.next_heartbeat = now);
        }
        let due: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| peer.next_heartbeat <= now).map(|(id, _)| *id).collect();
        if is_mesh {
            for to in due {
                // Who is new is asked at once, and not only heard.
                let is_new = self.peers.get(&to).is_some_and(|peer| !peer.has_agreed);
                self.send_heartbeat(to, now, content, is_new);
            }
        } else if !due.is_empty() {
            for to in self.some(self.peers().collect(), self.options.fanout) {
                self.send_heartbeat(to, now, content, true);
            }
            let next = now + self.options.heartbeat;
            self.peers.values_mut().for_each(|peer| peer.next_heartbeat = next);
        }
        self.note_twins(now);
        let told: Vec<(NodeId, (Life, u64))> = self
            .peers
            .iter()
            .filter_map(|(id, peer)| Some((*id, self.origins.reached(*id).filter(|held| Some(*held) != peer.told)?)))
            .collect();
        for (to, held) in told {
            if let Some(peer) = self.peers.get_mut(&to) {
                peer.told = Some(held);
            }
            self.send(to, &Message::Held { life: held.0, sequence: held.1 });
        }
        self.allow(now, content);
        let patience = self.options.heartbeat * PATIENCE;
        for peer in self.peers.values_mut() {
            if !peer.fetching.is_empty() && now.saturating_sub(peer.paged) > patience {
                peer.fetching.clear();
                peer.fetches.clear();
            }
        }
    }

    /// Notices of which names several lives speak.
    fn note_twins(&mut self, now: Duration) {
        self.origins.live(self.options.node, self.life, self.sequence, now);
        let window = self.options.stale_after;
        let twins: BTreeSet<NodeId> =
            self.origins.nodes().filter(|node| !self.origins.twins(*node, now, window).is_empty()).collect();
        let new: Vec<NodeId> = twins.difference(&self.twins).copied().collect();
        self.counts.twins += new.len() as u64;
        self.new_twins.extend(new);
        self.twins = twins;
    }

    /// From which bin on contents are compared with a peer: the first that counts here or there, of which nothing has been
    /// forgotten here nor there.
    fn cutoff_with(&self, peer: NodeId, content: &dyn Content) -> Bin {
        let (own, bins) = (content.cutoff(), self.peers.get(&peer).and_then(|peer| peer.bins));
        let (line, horizon) = bins.unwrap_or((own, content.horizon()));
        own.min(line).max(content.horizon()).max(horizon.min(own))
    }

    fn send_heartbeat(&mut self, to: NodeId, now: Duration, content: &dyn Content, wants_reply: bool) {
        let period = self.options.heartbeat;
        let cutoff = self.cutoff_with(to, content);
        let Some(peer) = self.peers.get_mut(&to) else { return };
        peer.next_heartbeat = now + period;
        // Of a life that has gone nobody waits for an answer.
        let stale_after = self.options.stale_after;
        peer.echo.retain(|_, (_, came)| now.saturating_sub(*came) <= stale_after);
        let echo = peer.echo.iter().map(|(life, (sent, _))| (*life, *sent)).collect();
        let origins = match &self.options.trust {
            Trust::Issuers(issuers) => {
                // It vouches for itself elsewhere, or not.
                let others = issuers.iter().filter(|issuer| **issuer != self.options.node);
                self.origins.known(others, now, self.options.stale_after)
            }
            Trust::Anchors { .. } | Trust::Nothing => Vec::new(),
        };
        let (life, sequence) = self.position();
        let age = |age: Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let twins = self.origins.twins(to, now, self.options.stale_after).into_iter();
        let twins = twins.map(|(life, alive)| (life, age(alive))).collect();
        let mut lines = content.lines();
        lines.truncate(LINES_MAX);
        let stamps = content.stamps();
        let (wall, believed) = (content.wall().as_nanos(), content.believed().as_nanos());
        let limits = content.limits();
        let (horizon, line) = (content.horizon(), content.cutoff());
        let vouches = self.has_caught_up();
        // What was issued before this is in the sum.
        let root = content.root(cutoff);
        let sent = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.send(
            to,
            &Message::Heartbeat(Heartbeat {
                sent,
                echo,
                life,
                sequence,
                wall,
                believed,
                lines,
                stamps,
                twins,
                limits,
                horizon,
                line,
                cutoff,
                root,
                origins,
                vouches,
                wants_reply,
            }),
        );
    }

    fn send(&mut self, to: NodeId, message: &Message) {
        self.send_all(&[to], message);
    }

    /// Gives the bytes that are sent.
    fn send_all(&mut self, to: &[NodeId], message: &Message) -> Option<Arc<[u8]>> {
        let bytes: Arc<[u8]> = self.envelope.seal(message)?.into();
        for to in to {
            if let Some(peer) = self.peers.get_mut(to) {
                peer.queue.push(Arc::clone(&bytes), message.is_urgent());
            }
        }
        Some(bytes)
    }

    fn direct_peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.is_direct).map(|(id, _)| *id)
    }

    /// Some of these peers.
    fn some(&mut self, mut peers: Vec<NodeId>, count: usize) -> Vec<NodeId> {
        let mut some = Vec::new();
        while some.len() < count && !peers.is_empty() {
            // SplitMix64.
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.random;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            some.push(peers.swap_remove((word % peers.len() as u64) as usize));
        }
        some
    }
}

/// Whether it matters how much of what a replica issued is held. Of another life of this one it does, too.
fn is_tracked(peers: &BTreeMap<NodeId, Peer>, options: &Replication, origin: NodeId) -> bool {
    let is_issuer = matches!(&options.trust, Trust::Issuers(issuers) if issuers.contains(&origin));
    is_issuer || origin == options.node || peers.contains_key(&origin)
}

fn encoded(rows: &Rows, items: &[Item]) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    codec::encode_entries(rows, items, &mut entries).ok()?;
    Some(entries)
}
