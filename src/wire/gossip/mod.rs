//! Replicas that find each other and talk to each other, over QUIC with certificates on both sides: no server is needed.
//!
//! ```no_run
//! use rescind::wire::gossip::{Credentials, Gossip};
//! use rescind::wire::Engine;
//! use rescind::{Key, NodeId, Options, Replication};
//!
//! # let key = Key::generate()?;
//! let store = Options::new().key(key).open("revocations")?;
//! let [one, two, three] = ["one.acme.internal", "two.acme.internal", "three.acme.internal"].map(NodeId::named);
//! let replica = store.replicate(Replication::trusting_issuers("acme", one, [one, two, three]))?;
//!
//! let credentials = Credentials::from_files("one.pem", "one.key", "authority.pem")?;
//! let wire = Gossip::new("10.0.0.1:7946".parse()?, credentials)
//!     .seed("two.acme.internal:7946")
//!     .seed("three.acme.internal:7946")
//!     .start(&replica)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Membership is SWIM's (the crate `foca`), in QUIC datagrams. Messages go in streams of their own, so that none waits for
//! another that was lost. Each replica sends by connections that it made, and receives by those that others made.
//!
//! # Who is let in
//!
//! Whoever holds a certificate of the [authority](Credentials), for the name that its certificate bears: its [`NodeId`] is made from that
//! name, on both sides of every connection. The cluster's name and the version of the protocol are part of the handshake
//! (ALPN, RFC 7301), so that replicas of different clusters, or without a version in common, do not come to exchange a byte.
//! There is no mode without encryption, and one without authentication on loopback only: [`Gossip::unauthenticated_on_loopback`].
//!
//! # What it mends by itself
//!
//! Seeds and whoever was once a member are dialled again and again, so that a replica that was cut off, restarted, or moved to
//! another address comes back, also where nobody is left that it knows.

mod authority;
mod credentials;
mod membership;
mod node;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

pub use authority::{Issued, TestAuthority};
pub use credentials::Credentials;

use crate::{Clock, ClusterId, NodeId, Replica, SystemClock};

use super::{Counters, Engine, Wire, WireError, driver};
use membership::Member;
use node::Node;

/// The versions of what is said on a connection that this release speaks, the best first.
const VERSIONS: [u8; 1] = [1];

/// An engine that needs no server. Setters may be chained; [`start`](Engine::start) starts it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Gossip {
    listen: SocketAddr,
    advertised: Option<SocketAddr>,
    seeds: Vec<String>,
    admitted: Option<BTreeSet<String>>,
    credentials: Result<Credentials, WireError>,
    is_unauthenticated: bool,
    versions: Vec<u8>,
}

impl Gossip {
    /// Listens on this UDP address, and is who the credentials say.
    pub fn new(listen: SocketAddr, credentials: Credentials) -> Self {
        Self::with(listen, Ok(credentials), false)
    }

    /// Believes everybody who can reach it, which only programs on this machine can: for first steps and tests. Its traffic is
    /// encrypted all the same. The name is that of which the replica's id is made, by [`NodeId::named`].
    ///
    /// It starts on an address of the loopback interface only, and talks to no other.
    pub fn unauthenticated_on_loopback(listen: SocketAddr, name: &str) -> Self {
        Self::with(listen, Credentials::unauthenticated(name), true)
    }

    fn with(listen: SocketAddr, credentials: Result<Credentials, WireError>, is_unauthenticated: bool) -> Self {
        Self {
            listen,
            advertised: None,
            seeds: Vec::new(),
            admitted: None,
            credentials,
            is_unauthenticated,
            versions: VERSIONS.to_vec(),
        }
    }

    /// One more replica to ask for the others: `host:port`. A host that resolves to several addresses stands for all of them.
    pub fn seed(mut self, address: impl Into<String>) -> Self {
        self.seeds.push(address.into());
        self
    }

    /// Where others reach this replica, if that is not where it listens. Needed where it listens on all interfaces.
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertised = Some(address);
        self
    }

    /// Lets in only replicas with these names, and not everybody who has a certificate of the authority.
    pub fn admitting(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.admitted = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Speaks these versions in place of those that this release knows: to try what an upgrade will do.
    #[doc(hidden)]
    pub fn speaking(mut self, versions: &[u8]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    fn validate(&self, replica: &Replica, credentials: &Credentials) -> Result<(), WireError> {
        let name = credentials.name();
        if NodeId::named(&name) != replica.node() {
            return Err(WireError::Options(format!(
                "the certificate is for {name}, and the replica has another id: replicate as NodeId::named({name:?})"
            )));
        }
        if self.is_unauthenticated && !self.listen.ip().is_loopback() {
            return Err(WireError::Options(format!(
                "{} is not on loopback, and everybody would be believed: use Gossip::new with credentials",
                self.listen
            )));
        }
        if self.listen.ip().is_unspecified() && self.advertised.is_none() {
            return Err(WireError::Options(format!(
                "others cannot reach a replica at {}: say where they can with Gossip::advertise",
                self.listen
            )));
        }
        Ok(())
    }
}

/// What both ends of a connection must agree on: what is spoken, which version of it, in which cluster.
fn protocols(versions: &[u8], cluster: ClusterId) -> Vec<Vec<u8>> {
    let cluster = cluster.to_string();
    versions.iter().map(|version| format!("rescind/{version}/{cluster}").into_bytes()).collect()
}

impl Engine for Gossip {
    fn start(self, replica: &Replica) -> Result<Wire, WireError> {
        let credentials = self.credentials.clone()?;
        self.validate(replica, &credentials)?;
        let protocols = protocols(&self.versions, replica.cluster());
        let configs = credentials.configs(&protocols)?;
        let listen = |source| WireError::Listen { address: self.listen, source: Arc::new(source) };
        let socket = UdpSocket::bind(self.listen).map_err(listen)?;
        let bound = socket.local_addr().map_err(listen)?;
        let mut address = self.advertised.unwrap_or(bound);
        if address.port() == 0 {
            address.set_port(bound.port());
        }
        let life = SystemClock::new().wall().as_nanos() / 1_000_000;
        let own = Member { id: replica.node(), address, life };

        let counters = Arc::new(Counters::default());
        let outlets = node::Outlets::default();
        let outlet = outlets.clone();
        let (inbound, driver) = driver::start("rescind-gossip", replica.link(), outlet, Arc::clone(&counters))?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread_error = |error| WireError::Thread(Arc::new(error));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(thread_error)?;
        let node = Node::new(self, own, credentials, protocols, outlets, inbound, Arc::clone(&counters));
        let network = std::thread::Builder::new()
            .name("rescind-quic".to_owned())
            .spawn(move || runtime.block_on(node.run(socket, configs, stopped)))
            .map_err(thread_error)?;
        // It has ended already if nobody listens.
        let stop = move || _ = stop.send(());
        Ok(Wire::new(counters, Some(bound), stop, vec![network, driver]))
    }
}
