//! One frame row as RGB, from any kind of planes: the input of the letterbox.
//!
//! Integer arithmetic throughout, bit for bit that of libjpeg (IJG 6b, libjpeg-turbo) with its default settings, so that a JPEG becomes
//! exactly the pixels on which detectors are trained and measured: chroma with half the samples is interpolated ("fancy upsampling",
//! `jdsample.c`), colours are converted with 16 fraction bits (`jdcolor.c`). Raw camera formats take the same path, with their own matrix
//! and range.
//!
//! Sums here are `wrapping`: samples of 8 bits times coefficients below 2^18 cannot overflow 32 bits, and three of them at most 16; the
//! overflow checks of other arithmetic would prevent vectorisation, which is six times as fast.

use crate::base::limits::FRAME_SIDE_MAX;
use crate::capture::frame::{Color, ColorMatrix, ColorRange, Plane, Planes};

/// Maximum length of a row, pixels.
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
    /// From the luma weights Kr and Kb: R = Y + 2(1-Kr)V, B = Y + 2(1-Kb)U, G from what is left (ITU-R BT.601-7 section 2.5, BT.709-6
    /// section 3; limited range: 219 steps of luma, 224 of chroma). Coefficients have five decimals, as in libjpeg.
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

    /// Luma with its fraction bits, rounding included.
    #[inline(always)]
    fn luma(&self, y: u8) -> i32 {
        (i32::from(y).wrapping_sub(self.luma_zero)).wrapping_mul(self.luma).wrapping_add(1 << (FRACTION - 1))
    }
}

#[inline(always)]
fn code(value: i32) -> u8 {
    (value >> FRACTION).clamp(0, 255) as u8
}

/// Converts rows to RGB. Holds one row and its scratch memory.
#[derive(Debug)]
pub(super) struct RgbRow {
    /// Red, green, blue: each `WIDTH_MAX` long.
    rgb: [Box<[u8]>; 3],
    /// The chroma of the row at full width.
    chroma: [Box<[u8]>; 2],
    /// Two rows of chroma added up, before they are interpolated horizontally.
    sums: Box<[u16]>,
    /// Contiguous copies of samples that are not contiguous.
    side: [Box<[u8]>; 2],
}

impl RgbRow {
    /// For rows up to the largest frame's. Allocates all memory.
    pub(super) fn new() -> Self {
        let row = || vec![0; WIDTH_MAX].into_boxed_slice();
        RgbRow {
            rgb: [row(), row(), row()],
            chroma: [row(), row()],
            sums: vec![0; WIDTH_MAX].into(),
            side: [row(), row()],
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        7 * WIDTH_MAX + size_of_val(&*self.sums)
    }

    /// Row `y` of the frame: red, green and blue, each as long as the frame is wide.
    pub(super) fn read(&mut self, planes: &Planes<'_>, color: Color, y: usize) -> [&[u8]; 3] {
        let width = planes.width();
        let to_rgb = ToRgb::new(color);
        let RgbRow { rgb, chroma, sums, side } = self;
        let [red, green, blue] = rgb;
        let (red, green, blue) = (&mut red[..width], &mut green[..width], &mut blue[..width]);
        match planes {
            Planes::Grey(luma) => {
                for (out, y) in red.iter_mut().zip(samples(luma, y, &mut side[0])) {
                    *out = code(to_rgb.luma(*y));
                }
                green.copy_from_slice(red);
                blue.copy_from_slice(red);
            }
            Planes::Rgb { r, g, b } => {
                for (out, plane) in [(red, r), (green, g), (blue, b)] {
                    out.copy_from_slice(samples(plane, y, &mut side[0]));
                }
            }
            Planes::Yuv { y: luma, u, v } => {
                let full = (width, luma.height());
                for (plane, out) in [u, v].into_iter().zip(chroma.iter_mut()) {
                    upsample(plane, y, full, (sums, side), &mut out[..width]);
                }
                let luma = samples(luma, y, &mut side[0]);
                let (u, v) = (&chroma[0][..width], &chroma[1][..width]);
                turn(&to_rgb, [luma, u, v], [red, green, blue]);
            }
        }
        self.rgb.each_ref().map(|channel| &channel[..width])
    }
}

/// Converts luma and chroma of a row to red, green and blue.
fn turn(to_rgb: &ToRgb, [luma, u, v]: [&[u8]; 3], [red, green, blue]: [&mut [u8]; 3]) {
    let ToRgb { red_v, green_u, green_v, blue_u, .. } = *to_rgb;
    // Slices of one common length, so that the compiler vectorises.
    let n = luma.len();
    let (u, v, red, green, blue) = (&u[..n], &v[..n], &mut red[..n], &mut green[..n], &mut blue[..n]);
    for x in 0..n {
        let value = to_rgb.luma(luma[x]);
        let (u, v) = (i32::from(u[x]).wrapping_sub(128), i32::from(v[x]).wrapping_sub(128));
        red[x] = code(value.wrapping_add(red_v.wrapping_mul(v)));
        green[x] = code(value.wrapping_add(green_u.wrapping_mul(u)).wrapping_add(green_v.wrapping_mul(v)));
        blue[x] = code(value.wrapping_add(blue_u.wrapping_mul(u)));
    }
}

/// The samples of row `y`: in place, or copied contiguously into `side`.
fn samples<'a>(plane: &Plane<'a>, y: usize, side: &'a mut [u8]) -> &'a [u8] {
    fn put<const STEP: usize>(row: &[u8], side: &mut [u8]) {
        side.iter_mut().zip(row.chunks(STEP)).for_each(|(out, samples)| *out = samples[0]);
    }
    let (row, width) = (plane.row(y), plane.width());
    match plane.step() {
        1 => return row,
        2 => put::<2>(row, &mut side[..width]),
        3 => put::<3>(row, &mut side[..width]),
        4 => put::<4>(row, &mut side[..width]),
        step => side.iter_mut().zip(row.iter().step_by(step)).for_each(|(out, sample)| *out = *sample),
    }
    &side[..width]
}

/// Whether `have` samples are half of `full` pixels.
fn halved(have: usize, full: usize) -> bool {
    have == full.div_ceil(2) && have != full
}

/// Row `y` of a chroma plane at the size of luma (`full`: width, height): interpolated where it has half the samples, copied where it has
/// all, repeated otherwise (4:1:1).
fn upsample(
    plane: &Plane<'_>,
    y: usize,
    full: (usize, usize),
    (sums, side): (&mut [u16], &mut [Box<[u8]>; 2]),
    out: &mut [u8],
) {
    let have = plane.width();
    let sums = &mut sums[..have];
    let [first, second] = side;
    // Vertically: three parts of the nearer row and one of the farther.
    let down = halved(plane.height(), full.1);
    if down {
        let near = y / 2;
        let far =
            if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(plane.height() - 1) };
        let (near, far) = (samples(plane, near, first), samples(plane, far, second));
        for (sum, (near, far)) in sums.iter_mut().zip(near.iter().zip(far)) {
            *sum = three_and_one(u16::from(*near), u16::from(*far));
        }
    } else {
        let row = (y * plane.height() / full.1).min(plane.height() - 1);
        sums.iter_mut().zip(samples(plane, row, first)).for_each(|(sum, value)| *sum = u16::from(*value));
    }
    if halved(have, full.0) {
        return interpolate(sums, down, out);
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

#[inline(always)]
const fn three_and_one(near: u16, far: u16) -> u16 {
    near.wrapping_mul(3).wrapping_add(far)
}

/// Two pixels for each of `sums`, which count four parts if rows were added up (`down`): three parts of the nearer and one of the farther.
/// Rounding alternates so that its mean is zero.
fn interpolate(sums: &[u16], down: bool, out: &mut [u8]) {
    let (even, odd, shift) = if down { (8, 7, 4) } else { (1, 2, 2) };
    let last = sums.len() - 1;
    out[0] = ((4 * sums[0] + even) >> shift) as u8;
    // All pixels but the first and the last lie between two samples: the second of one, the first of the next.
    for (pair, near) in out[1..].chunks_exact_mut(2).zip(sums.windows(2)) {
        pair[0] = (three_and_one(near[0], near[1]).wrapping_add(odd) >> shift) as u8;
        pair[1] = (three_and_one(near[1], near[0]).wrapping_add(even) >> shift) as u8;
    }
    if out.len() == 2 * sums.len() {
        out[2 * last + 1] = ((4 * sums[last] + odd) >> shift) as u8;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::vision::jpeg::JpegDecoder;

    /// FNV-1a, 64 bit, as in `tests/data/make_pixels.py`.
    pub(in crate::vision::detect) fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
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

    /// Planes of any step and subsampling, at even and odd widths, compared with the formulas one pixel at a time.
    #[test]
    fn rows_of_any_layout_are_those_of_the_formulas() {
        let noise: Vec<u8> = (0..40_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
        let mut row = RgbRow::new();
        for (width, height) in [(1, 1), (2, 3), (17, 6), (40, 5), (131, 4)] {
            for (step, across, down) in [
                (1, 1, 1),
                (2, 1, 1),
                (3, 1, 1),
                (1, 2, 1),
                (4, 2, 1),
                (1, 2, 2),
                (2, 2, 2),
                (1, 1, 2),
                (5, 4, 1),
            ] {
                let (wide, high) = (usize::div_ceil(width, across), usize::div_ceil(height, down));
                let plane = |at: usize, wide: usize, high: usize, step: usize| {
                    Plane::new(&noise[at..], wide, high, wide * step + 3, step).unwrap()
                };
                let luma = plane(7, width, height, if step == 4 { 2 } else { 1 });
                let (u, v) = (plane(9000, wide, high, step), plane(20_000, wide, high, step));
                let planes = Planes::Yuv { y: luma, u, v };
                for color in [Color::JPEG, Color::default()] {
                    let to_rgb = ToRgb::new(color);
                    for y in 0..height {
                        let ours = row.read(&planes, color, y).map(<[u8]>::to_vec);
                        let pixels = ours[0].iter().zip(&ours[1]).zip(&ours[2]);
                        for (x, ((red, green), blue)) in pixels.enumerate() {
                            let value = to_rgb.luma(luma.row(y)[x * luma.step()]);
                            let [u, v] =
                                [&u, &v].map(|plane| i32::from(chroma(plane, (x, y), (width, height))) - 128);
                            let wanted = [
                                value + to_rgb.red_v * v,
                                value + to_rgb.green_u * u + to_rgb.green_v * v,
                                value + to_rgb.blue_u * u,
                            ];
                            let have = [*red, *green, *blue];
                            assert_eq!(
                                have,
                                wanted.map(code),
                                "{width}x{height} {step} {across} {down} at {x}, {y}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// Chroma at a pixel (`jdsample.c`, `h2v2_fancy_upsample` and its variants).
    fn chroma(plane: &Plane<'_>, (x, y): (usize, usize), (width, height): (usize, usize)) -> u8 {
        let near = |at: usize, have: usize| {
            let other =
                if at.is_multiple_of(2) { (at / 2).saturating_sub(1) } else { (at / 2 + 1).min(have - 1) };
            (at / 2, other)
        };
        let sample = |x: usize, y: usize| u16::from(plane.row(y)[x * plane.step()]);
        let (wide, high) = (plane.width(), plane.height());
        let (across, down) = (halved(wide, width), halved(high, height));
        let column = |x: usize| {
            let (here, other) = near(y, high);
            if down {
                3 * sample(x, here) + sample(x, other)
            } else {
                sample(x, (y * high / height).min(high - 1))
            }
        };
        let (here, other) = near(x, wide);
        let is_even = x.is_multiple_of(2);
        (match (across, down) {
            (true, true) => (3 * column(here) + column(other) + if is_even { 8 } else { 7 }) >> 4,
            (true, false) => (3 * column(here) + column(other) + if is_even { 1 } else { 2 }) >> 2,
            (false, true) => {
                (column(x / width.div_ceil(wide)) + if y.is_multiple_of(2) { 1 } else { 2 }) >> 2
            }
            (false, false) => column(x / width.div_ceil(wide)),
        }) as u8
    }
}
