//! The replication protocol: a state machine without threads, clocks or sockets. Messages go in and come out as bytes,
//! time is an argument.
//!
//! What was revoked travels in *deltas*, numbered by whoever issued them. What is missed is repaired from the content
//! itself: replicas compare keyed sums of all they hold, from the root of a tree down to what differs. *Freshness* follows
//! from both: a replica is fresh while it is known to hold all that the configured issuers had issued a moment ago.

mod limits;
mod message;
mod origins;
mod protocol;
mod queue;

use std::fmt;
use std::time::Duration;

pub(crate) use limits::{Bounds, Refused, is_crowded};
pub(crate) use message::{Line, STAMPS_MAX, Stamps, Told};
pub use protocol::Freshness;
pub(crate) use protocol::{Content, Hearsay, Merged, Protocol};
pub use queue::Transmit;

/// The name of a replica: 16 bytes, different for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id of a replica with a name: its hash.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(hash("rescind 2026-11 node", name))
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The name of a cluster: replicas of different clusters refuse each other's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterId([u8; 16]);

impl ClusterId {
    /// The id of a cluster with a name: its hash.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(hash("rescind 2026-11 cluster", name))
    }

    #[cfg(test)]
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

fn hash(context: &str, name: &str) -> [u8; 16] {
    let mut hash = [0; 16];
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(name.as_bytes());
    hasher.finalize_xof().fill(&mut hash);
    hash
}

/// Why a message was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// It is of another cluster.
    #[error("a message of another cluster: check the cluster's name on both sides")]
    OtherCluster,
    /// Its identities were made with another key, so that they say nothing here.
    #[error("a message of a store with another key: replicas share one key, see Options::key")]
    OtherKey,
    /// It is of a version that this release does not know.
    #[error("a message of version {version}, which this release does not know: update it")]
    Version {
        /// The version.
        version: u8,
    },
    /// It is longer than any message.
    #[error("a message of {bytes} bytes, longer than any")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It is no message, or one that no replica sends.
    #[error("not a message: {0}")]
    Malformed(String),
    /// It comes from a replica that is not among the peers.
    #[error("a message from {from}, who is not among the peers")]
    Stranger {
        /// Who sent it.
        from: NodeId,
    },
}

/// What makes a replica fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// To hold all that these replicas had issued a moment ago.
    Issuers(Vec<NodeId>),
    /// To have held, a moment ago, just what so many of these replicas held.
    Anchors { agreeing: usize, anchors: Vec<NodeId> },
    /// Nothing: it answers whatever it has missed.
    Nothing,
}

/// How a store takes part in a cluster. Setters may be chained; see [`Store::replicate`](crate::Store::replicate).
#[derive(Clone, Debug)]
#[must_use]
pub struct Replication {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) trust: Trust,
    pub(crate) stale_after: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) fanout: usize,
    pub(crate) max_retention: Option<Duration>,
    pub(crate) canary: Option<Duration>,
}

impl Replication {
    /// A replica in the cluster with a name, which trusts these replicas to issue revocations: it is fresh while it is
    /// known to hold all that each of them had issued a moment ago. It may be among them itself.
    ///
    /// Name all that may issue. A replica that is not named may revoke all the same, and is heard, but nobody waits for it.
    pub fn trusting_issuers(cluster: &str, node: NodeId, issuers: impl IntoIterator<Item = NodeId>) -> Self {
        Self::new(cluster, node, Trust::Issuers(issuers.into_iter().collect()))
    }

    /// A replica that is fresh while it holds just what `agreeing` of these anchors hold: where anyone may issue, and
    /// little is revoked at a time.
    pub fn agreeing_with(
        cluster: &str,
        node: NodeId,
        agreeing: usize,
        anchors: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        Self::new(cluster, node, Trust::Anchors { agreeing, anchors: anchors.into_iter().collect() })
    }

    /// A replica that answers whatever it may have missed: [`Clear`](crate::Verdict::Clear) then says no more than "not
    /// that I know of".
    pub fn answering_when_stale(cluster: &str, node: NodeId) -> Self {
        Self::new(cluster, node, Trust::Nothing)
    }

    fn new(cluster: &str, node: NodeId, trust: Trust) -> Self {
        Self {
            cluster: ClusterId::named(cluster),
            node,
            trust,
            stale_after: Duration::from_secs(10),
            heartbeat: Duration::from_secs(1),
            fanout: 6,
            max_retention: None,
            canary: None,
        }
    }

    /// How often a [canary](crate::Replica::start_canary) is sent out. Default: never.
    pub fn canary(mut self, period: Duration) -> Self {
        self.canary = Some(period);
        self
    }

    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        match &self.trust {
            Trust::Issuers(issuers) if issuers.is_empty() => {
                return Err(
                    "no issuers: name who may revoke, or answer when stale by Replication::answering_when_stale",
                );
            }
            Trust::Anchors { agreeing, anchors } if *agreeing == 0 || *agreeing > anchors.len() => {
                return Err("so many anchors cannot agree: name at least as many as must, and one");
            }
            _ => {}
        }
        if self.stale_after < self.heartbeat * 2 {
            return Err("a replica would be stale between two heartbeats: let stale_after be twice as long at least");
        }
        Ok(())
    }

    /// After how long without news a replica is stale. Default: 10 seconds.
    pub fn stale_after(mut self, age: Duration) -> Self {
        self.stale_after = age;
        self
    }

    /// How often replicas tell each other where they are. Default: 1 second.
    pub fn heartbeat(mut self, period: Duration) -> Self {
        self.heartbeat = period.max(Duration::from_millis(10));
        self
    }

    /// To how many peers a delta is sent, and passed on by each, in a cluster of more than 64. Default: 6.
    pub fn fanout(mut self, peers: usize) -> Self {
        self.fanout = peers.max(1);
        self
    }

    /// How long from now the retention of a peer's token, session or family may last: one with longer retention is refused,
    /// as is one without an end. Default: no limit.
    pub fn max_retention(mut self, retention: Duration) -> Self {
        self.max_retention = Some(retention);
        self
    }
}
