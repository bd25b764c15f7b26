//! `FRESH`: until when a writer that is a replica knows that it has heard of everything, for those who read its log along.
//!
//! A writer that is no replica has missed nothing, and there is no such file. It is written in place and never waited for: it
//! says when it ends.

use std::io;
use std::sync::Arc;

use crate::clock::Reading;
use crate::storage::{Storage, StorageFile, read_all};

use super::format::{FileKind, HEADER_BYTES, Header};
use super::{FileError, StoreIdentity, create_whole};

pub(super) const FILE: &str = "FRESH";

/// The way to the file.
#[derive(Debug)]
pub(crate) struct Fresh {
    file: Box<dyn StorageFile>,
    identity: StoreIdentity,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// There is no such file.
    Nothing,
    /// It was being written: what it said before holds.
    Torn,
    /// Until when its writer is fresh, in nanoseconds since boot, and when that was said.
    Until(u64, Reading),
}

impl Fresh {
    /// Makes the file.
    pub(crate) fn create(
        storage: &Arc<dyn Storage>,
        identity: StoreIdentity,
        until: u64,
        reading: Reading,
    ) -> Result<Self, FileError> {
        let header = header(identity, until, reading);
        let file = create_whole(&**storage, FILE, |file| file.write_all_at(&header, 0))?;
        Ok(Self { file, identity })
    }

    /// Says until when the writer is fresh.
    pub(crate) fn write(&mut self, until: u64, reading: Reading) -> Result<(), FileError> {
        self.file.write_all_at(&header(self.identity, until, reading), 0).map_err(FileError::of("write", FILE))
    }
}

fn header(identity: StoreIdentity, until: u64, reading: Reading) -> [u8; HEADER_BYTES] {
    let StoreIdentity { store_id, key_id } = identity;
    Header { kind: FileKind::Fresh, store_id, key_id, batch: 0, file_bytes: until, chain: 0, reading }.encode()
}

pub(super) fn read(storage: &dyn Storage, identity: StoreIdentity) -> Result<Told, FileError> {
    let file = match storage.open(FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Told::Nothing),
        found => found.map_err(FileError::of("open", FILE))?,
    };
    let bytes = match read_all(&*file, HEADER_BYTES as u64) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Ok(Told::Torn),
        read => read.map_err(FileError::of("read", FILE))?,
    };
    Ok(match Header::decode(&bytes, FileKind::Fresh) {
        Ok(header) if (header.store_id, header.key_id) == (identity.store_id, identity.key_id) => {
            Told::Until(header.file_bytes, header.reading)
        }
        _ => Told::Torn,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::format::FORMAT;
    use super::*;
    use crate::model::{KeyId, Timestamp};
    use crate::storage::MemoryStorage;

    /// The bytes of the manual's picture: a reader of another version finds them where they are.
    #[test]
    fn it_is_written_as_the_manual_says() {
        let identity = StoreIdentity { store_id: [1; 16], key_id: KeyId::from_bytes([2; 16]) };
        let reading = Reading { wall: Timestamp::from_nanos(3), boot: Duration::from_nanos(4), boot_id: 5 };
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        assert_eq!(read(&*storage, identity).unwrap(), Told::Nothing);
        let mut fresh = Fresh::create(&storage, identity, 0, reading).unwrap();
        fresh.write(6, reading).unwrap();
        assert_eq!(read(&*storage, identity).unwrap(), Told::Until(6, reading));
        let bytes = read_all(&*storage.open(FILE).unwrap(), 128).unwrap();
        let words: Vec<u64> = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(&bytes[..8], b"RSCNDFRS");
        assert_eq!(
            (words[1], &words[6..12]),
            (u64::from(FORMAT) | 128 << 32, &[0, 6, 0, 3, 4, 5][..]),
            "format and length, and the fields"
        );
        // Of another store, or torn: it says nothing.
        let other = StoreIdentity { store_id: [9; 16], ..identity };
        assert_eq!(read(&*storage, other).unwrap(), Told::Torn);
        storage.open(FILE).unwrap().write_all_at(&[0xff], 60).unwrap();
        assert_eq!(read(&*storage, identity).unwrap(), Told::Torn);
    }
}
