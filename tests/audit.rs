//! The audit trail: what a record says, and that its chain cannot be bent unseen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rescind::audit::{
    Action, AuditError, AuditHead, AuditRecord, AuditSink, Defect, JsonLines, Outcome, Target, timestamp, verify,
    verify_against,
};
use rescind::{Actor, Channel, InitiatingEntity};
use serde_json::json;

fn record(seq: u64) -> AuditRecord {
    let time = UNIX_EPOCH + Duration::from_millis(1_790_000_000_123 + seq);
    AuditRecord::new(seq, time, Action::Revoke, Target::new("token", "ab12"), "admin")
}

fn log(records: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let sink = JsonLines::open(&path).unwrap();
    (0..records).for_each(|seq| sink.record(&record(seq)).unwrap());
    sink.flush().unwrap();
    (dir, path)
}

fn defect(result: Result<impl std::fmt::Debug, AuditError>) -> (Option<u64>, u64, Defect) {
    match result {
        Err(AuditError::Broken { line, offset, defect, .. }) => (line, offset, defect),
        other => panic!("not broken: {other:?}"),
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn write_lines(path: &Path, lines: &[String]) {
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

#[test]
fn a_record_says_what_is_known_and_nothing_else() {
    assert_eq!(
        serde_json::to_value(record(7)).unwrap(),
        json!({
            "seq": 7, "time": "2026-09-21T14:13:20.130Z", "initiating_entity": "system", "action": "revoke",
            "target": {"kind": "token", "digest": "ab12"}, "reason": "admin", "channel": "api",
            "outcome": {"status": "durable"},
        })
    );

    let mut full = record(1);
    full.txn = Some("t-1".into());
    full.tenant = Some("acme".into());
    full.actor = Some(Actor::service("ci").in_session("cd34").from_ip([192, 0, 2, 1].into()));
    full.initiating_entity = InitiatingEntity::Policy;
    full.action = Action::Disable;
    full.target.label = Some("alice".into());
    full.target.issuer = Some("https://idp.example".into());
    full.effect = Some("denied".into());
    full.epoch = Some(timestamp(UNIX_EPOCH));
    full.requires = Some(rescind::Claim::AuthTime);
    full.until = Some(timestamp(UNIX_EPOCH));
    full.note = Some("left".into());
    full.sessions_affected = Some(3);
    full.channel = Channel::Mcp;
    full.outcome = Outcome::Failed { error: "disk full".into() };
    full.connectors = vec!["okta".into()];
    assert_eq!(
        serde_json::to_value(full).unwrap(),
        json!({
            "seq": 1, "time": "2026-09-21T14:13:20.124Z", "txn": "t-1", "tenant": "acme",
            "actor": {"id": "ci", "type": "service", "session": "cd34", "ip": "192.0.2.1"},
            "initiating_entity": "policy", "action": "disable",
            "target": {"kind": "token", "digest": "ab12", "label": "alice", "issuer": "https://idp.example"},
            "effect": "denied", "epoch": "1970-01-01T00:00:00.000Z",
            "requires": ["auth_time", "session_start", "iat"], "until": "1970-01-01T00:00:00.000Z",
            "reason": "admin", "note": "left", "sessions_affected": 3, "channel": "mcp",
            "outcome": {"status": "failed", "error": "disk full"}, "connectors": ["okta"],
        })
    );
    assert_eq!(Actor::from("bob"), Actor::user(String::from("bob")));
}

#[test]
fn names_are_the_same_in_every_sink() {
    let word = |value: serde_json::Value| value.as_str().unwrap().to_owned();
    for action in [Action::Revoke, Action::Disable, Action::Enable, Action::Lift] {
        assert_eq!(word(json!(action)), action.as_str());
    }
    for channel in [Channel::Api, Channel::Webhook, Channel::Mcp, Channel::Event, Channel::Cli] {
        assert_eq!(word(json!(channel)), channel.as_str());
    }
    use InitiatingEntity::{Admin, Policy, System, User};
    for entity in [Admin, User, Policy, System] {
        assert_eq!(word(json!(entity)), entity.as_str());
    }
    for actor in [Actor::user(""), Actor::service(""), Actor::system("")] {
        assert_eq!(word(json!(actor.kind)), actor.kind.as_str());
    }
    let failed = Outcome::Failed { error: String::new() };
    for outcome in [Outcome::Durable, Outcome::Accepted, Outcome::Memory, Outcome::Unchanged, failed] {
        assert_eq!(word(json!(outcome)["status"].clone()), outcome.as_str());
    }
}

#[test]
fn times_outside_the_format_give_the_nearest_inside() {
    assert_eq!(timestamp(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
    assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(1 << 40)), "9999-12-31T23:59:59.999Z");
}

#[test]
fn the_chain_verifies_and_continues_after_reopening() {
    let (_dir, path) = log(3);
    let head = verify(&path).unwrap();
    assert_eq!(head.records, 3);
    let sink = JsonLines::open(&path).unwrap();
    assert_eq!((sink.head(), sink.torn_bytes()), (head, 0));
    sink.record(&record(3)).unwrap();
    assert_eq!(verify(&path).unwrap(), sink.head());

    for (at, line) in lines(&path).iter().enumerate() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["n"], at + 1);
        let (hashed, _) = line.rsplit_once(",\"hash\":\"").unwrap();
        assert_eq!(value["hash"], blake3::hash(hashed.as_bytes()).to_hex().as_str());
    }
    assert!(lines(&path)[0].contains(&format!("\"prev\":\"{}\"", "0".repeat(64))));
}

#[test]
fn an_empty_log_has_the_default_head() {
    let (_dir, path) = log(0);
    assert_eq!(verify(&path).unwrap(), AuditHead::default());
    assert_eq!(JsonLines::open(&path).unwrap().head(), AuditHead::default());
    verify_against(&path, &AuditHead::default()).unwrap();
}

#[test]
fn every_changed_byte_shows() {
    let (_dir, path) = log(3);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        for flip in [1, 0x20, 0x80, good[at] ^ b'\n', good[at] ^ b'0'] {
            if flip == 0 {
                continue;
            }
            let mut bad = good.clone();
            bad[at] ^= flip;
            fs::write(&path, &bad).unwrap();
            let line = good[..at].iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
            let offset = good[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end as u64 + 1);
            let found = defect(verify(&path));
            assert_eq!((found.0, found.1), (Some(line), offset), "byte {at} ^ {flip:#x}");
        }
    }
}

#[test]
fn every_cut_but_at_a_line_end_shows_and_that_one_shows_against_an_anchor() {
    let (_dir, path) = log(3);
    let good = fs::read(&path).unwrap();
    let anchor = verify(&path).unwrap();
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        if len == 0 || good[len - 1] == b'\n' {
            assert!(verify(&path).unwrap().records < 3);
            assert!(matches!(verify_against(&path, &anchor), Err(AuditError::AnchorMissing { .. })));
        } else {
            assert_eq!(defect(verify(&path)).2, Defect::Incomplete);
        }
    }
}

#[test]
fn lines_removed_repeated_moved_or_inserted_show() {
    let (_dir, path) = log(4);
    let good = lines(&path);
    let broken_at = |change: &dyn Fn(&mut Vec<String>)| {
        let mut bad = good.clone();
        change(&mut bad);
        write_lines(&path, &bad);
        let (line, _, defect) = defect(verify(&path));
        (line.unwrap(), defect)
    };
    assert_eq!(broken_at(&|lines| drop(lines.remove(0))), (1, Defect::Link));
    assert_eq!(broken_at(&|lines| drop(lines.remove(2))), (3, Defect::Link));
    assert_eq!(broken_at(&|lines| lines.insert(2, lines[1].clone())), (3, Defect::Link));
    assert_eq!(broken_at(&|lines| lines.swap(1, 2)), (2, Defect::Link));
    assert_eq!(broken_at(&|lines| lines.insert(1, String::new())), (2, Defect::Malformed));
    assert_eq!(broken_at(&|lines| lines.insert(1, "{}".into())), (2, Defect::Malformed));

    let (_other, other) = log(0);
    let sink = JsonLines::open(&other).unwrap();
    (10..14).for_each(|seq| sink.record(&record(seq)).unwrap());
    let alien = self::lines(&other).remove(2);
    assert_eq!(broken_at(&|lines| lines.insert(2, alien.clone())), (3, Defect::Link));
    assert_eq!(broken_at(&|lines| lines[2] = alien.clone()), (3, Defect::Link), "the right number, another chain");
}

#[test]
fn a_number_that_skips_shows_though_hashed_right() {
    let (_dir, path) = log(1);
    let line = lines(&path).remove(0).replace("\"n\":1,", "\"n\":2,");
    let (body, _) = line.rsplit_once(",\"hash\":\"").unwrap();
    let hash = blake3::hash(body.as_bytes()).to_hex();
    write_lines(&path, &[format!("{body},\"hash\":\"{hash}\"}}")]);
    assert_eq!(defect(verify(&path)), (Some(1), 0, Defect::Link));
}

#[test]
fn a_torn_tail_is_cut_off_and_reported() {
    let (_dir, path) = log(3);
    let good = fs::read(&path).unwrap();
    let last = good[..good.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        let sink = JsonLines::open(&path).unwrap();
        let kept = good[..len].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        assert_eq!(sink.torn_bytes(), (len - kept) as u64);
        assert_eq!(fs::metadata(&path).unwrap().len(), kept as u64);
        sink.record(&record(9)).unwrap();
        assert_eq!(verify(&path).unwrap(), sink.head());
    }
    for zeros in [1, 100] {
        for kept in [0, last] {
            let mut bytes = good[..kept].to_vec();
            bytes.resize(kept + zeros, 0);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(JsonLines::open(&path).unwrap().torn_bytes(), zeros as u64);
        }
    }
}

#[test]
fn a_file_that_is_no_log_is_refused_and_left_alone() {
    let (_dir, path) = log(2);
    let good = fs::read(&path).unwrap();
    let mut changed = good.clone();
    changed[good.len() - 200] ^= 1;
    let torn_behind_bad = [&changed[..], b"{\"seq\":"].concat();
    let long_line = [&good[..], &[b'x'; 3 << 20], b"\n"].concat();
    let long_tail = [&good[..], &[b'x'; 3 << 20]].concat();
    let foreign = b"a secret key without a newline".to_vec();
    let object = b"{\"key\":1}".to_vec();
    for bytes in [changed, torn_behind_bad, long_line, long_tail, foreign, object, b"\n".to_vec(), b"a\nb\n".to_vec()] {
        fs::write(&path, &bytes).unwrap();
        let (line, ..) = defect(JsonLines::open(&path));
        assert_eq!(line, None);
        assert!(fs::read(&path).unwrap() == bytes, "changed");
        defect(verify(&path));
    }
}

#[test]
fn lines_of_every_length_reopen() {
    let (_dir, path) = log(1);
    for note_len in [1, 8000, 16_000, 16_384, 40_000, 1_000_000] {
        let sink = JsonLines::open(&path).unwrap();
        let mut long = record(1);
        long.note = Some("n".repeat(note_len));
        sink.record(&long).unwrap();
        let head = sink.head();
        drop(sink);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[b'x'; 20_000]).unwrap();
        let sink = JsonLines::open(&path).unwrap();
        assert_eq!((sink.head(), sink.torn_bytes()), (head, 20_000));
    }
    verify(&path).unwrap();
}

#[test]
fn a_record_too_long_is_refused_and_the_chain_goes_on() {
    let (_dir, path) = log(1);
    let sink = JsonLines::open(&path).unwrap();
    let mut long = record(1);
    long.note = Some("n".repeat(1 << 20));
    assert!(matches!(sink.record(&long), Err(AuditError::TooLong { seq: 1, .. })));
    sink.record(&record(2)).unwrap();
    assert_eq!(verify(&path).unwrap().records, 2);
}

#[test]
fn text_that_imitates_a_link_changes_nothing() {
    let (_dir, path) = log(1);
    let sink = JsonLines::open(&path).unwrap();
    let mut sly = record(1);
    sly.note = Some(format!("x\",\"n\":9,\"prev\":\"{0}\",\"hash\":\"{0}\"}}\n{{\"seq\":\r\u{2028}\0", "f".repeat(64)));
    sink.record(&sly).unwrap();
    assert_eq!(verify(&path).unwrap(), sink.head());
    assert_eq!(lines(&path).len(), 2);
    drop(sink);
    assert_eq!(JsonLines::open(&path).unwrap().head().records, 2);
}

#[test]
fn a_head_kept_elsewhere_is_found_in_its_own_chain_only() {
    let (_dir, path) = log(2);
    let anchor = verify(&path).unwrap();
    let sink = JsonLines::open(&path).unwrap();
    sink.record(&record(2)).unwrap();
    assert_eq!(verify_against(&path, &anchor).unwrap(), sink.head());

    let stored: AuditHead = serde_json::from_str(&serde_json::to_string(&anchor).unwrap()).unwrap();
    assert_eq!(stored, anchor);
    let forged = AuditHead { hash: "f".repeat(64), ..anchor };
    let error = verify_against(&path, &forged).unwrap_err();
    assert!(error.to_string().contains("record 2"), "{error}");
}

#[test]
fn a_second_writer_is_refused() {
    let (_dir, path) = log(1);
    let sink = JsonLines::open(&path).unwrap();
    assert!(matches!(JsonLines::open(&path), Err(AuditError::InUse { .. })));
    drop(sink);
    JsonLines::open(&path).unwrap();
}

#[cfg(unix)]
#[test]
fn a_dropped_sink_is_free_though_a_child_is_being_spawned() {
    let (_dir, path) = log(1);
    std::thread::scope(|scope| {
        let spawn = || std::process::Command::new("true").status().unwrap().success();
        let spawner = scope.spawn(move || (0..100).all(|_| spawn()));
        while !spawner.is_finished() {
            JsonLines::open(&path).unwrap();
        }
    });
}

#[test]
fn threads_share_one_chain() {
    let (_dir, path) = log(0);
    let sink = JsonLines::open(&path).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let sink = &sink;
            scope.spawn(move || (0..50).for_each(|at| sink.record(&record(thread * 50 + at)).unwrap()));
        }
    });
    assert_eq!(verify(&path).unwrap().records, 400);
}

#[cfg(unix)]
#[test]
fn the_file_is_private_and_never_a_link_or_a_fifo() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let (dir, path) = log(1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (link, fifo) = (dir.path().join("link"), dir.path().join("fifo"));
    symlink(&path, &link).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [&link, &fifo] {
        assert!(matches!(JsonLines::open(path), Err(AuditError::Io { .. })));
        assert!(matches!(verify(path), Err(AuditError::Io { .. })));
    }
}

#[cfg(unix)]
const LIMITED: &str = "RESCIND_TEST_LIMITED";

/// A limit on the size of files stands in for a full disk: the write ends short, then fails.
#[cfg(unix)]
#[test]
fn a_failed_append_leaves_the_log_as_it_was() {
    let (_dir, path) = log(1);
    let status = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact append_until_it_fails"])
        .arg(std::env::current_exe().unwrap())
        .env(LIMITED, &path)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let head = verify(&path).unwrap();
    assert!(head.records > 2);
    assert_eq!(JsonLines::open(&path).unwrap().head(), head);
}

#[cfg(unix)]
#[test]
fn append_until_it_fails() {
    let Some(path) = std::env::var_os(LIMITED) else { return };
    let sink = JsonLines::open(&path).unwrap();
    while sink.record(&record(1)).is_ok() {}
    let (head, len) = (sink.head(), fs::metadata(&path).unwrap().len());
    for _ in 0..3 {
        assert!(matches!(sink.record(&record(1)), Err(AuditError::Io { .. })), "not poisoned: it was put right");
        assert_eq!((sink.head(), fs::metadata(&path).unwrap().len()), (head.clone(), len));
        assert_eq!(verify(&path).unwrap(), head);
    }
}

#[cfg(feature = "tracing")]
#[test]
fn tracing_events_carry_the_fields_by_name() {
    use std::sync::{Arc, Mutex};

    use rescind::audit::TracingSink;
    use tracing::field::{Field, Visit};
    use tracing::span;

    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<(String, String)>>>);

    impl Visit for Recorder {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            self.0.lock().unwrap().push((field.name().to_owned(), format!("{value:?}")));
        }
    }

    impl tracing::Subscriber for Recorder {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target() == "rescind::audit"
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    let recorder = Recorder::default();
    let mut record = record(1);
    record.actor = Some(Actor::user("root").from_ip([192, 0, 2, 1].into()));
    record.outcome = Outcome::Failed { error: "disk full".into() };
    record.connectors = vec!["a".into(), "b".into()];
    record.requires = Some(rescind::Claim::AuthTime);
    tracing::subscriber::with_default(recorder.clone(), || TracingSink.record(&record).unwrap());
    let fields: std::collections::BTreeMap<_, _> = recorder.0.lock().unwrap().drain(..).collect();
    let expected = [
        ("action", "\"revoke\""),
        ("actor.id", "\"root\""),
        ("actor.ip", "192.0.2.1"),
        ("actor.type", "\"user\""),
        ("channel", "\"api\""),
        ("connectors", "\"a,b\""),
        ("error", "\"disk full\""),
        ("initiating_entity", "\"system\""),
        ("message", "audit"),
        ("outcome", "\"failed\""),
        ("reason", "\"admin\""),
        ("requires", "\"auth_time,session_start,iat\""),
        ("seq", "1"),
        ("target.digest", "\"ab12\""),
        ("target.kind", "\"token\""),
        ("time", "\"2026-09-21T14:13:20.124Z\""),
    ];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}
