//! Time of day and weather, and their effect on colours.

use super::mesh::Paint;
use crate::sim::random::Random;
use crate::sim::space::{Vec3, sin_cos, vec3};

/// Time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hour {
    /// The sun is high.
    Day,
    /// The sun is low; lamps are lit.
    Dusk,
    /// Only lamps shine.
    Night,
}

impl Hour {
    /// All, with the names used in options.
    pub const ALL: [(&'static str, Hour); 3] =
        [("day", Hour::Day), ("dusk", Hour::Dusk), ("night", Hour::Night)];
}

/// Precipitation and cloud cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Sun, some clouds.
    Clear,
    /// No sun.
    Overcast,
    /// Rain on a wet road.
    Rain,
    /// Snow on a white road.
    Snow,
    /// Nothing is visible beyond a few hundred metres.
    Fog,
}

impl Weather {
    /// All, with the names used in options.
    pub const ALL: [(&'static str, Weather); 5] = [
        ("clear", Weather::Clear),
        ("overcast", Weather::Overcast),
        ("rain", Weather::Rain),
        ("snow", Weather::Snow),
        ("fog", Weather::Fog),
    ];
}

/// Lighting at a time of day in a weather. The scale is chosen so that white paper in the sun is 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lighting {
    /// Time of day.
    pub(super) hour: Hour,
    /// The weather.
    pub(super) weather: Weather,
    /// Direction to the sun.
    pub(super) sun: Vec3,
    sunlight: [f32; 3],
    skylight: [f32; 3],
    horizon: [f32; 3],
    zenith: [f32; 3],
    /// One over the distance after which light falls to a third, 1/m.
    haze: f32,
    /// Share of the light that remains in a shadow.
    pub(super) shadow: f32,
    /// How wet the ground is, 0..=1.
    pub(super) wet: f32,
    /// Share of the ground that is white with snow.
    pub(super) snow: f32,
    /// Street lamps, while they are lit.
    pub(super) street_lamps: Vec<Vec3>,
    exposure: f32,
    tint: [f32; 3],
}

impl Lighting {
    /// The given time of day and weather, with the rest from the seed.
    pub(super) fn new(hour: Hour, weather: Weather, random: &mut Random) -> Self {
        let clear = weather == Weather::Clear;
        let height = match hour {
            Hour::Day => random.range(0.45, 1.25),
            Hour::Dusk | Hour::Night => random.range(0.1, 0.25),
        };
        let (around_sin, around_cos) = sin_cos(random.range(0.0, std::f32::consts::TAU));
        let (up, level) = sin_cos(height);
        let sun = vec3(level * around_cos, level * around_sin, up);
        let (sunlight, skylight, horizon, zenith) = match (hour, clear) {
            (Hour::Day, true) => {
                ([0.95, 0.88, 0.76], [0.3, 0.36, 0.46], [0.62, 0.72, 0.82], [0.22, 0.4, 0.72])
            }
            (Hour::Day, false) => ([0.1; 3], [0.62, 0.64, 0.67], [0.66, 0.68, 0.7], [0.5, 0.53, 0.57]),
            (Hour::Dusk, true) => {
                ([0.62, 0.34, 0.14], [0.14, 0.15, 0.22], [0.62, 0.36, 0.22], [0.1, 0.13, 0.28])
            }
            (Hour::Dusk, false) => {
                ([0.04, 0.03, 0.02], [0.16, 0.18, 0.22], [0.24, 0.25, 0.29], [0.14, 0.16, 0.2])
            }
            (Hour::Night, _) => ([0.0; 3], [0.012, 0.014, 0.022], [0.03, 0.028, 0.03], [0.006, 0.008, 0.016]),
        };
        let haze = match weather {
            Weather::Clear => random.range(0.0002, 0.0015),
            Weather::Overcast => random.range(0.0005, 0.003),
            Weather::Rain => random.range(0.003, 0.008),
            Weather::Snow => random.range(0.004, 0.01),
            Weather::Fog => random.range(0.01, 0.024),
        };
        let exposure = match hour {
            Hour::Day if clear => random.range(0.8, 1.25),
            // The camera's exposure compensates for the clouds.
            Hour::Day => random.range(1.0, 1.7),
            Hour::Dusk => random.range(1.4, 2.2),
            Hour::Night => random.range(2.2, 4.0),
        };
        Lighting {
            hour,
            weather,
            sun,
            sunlight,
            skylight,
            horizon,
            zenith,
            haze,
            shadow: if clear && hour != Hour::Night { random.range(0.42, 0.6) } else { 1.0 },
            wet: if weather == Weather::Rain { random.range(0.6, 1.0) } else { 0.0 },
            snow: if weather == Weather::Snow { random.range(0.35, 0.95) } else { 0.0 },
            street_lamps: Vec::new(),
            exposure,
            tint: [random.range(0.94, 1.06), 1.0, random.range(0.92, 1.08)],
        }
    }

    /// Whether vehicles have their lamps on.
    pub(super) fn lamps_lit(&self) -> bool {
        self.hour != Hour::Day || matches!(self.weather, Weather::Rain | Weather::Snow | Weather::Fog)
    }

    /// Colour of the sky in a direction.
    pub(super) fn sky(&self, direction: Vec3) -> [f32; 3] {
        let up = (direction.unit().z * 1.6).clamp(0.0, 1.0);
        let up = up * (2.0 - up);
        mix(self.horizon, self.zenith, up)
    }

    /// Light on a surface at `at` with the normal `normal`.
    fn light(&self, at: Vec3, normal: Vec3) -> [f32; 3] {
        let sun = self.sun.dot(normal).max(0.0);
        let sky = 0.62 + 0.38 * normal.z;
        let mut light = [0, 1, 2].map(|part| self.sunlight[part] * sun + self.skylight[part] * sky);
        for lamp in &self.street_lamps {
            let to = *lamp - at;
            let square = to.dot(to).max(1.0);
            // About 80 cd/m² below a lamp, warm white.
            let strength = 6.0 * (0.35 + 0.65 * to.unit().dot(normal).max(0.0)) / square;
            light = [light[0] + strength * 1.15, light[1] + strength * 0.92, light[2] + strength * 0.6];
        }
        light
    }

    /// Colour of a surface, in 0..=255 as in a picture; `to_eye` points from the surface to the camera, metres.
    pub(super) fn shade(&self, paint: &Paint, at: Vec3, normal: Vec3, to_eye: Vec3) -> [f32; 3] {
        let light = self.light(at, normal);
        let mut color = [0, 1, 2].map(|part| paint.color[part] * (light[part] + paint.lamp));
        if paint.gloss > 0.0 {
            let eye = to_eye.unit();
            let facing = eye.dot(normal).max(0.0);
            let mirrored = normal * (2.0 * facing) - eye;
            let grazing = 1.0 - facing;
            let share = paint.gloss * (0.35 + 0.65 * grazing * grazing * grazing);
            let mut seen =
                if mirrored.z > 0.0 { self.sky(mirrored) } else { self.skylight.map(|part| part * 0.25) };
            let glare = (mirrored.dot(self.sun) - 0.94).max(0.0) * 14.0;
            for (seen, sun) in seen.iter_mut().zip(self.sunlight) {
                *seen += sun * glare;
            }
            color = mix(color, seen, share);
        }
        self.develop(color, to_eye.length())
    }

    /// The camera's response to light from this distance.
    pub(super) fn develop(&self, light: [f32; 3], distance: f32) -> [f32; 3] {
        let clear = libm::expf(-distance * self.haze);
        let seen = mix(self.horizon, light, clear);
        // A gamma of 2, with film-like compression of highlights.
        let code = |part: usize| {
            let value = seen[part] * self.exposure * self.tint[part];
            let value = if value > 0.8 { 0.8 + 0.2 * (1.0 - 0.2 / (value - 0.6)) } else { value };
            value.max(0.0).sqrt() * 255.0
        };
        [code(0), code(1), code(2)]
    }
}

/// Interpolates by `part` from one to the other.
pub(super) fn mix(from: [f32; 3], to: [f32; 3], part: f32) -> [f32; 3] {
    [0, 1, 2].map(|index| from[index] + (to[index] - from[index]) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hour_and_weather_gives_colours_of_a_picture() {
        for (_, hour) in Hour::ALL {
            for (_, weather) in Weather::ALL {
                let mut lighting = Lighting::new(hour, weather, &mut Random::new(1));
                lighting.street_lamps = vec![vec3(0.0, 0.0, 8.0)];
                for lamp in [0.0, 3.0] {
                    let paint = Paint { color: [0.9; 3], grain: 0.0, gloss: 0.5, lamp };
                    let color =
                        lighting.shade(&paint, vec3(1.0, 2.0, 0.0), lighting.sun, vec3(5.0, 0.0, 5.0));
                    assert!(
                        color.iter().all(|part| (1.0..=255.0).contains(part)),
                        "{hour:?} {weather:?} {color:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn day_is_brighter_than_night_and_a_lamp_lights_the_ground_below_it() {
        let shade = |hour, lamps: Vec<Vec3>| {
            let lighting =
                Lighting { street_lamps: lamps, ..Lighting::new(hour, Weather::Clear, &mut Random::new(1)) };
            lighting.shade(
                &Paint::dull([0.3; 3]),
                vec3(0.0, 0.0, 0.0),
                vec3(0.0, 0.0, 1.0),
                vec3(0.0, -9.0, 6.0),
            )[1]
        };
        let dark = shade(Hour::Night, vec![]);
        assert!(shade(Hour::Day, vec![]) > 3.0 * dark);
        assert!(shade(Hour::Night, vec![vec3(0.0, 0.0, 7.0)]) > 1.5 * dark);
    }
}
