//! Converts RGB pictures into every pixel format of frames: the inverse of the letterbox and of [`crate::vision::draw`].

use crate::capture::frame::{ColorMatrix, ColorRange, FrameFormat, PixelFormat};
use crate::capture::rate::FrameRate;
use crate::vision::draw::Canvas;

/// Fractions of 2^16.
const ONE: i32 = 1 << 16;

/// Conversion of 8-bit R'G'B' to code values, in fractions of 2^16: rows for Y, Cb and Cr, and the offset of Y.
struct Codes {
    rows: [[i32; 3]; 3],
    black: i32,
}

impl Codes {
    /// ITU-R BT.601-7 section 2.5 and BT.709-6 section 3.
    fn of(format: &FrameFormat) -> Self {
        let (kr, kb) = match format.color.matrix {
            ColorMatrix::Bt601 => (0.299, 0.114),
            ColorMatrix::Bt709 => (0.2126, 0.0722),
        };
        let (luma, chroma, black) = match format.color.range {
            ColorRange::Limited => (219.0 / 255.0, 224.0 / 255.0, 16),
            ColorRange::Full => (1.0, 1.0, 0),
        };
        let kg = 1.0 - kr - kb;
        let (blue, red) = (chroma / (2.0 * (1.0 - kb)), chroma / (2.0 * (1.0 - kr)));
        let rows = [
            [kr * luma, kg * luma, kb * luma],
            [-kr * blue, -kg * blue, (1.0 - kb) * blue],
            [(1.0 - kr) * red, -kg * red, -kb * red],
        ];
        Codes {
            rows: rows.map(|row: [f64; 3]| row.map(|part| (part * f64::from(ONE)).round() as i32)),
            black,
        }
    }

    fn code(&self, row: usize, sum: [i32; 3], shift: u32, offset: i32) -> u8 {
        let [red, green, blue] = self.rows[row];
        let value = red
            .wrapping_mul(sum[0])
            .wrapping_add(green.wrapping_mul(sum[1]))
            .wrapping_add(blue.wrapping_mul(sum[2]));
        let half = 1 << (15 + shift);
        ((value.wrapping_add(half) >> (16 + shift)).wrapping_add(offset)).clamp(0, 255) as u8
    }

    fn luma(&self, rgb: &[u8]) -> u8 {
        self.code(0, [rgb[0], rgb[1], rgb[2]].map(i32::from), 0, self.black)
    }

    /// Chroma of the mean of 2^shift pixels whose sum this is.
    fn chroma(&self, sum: [i32; 3], shift: u32) -> [u8; 2] {
        [self.code(1, sum, shift, 128), self.code(2, sum, shift, 128)]
    }
}

/// Writes an RGB picture (rows of 3 bytes a pixel) as a frame of `format` to the start of `out`. Returns the number of bytes; none if there
/// is no space, or JPEG encoding fails.
pub fn write(format: &FrameFormat, rgb: &[u8], out: &mut [u8]) -> Option<usize> {
    let (width, height) = (format.width as usize, format.height as usize);
    let codes = Codes::of(format);
    let bytes = match format.pixel {
        PixelFormat::Mjpeg => {
            let jpeg = Canvas::from_rgb(width, height, rgb.to_vec())?.to_jpeg().ok()?;
            out.get_mut(..jpeg.len())?.copy_from_slice(&jpeg);
            return Some(jpeg.len());
        }
        PixelFormat::Yuyv
        | PixelFormat::Uyvy
        | PixelFormat::Nv12
        | PixelFormat::I420
        | PixelFormat::Grey
        | PixelFormat::Rgb24 => format.frame_bytes()?,
    };
    let out = out.get_mut(..bytes)?;
    let row_bytes = format.row_bytes as usize;
    let row_of = |row: usize| &rgb[row * width * 3..][..width * 3];
    match format.pixel {
        PixelFormat::Rgb24 => {
            for row in 0..height {
                out[row * row_bytes..][..width * 3].copy_from_slice(row_of(row));
            }
        }
        PixelFormat::Grey => luma_plane(&codes, rgb, width, &mut out[..row_bytes * height], row_bytes),
        PixelFormat::Yuyv | PixelFormat::Uyvy => {
            let (first, other) = if format.pixel == PixelFormat::Yuyv { (0, 1) } else { (1, 0) };
            for row in 0..height {
                let pairs = out[row * row_bytes..][..width * 2].chunks_exact_mut(4);
                for (pair, pixels) in pairs.zip(row_of(row).chunks_exact(6)) {
                    let [u, v] = codes.chroma(sum(&[&pixels[..3], &pixels[3..]]), 1);
                    pair[first] = codes.luma(&pixels[..3]);
                    pair[first + 2] = codes.luma(&pixels[3..]);
                    (pair[other], pair[other + 2]) = (u, v);
                }
            }
        }
        PixelFormat::Nv12 | PixelFormat::I420 => {
            let (luma, chroma) = out.split_at_mut(row_bytes * height);
            luma_plane(&codes, rgb, width, luma, row_bytes);
            let interleaved = format.pixel == PixelFormat::Nv12;
            let half_row = row_bytes / 2;
            for row in 0..height / 2 {
                let (above, below) = (row_of(2 * row), row_of(2 * row + 1));
                for column in 0..width / 2 {
                    let (a, b) = (&above[column * 6..][..6], &below[column * 6..][..6]);
                    let [u, v] = codes.chroma(sum(&[&a[..3], &a[3..], &b[..3], &b[3..]]), 2);
                    if interleaved {
                        chroma[row * row_bytes + 2 * column] = u;
                        chroma[row * row_bytes + 2 * column + 1] = v;
                    } else {
                        chroma[row * half_row + column] = u;
                        chroma[half_row * (height / 2) + row * half_row + column] = v;
                    }
                }
            }
        }
        PixelFormat::Mjpeg => {}
    }
    Some(bytes)
}

fn luma_plane(codes: &Codes, rgb: &[u8], width: usize, out: &mut [u8], row_bytes: usize) {
    for (line, pixels) in out.chunks_exact_mut(row_bytes).zip(rgb.chunks_exact(width * 3)) {
        for (value, pixel) in line.iter_mut().zip(pixels.chunks_exact(3)) {
            *value = codes.luma(pixel);
        }
    }
}

fn sum(pixels: &[&[u8]]) -> [i32; 3] {
    let mut sum = [0i32; 3];
    for pixel in pixels {
        for (sum, part) in sum.iter_mut().zip(*pixel) {
            *sum = sum.wrapping_add(i32::from(*part));
        }
    }
    sum
}

/// The header of a yuv4mpeg stream of I420 frames of that format; each frame then consists of `FRAME\n` and its bytes.
pub fn y4m_head(format: &FrameFormat, fps: FrameRate) -> String {
    let range = match format.color.range {
        ColorRange::Limited => "LIMITED",
        ColorRange::Full => "FULL",
    };
    let (frames, seconds) = fps.fraction();
    let FrameFormat { width, height, .. } = format;
    format!("YUV4MPEG2 W{width} H{height} F{frames}:{seconds} Ip A1:1 C420jpeg XCOLORRANGE={range}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::frame::{Color, FrameView};
    use crate::vision::jpeg::JpegDecoder;

    /// A picture of uniform patches of 8 x 8, so that subsampled chroma loses nothing.
    fn patches(width: usize, height: usize) -> Vec<u8> {
        let mut rgb = Vec::new();
        for row in 0..height {
            for column in 0..width {
                let cell = (row / 8 * 7 + column / 8 * 3) as u8;
                rgb.extend(
                    [cell.wrapping_mul(37), cell.wrapping_mul(91), cell.wrapping_mul(13)]
                        .map(|part| part / 2 + 60),
                );
            }
        }
        rgb
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (width, height) = (64u32, 48u32);
        let rgb = patches(64, 48);
        for pixel in PixelFormat::ALL {
            for color in [Color::JPEG, Color::default(), Color::guess_for_video(1280, 720)] {
                let format = FrameFormat::packed(pixel, width, height, color).unwrap();
                let mut out = vec![0u8; format.slot_bytes().max(64 << 10)];
                let used = write(&format, &rgb, &mut out).unwrap();
                let mut decoder = JpegDecoder::new(width, height);
                let canvas = if pixel == PixelFormat::Mjpeg {
                    let decoded = decoder.decode(&out[..used]).unwrap();
                    Canvas::from_planes(&decoded.planes, decoded.color)
                } else {
                    Canvas::from_planes(
                        &FrameView::new(format, &out[..used]).unwrap().planes().unwrap(),
                        color,
                    )
                };
                let slack = if pixel == PixelFormat::Mjpeg { 24 } else { 4 };
                for (place, (have, want)) in canvas.rgb().chunks(3).zip(rgb.chunks(3)).enumerate() {
                    let [red, green, blue] =
                        [0, 1, 2].map(|part| i32::from(have[part]) - i32::from(want[part]));
                    let fine = if pixel == PixelFormat::Grey {
                        let luma = 0.2126 * f64::from(want[0])
                            + 0.7152 * f64::from(want[1])
                            + 0.0722 * f64::from(want[2]);
                        let other = 0.299 * f64::from(want[0])
                            + 0.587 * f64::from(want[1])
                            + 0.114 * f64::from(want[2]);
                        let limited = |luma: f64| 16.0 + luma * 219.0 / 255.0;
                        let have = f64::from(have[0]);
                        [luma, other, limited(luma), limited(other)]
                            .iter()
                            .any(|want| (have - want).abs() <= 1.0)
                    } else {
                        red.abs().max(green.abs()).max(blue.abs()) <= slack
                    };
                    assert!(fine, "{pixel} {color:?} at {place}: {have:?} is not {want:?}");
                }
            }
        }
    }

    #[test]
    fn a_buffer_that_is_too_small_is_refused() {
        let format = FrameFormat::packed(PixelFormat::I420, 64, 48, Color::JPEG).unwrap();
        assert_eq!(write(&format, &patches(64, 48), &mut [0; 100]), None);
    }
}
