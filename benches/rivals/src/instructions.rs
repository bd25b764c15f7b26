//! How many instructions a check takes: counted by the bench of the main package that also guards them.

use std::path::Path;
use std::process::Command;

use crate::report::Report;

pub fn run(report: &mut Report) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let arguments = ["bench", "--locked", "--bench", "instructions", "--manifest-path"];
    let output = match Command::new("cargo").args(arguments).arg(manifest).output() {
        Ok(output) => output,
        Err(error) => return report.skipped("instructions", &format!("cannot run cargo: {error}")),
    };
    // Also above a limit, the counts are there to be read.
    let mut counts = 0;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some(line) = line.strip_prefix("instructions ") else { continue };
        if let [name, count, "limit", _] = line.split(' ').collect::<Vec<_>>()[..]
            && let Ok(count) = count.parse()
        {
            report.figure(&format!("instructions/{}", name.replace("absent/", "negative_")), count, "instructions");
            counts += 1;
        }
    }
    if counts == 0 {
        let error = String::from_utf8_lossy(&output.stderr);
        report.skipped("instructions", error.lines().last().unwrap_or("it printed nothing"));
    }
}
