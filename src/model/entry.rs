//! What is stored per subject: a value of a join-semilattice.
//!
//! Joining two is commutative, associative and idempotent, so entries may arrive twice, late and in any order.
//! Nothing is ever subtracted: undoing is itself a value that grows, and names the marks that its author had seen; see
//! [`super::marks`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::credential::Claim;
use super::epochs::{Epochs, Mark};
use super::identity::{Digest, Identity, Locator};
use super::marks::{Life, Marks};
use super::provenance::Reason;
use super::subject::Shape;
use super::time::{Retention, Timestamp};

/// Why, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Cause {
    /// The reason code.
    pub(crate) reason: Reason,
    /// The id of the actor.
    pub(crate) actor: Option<Arc<str>>,
}

/// What is known about one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// A token, session or family: denied outright.
    Narrow(NarrowEntry),
    /// Any wider subject: epochs, blocks and limits.
    Wide(WideEntry),
}

impl Entry {
    /// Whether it is in the one form that equal entries share. Decoded entries are checked before they are joined.
    pub(crate) fn is_canonical(&self) -> bool {
        match self {
            Self::Narrow(entry) => entry.denials.is_canonical(),
            Self::Wide(WideEntry { reauthenticate, reissue, blocks, ages, floor: _ }) => {
                let epochs = reauthenticate.is_canonical() && reissue.is_canonical();
                epochs && blocks.is_canonical() && ages.is_canonical()
            }
        }
    }

    /// The least entry that is at least both. Entries of different sorts are of different subjects, and are not joined.
    pub(crate) fn joined_with(mut self, other: Self) -> Self {
        match (&mut self, other) {
            (Self::Narrow(entry), Self::Narrow(other)) => entry.join(other),
            (Self::Wide(entry), Self::Wide(other)) => entry.join(other),
            _ => {}
        }
        self
    }

    /// Whether it denies whatever names its subject.
    pub(crate) fn denies_outright(&self) -> bool {
        match self {
            Self::Narrow(entry) => entry.denies(),
            Self::Wide(entry) => entry.blocks.stand(),
        }
    }

    /// The highest number of a mark in it.
    pub(crate) fn latest(&self) -> Timestamp {
        match self {
            Self::Narrow(entry) => entry.denials.latest(),
            Self::Wide(entry) => entry.latest_mark(),
        }
    }

    /// Whether it says nothing.
    pub(crate) fn is_void(&self) -> bool {
        match self {
            Self::Narrow(entry) => entry.denials.is_empty(),
            Self::Wide(entry) => *entry == WideEntry::default(),
        }
    }

    /// Whether it has epochs that wait for their time.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self, Self::Wide(entry) if entry.is_pending())
    }

    /// Whether it may undo anything. `false` is certain.
    pub(crate) fn may_undo(&self) -> bool {
        match self {
            Self::Narrow(entry) => entry.denials.undoes(),
            Self::Wide(_) => true,
        }
    }

    /// The entry without what it would undo of what is known: joined in, it un-denies nothing.
    pub(crate) fn without_undoing(&self, known: Option<&Self>) -> Self {
        match (self, known) {
            (Self::Narrow(entry), Some(Self::Narrow(known))) => Self::Narrow(entry.without_undoing(Some(known))),
            (Self::Narrow(entry), _) => Self::Narrow(entry.without_undoing(None)),
            (Self::Wide(entry), Some(Self::Wide(known))) => Self::Wide(entry.without_undoing(Some(known))),
            (Self::Wide(entry), _) => Self::Wide(entry.without_undoing(None)),
        }
    }
}

/// An entry, and the subject it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// The identity of the subject.
    pub(crate) digest: Digest,
    /// The subject's locator, so that filters can be rebuilt.
    pub(crate) locator: Locator,
    /// Its kind and scope.
    pub(crate) shape: Shape,
    /// What is known about it.
    pub(crate) entry: Entry,
    /// Of a wide subject that is or is in a tenant, the identity of that tenant: its maximum credential age bounds how
    /// long the entry is kept.
    pub(crate) scope: Option<Digest>,
    /// The name of a wide subject, where the options retain names.
    pub(crate) label: Option<Box<str>>,
}

impl Item {
    pub(crate) const fn identity(&self) -> Identity {
        Identity { locator: self.locator, digest: self.digest, shape: self.shape }
    }
}

/// The outright denials of one token, session or family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NarrowEntry {
    /// Who denied it, and which of that is lifted. It denies while any stands.
    pub(crate) denials: Marks<Cause>,
    /// When it may be forgotten: the latest `exp` of any credential that names it.
    pub(crate) until: Retention,
}

impl NarrowEntry {
    /// A denial.
    pub(crate) fn denied(life: Life, at: Timestamp, cause: Cause, until: Retention) -> Self {
        Self { denials: Marks::one(life, at, cause), until }
    }

    /// Whether it denies.
    #[must_use]
    pub(crate) fn denies(&self) -> bool {
        self.denials.stand()
    }

    /// The lifting of all that stands; none if nothing does.
    pub(crate) fn lifting(&self) -> Option<Self> {
        Some(Self { denials: self.denials.undoing()?, until: self.until })
    }

    fn without_undoing(&self, known: Option<&Self>) -> Self {
        Self { denials: self.denials.without_undoing(known.map(|known| &known.denials)), until: self.until }
    }

    /// Makes this the least entry that is at least both.
    pub(crate) fn join(&mut self, other: Self) {
        self.denials.join(other.denials);
        self.until = self.until.max(other.until);
    }
}

/// What is known of one wide subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WideEntry {
    /// Credentials authenticated at or before these are dead.
    pub(crate) reauthenticate: Epochs,
    /// Credentials issued at or before these are dead.
    pub(crate) reissue: Epochs,
    /// Who disabled it, and which of that is undone. It is disabled while any stands.
    pub(crate) blocks: Marks<Cause>,
    /// Of a tenant or everyone, the maximum ages of credentials that were set, and which of that is undone. The shortest
    /// that stands binds.
    pub(crate) ages: Marks<Age>,
    /// Credentials authenticated or issued at or before this were once dead by age, and stay so. No undo touches it.
    pub(crate) floor: Timestamp,
}

/// A maximum age of credentials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Age {
    /// In nanoseconds.
    pub(crate) nanos: u64,
    pub(crate) cause: Cause,
}

impl WideEntry {
    /// The lifting of all epochs that stand; none if none does.
    pub(crate) fn lifting(&self) -> Option<Self> {
        let (reauthenticate, reissue) = (self.reauthenticate.lifting(), self.reissue.lifting());
        if reauthenticate.is_none() && reissue.is_none() {
            return None;
        }
        let (reauthenticate, reissue) = (reauthenticate.unwrap_or_default(), reissue.unwrap_or_default());
        Some(Self { reauthenticate, reissue, ..Self::default() })
    }

    /// The undoing of every block that stands; none if none does.
    pub(crate) fn enabling(&self) -> Option<Self> {
        Some(Self { blocks: self.blocks.undoing()?, ..Self::default() })
    }

    /// The maximum age that binds; none if none is set.
    pub(crate) fn age(&self) -> Option<u64> {
        self.ages.standing().map(|(_, (_, age))| age.nanos).min()
    }

    /// The undoing of every age that stands; none if none does.
    pub(crate) fn without_age(&self) -> Option<Self> {
        Some(Self { ages: self.ages.undoing()?, ..Self::default() })
    }

    /// Whether it has epochs that wait for their time.
    pub(crate) fn is_pending(&self) -> bool {
        self.reauthenticate.is_pending() || self.reissue.is_pending()
    }

    /// All epochs.
    pub(crate) fn epochs(&self) -> impl Iterator<Item = &Mark> {
        self.reauthenticate.iter().chain(self.reissue.iter())
    }

    /// The claim that every credential must bring to satisfy all that it holds; none if it compares nothing.
    pub(crate) fn requires(&self) -> Option<Claim> {
        let compares_issuance = self.reissue.iter().len() > 0 || self.age().is_some() || self.floor > Timestamp::MIN;
        if compares_issuance {
            // It serves a re-authenticate epoch as well.
            return Some(Claim::IssuedAt);
        }
        (self.reauthenticate.iter().len() > 0).then_some(Claim::AuthTime)
    }

    fn latest_mark(&self) -> Timestamp {
        let epochs = self.reauthenticate.latest().max(self.reissue.latest());
        epochs.max(self.blocks.latest()).max(self.ages.latest())
    }

    /// The latest time in it: once credentials that old are dead by age, it may be forgotten. None if it may not, however
    /// old it is: a block or an age has no end, and that it was undone has to be told to peers that still hold it.
    pub(crate) fn latest(&self, has_peers: bool) -> Option<Timestamp> {
        let stays = match has_peers {
            true => !self.blocks.is_empty() || !self.ages.is_empty(),
            false => self.blocks.stand() || self.ages.stand(),
        };
        if stays || self.is_pending() {
            return None;
        }
        let epochs = self.reauthenticate.iter().chain(self.reissue.iter()).map(|mark| mark.epoch);
        Some(epochs.max().unwrap_or_default().max(self.latest_mark()).max(self.floor))
    }

    pub(super) fn without_undoing(&self, known: Option<&Self>) -> Self {
        Self {
            reauthenticate: self.reauthenticate.without_undoing(known.map(|known| &known.reauthenticate)),
            reissue: self.reissue.without_undoing(known.map(|known| &known.reissue)),
            blocks: self.blocks.without_undoing(known.map(|known| &known.blocks)),
            ages: self.ages.without_undoing(known.map(|known| &known.ages)),
            floor: self.floor,
        }
    }

    /// Makes this the least entry that is at least both.
    pub(crate) fn join(&mut self, other: Self) {
        self.reauthenticate.join(other.reauthenticate);
        self.reissue.join(other.reissue);
        self.blocks.join(other.blocks);
        self.ages.join(other.ages);
        self.floor = self.floor.max(other.floor);
    }
}
