//! `verify` and `salvage` on stores as the fault harness damages them: what is damaged is named, and nothing is lost without a word.

use std::fs;
use std::path::Path;

use rescind::storage::MemoryStorage;

use super::harness::{Random, scaled};
use super::image::{Files, Image, State};
use super::{rescind, workload};

fn lay_out(files: &Files, directory: &Path) {
    fs::remove_dir_all(directory).ok();
    fs::create_dir(directory).unwrap();
    std::os::unix::fs::PermissionsExt::set_mode(&mut fs::metadata(directory).unwrap().permissions(), 0o700);
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes).unwrap();
    }
}

/// Damages a file in one of the ways that disks, copies and people do.
fn damage(files: &mut Files, random: &mut Random) -> String {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = names[random.below(names.len() as u64) as usize].clone();
    let len = files[&name].len() as u64;
    let at = random.below(len) as usize;
    let bytes = files.get_mut(&name).unwrap();
    match random.below(5) {
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
        _ => _ = files.remove(&name),
    }
    name
}

#[test]
fn damage_is_named_and_nothing_is_lost_without_a_word() {
    let parent = tempfile::tempdir().unwrap();
    let (damaged, saved) = (parent.path().join("damaged"), parent.path().join("saved"));
    let (from, into) = (damaged.to_str().unwrap(), saved.to_str().unwrap());
    let (mut cases, mut found, mut salvaged, mut whole, mut unreadable, mut silent) = (0, 0, 0, 0, 0, 0);
    for image in [Image::closed(40, &[]), Image::closed(75, &[20, 50])] {
        let mut random = Random(11);
        lay_out(&image.files, &damaged);
        assert_eq!(rescind(["verify", from]).code, 0, "undamaged");
        for _ in 0..scaled(80, 4_000) {
            let mut files = image.files.clone();
            let mut names = vec![damage(&mut files, &mut random)];
            if random.below(3) == 0 {
                names.push(damage(&mut files, &mut random));
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
            fs::remove_dir_all(&saved).ok();
            let salvage = rescind(["salvage", from, into]);
            if salvage.code == 4 {
                unreadable += 1;
                assert!(salvage.err.contains("nothing to salvage"), "{}", salvage.err);
                continue;
            }
            salvaged += 1;
            // What was made is a store, and opens.
            let store = workload::options().open(&saved).unwrap();
            let state = State::of(&store, image.tokens);
            assert!(state.is_within(image.state()));
            whole += i32::from(salvage.code == 0);
            // Sound or saved wholly, and yet something is gone.
            if state != *image.state() && salvage.code == 0 {
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
        "cli damaged cases={cases} verify_found={found} salvaged={salvaged} wholly={whole} unreadable={unreadable} silent={silent}"
    );
    assert!(found > cases / 2 && whole > 0 && salvaged > whole && silent == 0);
}
