//! A clock that is set back between any two of its readings, and checks that run beside a revocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rescind::{Clock, Options, Store, SystemClock, Timestamp};

use super::{alice, at, is_clear, is_revoked, millis, revocation};

/// Stands still until it is set, and is set back after so many readings of the wall.
#[derive(Clone, Debug)]
pub(crate) struct SteppingClock(Arc<Mutex<Stepping>>);

#[derive(Debug)]
struct Stepping {
    wall: Timestamp,
    /// After how many readings, and by how much.
    back: Option<(usize, Duration)>,
}

impl SteppingClock {
    pub(crate) fn new(wall: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Stepping { wall, back: None })))
    }

    pub(crate) fn set_back_after(&self, readings: usize, by: Duration) {
        self.0.lock().back = Some((readings, by));
    }

    /// Sets it, for good.
    pub(crate) fn set_wall(&self, wall: Timestamp) {
        *self.0.lock() = Stepping { wall, back: None };
    }

    /// Whether it has been set back.
    pub(crate) fn has_stepped(&self) -> bool {
        self.0.lock().back.is_none()
    }
}

impl Clock for SteppingClock {
    fn wall(&self) -> Timestamp {
        let mut clock = self.0.lock();
        match clock.back {
            Some((0, by)) => {
                clock.wall = clock.wall.saturating_sub(by);
                clock.back = None;
            }
            Some((left, by)) => clock.back = Some((left - 1, by)),
            None => {}
        }
        clock.wall
    }

    fn boot(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn boot_id(&self) -> u64 {
        1
    }
}

/// Whatever was let in at any moment before the call returned is not let in after it: of credentials from now, from an issuer
/// that is ahead, and from the second that `admissible_from` gave out.
#[test]
fn whatever_a_check_lets_in_while_a_revocation_runs_is_dead_after_it() {
    for ahead in [Duration::ZERO, millis(1500), millis(20_000)] {
        let store = Options::new().clock(SystemClock::new()).background(false).open_in_memory().unwrap();
        let (over, let_in) = (AtomicBool::new(false), AtomicU64::new(0));
        let clock = SystemClock::new();
        thread::scope(|scope| {
            let checks = scope.spawn(|| {
                let mut seen = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let stamp = clock.wall().saturating_add(ahead);
                    for stamp in [stamp, store.admissible_from(&alice(stamp))] {
                        if is_clear(&store, &alice(stamp)) {
                            let_in.fetch_add(1, Ordering::SeqCst);
                            seen.push((let_in.load(Ordering::SeqCst), stamp));
                        }
                    }
                }
                seen
            });
            let mut acknowledged = Vec::new();
            // Until the checks have come to something, on a machine that is busy with other things.
            let is_enough = || ahead > millis(2000) || let_in.load(Ordering::SeqCst) > 10;
            for round in 0..100_000 {
                if round >= 300 && is_enough() {
                    break;
                }
                // Of what was let in before the call began there is no doubt; of the rest the check may be later.
                let before = let_in.load(Ordering::SeqCst);
                store.revoke(revocation()).unwrap();
                acknowledged.push(before);
                thread::yield_now();
            }
            over.store(true, Ordering::SeqCst);
            let seen = checks.join().unwrap();
            assert!(ahead > millis(2000) || seen.len() > 10, "the checks came to nothing: {}", seen.len());
            let last = *acknowledged.last().unwrap();
            for (number, stamp) in seen {
                if number <= last {
                    assert!(is_revoked(&store, &alice(stamp)), "{ahead:?}: {stamp} was let in before");
                }
            }
        });
    }
}

#[test]
fn clock_of_the_test_steps_when_it_is_told() {
    let clock = SteppingClock::new(at(0));
    clock.set_back_after(2, millis(1000));
    assert_eq!([clock.wall(), clock.wall()], [at(0); 2]);
    assert!(!clock.has_stepped());
    assert_eq!(clock.wall(), at(-1));
    assert!(clock.has_stepped());
}

/// Does something in the middle of whatever reads it, at one of its readings. It goes on by a millisecond at each.
#[derive(Clone)]
struct HookedClock(Arc<Mutex<Hooked>>);

struct Hooked {
    now: Timestamp,
    hook: Option<(usize, Box<dyn FnOnce() + Send>)>,
}

impl std::fmt::Debug for HookedClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HookedClock").finish()
    }
}

impl HookedClock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Hooked { now: at(0), hook: None })))
    }

    fn hook(&self, readings: usize, hook: impl FnOnce() + Send + 'static) {
        self.0.lock().hook = Some((readings, Box::new(hook)));
    }

    /// Whether what was to be done has been done; it is not done any more.
    fn is_done(&self) -> bool {
        self.0.lock().hook.take().is_none()
    }

    fn now(&self) -> Timestamp {
        self.0.lock().now
    }

    fn read(&self) -> Timestamp {
        let (now, hook) = {
            let mut clock = self.0.lock();
            clock.now = clock.now.saturating_add(millis(1));
            let now = clock.now;
            match clock.hook.take() {
                Some((0, hook)) => (now, Some(hook)),
                Some((left, hook)) => {
                    clock.hook = Some((left - 1, hook));
                    (now, None)
                }
                None => (now, None),
            }
        };
        // What was read is what it was before.
        hook.into_iter().for_each(|hook| hook());
        now
    }
}

impl Clock for HookedClock {
    fn wall(&self) -> Timestamp {
        self.read()
    }

    fn boot(&self) -> Duration {
        Duration::from_secs(3600) + self.read().saturating_since(at(0))
    }

    fn boot_id(&self) -> u64 {
        1
    }
}

/// Of an issuer that is ahead by so much; none is asked when credentials are admissible.
const AHEAD: [Option<Duration>; 4] = [Some(Duration::ZERO), Some(millis(1500)), Some(millis(20_000)), None];

fn hooked_store() -> (HookedClock, Store) {
    let clock = HookedClock::new();
    let store = Options::new().clock(clock.clone()).background(false).open_in_memory().unwrap();
    // Something has been revoked before.
    store.revoke(revocation()).unwrap();
    (clock, store)
}

fn stamp_at(clock: &HookedClock, store: &Store, ahead: Option<Duration>) -> Timestamp {
    ahead.map_or_else(|| store.admissible_from(&alice(at(0))), |ahead| clock.now().saturating_add(ahead))
}

/// A check in the middle of a revocation: what it lets in is dead once that is acknowledged.
#[test]
fn check_at_any_reading_of_a_revocation_lets_in_nothing_that_outlives_it() {
    let mut let_in = 0;
    for ahead in AHEAD {
        for reading in 0.. {
            let (clock, store) = hooked_store();
            let seen = Arc::new(Mutex::new(None));
            clock.hook(reading, {
                let (clock, store, seen) = (clock.clone(), store.clone(), Arc::clone(&seen));
                move || {
                    let stamp = stamp_at(&clock, &store, ahead);
                    *seen.lock() = Some(stamp).filter(|stamp| is_clear(&store, &alice(*stamp)));
                }
            });
            store.revoke(revocation()).unwrap();
            if !clock.is_done() {
                assert!(reading > 3, "{ahead:?}");
                break;
            }
            let seen = *seen.lock();
            let_in += usize::from(seen.is_some());
            assert!(seen.is_none_or(|stamp| is_revoked(&store, &alice(stamp))), "{ahead:?}, at reading {reading}");
        }
    }
    assert!(let_in > 3, "{let_in}");
}
