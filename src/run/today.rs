//! The crossings of the local day, by camera. Pure: gets the counters, the clocks and the zone, once a second.
//!
//! The counters run from the start of the program. At each midnight their values are remembered, together with the boot clock's time, so that
//! a calendar that is set or synchronised later moves this moment with it. Where the midnight was missed (the calendar was not trusted, or
//! it jumped), the day is counted from now on: no crossing of another day is in it, and `since` says what is missing.

use std::time::Duration;

use crate::base::limits::CAMERAS_MAX;
use crate::platform::clock::{Mono, Wall};
use crate::platform::zone::{Local, Zone};

/// Midnight is noticed within this time, unless the calendar jumped or nobody looked.
const NOTICED: Duration = Duration::from_secs(3);
/// A calendar that is corrected by less does not end the day that it began, nanoseconds.
const CORRECTION_NANOS: i128 = 60_000_000_000;

/// A number for each camera.
pub(crate) type Counts = heapless::Vec<u64, CAMERAS_MAX>;

/// What the day's count begins with.
#[derive(Debug)]
pub(super) struct Today {
    zone: Zone,
    /// When `before` was true.
    since: Mono,
    /// The counters then; a missing one is 0.
    before: Counts,
    /// The local day of the last look with a trusted calendar.
    day: Option<i64>,
}

/// The crossings of a day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Crossings {
    /// From when on they were counted; `None`: since the start of the program, because the calendar is not trusted.
    pub(crate) since: Option<Local>,
    /// In the order of the configuration.
    pub(crate) counts: Counts,
}

impl Today {
    /// For a program that started at `started`, with all counters at 0.
    pub(super) fn new(started: Mono, zone: Zone) -> Self {
        Today { zone, since: started, before: Counts::new(), day: None }
    }

    /// Takes the counters of `now`; returns those of the day.
    pub(super) fn look(&mut self, now: Mono, wall: Wall, counters: &Counts) -> Crossings {
        let since = wall.is_trusted().then(|| self.day_since(now, wall.unix_nanos, counters));
        let before = self.before.iter().copied().chain(std::iter::repeat(0));
        let counts =
            counters.iter().zip(before).map(|(count, before)| count.saturating_sub(before)).collect();
        Crossings { since, counts }
    }

    /// When the count of the present day begins, after it was begun anew if need be.
    fn day_since(&mut self, now: Mono, unix_nanos: i64, counters: &Counts) -> Local {
        let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
        let wall = i128::from(unix_nanos);
        let day = self.zone.day(unix_nanos.div_euclid(1_000_000_000));
        let midnight = i128::from(day.began) * 1_000_000_000;
        let since = wall - nanos(now.since(self.since));
        let is_new_day = self.day.is_none_or(|before| day.number > before);
        self.day = Some(day.number);
        let since = if since < midnight - CORRECTION_NANOS || (is_new_day && since < midnight) {
            self.before.clone_from(counters);
            self.since = now;
            if wall - midnight <= nanos(NOTICED) { midnight } else { wall }
        } else {
            since.max(midnight)
        };
        self.zone.local(i64::try_from(since).unwrap_or(unix_nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    /// 2026-01-11T00:00:00Z: a calendar of this year can be true.
    const BOOT: i64 = 1_767_225_600 + 10 * DAY;

    /// A device whose boot clock began at 2026-01-11T00:00:00Z, and whose camera has one crossing a second from the start on.
    struct Device {
        today: Today,
        started: i64,
    }

    impl Device {
        /// Started so many seconds after the boot.
        fn new(started: i64) -> Self {
            let started_at = Mono::from_nanos(started as u64 * 1_000_000_000);
            Device { today: Today::new(started_at, Zone::UTC), started }
        }

        /// What it shows so many seconds after the boot, while its calendar is wrong by `wrong` seconds; `None`: not trusted.
        fn shows(&mut self, at: i64, wrong: Option<i64>) -> (String, u64) {
            let now = Mono::from_nanos(at as u64 * 1_000_000_000);
            let unix_nanos = (BOOT + at + wrong.unwrap_or(0)) * 1_000_000_000;
            let wall = Wall { unix_nanos, synchronised: wrong.is_some() };
            let counters = Counts::from_slice(&[(at - self.started) as u64]).unwrap();
            let Crossings { since, counts } = self.today.look(now, wall, &counters);
            (since.map_or("-".to_owned(), |since| since.to_string()), counts[0])
        }

        /// Looks every second from `from` to `to`, both included; returns the last.
        fn runs(&mut self, from: i64, to: i64, wrong: Option<i64>) -> (String, u64) {
            (from..=to).map(|at| self.shows(at, wrong)).last().unwrap()
        }
    }

    fn shown(since: &str, count: u64) -> (String, u64) {
        (since.to_owned(), count)
    }

    #[test]
    fn a_day_is_counted_from_midnight_or_from_a_later_start() {
        let mut device = Device::new(100);
        assert_eq!(device.runs(100, 200, Some(0)), shown("2026-01-11T00:01:40Z", 100));
        assert_eq!(device.runs(DAY - 10, DAY - 1, Some(0)), shown("2026-01-11T00:01:40Z", 86_299));
        assert_eq!(device.shows(DAY, Some(0)), shown("2026-01-12T00:00:00Z", 0));
        assert_eq!(device.shows(DAY + 60, Some(0)), shown("2026-01-12T00:00:00Z", 60));
        device.runs(2 * DAY - 5, 2 * DAY + 1, Some(0));
        assert_eq!(device.shows(2 * DAY + 7, Some(0)).0, "2026-01-13T00:00:00Z");
    }

    #[test]
    fn a_midnight_that_nobody_saw_begins_the_day_late() {
        let mut device = Device::new(0);
        device.shows(DAY - 5, Some(0));
        assert_eq!(device.shows(DAY + 600, Some(0)), shown("2026-01-12T00:10:00Z", 0));
        assert_eq!(device.shows(DAY + 660, Some(0)), shown("2026-01-12T00:10:00Z", 60));
    }

    #[test]
    fn a_clock_that_is_synchronised_late_has_the_count_since_the_start() {
        let mut device = Device::new(100);
        assert_eq!(device.runs(100, 400, None), shown("-", 300));
        assert_eq!(device.shows(401, Some(0)), shown("2026-01-11T00:01:40Z", 301));
        // With a midnight in between nobody knows what belongs to which day.
        let mut device = Device::new(100);
        assert_eq!(device.runs(DAY - 10, DAY + 50, None), shown("-", 86_350));
        assert_eq!(device.shows(DAY + 51, Some(0)), shown("2026-01-12T00:00:51Z", 0));
        assert_eq!(device.shows(DAY + 61, Some(0)), shown("2026-01-12T00:00:51Z", 10));
    }

    #[test]
    fn a_clock_that_is_set_moves_the_beginning_with_it() {
        // Back by an hour within the day: the start moves.
        let mut device = Device::new(7200);
        assert_eq!(device.runs(7200, 7300, Some(0)), shown("2026-01-11T02:00:00Z", 100));
        assert_eq!(device.shows(7301, Some(-3600)), shown("2026-01-11T01:00:00Z", 101));
        // To another day, back and forth: the same.
        assert_eq!(device.shows(7400, Some(-DAY)), shown("2026-01-10T02:00:00Z", 200));
        assert_eq!(device.shows(7500, Some(3 * DAY)), shown("2026-01-14T02:00:00Z", 300));
        // So that midnight is between the start and now: nobody knows what belongs to which day.
        let after_midnight = 4 * DAY + 60 - 7600;
        assert_eq!(device.shows(7600, Some(after_midnight)), shown("2026-01-15T00:01:00Z", 0));
        assert_eq!(device.shows(7605, Some(after_midnight)), shown("2026-01-15T00:01:00Z", 5));
    }

    #[test]
    fn a_clock_that_was_ahead_by_hours_takes_the_start_to_the_day_before() {
        let mut device = Device::new(3600);
        assert_eq!(device.shows(82_800, Some(0)), shown("2026-01-11T01:00:00Z", 79_200));
        // It says 23:00 and is set to 1:00 of the same day: most of these crossings were the day before.
        let set_back = Some(3600 - 82_801);
        assert_eq!(device.shows(82_801, set_back), shown("2026-01-11T01:00:00Z", 0));
        assert_eq!(device.shows(82_811, set_back), shown("2026-01-11T01:00:00Z", 10));
    }

    #[test]
    fn a_small_correction_at_midnight_costs_nothing_but_its_seconds() {
        let mut device = Device::new(100);
        device.runs(DAY - 5, DAY + 1, Some(0));
        // Two seconds back: it is the day before once more, for a second.
        assert_eq!(device.shows(DAY + 2, Some(-3)), shown("2026-01-11T23:59:57Z", 2));
        assert_eq!(device.shows(DAY + 3, Some(-3)), shown("2026-01-12T00:00:00Z", 0));
        assert_eq!(device.shows(DAY + 13, Some(-3)), shown("2026-01-12T00:00:00Z", 10));
        // Half a minute back later in the day: the count stays, and does not begin before the day.
        assert_eq!(device.shows(DAY + 113, Some(-33)), shown("2026-01-12T00:00:00Z", 110));
    }
}
