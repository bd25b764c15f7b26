//! Commands that change a store: revoke, disable, enable, lift, restate, settle, maximum ages, snapshot.

use std::path::Path;
use std::time::Duration;

use rescind::audit::JsonLines;
use rescind::{Actor, Change, Channel, Key, Options, Receipt, Revocation, Store, Subject, WriteError};
use serde_json::json;

use crate::Answer;
use crate::arguments::{Epoch, Input, Subjects, Why};
use crate::output::{Failure, Out, chain, number, roughly};

/// The store, held until it is closed. Its limits stay those that its service has recorded.
fn open(directory: &Path, key: Option<Key>, retain_names: bool, audit: Option<&Path>) -> Result<Store, Failure> {
    let mut options = Options::new().create_if_missing(false).keep_recorded_limits(true).background(false);
    if let Some(key) = key {
        options = options.key(key);
    }
    options = options.retain_labels(retain_names);
    if let Some(path) = audit {
        options = options.audit(JsonLines::open(path).map_err(|error| Failure::Cannot(chain(&error)))?);
    }
    Ok(options.open(directory)?)
}

/// Where the environment names nobody, as in containers and in jobs that a clock starts.
#[cfg(unix)]
fn user_number() -> Option<String> {
    Some(format!("uid {}", rustix::process::getuid().as_raw()))
}

#[cfg(not(unix))]
fn user_number() -> Option<String> {
    None
}

impl Why {
    fn open(&self, directory: &Path, key: Option<Key>) -> Result<Store, Failure> {
        open(directory, key, self.retain_names, self.audit.as_deref())
    }

    fn actor(&self) -> Option<Actor> {
        let from = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
        self.by
            .clone()
            .or_else(|| from("SUDO_USER"))
            .or_else(|| from("USER"))
            .or_else(|| from("LOGNAME"))
            .or_else(user_number)
            .map(Actor::user)
    }
}

/// Says the same of a revocation as of a change.
macro_rules! explained {
    ($command:expr, $why:expr) => {{
        let mut command = $command.because($why.reason.reason()).through(Channel::Cli);
        if let Some(actor) = $why.actor() {
            command = command.by(actor);
        }
        if let Some(note) = &$why.note {
            command = command.note(note);
        }
        command
    }};
}

pub(crate) fn revoke(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    epoch: &Epoch,
    why: &Why,
) -> Result<Answer, Failure> {
    let mut input = Input::new();
    let (subjects, spared) = (subjects.read(&mut input)?, epoch.spared(&mut input)?);
    let mut revocations = Vec::new();
    for subject in subjects {
        let mut revocation = explained!(Revocation::of(subject), why);
        if let Some(until) = epoch.until {
            revocation = revocation.until_secs(until.date());
        }
        if let Some(at) = epoch.at {
            revocation = revocation.at_secs(at.date());
        }
        if epoch.reissue {
            revocation = revocation.reissue();
        }
        for session in &spared {
            revocation = revocation.sparing_session(session);
        }
        revocations.push(revocation);
    }
    let store = why.open(directory, key)?;
    let mut told = Told { asked: revocations.len(), ..Told::default() };
    told.add(&store.revoke_many(revocations).map_err(refused)?);
    close(out, &store, "revoked", told)
}

pub(crate) fn disable(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    why: &Why,
) -> Result<Answer, Failure> {
    change(out, directory, key, (subjects, why), "disabled", |store, _, change| store.disable(change))
}

pub(crate) fn enable(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    why: &Why,
) -> Result<Answer, Failure> {
    change(out, directory, key, (subjects, why), "enabled", |store, _, change| store.enable(change))
}

pub(crate) fn lift(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    why: &Why,
) -> Result<Answer, Failure> {
    change(out, directory, key, (subjects, why), "lifted", |store, _, change| store.lift(change))
}

/// Gives epochs that lie in the future the present time.
pub(crate) fn restate(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    why: &Why,
) -> Result<Answer, Failure> {
    change(out, directory, key, (subjects, why), "restated", |store, subject, change| {
        let mut receipt = store.restate_epochs(change)?;
        if receipt.changed == 0 {
            // By a clock that is still ahead nothing lies in the future.
            let found = store.explain(subject)?;
            let beyond = found.iter().flat_map(|found| &found.facts).filter_map(|fact| fact.beyond_borne_out);
            receipt.beyond_borne_out = beyond.max();
        }
        Ok(receipt)
    })
}

/// Sets the maximum age of credentials.
pub(crate) fn set_max_age(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    age: Duration,
    why: &Why,
) -> Result<Answer, Failure> {
    change(out, directory, key, (subjects, why), "set", |store, _, change| store.set_max_credential_age(change, age))
}

/// Removes the maximum age of credentials.
pub(crate) fn clear_max_age(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    why: &Why,
) -> Result<Answer, Failure> {
    change(out, directory, key, (subjects, why), "cleared", |store, _, change| store.clear_max_credential_age(change))
}

/// Gives all epochs their time that were made while the clock was in doubt.
pub(crate) fn settle(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    audit: Option<&Path>,
) -> Result<Answer, Failure> {
    let store = open(directory, key, false, audit)?;
    let receipt = store.settle_epochs()?;
    let stats = store.stats();
    close_audited(&store, "settled")?;
    let is_json = out.json(|| {
        json!({
            "settled": receipt.changed,
            "pending": receipt.pending,
            "time_in_doubt": stats.time_in_doubt,
            "clock_behind_secs": stats.clock_behind.as_secs(),
        })
    })?;
    if !is_json {
        match (receipt.changed, receipt.pending) {
            (0, 0) => out.line("nothing was settled: no epoch waits for its time")?,
            (settled, 0) => out.line(format_args!("settled {}", number(settled as u64)))?,
            (_, pending) => out.line(format_args!(
                "nothing was settled, and {} wait: the clock is {} behind what the store has seen. Set it right, and try again",
                number(pending as u64),
                roughly(stats.clock_behind)
            ))?,
        }
    }
    Ok(Answer::of(receipt.changed > 0))
}

fn change(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    (subjects, why): (&Subjects, &Why),
    done: &str,
    act: impl Fn(&Store, &Subject, Change) -> Result<Receipt, WriteError>,
) -> Result<Answer, Failure> {
    let subjects = subjects.read(&mut Input::new())?;
    let changes: Vec<(Subject, Change)> =
        subjects.into_iter().map(|subject| (subject.clone(), explained!(Change::of(subject), why))).collect();
    // Each is a commit of its own: whatever makes no sense is found before the first of them.
    let rehearsal = Store::in_memory();
    changes
        .iter()
        .try_for_each(|(subject, change)| act(&rehearsal, subject, change.clone()).map(drop).map_err(refused))?;
    let store = why.open(directory, key)?;
    let count = changes.len();
    let mut told = Told { asked: count, ..Told::default() };
    for (index, (subject, change)) in changes.into_iter().enumerate() {
        match act(&store, &subject, change) {
            Ok(receipt) => told.add(&receipt),
            Err(WriteError::NotDurable(error)) if index > 0 => {
                let text = format!("not on disk: {error}; the first {index} of {count} are {done}, the others are not");
                return Err(Failure::NotDurable(text));
            }
            Err(error) => return Err(refused(error)),
        }
    }
    close(out, &store, done, told)
}

/// A command that makes no sense is a mistake of whoever typed it.
fn refused(error: WriteError) -> Failure {
    match error {
        WriteError::InBatch { source, .. } => refused(*source),
        error @ (WriteError::Invalid(_) | WriteError::EpochInFuture { .. } | WriteError::RetentionInPast { .. }) => {
            Failure::Usage(error.to_string())
        }
        error => error.into(),
    }
}

/// What has been asked for and done so far.
#[derive(Default)]
struct Told {
    asked: usize,
    changed: usize,
    /// How many epochs wait for their time.
    pending: usize,
    /// By how much an epoch lies beyond borne-out time.
    beyond: Option<Duration>,
}

impl Told {
    fn add(&mut self, receipt: &Receipt) {
        self.changed += receipt.changed;
        self.pending += receipt.pending;
        self.beyond = self.beyond.max(receipt.beyond_borne_out);
    }
}

/// Closes the store, and fails unless everything is on disk and in the audit trail.
fn close_audited(store: &Store, done: &str) -> Result<(), Failure> {
    store.close()?;
    // Sinks are flushed by now.
    match store.stats().audit_failures {
        0 => Ok(()),
        unaudited => Err(Failure::NotDurable(format!("{done}, but {unaudited} audit records were not written"))),
    }
}

/// Closes the store, and says what was done once that has succeeded.
fn close(out: &mut Out, store: &Store, done: &str, told: Told) -> Result<Answer, Failure> {
    close_audited(store, done)?;
    let Told { asked, changed, pending, beyond } = told;
    let is_json = out.json(|| {
        let beyond = beyond.map(|beyond| beyond.as_secs());
        json!({ "asked": asked, "changed": changed, "pending": pending, "beyond_borne_out_secs": beyond })
    })?;
    if !is_json {
        match changed {
            0 => out.line(format_args!("nothing was {done}: there was nothing to do"))?,
            changed if changed == asked => out.line(format_args!("{done} {}", number(changed as u64)))?,
            changed => out.line(format_args!(
                "{done} {} of {}; of the others there was nothing to do",
                number(changed as u64),
                number(asked as u64)
            ))?,
        }
        if pending > 0 {
            out.line(
                "the clock is in doubt: until it is set right, new logins are denied, too. The service settles it then; where none \
                 runs, `rescind settle` does",
            )?;
        }
        if let Some(beyond) = beyond {
            out.line(format_args!(
                "the clock is {} ahead of what the boot clock bears out. If it is right, all is well; if it is ahead, new logins are \
                 denied until then: set it right, and run `rescind restate`",
                roughly(beyond)
            ))?;
        }
    }
    Ok(Answer::of(changed > 0))
}

pub(crate) fn snapshot(out: &mut Out, directory: &Path, key: Option<Key>) -> Result<Answer, Failure> {
    let store = open(directory, key, false, None)?;
    let report = store.snapshot()?;
    store.close()?;
    if !out.json(|| json!({ "entries": report.entries, "bytes": report.bytes }))? {
        out.line(format_args!("a snapshot of {} entries, {} bytes", number(report.entries), number(report.bytes)))?;
    }
    Ok(Answer::Yes)
}
