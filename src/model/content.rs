//! What replicas compare: sums of keyed hashes of entries, by where they are and by when they end.
//!
//! The sum of a set of entries does not depend on their order, and an entry is added to it, or taken out, without the
//! others. Two sets with the same count and the same 128-bit sum are taken to be equal. The hash is keyed: whoever does
//! not know the key cannot make up entries whose hashes cancel out.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_128_with_secret};
use zeroize::Zeroize;

use super::entry::{Age, Cause, NarrowEntry, WideEntry};
use super::epochs::Epochs;
use super::identity::{Identity, Locator};
use super::marks::{Marks, Undone};
use super::time::Timestamp;

/// How long a bin is, in seconds.
const BIN_SECS: u64 = 900;
pub(crate) const CONTENT_SECRET_BYTES: usize = 192;

/// A quarter of an hour. Entries are compared, and forgotten, by the one in which they end: all that end in it at once,
/// so that replicas whose clocks differ do not take what one has just forgotten for a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Bin(u32);

impl Bin {
    /// That of entries which do not end.
    pub(crate) const FOR_GOOD: Self = Self(u32::MAX);

    /// The one in which a time lies.
    pub(crate) fn of(time: Timestamp) -> Self {
        match time {
            Timestamp::MAX => Self::FOR_GOOD,
            time => Self(u32::try_from(time.as_secs() / BIN_SECS).unwrap_or(u32::MAX)),
        }
    }

    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// When it begins.
    pub(crate) fn start(self) -> Timestamp {
        Timestamp::from_secs(u64::from(self.0) * BIN_SECS)
    }
}

/// How many entries, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) hashes: u128,
}

impl Sum {
    pub(crate) fn of(hash: u128) -> Self {
        Self { count: 1, hashes: hash }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.count = self.count.wrapping_add(other.count);
        self.hashes = self.hashes.wrapping_add(other.hashes);
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        self.count = self.count.wrapping_sub(other.count);
        self.hashes = self.hashes.wrapping_sub(other.hashes);
    }

    /// Eight bytes in which different sums differ, but for one time in 2^64.
    pub(crate) fn brief(self) -> [u8; 8] {
        let folded = self.hashes as u64 ^ (self.hashes >> 64) as u64;
        folded.wrapping_add(self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
    }
}

/// All subjects whose locators begin with some nibbles: a node of a tree of which every node has 16 children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Node {
    /// The nibbles, highest first, and zeros.
    prefix: u64,
    /// How many nibbles.
    depth: u8,
}

impl Node {
    pub(crate) const ROOT: Self = Self { prefix: 0, depth: 0 };
    pub(crate) const CHILDREN: usize = 16;
    /// The depth of nodes without children.
    pub(crate) const DEPTH_MAX: u8 = 16;

    #[cfg(test)]
    pub(crate) const fn unchecked(prefix: u64, depth: u8) -> Self {
        Self { prefix, depth }
    }

    /// Whether it is spelled as every node is. Decoded nodes are checked.
    pub(crate) fn is_canonical(self) -> bool {
        self.depth <= Self::DEPTH_MAX && self.prefix & self.span() == 0
    }

    pub(crate) fn depth(self) -> u8 {
        self.depth
    }

    /// The last locator in it, less the first.
    fn span(self) -> u64 {
        u64::MAX.checked_shr(u32::from(self.depth) * 4).unwrap_or(0)
    }

    pub(crate) fn first(self) -> Locator {
        Locator::from_u64(self.prefix)
    }

    pub(crate) fn last(self) -> Locator {
        Locator::from_u64(self.prefix | self.span())
    }

    /// Its children, in their order; none for a node of the greatest depth.
    pub(crate) fn children(self) -> impl Iterator<Item = Self> {
        let depth = self.depth + 1;
        let numbers = if depth > Self::DEPTH_MAX { 0..0 } else { 0..Self::CHILDREN as u64 };
        numbers.map(move |number| Self { prefix: self.prefix | number << (64 - u32::from(depth) * 4), depth })
    }

    /// The node itself, its parent, and so on up to the root.
    pub(crate) fn up(self) -> impl Iterator<Item = Self> {
        (0..=self.depth).rev().map(move |depth| {
            let span = u64::MAX.checked_shr(u32::from(depth) * 4).unwrap_or(0);
            Self { prefix: self.prefix & !span, depth }
        })
    }

    /// The number of the child that a locator in it belongs to.
    pub(crate) fn child_of(self, locator: Locator) -> usize {
        (locator.as_u64() << (u32::from(self.depth.min(15)) * 4) >> 60) as usize
    }
}

/// Eight bytes of the hash of an entry: enough to tell the entries of a small node apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Fingerprint([u8; 8]);

impl Fingerprint {
    pub(crate) fn of(hash: u128) -> Self {
        Self((hash as u64).to_le_bytes())
    }
}

/// Hashes entries. Names of subjects and scopes are left out: they follow from the subject, or are local options.
#[derive(Clone)]
pub(crate) struct ContentHasher([u8; CONTENT_SECRET_BYTES]);

impl Drop for ContentHasher {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ContentHasher {
    pub(crate) const fn new(secret: [u8; CONTENT_SECRET_BYTES]) -> Self {
        Self(secret)
    }

    /// The hash of an entry of a token, session or family.
    pub(crate) fn narrow(&self, subject: Identity, entry: &NarrowEntry) -> u128 {
        let NarrowEntry { denials, until } = entry;
        // All but a few have one mark, and their bytes fit here.
        let mut gathered = Gathered::default();
        gathered.extend(&identity(subject));
        gathered.extend(&until.as_secs().to_le_bytes());
        Self::marks(denials, &mut gathered, |cause| self.cause(cause));
        xxh3_128_with_secret(gathered.bytes(), &self.0)
    }

    /// The hash of an entry of a wider subject.
    pub(crate) fn wide(&self, subject: Identity, entry: &WideEntry) -> u128 {
        let WideEntry { reauthenticate, reissue, blocks, ages, floor } = entry;
        let mut bytes = Gathered::default();
        bytes.extend(&identity(subject));
        bytes.extend(&floor.as_nanos().to_le_bytes());
        Self::marks(blocks, &mut bytes, |cause| self.cause(cause));
        Self::marks(ages, &mut bytes, |Age { nanos, cause }| {
            let mut age = [0; 17];
            let (limit, why) = age.split_at_mut(8);
            limit.copy_from_slice(&nanos.to_le_bytes());
            why.copy_from_slice(&self.cause(cause));
            age
        });
        for epochs in [reauthenticate, reissue] {
            self.epochs(epochs, &mut bytes);
        }
        xxh3_128_with_secret(bytes.bytes(), &self.0)
    }

    // Numbers go before what they count, so that no two entries share their bytes.

    fn marks<T: Clone + Ord, const N: usize>(marks: &Marks<T>, bytes: &mut Gathered, hash: impl Fn(&T) -> [u8; N]) {
        bytes.extend(&(marks.iter().len() as u64).to_le_bytes());
        for record in marks.iter() {
            bytes.extend(record.life.as_bytes());
            bytes.extend(&record.undone.as_nanos().to_le_bytes());
            bytes.extend(&[record.mark.is_some().into()]);
            if let Some((number, what)) = &record.mark {
                bytes.extend(&number.as_nanos().to_le_bytes());
                bytes.extend(&hash(what));
            }
        }
    }

    fn epochs(&self, epochs: &Epochs, bytes: &mut Gathered) {
        bytes.extend(&(epochs.iter().len() as u64).to_le_bytes());
        for mark in epochs.iter() {
            bytes.extend(&mark.epoch.as_nanos().to_le_bytes());
            bytes.extend(&mark.at.as_nanos().to_le_bytes());
            bytes.extend(mark.life.as_bytes());
            bytes.extend(&[mark.in_doubt.into()]);
            bytes.extend(&[mark.issuer.is_some().into()]);
            mark.issuer.iter().for_each(|issuer| bytes.extend(issuer.as_bytes()));
            bytes.extend(&self.cause(&mark.cause));
            bytes.extend(&(mark.spared.len() as u64).to_le_bytes());
            mark.spared.iter().for_each(|session| bytes.extend(session.as_bytes()));
        }
        self.undone(epochs.lifted(), bytes);
    }

    fn undone(&self, undone: &Undone, bytes: &mut Gathered) {
        bytes.extend(&(undone.iter().len() as u64).to_le_bytes());
        for (life, number) in undone.iter() {
            bytes.extend(life.as_bytes());
            bytes.extend(&number.as_nanos().to_le_bytes());
        }
    }

    fn cause(&self, cause: &Cause) -> [u8; 9] {
        let name = cause.actor.as_ref();
        let actor = name.map_or(0, |name| xxh3_64_with_secret(name.as_bytes(), &self.0) | 1);
        let [a, b, c, d, e, f, g, h] = actor.to_le_bytes();
        [cause.reason.into(), a, b, c, d, e, f, g, h]
    }
}

/// Bytes to be hashed, on the stack while they are few.
struct Gathered {
    few: [u8; 96],
    len: usize,
    many: Vec<u8>,
}

impl Default for Gathered {
    fn default() -> Self {
        Self { few: [0; 96], len: 0, many: Vec::new() }
    }
}

impl Gathered {
    fn extend(&mut self, field: &[u8]) {
        let end = self.len + field.len();
        match self.few.get_mut(self.len..end) {
            Some(place) if self.many.is_empty() => {
                place.copy_from_slice(field);
                self.len = end;
            }
            _ => {
                if self.many.is_empty() {
                    self.many.extend_from_slice(self.few.get(..self.len).unwrap_or_default());
                }
                self.many.extend_from_slice(field);
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        if self.many.is_empty() { self.few.get(..self.len).unwrap_or_default() } else { &self.many }
    }
}

/// The bytes of an identity: its digest, its locator, the index of its shape.
fn identity(subject: Identity) -> [u8; 25] {
    let mut bytes = [subject.shape.index() as u8; 25];
    if let Some((digest, rest)) = bytes.split_first_chunk_mut() {
        *digest = *subject.digest.as_bytes();
        if let Some(locator) = rest.first_chunk_mut() {
            *locator = subject.locator.as_u64().to_le_bytes();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_share_out_their_parent() {
        let mut node = Node::ROOT;
        assert_eq!((node.first().as_u64(), node.last().as_u64()), (0, u64::MAX));
        for depth in 0..Node::DEPTH_MAX {
            assert_eq!(node.depth(), depth);
            let children: Vec<Node> = node.children().collect();
            assert_eq!(children.len(), Node::CHILDREN);
            assert!(children.iter().all(|child| child.is_canonical()));
            assert_eq!((children[0].first(), children[15].last()), (node.first(), node.last()));
            for (number, pair) in children.windows(2).enumerate() {
                assert_eq!(pair[0].last().as_u64() + 1, pair[1].first().as_u64());
                assert_eq!((node.child_of(pair[0].first()), node.child_of(pair[0].last())), (number, number));
            }
            node = children[usize::from(depth) * 7 % 16];
        }
        assert_eq!((node.first(), node.children().count()), (node.last(), 0));
        let up: Vec<Node> = node.up().collect();
        assert_eq!((up.len(), up[0], up[16]), (17, node, Node::ROOT));
        assert!(up.windows(2).all(|pair| pair[1].children().any(|child| child == pair[0])));
    }

    #[test]
    fn a_bin_is_a_quarter_of_an_hour() {
        let bin = |secs| Bin::of(Timestamp::from_secs(secs));
        assert_eq!((bin(0), bin(899)), (Bin(0), Bin(0)));
        assert_eq!((bin(900), bin(900).start()), (Bin(1), Timestamp::from_secs(900)));
        assert_eq!(Bin::of(Timestamp::MAX), Bin::FOR_GOOD);
        assert!(Bin::of(Timestamp::from_nanos(u64::MAX - 1)) < Bin::FOR_GOOD);
        assert_eq!((bin(900).next(), Bin::FOR_GOOD.next()), (Bin(2), Bin::FOR_GOOD));
    }

    #[test]
    fn sums_do_not_depend_on_order_and_what_is_taken_out_leaves_no_trace() {
        let sums = [Sum::of(u128::MAX - 3), Sum::of(7), Sum::of(1 << 100)];
        let mut forward = Sum::default();
        sums.iter().for_each(|sum| forward.add(*sum));
        let mut backward = Sum::default();
        sums.iter().rev().for_each(|sum| backward.add(*sum));
        assert_eq!((forward, forward.count), (backward, 3));
        assert_ne!(forward.brief(), Sum::of(7).brief());
        assert_eq!(Sum::default().brief(), [0; 8]);
        forward.subtract(sums[0]);
        forward.subtract(sums[2]);
        assert_eq!(forward, Sum::of(7));
        // The same sum of more entries is another one.
        assert_ne!(Sum { count: 1, hashes: 5 }.brief(), Sum { count: 2, hashes: 5 }.brief());
    }
}
