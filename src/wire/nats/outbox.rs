//! What is to be sent: news until the broker has acknowledged them and for a while after, messages to peers until they are
//! on the connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::NodeId;

use super::super::Counters;
use super::super::driver::Outlet;

/// How long news are kept that were acknowledged: a broker that loses its data is given them again. As long as the broker
/// remembers the ids of messages, so that what it has not lost is not stored twice.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(120);
/// How many bytes of news are kept, at most. With no room, news wait in the replica, whose queue is bounded too.
const NEWS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// From here on what was acknowledged makes room for what was not.
const ACKNOWLEDGED_BYTES_MAX: usize = NEWS_BYTES_MAX / 2;
/// What a piece of news takes beside its bytes.
const OVERHEAD: usize = 64;
/// How much may wait to be written to the connection for peers. Little: what is old by then is of no use to them.
const ADDRESSED_MAX: usize = 64;
const ADDRESSED_BYTES_MAX: usize = 1024 * 1024;

/// The queues between the driver and the connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: Mutex<Queues>,
    /// There are news to be published.
    pub(super) news: Notify,
    /// There are messages for peers.
    pub(super) addressed: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    is_connected: bool,
    news: VecDeque<News>,
    /// The number of the first of them.
    first: u64,
    bytes: usize,
    /// The numbers of those that are yet to be published, or to be published again.
    waiting: VecDeque<u64>,
    addressed: VecDeque<(NodeId, Arc<[u8]>)>,
    addressed_bytes: usize,
    /// The driver has been told that there is no room.
    has_refused: bool,
}

#[derive(Debug)]
struct News {
    bytes: Arc<[u8]>,
    acknowledged: Option<Instant>,
}

impl Outbox {
    /// The next news to be published, and their number.
    pub(super) fn next_news(&self) -> Option<(u64, Arc<[u8]>)> {
        let mut queues = self.queues.lock();
        loop {
            let number = queues.waiting.pop_front()?;
            // What has gone meanwhile need not be published.
            if let Some(news) = queues.at(number) {
                return Some((number, Arc::clone(&news.bytes)));
            }
        }
    }

    /// The broker has them.
    pub(super) fn acknowledge(&self, number: u64, now: Instant) {
        let mut queues = self.queues.lock();
        if let Some(news) = queues.at(number) {
            news.acknowledged = Some(now);
        }
        queues.make_room(now);
    }

    /// They have to be published again.
    pub(super) fn retry(&self, number: u64) {
        self.queues.lock().waiting.push_back(number);
    }

    /// The broker has lost its data: it is given all again that is kept.
    pub(super) fn republish(&self) {
        let mut queues = self.queues.lock();
        queues.news.iter_mut().for_each(|news| news.acknowledged = None);
        queues.waiting = queues.numbers().collect();
        drop(queues);
        self.news.notify_one();
    }

    /// A connection is there: what was not acknowledged on the one before is published again.
    pub(super) fn connected(&self) {
        let mut queues = self.queues.lock();
        queues.is_connected = true;
        let numbered = queues.numbers().zip(&queues.news);
        queues.waiting = numbered.filter(|(_, news)| news.acknowledged.is_none()).map(|(number, _)| number).collect();
    }

    /// The connection is gone, and with it what was to go to peers. Gives how many messages that was.
    pub(super) fn disconnected(&self) -> usize {
        let mut queues = self.queues.lock();
        queues.is_connected = false;
        queues.addressed_bytes = 0;
        let given_up = queues.addressed.len();
        queues.addressed.clear();
        given_up
    }

    /// The next message to a peer.
    pub(super) fn next_addressed(&self) -> Option<(NodeId, Arc<[u8]>)> {
        let mut queues = self.queues.lock();
        let (to, bytes) = queues.addressed.pop_front()?;
        queues.addressed_bytes -= bytes.len();
        Some((to, bytes))
    }

    /// Whether the driver has to be told that there is room again.
    pub(super) fn has_room_again(&self) -> bool {
        let mut queues = self.queues.lock();
        queues.has_refused && (queues.takes_addressed() || queues.takes_news()) && {
            queues.has_refused = false;
            true
        }
    }

    /// Lets go of what was acknowledged long ago.
    pub(super) fn forget(&self, now: Instant) {
        self.queues.lock().make_room(now);
    }
}

impl Queues {
    fn numbers(&self) -> impl Iterator<Item = u64> + use<> {
        (0..self.news.len() as u64).map({
            let first = self.first;
            move |index| first + index
        })
    }

    fn at(&mut self, number: u64) -> Option<&mut News> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.news.get_mut(index)
    }

    /// What is not acknowledged stays, and what came after it.
    fn make_room(&mut self, now: Instant) {
        while let Some(News { acknowledged: Some(at), bytes }) = self.news.front()
            && (self.bytes > ACKNOWLEDGED_BYTES_MAX || now.duration_since(*at) > KEPT_FOR)
        {
            self.bytes -= bytes.len() + OVERHEAD;
            self.first += 1;
            self.news.pop_front();
        }
    }

    fn takes_news(&self) -> bool {
        self.bytes < NEWS_BYTES_MAX
    }

    fn takes_addressed(&self) -> bool {
        self.is_connected && self.addressed.len() < ADDRESSED_MAX && self.addressed_bytes < ADDRESSED_BYTES_MAX
    }
}

/// The driver's end of it.
pub(super) struct Entrance {
    pub(super) outbox: Arc<Outbox>,
    pub(super) counters: Arc<Counters>,
}

impl Entrance {
    fn unless_refused(queues: &mut Queues, takes: bool) -> bool {
        queues.has_refused |= !takes;
        takes
    }
}

impl Outlet for Entrance {
    fn takes(&mut self, _to: NodeId) -> bool {
        let queues = &mut *self.outbox.queues.lock();
        Self::unless_refused(queues, queues.takes_addressed())
    }

    fn send(&mut self, to: NodeId, bytes: Arc<[u8]>) {
        let mut queues = self.outbox.queues.lock();
        if !queues.is_connected {
            // It was when the driver asked.
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queues.addressed_bytes += bytes.len();
        queues.addressed.push_back((to, bytes));
        drop(queues);
        self.outbox.addressed.notify_one();
    }

    fn takes_broadcast(&mut self) -> bool {
        let queues = &mut *self.outbox.queues.lock();
        Self::unless_refused(queues, queues.takes_news())
    }

    fn broadcast(&mut self, bytes: Arc<[u8]>) {
        let mut queues = self.outbox.queues.lock();
        let number = queues.first + queues.news.len() as u64;
        queues.bytes += bytes.len() + OVERHEAD;
        queues.news.push_back(News { bytes, acknowledged: None });
        queues.waiting.push_back(number);
        drop(queues);
        self.outbox.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entrance() -> (Entrance, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::default());
        (Entrance { outbox: Arc::clone(&outbox), counters: Arc::default() }, outbox)
    }

    fn waiting(outbox: &Outbox) -> Vec<(u64, u8)> {
        std::iter::from_fn(|| outbox.next_news()).map(|(number, bytes)| (number, bytes[0])).collect()
    }

    fn news(byte: u8, len: usize) -> Arc<[u8]> {
        vec![byte; len].into()
    }

    #[test]
    fn what_is_not_acknowledged_is_published_again() {
        let (mut entrance, outbox) = entrance();
        (1..=3).for_each(|byte| entrance.broadcast(news(byte, 10)));
        assert_eq!(waiting(&outbox), [(0, 1), (1, 2), (2, 3)]);
        let now = Instant::now();
        outbox.acknowledge(1, now);
        outbox.retry(2);
        assert_eq!(waiting(&outbox), [(2, 3)]);
        outbox.connected();
        assert_eq!(waiting(&outbox), [(0, 1), (2, 3)]);
        outbox.republish();
        assert_eq!(waiting(&outbox), [(0, 1), (1, 2), (2, 3)]);
    }

    #[test]
    fn what_was_acknowledged_is_kept_for_a_while() {
        let (mut entrance, outbox) = entrance();
        let now = Instant::now();
        (1..=3).for_each(|byte| entrance.broadcast(news(byte, 10)));
        outbox.acknowledge(0, now);
        outbox.acknowledge(2, now);
        outbox.forget(now + KEPT_FOR);
        outbox.republish();
        assert_eq!(waiting(&outbox).len(), 3);
        outbox.acknowledge(0, now);
        outbox.acknowledge(2, now);
        outbox.forget(now + KEPT_FOR + Duration::from_secs(1));
        outbox.republish();
        assert_eq!(waiting(&outbox), [(1, 2), (2, 3)], "not acknowledged, and what came after");
        outbox.acknowledge(0, now);
        outbox.retry(0);
        assert_eq!(waiting(&outbox), [], "what is gone is neither acknowledged nor published");
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let (mut entrance, outbox) = entrance();
        let mut taken = 0;
        while entrance.takes_broadcast() {
            entrance.broadcast(news(0, 65_536));
            taken += 1;
        }
        assert!((NEWS_BYTES_MAX / 66_000..=NEWS_BYTES_MAX / 65_536 + 1).contains(&taken), "{taken}");
        assert!(!outbox.has_room_again());
        let now = Instant::now();
        (0..taken as u64).for_each(|number| outbox.acknowledge(number, now));
        assert!(outbox.has_room_again() && !outbox.has_room_again(), "told once");
        assert!(entrance.takes_broadcast());
        assert!(outbox.queues.lock().bytes <= ACKNOWLEDGED_BYTES_MAX);
        outbox.forget(now + 2 * KEPT_FOR);
        let queues = outbox.queues.lock();
        assert_eq!((queues.bytes, queues.news.len()), (0, 0));
    }

    #[test]
    fn messages_to_peers_wait_for_a_connection_in_the_replica() {
        let (mut entrance, outbox) = entrance();
        let peer = NodeId::named("peer");
        assert!(!entrance.takes(peer));
        entrance.send(peer, news(1, 10));
        assert_eq!((outbox.next_addressed(), entrance.counters.dropped.load(Ordering::Relaxed)), (None, 1));
        outbox.connected();
        assert!(outbox.has_room_again() && entrance.takes(peer));
        let mut taken = 0;
        while entrance.takes(peer) {
            entrance.send(peer, news(1, 65_536));
            taken += 1;
        }
        assert_eq!(taken, 16);
        assert_eq!(outbox.next_addressed().map(|(to, bytes)| (to, bytes.len())), Some((peer, 65_536)));
        assert!(outbox.has_room_again());
        assert_eq!((outbox.disconnected(), outbox.disconnected()), (15, 0));
        assert_eq!(outbox.next_addressed(), None);
        outbox.connected();
        assert!(entrance.takes(peer));
    }
}
