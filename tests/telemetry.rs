//! What is published: every figure that is listed, no other, and nothing that names anybody.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

#[allow(dead_code, reason = "the tests of causality have more uses for it")]
#[path = "causality/group.rs"]
mod group;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use group::Group;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder};
use parking_lot::Mutex;
use rescind::storage::MemoryStorage;
use rescind::telemetry::{self, Figure, Sort};
use rescind::{Credential, ManualClock, NodeId, Options, Replication, Revocation, Store, Subject, Timestamp, Verdict};

type Description = (Sort, Option<Unit>, String);

/// Keeps what it is told.
#[derive(Default)]
struct Kept {
    values: Mutex<BTreeMap<String, (Sort, Arc<AtomicU64>)>>,
    described: Mutex<BTreeMap<String, Description>>,
}

impl Kept {
    fn register(&self, key: &Key, sort: Sort) -> Arc<AtomicU64> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        let mut values = self.values.lock();
        let (known, value) = values.entry(name).or_insert_with(|| (sort, Arc::default()));
        assert_eq!(*known, sort);
        Arc::clone(value)
    }

    fn describe(&self, key: KeyName, sort: Sort, unit: Option<Unit>, description: SharedString) {
        self.described.lock().insert(key.as_str().to_owned(), (sort, unit, description.into_owned()));
    }

    fn counter(&self, name: &str) -> u64 {
        self.values.lock()[name].1.load(Ordering::Relaxed)
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.counter(name))
    }

    fn names(&self) -> BTreeSet<String> {
        self.values.lock().keys().map(|name| name.split('{').next().unwrap().to_owned()).collect()
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(key, Sort::Counter, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(key, Sort::Gauge, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        panic!("a histogram: {}", key.as_str());
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.register(key, Sort::Counter))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.register(key, Sort::Gauge))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        panic!("a histogram: {}", key.name());
    }
}

const NOW: u64 = 1_800_000_000;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(NOW.checked_add_signed(secs).unwrap())
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn options(clock: &ManualClock) -> Options {
    Options::new().key(rescind::Key::from_bytes([3; 32])).clock(clock.clone()).background(false)
}

/// The figures of a store, as they are now.
fn of_store(store: &Store) -> Kept {
    let kept = Kept::default();
    with_local_recorder(&kept, || telemetry::publish(&store.stats()));
    kept
}

/// The figures of a replica, as they are now.
fn of_replica(group: &Group, place: usize) -> Kept {
    let kept = Kept::default();
    with_local_recorder(&kept, || telemetry::publish_replica(&group.nodes[place].replica.stats()));
    kept
}

/// A writer that is a replica, and its follower, after this and that.
fn busy() -> (Store, Store, rescind::Replica) {
    let (clock, disk) = (ManualClock::at(Timestamp::from_secs(NOW)), MemoryStorage::new());
    let options = || Options::new().clock(clock.clone()).background(false).retain_labels(true);
    let writer = options().capacity(1_000).open_on(Arc::new(disk.clone())).unwrap();
    let follower = options().open_read_only_on(Arc::new(disk)).unwrap();
    let (one, two) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
    let replica = writer.replicate(Replication::trusting_issuers("c", one, [two])).unwrap();
    replica.set_peers([two]);
    for canary in ["canary-token-1", "canary-token-2"] {
        writer.revoke(Revocation::of(Subject::token(canary))).unwrap();
    }
    writer.revoke(Revocation::of(Subject::user("canary-user").in_tenant("canary-tenant")).by("canary-actor")).unwrap();
    writer.snapshot().unwrap();
    follower.maintain();
    (writer, follower, replica)
}

fn publish_all() -> Kept {
    let kept = Kept::default();
    let (writer, follower, replica) = busy();
    with_local_recorder(&kept, || {
        telemetry::describe();
        telemetry::publish(&writer.stats());
        telemetry::publish(&follower.stats());
        telemetry::publish_replica(&replica.stats());
        #[cfg(any(feature = "gossip", feature = "redis", feature = "nats"))]
        telemetry::publish_wire("gossip", &rescind::wire::WireStats::default());
        let checks = [
            Credential::new().token("canary-token-1"),
            Credential::new().token("other"),
            Credential::new().user("canary-user").tenant("canary-tenant"),
        ];
        checks.iter().for_each(|credential| telemetry::count(&writer.check(credential)));
        telemetry::count(&Store::in_memory().check(&Credential::new().user("")));
    });
    kept
}

#[test]
fn every_figure_is_published_and_described_and_no_other() {
    let kept = publish_all();
    let listed: BTreeSet<String> = telemetry::figures().map(|figure| figure.name.to_owned()).collect();
    assert_eq!(listed.len(), telemetry::figures().count(), "each has a name of its own");
    assert_eq!(kept.names(), listed);
    let described = kept.described.lock();
    for Figure { name, sort, unit, labels, description, .. } in telemetry::figures() {
        assert_eq!(described[*name], (*sort, *unit, (*description).to_owned()));
        assert_eq!(name.ends_with("_total"), *sort == Sort::Counter, "{name}");
        assert!(name.starts_with("rescind_") && description.ends_with('.'), "{name}");
        // A unit that is not a count is in the name.
        for (of, suffix) in [(Unit::Bytes, "bytes"), (Unit::Seconds, "seconds")] {
            assert_eq!(*unit == Some(of), name.contains(suffix), "{name}");
        }
        for (published, (published_sort, _)) in kept.values.lock().iter() {
            if let Some(rest) = published.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')) {
                let keys: Vec<&str> =
                    rest.trim_end_matches('}').split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
                assert_eq!((keys.as_slice(), *published_sort), (*labels, *sort), "{published}");
            }
        }
    }
}

#[test]
fn they_say_what_the_store_counts() {
    let kept = publish_all();
    assert_eq!(kept.gauge("rescind_entries{kind=token}"), 2.0);
    assert_eq!(kept.gauge("rescind_entries{kind=user}"), 1.0);
    assert_eq!(kept.counter("rescind_snapshots_total{}"), 1);
    assert_eq!(kept.gauge("rescind_replica_fresh{}"), 0.0);
    assert_eq!(kept.gauge("rescind_replica_age_seconds{}"), f64::INFINITY, "it has never held all that its peer holds");
    assert_eq!(kept.gauge("rescind_replica_peers{}"), 1.0);
    assert_eq!(kept.gauge("rescind_follower_fresh{}"), 0.0, "no fresher than its writer");
    assert_eq!(kept.counter("rescind_verdicts_total{verdict=revoked,why=revoked,of=,claim=}"), 1);
    assert_eq!(kept.counter("rescind_verdicts_total{verdict=revoked,why=reauthenticate,of=,claim=auth_time}"), 1);
    assert_eq!(kept.counter("rescind_verdicts_total{verdict=unknown,why=bootstrapping,of=store,claim=}"), 1);
    assert_eq!(kept.counter("rescind_verdicts_total{verdict=unknown,why=malformed_claim,of=credential,claim=user}"), 1);
}

#[test]
fn doubt_about_the_time_and_what_waits_for_it_are_published() {
    let clock = ManualClock::at(at(0));
    let store = options(&clock).open_in_memory().unwrap();
    store.maintain();
    let doubt = || {
        let kept = of_store(&store);
        let gauges = ["rescind_time_in_doubt{}", "rescind_clock_behind_seconds{}", "rescind_pending_epochs{}"];
        (gauges.map(|name| kept.gauge(name)), kept.counter("rescind_epochs_beyond_borne_out_total{}"))
    };
    assert_eq!(doubt(), ([0.0, 0.0, 0.0], 0));
    clock.set_wall(at(-600));
    store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
    assert_eq!(doubt(), ([1.0, 600.0, 1.0], 0));
    clock.set_wall(at(1));
    assert_eq!(doubt(), ([0.0, 0.0, 1.0], 0), "it is given its time by maintenance");
    store.maintain();
    assert_eq!(doubt(), ([0.0, 0.0, 0.0], 0));
    clock.set_wall(at(100_000));
    store.revoke(Revocation::of(Subject::user("bob"))).unwrap();
    assert_eq!(doubt(), ([0.0, 0.0, 0.0], 1));
}

#[test]
fn limits_that_differ_and_clocks_that_are_apart_are_published() {
    for (offset, leeway, expected) in
        [(0, 60, [0.0, 0.0, 0.0]), (45, 60, [45.0, 0.0, 0.0]), (-45, 10, [0.0, 45.0, 1.0])]
    {
        let mut group = Group::default();
        group.start(1, 0, 2, |options| options);
        group.start(2, offset, 2, |options| options.leeway(secs(leeway)));
        group.meet();
        group.pass(secs(3));
        let kept = of_replica(&group, 0);
        let gauges = ["clock_ahead_seconds_max", "clock_behind_seconds_max", "limits_differ"];
        assert_eq!(
            gauges.map(|name| kept.gauge(&format!("rescind_replica_{name}{{}}"))),
            expected,
            "{offset} {leeway}"
        );
    }
}

#[test]
fn clock_that_most_peers_contradict_is_published() {
    let group = Group::of(&[600, 0, 0]);
    group.pass(secs(5));
    let contradicted = |place| of_replica(&group, place).gauge("rescind_replica_clock_contradicted{}");
    assert_eq!([0, 1, 2].map(contradicted), [1.0, 0.0, 0.0]);
    group.nodes[0].clock.set_wall(rescind::Clock::wall(&group.nodes[1].clock));
    group.pass(secs(5));
    assert_eq!([0, 1, 2].map(contradicted), [0.0; 3]);
}

#[test]
fn twins_are_published_until_one_of_them_is_silent() {
    let mut group = Group::of(&[0, 0, 0]);
    let twins = |group: &Group, place| of_replica(group, place).gauge("rescind_replica_twins{}");
    group.pass(secs(5));
    assert_eq!([0, 1, 2].map(|place| twins(&group, place)), [0.0; 3]);
    group.start(1, 5, 3, |options| options);
    group.meet();
    group.pass(secs(5));
    assert_eq!([0, 1, 2, 3].map(|place| twins(&group, place)), [1.0; 4]);
    group.nodes.remove(3);
    group.pass(secs(15));
    assert_eq!([0, 1, 2].map(|place| twins(&group, place)), [0.0; 3]);
    for place in 0..3 {
        assert!(of_replica(&group, place).counter("rescind_replica_twins_noticed_total{}") >= 1, "at {place}");
    }
}

#[test]
fn epochs_of_a_peer_that_are_refused_and_given_the_present_time_are_published() {
    let group = Group::of(&[600, 0, 0]);
    group.isolate(0, true);
    group.pass(secs(3));
    group.store(0).revoke(Revocation::of(Subject::user("alice"))).unwrap();
    let counted = |place| {
        let kept = of_replica(&group, place);
        let count = |name| kept.counter(name);
        (count("rescind_replica_refused_entries_total{}") > 0, count("rescind_replica_substituted_total{}"))
    };
    assert_eq!([0, 1, 2].map(counted), [(false, 0); 3]);
    group.isolate(0, false);
    group.pass(secs(5));
    assert_eq!(counted(0), (false, 0), "it is its own");
    let others = [1, 2].map(counted);
    assert!(others.iter().all(|(is_refused, _)| *is_refused), "{others:?}");
    // One of them substitutes, and the other may hear of that first.
    assert!(others.iter().any(|(_, substituted)| *substituted == 1), "{others:?}");
    assert!(others.iter().all(|(_, substituted)| *substituted <= 1), "once for a subject: {others:?}");
}

#[test]
fn nobody_is_named() {
    let kept = publish_all();
    let all = format!("{:?}", kept.values.lock().keys());
    assert!(all.contains("kind=token") && !all.contains("canary"), "{all}");
}

#[test]
fn a_reporter_publishes_until_it_is_dropped() {
    let store = Store::in_memory();
    let (told, tells) = std::sync::mpsc::channel();
    let reporter = telemetry::Reporter::start(Duration::from_millis(1), {
        let store = store.clone();
        move || told.send(store.len()).unwrap()
    })
    .unwrap();
    assert_eq!(tells.recv().unwrap(), 0);
    store.revoke(Revocation::of(Subject::token("t"))).unwrap();
    while tells.recv().unwrap() != 1 {}
    drop(reporter);
    while tells.recv().is_ok() {}
    assert_eq!(store.check(&Credential::new().token("other")), Verdict::Clear);
}

#[cfg(feature = "tower")]
#[test]
fn middleware_counts_what_it_answers() {
    let (store, kept) = (Store::in_memory(), Kept::default());
    let guard = rescind::service::Guard::new(&store);
    with_local_recorder(&kept, || {
        assert!(guard.check(&Credential::new().token("t")).is_ok());
        store.close().unwrap();
        assert_eq!(guard.check(&Credential::new()), Err(rescind::service::Refusal::Unknown(rescind::Cause::Closed)));
    });
    assert_eq!(kept.counter("rescind_verdicts_total{verdict=clear,why=,of=,claim=}"), 1);
    assert_eq!(kept.counter("rescind_verdicts_total{verdict=unknown,why=closed,of=store,claim=}"), 1);
}

/// The expressions of all panels.
fn expressions() -> Vec<String> {
    let dashboard: serde_json::Value = serde_json::from_str(telemetry::GRAFANA_DASHBOARD).unwrap();
    let targets = |panel: &serde_json::Value| panel["targets"].as_array().cloned().unwrap_or_default();
    let panels = dashboard["panels"].as_array().unwrap().iter().flat_map(targets);
    panels.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_dashboard_draws_every_figure_and_no_other() {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut drawn = BTreeSet::new();
    for expression in expressions() {
        for word in expression.split(|c| !is_part(c)).filter(|word| word.starts_with("rescind_")) {
            let figure = telemetry::figures().find(|figure| figure.name == word);
            let is_known = figure.is_some() || !cfg!(feature = "gossip") && word.starts_with("rescind_wire_");
            assert!(is_known, "there is no {word}: {expression}");
            if figure.is_some_and(|figure| figure.sort == Sort::Gauge) {
                assert!(!expression.contains("rate(") && !expression.contains("increase("), "{expression}");
            }
            drawn.insert(word.to_owned());
        }
    }
    let listed: BTreeSet<String> = telemetry::figures().map(|figure| figure.name.to_owned()).collect();
    assert!(drawn.is_superset(&listed), "not drawn: {:?}", listed.difference(&drawn));
}

/// The alerting rules: for each, its lines by name.
fn alerts() -> BTreeMap<String, BTreeMap<String, String>> {
    let rules = telemetry::PROMETHEUS_ALERTS.split("- alert: ").skip(1);
    rules
        .map(|rule| {
            let (name, lines) = rule.split_once('\n').unwrap();
            let lines = lines.lines().filter_map(|line| line.trim().split_once(": "));
            let unquoted = |text: &str| text.trim_matches('"').to_owned();
            (name.to_owned(), lines.map(|(key, text)| (key.to_owned(), unquoted(text))).collect())
        })
        .collect()
}

#[test]
fn alerts_ask_for_figures_that_exist_and_say_what_to_do() {
    let alerts = alerts();
    assert!(alerts.len() >= 10, "{:?}", alerts.keys());
    let mut asked = BTreeSet::new();
    for (name, rule) in &alerts {
        assert!(name.starts_with("Rescind"), "{name}");
        for part in ["summary", "action"] {
            assert!(rule[part].len() > 20 && rule[part].ends_with('.'), "{name}: {part}");
        }
        let words = rule["expr"].split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("rescind_")) {
            let figure = telemetry::figures().find(|figure| figure.name == word);
            assert!(
                figure.is_some() || !cfg!(feature = "gossip") && word.starts_with("rescind_wire_"),
                "{name}: {word}"
            );
            if let Some(figure) = figure {
                let is_growth = rule["expr"].contains(&format!("increase({word}["));
                assert_eq!(is_growth, figure.sort == Sort::Counter, "{name}: a counter counts by how much it grows");
            }
            asked.insert(word.to_owned());
        }
    }
    for figure in telemetry::figures().filter(|figure| figure.description.contains("Alarm on")) {
        assert!(asked.contains(figure.name), "no alert on {}", figure.name);
    }
}

/// What to do is in the manual, too.
#[test]
fn the_manual_names_every_alert() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/observability.md")).unwrap();
    for name in alerts().keys() {
        assert!(manual.contains(&format!("| `{name}` |")), "{name}");
    }
}

/// The table in the manual is what the code lists.
#[cfg(feature = "gossip")]
#[test]
fn the_manual_lists_every_figure() {
    let mut table = String::from("| name | labels | unit | |\n|---|---|---|---|\n");
    for Figure { name, unit, labels, description, .. } in telemetry::figures() {
        let unit = match unit {
            Some(Unit::Bytes) => "bytes",
            Some(Unit::Seconds) => "seconds",
            Some(_) => "",
            None => "0 or 1",
        };
        table.push_str(&format!("| `{name}` | {} | {unit} | {description} |\n", labels.join(", ")));
    }
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/observability.md")).unwrap();
    assert!(manual.contains(&table), "the table should be:\n\n{table}");
}
