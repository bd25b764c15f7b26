//! What we want to reach, beside what was measured.

use crate::report::Report;

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}
use Bound::{AtLeast, AtMost};

struct Target {
    what: &'static str,
    /// The figures or ratios that it is about, and what each has to be; all in the same direction.
    bounds: &'static [(&'static str, Bound)],
}

/// Ratios say how many times better we are.
const TARGETS: &[Target] = &[
    Target {
        what: "not revoked, 1 subject, vs DashMap<String,Instant>, 1k / 1M / 10M",
        bounds: &[
            ("negative_1/1000/DashMap<String,Instant>", AtLeast(4.0)),
            ("negative_1/1000000/DashMap<String,Instant>", AtLeast(8.0)),
            ("negative_1/10000000/DashMap<String,Instant>", AtLeast(4.5)),
        ],
    },
    Target {
        what: "... 2 subjects, 2 lookups",
        bounds: &[
            ("negative_2/1000/DashMap<String,Instant>", AtLeast(4.0)),
            ("negative_2/1000000/DashMap<String,Instant>", AtLeast(10.0)),
            ("negative_2/10000000/DashMap<String,Instant>", AtLeast(3.0)),
        ],
    },
    Target {
        what: "... 4 subjects, 4 lookups",
        bounds: &[
            ("negative_4/1000/DashMap<String,Instant>", AtLeast(4.0)),
            ("negative_4/1000000/DashMap<String,Instant>", AtLeast(9.0)),
            ("negative_4/10000000/DashMap<String,Instant>", AtLeast(2.8)),
        ],
    },
    Target {
        what: "not revoked, 1 subject, vs DashMap<u128,u64> on XXH3-128, 1k / 1M / 10M",
        bounds: &[
            ("negative_1/1000/DashMap<u128,u64>", AtLeast(1.25)),
            ("negative_1/1000000/DashMap<u128,u64>", AtLeast(2.0)),
            ("negative_1/10000000/DashMap<u128,u64>", AtLeast(1.6)),
        ],
    },
    Target {
        what: "verdict on 4 subjects, dated, vs one lookup in DashMap<String,Instant>, 1M",
        bounds: &[("verdict_4_vs_one_lookup/1000000/DashMap<String,Instant>", AtLeast(1.0))],
    },
    Target {
        what: "2 threads vs 1, 1k / 1M / 10M",
        bounds: &[
            ("threads_2/1000/rescind", AtLeast(1.8)),
            ("threads_2/1000000/rescind", AtLeast(1.8)),
            ("threads_2/10000000/rescind", AtLeast(1.8)),
        ],
    },
    Target {
        what: "check_many, 32 at a time, vs one lookup each in DashMap<String,Instant>, 1M / 10M",
        bounds: &[
            ("check_many_32/1000000/DashMap<String,Instant>", AtLeast(11.0)),
            ("check_many_32/10000000/DashMap<String,Instant>", AtLeast(14.0)),
        ],
    },
    Target {
        what: "revoked, vs DashMap<String,Instant>, 1k / 1M / 10M",
        bounds: &[
            ("positive_1/1000/DashMap<String,Instant>", AtLeast(1.5)),
            ("positive_1/1000000/DashMap<String,Instant>", AtLeast(1.5)),
            ("positive_1/10000000/DashMap<String,Instant>", AtLeast(1.5)),
        ],
    },
    Target {
        what: "p99.9 of a check, not revoked, ns: writer / sweep / snapshot / filter rebuild / growth",
        bounds: &[
            ("load_p99.9/writer/negative", AtMost(700.0)),
            ("load_p99.9/sweep/negative", AtMost(700.0)),
            ("load_p99.9/snapshot/negative", AtMost(700.0)),
            ("load_p99.9/filter_rebuild/negative", AtMost(700.0)),
            ("load_p99.9/growth/negative", AtMost(700.0)),
        ],
    },
    Target {
        what: "... one in 100 revoked",
        bounds: &[
            ("load_p99.9/writer/mixed", AtMost(700.0)),
            ("load_p99.9/sweep/mixed", AtMost(700.0)),
            ("load_p99.9/snapshot/mixed", AtMost(700.0)),
            ("load_p99.9/filter_rebuild/mixed", AtMost(700.0)),
            ("load_p99.9/growth/mixed", AtMost(700.0)),
        ],
    },
    Target {
        what: "... longest stall, ns",
        bounds: &[
            ("load_max/writer/mixed", AtMost(5e6)),
            ("load_max/sweep/mixed", AtMost(5e6)),
            ("load_max/snapshot/mixed", AtMost(5e6)),
            ("load_max/filter_rebuild/mixed", AtMost(5e6)),
            ("load_max/growth/mixed", AtMost(5e6)),
        ],
    },
    Target {
        what: "instructions of a check, not revoked, 1 / 2 / 4 subjects",
        bounds: &[
            ("instructions/negative_1", AtMost(100.0)),
            ("instructions/negative_2", AtMost(200.0)),
            ("instructions/negative_4", AtMost(400.0)),
        ],
    },
    Target {
        what: "bytes per revoked token at 10M, allocated / resident",
        bounds: &[
            ("memory_bytes_per_token/10000000/rescind/grown/allocator", AtMost(56.0)),
            ("memory_bytes_per_token/10000000/rescind/grown/rss", AtMost(56.0)),
        ],
    },
    Target {
        what: "... then",
        bounds: &[
            ("memory_bytes_per_token/10000000/rescind/grown/allocator", AtMost(36.0)),
            ("memory_bytes_per_token/10000000/rescind/grown/rss", AtMost(36.0)),
        ],
    },
    Target {
        what: "durable revocations vs the same writes to a raw file, 1 caller",
        bounds: &[("durable_revoke_1/-/raw_file", AtLeast(0.9))],
    },
    Target {
        what: "... 64 callers / batches of 64",
        bounds: &[
            ("durable_revoke_64_callers/-/raw_file", AtLeast(0.8)),
            ("durable_revoke_batch_64/-/raw_file", AtLeast(0.8)),
        ],
    },
    Target {
        what: "opening a store of 10M, entries per second",
        bounds: &[("open_entries_per_second/10000000", AtLeast(1e7))],
    },
    Target { what: "... then", bounds: &[("open_entries_per_second/10000000", AtLeast(4e7))] },
    Target {
        what: "snapshot of 10M while serving, time over the raw write of its bytes",
        bounds: &[("snapshot_time_over_raw_write/10000000", AtMost(2.0))],
    },
    Target {
        what: "not revoked, 1 subject, vs Redis EXISTS over a unix socket, 1k / 1M / 10M",
        bounds: &[
            ("negative_1/1000/Redis", AtLeast(1000.0)),
            ("negative_1/1000000/Redis", AtLeast(1000.0)),
            ("negative_1/10000000/Redis", AtLeast(1000.0)),
        ],
    },
];

/// A row per target.
pub fn print(report: &Report) {
    let rows: Vec<_> = TARGETS.iter().map(|target| row(report, target)).collect();
    let header = ["what", "target", "measured", "result"].map(str::to_owned);
    let widths: [usize; 4] = std::array::from_fn(|column| {
        rows.iter().chain([&header]).map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    println!();
    for [what, target, measured, result] in [&header].into_iter().chain(&rows) {
        let [what_width, target_width, measured_width, _] = widths;
        println!("{what:what_width$}  {target:target_width$}  {measured:measured_width$}  {result}");
    }
}

fn row(report: &Report, target: &Target) -> [String; 4] {
    let sign = match target.bounds {
        [(_, AtLeast(_)), ..] => ">= ",
        _ => "<= ",
    };
    let mut bounds: Vec<_> =
        target.bounds.iter().map(|(_, AtLeast(bound) | AtMost(bound))| bound.to_string()).collect();
    if bounds.iter().all(|bound| *bound == bounds[0]) {
        bounds.truncate(1);
    }
    let values: Vec<_> = target.bounds.iter().map(|(name, bound)| (report.value(name), bound)).collect();
    let measured = values.iter().map(|(value, _)| value.map_or("-".to_owned(), readable));
    let reached = values.iter().map(|(value, bound)| match bound {
        AtLeast(bound) => value.map(|value| value >= *bound),
        AtMost(bound) => value.map(|value| value <= *bound),
    });
    let reached: Vec<_> = reached.collect();
    let result = if reached.contains(&Some(false)) {
        "missed"
    } else if reached.iter().all(Option::is_none) {
        "not measured"
    } else if reached.contains(&None) {
        "reached, as far as measured"
    } else {
        "reached"
    };
    let join = |parts: Vec<String>| parts.join(" / ");
    [target.what.to_owned(), sign.to_owned() + &join(bounds), join(measured.collect()), result.to_owned()]
}

/// As many decimals as tell something.
fn readable(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}
