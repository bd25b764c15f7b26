//! Why a subject is denied, since when, and by whom.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Claim, Digest, Effect, Entry, EntryCause, Epochs, InvalidSubject, Item, Mark, Marks, Reason, Shape, Subject,
    Timestamp,
};

use super::{Shared, Store, belief};

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
    /// The issuer to whose credentials alone it applies: one that is ahead of the store's clock has a later epoch than the
    /// others. None if it applies to those of every issuer.
    pub issuer: Option<Digest>,
    /// How many sessions it spares.
    pub spared_sessions: usize,
    /// Whether it has been undone, by `lift` or `enable`.
    pub undone: bool,
    /// Whether it is a floor: what was dead by a maximum age stays dead although that age has been replaced by a longer one.
    pub is_floor: bool,
    /// By how much its epoch lies beyond what the boot clock bears out now, if that is more than the allowed skew: a clock that
    /// has jumped ahead locks people out until then. [`Store::restate_epochs`] mends it, once the clock is right.
    pub beyond_borne_out: Option<Duration>,
}

impl Explanation {
    /// Whether anything of it holds.
    #[must_use]
    pub fn denies(&self) -> bool {
        self.facts.iter().any(|fact| !fact.undone)
    }

    /// What an item says. `beyond` tells by how much the epoch of a mark lies beyond borne-out time, if it does.
    fn of(item: Item, beyond: impl Fn(&Mark) -> Option<Duration>) -> Self {
        let mut facts = Vec::new();
        let fact = |effect: Effect, since, cause: &EntryCause, undone| Fact {
            effect,
            requires: effect.requires(),
            since,
            reason: cause.reason,
            actor: cause.actor.clone(),
            issuer: None,
            spared_sessions: 0,
            undone,
            is_floor: false,
            beyond_borne_out: None,
        };
        let mut add_denials = |denials: &Marks<EntryCause>, effect: Effect| {
            for record in denials.iter() {
                // What arrived as no more than an undo says nothing of a decision.
                if let Some((at, cause)) = &record.mark {
                    facts.push(fact(effect, *at, cause, record.standing().is_none()));
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
                        facts.push(Fact {
                            requires: timed.requires(),
                            issuer: mark.issuer,
                            spared_sessions: mark.spared.len(),
                            beyond_borne_out: beyond(mark),
                            ..fact(effect, mark.at, &mark.cause, false)
                        });
                    }
                };
                add_epochs(&entry.reauthenticate, |epoch| Effect::Reauthenticate { epoch });
                add_epochs(&entry.reissue, |epoch| Effect::Reissue { epoch });
                for record in entry.ages.iter() {
                    if let Some((at, age)) = &record.mark {
                        let limit = Duration::from_nanos(age.nanos);
                        let undone = record.standing().is_none();
                        facts.push(fact(Effect::TooOld { limit }, *at, &age.cause, undone));
                    }
                }
                if entry.floor > Timestamp::MIN {
                    let cause = EntryCause { reason: Reason::Policy, actor: None };
                    let floor = fact(Effect::Reauthenticate { epoch: entry.floor }, entry.floor, &cause, false);
                    facts.push(Fact { is_floor: true, requires: Some(Claim::IssuedAt), ..floor });
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
        let beyond = self.shared.beyond();
        let item = self.shared.denylist.item(self.shared.keyring.identity_of(subject));
        Ok(item.map(|item| Explanation::of(item, beyond)))
    }

    /// Every wide subject that has an entry, in no particular order. Names are there if the options retain them.
    #[must_use]
    pub fn list(&self) -> Vec<Explanation> {
        let beyond = self.shared.beyond();
        self.shared.denylist.wide_items().map(|item| Explanation::of(item, &beyond)).collect()
    }
}

impl Shared {
    /// Tells by how much the epoch of a mark lies beyond borne-out time, if it does. The line of an issuer that is ahead is
    /// later than the present time by right.
    fn beyond(&self) -> impl Fn(&Mark) -> Option<Duration> {
        let time = self.believed_time();
        let latest_line = belief::latest_line(time.borne_out.saturating_add(self.policy.skew), self.longest_leeway());
        move |mark| match mark.issuer {
            Some(_) if mark.epoch <= latest_line => None,
            _ => time.beyond(mark.epoch),
        }
    }
}
