//! What goes to disk and comes from there: durable revocations, snapshots, opening. Beside it, in turns, the same bytes
//! written to a plain file in the same directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rescind::{Credential, Options, Revocation, Store, Verdict};

use crate::fill;
use crate::queries::{Ids, Space};
use crate::report::{Report, median};

const CALLERS: u64 = 64;
const BATCH: u64 = 64;

/// A log is what there is between two snapshots: more than this is hardly ever read back.
const LOG_MAX: u64 = 1_000_000;

struct Scale {
    rounds: usize,
    /// Of opening and of snapshots, each of which takes seconds.
    long_rounds: usize,
    /// Commits of one caller in a round.
    commits: u64,
    /// Revocations of each of many callers in a round.
    by_caller: u64,
    entries: u64,
}

impl Scale {
    fn from_env() -> Self {
        let entries = fill::largest_size();
        if fill::is_small() {
            Self { rounds: 2, long_rounds: 1, commits: 20, by_caller: 5, entries }
        } else {
            Self { rounds: 9, long_rounds: 5, commits: 2000, by_caller: 1000, entries }
        }
    }
}

pub fn run(report: &mut Report) {
    let scale = Scale::from_env();
    revoke(report, &scale, "durable_revoke_1", 1, scale.commits, 1);
    revoke(report, &scale, "durable_revoke_64_callers", CALLERS, scale.by_caller, 1);
    revoke(report, &scale, "durable_revoke_batch_64", 1, scale.commits, BATCH);
    let directory = fill::directory();
    let log = directory.path().join("log");
    let from_log = scale.entries.min(LOG_MAX);
    fill::make_store(&log, from_log, false);
    open(report, &scale, &log, from_log, "open_from_log");
    let store = directory.path().join("store");
    fill::make_store(&store, scale.entries, true);
    open(report, &scale, &store, scale.entries, "open");
    snapshot(report, &scale, &store);
}

/// `callers` threads that each commit so many batches of so many tokens, one after the other.
///
/// Maintenance is off: a snapshot in the midst of it would be measured against nothing. New segments of the log are made as
/// they are needed, and count.
fn revoke(report: &mut Report, scale: &Scale, name: &str, callers: u64, commits: u64, batch: u64) {
    let directory = fill::directory();
    let options = Options::new().background(false);
    let store = options.open(directory.path().join("store")).expect("a new store");
    let mut next = 0;
    let mut commit_round = || {
        let expires = fill::tomorrow();
        let mut token = || {
            next += 1;
            fill::revocation(next, expires)
        };
        let mut batches = || (0..commits).map(|_| (0..batch).map(|_| token()).collect()).collect();
        let of_callers: Vec<Vec<Vec<Revocation>>> = (0..callers).map(|_| batches()).collect();
        let before = store.stats();
        let time = commit(&store, of_callers);
        let after = store.stats();
        Written { time, groups: after.batches - before.batches, bytes: after.log_bytes - before.log_bytes }
    };
    let tokens = callers * commits * batch;
    // The first round warms up, and says how much room the plain file needs.
    let first = commit_round();
    let full_groups = tokens / batch.max(CALLERS.min(callers));
    let mut plain = Plain::new(directory.path(), 2 * first.bytes).expect("a plain file");
    let (mut ours, mut raw, mut raw_full, mut sizes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let written = commit_round();
        let per_second = |time: Duration| tokens as f64 / time.as_secs_f64();
        ours.push(per_second(written.time));
        sizes.push(tokens as f64 / written.groups as f64);
        raw.push(per_second(plain.write(written.groups, written.bytes).expect("a plain file")));
        if callers > 1 {
            raw_full.push(per_second(plain.write(full_groups, written.bytes).expect("a plain file")));
        }
    }
    store.close().expect("everything on disk");
    let ratios = |raw: &[f64]| ours.iter().zip(raw).map(|(ours, raw)| ours / raw).collect::<Vec<_>>();
    report.ratio(&format!("{name}/-/raw_file"), &ratios(&raw));
    if callers > 1 {
        // Small groups would make the file slow too: the same records in full groups say what could have been.
        report.ratio(&format!("{name}/-/raw_file_in_full_groups"), &ratios(&raw_full));
    }
    report.figure(&format!("{name}/records_per_group"), median(&mut sizes), "records");
    report.figure(&format!("{name}/rescind"), median(&mut ours), "records/s");
    report.figure(&format!("{name}/raw_file"), median(&mut raw), "records/s");
}

/// What was committed in a round.
struct Written {
    time: Duration,
    groups: u64,
    bytes: u64,
}

fn commit(store: &Store, of_callers: Vec<Vec<Vec<Revocation>>>) -> Duration {
    let commit_all = |batches: Vec<Vec<Revocation>>| {
        for mut batch in batches {
            let receipt = match batch.len() {
                1 => batch.pop().map(|revocation| store.revoke(revocation)),
                _ => Some(store.revoke_many(batch)),
            };
            assert!(receipt.is_some_and(|receipt| receipt.is_ok()));
        }
    };
    if of_callers.len() == 1 {
        let start = Instant::now();
        of_callers.into_iter().for_each(commit_all);
        return start.elapsed();
    }
    let barrier = Barrier::new(of_callers.len() + 1);
    let mut start = Instant::now();
    thread::scope(|scope| {
        for batches in of_callers {
            scope.spawn(|| {
                barrier.wait();
                commit_all(batches);
            });
        }
        barrier.wait();
        start = Instant::now();
    });
    start.elapsed()
}

/// A file that is full of zeros before anything is measured, as a segment of the log is: a sync has no length to write.
struct Plain {
    file: File,
    offset: u64,
    length: u64,
}

impl Plain {
    fn new(directory: &Path, length: u64) -> io::Result<Self> {
        // Room for groups that are larger than those of the first round.
        let length = length.max(1 << 20);
        let mut file = File::options().read(true).write(true).create_new(true).open(directory.join("plain"))?;
        for _ in 0..length.div_ceil(1 << 20) {
            file.write_all(&[0; 1 << 20])?;
        }
        file.sync_all()?;
        Ok(Self { file, offset: 0, length })
    }

    /// Writes so many bytes in so many groups, each synced before the next; from the start again at the end of the file.
    fn write(&mut self, groups: u64, bytes: u64) -> io::Result<Duration> {
        let group = noise(bytes.div_ceil(groups.max(1)) as usize);
        let start = Instant::now();
        for _ in 0..groups {
            if self.offset + group.len() as u64 > self.length {
                self.offset = 0;
            }
            self.file.write_all_at(&group, self.offset)?;
            self.file.sync_data()?;
            self.offset += group.len() as u64;
        }
        Ok(start.elapsed())
    }
}

/// Bytes that nothing can compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn open(report: &mut Report, scale: &Scale, path: &Path, entries: u64, name: &str) {
    let mut per_second = Vec::new();
    for _ in 0..scale.long_rounds {
        let start = Instant::now();
        let store = fill::unattended().open(path).expect("the store that was made");
        per_second.push(entries as f64 / start.elapsed().as_secs_f64());
        assert_eq!(store.len() as u64, entries);
        store.close().expect("nothing to write");
    }
    report.figure(&format!("{name}_entries_per_second/{entries}"), median(&mut per_second), "entries/s");
}

/// Snapshots while a thread asks without pause, before, during and after, so that the plain file is written beside it too.
fn snapshot(report: &mut Report, scale: &Scale, path: &Path) {
    let entries = scale.entries;
    let store = fill::unattended().open(path).expect("the store that was made");
    let plain = path.with_file_name("plain");
    let done = AtomicBool::new(false);
    let (mut over_raw, mut seconds, mut bytes) = (Vec::new(), Vec::new(), 0);
    thread::scope(|scope| {
        scope.spawn(|| ask_until(&done, &store));
        let mut take_rounds = || {
            for _ in 0..scale.long_rounds {
                let start = Instant::now();
                bytes = store.snapshot().expect("a snapshot").bytes;
                let ours = start.elapsed().as_secs_f64();
                seconds.push(ours);
                over_raw.push(ours / write_anew(&plain, bytes).expect("a plain file").as_secs_f64());
            }
        };
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut take_rounds));
        done.store(true, Ordering::Relaxed);
        taken.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    store.close().expect("nothing to write");
    report.figure(&format!("snapshot_time_over_raw_write/{entries}"), median(&mut over_raw), "x");
    report.figure(&format!("snapshot_time/{entries}"), median(&mut seconds), "s");
    report.figure(&format!("snapshot_bytes_per_entry/{entries}"), bytes as f64 / entries as f64, "bytes");
}

fn ask_until(done: &AtomicBool, store: &Store) {
    let absent = Ids::absent(Space::Token, 1 << 14);
    for place in 0.. {
        if place % 1024 == 0 && done.load(Ordering::Relaxed) {
            return;
        }
        assert_eq!(store.check(&Credential::new().token(absent.get(place))), Verdict::Clear);
    }
}

/// Writes so many bytes to a new file and syncs it, as whoever has nothing to compute would.
fn write_anew(path: &PathBuf, bytes: u64) -> io::Result<Duration> {
    let chunk = noise(1 << 20);
    let start = Instant::now();
    let mut file = File::create_new(path)?;
    let mut left = bytes as usize;
    while left > 0 {
        let written = left.min(chunk.len());
        file.write_all(&chunk[..written])?;
        left -= written;
    }
    file.sync_all()?;
    let time = start.elapsed();
    fs::remove_file(path)?;
    Ok(time)
}
