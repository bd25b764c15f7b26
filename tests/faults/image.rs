//! Stores to be damaged: a token in each batch, among records of every other sort.

use std::collections::BTreeMap;
use std::ops::Range;

use rescind::storage::MemoryStorage;
use rescind::{Explanation, Revocation, Store, Subject};
use xxhash_rust::xxh3::xxh3_64;

use crate::workload::{START_SECS, open, revoke};

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) const HEADER_BYTES: usize = 128;
const FRAME_HEADER_BYTES: usize = 72;

pub(crate) fn token(index: usize) -> String {
    format!("token-{index}")
}

/// Everything that a store knows of an image's subjects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    len: usize,
    tokens: Vec<Option<Explanation>>,
    wide: Vec<Explanation>,
}

impl State {
    pub(crate) fn of(store: &Store, tokens: usize) -> Self {
        let explain = |index| store.explain(&Subject::token(token(index))).unwrap();
        let mut wide = store.list();
        wide.sort_by_key(|explanation| *explanation.digest.as_bytes());
        Self { len: store.len(), tokens: (0..tokens).map(explain).collect(), wide }
    }

    /// Whether a token is known.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.tokens[index].is_some()
    }

    /// Whether it knows nothing that another does not.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let known = self.tokens.iter().zip(&other.tokens).all(|(own, other)| own.is_none() || own == other);
        let labels = |state: &Self| state.wide.iter().map(|known| known.digest).collect::<Vec<_>>();
        known && labels(self).iter().all(|digest| labels(other).contains(digest)) && self.len <= other.len
    }
}

/// A store, its whole history, and where in it the frame of each token is.
pub(crate) struct Image {
    pub(crate) files: Files,
    pub(crate) tokens: usize,
    pub(crate) frames: Vec<(String, Range<usize>)>,
    /// What the store knew after each token.
    pub(crate) states: Vec<State>,
    /// What its files were then.
    pub(crate) history: Vec<Files>,
    /// Whether it was closed, so that `MARK` vouches for all of the log.
    pub(crate) is_closed: bool,
}

impl Image {
    /// A token in each batch; a snapshot before some of them.
    pub(crate) fn closed(tokens: usize, snapshots: &[usize]) -> Self {
        Self::new(tokens, snapshots, true)
    }

    /// The same of a process that was killed.
    pub(crate) fn killed(tokens: usize, snapshots: &[usize]) -> Self {
        Self::new(tokens, snapshots, false)
    }

    fn new(tokens: usize, snapshots: &[usize], is_closed: bool) -> Self {
        let disk = MemoryStorage::new();
        let store = open(&disk).unwrap();
        let (mut states, mut history) = (vec![State::of(&store, tokens)], Vec::new());
        for index in 0..tokens {
            if snapshots.contains(&index) {
                store.snapshot().unwrap();
            }
            write(&store, index, &token(index));
            states.push(State::of(&store, tokens));
            history.push(disk.files());
        }
        let disk = if is_closed {
            store.close().unwrap();
            disk
        } else {
            disk.kill_image()
        };
        let files = disk.files();
        let frames = frames(&files);
        Self { files, tokens, frames, states, history, is_closed }
    }

    pub(crate) fn state(&self) -> &State {
        self.states.last().unwrap()
    }

    /// Whether the frame of a token is still where it was.
    pub(crate) fn is_intact(&self, files: &Files, index: usize) -> bool {
        assert_eq!(self.frames.len(), self.tokens, "a snapshot made a segment superfluous: take the first one earlier");
        let (name, range) = &self.frames[index];
        let bytes = |files: &Files| files.get(name).and_then(|bytes| bytes.get(range.clone())).map(<[u8]>::to_vec);
        bytes(files) == bytes(&self.files)
    }
}

/// Writes the batch of a token: of one record or several.
pub(crate) fn write(store: &Store, index: usize, token: &str) {
    match index % 5 {
        1 => {
            let user = Subject::user(format!("user-{index}")).in_tenant("acme").at_issuer("https://id.example");
            let spare = |revocation: Revocation, n: usize| revocation.sparing_session(format!("session-{n}"));
            let user = (0..index % 4).fold(Revocation::of(user), spare);
            let token = Revocation::of(Subject::token(token)).by(format!("admin-{}", index % 3));
            store.revoke_many([token, user.by("policy")]).unwrap();
        }
        2 => {
            let until = START_SECS + 1_000;
            let both = [token.to_owned(), format!("companion-{index}")];
            store.revoke_many(both.map(|id| Revocation::of(Subject::token(id)).until_secs(until))).unwrap();
        }
        _ => _ = revoke(store, token).unwrap(),
    }
}

/// What became of a copy of a store, made half way, to which other things were written.
pub(crate) fn fork(image: &Image) -> Files {
    let disk = MemoryStorage::from_files(image.history[image.tokens / 2].clone());
    let store = open(&disk).unwrap();
    // Of the same lengths: batch by batch and byte by byte where the others are.
    for index in image.tokens / 2 + 1..image.tokens {
        write(&store, index, &format!("other-{index}"));
    }
    let files = disk.kill_image().files();
    drop(store);
    files
}

/// Every frame of records in the log: one for each token, of the stores made here.
pub(crate) fn frames(files: &Files) -> Vec<(String, Range<usize>)> {
    let mut frames = Vec::new();
    for name in names(files, "wal-") {
        let bytes = &files[&name];
        let mut offset = HEADER_BYTES;
        while bytes.get(offset..offset + 8) == Some(b"RFRM\x01\0\0\0") {
            let payload = u64::from_le_bytes(bytes[offset + 8..offset + 16].try_into().unwrap());
            let end = offset + FRAME_HEADER_BYTES + payload as usize + 8;
            frames.push((name.clone(), offset..end));
            offset = end;
        }
    }
    frames
}

pub(crate) fn names(files: &Files, prefix: &str) -> Vec<String> {
    files.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
}

/// Patches a header, and makes its checksum right again.
pub(crate) fn reseal(header: &mut [u8], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
    let checksum = xxh3_64(&header[..HEADER_BYTES - 8]);
    header[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}
