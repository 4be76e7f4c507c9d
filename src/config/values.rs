//! The user's settings on top of the table's defaults, each with the place where it was written, so that all mistakes can be reported at
//! once (I9).
//!
//! A key that is not in the table does not exist, and a value must have the type of its default. `config::check` checks ranges;
//! `config::sections` interprets values.
#![allow(clippy::wildcard_enum_match_arm, reason = "each getter wants one type and says so for all others")]

use std::collections::BTreeMap;
use std::fmt;

use super::in_force::{InForce, masked};
use super::parse::parse;
use super::table::{Section, Setting};
use crate::base::limits::CAMERAS_MAX;

/// A value without its place.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list of anything but tables.
    List(Vec<Value>),
}

impl Value {
    fn type_name(&self) -> &'static str {
        match self {
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Text(_) => "a text in quotes",
            Value::List(_) => "a list in brackets",
        }
    }

    /// Whether a value of this type is accepted where the default is `default`; whole numbers are numbers too.
    fn fits(&self, default: &Value) -> Option<Value> {
        match (self, default) {
            (Value::Int(int), Value::Float(_)) => Some(Value::Float(*int as f64)),
            (value, default) if std::mem::discriminant(value) == std::mem::discriminant(default) => {
                Some(value.clone())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    /// In TOML notation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value:?}"),
            Value::Text(text) => write!(f, "{}", toml::Value::String(text.clone())),
            Value::List(list) => {
                f.write_str("[")?;
                for (index, item) in list.iter().enumerate() {
                    write!(f, "{}{item}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}

/// A value and where the user wrote it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) value: Value,
    /// `flytrap.toml:12`, `--source`; `None` for a default.
    pub(super) place: Option<String>,
}

/// All settings, by path: `camera.width`, `line[0].name`. Of the whole file, or (from [`Values::of_camera`]) as they hold for one camera.
#[derive(Debug, Clone)]
pub(super) struct Values {
    sections: &'static [Section],
    entries: BTreeMap<String, Entry>,
    /// How many tables an array of tables has: `line` -> 2.
    counts: BTreeMap<String, usize>,
    /// What the user wrote for single cameras; as many as there are cameras, at least one.
    cameras: Vec<OwnValues>,
    /// Settings from the command line, which override everything.
    overrides: Vec<(String, Entry)>,
    /// For one of several cameras: its number.
    camera: Option<usize>,
    mistakes: Vec<String>,
}

/// What the user wrote inside of a camera's table: `[[camera]]`, `[camera.gate]`, `[[camera.line]]`.
#[derive(Debug, Clone, Default)]
struct OwnValues {
    /// By the path that the setting has without the camera: `camera.name`, `gate.enabled`, `line[0].name`.
    entries: BTreeMap<String, Entry>,
    counts: BTreeMap<String, usize>,
}

impl Values {
    /// The defaults of `sections` alone.
    pub(super) fn new(sections: &'static [Section]) -> Self {
        let mut values = Values {
            sections,
            entries: BTreeMap::new(),
            counts: BTreeMap::new(),
            cameras: vec![OwnValues::default()],
            overrides: Vec::new(),
            camera: None,
            mistakes: Vec::new(),
        };
        for section in sections {
            values.put_defaults(section, section.default_count);
        }
        values
    }

    fn put_defaults(&mut self, section: &'static Section, count: usize) {
        for (path, setting) in (0..count).flat_map(|index| paths(section, index)) {
            self.entries.insert(path, Entry { value: setting.default.value(), place: None });
        }
        if section.is_array {
            self.counts.insert(section.name.to_owned(), count);
        }
    }

    /// Applies the user's file. `name` is its name in messages.
    pub(super) fn lay_over(&mut self, text: &str, name: &str) {
        let mut flat = match parse(text, name) {
            Ok(flat) => flat,
            Err(mistake) => return self.mistakes.push(mistake),
        };
        self.mistakes.append(&mut flat.mistakes);
        if let Some(count) = flat.counts.remove("camera") {
            if count > CAMERAS_MAX {
                self.mistakes.push(format!(
                    "{name}: {count} cameras: there are at most {CAMERAS_MAX}; for more, run another flytrap"
                ));
            }
            self.cameras.resize_with(count.clamp(1, CAMERAS_MAX), OwnValues::default);
        }
        for (array, count) in flat.counts {
            match self.own_path(&array) {
                Some((camera, path)) if self.is_array(&path) => {
                    if let Some(own) = self.cameras.get_mut(camera) {
                        own.counts.insert(path, count);
                    }
                }
                None if self.is_array(&array) => self.set_count(&array, count),
                Some(_) | None => {
                    let hint = self.suggestion(&array);
                    self.mistakes.push(format!("{name}: [[{array}]] is not a setting{hint}"));
                }
            }
        }
        for (path, entry) in flat.entries {
            match self.own_path(&path) {
                None => self.set_entry(&path, entry),
                Some((camera, inner)) => {
                    if let Some(own) = self.cameras.get_mut(camera) {
                        own.entries.insert(inner, entry);
                    }
                }
            }
        }
    }

    /// The number of the camera whose table `path` is in, and the path without it: `camera[1].gate.enabled` -> 1, `gate.enabled`.
    fn own_path(&self, path: &str) -> Option<(usize, String)> {
        let rest = path.strip_prefix("camera")?;
        if let Some((index, key)) = rest.strip_prefix('[').and_then(|rest| rest.split_once("].")) {
            let index = index.parse().ok()?;
            let inner = if self.is_of_cameras(key) { key.to_owned() } else { format!("camera.{key}") };
            return Some((index, inner));
        }
        // `[camera.gate]` below a single `[camera]`.
        let key = rest.strip_prefix('.').filter(|key| self.is_of_cameras(key))?;
        Some((0, key.to_owned()))
    }

    /// Whether a path below a camera's table belongs to a table that each camera may have for itself.
    fn is_of_cameras(&self, path: &str) -> bool {
        let name = path.split(['.', '[']).next().unwrap_or(path);
        let is_table = name.len() < path.len() || self.is_array(name);
        is_table
            && self
                .sections
                .iter()
                .any(|section| section.name == name && section.is_of_cameras() && name != "camera")
    }

    fn is_array(&self, name: &str) -> bool {
        self.sections.iter().any(|section| section.is_array && section.name == name)
    }

    /// The user's tables replace the default ones; keys that they omit are as in the default one.
    fn set_count(&mut self, array: &str, count: usize) {
        let prefix = format!("{array}[");
        self.entries.retain(|path, _| !path.starts_with(&prefix));
        if let Some(section) = self.sections.iter().find(|section| section.name == array) {
            self.put_defaults(section, count);
        }
    }

    /// How many cameras there are, at least one.
    pub(super) fn cameras(&self) -> usize {
        self.cameras.len()
    }

    /// The settings as they hold for camera number `index`: those of all cameras, overridden by its own.
    pub(super) fn of_camera(&self, index: usize) -> Self {
        let mut values = Values {
            camera: (self.cameras.len() > 1).then_some(index),
            mistakes: Vec::new(),
            ..self.clone()
        };
        let OwnValues { entries, counts } = self.cameras.get(index).cloned().unwrap_or_default();
        for (array, count) in counts {
            values.set_count(&array, count);
        }
        for (path, entry) in entries {
            values.set_entry(&path, entry);
        }
        for (path, entry) in self.overrides.clone() {
            values.set_entry(&path, entry);
        }
        values
    }

    /// Adds mistakes that are not noted yet: a wrong value that holds for all cameras is one mistake.
    pub(super) fn absorb(&mut self, mistakes: Vec<String>) {
        for mistake in mistakes {
            if !self.mistakes.contains(&mistake) {
                self.mistakes.push(mistake);
            }
        }
    }

    /// Sets one value from the command line. `place` is the option's name.
    pub(super) fn set(&mut self, path: &str, value: Value, place: &str) {
        let entry = Entry { value, place: Some(place.to_owned()) };
        self.overrides.push((path.to_owned(), entry.clone()));
        self.set_entry(path, entry);
        let is_of_cameras = find(self.sections, path).is_some_and(|(section, _)| section.is_of_cameras());
        if is_of_cameras && self.cameras.len() > 1 {
            let count = self.cameras.len();
            self.mistakes.push(format!(
                "{place}: the file has {count} cameras, so this option cannot say which one it means: set {path} in the file"
            ));
        }
    }

    fn set_entry(&mut self, path: &str, entry: Entry) {
        let place = entry.place.clone().unwrap_or_default();
        let Some((_, setting)) = find(self.sections, path).filter(|_| self.entries.contains_key(path)) else {
            let hint = self.suggestion(path);
            let path = self.shown(path);
            self.mistakes.push(format!("{place}: '{path}' is not a setting{hint}"));
            return;
        };
        let default = setting.default.value();
        match entry.value.fits(&default) {
            Some(value) => {
                self.entries.insert(path.to_owned(), Entry { value, place: entry.place });
            }
            None => {
                let (shown, wanted) = (masked(setting.secret, &entry.value), default.type_name());
                let path = self.shown(path);
                self.mistakes.push(format!("{place}: {path} = {shown}: must be {wanted}"));
            }
        }
    }

    /// "; did you mean 'x'?" for the nearest known key, if any is near.
    fn suggestion(&self, path: &str) -> String {
        let wanted = template(path);
        let known = self
            .sections
            .iter()
            .flat_map(|section| section.settings.iter().map(|setting| section.path(setting)));
        nearest(&wanted, known)
    }

    /// Notes a mistake in the value at `path`: `why` completes "must ...".
    pub(super) fn mistake(&mut self, path: &str, why: impl fmt::Display) {
        let line = match (self.entries.get(path), find(self.sections, path)) {
            (Some(Entry { value, place }), Some((_, setting))) => {
                let place = place.as_deref().unwrap_or("defaults");
                format!("{place}: {} = {}: {why}", self.shown(path), masked(setting.secret, value))
            }
            _ => format!("{}: {why}", self.shown(path)),
        };
        self.mistakes.push(line);
    }

    /// As [`Values::mistake`], for a `why` that contains the value already.
    pub(super) fn mistake_without_value(&mut self, path: &str, why: impl fmt::Display) {
        let place = self.entries.get(path).and_then(|entry| entry.place.as_deref()).unwrap_or("defaults");
        let path = self.shown(path);
        self.mistakes.push(format!("{place}: {path}: {why}"));
    }

    /// A path as the user would write it: inside of a camera's table for a value that only this camera has.
    fn shown(&self, path: &str) -> String {
        let own = |index: &usize| {
            path.starts_with("camera.")
                || self.cameras.get(*index).is_some_and(|own| own.entries.contains_key(path))
        };
        match self.camera.filter(own) {
            Some(index) => format!("camera[{index}].{}", path.strip_prefix("camera.").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// All mistakes so far, in the order of discovery.
    pub(super) fn into_mistakes(self) -> Vec<String> {
        self.mistakes
    }

    /// Likewise, leaving none.
    pub(super) fn take_mistakes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.mistakes)
    }

    /// Whether there are mistakes so far.
    pub(super) fn has_mistakes(&self) -> bool {
        !self.mistakes.is_empty()
    }

    /// How many tables `[[array]]` has.
    pub(super) fn count(&self, array: &str) -> usize {
        self.counts.get(array).copied().unwrap_or(0)
    }

    /// Every setting, in the order of the table.
    pub(super) fn settings(&self) -> Vec<(String, &'static Setting)> {
        let count = |section: &Section| if section.is_array { self.count(section.name) } else { 1 };
        let sections = self.sections.iter();
        sections
            .flat_map(|section| (0..count(section)).flat_map(move |index| paths(section, index)))
            .collect()
    }

    /// Replaces a wrong value, so that checking can continue.
    pub(super) fn replace(&mut self, path: &str, value: Value) {
        if let Some(entry) = self.entries.get_mut(path) {
            entry.value = value;
        }
    }

    /// The values as they are: those of the device, and those of each camera.
    pub(super) fn in_force(&self) -> InForce {
        let cameras: Vec<Values> = (0..self.cameras()).map(|index| self.of_camera(index)).collect();
        let of = |values: &Values, of_cameras: bool| {
            let belongs = |path: &str| {
                find(values.sections, path).is_some_and(|(section, _)| section.is_of_cameras() == of_cameras)
            };
            let entries = values.entries.iter().filter(|(path, _)| belongs(path));
            entries
                .map(|(path, entry)| (path.clone(), (entry.value.clone(), entry.place.is_some())))
                .collect()
        };
        InForce::new(self.sections, of(self, false), cameras.iter().map(|camera| of(camera, true)).collect())
    }

    /// The value at `path`, which must be in the table.
    pub(super) fn get(&self, path: &str) -> &Value {
        match self.entries.get(path) {
            Some(entry) => &entry.value,
            None => unreachable!(
                "the code asks for '{path}', which the table does not have; a test rules this out"
            ),
        }
    }

    /// A whole number; checked before.
    pub(super) fn int(&self, path: &str) -> i64 {
        match self.get(path) {
            Value::Int(value) => *value,
            other => unreachable!("{path} is {}", other.type_name()),
        }
    }

    /// A whole number; `None` for 0 ("automatic").
    pub(super) fn int_or_auto(&self, path: &str) -> Option<i64> {
        Some(self.int(path)).filter(|value| *value != 0)
    }

    /// A number; checked before.
    pub(super) fn float(&self, path: &str) -> f64 {
        match self.get(path) {
            Value::Float(value) => *value,
            other => unreachable!("{path} is {}", other.type_name()),
        }
    }

    /// A number; `None` for 0 ("automatic").
    pub(super) fn float_or_auto(&self, path: &str) -> Option<f64> {
        Some(self.float(path)).filter(|value| *value > 0.0)
    }

    /// `true` or `false`.
    pub(super) fn bool(&self, path: &str) -> bool {
        matches!(self.get(path), Value::Bool(true))
    }

    /// A text.
    pub(super) fn text(&self, path: &str) -> &str {
        match self.get(path) {
            Value::Text(text) => text,
            other => unreachable!("{path} is {}", other.type_name()),
        }
    }

    /// The meaning of a choice, by the pairs that the table takes its names from.
    pub(super) fn choice<T: Copy>(&self, path: &str, choices: &[(&str, T)]) -> T {
        let text = self.text(path);
        choices.iter().find(|(name, _)| *name == text).map_or(choices[0].1, |(_, chosen)| *chosen)
    }

    /// A list.
    pub(super) fn list(&self, path: &str) -> &[Value] {
        match self.get(path) {
            Value::List(list) => list,
            other => unreachable!("{path} is {}", other.type_name()),
        }
    }

    /// A list of texts; checked before.
    pub(super) fn texts(&self, path: &str) -> Vec<String> {
        let text = |item: &Value| match item {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.list(path).iter().filter_map(text).collect()
    }

    /// A text that may be empty, which means "none".
    pub(super) fn text_or_none(&self, path: &str) -> Option<String> {
        Some(self.text(path)).filter(|text| !text.is_empty()).map(str::to_owned)
    }
}

/// The paths of a section's settings; of table number `index` where there can be several.
fn paths(section: &'static Section, index: usize) -> impl Iterator<Item = (String, &'static Setting)> {
    let number = if section.is_array { format!("[{index}]") } else { String::new() };
    section.settings.iter().map(move |setting| (format!("{}{number}.{}", section.name, setting.key), setting))
}

/// The setting of a path.
pub(super) fn find(sections: &'static [Section], path: &str) -> Option<(&'static Section, &'static Setting)> {
    let path = template(path);
    let (name, key) = path.split_once('.')?;
    let name = (name.trim_end_matches("[]"), name.ends_with("[]"));
    let section = sections.iter().find(|section| (section.name, section.is_array) == name)?;
    Some((section, section.settings.iter().find(|setting| setting.key == key)?))
}

/// `line[3].name` -> `line[].name`.
fn template(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        inside = (inside || c == '[') && c != ']';
        if !inside || c == '[' {
            out.push(c);
        }
    }
    out
}

/// "; did you mean 'x'?" for the nearest of `known`, if any is near.
pub(super) fn nearest(wanted: &str, known: impl Iterator<Item = String>) -> String {
    match known.map(|key| (distance(wanted, &key), key)).min() {
        Some((distance, key)) if distance <= 1 + wanted.len() / 4 => format!("; did you mean '{key}'?"),
        Some(_) | None => String::new(),
    }
}

/// Levenshtein distance: how many letters to change, add or remove.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
