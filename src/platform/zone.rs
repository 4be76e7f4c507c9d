//! The device's time zone: when its days begin. The only file that knows one; everything else is in UTC or on the boot clock.

use std::fmt;

use crate::platform::clock::Rfc3339;

/// Seconds of a day without a change of the clock.
const DAY_S: i64 = 86_400;

/// A time zone.
#[derive(Debug, Clone)]
pub struct Zone(Option<tz::TimeZone>);

impl Zone {
    /// UTC.
    pub const UTC: Zone = Zone(None);

    /// That of this device: `TZ`, else `/etc/localtime`. UTC if neither can be read.
    pub fn of_device() -> Self {
        let named = std::env::var("TZ").ok().filter(|name| !name.is_empty());
        Zone(named.map_or_else(tz::TimeZone::local, |name| tz::TimeZone::from_posix_tz(&name)).ok())
    }

    /// What local time is ahead of UTC at this time (seconds since 1970), seconds. 0 where it is not known.
    pub fn ahead_s(&self, unix_s: i64) -> i64 {
        let kind = self.0.as_ref().and_then(|zone| zone.find_local_time_type(unix_s).ok());
        kind.map_or(0, |kind| kind.ut_offset().into())
    }

    /// The local day of this time (seconds since 1970).
    pub fn day(&self, unix_s: i64) -> Day {
        day(unix_s, &|at| self.ahead_s(at))
    }

    /// This time (nanoseconds since 1970), to be shown in this zone.
    pub fn local(&self, unix_nanos: i64) -> Local {
        Local { unix_nanos, ahead_s: self.ahead_s(unix_nanos.div_euclid(1_000_000_000)) }
    }
}

/// A day of a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// Days since 1970-01-01 of the local calendar.
    pub number: i64,
    /// When it began, seconds since 1970. Not always 24 hours before the next.
    pub began: i64,
}

/// The local day of `unix_s` where local time is ahead of UTC by `ahead` seconds.
fn day(unix_s: i64, ahead: &dyn Fn(i64) -> i64) -> Day {
    let number = |at: i64| at.saturating_add(ahead(at)).div_euclid(DAY_S);
    let today = number(unix_s);
    let midnight = today.saturating_mul(DAY_S);
    // The clock may have changed since midnight, or at midnight: then the day has two beginnings, or none at 00:00.
    let now = midnight.saturating_sub(ahead(unix_s));
    let candidates = [now, midnight.saturating_sub(ahead(now.saturating_sub(1)))];
    let first = candidates.into_iter().filter(|at| *at <= unix_s && number(*at) == today).min();
    Day { number: today, began: first.unwrap_or(unix_s) }
}

/// A time as RFC 3339 with the offset of its zone: `2026-11-23T00:00:00+01:00`; `Z` in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    unix_nanos: i64,
    ahead_s: i64,
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // RFC 3339 has no seconds in an offset; zones had them until 1972.
        let minutes = self.ahead_s / 60;
        let shifted = Rfc3339(self.unix_nanos.saturating_add(minutes * 60_000_000_000)).to_string();
        f.write_str(shifted.split('.').next().unwrap_or_default())?;
        match minutes {
            0 => f.write_str("Z"),
            _ => {
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(f, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::days_from_civil;

    /// As POSIX writes it, without a file of the system.
    fn zone(rule: &str) -> Zone {
        Zone(Some(tz::TimeZone::from_posix_tz(rule).unwrap()))
    }

    /// 2026-01-01T00:00:00Z.
    const YEAR: i64 = 1_767_225_600;

    #[test]
    fn days_begin_at_local_midnight_also_when_the_clock_changes() {
        let berlin = zone("CET-1CEST,M3.5.0,M10.5.0/3");
        for ((month, day, hour, second), began) in [
            // 2026-03-29 has 23 hours, 2026-10-25 has 25.
            ((3, 28, 23, 0), "2026-03-29T00:00:00+01:00"),
            ((3, 29, 21, 3599), "2026-03-29T00:00:00+01:00"),
            ((3, 29, 22, 0), "2026-03-30T00:00:00+02:00"),
            ((10, 24, 22, 0), "2026-10-25T00:00:00+02:00"),
            ((10, 25, 22, 3599), "2026-10-25T00:00:00+02:00"),
            ((10, 25, 23, 0), "2026-10-26T00:00:00+01:00"),
        ] {
            let unix_s = days_from_civil(2026, month, day) * DAY_S + hour * 3600 + second;
            let day = berlin.day(unix_s);
            assert_eq!(berlin.local(day.began * 1_000_000_000).to_string(), began, "{unix_s}");
        }
    }

    /// Compared with a search in steps that every change is a multiple of; in zones, too, that change their clock around midnight.
    #[test]
    fn every_day_of_a_year_begins_when_its_number_is_first_reached() {
        let mut back = 0;
        for (rule, step) in [
            ("UTC0", 900),
            ("CET-1CEST,M3.5.0,M10.5.0/3", 900),
            ("EST5EDT,M3.2.0,M11.1.0", 900),
            ("IST-5:30", 900),
            ("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", 900),
            ("CST5CDT,M3.2.0/0,M11.1.0/1", 900), // Cuba: no midnight in spring, two of them in autumn
            ("EET-2EEST,M3.5.0/0,M10.5.0/0", 900), // Lebanon: the last hour of a day twice
            ("<-02>2<-01>,J87/23,J298/0", 900),  // Greenland in 2026: 23:00 is midnight
            ("NST3:30NDT,M3.2.0/0:01,M11.1.0/0:01", 60), // Newfoundland until 2011: a minute of a day, then the day before again
        ] {
            let zone = zone(rule);
            let mut began = None;
            let mut last = i64::MIN;
            for at in (YEAR - 2 * DAY_S..YEAR + 366 * DAY_S).step_by(step) {
                let number = (at + zone.ahead_s(at)).div_euclid(DAY_S);
                if number > last {
                    began = (last > i64::MIN).then_some(at);
                } else if number < last {
                    back += 1;
                    began = None;
                }
                last = number;
                let day = zone.day(at);
                assert_eq!(day.number, number, "{rule} {at}");
                if let Some(began) = began {
                    assert_eq!(day.began, began, "{rule} {at}");
                }
            }
        }
        assert_eq!(back, 1, "only Newfoundland's clock went back over midnight");
    }

    #[test]
    fn local_time_is_written_with_its_offset() {
        for (rule, text) in [
            ("UTC0", "2026-01-01T00:00:00Z"),
            ("IST-5:30", "2026-01-01T05:30:00+05:30"),
            ("NST3:30", "2025-12-31T20:30:00-03:30"),
        ] {
            assert_eq!(zone(rule).local(YEAR * 1_000_000_000).to_string(), text);
        }
        assert_eq!(Zone::UTC.local(YEAR * 1_000_000_000).to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(Zone::UTC.day(i64::MAX).number, i64::MAX / DAY_S, "any reading of a clock");
        let _no_panic = (
            zone("IST-5:30").day(i64::MIN),
            Zone::of_device().day(i64::MAX),
            Zone::UTC.local(i64::MIN).to_string(),
        );
    }
}
