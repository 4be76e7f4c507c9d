//! Points, polygons and counting lines.

use crate::analytics::count::CountingLine;
use crate::base::geometry::{PointRel, Polygon};
use crate::base::limits::{LINES_MAX, MASK_POLYGONS_MAX, NAME_BYTES_MAX, POLYGON_POINTS_MAX};
use crate::config::values::{Value, Values};
use crate::event::{Name, fixed};
use crate::vision::gate::Polygons;

/// A list of polygons, each a list of points.
pub(super) fn polygons(values: &mut Values, key: &str) -> Polygons {
    let mut out = Polygons::new();
    for (index, item) in values.list(key).to_vec().iter().enumerate() {
        let pushed = polygon(item).and_then(|polygon| {
            out.push(polygon).map_err(|_| format!("one too many: there are at most {MASK_POLYGONS_MAX}"))
        });
        if let Err(why) = pushed {
            values.mistake(key, format_args!("polygon {index}: {why}"));
        }
    }
    out
}

fn polygon(value: &Value) -> Result<Polygon, String> {
    let Value::List(corners) = value else {
        return Err("must be a list of corners [x, y]".into());
    };
    if !(3..=POLYGON_POINTS_MAX).contains(&corners.len()) {
        return Err(format!("has {} corners, must have 3 to {POLYGON_POINTS_MAX}", corners.len()));
    }
    let mut polygon = Polygon::new();
    for (index, corner) in corners.iter().enumerate() {
        let point = point(corner).map_err(|why| format!("corner {index}: {why}"))?;
        if polygon.push(point).is_err() {
            return Err("has too many corners".into());
        }
    }
    let area: f32 = (0..polygon.len())
        .map(|i| (polygon[i], polygon[(i + 1) % polygon.len()]))
        .map(|(a, b)| a.x * b.y - b.x * a.y)
        .sum();
    // Half of one 160x90 cell of the gate covers this much.
    if area.abs() / 2.0 < 0.5 / (160.0 * 90.0) {
        return Err("has no area: its corners lie on a line".into());
    }
    Ok(polygon)
}

/// `[x, y]` as fractions of the frame's sides.
fn point(value: &Value) -> Result<PointRel, String> {
    let number = |value: &Value| match value {
        Value::Int(int) => Some(*int as f64),
        Value::Float(float) => Some(*float),
        Value::Bool(_) | Value::Text(_) | Value::List(_) => None,
    };
    let (x, y) = match value {
        Value::List(pair) if pair.len() == 2 => (number(&pair[0]), number(&pair[1])),
        Value::List(_) | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => (None, None),
    };
    let (Some(x), Some(y)) = (x, y) else {
        return Err(format!("{value} must be a point [x, y]"));
    };
    if !(0.0..=1.0).contains(&x) || !(0.0..=1.0).contains(&y) {
        return Err(format!(
            "{value} must lie in the picture, 0.0 to 1.0 (parts of its width and height, not pixels)"
        ));
    }
    Ok(PointRel { x: x as f32, y: y as f32 })
}

/// The counting lines.
pub(super) fn lines(values: &mut Values) -> Vec<CountingLine> {
    let count = values.count("line");
    if count > LINES_MAX {
        values
            .mistake(&format!("line[{LINES_MAX}].name"), format_args!("there are at most {LINES_MAX} lines"));
    }
    let mut lines: Vec<CountingLine> = Vec::new();
    for index in 0..count.min(LINES_MAX) {
        let key = |field: &str| format!("line[{index}].{field}");
        let line = CountingLine {
            name: label(values, &key("name")),
            a: end(values, &key("from")),
            b: end(values, &key("to")),
            forward: label(values, &key("forward")),
            backward: label(values, &key("backward")),
        };
        if !values.has_mistakes()
            && let Err(error) = line.check()
        {
            values.mistake_without_value(&key("from"), error);
        }
        if lines.iter().any(|other| other.name == line.name) {
            values.mistake(&key("name"), "must be a name of its own");
        }
        lines.push(line);
    }
    lines
}

fn end(values: &mut Values, key: &str) -> PointRel {
    point(values.get(key)).unwrap_or_else(|why| {
        values.mistake_without_value(key, why);
        PointRel { x: 0.5, y: 0.5 }
    })
}

fn label(values: &mut Values, key: &str) -> Name {
    let text = values.text(key).to_owned();
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        values.mistake(key, format_args!("must have 1 to {NAME_BYTES_MAX} bytes"));
    }
    fixed(&text)
}
