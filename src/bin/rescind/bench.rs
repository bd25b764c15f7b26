//! A quick look at what this machine takes. The figures that the project states are from its criterion benchmarks.
#![expect(clippy::disallowed_methods, reason = "it measures this machine's time")]

use std::path::Path;
use std::time::{Duration, Instant};

use rescind::{Credential, Revocation, Store, Subject, Verdict};
use serde_json::json;

use crate::Answer;
use crate::output::{Failure, Out, number};
use crate::progress;

/// How many checks are timed together.
const CHECKS: usize = 10_000;
const ROUNDS: usize = 31;
/// For how long revocations are written to disk.
const WRITING: Duration = Duration::from_secs(1);
const WRITERS: usize = 8;

pub(crate) fn bench(out: &mut Out, entries: u32, directory: Option<&Path>) -> Result<Answer, Failure> {
    let revoked = |number: u32| format!("revoked-{number}");
    let store = Store::in_memory();
    let bar = progress::bar("revoking", u64::from(entries));
    let start = Instant::now();
    for chunk in (0..entries).collect::<Vec<_>>().chunks(10_000) {
        store.revoke_many(chunk.iter().map(|number| Revocation::of(Subject::token(revoked(*number)))))?;
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    let loaded = start.elapsed();
    let step = (entries as usize / CHECKS).max(1);
    let denied: Vec<String> = (0..CHECKS).map(|index| revoked((index * step) as u32 % entries)).collect();
    let others: Vec<String> = (0..CHECKS).map(|index| format!("live-{index}")).collect();
    let (clear_ns, denied_ns) = (check(&store, &others, false)?, check(&store, &denied, true)?);

    let parent = directory.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let path = parent.join(format!("rescind-bench-{}", std::process::id()));
    let written = write(&path);
    std::fs::remove_dir_all(&path).ok();
    let (alone, together) = written?;

    let bytes = store.stats();
    let is_json = out.json(|| {
        json!({
            "entries": entries,
            "check_clear_ns": clear_ns, "check_revoked_ns": denied_ns,
            "load_per_second": f64::from(entries) / loaded.as_secs_f64(),
            "bytes_per_entry": bytes.table_bytes as f64 / f64::from(entries),
            "revoke_sync_us_p50": alone.as_secs_f64() * 1e6,
            "revoke_sync_per_second": together,
            "writers": WRITERS,
        })
    })?;
    if is_json {
        return Ok(Answer::Yes);
    }
    let rows = [
        ["a check that is clear".to_owned(), format!("{clear_ns:.0} ns")],
        ["a check that is revoked".to_owned(), format!("{denied_ns:.0} ns")],
        ["a revocation on disk, one writer, median".to_owned(), format!("{:.0} us", alone.as_secs_f64() * 1e6)],
        [format!("revocations on disk, {WRITERS} writers"), format!("{} a second", number(together as u64))],
        ["memory".to_owned(), format!("{:.0} bytes an entry", bytes.table_bytes as f64 / f64::from(entries))],
    ];
    out.table([&format!("with {} tokens revoked", number(entries)), "this machine"], &rows)?;
    out.line("")?;
    out.line("a quick look, by medians: the benchmarks in the repository are the reference")?;
    Ok(Answer::Yes)
}

/// What a check takes, in nanoseconds: the median of some rounds.
fn check(store: &Store, tokens: &[String], is_denied: bool) -> Result<f64, Failure> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let denied = tokens
            .iter()
            .filter(|token| matches!(store.check(&Credential::new().token(token.as_str())), Verdict::Revoked(_)))
            .count();
        rounds.push(start.elapsed().as_nanos() as f64 / tokens.len() as f64);
        if denied != if is_denied { tokens.len() } else { 0 } {
            return Err(Failure::Cannot("a check gave a wrong answer: this is a bug".to_owned()));
        }
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds.get(ROUNDS / 2).copied().unwrap_or_default())
}

/// What one writer waits for, at the median; and how many a second several get done.
fn write(path: &Path) -> Result<(Duration, f64), Failure> {
    let store = Store::open(path)?;
    let revoke = |name: String| store.revoke(Revocation::of(Subject::token(name)));
    let mut waits = Vec::new();
    let start = Instant::now();
    while start.elapsed() < WRITING {
        let begun = Instant::now();
        revoke(format!("alone-{}", waits.len()))?;
        waits.push(begun.elapsed());
    }
    waits.sort_unstable();
    let alone = waits.get(waits.len() / 2).copied().unwrap_or_default();
    let start = Instant::now();
    let done: Result<usize, Failure> = std::thread::scope(|scope| {
        let writer = |writer: usize| {
            move || {
                let mut count = 0;
                while start.elapsed() < WRITING {
                    revoke(format!("writer-{writer}-{count}"))?;
                    count += 1;
                }
                Ok::<usize, Failure>(count)
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(writer(number))).collect();
        let mut done = 0;
        for writer in writers {
            done += writer.join().map_err(|_| Failure::Cannot("a writer panicked: this is a bug".to_owned()))??;
        }
        Ok(done)
    });
    let together = done? as f64 / start.elapsed().as_secs_f64();
    store.close()?;
    Ok((alone, together))
}
