//! What the program counts about itself. Stages return outcomes; `run` adds them up here, for each camera; the events `stats` and
//! `camera.stats` carry them.
//!
//! [`table`] names every metric. [`Metrics`] holds those that are counted while frames are processed, as atomics: any thread adds, nobody
//! waits, memory is fixed. Reading changes nothing, so any number of readers can read at any time; a reader that wants values since its
//! last read computes them from two snapshots ([`IntervalReader`]).

pub mod alert;
pub mod families;
pub mod histogram;
pub mod kpi;
pub mod table;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::metrics::histogram::{Distribution, Histogram};
use crate::metrics::table::{CameraStats, Stats, Time, stats_rows};
use crate::platform::clock::Mono;

/// Makes [`Metrics`] from the table: a [`Counter`] for each `counted` row, nothing for a `given` one.
macro_rules! counters {
    (@rows [$($name:ident $help:literal)*]) => {
        /// Counters since the start of the program. Any thread adds, nobody waits.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: Counter,)*
            first_frame: AtomicU64,
            last_frame: AtomicU64,
            last_captured: AtomicU64,
            /// The times of its frames.
            pub times: Times,
        }

        impl Metrics {
            /// Adds the part of [`Stats`] that is counted here.
            fn add_to(&self, stats: &mut Stats) {
                $(stats.$name += self.$name.get();)*
            }

            /// The part of [`CameraStats`] that is counted here.
            fn of_camera(&self) -> CameraStats {
                CameraStats { $($name: self.$name.get(),)* ..CameraStats::default() }
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

/// The times of a camera's frames, a histogram for each [`Time`].
#[derive(Debug, Default)]
pub struct Times([Histogram; Time::ALL.len()]);

impl Times {
    /// A frame took this long.
    pub fn add(&self, time: Time, duration: Duration) {
        self.0[time as usize].add(duration);
    }

    /// All of them now.
    pub fn read(&self) -> Distributions {
        let mut all = Distributions::default();
        for (copy, histogram) in all.0.iter_mut().zip(&self.0) {
            *copy = histogram.read();
        }
        all
    }
}

/// The contents of [`Times`] when they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distributions([Distribution; Time::ALL.len()]);

impl Distributions {
    /// One of them.
    pub const fn of(&self, time: Time) -> &Distribution {
        &self.0[time as usize]
    }
}

/// Everything that [`Metrics`] held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Counters and gauges; `given` ones that nobody has filled in are 0. `processing_us` is the mean since the start.
    pub stats: Stats,
    /// Processing times of frames with inference.
    pub processing: Distribution,
}

/// What one camera had counted at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraSnapshot {
    /// When.
    pub at: Mono,
    /// Counters and gauges; rates, percentiles and whether it is lost are for a [`CameraReader`] to fill in.
    pub stats: CameraStats,
    /// The times of its frames.
    pub times: Distributions,
}

/// Remembers a reader's last snapshot, for values "since the last time".
#[derive(Debug, Clone, Default)]
pub struct IntervalReader {
    last: Distribution,
}

impl IntervalReader {
    /// The statistics of `snapshot` with `processing_us` as the mean since this reader's last snapshot. Other readers do not notice.
    pub fn stats(&mut self, snapshot: &Snapshot) -> Stats {
        let processing_us = snapshot.processing.since(&self.last).mean_us();
        self.last = snapshot.processing;
        Stats { processing_us, ..snapshot.stats }
    }
}

/// Remembers a reader's last snapshot of a camera, for rates and percentiles "since the last time".
#[derive(Debug, Clone, Default)]
pub struct CameraReader {
    last: Option<CameraSnapshot>,
}

impl CameraReader {
    /// The statistics of `snapshot`, with rates, shares and percentiles since this reader's last snapshot; since the start of the program,
    /// at `started`, the first time.
    /// `target_millihertz`: the configured rate.
    pub fn stats(&mut self, snapshot: CameraSnapshot, started: Mono, target_millihertz: u64) -> CameraStats {
        let before = self.last.take().unwrap_or(CameraSnapshot {
            at: started,
            stats: CameraStats::default(),
            times: Distributions::default(),
        });
        let (now, old) = (&snapshot.stats, &before.stats);
        let nanos = snapshot.at.since(before.at).as_nanos().max(1);
        let rate =
            |count: u64| u64::try_from(u128::from(count) * 1_000_000_000_000 / nanos).unwrap_or(u64::MAX);
        let looked = |stats: &CameraStats| stats.inferences + stats.frames_still;
        let (inferred, looked) = (now.inferences - old.inferences, looked(now) - looked(old));
        let latency = snapshot.times.of(Time::Latency).since(before.times.of(Time::Latency));
        let percentile = |part: f64| latency.percentile_us(part).unwrap_or(0);
        let stats = CameraStats {
            rate_captured_millihertz: rate(now.frames_captured - old.frames_captured),
            rate_processed_millihertz: rate(looked),
            rate_permille: rate(looked) * 1000 / target_millihertz.max(1),
            motion_permille: inferred * 1000 / looked.max(1),
            latency_p50_us: percentile(0.5),
            latency_p95_us: percentile(0.95),
            latency_p99_us: percentile(0.99),
            ..*now
        };
        self.last = Some(snapshot);
        stats
    }
}

impl Metrics {
    /// A good frame that was captured at `captured_at` was processed, at `now`.
    pub fn saw_frame(&self, captured_at: Mono, now: Mono) {
        self.last_captured.store(captured_at.as_nanos().max(1), Relaxed);
        let nanos = now.as_nanos().max(1);
        self.last_frame.store(nanos, Relaxed);
        if self.first_frame.load(Relaxed) == 0 {
            self.first_frame.store(nanos, Relaxed);
        }
    }

    /// When the first good frame was processed.
    pub fn first_frame(&self) -> Option<Mono> {
        time(&self.first_frame)
    }

    /// When the last good frame was processed.
    pub fn last_frame(&self) -> Option<Mono> {
        time(&self.last_frame)
    }

    /// When the last good frame that was processed had been captured.
    pub fn last_captured(&self) -> Option<Mono> {
        time(&self.last_captured)
    }

    /// What this camera has counted, as of `now`. Changes nothing.
    pub fn camera_snapshot(&self, now: Mono) -> CameraSnapshot {
        let last_frame_age_ms = self.last_frame().map_or(u64::MAX, |at| millis(now, at));
        let stats = CameraStats { last_frame_age_ms, ..self.of_camera() };
        CameraSnapshot { at: now, stats, times: self.times.read() }
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
            processing.add(&camera.times.0[Time::Processing as usize].read());
            let age = camera.last_frame().map_or(u64::MAX, |at| millis(now, at));
            stats.last_frame_age_ms = stats.last_frame_age_ms.max(age);
        }
        stats.processing_us = processing.mean_us();
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

    fn processed(metrics: &Metrics, micros: u64) {
        metrics.times.add(Time::Processing, Duration::from_micros(micros));
    }

    #[test]
    fn a_snapshot_has_what_was_counted() {
        let metrics = Metrics::default();
        assert_eq!(metrics.snapshot(at(1), at(2)).stats.last_frame_age_ms, u64::MAX);
        metrics.crossings.add(2);
        assert_eq!(metrics.crossings.add(1), 3);
        metrics.frames_ring_dropped.set(9);
        metrics.detections_invalid.set(4);
        metrics.saw_frame(at(2), at(3));
        metrics.saw_frame(at(4), at(5));
        assert_eq!((metrics.first_frame(), metrics.last_captured()), (Some(at(3)), Some(at(4))));
        processed(&metrics, 100);
        processed(&metrics, 300);
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
        processed(&a, 100);
        processed(&b, 300);
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
        processed(&metrics, 100);
        assert_eq!((look(&mut every), look(&mut every)), (100, 0), "a second read has nothing new");
        processed(&metrics, 300);
        processed(&metrics, 500);
        assert_eq!(look(&mut every), 400);
        assert_eq!(look(&mut seldom), 300, "the mean of all three, although another reader read in between");
        processed(&metrics, 50);
        assert_eq!((look(&mut seldom), look(&mut every)), (50, 50));
    }

    #[test]
    fn a_camera_has_rates_and_percentiles_since_the_last_time() {
        let metrics = Metrics::default();
        let mut reader = CameraReader::default();
        let frames = |captured: u64, still: u64, inferred: u64, latency_ms: u64| {
            metrics.frames_captured.add(captured);
            metrics.frames_still.add(still);
            metrics.inferences.add(inferred);
            (0..inferred).for_each(|_| metrics.times.add(Time::Latency, Duration::from_millis(latency_ms)));
        };
        frames(100, 30, 30, 100);
        metrics.saw_frame(at(10), at(10));
        let first = reader.stats(metrics.camera_snapshot(at(11)), at(1), 12_000);
        assert_eq!((first.rate_captured_millihertz, first.rate_processed_millihertz), (10_000, 6000));
        assert_eq!((first.motion_permille, first.last_frame_age_ms, first.rate_permille), (500, 1000, 500));
        assert!((80_000..=100_000).contains(&first.latency_p50_us), "{}", first.latency_p50_us);
        frames(10, 0, 5, 400);
        let second = reader.stats(metrics.camera_snapshot(at(21)), at(1), 12_000);
        assert_eq!((second.rate_captured_millihertz, second.rate_processed_millihertz), (1000, 500));
        assert_eq!((second.motion_permille, second.frames_captured), (1000, 110));
        assert!(
            second.latency_p50_us > 315_000,
            "the earlier frames are not among them: {}",
            second.latency_p50_us
        );
        let nothing = reader.stats(metrics.camera_snapshot(at(21)), at(1), 12_000);
        assert_eq!((nothing.rate_captured_millihertz, nothing.latency_p99_us), (0, 0));
    }
}
