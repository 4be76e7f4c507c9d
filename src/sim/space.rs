//! Space: x along the street, y to its left, z up, in metres; the ground is z = 0. Trigonometry comes from one library, so that a seed
//! gives the same picture on every machine.

use std::ops::{Add, Mul, Sub};

/// A position or a direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Vec3 {
    /// Along the street.
    pub x: f32,
    /// To its left.
    pub y: f32,
    /// Up.
    pub z: f32,
}

/// Shorthand constructor.
pub const fn vec3(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3 { x, y, z }
}

impl Add for Vec3 {
    type Output = Vec3;
    fn add(self, other: Vec3) -> Vec3 {
        vec3(self.x + other.x, self.y + other.y, self.z + other.z)
    }
}

impl Sub for Vec3 {
    type Output = Vec3;
    fn sub(self, other: Vec3) -> Vec3 {
        vec3(self.x - other.x, self.y - other.y, self.z - other.z)
    }
}

impl Mul<f32> for Vec3 {
    type Output = Vec3;
    fn mul(self, by: f32) -> Vec3 {
        vec3(self.x * by, self.y * by, self.z * by)
    }
}

impl Vec3 {
    /// The scalar product.
    pub fn dot(self, other: Vec3) -> f32 {
        self.x * other.x + self.y * other.y + self.z * other.z
    }

    /// The vector product.
    pub fn cross(self, other: Vec3) -> Vec3 {
        vec3(
            self.y * other.z - self.z * other.y,
            self.z * other.x - self.x * other.z,
            self.x * other.y - self.y * other.x,
        )
    }

    /// Its length.
    pub fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    /// The same direction with length 1; up, if the length is 0.
    pub fn unit(self) -> Vec3 {
        let length = self.length();
        if length > 1e-12 { self * (1.0 / length) } else { vec3(0.0, 0.0, 1.0) }
    }

    /// Interpolates by `part` to `other`.
    pub fn toward(self, other: Vec3, part: f32) -> Vec3 {
        self + (other - self) * part
    }
}

/// A heading: an angle from x towards y, kept as its cosine and sine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heading {
    /// Component along the street.
    pub cos: f32,
    /// Component to its left.
    pub sin: f32,
}

impl Heading {
    /// Along the street.
    pub const ALONG: Heading = Heading { cos: 1.0, sin: 0.0 };

    /// From an angle in radians.
    pub fn of(angle: f32) -> Self {
        let (sin, cos) = sin_cos(angle);
        Heading { cos, sin }
    }

    /// From one position to another; along the street if they are the same.
    pub fn towards(from: [f32; 2], to: [f32; 2]) -> Self {
        let (x, y) = (to[0] - from[0], to[1] - from[1]);
        let length = (x * x + y * y).sqrt();
        if length > 1e-9 { Heading { cos: x / length, sin: y / length } } else { Heading::ALONG }
    }

    /// World position of a point of a body with this heading.
    pub fn turn(self, point: Vec3) -> Vec3 {
        vec3(point.x * self.cos - point.y * self.sin, point.x * self.sin + point.y * self.cos, point.z)
    }

    /// The inverse of [`Heading::turn`].
    pub fn turn_back(self, point: Vec3) -> Vec3 {
        vec3(point.x * self.cos + point.y * self.sin, point.y * self.cos - point.x * self.sin, point.z)
    }
}

/// Sine and cosine.
pub fn sin_cos(angle: f32) -> (f32, f32) {
    (libm::sinf(angle), libm::cosf(angle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_and_back_is_where_it_was() {
        let point = vec3(1.0, -2.0, 3.0);
        for step in 0..12 {
            let heading = Heading::of(step as f32 * 0.7);
            assert!((heading.turn_back(heading.turn(point)) - point).length() < 1e-5);
        }
        let left = Heading::of(std::f32::consts::FRAC_PI_2).turn(vec3(1.0, 0.0, 0.0));
        assert!((left - vec3(0.0, 1.0, 0.0)).length() < 1e-6, "{left:?}");
        assert_eq!(Heading::towards([1.0, 1.0], [1.0, 1.0]), Heading::ALONG);
    }

    #[test]
    fn products_follow_the_right_hand() {
        let (x, y) = (vec3(1.0, 0.0, 0.0), vec3(0.0, 1.0, 0.0));
        assert_eq!(x.cross(y), vec3(0.0, 0.0, 1.0));
        assert_eq!(vec3(0.0, 0.0, 0.0).unit(), vec3(0.0, 0.0, 1.0));
        assert!((vec3(3.0, 4.0, 0.0).unit().length() - 1.0).abs() < 1e-6);
    }
}
