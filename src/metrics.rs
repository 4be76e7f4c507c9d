//! What the program counts about itself. Stages return outcomes; `run` adds them up here; the `stats` event carries them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::event::Stats;
use crate::platform::clock::Mono;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters since the start of the program. Any thread adds, nobody waits.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: Counter,)*
            last_frame: AtomicU64,
            processing: Timing,
        }

        impl Metrics {
            /// The part of [`Stats`] that is counted here; the rest is zero for the caller to fill in.
            fn counted(&self) -> Stats {
                Stats { $($name: self.$name.get(),)* ..Stats::default() }
            }
        }
    };
}

counters! {
    /// See [`Stats::frames_captured`].
    frames_captured,
    /// See [`Stats::frames_camera_dropped`].
    frames_camera_dropped,
    /// See [`Stats::frames_skipped`].
    frames_skipped,
    /// See [`Stats::frames_ring_dropped`].
    frames_ring_dropped,
    /// See [`Stats::frames_corrupt`].
    frames_corrupt,
    /// See [`Stats::frames_gated`].
    frames_gated,
    /// See [`Stats::frames_still`].
    frames_still,
    /// See [`Stats::inferences`].
    inferences,
    /// See [`Stats::detections`].
    detections,
    /// See [`Stats::candidates_dropped`].
    candidates_dropped,
    /// See [`Stats::detections_dropped`].
    detections_dropped,
    /// See [`Stats::tracks`].
    tracks,
    /// See [`Stats::tracks_evicted`].
    tracks_evicted,
    /// See [`Stats::crossings`].
    crossings,
    /// See [`Stats::camera_losses`].
    camera_losses,
}

/// A number that only grows, or (where a stage keeps the sum itself) is set to it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `by`; returns the new sum.
    pub fn add(&self, by: u64) -> u64 {
        self.0.fetch_add(by, Relaxed) + by
    }

    /// Takes over a sum that is kept elsewhere.
    pub fn set(&self, sum: u64) {
        self.0.store(sum, Relaxed);
    }

    /// The sum.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Sum and number of durations since the last look.
#[derive(Debug, Default)]
struct Timing {
    micros: AtomicU64,
    count: AtomicU64,
}

impl Metrics {
    /// A good frame was processed, at `now`.
    pub fn saw_frame(&self, now: Mono) {
        self.last_frame.store(now.as_nanos().max(1), Relaxed);
    }

    /// When the last good frame was processed.
    pub fn last_frame(&self) -> Option<Mono> {
        match self.last_frame.load(Relaxed) {
            0 => None,
            nanos => Some(Mono::from_nanos(nanos)),
        }
    }

    /// A frame was taken all the way, in `micros` microseconds.
    pub fn processed(&self, micros: u64) {
        self.processing.micros.fetch_add(micros, Relaxed);
        self.processing.count.fetch_add(1, Relaxed);
    }

    /// All counters and gauges of this file, as of `now`. The mean times begin anew.
    pub fn snapshot(&self, started: Mono, now: Mono) -> Stats {
        let micros = self.processing.micros.swap(0, Relaxed);
        let count = self.processing.count.swap(0, Relaxed);
        Stats {
            uptime_ms: millis(now, started),
            last_frame_age_ms: self.last_frame().map_or(u64::MAX, |at| millis(now, at)),
            processing_us: micros / count.max(1),
            ..self.counted()
        }
    }
}

/// Milliseconds from `earlier` to `later`.
pub fn millis(later: Mono, earlier: Mono) -> u64 {
    later.since(earlier).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_what_was_counted() {
        let metrics = Metrics::default();
        let at = |seconds: u64| Mono::from_nanos(seconds * 1_000_000_000);
        assert_eq!(metrics.snapshot(at(1), at(2)).last_frame_age_ms, u64::MAX);
        metrics.crossings.add(2);
        assert_eq!(metrics.crossings.add(1), 3);
        metrics.frames_ring_dropped.set(9);
        metrics.saw_frame(at(5));
        metrics.processed(100);
        metrics.processed(300);
        let stats = metrics.snapshot(at(1), at(7));
        let expected = Stats {
            uptime_ms: 6000,
            crossings: 3,
            frames_ring_dropped: 9,
            last_frame_age_ms: 2000,
            processing_us: 200,
            ..Stats::default()
        };
        assert_eq!(stats, expected);
        assert_eq!(metrics.snapshot(at(1), at(7)).processing_us, 0, "means begin anew");
    }
}
