//! Engines that carry the messages of replicas, each behind a feature: gossip among the replicas themselves, Redis Streams, NATS
//! JetStream.
//!
//! All are started alike, and what they give is the same [`Wire`]: to switch is to change one line, and two may serve one
//! replica side by side.
#![cfg_attr(
    feature = "redis",
    doc = r#"
```no_run
use rescind::wire::{Engine, redis::Redis};
use rescind::{Key, NodeId, Options, Replication};

# let key = Key::generate()?;
let store = Options::new().key(key).open("revocations")?;
let (one, two) = (NodeId::named("one"), NodeId::named("two"));
let replica = store.replicate(Replication::trusting_issuers("acme", one, [one, two]))?;

let wire = Redis::new("rediss://:password@redis.internal").start(&replica)?;
# Ok::<(), Box<dyn std::error::Error>>(())
```
"#
)]
//!
//! An engine owns its threads (and its runtime, where it needs one): nothing else of the library is async, and the program
//! that links it need not be. What it does, fails at and gives up is told by [`Wire::stats`]; nothing is printed. Whatever
//! it loses, the protocol repairs, and whatever it cannot reach makes the replica stale rather than wrong.

mod backoff;
mod driver;
#[cfg(feature = "gossip")]
pub mod gossip;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "redis")]
pub mod redis;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::Replica;

/// A way to carry the messages of a replica.
pub trait Engine {
    /// Starts it, on threads of its own. Peers are found, and found again, from here on.
    ///
    /// # Errors
    /// See [`WireError`]. Nothing has been started then.
    fn start(self, replica: &Replica) -> Result<Wire, WireError>;
}

/// An engine could not be started. Nothing has been.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The options make no sense, or do not fit the replica.
    #[error("{0}")]
    Options(String),
    /// A certificate, key or authority is not usable.
    #[error("{what}: {why}")]
    Credentials {
        /// Which.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(Arc<std::io::Error>),
}

/// An engine that runs. It stops when this is dropped.
pub struct Wire {
    counters: Arc<Counters>,
    address: Option<SocketAddr>,
    stop: Option<Box<dyn FnOnce() + Send + Sync>>,
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    fn new(
        counters: Arc<Counters>,
        address: Option<SocketAddr>,
        stop: impl FnOnce() + Send + Sync + 'static,
        threads: Vec<JoinHandle<()>>,
    ) -> Self {
        Self { counters, address, stop: Some(Box::new(stop)), threads }
    }

    /// Figures for an operator.
    #[must_use]
    pub fn stats(&self) -> WireStats {
        self.counters.read()
    }

    /// Where it listens; none if it does not.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Stops it: peers that it can still reach are told, and its threads end. The replica goes on, and is stale in time if
    /// nothing else serves it.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
        for thread in self.threads.drain(..) {
            // What it panicked with was printed by the panic hook.
            thread.join().ok();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("address", &self.address).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// How an engine is doing. Counts are since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WireStats {
    /// Whether it is connected: to its broker, or to at least one peer.
    pub connected: bool,
    /// How many peers it reaches.
    pub peers: usize,
    /// Messages that arrived.
    pub messages_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Messages that were sent. A broadcast counts once.
    pub messages_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Messages that the replica refused: see [`Rejected`](crate::Rejected). Alarm on any.
    pub rejected: u64,
    /// Messages that were given up: there was no room or no connection, or they came from somebody who is no peer, or not
    /// yet. What they said is repaired.
    pub dropped: u64,
    /// How often a connection was made, the first included.
    pub connects: u64,
    /// Connections that were refused: a foreign or no certificate, another cluster or version. Alarm on any.
    pub refused: u64,
    /// How often the history of a broker was found to lack something that had not been read. It is then repaired from peers.
    pub gaps: u64,
    /// How often a broker was found to have lost its data, or to be another. What was published lately is then published
    /// again.
    pub resets: u64,
    /// The last thing that went wrong, in words; it may be over.
    pub last_error: Option<String>,
}

/// What an engine counts.
#[derive(Debug, Default)]
struct Counters {
    connected: AtomicBool,
    peers: AtomicUsize,
    messages_in: AtomicU64,
    bytes_in: AtomicU64,
    messages_out: AtomicU64,
    bytes_out: AtomicU64,
    rejected: AtomicU64,
    dropped: AtomicU64,
    connects: AtomicU64,
    refused: AtomicU64,
    gaps: AtomicU64,
    resets: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Counters {
    fn add(&self, count: &AtomicU64, by: u64) {
        count.fetch_add(by, Ordering::Relaxed);
    }

    fn failed(&self, error: impl fmt::Display) {
        *self.last_error.lock() = Some(error.to_string());
    }

    fn read(&self) -> WireStats {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        WireStats {
            connected: self.connected.load(Ordering::Relaxed),
            peers: self.peers.load(Ordering::Relaxed),
            messages_in: of(&self.messages_in),
            bytes_in: of(&self.bytes_in),
            messages_out: of(&self.messages_out),
            bytes_out: of(&self.bytes_out),
            rejected: of(&self.rejected),
            dropped: of(&self.dropped),
            connects: of(&self.connects),
            refused: of(&self.refused),
            gaps: of(&self.gaps),
            resets: of(&self.resets),
            last_error: self.last_error.lock().clone(),
        }
    }
}
