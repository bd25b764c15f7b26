//! Locks, channels and threads: those of the system; or, where the store is model-checked, doubles of them, of which a
//! scheduler decides who goes on next (`RUSTFLAGS="--cfg shuttle"`, see `store/models.rs`).
//!
//! Locks under which nothing of these is used need no double: nobody is stopped while holding one.

#[cfg(not(all(test, shuttle)))]
pub(crate) use parking_lot::{Condvar, Mutex};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::thread;

/// Channels.
#[cfg(not(all(test, shuttle)))]
pub(crate) mod channel {
    pub(crate) use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
}

#[cfg(all(test, shuttle))]
mod doubles;
#[cfg(all(test, shuttle))]
pub(crate) use doubles::{Condvar, Mutex, channel};
#[cfg(all(test, shuttle))]
pub(crate) use shuttle::thread;
