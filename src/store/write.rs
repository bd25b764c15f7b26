//! The one write path: validate, turn into entries to join, apply what denies while it is logged, and only then what undoes.

use std::collections::HashSet;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crate::audit::{Action, AuditRecord, Outcome, Target};
use crate::codec;
use crate::denylist::Denylist;
use crate::journal::PAYLOAD_BYTES_MAX;
use crate::model::{
    Age, Change, Digest, Entry, EntryCause, EpochKind, Epochs, Identity, InvalidRevocation, Item, Kind, Life, Mark,
    Marks, NarrowEntry, Provenance, Reason, Retention, Revocation, Subject, Timestamp, WideEntry,
};

use super::committer::{Commit, Message};
use super::{Engine, Pending, Receipt, Shared, Time, WriteError, belief, events};

/// How many epochs of one sort a subject keeps apart. Epochs in falling order, or each sparing another session, could
/// otherwise add up without end; beyond this, the next is made to outdo them all. It denies no less than they did.
const EPOCHS_MAX: usize = 16;
/// For how many commands of a batch room is made before they are seen.
const PREPARED_AT_ONCE: usize = 1024;
/// How many pending epochs are given their time in one commit.
const SETTLED_AT_ONCE: usize = 1024;

/// What can be asked of a store.
#[derive(Debug)]
pub(super) enum Command {
    Revoke(Revocation),
    /// Revoke a token, session or family, unless it is revoked already. It is not audited: nobody loses anything by it.
    Once(Revocation),
    Disable(Change),
    Enable(Change),
    Lift(Change),
    /// Give the subject's epochs that lie in the future the present time.
    Restate(Change),
    /// Set the maximum age of the credentials of a tenant or everyone, or none.
    SetAge(Change, Option<Duration>),
}

/// A command with everything that does not depend on what is known already.
struct Prepared {
    command: Command,
    subject: Identity,
    spared: Vec<Digest>,
}

/// What a command comes to, given what is known.
struct Effect {
    /// What is joined. An epoch of now is pending in it.
    item: Item,
    /// The epoch of now that it makes.
    makes: Option<EpochKind>,
    known: Option<Entry>,
}

impl Command {
    fn subject(&self) -> &Subject {
        match self {
            Self::Revoke(revocation) | Self::Once(revocation) => &revocation.subject,
            Self::Disable(change)
            | Self::Enable(change)
            | Self::Lift(change)
            | Self::Restate(change)
            | Self::SetAge(change, _) => &change.subject,
        }
    }

    fn provenance(&self) -> &Provenance {
        match self {
            Self::Revoke(revocation) | Self::Once(revocation) => &revocation.provenance,
            Self::Disable(change)
            | Self::Enable(change)
            | Self::Lift(change)
            | Self::Restate(change)
            | Self::SetAge(change, _) => &change.provenance,
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
            Self::Lift(change) | Self::Restate(change) => change.validate(),
            Self::SetAge(change, age) => {
                change.validate()?;
                if *age == Some(Duration::ZERO) {
                    return Err(InvalidRevocation::ZeroAge);
                }
                let Subject { kind, issuer, .. } = &change.subject;
                let has_age = matches!(kind, Kind::Tenant | Kind::Everyone) && issuer.is_none();
                if has_age { Ok(()) } else { Err(InvalidRevocation::NotAged { kind: *kind }) }
            }
        }
    }
}

impl Engine {
    pub(super) fn submit(&self, command: Command) -> Result<Pending, WriteError> {
        self.submit_counted(command).map(|(_, pending)| pending)
    }

    /// The same, and whether it changes anything, which is known before it is acknowledged.
    pub(super) fn submit_counted(&self, command: Command) -> Result<(bool, Pending), WriteError> {
        let time = self.shared.believed_time();
        let prepared = self.shared.prepare(command, &time)?;
        self.write(&[prepared], time)
    }

    pub(super) fn submit_many(&self, commands: impl Iterator<Item = Command>) -> Result<Pending, WriteError> {
        let time = self.shared.believed_time();
        // As long as it will be, so that nothing is moved as it grows; but a hint is not to be believed without bounds.
        let mut prepared = Vec::with_capacity(commands.size_hint().0.min(PREPARED_AT_ONCE));
        for (index, command) in commands.enumerate() {
            let one = self.shared.prepare(command, &time);
            prepared.push(one.map_err(|source| WriteError::InBatch { index, source: Box::new(source) })?);
        }
        self.write(&prepared, time).map(|(_, pending)| pending)
    }

    fn write(&self, commands: &[Prepared], mut time: Time) -> Result<(bool, Pending), WriteError> {
        if self.following.is_some() {
            return Err(WriteError::ReadOnly);
        }
        let shared = &*self.shared;
        let audit = self.audit.lock().clone();
        let is_limited = shared.capacity < usize::MAX;
        let (mut commit, pending) = Commit::new(true);
        let (mut effects, mut new, mut makes_epochs) = (Vec::with_capacity(commands.len()), HashSet::new(), false);

        let writing = self.writing.lock();
        if shared.is_closed() {
            return Err(WriteError::Closed);
        }
        let life = *shared.life.lock();
        for (index, prepared) in commands.iter().enumerate() {
            let effect = shared.effect(prepared, index, &time, life);
            if let Some(Effect { item, makes, known }) = &effect {
                encode(item, &mut commit.payload)?;
                makes_epochs |= makes.is_some();
                if is_limited && known.is_none() && !shared.denylist.holds(prepared.subject) {
                    new.insert(prepared.subject);
                }
            }
            effects.push(effect);
        }
        if !new.is_empty() {
            let entries = shared.denylist.len_with_held();
            if entries.saturating_add(new.len()) > shared.capacity {
                return Err(WriteError::CapacityExceeded { entries, capacity: shared.capacity });
            }
        }

        // From here on it denies, whatever becomes of the disk, which is at work meanwhile. What makes an epoch denies
        // outright until it is acknowledged, so that nothing is let in between the epoch and the acknowledgement.
        if makes_epochs {
            commit.held = effects.iter().flatten().filter_map(|effect| effect.hold(&shared.denylist)).collect();
            shared.watchers.notify();
            fence(Ordering::SeqCst);
            time = shared.believed_time();
            if !time.is_in_doubt() {
                shared.give_time(commands, &mut effects, &mut commit.payload, &time);
            }
        }
        if audit.is_some() {
            let audited = commands.iter().zip(&effects).filter(|(one, _)| !matches!(one.command, Command::Once(_)));
            let record = |(one, effect): (_, &Option<Effect>)| {
                shared.audit_record(one, effect.as_ref().map(|effect| &effect.item), &time)
            };
            commit.audits = audited.map(record).collect();
        }
        let mut denials = Vec::with_capacity(commands.len());
        for effect in effects.into_iter().flatten() {
            commit.changed += 1;
            commit.note_epochs(&effect.item.entry, &time);
            effect.share_out(&mut denials, &mut commit);
        }
        commit.denials = commit.changed - commit.undo.len();
        if commit.pending > 0 {
            shared.has_pending.store(true, Ordering::Relaxed);
            events::clock_in_doubt(&time, commit.pending);
        }
        if let Some(beyond) = commit.beyond {
            shared.counters.epochs_beyond.fetch_add(1, Ordering::Relaxed);
            events::epoch_beyond(beyond);
        }
        let changed = commit.changed;
        match &self.commits {
            Some(commits) if changed > 0 => {
                shared.publish(denials.iter().chain(&commit.settle));
                // If the committer is gone, dropping the commit says so to whoever waits.
                commits.send(Message::Commit(commit)).ok();
                shared.join(denials);
                drop(writing);
            }
            _ => {
                denials.append(&mut commit.settle);
                denials.append(&mut commit.undo);
                shared.publish(denials.iter());
                shared.join(denials);
                shared.release(&commit.held);
                drop(writing);
                commit.acknowledge(&Ok(self.acknowledgement), audit.as_ref());
            }
        }
        // Maintenance does it once a second; who writes faster than that, or without maintenance, does it here.
        if shared.denylist.filter_is_overfull() {
            self.fit_filter();
        }
        Ok((changed > 0, pending))
    }
}

impl Engine {
    /// Gives epochs their time that were made while the clock was in doubt, if it no longer is.
    pub(super) fn settle_epochs(&self) -> Result<Receipt, WriteError> {
        let shared = &*self.shared;
        if self.following.is_some() {
            return Err(WriteError::ReadOnly);
        }
        if shared.is_closed() {
            return Err(WriteError::Closed);
        }
        let acknowledgement = self.acknowledgement;
        let receipt = |changed, pending| Receipt { acknowledgement, changed, pending, beyond_borne_out: None };
        if !shared.has_pending.load(Ordering::Relaxed) {
            return Ok(receipt(0, 0));
        }
        let (time, votes) = shared.weighed_time();
        if time.is_in_doubt() {
            return Ok(receipt(0, shared.pending_epochs()));
        }
        // A replica that agrees with nobody may be the one that is wrong: it settles what it made itself.
        let has_peers = shared.replicating.get().is_some_and(|replicating| replicating.has_peers());
        let own = (has_peers && !votes.is_confirmed_by_others()).then(|| *shared.life.lock());
        let settles = |mark: &Mark| mark.is_pending() && own.is_none_or(|own| mark.life == own);
        // What becomes pending from here on says so again.
        shared.has_pending.store(false, Ordering::Relaxed);
        let mut pending: Vec<Item> = shared.denylist.wide_items().filter(|item| item.entry.is_pending()).collect();
        let all = pending.len();
        pending.retain(|item| matches!(&item.entry, Entry::Wide(entry) if entry.epochs().any(settles)));
        if pending.len() < all {
            shared.has_pending.store(true, Ordering::Relaxed);
        }
        let (mut settled, mut result) = (0, Ok(()));
        for items in pending.chunks(SETTLED_AT_ONCE) {
            match self.settle(items, &time, settles) {
                Ok(()) => settled += items.len(),
                Err(error) => {
                    shared.has_pending.store(true, Ordering::Relaxed);
                    result = Err(error);
                }
            }
        }
        if settled > 0 {
            events::settled(settled);
        }
        result.map(|()| receipt(settled, all - settled))
    }

    fn settle(&self, items: &[Item], time: &Time, settles: impl Fn(&Mark) -> bool) -> Result<(), WriteError> {
        let shared = &*self.shared;
        // Which names the subjects have is not known here.
        let (boot, stamp) = (shared.clock.boot(), shared.stamps.latest());
        let audit = self.audit.lock().clone();
        let (mut commit, pending) = Commit::new(true);
        let writing = self.writing.lock();
        if shared.is_closed() {
            return Err(WriteError::Closed);
        }
        for item in items {
            let Entry::Wide(entry) = &item.entry else { continue };
            let timed = |epochs: &Epochs| {
                let pending = epochs.iter().filter(|mark| settles(mark));
                Epochs::of(pending.flat_map(|mark| shared.timed(mark, time, stamp, boot)).collect())
            };
            let (reauthenticate, reissue) = (timed(&entry.reauthenticate), timed(&entry.reissue));
            let entry = Entry::Wide(WideEntry { reauthenticate, reissue, ..WideEntry::default() });
            let item = Item { entry, ..item.clone() };
            encode(&item, &mut commit.payload)?;
            if audit.is_some() {
                commit.audits.push(shared.settled_record(&item, time));
            }
            commit.changed += 1;
            commit.undo.push(item);
        }
        match &self.commits {
            Some(commits) if commit.changed > 0 => {
                commits.send(Message::Commit(commit)).ok();
                drop(writing);
                pending.wait().map(drop)
            }
            _ => {
                shared.publish(commit.undo.iter());
                shared.join(std::mem::take(&mut commit.undo));
                drop(writing);
                commit.acknowledge(&Ok(self.acknowledgement), audit.as_ref());
                Ok(())
            }
        }
    }
}

/// Appends the record of an entry to what one commit writes.
fn encode(item: &Item, payload: &mut Vec<u8>) -> Result<(), WriteError> {
    codec::encode_item(item, payload).map_err(|_| too_large(payload.len()))?;
    if payload.len() > PAYLOAD_BYTES_MAX { Err(too_large(payload.len())) } else { Ok(()) }
}

impl Effect {
    /// What of it denies, and may take effect before it is logged.
    fn denials(&self) -> Item {
        Item { entry: self.item.entry.without_undoing(self.known.as_ref()), ..self.item.clone() }
    }

    /// Denies the subject of an epoch of now outright, until the commit has been tried.
    fn hold(&self, denylist: &Denylist) -> Option<(Identity, Timestamp)> {
        let (Some(_), Entry::Wide(entry)) = (self.makes, &self.item.entry) else { return None };
        let at = entry.reauthenticate.latest().max(entry.reissue.latest());
        let held = WideEntry { blocks: Marks::default(), ..entry.clone() };
        denylist.hold(self.item.identity(), held);
        Some((self.item.identity(), at))
    }

    /// Says when it takes effect: at once, once its commit has been tried, or once it is logged.
    fn share_out(self, denials: &mut Vec<Item>, commit: &mut Commit) {
        let is_timed = self.makes.is_some() && !self.item.entry.is_pending();
        if is_timed {
            if let Entry::Wide(WideEntry { blocks, .. }) = &self.item.entry
                && !blocks.is_empty()
            {
                let entry = Entry::Wide(WideEntry { blocks: blocks.clone(), ..WideEntry::default() });
                denials.push(Item { entry, ..self.item.clone() });
            }
            return commit.settle.push(self.item);
        }
        if !self.item.entry.may_undo() {
            return denials.push(self.item);
        }
        let denying = self.denials();
        if denying.entry == self.item.entry {
            denials.push(denying);
        } else {
            if !denying.entry.is_void() {
                denials.push(denying);
            }
            commit.undo.push(self.item);
        }
    }
}

fn too_large(bytes: usize) -> WriteError {
    WriteError::BatchTooLarge { bytes, limit: PAYLOAD_BYTES_MAX }
}

impl Shared {
    /// Joins entries into the tables.
    pub(super) fn join(&self, items: impl IntoIterator<Item = Item>) {
        self.denylist.join_all(items);
        self.watchers.notify();
    }

    /// Tells the peers of entries that were changed here, or are about to be. A wide one is sent whole: from a part of it a
    /// peer might take that it holds all that was decided up to then.
    pub(super) fn publish<'a>(&self, items: impl Iterator<Item = &'a Item>) {
        let Some(replicating) = self.replicating.get() else { return };
        let whole = |item: &Item| match (&item.entry, self.denylist.item(item.identity())) {
            (Entry::Wide(_), Some(known)) => {
                Item { entry: known.entry.joined_with(item.entry.clone()), ..item.clone() }
            }
            _ => item.clone(),
        };
        let items: Vec<Item> = items.map(whole).collect();
        if !items.is_empty() {
            replicating.publish(items);
        }
    }

    /// Checks a command, and computes its identities.
    fn prepare(&self, command: Command, time: &Time) -> Result<Prepared, WriteError> {
        command.validate()?;
        let mut spared = Vec::new();
        if let Command::Revoke(revocation) | Command::Once(revocation) = &command {
            if let Some(epoch) = revocation.epoch.time()
                && epoch > time.horizon()
            {
                return Err(WriteError::EpochInFuture { epoch, now: time.believed, skew: self.policy.skew });
            }
            if let Some(until) = revocation.until.time()
                && until.saturating_add(self.policy.leeway) < time.wall
            {
                return Err(WriteError::RetentionInPast { until, now: time.wall });
            }
            spared = revocation.spared().map(|session| self.keyring.digest_of(&session)).collect();
        }
        let subject = self.keyring.identity_of(command.subject());
        Ok(Prepared { command, subject, spared })
    }

    /// What a command comes to, given what is known of its subject; none if it changes nothing.
    ///
    /// A mark has a higher number than whatever is known of the subject, and than what may have been forgotten of it, which a
    /// restart brings back; and than those of the commands before it, by its place in the batch. What is undone is what is
    /// known, and no more.
    fn effect(&self, prepared: &Prepared, index: usize, time: &Time, life: Life) -> Option<Effect> {
        let subject = prepared.command.subject();
        let provenance = prepared.command.provenance();
        let actor = provenance.actor.as_ref().map(|actor| actor.id.as_str().into());
        let cause = EntryCause { reason: provenance.reason, actor };
        let known = self.denylist.item(prepared.subject).map(|item| item.entry);
        let latest = known.as_ref().map_or(Timestamp::MIN, Entry::latest);
        let at =
            time.wall.max(self.high_water()).max(latest.successor()).saturating_add(Duration::from_nanos(index as u64));
        let mark = |epoch, cause| {
            let in_doubt = epoch == Mark::PENDING;
            Mark { epoch, at, life, in_doubt, issuer: None, cause, spared: prepared.spared.clone() }
        };
        let mut makes = None;
        let entry = match (&prepared.command, &known) {
            (Command::Once(_), Some(Entry::Narrow(known))) if known.denies() => return None,
            (Command::Revoke(revocation) | Command::Once(revocation), _) if subject.kind().is_narrow() => {
                let until = revocation.until.time().map_or(Retention::FOR_GOOD, Retention::until);
                Entry::Narrow(NarrowEntry::denied(life, at, cause, until))
            }
            (Command::Revoke(revocation) | Command::Once(revocation), known) => {
                let kind = revocation.epoch_kind;
                let epoch = revocation.epoch.time().map(|epoch| epoch.max(Mark::PENDING.successor()));
                makes = epoch.is_none().then_some(kind);
                let marks = vec![mark(epoch.unwrap_or(Mark::PENDING), cause)];
                let epochs = if makes.is_some() { Epochs::of(marks) } else { bounded(marks, known.as_ref(), kind) };
                Entry::Wide(of_kind(epochs, kind))
            }
            (Command::Disable(_), _) => {
                makes = Some(EpochKind::Reauthenticate);
                let reauthenticate = Epochs::one(mark(Mark::PENDING, cause.clone()));
                Entry::Wide(WideEntry { reauthenticate, blocks: Marks::one(life, at, cause), ..WideEntry::default() })
            }
            (Command::Enable(_), Some(Entry::Wide(known))) => Entry::Wide(known.enabling()?),
            (Command::Lift(_), Some(Entry::Narrow(known))) => Entry::Narrow(known.lifting()?),
            (Command::Lift(_), Some(Entry::Wide(known))) => Entry::Wide(known.lifting()?),
            (Command::Restate(_), Some(Entry::Wide(known))) => {
                // The lines of issuers that are ahead are later than now, by right.
                let latest_line = belief::latest_line(time.horizon(), self.longest_leeway());
                let is_too_late =
                    |mark: &Mark| mark.epoch > if mark.issuer.is_some() { latest_line } else { time.believed };
                let timed = |mark: Mark| match time.is_in_doubt() {
                    true => vec![mark],
                    false => {
                        self.timed(&Mark { in_doubt: false, ..mark }, time, self.stamp_of(subject), self.clock.boot())
                    }
                };
                let restated = |epochs: &Epochs| epochs.restated((life, at), is_too_late, timed);
                let (reauthenticate, reissue) = (restated(&known.reauthenticate), restated(&known.reissue));
                if reauthenticate.is_none() && reissue.is_none() {
                    return None;
                }
                let (reauthenticate, reissue) = (reauthenticate.unwrap_or_default(), reissue.unwrap_or_default());
                Entry::Wide(WideEntry { reauthenticate, reissue, ..WideEntry::default() })
            }
            (Command::SetAge(_, age), known) => {
                Entry::Wide(self.with_age(*age, known.as_ref(), (life, at, cause), time)?)
            }
            (Command::Enable(_) | Command::Lift(_) | Command::Restate(_), _) => return None,
        };
        let scope = match subject.kind() {
            kind if kind.is_narrow() => None,
            _ => subject.tenant_name().map(|tenant| self.keyring.digest_of(&Subject::tenant(tenant))),
        };
        let label = if self.retain_labels { subject.label().map(Into::into) } else { None };
        let Identity { locator, digest, shape } = prepared.subject;
        Some(Effect { item: Item { digest, locator, shape, entry, scope, label }, makes, known })
    }

    /// A maximum age in place of those that were set, or none; and, if it is longer, what was dead by age before. None if
    /// nothing changes.
    fn with_age(
        &self,
        age: Option<Duration>,
        known: Option<&Entry>,
        (life, at, cause): (Life, Timestamp, EntryCause),
        time: &Time,
    ) -> Option<WideEntry> {
        let nothing = WideEntry::default();
        let known = if let Some(Entry::Wide(known)) = known { known } else { &nothing };
        let nanos = age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
        let mut entry = known.without_age().unwrap_or_default();
        if let Some(nanos) = nanos {
            entry.ages.join(Marks::one(life, at, Age { nanos, cause }));
        }
        entry.floor = self.floor_under(known.age(), nanos, time.wall).unwrap_or_default();
        (entry != nothing).then_some(entry)
    }

    /// What was dead by age when an age is replaced by a longer one, or none; none if it is not longer.
    pub(super) fn floor_under(&self, before: Option<u64>, after: Option<u64>, wall: Timestamp) -> Option<Timestamp> {
        let before = before.filter(|before| after.is_none_or(|after| after > *before))?;
        Some(self.high_water().max(wall).saturating_sub(Duration::from_nanos(before)).min(wall))
    }

    /// Gives pending epochs the time that is believed in, and encodes everything anew. Where that does not fit one commit, they
    /// stay pending.
    fn give_time(&self, commands: &[Prepared], effects: &mut [Option<Effect>], payload: &mut Vec<u8>, time: &Time) {
        let boot = self.clock.boot();
        let mut timed = Vec::new();
        let mut bytes = Vec::with_capacity(payload.len());
        for (subject, effect) in commands.iter().map(|one| one.command.subject()).zip(effects.iter()) {
            let Some(effect) = effect else { continue };
            let mut item = effect.item.clone();
            if let (Some(kind), Entry::Wide(entry)) = (effect.makes, &mut item.entry) {
                let epochs = match kind {
                    EpochKind::Reauthenticate => &mut entry.reauthenticate,
                    EpochKind::Reissue => &mut entry.reissue,
                };
                let stamp = self.stamp_of(subject);
                let sure = epochs.iter().map(|mark| Mark { in_doubt: false, ..mark.clone() });
                let marks = sure.flat_map(|mark| self.timed(&mark, time, stamp, boot)).collect();
                *epochs = bounded(marks, effect.known.as_ref(), kind);
            }
            if encode(&item, &mut bytes).is_err() {
                return;
            }
            timed.push(item);
        }
        *payload = bytes;
        effects.iter_mut().flatten().zip(timed).for_each(|(effect, item)| effect.item = item);
    }

    /// A mark that was made now, with its time, and a line for each issuer that is ahead of that. `stamp` is the latest of the
    /// subject's credentials.
    pub(super) fn timed(&self, mark: &Mark, time: &Time, stamp: Timestamp, boot: Duration) -> Vec<Mark> {
        let latest = belief::latest_line(time.horizon(), self.longest_leeway());
        let lines = self.belief.beyond(time.believed, latest, boot);
        // What goes for all issuers is part of the epoch.
        let all = lines.iter().filter(|(issuer, _)| issuer.is_none()).map(|(_, line)| *line);
        let epoch = all.max().unwrap_or_default().max(stamp.min(latest)).max(time.believed);
        let of_one = lines.iter().filter(|(issuer, line)| issuer.is_some() && *line > epoch);
        let of_one = of_one.map(|(issuer, line)| Mark { epoch: *line, issuer: *issuer, ..mark.clone() });
        [Mark { epoch, ..mark.clone() }].into_iter().chain(of_one).collect()
    }

    /// What is held is in its entry from here on.
    pub(super) fn release(&self, held: &[(Identity, Timestamp)]) {
        held.iter().for_each(|(subject, at)| self.denylist.release(*subject, *at));
    }

    /// The record for the sinks. Names are in it only where the options retain them.
    fn audit_record(&self, prepared: &Prepared, item: Option<&Item>, time: &Time) -> AuditRecord {
        let subject = prepared.command.subject();
        let provenance = prepared.command.provenance();
        let name = |name: Option<&str>| if self.retain_labels { name.map(str::to_owned) } else { None };
        let action = match prepared.command {
            Command::Revoke(_) | Command::Once(_) => Action::Revoke,
            Command::Disable(_) => Action::Disable,
            Command::Enable(_) => Action::Enable,
            Command::Lift(_) => Action::Lift,
            Command::Restate(_) => Action::Restate,
            Command::SetAge(_, Some(_)) => Action::SetAge,
            Command::SetAge(_, None) => Action::ClearAge,
        };
        let mut target = Target::new(subject.kind().as_str(), prepared.subject.digest.to_string());
        target.label = name(subject.label());
        target.issuer = name(subject.issuer_name());
        let mut record =
            AuditRecord::new(self.next_audit_sequence(), time.wall.into(), action, target, provenance.reason.as_str());
        record.tenant = name(subject.tenant_name());
        record.txn.clone_from(&provenance.transaction);
        record.note.clone_from(&provenance.note);
        record.actor.clone_from(&provenance.actor);
        record.channel = provenance.channel;
        if let Some(initiator) = provenance.initiator {
            record.initiating_entity = initiator;
        }
        match item.map(|item| &item.entry) {
            None => record.outcome = Outcome::Unchanged,
            Some(Entry::Narrow(entry)) if action == Action::Revoke => {
                record.effect = Some("denied".to_owned());
                record.until = (entry.until != Retention::FOR_GOOD).then(|| entry.until.end().to_string());
            }
            Some(Entry::Wide(entry)) => {
                let reauthenticate = entry.reauthenticate.iter().find(|mark| mark.issuer.is_none());
                let mark = reauthenticate.or(entry.reissue.iter().find(|mark| mark.issuer.is_none()));
                record.epoch = mark.filter(|mark| !mark.is_pending()).map(|mark| mark.epoch.to_string());
                record.pending = entry.is_pending();
                record.requires = entry.requires();
                record.max_age_secs = entry.age().map(|nanos| Duration::from_nanos(nanos).as_secs());
                let beyond = mark.and_then(|mark| time.beyond(mark.epoch));
                record.beyond_borne_out_secs = beyond.map(|beyond| beyond.as_secs());
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

    /// How many subjects have epochs that wait for their time.
    pub(super) fn pending_epochs(&self) -> usize {
        match self.has_pending.load(Ordering::Relaxed) {
            true => self.denylist.wide_items().filter(|item| item.entry.is_pending()).count(),
            false => 0,
        }
    }

    fn settled_record(&self, item: &Item, time: &Time) -> AuditRecord {
        let target = Target::new(item.shape.kind.as_str(), item.digest.to_string());
        let sequence = self.next_audit_sequence();
        let mut record =
            AuditRecord::new(sequence, time.wall.into(), Action::Settle, target, Reason::Unspecified.as_str());
        record.target.label = item.label.as_deref().map(str::to_owned);
        record.epoch = Some(time.believed.to_string());
        if let Entry::Wide(entry) = &item.entry {
            record.requires = entry.requires();
        }
        record
    }

    fn next_audit_sequence(&self) -> u64 {
        self.counters.audit_sequence.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Epochs of one kind, as an entry.
fn of_kind(epochs: Epochs, kind: EpochKind) -> WideEntry {
    match kind {
        EpochKind::Reauthenticate => WideEntry { reauthenticate: epochs, ..WideEntry::default() },
        EpochKind::Reissue => WideEntry { reissue: epochs, ..WideEntry::default() },
    }
}

/// These marks, made to outdo those that the subject has where it has too many.
fn bounded(marks: Vec<Mark>, known: Option<&Entry>, kind: EpochKind) -> Epochs {
    let Some(Entry::Wide(known)) = known else { return Epochs::of(marks) };
    let known = match kind {
        EpochKind::Reauthenticate => &known.reauthenticate,
        EpochKind::Reissue => &known.reissue,
    };
    if known.iter().len() >= EPOCHS_MAX { known.outdone_by(marks) } else { Epochs::of(marks) }
}
