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
/// a copy of it to which other things were written.
fn damage(files: &mut Files, others: &[&Files], random: &mut Random) -> String {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = names[random.below(names.len() as u64) as usize].clone();
    let bytes = files.get_mut(&name).unwrap();
    let at = random.below(bytes.len().max(1) as u64) as usize;
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
            if let Some(other) = others[random.below(others.len() as u64) as usize].get(&name) {
                bytes.clone_from(other);
            }
        }
        _ => _ = files.remove(&name),
    }
    name
}

#[test]
fn damage_is_named_and_nothing_is_lost_without_a_word() {
    let parent = tempfile::tempdir().unwrap();
    let (damaged, saved) = (parent.path().join("damaged"), parent.path().join("saved"));
    let (from, into) = (damaged.to_str().unwrap(), saved.to_str().unwrap());
    let (mut cases, mut mixed, mut found, mut salvaged) = (0, 0, 0, 0);
    let (mut whole, mut unreadable, mut silent) = (0, 0, 0);
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
        lay_out(&image.files, &damaged);
        assert_eq!(rescind(["verify", from]).code, 0, "undamaged");
        for _ in 0..scaled(150, 4_000) {
            let mut files = image.files.clone();
            let mut names = vec![damage(&mut files, &others, &mut random)];
            if random.below(3) == 0 {
                names.push(damage(&mut files, &others, &mut random));
            }
            if files == image.files {
                continue;
            }
            cases += 1;
            lay_out(&files, &damaged);
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
            let is_mixed =
                files.iter().any(|(name, bytes)| forked.get(name) == Some(bytes) && image.files[name] != *bytes);
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
                println!("silent: {names:?}\n{}", salvage.out);
            }
            // What opens with something gone must not be called sound.
            let opened = workload::options().open_on(std::sync::Arc::new(MemoryStorage::from_files(files)));
            if let (Ok(opened), true) = (opened, is_sound)
                && State::of(&opened, image.tokens) != *image.state()
            {
                silent += 1;
                println!("called sound: {names:?}");
            }
        }
    }
    println!(
        "cli damaged cases={cases} mixed={mixed} verify_found={found} salvaged={salvaged} wholly={whole} unreadable={unreadable} silent={silent}"
    );
    assert!(found > cases / 2 && whole > 0 && mixed > 0 && salvaged > whole && silent == 0);
}
