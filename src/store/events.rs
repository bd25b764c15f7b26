//! What an operator reads in the logs: events of the `tracing` facade, and nothing without that feature.
//!
//! None is on the path of a check, and none names anybody. `manual::observability` lists them.

use std::sync::Arc;
use std::time::Duration;

use crate::journal::{FileError, RecoveryReport};
use crate::replication::NodeId;

use super::{Alarm, SnapshotError, SnapshotReport, Time};

/// An event, where the feature is on; otherwise its fields are looked at and no more.
macro_rules! event {
    ($level:ident, $message:literal $(, $name:ident = $value:expr)*) => {{
        #[cfg(feature = "tracing")]
        tracing::$level!(target: "rescind::store", $($name = $value,)* $message);
        #[cfg(not(feature = "tracing"))]
        { _ = $message; $(_ = &$value;)* }
    }};
}

pub(super) fn opened(report: &RecoveryReport, entries: usize, is_read_only: bool) {
    event!(
        info,
        "opened",
        entries = entries,
        read_only = is_read_only,
        snapshot_records = report.snapshot_records,
        log_batches = report.log_batches,
        torn_tail_bytes = report.torn_tail_bytes
    );
    for file in &report.damaged_snapshots {
        event!(warn, "a damaged snapshot was set aside, and the one before it used", file = file.as_str());
    }
}

pub(super) fn closed(error: Option<&dyn std::fmt::Display>) {
    match error {
        None => event!(info, "closed"),
        Some(error) => event!(error, "closed, but not everything is on disk", error = error.to_string().as_str()),
    }
}

pub(super) fn snapshot(result: &Result<SnapshotReport, SnapshotError>) {
    match result {
        Ok(report) => event!(info, "snapshot taken", entries = report.entries, bytes = report.bytes),
        Err(SnapshotError::Closed | SnapshotError::ReadOnly) => {}
        Err(error) => event!(warn, "no snapshot was taken, it will be tried again", error = error.to_string().as_str()),
    }
}

pub(super) fn refused(error: &Arc<FileError>, denials: usize) {
    event!(
        error,
        "a commit was not written: what it denies is in memory only, until a snapshot has saved it",
        denials = denials,
        error = error.to_string().as_str()
    );
}

pub(super) fn healed() {
    event!(info, "the log goes on in a new segment after a failed write");
}

pub(super) fn clock_in_doubt(time: &Time, epochs: usize) {
    event!(
        error,
        "the clock is in doubt: subjects that were revoked are denied outright until the time is settled",
        epochs = epochs,
        wall = time.wall.to_string().as_str(),
        latest = time.latest.to_string().as_str()
    );
}

/// The time has come to be in doubt, or no longer is.
pub(super) fn time_in_doubt(time: Option<&Time>) {
    match time {
        Some(time) => event!(
            error,
            "the time is in doubt: revocations deny their subjects outright until the clock is set right",
            wall = time.wall.to_string().as_str(),
            latest = time.latest.to_string().as_str()
        ),
        None => event!(info, "the time is no longer in doubt"),
    }
}

pub(super) fn settled(epochs: usize) {
    event!(info, "epochs that were made while the clock was in doubt have been given their time", epochs = epochs);
}

pub(super) fn epoch_beyond(beyond: Duration) {
    event!(
        warn,
        "an epoch lies beyond what the boot clock bears out: nobody concerned can log in until then, unless it is restated",
        seconds = beyond.as_secs()
    );
}

pub(super) fn alarm(alarm: &Alarm) {
    match alarm {
        Alarm::Canary(canary) => event!(
            error,
            "a canary was not denied everywhere in time: revocations do not reach everyone",
            canary = canary.number,
            missing = canary.missing.len()
        ),
        Alarm::Twins { node } => event!(
            error,
            "two processes speak under one name: what one of them revokes may not reach everyone",
            node = node.to_string().as_str()
        ),
        Alarm::ClockContradicted => {
            event!(error, "most peers contradict the wall clock: checks of what is not revoked give Unknown");
        }
    }
}

pub(super) fn clock_agreed() {
    event!(info, "peers no longer contradict the wall clock");
}

pub(super) fn refused_of_peer(entries: u64) {
    event!(
        warn,
        "entries of peers were refused: they lie too far in the future, or are kept too long",
        entries = entries
    );
}

pub(super) fn substituted(subjects: u64) {
    event!(
        warn,
        "a peer has revoked subjects from a time too far in the future: they are revoked from now on instead",
        subjects = subjects
    );
}

pub(super) fn other_limits(peer: NodeId) {
    event!(
        warn,
        "a peer was started with another leeway, grace or maximum age than this replica",
        node = peer.to_string().as_str()
    );
}

pub(super) fn freshness(is_fresh: bool) {
    if is_fresh {
        event!(info, "fresh: it holds all that it should, and answers");
    } else {
        event!(warn, "stale: it has not heard of everything for too long, and gives Unknown for what is not revoked");
    }
}

pub(super) fn cannot_follow(error: &str) {
    event!(warn, "the log of the writer cannot be read on", error = error);
}

pub(super) fn reread(rereads: u64) {
    event!(warn, "the log of the writer is no longer what was read: everything is read again", rereads = rereads);
}
