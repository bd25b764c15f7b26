//! The guide says what the program does: its transcripts are run, and what they show is compared.

use std::fs;
use std::process::Command;

use rescind::{Options, Reason, Revocation, Store, Subject};

use super::clocks::{Shifted, YEAR};
use super::rescind;

const GUIDE: &str = include_str!("../../src/manual/command_line.md");

/// The text, with one letter for each number, and for whatever is a digest or a hash.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let (end, is_end) = word.chars().last().map_or((' ', false), |c| (c, !c.is_ascii_alphanumeric()));
        let body = if is_end { &word[..word.len() - end.len_utf8()] } else { word };
        let is_hash = body.len() >= 32 && body.bytes().all(|byte| byte.is_ascii_hexdigit());
        for c in if is_hash { "H" } else { body }.chars() {
            match c {
                '0'..='9' if masked.ends_with('N') => {}
                '0'..='9' => masked.push('N'),
                c => masked.push(c),
            }
        }
        if is_end {
            masked.push(end);
        }
    }
    masked
}

/// The commands of the guide, each with what it shows.
fn transcripts() -> Vec<(String, String)> {
    let blocks = GUIDE.split("```text\n").skip(1).map(|block| block.split("```").next().unwrap());
    let commands = blocks.flat_map(|block| block.split("$ ").skip(1));
    commands
        .map(|shown| {
            let (command, output) = shown.split_once('\n').unwrap();
            (command.to_owned(), output.trim_end().to_owned())
        })
        .collect()
}

#[test]
fn the_transcripts_of_the_guide_are_what_it_prints() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("revocations");
    let clock = Shifted::default();
    let options = Options::new().clock(clock.clone()).retain_labels(true).segment_bytes(64 * 1024).background(false);
    let store = options.open(&directory).unwrap();
    for number in 0..301 {
        store.revoke(Revocation::of(Subject::token(format!("token-{number}")))).unwrap();
    }
    store.disable(Subject::client("billing")).unwrap();
    store.revoke(Revocation::of(Subject::user("bob").in_tenant("acme")).because(Reason::Offboarding)).unwrap();
    // As it does by itself, once a second.
    store.maintain();
    // Its clock is set back for a while, and then ahead.
    for (shift, user) in [(-600, "carol"), (YEAR, "dave")] {
        clock.shift(shift);
        store.revoke(Revocation::of(Subject::user(user).in_tenant("acme")).because(Reason::Offboarding)).unwrap();
    }
    clock.shift(0);
    let mut service: Option<Store> = Some(store);
    let (mut compared, mut is_damaged) = (0, false);
    for (command, shown) in transcripts() {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[0] {
            "kill" => service.take().unwrap().close().unwrap(),
            "rescind" => {
                if words[1] == "verify" && !is_damaged {
                    is_damaged = true;
                    let log = directory.join("wal-0000000000000001.log");
                    let mut bytes = fs::read(&log).unwrap();
                    bytes[220] ^= 1;
                    fs::write(&log, bytes).unwrap();
                }
                let ran = Command::new(env!("CARGO_BIN_EXE_rescind"))
                    .args(&words[1..])
                    .current_dir(parent.path())
                    .env("USER", "tester")
                    .env_remove("SUDO_USER")
                    .output()
                    .unwrap();
                let printed = String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap();
                assert_eq!(masked(printed.trim_end()), masked(&shown), "$ {command}\n{printed}");
                compared += 1;
            }
            other => panic!("the guide runs {other}"),
        }
    }
    assert!(compared >= 6 && is_damaged && service.is_none());
}

#[test]
fn the_guide_names_every_command_and_exit_code() {
    let help = rescind(["--help"]).out;
    let rows = |text: &str, start: &str, end: &str| {
        let section = text.split(start).nth(1).unwrap().split(end).next().unwrap();
        section.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let commands = rows(&help, "Commands:\n", "\n\n");
    let names = commands.iter().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> = names.map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(names.len() >= 15, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        assert!(
            GUIDE.contains(&format!("`{name}`")) || GUIDE.contains(&format!("`{name} ")),
            "{name} is not in the guide"
        );
    }
    let codes = rows(&help, "Exit codes:\n", "\n\n");
    assert_eq!(codes.len(), 6, "{codes:?}");
    for line in codes {
        let (code, means) = line.trim().split_once("  ").unwrap();
        assert!(GUIDE.contains(&format!("| {code} | {means} |")), "{line} is not in the guide");
    }
}
