//! The mechanism under the configuration: the user's file laid over the documented defaults, with the place of every
//! value, so that all mistakes can be reported at once (I9).
//!
//! `src/config/defaults.toml` is the schema: a key that is not in it does not exist, and a value must be of the type that
//! it has there. Ranges are checked by whoever takes a value out. Nothing here knows what a key means.
#![allow(clippy::wildcard_enum_match_arm, reason = "each getter wants one type and says so for all others")]

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use toml::de::{DeTable, DeValue};

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

    /// Whether a value of this type may stand where the default is `default`; whole numbers are numbers too.
    fn fits(self, default: &Value) -> Option<Value> {
        match (self, default) {
            (Value::Int(int), Value::Float(_)) => Some(Value::Float(int as f64)),
            (value, default) if std::mem::discriminant(&value) == std::mem::discriminant(default) => {
                Some(value)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    /// As TOML writes it.
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
struct Entry {
    value: Value,
    /// `flytrap.toml:12`, `--source`; `None` for a default.
    place: Option<String>,
}

/// All settings, by path: `camera.width`, `line[0].name`.
#[derive(Debug)]
pub struct Values {
    /// Defaults by template path: `line[].name`.
    templates: BTreeMap<String, Value>,
    entries: BTreeMap<String, Entry>,
    /// How many tables an array of tables has: `line` -> 2.
    counts: BTreeMap<String, usize>,
    mistakes: Vec<String>,
}

impl Values {
    /// The defaults alone. `defaults` is checked in; a mistake in it is ours.
    ///
    /// # Panics
    /// If `defaults` is not valid, which a test rules out.
    pub fn new(defaults: &str) -> Self {
        let mut flat = Flat::default();
        let table = DeTable::parse(defaults).expect("defaults.toml is checked in and tested");
        flat.table("", table.get_ref(), &|_| None);
        assert!(flat.mistakes.is_empty(), "defaults.toml: {:?}", flat.mistakes);
        let templates =
            flat.entries.iter().map(|(path, entry)| (template(path), entry.value.clone())).collect();
        Values { templates, entries: flat.entries, counts: flat.counts, mistakes: Vec::new() }
    }

    /// Lays the user's file over what is there. `name` is what messages call it.
    pub fn lay_over(&mut self, text: &str, name: &str) {
        let line_of = |offset: usize| {
            text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
        };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(span.start));
                self.mistakes.push(format!("{name}:{line}: {}", error.message()));
                return;
            }
        };
        let mut flat = Flat::default();
        flat.table("", table.get_ref(), &|offset| Some(format!("{name}:{}", line_of(offset))));
        self.mistakes.append(&mut flat.mistakes);
        for (array, count) in flat.counts {
            if self.counts.contains_key(&array) {
                // The user's tables replace the default ones; what they leave out comes from the template.
                let prefix = format!("{array}[");
                self.entries.retain(|path, _| !path.starts_with(&prefix));
                for (index, key) in (0..count).flat_map(|i| self.templates.keys().map(move |key| (i, key))) {
                    if let Some(rest) = key.strip_prefix(&format!("{array}[].")) {
                        let entry = Entry { value: self.templates[key].clone(), place: None };
                        self.entries.insert(format!("{array}[{index}].{rest}"), entry);
                    }
                }
                self.counts.insert(array, count);
            } else {
                self.mistakes
                    .push(format!("{name}: [[{array}]] is not a setting{}", self.suggestion(&array)));
            }
        }
        for (path, entry) in flat.entries {
            self.set_entry(&path, entry);
        }
    }

    /// Sets one value from the command line. `place` is the option's name.
    pub fn set(&mut self, path: &str, value: Value, place: &str) {
        self.set_entry(path, Entry { value, place: Some(place.to_owned()) });
    }

    fn set_entry(&mut self, path: &str, entry: Entry) {
        let place = entry.place.clone().unwrap_or_default();
        let Some(default) = self.templates.get(&template(path)) else {
            let hint = self.suggestion(path);
            self.mistakes.push(format!("{place}: '{path}' is not a setting{hint}"));
            return;
        };
        let shown = entry.value.to_string();
        match entry.value.fits(default) {
            Some(value) => {
                self.entries.insert(path.to_owned(), Entry { value, place: entry.place });
            }
            None => {
                let wanted = default.type_name();
                self.mistakes.push(format!("{place}: {path} = {shown}: must be {wanted}"));
            }
        }
    }

    /// "; did you mean 'x'?" for the nearest known key, if any is near.
    fn suggestion(&self, path: &str) -> String {
        let wanted = template(path);
        let nearest = self.templates.keys().map(|key| (distance(&wanted, key), key)).min();
        match nearest {
            Some((distance, key)) if distance <= 1 + wanted.len() / 4 => format!("; did you mean '{key}'?"),
            Some(_) | None => String::new(),
        }
    }

    /// Notes a mistake in the value at `path`: `why` completes "must ...".
    pub fn mistake(&mut self, path: &str, why: impl fmt::Display) {
        let line = match self.entries.get(path) {
            Some(Entry { value, place }) => {
                let place = place.as_deref().unwrap_or("defaults");
                format!("{place}: {path} = {value}: {why}")
            }
            None => format!("{path}: {why}"),
        };
        self.mistakes.push(line);
    }

    /// As [`Values::mistake`] for a value that must not be shown as it is (it may hold a password): `why` says it all.
    pub fn mistake_without_value(&mut self, path: &str, why: impl fmt::Display) {
        let place = self.entries.get(path).and_then(|entry| entry.place.as_deref()).unwrap_or("defaults");
        self.mistakes.push(format!("{place}: {path}: {why}"));
    }

    /// All mistakes so far, in the order of discovery.
    pub fn into_mistakes(self) -> Vec<String> {
        self.mistakes
    }

    /// How many tables `[[array]]` has.
    pub fn count(&self, array: &str) -> usize {
        self.counts.get(array).copied().unwrap_or(0)
    }

    /// Whether the user set it.
    pub fn is_set(&self, path: &str) -> bool {
        self.entries.get(path).is_some_and(|entry| entry.place.is_some())
    }

    fn get(&self, path: &str) -> &Value {
        match self.entries.get(path) {
            Some(entry) => &entry.value,
            None => unreachable!(
                "the code asks for '{path}', which defaults.toml does not have; a test rules this out"
            ),
        }
    }

    /// A whole number within `range`; a mistake gives the lower end.
    pub fn int(&mut self, path: &str, range: RangeInclusive<i64>) -> i64 {
        let value = match self.get(path) {
            Value::Int(value) => *value,
            other => unreachable!("{path} is {}", other.type_name()),
        };
        if !range.contains(&value) {
            self.mistake(path, format_args!("must be {}..={}", range.start(), range.end()));
            return *range.start();
        }
        value
    }

    /// `None` for 0 ("automatic"), else a whole number within `range`.
    pub fn int_or_auto(&mut self, path: &str, range: RangeInclusive<i64>) -> Option<i64> {
        match self.get(path) {
            Value::Int(0) => None,
            Value::Int(value) if !range.contains(value) => {
                self.mistake(
                    path,
                    format_args!("must be 0 (automatic) or {}..={}", range.start(), range.end()),
                );
                None
            }
            Value::Int(value) => Some(*value),
            other => unreachable!("{path} is {}", other.type_name()),
        }
    }

    /// A number within `range`; a mistake gives the lower end.
    pub fn float(&mut self, path: &str, range: RangeInclusive<f64>) -> f64 {
        let value = match self.get(path) {
            Value::Float(value) => *value,
            other => unreachable!("{path} is {}", other.type_name()),
        };
        if !range.contains(&value) {
            self.mistake(path, format_args!("must be {:?}..={:?}", range.start(), range.end()));
            return *range.start();
        }
        value
    }

    /// `None` for 0.0 ("automatic"), else a number within `range`.
    pub fn float_or_auto(&mut self, path: &str, range: RangeInclusive<f64>) -> Option<f64> {
        match self.get(path) {
            Value::Float(0.0) => None,
            Value::Float(value) if !range.contains(value) => {
                self.mistake(
                    path,
                    format_args!("must be 0 (automatic) or {:?}..={:?}", range.start(), range.end()),
                );
                None
            }
            Value::Float(value) => Some(*value),
            other => unreachable!("{path} is {}", other.type_name()),
        }
    }

    /// `true` or `false`.
    pub fn bool(&self, path: &str) -> bool {
        matches!(self.get(path), Value::Bool(true))
    }

    /// A text.
    pub fn text(&self, path: &str) -> &str {
        match self.get(path) {
            Value::Text(text) => text,
            other => unreachable!("{path} is {}", other.type_name()),
        }
    }

    /// One of `choices`; a mistake gives the first.
    pub fn choice<T: Copy>(&mut self, path: &str, choices: &[(&str, T)]) -> T {
        let text = self.text(path);
        if let Some((_, chosen)) = choices.iter().find(|(name, _)| *name == text) {
            return *chosen;
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        self.mistake(path, format_args!("must be one of {}", names.join(", ")));
        choices[0].1
    }

    /// A list.
    pub fn list(&self, path: &str) -> &[Value] {
        match self.get(path) {
            Value::List(list) => list,
            other => unreachable!("{path} is {}", other.type_name()),
        }
    }

    /// Whether there are mistakes so far.
    pub fn has_mistakes(&self) -> bool {
        !self.mistakes.is_empty()
    }

    /// Every setting and its value, in the order of their paths.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), &entry.value))
    }

    /// The paths that [`Values::new`] knows, `line[].name` for those of arrays.
    #[cfg(test)]
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }
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

/// Levenshtein distance: how many letters to change, add or take away.
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

/// A parsed file as a flat list.
#[derive(Default)]
struct Flat {
    entries: BTreeMap<String, Entry>,
    counts: BTreeMap<String, usize>,
    mistakes: Vec<String>,
}

impl Flat {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>, place: &dyn Fn(usize) -> Option<String>) {
        for (key, value) in table {
            let dot = if prefix.is_empty() { "" } else { "." };
            let path = format!("{prefix}{dot}{}", key.get_ref());
            let place_here = place(key.span().start);
            match value.get_ref() {
                DeValue::Table(inner) => self.table(&path, inner, place),
                DeValue::Array(items)
                    if items
                        .iter()
                        .next()
                        .is_some_and(|item| matches!(item.get_ref(), DeValue::Table(_))) =>
                {
                    let mut count = 0;
                    for item in items.iter() {
                        match item.get_ref() {
                            DeValue::Table(inner) => self.table(&format!("{path}[{count}]"), inner, place),
                            _ => self.wrong(&path, place_here.as_deref(), "mixes tables and values"),
                        }
                        count += 1;
                    }
                    self.counts.insert(path, count);
                }
                other => match simple(other) {
                    Ok(value) => {
                        self.entries.insert(path, Entry { value, place: place_here });
                    }
                    Err(why) => self.wrong(&path, place_here.as_deref(), why),
                },
            }
        }
    }

    fn wrong(&mut self, path: &str, place: Option<&str>, why: &str) {
        self.mistakes.push(format!("{}: {path}: {why}", place.unwrap_or("defaults")));
    }
}

/// A value that is no table.
fn simple(value: &DeValue<'_>) -> Result<Value, &'static str> {
    Ok(match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(int) => Value::Int(
            i64::from_str_radix(int.as_str(), int.radix()).map_err(|_| "a whole number beyond 64 bits")?,
        ),
        DeValue::Float(float) => Value::Float(float.as_str().parse().map_err(|_| "not a number")?),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| simple(item.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Datetime(_) => {
            return Err("a date, which no setting takes; put it in quotes if you mean a text");
        }
        DeValue::Table(_) => return Err("a table inside a list, which no setting takes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULTS: &str = r#"
[camera]
width = 0
fps = 6.0
name = "camera"
flip = false
mask = []
[[line]]
name = "middle"
from = [0.5, 0.0]
"#;

    fn laid(text: &str) -> Values {
        let mut values = Values::new(DEFAULTS);
        values.lay_over(text, "x.toml");
        values
    }

    #[test]
    fn the_users_values_win_and_the_rest_stays() {
        let mut values = laid("camera.width = 640\n[camera]\nfps = 15 # a whole number is a number\n");
        // A dotted key and its table in one file is a mistake of TOML itself.
        assert_eq!(values.mistakes.len(), 1);
        values = laid("[camera]\nwidth = 640\nfps = 15\n");
        assert_eq!(values.int("camera.width", 0..=4096), 640);
        assert_eq!(values.float("camera.fps", 0.1..=60.0), 15.0);
        assert_eq!(
            (values.text("camera.name"), values.bool("camera.flip"), values.count("line")),
            ("camera", false, 1)
        );
        assert!(values.is_set("camera.width") && !values.is_set("camera.name"));
        assert_eq!(values.into_mistakes(), Vec::<String>::new());
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_line_key_value_and_range() {
        let mut values = laid(
            "[camera]\nwidht = 640\nfps = 99.0\nname = 3\nflip = 1979-05-27\n\n[[line]]\nname = \"a\"\nform = [0, 1]\n[[lime]]\nx = 1\n[uplink]\nurl = \"x\"\n",
        );
        values.float("camera.fps", 0.1..=60.0);
        values.mistake("line[0].from", "must lie in the picture");
        let mut mistakes = values.into_mistakes();
        mistakes.sort();
        assert_eq!(
            mistakes,
            [
                "defaults: line[0].from = [0.5, 0.0]: must lie in the picture",
                "x.toml: [[lime]] is not a setting",
                "x.toml:11: 'lime[0].x' is not a setting",
                "x.toml:13: 'uplink.url' is not a setting",
                "x.toml:2: 'camera.widht' is not a setting; did you mean 'camera.width'?",
                "x.toml:3: camera.fps = 99.0: must be 0.1..=60.0",
                "x.toml:4: camera.name = 3: must be a text in quotes",
                "x.toml:5: camera.flip: a date, which no setting takes; put it in quotes if you mean a text",
                "x.toml:9: 'line[0].form' is not a setting; did you mean 'line[].from'?",
            ]
        );
    }

    #[test]
    fn a_users_tables_replace_the_default_ones() {
        let values = laid("[[line]]\nname = \"a\"\n[[line]]\nfrom = [0.0, 1.0]\n");
        assert_eq!(values.count("line"), 2);
        assert_eq!((values.text("line[0].name"), values.text("line[1].name")), ("a", "middle"));
        assert_eq!(values.list("line[1].from"), [Value::Float(0.0), Value::Float(1.0)]);
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let mistakes = laid("[camera]\nwidth = \n").into_mistakes();
        assert!(mistakes.len() == 1 && mistakes[0].starts_with("x.toml:2: "), "{mistakes:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_laid_over_or_refused(text in "\\PC{0,80}", toml in "[a-z\\[\\]=.0-9\"\n ]{0,80}") {
            laid(&text);
            laid(&toml);
            laid(&format!("[camera]\n{toml}"));
        }

        #[test]
        fn printed_values_read_back(text in "\\PC{0,30}", int in any::<i64>(), float in any::<f64>()) {
            prop_assume!(float.is_finite());
            let list = Value::List(vec![Value::Text(text), Value::Int(int), Value::Float(float), Value::Bool(true)]);
            let source = format!("a = {list}");
            let parsed = DeTable::parse(&source).unwrap();
            prop_assert_eq!(simple(parsed.get_ref().get("a").unwrap().get_ref()).unwrap(), list);
        }
    }
}
