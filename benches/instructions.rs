//! How many instructions does a check take? Counted by valgrind, and held to a limit: unlike a time, a count is the same
//! on a busy machine.
//!
//! Each case runs in two processes, one doing twice as many rounds as the other. The difference is that of the rounds
//! alone: what it takes to start, to fill the store and to warm up is in both.
//!
//! The counts depend on the compiler and on the processor's instruction set; the limits are for stable Rust on x86-64
//! Linux, and leave about 5% for that.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the counts are for whoever runs it")]

use std::hint::black_box;
use std::process::{Command, ExitCode};

use rescind::{Credential, Key, Options, Revocation, Store, Subject, Verdict};

/// Each case: its name, what runs, and how many instructions it may take.
const CASES: [(&str, Case, u64); 14] = [
    ("absent/1", Case::Check { subjects: 1, dated: false }, 196),
    ("absent/2", Case::Check { subjects: 2, dated: false }, 291),
    ("absent/4", Case::Check { subjects: 4, dated: false }, 483),
    ("absent/1/dated", Case::Check { subjects: 1, dated: true }, 278),
    ("absent/2/dated", Case::Check { subjects: 2, dated: true }, 373),
    ("absent/4/dated", Case::Check { subjects: 4, dated: true }, 565),
    ("scoped/4/dated", Case::Scoped, 818),
    ("present/1", Case::Present, 1_485),
    ("many/1", Case::CheckMany { subjects: 1, dated: false }, 271),
    ("many/4", Case::CheckMany { subjects: 4, dated: false }, 623),
    ("many/4/dated", Case::CheckMany { subjects: 4, dated: true }, 660),
    ("build/1", Case::Build { subjects: 1, dated: false }, 105),
    ("build/4", Case::Build { subjects: 4, dated: false }, 138),
    ("build/4/dated", Case::Build { subjects: 4, dated: true }, 145),
];

/// What is counted, per credential. The loop around it is in the count: about four instructions.
#[derive(Clone, Copy)]
enum Case {
    /// A prepared credential of which nothing is revoked.
    ///
    /// One with dates has the clock read, which is the system's, as in any store. Under valgrind that is a system call,
    /// of which only the way there is counted; otherwise the clock is read within the process, in some tens of
    /// instructions.
    Check { subjects: usize, dated: bool },
    /// As a dated [`Case::Check`] of four subjects, in a store where users were revoked each in a tenant: who serves many
    /// tenants has that.
    Scoped,
    /// A prepared credential whose token is revoked.
    Present,
    /// [`Case::Check`], 32 at a time.
    CheckMany { subjects: usize, dated: bool },
    /// Building the credential.
    Build { subjects: usize, dated: bool },
}

/// How many credentials a round goes through. Filters are wrong about some ids; an average over many has its share.
const CREDENTIALS: usize = 1024;
/// How many credentials are checked at a time by [`Case::CheckMany`].
const AT_A_TIME: usize = 32;
/// How many rounds the shorter of the two processes does.
const ROUNDS: usize = 8;
/// How many entries of each kind the store has: enough that no id is ruled out because nothing is revoked.
const ENTRIES: usize = 250;

/// The argument by which this program tells itself to run a case.
const RUN: &str = "--run-case";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == RUN) {
        let [_, name, rounds] = &arguments[..] else { return ExitCode::FAILURE };
        let (_, case, _) = CASES.iter().find(|(case, ..)| case == name).unwrap();
        case.run(rounds.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    // `cargo bench` says `--bench`. Without it, and with `--test`, every case runs once to see that it works.
    let is_test = arguments.iter().any(|argument| argument == "--test");
    if is_test || !arguments.iter().any(|argument| argument == "--bench") {
        CASES.iter().for_each(|(_, case, _)| case.run(1));
        println!("instructions: every case runs; nothing was counted");
        return ExitCode::SUCCESS;
    }
    let mut above = 0;
    for case in &CASES {
        match report(case) {
            Ok(is_within) => above += usize::from(!is_within),
            Err(error) => return fail(&error),
        }
    }
    if above == 0 { ExitCode::SUCCESS } else { fail(&format!("{above} of the counts above their limits")) }
}

fn fail(error: &str) -> ExitCode {
    eprintln!("instructions: {error}");
    ExitCode::FAILURE
}

/// Counts one case, and says whether it keeps within its limit.
fn report((name, _, limit): &(&str, Case, u64)) -> Result<bool, String> {
    let (once, twice) = (count(name, ROUNDS)?, count(name, 2 * ROUNDS)?);
    let more = twice.checked_sub(once).ok_or("twice the rounds took fewer instructions")?;
    let each = more.div_ceil((ROUNDS * CREDENTIALS) as u64);
    println!("instructions {name} {each} limit {limit}");
    Ok(each <= *limit)
}

/// The instructions of a process that does so many rounds of a case.
fn count(name: &str, rounds: usize) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args([RUN, name, &rounds.to_string()])
        .output()
        .map_err(|error| format!("cannot run valgrind, which counts: {error}. Install it (package `valgrind`)"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{name} under valgrind: {}\n{report}", output.status));
    }
    // The line reads `==123== I   refs:      1,234,567`.
    let line = report.lines().find_map(|line| line.split_once("refs:").filter(|(before, _)| before.contains(" I ")));
    let digits: String = line.iter().flat_map(|(_, count)| count.chars()).filter(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| format!("valgrind gave no count for {name}:\n{report}"))
}

impl Case {
    fn run(self, rounds: usize) {
        let store = store();
        match self {
            Self::Check { subjects, dated } => {
                let ids = ids("absent");
                let credentials: Vec<_> = ids.iter().map(|ids| ids.credential(subjects, dated)).collect();
                assert_eq!(check(&store, &credentials, rounds), rounds * CREDENTIALS);
            }
            Self::Scoped => {
                for n in 0..ENTRIES {
                    let Ids { user, tenant, .. } = Ids::new("present", n);
                    store.revoke(Revocation::of(Subject::user(user).in_tenant(tenant))).unwrap();
                }
                let ids = ids("absent");
                let credentials: Vec<_> = ids.iter().map(|ids| ids.credential(4, true)).collect();
                assert_eq!(check(&store, &credentials, rounds), rounds * CREDENTIALS);
            }
            Self::Present => {
                let ids = ids("present");
                let credentials: Vec<_> = ids.iter().map(|ids| ids.credential(1, false)).collect();
                assert_eq!(check(&store, &credentials, rounds), 0);
            }
            Self::CheckMany { subjects, dated } => {
                let ids = ids("absent");
                let credentials: Vec<_> = ids.iter().map(|ids| ids.credential(subjects, dated)).collect();
                assert_eq!(check_many(&store, &credentials, rounds), rounds * CREDENTIALS);
            }
            Self::Build { subjects, dated } => build(&ids("absent"), subjects, dated, rounds),
        }
    }
}

/// How many verdicts were [`Verdict::Clear`].
#[inline(never)]
fn check(store: &Store, credentials: &[Credential<'_>], rounds: usize) -> usize {
    let mut clear = 0;
    for _ in 0..rounds {
        for credential in credentials {
            if matches!(store.check(black_box(credential)), Verdict::Clear) {
                clear += 1;
            }
        }
    }
    clear
}

/// How many verdicts were [`Verdict::Clear`].
#[inline(never)]
fn check_many(store: &Store, credentials: &[Credential<'_>], rounds: usize) -> usize {
    let mut clear = 0;
    let mut verdicts = Vec::with_capacity(AT_A_TIME);
    for _ in 0..rounds {
        for credentials in credentials.chunks(AT_A_TIME) {
            store.check_many(black_box(credentials), &mut verdicts);
            clear += verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Clear)).count();
        }
    }
    clear
}

#[inline(never)]
fn build(ids: &[Ids], subjects: usize, dated: bool, rounds: usize) {
    // As in a service, the compiler knows which claims there are.
    for _ in 0..rounds {
        for ids in ids {
            match (subjects, dated) {
                (1, false) => drop(black_box(black_box(ids).credential(1, false))),
                (4, false) => drop(black_box(black_box(ids).credential(4, false))),
                _ => drop(black_box(black_box(ids).credential(4, true))),
            }
        }
    }
}

/// Ids of 36 characters, as UUIDs are, for the subjects that a credential names.
struct Ids {
    token: String,
    session: String,
    user: String,
    tenant: String,
}

fn ids(space: &str) -> Vec<Ids> {
    (0..CREDENTIALS).map(|n| Ids::new(space, if space == "present" { n % ENTRIES } else { n })).collect()
}

impl Ids {
    fn new(space: &str, n: usize) -> Self {
        let id = |kind: &str| format!("{kind:-<8}{space:-<8}{n:0>20}");
        Self { token: id("token"), session: id("session"), user: id("user"), tenant: id("tenant") }
    }

    /// A credential that names one, two or four subjects.
    #[inline(always)]
    fn credential(&self, subjects: usize, dated: bool) -> Credential<'_> {
        let mut credential = Credential::new().token(&self.token);
        if subjects >= 2 {
            credential = credential.session(&self.session);
        }
        if subjects >= 4 {
            credential = credential.user(&self.user).tenant(&self.tenant);
        }
        if dated {
            // Issued in the past, and not expired before the end of the century.
            credential = credential
                .issued_at_secs(1_700_000_900_u64)
                .auth_time_secs(1_700_000_000_u64)
                .expires_at_secs(4_000_000_000_u64);
        }
        credential
    }
}

/// A store with entries of each kind. Its key is fixed, so that its filter is the same each time, and it has no thread.
fn store() -> Store {
    let options = Options::new().key(Key::from_bytes([7; 32])).background(false);
    let store = options.open_in_memory().unwrap();
    for n in 0..ENTRIES {
        let Ids { token, session, user, tenant } = Ids::new("present", n);
        for subject in [Subject::token(token), Subject::session(session), Subject::user(user), Subject::tenant(tenant)]
        {
            store.revoke(Revocation::of(subject)).unwrap();
        }
    }
    store.maintain();
    store
}
