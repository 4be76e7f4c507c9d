//! Counts road users that cross lines.
//!
//! Input: tracks seen in a frame; output: crossings, each once. The reference point of a track is the middle of the lower side of its box,
//! where it stands on the ground. Around a line lies a hysteresis band that belongs to neither side; a track has crossed when it was
//! clearly on one side and then clearly on the other, however many frames lie between, and the path between the two points meets the line
//! between its ends.
//!
//! ```text
//!            clearly on a side            clearly on the other, path meets the line
//!   Unknown ──────────────────► On(side) ─────────────────────────────────────────► On(other) + pending crossing
//!      └─ in the band: stays       └─ in the band, or around the line's end: no crossing
//!
//!   pending crossing ──► counted, as soon as the track was seen and has moved enough, if it has not gone back before
//! ```
//!
//! What keeps counts honest:
//! - a car that stops on the line and jitters stays in the band: no crossing. (A counter without a band counted 15.)
//! - each track counts once per line and direction; a U-turn counts once in each direction.
//! - a track must have been seen in [`Params::frames_min`] frames and been [`Params::travel_min`] away from its first point:
//!   a box that flickers over a line is not traffic. A crossing before that waits and is not lost.
//! - the first point is where the *tentative* track was first seen, so late confirmation loses nothing.
//!
//! It allocates nothing after [`Counter::new`], reads no clock, and keeps nothing of a track that lost its slot: state
//! belongs to the track id, not to the slot.

use crate::analytics::track::Track;
use crate::base::error::{Error, Kind, Result};
use crate::base::geometry::{BoxPx, Frame, PointPx, PointRel, side_of};
use crate::base::limits::{LINES_MAX, TRACKS_MAX};
use crate::event::{Direction, Name, fixed};
use crate::platform::clock::Mono;

/// Minimum length of a line, fraction of the frame's diagonal: a fifteenth of a 1280x720 frame's width is 85 px, 0.02 are 29 px.
const LENGTH_MIN: f32 = 0.02;
/// Minimum distance of a line from the edge along which it runs, fraction of the picture's side. A car that is a fifth of the picture wide
/// is wholly visible on both sides of a line at this distance; nearer, the edge cuts its box, and its reference point stops short of the
/// line, or passes it before there is a track.
const EDGE_MIN: f32 = 0.1;
/// Tolerance beyond the ends of a line, pixels: half a pixel is rounding.
const END_TOLERANCE_PX: f32 = 0.5;

/// A counting line in fractions of the frame.
#[derive(Debug, Clone, PartialEq)]
pub struct CountingLine {
    /// Its name.
    pub name: Name,
    /// First end.
    pub a: PointRel,
    /// Second end.
    pub b: PointRel,
    /// Name of the direction from its left side to its right side, looking from `a` to `b`.
    pub forward: Name,
    /// Name of the opposite direction.
    pub backward: Name,
}

impl CountingLine {
    /// The frame's vertical middle, from bottom to top: looking up it, left is the left of the screen, so forward is
    /// `left-to-right`.
    pub fn middle() -> Self {
        CountingLine {
            name: fixed("middle"),
            a: PointRel { x: 0.5, y: 1.0 },
            b: PointRel { x: 0.5, y: 0.0 },
            forward: fixed("left-to-right"),
            backward: fixed("right-to-left"),
        }
    }

    /// The name of a direction.
    pub const fn direction_name(&self, direction: Direction) -> &Name {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Backward => &self.backward,
        }
    }

    /// A warning if the line lies along an edge of the picture, within `EDGE_MIN` of it.
    pub fn edge_warning(&self) -> Option<String> {
        let (a, b) = (self.a, self.b);
        let edges = [
            ("left", a.x.max(b.x)),
            ("right", 1.0 - a.x.min(b.x)),
            ("upper", a.y.max(b.y)),
            ("lower", 1.0 - a.y.min(b.y)),
        ];
        let (edge, _) = edges.into_iter().find(|(_, distance)| *distance < EDGE_MIN)?;
        Some(format!(
            "line '{}' lies within {EDGE_MIN} of the picture's {edge} edge: road users are cut off there before they have crossed it, and \
             not all are counted: move it towards the middle",
            self.name
        ))
    }

    /// Checks the line.
    ///
    /// # Errors
    /// `Kind::Config` with the line's name, the value and the range: ends outside 0..=1, too short, missing names.
    pub fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::fatal(Kind::Config, format!("line '{}': {text}", self.name)));
        for (what, value) in [("a.x", self.a.x), ("a.y", self.a.y), ("b.x", self.b.x), ("b.y", self.b.y)] {
            if !(0.0..=1.0).contains(&value) {
                return wrong(format!("{what} is {value}, allowed is 0 to 1"));
            }
        }
        let length = (self.a.x - self.b.x).hypot(self.a.y - self.b.y) / std::f32::consts::SQRT_2;
        if length < LENGTH_MIN {
            return wrong(format!("its length is {length:.3} of the diagonal, allowed is {LENGTH_MIN} to 1"));
        }
        if self.name.is_empty() || self.forward.is_empty() || self.backward.is_empty() {
            return wrong("it and both its directions need a name".into());
        }
        if self.forward == self.backward {
            return wrong(format!("both directions have the name '{}'", self.forward));
        }
        Ok(())
    }
}

/// Settings of the counter. See [`Params::check`] for the ranges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// Half width of the band, pixels, 0..=100. Default 4: the jitter of a box at rest at 640 pixels of model input.
    pub band_min_px: f32,
    /// Half width of the band, fraction of the box's extent across the line, 0..=1. The larger of both counts. Default 0.1: two standard
    /// deviations of a measured box ([`crate::analytics::track`] takes 1/20 of a side for one).
    pub band_share: f32,
    /// A track must once have been this far from its first point, fraction of the frame's diagonal, 0..=1. Default 0.034: 50 px of a
    /// 1280x720 frame.
    pub travel_min: f32,
    /// A track must have been seen in this many frames, 2..=100. Default 3. The original asks for 10 positions at 30
    /// frames a second, a third of a second; at 2 to 6 frames a second that would be most of a car's passage.
    pub frames_min: u32,
}

impl Default for Params {
    fn default() -> Self {
        Params { band_min_px: 4.0, band_share: 0.1, travel_min: 0.034, frames_min: 3 }
    }
}

impl Params {
    /// Checks all settings.
    ///
    /// # Errors
    /// `Kind::Config` with the name, the value and the range of the first invalid setting.
    pub fn check(&self) -> Result<()> {
        for (name, value, least, most) in [
            ("band_min_px", self.band_min_px, 0.0, 100.0),
            ("band_share", self.band_share, 0.0, 1.0),
            ("travel_min", self.travel_min, 0.0, 1.0),
            ("frames_min", self.frames_min as f32, 2.0, 100.0),
        ] {
            if !(least..=most).contains(&value) {
                let text = format!("counting: {name} is {value}, allowed is {least} to {most}");
                return Err(Error::fatal(Kind::Config, text));
            }
        }
        Ok(())
    }
}

/// A track crossed a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crossed<'a> {
    /// Id of the track.
    pub track: u64,
    /// Index of the line in the list given to [`Counter::new`].
    pub line: usize,
    /// Name of the line.
    pub line_name: &'a Name,
    /// In which direction.
    pub direction: Direction,
    /// The name of that direction.
    pub direction_name: &'a Name,
    /// Time at which the crossing was certain.
    pub at: Mono,
    /// Position of the track at that time, frame pixels.
    pub point: PointPx,
}

/// A line in frame pixels.
#[derive(Debug, Clone)]
struct LinePx {
    line: CountingLine,
    a: PointPx,
    b: PointPx,
    length: f32,
    /// Unit vector from `a` to `b`.
    along: PointPx,
}

impl LinePx {
    fn new(line: CountingLine, width: u32, height: u32) -> Self {
        let (a, b) = (line.a.to_px(width, height), line.b.to_px(width, height));
        let length = (b.x - a.x).hypot(b.y - a.y);
        let along = PointPx { x: (b.x - a.x) / length, y: (b.y - a.y) / length };
        LinePx { line, a, b, length, along }
    }

    /// Signed distance in pixels, positive to the right of the line.
    fn distance(&self, point: PointPx) -> f32 {
        side_of(self.a, self.b, point) / self.length
    }

    /// The box's extent across the line.
    fn extent(&self, bbox: &BoxPx<Frame>) -> f32 {
        self.along.y.abs() * bbox.width() + self.along.x.abs() * bbox.height()
    }

    /// Whether the path from `p` to `q`, which lie on different sides, meets the line between its ends.
    fn met_by(&self, p: PointPx, q: PointPx) -> bool {
        let (from, to) = (self.distance(p), self.distance(q));
        let part = from / (from - to);
        let (x, y) = (p.x + part * (q.x - p.x), p.y + part * (q.y - p.y));
        let along = (x - self.a.x) * self.along.x + (y - self.a.y) * self.along.y;
        (-END_TOLERANCE_PX..=self.length + END_TOLERANCE_PX).contains(&along)
    }
}

/// State of a track with respect to a line.
#[derive(Debug, Clone, Copy, Default)]
struct AtLine {
    /// The side on which it was last seen clearly, and where.
    on: Option<(Side, PointPx)>,
    pending: Option<Direction>,
    forward_done: bool,
    backward_done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// State of the track in a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Id of the track, 0 if there is none.
    track: u64,
    /// Greatest distance from its first point so far, pixels.
    travel: f32,
    lines: [AtLine; LINES_MAX],
}

/// The counter of a camera.
#[derive(Debug)]
pub struct Counter {
    params: Params,
    lines: heapless::Vec<LinePx, LINES_MAX>,
    travel_min_px: f32,
    slots: Box<[Slot]>,
}

impl Counter {
    /// A counter with these lines for frames of `width` x `height` pixels. Takes all its memory ([`Counter::heap_bytes`]).
    ///
    /// # Errors
    /// As [`Params::check`] and [`CountingLine::check`]; more than `limits::LINES_MAX` lines; two of the same name.
    pub fn new(params: Params, lines: &[CountingLine], width: u32, height: u32) -> Result<Self> {
        params.check()?;
        if lines.len() > LINES_MAX {
            let text = format!("counting: {} lines, allowed is 0 to {LINES_MAX}", lines.len());
            return Err(Error::fatal(Kind::Config, text));
        }
        for (index, line) in lines.iter().enumerate() {
            line.check()?;
            if lines[..index].iter().any(|other| other.name == line.name) {
                return Err(Error::fatal(
                    Kind::Config,
                    format!("line '{}': another line has this name: rename one", line.name),
                ));
            }
        }
        let slots = vec![Slot::default(); TRACKS_MAX].into_boxed_slice();
        let mut counter = Counter { params, lines: heapless::Vec::new(), travel_min_px: 0.0, slots };
        counter.lines.extend(lines.iter().map(|line| LinePx::new(line.clone(), width, height)));
        counter.resize(width, height);
        Ok(counter)
    }

    /// Other settings and lines from the next frame on. At a line that stays where it is, tracks keep their state: one that has crossed it
    /// is not counted again. At a new line they begin where they are.
    ///
    /// # Errors
    /// As [`Counter::new`]; then nothing changed.
    pub fn set(&mut self, params: Params, lines: &[CountingLine], width: u32, height: u32) -> Result<()> {
        let mut new = Counter::new(params, lines, width, height)?;
        let place = |line: &LinePx| (line.line.name.clone(), line.line.a, line.line.b);
        for (slot, old) in new.slots.iter_mut().zip(&self.slots) {
            *slot = Slot { track: old.track, travel: old.travel, ..Slot::default() };
            for (state, line) in slot.lines.iter_mut().zip(&new.lines) {
                let before = self.lines.iter().position(|other| place(other) == place(line));
                *state = before.map_or(AtLine::default(), |index| old.lines[index]);
            }
        }
        *self = new;
        Ok(())
    }

    /// Bytes on the heap, for the memory plan (I1).
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }

    /// The frame size changed: all state of tracks is dropped.
    pub fn resize(&mut self, width: u32, height: u32) {
        self.travel_min_px = self.params.travel_min * (width as f32).hypot(height as f32);
        for line in &mut self.lines {
            *line = LinePx::new(line.line.clone(), width, height);
        }
        self.slots.fill(Slot::default());
    }

    /// A confirmed track was seen in the frame of `now`. Calls `on` for each line that it crossed, at most once per line.
    pub fn update(&mut self, now: Mono, track: &Track, on: &mut dyn FnMut(Crossed<'_>)) {
        let Some(slot) = self.slots.get_mut(track.slot()) else { return };
        let (first, point, bbox) = (track.first_point(), track.last_point(), track.bbox());
        if slot.track != track.id() {
            *slot = Slot { track: track.id(), ..Slot::default() };
            // The side of its first point. The band is that of the current box; the first box is not kept.
            for (line, state) in self.lines.iter().zip(&mut slot.lines) {
                state.step(line, first, self.params.band(line, &bbox));
            }
        }
        slot.travel = slot.travel.max((point.x - first.x).hypot(point.y - first.y));
        let ripe = slot.travel >= self.travel_min_px && track.frames() >= self.params.frames_min;
        for (index, (line, state)) in self.lines.iter().zip(&mut slot.lines).enumerate() {
            state.step(line, point, self.params.band(line, &bbox));
            let Some(direction) = state.take(ripe) else { continue };
            let direction_name = line.line.direction_name(direction);
            let line_name = &line.line.name;
            on(Crossed {
                track: track.id(),
                line: index,
                line_name,
                direction,
                direction_name,
                at: now,
                point,
            });
        }
    }

    /// The track has ended. (If its slot is reused, the other track is recognised by its id anyway.)
    pub fn forget(&mut self, track: u64) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.track == track) {
            *slot = Slot::default();
        }
    }
}

impl Params {
    /// Half width of the band for a box, pixels.
    fn band(&self, line: &LinePx, bbox: &BoxPx<Frame>) -> f32 {
        (self.band_share * line.extent(bbox)).max(self.band_min_px)
    }
}

impl AtLine {
    /// Updates the state with the track's position `point`.
    fn step(&mut self, line: &LinePx, point: PointPx, band: f32) {
        let distance = line.distance(point);
        let side = if distance > band {
            Side::Right
        } else if distance < -band {
            Side::Left
        } else {
            return;
        };
        let before = self.on.replace((side, point));
        let Some((side_before, point_before)) = before else { return };
        if side_before == side {
            return;
        }
        // It went back before it was counted: no crossing in either direction.
        let undone = self.pending.take().is_some();
        if !undone && line.met_by(point_before, point) {
            self.pending = Some(match side {
                Side::Right => Direction::Forward,
                Side::Left => Direction::Backward,
            });
        }
    }

    /// The crossing that is to be counted now, if any.
    fn take(&mut self, ripe: bool) -> Option<Direction> {
        if !ripe {
            return None;
        }
        let direction = self.pending.take()?;
        let done = match direction {
            Direction::Forward => &mut self.forward_done,
            Direction::Backward => &mut self.backward_done,
        };
        (!std::mem::replace(done, true)).then_some(direction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_along_an_edge_is_warned_about() {
        let line = |a: (f32, f32), b: (f32, f32)| CountingLine {
            a: PointRel { x: a.0, y: a.1 },
            b: PointRel { x: b.0, y: b.1 },
            ..CountingLine::middle()
        };
        assert_eq!(CountingLine::middle().edge_warning(), None, "its ends lie on two edges");
        for (a, b, edge) in [
            ((0.0, 0.95), (1.0, 0.92), Some("lower")),
            ((0.0, 0.02), (1.0, 0.02), Some("upper")),
            ((0.05, 0.0), (0.05, 1.0), Some("left")),
            ((0.97, 1.0), (0.91, 0.3), Some("right")),
            ((0.0, 0.95), (1.0, 0.8), None),
            ((0.1, 0.0), (0.1, 1.0), None),
        ] {
            let warning = line(a, b).edge_warning();
            let words = edge.map(|edge| format!("{edge} edge"));
            assert_eq!(warning.is_some(), edge.is_some(), "{warning:?}");
            assert!(warning.zip(words).is_none_or(|(warning, words)| warning.contains(&words)));
        }
    }
}
