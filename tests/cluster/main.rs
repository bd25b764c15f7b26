//! Whole clusters on one thread: seeded loss, delay, partitions, crashes, wiped disks, clocks and a hostile peer. The same
//! seed gives the same run.
//!
//! `RESCIND_SCALE=full cargo test --release --test cluster -- --nocapture` for the full count of seeds.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]
#![allow(clippy::print_stdout, reason = "what was tried is printed")]

mod causality;
mod cluster;
mod network;
mod propagation;
mod scenario;
mod sync;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use scenario::{Outcome, Scenario};

/// So many seeds fail, and no more are tried.
const TOLD_MAX: usize = 10;

fn is_full_scale() -> bool {
    std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full")
}

fn seeds() -> u64 {
    let given = std::env::var("RESCIND_SEEDS").ok().map(|seeds| seeds.parse().unwrap());
    given.unwrap_or(if is_full_scale() { 20_000 } else { 300 })
}

/// One seed, by hand: `RESCIND_SEED=17`.
fn first_seed() -> Option<u64> {
    std::env::var("RESCIND_SEED").ok().map(|seed| seed.parse().unwrap())
}

/// Tries many seeds, several side by side: each is a cluster on one thread. Gives how many were tried, how many panicked, and
/// what failed first.
fn try_seeds<T: Default + Send>(
    run: impl Fn(u64) -> T + Sync,
    add: impl Fn(&mut T, &T) + Sync,
    failures: impl Fn(&T) -> &[String] + Sync,
) -> (u64, u64, T, Vec<String>) {
    let seeds = match first_seed() {
        Some(seed) => seed..seed + 1,
        None => 0..seeds(),
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (seeds, results) = (Mutex::new(seeds), Mutex::new((0, 0, T::default(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = { seeds.lock().unwrap().next() } {
                    let result = catch_unwind(AssertUnwindSafe(|| run(seed)));
                    let (tried, panics, total, told) = &mut *results.lock().unwrap();
                    // Enough has failed to see why.
                    if told.len() >= TOLD_MAX {
                        break;
                    }
                    *tried += 1;
                    match result {
                        Ok(outcome) => {
                            if !failures(&outcome).is_empty() {
                                told.push(format!("seed {seed}: {}", failures(&outcome).join("; ")));
                            }
                            add(total, &outcome);
                        }
                        Err(panic) => {
                            *panics += 1;
                            let text = panic.downcast_ref::<String>().cloned();
                            told.push(format!("seed {seed}: panic: {}", text.unwrap_or_default()));
                        }
                    }
                }
            });
        }
    });
    results.into_inner().unwrap()
}

#[test]
fn simulator() {
    let run = |seed| Scenario::new(seed).run();
    let (tried, panics, total, told) = try_seeds(run, Outcome::add, |outcome| &outcome.failures);
    let Outcome { lost, diverged, stale_clear, .. } = total;
    println!("simulator: {}", total.counts());
    let line = format!(
        "harness simulator tried={tried} lost={lost} diverged={diverged} stale_clear={stale_clear} panics={panics}"
    );
    println!("{line}");
    assert!(lost + diverged + stale_clear + panics == 0, "{line}\n{}", told.join("\n"));
}

#[test]
fn what_was_let_in_before_a_revocation_is_not_let_in_after_it() {
    let run = |seed| causality::Scenario::new(seed).run();
    let (tried, panics, total, told) = try_seeds(run, causality::Outcome::add, |outcome| &outcome.failures);
    let causality::Outcome { void, un_denied, locked_out, diverged, .. } = total;
    println!("causality: {}", total.counts());
    let line = format!(
        "harness causality tried={tried} void={void} un_denied={un_denied} locked_out={locked_out} diverged={diverged} \
         panics={panics}"
    );
    println!("{line}");
    assert!(total.violations() + panics == 0, "{line}\n{}", told.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..12 {
        let (first, second) = (Scenario::new(seed).run(), Scenario::new(seed).run());
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert!(first.events > 1_000, "seed {seed}");
    }
}
