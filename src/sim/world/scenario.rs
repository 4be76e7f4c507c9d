//! The scenario of a world: rates of all faults, from a file or by default.

use serde::{Deserialize, Serialize};

use super::SECOND;
use crate::base::error::{Error, Kind, Result};
use crate::sim::disk::FaultModes;

/// A world's settings. A file contains only the differences from the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Frames per second of the camera, 1..=60.
    pub camera_fps: f32,
    /// Frames per second that are processed, 0.1..=60.
    pub fps: f32,
    /// Size of its frames, pixels.
    pub size: [u32; 2],
    /// Traffic density; 1 is normal. The hour of the day scales it further.
    pub traffic: f32,
    /// Hour at which the world begins, 0..24.
    pub begins_at: f32,
    /// Frames are rendered and a network runs on them, instead of a detector that knows the truth; much slower. Time of day and weather of
    /// the pictures come from the seed and stay the same; traffic follows the clock.
    pub rendered: bool,
    /// The simulated detector, used when frames are not rendered.
    pub detector: Detector,
    /// The camera.
    pub camera: Camera,
    /// The disk.
    pub disk: DiskScenario,
    /// The link and the receiver.
    pub link: Link,
    /// The clocks.
    pub clock: ClockScenario,
    /// The board and its power.
    pub board: BoardScenario,
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            camera_fps: 10.0,
            fps: 5.0,
            size: [640, 360],
            traffic: 1.0,
            begins_at: 0.0,
            rendered: false,
            detector: Detector::default(),
            camera: Camera::default(),
            disk: DiskScenario::default(),
            link: Link::default(),
            clock: ClockScenario::default(),
            board: BoardScenario::default(),
        }
    }
}

/// A detector that knows the truth and makes errors at given rates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Detector {
    /// Share of road users that it misses in a frame.
    pub misses: f32,
    /// False detections per frame.
    pub false_alarms: f32,
    /// Share of road users whose class it mistakes for a similar one.
    pub confusions: f32,
    /// Standard deviation of a box's sides, as a fraction of its size.
    pub jitter: f32,
    /// Time of an inference, milliseconds.
    pub latency_ms: f32,
}

impl Default for Detector {
    fn default() -> Self {
        Detector { misses: 0.04, false_alarms: 0.004, confusions: 0.03, jitter: 0.02, latency_ms: 90.0 }
    }
}

/// Faults of the camera.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Camera {
    /// Share of frames that it loses.
    pub drop_share: f32,
    /// Times per day that it delivers nothing for some seconds.
    pub stalls: f32,
    /// Times per day that its frames are corrupt for some seconds.
    pub corrupt: f32,
    /// Times per day that it is unplugged, for some minutes each.
    pub unplugged: f32,
}

impl Default for Camera {
    fn default() -> Self {
        Camera { drop_share: 0.002, stalls: 6.0, corrupt: 4.0, unplugged: 1.0 }
    }
}

/// Faults of the disk and the power supply.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskScenario {
    /// Power cuts per day.
    pub power_cuts: f32,
    /// Crashes of the program per day.
    pub crashes: f32,
    /// Times per day that it is full, for half an hour or so.
    pub full: f32,
    /// Times per day that it loses contact, for some minutes.
    pub away: f32,
    /// On average one in this many writes and syncs fails; 0: none.
    pub error_one_in: u64,
    /// The spool's quota, bytes.
    pub quota_bytes: u64,
}

impl Default for DiskScenario {
    fn default() -> Self {
        DiskScenario {
            power_cuts: 3.0,
            crashes: 1.0,
            full: 1.0,
            away: 1.0,
            error_one_in: 5000,
            quota_bytes: 16 << 20,
        }
    }
}

/// Faults between the device and its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// Outages of the link per day.
    pub outages: f32,
    /// Mean duration of an outage, seconds.
    pub outage_mean_s: f32,
    /// Times per day that the receiver enters a fault mode.
    #[serde(alias = "moods")]
    pub receiver_faults: f32,
    /// Mean duration of a fault mode, seconds.
    #[serde(alias = "mood_mean_s")]
    pub receiver_fault_mean_s: f32,
}

impl Default for Link {
    fn default() -> Self {
        Link { outages: 6.0, outage_mean_s: 2400.0, receiver_faults: 24.0, receiver_fault_mean_s: 600.0 }
    }
}

/// Faults of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockScenario {
    /// Times per day that the clock is set wrong by hours or years.
    pub steps: f32,
    /// Times per day that the time server is unreachable.
    pub lost: f32,
}

impl Default for ClockScenario {
    fn default() -> Self {
        ClockScenario { steps: 1.0, lost: 1.0 }
    }
}

/// The board, its enclosure and its battery.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BoardScenario {
    /// Power when idle, W.
    pub idle_w: f32,
    /// Power during inference, W.
    pub busy_w: f32,
    /// Battery, Wh; 0: mains.
    pub battery_wh: f32,
    /// Peak power of the solar panel, W.
    pub panel_w: f32,
    /// Lowest and highest air temperature of a day, °C.
    pub air_c: [f32; 2],
    /// The CPU is throttled above this, °C.
    pub throttles_c: f32,
}

impl Default for BoardScenario {
    /// A Raspberry Pi 5 draws 3 to 9 W (measured by many; the datasheet gives no figure); it slows down at 80 °C and more at
    /// 85 °C (Raspberry Pi documentation, "Frequency management and thermal control").
    fn default() -> Self {
        BoardScenario {
            idle_w: 3.0,
            busy_w: 7.0,
            battery_wh: 120.0,
            panel_w: 50.0,
            air_c: [12.0, 31.0],
            throttles_c: 80.0,
        }
    }
}

impl Scenario {
    /// No faults, a perfect detector, mains power.
    pub fn perfect() -> Self {
        Scenario {
            detector: Detector {
                misses: 0.0,
                false_alarms: 0.0,
                confusions: 0.0,
                jitter: 0.0,
                latency_ms: 90.0,
            },
            camera: Camera { drop_share: 0.0, stalls: 0.0, corrupt: 0.0, unplugged: 0.0 },
            disk: DiskScenario {
                power_cuts: 0.0,
                crashes: 0.0,
                full: 0.0,
                away: 0.0,
                error_one_in: 0,
                ..DiskScenario::default()
            },
            link: Link { outages: 0.0, receiver_faults: 0.0, ..Link::default() },
            clock: ClockScenario { steps: 0.0, lost: 0.0 },
            board: BoardScenario { battery_wh: 0.0, ..BoardScenario::default() },
            ..Scenario::default()
        }
    }

    /// Parses a file's text; errors name it `place`.
    ///
    /// # Errors
    /// `Kind::Config`: not TOML, an unknown key, a value out of range.
    pub fn from_toml(text: &str, place: &str) -> Result<Self> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            Error::fatal(Kind::Config, format!("{place}:{line}: {}", error.message().replace('\n', " ")))
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The complete scenario as a file.
    ///
    /// # Panics
    /// Never: it is tables of numbers.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("tables of numbers")
    }

    /// Checks all settings.
    ///
    /// # Errors
    /// `Kind::Config` with name, value and range of the first invalid setting.
    pub fn check(&self) -> Result<()> {
        let Scenario { detector, camera, disk, link, clock, board, .. } = self;
        let rates = 0.0..=1000.0;
        for (name, value, range) in [
            ("camera_fps", self.camera_fps, 1.0..=60.0),
            ("fps", self.fps, 0.1..=60.0),
            ("traffic", self.traffic, 0.0..=5.0),
            ("begins_at", self.begins_at, 0.0..=24.0),
            ("detector.misses", detector.misses, 0.0..=1.0),
            ("detector.false_alarms", detector.false_alarms, 0.0..=50.0),
            ("detector.confusions", detector.confusions, 0.0..=1.0),
            ("detector.jitter", detector.jitter, 0.0..=0.5),
            ("detector.latency_ms", detector.latency_ms, 0.0..=60_000.0),
            ("camera.drop_share", camera.drop_share, 0.0..=1.0),
            ("camera.stalls", camera.stalls, rates.clone()),
            ("camera.corrupt", camera.corrupt, rates.clone()),
            ("camera.unplugged", camera.unplugged, rates.clone()),
            ("disk.power_cuts", disk.power_cuts, rates.clone()),
            ("disk.crashes", disk.crashes, rates.clone()),
            ("disk.full", disk.full, rates.clone()),
            ("disk.away", disk.away, rates.clone()),
            ("link.outages", link.outages, rates.clone()),
            ("link.outage_mean_s", link.outage_mean_s, 1.0..=1e6),
            ("link.receiver_faults", link.receiver_faults, rates.clone()),
            ("link.receiver_fault_mean_s", link.receiver_fault_mean_s, 1.0..=1e6),
            ("clock.steps", clock.steps, rates.clone()),
            ("clock.lost", clock.lost, rates),
            ("board.idle_w", board.idle_w, 0.0..=1000.0),
            ("board.busy_w", board.busy_w, 0.0..=1000.0),
            ("board.battery_wh", board.battery_wh, 0.0..=1e5),
            ("board.panel_w", board.panel_w, 0.0..=1e5),
            ("board.air_c, the coldest", board.air_c[0], -60.0..=board.air_c[1].min(60.0)),
            ("board.air_c, the hottest", board.air_c[1], -60.0..=60.0),
            ("board.throttles_c", board.throttles_c, 0.0..=150.0),
        ] {
            if !range.contains(&value) {
                let text =
                    format!("scenario: {name} is {value}, allowed is {} to {}", range.start(), range.end());
                return Err(Error::fatal(Kind::Config, text));
            }
        }
        let quotas = 1 << 20..=1 << 30;
        if !quotas.contains(&disk.quota_bytes) {
            let text = format!(
                "scenario: disk.quota_bytes is {}, allowed is {} to {}",
                disk.quota_bytes,
                quotas.start(),
                quotas.end()
            );
            return Err(Error::fatal(Kind::Config, text));
        }
        Ok(())
    }

    /// Nanoseconds between two frames of the camera.
    pub(super) fn frame_period(&self) -> u64 {
        (SECOND as f64 / f64::from(self.camera_fps)) as u64
    }

    /// The disk's fault modes, while it is full or not.
    pub(super) fn disk_fault_modes(&self, full: bool) -> FaultModes {
        FaultModes { error: self.disk.error_one_in, full: u64::from(full), ..FaultModes::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_differences_only_and_unknown_keys_are_errors() {
        let scenario = Scenario::from_toml("fps = 2\n[link]\noutages = 1", "a.toml").unwrap();
        assert_eq!((scenario.fps, scenario.link.outages), (2.0, 1.0));
        assert_eq!(scenario.camera, Camera::default());
        assert_eq!(Scenario::from_toml(&scenario.to_toml(), "b.toml").unwrap(), scenario);
        for (text, words) in [
            ("fps = 2\n[link]\noutage = 1", "a.toml:3: unknown field `outage`"),
            ("fps = 0", "fps is 0"),
            ("[board]\nair_c = [30, 20]", "air_c, the coldest is 30, allowed is -60 to 20"),
            ("[board]\nair_c = [30, nan]", "air_c"),
            ("[disk]\nquota_bytes = 5", "quota_bytes is 5"),
            ("fps =", "a.toml:1:"),
        ] {
            let error = Scenario::from_toml(text, "a.toml").unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
