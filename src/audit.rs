//! Who did what to whom, why and when: the record of every decision, and where it goes.
//!
//! The store writes one [`AuditRecord`] for each decision into an [`AuditSink`]. [`JsonLines`] keeps them
//! in a file whose lines are chained by hashes, which [`verify`] checks; `TracingSink`, behind the feature
//! `tracing`, hands them to the application's own telemetry. Other sinks are a trait with one method away.
//!
//! Records name their targets by keyed digest, never by the token or session id itself.
//!
//! # What the chain proves
//!
//! Each line carries its number `n`, the hash `prev` of the line before, and its own `hash`: BLAKE3, in
//! hexadecimal, of exactly the bytes of the line before `,"hash":"`. The first `prev` is 64 zeros. So a
//! line changed, inserted, removed or moved shows, and any tool that can count bytes can check it.
//!
//! The chain has no key. It does not show lines missing at the *end*, nor a file rewritten as a whole by
//! someone with write access. Against both, keep [`JsonLines::head`] somewhere else from time to time and
//! compare with [`verify_against`].
//!
//! # As OCSF 1.9 events
//!
//! | record | class | activity |
//! |---|---|---|
//! | `revoke` of a token, a session, or a user's epoch | Authentication (3002) | Logoff (2) |
//! | `disable` | User Management (3007) | Disable (5) |
//! | `enable` | User Management (3007) | Enable (4) |
//! | `lift` | Authentication (3002) | Other (99), `activity_name` = `Lift` |
//!
//! | member | OCSF attribute |
//! |---|---|
//! | `seq` | `metadata.sequence` |
//! | `time` | `time` (milliseconds since 1970), `time_dt` |
//! | `txn` | `metadata.correlation_uid` |
//! | `tenant` | `metadata.tenant_uid` |
//! | `actor.id`, `actor.type` | `actor.user.uid`, `actor.user.type` |
//! | `actor.session` | `actor.session.uid` |
//! | `actor.ip` | `src_endpoint.ip` |
//! | `target.digest` | `session.uid` for a token or session, `user.uid` for a user |
//! | `target.label` | `user.name` |
//! | `target.issuer` | `session.issuer` |
//! | `note` | `message` |
//! | `outcome.status` | `status_id`: Failure (2) for `failed`, else Success (1); the word itself in `status_code` |
//! | `outcome.error` | `status_detail` |
//! | all others | `unmapped`, under the same name |

use std::fmt::{self, Debug};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::model::{Actor, Channel, Claim, InitiatingEntity};
use crate::storage::{open_regular, sync_parent};

/// One decision: what was asked, by whom, and what became of it.
///
/// New members may come; build one with [`new`](Self::new) and set what is known. What is unknown stays
/// `None` and is left out of the output: the record never invents.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AuditRecord {
    /// The position in this store's sequence of records.
    pub seq: u64,
    /// When, as RFC 3339 with milliseconds.
    pub time: String,
    /// The transaction that several records and systems share, as CAEP's `txn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<String>,
    /// The tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// The kind of party the decision comes from.
    pub initiating_entity: InitiatingEntity,
    /// What was asked.
    pub action: Action,
    /// To whom or what.
    pub target: Target,
    /// What the decision changes, for example `denied` or `reissue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// Credentials from at or before this time (RFC 3339) are dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// Whether the epoch waits for its time, because the clock was in doubt: until it is settled, all credentials are dead.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// The maximum age of credentials that was set, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_secs: Option<u64>,
    /// The claim that the epoch or the maximum age compares: every credential of the target without a valid one is denied,
    /// however young it is. In the output, the list of the claims [of which any one serves](Claim::any_of).
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "any_of")]
    pub requires: Option<Claim>,
    /// By how many seconds the epoch lies beyond what the boot clock bears out: people who log in are locked out until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beyond_borne_out_secs: Option<u64>,
    /// Until when (RFC 3339) the entry is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why, as a code.
    pub reason: String,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How many sessions ended, only when they were truly counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_affected: Option<u64>,
    /// The way the request came in.
    pub channel: Channel,
    /// What became of it.
    pub outcome: Outcome,
    /// The connectors told to carry it out elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connectors: Vec<String>,
}

impl AuditRecord {
    /// A record by the system, through the API, [`Outcome::Durable`], all else unknown.
    pub fn new(seq: u64, time: SystemTime, action: Action, target: Target, reason: impl Into<String>) -> Self {
        Self {
            seq,
            time: timestamp(time),
            txn: None,
            tenant: None,
            actor: None,
            initiating_entity: InitiatingEntity::System,
            action,
            target,
            effect: None,
            epoch: None,
            pending: false,
            beyond_borne_out_secs: None,
            max_age_secs: None,
            requires: None,
            until: None,
            reason: reason.into(),
            note: None,
            sessions_affected: None,
            channel: Channel::Api,
            outcome: Outcome::Durable,
            connectors: Vec::new(),
        }
    }
}

fn any_of<S: serde::Serializer>(claim: &Option<Claim>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(claim.iter().flat_map(|claim| claim.any_of()).map(|claim| claim.as_str()))
}

/// The time as RFC 3339 with milliseconds; years outside 1970 to 9999 give the nearest inside.
pub fn timestamp(time: SystemTime) -> String {
    // 9999-12-31T23:59:59.999Z: the formatter would fail beyond it, and before 1970.
    const LAST: Duration = Duration::from_millis(253_402_300_799_999);
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// To whom or what a decision applies, without the identifier itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Target {
    /// What it is, for example `token`, `session` or `user`.
    pub kind: String,
    /// The keyed digest of the identifier, in hexadecimal.
    pub digest: String,
    /// A name fit for people, where the store was told to retain one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Who issued the identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

impl Target {
    /// A target without label and issuer.
    pub fn new(kind: impl Into<String>, digest: impl Into<String>) -> Self {
        Self { kind: kind.into(), digest: digest.into(), label: None, issuer: None }
    }
}

/// Gives each variant its name in output, the same in every sink.
macro_rules! names {
    ($type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name in output.
            pub fn as_str(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)+
                }
            }
        }
    };
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// Refuse credentials issued so far.
    Revoke,
    /// Refuse a user or client altogether, new credentials too.
    Disable,
    /// Take back a `Disable`.
    Enable,
    /// Take back a `Revoke`.
    Lift,
    /// Give an epoch that lies in the future the present time.
    Restate,
    /// Set the maximum age of credentials.
    SetAge,
    /// Remove the maximum age of credentials.
    ClearAge,
    /// Give an epoch its time that was made while the clock was in doubt.
    Settle,
}

names!(Action { Revoke => "revoke", Disable => "disable", Enable => "enable", Lift => "lift", Restate => "restate", SetAge => "set_age", ClearAge => "clear_age", Settle => "settle" });

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Outcome {
    /// In force, and on disk.
    Durable,
    /// In force, and on disk soon.
    Accepted,
    /// In force, in memory only.
    Memory,
    /// In force already; nothing to do.
    Unchanged,
    /// Not fully done.
    Failed {
        /// What went wrong, for people.
        error: String,
    },
}

names!(Outcome {
    Durable => "durable",
    Accepted => "accepted",
    Memory => "memory",
    Unchanged => "unchanged",
    Failed => "failed",
});

/// A place for audit records.
pub trait AuditSink: Send + Sync + Debug {
    /// Takes one record.
    ///
    /// # Errors
    ///
    /// When the record was not kept. The decision it describes stands; what follows is for the store to say.
    fn record(&self, record: &AuditRecord) -> Result<(), AuditError>;

    /// Makes the records taken so far as durable as the sink can. Does nothing unless the sink says so.
    ///
    /// # Errors
    ///
    /// When that failed. Which of the records are durable is then unknown.
    fn flush(&self) -> Result<(), AuditError> {
        Ok(())
    }
}

/// Why a record was not kept, or a log not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The file system failed.
    #[error("cannot {action} the audit log {}", path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The failure.
        source: io::Error,
    },
    /// The chain does not hold.
    #[error(
        "the audit log {} is broken at {}byte {offset}: {defect}; keep the file as evidence and start a new one",
        path.display(), line.map(|line| format!("line {line}, ")).unwrap_or_default()
    )]
    Broken {
        /// The log.
        path: PathBuf,
        /// The first bad line, from 1, where lines were counted: opening reads only the end.
        line: Option<u64>,
        /// The offset of that line.
        offset: u64,
        /// What is wrong with it.
        defect: Defect,
    },
    /// The chain holds, but the anchored head is not in it.
    #[error(
        "the audit log {} does not contain the anchored {anchor}: its end was cut off or it was rewritten; \
         compare with a copy",
        path.display()
    )]
    AnchorMissing {
        /// The log.
        path: PathBuf,
        /// The head that was kept elsewhere.
        anchor: AuditHead,
    },
    /// Another sink has the log open.
    #[error("the audit log {} is in use by another writer: close it first, or choose another path", path.display())]
    InUse {
        /// The log.
        path: PathBuf,
    },
    /// An earlier failure left the end of the log unknown.
    #[error("the audit log {} failed earlier and takes no more records: open it again", path.display())]
    Poisoned {
        /// The log.
        path: PathBuf,
    },
    /// The record is longer than a line may be.
    #[error("audit record {seq} takes {len} bytes, more than {LINE_LEN_MAX}: shorten its note or labels")]
    TooLong {
        /// The record.
        seq: u64,
        /// Its length as a line.
        len: usize,
    },
    /// The record could not be put into JSON.
    #[error("cannot encode audit record {seq}")]
    Encode {
        /// The record.
        seq: u64,
        /// The failure.
        source: serde_json::Error,
    },
    /// A sink of another kind failed.
    #[error("the audit sink failed")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What is wrong with a line of an audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// It has no end; opening the log for writing repairs what a crash left.
    #[error("the line is incomplete")]
    Incomplete,
    /// It is longer than any record.
    #[error("the line is too long")]
    TooLong,
    /// It is not a line of an audit log.
    #[error("the line does not end in a number and two hashes")]
    Malformed,
    /// Its bytes are not those that were hashed.
    #[error("the hash does not match the line")]
    Hash,
    /// It does not follow the line before it.
    #[error("the line does not follow the one before")]
    Link,
}

/// The end of a chain: small enough to keep elsewhere, and enough to recognise the log by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// How many records the chain has.
    pub records: u64,
    /// The hash of the last one in hexadecimal, or 64 zeros.
    pub hash: String,
}

impl Default for AuditHead {
    /// The head of an empty log.
    fn default() -> Self {
        Self { records: 0, hash: "0".repeat(HASH_LEN) }
    }
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} with hash {}", self.records, self.hash)
    }
}

/// A length in hexadecimal digits.
const HASH_LEN: usize = 64;
/// With its newline. A note of a page fits many times; a file without newlines is refused early.
const LINE_LEN_MAX: usize = 1 << 20;
/// Most logs end in lines shorter than half of this, so one read finds the last.
const TAIL_LEN: u64 = 16 << 10;

/// A file of one JSON object a line, chained by hashes.
///
/// The file is appended to, made with mode 0600, never opened through a symbolic link, and locked: a second
/// writer would split the chain. A record is in the system's hands when [`record`](AuditSink::record)
/// returns and survives a power cut after the next [`flush`](AuditSink::flush), which records wait for.
///
/// To rotate, drop the sink, rename the file and open anew: the new file starts a chain of its own.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    torn_bytes: u64,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    file: File,
    len: u64,
    head: AuditHead,
    poisoned: bool,
}

impl Drop for End {
    /// Closing alone would keep the log locked while a child process, forked a moment ago by another thread,
    /// still has the handle. There is nobody to tell of an error, and closing follows.
    fn drop(&mut self) {
        self.file.unlock().ok();
    }
}

impl JsonLines {
    /// The log at `path`, made when missing, ready to continue its chain.
    ///
    /// Only the end is read; [`verify`] reads everything.
    ///
    /// # Errors
    ///
    /// [`AuditError::Broken`] when the last complete line is not one of an audit log, unchanged by hand;
    /// [`AuditError::InUse`] when another sink has the log. The file is then as it was. Only after its last
    /// line was found good is an incomplete line behind it, left by a crash, cut off.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, AuditError> {
        let path = path.as_ref().to_path_buf();
        let io = |action| io_error(&path, action);
        let file = open_regular(OpenOptions::new().read(true).append(true).create(true), &path).map_err(io("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(AuditError::InUse { path }),
            Err(TryLockError::Error(error)) => return Err(io("lock")(error)),
        }
        // From here on `End` gives the lock back, on every way out.
        let mut end = End { file, len: 0, head: AuditHead::default(), poisoned: false };
        // A record flushed into a file that has lost its name is lost; also after a crash right behind the
        // creation, so not only when the file is new.
        sync_parent(&path).map_err(io("sync the directory of"))?;

        let file_len = end.file.metadata().map_err(io("read"))?.len();
        let tail = read_tail(&mut end.file, file_len).map_err(io("read"))?;
        let broken = |offset, defect| AuditError::Broken { path: path.clone(), line: None, offset, defect };

        let (lines, torn) = tail.split_at(tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
        let torn_bytes = torn.len() as u64;
        end.len = file_len - torn_bytes;
        if torn.len() >= LINE_LEN_MAX {
            return Err(broken(end.len, Defect::TooLong));
        }
        end.head = match lines.strip_suffix(b"\n") {
            None if torn_of_first_line(torn) => AuditHead::default(),
            None => return Err(broken(0, Defect::Malformed)),
            Some(lines) => {
                let last = lines.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
                let offset = end.len - 1 - last.len() as u64;
                if last.len() >= LINE_LEN_MAX {
                    return Err(broken(offset, Defect::TooLong));
                }
                Link::parse(last).map_err(|defect| broken(offset, defect))?.head()
            }
        };
        if torn_bytes > 0 {
            end.file.set_len(end.len).and_then(|()| end.file.sync_data()).map_err(io("repair"))?;
        }
        Ok(Self { torn_bytes, end: Mutex::new(end), path })
    }

    /// How many bytes of an incomplete last line were cut off when the log was opened; 0 after a clean end.
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// The end of the chain now, for keeping elsewhere.
    pub fn head(&self) -> AuditHead {
        self.end.lock().head.clone()
    }
}

impl AuditSink for JsonLines {
    /// Appends the record as one line.
    ///
    /// # Errors
    ///
    /// The log then ends as before; where even that could not be restored, it takes no more records.
    fn record(&self, record: &AuditRecord) -> Result<(), AuditError> {
        let mut end = self.end.lock();
        if end.poisoned {
            return Err(AuditError::Poisoned { path: self.path.clone() });
        }
        let (line, head) = encode(record, &end.head)?;
        if let Err(error) = end.file.write_all(line.as_bytes()) {
            let len = end.len;
            end.poisoned = end.file.set_len(len).is_err();
            return Err(io_error(&self.path, "append to")(error));
        }
        end.len += line.len() as u64;
        end.head = head;
        Ok(())
    }

    /// Makes every record so far survive a power cut.
    ///
    /// # Errors
    ///
    /// Records since the last flush may be lost although they still read back, and the sink takes no more:
    /// the system forgets what it failed to write, so a second attempt would prove nothing.
    fn flush(&self) -> Result<(), AuditError> {
        let mut end = self.end.lock();
        if end.poisoned {
            return Err(AuditError::Poisoned { path: self.path.clone() });
        }
        end.file.sync_data().map_err(|error| {
            end.poisoned = true;
            io_error(&self.path, "sync")(error)
        })
    }
}

/// The head of a log whose every line, link and number is right.
///
/// Lines missing at the end do not show here: compare the head with one kept elsewhere, or use
/// [`verify_against`].
///
/// # Errors
///
/// [`AuditError::Broken`] names the first bad line. The log is only read.
pub fn verify(path: impl AsRef<Path>) -> Result<AuditHead, AuditError> {
    walk(path.as_ref(), |_| {})
}

/// The head of a log that [`verify`] accepts and that contains the record `anchor` points to.
///
/// # Errors
///
/// Those of [`verify`]; [`AuditError::AnchorMissing`] when the chain holds but is not the anchored one, or
/// has been cut off before it. The log is only read.
pub fn verify_against(path: impl AsRef<Path>, anchor: &AuditHead) -> Result<AuditHead, AuditError> {
    let path = path.as_ref();
    let mut found = *anchor == AuditHead::default();
    let head = walk(path, |head| found |= head == anchor)?;
    if found { Ok(head) } else { Err(AuditError::AnchorMissing { path: path.to_path_buf(), anchor: anchor.clone() }) }
}

fn walk(path: &Path, mut visit: impl FnMut(&AuditHead)) -> Result<AuditHead, AuditError> {
    let io = |action| io_error(path, action);
    let mut reader = BufReader::new(open_regular(OpenOptions::new().read(true), path).map_err(io("open"))?);
    let mut head = AuditHead::default();
    let (mut line, mut offset) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_LEN_MAX as u64).read_until(b'\n', &mut line).map_err(io("read"))?;
        if read == 0 {
            return Ok(head);
        }
        head = follow(&line, &head).map_err(|defect| {
            let line = Some(head.records + 1);
            AuditError::Broken { path: path.to_path_buf(), line, offset, defect }
        })?;
        visit(&head);
        offset += read as u64;
    }
}

fn follow(line: &[u8], head: &AuditHead) -> Result<AuditHead, Defect> {
    let Some(content) = line.strip_suffix(b"\n") else {
        return Err(if line.len() >= LINE_LEN_MAX { Defect::TooLong } else { Defect::Incomplete });
    };
    let link = Link::parse(content)?;
    if link.prev != head.hash || link.number.checked_sub(1) != Some(head.records) {
        return Err(Defect::Link);
    }
    Ok(link.head())
}

/// What chains a line to the others.
struct Link<'a> {
    number: u64,
    prev: &'a str,
    hash: &'a str,
}

impl<'a> Link<'a> {
    /// Takes the line apart from its end, where every length is fixed, so that nothing within the record
    /// can be mistaken for a link; then checks the hash.
    fn parse(line: &'a [u8]) -> Result<Self, Defect> {
        let (body, hash) = split_hash(line, b",\"hash\":\"", b"\"}").ok_or(Defect::Malformed)?;
        let (rest, prev) = split_hash(body, b",\"prev\":\"", b"\"").ok_or(Defect::Malformed)?;
        let digits = rest.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (record, digits) = rest.split_at(rest.len() - digits);
        if !record.ends_with(b",\"n\":") {
            return Err(Defect::Malformed);
        }
        let number = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Defect::Malformed)?;
        if blake3::hash(body).to_hex().as_str() != hash {
            return Err(Defect::Hash);
        }
        Ok(Self { number, prev, hash })
    }

    fn head(&self) -> AuditHead {
        AuditHead { records: self.number, hash: self.hash.to_owned() }
    }
}

/// Splits `.. opening HASH closing` into what comes before, and the hash.
fn split_hash<'a>(bytes: &'a [u8], opening: &[u8], closing: &[u8]) -> Option<(&'a [u8], &'a str)> {
    let bytes = bytes.strip_suffix(closing)?;
    let (rest, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_LEN)?)?;
    Some((rest.strip_suffix(opening)?, str::from_utf8(hash).ok()?))
}

fn encode(record: &AuditRecord, head: &AuditHead) -> Result<(String, AuditHead), AuditError> {
    let seq = record.seq;
    let mut line = serde_json::to_string(record).map_err(|source| AuditError::Encode { seq, source })?;
    // A record is an object with members, so its closing brace makes room for more.
    line.pop();
    // Saturating: the number came from a file, and one that large is refused by `verify` anyway.
    let records = head.records.saturating_add(1);
    line.push_str(&format!(",\"n\":{records},\"prev\":\"{}\"", head.hash));
    let hash = blake3::hash(line.as_bytes()).to_hex().to_string();
    line.push_str(&format!(",\"hash\":\"{hash}\"}}\n"));
    if line.len() > LINE_LEN_MAX {
        return Err(AuditError::TooLong { seq, len: line.len() });
    }
    Ok((line, AuditHead { records, hash }))
}

/// The end of the file: the last complete line and what is behind it, or as much as those may take.
fn read_tail(file: &mut File, file_len: u64) -> io::Result<Vec<u8>> {
    let enough = file_len.min(2 * LINE_LEN_MAX as u64 + 1);
    let mut len = TAIL_LEN.min(enough);
    loop {
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(file_len - len))?;
        file.take(len).read_to_end(&mut tail)?;
        if len == enough || tail.iter().filter(|&&byte| byte == b'\n').count() >= 2 {
            return Ok(tail);
        }
        len = (len * 2).min(enough);
    }
}

/// Whether a file without a complete line is the start of a log, so that a mistaken path does not cost
/// someone a file of another kind. A power cut may leave zeros in place of the bytes.
fn torn_of_first_line(torn: &[u8]) -> bool {
    const START: &[u8] = b"{\"seq\":";
    torn.iter().zip(START).all(|(byte, start)| byte == start) || torn.iter().all(|&byte| byte == 0)
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> AuditError + use<> {
    let path = path.to_path_buf();
    move |source| AuditError::Io { path, action, source }
}

/// Records as events of the `tracing` crate: level info, target `rescind::audit`, one field a member.
///
/// Targets appear by digest, and by label where the record has one. It never fails, and keeps nothing: the
/// application's subscriber decides what becomes of the events.
#[cfg(feature = "tracing")]
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingSink;

#[cfg(feature = "tracing")]
impl AuditSink for TracingSink {
    fn record(&self, record: &AuditRecord) -> Result<(), AuditError> {
        let actor = record.actor.as_ref();
        let error = match &record.outcome {
            Outcome::Failed { error } => Some(error.as_str()),
            _ => None,
        };
        tracing::info!(
            target: "rescind::audit",
            seq = record.seq,
            time = record.time,
            txn = record.txn,
            tenant = record.tenant,
            actor.id = actor.map(|actor| actor.id.as_str()),
            "actor.type" = actor.map(|actor| actor.kind.as_str()),
            actor.session = actor.and_then(|actor| actor.session.as_deref()),
            actor.ip = actor.and_then(|actor| actor.ip).map(tracing::field::display),
            initiating_entity = record.initiating_entity.as_str(),
            action = record.action.as_str(),
            target.kind = record.target.kind,
            target.digest = record.target.digest,
            target.label = record.target.label,
            target.issuer = record.target.issuer,
            effect = record.effect,
            epoch = record.epoch,
            requires = record.requires.map(|claim| claim.any_of().iter().map(|claim| claim.as_str()).collect::<Vec<_>>().join(",")),
            until = record.until,
            reason = record.reason,
            note = record.note,
            sessions_affected = record.sessions_affected,
            channel = record.channel.as_str(),
            outcome = record.outcome.as_str(),
            error,
            connectors = (!record.connectors.is_empty()).then(|| record.connectors.join(",")),
            "audit"
        );
        Ok(())
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, reason = "a failed test panics")]
mod tests {
    use super::*;

    /// A sink whose file is exchanged for one that fails: files that do so by themselves are hard to come by.
    fn sink(directory: &Path, path: &str) -> JsonLines {
        let sink = JsonLines::open(directory.join("audit.jsonl")).unwrap();
        sink.end.lock().file = File::open(path).unwrap();
        sink
    }

    fn record() -> AuditRecord {
        AuditRecord::new(1, UNIX_EPOCH, Action::Revoke, Target::new("token", "ab12"), "admin")
    }

    #[test]
    fn an_append_that_cannot_be_undone_poisons() {
        let directory = tempfile::tempdir().unwrap();
        let sink = sink(directory.path(), "/dev/null");
        assert!(matches!(sink.record(&record()), Err(AuditError::Io { .. })));
        assert!(matches!(sink.record(&record()), Err(AuditError::Poisoned { .. })));
        assert!(matches!(sink.flush(), Err(AuditError::Poisoned { .. })));
        assert_eq!(sink.head(), AuditHead::default());
    }

    #[test]
    fn a_failed_sync_poisons() {
        let directory = tempfile::tempdir().unwrap();
        let sink = sink(directory.path(), "/dev/null");
        assert!(matches!(sink.flush(), Err(AuditError::Io { .. })));
        assert!(matches!(sink.flush(), Err(AuditError::Poisoned { .. })));
        assert!(matches!(sink.record(&record()), Err(AuditError::Poisoned { .. })));
    }

    #[test]
    fn a_number_at_the_end_of_all_numbers_does_not_overflow() {
        let head = AuditHead { records: u64::MAX, ..AuditHead::default() };
        assert_eq!(encode(&record(), &head).unwrap().1.records, u64::MAX);
    }
}
