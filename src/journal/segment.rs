//! One file of the log.
//!
//! A segment is written full of zeros and synced before its name appears, so that a file that is too short is damage
//! and never a torn tail, and so that a sync of an appended batch has no file length to write.

use crate::clock::Reading;
use crate::storage::{Storage, StorageFile};

use super::format::{FileKind, FrameHeader, FrameKind, HEADER_BYTES, Header};
use super::{FileError, Position, StoreIdentity, prepare_whole, publish};

/// How much is zeroed at a time.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A segment open for appending.
#[derive(Debug)]
pub(super) struct Segment {
    file: Box<dyn StorageFile>,
    name: String,
    offset: u64,
    file_bytes: u64,
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

impl Segment {
    /// Makes the segment that follows `last`, to be published before anything is written to it.
    pub(super) fn prepare(
        storage: &dyn Storage,
        identity: StoreIdentity,
        last: Position,
        file_bytes: u64,
        reading: Reading,
    ) -> Result<Self, FileError> {
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
        let file = prepare_whole(storage, &name, |file| {
            file.write_all_at(&header.encode(), 0)?;
            write_zeros(file, HEADER_BYTES as u64, file_bytes)
        })?;
        Ok(Self { file, name, offset: HEADER_BYTES as u64, file_bytes })
    }

    /// Gives it its name.
    pub(super) fn publish(&self, storage: &dyn Storage) -> Result<(), FileError> {
        publish(storage, &self.name)
    }

    /// A segment that recovery has read, to be continued at `offset`.
    pub(super) fn resume(file: Box<dyn StorageFile>, name: String, offset: u64, file_bytes: u64) -> Self {
        Self { file, name, offset, file_bytes }
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
        header.write(&[], &mut frame);
        self.append(&frame)?;
        self.sync()
    }
}
