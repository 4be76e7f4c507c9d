//! Checks that every value is in the range of its table entry. All mistakes are noted; a wrong number is replaced by
//! the nearest allowed one, so that settings that depend on it are checked too.

use super::table::{Kind, Setting};
use super::values::{Value, Values};

/// Checks all of `values`: first the fixed ranges, then those that depend on another setting, in the order of the table.
pub(super) fn check(values: &mut Values) {
    let settings = values.settings();
    let depends = |setting: &Setting| setting.at_least.is_some() || setting.at_most.is_some();
    for wanted in [false, true] {
        for (path, setting) in settings.iter().filter(|(_, setting)| depends(setting) == wanted) {
            if let Err((why, instead)) = within(values, path, setting) {
                values.mistake(path, why);
                values.replace(path, instead);
            }
        }
    }
}

/// `Ok` if the value is allowed; otherwise what it must be, and a replacement.
fn within(values: &Values, path: &str, setting: &Setting) -> Result<(), (String, Value)> {
    match (setting.kind, values.get(path)) {
        (Kind::Whole(least, most), Value::Int(value)) => {
            let bound = |path: Option<&str>, fixed| path.map_or(fixed, |path| values.int(path));
            let range = bound(setting.at_least, least).max(least)..=bound(setting.at_most, most).min(most);
            let apart = setting.special.filter(|(special, _)| !range.contains(special));
            if range.contains(value) || apart.is_some_and(|(special, _)| *value == special) {
                return Ok(());
            }
            let text = format!("must be {}{}..={}", or_special(apart), range.start(), range.end());
            Err((text, Value::Int((*value).min(*range.end()).max(*range.start()))))
        }
        (Kind::Number(least, most), Value::Float(value)) => {
            let bound = |path: Option<&str>, fixed| path.map_or(fixed, |path| values.float(path));
            let range = bound(setting.at_least, least).max(least)..=bound(setting.at_most, most).min(most);
            let apart = setting.special.filter(|(special, _)| !range.contains(&(*special as f64)));
            if range.contains(value) || apart.is_some_and(|(special, _)| *value == special as f64) {
                return Ok(());
            }
            let text = format!("must be {}{:?}..={:?}", or_special(apart), range.start(), range.end());
            Err((text, Value::Float(value.min(*range.end()).max(*range.start()))))
        }
        (Kind::Choice(of), Value::Text(text)) if !of.contains(&text.as_str()) => {
            let names: Vec<String> = of.iter().map(|name| format!("\"{name}\"")).collect();
            Err((format!("must be one of {}", names.join(", ")), setting.default.value()))
        }
        (Kind::Texts, Value::List(list)) if !list.iter().all(|item| matches!(item, Value::Text(_))) => {
            Err(("must be a list of texts in quotes".into(), setting.default.value()))
        }
        (Kind::Wholes(least, most, example), Value::List(list)) => {
            let fine = |item: &Value| matches!(item, Value::Int(value) if (least..=most).contains(value));
            if list.iter().all(fine) {
                return Ok(());
            }
            let text = format!("must be a list of whole numbers, {least}..={most}, such as {example}");
            Err((text, setting.default.value()))
        }
        // Its type was checked when it was set; its other rules are checked where it is read.
        (
            Kind::Switch
            | Kind::Whole(..)
            | Kind::Number(..)
            | Kind::Choice(_)
            | Kind::Text
            | Kind::Texts
            | Kind::Wholes(..)
            | Kind::Point
            | Kind::Polygons,
            Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::List(_),
        ) => Ok(()),
    }
}

fn or_special(special: Option<(i64, &str)>) -> String {
    special.map_or(String::new(), |(special, meaning)| format!("{special} ({meaning}) or "))
}
