//! rescind and its rivals in one process, on the same queries.
//!
//! | variable | meaning |
//! |---|---|
//! | `RIVALS_SIZES` | how many entries, a comma between; by default `1000,100000,1000000,10000000` |
//! | `RIVALS_ROUNDS` | how many rounds each ratio is the median of; by default 9 |
//! | `RIVALS_ONLY` | which parts run: of `speed`, `load`, `memory`, `disk`, `instructions`; by default all |
//! | `RIVALS_SCALE` | `small` runs `load`, `memory` and `disk` in seconds, to see that they work |
//! | `RIVALS_DIR` | on what disk files are measured; by default that of temporary files |
//! | `RIVALS_RESULTS` | a file that gets every line too |
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock itself")]

mod counting;
mod disk;
mod fill;
mod instructions;
mod load;
mod memory;
mod queries;
mod report;
mod rivals;
mod settings;
mod speed;
mod targets;

use report::Report;

type Part = (&'static str, fn(&mut Report));

const PARTS: [Part; 5] = [
    ("speed", speed::run),
    ("load", load::run),
    ("memory", memory::run),
    ("disk", disk::run),
    ("instructions", instructions::run),
];

fn main() {
    let only = settings::parts(&PARTS.map(|(name, _)| name));
    let mut report = Report::from_env();
    settings::describe(&mut report);
    for (name, run) in PARTS {
        if only.as_ref().is_none_or(|only| only.iter().any(|part| part == name)) {
            run(&mut report);
        }
    }
    targets::print(&report);
}
