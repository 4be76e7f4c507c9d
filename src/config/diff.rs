//! What changed between two configurations, and what it takes to put the change into force. Pure: nothing is reloaded here.
//!
//! Which change needs what is a column of the table (`config::table`); this file compares the values in force.

use std::fmt;

use super::in_force::{Given, InForce};
use super::values::Value;

/// What a change needs to take effect, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Nothing changed.
    Nothing,
    /// The running stages can apply it: open tracks and counts continue.
    Live,
    /// The camera must be closed and opened again, with its stages; its tracks end. Everything else goes on.
    RestartCamera,
    /// The process must be restarted: it concerns the memory plan, the network, files or devices that stay open.
    RestartProcess,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Nothing => "nothing changed",
            Change::Live => "takes effect at once",
            Change::RestartCamera => "restarts the camera",
            Change::RestartProcess => "needs a restart of the program",
        })
    }
}

/// The part of the program that a setting belongs to: one struct of [`super::Config`] each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The device as a whole: identity and state.
    Device,
    /// The watchdogs.
    Watchdog,
    /// One camera: its source, and all stages from the sampler to the counter.
    Camera,
    /// The network, which cameras share.
    Model,
    /// The device's own events.
    Events,
    /// Delivery.
    Uplink,
    /// The spool: keeps events until they are delivered.
    Spool,
    /// The board's pins.
    Gpio,
    /// The memory plan.
    Memory,
    /// The log.
    Log,
    /// The status pages and the resource log.
    Status,
    /// Targets of the KPI table.
    Kpi,
    /// Rules for alerts.
    Alerts,
}

/// One setting that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its path: `camera.width`, `line[1].from`.
    pub key: String,
    /// Which of several cameras it belongs to, by name.
    pub camera: Option<String>,
    /// The scope that it belongs to.
    pub scope: Scope,
    /// What it needs; never [`Change::Nothing`].
    pub needs: Change,
}

/// All settings that changed, in the order of their paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    changed: Vec<Changed>,
}

impl Difference {
    /// The strongest change that any of the settings needs.
    pub fn needs(&self) -> Change {
        self.changed.iter().map(|changed| changed.needs).max().unwrap_or(Change::Nothing)
    }

    /// Those of cameras.
    pub fn of_cameras(&self) -> impl Iterator<Item = &Changed> {
        self.changed.iter().filter(|changed| changed.scope == Scope::Camera)
    }

    /// Those that wait for the next start of the program.
    pub fn pending(&self) -> impl Iterator<Item = &Changed> {
        self.changed.iter().filter(|changed| changed.needs == Change::RestartProcess)
    }

    /// The changed settings.
    pub fn changed(&self) -> &[Changed] {
        &self.changed
    }
}

impl fmt::Display for Difference {
    /// For a log: `camera.width restarts the camera; count.frames_min takes effect at once`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changed.is_empty() {
            return write!(f, "{}", Change::Nothing);
        }
        for (index, Changed { key, camera, needs, .. }) in self.changed.iter().enumerate() {
            f.write_str(if index > 0 { "; " } else { "" })?;
            if let Some(camera) = camera {
                write!(f, "camera '{camera}': ")?;
            }
            write!(f, "{key} {needs}")?;
        }
        Ok(())
    }
}

/// What changed from `old` to `new`. Compares values, not spelling: `6` is `6.0`. A table of an array that was added or removed counts as a
/// change of each of its keys. Several cameras are compared by name, whatever their order; one that was added or removed is one change,
/// of its name.
pub fn diff(old: &InForce, new: &InForce) -> Difference {
    let mut changed = compare(old, (old.device(), new.device()), None);
    match (old.cameras(), new.cameras()) {
        ([old_camera], [new_camera]) => changed.extend(compare(old, (old_camera, new_camera), None)),
        (old_cameras, new_cameras) => {
            for camera in old_cameras {
                match new_cameras.iter().find(|other| name_of(other) == name_of(camera)) {
                    Some(same) => changed.extend(compare(old, (camera, same), Some(name_of(camera)))),
                    None => changed.push(added_or_removed(camera)),
                }
            }
            let is_new = |camera: &&Given| !old_cameras.iter().any(|other| name_of(other) == name_of(camera));
            changed.extend(new_cameras.iter().filter(is_new).map(added_or_removed));
        }
    }
    changed.sort_by(|a, b| (&a.camera, &a.key).cmp(&(&b.camera, &b.key)));
    Difference { changed }
}

fn compare(table: &InForce, (old, new): (&Given, &Given), camera: Option<&str>) -> Vec<Changed> {
    let differs = |path: &str| match (old.get(path), new.get(path)) {
        (Some((old, _)), Some((new, _))) => !same(old, new),
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    let paths = old.keys().chain(new.keys().filter(|path| !old.contains_key(*path)));
    let changed = paths.filter(|path| differs(path)).filter_map(|path| {
        let (section, setting) = table.setting(path)?;
        Some(Changed {
            key: path.clone(),
            camera: camera.map(str::to_owned),
            scope: section.scope,
            needs: setting.needs,
        })
    });
    changed.collect()
}

/// The name of a camera with these settings.
pub(super) fn name_of(camera: &Given) -> &str {
    match camera.get("camera.name") {
        Some((Value::Text(name), _)) => name,
        Some(_) | None => "",
    }
}

/// The memory plan and the network's input sizes depend on which cameras there are.
fn added_or_removed(camera: &Given) -> Changed {
    Changed {
        key: "camera.name".to_owned(),
        camera: Some(name_of(camera).to_owned()),
        scope: Scope::Camera,
        needs: Change::RestartProcess,
    }
}

/// Whether two values mean the same.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Int(int), Value::Float(float)) | (Value::Float(float), Value::Int(int)) => {
            *int as f64 == *float
        }
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::List(_), _) => a == b,
    }
}

#[cfg(test)]
mod tests;
