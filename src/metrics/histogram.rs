//! Histograms of durations in fixed memory: any thread adds, nobody waits, and percentiles follow from the buckets.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets, microseconds, inclusive; one more bucket is above them. Ten to a decade (ISO 3, R10), from a tenth of a
/// millisecond to 100 s: from a gate on a fast core to a board that throttles, and a percentile is off by an eighth at most.
pub const BOUNDS_US: [u64; 61] = bounds();

/// Number of buckets.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

const fn bounds() -> [u64; 61] {
    const DECADE: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];
    let mut bounds = [0; 61];
    let (mut index, mut power) = (0, 1);
    while index < bounds.len() {
        bounds[index] = DECADE[index % 10] * power;
        index += 1;
        if index % 10 == 0 {
            power *= 10;
        }
    }
    bounds
}

/// The count of durations in each bucket, and their sum. Only grows.
#[derive(Debug)]
pub struct Histogram {
    sum: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { sum: AtomicU64::new(0), buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Histogram {
    /// Adds a duration.
    pub fn add(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(micros, Relaxed);
    }

    /// Its contents now. Reading changes nothing.
    pub fn read(&self) -> Distribution {
        let mut buckets = [0; BUCKETS];
        for (copy, bucket) in buckets.iter_mut().zip(&self.buckets) {
            *copy = bucket.load(Relaxed);
        }
        Distribution { sum_us: self.sum.load(Relaxed), buckets }
    }
}

/// The contents of a histogram when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distribution {
    /// Sum of all durations, microseconds.
    pub sum_us: u64,
    /// Durations up to each of [`BOUNDS_US`] and above the bound before, and those above the last.
    pub buckets: [u64; BUCKETS],
}

impl Default for Distribution {
    fn default() -> Self {
        Distribution { sum_us: 0, buckets: [0; BUCKETS] }
    }
}

impl Distribution {
    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds the durations of another one.
    pub fn add(&mut self, other: &Distribution) {
        self.sum_us += other.sum_us;
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
    }

    /// The durations that were added since `earlier`, a previous reading of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Distribution) -> Self {
        let mut since = *self;
        since.sum_us = self.sum_us.saturating_sub(earlier.sum_us);
        for (bucket, before) in since.buckets.iter_mut().zip(earlier.buckets) {
            *bucket = bucket.saturating_sub(before);
        }
        since
    }

    /// Mean of the durations, microseconds; 0 if there are none.
    pub fn mean_us(&self) -> u64 {
        self.sum_us / self.count().max(1)
    }

    /// The duration that a part of them does not exceed, microseconds: 0.5 is the median. Interpolated within its bucket; above the last
    /// bound it is that bound. `None` if there are no durations.
    pub fn percentile_us(&self, part: f64) -> Option<u64> {
        let count = self.count();
        // The smallest number of durations that is at least this part of them.
        let wanted = (part.clamp(0.0, 1.0) * count as f64).ceil().max(1.0);
        let mut below = 0;
        for (index, in_bucket) in self.buckets.iter().enumerate() {
            let up_to = below + in_bucket;
            if *in_bucket > 0 && up_to as f64 >= wanted {
                let low = if index == 0 { 0 } else { BOUNDS_US[index - 1] };
                let Some(high) = BOUNDS_US.get(index) else { return Some(low) };
                let share = (wanted - below as f64) / *in_bucket as f64;
                return Some(low + ((high - low) as f64 * share) as u64);
            }
            below = up_to;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn bounds_grow_by_a_quarter_and_durations_fall_into_their_bucket() {
        assert_eq!((BOUNDS_US[0], BOUNDS_US[10], BOUNDS_US[60]), (100, 1000, 100_000_000));
        assert!(BOUNDS_US.windows(2).all(|pair| (1.24..1.29).contains(&(pair[1] as f64 / pair[0] as f64))));
        let histogram = Histogram::default();
        for duration in [0, 100, 101, 125, 100_000_000, 100_000_001] {
            histogram.add(micros(duration));
        }
        let read = histogram.read();
        assert_eq!((read.buckets[0], read.buckets[1], read.buckets[60], read.buckets[61]), (2, 2, 1, 1));
        assert_eq!((read.count(), read.sum_us), (6, 200_000_327));
        assert_eq!(read.since(&read), Distribution::default());
        assert_eq!(Distribution::default().percentile_us(0.5), None);
    }

    proptest! {
        /// Compared with sorted durations: a percentile is in the bucket of the true one.
        #[test]
        fn percentiles_are_those_of_the_durations(
            mut durations in proptest::collection::vec(1u64..200_000_000, 1..200),
            part in 0.0f64..1.0,
        ) {
            let histogram = Histogram::default();
            durations.iter().for_each(|duration| histogram.add(micros(*duration)));
            durations.sort_unstable();
            let rank = ((part * durations.len() as f64).ceil() as usize).max(1);
            let truth = durations[rank - 1];
            let found = histogram.read().percentile_us(part).unwrap();
            let bucket = BOUNDS_US.partition_point(|bound| *bound < truth);
            let low = if bucket == 0 { 0 } else { BOUNDS_US[bucket - 1] };
            let high = BOUNDS_US.get(bucket).copied().unwrap_or(low);
            prop_assert!((low..=high).contains(&found), "{found} for {truth}, in {low}..={high}");
        }

        #[test]
        fn readings_add_up(a in proptest::collection::vec(1u64..1_000_000, 0..50), b in proptest::collection::vec(1u64..1_000_000, 0..50)) {
            let histogram = Histogram::default();
            a.iter().for_each(|duration| histogram.add(micros(*duration)));
            let first = histogram.read();
            b.iter().for_each(|duration| histogram.add(micros(*duration)));
            let both = histogram.read();
            let second = both.since(&first);
            prop_assert_eq!((second.count(), second.sum_us), (b.len() as u64, b.iter().sum::<u64>()));
            let mut sum = first;
            sum.add(&second);
            prop_assert_eq!(sum, both);
        }
    }
}
