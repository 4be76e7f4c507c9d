//! Calendar time of events (I5), from the boot clock, which never jumps, and the best calendar reading so far.
//!
//! A [`Timekeeper`] remembers the last synchronised reading: once the calendar was synchronised, a clock that is set wrong by hand, steps
//! by years or loses its time server no longer changes the timestamps of this boot. A [`Calendar`] holds what the stamps of one batch are
//! computed from: the reading, the bounds where it is not trusted, and the latest time that can be true.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::platform::clock::{BUILD_UNIX_NANOS, Clock, ClockSyncSample, Mono, Wall};

/// A timestamp further in the future than this is wrong, synchronised or not, and is not sent.
const AHEAD_MAX: i64 = 86_400_000_000_000;

/// Readings that differ by less are the same reading: a clock that is slewed moves with the boot clock, one that is set jumps by more. So a
/// repeated event has the same stamp to the nanosecond.
const JITTER_NANOS: u128 = 5_000_000;

/// Largest drift of an undisciplined boot clock: crystals of small boards are within 50 ppm, and temperature adds as much again.
const DRIFT_PER_MILLION: i128 = 100;

/// A timestamp whose error may exceed this carries its bounds.
const STATED_FROM_NANOS: i128 = 1_000_000_000;

/// Keeps the best reading of this boot.
pub struct Timekeeper {
    clock: Arc<dyn Clock>,
    best: Mutex<Option<ClockSyncSample>>,
}

impl Timekeeper {
    /// Starts without a reading.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Timekeeper { clock, best: Mutex::new(None) }
    }

    /// The boot clock.
    pub fn mono(&self) -> Mono {
        self.clock.mono()
    }

    /// Reads the clocks and returns the best reading so far: the last synchronised one, else the present one.
    pub fn sample(&self) -> ClockSyncSample {
        let now = self.clock.sample();
        self.learn(now).unwrap_or(now)
    }

    /// The calendar time now, by the best reading so far.
    pub fn wall(&self) -> Wall {
        self.sample().moved_to(self.mono()).wall
    }

    /// The calendar for events of this boot, or of the boot with the reading `past`.
    pub fn calendar(&self, past: Option<ClockSyncSample>, bounds: Bounds) -> Calendar {
        Calendar::new((self.sample(), self.mono()), past, bounds)
    }

    /// Takes a reading of this boot into account (perhaps one that an earlier process left on disk) and returns the best so far. Readings
    /// from before the build are ignored.
    pub fn learn(&self, read: ClockSyncSample) -> Option<ClockSyncSample> {
        let mut best = self.best.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = best.is_none_or(|old| match (old.wall.synchronised, read.wall.synchronised) {
            (false, true) => true,
            (true, false) => false,
            (false, false) | (true, true) => old.mono <= read.mono,
        });
        if read.wall.plausible() && newer {
            let same =
                |old: &ClockSyncSample| (old.boot_nanos() - read.boot_nanos()).unsigned_abs() < JITTER_NANOS;
            let synchronised = read.wall.synchronised;
            let moved = |old: ClockSyncSample| {
                let ClockSyncSample { mono, wall } = old.moved_to(read.mono);
                ClockSyncSample { mono, wall: Wall { synchronised, ..wall } }
            };
            *best = Some(best.filter(same).map_or(read, moved));
        }
        *best
    }
}

/// What is known about a boot whose calendar was never synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bounds {
    /// The machine started no earlier than this, the last time that an earlier boot knew. Nanoseconds since 1970.
    pub started_after: Option<i64>,
    /// Everything happened before this, the start of the next boot that knew the time. Nanoseconds since 1970.
    pub over_before: Option<i64>,
}

/// When something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since 1970, if it is known; never before the year of the build, never more than a day in the future.
    pub time: Option<i64>,
    /// Whether `time` comes from a synchronised clock.
    pub synchronised: bool,
    /// Not before this, if that is a closer bound than `time`.
    pub not_before: Option<i64>,
    /// Not after this, likewise.
    pub not_after: Option<i64>,
}

/// Turns boot-clock times of one boot into calendar stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    /// Both clocks read together.
    pub map: ClockSyncSample,
    /// Bounds, if the reading is not trusted.
    pub bounds: Bounds,
    /// No stamp is later than this, nanoseconds since 1970.
    pub latest: i64,
}

impl From<ClockSyncSample> for Calendar {
    fn from(map: ClockSyncSample) -> Self {
        Calendar { map, bounds: Bounds::default(), latest: i64::MAX }
    }
}

impl Calendar {
    /// The calendar for events of this boot, or of the boot with the reading `past`. `now` is the best reading of this boot, which may be
    /// old, and the present; see [`Timekeeper::calendar`].
    pub fn new(
        (now, present): (ClockSyncSample, Mono),
        past: Option<ClockSyncSample>,
        bounds: Bounds,
    ) -> Self {
        let wall = now.moved_to(present).wall;
        let latest = if wall.plausible() { wall.unix_nanos.saturating_add(AHEAD_MAX) } else { i64::MAX };
        let started = Some(started_before(&now)).filter(|_| past.is_some() && now.wall.is_trusted());
        let over_before = bounds.over_before.into_iter().chain(started).min();
        Calendar { map: past.unwrap_or(now), bounds: Bounds { over_before, ..bounds }, latest }
    }

    /// Whether its timestamps are trusted.
    pub fn is_trusted(&self) -> bool {
        self.map.wall.is_trusted() && self.map.wall.unix_nanos <= self.latest
    }

    /// The stamp of an event at `at`.
    pub fn stamp(&self, at: Mono) -> Stamp {
        let off = i128::from(at.as_nanos()) - i128::from(self.map.mono.as_nanos());
        let guess = i128::from(self.map.wall.unix_nanos) + off;
        let time = nanos(guess).filter(|time| (BUILD_UNIX_NANOS..=self.latest).contains(time));
        if let Some(time) = time.filter(|_| self.is_trusted()) {
            let error = drift(off);
            let bound = nanos(error).filter(|_| error > STATED_FROM_NANOS);
            return Stamp {
                time: Some(time),
                synchronised: true,
                not_before: bound.map(|error| time.saturating_sub(error).max(BUILD_UNIX_NANOS)),
                not_after: bound.map(|error| time.saturating_add(error).min(self.latest)),
            };
        }
        let since_start = i128::from(at.as_nanos());
        let since_start = nanos(since_start - drift(since_start)).unwrap_or(i64::MAX);
        let started = self.bounds.started_after.unwrap_or(BUILD_UNIX_NANOS).max(BUILD_UNIX_NANOS);
        let not_before = started.saturating_add(since_start).min(self.latest);
        let not_after = self.bounds.over_before.filter(|end| (not_before..=self.latest).contains(end));
        let fits = |time: &i64| (not_before..=not_after.unwrap_or(i64::MAX)).contains(time);
        Stamp { time: time.filter(fits), synchronised: false, not_before: Some(not_before), not_after }
    }
}

/// The latest time at which the boot of a reading can have begun, nanoseconds since 1970.
pub fn started_before(read: &ClockSyncSample) -> i64 {
    let latest = read.boot_nanos() + drift(i128::from(read.mono.as_nanos()));
    nanos(latest).unwrap_or(i64::MAX)
}

/// Largest drift between two clocks over this many nanoseconds.
fn drift(nanos: i128) -> i128 {
    nanos.abs() * DRIFT_PER_MILLION / 1_000_000
}

fn nanos(wide: i128) -> Option<i64> {
    i64::try_from(wide).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::SystemClock;

    const SECOND: i64 = 1_000_000_000;
    const NOON: i64 = 1_795_521_600 * SECOND;

    fn read(mono_s: u64, unix_nanos: i64, synchronised: bool) -> ClockSyncSample {
        ClockSyncSample {
            mono: Mono::from_nanos(mono_s * 1_000_000_000),
            wall: Wall { unix_nanos, synchronised },
        }
    }

    #[test]
    fn the_best_reading_is_kept_and_jitter_is_ignored() {
        let timekeeper = Timekeeper::new(Arc::new(SystemClock));
        assert_eq!(timekeeper.learn(read(1, 0, true)), None, "1970, although it claims to be synchronised");
        let guess = read(2, NOON - 100 * SECOND, false);
        assert_eq!(timekeeper.learn(guess), Some(guess));
        let again = read(3, NOON - 99 * SECOND - 4_999_999, false);
        assert_eq!(timekeeper.learn(again), Some(guess.moved_to(again.mono)), "a repeat has the same stamp");
        let other = read(4, NOON, false);
        assert_eq!(timekeeper.learn(other), Some(other), "set by hand");
        let first = read(10, NOON + 60 * SECOND, true);
        assert_eq!(timekeeper.learn(first), Some(first));
        let slewed = read(20, NOON + 70 * SECOND + 4_999_999, true);
        assert_eq!(timekeeper.learn(slewed), Some(first.moved_to(slewed.mono)));
        let set = read(30, NOON + 81 * SECOND, true);
        assert_eq!(timekeeper.learn(set), Some(set));
        assert_eq!(timekeeper.learn(read(40, NOON - 40 * SECOND, false)), Some(set));
        assert_eq!(timekeeper.learn(read(25, NOON, true)), Some(set), "older than what is known");
        // A guess of now is worth less than what an earlier process knew.
        let timekeeper = Timekeeper::new(Arc::new(SystemClock));
        timekeeper.learn(other);
        assert_eq!(timekeeper.learn(read(3, NOON, true)), Some(read(3, NOON, true)));
        // First an unsynchronised reading, then a synchronised one.
        let timekeeper = Timekeeper::new(Arc::new(SystemClock));
        timekeeper.learn(guess);
        let trusted = ClockSyncSample { wall: Wall { synchronised: true, ..again.wall }, ..again };
        assert_eq!(timekeeper.learn(trusted).unwrap().boot_nanos(), guess.boot_nanos());
        assert!(timekeeper.learn(again).unwrap().wall.synchronised);
    }

    #[test]
    fn stamps_before_the_build_or_more_than_a_day_ahead_are_not_sent() {
        let now = read(100, NOON, true);
        let day = 86_400;
        for (past, at_s, time) in [
            (None, 100, Some(NOON)),
            (None, 100 + day, Some(NOON + day as i64 * SECOND)),
            (None, 101 + day, None),
            (Some(read(50, BUILD_UNIX_NANOS, true)), 50, Some(BUILD_UNIX_NANOS)),
            (Some(read(50, BUILD_UNIX_NANOS, true)), 49, None),
            // Synchronised, but in 2035, by a faulty time server.
            (Some(read(50, NOON + 9 * 365 * 86_400 * SECOND, true)), 50, None),
        ] {
            let stamp = Calendar::new((now, now.mono), past, Bounds::default())
                .stamp(Mono::from_nanos(at_s * 1_000_000_000));
            assert_eq!((stamp.time, stamp.synchronised), (time, time.is_some()), "{past:?} {at_s}");
        }
    }

    /// The time server is lost for a week: the calendar follows the boot clock, and states the possible error.
    #[test]
    fn an_old_reading_does_not_limit_new_stamps() {
        let week = 7 * 86_400;
        let now = (read(100, NOON, true), Mono::from_nanos((100 + week) * 1_000_000_000));
        let stamp = Calendar::new(now, None, Bounds::default()).stamp(now.1);
        assert_eq!((stamp.time, stamp.synchronised), (Some(NOON + week as i64 * SECOND), true));
        let off = week as i64 * 100_000;
        let time = NOON + week as i64 * SECOND;
        assert_eq!((stamp.not_before, stamp.not_after), (Some(time - off), Some(time + off)));
    }

    #[test]
    fn a_boot_without_a_calendar_lies_between_its_neighbours() {
        let bounds = Bounds { started_after: Some(NOON), over_before: Some(NOON + 500 * SECOND) };
        let stamp = |past, at_s: u64| {
            let now = read(100, NOON + 9000 * SECOND, false);
            Calendar::new((now, now.mono), Some(past), bounds).stamp(Mono::from_nanos(at_s * 1_000_000_000))
        };
        let unknown = stamp(ClockSyncSample::UNKNOWN, 100);
        let margin = SECOND / 100; // 100 s at 100 parts in a million
        assert_eq!(
            (unknown.time, unknown.not_before, unknown.not_after),
            (None, Some(NOON + 100 * SECOND - margin), bounds.over_before)
        );
        let guess = |offset: i64| stamp(read(50, NOON + offset * SECOND, false), 50);
        assert_eq!(guess(200).time, Some(NOON + 200 * SECOND), "a real-time clock that can be right");
        assert_eq!(guess(20).time, None, "the previous boot had already seen noon");
        assert_eq!(guess(501).time, None, "it was over by then");
        // Bounds that contradict each other are not reported.
        assert_eq!(stamp(ClockSyncSample::UNKNOWN, 600).not_after, None);
    }
}
