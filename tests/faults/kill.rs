//! A real process is killed while it writes, again and again, and its parent remembers what it said.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rescind::{Options, Revocation, Store, Subject};

use crate::harness::{Harness, holds, lost, scaled};
use crate::workload::is_denied;

/// Tells a re-executed test binary to be the process that is killed, and where its store is.
const CHILD: &str = "RESCIND_FAULTS_CHILD";

fn open(path: &Path) -> Result<Store, rescind::OpenError> {
    Options::new().segment_bytes(4096).snapshot_after_bytes(8192).open(path)
}

/// Not a test of its own: the process that is killed. It revokes until then, and says what was acknowledged.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&path)).unwrap();
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
        match number % 40 {
            19 => _ = store.maintain(),
            39 => _ = store.snapshot().unwrap(),
            _ => {}
        }
    }
}

#[test]
fn a_killed_process_forgets_nothing_that_it_acknowledged() {
    let mut harness = Harness::new("kill");
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("revocations");
    let mut acknowledged: Vec<String> = Vec::new();
    let mut torn_tails = 0;
    for round in 0..scaled(25, 500) {
        harness.case(
            || format!("round {round}"),
            || {
                let mut child = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "kill::child", "--nocapture"])
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

                let store = match open(&path) {
                    Ok(store) => store,
                    Err(error) => return lost(error.to_string()),
                };
                torn_tails += u64::from(store.stats().recovery.torn_tail_bytes > 0);
                let forgotten = acknowledged.iter().find(|token| !is_denied(&store, token));
                holds(forgotten.is_none(), || format!("{forgotten:?} was acknowledged"))
            },
        );
    }
    harness.note("acknowledged", acknowledged.len() as u64);
    harness.note("torn_tails", torn_tails);
    harness.finish();
}
