//! The street, the camera's view of it, and a detector that knows the ground truth.

use super::SECOND;
use super::scenario::{Detector, Scenario};
use crate::analytics::count::CountingLine;
use crate::base::error::Result;
use crate::base::geometry::BoxPx;
use crate::sim::lines::counting_line;
use crate::sim::outline::outlines;
use crate::sim::random::Random;
use crate::sim::scene::{Scene, SceneParams, Setting, Truth};
use crate::sim::traffic::{Demand, Kind, STEP_S, Traffic};
use crate::sim::view::View;
use crate::vision::detect::{ClassId, Detection};

/// Below this speed an object does not open the gate, metres per second.
const MOVES_FROM: f32 = 0.2;

/// A frame as it comes from the camera.
#[derive(Debug)]
pub(super) enum FrameContent {
    /// Its detections, and whether something moves.
    Known { found: Vec<Detection>, moves: bool },
    /// An RGB picture.
    Picture(Vec<u8>),
    /// A corrupt frame.
    Corrupt,
}

/// The street, rendered or not: the truth and the pictures show the same traffic.
enum Street {
    Known(Box<Traffic>),
    Drawn(Box<Scene>),
}

impl Street {
    fn traffic(&self) -> &Traffic {
        match self {
            Street::Known(traffic) => traffic,
            Street::Drawn(scene) => scene.traffic(),
        }
    }
}

/// The street and a camera.
pub(super) struct CameraModel {
    setting: Setting,
    street: Street,
    base: Demand,
    view: View,
    line: CountingLine,
    truth: Vec<Truth>,
    detector: Detector,
    random: Random,
    scale: f32,
}

impl CameraModel {
    pub(super) fn new(seed: u64, scenario: &Scenario) -> Result<Self> {
        let [width, height] = scenario.size;
        let params = SceneParams { seed, width, height, traffic: Some(1.0), ..SceneParams::default() };
        let setting = params.complete()?;
        let street = if scenario.rendered {
            Street::Drawn(Box::new(Scene::new(&params)?))
        } else {
            let mut traffic = Traffic::new(setting.street, setting.demand, seed);
            traffic.advance(setting.lead_s);
            Street::Known(Box::new(traffic))
        };
        let view = setting.view();
        let line = counting_line(&setting);
        Ok(CameraModel {
            base: setting.demand,
            street,
            view,
            line,
            truth: Vec::new(),
            detector: scenario.detector,
            random: Random::stream(seed, 102),
            scale: scenario.traffic,
            setting,
        })
    }

    pub(super) fn size(&self) -> (u32, u32) {
        (self.setting.width, self.setting.height)
    }

    pub(super) fn view(&self) -> View {
        self.view
    }

    pub(super) fn lines(&self) -> Vec<CountingLine> {
        vec![self.line.clone()]
    }

    /// Traffic time in seconds at a time of the world.
    fn seconds(&self, now: u64) -> f64 {
        self.setting.lead_s + now as f64 / SECOND as f64
    }

    /// Sets the demand of an hour of the day.
    pub(super) fn hour(&mut self, hour: f32) {
        let busy = self.scale * daily(hour);
        let demand = Demand { per_hour: self.base.per_hour.map(|rate| rate * busy), ..self.base };
        if demand != *self.street.traffic().wanted() {
            match &mut self.street {
                Street::Known(traffic) => traffic.demand(demand),
                Street::Drawn(scene) => scene.demand(demand),
            }
        }
    }

    /// Time until which nothing moves on the street, nanoseconds of the world; none if something does.
    pub(super) fn quiet_until(&self, now: u64) -> Option<u64> {
        let Street::Known(traffic) = &self.street else { return None };
        let until = traffic.quiet_until()? - self.setting.lead_s - STEP_S;
        let until = (until.min(1e9) * SECOND as f64) as u64;
        (until > now + SECOND).then_some(until)
    }

    pub(super) fn skip_to(&mut self, now: u64) {
        let seconds = self.seconds(now);
        let Street::Known(traffic) = &mut self.street else { return };
        if traffic.quiet_until().is_some_and(|until| seconds <= until) {
            traffic.skip_to(seconds);
        }
    }

    /// All road users that are in the picture now.
    pub(super) fn truth(&mut self, now: u64) -> &[Truth] {
        let seconds = self.seconds(now);
        match &mut self.street {
            Street::Known(traffic) => traffic.advance(seconds),
            Street::Drawn(scene) => scene.advance(now as f64 / SECOND as f64),
        }
        let traffic = self.street.traffic();
        let ahead = (seconds - traffic.now()) as f32;
        let size = (self.setting.width, self.setting.height);
        outlines(traffic, &self.view, size, ahead, &mut self.truth);
        &self.truth
    }

    /// The road users in the last frame that was rendered.
    #[cfg(test)]
    pub(super) fn drawn(&self) -> &[Truth] {
        match &self.street {
            Street::Known(_) => &[],
            Street::Drawn(scene) => scene.truth(),
        }
    }

    /// The frame that the camera captures now.
    pub(super) fn frame(&mut self, now: u64) -> FrameContent {
        if let Street::Drawn(scene) = &mut self.street {
            let mut rgb = vec![0; scene.picture_bytes()];
            scene.render(now as f64 / SECOND as f64, &mut rgb);
            return FrameContent::Picture(rgb);
        }
        self.truth(now);
        let moves = self.truth.iter().any(|truth| truth.speed > MOVES_FROM);
        let found = if moves { self.detect() } else { Vec::new() };
        FrameContent::Known { found, moves }
    }

    /// The detector's results, strongest first.
    fn detect(&mut self) -> Vec<Detection> {
        let mut found = Vec::new();
        let CameraModel { truth, detector, random, setting, .. } = self;
        let (width, height) = (setting.width as f32, setting.height as f32);
        let mut add = |[left, top, right, bottom]: [f32; 4], score: f32, kind: Kind| {
            let bbox = BoxPx::new(left, top, right, bottom).clipped(width, height);
            if bbox.width() > 2.0 && bbox.height() > 2.0 {
                let detection =
                    Detection { bbox, score: score.clamp(0.1, 0.97), class: ClassId(kind.index() as u16) };
                found.push(detection);
            }
        };
        for truth in truth.iter().filter(|truth| !truth.is_hard(setting.width)) {
            if random.chance(detector.misses) {
                continue;
            }
            let kind = if random.chance(detector.confusions) { similar(truth.kind) } else { truth.kind };
            let [left, top, right, bottom] = truth.seen;
            let (x, y) = ((right - left) * detector.jitter, (bottom - top) * detector.jitter);
            let mut off = |by: f32| random.normal() * by;
            let sides = [left + off(x), top + off(y), right + off(x), bottom + off(y)];
            add(sides, 0.55 + 0.35 * truth.visible + off(0.06), kind);
        }
        let mut alarms = detector.false_alarms;
        while random.chance(alarms.min(1.0)) {
            let (x, y) = (random.unit() * width, random.unit() * height);
            let (w, h) = (random.range(8.0, 60.0), random.range(8.0, 60.0));
            add([x, y, x + w, y + h], random.range(0.2, 0.6), Kind::ALL[random.below(6)]);
            alarms -= 1.0;
        }
        found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
        found
    }
}

/// The class that a detector mistakes it for.
fn similar(kind: Kind) -> Kind {
    match kind {
        Kind::Car | Kind::Bus => Kind::Truck,
        Kind::Truck => Kind::Car,
        Kind::Bicycle => Kind::Motorcycle,
        Kind::Motorcycle => Kind::Bicycle,
        Kind::Person => Kind::Person,
    }
}

/// Traffic density at an hour of the day: 1 at noon, more in rush hours, almost none at night. Similar to the hourly factors of urban
/// counting stations (Highway Capacity Manual, chapter 5), rounded.
fn daily(hour: f32) -> f32 {
    const BY_HOUR: [f32; 24] = [
        0.15, 0.08, 0.05, 0.04, 0.06, 0.2, 0.55, 1.1, 1.4, 1.1, 0.95, 1.0, 1.0, 1.0, 1.05, 1.2, 1.45, 1.5,
        1.2, 0.85, 0.6, 0.45, 0.35, 0.25,
    ];
    BY_HOUR[(hour as usize).min(23)]
}
