//! What a perfect counter would have counted: the truth about crossings of counting lines.
//!
//! It knows who is who and where each stands, so it needs none of what [`crate::analytics::count`] does against doubt: no band, no minimum of
//! frames or of way. It asks the same question: on which side of the line is the middle of the lower edge, and did the way
//! between two pictures meet the line between its ends. Each road user counts once a line and direction.

use std::collections::{BTreeMap, BTreeSet};

use super::scene::Truth;
use super::traffic::Kind;
use crate::analytics::count::Line;
use crate::base::geometry::{PointPx, side_of};
use crate::event::Direction;

/// Who has not been in so many pictures is forgotten: minutes at least, hidden by a bus or gone.
const FORGET_EVERY: u64 = 2000;

/// A crossing: the line's place in the list, which way, and what.
pub type Crossed = (usize, Direction, Kind);

/// Counts the truth.
#[derive(Debug)]
pub struct Judge {
    lines: Vec<[PointPx; 2]>,
    /// Where each was last, whether it could be seen, and in which picture.
    last: BTreeMap<u64, (PointPx, bool, u64)>,
    counted: BTreeSet<(u64, usize, Direction)>,
    pictures: u64,
    counts: BTreeMap<Crossed, u64>,
    picture_width: u32,
    unseen: u64,
}

impl Judge {
    /// For these lines in pictures of `width` x `height`.
    pub fn new(lines: &[Line], width: u32, height: u32) -> Self {
        let to_px = |line: &Line| [line.a.to_px(width, height), line.b.to_px(width, height)];
        Judge {
            lines: lines.iter().map(to_px).collect(),
            last: BTreeMap::new(),
            counted: BTreeSet::new(),
            pictures: 0,
            counts: BTreeMap::new(),
            picture_width: width,
            unseen: 0,
        }
    }

    /// The truth about the next picture.
    pub fn see(&mut self, truth: &[Truth]) {
        self.pictures += 1;
        for truth in truth {
            let [left, _, right, bottom] = truth.whole;
            let foot = PointPx { x: (left + right) / 2.0, y: bottom };
            let can_be_seen = !truth.is_hard(self.picture_width);
            let before = self.last.insert(truth.id, (foot, can_be_seen, self.pictures));
            let Some((before, could_be_seen, _)) = before else { continue };
            for (index, line) in self.lines.iter().enumerate() {
                let Some(direction) = crossing(line, before, foot) else { continue };
                if !self.counted.insert((truth.id, index, direction)) {
                    continue;
                }
                if can_be_seen || could_be_seen {
                    *self.counts.entry((index, direction, truth.kind)).or_default() += 1;
                } else {
                    self.unseen += 1;
                }
            }
        }
        if self.pictures.is_multiple_of(FORGET_EVERY) {
            let old = self.pictures - FORGET_EVERY;
            self.last.retain(|_, (_, _, picture)| *picture > old);
            let Judge { last, counted, .. } = self;
            counted.retain(|(id, _, _)| last.contains_key(id));
        }
    }

    /// What crossed which line which way, and how often.
    pub fn counts(&self) -> &BTreeMap<Crossed, u64> {
        &self.counts
    }

    /// All that is counted so far.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Crossings of those whom nobody could see then: too small, or hidden. In no other count.
    pub fn unseen(&self) -> u64 {
        self.unseen
    }
}

/// Which way the step from `before` to `now` crosses the line, if it does.
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

    fn truth(id: u64, x: f32, bottom: f32, visible: f32) -> Truth {
        let whole = [x - 20.0, bottom - 30.0, x + 20.0, bottom];
        Truth { id, kind: Kind::Car, seen: whole, whole, visible, at: [0.0; 2], speed: 5.0 }
    }

    fn counts(steps: &[&[Truth]]) -> (u64, u64, u64) {
        let mut judge = Judge::new(&[Line::middle()], 640, 360);
        for step in steps {
            judge.see(step);
        }
        let of = |direction| judge.counts().get(&(0, direction, Kind::Car)).copied().unwrap_or(0);
        (of(Direction::Forward), of(Direction::Backward), judge.unseen())
    }

    #[test]
    fn each_counts_once_a_way_and_turning_back_counts_both_ways() {
        let car = |x| truth(2, x, 200.0, 1.0);
        assert_eq!(counts(&[&[car(300.0)], &[car(340.0)]]), (1, 0, 0));
        assert_eq!(counts(&[&[car(340.0)], &[car(300.0)], &[car(340.0)], &[car(300.0)]]), (1, 1, 0));
        assert_eq!(counts(&[&[car(300.0)], &[truth(4, 340.0, 200.0, 1.0)]]), (0, 0, 0), "two cars");
        assert_eq!(
            counts(&[&[truth(2, 300.0, 400.0, 1.0)], &[truth(2, 340.0, 400.0, 1.0)]]),
            (0, 0, 0),
            "past its end"
        );
        assert_eq!(
            counts(&[&[truth(2, 300.0, 200.0, 0.1)], &[truth(2, 340.0, 200.0, 0.1)]]),
            (0, 0, 1),
            "hidden"
        );
    }

    #[test]
    fn it_calls_directions_as_the_counter_does() {
        // Looking up the middle line, left is the left of the screen.
        let line = Line::middle();
        let (a, b) = (line.a.to_px(640, 360), line.b.to_px(640, 360));
        let right = PointPx { x: 400.0, y: 100.0 };
        assert!(side_of(a, b, right) > 0.0, "right of the line is positive");
    }
}
