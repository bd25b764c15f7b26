//! The thread that writes the log: it takes what has been submitted, commits it as one batch, and acknowledges.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::audit::{AuditRecord, Outcome};
use crate::journal::{AppendError, FileError, Journal, PAYLOAD_BYTES_MAX, Position, RecoveryError};
use crate::model::{Entry, Identity, Item, Timestamp};
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::thread::{self, JoinHandle};

use super::auditing::AuditQueue;
use super::receipt::{Duty, committer_panicked};
use super::{Acknowledgement, Durability, Pending, Receipt, Shared, Time, WriteError, events};

/// How many commits may wait; then writers wait.
const QUEUE_MAX: usize = 4096;
/// A group is committed when its payload has this length, even if more is waiting.
const GROUP_BYTES: usize = 1024 * 1024;
/// How often `MARK` is written where nothing is committed: it tells the time, too.
const MARK_PERIOD: Duration = Duration::from_secs(60);

/// One submission.
#[derive(Debug)]
pub(super) struct Commit {
    /// Encoded records.
    pub(super) payload: Vec<u8>,
    /// What may take effect only once it is logged: enablings and lifts.
    pub(super) undo: Vec<Item>,
    /// Epochs with their times, for subjects that are denied outright until the commit has been tried.
    pub(super) settle: Vec<Item>,
    /// Which subjects are denied outright until then, by the number of their mark.
    pub(super) held: Vec<(Identity, Timestamp)>,
    /// How many denials, which have taken effect.
    pub(super) denials: usize,
    /// How many entries change.
    pub(super) changed: usize,
    /// How many epochs wait for their time.
    pub(super) pending: usize,
    /// By how much an epoch lies beyond borne-out time.
    pub(super) beyond: Option<Duration>,
    pub(super) audits: Vec<AuditRecord>,
    duty: Duty,
    /// Whether it was submitted here, and not by a peer.
    is_own: bool,
}

impl Commit {
    /// A commit of nothing yet, and its acknowledgement to come.
    pub(super) fn new(is_own: bool) -> (Self, Pending) {
        let (duty, pending) = Duty::new();
        let commit = Self {
            payload: Vec::new(),
            undo: Vec::new(),
            settle: Vec::new(),
            held: Vec::new(),
            denials: 0,
            changed: 0,
            pending: 0,
            beyond: None,
            audits: Vec::new(),
            duty,
            is_own,
        };
        (commit, pending)
    }

    /// Notes which epochs of an entry wait for their time, and how far one lies beyond borne-out time.
    pub(super) fn note_epochs(&mut self, entry: &Entry, time: &Time) {
        if let Entry::Wide(entry) = entry {
            for mark in entry.reauthenticate.iter().chain(entry.reissue.iter()) {
                self.pending += usize::from(mark.is_pending());
                if mark.issuer.is_none() {
                    self.beyond = self.beyond.max(time.beyond(mark.epoch));
                }
            }
        }
    }

    /// Tells whoever waits, and the sinks. What was to take effect has done so.
    pub(super) fn acknowledge(self, result: &Result<Acknowledgement, Arc<FileError>>, audit: Option<&AuditQueue>) {
        let Self { changed, pending, beyond, audits, duty, .. } = self;
        if let Some(audit) = audit {
            for mut record in audits {
                // What changed nothing says so already.
                if record.outcome != Outcome::Unchanged {
                    record.outcome = outcome(result);
                }
                audit.push(record);
            }
        }
        let receipt = |acknowledgement| Receipt { acknowledgement, changed, pending, beyond_borne_out: beyond };
        duty.acknowledge(result.clone().map(receipt).map_err(WriteError::NotDurable));
    }
}

#[derive(Debug)]
pub(super) enum Message {
    Commit(Commit),
    /// Sync everything sent before, and say where the log is then.
    Sync(Sender<Result<Position, Arc<FileError>>>),
    /// Go on after a failed write, if there was one.
    Heal(Sender<Result<(), RecoveryError>>),
    /// Commit a batch without records.
    Nothing(Sender<Result<(), Arc<FileError>>>),
    /// Say in `MARK` how far the log is on disk.
    Mark(Sender<()>),
    Close,
}

/// The way to the committer.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) sender: Sender<Message>,
    pub(super) thread: JoinHandle<Result<(), Arc<FileError>>>,
}

impl Committer {
    pub(super) fn start(
        journal: Journal,
        durability: Durability,
        shared: Arc<Shared>,
        audit: Option<AuditQueue>,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = bounded(QUEUE_MAX);
        let run = Run { journal, durability, shared, audit, marked: None };
        let thread = thread::Builder::new().name("rescind-commit".into()).spawn(move || {
            catch_unwind(AssertUnwindSafe(|| run.run(&receiver))).unwrap_or_else(|_| {
                // Nothing more is written. A commit is answered when it is dropped, and the channel alone drops nothing
                // while there are senders.
                receiver.iter().take_while(|message| !matches!(message, Message::Close)).for_each(drop);
                Err(Arc::new(committer_panicked()))
            })
        })?;
        Ok(Self { sender, thread })
    }
}

struct Run {
    journal: Journal,
    durability: Durability,
    shared: Arc<Shared>,
    audit: Option<AuditQueue>,
    /// The batch that `MARK` names, and the time since boot at which that was said.
    marked: Option<(u64, Duration)>,
}

/// What the committer is woken for.
enum Wake {
    Message(Message),
    /// The interval has passed after which everything is to be on disk.
    Sync,
    /// Nobody can send any more.
    End,
}

/// The ticks at which everything is to be on disk, where there are any.
#[cfg(not(all(test, shuttle)))]
struct Syncs(crossbeam_channel::Receiver<std::time::Instant>);

#[cfg(not(all(test, shuttle)))]
impl Syncs {
    fn of(durability: Durability) -> Self {
        Self(match durability {
            Durability::Interval(interval) => crossbeam_channel::tick(interval),
            Durability::Sync | Durability::Memory => crossbeam_channel::never(),
        })
    }

    fn or_message(&mut self, messages: &Receiver<Message>) -> Wake {
        crossbeam_channel::select! {
            recv(messages) -> message => message.map_or(Wake::End, Wake::Message),
            recv(self.0) -> _ => Wake::Sync,
        }
    }
}

/// In a model no time passes: at some messages it is time to sync.
#[cfg(all(test, shuttle))]
struct Syncs(bool);

#[cfg(all(test, shuttle))]
impl Syncs {
    fn of(durability: Durability) -> Self {
        Self(matches!(durability, Durability::Interval(_)))
    }

    fn or_message(&mut self, messages: &Receiver<Message>) -> Wake {
        use shuttle::rand::Rng;
        if self.0 && shuttle::rand::thread_rng().gen_ratio(1, 4) {
            return Wake::Sync;
        }
        messages.recv().map_or(Wake::End, Wake::Message)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() && self.poison().is_none() {
            self.set_poison(committer_panicked());
        }
    }
}

impl Run {
    fn run(mut self, messages: &Receiver<Message>) -> Result<(), Arc<FileError>> {
        let mut syncs = Syncs::of(self.durability);
        let mut next = None;
        loop {
            let message = match next.take() {
                Some(message) => message,
                None => match syncs.or_message(messages) {
                    Wake::Message(message) => message,
                    Wake::Sync => {
                        // The error is kept as poison, and told to the next writer.
                        self.sync().ok();
                        continue;
                    }
                    Wake::End => return self.close(),
                },
            };
            match message {
                Message::Commit(first) => next = self.commit_group(first, messages),
                Message::Sync(reply) => {
                    // Whoever asked may have gone.
                    reply.send(self.sync()).ok();
                }
                Message::Heal(reply) => {
                    reply.send(self.heal()).ok();
                }
                Message::Nothing(reply) => {
                    reply.send(self.commit(&[]).map(drop)).ok();
                }
                Message::Mark(reply) => {
                    self.mark();
                    reply.send(()).ok();
                }
                Message::Close => return self.close(),
            }
        }
    }

    /// Commits one submission together with those that wait behind it, and gives back the message that ended the group.
    fn commit_group(&mut self, first: Commit, messages: &Receiver<Message>) -> Option<Message> {
        let mut payload = Vec::new();
        let mut group = Vec::new();
        let mut next = Some(Message::Commit(first));
        loop {
            match next {
                Some(Message::Commit(mut commit)) if payload.len() + commit.payload.len() <= PAYLOAD_BYTES_MAX => {
                    if payload.is_empty() {
                        payload = std::mem::take(&mut commit.payload);
                    } else {
                        payload.append(&mut commit.payload);
                    }
                    group.push(commit);
                }
                other => {
                    next = other;
                    break;
                }
            }
            next = if payload.len() < GROUP_BYTES { messages.try_recv().ok() } else { None };
        }
        let result = self.commit(&payload);
        if let Err(error) = &result {
            let denials: usize = group.iter().map(|commit| commit.denials).sum();
            *self.shared.counters.refusal.lock() = Some(Arc::clone(error));
            self.shared.counters.refused.fetch_add(denials as u64, Ordering::Relaxed);
            events::refused(error, denials);
        }
        for commit in group {
            self.acknowledge(commit, &result);
        }
        next
    }

    fn commit(&mut self, payload: &[u8]) -> Result<Acknowledgement, Arc<FileError>> {
        if let Some(poison) = self.poison() {
            return Err(poison);
        }
        let before = self.journal.bytes_written();
        match self.journal.append(payload, self.shared.reading_for_disk()) {
            Ok(_) => {}
            Err(AppendError::NotWritten(error)) => return Err(Arc::new(error)),
            Err(AppendError::Poisoned(error)) => return Err(self.set_poison(error)),
        }
        self.shared.counters.log_bytes.fetch_add(self.journal.bytes_written() - before, Ordering::Relaxed);
        self.shared.counters.batches.fetch_add(1, Ordering::Relaxed);
        if self.durability == Durability::Sync {
            self.sync()?;
        }
        Ok(self.durability.acknowledgement())
    }

    fn acknowledge(&self, mut commit: Commit, result: &Result<Acknowledgement, Arc<FileError>>) {
        if !commit.settle.is_empty() {
            self.shared.join(std::mem::take(&mut commit.settle));
        }
        self.shared.release(&commit.held);
        if result.is_ok() && !commit.undo.is_empty() {
            self.shared.join(commit.undo.iter().cloned());
            if commit.is_own {
                self.shared.publish(commit.undo.iter());
            }
        }
        commit.acknowledge(result, self.audit.as_ref());
    }

    fn sync(&mut self) -> Result<Position, Arc<FileError>> {
        if let Some(poison) = self.poison() {
            return Err(poison);
        }
        self.journal.sync().map_err(|error| self.set_poison(error))
    }

    /// Goes on after a failed write. What is in memory only is the snapshot's to save.
    fn heal(&mut self) -> Result<(), RecoveryError> {
        if self.poison().is_some() {
            let only_synced = self.durability == Durability::Sync;
            self.journal.heal(only_synced, self.shared.reading_for_disk())?;
            *self.shared.counters.poison.lock() = None;
        }
        Ok(())
    }

    /// Marks how far the log is on disk, where there is news. Nothing is lost if it cannot be said.
    fn mark(&mut self) {
        let now = (self.journal.synced_batch(), self.shared.clock.boot());
        let is_news = self.marked.is_none_or(|(batch, at)| now.0 != batch || now.1 >= at.saturating_add(MARK_PERIOD));
        if is_news && self.poison().is_none() && self.journal.mark(self.shared.reading_for_disk()).is_ok() {
            self.marked = Some(now);
        }
    }

    fn close(mut self) -> Result<(), Arc<FileError>> {
        self.sync()?;
        self.journal.mark_durably(self.shared.reading_for_disk()).ok();
        Ok(())
    }

    fn poison(&self) -> Option<Arc<FileError>> {
        self.shared.counters.poison.lock().clone()
    }

    fn set_poison(&self, error: FileError) -> Arc<FileError> {
        let error = Arc::new(error);
        *self.shared.counters.poison.lock() = Some(Arc::clone(&error));
        error
    }
}

fn outcome(result: &Result<Acknowledgement, Arc<FileError>>) -> Outcome {
    match result {
        Ok(Acknowledgement::Durable) => Outcome::Durable,
        Ok(Acknowledgement::Accepted) => Outcome::Accepted,
        Ok(Acknowledgement::Memory) => Outcome::Memory,
        Err(error) => Outcome::Failed { error: error.to_string() },
    }
}
