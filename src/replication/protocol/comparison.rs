//! The comparison of contents: down a tree from its root to what differs, and what is sent for that.
//!
//! No message depends on one before it. Whatever is lost, or not answered, is found again by the next comparison.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

use crate::model::{Bin, Fingerprint, Item, Locator, Node, Rows, Sum};
use crate::replication::message::{Compared, LISTED_MAX, Listed, Message, NODES_MAX};
use crate::replication::{NodeId, Rejected};

use super::{Content, PAGE_BYTES, PATIENCE, Peer, Protocol, encoded};

/// How many pages a peer is asked for at a time.
const WINDOW: usize = 8;
/// How many nodes may wait to be fetched from a peer.
const FETCHES_MAX: usize = 8192;
/// From how many peers a new replica fetches at once.
const SOURCES_MAX: usize = 3;
/// Looking through a page stops after about so many entries.
const ENTRIES_OF_A_PAGE: u64 = 4096;
/// How often all entries may be looked at for the sake of one peer within a heartbeat: if many differ, a comparison looks
/// at all of them at each depth.
const LOOKS_MAX: u64 = 3;
/// What it costs to add up the sums that are kept, in entries.
const COST_OF_THE_ROOT: u64 = 10_000;
/// However few entries there are, so many may be looked at.
pub(super) const ALLOWANCE_MIN: u64 = 1_000_000;

impl Peer {
    /// Notes that a node is to be fetched; unless it is already, or is part of one that is: both sides may have begun to
    /// compare.
    fn fetch_later(&mut self, cutoff: Bin, node: Node, start: Locator) {
        let is_known = node.up().any(|node| self.fetches.contains_key(&node) || self.fetching.contains(&node));
        if !is_known && self.fetches.len() < FETCHES_MAX {
            self.fetches.insert(node, (cutoff, start));
        }
    }
}

impl Protocol {
    /// Begins to compare contents with a peer.
    pub(super) fn compare(&mut self, to: NodeId, now: Duration, content: &dyn Content) {
        let cutoff = self.cutoff_with(to, content);
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.compared = Some(now);
            peer.fetches.clear();
            peer.fetching.clear();
        }
        self.counts.comparisons += 1;
        let root = compared(Node::ROOT, cutoff, content);
        self.send(to, &Message::Compare { cutoff, nodes: vec![root] });
    }

    pub(super) fn on_compare(
        &mut self,
        from: NodeId,
        cutoff: Bin,
        nodes: &[Compared],
        now: Duration,
        content: &dyn Content,
    ) {
        if cutoff < content.horizon() || cutoff > content.cutoff().next() {
            // What the peer compares is partly forgotten here, or not yet over: compare what is not.
            if cutoff < content.horizon() && nodes.iter().any(|compared| compared.node == Node::ROOT) {
                self.compare(from, now, content);
            }
            return;
        }
        let (mut deeper, mut lists, mut fetches) = (Vec::new(), Vec::new(), Vec::new());
        let total = content.root(cutoff).count;
        for Compared { node, children } in nodes {
            if !self.afford(from, cost_of_comparing(*node, total)) {
                break;
            }
            let mine = content.children(*node, cutoff);
            for ((child, mine), theirs) in node.children().zip(mine).zip(children) {
                if mine.brief() == *theirs {
                    continue;
                }
                if mine.count == 0 {
                    fetches.push((cutoff, child, child.first()));
                } else if mine.count <= LISTED_MAX as u64 {
                    let seen = RefCell::new(Vec::new());
                    content.page(child, child.first(), cutoff, usize::MAX, &|fingerprint| {
                        seen.borrow_mut().push(fingerprint);
                        false
                    });
                    let mut fingerprints = seen.into_inner();
                    fingerprints.truncate(LISTED_MAX);
                    lists.push(Listed { node: child, fingerprints });
                } else if child.depth() < Node::DEPTH_MAX {
                    deeper.push(compared(child, cutoff, content));
                }
            }
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.compared = Some(now);
        }
        for nodes in deeper.chunks(NODES_MAX) {
            self.send(from, &Message::Compare { cutoff, nodes: nodes.to_vec() });
        }
        for nodes in lists.chunks(NODES_MAX) {
            self.send(from, &Message::List { cutoff, nodes: nodes.to_vec() });
        }
        // Who has much to fetch does so from several peers.
        let mut sources = vec![from];
        if fetches.len() >= Node::CHILDREN {
            let others = self.peers.iter().filter(|(id, peer)| {
                **id != from && peer.seen.is_some_and(|at| now.saturating_sub(at) <= self.options.heartbeat * PATIENCE)
            });
            sources.extend(others.map(|(id, _)| *id).take(SOURCES_MAX - 1));
        }
        for (fetch, source) in fetches.into_iter().zip(sources.iter().cycle()) {
            if let Some(peer) = self.peers.get_mut(source) {
                let (cutoff, node, start) = fetch;
                peer.fetch_later(cutoff, node, start);
                peer.compared = Some(now);
            }
        }
        sources.into_iter().for_each(|source| self.fetch(source, now));
    }

    pub(super) fn on_list(
        &mut self,
        from: NodeId,
        cutoff: Bin,
        nodes: &[Listed],
        now: Duration,
        content: &dyn Content,
    ) {
        let total = content.root(cutoff).count;
        let mut room = PAGE_BYTES;
        let (mut all, mut others, mut rest, mut wants) = (Rows::default(), Vec::new(), Vec::new(), Vec::new());
        for Listed { node, fingerprints } in nodes {
            if !self.afford(from, entries_of(*node, total).min(ENTRIES_OF_A_PAGE)) {
                break;
            }
            let theirs: HashSet<Fingerprint> = fingerprints.iter().copied().collect();
            let mine = RefCell::new(HashSet::new());
            let (rows, items, more) = content.page(*node, node.first(), cutoff, room.max(1), &|fingerprint| {
                mine.borrow_mut().insert(fingerprint);
                !theirs.contains(&fingerprint)
            });
            room = room.saturating_sub((rows.rows.len() + items.len()) * 64);
            append(&mut all, rows);
            others.extend(items);
            match more {
                Some(more) => rest.push((*node, more)),
                None => {
                    let mine = mine.into_inner();
                    let fingerprints: Vec<_> = fingerprints.iter().copied().filter(|one| !mine.contains(one)).collect();
                    if !fingerprints.is_empty() {
                        wants.push(Listed { node: *node, fingerprints });
                    }
                }
            }
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.compared = Some(now);
        }
        if !wants.is_empty() {
            self.send(from, &Message::Want { cutoff, nodes: wants });
        }
        self.send_entries(from, cutoff, &all, &others, rest);
    }

    pub(super) fn on_want(&mut self, from: NodeId, cutoff: Bin, nodes: &[Listed], content: &dyn Content) {
        let total = content.root(cutoff).count;
        let mut room = 4 * PAGE_BYTES;
        let (mut all, mut others) = (Rows::default(), Vec::new());
        for Listed { node, fingerprints } in nodes {
            if !self.afford(from, entries_of(*node, total)) {
                break;
            }
            let wanted: HashSet<Fingerprint> = fingerprints.iter().copied().collect();
            let (rows, items, _) = content.page(*node, node.first(), cutoff, room, &|one| wanted.contains(&one));
            room = room.saturating_sub((rows.rows.len() + items.len()) * 64);
            append(&mut all, rows);
            others.extend(items);
            if room == 0 {
                // The rest will differ still when contents are next compared.
                break;
            }
        }
        self.send_entries(from, cutoff, &all, &others, Vec::new());
    }

    fn send_entries(&mut self, to: NodeId, cutoff: Bin, rows: &Rows, items: &[Item], rest: Vec<(Node, Locator)>) {
        if rows.rows.is_empty() && items.is_empty() && rest.is_empty() {
            return;
        }
        if let Some(entries) = encoded(rows, items) {
            self.send(to, &Message::Entries { cutoff, entries, rest });
        }
    }

    pub(super) fn on_fetch(&mut self, from: NodeId, cutoff: Bin, node: Node, start: Locator, content: &dyn Content) {
        // What would find no room in the queue is not looked for.
        if self.peers.get(&from).is_none_or(|peer| !peer.queue.has_room(2 * PAGE_BYTES)) {
            return;
        }
        let (rows, items, more) = content.page(node, start, cutoff, PAGE_BYTES, &|_| true);
        if let Some(entries) = encoded(&rows, &items) {
            self.send(from, &Message::Page { cutoff, node, entries, more });
        }
    }

    /// A peer has sent entries: a page of a node, if it was asked for one, and from where there is more.
    pub(super) fn expect_more(
        &mut self,
        from: NodeId,
        cutoff: Bin,
        rest: impl IntoIterator<Item = (Node, Locator)>,
        page_of: Option<Node>,
        now: Duration,
    ) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.compared = Some(now);
            // A page that nobody waits for any more is taken in, and not gone on with.
            let is_expected = page_of.is_none_or(|node| peer.fetching.remove(&node));
            if is_expected {
                peer.paged = now;
                rest.into_iter().for_each(|(node, start)| peer.fetch_later(cutoff, node, start));
            }
        }
        // The next page is on its way while this one is taken in.
        self.fetch(from, now);
    }

    pub(super) fn take_in(
        &mut self,
        from: NodeId,
        entries: &[u8],
        now: Duration,
        content: &dyn Content,
    ) -> Result<(), Rejected> {
        self.merge(entries, content)?;
        // Once all is fetched that the peer had, it is asked whether that was all.
        if self.peers.get(&from).is_some_and(|peer| peer.fetching.is_empty() && peer.fetches.is_empty()) {
            self.send_heartbeat(from, now, content, true);
        }
        Ok(())
    }

    /// Asks a peer for as many pages as may be under way.
    fn fetch(&mut self, from: NodeId, now: Duration) {
        while let Some(peer) = self.peers.get_mut(&from)
            && peer.fetching.len() < WINDOW
            && let Some((node, (cutoff, start))) = peer.fetches.pop_first()
        {
            peer.fetching.insert(node);
            peer.paged = now;
            self.send(from, &Message::Fetch { cutoff, node, from: start });
        }
    }

    /// Whether a peer may have us look at so many entries. It gets what it has left.
    fn afford(&mut self, peer: NodeId, entries: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&peer) else { return false };
        let can = peer.allowance > 0;
        peer.allowance = peer.allowance.saturating_sub(entries);
        can
    }

    /// Allows each peer, once in a heartbeat, to have us look at all entries a few times: more would keep us from everything
    /// else, and what is not looked at now is compared again.
    pub(super) fn allow(&mut self, now: Duration, content: &dyn Content) {
        if now >= self.next_allowance {
            self.next_allowance = now + self.options.heartbeat;
            let entries = content.root(content.horizon()).count.saturating_mul(LOOKS_MAX).max(ALLOWANCE_MIN);
            self.peers.values_mut().for_each(|peer| peer.allowance = entries);
        }
    }
}

/// What it costs to look at a node's children, and at theirs: where sums are kept, it is less than that many entries.
fn cost_of_comparing(node: Node, total: u64) -> u64 {
    match node.depth() {
        0 => COST_OF_THE_ROOT,
        1 => entries_of(node, total),
        _ => 2 * entries_of(node, total),
    }
}

/// How many entries are in a node, more or less, if there are so many in all; at least what looking at a node costs.
fn entries_of(node: Node, total: u64) -> u64 {
    (total.checked_shr(u32::from(node.depth()) * 4).unwrap_or(0)).clamp(64, total.max(64))
}

fn compared(node: Node, cutoff: Bin, content: &dyn Content) -> Compared {
    Compared { node, children: content.children(node, cutoff).map(Sum::brief) }
}

/// Appends rows, and the authors that they name.
fn append(all: &mut Rows, more: Rows) {
    let first = u32::try_from(all.authors.len()).unwrap_or(u32::MAX);
    all.authors.extend(more.authors);
    all.rows.extend(more.rows.into_iter().map(|mut row| {
        row.author = row.author.saturating_add(first);
        row
    }));
}
