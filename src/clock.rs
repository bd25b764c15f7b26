//! Where time comes from: the system, or a test's own hand.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::model::Timestamp;

/// Where a store reads the time.
///
/// Two clocks, because neither is to be trusted alone: the wall clock can be set, the boot clock starts anew at each
/// boot.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock.
    fn wall(&self) -> Timestamp;

    /// The wall clock as it was up to a few milliseconds ago, for the price of a few nanoseconds: read on every check.
    fn coarse_wall(&self) -> Timestamp {
        self.wall()
    }

    /// The time since boot, time asleep included.
    fn boot(&self) -> Duration;

    /// A number that differs from boot to boot; zero where that is not known.
    fn boot_id(&self) -> u64;
}

/// The clocks of the operating system.
#[derive(Debug, Default)]
pub struct SystemClock {
    /// It is a file to be read, and stays the same.
    boot_id: OnceLock<u64>,
}

impl SystemClock {
    /// The clocks of the operating system.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[cfg(target_os = "linux")]
impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        timestamp(rustix::time::clock_gettime(rustix::time::ClockId::Realtime))
    }

    fn coarse_wall(&self) -> Timestamp {
        // One timer tick (1 to 10 ms) behind at most, far inside every leeway.
        timestamp(rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse))
    }

    fn boot(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    fn boot_id(&self) -> u64 {
        *self.boot_id.get_or_init(read_boot_id)
    }
}

#[cfg(target_os = "linux")]
fn read_boot_id() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&hex, 16).unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clocks")]
impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        std::time::SystemTime::now().into()
    }

    fn boot(&self) -> Duration {
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    fn boot_id(&self) -> u64 {
        0
    }
}

#[cfg(target_os = "linux")]
fn timestamp(time: rustix::time::Timespec) -> Timestamp {
    let nanos = Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0));
    Timestamp::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)).saturating_add(nanos)
}

/// A clock that stands still until it is moved: for tests, ours and yours. Clones share their time.
///
/// ```
/// use std::time::Duration;
/// use rescind::{Clock, ManualClock, Timestamp};
///
/// let clock = ManualClock::at(Timestamp::from_secs(1_700_000_000));
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.wall(), Timestamp::from_secs(1_700_000_060));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Manual>>);

#[derive(Debug)]
struct Manual {
    wall: Timestamp,
    boot: Duration,
    boot_id: u64,
}

impl ManualClock {
    /// A clock at a time, an hour after boot.
    #[must_use]
    pub fn at(wall: impl Into<Timestamp>) -> Self {
        let manual = Manual { wall: wall.into(), boot: Duration::from_secs(3600), boot_id: 1 };
        Self(Arc::new(Mutex::new(manual)))
    }

    /// Time passes: both clocks move.
    pub fn advance(&self, by: Duration) {
        let mut manual = self.0.lock();
        manual.wall = manual.wall.saturating_add(by);
        manual.boot = manual.boot.saturating_add(by);
    }

    /// Somebody sets the wall clock; the boot clock does not move.
    pub fn set_wall(&self, wall: impl Into<Timestamp>) {
        self.0.lock().wall = wall.into();
    }

    /// The machine restarts: the boot clock starts anew, and the boot id changes.
    pub fn reboot(&self) {
        let mut manual = self.0.lock();
        manual.boot = Duration::ZERO;
        manual.boot_id += 1;
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        self.0.lock().wall
    }

    fn boot(&self) -> Duration {
        self.0.lock().boot
    }

    fn boot_id(&self) -> u64 {
        self.0.lock().boot_id
    }
}

/// A reading of both clocks, as it is kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) wall: Timestamp,
    pub(crate) boot: Duration,
    pub(crate) boot_id: u64,
}

/// The time by which entries are forgotten: never ahead of the wall clock, nor of what the boot clock bears out.
///
/// It follows a wall clock that steps back, and never one that steps forward: after a forward step entries are kept
/// for longer, until the store is opened again.
///
/// Of the time between two boots the boot clock knows nothing, and a wall clock that was wrong at boot is often set right
/// soon after. So after a reboot time goes on from where it was on disk, until the wall clock has run steadily for an hour;
/// then that is believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BorneOutTime {
    wall: Timestamp,
    boot: Duration,
    /// After a reboot, since when the wall clock has run steadily.
    trial: Option<Trial>,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    wall: Timestamp,
    boot: Duration,
}

impl Trial {
    /// How long the wall clock must run steadily, by the boot clock.
    const PERIOD: Duration = Duration::from_secs(3600);
    /// How much it may drift meanwhile: more than any clock that is being slewed, less than one that is set.
    const DRIFT_MAX: Duration = Duration::from_secs(60);

    fn is_steady(&self, wall: Timestamp, boot: Duration) -> bool {
        let expected = self.wall.saturating_add(boot.saturating_sub(self.boot));
        wall <= expected.saturating_add(Self::DRIFT_MAX) && expected <= wall.saturating_add(Self::DRIFT_MAX)
    }
}

impl Reading {
    pub(crate) fn now(clock: &dyn Clock) -> Self {
        Self { wall: clock.wall(), boot: clock.boot(), boot_id: clock.boot_id() }
    }
}

impl BorneOutTime {
    /// Starts from the clocks now and from the last reading on disk. Within one boot, the wall clock may be no further
    /// on than the boot clock says. Where nothing was ever written, nothing can be forgotten too early.
    pub(crate) fn start(now: Reading, last: Option<Reading>) -> Self {
        let Some(last) = last else { return Self { wall: now.wall, boot: now.boot, trial: None } };
        let is_same_boot = last.boot_id == now.boot_id && now.boot >= last.boot && now.boot_id != 0;
        let (elapsed, trial) = match is_same_boot {
            true => (now.boot.saturating_sub(last.boot), None),
            false => (Duration::ZERO, Some(Trial { wall: now.wall, boot: now.boot })),
        };
        Self { wall: now.wall.min(last.wall.saturating_add(elapsed)), boot: now.boot, trial }
    }

    /// Moves on, and gives the time.
    pub(crate) fn advance(&mut self, wall: Timestamp, boot: Duration) -> Timestamp {
        self.wall = wall.min(self.wall.saturating_add(boot.saturating_sub(self.boot)));
        self.boot = self.boot.max(boot);
        match self.trial {
            Some(trial) if !trial.is_steady(wall, boot) => self.trial = Some(Trial { wall, boot: self.boot }),
            Some(trial) if self.boot.saturating_sub(trial.boot) >= Trial::PERIOD => {
                self.wall = wall;
                self.trial = None;
            }
            _ => {}
        }
        self.wall
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const T0: u64 = 1_700_000_000;

    fn reading(wall: u64, boot: u64, boot_id: u64) -> Reading {
        Reading { wall: Timestamp::from_secs(wall), boot: Duration::from_secs(boot), boot_id }
    }

    fn advance(time: &mut BorneOutTime, wall: u64, boot: u64) -> u64 {
        time.advance(Timestamp::from_secs(wall), Duration::from_secs(boot)).as_secs()
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the system's clocks are what is tested")]
    fn the_systems_clocks_tell_the_time() {
        let clock = SystemClock::new();
        let (before, boot, start) = (std::time::SystemTime::now(), clock.boot(), std::time::Instant::now());
        let (wall, coarse) = (SystemTime::from(clock.wall()), SystemTime::from(clock.coarse_wall()));
        let after = std::time::SystemTime::now();
        assert!(before <= wall && wall <= after, "{before:?} {wall:?} {after:?}");
        let tick = Duration::from_millis(100);
        assert!(before - tick <= coarse && coarse <= after, "{before:?} {coarse:?} {after:?}");
        while start.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        assert!(clock.boot() >= boot + Duration::from_millis(2), "it goes on");
        assert_eq!(clock.boot_id(), SystemClock::new().boot_id(), "one number for one boot");
        #[cfg(target_os = "linux")]
        {
            let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
            let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
            assert!((boot.as_secs_f64() - uptime).abs() < 10.0, "{boot:?}, {uptime}");
            assert!(clock.boot_id() > 1 << 32, "{:x}", clock.boot_id());
        }
    }

    #[test]
    fn a_forward_step_is_not_followed() {
        let mut time = BorneOutTime::start(reading(T0, 10, 1), None);
        assert_eq!(advance(&mut time, T0 + 1_000_000, 20), T0 + 10);
        assert_eq!(advance(&mut time, T0 + 20, 30), T0 + 20);
    }

    #[test]
    fn a_step_back_is_followed_at_once() {
        let mut time = BorneOutTime::start(reading(T0, 10, 1), None);
        assert_eq!(advance(&mut time, T0 - 500, 20), T0 - 500);
        assert_eq!(advance(&mut time, T0 + 20, 30), T0 - 490, "what was lost is not regained within the process");
    }

    #[test]
    fn within_one_boot_the_disk_bounds_the_start() {
        let last = Some(reading(T0, 10, 1));
        assert_eq!(BorneOutTime::start(reading(T0 + 9_999, 20, 1), last).wall.as_secs(), T0 + 10);
    }

    #[test]
    fn after_a_reboot_a_clock_is_believed_that_has_run_steadily_for_an_hour() {
        let last = Some(reading(T0, 10_000, 1));
        let mut time = BorneOutTime::start(reading(T0 + 9_999, 20, 2), last);
        assert_eq!(advance(&mut time, T0 + 9_999, 20), T0);
        assert_eq!(advance(&mut time, T0 + 9_999 + 3_599, 20 + 3_599), T0 + 3_599);
        assert_eq!(advance(&mut time, T0 + 9_999 + 3_600, 20 + 3_600), T0 + 9_999 + 3_600);
        assert_eq!(advance(&mut time, T0 + 99_999, 20 + 3_700), T0 + 9_999 + 3_700, "and no step after that");
    }

    #[test]
    fn after_a_reboot_a_clock_that_is_set_right_is_not_believed_before_that() {
        let last = Some(reading(T0, 10_000, 1));
        // A year ahead for half an hour; and, the other way, at its beginning until the network is there.
        for wrong in [T0 + 31_536_000, 0] {
            let mut time = BorneOutTime::start(reading(wrong, 20, 2), last);
            assert_eq!(advance(&mut time, wrong + 1_800, 1_820), (T0 + 1_800).min(wrong + 1_800));
            let set_right = advance(&mut time, T0 + 2_000, 1_830);
            assert!(set_right <= T0 + 1_810);
            assert!(advance(&mut time, T0 + 2_000 + 3_599, 1_830 + 3_599) <= T0 + 1_810 + 3_599);
            assert_eq!(advance(&mut time, T0 + 2_000 + 3_600, 1_830 + 3_600), T0 + 2_000 + 3_600);
        }
    }
}
