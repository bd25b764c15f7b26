//! A clock that is set back between any two of its readings, and checks that run beside a revocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rescind::{Clock, Options, SystemClock, Timestamp};

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
            for _ in 0..300 {
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
