//! The board: temperature, CPU throttling, battery and solar panel.

use super::SECOND;
use super::scenario::{BoardScenario, Scenario};
use crate::sim::random::Random;
use crate::sim::space::sin_cos;

/// Thermal resistance from the CPU through a closed enclosure to the air, K/W.
const RESISTANCE: f32 = 6.5;
/// Thermal time constant, seconds.
const TIME_CONSTANT_S: f32 = 420.0;
/// Temperature rise from sun on the enclosure, K.
const SUN_ON_ENCLOSURE_K: f32 = 14.0;
/// Factor by which throttling slows an inference.
const THROTTLED: f32 = 1.7;
/// The battery switches off at the first charge, and on again at the second.
const OFF_AT: f32 = 0.02;
const ON_AT: f32 = 0.12;

#[derive(Debug)]
pub(super) struct Board {
    params: BoardScenario,
    temperature: f32,
    hottest: f32,
    throttled: bool,
    throttled_s: u64,
    charge_wh: f32,
    flat: bool,
    energy_wh: f64,
    /// Inference time since the last minute, nanoseconds.
    busy: u64,
    cloud: f32,
}

impl Board {
    pub(super) fn new(scenario: &Scenario, random: &mut Random) -> Self {
        let params = scenario.board;
        Board {
            params,
            temperature: params.air_c[0],
            hottest: params.air_c[0],
            throttled: false,
            throttled_s: 0,
            charge_wh: params.battery_wh * 0.7,
            flat: false,
            energy_wh: 0.0,
            busy: 0,
            cloud: random.unit(),
        }
    }

    /// Duration of an inference of `nanos` in the current state; adds it to the load.
    pub(super) fn infer(&mut self, nanos: u64) -> u64 {
        let nanos = if self.throttled { (nanos as f32 * THROTTLED) as u64 } else { nanos };
        self.busy += nanos;
        nanos
    }

    /// Advances by a minute.
    pub(super) fn minute(&mut self, hour: f32, on: bool, random: &mut Random) {
        let load = (self.busy as f32 / (60.0 * SECOND as f32)).min(1.0);
        self.busy = 0;
        let power =
            if on { self.params.idle_w + (self.params.busy_w - self.params.idle_w) * load } else { 0.0 };
        self.cloud = (self.cloud + random.normal() * 0.05).clamp(0.0, 1.0);
        let (height, _) = sin_cos((hour - 6.0) / 12.0 * std::f32::consts::PI);
        let sun = height.max(0.0) * (1.0 - 0.8 * self.cloud);
        let (warmth, _) = sin_cos((hour - 9.0) / 12.0 * std::f32::consts::PI);
        let [coldest, warmest] = self.params.air_c;
        let air = coldest + (warmest - coldest) * (0.5 + 0.5 * warmth);
        let target = air + power * RESISTANCE + sun * SUN_ON_ENCLOSURE_K;
        self.temperature += (target - self.temperature) * (60.0 / TIME_CONSTANT_S);
        self.hottest = self.hottest.max(self.temperature);
        // Hysteresis: throttling ends 5 K lower.
        let limit = self.params.throttles_c - if self.throttled { 5.0 } else { 0.0 };
        self.throttled = self.temperature > limit;
        self.throttled_s += if self.throttled { 60 } else { 0 };
        self.energy_wh += f64::from(power) / 60.0;
        if self.params.battery_wh > 0.0 {
            let gain = (self.params.panel_w * sun - power) / 60.0;
            self.charge_wh = (self.charge_wh + gain).clamp(0.0, self.params.battery_wh);
            let limit = if self.flat { ON_AT } else { OFF_AT };
            self.flat = self.charge_wh < self.params.battery_wh * limit;
        }
    }

    pub(super) fn has_power(&self) -> bool {
        !self.flat
    }

    pub(super) fn charge_full(&mut self) {
        (self.charge_wh, self.flat) = (self.params.battery_wh, false);
    }

    pub(super) fn energy_wh(&self) -> f64 {
        self.energy_wh
    }

    pub(super) fn hottest_c(&self) -> f32 {
        self.hottest
    }

    pub(super) fn throttled_s(&self) -> u64 {
        self.throttled_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(params: BoardScenario, busy: f32) -> Board {
        let scenario = Scenario { board: params, ..Scenario::default() };
        let mut random = Random::new(1);
        let mut board = Board::new(&scenario, &mut random);
        for minute in 0..1440 {
            board.busy = (busy * 60.0 * SECOND as f32) as u64;
            let on = board.has_power();
            board.minute(minute as f32 / 60.0, on, &mut random);
        }
        board
    }

    #[test]
    fn load_and_sun_heat_the_board_and_heat_throttles_it() {
        let usual = BoardScenario::default();
        let (idle, busy) = (day(usual, 0.0), day(usual, 1.0));
        assert!(busy.hottest_c() > idle.hottest_c() + 15.0);
        assert_eq!(idle.throttled_s(), 0);
        let hot = day(BoardScenario { air_c: [25.0, 42.0], ..usual }, 1.0);
        assert!(hot.throttled_s() > 3600 && hot.hottest_c() > 80.0);
        assert!((idle.energy_wh() - 72.0).abs() < 0.5, "{}", idle.energy_wh());
    }

    #[test]
    fn a_battery_without_sun_runs_flat_and_recovers_with_sun() {
        let dark = BoardScenario { battery_wh: 60.0, panel_w: 0.0, ..BoardScenario::default() };
        let board = day(dark, 0.0);
        assert!(!board.has_power());
        // 0.7 of 60 Wh down to 0.02, at 3 W.
        assert!((board.energy_wh() - 40.8).abs() < 1.0, "{}", board.energy_wh());
        assert!(day(BoardScenario { battery_wh: 60.0, panel_w: 100.0, ..dark }, 0.0).has_power());
    }
}
