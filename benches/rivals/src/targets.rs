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
        what: "p99.9 of a check under writers, us; longest stall, ms",
        bounds: &[("load/check_p99_9_us", AtMost(0.7)), ("load/stall_max_ms", AtMost(5.0))],
    },
    Target {
        what: "instructions of a check, not revoked, 1 / 2 / 4 subjects",
        bounds: &[
            ("load/instructions/negative_1", AtMost(100.0)),
            ("load/instructions/negative_2", AtMost(200.0)),
            ("load/instructions/negative_4", AtMost(400.0)),
        ],
    },
    Target {
        what: "bytes per revoked token, 10M",
        bounds: &[("memory/bytes_per_entry/10000000/rescind", AtMost(56.0))],
    },
    Target { what: "... then", bounds: &[("memory/bytes_per_entry/10000000/rescind", AtMost(36.0))] },
    Target {
        what: "durable revocation vs the same writes to a raw file, 1 caller / 64",
        bounds: &[("disk/revoke_1/raw", AtLeast(0.9)), ("disk/revoke_64/raw", AtLeast(0.8))],
    },
    Target {
        what: "opening 10M entries, million entries/s",
        bounds: &[("disk/open_million_per_s/10000000", AtLeast(10.0))],
    },
    Target { what: "... then", bounds: &[("disk/open_million_per_s/10000000", AtLeast(40.0))] },
    Target {
        what: "snapshot of 10M while serving, time over the raw write of its bytes",
        bounds: &[("disk/snapshot_over_raw/10000000", AtMost(2.0))],
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
    let header = ["figure", "target", "measured", "result"].map(str::to_owned);
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
    let bounds = target.bounds.iter().map(|(_, AtLeast(bound) | AtMost(bound))| bound.to_string());
    let values: Vec<_> = target.bounds.iter().map(|(name, bound)| (report.value(name), bound)).collect();
    let measured = values.iter().map(|(value, _)| value.map_or("-".to_owned(), |value| format!("{value:.2}")));
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
    [target.what.to_owned(), sign.to_owned() + &join(bounds.collect()), join(measured.collect()), result.to_owned()]
}
