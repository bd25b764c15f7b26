//! A connection to the broker, one after the other.
//!
//! The client would connect again by itself. But then what had been given to it before would be sent after an outage of any
//! length, readers of the stream could go on waiting for a broker that no longer knows them, and consumers would pile up. So a
//! connection that is lost ends all that was on it: each has a runtime of its own, and whatever the client has started
//! ends with that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::jetstream::{self, context, message::PublishMessage};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, Subscriber};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::{Builder, Runtime};
use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{ClusterId, NodeId};

use super::super::backoff::Backoff;
use super::super::driver::Inbound;
use super::super::{Counters, WireError};
use super::outbox::Outbox;
use super::reader::Position;

/// How often it is said that this replica is here.
const PRESENCE: Duration = Duration::from_secs(1);
/// Who has not been heard of for so long is no peer.
const ABSENT_AFTER: Duration = Duration::from_secs(10);
/// Within which time a replica that is new is told of this one.
const GREETING: Duration = Duration::from_millis(20);
/// Before history is read, so that it is known from whom it is taken.
const INTRODUCTIONS: Duration = Duration::from_millis(100);
/// More peers than a heartbeat tells of are not believed in.
const PEERS_MAX: usize = 4096;
/// How often the broker is asked whether it is there, if nothing else is heard of it. It is given up after the third time.
const PING: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the broker may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Before the next attempt to connect.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// A connection that lasted so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// How long it may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(300);
/// How many news may be published and not yet acknowledged.
const UNACKNOWLEDGED_MAX: usize = 256;
/// When news are published again that the broker did not take.
const RETRY: Duration = Duration::from_millis(250);
/// How many messages may have arrived, of each subscription, and not yet been taken in.
const ARRIVED_MAX: usize = 256;
/// How many commands the client may hold.
const COMMANDS_MAX: usize = 128;
/// How long one waits for a driver that is busy.
const BUSY: Duration = Duration::from_millis(1);

/// What tells one process from another that was the same replica.
const START_BYTES: usize = 8;
const HERE: u8 = 1;
const GONE: u8 = 0;

/// What things are called at the broker.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) node: NodeId,
    pub(super) prefix: String,
    pub(super) stream: String,
    /// Of the consumer with which this replica reads the stream. There is never more than one.
    pub(super) consumer: String,
}

impl Names {
    pub(super) fn new(prefix: &str, cluster: ClusterId, node: NodeId) -> Self {
        Self {
            node,
            prefix: format!("{prefix}.{cluster}"),
            stream: format!("{}-{cluster}", prefix.replace('.', "_")),
            consumer: node.to_string(),
        }
    }

    fn subject(&self, what: &str) -> String {
        format!("{}.{what}.{}", self.prefix, self.node)
    }

    /// Who has published on a subject: its last part.
    pub(super) fn sender(subject: &str) -> Option<NodeId> {
        let (_, hex) = subject.rsplit_once('.')?;
        let is_hex = hex.len() == 32 && hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let id = u128::from_str_radix(hex, 16).ok().filter(|_| is_hex)?;
        Some(NodeId::from_bytes(id.to_be_bytes()))
    }
}

pub(super) struct Connection {
    addresses: Vec<ServerAddr>,
    options: ConnectOptions,
    pub(super) names: Names,
    pub(super) stream_config: jetstream::stream::Config,
    pub(super) outbox: Arc<Outbox>,
    inbound: Sender<Inbound>,
    pub(super) counters: Arc<Counters>,
    /// Tells this process from others that say they are the same replica.
    start: [u8; START_BYTES],
    /// News could not be published: the stream may be gone.
    pub(super) doubt: Notify,
    peers: Peers,
    /// How far the stream has been read.
    position: Option<Position>,
}

/// How a connection ended.
enum End {
    Stopped,
    Lost,
}

impl Connection {
    pub(super) fn new(
        addresses: Vec<ServerAddr>,
        options: ConnectOptions,
        names: Names,
        stream_config: jetstream::stream::Config,
        outbox: Arc<Outbox>,
        inbound: Sender<Inbound>,
        counters: Arc<Counters>,
    ) -> Result<Self, WireError> {
        let options = options
            .name(format!("rescind {}", names.node))
            .custom_inbox_prefix(names.subject("inbox"))
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING)
            .request_timeout(Some(ANSWER))
            .subscription_capacity(ARRIVED_MAX)
            .client_capacity(COMMANDS_MAX)
            // Those that servers tell of are addresses, which certificates need not be for.
            .ignore_discovered_servers();
        let mut start = [0; START_BYTES];
        getrandom::fill(&mut start)
            .map_err(|error| WireError::Options(format!("the system gives no random bytes: {error}")))?;
        let doubt = Notify::new();
        let peers = Peers::default();
        Ok(Self {
            addresses,
            options,
            names,
            stream_config,
            outbox,
            inbound,
            counters,
            start,
            doubt,
            peers,
            position: None,
        })
    }

    /// Starts the thread, and gives what stops it.
    pub(super) fn start(self) -> Result<(impl FnOnce() + Send + Sync + use<>, JoinHandle<()>), WireError> {
        let failed = |error| WireError::Thread(Arc::new(error));
        let runtime = new_runtime().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let (wake, woken) = bounded::<()>(0);
        let thread = std::thread::Builder::new().name("rescind-nats-io".into());
        let thread = thread.spawn(move || self.run(runtime, &stopped, &woken)).map_err(failed)?;
        let stop = move || {
            stop.send_replace(true);
            drop(wake);
        };
        Ok((stop, thread))
    }

    fn run(mut self, first: Runtime, stopped: &watch::Receiver<bool>, woken: &Receiver<()>) {
        let mut runtime = Some(first);
        let mut backoff = BACKOFF;
        loop {
            match runtime.take().map_or_else(new_runtime, Ok) {
                Ok(runtime) => {
                    let begun = Instant::now();
                    let end = runtime.block_on(self.connect(stopped.clone()));
                    runtime.shutdown_background();
                    self.counters.connected.store(false, Ordering::Relaxed);
                    let given_up = self.outbox.disconnected();
                    self.counters.add(&self.counters.dropped, given_up as u64);
                    if matches!(end, End::Stopped) {
                        return;
                    }
                    if begun.elapsed() >= GOOD_AFTER {
                        backoff.reset();
                    }
                }
                Err(error) => self.counters.failed(format!("cannot start a runtime: {error}")),
            }
            let now = Instant::now();
            if let Some(peers) = self.peers.changed(now) {
                self.inbound.try_send(Inbound::Peers(peers.clone())).is_ok().then(|| self.peers.told = peers);
            }
            if woken.recv_timeout(backoff.next()) == Err(crossbeam_channel::RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    async fn connect(&mut self, mut stopped: watch::Receiver<bool>) -> End {
        let (lost, mut is_lost) = watch::channel(false);
        let counters = Arc::clone(&self.counters);
        let lost = Arc::new(lost);
        let options = self.options.clone().event_callback(move |event| {
            match event {
                Event::Disconnected | Event::Closed => _ = lost.send_replace(true),
                Event::SlowConsumer(_) => counters.add(&counters.dropped, 1),
                Event::ServerError(error) => counters.failed(format!("NATS: {error}")),
                Event::ClientError(error) => counters.failed(format!("NATS: {error}")),
                Event::Connected | Event::LameDuckMode | Event::Draining => {}
            }
            std::future::ready(())
        });
        let connecting = timeout(2 * CONNECT_TIMEOUT, options.connect(self.addresses.as_slice()));
        let client = select! {
            _ = stopped.wait_for(|stopped| *stopped) => return End::Stopped,
            connected = connecting => match connected {
                Ok(Ok(client)) => client,
                Ok(Err(error)) => {
                    if matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication) {
                        self.counters.add(&self.counters.refused, 1);
                        self.counters.failed(format!("NATS refuses these credentials: {error}"));
                    } else {
                        self.counters.failed(format!("cannot connect to NATS: {error}"));
                    }
                    return End::Lost;
                }
                Err(_) => {
                    self.counters.failed("cannot connect to NATS in time");
                    return End::Lost;
                }
            }
        };
        self.counters.add(&self.counters.connects, 1);
        let context = context::ContextBuilder::new().timeout(ANSWER).build(client.clone());
        let (mut peers, mut position) = (std::mem::take(&mut self.peers), self.position.take());
        let served = select! {
            _ = stopped.wait_for(|stopped| *stopped) => End::Stopped,
            _ = is_lost.wait_for(|lost| *lost) => {
                self.counters.failed("the connection to NATS was lost");
                End::Lost
            }
            end = self.serve(&client, &context, &mut peers, &mut position) => end,
        };
        if matches!(served, End::Stopped) {
            timeout(GOODBYE, self.say_goodbye(&client, &context)).await.ok();
        }
        (self.peers, self.position) = (peers, position);
        served
    }

    /// Does all there is to do, on one connection.
    async fn serve(
        &self,
        client: &Client,
        context: &jetstream::Context,
        peers: &mut Peers,
        position: &mut Option<Position>,
    ) -> End {
        let presence = client.subscribe(format!("{}.here.*", self.names.prefix));
        let addressed = client.subscribe(format!("{}.*", self.names.subject("to")));
        let (presence, addressed) = match (presence.await, addressed.await) {
            (Ok(presence), Ok(addressed)) => (presence, addressed),
            (Err(error), _) | (_, Err(error)) => {
                self.counters.failed(format!("cannot subscribe: {error}"));
                return End::Lost;
            }
        };
        // Whoever begins does not know yet from whom news may come.
        let introductions = if peers.told.is_empty() { INTRODUCTIONS } else { Duration::ZERO };
        let (opened, is_open) = watch::channel(false);
        self.outbox.connected();
        self.counters.connected.store(true, Ordering::Relaxed);
        self.offer_room();
        select! {
            () = self.be_present(client, presence, peers) => {}
            () = self.take_addressed(addressed) => {}
            () = self.send_addressed(client) => {}
            () = self.publish(context, is_open) => {}
            () = self.read(context, position, introductions, &opened) => {}
        }
        End::Lost
    }

    /// Says each second who is here, and hears it.
    async fn be_present(&self, client: &Client, mut presence: Subscriber, peers: &mut Peers) {
        let subject = self.names.subject("here");
        let mut here = vec![HERE];
        here.extend_from_slice(&self.start);
        let mut next = Instant::now();
        loop {
            select! {
                () = sleep_until(next) => {
                    if client.publish(subject.clone(), here.clone().into()).await.is_err()
                        || client.connection_state() != async_nats::connection::State::Connected
                    {
                        return;
                    }
                    let now = Instant::now();
                    next = now + PRESENCE;
                    self.outbox.forget(now);
                }
                message = presence.next() => {
                    let Some(message) = message else { return };
                    let Some(from) = Names::sender(&message.subject) else { continue };
                    let Some((kind, start)) = message.payload.split_first() else { continue };
                    let now = Instant::now();
                    if from != self.names.node {
                        if peers.hear(from, *kind, start, now) {
                            next = next.min(now + GREETING);
                        }
                    } else if *kind == HERE && start != self.start {
                        self.counters.failed("another process says that it is this replica: give each a name of its own");
                    }
                }
            }
            if let Some(changed) = peers.changed(Instant::now()) {
                self.hand(Inbound::Peers(changed.clone())).await;
                peers.told = changed;
            }
        }
    }

    async fn take_addressed(&self, mut addressed: Subscriber) {
        while let Some(message) = addressed.next().await {
            match Names::sender(&message.subject) {
                Some(from) => self.hand(Inbound::Message { from, bytes: message.payload.into() }).await,
                None => self.counters.add(&self.counters.rejected, 1),
            }
        }
    }

    async fn send_addressed(&self, client: &Client) {
        loop {
            while let Some((to, bytes)) = self.outbox.next_addressed() {
                let subject = format!("{}.to.{to}.{}", self.names.prefix, self.names.node);
                if let Err(error) = client.publish(subject, bytes.to_vec().into()).await {
                    self.counters.add(&self.counters.dropped, 1);
                    self.counters.failed(format!("cannot send a message of {} bytes: {error}", bytes.len()));
                }
                self.offer_room();
            }
            self.outbox.addressed.notified().await;
        }
    }

    /// Publishes news, many at a time, until the broker has acknowledged them.
    async fn publish(&self, context: &jetstream::Context, mut is_open: watch::Receiver<bool>) {
        if is_open.wait_for(|is_open| *is_open).await.is_err() {
            return;
        }
        let subject = self.names.subject("news");
        let start = u64::from_be_bytes(self.start);
        let mut unacknowledged = FuturesUnordered::new();
        loop {
            while unacknowledged.len() < UNACKNOWLEDGED_MAX
                && let Some((number, bytes)) = self.outbox.next_news()
            {
                let message = PublishMessage::build()
                    .message_id(format!("{}-{start:016x}-{number}", self.names.node))
                    .payload(bytes.to_vec().into());
                let sent = context.send_publish(subject.clone(), message).await;
                unacknowledged.push(async move {
                    let error = match sent {
                        Ok(acknowledgement) => match acknowledgement.await {
                            Ok(_) => return (number, Ok(())),
                            Err(error) => error,
                        },
                        Err(error) => error,
                    };
                    if error.kind() != context::PublishErrorKind::MaxPayloadExceeded {
                        self.doubt.notify_one();
                        sleep(RETRY).await;
                    }
                    (number, Err(error))
                });
            }
            select! {
                Some((number, published)) = unacknowledged.next() => match published {
                    Ok(()) => {
                        self.outbox.acknowledge(number, Instant::now());
                        self.offer_room();
                    }
                    Err(error) if error.kind() == context::PublishErrorKind::MaxPayloadExceeded => {
                        self.counters.add(&self.counters.dropped, 1);
                        self.counters.failed(format!("news are too long for the server: {error}"));
                        self.outbox.acknowledge(number, Instant::now());
                    }
                    Err(error) => {
                        self.counters.failed(format!("cannot publish: {error}"));
                        self.outbox.retry(number);
                    }
                },
                () = self.outbox.news.notified() => {}
            }
        }
    }

    fn offer_room(&self) {
        if self.outbox.has_room_again() {
            // If its channel is full it is awake, and asks.
            self.inbound.try_send(Inbound::Room).ok();
        }
    }

    /// Hands something to the driver; waits if that is busy, and with it whatever is behind.
    pub(super) async fn hand(&self, mut inbound: Inbound) {
        loop {
            match self.inbound.try_send(inbound) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) => inbound = back,
                Err(TrySendError::Disconnected(_)) => {
                    self.counters.failed("the thread that drives the replica has ended");
                    return std::future::pending().await;
                }
            }
            sleep(BUSY).await;
        }
    }

    async fn say_goodbye(&self, client: &Client, context: &jetstream::Context) {
        let mut gone = vec![GONE];
        gone.extend_from_slice(&self.start);
        client.publish(self.names.subject("here"), gone.into()).await.ok();
        // Its answer comes after the rest has gone out.
        context.delete_consumer_from_stream(&self.names.consumer, &self.names.stream).await.ok();
    }
}

fn new_runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

/// Who has been heard of.
#[derive(Debug, Default)]
struct Peers {
    heard: BTreeMap<NodeId, Heard>,
    /// What the driver knows.
    told: BTreeSet<NodeId>,
}

#[derive(Debug)]
struct Heard {
    start: Vec<u8>,
    last: Instant,
}

impl Peers {
    /// Whether they are new, and are to be greeted.
    fn hear(&mut self, from: NodeId, kind: u8, start: &[u8], now: Instant) -> bool {
        if kind == GONE {
            // Not if another process has taken its place meanwhile.
            if self.heard.get(&from).is_some_and(|heard| heard.start == start) {
                self.heard.remove(&from);
            }
            return false;
        }
        if let Some(heard) = self.heard.get_mut(&from).filter(|heard| heard.start == start) {
            heard.last = now;
            return false;
        }
        if start.len() != START_BYTES || (self.heard.len() >= PEERS_MAX && !self.heard.contains_key(&from)) {
            return false;
        }
        self.heard.insert(from, Heard { start: start.to_vec(), last: now });
        true
    }

    /// Who is here, if that is not what was told.
    fn changed(&mut self, now: Instant) -> Option<BTreeSet<NodeId>> {
        self.heard.retain(|_, heard| now.duration_since(heard.last) < ABSENT_AFTER);
        (!self.told.iter().eq(self.heard.keys())).then(|| self.heard.keys().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_a_subject_is_who_sent_it() {
        let node = NodeId::named("node");
        let names = Names::new("team.auth", ClusterId::named("cluster"), node);
        assert_eq!(Names::sender(&names.subject("news")), Some(node));
        assert!(names.stream.starts_with("team_auth-") && !names.stream.contains('.'));
        let hex = node.to_string();
        let refused = [
            String::new(),
            hex.clone(),
            format!("a.{}", &hex[1..]),
            format!("a.0{hex}"),
            format!("a.+{}", &hex[1..]),
            format!("a.{}", "A".repeat(32)),
        ];
        for subject in refused {
            assert_eq!(Names::sender(&subject), None, "{subject}");
        }
    }

    #[test]
    fn peers_are_those_that_were_heard_of_lately() {
        let (a, b) = (NodeId::named("a"), NodeId::named("b"));
        let (first, second) = ([1; START_BYTES], [2; START_BYTES]);
        let begun = Instant::now();
        let mut peers = Peers::default();
        let told = |peers: &mut Peers, now| {
            let changed = peers.changed(now)?;
            peers.told = changed.clone();
            Some(changed.into_iter().collect::<Vec<_>>())
        };
        assert!(peers.hear(a, HERE, &first, begun) && !peers.hear(a, HERE, &first, begun), "new once");
        assert!(!peers.hear(b, HERE, b"short", begun) && !peers.hear(b, GONE, &first, begun));
        assert_eq!((told(&mut peers, begun), told(&mut peers, begun)), (Some(vec![a]), None));
        assert!(peers.hear(a, HERE, &second, begun), "another process is greeted too");
        peers.hear(a, GONE, &first, begun);
        assert_eq!(told(&mut peers, begun), None, "the earlier process has gone, not this one");
        let later = begun + ABSENT_AFTER / 2;
        peers.hear(b, HERE, &first, later);
        assert_eq!(told(&mut peers, begun + ABSENT_AFTER), Some(vec![b]), "nothing was heard of the other");
        peers.hear(b, GONE, &first, later);
        assert_eq!(told(&mut peers, later), Some(vec![]));
    }

    #[test]
    fn there_is_an_end_to_who_is_believed_to_be_here() {
        let mut peers = Peers::default();
        let now = Instant::now();
        for number in 0..PEERS_MAX as u128 + 10 {
            peers.hear(NodeId::from_bytes(number.to_be_bytes()), HERE, &[1; START_BYTES], now);
        }
        assert_eq!(peers.heard.len(), PEERS_MAX);
        assert!(peers.hear(NodeId::from_bytes([0; 16]), HERE, &[2; START_BYTES], now), "who is known may start again");
    }
}
