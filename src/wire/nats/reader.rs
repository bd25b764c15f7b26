//! Reads the stream, and notices when it is no longer the one that was read before.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{self, DiscardPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode, Message};
use futures_util::StreamExt;
use tokio::select;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::super::driver::Inbound;
use super::connection::{Connection, Names};
use super::outbox::KEPT_FOR;

/// How often it is looked at what the stream holds.
const LOOK: Duration = Duration::from_secs(2);
/// How long one waits before reading is begun again.
const PAUSE: Duration = Duration::from_millis(250);
/// How often the broker says that there is nothing new. It is not believed any more after twice that.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How many messages are asked for at a time; half as many again may have been sent and not yet been taken in.
const BATCH: usize = 64;
/// How long a request for messages is good for.
const REQUEST: Duration = Duration::from_secs(30);
/// When the broker lets go of a consumer that nobody uses.
const ABANDONED: Duration = Duration::from_secs(30);

/// How far the stream has been read.
#[derive(Debug)]
pub(super) struct Position {
    /// When the stream was made: another one is not this one.
    created: DateTime,
    /// The last message that was read, or will not be.
    last: Cell<u64>,
    /// When the broker took that.
    published: Cell<Option<DateTime>>,
    /// Another message has its number now: the broker had lost it.
    is_rewritten: Cell<bool>,
}

/// The stream, if it has to be made.
pub(super) fn stream_config(names: &Names, history: Duration, replicas: usize) -> stream::Config {
    stream::Config {
        name: names.stream.clone(),
        description: Some("news of revocations".into()),
        subjects: vec![format!("{}.news.*", names.prefix)],
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: history,
        num_replicas: replicas,
        // Not longer than messages are kept, or the server refuses it.
        duplicate_window: KEPT_FOR.min(history),
        ..stream::Config::default()
    }
}

impl Connection {
    /// Reads the stream, for as long as the connection lasts.
    ///
    /// It tells when the stream is there, and waits for introductions before it takes anything from it.
    pub(super) async fn read(
        &self,
        context: &Context,
        position: &mut Option<Position>,
        mut introductions: Duration,
        opened: &watch::Sender<bool>,
    ) {
        loop {
            let opened = async {
                opened.send_replace(true);
                sleep(std::mem::take(&mut introductions)).await;
            };
            if let Err(why) = self.follow(context, position, opened).await {
                self.counters.failed(why);
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads until something is amiss.
    async fn follow(
        &self,
        context: &Context,
        position: &mut Option<Position>,
        opened: impl Future<Output = ()>,
    ) -> Result<(), String> {
        let info = self.open_stream(context).await?;
        let position = self.compare(&info, position);
        opened.await;
        let (last, first) = (position.last.get(), info.state.first_sequence);
        // What was read last is read again, if it is still there: it has to be the same.
        let is_read_again = position.published.get().is_some() && last >= first;
        let start = if is_read_again { last } else { last + 1 };

        let consumer = self.open_consumer(context, start).await?;
        let messages = consumer.stream().max_messages_per_batch(BATCH).heartbeat(HEARTBEAT).expires(REQUEST);
        let mut messages = messages.messages().await.map_err(|error| format!("cannot read the stream: {error}"))?;
        let mut watching = pin!(self.watch(context, position));
        let mut delivered = 0;
        loop {
            let message = select! {
                message = messages.next() => message,
                why = &mut watching => return why,
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(format!("the stream cannot be read on: {error}")),
                None => return Err("the stream cannot be read on".into()),
            };
            let Ok(info) = message.info() else { return Err("the server sent what it should not".into()) };
            let (sequence, published) = (info.stream_sequence, info.published);
            if info.consumer_sequence != delivered + 1 {
                return Err("a message of the stream was lost on its way".into());
            }
            delivered += 1;
            let last = position.last.get();
            if sequence <= last {
                if sequence == last && position.published.get().is_some_and(|before| before != published) {
                    position.is_rewritten.set(true);
                    return Ok(());
                }
                continue;
            }
            if sequence > last + 1 {
                self.counters.add(&self.counters.gaps, 1);
            }
            // If the connection is lost meanwhile, it is read again.
            self.take(message).await;
            position.last.set(sequence);
            position.published.set(Some(published));
        }
    }

    async fn take(&self, message: Message) {
        match Names::sender(&message.subject) {
            Some(from) if from == self.names.node => {}
            Some(from) => self.hand(Inbound::Message { from, bytes: message.message.payload.into() }).await,
            None => self.counters.add(&self.counters.rejected, 1),
        }
    }

    /// The stream, which is made if it is missing.
    async fn open_stream(&self, context: &Context) -> Result<stream::Info, String> {
        let config = &self.stream_config;
        let info = loop {
            match context.get_stream(&config.name).await {
                Ok(stream) => break stream.cached_info().clone(),
                Err(error) => match error.kind() {
                    GetStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                    _ => return Err(format!("cannot find the stream {}: {error}", config.name)),
                },
            }
            match context.create_stream(config.clone()).await {
                Ok(stream) => break stream.cached_info().clone(),
                Err(error) => match error.kind() {
                    // Another replica was faster, with other options.
                    CreateStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STREAM_NAME_EXIST => {}
                    _ => return Err(format!("cannot make the stream {}: {error}", config.name)),
                },
            }
        };
        let subjects = |config: &stream::Config| config.subjects.iter().cloned().collect::<BTreeSet<_>>();
        if subjects(&info.config) != subjects(config) {
            return Err(format!(
                "the stream {} exists, and its subjects are {:?}: they have to be {:?}",
                config.name, info.config.subjects, config.subjects
            ));
        }
        Ok(info)
    }

    /// Compares the stream with what was read of it before.
    fn compare<'a>(&self, info: &stream::Info, position: &'a mut Option<Position>) -> &'a Position {
        let first = info.state.first_sequence;
        let new = || Position {
            created: info.created,
            last: Cell::new(first.saturating_sub(1)),
            published: Cell::new(None),
            is_rewritten: Cell::new(false),
        };
        let position = position.get_or_insert_with(new);
        let is_other = position.created != info.created || position.is_rewritten.get();
        if is_other || info.state.last_sequence < position.last.get() {
            self.counters.add(&self.counters.resets, 1);
            *position = new();
            self.outbox.republish();
        } else if first > position.last.get() + 1 {
            self.counters.add(&self.counters.gaps, 1);
            position.last.set(first - 1);
            position.published.set(None);
        }
        position
    }

    /// A consumer of its own, from a message on. That of an earlier connection, or of a process that was killed, goes.
    async fn open_consumer(&self, context: &Context, start: u64) -> Result<Consumer<pull::Config>, String> {
        let (name, stream) = (&self.names.consumer, &self.names.stream);
        // There need not be any.
        context.delete_consumer_from_stream(name, stream).await.ok();
        let config = pull::Config {
            name: Some(name.clone()),
            description: Some("a replica".into()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: start },
            ack_policy: AckPolicy::None,
            inactive_threshold: ABANDONED,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = context.create_consumer_on_stream(config, stream).await;
        consumer.map_err(|error| format!("cannot make a consumer of the stream {stream}: {error}"))
    }

    /// Looks, now and then, whether the stream is still the one that is read, and whether what it holds arrives: readers
    /// have been seen to wait for ever where the broker no longer knew of them. Ends when it is to be opened anew.
    async fn watch(&self, context: &Context, position: &Position) -> Result<(), String> {
        let stream = context.get_stream_no_info(&self.names.stream).await.map_err(|error| error.to_string())?;
        let mut before = None;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_due = select! {
                _ = looks.tick() => true,
                () = self.doubt.notified() => false,
            };
            let info = stream.get_info().await.map_err(|error| format!("cannot ask about the stream: {error}"))?;
            let (read, held) = (position.last.get(), info.state.last_sequence);
            if info.created != position.created || held < read {
                return Ok(());
            }
            if !is_due {
                continue;
            }
            if before.is_some_and(|(read_before, held_before)| read_before == read && held_before > read) {
                return Err("what the stream holds does not arrive".into());
            }
            before = Some((read, held));
        }
    }
}
