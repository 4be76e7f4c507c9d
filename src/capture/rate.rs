//! Frame rates as fractions, and the capture times that follow from them.
//!
//! Pure except for the clock that is passed in. Never adds up rounded frame times: a time is computed from the frame's
//! number, so that an hour of 30000/1001 ends where it should.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::Timing;
use crate::base::stop::Stop;
use crate::capture::frame::FrameMeta;
use crate::platform::clock::{Clock, Mono};

/// A paced source that is later than this restarts its schedule instead of delivering everything it missed at once.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Frames per second as a fraction, between one frame in 1000 s and 1000 frames a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRate {
    frames: u32,
    seconds: u32,
}

impl FrameRate {
    /// `frames` in `seconds`; `None` outside 0.001..=1000 frames a second.
    pub const fn new(frames: u32, seconds: u32) -> Option<Self> {
        let (f, s) = (frames as u64, seconds as u64);
        if f == 0 || s == 0 || f > s * 1000 || s > f * 1000 {
            return None;
        }
        Some(FrameRate { frames, seconds })
    }

    /// Whole frames a second, clamped to 1..=1000.
    pub const fn whole(fps: u16) -> Self {
        let fps = if fps == 0 {
            1
        } else if fps > 1000 {
            1000
        } else {
            fps
        };
        FrameRate { frames: fps as u32, seconds: 1 }
    }

    /// Time from the first frame to frame `index` (from 0), rounded down to a nanosecond; exact, without drift.
    /// Saturates after 584 years.
    pub fn offset(self, index: u64) -> Duration {
        let nanos = u128::from(index) * u128::from(self.seconds) * 1_000_000_000 / u128::from(self.frames);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Time that this many frames take.
    pub const fn fraction(self) -> (u32, u32) {
        (self.frames, self.seconds)
    }

    /// Frames a second.
    pub fn as_f64(self) -> f64 {
        f64::from(self.frames) / f64::from(self.seconds)
    }
}

impl fmt::Display for FrameRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds {
            1 => write!(f, "{}", self.frames),
            seconds => write!(f, "{}/{seconds}", self.frames),
        }
    }
}

impl FromStr for FrameRate {
    type Err = String;

    /// Parses `25`, `29.97` or `30000/1001`. The error names these forms.
    fn from_str(text: &str) -> Result<Self, String> {
        let rate = match text.split_once('/') {
            Some((frames, seconds)) => digits(frames).zip(digits(seconds)),
            None => match text.split_once('.') {
                Some((whole, part)) if (1..=4).contains(&part.len()) => {
                    digits(whole).zip(digits(part)).and_then(|(whole, part_value)| {
                        let scale = 10u32.pow(part.len() as u32);
                        Some((whole.checked_mul(scale)?.checked_add(part_value)?, scale))
                    })
                }
                Some(_) => None,
                None => digits(text).map(|whole| (whole, 1)),
            },
        };
        rate.and_then(|(frames, seconds)| FrameRate::new(frames, seconds)).ok_or_else(|| {
            format!(
                "'{text}' is not a frame rate: write 25, 29.97 or 30000/1001, within 0.001..=1000 a second"
            )
        })
    }
}

/// Decimal digits only: no sign, no space.
fn digits(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Numbers the frames of one source and gives them capture times, over all loops.
pub struct Timeline {
    clock: Arc<dyn Clock>,
    stop: Stop,
    timing: Timing,
    rate: FrameRate,
    start: Mono,
    seq: u64,
    newest: Option<Mono>,
}

impl Timeline {
    /// Starts stream time now.
    pub fn new(clock: Arc<dyn Clock>, stop: Stop, timing: Timing, rate: FrameRate) -> Self {
        let start = clock.mono();
        Timeline { clock, stop, timing, rate, start, seq: 0, newest: None }
    }

    /// Frames numbered so far, lost ones included.
    pub fn count(&self) -> u64 {
        self.seq
    }

    /// For files that replace a camera: whether the next frame is due; waits for it, at most `patience`. A recording is
    /// always due.
    pub fn wait_due(&mut self, patience: Duration) -> bool {
        if self.timing == Timing::Recording {
            return true;
        }
        let due = self.due();
        let mut now = self.clock.mono();
        if now < due {
            self.stop.wait(due.since(now).min(patience));
            now = self.clock.mono();
        }
        if now.since(due) > LATE_MAX {
            self.start = self.start + now.since(due);
        }
        now >= due
    }

    /// The time of the next frame by the rate: start + number / rate.
    pub fn stamp_by_rate(&mut self) -> FrameMeta {
        let at = self.due();
        self.stamp(at)
    }

    /// The time of a frame whose first bytes came at `arrived`; a recording uses the rate all the same.
    pub fn stamp_arrived(&mut self, arrived: Mono) -> FrameMeta {
        match self.timing {
            Timing::Recording => self.stamp_by_rate(),
            Timing::Live => self.stamp(arrived),
        }
    }

    /// The frame was taken at `at`, by its own time stamp.
    pub fn stamp_at(&mut self, at: Mono) -> FrameMeta {
        self.stamp(at)
    }

    /// The frame was taken so long after the first one, in a recording.
    pub fn stamp_since_start(&mut self, since: Duration) -> FrameMeta {
        let at = self.start + since;
        self.stamp(at)
    }

    /// A frame that exists but could not be read keeps its number and its time.
    pub fn lost(&mut self) {
        self.seq += 1;
    }

    fn due(&self) -> Mono {
        self.start + self.rate.offset(self.seq)
    }

    /// Two frames that arrived in one read still have an order: times grow by at least a nanosecond.
    fn stamp(&mut self, at: Mono) -> FrameMeta {
        let after = self.newest.map_or(Mono::ZERO, |newest| newest + Duration::from_nanos(1));
        let captured_at = at.max(after);
        self.newest = Some(captured_at);
        let meta = FrameMeta { seq: self.seq, captured_at, bytes_used: 0 };
        self.seq += 1;
        meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::fake::FakeClock;

    #[test]
    fn ntsc_has_not_drifted_after_a_million_frames() {
        let rate = FrameRate::new(30_000, 1001).unwrap();
        // 1e6 * 1001 / 30000 s = 33366.666... s, by hand.
        assert_eq!(rate.offset(1_000_000), Duration::from_nanos(33_366_666_666_666));
        assert_eq!(rate.offset(0), Duration::ZERO);
        assert_eq!(rate.offset(1), Duration::from_nanos(33_366_666));
        assert_eq!(rate.offset(30_000), Duration::from_secs(1001));
        assert_eq!(rate.offset(u64::MAX), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn rates_are_read_and_refused() {
        for (text, expect) in [
            ("25", Some((25, 1))),
            ("29.97", Some((2997, 100))),
            ("0.5", Some((5, 10))),
            ("30000/1001", Some((30_000, 1001))),
            ("1000", Some((1000, 1))),
            ("1001", None),
            ("0", None),
            ("0.0", None),
            ("1/0", None),
            ("1/1001", None),
            ("-3", None),
            ("+3", None),
            ("2.", None),
            (".5", None),
            ("", None),
            ("25 ", None),
            ("99999999999", None),
            ("4294967295.5", None),
        ] {
            let got = text.parse::<FrameRate>().ok().map(|r| (r.frames, r.seconds));
            assert_eq!(got, expect, "{text}");
        }
        assert_eq!(FrameRate::new(30_000, 1001).unwrap().to_string(), "30000/1001");
        assert_eq!(FrameRate::whole(25).to_string(), "25");
    }

    #[test]
    fn a_paced_source_keeps_its_schedule_and_does_not_flood_after_a_pause() {
        let clock = Arc::new(FakeClock::default());
        let second = |s: u64| Mono::from_nanos(s * 1_000_000_000);
        clock.set(second(10));
        let mut line = Timeline::new(clock.clone(), Stop::new(), Timing::Live, FrameRate::whole(2));
        assert!(line.wait_due(Duration::ZERO));
        assert_eq!(line.stamp_by_rate().captured_at, second(10));
        assert!(!line.wait_due(Duration::from_millis(1)), "half a second too early");
        clock.set(second(11));
        assert!(line.wait_due(Duration::ZERO), "half a second late is caught up");
        assert_eq!(line.stamp_by_rate().captured_at, Mono::from_nanos(10_500_000_000));
        clock.set(second(60));
        assert!(line.wait_due(Duration::ZERO));
        assert_eq!(line.stamp_by_rate().captured_at, second(60), "a long pause moves the schedule");
        assert!(!line.wait_due(Duration::from_millis(1)), "no flood after the pause");
    }

    #[test]
    fn arrival_times_grow_even_within_one_read() {
        let clock = Arc::new(FakeClock::default());
        let mut line = Timeline::new(clock, Stop::new(), Timing::Live, FrameRate::whole(25));
        let at = Mono::from_nanos(77);
        assert_eq!(line.stamp_arrived(at).captured_at, at);
        line.lost();
        let meta = line.stamp_arrived(at);
        assert_eq!((meta.seq, meta.captured_at), (2, Mono::from_nanos(78)));
    }
}
