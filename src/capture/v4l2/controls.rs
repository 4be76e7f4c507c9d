//! V4L2 controls (exposure, power-line frequency, …): matches the user's settings with the driver's offers. Pure.

use std::fmt;

/// A control that the driver offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The driver's number for it.
    pub(super) id: u32,
    /// Its name in settings: `power_line_frequency`.
    pub name: String,
    /// Its values.
    pub range: Range,
    /// The driver's default.
    pub default: i64,
    /// The current value; `None` if it cannot be read.
    pub value: Option<i64>,
    /// Whether it can be set at all.
    pub writable: bool,
    /// It has no effect at the moment, because another control (an automatic one) governs it.
    pub inactive: bool,
}

/// The values of a control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// On or off.
    Switch,
    /// A number from `min` to `max` in steps.
    Number {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
        /// Step.
        step: i64,
    },
    /// A menu: number and name of each entry.
    Menu(Vec<(i64, String)>),
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::Switch => f.write_str("on or off"),
            Range::Number { min, max, step: 1 } => write!(f, "{min} to {max}"),
            Range::Number { min, max, step } => write!(f, "{min} to {max} in steps of {step}"),
            Range::Menu(items) => {
                let items: Vec<String> =
                    items.iter().map(|(number, name)| format!("{number} {name}")).collect();
                f.write_str(&items.join(", "))
            }
        }
    }
}

/// A setting of a control: `exposure_time_absolute = 200`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The control's name, as [`Control::name`].
    pub name: String,
    /// A number, a menu entry's name, on or off.
    pub value: String,
}

impl Setting {
    /// Parses `NAME = VALUE`.
    ///
    /// # Errors
    /// The expected form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let (name, value) = (key(name), value.trim().to_owned());
        if name.is_empty() || value.is_empty() {
            return Err(format!("'{text}' must be NAME = VALUE, as `flytrap cameras` lists them"));
        }
        Ok(Setting { name, value })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.value)
    }
}

/// A driver's name in settings notation: lower-case letters and digits, everything else becomes one `_`.
pub(super) fn key(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_ascii_lowercase()
}

/// The control that `setting` names, and the number to set it to.
///
/// # Errors
/// What is wrong with it, and the available values.
pub(super) fn resolve<'c>(controls: &'c [Control], setting: &Setting) -> Result<(&'c Control, i64), String> {
    let Some(control) = controls.iter().find(|control| control.name == setting.name) else {
        let names: Vec<&str> = controls.iter().map(|control| control.name.as_str()).collect();
        let names = if names.is_empty() { "no controls at all".to_owned() } else { names.join(", ") };
        return Err(format!("camera.controls: it has no {}, only {names}", setting.name));
    };
    if !control.writable {
        return Err(format!("camera.controls: {} can only be read", setting.name));
    }
    let number = setting.value.parse::<i64>().ok();
    let value = match &control.range {
        Range::Switch => match setting.value.to_ascii_lowercase().as_str() {
            "on" | "true" | "1" => Some(1),
            "off" | "false" | "0" => Some(0),
            _ => None,
        },
        Range::Number { min, max, step } => {
            number.filter(|n| (min..=max).contains(&n) && (n - min) % (*step).max(1) == 0)
        }
        Range::Menu(items) => {
            let named = |item: &&(i64, String)| Some(item.0) == number || key(&item.1) == key(&setting.value);
            items.iter().find(named).map(|item| item.0)
        }
    };
    let value = value.ok_or_else(|| format!("camera.controls: {setting}: must be {}", control.range))?;
    Ok((control, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn control(name: &str, range: Range, writable: bool) -> Control {
        let (id, name) = (7, name.to_owned());
        Control { id, name, range, default: 0, value: None, writable, inactive: false }
    }

    fn controls() -> Vec<Control> {
        let hertz = [(0, "Disabled"), (1, "50 Hz"), (2, "60 Hz")].map(|(n, name)| (n, name.to_owned()));
        vec![
            control("power_line_frequency", Range::Menu(hertz.to_vec()), true),
            control("exposure_time_absolute", Range::Number { min: 3, max: 2047, step: 2 }, true),
            control("focus_automatic", Range::Switch, true),
            control("temperature", Range::Number { min: 0, max: 9, step: 1 }, false),
        ]
    }

    fn value(text: &str) -> Result<i64, String> {
        let controls = controls();
        resolve(&controls, &Setting::parse(text)?).map(|(_, value)| value)
    }

    #[test]
    fn setting_names_become_numbers() {
        for (text, expected) in [
            ("power_line_frequency = 50 Hz", 1),
            ("Power Line Frequency=60hz", -1),
            ("power_line_frequency=2", 2),
            ("exposure_time_absolute = 2047", 2047),
            ("focus_automatic = off", 0),
            ("Focus, Automatic = TRUE", 1),
        ] {
            // "60hz" differs from "60 Hz".
            assert_eq!(value(text).unwrap_or(-1), expected, "{text}");
        }
    }

    #[test]
    fn refused_settings_list_the_available_values() {
        for (text, words) in [
            ("exposure = 1", "has no exposure, only power_line_frequency, exposure_time_absolute"),
            ("power_line_frequency = 55", "must be 0 Disabled, 1 50 Hz, 2 60 Hz"),
            ("exposure_time_absolute = 4", "must be 3 to 2047 in steps of 2"),
            ("exposure_time_absolute = 1", "3 to 2047"),
            ("exposure_time_absolute = 99999999999999999999", "3 to 2047"),
            ("focus_automatic = 2", "on or off"),
            ("temperature = 3", "can only be read"),
            ("temperature", "NAME = VALUE"),
            ("= 3", "NAME = VALUE"),
        ] {
            let why = value(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    proptest! {
        /// Whatever range the driver reports (even a broken one), the value that is set lies in it.
        #[test]
        fn numbers_stay_in_range(min in any::<i32>(), max in any::<i32>(), step in any::<i32>(), request in any::<i32>()) {
            let range = Range::Number { min: min.into(), max: max.into(), step: step.into() };
            let controls = [control("x", range, true)];
            let setting = Setting { name: "x".into(), value: request.to_string() };
            if let Ok((_, value)) = resolve(&controls, &setting) {
                prop_assert!(value == i64::from(request) && value >= min.into() && value <= max.into());
            }
        }
    }
}
