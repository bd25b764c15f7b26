//! One file of the log.
//!
//! A segment is written full of zeros and synced before its name appears, so that a file that is too short is damage
//! and never a torn tail, and so that a sync of an appended batch has no file length to write.

use std::sync::Arc;

use crate::clock::Reading;
use crate::storage::{Storage, StorageFile};
use crate::sync::Mutex;

use super::format::{FileKind, FrameHeader, FrameKind, HEADER_BYTES, Header, Seed};
use super::{FileError, Position, StoreIdentity, finish_or_remove, prepare_whole, publish};

/// How much is zeroed at a time.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A segment open for appending.
#[derive(Debug)]
pub(super) struct Segment {
    file: Box<dyn StorageFile>,
    name: String,
    seed: Seed,
    offset: u64,
    file_bytes: u64,
}

/// A segment made ahead of its time, under a name that recovery removes: room on the disk that is the store's already
/// when nobody else gets any, and less to do when the log goes on in a new segment. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Spare {
    file_bytes: u64,
    file: Arc<Mutex<Option<Box<dyn StorageFile>>>>,
}

/// What the spare segment is called, less the ending of what is temporary.
const SPARE: &str = "spare";

impl Spare {
    pub(super) fn new(file_bytes: u64) -> Self {
        Self { file_bytes, file: Arc::default() }
    }

    /// Makes it, unless it is there.
    pub(crate) fn prepare(&self, storage: &dyn Storage) -> Result<(), FileError> {
        let mut slot = self.file.lock();
        if slot.is_none() {
            *slot = Some(prepare_whole(storage, SPARE, |file| write_zeros(file, 0, self.file_bytes))?);
        }
        Ok(())
    }

    /// Forgets it, for it is removed by what is done meanwhile.
    pub(super) fn gone_while<T>(&self, done: impl FnOnce() -> T) -> T {
        let mut slot = self.file.lock();
        slot.take();
        done()
    }
}

pub(super) fn name(first_batch: u64) -> String {
    format!("wal-{first_batch:016x}.log")
}

/// Writes `bytes` zeros from `offset` on.
pub(super) fn write_zeros(file: &mut dyn StorageFile, mut offset: u64, end: u64) -> std::io::Result<()> {
    while offset < end {
        let chunk = usize::try_from(end - offset).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all_at(ZEROS.get(..chunk).unwrap_or(&ZEROS), offset)?;
        offset += chunk as u64;
    }
    Ok(())
}

/// Why there is no new segment.
#[derive(Debug)]
pub(super) enum BeginError {
    /// It has not got its name.
    NotBegun(FileError),
    /// It may have got its name, or not.
    Unknown(FileError),
}

impl Segment {
    /// Makes the segment that follows `last`, of the spare one if that fits, and publishes it: nothing may be written to it
    /// before.
    pub(super) fn begin(
        storage: &dyn Storage,
        identity: StoreIdentity,
        last: Position,
        file_bytes: u64,
        reading: Reading,
        spare: Option<&Spare>,
    ) -> Result<Self, BeginError> {
        let header = Header {
            kind: FileKind::Segment,
            store_id: identity.store_id,
            key_id: identity.key_id,
            batch: last.batch + 1,
            file_bytes,
            chain: last.chain,
            reading,
        };
        let name = name(header.batch);
        // Held until the spare one has another name, for the next one is made under the same.
        let mut spare = spare.filter(|spare| spare.file_bytes == file_bytes).map(|spare| spare.file.lock());
        let (made, file) = match spare.as_mut().and_then(|spare| spare.take()) {
            Some(mut file) => {
                let written = file.write_all_at(&header.encode(), 0);
                finish_or_remove(storage, SPARE, &mut *file, written).map_err(BeginError::NotBegun)?;
                (SPARE, file)
            }
            None => {
                let file = prepare_whole(storage, &name, |file| {
                    file.write_all_at(&header.encode(), 0)?;
                    write_zeros(file, HEADER_BYTES as u64, file_bytes)
                });
                (&*name, file.map_err(BeginError::NotBegun)?)
            }
        };
        publish(storage, made, &name).map_err(BeginError::Unknown)?;
        let seed = identity.seed();
        Ok(Self { file, name, seed, offset: HEADER_BYTES as u64, file_bytes })
    }

    /// A segment that recovery has read, to be continued at `offset`.
    pub(super) fn resume(file: Box<dyn StorageFile>, name: String, seed: Seed, offset: u64, file_bytes: u64) -> Self {
        Self { file, name, seed, offset, file_bytes }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How many more bytes fit.
    pub(super) fn room(&self) -> u64 {
        self.file_bytes.saturating_sub(self.offset)
    }

    pub(super) fn append(&mut self, frame: &[u8]) -> Result<(), FileError> {
        self.file.write_all_at(frame, self.offset).map_err(FileError::of("write to", &self.name))?;
        self.offset += frame.len() as u64;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), FileError> {
        self.file.sync().map_err(FileError::of("sync", &self.name))
    }

    /// Marks that the log goes on in the segment after `last`.
    pub(super) fn end(&mut self, last: Position, reading: Reading) -> Result<(), FileError> {
        let header = FrameHeader {
            kind: FrameKind::End,
            payload_bytes: 0,
            batch: last.batch + 1,
            previous: last.chain,
            synced: last.batch,
            reading,
        };
        let mut frame = Vec::new();
        header.write(&[], self.seed, &mut frame);
        self.append(&frame)?;
        self.sync()
    }
}
