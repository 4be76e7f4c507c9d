//! Scene settings: given by the user, or chosen by the seed.

use super::light::{Hour, Weather};
use crate::base::error::{Error, Kind as ErrorKind, Result};
use crate::base::limits::{FRAME_SIDE_MAX, FRAME_SIDE_MIN};
use crate::sim::random::Random;
use crate::sim::space::vec3;
use crate::sim::traffic::{Demand, Street};
use crate::sim::view::{Mount, View};

/// Requested settings of a scene. `None`: the seed chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SceneParams {
    /// The seed of everything else.
    pub seed: u64,
    /// Size of the picture, pixels; even.
    pub width: u32,
    /// Size of the picture, pixels; even.
    pub height: u32,
    /// Choose among everything that a camera may see, not only among the views of a camera on a mast: for training.
    pub anything: bool,
    /// The time of day.
    pub hour: Option<Hour>,
    /// The weather.
    pub weather: Option<Weather>,
    /// Demand of vehicles, bicycles and pedestrians: 1 is a busy street.
    pub traffic: Option<f32>,
    /// The camera's position and direction.
    pub mount: Option<Mount>,
    /// The street.
    pub street: Option<Street>,
    /// A calm camera: no shake, no spider, no drops on the lens, little noise.
    pub calm: bool,
}

impl Default for SceneParams {
    fn default() -> Self {
        SceneParams {
            seed: 1,
            width: 640,
            height: 360,
            anything: false,
            hour: None,
            weather: None,
            traffic: None,
            mount: None,
            street: None,
            calm: false,
        }
    }
}

/// The settings of a scene, complete.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Size of the picture, pixels.
    pub width: u32,
    /// Size of the picture, pixels.
    pub height: u32,
    /// The camera.
    pub mount: Mount,
    /// The ground.
    pub street: Street,
    /// The demand.
    pub demand: Demand,
    /// The time of day.
    pub hour: Hour,
    /// The weather.
    pub weather: Weather,
    /// Strength of the wind, 0..=1.
    pub wind: f32,
    /// Standard deviation of a pixel's noise, steps of 255.
    pub noise: f32,
    /// Amplitude of the camera's shake, samples.
    pub shake: f32,
    /// Clouds move over the street.
    pub cloud_shadows: bool,
    /// The exposure changes in steps.
    pub exposure_steps: bool,
    /// A spider in front of the lens.
    pub spider: bool,
    /// Drops on the lens.
    pub drops: u8,
    /// Blur of the lens, 0..=1.
    pub softness: f32,
    /// Seconds of traffic before the first picture.
    pub lead_s: f64,
}

impl Setting {
    /// The view of the camera at rest.
    pub fn view(&self) -> View {
        View::new(&self.mount, self.width as f32, self.height as f32)
    }
}

impl SceneParams {
    /// Chooses the settings that are `None`.
    ///
    /// # Errors
    /// `Kind::Config` with name, value and range.
    pub fn complete(&self) -> Result<Setting> {
        let sides = FRAME_SIDE_MIN.max(64)..=FRAME_SIDE_MAX;
        for (name, side) in [("width", self.width), ("height", self.height)] {
            if !sides.contains(&side) || side % 2 == 1 {
                let (least, most) = (sides.start(), sides.end());
                let text = format!(
                    "simulated street: {name} is {side}, allowed are even numbers of {least} to {most}"
                );
                return Err(Error::fatal(ErrorKind::Config, text));
            }
        }
        if let Some(traffic) = self.traffic.filter(|traffic| !(0.0..=5.0).contains(traffic)) {
            let text = format!("simulated street: traffic is {traffic}, allowed is 0 to 5");
            return Err(Error::fatal(ErrorKind::Config, text));
        }
        let mut random = Random::stream(self.seed, 10);
        let hour = [Hour::Day, Hour::Dusk, Hour::Night][random.weighted(&[0.68, 0.16, 0.16])];
        let weathers = [Weather::Clear, Weather::Overcast, Weather::Rain, Weather::Snow, Weather::Fog];
        let weather = weathers[random.weighted(&[0.42, 0.28, 0.14, 0.08, 0.08])];
        let (hour, weather) = (self.hour.unwrap_or(hour), self.weather.unwrap_or(weather));
        let street = self.street.unwrap_or_else(|| street(&mut random, self.anything));
        let mount = self.mount.unwrap_or_else(|| mount(&mut random, &street, self.anything));
        mount.check()?;
        let much = self
            .traffic
            .unwrap_or_else(|| if self.anything { random.range(0.5, 2.2) } else { random.range(0.6, 1.2) });
        let demand = demand(&mut random, much, self.anything, hour, weather);
        let unrest = if self.calm { 0.0 } else { 1.0 };
        let rough = |random: &mut Random, share: f32| random.chance(share) && !self.calm;
        let noise = match hour {
            Hour::Day => random.range(0.8, 3.0),
            Hour::Dusk => random.range(2.0, 5.0),
            Hour::Night => random.range(3.0, 8.0),
        };
        let wet = matches!(weather, Weather::Rain | Weather::Snow);
        Ok(Setting {
            width: self.width,
            height: self.height,
            mount,
            street,
            demand,
            hour,
            weather,
            wind: random.range(0.1, 1.0),
            noise: noise * if self.calm { 0.5 } else { 1.0 },
            shake: random.range(0.0, 3.0) * unrest * if random.chance(0.3) { 2.0 } else { 0.4 },
            cloud_shadows: rough(&mut random, 0.5) && weather == Weather::Clear && hour == Hour::Day,
            exposure_steps: rough(&mut random, 0.3),
            spider: rough(&mut random, 0.06),
            drops: if rough(&mut random, if wet { 0.6 } else { 0.08 }) {
                2 + random.below(9) as u8
            } else {
                0
            },
            softness: random.range(0.0, if self.anything { 1.0 } else { 0.4 }),
            lead_s: 150.0,
        })
    }
}

fn street(random: &mut Random, anything: bool) -> Street {
    let lanes = match random.weighted(&[0.6, 0.2, 0.1, 0.1]) {
        0 => [1, 1],
        1 => [2, 2],
        2 => [2, 1],
        _ => [2, 0],
    };
    Street {
        lanes,
        lane_m: random.range(3.0, 3.7),
        cycle_m: if random.chance(0.6) { random.range(1.3, 2.0) } else { 0.0 },
        parking_m: if random.chance(if anything { 0.6 } else { 0.4 }) { 2.2 } else { 0.0 },
        pavement_m: random.range(1.8, 5.0),
        crossing_x: random.range(2.0, 22.0),
        light: random.chance(0.35).then(|| [random.range(12.0, 25.0), random.range(35.0, 60.0)]),
        ..Street::default()
    }
}

/// Beside the road, looking along it, diagonally or across.
fn mount(random: &mut Random, street: &Street, anything: bool) -> Mount {
    let kerb = street.kerb_m(0);
    let edge = kerb + street.pavement_m;
    let slant = random.unit();
    if anything && random.chance(0.5) {
        // Near objects, at eye level and above, as in photos taken by people.
        let pan = random.range(20.0, 150.0);
        let away = random.range(0.0, 7.0);
        let height = random.range(1.4, 4.5);
        let tilt = random.range(-1.0, 7.0) + (height - 1.4) * 3.0;
        return Mount {
            at: vec3(random.range(-6.0, 10.0), -(kerb + away), height),
            pan_deg: pan,
            tilt_deg: tilt,
            roll_deg: random.normal() * 1.5,
            field_deg: random.range(35.0, 75.0),
        };
    }
    let height = random.range(4.0, 8.5);
    let (at_y, pan, tilt) = if slant < 0.4 {
        // Along the road, from its edge or from a bridge.
        (random.range(-edge, -kerb * 0.2), random.range(-4.0, 22.0), random.range(8.0, 22.0))
    } else if slant < 0.75 {
        (-random.range(kerb + 0.5, edge + 2.0), random.range(22.0, 60.0), random.range(12.0, 26.0))
    } else {
        (-random.range(edge + 1.0, edge + 9.0), random.range(60.0, 110.0), random.range(14.0, 28.0))
    };
    Mount {
        at: vec3(random.range(-12.0, -4.0), at_y, height),
        pan_deg: pan,
        tilt_deg: tilt,
        roll_deg: random.normal() * 1.0,
        field_deg: random.range(48.0, 80.0),
    }
}

fn demand(random: &mut Random, much: f32, anything: bool, hour: Hour, weather: Weather) -> Demand {
    let base = [240.0, 110.0, 520.0, 50.0, 50.0, 80.0];
    // For training no class may be rare.
    let even = [420.0, 300.0, 420.0, 260.0, 200.0, 260.0];
    let vary = if anything { 0.9 } else { 0.3 };
    let base = if anything { even } else { base };
    Demand {
        per_hour: base.map(|rate| rate * much * random.range(1.0 - vary, 1.0 + vary)),
        hesitate: 0.06,
        turn_back: 0.06,
        cross: 0.3,
        parked: random.range(0.2, 0.9),
        pace: match (weather, hour) {
            (Weather::Snow, _) => 0.6,
            (Weather::Rain | Weather::Fog, _) => 0.8,
            (Weather::Clear | Weather::Overcast, _) => 1.0,
        },
    }
}
