//! A frame: its format, its capture time, and bounds-checked views of its planes.
//!
//! Camera bytes are untrusted (I8): a [`FrameView`] exists only after its length was checked against its format, so
//! every plane below it is as long as it says.

use std::fmt;
use std::sync::Arc;

use crate::base::limits::{FRAME_BYTES_MAX, FRAME_SIDE_MAX, FRAME_SIDE_MIN};
use crate::platform::clock::Mono;

/// How the pixels lie in memory. Names follow V4L2 (`Documentation/userspace-api/media/v4l/pixfmt-*.rst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Packed 4:2:2, `Y0 U Y1 V`. The raw format of nearly every USB camera.
    Yuyv,
    /// Packed 4:2:2, `U Y0 V Y1`.
    Uyvy,
    /// Planar Y, then interleaved `U V` at half width and height. The output of ISPs and hardware decoders.
    Nv12,
    /// Planar Y, U, V, chroma at half width and height (V4L2: `YU12`; ffmpeg: `yuv420p`).
    I420,
    /// Luma only, 8 bits.
    Grey,
    /// Packed `R G B` (V4L2: `RGB3`; ffmpeg: `rgb24`).
    Rgb24,
    /// One JPEG picture per frame.
    Mjpeg,
}

impl PixelFormat {
    /// Every format, in the order of the documentation.
    pub const ALL: [PixelFormat; 7] = [
        PixelFormat::Yuyv,
        PixelFormat::Uyvy,
        PixelFormat::Nv12,
        PixelFormat::I420,
        PixelFormat::Grey,
        PixelFormat::Rgb24,
        PixelFormat::Mjpeg,
    ];

    /// The name that the configuration uses.
    pub const fn name(self) -> &'static str {
        match self {
            PixelFormat::Yuyv => "yuyv",
            PixelFormat::Uyvy => "uyvy",
            PixelFormat::Nv12 => "nv12",
            PixelFormat::I420 => "i420",
            PixelFormat::Grey => "grey",
            PixelFormat::Rgb24 => "rgb24",
            PixelFormat::Mjpeg => "mjpeg",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which weights turn R'G'B' into luma.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorMatrix {
    /// ITU-R BT.601: standard definition, JPEG, and USB cameras at every size.
    #[default]
    Bt601,
    /// ITU-R BT.709: high-definition video.
    Bt709,
}

/// Which code values mean black and white.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorRange {
    /// Luma 16..=235, chroma 16..=240 ("TV", "MPEG").
    #[default]
    Limited,
    /// 0..=255 ("PC", "JPEG").
    Full,
}

/// How code values become colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Color {
    /// The luma weights.
    pub matrix: ColorMatrix,
    /// The code range.
    pub range: ColorRange,
}

impl Color {
    /// What JFIF prescribes for JPEG: BT.601, full range (ITU-T T.871 section 6.2).
    pub const JPEG: Color = Color { matrix: ColorMatrix::Bt601, range: ColorRange::Full };

    /// The most likely colours of a video stream of that size that does not state them: the rule of mpv and of most televisions (BT.709
    /// from 1280 wide or above 576 lines), limited range.
    pub const fn guess_for_video(width: u32, height: u32) -> Self {
        let matrix = if width >= 1280 || height > 576 { ColorMatrix::Bt709 } else { ColorMatrix::Bt601 };
        Color { matrix, range: ColorRange::Limited }
    }
}

/// The shape of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameFormat {
    /// How pixels lie in memory.
    pub pixel: PixelFormat,
    /// Width in pixels, even for the formats with halved chroma.
    pub width: u32,
    /// Height in pixels, even for the 4:2:0 formats.
    pub height: u32,
    /// Bytes from a row of the first plane to the next; at least what the width needs. 0 for MJPEG.
    pub row_bytes: u32,
    /// How code values become colours.
    pub color: Color,
}

impl FrameFormat {
    /// A format without padding at the row ends.
    ///
    /// # Errors
    /// Sides out of `FRAME_SIDE_MIN..=FRAME_SIDE_MAX`, or odd where the chroma is halved.
    pub fn packed(pixel: PixelFormat, width: u32, height: u32, color: Color) -> Result<Self, FrameError> {
        let row_bytes = match pixel {
            PixelFormat::Yuyv | PixelFormat::Uyvy => width.saturating_mul(2),
            PixelFormat::Rgb24 => width.saturating_mul(3),
            PixelFormat::Nv12 | PixelFormat::I420 | PixelFormat::Grey => width,
            PixelFormat::Mjpeg => 0,
        };
        let format = FrameFormat { pixel, width, height, row_bytes, color };
        format.check()?;
        Ok(format)
    }

    /// Checks that the numbers are consistent.
    ///
    /// # Errors
    /// As [`FrameFormat::packed`], or rows shorter than the width.
    pub fn check(&self) -> Result<(), FrameError> {
        let sides = FRAME_SIDE_MIN..=FRAME_SIDE_MAX;
        if !sides.contains(&self.width) || !sides.contains(&self.height) {
            return Err(FrameError::Sides { width: self.width, height: self.height });
        }
        let (least, even_width, even_height) = match self.pixel {
            PixelFormat::Yuyv | PixelFormat::Uyvy => (self.width * 2, true, false),
            PixelFormat::Nv12 | PixelFormat::I420 => (self.width, true, true),
            PixelFormat::Grey => (self.width, false, false),
            PixelFormat::Rgb24 => (self.width * 3, false, false),
            PixelFormat::Mjpeg => (0, false, false),
        };
        if (even_width && self.width % 2 == 1) || (even_height && self.height % 2 == 1) {
            return Err(FrameError::Odd { pixel: self.pixel, width: self.width, height: self.height });
        }
        let rows_fit = self.row_bytes >= least && self.row_bytes <= FRAME_SIDE_MAX * 4;
        let halves_fit = self.pixel != PixelFormat::I420 || self.row_bytes.is_multiple_of(2);
        if !rows_fit || !halves_fit {
            return Err(FrameError::Rows { row_bytes: self.row_bytes, least });
        }
        Ok(())
    }

    /// Bytes of a raw frame; `None` for MJPEG, whose frames differ.
    pub fn frame_bytes(&self) -> Option<usize> {
        let luma = self.row_bytes as usize * self.height as usize;
        match self.pixel {
            PixelFormat::Yuyv | PixelFormat::Uyvy | PixelFormat::Grey | PixelFormat::Rgb24 => Some(luma),
            PixelFormat::Nv12 | PixelFormat::I420 => Some(luma + luma / 2),
            PixelFormat::Mjpeg => None,
        }
    }

    /// Maximum plausible size of a frame in bytes: the raw size, or for MJPEG three bytes a pixel (plus its headers).
    pub fn encoded_bytes_max(&self) -> usize {
        self.frame_bytes().unwrap_or_else(|| {
            let pixels = self.width as usize * self.height as usize;
            (3 * pixels).clamp(256 << 10, FRAME_BYTES_MAX)
        })
    }

    /// Bytes of a ring slot for such frames. For MJPEG, whose frames have no fixed size: one and a half bytes a pixel, which a camera at
    /// best quality stays under; slots for larger frames grow.
    pub fn slot_bytes(&self) -> usize {
        self.frame_bytes().unwrap_or_else(|| {
            let pixels = self.width as usize * self.height as usize;
            (pixels + pixels / 2).clamp(64 << 10, FRAME_BYTES_MAX)
        })
    }
}

impl fmt::Display for FrameFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{}", self.pixel, self.width, self.height)
    }
}

/// Number, capture time and length of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameMeta {
    /// Number of the frame at its source, from 0; a gap means frames that the camera dropped.
    pub seq: u64,
    /// When the picture was taken.
    pub captured_at: Mono,
    /// Valid bytes of the buffer.
    pub bytes_used: usize,
}

/// Lends buffers of its own memory, so that frames can be read in place.
pub trait Lender: Send + Sync {
    /// The memory of a lent buffer.
    fn bytes(&self, buffer: u32) -> &[u8];
    /// Takes a buffer back.
    fn give_back(&self, buffer: u32);
}

/// A buffer on loan; given back when dropped, on whichever thread that is. Keeps its lender alive.
pub struct Lease {
    lender: Arc<dyn Lender>,
    buffer: u32,
}

impl Lease {
    /// A lease of `buffer` from `lender`; at most one at a time.
    pub fn new(lender: Arc<dyn Lender>, buffer: u32) -> Self {
        Lease { lender, buffer }
    }

    /// The whole buffer.
    pub fn bytes(&self) -> &[u8] {
        self.lender.bytes(self.buffer)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lender.give_back(self.buffer);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.buffer)
    }
}

/// Why bytes are not the frame that they claim to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// A side out of range.
    Sides {
        /// Claimed width.
        width: u32,
        /// Claimed height.
        height: u32,
    },
    /// An odd side where the chroma is halved.
    Odd {
        /// The format.
        pixel: PixelFormat,
        /// Claimed width.
        width: u32,
        /// Claimed height.
        height: u32,
    },
    /// Rows that cannot hold their pixels.
    Rows {
        /// Claimed bytes a row.
        row_bytes: u32,
        /// What the width needs.
        least: u32,
    },
    /// Fewer bytes than the format needs.
    Short {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A compressed frame where planes were asked for.
    Compressed,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Sides { width, height } => {
                write!(
                    f,
                    "a frame of {width}x{height} is outside {FRAME_SIDE_MIN}..={FRAME_SIDE_MAX} pixels a side"
                )
            }
            FrameError::Odd { pixel, width, height } => {
                write!(f, "{pixel} needs even sides, not {width}x{height}: scale or crop by one pixel")
            }
            FrameError::Rows { row_bytes, least } => {
                write!(f, "rows of {row_bytes} bytes cannot hold {least} bytes of pixels")
            }
            FrameError::Short { have, need } => write!(f, "a frame of {have} bytes where {need} are needed"),
            FrameError::Compressed => f.write_str("a compressed frame has no planes before it is decoded"),
        }
    }
}

impl std::error::Error for FrameError {}

/// One plane: 8-bit samples at a fixed step, in rows at a fixed distance. Packed formats are three such planes with steps of 2 to 4 bytes
/// over the same memory, so code that reads planes reads every format.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    bytes: &'a [u8],
    width: usize,
    height: usize,
    row_bytes: usize,
    step: usize,
}

impl<'a> Plane<'a> {
    /// A plane over `bytes`.
    ///
    /// # Errors
    /// [`FrameError::Short`] if the last sample would lie outside.
    pub fn new(
        bytes: &'a [u8],
        width: usize,
        height: usize,
        row_bytes: usize,
        step: usize,
    ) -> Result<Self, FrameError> {
        let need = if width == 0 || height == 0 || step == 0 {
            return Err(FrameError::Sides { width: width as u32, height: height as u32 });
        } else {
            (height - 1) * row_bytes + (width - 1) * step + 1
        };
        if bytes.len() < need {
            return Err(FrameError::Short { have: bytes.len(), need });
        }
        Ok(Plane { bytes, width, height, row_bytes, step })
    }

    /// Samples a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Bytes from a sample to the next in its row.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The bytes of row `y`, from its first sample to its last one; sample `x` is at `x * step()`.
    ///
    /// # Panics
    /// If `y` is not below the height.
    pub fn row(&self, y: usize) -> &'a [u8] {
        assert!(y < self.height, "row {y} of {}", self.height);
        let start = y * self.row_bytes;
        &self.bytes[start..start + (self.width - 1) * self.step + 1]
    }
}

/// The planes of a raw frame.
#[derive(Debug, Clone, Copy)]
pub enum Planes<'a> {
    /// Luma only.
    Grey(Plane<'a>),
    /// Luma and two chroma planes, which may have fewer samples in either direction; chroma samples are centred between the luma samples
    /// that they belong to (MPEG-1/JPEG siting).
    Yuv {
        /// Luma.
        y: Plane<'a>,
        /// Blue difference.
        u: Plane<'a>,
        /// Red difference.
        v: Plane<'a>,
    },
    /// Red, green, blue.
    Rgb {
        /// Red.
        r: Plane<'a>,
        /// Green.
        g: Plane<'a>,
        /// Blue.
        b: Plane<'a>,
    },
}

impl<'a> Planes<'a> {
    /// The plane used as brightness: luma, or green for RGB (59 % of luma, and the plane with the least noise).
    pub fn luma(&self) -> Plane<'a> {
        match self {
            Planes::Grey(y) | Planes::Yuv { y, .. } => *y,
            Planes::Rgb { g, .. } => *g,
        }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.luma().width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.luma().height
    }
}

/// A frame's bytes together with their checked format.
#[derive(Debug, Clone, Copy)]
pub struct FrameView<'a> {
    format: FrameFormat,
    bytes: &'a [u8],
}

impl<'a> FrameView<'a> {
    /// A view of `bytes` (valid bytes only, not the whole buffer).
    ///
    /// # Errors
    /// The format is inconsistent, or the bytes are too few for it.
    pub fn new(format: FrameFormat, bytes: &'a [u8]) -> Result<Self, FrameError> {
        format.check()?;
        let need = format.frame_bytes().unwrap_or(1);
        if bytes.len() < need {
            return Err(FrameError::Short { have: bytes.len(), need });
        }
        Ok(FrameView { format, bytes })
    }

    /// The format.
    pub fn format(&self) -> &FrameFormat {
        &self.format
    }

    /// All bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The planes of a raw frame.
    ///
    /// # Errors
    /// [`FrameError::Compressed`] for MJPEG.
    pub fn planes(&self) -> Result<Planes<'a>, FrameError> {
        let FrameFormat { pixel, width, height, row_bytes, .. } = self.format;
        let (w, h, row) = (width as usize, height as usize, row_bytes as usize);
        let at = |offset: usize, w: usize, h: usize, row: usize, step: usize| {
            Plane::new(self.bytes.get(offset..).unwrap_or(&[]), w, h, row, step)
        };
        Ok(match pixel {
            PixelFormat::Grey => Planes::Grey(at(0, w, h, row, 1)?),
            PixelFormat::Yuyv => Planes::Yuv {
                y: at(0, w, h, row, 2)?,
                u: at(1, w / 2, h, row, 4)?,
                v: at(3, w / 2, h, row, 4)?,
            },
            PixelFormat::Uyvy => Planes::Yuv {
                y: at(1, w, h, row, 2)?,
                u: at(0, w / 2, h, row, 4)?,
                v: at(2, w / 2, h, row, 4)?,
            },
            PixelFormat::Nv12 => {
                let chroma = row * h;
                let (cw, ch) = (w / 2, h / 2);
                Planes::Yuv {
                    y: at(0, w, h, row, 1)?,
                    u: at(chroma, cw, ch, row, 2)?,
                    v: at(chroma + 1, cw, ch, row, 2)?,
                }
            }
            PixelFormat::I420 => {
                let (cw, ch, crow) = (w / 2, h / 2, row / 2);
                let (u, v) = (row * h, row * h + crow * ch);
                Planes::Yuv {
                    y: at(0, w, h, row, 1)?,
                    u: at(u, cw, ch, crow, 1)?,
                    v: at(v, cw, ch, crow, 1)?,
                }
            }
            PixelFormat::Rgb24 => {
                Planes::Rgb { r: at(0, w, h, row, 3)?, g: at(1, w, h, row, 3)?, b: at(2, w, h, row, 3)? }
            }
            PixelFormat::Mjpeg => return Err(FrameError::Compressed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_format() -> impl Strategy<Value = FrameFormat> {
        (0..PixelFormat::ALL.len(), 0u32..80, 0u32..80, 0u32..400).prop_map(
            |(pixel, width, height, row_bytes)| FrameFormat {
                pixel: PixelFormat::ALL[pixel],
                width,
                height,
                row_bytes,
                color: Color::default(),
            },
        )
    }

    proptest! {
        /// Whatever a driver claims: either an error, or planes whose every sample can be read.
        #[test]
        fn any_claimed_format_is_refused_or_readable(format in any_format(), len in 0usize..70_000) {
            let bytes = vec![7u8; len];
            let Ok(view) = FrameView::new(format, &bytes) else { return Ok(()) };
            let planes = match view.planes() {
                Ok(planes) => planes,
                Err(error) => { prop_assert_eq!(error, FrameError::Compressed); return Ok(()) }
            };
            let all = match planes {
                Planes::Grey(y) => vec![y],
                Planes::Yuv { y, u, v } => vec![y, u, v],
                Planes::Rgb { r, g, b } => vec![r, g, b],
            };
            for plane in all {
                for y in 0..plane.height() {
                    prop_assert_eq!(plane.row(y).len(), (plane.width() - 1) * plane.step() + 1);
                }
            }
        }
    }

    /// Each sample of a 16x16 frame encodes its plane and position; the views must find them where V4L2 specifies.
    #[test]
    fn planes_lie_where_v4l2_specifies() {
        let sample = |plane: u8, x: usize, y: usize| plane * 64 + (x % 8) as u8 + 8 * (y % 8) as u8;
        for pixel in
            [PixelFormat::Yuyv, PixelFormat::Uyvy, PixelFormat::Nv12, PixelFormat::I420, PixelFormat::Rgb24]
        {
            let mut format = FrameFormat::packed(pixel, 16, 16, Color::default()).unwrap();
            format.row_bytes += 6;
            let row = format.row_bytes as usize;
            let mut bytes = vec![255u8; format.frame_bytes().unwrap()];
            for y in 0..16 {
                for x in 0..16 {
                    match pixel {
                        PixelFormat::Yuyv | PixelFormat::Uyvy => {
                            let luma = usize::from(pixel == PixelFormat::Uyvy);
                            bytes[y * row + x * 2 + luma] = sample(0, x, y);
                            bytes[y * row + x * 2 + 1 - luma] = sample(1 + (x % 2) as u8, x / 2, y);
                        }
                        PixelFormat::Nv12 => {
                            bytes[y * row + x] = sample(0, x, y);
                            bytes[(16 + y / 2) * row + x] = sample(1 + (x % 2) as u8, x / 2, y / 2);
                        }
                        PixelFormat::I420 => {
                            bytes[y * row + x] = sample(0, x, y);
                            bytes[16 * row + y / 2 * (row / 2) + x / 2] = sample(1, x / 2, y / 2);
                            bytes[16 * row + (8 + y / 2) * (row / 2) + x / 2] = sample(2, x / 2, y / 2);
                        }
                        PixelFormat::Rgb24 => {
                            (0..3).for_each(|c| bytes[y * row + x * 3 + c] = sample(c as u8, x, y));
                        }
                        PixelFormat::Grey | PixelFormat::Mjpeg => unreachable!(),
                    }
                }
            }
            let planes = match FrameView::new(format, &bytes).unwrap().planes().unwrap() {
                Planes::Yuv { y, u, v } => [y, u, v],
                Planes::Rgb { r, g, b } => [r, g, b],
                Planes::Grey(_) => unreachable!(),
            };
            for (index, plane) in planes.iter().enumerate() {
                for y in 0..plane.height() {
                    for x in 0..plane.width() {
                        assert_eq!(
                            plane.row(y)[x * plane.step()],
                            sample(index as u8, x, y),
                            "{pixel} plane {index} at {x},{y}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for format in PixelFormat::ALL {
            assert_eq!(PixelFormat::from_name(format.name()), Some(format));
        }
        assert_eq!(PixelFormat::from_name("bayer"), None);
    }
}
