//! Whether the harnesses catch what they are there to catch: defects of the kind that storage engines have had are planted
//! into a copy of the sources, one is switched on at a time, and the harness that should fail is run.
//!
//! The crate itself has no switch for them, so no build of it can carry one. Each defect names the lines it replaces; if
//! those are no longer there, this test says so.
//!
//! `cargo test --release --test planted_bugs -- --nocapture`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed test panics, and prints who caught what"
)]

mod bugs;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use bugs::{BUGS, Bug};
use rescind::{Clock, SystemClock};

/// Which defect is on, in the copy.
const SWITCH: &str = "RESCIND_PLANTED_BUG";

/// What the copy has beside the sources: the switch.
const PLANTED: &str = r#"
/// Whether a defect is switched on.
pub(crate) fn planted(bug: &str) -> bool {
    static BUG: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    BUG.get_or_init(|| std::env::var("RESCIND_PLANTED_BUG").ok()).as_deref() == Some(bug)
}
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo builds: what the copy depends on has been built there already.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Every file of the package that the copy needs.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true if entry.file_name() == "target" => {}
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// Makes the copy, with every defect in it, and gives where it is. What has not changed since the last time is left alone,
/// so that it is not built again.
fn plant() -> PathBuf {
    let copy = target().join("planted");
    let mut paths = vec![root().join("Cargo.toml"), root().join("Cargo.lock"), root().join("README.md")];
    for folder in ["src", "tests", "benches", "examples", "fuzz/src", "fuzz/corpus"] {
        sources(&root().join(folder), &mut paths);
    }
    let mut by_file: BTreeMap<&str, Vec<&Bug>> = BTreeMap::new();
    for bug in BUGS {
        by_file.entry(bug.file).or_default().push(bug);
    }
    for path in paths {
        let name = path.strip_prefix(root()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(bugs) = by_file.remove(name.to_str().unwrap()) {
            let mut text = String::from_utf8(bytes).unwrap();
            for Bug { name, right, wrong, .. } in bugs {
                assert_eq!(text.matches(right).count(), 1, "{name}: what it replaces is not there once:\n{right}");
                text = text.replace(right, &format!("if crate::planted({name:?}) {{ {wrong} }} else {{ {right} }}"));
            }
            bytes = text.into_bytes();
        }
        if name == Path::new("src/lib.rs") {
            bytes.extend_from_slice(PLANTED.as_bytes());
        }
        if name == Path::new("Cargo.toml") {
            // Under a name of its own, so that what is built of it never stands in for what is built of the crate.
            let text = String::from_utf8(bytes).unwrap();
            let renamed = "name = \"rescind-planted\"";
            bytes = text.replacen("name = \"rescind\"", renamed, 1).into_bytes();
            bytes.extend_from_slice(b"\n[lib]\nname = \"rescind\"\n");
        }
        let to = copy.join(name);
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    assert!(by_file.is_empty(), "no such files: {by_file:?}");
    copy
}

/// Builds the tests of the copy, and gives the programs by name.
fn build(copy: &Path, tests: &BTreeSet<&str>) -> BTreeMap<String, PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(copy).args(["test", "--offline", "--no-run", "--message-format=json-render-diagnostics"]);
    command.arg("--target-dir").arg(target()).args(tests.iter().flat_map(|test| match *test {
        "lib" => vec!["--lib"],
        test => vec!["--test", test],
    }));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.env_remove("RUSTFLAGS").stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut programs = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        if let (Some(program), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) {
            let name = if message["target"]["kind"][0] == "lib" { "lib" } else { name };
            programs.insert(name.to_owned(), PathBuf::from(program));
        }
    }
    programs
}

/// Runs a harness, and tells whether it passed.
fn passes(program: &Path, harness: &str, bug: &str) -> bool {
    let mut command = Command::new(program);
    // So that properties and simulators find what they find soon, and a defect does not fill the screen.
    command.arg(harness).env(SWITCH, bug).env("PROPTEST_CASES", "2000").env("RESCIND_SEEDS", "24");
    command.env("RUST_BACKTRACE", "0");
    let output = command.current_dir(root()).env_remove("RESCIND_SCALE").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("running 0 tests"), "there is no {harness}");
    output.status.success()
}

#[test]
fn every_planted_bug_is_caught() {
    let names: BTreeSet<_> = BUGS.iter().map(|bug| bug.name).collect();
    assert!(names.len() == BUGS.len() && BUGS.len() >= 25, "each has a name of its own");
    let copy = plant();
    let harnesses: BTreeSet<(&str, &str)> = BUGS.iter().map(|bug| bug.caught_by).collect();
    let programs = build(&copy, &harnesses.iter().map(|(test, _)| *test).collect());

    // Without a defect every harness passes: what fails anyway catches nothing. Two at a time.
    let jobs =
        harnesses.iter().map(|harness| ("none", *harness)).chain(BUGS.iter().map(|bug| (bug.name, bug.caught_by)));
    let (jobs, missed) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((bug, (test, harness))) = { jobs.lock().unwrap().next() } {
                    // It cuts the power of a real disk.
                    if harness == "power::" && !rustix::process::geteuid().is_root() {
                        println!("planted {bug} skipped=not_root");
                        continue;
                    }
                    let begun = SystemClock::new().boot();
                    let passed = passes(&programs[test], harness, bug);
                    let took = (SystemClock::new().boot() - begun).as_millis();
                    let caught = if passed { "nobody".to_owned() } else { format!("{test}::{harness}") };
                    match bug {
                        "none" => println!("harness {test}::{harness} ms={took}"),
                        _ => println!("planted {bug} caught_by={caught} ms={took}"),
                    }
                    if passed != (bug == "none") {
                        missed.lock().unwrap().push(format!("{bug} ({test}::{harness})"));
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    println!("planted bugs={} caught={}", BUGS.len(), BUGS.len() - missed.len());
    assert!(missed.is_empty(), "not as it should be: {missed:?}");
}
