//! Which camera's frame the network gets next, if several cameras share it (S17).
//!
//! A camera is *due* by its lag: the time since its last processed frame, in periods of its own rate. Frames in which something moves come
//! first, because only they can change a count; the camera with the greatest lag comes first among its like. A camera that has waited for
//! [`LAG_MAX`] periods goes before all others, whatever moves there: none starves. Pure: knows no frames, no threads, no clock.

use std::time::Duration;

use crate::base::limits::CAMERAS_MAX;
use crate::platform::clock::Mono;

/// From this lag on a camera goes first, periods. With this, and a load below 1, the time between two looks stays below 3 periods.
pub const LAG_MAX: f64 = 2.0;

/// What is known of a camera.
#[derive(Debug, Clone, Copy)]
struct Camera {
    period: Duration,
    /// When its last frame was processed; before the first one, when it joined.
    looked_at: Mono,
    /// Whether a frame of it waits for inference, and whether something moves in it.
    waits: Option<bool>,
}

/// The state of all cameras.
#[derive(Debug, Clone, Default)]
pub struct Scheduler {
    cameras: [Option<Camera>; CAMERAS_MAX],
}

impl Scheduler {
    /// Camera number `camera` joins at `now`, with a target rate of `fps` frames a second.
    pub fn join(&mut self, camera: usize, fps: f32, now: Mono) {
        self.cameras[camera] = Some(Camera { period: period(fps), looked_at: now, waits: None });
    }

    /// It delivers no more frames.
    pub fn leave(&mut self, camera: usize) {
        self.cameras[camera] = None;
    }

    /// Its target rate is `fps` from now on.
    pub fn set_rate(&mut self, camera: usize, fps: f32) {
        if let Some(camera) = &mut self.cameras[camera] {
            camera.period = period(fps);
        }
    }

    /// A frame of it waits for inference, instead of an older one if there was one; `moves`: something moves in it.
    pub fn waits(&mut self, camera: usize, moves: bool) {
        if let Some(camera) = &mut self.cameras[camera] {
            camera.waits = Some(moves);
        }
    }

    /// A frame of it was processed at `now`, with inference or without: none waits any more.
    pub fn looked(&mut self, camera: usize, now: Mono) {
        if let Some(camera) = &mut self.cameras[camera] {
            (camera.looked_at, camera.waits) = (now, None);
        }
    }

    /// The camera whose frame is next; `None`: no frame waits.
    pub fn next(&self, now: Mono) -> Option<usize> {
        let lag = |camera: &Camera| now.since(camera.looked_at).as_secs_f64() / camera.period.as_secs_f64();
        let urgency = |camera: &Camera, moves: bool| match lag(camera) {
            lag if lag >= LAG_MAX => (2, lag),
            lag => (u8::from(moves), lag),
        };
        let waiting = self.cameras.iter().enumerate().filter_map(|(index, camera)| {
            let camera = camera.as_ref()?;
            Some((index, urgency(camera, camera.waits?)))
        });
        // The first of equals.
        waiting.reduce(|best, other| if other.1 > best.1 { other } else { best }).map(|(index, _)| index)
    }
}

fn period(fps: f32) -> Duration {
    // Ten years and a microsecond: whatever the rate, the division above is one of finite numbers.
    Duration::try_from_secs_f32(1.0 / fps)
        .unwrap_or(Duration::MAX)
        .clamp(Duration::from_micros(1), Duration::from_secs(3 << 27))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Mono {
        Mono::ZERO + Duration::from_millis(millis)
    }

    /// Cameras at 5 frames a second that joined at 0.
    fn cameras(count: usize) -> Scheduler {
        let mut scheduler = Scheduler::default();
        (0..count).for_each(|camera| scheduler.join(camera, 5.0, at(0)));
        scheduler
    }

    #[test]
    fn motion_comes_first_then_the_longest_wait_and_nobody_starves() {
        let mut all = cameras(3);
        assert_eq!(all.next(at(10)), None);
        all.waits(0, false);
        all.waits(2, false);
        all.looked(0, at(50));
        all.waits(0, false);
        assert_eq!(all.next(at(100)), Some(2), "it has waited longest");
        all.waits(1, true);
        all.looked(1, at(90));
        all.waits(1, true);
        assert_eq!(all.next(at(100)), Some(1), "something moves");
        assert_eq!(all.next(at(401)), Some(2), "it has waited for two periods");
        all.looked(2, at(401));
        assert_eq!(all.next(at(401)), Some(1));
        all.leave(1);
        assert_eq!(all.next(at(401)), Some(0));
        all.set_rate(0, 0.1);
        all.waits(2, false);
        assert_eq!(all.next(at(500)), Some(2), "a tenth of its period counts less than half of one");
    }

    proptest! {
        /// Cameras of any rates, of which some always have motion and some never: as long as the network can serve all of them at their
        /// rates, the time between two looks at each stays below 3 of its periods, plus one inference.
        #[test]
        fn no_camera_starves_below_full_load(
            rates in proptest::collection::vec((1u32..15, any::<bool>()), 1..=CAMERAS_MAX),
            load in 0.1f64..0.95,
        ) {
            let total: u32 = rates.iter().map(|(fps, _)| fps).sum();
            let cost = load / f64::from(total);
            let mut scheduler = Scheduler::default();
            let start = Mono::ZERO;
            let mut next_frame: Vec<f64> = Vec::new();
            let mut last = vec![0.0; rates.len()];
            for (camera, (fps, _)) in rates.iter().enumerate() {
                scheduler.join(camera, *fps as f32, start);
                next_frame.push(1.0 / f64::from(*fps));
            }
            let mut now = 0.0f64;
            while now < 20.0 {
                for (camera, (fps, moves)) in rates.iter().enumerate() {
                    if next_frame[camera] <= now {
                        // The newest frame wins.
                        let period = 1.0 / f64::from(*fps);
                        next_frame[camera] += period * ((now - next_frame[camera]) / period).floor() + period;
                        scheduler.waits(camera, *moves);
                    }
                }
                match scheduler.next(start + Duration::from_secs_f64(now)) {
                    Some(camera) => {
                        now += cost;
                        let gap = (now - last[camera]) * f64::from(rates[camera].0);
                        prop_assert!(gap <= 3.0 + cost * f64::from(rates[camera].0), "camera {camera}: {gap} periods");
                        last[camera] = now;
                        scheduler.looked(camera, start + Duration::from_secs_f64(now));
                    }
                    None => now = next_frame.iter().copied().fold(f64::MAX, f64::min),
                }
            }
        }
    }
}
