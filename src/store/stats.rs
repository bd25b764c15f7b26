//! Figures for an operator.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::journal::RecoveryReport;
use crate::model::{Kind, Timestamp};

use super::{Following, Store};

/// How a store is doing.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// How many subjects have an entry.
    pub entries: usize,
    /// The same by kind, from narrow to wide.
    pub entries_by_kind: [(Kind, usize); 9],
    /// How many may have one.
    pub capacity: usize,
    /// Memory of the table of tokens, sessions and families, in bytes.
    pub table_bytes: usize,
    /// Memory of the filter, in bytes.
    pub filter_bytes: usize,
    /// How often the filter was rebuilt.
    pub filter_rebuilds: u64,
    /// Entries forgotten since the store was opened, their retention having ended.
    pub forgotten: u64,
    /// Group commits since the store was opened.
    pub batches: u64,
    /// Bytes of log since the last snapshot.
    pub log_bytes: u64,
    /// Bytes of the last snapshot.
    pub snapshot_bytes: u64,
    /// Snapshots taken since the store was opened.
    pub snapshots: u64,
    /// Why the last attempt at a snapshot failed; none if it succeeded.
    pub snapshot_error: Option<String>,
    /// Why nothing more is written to disk; none while all is well. Alarm on any.
    pub write_error: Option<String>,
    /// How many denials are in force in this process and not on disk, because a write failed. Maintenance, or
    /// [`Store::snapshot`], saves them as soon as the disk lets. Alarm on any.
    pub unsaved: u64,
    /// Audit records that a sink did not take, since the store was opened. Alarm on any.
    pub audit_failures: u64,
    /// How many credentials are [watched](Store::watch).
    pub watches: usize,
    /// The time by which entries are forgotten: what the wall clock says and the boot clock bears out.
    pub borne_out_time: Timestamp,
    /// Whether the time is in doubt: the wall clock is behind what the store has seen, or peers contradict it, by more than the
    /// allowed skew. Revocations then deny their subjects outright. Alarm on it.
    pub time_in_doubt: bool,
    /// By how much the wall clock is behind the latest time that the store has seen, or that a peer shows and no majority
    /// contradicts.
    pub clock_behind: Duration,
    /// How many subjects are denied outright because they were revoked while the time was in doubt.
    pub pending_epochs: usize,
    /// How many commits since the store was opened made an epoch that lies beyond what the boot clock bears out, by more than the
    /// allowed skew; see [`Receipt::beyond_borne_out`](crate::Receipt::beyond_borne_out).
    pub epochs_beyond_borne_out: u64,
    /// How it follows the process that writes it; none unless it was [opened read-only](Store::open_read_only).
    pub following: Option<Following>,
    /// What was found when the store was opened.
    pub recovery: RecoveryReport,
}

impl Store {
    /// Figures for an operator.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &*self.shared;
        let counters = &shared.counters;
        let time = shared.believed_time();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            entries: shared.denylist.len(),
            entries_by_kind: Kind::ALL.map(|kind| (kind, shared.denylist.count_of(kind))),
            capacity: shared.capacity,
            table_bytes: shared.denylist.table_bytes(),
            filter_bytes: shared.denylist.filter_bytes(),
            filter_rebuilds: load(&counters.filter_rebuilds),
            forgotten: load(&counters.forgotten),
            batches: load(&counters.batches),
            log_bytes: load(&counters.log_bytes),
            snapshot_bytes: load(&counters.snapshot_bytes),
            snapshots: load(&counters.snapshots),
            snapshot_error: counters.snapshot_error.lock().as_ref().map(ToString::to_string),
            write_error: counters.poison.lock().as_ref().map(ToString::to_string),
            unsaved: counters.unsaved(),
            audit_failures: load(&counters.audit_failures),
            watches: shared.watchers.len(),
            borne_out_time: shared.reading().wall,
            time_in_doubt: time.is_in_doubt(),
            clock_behind: time.latest.saturating_since(time.wall),
            pending_epochs: shared.pending_epochs(),
            epochs_beyond_borne_out: load(&counters.epochs_beyond),
            following: self.engine.following.as_ref().map(|following| following.stats(shared)),
            recovery: shared.recovery.clone(),
        }
    }
}
