//! What can go wrong, by operation.

use std::sync::Arc;
use std::time::Duration;

use crate::journal::{FileError, RecoveryError};
use crate::model::{InvalidRevocation, InvalidSubject, Timestamp};
use crate::storage::DirectoryError;

/// A store was not opened. Nothing was changed, but for a directory that may have been made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory cannot be used: in use by another process, a symbolic link, writable by others, no permission.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// What is in the directory cannot be used: another key, an unknown format, damage.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The options contradict each other.
    #[error("{0}")]
    Options(&'static str),
    /// A tenant named in the options cannot be named.
    #[error("a tenant in the options: {0}")]
    Tenant(#[source] InvalidSubject),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] Arc<std::io::Error>),
}

/// A change was not made, or not made durable.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The command makes no sense. Nothing has changed.
    #[error(transparent)]
    Invalid(#[from] InvalidRevocation),
    /// The epoch is further in the future than the allowed skew: it would deny everyone until then. Nothing has changed.
    #[error("the epoch {epoch} lies more than {} after now ({now}): check the clock that made it", humantime::format_duration(*skew))]
    EpochInFuture {
        /// The epoch.
        epoch: Timestamp,
        /// The wall clock.
        now: Timestamp,
        /// How far in the future an epoch may lie.
        skew: Duration,
    },
    /// What was to be revoked has expired by its own retention, leeway included. Nothing has changed, and nothing had
    /// to: no credential of it is alive.
    #[error("the retention {until} has passed (now {now}): it has expired already, or the time is wrong")]
    RetentionInPast {
        /// The retention.
        until: Timestamp,
        /// The wall clock.
        now: Timestamp,
    },
    /// The store holds as many entries as it may, and never drops a live one. Nothing has changed.
    #[error(
        "the store holds {entries} entries, its capacity is {capacity}: raise Options::capacity, or revoke something wider"
    )]
    CapacityExceeded {
        /// How many entries there are.
        entries: usize,
        /// The configured capacity.
        capacity: usize,
    },
    /// The batch does not fit one commit. Nothing has changed.
    #[error("the batch takes {bytes} bytes, one commit takes at most {limit}: split it")]
    BatchTooLarge {
        /// What it takes.
        bytes: usize,
        /// What one commit takes at most.
        limit: usize,
    },
    /// The change is not on disk. A *revocation* or a *disabling* is in memory all the same and denies in this process;
    /// it is saved by the next snapshot that succeeds, which maintenance tries again and again. An *enabling* or a *lift*
    /// was not made: repeat it.
    #[error("not durable: {0}. A revocation denies in this process all the same; free the disk, and take a snapshot")]
    NotDurable(Arc<FileError>),
    /// The store was closed. Nothing has changed.
    #[error("the store is closed: open it again")]
    Closed,
    /// The store was opened read-only. Nothing has changed.
    #[error("the store was opened read-only, and follows what another process writes: revoke there")]
    ReadOnly,
    /// One command of a batch was refused. Nothing of the batch has changed.
    #[error("command {index} of the batch: {source}")]
    InBatch {
        /// Its place, counted from 0.
        index: usize,
        /// Why.
        source: Box<WriteError>,
    },
}

impl From<InvalidSubject> for WriteError {
    fn from(error: InvalidSubject) -> Self {
        Self::Invalid(error.into())
    }
}

/// There is no new snapshot. The store goes on with the snapshot and the log that it has; nothing is lost.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A file could not be written.
    #[error("no snapshot was taken: {0}")]
    File(Arc<FileError>),
    /// The snapshot did not read back as it was written.
    #[error("no snapshot was taken: {0}")]
    NotTrustworthy(String),
    /// An earlier write failed, and the log cannot be gone on with either. Nothing more is written until that succeeds;
    /// what is in memory can be saved elsewhere, with [`Store::backup`](crate::Store::backup).
    #[error("no snapshot was taken: an earlier write failed ({error}), and the log cannot be gone on with: {source}")]
    Poisoned {
        /// What failed first.
        error: Arc<FileError>,
        /// Why the log cannot be gone on with.
        source: Arc<RecoveryError>,
    },
    /// A write was not durable while the snapshot was taken, which may hold a part of it.
    #[error("no snapshot was taken, a write failed meanwhile: take it again")]
    Interrupted,
    /// The store was closed.
    #[error("the store is closed: open it again")]
    Closed,
    /// The store was opened read-only: whoever writes it takes the snapshots.
    #[error("the store was opened read-only: have the process that writes it take the snapshot")]
    ReadOnly,
}

/// There is no new store. That which was to be copied has not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file could not be written, or there is something in the directory already
    /// ([`DirectoryNotEmpty`](std::io::ErrorKind::DirectoryNotEmpty)).
    #[error("no store was made: {0}")]
    File(Arc<FileError>),
    /// What was written did not read back as it was.
    #[error("no store was made: {0}")]
    NotTrustworthy(String),
    /// A write to the store was not durable meanwhile, and a part of it may have been copied.
    #[error("no store was made, a write to the one that is copied failed meanwhile: do it again, in a new directory")]
    Interrupted,
}

impl From<FileError> for CopyError {
    fn from(error: FileError) -> Self {
        Self::File(Arc::new(error))
    }
}

impl From<SnapshotError> for CopyError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::File(error) => Self::File(error),
            SnapshotError::NotTrustworthy(what) => Self::NotTrustworthy(what),
            _ => Self::Interrupted,
        }
    }
}

/// The store is closed, and something that was acknowledged as accepted may not be on disk.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The last sync failed, or a write before it, and a snapshot could not make up for it. What is in memory can still
    /// be saved elsewhere while a clone of the store lives, with [`Store::backup`](crate::Store::backup).
    #[error("closed, but not everything is on disk: {0}")]
    NotDurable(Arc<FileError>),
}
