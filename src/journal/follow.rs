//! Reading along while another process writes the log. Nothing is edited, and no lock is held.
//!
//! Frames are taken as soon as they are whole, for what they deny may be denied before it is acknowledged. What they undo
//! may not: that waits until a later frame or `MARK` says that they are on disk, for a writer whose sync fails takes them
//! back. Who writes tells by and by: it goes on in the next segment, removes old ones once a snapshot is taken, and after a
//! failure wipes what it never acknowledged. Where the log is no longer what was read, it is read anew.

use std::sync::Arc;

use crate::clock::Reading;
use crate::codec::{self, Record};
use crate::model::{Key, Keyring};
use crate::storage::{Storage, StorageFile};

use super::format::{
    FRAME_HEADER_BYTES, FRAME_OVERHEAD, FRAME_TRAILER_BYTES, FileKind, Frame, FrameHeader, FrameKind, HEADER_BYTES,
};
use super::head::{KeySource, STORE_FILE, read_identity};
use super::recovery::{EVERYTHING, corrupt, list, read_header, read_log};
use super::{FileError, Loaded, Position, RecoveryError, RecoveryReport, StoreIdentity, Told, fresh, mark, segment};

/// How much is read at a time, unless a frame is longer.
const CHUNK_BYTES: u64 = 64 * 1024;
/// How often the log is read before it is taken for damaged: whoever writes meanwhile may have moved what was looked for.
const ATTEMPTS: u32 = 5;

/// Somebody else's log, as far as it has been read.
#[derive(Debug)]
pub(crate) struct Follower {
    storage: Arc<dyn Storage>,
    identity: StoreIdentity,
    file: Box<dyn StorageFile>,
    name: String,
    file_bytes: u64,
    /// Where the next frame goes.
    offset: u64,
    /// The last batch that was read.
    position: Position,
    /// The last batch that is known to be on disk.
    synced: u64,
    /// The last clock reading.
    reading: Option<Reading>,
    chunk: Vec<u8>,
}

/// Where reading along begins.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) follower: Follower,
    pub(crate) keyring: Keyring,
    pub(crate) kept_key: Option<Key>,
    pub(crate) report: RecoveryReport,
}

/// Reads all that there is, and gives every record to `visit`, with the batch that it came in, or 0 if it came in a snapshot.
pub(crate) fn follow(
    storage: Arc<dyn Storage>,
    key: KeySource,
    visit: &(dyn Fn(u64, Loaded) + Sync),
) -> Result<Followed, RecoveryError> {
    let names = list(&*storage)?;
    if !names.iter().any(|name| name == STORE_FILE) {
        return Err(RecoveryError::NoStore);
    }
    let (identity, keyring, kept_key) = read_identity(&*storage, &names, key)?;
    let mut attempt = 1;
    loop {
        match Follower::read(Arc::clone(&storage), identity, visit) {
            Ok((follower, report)) => return Ok(Followed { follower, keyring, kept_key, report }),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(_) => attempt += 1,
        }
    }
}

impl Follower {
    fn read(
        storage: Arc<dyn Storage>,
        identity: StoreIdentity,
        visit: &(dyn Fn(u64, Loaded) + Sync),
    ) -> Result<(Self, RecoveryReport), RecoveryError> {
        let read = read_log(&*storage, identity, EVERYTHING, visit)?;
        let name = read.tail.name;
        let (file, file_bytes) = open(&*storage, identity, &name, None)?;
        let follower = Self {
            storage,
            identity,
            file,
            name,
            file_bytes,
            offset: read.tail.offset,
            position: read.position,
            synced: read.synced,
            reading: read.last_reading,
            chunk: Vec::new(),
        };
        Ok((follower, read.report))
    }

    /// Reads everything again: what was missed is in it, and what was read before is no different the second time.
    pub(crate) fn reread(&mut self, visit: &(dyn Fn(u64, Loaded) + Sync)) -> Result<(), RecoveryError> {
        (*self, _) = Self::read(Arc::clone(&self.storage), self.identity, visit)?;
        Ok(())
    }

    /// The last batch that was read.
    pub(crate) fn batch(&self) -> u64 {
        self.position.batch
    }

    /// The last batch that is known to be on disk.
    pub(crate) fn synced(&self) -> u64 {
        self.synced
    }

    /// The last clock reading.
    pub(crate) fn reading(&self) -> Option<Reading> {
        self.reading
    }

    /// What `FRESH` says.
    pub(crate) fn told(&self) -> Result<Told, FileError> {
        fresh::read(&*self.storage, self.identity)
    }

    /// What `MARK` says was on disk once, and so must be found by whoever reads on after this; 0 if that is not known.
    pub(crate) fn marked(&mut self) -> Result<u64, RecoveryError> {
        let mark = mark::read(&*self.storage, &[mark::FILE.to_owned()]);
        let mark = match mark {
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => None,
            mark => mark?,
        };
        let Some(mark) = mark else { return Ok(0) };
        if (mark.store_id, mark.key_id) != (self.identity.store_id, self.identity.key_id) {
            return Err(corrupt(mark::FILE, 16, "it belongs to another store"));
        }
        Ok(mark.batch)
    }

    /// Takes it that a batch was on disk once.
    pub(crate) fn vouch(&mut self, marked: u64) {
        self.synced = self.synced.max(marked.min(self.position.batch));
    }

    /// Reads what has been written since, and gives every record to `visit`, with its batch. Everything that was acknowledged
    /// before this was called has been given when it returns `true`; `false` means that the log must be read anew.
    pub(crate) fn poll(&mut self, visit: &mut dyn FnMut(u64, Record)) -> Result<bool, RecoveryError> {
        loop {
            if self.offset == HEADER_BYTES as u64 {
                // While it is empty, another may have taken its name.
                let (file, file_bytes) = open(&*self.storage, self.identity, &self.name, Some(self.position))?;
                (self.file, self.file_bytes) = (file, file_bytes);
            }
            // The checksum of the frame before, and the header of the next one.
            let room = self.file_bytes.saturating_sub(self.offset).min(FRAME_HEADER_BYTES as u64);
            self.load(self.offset - FRAME_TRAILER_BYTES as u64, room + FRAME_TRAILER_BYTES as u64)?;
            let Some((last, next)) = self.chunk.split_first_chunk::<FRAME_TRAILER_BYTES>() else { return Ok(false) };
            let is_first = self.offset == HEADER_BYTES as u64;
            if !is_first && u64::from_le_bytes(*last) != self.position.chain {
                return Ok(false);
            }
            let seed = self.identity.seed();
            // What is not whole was not acknowledged.
            let Some(header) = FrameHeader::decode(next, seed) else { return Ok(true) };
            if header.batch != self.position.batch + 1 || header.previous != self.position.chain {
                return Ok(false);
            }
            let frame_bytes = (header.payload_bytes + FRAME_OVERHEAD) as u64;
            let room = self.file_bytes.saturating_sub(self.offset);
            self.load(self.offset, frame_bytes.max(CHUNK_BYTES).min(room))?;
            let chunk = std::mem::take(&mut self.chunk);
            let taken = self.take(&chunk, visit);
            self.chunk = chunk;
            match taken? {
                Taken::Frames => {}
                Taken::Nothing => return Ok(true),
                Taken::End => {
                    let name = segment::name(self.position.batch + 1);
                    match open(&*self.storage, self.identity, &name, Some(self.position)) {
                        // It was there before the segment was ended: it is gone again.
                        Err(RecoveryError::File(error)) if error.source.kind() == std::io::ErrorKind::NotFound => {
                            return Ok(false);
                        }
                        opened => (self.file, self.file_bytes) = opened?,
                    }
                    (self.name, self.offset) = (name, HEADER_BYTES as u64);
                }
                Taken::Reset => return Ok(false),
            }
        }
    }

    /// Takes what frames there are, and goes on behind them.
    fn take(&mut self, chunk: &[u8], visit: &mut dyn FnMut(u64, Record)) -> Result<Taken, RecoveryError> {
        let seed = self.identity.seed();
        let (mut rest, mut taken) = (chunk, Taken::Nothing);
        while let Some(frame) = Frame::decode(rest, seed) {
            let header = frame.header;
            if header.batch != self.position.batch + 1 || header.previous != self.position.chain {
                break;
            }
            match header.kind {
                FrameKind::End => {
                    self.synced = self.synced.max(header.synced);
                    return Ok(Taken::End);
                }
                FrameKind::Rows => return Err(corrupt(&self.name, self.offset, "a block of a snapshot")),
                FrameKind::Records => {}
            }
            codec::decode_all(frame.payload, |record| visit(header.batch, record))
                .map_err(|_| corrupt(&self.name, self.offset, "a record does not decode"))?;
            self.position = Position { batch: header.batch, chain: frame.checksum };
            self.synced = self.synced.max(header.synced);
            self.reading = Some(header.reading);
            self.offset += frame.bytes() as u64;
            // Nothing is committed where something is in a snapshot that the log never had.
            if frame.payload.is_empty() {
                return Ok(Taken::Reset);
            }
            taken = Taken::Frames;
            rest = rest.get(frame.bytes()..).unwrap_or_default();
        }
        Ok(taken)
    }

    fn load(&mut self, offset: u64, bytes: u64) -> Result<(), FileError> {
        self.chunk.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
        self.file.read_exact_at(&mut self.chunk, offset).map_err(FileError::of("read", &self.name))
    }
}

/// What was found behind what had been read.
enum Taken {
    Frames,
    Nothing,
    End,
    Reset,
}

/// A segment, and how long it is; if it is known after what it comes, that is looked at, too.
fn open(
    storage: &dyn Storage,
    identity: StoreIdentity,
    name: &str,
    after: Option<Position>,
) -> Result<(Box<dyn StorageFile>, u64), RecoveryError> {
    let file = storage.open(name).map_err(FileError::of("open", name))?;
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(FileError::of("read", name))?;
    let header = read_header(&bytes, FileKind::Segment, name)?;
    if (header.store_id, header.key_id) != (identity.store_id, identity.key_id) {
        return Err(corrupt(name, 16, "it belongs to another store"));
    }
    if after.is_some_and(|after| (after.batch + 1, after.chain) != (header.batch, header.chain)) {
        return Err(corrupt(name, 48, "it does not follow the segment before it"));
    }
    Ok((file, header.file_bytes))
}
