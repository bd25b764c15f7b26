//! The thread that every engine has: it drives the replica, so that whatever waits for the disk waits there, and not
//! where messages are read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select, tick};

use crate::{Link, NodeId};

use super::{Counters, WireError};

/// How often the replica does what is due.
const TICK: Duration = Duration::from_millis(50);
/// How many messages may wait to be taken in.
const INBOUND_MAX: usize = 64;
/// How many are taken in, at most, before something is sent.
const TAKEN_AT_ONCE: usize = 64;

/// What an engine tells its driver.
pub(super) enum Inbound {
    /// A message has arrived.
    Message {
        /// Who sent it, as far as the engine can know.
        from: NodeId,
        bytes: Vec<u8>,
    },
    /// These are the peers that are reached, in place of those before.
    Peers(BTreeSet<NodeId>),
    /// There is room again for what is to be sent.
    Room,
}

/// Where an engine takes what is to be sent.
pub(super) trait Outlet: Send + 'static {
    /// Whether a message to a peer would be taken now. What is not taken waits in the replica, whose queues are bounded.
    fn takes(&mut self, to: NodeId) -> bool;

    fn send(&mut self, to: NodeId, bytes: Arc<[u8]>);

    /// Whether a message to everybody would be taken now; never by an engine that is no bus.
    fn takes_broadcast(&mut self) -> bool {
        false
    }

    fn broadcast(&mut self, _bytes: Arc<[u8]>) {}
}

/// Starts a driver, which ends when every sender is gone.
pub(super) fn start(
    name: &str,
    link: Link,
    outlet: impl Outlet,
    counters: Arc<Counters>,
) -> Result<(Sender<Inbound>, JoinHandle<()>), WireError> {
    let (sender, inbound) = bounded(INBOUND_MAX);
    let driver = Driver { link, outlet, peers: BTreeSet::new(), counters };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || driver.run(&inbound));
    Ok((sender, thread.map_err(|error| WireError::Thread(Arc::new(error)))?))
}

struct Driver<O> {
    link: Link,
    outlet: O,
    peers: BTreeSet<NodeId>,
    counters: Arc<Counters>,
}

impl<O: Outlet> Driver<O> {
    fn run(mut self, inbound: &Receiver<Inbound>) {
        let wakes = self.link.replica().subscribe();
        let ticks = tick(TICK);
        loop {
            select! {
                recv(inbound) -> first => match first {
                    Ok(first) => {
                        self.take(first);
                        inbound.try_iter().take(TAKEN_AT_ONCE).for_each(|next| self.take(next));
                    }
                    Err(_) => return,
                },
                recv(wakes) -> _ => {}
                recv(ticks) -> _ => self.link.replica().tick(),
            }
            self.send();
        }
    }

    fn take(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Message { from, bytes } => {
                self.counters.add(&self.counters.messages_in, 1);
                self.counters.add(&self.counters.bytes_in, bytes.len() as u64);
                if !self.peers.contains(&from) {
                    // Whoever joins may send before it is known to have joined.
                    self.counters.add(&self.counters.dropped, 1);
                } else if let Err(rejected) = self.link.replica().receive(from, &bytes) {
                    self.counters.add(&self.counters.rejected, 1);
                    self.counters.failed(rejected);
                }
            }
            Inbound::Peers(peers) => {
                self.counters.peers.store(peers.len(), Ordering::Relaxed);
                self.link.set_peers(peers.iter().copied());
                self.peers = peers;
                // Whoever is new hears at once.
                self.link.replica().tick();
            }
            Inbound::Room => {}
        }
    }

    fn send(&mut self) {
        let sent = |bytes: &[u8]| {
            self.counters.add(&self.counters.messages_out, 1);
            self.counters.add(&self.counters.bytes_out, bytes.len() as u64);
        };
        while self.outlet.takes_broadcast()
            && let Some(bytes) = self.link.poll_broadcast()
        {
            sent(&bytes);
            self.outlet.broadcast(bytes);
        }
        for peer in &self.peers {
            while self.outlet.takes(*peer)
                && let Some(message) = self.link.replica().poll_transmit_to(*peer)
            {
                sent(&message.bytes);
                self.outlet.send(*peer, message.bytes);
            }
        }
    }
}
