//! Draws boxes, labels and charts on pictures, for `detect --out`, `demo` and `tune`.

#[cfg(feature = "desktop")]
mod backend;
#[cfg(feature = "desktop")]
mod chart;

#[cfg(feature = "desktop")]
pub use chart::{Chart, Curve, Mark};

use crate::capture::frame::{Color, ColorMatrix, ColorRange, Planes};
use crate::vision::detect::Detection;

/// An RGB picture in memory, row by row.
#[derive(Debug, Clone)]
pub struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// Colours that colour-blind people can distinguish (Okabe and Ito, "Color Universal Design", 2008), by class.
const PALETTE: [[u8; 3]; 7] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
];

/// Side of a glyph before scaling, pixels.
const GLYPH: usize = 8;

impl Canvas {
    /// A copy of a frame in RGB, with nearest-neighbour chroma and in floating point: for people to look at, not for
    /// the network.
    pub fn from_planes(planes: &Planes<'_>, color: Color) -> Self {
        let (width, height) = (planes.width(), planes.height());
        let mut rgb = Vec::with_capacity(width * height * 3);
        let (kr, kb) = match color.matrix {
            ColorMatrix::Bt601 => (0.299f32, 0.114f32),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
        };
        let (zero, luma, chroma) = match color.range {
            ColorRange::Full => (0.0, 1.0, 1.0),
            ColorRange::Limited => (16.0, 255.0 / 219.0, 255.0 / 224.0),
        };
        for y in 0..height {
            for x in 0..width {
                match planes {
                    Planes::Grey(plane) => rgb.extend([plane.row(y)[x * plane.step()]; 3]),
                    Planes::Rgb { r, g, b } => {
                        rgb.extend([r, g, b].map(|plane| plane.row(y)[x * plane.step()]));
                    }
                    Planes::Yuv { y: plane, u, v } => {
                        let value = (f32::from(plane.row(y)[x * plane.step()]) - zero) * luma;
                        let [u, v] = [u, v].map(|plane| {
                            let (cx, cy) = (x * plane.width() / width, y * plane.height() / height);
                            (f32::from(plane.row(cy)[cx * plane.step()]) - 128.0) * chroma
                        });
                        let red = value + 2.0 * (1.0 - kr) * v;
                        let blue = value + 2.0 * (1.0 - kb) * u;
                        let green = (value - kr * red - kb * blue) / (1.0 - kr - kb);
                        // A cast from float to u8 saturates.
                        rgb.extend([red, green, blue].map(|value| value.round() as u8));
                    }
                }
            }
        }
        Canvas { width, height, rgb }
    }

    /// A picture from rows of 3 bytes a pixel; none if their number is wrong.
    pub fn from_rgb(width: usize, height: usize, rgb: Vec<u8>) -> Option<Self> {
        (rgb.len() == width * height * 3).then_some(Canvas { width, height, rgb })
    }

    /// Its rows of 3 bytes a pixel.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Draws a line of that many pixels' width.
    pub fn line(&mut self, from: (f32, f32), to: (f32, f32), width: usize, color: [u8; 3]) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().max(1.0);
        for step in 0..=steps as usize {
            let part = step as f32 / steps;
            let at = |from: f32, to: f32| (from + part * (to - from)).round() as i64 - width as i64 / 2;
            let (x, y) = (at(from.0, to.0), at(from.1, to.1));
            for (dx, dy) in (0..width as i64).flat_map(|dx| (0..width as i64).map(move |dy| (dx, dy))) {
                if let (Ok(x), Ok(y)) = (usize::try_from(x + dx), usize::try_from(y + dy)) {
                    self.set(x, y, color);
                }
            }
        }
    }

    /// Text on a bar of `color` at the picture's lower edge.
    pub fn caption(&mut self, text: &str, color: [u8; 3]) {
        let scale = (self.width.max(self.height) / 640).max(1);
        self.label(text, 0, self.height.saturating_sub((GLYPH + 2) * scale), scale, color);
    }

    /// Draws a detection: its box, and its class and score in per cent above it.
    pub fn detection(&mut self, detection: &Detection, class_name: &str) {
        let color = PALETTE[usize::from(detection.class.0) % PALETTE.len()];
        let thickness = (self.width.max(self.height) / 400).max(1);
        let [x1, y1, x2, y2] = detection.bbox.to_array().map(|value| value.round().max(0.0) as usize);
        for t in 0..thickness {
            for x in x1..x2 {
                self.set(x, y1 + t, color);
                self.set(x, y2.saturating_sub(1 + t), color);
            }
            for y in y1..y2 {
                self.set(x1 + t, y, color);
                self.set(x2.saturating_sub(1 + t), y, color);
            }
        }
        let scale = (self.width.max(self.height) / 640).max(1);
        let text = format!("{class_name} {:.0}", detection.score * 100.0);
        self.label(&text, x1, y1.saturating_sub((GLYPH + 2) * scale), scale, color);
    }

    /// Text on a bar of `color` with its upper left corner at `x`, `y`, moved left if it would leave the picture.
    fn label(&mut self, text: &str, x: usize, y: usize, scale: usize, color: [u8; 3]) {
        let (width, height) = ((text.chars().count() * GLYPH + 2) * scale, (GLYPH + 2) * scale);
        let x = x.min(self.width.saturating_sub(width));
        for dy in 0..height {
            (0..width).for_each(|dx| self.set(x + dx, y + dy, color));
        }
        for (dx, dy) in ink(text, scale) {
            self.set(x + scale + dx, y + scale + dy, [0, 0, 0]);
        }
    }

    fn set(&mut self, x: usize, y: usize, color: [u8; 3]) {
        self.mix(x, y, color, 1.0);
    }

    /// Blends a colour over a pixel with opacity `part` (0..=1); does nothing outside the picture.
    fn mix(&mut self, x: usize, y: usize, color: [u8; 3], part: f64) {
        if x >= self.width || y >= self.height {
            return;
        }
        for (dot, color) in self.rgb[3 * (y * self.width + x)..][..3].iter_mut().zip(color) {
            *dot = (f64::from(*dot) + part * (f64::from(color) - f64::from(*dot))).round() as u8;
        }
    }

    /// The picture as a JPEG file.
    ///
    /// # Errors
    /// The encoder's text; a picture of 0 or more than 65535 pixels a side.
    pub fn to_jpeg(&self) -> Result<Vec<u8>, String> {
        let side =
            |side: usize| u16::try_from(side).map_err(|_| format!("{side} pixels are too many for a JPEG"));
        let mut out = Vec::new();
        jpeg_encoder::Encoder::new(&mut out, 90)
            .encode(&self.rgb, side(self.width)?, side(self.height)?, jpeg_encoder::ColorType::Rgb)
            .map_err(|error| error.to_string())?;
        Ok(out)
    }

    /// The picture as a PNG file, which keeps lines and letters sharp.
    ///
    /// # Errors
    /// The encoder's text.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        let side = |side: usize| u32::try_from(side).map_err(|error| error.to_string());
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&self.rgb)?;
            writer.finish()
        });
        written.map(|()| out).map_err(|error| error.to_string())
    }
}

/// The pixels of a line of text, from its upper left corner. Characters other than ASCII are blank.
fn ink(text: &str, scale: usize) -> impl Iterator<Item = (usize, usize)> {
    let glyphs = text.chars().map(|letter| font8x8::legacy::BASIC_LEGACY.get(letter as usize)).enumerate();
    let dots = glyphs.filter_map(|(index, glyph)| Some((index, glyph?))).flat_map(|(index, glyph)| {
        let dots = (0..GLYPH).flat_map(|row| (0..GLYPH).map(move |column| (column, row)));
        dots.filter(|(column, row)| glyph[*row] & (1 << column) != 0)
            .map(move |(column, row)| (index * GLYPH + column, row))
    });
    dots.flat_map(move |(x, y)| {
        (0..scale * scale).map(move |dot| (x * scale + dot % scale, y * scale + dot / scale))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::geometry::BoxPx;
    use crate::capture::frame::{FrameFormat, FrameView, PixelFormat};
    use crate::vision::detect::ClassId;

    fn grey(value: u8) -> Canvas {
        let format = FrameFormat::packed(PixelFormat::Grey, 64, 48, Color::JPEG).unwrap();
        let bytes = vec![value; 64 * 48];
        Canvas::from_planes(&FrameView::new(format, &bytes).unwrap().planes().unwrap(), Color::JPEG)
    }

    #[test]
    fn a_box_is_drawn_on_its_border_and_nowhere_else() {
        let mut canvas = grey(7);
        canvas.detection(
            &Detection { bbox: BoxPx::new(10.0, 20.0, 40.0, 44.0), score: 0.5, class: ClassId(2) },
            "x",
        );
        let at = |x: usize, y: usize| &canvas.rgb[3 * (y * 64 + x)..][..3];
        for (x, y) in [(10, 20), (39, 20), (10, 43), (39, 43), (25, 20), (10, 30)] {
            assert_eq!(at(x, y), PALETTE[2], "{x},{y}");
        }
        for (x, y) in [(25, 30), (9, 30), (40, 30), (25, 44), (60, 40)] {
            assert_eq!(at(x, y), [7; 3], "{x},{y}");
        }
        assert!(canvas.rgb.chunks(3).any(|p| p == [0; 3]), "the label has letters");
    }

    #[test]
    fn boxes_beyond_the_picture_do_not_panic() {
        let mut canvas = grey(7);
        for bbox in [
            BoxPx::new(-9.0, -9.0, 900.0, 900.0),
            BoxPx::new(60.0, 1.0, 64.0, 2.0),
            BoxPx::new(5.0, 5.0, 5.0, 5.0),
        ] {
            canvas.detection(
                &Detection { bbox, score: 1.0, class: ClassId(700) },
                "a name of the greatest length, é",
            );
        }
        assert_eq!(&canvas.to_jpeg().unwrap()[..2], b"\xff\xd8");
    }

    #[test]
    fn colours_survive_yuv() {
        let format = FrameFormat::packed(PixelFormat::I420, 32, 16, Color::JPEG).unwrap();
        // Red in BT.601 full range: Y 76, U 85, V 255.
        let bytes: Vec<u8> = (0..format.frame_bytes().unwrap())
            .map(|i| {
                if i < 512 {
                    76
                } else if i < 640 {
                    85
                } else {
                    255
                }
            })
            .collect();
        let canvas =
            Canvas::from_planes(&FrameView::new(format, &bytes).unwrap().planes().unwrap(), Color::JPEG);
        for pixel in canvas.rgb.chunks(3) {
            assert!(pixel[0] > 250 && pixel[1] < 4 && pixel[2] < 4, "{pixel:?}");
        }
    }
}
