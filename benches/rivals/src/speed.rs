//! How long a check takes, in turns with each rival, on the same queries.

use std::array;
use std::hint::black_box;
use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rescind::{Credential, Revocation, Store, Subject, Verdict};

use crate::queries::{self, Ids, Space};
use crate::report::{Report, median};
use crate::rivals::{ByHand, Locked, Moka, Papaya, Peer, QuickCache, Redis, Rival, SccIndex, Tokenkit};
use crate::settings;

/// Queries that are timed together: so few that what is prepared for them is still in a near cache when it is asked for, as
/// in a request, and so many that the two readings of the clock cost each less than half a nanosecond.
const BLOCK: usize = 128;

/// Queries in a turn. A rival gets fewer of them where they would take longer than `TURN_TIME_MAX`.
const TURN: usize = 1 << 18;
const TURN_TIME_MAX: Duration = Duration::from_millis(200);
const TURN_MIN: usize = 8;

/// Different queries: a turn of them at least, so that no cache serves them by accident, and those of eight turns where the
/// entries themselves are far larger than the caches.
const fn different_queries(size: u64) -> usize {
    if size < 1_000_000 { TURN } else { 8 * TURN }
}

/// How many credentials `check_many` gets at a time.
const MANY: usize = 32;

pub fn run(report: &mut Report) {
    let rounds = settings::rounds();
    for size in settings::sizes() {
        let bench = Bench::new(size, rounds);
        if let Some(by_hand) = bench.build::<ByHand>(report) {
            bench.compare(report, &by_hand);
            bench.compare_built(report, &by_hand);
            bench.compare_many(report, &by_hand);
            bench.compare_verdict(report, &by_hand);
            bench.compare_threads(report, &by_hand);
        }
        if let Some(peer) = bench.build::<Peer>(report) {
            bench.compare(report, &peer);
            bench.compare_built(report, &peer);
            bench.compare_many(report, &peer);
        }
        bench.build_and_compare::<Locked>(report);
        bench.build_and_compare::<Papaya>(report);
        bench.build_and_compare::<SccIndex>(report);
        bench.build_and_compare::<QuickCache>(report);
        bench.build_and_compare::<Moka>(report);
        bench.build_and_compare::<Tokenkit>(report);
        #[cfg(feature = "basil")]
        bench.build_and_compare::<crate::rivals::Basil>(report);
        bench.build_and_compare::<Redis>(report);
    }
    if cfg!(not(feature = "basil")) {
        report.skipped("basil-core", "needs --features basil, and protoc to build");
    }
}

/// Nanoseconds a query, one value a round.
struct Times {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

/// One size: the store, and what it is asked.
struct Bench {
    size: u64,
    rounds: usize,
    store: Store,
    /// Ids of which the store and the rivals hold none, one list per subject that a credential names.
    absent: [Ids; 4],
    present: Ids,
}

impl Bench {
    fn new(size: u64, rounds: usize) -> Self {
        let different = different_queries(size);
        let spaces = [Space::Token, Space::Session, Space::User, Space::Tenant];
        Self {
            size,
            rounds,
            store: store(size),
            absent: spaces.map(|space| Ids::absent(space, different)),
            present: Ids::present(size, different),
        }
    }

    fn build<R: Rival>(&self, report: &mut Report) -> Option<R> {
        let name = R::NAME;
        if self.size > R::SIZE_MAX {
            report.skipped(&format!("{name}/{}", self.size), "too slow at this size");
            return None;
        }
        let others = queries::revoked_others();
        let count = self.size as usize + others.len();
        match R::build(queries::revoked(self.size).chain(others), count) {
            Ok(rival) => Some(rival),
            Err(why) => {
                report.skipped(&format!("{name}/{}", self.size), &why);
                None
            }
        }
    }

    fn build_and_compare<R: Rival>(&self, report: &mut Report) {
        if let Some(rival) = self.build::<R>(report) {
            self.compare(report, &rival);
        }
    }

    /// One check of a credential that names n subjects, against n lookups.
    fn compare(&self, report: &mut Report, rival: &impl Rival) {
        self.compare_absent::<1, _>(report, rival);
        self.compare_absent::<2, _>(report, rival);
        self.compare_absent::<4, _>(report, rival);
        let times = self.alternate(
            |turn| self.ours(turn, true, |place| Credential::new().token(warm(self.present.get(place)))),
            |turn| theirs(turn, true, rival, |place| [warm(self.present.get(place))]),
        );
        self.write(report, "positive_1", rival, &times);
    }

    fn compare_absent<const N: usize, R: Rival>(&self, report: &mut Report, rival: &R) {
        let times = self.alternate(
            |turn| self.ours(turn, false, |place| self.credential::<N>(place)),
            |turn| theirs(turn, false, rival, |place| self.ids::<N>(place)),
        );
        self.write(report, &format!("negative_{N}"), rival, &times);
    }

    /// The credential is built inside the time that is taken.
    fn compare_built<R: Rival>(&self, report: &mut Report, rival: &R) {
        let times = self.alternate(
            |turn| {
                timed(
                    turn,
                    false,
                    |place| self.ids::<1>(place),
                    |block: &[[&str; 1]]| {
                        block
                            .iter()
                            .filter(|[id]| denies(&self.store, &Credential::new().token(black_box(*id))))
                            .count()
                    },
                )
            },
            |turn| theirs(turn, false, rival, |place| self.ids::<1>(place)),
        );
        self.write(report, "build_and_check_1", rival, &times);
    }

    /// Many credentials in one call, against one lookup each.
    fn compare_many<R: Rival>(&self, report: &mut Report, rival: &R) {
        let times = self.alternate(
            |turn| {
                let mut verdicts = Vec::with_capacity(MANY);
                timed(
                    turn,
                    false,
                    |place| self.credential::<1>(place),
                    |block: &[Credential<'_>]| {
                        let denied = block.chunks(MANY).map(|many| {
                            self.store.check_many(black_box(many), &mut verdicts);
                            verdicts.iter().filter(|verdict| !matches!(verdict, Verdict::Clear)).count()
                        });
                        denied.sum()
                    },
                )
            },
            |turn| theirs(turn, false, rival, |place| self.ids::<1>(place)),
        );
        self.write(report, "check_many_32", rival, &times);
    }

    /// Everything that a verdict on a usual token takes, against one lookup of its id.
    fn compare_verdict<R: Rival>(&self, report: &mut Report, rival: &R) {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs();
        let times = self.alternate(
            |turn| {
                self.ours(turn, false, |place| {
                    self.credential::<4>(place)
                        .issued_at_secs(now - 60)
                        .auth_time_secs(now - 3600)
                        .expires_at_secs(now + 3600)
                })
            },
            |turn| theirs(turn, false, rival, |place| self.ids::<1>(place)),
        );
        self.write(report, "verdict_4_vs_one_lookup", rival, &times);
    }

    /// What a second thread adds: checks a second with two threads over checks a second with one. There is no untimed
    /// preparation here, for the other thread would go on alone meanwhile; so credentials are built within the time.
    fn compare_threads<R: Rival + Sync>(&self, report: &mut Report, rival: &R) {
        if thread::available_parallelism().map_or(1, usize::from) < 2 {
            report.skipped("threads_2", "one core");
            return;
        }
        // Never the same query at the same time, and no query twice where that could warm a cache for the other thread.
        let apart = different_queries(self.size) / 2;
        let token = |place| self.absent[0].get(place);
        let ours = |place| denies(&self.store, &Credential::new().token(black_box(token(place))));
        let theirs = |place| rival.contains(black_box(token(place)));
        let scaling = |name: &str, report: &mut Report, checks: &dyn Fn(usize) -> f64| {
            checks(2);
            let rounds: Vec<_> = (0..self.rounds).map(|_| checks(1)).map(|one| checks(2) / one).collect();
            report.ratio(&format!("threads_2/{}/{name}", self.size), &rounds);
        };
        scaling("rescind", report, &|threads| checks_per_second(threads, apart, ours));
        scaling(R::NAME, report, &|threads| checks_per_second(threads, apart, theirs));
    }

    /// Takes turns, each on the same queries for both, and who goes first changes from round to round: what disturbs the
    /// machine for longer than a turn disturbs both.
    fn alternate(&self, ours: impl Fn(Range<usize>) -> f64, theirs: impl Fn(Range<usize>) -> f64) -> Times {
        // The first turns warm up, and say how many queries a rival can be asked in the time of a turn.
        ours(0..TURN);
        let fitting = TURN_TIME_MAX.as_secs_f64() * 1e9 / theirs(0..TURN_MIN);
        let asked = (fitting as usize).clamp(TURN_MIN, TURN);
        theirs(0..asked);
        let mut times = Times { ours: Vec::new(), theirs: Vec::new() };
        for round in 0..self.rounds {
            let first = round * TURN;
            let mut turn_of_ours = || times.ours.push(ours(first..first + TURN));
            let mut turn_of_theirs = || times.theirs.push(theirs(first..first + asked));
            if round % 2 == 0 {
                turn_of_ours();
                turn_of_theirs();
            } else {
                turn_of_theirs();
                turn_of_ours();
            }
        }
        times
    }

    fn ours<'a>(&self, turn: Range<usize>, revoked: bool, prepare: impl Fn(usize) -> Credential<'a>) -> f64 {
        timed(turn, revoked, prepare, |block: &[Credential<'_>]| {
            block.iter().filter(|credential| denies(&self.store, black_box(credential))).count()
        })
    }

    /// The ids of the first subjects of a query, none of them revoked.
    fn ids<const N: usize>(&self, place: usize) -> [&str; N] {
        array::from_fn(|subject| warm(self.absent[subject].get(place)))
    }

    /// The credential that names these subjects: a token, its session, its user, its tenant.
    fn credential<const N: usize>(&self, place: usize) -> Credential<'_> {
        let ids = self.ids::<N>(place);
        let mut credential = Credential::new().token(ids[0]);
        if N > 1 {
            credential = credential.session(ids[1]);
        }
        if N > 2 {
            credential = credential.user(ids[2]);
        }
        if N > 3 {
            credential = credential.tenant(ids[3]);
        }
        credential
    }

    fn write<R: Rival>(&self, report: &mut Report, figure: &str, _: &R, times: &Times) {
        let name = format!("{figure}/{}", self.size);
        let ratios: Vec<_> = times.ours.iter().zip(&times.theirs).map(|(ours, theirs)| theirs / ours).collect();
        report.ratio(&format!("{name}/{}", R::NAME), &ratios);
        // Our own time is the one beside the map that people write by hand.
        if R::NAME == ByHand::NAME {
            report.figure(&format!("check_ns/{name}/rescind"), median(&mut times.ours.clone()), "ns");
        }
        report.figure(&format!("check_ns/{name}/{}", R::NAME), median(&mut times.theirs.clone()), "ns");
    }
}

/// A store of so many revoked tokens. The other kinds are in use too, so that every subject named has to be asked for.
fn store(size: u64) -> Store {
    const AT_ONCE: usize = 10_000;
    let store = Store::in_memory();
    let end = SystemTime::now() + Duration::from_secs(24 * 3600);
    let [session, user, tenant] = queries::revoked_others();
    let others = [Subject::session(session), Subject::user(user), Subject::tenant(tenant)];
    store.revoke_many(others.map(Revocation::of)).expect("in memory");
    let mut tokens = queries::revoked(size).map(|id| Revocation::of(Subject::token(id)).until(end)).peekable();
    while tokens.peek().is_some() {
        store.revoke_many(tokens.by_ref().take(AT_ONCE)).expect("in memory");
    }
    store.maintain();
    assert_eq!(store.len() as u64, size + 3);
    store
}

fn denies(store: &Store, credential: &Credential<'_>) -> bool {
    !matches!(store.check(credential), Verdict::Clear)
}

fn theirs<'a, const N: usize, R: Rival>(
    turn: Range<usize>,
    revoked: bool,
    rival: &R,
    prepare: impl Fn(usize) -> [&'a str; N],
) -> f64 {
    timed(turn, revoked, prepare, |block: &[[&str; N]]| {
        block.iter().filter(|ids| rival.contains_any(black_box(ids))).count()
    })
}

/// Reads an id, so that it is in the cache when the time begins, as that of a token that was just verified is. Both sides
/// find theirs so.
fn warm(id: &str) -> &str {
    black_box(id.bytes().fold(0, |all, byte| all ^ byte));
    id
}

/// Nanoseconds a query: the median of the blocks of a turn, so that a block during which somebody else had the processor
/// does not count. What it takes to prepare a block is not in it.
fn timed<P>(
    turn: Range<usize>,
    revoked: bool,
    prepare: impl Fn(usize) -> P,
    mut ask: impl FnMut(&[P]) -> usize,
) -> f64 {
    let (mut times, mut found, asked) = (Vec::with_capacity(turn.len() / BLOCK + 1), 0, turn.len());
    let mut block = Vec::with_capacity(BLOCK);
    for first in turn.clone().step_by(BLOCK) {
        block.extend((first..turn.end.min(first + BLOCK)).map(&prepare));
        let start = Instant::now();
        found += black_box(ask(black_box(&block)));
        times.push(start.elapsed().as_secs_f64() * 1e9 / block.len() as f64);
        block.clear();
    }
    assert_eq!(found, if revoked { asked } else { 0 }, "a wrong answer");
    median(&mut times)
}

/// Each thread begins so many queries `apart` from the one before.
fn checks_per_second(threads: usize, apart: usize, is_revoked: impl Fn(usize) -> bool + Sync) -> f64 {
    const CHECKS: usize = 4 * TURN;
    let (together, is_revoked) = (Barrier::new(threads), &is_revoked);
    let one = |thread: usize| {
        together.wait();
        let start = Instant::now();
        let found = (0..CHECKS).filter(|check| is_revoked(thread * apart + check)).count();
        assert_eq!(found, 0, "a wrong answer");
        (start, Instant::now())
    };
    let spans: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a wrong answer")).collect()
    });
    let (starts, ends): (Vec<_>, Vec<_>) = spans.into_iter().unzip();
    let time = ends.into_iter().max().zip(starts.into_iter().min()).map_or(Duration::ZERO, |(end, start)| end - start);
    (threads * CHECKS) as f64 / time.as_secs_f64()
}
