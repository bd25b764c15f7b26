//! What is readable of a damaged store is saved, on both sides of the damage, and nothing that never was.

use std::sync::Arc;

use rescind::storage::MemoryStorage;
use rescind::{SalvageError, SalvageReport, salvage_on, verify_on};

use crate::harness::{Harness, Outcome, Random, holds, lost, scaled, silent};
use crate::image::{Files, HEADER_BYTES, Image, State};
use crate::workload::reopen;

/// Salvages an image, and fails unless every token is there whose frame is, and nothing else.
fn saves(image: &Image, files: Files, report: &mut Option<SalvageReport>) -> Outcome {
    let damaged = MemoryStorage::from_files(files.clone());
    let target = MemoryStorage::new();
    let salvaged = match salvage_on(&damaged, Arc::new(target.clone())) {
        Ok(salvaged) => salvaged,
        // Without any header nobody knows whose frames these are.
        Err(SalvageError::NothingReadable) if !has_header(image, &files) => return Ok(()),
        Err(error) => return lost(error.to_string()),
    };
    holds(damaged.files() == files && damaged.operations() == 0, || "the damaged store was changed".into())?;
    let store = reopen(&target.crash_image(0))?;
    let state = State::of(&store, image.tokens);
    for index in 0..image.tokens {
        let is_saved = state.has(index) || !image.is_intact(&files, index);
        holds(is_saved, || format!("token {index} can be read, and is not saved: {salvaged:?}"))?;
    }
    holds(state.is_within(image.state()), || format!("something that never was: {state:?}"))?;
    holds(salvaged.entries == store.len() as u64, || format!("{} entries, told {salvaged:?}", store.len()))?;
    drop(store);
    let found = verify_on(&target).unwrap();
    holds(found.is_sound(), || format!("what was made is not sound: {found:?}"))?;
    // What is gone is told.
    let is_told = !salvaged.missing_batches.is_empty() || !salvaged.damage.is_empty() || salvaged.torn_tail_bytes > 0;
    if state != *image.state() && !is_told {
        return silent(format!("something is gone, and it is not told: {salvaged:?}"));
    }
    *report = Some(salvaged);
    Ok(())
}

fn has_header(image: &Image, files: &Files) -> bool {
    let is_whole =
        |(name, bytes): (&String, &Vec<u8>)| bytes.get(..HEADER_BYTES) == Some(&image.files[name][..HEADER_BYTES]);
    files.iter().any(is_whole)
}

#[test]
fn whatever_is_readable_of_a_damaged_store_is_saved() {
    let mut harness = Harness::new("salvage");
    let mut missing = 0;
    for image in [Image::closed(40, &[]), Image::closed(75, &[12, 50]), Image::killed(40, &[])] {
        let mut random = Random(7);
        let names: Vec<&String> = image.files.keys().collect();
        for round in 0..scaled(400, 12_000) {
            let mut files = image.files.clone();
            let mut what = Vec::new();
            for _ in 0..=random.below(3) {
                let name = names[random.below(names.len() as u64) as usize];
                let Some(bytes) = files.get_mut(name).filter(|bytes| !bytes.is_empty()) else { continue };
                let at = random.below(bytes.len() as u64) as usize;
                let end = (at + 1 + random.below(600) as usize).min(bytes.len());
                match random.below(6) {
                    0 => bytes[at] ^= 1,
                    1 => bytes[at..end].fill(0),
                    2 => bytes[at..end].fill_with(|| random.next() as u8),
                    3 => bytes.truncate(at),
                    4 => bytes[..128.min(end)].fill(0),
                    _ => _ = files.remove(name),
                }
                what.push(format!("{name} {at}..{end}"));
            }
            let mut report = None;
            harness.case(|| format!("round {round}: {what:?}"), || saves(&image, files, &mut report));
            missing += report.map_or(0, |report| report.missing_batches.len() as u64);
        }
    }
    harness.note("gaps_told", missing);
    assert!(missing > 0, "the harness takes something away");
    harness.finish();
}

#[test]
fn what_is_sound_is_salvaged_whole_and_called_sound() {
    for image in [Image::closed(40, &[]), Image::closed(75, &[12, 50]), Image::killed(40, &[])] {
        let found = verify_on(&MemoryStorage::from_files(image.files.clone())).unwrap();
        assert!(found.is_sound(), "{found:?}");
        let mut report = None;
        saves(&image, image.files.clone(), &mut report).unwrap();
        let report = report.unwrap();
        assert!(report.damage.is_empty() && report.missing_batches.is_empty() && !report.has_key, "{report:?}");
    }
}

#[test]
fn sectors_that_cannot_be_read_cost_what_is_in_them_and_no_more() {
    let image = Image::closed(75, &[12, 50]);
    let mut harness = Harness::new("salvage-unreadable");
    let reads = {
        let disk = MemoryStorage::from_files(image.files.clone());
        salvage_on(&disk, Arc::new(MemoryStorage::new())).unwrap();
        disk.reads()
    };
    for read in 0..reads {
        harness.case(
            || format!("read {read}"),
            || {
                let disk = MemoryStorage::from_files(image.files.clone());
                disk.fail_read_at(read, std::io::ErrorKind::Other, false);
                let target = MemoryStorage::new();
                match salvage_on(&disk, Arc::new(target.clone())) {
                    Ok(salvaged) => {
                        let state = State::of(&reopen(&target)?, image.tokens);
                        holds(state.is_within(image.state()), || "something that never was".into())?;
                        // A read that fails once is tried again in smaller pieces. A file that does not open is not.
                        let is_told = salvaged.damage.iter().any(|damage| damage.what == "it cannot be opened");
                        holds(state == *image.state() || is_told, || "what could be read is gone".into())
                    }
                    Err(SalvageError::Source(_)) => Ok(()),
                    Err(error) => lost(error.to_string()),
                }
            },
        );
    }
    harness.finish();
}

/// The files of an image, after a change to one whose name begins so.
fn changed(image: &Image, prefix: &str, change: impl FnOnce(&mut Vec<u8>)) -> (String, MemoryStorage) {
    let mut files = image.files.clone();
    let name = files.keys().rfind(|name| name.starts_with(prefix)).unwrap().clone();
    change(files.get_mut(&name).unwrap());
    (name, MemoryStorage::from_files(files))
}

/// What is told of one file: where, how much, and what.
fn told(disk: &MemoryStorage, name: &str) -> Vec<(u64, u64, &'static str)> {
    let found = verify_on(disk).unwrap();
    let of_file = found.damage.iter().filter(|damage| damage.file == name);
    of_file.map(|damage| (damage.offset, damage.bytes, damage.what)).collect()
}

#[test]
fn verify_tells_where_what_is_wrong_and_how_much() {
    let image = Image::closed(75, &[12, 50]);
    let length = |name: &str| image.files[name].len() as u64;
    for name in ["MARK", "STORE"] {
        let (name, disk) = changed(&image, name, |bytes| bytes.extend([1, 2, 3]));
        assert_eq!(told(&disk, &name), [(128, 3, "it is longer than a header")]);
        let (name, disk) = changed(&image, &name, |bytes| bytes[40] ^= 1);
        assert_eq!(told(&disk, &name), [(0, 128, "the header's checksum does not hold")]);
    }
    let (name, disk) = changed(&image, "snap-", |bytes| bytes.extend([0; 5]));
    assert_eq!(told(&disk, &name), [(length(&name), 5, "something follows its end")]);
    let (name, disk) = changed(&image, "snap-", |bytes| bytes.truncate(bytes.len() - 10));
    let [(stop, rest, what)] = told(&disk, &name)[..] else { panic!("one place") };
    assert_eq!((stop + rest, what), (length(&name) - 10, "its end is missing"));
    let (name, disk) = changed(&image, "snap-", |bytes| bytes[128] ^= 1);
    let told = told(&disk, &name);
    assert_eq!((told[0].0, told[0].2), (128, "a frame's checksum does not hold"), "{told:?}");
    assert!(told[0].1 > 72 && told[0].0 + told[0].1 < length(&name), "up to the next: {told:?}");
}

#[test]
fn a_header_that_cannot_be_read_is_told_apart_from_one_that_is_damaged() {
    let image = Image::closed(40, &[]);
    let mut told = std::collections::BTreeSet::new();
    for read in 0..40 {
        let disk = MemoryStorage::from_files(image.files.clone());
        disk.fail_read_at(read, std::io::ErrorKind::Other, true);
        if let Ok(found) = verify_on(&disk) {
            told.extend(found.damage.iter().map(|damage| damage.what));
        }
    }
    assert!(told.contains("the header cannot be read"), "{told:?}");
    assert!(!told.contains("the header's checksum does not hold"), "{told:?}");
}

/// Where nothing else tells whose files these are, the log does.
#[test]
fn a_log_alone_tells_whose_it_is() {
    let image = Image::closed(40, &[]);
    let mut files = image.files.clone();
    files.retain(|name, _| name.starts_with("wal-") || name == "KEY");
    let target = MemoryStorage::new();
    let report = salvage_on(&MemoryStorage::from_files(files), Arc::new(target.clone())).unwrap();
    assert!(report.entries > 0);
    assert_eq!(State::of(&reopen(&target).unwrap(), image.tokens), *image.state());
}

#[test]
fn verify_names_the_batches_that_are_missing() {
    let image = Image::closed(75, &[]);
    let sound = verify_on(&MemoryStorage::from_files(image.files.clone())).unwrap();
    let segments: Vec<_> = sound.files.iter().filter(|file| file.name.starts_with("wal-")).collect();
    assert!(segments.len() >= 3, "{segments:?}");
    let batches: Vec<_> = segments.iter().filter_map(|file| file.batches).collect();
    assert!(batches.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "one goes on where the other ends: {batches:?}");
    let records: u64 = segments.iter().map(|file| file.records).sum();
    assert!(records >= batches.last().unwrap().1, "at least one each: {records}");
    assert!(segments.iter().all(|file| file.records > 1 || file.batches.is_none()), "{segments:?}");

    // A frame that is damaged is one batch; and what is wrong is as long as the frame is.
    let mut before = 0;
    for index in [1, 10, 40] {
        let (name, range) = &image.frames[index];
        let mut files = image.files.clone();
        files.get_mut(name).unwrap()[range.start + 80] ^= 1;
        let disk = MemoryStorage::from_files(files);
        assert_eq!(told(&disk, name), [(range.start as u64, range.len() as u64, "a frame's checksum does not hold")]);
        let missing = verify_on(&disk).unwrap().missing_batches;
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert_eq!(missing[0].start(), missing[0].end());
        assert!(*missing[0].start() > before);
        before = *missing[0].start();
    }

    // A segment that is gone is all its batches.
    let mut files = image.files.clone();
    files.remove(&segments[1].name).unwrap();
    let found = verify_on(&MemoryStorage::from_files(files)).unwrap();
    assert_eq!(found.missing_batches, [batches[1].0..=batches[1].1]);

    // What follows the frame that ends a segment is told; what follows the last frame of the log may be a torn tail, unless
    // there was more.
    let (first, last) = (&segments[0].name, &segments[batches.len() - 1].name);
    let mut files = image.files.clone();
    *files.get_mut(first).unwrap().last_mut().unwrap() = 1;
    let [(_, rest, what)] = told(&MemoryStorage::from_files(files), first)[..] else { panic!("one place") };
    assert!(rest > 0 && what == "something follows the frame that ends it", "{rest} {what}");
    let mut files = image.files.clone();
    let end = image.frames.iter().filter(|(name, _)| name == last).map(|(_, range)| range.end).max().unwrap();
    files.get_mut(last).unwrap()[end..].fill(0);
    let whole = verify_on(&MemoryStorage::from_files(files.clone())).unwrap();
    files.get_mut(last).unwrap()[end + 200] = 7;
    let torn = verify_on(&MemoryStorage::from_files(files)).unwrap();
    assert_eq!(torn.torn_tail_bytes, whole.torn_tail_bytes.max(201), "{torn:?}");
}
