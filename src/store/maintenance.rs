//! What has to be done now and then: forget, rebuild the filter, take a snapshot. By a thread, or by hand.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::codec::Record;
use crate::journal::{FileError, Journal, Position, SnapshotWriteError, StoreIdentity};
use crate::model::{Digest, Timestamp, WideEntry};
use crate::storage::Storage;

use super::committer::Message;
use super::{Engine, Shared, SnapshotError, Store};

/// How often the thread looks.
const PERIOD: Duration = Duration::from_secs(1);

/// What one round of maintenance did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// How many entries were forgotten, their retention having ended.
    pub forgotten: usize,
    /// Whether the filter was rebuilt.
    pub filter_rebuilt: bool,
    /// The snapshot, if one was due.
    pub snapshot: Option<Result<SnapshotReport, SnapshotError>>,
}

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// How many entries.
    pub entries: u64,
    /// The length of the file in bytes; 0 for a store that keeps nothing on disk.
    pub bytes: u64,
}

impl Store {
    /// Does what the store's own thread does once a second: forgets entries whose retention has ended, rebuilds the
    /// filter if it no longer fits, takes a snapshot if the log has grown. Several may call it at once.
    pub fn maintain(&self) -> MaintenanceReport {
        self.engine.maintain()
    }

    /// Writes everything into a new snapshot, so that the log before it can go. Checks and revocations go on meanwhile.
    ///
    /// # Errors
    /// See [`SnapshotError`]. The store goes on with the snapshot and the log that it has; nothing is lost.
    pub fn snapshot(&self) -> Result<SnapshotReport, SnapshotError> {
        self.engine.snapshot()
    }
}

impl Engine {
    fn maintain(&self) -> MaintenanceReport {
        let counters = &self.shared.counters;
        let forgotten = self.shared.forget();
        let filter_rebuilt = self.fit_filter();
        let log_bytes = counters.log_bytes.load(Ordering::Relaxed);
        let snapshot_bytes = counters.snapshot_bytes.load(Ordering::Relaxed);
        let is_due = log_bytes > self.snapshot_after_bytes.max(snapshot_bytes.saturating_mul(2));
        MaintenanceReport { forgotten, filter_rebuilt, snapshot: is_due.then(|| self.snapshot()) }
    }

    /// Rebuilds the filter if it no longer fits.
    pub(super) fn fit_filter(&self) -> bool {
        // One rebuild at a time; whoever comes second finds nothing left to do.
        let _rebuilding = self.rebuilding.lock();
        let counters = &self.shared.counters;
        let gone = counters.forgotten_since_rebuild.load(Ordering::Relaxed);
        let unfit = self.shared.denylist.filter_is_unfit(gone);
        if unfit {
            self.shared.denylist.rebuild_filter(1);
            counters.forgotten_since_rebuild.fetch_sub(gone, Ordering::Relaxed);
            counters.filter_rebuilds.fetch_add(1, Ordering::Relaxed);
        }
        unfit
    }

    fn snapshot(&self) -> Result<SnapshotReport, SnapshotError> {
        let Some(snapshotter) = &self.snapshotter else {
            return Ok(SnapshotReport { entries: self.shared.denylist.len() as u64, bytes: 0 });
        };
        let result = snapshotter.take(self);
        let counters = &self.shared.counters;
        *counters.snapshot_error.lock() = result.as_ref().err().cloned();
        if let Ok(report) = &result {
            counters.snapshots.fetch_add(1, Ordering::Relaxed);
            counters.snapshot_bytes.store(report.bytes, Ordering::Relaxed);
        }
        result
    }

    /// Syncs everything that has been applied, and says where the log is then.
    fn sync_point(&self) -> Result<Position, SnapshotError> {
        let commits = self.commits.as_ref().ok_or(SnapshotError::Closed)?;
        let (reply, answer) = bounded(1);
        {
            // What is applied is sent under this lock, so that all of it stands before the message.
            let _writing = self.writing.lock();
            // The committer answers nothing that comes after it was told to close.
            if self.shared.is_closed() {
                return Err(SnapshotError::Closed);
            }
            commits.send(Message::Sync(reply)).map_err(|_| SnapshotError::Closed)?;
        }
        answer.recv().map_err(|_| SnapshotError::Closed)?.map_err(SnapshotError::Poisoned)
    }
}

impl Shared {
    /// Forgets what may be forgotten: see `manual::semantics` for why that changes no verdict.
    fn forget(&self) -> usize {
        let now = self.reading().wall;
        let kept = self.policy.kept_beyond();
        let ended = now.saturating_sub(kept).saturating_sub(self.policy.leeway);
        let over = |entry: &WideEntry, scope: Option<Digest>| {
            let Some(age) = self.limits.age_in(scope) else { return false };
            let end = entry.latest().saturating_add(Duration::from_nanos(age)).saturating_add(kept);
            entry.disabled_since().is_none() && end < now && end != Timestamp::MAX
        };
        let forgotten = self.denylist.forget(ended, over);
        self.counters.forgotten.fetch_add(forgotten as u64, Ordering::Relaxed);
        self.counters.forgotten_since_rebuild.fetch_add(forgotten, Ordering::Relaxed);
        forgotten
    }
}

/// Takes snapshots, one at a time.
#[derive(Debug)]
pub(super) struct Snapshotter {
    /// Gone once the store is closed, so that the directory's lock is.
    storage: Mutex<Option<Arc<dyn Storage>>>,
    identity: StoreIdentity,
}

impl Snapshotter {
    pub(super) fn new(storage: Arc<dyn Storage>, identity: StoreIdentity) -> Self {
        Self { storage: Mutex::new(Some(storage)), identity }
    }

    /// Lets go of the storage.
    pub(super) fn release(&self) {
        self.storage.lock().take();
    }

    fn take(&self, engine: &Engine) -> Result<SnapshotReport, SnapshotError> {
        let storage = self.storage.lock();
        let Some(storage) = &*storage else { return Err(SnapshotError::Closed) };
        let shared = &*engine.shared;
        let log_bytes = shared.counters.log_bytes.load(Ordering::Relaxed);
        let refused = shared.counters.refused.load(Ordering::Relaxed);
        let base = engine.sync_point()?;
        let mut writer = Journal::snapshot_writer(Arc::clone(storage), self.identity, base, shared.reading_for_disk())
            .map_err(SnapshotWriteError::File)?;
        writer.add(&Record::Limits(shared.limits.clone()))?;
        let mut entries = 0;
        // Nothing is written to disk under a lock that a check might wait for.
        for rows in shared.denylist.rows() {
            entries += rows.rows.len() as u64;
            writer.add_rows(&rows)?;
        }
        for item in shared.denylist.others() {
            writer.add(&Record::Entry(item))?;
            entries += 1;
        }
        // What the walk saw of a batch is in the snapshot; all of that batch must be in the log before it counts.
        engine.sync_point()?;
        if shared.counters.refused.load(Ordering::Relaxed) != refused {
            return Err(SnapshotError::Interrupted);
        }
        let bytes = writer.finish()?;
        shared.counters.log_bytes.fetch_sub(log_bytes, Ordering::Relaxed);
        Ok(SnapshotReport { entries, bytes })
    }
}

impl From<SnapshotWriteError> for SnapshotError {
    fn from(error: SnapshotWriteError) -> Self {
        match error {
            SnapshotWriteError::File(error) => Self::File(Arc::new(error)),
            other => Self::NotTrustworthy(other.to_string()),
        }
    }
}

impl From<FileError> for SnapshotError {
    fn from(error: FileError) -> Self {
        Self::File(Arc::new(error))
    }
}

/// The thread that maintains a store.
#[derive(Debug)]
pub(super) struct Maintainer {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Maintainer {
    /// The thread holds the store only while it works, so that dropping the last clone ends it.
    pub(super) fn start(engine: &Arc<Engine>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(1);
        let engine: Weak<Engine> = Arc::downgrade(engine);
        let thread = std::thread::Builder::new().name("rescind-maintain".into()).spawn(move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                let Some(engine) = engine.upgrade() else { return };
                engine.maintain();
            }
        })?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        // If the last clone was dropped while this thread held the store, it is this thread that closes it.
        if self.thread.thread().id() != std::thread::current().id() {
            self.thread.join().ok();
        }
    }
}
