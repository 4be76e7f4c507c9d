//! Builds bodies from simple solids: boxes along a profile, rings, balls, rods.

use crate::sim::space::{Vec3, sin_cos, vec3};

/// Material of a face.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Paint {
    /// Albedo: red, green, blue, 0..=1.
    pub(super) color: [f32; 3],
    /// How much the surface varies, 0..=1.
    pub(super) grain: f32,
    /// How much of the sky it reflects, 0..=1.
    pub(super) gloss: f32,
    /// Emitted light, on a scale where white paper in the sun is 1.
    pub(super) lamp: f32,
}

impl Paint {
    /// Matt paint.
    pub(super) const fn dull(color: [f32; 3]) -> Self {
        Paint { color, grain: 0.12, gloss: 0.0, lamp: 0.0 }
    }

    /// Cloth, wood, leaves.
    pub(super) const fn rough(color: [f32; 3]) -> Self {
        Paint { color, grain: 0.3, gloss: 0.0, lamp: 0.0 }
    }

    /// Lacquer, glass, metal.
    pub(super) const fn glossy(color: [f32; 3], gloss: f32) -> Self {
        Paint { color, grain: 0.04, gloss, lamp: 0.0 }
    }

    /// An emissive material.
    pub(super) const fn lamp(color: [f32; 3], lamp: f32) -> Self {
        Paint { color, grain: 0.0, gloss: 0.0, lamp }
    }

    /// A lighter or darker version.
    pub(super) fn times(self, by: f32) -> Self {
        Paint { color: self.color.map(|part| (part * by).min(1.0)), ..self }
    }
}

/// A flat face with four corners, counter-clockwise seen from outside; for a triangle the last two are the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Face {
    /// Its corners.
    pub(super) corners: [Vec3; 4],
    /// Its material.
    pub(super) paint: Paint,
}

/// A cross-section of a body.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Station {
    /// Position along the length.
    pub(super) x: f32,
    /// Lower and upper edge.
    pub(super) z: [f32; 2],
    /// Half the width at the lower and at the upper edge.
    pub(super) half: [f32; 2],
}

/// Shorthand constructor.
pub(super) const fn station(x: f32, z: [f32; 2], half: [f32; 2]) -> Station {
    Station { x, z, half }
}

/// The faces of a body, x to its front, y to its left, z up.
#[derive(Debug, Clone, Default)]
pub(super) struct Mesh {
    /// The faces, unordered.
    pub(super) faces: Vec<Face>,
}

impl Mesh {
    /// Clears the mesh.
    pub(super) fn clear(&mut self) {
        self.faces.clear();
    }

    /// Adds a face.
    pub(super) fn quad(&mut self, corners: [Vec3; 4], paint: Paint) {
        self.faces.push(Face { corners, paint });
    }

    /// A body through stations from back to front; `sides` are the materials of the left and right of each piece, `tops` those of its upper
    /// face.
    pub(super) fn loft(&mut self, stations: &[Station], sides: &[Paint], tops: &[Paint], ends: [Paint; 2]) {
        let corner =
            |station: &Station, up: usize, left: f32| vec3(station.x, left * station.half[up], station.z[up]);
        for (index, pair) in stations.windows(2).enumerate() {
            let [back, front] = pair else { continue };
            let (side, top) = (sides[index.min(sides.len() - 1)], tops[index.min(tops.len() - 1)]);
            self.quad(
                [corner(front, 0, 1.0), corner(back, 0, 1.0), corner(back, 1, 1.0), corner(front, 1, 1.0)],
                side,
            );
            self.quad(
                [
                    corner(back, 0, -1.0),
                    corner(front, 0, -1.0),
                    corner(front, 1, -1.0),
                    corner(back, 1, -1.0),
                ],
                side,
            );
            self.quad(
                [corner(back, 1, 1.0), corner(back, 1, -1.0), corner(front, 1, -1.0), corner(front, 1, 1.0)],
                top,
            );
        }
        if let [first, .., last] = stations {
            self.quad(
                [
                    corner(first, 0, 1.0),
                    corner(first, 0, -1.0),
                    corner(first, 1, -1.0),
                    corner(first, 1, 1.0),
                ],
                ends[0],
            );
            self.quad(
                [corner(last, 0, -1.0), corner(last, 0, 1.0), corner(last, 1, 1.0), corner(last, 1, -1.0)],
                ends[1],
            );
        }
    }

    /// A box between two corners.
    pub(super) fn cuboid(&mut self, least: Vec3, most: Vec3, paint: Paint) {
        let (middle, half) = ((least.y + most.y) / 2.0, (most.y - least.y) / 2.0);
        let first = self.faces.len();
        let cut = |x: f32| station(x, [least.z, most.z], [half, half]);
        self.loft(&[cut(least.x), cut(most.x)], &[paint], &[paint], [paint; 2]);
        for face in &mut self.faces[first..] {
            face.corners = face.corners.map(|corner| vec3(corner.x, corner.y + middle, corner.z));
        }
    }

    /// A rod of `sides` faces between two points, with a radius at each; closed at both ends.
    pub(super) fn rod(&mut self, from: Vec3, to: Vec3, radii: [f32; 2], sides: usize, paint: Paint) {
        let along = (to - from).unit();
        let other = if along.z.abs() < 0.8 { vec3(0.0, 0.0, 1.0) } else { vec3(1.0, 0.0, 0.0) };
        let across = along.cross(other).unit();
        let over = across.cross(along);
        let point = |end: usize, side: usize| {
            let (sin, cos) = sin_cos(side as f32 / sides as f32 * std::f32::consts::TAU);
            let base = if end == 0 { from } else { to };
            base + (across * cos + over * sin) * radii[end]
        };
        for side in 0..sides {
            let next = (side + 1) % sides;
            self.quad([point(0, next), point(0, side), point(1, side), point(1, next)], paint);
            self.quad([from, point(0, side), point(0, next), point(0, next)], paint);
            self.quad([to, point(1, next), point(1, side), point(1, side)], paint);
        }
    }

    /// A ball, stretched by `half` along each axis.
    pub(super) fn ball(&mut self, middle: Vec3, half: Vec3, paint: impl Fn(f32) -> Paint) {
        const AROUND: usize = 8;
        const DOWN: usize = 5;
        let point = |row: usize, column: usize| {
            let (row_sin, row_cos) = sin_cos(row as f32 / DOWN as f32 * std::f32::consts::PI);
            let (sin, cos) = sin_cos(column as f32 / AROUND as f32 * std::f32::consts::TAU);
            middle + vec3(half.x * row_sin * cos, half.y * row_sin * sin, half.z * row_cos)
        };
        for row in 0..DOWN {
            let height = 1.0 - (row as f32 + 0.5) / DOWN as f32 * 2.0;
            for column in 0..AROUND {
                let next = (column + 1) % AROUND;
                self.quad(
                    [point(row, column), point(row + 1, column), point(row + 1, next), point(row, next)],
                    paint(height),
                );
            }
        }
    }

    /// An upright wheel, its axle across the body: tyre and rim. `inner` is the fraction of the radius that is rim.
    pub(super) fn wheel(&mut self, middle: Vec3, radius: f32, width: f32, inner: f32, paints: [Paint; 2]) {
        const SIDES: usize = 14;
        let [tyre, rim] = paints;
        let point = |side: usize, radius: f32, y: f32| {
            let (sin, cos) = sin_cos(side as f32 / SIDES as f32 * std::f32::consts::TAU);
            middle + vec3(radius * cos, y, radius * sin)
        };
        let half = width / 2.0;
        for side in 0..SIDES {
            let next = side + 1;
            self.quad(
                [
                    point(side, radius, half),
                    point(next, radius, half),
                    point(next, radius, -half),
                    point(side, radius, -half),
                ],
                tyre,
            );
            for (y, from, to) in [(half, next, side), (-half, side, next)] {
                let rings = [
                    point(from, radius, y),
                    point(from, radius * inner, y),
                    point(to, radius * inner, y),
                    point(to, radius, y),
                ];
                self.quad([rings[0], rings[3], rings[2], rings[1]], tyre);
                if rim.color[0] >= 0.0 {
                    let hub = middle + vec3(0.0, y, 0.0);
                    let spoke = if side % 2 == 0 { rim } else { rim.times(0.7) };
                    self.quad([rings[1], rings[2], hub, hub], spoke);
                }
            }
        }
    }

    /// A thin rim without anything inside, as on a bicycle.
    pub(super) fn hoop(&mut self, middle: Vec3, radius: f32, width: f32, inner: f32, tyre: Paint) {
        let none = Paint { color: [-1.0; 3], ..tyre };
        self.wheel(middle, radius, width, inner, [tyre, none]);
    }

    /// Moves all faces added since `first`.
    pub(super) fn shift(&mut self, first: usize, by: Vec3) {
        for face in &mut self.faces[first..] {
            face.corners = face.corners.map(|corner| corner + by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREY: Paint = Paint::dull([0.5; 3]);

    /// Every face of a closed body around the origin faces outward.
    fn shows_outward(mesh: &Mesh) {
        assert!(!mesh.faces.is_empty());
        for face in &mesh.faces {
            let [a, b, c, d] = face.corners;
            let normal = (c - a).cross(d - b);
            let middle = (a + b + c + d) * 0.25;
            assert!(normal.dot(middle) > 0.0, "{face:?}");
        }
    }

    #[test]
    fn faces_show_outward() {
        let mut mesh = Mesh::default();
        mesh.cuboid(vec3(-1.0, -2.0, -3.0), vec3(2.0, 1.0, 3.0), GREY);
        shows_outward(&mesh);
        mesh.clear();
        mesh.rod(vec3(-1.0, 0.1, -0.5), vec3(1.0, 0.0, 0.7), [0.4, 0.3], 6, GREY);
        shows_outward(&mesh);
        mesh.clear();
        mesh.ball(vec3(0.0, 0.0, 0.1), vec3(1.0, 2.0, 0.5), |_| GREY);
        shows_outward(&mesh);
        mesh.clear();
        mesh.wheel(vec3(0.0, 0.0, 0.0), 0.3, 0.2, 0.6, [GREY; 2]);
        shows_outward(&mesh);
    }
}
