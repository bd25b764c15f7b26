//! Opening: everything is read before anything is edited, and nothing is opened short.
//!
//! The newest whole snapshot is read, then every later batch of the log. What the log's end looks like decides:
//!
//! - zeros up to the end of the last segment: a clean end;
//! - a bad frame in the last segment, after which no valid frame says that this batch was once on disk: the *torn tail*
//!   of a write that was never acknowledged as durable. It is wiped, and reported;
//! - anything else is damage, and the store is not opened.

use std::sync::Arc;

use crate::clock::Reading;
use crate::codec;
use crate::model::{Key, KeyId, Keyring};
use crate::storage::{Storage, StorageFile, read_all};

use super::format::{
    FileKind, Frame, FrameKind, HEADER_BYTES, Header, HeaderError, PAYLOAD_BYTES_MAX, possible_frames,
};
use super::head::{KEY_FILE, KeySource, STORE_FILE, initialise, read_identity, read_store};
use super::mark::{self, Mark};
use super::segment::{Segment, Spare, write_zeros};
use super::snapshot::{self, SnapshotReadError, parse};
use super::{END_BYTES, FileError, Journal, Loaded, Position, StoreIdentity, fresh, segment};

/// No segment is longer: the largest frame, its header, the end frame.
pub(super) const SEGMENT_BYTES_MAX: u64 = PAYLOAD_BYTES_MAX as u64 + 4096;

/// Why a store is not opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// A file could not be read or made.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no store, and none is to be made.
    #[error(
        "there is no store here, and none is made (Options::create_if_missing): check the path, and that its volume is mounted"
    )]
    NoStore,
    /// The directory belongs to a store with another key.
    #[error(
        "the store was made with key {expected} and is opened with key {given}: configure the key it was made with"
    )]
    WrongKey {
        /// The id of the key that the store was made with.
        expected: KeyId,
        /// The id of the key that was given.
        given: KeyId,
    },
    /// The key is not in the directory, and none was given.
    #[error(
        "the key of this store was given by configuration and is not kept in it: configure it again (Options::key)"
    )]
    KeyMissing,
    /// A file is of a format that no released version wrote.
    #[error(
        "{file} was written by a development version (format {version}), which no released version reads: open it with the \
         version that wrote it, or begin with an empty directory"
    )]
    DevelopmentFormat {
        /// The name of the file.
        file: String,
        /// Its format version.
        version: u32,
    },
    /// A file is of a format that this version does not know.
    #[error(
        "{file} has format {version}, this version knows format {}: open it with the version that wrote it",
        super::format::FORMAT
    )]
    UnknownFormat {
        /// The name of the file.
        file: String,
        /// Its format version.
        version: u32,
    },
    /// Something that was on disk is gone or altered. Opening would forget revocations, so it is refused.
    #[error(
        "{segment} is damaged at byte {offset}: {what}. Restore the directory from a backup, or salvage what is readable into a new one"
    )]
    Corrupt {
        /// The name of the damaged file.
        segment: String,
        /// Where the damage begins, in bytes from the start of the file.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
}

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The batch of the snapshot that was loaded; none if there was no snapshot.
    pub snapshot_batch: Option<u64>,
    /// Snapshots that were damaged, so that an older one and a longer log were used. They were set aside, with
    /// `.damaged` added to their names.
    pub damaged_snapshots: Vec<String>,
    /// Records read from the snapshot.
    pub snapshot_records: u64,
    /// Batches read from the log.
    pub log_batches: u64,
    /// Records read from the log.
    pub log_records: u64,
    /// The length of the torn tail that was wiped, in bytes: writes that were never acknowledged as durable.
    pub torn_tail_bytes: u64,
    /// The last batch that `MARK` vouched for; none if it was not there, or torn.
    pub marked_batch: Option<u64>,
}

/// An opened journal.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) journal: Journal,
    pub(crate) identity: StoreIdentity,
    pub(crate) keyring: Keyring,
    /// The key, where it is kept in the directory.
    pub(crate) kept_key: Option<Key>,
    pub(crate) report: RecoveryReport,
    /// The last clock reading on disk.
    pub(crate) last_reading: Option<Reading>,
    /// The length of the snapshot that was loaded, in bytes.
    pub(crate) snapshot_bytes: u64,
    /// The length of the log that was read, in bytes.
    pub(crate) log_bytes: u64,
}

pub(super) fn corrupt(segment: &str, offset: u64, what: &'static str) -> RecoveryError {
    RecoveryError::Corrupt { segment: segment.to_owned(), offset, what }
}

/// Opens the journal, making a new one in an empty directory if that is wanted, and gives every record to `visit`, with the
/// batch that it came in, or 0 if it came in a snapshot.
pub(crate) fn recover(
    storage: Arc<dyn Storage>,
    key: KeySource,
    create_if_missing: bool,
    segment_bytes: u64,
    now: Reading,
    visit: &(dyn Fn(u64, Loaded) + Sync),
) -> Result<Recovered, RecoveryError> {
    let names = list(&*storage)?;
    let (identity, keyring, kept_key) = if names.iter().any(|name| name == STORE_FILE) {
        read_identity(&*storage, &names, key)?
    } else if create_if_missing {
        initialise(&*storage, &names, key, segment_bytes, now)?
    } else {
        return Err(RecoveryError::NoStore);
    };
    let read = read_log(&*storage, identity, EVERYTHING, visit)?;
    // Whoever reads along is told how fresh the writer is once that is a replica again.
    if read.names.iter().any(|name| name == fresh::FILE) {
        storage.remove(fresh::FILE).map_err(FileError::of("remove", fresh::FILE))?;
    }
    let journal = read.tidy(storage, segment_bytes, now)?;
    let LogRead { report, last_reading, snapshot_bytes, log_bytes, .. } = read;
    Ok(Recovered { journal, identity, keyring, kept_key, report, last_reading, snapshot_bytes, log_bytes })
}

/// What opening the store would find, were its key at hand. Nothing is edited.
pub(crate) fn inspect(storage: &dyn Storage) -> Result<RecoveryReport, RecoveryError> {
    let names = list(storage)?;
    let is_there = |wanted: &str| names.iter().any(|name| name == wanted);
    if !is_there(STORE_FILE) {
        return Err(RecoveryError::NoStore);
    }
    let identity =
        if is_there(KEY_FILE) { read_identity(storage, &names, KeySource::Stored)?.0 } else { read_store(storage)? };
    Ok(read_log(storage, identity, EVERYTHING, &|_, _| {})?.report)
}

/// Reads snapshots and log up to and including a batch, gives every record to `visit`, and edits nothing.
pub(super) fn read_log(
    storage: &dyn Storage,
    identity: StoreIdentity,
    up_to: u64,
    visit: &(dyn Fn(u64, Loaded) + Sync),
) -> Result<LogRead, RecoveryError> {
    let names = list(storage)?;
    let mut recovery = Recovery {
        storage,
        identity,
        up_to,
        mark: None,
        report: RecoveryReport::default(),
        position: Position::default(),
        synced: 0,
        last_reading: None,
        snapshot_bytes: 0,
        log_bytes: 0,
    };
    recovery.read_mark(&names)?;
    recovery.read_snapshots(&names, visit)?;
    let tail = recovery.read_segments(&names, visit)?;
    recovery.hold_against_mark(&tail)?;
    let Recovery { position, synced, last_reading, report, snapshot_bytes, log_bytes, .. } = recovery;
    Ok(LogRead { names, identity, position, synced, tail, report, last_reading, snapshot_bytes, log_bytes })
}

pub(super) fn list(storage: &dyn Storage) -> Result<Vec<String>, FileError> {
    storage.list().map_err(FileError::of("list", "the directory"))
}

fn unknown_format(file: &str, version: u32) -> RecoveryError {
    let file = file.to_owned();
    match version {
        ..super::format::FORMAT => RecoveryError::DevelopmentFormat { file, version },
        _ => RecoveryError::UnknownFormat { file, version },
    }
}

pub(super) fn read_header(bytes: &[u8], kind: FileKind, name: &str) -> Result<Header, RecoveryError> {
    Header::decode(bytes, kind).map_err(|error| match error {
        HeaderError::Damaged => corrupt(name, 0, "the header's checksum does not hold"),
        HeaderError::Format(version) => unknown_format(name, version),
    })
}

/// The number of the last batch that is read where all are wanted.
pub(super) const EVERYTHING: u64 = u64::MAX;

struct Recovery<'a> {
    storage: &'a dyn Storage,
    identity: StoreIdentity,
    /// What comes after this batch is treated as if it were torn.
    up_to: u64,
    /// What `MARK` says.
    mark: Option<Header>,
    report: RecoveryReport,
    /// The last batch that has been read.
    position: Position,
    /// The last batch that is known to be on disk.
    synced: u64,
    last_reading: Option<Reading>,
    snapshot_bytes: u64,
    log_bytes: u64,
}

/// What was read: everything that is needed to go on where the log ends.
pub(super) struct LogRead {
    names: Vec<String>,
    identity: StoreIdentity,
    /// The last batch.
    pub(super) position: Position,
    /// The last batch that is known to be on disk.
    pub(super) synced: u64,
    pub(super) tail: Tail,
    pub(super) report: RecoveryReport,
    pub(super) last_reading: Option<Reading>,
    snapshot_bytes: u64,
    log_bytes: u64,
}

/// How the last segment ends.
pub(super) struct Tail {
    pub(super) name: String,
    file_bytes: u64,
    /// Where the next frame goes.
    pub(super) offset: u64,
    /// Where the last byte that is not zero ends, if after `offset`.
    torn_end: u64,
    unproven: Unproven,
    /// The segment before an empty last one. Its end frame is missing if a crash came between the two steps of a
    /// rotation; and if it is there, nothing proves that it is on disk.
    unended: Option<Unended>,
}

/// The last frames of the log, which no later frame proves to be on disk.
#[derive(Default)]
struct Unproven {
    offset: u64,
    frames: Vec<u8>,
}

struct Unended {
    name: String,
    file_bytes: u64,
    offset: u64,
    torn_end: u64,
    ended: bool,
}

/// What one segment was found to hold.
struct Scan {
    last: Position,
    offset: u64,
    torn_end: u64,
    ended: bool,
    frames: u64,
    unproven: Unproven,
}

impl Recovery<'_> {
    fn read_mark(&mut self, names: &[String]) -> Result<(), RecoveryError> {
        self.mark = mark::read(self.storage, names)?;
        if self.mark.is_some_and(|mark| (mark.store_id, mark.key_id) != (self.identity.store_id, self.identity.key_id))
        {
            return Err(corrupt(mark::FILE, 16, "it belongs to another store"));
        }
        self.report.marked_batch = self.mark.map(|mark| mark.batch);
        self.synced = self.report.marked_batch.unwrap_or_default();
        Ok(())
    }

    /// Everything that was once on disk must have been read.
    fn hold_against_mark(&mut self, tail: &Tail) -> Result<(), RecoveryError> {
        let Some(mark) = self.mark else { return Ok(()) };
        if mark.batch > self.position.batch {
            let what = "the log ends here, and MARK says that more of it was on disk once";
            return Err(corrupt(&tail.name, tail.offset, what));
        }
        // It was written later than what it names.
        let is_later = self.last_reading.is_none_or(|last| last.wall < mark.reading.wall);
        if mark.batch == self.position.batch && is_later {
            self.last_reading = Some(mark.reading);
        }
        Ok(())
    }

    fn read_snapshots(&mut self, names: &[String], visit: &(dyn Fn(u64, Loaded) + Sync)) -> Result<(), RecoveryError> {
        let mut batches: Vec<u64> = names.iter().filter_map(|name| parse(name, "snap-", ".snap")).collect();
        batches.sort_unstable_by(|a, b| b.cmp(a));
        let mut first_damage = None;
        for batch in batches {
            let name = snapshot::name(batch);
            let file = self.storage.open(&name).map_err(FileError::of("open", &name))?;
            // Records of a snapshot that turns out damaged further on were whole blocks and are true: joining them is
            // harmless, and the older snapshot with the longer log brings them again.
            match snapshot::read(&*file, self.identity, &|loaded| visit(0, loaded)) {
                Ok((header, records)) if header.batch == batch => {
                    self.report.snapshot_batch = Some(batch);
                    self.report.snapshot_records = records;
                    self.position = Position { batch, chain: header.chain };
                    self.synced = self.synced.max(batch);
                    self.last_reading = Some(header.reading);
                    self.snapshot_bytes = file.len().map_err(FileError::of("read", &name))?;
                    return Ok(());
                }
                Ok(_) => {
                    first_damage.get_or_insert(corrupt(&name, 48, "its name is not that of its header"));
                }
                Err(SnapshotReadError::Damaged { offset }) => {
                    first_damage.get_or_insert(corrupt(&name, offset, "a block's checksum does not hold"));
                }
                Err(SnapshotReadError::Foreign) => {
                    first_damage.get_or_insert(corrupt(&name, 16, "it belongs to another store"));
                }
                Err(SnapshotReadError::Format(version)) => {
                    return Err(unknown_format(&name, version));
                }
                Err(SnapshotReadError::File(source)) => return Err(FileError::of("read", &name)(source).into()),
            }
            self.report.damaged_snapshots.push(name);
        }
        // Without any snapshot the log must reach back to the first batch.
        let log_starts_at_one = names.iter().any(|name| *name == segment::name(1));
        match first_damage {
            Some(damage) if !log_starts_at_one => Err(damage),
            _ => Ok(()),
        }
    }

    fn read_segments(&mut self, names: &[String], visit: &(dyn Fn(u64, Loaded) + Sync)) -> Result<Tail, RecoveryError> {
        let mut batches: Vec<u64> = names.iter().filter_map(|name| parse(name, "wal-", ".log")).collect();
        batches.sort_unstable();
        // Segments that hold nothing after the snapshot are kept for the one before it, and not read: except the one that
        // ends with the snapshot's own batch, for a crash may have come before its end frame.
        let up_to = |batch: u64| batches.iter().rposition(|first| *first <= batch);
        let needed = up_to(self.position.batch.max(1)).or_else(|| up_to(self.position.batch + 1)).ok_or_else(|| {
            corrupt(
                &segment::name(self.position.batch + 1),
                0,
                "this segment, or one that holds its batches, is missing",
            )
        })?;
        let needed = batches.split_off(needed);
        let mut unended: Option<Unended> = None;
        let mut tail = None;
        let mut last: Option<Position> = None;
        for (index, &first_batch) in needed.iter().enumerate() {
            let name = segment::name(first_batch);
            let file = self.storage.open(&name).map_err(FileError::of("open", &name))?;
            let bytes = read_all(&*file, SEGMENT_BYTES_MAX).map_err(FileError::of("read", &name))?;
            let header = read_header(&bytes, FileKind::Segment, &name)?;
            if header.store_id != self.identity.store_id || header.key_id != self.identity.key_id {
                return Err(corrupt(&name, 16, "it belongs to another store"));
            }
            if header.batch != first_batch {
                return Err(corrupt(&name, 48, "its name is not that of its header"));
            }
            if header.file_bytes != bytes.len() as u64 {
                return Err(corrupt(&name, bytes.len() as u64, "it is not as long as its header says"));
            }
            let before = Position { batch: first_batch.saturating_sub(1), chain: header.chain };
            // Also where a snapshot covers what would be missing between the two.
            if last.is_some_and(|last| last != before) {
                return Err(corrupt(&name, 48, "it does not follow the segment before it"));
            }
            let is_last = index + 1 == needed.len();
            let scan = self.scan(&name, &bytes, before, visit)?;
            last = Some(scan.last);
            if scan.frames > 0
                && let Some(before) = unended.take()
                && !before.ended
            {
                return Err(corrupt(&before.name, before.offset, "the frame that should end it is missing"));
            }
            if is_last {
                if scan.ended {
                    return Err(corrupt(
                        &segment::name(self.position.batch + 1),
                        0,
                        "the segment before it says that it exists, and it is missing",
                    ));
                }
                if scan.last != self.position {
                    return Err(corrupt(&name, scan.offset, "the log ends before the snapshot that was taken of it"));
                }
                self.report.torn_tail_bytes += scan.torn_end.saturating_sub(scan.offset);
                tail = Some(Tail {
                    name,
                    file_bytes: header.file_bytes,
                    offset: scan.offset,
                    torn_end: scan.torn_end,
                    unproven: scan.unproven,
                    unended: unended.take(),
                });
            } else {
                // Without its end it is only right if the next is the last and still empty: a rotation cut in two.
                let is_rotation = index + 2 == needed.len();
                let Scan { offset, torn_end, ended, .. } = scan;
                if !ended && !is_rotation {
                    return Err(corrupt(&name, offset, "a frame's checksum does not hold"));
                }
                if !ended {
                    self.report.torn_tail_bytes += torn_end.saturating_sub(offset);
                }
                unended = Some(Unended { name, file_bytes: header.file_bytes, offset, torn_end, ended });
            }
        }
        tail.ok_or_else(|| corrupt("the log", 0, "no segment is there"))
    }

    /// Reads one segment: every frame up to the first that is not whole.
    fn scan(
        &mut self,
        name: &str,
        bytes: &[u8],
        mut before: Position,
        visit: &(dyn Fn(u64, Loaded) + Sync),
    ) -> Result<Scan, RecoveryError> {
        let mut offset = HEADER_BYTES;
        let mut frames = 0;
        let (first_batch, mut starts, mut proven) = (before.batch + 1, Vec::new(), 0_u64);
        let rest_of = |offset: usize| bytes.get(offset..).unwrap_or_default();
        self.reach(before, None, name, offset)?;
        let seed = self.identity.seed();
        while let Some(frame) = Frame::decode(rest_of(offset), seed) {
            if frame.header.batch > self.up_to {
                break;
            }
            if frame.header.batch != before.batch + 1 || frame.header.previous != before.chain {
                return Err(corrupt(name, offset as u64, "a frame of another place in the log"));
            }
            if frame.header.kind == FrameKind::Rows {
                return Err(corrupt(name, offset as u64, "a block of a snapshot"));
            }
            if frame.header.kind == FrameKind::End {
                let end = offset + frame.bytes();
                if rest_of(end).iter().any(|byte| *byte != 0) {
                    return Err(corrupt(name, end as u64, "something follows the frame that ends it"));
                }
                let unproven = Unproven::default();
                let (offset, torn_end) = (offset as u64, end as u64);
                return Ok(Scan { last: before, offset, torn_end, ended: true, frames, unproven });
            }
            frames += 1;
            starts.push(offset);
            proven = proven.max(frame.header.synced);
            self.synced = self.synced.max(proven);
            before = Position { batch: frame.header.batch, chain: frame.checksum };
            if before.batch > self.position.batch {
                let mut records = 0;
                codec::decode_all(frame.payload, |record| {
                    records += 1;
                    visit(before.batch, Loaded::Record(record));
                })
                .map_err(|_| corrupt(name, offset as u64, "a record does not decode"))?;
                self.report.log_batches += 1;
                self.log_bytes += frame.bytes() as u64;
                self.report.log_records += records;
            }
            self.reach(before, Some(frame.header.reading), name, offset)?;
            offset += frame.bytes();
        }
        // A valid frame further on that was written after this batch was synced proves that this is damage.
        let expected = before.batch + 1;
        let proof = possible_frames(rest_of(offset))
            .filter_map(|start| Frame::decode(rest_of(offset + start), seed))
            .any(|frame| frame.header.synced >= expected);
        if proof {
            return Err(corrupt(name, offset as u64, "a frame's checksum does not hold, and later ones do"));
        }
        let torn_end = rest_of(offset).iter().rposition(|byte| *byte != 0).map_or(offset, |last| offset + last + 1);
        let unproven = usize::try_from(proven.saturating_add(1).saturating_sub(first_batch)).unwrap_or(usize::MAX);
        let unproven = starts.get(unproven).copied().unwrap_or(offset);
        let frames_unproven = bytes.get(unproven..offset).unwrap_or_default().to_vec();
        let unproven = Unproven { offset: unproven as u64, frames: frames_unproven };
        let (offset, torn_end) = (offset as u64, torn_end as u64);
        Ok(Scan { last: before, offset, torn_end, ended: false, frames, unproven })
    }

    /// Notes that the log has been read up to a batch.
    fn reach(
        &mut self,
        reached: Position,
        reading: Option<Reading>,
        name: &str,
        offset: usize,
    ) -> Result<(), RecoveryError> {
        if reached.batch == self.position.batch && reached.chain != self.position.chain {
            return Err(corrupt(name, offset as u64, "the log is not the one that the snapshot was taken of"));
        }
        if self.mark.is_some_and(|mark| mark.batch == reached.batch && mark.chain != reached.chain) {
            return Err(corrupt(name, offset as u64, "the log is not the one that MARK was written of"));
        }
        if reached.batch > self.position.batch {
            self.position = reached;
            // The snapshot was read later than the batch that it ends with was written: its own reading stands.
            self.last_reading = reading.or(self.last_reading);
        }
        Ok(())
    }
}

impl LogRead {
    /// Edits what has to be edited, now that everything has been read, and goes on where the log ends.
    pub(super) fn tidy(
        &self,
        storage: Arc<dyn Storage>,
        segment_bytes: u64,
        now: Reading,
    ) -> Result<Journal, RecoveryError> {
        for name in self.names.iter().filter(|name| name.ends_with(".tmp")) {
            storage.remove(name).map_err(FileError::of("remove", name))?;
        }
        for name in &self.report.damaged_snapshots {
            // Under its own name it would count as the snapshot before the next, and a good one would go for it.
            let aside = format!("{name}.damaged");
            storage.rename(name, &aside).map_err(FileError::of("rename", name))?;
        }
        let (tail, seed) = (&self.tail, self.identity.seed());
        // The last segment first: while there may be a frame in it that is not to count, the one before must say that it
        // is there.
        let file = settle(&*storage, &tail.name, &tail.unproven, tail.offset, tail.torn_end)?;
        // And its name must be on disk before the one before says so.
        storage.sync_directory().map_err(FileError::of("sync", "the directory"))?;
        if let Some(Unended { name, offset, torn_end, file_bytes, .. }) = &tail.unended {
            let file = settle(&*storage, name, &Unproven::default(), *offset, *torn_end)?;
            Segment::resume(file, name.clone(), seed, *offset, *file_bytes).end(self.position, now)?;
        }
        let segment_bytes = segment_bytes.clamp(HEADER_BYTES as u64 + END_BYTES, SEGMENT_BYTES_MAX);
        Ok(Journal {
            spare: Spare::new(segment_bytes),
            storage,
            identity: self.identity,
            segment_bytes,
            segment: Segment::resume(file, tail.name.clone(), seed, tail.offset, tail.file_bytes),
            mark: Mark::default(),
            written: self.position,
            synced: self.position,
            bytes_written: 0,
            frame: Vec::new(),
        })
    }
}

/// Puts zeros in the place of a torn tail, and makes sure that what was read before it is on disk.
///
/// The last frames are written again: what was read may be in the page cache only, and if a sync of it failed earlier,
/// the system takes it for clean and would never write it. From here on it counts as synced.
fn settle(
    storage: &dyn Storage,
    name: &str,
    unproven: &Unproven,
    offset: u64,
    end: u64,
) -> Result<Box<dyn StorageFile>, FileError> {
    let mut file = storage.open(name).map_err(FileError::of("open", name))?;
    if !unproven.frames.is_empty() {
        file.write_all_at(&unproven.frames, unproven.offset).map_err(FileError::of("write to", name))?;
    }
    write_zeros(&mut *file, offset, end).map_err(FileError::of("write to", name))?;
    file.sync().map_err(FileError::of("sync", name))?;
    Ok(file)
}
