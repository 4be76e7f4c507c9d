//! When the pins switch: the blink pattern of the status LED, and when the light is on. Pure.
//!
//! ```text
//!   well       ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁█     one flash in 3 s: alive, at little power
//!   degraded   █████▁▁▁▁▁█████▁▁▁▁▁█████▁▁▁▁▁     half on, half off, once a second
//!   no camera  █▁▁█▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁     two flashes
//!   no link    █▁▁█▁▁█▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁     three flashes
//! ```

use std::time::Duration;

use crate::platform::clock::Mono;

/// The LED shows "no camera" after this long without a frame.
const CAMERA_SILENT: Duration = Duration::from_secs(10);
/// The LED shows "no link" after this long without a delivery: longer than a batch takes to fill.
const LINK_SILENT: Duration = Duration::from_secs(120);

/// Period of a blink pattern, and its step.
const PERIOD_MS: u64 = 3000;
const STEP_MS: u64 = 100;

/// The device's condition, as the LED shows it to somebody below the mast. [`condition`] picks the most serious one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Frames come, events leave.
    Well,
    /// It counts, but loses some data, or an alert holds.
    Degraded,
    /// No frames.
    NoCamera,
    /// Events wait, and no receiver takes them.
    NoLink,
}

/// What the condition is derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// Since the last good frame, or since the start.
    pub frame_age: Duration,
    /// Since the last delivery, or since the start.
    pub delivery_age: Duration,
    /// The last send failed.
    pub sends_fail: bool,
    /// Something was dropped or damaged in the last minute, or an alert holds.
    pub loses: bool,
}

/// The most serious condition: without a camera nothing is counted; without a link counts are kept.
pub fn condition(health: &Health) -> Condition {
    if health.frame_age >= CAMERA_SILENT {
        Condition::NoCamera
    } else if health.sends_fail && health.delivery_age >= LINK_SILENT {
        Condition::NoLink
    } else if health.loses {
        Condition::Degraded
    } else {
        Condition::Well
    }
}

/// Whether the LED is on at `now`.
pub fn lit(condition: Condition, now: Mono) -> bool {
    let step = now.as_nanos() / 1_000_000 % PERIOD_MS / STEP_MS;
    match condition {
        Condition::Well => step == 29,
        Condition::Degraded => step % 10 < 5,
        Condition::NoCamera => matches!(step, 0 | 3),
        Condition::NoLink => matches!(step, 0 | 3 | 6),
    }
}

/// When the light is on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LightParams {
    /// How long it stays on after the last motion, 1 s to 1 h.
    pub hold: Duration,
    /// Mean brightness of the picture, code values 0 to 255, below which it is dark.
    pub dark_below: u8,
}

impl Default for LightParams {
    /// 30 s; 60, a street under lamps.
    fn default() -> Self {
        LightParams { hold: Duration::from_secs(30), dark_below: 60 }
    }
}

/// The light: switches on when something moves in the dark, and stays on while motion continues, however bright the light itself makes the
/// picture.
#[derive(Debug)]
pub struct Light {
    params: LightParams,
    on: bool,
}

impl Light {
    /// Off.
    pub fn new(params: LightParams) -> Self {
        Light { params, on: false }
    }

    /// Other settings from the next decision on.
    pub fn set(&mut self, params: LightParams) {
        self.params = params;
    }

    /// Whether it is on now. `moved`: time of the last motion; `brightness`: of the last picture, if there was one.
    pub fn decide(&mut self, now: Mono, moved: Option<Mono>, brightness: Option<u8>) -> bool {
        let moves = moved.is_some_and(|at| now.since(at) < self.params.hold);
        let dark = brightness.is_some_and(|value| value < self.params.dark_below);
        self.on = moves && (self.on || dark);
        self.on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono::from_nanos(millis * 1_000_000)
    }

    /// On and off in 100 ms steps over a period.
    fn pattern(condition: Condition) -> String {
        (0..30).map(|step| if lit(condition, at(90_000 + step * 100 + 50)) { '#' } else { '.' }).collect()
    }

    #[test]
    fn each_condition_has_its_own_pattern() {
        assert_eq!(pattern(Condition::Well), ".............................#");
        assert_eq!(pattern(Condition::Degraded), "#####.....#####.....#####.....");
        assert_eq!(pattern(Condition::NoCamera), "#..#..........................");
        assert_eq!(pattern(Condition::NoLink), "#..#..#.......................");
    }

    #[test]
    fn the_most_serious_condition_is_shown() {
        let seconds = Duration::from_secs;
        let well = Health { frame_age: seconds(1), delivery_age: seconds(500), ..Health::default() };
        assert_eq!(condition(&well), Condition::Well, "nothing to deliver is not a failure");
        assert_eq!(condition(&Health { loses: true, ..well }), Condition::Degraded);
        let offline = Health { sends_fail: true, loses: true, ..well };
        assert_eq!(condition(&offline), Condition::NoLink);
        assert_eq!(condition(&Health { delivery_age: seconds(60), ..offline }), Condition::Degraded);
        assert_eq!(condition(&Health { frame_age: seconds(10), ..offline }), Condition::NoCamera);
    }

    #[test]
    fn the_light_does_not_switch_itself_off() {
        let mut light = Light::new(LightParams { hold: Duration::from_secs(2), dark_below: 60 });
        for (now, moved, brightness, on) in [
            (0, None, None, false),
            (1000, Some(1000), None, false), // no picture, no night
            (1000, Some(1000), Some(60), false),
            (2000, Some(1000), Some(59), true),
            (2500, Some(1000), Some(200), true), // its own light
            (2999, Some(1000), Some(200), true),
            (3000, Some(1000), Some(200), false),
            (3100, Some(3100), Some(200), false), // the day
            (3200, Some(3100), Some(10), true),
        ] {
            assert_eq!(light.decide(at(now), moved.map(at), brightness), on, "{now}");
        }
    }
}
