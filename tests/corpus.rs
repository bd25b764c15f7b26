//! Replays the corpus of the fuzz targets: what fuzzing found once stays found, on the stable toolchain too.
//!
//! `cargo test --test corpus -- --ignored` writes the seeds anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed test panics, and a harness says what it tried"
)]

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/bodies.rs"]
#[expect(unreachable_pub, reason = "it is public in the crate of the fuzz targets")]
mod bodies;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn replay(target: &str, body: fn(&[u8])) {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has seeds");
    for file in &files {
        // Printed only if it fails.
        println!("{}", file.display());
        body(&fs::read(file).unwrap());
    }
    println!("harness corpus target={target} files={}", files.len());
}

#[test]
fn log_open() {
    replay("log_open", bodies::log_open);
}

#[test]
fn snapshot_open() {
    replay("snapshot_open", bodies::snapshot_open);
}

#[test]
fn record_decode() {
    replay("record_decode", bodies::record_decode);
}

#[test]
fn message() {
    replay("message", bodies::message);
}

#[test]
fn operations() {
    replay("operations", bodies::operations);
}

/// The operations that any store goes through, without a corpus: a sample of random sequences.
#[test]
fn random_operations() {
    let sequences = if std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full") { 10_000 } else { 100 };
    for seed in 1..=sequences {
        let bytes = random(seed, 160);
        let result = std::panic::catch_unwind(|| bodies::operations(&bytes));
        assert!(result.is_ok(), "seed {seed}: {bytes:?}");
    }
    println!("harness operations sequences={sequences} of=80");
}

/// SplitMix64.
fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[test]
#[ignore = "writes the seeds of the corpus"]
fn write_seeds() {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), bytes).unwrap();
    };
    for seed in 1..=6 {
        write("operations", &format!("random-{seed}"), &random(seed, 120));
    }
    // A sync that fails, a kill, a write, a power cut; a rotation that fails at each operation, and a small write.
    write("operations", "failed-sync", &[0, 1, 15, 1, 0, 2, 12, 0, 0, 3, 13, 0]);
    for operation in 0..16 {
        let mut bytes = [0, 1].repeat(30);
        bytes.extend([15, operation, 8, 39, 0, 2, 12, 0, 0, 3, 13, 255]);
        write("operations", &format!("failed-rotation-{operation}"), &bytes);
    }
    for mode in 0..4 {
        for (target, image) in [("log_open", bodies::log_seed()), ("snapshot_open", bodies::snapshot_seed())] {
            let mut bytes = vec![mode];
            match mode {
                // One edit of each sort: what, where (two bytes), how much.
                0 => (0..8).for_each(|what| write(target, &format!("edit-{what}"), &[0, what | 0x10, 0xc8, 1, 40])),
                1 => bytes.extend(image.file),
                2 => {
                    // A snapshot is told how many records it has: the limits; or, in another seed, rows.
                    bytes.extend((target == "snapshot_open").then_some(1));
                    bytes.extend(image.records);
                    if !image.rows.is_empty() {
                        let rows = u8::try_from((image.rows.len() - 4) / 42).unwrap();
                        write(target, "rows", &[&[mode, 128 + rows], image.rows.as_slice()].concat());
                    }
                }
                // Sound files first, then all numbers one too high, and the ends of what 64 bits hold.
                _ => [0_u8, 1, 2, 4, 5, 6].into_iter().for_each(|number| {
                    let file = [number, 0, 1, 0, 0, 0, 5, 0, number, 0, 3, 0, 0, 0];
                    write(target, &format!("forged-{number}"), &[&[3], &file[..], &[1], &file[..], &file[..]].concat());
                }),
            }
            if mode == 1 || mode == 2 {
                write(target, &format!("whole-{mode}"), &bytes);
            }
        }
    }
    let records = bodies::log_seed().records;
    // Of a record: what it is, a digest, a locator. It is not the locator of the digest.
    let mut foreign = [&[2], &records[..]].concat();
    assert_eq!((foreign[1], foreign[18]), (0, 0xfd), "an entry, and a locator of eight bytes");
    foreign[20] ^= 0x55;
    write("log_open", "a-digest-under-a-foreign-locator", &foreign);
    write("record_decode", "token", &records);
    write("record_decode", "tokens", &records.repeat(3));
    write("record_decode", "snapshot", &bodies::snapshot_seed().records);
    let rows = bodies::snapshot_seed().rows;
    write("record_decode", "rows", &rows);
    write("record_decode", "rows-cut", &rows[..rows.len() - 1]);
    // Payloads of messages: those that are frozen, each with its length before it.
    let vectors = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/messages.txt")).unwrap();
    let mut all = Vec::new();
    for line in vectors.lines() {
        let (name, hex) = line.split_once(' ').unwrap();
        let bytes = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap());
        let payload: Vec<u8> = bytes.skip(48).collect();
        let mut part = u16::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
        part.extend(payload);
        write("message", name, &part);
        all.append(&mut part);
    }
    write("message", "all", &all);
    write("record_decode", "cut", &records[..records.len() - 1]);
}
