//! What is measured, from the environment, and on what machine.

use std::env;
use std::fs;
use std::thread::available_parallelism;

use crate::report::Report;

/// How many entries the stores hold.
pub fn sizes() -> Vec<u64> {
    let sizes = env::var("RIVALS_SIZES").unwrap_or_else(|_| "1000,100000,1000000,10000000".to_owned());
    list(&sizes).map(|size| size.parse().expect("RIVALS_SIZES: numbers, a comma between")).collect()
}

/// How many values a median is taken of.
pub fn rounds() -> usize {
    env::var("RIVALS_ROUNDS").map_or(9, |rounds| rounds.parse().expect("RIVALS_ROUNDS: a number"))
}

/// The parts that were asked for; none means all.
pub fn parts(known: &[&str]) -> Option<Vec<String>> {
    let parts: Vec<_> = list(&env::var("RIVALS_ONLY").ok()?).map(str::to_owned).collect();
    for part in &parts {
        assert!(known.contains(&part.as_str()), "RIVALS_ONLY: `{part}` is none of {known:?}");
    }
    Some(parts)
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Notes the machine and the versions, without which no figure means anything.
pub fn describe(report: &mut Report) {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = available_parallelism().map_or(1, usize::from);
    report.note("machine", &format!("{}, {cores} cores", model.unwrap_or("unknown processor")));
    let versions: Vec<_> = ["dashmap", "parking_lot", "papaya", "scc", "moka", "quick_cache", "tokenkit"]
        .iter()
        .filter_map(|name| Some(format!("{name} {}", locked_version(name)?)))
        .collect();
    report.note("versions", &versions.join(", "));
}

fn locked_version(name: &str) -> Option<&'static str> {
    let lock = include_str!("../Cargo.lock");
    let package = lock.split("[[package]]").find(|package| package.contains(&format!("name = \"{name}\"\n")))?;
    package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
}
