//! Every command: what people read, what programs read, and the exit code.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rescind::audit::JsonLines;
use rescind::{Credential, Options, Revocation, Store, Subject, Verdict};
use tempfile::TempDir;

use super::{Ran, rescind, rescind_told};

pub(super) struct Place {
    _parent: TempDir,
    pub(super) path: PathBuf,
}

impl Place {
    /// A store that its service has made, with names, and closed.
    pub(super) fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("revocations");
        let place = Self { _parent: parent, path };
        let store = place.options().open(&place.path).unwrap();
        store.revoke(Revocation::of(Subject::token("hush-jti")).by("alice")).unwrap();
        store.revoke(Revocation::of(Subject::user("mallory").in_tenant("acme")).by("hr-system")).unwrap();
        store.close().unwrap();
        place
    }

    pub(super) fn options(&self) -> Options {
        Options::new().retain_labels(true).segment_bytes(64 * 1024)
    }

    pub(super) fn store(&self) -> Store {
        self.options().open(&self.path).unwrap()
    }

    pub(super) fn run(&self, command: &[&str], more: &[&str]) -> Ran {
        self.run_told(command, more, "")
    }

    fn run_told(&self, command: &[&str], more: &[&str], input: &str) -> Ran {
        let path = self.path.to_str().unwrap();
        let ran = rescind_told(command.iter().chain([&path]).chain(more), input);
        assert!(!ran.out.contains("hush") && !ran.err.contains("hush"), "{} {}", ran.out, ran.err);
        ran
    }

    pub(super) fn is_denied(&self, credential: &Credential<'_>) -> bool {
        matches!(self.store().check(credential), Verdict::Revoked(_))
    }
}

#[test]
fn inspect_shows_what_is_there_also_while_a_process_holds_it() {
    let place = Place::new();
    let ran = place.run(&["inspect"], &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for wanted in
        ["held by    nobody", "entries    2 (token 1, user 1)", "kept in the directory", "wal-0000000000000001.log"]
    {
        assert!(ran.out.contains(wanted), "{wanted} is not in\n{}", ran.out);
    }
    let store = place.store();
    store.revoke(Revocation::of(Subject::session("hush-sid"))).unwrap();
    let json = place.run(&["inspect", "--json"], &[]).json();
    assert_eq!((&json["held"], &json["held_by"]), (&true.into(), &std::process::id().into()));
    assert_eq!((&json["entries"], &json["entries_by_kind"]["session"]), (&3.into(), &1.into()));
    assert_eq!(json["key_id"], store.key_id().to_string());
}

#[test]
fn what_writes_refuses_a_directory_that_a_process_holds() {
    let place = Place::new();
    let store = place.store();
    let before = (store.len(), fs::read(place.path.join("wal-0000000000000001.log")).unwrap());
    let subject = &["user:bob"][..];
    for (command, more) in [
        ("revoke", subject),
        ("disable", subject),
        ("enable", subject),
        ("lift", subject),
        ("restate", subject),
        ("settle", &[]),
        ("set-max-age", &["15min", "tenant:acme"]),
        ("clear-max-age", &["tenant:acme"]),
        ("snapshot", &[]),
        ("verify", &[]),
        ("salvage", &["/nonexistent/place"]),
    ] {
        let ran = place.run(&[command], more);
        let wanted = format!("is held by process {}: have that process do it, or stop it first", std::process::id());
        assert!(ran.code == 3 && ran.err.contains(&wanted), "{command}: {} {}", ran.code, ran.err);
        let json: serde_json::Value = serde_json::from_str(&place.run(&[command, "--json"], more).err).unwrap();
        assert_eq!(json["code"], 3);
    }
    assert!((store.len(), fs::read(place.path.join("wal-0000000000000001.log")).unwrap()) == before);
}

#[test]
fn whoever_is_revoked_is_denied_and_a_lift_takes_it_back() {
    let place = Place::new();
    let bob = Credential::new().user("bob").tenant("acme").issued_at_secs(1_700_000_000);
    let said = |ran: Ran, code: i32, wanted: &str| {
        assert!(ran.code == code && ran.out.trim_end() == wanted, "{} {:?} {}", ran.code, ran.out, ran.err);
    };
    said(place.run(&["revoke"], &["user:bob", "--tenant", "acme", "--reason", "offboarding"]), 0, "revoked 1");
    assert!(place.is_denied(&bob));
    said(place.run(&["lift"], &["user:bob", "--tenant", "acme"]), 0, "lifted 1");
    assert!(!place.is_denied(&bob));
    said(place.run(&["lift"], &["user:bob", "--tenant", "acme"]), 1, "nothing was lifted: there was nothing to do");
    said(place.run(&["disable"], &["user:bob", "user:carol", "--tenant", "acme"]), 0, "disabled 2");
    assert!(place.is_denied(&bob));
    said(
        place.run(&["enable"], &["user:bob", "user:dave", "--tenant", "acme"]),
        0,
        "enabled 1 of 2; of the others there was nothing to do",
    );
    // Tokens from a pipe, so that they are in nobody's list of processes.
    let piped = place.run_told(
        &["revoke"],
        &["token:-", "opaque-token:-", "session:-", "--until", "1h"],
        "hush-1\nhush-2\nhush-3\n",
    );
    said(piped, 0, "revoked 3");
    // Sessions that are spared too, after those that are not.
    let arguments = ["user:-", "--spare-session", "-", "--tenant", "acme"];
    said(place.run_told(&["revoke"], &arguments, "erin\nhush-5\n"), 0, "revoked 1");
    let erin = Credential::new().user("erin").tenant("acme").issued_at_secs(1_700_000_000);
    assert!(place.is_denied(&erin.clone().session("hush-4")) && !place.is_denied(&erin.session("hush-5")));
    for credential in [
        Credential::new().token("hush-1"),
        Credential::new().opaque_token("hush-2"),
        Credential::new().session("hush-3"),
    ] {
        assert!(place.is_denied(&credential), "{credential:?}");
    }
    let json = place
        .run(&["revoke", "--json"], &["everyone", "--issuer", "https://id.example", "--spare-session", "s"])
        .json();
    assert_eq!((&json["asked"], &json["changed"]), (&1.into(), &1.into()));
    let spared = Credential::new().user("u").issuer("https://id.example").session("s").issued_at_secs(1_700_000_000);
    assert!(!place.is_denied(&spared) && place.is_denied(&spared.session("other")));
}

#[test]
fn a_command_that_makes_no_sense_says_so_and_changes_nothing() {
    let place = Place::new();
    let log = || fs::read(place.path.join("wal-0000000000000001.log")).unwrap();
    let before = log();
    for (arguments, wanted) in [
        (&["revoke", "alice"][..], "say kind:id"),
        (&["revoke", "person:alice"], "there is no such kind"),
        (&["revoke", "opaque-token:hush"], "does not belong on a command line"),
        (&["revoke", "user:alice", "--until", "1h"], "leave out until"),
        (&["revoke", "token:t", "--until", "yesterday"], "RFC 3339"),
        (&["revoke", "token:t", "--until", "2020-01-01T00:00:00Z"], "has passed"),
        (&["revoke", "user:alice", "--at", "2100-01-01T00:00:00Z"], "after now"),
        (&["revoke", "token:-"], "needs a line on standard input"),
        (&["disable", "token:t"], "cannot be disabled"),
        // Not even that which makes sense.
        (&["disable", "user:bob", "token:t"], "cannot be disabled"),
        (&["lift", "user:mallory", "user:"], "empty"),
        (&["revoke", "user:bob", "token:t", "--until", "nan"], "names no time"),
        (&["revoke", "token:t", "--until", "2100-01-01T00:00:00+24:00"], "RFC 3339"),
        (&["explain", "user:"], "empty"),
        (&["restate", "user:mallory", "user:"], "empty"),
        (&["restate"], "required"),
        (&["set-max-age", "soon", "tenant:acme"], "say a duration"),
        (&["set-max-age", "0s", "tenant:acme"], "would deny everything"),
        (&["set-max-age", "15min"], "required"),
        (&["set-max-age", "15min", "tenant:acme", "user:bob"], "of a tenant or of everyone"),
        (&["set-max-age", "15min", "tenant:acme", "--issuer", "i"], "of a tenant or of everyone"),
        (&["set-max-age", "15min", "everyone", "--tenant", "acme"], "cannot be inside a tenant"),
        (&["clear-max-age", "group:staff"], "of a tenant or of everyone"),
        (&["settle", "user:mallory"], "unexpected argument"),
        (&["revoke"], "required"),
        (&["nonsense"], "unrecognized subcommand"),
    ] {
        let ran = place.run(&arguments[..1], &arguments[1..]);
        assert!(ran.code == 2 && ran.err.contains(wanted), "{arguments:?}: {} {}", ran.code, ran.err);
        let ran = place.run(&arguments[..1], &[&arguments[1..], &["--json"]].concat());
        let json: serde_json::Value =
            serde_json::from_str(&ran.err).unwrap_or_else(|error| panic!("{error}: {}", ran.err));
        assert!(ran.code == 2 && json["code"] == 2 && json["error"].as_str().unwrap().contains(wanted), "{json}");
    }
    // A token that was typed where the directory belongs.
    for command in ["revoke", "explain"] {
        let ran = rescind([command, "token:hush", "user:bob"]);
        assert!(ran.code == 2 && ran.err.contains("directory comes first") && !ran.err.contains("hush"), "{}", ran.err);
    }
    assert!(log() == before);
}

#[test]
fn times_are_taken_as_people_write_them() {
    let place = Place::new();
    let until = |time: &str| {
        assert_eq!(place.run(&["revoke"], &["token:t", "--until", time]).code, 0, "{time}");
        let until = place.run(&["explain", "--json"], &["token:t"]).json()[0]["until"].clone();
        assert_eq!(place.run(&["lift"], &["token:t"]).code, 0);
        until
    };
    // Whatever was said first is kept longest.
    for (time, wanted) in [
        ("2099-01-01T00:00:00Z", "2099-01-01T00:00:00.000Z"),
        ("2099-01-02T01:30:00+01:30", "2099-01-02T00:00:00.000Z"),
        ("2099-01-02 19:00:00-05:00", "2099-01-03T00:00:00.000Z"),
        ("2099-01-04T00:00:00+00:00", "2099-01-04T00:00:00.000Z"),
        ("4071254400", "2099-01-05T00:00:00.000Z"),
    ] {
        assert_eq!(until(time), wanted, "{time}");
    }
}

#[test]
fn whoever_does_it_is_named_also_where_the_environment_names_nobody() {
    let place = Place::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rescind"));
    for name in ["SUDO_USER", "USER", "LOGNAME"] {
        command.env_remove(name);
    }
    let ran = command.args(["revoke", place.path.to_str().unwrap(), "user:bob"]).output().unwrap();
    assert!(ran.status.success());
    let actor = place.run(&["explain", "--json"], &["user:bob"]).json()[0]["facts"][0]["actor"].clone();
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&place.path).unwrap());
    assert_eq!(actor, format!("uid {owner}"));
}

/// What somebody has put into a name must not move the cursor, nor look like another line.
#[test]
fn what_is_printed_for_people_is_printable() {
    let place = Place::new();
    let (user, actor) = ("eve\u{1b}[2J\nroot", "hr\u{202e}\u{7}");
    let revoke = Revocation::of(Subject::user(user).in_tenant("acme")).by(actor);
    place.store().revoke(revoke).unwrap();
    let listed = place.run(&["list"], &[]).out;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    let explained = place.run(&["explain"], &[&format!("user:{user}"), "--tenant", "acme"]).out;
    assert_eq!(explained.lines().count(), 2, "{explained}");
    for text in [&listed, &explained] {
        assert!(text.contains("eve\u{fffd}[2J\u{fffd}root") && text.contains("hr\u{fffd}\u{fffd}"), "{text}");
    }
    let json = place.run(&["list", "--json"], &[]).json();
    assert!(json.as_array().unwrap().iter().any(|one| one["name"] == user), "programs get what it is: {json}");
}

/// Where the disk is full, and a limit on the size of files stands for that.
#[test]
fn what_is_not_on_disk_is_not_called_done() {
    let place = Place::new();
    let limited = |kib: u32, command: &str, more: &[String], input: &str| {
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"");
        let mut child = Command::new("bash")
            .args(["-c", &script, "bash", env!("CARGO_BIN_EXE_rescind"), command, place.path.to_str().unwrap()])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // More than the segment has room for.
    let tokens: String = (0..2_000).map(|number| format!("hush-{number}\n")).collect();
    let (code, err) = limited(64, "revoke", &vec!["token:-".to_owned(); 2_000], &tokens);
    assert!(code == Some(5) && err.contains("not on disk") && err.lines().count() == 1, "{code:?} {err}");
    assert!(!err.contains("hush"), "{err}");
    let store = place.store();
    assert_eq!(store.len(), 2, "what it was is there, and opens");
    store.revoke_many((0..2_000).map(|number| Revocation::of(Subject::token(format!("t-{number}"))))).unwrap();
    store.close().unwrap();
    let (code, err) = limited(64, "snapshot", &[], "");
    assert!(matches!(code, Some(4 | 5)) && err.contains("cannot"), "{code:?} {err}");
    assert_eq!(rescind(["verify", place.path.to_str().unwrap()]).code, 0);
}

#[test]
fn nothing_is_made_by_mistake_and_what_cannot_be_opened_says_why() {
    let place = Place::new();
    let missing = place.path.with_file_name("missing");
    for command in [&["inspect"][..], &["verify"], &["list"], &["revoke", "user:x"], &["snapshot"]] {
        let mut arguments = vec![command[0], missing.to_str().unwrap()];
        arguments.extend(&command[1..]);
        let ran = rescind(&arguments);
        assert!(ran.code == 4 && ran.err.contains("does not exist"), "{command:?}: {} {}", ran.code, ran.err);
        assert!(!missing.exists());
    }
    let key = place.path.with_file_name("key");
    fs::write(&key, "5".repeat(64)).unwrap();
    let ran = place.run(&["inspect", "--key-file", key.to_str().unwrap()], &[]);
    assert!(ran.code == 4 && ran.err.contains("configure the key it was made with"), "{}", ran.err);
    fs::write(&key, "short").unwrap();
    let ran = place.run(&["inspect", "--key-file", key.to_str().unwrap()], &[]);
    assert!(ran.code == 4 && ran.err.contains("neither 32 bytes nor 64 hexadecimal digits"), "{}", ran.err);
}

#[test]
fn a_store_with_a_configured_key_is_opened_with_it() {
    let parent = tempfile::tempdir().unwrap();
    let (path, key) = (parent.path().join("revocations"), parent.path().join("key"));
    let open = || Options::new().key(rescind::Key::from_bytes([0xab; 32])).open(&path).unwrap();
    open().close().unwrap();
    for written in [vec![0xab; 32], "ab".repeat(32).into_bytes(), format!("{}\n", "ab".repeat(32)).into_bytes()] {
        fs::write(&key, written).unwrap();
        let ran = rescind(["revoke", path.to_str().unwrap(), "token:t", "--key-file", key.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    assert!(matches!(open().check(&Credential::new().token("t")), Verdict::Revoked(_)));
    let ran = rescind(["inspect", path.to_str().unwrap()]);
    assert!(ran.code == 4 && ran.err.contains("key"), "{}", ran.err);
}

#[test]
fn list_and_explain_say_who_what_since_when_why_and_by_whom() {
    let place = Place::new();
    place.run(
        &["disable"],
        &["user:bob", "--tenant", "acme", "--by", "root", "--retain-names", "--reason", "compromise"],
    );
    let listed = place.run(&["list"], &[]);
    assert_eq!(listed.code, 0);
    let lines: Vec<&str> = listed.out.lines().collect();
    assert!(lines[0].starts_with("kind            name     effect"), "{}", listed.out);
    assert!(listed.out.contains("mallory") && listed.out.contains("hr-system") && listed.out.contains("compromise"));
    let starts = |line: &str| line.find("user in tenant");
    assert!(lines[1..].iter().all(|line| starts(line) == Some(0)), "{}", listed.out);
    let json = place.run(&["list", "--json", "--kind", "user"], &[]).json();
    let names: Vec<_> = json.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bob", "mallory"]);
    assert_eq!(json[0]["facts"][0]["effect"], "disabled");
    let none = place.run(&["list", "--kind", "group"], &[]);
    assert_eq!((none.code, none.out.contains("nothing is known")), (1, true));

    let known = place.run(&["explain"], &["user:mallory", "--tenant", "acme"]);
    assert!(known.code == 0 && known.out.starts_with("user mallory in tenant acme: denied\n  since "), "{}", known.out);
    assert!(known.out.contains("by hr-system)"), "{}", known.out);
    let token = place.run_told(&["explain"], &["token:-"], "hush-jti\n");
    assert!(token.code == 0 && token.out.starts_with("token: denied\n  since "), "{}", token.out);
    let unknown = place.run(&["explain"], &["user:mallory"]);
    assert_eq!(
        (unknown.code, unknown.out.trim_end()),
        (1, "user mallory: nothing is known of it"),
        "a narrower one is another"
    );
    let json = place.run(&["explain", "--json"], &["user:mallory", "user:nobody", "--tenant", "acme"]).json();
    assert_eq!(
        (&json[0]["denied"], &json[0]["facts"][0]["actor"], &json[1]["known"]),
        (&true.into(), &"hr-system".into(), &false.into())
    );
    assert_eq!(json[0]["facts"][0]["requires"], serde_json::json!(["auth_time", "session_start", "iat"]));
    assert!(known.out.contains("by hr-system), requires auth_time or session_start or iat\n"), "{}", known.out);
}

#[test]
fn the_limits_of_the_service_stay_as_they_are() {
    let place = Place::new();
    let limited = || place.options().max_credential_age(std::time::Duration::from_secs(900));
    limited().open(&place.path).unwrap().close().unwrap();
    assert_eq!(place.run(&["revoke"], &["token:t"]).code, 0);
    assert_eq!(place.run(&["snapshot"], &[]).code, 0);
    // Had the tool recorded limits of its own, there would be a floor now to make up for it.
    let store = limited().open(&place.path).unwrap();
    assert!(store.list().iter().all(|known| known.subject.kind != rescind::Kind::Everyone), "{:?}", store.list());
}

#[test]
fn an_audit_trail_gets_what_is_done_and_is_checked_and_followed() {
    let place = Place::new();
    let trail = place.path.with_file_name("audit.jsonl");
    let trail = trail.to_str().unwrap();
    drop(JsonLines::open(trail).unwrap());
    let note = "left\u{1b}[31m the company";
    for user in ["bob", "carol"] {
        let subject = format!("user:{user}");
        let ran = place.run(
            &["revoke"],
            &[&subject, "--retain-names", "--audit", trail, "--reason", "offboarding", "--note", note],
        );
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    let verified = rescind(["audit", "verify", trail]);
    assert!(
        verified.code == 0 && verified.out.starts_with("sound: 2 records, the last with hash "),
        "{}",
        verified.out
    );
    let tail = rescind(["audit", "tail", trail, "-n", "1"]);
    assert!(
        tail.out.contains("revoke    user carol by tester for offboarding: durable (left\u{fffd}[31m the company)"),
        "{}",
        tail.out
    );
    assert_eq!(tail.out.lines().count(), 1);
    let json = rescind(["audit", "tail", trail, "--json", "-n", "1"]).json();
    assert_eq!((&json["target"]["label"], &json["channel"]), (&"carol".into(), &"cli".into()));

    // It is followed as it grows: what is there is shown first, and then what comes.
    let mut follower = Command::new(env!("CARGO_BIN_EXE_rescind"))
        .args(["audit", "tail", trail, "-n", "1", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("revoke    user carol"));
    place.run(&["lift"], &["user:bob", "--audit", trail]);
    assert!(lines.next().unwrap().contains("lift      user"));
    follower.kill().unwrap();
    follower.wait().unwrap();

    // A head that was kept elsewhere tells whether the end was cut off, which the chain alone does not.
    let verified = rescind(["audit", "verify", trail]).out;
    let head = verified.lines().last().unwrap().trim().strip_prefix("--against ").unwrap();
    assert_eq!(rescind(["audit", "verify", trail, "--against", head]).code, 0);
    let text = fs::read_to_string(trail).unwrap();
    fs::write(trail, text.split_inclusive('\n').take(2).collect::<String>()).unwrap();
    assert_eq!(rescind(["audit", "verify", trail]).code, 0);
    let cut = rescind(["audit", "verify", trail, "--against", head]);
    assert!(cut.code == 1 && cut.out.contains("its end was cut off"), "{} {}", cut.code, cut.out);
    assert_eq!(rescind(["audit", "verify", trail, "--against", "3:abc"]).code, 2);

    fs::write(trail, text.replacen("bob", "eve", 1)).unwrap();
    let broken = rescind(["audit", "verify", trail]);
    assert!(broken.code == 1 && broken.out.contains("line 1"), "{} {}", broken.code, broken.out);
    assert_eq!(rescind(["audit", "verify", "--json", trail]).json()["sound"], false);
    assert_eq!(rescind(["audit", "verify", "/nonexistent"]).code, 4);
}

/// As `logrotate` and the like do it, and with notes in any script.
#[test]
fn a_trail_is_followed_through_what_happens_to_files() {
    let place = Place::new();
    let trail = place.path.with_file_name("audit.jsonl");
    let path = trail.to_str().unwrap();
    drop(JsonLines::open(path).unwrap());
    let mut follower = Command::new(env!("CARGO_BIN_EXE_rescind"))
        .args(["audit", "tail", path, "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    let revoke = |note: &str| {
        assert_eq!(place.run(&["revoke"], &["user:bob", "--audit", path, "--note", note]).code, 0);
    };
    revoke("before");
    assert!(lines.next().unwrap().ends_with("(before)"));
    // Renamed, and the new one is longer before anybody looks.
    revoke("last of the old");
    fs::rename(path, place.path.with_file_name("audit.1")).unwrap();
    for note in ["one", "two", "three"] {
        revoke(note);
    }
    for note in ["last of the old", "one", "two", "three"] {
        let line = lines.next().unwrap();
        assert!(line.ends_with(&format!("({note})")), "{line} is not {note}");
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// Half a line is no line until the rest of it comes; here it ends in the midst of a letter.
#[test]
fn half_a_line_is_waited_for() {
    let place = Place::new();
    let trail = place.path.with_file_name("audit.jsonl");
    let path = trail.to_str().unwrap();
    assert_eq!(place.run(&["revoke"], &["user:bob", "--audit", path, "--note", "whole"]).code, 0);
    let whole = fs::read_to_string(path).unwrap();
    let line = whole.replace("whole", "für Renée");
    let (start, rest) = line.as_bytes().split_at(line.find('ü').unwrap() + 1);
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(start).unwrap();
    let shown = rescind(["audit", "tail", path]);
    assert!(shown.code == 0 && shown.out.ends_with("(whole)\n"), "{} {}", shown.out, shown.err);
    let mut follower = Command::new(env!("CARGO_BIN_EXE_rescind"))
        .args(["audit", "tail", path, "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    // It has read to the end by then.
    assert!(lines.next().unwrap().ends_with("(whole)"));
    file.write_all(rest).unwrap();
    assert!(lines.next().unwrap().ends_with("(für Renée)"));
    // A crash left half a line, which whoever opens the trail next cuts off.
    file.write_all(b"{ half").unwrap();
    file.set_len(whole.len() as u64 + line.len() as u64).unwrap();
    file.write_all(line.replace("Renée", "all").as_bytes()).unwrap();
    assert!(lines.next().unwrap().ends_with("(für all)"));
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn bench_measures_and_leaves_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let arguments = ["bench", "--entries", "20000", "--directory", parent.path().to_str().unwrap()];
    let json = rescind(arguments.iter().chain(&["--json"])).json();
    for name in
        ["check_clear_ns", "check_revoked_ns", "revoke_sync_us_p50", "revoke_sync_per_second", "bytes_per_entry"]
    {
        assert!(json[name].as_f64().unwrap() > 0.0, "{name}: {json}");
    }
    assert!(rescind(arguments).out.contains("a check that is clear"));
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn whoever_reads_a_part_gets_the_exit_code_all_the_same() {
    let place = Place::new();
    let path = place.path.to_str().unwrap();
    let unread = |arguments: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rescind"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        output.status.code()
    };
    assert_eq!(unread(&["man"]), Some(0));
    assert_eq!(unread(&["verify", path]), Some(0));
    let log = place.path.join("wal-0000000000000001.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[150] ^= 1;
    fs::write(&log, bytes).unwrap();
    assert_eq!(unread(&["verify", path]), Some(1), "it is damaged, whoever reads that");
}

/// A store of which the key is lost has lost everything, however whole its files are.
#[test]
fn a_key_that_is_lost_is_not_called_saved() {
    let place = Place::new();
    let saved = |name: &str| place.path.with_file_name(name).to_str().unwrap().to_owned();
    assert_eq!(place.run(&["salvage"], &[&saved("with")]).code, 0);
    let kept = fs::read(place.path.join("KEY")).unwrap();
    fs::remove_file(place.path.join("KEY")).unwrap();
    let verified = place.run(&["verify"], &[]);
    assert!(verified.code == 0 && verified.out.contains("there is no KEY"), "{}", verified.out);
    let without = place.run(&["salvage"], &[&saved("without")]);
    assert!(without.code == 1 && without.out.contains("the key was not there"), "{}", without.out);
    assert!(!without.out.contains("nothing that was on disk is missing"), "{}", without.out);
    let key = saved("key");
    for (bytes, verify, salvage) in [(&[9; 32][..], 4, 1), (&kept, 0, 0)] {
        fs::write(&key, bytes).unwrap();
        assert_eq!(place.run(&["verify"], &["--key-file", &key]).code, verify);
        let into = saved(&format!("saved-{salvage}"));
        let json = place.run(&["salvage", "--json"], &[&into, "--key-file", &key]);
        assert_eq!((json.code, &json.json()["opens"]), (salvage, &(salvage == 0).into()));
    }
    fs::write(place.path.join("KEY"), [9; 32]).unwrap();
    let (verified, salvaged) = (place.run(&["verify"], &[]), place.run(&["salvage"], &[&saved("other")]));
    assert!(verified.code == 1 && verified.out.contains("KEY"), "{}", verified.out);
    assert_eq!(salvaged.code, 1, "{}", salvaged.out);
}

#[test]
fn completions_and_manual_pages_are_what_their_readers_take() {
    let bash = rescind(["completions", "bash"]);
    let mut check = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(bash.out.as_bytes()).unwrap();
    assert!(check.wait().unwrap().success() && bash.out.contains("salvage"));
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(rescind(["completions", shell]).out.contains("salvage"), "{shell}");
    }
    let man = rescind(["man"]);
    assert!(man.out.contains(".TH rescind 1") && man.out.contains("Exit codes"), "{}", man.out);
    let pages = tempfile::tempdir().unwrap();
    assert_eq!(rescind(["man", pages.path().to_str().unwrap()]).code, 0);
    for page in ["rescind.1", "rescind-revoke.1", "rescind-audit-tail.1"] {
        assert!(pages.path().join(page).exists(), "{page}");
    }
    // Where there is a formatter, it has nothing to say against them.
    for entry in fs::read_dir(pages.path()).unwrap() {
        let page = entry.unwrap().path();
        assert!(fs::read_to_string(&page).unwrap().contains("\n.TH "), "{page:?}");
        match Command::new("groff").args(["-man", "-ww", "-Tutf8"]).arg(&page).output() {
            Ok(shown) => assert!(shown.status.success() && shown.stderr.is_empty(), "{page:?}: {shown:?}"),
            Err(_) => println!("no groff here: {page:?} was only looked at"),
        }
    }
}
