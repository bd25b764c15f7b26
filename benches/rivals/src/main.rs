//! rescind and its rivals in one process, on the same queries.

mod report;

fn main() {
    let report = report::Report::default();
    assert!(report.lines().is_empty());
}
