//! How a store is opened.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::AuditSink;
use crate::clock::{Clock, SystemClock};
use crate::model::{Claim, Claims, Key, Policy};
use crate::storage::{FileStorage, Storage};

use super::{Acknowledgement, OpenError, Store};

/// When a revocation is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once it is on disk (`fdatasync` has returned). It survives the end of the process, of the system, and of power.
    /// Concurrent callers share one sync.
    #[default]
    Sync,
    /// Once it is written to the operating system, which is told to sync at least this often. It survives the end of the
    /// process at once, that of the system or of power after the interval; the receipt says `Accepted`.
    Interval(Duration),
    /// Once it is written to the operating system, which is never told to sync except by a snapshot or a close. It
    /// survives the end of the process; the receipt says `Memory`.
    Memory,
}

impl Durability {
    /// What a commit is acknowledged as.
    pub(super) const fn acknowledgement(self) -> Acknowledgement {
        match self {
            Self::Sync => Acknowledgement::Durable,
            Self::Interval(_) => Acknowledgement::Accepted,
            Self::Memory => Acknowledgement::Memory,
        }
    }
}

/// How a store is opened. Each default is the safe choice for one process that verifies its own tokens.
///
/// ```no_run
/// use std::time::Duration;
/// use rescind::{Claim, Options};
///
/// let store = Options::new()
///     .max_credential_age(Duration::from_secs(12 * 3600))
///     .tenant_max_credential_age("acme", Duration::from_secs(15 * 60))
///     .require_claim(Claim::Tenant)
///     .capacity(10_000_000)
///     .open("revocations")?;
/// # Ok::<(), rescind::OpenError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    pub(super) durability: Durability,
    pub(super) key: Option<Key>,
    pub(super) capacity: usize,
    pub(super) policy: Policy,
    pub(super) retain_labels: bool,
    pub(super) accept_clock: bool,
    pub(super) create_if_missing: bool,
    pub(super) sinks: Vec<Arc<dyn AuditSink>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) background: bool,
    pub(super) stale_after: Duration,
    pub(super) keep_limits: bool,
    pub(super) segment_bytes: u64,
    pub(super) snapshot_after_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            key: None,
            capacity: usize::MAX,
            policy: Policy {
                leeway: Duration::from_secs(60),
                skew: Duration::from_secs(60),
                grace: Duration::from_secs(300),
                max_age: None,
                tenant_max_age: HashMap::new(),
                required: Claims::default(),
            },
            retain_labels: false,
            accept_clock: false,
            create_if_missing: true,
            sinks: Vec::new(),
            clock: Arc::new(SystemClock::new()),
            background: true,
            stale_after: Duration::from_secs(5),
            keep_limits: false,
            segment_bytes: 4 * 1024 * 1024,
            snapshot_after_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// When a revocation is acknowledged. Default: [`Durability::Sync`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The key from which identities are derived, which is then not kept in the store's directory: replicas that share
    /// revocations share it. Default: made on first open and kept in the directory, readable by the owner only.
    pub fn key(mut self, key: Key) -> Self {
        self.key = Some(key);
        self
    }

    /// How many subjects may have an entry. At the limit *new* revocations fail; none is dropped. Default: no limit.
    pub fn capacity(mut self, entries: usize) -> Self {
        self.capacity = entries;
        self
    }

    /// How far the clocks of issuers and verifiers may differ from this one: an `iat` further ahead is dead, and an
    /// `exp` counts for so much longer. Set it no lower than the leeway of your token verifier. Default: 60 s.
    ///
    /// If a store is opened with a higher leeway or clock skew than before, credentials whose revocation may have been
    /// forgotten by the lower one stay expired.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.policy.leeway = leeway;
        self
    }

    /// How far in the future an epoch may lie, and how far the wall clock may step back before verdicts become
    /// [`Unknown`](crate::Verdict::Unknown). Default: 60 s.
    pub fn max_clock_skew(mut self, skew: Duration) -> Self {
        self.policy.skew = skew;
        self
    }

    /// How much longer than necessary entries are kept; never less than the clock skew. Default: 5 min.
    pub fn retention_grace(mut self, grace: Duration) -> Self {
        self.policy.grace = grace;
        self
    }

    /// The age at which every credential is dead, counted from its authentication (`auth_time`, else session start, else
    /// `iat`) and from its `iat`, which it must bring. It lets epochs be forgotten after that time. Default: none, and
    /// epochs are kept for good.
    ///
    /// If a store is opened with a higher age than before, or none, whatever was dead by age stays dead.
    pub fn max_credential_age(mut self, age: Duration) -> Self {
        self.policy.max_age = Some(age);
        self
    }

    /// The same for the credentials of one tenant: "sessions last at most 15 minutes". The shorter of this and
    /// [`Options::max_credential_age`] counts.
    pub fn tenant_max_credential_age(mut self, tenant: impl Into<String>, age: Duration) -> Self {
        self.policy.tenant_max_age.insert(tenant.into().into_boxed_str(), age);
        self
    }

    /// A claim that every credential must bring: one that lacks it gets [`Unknown`](crate::Verdict::Unknown). Require
    /// what you revoke by: a revocation of a user *in a tenant* cannot match a credential that names no tenant.
    /// Default: none.
    pub fn require_claim(mut self, claim: Claim) -> Self {
        self.policy.required.insert(claim);
        self
    }

    /// Whether the names of wide subjects (users, groups, tenants, ...) are kept, in memory and on disk, so that
    /// [`Store::list`] can show them. Ids of tokens, sessions and families never are. Default: false.
    pub fn retain_labels(mut self, retain: bool) -> Self {
        self.retain_labels = retain;
        self
    }

    /// Opens the store although the wall clock is behind a time that it has seen, and takes the clock as right from here
    /// on. Without this, verdicts are [`Unknown`](crate::Verdict::Unknown) until the clock catches up. Default: false.
    pub fn accept_clock(mut self, accept: bool) -> Self {
        self.accept_clock = accept;
        self
    }

    /// Keeps the leeway, the retention grace and the maximum ages with which the store was opened last, in place of these options': for
    /// tools that change a store whose limits are another program's to say. Ages of single tenants are kept for what is
    /// forgotten; a check here does not apply them, for it does not know the tenants' names. Default: false.
    pub fn keep_recorded_limits(mut self, keep: bool) -> Self {
        self.keep_limits = keep;
        self
    }

    /// Whether a directory, or a store in it, is made where there is none. Once a service has its store, say `false`: a
    /// volume that is not mounted is then an error, and not a store in which nobody was ever revoked. Default: true.
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.create_if_missing = create;
        self
    }

    /// A sink that is given a record of every change. Several may be added.
    pub fn audit(mut self, sink: impl AuditSink + 'static) -> Self {
        self.sinks.push(Arc::new(sink));
        self
    }

    /// Where time comes from. Default: the system's clocks.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Whether a thread of the store's own maintains it. Without one, call [`Store::maintain`] now and then. Default:
    /// true.
    pub fn background(mut self, background: bool) -> Self {
        self.background = background;
        self
    }

    /// For a store that is [opened read-only](Store::open_read_only): after how long without having read all that its writer
    /// acknowledged checks give [`Unknown`](crate::Verdict::Unknown). It reads every few milliseconds; what this must outlast
    /// is a busy host. Default: 5 s.
    pub fn stale_after(mut self, age: Duration) -> Self {
        self.stale_after = age;
        self
    }

    /// How long a segment of the log is, in bytes; at least 4 KiB. Default: 4 MiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes.clamp(4096, 64 * 1024 * 1024);
        self
    }

    /// After how many bytes of log a snapshot is taken, if that is also twice the length of the last snapshot. Default:
    /// 16 MiB.
    pub fn snapshot_after_bytes(mut self, bytes: u64) -> Self {
        self.snapshot_after_bytes = bytes;
        self
    }

    /// Opens the store in a directory, and makes it if there is none. One process at a time can have it open.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing that the directory holds has changed.
    pub fn open(self, directory: impl AsRef<Path>) -> Result<Store, OpenError> {
        let open = if self.create_if_missing { FileStorage::open } else { FileStorage::open_existing };
        let storage = open(directory.as_ref())?;
        self.open_on(Arc::new(storage))
    }

    /// Opens the store on another storage: [`MemoryStorage`](crate::storage::MemoryStorage) in tests, or your own.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing that the storage holds has changed.
    pub fn open_on(self, storage: Arc<dyn Storage>) -> Result<Store, OpenError> {
        Store::start(self, Some(storage))
    }

    /// Opens a store that keeps nothing on disk.
    ///
    /// # Errors
    /// When the options contradict each other, or a thread cannot be started.
    pub fn open_in_memory(self) -> Result<Store, OpenError> {
        Store::start(self, None)
    }
}
