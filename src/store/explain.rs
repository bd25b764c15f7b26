//! Why a subject is denied, since when, and by whom.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Claim, Digest, Effect, Entry, EntryCause, Epochs, InvalidSubject, Item, Marks, Reason, Shape, Subject, Timestamp,
};

use super::Store;

/// What a store knows of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Explanation {
    /// Its kind and scope.
    pub subject: Shape,
    /// Its name, if it is a wide subject and the options retain names.
    pub label: Option<String>,
    /// Its identity in this store, which the audit records name too.
    pub digest: Digest,
    /// What was decided, and what has become of it.
    pub facts: Vec<Fact>,
    /// When it may be forgotten, in whole seconds, rounded up; none for a wide subject.
    pub until: Option<Timestamp>,
}

/// One decision about a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Fact {
    /// What it does.
    pub effect: Effect,
    /// The claim that it compares: a credential without a valid one, or one [that serves instead](Claim::any_of), is denied
    /// however young it is. None if it compares nothing.
    pub requires: Option<Claim>,
    /// When it was decided.
    pub since: Timestamp,
    /// Why.
    pub reason: Reason,
    /// By whom.
    pub actor: Option<Arc<str>>,
    /// How many sessions it spares.
    pub spared_sessions: usize,
    /// Whether it has been undone, by `lift` or `enable`.
    pub undone: bool,
}

impl Explanation {
    /// Whether anything of it holds.
    #[must_use]
    pub fn denies(&self) -> bool {
        self.facts.iter().any(|fact| !fact.undone)
    }

    fn of(item: Item) -> Self {
        let mut facts = Vec::new();
        let mut add = |effect, requires, since, cause: &EntryCause, spared_sessions, undone| {
            let actor = cause.actor.clone();
            facts.push(Fact { effect, requires, since, reason: cause.reason, actor, spared_sessions, undone });
        };
        let mut add_denials = |denials: &Marks<EntryCause>, effect: Effect| {
            for record in denials.iter() {
                // What arrived as no more than an undo says nothing of a decision.
                if let Some((at, cause)) = &record.mark {
                    add(effect, None, *at, cause, 0, record.standing().is_none());
                }
            }
        };
        let until = match &item.entry {
            Entry::Narrow(entry) => {
                add_denials(&entry.denials, Effect::Revoked);
                Some(entry.until.end())
            }
            Entry::Wide(entry) => {
                add_denials(&entry.blocks, Effect::Disabled);
                let mut add_epochs = |epochs: &Epochs, effect: fn(Timestamp) -> Effect| {
                    for mark in epochs.iter() {
                        let timed = effect(mark.epoch);
                        let effect = if mark.is_pending() { Effect::Pending } else { timed };
                        add(effect, timed.requires(), mark.at, &mark.cause, mark.spared.len(), false);
                    }
                };
                add_epochs(&entry.reauthenticate, |epoch| Effect::Reauthenticate { epoch });
                add_epochs(&entry.reissue, |epoch| Effect::Reissue { epoch });
                for record in entry.ages.iter() {
                    if let Some((at, age)) = &record.mark {
                        let limit = Duration::from_nanos(age.nanos);
                        let effect = Effect::TooOld { limit };
                        add(effect, effect.requires(), *at, &age.cause, 0, record.standing().is_none());
                    }
                }
                if entry.floor > Timestamp::MIN {
                    let cause = EntryCause { reason: Reason::Policy, actor: None };
                    let (effect, requires) = (Effect::Reauthenticate { epoch: entry.floor }, Some(Claim::IssuedAt));
                    add(effect, requires, entry.floor, &cause, 0, false);
                }
                None
            }
        };
        let label = item.label.map(String::from);
        Self { subject: item.shape, label, digest: item.digest, facts, until }
    }
}

impl Store {
    /// Why a subject is denied, since when and by whom; none if nothing is known of it.
    ///
    /// It looks at exactly this subject, not at wider ones: a user without a tenant and that user in a tenant are two.
    ///
    /// # Errors
    /// When the subject cannot be named.
    pub fn explain(&self, subject: &Subject) -> Result<Option<Explanation>, InvalidSubject> {
        subject.validate()?;
        Ok(self.shared.denylist.item(self.shared.keyring.identity_of(subject)).map(Explanation::of))
    }

    /// Every wide subject that has an entry, in no particular order. Names are there if the options retain them.
    #[must_use]
    pub fn list(&self) -> Vec<Explanation> {
        self.shared.denylist.wide_items().map(Explanation::of).collect()
    }
}
