//! The table in memory: every entry, sharded, behind a lock-free filter.
//!
//! A check asks three things, in the order of their price: is any subject of this shape revoked (one load), may this
//! one be present (one load of the filter), and what does its entry say (a lookup under a shard's lock). Most checks
//! end at the first or the second.
//!
//! Nothing here reads a clock: what may be forgotten is the caller's question.

mod filter;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use parking_lot::Mutex;

use crate::model::{Credential, Denial, Digest, Entry, Item, Kind, Locator, NarrowEntry, Shape, Timestamp, WideEntry};
use filter::Filter;

/// Many small shards keep short what happens under a shard's lock: growth, and the walks of sweeps and snapshots.
const NARROW_SHARDS: usize = 512;
const WIDE_SHARDS: usize = 64;
/// How many entries are removed under one hold of the lock that writers take.
const REMOVED_AT_ONCE: usize = 256;

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

#[derive(Debug)]
struct Narrow {
    entry: NarrowEntry,
    locator: Locator,
    shape: Shape,
}

#[derive(Debug)]
struct Wide {
    entry: WideEntry,
    locator: Locator,
    shape: Shape,
    scope: Option<Digest>,
    label: Option<Box<str>>,
}

impl Narrow {
    fn item(&self, digest: Digest) -> Item {
        let entry = Entry::Narrow(self.entry.clone());
        Item { digest, locator: self.locator, shape: self.shape, entry, scope: None, label: None }
    }
}

impl Wide {
    fn item(&self, digest: Digest) -> Item {
        let entry = Entry::Wide(self.entry.clone());
        let label = self.label.clone();
        Item { digest, locator: self.locator, shape: self.shape, entry, scope: self.scope, label }
    }
}

/// Every entry, by digest.
pub(crate) struct Denylist {
    /// One bit per shape that has entries.
    shapes: AtomicU64,
    filter: Filter,
    narrow: DashMap<Digest, Narrow, DigestHasher>,
    wide: DashMap<Digest, Wide, DigestHasher>,
    counts: [AtomicUsize; Shape::COUNT],
    /// Held while entries come or go, so that counts and shapes agree with the tables.
    structure: Mutex<Structure>,
    /// No narrow entry may be forgotten before this.
    earliest_end: AtomicU64,
}

#[derive(Debug, Default)]
struct Structure {
    /// The actor of the last entry, shared by the next if it is the same.
    last_actor: Option<Arc<str>>,
}

impl Denylist {
    pub(crate) fn new() -> Self {
        Self {
            shapes: AtomicU64::new(0),
            filter: Filter::new(),
            narrow: DashMap::with_capacity_and_hasher_and_shard_amount(0, DigestHasher::default(), NARROW_SHARDS),
            wide: DashMap::with_capacity_and_hasher_and_shard_amount(0, DigestHasher::default(), WIDE_SHARDS),
            counts: [const { AtomicUsize::new(0) }; Shape::COUNT],
            structure: Mutex::default(),
            earliest_end: AtomicU64::new(u64::MAX),
        }
    }

    /// One bit per shape that has entries, at the shape's index.
    pub(crate) fn shapes(&self) -> u64 {
        self.shapes.load(Ordering::Acquire)
    }

    /// Whether a subject may have an entry. `false` is certain.
    pub(crate) fn may_contain(&self, locator: Locator) -> bool {
        self.filter.may_contain(locator)
    }

    /// What the entry of a subject says about a credential that names it.
    pub(crate) fn judge(
        &self,
        shape: Shape,
        digest: &Digest,
        credential: &Credential<'_>,
        session_matches: impl Fn(&Digest) -> bool,
    ) -> Option<Denial> {
        if shape.kind.is_narrow() {
            self.narrow.get(digest)?.entry.verdict(shape)
        } else {
            self.wide.get(digest)?.entry.verdict(shape, credential, session_matches)
        }
    }

    /// The latest epoch of a subject that binds a credential that names it.
    pub(crate) fn binding_epoch(
        &self,
        digest: &Digest,
        session_matches: impl Fn(&Digest) -> bool,
    ) -> Option<Timestamp> {
        self.wide.get(digest)?.entry.binding_epoch(session_matches)
    }

    /// The entry of a subject, with what belongs to it.
    pub(crate) fn item(&self, shape: Shape, digest: &Digest) -> Option<Item> {
        if shape.kind.is_narrow() {
            self.narrow.get(digest).map(|slot| slot.item(*digest))
        } else {
            self.wide.get(digest).map(|slot| slot.item(*digest))
        }
    }

    /// Joins an entry into the table. When this returns, every check sees it.
    pub(crate) fn join(&self, item: Item) {
        let Item { digest, locator, shape, mut entry, scope, label } = item;
        let mut structure = self.structure.lock();
        structure.share_actor(&mut entry);
        let is_new = match entry {
            Entry::Narrow(entry) => {
                self.earliest_end.fetch_min(entry.until.as_nanos(), Ordering::Relaxed);
                match self.narrow.entry(digest) {
                    Slot::Occupied(mut slot) => {
                        slot.get_mut().entry.join(entry);
                        false
                    }
                    Slot::Vacant(slot) => {
                        slot.insert(Narrow { entry, locator, shape });
                        true
                    }
                }
            }
            Entry::Wide(entry) => match self.wide.entry(digest) {
                Slot::Occupied(mut slot) => {
                    let slot = slot.get_mut();
                    slot.entry.join(entry);
                    slot.label = slot.label.take().max(label);
                    false
                }
                Slot::Vacant(slot) => {
                    slot.insert(Wide { entry, locator, shape, scope, label });
                    true
                }
            },
        };
        if is_new {
            self.filter.insert(locator);
            self.count(shape, |count| count.fetch_add(1, Ordering::Relaxed));
            self.shapes.fetch_or(1 << shape.index(), Ordering::Release);
        }
    }

    /// How many subjects have an entry.
    pub(crate) fn len(&self) -> usize {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// How many subjects of a kind have an entry.
    pub(crate) fn count_of(&self, kind: Kind) -> usize {
        let of_kind = self.counts.iter().skip(kind as usize * 4).take(4);
        of_kind.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The digest of every entry there is when its shard is visited, with its shape.
    pub(crate) fn digests(&self) -> Vec<(Shape, Digest)> {
        let mut digests = Vec::with_capacity(self.len());
        digests.extend(self.wide.iter().map(|slot| (slot.shape, *slot.key())));
        digests.extend(self.narrow.iter().map(|slot| (slot.shape, *slot.key())));
        digests
    }

    /// The digest of every wide entry there is when its shard is visited, with its shape.
    pub(crate) fn wide_digests(&self) -> Vec<(Shape, Digest)> {
        self.wide.iter().map(|slot| (slot.shape, *slot.key())).collect()
    }

    /// Removes every narrow entry whose `until` is before `ended`, and every wide one that is `over`. Gives how many.
    pub(crate) fn forget(&self, ended: Timestamp, over: impl Fn(&WideEntry, Option<Digest>) -> bool) -> usize {
        let mut forgotten = 0;
        if self.earliest_end.load(Ordering::Relaxed) < ended.as_nanos() {
            // Entries that come or grow meanwhile lower it again: too low costs a walk, too high would keep what may go.
            self.earliest_end.store(u64::MAX, Ordering::Relaxed);
            let mut earliest = u64::MAX;
            let gone: Vec<_> = self
                .narrow
                .iter()
                .filter(|slot| {
                    let is_over = slot.entry.until < ended;
                    if !is_over {
                        earliest = earliest.min(slot.entry.until.as_nanos());
                    }
                    is_over
                })
                .map(|slot| *slot.key())
                .collect();
            self.earliest_end.fetch_min(earliest, Ordering::Relaxed);
            forgotten += self.remove(&gone, |digest| {
                self.narrow.remove_if(digest, |_, slot| slot.entry.until < ended).map(|(_, slot)| slot.shape)
            });
        }
        let gone: Vec<_> =
            self.wide.iter().filter(|slot| over(&slot.entry, slot.scope)).map(|slot| *slot.key()).collect();
        forgotten += self.remove(&gone, |digest| {
            self.wide.remove_if(digest, |_, slot| over(&slot.entry, slot.scope)).map(|(_, slot)| slot.shape)
        });
        forgotten
    }

    fn remove(&self, digests: &[Digest], remove: impl Fn(&Digest) -> Option<Shape>) -> usize {
        let mut removed = 0;
        for digests in digests.chunks(REMOVED_AT_ONCE) {
            let _structure = self.structure.lock();
            for shape in digests.iter().filter_map(&remove) {
                removed += 1;
                if self.count(shape, |count| count.fetch_sub(1, Ordering::Relaxed)) == Some(1) {
                    self.shapes.fetch_and(!(1 << shape.index()), Ordering::Release);
                }
            }
        }
        removed
    }

    fn count<T>(&self, shape: Shape, change: impl Fn(&AtomicUsize) -> T) -> Option<T> {
        self.counts.get(shape.index()).map(change)
    }

    /// Whether the filter is too small for what it holds, or holds much that is gone.
    pub(crate) fn filter_is_unfit(&self, forgotten_since_rebuild: usize) -> bool {
        let len = self.len();
        len > self.filter.capacity() || forgotten_since_rebuild > len.max(1024)
    }

    /// Whether the filter holds twice what it is made for, so that a rebuild should not wait.
    pub(crate) fn filter_is_overfull(&self) -> bool {
        self.len() > self.filter.capacity().saturating_mul(2)
    }

    /// Rebuilds the filter for the entries there are, with room to double, while it is read and written.
    pub(crate) fn rebuild_filter(&self) {
        self.filter.rebuild(self.len().saturating_mul(2), |add| {
            self.narrow.iter().for_each(|slot| add(slot.locator));
            self.wide.iter().for_each(|slot| add(slot.locator));
        });
    }

    /// Memory of the filter in bytes.
    pub(crate) fn filter_bytes(&self) -> usize {
        self.filter.bytes()
    }
}

impl Structure {
    fn share_actor(&mut self, entry: &mut Entry) {
        let Entry::Narrow(entry) = entry else { return };
        if entry.cause.actor == self.last_actor {
            entry.cause.actor.clone_from(&self.last_actor);
        } else {
            self.last_actor.clone_from(&entry.cause.actor);
        }
    }
}

impl std::fmt::Debug for Denylist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Denylist").field("len", &self.len()).field("filter", &self.filter).finish_non_exhaustive()
    }
}
