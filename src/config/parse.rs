//! A TOML file as a flat list of values, each with the line it was written on. Knows no key.

#![allow(clippy::wildcard_enum_match_arm, reason = "everything but a table or a list of tables is a value")]

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::values::{Entry, Value};

/// A parsed file.
#[derive(Default)]
pub(super) struct Flat {
    /// Every value by its path: `camera.width`, `line[0].name`.
    pub(super) entries: BTreeMap<String, Entry>,
    /// How many tables each array of tables has: `line` -> 2.
    pub(super) counts: BTreeMap<String, usize>,
    /// Values of types that no setting has.
    pub(super) mistakes: Vec<String>,
}

/// Reads `text`. Places are `name:LINE`.
///
/// # Errors
/// The text is not TOML: the place and why.
pub(super) fn parse(text: &str, name: &str) -> Result<Flat, String> {
    let line_of =
        |offset: usize| text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        format!("{name}:{line}: {}", error.message())
    })?;
    let mut flat = Flat::default();
    flat.table("", table.get_ref(), &|offset| format!("{name}:{}", line_of(offset)));
    Ok(flat)
}

impl Flat {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>, place_of: &dyn Fn(usize) -> String) {
        for (key, value) in table {
            let dot = if prefix.is_empty() { "" } else { "." };
            let path = format!("{prefix}{dot}{}", key.get_ref());
            let place = place_of(key.span().start);
            match value.get_ref() {
                DeValue::Table(inner) => self.table(&path, inner, place_of),
                DeValue::Array(items)
                    if items
                        .iter()
                        .next()
                        .is_some_and(|item| matches!(item.get_ref(), DeValue::Table(_))) =>
                {
                    for (index, item) in items.iter().enumerate() {
                        if let DeValue::Table(inner) = item.get_ref() {
                            self.table(&format!("{path}[{index}]"), inner, place_of);
                        } else {
                            self.mistakes.push(format!("{place}: {path}: mixes tables and values"));
                        }
                    }
                    self.counts.insert(path, items.len());
                }
                other => match simple(other) {
                    Ok(value) => {
                        self.entries.insert(path, Entry { value, place: Some(place) });
                    }
                    Err(why) => self.mistakes.push(format!("{place}: {path}: {why}")),
                },
            }
        }
    }
}

/// A value that is not a table.
fn simple(value: &DeValue<'_>) -> Result<Value, &'static str> {
    Ok(match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(int) => Value::Int(
            i64::from_str_radix(int.as_str(), int.radix())
                .map_err(|_| "a whole number that does not fit into 64 bits")?,
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

    proptest! {
        #[test]
        fn printed_values_read_back(text in "\\PC{0,30}", int in any::<i64>(), float in any::<f64>()) {
            prop_assume!(float.is_finite());
            let list = Value::List(vec![Value::Text(text), Value::Int(int), Value::Float(float), Value::Bool(true)]);
            let flat = parse(&format!("a = {list}"), "x").unwrap();
            prop_assert_eq!(&flat.entries["a"].value, &list);
        }
    }
}
