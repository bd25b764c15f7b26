//! The one write path: validate, turn into entries to join, apply what denies while it is logged, and only then what undoes.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use crate::audit::{Action, AuditRecord, Outcome, Target};
use crate::codec::{self, Record};
use crate::journal::PAYLOAD_BYTES_MAX;
use crate::model::{
    Change, Digest, Entry, EntryCause, EpochKind, Epochs, Identity, InvalidRevocation, Item, Mark, NarrowEntry,
    Provenance, Retention, Revocation, Subject, Timestamp, WideEntry,
};

use super::committer::{Commit, Message, outcome};
use super::receipt::Duty;
use super::{Engine, Pending, Receipt, Shared, WriteError};

/// How many epochs of one sort a subject keeps apart. Epochs in falling order, or each sparing another session, could
/// otherwise add up without end; beyond this, the next is made to outdo them all. It denies no less than they did.
const EPOCHS_MAX: usize = 16;
/// For how many commands of a batch room is made before they are seen.
const PREPARED_AT_ONCE: usize = 1024;

/// What can be asked of a store.
#[derive(Debug)]
pub(super) enum Command {
    Revoke(Revocation),
    /// Revoke a token, session or family, unless it is revoked already. It is not audited: nobody loses anything by it.
    Once(Revocation),
    Disable(Change),
    Enable(Change),
    Lift(Change),
}

/// A command with everything that does not depend on what is known already.
struct Prepared {
    command: Command,
    subject: Identity,
    spared: Vec<Digest>,
}

/// What a command comes to, given what is known.
struct Effect {
    item: Item,
    /// Whether it undoes, so that it may take effect only once it is logged.
    undoes: bool,
}

impl Command {
    fn subject(&self) -> &Subject {
        match self {
            Self::Revoke(revocation) | Self::Once(revocation) => &revocation.subject,
            Self::Disable(change) | Self::Enable(change) | Self::Lift(change) => &change.subject,
        }
    }

    fn provenance(&self) -> &Provenance {
        match self {
            Self::Revoke(revocation) | Self::Once(revocation) => &revocation.provenance,
            Self::Disable(change) | Self::Enable(change) | Self::Lift(change) => &change.provenance,
        }
    }

    fn validate(&self) -> Result<(), InvalidRevocation> {
        match self {
            Self::Revoke(revocation) | Self::Once(revocation) => revocation.validate(),
            Self::Disable(change) | Self::Enable(change) => {
                change.validate()?;
                let kind = change.subject.kind();
                if kind.can_be_disabled() { Ok(()) } else { Err(InvalidRevocation::NotDisableable { kind }) }
            }
            Self::Lift(change) => change.validate(),
        }
    }
}

impl Engine {
    pub(super) fn submit(&self, command: Command) -> Result<Pending, WriteError> {
        self.submit_counted(command).map(|(_, pending)| pending)
    }

    /// The same, and whether it changes anything, which is known before it is acknowledged.
    pub(super) fn submit_counted(&self, command: Command) -> Result<(bool, Pending), WriteError> {
        let now = self.shared.clock.wall();
        let prepared = self.shared.prepare(command, now)?;
        self.write(vec![prepared], now)
    }

    pub(super) fn submit_many(&self, commands: impl Iterator<Item = Command>) -> Result<Pending, WriteError> {
        let now = self.shared.clock.wall();
        // As long as it will be, so that nothing is moved as it grows; but a hint is not to be believed without bounds.
        let mut prepared = Vec::with_capacity(commands.size_hint().0.min(PREPARED_AT_ONCE));
        for (index, command) in commands.enumerate() {
            let one = self.shared.prepare(command, now);
            prepared.push(one.map_err(|source| WriteError::InBatch { index, source: Box::new(source) })?);
        }
        self.write(prepared, now).map(|(_, pending)| pending)
    }

    fn write(&self, commands: Vec<Prepared>, now: Timestamp) -> Result<(bool, Pending), WriteError> {
        if self.following.is_some() {
            return Err(WriteError::ReadOnly);
        }
        let shared = &*self.shared;
        let audit = self.audit.lock().clone();
        let mut payload = Vec::new();
        let (mut denials, mut undo, mut audits) = (Vec::with_capacity(commands.len()), Vec::new(), Vec::new());
        let is_limited = shared.capacity < usize::MAX;
        let mut new = HashSet::new();

        let writing = self.writing.lock();
        if shared.is_closed() {
            return Err(WriteError::Closed);
        }
        for prepared in &commands {
            let known = shared.denylist.item(prepared.subject);
            let effect = shared.effect(prepared, known.as_ref().map(|item| &item.entry), now);
            if audit.is_some() && !matches!(prepared.command, Command::Once(_)) {
                audits.push(shared.audit_record(prepared, effect.as_ref(), now));
            }
            let Some(Effect { item, undoes }) = effect else { continue };
            let record = Record::Entry(item);
            codec::encode(&record, &mut payload).map_err(|_| too_large(payload.len()))?;
            if let Record::Entry(item) = record {
                if is_limited && known.is_none() {
                    new.insert(prepared.subject);
                }
                if undoes { undo.push(item) } else { denials.push(item) }
            }
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(too_large(payload.len()));
            }
        }
        let entries = shared.denylist.len();
        if !new.is_empty() && entries.saturating_add(new.len()) > shared.capacity {
            return Err(WriteError::CapacityExceeded { entries, capacity: shared.capacity });
        }

        // From here on it denies, whatever becomes of the disk, which is at work meanwhile.
        let changed = denials.len() + undo.len();
        let (duty, pending) = Duty::new();
        match &self.commits {
            Some(commits) if changed > 0 => {
                let commit = Commit { payload, undo, denials: denials.len(), audits, duty, is_own: true };
                // If the committer is gone, dropping the commit says so to whoever waits.
                commits.send(Message::Commit(commit)).ok();
                shared.join_own(denials, true);
                drop(writing);
            }
            _ => {
                denials.append(&mut undo);
                shared.join_own(denials, true);
                drop(writing);
                let acknowledgement = self.acknowledgement;
                for mut record in audits {
                    if record.outcome != Outcome::Unchanged {
                        record.outcome = outcome(&Ok(acknowledgement));
                    }
                    if let Some(audit) = &audit {
                        audit.push(record);
                    }
                }
                duty.acknowledge(Ok(Receipt { acknowledgement, changed }));
            }
        }
        // Maintenance does it once a second; who writes faster than that, or without maintenance, does it here.
        if shared.denylist.filter_is_overfull() {
            self.fit_filter();
        }
        Ok((changed > 0, pending))
    }
}

fn too_large(bytes: usize) -> WriteError {
    WriteError::BatchTooLarge { bytes, limit: PAYLOAD_BYTES_MAX }
}

impl Shared {
    /// Joins entries into the tables; if they were changed here, the peers are told.
    pub(super) fn join_own(&self, items: Vec<Item>, is_own: bool) {
        let replicating = self.replicating.get().filter(|_| is_own && !items.is_empty());
        let copies = replicating.map(|_| items.clone());
        self.denylist.join_all(items);
        self.watchers.notify();
        if let (Some(replicating), Some(copies)) = (replicating, copies) {
            replicating.publish(copies);
        }
    }

    /// Checks a command, and computes its identities.
    fn prepare(&self, command: Command, now: Timestamp) -> Result<Prepared, WriteError> {
        command.validate()?;
        let mut spared = Vec::new();
        if let Command::Revoke(revocation) | Command::Once(revocation) = &command {
            if let Some(epoch) = revocation.epoch.time()
                && epoch > now.saturating_add(self.policy.skew)
            {
                return Err(WriteError::EpochInFuture { epoch, now, skew: self.policy.skew });
            }
            if let Some(until) = revocation.until.time()
                && until.saturating_add(self.policy.leeway) < now
            {
                return Err(WriteError::RetentionInPast { until, now });
            }
            spared = revocation.spared().map(|session| self.keyring.digest_of(&session)).collect();
        }
        let subject = self.keyring.identity_of(command.subject());
        Ok(Prepared { command, subject, spared })
    }

    /// What a command comes to, given what is known of its subject; none if it changes nothing.
    ///
    /// A mark is always made after whatever is known of the subject, so that no clock makes a revocation void, nor a
    /// lift that is on its way to the disk; and not before what has been forgotten of it, which a restart brings back.
    /// What is undone is what is known, and no more.
    fn effect(&self, prepared: &Prepared, known: Option<&Entry>, now: Timestamp) -> Option<Effect> {
        let subject = prepared.command.subject();
        let provenance = prepared.command.provenance();
        let cause = EntryCause {
            reason: provenance.reason,
            actor: provenance.actor.as_ref().map(|actor| actor.id.as_str().into()),
        };
        let (narrow, wide) = match known {
            Some(Entry::Narrow(narrow)) => (Some(narrow), None),
            Some(Entry::Wide(wide)) => (None, Some(wide)),
            None => (None, None),
        };
        let changed = match (narrow, wide) {
            (Some(narrow), _) => narrow.last_change(),
            (None, Some(wide)) => wide.last_change(),
            (None, None) => Timestamp::MIN,
        };
        let at = now.max(self.high_water()).max(changed.successor());
        // A clock that has just been set back a little must not spare what was issued before it was.
        let this_moment = now.max(self.high_water().min(now.saturating_add(self.policy.skew)));
        let entry = match &prepared.command {
            Command::Once(_) if narrow.is_some_and(NarrowEntry::denies) => return None,
            Command::Revoke(revocation) | Command::Once(revocation) if subject.kind().is_narrow() => {
                let until = revocation.until.time().map_or(Retention::FOR_GOOD, Retention::until);
                Entry::Narrow(NarrowEntry::denied(at, cause, until))
            }
            Command::Revoke(revocation) | Command::Once(revocation) => {
                let epoch = revocation.epoch.time().unwrap_or(this_moment);
                let mark = Mark { epoch, at, cause, spared: prepared.spared.clone() };
                let epochs = |known: Option<&Epochs>| match known {
                    Some(known) if known.len() >= EPOCHS_MAX => Epochs::one(known.outdone_by(mark)),
                    _ => Epochs::one(mark),
                };
                Entry::Wide(match revocation.epoch_kind {
                    EpochKind::Reauthenticate => WideEntry {
                        reauthenticate: epochs(wide.map(|wide| &wide.reauthenticate)),
                        ..WideEntry::default()
                    },
                    EpochKind::Reissue => {
                        WideEntry { reissue: epochs(wide.map(|wide| &wide.reissue)), ..WideEntry::default() }
                    }
                })
            }
            Command::Disable(_) => Entry::Wide(WideEntry {
                disabled: Some((at, cause.clone())),
                reauthenticate: Epochs::one(Mark { epoch: this_moment, at, cause, spared: Vec::new() }),
                ..WideEntry::default()
            }),
            Command::Enable(_) => {
                let (enabled, _) = wide?.disabled_since()?;
                Entry::Wide(WideEntry { enabled: *enabled, ..WideEntry::default() })
            }
            Command::Lift(_) => match (narrow, wide) {
                (Some(narrow), _) if narrow.denies() => Entry::Narrow(NarrowEntry {
                    at: Timestamp::MIN,
                    cause: EntryCause::default(),
                    lifted: narrow.at,
                    until: narrow.until,
                }),
                (_, Some(wide)) => Entry::Wide(WideEntry { lifted: wide.last_mark()?, ..WideEntry::default() }),
                _ => return None,
            },
        };
        let undoes = matches!(prepared.command, Command::Enable(_) | Command::Lift(_));
        let scope = match subject.kind() {
            kind if kind.is_narrow() => None,
            _ => subject.tenant_name().map(|tenant| self.keyring.digest_of(&Subject::tenant(tenant))),
        };
        let label = if self.retain_labels { subject.label().map(Into::into) } else { None };
        let Identity { locator, digest, shape } = prepared.subject;
        Some(Effect { item: Item { digest, locator, shape, entry, scope, label }, undoes })
    }

    /// The record for the sinks. Names are in it only where the options retain them.
    fn audit_record(&self, prepared: &Prepared, effect: Option<&Effect>, now: Timestamp) -> AuditRecord {
        let subject = prepared.command.subject();
        let provenance = prepared.command.provenance();
        let name = |name: Option<&str>| if self.retain_labels { name.map(str::to_owned) } else { None };
        let action = match prepared.command {
            Command::Revoke(_) | Command::Once(_) => Action::Revoke,
            Command::Disable(_) => Action::Disable,
            Command::Enable(_) => Action::Enable,
            Command::Lift(_) => Action::Lift,
        };
        let mut target = Target::new(subject.kind().as_str(), prepared.subject.digest.to_string());
        target.label = name(subject.label());
        target.issuer = name(subject.issuer_name());
        let mut record =
            AuditRecord::new(self.next_audit_sequence(), now.into(), action, target, provenance.reason.as_str());
        record.tenant = name(subject.tenant_name());
        record.txn.clone_from(&provenance.transaction);
        record.note.clone_from(&provenance.note);
        record.actor.clone_from(&provenance.actor);
        record.channel = provenance.channel;
        if let Some(initiator) = provenance.initiator {
            record.initiating_entity = initiator;
        }
        match effect.map(|effect| &effect.item.entry) {
            None => record.outcome = Outcome::Unchanged,
            Some(Entry::Narrow(entry)) if action == Action::Revoke => {
                record.effect = Some("denied".to_owned());
                record.until = (entry.until != Retention::FOR_GOOD).then(|| entry.until.end().to_string());
            }
            Some(Entry::Wide(entry)) => {
                let reauthenticate = entry.reauthenticate.iter().next();
                let mark = reauthenticate.or(entry.reissue.iter().next());
                record.epoch = mark.map(|mark| mark.epoch.to_string());
                record.effect = mark.map(|_| {
                    let effect = match (action, reauthenticate) {
                        (Action::Disable, _) => "disabled",
                        (_, Some(_)) => "reauthenticate",
                        (_, None) => "reissue",
                    };
                    effect.to_owned()
                });
            }
            Some(Entry::Narrow(_)) => {}
        }
        record
    }

    fn next_audit_sequence(&self) -> u64 {
        self.counters.audit_sequence.fetch_add(1, Ordering::Relaxed) + 1
    }
}
