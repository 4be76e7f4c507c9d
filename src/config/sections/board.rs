//! The device and its board: identity, watchdogs, pins, memory, log.

use super::{name, path, seconds};
use crate::config::scopes::{Device, Log, Memory};
use crate::config::values::Values;
use crate::platform::gpio::chip::Chip;
use crate::platform::gpio::signals::LightParams;
use crate::platform::gpio::{Pin, PinParams};
use crate::platform::watchdog;

/// Levels of the log.
pub(in crate::config) const LEVELS: [(&str, &str); 5] =
    [("info", "info"), ("off", "off"), ("error", "error"), ("warn", "warn"), ("debug", "debug")];

pub(in crate::config) fn device(values: &mut Values) -> Device {
    Device { name: name(values, "device.name"), state_folder: path(values, "device.state_folder") }
}

pub(in crate::config) fn watchdog(values: &Values) -> watchdog::Params {
    watchdog::Params {
        device: path(values, "watchdog.device"),
        timeout: seconds(values.int("watchdog.timeout_s")),
        stage_timeout: seconds(values.int("watchdog.stage_timeout_s")),
    }
}

pub(in crate::config) fn pins(values: &mut Values) -> PinParams {
    let inverted = values.texts("gpio.inverted");
    let known = ["status_led", "motion_sensor", "light"];
    if let Some(other) = inverted.iter().find(|name| !known.contains(&name.as_str())) {
        values.mistake("gpio.inverted", format_args!("'{other}' must be one of {}", known.join(", ")));
    }
    let pin = |name: &str| {
        let number = values.int(&format!("gpio.{name}"));
        u8::try_from(number).ok().map(|number| Pin { number, inverted: inverted.iter().any(|n| n == name) })
    };
    let (status_led, motion_sensor, light) = (pin(known[0]), pin(known[1]), pin(known[2]));
    let mut used: Vec<u8> =
        [status_led, motion_sensor, light].iter().flatten().map(|pin| pin.number).collect();
    used.sort_unstable();
    if used.windows(2).any(|pair| pair[0] == pair[1]) {
        values.mistake_without_value("gpio.status_led", "each pin can do one thing only");
    }
    let chip = Chip::parse(values.text("gpio.chip")).unwrap_or_else(|why| {
        values.mistake("gpio.chip", why);
        Chip::Auto
    });
    let lighting = LightParams {
        hold: seconds(values.int("gpio.light_hold_s")),
        dark_below: values.int("gpio.light_dark_below") as u8,
    };
    PinParams { chip, status_led, motion_sensor, light, lighting }
}

pub(in crate::config) fn memory(values: &Values) -> Memory {
    let bytes = |key| (values.int(key) as usize) << 20;
    Memory { budget: bytes("memory.budget_mb"), ring: bytes("memory.ring_mb") }
}

pub(in crate::config) fn log(values: &Values) -> Log {
    Log { level: values.choice("log.level", &LEVELS), json: values.bool("log.json") }
}
