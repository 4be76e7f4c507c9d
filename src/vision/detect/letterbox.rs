//! From the camera's planes to the model's input in one pass, and boxes back again.
//!
//! The frame is scaled to fit the model's input, centred, and padded with grey 114, as in Ultralytics (`ultralytics/data/augment.py`,
//! `LetterBox`). It works row by row: a frame row becomes RGB (`rgb.rs`) and is resampled horizontally, and two of them make a row of the
//! input. Only two resampled rows are kept: there is no RGB frame, and nothing is allocated. Frame rows that are not needed are never read.
//!
//! The arithmetic is that of `cv2.resize(INTER_LINEAR)` on 8-bit pictures, bit for bit (OpenCV, `imgproc/src/resize.cpp`: half-pixel
//! centres, weights of 11 bits, 4 of them dropped between the passes), and the steps before it are those of libjpeg: detectors are trained
//! and measured on exactly these pixels, and a network's score changes by some hundredths for half a code value (see
//! `decisions/0003-engine.md`).
//!
//! Sums are `wrapping` for the reason that `rgb.rs` gives: 8 bits times 11, and 15 times 11.
//!
//! The only place that converts between [`Frame`] and [`Model`] pixels.

use super::rgb::RgbRow;
use crate::base::geometry::{BoxPx, Frame, Model};
use crate::capture::frame::{Color, Planes};

/// The grey around a letterboxed frame, 0..=1 (114 of 255, Ultralytics).
pub const PADDING: f32 = 114.0 / 255.0;

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
}

impl std::fmt::Display for Size {
    /// In the notation of model files: `640` for a square, else `HEIGHTxWIDTH`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.width == self.height {
            write!(f, "{}", self.width)
        } else {
            write!(f, "{}x{}", self.height, self.width)
        }
    }
}

/// A rectangle of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Left column.
    pub left: usize,
    /// Top row.
    pub top: usize,
    /// Its size.
    pub size: Size,
}

impl Region {
    /// The whole frame.
    pub const fn whole(size: Size) -> Self {
        Region { left: 0, top: 0, size }
    }

    /// As a box in frame pixels.
    pub fn bbox(&self) -> BoxPx<Frame> {
        let (left, top) = (self.left as f32, self.top as f32);
        BoxPx::new(left, top, left + self.size.width as f32, top + self.size.height as f32)
    }
}

/// Where the frame, or a region of it, lies in the model's input. Pure numbers; [`Letterbox`] does the work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// The visible region of the frame.
    frame: Size,
    /// Its upper left corner.
    origin: (usize, usize),
    model: Size,
    scaled: Size,
    left: usize,
    top: usize,
}

impl Placement {
    /// The placement of a whole `frame` in a `model` rectangle; sides of 0 count as 1.
    pub fn new(frame: Size, model: Size) -> Self {
        Self::of_region(Region::whole(frame), model)
    }

    /// The placement of a region of a frame.
    pub fn of_region(Region { left, top, size: frame }: Region, model: Size) -> Self {
        let origin = (left, top);
        let frame = Size { width: frame.width.max(1), height: frame.height.max(1) };
        let ratio = (model.height as f64 / frame.height as f64).min(model.width as f64 / frame.width as f64);
        let scale = |side: usize, most: usize| {
            ((side as f64 * ratio).round_ties_even() as usize).clamp(1, most.max(1))
        };
        let scaled =
            Size { width: scale(frame.width, model.width), height: scale(frame.height, model.height) };
        // The reference rounds half the remainder after subtracting 0.1, so that an odd pixel goes to the right and below.
        let margin = |model: usize, scaled: usize| {
            ((model - scaled.min(model)) as f64 / 2.0 - 0.1).round().max(0.0) as usize
        };
        Placement {
            frame,
            origin,
            model,
            scaled,
            left: margin(model.width, scaled.width),
            top: margin(model.height, scaled.height),
        }
    }

    /// The scale of the frame: 1 is pixel by pixel.
    pub fn pixels_per_frame_pixel(&self) -> f32 {
        self.scaled.width as f32 / self.frame.width as f32
    }

    /// Frame pixels per model pixel, horizontally and vertically.
    fn scale(&self) -> (f32, f32) {
        (
            (self.frame.width as f64 / self.scaled.width as f64) as f32,
            (self.frame.height as f64 / self.scaled.height as f64) as f32,
        )
    }

    /// Converts a box from model to frame pixels, clipped to the visible region.
    pub fn to_frame(&self, bbox: &BoxPx<Model>) -> BoxPx<Frame> {
        let (sx, sy) = self.scale();
        let (left, top) = (self.left as f32, self.top as f32);
        let (x, y) = (self.origin.0 as f32, self.origin.1 as f32);
        let shown = BoxPx::<Frame>::new(
            (bbox.x1 - left) * sx,
            (bbox.y1 - top) * sy,
            (bbox.x2 - left) * sx,
            (bbox.y2 - top) * sy,
        )
        .clipped(self.frame.width as f32, self.frame.height as f32);
        BoxPx::new(shown.x1 + x, shown.y1 + y, shown.x2 + x, shown.y2 + y)
    }

    /// Converts a box from frame to model pixels: the inverse, for boxes inside the frame.
    pub fn to_model(&self, bbox: &BoxPx<Frame>) -> BoxPx<Model> {
        let (sx, sy) = self.scale();
        let (left, top) = (self.left as f32, self.top as f32);
        let (x, y) = (self.origin.0 as f32, self.origin.1 as f32);
        BoxPx::new(
            (bbox.x1 - x) / sx + left,
            (bbox.y1 - y) / sy + top,
            (bbox.x2 - x) / sx + left,
            (bbox.y2 - y) / sy + top,
        )
    }
}

/// Bits of a weight (`INTER_RESIZE_COEF_BITS`).
const WEIGHT_BITS: u32 = 11;
/// Bits that are dropped from a horizontal sum before the rows are combined.
const DROPPED_BITS: u32 = 4;

/// The position of an output sample between two input samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tap {
    near: u16,
    far: u16,
    /// Weights in 2048ths.
    near_weight: u16,
    far_weight: u16,
}

impl Tap {
    /// Output sample `index` of `wanted` over `have` input samples; the first and last input samples are repeated beyond the ends.
    fn new(index: usize, wanted: usize, have: usize, edge: Edge) -> Self {
        let scale = 1.0 / (wanted as f64 / have as f64);
        let at = ((index as f64 + 0.5) * scale - 0.5) as f32;
        let last = have as i64 - 1;
        let (mut near, mut part) = (at.floor() as i64, at - at.floor());
        if edge == Edge::Snap && !(0..last).contains(&near) {
            (near, part) = (near.clamp(0, last), 0.0);
        }
        let weight = |part: f32| (part * (1u32 << WEIGHT_BITS) as f32).round_ties_even() as u16;
        Tap {
            near: near.clamp(0, last) as u16,
            far: (near + 1).clamp(0, last) as u16,
            near_weight: weight(1.0 - part),
            far_weight: weight(part),
        }
    }
}

impl Tap {
    /// The same tap this many samples further on.
    const fn after(self, left: u16) -> Self {
        Tap { near: self.near + left, far: self.far + left, ..self }
    }

    /// Interpolates between two samples, with [`DROPPED_BITS`] fewer than the weights have.
    #[inline(always)]
    fn between(&self, near: u8, far: u8) -> u16 {
        let near = u32::from(near).wrapping_mul(u32::from(self.near_weight));
        let far = u32::from(far).wrapping_mul(u32::from(self.far_weight));
        (near.wrapping_add(far) >> DROPPED_BITS) as u16
    }
}

/// Identical taps at a constant step, as when 1280 pixels become 640: needs no table, and vectorises.
#[derive(Debug, Clone, Copy)]
struct Steady {
    /// Step from one to the next, 1 to 4.
    step: usize,
    first: Tap,
}

impl Steady {
    fn of(taps: &[Tap]) -> Option<Self> {
        let first = *taps.first()?;
        let step = usize::from(taps.get(1)?.near.checked_sub(first.near)?);
        let reach = first.far.wrapping_sub(first.near);
        let is_same = |(at, tap): (usize, &Tap)| {
            usize::from(tap.near) == usize::from(first.near) + at * step
                && (tap.far.wrapping_sub(tap.near) == reach || first.far_weight == 0)
                && (tap.near_weight, tap.far_weight) == (first.near_weight, first.far_weight)
        };
        let fits = (1..=4).contains(&step) && (first.far_weight == 0 || (reach == 1 && step > 1));
        (fits && taps.iter().enumerate().all(is_same)).then_some(Steady { step, first })
    }

    fn take(self, channel: &[u8], out: &mut [u16]) {
        match self.step {
            1 => self.take_each::<1>(channel, out),
            2 => self.take_each::<2>(channel, out),
            3 => self.take_each::<3>(channel, out),
            _ => self.take_each::<4>(channel, out),
        }
    }

    fn take_each<const STEP: usize>(self, channel: &[u8], out: &mut [u16]) {
        let near = &channel[usize::from(self.first.near)..];
        if self.first.far_weight == 0 {
            for (out, samples) in out.iter_mut().zip(near.chunks(STEP)) {
                *out = self.first.between(samples[0], 0);
            }
            return;
        }
        // The last pair may be all that is left of a row.
        let (last, most) = out.split_last_mut().expect("a row has a pixel");
        for (out, samples) in most.iter_mut().zip(near.chunks_exact(STEP)) {
            *out = self.first.between(samples[0], samples[1 % STEP]);
        }
        let at = most.len() * STEP;
        *last = self.first.between(near[at], near[at + 1]);
    }
}

/// What a tap beyond the edge does. Equal except for rounding; OpenCV uses one horizontally and the other vertically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// All weight on the last sample.
    Snap,
    /// Both weights on the last sample.
    Share,
}

/// A horizontally resampled frame row: red, green, blue, each as wide as the scaled frame.
#[derive(Debug)]
struct Sampled {
    /// The row of the frame; `None`: of another frame.
    row: Option<usize>,
    values: Box<[u16]>,
}

impl Sampled {
    fn new(model: Size) -> Self {
        Sampled { row: None, values: vec![0; 3 * model.width].into_boxed_slice() }
    }

    fn take(&mut self, row: usize, rgb: [&[u8]; 3], taps: &[Tap], steady: Option<Steady>) {
        for (out, channel) in self.values.chunks_exact_mut(taps.len()).zip(rgb) {
            match steady {
                Some(steady) => steady.take(channel, out),
                None => {
                    for (out, tap) in out.iter_mut().zip(taps) {
                        let [near, far] = [tap.near, tap.far].map(|at| channel[usize::from(at)]);
                        *out = tap.between(near, far);
                    }
                }
            }
        }
        self.row = Some(row);
    }
}

/// Fills model inputs. Holds the sampling table of the current frame size; a change of size only costs a new table.
#[derive(Debug)]
pub struct Letterbox {
    model: Size,
    taps: Vec<Tap>,
    steady: Option<Steady>,
    /// The placement that `taps` were made for.
    made_for: Option<Placement>,
    row: RgbRow,
    sampled: [Sampled; 2],
}

impl Letterbox {
    /// A letterbox for a model with that input size. Allocates all memory.
    pub fn new(model: Size) -> Self {
        Letterbox {
            model,
            taps: Vec::with_capacity(model.width),
            steady: None,
            made_for: None,
            row: RgbRow::new(),
            sampled: [Sampled::new(model), Sampled::new(model)],
        }
    }

    /// Bytes on the heap, for the memory plan (I1).
    pub fn heap_bytes(&self) -> usize {
        let sampled: usize = self.sampled.iter().map(|sampled| size_of_val(&*sampled.values)).sum();
        self.taps.capacity() * size_of::<Tap>() + self.row.heap_bytes() + sampled
    }

    /// Fills `input` (planar R, G, B of the model's size, each row by row, 0..=1) from a frame and returns the placement.
    ///
    /// # Panics
    /// If `input` is not `3 * width * height` long, or the frame is wider than `FRAME_SIDE_MAX`.
    pub fn fill(&mut self, planes: &Planes<'_>, color: Color, input: &mut [f32]) -> Placement {
        let part = Region::whole(Size { width: planes.width(), height: planes.height() });
        self.fill_region((planes, color), part, self.model, input)
    }

    /// The same with a region of the frame, for an input no larger than the model's.
    ///
    /// # Panics
    /// As [`Self::fill`]; if the region or the input size is too large.
    pub fn fill_region(
        &mut self,
        (planes, color): (&Planes<'_>, Color),
        part: Region,
        model: Size,
        input: &mut [f32],
    ) -> Placement {
        let area = model.width * model.height;
        assert_eq!(input.len(), 3 * area, "the model's input is 3 planes of {model}");
        assert!(model.width <= self.model.width, "{model} is wider than {}", self.model);
        let placement = Placement::of_region(part, model);
        self.prepare(&placement);
        let (wide, high) = (placement.scaled.width, placement.scaled.height);
        for channel in input.chunks_exact_mut(area) {
            pad(channel, &placement);
        }
        for y in 0..high {
            let tap = Tap::new(y, high, placement.frame.height, Edge::Share);
            // A row with zero weight is not computed.
            let far = if tap.far_weight == 0 { tap.near } else { tap.far };
            let (near, far) = (part.top + usize::from(tap.near), part.top + usize::from(far));
            let near_at = self.sample(planes, color, near, far);
            let far_at = self.sample(planes, color, far, near);
            let start = (placement.top + y) * model.width + placement.left;
            for (index, channel) in input.chunks_exact_mut(area).enumerate() {
                let values = |at: usize| &self.sampled[at].values[index * wide..][..wide];
                blend(values(near_at), values(far_at), &tap, &mut channel[start..][..wide]);
            }
        }
        placement
    }

    /// Makes the table for this placement, and forgets the rows of the previous frame.
    fn prepare(&mut self, placement: &Placement) {
        self.sampled.iter_mut().for_each(|sampled| sampled.row = None);
        if self.made_for != Some(*placement) {
            let (wanted, have) = (placement.scaled.width, placement.frame.width);
            self.taps.clear();
            let left = placement.origin.0 as u16;
            self.taps.extend((0..wanted).map(|x| Tap::new(x, wanted, have, Edge::Snap).after(left)));
            self.steady = Steady::of(&self.taps);
            self.made_for = Some(*placement);
        }
    }

    /// Index of the resampled frame row `row`; computes it in the buffer that does not hold `keep`.
    fn sample(&mut self, planes: &Planes<'_>, color: Color, row: usize, keep: usize) -> usize {
        if let Some(at) = self.sampled.iter().position(|sampled| sampled.row == Some(row)) {
            return at;
        }
        let at = usize::from(self.sampled[0].row == Some(keep));
        let rgb = self.row.read(planes, color, row);
        self.sampled[at].take(row, rgb, &self.taps, self.steady);
        at
    }
}

/// Combines two resampled rows into one input row, 0..=1.
fn blend(near: &[u16], far: &[u16], tap: &Tap, out: &mut [f32]) {
    let (near_weight, far_weight) = (u32::from(tap.near_weight), u32::from(tap.far_weight));
    for (out, (near, far)) in out.iter_mut().zip(near.iter().zip(far)) {
        // Each product drops 16 bits by itself, as the vector instructions of OpenCV do; two are left to round.
        let [near, far] = [(*near, near_weight), (*far, far_weight)]
            .map(|(value, weight)| u32::from(value).wrapping_mul(weight) >> 16);
        *out = (near.wrapping_add(far).wrapping_add(2) >> 2) as f32 / 255.0;
    }
}

/// Fills the padding with grey.
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

/// The input size that a model with free input sides gets for a frame: the frame's aspect ratio, `long_side` at most (the model's own
/// size), sides rounded up to multiples of `stride`, so that little of the arithmetic goes into padding.
pub fn rectangle_for(frame: Size, long_side: usize, stride: usize) -> Size {
    let stride = stride.max(1);
    let up = |side: f64| ((side / stride as f64).ceil() as usize).max(1) * stride;
    let long = long_side.div_ceil(stride) * stride;
    let ratio = long as f64 / frame.width.max(frame.height).max(1) as f64;
    // A ten-thousandth less, so that 360.00000001 of a rounded ratio does not become the next multiple.
    let side = |side: usize| up(side as f64 * ratio - 1e-4).min(long.max(stride));
    Size { width: side(frame.width), height: side(frame.height) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::frame::{ColorMatrix, ColorRange, FrameFormat, FrameView, PixelFormat};
    use crate::vision::detect::rgb::tests::fnv;
    use proptest::prelude::*;

    fn size(width: usize, height: usize) -> Size {
        Size { width, height }
    }

    #[test]
    fn placements_match_the_reference() {
        // Columns: frame, model, scaled, left, top; from the reference's letterbox(), evaluated in Python.
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
    fn free_input_sizes_fit_the_aspect_ratio() {
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
        /// RGB and grey frames of any size compared with the definition.
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
                // Half a code value of rounding, and what the weights' 11 bits leave.
                prop_assert!((f64::from(*ours) - theirs).abs() < 1.0 / 255.0, "{ours} {theirs}");
            }
        }

        /// A box converted from frame to model pixels and back is within a hundredth of a pixel.
        #[test]
        fn boxes_round_trip(w in 16usize..4096, h in 16usize..4096, x in 0.0f32..1.0, y in 0.0f32..1.0, bw in 0.0f32..1.0, bh in 0.0f32..1.0, square in any::<bool>()) {
            let placement = Placement::new(size(w, h), if square { size(640, 640) } else { size(640, 384) });
            let (x, y) = (x * w as f32, y * h as f32);
            let there = BoxPx::<Frame>::new(x, y, x + bw * (w as f32 - x), y + bh * (h as f32 - y));
            let back = placement.to_frame(&placement.to_model(&there));
            for (a, b) in there.to_array().into_iter().zip(back.to_array()) {
                prop_assert!((a - b).abs() < 0.01, "{there:?} {back:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// A region of a frame gives the same as a frame that consists only of it.
        #[test]
        fn regions_equal_frames_of_their_own(
            w in 1usize..70, h in 1usize..70, left in 0usize..30, top in 0usize..30, more in 0usize..9,
            mw in 1usize..4, mh in 1usize..4, seed in any::<u64>()
        ) {
            let (width, height) = (left + w + more, top + h + more);
            let bytes: Vec<u8> = (0..width * height).map(|i| noise(seed, i)).collect();
            let plane = |at: usize, w: usize, h: usize| Planes::Grey(crate::capture::frame::Plane::new(&bytes[at..], w, h, width, 1).unwrap());
            let (whole, alone) = (plane(0, width, height), plane(top * width + left, w, h));
            let model = size(32 * mw, 32 * mh);
            let mut letterbox = Letterbox::new(size(96, 96));
            let [mut ours, mut theirs] = [(); 2].map(|()| vec![f32::NAN; 3 * model.width * model.height]);
            let color = Color::default();
            let part = Region { left, top, size: size(w, h) };
            let placement = letterbox.fill_region((&whole, color), part, model, &mut ours);
            Letterbox::new(model).fill(&alone, color, &mut theirs);
            prop_assert_eq!(ours, theirs);
            let bbox = BoxPx::<Frame>::new(left as f32, top as f32, (left + w) as f32, (top + h) as f32);
            prop_assert_eq!(part.bbox(), bbox);
            let back = placement.to_frame(&placement.to_model(&bbox));
            prop_assert!(bbox.grown(0.01).holds(&back) && back.grown(0.01).holds(&bbox), "{back:?} for {bbox:?}");
        }
    }

    /// Whole-number ratios and others: the vectorised path equals the table.
    #[test]
    fn steady_taps_equal_the_table() {
        let row: Vec<u8> = (0..2000).map(|at| noise(7, at)).collect();
        let mut steadies = 0;
        for have in [1, 2, 3, 5, 16, 64, 100, 120, 128, 160, 192, 320, 480, 641, 1280, 1920] {
            for wanted in [1, 2, 16, 40, 64, 100, 128, 160, 320, 640] {
                let taps: Vec<Tap> = (0..wanted).map(|x| Tap::new(x, wanted, have, Edge::Snap)).collect();
                let Some(steady) = Steady::of(&taps) else { continue };
                let mut out = vec![0; wanted];
                steady.take(&row[..have], &mut out);
                for (tap, out) in taps.iter().zip(out) {
                    let [near, far] = [tap.near, tap.far].map(|at| row[usize::from(at)]);
                    assert_eq!(out, tap.between(near, far), "{have} to {wanted}");
                }
                steadies += 1;
            }
        }
        assert!(steadies >= 15, "{steadies}");
    }

    /// Flat colours through every YUV format, both matrices, both ranges, compared with the standards' formulas.
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

    /// The pixels of `cv2.resize`, bit for bit: smaller, larger, wide, narrow.
    #[test]
    fn pixels_are_those_of_opencv() {
        let golden = include_str!("../../../tests/data/pixels/golden.txt");
        let mut seen = 0;
        for line in golden.lines().filter_map(|line| line.strip_prefix("resize ")) {
            let [w, h, mw, mh, hash] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let [w, h, mw, mh] = [w, h, mw, mh].map(|side| side.parse::<usize>().unwrap());
            let bytes: Vec<u8> =
                (0..3 * w * h).map(|index| (index * index * 31 / 7 + index / 5) as u8).collect();
            let format = FrameFormat::packed(PixelFormat::Rgb24, w as u32, h as u32, Color::JPEG).unwrap();
            let view = FrameView::new(format, &bytes).unwrap();
            let mut out = vec![f32::NAN; 3 * mw * mh];
            Letterbox::new(size(mw, mh)).fill(&view.planes().unwrap(), Color::JPEG, &mut out);
            let codes =
                (0..mw * mh).flat_map(|at| [0, 1, 2].map(|c| (out[c * mw * mh + at] * 255.0).round() as u8));
            assert_eq!(format!("{:016x}", fnv(codes)), hash, "{line}");
            seen += 1;
        }
        assert!(seen >= 6, "{seen}");
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
