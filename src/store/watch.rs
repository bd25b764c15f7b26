//! Live connections: being told when a credential is revoked, instead of asking.
//!
//! Whoever watches is asked about again whenever something was revoked, here or by a peer: one thread for all, and one check
//! for each. That is simple, misses nothing that a check would see, and a hundred thousand watchers take a few
//! milliseconds.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::model::{Cause, Credential, OwnedCredential, Verdict};

use super::{Shared, Store};

/// How often everybody is asked about though nothing was revoked: credentials also die of age.
const PERIOD: Duration = Duration::from_secs(1);

/// Everybody who watches.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    /// Whether there has ever been anybody: asked by every change.
    are_any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    slots: HashMap<u64, Arc<Slot>>,
    /// Wakes the thread, which ends when this is gone.
    wake: Option<Sender<()>>,
}

struct Slot {
    credential: Mutex<OwnedCredential>,
    told: Mutex<Told>,
    arrived: Condvar,
}

#[derive(Default)]
struct Told {
    verdict: Option<Verdict>,
    waker: Option<Waker>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("verdict", &self.told.lock().verdict).finish_non_exhaustive()
    }
}

impl Slot {
    fn tell(&self, verdict: Verdict) {
        let waker = {
            let mut told = self.told.lock();
            told.verdict.get_or_insert(verdict);
            told.waker.take()
        };
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Watchers {
    /// Something was revoked. Nothing waits here, and where nobody watches it is one load.
    pub(super) fn notify(&self) {
        // Whoever watches says so, and then looks; whoever revokes does it, and then looks who watches. One sees the other.
        fence(Ordering::SeqCst);
        if self.are_any.load(Ordering::Relaxed)
            && let Some(wake) = &self.state.lock().wake
        {
            // Whoever has not woken up yet will find this too.
            wake.try_send(()).ok();
        }
    }

    /// The store is closed: nobody will be told any more.
    pub(super) fn close(&self) {
        let slots = {
            let mut state = self.state.lock();
            state.wake = None;
            std::mem::take(&mut state.slots)
        };
        slots.into_values().for_each(|slot| slot.tell(Verdict::Unknown(Cause::Closed)));
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().slots.len()
    }

    /// Asks about everybody.
    fn ask(&self, shared: &Shared) {
        let slots: Vec<(u64, Arc<Slot>)> =
            self.state.lock().slots.iter().map(|(number, slot)| (*number, Arc::clone(slot))).collect();
        for (number, slot) in slots {
            if let Some(verdict) = shared.fatal(&slot) {
                self.state.lock().slots.remove(&number);
                slot.tell(verdict);
            }
        }
    }
}

impl Shared {
    /// What ends a connection, if anything does.
    fn fatal(&self, slot: &Slot) -> Option<Verdict> {
        let credential = slot.credential.lock();
        let mut verdicts = Vec::new();
        // One alone is checked this way so that there is one caller of the other, of which every instruction counts.
        self.check_many(&[credential.borrowed()], &mut verdicts);
        match verdicts.pop() {
            Some(verdict @ Verdict::Revoked(_)) => Some(verdict),
            // Whatever else is wrong with the credential: nobody would be told any more.
            _ if self.is_closed() => Some(Verdict::Unknown(Cause::Closed)),
            _ => None,
        }
    }
}

fn run(shared: &Weak<Shared>, wakes: &Receiver<()>) {
    while let Ok(()) | Err(RecvTimeoutError::Timeout) = wakes.recv_timeout(PERIOD) {
        let Some(shared) = shared.upgrade() else { return };
        shared.watchers.ask(&shared);
    }
}

/// A credential that is watched: a future that gives the verdict once it is revoked. Dropping it ends the watch.
///
/// ```
/// use rescind::{Credential, Revocation, Store, Subject, Verdict};
///
/// let store = Store::in_memory();
/// let connection = store.watch(&Credential::new().user("alice").session("s1"))?;
/// store.revoke(Revocation::of(Subject::session("s1")))?;
/// assert!(matches!(connection.wait(), Verdict::Revoked(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "it does nothing unless it is awaited or waited for"]
pub struct Watch {
    number: u64,
    slot: Arc<Slot>,
    shared: Weak<Shared>,
}

impl Store {
    /// Watches a credential, for a connection that outlives the request by which it was made: a WebSocket, server-sent events,
    /// a stream. What is given is ready once the credential is revoked, within a millisecond or so; or at once, if it is.
    ///
    /// It does not become ready because the store cannot answer for a while: [`Verdict::Unknown`] ends no
    /// connection, but for [`Cause::Closed`], after which nothing more would be told.
    ///
    /// Leave the token out where tokens are rotated: a rotation revokes the old token, and the connection is of the session.
    /// [`Watch::replace`] takes the claims of a new one, so that an epoch that asks for a fresh token does not end it.
    ///
    /// The first watch starts a thread.
    ///
    /// # Errors
    /// When that cannot be started.
    pub fn watch(&self, credential: &Credential<'_>) -> Result<Watch, std::io::Error> {
        let shared = &self.shared;
        let slot = Arc::new(Slot {
            credential: Mutex::new(OwnedCredential::of(credential)),
            told: Mutex::default(),
            arrived: Condvar::new(),
        });
        let number = {
            let mut state = shared.watchers.state.lock();
            if state.wake.is_none() && !shared.is_closed() {
                let (wake, wakes) = bounded(1);
                let weak = Arc::downgrade(shared);
                std::thread::Builder::new().name("rescind-watch".to_owned()).spawn(move || run(&weak, &wakes))?;
                state.wake = Some(wake);
            }
            state.last += 1;
            let number = state.last;
            state.slots.insert(number, Arc::clone(&slot));
            shared.watchers.are_any.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            number
        };
        let watch = Watch { number, slot, shared: Arc::downgrade(shared) };
        watch.look();
        Ok(watch)
    }
}

impl Watch {
    /// Asks at once: what was revoked before it was known that somebody watches has woken nobody.
    fn look(&self) {
        if let Some(shared) = self.shared.upgrade()
            && let Some(verdict) = shared.fatal(&self.slot)
        {
            shared.watchers.state.lock().slots.remove(&self.number);
            self.slot.tell(verdict);
        }
    }

    /// Watches another credential from here on: that of a rotated token, say. What has been told stays told.
    pub fn replace(&self, credential: &Credential<'_>) {
        *self.slot.credential.lock() = OwnedCredential::of(credential);
        self.look();
    }

    /// The verdict, if there is one yet.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.slot.told.lock().verdict
    }

    /// Blocks until the credential is revoked.
    pub fn wait(self) -> Verdict {
        let mut told = self.slot.told.lock();
        loop {
            if let Some(verdict) = &told.verdict {
                return *verdict;
            }
            self.slot.arrived.wait(&mut told);
        }
    }
}

impl Future for Watch {
    type Output = Verdict;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Verdict> {
        let mut told = self.slot.told.lock();
        if let Some(verdict) = &told.verdict {
            return Poll::Ready(*verdict);
        }
        match &mut told.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => told.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.watchers.state.lock().slots.remove(&self.number);
        }
    }
}
