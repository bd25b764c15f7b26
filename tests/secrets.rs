//! No bearer secret leaves: a canary is searched for in everything that the store and the sinks write and say.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::fs;
use std::path::{Path, PathBuf};

use rescind::audit::JsonLines;
use rescind::{Credential, Options, Reason, Revocation, Subject, Timestamp, Verdict};

const CANARY: &str = "canary-5f2d8c41";
const LABEL_CANARY: &str = "person-canary-77aa";

fn every_file(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { every_file(&path, found) } else { found.push(path) }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Revokes in every way there is, and gives everything that was said meanwhile.
fn exercise(directory: &Path, retain_labels: bool) -> String {
    let options =
        || Options::new().retain_labels(retain_labels).audit(JsonLines::open(directory.join("audit.jsonl")).unwrap());
    let mut said = String::new();
    let store = options().open(directory.join("store")).unwrap();
    let soon = Timestamp::from_secs(10_000_000_000);
    let narrow = [
        Subject::token(CANARY),
        Subject::opaque_token(CANARY),
        Subject::session(CANARY),
        Subject::family(CANARY).in_tenant("acme"),
    ];
    for subject in narrow {
        said += &format!("{subject:?}");
        let revocation = Revocation::of(subject.clone()).until(soon).because(Reason::Logout).by("alice").note("why");
        said += &format!("{revocation:?} {:?}", store.revoke(revocation.clone()));
        said += &format!("{:?}", store.explain(&subject));
        store.lift(subject).unwrap();
        store.revoke(revocation).unwrap();
    }
    let tenant = Revocation::of(Subject::tenant(LABEL_CANARY)).sparing_session(CANARY);
    said += &format!("{tenant:?} {:?}", store.revoke(tenant.clone()));
    store.revoke(Revocation::of(Subject::user(LABEL_CANARY).in_tenant(LABEL_CANARY).at_issuer(LABEL_CANARY))).unwrap();
    store.disable(Subject::user(LABEL_CANARY)).unwrap();
    // Errors may not give the id away either.
    let oversized = CANARY.repeat(1024);
    for subject in [Subject::token(oversized.as_str()), Subject::session(oversized.as_str())] {
        let error = store.revoke(Revocation::of(subject)).unwrap_err();
        said += &format!("{error} {error:?}");
    }
    let past = store.revoke(Revocation::of(Subject::token(CANARY)).until(Timestamp::from_secs(1))).unwrap_err();
    said += &format!("{past} {past:?}");
    let credential = Credential::new().token(CANARY).session(CANARY).family(CANARY);
    let verdict = store.check(&credential);
    assert!(matches!(verdict, Verdict::Revoked(_)));
    said += &format!("{credential:?} {verdict:?} {verdict}");
    let opaque = Credential::new().opaque_token(CANARY);
    assert!(matches!(store.check(&opaque), Verdict::Revoked(_)));
    said += &format!("{opaque:?} {:?} {store:?}", store.stats());
    store.snapshot().unwrap();
    store.close().unwrap();
    drop(store);
    options().open(directory.join("store")).unwrap().snapshot().unwrap();
    said
}

#[test]
fn a_token_never_shows_in_a_file_or_a_message() {
    for retain_labels in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let said = exercise(directory.path(), retain_labels);
        assert!(!said.contains(CANARY), "said: {said}");
        let mut files = Vec::new();
        every_file(directory.path(), &mut files);
        assert!(files.len() >= 6, "{files:?}");
        let mut labelled = 0;
        for file in files {
            let bytes = fs::read(&file).unwrap();
            assert!(!contains(&bytes, CANARY), "{} holds the canary", file.display());
            labelled += usize::from(contains(&bytes, LABEL_CANARY));
        }
        // Names of wide subjects are kept if and only if that is asked for. This also shows that the search finds.
        assert_eq!(labelled > 0, retain_labels);
    }
}
