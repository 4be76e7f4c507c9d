//! Writes metrics as OpenMetrics 1.0, or in Prometheus's older text format, without heap calls.
//!
//! A page is a row of families; a family is its metadata and then its samples:
//! ```text
//! # TYPE flytrap_frames_captured counter
//! # HELP flytrap_frames_captured Frames that the sources announced.
//! flytrap_frames_captured_total{camera="north"} 1204
//! # EOF
//! ```
//! [`Exposition`] writes `flytrap`, the name, the unit and `_total` in their order, so that a table of names without prefix and unit is
//! enough. Values are in base units (seconds, bytes, ratios), which [`Decimal`] makes exactly from our whole milliseconds and
//! microseconds. **What is not known has no sample**: no 0, no NaN.
//!
//! Both formats, because each has its readers: Prometheus asks for OpenMetrics; `promtool check metrics`, older scrapers and people with
//! curl do not, and get the text format, in which the type of a counter stands under its full name. [`Format::negotiated`] decides.
//!
//! Source: OpenMetrics 1.0.0, <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::fmt::{self, Write};

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Text,
}

impl Format {
    /// What a client gets that sent this `Accept` header: OpenMetrics if it names it, else the text format.
    pub fn negotiated(accept: &[u8]) -> Self {
        let name = b"application/openmetrics-text";
        let named = accept.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name));
        if named { Format::OpenMetrics } else { Format::Text }
    }

    /// The `Content-Type` of a page.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// How the samples of a family are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of values up to each bound, their sum and their number.
    Histogram,
    /// Quantiles, with or without the sum and the number.
    Summary,
    /// Text in labels, such as a version; `_info`.
    Info,
}

impl Kind {
    /// The word of the `# TYPE` line.
    const fn word(self, format: Format) -> &'static str {
        match (self, format) {
            (Kind::Counter, _) => "counter",
            (Kind::Gauge, _) | (Kind::Info, Format::Text) => "gauge",
            (Kind::Histogram, _) => "histogram",
            (Kind::Summary, _) => "summary",
            (Kind::Info, Format::OpenMetrics) => "info",
        }
    }

    /// What the names of samples end with, where a family has samples of one name.
    const fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram | Kind::Summary => "",
        }
    }
}

/// A base unit. It is the end of a family's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things that are counted, or states.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A part of 1, not per cent.
    Ratio,
    /// Degrees Celsius.
    Celsius,
    /// Hertz.
    Hertz,
    /// Bytes per second.
    BytesPerSecond,
}

impl Unit {
    /// Its word; empty for none.
    pub const fn word(self) -> &'static str {
        match self {
            Unit::None => "",
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            Unit::Ratio => "ratio",
            Unit::Celsius => "celsius",
            Unit::Hertz => "hertz",
            Unit::BytesPerSecond => "bytes_per_second",
        }
    }
}

/// Metrics of one name that differ in their labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family<'a> {
    /// The name without prefix, unit, `_total` and `_info`: lower-case letters, digits and `_`.
    pub name: &'a str,
    /// Kind.
    pub kind: Kind,
    /// Unit of the values.
    pub unit: Unit,
    /// Meaning, in one sentence.
    pub help: &'a str,
}

/// Words at the end of a name that belong to samples, or would say the unit or the kind twice.
const RESERVED_ENDINGS: [&str; 7] = ["_total", "_info", "_count", "_sum", "_bucket", "_created", "_"];

impl Family<'_> {
    /// Whether both formats allow the name.
    pub fn is_valid(&self) -> bool {
        let unit = self.unit.word();
        is_name(self.name)
            && !RESERVED_ENDINGS.iter().any(|ending| self.name.ends_with(ending))
            && (unit.is_empty() || !self.name.ends_with(unit))
    }
}

/// Whether a text can be the name of a metric or label: `[a-z_][a-z0-9_]*`.
fn is_name(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, byte)| match byte {
        b'a'..=b'z' | b'_' => true,
        b'0'..=b'9' => at > 0,
        _ => false,
    }) && !text.is_empty()
}

/// A number with a fixed number of decimal places, written exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    digits: u64,
    places: u8,
}

impl Decimal {
    /// A whole number.
    pub const fn whole(number: u64) -> Self {
        Decimal { negative: false, digits: number, places: 0 }
    }

    /// Seconds from milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Decimal { negative: false, digits: millis, places: 3 }
    }

    /// Seconds from microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Decimal { negative: false, digits: micros, places: 6 }
    }

    /// `number` divided by 10 to the power of `places` (at most 18): thousandths of a degree have 3.
    pub const fn scaled(number: i64, places: u8) -> Self {
        let places = if places > 18 { 18 } else { places };
        Decimal { negative: number < 0, digits: number.unsigned_abs(), places }
    }
}

/// The shortest exact form: `1.5`, `0.000001`, `3`. No exponent, no zeros at the end.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut digits, mut places) = (self.digits, u32::from(self.places));
        while places > 0 && digits.is_multiple_of(10) {
            (digits, places) = (digits / 10, places - 1);
        }
        let unit = 10_u64.pow(places);
        let sign = if self.negative && self.digits > 0 { "-" } else { "" };
        write!(f, "{sign}{}", digits / unit)?;
        if places > 0 { write!(f, ".{:01$}", digits % unit, places as usize) } else { Ok(()) }
    }
}

/// The value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// Exact.
    Decimal(Decimal),
    /// A float. One that is not a number has no sample.
    Float(f64),
}

impl From<Decimal> for Value {
    fn from(number: Decimal) -> Self {
        Value::Decimal(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Decimal(Decimal::whole(number))
    }
}

impl From<bool> for Value {
    /// 1 for true, 0 for false.
    fn from(state: bool) -> Self {
        Value::from(u64::from(state))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Float(number)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Decimal(number) => number.fmt(f),
            Value::Float(number) if number.is_infinite() => {
                f.write_str(if *number > 0.0 { "+Inf" } else { "-Inf" })
            }
            Value::Float(number) if number.is_nan() => f.write_str("NaN"),
            // The shortest text that gives the same float again, with an exponent where it is short.
            Value::Float(number) => write!(f, "{number:?}"),
        }
    }
}

/// The contents of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets<'a> {
    /// Inclusive upper bounds, rising, in units of 10 to the power of minus `places`.
    pub bounds: &'a [u64],
    /// Values between each bound and the one before it, and one more count for those above the last.
    pub counts: &'a [u64],
    /// Sum of all values, in the unit of the bounds.
    pub sum: u64,
    /// 6 where bounds and sum are microseconds and the family's unit is seconds.
    pub places: u8,
}

impl Buckets<'_> {
    /// The value below which `permille` of 1000 values are, by a straight line within its bucket, as `histogram_quantile` of Prometheus
    /// estimates it; at most the last bound. Absent while there are no values.
    pub fn quantile(&self, permille: u32) -> Option<Decimal> {
        let all = self.counts.iter().fold(0, |sum: u128, count| sum + u128::from(*count));
        // In thousandths of a value, so that nothing is rounded before the end.
        let rank = all * u128::from(permille.min(1000));
        let (mut below, mut lower) = (0_u128, 0_u64);
        for (upper, count) in self.bounds.iter().zip(self.counts) {
            let inside = u128::from(*count) * 1000;
            if inside > 0 && below + inside >= rank {
                let part = u128::from(upper.saturating_sub(lower)) * (rank - below) / inside;
                return Some(self.decimal(lower + u64::try_from(part).unwrap_or(0)));
            }
            (below, lower) = (below + inside, *upper);
        }
        (all > 0).then(|| self.decimal(lower))
    }

    fn decimal(&self, number: u64) -> Decimal {
        Decimal { negative: false, digits: number, places: self.places.min(18) }
    }
}

/// Labels: names and values. The values may hold any text.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page while it is written. An error is the writer's: the page is full.
#[derive(Debug)]
pub struct Exposition<'w, W> {
    out: &'w mut W,
    format: Format,
    prefix: &'static str,
}

impl<'w, W: Write> Exposition<'w, W> {
    /// An empty page; every name begins with `prefix` and `_`.
    pub fn new(out: &'w mut W, format: Format, prefix: &'static str) -> Self {
        Exposition { out, format, prefix }
    }

    /// Begins a family. Each may be begun once on a page, and its samples are written before the next family begins.
    ///
    /// # Errors
    /// The page is full.
    pub fn family<'p, 'f>(&'p mut self, family: Family<'f>) -> Result<Samples<'p, 'w, 'f, W>, fmt::Error> {
        debug_assert!(family.is_valid(), "{family:?}");
        let mut samples = Samples { page: self, family };
        let format = samples.page.format;
        samples.metadata("TYPE")?;
        writeln!(samples.page.out, "{}", family.kind.word(format))?;
        if format == Format::OpenMetrics && family.unit != Unit::None {
            samples.metadata("UNIT")?;
            writeln!(samples.page.out, "{}", family.unit.word())?;
        }
        samples.metadata("HELP")?;
        let escaped = Escaped { text: family.help, quotes: format == Format::OpenMetrics };
        writeln!(samples.page.out, "{escaped}")?;
        Ok(samples)
    }

    /// Ends the page: a page without this line is not complete. In the text format it is a comment.
    ///
    /// # Errors
    /// The page is full.
    pub fn end(self) -> fmt::Result {
        self.out.write_str("# EOF\n")
    }
}

/// The samples of a family.
#[derive(Debug)]
pub struct Samples<'p, 'w, 'f, W> {
    page: &'p mut Exposition<'w, W>,
    family: Family<'f>,
}

impl<W: Write> Samples<'_, '_, '_, W> {
    /// A sample of a counter or gauge; none if the value is not known.
    ///
    /// # Errors
    /// The page is full.
    pub fn sample(&mut self, labels: Labels<'_>, value: Option<impl Into<Value>>) -> fmt::Result {
        debug_assert!(matches!(self.family.kind, Kind::Counter | Kind::Gauge), "{:?}", self.family);
        let Some(value) = value.map(Into::into) else { return Ok(()) };
        self.line(self.family.kind.suffix(), labels, None, value)
    }

    /// The sample of an info: its labels.
    ///
    /// # Errors
    /// The page is full.
    pub fn info(&mut self, labels: Labels<'_>) -> fmt::Result {
        debug_assert_eq!(self.family.kind, Kind::Info, "{:?}", self.family);
        self.line(self.family.kind.suffix(), labels, None, Value::from(1))
    }

    /// The samples of a histogram.
    ///
    /// # Errors
    /// The page is full.
    pub fn histogram(&mut self, labels: Labels<'_>, buckets: &Buckets<'_>) -> fmt::Result {
        debug_assert_eq!(self.family.kind, Kind::Histogram, "{:?}", self.family);
        debug_assert_eq!(buckets.counts.len(), buckets.bounds.len() + 1, "{:?}", self.family);
        let bounds = buckets.bounds.iter().map(|bound| Value::from(buckets.decimal(*bound)));
        let bounds = bounds.chain([Value::Float(f64::INFINITY)]);
        let mut sum = 0_u64;
        for (bound, count) in bounds.zip(buckets.counts) {
            sum = sum.saturating_add(*count);
            self.line("_bucket", labels, Some(("le", bound)), Value::from(sum))?;
        }
        self.line("_sum", labels, None, buckets.decimal(buckets.sum).into())?;
        self.line("_count", labels, None, Value::from(sum))
    }

    /// The samples of a summary: quantiles (0.5 is `Decimal::scaled(5, 1)`) and their values; without values, none.
    ///
    /// # Errors
    /// The page is full.
    pub fn summary(
        &mut self,
        labels: Labels<'_>,
        quantiles: &[(Decimal, Option<Value>)],
        sum: Option<Value>,
        count: Option<u64>,
    ) -> fmt::Result {
        debug_assert_eq!(self.family.kind, Kind::Summary, "{:?}", self.family);
        for (quantile, value) in quantiles {
            if let Some(value) = value {
                self.line("", labels, Some(("quantile", (*quantile).into())), *value)?;
            }
        }
        if let Some(sum) = sum {
            self.line("_sum", labels, None, sum)?;
        }
        count.map_or(Ok(()), |count| self.line("_count", labels, None, Value::from(count)))
    }

    /// The beginning of a metadata line, with the name as the format has it.
    fn metadata(&mut self, keyword: &str) -> fmt::Result {
        let suffix = match self.page.format {
            Format::OpenMetrics => "",
            Format::Text => self.family.kind.suffix(),
        };
        write!(self.page.out, "# {keyword} ")?;
        self.name(suffix)?;
        self.page.out.write_char(' ')
    }

    /// A line with a sample. `bound` is the label that buckets and quantiles have besides.
    fn line(
        &mut self,
        suffix: &str,
        labels: Labels<'_>,
        bound: Option<(&str, Value)>,
        value: Value,
    ) -> fmt::Result {
        if matches!(value, Value::Float(number) if number.is_nan()) {
            return Ok(());
        }
        self.name(suffix)?;
        let mut before = '{';
        for (name, text) in labels {
            debug_assert!(is_name(name), "{name}");
            write!(self.page.out, "{before}{name}=\"{}\"", Escaped { text, quotes: true })?;
            before = ',';
        }
        if let Some((name, number)) = bound {
            // OpenMetrics wants these numbers to look like floats.
            let whole = matches!(number, Value::Decimal(Decimal { digits, places, .. })
                if digits % 10_u64.pow(u32::from(places)) == 0);
            let point = if whole && self.page.format == Format::OpenMetrics { ".0" } else { "" };
            write!(self.page.out, "{before}{name}=\"{number}{point}\"")?;
            before = ',';
        }
        if before == ',' {
            self.page.out.write_char('}')?;
        }
        writeln!(self.page.out, " {value}")
    }

    fn name(&mut self, suffix: &str) -> fmt::Result {
        let unit = self.family.unit.word();
        let before_unit = if unit.is_empty() { "" } else { "_" };
        write!(self.page.out, "{}_{}{before_unit}{unit}{suffix}", self.page.prefix, self.family.name)
    }
}

/// A text with backslashes and line breaks escaped, and, if asked for, double quotes.
struct Escaped<'a> {
    text: &'a str,
    quotes: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.text;
        let special = |c: char| matches!(c, '\\' | '\n') || (c == '"' && self.quotes);
        while let Some(at) = rest.find(special) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'\n' => "\\n",
                b'"' => "\\\"",
                _ => "\\\\",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const FRAMES: Family<'_> = Family {
        name: "frames_captured",
        kind: Kind::Counter,
        unit: Unit::None,
        help: "Frames that the \"sources\" announced.\nA \\ backslash.",
    };

    fn written(format: Format, write: impl FnOnce(&mut Exposition<'_, String>) -> fmt::Result) -> String {
        let mut text = String::new();
        let mut page = Exposition::new(&mut text, format, "flytrap");
        write(&mut page).unwrap();
        page.end().unwrap();
        text
    }

    #[test]
    fn counters_have_total_and_escaped_help() {
        let write = |page: &mut Exposition<'_, String>| {
            let mut frames = page.family(FRAMES)?;
            frames.sample(&[("camera", "a\"b\\c\nd")], Some(u64::MAX))?;
            frames.sample(&[], None::<u64>)
        };
        assert_eq!(
            written(Format::OpenMetrics, write),
            "# TYPE flytrap_frames_captured counter\n\
             # HELP flytrap_frames_captured Frames that the \\\"sources\\\" announced.\\nA \\\\ backslash.\n\
             flytrap_frames_captured_total{camera=\"a\\\"b\\\\c\\nd\"} 18446744073709551615\n\
             # EOF\n"
        );
        assert_eq!(
            written(Format::Text, write),
            "# TYPE flytrap_frames_captured_total counter\n\
             # HELP flytrap_frames_captured_total Frames that the \"sources\" announced.\\nA \\\\ backslash.\n\
             flytrap_frames_captured_total{camera=\"a\\\"b\\\\c\\nd\"} 18446744073709551615\n\
             # EOF\n"
        );
    }

    #[test]
    fn histograms_count_up_to_each_bound_in_seconds() {
        let family = Family {
            name: "processing",
            kind: Kind::Histogram,
            unit: Unit::Seconds,
            help: "Time of a frame.",
        };
        let buckets = Buckets { bounds: &[5_000, 1_000_000], counts: &[2, 0, 1], sum: 1_204_000, places: 6 };
        let write =
            |page: &mut Exposition<'_, String>| page.family(family)?.histogram(&[("camera", "n")], &buckets);
        assert_eq!(
            written(Format::OpenMetrics, write),
            "# TYPE flytrap_processing_seconds histogram\n\
             # UNIT flytrap_processing_seconds seconds\n\
             # HELP flytrap_processing_seconds Time of a frame.\n\
             flytrap_processing_seconds_bucket{camera=\"n\",le=\"0.005\"} 2\n\
             flytrap_processing_seconds_bucket{camera=\"n\",le=\"1.0\"} 2\n\
             flytrap_processing_seconds_bucket{camera=\"n\",le=\"+Inf\"} 3\n\
             flytrap_processing_seconds_sum{camera=\"n\"} 1.204\n\
             flytrap_processing_seconds_count{camera=\"n\"} 3\n\
             # EOF\n"
        );
        assert!(written(Format::Text, write).contains("le=\"1\"} 2\n"));
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let buckets = |counts| Buckets { bounds: &[100, 200, 400], counts, sum: 0, places: 3 };
        for (counts, permille, expected) in [
            (&[10, 0, 0, 0], 500, Some("0.05")),
            (&[10, 10, 20, 0], 500, Some("0.2")),
            (&[10, 10, 20, 0], 950, Some("0.38")),
            (&[0, 0, 1, 0], 0, Some("0.2")),
            (&[0, 0, 1, 9], 500, Some("0.4")),
            (&[u64::MAX, u64::MAX, 0, 0], 1000, Some("0.2")),
            (&[0, 0, 0, 0], 500, None),
        ] {
            let found = buckets(counts).quantile(permille).map(|decimal| decimal.to_string());
            assert_eq!(found.as_deref(), expected, "{counts:?} {permille}");
        }
    }

    #[test]
    fn summaries_and_infos_leave_out_what_is_not_known() {
        let latency = Family {
            name: "latency",
            kind: Kind::Summary,
            unit: Unit::Seconds,
            help: "From capture to event.",
        };
        let build = Family { name: "build", kind: Kind::Info, unit: Unit::None, help: "This program." };
        let write = |page: &mut Exposition<'_, String>| {
            let quantiles = [
                (Decimal::scaled(5, 1), Some(Decimal::from_millis(40).into())),
                (Decimal::scaled(99, 2), None),
            ];
            page.family(latency)?.summary(&[], &quantiles, None, Some(7))?;
            page.family(build)?.info(&[("version", "1.2")])
        };
        assert_eq!(
            written(Format::OpenMetrics, write),
            "# TYPE flytrap_latency_seconds summary\n\
             # UNIT flytrap_latency_seconds seconds\n\
             # HELP flytrap_latency_seconds From capture to event.\n\
             flytrap_latency_seconds{quantile=\"0.5\"} 0.04\n\
             flytrap_latency_seconds_count 7\n\
             # TYPE flytrap_build info\n\
             # HELP flytrap_build This program.\n\
             flytrap_build_info{version=\"1.2\"} 1\n\
             # EOF\n"
        );
        assert!(written(Format::Text, write).contains("# TYPE flytrap_build_info gauge\n"));
    }

    #[test]
    fn numbers_are_exact_and_short() {
        for (number, text) in [
            (Decimal::whole(0), "0"),
            (Decimal::from_millis(0), "0"),
            (Decimal::from_millis(1), "0.001"),
            (Decimal::from_millis(1500), "1.5"),
            (Decimal::from_micros(u64::MAX), "18446744073709.551615"),
            (Decimal::scaled(-41_250, 3), "-41.25"),
            (Decimal::scaled(-1, 3), "-0.001"),
            (Decimal::scaled(0, 3), "0"),
            (Decimal::scaled(i64::MIN, 99), "-9.223372036854775808"),
        ] {
            assert_eq!(number.to_string(), text);
        }
        for (value, text) in [
            (0.1, "0.1"),
            (1.0, "1.0"),
            (1e300, "1e300"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (-2.5e-9, "-2.5e-9"),
        ] {
            assert_eq!(Value::Float(value).to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_number_has_no_sample() {
        let family = Family { name: "slope", kind: Kind::Gauge, unit: Unit::None, help: "Slope of it." };
        let text = written(Format::OpenMetrics, |page| page.family(family)?.sample(&[], Some(f64::NAN)));
        assert!(!text.contains("NaN") && text.ends_with("slope Slope of it.\n# EOF\n"), "{text}");
    }

    #[test]
    fn names_that_the_formats_reserve_are_refused() {
        for (name, unit) in [
            ("", Unit::None),
            ("9lives", Unit::None),
            ("frames-lost", Unit::None),
            ("Frames", Unit::None),
            ("frames_total", Unit::None),
            ("frames_count", Unit::None),
            ("uptime_seconds", Unit::Seconds),
        ] {
            let family = Family { name, unit, ..FRAMES };
            assert!(!family.is_valid(), "{name}");
        }
        assert!(FRAMES.is_valid());
    }

    #[test]
    fn clients_get_the_format_that_they_name() {
        // As Prometheus 2.42 asks.
        let prometheus =
            b"application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::negotiated(prometheus), Format::OpenMetrics);
        for other in [&b""[..], b"*/*", b"text/plain", b"application/openmetrics"] {
            assert_eq!(Format::negotiated(other), Format::Text);
        }
    }

    /// The samples of an OpenMetrics page: a reader of its own, by the grammar of the specification.
    fn read(page: &str) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
        let page = page.strip_suffix("# EOF\n").expect("the page is complete");
        let mut samples = BTreeMap::new();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let name_end = line.find(['{', ' ']).unwrap();
            let mut labels = BTreeMap::new();
            let mut rest = line[name_end..].chars();
            if line[name_end..].starts_with('{') {
                rest.next();
                loop {
                    let name: String = rest.by_ref().take_while(|c| *c != '=').collect();
                    assert_eq!(rest.next(), Some('"'), "{line}");
                    let mut value = String::new();
                    loop {
                        match rest.next().unwrap() {
                            '"' => break,
                            '\\' => value.push(match rest.next().unwrap() {
                                'n' => '\n',
                                c @ ('"' | '\\') => c,
                                c => panic!("escape {c} in {line}"),
                            }),
                            c => value.push(c),
                        }
                    }
                    labels.insert(name, value);
                    if rest.next().unwrap() == '}' {
                        break;
                    }
                }
            }
            let value = rest.as_str().strip_prefix(' ').unwrap();
            let value = value.replace("+Inf", "inf").parse().unwrap();
            let twice = samples.insert((line[..name_end].to_owned(), labels), value);
            assert_eq!(twice, None, "{line}");
        }
        samples
    }

    proptest! {
        #[test]
        fn a_reader_gets_back_what_was_written(
            label in any::<String>(), help in any::<String>(), micros in any::<u64>(), float in any::<f64>(),
            counts in proptest::collection::vec(0..1_000_000u64, 4),
        ) {
            let family = |name, kind, unit| Family { name, kind, unit, help: &help };
            let labels = [("camera", label.as_str()), ("b", "")];
            let text = written(Format::OpenMetrics, |page| {
                let frames = family("a", Kind::Counter, Unit::Seconds);
                page.family(frames)?.sample(&labels, Some(Decimal::from_micros(micros)))?;
                page.family(family("b", Kind::Gauge, Unit::None))?.sample(&labels[..1], Some(float))?;
                let buckets = Buckets { bounds: &[1, 10, 2000], counts: &counts, sum: micros, places: 3 };
                page.family(family("c", Kind::Histogram, Unit::Seconds))?.histogram(&labels, &buckets)
            });
            let samples = read(&text);
            let own = |own: &[(&str, &str)]| own.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let at = |name: &str, labels: &[(&str, &str)]| samples.get(&(name.to_owned(), own(labels))).copied();
            let seconds = |places: i32| format!("{micros}e-{places}").parse::<f64>().unwrap();
            prop_assert_eq!(at("flytrap_a_seconds_total", &labels), Some(seconds(6)));
            prop_assert_eq!(at("flytrap_b", &labels[..1]), Some(float).filter(|float| !float.is_nan()));
            for (until, le) in [(1, "0.001"), (2, "0.01"), (3, "2.0"), (4, "+Inf")] {
                let sum: u64 = counts[..until].iter().sum();
                let with = [labels[0], labels[1], ("le", le)];
                prop_assert_eq!(at("flytrap_c_seconds_bucket", &with), Some(sum as f64));
            }
            prop_assert_eq!(at("flytrap_c_seconds_count", &labels), Some(counts.iter().sum::<u64>() as f64));
            prop_assert_eq!(at("flytrap_c_seconds_sum", &labels), Some(seconds(3)));
        }

        #[test]
        fn decimals_read_as_the_same_number(number in any::<i64>(), places in 0u8..=18) {
            let text = Decimal::scaled(number, places).to_string();
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            prop_assert!(fraction.len() <= usize::from(places) && !fraction.ends_with('0'));
            let digits = format!("{whole}{fraction:0<width$}", width = usize::from(places));
            prop_assert_eq!(digits.parse::<i64>().unwrap(), number);
        }
    }
}
