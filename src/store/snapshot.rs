//! Everything in memory, written down: snapshots, which let the log go and save what a failed disk did not take, and
//! backups, which are stores of their own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::Reading;
use crate::codec::{Ahead, Limits, Record};
use crate::denylist::Denylist;
use crate::journal::{
    FileError, Fresh, Journal, Position, SnapshotWriteError, SnapshotWriter, Spare, StoreIdentity, create_filled,
};
use crate::storage::{FileStorage, Storage};
use crate::sync::Mutex;
use crate::sync::channel::{Sender, bounded};

use super::committer::Message;
use super::{CopyError, Engine, SnapshotError, Store, events};

/// What a snapshot or a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// How many entries.
    pub entries: u64,
    /// The length of the snapshot's file in bytes; 0 for a store that keeps nothing on disk.
    pub bytes: u64,
}

impl Store {
    /// Writes everything into a new snapshot, so that the log before it can go. Checks and revocations go on meanwhile.
    ///
    /// After a write has failed, it is also the way out, without reopening: the log goes on in a new segment, and what
    /// denies in memory only is on disk when this returns. Maintenance does the same by itself, with growing pauses.
    ///
    /// # Errors
    /// See [`SnapshotError`]. The store goes on with the snapshot and the log that it has; nothing is lost.
    pub fn snapshot(&self) -> Result<SnapshotReport, SnapshotError> {
        self.engine.snapshot()
    }

    /// Writes everything into a new directory, which is then a store of its own with the same key. Checks and revocations
    /// go on meanwhile, except where the log cannot be written: then revocations wait for it.
    ///
    /// It needs nothing of the store's own directory, so it also saves what a store holds whose disk is lost.
    ///
    /// # Errors
    /// See [`CopyError`]. The store has not changed. What was written so far is no store, and can be removed.
    pub fn backup(&self, directory: impl AsRef<Path>) -> Result<SnapshotReport, CopyError> {
        let storage = FileStorage::open(directory.as_ref())?;
        self.backup_on(Arc::new(storage))
    }

    /// The same on another storage, which must be empty.
    ///
    /// # Errors
    /// As [`Store::backup`].
    pub fn backup_on(&self, storage: Arc<dyn Storage>) -> Result<SnapshotReport, CopyError> {
        self.engine.backup(&storage)
    }
}

impl Engine {
    pub(super) fn snapshot(&self) -> Result<SnapshotReport, SnapshotError> {
        if self.following.is_some() {
            return Err(SnapshotError::ReadOnly);
        }
        let Some(snapshotter) = &self.snapshotter else {
            return Ok(SnapshotReport { entries: self.shared.denylist.len() as u64, bytes: 0 });
        };
        let result = snapshotter.take(self);
        events::snapshot(&result);
        let counters = &self.shared.counters;
        *counters.snapshot_error.lock() = result.as_ref().err().cloned();
        if let Ok(report) = &result {
            counters.snapshots.fetch_add(1, Ordering::Relaxed);
            counters.snapshot_bytes.store(report.bytes, Ordering::Relaxed);
        }
        result
    }

    /// Asks the committer for something that it does once everything is done that was applied before.
    pub(super) fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Message) -> Result<T, SnapshotError> {
        let commits = self.commits.as_ref().ok_or(SnapshotError::Closed)?;
        let (reply, answer) = bounded(1);
        {
            // What is applied is sent under this lock, so that all of it stands before the message.
            let _writing = self.writing.lock();
            // The committer answers nothing that comes after it was told to close.
            if self.shared.is_closed() {
                return Err(SnapshotError::Closed);
            }
            commits.send(question(reply)).map_err(|_| SnapshotError::Closed)?;
        }
        // It gives no answer only if it has panicked.
        let poison = || self.shared.counters.poison.lock().clone();
        answer.recv().map_err(|_| poison().map_or(SnapshotError::Closed, SnapshotError::File))
    }

    /// Syncs everything that has been applied, and says where the log is then.
    fn sync_point(&self) -> Result<Position, SnapshotError> {
        self.ask(Message::Sync)?.map_err(SnapshotError::File)
    }

    /// Makes a batch that says nothing, so that the next snapshot is one of another batch.
    fn commit_nothing(&self) -> Result<(), SnapshotError> {
        self.ask(Message::Nothing)?.map_err(SnapshotError::File)
    }

    /// Goes on after a failed write, and tells whether there was one.
    fn heal(&self) -> Result<bool, SnapshotError> {
        let poison = self.shared.counters.poison.lock().clone();
        let Some(error) = poison else { return Ok(false) };
        let healed = self.ask(Message::Heal)?;
        healed.map_err(|source| SnapshotError::Poisoned { error, source: Arc::new(source) })?;
        events::healed();
        Ok(true)
    }

    fn backup(&self, storage: &Arc<dyn Storage>) -> Result<SnapshotReport, CopyError> {
        let shared = &*self.shared;
        let (key_id, key) = (shared.keyring.id(), shared.kept_key.as_ref());
        let refused = shared.counters.refused.load(Ordering::Relaxed);
        // A commit is in memory before it is acknowledged: what is copied half of it must not be. Where a log is written,
        // it is waited for until it is in there; otherwise nothing is written meanwhile.
        let is_logged = self.commits.is_some() && !shared.is_closed() && shared.counters.poison.lock().is_none();
        let writing = (!is_logged).then(|| self.writing.lock());
        let fill = |writer: &mut SnapshotWriter| {
            let entries = write_all(writer, &shared.limits(), shared.ahead(), &shared.denylist)?;
            if is_logged {
                self.sync_point()?;
                if shared.counters.refused.load(Ordering::Relaxed) != refused {
                    return Err(CopyError::Interrupted);
                }
            }
            Ok::<_, CopyError>(entries)
        };
        let reading = shared.reading_for_disk();
        let (entries, bytes) = create_filled(storage, key_id, key, reading, fill)?;
        drop(writing);
        Ok(SnapshotReport { entries, bytes })
    }
}

/// Writes limits and entries, and gives the number of entries.
pub(super) fn write_all(
    writer: &mut SnapshotWriter,
    limits: &Limits,
    ahead: Ahead,
    denylist: &Denylist,
) -> Result<u64, SnapshotWriteError> {
    writer.add(&Record::Limits(limits.clone()))?;
    if ahead != Ahead::default() {
        writer.add(&Record::Ahead(ahead))?;
    }
    let mut entries = 0;
    // Nothing is written to disk under a lock that a check might wait for.
    for rows in denylist.rows() {
        entries += rows.rows.len() as u64;
        writer.add_rows(&rows)?;
    }
    for item in denylist.others() {
        writer.add(&Record::Entry(item))?;
        entries += 1;
    }
    Ok(entries)
}

/// Takes snapshots, one at a time.
#[derive(Debug)]
pub(super) struct Snapshotter {
    /// Gone once the store is closed, so that the directory's lock is.
    storage: Mutex<Option<Arc<dyn Storage>>>,
    identity: StoreIdentity,
    spare: Spare,
}

impl Snapshotter {
    pub(super) fn new(storage: Arc<dyn Storage>, identity: StoreIdentity, spare: Spare) -> Self {
        Self { storage: Mutex::new(Some(storage)), identity, spare }
    }

    /// Lets go of the storage.
    pub(super) fn release(&self) {
        self.storage.lock().take();
    }

    /// Makes the segment that the log goes on in, unless it is there.
    pub(super) fn prepare_spare(&self) -> Result<(), FileError> {
        let storage = self.storage.lock().clone();
        storage.map_or(Ok(()), |storage| self.spare.prepare(&*storage))
    }

    /// The file by which those who read the store along are told how fresh it is; none once it is closed.
    pub(super) fn fresh(&self, reading: Reading) -> Result<Option<Fresh>, FileError> {
        let storage = self.storage.lock().clone();
        storage.map(|storage| Fresh::create(&storage, self.identity, 0, reading)).transpose()
    }

    fn take(&self, engine: &Engine) -> Result<SnapshotReport, SnapshotError> {
        let storage = self.storage.lock();
        let Some(storage) = &*storage else { return Err(SnapshotError::Closed) };
        let is_healed = engine.heal()?;
        let counters = &engine.shared.counters;
        // All that was refused before this is in memory, and so will be in the snapshot.
        let (refused, unsaved) = (counters.refused.load(Ordering::Relaxed), counters.unsaved());
        let mut report = self.take_one(engine, storage)?;
        if unsaved > 0 || is_healed {
            // What the log never had, or has lost, must be in both of the snapshots that are kept: if the last should turn
            // out damaged, the one before it and the log hold the same.
            engine.commit_nothing()?;
            report = self.take_one(engine, storage)?;
        }
        counters.saved.fetch_max(refused, Ordering::Relaxed);
        Ok(report)
    }

    fn take_one(&self, engine: &Engine, storage: &Arc<dyn Storage>) -> Result<SnapshotReport, SnapshotError> {
        let shared = &*engine.shared;
        let log_bytes = shared.counters.log_bytes.load(Ordering::Relaxed);
        let refused = shared.counters.refused.load(Ordering::Relaxed);
        let base = engine.sync_point()?;
        let mut writer = Journal::snapshot_writer(Arc::clone(storage), self.identity, base, shared.reading_for_disk())
            .map_err(SnapshotWriteError::File)?;
        let entries = write_all(&mut writer, &shared.limits(), shared.ahead(), &shared.denylist)?;
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

impl From<SnapshotWriteError> for CopyError {
    fn from(error: SnapshotWriteError) -> Self {
        match error {
            SnapshotWriteError::File(error) => Self::File(Arc::new(error)),
            other => Self::NotTrustworthy(other.to_string()),
        }
    }
}
