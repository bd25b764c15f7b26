//! Redis or Valkey Streams: every replica writes what is new to one stream, and reads it whole.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use rescind::wire::{Engine, redis::Redis};
//! # use rescind::{Key, NodeId, Options, Replication};
//! # let store = Options::new().key(Key::generate()?).open("revocations")?;
//! # let one = NodeId::named("one");
//! # let replica = store.replicate(Replication::trusting_issuers("acme", one, [one]))?;
//!
//! let wire = Redis::new("rediss://rescind:password@redis.internal").history(Duration::from_secs(3600)).start(&replica)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is where
//!
//! All keys begin with `rescind:{<cluster>}:`, where the cluster is the [`ClusterId`] in hexadecimal, and
//! the braces keep them together:
//!
//! | key | what it is |
//! |---|---|
//! | `...:news` | stream of what was changed, as long as [`history`](Redis::history), and of a million messages at most |
//! | `...:to:<node>` | stream of what is addressed to one replica. It trims what it has read; an absent one's vanishes after a minute |
//! | `...:nodes` | sorted set of the replicas, by when each was last there |
//!
//! An entry of a stream has one field, `d`: 16 bytes that name the sender, and the message. A replica reads both its streams
//! over one connection, and writes over another. A sender is a peer for 30 seconds after it was last there.
//!
//! # What is lost, and how it is found
//!
//! Redis acknowledges what it may yet lose, and tells nobody: a reader that waits behind a stream that has been trimmed, or
//! has begun anew, is answered as if nothing were missing. So each second, and whenever it connects, a replica asks what the
//! stream begins and ends with, and which server this is.
//!
//! | found | counted as | what is done |
//! |---|---|---|
//! | the stream begins after what was read last | [`gaps`](super::WireStats::gaps) | peers are compared with, as always |
//! | it ends before that, is gone, or is another; the server was restarted, or is another | [`resets`](super::WireStats::resets) | everything is read from the beginning, and what was published in the last two minutes is published again |
//!
//! What cannot be published waits, up to 8 MiB of it. Beyond that, and beyond the history, replicas repair each other, as they do
//! however a message is lost. While Redis is out of reach they grow stale, and say so.
//!
//! With a history as long as the longest life of a credential, Redis is a second copy: from it a replica that has lost its disk
//! gets what *others* have issued, also of those that are gone.
//!
//! # What the server needs
//!
//! Redis 7 or any Valkey; Redis 6.2 will do, where a stream that is emptied and written to within a second is not noticed. No
//! eviction (`maxmemory-policy noeviction`). Any persistence will do, and none. Of a Redis Cluster, name the node that has the
//! keys: redirections are not followed, and are told as an error.
//!
//! Whoever may write to these keys is believed, whatever name it bears: this is the boundary. Use `rediss://`, and give the
//! replicas, and nobody else, a user with no more than this:
//!
//! ```text
//! ACL SETUSER rescind on >password ~rescind:{<cluster>}:* -@all +ping +time +info +xadd +xread +xtrim +xinfo|stream +pexpire +zadd +zrem +zrangebyscore +zremrangebyscore
//! ```
//!
//! and `+select` if the URL names a database.

mod connection;
mod outbox;
mod reader;
mod tls;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use redis::IntoConnectionInfo;
use zeroize::Zeroizing;

use crate::{ClusterId, NodeId, Replica};

use self::connection::{Address, Failure};
use self::reader::Reader;
use self::writer::Writer;
use super::backoff::Backoff;
use super::driver::{self, Outlet};
use super::{Counters, Engine, Wire, WireError};

/// Before it is connected to again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
/// How many messages for everybody may wait for the thread that writes.
const NEWS_MAX: usize = 1024;
/// How many addressed messages may; most are of 64 KiB at most.
const ADDRESSED_MAX: usize = 64;

/// Replicas that talk by way of a Redis or Valkey server. Setters may be chained; see the [module](self).
#[must_use]
pub struct Redis {
    url: Zeroizing<String>,
    prefix: String,
    history: Duration,
    root_certificates: Option<Vec<u8>>,
    client_certificate: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl Redis {
    /// By way of the server at a URL: `redis://user:password@host:port/database`, of which all but the host may be left out;
    /// `rediss://` with TLS. What is special in a name or password is percent-encoded.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Zeroizing::new(url.into()),
            prefix: "rescind".to_owned(),
            history: Duration::from_secs(60 * 60),
            root_certificates: None,
            client_certificate: None,
        }
    }

    /// How long what is new stays in the stream, by the server's clock. Whoever is away for no longer reads all of it. It takes
    /// some 200 bytes of the server's memory for each revocation. Default: 1 hour.
    pub fn history(mut self, history: Duration) -> Self {
        self.history = history;
        self
    }

    /// What all keys begin with. Default: `rescind`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The authorities of which one must have signed the server's certificate, in PEM. Default: those that the system trusts.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates = Some(pem.into());
        self
    }

    /// The certificate to show to the server, with whatever leads to its authority, and its private key; both in PEM.
    /// Default: none.
    pub fn client_certificate(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.client_certificate = Some((chain.into(), Zeroizing::new(key.into())));
        self
    }

    fn validate(&self) -> Result<(), WireError> {
        let refuse = |why: &str| Err(WireError::Options(why.to_owned()));
        if self.history < Duration::from_secs(1) {
            return refuse("a history of less than a second: whoever reconnects would have missed it");
        }
        if self.prefix.is_empty() || self.prefix.len() > 256 || self.prefix.contains(['{', '}']) {
            return refuse("a prefix has 1 to 256 bytes, and no braces, which keep the keys together");
        }
        Ok(())
    }

    /// Where to connect. No error may tell the URL, nor what others say of it: a password that is not encoded may be anywhere.
    fn address(&self) -> Result<Address, WireError> {
        let refuse = |why: &str| WireError::Options(why.to_owned());
        let info = self.url.as_str().into_connection_info().map_err(|_| {
            refuse(
                "not the URL of a Redis server, which is redis://user:password@host:port/database, or rediss:// with TLS; \
                 percent-encode what is special in a password",
            )
        })?;
        let (host, port, is_tls) = match info.addr() {
            redis::ConnectionAddr::Tcp(host, port) => (host, *port, false),
            redis::ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err(refuse("#insecure accepts any server: name its authority by Redis::root_certificates"));
            }
            redis::ConnectionAddr::TcpTls { host, port, .. } => (host, *port, true),
            _ => {
                return Err(refuse("a Redis server is reached over TCP only: redis://host:port or rediss://host:port"));
            }
        };
        if !is_tls && (self.root_certificates.is_some() || self.client_certificate.is_some()) {
            return Err(refuse("certificates are for TLS: let the URL begin with rediss://"));
        }
        let tls = is_tls.then(|| {
            let client = self.client_certificate.as_ref();
            tls::connector(host, self.root_certificates.as_deref(), client.map(|(chain, key)| (&**chain, &***key)))
        });
        let settings = info.redis_settings();
        Ok(Address {
            host: host.clone(),
            port,
            tls: tls.transpose()?,
            username: settings.username().map(str::to_owned),
            password: settings.password().map(|password| Zeroizing::new(password.to_owned())),
            database: settings.db(),
        })
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.url.as_str().into_connection_info().ok();
        f.debug_struct("Redis")
            .field("server", &info.as_ref().map(|info| info.addr().to_string()))
            .field("prefix", &self.prefix)
            .field("history", &self.history)
            .field("has_root_certificates", &self.root_certificates.is_some())
            .field("has_client_certificate", &self.client_certificate.is_some())
            .finish_non_exhaustive()
    }
}

impl Engine for Redis {
    fn start(self, replica: &Replica) -> Result<Wire, WireError> {
        self.validate()?;
        let address = Arc::new(self.address()?);
        let keys = Arc::new(Keys::new(&self.prefix, replica.cluster()));
        let shared = Arc::new(Shared::default());
        let node = replica.node();

        let (running, stop) = bounded(0);
        let stop = Stop(stop);
        let (news, news_to_write) = bounded(NEWS_MAX);
        let (addressed, addressed_to_write) = bounded(ADDRESSED_MAX);
        let (republish, republishes) = bounded(1);
        let (reading, reader_gone) = bounded(0);
        let outlet = Queues { news, addressed, shared: Arc::clone(&shared) };
        let (driver, driving) = driver::start("rescind-redis", replica.bus(), outlet, Arc::clone(&shared.counters))?;

        let reader = Reader::new(node, Arc::clone(&address), Arc::clone(&keys), Arc::clone(&shared), stop.clone());
        let writer = Writer::new(node, address, keys, Arc::clone(&shared), stop, self.history);
        let to_reader = reader::Channels { driver: driver.clone(), republish, _reading: reading };
        let to_writer = writer::Channels {
            driver,
            news: news_to_write,
            addressed: addressed_to_write,
            republishes,
            reader_gone: Stop(reader_gone),
        };
        // Whatever has been started ends by itself if the next cannot be: `running` is gone then.
        let reading = spawn("rescind-redis-r", move || reader.run(&to_reader))?;
        let writing = spawn("rescind-redis-w", move || writer.run(&to_writer))?;
        Ok(Wire::new(Arc::clone(&shared.counters), None, move || drop(running), vec![reading, writing, driving]))
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, WireError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| WireError::Thread(Arc::new(error)))
}

/// The names of the keys of a cluster.
struct Keys {
    news: String,
    nodes: String,
    to: String,
}

impl Keys {
    fn new(prefix: &str, cluster: ClusterId) -> Self {
        let key = |of: &str| format!("{prefix}:{{{cluster}}}:{of}");
        Self { news: key("news"), nodes: key("nodes"), to: key("to") }
    }

    fn to(&self, node: NodeId) -> String {
        format!("{}:{node}", self.to)
    }
}

/// Says that somebody is gone: nothing is ever sent, and the other end is dropped.
#[derive(Clone)]
struct Stop(Receiver<()>);

impl Stop {
    fn is_due(&self) -> bool {
        self.0.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// `true` if it came while waiting.
    fn within(&self, time: Duration) -> bool {
        self.0.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}

/// The two connections.
#[derive(Clone, Copy)]
enum Side {
    Reading,
    Writing,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reading => "reading",
            Self::Writing => "writing",
        })
    }
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    counters: Arc<Counters>,
    reading: AtomicBool,
    writing: AtomicBool,
    /// The server's clock, in milliseconds, as it was a moment ago; zero before it was asked.
    server_ms: AtomicU64,
    /// Whether the driver has found no room.
    is_waited_for: AtomicBool,
}

impl Shared {
    fn side(&self, side: Side) -> &AtomicBool {
        match side {
            Side::Reading => &self.reading,
            Side::Writing => &self.writing,
        }
    }

    fn set_up(&self, side: Side, is_up: bool) {
        self.side(side).store(is_up, Ordering::SeqCst);
        let both = self.reading.load(Ordering::SeqCst) && self.writing.load(Ordering::SeqCst);
        self.counters.connected.store(both, Ordering::Relaxed);
    }

    fn failed(&self, side: Side, failure: &Failure) {
        self.set_up(side, false);
        self.counters.add(&self.counters.refused, u64::from(failure.is_refusal));
        self.counters.failed(format_args!("{side}: {failure}"));
    }
}

/// Where the driver leaves what is to be written.
struct Queues {
    news: Sender<Arc<[u8]>>,
    addressed: Sender<(NodeId, Arc<[u8]>)>,
    shared: Arc<Shared>,
}

impl Queues {
    fn has_room<T>(&self, queue: &Sender<T>) -> bool {
        let has_room = !queue.is_full();
        if !has_room {
            self.shared.is_waited_for.store(true, Ordering::Relaxed);
        }
        has_room
    }

    fn count(&self, is_dropped: bool) {
        self.shared.counters.add(&self.shared.counters.dropped, u64::from(is_dropped));
    }
}

impl Outlet for Queues {
    fn takes(&mut self, _to: NodeId) -> bool {
        self.has_room(&self.addressed)
    }

    fn send(&mut self, to: NodeId, bytes: Arc<[u8]>) {
        self.count(self.addressed.try_send((to, bytes)).is_err());
    }

    fn takes_broadcast(&mut self) -> bool {
        self.has_room(&self.news)
    }

    fn broadcast(&mut self, bytes: Arc<[u8]>) {
        self.count(self.news.try_send(bytes).is_err());
    }
}

#[cfg(test)]
mod tests;
