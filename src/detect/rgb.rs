//! One row of a frame as RGB, from whatever planes it has: what the letterbox samples from.
//!
//! Integer arithmetic throughout, bit for bit that of libjpeg (IJG 6b, libjpeg-turbo) with its usual settings, so that a
//! JPEG becomes exactly the pixels on which detectors are trained and measured: chroma with half the samples is
//! interpolated ("fancy upsampling", `jdsample.c`), colours are turned with 16 fraction bits (`jdcolor.c`). Cameras' raw
//! formats go the same way, with their own matrix and range.

use crate::frame::{Color, ColorMatrix, ColorRange, Plane, Planes};
use crate::limits::FRAME_SIDE_MAX;

/// Longest row, pixels.
const WIDTH_MAX: usize = FRAME_SIDE_MAX as usize;
/// Fraction bits of the colour arithmetic (`jdcolor.c`, `SCALEBITS`).
const FRACTION: u32 = 16;

/// Code values to RGB, fixed point.
#[derive(Debug, Clone, Copy)]
struct ToRgb {
    luma_zero: i32,
    luma: i32,
    red_v: i32,
    green_u: i32,
    green_v: i32,
    blue_u: i32,
}

impl ToRgb {
    /// From the luma weights Kr and Kb: R = Y + 2(1-Kr)V, B = Y + 2(1-Kb)U, G from what is left (ITU-R BT.601-7 section
    /// 2.5, BT.709-6 section 3; limited range: 219 steps of luma, 224 of chroma). Coefficients have five decimals, as in
    /// libjpeg.
    fn new(color: Color) -> Self {
        let (kr, kb) = match color.matrix {
            ColorMatrix::Bt601 => (0.299f64, 0.114f64),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
        };
        let kg = 1.0 - kr - kb;
        let (luma_zero, luma, chroma) = match color.range {
            ColorRange::Full => (0, 1.0, 1.0),
            ColorRange::Limited => (16, 255.0 / 219.0, 255.0 / 224.0),
        };
        let fixed = |value: f64| {
            let five_decimals = (value * 1e5).round() / 1e5;
            (five_decimals * f64::from(1u32 << FRACTION) + 0.5).floor() as i32
        };
        ToRgb {
            luma_zero,
            luma: fixed(luma),
            red_v: fixed(2.0 * (1.0 - kr) * chroma),
            green_u: -fixed(2.0 * (1.0 - kb) * kb / kg * chroma),
            green_v: -fixed(2.0 * (1.0 - kr) * kr / kg * chroma),
            blue_u: fixed(2.0 * (1.0 - kb) * chroma),
        }
    }

    /// Luma with its fraction, rounding included.
    #[inline(always)]
    fn luma(&self, y: u8) -> i32 {
        (i32::from(y) - self.luma_zero) * self.luma + (1 << (FRACTION - 1))
    }
}

#[inline(always)]
fn code(value: i32) -> u8 {
    (value >> FRACTION).clamp(0, 255) as u8
}

/// Turns rows into RGB. Holds one row and what it takes to make it.
#[derive(Debug)]
pub(super) struct RgbRow {
    /// Red, green, blue: each `WIDTH_MAX` long.
    rgb: [Box<[u8]>; 3],
    /// The chroma of the row at full width.
    chroma: [Box<[u8]>; 2],
    /// Two rows of chroma added up, before they are interpolated along the row.
    sums: Box<[u16]>,
}

impl RgbRow {
    /// For rows up to the largest frame's. All memory is taken here.
    pub(super) fn new() -> Self {
        let row = || vec![0; WIDTH_MAX].into_boxed_slice();
        RgbRow { rgb: [row(), row(), row()], chroma: [row(), row()], sums: vec![0; WIDTH_MAX].into() }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        5 * WIDTH_MAX + size_of_val(&*self.sums)
    }

    /// Row `y` of the frame: red, green and blue, each as long as the frame is wide.
    pub(super) fn read(&mut self, planes: &Planes<'_>, color: Color, y: usize) -> [&[u8]; 3] {
        let width = planes.width();
        let to_rgb = ToRgb::new(color);
        let [red, green, blue] = &mut self.rgb;
        let (red, green, blue) = (&mut red[..width], &mut green[..width], &mut blue[..width]);
        match planes {
            Planes::Grey(luma) => {
                for (out, y) in red.iter_mut().zip(samples(luma, y)) {
                    *out = code(to_rgb.luma(y));
                }
                green.copy_from_slice(red);
                blue.copy_from_slice(red);
            }
            Planes::Rgb { r, g, b } => {
                for (out, plane) in [(red, r), (green, g), (blue, b)] {
                    out.iter_mut().zip(samples(plane, y)).for_each(|(out, value)| *out = value);
                }
            }
            Planes::Yuv { y: luma, u, v } => {
                let full = (width, luma.height());
                for (plane, out) in [u, v].into_iter().zip(&mut self.chroma) {
                    upsample(plane, y, full, &mut self.sums, &mut out[..width]);
                }
                let chroma = self.chroma[0][..width].iter().zip(&self.chroma[1][..width]);
                let out = red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut());
                for ((y, (u, v)), ((red, green), blue)) in samples(luma, y).zip(chroma).zip(out) {
                    let value = to_rgb.luma(y);
                    let (u, v) = (i32::from(*u) - 128, i32::from(*v) - 128);
                    *red = code(value + to_rgb.red_v * v);
                    *green = code(value + to_rgb.green_u * u + to_rgb.green_v * v);
                    *blue = code(value + to_rgb.blue_u * u);
                }
            }
        }
        self.rgb.each_ref().map(|channel| &channel[..width])
    }
}

/// The samples of row `y`.
fn samples<'a>(plane: &Plane<'a>, y: usize) -> impl Iterator<Item = u8> + use<'a> {
    plane.row(y).iter().step_by(plane.step()).copied()
}

/// Whether `have` samples stand for `full` pixels, one for two.
fn halved(have: usize, full: usize) -> bool {
    have == full.div_ceil(2) && have != full
}

/// Row `y` of a chroma plane at the size of luma (`full`: width, height): linear where it has half the samples, as it is
/// where it has all, repeated otherwise (4:1:1).
fn upsample(plane: &Plane<'_>, y: usize, full: (usize, usize), sums: &mut [u16], out: &mut [u8]) {
    let have = plane.width();
    let sums = &mut sums[..have];
    // Up and down: three parts of the nearer row and one of the farther.
    let down = halved(plane.height(), full.1);
    if down {
        let near = y / 2;
        let far =
            if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(plane.height() - 1) };
        for (sum, (near, far)) in sums.iter_mut().zip(samples(plane, near).zip(samples(plane, far))) {
            *sum = 3 * u16::from(near) + u16::from(far);
        }
    } else {
        let row = (y * plane.height() / full.1).min(plane.height() - 1);
        sums.iter_mut().zip(samples(plane, row)).for_each(|(sum, value)| *sum = u16::from(value));
    }
    if halved(have, full.0) {
        // Rounding alternates so that it adds up to none.
        let (even, odd, shift) = if down { (8, 7, 4) } else { (1, 2, 2) };
        for (index, pair) in out.chunks_mut(2).enumerate() {
            let here = 3 * sums[index];
            let before = sums[index.saturating_sub(1)];
            pair[0] = ((here + before + even) >> shift) as u8;
            if let Some(second) = pair.get_mut(1) {
                let after = sums[(index + 1).min(have - 1)];
                *second = ((here + after + odd) >> shift) as u8;
            }
        }
        return;
    }
    let (round, shift) = match (down, y.is_multiple_of(2)) {
        (true, true) => (1, 2),
        (true, false) => (2, 2),
        (false, _) => (0, 0),
    };
    let repeat = full.0.div_ceil(have);
    for (x, out) in out.iter_mut().enumerate() {
        *out = ((sums[x / repeat] + round) >> shift) as u8;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::jpeg::JpegDecoder;

    /// FNV-1a, 64 bit, as `tests/data/make_pixels.py` has it.
    pub(in crate::detect) fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// Pictures of every subsampling and of odd sides: the pixels of libjpeg-turbo, bit for bit.
    #[test]
    fn jpegs_become_libjpegs_pixels() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pixels");
        let golden = std::fs::read_to_string(format!("{folder}/golden.txt")).unwrap();
        let mut seen = 0;
        for line in golden.lines().filter(|line| line.starts_with("jpeg ")) {
            let [_, name, width, height, hash] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            let (width, height): (u32, u32) = (width.parse().unwrap(), height.parse().unwrap());
            let mut decoder = JpegDecoder::new(width, height);
            let bytes = std::fs::read(format!("{folder}/{name}")).unwrap();
            let decoded = decoder.decode(&bytes).unwrap();
            let mut row = RgbRow::new();
            let mut pixels = Vec::new();
            for y in 0..height as usize {
                let [r, g, b] = row.read(&decoded.planes, decoded.color, y);
                (0..width as usize).for_each(|x| pixels.extend([r[x], g[x], b[x]]));
            }
            assert_eq!(format!("{:016x}", fnv(pixels.into_iter())), hash, "{name}");
            seen += 1;
        }
        assert!(seen >= 5, "{seen}");
    }

    #[test]
    fn coefficients_are_those_of_libjpeg() {
        let ToRgb { luma_zero, luma, red_v, green_u, green_v, blue_u } = ToRgb::new(Color::JPEG);
        // jdcolor.c: FIX(1.40200), FIX(0.34414), FIX(0.71414), FIX(1.77200).
        assert_eq!(
            (luma_zero, luma, red_v, green_u, green_v, blue_u),
            (0, 65536, 91881, -22554, -46802, 116_130)
        );
    }
}
