//! Narrow entries by the million: fixed rows of 42 bytes, for tables and snapshots.

use std::sync::Arc;

use super::entry::{Cause, NarrowEntry};
use super::identity::{Digest, Identity, Locator};
use super::marks::Life;
use super::provenance::Reason;
use super::subject::Shape;
use super::time::{Retention, Timestamp};
use super::verdict::{Denial, Effect};

/// Who revoked a row: which life, and on whose behalf. Millions of rows share few of these, and name them by number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Author {
    pub(crate) life: Life,
    /// The id of the actor.
    pub(crate) actor: Option<Arc<str>>,
}

/// One token, session or family that was revoked by one life and never lifted. Packed, because there are millions of them.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(2))]
pub(crate) struct Row {
    pub(crate) locator: Locator,
    pub(crate) digest: Digest,
    pub(crate) at: Timestamp,
    pub(crate) until: Retention,
    /// The number of the author in the list that goes with the row.
    pub(crate) author: u32,
    pub(crate) reason: u8,
    /// One more than the index of its shape; 0 where there is no row.
    shape: u8,
}

impl Row {
    /// The number of no author.
    pub(crate) const NO_AUTHOR: u32 = u32::MAX;

    /// No row.
    pub(crate) const VACANT: Self = Self {
        locator: Locator::from_u64(0),
        digest: Digest::from_bytes([0; 16]),
        at: Timestamp::MIN,
        until: Retention::FOR_GOOD,
        author: Self::NO_AUTHOR,
        reason: 0,
        shape: 0,
    };

    pub(crate) const fn is_vacant(&self) -> bool {
        self.shape == 0
    }

    /// The author of an entry that may be a row: one that was denied by one life, and never lifted.
    pub(crate) fn author_of(entry: &NarrowEntry) -> Option<Author> {
        let mut records = entry.denials.iter();
        let (record, None) = (records.next()?, records.next()) else { return None };
        let (_, cause) = record.mark.as_ref().filter(|_| record.undone == Timestamp::MIN)?;
        Some(Author { life: record.life, actor: cause.actor.clone() })
    }

    /// The row of an entry, given the number of its [author](Self::author_of); none if a row cannot hold it.
    pub(crate) fn of(subject: Identity, entry: &NarrowEntry, author: u32) -> Option<Self> {
        let Identity { locator, digest, shape } = subject;
        let (at, cause) = entry.denials.latest_standing()?;
        let (at, until, reason) = (*at, entry.until, cause.reason.into());
        let shape = Some(shape).filter(|shape| shape.kind.is_narrow()).map(code_of)?;
        Some(Self { locator, digest, at, until, author, reason, shape })
    }

    /// Puts a row together from what was read; none if no entry is spelled so.
    pub(crate) fn from_parts(
        locator: Locator,
        digest: Digest,
        at: Timestamp,
        until: Retention,
        author: u32,
        reason: u8,
        shape: u8,
    ) -> Option<Self> {
        let row = Self { locator, digest, at, until, author, reason, shape };
        let is_narrow = row.shape().is_some_and(|shape| shape.kind.is_narrow());
        (is_narrow && at > Timestamp::MIN).then_some(row)
    }

    pub(crate) const fn shape_code(&self) -> u8 {
        self.shape
    }

    /// Whether it is that of a subject.
    #[inline]
    pub(crate) fn is_of(&self, subject: Identity) -> bool {
        let Self { locator, digest, shape, .. } = *self;
        locator == subject.locator && digest == subject.digest && shape == code_of(subject.shape)
    }

    /// Whose it is.
    pub(crate) fn identity(&self) -> Option<Identity> {
        Some(Identity { locator: self.locator, digest: self.digest, shape: self.shape()? })
    }

    pub(crate) fn shape(&self) -> Option<Shape> {
        Shape::from_index(usize::from(self.shape).checked_sub(1)?)
    }

    /// The entry, given its author.
    pub(crate) fn entry(&self, author: &Author) -> NarrowEntry {
        let cause = Cause { reason: self.reason.into(), actor: author.actor.clone() };
        NarrowEntry::denied(author.life, self.at, cause, self.until)
    }

    /// The denial of whatever names this subject.
    pub(crate) fn denial(&self) -> Denial {
        let reason = Reason::from(self.reason);
        Denial { subject: self.shape(), effect: Effect::Revoked, since: Some(self.at), reason, missing: None }
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { digest, at, until, .. } = *self;
        let mut out = f.debug_struct("Row");
        out.field("shape", &self.shape()).field("digest", &digest).field("at", &at).field("until", &until);
        out.finish_non_exhaustive()
    }
}

/// There are few shapes.
const fn code_of(shape: Shape) -> u8 {
    shape.index() as u8 + 1
}

/// Some rows, with their authors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) authors: Vec<Author>,
    /// Sorted by locator, as a rule: then they load fast.
    pub(crate) rows: Vec<Row>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn a_row_says_what_it_denies_and_one_that_denies_nothing_is_none() {
        let shape = Shape { kind: Kind::Token, in_tenant: false, at_issuer: false };
        let row = |at: u64, shape: u8| {
            let (locator, digest) = (Locator::from_u64(1), Digest::from_bytes([0xd; 16]));
            Row::from_parts(
                locator,
                digest,
                Timestamp::from_nanos(at),
                Retention::from_secs(9),
                Row::NO_AUTHOR,
                0,
                shape,
            )
        };
        let code = u8::try_from(shape.index() + 1).unwrap();
        assert_eq!(row(0, code), None, "it was revoked at no time");
        assert_eq!(row(1, 0), None, "it is vacant");
        let shown = format!("{:?}", row(1, code).unwrap());
        assert!(shown.contains("Token") && shown.contains(&"0d".repeat(16)) && shown.contains("1970"), "{shown}");
    }
}
