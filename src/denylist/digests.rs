//! What replicas compare: sums over all entries, kept as entries come and go.
//!
//! For each bin, the sums of the 256 nodes of depth two that have entries in it. Sums of wider nodes are added up from
//! these; of narrower ones, from the entries themselves, which are visited in the order of their locators.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;

use crate::model::{Bin, ContentHasher, Digest, Identity, Kind, Locator, NarrowEntry, Node, Shape, Sum, WideEntry};

use super::ages::Ages;

/// The nodes of this depth have their sums kept.
const DEPTH: u8 = 2;

/// An entry, wherever it is kept.
#[derive(Clone, Copy)]
pub(crate) enum EntryRef<'a> {
    Narrow(&'a NarrowEntry),
    Wide(&'a WideEntry, Option<Digest>),
}

impl EntryRef<'_> {
    /// The bin in which it ends.
    pub(super) fn bin(self, ages: &Ages) -> Bin {
        Bin::of(match self {
            Self::Narrow(entry) => entry.until.end(),
            Self::Wide(entry, scope) => ages.end_of(entry, scope),
        })
    }
}

pub(super) struct Digests {
    hasher: ContentHasher,
    bins: BTreeMap<Bin, BinSums>,
    /// The subjects whose entries are in no table that is ordered by locator.
    others: BTreeSet<Identity>,
}

#[derive(Default)]
struct BinSums {
    total: Sum,
    /// By the number of the node, in their order.
    nodes: Vec<(u8, Sum)>,
}

impl BinSums {
    fn node(&mut self, number: u8) -> &mut Sum {
        let place = self.nodes.binary_search_by_key(&number, |(number, _)| *number).unwrap_or_else(|place| {
            self.nodes.insert(place, (number, Sum::default()));
            place
        });
        match self.nodes.get_mut(place) {
            Some((_, sum)) => sum,
            None => &mut self.total,
        }
    }
}

fn number_of(locator: Locator) -> u8 {
    (locator.as_u64() >> 56) as u8
}

impl Digests {
    pub(super) fn new(hasher: ContentHasher) -> Self {
        Self { hasher, bins: BTreeMap::new(), others: BTreeSet::new() }
    }

    pub(super) fn hash(&self, subject: Identity, entry: EntryRef<'_>) -> u128 {
        match entry {
            EntryRef::Narrow(entry) => self.hasher.narrow(subject, entry),
            EntryRef::Wide(entry, _) => self.hasher.wide(subject, entry),
        }
    }

    pub(super) fn add(&mut self, subject: Identity, entry: EntryRef<'_>, ages: &Ages) {
        let sum = Sum::of(self.hash(subject, entry));
        let bin = self.bins.entry(entry.bin(ages)).or_default();
        bin.total.add(sum);
        bin.node(number_of(subject.locator)).add(sum);
    }

    pub(super) fn subtract(&mut self, subject: Identity, entry: EntryRef<'_>, ages: &Ages) {
        let sum = Sum::of(self.hash(subject, entry));
        let bin = entry.bin(ages);
        if let Some(sums) = self.bins.get_mut(&bin) {
            sums.total.subtract(sum);
            sums.node(number_of(subject.locator)).subtract(sum);
            if sums.total.count == 0 {
                self.bins.remove(&bin);
            }
        }
    }

    pub(super) fn add_other(&mut self, subject: Identity) {
        self.others.insert(subject);
    }

    pub(super) fn remove_other(&mut self, subject: Identity) {
        self.others.remove(&subject);
    }

    /// The subjects with locators in a range whose entries are in no table that is ordered by locator.
    pub(super) fn others(&self, first: Locator, last: Locator) -> impl Iterator<Item = Identity> {
        let shape = Shape::of(Kind::Token, 0);
        let least = Identity { locator: first, digest: Digest::from_bytes([0; 16]), shape };
        let range = self.others.range((Bound::Included(least), Bound::Unbounded));
        range.copied().take_while(move |subject| subject.locator <= last)
    }

    /// The sum of all that end in this bin or a later one.
    pub(super) fn root(&self, cutoff: Bin) -> Sum {
        let mut root = Sum::default();
        self.bins.range(cutoff..).for_each(|(_, bin)| root.add(bin.total));
        root
    }

    /// The sums of a node's children, if they are kept, or can be added up from those that are.
    pub(super) fn children(&self, node: Node, cutoff: Bin) -> Option<[Sum; Node::CHILDREN]> {
        if node.depth() >= DEPTH {
            return None;
        }
        let (first, last) = (number_of(node.first()), number_of(node.last()));
        let mut children = [Sum::default(); Node::CHILDREN];
        for (_, bin) in self.bins.range(cutoff..) {
            let start = bin.nodes.partition_point(|(number, _)| *number < first);
            for (number, sum) in bin.nodes.iter().skip(start).take_while(|(number, _)| *number <= last) {
                let child = node.child_of(Locator::from_u64(u64::from(*number) << 56));
                if let Some(child) = children.get_mut(child) {
                    child.add(*sum);
                }
            }
        }
        Some(children)
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digests").field("bins", &self.bins.len()).finish_non_exhaustive()
    }
}
