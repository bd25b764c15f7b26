//! The tables in memory: every entry, sharded, behind a lock-free filter.
//!
//! A check asks three things, in the order of their price: is any subject of this shape revoked (one load), may this
//! one be present (one load of the filter), and what does its entry say (a lookup under a shard's lock). Most checks
//! end at the first or the second.
//!
//! Nothing here reads a clock: what may be forgotten is the caller's question.

mod ages;
mod authors;
mod digests;
mod filter;
mod narrow;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;

use crate::model::{
    Author, Bin, Claimant, ContentHasher, Credential, Denial, Digest, Entry, Epochs, Fingerprint, Identity, Item, Kind,
    Locator, NarrowEntry, Node, Row, Rows, Shape, Sum, Timestamp, WideEntry,
};
use crate::sync::Mutex;
use ages::Scope;
pub(crate) use ages::{Ages, end_of};
use authors::Authors;
use digests::{Digests, EntryRef};
use filter::Filter;
pub(crate) use filter::View as FilterView;
use narrow::{Crowded, NarrowTable};

/// Many small shards keep short what happens under a shard's lock: growth, and the walks of sweeps and snapshots.
const MAP_SHARDS: usize = 64;
/// How many entries are removed, or joined, under one hold of the lock that writers take.
const REMOVED_AT_ONCE: usize = 256;
const JOINED_AT_ONCE: usize = 256;
/// How many rows are copied, at least, under one hold of it.
const ROWS_AT_ONCE: usize = 8192;

/// Digests are uniformly distributed already.
#[derive(Clone, Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

impl BuildHasher for DigestHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self::default()
    }
}

type Map<T> = DashMap<Identity, T, DigestHasher>;

fn map<T>() -> Map<T> {
    DashMap::with_capacity_and_hasher_and_shard_amount(0, DigestHasher::default(), MAP_SHARDS)
}

#[derive(Debug)]
struct Wide {
    entry: WideEntry,
    scope: Option<Digest>,
    label: Option<Box<str>>,
}

fn narrow_item(subject: Identity, entry: NarrowEntry) -> Item {
    let Identity { locator, digest, shape } = subject;
    Item { digest, locator, shape, entry: Entry::Narrow(entry), scope: None, label: None }
}

impl Wide {
    fn item(&self, subject: Identity) -> Item {
        let Identity { locator, digest, shape } = subject;
        let entry = Entry::Wide(self.entry.clone());
        Item { digest, locator, shape, entry, scope: self.scope, label: self.label.clone() }
    }
}

/// Every entry, by identity.
pub(crate) struct Denylist {
    read: ReadMostly,
    /// Tokens, sessions and families that were revoked, and that is all.
    narrow: NarrowTable,
    /// Those of which there is more to say: that they were lifted. An entry that is moved here from the table of rows is
    /// there before it is gone from the other, and never goes back.
    lifted: Map<NarrowEntry>,
    wide: Map<Wide>,
    /// What is denied outright while its epoch is on its way to the disk. It is part of no entry: it is not counted, sent or
    /// written anywhere.
    held: Map<WideEntry>,
    counts: [AtomicUsize; Shape::COUNT],
    /// Held while entries come or go, so that counts and shapes agree with the tables.
    structure: Mutex<Structure>,
}

/// Some entries of a node.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) rows: Rows,
    pub(crate) items: Vec<Item>,
    /// The locator of the next entry, if there are more.
    pub(crate) more: Option<Locator>,
    last: Option<Locator>,
}

/// An entry that is visited.
struct Held<'a> {
    subject: Identity,
    hash: u128,
    entry: Found<'a>,
}

enum Found<'a> {
    Row(&'a Row),
    Lifted(&'a NarrowEntry),
    Wide(&'a Wide),
}

/// What every check reads and few writes change, in cache lines of its own.
#[repr(align(128))]
struct ReadMostly {
    /// One bit per shape that has entries.
    shapes: AtomicU64,
    /// How many entries are in the map of those that were lifted.
    lifted: AtomicUsize,
    /// How many subjects are held.
    held: AtomicUsize,
    filter: Filter,
}

#[derive(Debug, Default)]
struct Structure {
    authors: Authors,
    ages: Arc<Ages>,
    /// What replicas compare, where there are any.
    digests: Option<Digests>,
}

impl Denylist {
    pub(crate) fn new() -> Self {
        Self {
            read: ReadMostly {
                shapes: AtomicU64::new(0),
                lifted: AtomicUsize::new(0),
                held: AtomicUsize::new(0),
                filter: Filter::new(),
            },
            narrow: NarrowTable::new(),
            lifted: map(),
            wide: map(),
            held: map(),
            counts: [const { AtomicUsize::new(0) }; Shape::COUNT],
            structure: Mutex::default(),
        }
    }

    /// One bit per shape that has entries, at the shape's index.
    #[inline]
    pub(crate) fn shapes(&self) -> u64 {
        self.read.shapes.load(Ordering::Acquire)
    }

    /// The filter as it is now.
    #[inline]
    pub(crate) fn filter(&self) -> FilterView<'_> {
        self.read.filter.view()
    }

    /// What the entry of a subject says about a credential that names it. The digest is asked for only if there may be
    /// one.
    pub(crate) fn judge(
        &self,
        shape: Shape,
        locator: Locator,
        digest: impl Fn() -> Digest,
        credential: &Credential<'_>,
        claimant: &impl Claimant,
    ) -> Option<Denial> {
        if !shape.kind.is_narrow() {
            let subject = Identity { locator, digest: digest(), shape };
            // In this order: what is no longer held is in its entry by then.
            if self.read.held.load(Ordering::Acquire) > 0
                && let Some(denial) = self.held.get(&subject).and_then(|held| held.verdict(shape, credential, claimant))
            {
                return Some(denial);
            }
            return self.wide.get(&subject)?.entry.verdict(shape, credential, claimant);
        }
        if let Some(row) = self.narrow.get(shape, locator, &digest) {
            return Some(row.denial());
        }
        if self.read.lifted.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.lifted.get(&Identity { locator, digest: digest(), shape })?.verdict(shape)
    }

    /// The latest epoch of a subject that binds a credential that names it.
    pub(crate) fn binding_epoch(&self, subject: Identity, claimant: &impl Claimant) -> Option<Timestamp> {
        self.wide.get(&subject)?.entry.binding_epoch(claimant)
    }

    /// The entry of a subject, with what belongs to it.
    pub(crate) fn item(&self, subject: Identity) -> Option<Item> {
        let Identity { locator, digest, shape } = subject;
        let filter = self.filter();
        if !filter.may_contain(locator) && filter.is_current() {
            return None;
        }
        if !shape.kind.is_narrow() {
            return self.wide.get(&subject).map(|slot| slot.item(subject));
        }
        let structure = self.structure.lock();
        if let Some(row) = self.narrow.get(shape, locator, || digest) {
            return structure.entry(&row).map(|entry| narrow_item(subject, entry));
        }
        self.lifted.get(&subject).map(|slot| narrow_item(subject, slot.clone()))
    }

    /// Denies a subject outright, until it is [released](Self::release): by a mark that waits for its time.
    pub(crate) fn hold(&self, subject: Identity, entry: WideEntry) {
        let _structure = self.structure.lock();
        let mut slot = self.held.entry(subject).or_insert_with(|| {
            self.read.held.fetch_add(1, Ordering::Release);
            self.read.filter.insert(subject.locator);
            self.count_up(subject.shape, 1);
            WideEntry::default()
        });
        slot.join(entry);
    }

    /// Ends the holding by the mark with a number. What it is to deny from here on has been joined.
    pub(crate) fn release(&self, subject: Identity, at: Timestamp) {
        let _structure = self.structure.lock();
        if let Some(mut held) = self.held.get_mut(&subject) {
            let WideEntry { reauthenticate, reissue, .. } = &mut *held;
            [reauthenticate, reissue].into_iter().for_each(|epochs| epochs.retain(|mark| mark.at != at));
        }
        if self.held.remove_if(&subject, |_, held| !held.is_pending()).is_some() {
            self.read.held.fetch_sub(1, Ordering::Release);
            self.count_down(subject.shape, 1);
        }
    }

    /// Joins an entry into the tables. When this returns, every check sees it.
    pub(crate) fn join(&self, item: Item) {
        self.join_all([item]);
    }

    /// Joins entries into the tables. When this returns, every check sees them.
    pub(crate) fn join_all(&self, items: impl IntoIterator<Item = Item>) {
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let mut structure = self.structure.lock();
            items.by_ref().take(JOINED_AT_ONCE).for_each(|item| self.join_one(&mut structure, item));
        }
    }

    fn join_one(&self, structure: &mut Structure, item: Item) {
        let subject = item.identity();
        let Item { entry, scope, label, .. } = item;
        let is_new = match entry {
            Entry::Narrow(entry) => self.join_narrow(structure, subject, entry),
            Entry::Wide(entry) => match self.wide.entry(subject) {
                Slot::Occupied(mut slot) => {
                    let slot = slot.get_mut();
                    structure.subtract(subject, EntryRef::Wide(&slot.entry, slot.scope));
                    slot.entry.join(entry);
                    structure.add(subject, EntryRef::Wide(&slot.entry, slot.scope));
                    slot.label = slot.label.take().max(label);
                    false
                }
                Slot::Vacant(slot) => {
                    structure.add(subject, EntryRef::Wide(&entry, scope));
                    structure.add_other(subject);
                    slot.insert(Wide { entry, scope, label });
                    true
                }
            },
        };
        if is_new {
            self.read.filter.insert(subject.locator);
            self.count_up(subject.shape, 1);
        }
        if let Some(scope) = Scope::of(subject) {
            let age = self.wide.get(&subject).and_then(|slot| slot.entry.age());
            self.set_age(structure, scope, age);
        }
    }

    /// Takes note of a maximum age. Entries of its scope end at another time from here on, and are summed up anew.
    fn set_age(&self, structure: &mut Structure, scope: Scope, age: Option<u64>) {
        if structure.ages.get(scope) == age {
            return;
        }
        let concerned = || self.wide.iter().filter(|slot| scope.holds(slot.scope));
        if structure.digests.is_some() {
            concerned().for_each(|slot| structure.subtract(*slot.key(), EntryRef::Wide(&slot.entry, slot.scope)));
        }
        Arc::make_mut(&mut structure.ages).set(scope, age);
        if structure.digests.is_some() {
            concerned().for_each(|slot| structure.add(*slot.key(), EntryRef::Wide(&slot.entry, slot.scope)));
        }
    }

    /// The maximum ages that are set.
    pub(crate) fn ages(&self) -> Arc<Ages> {
        Arc::clone(&self.structure.lock().ages)
    }

    /// Tells whether it is new.
    fn join_narrow(&self, structure: &mut Structure, subject: Identity, mut entry: NarrowEntry) -> bool {
        let known = self.narrow.get(subject.shape, subject.locator, || subject.digest);
        if known.is_none()
            && self.read.lifted.load(Ordering::Relaxed) > 0
            && let Some(mut slot) = self.lifted.get_mut(&subject)
        {
            structure.subtract(subject, EntryRef::Narrow(&slot));
            slot.join(entry);
            structure.add(subject, EntryRef::Narrow(&slot));
            return false;
        }
        if let Some(before) = known.as_ref().and_then(|row| structure.entry(row)) {
            structure.subtract(subject, EntryRef::Narrow(&before));
            entry.join(before);
        }
        structure.add(subject, EntryRef::Narrow(&entry));
        let author = Row::author_of(&entry).and_then(|author| structure.authors.acquire(&author, 1));
        let row = author.and_then(|author| Row::of(subject, &entry, author));
        let placed = row.ok_or(Crowded).and_then(|row| self.narrow.put(row));
        if placed.is_err() {
            if let Some(author) = author {
                structure.authors.release(author);
            }
            structure.add_other(subject);
            self.lifted.insert(subject, entry);
            self.read.lifted.fetch_add(1, Ordering::Release);
        }
        if let Some(row) = &known {
            if placed.is_err() {
                self.narrow.remove(subject);
            }
            structure.authors.release(row.author);
        }
        known.is_none()
    }

    /// Takes in the rows of a snapshot. The filter is to be rebuilt afterwards. Several threads may load at once.
    pub(crate) fn load(&self, rows: Rows) {
        let Rows { authors, mut rows } = rows;
        let mut uses = vec![0; authors.len()];
        for row in &rows {
            if let Some(uses) = uses.get_mut(row.author as usize) {
                *uses += 1;
            }
        }
        let numbers: Vec<u32> = {
            let mut structure = self.structure.lock();
            let used = authors.iter().zip(uses);
            used.map(|(author, rows)| match rows {
                0 => Row::NO_AUTHOR,
                rows => structure.authors.acquire(author, rows).unwrap_or(Row::NO_AUTHOR),
            })
            .collect()
        };
        for row in &mut rows {
            row.author = numbers.get(row.author as usize).copied().unwrap_or(Row::NO_AUTHOR);
        }
        for rows in rows.chunk_by(|a, b| narrow::shard_of(a.locator) == narrow::shard_of(b.locator)) {
            let table = narrow::table_of(rows);
            let Some(first) = rows.first() else { continue };
            let mut structure = self.structure.lock();
            // Where sums are kept, each row has to be added to them.
            let table = table.filter(|_| structure.digests.is_none());
            let is_adopted = table.is_some_and(|table| self.narrow.adopt(narrow::shard_of(first.locator), table));
            if is_adopted {
                count_by_shape(rows).into_iter().for_each(|(shape, count)| self.count_up(shape, count));
                continue;
            }
            for row in rows {
                let Some(subject) = row.identity() else { continue };
                let Some(entry) = structure.entry(row) else { continue };
                structure.authors.release(row.author);
                if self.join_narrow(&mut structure, subject, entry) {
                    self.count_up(subject.shape, 1);
                }
            }
        }
    }

    fn count_up(&self, shape: Shape, by: usize) {
        if let Some(count) = self.counts.get(shape.index()) {
            count.fetch_add(by, Ordering::Relaxed);
        }
        let bit = 1 << shape.index();
        // Every check reads it: it is written only when it changes.
        if self.read.shapes.load(Ordering::Relaxed) & bit == 0 {
            self.read.shapes.fetch_or(bit, Ordering::Release);
        }
    }

    fn count_down(&self, shape: Shape, by: usize) {
        if let Some(count) = self.counts.get(shape.index())
            && count.fetch_sub(by, Ordering::Relaxed) == by
        {
            self.read.shapes.fetch_and(!(1 << shape.index()), Ordering::Release);
        }
    }

    /// How many subjects have an entry.
    pub(crate) fn len(&self) -> usize {
        let counted: usize = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        counted.saturating_sub(self.read.held.load(Ordering::Relaxed))
    }

    /// How many subjects have an entry, or are held and about to have one.
    pub(crate) fn len_with_held(&self) -> usize {
        // What is held gets its entry while the structure is locked: it is counted once.
        let _structure = self.structure.lock();
        self.len() + self.held.iter().filter(|slot| !self.wide.contains_key(slot.key())).count()
    }

    /// Whether a subject is held.
    pub(crate) fn holds(&self, subject: Identity) -> bool {
        self.held.contains_key(&subject)
    }

    /// How many subjects of a kind have an entry.
    pub(crate) fn count_of(&self, kind: Kind) -> usize {
        let of_kind = self.counts.iter().skip(kind as usize * 4).take(4);
        of_kind.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Every narrow entry that is a row when its shard is visited, some thousands at a time. Those that are not, or no
    /// longer, are among the [`others`](Self::others) afterwards.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Rows> {
        let mut shards = 0..narrow::SHARDS;
        std::iter::from_fn(move || {
            let structure = self.structure.lock();
            let mut rows = Vec::new();
            for shard in &mut shards {
                self.narrow.rows(shard, &mut rows);
                if rows.len() >= ROWS_AT_ONCE {
                    break;
                }
            }
            let authors = structure.renumber(&mut rows);
            (!rows.is_empty()).then_some(Rows { authors, rows })
        })
    }

    /// Every entry that is no row, when it is visited.
    pub(crate) fn others(&self) -> impl Iterator<Item = Item> {
        // The subjects first, so that the caller may take its time with each.
        let lifted: Vec<Identity> = self.lifted.iter().map(|slot| *slot.key()).collect();
        let item = |subject| self.lifted.get(&subject).map(|slot| narrow_item(subject, slot.clone()));
        let lifted = lifted.into_iter().filter_map(item);
        lifted.chain(self.wide_items())
    }

    /// Every wide entry, when it is visited.
    pub(crate) fn wide_items(&self) -> impl Iterator<Item = Item> {
        let wide: Vec<Identity> = self.wide.iter().map(|slot| *slot.key()).collect();
        wide.into_iter().filter_map(|subject| self.wide.get(&subject).map(|slot| slot.item(subject)))
    }

    /// Removes every narrow entry whose retention ended before `ended`, and every wide one that is `over`. Gives how
    /// many.
    pub(crate) fn forget(&self, ended: Timestamp, over: impl Fn(&WideEntry, Option<Digest>) -> bool) -> usize {
        let mut forgotten = 0;
        if self.narrow.has_ended(ended) {
            for shard in 0..narrow::SHARDS {
                let mut structure = self.structure.lock();
                let gone = self.narrow.forget(shard, ended);
                gone.iter().for_each(|row| structure.release(row));
                count_by_shape(&gone).into_iter().for_each(|(shape, count)| self.count_down(shape, count));
                forgotten += gone.len();
            }
            // No row comes meanwhile.
            let _structure = self.structure.lock();
            self.narrow.settle();
        }
        forgotten += remove(
            &self.lifted,
            &self.structure,
            |entry| entry.until.end() < ended,
            |structure, subject, entry| {
                structure.subtract(subject, EntryRef::Narrow(entry));
                structure.remove_other(subject);
                self.read.lifted.fetch_sub(1, Ordering::Release);
                self.count_down(subject.shape, 1);
            },
        );
        forgotten += remove(
            &self.wide,
            &self.structure,
            |slot| over(&slot.entry, slot.scope),
            |structure, subject, slot| {
                structure.subtract(subject, EntryRef::Wide(&slot.entry, slot.scope));
                structure.remove_other(subject);
                self.count_down(subject.shape, 1);
            },
        );
        forgotten
    }

    /// From here on the sums are kept that replicas compare. Writers wait while those of what is there are added up.
    pub(crate) fn keep_sums(&self, hasher: ContentHasher) {
        let mut structure = self.structure.lock();
        let mut digests = Digests::new(hasher);
        let ages = Arc::clone(&structure.ages);
        for shard in 0..narrow::SHARDS {
            let mut rows = Vec::new();
            self.narrow.rows(shard, &mut rows);
            for row in rows {
                if let (Some(subject), Some(entry)) = (row.identity(), structure.entry(&row)) {
                    digests.add(subject, EntryRef::Narrow(&entry), &ages);
                }
            }
        }
        for slot in &self.lifted {
            digests.add(*slot.key(), EntryRef::Narrow(&slot), &ages);
            digests.add_other(*slot.key());
        }
        for slot in &self.wide {
            digests.add(*slot.key(), EntryRef::Wide(&slot.entry, slot.scope), &ages);
            digests.add_other(*slot.key());
        }
        structure.digests = Some(digests);
    }

    /// The sum of all entries that end in a bin or later.
    pub(crate) fn root(&self, cutoff: Bin) -> Sum {
        self.structure.lock().digests.as_ref().map_or_else(Sum::default, |digests| digests.root(cutoff))
    }

    /// The sums of the children of a node, of what ends in a bin or later.
    pub(crate) fn children(&self, node: Node, cutoff: Bin) -> [Sum; Node::CHILDREN] {
        let structure = self.structure.lock();
        let kept = structure.digests.as_ref().and_then(|digests| digests.children(node, cutoff));
        kept.unwrap_or_else(|| {
            let mut children = [Sum::default(); Node::CHILDREN];
            self.visit(&structure, (node, node.first(), cutoff), |held| {
                if let Some(child) = children.get_mut(node.child_of(held.subject.locator)) {
                    child.add(Sum::of(held.hash));
                }
                true
            });
            children
        })
    }

    /// The entries of a node that end in a bin or later, from a locator on, as far as they are `wanted`. It stops when
    /// they take some `bytes`, and then says with which locator to go on.
    pub(crate) fn page(
        &self,
        node: Node,
        from: Locator,
        cutoff: Bin,
        bytes: usize,
        wanted: impl Fn(Fingerprint) -> bool,
    ) -> Page {
        let mut page = Page::default();
        let mut room = bytes;
        let structure = self.structure.lock();
        self.visit(&structure, (node, from, cutoff), |held| {
            // Those of one locator stay together.
            if room == 0 && page.last != Some(held.subject.locator) {
                page.more = Some(held.subject.locator);
                return false;
            }
            page.last = Some(held.subject.locator);
            if wanted(Fingerprint::of(held.hash)) {
                let taken = match held.entry {
                    Found::Row(row) => {
                        page.rows.rows.push(*row);
                        size_of::<Row>()
                    }
                    Found::Lifted(entry) => {
                        page.items.push(narrow_item(held.subject, entry.clone()));
                        size_of::<Item>()
                    }
                    Found::Wide(slot) => {
                        page.items.push(slot.item(held.subject));
                        let epochs = [&slot.entry.reauthenticate, &slot.entry.reissue];
                        let spared = epochs.into_iter().flat_map(Epochs::iter).map(|mark| mark.spared.len() * 16 + 64);
                        size_of::<Item>() + spared.sum::<usize>()
                    }
                };
                room = room.saturating_sub(taken);
            }
            true
        });
        page.rows.authors = structure.renumber(&mut page.rows.rows);
        page
    }

    /// Visits the entries of a node that end in a bin or later, from a locator on and in the order of their locators, until
    /// `visit` says no.
    fn visit(
        &self,
        structure: &Structure,
        (node, from, cutoff): (Node, Locator, Bin),
        mut visit: impl FnMut(Held<'_>) -> bool,
    ) {
        let Some(digests) = &structure.digests else { return };
        let (first, last) = (from.max(node.first()), node.last());
        let mut others = digests.others(first, last).peekable();
        let mut goes_on = true;
        self.narrow.for_each_in(first, last, |row| {
            while goes_on && let Some(other) = others.next_if(|other| other.locator <= { row.locator }) {
                goes_on = self.visit_other(structure, digests, other, cutoff, &mut visit);
            }
            let (Some(subject), Some(entry)) = (row.identity(), structure.entry(row)) else { return goes_on };
            let reference = EntryRef::Narrow(&entry);
            if goes_on && reference.bin(&structure.ages) >= cutoff {
                let hash = digests.hash(subject, reference);
                goes_on = visit(Held { subject, hash, entry: Found::Row(row) });
            }
            goes_on
        });
        while goes_on && let Some(other) = others.next() {
            goes_on = self.visit_other(structure, digests, other, cutoff, &mut visit);
        }
    }

    fn visit_other(
        &self,
        structure: &Structure,
        digests: &Digests,
        subject: Identity,
        cutoff: Bin,
        visit: &mut impl FnMut(Held<'_>) -> bool,
    ) -> bool {
        if let Some(slot) = self.wide.get(&subject) {
            let entry = EntryRef::Wide(&slot.entry, slot.scope);
            let held = || Held { subject, hash: digests.hash(subject, entry), entry: Found::Wide(&slot) };
            return entry.bin(&structure.ages) < cutoff || visit(held());
        }
        let Some(slot) = self.lifted.get(&subject) else { return true };
        let entry = EntryRef::Narrow(&slot);
        let held = || Held { subject, hash: digests.hash(subject, entry), entry: Found::Lifted(&slot) };
        entry.bin(&structure.ages) < cutoff || visit(held())
    }

    /// Whether the filter is too small for what it holds, or holds much that is gone.
    pub(crate) fn filter_is_unfit(&self, forgotten_since_rebuild: usize) -> bool {
        let len = self.len();
        len > self.read.filter.capacity() || forgotten_since_rebuild > len.max(1024)
    }

    /// Whether the filter holds twice what it is made for, so that a rebuild should not wait.
    pub(crate) fn filter_is_overfull(&self) -> bool {
        self.len() > self.read.filter.capacity().saturating_mul(2)
    }

    /// Rebuilds the filter for the entries there are, with room for some more, while it is read and written. It walks the
    /// table with so many threads.
    pub(crate) fn rebuild_filter(&self, threads: usize) {
        let len = self.len();
        self.read.filter.rebuild(len + len / 8, |filling| {
            // An entry that is moved from the one to the other meanwhile is met at least once.
            std::thread::scope(|scope| {
                let part = narrow::SHARDS.div_ceil(threads.max(1));
                let fill = move |first: usize| {
                    filling.add(|add| self.narrow.for_each_locator(first..narrow::SHARDS.min(first + part), add));
                };
                for first in (part..narrow::SHARDS).step_by(part) {
                    let spawned = std::thread::Builder::new().spawn_scoped(scope, move || fill(first));
                    if spawned.is_err() {
                        fill(first);
                    }
                }
                fill(0);
            });
            filling.add(|add| {
                self.lifted.iter().for_each(|slot| add(slot.key().locator));
                self.wide.iter().for_each(|slot| add(slot.key().locator));
                self.held.iter().for_each(|slot| add(slot.key().locator));
            });
        });
    }

    /// Memory of the table of rows in bytes.
    pub(crate) fn table_bytes(&self) -> usize {
        self.narrow.bytes()
    }

    /// Memory of the filter in bytes.
    pub(crate) fn filter_bytes(&self) -> usize {
        self.read.filter.bytes()
    }
}

impl Structure {
    /// The entry of a row of the table, whose author is known.
    fn entry(&self, row: &Row) -> Option<NarrowEntry> {
        self.authors.get(row.author).map(|author| row.entry(author))
    }

    fn add(&mut self, subject: Identity, entry: EntryRef<'_>) {
        if let Some(digests) = &mut self.digests {
            digests.add(subject, entry, &self.ages);
        }
    }

    fn subtract(&mut self, subject: Identity, entry: EntryRef<'_>) {
        if let Some(digests) = &mut self.digests {
            digests.subtract(subject, entry, &self.ages);
        }
    }

    fn add_other(&mut self, subject: Identity) {
        if let Some(digests) = &mut self.digests {
            digests.add_other(subject);
        }
    }

    fn remove_other(&mut self, subject: Identity) {
        if let Some(digests) = &mut self.digests {
            digests.remove_other(subject);
        }
    }

    /// A row is gone from the table.
    fn release(&mut self, row: &Row) {
        if self.digests.is_some()
            && let (Some(subject), Some(entry)) = (row.identity(), self.entry(row))
        {
            self.subtract(subject, EntryRef::Narrow(&entry));
        }
        self.authors.release(row.author);
    }

    /// Numbers the authors of rows among themselves.
    fn renumber(&self, rows: &mut [Row]) -> Vec<Author> {
        let mut authors = Vec::new();
        let mut numbers = HashMap::new();
        let mut last = (Row::NO_AUTHOR, Row::NO_AUTHOR);
        for row in rows {
            // Few authors make many rows: mostly it is the one before.
            if row.author != last.0 {
                let number = self.authors.get(row.author).map(|author| {
                    *numbers.entry(row.author).or_insert_with(|| {
                        authors.push(author.clone());
                        u32::try_from(authors.len() - 1).unwrap_or(Row::NO_AUTHOR)
                    })
                });
                last = (row.author, number.unwrap_or(Row::NO_AUTHOR));
            }
            row.author = last.1;
        }
        authors
    }
}

/// Removes what is over, a little under each hold of the lock. Gives how many.
fn remove<T>(
    map: &Map<T>,
    structure: &Mutex<Structure>,
    is_over: impl Fn(&T) -> bool,
    mut removed: impl FnMut(&mut Structure, Identity, &T),
) -> usize {
    let gone: Vec<Identity> = map.iter().filter(|slot| is_over(slot.value())).map(|slot| *slot.key()).collect();
    let mut count = 0;
    for subjects in gone.chunks(REMOVED_AT_ONCE) {
        let mut structure = structure.lock();
        for (subject, slot) in subjects.iter().filter_map(|subject| map.remove_if(subject, |_, slot| is_over(slot))) {
            removed(&mut structure, subject, &slot);
            count += 1;
        }
    }
    count
}

fn count_by_shape(rows: &[Row]) -> Vec<(Shape, usize)> {
    let mut counts = [0; Shape::COUNT];
    for row in rows {
        if let Some(count) = row.shape().and_then(|shape| counts.get_mut(shape.index())) {
            *count += 1;
        }
    }
    let counts = counts.into_iter().enumerate().filter(|(_, count)| *count > 0);
    counts.filter_map(|(index, count)| Some((Shape::from_index(index)?, count))).collect()
}

impl std::fmt::Debug for Denylist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Denylist").field("len", &self.len()).field("filter", &self.read.filter).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::model::{EntryCause, Key, Keyring, Life, Marks, Retention, Subject};

    const LIFE: Life = Life::from_bytes([1; 16]);

    struct Nobody;

    impl Claimant for Nobody {
        fn is_of_session(&self, _: &Digest) -> bool {
            false
        }

        fn is_of_issuer(&self, _: &Digest) -> bool {
            false
        }

        fn now(&self) -> Timestamp {
            Timestamp::MIN
        }
    }

    struct Token {
        digest: Digest,
        locator: Locator,
        shape: Shape,
    }

    fn tokens(count: usize) -> Vec<Token> {
        let ring = Keyring::new(&Key::from_bytes([9; 32]));
        let subjects = (0..count).map(|n| Subject::token(format!("token-{n}")));
        subjects
            .map(|subject| Token {
                digest: ring.digest_of(&subject),
                locator: ring.locator_of(&subject),
                shape: subject.shape(),
            })
            .collect()
    }

    fn item(token: &Token, at: u64, lifted: u64, until: u32) -> Item {
        let denied = |at| {
            let (at, until) = (Timestamp::from_nanos(at), Retention::from_secs(until));
            NarrowEntry::denied(LIFE, at, EntryCause::default(), until)
        };
        let mut entry = NarrowEntry { denials: Marks::default(), until: Retention::from_secs(until) };
        if at > 0 {
            entry.join(denied(at));
        }
        if lifted > 0 {
            entry.join(denied(lifted).lifting().unwrap());
        }
        let Token { digest, locator, shape } = *token;
        Item { digest, locator, shape, entry: Entry::Narrow(entry), scope: None, label: None }
    }

    /// As a check asks: the filter first.
    fn denies(denylist: &Denylist, token: &Token) -> bool {
        let filter = denylist.filter();
        let is_absent = !filter.may_contain(token.locator) && filter.is_current();
        let credential = Credential::new();
        !is_absent && denylist.judge(token.shape, token.locator, || token.digest, &credential, &Nobody).is_some()
    }

    /// Runs `change` while another thread makes sure, again and again, that the token whose number it last gave denies.
    fn while_held(denylist: &Denylist, tokens: &[Token], change: impl FnOnce(&AtomicUsize)) {
        let (begun, done, number) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    begun.store(true, Ordering::Relaxed);
                    assert!(denies(denylist, &tokens[number.load(Ordering::Relaxed)]));
                }
            });
            while !begun.load(Ordering::Relaxed) && !reader.is_finished() {
                std::thread::yield_now();
            }
            change(&number);
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().is_ok());
        });
    }

    #[test]
    fn what_is_held_denies_while_the_tables_grow_and_are_swept() {
        let (denylist, tokens) = (Denylist::new(), tokens(40_001));
        denylist.join(item(&tokens[0], 10, 0, u32::MAX));
        while_held(&denylist, &tokens, |_| {
            for (ended, others) in (1..).zip(tokens[1..].chunks(4_000)).take(10) {
                denylist.join_all(others.iter().map(|token| item(token, 10, 0, ended)));
                denylist.rebuild_filter(2);
                assert_eq!(denylist.len(), 4_001);
                let forgotten = denylist.forget(Timestamp::from_secs(u64::from(ended) + 1), |_, _| false);
                assert_eq!(forgotten, 4_000);
            }
            // Others of the same shard come and go.
            let shard = |token: &Token| narrow::shard_of(token.locator) == narrow::shard_of(tokens[0].locator);
            for ended in 100..1_000 {
                let neighbours = tokens[1..].iter().filter(|token| shard(token));
                denylist.join_all(neighbours.map(|token| item(token, 10, 0, ended)));
                denylist.forget(Timestamp::from_secs(u64::from(ended) + 1), |_, _| false);
            }
        });
        assert_eq!(denylist.len(), 1);
        assert!(!tokens[1..].iter().any(|token| denies(&denylist, token)));
    }

    #[test]
    fn an_entry_that_moves_out_of_the_table_of_rows_denies_all_the_while() {
        let (denylist, tokens) = (Denylist::new(), tokens(20_000));
        denylist.join_all(tokens.iter().map(|token| item(token, 10, 0, u32::MAX)));
        while_held(&denylist, &tokens, |number| {
            for (place, token) in tokens.iter().enumerate() {
                number.store(place, Ordering::Relaxed);
                // The reader is to be at it by then.
                (0..100).for_each(|_| std::hint::spin_loop());
                // A lift of an older revocation: the later one still denies, and no row says so much.
                denylist.join(item(token, 0, 5, u32::MAX));
            }
        });
        assert_eq!(denylist.rows().count(), 0);
        assert_eq!(denylist.others().count(), 20_000);
        denylist.join_all(tokens.iter().map(|token| item(token, 0, 10, u32::MAX)));
        assert!(!tokens.iter().any(|token| denies(&denylist, token)), "lifted");
        assert_eq!(denylist.len(), 20_000);
    }

    /// What no honest writer makes: a digest that is not the one of its locator or its shape.
    #[test]
    fn an_entry_under_a_foreign_locator_or_shape_is_nobodys_and_in_nobodys_way() {
        let tokens = tokens(2);
        let foreign_locator = |item: Item| Item { locator: tokens[1].locator, ..item };
        let foreign_shape = |item: Item| Item { shape: Shape { kind: Kind::Session, ..item.shape }, ..item };
        let (revoked, lifted_before) = (|token| item(token, 10, 0, 50), |token| item(token, 10, 5, 50));
        let foreign = [
            foreign_locator(revoked(&tokens[0])),
            foreign_locator(lifted_before(&tokens[0])),
            foreign_shape(revoked(&tokens[0])),
            foreign_shape(lifted_before(&tokens[0])),
        ];
        for foreign in foreign {
            for own in [revoked(&tokens[0]), lifted_before(&tokens[0])] {
                let denylist = Denylist::new();
                denylist.join(foreign.clone());
                // The filter then says "maybe" of both, and there are tokens.
                denylist.join(revoked(&tokens[1]));
                denylist.read.filter.insert(tokens[0].locator);
                assert!(!denies(&denylist, &tokens[0]), "{foreign:?}");
                assert_eq!(denylist.item(own.identity()), None);
                denylist.join(own.clone());
                assert_eq!(denylist.item(own.identity()), Some(own));
                let again = Denylist::new();
                denylist.rows().for_each(|rows| again.load(rows));
                again.join_all(denylist.others());
                for denylist in [&denylist, &again] {
                    denylist.rebuild_filter(1);
                    assert!(denies(denylist, &tokens[0]), "{foreign:?}");
                    assert_eq!(denylist.len(), 3);
                }
                assert_eq!(denylist.forget(Timestamp::from_secs(51), |_, _| false), 3);
                assert_eq!((denylist.len(), denylist.shapes()), (0, 0));
            }
        }
    }

    #[test]
    fn rows_load_into_an_empty_table_and_over_a_full_one_alike() {
        let (denylist, tokens) = (Denylist::new(), tokens(3_000));
        let by = |actor: &str, item: Item| {
            let Entry::Narrow(entry) = item.entry else { return item };
            let (at, cause) = entry.denials.latest_standing().unwrap();
            let cause = EntryCause { actor: Some(actor.into()), ..cause.clone() };
            Item { entry: Entry::Narrow(NarrowEntry::denied(LIFE, *at, cause, entry.until)), ..item }
        };
        for (n, token) in tokens.iter().enumerate() {
            denylist.join(by(&format!("actor-{}", n % 7), item(token, 10 + n as u64, 0, 50)));
        }
        let loaded = Denylist::new();
        // The second time every row is there already.
        for _ in 0..2 {
            denylist.rows().for_each(|rows| loaded.load(rows));
            loaded.rebuild_filter(1);
            assert_eq!(loaded.len(), tokens.len());
            for token in &tokens {
                let Token { digest, locator, shape } = *token;
                let item = |denylist: &Denylist| denylist.item(Identity { locator, digest, shape });
                assert_eq!(item(&loaded), item(&denylist));
            }
        }
        assert_eq!(loaded.forget(Timestamp::from_secs(51), |_, _| false), tokens.len());
        assert_eq!(loaded.structure.lock().authors.get(0), None, "nobody is named any more");
    }
}
