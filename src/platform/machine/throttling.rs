//! What the firmware of a Raspberry Pi says about its power supply and heat.
//!
//! Two sources of the kernel: the attribute `get_throttled` of the firmware driver (Raspberry Pi's own kernel), with all flags, and the
//! alarm of the hwmon driver `rpi_volt` (every kernel), with under-voltage alone. Where both exist the flags are taken from the first.
//!
//! Raspberry Pi's kernel logs one warning when the attribute is read first, which names hwmon as its successor; hwmon has no other flag yet.
//! The meaning of the bits: <https://www.raspberrypi.com/documentation/computers/os.html#get_throttled>. While `rpi_volt` is loaded it
//! clears the firmware's "under-voltage has occurred" every two seconds to see when it ends; both sources then say "since the last look".

use std::fs;
use std::path::{Path, PathBuf};

use super::sources::{Source, hwmon_devices};

/// Flags of the firmware. `None`: this machine does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttling {
    /// The supply is below 4.63 V (± 5 %): too weak, or its cable too long.
    pub under_voltage: Option<bool>,
    /// The clock is limited.
    pub frequency_capped: Option<bool>,
    /// The clock is lowered for heat or under-voltage.
    pub throttled: Option<bool>,
    /// The soft limit of temperature is reached: the clock is lowered a little.
    pub soft_temperature_limit: Option<bool>,
    /// `under_voltage` was true before.
    pub under_voltage_occurred: Option<bool>,
    /// `frequency_capped` was true since boot.
    pub frequency_capped_occurred: Option<bool>,
    /// `throttled` was true since boot.
    pub throttled_occurred: Option<bool>,
    /// `soft_temperature_limit` was true since boot.
    pub soft_temperature_limit_occurred: Option<bool>,
}

impl Throttling {
    /// From the firmware's word.
    pub fn from_bits(bits: u32) -> Self {
        let bit = |number: u32| Some(bits & 1 << number != 0);
        Throttling {
            under_voltage: bit(0),
            frequency_capped: bit(1),
            throttled: bit(2),
            soft_temperature_limit: bit(3),
            under_voltage_occurred: bit(16),
            frequency_capped_occurred: bit(17),
            throttled_occurred: bit(18),
            soft_temperature_limit_occurred: bit(19),
        }
    }

    /// Each flag with its name, as it is in labels and columns.
    pub const fn flags(&self) -> [(&'static str, Option<bool>); 8] {
        [
            ("under_voltage", self.under_voltage),
            ("frequency_capped", self.frequency_capped),
            ("throttled", self.throttled),
            ("soft_temperature_limit", self.soft_temperature_limit),
            ("under_voltage_occurred", self.under_voltage_occurred),
            ("frequency_capped_occurred", self.frequency_capped_occurred),
            ("throttled_occurred", self.throttled_occurred),
            ("soft_temperature_limit_occurred", self.soft_temperature_limit_occurred),
        ]
    }
}

/// Reads the flags.
#[derive(Debug)]
pub(super) struct Reader {
    firmware: Option<Source>,
    alarm: Option<Source>,
}

impl Reader {
    pub(super) fn open(root: &Path) -> Self {
        let alarm = hwmon_devices(root, |name| name == "rpi_volt").next();
        Reader {
            firmware: firmware_attribute(root).map(Source::new),
            alarm: alarm.map(|device| Source::new(device.join("in0_lcrit_alarm"))),
        }
    }

    pub(super) fn read(&mut self) -> Option<Throttling> {
        let bits = |text: &str| {
            let text = text.trim();
            u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
        };
        if let Some(bits) = self.firmware.as_mut().and_then(|firmware| firmware.read(bits)) {
            return Some(Throttling::from_bits(bits));
        }
        let alarm = self.alarm.as_mut()?.read(|text| match text.trim() {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        })?;
        Some(Throttling { under_voltage: Some(alarm), ..Throttling::default() })
    }
}

/// The attribute of the firmware driver. The device's name differs between boards: `soc:firmware`, `soc@107c000000:firmware`.
fn firmware_attribute(root: &Path) -> Option<PathBuf> {
    let known = root.join("sys/devices/platform/soc/soc:firmware/get_throttled");
    if known.exists() {
        return Some(known);
    }
    let devices = fs::read_dir(root.join("sys/bus/platform/drivers/raspberrypi-firmware")).ok()?;
    let attributes = devices.filter_map(|device| Some(device.ok()?.path().join("get_throttled")));
    attributes.into_iter().find(|attribute| attribute.exists())
}
