//! Opening and closing: from files to a running store, and back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::clock::{BorneOutTime, Reading};
use crate::codec::{self, Ahead, Limits, Record};
use crate::denylist::Denylist;
use crate::journal::{AppendError, FileError, Journal, KeySource, Loaded, RecoveryError, RecoveryReport, recover};
use crate::model::{
    Digest, Entry, Item, Key, Keyring, Kind, Life, Locator, Policy, Shape, Subject, Timestamp, WideEntry,
};
use crate::storage::Storage;
use crate::sync::Mutex;

use super::belief::{Belief, EARLIEST, News};
use super::committer::{Commit, Committer, Message};
use super::follow::Follow;
use super::maintenance::{Maintainer, Retries};
use super::receipt::committer_panicked;
use super::replica::Gate;
use super::snapshot::Snapshotter;
use super::stamps::Stamps;
use super::{
    Acknowledgement, CloseError, Counters, Durability, Engine, OpenError, Options, Shared, Store, Watchers, auditing,
    events,
};

/// Up to so many entries, one thread fills the filter.
const ALONE: usize = 1 << 18;
/// How many do, at most: memory is not faster for more.
const THREADS_MAX: usize = 8;
/// How many tenants can have a maximum credential age of their own: all of them are one record of the log.
const TENANT_AGES_MAX: usize = 4096;

impl Options {
    fn validate(&self) -> Result<(), OpenError> {
        if self.policy.max_age == Some(Duration::ZERO) || self.policy.tenant_max_age.values().any(Duration::is_zero) {
            return Err(OpenError::Options("a maximum credential age of zero would deny everything: leave it out"));
        }
        if self.durability == Durability::Interval(Duration::ZERO) {
            return Err(OpenError::Options("a sync interval of zero is Durability::Sync: use that"));
        }
        if self.policy.tenant_max_age.len() > TENANT_AGES_MAX {
            return Err(OpenError::Options("more than 4,096 tenants with a maximum credential age of their own"));
        }
        let mut tenants = self.policy.tenant_max_age.keys();
        tenants.try_for_each(|tenant| Subject::tenant(&**tenant).validate()).map_err(OpenError::Tenant)
    }

    /// The same options with limits that are recorded, but for those of tenants, who are recorded without their names.
    fn limited(&self, recorded: &Limits) -> Self {
        let mut options = self.clone();
        let policy = &mut options.policy;
        let kept = Duration::from_nanos(recorded.kept);
        (policy.leeway, policy.grace) = (Duration::from_nanos(recorded.leeway), kept);
        policy.skew = policy.skew.min(kept);
        policy.max_age = recorded.max_age.map(Duration::from_nanos);
        policy.tenant_max_age.clear();
        options
    }
}

impl Store {
    pub(super) fn start(options: Options, storage: Option<Arc<dyn Storage>>) -> Result<Self, OpenError> {
        options.validate()?;
        let thread_error = |error| OpenError::Thread(Arc::new(error));
        let (mut engine, journal) = match storage {
            None => (Engine::in_memory(&options), None),
            Some(storage) => {
                let (engine, journal) = Engine::open(&options, storage)?;
                (engine, Some(journal))
            }
        };
        let threads = engine.threads.get_mut();
        if !options.sinks.is_empty() {
            let (queue, thread) =
                auditing::start(Arc::clone(&engine.shared), options.sinks.clone()).map_err(thread_error)?;
            *engine.audit.get_mut() = Some(queue);
            threads.auditor = Some(thread);
        }
        if let Some(journal) = journal {
            let audit = engine.audit.get_mut().clone();
            let committer = Committer::start(journal, options.durability, Arc::clone(&engine.shared), audit)
                .map_err(thread_error)?;
            engine.commits = Some(committer.sender);
            threads.committer = Some(committer.thread);
        }
        let engine = Arc::new(engine);
        if options.background {
            let maintainer = Maintainer::start(&engine).map_err(thread_error)?;
            engine.threads.lock().maintainer = Some(maintainer);
        }
        events::opened(&engine.shared.recovery, engine.shared.denylist.len(), false);
        Ok(Self { shared: Arc::clone(&engine.shared), engine })
    }

    /// A store that another process writes.
    pub(super) fn start_following(mut options: Options, storage: Arc<dyn Storage>) -> Result<Self, OpenError> {
        options.validate()?;
        if !options.sinks.is_empty() {
            return Err(OpenError::Options(
                "a store that is opened read-only changes nothing: it has nothing to audit",
            ));
        }
        let thread_error = |error| OpenError::Thread(Arc::new(error));
        let (follow, shared) = Follow::open(&mut options, storage)?;
        let mut engine = Engine::new(&options, shared, None);
        engine.following = Some(follow);
        let engine = Arc::new(engine);
        if options.background {
            let follower = Engine::start_following(&engine).map_err(thread_error)?;
            engine.threads.lock().follower = Some(follower);
            let maintainer = Maintainer::start(&engine).map_err(thread_error)?;
            engine.threads.lock().maintainer = Some(maintainer);
        }
        events::opened(&engine.shared.recovery, engine.shared.denylist.len(), true);
        Ok(Self { shared: Arc::clone(&engine.shared), engine })
    }

    /// A store without files and threads: nothing can fail.
    pub(super) fn assemble_in_memory(options: &Options) -> Self {
        let engine = Arc::new(Engine::in_memory(options));
        Self { shared: Arc::clone(&engine.shared), engine }
    }
}

impl Engine {
    fn in_memory(options: &Options) -> Self {
        let made = || Key::generate().unwrap_or_else(|_| Key::ephemeral());
        let kept_key = if options.key.is_none() { Some(made()) } else { None };
        let keyring = options.key.as_ref().or(kept_key.as_ref()).map_or_else(|| Keyring::new(&made()), Keyring::new);
        let life = life(Reading::now(&*options.clock), Timestamp::MIN, keyring.id().as_bytes());
        let shared = Shared::new(options, (keyring, kept_key), Denylist::new(), RecoveryReport::default(), None, life);
        Self::new(options, shared, None)
    }

    fn open(options: &Options, storage: Arc<dyn Storage>) -> Result<(Self, Journal), OpenError> {
        let denylist = Denylist::new();
        let (recorded, ahead) = (Mutex::new(None), Mutex::new(Ahead::default()));
        let key = options.key.clone().map_or(KeySource::Stored, KeySource::Given);
        let now = Reading::now(&*options.clock);
        let load = |_, loaded| match loaded {
            Loaded::Rows(rows) => denylist.load(rows),
            Loaded::Record(Record::Entry(item)) => denylist.join(item),
            Loaded::Record(Record::Limits(limits)) => *recorded.lock() = Some(limits),
            Loaded::Record(Record::Ahead(last)) => *ahead.lock() = last,
        };
        let create = options.create_if_missing;
        let recovered = recover(Arc::clone(&storage), key, create, options.segment_bytes, now, &load)?;
        fill_filter(&denylist);
        // What is not recorded is the default.
        let recorded = recorded.into_inner().unwrap_or_else(|| limits(&Options::default().policy, &recovered.keyring));
        let snapshotter = Snapshotter::new(storage, recovered.identity, recovered.journal.spare());
        let keys = (recovered.keyring, recovered.kept_key);
        let options = if options.keep_limits { &options.limited(&recorded) } else { options };
        let seen = recovered.last_reading.map_or(Timestamp::MIN, |last| last.wall);
        let life = life(now, seen, &recovered.identity.store_id);
        let shared = Shared::new(options, keys, denylist, recovered.report, recovered.last_reading, life);
        shared.restore_ahead(&ahead.into_inner());
        shared.counters.log_bytes.store(recovered.log_bytes, Ordering::Relaxed);
        shared.counters.snapshot_bytes.store(recovered.snapshot_bytes, Ordering::Relaxed);
        let mut journal = recovered.journal;
        let mut own = Limits { is_replica: recorded.is_replica, ..limits(&options.policy, &shared.keyring) };
        if options.keep_limits {
            own.tenants.clone_from(&recorded.tenants);
        }
        shared.settle_limits(own, &mut journal, &recorded, seen, options.accept_clock).map_err(RecoveryError::from)?;
        Ok((Self::new(options, shared, Some(snapshotter)), journal))
    }

    fn new(options: &Options, shared: Shared, snapshotter: Option<Snapshotter>) -> Self {
        let acknowledgement = match snapshotter {
            Some(_) => options.durability.acknowledgement(),
            None => Acknowledgement::Memory,
        };
        Self {
            acknowledgement,
            shared: Arc::new(shared),
            writing: Mutex::new(()),
            commits: None,
            audit: Mutex::new(None),
            snapshotter,
            following: None,
            threads: Mutex::default(),
            snapshot_after_bytes: options.snapshot_after_bytes,
            retries: Mutex::new(Retries::default()),
            rebuilding: Mutex::new(()),
        }
    }

    /// Writes down what is ahead of the clock, without waiting for the disk.
    pub(super) fn keep_ahead(&self) {
        let ahead = self.shared.ahead();
        // Nothing is lost if the disk fails: an issuer is soon seen again.
        self.log((ahead != Ahead::default()).then_some(Record::Ahead(ahead)));
    }

    /// Ends everything, in the order in which one part needs the other.
    pub(super) fn close(&self) -> Result<(), CloseError> {
        if !self.shared.is_closed() && self.shared.counters.write_error().is_some() {
            // Whether that saves everything is asked below.
            self.snapshot().ok();
        }
        let was_closed = {
            let _writing = self.writing.lock();
            self.keep_ahead();
            self.shared.closed.swap(true, Ordering::AcqRel)
        };
        self.shared.watchers.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        threads.maintainer.into_iter().chain(threads.follower).for_each(Maintainer::stop);
        let mut result = Ok(());
        if let (Some(commits), Some(committer)) = (&self.commits, threads.committer) {
            // An error means that the thread is gone; joining it tells more.
            commits.send(Message::Close).ok();
            result = match committer.join() {
                Ok(ended) => ended.map_err(CloseError::NotDurable),
                Err(_) => Err(CloseError::NotDurable(Arc::new(committer_panicked()))),
            };
        }
        if let (Ok(()), Some(error)) = (&result, self.shared.counters.write_error()) {
            result = Err(CloseError::NotDurable(error));
        }
        if let Some(snapshotter) = &self.snapshotter {
            snapshotter.release();
        }
        // The auditor ends when no one can send to it any more.
        drop(self.audit.lock().take());
        if let Some(auditor) = threads.auditor {
            auditor.join().ok();
        }
        if !was_closed {
            events::closed(result.as_ref().err().map(|error| error as _));
        }
        result
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // There is nobody to tell; whoever wants to know calls `close`.
        self.close().ok();
    }
}

impl Shared {
    pub(super) fn new(
        options: &Options,
        (keyring, kept_key): (Keyring, Option<Key>),
        denylist: Denylist,
        recovery: RecoveryReport,
        last_reading: Option<Reading>,
        life: Life,
    ) -> Self {
        let now = Reading::now(&*options.clock);
        let last_reading = last_reading.filter(|_| !options.accept_clock);
        let seen = last_reading.map_or(EARLIEST, |last| last.wall.max(EARLIEST));
        Self {
            limits: Mutex::new(Arc::new(limits(&options.policy, &keyring))),
            expired: AtomicU64::new(0),
            denylist,
            keyring,
            kept_key,
            policy: options.policy.clone(),
            clock: Arc::clone(&options.clock),
            time: Mutex::new(BorneOutTime::start(now, last_reading)),
            high_water: AtomicU64::new(seen.as_nanos()),
            belief: Belief::new(seen.max(now.wall), now.boot),
            stamps: Stamps::new(),
            news: News::default(),
            life: Mutex::new(life),
            has_pending: AtomicBool::new(true),
            was_in_doubt: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            gate: Gate::open(),
            replicating: OnceLock::new(),
            retain_labels: options.retain_labels,
            capacity: options.capacity,
            recovery,
            counters: Counters::default(),
            watchers: Watchers::default(),
        }
    }

    /// Writes the limits into the log if they are not those that were `recorded`.
    ///
    /// Entries were forgotten because the credentials of their time were dead by age or had expired. Where a limit is now
    /// higher, or gone, that is made up for: by a floor under the whole store or tenant, and by a time before which
    /// whatever expires has expired. What was dead by a limit stays dead.
    ///
    /// `seen` is the latest time on disk. Where the clock is accepted although it is behind that, the record is written in
    /// any case, so that its reading is the last.
    fn settle_limits(
        &self,
        mut own: Limits,
        journal: &mut Journal,
        recorded: &Limits,
        seen: Timestamp,
        accept_clock: bool,
    ) -> Result<(), FileError> {
        let now = self.clock.wall();
        let is_looser = own.leeway > recorded.leeway || own.kept > recorded.kept;
        own.expired = recorded.expired;
        if is_looser {
            let kept = Duration::from_nanos(recorded.leeway.saturating_add(recorded.kept));
            own.expired = recorded.expired.max(seen.min(now).saturating_sub(kept));
        }
        self.expired.store(own.expired.as_nanos(), Ordering::Relaxed);
        let own = Arc::new(own);
        *self.limits.lock() = Arc::clone(&own);
        if *recorded == *own && !(accept_clock && seen > now) {
            return Ok(());
        }
        let reading = self.reading_for_disk();
        let is_longer = |now: Option<u64>, before: u64| is_looser || now.is_none_or(|now| now > before);
        // What a replica has forgotten, it has forgotten by other ages.
        let floors = match recorded.is_replica {
            true => Vec::new(),
            false => {
                self.floors(recorded, reading.wall.max(seen), |scope, before| is_longer(own.age_in(scope), before))
            }
        };
        let mut payload = Vec::new();
        let records = floors.iter().cloned().map(Record::Entry).chain([Record::Limits((*own).clone())]);
        let error = |source: std::io::Error| FileError::of("record the limits in", "the log")(source);
        for record in records {
            codec::encode(&record, &mut payload).map_err(|encode| error(std::io::Error::other(encode)))?;
        }
        journal.append(&payload, reading).map_err(|append| match append {
            AppendError::NotWritten(error) | AppendError::Poisoned(error) => error,
        })?;
        journal.sync()?;
        floors.into_iter().for_each(|item| self.denylist.join(item));
        Ok(())
    }
}

impl Shared {
    /// Floors under what may have been forgotten at a time by some limits: of the store and of each tenant, as far as `is_due`
    /// says so of the tenant and the age.
    fn floors(&self, limits: &Limits, time: Timestamp, is_due: impl Fn(Option<Digest>, u64) -> bool) -> Vec<Item> {
        let now = self.clock.wall();
        let before = |age: u64| time.saturating_sub(Duration::from_nanos(age)).min(now);
        let mut floors = Vec::new();
        if let Some(age) = limits.max_age.filter(|age| is_due(None, *age)) {
            let everyone = Subject::everyone();
            let identity = (self.keyring.digest_of(&everyone), self.keyring.locator_of(&everyone));
            floors.push(floor(Kind::Everyone, identity, before(age)));
        }
        for (digest, locator, age) in &limits.tenants {
            let age = limits.max_age.map_or(*age, |store| store.min(*age));
            if is_due(Some(*digest), age) {
                floors.push(floor(Kind::Tenant, (*digest, *locator), before(age)));
            }
        }
        floors
    }
}

impl Engine {
    /// From here on nothing is forgotten by the ages of the options, which peers may not share. What may have been forgotten by
    /// them stays dead, on every replica: by floors. To be called while writing.
    pub(super) fn forget_as_replica(&self) {
        let shared = &*self.shared;
        let before = shared.limits();
        if before.is_replica {
            return;
        }
        let report = &shared.recovery;
        let has_history = report.log_records + report.snapshot_records > 0;
        let may_have_forgotten = has_history || shared.counters.forgotten.load(Ordering::Relaxed) > 0;
        let time = shared.reading_for_disk().wall;
        let floors = shared.floors(&before, time, |_, _| may_have_forgotten);
        let limits = Limits { is_replica: true, ..(*before).clone() };
        *shared.limits.lock() = Arc::new(limits.clone());
        shared.publish(floors.iter());
        self.log(floors.iter().cloned().map(Record::Entry).chain([Record::Limits(limits)]));
        shared.join(floors);
    }

    /// Treats as expired whatever expires at a time or before. It is recorded where that makes a difference, now and then.
    pub(super) fn expire(&self, time: Timestamp) {
        let shared = &*self.shared;
        if shared.expired.fetch_max(time.as_nanos(), Ordering::Relaxed) >= time.as_nanos() {
            return;
        }
        let would_admit = time.saturating_add(shared.policy.leeway) >= shared.clock.wall();
        if would_admit {
            let _writing = self.writing.lock();
            let limits = Limits { expired: time, ..(*shared.limits()).clone() };
            *shared.limits.lock() = Arc::new(limits.clone());
            self.log([Record::Limits(limits)]);
        }
    }

    /// Writes records into the log, without waiting for the disk. To be called while writing.
    fn log(&self, records: impl IntoIterator<Item = Record>) {
        let (mut commit, _) = Commit::new(true);
        let Some(commits) = self.commits.as_ref().filter(|_| !self.shared.is_closed()) else { return };
        let encoded = records.into_iter().try_for_each(|record| codec::encode(&record, &mut commit.payload));
        if encoded.is_ok() && !commit.payload.is_empty() {
            commits.send(Message::Commit(commit)).ok();
        }
    }
}

/// The name of a life that begins now, of a store that is told from others by some bytes. A clock that has been set back shows
/// the same latest time at several starts; its own readings are different at each.
pub(super) fn life(now: Reading, seen: Timestamp, store: &[u8]) -> Life {
    let mut readings = Vec::with_capacity(24 + store.len());
    for reading in [now.wall.as_nanos(), u64::try_from(now.boot.as_nanos()).unwrap_or(u64::MAX), now.boot_id] {
        readings.extend_from_slice(&reading.to_le_bytes());
    }
    readings.extend_from_slice(store);
    Life::new(now.wall.max(seen), xxh3_64(&readings))
}

/// Fills the filter of a table that was just read.
pub(super) fn fill_filter(denylist: &Denylist) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS_MAX);
    denylist.rebuild_filter(if denylist.len() < ALONE { 1 } else { threads });
}

/// The limits of a policy, as they are recorded.
pub(super) fn limits(policy: &Policy, keyring: &Keyring) -> Limits {
    let nanos = |age: Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    let tenants = policy.tenant_max_age.iter().map(|(tenant, age)| {
        let subject = Subject::tenant(&**tenant);
        (keyring.digest_of(&subject), keyring.locator_of(&subject), nanos(*age))
    });
    let mut tenants: Vec<_> = tenants.collect();
    tenants.sort_unstable();
    Limits {
        max_age: policy.max_age.map(nanos),
        tenants,
        leeway: nanos(policy.leeway),
        kept: nanos(policy.kept_beyond()),
        expired: Timestamp::MIN,
        is_replica: false,
    }
}

/// What a whole store or tenant must be later than.
pub(super) fn floor(kind: Kind, (digest, locator): (Digest, Locator), floor: Timestamp) -> Item {
    let entry = Entry::Wide(WideEntry { floor, ..WideEntry::default() });
    let shape = Shape { kind, in_tenant: false, at_issuer: false };
    let scope = (kind == Kind::Tenant).then_some(digest);
    Item { digest, locator, shape, entry, scope, label: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also where the clock was set back, so that the latest time known is the same at both, and of another store at the same
    /// time.
    #[test]
    fn no_two_starts_have_the_same_life() {
        let secs = Duration::from_secs;
        let seen = Timestamp::from_secs(2_000);
        let now = Reading { wall: Timestamp::from_secs(1_000), boot: secs(5), boot_id: 7 };
        let others = [
            Reading { wall: Timestamp::from_secs(1_001), ..now },
            Reading { boot: secs(6), ..now },
            Reading { boot_id: 8, ..now },
        ];
        let first = life(now, seen, b"store");
        assert!(others.iter().all(|other| life(*other, seen, b"store") != first));
        assert_ne!(life(now, seen, b"another"), first);
        assert!(life(now, Timestamp::from_secs(2_001), b"store") > first, "later lives have greater names");
    }
}
