//! An example that runs.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A service, stopped when dropped.
pub(crate) struct Service {
    child: Child,
    /// Where it listens.
    pub(crate) url: String,
}

impl Service {
    pub(crate) fn start(example: &str) -> Self {
        let mut child = Command::new(examples().join(example)).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned)).unwrap();
        Self { child, url }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Where the examples are, which are built first: cargo does so only where it runs all tests.
fn examples() -> &'static PathBuf {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--offline", "--examples", "--target-dir"]).arg(profile.parent().unwrap());
        // What cargo says of this package to its tests is not what it says to the scripts that build others: some look at it,
        // and would be run again.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST"))
        {
            build.env_remove(name);
        }
        // With the features that this was built with, so that what they depend on is not built again.
        let is_all = cfg!(all(feature = "gossip", feature = "nats", feature = "redis"));
        build.args(if is_all { ["--all-features"].as_slice() } else { &["--features", "examples"] });
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        profile.join("examples")
    })
}
