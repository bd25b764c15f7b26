//! Two processes on one directory: one revokes 10,000 tokens a second, takes snapshots and is killed; the other reads along.
#![expect(clippy::disallowed_methods, reason = "real processes, in real time")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Instant;

use rescind::{Clock, SystemClock};

use super::*;

const DIRECTORY: &str = "RESCIND_FOLLOWER_DIRECTORY";
const FIRST: &str = "RESCIND_FOLLOWER_FIRST";
const PER_SECOND: u64 = 10_000;

fn name(number: u64) -> String {
    format!("token-{number}")
}

/// Without a time: this process and its clock are real, and `NOW` lies in their future.
fn is_revoked(store: &Store, number: u64) -> bool {
    matches!(store.check(&Credential::new().token(name(number))), Verdict::Revoked(_))
}

/// The writer: a process of its own, which runs until it is killed. It says when each revocation was acknowledged.
#[test]
fn revoke_for_parent() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = Options::new().segment_bytes(1 << 20).open(directory).unwrap();
    let (submit, submitted) = channel::<(u64, rescind::Pending)>();
    let stats = store.clone();
    std::thread::spawn(move || {
        let (clock, mut out) = (SystemClock::new(), std::io::stdout().lock());
        writeln!(out, "\nready").unwrap();
        out.flush().unwrap();
        loop {
            let (number, pending) = match submitted.try_recv() {
                Ok(next) => next,
                Err(TryRecvError::Empty) => {
                    out.flush().unwrap();
                    submitted.recv().unwrap()
                }
                Err(TryRecvError::Disconnected) => return,
            };
            pending.wait().unwrap();
            writeln!(out, "{number} {} {}", clock.boot().as_nanos(), stats.stats().snapshots).unwrap();
        }
    });
    let (start, mut number, mut snapshots) = (Instant::now(), first, 0);
    let snapshotter = store.clone();
    let (ask, asked) = channel();
    std::thread::spawn(move || asked.iter().for_each(|()| _ = snapshotter.snapshot().unwrap()));
    loop {
        let due = first + start.elapsed().as_micros() as u64 * PER_SECOND / 1_000_000;
        while number < due {
            submit.send((number, store.submit(Revocation::of(Subject::token(name(number)))).unwrap())).unwrap();
            number += 1;
        }
        if start.elapsed() > Duration::from_millis(400) * (snapshots + 1) {
            ask.send(()).unwrap();
            snapshots += 1;
        }
        // The rate of the load, and nothing that is waited for.
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn spawn(directory: &Path, first: u64) -> (Child, impl Iterator<Item = String> + Send + use<>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::revoke_for_parent", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "ready"), "the writer did not start");
    (child, lines)
}

#[test]
fn a_follower_keeps_up_with_ten_thousand_revocations_a_second_with_snapshots_and_through_kills() {
    let (lives, life) = if is_full() { (6, Duration::from_secs(10)) } else { (3, Duration::from_secs(2)) };
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("revocations");
    // The directory is made.
    Options::new().open(&directory).unwrap().close().unwrap();
    let follower = Store::open_read_only(&directory).unwrap();

    let (clock, is_over, unknown) = (SystemClock::new(), AtomicBool::new(false), AtomicU64::new(0));
    let (mut acknowledged, mut snapshots, mut elapsed) = (Vec::new(), 0, Duration::ZERO);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen: Vec<u64> = Vec::new();
            let mut next = name(0);
            loop {
                // Looked at before the check: what was acknowledged by then is found by it.
                let was_over = is_over.load(Ordering::Acquire);
                match follower.check(&Credential::new().token(next.as_str())) {
                    Verdict::Revoked(_) => {
                        seen.push(clock.boot().as_nanos() as u64);
                        next = name(seen.len() as u64);
                        continue;
                    }
                    Verdict::Clear => {}
                    Verdict::Unknown(_) => _ = unknown.fetch_add(1, Ordering::Relaxed),
                }
                if was_over {
                    return seen;
                }
                std::thread::yield_now();
            }
        });
        for _ in 0..lives {
            let (mut child, lines) = spawn(&directory, acknowledged.len() as u64);
            let started = Instant::now();
            let mut taken = 0;
            let mut lines = lines.peekable();
            while started.elapsed() < life {
                let line = lines.next().unwrap();
                let fields: Vec<u64> = line.split(' ').map(|field| field.parse().unwrap()).collect();
                assert_eq!(fields[0], acknowledged.len() as u64, "acknowledged in order");
                acknowledged.push(fields[1]);
                taken = fields[2];
            }
            elapsed += started.elapsed();
            snapshots += taken;
            // Whatever it said before it died counts, but for a line that was cut short.
            child.kill().unwrap();
            child.wait().unwrap();
            for line in lines {
                let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
                if fields.len() == 3 {
                    acknowledged.push(fields[1]);
                }
            }
        }
        // What is on the way has ten seconds.
        let deadline = Instant::now() + Duration::from_secs(10);
        let last = acknowledged.len() as u64 - 1;
        while !is_revoked(&follower, last) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        is_over.store(true, Ordering::Release);
        watcher.join().unwrap()
    });

    let lost = (0..acknowledged.len() as u64).filter(|number| !is_revoked(&follower, *number)).count();
    let mut lags: Vec<u64> =
        acknowledged.iter().zip(&seen).map(|(acknowledged, seen)| seen.saturating_sub(*acknowledged) / 1_000).collect();
    lags.sort_unstable();
    let at = |per_mille: usize| lags[(lags.len() * per_mille / 1_000).min(lags.len() - 1)];
    let following = following(&follower);
    println!(
        "follower revocations={} per_second={} lives={lives} snapshots={snapshots} lost={lost} unknown={} rereads={} \
         lag_us p50={} p99={} p99.9={} max={}",
        acknowledged.len(),
        acknowledged.len() as u128 * 1_000 / elapsed.as_millis(),
        unknown.load(Ordering::Relaxed),
        following.rereads,
        at(500),
        at(990),
        at(999),
        lags[lags.len() - 1],
    );
    let never = acknowledged.len() as u64 + 1_000_000;
    assert!(!is_revoked(&follower, never), "and nobody else is denied");
    assert_eq!((lost, seen.len() >= acknowledged.len()), (0, true));
    assert!(snapshots >= 2 * lives, "snapshots were taken meanwhile");
    assert_eq!(unknown.load(Ordering::Relaxed), 0, "it was fresh all the time");
    assert!(at(990) < 1_000_000, "within a second");
}
