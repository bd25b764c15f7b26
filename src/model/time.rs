//! Points in time, and the claims that carry them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// A point in time: nanoseconds since the Unix epoch, UTC, until the year 2554.
///
/// Times before 1970 or after 2554 are clamped to the ends of that range.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch, the earliest time there is.
    pub const MIN: Self = Self(0);
    /// The latest time there is. As a retention it means "for good".
    pub const MAX: Self = Self(u64::MAX);

    /// The time `nanos` nanoseconds after the Unix epoch.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The time `secs` seconds after the Unix epoch.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SEC))
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down: the `NumericDate` that most issuers write.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / NANOS_PER_SEC
    }

    /// This time moved forward by `by`, or [`Timestamp::MAX`].
    #[must_use]
    pub const fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(by)))
    }

    /// This time moved back by `by`, or [`Timestamp::MIN`].
    #[must_use]
    pub const fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(saturating_nanos(by)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The first whole second that lies strictly after this time.
    #[must_use]
    pub const fn next_whole_second(self) -> Self {
        Self::from_secs(self.as_secs().saturating_add(1))
    }

    /// The next nanosecond.
    #[must_use]
    pub(crate) const fn successor(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

const fn saturating_nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

/// When an entry may be forgotten: a whole second, rounded up, or never. Four bytes, for tables of millions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Retention(u32);

impl Retention {
    /// Never. It also stands for every time from February 2106 on.
    pub(crate) const FOR_GOOD: Self = Self(u32::MAX);

    pub(crate) const fn from_secs(secs: u32) -> Self {
        Self(secs)
    }

    pub(crate) const fn as_secs(self) -> u32 {
        self.0
    }

    /// Until a time, rounded up to a whole second.
    pub(crate) fn until(time: Timestamp) -> Self {
        u32::try_from(time.0.div_ceil(NANOS_PER_SEC)).map_or(Self::FOR_GOOD, Self)
    }

    /// When it ends.
    pub(crate) fn end(self) -> Timestamp {
        if self == Self::FOR_GOOD { Timestamp::MAX } else { Timestamp::from_secs(self.0.into()) }
    }
}

impl fmt::Debug for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.end().fmt(f)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        time.duration_since(UNIX_EPOCH).map_or(Self::MIN, |since| Self(saturating_nanos(since)))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_nanos(time.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::MAX {
            return f.write_str("for good");
        }
        humantime::format_rfc3339_millis((*self).into()).fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A `NumericDate` of RFC 7519 section 2: seconds since the Unix epoch, whole or with a fraction.
///
/// Integers and `f64` convert into it. A number that names no time (negative, not finite, after the year 2554) is kept
/// as *malformed*: a credential with a malformed claim is never [`Clear`](crate::Verdict::Clear).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumericDate(pub(crate) TimeClaim);

/// What a credential says about one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TimeClaim {
    #[default]
    Missing,
    Malformed,
    At(Timestamp),
}

impl TimeClaim {
    pub(crate) const fn time(self) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::Missing | Self::Malformed => None,
        }
    }
}

impl From<u64> for NumericDate {
    fn from(secs: u64) -> Self {
        match secs.checked_mul(NANOS_PER_SEC) {
            Some(nanos) => Self(TimeClaim::At(Timestamp(nanos))),
            None => Self(TimeClaim::Malformed),
        }
    }
}

impl From<u32> for NumericDate {
    fn from(secs: u32) -> Self {
        u64::from(secs).into()
    }
}

impl From<i64> for NumericDate {
    fn from(secs: i64) -> Self {
        u64::try_from(secs).map_or(Self(TimeClaim::Malformed), Self::from)
    }
}

impl From<i32> for NumericDate {
    fn from(secs: i32) -> Self {
        i64::from(secs).into()
    }
}

impl From<f64> for NumericDate {
    fn from(secs: f64) -> Self {
        // 2^64 ns is 18,446,744,073.7 s; the comparison also refuses NaN.
        if !(0.0..18_446_744_073.0).contains(&secs) {
            return Self(TimeClaim::Malformed);
        }
        let whole = secs.trunc();
        let nanos = ((secs - whole) * 1e9).round();
        Self(TimeClaim::At(Timestamp(whole as u64 * NANOS_PER_SEC + nanos as u64)))
    }
}

impl From<SystemTime> for NumericDate {
    fn from(time: SystemTime) -> Self {
        Self(TimeClaim::At(time.into()))
    }
}

impl From<Timestamp> for NumericDate {
    fn from(time: Timestamp) -> Self {
        Self(TimeClaim::At(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> NumericDate {
        NumericDate(TimeClaim::At(Timestamp(nanos)))
    }

    #[test]
    fn numeric_dates_convert_exactly() {
        assert_eq!(NumericDate::from(1_700_000_000_u64), at(1_700_000_000_000_000_000));
        assert_eq!(NumericDate::from(1_700_000_000_i32), at(1_700_000_000_000_000_000));
        assert_eq!(NumericDate::from(100.5), at(100_500_000_000));
        assert_eq!(NumericDate::from(100.0), at(100_000_000_000));
    }

    #[test]
    fn numbers_that_name_no_time_are_malformed() {
        let malformed = NumericDate(TimeClaim::Malformed);
        for secs in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300] {
            assert_eq!(NumericDate::from(secs), malformed);
        }
        assert_eq!(NumericDate::from(-1_i64), malformed);
        assert_eq!(NumericDate::from(u64::MAX), malformed);
    }

    #[test]
    fn retention_is_never_shorter_than_asked_for() {
        for (nanos, secs) in [(0, 0), (1, 1), (999_999_999, 1), (1_000_000_000, 1), (1_000_000_001, 2)] {
            assert_eq!(Retention::until(Timestamp(nanos)), Retention(secs));
        }
        let last = Timestamp::from_secs(u64::from(u32::MAX) - 1);
        assert_eq!(Retention::until(last).end(), last);
        for beyond in [last.successor(), Timestamp::from_secs(1 << 33), Timestamp::MAX] {
            assert_eq!(Retention::until(beyond).end(), Timestamp::MAX);
        }
    }

    #[test]
    fn system_time_round_trips_and_clamps() {
        let time = Timestamp::from_nanos(1_700_000_000_123_456_789);
        assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)), Timestamp::MIN);
        // The last time that there is, one more nanosecond, and more by far.
        let last = Duration::from_nanos(u64::MAX);
        for beyond in [last, last + Duration::from_nanos(1), last + Duration::from_secs(1 << 40)] {
            assert_eq!(Timestamp::from(UNIX_EPOCH + beyond), Timestamp::MAX);
            assert_eq!(Timestamp::MIN.saturating_add(beyond), Timestamp::MAX);
        }
        let before = last - Duration::from_nanos(1);
        assert_eq!(Timestamp::from(UNIX_EPOCH + before), Timestamp::from_nanos(u64::MAX - 1));
        assert_eq!(
            format!("{:?} {:?}", Retention::from_secs(1), Retention::FOR_GOOD),
            "1970-01-01T00:00:01.000Z for good"
        );
    }
}
