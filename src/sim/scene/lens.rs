//! Camera effects on a scene: rain and snow in front of it, drops and a spider on the lens, blur, shake, changing exposure, noise.

use super::light::{Hour, Weather};
use super::raster::{Raster, SAMPLES};
use super::setup::Setting;
use crate::sim::random::{Random, mix, smooth_noise};
use crate::sim::space::sin_cos;
use crate::sim::view::View;

/// Precomputed noise, looked up instead of computed for each pixel.
const NOISE: usize = 1 << 14;

/// Side of the blocks that share one brightness factor, pixels.
const BLOCK: usize = 4;

/// A camera's lens and sensor.
pub(super) struct Lens {
    setting: Setting,
    seed: u64,
    noise: Vec<i8>,
    /// Centre x, y and radius of drops, as fractions of the picture's width.
    drops: Vec<[f32; 3]>,
    soft: Vec<u8>,
    /// Ground position of each block of pixels; none in the sky.
    ground: Vec<Option<[f32; 2]>>,
    /// Brightness factor of exposure and clouds for each block of a row; 256 is 1.
    gains: Vec<i32>,
}

impl Lens {
    /// A lens for these settings.
    pub(super) fn new(setting: &Setting, random: &mut Random) -> Self {
        let noise = (0..NOISE).map(|_| (random.normal() * setting.noise) as i8).collect();
        let drops = (0..setting.drops)
            .map(|_| [random.unit(), random.unit() * 0.6, random.range(0.008, 0.03)])
            .collect();
        let (width, height) = (setting.width as usize, setting.height as usize);
        let view = View::new(&setting.mount, setting.width as f32, setting.height as f32);
        let (columns, rows) = (width.div_ceil(BLOCK), height.div_ceil(BLOCK));
        let middle = |index: usize| (index * BLOCK + BLOCK / 2) as f32;
        let ground = (0..rows * columns)
            .map(|index| view.ground(middle(index % columns), middle(index / columns)))
            // Further away a block is wider than a cloud.
            .map(|ground| ground.filter(|(_, distance)| *distance < 150.0).map(|(place, _)| place))
            .collect();
        let gains = vec![256; columns];
        Lens { setting: *setting, seed: random.bits(), noise, drops, soft: Vec::new(), ground, gains }
    }

    /// Displacement of the camera from its rest position, in samples: the mast sways in the wind.
    pub(super) fn shake(&self, seconds: f64) -> [i32; 2] {
        let at = seconds as f32;
        let strength = self.setting.shake;
        let (sway, _) = sin_cos(at * 2.3);
        let hit = smooth_noise(at * 5.0, 0.5) - 0.5;
        let nod = smooth_noise(at * 4.0, 7.5) - 0.5;
        [
            (strength * (0.7 * sway + 1.6 * hit)).round() as i32,
            (strength * (0.4 * sway + 1.6 * nod)).round() as i32,
        ]
    }

    /// The picture made of the samples at that time.
    pub(super) fn expose(&mut self, samples: &Raster, seconds: f64, rgb: &mut [u8]) {
        mean_of_samples(samples, self.setting.width as usize, rgb);
        self.soften(rgb);
        self.weather(seconds, rgb);
        self.on_the_lens(seconds, rgb);
        self.develop(seconds, rgb);
    }

    fn size(&self) -> (usize, usize) {
        (self.setting.width as usize, self.setting.height as usize)
    }

    /// Blends each pixel with its neighbours to the left and above.
    fn soften(&mut self, rgb: &mut [u8]) {
        let part = (self.setting.softness * 110.0) as u32;
        if part < 8 {
            return;
        }
        let row = self.setting.width as usize * 3;
        self.soft.clear();
        self.soft.extend_from_slice(rgb);
        let (keep, half) = (256 - part, part / 2);
        let neighbours = self.soft[row + 3..].iter().zip(&self.soft[row..]).zip(&self.soft[3..]);
        for (value, ((own, left), above)) in rgb[row + 3..].iter_mut().zip(neighbours) {
            let [own, left, above] = [own, left, above].map(|part| u32::from(*part));
            let mixed = own.wrapping_mul(keep).wrapping_add(left.wrapping_add(above).wrapping_mul(half));
            *value = (mixed >> 8) as u8;
        }
    }

    /// Streaks of rain or flakes of snow: the same number in every frame, at new positions.
    fn weather(&self, seconds: f64, rgb: &mut [u8]) {
        let (width, height) = self.size();
        let mut random = Random::stream(self.seed, (seconds * 1000.0) as u64);
        let dim = if self.setting.hour == Hour::Night { 0.35 } else { 1.0 };
        match self.setting.weather {
            Weather::Rain => {
                let slant = smooth_noise(seconds as f32 * 0.2, 3.0) - 0.5;
                for _ in 0..width * height / 1400 {
                    let near = random.unit() * random.unit();
                    let length = (height as f32 * (0.02 + 0.09 * near)) as usize;
                    let (x, y) = (random.unit() * width as f32, random.unit() * height as f32);
                    let strength = ((20.0 + 60.0 * near) * dim) as u32;
                    for step in 0..length {
                        let (column, row) = ((x + slant * step as f32) as usize, y as usize + step);
                        blend(rgb, [width, height], column, row, [205, 210, 215], strength);
                    }
                }
            }
            Weather::Snow => {
                for _ in 0..width * height / 1100 {
                    let near = random.unit() * random.unit();
                    let radius = 0.4 + near * width as f32 * 0.0035;
                    let (x, y) = (random.unit() * width as f32, random.unit() * height as f32);
                    disc(rgb, [width, height], [x, y, radius], [240, 242, 245], (210.0 * dim) as u32);
                }
            }
            Weather::Clear | Weather::Overcast | Weather::Fog => {}
        }
    }

    /// Drops, which blur, and a spider, which walks.
    fn on_the_lens(&self, seconds: f64, rgb: &mut [u8]) {
        let (width, height) = self.size();
        for [x, y, radius] in &self.drops {
            let (x, y, radius) = (x * width as f32, y * height as f32, (radius * width as f32).max(2.0));
            let rows = (y - radius).max(0.0) as usize..((y + radius) as usize).min(height);
            for row in rows {
                for column in (x - radius).max(0.0) as usize..((x + radius) as usize).min(width) {
                    let (dx, dy) = ((column as f32 - x) / radius, (row as f32 - y) / radius);
                    let square = dx * dx + dy * dy;
                    if square < 1.0 {
                        // A drop shows the scene small and upside down.
                        let from_row = (y - dy * radius * 2.5).clamp(0.0, height as f32 - 1.0) as usize;
                        let from_column = (x - dx * radius * 2.5).clamp(0.0, width as f32 - 1.0) as usize;
                        let from = (from_row * width + from_column) * 3;
                        let color = [rgb[from], rgb[from + 1], rgb[from + 2]].map(|part| part / 8 * 7 + 20);
                        blend(rgb, [width, height], column, row, color, (230.0 * (1.0 - square)) as u32);
                    }
                }
            }
        }
        if self.setting.spider {
            self.spider(seconds as f32, rgb);
        }
    }

    fn spider(&self, at: f32, rgb: &mut [u8]) {
        let (width, height) = self.size();
        let place = |along: f32| smooth_noise(along * 0.05, (self.seed % 97) as f32);
        let (x, y) = (place(at) * width as f32, place(at + 500.0) * height as f32);
        let scale = width as f32 * 0.03;
        for leg in 0..8u8 {
            let base = f32::from(leg) * 0.785 + 0.3;
            let (wiggle, _) = sin_cos(at * 6.0 + f32::from(leg) * 2.0);
            let (sin, cos) = sin_cos(base + wiggle * 0.15);
            for step in 0..30u8 {
                let out = f32::from(step) / 30.0 * scale * 2.2;
                let bend = (f32::from(step) / 30.0 - 0.5) * scale * 0.3;
                disc(
                    rgb,
                    [width, height],
                    [x + cos * out - sin * bend, y + sin * out + cos * bend, scale * 0.07],
                    [12, 10, 9],
                    110,
                );
            }
        }
        for (dx, radius) in [(0.0, 0.55), (0.6, 0.32)] {
            disc(rgb, [width, height], [x + dx * scale, y, radius * scale], [12, 10, 9], 235);
        }
    }

    fn gains_of_row(&mut self, row: usize, at: f32, gain: f32) {
        let columns = self.gains.len();
        for (slot, ground) in self.gains.iter_mut().zip(&self.ground[row * columns..]) {
            let cloud = match ground {
                // Clouds of about 30 m move over the street at 6 m/s.
                Some([x, y]) if self.setting.cloud_shadows => {
                    ((smooth_noise((x + at * 6.0) / 30.0, y / 30.0) - 0.5) * 3.0).clamp(0.0, 1.0)
                }
                Some(_) | None => 0.0,
            };
            *slot = (gain * (1.0 - 0.42 * cloud) * 256.0) as i32;
        }
    }

    /// Applies exposure, cloud shadows and noise.
    fn develop(&mut self, seconds: f64, rgb: &mut [u8]) {
        let (width, height) = self.size();
        let at = seconds as f32;
        let mut gain = 1.0;
        if self.setting.exposure_steps {
            // A new exposure every 7 s, in steps of a sixth.
            let step = mix(self.seed ^ (at / 7.0) as u64) % 5;
            gain += (step as f32 - 2.0) * 0.16;
        }
        for row in 0..height {
            if row % BLOCK == 0 {
                self.gains_of_row(row / BLOCK, at, gain);
            }
            let line = &mut rgb[row * width * 3..(row + 1) * width * 3];
            let from = mix(self.seed ^ mix(row as u64 ^ ((seconds * 1000.0) as u64) << 20)) as usize;
            for (column, chunk) in line.chunks_mut(BLOCK * 3).enumerate() {
                let gain = self.gains[column];
                let from = from.wrapping_add(column * BLOCK * 3);
                for (index, value) in chunk.iter_mut().enumerate() {
                    let noise = i32::from(self.noise[from.wrapping_add(index) % NOISE]);
                    *value =
                        ((i32::from(*value).wrapping_mul(gain) >> 8).wrapping_add(noise)).clamp(0, 255) as u8;
                }
            }
        }
    }
}

fn mean_of_samples(samples: &Raster, width: usize, rgb: &mut [u8]) {
    let stride = samples.width();
    for (row, line) in rgb.chunks_exact_mut(width * 3).enumerate() {
        let upper = &samples.color[row * SAMPLES * stride..][..stride];
        let lower = &samples.color[(row * SAMPLES + 1) * stride..][..stride];
        let pairs = upper.chunks_exact(SAMPLES).zip(lower.chunks_exact(SAMPLES));
        for (pixel, (above, below)) in line.chunks_exact_mut(3).zip(pairs) {
            for (part, value) in pixel.iter_mut().enumerate() {
                let sum = [above[0], above[1], below[0], below[1]].map(|sample| u16::from(sample[part]));
                *value =
                    (sum[0].wrapping_add(sum[1]).wrapping_add(sum[2]).wrapping_add(sum[3]).wrapping_add(2)
                        >> 2) as u8;
            }
        }
    }
}

/// Blends a colour into a pixel, `strength` of 256; nothing outside the picture.
fn blend(
    rgb: &mut [u8],
    [width, height]: [usize; 2],
    column: usize,
    row: usize,
    color: [u8; 3],
    strength: u32,
) {
    if column >= width || row >= height {
        return;
    }
    let place = (row * width + column) * 3;
    for (value, wanted) in rgb[place..place + 3].iter_mut().zip(color) {
        let mixed = u32::from(*value) * (256 - strength.min(256)) + u32::from(wanted) * strength.min(256);
        *value = (mixed >> 8) as u8;
    }
}

/// A disc with a soft edge.
fn disc(rgb: &mut [u8], size: [usize; 2], [x, y, radius]: [f32; 3], color: [u8; 3], strength: u32) {
    let reach = radius + 1.0;
    let rows = (y - reach).max(0.0) as usize..=(y + reach).max(0.0) as usize;
    for row in rows {
        for column in (x - reach).max(0.0) as usize..=(x + reach).max(0.0) as usize {
            let (dx, dy) = (column as f32 + 0.5 - x, row as f32 + 0.5 - y);
            let edge = (radius + 0.5 - (dx * dx + dy * dy).sqrt()).clamp(0.0, 1.0);
            if edge > 0.0 {
                blend(rgb, size, column, row, color, (strength as f32 * edge) as u32);
            }
        }
    }
}
