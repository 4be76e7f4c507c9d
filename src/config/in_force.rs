//! The values in force, for display and comparison. Passwords in them are masked (I10).

use std::collections::BTreeMap;

use super::table::{Secret, Section, Setting};
use super::values::{Value, find};
use crate::capture::command;
use crate::delivery::uplink::http::redacted;

/// Every setting with its value, checked.
#[derive(Debug, Clone)]
pub struct InForce {
    sections: &'static [Section],
    /// By path, with whether the user set it.
    values: BTreeMap<String, (Value, bool)>,
}

impl InForce {
    /// The value of each path, and whether the user set it.
    pub(super) fn new(
        sections: &'static [Section],
        values: impl Iterator<Item = (String, Value, bool)>,
    ) -> Self {
        InForce { sections, values: values.map(|(path, value, given)| (path, (value, given))).collect() }
    }

    /// Every setting as `key = value`, passwords masked.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.values.iter().map(|(path, (value, _))| self.line(path, value))
    }

    /// The settings that the user set, likewise.
    pub fn given(&self) -> impl Iterator<Item = String> {
        self.values.iter().filter(|(_, (_, given))| *given).map(|(path, (value, _))| self.line(path, value))
    }

    fn line(&self, path: &str, value: &Value) -> String {
        let secret = self.setting(path).map_or(Secret::Nothing, |(_, setting)| setting.secret);
        format!("{path} = {}", masked(secret, value))
    }

    /// All paths, in order.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The value at `path`, if there is one.
    pub(super) fn value(&self, path: &str) -> Option<&Value> {
        self.values.get(path).map(|(value, _)| value)
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
