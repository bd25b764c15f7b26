//! Counting what was tried and what went wrong, and saying so in one line.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many failures are told in full.
const TOLD_MAX: usize = 5;

pub(crate) fn is_full_scale() -> bool {
    std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full")
}

/// `small`, or `full` if that is asked for.
pub(crate) fn scaled<T>(small: T, full: T) -> T {
    if is_full_scale() { full } else { small }
}

/// What must not happen.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something acknowledged is forgotten, half of something is there, or an acknowledgement was false.
    Lost(String),
    /// Something is wrong, and nobody says so.
    Silent(String),
}

pub(crate) type Outcome = Result<(), Failure>;

pub(crate) fn lost(what: impl Into<String>) -> Outcome {
    Err(Failure::Lost(what.into()))
}

pub(crate) fn silent(what: impl Into<String>) -> Outcome {
    Err(Failure::Silent(what.into()))
}

/// Fails with `Lost` unless something holds.
pub(crate) fn holds(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { lost(what()) }
}

/// Runs cases, counts what becomes of them, and prints one line.
#[derive(Debug)]
pub(crate) struct Harness {
    name: &'static str,
    tried: u64,
    lost: u64,
    silent: u64,
    panics: u64,
    skipped: Option<String>,
    told: Vec<String>,
    notes: BTreeMap<&'static str, u64>,
}

impl Harness {
    pub(crate) fn new(name: &'static str) -> Self {
        let (told, notes) = (Vec::new(), BTreeMap::new());
        Self { name, tried: 0, lost: 0, silent: 0, panics: 0, skipped: None, told, notes }
    }

    /// Runs one case. `what` says which, if it fails.
    pub(crate) fn case(&mut self, what: impl Fn() -> String, case: impl FnOnce() -> Outcome) {
        self.tried += 1;
        let failure = match catch_unwind(AssertUnwindSafe(case)) {
            Ok(Ok(())) => return,
            Ok(Err(Failure::Lost(how))) => {
                self.lost += 1;
                format!("lost: {how}")
            }
            Ok(Err(Failure::Silent(how))) => {
                self.silent += 1;
                format!("silent: {how}")
            }
            Err(panic) => {
                self.panics += 1;
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                format!("panic: {}", text.unwrap_or_default())
            }
        };
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("{}: {failure}", what()));
        }
    }

    pub(crate) fn tried(&self) -> u64 {
        self.tried
    }

    /// Adds to a count that is printed behind the others.
    pub(crate) fn note(&mut self, what: &'static str, count: u64) {
        *self.notes.entry(what).or_default() += count;
    }

    /// What could not be tried here, and why.
    pub(crate) fn skip(&mut self, why: impl Into<String>) {
        self.skipped = Some(why.into().replace(' ', "_"));
    }

    /// Says what was tried, and fails if anything went wrong.
    pub(crate) fn finish(self) {
        let Self { name, tried, lost, silent, panics, skipped, told, notes } = self;
        let skipped = skipped.unwrap_or_else(|| "0".to_owned());
        let mut line =
            format!("harness {name} tried={tried} lost={lost} silent={silent} panics={panics} skipped={skipped}");
        for (what, count) in notes {
            write!(line, " {what}={count}").unwrap();
        }
        println!("{line}");
        assert!(tried > 0 || skipped != "0", "nothing was tried, and nothing says why");
        assert!(lost + silent + panics == 0, "{line}\n{}", told.join("\n"));
    }
}

/// Sebastiano Vigna's SplitMix64: any seed will do.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
