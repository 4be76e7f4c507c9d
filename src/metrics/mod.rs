//! What the program counts about itself. Stages return outcomes; `run` adds them up here; the `stats` event carries them.
//!
//! [`table`] names every metric. [`Metrics`] holds those that are counted while frames are processed, as atomics: any thread adds, nobody
//! waits, memory is fixed. Reading changes nothing, so any number of readers can read at any time; a reader that wants values since its
//! last read computes them from two snapshots ([`IntervalReader`]).

pub mod table;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metrics::table::{Stats, stats_rows};
use crate::platform::clock::Mono;

/// Makes [`Metrics`] from the table: a [`Counter`] for each `counted` row, nothing for a `given` one.
macro_rules! counters {
    (@rows [$($name:ident $help:literal)*]) => {
        /// Counters since the start of the program. Any thread adds, nobody waits.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: Counter,)*
            last_frame: AtomicU64,
            last_captured: AtomicU64,
            processing: Histogram,
        }

        impl Metrics {
            /// Adds the part of [`Stats`] that is counted here.
            fn add_to(&self, stats: &mut Stats) {
                $(stats.$name += self.$name.get();)*
            }
        }
    };
    (@rows $made:tt $since:literal given $name:ident: $kind:ident $unit:ident $help:literal; $($rest:tt)*) => {
        counters! { @rows $made $($rest)* }
    };
    (@rows [$($made:tt)*] $since:literal counted $name:ident: Counter $unit:ident $help:literal; $($rest:tt)*) => {
        counters! { @rows [$($made)* $name $help] $($rest)* }
    };
    ($(#[$doc:meta])* $body:ident = $event:literal; $($rows:tt)*) => {
        counters! { @rows [] $($rows)* }
    };
}

stats_rows!(counters);

/// A number that only grows, or is set to a sum that a stage keeps itself.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `by`; returns the new sum.
    pub fn add(&self, by: u64) -> u64 {
        self.0.fetch_add(by, Relaxed) + by
    }

    /// Sets it to a sum that is kept elsewhere.
    pub fn set(&self, sum: u64) {
        self.0.store(sum, Relaxed);
    }

    /// The sum.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets of [`table::PROCESSING`], microseconds, inclusive; one more bucket is above them. They range from a small
/// network on a fast core to a board that throttles from heat.
pub const PROCESSING_BOUNDS_US: [u64; 10] =
    [5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000];

const RANGES: usize = PROCESSING_BOUNDS_US.len() + 1;

/// The count of durations in each bucket, and their sum. Only grows.
#[derive(Debug, Default)]
struct Histogram {
    sum: AtomicU64,
    ranges: [AtomicU64; RANGES],
}

impl Histogram {
    fn add(&self, micros: u64) {
        let range = PROCESSING_BOUNDS_US.partition_point(|bound| *bound < micros);
        self.ranges[range].fetch_add(1, Relaxed);
        self.sum.fetch_add(micros, Relaxed);
    }

    fn read(&self) -> Distribution {
        let mut ranges = [0; RANGES];
        for (copy, range) in ranges.iter_mut().zip(&self.ranges) {
            *copy = range.load(Relaxed);
        }
        Distribution { sum_us: self.sum.load(Relaxed), ranges }
    }
}

/// The contents of a histogram of durations when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Distribution {
    /// Sum of all durations, microseconds.
    pub sum_us: u64,
    /// Durations in each range of [`PROCESSING_BOUNDS_US`], and above the last.
    pub ranges: [u64; RANGES],
}

impl Distribution {
    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.ranges.iter().sum()
    }

    /// Adds the durations of another histogram.
    pub fn add(&mut self, other: &Distribution) {
        self.sum_us += other.sum_us;
        for (range, more) in self.ranges.iter_mut().zip(other.ranges) {
            *range += more;
        }
    }

    /// Mean of the durations since `earlier`, a previous reading of the same histogram, microseconds; 0 if there were none.
    pub fn mean_since_us(&self, earlier: &Distribution) -> u64 {
        let count = self.count().saturating_sub(earlier.count());
        self.sum_us.saturating_sub(earlier.sum_us) / count.max(1)
    }
}

/// Everything that [`Metrics`] held at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Counters and gauges; `given` ones that nobody has filled in are 0. `processing_us` is the mean since the start.
    pub stats: Stats,
    /// Processing times of frames with inference.
    pub processing: Distribution,
}

/// Remembers a reader's last snapshot, for values "since the last time".
#[derive(Debug, Clone, Default)]
pub struct IntervalReader {
    last: Distribution,
}

impl IntervalReader {
    /// The statistics of `snapshot` with `processing_us` as the mean since this reader's last snapshot. Other readers do not notice.
    pub fn stats(&mut self, snapshot: &Snapshot) -> Stats {
        let processing_us = snapshot.processing.mean_since_us(&self.last);
        self.last = snapshot.processing;
        Stats { processing_us, ..snapshot.stats }
    }
}

impl Metrics {
    /// A good frame that was captured at `captured_at` was processed, at `now`.
    pub fn saw_frame(&self, captured_at: Mono, now: Mono) {
        self.last_captured.store(captured_at.as_nanos().max(1), Relaxed);
        self.last_frame.store(now.as_nanos().max(1), Relaxed);
    }

    /// When the last good frame was processed.
    pub fn last_frame(&self) -> Option<Mono> {
        time(&self.last_frame)
    }

    /// When the last good frame that was processed had been captured.
    pub fn last_captured(&self) -> Option<Mono> {
        time(&self.last_captured)
    }

    /// A frame went through inference and was processed in `micros` microseconds.
    pub fn processed(&self, micros: u64) {
        self.processing.add(micros);
    }

    /// All counters and gauges of this file, as of `now`, for a program that started at `started`. Changes nothing.
    pub fn snapshot(&self, started: Mono, now: Mono) -> Snapshot {
        Metrics::total([self].into_iter(), started, now)
    }

    /// As [`Metrics::snapshot`], of several cameras together. The age of the last good frame is that of the camera for which it is longest.
    pub fn total<'a>(
        cameras: impl Iterator<Item = &'a Metrics> + Clone,
        started: Mono,
        now: Mono,
    ) -> Snapshot {
        let mut processing = Distribution::default();
        let mut stats = Stats { uptime_ms: millis(now, started), ..Stats::default() };
        for camera in cameras {
            camera.add_to(&mut stats);
            processing.add(&camera.processing.read());
            let age = camera.last_frame().map_or(u64::MAX, |at| millis(now, at));
            stats.last_frame_age_ms = stats.last_frame_age_ms.max(age);
        }
        stats.processing_us = processing.mean_since_us(&Distribution::default());
        stats.processing_sum_us = processing.sum_us;
        Snapshot { stats, processing }
    }
}

/// A stored time; 0 stands for none.
fn time(nanos: &AtomicU64) -> Option<Mono> {
    Some(nanos.load(Relaxed)).filter(|nanos| *nanos > 0).map(Mono::from_nanos)
}

/// Milliseconds from `earlier` to `later`.
pub fn millis(later: Mono, earlier: Mono) -> u64 {
    later.since(earlier).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_snapshot_has_what_was_counted() {
        let metrics = Metrics::default();
        assert_eq!(metrics.snapshot(at(1), at(2)).stats.last_frame_age_ms, u64::MAX);
        metrics.crossings.add(2);
        assert_eq!(metrics.crossings.add(1), 3);
        metrics.frames_ring_dropped.set(9);
        metrics.detections_invalid.set(4);
        metrics.saw_frame(at(4), at(5));
        assert_eq!(metrics.last_captured(), Some(at(4)));
        metrics.processed(100);
        metrics.processed(300);
        let snapshot = metrics.snapshot(at(1), at(7));
        let expected = Stats {
            uptime_ms: 6000,
            crossings: 3,
            frames_ring_dropped: 9,
            detections_invalid: 4,
            last_frame_age_ms: 2000,
            processing_us: 200,
            processing_sum_us: 400,
            ..Stats::default()
        };
        assert_eq!(snapshot.stats, expected);
        assert_eq!(metrics.snapshot(at(1), at(7)), snapshot, "reading changes nothing");
    }

    #[test]
    fn cameras_add_up_and_the_oldest_frame_counts() {
        let (a, b) = (Metrics::default(), Metrics::default());
        a.crossings.add(2);
        b.crossings.add(3);
        a.processed(100);
        b.processed(300);
        a.saw_frame(at(3), at(4));
        let both = || Metrics::total([&a, &b].into_iter(), at(1), at(7)).stats;
        assert_eq!((both().crossings, both().processing_us, both().last_frame_age_ms), (5, 200, u64::MAX));
        b.saw_frame(at(5), at(6));
        assert_eq!(both().last_frame_age_ms, 3000);
    }

    #[test]
    fn two_readers_of_the_same_metrics_do_not_disturb_each_other() {
        let metrics = Metrics::default();
        let (mut every, mut seldom) = (IntervalReader::default(), IntervalReader::default());
        let look = |reader: &mut IntervalReader| reader.stats(&metrics.snapshot(at(0), at(9))).processing_us;
        metrics.processed(100);
        assert_eq!((look(&mut every), look(&mut every)), (100, 0), "a second read has nothing new");
        metrics.processed(300);
        metrics.processed(500);
        assert_eq!(look(&mut every), 400);
        assert_eq!(look(&mut seldom), 300, "the mean of all three, although another reader read in between");
        metrics.processed(50);
        assert_eq!((look(&mut seldom), look(&mut every)), (50, 50));
    }

    #[test]
    fn durations_fall_into_their_bucket() {
        let metrics = Metrics::default();
        let slowest = PROCESSING_BOUNDS_US[RANGES - 2];
        for micros in [0, 5_000, 5_001, 10_000, slowest, slowest + 1, slowest * 9] {
            metrics.processed(micros);
        }
        let processing = metrics.snapshot(at(0), at(1)).processing;
        assert_eq!(processing.ranges, [2, 2, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((processing.count(), processing.sum_us), (7, 20_001 + slowest * 11 + 1));
    }
}
