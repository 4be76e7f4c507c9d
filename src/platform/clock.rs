//! Time. The only file that reads a clock; all other code gets `now` as a parameter.
//!
//! [`Mono`] is the boot clock (`CLOCK_BOOTTIME`): it never jumps, counts suspend, and all deadlines use it.
//! [`Wall`] is the calendar time and whether it is synchronised: data that we attach, never a deadline.
#![allow(unsafe_code, reason = "adjtimex has no safe wrapper; one call, argued below")]

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on the boot clock, nanoseconds since boot. For recordings: since the boot plus the stream's own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Mono(u64);

impl Mono {
    /// The moment of boot.
    pub const ZERO: Mono = Mono(0);

    /// From nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Mono(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Seconds since boot.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    /// Saturates at the end of time (584 years after boot).
    fn add(self, by: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Mono;
    /// Saturates at boot.
    fn sub(self, by: Duration) -> Mono {
        Mono(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A reading of the calendar clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wall {
    /// Nanoseconds since 1970-01-01T00:00:00Z; negative before.
    pub unix_nanos: i64,
    /// Whether the kernel says that something disciplines the clock (`adjtimex` not in `TIME_ERROR`).
    pub synchronised: bool,
}

/// 2026-01-01T00:00:00Z. A wall clock before the year of the build has not been set; its reading never leaves the device (I5).
pub const BUILD_UNIX_NANOS: i64 = 1_767_225_600 * 1_000_000_000;

impl Wall {
    /// Whether the reading can be true at all: not before the build.
    pub const fn plausible(self) -> bool {
        self.unix_nanos >= BUILD_UNIX_NANOS
    }

    /// Whether the reading is synchronised and can be true.
    pub const fn is_trusted(self) -> bool {
        self.synchronised && self.plausible()
    }
}

/// Both clocks read together: what turns a [`Mono`] into a calendar time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSyncSample {
    /// The boot clock.
    pub mono: Mono,
    /// The calendar at that moment.
    pub wall: Wall,
}

impl ClockSyncSample {
    /// The calendar is unknown.
    pub const UNKNOWN: ClockSyncSample =
        ClockSyncSample { mono: Mono::ZERO, wall: Wall { unix_nanos: i64::MIN, synchronised: false } };

    /// Time of boot according to this sample, nanoseconds since 1970.
    pub fn boot_nanos(&self) -> i128 {
        i128::from(self.wall.unix_nanos) - i128::from(self.mono.0)
    }

    /// The same reading, moved to another moment of the boot clock.
    #[must_use]
    pub fn moved_to(self, mono: Mono) -> ClockSyncSample {
        let wall = i64::try_from(self.boot_nanos() + i128::from(mono.0));
        wall.map_or(self, |unix_nanos| ClockSyncSample { mono, wall: Wall { unix_nanos, ..self.wall } })
    }

    /// Whether it is news compared with `before`: the calendar was set, moved by more than half a second against the boot clock, or became
    /// synchronised.
    pub fn is_news_after(&self, before: Option<ClockSyncSample>) -> bool {
        self.wall.plausible()
            && before.is_none_or(|before| {
                (before.boot_nanos() - self.boot_nanos()).unsigned_abs() > 500_000_000
                    || before.wall.synchronised != self.wall.synchronised
            })
    }
}

/// A source of time. The program has one [`SystemClock`]; tests and the simulation bring their own.
pub trait Clock: Send + Sync {
    /// The boot clock.
    fn mono(&self) -> Mono;
    /// The calendar.
    fn wall(&self) -> Wall;
    /// The boot clock at a time of the kernel's monotonic clock, which stands still while the machine sleeps. Exact for times since the
    /// last sleep.
    fn at_monotonic(&self, nanos: u64) -> Mono {
        Mono::from_nanos(nanos)
    }
    /// Both clocks, read together.
    fn sample(&self) -> ClockSyncSample {
        ClockSyncSample { mono: self.mono(), wall: self.wall() }
    }
}

/// The kernel's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn mono(&self) -> Mono {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Mono(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }

    fn at_monotonic(&self, nanos: u64) -> Mono {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let monotonic = t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64;
        Mono(nanos.saturating_add(self.mono().0.saturating_sub(monotonic)))
    }

    fn wall(&self) -> Wall {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let unix_nanos = t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec);
        Wall { unix_nanos, synchronised: kernel_says_synchronised() }
    }
}

/// Processor time that the calling thread has used.
pub fn thread_cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or_default(), u32::try_from(t.tv_nsec).unwrap_or_default())
}

/// Whether `adjtimex` reports a disciplined clock. An error (a sandbox that forbids the call) counts as "no".
fn kernel_says_synchronised() -> bool {
    // SAFETY: `timex` is plain data for which all zeros is valid; modes = 0 makes the call read-only; the pointer is to
    // our own stack and the kernel writes within the struct.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    (0..libc::TIME_ERROR).contains(&state)
}

/// A calendar time as RFC 3339 in UTC with milliseconds: `2026-11-23T08:15:30.250Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rfc3339(pub i64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000_000_000);
        let millis = self.0.rem_euclid(1_000_000_000) / 1_000_000;
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{millis:03}Z")
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `days_from_civil`.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Days since 1970-01-01 to (year, month, day) in the proleptic Gregorian calendar. Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
pub(crate) mod fake {
    //! A clock that moves only when a test moves it.
    use super::{Clock, Mono, Wall};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Both clocks from one counter; the calendar is 2026-11-23T00:00:00Z plus the boot clock.
    #[derive(Debug, Default)]
    pub(crate) struct FakeClock(AtomicU64);

    impl FakeClock {
        pub(crate) fn set(&self, now: Mono) {
            self.0.store(now.as_nanos(), Ordering::SeqCst);
        }
    }

    impl Clock for FakeClock {
        fn mono(&self) -> Mono {
            Mono::from_nanos(self.0.load(Ordering::SeqCst))
        }
        fn wall(&self) -> Wall {
            Wall {
                unix_nanos: 1_795_392_000 * 1_000_000_000 + self.mono().as_nanos() as i64,
                synchronised: true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_handles_leap_years_and_dates_before_1970() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_767_225_600, "2026-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(Rfc3339(seconds * 1_000_000_000).to_string(), text);
        }
        assert_eq!(Rfc3339(1_767_225_600_987_654_321).to_string(), "2026-01-01T00:00:00.987Z");
    }

    #[test]
    fn system_clock_moves_forward() {
        let clock = SystemClock;
        let first = clock.mono();
        assert!(clock.mono() >= first && first > Mono::ZERO);
        assert!(clock.wall().plausible(), "this machine's calendar is before the build");
    }

    #[test]
    fn a_thread_uses_processor_time_only_while_it_works() {
        let before = thread_cpu_time();
        let mut sum = 0_u64;
        while thread_cpu_time() < before + Duration::from_millis(2) {
            sum = std::hint::black_box(sum).wrapping_mul(31).wrapping_add(7);
        }
        let worked = thread_cpu_time();
        std::thread::park_timeout(Duration::from_millis(50));
        assert!(thread_cpu_time() < worked + Duration::from_millis(25), "waiting costs none");
    }

    #[test]
    fn mono_saturates() {
        assert_eq!(Mono::from_nanos(3) - Duration::from_secs(1), Mono::ZERO);
        assert_eq!(Mono::from_nanos(u64::MAX) + Duration::from_secs(1), Mono::from_nanos(u64::MAX));
        assert_eq!(Mono::from_nanos(3).since(Mono::from_nanos(9)), Duration::ZERO);
    }
}
