//! Keeps the network's load below a limit (S17): lowers the rates of all cameras by the same factor while the thread that processes their
//! frames is busy for more than a share of its time, and raises them again when there is room. Pure: gets times, returns a factor.
//!
//! A camera whose frames are dropped because the network is busy loses them where they hurt most, in a burst of traffic; a lower but even
//! rate is what a tracker can work with. And a board without a reserve throttles from heat.

use std::time::Duration;

use crate::platform::clock::Mono;

/// Time over which the load is measured.
const WINDOW: Duration = Duration::from_secs(1);
/// Weight of the newest window in the load.
const NEWEST: f64 = 0.5;
/// The rates are raised only below this part of the limit, so that they do not swing around it.
const ROOM: f64 = 0.95;
/// Largest rise in one window.
const RISE_MAX: f64 = 1.05;
/// The rates never fall below this part of their targets: a camera that is looked at less often counts nothing.
pub const FACTOR_MIN: f64 = 0.05;

/// Measures the load and chooses the factor.
#[derive(Debug, Clone)]
pub struct LoadControl {
    limit: f64,
    since: Mono,
    busy: Duration,
    load: f64,
    factor: f64,
}

impl LoadControl {
    /// With the highest load, above 0 to 1, from `now` on. At 1 the factor is always 1.
    pub const fn new(limit: f64, now: Mono) -> Self {
        LoadControl { limit, since: now, busy: Duration::ZERO, load: 0.0, factor: 1.0 }
    }

    /// Sets another limit. The factor follows.
    pub const fn set_limit(&mut self, limit: f64) {
        self.limit = limit;
    }

    /// A piece of work took this long.
    pub fn worked(&mut self, busy: Duration) {
        self.busy += busy;
    }

    /// Chooses the factor again if a window is over; returns it if it changed.
    pub fn poll(&mut self, now: Mono) -> Option<f64> {
        let elapsed = now.since(self.since);
        if elapsed < WINDOW {
            return None;
        }
        let newest = (self.busy.as_secs_f64() / elapsed.as_secs_f64()).min(1.0);
        (self.since, self.busy) = (now, Duration::ZERO);
        self.load += (newest - self.load) * NEWEST;
        let before = self.factor;
        let wanted = self.limit / self.load.max(1e-3);
        if self.limit >= 1.0 {
            self.factor = 1.0;
        } else if wanted < 1.0 || wanted * ROOM > 1.0 {
            self.factor = (self.factor * wanted.min(RISE_MAX)).clamp(FACTOR_MIN, 1.0);
        }
        (self.factor != before).then_some(self.factor)
    }

    /// The part of its time for which the thread is busy, 0 to 1.
    pub const fn load(&self) -> f64 {
        self.load
    }

    /// The factor for all rates.
    pub const fn factor(&self) -> f64 {
        self.factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs for `seconds` with work of `demand` times the available time at full rates; returns the factors of the last half.
    fn run(control: &mut LoadControl, from: u64, seconds: u64, demand: f64) -> Vec<f64> {
        let mut factors = Vec::new();
        for second in from..from + seconds {
            control.worked(Duration::from_secs_f64((demand * control.factor()).min(1.0)));
            control.poll(Mono::from_nanos((second + 1) * 1_000_000_000));
            factors.push(control.factor());
        }
        factors.split_off(factors.len() / 2)
    }

    #[test]
    fn rates_fall_to_the_limit_and_return() {
        let mut control = LoadControl::new(0.8, Mono::ZERO);
        assert!(run(&mut control, 0, 20, 0.79).iter().all(|factor| *factor == 1.0));
        let factors = run(&mut control, 20, 60, 3.0);
        let expected = 0.8 / 3.0;
        assert!(factors.iter().all(|factor| (factor / expected - 1.0).abs() < 0.1), "{factors:?}");
        assert!(run(&mut control, 80, 120, 0.5).iter().all(|factor| *factor == 1.0));
        assert!(run(&mut control, 200, 60, 1000.0).iter().all(|factor| (*factor - FACTOR_MIN).abs() < 1e-9));
        let mut without = LoadControl::new(1.0, Mono::ZERO);
        assert!(run(&mut without, 0, 60, 9.0).iter().all(|factor| *factor == 1.0));
    }

    proptest! {
        /// Whatever the demand, the load ends near the limit and the rates do not swing.
        #[test]
        fn it_settles(demand in 0.01f64..12.0, limit in 0.3f64..0.95) {
            let mut control = LoadControl::new(limit, Mono::ZERO);
            let factors = run(&mut control, 0, 240, demand);
            let (least, most) = (factors.iter().copied().fold(1.0, f64::min), factors.iter().copied().fold(0.0, f64::max));
            prop_assert!(most / least < 1.12, "{least} to {most}");
            prop_assert!(demand * most <= limit * 1.12 || most <= FACTOR_MIN, "{most}");
            prop_assert!(most == 1.0 || demand * least >= limit * 0.85, "{least}");
        }
    }
}
