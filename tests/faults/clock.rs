//! Wall clocks that step back and forward by seconds, hours and years, machines that sleep and reboot, clocks that are
//! wrong at boot and set right later: nothing is forgotten early, and nobody is let in on the word of a wrong clock.

use std::sync::Arc;
use std::time::Duration;

use rescind::storage::MemoryStorage;
use rescind::{
    Cause, Credential, Key, ManualClock, Options, Revocation, Store, Subject, Timestamp, Verdict, WriteError,
};

use crate::harness::{Harness, Outcome, Random, holds, lost, scaled, silent};
use crate::workload::{SEGMENT_BYTES, START_SECS};

const HOUR: u64 = 3_600;
const YEAR: u64 = 365 * 24 * HOUR;
/// The defaults.
const LEEWAY: u64 = 60;
const SKEW: u64 = 60;

/// A store, a clock that may be wrong, and the true time.
struct World {
    store: Store,
    disk: MemoryStorage,
    clock: ManualClock,
    /// Seconds since 1970.
    now: u64,
    /// How far the wall clock is ahead, in seconds.
    ahead: i64,
    /// Revoked tokens, each with the true `exp` of what it denies.
    revoked: Vec<(String, u64)>,
    /// Whether the process was started after a boot, so that a clock which is wrong for an hour might be believed.
    is_on_trial: bool,
    /// How many more seconds the clock may be wrong then.
    wrong_for: u64,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::at(Timestamp::from_secs(START_SECS));
        let disk = MemoryStorage::new();
        let store = options(&clock).open_on(Arc::new(disk.clone())).unwrap();
        // The clock that makes a store is believed, for there is no other; from here on there is something to go by.
        store.revoke(Revocation::of(Subject::token("first")).until_secs(START_SECS + 1)).unwrap();
        Self { store, disk, clock, now: START_SECS, ahead: 0, revoked: Vec::new(), is_on_trial: false, wrong_for: 0 }
    }

    /// Time passes, whether anybody sleeps or not. A clock that might be believed is set right in time.
    fn pass(&mut self, mut secs: u64) {
        if self.is_on_trial && self.ahead != 0 && secs >= self.wrong_for {
            let wrong = std::mem::take(&mut self.wrong_for);
            self.advance(wrong);
            self.set_wall(0);
            secs -= wrong;
        }
        self.advance(secs);
    }

    fn advance(&mut self, secs: u64) {
        self.now += secs;
        self.wrong_for = self.wrong_for.saturating_sub(secs);
        self.clock.advance(Duration::from_secs(secs));
    }

    fn set_wall(&mut self, ahead: i64) {
        self.ahead = ahead;
        self.wrong_for = HOUR / 2;
        self.clock.set_wall(Timestamp::from_secs(self.now.saturating_add_signed(ahead)));
    }

    fn reopen(&mut self) -> Outcome {
        let options = options(&self.clock);
        self.disk = self.disk.kill_image();
        match options.open_on(Arc::new(self.disk.clone())) {
            Ok(store) => self.store = store,
            Err(error) => return lost(format!("no clock makes a store unreadable: {error}")),
        }
        Ok(())
    }

    fn step(&mut self, random: &mut Random) -> Outcome {
        let amount = |random: &mut Random| match random.below(4) {
            // Twice that is within the skew, once one way and once the other.
            0 => 1 + random.below(SKEW / 2 - 1),
            1 => HOUR * (1 + random.below(48)),
            2 => YEAR * (1 + random.below(20)),
            _ => 61 + random.below(600),
        };
        match random.below(12) {
            0..=2 => {
                let id = format!("t{}", self.revoked.len());
                let exp = self.now + [30, 900, HOUR, 30 * 24 * HOUR][random.below(4) as usize];
                let revocation = Revocation::of(Subject::token(&*id)).until_secs(exp);
                match self.store.revoke(revocation) {
                    Ok(_) => self.revoked.push((id, exp)),
                    // A clock that is ahead takes it for expired, and says so.
                    Err(WriteError::RetentionInPast { .. }) if self.ahead > 0 => {}
                    Err(error) => return lost(error.to_string()),
                }
            }
            3 | 4 => {
                let secs = random.below(4 * HOUR);
                self.pass(secs);
            }
            5 => {
                let step = amount(random) as i64;
                self.set_wall(if random.below(2) == 0 { step } else { -step });
            }
            6 => self.set_wall(0),
            7 => {
                // A commit since the boot is on disk, and from there on the boot clock tells.
                self.is_on_trial &= self.store.stats().batches == 0;
                self.reopen()?;
            }
            8 => {
                // Off for a while; and then the clock may be wrong, until it is set right, within the hour.
                self.now += random.below(48 * HOUR);
                self.clock.reboot();
                let ahead = if random.below(2) == 0 { amount(random) as i64 - YEAR as i64 } else { 0 };
                self.set_wall(ahead);
                self.reopen()?;
                self.is_on_trial = true;
            }
            9 => {
                // Nothing goes wrong with the disk.
                if self.store.snapshot().is_err() {
                    return lost("no snapshot");
                }
            }
            _ => _ = self.store.maintain(),
        }
        Ok(())
    }

    /// Whoever is revoked and alive is denied, whatever the clock says; and who is not, is let in if it is right.
    fn check(&self) -> Outcome {
        for (id, exp) in self.revoked.iter().filter(|(_, exp)| exp + LEEWAY >= self.now) {
            let dated = Credential::new().token(id).issued_at_secs(exp - 1).expires_at_secs(*exp);
            for credential in [dated, Credential::new().token(id)] {
                match self.store.check(&credential) {
                    Verdict::Revoked(_) => {}
                    Verdict::Unknown(Cause::Clock) => return lost(format!("{id} is forgotten before its time")),
                    other => return silent(format!("{id} is let in before its time: {other:?}")),
                }
            }
        }
        let now = self.now;
        let innocent = Credential::new().token("innocent").issued_at_secs(now - 10).expires_at_secs(now + 300);
        let verdict = self.store.check(&innocent);
        match verdict {
            Verdict::Clear => Ok(()),
            // A clock that is right is believed.
            _ if self.ahead.unsigned_abs() < SKEW / 2 => lost(format!("the clock is right, and: {verdict:?}")),
            Verdict::Unknown(Cause::Clock) => holds(self.ahead < 0, || "the clock is not behind".into()),
            Verdict::Unknown(_) => lost(format!("{verdict:?}")),
            Verdict::Revoked(_) => Ok(()),
        }
    }

    /// In the end everything is forgotten, or memory would grow without end.
    fn forget_everything(&mut self) -> Outcome {
        self.set_wall(0);
        self.clock.reboot();
        self.reopen()?;
        self.store.maintain();
        self.pass(40 * 24 * HOUR);
        self.store.maintain();
        self.pass(1);
        self.store.maintain();
        holds(self.store.is_empty(), || format!("{} entries are kept for ever", self.store.len()))
    }
}

fn options(clock: &ManualClock) -> Options {
    Options::new().key(Key::from_bytes([7; 32])).clock(clock.clone()).background(false).segment_bytes(SEGMENT_BYTES)
}

#[test]
fn no_clock_makes_anything_forgotten_early() {
    let mut harness = Harness::new("clock");
    for seed in 0..scaled(1_000, 20_000) {
        harness.case(
            || format!("seed {seed}"),
            || {
                let (mut world, mut random) = (World::new(), Random(seed));
                for _ in 0..60 {
                    world.step(&mut random)?;
                    world.check()?;
                }
                world.forget_everything()
            },
        );
    }
    harness.finish();
}

/// A clock that is behind what the store has seen: verdicts on the dated are unknown, revocations bind.
#[test]
fn a_clock_behind_the_stores_own_time_at_open_is_not_believed() {
    let mut harness = Harness::new("clock-behind");
    for behind in [61, HOUR, YEAR, 20 * YEAR, START_SECS] {
        for (closed, rebooted) in [(true, false), (true, true), (false, false), (false, true)] {
            harness.case(
                || format!("{behind} s, closed: {closed}, rebooted: {rebooted}"),
                || {
                    let mut world = World::new();
                    world.store.revoke(Revocation::of(Subject::token("t")).until_secs(world.now + YEAR)).unwrap();
                    world.pass(2 * behind.min(YEAR) + 100);
                    // Closing notes the time, and so does maintenance; a commit does, too.
                    match closed {
                        true => world.store.close().unwrap(),
                        false => _ = world.store.maintain(),
                    }
                    if rebooted {
                        world.clock.reboot();
                    }
                    world.set_wall(-(behind as i64));
                    world.reopen()?;
                    let wall = world.now - behind;
                    let innocent = Credential::new().token("innocent").issued_at_secs(wall).expires_at_secs(wall + 300);
                    let verdict = world.store.check(&innocent);
                    if verdict != Verdict::Unknown(Cause::Clock) {
                        return silent(format!("{verdict:?}"));
                    }
                    let revoked = Credential::new().token("t").issued_at_secs(wall);
                    holds(matches!(world.store.check(&revoked), Verdict::Revoked(_)), || "what is held binds".into())?;
                    // Once it is set right, all is well.
                    world.set_wall(0);
                    world.check()
                },
            );
        }
    }
    harness.finish();
}
