//! A directory in memory that fails, and loses power, on command.
//!
//! The model keeps two versions of everything: what reads see, and what a power cut cannot take. Between
//! them lie the unsynced edits, of which [`MemoryStorage::crash_image`] keeps a seeded, arbitrary part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Storage, StorageFile, check_name, unlinked};

/// No store has files of 4 GiB; a wild offset must not take the memory of the process.
const FILE_LEN_MAX: u64 = 1 << 32;

/// The seed that keeps nothing unsynced, and the one that keeps everything.
const SEED_NONE: u64 = 0;
const SEED_ALL: u64 = u64::MAX;

/// A store's directory in memory, with faults to order.
///
/// Clones share one directory, as two handles to one disk would. Without faults it behaves like
/// [`FileStorage`](super::FileStorage), less the lock, and everything is gone with the last clone.
///
/// Operations are numbered from 0 as they arrive: those that change something (create, write, truncate,
/// sync, rename, remove, sync of the directory) in one sequence, those that only look (list, open, length,
/// read) in another. A harness runs once to learn [`operations`](Self::operations), then once for each
/// number with a fault there. The same calls with the same seeds give the same bytes.
///
/// ```
/// use rescind::storage::{MemoryStorage, Storage};
///
/// # fn main() -> std::io::Result<()> {
/// let disk = MemoryStorage::new();
/// let mut file = disk.create("wal")?;
/// disk.sync_directory()?;
/// file.write_all_at(b"safe", 0)?;
/// file.sync()?;
/// file.write_all_at(b"perhaps", 4)?;
///
/// assert_eq!(disk.crash_image(0).files()["wal"], b"safe");
/// assert_eq!(disk.crash_image(u64::MAX).files()["wal"], b"safeperhaps");
/// assert!(disk.crash_image(7).files()["wal"].starts_with(b"safe"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameEdit>,
    changes: Sequence,
    reads: Sequence,
    crash_at: Option<u64>,
}

#[derive(Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Edit>,
    /// Shared with the open handles, which keep an inode alive after its last name is gone.
    handles: Arc<()>,
}

#[derive(Clone)]
enum Edit {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { len: usize },
}

#[derive(Clone)]
enum NameEdit {
    Link { name: String, inode: u64 },
    Rename { to: String, inode: u64 },
    Unlink { name: String },
}

#[derive(Clone, Default)]
struct Sequence {
    count: u64,
    fault: Option<Fault>,
}

#[derive(Clone, Copy)]
struct Fault {
    at: u64,
    kind: io::ErrorKind,
    sticky: bool,
}

/// How much of an operation takes place.
#[derive(Clone, Copy, PartialEq)]
enum Extent {
    /// All of it, and the caller hears so.
    Whole,
    /// It was under way when the power went: unsynced, and the caller hears nothing good.
    UnderWay,
    /// An ordered fault.
    Failed,
    /// The power is off.
    Nothing,
}

impl MemoryStorage {
    /// An empty directory without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory holding these files, all of them durable.
    pub fn from_files(files: BTreeMap<String, Vec<u8>>) -> Self {
        let mut state = State::default();
        for (name, bytes) in files {
            let inode = state.add(Inode { durable: bytes.clone(), bytes, ..Inode::default() });
            state.names.insert(name, inode);
        }
        state.durable_names = state.names.clone();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The files as reads see them now, whether durable or not, and whatever faults are set.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state.lock();
        state.contents(&state.names, |inode| inode.bytes.clone())
    }

    /// How many changing operations have been asked for, failed ones included; the next one has this number.
    pub fn operations(&self) -> u64 {
        self.state.lock().changes.count
    }

    /// How many reading operations have been asked for; the next one has this number.
    pub fn reads(&self) -> u64 {
        self.state.lock().reads.count
    }

    /// Makes the changing operation with this number fail, and every later one too when `sticky`.
    ///
    /// A failed write leaves the first half of its bytes, as a full disk does. A failed sync of a file
    /// *drops* the unsynced edits of that file: they still read back, a later sync says `Ok`, and yet they
    /// are not durable, which is how Linux behaves. A failed sync of the directory leaves its edits
    /// unsynced. Any other failed operation does nothing. Replaces an earlier fault.
    pub fn fail_at(&self, operation: u64, kind: io::ErrorKind, sticky: bool) {
        self.state.lock().changes.fault = Some(Fault { at: operation, kind, sticky });
    }

    /// Makes the reading operation with this number fail, and every later one too when `sticky`.
    pub fn fail_read_at(&self, read: u64, kind: io::ErrorKind, sticky: bool) {
        self.state.lock().reads.fault = Some(Fault { at: read, kind, sticky });
    }

    /// Cuts the power during the changing operation with this number: it and everything after it, reads
    /// included, fail. [`crash_image`](Self::crash_image) may show that operation done, undone or in part.
    pub fn crash_at(&self, operation: u64) {
        self.state.lock().crash_at = Some(operation);
    }

    /// Takes back every fault and crash that is set. What failed syncs dropped stays dropped.
    pub fn clear_faults(&self) {
        self.state.lock().clear_faults();
    }

    /// What a power cut at this instant leaves, as a directory of its own without faults.
    ///
    /// Everything synced survives. Of the unsynced edits a seeded part does: each write wholly, not at all,
    /// as a torn prefix, or as any subset of its chunks of 1 to 512 bytes with zeros or old bytes between;
    /// in order or not; each create, rename and remove or not, where a rename never shows half. Seed 0 keeps
    /// nothing unsynced, seed [`u64::MAX`] everything.
    pub fn crash_image(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let mut random = SplitMix64(seed);
        let names = match seed {
            SEED_NONE => state.durable_names.clone(),
            SEED_ALL => {
                let mut names = state.durable_names.clone();
                state.unsynced_names.iter().for_each(|edit| edit.apply(&mut names));
                names
            }
            _ => {
                let mut names = state.durable_names.clone();
                for edit in &state.unsynced_names {
                    if random.coin() {
                        edit.apply(&mut names);
                    }
                }
                names
            }
        };
        Self::from_files(state.contents(&names, |inode| inode.survivors(seed, &mut random)))
    }

    /// What a killed process leaves, as a directory of its own without faults.
    ///
    /// Reads see everything written so far, for the system is still up. It is no more durable than before:
    /// a crash image of the result may lose what was never synced.
    pub fn kill_image(&self) -> Self {
        let mut state = self.state.lock().clone();
        state.clear_faults();
        state.changes.count = 0;
        state.reads.count = 0;
        for inode in state.inodes.values_mut() {
            inode.handles = Arc::default();
        }
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn handle(&self, name: &str, inode: u64, handles: &Arc<()>) -> Box<dyn StorageFile> {
        let handle = Arc::clone(handles);
        Box::new(MemoryFile { disk: self.clone(), name: name.to_owned(), inode, _handle: handle })
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("MemoryStorage")
            .field("files", &state.names.keys())
            .field("operations", &state.changes.count)
            .field("reads", &state.reads.count)
            .finish_non_exhaustive()
    }
}

impl Storage for MemoryStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        state.begin_read()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        check_name(name)?;
        let mut state = self.state.lock();
        let (extent, outcome) = state.begin_change();
        if extent.takes_place() && state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = Inode::default();
        let handles = Arc::clone(&inode.handles);
        let inode = state.add(inode);
        if extent.takes_place() {
            state.edit_names(NameEdit::Link { name: name.to_owned(), inode });
        }
        outcome.map(|()| self.handle(name, inode, &handles))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        check_name(name)?;
        let mut state = self.state.lock();
        state.begin_read()?;
        let id = state.lookup(name)?;
        let handles = Arc::clone(&state.inode(id)?.handles);
        drop(state);
        Ok(self.handle(name, id, &handles))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let mut state = self.state.lock();
        let (extent, outcome) = state.begin_change();
        if extent.takes_place() {
            let inode = state.lookup(from)?;
            state.edit_names(NameEdit::Rename { to: to.to_owned(), inode });
        }
        outcome
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut state = self.state.lock();
        let (extent, outcome) = state.begin_change();
        if extent.takes_place() {
            state.lookup(name)?;
            state.edit_names(NameEdit::Unlink { name: name.to_owned() });
        }
        outcome
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let (extent, outcome) = state.begin_change();
        if extent == Extent::Whole {
            state.durable_names = state.names.clone();
            state.unsynced_names.clear();
            state.drop_unreachable();
        }
        outcome
    }
}

struct MemoryFile {
    disk: MemoryStorage,
    name: String,
    inode: u64,
    _handle: Arc<()>,
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl StorageFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state.lock();
        state.begin_read()?;
        Ok(state.inode(self.inode)?.bytes.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.begin_read()?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(buf.len());
        match state.inode(self.inode)?.bytes.get(start..end) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None if buf.is_empty() => Ok(()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let (extent, outcome) = state.begin_change();
        let written = match extent {
            Extent::Whole | Extent::UnderWay => bytes,
            Extent::Failed => bytes.split_at(bytes.len() / 2).0,
            Extent::Nothing => &[],
        };
        if !written.is_empty() {
            bounded(offset.saturating_add(bytes.len() as u64))?;
            let offset = bounded(offset)?;
            state.inode(self.inode)?.edit(Edit::Write { offset, bytes: written.to_vec() });
        }
        outcome
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let (extent, outcome) = state.begin_change();
        if extent.takes_place() {
            let len = bounded(len)?;
            state.inode(self.inode)?.edit(Edit::Truncate { len });
        }
        outcome
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let (extent, outcome) = state.begin_change();
        let is_unlinked = !state.names.values().any(|inode| *inode == self.inode);
        let inode = state.inode(self.inode)?;
        match extent {
            Extent::Whole => {
                let Inode { durable, unsynced, .. } = inode;
                unsynced.drain(..).for_each(|edit| edit.apply(durable));
            }
            // The kernel marks the pages clean all the same: nobody will write them again.
            Extent::Failed => inode.unsynced.clear(),
            Extent::UnderWay | Extent::Nothing => {}
        }
        outcome.and_then(|()| if is_unlinked { Err(unlinked()) } else { Ok(()) })
    }
}

fn bounded(position: u64) -> io::Result<usize> {
    let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
    if position > FILE_LEN_MAX { Err(too_large()) } else { usize::try_from(position).map_err(|_| too_large()) }
}

impl Extent {
    fn takes_place(self) -> bool {
        matches!(self, Self::Whole | Self::UnderWay)
    }
}

impl Sequence {
    fn next(&mut self) -> (u64, io::Result<()>) {
        let number = self.count;
        self.count += 1;
        match self.fault {
            Some(fault) if number == fault.at || (fault.sticky && number > fault.at) => {
                (number, Err(io::Error::new(fault.kind, format!("injected fault at operation {number}"))))
            }
            _ => (number, Ok(())),
        }
    }
}

impl State {
    fn begin_change(&mut self) -> (Extent, io::Result<()>) {
        let (number, outcome) = self.changes.next();
        match self.crash_at {
            Some(at) if number == at => (Extent::UnderWay, Err(crashed())),
            Some(at) if number > at => (Extent::Nothing, Err(crashed())),
            _ if outcome.is_err() => (Extent::Failed, outcome),
            _ => (Extent::Whole, outcome),
        }
    }

    fn begin_read(&mut self) -> io::Result<()> {
        let (_, outcome) = self.reads.next();
        if self.crash_at.is_some_and(|at| self.changes.count > at) { Err(crashed()) } else { outcome }
    }

    fn clear_faults(&mut self) {
        self.crash_at = None;
        self.changes.fault = None;
        self.reads.fault = None;
    }

    fn add(&mut self, inode: Inode) -> u64 {
        let id = self.inode_next;
        self.inode_next += 1;
        self.inodes.insert(id, inode);
        id
    }

    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lookup(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn edit_names(&mut self, edit: NameEdit) {
        edit.apply(&mut self.names);
        self.unsynced_names.push(edit);
    }

    /// Frees inodes without a name or an open handle; only after a directory sync, when no crash can bring
    /// an old name back.
    fn drop_unreachable(&mut self) {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|id, inode| named.contains(id) || Arc::strong_count(&inode.handles) > 1);
    }

    fn contents(
        &self,
        names: &BTreeMap<String, u64>,
        mut content: impl FnMut(&Inode) -> Vec<u8>,
    ) -> BTreeMap<String, Vec<u8>> {
        names.iter().filter_map(|(name, id)| Some((name.clone(), content(self.inodes.get(id)?)))).collect()
    }
}

fn crashed() -> io::Error {
    io::Error::other("crashed")
}

impl NameEdit {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Link { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            Self::Rename { to, inode } => {
                // By file, not by name: when an earlier rename was lost, the file is still where that took it
                // from, and what bears the name may be another.
                names.retain(|_, named| named != inode);
                names.insert(to.clone(), *inode);
            }
            Self::Unlink { name } => {
                names.remove(name);
            }
        }
    }
}

impl Inode {
    fn edit(&mut self, edit: Edit) {
        edit.apply(&mut self.bytes);
        self.unsynced.push(edit);
    }

    fn survivors(&self, seed: u64, random: &mut SplitMix64) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        match seed {
            SEED_NONE => {}
            SEED_ALL => self.unsynced.iter().for_each(|edit| edit.apply(&mut bytes)),
            _ => {
                let mut edits: Vec<&Edit> = self.unsynced.iter().collect();
                if random.coin() {
                    for last in (1..edits.len()).rev() {
                        edits.swap(last, random.below(last + 1));
                    }
                }
                edits.into_iter().for_each(|edit| edit.apply_in_part(&mut bytes, random));
            }
        }
        bytes
    }
}

impl Edit {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => overlay(file, *offset, bytes),
            Self::Truncate { len } => file.resize(*len, 0),
        }
    }

    fn apply_in_part(&self, file: &mut Vec<u8>, random: &mut SplitMix64) {
        let (offset, bytes) = match self {
            Self::Write { offset, bytes } => (*offset, bytes),
            Self::Truncate { .. } => {
                if random.coin() {
                    self.apply(file);
                }
                return;
            }
        };
        match random.below(4) {
            0 => {}
            1 => self.apply(file),
            2 => overlay(file, offset, bytes.split_at(random.below(bytes.len() + 1)).0),
            _ => {
                // The new length may reach the disk without the bytes that caused it.
                file.resize(file.len().max(offset + bytes.len()), 0);
                let chunk_len = 1 + random.below(512);
                for (index, chunk) in bytes.chunks(chunk_len).enumerate() {
                    if random.coin() {
                        overlay(file, offset + index * chunk_len, chunk);
                    }
                }
            }
        }
    }
}

fn overlay(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if bytes.is_empty() {
        return;
    }
    if file.len() < end {
        file.resize(end, 0);
    }
    if let Some(place) = file.get_mut(offset..end) {
        place.copy_from_slice(bytes);
    }
}

/// Sebastiano Vigna's SplitMix64: any seed will do, and the sequence never changes under us.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        // The remainder is below `bound`, which is a `usize`.
        (self.next() % bound.max(1) as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
