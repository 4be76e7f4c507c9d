//! Points and boxes whose type names their coordinate space, and the plane geometry that masks and lines need.

use std::fmt;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

/// Marker: pixels of the camera's frame, origin at the top left corner, x to the right, y down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {}

/// Marker: pixels of the model's input, after letterboxing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {}

/// An axis-aligned box in the pixels of space `S`. Only `detect/letterbox.rs` converts between spaces.
#[derive(Clone, Copy, PartialEq)]
pub struct BoxPx<S> {
    /// Left side.
    pub x1: f32,
    /// Upper side.
    pub y1: f32,
    /// Right side, not less than `x1` for a box with an area.
    pub x2: f32,
    /// Lower side.
    pub y2: f32,
    space: PhantomData<S>,
}

impl<S> BoxPx<S> {
    /// From its corners.
    pub const fn new(x1: f32, y1: f32, x2: f32, y2: f32) -> Self {
        BoxPx { x1, y1, x2, y2, space: PhantomData }
    }

    /// From centre and size, as YOLO heads give it.
    pub fn from_centre(cx: f32, cy: f32, width: f32, height: f32) -> Self {
        Self::new(cx - width / 2.0, cy - height / 2.0, cx + width / 2.0, cy + height / 2.0)
    }

    /// Width in pixels, 0 for an inside-out box.
    pub fn width(&self) -> f32 {
        (self.x2 - self.x1).max(0.0)
    }

    /// Height in pixels, 0 for an inside-out box.
    pub fn height(&self) -> f32 {
        (self.y2 - self.y1).max(0.0)
    }

    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.width() * self.height()
    }

    /// Area of the common part.
    pub fn intersection(&self, other: &Self) -> f32 {
        let width = (self.x2.min(other.x2) - self.x1.max(other.x1)).max(0.0);
        let height = (self.y2.min(other.y2) - self.y1.max(other.y1)).max(0.0);
        width * height
    }

    /// Intersection over union, 0..=1; 0 if neither has an area.
    pub fn iou(&self, other: &Self) -> f32 {
        let common = self.intersection(other);
        let union = self.area() + other.area() - common;
        if union > 0.0 { common / union } else { 0.0 }
    }

    /// The middle of the lower side: where a road user stands on the ground. The reference point for counting.
    pub fn bottom_centre(&self) -> PointPx {
        PointPx { x: (self.x1 + self.x2) / 2.0, y: self.y2 }
    }

    /// The part inside a picture of `width` x `height` pixels.
    #[must_use]
    pub fn clipped(&self, width: f32, height: f32) -> Self {
        Self::new(
            self.x1.clamp(0.0, width),
            self.y1.clamp(0.0, height),
            self.x2.clamp(0.0, width),
            self.y2.clamp(0.0, height),
        )
    }

    /// The smallest box that contains both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::new(self.x1.min(other.x1), self.y1.min(other.y1), self.x2.max(other.x2), self.y2.max(other.y2))
    }

    /// The box grown by this many pixels on each side.
    #[must_use]
    pub fn grown(&self, by: f32) -> Self {
        Self::new(self.x1 - by, self.y1 - by, self.x2 + by, self.y2 + by)
    }

    /// Whether `other` lies wholly inside.
    pub fn holds(&self, other: &Self) -> bool {
        self.x1 <= other.x1 && self.y1 <= other.y1 && other.x2 <= self.x2 && other.y2 <= self.y2
    }

    /// Whether all four numbers are finite.
    pub fn is_finite(&self) -> bool {
        self.x1.is_finite() && self.y1.is_finite() && self.x2.is_finite() && self.y2.is_finite()
    }

    /// `[x1, y1, x2, y2]`.
    pub fn to_array(&self) -> [f32; 4] {
        [self.x1, self.y1, self.x2, self.y2]
    }
}

impl<S> fmt::Debug for BoxPx<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:.2} {:.2} {:.2} {:.2}]", self.x1, self.y1, self.x2, self.y2)
    }
}

/// A point in frame pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PointPx {
    /// To the right.
    pub x: f32,
    /// Down.
    pub y: f32,
}

/// A point as fractions of the frame: `0.0, 0.0` is the upper left corner, `1.0, 1.0` the lower right one. The configuration uses these, so
/// that a line stays in place when the camera's resolution changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PointRel {
    /// 0.0 (left) to 1.0 (right).
    pub x: f32,
    /// 0.0 (top) to 1.0 (bottom).
    pub y: f32,
}

impl PointRel {
    /// The point in a frame of `width` x `height` pixels.
    pub fn to_px(self, width: u32, height: u32) -> PointPx {
        PointPx { x: self.x * width as f32, y: self.y * height as f32 }
    }
}

/// A simple polygon in fractions of the frame.
pub type Polygon = heapless::Vec<PointRel, { crate::base::limits::POLYGON_POINTS_MAX }>;

/// Whether `point` lies inside `polygon` (even-odd rule; a point exactly on an edge may fall on either side).
pub fn polygon_contains(polygon: &[PointRel], point: PointRel) -> bool {
    let mut inside = false;
    let mut previous = match polygon.last() {
        Some(last) => *last,
        None => return false,
    };
    for &corner in polygon {
        if (corner.y > point.y) != (previous.y > point.y) {
            let at = corner.x + (point.y - corner.y) / (previous.y - corner.y) * (previous.x - corner.x);
            if point.x < at {
                inside = !inside;
            }
        }
        previous = corner;
    }
    inside
}

/// Twice the area of the triangle `a b c`: positive if `c` lies to the right of the line from `a` to `b` as seen on the screen (y down),
/// negative to the left, zero on the line.
pub fn side_of(a: PointPx, b: PointPx, c: PointPx) -> f32 {
    (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type B = BoxPx<Frame>;

    #[test]
    fn iou_table() {
        let unit = B::new(0.0, 0.0, 2.0, 2.0);
        for (other, iou) in [
            (B::new(0.0, 0.0, 2.0, 2.0), 1.0),
            (B::new(1.0, 0.0, 3.0, 2.0), 1.0 / 3.0),
            (B::new(2.0, 0.0, 4.0, 2.0), 0.0),
            (B::new(5.0, 5.0, 6.0, 6.0), 0.0),
            (B::new(1.0, 1.0, 1.0, 1.0), 0.0),
            (B::new(1.5, 1.5, 0.5, 0.5), 0.0),
        ] {
            assert!((unit.iou(&other) - iou).abs() < 1e-6, "{other:?}");
        }
        let nothing = B::new(1.0, 1.0, 1.0, 1.0);
        assert_eq!(nothing.iou(&nothing), 0.0);
    }

    proptest! {
        /// IoU compared with counting the cells of an integer grid.
        #[test]
        fn iou_equals_counting_cells(a in [0..12i32, 0..12i32, 1..8i32, 1..8i32], b in [0..12i32, 0..12i32, 1..8i32, 1..8i32]) {
            let cells = |r: [i32; 4], x: i32, y: i32| x >= r[0] && x < r[0] + r[2] && y >= r[1] && y < r[1] + r[3];
            let (mut both, mut any) = (0, 0);
            for x in 0..24 { for y in 0..24 {
                both += i32::from(cells(a, x, y) && cells(b, x, y));
                any += i32::from(cells(a, x, y) || cells(b, x, y));
            } }
            let as_box = |r: [i32; 4]| B::new(r[0] as f32, r[1] as f32, (r[0] + r[2]) as f32, (r[1] + r[3]) as f32);
            prop_assert!((as_box(a).iou(&as_box(b)) - both as f32 / any as f32).abs() < 1e-6);
        }

        /// Even-odd rule compared with the winding angle, on stars around a centre.
        #[test]
        fn polygon_contains_agrees_with_the_winding_angle(
            radii in proptest::collection::vec(0.05f32..0.5, 3..12), x in 0.0f32..1.0, y in 0.0f32..1.0,
        ) {
            let n = radii.len() as f32;
            let star: Vec<PointRel> = radii.iter().enumerate().map(|(i, r)| {
                let (sin, cos) = (i as f32 / n * std::f32::consts::TAU).sin_cos();
                PointRel { x: 0.5 + r * cos, y: 0.5 + r * sin }
            }).collect();
            let mut angle = 0.0f64;
            for (i, p) in star.iter().enumerate() {
                let q = star[(i + 1) % star.len()];
                let (a, b) = ((f64::from(p.x - x), f64::from(p.y - y)), (f64::from(q.x - x), f64::from(q.y - y)));
                angle += (a.0 * b.1 - a.1 * b.0).atan2(a.0 * b.0 + a.1 * b.1);
            }
            prop_assume!((angle.abs() / std::f64::consts::TAU).fract().min(1.0 - (angle.abs() / std::f64::consts::TAU).fract()) < 1e-3);
            prop_assert_eq!(polygon_contains(&star, PointRel { x, y }), angle.abs() > 3.0);
        }
    }

    #[test]
    fn an_empty_polygon_contains_nothing() {
        assert!(!polygon_contains(&[], PointRel { x: 0.5, y: 0.5 }));
    }
}
