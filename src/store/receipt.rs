//! The answer to a write: at once, later, or as a future.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::journal::FileError;
use crate::sync::{Condvar, Mutex};

use super::WriteError;

/// What has been acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Acknowledgement {
    /// It is on disk.
    Durable,
    /// It is with the operating system, which syncs it within the configured interval.
    Accepted,
    /// It is in memory, or with an operating system that is not told to sync.
    Memory,
}

/// A change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Receipt {
    /// What has been acknowledged.
    pub acknowledgement: Acknowledgement,
    /// How many of the commands changed anything. An `enable` of what is not disabled, or a `lift` of what is not
    /// revoked, changes nothing: tell the person who asked.
    pub changed: usize,
    /// How many epochs wait for their time, because the clock is in doubt: their subjects are denied outright until that is
    /// settled. Zero while all is well.
    pub pending: usize,
    /// By how much an epoch lies beyond what the boot clock bears out, if that is more than the allowed skew: a clock that has
    /// jumped ahead locks people out until then. [`Store::restate_epochs`](crate::Store::restate_epochs) mends it.
    pub beyond_borne_out: Option<Duration>,
}

impl Receipt {
    /// Whether anything changed.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed > 0
    }
}

/// A change that has been submitted: a `Future`, and something to wait on.
///
/// A revocation denies from the moment that it was submitted; what is pending is its acknowledgement. Dropping this
/// takes nothing back.
#[derive(Debug)]
#[must_use = "wait for it, or await it: until then the change is not acknowledged"]
pub struct Pending(Arc<Completion>);

/// An answer that is settled, and counts once what it rests on is acknowledged: a `Future`, and something to wait on.
///
/// What it rests on denies from the moment it was asked for; dropping this takes nothing back.
#[derive(Debug)]
#[must_use = "wait for it, or await it: until then the answer does not count"]
pub struct PendingAnswer<T> {
    answer: T,
    /// None where it rests on nothing new.
    pending: Option<Pending>,
}

impl<T> PendingAnswer<T> {
    pub(super) fn new(answer: T, pending: Option<Pending>) -> Self {
        Self { answer, pending }
    }

    /// Blocks until the answer counts.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn wait(self) -> Result<T, WriteError> {
        if let Some(pending) = self.pending {
            pending.wait()?;
        }
        Ok(self.answer)
    }
}

impl<T: Clone + Unpin> Future for PendingAnswer<T> {
    type Output = Result<T, WriteError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let acknowledged = match &mut this.pending {
            Some(pending) => std::task::ready!(Pin::new(pending).poll(context)).map(drop),
            None => Ok(()),
        };
        Poll::Ready(acknowledged.map(|()| this.answer.clone()))
    }
}

/// The duty to acknowledge: whoever drops it without a word (a thread that panicked) says that nothing is durable.
#[derive(Debug)]
pub(super) struct Duty(Option<Arc<Completion>>);

impl Duty {
    pub(super) fn new() -> (Self, Pending) {
        let completion = Arc::new(Completion::default());
        (Self(Some(Arc::clone(&completion))), Pending(completion))
    }

    pub(super) fn acknowledge(mut self, result: Result<Receipt, WriteError>) {
        if let Some(completion) = self.0.take() {
            completion.complete(result);
        }
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if let Some(completion) = self.0.take() {
            completion.complete(Err(WriteError::NotDurable(Arc::new(committer_panicked()))));
        }
    }
}

/// Where the acknowledgement arrives.
#[derive(Debug, Default)]
struct Completion {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    result: Option<Result<Receipt, WriteError>>,
    waker: Option<Waker>,
}

impl Completion {
    fn complete(&self, result: Result<Receipt, WriteError>) {
        let waker = {
            let mut state = self.state.lock();
            state.result = Some(result);
            state.waker.take()
        };
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Why nothing more is written once the committer has panicked.
pub(super) fn committer_panicked() -> FileError {
    FileError::of("write to", "the log")(io::Error::other("the thread that writes it has panicked"))
}

impl Pending {
    /// Blocks until the change is acknowledged.
    ///
    /// # Errors
    /// [`WriteError::NotDurable`] or [`WriteError::Closed`]; see there for what is in memory.
    pub fn wait(self) -> Result<Receipt, WriteError> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(result) = &state.result {
                return result.clone();
            }
            self.0.arrived.wait(&mut state);
        }
    }
}

impl Future for Pending {
    type Output = Result<Receipt, WriteError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => state.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}
