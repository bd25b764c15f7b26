//! The store on real files: who may open it, what it leaves behind, and a process that is killed while it writes.
//!
//! `RESCIND_SCALE=full` kills five hundred processes instead of twenty.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed test panics, a harness says what it tried, and the child acknowledges on its standard output"
)]

use std::path::Path;

use rescind::storage::DirectoryError;
use rescind::{Credential, OpenError, Options, Revocation, Store, Subject, Verdict};

fn options() -> Options {
    Options::new().segment_bytes(4096).snapshot_after_bytes(8192)
}

fn is_denied(store: &Store, token: &str) -> bool {
    matches!(store.check(&Credential::new().token(token)), Verdict::Revoked(_))
}

fn directory_error(path: &Path) -> DirectoryError {
    match options().open(path) {
        Err(OpenError::Directory(error)) => error,
        Err(error) => panic!("not an error of the directory: {error}"),
        Ok(_) => panic!("opened {}", path.display()),
    }
}

#[test]
fn a_store_in_use_names_its_holder_and_is_free_once_closed() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("revocations");
    let store = options().open(&path).unwrap();
    store.revoke(Revocation::of(Subject::token("a"))).unwrap();
    match directory_error(&path) {
        DirectoryError::InUse { pid, .. } => assert_eq!(pid, Some(std::process::id())),
        error => panic!("{error}"),
    }
    assert!(directory_error(&path).to_string().contains(&std::process::id().to_string()));
    store.close().unwrap();
    let again = options().open(&path).unwrap();
    assert!(is_denied(&again, "a"));
    drop((store, again));
    assert!(is_denied(&options().open(&path).unwrap(), "a"), "dropping it frees it, too");
}

#[cfg(unix)]
mod unix {
    use std::collections::HashSet;
    use std::fs::{self, Permissions};
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Stdio};

    use super::*;

    /// Tells a re-executed test binary to be the process that is killed, and where its store is.
    const CHILD: &str = "RESCIND_DISK_CHILD";

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn directories_that_others_control_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("revocations");
        drop(options().open(&path).unwrap());
        let link = parent.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(directory_error(&link), DirectoryError::Symlink { .. }));
        assert!(matches!(directory_error(&link.join("")), DirectoryError::Symlink { .. }));
        for writable in [0o770, 0o702] {
            fs::set_permissions(&path, Permissions::from_mode(writable)).unwrap();
            match directory_error(&path) {
                DirectoryError::WritableByOthers { mode, .. } => assert_eq!(mode, writable),
                error => panic!("{error}"),
            }
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        drop(options().open(&path).unwrap());
    }

    #[test]
    fn only_the_owner_can_read_what_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b/revocations");
        let store = options().open(&path).unwrap();
        store.revoke(Revocation::of(Subject::token("a"))).unwrap();
        store.snapshot().unwrap();
        assert_eq!(mode(&path), 0o700);
        let names: HashSet<String> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.contains("KEY") && names.contains("STORE") && names.contains("LOCK") && names.len() == 5);
        for name in names {
            assert_eq!(mode(&path.join(&name)), 0o600, "{name}");
        }
    }

    #[test]
    fn files_that_are_links_are_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("revocations");
        drop(options().open(&path).unwrap());
        for name in ["KEY", "STORE", "wal-0000000000000001.log"] {
            let elsewhere = parent.path().join(name);
            fs::rename(path.join(name), &elsewhere).unwrap();
            symlink(&elsewhere, path.join(name)).unwrap();
            assert!(matches!(options().open(&path), Err(OpenError::Recovery(_))), "{name}");
            fs::rename(&elsewhere, path.join(name)).unwrap();
        }
        drop(options().open(&path).unwrap());
    }

    /// Not a test of its own: the process that is killed. It revokes until then, and says what was acknowledged.
    #[test]
    fn child() {
        let Some(path) = std::env::var_os(CHILD) else { return };
        let store = options().open(path).unwrap();
        // The harness of the tests holds back what is printed by its macros.
        let mut out = std::io::stdout();
        for number in 0.. {
            let first = format!("{}-{number}", std::process::id());
            if number % 5 == 0 {
                let batch = ["x", "y", "z"].map(|member| Revocation::of(Subject::token(format!("{first}{member}"))));
                store.revoke_many(batch).unwrap();
                writeln!(out, "batch {first}").unwrap();
            } else {
                store.revoke(Revocation::of(Subject::token(&*first))).unwrap();
                writeln!(out, "token {first}").unwrap();
            }
            if number % 40 == 39 {
                store.snapshot().unwrap();
            }
        }
    }

    #[test]
    fn a_killed_process_forgets_nothing_that_it_acknowledged() {
        let loops: u64 = if std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full") { 500 } else { 20 };
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("revocations");
        let mut acknowledged: Vec<String> = Vec::new();
        let mut torn_tails = 0;
        for round in 0..loops {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "unix::child", "--nocapture"])
                .env(CHILD, &path)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // After how many acknowledgements it is killed: from in the midst of opening on.
            let limit = round * 37 % 120;
            let mut told = 0;
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut note = |line: String| {
                if let Some(token) = line.strip_prefix("token ") {
                    acknowledged.push(token.to_owned());
                } else if let Some(batch) = line.strip_prefix("batch ") {
                    acknowledged.extend(["x", "y", "z"].map(|member| format!("{batch}{member}")));
                } else {
                    return 0;
                }
                1
            };
            while told < limit {
                told += note(lines.next().expect("the child goes on until it is killed").unwrap());
            }
            child.kill().unwrap();
            child.wait().unwrap();
            // What it had said before it died; the last line may lack its end.
            let mut rest: Vec<String> = lines.map_while(Result::ok).collect();
            rest.pop();
            for line in rest {
                note(line);
            }

            let store = options().open(&path).unwrap();
            torn_tails += u64::from(store.stats().recovery.torn_tail_bytes > 0);
            for token in &acknowledged {
                assert!(is_denied(&store, token), "round {round}: {token} was acknowledged, and is forgotten");
            }
        }
        let acknowledged = acknowledged.len();
        println!("harness kill loops={loops} acknowledged={acknowledged} torn_tails={torn_tails} lost=0");
    }
}
