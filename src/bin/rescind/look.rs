//! Commands that look: inspect, list, explain, verify, salvage.

use std::path::Path;
use std::sync::Arc;

use rescind::storage::{DirectoryError, FileStorage, Storage};
use rescind::{
    CopyError, Damage, Effect, Explanation, Fact, Key, Kind, Options, RecoveryError, RecoveryReport, SalvageError,
    Store, Subject, Timestamp, salvage_on, verify_on,
};
use serde_json::{Value, json};

use crate::Answer;
use crate::arguments::{Input, KindArgument, Subjects};
use crate::output::{Failure, Out, number};
use crate::progress::Watched;

/// The files that tell which key a store has, and how far its log went.
const KEY: &str = "KEY";
const MARK: &str = "MARK";

fn is_there(storage: &dyn Storage, wanted: &str) -> bool {
    storage.list().is_ok_and(|names| names.iter().any(|name| name == wanted))
}

/// The store as it is now, whoever holds it.
fn open(directory: &Path, key: Option<Key>) -> Result<Store, Failure> {
    let options = Options::new().background(false);
    let options = if let Some(key) = key { options.key(key) } else { options };
    Ok(options.open_read_only(directory)?)
}

pub(crate) fn inspect(out: &mut Out, directory: &Path, key: Option<Key>) -> Result<Answer, Failure> {
    let key_is_given = key.is_some();
    let store = open(directory, key)?;
    let stats = store.stats();
    let holder = match FileStorage::open_read_only(directory) {
        Err(DirectoryError::InUse { pid, .. }) => Some(pid),
        _ => None,
    };
    let storage = FileStorage::open_beside(directory)?;
    let cannot = |error| Failure::Cannot(format!("cannot list {}: {error}", directory.display()));
    let names = storage.list().map_err(cannot)?;
    // A file that has just been removed is none.
    let files: Vec<(String, u64)> = names
        .into_iter()
        .filter_map(|name| Some((storage.open(&name).ok()?.len().ok()?, name)))
        .map(|(bytes, name)| (name, bytes))
        .collect();
    let recovery = &stats.recovery;
    let is_json = out.json(|| {
        json!({
            "directory": directory.display().to_string(),
            "held": holder.is_some(),
            "held_by": holder.flatten(),
            "key_id": store.key_id().to_string(),
            "key_is_kept": !key_is_given,
            "entries": stats.entries,
            "entries_by_kind": stats.entries_by_kind.iter().map(|(kind, count)| (kind.to_string(), json!(count)))
                .collect::<serde_json::Map<_, _>>(),
            "snapshot": recovery.snapshot_batch.map(|batch| json!({ "batch": batch, "records": recovery.snapshot_records })),
            "log": { "batches": recovery.log_batches, "records": recovery.log_records, "torn_tail_bytes": recovery.torn_tail_bytes },
            "damaged_snapshots": recovery.damaged_snapshots,
            "files": files.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect::<Vec<_>>(),
        })
    })?;
    if is_json {
        return Ok(Answer::Yes);
    }
    out.line(format_args!("store      {}", directory.display()))?;
    out.line(match holder {
        Some(Some(pid)) => format!("held by    process {pid}"),
        Some(None) => "held by    a process".to_owned(),
        None => "held by    nobody".to_owned(),
    })?;
    let kept = if key_is_given { "configured" } else { "kept in the directory" };
    out.line(format_args!("key        {} ({kept})", store.key_id()))?;
    let kinds: Vec<String> = stats
        .entries_by_kind
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{kind} {}", number(*count as u64)))
        .collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    out.line(format_args!("entries    {}{kinds}", number(stats.entries as u64)))?;
    out.line(match recovery.snapshot_batch {
        Some(batch) => format!("snapshot   of batch {}, {} records", number(batch), number(recovery.snapshot_records)),
        None => "snapshot   none yet".to_owned(),
    })?;
    out.line(format_args!(
        "log        {} batches since, {} records",
        number(recovery.log_batches),
        number(recovery.log_records)
    ))?;
    if recovery.torn_tail_bytes > 0 {
        out.line(format_args!(
            "torn tail  {} bytes, never acknowledged; whoever opens it next wipes them",
            number(recovery.torn_tail_bytes)
        ))?;
    }
    for name in &recovery.damaged_snapshots {
        out.line(format_args!("damaged    {name}, the snapshot before it is used: see `rescind verify`"))?;
    }
    out.line("")?;
    let rows: Vec<[String; 2]> = files.into_iter().map(|(name, bytes)| [name, number(bytes)]).collect();
    out.table(["file", "bytes"], &rows)?;
    Ok(Answer::Yes)
}

pub(crate) fn list(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    kind: Option<KindArgument>,
    denied: bool,
) -> Result<Answer, Failure> {
    let store = open(directory, key)?;
    let mut found = store.list();
    found.retain(|one| kind.is_none_or(|kind| kind.kind() == one.subject.kind) && (!denied || one.denies()));
    found.sort_by(|a, b| (a.subject, &a.label, a.digest.as_bytes()).cmp(&(b.subject, &b.label, b.digest.as_bytes())));
    if out.json(|| Value::Array(found.iter().map(explanation).collect()))? {
        return Ok(Answer::of(!found.is_empty()));
    }
    if found.is_empty() {
        out.line("nothing is known of any user, client, device, group or tenant")?;
        return Ok(Answer::No);
    }
    let mut rows = Vec::new();
    for one in &found {
        let name = one.label.clone().unwrap_or_else(|| format!("#{}", one.digest));
        for fact in &one.facts {
            rows.push([
                one.subject.to_string(),
                name.clone(),
                effect(fact),
                fact.since.to_string(),
                fact.reason.to_string(),
                fact.actor.as_deref().unwrap_or("-").to_owned(),
            ]);
        }
    }
    out.table(["kind", "name", "effect", "since", "reason", "by"], &rows)?;
    Ok(Answer::Yes)
}

pub(crate) fn explain(
    out: &mut Out,
    directory: &Path,
    key: Option<Key>,
    subjects: &Subjects,
) -> Result<Answer, Failure> {
    let subjects = subjects.read(&mut Input::new())?;
    let store = open(directory, key)?;
    let mut known = Vec::new();
    for subject in &subjects {
        let found = store.explain(subject).map_err(|error| Failure::Usage(error.to_string()))?;
        known.push((subject, found));
    }
    let all = known.iter().all(|(_, found)| found.is_some());
    let json_of = |(subject, found): &(&Subject, Option<Explanation>)| {
        found.as_ref().map_or_else(|| json!({ "kind": subject.kind().as_str(), "known": false }), explanation)
    };
    if out.json(|| Value::Array(known.iter().map(json_of).collect()))? {
        return Ok(Answer::of(all));
    }
    for (subject, found) in &known {
        let name = name(subject);
        match found {
            None => out.line(format_args!("{name}: nothing is known of it"))?,
            Some(found) => {
                let state = if found.denies() { "denied" } else { "not denied" };
                out.line(format_args!("{name}: {state}"))?;
                for fact in &found.facts {
                    let by = fact.actor.as_deref().map_or_else(String::new, |actor| format!(", by {actor}"));
                    let requires = required(fact).map(|names| format!(", requires {}", names.join(" or ")));
                    let (effect, requires) = (effect(fact), requires.unwrap_or_default());
                    out.line(format_args!("  since {}  {effect} ({}{by}){requires}", fact.since, fact.reason))?;
                }
                if let Some(until) = found.until {
                    let until = if until == Timestamp::MAX {
                        "kept for good".to_owned()
                    } else {
                        format!("kept until {until}")
                    };
                    out.line(format_args!("  {until}"))?;
                }
            }
        }
    }
    Ok(Answer::of(all))
}

/// Who or what was asked about, for people; ids of tokens, sessions and families are not repeated.
fn name(subject: &Subject) -> String {
    let mut text = subject.kind().to_string();
    if let Some(label) = subject.label() {
        text.push_str(&format!(" {label}"));
    }
    if let Some(tenant) = subject.tenant_name().filter(|_| subject.kind() != Kind::Tenant) {
        text.push_str(&format!(" in tenant {tenant}"));
    }
    if let Some(issuer) = subject.issuer_name() {
        text.push_str(&format!(" at issuer {issuer}"));
    }
    text
}

/// What a fact says, for people who are also told since when.
fn effect(fact: &Fact) -> String {
    let (what, epoch) = match fact.effect {
        Effect::Reauthenticate { epoch } => ("must log in again".to_owned(), Some(epoch)),
        Effect::Reissue { epoch } => ("needs a fresh token".to_owned(), Some(epoch)),
        other => (other.to_string(), None),
    };
    let since = fact.since.to_string();
    let epoch = epoch.map(|epoch| epoch.to_string()).filter(|epoch| *epoch != since);
    let mut text = what + &epoch.map_or_else(String::new, |epoch| format!(", if from before {epoch}"));
    if fact.spared_sessions > 0 {
        text.push_str(&format!(", {} spared", fact.spared_sessions));
    }
    if fact.undone {
        text.push_str(", undone");
    }
    text
}

/// The claims of which a credential must bring one to satisfy a fact.
fn required(fact: &Fact) -> Option<Vec<&'static str>> {
    Some(fact.requires?.any_of().iter().map(|claim| claim.as_str()).collect())
}

/// What is known of a subject, for programs.
fn explanation(found: &Explanation) -> Value {
    let facts = found.facts.iter().map(|fact| {
        let (effect, epoch) = match fact.effect {
            Effect::Revoked => ("revoked", None),
            Effect::Disabled => ("disabled", None),
            Effect::Reauthenticate { epoch } => ("reauthenticate", Some(epoch.to_string())),
            Effect::Reissue { epoch } => ("reissue", Some(epoch.to_string())),
            Effect::TooOld { .. } => ("too_old", None),
            Effect::Pending => ("pending", None),
            _ => ("other", None),
        };
        json!({
            "effect": effect, "epoch": epoch, "requires": required(fact), "since": fact.since.to_string(), "reason": fact.reason.as_str(),
            "actor": fact.actor, "spared_sessions": fact.spared_sessions, "undone": fact.undone,
        })
    });
    json!({
        "kind": found.subject.kind.as_str(),
        "known": true,
        "in_tenant": found.subject.in_tenant,
        "at_issuer": found.subject.at_issuer,
        "name": found.label,
        "digest": found.digest.to_string(),
        "denied": found.denies(),
        "facts": facts.collect::<Vec<_>>(),
        "until": found.until.filter(|until| *until != Timestamp::MAX).map(|until| until.to_string()),
    })
}

pub(crate) fn verify(out: &mut Out, directory: &Path, key: Option<Key>) -> Result<Answer, Failure> {
    // Once for the survey, once for what opening it would find.
    let storage = Watched::new(FileStorage::open_read_only(directory)?, "reading", 2)?;
    let found = verify_on(&storage).map_err(|error| Failure::Cannot(error.to_string()))?;
    let (key_is_kept, has_mark) = (is_there(&storage, KEY), is_there(&storage, MARK));
    drop(storage);
    let key_is_given = key.is_some();
    if key_is_given && found.is_sound() {
        // Whether it is the right one, only opening tells.
        open(directory, key)?;
    }
    let answer = Answer::of(found.is_sound());
    let recovery = found.recovery.as_ref().err().map(ToString::to_string);
    let is_json = out.json(|| {
        json!({
            "sound": found.is_sound(),
            "files": found.files.iter().map(|file| json!({
                "name": file.name, "bytes": file.bytes, "records": file.records,
                "first_batch": file.batches.map(|(first, _)| first), "last_batch": file.batches.map(|(_, last)| last),
            })).collect::<Vec<_>>(),
            "damage": damage_json(&found.damage),
            "missing_batches": found.missing_batches.iter().map(|range| json!([range.start(), range.end()])).collect::<Vec<_>>(),
            "torn_tail_bytes": found.torn_tail_bytes,
            "does_not_open": recovery,
            "key_is_kept": key_is_kept,
            "mark_is_there": has_mark,
        })
    })?;
    if is_json {
        return Ok(answer);
    }
    let rows: Vec<[String; 4]> = found
        .files
        .iter()
        .map(|file| {
            let batches = file.batches.map_or_else(|| "-".to_owned(), |(first, last)| span(first, last));
            [file.name.clone(), number(file.bytes), batches, number(file.records)]
        })
        .collect();
    out.table(["file", "bytes", "batches", "records"], &rows)?;
    out.line("")?;
    say_damage(out, &found.damage, &found.missing_batches, found.torn_tail_bytes)?;
    if found.is_sound() {
        out.line("sound: everything is as it was written")?;
        if !key_is_kept && !key_is_given {
            out.line(
                "there is no KEY: was it kept here and not configured, it is lost. With --key-file, a key is tried",
            )?;
        }
        if !has_mark {
            out.line("there is no MARK: was the store open for seconds, or closed, it is lost, and the end of the log may be")?;
        }
    } else {
        match recovery {
            Some(error) => out.line(format_args!("damaged, and it does not open: {error}"))?,
            None => out.line("damaged, and it opens: what opening reads is whole")?,
        }
    }
    Ok(answer)
}

fn damage_json(damage: &[Damage]) -> Value {
    let one = |damage: &Damage| json!({ "file": damage.file, "offset": damage.offset, "bytes": damage.bytes, "what": damage.what });
    Value::Array(damage.iter().map(one).collect())
}

/// Batches, from the first to the last.
fn span(first: u64, last: u64) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn say_damage(
    out: &mut Out,
    damage: &[Damage],
    missing: &[std::ops::RangeInclusive<u64>],
    torn_tail_bytes: u64,
) -> Result<(), Failure> {
    if !damage.is_empty() {
        let rows: Vec<[String; 4]> = damage
            .iter()
            .map(|one| [one.file.clone(), number(one.offset), number(one.bytes), one.what.to_owned()])
            .collect();
        out.table(["damaged file", "at byte", "bytes", "what"], &rows)?;
        out.line("")?;
    }
    if !missing.is_empty() {
        let ranges: Vec<String> = missing.iter().map(|range| span(*range.start(), *range.end())).collect();
        out.line(format_args!("missing batches: {}", ranges.join(", ")))?;
    }
    if torn_tail_bytes > 0 {
        out.line(format_args!(
            "torn tail: {} bytes that were never acknowledged as durable; that is no damage",
            number(torn_tail_bytes)
        ))?;
    }
    Ok(())
}

/// Whether anything tells that no batch is missing. Numbers tell of a gap in the log, and MARK how far it went, and of which
/// copy it is. They tell nothing where they are damaged themselves: the end of the log may be lost, or batches of another copy
/// have the numbers of those that are.
fn is_vouched(damage: &[Damage], opening: &Result<RecoveryReport, RecoveryError>) -> bool {
    let vouches = |name: &str| name == MARK || name.starts_with("wal-");
    let refuses = matches!(opening, Err(RecoveryError::Corrupt { segment, .. }) if vouches(segment));
    !refuses && !damage.iter().any(|damage| vouches(&damage.file))
}

pub(crate) fn salvage(out: &mut Out, from: &Path, into: &Path, key: Option<Key>) -> Result<Answer, Failure> {
    // Once to save what is there, twice to tell what is not.
    let source = Watched::new(FileStorage::open_read_only(from)?, "reading", 3)?;
    let target = FileStorage::open(into).map_err(|error| SalvageError::from(CopyError::from(error)))?;
    let report = salvage_on(&source, Arc::new(target))?;
    let has_mark = is_there(&source, MARK);
    let opening = verify_on(&source).map_err(|error| Failure::Cannot(error.to_string()))?.recovery;
    drop(source);
    let key_is_given = key.is_some();
    // Nothing is saved of which the key is lost.
    let opens = (report.has_key || key_is_given) && open(into, key).is_ok();
    let is_vouched = has_mark && is_vouched(&report.damage, &opening);
    let is_known_missing = !report.missing_batches.is_empty();
    let is_whole = is_vouched && !is_known_missing && opens;
    let is_json = out.json(|| {
        json!({
            "entries": report.entries,
            "records": report.records,
            "damage": damage_json(&report.damage),
            "missing_batches": report.missing_batches.iter().map(|range| json!([range.start(), range.end()])).collect::<Vec<_>>(),
            "torn_tail_bytes": report.torn_tail_bytes,
            "has_key": report.has_key,
            "opens": opens,
            "vouched": is_vouched,
        })
    })?;
    if is_json {
        return Ok(Answer::of(is_whole));
    }
    say_damage(out, &report.damage, &report.missing_batches, report.torn_tail_bytes)?;
    out.line(format_args!(
        "saved {} entries of {} records into {}",
        number(report.entries),
        number(report.records),
        into.display()
    ))?;
    match (opens, key_is_given) {
        (true, _) => {}
        (false, true) => out.line("the key that was given is not the store's: with that one only, it opens")?,
        (false, false) => out.line(format_args!(
            "the key was not there. Was it configured, `rescind inspect {} --key-file FILE` tells whether it fits; was it kept \
             there, it is lost, and everything with it",
            into.display()
        ))?,
    }
    if is_whole {
        out.line("nothing that was on disk is missing")?;
    } else if is_known_missing {
        out.line(
            "something may be lost: whoever was revoked in what is missing may be let in. If it is not known who that was, \
             revoke everyone",
        )?;
    } else if !is_vouched {
        out.line(
            "no batch is known to be missing, but what tells so is damaged: the end of the log may be lost, or batches may be \
             another copy's. Hold it against an audit trail or a backup, or revoke everyone",
        )?;
    }
    Ok(Answer::of(is_whole))
}
