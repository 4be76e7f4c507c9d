//! A camera above the ground, and the projection into its picture.

use super::space::{Vec3, sin_cos, vec3};
use crate::base::error::{Error, Kind, Result};

/// Near clipping distance, metres.
pub const NEAR_M: f32 = 0.3;

/// Position and direction of a camera.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mount {
    /// Position: x and y on the ground, z its height, metres.
    pub at: Vec3,
    /// Pan: angle from x towards y, degrees.
    pub pan_deg: f32,
    /// Tilt below the horizon, degrees, -30..=85.
    pub tilt_deg: f32,
    /// Roll to the right, degrees.
    pub roll_deg: f32,
    /// Horizontal field of view, degrees, 10..=120.
    pub field_deg: f32,
}

impl Mount {
    /// Checks that a camera can be mounted like that.
    ///
    /// # Errors
    /// `Kind::Config` with name, value and range.
    pub fn check(&self) -> Result<()> {
        for (name, value, least, most) in [
            ("height in m", self.at.z, 0.5, 100.0),
            ("tilt in degrees", self.tilt_deg, -30.0, 85.0),
            ("roll in degrees", self.roll_deg, -30.0, 30.0),
            ("field of view in degrees", self.field_deg, 10.0, 120.0),
        ] {
            if !(least..=most).contains(&value) {
                let text = format!("simulated camera: {name} is {value}, allowed is {least} to {most}");
                return Err(Error::fatal(Kind::Config, text));
            }
        }
        Ok(())
    }
}

/// A point in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// From the left, pixels.
    pub x: f32,
    /// From the top, pixels.
    pub y: f32,
    /// One over the distance along the optical axis: linear over the picture of a plane.
    pub near: f32,
}

/// A camera with a picture of a given size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    at: Vec3,
    right: Vec3,
    down: Vec3,
    ahead: Vec3,
    focal: f32,
    middle: [f32; 2],
}

impl View {
    /// The view of a camera whose picture is `width` x `height` pixels.
    pub fn new(mount: &Mount, width: f32, height: f32) -> Self {
        let radians = std::f32::consts::PI / 180.0;
        let (pan_sin, pan_cos) = sin_cos(mount.pan_deg * radians);
        let (tilt_sin, tilt_cos) = sin_cos(mount.tilt_deg * radians);
        let (roll_sin, roll_cos) = sin_cos(mount.roll_deg * radians);
        let ahead = vec3(pan_cos * tilt_cos, pan_sin * tilt_cos, -tilt_sin);
        let level_right = vec3(pan_sin, -pan_cos, 0.0);
        let level_down = ahead.cross(level_right);
        let right = level_right * roll_cos + level_down * roll_sin;
        let down = level_down * roll_cos - level_right * roll_sin;
        let (half_sin, half_cos) = sin_cos(mount.field_deg * radians / 2.0);
        let focal = width / 2.0 * half_cos / half_sin;
        View { at: mount.at, right, down, ahead, focal, middle: [width / 2.0, height / 2.0] }
    }

    /// The same camera with a picture that is larger by this many pixels on every side.
    pub fn with_margin(self, margin: f32) -> Self {
        View { middle: [self.middle[0] + margin, self.middle[1] + margin], ..self }
    }

    /// The same camera with its picture shifted.
    pub fn shifted(self, by: [f32; 2]) -> Self {
        View { middle: [self.middle[0] + by[0], self.middle[1] + by[1]], ..self }
    }

    /// Its position.
    pub fn at(&self) -> Vec3 {
        self.at
    }

    /// Size in pixels of an object of 1 m at a distance of 1 m.
    pub fn focal(&self) -> f32 {
        self.focal
    }

    /// Distance along the optical axis.
    pub fn distance(&self, point: Vec3) -> f32 {
        (point - self.at).dot(self.ahead)
    }

    /// Projects a point; none if it is behind the camera.
    pub fn see(&self, point: Vec3) -> Option<Seen> {
        let from = point - self.at;
        let distance = from.dot(self.ahead);
        if distance < NEAR_M {
            return None;
        }
        let near = 1.0 / distance;
        let x = self.middle[0] + self.focal * from.dot(self.right) * near;
        let y = self.middle[1] + self.focal * from.dot(self.down) * near;
        Some(Seen { x, y, near })
    }

    /// The viewing direction of a pixel; its component along the optical axis is 1.
    pub fn ray(&self, x: f32, y: f32) -> Vec3 {
        let across = (x - self.middle[0]) / self.focal;
        let down = (y - self.middle[1]) / self.focal;
        self.ahead + self.right * across + self.down * down
    }

    /// The ground position that a pixel shows, and its distance along the optical axis; none above the horizon.
    pub fn ground(&self, x: f32, y: f32) -> Option<([f32; 2], f32)> {
        let ray = self.ray(x, y);
        if ray.z >= -1e-4 {
            return None;
        }
        let distance = self.at.z / -ray.z;
        Some(([self.at.x + ray.x * distance, self.at.y + ray.y * distance], distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount() -> Mount {
        Mount { at: vec3(2.0, -8.0, 6.0), pan_deg: 60.0, tilt_deg: 15.0, roll_deg: 2.0, field_deg: 70.0 }
    }

    #[test]
    fn the_ground_below_a_pixel_is_seen_at_that_pixel() {
        let view = View::new(&mount(), 640.0, 360.0).with_margin(16.0);
        for (x, y) in [(10.0, 350.0), (320.0, 200.0), (600.0, 300.0)] {
            let ([gx, gy], distance) = view.ground(x, y).unwrap();
            let seen = view.see(vec3(gx, gy, 0.0)).unwrap();
            assert!((seen.x - x).abs() < 0.01 && (seen.y - y).abs() < 0.01, "{seen:?}");
            assert!((1.0 / seen.near - distance).abs() < 1e-3 * distance);
        }
    }

    #[test]
    fn up_is_up_left_is_left_and_behind_is_nowhere() {
        let level = Mount { pan_deg: 0.0, tilt_deg: 0.0, roll_deg: 0.0, ..mount() };
        let view = View::new(&level, 640.0, 360.0);
        let ahead = view.see(vec3(12.0, -8.0, 6.0)).unwrap();
        assert!((ahead.x - 320.0).abs() < 1e-3 && (ahead.y - 180.0).abs() < 1e-3);
        let left_and_up = view.see(vec3(12.0, -6.0, 8.0)).unwrap();
        assert!(left_and_up.x < 320.0 && left_and_up.y < 180.0);
        assert!(view.see(vec3(0.0, -8.0, 6.0)).is_none());
        assert!(view.ground(320.0, 10.0).is_none());
        // 70 degrees wide: the edge of the picture is at 35 degrees.
        assert!((view.focal() - 320.0 / (35.0f32.to_radians()).tan()).abs() < 0.01);
    }

    #[test]
    fn a_camera_that_cannot_be_mounted_is_refused_by_name() {
        assert!(mount().check().is_ok());
        let high = Mount { at: vec3(0.0, 0.0, 200.0), ..mount() };
        assert!(high.check().unwrap_err().to_string().contains("height in m is 200"));
    }
}
