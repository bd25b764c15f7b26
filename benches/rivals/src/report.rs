//! What was measured: lines for programs, and a table for people at the end.

use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::io::Write;

/// Collects what the benchmarks find, and prints each finding at once.
#[derive(Debug, Default)]
pub struct Report {
    values: HashMap<String, f64>,
    results: Option<File>,
}

impl Report {
    /// A report that also writes to the file named by `RIVALS_RESULTS`.
    pub fn from_env() -> Self {
        let results = env::var_os("RIVALS_RESULTS").map(|path| {
            File::create(&path).unwrap_or_else(|error| panic!("RIVALS_RESULTS: {}: {error}", path.display()))
        });
        Self { results, ..Self::default() }
    }

    /// `ratio <name> <median> [<min>..<max>]`: how many times better we are, one value a round.
    pub fn ratio(&mut self, name: &str, rounds: &[f64]) {
        let mut rounds = rounds.to_vec();
        let median = median(&mut rounds);
        let (min, max) = (rounds.first().copied().unwrap_or(f64::NAN), rounds.last().copied().unwrap_or(f64::NAN));
        self.values.insert(name.to_owned(), median);
        self.line(&format!("ratio {name} {median:.2} [{min:.2}..{max:.2}]"));
    }

    /// `figure <name> <value> <unit>`.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        self.values.insert(name.to_owned(), value);
        self.line(&format!("figure {name} {value:.2} {unit}"));
    }

    /// What could not be measured, and why.
    pub fn skipped(&mut self, name: &str, why: &str) {
        self.line(&format!("skipped {name}: {why}"));
    }

    /// What a reader of the figures has to know.
    pub fn note(&mut self, name: &str, text: &str) {
        self.line(&format!("note {name}: {text}"));
    }

    /// A figure, or the median of a ratio, if it was measured.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    fn line(&mut self, line: &str) {
        println!("{line}");
        if let Some(results) = &mut self.results {
            writeln!(results, "{line}").expect("RIVALS_RESULTS can be written");
        }
    }
}

/// The median; sorts the values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
