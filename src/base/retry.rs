//! Back-off with jitter, used for everything that may recover by itself (camera, external program, receiver).
//!
//! "Equal jitter" (AWS Architecture Blog, "Exponential Backoff and Jitter", 2015): half of the delay is fixed, half is random, so that a
//! hundred devices that lost the same server do not return in the same second, and none returns at once.

use std::time::Duration;

/// Delays that grow exponentially from `first` to `cap`.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// Starts at `first` and doubles up to `cap`. `seed` makes the jitter differ between devices and equal between test runs.
    pub fn new(first: Duration, cap: Duration, seed: u64) -> Self {
        Backoff { first, cap: cap.max(first), failures: 0, random: seed }
    }

    /// Other limits from the next delay on; the number of failures stays.
    pub fn set(&mut self, first: Duration, cap: Duration) {
        (self.first, self.cap) = (first, cap.max(first));
    }

    /// The delay before the next try: between half and all of `first * 2^failures`, at most `cap`.
    pub fn next_delay(&mut self) -> Duration {
        let whole =
            self.first.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(self.unit())
    }

    /// Success: the next failure starts from the first delay again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The next number in 0.0..1.0, by SplitMix64 (Steele, Lea, Flood 2014): tiny, seeded, good enough to spread retries.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_within_its_jitter_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), 7);
        for whole in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0f64] {
            let delay = backoff.next_delay().as_secs_f64();
            assert!((whole / 2.0..=whole).contains(&delay), "{delay} of {whole}");
        }
        for _ in 0..100 {
            assert!(backoff.next_delay() <= Duration::from_secs(60));
        }
        backoff.succeeded();
        assert!(backoff.next_delay() <= Duration::from_secs(1));
    }

    #[test]
    fn two_seeds_differ_and_one_seed_repeats() {
        let delays = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(600), seed);
            [backoff.next_delay(), backoff.next_delay(), backoff.next_delay()]
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }
}
