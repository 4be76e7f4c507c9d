//! Renders a street as a camera sees it: from a seed to pictures, with the ground truth for each.
//!
//! ```text
//!  traffic ─► bodies ─► draw ─► raster ─► lens ─► picture     light: hour and weather
//!  (who, where) solids  faces   samples   rain, noise, shake   backdrop: static parts, rendered once
//! ```
//! Lighting follows rules of thumb that look right; it is not radiometrically correct. The same seed and the same times give the same
//! pictures on every machine.

mod backdrop;
mod bodies;
mod draw;
mod lens;
mod light;
mod mesh;
mod raster;
mod setup;

use backdrop::Backdrop;
use bodies::{Moment, Part};
use draw::Brush;
use lens::Lens;
use light::Lighting;
pub use light::{Hour, Weather};
use mesh::Mesh;
use raster::{Raster, SAMPLES};
pub use setup::{SceneParams, Setting};

use super::random::Random;
use super::space::{sin_cos, vec3};
use super::traffic::{Demand, Kind, RoadUser, Traffic};
use super::view::View;
use crate::base::error::Result;

/// Margin of the static picture on each side, samples: the largest shake of the camera.
const MARGIN: usize = 24;

/// A detector is expected to find an object from this visible share on.
const VISIBLE_MIN: f32 = 0.5;

/// A road user, or its rider, in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Object id: [`RoadUser::id`] times 2, plus 1 for a rider.
    pub id: u64,
    /// Its class.
    pub kind: Kind,
    /// Rectangle of the visible part: left, top, right, bottom, pixels.
    pub seen: [f32; 4],
    /// Rectangle of the whole, as if nothing stood in front of it and the picture did not end.
    pub whole: [f32; 4],
    /// Visible share, 0..=1: parts hidden by others or outside the picture do not count.
    pub visible: f32,
    /// Position on the ground, metres.
    pub at: [f32; 2],
    /// Velocity, metres per second.
    pub speed: f32,
}

impl Truth {
    /// Whether a detector is not expected to find it: less than half of it is visible, or the visible part is smaller than 24 x 10 pixels
    /// of a picture 640 wide, which are 12 x 5 in the 320 of the shipped detector. That is KITTI's "moderate" (25 of 375 lines high, partly
    /// occluded; Geiger et al., CVPR 2012). Such an object counts neither for nor against a detector.
    pub fn is_hard(&self, picture_width: u32) -> bool {
        self.visible < VISIBLE_MIN || !self.is_large(picture_width)
    }

    /// Whether the visible part is at least 24 x 10 pixels of a picture 640 wide.
    pub fn is_large(&self, picture_width: u32) -> bool {
        let pixel = picture_width as f32 / 640.0;
        let [left, top, right, bottom] = self.seen;
        let (width, height) = (right - left, bottom - top);
        width.max(height) >= 24.0 * pixel && width.min(height) >= 10.0 * pixel
    }

    /// Whether others hide more than half of the part inside the picture; the part outside does not matter.
    pub fn is_hidden(&self, [width, height]: [u32; 2]) -> bool {
        let [left, top, right, bottom] = self.whole;
        let inside = (right.min(width as f32) - left.max(0.0)).max(0.0)
            * (bottom.min(height as f32) - top.max(0.0)).max(0.0);
        let share = inside / ((right - left) * (bottom - top)).max(1e-3);
        self.visible < VISIBLE_MIN * share.min(1.0)
    }
}

/// A street with a camera.
pub struct Scene {
    setting: Setting,
    traffic: Traffic,
    lighting: Lighting,
    /// The views of the camera at rest and of this frame, in samples.
    at_rest: View,
    view: View,
    still: Raster,
    frame: Raster,
    backdrop: Backdrop,
    lens: Lens,
    mesh: Mesh,
    truth: Vec<Truth>,
    start: f64,
}

impl Scene {
    /// Builds the street from the settings; its traffic has been running for some minutes.
    ///
    /// # Errors
    /// `Kind::Config`: a setting out of range.
    pub fn new(params: &SceneParams) -> Result<Self> {
        let setting = params.complete()?;
        let mut random = Random::stream(params.seed, 11);
        let mut lighting = Lighting::new(setting.hour, setting.weather, &mut random);
        let (width, height) = (setting.width as usize * SAMPLES, setting.height as usize * SAMPLES);
        let view = View::new(&setting.mount, width as f32, height as f32);
        let mut still = Raster::new(width + 2 * MARGIN, height + 2 * MARGIN);
        let wide = view.with_margin(MARGIN as f32);
        let backdrop = Backdrop::draw(&mut still, &wide, &setting.street, &mut lighting, &mut random);
        let mut traffic = Traffic::new(setting.street, setting.demand, params.seed);
        traffic.advance(setting.lead_s);
        let lens = Lens::new(&setting, &mut Random::stream(params.seed, 12));
        Ok(Scene {
            traffic,
            lighting,
            at_rest: view,
            view,
            still,
            frame: Raster::resident(width, height),
            backdrop,
            lens,
            mesh: Mesh::default(),
            truth: Vec::new(),
            start: setting.lead_s,
            setting,
        })
    }

    /// The settings, including those that the seed chose.
    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// The road users on the street.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// All road users that were at least partly inside the last picture.
    pub fn truth(&self) -> &[Truth] {
        &self.truth
    }

    /// Sets the demand from now on.
    pub fn demand(&mut self, demand: Demand) {
        self.traffic.demand(demand);
    }

    /// Bytes of an RGB picture.
    pub fn picture_bytes(&self) -> usize {
        self.setting.width as usize * self.setting.height as usize * 3
    }

    /// Advances the traffic to `seconds` since the start without rendering; time never goes back.
    pub fn advance(&mut self, seconds: f64) {
        self.traffic.advance(self.start + seconds);
    }

    /// Advances the traffic to `seconds` since the start, which never goes back, and renders the picture of that time into `rgb`, row by
    /// row, 3 bytes a pixel. Returns all road users that are at least partly inside the picture.
    ///
    /// # Panics
    /// If `rgb` is not [`Scene::picture_bytes`] long: a bug in the caller.
    pub fn render(&mut self, seconds: f64, rgb: &mut [u8]) -> &[Truth] {
        assert_eq!(rgb.len(), self.picture_bytes(), "the buffer of a picture");
        self.advance(seconds);
        let shake = self.lens.shake(seconds);
        let [left, top] = shake.map(|by| (MARGIN as i32 + by) as usize);
        self.frame.start_from(&self.still, left, top);
        self.view = self.at_rest.shifted([-shake[0] as f32, -shake[1] as f32]);
        self.users(seconds);
        self.leaves(seconds);
        self.note_coverage();
        self.lens.expose(&self.frame, seconds, rgb);
        &self.truth
    }

    fn users(&mut self, seconds: f64) {
        self.truth.clear();
        let ahead = ((self.start + seconds) - self.traffic.now()) as f32;
        let mut brush = Brush { raster: &mut self.frame, view: self.view, lighting: &self.lighting };
        // All shadows first: they fall on the ground, and objects hide them.
        for user in self.traffic.users().iter().filter(|user| may_be_seen(&self.view, user, ahead)) {
            let pose = user.pose(ahead);
            for part in [Part::Whole, Part::Rider] {
                let falls = self.lighting.shadow < 1.0;
                if falls && bodies::build(&mut self.mesh, user, part, moment(user, &self.lighting, ahead)) {
                    brush.shadow(&self.mesh, pose.heading, pose.at);
                }
            }
            let wide = if user.kind == Kind::Person {
                [0.5, 0.4]
            } else {
                [user.size[0] * 0.96, user.size[1] * 0.9]
            };
            brush.contact(pose.heading, pose.at, wide);
            let lit = match self.lighting.hour {
                Hour::Day => 0.0,
                Hour::Dusk => 0.14,
                Hour::Night => 0.34,
            };
            if lit > 0.0 && !user.parked && user.kind != Kind::Person {
                let strength = if user.kind == Kind::Bicycle { lit / 3.0 } else { lit };
                brush.beam(pose.heading, pose.at, user.size[0] / 2.0, strength);
            }
        }
        for user in self.traffic.users().iter().filter(|user| may_be_seen(&self.view, user, ahead)) {
            let pose = user.pose(ahead);
            for part in [Part::Whole, Part::Rider] {
                if !bodies::build(&mut self.mesh, user, part, moment(user, &self.lighting, ahead)) {
                    continue;
                }
                let whose = self.truth.len() as u16 + 1;
                let Some(whole) = brush.mesh(&self.mesh, pose.heading, pose.at, whose) else { continue };
                let rider = part == Part::Rider;
                self.truth.push(Truth {
                    id: u64::from(user.id) * 2 + u64::from(rider),
                    kind: if rider { Kind::Person } else { user.kind },
                    seen: [0.0; 4],
                    whole,
                    visible: 0.0,
                    at: pose.at,
                    speed: pose.speed,
                });
            }
        }
    }

    /// Leaves moving in the wind.
    fn leaves(&mut self, seconds: f64) {
        let wind = self.setting.wind;
        for tree in &self.backdrop.trees {
            for (index, (middle, radius, paint)) in tree.leaves.iter().enumerate() {
                let phase = tree.phase + index as f32 * 0.37;
                let (gust, _) = sin_cos(seconds as f32 * 0.9 + tree.phase);
                let (flutter, other) = sin_cos(seconds as f32 * 3.1 + phase);
                let push = wind * (0.25 * gust + 0.12 * flutter);
                let at = *middle + vec3(push, wind * 0.1 * other, wind * 0.05 * flutter);
                let Some(seen) = self.view.see(at) else { continue };
                let to_eye = self.view.at() - at;
                let color =
                    self.lighting.shade(paint, at, vec3(0.0, 0.0, 1.0), to_eye).map(|part| part.min(255.0));
                self.frame.disc(seen, radius * self.view.focal() * seen.near, color, 0);
            }
        }
    }

    /// Determines from the picture what is visible of each road user, in pixels.
    fn note_coverage(&mut self) {
        let (width, height) = (self.frame.width() as f32, self.frame.height() as f32);
        for (index, truth) in self.truth.iter_mut().enumerate() {
            let coverage = self.frame.coverage(index as u16 + 1, truth.whole);
            let [left, top, right, bottom] = truth.whole;
            let inside =
                (right.min(width) - left.max(0.0)).max(0.0) * (bottom.min(height) - top.max(0.0)).max(0.0);
            let share = inside / ((right - left) * (bottom - top)).max(1e-3);
            truth.visible = share.min(1.0) * coverage.seen as f32 / coverage.own.max(1) as f32;
            let scale = 1.0 / SAMPLES as f32;
            truth.seen = coverage.bounds.map(|side| side as f32 * scale);
            truth.whole = truth.whole.map(|side| side * scale);
        }
        self.truth.retain(|truth| truth.visible > 0.0);
    }
}

/// Whether any part of it can be inside the picture, and it is large enough to be rendered.
fn may_be_seen(view: &View, user: &RoadUser, ahead: f32) -> bool {
    let [x, y] = user.pose(ahead).at;
    let half = user.size[0] / 2.0;
    let near = (vec3(x, y, 0.5) - view.at()).length();
    let distance = view.distance(vec3(x, y, 0.5));
    near > half + 0.4 && distance > 0.5 - half && distance < 400.0
}

fn moment(user: &RoadUser, lighting: &Lighting, ahead: f32) -> Moment {
    let pose = user.pose(ahead);
    Moment {
        travelled: pose.travelled,
        brakes: !user.parked && user.slows_down(),
        lamps: lighting.lamps_lit() && !user.parked,
        rain: lighting.weather == Weather::Rain,
        moves: pose.speed > 0.2,
    }
}

#[cfg(test)]
mod tests;
