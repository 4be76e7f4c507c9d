//! Ground truth of line crossings: what a perfect counter would count.
//!
//! A counter uses the lower edge of a box, which is not the ground point of a bus whose wheels are below the picture's edge. The truth does
//! not: it knows every position on the ground, and checks on which side of the line that point appears, and whether the step between two
//! frames intersects the line between its ends. A line that ends at the picture's edge has no end there: it cannot be drawn further, and a
//! road user that passes below the edge crosses it. It needs none of the safeguards of [`crate::analytics::count`]: no band, no minimum
//! number of frames, no minimum distance. Each road user counts once per line and direction.

use std::collections::{BTreeMap, BTreeSet};

use super::scene::Truth;
use super::space::vec3;
use super::traffic::Kind;
use super::view::View;
use crate::analytics::count::CountingLine;
use crate::base::geometry::{PointPx, side_of};
use crate::event::Direction;

/// A road user is forgotten after this many frames without it: minutes at least, hidden by a bus or gone.
const FORGET_EVERY: u64 = 2000;

/// An end of a line this near to the picture's edge counts as at the edge, pixels: rounding.
const EDGE_PX: f32 = 1.0;

/// How far a line is extended beyond the picture's edge, in its own lengths: further than any road user that is partly in the picture.
const BEYOND_EDGE: f32 = 20.0;

/// A crossing: index of the line, direction, and class.
pub type Crossed = (usize, Direction, Kind);

/// Position of a road user in the last frame.
#[derive(Debug, Clone, Copy)]
struct Last {
    /// Image position of its ground point, possibly outside the picture.
    point: PointPx,
    /// Whether a detector is expected to find it.
    can_be_seen: bool,
    /// Number of the frame.
    picture: u64,
}

/// Counts the truth.
#[derive(Debug)]
pub struct Judge {
    lines: Vec<[PointPx; 2]>,
    view: View,
    last: BTreeMap<u64, Last>,
    counted: BTreeSet<(u64, usize, Direction)>,
    pictures: u64,
    counts: BTreeMap<Crossed, u64>,
    size: [u32; 2],
    unseen: u64,
}

impl Judge {
    /// Counts on these lines in frames of `width` x `height` of that camera.
    pub fn new(lines: &[CountingLine], view: View, width: u32, height: u32) -> Self {
        let to_px = |line: &CountingLine| {
            without_ends_at_the_edge(
                [line.a.to_px(width, height), line.b.to_px(width, height)],
                [width as f32, height as f32],
            )
        };
        Judge {
            lines: lines.iter().map(to_px).collect(),
            view,
            last: BTreeMap::new(),
            counted: BTreeSet::new(),
            pictures: 0,
            counts: BTreeMap::new(),
            size: [width, height],
            unseen: 0,
        }
    }

    /// Adds the truth of the next frame.
    pub fn see(&mut self, truth: &[Truth]) {
        self.pictures += 1;
        for truth in truth {
            let Some(seen) = self.view.see(vec3(truth.at[0], truth.at[1], 0.0)) else {
                // Beside or behind the camera: the start of the next step is unknown.
                self.last.remove(&truth.id);
                continue;
            };
            let point = PointPx { x: seen.x, y: seen.y };
            let can_be_seen = truth.is_large(self.size[0]) && !truth.is_hidden(self.size);
            let now = Last { point, can_be_seen, picture: self.pictures };
            let Some(before) = self.last.insert(truth.id, now) else { continue };
            for (index, line) in self.lines.iter().enumerate() {
                let Some(direction) = crossing(line, before.point, point) else { continue };
                if !self.counted.insert((truth.id, index, direction)) {
                    continue;
                }
                if can_be_seen || before.can_be_seen {
                    *self.counts.entry((index, direction, truth.kind)).or_default() += 1;
                } else {
                    self.unseen += 1;
                }
            }
        }
        if self.pictures.is_multiple_of(FORGET_EVERY) {
            let old = self.pictures - FORGET_EVERY;
            self.last.retain(|_, last| last.picture > old);
            let Judge { last, counted, .. } = self;
            counted.retain(|(id, _, _)| last.contains_key(id));
        }
    }

    /// Number of crossings by line, direction and class.
    pub fn counts(&self) -> &BTreeMap<Crossed, u64> {
        &self.counts
    }

    /// All counts so far.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Crossings by road users that were too small or too hidden to be seen. In no other count.
    pub fn unseen(&self) -> u64 {
        self.unseen
    }
}

/// The line, with ends at the picture's edge moved far outside.
fn without_ends_at_the_edge([a, b]: [PointPx; 2], [width, height]: [f32; 2]) -> [PointPx; 2] {
    let at_edge = |end: PointPx| {
        end.x <= EDGE_PX || end.y <= EDGE_PX || end.x >= width - EDGE_PX || end.y >= height - EDGE_PX
    };
    let beyond = |end: PointPx, from: PointPx| PointPx {
        x: end.x + BEYOND_EDGE * (end.x - from.x),
        y: end.y + BEYOND_EDGE * (end.y - from.y),
    };
    let moved = |end: PointPx, from: PointPx| if at_edge(end) { beyond(end, from) } else { end };
    [moved(a, b), moved(b, a)]
}

/// The direction in which the step from `before` to `now` crosses the line, if it does.
fn crossing([a, b]: &[PointPx; 2], before: PointPx, now: PointPx) -> Option<Direction> {
    let (from, to) = (side_of(*a, *b, before), side_of(*a, *b, now));
    if (from >= 0.0) == (to >= 0.0) {
        return None;
    }
    let part = from / (from - to);
    let meets = PointPx { x: before.x + part * (now.x - before.x), y: before.y + part * (now.y - before.y) };
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let along = ((meets.x - a.x) * dx + (meets.y - a.y) * dy) / (dx * dx + dy * dy);
    let direction = if to >= 0.0 { Direction::Forward } else { Direction::Backward };
    (0.0..=1.0).contains(&along).then_some(direction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::geometry::PointRel;
    use crate::sim::view::Mount;

    const SIZE: [f32; 2] = [640.0, 360.0];

    /// A camera facing straight across the street, x to the right, 6 m high and 10 m before y = 0.
    fn view() -> View {
        let mount = Mount {
            at: vec3(0.0, -10.0, 6.0),
            pan_deg: 90.0,
            tilt_deg: 20.0,
            roll_deg: 0.0,
            field_deg: 60.0,
        };
        View::new(&mount, SIZE[0], SIZE[1])
    }

    /// A car, 1.5 m high, at that ground position, with `visible` as its visible share.
    fn truth(id: u64, at: [f32; 2], visible: f32) -> Truth {
        let corners = [vec3(at[0] - 2.0, at[1], 0.0), vec3(at[0] + 2.0, at[1], 1.5)];
        let [a, b] = corners.map(|corner| view().see(corner).unwrap());
        let whole = [a.x, b.y, b.x, a.y];
        let [left, top, right, bottom] = whole;
        let seen = [left.max(0.0), top.max(0.0), right.min(SIZE[0]), bottom.min(SIZE[1])];
        Truth { id, kind: Kind::Car, seen, whole, visible, at, speed: 5.0 }
    }

    fn counts_at(line: CountingLine, steps: &[&[Truth]]) -> (u64, u64, u64) {
        let mut judge = Judge::new(&[line], view(), 640, 360);
        for step in steps {
            judge.see(step);
        }
        let of = |direction| judge.counts().get(&(0, direction, Kind::Car)).copied().unwrap_or(0);
        (of(Direction::Forward), of(Direction::Backward), judge.unseen())
    }

    fn counts(steps: &[&[Truth]]) -> (u64, u64, u64) {
        counts_at(CountingLine::middle(), steps)
    }

    #[test]
    fn each_counts_once_per_direction_and_turning_back_counts_both() {
        let car = |x| truth(2, [x, 5.0], 1.0);
        assert_eq!(counts(&[&[car(-1.0)], &[car(1.0)]]), (1, 0, 0));
        assert_eq!(counts(&[&[car(1.0)], &[car(-1.0)], &[car(1.0)], &[car(-1.0)]]), (1, 1, 0));
        assert_eq!(counts(&[&[car(-1.0)], &[truth(4, [1.0, 5.0], 1.0)]]), (0, 0, 0), "two cars");
        let hidden = |x| truth(2, [x, 5.0], 0.1);
        assert_eq!(counts(&[&[hidden(-1.0)], &[hidden(1.0)]]), (0, 0, 1), "hidden by others");
    }

    /// A lorry that passes so near that its wheels are below the picture's edge was missing in the truth.
    #[test]
    fn wheels_below_the_picture_cross_a_line_that_ends_at_its_edge() {
        let near = |x| {
            let mut lorry = truth(2, [x, -4.5], 0.4);
            lorry.whole[1] -= 150.0;
            lorry.seen[1] = lorry.whole[1].max(0.0);
            lorry
        };
        let lorry = near(0.0);
        assert!(lorry.whole[3] > SIZE[1] + 20.0 && lorry.seen[1] < SIZE[1] - 100.0, "{lorry:?}");
        assert!(lorry.is_hard(640), "most of it is outside of the picture, but nothing hides it");
        assert_eq!(counts(&[&[near(-0.5)], &[near(0.5)]]), (1, 0, 0));
        // A line that ends inside the picture ends there.
        let short = CountingLine { a: PointRel { x: 0.5, y: 0.9 }, ..CountingLine::middle() };
        assert_eq!(counts_at(short, &[&[near(-0.5)], &[near(0.5)]]), (0, 0, 0));
        // Beside the camera nothing is known, and nothing is invented.
        let mut behind = near(0.5);
        behind.at[1] = -14.0;
        assert_eq!(counts(&[&[near(-0.5)], &[behind], &[near(0.5)]]), (0, 0, 0));
    }

    #[test]
    fn it_names_directions_as_the_counter_does() {
        // Looking up the middle line, left is left on the screen.
        let line = CountingLine::middle();
        let (a, b) = (line.a.to_px(640, 360), line.b.to_px(640, 360));
        let right = PointPx { x: 400.0, y: 100.0 };
        assert!(side_of(a, b, right) > 0.0, "right of the line is positive");
    }
}
