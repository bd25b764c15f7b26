//! How long a single check takes while something else goes on in the store. The targets: 700 ns at p99.9, and no stall
//! longer than 5 ms.
//!
//! One reader asks without pause and reads the clock once after each check, so that no stall falls between two readings;
//! what reading the clock costs is in every figure, and is reported by itself. In turns of `TURN` it asks for tokens that are
//! not revoked ("negative"), for a mix with 1% that are ("mixed"), and for nothing at all ("control"): a stall that the
//! control has too is the machine's, not ours. All three are measured for the same time, under the same activity.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use hdrhistogram::Histogram;
use rescind::{Credential, ManualClock, Options, Revocation, Store, Subject, Timestamp, Verdict};

use crate::fill;
use crate::queries::{self, Ids, Space};
use crate::report::Report;

/// How long the reader stays with one sort of question: so short that whatever goes on is seen by all three.
const TURN: Duration = Duration::from_micros(100);

/// Different questions: few enough that they do not push out of the caches what is measured.
const QUESTIONS: usize = 1 << 14;

/// One question in so many is for a token that is revoked.
const MIX: usize = 100;

const STALL: Duration = Duration::from_millis(1);

/// The clock of stores that are to forget.
const START: Timestamp = Timestamp::from_secs(1_800_000_000);
const RETENTION: Duration = Duration::from_secs(3600);
/// Beyond any leeway and grace.
const LONG_AFTER: Duration = Duration::from_secs(24 * 3600);

struct Scale {
    /// Entries that are there throughout.
    base: u64,
    /// What a table grows to.
    grown: u64,
    time: Duration,
    rounds: usize,
}

impl Scale {
    fn from_env() -> Self {
        if fill::is_small() {
            Self { base: 20_000, grown: 100_000, time: Duration::from_millis(200), rounds: 2 }
        } else {
            Self { base: 1_000_000, grown: 5_000_000, time: Duration::from_secs(5), rounds: 5 }
        }
    }
}

pub fn run(report: &mut Report) {
    let scale = Scale::from_env();
    report.figure("load_timer/-", timer_ns(), "ns");
    idle(report, &scale);
    writer(report, &scale);
    sweep(report, &scale);
    snapshot(report, &scale);
    rebuild(report, &scale);
    growth(report, &scale);
    growth_by_hand(report, &scale);
}

/// What one reading of the clock costs.
fn timer_ns() -> f64 {
    const READINGS: u32 = 1_000_000;
    let start = Instant::now();
    for _ in 0..READINGS {
        black_box(Instant::now());
    }
    start.elapsed().as_nanos() as f64 / f64::from(READINGS)
}

fn idle(report: &mut Report, scale: &Scale) {
    let store = in_memory(scale.base);
    let seen = observe(
        scale.base,
        |token| is_revoked(&store, token),
        |measured| {
            measured.during(|| thread::sleep(scale.time));
        },
    );
    seen.report(report, "idle");
}

/// Another thread revokes one token after the other.
fn writer(report: &mut Report, scale: &Scale) {
    let store = in_memory(scale.base);
    let expires = fill::tomorrow();
    let seen = observe(
        scale.base,
        |token| is_revoked(&store, token),
        |measured| {
            measured.during(|| {
                let start = Instant::now();
                let fresh = (scale.base..).take_while(|_| start.elapsed() < scale.time);
                fresh.for_each(|n| _ = store.revoke(fill::revocation(n, expires)).expect("it is recorded in memory"));
            });
        },
    );
    report.figure(
        "load_writes/writer",
        (store.len() as f64 - scale.base as f64) / scale.time.as_secs_f64(),
        "revocations/s",
    );
    seen.report(report, "writer");
}

/// As many entries as there are otherwise are forgotten at once.
fn sweep(report: &mut Report, scale: &Scale) {
    let (store, clock) = forgetful(scale.base);
    let mut forgotten = 0;
    let seen = observe(
        scale.base,
        |token| is_revoked(&store, token),
        |measured| {
            for _ in 0..scale.rounds {
                expire(&store, &clock, scale.base, scale.base);
                forgotten += measured.during(|| store.maintain().forgotten);
            }
        },
    );
    if forgotten == 0 {
        report.skipped("load/sweep", "nothing was forgotten");
        return;
    }
    seen.report(report, "sweep");
}

/// A quarter of the entries, so that rebuilding the filter is a good part of what goes on. It is rebuilt once more has been
/// forgotten than there is left.
fn rebuild(report: &mut Report, scale: &Scale) {
    let base = scale.base / 4;
    let (store, clock) = forgetful(base);
    store.maintain();
    let before = store.stats().filter_rebuilds;
    let seen = observe(
        base,
        |token| is_revoked(&store, token),
        |measured| {
            for _ in 0..2 * scale.rounds {
                expire(&store, &clock, base, base + base / 4);
                measured.during(|| store.maintain());
            }
        },
    );
    let rebuilds = store.stats().filter_rebuilds - before;
    if rebuilds == 0 {
        report.skipped("load/filter_rebuild", "the filter was never rebuilt");
        return;
    }
    report.figure("load_filter_rebuilds/filter_rebuild", rebuilds as f64, "rebuilds");
    seen.report(report, "filter_rebuild");
}

fn snapshot(report: &mut Report, scale: &Scale) {
    let directory = fill::directory();
    let store = fill::unattended().open(directory.path().join("store")).expect("a new store");
    fill::fill(&store, 0..scale.base);
    let seen = observe(
        scale.base,
        |token| is_revoked(&store, token),
        |measured| {
            for _ in 0..scale.rounds {
                measured.during(|| store.snapshot().expect("a snapshot"));
            }
        },
    );
    store.close().expect("everything on disk");
    seen.report(report, "snapshot");
}

/// The table grows from `base` to `grown`.
fn growth(report: &mut Report, scale: &Scale) {
    let store = in_memory(scale.base);
    let seen = observe(
        scale.base,
        |token| is_revoked(&store, token),
        |measured| {
            measured.during(|| fill::fill(&store, scale.base..scale.grown));
        },
    );
    seen.report(report, "growth");
}

/// The map that people write by hand, under the same growth.
fn growth_by_hand(report: &mut Report, scale: &Scale) {
    let map = DashMap::new();
    let now = Instant::now();
    let insert = |n| _ = map.insert(queries::id_string(Space::Revoked, n), now);
    (0..scale.base).for_each(insert);
    let seen = observe(
        scale.base,
        |token| map.contains_key(token),
        |measured| {
            measured.during(|| (scale.base..scale.grown).for_each(insert));
        },
    );
    seen.report(report, "growth/DashMap<String,Instant>");
}

fn in_memory(tokens: u64) -> Store {
    let store = Store::in_memory();
    fill::fill(&store, 0..tokens);
    store.maintain();
    store
}

fn is_revoked(store: &Store, token: &str) -> bool {
    store.check(&Credential::new().token(token)) != Verdict::Clear
}

/// A store whose clock is moved by hand, with tokens that it is never to forget.
fn forgetful(tokens: u64) -> (Store, ManualClock) {
    let clock = ManualClock::at(START);
    let store = Options::new().clock(clock.clone()).background(false).open_in_memory().expect("a store in memory");
    let token = |n| Subject::token(queries::id_string(Space::Revoked, n));
    for first in (0..tokens).step_by(1000) {
        let batch = (first..tokens.min(first + 1000)).map(|n| Revocation::of(token(n)));
        store.revoke_many(batch).expect("it is recorded in memory");
    }
    (store, clock)
}

/// Revokes `tokens` more that are to be forgotten at the next sweep.
fn expire(store: &Store, clock: &ManualClock, from: u64, tokens: u64) {
    use rescind::Clock;
    let expires = clock.wall().saturating_add(RETENTION).as_secs();
    for first in (from..from + tokens).step_by(1000) {
        let batch = (first..(from + tokens).min(first + 1000)).map(|n| fill::revocation(n, expires));
        store.revoke_many(batch).expect("it is recorded in memory");
    }
    clock.advance(LONG_AFTER);
}

/// Whether what the other thread does is to be measured now.
#[derive(Default)]
struct Measured {
    now: AtomicBool,
    done: AtomicBool,
}

impl Measured {
    fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        self.now.store(true, Ordering::Release);
        let result = act();
        self.now.store(false, Ordering::Release);
        result
    }

    /// Waits until there is something to measure; `false` once there will be nothing more.
    fn wait(&self) -> bool {
        while !self.now.load(Ordering::Acquire) {
            if self.done.load(Ordering::Acquire) {
                return false;
            }
            thread::yield_now();
        }
        true
    }
}

/// Ends the reader however the other thread ends.
struct Done<'a>(&'a Measured);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.now.store(false, Ordering::Release);
        self.0.done.store(true, Ordering::Release);
    }
}

struct Seen {
    negative: Histogram<u64>,
    mixed: Histogram<u64>,
    control: Histogram<u64>,
}

/// Asks from this thread while another acts. `base` tokens are there to be found.
fn observe(base: u64, ask: impl Fn(&str) -> bool, act: impl FnOnce(&Measured) + Send) -> Seen {
    let measured = Measured::default();
    let questions = Questions::new(base);
    thread::scope(|scope| {
        scope.spawn(|| {
            let done = Done(&measured);
            act(done.0);
        });
        questions.ask(&measured, ask)
    })
}

struct Questions {
    absent: Ids,
    mixed: Ids,
}

impl Questions {
    fn new(base: u64) -> Self {
        Self { absent: Ids::absent(Space::Token, QUESTIONS), mixed: Ids::present(base, QUESTIONS) }
    }

    fn ask(&self, measured: &Measured, ask: impl Fn(&str) -> bool) -> Seen {
        let empty = || Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        let mut seen = Seen { negative: empty(), mixed: empty(), control: empty() };
        let mut place = 0;
        while measured.wait() {
            turn(&mut seen.control, &mut place, |place| _ = black_box(self.absent.get(place)));
            turn(&mut seen.negative, &mut place, |place| _ = black_box(ask(black_box(self.absent.get(place)))));
            turn(&mut seen.mixed, &mut place, |place| {
                let ids = if place.is_multiple_of(MIX) { &self.mixed } else { &self.absent };
                _ = black_box(ask(black_box(ids.get(place))));
            });
        }
        seen
    }
}

fn turn(times: &mut Histogram<u64>, place: &mut usize, ask: impl Fn(usize)) {
    let mut last = Instant::now();
    let end = last + TURN;
    while last < end {
        *place += 1;
        ask(*place);
        let now = Instant::now();
        // A histogram that holds a minute takes whatever is shorter.
        times.saturating_record((now - last).as_nanos() as u64);
        last = now;
    }
}

impl Seen {
    fn report(&self, report: &mut Report, case: &str) {
        for (sort, times) in [("negative", &self.negative), ("mixed", &self.mixed)] {
            let name = |figure: &str| format!("load_{figure}/{case}/{sort}");
            summarize(report, times, name);
        }
        summarize(report, &self.control, |figure| format!("load_{figure}_control/{case}"));
    }
}

fn summarize(report: &mut Report, times: &Histogram<u64>, name: impl Fn(&str) -> String) {
    report.figure(&name("p50"), times.value_at_quantile(0.5) as f64, "ns");
    report.figure(&name("p99.9"), times.value_at_quantile(0.999) as f64, "ns");
    report.figure(&name("max"), times.max() as f64, "ns");
    let stalls = times.len() - times.count_between(0, STALL.as_nanos() as u64);
    report.figure(&name("stalls_over_1ms"), stalls as f64, "stalls");
    report.figure(&name("count"), times.len() as f64, "readings");
}
