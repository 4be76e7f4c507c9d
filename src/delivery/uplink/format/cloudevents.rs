//! CloudEvents 1.0 in its JSON format: one object an event, a JSON array for a batch.
//!
//! Decisions:
//! - `id` is `device/boot/seq` and alone already unique (I3); `source` is `/flytrap/<device>` or
//!   `/flytrap/<device>/<camera>`, so that a receiver can subscribe to one camera. `source` + `id` is what the
//!   specification requires to be unique: a repeat of the pair is a repeat of the event.
//! - `time` is present only if the calendar was set when the event was sent (I5). `boottime`, nanoseconds on the boot clock, is always
//!   present: events of one boot can be ordered and spaced without a calendar. It is a string, because a CloudEvents Integer has 32 bits.
//!   `clock` says whether the clock behind `time` was synchronised: `synced` or `unsynced`. Where `time` may be wrong by more than a
//!   second, or is unknown, `notbefore` and `notafter` give the bounds of the event's time, as far as they are known.
//! - Extension attributes have lower-case letters and digits only, as the specification requires.
//! - `data` holds the fields of the kind itself. Pixels are rounded to 2 decimals, scores to 4. A number that is not
//!   finite, and an age that does not exist yet, is `null`. Keys are added, never renamed or removed (decision 0012).
//!
//! Never builds a tree of values: serde writes straight into the caller's buffer.

use std::fmt;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::base::geometry::PointPx;
use crate::base::limits::TAGS_BYTES_MAX;
use crate::delivery::uplink::Batch;
use crate::delivery::uplink::labels::Label;
use crate::event::{Body, BoxSent, Crossing, Direction, EndReason, Event, TrackBegin, TrackEnd};
use crate::metrics::table::Metric;
use crate::platform::clock::Rfc3339;

/// Content type of the batched mode.
pub const CONTENT_TYPE: &str = "application/cloudevents-batch+json";

/// Most bytes of one event as JSON: a test measures the largest kinds with texts that consist of escapes. Encode buffers start with this
/// times the batch; they would grow if it were wrong.
pub const EVENT_BYTES: usize = 2048 + 6 * TAGS_BYTES_MAX;

/// Writes the batch as a JSON array into `out`, which is cleared first.
pub fn write_batch(batch: &Batch<'_>, out: &mut Vec<u8>) {
    out.clear();
    for (index, event) in batch.events.iter().enumerate() {
        out.push(if index == 0 { b'[' } else { b',' });
        write_event(batch, event, out);
    }
    out.push(b']');
}

/// Writes the batch as NDJSON, one object and a line feed for each event, into `out`, which is cleared first.
pub fn write_lines(batch: &Batch<'_>, out: &mut Vec<u8>) {
    out.clear();
    for event in batch.events {
        write_event(batch, event, out);
        out.push(b'\n');
    }
}

/// Appends one event of `batch` as a JSON object to `out`.
fn write_event(batch: &Batch<'_>, event: &Event, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &Envelope { batch, event })
        .expect("writing to memory does not fail and every key is text");
}

/// The JSON object of one event.
struct Envelope<'a> {
    batch: &'a Batch<'a>,
    event: &'a Event,
}

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Envelope { batch, event } = self;
        let stamp = batch.calendar.stamp(event.at);
        let mut object = serializer.serialize_struct("CloudEvent", 12)?;
        object.serialize_field("specversion", "1.0")?;
        object.serialize_field("id", &Shown(batch.origin.id(event.seq)))?;
        object.serialize_field(
            "source",
            &Shown(Source { device: &batch.origin.device, camera: &event.camera }),
        )?;
        object.serialize_field("type", &Shown(format_args!("flytrap.{}", event.body.kind())))?;
        if let Some(time) = stamp.time {
            object.serialize_field("time", &Shown(Rfc3339(time)))?;
        }
        object.serialize_field("boottime", &Shown(event.at.as_nanos()))?;
        object.serialize_field("clock", if stamp.synchronised { "synced" } else { "unsynced" })?;
        for (name, bound) in [("notbefore", stamp.not_before), ("notafter", stamp.not_after)] {
            if let Some(bound) = bound {
                object.serialize_field(name, &Shown(Rfc3339(bound)))?;
            }
        }
        let tags = batch.labels.tags(&event.camera);
        if !tags.is_empty() {
            object.serialize_field("tags", &Shown(Tags(tags)))?;
        }
        object.serialize_field("datacontenttype", "application/json")?;
        object.serialize_field("data", &Data(&event.body))?;
        object.end()
    }
}

/// A value that is serialised as its text.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// `/flytrap/<device>` or `/flytrap/<device>/<camera>`: a URI reference.
struct Source<'a> {
    device: &'a str,
    camera: &'a str,
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/flytrap/{}", Segment(self.device))?;
        if self.camera.is_empty() { Ok(()) } else { write!(f, "/{}", Segment(self.camera)) }
    }
}

/// `key=value,key=value`: an attribute of a CloudEvent is a text or a number, not an object. `%`, `,` and `=` in values are percent-encoded.
struct Tags<'a>(&'a [Label]);

impl fmt::Display for Tags<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Label { key, value }) in self.0.iter().enumerate() {
            write!(f, "{}{key}=", if index > 0 { "," } else { "" })?;
            for c in value.chars() {
                match c {
                    '%' | ',' | '=' => write!(f, "%{:02X}", c as u32)?,
                    _ => fmt::Write::write_char(f, c)?,
                }
            }
        }
        Ok(())
    }
}

/// One segment of a path: all but the unreserved characters of RFC 3986 are percent-encoded.
struct Segment<'a>(&'a str);

impl fmt::Display for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                fmt::Write::write_char(f, char::from(byte))
            }
            other => write!(f, "%{other:02X}"),
        })
    }
}

/// A number with at most `DECIMALS` decimals; `null` if it is not finite.
struct Rounded<const DECIMALS: i32>(f32);

impl<const DECIMALS: i32> Serialize for Rounded<DECIMALS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.0.is_finite() {
            return serializer.serialize_none();
        }
        let scale = 10f64.powi(DECIMALS);
        // `+ 0.0` turns -0.0 into 0.0.
        serializer.serialize_f64((f64::from(self.0) * scale).round() / scale + 0.0)
    }
}

type Pixels = Rounded<2>;
type Score = Rounded<4>;

#[derive(Serialize)]
struct PointJson {
    x: Pixels,
    y: Pixels,
}

impl From<PointPx> for PointJson {
    fn from(point: PointPx) -> Self {
        PointJson { x: Rounded(point.x), y: Rounded(point.y) }
    }
}

fn box_json(bbox: BoxSent) -> [Pixels; 4] {
    bbox.map(Rounded)
}

/// The fields of an event's kind.
struct Data<'a>(&'a Body);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Body::Started(started) => started.serialize(serializer),
            Body::Stopping { reason } | Body::CameraLost { reason } | Body::Degraded { reason } => {
                ReasonJson { reason }.serialize(serializer)
            }
            Body::TrackBegin(begin) => BeginJson::from(begin).serialize(serializer),
            Body::TrackEnd(end) => EndJson::from(end).serialize(serializer),
            Body::Crossing(crossing) => CrossingJson::from(crossing).serialize(serializer),
            Body::Stats(stats) => write_metrics(stats.entries(), serializer),
            &Body::CameraBack { absent_ms, width, height } => {
                BackJson { absent_ms, width, height }.serialize(serializer)
            }
            Body::Restarted(restarted) => restarted.serialize(serializer),
            Body::Dropped(dropped) => dropped.serialize(serializer),
            Body::Storage(storage) => write_metrics(storage.entries(), serializer),
            Body::CameraStats(stats) => write_metrics(stats.entries(), serializer),
            Body::Machine(machine) => write_metrics(machine.entries(), serializer),
            Body::Alert(alert) => alert.serialize(serializer),
        }
    }
}

#[derive(Serialize)]
struct ReasonJson<'a> {
    reason: &'a str,
}

#[derive(Serialize)]
struct BackJson {
    absent_ms: u64,
    width: u32,
    height: u32,
}

#[derive(Serialize)]
struct BeginJson<'a> {
    track: u64,
    class: &'a str,
    score: Score,
    bbox: [Pixels; 4],
}

impl<'a> From<&'a TrackBegin> for BeginJson<'a> {
    fn from(begin: &'a TrackBegin) -> Self {
        let TrackBegin { track, class, score, bbox } = begin;
        BeginJson { track: *track, class, score: Rounded(*score), bbox: box_json(*bbox) }
    }
}

#[derive(Serialize)]
struct EndJson<'a> {
    track: u64,
    class: &'a str,
    frames: u32,
    seen_ms: u64,
    from: PointJson,
    to: PointJson,
    reason: EndReason,
}

impl<'a> From<&'a TrackEnd> for EndJson<'a> {
    fn from(end: &'a TrackEnd) -> Self {
        let TrackEnd { track, class, frames, seen_ms, from, to, reason } = end;
        EndJson {
            track: *track,
            class,
            frames: *frames,
            seen_ms: *seen_ms,
            from: (*from).into(),
            to: (*to).into(),
            reason: *reason,
        }
    }
}

#[derive(Serialize)]
struct CrossingJson<'a> {
    track: u64,
    class: &'a str,
    line: &'a str,
    direction: Direction,
    direction_name: &'a str,
    point: PointJson,
    score: Score,
}

impl<'a> From<&'a Crossing> for CrossingJson<'a> {
    fn from(crossing: &'a Crossing) -> Self {
        let Crossing { track, class, line, direction, direction_name, point, score } = crossing;
        CrossingJson {
            track: *track,
            class,
            line,
            direction: *direction,
            direction_name,
            point: (*point).into(),
            score: Rounded(*score),
        }
    }
}

/// Rows of the table of metrics as an object; an age that does not exist yet is `null`.
fn write_metrics<S: Serializer>(
    entries: impl Iterator<Item = (&'static Metric, Option<u64>)>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for (metric, value) in entries {
        map.serialize_entry(metric.name, &value)?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::uplink::labels::{CameraLabels, Labels};
    use crate::event::tests::{golden, samples, samples_v2, samples_v3};
    use crate::event::{Alert, CameraStats, Origin, Stats, Storage, fixed};
    use crate::platform::clock::{BUILD_UNIX_NANOS, ClockSyncSample, Mono, Wall};

    fn origin() -> Origin {
        Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::from_nanos(5_000_000_000))
    }

    /// 2026-11-23T08:15:30Z at 20 s after boot.
    fn map(synchronised: bool) -> ClockSyncSample {
        let wall = Wall { unix_nanos: 1_795_421_730 * 1_000_000_000, synchronised };
        ClockSyncSample { mono: Mono::from_nanos(20_000_000_000), wall }
    }

    fn value(clock: ClockSyncSample, event: &Event) -> serde_json::Value {
        let origin = origin();
        let mut out = Vec::new();
        write_batch(&Batch::new(&origin, clock, std::slice::from_ref(event)), &mut out);
        let serde_json::Value::Array(mut array) = serde_json::from_slice(&out).unwrap() else {
            panic!("a batch is an array")
        };
        assert_eq!(array.len(), 1);
        array.remove(0)
    }

    #[test]
    fn tags_are_one_attribute() {
        let tags = ["road=A7".to_owned(), "site=a,b=c%".to_owned()];
        let labels = Labels::new([(fixed("north"), CameraLabels::new(&tags, None).unwrap())]);
        let (origin, event) = (origin(), samples()[0].clone());
        let text = |camera: &str| {
            let event = Event { camera: fixed(camera), ..event.clone() };
            let mut out = Vec::new();
            let batch = Batch::new(&origin, map(true), std::slice::from_ref(&event)).with(&labels);
            write_lines(&batch, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert!(text("north").contains(r#""tags":"road=A7,site=a%2Cb%3Dc%25""#), "{}", text("north"));
        assert!(!text("south").contains("tags"));
    }

    fn lines(events: &[Event]) -> String {
        let origin = origin();
        let mut out = Vec::new();
        write_lines(&Batch::new(&origin, map(true), events), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The contract with receivers: keys may be added, as version 2 did; none is renamed, removed or given another meaning. Never edit the
    /// golden file.
    #[test]
    fn every_key_and_value_of_version_1_is_still_there() {
        let golden = include_str!("../../../../tests/data/cloudevents-v1.json");
        let golden: Vec<serde_json::Value> = serde_json::from_str(golden).unwrap();
        let ours = lines(&samples());
        let ours: Vec<serde_json::Value> =
            ours.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(golden.len(), ours.len());
        for (golden, ours) in golden.iter().zip(&ours) {
            for (key, value) in golden.as_object().unwrap().iter().filter(|(key, _)| *key != "data") {
                assert_eq!(ours.get(key), Some(value), "{key} of {ours}");
            }
            for (key, value) in golden["data"].as_object().unwrap() {
                assert_eq!(ours["data"].get(key), Some(value), "{key} of {ours}");
            }
            assert_eq!(golden.as_object().unwrap().len(), ours.as_object().unwrap().len(), "{ours}");
        }
    }

    #[test]
    fn version_2_golden_json() {
        let ours = format!("[\n{}\n]\n", lines(&samples_v2()).trim_end().replace('\n', ",\n"));
        let golden = include_str!("../../../../tests/data/cloudevents-v2.json");
        assert_eq!(ours, golden, "the JSON of the events changed");
    }

    #[test]
    fn version_3_golden_json() {
        let ours = format!("[\n{}\n]\n", lines(&samples_v3()[12..]).trim_end().replace('\n', ",\n"));
        assert_eq!(ours, golden("cloudevents-v3.json", &ours), "the JSON of the events changed");
    }

    #[test]
    fn batch_and_lines_hold_the_same_objects() {
        let (origin, events) = (origin(), samples());
        let batch = Batch::new(&origin, map(true), &events);
        let (mut array, mut lines) = (b"old".to_vec(), b"old".to_vec());
        write_batch(&batch, &mut array);
        write_lines(&batch, &mut lines);
        let joined = std::str::from_utf8(&lines).unwrap().trim_end().replace('\n', ",");
        assert_eq!(std::str::from_utf8(&array).unwrap(), format!("[{joined}]"));
    }

    #[test]
    fn time_is_absent_before_the_build_and_flagged_while_unsynchronised() {
        let event = &samples()[0];
        let unset = ClockSyncSample { wall: Wall { unix_nanos: 0, synchronised: true }, ..map(true) };
        let edge = ClockSyncSample {
            mono: event.at,
            wall: Wall { unix_nanos: BUILD_UNIX_NANOS - 1, synchronised: true },
        };
        for (clock, time, flag) in [
            (map(true), Some("2026-11-23T08:15:22.345Z"), "synced"),
            (map(false), Some("2026-11-23T08:15:22.345Z"), "unsynced"),
            (unset, None, "unsynced"),
            (edge, None, "unsynced"),
        ] {
            let object = value(clock, event);
            assert_eq!(object.get("time").map(|t| t.as_str().unwrap()), time);
            assert_eq!(object["clock"], flag);
            assert_eq!(object.get("notbefore").is_some(), flag == "unsynced");
            assert_eq!(object["boottime"], "12345678901");
        }
    }

    #[test]
    fn attribute_names_are_lower_case_letters_and_digits() {
        for event in samples() {
            let object = value(map(true), &event);
            let names: Vec<&String> = object.as_object().unwrap().keys().collect();
            assert!(names.len() == 9, "{names:?}");
            for name in names {
                assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{name}");
            }
        }
    }

    #[test]
    fn sources_are_uri_references_whatever_the_camera_is_called() {
        for (camera, source) in [
            ("", "/flytrap/mast-7"),
            ("north", "/flytrap/mast-7/north"),
            ("Süd / 2", "/flytrap/mast-7/S%C3%BCd%20%2F%202"),
        ] {
            let event = Event { camera: fixed(camera), ..samples()[0].clone() };
            assert_eq!(value(map(true), &event)["source"], source);
        }
    }

    #[test]
    fn numbers_are_short_and_not_misleading() {
        for (number, text) in [
            (0.1f32 + 0.2, "0.3"),
            (-0.001, "0.0"),
            (1234.567, "1234.57"),
            (f32::NAN, "null"),
            (f32::INFINITY, "null"),
            (f32::NEG_INFINITY, "null"),
            (f32::MAX, "3.4028234663852886e+38"),
        ] {
            assert_eq!(serde_json::to_string(&Rounded::<2>(number)).unwrap(), text);
        }
        assert_eq!(serde_json::to_string(&Rounded::<4>(0.123_456)).unwrap(), "0.1235");
    }

    #[test]
    fn the_largest_events_fit_the_estimate() {
        let numbers = |count: usize| postcard::to_stdvec(&vec![u64::MAX - 1; count]).unwrap();
        let camera: CameraStats = postcard::from_bytes(&numbers(CameraStats::METRICS.len())[1..]).unwrap();
        let stats: Stats = postcard::from_bytes(&numbers(Stats::METRICS.len())[1..]).unwrap();
        let storage: Storage = postcard::from_bytes(&numbers(Storage::METRICS.len())[1..]).unwrap();
        assert!(stats.values().iter().chain(&storage.values()).all(|value| *value == u64::MAX - 1));
        let long = || fixed("\u{1}".repeat(32).as_str());
        let reason = fixed("\u{1}".repeat(160).as_str());
        let point = PointPx { x: f32::MIN, y: f32::MIN };
        let crossing = Crossing {
            track: u64::MAX,
            class: long(),
            line: long(),
            direction: Direction::Backward,
            direction_name: long(),
            point,
            score: f32::MIN,
        };
        let origin = Origin::new(&"m".repeat(32), "3f2a91c0-7d41-4c5e", Mono::from_nanos(u64::MAX));
        let tags = format!("k={}", "\u{1}".repeat(TAGS_BYTES_MAX - 3));
        let labels = Labels::new([(long(), CameraLabels::new(&[tags], None).unwrap())]);
        for body in [
            Body::Stats(stats),
            Body::Storage(storage),
            Body::Crossing(crossing),
            Body::CameraLost { reason: reason.clone() },
            Body::CameraStats(camera),
            Body::Alert(Alert {
                rule: long(),
                active: false,
                metric: long(),
                value: Some(u64::MAX),
                limit: Some(u64::MAX),
                text: reason,
            }),
        ] {
            let event = Event { seq: u64::MAX, at: Mono::from_nanos(u64::MAX), camera: long(), body };
            let mut out = Vec::new();
            let batch = Batch::new(&origin, map(true), std::slice::from_ref(&event)).with(&labels);
            write_lines(&batch, &mut out);
            assert!(out.len() <= EVENT_BYTES, "{}: {}", event.body.kind(), out.len());
        }
    }
}
