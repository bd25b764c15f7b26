//! What is published: every figure that is listed, no other, and nothing that names anybody.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed test panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
