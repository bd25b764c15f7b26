//! Reading whatever is readable, on both sides of damage: what `verify` reports, and what `salvage` saves.
//!
//! Nothing is edited, and no key is needed: records hold digests, and checksums start from the store's id.

use std::ops::RangeInclusive;

use crate::clock::Reading;
use crate::codec;
use crate::model::{Key, Keyring};
use crate::storage::{Storage, StorageFile};

use super::format::{
    FRAME_HEADER_BYTES, FRAME_OVERHEAD, FileKind, Frame, FrameHeader, FrameKind, HEADER_BYTES, Header, HeaderError,
    Seed, possible_frames,
};
use super::head::{KEY_FILE, STORE_FILE, read_key};
use super::snapshot::parse;
use super::{FileError, Loaded, StoreIdentity, mark};

/// How much is searched for a frame at a time.
const WINDOW_BYTES: usize = 1024 * 1024;
/// What cannot be read is left out in pieces of this length.
const SECTOR_BYTES: usize = 4096;

/// A place in a file where something is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Damage {
    /// The name of the file.
    pub file: String,
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes up to what is readable again, or to the end.
    pub bytes: u64,
    /// What is wrong there.
    pub what: &'static str,
}

/// What a file was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct FileSummary {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The first and the last batch that can be read in a segment; the last batch that a snapshot holds, twice.
    pub batches: Option<(u64, u64)>,
    /// How many records can be read.
    pub records: u64,
}

/// What a directory was found to hold.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Whose files these are; none if no header tells.
    pub(crate) identity: Option<StoreIdentity>,
    /// The key, if it is there and the right one.
    pub(crate) key: Option<Key>,
    pub(crate) files: Vec<FileSummary>,
    pub(crate) damage: Vec<Damage>,
    /// Batches that were there once, and are not known to be there whole.
    pub(crate) missing: Vec<RangeInclusive<u64>>,
    /// The end of the log that no one vouches for, in bytes: writes that were never acknowledged as durable.
    pub(crate) torn_tail_bytes: u64,
    /// The latest clock reading.
    pub(crate) last_reading: Option<Reading>,
}

/// Where a survey has got to.
struct Surveyor<'a> {
    storage: &'a dyn Storage,
    found: Survey,
    /// The batches of the frames of segments, in the order in which they were found.
    batches: Vec<u64>,
    /// How the segments end.
    ends: Vec<End>,
    /// The last batch of which there is any trace.
    batch_max: u64,
    /// The last batch of the newest snapshot that is whole.
    snapshot: u64,
}

/// One file, read in spite of errors.
struct Lossy<'a> {
    file: &'a dyn StorageFile,
    bytes: u64,
    /// Whether anything could not be read.
    failed: bool,
}

/// Reads everything, and gives every record, with the batch that it came in or the snapshot's, to `visit`.
///
/// # Errors
/// When the directory or the length of a file cannot be read. A file that cannot be read is damage.
pub(crate) fn survey(storage: &dyn Storage, visit: &mut dyn FnMut(u64, Loaded)) -> Result<Survey, FileError> {
    let names = storage.list().map_err(FileError::of("list", "the directory"))?;
    let found = Survey::default();
    let (batches, ends) = (Vec::new(), Vec::new());
    let mut surveyor = Surveyor { storage, found, batches, ends, batch_max: 0, snapshot: 0 };
    surveyor.identify(&names)?;
    let mut snapshots: Vec<(u64, &String)> =
        names.iter().filter_map(|name| Some((snapshot_batch(name)?, name))).collect();
    snapshots.sort_unstable();
    for (batch, name) in snapshots {
        surveyor.snapshot(name, batch, visit)?;
    }
    let mut segments: Vec<(u64, &String)> =
        names.iter().filter_map(|name| Some((parse(name, "wal-", ".log")?, name))).collect();
    segments.sort_unstable();
    if segments.is_empty() {
        surveyor.damage("wal-*.log", 0, 0, "no segment of the log is there");
    }
    for (batch, name) in segments {
        surveyor.segment(name, batch, visit)?;
    }
    Ok(surveyor.finish())
}

/// The batch in the name of a snapshot, also of one that was set aside.
fn snapshot_batch(name: &str) -> Option<u64> {
    parse(name.strip_suffix(".damaged").unwrap_or(name), "snap-", ".snap")
}

impl Surveyor<'_> {
    fn open(&mut self, name: &str) -> Option<Box<dyn StorageFile>> {
        let file = self.storage.open(name).ok();
        if file.is_none() {
            self.damage(name, 0, 0, "it cannot be opened");
        }
        file
    }

    fn damage(&mut self, file: &str, offset: u64, bytes: u64, what: &'static str) {
        self.found.damage.push(Damage { file: file.to_owned(), offset, bytes, what });
    }

    fn summarize(&mut self, name: &str, bytes: u64, batches: Option<(u64, u64)>, records: u64) {
        self.found.files.push(FileSummary { name: name.to_owned(), bytes, batches, records });
    }

    /// Finds out whose files these are, by `STORE`, else by any other header.
    fn identify(&mut self, names: &[String]) -> Result<(), FileError> {
        let is_there = |wanted: &str| names.iter().any(|name| name == wanted);
        if is_there(STORE_FILE) {
            let header = self.header_file(STORE_FILE, FileKind::Store)?;
            self.found.identity = header.map(|header| identity(&header));
        } else {
            self.damage(STORE_FILE, 0, 0, "it is missing");
        }
        let mark = if is_there(mark::FILE) { self.header_file(mark::FILE, FileKind::Mark)? } else { None };
        for name in names {
            if self.found.identity.is_some() {
                break;
            }
            let kind = match snapshot_batch(name) {
                Some(_) => FileKind::Snapshot,
                None if parse(name, "wal-", ".log").is_some() => FileKind::Segment,
                None => continue,
            };
            if let Ok(file) = self.storage.open(name) {
                let mut bytes = [0; HEADER_BYTES];
                Lossy::new(&*file, name)?.read(&mut bytes, 0);
                self.found.identity = Header::decode(&bytes, kind).ok().map(|header| identity(&header));
            }
        }
        self.found.identity = self.found.identity.or(mark.map(|mark| identity(&mark)));
        match mark {
            Some(mark) if self.found.identity.is_some_and(|own| own != identity(&mark)) => {
                self.damage(mark::FILE, 16, 48, "it belongs to another store");
            }
            Some(mark) => {
                self.batch_max = mark.batch;
                self.read_at(mark.reading);
            }
            None => {}
        }
        if is_there(KEY_FILE) {
            let key = read_key(self.storage).ok();
            let is_right = |key: &Key| self.found.identity.is_none_or(|own| own.key_id == Keyring::new(key).id());
            self.found.key = key.filter(is_right);
            if self.found.key.is_none() {
                self.damage(KEY_FILE, 0, 32, "it is not the key of this store");
            }
        }
        Ok(())
    }

    /// A file that is a header and no more.
    fn header_file(&mut self, name: &str, kind: FileKind) -> Result<Option<Header>, FileError> {
        let Some(file) = self.open(name) else { return Ok(None) };
        let mut lossy = Lossy::new(&*file, name)?;
        let header = self.header(&mut lossy, name, kind);
        if header.is_some() && lossy.bytes > HEADER_BYTES as u64 {
            self.damage(name, HEADER_BYTES as u64, lossy.bytes - HEADER_BYTES as u64, "it is longer than a header");
        }
        self.summarize(name, lossy.bytes, None, 0);
        Ok(header)
    }

    fn header(&mut self, lossy: &mut Lossy<'_>, name: &str, kind: FileKind) -> Option<Header> {
        let mut bytes = [0; HEADER_BYTES];
        lossy.read(&mut bytes, 0);
        let what = match Header::decode(&bytes, kind) {
            Ok(header) => return Some(header),
            Err(_) if lossy.failed => "the header cannot be read",
            Err(HeaderError::Damaged) => "the header's checksum does not hold",
            Err(HeaderError::Format(_)) => "it is of a format that this version does not read",
        };
        self.damage(name, 0, HEADER_BYTES as u64, what);
        None
    }

    fn read_at(&mut self, reading: Reading) {
        if self.found.last_reading.is_none_or(|last| last.wall < reading.wall) {
            self.found.last_reading = Some(reading);
        }
    }

    /// What the checksums of a file's frames start from, if the file is this store's. A damaged header does not tell; then
    /// the frames do.
    fn seed_of(&mut self, name: &str, header: Option<&Header>, batch: u64) -> Option<Seed> {
        let own = self.found.identity?;
        if header.is_some_and(|header| identity(header) != own) {
            self.damage(name, 16, 32, "it belongs to another store");
            return None;
        }
        if header.is_some_and(|header| header.batch != batch) {
            self.damage(name, 48, 8, "its name is not that of its header");
        }
        Some(own.seed())
    }

    fn snapshot(&mut self, name: &str, batch: u64, visit: &mut dyn FnMut(u64, Loaded)) -> Result<(), FileError> {
        let Some(file) = self.open(name) else { return Ok(()) };
        let mut lossy = Lossy::new(&*file, name)?;
        let known = self.found.damage.len();
        let header = self.header(&mut lossy, name, FileKind::Snapshot);
        let mut records = 0;
        if let Some(seed) = self.seed_of(name, header.as_ref(), batch) {
            let mut end = None;
            let start = Expected { number: 1, previous: header.map(|header| header.chain) };
            let (stop, _) = self.frames(&mut lossy, name, seed, start, |frame, loaded, read| {
                records += read;
                loaded.into_iter().for_each(|loaded| visit(batch, loaded));
                if frame.kind == FrameKind::End {
                    end = Some(frame.synced);
                }
            });
            match end {
                None => self.damage(name, stop, lossy.bytes.saturating_sub(stop), "its end is missing"),
                Some(_) if stop < lossy.bytes => {
                    self.damage(name, stop, lossy.bytes - stop, "something follows its end");
                }
                Some(end) if end != records => self.damage(name, stop, 0, "its end counts other records"),
                Some(_) => {}
            }
        }
        if let Some(header) = header.filter(|_| self.found.damage.len() == known) {
            self.snapshot = self.snapshot.max(batch);
            self.read_at(header.reading);
        }
        self.batch_max = self.batch_max.max(batch);
        self.summarize(name, lossy.bytes, Some((batch, batch)), records);
        Ok(())
    }

    fn segment(&mut self, name: &str, first: u64, visit: &mut dyn FnMut(u64, Loaded)) -> Result<(), FileError> {
        let Some(file) = self.open(name) else { return Ok(()) };
        let mut lossy = Lossy::new(&*file, name)?;
        let header = self.header(&mut lossy, name, FileKind::Segment);
        self.batch_max = self.batch_max.max(first.saturating_sub(1));
        let (mut records, mut batches) = (0, Vec::new());
        if let Some(seed) = self.seed_of(name, header.as_ref(), first) {
            if header.is_some_and(|header| header.file_bytes != lossy.bytes) {
                self.damage(name, lossy.bytes, 0, "it is not as long as its header says");
            }
            let before = self.ends.last().map(|end| &end.next).filter(|next| next.number == first);
            if let (Some(Expected { previous: Some(previous), .. }), Some(header)) = (before, header)
                && *previous != header.chain
            {
                self.damage(name, 64, 8, "it does not follow the segment before it");
            }
            let (mut readings, mut synced, mut is_ended) = (Vec::new(), 0, false);
            let start = Expected { number: first, previous: header.map(|header| header.chain) };
            let (stop, next) = self.frames(&mut lossy, name, seed, start, |frame, loaded, read| {
                records += read;
                synced = synced.max(frame.synced);
                readings.push(frame.reading);
                match frame.kind {
                    FrameKind::End => is_ended = true,
                    _ => batches.push(frame.batch),
                }
                loaded.into_iter().for_each(|loaded| visit(frame.batch, loaded));
            });
            readings.into_iter().for_each(|reading| self.read_at(reading));
            self.batch_max = self.batch_max.max(synced).max(batches.last().copied().unwrap_or(0));
            let rest = lossy.end_of_content(stop) - stop;
            self.ends.push(End { name: name.to_owned(), stop, rest, is_ended, is_empty: batches.is_empty(), next });
        }
        let ends = batches.first().copied().zip(batches.last().copied());
        self.batches.append(&mut batches);
        self.summarize(name, lossy.bytes, ends, records);
        Ok(())
    }

    /// Walks the frames of a file, past what is damaged. Gives where the last one ends, and what should follow it.
    fn frames(
        &mut self,
        lossy: &mut Lossy<'_>,
        name: &str,
        seed: Seed,
        mut expected: Expected,
        mut visit: impl FnMut(&FrameHeader, Vec<Loaded>, u64),
    ) -> (u64, Expected) {
        let mut bytes = Vec::new();
        let mut offset = HEADER_BYTES as u64;
        loop {
            if !lossy.frame(offset, seed, &mut bytes) {
                let Some(next) = lossy.next_frame(offset, seed, &mut bytes) else { return (offset, expected) };
                let what = if lossy.failed { "it cannot be read" } else { "a frame's checksum does not hold" };
                self.damage(name, offset, next - offset, what);
                offset = next;
                expected.previous = None;
            }
            let Some(Frame { header, payload, checksum }) = Frame::decode(&bytes, seed) else {
                return (offset, expected);
            };
            if expected.previous.is_some_and(|previous| (expected.number, previous) != (header.batch, header.previous))
            {
                self.damage(name, offset, 0, "a frame does not follow the one before it");
            }
            let is_end = header.kind == FrameKind::End;
            let number = if is_end { header.batch } else { header.batch + 1 };
            expected = Expected { number, previous: Some(if is_end { header.previous } else { checksum }) };
            let mut loaded = Vec::new();
            let count = match header.kind {
                FrameKind::Records => codec::decode_all(payload, |record| loaded.push(Loaded::Record(record))),
                FrameKind::Rows => codec::decode_rows(payload).map(|rows| {
                    let count = rows.rows.len() as u64;
                    loaded.push(Loaded::Rows(rows));
                    count
                }),
                FrameKind::End => Ok(0),
            };
            if count.is_err() {
                self.damage(name, offset, bytes.len() as u64, "a record does not decode");
            }
            let count = count.unwrap_or(loaded.len() as u64);
            visit(&header, loaded, count);
            offset += bytes.len() as u64;
            if is_end {
                return (offset, expected);
            }
        }
    }

    /// Tells torn tails from damage, and finds out which batches are missing.
    fn finish(mut self) -> Survey {
        let ends = std::mem::take(&mut self.ends);
        for (index, End { name, stop, rest, is_ended, next, .. }) in ends.iter().enumerate() {
            let is_followed = ends.iter().skip(index + 1).any(|later| !later.is_empty);
            if *is_ended {
                if *rest > 0 {
                    self.damage(name, *stop, *rest, "something follows the frame that ends it");
                }
                if index + 1 == ends.len() {
                    self.damage(name, *stop, 0, "it says that another segment follows, and there is none");
                }
            } else if is_followed || next.number <= self.batch_max {
                self.damage(name, *stop, *rest, "the log breaks off here, and there was more of it");
            } else {
                self.found.torn_tail_bytes += rest;
            }
        }
        self.batches.sort_unstable();
        self.batches.dedup();
        let mut next = self.snapshot + 1;
        let beyond = self.batches.partition_point(|batch| *batch < next);
        for &batch in self.batches.get(beyond..).unwrap_or_default().iter().chain([&(self.batch_max + 1)]) {
            if batch > next {
                self.found.missing.push(next..=batch - 1);
            }
            next = next.max(batch + 1);
        }
        self.found
    }
}

/// How a segment ends.
struct End {
    name: String,
    /// Where its last frame does.
    stop: u64,
    /// How many bytes after that are not all zeros.
    rest: u64,
    is_ended: bool,
    is_empty: bool,
    next: Expected,
}

/// What the next frame should be.
struct Expected {
    number: u64,
    /// None where what came before is not known.
    previous: Option<u64>,
}

fn identity(header: &Header) -> StoreIdentity {
    StoreIdentity { store_id: header.store_id, key_id: header.key_id }
}

impl<'a> Lossy<'a> {
    fn new(file: &'a dyn StorageFile, name: &str) -> Result<Self, FileError> {
        let bytes = file.len().map_err(FileError::of("read the length of", name))?;
        Ok(Self { file, bytes, failed: false })
    }

    /// Fills a buffer from the file. What cannot be read, or is not there, is zeros. Gives how much is there.
    fn read(&mut self, buf: &mut [u8], offset: u64) -> usize {
        let there = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        let (buf, beyond) = buf.split_at_mut(there);
        beyond.fill(0);
        self.failed = false;
        if self.file.read_exact_at(buf, offset).is_err() {
            for (sector, at) in buf.chunks_mut(SECTOR_BYTES).zip((offset..).step_by(SECTOR_BYTES)) {
                if self.file.read_exact_at(sector, at).is_err() {
                    sector.fill(0);
                    self.failed = true;
                }
            }
        }
        there
    }

    /// Reads the frame at an offset, if there is one.
    fn frame(&mut self, offset: u64, seed: Seed, bytes: &mut Vec<u8>) -> bool {
        let mut head = [0; FRAME_HEADER_BYTES];
        self.read(&mut head, offset);
        let Some(header) = FrameHeader::decode(&head, seed) else { return false };
        let frame_bytes = header.payload_bytes + FRAME_OVERHEAD;
        if frame_bytes as u64 > self.bytes.saturating_sub(offset) {
            return false;
        }
        bytes.resize(frame_bytes, 0);
        self.read(bytes, offset);
        Frame::decode(bytes, seed).is_some()
    }

    /// The offset of the next frame after one that is damaged.
    fn next_frame(&mut self, after: u64, seed: Seed, bytes: &mut Vec<u8>) -> Option<u64> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut start = after + 1;
        let mut failed = false;
        while start < self.bytes {
            let there = self.read(&mut window, start);
            failed |= self.failed;
            let candidates: Vec<usize> = possible_frames(window.get(..there).unwrap_or_default()).collect();
            for candidate in candidates {
                let offset = start + candidate as u64;
                if self.frame(offset, seed, bytes) {
                    self.failed = failed;
                    return Some(offset);
                }
            }
            // A frame's first bytes may lie across the edge.
            start += (WINDOW_BYTES - 3) as u64;
        }
        self.failed = failed;
        None
    }

    /// Where the last byte from an offset on ends that is not zero; the offset itself if there is none.
    fn end_of_content(&mut self, from: u64) -> u64 {
        let mut window = vec![0; WINDOW_BYTES];
        let (mut start, mut end) = (from, from);
        while start < self.bytes {
            let there = self.read(&mut window, start);
            if self.failed {
                end = start + there as u64;
            } else if let Some(last) = window.iter().take(there).rposition(|byte| *byte != 0) {
                end = start + last as u64 + 1;
            }
            start += there.max(1) as u64;
        }
        end
    }
}
