//! The quickstart is a promise to newcomers: it runs, every verdict is as expected, and the crash is survived.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test panics")]

use std::env;
use std::process::{Command, Output};

/// Runs the example. Cargo builds it whenever it runs all tests, beside the folder that this test runs from.
fn quickstart() -> Output {
    let test = env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).expect("a test runs from target/<profile>/deps");
    let program = profile.join("examples").join("quickstart").with_extension(env::consts::EXE_EXTENSION);
    assert!(program.exists(), "not built: run all tests, or first `cargo build --example quickstart`");
    Command::new(program).output().unwrap()
}

#[test]
fn it_succeeds_and_ends_with_the_survived_crash() {
    let output = quickstart();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    assert_eq!(text.lines().last(), Some("still revoked after kill -9"), "{text}");
    assert_eq!(errors, "");
}

#[test]
fn its_table_fits_a_page() {
    let output = quickstart();
    let text = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<_> = text.lines().filter(|line| line.contains('│')).collect();
    let width = |line: &str| line.chars().count();
    for row in &rows {
        assert_eq!(width(row), width(rows.first().unwrap()), "out of line: {row}");
        assert!(width(row) < 120, "{} wide: {row}", width(row));
    }
    assert!(rows.iter().any(|row| row.contains("  clear")) && rows.iter().any(|row| row.contains("✗ revoked")));
}
