//! The bodies of the fuzz targets. Each takes any bytes at all, and panics when a promise is broken.
//!
//! The encoders of headers and frames are written here a second time, from the layout of the format alone, so that
//! forged files with valid checksums reach the code behind the checksums, and so that a change of the format shows.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{
    Acknowledgement, Credential, Effect, Key, Kind, ManualClock, NodeId, OpenError, Options, Receipt, Replication,
    Revocation, SnapshotError, SnapshotReport, Store, Subject, Timestamp, Verdict, WriteError,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The files of a store.
type Files = BTreeMap<String, Vec<u8>>;

/// When the clocks of all images stand.
const START_SECS: u64 = 1_700_000_000;
const SEGMENT_BYTES: u64 = 4096;
const HEADER_BYTES: usize = 128;
const FRAME_HEADER_BYTES: usize = 72;
/// Not random, so that the seeds of the corpus stay valid.
const STORE_ID: [u8; 16] = [0x5e; 16];
const TOKENS: usize = 40;
/// How many segments, snapshots and frames of each are forged at most.
const FORGED_MAX: usize = 4;

/// Decodes records; what decodes must encode to the same records again.
pub fn record_decode(data: &[u8]) {
    rescind::codec::fuzz_records(data);
}

/// Opens stores whose log was patched, replaced or forged.
pub fn log_open(data: &[u8]) {
    let mut input = Input(data);
    let image = log_image();
    match input.u8() % 4 {
        0 => {
            let mut files = image.files.clone();
            let is_of_the_log = |name: &&String| name.starts_with("wal-") || *name == "MARK";
            let names: Vec<String> = files.keys().filter(is_of_the_log).cloned().collect();
            input.patch(&mut files, &names);
            if let Some(denied) = opens_soundly(files.clone()) {
                image.check_prefix(&files, &denied);
            }
        }
        1 => {
            let mut files = empty_image();
            files.insert(segment_name(1), input.0.to_vec());
            opens_soundly(files);
        }
        2 => {
            let mut files = empty_image();
            let mut segment = Forged::segment(1, 0);
            segment.frame(1, input.0, 1, 0, 0);
            files.insert(segment_name(1), segment.finish());
            opens_soundly(files);
        }
        _ => {
            opens_soundly(forge(&mut input, false));
        }
    }
}

/// Opens stores whose newest snapshot was patched, replaced or forged.
pub fn snapshot_open(data: &[u8]) {
    let mut input = Input(data);
    let image = snapshot_image();
    let newest = image.files.keys().rfind(|name| name.starts_with("snap-")).expect("a snapshot").clone();
    match input.u8() % 4 {
        0 => {
            let mut files = image.files.clone();
            input.patch(&mut files, &[newest]);
            if let Some(denied) = opens_soundly(files) {
                assert!(denied.iter().all(|denied| *denied), "the snapshot before it and the log hold everything");
            }
        }
        1 => {
            let mut files = image.files.clone();
            files.insert(newest, input.0.to_vec());
            if let Some(denied) = opens_soundly(files) {
                assert!(denied.iter().all(|denied| *denied), "the snapshot before it and the log hold everything");
            }
        }
        2 => {
            let mut files = empty_image();
            let mut snapshot = Forged::snapshot(0, 0);
            let first = input.u8();
            // The upper half: rows.
            let (kind, records) = if first < 128 { (1, first) } else { (3, first - 128) };
            snapshot.frame(kind, input.0, 1, 0, u64::from(records));
            let chain = snapshot.chain;
            snapshot.frame(2, &[], 2, chain, u64::from(records));
            files.insert(snapshot_name(0), snapshot.bytes);
            opens_soundly(files);
        }
        _ => {
            opens_soundly(forge(&mut input, true));
        }
    }
}

/// Where a fuzzer may start: a valid file, the records in its first frame, and the rows of a snapshot.
pub struct Seed {
    pub file: Vec<u8>,
    pub records: Vec<u8>,
    pub rows: Vec<u8>,
}

/// A log of two segments: the second.
pub fn log_seed() -> Seed {
    Seed::of(log_image(), "wal-")
}

/// A snapshot.
pub fn snapshot_seed() -> Seed {
    Seed::of(snapshot_image(), "snap-")
}

impl Seed {
    fn of(image: &Image, prefix: &str) -> Self {
        let file = image.files.iter().rfind(|(name, _)| name.starts_with(prefix)).expect("such a file").1.clone();
        let payload = |kind: u32| {
            let mut offset = HEADER_BYTES;
            while file.get(offset..offset + 4) == Some(b"RFRM") {
                let payload_at = offset + FRAME_HEADER_BYTES;
                let word = file[offset + 8..offset + 16].try_into().expect("8 bytes");
                let end = payload_at + u64::from_le_bytes(word) as usize;
                if file[offset + 4..offset + 8] == kind.to_le_bytes() {
                    return file[payload_at..end].to_vec();
                }
                offset = end + 8;
            }
            Vec::new()
        };
        Self { records: payload(1), rows: payload(3), file }
    }
}

/// Opens, checks what holds of every store that opens, and gives which of the images' tokens are denied; none if it is
/// refused.
fn opens_soundly(files: Files) -> Option<Vec<bool>> {
    let disk = MemoryStorage::from_files(files);
    let follower = follow(&disk);
    let store = match open(&disk) {
        Ok(store) => store,
        Err(OpenError::Recovery(_)) => {
            assert!(follower.is_none(), "what is refused is not followed either");
            return None;
        }
        Err(error) => panic!("a damaged store is refused as damaged: {error}"),
    };
    let (mut denied, mut len) = (denied_tokens(&store), store.len());
    let follower = follower.expect("what opens can be followed");
    let followed = denied_tokens(&follower);
    // It may deny more: what is undone waits until that is known to be on disk.
    assert!(denied.iter().zip(&followed).all(|(denied, followed)| *followed || !denied), "{denied:?} {followed:?}");
    drop(follower);
    let is_set_aside = !store.stats().recovery.damaged_snapshots.is_empty();
    drop(store);
    if is_set_aside {
        // The blocks of a damaged snapshot that are whole count while it is there. They are true, and nothing new, unless
        // they were forged.
        let store = open(&disk).expect("what was opened once opens again");
        assert!(store.stats().recovery.damaged_snapshots.is_empty(), "a damaged snapshot is set aside");
        (denied, len) = (denied_tokens(&store), store.len());
    }

    let disk = disk.crash_image(0);
    let store = open(&disk).expect("what was opened once opens again, even after a power cut");
    assert_eq!(store.stats().recovery.torn_tail_bytes, 0, "a torn tail is wiped");
    assert_eq!((denied_tokens(&store), store.len()), (denied.clone(), len), "and gives the same");
    let written = store.revoke(Revocation::of(Subject::token("after")));
    drop(store);

    if let Ok(Receipt { acknowledgement: Acknowledgement::Durable, .. }) = written {
        let store = open(&disk.crash_image(0)).expect("what was written to opens again");
        assert!(is_denied(&store, "after"), "acknowledged means remembered");
        assert_eq!(denied_tokens(&store), denied);
    }
    Some(denied)
}

/// Opens a store read-only, which changes nothing; none if it is refused.
fn follow(disk: &MemoryStorage) -> Option<Store> {
    let (files, clock) = (disk.files(), ManualClock::at(Timestamp::from_secs(START_SECS)));
    let follower = match options(&clock).open_read_only_on(Arc::new(disk.clone())) {
        Ok(follower) => Some(follower),
        Err(OpenError::Recovery(_)) => None,
        Err(error) => panic!("a damaged store is refused as damaged: {error}"),
    };
    assert!(disk.files() == files && disk.operations() == 0, "whoever reads along changes nothing");
    follower
}

fn options(clock: &ManualClock) -> Options {
    Options::new()
        .key(Key::from_bytes([7; 32]))
        .clock(clock.clone())
        .background(false)
        .segment_bytes(SEGMENT_BYTES)
        .snapshot_after_bytes(6000)
}

fn open(disk: &MemoryStorage) -> Result<Store, OpenError> {
    let clock = ManualClock::at(Timestamp::from_secs(START_SECS));
    options(&clock).open_on(Arc::new(disk.clone()))
}

fn is_denied(store: &Store, token: &str) -> bool {
    matches!(store.check(&Credential::new().token(token)), Verdict::Revoked(_))
}

fn token(index: usize) -> String {
    format!("token-{index}")
}

fn denied_tokens(store: &Store) -> Vec<bool> {
    (0..TOKENS).map(|index| is_denied(store, &token(index))).collect()
}

/// A valid store, and where in it each token's frame is.
struct Image {
    files: Files,
    frames: Vec<(String, Range<usize>)>,
}

impl Image {
    /// The log is a sequence: what is lost is its end, within the last segment, only from a frame that was altered, and
    /// only where `MARK` was, too.
    fn check_prefix(&self, files: &Files, denied: &[bool]) {
        let Some(lost) = denied.iter().position(|denied| !denied) else { return };
        assert_ne!(files.get("MARK"), self.files.get("MARK"), "token {lost} is lost, and MARK said that it was there");
        assert!(denied.iter().skip(lost).all(|denied| !denied), "a hole in the log: {denied:?}");
        let (segment, range) = &self.frames[lost];
        assert_eq!(segment, &self.frames[TOKENS - 1].0, "only the last segment has a torn tail");
        let is_same = files.get(segment).and_then(|bytes| bytes.get(range.clone()))
            == self.files.get(segment).and_then(|bytes| bytes.get(range.clone()));
        assert!(!is_same, "token {lost} is lost, and its frame is intact");
    }
}

/// Two segments with a token in each frame.
fn log_image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let disk = MemoryStorage::from_files(empty_image());
        let store = open(&disk).expect("the image is valid");
        for index in 0..TOKENS {
            store.revoke(Revocation::of(Subject::token(token(index))).by("a fuzzer")).expect("memory does not fail");
        }
        drop(store);
        let files = disk.files();
        let mut frames = Vec::new();
        for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("wal-")) {
            let mut offset = HEADER_BYTES;
            while bytes.get(offset..offset + 8) == Some(b"RFRM\x01\0\0\0") {
                let payload = u64::from_le_bytes(bytes[offset + 8..offset + 16].try_into().expect("eight bytes"));
                let end = offset + FRAME_HEADER_BYTES + payload as usize + 8;
                frames.push((name.clone(), offset..end));
                offset = end;
            }
        }
        assert_eq!(frames.len(), TOKENS);
        assert_ne!(frames[0].0, frames[TOKENS - 1].0, "there is a rotation");
        Image { files, frames }
    })
}

/// Two snapshots, and the log since the first.
fn snapshot_image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let disk = MemoryStorage::from_files(empty_image());
        let store = open(&disk).expect("the image is valid");
        for index in 0..TOKENS {
            store.revoke(Revocation::of(Subject::token(token(index))).by("a fuzzer")).expect("memory does not fail");
            if index == TOKENS / 4 || index == TOKENS / 2 {
                store.snapshot().expect("memory does not fail");
            }
        }
        drop(store);
        Image { files: disk.files(), frames: Vec::new() }
    })
}

/// A store that holds nothing, with an id that does not change from run to run.
fn empty_image() -> Files {
    let mut files = Files::from([("STORE".to_owned(), header(*b"RSCNDSTR", 0, 0, 0).to_vec())]);
    files.insert(segment_name(1), Forged::segment(1, 0).finish());
    files
}

/// The id of the key of [`options`], from a `STORE` that the store itself wrote.
fn key_id() -> [u8; 16] {
    static KEY_ID: OnceLock<[u8; 16]> = OnceLock::new();
    *KEY_ID.get_or_init(|| {
        let disk = MemoryStorage::new();
        drop(open(&disk).expect("a new store"));
        disk.files()["STORE"][32..48].try_into().expect("16 bytes")
    })
}

fn segment_name(batch: u64) -> String {
    format!("wal-{batch:016x}.log")
}

fn snapshot_name(batch: u64) -> String {
    format!("snap-{batch:016x}.snap")
}

/// The header of a file.
fn header(magic: [u8; 8], batch: u64, file_bytes: u64, chain: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..8].copy_from_slice(&magic);
    bytes[8..12].copy_from_slice(&4_u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
    bytes[16..32].copy_from_slice(&STORE_ID);
    bytes[32..48].copy_from_slice(&key_id());
    bytes[48..56].copy_from_slice(&batch.to_le_bytes());
    bytes[56..64].copy_from_slice(&file_bytes.to_le_bytes());
    bytes[64..72].copy_from_slice(&chain.to_le_bytes());
    bytes[72..80].copy_from_slice(&(START_SECS * 1_000_000_000).to_le_bytes());
    let checksum = xxh3_64(&bytes[..120]);
    bytes[120..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A file with valid checksums and whatever else.
struct Forged {
    bytes: Vec<u8>,
    /// The checksum of the last frame.
    chain: u64,
}

impl Forged {
    fn segment(batch: u64, chain: u64) -> Self {
        Self { bytes: header(*b"RSCNDWAL", batch, SEGMENT_BYTES, chain).to_vec(), chain }
    }

    fn snapshot(batch: u64, chain: u64) -> Self {
        Self { bytes: header(*b"RSCNDSNP", batch, 0, chain).to_vec(), chain }
    }

    /// A frame of a kind: 1 for records, 2 for the end.
    fn frame(&mut self, kind: u32, payload: &[u8], batch: u64, previous: u64, synced: u64) {
        let mut head = Vec::with_capacity(FRAME_HEADER_BYTES);
        head.extend_from_slice(b"RFRM");
        head.extend_from_slice(&kind.to_le_bytes());
        for word in [payload.len() as u64, batch, previous, synced, START_SECS * 1_000_000_000, 0, 0] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        let seed = u64::from_le_bytes(STORE_ID[..8].try_into().expect("8 bytes"));
        head.extend_from_slice(&xxh3_64_with_seed(&head, seed).to_le_bytes());
        head.extend_from_slice(payload);
        self.chain = xxh3_64_with_seed(&head, seed);
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(&self.chain.to_le_bytes());
    }

    /// A segment, filled up with zeros to the length that its header gives.
    fn finish(mut self) -> Vec<u8> {
        let file_bytes = (self.bytes.len() as u64).max(SEGMENT_BYTES);
        if file_bytes > SEGMENT_BYTES {
            self.bytes[56..64].copy_from_slice(&file_bytes.to_le_bytes());
            let checksum = xxh3_64(&self.bytes[..120]);
            self.bytes[120..128].copy_from_slice(&checksum.to_le_bytes());
        }
        self.bytes.resize(file_bytes as usize, 0);
        self.bytes
    }
}

/// A few files whose checksums all hold, and whose numbers are the input's.
fn forge(input: &mut Input<'_>, with_snapshots: bool) -> Files {
    let payloads: Vec<&[u8]> = {
        let image = log_image();
        let payload = |(name, range): &(String, Range<usize>)| {
            image.files.get(name).map(|bytes| &bytes[range.start + FRAME_HEADER_BYTES..range.end - 8])
        };
        image.frames.iter().take(8).filter_map(payload).collect()
    };
    let mut files = Files::from([("STORE".to_owned(), header(*b"RSCNDSTR", 0, 0, 0).to_vec())]);
    // What would come next, were all of it sound: the fuzzer chooses where to deviate.
    let (mut batch, mut chain) = (0_u64, 0);
    for index in 0..FORGED_MAX {
        if index > 0 && input.0.is_empty() {
            break;
        }
        let is_snapshot = with_snapshots && input.u8() % 2 == 1;
        let number = input.number(if is_snapshot { batch } else { batch.wrapping_add(1) });
        let start = input.number(chain);
        let mut file = if is_snapshot { Forged::snapshot(number, start) } else { Forged::segment(number, start) };
        let mut next = if is_snapshot { 1 } else { number };
        let mut records = 0;
        for _ in 0..FORGED_MAX {
            let shape = input.u8();
            if shape.is_multiple_of(4) {
                break;
            }
            let payload = match shape % 4 {
                1 => payloads[usize::from(shape / 4) % payloads.len()],
                2 => input.take(usize::from(shape / 4)),
                _ => &[],
            };
            let kind = match shape % 4 {
                3 => 2,
                2 if is_snapshot && shape >= 128 => 3,
                _ => 1,
            };
            records += u64::from(shape % 4 == 1);
            let synced = input.number(if is_snapshot { records } else { next.wrapping_sub(1) });
            let (at, previous) = (input.number(next), input.number(file.chain));
            file.frame(kind, payload, at, previous, synced);
            next = at.wrapping_add(1);
        }
        if is_snapshot {
            (batch, chain) = (number, start);
            files.insert(snapshot_name(number), file.bytes);
        } else {
            (batch, chain) = (next.wrapping_sub(1), file.chain);
            files.insert(segment_name(number), file.finish());
        }
    }
    if input.u8() % 2 == 1 {
        let (batch, chain) = (input.number(batch), input.number(chain));
        files.insert("MARK".to_owned(), header(*b"RSCNDMRK", batch, 0, chain).to_vec());
    }
    files
}

/// Bytes, read from the front; zeros where there are no more.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }

    fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from(self.u8()) | u16::from(self.u8()) << 8
    }

    /// The number that would be right, one beside it, one at an end, or any.
    fn number(&mut self, right: u64) -> u64 {
        match self.u8() {
            1 => right.wrapping_add(1),
            2 => right.wrapping_sub(1),
            3 => 0,
            4 => u64::MAX,
            5 => u64::MAX - 1,
            6 => 1 << 62,
            7 => {
                let mut bytes = [0; 8];
                let given = self.take(8);
                bytes[..given.len()].copy_from_slice(given);
                u64::from_le_bytes(bytes)
            }
            _ => right,
        }
    }

    /// Alters files: each edit is a file, an offset, what to do, and how much of it.
    fn patch(&mut self, files: &mut Files, names: &[String]) {
        while !self.0.is_empty() {
            let (what, offset, amount) = (self.u8(), usize::from(self.u16()), self.u8());
            let name = &names[usize::from(what >> 4) % names.len()];
            let Some(bytes) = files.get_mut(name) else { return };
            if bytes.is_empty() {
                continue;
            }
            let offset = offset % bytes.len();
            let end = (offset + usize::from(amount) + 1).min(bytes.len());
            match what & 7 {
                0 => bytes[offset] ^= 1 << (amount & 7),
                1 => bytes[offset] = amount,
                2 => bytes.truncate(offset),
                3 => bytes[offset..end].fill(0),
                4 => bytes[offset..end].reverse(),
                5 => bytes.extend(std::iter::repeat_n(0, usize::from(amount))),
                6 => {
                    let to = HEADER_BYTES.min(bytes.len() - (end - offset));
                    bytes.copy_within(offset..end, to);
                }
                // From here on to the end, as a disk does that lost its last sectors.
                _ => bytes[offset..].fill(0),
            }
        }
    }
}

/// What the model knows of one fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    Yes,
    /// A change was not acknowledged: it may come out either way, once.
    Either,
}

/// Whether something is denied, as far as acknowledgements tell.
#[derive(Clone, Debug)]
struct Fact {
    /// In this process.
    now: bool,
    /// After a restart.
    kept: Known,
    /// When a token's retention ends: from then on it may be forgotten.
    until_secs: Option<u64>,
}

/// A store of any operations, and a naive model of it.
struct Machine {
    disk: MemoryStorage,
    clock: ManualClock,
    secs: u64,
    store: Store,
    /// By subject and effect: `t3` a token, `x9` one with a retention, `u1` the epochs of a user, `d1` its flag, `b7` a
    /// batch of sessions.
    facts: BTreeMap<String, Fact>,
    /// How many subjects were made that are named only once.
    named: u64,
    /// Whether an operation on the disk may fail.
    faulty: bool,
}

/// Runs operations, faults, kills and power cuts. What was acknowledged must hold, what was not must hold whole or not
/// at all, and nothing else may be denied.
pub fn operations(data: &[u8]) {
    let mut input = Input(data);
    let clock = ManualClock::at(Timestamp::from_secs(START_SECS));
    let disk = MemoryStorage::from_files(empty_image());
    let store = options(&clock).open_on(Arc::new(disk.clone())).expect("a new store");
    let facts = BTreeMap::new();
    let mut machine = Machine { disk, clock, secs: START_SECS, store, facts, named: 0, faulty: false };
    // Long inputs find nothing that short ones do not.
    for _ in 0..200 {
        if input.0.is_empty() {
            break;
        }
        machine.step(&mut input);
        machine.check();
    }
    machine.power_cut(0);
    machine.check();
}

impl Machine {
    fn step(&mut self, input: &mut Input<'_>) {
        let (what, which) = (input.u8(), input.u8());
        let token = format!("t{}", which % 8);
        let user = which % 4;
        match what % 16 {
            0 | 1 => self.deny(&token, None, |store, id| store.revoke(Revocation::of(Subject::token(id)))),
            2 => {
                let until = self.secs + u64::from(which) * 8;
                let id = self.name('x');
                self.deny(&id, Some(until), |store, id| {
                    store.revoke(Revocation::of(Subject::token(id)).until_secs(until))
                });
            }
            3 => self.undo(&token, |store, id| store.lift(Subject::token(id))),
            4 => self.deny(&format!("u{user}"), None, |store, id| store.revoke(Revocation::of(Subject::user(id)))),
            5 => {
                // Disabling makes everyone concerned authenticate again, too.
                let result = self.store.disable(Subject::user(format!("u{user}")));
                for fact in [format!("d{user}"), format!("u{user}")] {
                    self.deny(&fact, None, |_, _| result.clone());
                }
            }
            6 => self.undo(&format!("d{user}"), |store, _| store.enable(Subject::user(format!("u{user}")))),
            7 => self.undo(&format!("u{user}"), |store, id| store.lift(Subject::user(id))),
            8 => {
                let batch = self.name('b');
                let size = 3 + usize::from(which) % 40;
                self.deny(&batch, None, |store, id| {
                    let member = |index: usize| Revocation::of(Subject::session(format!("{id}-{index}")));
                    store.revoke_many((0..size).map(member))
                });
            }
            9 => {
                let taken = self.store.snapshot();
                self.snapshotted(&taken);
            }
            10 => {
                if let Some(taken) = self.store.maintain().snapshot {
                    self.snapshotted(&taken);
                }
            }
            11 => {
                let secs = u64::from(which) * 4;
                self.secs += secs;
                self.clock.advance(Duration::from_secs(secs));
            }
            12 => self.kill(),
            13 => self.power_cut(u64::from(which)),
            14 => {
                self.disk.crash_at(self.disk.operations() + u64::from(which) % 16);
                self.faulty = true;
            }
            _ => {
                let kinds = [ErrorKind::StorageFull, ErrorKind::Other, ErrorKind::ReadOnlyFilesystem];
                let kind = kinds[usize::from(which >> 5) % kinds.len()];
                self.disk.fail_at(self.disk.operations() + u64::from(which) % 16, kind, which & 16 != 0);
                self.faulty = true;
            }
        }
    }

    /// A snapshot holds what is in force, also what could not be written before, and nothing that is not.
    fn snapshotted(&mut self, taken: &Result<SnapshotReport, SnapshotError>) {
        assert!(taken.is_ok() || self.faulty, "nothing was wrong with the disk: {taken:?}");
        if taken.is_ok() {
            assert_eq!(self.store.stats().unsaved, 0);
            for fact in self.facts.values_mut() {
                fact.kept = if fact.now { Known::Yes } else { Known::No };
            }
        }
    }

    fn name(&mut self, kind: char) -> String {
        self.named += 1;
        format!("{kind}{}", self.named)
    }

    fn fact(&mut self, id: &str) -> &mut Fact {
        self.facts.entry(id.to_owned()).or_insert(Fact { now: false, kept: Known::No, until_secs: None })
    }

    /// Something that denies: in this process whatever the disk says, after a restart if it was acknowledged.
    fn deny(
        &mut self,
        id: &str,
        until_secs: Option<u64>,
        command: impl FnOnce(&Store, &str) -> Result<Receipt, WriteError>,
    ) {
        let result = command(&self.store, id);
        let faulty = self.faulty;
        let fact = self.fact(id);
        fact.until_secs = until_secs;
        fact.now = true;
        match result {
            Ok(receipt) => {
                assert_eq!(receipt.acknowledgement, Acknowledgement::Durable);
                fact.kept = Known::Yes;
            }
            Err(WriteError::NotDurable(error)) => {
                assert!(faulty, "nothing was wrong with the disk: {error}");
                if fact.kept == Known::No {
                    fact.kept = Known::Either;
                }
            }
            Err(error) => panic!("refused: {error}"),
        }
    }

    /// Something that undoes: only once it is acknowledged.
    fn undo(&mut self, id: &str, command: impl FnOnce(&Store, &str) -> Result<Receipt, WriteError>) {
        let result = command(&self.store, id);
        let faulty = self.faulty;
        let fact = self.fact(id);
        match result {
            Ok(_) => {
                fact.now = false;
                fact.kept = Known::No;
            }
            Err(WriteError::NotDurable(error)) => {
                assert!(faulty, "nothing was wrong with the disk: {error}");
                if fact.kept == Known::Yes {
                    fact.kept = Known::Either;
                }
            }
            Err(error) => panic!("refused: {error}"),
        }
    }

    /// Whether a fact holds, as the store sees it.
    fn holds(&self, id: &str) -> bool {
        let (kind, number) = id.split_at(1);
        let effect = |credential: &Credential<'_>| match self.store.check(credential) {
            Verdict::Revoked(denial) => Some(denial.effect),
            Verdict::Clear => None,
            Verdict::Unknown(cause) => panic!("nothing is wrong with the clock: {cause}"),
        };
        let is_revoked = |credential: &Credential<'_>| effect(credential).is_some();
        match kind {
            "t" | "x" => is_revoked(&Credential::new().token(id)),
            "d" => {
                let fresh = Credential::new().issued_at_secs(self.secs + 1).auth_time_secs(self.secs + 1);
                effect(&fresh.user(format!("u{number}"))) == Some(Effect::Disabled)
            }
            "u" => {
                let old = Credential::new().user(id).issued_at_secs(START_SECS).auth_time_secs(START_SECS);
                let known = self.store.explain(&Subject::user(id)).expect("a name");
                let epochs = known.iter().flat_map(|known| &known.facts);
                let has_epoch = epochs.into_iter().any(|fact| matches!(fact.effect, Effect::Reauthenticate { .. }));
                let is_disabled = self.holds(&format!("d{number}"));
                assert_eq!(is_revoked(&old), has_epoch || is_disabled, "{id} and its flag");
                has_epoch
            }
            _ => {
                let member = |index: usize| is_revoked(&Credential::new().session(format!("{id}-{index}")));
                assert!(member(0) == member(1) && member(0) == member(2), "a part of a batch");
                member(0)
            }
        }
    }

    fn is_over(&self, fact: &Fact) -> bool {
        fact.until_secs.is_some_and(|until| until < self.secs)
    }

    fn check(&self) {
        for (id, fact) in self.facts.iter().filter(|(_, fact)| !self.is_over(fact)) {
            assert_eq!(self.holds(id), fact.now, "{id}: {fact:?}");
        }
    }

    /// The process ends; the system goes on.
    fn kill(&mut self) {
        self.reopen(self.disk.kill_image());
    }

    /// The power goes, and with it what was not synced, or some of it.
    fn power_cut(&mut self, seed: u64) {
        let image = self.disk.crash_image(seed);
        self.clock.reboot();
        self.reopen(image);
    }

    fn reopen(&mut self, disk: MemoryStorage) {
        self.store = options(&self.clock).open_on(Arc::new(disk.clone())).expect("no crash makes a store unreadable");
        self.disk = disk;
        self.faulty = false;
        let mut facts = std::mem::take(&mut self.facts);
        facts.retain(|_, fact| !self.is_over(fact));
        for (id, fact) in &mut facts {
            fact.now = self.holds(id);
            match fact.kept {
                Known::Yes => assert!(fact.now, "{id} was acknowledged, and is forgotten"),
                Known::No => assert!(!fact.now, "{id} is denied, and nobody said so"),
                Known::Either => fact.kept = if fact.now { Known::Yes } else { Known::No },
            }
        }
        self.facts = facts;
    }
}

/// The envelope of a message, as it is laid out in the manual.
const ENVELOPE_BYTES: usize = 48;

/// Hands payloads of any bytes, behind an envelope that is in order, to a replica that holds something; and then messages
/// whole. It must go on: what it holds denies, it takes up no more than it was sent, and a heartbeat of a peer is still
/// heard.
pub fn message(data: &[u8]) {
    let clock = ManualClock::at(Timestamp::from_secs(START_SECS));
    let peer = NodeId::from_bytes([2; 16]);
    let start = |number: u8| {
        let options = Options::new().key(Key::from_bytes([5; 32])).clock(clock.clone()).background(false);
        let store = options.capacity(2 * TOKENS).open_in_memory().unwrap();
        let tokens = (0..TOKENS).map(|n| Revocation::of(Subject::token(format!("held-{n}"))));
        let nodes = [NodeId::from_bytes([1; 16]), peer];
        let replica =
            store.replicate(Replication::trusting_issuers("fuzz", NodeId::from_bytes([number; 16]), nodes)).unwrap();
        replica.set_peers(nodes);
        store.revoke_many(tokens).unwrap();
        store.revoke(Revocation::of(Subject::user("held"))).unwrap();
        replica.tick();
        replica
    };
    let (replica, other) = (start(1), start(2));
    let first = other.poll_transmit().unwrap().bytes;
    // Each part of the input is a payload; its length goes before it.
    let mut rest = data;
    while let Some((&length, after)) = rest.split_first_chunk() {
        let (payload, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(length))));
        rest = after;
        let mut bytes = first[..ENVELOPE_BYTES - 8].to_vec();
        bytes.extend_from_slice(&xxh3_64_with_seed(payload, u64::from(first[4])).to_le_bytes());
        bytes.extend_from_slice(payload);
        // What is refused has changed nothing; what is taken is checked below.
        replica.receive(peer, &bytes).ok();
        replica.receive(peer, payload).ok();
        clock.advance(Duration::from_millis(300));
        replica.tick();
        let mut answered = 0;
        while let Some(answer) = replica.poll_transmit() {
            answered += answer.bytes.len();
            other.receive(NodeId::from_bytes([1; 16]), &answer.bytes).unwrap();
        }
        assert!(answered < 16 << 20, "{answered} bytes in answer to {}", payload.len());
    }
    let store = replica.store();
    assert!(store.len() <= 2 * TOKENS);
    // A peer may lift what it knows of, so that only what it cannot have done is certain: nobody is let in who was not.
    let unknown = Credential::new().token("never revoked").issued_at_secs(START_SECS);
    let before = store.check(&unknown);
    assert!(
        !matches!(before, Verdict::Revoked(denial) if denial.subject.is_some_and(|shape| shape.kind == Kind::Token))
    );
    let stats = replica.stats();
    assert!(stats.peers.len() == 1 && stats.peers[0].node == peer);
}
