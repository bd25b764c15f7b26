//! What is stored per subject: a value of a join-semilattice.
//!
//! Joining two is commutative, associative and idempotent, so entries may arrive twice, late and in any order.
//! Nothing is ever subtracted: undoing is itself a value that grows ("every mark made at or before *t* is lifted"), and
//! names no more than what its author had seen. A mark made since, anywhere, still denies: deny wins ties.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::identity::{Digest, Identity, Locator};
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
    /// Any wider subject: epochs and a flag.
    Wide(WideEntry),
}

impl Entry {
    /// Whether it is in the one form that equal entries share. Decoded entries are checked before they are joined.
    pub(crate) fn is_canonical(&self) -> bool {
        match self {
            Self::Narrow(_) => true,
            Self::Wide(wide) => {
                let sorted = |epochs: &Epochs| epochs.0.iter().all(|mark| mark.spared.is_sorted_by(|a, b| a < b));
                let mut canonical = wide.clone();
                canonical.canonicalise();
                sorted(&wide.reauthenticate) && sorted(&wide.reissue) && canonical == *wide
            }
        }
    }
}

impl Entry {
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
            Self::Wide(entry) => entry.disabled_since().is_some(),
        }
    }

    /// Whether it may undo anything.
    pub(crate) fn undoes(&self) -> bool {
        match self {
            Self::Narrow(entry) => entry.lifted > Timestamp::MIN,
            Self::Wide(entry) => entry.lifted.max(entry.enabled) > Timestamp::MIN,
        }
    }

    /// The entry without what it would undo, where this is known: joined in, it un-denies nothing.
    pub(crate) fn without_undoing(&self, known: Option<&Self>) -> Self {
        let mut entry = self.clone();
        match (&mut entry, known) {
            (Self::Narrow(entry), Some(Self::Narrow(known))) => entry.lifted = entry.lifted.min(known.lifted),
            (Self::Wide(entry), Some(Self::Wide(known))) => {
                entry.lifted = entry.lifted.min(known.lifted);
                entry.enabled = entry.enabled.min(known.enabled);
            }
            _ => {}
        }
        entry
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

/// One outright denial: `at` is when it was last revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NarrowEntry {
    /// When it was last revoked. It denies while this is after `lifted`.
    pub(crate) at: Timestamp,
    /// Why, and by whom.
    pub(crate) cause: Cause,
    /// Revocations made at or before this are lifted.
    pub(crate) lifted: Timestamp,
    /// When it may be forgotten: the latest `exp` of any credential that names it.
    pub(crate) until: Retention,
}

impl Item {
    pub(crate) const fn identity(&self) -> Identity {
        Identity { locator: self.locator, digest: self.digest, shape: self.shape }
    }
}

impl NarrowEntry {
    /// A denial.
    pub(crate) const fn denied(at: Timestamp, cause: Cause, until: Retention) -> Self {
        Self { at, cause, lifted: Timestamp::MIN, until }
    }

    /// Whether it denies.
    #[must_use]
    pub(crate) fn denies(&self) -> bool {
        self.at > self.lifted
    }

    /// The latest time at which it was changed.
    pub(crate) fn last_change(&self) -> Timestamp {
        self.at.max(self.lifted)
    }

    /// Makes this the least entry that is at least both.
    pub(crate) fn join(&mut self, other: Self) {
        if (other.at, &other.cause) > (self.at, &self.cause) {
            self.at = other.at;
            self.cause = other.cause;
        }
        self.lifted = self.lifted.max(other.lifted);
        self.until = self.until.max(other.until);
    }
}

/// The epochs and the flag of one wide subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WideEntry {
    /// Credentials authenticated at or before these are dead.
    pub(crate) reauthenticate: Epochs,
    /// Credentials issued at or before these are dead.
    pub(crate) reissue: Epochs,
    /// When it was last disabled, and why. It is disabled while that is after `enabled`.
    pub(crate) disabled: Option<(Timestamp, Cause)>,
    /// Epochs made at or before this are lifted.
    pub(crate) lifted: Timestamp,
    /// Disablings made at or before this are undone.
    pub(crate) enabled: Timestamp,
    /// Credentials authenticated or issued at or before this were once dead by age, and stay so. No undo touches it.
    pub(crate) floor: Timestamp,
}

impl WideEntry {
    /// The flag, while it is set.
    #[must_use]
    pub(crate) fn disabled_since(&self) -> Option<&(Timestamp, Cause)> {
        self.disabled.as_ref().filter(|(at, _)| *at > self.enabled)
    }

    /// When the last epoch that it holds was made, for a lift to name.
    pub(crate) fn last_mark(&self) -> Option<Timestamp> {
        self.reauthenticate.0.iter().chain(&self.reissue.0).map(|mark| mark.at).max()
    }

    /// The latest time at which it was changed.
    pub(crate) fn last_change(&self) -> Timestamp {
        let disabled = self.disabled.as_ref().map(|(at, _)| *at);
        self.last_mark().max(disabled).unwrap_or_default().max(self.lifted).max(self.enabled)
    }

    /// The latest time in it: once credentials that old are dead by age, it may be forgotten.
    pub(crate) fn latest(&self) -> Timestamp {
        let marks = self.reauthenticate.0.iter().chain(&self.reissue.0).map(|mark| mark.epoch.max(mark.at));
        let flag = self.disabled.iter().map(|(at, _)| *at);
        marks.chain(flag).max().unwrap_or_default().max(self.lifted).max(self.enabled).max(self.floor)
    }

    /// Makes this the least entry that is at least both.
    pub(crate) fn join(&mut self, other: Self) {
        self.reauthenticate.0.extend(other.reauthenticate.0);
        self.reissue.0.extend(other.reissue.0);
        if other.disabled > self.disabled {
            self.disabled = other.disabled;
        }
        self.lifted = self.lifted.max(other.lifted);
        self.enabled = self.enabled.max(other.enabled);
        self.floor = self.floor.max(other.floor);
        self.canonicalise();
    }

    fn canonicalise(&mut self) {
        self.reauthenticate.canonicalise(self.lifted);
        self.reissue.canonicalise(self.lifted);
    }
}

/// The epochs of one sort on one subject: as a rule one.
///
/// Several are kept only while each binds a session that all later ones spare: a session spared today is still bound
/// by yesterday's epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Epochs(Vec<Mark>);

/// One epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Credentials from at or before this are dead.
    pub(crate) epoch: Timestamp,
    /// When the epoch was made.
    pub(crate) at: Timestamp,
    /// Why, and by whom.
    pub(crate) cause: Cause,
    /// The sessions it spares, sorted.
    pub(crate) spared: Vec<Digest>,
}

impl Mark {
    fn key(&self) -> (Timestamp, Timestamp, &Cause) {
        (self.epoch, self.at, &self.cause)
    }

    /// Whether whatever this binds, the other binds as well, if neither spares anyone.
    fn is_dominated_by(&self, other: &Self) -> bool {
        other.epoch >= self.epoch && other.at >= self.at && other.key() > self.key()
    }
}

impl Epochs {
    /// One epoch.
    pub(crate) fn one(mut mark: Mark) -> Self {
        mark.spared.sort_unstable();
        mark.spared.dedup();
        Self(vec![mark])
    }

    /// The epochs, latest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mark> {
        self.0.iter()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The least mark made at `at` that outdoes every mark there is, and `mark`: as late as the latest, sparing only whom
    /// all spare.
    pub(crate) fn outdone_by(&self, mut mark: Mark) -> Mark {
        for other in &self.0 {
            mark.epoch = mark.epoch.max(other.epoch);
            mark.spared.retain(|session| other.spared.binary_search(session).is_ok());
        }
        mark
    }

    /// The latest epoch that does not spare any of these sessions.
    pub(crate) fn binding(&self, spares: impl Fn(&Digest) -> bool) -> Option<&Mark> {
        self.denying(None, spares)
    }

    /// The latest epoch at or after `time` that does not spare any of these sessions; without a time, any epoch.
    ///
    /// Times are compared first: most credentials are from after the latest epoch, and whom it spares is asked of few.
    pub(crate) fn denying(&self, time: Option<Timestamp>, spares: impl Fn(&Digest) -> bool) -> Option<&Mark> {
        // A whole-second claim t is dead iff t <= floor(epoch), which for a whole t is the same as t <= epoch.
        let mut reached = self.0.iter().take_while(|mark| time.is_none_or(|time| time <= mark.epoch));
        reached.find(|mark| !mark.spared.iter().any(&spares))
    }

    /// Brings the marks into the one form that depends only on what was joined, not on the order.
    ///
    /// For each mark, `D` is the set of sessions that every mark dominating it spares. Only sessions in `D` can need
    /// it: if it spares all of `D` too it binds nobody that is not bound already and goes; otherwise it needs to
    /// remember no other exemption than those in `D`.
    fn canonicalise(&mut self, lifted: Timestamp) {
        self.0.retain(|mark| mark.at > lifted);
        self.0.sort_by(|a, b| b.key().cmp(&a.key()));
        self.0.dedup_by(|later, kept| {
            let same = later.key() == kept.key();
            if same {
                kept.spared.retain(|session| later.spared.binary_search(session).is_ok());
            }
            same
        });
        let mut canonical: Vec<Mark> = Vec::with_capacity(self.0.len().min(2));
        // Dominators sort before what they dominate, so they are canonical already; see the module's tests for why
        // that gives the same `D`.
        for mut mark in self.0.drain(..) {
            let mut needed_by: Option<Vec<Digest>> = None;
            for dominator in canonical.iter().filter(|other| mark.is_dominated_by(other)) {
                match &mut needed_by {
                    None => needed_by = Some(dominator.spared.clone()),
                    Some(needed_by) => needed_by.retain(|session| dominator.spared.binary_search(session).is_ok()),
                }
            }
            if let Some(needed_by) = needed_by {
                if needed_by.iter().all(|session| mark.spared.binary_search(session).is_ok()) {
                    continue;
                }
                mark.spared.retain(|session| needed_by.binary_search(session).is_ok());
            }
            canonical.push(mark);
        }
        self.0 = canonical;
    }
}
