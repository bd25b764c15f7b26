//! Engines on real wires, with real faults: one line a case.
//!
//! `cargo test --release --features gossip,redis,nats --test wires -- --nocapture`; a word after that runs only the cases whose names
//! contain it. Servers are started from the binaries on PATH, on free ports; without a binary, or without what a case needs
//! of the system, it says `skipped`; `RESCIND_REQUIRE=servers,network` makes that a failure. `RESCIND_SCALE=full` tries more.
//!
//! `lost` counts acknowledged revocations that a node does not deny in the end; `stale_clear` counts answers of `Clear` about
//! a token that had been revoked for longer than `stale_after`: whoever has heard nothing for so long may not say that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    reason = "a failed test panics, a harness says what it tried, and here it is real time that passes"
)]

mod gossip;
mod nats;
mod network;
mod node;
mod redis;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use support::Outcome;

/// One fault, or one figure.
pub struct Case {
    /// The engine and the fault.
    pub name: &'static str,
    pub run: fn() -> Outcome,
}

fn main() -> ExitCode {
    if let Some(code) = node::run_if_asked() {
        return code;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let cases = [gossip::cases(), redis::cases(), nats::cases()].concat();
    let mut failed = Vec::new();
    for case in cases {
        if !wanted.is_empty() && !wanted.iter().any(|word| case.name.contains(word.as_str())) {
            continue;
        }
        match catch_unwind(AssertUnwindSafe(case.run)) {
            Ok(Outcome::Held(measured)) => {
                println!(
                    "wire {} tried={} lost={} stale_clear={} converged_ms={}",
                    case.name,
                    measured.tried,
                    measured.lost,
                    measured.stale_clear,
                    measured.converged.as_millis()
                );
                if measured.tried == 0 || measured.lost > 0 || measured.stale_clear > 0 {
                    failed.push(case.name);
                }
            }
            // It has printed its figures itself.
            Ok(Outcome::Told) => {}
            Ok(Outcome::Skipped(why)) => {
                println!("wire {} skipped: {why}", case.name);
                if is_required(why.sort()) {
                    failed.push(case.name);
                }
            }
            Err(_) => failed.push(case.name),
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("wire failed: {failed:?}");
    ExitCode::FAILURE
}

/// Whether what a case lacked must be there.
fn is_required(sort: &str) -> bool {
    std::env::var("RESCIND_REQUIRE").is_ok_and(|required| required.split(',').any(|word| word == sort))
}

impl Clone for Case {
    fn clone(&self) -> Self {
        Self { name: self.name, run: self.run }
    }
}
