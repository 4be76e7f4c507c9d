//! Chooses the frames to process: a fixed grid of due times over the frames' own capture times (S3).
//!
//! The original took every fifth frame, which is 6 FPS only if the camera delivers 30. Here the target rate holds at any input rate: of the
//! frames around a due time the nearest is taken; the grid does not move with the frame that was taken, so nothing drifts; and after a gap
//! the grid starts again instead of catching up.

use std::time::Duration;

use crate::platform::clock::Mono;

/// Lowest and highest target rate, frames a second (S13).
pub const FPS_RANGE: std::ops::RangeInclusive<f32> = 0.1..=60.0;

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// Process it.
    Take,
    /// Not wanted: never read, converted or decoded.
    Skip,
}

/// Decides frame by frame. Pure: uses the frames' times, reads no clock.
#[derive(Debug, Clone)]
pub struct Sampler {
    period: Duration,
    due: Option<Mono>,
    previous: Option<Mono>,
    /// Smoothed frame interval: a frame up to half of it early can be the nearest to its due time.
    interval: Duration,
}

impl Sampler {
    /// A sampler for `fps` frames a second (clamped to [`FPS_RANGE`]).
    pub fn new(fps: f32) -> Self {
        Sampler { period: period(fps), due: None, previous: None, interval: Duration::ZERO }
    }

    /// Changes the target rate; the next due time moves with it.
    pub fn set_fps(&mut self, fps: f32) {
        let (old, new) = (self.period, period(fps));
        self.period = new;
        self.due = self.due.map(|due| due - old + new);
    }

    /// Whether to process the frame taken at `at`.
    pub fn decide(&mut self, at: Mono) -> Sample {
        self.learn_interval(at);
        let Some(due) = self.due else {
            self.due = Some(at + self.period);
            return Sample::Take;
        };
        if due.since(at) > self.period + self.interval {
            // Times went back (the camera was reopened, or another recording began): start a new grid.
            self.due = Some(at + self.period);
            return Sample::Take;
        }
        // Half of a millionth early: times are rounded to nanoseconds, 1/30 s is not a whole number of them.
        if at + self.interval / 2 + Duration::from_nanos(500) < due {
            return Sample::Skip;
        }
        let next = due + self.period;
        // A gap: due times that passed without a frame are lost, not caught up.
        self.due = Some(if next + self.interval / 2 < at { at + self.period } else { next });
        Sample::Take
    }

    fn learn_interval(&mut self, at: Mono) {
        if let Some(previous) = self.previous.replace(at) {
            let step = at.since(previous);
            // One eighth of the difference: a single late frame changes little, a new rate takes over within a second. Never more than a
            // period, or a slow camera would be considered early.
            let learnt =
                if self.interval.is_zero() { step } else { self.interval - self.interval / 8 + step / 8 };
            self.interval = learnt.min(self.period);
        }
    }
}

fn period(fps: f32) -> Duration {
    let fps =
        if fps.is_finite() { fps.clamp(*FPS_RANGE.start(), *FPS_RANGE.end()) } else { *FPS_RANGE.start() };
    Duration::from_secs_f64(1.0 / f64::from(fps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: f64) -> Mono {
        Mono::from_nanos((seconds * 1e9) as u64)
    }

    fn taken(sampler: &mut Sampler, stamps: impl IntoIterator<Item = f64>) -> Vec<f64> {
        stamps.into_iter().filter(|&t| sampler.decide(at(t)) == Sample::Take).collect()
    }

    #[test]
    fn every_fifth_of_thirty_is_six() {
        let taken = taken(&mut Sampler::new(6.0), (0..301).map(|i| f64::from(i) / 30.0));
        let expected: Vec<f64> = (0..=60).map(|i| f64::from(i * 5) / 30.0).collect();
        assert_eq!(taken, expected);
    }

    proptest! {
        /// Any input rate, any target, jittered times: the count is right over the whole run, so nothing drifts.
        #[test]
        fn the_rate_is_the_target_at_any_input_rate(
            input in 2.0f64..120.0, target in 0.5f32..30.0, jitter in 0.0f64..0.4, seed in any::<u64>(), start in 0.0f64..1e6,
        ) {
            let mut random = seed;
            let seconds = 120.0;
            let stamps = (0..(seconds * input) as u64).map(|i| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                start + (i as f64 + jitter * ((random >> 33) as f64 / 2f64.powi(31) - 0.5)) / input + 1.0
            });
            let taken = taken(&mut Sampler::new(target), stamps);
            let target = f64::from(target);
            let expected = seconds * target.min(input);
            if input < target * 0.7 {
                prop_assert_eq!(taken.len(), (seconds * input) as usize, "a slow camera: every frame");
            } else if input > target * 1.5 {
                prop_assert!((taken.len() as f64 - expected).abs() <= 2.0, "{} of {expected}", taken.len());
                for pair in taken.windows(2) {
                    prop_assert!(pair[1] - pair[0] <= 1.0 / target + (1.0 + jitter) / input + 1e-6);
                    prop_assert!(pair[1] - pair[0] >= 1.0 / target - (1.0 + jitter) / input - 1e-6);
                }
            } else {
                prop_assert!(taken.len() as f64 <= expected + 2.0);
                prop_assert!(taken.len() as f64 >= expected * 0.6);
            }
        }

        #[test]
        fn any_times_never_panic_and_never_starve(stamps in proptest::collection::vec(any::<u64>(), 1..200)) {
            let mut sampler = Sampler::new(6.0);
            for stamp in stamps {
                sampler.decide(Mono::from_nanos(stamp));
            }
            // Afterwards a steady camera is sampled again within two periods.
            let base = 1u64 << 62;
            let taken = (0..60u64).filter(|i| sampler.decide(Mono::from_nanos(base + i * 33_333_333)) == Sample::Take).count();
            prop_assert!((10..=16).contains(&taken), "{}", taken);
        }
    }

    #[test]
    fn a_gap_is_not_caught_up() {
        let mut sampler = Sampler::new(6.0);
        let before = taken(&mut sampler, (0..30).map(|i| f64::from(i) / 30.0)).len();
        let after = taken(&mut sampler, (0..30).map(|i| 100.0 + f64::from(i) / 30.0)).len();
        assert_eq!((before, after), (6, 6));
    }

    #[test]
    fn a_new_target_rate_applies_from_the_next_frame_on() {
        let mut sampler = Sampler::new(1.0);
        taken(&mut sampler, (0..30).map(|i| f64::from(i) / 30.0));
        sampler.set_fps(15.0);
        let after = taken(&mut sampler, (30..90).map(|i| f64::from(i) / 30.0)).len();
        assert!((29..=31).contains(&after), "{after}");
    }
}
