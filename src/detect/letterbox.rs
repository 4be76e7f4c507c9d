//! From the camera's planes to the model's input in one pass, and boxes back again.
//!
//! The frame is scaled to fit the model's rectangle, centred, and the rest filled with grey 114, as Ultralytics does it
//! (`ultralytics/data/augment.py`, `LetterBox`); sampling is bilinear with half-pixel centres and clamped edges, as
//! `cv2.resize(INTER_LINEAR)`. Each output pixel is interpolated on the planes as they are, chroma at its own
//! resolution, and only then turned into RGB 0..=1: there is no intermediate RGB frame, and nothing is allocated.
//!
//! The only place that converts between [`Frame`] and [`Model`] pixels.

use crate::frame::{Color, ColorMatrix, ColorRange, Plane, Planes};
use crate::geometry::{BoxPx, Frame, Model};

/// The grey around a letterboxed frame, 0..=1 (114 of 255, Ultralytics).
pub const PADDING: f32 = 114.0 / 255.0;

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// To the right.
    pub width: usize,
    /// Down.
    pub height: usize,
}

impl std::fmt::Display for Size {
    /// As model files name it: `640` for a square, else `HEIGHTxWIDTH`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.width == self.height {
            write!(f, "{}", self.width)
        } else {
            write!(f, "{}x{}", self.height, self.width)
        }
    }
}

/// Where the frame lies in the model's rectangle. Pure numbers; [`Letterbox`] does the work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    frame: Size,
    model: Size,
    scaled: Size,
    left: usize,
    top: usize,
}

impl Placement {
    /// The placement of a `frame` in a `model` rectangle; sides of 0 count as 1.
    pub fn new(frame: Size, model: Size) -> Self {
        let frame = Size { width: frame.width.max(1), height: frame.height.max(1) };
        let ratio = (model.height as f64 / frame.height as f64).min(model.width as f64 / frame.width as f64);
        let scale = |side: usize, most: usize| {
            ((side as f64 * ratio).round_ties_even() as usize).clamp(1, most.max(1))
        };
        let scaled =
            Size { width: scale(frame.width, model.width), height: scale(frame.height, model.height) };
        // The reference rounds half the rest after taking off 0.1, so that an odd pixel goes to the right and below.
        let margin = |model: usize, scaled: usize| {
            ((model - scaled.min(model)) as f64 / 2.0 - 0.1).round().max(0.0) as usize
        };
        Placement {
            frame,
            model,
            scaled,
            left: margin(model.width, scaled.width),
            top: margin(model.height, scaled.height),
        }
    }

    /// Frame pixels per model pixel, horizontally and vertically.
    fn scale(&self) -> (f32, f32) {
        (
            (self.frame.width as f64 / self.scaled.width as f64) as f32,
            (self.frame.height as f64 / self.scaled.height as f64) as f32,
        )
    }

    /// A box of the model in the frame, clipped to the frame.
    pub fn to_frame(&self, bbox: &BoxPx<Model>) -> BoxPx<Frame> {
        let (sx, sy) = self.scale();
        let (left, top) = (self.left as f32, self.top as f32);
        BoxPx::new((bbox.x1 - left) * sx, (bbox.y1 - top) * sy, (bbox.x2 - left) * sx, (bbox.y2 - top) * sy)
            .clipped(self.frame.width as f32, self.frame.height as f32)
    }

    /// A box of the frame in the model: the inverse, for boxes inside the frame.
    pub fn to_model(&self, bbox: &BoxPx<Frame>) -> BoxPx<Model> {
        let (sx, sy) = self.scale();
        let (left, top) = (self.left as f32, self.top as f32);
        BoxPx::new(bbox.x1 / sx + left, bbox.y1 / sy + top, bbox.x2 / sx + left, bbox.y2 / sy + top)
    }
}

/// One bilinear sample along a row: byte offsets of the two neighbours and the weight of the second.
#[derive(Debug, Clone, Copy, Default)]
struct Tap {
    near: u32,
    far: u32,
    weight: f32,
}

/// Taps for all columns of the output over one kind of plane.
#[derive(Debug)]
struct Taps {
    taps: Vec<Tap>,
    /// What they were made for: samples in a row, step, placement.
    made_for: Option<(usize, usize, Placement)>,
}

impl Taps {
    fn new(model: Size) -> Self {
        Taps { taps: Vec::with_capacity(model.width), made_for: None }
    }

    fn prepare(&mut self, plane: &Plane<'_>, placement: &Placement) {
        let key = (plane.width(), plane.step(), *placement);
        if self.made_for == Some(key) {
            return;
        }
        self.taps.clear();
        for x in 0..placement.scaled.width {
            let (near, far, weight) = sample(x, placement.scaled.width, plane.width());
            let step = plane.step() as u32;
            self.taps.push(Tap { near: near as u32 * step, far: far as u32 * step, weight });
        }
        self.made_for = Some(key);
    }
}

/// The two samples of `have` that output sample `index` of `wanted` lies between, and the weight of the second.
fn sample(index: usize, wanted: usize, have: usize) -> (usize, usize, f32) {
    let at = (index as f64 + 0.5) * have as f64 / wanted as f64 - 0.5;
    let clamped = at.clamp(0.0, (have - 1) as f64);
    let near = clamped as usize;
    ((near), (near + 1).min(have - 1), (clamped - near as f64) as f32)
}

/// Two neighbouring rows of a plane and the weight of the second.
struct Rows<'a> {
    near: &'a [u8],
    far: &'a [u8],
    weight: f32,
}

impl<'a> Rows<'a> {
    fn new(plane: &Plane<'a>, y: usize, wanted: usize) -> Self {
        let (near, far, weight) = sample(y, wanted, plane.height());
        Rows { near: plane.row(near), far: plane.row(far), weight }
    }

    #[inline(always)]
    fn at(&self, tap: &Tap) -> f32 {
        let value = |row: &[u8], offset: u32| f32::from(row[offset as usize]);
        let above = value(self.near, tap.near)
            + tap.weight * (value(self.near, tap.far) - value(self.near, tap.near));
        let below =
            value(self.far, tap.near) + tap.weight * (value(self.far, tap.far) - value(self.far, tap.near));
        above + self.weight * (below - above)
    }
}

/// Code values to RGB in 0..=1.
#[derive(Debug, Clone, Copy)]
struct ToRgb {
    luma_zero: f32,
    luma: f32,
    red_v: f32,
    green_u: f32,
    green_v: f32,
    blue_u: f32,
}

impl ToRgb {
    /// From the luma weights Kr and Kb: R = Y + 2(1-Kr)V, B = Y + 2(1-Kb)U, G from what is left (ITU-R BT.601-7 section
    /// 2.5, BT.709-6 section 3; limited range: 219 steps of luma, 224 of chroma).
    fn new(color: Color) -> Self {
        let (kr, kb) = match color.matrix {
            ColorMatrix::Bt601 => (0.299, 0.114),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
        };
        let kg: f32 = 1.0 - kr - kb;
        let (luma_zero, luma, chroma) = match color.range {
            ColorRange::Full => (0.0, 1.0 / 255.0, 1.0 / 255.0),
            ColorRange::Limited => (16.0, 1.0 / 219.0, 1.0 / 224.0),
        };
        ToRgb {
            luma_zero,
            luma,
            red_v: 2.0 * (1.0 - kr) * chroma,
            green_u: -2.0 * (1.0 - kb) * kb / kg * chroma,
            green_v: -2.0 * (1.0 - kr) * kr / kg * chroma,
            blue_u: 2.0 * (1.0 - kb) * chroma,
        }
    }

    #[inline(always)]
    fn luma(&self, y: f32) -> f32 {
        (y - self.luma_zero) * self.luma
    }
}

/// Fills model inputs. Holds the sampling tables of the current frame format; another format only costs their remaking.
#[derive(Debug)]
pub struct Letterbox {
    model: Size,
    luma: Taps,
    chroma: Taps,
}

impl Letterbox {
    /// For a model with that input. All memory is taken here.
    pub fn new(model: Size) -> Self {
        Letterbox { model, luma: Taps::new(model), chroma: Taps::new(model) }
    }

    /// Bytes on the heap, for the sum of I1.
    pub fn heap_bytes(&self) -> usize {
        (self.luma.taps.capacity() + self.chroma.taps.capacity()) * size_of::<Tap>()
    }

    /// Fills `input` (planar R, G, B of the model's size, each row by row, 0..=1) from a frame and says where the frame lies.
    ///
    /// # Panics
    /// If `input` is not `3 * width * height` long.
    pub fn fill(&mut self, planes: &Planes<'_>, color: Color, input: &mut [f32]) -> Placement {
        let area = self.model.width * self.model.height;
        assert_eq!(input.len(), 3 * area, "the model's input is 3 planes of {}", self.model);
        let placement = Placement::new(Size { width: planes.width(), height: planes.height() }, self.model);
        let (red, rest) = input.split_at_mut(area);
        let (green, blue) = rest.split_at_mut(area);
        for plane in [&mut *red, &mut *green, &mut *blue] {
            pad(plane, &placement);
        }
        self.luma.prepare(&planes.luma(), &placement);
        if let Planes::Yuv { u, .. } = planes {
            self.chroma.prepare(u, &placement);
        }
        let to_rgb = ToRgb::new(color);
        for y in 0..placement.scaled.height {
            let start = (placement.top + y) * self.model.width + placement.left;
            let row = start..start + placement.scaled.width;
            let out = [&mut red[row.clone()], &mut green[row.clone()], &mut blue[row]];
            self.fill_row(planes, &to_rgb, y, placement.scaled.height, out);
        }
        placement
    }

    fn fill_row(&self, planes: &Planes<'_>, to_rgb: &ToRgb, y: usize, height: usize, out: [&mut [f32]; 3]) {
        let [red, green, blue] = out;
        let pixels = red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut());
        match planes {
            Planes::Grey(plane) => {
                let rows = Rows::new(plane, y, height);
                for (((red, green), blue), tap) in pixels.zip(&self.luma.taps) {
                    let value = to_rgb.luma(rows.at(tap)).clamp(0.0, 1.0);
                    (*red, *green, *blue) = (value, value, value);
                }
            }
            Planes::Rgb { r, g, b } => {
                let [r, g, b] = [r, g, b].map(|plane| Rows::new(plane, y, height));
                for (((red, green), blue), tap) in pixels.zip(&self.luma.taps) {
                    *red = r.at(tap) / 255.0;
                    *green = g.at(tap) / 255.0;
                    *blue = b.at(tap) / 255.0;
                }
            }
            Planes::Yuv { y: luma, u, v } => {
                let [luma, u, v] = [luma, u, v].map(|plane| Rows::new(plane, y, height));
                let taps = self.luma.taps.iter().zip(&self.chroma.taps);
                for (((red, green), blue), (tap, chroma)) in pixels.zip(taps) {
                    let value = to_rgb.luma(luma.at(tap));
                    let (u, v) = (u.at(chroma) - 128.0, v.at(chroma) - 128.0);
                    *red = (value + to_rgb.red_v * v).clamp(0.0, 1.0);
                    *green = (value + to_rgb.green_u * u + to_rgb.green_v * v).clamp(0.0, 1.0);
                    *blue = (value + to_rgb.blue_u * u).clamp(0.0, 1.0);
                }
            }
        }
    }
}

/// Greys what the frame does not cover.
fn pad(plane: &mut [f32], placement: &Placement) {
    let (width, top, left) = (placement.model.width, placement.top, placement.left);
    let (bottom, right) = (top + placement.scaled.height, left + placement.scaled.width);
    plane[..top * width].fill(PADDING);
    plane[bottom * width..].fill(PADDING);
    for row in plane[top * width..bottom * width].chunks_exact_mut(width) {
        row[..left].fill(PADDING);
        row[right..].fill(PADDING);
    }
}

/// The rectangle that a model with free input sides gets for a frame: the frame's aspect, `long_side` at most (the
/// model's own size), sides rounded up to multiples of `stride`, so that little of the arithmetic goes into padding.
pub fn rectangle_for(frame: Size, long_side: usize, stride: usize) -> Size {
    let stride = stride.max(1);
    let up = |side: f64| ((side / stride as f64).ceil() as usize).max(1) * stride;
    let long = long_side.div_ceil(stride) * stride;
    let ratio = long as f64 / frame.width.max(frame.height).max(1) as f64;
    // A ten-thousandth less, lest 360.00000001 of a rounded ratio become the next multiple.
    let side = |side: usize| up(side as f64 * ratio - 1e-4).min(long.max(stride));
    Size { width: side(frame.width), height: side(frame.height) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameFormat, FrameView, PixelFormat};
    use proptest::prelude::*;

    fn size(width: usize, height: usize) -> Size {
        Size { width, height }
    }

    #[test]
    fn placements_are_the_references() {
        // frame, model, scaled, left, top: from reference letterbox(), evaluated in Python.
        for (frame, model, scaled, left, top) in [
            (size(1280, 720), size(640, 640), size(640, 360), 0, 140),
            (size(810, 1080), size(640, 640), size(480, 640), 80, 0),
            (size(768, 432), size(320, 320), size(320, 180), 0, 70),
            (size(1280, 720), size(640, 384), size(640, 360), 0, 12),
            (size(810, 1080), size(640, 384), size(288, 384), 176, 0),
            (size(100, 99), size(64, 64), size(64, 63), 0, 0),
            (size(17, 31), size(320, 320), size(175, 320), 72, 0),
            (size(2, 2), size(320, 320), size(320, 320), 0, 0),
        ] {
            let p = Placement::new(frame, model);
            assert_eq!((p.scaled, p.left, p.top), (scaled, left, top), "{frame:?} in {model:?}");
        }
    }

    #[test]
    fn rectangles_fit_the_aspect() {
        for (frame, long, rectangle) in [
            (size(1280, 720), 640, size(640, 384)),
            (size(768, 432), 640, size(640, 384)),
            (size(810, 1080), 640, size(480, 640)),
            (size(640, 480), 640, size(640, 480)),
            (size(640, 640), 640, size(640, 640)),
            (size(1280, 720), 320, size(320, 192)),
            (size(1920, 1080), 650, size(672, 384)),
            (size(4000, 16), 640, size(640, 32)),
        ] {
            assert_eq!(rectangle_for(frame, long, 32), rectangle, "{frame:?}");
        }
    }

    /// Straight from the definition, in f64, pixel by pixel through full-size RGB: slow and obvious.
    fn oracle(rgb: &dyn Fn(usize, usize) -> [f64; 3], frame: Size, model: Size) -> Vec<f64> {
        let ratio = (model.height as f64 / frame.height as f64).min(model.width as f64 / frame.width as f64);
        let (w, h) =
            ((frame.width as f64 * ratio).round_ties_even(), (frame.height as f64 * ratio).round_ties_even());
        let (w, h) = (w.max(1.0), h.max(1.0));
        let left = ((model.width as f64 - w) / 2.0 - 0.1).round().max(0.0);
        let top = ((model.height as f64 - h) / 2.0 - 0.1).round().max(0.0);
        let mut out = vec![114.0 / 255.0; 3 * model.width * model.height];
        for y in 0..h as usize {
            for x in 0..w as usize {
                let sx =
                    ((x as f64 + 0.5) * frame.width as f64 / w - 0.5).clamp(0.0, frame.width as f64 - 1.0);
                let sy =
                    ((y as f64 + 0.5) * frame.height as f64 / h - 0.5).clamp(0.0, frame.height as f64 - 1.0);
                let (x0, y0) = (sx.floor() as usize, sy.floor() as usize);
                let (x1, y1) = ((x0 + 1).min(frame.width - 1), (y0 + 1).min(frame.height - 1));
                let (fx, fy) = (sx.fract(), sy.fract());
                for c in 0..3 {
                    let value = (1.0 - fy) * ((1.0 - fx) * rgb(x0, y0)[c] + fx * rgb(x1, y0)[c])
                        + fy * ((1.0 - fx) * rgb(x0, y1)[c] + fx * rgb(x1, y1)[c]);
                    out[c * model.width * model.height
                        + (top as usize + y) * model.width
                        + left as usize
                        + x] = value;
                }
            }
        }
        out
    }

    fn noise(seed: u64, index: usize) -> u8 {
        let mut z = seed.wrapping_add(index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (z >> 56) as u8
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// RGB and grey frames of any size against the oracle, exactly.
        #[test]
        fn rgb_and_grey_equal_the_oracle(w in 16usize..90, h in 16usize..90, mw in 1usize..4, mh in 1usize..4, grey in any::<bool>(), seed in any::<u64>()) {
            let (frame, model) = (size(w, h), size(32 * mw, 32 * mh));
            let pixel = if grey { PixelFormat::Grey } else { PixelFormat::Rgb24 };
            let color = Color { range: ColorRange::Full, ..Color::default() };
            let format = FrameFormat::packed(pixel, w as u32, h as u32, color).unwrap();
            let bytes: Vec<u8> = (0..format.frame_bytes().unwrap()).map(|i| noise(seed, i)).collect();
            let view = FrameView::new(format, &bytes).unwrap();
            let mut out = vec![f32::NAN; 3 * model.width * model.height];
            Letterbox::new(model).fill(&view.planes().unwrap(), color, &mut out);
            let rgb = |x: usize, y: usize| [0, 1, 2].map(|c| f64::from(if grey { bytes[y * w + x] } else { bytes[3 * (y * w + x) + c] }) / 255.0);
            for (ours, theirs) in out.iter().zip(oracle(&rgb, frame, model)) {
                prop_assert!((f64::from(*ours) - theirs).abs() < 2e-5, "{ours} {theirs}");
            }
        }

        /// A box of the frame comes back from the model within a hundredth of a pixel.
        #[test]
        fn boxes_return(w in 16usize..4096, h in 16usize..4096, x in 0.0f32..1.0, y in 0.0f32..1.0, bw in 0.0f32..1.0, bh in 0.0f32..1.0, square in any::<bool>()) {
            let placement = Placement::new(size(w, h), if square { size(640, 640) } else { size(640, 384) });
            let (x, y) = (x * w as f32, y * h as f32);
            let there = BoxPx::<Frame>::new(x, y, x + bw * (w as f32 - x), y + bh * (h as f32 - y));
            let back = placement.to_frame(&placement.to_model(&there));
            for (a, b) in there.to_array().into_iter().zip(back.to_array()) {
                prop_assert!((a - b).abs() < 0.01, "{there:?} {back:?}");
            }
        }
    }

    /// Flat colours through every YUV format, both matrices, both ranges, against the standards' formulas.
    #[test]
    fn flat_colours_survive_every_format() {
        for pixel in [PixelFormat::Yuyv, PixelFormat::Uyvy, PixelFormat::Nv12, PixelFormat::I420] {
            for (matrix, kr, kb) in [(ColorMatrix::Bt601, 0.299, 0.114), (ColorMatrix::Bt709, 0.2126, 0.0722)]
            {
                for range in [ColorRange::Full, ColorRange::Limited] {
                    for rgb in [
                        [1.0, 0.0, 0.0],
                        [0.0, 1.0, 0.0],
                        [0.0, 0.0, 1.0],
                        [1.0; 3],
                        [0.0; 3],
                        [0.2, 0.5, 0.8f64],
                    ] {
                        let y = kr * rgb[0] + (1.0 - kr - kb) * rgb[1] + kb * rgb[2];
                        let (u, v) = ((rgb[2] - y) / (2.0 - 2.0 * kb), (rgb[0] - y) / (2.0 - 2.0 * kr));
                        let (y, u, v) = match range {
                            ColorRange::Full => (255.0 * y, 255.0 * u + 128.0, 255.0 * v + 128.0),
                            ColorRange::Limited => (219.0 * y + 16.0, 224.0 * u + 128.0, 224.0 * v + 128.0),
                        };
                        let [y, u, v] = [y, u, v].map(|value| value.round().clamp(0.0, 255.0) as u8);
                        let format = FrameFormat::packed(pixel, 32, 16, Color { matrix, range }).unwrap();
                        let mut bytes = vec![0; format.frame_bytes().unwrap()];
                        let luma = 32 * 16;
                        for (i, byte) in bytes.iter_mut().enumerate() {
                            *byte = match (pixel, i) {
                                (PixelFormat::Yuyv, _) => [y, u, y, v][i % 4],
                                (PixelFormat::Uyvy, _) => [u, y, v, y][i % 4],
                                (_, i) if i < luma => y,
                                (PixelFormat::Nv12, i) => [u, v][i % 2],
                                (_, i) => {
                                    if i < luma + luma / 4 {
                                        u
                                    } else {
                                        v
                                    }
                                }
                            };
                        }
                        let view = FrameView::new(format, &bytes).unwrap();
                        let mut out = vec![f32::NAN; 3 * 64 * 64];
                        let p = Letterbox::new(size(64, 64)).fill(
                            &view.planes().unwrap(),
                            format.color,
                            &mut out,
                        );
                        assert_eq!((p.scaled, p.top), (size(64, 32), 16));
                        for c in 0..3 {
                            for (i, value) in out[c * 4096..][..4096].iter().enumerate() {
                                let expected =
                                    if (16..48).contains(&(i / 64)) { rgb[c] as f32 } else { PADDING };
                                assert!(
                                    (value - expected).abs() < 0.012,
                                    "{pixel} {matrix:?} {range:?} {rgb:?} {c} {i}: {value}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn another_format_remakes_the_tables() {
        let mut letterbox = Letterbox::new(size(64, 64));
        for (pixel, w) in [
            (PixelFormat::Grey, 40),
            (PixelFormat::Rgb24, 40),
            (PixelFormat::Grey, 80),
            (PixelFormat::Yuyv, 40),
        ] {
            let format = FrameFormat::packed(pixel, w, 40, Color::JPEG).unwrap();
            let bytes = vec![128; format.frame_bytes().unwrap()];
            let mut out = vec![f32::NAN; 3 * 64 * 64];
            let placement = letterbox.fill(
                &FrameView::new(format, &bytes).unwrap().planes().unwrap(),
                Color::JPEG,
                &mut out,
            );
            let at = placement.top * 64 + 32;
            assert!((out[at] - 128.0 / 255.0).abs() < 1e-6 && out.iter().all(|v| v.is_finite()));
        }
    }
}
