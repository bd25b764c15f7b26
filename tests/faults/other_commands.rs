//! The harnesses that are commands of their own: at full scale they are run from here, too, so that one command says it
//! all. CI runs each as a step of its own.

use std::path::Path;
use std::process::Command;

use crate::harness::{Harness, is_full_scale, lost};

/// What a command of cargo's prints, if it succeeds.
fn cargo(args: &[&str], environment: &[(&str, &str)]) -> Result<String, String> {
    let mut command = Command::new("cargo");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).envs(environment.iter().copied());
    // Set by rustup for this toolchain, and in the way of another.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    let output = command.output().map_err(|error| error.to_string())?;
    let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// A command of cargo's: its arguments, and its environment.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

/// Runs commands, and counts by what they print.
fn run(name: &'static str, cases: &[Case<'_>], count: impl Fn(&str) -> u64) {
    let mut harness = Harness::new(name);
    if !is_full_scale() {
        harness.skip("a step of its own, except at full scale");
        return harness.finish();
    }
    for (args, environment) in cases {
        let mut tried = 0;
        harness.case(
            || args.join(" "),
            || match cargo(args, environment) {
                Ok(text) => {
                    tried = count(&text);
                    if tried == 0 { lost(format!("nothing was tried: {text}")) } else { Ok(()) }
                }
                Err(text) => lost(text),
            },
        );
        harness.note("cases", tried);
    }
    harness.finish();
}

#[test]
fn properties() {
    let args = ["test", "--release", "--test", "properties", "--", "--nocapture"];
    // Each property says how many cases it saw.
    run("properties", &[(&args, &[("PROPTEST_CASES", "10000")])], |text| {
        text.match_indices("\"cases\": ").filter_map(|(at, key)| number(&text[at + key.len()..])).sum()
    });
}

#[test]
fn models() {
    let args = |what: &'static str| ["test", "--release", "--lib", "--target-dir", "target/models", what];
    let (loom, shuttle) = (args("loom_"), args("shuttle_"));
    let cases: [Case<'_>; 2] = [(&loom, &[("RUSTFLAGS", "--cfg loom")]), (&shuttle, &[("RUSTFLAGS", "--cfg shuttle")])];
    run("models", &cases, |text| {
        text.match_indices("test result: ok. ").filter_map(|(at, key)| number(&text[at + key.len()..])).sum()
    });
}

#[test]
fn fuzzing() {
    let targets = ["log_open", "snapshot_open", "record_decode", "operations"];
    // What it finds goes into a folder of its own; the corpus is only read.
    let folders = targets.map(|target| [format!("fuzz/target/found/{target}"), format!("fuzz/corpus/{target}")]);
    for [found, _] in &folders {
        std::fs::create_dir_all(Path::new(env!("CARGO_MANIFEST_DIR")).join(found)).unwrap();
    }
    let args: Vec<Vec<&str>> = targets
        .iter()
        .zip(&folders)
        .map(|(target, [found, corpus])| {
            let limits = ["-max_total_time=60", "-max_len=1024", "-len_control=0", "-print_final_stats=1"];
            [&["+nightly", "fuzz", "run", target, found, corpus, "--"], &limits[..]].concat()
        })
        .collect();
    let cases: Vec<Case<'_>> = args.iter().map(|args| (&args[..], &[][..])).collect();
    run("fuzzing", &cases, |text| {
        let key = "stat::number_of_executed_units:";
        text.match_indices(key).filter_map(|(at, key)| number(text[at + key.len()..].trim_start())).sum()
    });
}

fn number(text: &str) -> Option<u64> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
