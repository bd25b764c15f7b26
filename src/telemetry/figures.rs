//! The one list of figures: what each is called, and where it comes from.

use std::time::Duration;

use metrics::Unit;

use super::{Figure, Sort};
use crate::{Following, Freshness, ReplicaStats, Stats};

/// A figure, and where it comes from.
pub(super) type Row<T> = (Figure, fn(&T) -> f64);

const fn counter(name: &'static str, unit: Unit, description: &'static str) -> Figure {
    Figure { name, sort: Sort::Counter, unit: Some(unit), labels: &[], description }
}

const fn gauge(name: &'static str, unit: Unit, description: &'static str) -> Figure {
    Figure { name, sort: Sort::Gauge, unit: Some(unit), labels: &[], description }
}

/// 0 or 1.
const fn flag(name: &'static str, description: &'static str) -> Figure {
    Figure { name, sort: Sort::Gauge, unit: None, labels: &[], description }
}

const fn of(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

pub(super) const VERDICTS: Figure = Figure {
    labels: &["verdict", "why", "of", "claim"],
    ..counter(
        "rescind_verdicts_total",
        Unit::Count,
        "Answers to checks: why, if unknown whether the credential or the store is at fault, and which claim is.",
    )
};

pub(super) const ENTRIES: Figure =
    Figure { labels: &["kind"], ..gauge("rescind_entries", Unit::Count, "Subjects that have an entry.") };

pub(super) const STORE: [Row<Stats>; 23] = [
    (
        gauge("rescind_capacity", Unit::Count, "Subjects that may have an entry: at the limit new revocations fail."),
        |stats| stats.capacity as f64,
    ),
    (gauge("rescind_table_bytes", Unit::Bytes, "Memory of the table of tokens, sessions and families."), |stats| {
        stats.table_bytes as f64
    }),
    (gauge("rescind_filter_bytes", Unit::Bytes, "Memory of the filter."), |stats| stats.filter_bytes as f64),
    (counter("rescind_filter_rebuilds_total", Unit::Count, "How often the filter was rebuilt."), |stats| {
        stats.filter_rebuilds as f64
    }),
    (counter("rescind_forgotten_total", Unit::Count, "Entries forgotten, their retention having ended."), |stats| {
        stats.forgotten as f64
    }),
    (counter("rescind_commits_total", Unit::Count, "Group commits to the log."), |stats| stats.batches as f64),
    (gauge("rescind_log_bytes", Unit::Bytes, "Log since the last snapshot."), |stats| stats.log_bytes as f64),
    (gauge("rescind_snapshot_bytes", Unit::Bytes, "The last snapshot."), |stats| stats.snapshot_bytes as f64),
    (counter("rescind_snapshots_total", Unit::Count, "Snapshots taken."), |stats| stats.snapshots as f64),
    (flag("rescind_snapshot_failed", "1 while the last attempt at a snapshot has failed."), |stats| {
        of(stats.snapshot_error.is_some())
    }),
    (flag("rescind_write_failed", "1 while nothing more is written to disk. Alarm on it."), |stats| {
        of(stats.write_error.is_some())
    }),
    (
        gauge("rescind_unsaved", Unit::Count, "Denials in memory only, because a write has failed. Alarm on any."),
        |stats| stats.unsaved as f64,
    ),
    (
        counter("rescind_audit_failures_total", Unit::Count, "Audit records that a sink did not take. Alarm on any."),
        |stats| stats.audit_failures as f64,
    ),
    (gauge("rescind_watches", Unit::Count, "Live connections that are watched."), |stats| stats.watches as f64),
    (
        gauge("rescind_borne_out_time_seconds", Unit::Seconds, "The time by which entries are forgotten, since 1970."),
        |stats| stats.borne_out_time.as_nanos() as f64 / 1e9,
    ),
    (
        flag(
            "rescind_time_in_doubt",
            "1 while the clock is contradicted: revocations then deny their subjects outright. Alarm on it.",
        ),
        |stats| of(stats.time_in_doubt),
    ),
    (
        gauge(
            "rescind_clock_behind_seconds",
            Unit::Seconds,
            "By how much the wall clock is behind the latest time that was seen, or that a peer shows.",
        ),
        |stats| stats.clock_behind.as_secs_f64(),
    ),
    (
        gauge(
            "rescind_pending_epochs",
            Unit::Count,
            "Subjects denied outright, because they were revoked while the time was in doubt. Alarm on any that stay.",
        ),
        |stats| stats.pending_epochs as f64,
    ),
    (
        counter(
            "rescind_epochs_beyond_borne_out_total",
            Unit::Count,
            "Commits of epochs beyond what the boot clock bears out. Alarm on any.",
        ),
        |stats| stats.epochs_beyond_borne_out as f64,
    ),
    (
        gauge("rescind_recovered_log_batches", Unit::Count, "Commits read from the log when the store was opened."),
        |stats| stats.recovery.log_batches as f64,
    ),
    (
        gauge(
            "rescind_recovered_snapshot_records",
            Unit::Count,
            "Records read from the snapshot when the store was opened.",
        ),
        |stats| stats.recovery.snapshot_records as f64,
    ),
    (
        gauge("rescind_recovered_torn_tail_bytes", Unit::Bytes, "Torn tail that was wiped when the store was opened."),
        |stats| stats.recovery.torn_tail_bytes as f64,
    ),
    (
        gauge(
            "rescind_recovered_damaged_snapshots",
            Unit::Count,
            "Damaged snapshots that were set aside when the store was opened. Alarm on any.",
        ),
        |stats| stats.recovery.damaged_snapshots.len() as f64,
    ),
];

pub(super) const FOLLOWER: [Row<Following>; 4] = [
    (flag("rescind_follower_fresh", "1 while a follower has read all that its writer acknowledged."), |stats| {
        of(is_fresh(stats.freshness))
    }),
    (
        gauge(
            "rescind_follower_age_seconds",
            Unit::Seconds,
            "How long ago a follower had read all that was acknowledged.",
        ),
        |stats| age(stats.freshness),
    ),
    (
        counter("rescind_follower_rereads_total", Unit::Count, "How often a follower had to read everything again."),
        |stats| stats.rereads as f64,
    ),
    (flag("rescind_follower_failed", "1 while a follower cannot read on. Alarm on it."), |stats| {
        of(stats.error.is_some())
    }),
];

pub(super) const REPLICA: [Row<ReplicaStats>; 25] = [
    (
        flag("rescind_replica_fresh", "1 while a replica has lately held all that its peers hold. Alarm on 0."),
        |stats| of(is_fresh(stats.freshness)),
    ),
    (gauge("rescind_replica_age_seconds", Unit::Seconds, "How long ago a replica held all that it should."), |stats| {
        age(stats.freshness)
    }),
    (gauge("rescind_replica_peers", Unit::Count, "Peers of a replica."), |stats| stats.peers.len() as f64),
    (
        gauge("rescind_replica_seen_seconds_max", Unit::Seconds, "How long ago the most silent peer was heard of."),
        |stats| longest(stats.peers.iter().map(|peer| peer.seen)),
    ),
    (
        gauge(
            "rescind_replica_agreed_seconds_max",
            Unit::Seconds,
            "How long ago the peer that differs for longest held the same.",
        ),
        |stats| longest(stats.peers.iter().map(|peer| peer.agreed)),
    ),
    (counter("rescind_replica_messages_in_total", Unit::Count, "Messages taken in."), |stats| stats.messages_in as f64),
    (counter("rescind_replica_bytes_in_total", Unit::Bytes, "Bytes of messages taken in."), |stats| {
        stats.bytes_in as f64
    }),
    (counter("rescind_replica_messages_out_total", Unit::Count, "Messages given out."), |stats| {
        stats.messages_out as f64
    }),
    (counter("rescind_replica_bytes_out_total", Unit::Bytes, "Bytes of messages given out."), |stats| {
        stats.bytes_out as f64
    }),
    (counter("rescind_replica_rejected_total", Unit::Count, "Messages that were refused."), |stats| {
        stats.rejected as f64
    }),
    (
        counter(
            "rescind_replica_refused_entries_total",
            Unit::Count,
            "Entries of peers that were refused. Alarm on any.",
        ),
        |stats| stats.refused as f64,
    ),
    (
        counter(
            "rescind_replica_substituted_total",
            Unit::Count,
            "Subjects revoked from now on, because a peer's epoch lay too far ahead. Alarm on any.",
        ),
        |stats| stats.substituted as f64,
    ),
    (
        gauge(
            "rescind_replica_twins",
            Unit::Count,
            "Replica names, this replica's included, under which several processes speak. Alarm on any.",
        ),
        |stats| {
            let of_peers = stats.peers.iter().filter(|peer| peer.has_twins).count();
            (of_peers + usize::from(stats.has_twins)) as f64
        },
    ),
    (
        counter(
            "rescind_replica_twins_noticed_total",
            Unit::Count,
            "How often several processes were noticed that speak under one name.",
        ),
        |stats| stats.twins_noticed as f64,
    ),
    (
        flag(
            "rescind_replica_clock_contradicted",
            "1 while most peers contradict the wall clock: checks then give Unknown. Alarm on it.",
        ),
        |stats| of(stats.is_clock_contradicted),
    ),
    (
        gauge(
            "rescind_replica_clock_ahead_seconds_max",
            Unit::Seconds,
            "By how much the wall clock of the peer that is furthest ahead is ahead of this replica's.",
        ),
        |stats| largest(stats.peers.iter().filter_map(|peer| peer.clock_ahead)),
    ),
    (
        gauge(
            "rescind_replica_clock_behind_seconds_max",
            Unit::Seconds,
            "By how much the wall clock of the peer that is furthest behind is behind this replica's.",
        ),
        |stats| largest(stats.peers.iter().filter_map(|peer| peer.clock_behind)),
    ),
    (
        gauge(
            "rescind_replica_limits_differ",
            Unit::Count,
            "Peers that were started with another leeway, grace or maximum age. Alarm on any that stay.",
        ),
        |stats| stats.peers.iter().filter(|peer| peer.limits_differ == Some(true)).count() as f64,
    ),
    (counter("rescind_replica_dropped_total", Unit::Count, "Messages that found no room in a queue."), |stats| {
        stats.dropped as f64
    }),
    (counter("rescind_replica_comparisons_total", Unit::Count, "Comparisons of contents that differed."), |stats| {
        stats.comparisons as f64
    }),
    (counter("rescind_replica_merged_total", Unit::Count, "Entries of peers that changed anything."), |stats| {
        stats.merged as f64
    }),
    (counter("rescind_replica_deltas_total", Unit::Count, "News taken in and given out."), |stats| {
        (stats.deltas_in + stats.deltas_out) as f64
    }),
    (
        gauge("rescind_replica_propagation_p50_seconds", Unit::Seconds, "How long half of the news took to arrive."),
        |stats| stats.propagation_p50.as_secs_f64(),
    ),
    (gauge("rescind_replica_propagation_p99_seconds", Unit::Seconds, "How long 99 in 100 took at most."), |stats| {
        stats.propagation_p99.as_secs_f64()
    }),
    (
        gauge("rescind_replica_propagation_p999_seconds", Unit::Seconds, "How long 999 in 1,000 took at most."),
        |stats| stats.propagation_p999.as_secs_f64(),
    ),
];

#[cfg(any(feature = "gossip", feature = "redis", feature = "nats"))]
pub(super) const WIRE: [Row<crate::wire::WireStats>; 12] = {
    const fn of_engine(figure: Figure) -> Figure {
        Figure { labels: &["engine"], ..figure }
    }
    [
        (
            of_engine(flag("rescind_wire_connected", "1 while an engine reaches its broker, or a peer. Alarm on 0.")),
            |stats| of(stats.connected),
        ),
        (of_engine(gauge("rescind_wire_peers", Unit::Count, "Peers that an engine reaches.")), |stats| {
            stats.peers as f64
        }),
        (of_engine(counter("rescind_wire_messages_in_total", Unit::Count, "Messages that arrived.")), |stats| {
            stats.messages_in as f64
        }),
        (of_engine(counter("rescind_wire_bytes_in_total", Unit::Bytes, "Bytes that arrived.")), |stats| {
            stats.bytes_in as f64
        }),
        (of_engine(counter("rescind_wire_messages_out_total", Unit::Count, "Messages that were sent.")), |stats| {
            stats.messages_out as f64
        }),
        (of_engine(counter("rescind_wire_bytes_out_total", Unit::Bytes, "Bytes that were sent.")), |stats| {
            stats.bytes_out as f64
        }),
        (
            of_engine(counter(
                "rescind_wire_rejected_total",
                Unit::Count,
                "Messages that the replica refused. Alarm on any.",
            )),
            |stats| stats.rejected as f64,
        ),
        (of_engine(counter("rescind_wire_dropped_total", Unit::Count, "Messages that were given up.")), |stats| {
            stats.dropped as f64
        }),
        (of_engine(counter("rescind_wire_connects_total", Unit::Count, "Connections made.")), |stats| {
            stats.connects as f64
        }),
        (
            of_engine(counter(
                "rescind_wire_refused_total",
                Unit::Count,
                "Connections that were refused. Alarm on any.",
            )),
            |stats| stats.refused as f64,
        ),
        (
            of_engine(counter("rescind_wire_gaps_total", Unit::Count, "Gaps found in the history of a broker.")),
            |stats| stats.gaps as f64,
        ),
        (
            of_engine(counter("rescind_wire_resets_total", Unit::Count, "Brokers found to have lost their data.")),
            |stats| stats.resets as f64,
        ),
    ]
};

fn is_fresh(freshness: Freshness) -> bool {
    matches!(freshness, Freshness::Fresh { .. })
}

/// In seconds; infinite where it never was.
fn age(freshness: Freshness) -> f64 {
    match freshness {
        Freshness::Fresh { age } | Freshness::Stale { age } => age.as_secs_f64(),
        Freshness::Bootstrapping => f64::INFINITY,
    }
}

/// The longest; infinite where it never was, 0 of none.
fn longest(ages: impl Iterator<Item = Option<Duration>>) -> f64 {
    ages.map(|age| age.map_or(f64::INFINITY, |age| age.as_secs_f64())).fold(0.0, f64::max)
}

/// The largest of some differences, in seconds; 0 if there is none.
fn largest(differences: impl Iterator<Item = Duration>) -> f64 {
    differences.max().unwrap_or_default().as_secs_f64()
}
