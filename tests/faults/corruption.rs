//! Every bit flipped, every truncation, sectors and files lost, swapped, foreign or of another day: exact data or a typed
//! error.

use std::ops::Range;

use rescind::storage::MemoryStorage;
use rescind::{OpenError, verify_on};

use crate::harness::{Harness, Outcome, holds, lost, scaled, silent};
use crate::image::{Files, HEADER_BYTES, Image, State, fork, frames, names, reseal};
use crate::workload::{SEGMENT_BYTES, open};

/// Every so many images are looked at by `verify`, too.
const VERIFY_EVERY: u64 = 7;

/// What became of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Opened {
    Exact,
    /// The last commits are gone, and that is reported: nothing vouched for them.
    Torn,
    Refused,
}

/// An image that was altered, in one file and one range of bytes if that is known.
struct Altered<'a> {
    image: &'a Image,
    files: Files,
    place: Option<(&'a str, Range<usize>)>,
}

impl Altered<'_> {
    fn open(self) -> Result<Opened, crate::harness::Failure> {
        let image = self.image;
        let disk = MemoryStorage::from_files(self.files);
        let store = match open(&disk) {
            Ok(store) => store,
            Err(OpenError::Recovery(_)) => return Ok(Opened::Refused),
            Err(error) => return lost(format!("refused for what it is not: {error}")).map(|()| Opened::Refused),
        };
        let state = State::of(&store, image.tokens);
        if state == *image.state() {
            return Ok(Opened::Exact);
        }
        let Some(held) = image.states.iter().rposition(|before| *before == state) else {
            return silent(format!("what it never held: {state:?}")).map(|()| Opened::Torn);
        };
        // Of a store that was killed, the last frames may look as if they had been torn, if all of them were hit.
        let are_hit = image.frames[held..].iter().all(|(segment, frame)| {
            self.place
                .as_ref()
                .is_some_and(|(name, range)| name == segment && frame.start < range.end && range.start < frame.end)
        });
        let is_reported = store.stats().recovery.torn_tail_bytes > 0;
        if image.is_closed || !are_hit || !is_reported {
            let told = if is_reported { "told as a torn tail" } else { "untold" };
            return silent(format!("{held} of {} batches, {told}", image.tokens)).map(|()| Opened::Torn);
        }
        Ok(Opened::Torn)
    }
}

/// Runs images through the store, and every few through `verify`.
struct Corruption(Harness);

impl Corruption {
    fn new(name: &'static str) -> Self {
        Self(Harness::new(name))
    }

    fn alter(&mut self, what: impl Fn() -> String, image: &Image, files: Files, place: Option<(&str, Range<usize>)>) {
        let mut opened = None;
        let looked_at = self.0.tried().is_multiple_of(VERIFY_EVERY).then(|| files.clone());
        self.0.case(&what, || {
            opened = Some(Altered { image, files, place }.open()?);
            match (&looked_at, opened) {
                (Some(files), Some(opened)) => verify(files.clone(), opened),
                _ => Ok(()),
            }
        });
        let note = match opened {
            Some(Opened::Exact) => "exact",
            Some(Opened::Torn) => "torn",
            Some(Opened::Refused) => "refused",
            None => return,
        };
        self.0.note(note, 1);
    }

    /// Alters some bytes of one file.
    fn patch(&mut self, image: &Image, name: &str, range: Range<usize>, patch: impl FnOnce(&mut [u8])) {
        let mut files = image.files.clone();
        patch(&mut files.get_mut(name).unwrap()[range.clone()]);
        self.alter(|| format!("{name} {range:?}"), image, files, Some((name, range.clone())));
    }
}

/// `verify` changes nothing, says what opening says, and calls sound only what is.
fn verify(files: Files, opened: Opened) -> Outcome {
    let disk = MemoryStorage::from_files(files.clone());
    let found = verify_on(&disk).unwrap();
    holds(disk.files() == files && disk.operations() == 0, || "verify has changed something".into())?;
    let agrees = found.recovery.is_err() == (opened == Opened::Refused);
    holds(agrees, || format!("opening: {opened:?}, verify: {:?}", found.recovery))?;
    if opened == Opened::Torn {
        return holds(found.torn_tail_bytes > 0, || "verify does not mention the torn tail".into());
    }
    // What is refused is damaged somewhere, or something is missing.
    let is_told = !found.damage.is_empty() || !found.missing_batches.is_empty();
    match opened {
        Opened::Refused if !is_told => silent(format!("no damage found, and it is refused: {:?}", found.recovery)),
        _ => Ok(()),
    }
}

/// One segment; two; several with two snapshots, the second in the midst of them; and without. And the first two when
/// killed.
fn images() -> Vec<Image> {
    let images = vec![
        Image::closed(4, &[]),
        Image::closed(40, &[]),
        Image::closed(75, &[12, 50]),
        Image::closed(90, &[]),
        Image::killed(4, &[]),
        Image::killed(40, &[]),
    ];
    assert!(names(&images[1].files, "wal-").len() >= 2 && names(&images[2].files, "wal-").len() >= 3);
    assert!(images.iter().all(|image| image.is_closed == image.files.contains_key("MARK")));
    images
}

#[test]
fn every_flipped_bit_is_harmless_or_refused() {
    let mut harness = Corruption::new("corruption-bits");
    for image in images() {
        for (name, bytes) in &image.files {
            // Headers wholly, at any scale.
            let bits = (0..bytes.len() * 8).filter(|bit| *bit < HEADER_BYTES * 8 || bit.is_multiple_of(scaled(61, 1)));
            for bit in bits {
                harness.patch(&image, name, bit / 8..bit / 8 + 1, |bytes| bytes[0] ^= 1 << (bit % 8));
            }
        }
    }
    harness.0.finish();
}

#[test]
fn every_truncation_and_every_appended_byte_is_harmless_or_refused() {
    let mut harness = Corruption::new("corruption-lengths");
    for image in images() {
        for (name, bytes) in &image.files {
            for len in (0..bytes.len()).step_by(scaled(37, 1)) {
                let mut files = image.files.clone();
                files.get_mut(name).unwrap().truncate(len);
                harness.alter(|| format!("{name} cut to {len}"), &image, files, None);
            }
            for (count, byte) in [(1, 0), (1, 0xff), (4096, 0), (4096, b'R')] {
                let mut files = image.files.clone();
                files.get_mut(name).unwrap().extend(std::iter::repeat_n(byte, count));
                harness.alter(|| format!("{name} with {count} bytes of {byte} more"), &image, files, None);
            }
        }
    }
    harness.0.finish();
}

#[test]
fn lost_and_swapped_sectors_are_harmless_or_refused() {
    let mut harness = Corruption::new("corruption-sectors");
    for image in images() {
        for (name, bytes) in &image.files {
            for sector in [512, 4096] {
                let starts = || (0..bytes.len()).step_by(sector);
                let range = |start: usize| start..(start + sector).min(bytes.len());
                for start in starts() {
                    for fill in [0x00, 0xff] {
                        harness.patch(&image, name, range(start), |bytes| bytes.fill(fill));
                    }
                    // Everything from here on, as when the end of a file never reached the disk: `MARK` tells.
                    if image.is_closed {
                        harness.patch(&image, name, start..bytes.len(), |bytes| bytes.fill(0));
                    }
                    for other in starts().filter(|other| *other > start).step_by(scaled(3, 1)) {
                        let mut files = image.files.clone();
                        let altered = files.get_mut(name).unwrap();
                        let len = range(start).len().min(range(other).len());
                        let (front, back) = altered.split_at_mut(other);
                        front[start..start + len].swap_with_slice(&mut back[..len]);
                        let place = Some((&**name, start..other + len));
                        harness.alter(|| format!("{name}: {start} and {other} swapped"), &image, files, place);
                    }
                }
            }
        }
    }
    harness.0.finish();
}

#[test]
fn files_that_are_missing_swapped_foreign_or_of_another_day_are_noticed() {
    let mut harness = Corruption::new("corruption-files");
    let foreign = images();
    for (image, foreign) in images().into_iter().zip(foreign) {
        // A killed store has nothing that tells how far its log went, beside the log.
        if !image.is_closed {
            continue;
        }
        let all: Vec<&String> = image.files.keys().collect();
        for name in &all {
            let mut alter = |what: &str, files: Files| harness.alter(|| format!("{what} {name}"), &image, files, None);
            let mut files = image.files.clone();
            let bytes = files.remove(*name).unwrap();
            alter("deleted", files.clone());
            files.insert(name.replacen("00000000", "00000001", 1), bytes);
            alter("renamed", files);
            let mut files = image.files.clone();
            if let Some(bytes) = foreign.files.get(*name) {
                files.insert((*name).clone(), bytes.clone());
                alter("foreign", files);
            }
            for other in &all {
                let mut files = image.files.clone();
                files.insert((*name).clone(), image.files[*other].clone());
                alter(&format!("{other} in the place of"), files.clone());
                files.insert((*other).clone(), image.files[*name].clone());
                alter(&format!("swapped {other} and"), files);
            }
            // Of a copy of the directory that went its own way from some day on.
            if let Some(bytes) = fork(&image).get(*name) {
                let mut files = image.files.clone();
                files.insert((*name).clone(), bytes.clone());
                alter("of a fork:", files);
            }
            for (day, history) in image.history.iter().enumerate() {
                if let Some(bytes) = history.get(*name) {
                    let mut files = image.files.clone();
                    files.insert((*name).clone(), bytes.clone());
                    alter(&format!("from after batch {day}:"), files);
                }
            }
        }
    }
    harness.0.finish();
}

/// The same without `MARK`, which would tell at once: segments of two histories, and frames of both in one segment.
#[test]
fn two_histories_are_not_taken_for_one() {
    let mut harness = Harness::new("corruption-forks");
    let image = Image::killed(120, &[]);
    let fork = fork(&image);
    let fork_state = State::of(&open(&MemoryStorage::from_files(fork.clone())).unwrap(), image.tokens);
    let fork_frames = frames(&fork);
    let mut try_files = |what: &str, files: Files, may_open: bool| {
        harness.case(
            || what.to_owned(),
            || match open(&MemoryStorage::from_files(files)) {
                Ok(store) => {
                    let state = State::of(&store, image.tokens);
                    let is_one_of_both = state == *image.state() || state == fork_state;
                    if may_open && is_one_of_both { Ok(()) } else { silent(format!("opened: {state:?}")) }
                }
                Err(OpenError::Recovery(_)) => Ok(()),
                Err(error) => lost(error.to_string()),
            },
        );
    };
    let segments: Vec<String> =
        names(&image.files, "wal-").into_iter().filter(|name| fork.contains_key(name)).collect();
    assert!(segments.len() >= 3 && names(&fork, "wal-").len() > 3);
    for name in &segments {
        let mut files = image.files.clone();
        files.insert(name.clone(), fork[name].clone());
        // Those from before the fork are the same.
        let is_same = files == image.files;
        try_files(&format!("{name} of the fork"), files, is_same);
        // The first frames of the one, the rest of the other.
        let (own, other): (Vec<_>, Vec<_>) = (of(&image.frames, name), of(&fork_frames, name));
        for (count, (own, other)) in own.iter().zip(&other).enumerate().skip(1) {
            if image.files[name][..own.start] == fork[name][..other.start] {
                continue;
            }
            let mut bytes = image.files[name][..own.start].to_vec();
            bytes.extend_from_slice(&fork[name][other.start..]);
            bytes.resize(SEGMENT_BYTES as usize, 0);
            let mut files = image.files.clone();
            files.retain(|kept, _| !kept.starts_with("wal-") || kept <= name);
            files.insert(name.clone(), bytes);
            try_files(&format!("{name}: {count} frames, and then those of the fork"), files, false);
        }
    }
    harness.finish();
}

fn of(frames: &[(String, Range<usize>)], name: &str) -> Vec<Range<usize>> {
    frames.iter().filter(|(segment, _)| segment == name).map(|(_, range)| range.clone()).collect()
}

/// Two faults at once may take more than one, and must not be taken for what never was.
#[test]
fn damage_to_the_log_and_to_its_mark_takes_no_more_than_the_end_of_the_log() {
    let mut harness = Harness::new("corruption-unmarked");
    let image = Image::closed(40, &[]);
    let last = &image.frames.last().unwrap().0;
    for bit in (0..SEGMENT_BYTES as usize * 8).step_by(scaled(17, 1)) {
        for marked in [None, Some(20)] {
            harness.case(
                || format!("bit {bit} of {last}, MARK: {marked:?}"),
                || {
                    let mut files = image.files.clone();
                    files.get_mut(last).unwrap()[bit / 8] ^= 1 << (bit % 8);
                    match marked {
                        // As it was after some batch, wherever it would have stood then; or none at all.
                        Some(batch) => reseal(files.get_mut("MARK").unwrap(), 48, &u64::to_le_bytes(batch)),
                        None => _ = files.remove("MARK"),
                    }
                    match open(&MemoryStorage::from_files(files)) {
                        Ok(store) => {
                            let state = State::of(&store, image.tokens);
                            let held = image.states.iter().rposition(|before| *before == state);
                            let is_end = held.is_some_and(|held| held + 1 >= image.tokens);
                            holds(is_end, || format!("{held:?} of {} batches", image.tokens))
                        }
                        Err(OpenError::Recovery(_)) => Ok(()),
                        Err(error) => lost(error.to_string()),
                    }
                },
            );
        }
    }
    harness.finish();
}

/// A later version's files are not called damaged, and not edited.
#[test]
fn a_store_of_a_later_format_is_not_opened() {
    let mut harness = Harness::new("corruption-formats");
    let image = Image::closed(75, &[12, 50]);
    for name in image.files.keys() {
        harness.case(
            || name.clone(),
            || {
                let mut files = image.files.clone();
                reseal(files.get_mut(name).unwrap(), 8, &5_u32.to_le_bytes());
                let disk = MemoryStorage::from_files(files.clone());
                // What the newest snapshot makes superfluous is not read, and `MARK` is not needed.
                let is_superfluous = {
                    let mut files = image.files.clone();
                    files.remove(name);
                    open(&MemoryStorage::from_files(files)).is_ok()
                };
                match open(&disk) {
                    Err(OpenError::Recovery(rescind::RecoveryError::UnknownFormat { file, version: 5 }))
                        if file == *name =>
                    {
                        holds(disk.files() == files, || "it was edited".into())
                    }
                    Ok(_) if is_superfluous => Ok(()),
                    other => silent(format!("{other:?}")),
                }
            },
        );
    }
    harness.finish();
}
