//! The layers of the crate: what may import what, and which crates it rests on.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each module of `ls src`, and the modules that it may import. Data flows one way: upwards in this list.
const LAYERS: [(&str, &[&str]); 11] = [
    ("model", &[]),
    ("clock", &["model"]),
    ("codec", &["model"]),
    ("sync", &[]),
    ("denylist", &["model", "sync"]),
    ("storage", &[]),
    // The journal stamps its frames with clock readings.
    ("journal", &["model", "clock", "codec", "storage", "sync"]),
    ("replication", &["model", "codec"]),
    // The sinks open their files with the same care as the store opens its own.
    ("audit", &["model", "storage"]),
    ("store", &["model", "clock", "codec", "denylist", "storage", "journal", "replication", "audit", "sync"]),
    // Prose only.
    ("manual", &[]),
];

/// What stands at the edge: behind features, and on what anybody outside could use.
const EDGES: [&str; 4] = ["bin", "service", "telemetry", "wire"];

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files(&path)).filter(|path| path.extension().is_some_and(|ext| ext == "rs")).collect()
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The top-level modules that code names with `crate::`, in imports of any nesting and in paths.
fn imported(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let names = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (start, _) in code.match_indices("crate::") {
        if code[..start].ends_with(['$', '_']) || code[..start].ends_with(char::is_alphanumeric) {
            continue;
        }
        let rest = &code[start + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => _ = found.insert(names(rest)),
            Some(group) => {
                let end = group.find('}').unwrap();
                found.extend(group[..end].split(',').map(|name| names(name.trim())).filter(|name| !name.is_empty()));
            }
        }
    }
    found
}

#[test]
fn imports_point_one_way() {
    for (module, allowed) in LAYERS {
        let folder = sources().join(module);
        let path = if folder.is_dir() { folder } else { sources().join(format!("{module}.rs")) };
        for file in files(&path) {
            for name in imported(&fs::read_to_string(&file).unwrap()) {
                assert!(
                    name == module || allowed.contains(&name.as_str()),
                    "{} imports crate::{name}, which {module} may not",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn edges_use_what_is_public() {
    for edge in EDGES {
        for file in files(&sources().join(edge)) {
            for name in imported(&fs::read_to_string(&file).unwrap()) {
                let is_inside =
                    LAYERS.iter().any(|(module, _)| *module == name && name != "audit" && name != "storage");
                assert!(!is_inside, "{} imports crate::{name}, which is not public", file.display());
            }
        }
    }
}

#[test]
fn every_module_has_its_place() {
    let layers = LAYERS.iter().map(|(module, _)| *module);
    let expected: BTreeSet<_> = layers.chain(EDGES).chain(["lib"]).map(str::to_owned).collect();
    let found: BTreeSet<_> = fs::read_dir(sources())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_reader_of_imports_sees_all_forms() {
    let text = "use crate::model::Subject;\nuse crate::{codec, journal::Frame};\nlet x = crate::store::X; // crate::no\n//! crate::no";
    let expected: BTreeSet<_> = ["model", "codec", "journal", "store", "no"].map(String::from).into();
    assert_eq!(imported(text), expected, "a comment behind code counts, a comment line does not");
}

#[test]
fn bincode_is_confined_to_the_codec_and_time_to_the_clock() {
    for file in files(&sources()) {
        let text = fs::read_to_string(&file).unwrap();
        let code = || text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let is = |name: &str| file.ends_with(name);
        assert!(is("codec.rs") || !code().any(|line| line.contains("bincode")), "{}", file.display());
        let reads_time = code().any(|line| line.contains("clock_gettime") || line.contains("::now()"));
        // Networks have timeouts: engines ask the clock of their runtime.
        let is_edge = EDGES.iter().any(|edge| file.starts_with(sources().join(edge)));
        assert!(is("clock.rs") || is_edge || !reads_time, "{}", file.display());
    }
}

/// The crates that a user links with default features, each with the reason that `Cargo.toml` gives.
#[test]
fn every_direct_dependency_says_why_it_is_there() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let lines: Vec<_> = section.lines().filter(|line| !line.is_empty()).collect();
    for pair in lines.windows(2) {
        assert!(pair[1].starts_with('#') || pair[0].starts_with('#'), "{} has no reason", pair[1]);
    }
}

/// What comes with the crate without features, on Linux: whatever features bring, it stays this.
const DEFAULT_TREE: [&str; 39] = [
    "arrayvec",
    "bincode",
    "bitflags",
    "blake3",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    "crossbeam-channel",
    "crossbeam-utils",
    "dashmap",
    "errno",
    "getrandom",
    "hashbrown",
    "humantime",
    "itoa",
    "libc",
    "linux-raw-sys",
    "lock_api",
    "memchr",
    "once_cell",
    "parking_lot",
    "parking_lot_core",
    "proc-macro2",
    "quote",
    "rustix",
    "scopeguard",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "smallvec",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
    "unty",
    "xxhash-rust",
    "zeroize",
    "zmij",
];

#[test]
fn features_bring_nothing_to_those_who_do_not_ask_for_them() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges", "normal", "--locked", "--offline", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let found: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    let expected: BTreeSet<&str> = DEFAULT_TREE.into_iter().chain(["rescind"]).collect();
    assert_eq!(found, expected);
}
