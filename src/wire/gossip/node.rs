//! Connections: made, kept and made again; and what goes over them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Sender, TrySendError};
use parking_lot::Mutex;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::NodeId;

use super::super::backoff::Backoff;
use super::super::driver::{Inbound, Outlet};
use super::super::{Counters, WireError};
use super::Gossip;
use super::credentials::{Credentials, name_of};
use super::membership::{MEMBERS_MAX, Member, Membership, Timer, Wanted};

/// No message is longer: see the manual on messages.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024 + 64;
/// Longer messages are written beside the others, so that none waits for them; so many at once, for each peer.
const SHORT_BYTES: usize = 8 * 1024;
const LONG_AT_ONCE: usize = 4;
/// How many messages may wait for a peer; more wait in the replica.
const WAITING_MAX: usize = 256;
/// How many things may wait to be looked at.
const EVENTS_MAX: usize = 1024;
/// How often it is looked at who should be dialled.
const MAINTENANCE: Duration = Duration::from_millis(200);
/// How often whoever is connected, but no member, is asked to let us in.
const ANNOUNCEMENT: Duration = Duration::from_secs(1);
/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a message may take to arrive: the longest, over a narrow path that it shares.
const ARRIVAL_MAX: Duration = Duration::from_secs(120);
/// Above so many connections, whoever wants another must first show that it is where it says it is.
const CONNECTIONS_UNVALIDATED: usize = 512;
/// A connection on which nothing came for so long is given up.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Before somebody is dialled again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// How often the names of seeds are looked up: while nobody is connected, and otherwise.
const LOOKUPS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// For how long whoever was a member stays a peer, and for how long it is dialled.
const PEER_FOR: Duration = Duration::from_secs(60);
const DIALLED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long whoever is told goodbye has to hear it.
const GOODBYE: Duration = Duration::from_millis(200);

/// Where the driver puts messages: a queue for each peer that there is a connection to.
#[derive(Clone, Default)]
pub(super) struct Outlets(Arc<Mutex<HashMap<NodeId, Queue>>>);

#[derive(Clone)]
struct Queue {
    messages: mpsc::Sender<Arc<[u8]>>,
    /// Whether somebody found no room in it.
    is_awaited: Arc<AtomicBool>,
}

impl Outlet for Outlets {
    fn takes(&mut self, to: NodeId) -> bool {
        let queues = self.0.lock();
        let Some(queue) = queues.get(&to) else { return false };
        if queue.messages.capacity() > 0 {
            return true;
        }
        queue.is_awaited.store(true, Ordering::Release);
        // It may have been emptied before it was said that somebody waits.
        queue.messages.capacity() > 0
    }

    fn send(&mut self, to: NodeId, bytes: Arc<[u8]>) {
        if let Some(queue) = self.0.lock().get(&to) {
            // Who is gone is sent it again, if it matters.
            queue.messages.try_send(bytes).ok();
        }
    }
}

enum Event {
    /// A member was reached, or somebody at an address was not.
    Dialled { address: SocketAddr, outcome: Result<(NodeId, Connection), String> },
    /// Somebody has connected.
    Accepted { id: NodeId, connection: Connection },
    /// A connection that was made from there has ended.
    Ended { id: NodeId, connection: usize },
    /// Names were looked up.
    Resolved(Vec<SocketAddr>),
    /// A connection that was made from here has ended.
    Lost { id: NodeId, connection: usize },
    /// A datagram came over a connection that was made from there.
    Datagram { from: NodeId, bytes: Bytes },
}

/// Where somebody may be.
struct Target {
    /// The attempt that is under way, or the next.
    is_dialling: bool,
    next: Option<Instant>,
    backoff: Backoff,
    /// It is this replica itself.
    is_own: bool,
}

impl Default for Target {
    fn default() -> Self {
        Self { is_dialling: false, next: None, backoff: BACKOFF, is_own: false }
    }
}

/// A connection that was made from here.
struct Made {
    connection: Connection,
    /// In which life of the other end, as far as that is known.
    life: Option<u64>,
}

/// A member that was seen.
struct Known {
    address: SocketAddr,
    seen: Instant,
}

pub(super) struct Node {
    options: Gossip,
    own: Member,
    credentials: Credentials,
    protocols: Vec<Vec<u8>>,
    outlets: Outlets,
    inbound: Sender<Inbound>,
    counters: Arc<Counters>,
    membership: Membership,
    /// Connections that were made from here.
    connections: BTreeMap<NodeId, Made>,
    /// Connections that others made, one for each.
    accepted: BTreeMap<NodeId, Connection>,
    targets: BTreeMap<SocketAddr, Target>,
    seeds: BTreeSet<SocketAddr>,
    known: BTreeMap<NodeId, Known>,
    peers: BTreeSet<NodeId>,
    /// What the membership is waiting for, in the order in which it asked.
    timers: BTreeMap<(Instant, u64), Timer>,
    timers_set: u64,
    announced: Option<Instant>,
    resolved: Option<Instant>,
    /// When the driver was last told who is there.
    listed: Option<Instant>,
    /// Whether it should be looked at once who should be dialled.
    is_due: bool,
}

impl Node {
    pub(super) fn new(
        options: Gossip,
        own: Member,
        credentials: Credentials,
        protocols: Vec<Vec<u8>>,
        outlets: Outlets,
        inbound: Sender<Inbound>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            options,
            own,
            credentials,
            protocols,
            outlets,
            inbound,
            counters,
            membership: Membership::new(own),
            connections: BTreeMap::new(),
            accepted: BTreeMap::new(),
            targets: BTreeMap::new(),
            seeds: BTreeSet::new(),
            known: BTreeMap::new(),
            peers: BTreeSet::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
            announced: None,
            resolved: None,
            listed: None,
            is_due: true,
        }
    }

    pub(super) async fn run(
        mut self,
        socket: UdpSocket,
        configs: (rustls::ServerConfig, rustls::ClientConfig),
        mut stopped: oneshot::Receiver<()>,
    ) {
        let made = quic(configs).and_then(|(server, client)| {
            let runtime = Arc::new(quinn::TokioRuntime);
            let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime);
            Ok((endpoint.map_err(|error| WireError::Options(error.to_string()))?, client))
        });
        let (endpoint, mut client) = match made {
            Ok(made) => made,
            Err(error) => return self.counters.failed(error),
        };
        let (events, mut happened) = mpsc::channel(EVENTS_MAX);
        let mut changes = self.credentials.changes();
        let mut maintenance = interval(MAINTENANCE);
        maintenance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self.timers.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                // In this order, so that no flood keeps it from stopping.
                biased;
                _ = &mut stopped => break,
                Ok(()) = changes.changed() => {
                    match self.credentials.configs(&self.protocols).and_then(quic) {
                        Ok((server, new)) => {
                            endpoint.set_server_config(Some(server));
                            client = new;
                            self.hang_up();
                        }
                        Err(error) => self.counters.failed(error),
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if let Some((_, timer)) = self.timers.pop_first() {
                        self.membership.expire(timer);
                    }
                }
                _ = maintenance.tick() => self.maintain(&endpoint, &client, &events),
                Some(event) = happened.recv() => self.take(event, &events),
                Some(incoming) = endpoint.accept() => self.accept(incoming, &endpoint, &events),
            }
            self.follow();
            if std::mem::take(&mut self.is_due) {
                self.maintain(&endpoint, &client, &events);
            }
        }
        self.membership.leave();
        self.follow();
        sleep(GOODBYE / 4).await;
        endpoint.close(CLOSE_LEFT, b"leaving");
        timeout(GOODBYE, endpoint.wait_idle()).await.ok();
        self.counters.connected.store(false, Ordering::Relaxed);
    }
    /// Looks who should be dialled, and asks whoever does not know us to let us in.
    fn maintain(&mut self, endpoint: &Endpoint, client: &ClientConfig, events: &mpsc::Sender<Event>) {
        let now = Instant::now();
        self.resolve(now, events);
        self.known.retain(|_, known| now.duration_since(known.seen) < DIALLED_FOR);
        for (id, member) in self.membership.members() {
            self.known.insert(id, Known { address: member.address, seen: now });
        }
        let reached: BTreeSet<SocketAddr> =
            self.connections.values().map(|made| made.connection.remote_address()).collect();
        let unconnected = self.known.iter().filter(|(id, _)| !self.connections.contains_key(id));
        let wanted: BTreeSet<SocketAddr> =
            unconnected.map(|(_, known)| known.address).chain(self.seeds.iter().copied()).collect();
        self.targets.retain(|address, target| wanted.contains(address) || target.is_dialling);
        for address in wanted {
            let target = self.targets.entry(address).or_default();
            let is_due = target.next.is_none_or(|next| next <= now);
            let is_allowed = !self.options.is_unauthenticated || address.ip().is_loopback();
            let is_own = target.is_own || address == self.own.address;
            if is_own || target.is_dialling || !is_due || !is_allowed || reached.contains(&address) {
                continue;
            }
            target.is_dialling = true;
            dial(endpoint, client, address, events.clone());
        }
        if self.announced.is_none_or(|at| now.duration_since(at) >= ANNOUNCEMENT) {
            self.announced = Some(now);
            let connected = self.connections.iter().map(|(id, made)| (*id, made.connection.remote_address()));
            for (id, address) in self.membership.strangers(connected) {
                self.membership.announce(id, address);
            }
        }
    }

    /// Has the names of seeds looked up, now and then: what they stand for may change.
    fn resolve(&mut self, now: Instant, events: &mpsc::Sender<Event>) {
        let pause = if self.connections.is_empty() { LOOKUPS.0 } else { LOOKUPS.1 };
        if self.options.seeds.is_empty() || self.resolved.is_some_and(|at| now.duration_since(at) < pause) {
            return;
        }
        self.resolved = Some(now);
        let (seeds, events, counters) = (self.options.seeds.clone(), events.clone(), Arc::clone(&self.counters));
        tokio::spawn(async move {
            let mut addresses = Vec::new();
            for seed in seeds {
                match tokio::net::lookup_host(&seed).await {
                    Ok(found) => addresses.extend(found.take(MEMBERS_MAX)),
                    Err(error) => counters.failed(format!("the seed {seed}: {error}")),
                }
            }
            events.send(Event::Resolved(addresses)).await.ok();
        });
    }

    fn take(&mut self, event: Event, events: &mpsc::Sender<Event>) {
        match event {
            // A name server that does not answer is no reason to forget whom it told of.
            Event::Resolved(addresses) if addresses.is_empty() => {}
            Event::Resolved(addresses) => {
                self.seeds = addresses.into_iter().collect();
                self.is_due = true;
            }
            Event::Dialled { address, outcome } => {
                let target = self.targets.entry(address).or_default();
                target.is_dialling = false;
                match outcome {
                    Ok((id, connection)) if id == self.own.id => {
                        target.is_own = true;
                        connection.close(CLOSE_REFUSED, b"that is myself");
                    }
                    Ok((id, connection)) => {
                        target.backoff.reset();
                        target.next = None;
                        self.connected(id, connection, events);
                    }
                    Err(error) => {
                        target.next = Some(Instant::now() + target.backoff.next());
                        self.counters.failed(format!("{address}: {error}"));
                    }
                }
            }
            Event::Lost { id, connection } => {
                if self.connections.get(&id).is_some_and(|made| made.connection.stable_id() == connection) {
                    self.connections.remove(&id);
                    self.outlets.0.lock().remove(&id);
                    self.is_due = true;
                }
            }
            // Who knows us, and is not known here, was missed when its joining was told: it is dialled, and asked.
            Event::Accepted { id, connection } => {
                let address = connection.remote_address();
                // Each has one connection to here: whoever makes another has given up the one before.
                if let Some(old) = self.accepted.insert(id, connection) {
                    old.close(CLOSE_REPLACED, b"replaced");
                }
                if !self.known.contains_key(&id) && self.known.len() < MEMBERS_MAX {
                    self.known.insert(id, Known { address, seen: Instant::now() });
                    self.is_due = true;
                }
            }
            Event::Ended { id, connection } => {
                if self.accepted.get(&id).is_some_and(|held| held.stable_id() == connection) {
                    self.accepted.remove(&id);
                }
            }
            Event::Datagram { from, bytes } => {
                if let Err(error) = self.membership.receive(from, &bytes) {
                    self.counters.add(&self.counters.rejected, 1);
                    self.counters.failed(error);
                }
            }
        }
        self.counters.connected.store(!self.connections.is_empty(), Ordering::Relaxed);
    }

    /// From here on what is for a peer goes by this connection.
    fn connected(&mut self, id: NodeId, connection: Connection, events: &mpsc::Sender<Event>) {
        if !self.is_admitted(&connection) {
            self.counters.add(&self.counters.refused, 1);
            return connection.close(CLOSE_REFUSED, b"not admitted");
        }
        self.counters.add(&self.counters.connects, 1);
        let (messages, waiting) = mpsc::channel(WAITING_MAX);
        let is_awaited = Arc::new(AtomicBool::new(false));
        let queue = Queue { messages, is_awaited: Arc::clone(&is_awaited) };
        self.outlets.0.lock().insert(id, queue);
        let number = connection.stable_id();
        let carrier = carry(connection.clone(), waiting, is_awaited, self.inbound.clone());
        let (address, events) = (connection.remote_address(), events.clone());
        let life = self.membership.members().get(&id).map(|member| member.life);
        if let Some(old) = self.connections.insert(id, Made { connection: connection.clone(), life }) {
            old.connection.close(CLOSE_REPLACED, b"replaced");
        }
        tokio::spawn(async move {
            tokio::select! {
                () = carrier => {}
                _ = connection.closed() => {}
            }
            connection.close(CLOSE_REPLACED, b"replaced");
            events.send(Event::Lost { id, connection: number }).await.ok();
        });
        if life.is_none() {
            self.membership.announce(id, address);
        }
        // What waits for it goes at once.
        self.inbound.try_send(Inbound::Room).ok();
    }

    fn is_admitted(&self, connection: &Connection) -> bool {
        let is_allowed = !self.options.is_unauthenticated || connection.remote_address().ip().is_loopback();
        let name = name_of(connection).map(|(name, _)| name);
        is_allowed
            && name.is_some_and(|name| self.options.admitted.as_ref().is_none_or(|admitted| admitted.contains(&name)))
    }

    /// Takes in a connection that somebody makes.
    fn accept(&self, incoming: quinn::Incoming, endpoint: &Endpoint, events: &mpsc::Sender<Event>) {
        if endpoint.open_connections() > CONNECTIONS_UNVALIDATED && incoming.may_retry() {
            // It fails for whoever has shown it already.
            incoming.retry().ok();
            return;
        }
        let (admitted, is_unauthenticated) = (self.options.admitted.clone(), self.options.is_unauthenticated);
        let (events, inbound, counters) = (events.clone(), self.inbound.clone(), Arc::clone(&self.counters));
        let mut changes = self.credentials.changes();
        if is_unauthenticated && !incoming.remote_address().ip().is_loopback() {
            return incoming.refuse();
        }
        tokio::spawn(async move {
            let address = incoming.remote_address();
            let connection = match incoming.accept() {
                Ok(connecting) => timeout(PATIENCE, connecting).await.unwrap_or(Err(ConnectionError::TimedOut)),
                Err(error) => Err(error),
            };
            let connection = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    if is_refusal(&error) {
                        counters.add(&counters.refused, 1);
                    }
                    return counters.failed(format!("a connection from {address}: {error}"));
                }
            };
            let id = name_of(&connection)
                .filter(|(name, _)| admitted.as_ref().is_none_or(|admitted| admitted.contains(name)))
                .map(|(_, id)| id);
            let Some(id) = id else {
                counters.add(&counters.refused, 1);
                counters.failed(format!("a connection from {address}: not admitted"));
                return connection.close(CLOSE_REFUSED, b"not admitted");
            };
            events.send(Event::Accepted { id, connection: connection.clone() }).await.ok();
            let replaced = async {
                // It fails when the engine is gone, and then the connection ends with that.
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = streams(&connection, id, &inbound) => {}
                () = datagrams(&connection, id, &events) => {}
                () = replaced => connection.close(CLOSE_RELOADED, b"certificates were replaced"),
            }
            events.send(Event::Ended { id, connection: connection.stable_id() }).await.ok();
        });
    }

    /// Ends all connections that were made from here; they are made anew.
    fn hang_up(&mut self) {
        self.outlets.0.lock().clear();
        self.is_due = true;
        for Made { connection, .. } in std::mem::take(&mut self.connections).into_values() {
            connection.close(CLOSE_RELOADED, b"certificates were replaced");
        }
    }

    /// Does what the membership wants done.
    fn follow(&mut self) {
        let Wanted { datagrams, timers, has_changed } = self.membership.wanted();
        let now = Instant::now();
        for (delay, timer) in timers {
            self.timers_set += 1;
            self.timers.insert((now + delay, self.timers_set), timer);
        }
        for (to, bytes) in datagrams {
            // Whoever is not connected is dialled; what is not sent counts as lost.
            if let Some(made) = self.connections.get(&to.id) {
                made.connection.send_datagram(bytes.into()).ok();
            } else if to.life > 0 && self.known.len() < MEMBERS_MAX {
                self.known.insert(to.id, Known { address: to.address, seen: now });
            }
        }
        if has_changed {
            self.renew();
        }
        // Who has been gone for too long is found out now and then.
        let is_due = has_changed || self.listed.is_none_or(|at| now.duration_since(at) >= ANNOUNCEMENT);
        if is_due {
            self.list(now);
        }
    }

    /// Whoever has begun another life does not know the connections of the one before, and may be elsewhere.
    fn renew(&mut self) {
        let members = self.membership.members();
        let mut outlets = self.outlets.0.lock();
        let mut over = false;
        self.connections.retain(|id, made| {
            let Some(member) = members.get(id) else { return true };
            let is_over = made.life.replace(member.life).is_some_and(|life| life < member.life);
            if is_over {
                made.connection.close(CLOSE_REPLACED, b"you have begun anew");
                outlets.remove(id);
                over = true;
            }
            !is_over
        });
        self.is_due |= over;
    }

    /// Tells the driver who is there.
    fn list(&mut self, now: Instant) {
        let mut peers: BTreeSet<NodeId> = self.membership.members().into_keys().collect();
        let is_recent = |known: &Known| now.duration_since(known.seen) < PEER_FOR;
        peers.extend(
            self.known.iter().filter(|(id, known)| self.peers.contains(id) && is_recent(known)).map(|(id, _)| *id),
        );
        let is_told = peers == self.peers || self.inbound.try_send(Inbound::Peers(peers.clone())).is_ok();
        if is_told {
            self.peers = peers;
            self.listed = Some(now);
        } else {
            // There is no room: soon again.
            self.listed = None;
        }
    }
}

const CLOSE_LEFT: VarInt = VarInt::from_u32(0);
const CLOSE_REPLACED: VarInt = VarInt::from_u32(1);
const CLOSE_RELOADED: VarInt = VarInt::from_u32(2);
const CLOSE_REFUSED: VarInt = VarInt::from_u32(3);

fn quic(
    (server, client): (rustls::ServerConfig, rustls::ClientConfig),
) -> Result<(ServerConfig, ClientConfig), WireError> {
    let unfit = |error: quinn::crypto::rustls::NoInitialCipherSuite| WireError::Options(error.to_string());
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(IDLE_MAX.try_into().ok())
        .keep_alive_interval(Some(IDLE_MAX / 4))
        .initial_rtt(Duration::from_millis(100))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(256))
        .stream_receive_window(VarInt::from_u32(MESSAGE_BYTES_MAX as u32))
        .receive_window(VarInt::from_u32(4 * MESSAGE_BYTES_MAX as u32));
    let transport = Arc::new(transport);
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).map_err(unfit)?));
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).map_err(unfit)?));
    server.transport_config(Arc::clone(&transport));
    client.transport_config(transport);
    Ok((server, client))
}

/// Whether somebody is not to be let in, or does not let us in: not that the network failed.
fn is_refusal(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_) | ConnectionError::VersionMismatch
    )
}

fn dial(endpoint: &Endpoint, client: &ClientConfig, address: SocketAddr, events: mpsc::Sender<Event>) {
    // Who is reached is asked afterwards: the name here is of no account.
    let connecting = endpoint.connect_with(client.clone(), address, "rescind.invalid");
    tokio::spawn(async move {
        let outcome = match connecting {
            Ok(connecting) => match timeout(PATIENCE, connecting).await {
                Ok(Ok(connection)) => match name_of(&connection) {
                    Some((_, id)) => Ok((id, connection)),
                    None => Err("its certificate has no name".to_owned()),
                },
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("it does not answer".to_owned()),
            },
            Err(error) => Err(error.to_string()),
        };
        events.send(Event::Dialled { address, outcome }).await.ok();
    });
}

/// Writes messages, each to a stream of its own: a lost packet holds up only the message that it is part of.
async fn carry(
    connection: Connection,
    mut messages: mpsc::Receiver<Arc<[u8]>>,
    is_awaited: Arc<AtomicBool>,
    inbound: Sender<Inbound>,
) {
    let long = Arc::new(Semaphore::new(LONG_AT_ONCE));
    while let Some(bytes) = messages.recv().await {
        if is_awaited.swap(false, Ordering::AcqRel) {
            inbound.try_send(Inbound::Room).ok();
        }
        let is_short = bytes.len() <= SHORT_BYTES;
        if is_short {
            if write(&connection, &bytes, 1).await.is_err() {
                return;
            }
            continue;
        }
        let Ok(permit) = Arc::clone(&long).acquire_owned().await else { return };
        let connection = connection.clone();
        tokio::spawn(async move {
            // If it fails, so does the next short one.
            write(&connection, &bytes, 0).await.ok();
            drop(permit);
        });
    }
}

async fn write(connection: &Connection, bytes: &[u8], priority: i32) -> Result<(), ConnectionError> {
    let mut stream = connection.open_uni().await?;
    stream.set_priority(priority).ok();
    // A peer that stops reading does without this message.
    stream.write_all(bytes).await.ok();
    stream.finish().ok();
    Ok(())
}

/// Reads messages until the connection ends.
async fn streams(connection: &Connection, from: NodeId, inbound: &Sender<Inbound>) {
    while let Ok(mut stream) = connection.accept_uni().await {
        let inbound = inbound.clone();
        tokio::spawn(async move {
            if let Ok(Ok(bytes)) = timeout(ARRIVAL_MAX, stream.read_to_end(MESSAGE_BYTES_MAX)).await {
                hand_in(&inbound, Inbound::Message { from, bytes }).await;
            }
        });
    }
}

async fn datagrams(connection: &Connection, from: NodeId, events: &mpsc::Sender<Event>) {
    while let Ok(bytes) = connection.read_datagram().await {
        if events.send(Event::Datagram { from, bytes }).await.is_err() {
            return;
        }
    }
}

/// Waits until the driver has room: meanwhile nothing more is read, and QUIC holds up whoever sends.
async fn hand_in(inbound: &Sender<Inbound>, mut message: Inbound) {
    while let Err(TrySendError::Full(back)) = inbound.try_send(message) {
        message = back;
        sleep(Duration::from_millis(1)).await;
    }
}
