//! InfluxDB's line protocol, with nanoseconds: one line an event, two for a crossing.
//!
//! | event | measurement | tags | fields |
//! |---|---|---|---|
//! | `track.begin` | `detection` | `class` | `confidence`, `bbox_x1_f` … `bbox_y2_f`, `track_id` |
//! | `crossing` | `direction` | `class`, `direction`, `line`, `way` | `count` (1), `track_id`, `confidence`, `x`, `y` |
//! | | `class_count` | `class` | `count` (1), `track_id` |
//! | `track.end` | `track` | `class`, `reason` | `track_id`, `frames`, `seen_ms`, `from_x` … `to_y` |
//! | `stats` | `frame` | | `processing_time_ms`, `memory_usage_mb`, and the counters by their names |
//! | `camera.stats` | `camera` | | the metrics by their names |
//! | `machine` | `machine` | | the metrics by their names |
//! | `alert` | `alert` | `rule`, `metric` | `active`, `value`, `limit`, `text` |
//! | all others | `event` | `type` | what the event holds |
//!
//! Every line has the tags `device` and `source` (the camera; for events of the device itself, the device's name), the camera's own tags
//! (`camera.tags`), and the fields `id`,
//! `seq` and `synced` (whether the clock was synchronised). The measurements `frame`, `detection`, `class_count` and `direction`, their
//! tags and fields are those of the Python program that Flytrap began as, so that its dashboards keep working. Its fields per frame
//! (`detection_count`, `motion_pixels`, `queue_depth`) do not exist: nothing about a single frame leaves this device, not even a point.
//!
//! InfluxDB identifies a point by measurement, tags and time, and a second one replaces the first. That makes a repeat harmless, but would
//! merge two events of one frame. So the event's number is in its time: modulo 16 it is added as milliseconds, because VictoriaMetrics has
//! no finer resolution and frames are further apart, and modulo 1000 it replaces the nanoseconds. Where the time is not known (see
//! [`crate::platform::calendar`]) it is the earliest possible one.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use crate::base::geometry::PointPx;
use crate::base::limits::TAGS_BYTES_MAX;
use crate::delivery::uplink::Batch;
use crate::delivery::uplink::labels::Label;
use crate::event::{
    Alert, Body, Crossing, Direction, Dropped, EndReason, Event, Restarted, Started, Stats, TrackBegin,
    TrackEnd,
};
use crate::metrics::table::Metric;

/// Content type.
pub const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// Most bytes of one event, with tags that consist of escapes on both lines of a crossing: a test measures the largest kinds with texts that consist of escapes.
pub const EVENT_BYTES: usize = 1792 + 4 * TAGS_BYTES_MAX;

/// Writes the batch as lines into `out`, which is cleared first.
pub fn write_batch(batch: &Batch<'_>, out: &mut Vec<u8>) {
    out.clear();
    for event in batch.events {
        write_event(&mut Lines { batch, event, out });
    }
}

fn write_event(lines: &mut Lines<'_>) {
    match &lines.event.body {
        Body::TrackBegin(TrackBegin { track, class, score, bbox: [x1, y1, x2, y2] }) => {
            let mut line = lines.begin("detection");
            line.tag("class", class);
            line.float("confidence", *score);
            line.float("bbox_x1_f", *x1);
            line.float("bbox_y1_f", *y1);
            line.float("bbox_x2_f", *x2);
            line.float("bbox_y2_f", *y2);
            line.int("track_id", *track);
            line.end();
        }
        Body::Crossing(crossing) => write_crossing(lines, crossing),
        Body::TrackEnd(end) => write_track(lines, end),
        Body::Stats(stats) => write_stats(lines, stats),
        Body::Started(Started { version, model }) => {
            let mut line = lines.begin_event();
            line.text("version", version);
            line.text("model", model);
            line.end();
        }
        Body::Stopping { reason } | Body::CameraLost { reason } | Body::Degraded { reason } => {
            let mut line = lines.begin_event();
            line.text("reason", reason);
            line.end();
        }
        Body::CameraBack { absent_ms, width, height } => {
            let mut line = lines.begin_event();
            line.int("absent_ms", *absent_ms);
            line.int("width", u64::from(*width));
            line.int("height", u64::from(*height));
            line.end();
        }
        Body::Restarted(Restarted { starts, failures, clean, reason }) => {
            let mut line = lines.begin_event();
            line.int("starts", *starts);
            line.int("failures", *failures);
            line.bool("clean", *clean);
            line.text("reason", reason);
            line.end();
        }
        Body::Dropped(Dropped { class, reason, events, total }) => {
            let mut line = lines.begin_event();
            line.text("class", class);
            line.text("reason", reason);
            line.int("events", *events);
            line.int("total", *total);
            line.end();
        }
        Body::Storage(storage) => write_metrics(lines.begin_event(), storage.entries()),
        Body::CameraStats(stats) => write_metrics(lines.begin("camera"), stats.entries()),
        Body::Machine(machine) => write_metrics(lines.begin("machine"), machine.entries()),
        Body::Alert(alert) => write_alert(lines, alert),
    }
}

fn write_crossing(lines: &mut Lines<'_>, crossing: &Crossing) {
    let Crossing { track, class, line: name, direction, direction_name, point, score } = crossing;
    let mut line = lines.begin("direction");
    line.tag("class", class);
    line.tag("direction", direction_name);
    line.tag("line", name);
    line.tag(
        "way",
        match direction {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
        },
    );
    line.int("count", 1);
    line.int("track_id", *track);
    line.float("confidence", *score);
    line.float("x", point.x);
    line.float("y", point.y);
    line.end();
    let mut line = lines.begin("class_count");
    line.tag("class", class);
    line.int("count", 1);
    line.int("track_id", *track);
    line.end();
}

fn write_track(lines: &mut Lines<'_>, end: &TrackEnd) {
    let TrackEnd { track, class, frames, seen_ms, from, to, reason } = end;
    let mut line = lines.begin("track");
    line.tag("class", class);
    line.tag(
        "reason",
        match reason {
            EndReason::Lost => "lost",
            EndReason::Evicted => "evicted",
            EndReason::Stopped => "stopped",
        },
    );
    line.int("track_id", *track);
    line.int("frames", u64::from(*frames));
    line.int("seen_ms", *seen_ms);
    for (names, PointPx { x, y }) in [(["from_x", "from_y"], from), (["to_x", "to_y"], to)] {
        line.float(names[0], *x);
        line.float(names[1], *y);
    }
    line.end();
}

fn write_stats(lines: &mut Lines<'_>, stats: &Stats) {
    let mut line = lines.begin("frame");
    line.float("processing_time_ms", stats.processing_us as f32 / 1e3);
    line.float("memory_usage_mb", stats.rss_bytes as f32 / 1e6);
    line.metrics(stats.entries());
    line.end();
}

fn write_metrics(mut line: Line<'_>, entries: impl Iterator<Item = (&'static Metric, Option<u64>)>) {
    line.metrics(entries);
    line.end();
}

fn write_alert(lines: &mut Lines<'_>, alert: &Alert) {
    let Alert { rule, active, metric, value, limit, text } = alert;
    let mut line = lines.begin("alert");
    line.tag("rule", rule);
    line.tag("metric", metric);
    line.bool("active", *active);
    for (name, number) in [("value", value), ("limit", limit)] {
        if let Some(number) = number {
            line.int(name, *number);
        }
    }
    line.text("text", text);
    line.end();
}

/// The output for the lines of one event.
struct Lines<'a> {
    batch: &'a Batch<'a>,
    event: &'a Event,
    out: &'a mut Vec<u8>,
}

impl Lines<'_> {
    fn begin(&mut self, measurement: &str) -> Line<'_> {
        let Lines { batch, event, out } = self;
        out.extend_from_slice(measurement.as_bytes());
        let mut line = Line { batch, event, out, fields: 0 };
        let device = &batch.origin.device;
        line.tag("device", device);
        line.tag("source", if event.camera.is_empty() { device } else { &event.camera });
        for Label { key, value } in batch.labels.tags(&event.camera) {
            line.tag(key, value);
        }
        line
    }

    fn begin_event(&mut self) -> Line<'_> {
        let kind = self.event.body.kind();
        let mut line = self.begin("event");
        line.tag("type", kind);
        line
    }
}

/// One line: tags, then fields, then [`Line::end`].
struct Line<'a> {
    batch: &'a Batch<'a>,
    event: &'a Event,
    out: &'a mut Vec<u8>,
    fields: u32,
}

impl Line<'_> {
    /// A tag without a value is left out.
    fn tag(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.put(format_args!(",{name}={}", Tag(value)));
        }
    }

    fn field(&mut self, name: &str, value: impl fmt::Display) {
        let comma = if self.fields == 0 { ' ' } else { ',' };
        self.fields += 1;
        self.put(format_args!("{comma}{name}={value}"));
    }

    /// A number that is not finite is left out.
    fn float(&mut self, name: &str, value: f32) {
        if value.is_finite() {
            self.field(name, value);
        }
    }

    /// Larger than InfluxDB's integers: the largest of those is written.
    fn int(&mut self, name: &str, value: u64) {
        self.field(name, format_args!("{}i", value.min(i64::MAX as u64)));
    }

    /// Rows of the table of metrics as integers; an age that does not exist yet is left out.
    fn metrics(&mut self, entries: impl Iterator<Item = (&'static Metric, Option<u64>)>) {
        for (metric, value) in entries {
            if let Some(value) = value {
                self.int(metric.name, value);
            }
        }
    }

    fn bool(&mut self, name: &str, value: bool) {
        self.field(name, value);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.field(name, Quoted(value));
    }

    fn end(mut self) {
        let Line { batch, event, .. } = self;
        let stamp = batch.calendar.stamp(event.at);
        self.field("id", format_args!("\"{}\"", batch.origin.id(event.seq)));
        self.int("seq", event.seq);
        self.bool("synced", stamp.synchronised);
        let nanos = stamp.time.or(stamp.not_before).unwrap_or(crate::platform::clock::BUILD_UNIX_NANOS);
        let place = (event.seq % 16 * 1_000_000 + event.seq % 1000) as i64;
        let nanos = (nanos - nanos % 1000).saturating_add(place);
        self.put(format_args!(" {nanos}\n"));
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("writing to memory does not fail");
    }
}

/// A tag's value: spaces, commas and equal signs are escaped; a character that a line cannot contain becomes a space.
struct Tag<'a>(&'a str);

impl fmt::Display for Tag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                // A backslash before an escaped character, or at the end, would be ambiguous: it is dropped.
                '\\' => f.write_char('/')?,
                ' ' | ',' | '=' => write!(f, "\\{c}")?,
                c if c.is_control() => f.write_str("\\ ")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A text field.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::uplink::labels::{CameraLabels, Labels};
    use crate::event::tests::{golden, samples, samples_v2, samples_v3};
    use crate::event::{CameraStats, Origin, fixed};
    use crate::platform::calendar::Calendar;
    use crate::platform::clock::{ClockSyncSample, Mono, Wall};

    fn calendar(synchronised: bool) -> Calendar {
        let wall = Wall { unix_nanos: 1_795_421_730 * 1_000_000_000, synchronised };
        ClockSyncSample { mono: Mono::from_nanos(20_000_000_000), wall }.into()
    }

    fn lines(calendar: Calendar, events: &[Event]) -> String {
        let origin =
            Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::from_nanos(5_000_000_000));
        let mut out = b"old".to_vec();
        write_batch(&Batch::new(&origin, calendar, events), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The contract with dashboards: fields may be added, as version 2 did; none is renamed, removed or given another meaning, and a series
    /// (measurement and tags) stays the same. Never edit the golden file.
    #[test]
    fn every_series_and_field_of_version_1_is_still_there() {
        let golden = include_str!("../../../../tests/data/influx-v1.txt");
        let ours = lines(calendar(true), &samples());
        assert_eq!(golden.lines().count(), ours.lines().count());
        for (golden, ours) in golden.lines().zip(ours.lines()) {
            let fields = golden.split_once(' ').unwrap().1.rsplit_once(' ').unwrap().0;
            for field in fields.split(',') {
                assert!(ours.contains(field), "'{field}' is not in {ours}");
            }
            let series_and_time = |line: &str| {
                let (series, rest) = line.split_once(' ').unwrap();
                (series.to_owned(), rest.rsplit_once(' ').unwrap().1.to_owned())
            };
            assert_eq!(series_and_time(golden), series_and_time(ours));
        }
    }

    #[test]
    fn version_2_golden_lines() {
        let golden = include_str!("../../../../tests/data/influx-v2.txt");
        assert_eq!(lines(calendar(true), &samples_v2()), golden, "the lines of the events changed");
    }

    #[test]
    fn version_3_golden_lines() {
        let ours = lines(calendar(true), &samples_v3()[12..]);
        assert_eq!(ours, golden("influx-v3.txt", &ours), "the lines of the events changed");
    }

    #[test]
    fn two_events_of_one_moment_are_two_points_and_a_repeat_is_the_same_point() {
        let first = samples()[4].clone();
        let second = Event { seq: first.seq + 1, ..first.clone() };
        let stamp = |event: &Event| {
            let text = lines(calendar(true), std::slice::from_ref(event));
            text.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(stamp(&first), ["1795421722349678004"; 2]);
        assert_eq!(stamp(&second), ["1795421722350678005"; 2]);
    }

    #[test]
    fn without_a_calendar_the_time_is_the_earliest_possible() {
        let text = lines(ClockSyncSample::UNKNOWN.into(), &samples()[..1]);
        let earliest = crate::platform::clock::BUILD_UNIX_NANOS + 12_345_678_901 - 1_234_567;
        assert!(text.ends_with(&format!("synced=false {}\n", earliest / 1000 * 1000)), "{text}");
    }

    #[test]
    fn names_and_texts_are_escaped() {
        let Body::Crossing(crossing) = &samples()[4].body else { panic!("a crossing") };
        let crossing = Crossing {
            class: fixed("a b,c=d\\"),
            line: fixed("x\ny"),
            direction_name: fixed(""),
            ..crossing.clone()
        };
        let text = lines(calendar(true), &[Event { body: Body::Crossing(crossing), ..samples()[4].clone() }]);
        assert!(
            text.starts_with("direction,device=mast-7,source=north,class=a\\ b\\,c\\=d/,line=x\\ y,way="),
            "{text}"
        );
        let body = Body::Degraded { reason: fixed("say \"no\" \\ \n\u{7f}é") };
        let text = lines(calendar(true), &[Event { body, ..samples()[0].clone() }]);
        assert!(text.contains(r#" reason="say \"no\" \\   é","#), "{text}");
    }

    #[test]
    fn numbers_that_are_not_finite_are_left_out() {
        let begin =
            TrackBegin { track: u64::MAX, class: fixed("car"), score: f32::NAN, bbox: [f32::INFINITY; 4] };
        let text = lines(calendar(true), &[Event { body: Body::TrackBegin(begin), ..samples()[0].clone() }]);
        assert!(text.contains("class=car track_id=9223372036854775807i,id="), "{text}");
    }

    #[test]
    fn the_largest_events_fit_the_estimate() {
        let stats = Stats { last_frame_age_ms: 1, ..Stats::default() };
        let longest = lines(calendar(true), &[Event { body: Body::Stats(stats), ..samples()[0].clone() }]);
        // Each counter up to 18 digits longer, and names of 32 characters that all need escapes.
        assert!(longest.len() + Stats::METRICS.len() * 18 + 3 * 32 <= EVENT_BYTES, "{}", longest.len());
        let stats = CameraStats { last_frame_age_ms: 1, ..CameraStats::default() };
        let longest =
            lines(calendar(true), &[Event { body: Body::CameraStats(stats), ..samples()[0].clone() }]);
        assert!(longest.len() + CameraStats::METRICS.len() * 18 + 3 * 32 <= EVENT_BYTES, "{}", longest.len());
        let name = || fixed(" ".repeat(32).as_str());
        let crossing = Crossing {
            track: u64::MAX,
            class: name(),
            line: name(),
            direction: Direction::Backward,
            direction_name: name(),
            point: PointPx { x: f32::MIN_POSITIVE, y: f32::MIN },
            score: 0.123_456_78,
        };
        let event = Event { seq: u64::MAX, at: Mono::ZERO, camera: name(), body: Body::Crossing(crossing) };
        let tags = format!("k={}", ",".repeat(TAGS_BYTES_MAX - 3));
        let labels = Labels::new([(name(), CameraLabels::new(&[tags], None).unwrap())]);
        let origin = Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::ZERO);
        let mut out = Vec::new();
        write_batch(&Batch::new(&origin, calendar(false), &[event]).with(&labels), &mut out);
        assert!(out.len() > 4 * TAGS_BYTES_MAX && out.len() <= EVENT_BYTES, "{}", out.len());
    }
}
