//! NATS JetStream: replicas that all reach a broker, and need not reach each other.
//!
//! ```no_run
//! use rescind::wire::{Engine, nats::Nats};
//! # fn start(replica: &rescind::Replica, credentials: &str) -> Result<(), rescind::wire::WireError> {
//! let wire = Nats::new("tls://nats-1.internal,tls://nats-2.internal").credentials(credentials).start(replica)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What goes where
//! Of a cluster with the [id](crate::ClusterId) `C`, seen by the replica with the [id](crate::NodeId) `N`, both as 32 hexadecimal digits:
//!
//! | subject | what |
//! |---|---|
//! | `rescind.C.news.N` | what `N` has changed, once for everybody: kept by the stream `rescind-C`, and acknowledged |
//! | `rescind.C.to.P.N` | what `N` has to say to `P` alone: not kept |
//! | `rescind.C.here.N` | that `N` is here, each second; and that it goes |
//! | `rescind.C.inbox.N.>` | what the broker answers `N` |
//!
//! Each replica reads the stream from its beginning when it starts, and after an outage from where it was. What the broker
//! has not acknowledged is published again, under the same `Nats-Msg-Id`. A broker that has lost its data, or is another, is
//! given what this replica published in the last two minutes, and all that it holds is read: [`WireStats::resets`]. What a
//! replica finds that it can no longer read counts as a [gap](WireStats::gaps). Whatever is missing then is repaired by the
//! comparison of contents, which goes on beside all this, and replicas are not fresh until it has.
//!
//! # The stream
//! It is made if it is missing: file storage, one subject for each replica, [one hour](Nats::history), [one copy](Nats::stream_replicas), a
//! duplicate window of two minutes. One that exists is used as it is, so one that needs more than these options can be made
//! beforehand; it has to take `rescind.C.news.*`, and nothing else. Options that are changed later do not change it.
//!
//! A server acknowledges before what it acknowledges is on its disk. Set `sync_interval: always` in its `jetstream` block: otherwise
//! what it acknowledged in up to two minutes is lost with the power, and comes back only by comparison. The largest message has
//! 1 MiB and 48 bytes, and those of ordinary stores 300 KiB at most; one that is longer than the server's `max_payload` (1 MiB unless set,
//! headers included) is given up, counted as [dropped](WireStats::dropped), and told of. `max_payload: 2MB` takes all.
//!
//! # Who may do what
//! The broker tells a replica who sent a message by its subject, and the replica believes it. So whoever may publish `rescind.>` can
//! revoke anything and pretend to be anybody, and **permissions on subjects are the boundary**. Give each replica a user of its own,
//! and it can speak for itself only:
//!
//! ```text
//! publish = [
//!   "rescind.C.news.N", "rescind.C.to.*.N", "rescind.C.here.N",
//!   "$JS.API.STREAM.INFO.rescind-C", "$JS.API.STREAM.CREATE.rescind-C",
//!   "$JS.API.CONSUMER.CREATE.rescind-C.N", "$JS.API.CONSUMER.DELETE.rescind-C.N", "$JS.API.CONSUMER.MSG.NEXT.rescind-C.N",
//! ]
//! subscribe = ["rescind.C.to.N.*", "rescind.C.here.*", "rescind.C.inbox.N.>"]
//! ```
//!
//! `STREAM.CREATE` is not needed if the stream exists. The [`prefix`](Nats::prefix) takes the place of `rescind`.
//!
//! # What is needed
//! nats-server 2.9 or later, with JetStream. Without JetStream, or while it does not answer, replicas reach each other all the
//! same, and hear of changes by comparison, some heartbeats later.

mod connection;
mod outbox;
mod reader;
mod servers;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;

use crate::Replica;

use self::connection::{Connection, Names};
use self::outbox::{Entrance, Outbox};
use self::servers::{Login, Servers};
use super::{Counters, Engine, Wire, WireError, driver};

#[cfg(doc)]
use super::WireStats;

/// Shorter than it takes to start a replica again is of no use.
const HISTORY_MIN: Duration = Duration::from_secs(1);
/// The most copies that JetStream makes.
const STREAM_REPLICAS_MAX: usize = 5;

/// An engine for NATS JetStream. Setters may be chained; [`start`](Engine::start) starts it, whether or not the broker is
/// there.
#[derive(Clone)]
#[must_use]
pub struct Nats {
    urls: String,
    login: Option<Login>,
    roots: Option<String>,
    client_certificate: Option<(String, String)>,
    history: Duration,
    stream_replicas: usize,
    prefix: String,
}

impl Nats {
    /// The servers, as `nats://host:port` or `tls://host:port`, separated by commas. The port is 4222 if it is left out. A user and a
    /// password may stand before the host, or a token alone; they are the same for all servers.
    ///
    /// `tls` refuses a server without TLS, and `nats` takes what the server offers: without TLS, credentials and messages can be
    /// read on the way. Other servers of the broker's cluster are not found by themselves: name all, or a name that resolves to all.
    pub fn new(urls: impl Into<String>) -> Self {
        Self {
            urls: urls.into(),
            login: None,
            roots: None,
            client_certificate: None,
            history: Duration::from_secs(3600),
            stream_replicas: 1,
            prefix: "rescind".into(),
        }
    }

    /// A user and a password, in place of what the URLs say.
    pub fn user_and_password(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some(Login::User(user.into(), password.into()));
        self
    }

    /// A token, in place of what the URLs say.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.login = Some(Login::Token(token.into()));
        self
    }

    /// What a credentials file holds, a JWT and the seed of an nkey: its text, not its path.
    pub fn credentials(mut self, text: impl Into<String>) -> Self {
        self.login = Some(Login::Credentials(text.into()));
        self
    }

    /// The seed of an nkey of a user: it begins with `SU`.
    pub fn nkey(mut self, seed: impl Into<String>) -> Self {
        self.login = Some(Login::Nkey(seed.into()));
        self
    }

    /// The authorities that the server's certificate may be of, in PEM, in place of those that the system trusts. Servers
    /// without TLS are refused then.
    pub fn root_certificates(mut self, pem: impl Into<String>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// A certificate to show to the server (and what is between it and its authority), and its key, in PEM. Servers without TLS are
    /// refused then.
    pub fn client_certificate(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.client_certificate = Some((certificate.into(), key.into()));
        self
    }

    /// How long the stream keeps what was published, if it has to be made. Default: one hour. A replica that was away for longer
    /// compares contents, which it does in any case; so this need not be as long as tokens live.
    pub fn history(mut self, history: Duration) -> Self {
        self.history = history;
        self
    }

    /// How many servers keep a copy of the stream, if it has to be made: 1 to 5. Default: 1, which works with a single server. With
    /// three servers, take 3, and one of them may be lost.
    pub fn stream_replicas(mut self, replicas: usize) -> Self {
        self.stream_replicas = replicas;
        self
    }

    /// What subjects begin with, in place of `rescind`, and the stream's name too, with `_` for dots: letters, digits and hyphens, and dots
    /// between them. The same for all replicas of a cluster.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    fn validate(&self) -> Result<(), WireError> {
        let refuse = |why: &str| Err(WireError::Options(why.to_owned()));
        if self.history < HISTORY_MIN {
            return refuse("a history of less than a second keeps nothing: leave it at an hour");
        }
        if !(1..=STREAM_REPLICAS_MAX).contains(&self.stream_replicas) {
            return refuse("a stream has 1 to 5 replicas: as many as there are servers, but no more than that");
        }
        let is_plain =
            |part: &str| !part.is_empty() && part.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
        if !self.prefix.split('.').all(is_plain) {
            return refuse("a prefix has letters, digits and hyphens, and dots between them");
        }
        Ok(())
    }
}

impl Engine for Nats {
    fn start(self, replica: &Replica) -> Result<Wire, WireError> {
        self.validate()?;
        let tls = servers::tls(self.roots.as_deref(), self.client_certificate.as_ref())?;
        let Servers { addresses, login } = Servers::parse(&self.urls)?;
        let names = Names::new(&self.prefix, replica.cluster(), replica.node());
        let needs_tls = self.roots.is_some() || self.client_certificate.is_some();
        let options = ConnectOptions::new().tls_client_config(tls).require_tls(needs_tls);
        let options = match self.login.or(login) {
            Some(login) => login.add_to(options)?,
            None => options,
        };

        let counters = Arc::<Counters>::default();
        let outbox = Arc::<Outbox>::default();
        let entrance = Entrance { outbox: Arc::clone(&outbox), counters: Arc::clone(&counters) };
        let (inbound, driver) = driver::start("rescind-nats", replica.bus(), entrance, Arc::clone(&counters))?;
        let stream = reader::stream_config(&names, self.history, self.stream_replicas);
        let connection = Connection::new(addresses, options, names, stream, outbox, inbound, Arc::clone(&counters))?;
        let (stop, thread) = connection.start()?;
        Ok(Wire::new(counters, None, stop, vec![thread, driver]))
    }
}

impl fmt::Debug for Nats {
    /// Without what is secret: URLs are told without what stands before the host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = Servers::parse(&self.urls).map(|servers| servers.to_string());
        f.debug_struct("Nats")
            .field("servers", &servers.as_deref().unwrap_or("not usable"))
            .field("login", &self.login.as_ref().map(Login::kind))
            .field("history", &self.history)
            .field("stream_replicas", &self.stream_replicas)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let refused = [
            Nats::new("nats://host").history(Duration::ZERO),
            Nats::new("nats://host").stream_replicas(0),
            Nats::new("nats://host").stream_replicas(6),
            Nats::new("nats://host").prefix(""),
            Nats::new("nats://host").prefix("a..b"),
            Nats::new("nats://host").prefix("a.*"),
            Nats::new("nats://host").prefix("a b"),
        ];
        for nats in refused {
            assert!(matches!(nats.validate(), Err(WireError::Options(_))), "{nats:?}");
        }
        assert!(Nats::new("nats://host").prefix("team-1.auth").stream_replicas(5).validate().is_ok());
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let of_url = Nats::new("nats://user:hunter2@one,tls://user:hunter2@two:4333");
        let told = format!("{of_url:?}");
        assert!(told.contains("nats://one:4222,tls://two:4333") && !told.contains("hunter2"), "{told}");
        let each = [
            Nats::new("nats://one").user_and_password("user", "hunter2"),
            Nats::new("nats://one").token("hunter2"),
            Nats::new("nats://one").credentials("hunter2"),
            Nats::new("nats://one").nkey("SUhunter2"),
            Nats::new("nats://hunter2@one:port").client_certificate("hunter2", "hunter2"),
        ];
        for nats in each {
            assert!(!format!("{nats:?}").contains("hunter2"), "{nats:?}");
        }
    }
}
