//! The thread that writes: what is new to the stream that everybody reads, the rest to the stream of whom it is for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, after, select, tick};

use crate::NodeId;
use crate::wire::driver::Inbound;

use super::connection::{Address, Connection, Failure, PATIENCE, Server, accepted};
use super::outbox::Outbox;
use super::{BACKOFF, Backoff, Keys, Shared, Side, Stop};

/// How many bytes, more or less, are written before the replies are read.
const BATCH_BYTES: usize = 256 * 1024;
/// How many messages may wait for a replica that does not read.
const ADDRESSED_KEPT: u32 = 1000;
/// For how long they may, in milliseconds.
const ADDRESSED_KEPT_MS: u32 = 60_000;
/// How often what is old is forgotten, and whether the server is there is tried.
const TICK: Duration = Duration::from_secs(1);
/// How long the goodbye waits for the thread that reads to end.
const LEAVE_WITHIN: Duration = Duration::from_millis(300);

/// What the thread that writes is connected with.
pub(super) struct Channels {
    pub(super) driver: Sender<Inbound>,
    pub(super) news: Receiver<Arc<[u8]>>,
    pub(super) addressed: Receiver<(NodeId, Arc<[u8]>)>,
    /// The thread that reads says that the server has lost something.
    pub(super) republishes: Receiver<()>,
    pub(super) reader_gone: Stop,
}

/// See the [module](self).
pub(super) struct Writer {
    node: NodeId,
    address: Arc<Address>,
    keys: Arc<Keys>,
    shared: Arc<Shared>,
    stop: Stop,
    history_ms: u64,
    server: Option<Server>,
    outbox: Outbox,
    addressed: Vec<(NodeId, Arc<[u8]>)>,
    addressed_bytes: usize,
}

impl Writer {
    pub(super) fn new(
        node: NodeId,
        address: Arc<Address>,
        keys: Arc<Keys>,
        shared: Arc<Shared>,
        stop: Stop,
        history: Duration,
    ) -> Self {
        let history_ms = u64::try_from(history.as_millis()).unwrap_or(u64::MAX);
        let (server, outbox, addressed) = (None, Outbox::default(), Vec::new());
        Self { node, address, keys, shared, stop, history_ms, server, outbox, addressed, addressed_bytes: 0 }
    }

    /// Until the engine stops.
    pub(super) fn run(mut self, channels: &Channels) {
        let mut backoff = BACKOFF;
        let address = Arc::clone(&self.address);
        loop {
            let served = self.serve(&address, channels, &mut backoff);
            let Err(failure) = served else { return };
            if self.stop.is_due() {
                return;
            }
            self.shared.failed(Side::Writing, &failure);
            self.give_up_addressed();
            if self.wait(channels, backoff.next()) {
                return;
            }
        }
    }

    /// Writes over one connection until it fails, or until the engine stops.
    fn serve(&mut self, address: &Address, channels: &Channels, backoff: &mut Backoff) -> Result<(), Failure> {
        let mut connection = Connection::open(address, &self.stop)?;
        let mut answers = connection.ask(&Server::questions(), PATIENCE)?.into_iter();
        let (server, now_ms) = Server::of(&mut answers)?;
        self.shared.server_ms.store(now_ms, Ordering::Relaxed);
        if self.server.as_ref().is_some_and(|known| *known != server) {
            self.outbox.again();
        }
        self.server = Some(server);
        self.shared.counters.add(&self.shared.counters.connects, 1);
        self.shared.set_up(Side::Writing, true);
        let ticks = tick(TICK);
        loop {
            if !self.outbox.has_next() && self.addressed.is_empty() {
                select! {
                    recv(channels.news) -> news => match news {
                        Ok(news) => self.keep(news),
                        Err(_) => return Ok(()),
                    },
                    recv(channels.addressed) -> addressed => match addressed {
                        Ok(addressed) => self.take(addressed),
                        Err(_) => return Ok(()),
                    },
                    recv(channels.republishes) -> _ => self.outbox.again(),
                    recv(self.stop.0) -> _ => return self.leave(&mut connection, channels),
                    recv(ticks) -> _ => {
                        self.outbox.tick();
                        connection.ask_one(&redis::cmd("PING"))?;
                        backoff.reset();
                    }
                }
            }
            self.fill(channels);
            self.write(&mut connection)?;
            backoff.reset();
            if self.shared.is_waited_for.swap(false, Ordering::Relaxed) {
                // If there is no room for this, it is not asleep.
                channels.driver.try_send(Inbound::Room).ok();
            }
            if self.stop.is_due() {
                return self.leave(&mut connection, channels);
            }
        }
    }

    fn keep(&mut self, news: Arc<[u8]>) {
        let lost = self.outbox.push(news);
        self.shared.counters.add(&self.shared.counters.dropped, lost);
    }

    fn take(&mut self, addressed: (NodeId, Arc<[u8]>)) {
        self.addressed_bytes += addressed.1.len();
        self.addressed.push(addressed);
    }

    /// Takes what else waits, as much of it as is written at once.
    fn fill(&mut self, channels: &Channels) {
        if channels.republishes.try_recv().is_ok() {
            self.outbox.again();
        }
        // What is published again goes first: news wait in the replica meanwhile.
        let mut bytes: usize = self.outbox.next(BATCH_BYTES).map(<[u8]>::len).sum();
        while bytes < BATCH_BYTES
            && let Ok(news) = channels.news.try_recv()
        {
            bytes += news.len();
            self.keep(news);
        }
        while self.addressed_bytes < BATCH_BYTES
            && let Ok(addressed) = channels.addressed.try_recv()
        {
            self.take(addressed);
        }
    }

    /// Writes what has been taken, all at once, and sees whether it was.
    fn write(&mut self, connection: &mut Connection<'_>) -> Result<(), Failure> {
        let mut commands = Vec::new();
        let mut count = 0;
        let oldest_ms = self.shared.server_ms.load(Ordering::Relaxed).saturating_sub(self.history_ms).to_string();
        for news in self.outbox.next(BATCH_BYTES) {
            let mut add = redis::cmd("XADD");
            add.arg(&self.keys.news).arg("MINID").arg("~").arg(&oldest_ms).arg("*").arg("d");
            add.arg(frame(self.node, news)).write_packed_command(&mut commands);
            count += 1;
        }
        let news = count;
        let mut to = BTreeSet::new();
        for (node, message) in &self.addressed {
            let mut add = redis::cmd("XADD");
            add.arg(self.keys.to(*node)).arg("MAXLEN").arg("~").arg(ADDRESSED_KEPT).arg("*").arg("d");
            add.arg(frame(self.node, message)).write_packed_command(&mut commands);
            to.insert(*node);
        }
        for node in &to {
            let mut expire = redis::cmd("PEXPIRE");
            expire.arg(self.keys.to(*node)).arg(ADDRESSED_KEPT_MS).write_packed_command(&mut commands);
        }
        count += self.addressed.len() + to.len();
        if count == 0 {
            return Ok(());
        }
        let replies = connection.ask_packed(&commands, count, PATIENCE)?;
        for (index, reply) in replies.into_iter().enumerate() {
            accepted(reply)?;
            if index < news {
                self.outbox.published(1);
            }
        }
        self.addressed.clear();
        self.addressed_bytes = 0;
        Ok(())
    }

    /// Addressed messages say how things are now: whoever is reached again is told anew.
    fn give_up_addressed(&mut self) {
        self.shared.counters.add(&self.shared.counters.dropped, self.addressed.len() as u64);
        self.addressed.clear();
        self.addressed_bytes = 0;
    }

    /// Waits before the next attempt; `true` if the engine stops meanwhile.
    fn wait(&mut self, channels: &Channels, time: Duration) -> bool {
        let over = after(time);
        loop {
            select! {
                recv(channels.news) -> news => match news {
                    Ok(news) => self.keep(news),
                    Err(_) => return true,
                },
                recv(channels.addressed) -> addressed => match addressed {
                    Ok(_) => self.shared.counters.add(&self.shared.counters.dropped, 1),
                    Err(_) => return true,
                },
                recv(channels.republishes) -> _ => self.outbox.again(),
                recv(self.stop.0) -> _ => return true,
                recv(over) -> _ => return false,
            }
        }
    }

    /// Writes what is left, and takes this replica off the list, once the thread that reads no longer puts it there.
    fn leave(&mut self, connection: &mut Connection<'_>, channels: &Channels) -> Result<(), Failure> {
        self.fill(channels);
        self.write(connection)?;
        channels.reader_gone.within(LEAVE_WITHIN);
        connection.ask_one(redis::cmd("ZREM").arg(&self.keys.nodes).arg(self.node.to_string()))?;
        Ok(())
    }
}

/// A message with its sender's name before it.
fn frame(from: NodeId, message: &[u8]) -> Vec<u8> {
    [from.as_bytes().as_slice(), message].concat()
}
