//! The bytes of the files: headers and frames. Pictures of them are in [`manual::format`](crate::manual::format).
//!
//! Integers are little-endian. Every checksum is XXH3-64, in frames seeded with the store's id: what somebody has had
//! written *into* a frame, as an actor's name for instance, does not pass for one.

use std::time::Duration;

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::clock::Reading;
use crate::model::{KeyId, Timestamp};

/// The version of the format. A store of another version is not opened. Earlier ones were never released.
pub(crate) const FORMAT: u32 = 4;
pub(crate) const HEADER_BYTES: usize = 128;
pub(crate) const FRAME_HEADER_BYTES: usize = 72;
pub(crate) const FRAME_TRAILER_BYTES: usize = 8;
/// What a frame adds to its payload.
pub(crate) const FRAME_OVERHEAD: usize = FRAME_HEADER_BYTES + FRAME_TRAILER_BYTES;
/// The longest payload of one frame, and so of one commit, in bytes.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The highest number of a batch. None was ever written: it leaves room to count on from any number that was read.
pub(crate) const BATCH_MAX: u64 = u64::MAX >> 1;

const FRAME_MAGIC: [u8; 4] = *b"RFRM";
const CHECKSUM_AT: usize = HEADER_BYTES - 8;
const FRAME_CHECKSUM_AT: usize = FRAME_HEADER_BYTES - 8;

/// What the checksums of frames start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u64);

/// Headers name the store themselves, and stand where nothing else does.
const UNSEEDED: Seed = Seed(0);

impl Seed {
    pub(crate) fn of(store_id: &[u8; 16]) -> Self {
        Self(Reader(store_id).u64().unwrap_or_default())
    }
}

/// What a file is, as its first eight bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Store,
    Segment,
    Snapshot,
    Mark,
    Fresh,
}

impl FileKind {
    const fn magic(self) -> [u8; 8] {
        match self {
            Self::Store => *b"RSCNDSTR",
            Self::Segment => *b"RSCNDWAL",
            Self::Snapshot => *b"RSCNDSNP",
            Self::Mark => *b"RSCNDMRK",
            Self::Fresh => *b"RSCNDFRS",
        }
    }
}

/// The first bytes of `STORE`, of `MARK`, of `FRESH`, of every segment and of every snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FileKind,
    pub(crate) store_id: [u8; 16],
    pub(crate) key_id: KeyId,
    /// Of a segment the first batch, of a snapshot the last one it holds, of the mark the last one that is on disk.
    pub(crate) batch: u64,
    /// Of a segment the length of the file; of `FRESH` until when its writer is, in nanoseconds since boot.
    pub(crate) file_bytes: u64,
    /// The checksum of the last frame before this file; of the mark that of its batch.
    pub(crate) chain: u64,
    pub(crate) reading: Reading,
}

/// Why bytes are not the header that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Too short, of another kind, or with a wrong checksum.
    Damaged,
    /// Of a version that this code does not know.
    Format(u32),
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Fields::<HEADER_BYTES>::new();
        out.put(&self.kind.magic());
        out.put(&FORMAT.to_le_bytes());
        out.put(&(HEADER_BYTES as u32).to_le_bytes());
        out.put(&self.store_id);
        out.put(self.key_id.as_bytes());
        for word in [self.batch, self.file_bytes, self.chain] {
            out.put(&word.to_le_bytes());
        }
        out.put_reading(self.reading);
        out.seal(CHECKSUM_AT, UNSEEDED)
    }

    pub(crate) fn decode(bytes: &[u8], kind: FileKind) -> Result<Self, HeaderError> {
        let mut fields = Reader(bytes);
        let magic: [u8; 8] = fields.take().ok_or(HeaderError::Damaged)?;
        if magic != kind.magic() {
            return Err(HeaderError::Damaged);
        }
        let format = fields.u32().ok_or(HeaderError::Damaged)?;
        let sealed = bytes.get(..HEADER_BYTES).is_some_and(|bytes| is_sealed(bytes, CHECKSUM_AT, UNSEEDED));
        if !sealed {
            // A later version may have another header: its number is all that can be believed.
            return Err(if format > FORMAT { HeaderError::Format(format) } else { HeaderError::Damaged });
        }
        if format != FORMAT {
            return Err(HeaderError::Format(format));
        }
        (|| {
            fields.u32()?;
            Some(Self {
                kind,
                store_id: fields.take()?,
                key_id: KeyId::from_bytes(fields.take()?),
                batch: fields.u64()?,
                file_bytes: fields.u64()?,
                chain: fields.u64()?,
                reading: fields.reading()?,
            })
        })()
        .filter(|header| header.batch <= BATCH_MAX)
        .ok_or(HeaderError::Damaged)
    }
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// One group commit of a segment, or one block of a snapshot.
    Records,
    /// The end of a segment that has a successor, or of a snapshot.
    End,
    /// One block of a snapshot that holds rows.
    Rows,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) payload_bytes: usize,
    /// The number of the commit, or of the block.
    pub(crate) batch: u64,
    /// The checksum of the frame before.
    pub(crate) previous: u64,
    /// The last batch that was known to be on disk when this was written: a valid frame proves that those before it
    /// up to this one were complete once.
    pub(crate) synced: u64,
    pub(crate) reading: Reading,
}

/// A frame that was read, and whose checksums hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) header: FrameHeader,
    pub(crate) payload: &'a [u8],
    pub(crate) checksum: u64,
}

impl FrameHeader {
    fn encode(&self, seed: Seed) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = Fields::<FRAME_HEADER_BYTES>::new();
        out.put(&FRAME_MAGIC);
        let kind: u32 = match self.kind {
            FrameKind::Records => 1,
            FrameKind::End => 2,
            FrameKind::Rows => 3,
        };
        out.put(&kind.to_le_bytes());
        for word in [self.payload_bytes as u64, self.batch, self.previous, self.synced] {
            out.put(&word.to_le_bytes());
        }
        out.put_reading(self.reading);
        out.seal(FRAME_CHECKSUM_AT, seed)
    }

    /// Appends the frame, and gives its checksum.
    pub(crate) fn write(&self, payload: &[u8], seed: Seed, out: &mut Vec<u8>) -> u64 {
        let header = self.encode(seed);
        out.extend_from_slice(&header);
        out.extend_from_slice(payload);
        let checksum = frame_checksum(&header, payload, seed);
        out.extend_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// The header at the start of `bytes`, if its own checksum holds.
    pub(crate) fn decode(bytes: &[u8], seed: Seed) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
        let mut fields = Reader(bytes);
        let magic: [u8; 4] = fields.take()?;
        if magic != FRAME_MAGIC || !is_sealed(bytes, FRAME_CHECKSUM_AT, seed) {
            return None;
        }
        let kind = match fields.u32()? {
            1 => FrameKind::Records,
            2 => FrameKind::End,
            3 => FrameKind::Rows,
            _ => return None,
        };
        let payload_bytes = usize::try_from(fields.u64()?).ok().filter(|bytes| *bytes <= PAYLOAD_BYTES_MAX)?;
        let batch = fields.u64().filter(|batch| *batch <= BATCH_MAX)?;
        let (previous, synced) = (fields.u64()?, fields.u64()?);
        Some(Self { kind, payload_bytes, batch, previous, synced, reading: fields.reading()? })
    }
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`, if it is whole and its checksums hold.
    pub(crate) fn decode(bytes: &'a [u8], seed: Seed) -> Option<Self> {
        let header = FrameHeader::decode(bytes, seed)?;
        let (head, rest) = bytes.split_at_checked(FRAME_HEADER_BYTES)?;
        let (payload, rest) = rest.split_at_checked(header.payload_bytes)?;
        let checksum = Reader(rest).u64()?;
        (checksum == frame_checksum(head, payload, seed)).then_some(Self { header, payload, checksum })
    }

    /// How long the whole frame is.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.len() + FRAME_OVERHEAD
    }
}

/// The offsets at which a frame might start.
pub(crate) fn possible_frames(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    bytes.windows(FRAME_MAGIC.len()).enumerate().filter(|(_, window)| *window == FRAME_MAGIC).map(|(offset, _)| offset)
}

fn frame_checksum(header: &[u8], payload: &[u8], seed: Seed) -> u64 {
    let mut hasher = Xxh3::with_seed(seed.0);
    hasher.update(header);
    hasher.update(payload);
    hasher.digest()
}

fn is_sealed(bytes: &[u8], at: usize, seed: Seed) -> bool {
    let Some((body, checksum)) = bytes.split_at_checked(at) else { return false };
    Reader(checksum).u64() == Some(xxh3_64_with_seed(body, seed.0))
}

/// Fixed-size bytes, filled from the front.
struct Fields<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Fields<N> {
    fn new() -> Self {
        Self { bytes: [0; N], used: 0 }
    }

    fn put(&mut self, field: &[u8]) {
        if let Some(space) = self.bytes.get_mut(self.used..self.used + field.len()) {
            space.copy_from_slice(field);
        }
        self.used += field.len();
    }

    fn put_reading(&mut self, reading: Reading) {
        let boot = u64::try_from(reading.boot.as_nanos()).unwrap_or(u64::MAX);
        for word in [reading.wall.as_nanos(), boot, reading.boot_id] {
            self.put(&word.to_le_bytes());
        }
    }

    /// Puts the checksum of the first `at` bytes behind them.
    fn seal(mut self, at: usize, seed: Seed) -> [u8; N] {
        debug_assert!(self.used <= at && at + 8 == N, "the fields leave room for the checksum");
        let checksum = xxh3_64_with_seed(self.bytes.get(..at).unwrap_or_default(), seed.0);
        self.used = at;
        self.put(&checksum.to_le_bytes());
        self.bytes
    }
}

/// Fields, read from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn reading(&mut self) -> Option<Reading> {
        let (wall, boot, boot_id) = (self.u64()?, self.u64()?, self.u64()?);
        Some(Reading { wall: Timestamp::from_nanos(wall), boot: Duration::from_nanos(boot), boot_id })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::codec;

    /// The files of a store that was written when the format last changed.
    fn vectors() -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store");
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// What is read of the vectors and written again is the same, byte by byte: the format that is written does not drift
    /// from the one that is read.
    #[test]
    fn what_is_written_today_is_what_was_written_then() {
        let mut kinds = Vec::new();
        for path in vectors() {
            let bytes = std::fs::read(&path).unwrap();
            let kind = [FileKind::Store, FileKind::Segment, FileKind::Snapshot, FileKind::Mark];
            let header = kind.into_iter().find_map(|kind| Header::decode(&bytes, kind).ok()).unwrap();
            let mut written = header.encode().to_vec();
            let seed = Seed::of(&header.store_id);
            while let Some(frame) = bytes.get(written.len()..).and_then(|bytes| Frame::decode(bytes, seed)) {
                let mut payload = Vec::new();
                match frame.header.kind {
                    FrameKind::Records => {
                        codec::decode_all(frame.payload, |record| codec::encode(&record, &mut payload).unwrap())
                            .unwrap();
                    }
                    FrameKind::Rows => {
                        let rows = codec::decode_rows(frame.payload).unwrap();
                        codec::encode_rows(&rows.authors, &rows.rows, &mut payload);
                    }
                    FrameKind::End => {}
                }
                frame.header.write(&payload, seed, &mut written);
                kinds.push(frame.header.kind);
            }
            written.resize(bytes.len(), 0);
            assert!(written == bytes, "{}", path.display());
        }
        for kind in [FrameKind::Records, FrameKind::Rows, FrameKind::End] {
            assert!(kinds.contains(&kind), "{kind:?} is among the vectors");
        }
    }
}
