//! Turns the user's file into settings for every stage. The only place that knows keys.
//!
//! ```text
//!        table/: key, type, range, unit, default, comment, what a change needs
//!          │ defaults                                └─► defaults.toml (for people; a test keeps both the same)
//!          ▼
//!        Values ◄─ flytrap.toml (parse.rs) ◄─ command line        values.rs: what was written, and where
//!          │ check.rs: ranges
//!          │ sections/: what ranges cannot say; all mistakes at once
//!          ▼
//!        Config: one struct a scope (scopes.rs), of `Params` for each stage;
//!                and the values in force (in_force.rs), which diff.rs compares
//! ```
//! Reads the user's file and nothing else: "automatic" values come from the [`Machine`] that the caller passes in.

mod check;
pub mod diff;
pub mod in_force;
mod parse;
pub mod scopes;
mod sections;
mod table;
pub mod values;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::base::error::{Error, Kind};
use crate::base::limits::CONFIG_BYTES_MAX;
use crate::delivery::uplink::labels::Labels;
use crate::metrics::alert::Rule;
use crate::metrics::kpi::Targets;
use crate::platform::cores::Machine;
use crate::platform::gpio::PinParams;
use crate::platform::watchdog;
use crate::vision::detect::model;
use crate::vision::load;
use diff::Difference;
use in_force::InForce;
use scopes::{Camera, Device, Events, Log, Memory, Model, Spool, Status, Uplink};
pub use sections::status::LIMITS;
use values::{Value, Values};

/// All mistakes of a configuration, one line each: place, key, value, what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl From<Mistakes> for Error {
    fn from(mistakes: Mistakes) -> Self {
        Error::fatal(Kind::Config, mistakes.to_string())
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// A setting from the command line: key, value, and the option's name.
pub type Override = (&'static str, Value, &'static str);

/// All settings, checked, by scope.
#[derive(Debug, Clone)]
pub struct Config {
    /// The device as a whole.
    pub device: Device,
    /// The watchdogs.
    pub watchdog: watchdog::Params,
    /// The board's pins.
    pub pins: PinParams,
    /// The cameras, at least one.
    pub cameras: Vec<Camera>,
    /// The network.
    pub model: Model,
    /// The device's own events.
    pub events: Events,
    /// Delivery.
    pub uplink: Uplink,
    /// The spool: keeps events until they are delivered.
    pub spool: Spool,
    /// The memory plan.
    pub memory: Memory,
    /// The log.
    pub log: Log,
    /// The status pages and the resource log.
    pub status: Status,
    /// Targets of the KPI table.
    pub kpi: Targets,
    /// Rules for alerts.
    pub alerts: Vec<Rule>,
    /// Every setting with its value.
    pub in_force: InForce,
}

impl Config {
    /// The defaults, overridden by `file`, overridden by `overrides`; "automatic" values are derived from `machine`.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(file: Option<&Path>, overrides: Vec<Override>, machine: &Machine) -> Result<Self, Mistakes> {
        let mut values = Values::new(table::SECTIONS);
        if let Some(path) = file {
            let text = read(path).map_err(|mistake| Mistakes(vec![mistake]))?;
            values.lay_over(&text, &path.display().to_string());
        }
        for (path, value, option) in overrides {
            values.set(path, value, option);
        }
        let config = from_values(&mut values, machine);
        if values.has_mistakes() { Err(Mistakes(values.into_mistakes())) } else { Ok(config) }
    }

    /// The model.
    ///
    /// # Errors
    /// `Kind::Config`: no model is named.
    pub fn model(&self) -> Result<model::Params, Error> {
        self.model.params.clone().ok_or_else(|| {
            Error::fatal(
                Kind::Config,
                "no model: set model.path in the configuration, or give --model FILE (builtin: the shipped one)",
            )
        })
    }

    /// The first camera: the one whose settings commands use that look at single pictures or recordings.
    pub fn first_camera(&self) -> &Camera {
        &self.cameras[0]
    }

    /// Settings for loading the network, with the input sizes that `camera` needs.
    pub fn loading(&self, camera: &Camera) -> load::Params {
        load::Params { cores: self.model.cores.clone(), regions: camera.uses_regions() }
    }

    /// The labels of all cameras' events.
    pub fn labels(&self) -> Labels {
        Labels::new(self.cameras.iter().map(|camera| (camera.name.clone(), camera.labels.clone())))
    }

    /// What differs in `new`, and what it takes to put it into force.
    pub fn diff(&self, new: &Config) -> Difference {
        self.in_force.diff(&new.in_force)
    }
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let place = path.display();
    let mut text = String::new();
    let file = std::fs::File::open(path)
        .map_err(|error| format!("{place}: cannot be opened: {error}: check the path"))?;
    file.take(CONFIG_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("{place}: cannot be read as text: {error}"))?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(format!("{place}: is larger than {CONFIG_BYTES_MAX} bytes: is this the right file?"));
    }
    Ok(text)
}

/// Checks all values and builds the configuration from them, noting mistakes.
fn from_values(values: &mut Values, machine: &Machine) -> Config {
    let in_force = values.in_force();
    let mut cameras: Vec<Values> = (0..values.cameras()).map(|index| values.of_camera(index)).collect();
    check::check(values);
    let cameras = sections::camera::cameras(values, &mut cameras);
    Config {
        device: sections::board::device(values),
        watchdog: sections::board::watchdog(values),
        pins: sections::board::pins(values),
        cameras,
        model: sections::model::model(values, machine),
        events: Events {
            stats_interval: Duration::from_secs(values.int("events.stats_interval_s").unsigned_abs()),
        },
        uplink: sections::uplink::uplink(values),
        spool: sections::spool::spool(values),
        memory: sections::board::memory(values),
        log: sections::board::log(values),
        status: sections::status::status(values),
        kpi: sections::status::kpi(values),
        alerts: sections::status::alerts(values),
        in_force,
    }
}

#[cfg(test)]
mod tests;
