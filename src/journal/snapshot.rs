//! A file that holds the effect of every batch up to its own: a header, blocks of records, an end.
//!
//! It is written while checks and revocations go on. Entries may be newer than the snapshot's batch: joining the log
//! over them changes nothing.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::clock::Reading;
use crate::codec::{self, EncodeError, Record};
use crate::model::Rows;
use crate::storage::{Storage, StorageFile};

use super::format::{
    BATCH_MAX, FRAME_HEADER_BYTES, FRAME_OVERHEAD, FRAME_TRAILER_BYTES, FileKind, Frame, FrameHeader, FrameKind,
    HEADER_BYTES, Header, HeaderError, Seed,
};
use super::{FileError, Loaded, Position, StoreIdentity, create_temporary, publish, temporary};

/// The length of a block at which it is written out, in bytes.
const BLOCK_BYTES: usize = 256 * 1024;
/// The most rows in one block: then it is no longer than a frame can be.
const ROWS_MAX: usize = 1 << 20;
/// A snapshot longer than this is read by several threads.
const ALONE_BYTES: u64 = 4 * 1024 * 1024;
/// How many threads, at most.
const THREADS_MAX: usize = 8;

pub(super) fn name(batch: u64) -> String {
    format!("snap-{batch:016x}.snap")
}

/// Writes one snapshot. It takes its name only when all of it is on disk and has been read back.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    storage: Arc<dyn Storage>,
    identity: StoreIdentity,
    base: Position,
    reading: Reading,
    name: String,
    file: Box<dyn StorageFile>,
    offset: u64,
    blocks: u64,
    chain: u64,
    records: u64,
    block: Vec<u8>,
    frame: Vec<u8>,
    is_published: bool,
}

/// What could not be written for want of room must not take what room there is.
impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.is_published {
            // Opening the store removes it otherwise.
            self.storage.remove(&temporary(&self.name)).ok();
        }
    }
}

/// Why there is no new snapshot. The store goes on with the one it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SnapshotWriteError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("{file} does not read back as it was written: the disk is not to be trusted")]
    ReadBack { file: String },
}

impl SnapshotWriter {
    pub(super) fn create(
        storage: Arc<dyn Storage>,
        identity: StoreIdentity,
        base: Position,
        reading: Reading,
    ) -> Result<Self, FileError> {
        let name = name(base.batch);
        let file = create_temporary(&*storage, &name)?;
        let header = Header {
            kind: FileKind::Snapshot,
            store_id: identity.store_id,
            key_id: identity.key_id,
            batch: base.batch,
            file_bytes: 0,
            chain: base.chain,
            reading,
        };
        let mut writer = Self {
            storage,
            identity,
            base,
            reading,
            name,
            file,
            offset: HEADER_BYTES as u64,
            blocks: 0,
            chain: base.chain,
            records: 0,
            block: Vec::with_capacity(BLOCK_BYTES + 4096),
            frame: Vec::with_capacity(BLOCK_BYTES + 4096),
            is_published: false,
        };
        writer.file.write_all_at(&header.encode(), 0).map_err(FileError::of("write", &writer.name))?;
        Ok(writer)
    }

    /// Adds one record.
    pub(crate) fn add(&mut self, record: &Record) -> Result<(), SnapshotWriteError> {
        codec::encode(record, &mut self.block)?;
        self.records += 1;
        if self.block.len() >= BLOCK_BYTES {
            self.write_frame(FrameKind::Records)?;
        }
        Ok(())
    }

    /// Adds rows, in blocks of their own.
    pub(crate) fn add_rows(&mut self, rows: &Rows) -> Result<(), SnapshotWriteError> {
        if !self.block.is_empty() {
            self.write_frame(FrameKind::Records)?;
        }
        for chunk in rows.rows.chunks(ROWS_MAX) {
            codec::encode_rows(&rows.authors, chunk, &mut self.block);
            self.records += chunk.len() as u64;
            self.write_frame(FrameKind::Rows)?;
        }
        Ok(())
    }

    fn write_frame(&mut self, kind: FrameKind) -> Result<(), FileError> {
        self.blocks += 1;
        let header = FrameHeader {
            kind,
            payload_bytes: self.block.len(),
            batch: self.blocks,
            previous: self.chain,
            synced: self.records,
            reading: self.reading,
        };
        self.frame.clear();
        self.chain = header.write(&self.block, self.identity.seed(), &mut self.frame);
        self.file.write_all_at(&self.frame, self.offset).map_err(FileError::of("write", &self.name))?;
        self.offset += self.frame.len() as u64;
        self.block.clear();
        Ok(())
    }

    /// Ends the snapshot, syncs it, reads it back and gives it its name; then removes what it has made superfluous.
    /// Gives the length of the file in bytes.
    pub(crate) fn finish(mut self) -> Result<u64, SnapshotWriteError> {
        if !self.block.is_empty() {
            self.write_frame(FrameKind::Records)?;
        }
        self.write_frame(FrameKind::End)?;
        self.file.sync().map_err(FileError::of("sync", &self.name))?;
        match read(&*self.file, self.identity, &|_| {}) {
            Ok((header, records)) if header.batch == self.base.batch && records == self.records => {}
            _ => return Err(SnapshotWriteError::ReadBack { file: self.name.clone() }),
        }
        publish(&*self.storage, &self.name, &self.name)?;
        self.is_published = true;
        remove_superfluous(&*self.storage)?;
        Ok(self.offset)
    }
}

/// Keeps the last two snapshots, and the log since the earlier one: if the last snapshot should turn out damaged, the
/// one before it and that log hold the same.
fn remove_superfluous(storage: &dyn Storage) -> Result<(), FileError> {
    let names = storage.list().map_err(FileError::of("list", "the directory"))?;
    let mut snapshots: Vec<u64> = names.iter().filter_map(|name| parse(name, "snap-", ".snap")).collect();
    snapshots.sort_unstable_by(|a, b| b.cmp(a));
    let Some(&previous) = snapshots.get(1) else { return Ok(()) };
    let remove = |name: String| storage.remove(&name).map_err(FileError::of("remove", &name));
    // The oldest first, so that a crash in between leaves no gap.
    for &batch in snapshots.iter().skip(2).rev() {
        remove(name(batch))?;
    }
    let mut segments: Vec<u64> = names.iter().filter_map(|name| parse(name, "wal-", ".log")).collect();
    segments.sort_unstable();
    for pair in segments.windows(2) {
        if let [first, next] = pair
            && *next <= previous + 1
        {
            remove(super::segment::name(*first))?;
        }
    }
    storage.sync_directory().map_err(FileError::of("sync", "the directory"))
}

/// The number in a file's name, if it is spelled as we spell it.
pub(super) fn parse(name: &str, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (number <= BATCH_MAX && digits == format!("{number:016x}")).then_some(number)
}

/// Why a snapshot cannot be used.
#[derive(Debug)]
pub(super) enum SnapshotReadError {
    File(std::io::Error),
    Format(u32),
    Foreign,
    Damaged { offset: u64 },
}

impl From<std::io::Error> for SnapshotReadError {
    fn from(error: std::io::Error) -> Self {
        Self::File(error)
    }
}

/// Where a block lies.
#[derive(Clone, Copy)]
struct Block {
    offset: u64,
    frame_bytes: usize,
}

/// Reads a snapshot and gives each record to `visit`, block by block, each after its checksum has held. Gives the header
/// and the number of records.
///
/// The blocks' headers are read first, which says where the blocks lie and that they are all there. Then the blocks are
/// shared out among threads.
pub(super) fn read(
    file: &dyn StorageFile,
    identity: StoreIdentity,
    visit: &(dyn Fn(Loaded) + Sync),
) -> Result<(Header, u64), SnapshotReadError> {
    let file_bytes = file.len()?;
    let mut bytes = [0; HEADER_BYTES];
    if file_bytes < HEADER_BYTES as u64 {
        return Err(SnapshotReadError::Damaged { offset: 0 });
    }
    file.read_exact_at(&mut bytes, 0)?;
    let header = Header::decode(&bytes, FileKind::Snapshot).map_err(|error| match error {
        HeaderError::Damaged => SnapshotReadError::Damaged { offset: 0 },
        HeaderError::Format(version) => SnapshotReadError::Format(version),
    })?;
    if (header.store_id, header.key_id) != (identity.store_id, identity.key_id) {
        return Err(SnapshotReadError::Foreign);
    }
    let seed = identity.seed();
    let (blocks, expected) = find_blocks(file, file_bytes, header.chain, seed)?;
    let threads = match file_bytes {
        0..=ALONE_BYTES => 1,
        _ => std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX),
    };
    let next = AtomicUsize::new(0);
    let read_some = || {
        let (mut frame, mut records) = (Vec::new(), 0);
        while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            records += read_block(file, *block, seed, &mut frame, visit)?;
        }
        Ok::<u64, SnapshotReadError>(records)
    };
    let records = std::thread::scope(|scope| {
        // Where a thread cannot be had, those that are there do its work.
        let spawn = |_| std::thread::Builder::new().name("rescind-load".into()).spawn_scoped(scope, read_some).ok();
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let mut records = read_some()?;
        for other in others {
            records += other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok::<u64, SnapshotReadError>(records)
    })?;
    if records != expected {
        return Err(SnapshotReadError::Damaged { offset: file_bytes.saturating_sub(FRAME_OVERHEAD as u64) });
    }
    Ok((header, records))
}

/// Follows the chain of blocks to the end frame, which says how many records there are.
fn find_blocks(
    file: &dyn StorageFile,
    file_bytes: u64,
    mut chain: u64,
    seed: Seed,
) -> Result<(Vec<Block>, u64), SnapshotReadError> {
    let (mut blocks, mut offset) = (Vec::new(), HEADER_BYTES as u64);
    loop {
        let damaged = SnapshotReadError::Damaged { offset };
        if file_bytes - offset < FRAME_OVERHEAD as u64 {
            return Err(damaged);
        }
        let mut bytes = [0; FRAME_HEADER_BYTES];
        file.read_exact_at(&mut bytes, offset)?;
        let Some(head) = FrameHeader::decode(&bytes, seed) else { return Err(damaged) };
        let frame_bytes = head.payload_bytes + FRAME_OVERHEAD;
        let end = offset + frame_bytes as u64;
        if end > file_bytes || head.batch != blocks.len() as u64 + 1 || head.previous != chain {
            return Err(damaged);
        }
        let mut checksum = [0; FRAME_TRAILER_BYTES];
        file.read_exact_at(&mut checksum, end - FRAME_TRAILER_BYTES as u64)?;
        chain = u64::from_le_bytes(checksum);
        blocks.push(Block { offset, frame_bytes });
        offset = end;
        if head.kind == FrameKind::End {
            return if offset == file_bytes { Ok((blocks, head.synced)) } else { Err(damaged) };
        }
    }
}

/// Reads one block, and gives the number of its records.
fn read_block(
    file: &dyn StorageFile,
    block: Block,
    seed: Seed,
    bytes: &mut Vec<u8>,
    visit: &dyn Fn(Loaded),
) -> Result<u64, SnapshotReadError> {
    let Block { offset, frame_bytes } = block;
    let damaged = || SnapshotReadError::Damaged { offset };
    bytes.resize(frame_bytes, 0);
    file.read_exact_at(bytes, offset)?;
    let frame = Frame::decode(bytes, seed).filter(|frame| frame.bytes() == frame_bytes).ok_or_else(damaged)?;
    match frame.header.kind {
        FrameKind::Records => {
            codec::decode_all(frame.payload, |record| visit(Loaded::Record(record))).map_err(|_| damaged())
        }
        FrameKind::Rows => {
            let rows = codec::decode_rows(frame.payload).map_err(|_| damaged())?;
            let records = rows.rows.len() as u64;
            visit(Loaded::Rows(rows));
            Ok(records)
        }
        FrameKind::End => Ok(0),
    }
}
