//! What is left after crashes, failing disks, damage, kills, power cuts, full disks and wrong clocks: everything that was
//! acknowledged, or a typed error.
//!
//! Each harness prints one line: what it tried, how often something was lost or passed over in silence, how often the
//! library panicked, and why it was skipped, if it was. By default they take a sample that runs in a few minutes.
//! Everything: `RESCIND_SCALE=full cargo test --release --test faults -- --nocapture`.
//!
//! The fault model, and what is not promised, is in `src/manual/faults.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed test panics, and a harness says what it tried"
)]

mod clock;
mod corruption;
mod crash;
mod errors;
mod harness;
mod healing;
mod hooked;
mod image;
mod other_commands;
mod races;
mod recovery;
mod salvage;
mod threads;
mod workload;

#[cfg(target_os = "linux")]
mod kill;
#[cfg(target_os = "linux")]
mod mount;
#[cfg(target_os = "linux")]
mod power;
#[cfg(target_os = "linux")]
mod space;
