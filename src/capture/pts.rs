//! When a live stream's frames were taken: its presentation times on the boot clock.
//!
//! A frame's arrival is late by the network, by buffers and by the decoder, each time by another amount; its presentation time is the
//! sender's and regular, but begins anywhere. The fastest frame so far ties the two together: its delay is the smallest, and every other
//! frame is placed by its presentation time relative to that one.
//! ```text
//!   lag    = arrival - presentation time        offset = the smallest lag, which may rise by 500 ppm (the clocks differ)
//!   time   = presentation time + offset         never after the arrival, since offset <= lag
//! ```
//! - **Beginning**: a server sends what it has buffered, and ffmpeg what it has read to identify the stream, all at once. Placed by their arrival,
//!   cars in these frames would be several times too fast, and the offset is not known yet: they are dropped, at most `SETTLE_MAX` long.
//! - **Jump**: a frame that is later than `LATE_MAX` is the sender's clock that was set, not a delay: the offset begins anew.
//! - **No clock**: some streams have presentation times that the sender, or ffmpeg, made up from a nominal rate (MJPEG over HTTP). If they run
//!   slower than the clock for three windows in a row, arrival times are used from then on. If they run faster, the smallest lag is always the
//!   newest, which comes to the same.
//!
//! Pure: time is passed in.

use std::time::Duration;

use crate::platform::clock::Mono;

/// Greatest difference of the rates of two clocks that is followed, parts per million. Quartz in cameras is good for 100.
const DRIFT_PPM: i64 = 500;
/// A frame that is later than this is no late frame: longer than any stall that TCP and the usual `camera.idle_timeout_s` survive.
const LATE_MAX: Duration = Duration::from_secs(10);
/// Longest time during which frames at the beginning are dropped.
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// Length of the windows in which the rates of the two clocks are compared.
const WINDOW: Duration = Duration::from_secs(4);
/// A window in which presentation times advanced by less than this share of the clock is a slow one.
const SLOW_PERCENT: i64 = 90;
/// So many slow windows in a row: the presentation times do not follow the clock. A stall is one slow window and then a fast one.
const SLOW_WINDOWS_MAX: u32 = 3;

/// Result of [`StreamClock::place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// The frame was taken then.
    At(Mono),
    /// It belongs to the beginning, whose times are not known.
    Unknown,
}

/// A frame's two times, nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    pts: i64,
    arrived: i64,
}

impl Stamp {
    fn lag(self) -> i64 {
        self.arrived.saturating_sub(self.pts)
    }
}

/// Places the frames of one connection.
#[derive(Debug, Clone)]
pub struct StreamClock {
    /// The smallest lag, nanoseconds.
    offset: i64,
    previous: Option<Stamp>,
    /// Arrival of the first frame, while frames are dropped.
    settling: Option<i64>,
    /// The beginning of the current window, and how many slow ones preceded it.
    window: Option<Stamp>,
    slow_windows: u32,
}

impl StreamClock {
    /// A connection that begins with what was buffered if `is_buffered`: a network's does, a file's does not.
    pub const fn new(is_buffered: bool) -> Self {
        let settling = if is_buffered { Some(i64::MIN) } else { None };
        StreamClock { offset: i64::MAX, previous: None, settling, window: None, slow_windows: 0 }
    }

    /// Whether presentation times are used; false once they proved not to follow the clock.
    pub const fn follows(&self) -> bool {
        self.slow_windows < SLOW_WINDOWS_MAX
    }

    /// When the frame with the presentation time `pts` was taken, which arrived at `arrived`.
    pub fn place(&mut self, pts: Duration, arrived: Mono) -> Placed {
        let now = Stamp { pts: nanos(pts.as_nanos()), arrived: nanos(arrived.as_nanos().into()) };
        let previous = self.previous.replace(now);
        if self.is_beginning(now, previous) {
            (self.offset, self.window) = (now.lag(), Some(now));
            return Placed::Unknown;
        }
        self.compare_rates(now);
        if !self.follows() {
            return Placed::At(arrived);
        }
        let passed = previous.map_or(0, |previous| now.arrived.saturating_sub(previous.arrived).max(0));
        let risen = self.offset.saturating_add(passed / 1_000_000 * DRIFT_PPM);
        let lag = now.lag();
        let is_jump = lag.saturating_sub(risen) > nanos(LATE_MAX.as_nanos());
        self.offset = if is_jump { lag } else { risen.min(lag) };
        // Not before the boot, not after the arrival.
        let at = now.pts.saturating_add(self.offset).clamp(0, now.arrived);
        Placed::At(Mono::from_nanos(at.unsigned_abs()))
    }

    /// Whether this frame came at once after the one before, although it was taken later; or is the first.
    fn is_beginning(&mut self, now: Stamp, previous: Option<Stamp>) -> bool {
        let Some(begun) = &mut self.settling else { return false };
        let Some(previous) = previous else {
            *begun = now.arrived;
            return true;
        };
        let step = now.pts.saturating_sub(previous.pts);
        let fell = previous.lag().saturating_sub(now.lag());
        let is_burst = step <= 0 || fell.saturating_mul(2) > step;
        if is_burst && now.arrived.saturating_sub(*begun) < nanos(SETTLE_MAX.as_nanos()) {
            return true;
        }
        self.settling = None;
        false
    }

    fn compare_rates(&mut self, now: Stamp) {
        let begun = *self.window.get_or_insert(now);
        let (clock, stream) = (now.arrived.saturating_sub(begun.arrived), now.pts.saturating_sub(begun.pts));
        if !self.follows() || clock < nanos(WINDOW.as_nanos()) {
            return;
        }
        self.window = Some(now);
        let is_slow = stream < clock / 100 * SLOW_PERCENT;
        self.slow_windows = if is_slow { self.slow_windows + 1 } else { 0 };
        if !self.follows() {
            tracing::warn!(
                "the stream's time stamps advance by {} ms in {} ms: frames get the time of their arrival",
                stream / 1_000_000,
                clock / 1_000_000
            );
        }
    }
}

fn nanos(value: u128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: f64) -> Mono {
        Mono::from_nanos((seconds * 1e9).round() as u64)
    }

    fn pts(seconds: f64) -> Duration {
        Duration::from_nanos((seconds * 1e9).round() as u64)
    }

    fn seconds(placed: Placed) -> Option<f64> {
        match placed {
            Placed::At(at) => Some(at.as_nanos() as f64 / 1e9),
            Placed::Unknown => None,
        }
    }

    /// 25 frames a second; the delay of frame `i` in seconds.
    fn play(
        clock: &mut StreamClock,
        frames: std::ops::Range<u32>,
        delay: impl Fn(u32) -> f64,
    ) -> Vec<Option<f64>> {
        frames
            .map(|frame| {
                let taken = f64::from(frame) / 25.0;
                seconds(clock.place(pts(taken), at(1000.0 + taken + delay(frame))))
            })
            .collect()
    }

    #[test]
    fn late_frames_keep_their_times() {
        let mut clock = StreamClock::new(false);
        // Every seventh frame is 120 ms late, and for a second everything is 2 s late.
        let delay = |frame: u32| match frame {
            500..525 => 2.0,
            _ if frame % 7 == 3 => 0.12,
            _ => 0.05,
        };
        let placed = play(&mut clock, 0..1000, delay);
        for (frame, placed) in placed.iter().enumerate() {
            let error = placed.unwrap() - (1000.05 + frame as f64 / 25.0);
            // The offset may have risen by 500 ppm during the stall.
            assert!((0.0..0.0015).contains(&(error + 1e-9)), "frame {frame}: {error}");
        }
    }

    #[test]
    fn what_was_buffered_before_the_connection_is_dropped() {
        let mut clock = StreamClock::new(true);
        // 50 frames at once, then the pace of the camera.
        let placed =
            play(
                &mut clock,
                0..200,
                |frame| if frame < 50 { 2.0 - f64::from(frame) / 25.0 + 0.05 } else { 0.05 },
            );
        let first = placed.iter().position(Option::is_some).unwrap();
        assert_eq!(first, 51, "the frame after the first one in time");
        assert!(placed[51..].iter().all(Option::is_some));
        assert!((placed[60].unwrap() - 1002.45).abs() < 0.001, "{:?}", placed[60]);
        // A server that always sends as fast as it can: not for ever.
        let mut clock = StreamClock::new(true);
        let placed = play(&mut clock, 0..500, |frame| f64::from(frame) * (0.01 - 0.04));
        assert_eq!(placed.iter().position(Option::is_some), Some(300), "3 s at 10 ms a frame");
        assert!((placed[400].unwrap() - 1004.0).abs() < 1e-6, "the time of its arrival: {:?}", placed[400]);
    }

    #[test]
    fn clocks_that_differ_do_not_drift_apart() {
        for ppm in [-100.0, 100.0] {
            let mut clock = StreamClock::new(false);
            // Eight hours of one frame a second.
            let mut worst = 0.0f64;
            for frame in 0..8 * 3600 {
                let taken = f64::from(frame);
                let placed = clock.place(pts(1.0 + taken * (1.0 + ppm / 1e6)), at(5.0 + taken));
                worst = worst.max((seconds(placed).unwrap() - (5.0 + taken)).abs());
            }
            assert!(worst < 0.001, "{ppm}: {worst}");
        }
    }

    #[test]
    fn a_stream_whose_clock_was_set_begins_anew() {
        for jump in [-500.0, 500.0] {
            let mut clock = StreamClock::new(false);
            for frame in 0..200 {
                let taken = f64::from(frame) / 10.0;
                let set = if frame >= 100 { 1000.0 + jump } else { 1000.0 };
                let placed = seconds(clock.place(pts(taken + set), at(50.0 + taken))).unwrap();
                assert!((placed - (50.0 + taken)).abs() < 0.001, "{jump}: frame {frame} at {placed}");
            }
            assert!(clock.follows());
        }
    }

    /// MJPEG over HTTP: ffmpeg assumes 25 frames a second, and 10 come.
    #[test]
    fn made_up_times_are_replaced_by_the_arrival() {
        let mut clock = StreamClock::new(true);
        let placed: Vec<_> = (0..300)
            .map(|frame| {
                seconds(clock.place(pts(f64::from(frame) / 25.0), at(7.0 + f64::from(frame) / 10.0)))
            })
            .collect();
        assert!(!clock.follows());
        assert_eq!(placed[200], Some(27.0));
        // 30 frames a second come: at every moment the newest is the fastest.
        let mut clock = StreamClock::new(false);
        for frame in 0..300 {
            let placed =
                seconds(clock.place(pts(f64::from(frame) / 25.0), at(7.0 + f64::from(frame) / 30.0)));
            assert!((placed.unwrap() - (7.0 + f64::from(frame) / 30.0)).abs() < 1e-6);
        }
    }

    proptest! {
        /// Any stamps: never after the arrival, and no panic.
        #[test]
        fn no_frame_is_placed_in_the_future(
            stamps in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..100), buffered: bool,
        ) {
            let mut clock = StreamClock::new(buffered);
            for (pts, arrived) in stamps {
                let arrived = Mono::from_nanos(arrived);
                if let Placed::At(at) = clock.place(Duration::from_nanos(pts), arrived) {
                    prop_assert!(at <= arrived);
                }
            }
        }

        /// Delays of up to a second: the spacing of the frames is the sender's from the first quick frame on.
        #[test]
        fn the_spacing_is_the_senders(delays in proptest::collection::vec(0.0f64..1.0, 20..200)) {
            let mut clock = StreamClock::new(false);
            let mut arrival = 0.0f64;
            let mut least = f64::MAX;
            for (frame, delay) in delays.iter().enumerate() {
                let taken = frame as f64 / 25.0;
                // Frames do not overtake each other.
                arrival = arrival.max(100.0 + taken + delay);
                least = least.min(arrival - taken);
                let placed = seconds(clock.place(pts(taken), at(arrival))).unwrap();
                let error = placed - (taken + least);
                prop_assert!((-1e-6..0.02).contains(&error), "frame {}: {}", frame, error);
            }
        }
    }
}
