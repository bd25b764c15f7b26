//! What is left after damage, crashes and failing disks: everything that was acknowledged, or a typed error.
//!
//! Each harness prints one line of what it tried. `RESCIND_SCALE=full` tries everything; without it the large harnesses
//! take a sample that runs in seconds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed test panics, and a harness says what it tried"
)]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rescind::storage::{MemoryStorage, Storage, StorageFile};
use rescind::{
    Acknowledgement, Credential, Durability, Key, ManualClock, OpenError, Options, Receipt, RecoveryError, Revocation,
    SnapshotError, Store, Subject, Timestamp, Verdict, WriteError,
};
use xxhash_rust::xxh3::xxh3_64;

type Files = BTreeMap<String, Vec<u8>>;

const START_SECS: u64 = 1_700_000_000;
/// The smallest that there is.
const SEGMENT_BYTES: u64 = 4096;
const HEADER_BYTES: usize = 128;
const FRAME_HEADER_BYTES: usize = 72;

fn is_full_scale() -> bool {
    std::env::var("RESCIND_SCALE").is_ok_and(|scale| scale == "full")
}

/// `small`, or `full` if that is asked for.
fn scaled<T>(small: T, full: T) -> T {
    if is_full_scale() { full } else { small }
}

fn options() -> Options {
    Options::new()
        .key(Key::from_bytes([7; 32]))
        .clock(ManualClock::at(Timestamp::from_secs(START_SECS)))
        .background(false)
        .segment_bytes(SEGMENT_BYTES)
}

fn open(disk: &MemoryStorage) -> Result<Store, OpenError> {
    options().open_on(Arc::new(disk.clone()))
}

fn open_files(files: Files) -> Result<Store, OpenError> {
    open(&MemoryStorage::from_files(files))
}

fn recovery_error(result: Result<Store, OpenError>) -> RecoveryError {
    match result {
        Ok(store) => panic!("opened: {:?}", store.stats().recovery),
        Err(OpenError::Recovery(error)) => error,
        Err(error) => panic!("not an error of recovery: {error}"),
    }
}

fn assert_corrupt(result: Result<Store, OpenError>, what: &str) {
    let error = recovery_error(result);
    assert!(matches!(error, RecoveryError::Corrupt { .. }), "{what}: {error}");
}

fn revoke(store: &Store, token: &str) -> Result<Receipt, WriteError> {
    store.revoke(Revocation::of(Subject::token(token)))
}

fn is_denied(store: &Store, token: &str) -> bool {
    matches!(store.check(&Credential::new().token(token)), Verdict::Revoked(_))
}

fn session_is_denied(store: &Store, session: &str) -> bool {
    matches!(store.check(&Credential::new().session(session)), Verdict::Revoked(_))
}

fn token(index: usize) -> String {
    format!("token-{index}")
}

fn names(files: &Files, prefix: &str) -> Vec<String> {
    files.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
}

/// Patches a header, and makes its checksum right again.
fn reseal(header: &mut [u8], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
    let checksum = xxh3_64(&header[..HEADER_BYTES - 8]);
    header[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// A store with one token in each batch, and where in it the frame of each is.
struct Image {
    files: Files,
    tokens: usize,
    frames: Vec<(String, Range<usize>)>,
}

/// How a store opened that may have been damaged.
#[derive(Debug, PartialEq)]
enum Opened {
    /// Everything is there.
    Exact,
    /// These are not: the end of the log, from this token on.
    Short(usize),
    Refused,
}

impl Image {
    /// A token in each batch; a snapshot before some of them.
    fn new(tokens: usize, snapshots: &[usize]) -> Self {
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        for index in 0..tokens {
            if snapshots.contains(&index) {
                store.snapshot().unwrap();
            }
            revoke(&store, &token(index)).unwrap();
        }
        drop(store);
        let files = disk.files();
        let mut frames = Vec::new();
        for name in names(&files, "wal-") {
            let bytes = &files[&name];
            let mut offset = HEADER_BYTES;
            while bytes.get(offset..offset + 8) == Some(b"RFRM\x01\0\0\0") {
                let payload = u64::from_le_bytes(bytes[offset + 8..offset + 16].try_into().unwrap());
                let end = offset + FRAME_HEADER_BYTES + payload as usize + 8;
                frames.push((name.clone(), offset..end));
                offset = end;
            }
        }
        Self { files, tokens, frames }
    }

    fn last_segment(&self) -> &str {
        &self.frames.last().unwrap().0
    }

    /// Opens altered files, and fails if anything but the end of the log is missing.
    fn open(&self, files: Files) -> (Opened, Option<Store>) {
        let store = match open_files(files) {
            Ok(store) => store,
            Err(OpenError::Recovery(_)) => return (Opened::Refused, None),
            Err(error) => panic!("a damaged store is refused as damaged: {error}"),
        };
        let denied: Vec<bool> = (0..self.tokens).map(|index| is_denied(&store, &token(index))).collect();
        let held = denied.iter().take_while(|denied| **denied).count();
        assert!(denied.iter().skip(held).all(|denied| !denied), "a hole: {denied:?}");
        assert_eq!(store.len(), held, "nothing else is denied");
        (if held == self.tokens { Opened::Exact } else { Opened::Short(held) }, Some(store))
    }

    /// Opens a store of which one file was altered in a range of bytes. What may be missing is what a torn write could
    /// have left out: the last frame of the last segment, if it was hit, and that is reported.
    fn open_altered(&self, files: Files, name: &str, altered: Range<usize>) -> Opened {
        let (opened, store) = self.open(files);
        if let Opened::Short(held) = opened {
            assert_eq!(held, self.tokens - 1, "{name} {altered:?}: more than the last frame is gone");
            let (segment, frame) = self.frames.last().unwrap();
            let is_hit = segment == name && frame.start < altered.end && altered.start < frame.end;
            assert!(is_hit, "{name} {altered:?}: the last frame is gone, and was not hit");
            assert!(store.unwrap().stats().recovery.torn_tail_bytes > 0, "{name} {altered:?}: it is not reported");
        }
        opened
    }
}

/// Counts of a harness on damaged images.
#[derive(Default)]
struct Counts {
    images: u64,
    exact: u64,
    torn: u64,
    refused: u64,
}

impl Counts {
    fn add(&mut self, opened: &Opened) {
        self.images += 1;
        match opened {
            Opened::Exact => self.exact += 1,
            Opened::Short(_) => self.torn += 1,
            Opened::Refused => self.refused += 1,
        }
    }

    fn print(&self, harness: &str) {
        let Self { images, exact, torn, refused } = self;
        println!("harness {harness} images={images} exact={exact} torn={torn} refused={refused} silent=0 panics=0");
    }
}

#[test]
fn a_torn_tail_is_reported_and_wiped() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    revoke(&store, "kept").unwrap();
    // The power goes while the next frame is written: a part of it reaches the disk.
    disk.crash_at(disk.operations());
    assert!(matches!(revoke(&store, "torn"), Err(WriteError::NotDurable(_))));
    let torn = (1..200).map(|seed| disk.crash_image(seed)).find(|image| {
        let bytes = &image.files()[&names(&image.files(), "wal-")[0]];
        bytes.windows(4).filter(|window| window == b"RFRM").count() == 2
            && !is_denied(&open(&image.crash_image(0)).unwrap(), "torn")
    });
    let torn = torn.expect("some seed tears the frame");

    let store = open(&torn).unwrap();
    assert!(store.stats().recovery.torn_tail_bytes > 0);
    assert!(is_denied(&store, "kept") && !is_denied(&store, "torn"));
    revoke(&store, "next").unwrap();
    drop(store);

    let store = open(&torn.crash_image(0)).unwrap();
    assert_eq!(store.stats().recovery.torn_tail_bytes, 0);
    assert!(is_denied(&store, "kept") && is_denied(&store, "next") && !is_denied(&store, "torn"));
}

#[test]
fn every_flipped_bit_of_a_log_is_harmless_or_refused() {
    let mut counts = Counts::default();
    // All of a small log, and a sample of one with two segments.
    for (image, stride) in [(Image::new(4, &[]), scaled(3, 1)), (Image::new(40, &[]), scaled(101, 1))] {
        for name in names(&image.files, "wal-").into_iter().chain(["STORE".to_owned()]) {
            for bit in (0..image.files[&name].len() * 8).step_by(if name == "STORE" { 1 } else { stride }) {
                let mut files = image.files.clone();
                files.get_mut(&name).unwrap()[bit / 8] ^= 1 << (bit % 8);
                counts.add(&image.open_altered(files, &name, bit / 8..bit / 8 + 1));
            }
        }
    }
    counts.print("log-bits");
}

#[test]
fn every_truncation_of_a_log_is_refused() {
    let mut counts = Counts::default();
    for (image, stride) in [(Image::new(6, &[]), scaled(5, 1)), (Image::new(40, &[]), scaled(31, 1))] {
        for name in names(&image.files, "wal-").into_iter().chain(["STORE".to_owned()]) {
            for len in (0..image.files[&name].len()).step_by(if name == "STORE" { 1 } else { stride }) {
                let mut files = image.files.clone();
                files.get_mut(&name).unwrap().truncate(len);
                let error = recovery_error(open_files(files));
                assert!(matches!(error, RecoveryError::Corrupt { .. }), "{name} at {len}: {error}");
                counts.add(&Opened::Refused);
            }
        }
    }
    counts.print("log-truncations");
}

#[test]
fn a_damaged_snapshot_is_made_up_for_by_the_one_before_it_and_the_log() {
    let image = Image::new(12, &[3, 8]);
    let snapshots = names(&image.files, "snap-");
    let newest = snapshots.last().unwrap();
    assert_eq!(snapshots.len(), 2);
    let mut counts = Counts::default();
    let mut damage = |files: Files, what: String, may_refuse: bool| {
        let (opened, store) = image.open(files);
        match &store {
            Some(store) => {
                let report = store.stats().recovery;
                assert_eq!(opened, Opened::Exact, "{what}");
                assert_eq!(report.damaged_snapshots, std::slice::from_ref(newest), "{what}");
                assert_eq!(report.snapshot_batch, Some(3), "{what}");
            }
            None => assert!(may_refuse, "{what}"),
        }
        counts.add(&opened);
    };
    let len = image.files[newest].len();
    for bit in (0..len * 8).step_by(scaled(3, 1)) {
        let mut files = image.files.clone();
        files.get_mut(newest).unwrap()[bit / 8] ^= 1 << (bit % 8);
        // A version that is not known is not called damage: a later version of rescind may know it.
        damage(files, format!("bit {bit}"), (8..12).contains(&(bit / 8)));
    }
    for shorter in (0..len).step_by(scaled(3, 1)) {
        let mut files = image.files.clone();
        files.get_mut(newest).unwrap().truncate(shorter);
        damage(files, format!("truncated to {shorter}"), false);
    }
    let mut files = image.files.clone();
    files.get_mut(newest).unwrap().push(0);
    damage(files, "a byte more".into(), false);
    counts.print("snapshot");
}

#[test]
fn a_damaged_snapshot_without_another_is_refused() {
    let mut image = Image::new(80, &[30, 60]);
    let snapshots = names(&image.files, "snap-");
    image.files.remove(&snapshots[0]);
    assert!(!image.files.contains_key("wal-0000000000000001.log"), "the log does not reach back");
    assert_eq!(image.open(image.files.clone()).0, Opened::Exact);
    let mut counts = Counts::default();
    for bit in (0..image.files[&snapshots[1]].len() * 8).step_by(scaled(101, 1)) {
        let mut files = image.files.clone();
        files.get_mut(&snapshots[1]).unwrap()[bit / 8] ^= 1 << (bit % 8);
        let opened = image.open(files).0;
        assert_eq!(opened, Opened::Refused, "bit {bit}");
        counts.add(&opened);
    }
    counts.print("only-snapshot-bits");
}

/// Three segments, two snapshots: the newest in the second segment.
fn large_image() -> Image {
    let image = Image::new(75, &[20, 50]);
    assert!(names(&image.files, "wal-").len() >= 3 && names(&image.files, "snap-").len() == 2);
    image
}

#[test]
fn files_that_are_missing_swapped_or_foreign_are_noticed() {
    let image = large_image();
    let foreign = large_image().files;
    let all: Vec<String> = image.files.keys().cloned().collect();
    let mut counts = Counts::default();
    let mut refused = Vec::new();
    let mut alter = |what: String, files: Files| {
        let opened = image.open(files).0;
        assert!(matches!(opened, Opened::Exact | Opened::Refused), "{what}: {opened:?}");
        if opened == Opened::Refused {
            refused.push(what);
        }
        counts.add(&opened);
    };
    for name in &all {
        let mut files = image.files.clone();
        files.remove(name);
        alter(format!("deleted {name}"), files);

        let mut files = image.files.clone();
        files.insert(name.clone(), foreign[name].clone());
        alter(format!("foreign {name}"), files);

        let mut files = image.files.clone();
        let bytes = files.remove(name).unwrap();
        files.insert(name.replacen("00000000", "00000001", 1), bytes);
        alter(format!("renamed {name}"), files);

        for other in &all {
            let mut files = image.files.clone();
            files.insert(name.clone(), image.files[other].clone());
            alter(format!("replaced {name} by {other}"), files.clone());
            files.insert(other.clone(), image.files[name].clone());
            alter(format!("swapped {name} and {other}"), files);
        }
    }
    counts.print("files");

    // What the newest snapshot does not make superfluous cannot be missed.
    let needed: Vec<&String> = all.iter().filter(|name| name.starts_with("wal-")).collect();
    for name in needed.iter().skip(needed.len() - 2) {
        for what in ["deleted", "foreign", "renamed"] {
            assert!(refused.contains(&format!("{what} {name}")), "{what} {name}");
        }
    }
    assert!(refused.contains(&"deleted STORE".to_owned()) && refused.contains(&"foreign STORE".to_owned()));
}

#[test]
fn a_lost_sector_takes_no_more_than_the_end_of_the_log() {
    let image = Image::new(40, &[]);
    let mut counts = Counts::default();
    for name in names(&image.files, "wal-") {
        for sector_bytes in [512, 4096] {
            for start in (0..SEGMENT_BYTES as usize).step_by(sector_bytes) {
                for fill in [0x00, 0xff] {
                    let mut files = image.files.clone();
                    let sector = start..start + sector_bytes;
                    files.get_mut(&name).unwrap()[sector.clone()].fill(fill);
                    let opened = image.open(files).0;
                    if let Opened::Short(held) = opened {
                        // A frame that survives beyond proves that those before it were there.
                        for (segment, frame) in &image.frames[held..] {
                            assert_eq!((segment.as_str(), &name), (image.last_segment(), segment));
                            assert!(frame.start < sector.end && sector.start < frame.end, "an intact frame is gone");
                        }
                    }
                    counts.add(&opened);
                }
            }
        }
    }
    counts.print("sectors");
}

#[test]
fn a_store_without_its_head_is_not_taken_for_a_new_one() {
    let disk = MemoryStorage::new();
    let stored = || options_with_stored_key().open_on(Arc::new(disk.clone()));
    revoke(&stored().unwrap(), "a").unwrap();
    let files = disk.files();
    assert!(files.contains_key("KEY") && files["KEY"].len() == 32);
    let without = |name: &str| {
        let mut files = files.clone();
        files.remove(name).unwrap();
        options_with_stored_key().open_on(Arc::new(MemoryStorage::from_files(files)))
    };
    assert_corrupt(without("STORE"), "no STORE");
    assert!(matches!(recovery_error(without("KEY")), RecoveryError::KeyMissing));
    assert!(matches!(recovery_error(open_files(files.clone())), RecoveryError::WrongKey { .. }));
    for bit in 0..256 {
        let mut files = files.clone();
        files.get_mut("KEY").unwrap()[bit / 8] ^= 1 << (bit % 8);
        let opened = options_with_stored_key().open_on(Arc::new(MemoryStorage::from_files(files)));
        assert!(matches!(recovery_error(opened), RecoveryError::WrongKey { .. }), "bit {bit}");
    }
    for len in [0, 31, 33] {
        let mut files = files.clone();
        files.get_mut("KEY").unwrap().resize(len, 0);
        recovery_error(options_with_stored_key().open_on(Arc::new(MemoryStorage::from_files(files))));
    }
}

fn options_with_stored_key() -> Options {
    Options::new().background(false).segment_bytes(SEGMENT_BYTES)
}

#[test]
fn a_store_of_a_later_format_is_not_opened() {
    let image = large_image();
    for name in image.files.keys() {
        let mut files = image.files.clone();
        reseal(files.get_mut(name).unwrap(), 8, &4_u32.to_le_bytes());
        match open_files(files) {
            Err(OpenError::Recovery(RecoveryError::UnknownFormat { file, version: 4 })) => assert_eq!(file, *name),
            // What MARK says is not needed.
            Ok(_) if name == "MARK" => {}
            Ok(_) => {
                // What the newest snapshot makes superfluous is not read.
                let is_superfluous =
                    *name == names(&image.files, "snap-")[0] || *name == names(&image.files, "wal-")[0];
                assert!(is_superfluous, "{name}");
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

/// A failing read is never taken for the end of a file.
#[test]
fn a_failing_read_fails_the_open() {
    let image = large_image();
    let disk = MemoryStorage::from_files(image.files.clone());
    drop(open(&disk).unwrap());
    let mut refused = 0;
    for read in 0..disk.reads() {
        for sticky in [false, true] {
            let disk = MemoryStorage::from_files(image.files.clone());
            disk.fail_read_at(read, ErrorKind::Other, sticky);
            match open(&disk) {
                Ok(store) => assert!((0..image.tokens).all(|index| is_denied(&store, &token(index))), "read {read}"),
                Err(OpenError::Recovery(RecoveryError::File(_))) => refused += 1,
                Err(error) => panic!("read {read}: {error}"),
            }
            disk.clear_faults();
            assert_eq!(image.open(disk.files()).0, Opened::Exact, "read {read}");
        }
    }
    println!("harness reads tried={} refused={refused} short=0", disk.reads() * 2);
}

/// What a workload was told.
#[derive(Default)]
struct Told {
    /// Tokens, in their order.
    revoked: Vec<String>,
    /// Sessions revoked together: each either acknowledged or not.
    batches: Vec<(String, bool)>,
    /// Users that are disabled; none where that is not known.
    disabled: BTreeMap<String, Option<bool>>,
    /// How many of `revoked` came before the last snapshot that was taken.
    snapshotted: usize,
}

/// The sessions of a batch.
const BATCH: usize = 3;
/// The sessions of a batch that needs a segment larger than all others.
const LARGE_BATCH: usize = 90;
const STEPS: usize = 88;

/// Rotations and snapshots, batches and flags, one after another, until an error if `until_error`.
fn work(store: &Store, told: &mut Told, until_error: bool) {
    let mut is_poisoned = false;
    for step in 0..STEPS {
        let user = format!("user-{}", step % 3);
        let result = match step % 11 {
            3 => {
                let batch = format!("batch-{step}");
                let members = |index: usize| Revocation::of(Subject::session(format!("{batch}-{index}")));
                let size = if step % 44 == 14 { LARGE_BATCH } else { BATCH };
                let result = store.revoke_many((0..size).map(members));
                assert!(
                    (0..BATCH).all(|index| session_is_denied(store, &format!("{batch}-{index}"))),
                    "denied at once"
                );
                told.batches.push((batch, result.is_ok()));
                result
            }
            5 | 6 => {
                let result = store.disable(Subject::user(&*user));
                assert!(is_disabled(store, &user), "denied at once");
                let known = told.disabled.entry(user).or_insert(Some(false));
                *known = if result.is_ok() { Some(true) } else { known.filter(|disabled| *disabled) };
                result
            }
            8 => {
                let was_disabled = is_disabled(store, &user);
                let result = store.enable(Subject::user(&*user));
                if result.is_err() {
                    assert_eq!(is_disabled(store, &user), was_disabled, "nothing is undone that is not logged");
                }
                let known = told.disabled.entry(user).or_insert(Some(false));
                *known = if result.is_ok() { Some(false) } else { known.filter(|disabled| !*disabled) };
                result
            }
            10 if step % 2 == 0 => {
                let result = store.snapshot();
                if result.is_ok() {
                    told.snapshotted = told.revoked.len();
                    is_poisoned = false;
                }
                match result {
                    Ok(_) | Err(SnapshotError::File(_)) => continue,
                    Err(SnapshotError::Poisoned { error, .. }) => Err(WriteError::NotDurable(error)),
                    Err(error) => panic!("step {step}: {error}"),
                }
            }
            _ => {
                let token = token(step);
                let result = revoke(store, &token);
                assert!(is_denied(store, &token), "denied at once");
                if result.is_ok() {
                    told.revoked.push(token);
                }
                result
            }
        };
        match result {
            // What changes nothing has nothing to write.
            Ok(receipt) => {
                assert!(!is_poisoned || receipt.changed == 0, "step {step}: acknowledged after a failed sync")
            }
            Err(WriteError::NotDurable(_)) if until_error => return,
            Err(WriteError::NotDurable(_)) => is_poisoned = store.stats().write_error.is_some(),
            Err(error) => panic!("step {step}: {error}"),
        }
    }
}

fn is_disabled(store: &Store, user: &str) -> bool {
    let fresh = Credential::new().user(user).issued_at_secs(START_SECS + 9).auth_time_secs(START_SECS + 9);
    matches!(store.check(&fresh), Verdict::Revoked(_))
}

impl Told {
    /// Fails if anything acknowledged is forgotten, or half of anything else is there.
    fn check(&self, store: &Store, what: impl Fn() -> String) {
        for token in &self.revoked {
            assert!(is_denied(store, token), "{}: {token} was acknowledged, and is forgotten", what());
        }
        self.check_batches(store, &what);
        for (user, disabled) in &self.disabled {
            assert!(disabled.is_none_or(|disabled| disabled == is_disabled(store, user)), "{}: {user}", what());
        }
    }

    fn check_batches(&self, store: &Store, what: impl Fn() -> String) {
        for (batch, acknowledged) in &self.batches {
            let there = (0..BATCH).filter(|index| session_is_denied(store, &format!("{batch}-{index}"))).count();
            assert!(there == BATCH || (there == 0 && !acknowledged), "{}: {there} of {batch}", what());
        }
    }
}

/// Runs the workload on a disk on which a fault may be set.
fn run(disk: &MemoryStorage, options: Options, until_error: bool) -> Told {
    let mut told = Told::default();
    if let Ok(store) = options.open_on(Arc::new(disk.clone())) {
        work(&store, &mut told, until_error);
    }
    told
}

/// How many operations the workload makes.
fn operations(options: Options) -> u64 {
    let disk = MemoryStorage::new();
    let told = run(&disk, options, true);
    let files = disk.files();
    assert!(told.revoked.len() > 40, "{}", told.revoked.len());
    assert!(names(&files, "snap-").len() == 2 && names(&files, "wal-").len() > 1);
    disk.operations()
}

fn seeds(small: u64, full: u64) -> impl Iterator<Item = u64> {
    [0, u64::MAX].into_iter().chain(1..scaled(small, full))
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    let (mut tried, mut during_recovery) = (0, 0);
    for operation in 0..=operations(options()) {
        let disk = MemoryStorage::new();
        disk.crash_at(operation);
        let told = run(&disk, options(), true);
        for seed in seeds(8, 150) {
            let image = disk.crash_image(seed);
            let store = open(&image).unwrap_or_else(|error| panic!("operation {operation}, seed {seed}: {error}"));
            told.check(&store, || format!("operation {operation}, seed {seed}"));
            tried += 1;
            // And again, while that recovers.
            let recovery_operations = image.operations();
            if seed > 2 {
                continue;
            }
            for again in 0..recovery_operations {
                let image = disk.crash_image(seed);
                image.crash_at(again);
                drop(open(&image));
                for seed_again in [0, u64::MAX, operation + again + 1] {
                    let what = || format!("operation {operation}, seed {seed}, then {again}, seed {seed_again}");
                    let image = image.crash_image(seed_again);
                    let store = open(&image).unwrap_or_else(|error| panic!("{}: {error}", what()));
                    told.check(&store, what);
                    during_recovery += 1;
                }
            }
        }
    }
    println!("harness crash tried={tried} during_recovery={during_recovery} lost=0 partial=0");
}

/// What is acknowledged before it is on disk survives the end of the process; a power cut takes the end of it, and no
/// more than since the last snapshot.
#[test]
fn what_is_accepted_survives_a_kill_and_a_crash_takes_only_its_end() {
    let (mut tried, mut killed) = (0, 0);
    for durability in [Durability::Memory, Durability::Interval(Duration::from_secs(3600))] {
        let options = || options().durability(durability);
        for operation in (0..=operations(options())).step_by(scaled(2, 1)) {
            let disk = MemoryStorage::new();
            disk.crash_at(operation);
            let told = run(&disk, options(), true);

            let store = open(&disk.kill_image()).unwrap();
            told.check(&store, || format!("killed at operation {operation}"));
            killed += 1;
            for seed in seeds(8, 200) {
                let what = || format!("{durability:?}, operation {operation}, seed {seed}");
                let store = open(&disk.crash_image(seed)).unwrap_or_else(|error| panic!("{}: {error}", what()));
                let denied: Vec<bool> = told.revoked.iter().map(|token| is_denied(&store, token)).collect();
                let held = denied.iter().take_while(|denied| **denied).count();
                assert!(denied.iter().skip(held).all(|denied| !denied), "{}: a hole: {denied:?}", what());
                assert!(held >= told.snapshotted, "{}: {held}, snapshot of {}", what(), told.snapshotted);
                let unacknowledged = Told {
                    batches: told.batches.iter().map(|(batch, _)| (batch.clone(), false)).collect(),
                    ..Told::default()
                };
                unacknowledged.check_batches(&store, what);
                tried += 1;
            }
        }
    }
    println!("harness accepted killed={killed} crashed={tried} lost_by_kill=0 holes=0 partial=0");
}

#[test]
fn a_receipt_says_what_it_is_worth() {
    let interval = Durability::Interval(Duration::from_secs(3600));
    let acknowledgements = [
        (Durability::Sync, Acknowledgement::Durable),
        (interval, Acknowledgement::Accepted),
        (Durability::Memory, Acknowledgement::Memory),
    ];
    for (durability, acknowledgement) in acknowledgements {
        let disk = MemoryStorage::new();
        let store = options().durability(durability).open_on(Arc::new(disk.clone())).unwrap();
        assert_eq!(revoke(&store, "a").unwrap().acknowledgement, acknowledgement);
        let kept = is_denied(&open(&disk.crash_image(0)).unwrap(), "a");
        assert_eq!(kept, acknowledgement == Acknowledgement::Durable);
        assert!(is_denied(&open(&disk.kill_image()).unwrap(), "a"));
        store.close().unwrap();
        assert!(is_denied(&open(&disk.crash_image(0)).unwrap(), "a"), "closing syncs");
    }
}

const KINDS: [ErrorKind; 8] = [
    ErrorKind::StorageFull,
    ErrorKind::Other,
    ErrorKind::ReadOnlyFilesystem,
    ErrorKind::QuotaExceeded,
    ErrorKind::PermissionDenied,
    ErrorKind::WriteZero,
    ErrorKind::TimedOut,
    ErrorKind::OutOfMemory,
];

#[test]
fn an_error_at_any_operation_acknowledges_nothing_falsely() {
    let (mut runs, mut reopened) = (0, 0);
    for operation in 0..operations(options()) {
        for kind in &KINDS[..scaled(2, KINDS.len())] {
            for sticky in [false, true] {
                let what = || format!("{kind:?} at operation {operation}, sticky: {sticky}");
                let disk = MemoryStorage::new();
                disk.fail_at(operation, *kind, sticky);
                let told = run(&disk, options(), false);
                runs += 1;
                disk.clear_faults();
                for seed in seeds(3, 8) {
                    let store = open(&disk.crash_image(seed)).unwrap_or_else(|error| panic!("{}: {error}", what()));
                    told.check(&store, || format!("{}, then a power cut with seed {seed}", what()));
                    reopened += 1;
                }
                // The process ends, and the next one goes on, on the same system; only then the power goes. What it
                // read may never have reached the disk.
                let disk = disk.kill_image();
                let store = open(&disk).unwrap_or_else(|error| panic!("{}: {error}", what()));
                told.check(&store, || format!("{}, then a kill", what()));
                revoke(&store, "after").unwrap();
                for seed in seeds(2, 4) {
                    let what = || format!("{}, then a kill, then a power cut with seed {seed}", what());
                    let store = open(&disk.crash_image(seed)).unwrap_or_else(|error| panic!("{}: {error}", what()));
                    told.check(&store, what);
                    assert!(is_denied(&store, "after"), "{}", what());
                    reopened += 1;
                }
            }
        }
    }
    println!("harness error runs={runs} reopened={reopened} false_acknowledgements=0 partial=0");
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    store.disable(Subject::user("user")).unwrap();
    revoke(&store, "lifted").unwrap();
    disk.fail_at(disk.operations() + 1, ErrorKind::Other, false);
    assert!(matches!(revoke(&store, "a"), Err(WriteError::NotDurable(_))));
    assert!(is_denied(&store, "a"), "it denies all the same");
    assert!(store.stats().write_error.is_some());

    let operations = disk.operations();
    assert!(matches!(revoke(&store, "b"), Err(WriteError::NotDurable(_))));
    assert!(is_denied(&store, "b"));
    assert!(matches!(store.enable(Subject::user("user")), Err(WriteError::NotDurable(_))));
    assert!(is_disabled(&store, "user"), "what undoes is not applied");
    assert!(matches!(store.lift(Subject::token("lifted")), Err(WriteError::NotDurable(_))));
    assert!(is_denied(&store, "lifted"), "what undoes is not applied");
    assert_eq!(disk.operations(), operations, "the disk is left alone");

    let store = open(&disk.crash_image(0)).unwrap();
    assert!(is_denied(&store, "lifted") && is_disabled(&store, "user") && !is_denied(&store, "b"));
}

#[test]
fn the_log_does_not_grow_without_end() {
    let clock = ManualClock::at(Timestamp::from_secs(START_SECS));
    let options = || options().clock(clock.clone()).snapshot_after_bytes(8192);
    let disk = MemoryStorage::new();
    let mut store = options().open_on(Arc::new(disk.clone())).unwrap();
    let mut largest = 0;
    let rounds = scaled(60, 600);
    for round in 0..rounds {
        let secs = START_SECS + round * 1000;
        let batch = (0..40).map(|index| {
            let subject = Subject::token(format!("{round}-{index}"));
            Revocation::of(subject).until_secs(secs + 500)
        });
        store.revoke_many(batch).unwrap();
        store.revoke(Revocation::of(Subject::user("always the same")).sparing_session(format!("{round}"))).unwrap();
        clock.advance(Duration::from_secs(1000));
        let report = store.maintain();
        assert!(report.snapshot.is_none_or(|snapshot| snapshot.is_ok()));
        if round % 7 == 0 {
            drop(store);
            store = options().open_on(Arc::new(disk.clone())).unwrap();
        }
        largest = largest.max(disk.files().values().map(Vec::len).sum());
    }
    assert!(store.len() < 200, "{} entries", store.len());
    assert!(largest < 64 * 1024, "{largest} bytes");
    println!("harness growth rounds={rounds} largest_bytes={largest}");
}

/// A sync that failed in one process, and a write that the next one acknowledged.
#[test]
fn what_an_earlier_process_failed_to_sync_is_written_again() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    revoke(&store, "a").unwrap();
    disk.fail_at(disk.operations() + 1, ErrorKind::StorageFull, false);
    assert!(revoke(&store, "never on disk").is_err());
    drop(store);

    // The page cache has it, the disk has not, and nothing marks it as to be written.
    let disk = disk.kill_image();
    let store = open(&disk).unwrap();
    revoke(&store, "b").unwrap();
    let store = open(&disk.crash_image(0)).unwrap();
    assert!(is_denied(&store, "a") && is_denied(&store, "b"));
}

/// The same for the frame that ends a segment.
#[test]
fn an_end_that_an_earlier_process_failed_to_sync_is_written_again() {
    let mut tried = 0;
    for operation in 0..12 {
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        let mut index = 0;
        while names(&disk.files(), "wal-").len() < 2 {
            revoke(&store, &token(index)).unwrap();
            index += 1;
        }
        // The same again, with a fault in the rotation.
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        (0..index - 1).for_each(|index| assert!(revoke(&store, &token(index)).is_ok()));
        disk.fail_at(disk.operations() + operation, ErrorKind::Other, false);
        let is_acknowledged = revoke(&store, "rotates").is_ok();
        drop(store);

        let disk = disk.kill_image();
        let store = open(&disk).unwrap();
        revoke(&store, "after").unwrap();
        let store = open(&disk.crash_image(0)).unwrap_or_else(|error| panic!("operation {operation}: {error}"));
        assert!((0..index - 1).all(|index| is_denied(&store, &token(index))) && is_denied(&store, "after"));
        assert!(is_denied(&store, "rotates") || !is_acknowledged);
        tried += 1;
    }
    assert_eq!(tried, 12);
}

/// A batch that needs a larger segment replaces one that is still empty: after an error in between it must be clear
/// which of the two is written to.
#[test]
fn a_rotation_that_may_have_happened_is_not_taken_for_one_that_has_not() {
    let large = || (0..90).map(|index| Revocation::of(Subject::session(format!("large-{index}"))));
    for tokens in [0, 12] {
        let rotation = |disk: &MemoryStorage| {
            let store = open(disk).unwrap();
            (0..tokens).for_each(|index| assert!(revoke(&store, &token(index)).is_ok()));
            store
        };
        let disk = MemoryStorage::new();
        let store = rotation(&disk);
        let first = disk.operations();
        store.revoke_many(large()).unwrap();
        for operation in first..disk.operations() {
            let disk = MemoryStorage::new();
            let store = rotation(&disk);
            disk.fail_at(operation, ErrorKind::Other, false);
            assert!(store.revoke_many(large()).is_err());
            let small = revoke(&store, "small");
            drop(store);

            let what = format!("{tokens} tokens, operation {operation}");
            for image in [disk.crash_image(0), disk.kill_image(), disk.crash_image(u64::MAX)] {
                let store = open(&image).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(small.is_err() || is_denied(&store, "small"), "{what}: acknowledged, and forgotten");
                assert!((0..tokens).all(|index| is_denied(&store, &token(index))), "{what}");
            }
        }
    }
}

#[test]
fn what_cannot_be_written_takes_no_room() {
    let disk = MemoryStorage::new();
    let store = open(&disk).unwrap();
    let large = || (0..90).map(|index| Revocation::of(Subject::session(format!("large-{index}"))));
    let is_temporary = |name: &String| name.ends_with(".tmp");
    // Create a file, then fail to write to it, or to sync it.
    for (after, round) in (1..5).zip(0..) {
        disk.fail_at(disk.operations() + after, ErrorKind::StorageFull, false);
        let failed = store.revoke_many(large()).is_err();
        assert!(failed && !disk.files().keys().any(is_temporary), "segment, operation {after}: {disk:?}");
        if store.stats().write_error.is_some() {
            break;
        }
        revoke(&store, &format!("{round}")).unwrap();
        disk.fail_at(disk.operations() + after, ErrorKind::StorageFull, false);
        let failed = store.snapshot().is_err();
        assert!(!failed || !disk.files().keys().any(is_temporary), "snapshot, operation {after}: {disk:?}");
    }
}

/// A snapshot of the last batch of a segment, and a crash before that segment has its end frame.
#[test]
fn a_segment_that_ends_with_a_snapshot_gets_its_end_frame() {
    let count = {
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        (0..).find(|index| {
            revoke(&store, &token(*index)).unwrap();
            names(&disk.files(), "wal-").len() > 1
        })
    };
    let count = count.unwrap();
    for operation in 0..12 {
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        for index in 0..count {
            if index == 3 {
                store.snapshot().unwrap();
            }
            revoke(&store, &token(index)).unwrap();
        }
        store.snapshot().unwrap();
        disk.crash_at(disk.operations() + operation);
        assert!(revoke(&store, "crashed").is_err() || operation > 9);
        drop(store);
        for seed in [0, u64::MAX] {
            let disk = disk.crash_image(seed);
            let store = open(&disk).unwrap();
            revoke(&store, "after").unwrap();
            drop(store);
            // The newest snapshot turns out to be damaged: the one before it and the log must do.
            let mut files = disk.files();
            let newest = names(&files, "snap-").pop().unwrap();
            files.get_mut(&newest).unwrap()[200] ^= 1;
            let store = open_files(files).unwrap_or_else(|error| panic!("operation {operation}, seed {seed}: {error}"));
            assert!((0..count).all(|index| is_denied(&store, &token(index))) && is_denied(&store, "after"));
        }
    }
}

#[test]
fn a_damaged_snapshot_does_not_count_as_the_one_before() {
    let image = Image::new(80, &[30, 60]);
    let mut files = image.files.clone();
    let damage = |files: &mut Files| {
        let newest = names(files, "snap-").into_iter().rfind(|name| name.ends_with(".snap")).unwrap();
        files.get_mut(&newest).unwrap()[200] ^= 1;
    };
    damage(&mut files);
    let disk = MemoryStorage::from_files(files);
    let store = open(&disk).unwrap();
    assert_eq!(store.stats().recovery.damaged_snapshots.len(), 1);
    revoke(&store, "next").unwrap();
    store.snapshot().unwrap();
    drop(store);

    let mut files = disk.files();
    damage(&mut files);
    let store = open_files(files).unwrap();
    assert!((0..80).all(|index| is_denied(&store, &token(index))) && is_denied(&store, "next"));
    assert_eq!(store.stats().recovery.snapshot_batch, Some(30));
}

#[test]
fn files_whose_names_only_look_like_ours_are_left_alone() {
    let image = Image::new(4, &[2]);
    for name in ["wal-+00000000000001.log", "wal-000000000000000A.log", "snap-00000000000000AA.snap", "note.txt"] {
        let mut files = image.files.clone();
        files.insert(name.to_owned(), b"not ours".to_vec());
        let disk = MemoryStorage::from_files(files);
        let store = open(&disk).unwrap_or_else(|error| panic!("{name}: {error}"));
        store.snapshot().unwrap();
        assert!((0..4).all(|index| is_denied(&store, &token(index))), "{name}");
        assert_eq!(disk.files()[name], b"not ours");
    }
}

/// Numbers at the end of what 64 bits hold are refused, and not counted on from.
#[test]
fn absurd_batch_numbers_are_refused() {
    let image = Image::new(4, &[2]);
    let snapshot = names(&image.files, "snap-").pop().unwrap();
    let segment = names(&image.files, "wal-").pop().unwrap();
    for batch in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let mut files = image.files.clone();
        let mut bytes = files.remove(&snapshot).unwrap();
        reseal(&mut bytes[..HEADER_BYTES], 48, &batch.to_le_bytes());
        files.insert(format!("snap-{batch:016x}.snap"), bytes);
        let (opened, store) = image.open(files.clone());
        assert_eq!(opened, Opened::Exact);
        store.unwrap().snapshot().unwrap();

        // Without a log there is nothing else to go by.
        let mut bytes = files.remove(&segment).unwrap();
        assert_corrupt(open_files(files.clone()), "no log");
        reseal(&mut bytes[..HEADER_BYTES], 48, &batch.to_le_bytes());
        files.insert(format!("wal-{batch:016x}.log"), bytes);
        assert_corrupt(open_files(files), "a log of another place");
    }
}

/// What is done before each sync of a file.
#[derive(Clone)]
struct Hook(Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

/// A storage that lets a test in before each sync of a file.
#[derive(Debug)]
struct Hooked(MemoryStorage, Hook);

#[derive(Debug)]
struct HookedFile(Box<dyn StorageFile>, Hook);

impl Storage for Hooked {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(HookedFile(self.0.create(name)?, self.1.clone())))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(HookedFile(self.0.open(name)?, self.1.clone())))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }
}

impl StorageFile for HookedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.1.0();
        self.0.sync()
    }
}

#[test]
fn a_panic_in_the_storage_leaves_nobody_waiting() {
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = Arc::clone(&armed);
    let hook = Hook(Arc::new(move || assert!(!is_armed.load(Ordering::Relaxed), "a defect in the storage")));
    let disk = MemoryStorage::new();
    let store = options().open_on(Arc::new(Hooked(disk.clone(), hook))).unwrap();
    revoke(&store, "before").unwrap();
    armed.store(true, Ordering::Relaxed);
    let (answer, answered) = channel();
    let asking = store.clone();
    let asker = std::thread::spawn(move || {
        for token in ["during", "after"] {
            answer.send(revoke(&asking, token)).unwrap();
        }
    });
    for _ in 0..2 {
        let answer = answered.recv_timeout(Duration::from_secs(20)).expect("an answer");
        assert!(matches!(answer, Err(WriteError::NotDurable(_))), "{answer:?}");
    }
    asker.join().unwrap();
    assert!(is_denied(&store, "during") && is_denied(&store, "after"), "they deny all the same");
    assert!(store.stats().write_error.is_some());
    assert!(store.snapshot().is_err() && store.close().is_err());
    assert!(is_denied(&open(&disk.crash_image(0)).unwrap(), "before"));
}

#[test]
fn a_snapshot_that_meets_a_close_is_refused() {
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = Arc::clone(&armed);
    let (enter, entered) = channel();
    let (leave, left) = channel::<()>();
    let (enter, left) = (Mutex::new(enter), Mutex::new(left));
    let hook = Hook(Arc::new(move || {
        if is_armed.swap(false, Ordering::Relaxed) {
            enter.lock().unwrap().send(()).unwrap();
            left.lock().unwrap().recv().unwrap();
        }
    }));
    let disk = Arc::new(Hooked(MemoryStorage::new(), hook));
    let store = options().durability(Durability::Memory).open_on(disk).unwrap();
    revoke(&store, "a").unwrap();
    armed.store(true, Ordering::Relaxed);
    let closing = store.clone();
    let closer = std::thread::spawn(move || closing.close());
    entered.recv().unwrap();

    // The committer is busy with its last sync.
    let (answer, answered) = channel();
    let asker = std::thread::spawn(move || answer.send(store.snapshot()).unwrap());
    let early = answered.recv_timeout(Duration::from_millis(200));
    leave.send(()).unwrap();
    let answer = early.or_else(|_| answered.recv_timeout(Duration::from_secs(20))).expect("an answer");
    assert!(matches!(answer, Err(SnapshotError::Closed)), "{answer:?}");
    closer.join().unwrap().unwrap();
    asker.join().unwrap();
}
