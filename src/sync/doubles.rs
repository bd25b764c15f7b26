//! The doubles: what the store uses of `parking_lot` and `crossbeam-channel`, on the primitives of shuttle.
#![allow(clippy::expect_used, reason = "a model that fails panics")]

use std::ops::{Deref, DerefMut};

use shuttle::sync::{self, LockResult};

/// No model panics while it holds a lock and goes on.
fn sound<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

/// There is a guard, except while it waits.
pub(crate) struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(sound(self.0.lock())))
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        sound(self.0.get_mut())
    }

    pub(crate) fn into_inner(self) -> T {
        sound(self.0.into_inner())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().expect("it does not wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_deref_mut().expect("it does not wait")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.0 = guard.0.take().map(|held| sound(self.0.wait(held)));
    }

    /// No time passes in a model.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: std::time::Duration) {
        self.wait(guard);
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Condvar, Mutex};

    #[derive(Debug)]
    struct Shared<T> {
        state: Mutex<State<T>>,
        changed: Condvar,
        capacity: usize,
    }

    #[derive(Debug)]
    struct State<T> {
        queue: VecDeque<T>,
        senders: usize,
        receivers: usize,
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Arc<Shared<T>>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(Arc<Shared<T>>);

    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Disconnected;

    #[derive(Debug, PartialEq, Eq)]
    pub(crate) enum RecvTimeoutError {
        /// Never: nobody lets time pass in a model.
        Timeout,
        Disconnected,
    }

    pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let state = Mutex::new(State { queue: VecDeque::new(), senders: 1, receivers: 1 });
        let shared = Arc::new(Shared { state, changed: Condvar::default(), capacity });
        (Sender(Arc::clone(&shared)), Receiver(shared))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, value: T) -> Result<(), Disconnected> {
            let mut state = self.0.state.lock();
            while state.queue.len() >= self.0.capacity && state.receivers > 0 {
                self.0.changed.wait(&mut state);
            }
            self.push(&mut state, value)
        }

        pub(crate) fn try_send(&self, value: T) -> Result<(), Disconnected> {
            let mut state = self.0.state.lock();
            if state.queue.len() >= self.0.capacity { Err(Disconnected) } else { self.push(&mut state, value) }
        }

        fn push(&self, state: &mut State<T>, value: T) -> Result<(), Disconnected> {
            if state.receivers == 0 {
                return Err(Disconnected);
            }
            state.queue.push_back(value);
            self.0.changed.notify_all();
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Result<T, Disconnected> {
            let mut state = self.0.state.lock();
            loop {
                if let Some(value) = state.queue.pop_front() {
                    self.0.changed.notify_all();
                    return Ok(value);
                }
                if state.senders == 0 {
                    return Err(Disconnected);
                }
                self.0.changed.wait(&mut state);
            }
        }

        pub(crate) fn try_recv(&self) -> Result<T, Disconnected> {
            let value = self.0.state.lock().queue.pop_front().ok_or(Disconnected)?;
            self.0.changed.notify_all();
            Ok(value)
        }

        pub(crate) fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
            self.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.0.state.lock().queue.is_empty()
        }

        pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
            std::iter::from_fn(|| self.recv().ok())
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.state.lock().senders += 1;
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.state.lock().senders -= 1;
            self.0.changed.notify_all();
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.0.state.lock().receivers -= 1;
            self.0.changed.notify_all();
        }
    }
}
