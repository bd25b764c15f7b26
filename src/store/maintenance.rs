//! What has to be done now and then: forget, rebuild the filter, take a snapshot. By a thread, or by hand.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::denylist::end_of;
use crate::model::{Bin, Digest, WideEntry};
use crate::sync::channel::{RecvTimeoutError, Sender, bounded};
use crate::sync::thread::{self, JoinHandle};

use super::committer::Message;
use super::{Engine, Shared, SnapshotError, SnapshotReport, Store, events};

/// How often the thread looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How long it waits at most before it tries again what failed.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What one round of maintenance did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// How many entries were forgotten, their retention having ended.
    pub forgotten: usize,
    /// Whether the filter was rebuilt.
    pub filter_rebuilt: bool,
    /// The snapshot, if one was due: because the log has grown, or because a write had failed.
    pub snapshot: Option<Result<SnapshotReport, SnapshotError>>,
}

impl Store {
    /// Does what the store's own thread does once a second: forgets entries whose retention has ended, rebuilds the
    /// filter if it no longer fits, notes how far the log is on disk and makes its next segment, takes a snapshot if the
    /// log has grown or a write has failed. A store that was opened read-only reads what has been written since. What fails is tried again after a second, two, four, up to a minute. Several
    /// may call it at once.
    pub fn maintain(&self) -> MaintenanceReport {
        self.engine.maintain()
    }
}

impl Engine {
    fn maintain(&self) -> MaintenanceReport {
        self.follow();
        let (wall, boot) = (self.shared.clock.wall(), self.shared.clock.boot());
        if self.shared.belief.settle(wall, boot) {
            self.shared.stamps.clear();
        }
        self.shared.look_at_time();
        // What fails is tried again in a second, and a failed write is told by the committer.
        self.settle_epochs().ok();
        self.shared.stamps.prune(self.shared.passed());
        if self.shared.news.take_for_disk() {
            let _writing = self.writing.lock();
            self.keep_ahead();
        }
        let counters = &self.shared.counters;
        let forgotten = self.shared.forget();
        self.shared.watchers.notify();
        let filter_rebuilt = self.fit_filter();
        let log_bytes = counters.log_bytes.load(Ordering::Relaxed);
        let snapshot_bytes = counters.snapshot_bytes.load(Ordering::Relaxed);
        let has_grown = log_bytes > self.snapshot_after_bytes.max(snapshot_bytes.saturating_mul(2));
        let mut report = MaintenanceReport { forgotten, filter_rebuilt, snapshot: None };
        if let Some(snapshotter) = &self.snapshotter {
            // A closed store has nothing to say.
            self.ask(Message::Mark).ok();
            let now = self.shared.clock.boot();
            let mut retries = self.retries.lock();
            if retries.spare.is_due(now) {
                let prepared = snapshotter.prepare_spare();
                retries.spare.note(prepared.is_ok(), now);
            }
            if (has_grown || counters.write_error().is_some()) && retries.snapshot.is_due(now) {
                let snapshot = self.snapshot();
                retries.snapshot.note(snapshot.is_ok(), now);
                report.snapshot = Some(snapshot);
            }
        }
        report
    }

    /// Rebuilds the filter if it no longer fits.
    pub(super) fn fit_filter(&self) -> bool {
        // One rebuild at a time; whoever comes second finds nothing left to do.
        let _rebuilding = self.rebuilding.lock();
        let counters = &self.shared.counters;
        let gone = counters.forgotten_since_rebuild.load(Ordering::Relaxed);
        let unfit = self.shared.denylist.filter_is_unfit(gone);
        if unfit {
            self.shared.denylist.rebuild_filter(1);
            counters.forgotten_since_rebuild.fetch_sub(gone, Ordering::Relaxed);
            counters.filter_rebuilds.fetch_add(1, Ordering::Relaxed);
        }
        unfit
    }
}

impl Shared {
    /// Tells the log when the time comes to be in doubt, and when it no longer is.
    fn look_at_time(&self) {
        let time = self.believed_time();
        let is_in_doubt = time.is_in_doubt();
        if self.was_in_doubt.swap(is_in_doubt, Ordering::Relaxed) != is_in_doubt {
            events::time_in_doubt(is_in_doubt.then_some(&time));
        }
    }

    /// Forgets what may be forgotten: see `manual::semantics` for why that changes no verdict.
    fn forget(&self) -> usize {
        let now = self.reading().wall;
        let kept = self.policy.kept_beyond();
        let mut ended = now.saturating_sub(kept).saturating_sub(self.policy.leeway);
        let mut wide_ended = now.saturating_sub(kept);
        if self.replicating.get().is_some() {
            // Whole bins at a time, so that replicas whose clocks differ hold the same of those that both still hold.
            ended = Bin::of(ended).start();
            wide_ended = ended;
        }
        let (limits, ages) = (self.limits(), self.denylist.ages());
        let over = |entry: &WideEntry, scope: Option<Digest>| {
            let own = limits.age_in(scope).filter(|_| !limits.is_replica);
            end_of(entry, own.into_iter().chain(ages.age_in(scope)).min(), limits.is_replica) < wide_ended
        };
        let forgotten = self.denylist.forget(ended, over);
        self.counters.forgotten.fetch_add(forgotten as u64, Ordering::Relaxed);
        self.counters.forgotten_since_rebuild.fetch_add(forgotten, Ordering::Relaxed);
        forgotten
    }
}

/// When what failed is tried again, by the time since boot.
#[derive(Debug, Default)]
pub(super) struct Retries {
    snapshot: Retry,
    spare: Retry,
}

#[derive(Debug, Default)]
struct Retry {
    at: Duration,
    pause: Duration,
}

impl Retry {
    fn is_due(&self, now: Duration) -> bool {
        now >= self.at
    }

    fn note(&mut self, succeeded: bool, now: Duration) {
        self.pause = if succeeded { Duration::ZERO } else { (self.pause * 2).clamp(PERIOD, RETRY_MAX) };
        self.at = now.saturating_add(self.pause);
    }
}

/// A thread that maintains a store, or reads it along.
#[derive(Debug)]
pub(super) struct Maintainer {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Maintainer {
    /// The thread holds the store only while it works, so that dropping the last clone ends it.
    pub(super) fn start(engine: &Arc<Engine>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(1);
        let engine: Weak<Engine> = Arc::downgrade(engine);
        let thread = thread::Builder::new().name("rescind-maintain".into()).spawn(move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                let Some(engine) = engine.upgrade() else { return };
                engine.maintain();
            }
        })?;
        Ok(Self::new(stop, thread))
    }

    /// A thread that ends once `stop` is gone.
    pub(super) fn new(stop: Sender<()>, thread: JoinHandle<()>) -> Self {
        Self { stop, thread }
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        // If the last clone was dropped while this thread held the store, it is this thread that closes it.
        if self.thread.thread().id() != thread::current().id() {
            self.thread.join().ok();
        }
    }
}
