//! Bytes per entry.

pub fn run(_report: &mut crate::report::Report) {}
