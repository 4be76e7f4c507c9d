//! The values in force, for display and comparison. Passwords in them are masked (I10).

use std::collections::BTreeMap;

use super::diff::{self, Changed, Difference};
use super::table::{Secret, Section, Setting};
use super::values::{Value, find};
use crate::capture::command;
use crate::delivery::uplink::http::redacted;

/// Values by path, each with whether the user set it.
pub(super) type Given = BTreeMap<String, (Value, bool)>;

/// Every setting with its value, checked.
#[derive(Debug, Clone)]
pub struct InForce {
    sections: &'static [Section],
    /// The settings of the device.
    device: Given,
    /// The settings of each camera, by the paths that they would have if it were the only one: `camera.name`, `gate.enabled`.
    cameras: Vec<Given>,
}

impl InForce {
    pub(super) fn new(sections: &'static [Section], device: Given, cameras: Vec<Given>) -> Self {
        InForce { sections, device, cameras }
    }

    /// Every setting as `key = value`, passwords masked.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.shown(|_| true)
    }

    /// The settings that the user set, likewise.
    pub fn given(&self) -> impl Iterator<Item = String> {
        self.shown(|given| given)
    }

    /// The settings of which `wanted` is true, by path; those of several cameras last.
    fn shown(&self, wanted: impl Fn(bool) -> bool) -> impl Iterator<Item = String> {
        let line = |(path, (value, given)): (&String, &(Value, bool)), camera: Option<usize>| {
            let shown = match camera {
                Some(index) => format!("camera[{index}].{}", path.strip_prefix("camera.").unwrap_or(path)),
                None => path.clone(),
            };
            wanted(*given).then(|| format!("{shown} = {}", self.value_text(path, value)))
        };
        let lines: Vec<String> = match &self.cameras[..] {
            [only] => {
                let all: BTreeMap<_, _> = self.device.iter().chain(only).collect();
                all.into_iter().filter_map(|entry| line(entry, None)).collect()
            }
            several => {
                let device = self.device.iter().filter_map(|entry| line(entry, None));
                let of_camera = |(index, camera): (usize, &Given)| -> Vec<String> {
                    camera.iter().filter_map(|entry| line(entry, Some(index))).collect()
                };
                device.chain(several.iter().enumerate().flat_map(of_camera)).collect()
            }
        };
        lines.into_iter()
    }

    fn value_text(&self, path: &str, value: &Value) -> String {
        let secret = self.setting(path).map_or(Secret::Nothing, |(_, setting)| setting.secret);
        masked(secret, value)
    }

    /// What changed to `new`, and what it takes to put it into force.
    pub fn diff(&self, new: &InForce) -> Difference {
        diff::diff(self, new)
    }

    /// These settings, but with the value of `old` for each setting in `pending`.
    #[must_use]
    pub fn without<'a>(&self, old: &InForce, pending: impl Iterator<Item = &'a Changed>) -> Self {
        let mut kept = self.clone();
        for Changed { key, camera, .. } in pending {
            match camera {
                // A camera was added or removed: the others have their new settings.
                Some(_) => {
                    let now = |before: &Given| {
                        let same = |other: &&Given| diff::name_of(other) == diff::name_of(before);
                        self.cameras.iter().find(same).unwrap_or(before).clone()
                    };
                    kept.cameras = old.cameras.iter().map(now).collect();
                }
                None => {
                    let (values, before) = match self.setting(key).map(|(section, _)| section.is_of_cameras())
                    {
                        Some(true) => (&mut kept.cameras[0], &old.cameras[0]),
                        Some(false) | None => (&mut kept.device, &old.device),
                    };
                    match before.get(key) {
                        Some(before) => values.insert(key.clone(), before.clone()),
                        None => values.remove(key),
                    };
                }
            }
        }
        kept
    }

    /// The settings of the device.
    pub(super) const fn device(&self) -> &Given {
        &self.device
    }

    /// The settings of each camera.
    pub(super) fn cameras(&self) -> &[Given] {
        &self.cameras
    }

    /// The table's entry for `path`.
    pub(super) fn setting(&self, path: &str) -> Option<(&'static Section, &'static Setting)> {
        find(self.sections, path)
    }
}

/// A value in TOML notation, without its passwords.
pub(super) fn masked(secret: Secret, value: &Value) -> String {
    match (secret, value) {
        (Secret::InCommand, Value::Text(text)) => Value::Text(command::masked(text).into_owned()).to_string(),
        (Secret::InUrl, Value::Text(text)) => Value::Text(redacted(text)).to_string(),
        (Secret::InCommand | Secret::InUrl, Value::List(list)) => {
            let items: Vec<String> = list.iter().map(|item| masked(secret, item)).collect();
            format!("[{}]", items.join(", "))
        }
        (Secret::Nothing, _) | (_, Value::Bool(_) | Value::Int(_) | Value::Float(_)) => value.to_string(),
    }
}
