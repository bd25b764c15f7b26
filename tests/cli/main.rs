//! The program `rescind`, as people and scripts run it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed test panics"
)]

mod clocks;
mod commands;
mod damaged;
mod guide;
#[allow(dead_code, reason = "the fault harness has more uses for it")]
#[path = "../faults/harness.rs"]
mod harness;
#[allow(dead_code, reason = "the fault harness has more uses for it")]
#[path = "../faults/image.rs"]
mod image;
#[allow(dead_code, reason = "the fault harness has more uses for it")]
#[path = "../faults/workload.rs"]
mod workload;

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// What the program answered.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

fn rescind<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    rescind_told(arguments, "")
}

/// Runs the program with something on standard input.
fn rescind_told<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>, input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rescind"))
        .args(arguments)
        .env("USER", "tester")
        .env_remove("SUDO_USER")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever reads none of it may have ended.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}
