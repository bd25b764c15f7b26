//! Figures for whatever collects them: every number that a store, a replica or an engine counts, by the `metrics` facade.
//!
//! The names follow Prometheus' conventions, and are the same for every collector. [`figures`] lists them, the Grafana
//! dashboard [`GRAFANA_DASHBOARD`] draws them, [`PROMETHEUS_ALERTS`] alarms on them, and
//! [`manual::observability`](crate::manual::observability) says what to do then.
//! No label names a user, a tenant, a session or a token.
//!
//! ```
//! use std::time::Duration;
//! use rescind::{Store, telemetry};
//!
//! let store = Store::in_memory();
//! // Once a recorder is installed, that of `metrics-exporter-prometheus`, say:
//! telemetry::describe();
//! let reporter = telemetry::Reporter::start(Duration::from_secs(10), {
//!     let store = store.clone();
//!     move || telemetry::publish(&store.stats())
//! })?;
//! # drop(reporter);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The store itself counts no checks: an increment that all cores share would cost more than the check. Where requests are
//! refused they are counted: the `service` middleware does, and [`count`] is for whoever calls
//! [`Store::check`](crate::Store::check) by hand.

mod figures;
mod reporter;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::{Cause, Claim, Effect, ReplicaStats, Stats, Verdict};
use figures::{ENTRIES, FOLLOWER, REPLICA, Row, STORE, VERDICTS};
pub use reporter::Reporter;

/// A dashboard for Grafana that draws all figures: import it, and choose a Prometheus data source.
pub const GRAFANA_DASHBOARD: &str = include_str!("grafana.json");

/// Alerting rules for Prometheus: name the file in `rule_files`. Each rule has a `summary` of what is wrong, and an `action`
/// that says what to do.
pub const PROMETHEUS_ALERTS: &str = include_str!("alerts.yml");

/// What a figure does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sort {
    /// It only grows, and starts anew with the process.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One of the figures.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub sort: Sort,
    /// Its unit; none for what is 0 or 1.
    pub unit: Option<Unit>,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub description: &'static str,
}

/// Every figure.
pub fn figures() -> impl Iterator<Item = &'static Figure> {
    let single = [&VERDICTS, &ENTRIES].into_iter();
    let tables = STORE.iter().map(|(figure, _)| figure).chain(FOLLOWER.iter().map(|(figure, _)| figure));
    let figures = single.chain(tables).chain(REPLICA.iter().map(|(figure, _)| figure));
    #[cfg(any(feature = "gossip", feature = "redis", feature = "nats"))]
    let figures = figures.chain(figures::WIRE.iter().map(|(figure, _)| figure));
    figures
}

/// Tells the recorder the unit and the description of every figure.
pub fn describe() {
    for Figure { name, sort, unit, description, .. } in figures().copied() {
        match (sort, unit) {
            (Sort::Counter, Some(unit)) => describe_counter!(name, unit, description),
            (Sort::Counter, None) => describe_counter!(name, description),
            (Sort::Gauge, Some(unit)) => describe_gauge!(name, unit, description),
            (Sort::Gauge, None) => describe_gauge!(name, description),
        }
    }
}

/// Publishes the figures of a store.
pub fn publish(stats: &Stats) {
    for (kind, entries) in &stats.entries_by_kind {
        gauge!(ENTRIES.name, "kind" => kind.as_str()).set(*entries as f64);
    }
    record(&STORE, stats);
    if let Some(following) = &stats.following {
        record(&FOLLOWER, following);
    }
}

/// Publishes the figures of a replica.
pub fn publish_replica(stats: &ReplicaStats) {
    record(&REPLICA, stats);
}

/// Publishes the figures of an engine, `"gossip"` say.
#[cfg(any(feature = "gossip", feature = "redis", feature = "nats"))]
pub fn publish_wire(engine: &'static str, stats: &crate::wire::WireStats) {
    for (figure, value) in &figures::WIRE {
        match figure.sort {
            Sort::Counter => counter!(figure.name, "engine" => engine).absolute(value(stats) as u64),
            Sort::Gauge => gauge!(figure.name, "engine" => engine).set(value(stats)),
        }
    }
}

/// Counts the answer to a check. The middleware of `service` does it by itself.
///
/// The label `of` tells an `unknown` that [lies with the credential](Cause::lies_with_credential) from one of the store, and
/// is empty otherwise; `claim` is the claim that is missing or malformed, or for lack of which a credential is denied.
pub fn count(verdict: &Verdict) {
    let (answer, why, of, claim) = match verdict {
        Verdict::Clear => ("clear", "", "", None),
        Verdict::Revoked(denial) => ("revoked", effect(&denial.effect), "", denial.missing),
        Verdict::Unknown(cause) => {
            let of = if cause.lies_with_credential() { "credential" } else { "store" };
            ("unknown", self::cause(*cause), of, cause.claim())
        }
    };
    let claim = claim.map_or("", Claim::as_str);
    counter!(VERDICTS.name, "verdict" => answer, "why" => why, "of" => of, "claim" => claim).increment(1);
}

fn record<T>(table: &[Row<T>], stats: &T) {
    for (figure, value) in table {
        match figure.sort {
            Sort::Counter => counter!(figure.name).absolute(value(stats) as u64),
            Sort::Gauge => gauge!(figure.name).set(value(stats)),
        }
    }
}

const fn effect(effect: &Effect) -> &'static str {
    match effect {
        Effect::Revoked => "revoked",
        Effect::Disabled => "disabled",
        Effect::Reauthenticate { .. } => "reauthenticate",
        Effect::Reissue { .. } => "reissue",
        Effect::TooOld { .. } => "too_old",
        Effect::Pending => "pending",
        Effect::Expired => "expired",
        Effect::FromTheFuture => "from_the_future",
    }
}

const fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::MissingClaim(_) => "missing_claim",
        Cause::MalformedClaim(_) => "malformed_claim",
        Cause::ForeignTenant => "foreign_tenant",
        Cause::Clock => "clock",
        Cause::Bootstrapping => "bootstrapping",
        Cause::Stale => "stale",
        Cause::Closed => "closed",
    }
}
