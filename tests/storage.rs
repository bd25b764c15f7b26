//! The two storage backends: what they refuse, what survives, what fails on command.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed test panics"
)]

use std::collections::BTreeMap;
use std::io;

use rescind::storage::{DirectoryError, FileStorage, MemoryStorage, Storage, StorageFile, read_all};

fn content(disk: &dyn Storage, name: &str) -> Vec<u8> {
    read_all(disk.open(name).unwrap().as_ref(), 1 << 20).unwrap()
}

/// One contract, both backends.
fn backends(check: impl Fn(&dyn Storage)) {
    check(&MemoryStorage::new());
    let dir = tempfile::tempdir().unwrap();
    check(&FileStorage::open(&dir.path().join("store")).unwrap());
}

#[test]
fn files_are_created_written_renamed_and_removed() {
    backends(|disk| {
        let mut file = disk.create("b").unwrap();
        assert_eq!(disk.create("b").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.open("none").unwrap_err().kind(), io::ErrorKind::NotFound);
        file.write_all_at(b"tail", 3).unwrap();
        assert_eq!(content(disk, "b"), b"\0\0\0tail");
        file.truncate(4).unwrap();
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), 4);

        let mut buf = [0; 2];
        disk.open("b").unwrap().read_exact_at(&mut buf, 2).unwrap();
        assert_eq!(&buf, b"\0t");
        let past = file.read_exact_at(&mut buf, 3).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
        file.read_exact_at(&mut [], 99).unwrap();

        disk.create("a").unwrap();
        assert_eq!(disk.list().unwrap(), ["a", "b"]);
        disk.rename("b", "a").unwrap();
        disk.sync_directory().unwrap();
        assert_eq!(disk.list().unwrap(), ["a"]);
        assert_eq!(content(disk, "a"), b"\0\0\0t");

        disk.remove("a").unwrap();
        assert_eq!(disk.remove("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(disk.rename("a", "b").unwrap_err().kind(), io::ErrorKind::NotFound);
        disk.sync_directory().unwrap();
        file.write_all_at(b"x", 0).unwrap();
        assert_eq!(file.len().unwrap(), 4, "an open handle outlives the name");
    });
}

#[test]
fn names_that_leave_the_directory_or_touch_the_lock_are_refused() {
    backends(|disk| {
        disk.create("ok").unwrap();
        for name in ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a\0b", "LOCK"] {
            let refused = [
                disk.create(name).map(drop),
                disk.open(name).map(drop),
                disk.remove(name),
                disk.rename(name, "x"),
                disk.rename("ok", name),
            ];
            for result in refused {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
            }
        }
        assert_eq!(disk.list().unwrap(), ["ok"]);
    });
}

#[test]
fn read_all_refuses_what_is_too_long() {
    backends(|disk| {
        let mut file = disk.create("f").unwrap();
        file.write_all_at(b"12345", 0).unwrap();
        assert_eq!(read_all(file.as_ref(), 5).unwrap(), b"12345");
        assert_eq!(read_all(file.as_ref(), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    });
}

#[cfg(unix)]
mod directory {
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    const HOLD: &str = "RESCIND_TEST_HOLD";

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn is_made_private_with_private_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/store");
        let disk = FileStorage::open(&path).unwrap();
        disk.create("wal").unwrap();
        assert_eq!(disk.path(), path);
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("wal")), 0o600);
        assert_eq!(mode(&path.join("LOCK")), 0o600);
        assert_eq!(disk.list().unwrap(), ["wal"]);
        drop(disk);
        assert_eq!(content(&FileStorage::open(&path).unwrap(), "wal"), b"");
    }

    #[test]
    fn is_refused_while_this_process_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = FileStorage::open(dir.path()).unwrap();
        let error = FileStorage::open(dir.path()).unwrap_err();
        assert!(matches!(error, DirectoryError::InUse { pid: Some(pid), .. } if pid == std::process::id()));
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        FileStorage::open(dir.path()).unwrap();
    }

    #[test]
    fn is_refused_while_another_process_holds_it_and_free_when_that_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "directory::hold_for_parent", "--nocapture"])
            .env(HOLD, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let held = BufReader::new(child.stdout.take().unwrap()).lines().any(|line| line.unwrap().contains("held"));
        let error = FileStorage::open(dir.path()).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(held);
        assert!(matches!(error, DirectoryError::InUse { pid: Some(pid), .. } if pid == child.id()), "{error}");
        FileStorage::open(dir.path()).unwrap();
    }

    #[test]
    fn is_free_when_dropped_though_a_child_is_being_spawned() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let spawner = scope.spawn(|| (0..100).all(|_| Command::new("true").status().unwrap().success()));
            while !spawner.is_finished() {
                FileStorage::open(dir.path()).unwrap();
            }
        });
    }

    #[test]
    fn hold_for_parent() {
        let Some(dir) = std::env::var_os(HOLD) else { return };
        let _held = FileStorage::open(Path::new(&dir)).unwrap();
        println!("held");
        io::stdin().read_line(&mut String::new()).unwrap();
    }

    #[test]
    fn in_use_without_a_readable_pid_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let _held = FileStorage::open(dir.path()).unwrap();
        fs::write(dir.path().join("LOCK"), [0xff; 100]).unwrap();
        let error = FileStorage::open(dir.path()).unwrap_err();
        assert!(matches!(error, DirectoryError::InUse { pid: None, .. }));
        assert!(error.to_string().contains("another process"), "{error}");
    }

    #[test]
    fn is_refused_as_a_symbolic_link_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, dangling) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("dangling"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        symlink(dir.path().join("none"), &dangling).unwrap();
        let slash = dir.path().join("link/");
        let dot = dir.path().join("link/.");
        for path in [&link, &slash, &dot, &dangling] {
            assert!(matches!(FileStorage::open(path), Err(DirectoryError::Symlink { .. })), "{path:?}");
        }
        assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
        fs::write(dir.path().join("file"), "").unwrap();
        let error = FileStorage::open(&dir.path().join("file")).unwrap_err();
        assert!(matches!(error, DirectoryError::NotADirectory { .. }));
    }

    #[test]
    fn is_refused_when_others_may_write() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o720, 0o702, 0o777, 0o1777] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = FileStorage::open(dir.path()).unwrap_err();
            assert!(matches!(error, DirectoryError::WritableByOthers { mode: m, .. } if m == mode));
            assert!(error.to_string().contains("chmod 700"), "{error}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        FileStorage::open(dir.path()).unwrap();
    }

    #[test]
    fn is_refused_when_it_belongs_to_another_or_gives_no_permission() {
        let dir = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            chown(dir.path(), Some(12345), None).unwrap();
            let error = FileStorage::open(dir.path()).unwrap_err();
            assert!(matches!(error, DirectoryError::ForeignOwner { owner: 12345, user: 0, .. }), "{error}");
        } else {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o000)).unwrap();
            let error = FileStorage::open(dir.path()).unwrap_err();
            assert!(matches!(error, DirectoryError::PermissionDenied { .. }), "{error}");
        }
    }

    #[test]
    fn fifos_links_and_directories_among_the_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileStorage::open(dir.path()).unwrap();
        assert!(Command::new("mkfifo").arg(dir.path().join("wal-fifo.log")).status().unwrap().success());
        assert_eq!(disk.open("wal-fifo.log").unwrap_err().kind(), io::ErrorKind::InvalidInput);

        fs::write(dir.path().join("real"), "secret").unwrap();
        symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
        disk.open("link").unwrap_err();
        assert_eq!(disk.create("link").unwrap_err().kind(), io::ErrorKind::AlreadyExists);

        fs::create_dir(dir.path().join("sub")).unwrap();
        disk.open("sub").unwrap_err();
        assert_eq!(disk.list().unwrap(), ["link", "real", "sub", "wal-fifo.log"]);
    }

    #[test]
    fn a_fifo_or_a_link_as_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Command::new("mkfifo").arg(dir.path().join("LOCK")).status().unwrap().success());
        assert!(matches!(FileStorage::open(dir.path()), Err(DirectoryError::Io { .. })));
        fs::remove_file(dir.path().join("LOCK")).unwrap();
        fs::write(dir.path().join("real"), "kept").unwrap();
        symlink(dir.path().join("real"), dir.path().join("LOCK")).unwrap();
        assert!(matches!(FileStorage::open(dir.path()), Err(DirectoryError::Io { .. })));
        assert_eq!(fs::read(dir.path().join("real")).unwrap(), b"kept");
    }
}

/// A disk with one synced file, and its handle.
fn synced(bytes: &[u8]) -> (MemoryStorage, Box<dyn StorageFile>) {
    let disk = MemoryStorage::new();
    let mut file = disk.create("f").unwrap();
    disk.sync_directory().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync().unwrap();
    (disk, file)
}

#[test]
fn what_was_synced_survives_every_crash() {
    let (disk, mut file) = synced(b"durable");
    file.write_all_at(&[b'x'; 5000], 7).unwrap();
    file.write_all_at(&[b'y'; 3000], 1000).unwrap();
    disk.create("g").unwrap().write_all_at(b"g", 0).unwrap();
    let mut images = std::collections::BTreeSet::new();
    for seed in 0..2000 {
        let files = disk.crash_image(seed).files();
        let bytes = &files["f"];
        assert!(bytes.starts_with(b"durable") && bytes.len() <= 5007);
        for (at, byte) in bytes.iter().enumerate().skip(7) {
            let overwritten = (1000..4000).contains(&at);
            assert!(matches!(byte, 0 | b'x') || (*byte == b'y' && overwritten), "byte {at} of seed {seed}");
        }
        images.insert(files);
    }
    assert!(images.len() > 1000, "only {} different images", images.len());
}

#[test]
fn the_seed_decides_from_nothing_to_everything() {
    let (disk, mut file) = synced(b"old");
    file.write_all_at(b"new and longer", 0).unwrap();
    file.truncate(10).unwrap();
    disk.create("g").unwrap();
    disk.rename("f", "h").unwrap();

    assert_eq!(disk.crash_image(0).files(), BTreeMap::from([("f".into(), b"old".to_vec())]));
    assert_eq!(disk.crash_image(u64::MAX).files(), disk.files());
    assert_eq!(disk.kill_image().files(), disk.files());
    for seed in 0..200 {
        assert_eq!(disk.crash_image(seed).files(), disk.crash_image(seed).files());
        let image = disk.crash_image(seed);
        assert_eq!(image.crash_image(0).files(), image.files(), "an image is durable");
        assert_eq!(image.operations(), 0);
    }
}

#[test]
fn a_write_survives_whole_not_at_all_as_a_prefix_or_in_chunks() {
    let (disk, mut file) = synced(&[b'o'; 600]);
    file.write_all_at(&[b'n'; 600], 0).unwrap();
    let (mut whole, mut none, mut prefix, mut subset) = (0, 0, 0, 0);
    for seed in 1..1000 {
        let bytes = disk.crash_image(seed).files()["f"].clone();
        assert_eq!(bytes.len(), 600);
        let torn = bytes.iter().position(|&byte| byte == b'o').unwrap_or(600);
        match torn {
            600 => whole += 1,
            0 if !bytes.contains(&b'n') => none += 1,
            _ if !bytes[torn..].contains(&b'n') => prefix += 1,
            _ => subset += 1,
        }
    }
    assert!(whole > 50 && none > 50 && prefix > 50 && subset > 50, "{whole} {none} {prefix} {subset}");
}

#[test]
fn a_rename_never_shows_half() {
    let disk = MemoryStorage::from_files(BTreeMap::from([("snap".into(), b"old".to_vec())]));
    let mut temp = disk.create("temp").unwrap();
    temp.write_all_at(b"new", 0).unwrap();
    temp.sync().unwrap();
    disk.rename("temp", "snap").unwrap();
    disk.rename("snap", "last").unwrap();
    let mut images = std::collections::BTreeSet::new();
    for seed in 1..500 {
        let files = disk.crash_image(seed).files();
        images.insert(files.clone());
        let new = files.values().filter(|bytes| *bytes == b"new").count();
        assert!(new <= 1, "{files:?}");
        assert!(files.contains_key("snap") || files.contains_key("last"), "{files:?}");
        assert!(files.values().all(|bytes| bytes == b"new" || bytes == b"old"));
    }
    // old under its name, alone or with the new one as `temp` or `last`; or new in its place, or renamed on.
    assert_eq!(images.len(), 5, "{images:?}");
}

#[test]
fn a_write_within_a_file_never_shortens_it() {
    let (disk, mut file) = synced(&[b'o'; 600]);
    file.write_all_at(b"new", 100).unwrap();
    assert!((1..200).all(|seed| disk.crash_image(seed).files()["f"].len() == 600));
}

#[test]
fn a_synced_directory_survives_whatever_follows() {
    let (disk, _file) = synced(b"f");
    disk.rename("f", "g").unwrap();
    disk.sync_directory().unwrap();
    disk.remove("g").unwrap();
    disk.sync_directory().unwrap();
    disk.create("g").unwrap();
    let seen: std::collections::BTreeSet<_> = (0..50).map(|seed| disk.crash_image(seed).list().unwrap()).collect();
    assert_eq!(seen, [vec![], vec!["g".to_owned()]].into());
    assert_eq!(disk.crash_image(u64::MAX).files()["g"], b"");
}

#[test]
fn faults_hit_the_operation_they_name_once_or_from_then_on() {
    let run = |disk: &MemoryStorage| {
        let results = [
            disk.create("a").map(drop),
            disk.create("b").map(drop),
            disk.rename("a", "c"),
            disk.remove("b"),
            disk.sync_directory(),
        ];
        results.map(|result| result.err().map(|error| error.kind()))
    };
    let disk = MemoryStorage::new();
    assert_eq!(run(&disk), [None; 5]);
    assert_eq!(disk.operations(), 5);

    let full = io::ErrorKind::StorageFull;
    let missing = Some(io::ErrorKind::NotFound);
    for (at, sticky, expected) in [
        (0, false, [Some(full), None, missing, None, None]),
        (1, false, [None, Some(full), None, missing, None]),
        (2, true, [None, None, Some(full), Some(full), Some(full)]),
        (4, false, [None, None, None, None, Some(full)]),
    ] {
        let disk = MemoryStorage::new();
        disk.fail_at(at, full, sticky);
        assert_eq!(run(&disk), expected, "{at} {sticky}");
        disk.clear_faults();
        disk.sync_directory().unwrap();
        assert_eq!(disk.crash_image(0).files(), disk.files());
    }
}

#[test]
fn a_failed_write_leaves_half() {
    let (disk, mut file) = synced(b"");
    disk.fail_at(disk.operations(), io::ErrorKind::StorageFull, false);
    file.write_all_at(b"abcdef", 0).unwrap_err();
    assert_eq!(content(&disk, "f"), b"abc");
    file.write_all_at(b"xyz", 0).unwrap();
    assert_eq!(content(&disk, "f"), b"xyz");
}

#[test]
fn a_failed_sync_drops_the_bytes_though_a_later_one_succeeds() {
    let (disk, mut file) = synced(b"old");
    file.write_all_at(b"lost!", 0).unwrap();
    disk.fail_at(disk.operations(), io::ErrorKind::Other, false);
    file.sync().unwrap_err();
    file.sync().unwrap();
    assert_eq!(content(&disk, "f"), b"lost!", "the page cache still has them");
    assert_eq!(disk.kill_image().files()["f"], b"lost!");
    for seed in [0, 1, 2, u64::MAX] {
        assert_eq!(disk.crash_image(seed).files()["f"], b"old");
        assert_eq!(disk.kill_image().crash_image(seed).files()["f"], b"old");
    }

    file.write_all_at(b"next", 6).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.crash_image(0).files()["f"], b"old\0\0\0next", "with a hole where the lost bytes were");
}

#[test]
fn a_failed_read_is_an_error_of_the_kind_ordered() {
    let (disk, file) = synced(b"abc");
    let first = disk.reads();
    let reads = || {
        let results =
            [disk.list().map(drop), disk.open("f").map(drop), file.len().map(drop), file.read_exact_at(&mut [0], 0)];
        results.map(|result| result.err().map(|error| error.kind()))
    };
    for at in 0..4 {
        disk.fail_read_at(disk.reads() + at, io::ErrorKind::Other, false);
        let mut expected = [None; 4];
        expected[at as usize] = Some(io::ErrorKind::Other);
        assert_eq!(reads(), expected);
    }
    disk.fail_read_at(disk.reads(), io::ErrorKind::Other, true);
    assert_eq!(reads(), [Some(io::ErrorKind::Other); 4]);
    assert_eq!(disk.reads() - first, 20);
}

#[test]
fn after_a_crash_everything_fails_and_the_operation_at_hand_is_open() {
    for at in 0..6 {
        let disk = MemoryStorage::new();
        disk.crash_at(at);
        let run = || -> io::Result<()> {
            let mut file = disk.create("f")?;
            disk.sync_directory()?;
            file.write_all_at(b"bytes", 0)?;
            file.sync()?;
            disk.rename("f", "g")?;
            disk.sync_directory()
        };
        assert_eq!(run().unwrap_err().to_string(), "crashed");
        assert_eq!(disk.operations(), at + 1);
        disk.list().unwrap_err();
        disk.create("other").unwrap_err();
        assert_eq!(disk.operations(), at + 2);

        let (before, after) = (disk.crash_image(0).files(), disk.crash_image(u64::MAX).files());
        assert_eq!(before.contains_key("f"), at > 1, "{at}");
        assert_eq!(after.contains_key("g"), at >= 4, "{at}");
        assert_eq!(before.get("f").is_some_and(|bytes| bytes == b"bytes"), at > 3, "{at}");
        assert!(!after.contains_key("other"));
        assert_eq!(after.values().any(|bytes| bytes == b"bytes"), at >= 2, "{at}");
        disk.crash_image(1).list().unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_and_syncs_nothing() {
    let (disk, mut file) = synced(b"old");
    file.write_all_at(b"new", 0).unwrap();
    disk.crash_at(disk.operations());
    file.sync().unwrap_err();
    disk.fail_at(0, io::ErrorKind::Other, true);
    disk.fail_read_at(0, io::ErrorKind::Other, true);
    let image = disk.kill_image();
    assert_eq!((image.operations(), image.reads()), (0, 0));
    assert_eq!(content(&image, "f"), b"new");
    assert_eq!(image.crash_image(0).files()["f"], b"old");
    image.open("f").unwrap().sync().unwrap();
    assert_eq!(image.crash_image(0).files()["f"], b"new");
    assert_eq!(disk.crash_image(0).files()["f"], b"old", "images are apart from their origin");
}

#[test]
fn wild_offsets_are_refused_before_memory_is_taken() {
    let (disk, mut file) = synced(b"");
    for offset in [u64::MAX, u64::MAX / 2, 1 << 40] {
        assert_eq!(file.write_all_at(b"x", offset).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(file.truncate(offset).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(file.read_exact_at(&mut [0], offset).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    assert_eq!(disk.files()["f"], b"");
}
