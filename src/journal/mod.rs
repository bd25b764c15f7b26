//! The write-ahead log: segments of group commits, snapshots, and recovery from both.
//!
//! A *batch* is one group commit and one frame of a segment. It is durable once [`Journal::sync`] has returned. A
//! *snapshot* holds the effect of every batch up to its own number, so that older segments can go.

mod follow;
mod format;
mod fresh;
mod head;
mod mark;
mod recovery;
mod segment;
mod snapshot;
mod survey;

use std::io;
use std::sync::Arc;

use crate::clock::Reading;
use crate::codec::Record;
use crate::model::{KeyId, Rows};
use crate::storage::{Storage, StorageFile};
pub(crate) use follow::{Follower, follow};
pub(crate) use format::PAYLOAD_BYTES_MAX;
use format::{BATCH_MAX, FRAME_OVERHEAD, FrameHeader, FrameKind, HEADER_BYTES, Seed};
pub(crate) use fresh::{Fresh, Told};
pub(crate) use head::{KeySource, create_filled};
use mark::Mark;
pub use recovery::{RecoveryError, RecoveryReport};
pub(crate) use recovery::{inspect, recover};
pub(crate) use segment::Spare;
use segment::{BeginError, Segment};
pub(crate) use snapshot::{SnapshotWriteError, SnapshotWriter};
pub(crate) use survey::survey;
pub use survey::{Damage, FileSummary};

/// The room that the frame which ends a segment takes.
const END_BYTES: u64 = FRAME_OVERHEAD as u64;

/// An operation on a file of the store failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {file}: {source}")]
pub struct FileError {
    /// What was to be done.
    pub operation: &'static str,
    /// The name of the file within the store's directory.
    pub file: String,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn of(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { operation, file: file.to_owned(), source }
    }
}

/// Whose files these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreIdentity {
    pub(crate) store_id: [u8; 16],
    pub(crate) key_id: KeyId,
}

impl StoreIdentity {
    fn seed(&self) -> Seed {
        Seed::of(&self.store_id)
    }
}

/// A place in the log: everything up to and including a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) batch: u64,
    /// The checksum of that batch's frame.
    pub(crate) chain: u64,
}

/// Where a segment ends that is being written, and whether that is on disk.
#[derive(Debug)]
pub(crate) struct Journal {
    storage: Arc<dyn Storage>,
    identity: StoreIdentity,
    /// How long a new segment is made, in bytes.
    segment_bytes: u64,
    segment: Segment,
    spare: Spare,
    mark: Mark,
    written: Position,
    synced: Position,
    /// Bytes of frames written since the journal was opened, or has healed.
    bytes_written: u64,
    frame: Vec<u8>,
}

/// What recovery reads, as it reads it. Blocks of a snapshot may come from several threads at once.
#[derive(Debug)]
pub(crate) enum Loaded {
    Record(Record),
    Rows(Rows),
}

/// Why a batch is not in the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// Nothing of it was written: the next append may succeed.
    #[error(transparent)]
    NotWritten(FileError),
    /// It is not known what of it was written: nothing more may be appended.
    #[error(transparent)]
    Poisoned(FileError),
}

impl Journal {
    /// Bytes of frames written since the journal was opened, or has healed.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Writes one batch, without waiting for the disk.
    pub(crate) fn append(&mut self, payload: &[u8], reading: Reading) -> Result<Position, AppendError> {
        // Reached only where a file was forged: 2^63 commits take longer than there is. The end frame has the next number.
        if self.written.batch >= BATCH_MAX - 1 {
            let error = io::Error::other("there are no more numbers for batches");
            return Err(AppendError::NotWritten(FileError::of("write to", "the log")(error)));
        }
        let frame_bytes = (payload.len() + FRAME_OVERHEAD) as u64;
        if self.segment.room() < frame_bytes + END_BYTES {
            self.rotate(frame_bytes, reading)?;
        }
        let batch = self.written.batch + 1;
        let header = FrameHeader {
            kind: FrameKind::Records,
            payload_bytes: payload.len(),
            batch,
            previous: self.written.chain,
            synced: self.synced.batch,
            reading,
        };
        self.frame.clear();
        let chain = header.write(payload, self.identity.seed(), &mut self.frame);
        self.segment.append(&self.frame).map_err(AppendError::Poisoned)?;
        self.bytes_written += frame_bytes;
        self.written = Position { batch, chain };
        Ok(self.written)
    }

    /// Waits until everything written is on disk.
    ///
    /// # Errors
    /// After an error nothing more may be appended, and the sync must not be tried again: the kernel may have dropped
    /// what it could not write, and a second attempt would report success.
    pub(crate) fn sync(&mut self) -> Result<Position, FileError> {
        if self.synced.batch < self.written.batch {
            self.segment.sync()?;
            self.synced = self.written;
        }
        Ok(self.synced)
    }

    /// Goes on in a new segment with room for at least one frame of `frame_bytes`.
    fn rotate(&mut self, frame_bytes: u64, reading: Reading) -> Result<(), AppendError> {
        self.sync().map_err(AppendError::Poisoned)?;
        let bytes = self.segment_bytes.max(HEADER_BYTES as u64 + frame_bytes + END_BYTES);
        let next = Segment::begin(&*self.storage, self.identity, self.written, bytes, reading, Some(&self.spare));
        let next = next.map_err(|error| match error {
            BeginError::NotBegun(error) => AppendError::NotWritten(error),
            // If it is there, nothing may follow the last batch elsewhere.
            BeginError::Unknown(error) => AppendError::Poisoned(error),
        })?;
        // The new segment is on disk before the old one says that it has a successor. One that was still empty has no
        // successor: the new one has taken its name.
        if next.name() != self.segment.name() {
            self.segment.end(self.written, reading).map_err(AppendError::Poisoned)?;
        }
        self.segment = next;
        Ok(())
    }

    /// Goes on after a failed write or sync: reads back what is on disk, as if the store were opened, and begins a new
    /// segment. What was never acknowledged is wiped: what was written but not synced too, where `only_synced` says that
    /// this was not enough. The sync that failed is not tried again; what it may have dropped is written anew.
    ///
    /// # Errors
    /// After an error nothing may be appended still.
    pub(crate) fn heal(&mut self, only_synced: bool, reading: Reading) -> Result<(), RecoveryError> {
        let up_to = if only_synced { self.synced } else { self.written };
        let read = recovery::read_log(&*self.storage, self.identity, up_to.batch, &|_, _| {})?;
        // The spare segment is removed with all that is temporary.
        let tidy = || read.tidy(Arc::clone(&self.storage), self.segment_bytes, reading);
        let healed = self.spare.gone_while(tidy)?;
        *self = Self { spare: self.spare.clone(), ..healed };
        self.rotate(0, reading)
            .map_err(|(AppendError::NotWritten(error) | AppendError::Poisoned(error))| RecoveryError::File(error))
    }

    /// The place of the segment that is made ahead of its time.
    pub(crate) fn spare(&self) -> Spare {
        self.spare.clone()
    }

    /// The last batch that is known to be on disk.
    pub(crate) fn synced_batch(&self) -> u64 {
        self.synced.batch
    }

    /// Says in `MARK` how far the log is on disk.
    pub(crate) fn mark(&mut self, reading: Reading) -> Result<(), FileError> {
        self.mark.write(&*self.storage, self.identity, self.synced, reading).map(drop)
    }

    /// The same, and waits until that is on disk.
    pub(crate) fn mark_durably(&mut self, reading: Reading) -> Result<(), FileError> {
        let file = self.mark.write(&*self.storage, self.identity, self.synced, reading)?;
        file.sync().map_err(FileError::of("sync", mark::FILE))
    }

    /// Begins a snapshot of everything up to `base`, which must be on disk.
    pub(crate) fn snapshot_writer(
        storage: Arc<dyn Storage>,
        identity: StoreIdentity,
        base: Position,
        reading: Reading,
    ) -> Result<SnapshotWriter, FileError> {
        SnapshotWriter::create(storage, identity, base, reading)
    }
}

/// The name under which a file is written before it takes its own.
fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

/// A new file under a temporary name, in place of what a crash may have left there.
fn create_temporary(storage: &dyn Storage, name: &str) -> Result<Box<dyn StorageFile>, FileError> {
    let temporary = temporary(name);
    match storage.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::of("remove", &temporary)(error));
        }
        _ => {}
    }
    storage.create(&temporary).map_err(FileError::of("create", &temporary))
}

/// Gives a synced temporary file, `made` as if for one name, a name.
fn publish(storage: &dyn Storage, made: &str, name: &str) -> Result<(), FileError> {
    storage.rename(&temporary(made), name).map_err(FileError::of("rename into", name))?;
    storage.sync_directory().map_err(FileError::of("sync the directory of", name))
}

/// A file that is whole and synced, but still under its temporary name.
fn prepare_whole(
    storage: &dyn Storage,
    name: &str,
    fill: impl FnOnce(&mut dyn StorageFile) -> io::Result<()>,
) -> Result<Box<dyn StorageFile>, FileError> {
    let mut file = create_temporary(storage, name)?;
    let filled = fill(&mut *file);
    finish_or_remove(storage, name, &mut *file, filled)?;
    Ok(file)
}

/// Syncs a temporary file if it could be written, and removes it if it could not: what could not be written for want of
/// room must not take what room there is. Opening removes it otherwise.
fn finish_or_remove(
    storage: &dyn Storage,
    name: &str,
    file: &mut dyn StorageFile,
    written: io::Result<()>,
) -> Result<(), FileError> {
    let written = written.map_err(FileError::of("write", name));
    let synced = written.and_then(|()| file.sync().map_err(FileError::of("sync", name)));
    synced.inspect_err(|_| _ = storage.remove(&temporary(name)).ok())
}

/// Makes a whole file appear under its name, or not at all.
fn create_whole(
    storage: &dyn Storage,
    name: &str,
    fill: impl FnOnce(&mut dyn StorageFile) -> io::Result<()>,
) -> Result<Box<dyn StorageFile>, FileError> {
    let file = prepare_whole(storage, name, fill)?;
    publish(storage, name, name)?;
    Ok(file)
}
