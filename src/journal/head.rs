//! What a directory is: `STORE` and `KEY`, read and made.
//!
//! `STORE` is made last. A directory without it is one where a first open did not end, or is none of ours.

use std::io;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::clock::Reading;
use crate::model::{Key, KeyId, Keyring};
use crate::storage::{Storage, read_all};

use super::format::{FileKind, HEADER_BYTES, Header};
use super::recovery::{RecoveryError, SEGMENT_BYTES_MAX, corrupt, list, read_header};
use super::segment::{self, BeginError, Segment};
use super::{FileError, Position, SnapshotWriteError, SnapshotWriter, StoreIdentity, create_whole};

pub(super) const STORE_FILE: &str = "STORE";
pub(super) const KEY_FILE: &str = "KEY";

/// Where the key comes from.
#[derive(Debug)]
pub(crate) enum KeySource {
    /// It was made on first open and is kept in the store's directory.
    Stored,
    /// It is given, and never written down.
    Given(Key),
}

/// Whose files these are, by `STORE`, and the key that belongs to them.
pub(super) fn read_identity(
    storage: &dyn Storage,
    names: &[String],
    key: KeySource,
) -> Result<(StoreIdentity, Keyring, Option<Key>), RecoveryError> {
    let identity = read_store(storage)?;
    let (key, is_kept) = match key {
        KeySource::Given(key) => (key, false),
        KeySource::Stored if names.iter().any(|name| name == KEY_FILE) => (read_key(storage)?, true),
        KeySource::Stored => return Err(RecoveryError::KeyMissing),
    };
    let keyring = Keyring::new(&key);
    if keyring.id() != identity.key_id {
        return Err(RecoveryError::WrongKey { expected: identity.key_id, given: keyring.id() });
    }
    Ok((identity, keyring, is_kept.then_some(key)))
}

pub(super) fn read_store(storage: &dyn Storage) -> Result<StoreIdentity, RecoveryError> {
    let file = storage.open(STORE_FILE).map_err(FileError::of("open", STORE_FILE))?;
    let bytes = match read_all(&*file, HEADER_BYTES as u64) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(corrupt(STORE_FILE, HEADER_BYTES as u64, "it is longer than a header"));
        }
        result => result.map_err(FileError::of("read", STORE_FILE))?,
    };
    let header = read_header(&bytes, FileKind::Store, STORE_FILE)?;
    Ok(StoreIdentity { store_id: header.store_id, key_id: header.key_id })
}

pub(super) fn read_key(storage: &dyn Storage) -> Result<Key, RecoveryError> {
    let file = storage.open(KEY_FILE).map_err(FileError::of("open", KEY_FILE))?;
    let bytes = Zeroizing::new(read_all(&*file, 32).map_err(FileError::of("read", KEY_FILE))?);
    let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| corrupt(KEY_FILE, 0, "it is not 32 bytes long"))?;
    Ok(Key::from_bytes(key))
}

/// Makes a new store, of what a first open that did not end may have left.
pub(super) fn initialise(
    storage: &dyn Storage,
    names: &[String],
    key: KeySource,
    segment_bytes: u64,
    now: Reading,
) -> Result<(StoreIdentity, Keyring, Option<Key>), RecoveryError> {
    let first_segment = segment::name(1);
    for name in names {
        let is_left_over = name.ends_with(".tmp") || *name == first_segment || name == KEY_FILE;
        if !is_left_over {
            return Err(corrupt(STORE_FILE, 0, "it is missing, and the directory is not empty"));
        }
        if *name == first_segment {
            let file = storage.open(name).map_err(FileError::of("open", name))?;
            let bytes = read_all(&*file, SEGMENT_BYTES_MAX).map_err(FileError::of("read", name))?;
            if bytes.get(HEADER_BYTES..).unwrap_or_default().iter().any(|byte| *byte != 0) {
                return Err(corrupt(STORE_FILE, 0, "it is missing, and the log is not empty"));
            }
        }
    }
    let (key, is_kept) = match key {
        KeySource::Given(key) => (key, false),
        KeySource::Stored if names.iter().any(|name| name == KEY_FILE) => (read_key(storage)?, true),
        KeySource::Stored => {
            let key = Key::generate().map_err(FileError::of("make a random key for", KEY_FILE))?;
            create_key(storage, &key)?;
            (key, true)
        }
    };
    let keyring = Keyring::new(&key);
    let identity = begin_store(storage, keyring.id(), segment_bytes, now)?;
    end_store(storage, identity, now)?;
    Ok((identity, keyring, is_kept.then_some(key)))
}

/// Gives a new store its id, and makes its first segment.
fn begin_store(
    storage: &dyn Storage,
    key_id: KeyId,
    segment_bytes: u64,
    now: Reading,
) -> Result<StoreIdentity, FileError> {
    let mut store_id = [0; 16];
    getrandom::fill(&mut store_id)
        .map_err(|error| FileError::of("make a random id for", STORE_FILE)(io::Error::other(error.to_string())))?;
    let identity = StoreIdentity { store_id, key_id };
    let begun = Segment::begin(storage, identity, Position::default(), segment_bytes, now, None);
    begun.map_err(|(BeginError::NotBegun(error) | BeginError::Unknown(error))| error)?;
    Ok(identity)
}

/// Makes `STORE`, and so a store of the directory.
fn end_store(storage: &dyn Storage, identity: StoreIdentity, reading: Reading) -> Result<(), FileError> {
    let StoreIdentity { store_id, key_id } = identity;
    let header = Header { kind: FileKind::Store, store_id, key_id, batch: 0, file_bytes: 0, chain: 0, reading };
    create_whole(storage, STORE_FILE, |file| file.write_all_at(&header.encode(), 0)).map(drop)
}

fn create_key(storage: &dyn Storage, key: &Key) -> Result<(), FileError> {
    create_whole(storage, KEY_FILE, |file| file.write_all_at(key.as_bytes(), 0)).map(drop)
}

/// How long the segment of a store is made that is filled otherwise: the next is as long as whoever opens it wants.
const FIRST_SEGMENT_BYTES: u64 = 64 * 1024;

/// Makes a store of an empty directory, with an id of its own, that holds what `fill` adds, and gives what that gives and
/// the length of its snapshot in bytes. The key is kept in it if it is given.
pub(crate) fn create_filled<T, E: From<FileError> + From<SnapshotWriteError>>(
    storage: &Arc<dyn Storage>,
    key_id: KeyId,
    key: Option<&Key>,
    reading: Reading,
    fill: impl FnOnce(&mut SnapshotWriter) -> Result<T, E>,
) -> Result<(T, u64), E> {
    if !list(&**storage)?.is_empty() {
        let error = io::Error::new(io::ErrorKind::DirectoryNotEmpty, "it is not empty: choose a new one");
        return Err(FileError::of("make a store of", "the directory")(error).into());
    }
    let identity = begin_store(&**storage, key_id, FIRST_SEGMENT_BYTES, reading)?;
    let mut writer = SnapshotWriter::create(Arc::clone(storage), identity, Position::default(), reading)?;
    let filled = fill(&mut writer)?;
    let bytes = writer.finish()?;
    if let Some(key) = key {
        create_key(&**storage, key)?;
    }
    end_store(&**storage, identity, reading)?;
    Ok((filled, bytes))
}
