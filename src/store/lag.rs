//! How long news took to arrive: a histogram of a fixed size.

use std::time::Duration;

/// Each power of two of microseconds is split into so many.
const PARTS: u64 = 8;
const BUCKETS: usize = 40 * PARTS as usize;

#[derive(Debug)]
pub(super) struct Lag {
    counts: Box<[u64; BUCKETS]>,
}

impl Default for Lag {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]) }
    }
}

impl Lag {
    pub(super) fn record(&mut self, lag: Duration) {
        let micros = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
        let index = usize::try_from(bucket(micros)).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(count) = self.counts.get_mut(index) {
            *count += 1;
        }
    }

    /// How long so many of a thousand took, at most: within an eighth.
    pub(super) fn percentiles<const N: usize>(&self, of_thousand: [u64; N]) -> [Duration; N] {
        let total: u64 = self.counts.iter().sum();
        of_thousand.map(|share| {
            let wanted = (total * share).div_ceil(1000);
            let mut seen = 0;
            let index = self.counts.iter().position(|count| {
                seen += count;
                seen >= wanted && total > 0
            });
            index.map_or(Duration::ZERO, |index| Duration::from_micros(upper(index as u64)))
        })
    }
}

fn bucket(micros: u64) -> u64 {
    if micros < PARTS {
        return micros;
    }
    let power = u64::from(micros.ilog2()) - u64::from(PARTS.ilog2());
    power * PARTS + (micros >> power)
}

/// The greatest number of a bucket.
fn upper(bucket: u64) -> u64 {
    if bucket < PARTS * 2 {
        return bucket;
    }
    let power = bucket / PARTS - 1;
    ((bucket % PARTS + PARTS + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_its_bucket() {
        for micros in (0..5_000).chain((10..36).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1])) {
            let bucket = bucket(micros);
            assert!(micros <= upper(bucket), "{micros}");
            assert!(bucket == 0 || micros > upper(bucket - 1), "{micros}");
            assert!(upper(bucket) - micros <= micros / PARTS, "{micros}");
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut lag = Lag::default();
        assert_eq!(lag.percentiles([500]), [Duration::ZERO]);
        (1..=1000).for_each(|millis| lag.record(Duration::from_millis(millis)));
        let [half, most] = lag.percentiles([500, 990]);
        assert!((500..565).contains(&half.as_millis()), "{half:?}");
        assert!((990..1120).contains(&most.as_millis()), "{most:?}");
        lag.record(Duration::MAX);
    }
}
