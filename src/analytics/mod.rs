//! Detections in, events out: the tracker and the counter combined.
//!
//! No pictures and no network: the pipeline feeds it with the network's detections, a simulation with the true boxes.

pub mod count;
pub mod track;

use std::time::Duration;

use crate::analytics::count::{Counter, CountingLine};
use crate::analytics::track::{TrackEvent, Tracker};
use crate::base::error::Result;
use crate::base::geometry::{BoxPx, Frame};
use crate::event::{Body, Crossing, Name, TrackBegin, TrackEnd, fixed};
use crate::platform::clock::Mono;
use crate::vision::detect::{ClassId, Detection};

/// Reports a view in which things move and the model detects nothing: from straight above, or with objects far too small. Pure.
#[derive(Debug, Default)]
pub struct UnseenMotion {
    moved: Duration,
    last: Option<Mono>,
    reported: bool,
}

impl UnseenMotion {
    /// Time of motion without a detection after which it is reported: single leaves and headlights do not move for so long.
    const LIMIT: Duration = Duration::from_secs(60);
    /// Longest gap between two frames that counts as motion.
    const STEP_MAX: Duration = Duration::from_secs(1);

    /// A frame was taken at `at`, with motion or not, and this many detections. Returns true when it is to be reported: once, until
    /// something is detected.
    pub fn look(&mut self, at: Mono, moving: bool, detections: u32) -> bool {
        let step = self.last.replace(at).map_or(Duration::ZERO, |last| at.since(last).min(Self::STEP_MAX));
        if detections > 0 {
            (self.moved, self.reported) = (Duration::ZERO, false);
        } else if moving {
            self.moved += step;
        }
        self.moved >= Self::LIMIT && !std::mem::replace(&mut self.reported, true)
    }
}

/// Settings of the tracker and the counter.
#[derive(Debug, Clone)]
pub struct Params {
    /// The tracker.
    pub track: track::Params,
    /// Counting.
    pub count: count::Params,
    /// Counting lines.
    pub lines: Vec<CountingLine>,
}

/// The tracker and the counter of a camera.
pub struct Analytics {
    tracker: Tracker,
    counter: Counter,
    names: Vec<Name>,
}

impl Analytics {
    /// For frames of `width` x `height` and a model with the classes `names`. Takes all its memory ([`Analytics::heap_bytes`]).
    ///
    /// # Errors
    /// `Kind::Config`: a setting out of range.
    pub fn new(params: &Params, (width, height): (u32, u32), names: &[&str]) -> Result<Self> {
        Ok(Analytics {
            tracker: Tracker::new(params.track, width, height, names.iter().copied())?,
            counter: Counter::new(params.count, &params.lines, width, height)?,
            names: names.iter().copied().map(fixed).collect(),
        })
    }

    /// Other settings and lines from the next frame on; tracks continue. The frames have `width` x `height` pixels.
    ///
    /// # Errors
    /// As [`Analytics::new`]; then nothing changed.
    pub fn set(&mut self, params: &Params, (width, height): (u32, u32)) -> Result<()> {
        params.track.check()?;
        self.counter.set(params.count, &params.lines, width, height)?;
        self.tracker.set(params.track)
    }

    /// Bytes on the heap, for the memory plan (I1).
    pub fn heap_bytes(&self) -> usize {
        self.tracker.heap_bytes() + self.counter.heap_bytes() + self.names.len() * size_of::<Name>()
    }

    /// The name of a class; `?` if there is no such class.
    pub fn class_name(&self, class: ClassId) -> &str {
        self.names.get(usize::from(class.0)).map_or("?", Name::as_str)
    }

    /// The tracks.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Processes the detections of the frame of `at`, or of a `region` of it. Calls `on` for each event.
    pub fn update(
        &mut self,
        at: Mono,
        detections: &[Detection],
        region: Option<&BoxPx<Frame>>,
        on: &mut dyn FnMut(Body),
    ) {
        let Analytics { tracker, counter, names } = self;
        let mut emit = |event: TrackEvent<'_>| emit_track(event, names, counter, on);
        match region {
            Some(region) => tracker.update_region(at, region, detections, &mut emit),
            None => tracker.update(at, detections, &mut emit),
        }
        for track in tracker.seen() {
            counter.update(at, track, &mut |crossed| {
                on(Body::Crossing(Crossing {
                    track: crossed.track,
                    class: name_of(names, track.class()),
                    line: crossed.line_name.clone(),
                    direction: crossed.direction,
                    direction_name: crossed.direction_name.clone(),
                    point: crossed.point,
                    score: track.score_mean(),
                }));
            });
        }
    }

    /// Nothing moved in the frame of `at`: tracks stay where they are.
    pub fn still(&mut self, at: Mono, on: &mut dyn FnMut(Body)) {
        let Analytics { tracker, counter, names } = self;
        tracker.still(at, &mut |event| emit_track(event, names, counter, on));
    }

    /// The source has ended at `at`: all tracks end.
    pub fn finish(&mut self, at: Mono, on: &mut dyn FnMut(Body)) {
        let Analytics { tracker, counter, names } = self;
        tracker.finish(at, &mut |event| emit_track(event, names, counter, on));
    }

    /// The frame size changed: all state is dropped.
    pub fn resize(&mut self, width: u32, height: u32) {
        self.tracker.resize(width, height);
        self.counter.resize(width, height);
    }
}

fn name_of(names: &[Name], class: ClassId) -> Name {
    names.get(usize::from(class.0)).cloned().unwrap_or_default()
}

/// A track's begin or end as an event; the counter forgets a track that ended.
fn emit_track(event: TrackEvent<'_>, names: &[Name], counter: &mut Counter, on: &mut dyn FnMut(Body)) {
    match event {
        TrackEvent::Began(track) => on(Body::TrackBegin(TrackBegin {
            track: track.id(),
            class: name_of(names, track.class()),
            score: track.score_last(),
            bbox: track.bbox().to_array(),
        })),
        TrackEvent::Ended { track, reason } => {
            counter.forget(track.id());
            on(Body::TrackEnd(TrackEnd {
                track: track.id(),
                class: name_of(names, track.class()),
                frames: track.frames(),
                seen_ms: track.last_seen().since(track.first_seen()).as_millis() as u64,
                from: track.first_point(),
                to: track.last_point(),
                reason,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::geometry::PointRel;
    use crate::event::Direction;

    /// A car drives from left to right, past a line at a quarter of the picture; then lines change while it is in the middle.
    #[test]
    fn lines_change_while_tracks_go_on() {
        let line = |name: &str, x: f32| CountingLine {
            name: fixed(name),
            a: PointRel { x, y: 1.0 },
            b: PointRel { x, y: 0.0 },
            ..CountingLine::middle()
        };
        let params = |lines: &[CountingLine]| Params {
            track: track::Params::default(),
            count: count::Params::default(),
            lines: lines.to_vec(),
        };
        let size = (640, 360);
        let mut analytics = Analytics::new(&params(&[line("a", 0.25)]), size, &["car"]).unwrap();
        let mut seen = Vec::new();
        let mut drive = |analytics: &mut Analytics, frames: std::ops::Range<u64>| {
            for frame in frames {
                let x = 20.0 * frame as f32;
                let bbox = BoxPx::new(x, 150.0, x + 60.0, 200.0);
                let car = Detection { bbox, score: 0.9, class: ClassId(0) };
                let mut on = |body: Body| {
                    if let Body::Crossing(crossing) = &body {
                        assert_eq!(crossing.direction, Direction::Forward);
                        seen.push(crossing.line.to_string());
                    } else {
                        seen.push(body.kind().to_owned());
                    }
                };
                analytics.update(Mono::from_nanos(frame * 200_000_000), &[car], None, &mut on);
            }
            std::mem::take(&mut seen)
        };
        assert_eq!(drive(&mut analytics, 0..15), ["track.begin", "a"]);
        // The same line in another place of the list, one ahead, and one that the car has passed already.
        let lines = [line("passed", 0.3), line("ahead", 0.75), line("a", 0.25)];
        analytics.set(&params(&lines), size).unwrap();
        assert_eq!(drive(&mut analytics, 15..30), ["ahead"]);
        let wrong =
            Params { count: count::Params { frames_min: 0, ..count::Params::default() }, ..params(&lines) };
        assert!(analytics.set(&wrong, size).is_err());
        let twice = [line("a", 0.25), line("a", 0.5)];
        assert!(analytics.set(&params(&twice), size).is_err());
    }

    #[test]
    fn a_minute_of_motion_without_a_detection_is_reported_once() {
        let mut unseen = UnseenMotion::default();
        let mut frame = 0;
        // Frames after which it is reported, at 5 frames a second.
        let mut reported = |unseen: &mut UnseenMotion, frames: u64, moving: bool, detections: u32| {
            let mut at = Vec::new();
            for number in 0..frames {
                frame += 1;
                if unseen.look(Mono::from_nanos(frame * 200_000_000), moving, detections) {
                    at.push(number);
                }
            }
            at
        };
        assert_eq!(reported(&mut unseen, 1000, false, 0), [] as [u64; 0], "nothing moves");
        assert_eq!(reported(&mut unseen, 1000, true, 0), [299]);
        assert_eq!(reported(&mut unseen, 5, true, 1), [] as [u64; 0]);
        assert_eq!(reported(&mut unseen, 299, true, 0), [] as [u64; 0]);
        assert_eq!(
            reported(&mut unseen, 1000, false, 0),
            [] as [u64; 0],
            "what does not move does not count"
        );
        assert_eq!(reported(&mut unseen, 2, true, 0), [0]);
        // A gap between frames is not motion.
        let mut unseen = UnseenMotion::default();
        assert!(!(0..50).any(|hour| unseen.look(Mono::from_nanos(hour * 3_600_000_000_000), true, 0)));
    }
}
