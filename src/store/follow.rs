//! A store that another process writes: its log is read along as it grows, and nothing is ever written.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::clock::Reading;
use crate::codec::{Limits, Record};
use crate::denylist::Denylist;
use crate::journal::{FileError, Follower, KeySource, Loaded, RecoveryError, Told, follow};
use crate::model::{Cause, Digest, Item, Kind, Subject, Timestamp};
use crate::replication::Freshness;
use crate::storage::{FileStorage, Storage};
use crate::sync::Mutex;
use crate::sync::channel::{RecvTimeoutError, bounded};
use crate::sync::thread;

use super::maintenance::Maintainer;
use super::open::floor;
use super::{Engine, OpenError, Options, Shared, Store, events};

/// How often the log is looked at while it grows, and at least.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// How often what costs more is looked at: `MARK`, and whether the directory is still the one.
const PERIOD: Duration = Duration::from_millis(250);
/// How long it waits at most before it reads everything again, where that has failed.
const REREAD_MAX: Duration = Duration::from_secs(10);

/// How a follower is doing: see [`Stats::following`](crate::Stats::following).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Following {
    /// How long ago it had read all that its writer had acknowledged. While this is stale, checks of what is not revoked give
    /// [`Unknown`](crate::Verdict::Unknown).
    pub freshness: Freshness,
    /// The last batch that it has read.
    pub batch: u64,
    /// How often it had to read everything again, because it was too far behind or the writer's disk had failed.
    pub rereads: u64,
    /// Why it could not read on the last time it tried; none while all is well.
    pub error: Option<String>,
}

/// What is known of the writer.
#[derive(Debug)]
pub(super) struct Follow {
    state: Mutex<State>,
    /// When all that was acknowledged had been read, in nanoseconds since boot.
    fresh_at: AtomicU64,
    stale_after: Duration,
}

#[derive(Debug)]
struct State {
    follower: Follower,
    storage: Arc<dyn Storage>,
    /// Batches with entries that undo something, and are not known to be on disk yet.
    undecided: Vec<(u64, Item)>,
    /// By what the writer denies and forgets.
    limits: Limits,
    /// Until when the writer was fresh, by what it said last, in nanoseconds since boot; none if it is no replica.
    writer_until: Option<u64>,
    /// When what costs more is looked at again, by the time since boot.
    look_at: Duration,
    /// Set if everything must be read again: when, by the time since boot, and for how long it was waited before.
    reread: Option<(Duration, Duration)>,
    rereads: u64,
    error: Option<String>,
    was_fresh: bool,
}

/// What reading has brought, for the tables and for later.
#[derive(Debug, Default)]
struct Brought {
    undecided: Vec<(u64, Item)>,
    limits: Option<Limits>,
}

impl Brought {
    fn record(&mut self, denylist: &Denylist, batch: u64, record: Record) {
        match record {
            Record::Limits(limits) => self.limits = Some(limits),
            // It makes no epochs.
            Record::Ahead(_) => {}
            // What a snapshot holds is on disk.
            Record::Entry(item) if batch == 0 || !item.entry.may_undo() => denylist.join(item),
            Record::Entry(item) => {
                let known = denylist.item(item.identity());
                let entry = item.entry.without_undoing(known.as_ref().map(|known| &known.entry));
                let is_undecided = entry != item.entry;
                if !entry.is_void() {
                    denylist.join(Item { entry, ..item.clone() });
                }
                if is_undecided {
                    self.undecided.push((batch, item));
                }
            }
        }
    }
}

/// Gives what is read to the tables; blocks of a snapshot may come from several threads at once.
fn loading(denylist: &Denylist, brought: &Mutex<Brought>) -> impl Fn(u64, Loaded) + Sync {
    move |batch, loaded| match loaded {
        Loaded::Rows(rows) => denylist.load(rows),
        Loaded::Record(record) => brought.lock().record(denylist, batch, record),
    }
}

impl Store {
    /// Opens the store in a directory that another process writes, or none, and reads along as it grows: a second process on
    /// the same host, which checks at full speed and never writes. With the default [`Options`].
    ///
    /// What was acknowledged there denies here within milliseconds. What is enabled or lifted there is so here once it is known
    /// to be on disk: within a second, but for [`Durability::Memory`](crate::Durability::Memory), where that is known once a
    /// snapshot is taken. What the writer could not write ([`WriteError::NotDurable`](crate::WriteError::NotDurable)) is
    /// known here once its next snapshot has saved it. While the log cannot be read, and while the writer is a replica that is
    /// not fresh, checks of what is not revoked give [`Unknown`](crate::Verdict::Unknown). That the writer ends, or has ended,
    /// is no matter: then nobody revokes anything.
    ///
    /// Both processes must have the same user, for the directory is its owner's, and one kernel's clock.
    ///
    /// ```
    /// use rescind::{Credential, Revocation, Store, Subject, Verdict};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("revocations");
    /// let writer = Store::open(&path)?;
    /// let follower = Store::open_read_only(&path)?; // As a rule in another process.
    ///
    /// let connection = follower.watch(&Credential::new().token("jti-1"))?;
    /// writer.revoke(Revocation::of(Subject::token("jti-1")))?;
    /// assert!(matches!(connection.wait(), Verdict::Revoked(_)));
    /// assert!(follower.revoke(Revocation::of(Subject::token("jti-2"))).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is changed in any case.
    pub fn open_read_only(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        Options::new().open_read_only(directory)
    }
}

impl Options {
    /// [`Store::open_read_only`] with these options; those that say how to write are without effect. Of the leeway the
    /// smaller of this and the writer's counts; ages that the writer limits are limited here in any case.
    ///
    /// # Errors
    /// As [`Store::open_read_only`].
    pub fn open_read_only(self, directory: impl AsRef<Path>) -> Result<Store, OpenError> {
        self.open_read_only_on(Arc::new(FileStorage::open_beside(directory.as_ref())?))
    }

    /// The same on another storage.
    ///
    /// # Errors
    /// As [`Store::open_read_only`].
    pub fn open_read_only_on(self, storage: Arc<dyn Storage>) -> Result<Store, OpenError> {
        Store::start_following(self, storage)
    }
}

impl Follow {
    /// Reads all that there is.
    pub(super) fn open(options: &mut Options, storage: Arc<dyn Storage>) -> Result<(Self, Shared), RecoveryError> {
        let (denylist, brought) = (Denylist::new(), Mutex::default());
        let key = options.key.clone().map_or(KeySource::Stored, KeySource::Given);
        let now = options.clock.boot();
        let followed = follow(Arc::clone(&storage), key, &loading(&denylist, &brought))?;
        let Brought { undecided, limits } = brought.into_inner();
        let limits = limits.unwrap_or_else(|| super::open::limits(&Options::default().policy, &followed.keyring));
        // What the writer has forgotten because it had expired must have expired here, too.
        options.policy.leeway = options.policy.leeway.min(Duration::from_nanos(limits.leeway));
        super::open::fill_filter(&denylist);
        let follower = followed.follower;
        let keys = (followed.keyring, followed.kept_key);
        // It makes no marks.
        let life = super::open::life(Reading::default(), Timestamp::MIN, b"follower");
        let shared = Shared::new(options, keys, denylist, followed.report, follower.reading(), life);
        shared.expired.store(limits.expired.as_nanos(), Ordering::Relaxed);
        let state = State {
            follower,
            storage,
            undecided,
            limits,
            writer_until: None,
            look_at: Duration::ZERO,
            reread: None,
            rereads: 0,
            error: None,
            was_fresh: false,
        };
        let follow =
            Self { state: Mutex::new(state), fresh_at: AtomicU64::new(nanos(now)), stale_after: options.stale_after };
        follow.state.lock().settle(&shared);
        // Until it has looked what the writer says of itself, it does not know.
        shared.gate.set(None);
        follow.poll(&shared, &Mutex::new(()));
        Ok((follow, shared))
    }

    /// Reads what has been written since, and says how fresh that makes the store. It tells whether there was anything.
    /// `rebuilding` is held while the filter is rebuilt.
    pub(super) fn poll(&self, shared: &Shared, rebuilding: &Mutex<()>) -> bool {
        let mut state = self.state.lock();
        let (now, before) = (Reading::now(&*shared.clock), state.follower.batch());
        let (rereads, had_error) = (state.rereads, state.error.is_some());
        let read = state.read(shared, now, rebuilding);
        if let Ok(true) = read {
            self.fresh_at.store(nanos(now.boot), Ordering::Relaxed);
            let until = nanos(now.boot.saturating_add(self.stale_after));
            let until = state.writer_until.map_or(until, |writer| until.min(writer));
            shared.gate.set((until > 0).then(|| Duration::from_nanos(until)));
        }
        let is_fresh = shared.gate.doubt(|| now.boot).is_none();
        match read {
            Ok(true) => state.error = None,
            // Why is known already.
            Ok(false) => {}
            Err(error) => state.error = Some(error.to_string()),
        }
        let is_news = state.follower.batch() != before;
        let has_turned = std::mem::replace(&mut state.was_fresh, is_fresh) != is_fresh;
        let error = state.error.clone().filter(|_| !had_error);
        let rereads = Some(state.rereads).filter(|now| *now != rereads);
        drop(state);
        error.iter().for_each(|error| events::cannot_follow(error));
        rereads.into_iter().for_each(events::reread);
        if has_turned {
            events::freshness(is_fresh);
        }
        if is_news {
            shared.watchers.notify();
        }
        is_news
    }

    /// The limits that the writer has recorded.
    pub(super) fn limits(&self) -> Limits {
        self.state.lock().limits.clone()
    }

    pub(super) fn stats(&self, shared: &Shared) -> Following {
        let state = self.state.lock();
        let fresh_at = Duration::from_nanos(self.fresh_at.load(Ordering::Relaxed));
        let now = shared.clock.boot();
        let age = now.saturating_sub(fresh_at);
        let freshness = match shared.gate.doubt(|| now) {
            None => Freshness::Fresh { age },
            Some(Cause::Bootstrapping) => Freshness::Bootstrapping,
            Some(_) => Freshness::Stale { age },
        };
        Following { freshness, batch: state.follower.batch(), rereads: state.rereads, error: state.error.clone() }
    }
}

impl State {
    /// Reads on, or everything again where that must be; `false` if it could not, and a later call will try.
    fn read(&mut self, shared: &Shared, now: Reading, rebuilding: &Mutex<()>) -> Result<bool, RecoveryError> {
        let is_due = now.boot >= self.look_at;
        // What was on disk before is found by what is read after.
        let marked = if is_due || !self.undecided.is_empty() { self.follower.marked()? } else { 0 };
        if is_due {
            if !self.storage.is_in_place().map_err(FileError::of("look at", "the directory"))? {
                let error = std::io::Error::other("another directory is in its place: open the store again");
                return Err(FileError::of("follow", "the log")(error).into());
            }
            self.keep_floors(shared, now.wall);
        }
        match self.follower.told()? {
            Told::Nothing => self.writer_until = None,
            // What it said before holds; if that is not known, nothing is.
            Told::Torn => self.writer_until = self.writer_until.or(Some(0)),
            // What was said before this boot says nothing now.
            Told::Until(until, said) => {
                let is_this_boot = said.boot_id == now.boot_id && said.boot <= now.boot;
                self.writer_until = Some(if is_this_boot { until } else { 0 });
            }
        }
        // If something is wrong, reading everything again helps, or says what.
        if self.reread.is_none() && matches!(self.read_on(shared, marked), Ok(true)) {
            self.look_at = if is_due { now.boot.saturating_add(PERIOD) } else { self.look_at };
            return Ok(true);
        }
        let (at, waited) = self.reread.unwrap_or((now.boot, Duration::ZERO));
        if now.boot < at {
            return Ok(false);
        }
        // If this fails, it is not tried again at once.
        let pause = (waited * 2).clamp(PERIOD, REREAD_MAX);
        self.reread = Some((now.boot.saturating_add(pause), pause));
        self.rereads += 1;
        let loaded = Mutex::default();
        self.follower.reread(&loading(&shared.denylist, &loaded))?;
        {
            // The filter knows nothing of rows that were loaded.
            let _rebuilding = rebuilding.lock();
            super::open::fill_filter(&shared.denylist);
        }
        // What had not been decided is read again, or was taken back.
        self.undecided.clear();
        self.take(loaded.into_inner());
        self.hold_against_own(shared)?;
        if !self.read_on(shared, marked)? {
            return Ok(false);
        }
        self.reread = None;
        Ok(true)
    }

    /// What was not read while it was there may have been forgotten since, because it had expired: by no other limits than
    /// those by which it expires here.
    fn hold_against_own(&self, shared: &Shared) -> Result<(), RecoveryError> {
        if self.limits.leeway >= nanos(shared.policy.leeway) && self.limits.expired <= shared.expired() {
            return Ok(());
        }
        let error = std::io::Error::other("the writer's limits have changed meanwhile: open the store again");
        Err(FileError::of("follow", "the log")(error).into())
    }

    /// Reads what has been written since; `false` if that does not follow what was read before.
    fn read_on(&mut self, shared: &Shared, marked: u64) -> Result<bool, RecoveryError> {
        let mut brought = Brought::default();
        let read = self.follower.poll(&mut |batch, record| brought.record(&shared.denylist, batch, record));
        self.take(brought);
        // Anything that is wrong is a reason to read everything again.
        if !matches!(read, Ok(true)) || self.follower.batch() < marked {
            self.reread = self.reread.or(Some((Duration::ZERO, Duration::ZERO)));
            return read.map(|_| false);
        }
        // What has expired for the writer has expired here, too.
        shared.expired.fetch_max(self.limits.expired.as_nanos(), Ordering::Relaxed);
        if let Some(reading) = self.follower.reading() {
            shared.high_water.fetch_max(reading.wall.as_nanos(), Ordering::Relaxed);
        }
        self.follower.vouch(marked);
        self.settle(shared);
        Ok(true)
    }

    fn take(&mut self, mut brought: Brought) {
        self.undecided.append(&mut brought.undecided);
        if let Some(limits) = brought.limits {
            self.limits = limits;
        }
    }

    /// Undoes what is known to be undone.
    fn settle(&mut self, shared: &Shared) {
        let synced = self.follower.synced();
        for (_, item) in self.undecided.extract_if(.., |(batch, _)| *batch <= synced) {
            shared.denylist.join(item);
        }
    }

    /// Denies by age what the writer denies by age, where the options here do not: by floors, which move on with the clock.
    fn keep_floors(&self, shared: &Shared, now: Timestamp) {
        let own = shared.limits();
        let keep = |age: Option<u64>, own: Option<u64>, kind: Kind, subject: &dyn Fn() -> (Digest, _)| {
            if let Some(age) = age.filter(|age| own.is_none_or(|own| own > *age)) {
                let before = now.saturating_sub(Duration::from_nanos(age));
                shared.denylist.join(floor(kind, subject(), before));
            }
        };
        let everyone = Subject::everyone();
        keep(self.limits.max_age, own.max_age, Kind::Everyone, &|| {
            (shared.keyring.digest_of(&everyone), shared.keyring.locator_of(&everyone))
        });
        for (digest, locator, age) in &self.limits.tenants {
            keep(Some(*age), own.age_in(Some(*digest)), Kind::Tenant, &|| (*digest, *locator));
        }
    }
}

impl Engine {
    /// The thread that reads along. It holds the store only while it reads.
    pub(super) fn start_following(engine: &Arc<Self>) -> std::io::Result<Maintainer> {
        let (stop, stopped) = bounded::<()>(1);
        let engine: Weak<Self> = Arc::downgrade(engine);
        let thread = thread::Builder::new().name("rescind-follow".into()).spawn(move || {
            let mut pause = PAUSE_MIN;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let Some(engine) = engine.upgrade() else { return };
                pause = if engine.follow() { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            }
        })?;
        Ok(Maintainer::new(stop, thread))
    }

    /// Reads along, if this is a follower, and tells whether there was anything.
    pub(super) fn follow(&self) -> bool {
        self.following.as_ref().is_some_and(|following| {
            let is_news = !self.shared.is_closed() && following.poll(&self.shared, &self.rebuilding);
            if is_news && self.shared.denylist.filter_is_overfull() {
                self.fit_filter();
            }
            is_news
        })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
