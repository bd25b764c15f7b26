//! Commands that look: inspect, list, explain, verify, salvage.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rescind::storage::{DirectoryError, FileStorage, Storage};
use rescind::{
    CopyError, Damage, Effect, Explanation, Fact, Key, Kind, Options, RecoveryError, RecoveryReport, SalvageError,
    Stats, Store, StoreLimits, Subject, Timestamp, salvage_on, verify_on,
};
use serde_json::{Value, json};

use crate::Answer;
use crate::arguments::{Input, KindArgument, Subjects};
use crate::output::{Failure, Out, duration, number, roughly};
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
    let (limits, bounds) = (store.limits(), bounds(&store));
    let names = tenant_names(&store);
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
            "time": time_json(&stats),
            "limits": limits_json(&limits, &names, &bounds),
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
    say_limits(out, &limits, &names, &bounds)?;
    say_time(out, directory, &stats)?;
    out.line("")?;
    let rows: Vec<[String; 2]> = files.into_iter().map(|(name, bytes)| [name, number(bytes)]).collect();
    out.table(["file", "bytes"], &rows)?;
    Ok(Answer::Yes)
}

/// A maximum age that was set on a tenant or on everyone, or a floor that a longer age has left.
struct Bound {
    found: Explanation,
    age: Option<(Duration, Fact)>,
    floor: Option<Timestamp>,
}

/// What bounds the age of the credentials of tenants and of everyone, beside the options: everyone first.
fn bounds(store: &Store) -> Vec<Bound> {
    let limits = store.limits();
    let has_age = |found: &Explanation| match found.subject.kind {
        Kind::Everyone => limits.max_credential_age,
        _ => {
            let of_tenant = limits.tenant_max_credential_ages.iter().find(|(tenant, _)| *tenant == found.digest);
            of_tenant.map(|(_, age)| *age)
        }
    };
    let bound = |found: Explanation| {
        let standing = || found.facts.iter().filter(|fact| !fact.undone);
        let ages = standing().filter_map(|fact| match fact.effect {
            Effect::TooOld { limit } => Some((limit, fact.clone())),
            _ => None,
        });
        // Of several the shortest binds.
        let age = ages.min_by_key(|(age, _)| *age);
        // A store that is read along turns the ages of the writer's options into floors that move on with the clock. What such
        // an age denies by now is no news.
        let is_moving = |floor: Timestamp| has_age(&found).is_some_and(|age| floor.saturating_add(age) <= now());
        let floors = standing().filter(|fact| fact.is_floor).map(|fact| fact.since);
        let floor = floors.filter(|floor| !is_moving(*floor)).max();
        (age.is_some() || floor.is_some()).then_some(Bound { found, age, floor })
    };
    let mut bounds: Vec<Bound> = store.list().into_iter().filter_map(bound).collect();
    bounds.sort_by_key(|Bound { found, .. }| {
        (found.subject.kind != Kind::Everyone, found.label.clone(), found.digest.to_string())
    });
    bounds
}

/// The names of tenants that the store retains, by their digests.
type Names = HashMap<[u8; 16], String>;

fn tenant_names(store: &Store) -> Names {
    let tenants = store.list().into_iter().filter(|found| found.subject.kind == Kind::Tenant);
    tenants.filter_map(|found| Some((*found.digest.as_bytes(), found.label?))).collect()
}

/// What this machine's clock shows.
#[expect(clippy::disallowed_methods, reason = "a person means this machine's now")]
fn now() -> Timestamp {
    SystemTime::now().into()
}

fn time_json(stats: &Stats) -> Value {
    json!({
        "in_doubt": stats.time_in_doubt,
        "clock_behind_secs": stats.clock_behind.as_secs(),
        "borne_out": stats.borne_out_time.to_string(),
        "pending_epochs": stats.pending_epochs,
    })
}

fn limits_json(limits: &StoreLimits, names: &Names, bounds: &[Bound]) -> Value {
    let bound = |Bound { found, age, floor }: &Bound| {
        json!({
            "kind": found.subject.kind.as_str(),
            "name": found.label,
            "digest": found.digest.to_string(),
            "max_age_secs": age.as_ref().map(|(age, _)| age.as_secs_f64()),
            "set": age.as_ref().map(|(_, fact)| fact.since.to_string()),
            "actor": age.as_ref().and_then(|(_, fact)| fact.actor.as_deref()),
            "floor": floor.map(|floor| floor.to_string()),
        })
    };
    let of_tenants = limits.tenant_max_credential_ages.iter();
    json!({
        "leeway_secs": limits.leeway.as_secs_f64(),
        "kept_beyond_secs": limits.kept_beyond.as_secs_f64(),
        "max_age_secs": limits.max_credential_age.map(|age| age.as_secs_f64()),
        "tenants": of_tenants
            .map(|(tenant, age)| json!({ "name": names.get(tenant.as_bytes()), "digest": tenant.to_string(), "max_age_secs": age.as_secs_f64() }))
            .collect::<Vec<_>>(),
        "expired": limits.expired.map(|expired| expired.to_string()),
        "replica": limits.is_replica,
        "set": bounds.iter().map(bound).collect::<Vec<_>>(),
    })
}

/// Says which limits the service was started with, and which were set since.
fn say_limits(out: &mut Out, limits: &StoreLimits, names: &Names, bounds: &[Bound]) -> Result<(), Failure> {
    let age = limits
        .max_credential_age
        .map_or_else(|| "no maximum age".to_owned(), |age| format!("maximum age {}", duration(age)));
    let (leeway, kept) = (duration(limits.leeway), duration(limits.kept_beyond));
    let replica = if limits.is_replica { "; a replica" } else { "" };
    out.line(format_args!("limits     leeway {leeway}, grace {kept}, {age}{replica}"))?;
    for (tenant, age) in &limits.tenant_max_credential_ages {
        let name = names.get(tenant.as_bytes()).cloned().unwrap_or_else(|| format!("#{tenant}"));
        out.line(format_args!("           tenant {name}: maximum age {}", duration(*age)))?;
    }
    if let Some(expired) = limits.expired {
        out.line(format_args!(
            "           what expires at or before {expired} has expired: this store or a peer may have forgotten it"
        ))?;
    }
    for Bound { found, age, floor } in bounds {
        let name = match (found.subject.kind, &found.label) {
            (Kind::Everyone, _) => "everyone".to_owned(),
            (kind, Some(label)) => format!("{kind} {label}"),
            (kind, None) => format!("{kind} #{}", found.digest),
        };
        if let Some((age, fact)) = age {
            let by = fact.actor.as_deref().map_or_else(String::new, |actor| format!(", by {actor}"));
            out.line(format_args!("set        {name}: maximum age {}, since {}{by}", duration(*age), fact.since))?;
        }
        if let Some(floor) = floor {
            out.line(format_args!("floor      {name}: from before {floor} is dead, by a maximum age that was"))?;
        }
    }
    Ok(())
}

/// Says what is wrong with the time, and what to do.
fn say_time(out: &mut Out, directory: &Path, stats: &Stats) -> Result<(), Failure> {
    if stats.time_in_doubt {
        out.line(format_args!(
            "time       in doubt: the clock is {} behind what the store has seen. Set it right",
            roughly(stats.clock_behind)
        ))?;
    }
    if stats.pending_epochs > 0 {
        out.line(format_args!(
            "pending    {}, denied outright until the clock is right and the service, or `rescind settle {}`, settles it",
            number(stats.pending_epochs as u64),
            directory.display()
        ))?;
    }
    Ok(())
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
                advise(out, directory, subject, found)?;
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

/// Says what mends epochs that wait for their time, or lie beyond what is borne out.
fn advise(out: &mut Out, directory: &Path, subject: &Subject, found: &Explanation) -> Result<(), Failure> {
    let directory = directory.display();
    if found.facts.iter().any(|fact| fact.effect == Effect::Pending) {
        out.line(format_args!(
            "  denied outright, new logins included: the service settles it once its clock is right, and so does `rescind settle {directory}`"
        ))?;
    }
    let beyond =
        found.facts.iter().filter(|fact| !fact.undone).filter_map(|fact| fact.beyond_borne_out.map(|by| (fact, by)));
    if let Some((fact, beyond)) = beyond.max_by_key(|(_, beyond)| *beyond) {
        let epoch = match fact.effect {
            Effect::Reauthenticate { epoch } | Effect::Reissue { epoch } => epoch,
            _ => Timestamp::MIN,
        };
        let beyond = roughly(beyond);
        if epoch > now() {
            let argument = argument(subject);
            out.line(format_args!(
                "  the epoch lies {beyond} beyond borne-out time: new logins are denied until then. `rescind restate {directory} \
                 {argument}` mends it"
            ))?;
        } else {
            out.line(format_args!(
                "  the epoch lies {beyond} beyond borne-out time: if the clock is right, all is well; if it is ahead, set it right, \
                 and see again"
            ))?;
        }
    }
    Ok(())
}

/// A wide subject, as a command takes it.
fn argument(subject: &Subject) -> String {
    let mut text = match subject.label() {
        Some(label) if subject.kind() != Kind::Everyone => format!("{}:{label}", subject.kind()),
        _ => subject.kind().to_string(),
    };
    if let Some(tenant) = subject.tenant_name().filter(|_| subject.kind() != Kind::Tenant) {
        text.push_str(&format!(" --tenant {tenant}"));
    }
    if let Some(issuer) = subject.issuer_name() {
        text.push_str(&format!(" --issuer {issuer}"));
    }
    text
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
        _ if fact.is_floor => return format!("from before {} is dead, by a maximum age that was", fact.since),
        Effect::Pending => ("denied outright, as the clock was in doubt".to_owned(), None),
        Effect::TooOld { limit } => (format!("maximum age {}", duration(limit)), None),
        Effect::Reauthenticate { epoch } => ("must log in again".to_owned(), Some(epoch)),
        Effect::Reissue { epoch } => ("needs a fresh token".to_owned(), Some(epoch)),
        other => (other.to_string(), None),
    };
    // An epoch of now is a moment later than the decision.
    let is_later = |epoch: &Timestamp| epoch.as_nanos().abs_diff(fact.since.as_nanos()) >= 1_000_000_000;
    let epoch = epoch.filter(is_later);
    let mut text = what + &epoch.map_or_else(String::new, |epoch| format!(", if from before {epoch}"));
    if fact.issuer.is_some() {
        text.push_str(", of an issuer that is ahead");
    }
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
            Effect::Pending => ("pending", None),
            Effect::TooOld { .. } => ("max_age", None),
            _ => ("other", None),
        };
        let max_age = match fact.effect {
            Effect::TooOld { limit } => Some(limit.as_secs_f64()),
            _ => None,
        };
        json!({
            "max_age_secs": max_age, "floor": fact.is_floor, "issuer": fact.issuer.map(|issuer| issuer.to_string()),
            "beyond_borne_out_secs": fact.beyond_borne_out.map(|beyond| beyond.as_secs()),
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
