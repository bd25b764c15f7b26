//! Messages between replicas: an envelope of fixed length, and what is in it.
//!
//! Whose message it is, and with which key its identities were made, stands first and is checked first. Nothing is
//! allocated for what is not there, and everything is bounded.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{ClusterId, NodeId, Rejected};
use crate::codec::{self, MESSAGE_BYTES_MAX};
use crate::model::{Bin, Digest, Fingerprint, KeyId, Life, Locator, Node, Shape, Sum, Timestamp};

const MAGIC: [u8; 4] = *b"RSCM";
const VERSION: u8 = 2;
/// Magic, version, three zeros, cluster, key, checksum.
pub(crate) const ENVELOPE_BYTES: usize = 4 + 1 + 3 + 16 + 16 + 8;

/// How many nodes one message may compare, list or want.
pub(crate) const NODES_MAX: usize = 256;
/// How many entries of one node may be listed.
pub(crate) const LISTED_MAX: usize = 64;
/// How many origins one heartbeat may tell of.
pub(crate) const ORIGINS_MAX: usize = 4096;
/// How many issuers that are ahead one heartbeat may tell of.
pub(crate) const LINES_MAX: usize = 128;
/// How many subjects with stamps from beyond the clock one heartbeat may tell of.
pub(crate) const STAMPS_MAX: usize = 64;
/// How many lives of the receiver one heartbeat may tell of.
pub(crate) const LIVES_MAX: usize = 8;

/// What replicas tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// I am here, have issued so much, and hold this.
    Heartbeat(Heartbeat),
    /// Entries that an origin has just changed.
    Delta(Delta),
    /// What I hold of these nodes, child by child: tell me of what differs.
    Compare { cutoff: Bin, nodes: Vec<Compared> },
    /// All that I hold of these nodes: send what I lack, and ask for what you lack.
    List { cutoff: Bin, nodes: Vec<Listed> },
    /// Send these.
    Want { cutoff: Bin, nodes: Vec<Listed> },
    /// Send all that you hold of this node, from this locator on.
    Fetch { cutoff: Bin, node: Node, from: Locator },
    /// What was asked for; where to go on, if there is more.
    Page { cutoff: Bin, node: Node, entries: Vec<u8>, more: Option<Locator> },
    /// What you lack, and from where there is more of it.
    Entries { cutoff: Bin, entries: Vec<u8>, rest: Vec<(Node, Locator)> },
    /// Do you deny this subject?
    Probe { number: u64, shape: Shape, locator: Locator, digest: Digest },
    /// Whether I deny the subject that you asked about.
    Denied { number: u64, denied: bool },
    /// I hold all that you issued up to this.
    Held { life: Life, sequence: u64 },
}

impl Message {
    /// Whether it is small, and not to be held up by repairs.
    pub(super) fn is_urgent(&self) -> bool {
        !matches!(self, Self::List { .. } | Self::Want { .. } | Self::Page { .. } | Self::Entries { .. })
    }
}

/// Where a replica is. Times are in nanoseconds, by the clock of the replica that measured them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    /// When it was sent, by the sender's clock.
    pub(crate) sent: u64,
    /// The lives and the times that the last heartbeats bore which the sender has from the receiver: one, unless that is
    /// several processes.
    pub(crate) echo: Vec<(Life, u64)>,
    /// The life of the sender.
    pub(crate) life: Life,
    /// How many deltas it has issued in it.
    pub(crate) sequence: u64,
    /// The sender's wall clock, in nanoseconds since 1970.
    pub(crate) wall: u64,
    /// The latest time that the sender has reason to believe in, likewise.
    pub(crate) believed: u64,
    /// Issuers that are ahead of it.
    pub(crate) lines: Vec<Line>,
    /// The latest stamps from beyond it, of the subjects of credentials.
    pub(crate) stamps: Stamps,
    /// The lives of the receiver that speak beside each other, if there are several, and how long ago each was known to live.
    pub(crate) twins: Vec<(Life, u64)>,
    /// The limits that the sender was started with.
    pub(crate) limits: Told,
    /// The first bin of which the sender has forgotten nothing.
    pub(crate) horizon: Bin,
    /// The first bin that counts for the sender: credentials of which all end earlier are dead there.
    pub(crate) line: Bin,
    /// All that it holds that ends in this bin or later.
    pub(crate) cutoff: Bin,
    pub(crate) root: Sum,
    /// How much it has of what others issued.
    pub(crate) origins: Vec<Known>,
    /// Whether the sender has caught up since it was started: before that its disk may lack what it issued itself.
    pub(crate) vouches: bool,
    /// Whether the sender waits for a heartbeat in return.
    pub(crate) wants_reply: bool,
}

/// Up to when credentials of an issuer may say that they were issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The hash by which it is looked up, and the digest that stands for it; none for all that have no line of their own.
    pub(crate) issuer: Option<(u64, Digest)>,
    pub(crate) stamp: Timestamp,
}

/// The latest stamps from beyond the clock that credentials bear, of the subjects that they name; and that of all others.
pub(crate) type Stamps = (Vec<(Locator, Timestamp)>, Option<Timestamp>);

/// The limits that a replica was started with, in nanoseconds: for operators, who should know if they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) leeway: u64,
    pub(crate) kept: u64,
    pub(crate) max_age: Option<u64>,
    /// A hash of the ages of single tenants.
    pub(crate) tenants: u64,
}

/// All that a life of an origin issued up to a sequence number is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) origin: NodeId,
    pub(crate) life: Life,
    pub(crate) sequence: u64,
    /// How long ago that was all there was, at most, in nanoseconds.
    pub(crate) age: u64,
    /// Whether something in it was refused, so that whoever holds the same need not hold all of it.
    pub(crate) is_partial: bool,
}

/// Entries that an origin has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delta {
    pub(crate) origin: NodeId,
    pub(crate) life: Life,
    /// Rises by one from delta to delta.
    pub(crate) sequence: u64,
    /// When it was issued, by the origin's wall clock, in nanoseconds since 1970.
    pub(crate) issued: u64,
    /// How many more times it may be passed on.
    pub(crate) hops: u8,
    pub(crate) entries: Vec<u8>,
}

/// The sums of a node's children, in brief.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compared {
    pub(crate) node: Node,
    pub(crate) children: [[u8; 8]; Node::CHILDREN],
}

/// Entries of a node, by fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) node: Node,
    pub(crate) fingerprints: Vec<Fingerprint>,
}

/// Whose messages these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) cluster: ClusterId,
    pub(crate) key_id: KeyId,
}

impl Envelope {
    /// The bytes of a message; none if it is too long to be sent.
    pub(crate) fn seal(&self, message: &Message) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
        bytes.extend_from_slice(self.cluster.as_bytes());
        bytes.extend_from_slice(self.key_id.as_bytes());
        bytes.extend_from_slice(&[0; 8]);
        codec::encode_message(message, &mut bytes).ok()?;
        let checksum = self.checksum(bytes.get(ENVELOPE_BYTES..)?);
        bytes.get_mut(ENVELOPE_BYTES - 8..ENVELOPE_BYTES)?.copy_from_slice(&checksum.to_le_bytes());
        Some(bytes)
    }

    /// The message in some bytes.
    pub(crate) fn open(&self, bytes: &[u8]) -> Result<Message, Rejected> {
        if bytes.len() > ENVELOPE_BYTES + MESSAGE_BYTES_MAX {
            return Err(Rejected::TooLong { bytes: bytes.len() });
        }
        let mut rest = bytes;
        let mut take = |length: usize| {
            let (field, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(field)
        };
        let short = || Rejected::Malformed("shorter than its envelope".to_owned());
        if take(4).ok_or_else(short)? != MAGIC {
            return Err(Rejected::Malformed("not a message of rescind".to_owned()));
        }
        let version = take(1).and_then(|version| version.first().copied()).ok_or_else(short)?;
        if version != VERSION {
            return Err(Rejected::Version { version });
        }
        if take(3).ok_or_else(short)? != [0; 3] {
            return Err(Rejected::Malformed("unknown flags".to_owned()));
        }
        if take(16).ok_or_else(short)? != self.cluster.as_bytes() {
            return Err(Rejected::OtherCluster);
        }
        if take(16).ok_or_else(short)? != self.key_id.as_bytes() {
            return Err(Rejected::OtherKey);
        }
        let checksum = take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes).ok_or_else(short)?;
        if checksum != self.checksum(rest) {
            return Err(Rejected::Malformed("its checksum is wrong".to_owned()));
        }
        let message = codec::decode_message(rest).map_err(|error| Rejected::Malformed(error.to_string()))?;
        check(&message)?;
        Ok(message)
    }

    fn checksum(&self, payload: &[u8]) -> u64 {
        xxh3_64_with_seed(payload, u64::from(VERSION))
    }
}

/// Whether a message keeps to the bounds.
fn check(message: &Message) -> Result<(), Rejected> {
    let oversized = |what: &str| Err(Rejected::Malformed(format!("more {what} than a message may have")));
    let node_is_off = || Err(Rejected::Malformed("a node that there is not".to_owned()));
    match message {
        Message::Heartbeat(heartbeat) if heartbeat.origins.len() > ORIGINS_MAX => oversized("origins"),
        Message::Heartbeat(heartbeat) if heartbeat.lines.len() > LINES_MAX => oversized("issuers"),
        Message::Heartbeat(heartbeat) if heartbeat.stamps.0.len() > STAMPS_MAX => oversized("stamps"),
        Message::Heartbeat(heartbeat) if heartbeat.twins.len().max(heartbeat.echo.len()) > LIVES_MAX => {
            oversized("lives")
        }
        Message::Compare { nodes, .. } if nodes.len() > NODES_MAX => oversized("nodes"),
        Message::Compare { nodes, .. } if nodes.iter().any(|compared| !compared.node.is_canonical()) => node_is_off(),
        Message::List { nodes, .. } | Message::Want { nodes, .. } => {
            if nodes.len() > NODES_MAX || nodes.iter().any(|listed| listed.fingerprints.len() > LISTED_MAX) {
                return oversized("nodes or entries");
            }
            if nodes.iter().any(|listed| !listed.node.is_canonical()) { node_is_off() } else { Ok(()) }
        }
        Message::Fetch { node, .. } | Message::Page { node, .. } if !node.is_canonical() => node_is_off(),
        Message::Entries { rest, .. } if rest.len() > NODES_MAX => oversized("nodes"),
        Message::Entries { rest, .. } if rest.iter().any(|(node, _)| !node.is_canonical()) => node_is_off(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVELOPE: Envelope =
        Envelope { cluster: ClusterId::from_bytes([0xc1; 16]), key_id: KeyId::from_bytes([0x4b; 16]) };
    const VECTORS: &str = include_str!("../../tests/vectors/messages.txt");

    fn node() -> Node {
        Node::ROOT.children().nth(5).and_then(|child| child.children().nth(10)).unwrap()
    }

    fn life(number: u64) -> Life {
        Life::new(Timestamp::from_secs(1_800_000_000), number)
    }

    fn fingerprints(count: u128) -> Vec<Fingerprint> {
        (1..=count).map(Fingerprint::of).collect()
    }

    /// One of each kind, with everything in it that there can be.
    fn messages() -> Vec<(&'static str, Message)> {
        let cutoff = Bin::of(Timestamp::from_secs(1_800_000_000));
        let origin = NodeId::from_bytes([7; 16]);
        let known = Known { origin, life: life(1), sequence: 41, age: 1_500_000_000, is_partial: true };
        let line = Line { issuer: Some((8, Digest::from_bytes([8; 16]))), stamp: Timestamp::from_secs(1_800_000_020) };
        let stamp = (Locator::from_u64(9), Timestamp::from_secs(1_800_000_001));
        let heartbeat = Heartbeat {
            sent: 5_000_000_000,
            echo: vec![(life(0), 4_000_000_000)],
            life: life(2),
            sequence: 300,
            wall: 1_800_000_000_123_000_000,
            believed: 1_800_000_003_000_000_000,
            lines: vec![line],
            stamps: (vec![stamp], Some(Timestamp::from_secs(1_800_000_002))),
            twins: vec![(life(0), 0), (life(3), 1_000_000_000)],
            limits: Told { leeway: 60_000_000_000, kept: 300_000_000_000, max_age: Some(900_000_000_000), tenants: 7 },
            horizon: Bin::of(Timestamp::from_secs(1_799_999_000)),
            line: cutoff,
            cutoff,
            root: Sum { count: 10_000_000, hashes: u128::MAX / 3 },
            origins: vec![known],
            vouches: true,
            wants_reply: false,
        };
        let delta = Delta {
            origin,
            life: life(1),
            sequence: 42,
            issued: 1_800_000_000_123_456_789,
            hops: 6,
            entries: vec![4, 0, 0, 0, 0, 0, 0, 0],
        };
        let compared = Compared { node: node(), children: std::array::from_fn(|index| [index as u8; 8]) };
        let listed = Listed { node: node(), fingerprints: fingerprints(2) };
        let from = node().first();
        let (shape, digest) = (Shape::of(crate::model::Kind::Token, 0), Digest::from_bytes([9; 16]));
        vec![
            ("heartbeat", Message::Heartbeat(heartbeat)),
            ("delta", Message::Delta(delta)),
            ("compare", Message::Compare { cutoff, nodes: vec![compared] }),
            ("list", Message::List { cutoff, nodes: vec![listed.clone()] }),
            ("want", Message::Want { cutoff, nodes: vec![listed] }),
            ("fetch", Message::Fetch { cutoff, node: node(), from }),
            ("page", Message::Page { cutoff, node: node(), entries: vec![1, 2, 3], more: Some(node().last()) }),
            ("entries", Message::Entries { cutoff, entries: vec![1, 2, 3], rest: vec![(node(), from)] }),
            ("probe", Message::Probe { number: 7, shape, locator: from, digest }),
            ("denied", Message::Denied { number: 7, denied: true }),
            ("held", Message::Held { life: life(2), sequence: 300 }),
        ]
    }

    fn vectors() -> String {
        let line = |(name, message): (_, Message)| {
            let sealed = ENVELOPE.seal(&message).unwrap();
            let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{name} {hex}\n")
        };
        messages().into_iter().map(line).collect()
    }

    #[test]
    #[ignore = "writes the vectors of a new version"]
    fn write_vectors() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/messages.txt");
        std::fs::write(path, vectors()).unwrap();
    }

    #[test]
    fn messages_are_those_of_the_vectors() {
        assert_eq!(vectors(), VECTORS);
        for (name, message) in messages() {
            let line = VECTORS.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
            let bytes = (0..line.len() / 2).map(|at| u8::from_str_radix(&line[at * 2..at * 2 + 2], 16).unwrap());
            assert_eq!(ENVELOPE.open(&bytes.collect::<Vec<_>>()), Ok(message), "{name}");
        }
    }

    #[test]
    fn what_no_replica_sends_is_refused() {
        let cutoff = Bin::FOR_GOOD;
        let node_off = Node::unchecked(1, 1);
        assert!(!node_off.is_canonical() && !Node::unchecked(0, 17).is_canonical());
        let listed = |count, fingerprint_count| {
            vec![Listed { node: Node::ROOT, fingerprints: fingerprints(fingerprint_count) }; count]
        };
        let compared = |node| Compared { node, children: [[0; 8]; 16] };
        let Some((_, Message::Heartbeat(heartbeat))) = messages().into_iter().next() else { panic!() };
        let known = heartbeat.origins[0].clone();
        let refused = [
            Message::Compare { cutoff, nodes: vec![compared(Node::ROOT); NODES_MAX + 1] },
            Message::Compare { cutoff, nodes: vec![compared(node_off)] },
            Message::List { cutoff, nodes: listed(NODES_MAX + 1, 0) },
            Message::List { cutoff, nodes: listed(1, LISTED_MAX as u128 + 1) },
            Message::Want { cutoff, nodes: vec![Listed { node: node_off, fingerprints: Vec::new() }] },
            Message::Fetch { cutoff, node: node_off, from: node_off.first() },
            Message::Page { cutoff, node: node_off, entries: Vec::new(), more: None },
            Message::Entries {
                cutoff,
                entries: Vec::new(),
                rest: vec![(Node::ROOT, Node::ROOT.first()); NODES_MAX + 1],
            },
            Message::Entries { cutoff, entries: Vec::new(), rest: vec![(node_off, Node::ROOT.first())] },
            Message::Heartbeat(Heartbeat { origins: vec![known.clone(); ORIGINS_MAX + 1], ..heartbeat.clone() }),
            Message::Heartbeat(Heartbeat { lines: vec![heartbeat.lines[0]; LINES_MAX + 1], ..heartbeat.clone() }),
            Message::Heartbeat(Heartbeat {
                stamps: (vec![heartbeat.stamps.0[0]; STAMPS_MAX + 1], None),
                ..heartbeat.clone()
            }),
            Message::Heartbeat(Heartbeat { twins: vec![(life(1), 0); LIVES_MAX + 1], ..heartbeat.clone() }),
            Message::Heartbeat(Heartbeat { echo: vec![(life(1), 0); LIVES_MAX + 1], ..heartbeat.clone() }),
        ];
        for message in refused {
            let sealed = ENVELOPE.seal(&message).unwrap();
            assert!(matches!(ENVELOPE.open(&sealed), Err(Rejected::Malformed(_))), "{message:?}");
        }
        let taken = [
            Message::Compare { cutoff, nodes: vec![compared(Node::ROOT); NODES_MAX] },
            Message::List { cutoff, nodes: listed(NODES_MAX, LISTED_MAX as u128) },
            Message::Heartbeat(Heartbeat { origins: vec![known; ORIGINS_MAX], ..heartbeat }),
        ];
        for message in taken {
            assert_eq!(ENVELOPE.open(&ENVELOPE.seal(&message).unwrap()), Ok(message));
        }
        let long = Message::Page { cutoff, node: Node::ROOT, entries: vec![0; MESSAGE_BYTES_MAX], more: None };
        assert_eq!(ENVELOPE.seal(&long), None);
    }
}
