//! What was measured: lines for programs, and a table for people at the end.

/// Collects what the benchmarks find, and prints each finding at once.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<String>,
}

impl Report {
    /// `ratio <name> <median> [<min>..<max>]`: how many times better we are, one value a round.
    pub fn ratio(&mut self, name: &str, rounds: &[f64]) {
        let mut rounds = rounds.to_vec();
        let median = median(&mut rounds);
        let (min, max) = (rounds.first().copied().unwrap_or(f64::NAN), rounds.last().copied().unwrap_or(f64::NAN));
        self.line(format!("ratio {name} {median:.2} [{min:.2}..{max:.2}]"));
    }

    /// `figure <name> <value> <unit>`.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        self.line(format!("figure {name} {value:.2} {unit}"));
    }

    /// What could not be measured, and why.
    pub fn skipped(&mut self, name: &str, why: &str) {
        self.line(format!("skipped {name}: {why}"));
    }

    fn line(&mut self, line: String) {
        println!("{line}");
        self.lines.push(line);
    }

    /// Every line so far.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// The median; sorts the values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
