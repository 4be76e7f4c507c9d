//! Bytes written in the last 24 hours: flash wears with every write.

use crate::platform::clock::Mono;

const HOUR_NANOS: u64 = 3_600_000_000_000;

/// A sum over the last 24 hours, to the hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DailyWriteBudget {
    hours: [u64; 24],
    /// Number of the current hour since boot.
    hour: u64,
    total: u64,
}

impl DailyWriteBudget {
    /// Records the counter `total`; returns its growth in the last 24 hours: this hour and the 23 before.
    pub fn note(&mut self, now: Mono, total: u64) -> u64 {
        let hour = now.as_nanos() / HOUR_NANOS;
        for passed in 0..hour.saturating_sub(self.hour).min(24) {
            self.hours[((hour - passed) % 24) as usize] = 0;
        }
        self.hour = self.hour.max(hour);
        self.hours[(self.hour % 24) as usize] += total.saturating_sub(self.total);
        self.total = total;
        self.hours.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_older_than_a_day_expire_hour_by_hour() {
        let mut day = DailyWriteBudget::default();
        let at = |hour: u64| Mono::from_nanos(hour * HOUR_NANOS + 5);
        assert_eq!(day.note(at(100), 10), 10);
        assert_eq!(day.note(at(100), 15), 15);
        assert_eq!(day.note(at(101), 16), 16);
        assert_eq!(day.note(at(123), 20), 20);
        assert_eq!(day.note(at(124), 20), 5, "hour 100 is over");
        assert_eq!(day.note(at(125), 20), 4, "and hour 101");
        assert_eq!(day.note(at(124), 21), 5, "a clock that goes back forgets nothing");
        assert_eq!(day.note(at(100_000), 22), 1);
        // Without a pause: a byte each hour.
        let mut day = DailyWriteBudget::default();
        let sums: Vec<u64> = (0..60).map(|hour| day.note(at(hour), hour + 1)).collect();
        assert!(sums.iter().enumerate().all(|(hour, &sum)| sum == (hour as u64 + 1).min(24)), "{sums:?}");
    }
}
