//! How long to wait before trying again.

use std::time::Duration;

/// Twice as long after each failure, up to a limit, and at random within the upper half of that: those who were cut off
/// together do not come back together.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// It has failed: how long to wait.
    pub(super) fn next(&mut self) -> Duration {
        let at_most = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let random = getrandom::u32().unwrap_or(u32::MAX);
        at_most.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }

    /// It has succeeded.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    #[cfg(feature = "redis")]
    pub(super) const fn has_failed(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_begin_anew() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(50), millis(5_000));
        for _ in 0..2 {
            let waits: Vec<Duration> = (0..40).map(|_| backoff.next()).collect();
            assert!((millis(25)..=millis(50)).contains(&waits[0]), "{waits:?}");
            assert!((millis(50)..=millis(100)).contains(&waits[1]), "{waits:?}");
            assert!(waits[8..].iter().all(|wait| (millis(2500)..=millis(5000)).contains(wait)), "{waits:?}");
            assert!(waits[8..].windows(2).any(|pair| pair[0] != pair[1]), "they are not all alike");
            backoff.reset();
        }
    }
}
