//! Several transports of one replica, each with the peers that it reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::replication::{NodeId, Protocol};

use super::Replica;

/// What one transport of a replica carries, beside others.
///
/// The peers of a replica are those of all its links. A message for one of them goes by whichever link asks for it first.
/// Dropping the link takes its peers away.
///
/// A transport either reaches each peer by itself, and then [`poll_transmit_to`](Replica::poll_transmit_to) gives it
/// everything; or it is a *bus*, which hands to everybody what it is given once: then news come from
/// [`poll_broadcast`](Self::poll_broadcast), and only the rest is addressed.
#[derive(Debug)]
pub struct Link {
    replica: Replica,
    number: u64,
}

/// The peers of each link.
#[derive(Debug, Default)]
pub(super) struct Links {
    last: u64,
    peers: BTreeMap<u64, Reached>,
}

#[derive(Debug)]
struct Reached {
    is_bus: bool,
    peers: BTreeSet<NodeId>,
}

impl Links {
    /// The number of those that are set at the replica itself.
    pub(super) const OWN: u64 = 0;

    /// Says who the peers of a link are, and tells the protocol.
    pub(super) fn set(&mut self, number: u64, peers: impl IntoIterator<Item = NodeId>, protocol: &mut Protocol) {
        let of_link = self.peers.entry(number).or_insert_with(|| Reached { is_bus: false, peers: BTreeSet::new() });
        of_link.peers = peers.into_iter().collect();
        self.tell(protocol);
    }

    fn tell(&self, protocol: &mut Protocol) {
        let of = |is_bus: bool| self.peers.values().filter(move |link| link.is_bus == is_bus);
        let direct: BTreeSet<NodeId> = of(false).flat_map(|link| link.peers.iter().copied()).collect();
        let by_bus = of(true).flat_map(|link| link.peers.iter().copied());
        protocol.set_peers(direct.iter().copied(), by_bus);
    }
}

impl Replica {
    /// A link for a transport that reaches each peer by itself.
    #[must_use = "its peers are gone when it is dropped"]
    pub fn link(&self) -> Link {
        self.new_link(false)
    }

    /// A link for a transport that hands to all peers what it is given once.
    #[must_use = "its peers are gone when it is dropped"]
    pub fn bus(&self) -> Link {
        self.new_link(true)
    }

    fn new_link(&self, is_bus: bool) -> Link {
        let mut links = self.state().links.lock();
        links.last += 1;
        let number = links.last;
        links.peers.insert(number, Reached { is_bus, peers: BTreeSet::new() });
        if is_bus {
            self.with(|protocol, _, _| protocol.open_bus(number));
        }
        Link { replica: self.clone(), number }
    }
}

impl Link {
    /// The replica.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Says whom this transport reaches, in place of those before.
    pub fn set_peers(&self, peers: impl IntoIterator<Item = NodeId>) {
        let mut links = self.replica.state().links.lock();
        let peers: Vec<NodeId> = peers.into_iter().collect();
        self.replica.with(|protocol, _, _| {
            links.set(self.number, peers, protocol);
            self.replica.state().forget_strangers(protocol);
        });
    }

    /// The next message for everybody; none for now, and never one of a link that is no bus.
    ///
    /// News that are lost are repaired from what replicas hold, but later.
    #[must_use]
    pub fn poll_broadcast(&self) -> Option<Arc<[u8]>> {
        self.replica.with(|protocol, _, _| protocol.poll_broadcast(self.number))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut links = self.replica.state().links.lock();
        links.peers.remove(&self.number);
        self.replica.with(|protocol, _, _| {
            protocol.close_bus(self.number);
            links.tell(protocol);
        });
    }
}
