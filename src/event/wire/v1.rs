//! Version 1 of the event record, frozen: these types are its form, and nothing in this file may change what they write or read.
//!
//! Uses only the types in this file, none of today's [`crate::event`]: sizes of texts, enums and points are spelled out. The conversions at
//! the end follow today's types.

use heapless::String;
use serde::{Deserialize, Serialize};

use crate::base::geometry::PointPx;
use crate::event::{self, Name, Text, fixed};
use crate::platform::clock::Mono;

/// What happened, when, and who saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    seq: u64,
    at: u64,
    camera: String<32>,
    body: Body,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Body {
    Started { version: String<32>, model: String<32> },
    Stopping { reason: String<160> },
    TrackBegin { track: u64, class: String<32>, score: f32, bbox: [f32; 4] },
    TrackEnd(TrackEnd),
    Crossing(Crossing),
    Stats(Stats),
    CameraLost { reason: String<160> },
    CameraBack { absent_ms: u64, width: u32, height: u32 },
    Restarted { starts: u64, failures: u64, clean: bool, reason: String<160> },
    Degraded { reason: String<160> },
    Dropped { class: String<32>, reason: String<32>, events: u64, total: u64 },
    Storage(Storage),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TrackEnd {
    track: u64,
    class: String<32>,
    frames: u32,
    seen_ms: u64,
    from: [f32; 2],
    to: [f32; 2],
    reason: EndReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum EndReason {
    Lost,
    Evicted,
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Crossing {
    track: u64,
    class: String<32>,
    line: String<32>,
    direction: Direction,
    direction_name: String<32>,
    point: [f32; 2],
    score: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Direction {
    Forward,
    Backward,
}

/// A body that is all numbers, and its conversions: younger fields are 0, or left out.
macro_rules! numbers {
    ($body:ident { $($name:ident)* }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
        struct $body {
            $($name: u64,)*
        }

        impl From<$body> for event::$body {
            fn from(old: $body) -> Self {
                event::$body { $($name: old.$name,)* ..Default::default() }
            }
        }

        impl From<&event::$body> for $body {
            fn from(new: &event::$body) -> Self {
                $body { $($name: new.$name,)* }
            }
        }
    };
}

numbers!(Stats {
    uptime_ms frames_captured frames_camera_dropped frames_skipped frames_ring_dropped frames_corrupt frames_gated frames_still
    inferences detections candidates_dropped detections_dropped tracks tracks_evicted crossings camera_losses events events_dropped
    events_delivered send_failures events_refused last_frame_age_ms last_delivery_age_ms rss_bytes processing_us
});

numbers!(Storage {
    waiting disk_bytes written_bytes written_day_bytes commits failures dropped damaged dead
});

// From here on: today's types.

impl From<Event> for event::Event {
    fn from(old: Event) -> Self {
        let Event { seq, at, camera, body } = old;
        event::Event { seq, at: Mono::from_nanos(at), camera: name(&camera), body: body.into() }
    }
}

impl From<&event::Event> for Event {
    fn from(new: &event::Event) -> Self {
        let event::Event { seq, at, camera, body } = new;
        Event { seq: *seq, at: at.as_nanos(), camera: fixed(camera), body: body.into() }
    }
}

fn name(old: &str) -> Name {
    fixed(old)
}

fn text(old: &str) -> Text {
    fixed(old)
}

fn point([x, y]: [f32; 2]) -> PointPx {
    PointPx { x, y }
}

impl From<Body> for event::Body {
    fn from(old: Body) -> Self {
        match old {
            Body::Started { version, model } => {
                event::Body::Started(event::Started { version: name(&version), model: name(&model) })
            }
            Body::Stopping { reason } => event::Body::Stopping { reason: text(&reason) },
            Body::TrackBegin { track, class, score, bbox } => {
                event::Body::TrackBegin(event::TrackBegin { track, class: name(&class), score, bbox })
            }
            Body::TrackEnd(end) => event::Body::TrackEnd(end.into()),
            Body::Crossing(crossing) => event::Body::Crossing(crossing.into()),
            Body::Stats(stats) => event::Body::Stats(stats.into()),
            Body::CameraLost { reason } => event::Body::CameraLost { reason: text(&reason) },
            Body::CameraBack { absent_ms, width, height } => {
                event::Body::CameraBack { absent_ms, width, height }
            }
            Body::Restarted { starts, failures, clean, reason } => {
                event::Body::Restarted(event::Restarted { starts, failures, clean, reason: text(&reason) })
            }
            Body::Degraded { reason } => event::Body::Degraded { reason: text(&reason) },
            Body::Dropped { class, reason, events, total } => {
                let (class, reason) = (name(&class), name(&reason));
                event::Body::Dropped(event::Dropped { class, reason, events, total })
            }
            Body::Storage(storage) => event::Body::Storage(storage.into()),
        }
    }
}

impl From<TrackEnd> for event::TrackEnd {
    fn from(old: TrackEnd) -> Self {
        let TrackEnd { track, class, frames, seen_ms, from, to, reason } = old;
        let reason = match reason {
            EndReason::Lost => event::EndReason::Lost,
            EndReason::Evicted => event::EndReason::Evicted,
            EndReason::Stopped => event::EndReason::Stopped,
        };
        let (from, to) = (point(from), point(to));
        event::TrackEnd { track, class: name(&class), frames, seen_ms, from, to, reason }
    }
}

impl From<Crossing> for event::Crossing {
    fn from(old: Crossing) -> Self {
        let Crossing { track, class, line, direction, direction_name, point: at, score } = old;
        event::Crossing {
            track,
            class: name(&class),
            line: name(&line),
            direction: match direction {
                Direction::Forward => event::Direction::Forward,
                Direction::Backward => event::Direction::Backward,
            },
            direction_name: name(&direction_name),
            point: point(at),
            score,
        }
    }
}

impl From<&event::Body> for Body {
    fn from(new: &event::Body) -> Self {
        match new {
            event::Body::Started(event::Started { version, model }) => {
                Body::Started { version: fixed(version), model: fixed(model) }
            }
            event::Body::Stopping { reason } => Body::Stopping { reason: fixed(reason) },
            event::Body::TrackBegin(event::TrackBegin { track, class, score, bbox }) => {
                Body::TrackBegin { track: *track, class: fixed(class), score: *score, bbox: *bbox }
            }
            event::Body::TrackEnd(end) => Body::TrackEnd(end.into()),
            event::Body::Crossing(crossing) => Body::Crossing(crossing.into()),
            event::Body::Stats(stats) => Body::Stats(stats.into()),
            event::Body::CameraLost { reason } => Body::CameraLost { reason: fixed(reason) },
            event::Body::CameraBack { absent_ms, width, height } => {
                Body::CameraBack { absent_ms: *absent_ms, width: *width, height: *height }
            }
            event::Body::Restarted(event::Restarted { starts, failures, clean, reason }) => {
                Body::Restarted { starts: *starts, failures: *failures, clean: *clean, reason: fixed(reason) }
            }
            event::Body::Degraded { reason } => Body::Degraded { reason: fixed(reason) },
            event::Body::Dropped(event::Dropped { class, reason, events, total }) => {
                Body::Dropped { class: fixed(class), reason: fixed(reason), events: *events, total: *total }
            }
            event::Body::Storage(storage) => Body::Storage(storage.into()),
            event::Body::Alert(event::Alert { text, .. }) => Body::Degraded { reason: fixed(text) },
            event::Body::CameraStats(_) | event::Body::Machine(_) => {
                unreachable!("version 1 does not have this kind, see Event::holds_in")
            }
        }
    }
}

impl From<&event::TrackEnd> for TrackEnd {
    fn from(new: &event::TrackEnd) -> Self {
        let event::TrackEnd { track, class, frames, seen_ms, from, to, reason } = new;
        TrackEnd {
            track: *track,
            class: fixed(class),
            frames: *frames,
            seen_ms: *seen_ms,
            from: [from.x, from.y],
            to: [to.x, to.y],
            reason: match reason {
                event::EndReason::Lost => EndReason::Lost,
                event::EndReason::Evicted => EndReason::Evicted,
                event::EndReason::Stopped => EndReason::Stopped,
            },
        }
    }
}

impl From<&event::Crossing> for Crossing {
    fn from(new: &event::Crossing) -> Self {
        let event::Crossing { track, class, line, direction, direction_name, point, score } = new;
        Crossing {
            track: *track,
            class: fixed(class),
            line: fixed(line),
            direction: match direction {
                event::Direction::Forward => Direction::Forward,
                event::Direction::Backward => Direction::Backward,
            },
            direction_name: fixed(direction_name),
            point: [point.x, point.y],
            score: *score,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name32() -> impl Strategy<Value = String<32>> {
        "\\PC{0,40}".prop_map(|text| fixed(&text))
    }

    fn text160() -> impl Strategy<Value = String<160>> {
        "\\PC{0,200}".prop_map(|text| fixed(&text))
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), Just(u64::MAX), 0..1000u64]
    }

    /// Any event of version 1, of every kind. Floats are numbers, so that they can be compared.
    pub(crate) fn any_event() -> impl Strategy<Value = Event> {
        let real = -1e9f32..1e9;
        let pair = [real.clone(), real.clone()];
        let body = prop_oneof![
            (name32(), name32()).prop_map(|(version, model)| Body::Started { version, model }),
            text160().prop_map(|reason| Body::Stopping { reason }),
            text160().prop_map(|reason| Body::CameraLost { reason }),
            text160().prop_map(|reason| Body::Degraded { reason }),
            (number(), name32(), real.clone(), [real.clone(), real.clone(), real.clone(), real.clone()])
                .prop_map(|(track, class, score, bbox)| Body::TrackBegin { track, class, score, bbox }),
            (
                (number(), name32(), any::<u32>(), number()),
                (pair.clone(), pair.clone()),
                prop_oneof![Just(EndReason::Lost), Just(EndReason::Evicted), Just(EndReason::Stopped)],
            )
                .prop_map(|((track, class, frames, seen_ms), (from, to), reason)| {
                    Body::TrackEnd(TrackEnd { track, class, frames, seen_ms, from, to, reason })
                }),
            (
                (number(), name32(), name32(), name32()),
                prop_oneof![Just(Direction::Forward), Just(Direction::Backward)],
                pair,
                real,
            )
                .prop_map(|((track, class, line, direction_name), direction, point, score)| {
                    Body::Crossing(Crossing { track, class, line, direction, direction_name, point, score })
                }),
            proptest::collection::vec(number(), 25).prop_map(|n| Body::Stats(stats(&n))),
            proptest::collection::vec(number(), 9).prop_map(|n| Body::Storage(storage(&n))),
            (number(), any::<u32>(), any::<u32>()).prop_map(|(absent_ms, width, height)| Body::CameraBack {
                absent_ms,
                width,
                height
            }),
            (number(), number(), any::<bool>(), text160()).prop_map(|(starts, failures, clean, reason)| {
                Body::Restarted { starts, failures, clean, reason }
            }),
            (name32(), name32(), number(), number())
                .prop_map(|(class, reason, events, total)| Body::Dropped { class, reason, events, total }),
        ];
        (number(), number(), name32(), body).prop_map(|(seq, at, camera, body)| Event {
            seq,
            at,
            camera,
            body,
        })
    }

    /// Numbers in the order of the fields: postcard writes them one after the other.
    fn stats(numbers: &[u64]) -> Stats {
        from_numbers(numbers)
    }

    fn storage(numbers: &[u64]) -> Storage {
        from_numbers(numbers)
    }

    fn from_numbers<T: for<'a> Deserialize<'a>>(numbers: &[u64]) -> T {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| postcard::to_stdvec(n).unwrap()).collect();
        let (body, rest) = postcard::take_from_bytes(&bytes).unwrap();
        assert!(rest.is_empty(), "more numbers than fields");
        body
    }

    /// The record, as the program of version 1 wrote it.
    pub(crate) fn record(event: &Event) -> Vec<u8> {
        let mut bytes = vec![1];
        bytes.extend(postcard::to_stdvec(event).unwrap());
        bytes
    }
}
