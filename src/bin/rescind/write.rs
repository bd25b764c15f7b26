//! Commands that change a store: revoke, disable, enable, lift, snapshot.

use std::path::Path;

use rescind::audit::JsonLines;
use rescind::{Actor, Change, Channel, Key, Options, Receipt, Revocation, Store, WriteError};
use serde_json::json;

use crate::Answer;
use crate::arguments::{Epoch, Input, Subjects, Why};
use crate::output::{Failure, Out, chain, number};

/// The store, held until it is closed. Its limits stay those that its service has recorded.
fn open(directory: &Path, key: Option<Key>, why: Option<&Why>) -> Result<Store, Failure> {
    let mut options = Options::new().create_if_missing(false).keep_recorded_limits(true).background(false);
    if let Some(key) = key {
        options = options.key(key);
    }
    if let Some(why) = why {
        options = options.retain_labels(why.retain_names);
        if let Some(path) = &why.audit {
            options = options.audit(JsonLines::open(path).map_err(|error| Failure::Cannot(chain(&error)))?);
        }
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
    let store = open(directory, key, Some(why))?;
    let count = revocations.len();
    let receipt = store.revoke_many(revocations).map_err(refused)?;
    close(out, &store, "revoked", count, receipt.changed)
}

pub(crate) fn disable(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    why: &Why,
) -> Result<Answer, Failure> {
    change(out, directory, key, (subjects, why), "disabled", |store, change| store.disable(change))
}

pub(crate) fn enable(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    why: &Why,
) -> Result<Answer, Failure> {
    change(out, directory, key, (subjects, why), "enabled", |store, change| store.enable(change))
}

pub(crate) fn lift(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
    why: &Why,
) -> Result<Answer, Failure> {
    change(out, directory, key, (subjects, why), "lifted", |store, change| store.lift(change))
}

fn change(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    (subjects, why): (&Subjects, &Why),
    done: &str,
    act: impl Fn(&Store, Change) -> Result<Receipt, WriteError>,
) -> Result<Answer, Failure> {
    let subjects = subjects.read(&mut Input::new())?;
    let changes: Vec<Change> = subjects.into_iter().map(|subject| explained!(Change::of(subject), why)).collect();
    // Each is a commit of its own: whatever makes no sense is found before the first of them.
    let rehearsal = Store::in_memory();
    changes.iter().try_for_each(|change| act(&rehearsal, change.clone()).map(drop).map_err(refused))?;
    let store = open(directory, key, Some(why))?;
    let (count, mut changed) = (changes.len(), 0);
    for (index, change) in changes.into_iter().enumerate() {
        match act(&store, change) {
            Ok(receipt) => changed += receipt.changed,
            Err(WriteError::NotDurable(error)) if index > 0 => {
                let text = format!("not on disk: {error}; the first {index} of {count} are {done}, the others are not");
                return Err(Failure::NotDurable(text));
            }
            Err(error) => return Err(refused(error)),
        }
    }
    close(out, &store, done, count, changed)
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

/// Closes the store, and says what was done once that has succeeded.
fn close(out: &mut Out, store: &Store, done: &str, count: usize, changed: usize) -> Result<Answer, Failure> {
    store.close()?;
    // Sinks are flushed by now.
    let unaudited = store.stats().audit_failures;
    if unaudited > 0 {
        return Err(Failure::NotDurable(format!("{done}, but {unaudited} audit records were not written")));
    }
    if !out.json(|| json!({ "asked": count, "changed": changed }))? {
        match changed {
            0 => out.line(format_args!("nothing was {done}: there was nothing to do"))?,
            changed if changed == count => out.line(format_args!("{done} {}", number(changed as u64)))?,
            changed => out.line(format_args!(
                "{done} {} of {}; of the others there was nothing to do",
                number(changed as u64),
                number(count as u64)
            ))?,
        }
    }
    Ok(Answer::of(changed > 0))
}

pub(crate) fn snapshot(out: &mut Out, directory: &Path, key: Option<Key>) -> Result<Answer, Failure> {
    let store = open(directory, key, None)?;
    let report = store.snapshot()?;
    store.close()?;
    if !out.json(|| json!({ "entries": report.entries, "bytes": report.bytes }))? {
        out.line(format_args!("a snapshot of {} entries, {} bytes", number(report.entries), number(report.bytes)))?;
    }
    Ok(Answer::Yes)
}
