//! What can be asked, and how.

use std::io::{BufRead, IsTerminal, StdinLock, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use rescind::audit::AuditHead;
use rescind::{Key, Kind, NumericDate, Reason, Subject, Timestamp};

use crate::output::Failure;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; or the answer is yes: sound, known, changed, all saved
  1  the answer is no: damaged, unknown, nothing changed, something lost
  2  the command line makes no sense
  3  a process holds the directory: ask that, or stop it
  4  it cannot be opened, read or made; nothing has changed unless it says so
  5  it is not on disk: the disk failed, try again once it works";

/// Looks at and changes stores of revocations.
///
/// Commands that only look (inspect, list, explain) also work while a process holds the store, and see what that has acknowledged. Commands that
/// write (revoke, disable, enable, lift, restate, settle, set-max-age, clear-max-age, snapshot) and those that read every byte (verify, salvage) need a store that nobody holds.
#[derive(Debug, Parser)]
#[command(name = "rescind", version, after_help = EXIT_CODES, max_term_width = 120)]
pub(crate) struct Arguments {
    /// Answer in JSON: one object on standard output; errors as one object on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// A file with the store's key, where that was configured and does not lie in the store: 32 bytes, or 64 hexadecimal digits
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    pub(crate) fn key(&self) -> Result<Option<Key>, Failure> {
        let Some(path) = &self.key_file else { return Ok(None) };
        let cannot = |what: String| Failure::Cannot(format!("cannot read the key in {}: {what}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
        let key = <[u8; 32]>::try_from(&*bytes).ok().or_else(|| from_hex(std::str::from_utf8(&bytes).ok()?.trim()));
        let key = key.ok_or_else(|| cannot("it is neither 32 bytes nor 64 hexadecimal digits".to_owned()))?;
        Ok(Some(Key::from_bytes(key)))
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(key)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a store holds: its files, its entries by kind, its key's id, who holds it, its limits, and what waits for its time
    Inspect {
        /// The store's directory
        directory: PathBuf,
    },
    /// Read every byte of a store, and say what is damaged. Nothing is changed, not even a torn tail
    Verify {
        /// The store's directory
        directory: PathBuf,
    },
    /// Make a new store of everything that can be read in a damaged one, which is not changed
    Salvage {
        /// The damaged store's directory
        from: PathBuf,
        /// The new store's directory: empty, or not there
        into: PathBuf,
    },
    /// List the users, clients, devices, groups and tenants of which something is known. Names are shown where the store retains them
    List {
        /// The store's directory
        directory: PathBuf,
        /// Only those of one kind
        #[arg(long)]
        kind: Option<KindArgument>,
        /// Only those of which anything holds: nothing that was undone
        #[arg(long)]
        denied: bool,
    },
    /// Say why subjects are denied, since when, and by whom; exactly these, not wider ones
    Explain {
        /// The store's directory
        directory: PathBuf,
        #[command(flatten)]
        subjects: Subjects,
    },
    /// Revoke: deny tokens, sessions and families; have users and whatever is wider log in again. Several subjects are one commit
    Revoke {
        /// The store's directory
        directory: PathBuf,
        #[command(flatten)]
        subjects: Subjects,
        #[command(flatten)]
        epoch: Epoch,
        #[command(flatten)]
        why: Why,
    },
    /// Disable users, clients, devices or tenants until they are enabled
    Disable {
        /// The store's directory
        directory: PathBuf,
        #[command(flatten)]
        subjects: Subjects,
        #[command(flatten)]
        why: Why,
    },
    /// Enable what was disabled. Old credentials stay dead: people log in again
    Enable {
        /// The store's directory
        directory: PathBuf,
        #[command(flatten)]
        subjects: Subjects,
        #[command(flatten)]
        why: Why,
    },
    /// Take revocations back that were a mistake
    Lift {
        /// The store's directory
        directory: PathBuf,
        #[command(flatten)]
        subjects: Subjects,
        #[command(flatten)]
        why: Why,
    },
    /// Give epochs that lie in the future the present time: for subjects that were revoked while the clock was ahead, so that people can log in
    /// again. Old credentials stay dead. Set the clock right first
    Restate {
        /// The store's directory
        directory: PathBuf,
        #[command(flatten)]
        subjects: Subjects,
        #[command(flatten)]
        why: Why,
    },
    /// Give all epochs their time that were made while the clock was in doubt. Their subjects are denied outright until then. A service does it by
    /// itself once its clock is right
    Settle {
        /// The store's directory
        directory: PathBuf,
        /// An audit trail, a file of JSON lines, to which it is appended
        #[arg(long, value_name = "FILE")]
        audit: Option<PathBuf>,
    },
    /// Set the maximum age of the credentials of a tenant, or of everyone: older ones are dead. It binds every replica, and replaces what was set
    /// before
    SetMaxAge {
        /// The store's directory
        directory: PathBuf,
        /// The age, as in 15min or 12h
        #[arg(value_name = "AGE", value_parser = age)]
        age: Duration,
        #[command(flatten)]
        subjects: Subjects,
        #[command(flatten)]
        why: Why,
    },
    /// Remove the maximum age that was set. Whatever was dead by it stays dead; an age in the service's options stays
    ClearMaxAge {
        /// The store's directory
        directory: PathBuf,
        #[command(flatten)]
        subjects: Subjects,
        #[command(flatten)]
        why: Why,
    },
    /// Take a snapshot, so that the log before it can go
    Snapshot {
        /// The store's directory
        directory: PathBuf,
    },
    /// Look at an audit trail
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Measure this machine: what a check takes, and a revocation that is on disk
    Bench {
        /// How many tokens are revoked
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
        entries: u32,
        /// On which disk: a directory in which a store is made, and removed again. Default: the one for temporary files
        #[arg(long)]
        directory: Option<PathBuf>,
    },
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands into a directory
    Man {
        /// The directory
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check every record and the chain that ties them, and print its head, to be kept elsewhere
    Verify {
        /// The file of JSON lines
        file: PathBuf,
        /// A head that was printed earlier and kept elsewhere: fails if the trail does not contain it, because its end was cut off
        /// or it was written anew
        #[arg(long, value_name = "RECORDS:HASH", value_parser = head)]
        against: Option<AuditHead>,
    },
    /// Show the last records
    Tail {
        /// The file of JSON lines
        file: PathBuf,
        /// How many
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: usize,
        /// Go on as it grows, and with the next file when it is rotated
        #[arg(short, long)]
        follow: bool,
    },
}

/// To whom or what.
#[derive(Args, Debug)]
pub(crate) struct Subjects {
    /// Who or what: kind:id, as in user:alice, token:JTI, session:SID, family:ID, client:ID, device:ID, group:ID, tenant:ID; or everyone. An id
    /// of - is read from standard input, a line each, so that no token is in a list of processes or a shell's history; opaque-token:- takes the
    /// secret itself
    #[arg(required = true, value_name = "SUBJECT")]
    subjects: Vec<Named>,
    /// In this tenant only
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// At this issuer only
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
}

impl Subjects {
    pub(crate) fn read(&self, input: &mut Input) -> Result<Vec<Subject>, Failure> {
        let mut subjects = Vec::new();
        for named in &self.subjects {
            let (kind, id) = named.parts().map_err(Failure::Usage)?;
            let id = input.id(id, kind.map_or("opaque token", Kind::as_str))?;
            let mut subject = match kind {
                None => Subject::opaque_token(&id),
                Some(kind) => subject(kind, id),
            };
            if let Some(tenant) = &self.tenant {
                subject = subject.in_tenant(tenant);
            }
            if let Some(issuer) = &self.issuer {
                subject = subject.at_issuer(issuer);
            }
            subjects.push(subject);
        }
        Ok(subjects)
    }
}

/// Standard input, a line for each id that is not on the command line.
pub(crate) struct Input(std::io::Lines<StdinLock<'static>>);

impl Input {
    pub(crate) fn new() -> Self {
        Self(std::io::stdin().lock().lines())
    }

    /// The id as it was given, or the next line in place of `-`.
    fn id(&mut self, given: &str, what: &str) -> Result<String, Failure> {
        if given != "-" {
            return Ok(given.to_owned());
        }
        if std::io::stdin().is_terminal() {
            // Without a question, it would seem to hang.
            write!(std::io::stderr(), "{what}: ").ok();
        }
        match self.0.next() {
            Some(Ok(line)) => Ok(line),
            Some(Err(error)) => Err(Failure::Cannot(format!("cannot read standard input: {error}"))),
            None => Err(Failure::Usage("an id of - needs a line on standard input".to_owned())),
        }
    }
}

fn subject(kind: Kind, id: String) -> Subject {
    match kind {
        Kind::Session => Subject::session(id),
        Kind::Family => Subject::family(id),
        Kind::User => Subject::user(id),
        Kind::Client => Subject::client(id),
        Kind::Device => Subject::device(id),
        Kind::Group => Subject::group(id),
        Kind::Tenant => Subject::tenant(id),
        Kind::Everyone => Subject::everyone(),
        _ => Subject::token(id),
    }
}

/// `kind:id`, not looked at yet: an error of the parser would show what was typed, which may be a secret.
#[derive(Clone)]
struct Named(String);

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Named(<redacted>)")
    }
}

impl FromStr for Named {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl Named {
    /// The kind, and the id; no kind stands for an opaque token.
    fn parts(&self) -> Result<(Option<Kind>, &str), String> {
        if self.0 == "everyone" {
            return Ok((Some(Kind::Everyone), ""));
        }
        let (kind, id) = self.0.split_once(':').ok_or("a subject is kind:id, as in user:alice: say kind:id")?;
        if kind == "opaque-token" {
            let what = "a secret does not belong on a command line: say opaque-token:- and give it on standard input";
            return if id == "-" { Ok((None, id)) } else { Err(what.to_owned()) };
        }
        let found = Kind::ALL.into_iter().find(|known| known.as_str() == kind && *known != Kind::Everyone);
        let kinds = "token, session, family, user, client, device, group, tenant, opaque-token or everyone";
        Ok((Some(found.ok_or_else(|| format!("there is no such kind of subject: say {kinds}"))?), id))
    }
}

/// How far it reaches.
#[derive(Args, Debug)]
pub(crate) struct Epoch {
    /// Of a token, session or family: when every credential that names it has expired, so that it can be forgotten. RFC 3339, seconds since
    /// 1970, or a duration from now, as in 15min. Default: never
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<When>,
    /// Of a user or whatever is wider: credentials from at or before this time are dead. Default: now
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<When>,
    /// Of a user or whatever is wider: a refreshed token will do, nobody has to log in again
    #[arg(long)]
    pub(crate) reissue: bool,
    /// Of a user or whatever is wider: spare this session. Several times, if need be. A - is read from standard input, after the ids of
    /// subjects
    #[arg(long, value_name = "SID")]
    spare_session: Vec<String>,
}

impl Epoch {
    pub(crate) fn spared(&self, input: &mut Input) -> Result<Vec<String>, Failure> {
        self.spare_session.iter().map(|given| input.id(given, "spared session")).collect()
    }
}

/// Why, and by whom.
#[derive(Args, Debug)]
pub(crate) struct Why {
    /// Why
    #[arg(long, value_enum, default_value_t = ReasonArgument::Administrative)]
    pub(crate) reason: ReasonArgument,
    /// Who does it. Default: who runs this, by SUDO_USER, USER or LOGNAME, or else by number
    #[arg(long, value_name = "ACTOR")]
    pub(crate) by: Option<String>,
    /// Why, in words, for the audit trail
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// An audit trail, a file of JSON lines, to which it is appended
    #[arg(long, value_name = "FILE")]
    pub(crate) audit: Option<PathBuf>,
    /// Keep the names of users and whatever is wider in the store, as services do that retain labels
    #[arg(long)]
    pub(crate) retain_names: bool,
}

/// A time, as people write it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct When(NumericDate);

impl When {
    pub(crate) fn date(self) -> NumericDate {
        self.0
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(secs) = text.parse::<f64>() {
            return Ok(Self(secs.into()));
        }
        if let Some(time) = rfc3339(text) {
            return Ok(Self(time.into()));
        }
        let duration: Duration = humantime::parse_duration(text).map_err(|_| {
            "say RFC 3339, as in 2026-11-24T12:00:00Z, seconds since 1970, or a duration from now, as in 15min"
                .to_owned()
        })?;
        #[expect(clippy::disallowed_methods, reason = "a person means this machine's now")]
        let now = Timestamp::from(SystemTime::now());
        Ok(Self(now.saturating_add(duration).into()))
    }
}

/// A time in UTC, or with an offset, as in `2026-11-24T13:00:00+01:00`.
fn rfc3339(text: &str) -> Option<SystemTime> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Some(time);
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let part = |digits: &str, end: u64| {
        let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|number| is_number && *number < end)
    };
    let offset_by = Duration::from_secs(part(hours, 24)? * 3600 + part(minutes, 60)? * 60);
    let local = humantime::parse_rfc3339_weak(&format!("{local}Z")).ok()?;
    match offset.chars().next()? {
        '+' => local.checked_sub(offset_by),
        '-' => local.checked_add(offset_by),
        _ => None,
    }
}

/// How long credentials live, as people write it.
fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "say a duration, as in 15min or 12h".to_owned())
}

/// The head of an audit trail, as `audit verify` prints it.
fn head(text: &str) -> Result<AuditHead, String> {
    let parts = text.split_once(':').and_then(|(records, hash)| Some((records.parse().ok()?, hash)));
    let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match parts {
        Some((records, hash)) if is_hash(hash) => Ok(AuditHead { records, hash: hash.to_owned() }),
        _ => Err("say RECORDS:HASH, as `rescind audit verify` prints it".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArgument {
    User,
    Client,
    Device,
    Group,
    Tenant,
    Everyone,
}

impl KindArgument {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::User => Kind::User,
            Self::Client => Kind::Client,
            Self::Device => Kind::Device,
            Self::Group => Kind::Group,
            Self::Tenant => Kind::Tenant,
            Self::Everyone => Kind::Everyone,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReasonArgument {
    Unspecified,
    Logout,
    Offboarding,
    Compromise,
    // Audit records spell them so.
    #[value(alias = "credential_change")]
    CredentialChange,
    #[value(alias = "claims_change")]
    ClaimsChange,
    Device,
    #[value(alias = "token_reuse")]
    TokenReuse,
    Policy,
    Administrative,
    Ended,
}

impl ReasonArgument {
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Unspecified => Reason::Unspecified,
            Self::Logout => Reason::Logout,
            Self::Offboarding => Reason::Offboarding,
            Self::Compromise => Reason::Compromise,
            Self::CredentialChange => Reason::CredentialChange,
            Self::ClaimsChange => Reason::ClaimsChange,
            Self::Device => Reason::Device,
            Self::TokenReuse => Reason::TokenReuse,
            Self::Policy => Reason::Policy,
            Self::Administrative => Reason::Administrative,
            Self::Ended => Reason::Ended,
        }
    }
}
