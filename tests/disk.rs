//! The store on real files: who may open it, and what it leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test panics")]

use std::fs;
use std::path::Path;

use rescind::storage::DirectoryError;
use rescind::{
    CopyError, Credential, OpenError, Options, RecoveryError, Revocation, SalvageError, Store, Subject, Verdict,
    VerifyError, WriteError, salvage, verify,
};

fn options() -> Options {
    Options::new().segment_bytes(4096).snapshot_after_bytes(8192)
}

fn is_denied(store: &Store, token: &str) -> bool {
    matches!(store.check(&Credential::new().token(token)), Verdict::Revoked(_))
}

fn directory_error(path: &Path) -> DirectoryError {
    match options().open(path) {
        Err(OpenError::Directory(error)) => error,
        Err(error) => panic!("not an error of the directory: {error}"),
        Ok(_) => panic!("opened {}", path.display()),
    }
}

#[test]
fn a_store_in_use_names_its_holder_and_is_free_once_closed() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("revocations");
    let store = options().open(&path).unwrap();
    store.revoke(Revocation::of(Subject::token("a"))).unwrap();
    match directory_error(&path) {
        DirectoryError::InUse { pid, .. } => assert_eq!(pid, Some(std::process::id())),
        error => panic!("{error}"),
    }
    assert!(directory_error(&path).to_string().contains(&std::process::id().to_string()));
    store.close().unwrap();
    let again = options().open(&path).unwrap();
    assert!(is_denied(&again, "a"));
    drop((store, again));
    assert!(is_denied(&options().open(&path).unwrap(), "a"), "dropping it frees it, too");
}

#[test]
fn a_store_that_is_not_there_is_not_made_unless_that_is_wanted() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("volume/revocations");
    let existing = || options().create_if_missing(false).open(&path);
    let error = existing().unwrap_err();
    assert!(
        matches!(&error, OpenError::Directory(DirectoryError::Missing { path: missing }) if *missing == path),
        "{error}"
    );
    assert!(!path.parent().unwrap().exists(), "nothing was made");
    fs::create_dir_all(&path).unwrap();
    let error = existing().unwrap_err();
    assert!(matches!(error, OpenError::Recovery(RecoveryError::NoStore)), "{error}");
    options().open(&path).unwrap().revoke(Revocation::of(Subject::token("a"))).unwrap();
    assert!(is_denied(&existing().unwrap(), "a"));
}

#[test]
fn verifying_and_salvaging_need_a_store_that_nobody_has_open_and_change_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let (path, saved) = (parent.path().join("revocations"), parent.path().join("saved"));
    assert!(matches!(verify(&path), Err(VerifyError::Directory(DirectoryError::Missing { .. }))));
    let store = options().open(&path).unwrap();
    for token in ["a", "b"] {
        store.revoke(Revocation::of(Subject::token(token))).unwrap();
    }
    assert!(matches!(verify(&path), Err(VerifyError::Directory(DirectoryError::InUse { .. }))));
    assert!(matches!(salvage(&path, &saved), Err(SalvageError::Source(VerifyError::Directory(_)))));
    store.close().unwrap();

    let content = || {
        let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        let mut content: Vec<_> = entries.map(|path| (fs::read(&path).unwrap(), path)).collect();
        content.sort();
        content
    };
    let log = path.join("wal-0000000000000001.log");
    let mut bytes = fs::read(&log).unwrap();
    let sound = content();
    let found = verify(&path).unwrap();
    assert!(found.is_sound() && found.files.len() == 3, "{found:?}");
    // The first frame.
    bytes[160] ^= 1;
    fs::write(&log, bytes).unwrap();
    let damaged = content();
    let found = verify(&path).unwrap();
    let [damage] = &found.damage[..] else { panic!("{found:?}") };
    assert_eq!((&*damage.file, damage.offset), ("wal-0000000000000001.log", 128));
    assert!(!found.is_sound() && found.recovery.is_err() && found.missing_batches == [1..=1], "{found:?}");
    assert!(matches!(options().open(&path), Err(OpenError::Recovery(RecoveryError::Corrupt { .. }))));
    let report = salvage(&path, &saved).unwrap();
    assert!(report.has_key && report.entries == 1 && report.missing_batches == [1..=1], "{report:?}");
    assert!(content() == damaged && damaged != sound, "nothing was changed");
    let store = options().open(&saved).unwrap();
    assert!(!is_denied(&store, "a") && is_denied(&store, "b"));
    drop(store);
    assert!(matches!(salvage(&path, &saved), Err(SalvageError::Target(CopyError::File(_)))), "it is not empty");
}

#[cfg(unix)]
mod unix {
    use std::collections::HashSet;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn directories_that_others_control_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("revocations");
        drop(options().open(&path).unwrap());
        let link = parent.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(directory_error(&link), DirectoryError::Symlink { .. }));
        assert!(matches!(directory_error(&link.join("")), DirectoryError::Symlink { .. }));
        for writable in [0o770, 0o702] {
            fs::set_permissions(&path, Permissions::from_mode(writable)).unwrap();
            match directory_error(&path) {
                DirectoryError::WritableByOthers { mode, .. } => assert_eq!(mode, writable),
                error => panic!("{error}"),
            }
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        drop(options().open(&path).unwrap());
    }

    #[test]
    fn only_the_owner_can_read_what_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b/revocations");
        let store = options().background(false).open(&path).unwrap();
        store.revoke(Revocation::of(Subject::token("a"))).unwrap();
        store.snapshot().unwrap();
        assert_eq!(mode(&path), 0o700);
        let names: HashSet<String> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.contains("KEY") && names.contains("STORE") && names.contains("LOCK") && names.len() == 5);
        for name in names {
            assert_eq!(mode(&path.join(&name)), 0o600, "{name}");
        }
    }

    #[test]
    fn files_that_are_links_are_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("revocations");
        drop(options().open(&path).unwrap());
        for name in ["KEY", "STORE", "wal-0000000000000001.log"] {
            let elsewhere = parent.path().join(name);
            fs::rename(path.join(name), &elsewhere).unwrap();
            symlink(&elsewhere, path.join(name)).unwrap();
            assert!(matches!(options().open(&path), Err(OpenError::Recovery(_))), "{name}");
            fs::rename(&elsewhere, path.join(name)).unwrap();
        }
        drop(options().open(&path).unwrap());
    }

    #[test]
    fn a_directory_that_vanishes_is_noticed_and_what_was_in_it_can_be_saved_elsewhere() {
        let parent = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (parent.path().join("revocations"), parent.path().join("elsewhere"));
        let store = options().background(false).open(&path).unwrap();
        store.revoke(Revocation::of(Subject::token("before"))).unwrap();
        fs::remove_dir_all(&path).unwrap();
        let refused = store.revoke(Revocation::of(Subject::token("after")));
        assert!(matches!(refused, Err(WriteError::NotDurable(_))), "{refused:?}");
        assert!(store.snapshot().is_err());
        store.backup(&elsewhere).unwrap();
        assert!(store.close().is_err());
        let store = options().create_if_missing(false).open(&elsewhere).unwrap();
        assert!(is_denied(&store, "before") && is_denied(&store, "after"));
    }

    /// Files are found by the directory's handle: there is no moment at which a store is half here and half there.
    #[test]
    fn a_directory_that_is_moved_stays_the_stores() {
        let parent = tempfile::tempdir().unwrap();
        let (path, moved) = (parent.path().join("revocations"), parent.path().join("moved"));
        let store = options().open(&path).unwrap();
        store.revoke(Revocation::of(Subject::token("before"))).unwrap();
        fs::rename(&path, &moved).unwrap();
        fs::create_dir(&path).unwrap();
        for index in 0..100 {
            store.revoke(Revocation::of(Subject::token(format!("{index}")))).unwrap();
        }
        store.snapshot().unwrap();
        store.close().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        let store = options().open(&moved).unwrap();
        assert!(is_denied(&store, "before") && (0..100).all(|index| is_denied(&store, &format!("{index}"))));
    }
}
