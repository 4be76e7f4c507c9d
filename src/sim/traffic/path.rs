//! A path over the ground: straight segments in sequence.

use crate::sim::space::{Heading, sin_cos};

/// Segments of a half circle.
const ARC_PIECES: usize = 12;

/// Points, each with its distance along the path.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    points: Vec<([f32; 2], f32)>,
}

impl Path {
    /// Through these points.
    ///
    /// # Panics
    /// Without a point: a bug in the caller.
    pub fn through(points: &[[f32; 2]]) -> Self {
        assert!(!points.is_empty(), "a path has a beginning");
        let mut path = Path { points: Vec::with_capacity(points.len()) };
        for &point in points {
            path.push(point);
        }
        path
    }

    fn push(&mut self, point: [f32; 2]) {
        let distance = self.points.last().map_or(0.0, |(last, distance)| {
            let (x, y) = (point[0] - last[0], point[1] - last[1]);
            distance + (x * x + y * y).sqrt()
        });
        self.points.push((point, distance));
    }

    /// Appends a half circle to the left or to the right, depending on `to_y`, ending at `to_y`.
    pub fn turn_round(&mut self, to_y: f32) {
        let Some(&([x, y], _)) = self.points.last() else { return };
        let forward = self.heading_at_end().cos.signum();
        let (middle, radius) = ((y + to_y) / 2.0, (to_y - y) / 2.0);
        for piece in 1..=ARC_PIECES {
            let angle = piece as f32 / ARC_PIECES as f32 * std::f32::consts::PI;
            let (sin, cos) = sin_cos(angle);
            self.push([x + forward * radius.abs() * sin, middle - radius * cos]);
        }
    }

    /// Extends the path to this point.
    pub fn go_to(&mut self, point: [f32; 2]) {
        self.push(point);
    }

    fn heading_at_end(&self) -> Heading {
        match self.points[..] {
            [.., (before, _), (last, _)] => Heading::towards(before, last),
            _ => Heading::ALONG,
        }
    }

    /// Its length.
    pub fn length(&self) -> f32 {
        self.points.last().map_or(0.0, |(_, distance)| *distance)
    }

    /// The point at this distance along the path, and the heading there; clamped to its ends.
    pub fn at(&self, distance: f32) -> ([f32; 2], Heading) {
        let next = self
            .points
            .partition_point(|(_, reached)| *reached <= distance)
            .clamp(1, self.points.len().max(2) - 1);
        let (Some(&(from, begin)), Some(&(to, end))) = (self.points.get(next - 1), self.points.get(next))
        else {
            return (self.points[0].0, Heading::ALONG);
        };
        let part = if end > begin { ((distance - begin) / (end - begin)).clamp(0.0, 1.0) } else { 0.0 };
        ([from[0] + part * (to[0] - from[0]), from[1] + part * (to[1] - from[1])], Heading::towards(from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_followed_to_its_end_and_not_beyond() {
        let path = Path::through(&[[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]);
        assert_eq!(path.length(), 7.0);
        for (distance, at) in
            [(-1.0, [0.0, 0.0]), (0.0, [0.0, 0.0]), (2.0, [2.0, 0.0]), (5.0, [3.0, 2.0]), (9.0, [3.0, 4.0])]
        {
            assert_eq!(path.at(distance).0, at, "after {distance} m");
        }
        assert_eq!(path.at(5.0).1, Heading { cos: 0.0, sin: 1.0 });
        assert_eq!(Path::through(&[[1.0, 2.0]]).at(5.0).0, [1.0, 2.0]);
    }

    #[test]
    fn a_turn_ends_beside_its_beginning_and_faces_back() {
        let mut path = Path::through(&[[-50.0, -2.0], [0.0, -2.0]]);
        path.turn_round(2.0);
        path.go_to([-50.0, 2.0]);
        let arc = std::f32::consts::PI * 2.0;
        assert!((path.length() - 100.0 - arc).abs() < 0.1, "{}", path.length());
        let (at, heading) = path.at(50.0 + arc / 2.0);
        assert!((at[0] - 2.0).abs() < 0.1 && at[1].abs() < 0.3, "{at:?}");
        assert!(heading.sin > 0.9);
        assert!(path.at(100.0).1.cos < -0.99);
    }
}
