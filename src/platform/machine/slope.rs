//! How fast memory grows, from readings over hours, in fixed memory: what tells a leak from a load.
//!
//! Memory jumps and falls back all the time, and a leak is a small slope below that. So of each interval only the lowest reading is kept,
//! and the slope is the median of the slopes between all pairs of intervals (Theil-Sen): up to 29 % of the intervals may hold anything at
//! all, whereas one peak bends the line of least squares.

use std::time::Duration;

use crate::platform::clock::Mono;

/// Intervals that are kept.
pub const INTERVALS: usize = 60;
/// Intervals before there is a slope.
pub const INTERVALS_MIN: usize = 12;
/// Length of an interval in production: the slope is that of the last five hours, and the first is there after one.
pub const INTERVAL: Duration = Duration::from_secs(300);

const PAIRS_MAX: usize = INTERVALS * (INTERVALS - 1) / 2;
const NANOS_PER_HOUR: f64 = 3.6e12;

/// The lowest reading of an interval.
#[derive(Debug, Clone, Copy)]
struct Low {
    at: Mono,
    bytes: u64,
}

/// Estimates the slope.
#[derive(Debug)]
pub struct SlopeEstimator {
    interval: Duration,
    /// Finished intervals, oldest first.
    lows: heapless::Deque<Low, INTERVALS>,
    /// The interval that goes on, and when it began.
    present: Option<(Mono, Low)>,
    /// Room for the slopes of all pairs, allocated once.
    slopes: Box<[f64]>,
}

impl SlopeEstimator {
    /// Without readings. `interval` is [`INTERVAL`], or shorter in a test.
    pub fn new(interval: Duration) -> Self {
        let slopes = vec![0.0; PAIRS_MAX].into_boxed_slice();
        SlopeEstimator { interval, lows: heapless::Deque::new(), present: None, slopes }
    }

    /// Adds a reading. Any number of them may fall into an interval. True: an interval was finished, so the slope is a new one.
    pub fn add(&mut self, now: Mono, bytes: u64) -> bool {
        let reading = Low { at: now, bytes };
        match &mut self.present {
            Some((begun, low)) if now.since(*begun) < self.interval => {
                if bytes < low.bytes {
                    *low = reading;
                }
                false
            }
            present => {
                let finished = present.replace((now, reading));
                if let Some((_, low)) = finished {
                    if self.lows.is_full() {
                        self.lows.pop_front();
                    }
                    let _there_is_room = self.lows.push_back(low);
                }
                finished.is_some()
            }
        }
    }

    /// Growth of the finished intervals, bytes per hour; negative for one that shrinks. Absent before [`INTERVALS_MIN`] of them. Looks at
    /// all pairs: call it when [`Self::add`] says so. Makes no heap call.
    pub fn bytes_per_hour(&mut self) -> Option<i64> {
        if self.lows.len() < INTERVALS_MIN {
            return None;
        }
        let mut count = 0;
        for (index, late) in self.lows.iter().enumerate() {
            for early in self.lows.iter().take(index) {
                let nanos = late.at.since(early.at).as_nanos() as f64;
                if nanos > 0.0 && count < self.slopes.len() {
                    self.slopes[count] = (late.bytes as f64 - early.bytes as f64) / nanos * NANOS_PER_HOUR;
                    count += 1;
                }
            }
        }
        let slopes = &mut self.slopes[..count];
        if slopes.is_empty() {
            return None;
        }
        let middle = slopes.len() / 2;
        let (_, median, _) = slopes.select_nth_unstable_by(middle, f64::total_cmp);
        Some(median.round() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MB: u64 = 1 << 20;
    const EVERY: u64 = 10;

    /// Noise without a random generator: a fraction of 1.
    fn noise(index: u64) -> f64 {
        let mixed = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) as f64 / u64::MAX as f64
    }

    /// The slope after `hours` of a reading every ten seconds, and every slope on the way.
    fn run(hours: f64, bytes: impl Fn(f64, u64) -> f64) -> (Option<i64>, Vec<i64>) {
        let mut estimator = SlopeEstimator::new(INTERVAL);
        let mut slopes = Vec::new();
        for index in 0..=(hours * 3600.0) as u64 / EVERY {
            let hour = (index * EVERY) as f64 / 3600.0;
            let now = Mono::from_nanos((index * EVERY + 77) * 1_000_000_000);
            if estimator.add(now, bytes(hour, index) as u64) {
                slopes.extend(estimator.bytes_per_hour());
            }
        }
        (estimator.bytes_per_hour(), slopes)
    }

    #[test]
    fn memory_that_only_fluctuates_has_a_slope_near_zero() {
        // Up to 8 MB above 180 MB, and a peak of 60 MB for a minute in every twenty.
        let peak = |hour: f64| if ((hour * 60.0) as u64).is_multiple_of(20) { 60.0 } else { 0.0 };
        let (slope, all) = run(10.0, |hour, index| (180.0 + 8.0 * noise(index) + peak(hour)) * MB as f64);
        assert!(slope.unwrap().unsigned_abs() < MB / 20, "{slope:?}");
        assert!(all.len() > 100 && all.iter().all(|slope| slope.unsigned_abs() < MB / 2), "{all:?}");
        assert_eq!(run(3.0, |_, _| 5e6).0, Some(0));
    }

    #[test]
    fn a_leak_of_a_megabyte_an_hour_is_found_within_two_hours() {
        let (slope, all) = run(2.0, |hour, index| (180.0 + 8.0 * noise(index) + hour) * MB as f64);
        let close = |slope: i64| (slope - MB as i64).unsigned_abs() < MB / 3;
        assert!(close(slope.unwrap()), "{slope:?}");
        let late = run(10.0, |hour, index| (180.0 + 8.0 * noise(index) + hour) * MB as f64).1;
        assert!(late[20..].iter().all(|slope| close(*slope)), "{:?} {all:?}", &late[20..]);
        let (shrinking, _) = run(5.0, |hour, index| (180.0 + 8.0 * noise(index) - hour) * MB as f64);
        assert!(close(-shrinking.unwrap()), "{shrinking:?}");
    }

    #[test]
    fn there_is_no_slope_in_the_first_hour() {
        let (slope, _) = run(0.99, |hour, _| hour * 1e9);
        assert_eq!(slope, None);
        assert!(run(1.1, |hour, _| hour * 1e9).0.is_some());
    }

    proptest! {
        /// A quarter of the intervals may hold anything.
        #[test]
        fn outliers_do_not_bend_it(outliers in proptest::collection::btree_set(0..INTERVALS as u64, 0..INTERVALS / 4), up in any::<bool>()) {
            let mut estimator = SlopeEstimator::new(Duration::from_secs(1));
            for index in 0..=INTERVALS as u64 {
                let bytes = 1_000_000 + index * 1000;
                let other = if up { bytes * 50 } else { 0 };
                let now = Mono::from_nanos(index * 1_000_000_000);
                estimator.add(now, if outliers.contains(&index) { other } else { bytes });
            }
            // 1000 bytes a second.
            let slope = estimator.bytes_per_hour().unwrap();
            prop_assert!((slope - 3_600_000).abs() <= 1, "{}", slope);
        }
    }
}
