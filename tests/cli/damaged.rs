//! `verify` and `salvage` on stores as the fault harness damages them: what is damaged is named, and nothing is lost without a word.

use std::fs;
use std::path::Path;

use rescind::storage::MemoryStorage;

use super::harness::{Random, scaled};
use super::image::{Files, Image, State, fork};
use super::{rescind, workload};

fn lay_out(files: &Files, directory: &Path) {
    fs::remove_dir_all(directory).ok();
    fs::create_dir(directory).unwrap();
    std::os::unix::fs::PermissionsExt::set_mode(&mut fs::metadata(directory).unwrap().permissions(), 0o700);
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes).unwrap();
    }
}

/// Damages a file in one of the ways that disks, copies and people do. Some files are of another day of the same store, or of
/// a copy of it to which other things were written; of which, comes with the name.
fn damage<'a>(files: &mut Files, others: &[&'a Files], random: &mut Random) -> (String, Option<&'a Files>) {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = names[random.below(names.len() as u64) as usize].clone();
    let bytes = files.get_mut(&name).unwrap();
    let at = random.below(bytes.len().max(1) as u64) as usize;
    let mut from = None;
    match random.below(7) {
        0 if bytes.is_empty() => {}
        0 => bytes[at] ^= 1 << random.below(8),
        1 => {
            let sector = at / 512 * 512;
            let end = bytes.len().min(sector + 512);
            bytes[sector..end].fill(0);
        }
        2 => bytes.truncate(at),
        3 => {
            let end = bytes.len().min(at + 64);
            bytes[at..end].fill(0xff);
        }
        4 | 5 => {
            let other = others[random.below(others.len() as u64) as usize];
            if let Some(theirs) = other.get(&name) {
                bytes.clone_from(theirs);
                from = Some(other);
            }
        }
        _ => _ = files.remove(&name),
    }
    (name, from)
}

#[test]
fn damage_is_named_and_nothing_is_lost_without_a_word() {
    let parent = tempfile::tempdir().unwrap();
    let (broken, saved) = (parent.path().join("broken"), parent.path().join("saved"));
    let (from, into) = (broken.to_str().unwrap(), saved.to_str().unwrap());
    let (mut cases, mut mixed, mut found, mut salvaged) = (0, 0, 0, 0);
    let (mut whole, mut unreadable, mut unvouched, mut silent) = (0, 0, 0, 0);
    let key_file = parent.path().join("key");
    fs::write(&key_file, "07".repeat(32)).unwrap();
    // Of one the key was configured; the other keeps it.
    for (mut image, key_is_kept) in [(Image::closed(40, &[]), false), (Image::closed(75, &[20, 50]), true)] {
        let mut key = vec!["--key-file", key_file.to_str().unwrap()];
        let forked = fork(&image);
        if key_is_kept {
            image.files.insert("KEY".to_owned(), vec![7; 32]);
            key.clear();
        }
        let others: Vec<&Files> = image.history.iter().step_by(7).chain([&forked; 5]).collect();
        let mut random = Random(11);
        lay_out(&image.files, &broken);
        assert_eq!(rescind(["verify", from]).code, 0, "undamaged");
        for _ in 0..scaled(150, 4_000) {
            let mut files = image.files.clone();
            let places = 1 + usize::from(random.below(3) == 0);
            let damaged: Vec<_> = (0..places).map(|_| damage(&mut files, &others, &mut random)).collect();
            let is_mixed = damaged.iter().any(|(_, from)| from.is_some_and(|from| std::ptr::eq(from, &forked)));
            let names: Vec<&String> = damaged.iter().map(|(name, _)| name).collect();
            if files == image.files {
                continue;
            }
            cases += 1;
            lay_out(&files, &broken);
            let verified = rescind(["verify", from]);
            let said = rescind(["verify", "--json", from]).json();
            assert_eq!(verified.code, i32::from(!said["sound"].as_bool().unwrap()));
            let is_sound = verified.code == 0;
            found += i32::from(!is_sound);
            if !is_sound {
                let is_named = names.iter().any(|name| verified.out.contains(name.as_str()))
                    || verified.out.contains("missing batches");
                assert!(is_named, "{names:?} is damaged, and it says\n{}", verified.out);
            }
            mixed += i32::from(is_mixed);
            let is_keyless = key_is_kept && files.get("KEY").is_none_or(|key| *key != [7; 32]);
            if is_keyless && is_sound {
                assert!(verified.out.contains("there is no KEY"), "{}", verified.out);
            }
            fs::remove_dir_all(&saved).ok();
            let salvage = rescind(["salvage", from, into].iter().chain(&key));
            if salvage.code == 4 {
                unreadable += 1;
                assert!(salvage.err.contains("nothing to salvage"), "{}", salvage.err);
                continue;
            }
            salvaged += 1;
            // What was made is a store, and opens.
            let store = workload::options().open(&saved).unwrap();
            let state = State::of(&store, image.tokens);
            // What a copy was told is read too.
            assert!(is_mixed || state.is_within(image.state()));
            whole += i32::from(salvage.code == 0);
            // Sound or saved wholly, and yet something is gone.
            if (state != *image.state() || is_keyless) && salvage.code == 0 {
                silent += 1;
                println!("silent: {names:?}\n{}\n{}", salvage.out, verified.out);
            }
            // What opens with something gone must not be called sound, but where the file is gone that would tell: a store that
            // was killed in its first second has none either. That is said.
            let is_unvouched = !files.contains_key("MARK");
            assert!(!is_unvouched || !is_sound || verified.out.contains("there is no MARK"), "{}", verified.out);
            let opened = workload::options().open_on(std::sync::Arc::new(MemoryStorage::from_files(files)));
            if let (Ok(opened), true) = (opened, is_sound)
                && State::of(&opened, image.tokens) != *image.state()
            {
                if is_unvouched {
                    unvouched += 1;
                    continue;
                }
                silent += 1;
                println!("called sound: {names:?}");
            }
        }
    }
    println!(
        "cli damaged cases={cases} mixed={mixed} verify_found={found} salvaged={salvaged} wholly={whole} unreadable={unreadable} unvouched={unvouched} silent={silent}"
    );
    assert!(found > cases / 2 && whole > 0 && mixed > 0 && salvaged > whole && silent == 0);
}

/// Numbers tell of gaps, and `MARK` how far the log went and whose it is: where they are damaged themselves, nothing tells.
#[test]
fn nothing_is_called_saved_where_what_would_tell_is_damaged() {
    let parent = tempfile::tempdir().unwrap();
    let path = |name: &str| parent.path().join(name).to_str().unwrap().to_owned();
    let (broken, saved, key) = (path("broken"), path("saved"), path("key"));
    fs::write(&key, "07".repeat(32)).unwrap();
    let image = Image::closed(40, &[]);
    let forked = fork(&image);
    let segments: Vec<&String> = image.files.keys().filter(|name| name.starts_with("wal-")).collect();
    let (last, end) = (segments[segments.len() - 1], image.frames.last().unwrap().1.clone());
    let flip = |files: &mut Files, name: &str| files.get_mut(name).unwrap()[20] ^= 1;
    let salvaged = |what: &str, alter: &dyn Fn(&mut Files)| {
        let mut files = image.files.clone();
        alter(&mut files);
        assert!(files != image.files, "{what}");
        lay_out(&files, Path::new(&broken));
        fs::remove_dir_all(&saved).ok();
        let ran = rescind(["salvage", &broken, &saved, "--key-file", &key]);
        let is_whole = State::of(&workload::options().open(&saved).unwrap(), image.tokens) == *image.state();
        assert!(ran.code == 0 || ran.out.contains("lost"), "{what}: {}", ran.out);
        (ran.code, is_whole)
    };
    let theirs = |files: &mut Files, name: &String| files.insert(name.clone(), forked[name].clone()).unwrap();
    assert_eq!(salvaged("STORE, which tells nothing of that", &|files| flip(files, "STORE")), (0, true));
    assert_eq!(salvaged("MARK alone", &|files| flip(files, "MARK")), (1, true));
    assert_eq!(salvaged("no MARK", &|files| _ = files.remove("MARK")), (1, true));
    let both = |files: &mut Files| {
        flip(files, "MARK");
        files.get_mut(last).unwrap()[end.clone()].fill(0);
    };
    assert_eq!(salvaged("MARK, and the end of the log", &both), (1, false));
    assert_eq!(salvaged("the last segment of a copy", &|files| _ = theirs(files, last)), (1, false));
    let all = |files: &mut Files| segments.iter().for_each(|name| _ = theirs(files, name));
    assert_eq!(salvaged("the log of a copy", &all), (1, false));
}
