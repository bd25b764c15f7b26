//! The state machine: what a replica says to its peers, and what it makes of what they say.

mod comparison;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::codec;
use crate::model::{Bin, Fingerprint, Identity, Item, KeyId, Locator, Node, Rows, Sum, Timestamp};

use super::message::{Delta, Envelope, Heartbeat, Known, Message, ORIGINS_MAX};
use super::origins::Origins;
use super::queue::{Queue, Transmit};
use super::{NodeId, Rejected, Replication, Trust};

/// How many bytes of entries one message brings, more or less.
const PAGE_BYTES: usize = 64 * 1024;
/// In a larger cluster not everyone is told everything by everyone.
const MESH_MAX: usize = 64;
/// How far ahead of our clock the incarnation of a peer may be, which is a time of its own clock.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often a peer may tell that an incarnation of ours was later.
const RENEWAL_PERIOD: Duration = Duration::from_secs(60);
/// After how many heartbeats without an answer a comparison is taken to be lost.
const PATIENCE: u32 = 3;

/// What a replica compares and merges: the store's denylist.
pub(crate) trait Content {
    /// The first bin that counts now.
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
}

/// What became of a peer's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    /// How many changed anything.
    pub(crate) changed: u64,
    /// How many were refused, now and as long as they are what they are.
    pub(crate) refused: u64,
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
    pub(crate) comparisons: u64,
}

#[derive(Debug, Default)]
struct Peer {
    queue: Queue,
    /// The incarnation that its last heartbeat bore, and when it was sent by its clock, which may begin anew with each.
    echo: (u64, u64),
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
    holds: Option<(u64, u64)>,
    /// Up to which delta of its own it has been told that we hold all.
    told: Option<(u64, u64)>,
    next_heartbeat: Duration,
    /// Whether it is told news by itself, and not only by a bus.
    is_direct: bool,
}

/// The state of a replica towards its peers.
#[derive(Debug)]
pub(crate) struct Protocol {
    options: Replication,
    envelope: Envelope,
    incarnation: u64,
    /// When a peer last told of a later one.
    renewed: Option<Duration>,
    sequence: u64,
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
    /// The incarnation must be higher than at any start before; if it is not, it is made so once peers tell.
    pub(crate) fn new(options: Replication, key_id: KeyId, incarnation: u64) -> Self {
        // Nobody needs to be kept from guessing it, but replicas must not all choose alike.
        let node = u128::from_le_bytes(*options.node.as_bytes());
        let seed = (node as u64 ^ (node >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            envelope: Envelope { cluster: options.cluster, key_id },
            options,
            incarnation: incarnation.max(1),
            renewed: None,
            sequence: 0,
            peers: BTreeMap::new(),
            buses: BTreeMap::new(),
            origins: Origins::default(),
            turn: None,
            random: seed ^ incarnation,
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
        let (peers, trust) = (&self.peers, &self.options.trust);
        self.origins.retain(|origin| is_tracked(peers, trust, *origin));
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
            incarnation: self.incarnation,
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
    pub(crate) fn position(&self) -> (u64, u64) {
        (self.incarnation, self.sequence)
    }

    /// Which peers are known to hold all that was issued up to a position.
    pub(crate) fn holders(&self, position: (u64, u64)) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(move |(_, peer)| peer.holds >= Some(position)).map(|(id, _)| *id)
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
        match &self.options.trust {
            Trust::Nothing => Some(now),
            // What it issued itself, and lost with its disk, the other issuers have; a third party may have none of it.
            Trust::Issuers(issuers) if issuers.contains(&self.options.node) && !self.has_caught_up() => None,
            Trust::Issuers(issuers) => {
                let others = issuers.iter().filter(|issuer| **issuer != self.options.node);
                // The least of them: none, if of one nothing is known; now, if there are no others.
                others.map(|issuer| self.origins.heard(*issuer)).min().unwrap_or(Some(now))
            }
            Trust::Anchors { agreeing, anchors } => {
                let agreed = anchors.iter().filter_map(|anchor| self.peers.get(anchor)?.agreed);
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
        let known = if self.peers.contains_key(&from) { opened } else { Err(Rejected::Stranger { from }) };
        let message = known.inspect_err(|_| self.counts.rejected += 1)?;
        self.counts.messages_in += 1;
        self.counts.bytes_in += bytes.len() as u64;
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.seen = Some(now);
        }
        // A clock that is years ahead must not make all later ones seem to be of the past.
        let latest = content.cutoff().start().saturating_add(AHEAD_MAX).as_nanos();
        match message {
            Message::Held { incarnation, .. } if incarnation > latest => {}
            Message::Heartbeat(mut heartbeat) => {
                heartbeat.vouches &= heartbeat.incarnation <= latest;
                heartbeat.incarnation = heartbeat.incarnation.min(latest);
                heartbeat.origins.retain(|known| known.incarnation <= latest);
                self.on_heartbeat(from, heartbeat, now, content);
            }
            Message::Delta(delta) => return self.on_delta(from, delta, latest, content),
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
            Message::Held { incarnation, sequence } => self.on_own(from, incarnation, sequence, now),
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
        Ok(merged)
    }

    fn on_delta(
        &mut self,
        from: NodeId,
        mut delta: Delta,
        latest: u64,
        content: &dyn Content,
    ) -> Result<Option<Timestamp>, Rejected> {
        let (origin, incarnation, sequence) = (delta.origin, delta.incarnation, delta.sequence);
        self.refute(from, origin, incarnation);
        if origin == self.options.node || self.origins.holds(origin, incarnation, sequence) {
            return Ok(None);
        }
        let merged = self.merge(&delta.entries, content)?;
        self.counts.deltas_in += 1;
        let counts = !merged.incomplete && incarnation <= latest;
        if counts && is_tracked(&self.peers, &self.options.trust, origin) {
            self.origins.delivered(origin, incarnation, sequence, merged.refused > 0);
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
        let Heartbeat { sent, echo, incarnation, sequence, cutoff, root, origins, vouches, wants_reply } = heartbeat;
        let is_equal = content.horizon() <= cutoff && cutoff <= content.cutoff().next() && content.root(cutoff) == root;
        // It was sent after the heartbeat that it echoes: what it says was so then, or later.
        let at = Some(Duration::from_nanos(echo.1)).filter(|at| echo.0 == self.incarnation && *at <= now);
        let mut all = origins;
        if vouches {
            all.push(Known { origin: from, incarnation, sequence, age: 0, is_partial: false });
        }
        self.refute(from, from, incarnation);
        let mut lacks = false;
        for known in &all {
            let (origin, incarnation, sequence) = (known.origin, known.incarnation, known.sequence);
            if origin == self.options.node {
                self.on_own(from, incarnation, sequence, now);
            } else if is_tracked(&self.peers, &self.options.trust, origin) {
                if is_equal && !known.is_partial {
                    self.origins.reach(origin, incarnation, sequence);
                }
                lacks |= self.origins.lacks(origin, incarnation, sequence);
                if let Some(at) = at.and_then(|at| at.checked_sub(Duration::from_nanos(known.age))) {
                    self.origins.hear(origin, incarnation, sequence, at);
                }
            }
        }
        let had_caught_up = self.has_caught_up();
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.echo = peer.echo.max((incarnation, sent));
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
            let is_urgent = self.origins.heard(from).is_none() && (lacks || !peer.has_agreed);
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

    /// Tells a peer that has been started anew, and does not know that it bore a later incarnation before.
    fn refute(&mut self, from: NodeId, origin: NodeId, incarnation: u64) {
        let heard = self.peers.get(&from).map(|peer| peer.echo.0);
        let later = heard.max(self.origins.incarnation(origin)).filter(|known| from == origin && *known > incarnation);
        if let Some(later) = later {
            self.send(from, &Message::Held { incarnation: later, sequence: 0 });
        }
    }

    /// A peer has told what it knows of this replica.
    fn on_own(&mut self, from: NodeId, incarnation: u64, sequence: u64, now: Duration) {
        if incarnation > self.incarnation {
            // The clock went back, and the disk was lost: what is issued now must not be taken for what was then.
            let is_due = self.renewed.is_none_or(|at| now.saturating_sub(at) >= RENEWAL_PERIOD);
            if is_due {
                self.renewed = Some(now);
                self.incarnation = later_than(incarnation, self.incarnation);
                self.sequence = 0;
            }
        } else if let Some(peer) = self.peers.get_mut(&from) {
            peer.holds = peer.holds.max(Some((incarnation, sequence)));
        }
    }

    /// Does what is due. To be called several times within a heartbeat.
    pub(crate) fn tick(&mut self, now: Duration, content: &dyn Content) {
        let is_mesh = self.peers.len() <= MESH_MAX;
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
        let told: Vec<(NodeId, (u64, u64))> = self
            .peers
            .iter()
            .filter_map(|(id, peer)| Some((*id, self.origins.reached(*id).filter(|held| Some(*held) > peer.told)?)))
            .collect();
        for (to, held) in told {
            if let Some(peer) = self.peers.get_mut(&to) {
                peer.told = Some(held);
            }
            self.send(to, &Message::Held { incarnation: held.0, sequence: held.1 });
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

    fn send_heartbeat(&mut self, to: NodeId, now: Duration, content: &dyn Content, wants_reply: bool) {
        let period = self.options.heartbeat;
        let cutoff = content.cutoff();
        let Some(peer) = self.peers.get_mut(&to) else { return };
        peer.next_heartbeat = now + period;
        let echo = peer.echo;
        let origins = match &self.options.trust {
            Trust::Issuers(issuers) => self.origins.known(issuers, now),
            Trust::Anchors { .. } | Trust::Nothing => Vec::new(),
        };
        let (incarnation, sequence) = self.position();
        let vouches = self.has_caught_up();
        // What was issued before this is in the sum.
        let root = content.root(cutoff);
        let sent = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let heartbeat = Heartbeat { sent, echo, incarnation, sequence, cutoff, root, origins, vouches, wants_reply };
        self.send(to, &Message::Heartbeat(heartbeat));
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

/// The low bits of an incarnation are those of the start, and no other start has them.
const BITS_OF_THE_START: u32 = 24;

/// An incarnation that is later than one that peers remember, and is no other start's: another life may have been told of
/// the same one.
fn later_than(remembered: u64, own: u64) -> u64 {
    let start = own & ((1 << BITS_OF_THE_START) - 1);
    ((remembered >> BITS_OF_THE_START) + 1) << BITS_OF_THE_START | start
}

fn is_tracked(peers: &BTreeMap<NodeId, Peer>, trust: &Trust, origin: NodeId) -> bool {
    match trust {
        Trust::Issuers(issuers) => issuers.contains(&origin) || peers.contains_key(&origin),
        Trust::Anchors { .. } | Trust::Nothing => peers.contains_key(&origin),
    }
}

fn encoded(rows: &Rows, items: &[Item]) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    codec::encode_entries(rows, items, &mut entries).ok()?;
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lives_that_are_told_of_the_same_one_take_different_ones() {
        let remembered = 0x5555_0012_3456;
        let (one, two) = (later_than(remembered, 0x1111_0000_0001), later_than(remembered, 0x1111_0000_0002));
        assert!(one > remembered && two > remembered && one != two);
        assert!(later_than(one, 0x1111_0000_0002) > one);
    }
}
