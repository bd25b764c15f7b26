//! The thread that reads: what is new, what is addressed to this replica, who is there, and whether anything is missing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Sender, tick};
use redis::Value;

use crate::NodeId;
use crate::wire::driver::Inbound;

use super::connection::{Address, Connection, Failure, PATIENCE, Server, accepted, list, text};
use super::{BACKOFF, Backoff, Keys, Shared, Side, Stop};

/// How many messages of a stream are read at once.
const COUNT: u32 = 256;
/// How long the server waits for something to read. A reply is waited for longer than that.
const BLOCK: Duration = Duration::from_millis(500);
/// How often it is asked what it holds and who is there.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// For how long after it was last there a replica is a peer.
const PRESENT_MS: u64 = 30_000;
/// For how long it is remembered, for whoever looks at the server.
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;
/// How many messages the stream of news may hold: a bound for a server whose clock has been set back, where they never grow old.
const NEWS_KEPT: u32 = 1_000_000;

/// What the thread that reads is connected with.
pub(super) struct Channels {
    pub(super) driver: Sender<Inbound>,
    /// Has what was published lately published again.
    pub(super) republish: Sender<()>,
    /// Dropped when the thread ends.
    pub(super) _reading: Sender<()>,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) ms: u64,
    pub(super) sequence: u64,
}

impl Id {
    /// Before all others.
    pub(super) const ZERO: Self = Self { ms: 0, sequence: 0 };

    pub(super) fn parse(id: &str) -> Option<Self> {
        let (ms, sequence) = id.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.sequence)
    }
}

/// What a stream begins and ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// None if it is empty.
    pub(super) first: Option<Id>,
    /// The last that there ever was.
    pub(super) last: Id,
    /// How many it holds.
    pub(super) length: u64,
    /// How many it has ever held; none if the server does not tell, as before Redis 7.
    pub(super) added: Option<u64>,
}

impl Extent {
    /// Whether this may be what has become of what it was before, and of which so many messages have been read; and not a
    /// stream that took its place, which places do not tell where it was written to at once.
    fn follows(&self, before: Option<Self>, read: u64) -> bool {
        let Some(added) = self.added else { return true };
        let trimmed = |stream: &Self| stream.added.unwrap_or_default().saturating_sub(stream.length);
        let is_later = before.is_none_or(|before| {
            let is_untouched = trimmed(self) == trimmed(&before) && before.first.is_some();
            Some(added) >= before.added
                && trimmed(self) >= trimmed(&before)
                && (!is_untouched || self.first == before.first)
        });
        is_later && added >= read
    }

    /// Of a reply to `XINFO STREAM`; none if there is no such stream.
    pub(super) fn of(reply: Value) -> Result<Option<Self>, Failure> {
        if let Value::ServerError(error) = &reply
            && error.details().is_some_and(|details| details.contains("no such key"))
        {
            return Ok(None);
        }
        let (mut first, mut last, mut length, mut added) = (None, None, 0, None);
        let mut fields = list(accepted(reply)?).into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            match text(&name) {
                Some("last-generated-id") => last = text(&value).and_then(Id::parse),
                Some("length") => length = number(&value).unwrap_or_default(),
                Some("entries-added") => added = number(&value),
                Some("first-entry") => first = list(value).first().and_then(text).and_then(Id::parse),
                _ => {}
            }
        }
        match last {
            Some(last) => Ok(Some(Self { first, last, length, added })),
            None => Err(Failure::new("the server does not tell where a stream ends: it is older than Redis 5")),
        }
    }
}

/// How a stream has fared since it was read up to some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// All that comes after that is there.
    Whole,
    /// Something that comes after that is not.
    Trimmed,
    /// It is gone, or has begun anew.
    Begun,
}

impl Fate {
    /// Of a stream that has been read up to a place, so many messages from its beginning, and was so when it was looked at
    /// last.
    pub(super) fn of(stream: Option<Extent>, (read, count): (Id, u64), before: Option<Extent>) -> Self {
        match stream {
            _ if read == Id::ZERO => Self::Whole,
            Some(stream) if stream.last >= read && stream.follows(before, count) => match stream.first {
                Some(first) if first > read => Self::Trimmed,
                None if stream.last > read => Self::Trimmed,
                _ => Self::Whole,
            },
            _ => Self::Begun,
        }
    }
}

/// Why nothing more is read.
enum End {
    Stopped,
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A message that was read.
struct Read {
    at: Id,
    from: NodeId,
    bytes: Vec<u8>,
}

/// See the [module](self).
pub(super) struct Reader {
    node: NodeId,
    address: Arc<Address>,
    keys: Arc<Keys>,
    own: String,
    shared: Arc<Shared>,
    stop: Stop,
    server: Option<Server>,
    /// Up to where news have been read.
    news: Id,
    /// How many that were since it was begun with.
    news_read: u64,
    /// Their stream when it was looked at last.
    stream: Option<Extent>,
    /// Up to where what is addressed to this replica has been; none before the first look: what was sent to its former life is
    /// of no use.
    addressed: Option<Id>,
    /// Who is there, as the driver was told.
    peers: BTreeSet<NodeId>,
    server_ms: u64,
}

impl Reader {
    pub(super) fn new(node: NodeId, address: Arc<Address>, keys: Arc<Keys>, shared: Arc<Shared>, stop: Stop) -> Self {
        Self {
            node,
            address,
            own: keys.to(node),
            keys,
            shared,
            stop,
            server: None,
            news: Id::ZERO,
            news_read: 0,
            stream: None,
            addressed: None,
            peers: BTreeSet::new(),
            server_ms: 0,
        }
    }

    /// Until the engine stops.
    pub(super) fn run(mut self, channels: &Channels) {
        let mut backoff = BACKOFF;
        let address = Arc::clone(&self.address);
        loop {
            let Err(End::Failed(failure)) = self.serve(&address, channels, &mut backoff) else { return };
            if self.stop.is_due() {
                return;
            }
            self.shared.failed(Side::Reading, &failure);
            // A connection that is soon made again is no reason to forget who is there.
            let is_told = !backoff.has_failed() || self.announce(channels, BTreeSet::new()).is_ok();
            if !is_told || self.stop.within(backoff.next()) {
                return;
            }
        }
    }

    /// Reads over one connection until it fails, or until the engine stops.
    fn serve(&mut self, address: &Address, channels: &Channels, backoff: &mut Backoff) -> Result<(), End> {
        let mut connection = Connection::open(address, &self.stop)?;
        // What is missing is found before anything is read: reading goes over it in silence.
        self.check(&mut connection, channels)?;
        self.shared.counters.add(&self.shared.counters.connects, 1);
        self.shared.set_up(Side::Reading, true);
        backoff.reset();
        let checks = tick(CHECK_EVERY);
        while !self.stop.is_due() {
            if checks.try_recv().is_ok() {
                self.check(&mut connection, channels)?;
            }
            self.read(&mut connection, channels)?;
        }
        Ok(())
    }

    /// Asks what the server holds, and who is there.
    fn check(&mut self, connection: &mut Connection<'_>, channels: &Channels) -> Result<(), End> {
        let info = |key: &str| redis::cmd("XINFO").arg("STREAM").arg(key).take();
        let questions = [Server::questions().as_slice(), &[info(&self.keys.news), info(&self.own)]].concat();
        let mut answers = connection.ask(&questions, PATIENCE)?.into_iter();
        let (server, now_ms) = Server::of(&mut answers)?;
        let news = Extent::of(answers.next().unwrap_or_default())?;
        let addressed = Extent::of(answers.next().unwrap_or_default())?;
        self.server_ms = now_ms;
        self.shared.server_ms.store(now_ms, Ordering::Relaxed);
        self.compare(channels, server, news, addressed);

        let nodes = &self.keys.nodes;
        let command = |name: &str, key: &str| redis::cmd(name).arg(key).take();
        let since = |ms: u64| now_ms.saturating_sub(ms);
        let read = self.addressed.unwrap_or_default();
        let questions = [
            command("ZADD", nodes).arg(now_ms).arg(self.node.to_string()).take(),
            command("ZRANGEBYSCORE", nodes).arg(since(PRESENT_MS)).arg("+inf").take(),
            command("ZREMRANGEBYSCORE", nodes).arg("-inf").arg(since(REMEMBERED_MS)).take(),
            command("XTRIM", &self.own).arg("MINID").arg(read.to_string()).take(),
            command("XTRIM", &self.keys.news).arg("MAXLEN").arg("~").arg(NEWS_KEPT).take(),
        ];
        let answers = connection.ask(&questions, PATIENCE)?.into_iter().map(accepted);
        let answers: Vec<Value> = answers.collect::<Result<_, _>>()?;
        let present = answers.into_iter().nth(1).map(list).unwrap_or_default();
        let mut present: BTreeSet<NodeId> = present.iter().filter_map(|name| node(text(name)?)).collect();
        present.remove(&self.node);
        self.announce(channels, present)
    }

    /// Finds out whether something is missing, and where to go on.
    fn compare(&mut self, channels: &Channels, server: Server, news: Option<Extent>, addressed: Option<Extent>) {
        let counters = &self.shared.counters;
        let is_other = self.server.as_ref().is_some_and(|known| *known != server);
        let fate = Fate::of(news, (self.news, self.news_read), self.stream);
        self.stream = news;
        if fate == Fate::Trimmed {
            counters.add(&counters.gaps, 1);
            // Of what is gone one need not be told again.
            let last = news.map_or(Id::ZERO, |news| news.last);
            self.news = news.and_then(|news| news.first).map_or(last, |_| self.news);
        }
        // Another server, whose clock may be behind, may hold what has not been read before what has been.
        if is_other || fate == Fate::Begun {
            counters.add(&counters.resets, 1);
            (self.news, self.news_read) = (Id::ZERO, 0);
            // If it is full, that is due already.
            channels.republish.try_send(()).ok();
        }
        self.server = Some(server);
        let end = addressed.map_or(Id::ZERO, |addressed| addressed.last);
        match self.addressed {
            None => self.addressed = Some(end),
            Some(read) if is_other || Fate::of(addressed, (read, 0), None) == Fate::Begun => {
                self.addressed = Some(Id::ZERO)
            }
            Some(_) => {}
        }
    }

    /// Reads on, and waits a while if there is nothing to read.
    fn read(&mut self, connection: &mut Connection<'_>, channels: &Channels) -> Result<(), End> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(COUNT).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
        command.arg(&self.keys.news).arg(&self.own);
        command.arg(self.news.to_string()).arg(self.addressed.unwrap_or_default().to_string());
        let reply = connection.ask(&[command], BLOCK + PATIENCE)?.pop().unwrap_or_default();
        let mut read = Vec::new();
        for stream in list(accepted(reply)?) {
            let mut stream = list(stream).into_iter();
            let (Some(key), Some(entries)) = (stream.next(), stream.next()) else { continue };
            let is_news = text(&key) == Some(&self.keys.news);
            for entry in list(entries) {
                let Some((at, frame)) = entry_of(entry) else {
                    return Err(Failure::new("the server gives entries of a stream without a place").into());
                };
                if is_news {
                    self.news = at;
                    self.news_read += 1;
                } else {
                    self.addressed = Some(at);
                }
                match frame.and_then(|frame| message_of(at, frame)) {
                    Some(message) if message.from == self.node => {}
                    Some(message) => read.push(message),
                    None => {
                        self.shared.counters.add(&self.shared.counters.rejected, 1);
                        self.shared.counters.failed(format_args!("an entry at {at} that no replica has written"));
                    }
                }
            }
        }
        self.deliver(channels, read)
    }

    /// Hands on what was read. Whoever has written it is a peer: if long ago, then for just so long as it takes to take that in.
    fn deliver(&mut self, channels: &Channels, read: Vec<Read>) -> Result<(), End> {
        let strangers = read.iter().filter(|message| !self.peers.contains(&message.from));
        let (lately, gone): (Vec<&Read>, Vec<&Read>) =
            strangers.partition(|message| message.at.ms.saturating_add(PRESENT_MS) >= self.server_ms);
        let names = |messages: Vec<&Read>| messages.into_iter().map(|message| message.from).collect::<BTreeSet<_>>();
        let present = &self.peers | &names(lately);
        let with_gone = &present | &names(gone);
        self.announce(channels, with_gone)?;
        for Read { from, bytes, .. } in read {
            channels.driver.send(Inbound::Message { from, bytes }).map_err(|_| End::Stopped)?;
        }
        self.announce(channels, present)
    }

    /// Tells the driver who is there, if that has changed.
    fn announce(&mut self, channels: &Channels, peers: BTreeSet<NodeId>) -> Result<(), End> {
        if peers != self.peers {
            self.peers.clone_from(&peers);
            channels.driver.send(Inbound::Peers(peers)).map_err(|_| End::Stopped)?;
        }
        Ok(())
    }
}

/// The number in a reply, if it is one.
fn number(reply: &Value) -> Option<u64> {
    match reply {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// The node with a name in hexadecimal.
pub(super) fn node(name: &str) -> Option<NodeId> {
    let number = (name.len() == 32).then(|| u128::from_str_radix(name, 16).ok())??;
    Some(NodeId::from_bytes(number.to_be_bytes()))
}

/// The place of an entry, and its frame, if it has one.
fn entry_of(entry: Value) -> Option<(Id, Option<Vec<u8>>)> {
    let mut entry = list(entry).into_iter();
    let at = entry.next().and_then(|id| Id::parse(text(&id)?))?;
    let mut fields = list(entry.next().unwrap_or_default()).into_iter();
    let frame = match (fields.next(), fields.next(), fields.next()) {
        (Some(field), Some(Value::BulkString(frame)), None) if text(&field) == Some("d") => Some(frame),
        _ => None,
    };
    Some((at, frame))
}

fn message_of(at: Id, mut frame: Vec<u8>) -> Option<Read> {
    let from = NodeId::from_bytes(*frame.first_chunk()?);
    let bytes = frame.split_off(from.as_bytes().len());
    Some(Read { at, from, bytes })
}
