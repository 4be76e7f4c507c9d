//! The one table of all settings: key, type, range, unit, default, comment, and what a change of it needs.
//!
//! Everything else follows from it: which keys exist ([`super::values`]), which values are refused ([`super::check`]),
//! the text of `defaults.toml` ([`document`]), what is masked in logs, and what a change restarts ([`super::diff`]). A
//! new setting is one entry here and one line in [`super::sections`] that reads its value.

mod analytics;
mod board;
mod camera;
mod delivery;
#[cfg(test)]
pub(super) mod document;
mod model;
mod status;
mod vision;

use super::diff::{Change, Scope};
use super::values::Value;

/// All sections, in the order of `defaults.toml`.
pub(super) static SECTIONS: &[Section] = &[
    board::DEVICE,
    board::WATCHDOG,
    camera::CAMERA,
    camera::SAMPLING,
    model::MODEL,
    vision::DETECT,
    vision::GATE,
    vision::FOCUS,
    analytics::TRACK,
    analytics::COUNT,
    analytics::LINE,
    delivery::EVENTS,
    delivery::UPLINK,
    delivery::SPOOL,
    status::STATUS,
    status::KPI,
    status::ALERTS,
    status::ALERT,
    board::GPIO,
    board::MEMORY,
    board::LOG,
];

/// A table of the configuration file: `[camera]`, or each of `[[line]]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    /// Its name.
    pub(super) name: &'static str,
    /// Whether there can be several: `[[name]]`.
    pub(super) is_array: bool,
    /// How many of them the defaults have.
    pub(super) default_count: usize,
    /// Which part of the program it belongs to.
    pub(super) scope: Scope,
    /// What to know before reading its settings; may be empty.
    pub(super) help: &'static str,
    /// Its settings.
    pub(super) settings: &'static [Setting],
}

impl Section {
    /// `[name]`.
    const fn new(name: &'static str, scope: Scope, settings: &'static [Setting]) -> Self {
        Section { name, is_array: false, default_count: 1, scope, help: "", settings }
    }

    /// `[[name]]`; the defaults have one such table.
    const fn array(name: &'static str, scope: Scope, settings: &'static [Setting]) -> Self {
        Section { name, is_array: true, default_count: 1, scope, help: "", settings }
    }

    const fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }

    /// The defaults have no such table.
    const fn none(mut self) -> Self {
        self.default_count = 0;
        self
    }

    /// Whether each camera may have this table for itself.
    pub(super) const fn is_of_cameras(&self) -> bool {
        matches!(self.scope, Scope::Camera)
    }

    /// `camera.width`, `line[].from`: a setting's path without numbers.
    pub(super) fn path(&self, setting: &Setting) -> String {
        format!("{}{}.{}", self.name, if self.is_array { "[]" } else { "" }, setting.key)
    }
}

/// One setting. Made by [`whole`], [`number`], [`text`] and the like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// Its key within the section.
    pub(super) key: &'static str,
    /// Which values it takes.
    pub(super) kind: Kind,
    /// Its value unless the user sets it.
    pub(super) default: Literal,
    /// Unit of a number, for people.
    pub(super) unit: &'static str,
    /// A value with a meaning of its own, such as 0 for "automatic"; allowed also outside of the range.
    pub(super) special: Option<(i64, &'static str)>,
    /// Path of a setting that is its lower bound.
    pub(super) at_least: Option<&'static str>,
    /// Path of a setting that is its upper bound.
    pub(super) at_most: Option<&'static str>,
    /// Which part of it is secret.
    pub(super) secret: Secret,
    /// What a change of it needs to take effect.
    pub(super) needs: Change,
    /// For `defaults.toml`: what it does and when to change it. Lines that begin with a space are not wrapped.
    pub(super) help: &'static str,
}

/// Which values a setting takes. Texts and lists with rules of their own are read in [`super::sections`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number, both ends included.
    Whole(i64, i64),
    /// A number, both ends included.
    Number(f64, f64),
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// A list of texts.
    Texts,
    /// A list of whole numbers, both ends included; then an example.
    Wholes(i64, i64, &'static str),
    /// A point of the frame, `[x, y]`.
    Point,
    /// A list of polygons.
    Polygons,
}

/// A default value as a constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Literal {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'static str),
    Texts(&'static [&'static str]),
    Point(f64, f64),
    EmptyList,
}

impl Literal {
    /// The value.
    pub(super) fn value(self) -> Value {
        match self {
            Literal::Bool(value) => Value::Bool(value),
            Literal::Int(value) => Value::Int(value),
            Literal::Float(value) => Value::Float(value),
            Literal::Text(text) => Value::Text(text.to_owned()),
            Literal::Texts(texts) => {
                Value::List(texts.iter().map(|text| Value::Text((*text).to_owned())).collect())
            }
            Literal::Point(x, y) => Value::List(vec![Value::Float(x), Value::Float(y)]),
            Literal::EmptyList => Value::List(Vec::new()),
        }
    }
}

/// Which part of a value is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secret {
    /// Nothing: all of it may be shown.
    Nothing,
    /// Passwords in a command line or source.
    InCommand,
    /// Passwords and queries in an address, or in each of a list.
    InUrl,
}

const fn setting(key: &'static str, kind: Kind, default: Literal) -> Setting {
    Setting {
        key,
        kind,
        default,
        unit: "",
        special: None,
        at_least: None,
        at_most: None,
        secret: Secret::Nothing,
        // The safe choice for settings that say nothing else.
        needs: Change::RestartProcess,
        help: "",
    }
}

const fn switch(key: &'static str, default: bool) -> Setting {
    setting(key, Kind::Switch, Literal::Bool(default))
}

const fn whole(key: &'static str, default: i64, least: i64, most: i64) -> Setting {
    setting(key, Kind::Whole(least, most), Literal::Int(default))
}

const fn number(key: &'static str, default: f64, least: f64, most: f64) -> Setting {
    setting(key, Kind::Number(least, most), Literal::Float(default))
}

const fn choice(key: &'static str, default: &'static str, of: &'static [&'static str]) -> Setting {
    setting(key, Kind::Choice(of), Literal::Text(default))
}

const fn text(key: &'static str, default: &'static str) -> Setting {
    setting(key, Kind::Text, Literal::Text(default))
}

const fn texts(key: &'static str, default: &'static [&'static str]) -> Setting {
    setting(key, Kind::Texts, Literal::Texts(default))
}

const fn wholes(key: &'static str, least: i64, most: i64, example: &'static str) -> Setting {
    setting(key, Kind::Wholes(least, most, example), Literal::EmptyList)
}

const fn point(key: &'static str, x: f64, y: f64) -> Setting {
    setting(key, Kind::Point, Literal::Point(x, y))
}

const fn polygons(key: &'static str) -> Setting {
    setting(key, Kind::Polygons, Literal::EmptyList)
}

impl Setting {
    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn special(mut self, value: i64, meaning: &'static str) -> Self {
        self.special = Some((value, meaning));
        self
    }

    const fn at_least(mut self, path: &'static str) -> Self {
        self.at_least = Some(path);
        self
    }

    const fn at_most(mut self, path: &'static str) -> Self {
        self.at_most = Some(path);
        self
    }

    const fn secret(mut self, secret: Secret) -> Self {
        self.secret = secret;
        self
    }

    /// A change takes effect while everything runs.
    const fn live(mut self) -> Self {
        self.needs = Change::Live;
        self
    }

    /// A change takes effect when the camera is opened again.
    const fn restarts_camera(mut self) -> Self {
        self.needs = Change::RestartCamera;
        self
    }

    const fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }
}

/// The names of `choices`, for [`choice`].
pub(super) const fn names<T: Copy, const N: usize>(choices: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut index = 0;
    while index < N {
        names[index] = choices[index].0;
        index += 1;
    }
    names
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::test_whole;
