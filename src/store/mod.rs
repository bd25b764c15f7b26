//! The store: open, check, the one write path, maintenance, statistics.
//!
//! Every change takes the same way (`write.rs`): it is validated, turned into entries to join, applied to the denylist,
//! logged by the committer thread, and acknowledged. What denies is applied whatever becomes of the log, before the call
//! that asked for it goes on; what undoes, only once it is logged: whatever fails, it fails on the side of denying.

mod alarm;
mod auditing;
mod belief;
mod canary;
mod check;
mod committer;
mod error;
mod events;
mod explain;
mod families;
mod follow;
mod hearsay;
mod lag;
mod limits;
mod link;
mod maintenance;
#[cfg(all(test, shuttle))]
mod models;
mod open;
mod options;
mod receipt;
mod replay;
mod replica;
mod salvage;
mod snapshot;
mod stamps;
mod stats;
mod tenant;
mod watch;
mod write;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::clock::{BorneOutTime, Clock, Reading};
use crate::codec::{AHEAD_MAX, Ahead, Limits};
use crate::denylist::Denylist;
use crate::journal::{FileError, RecoveryReport};
use crate::model::{
    Change, Credential, InvalidSubject, Key, KeyId, Keyring, Life, Policy, Revocation, Subject, Timestamp, Verdict,
};
use crate::sync::Mutex;
use crate::sync::channel::Sender;
use crate::sync::thread::JoinHandle;

pub use alarm::Alarm;
pub use canary::{CanaryAlarm, CanaryReport};
pub use error::{CloseError, CopyError, OpenError, SnapshotError, WriteError};
pub use explain::{Explanation, Fact};
pub use families::{RefreshFamilies, Rotation, Successor};
pub use follow::Following;
pub use limits::StoreLimits;
pub use link::Link;
pub use maintenance::MaintenanceReport;
pub use options::{Durability, Options};
pub use receipt::{Acknowledgement, Pending, PendingAnswer, Receipt};
pub use replay::{ReplaySet, Use};
pub use replica::{PeerStats, Position, Replica, ReplicaStats, ReplicateError};
pub use salvage::{SalvageError, SalvageReport, Verification, VerifyError, salvage, salvage_on, verify, verify_on};
pub use snapshot::SnapshotReport;
pub use stats::Stats;
pub use tenant::TenantStore;
pub use watch::Watch;

use auditing::AuditQueue;
use belief::{Belief, News, Time};
use check::Presented;
use committer::Message;
use follow::Follow;
use hearsay::Votes;
use maintenance::{Maintainer, Retries};
use replica::{Gate, Replicating};
use snapshot::Snapshotter;
use stamps::Stamps;
use watch::Watchers;
use write::Command;

/// A peer's leeway counts up to this: an epoch for one issuer may lie ahead by as much.
const LEEWAY_MAX: Duration = Duration::from_secs(600);

/// Revocations, remembered and answered for from this process's own memory. Cheap to clone; clones share one store.
///
/// ```
/// use rescind::{Credential, Reason, Revocation, Store, Subject, Verdict};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("revocations");
/// let store = Store::open(path)?;
/// let credential = Credential::new().user("alice").token("jti-1").issued_at_secs(1_700_000_000);
/// assert_eq!(store.check(&credential), Verdict::Clear);
///
/// store.revoke(Revocation::of(Subject::token("jti-1")).because(Reason::Logout).by("alice"))?;
/// assert!(matches!(store.check(&credential), Verdict::Revoked(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    /// Closes the store when the last clone is dropped.
    engine: Arc<Engine>,
}

/// What checks, writes and the threads share.
#[derive(Debug)]
struct Shared {
    denylist: Denylist,
    keyring: Keyring,
    /// The key, if it is kept in the store's directory and so in those of its backups.
    kept_key: Option<Key>,
    policy: Policy,
    /// By what entries are forgotten: what of the policy is recorded. Taken while writing, or for a moment.
    limits: Mutex<Arc<Limits>>,
    /// Credentials that expire at or before this are dead whatever the leeway, in nanoseconds since 1970: what denied them may
    /// be forgotten, here or by a peer.
    expired: AtomicU64,
    clock: Arc<dyn Clock>,
    time: Mutex<BorneOutTime>,
    /// The latest borne-out time that was seen, in nanoseconds since 1970.
    high_water: AtomicU64,
    belief: Belief,
    stamps: Stamps,
    news: News,
    /// Whose marks the store makes. Taken while writing.
    life: Mutex<Life>,
    /// Whether there may be epochs that wait for their time.
    has_pending: AtomicBool,
    /// Whether the time was in doubt when maintenance last looked.
    was_in_doubt: AtomicBool,
    closed: AtomicBool,
    /// Whether, and until when, "nothing denies it" is enough: replicas that have missed something must not say it.
    gate: Gate,
    /// Set once the store is a replica.
    replicating: OnceLock<Arc<Replicating>>,
    retain_labels: bool,
    capacity: usize,
    recovery: RecoveryReport,
    counters: Counters,
    watchers: Watchers,
}

/// What changes the store. Dropping it closes the store.
#[derive(Debug)]
struct Engine {
    shared: Arc<Shared>,
    /// Held from the look at what is known until the commit is on its way and what it denies is applied: commits are sent
    /// in the order in which they are applied, and a snapshot sees whatever the log holds before it.
    writing: Mutex<()>,
    /// None for a store that keeps nothing on disk.
    commits: Option<Sender<Message>>,
    audit: Mutex<Option<AuditQueue>>,
    snapshotter: Option<Snapshotter>,
    /// Set where another process writes, and this one reads along.
    following: Option<Follow>,
    threads: Mutex<Threads>,
    snapshot_after_bytes: u64,
    /// When maintenance tries again what failed.
    retries: Mutex<Retries>,
    /// What a commit is acknowledged as.
    acknowledgement: Acknowledgement,
    /// Held while the filter is rebuilt.
    rebuilding: Mutex<()>,
}

/// The threads of a store, to be joined when it is closed.
#[derive(Debug, Default)]
struct Threads {
    committer: Option<JoinHandle<Result<(), Arc<FileError>>>>,
    auditor: Option<JoinHandle<()>>,
    maintainer: Option<Maintainer>,
    follower: Option<Maintainer>,
}

/// What the statistics count.
#[derive(Debug, Default)]
struct Counters {
    batches: AtomicU64,
    /// Denials that are not in the log, because the disk failed.
    refused: AtomicU64,
    /// How many of them a snapshot has saved.
    saved: AtomicU64,
    /// Why the last of them was refused.
    refusal: Mutex<Option<Arc<FileError>>>,
    /// Bytes of log since the last snapshot.
    log_bytes: AtomicU64,
    snapshot_bytes: AtomicU64,
    snapshots: AtomicU64,
    snapshot_error: Mutex<Option<SnapshotError>>,
    poison: Mutex<Option<Arc<FileError>>>,
    forgotten: AtomicU64,
    forgotten_since_rebuild: AtomicUsize,
    filter_rebuilds: AtomicU64,
    audit_failures: AtomicU64,
    audit_sequence: AtomicU64,
    /// Commits with an epoch beyond borne-out time.
    epochs_beyond: AtomicU64,
}

impl Counters {
    /// How many denials are in memory only, because the disk failed.
    fn unsaved(&self) -> u64 {
        self.refused.load(Ordering::Relaxed).saturating_sub(self.saved.load(Ordering::Relaxed))
    }

    /// Why something is not on disk that should be.
    fn write_error(&self) -> Option<Arc<FileError>> {
        let poison = self.poison.lock().clone();
        poison.or_else(|| if self.unsaved() > 0 { self.refusal.lock().clone() } else { None })
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    #[inline]
    fn expired(&self) -> Timestamp {
        Timestamp::from_nanos(self.expired.load(Ordering::Relaxed))
    }

    fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits.lock())
    }

    fn high_water(&self) -> Timestamp {
        Timestamp::from_nanos(self.high_water.load(Ordering::Relaxed))
    }

    /// Reads the clocks for the disk, where the latest time that was ever borne out must outlast a clock that is set
    /// back: what was forgotten by it stays dead.
    fn reading_for_disk(&self) -> Reading {
        let reading = self.reading();
        Reading { wall: self.high_water(), ..reading }
    }

    /// Reads the clocks, and moves the borne-out time on.
    fn reading(&self) -> Reading {
        self.readings().1
    }

    /// Reads the clocks, as they are and as they are borne out, and moves the borne-out time on.
    fn readings(&self) -> (Timestamp, Reading) {
        let now = Reading::now(&*self.clock);
        let wall = self.time.lock().advance(now.wall, now.boot);
        self.high_water.fetch_max(wall.as_nanos(), Ordering::Relaxed);
        self.belief.show(now.wall, now.boot);
        (now.wall, Reading { wall, ..now })
    }

    /// The time from which on a stamp is kept in mind. A clock that jumped ahead has passed nothing: those of peers have not.
    fn passed(&self) -> Timestamp {
        let (wall, now) = self.readings();
        wall.min(now.wall)
    }

    /// What is ahead of the clock, for the disk.
    fn ahead(&self) -> Ahead {
        let now = self.passed();
        let issuers = self.belief.standing(now, self.clock.boot());
        let (stamps, others) = self.stamps.standing(now, AHEAD_MAX);
        Ahead { issuers, stamps, others }
    }

    /// Takes up what was ahead of the wall clock when it was written down.
    fn restore_ahead(&self, ahead: &Ahead) {
        self.belief.restore(&ahead.issuers, self.clock.boot());
        ahead.stamps.iter().for_each(|(subject, stamp)| self.stamps.note(*subject, *stamp));
        ahead.others.into_iter().for_each(|stamp| self.stamps.note_of_any(stamp));
    }

    /// The time, by everything that there is reason to believe in.
    fn believed_time(&self) -> Time {
        self.weighed_time().0
    }

    /// The time, and how the clocks of peers stand to the wall clock.
    fn weighed_time(&self) -> (Time, Votes) {
        let (wall, now) = self.readings();
        let mut time = Time::new(wall, now.wall, self.policy.skew);
        time.hear(self.high_water());
        time.hear(self.belief.seen());
        let Some(replicating) = self.replicating.get() else { return (time, Votes::default()) };
        let window = replicating.options().stale_after;
        let votes = replicating.clocks.weigh(&mut time, self.policy.skew, now.boot, window);
        if votes.is_confirmed_by_others() {
            self.belief.agree_on(&time);
        }
        // What one of them let in before it was heard is from before that.
        time.hear(self.belief.heard());
        (time, votes)
    }

    /// By how much a credential may be ahead and be let in here or at a peer.
    fn longest_leeway(&self) -> Duration {
        let peers = self.replicating.get().map(|replicating| replicating.clocks.longest_leeway());
        peers.unwrap_or_default().min(LEEWAY_MAX).max(self.policy.leeway)
    }

    /// Keeps in mind what the clocks of peers show, and the latest time that one of them believes in.
    fn hear_clocks(&self, believed: Timestamp) {
        let Some(replicating) = self.replicating.get() else { return };
        let (wall, boot, skew) = (self.clock.wall(), self.clock.boot(), self.policy.skew);
        let mut time = Time::new(wall, wall, skew);
        replicating.clocks.weigh(&mut time, skew, boot, replicating.options().stale_after);
        self.belief.hear_clocks(time.latest);
        // Its own clock may have been set back since it let in what was from then.
        if believed <= wall.saturating_add(skew) {
            self.belief.hear_clocks(believed);
        }
    }
}

impl Store {
    /// Opens the store in a directory, and makes it if there is none, with the default [`Options`].
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing that the directory holds has changed.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        Options::new().open(directory)
    }

    /// A store that keeps nothing on disk, with the default [`Options`]: the same laws, for tests and for what need not
    /// survive.
    ///
    /// It starts no thread: call [`Store::maintain`] now and then if it is to forget.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::assemble_in_memory(&Options::new())
    }

    /// The verdict on a credential: whether any subject that it names is revoked.
    ///
    /// It takes no I/O, allocates nothing and makes no system call that blocks. Only [`Verdict::Clear`] lets in.
    pub fn check(&self, credential: &Credential<'_>) -> Verdict {
        self.shared.check(Presented::alone(credential))
    }

    /// The verdicts on many credentials, in their order. What `verdicts` held before is gone.
    pub fn check_many(&self, credentials: &[Credential<'_>], verdicts: &mut Vec<Verdict>) {
        self.shared.check_many(credentials, verdicts);
    }

    /// Revokes a subject, and waits until that is acknowledged. When this returns, every later check denies.
    ///
    /// # Errors
    /// See [`WriteError`]. After [`WriteError::NotDurable`] the denial is in memory all the same; after any other error
    /// nothing has changed.
    pub fn revoke(&self, revocation: Revocation) -> Result<Receipt, WriteError> {
        self.submit(revocation)?.wait()
    }

    /// Revokes a subject. When this returns, every later check denies; what is returned is the acknowledgement to come,
    /// to be awaited or waited for.
    ///
    /// # Errors
    /// As [`Store::revoke`], except that [`WriteError::NotDurable`] comes with the acknowledgement.
    pub fn submit(&self, revocation: Revocation) -> Result<Pending, WriteError> {
        self.engine.submit(Command::Revoke(revocation))
    }

    /// Revokes many subjects in one commit: after a crash all of them are remembered, or none.
    ///
    /// # Errors
    /// As [`Store::revoke`]; [`WriteError::InBatch`] names the one that was refused, and then nothing of the batch has
    /// changed.
    pub fn revoke_many(&self, revocations: impl IntoIterator<Item = Revocation>) -> Result<Receipt, WriteError> {
        self.submit_many(revocations)?.wait()
    }

    /// [`Store::revoke_many`], with the acknowledgement to come.
    ///
    /// # Errors
    /// As [`Store::revoke_many`], except that [`WriteError::NotDurable`] comes with the acknowledgement.
    pub fn submit_many(&self, revocations: impl IntoIterator<Item = Revocation>) -> Result<Pending, WriteError> {
        self.engine.submit_many(revocations.into_iter().map(Command::Revoke))
    }

    /// Disables a user, client, device or tenant until it is enabled again: every credential of it is dead, new ones
    /// too. It also makes everyone concerned authenticate again after an `enable`.
    ///
    /// # Errors
    /// As [`Store::revoke`].
    pub fn disable(&self, change: impl Into<Change>) -> Result<Receipt, WriteError> {
        self.engine.submit(Command::Disable(change.into()))?.wait()
    }

    /// Clears the flag that `disable` set, and nothing else: credentials from before stay dead.
    ///
    /// It undoes the disablings that this replica knows of. Check [`Receipt::changed`]: it is 0 if there was none.
    ///
    /// # Errors
    /// See [`WriteError`]. After any error the subject is still disabled.
    pub fn enable(&self, change: impl Into<Change>) -> Result<Receipt, WriteError> {
        self.engine.submit(Command::Enable(change.into()))?.wait()
    }

    /// Takes back the revocations of a subject: the denial of a token, session or family, or the epochs of a wide
    /// subject. Credentials that were dead by them alone live again. A flag stays; see [`Store::enable`].
    ///
    /// It undoes the revocations that this replica knows of; one made elsewhere meanwhile still binds. Check
    /// [`Receipt::changed`]: it is 0 if there was none.
    ///
    /// # Errors
    /// See [`WriteError`]. After any error the revocations still bind.
    pub fn lift(&self, change: impl Into<Change>) -> Result<Receipt, WriteError> {
        self.engine.submit(Command::Lift(change.into()))?.wait()
    }

    /// Gives the epochs of a subject that lie in the future the present time: for a subject that was revoked while the clock was
    /// ahead ([`Receipt::beyond_borne_out`]), so that people who log in now are not locked out until then. Credentials from
    /// before now stay dead. Check [`Receipt::changed`]: it is 0 if no epoch lies in the future.
    ///
    /// # Errors
    /// See [`WriteError`]. After any error the epochs are what they were.
    pub fn restate_epochs(&self, change: impl Into<Change>) -> Result<Receipt, WriteError> {
        self.engine.submit(Command::Restate(change.into()))?.wait()
    }

    /// Sets the maximum age of the credentials of a tenant, or of everyone, counted as
    /// [`Options::max_credential_age`] counts it. It is kept in the log, binds every replica, and replaces what was set
    /// before; of this and the ages in the options the shortest binds. Of two settings that were made at the same time on two
    /// replicas the shorter one binds until it is set anew.
    ///
    /// If it is longer than before, whatever was dead by age stays dead.
    ///
    /// # Errors
    /// As [`Store::revoke`]. The subject must be a tenant or everyone, without an issuer, and the age not zero.
    pub fn set_max_credential_age(&self, change: impl Into<Change>, age: Duration) -> Result<Receipt, WriteError> {
        self.engine.submit(Command::SetAge(change.into(), Some(age)))?.wait()
    }

    /// Removes the maximum age that [`Store::set_max_credential_age`] has set. Whatever was dead by age stays dead. Check
    /// [`Receipt::changed`]: it is 0 if none was set.
    ///
    /// # Errors
    /// See [`WriteError`]. After any error the age still binds.
    pub fn clear_max_credential_age(&self, change: impl Into<Change>) -> Result<Receipt, WriteError> {
        self.engine.submit(Command::SetAge(change.into(), None))?.wait()
    }

    /// Gives epochs their time that were made while the clock was in doubt, if it no longer is. Maintenance does it once a
    /// second: this is for tools, and for whoever must know that it is done.
    ///
    /// [`Receipt::changed`] counts the subjects that have been settled, [`Receipt::pending`] those that still wait: all of
    /// them while the time is in doubt, and those of peers while this replica cannot tell whose clock is right.
    ///
    /// # Errors
    /// See [`WriteError`]. After any error those that were not settled still wait, and are denied outright.
    pub fn settle_epochs(&self) -> Result<Receipt, WriteError> {
        self.engine.settle_epochs()
    }

    /// A handle that acts inside one tenant and cannot name another.
    ///
    /// # Errors
    /// When the tenant's name is empty or too long.
    pub fn tenant(&self, tenant: impl Into<String>) -> Result<TenantStore, InvalidSubject> {
        let tenant = tenant.into();
        Subject::tenant(tenant.as_str()).validate()?;
        Ok(TenantStore::new(self.clone(), tenant.into_boxed_str()))
    }

    /// Returns the whole second to stamp as `iat` and `auth_time` on a credential that is issued now to these subjects:
    /// this second or, if an epoch that binds them lies in it, the first second after that epoch.
    ///
    /// For issuers whose claims are whole seconds: a session that is started in the second of a revocation would be dead
    /// at birth. The next second is inside every verifier's leeway. A revocation that is made from here on binds the
    /// credential that carries the stamp, although the stamp is ahead of the clock.
    ///
    /// While an epoch that binds the subjects is pending, no stamp is admissible; see [`Receipt::pending`].
    #[must_use]
    pub fn admissible_from(&self, credential: &Credential<'_>) -> Timestamp {
        self.shared.admissible_from(Presented::alone(credential))
    }

    /// How many subjects have an entry.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.denylist.len()
    }

    /// Whether no subject has an entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which key the store's identities are derived from.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.shared.keyring.id()
    }

    /// Flushes everything to disk and to the audit sinks, and ends the store. From then on checks of what is not revoked
    /// give [`Unknown`](Verdict::Unknown), and writes fail. It is also done, without a word, when the last clone of the
    /// store is dropped.
    ///
    /// If denials are in memory only, because the disk failed, it tries once more to save them.
    ///
    /// # Errors
    /// When something that was acknowledged as accepted may not be on disk, or a denial could not be saved. The store is
    /// closed all the same.
    pub fn close(&self) -> Result<(), CloseError> {
        self.engine.close()
    }
}
