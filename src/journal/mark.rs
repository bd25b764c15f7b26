//! `MARK`: how far the log was once on disk, said outside the log, so that a log that ends earlier is known for damaged
//! and not taken for one whose last commit was cut short.
//!
//! It is written in place, and mostly without a sync: it may be behind, or torn, and then vouches for less. It is never
//! ahead, for what it names is on disk before it is written.

use crate::clock::Reading;
use crate::storage::{Storage, StorageFile, read_all};

use super::format::{FileKind, HEADER_BYTES, Header};
use super::{FileError, Position, StoreIdentity, create_whole};

pub(super) const FILE: &str = "MARK";

/// The way to the file. It is made when it is first written.
#[derive(Debug, Default)]
pub(super) struct Mark {
    file: Option<Box<dyn StorageFile>>,
}

/// What it says; none if it is not there, or torn.
pub(super) fn read(storage: &dyn Storage, names: &[String]) -> Result<Option<Header>, FileError> {
    if !names.iter().any(|name| name == FILE) {
        return Ok(None);
    }
    let file = storage.open(FILE).map_err(FileError::of("open", FILE))?;
    match read_all(&*file, HEADER_BYTES as u64) {
        Ok(bytes) => Ok(Header::decode(&bytes, FileKind::Mark).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => Ok(None),
        Err(error) => Err(FileError::of("read", FILE)(error)),
    }
}

impl Mark {
    /// Says that everything up to `position` is on disk, which it is.
    pub(super) fn write(
        &mut self,
        storage: &dyn Storage,
        identity: StoreIdentity,
        position: Position,
        reading: Reading,
    ) -> Result<&mut dyn StorageFile, FileError> {
        let Position { batch, chain } = position;
        let StoreIdentity { store_id, key_id } = identity;
        let header = Header { kind: FileKind::Mark, store_id, key_id, batch, file_bytes: 0, chain, reading }.encode();
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                let file = match storage.open(FILE) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        create_whole(storage, FILE, |file| file.write_all_at(&header, 0))?
                    }
                    found => found.map_err(FileError::of("open", FILE))?,
                };
                empty.insert(file)
            }
        };
        file.write_all_at(&header, 0).map_err(FileError::of("write", FILE))?;
        Ok(&mut **file)
    }
}
