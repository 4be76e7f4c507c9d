//! Rows of the table as families of an OpenMetrics page, in base units.

use std::fmt::{Result, Write};

use crate::metrics::table::{self, Metric};
use crate::status::openmetrics::{Decimal, Exposition, Family, Kind, Unit, Value};

/// Writes a family for each row, of one sample without labels.
pub fn families<'a, W: Write>(
    page: &mut Exposition<'_, W>,
    prefix: &str,
    rows: impl Iterator<Item = (&'a Metric, u64)>,
) -> Result {
    for (metric, value) in rows {
        family(page, prefix, metric, std::iter::once((None, value)))?;
    }
    Ok(())
}

/// Writes the family of a row with its samples: a camera's name and its value. Without a sample it is left out; so are histograms, which
/// have more than a value.
pub fn family<'a, W: Write>(
    page: &mut Exposition<'_, W>,
    prefix: &str,
    metric: &Metric,
    samples: impl Iterator<Item = (Option<&'a str>, u64)>,
) -> Result {
    let (unit, convert): (Unit, fn(u64) -> Value) = match metric.unit {
        table::Unit::Count => (Unit::None, |value| Decimal::whole(value).into()),
        table::Unit::Bytes => (Unit::Bytes, |value| Decimal::whole(value).into()),
        table::Unit::Milliseconds => (Unit::Seconds, |value| Decimal::from_millis(value).into()),
        table::Unit::Microseconds => (Unit::Seconds, |value| Decimal::from_micros(value).into()),
        table::Unit::Permille => (Unit::Ratio, |value| Decimal::scaled(value as i64, 3).into()),
        table::Unit::Millihertz => (Unit::Hertz, |value| Decimal::scaled(value as i64, 3).into()),
        table::Unit::Kilohertz => (Unit::Hertz, |value| Decimal::whole(value.saturating_mul(1000)).into()),
        table::Unit::Millicelsius => (Unit::Celsius, |value| Decimal::scaled(value as i64, 3).into()),
    };
    let kind = match metric.kind {
        table::Kind::Counter => Kind::Counter,
        table::Kind::Gauge | table::Kind::Age | table::Kind::Reading => Kind::Gauge,
        table::Kind::Histogram => return Ok(()),
    };
    let mut name = heapless::String::<64>::new();
    let base = metric.name.trim_end_matches(metric.unit.suffix());
    // The table's names are shorter, see its test.
    let _fits = name.push_str(prefix).and_then(|()| name.push_str(base));
    let mut samples = samples.filter_map(|(label, value)| Some((label, metric.shown(value)?))).peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut family = page.family(Family { name: &name, kind, unit, help: metric.help })?;
    for (label, value) in samples {
        match label {
            Some(camera) => family.sample(&[("camera", camera)], Some(convert(value)))?,
            None => family.sample(&[], Some(convert(value)))?,
        }
    }
    Ok(())
}
