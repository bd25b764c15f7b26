//! What people do about clocks that were wrong, and about limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rescind::{Clock, Credential, NodeId, Options, Replication, Revocation, Subject, SystemClock, Timestamp, Verdict};
use serde_json::Value;

use super::commands::Place;
use super::rescind;

/// The system's clocks, with a wall clock that is off.
#[derive(Clone, Debug, Default)]
pub(super) struct Shifted {
    secs: Arc<AtomicI64>,
    system: Arc<SystemClock>,
}

impl Shifted {
    /// Sets the wall clock off by so many seconds.
    pub(super) fn shift(&self, secs: i64) {
        self.secs.store(secs, Ordering::SeqCst);
    }
}

impl Clock for Shifted {
    fn wall(&self) -> Timestamp {
        let (wall, secs) = (self.system.wall(), self.secs.load(Ordering::SeqCst));
        let by = Duration::from_secs(secs.unsigned_abs());
        if secs < 0 { wall.saturating_sub(by) } else { wall.saturating_add(by) }
    }

    fn boot(&self) -> Duration {
        self.system.boot()
    }

    fn boot_id(&self) -> u64 {
        self.system.boot_id()
    }
}

pub(super) const YEAR: i64 = 365 * 24 * 3600;

/// A login of a user in acme, so many seconds from now.
fn login(user: &str, secs: i64) -> Credential<'_> {
    let clock = Shifted::default();
    clock.shift(secs);
    let at = clock.wall();
    Credential::new().user(user).tenant("acme").issued_at(at).auth_time(at)
}

fn of(user: &str) -> Revocation {
    Revocation::of(Subject::user(user).in_tenant("acme"))
}

/// The service's options, with a clock of its own.
fn options(place: &Place, clock: &Shifted) -> Options {
    place.options().clock(clock.clone()).background(false)
}

fn limits(place: &Place) -> Value {
    place.run(&["inspect", "--json"], &[]).json()["limits"].clone()
}

#[test]
fn inspect_shows_the_limits_of_the_service() {
    let place = Place::new();
    let shown = place.run(&["inspect"], &[]).out;
    assert!(shown.contains("limits     leeway 1m, grace 5m, no maximum age\n"), "{shown}");
    let secs = Duration::from_secs;
    let limited = |age| {
        let options = place.options().leeway(secs(30)).retention_grace(secs(600)).max_credential_age(secs(age));
        options.tenant_max_credential_age("acme", secs(900)).open(&place.path).unwrap()
    };
    let store = limited(12 * 3600);
    let tenant = store.tenant("acme").unwrap();
    // Names the tenant, whose digest alone is recorded with the limits.
    tenant.revoke(Revocation::of(rescind::LocalSubject::everyone())).unwrap();
    let digest = store.explain(&Subject::tenant("acme")).unwrap().unwrap().digest.to_string();
    store.close().unwrap();
    let shown = place.run(&["inspect"], &[]).out;
    assert!(shown.contains("limits     leeway 30s, grace 10m, maximum age 12h\n"), "{shown}");
    assert!(shown.contains("           tenant acme: maximum age 15m\n") && !shown.contains("floor"), "{shown}");
    let json = limits(&place);
    assert_eq!((&json["leeway_secs"], &json["kept_beyond_secs"]), (&30.0.into(), &600.0.into()));
    assert_eq!((&json["max_age_secs"], &json["replica"]), (&43200.0.into(), &false.into()));
    assert_eq!(json["tenants"], serde_json::json!([{ "name": "acme", "digest": digest, "max_age_secs": 900.0 }]));
    assert_eq!(json["set"], serde_json::json!([]), "a floor that moves on with the clock is none that was left");
    // A longer age leaves a floor.
    let store = limited(24 * 3600);
    store.replicate(Replication::answering_when_stale("c", NodeId::named("one"))).unwrap();
    // On disk once this is.
    store.revoke(Revocation::of(Subject::token("t"))).unwrap();
    let shown = place.run(&["inspect"], &[]).out;
    let floor = "floor      everyone: from before ";
    assert!(shown.contains("maximum age 1day; a replica\n") && shown.contains(floor), "{shown}");
    let json = limits(&place);
    assert!(json["set"][0]["floor"].is_string() && json["set"][0]["max_age_secs"].is_null(), "{json}");
    assert_eq!(json["replica"], true);
}

#[test]
fn age_that_is_set_denies_what_is_older_until_it_is_cleared() {
    let place = Place::new();
    let trail = place.path.with_file_name("audit.jsonl");
    let trail = trail.to_str().unwrap();
    let (old, new) = (login("bob", -3600), login("bob", -60));
    assert!(!place.is_denied(&old));
    let set = place.run(&["set-max-age"], &["15min", "tenant:acme", "--by", "ops", "--retain-names", "--audit", trail]);
    assert_eq!((set.code, set.out.as_str()), (0, "set 1\n"), "{}", set.err);
    assert!(place.is_denied(&old) && !place.is_denied(&new) && !place.is_denied(&old.clone().tenant("globex")));
    let shown = place.run(&["inspect"], &[]).out;
    assert!(
        shown.contains("set        tenant acme: maximum age 15m, since 2") && shown.contains(", by ops\n"),
        "{shown}"
    );
    let json = limits(&place);
    assert_eq!((&json["set"][0]["name"], &json["set"][0]["max_age_secs"]), (&"acme".into(), &900.0.into()));
    let explained = place.run(&["explain"], &["tenant:acme"]);
    assert!(explained.out.contains("  maximum age 15m (administrative, by ops)"), "{}", explained.out);
    let json = place.run(&["explain", "--json"], &["tenant:acme"]).json();
    assert_eq!(
        (&json[0]["facts"][0]["effect"], &json[0]["facts"][0]["max_age_secs"]),
        (&"max_age".into(), &900.0.into())
    );

    let cleared = place.run(&["clear-max-age"], &["tenant:acme", "--audit", trail]);
    assert_eq!((cleared.code, cleared.out.as_str()), (0, "cleared 1\n"), "{}", cleared.err);
    assert!(place.is_denied(&old), "what was dead stays dead");
    let shown = place.run(&["inspect"], &[]).out;
    assert!(shown.contains("floor      tenant acme: from before") && !shown.contains("set        "), "{shown}");
    let explained = place.run(&["explain"], &["tenant:acme"]).out;
    assert!(explained.contains("is dead, by a maximum age that was"), "{explained}");
    let again = place.run(&["clear-max-age"], &["tenant:acme"]);
    assert_eq!((again.code, again.out.as_str()), (1, "nothing was cleared: there was nothing to do\n"));
    let done = rescind(["audit", "tail", trail]).out;
    assert!(
        done.contains("set_age   tenant acme by ops for administrative: durable\n")
            && done.contains("clear_age tenant #"),
        "{done}"
    );

    let json = place.run(&["set-max-age", "--json"], &["12h", "everyone"]).json();
    assert_eq!((&json["asked"], &json["changed"]), (&1.into(), &1.into()));
    assert!(place.is_denied(&login("u", -13 * 3600).tenant("globex")));
}

/// Revoked by a service whose clock was behind, and which ended before that was mended.
#[test]
fn epoch_that_waits_for_its_time_is_shown_and_settled() {
    let place = Place::new();
    let trail = place.path.with_file_name("audit.jsonl");
    let trail = trail.to_str().unwrap();
    let clock = Shifted::default();
    let store = options(&place, &clock).open(&place.path).unwrap();
    store.maintain();
    clock.shift(-600);
    assert_eq!(store.revoke(of("alice")).unwrap().pending, 1);
    store.close().unwrap();

    let json = place.run(&["inspect", "--json"], &[]).json();
    assert_eq!((&json["time"]["in_doubt"], &json["time"]["pending_epochs"]), (&false.into(), &1.into()));
    let shown = place.run(&["inspect"], &[]).out;
    let path = place.path.display();
    assert!(
        shown.contains("pending    1, denied outright") && shown.contains(&format!("`rescind settle {path}`")),
        "{shown}"
    );
    let explained = place.run(&["explain"], &["user:alice", "user:mallory", "--tenant", "acme"]).out;
    assert!(explained.contains("denied outright, as the clock was in doubt ("), "{explained}");
    assert_eq!(explained.matches(&format!("`rescind settle {path}`")).count(), 1, "mallory's is settled: {explained}");
    let facts = || place.run(&["explain", "--json"], &["user:alice", "--tenant", "acme"]).json()[0]["facts"].clone();
    assert_eq!(facts()[0]["effect"], "pending");
    assert!(place.run(&["list"], &["--kind", "user"]).out.contains("denied outright, as the clock was in doubt"));

    let settled = place.run(&["settle"], &["--audit", trail]);
    assert_eq!((settled.code, settled.out.as_str()), (0, "settled 1\n"), "{}", settled.err);
    assert_eq!(facts()[0]["effect"], "reauthenticate");
    assert!(rescind(["audit", "tail", trail]).out.contains("settle    user alice"), "it is in the audit trail");
    let again = place.run(&["settle"], &[]);
    assert_eq!((again.code, again.out.as_str()), (1, "nothing was settled: no epoch waits for its time\n"));
    clock.shift(2);
    let store = options(&place, &clock).open(&place.path).unwrap();
    let denies = |credential| matches!(store.check(&credential), Verdict::Revoked(_));
    assert!(denies(login("alice", -1)) && !denies(login("alice", 1)));
}

/// The service has seen a later time than this machine's clock shows.
#[test]
fn clock_in_doubt_is_told_and_settles_nothing() {
    let place = Place::new();
    std::fs::remove_dir_all(&place.path).unwrap();
    let clock = Shifted::default();
    clock.shift(600);
    options(&place, &clock).open(&place.path).unwrap().close().unwrap();
    let shown = place.run(&["inspect"], &[]).out;
    assert!(shown.contains("time       in doubt: the clock is ") && shown.contains("Set it right"), "{shown}");
    let revoked = place.run(&["revoke"], &["user:bob", "--tenant", "acme"]);
    assert!(revoked.code == 0 && revoked.out.starts_with("revoked 1\nthe clock is in doubt: "), "{}", revoked.out);
    let json = place.run(&["disable", "--json"], &["user:carol", "--tenant", "acme"]).json();
    assert_eq!(
        (&json["changed"], &json["pending"], &json["beyond_borne_out_secs"]),
        (&1.into(), &1.into(), &Value::Null)
    );
    let settled = place.run(&["settle"], &[]);
    assert!(
        settled.code == 1 && settled.out.starts_with("nothing was settled, and 2 wait: the clock is "),
        "{}",
        settled.out
    );
    let json = place.run(&["settle", "--json"], &[]).json();
    assert_eq!((&json["settled"], &json["pending"], &json["time_in_doubt"]), (&0.into(), &2.into(), &true.into()));
    assert!(json["clock_behind_secs"].as_u64().unwrap().abs_diff(600) < 60, "{json}");
    // The service, whose clock is right, settles them.
    let store = options(&place, &clock).open(&place.path).unwrap();
    assert_eq!(store.stats().pending_epochs, 2);
    store.maintain();
    assert_eq!(store.stats().pending_epochs, 0);
}

/// Revoked by a service whose clock was a year ahead, and is right again.
#[test]
fn epoch_beyond_borne_out_time_is_explained_and_the_command_that_is_named_mends_it() {
    let place = Place::new();
    let clock = Shifted::default();
    let store = options(&place, &clock).open(&place.path).unwrap();
    clock.shift(YEAR);
    assert!(store.revoke(of("alice")).unwrap().beyond_borne_out.is_some());
    store.close().unwrap();
    clock.shift(0);
    let explain = |more: &[&str]| place.run(&[&["explain"], more].concat(), &["user:alice", "--tenant", "acme"]);
    let json = explain(&["--json"]).json();
    let beyond = json[0]["facts"][0]["beyond_borne_out_secs"].as_u64().unwrap();
    assert!(beyond.abs_diff(YEAR as u64) < 60, "{json}");
    let explained = explain(&[]).out;
    assert!(explained.contains("beyond borne-out time: new logins are denied until then"), "{explained}");
    let (old, new) = (login("alice", -1), login("alice", 1));
    assert!(place.is_denied(&new));
    let command = explained.split("`rescind ").nth(1).unwrap().split('`').next().unwrap().to_owned();
    let restated = rescind(command.split(' '));
    assert_eq!((restated.code, restated.out.as_str()), (0, "restated 1\n"), "{command}: {}", restated.err);
    let explained = explain(&[]).out;
    assert!(!explained.contains("beyond"), "{explained}");
    clock.shift(2);
    let store = options(&place, &clock).open(&place.path).unwrap();
    assert!(matches!(store.check(&old), Verdict::Revoked(_)) && store.check(&new) == Verdict::Clear);
    store.close().unwrap();
    let again = rescind(command.split(' '));
    assert_eq!((again.code, again.out.as_str()), (1, "nothing was restated: there was nothing to do\n"));
}

/// Where the clock of this machine is ahead itself, restating by it would change nothing.
#[test]
fn clock_that_is_still_ahead_is_told_before_anything_is_restated_by_it() {
    let place = Place::new();
    std::fs::remove_dir_all(&place.path).unwrap();
    let clock = Shifted::default();
    clock.shift(-YEAR);
    options(&place, &clock).open(&place.path).unwrap().close().unwrap();
    let revoked = place.run(&["revoke"], &["user:bob", "--tenant", "acme"]);
    assert!(revoked.code == 0 && revoked.out.contains("ahead of what the boot clock bears out"), "{}", revoked.out);
    let json = place.run(&["revoke", "--json"], &["user:carol", "--tenant", "acme"]).json();
    assert!(json["beyond_borne_out_secs"].as_u64().unwrap().abs_diff(YEAR as u64) < 60, "{json}");
    let explained = place.run(&["explain"], &["user:bob", "--tenant", "acme"]).out;
    assert!(explained.contains("if the clock is right, all is well; if it is ahead, set it right"), "{explained}");
    let restated = place.run(&["restate"], &["user:bob", "--tenant", "acme"]);
    assert_eq!(restated.code, 1);
    assert!(
        restated.out.starts_with("nothing was restated") && restated.out.contains("set it right"),
        "{}",
        restated.out
    );
}
