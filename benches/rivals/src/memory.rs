//! How much memory a revoked token takes, all in: table, filter, and whatever else has grown with them.
//!
//! Each figure comes from a process of its own, whose heap holds nothing else. Bytes are counted twice: as they are asked of
//! the allocator ("allocator"), and as the system sees them ("rss", with what the allocator keeps for itself). The peak is the
//! most that was in use on the way there, per token that there is in the end.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::time::Instant;

use dashmap::DashMap;
use rescind::Store;
use xxhash_rust::xxh3::xxh3_128;

use crate::counting;
use crate::fill;
use crate::queries::{self, Space};
use crate::report::Report;
use crate::settings;

/// What a child process is to hold: `who/how/tokens`.
const CHILD: &str = "RIVALS_MEMORY_CHILD";
const DIRECTORY: &str = "RIVALS_MEMORY_DIRECTORY";

const CASES: [(&str, &str); 4] =
    [("rescind", "grown"), ("rescind", "opened"), ("DashMap<String,Instant>", "grown"), ("DashMap<u128,u64>", "grown")];

pub fn run(report: &mut Report) {
    if let Ok(case) = env::var(CHILD) {
        hold(&case);
        process::exit(0);
    }
    let mut sizes: Vec<_> = if env::var_os("RIVALS_SIZES").is_some() || fill::is_small() {
        vec![fill::largest_size()]
    } else {
        settings::sizes().into_iter().filter(|size| *size >= 1_000_000).collect()
    };
    sizes.dedup();
    for size in sizes {
        let directory = fill::directory();
        let path = directory.path().join("store");
        fill::make_store(&path, size, true);
        for (who, how) in CASES {
            let bytes = match measure_in_child(who, how, size, &path) {
                Ok(bytes) => bytes,
                Err(why) => {
                    report.skipped(&format!("memory_bytes_per_token/{size}/{who}/{how}"), &why);
                    continue;
                }
            };
            let per_token = |bytes: f64| bytes / size as f64;
            for (figure, bytes) in [("memory", bytes.held), ("memory_peak", bytes.peak)] {
                let name = format!("{figure}_bytes_per_token/{size}/{who}/{how}");
                report.figure(&format!("{name}/allocator"), per_token(bytes.allocator), "bytes");
                match bytes.rss {
                    Some(rss) => report.figure(&format!("{name}/rss"), per_token(rss), "bytes"),
                    None => report.skipped(&format!("{name}/rss"), "this system does not tell"),
                }
            }
        }
    }
}

/// Bytes more than at the start.
struct Bytes {
    held: Seen,
    peak: Seen,
}

struct Seen {
    allocator: f64,
    rss: Option<f64>,
}

fn measure_in_child(who: &str, how: &str, size: u64, store: &Path) -> Result<Bytes, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .env(CHILD, format!("{who}/{how}/{size}"))
        .env(DIRECTORY, store)
        .env("RIVALS_ONLY", "memory")
        .env_remove("RIVALS_RESULTS")
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("held "));
    let numbers: Vec<Option<f64>> = line.unwrap_or_default().split(' ').map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [Some(allocator), rss, Some(peak_allocator), peak_rss] => {
            Ok(Bytes { held: Seen { allocator, rss }, peak: Seen { allocator: peak_allocator, rss: peak_rss } })
        }
        _ => Err(format!("the child ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

/// In the child: fills, and prints what that took.
fn hold(case: &str) {
    let mut parts = case.split('/');
    let (who, how) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let tokens: u64 = parts.next().and_then(|tokens| tokens.parse().ok()).expect("a number of tokens");
    counting::start();
    let rss_before = resident("VmRSS:");
    let held: Box<dyn Held> = match (who, how) {
        ("rescind", "grown") => {
            let store = Store::in_memory();
            fill::fill(&store, 0..tokens);
            store.maintain();
            Box::new(store)
        }
        ("rescind", _) => {
            let path = env::var_os(DIRECTORY).expect("the store's directory");
            Box::new(fill::unattended().open(path).expect("the store that was made"))
        }
        ("DashMap<u128,u64>", _) => {
            let map = DashMap::<u128, u64>::new();
            let expires = fill::tomorrow();
            for n in 0..tokens {
                map.insert(xxh3_128(&queries::id(Space::Revoked, n)), expires);
            }
            Box::new(map)
        }
        _ => {
            let map = DashMap::<String, Instant>::new();
            let now = Instant::now();
            for n in 0..tokens {
                map.insert(queries::id_string(Space::Revoked, n), now);
            }
            Box::new(map)
        }
    };
    assert_eq!(held.tokens() as u64, tokens);
    let since = |now: Option<f64>| match (now, rss_before) {
        (Some(now), Some(before)) => (now - before).to_string(),
        _ => "unknown".to_owned(),
    };
    let (rss, peak_rss) = (since(resident("VmRSS:")), since(resident("VmHWM:")));
    println!("held {} {rss} {} {peak_rss}", counting::live_bytes(), counting::peak_bytes());
}

trait Held {
    fn tokens(&self) -> usize;
}

impl Held for Store {
    fn tokens(&self) -> usize {
        self.len()
    }
}

impl<K: Eq + std::hash::Hash, V> Held for DashMap<K, V> {
    fn tokens(&self) -> usize {
        self.len()
    }
}

/// A line of what Linux says about this process's memory, in bytes.
fn resident(line: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|found| found.strip_prefix(line))?.split_whitespace().next()?;
    Some(kibibytes.parse::<f64>().ok()? * 1024.0)
}
