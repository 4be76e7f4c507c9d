//! One picture file: JPEG or PNG to a frame.
//!
//! An upright baseline JPEG stays a JPEG (our own decoder reads it); everything else becomes RGB, rotated by its EXIF orientation. Heap use
//! is bounded by [`crate::base::limits`], not by what a header claims: sides are checked before anything is decoded. Never writes.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::ColorOverride;
use super::mjpeg_stream::{Head, JpegInfo, jpeg_head};
use crate::base::error::{Error, Kind, Result};
use crate::base::limits::{FRAME_BYTES_MAX, FRAME_SIDE_MAX};
use crate::capture::frame::{Color, FrameFormat, PixelFormat};

/// The first bytes of a PNG.
const PNG_MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";
/// How much of a file is read to find its format, bytes; the whole file if that is not enough.
const HEAD_BYTES: u64 = 64 << 10;

/// A picture in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// MJPEG for an upright baseline JPEG, RGB24 for everything else.
    pub format: FrameFormat,
    /// The JPEG, or the decoded rows without padding.
    pub bytes: Vec<u8>,
}

/// What a picture's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The format that [`load`] will return.
    pub format: FrameFormat,
    /// Bytes that it needs: the file's length for a baseline JPEG.
    pub bytes: usize,
}

/// What kind of file the first bytes show.
enum ImageKind {
    Jpeg(JpegInfo),
    Png,
}

/// Reads the whole picture `path`.
///
/// # Errors
/// `Class::Degrade` (a caller without another picture makes it fatal), naming the file: not readable, larger than the limits, not a JPEG or
/// PNG (with its first bytes), or damaged.
pub fn load(path: &Path) -> Result<Picture> {
    let refuse = |why: String| Error::degrade(Kind::Source, format!("picture '{}': {why}", path.display()));
    let file = open(path)?;
    let bytes = read_up_to(&file, FRAME_BYTES_MAX as u64 + 1)
        .map_err(|error| refuse("cannot be read".to_owned()).caused_by(error))?;
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(refuse(too_long(file.metadata().map_or(0, |data| data.len()))));
    }
    decode(bytes).map_err(refuse)
}

/// Reads the format of the picture `path` from its header.
///
/// # Errors
/// As [`load`], except for damage after the header.
pub fn announced(path: &Path) -> Result<Announced> {
    let refuse = |why: String| Error::degrade(Kind::Source, format!("picture '{}': {why}", path.display()));
    let unread = |error: std::io::Error| refuse("cannot be read".to_owned()).caused_by(error);
    let file = open(path)?;
    let length = file.metadata().map_err(unread)?.len();
    if length > FRAME_BYTES_MAX as u64 {
        return Err(refuse(too_long(length)));
    }
    let mut bytes = read_up_to(&file, HEAD_BYTES).map_err(unread)?;
    // Large segments (colour profiles, previews) may lie before the frame header.
    if matches!(jpeg_head(&bytes), Head::More) && bytes.len() as u64 >= HEAD_BYTES {
        bytes.extend(read_up_to(&file, FRAME_BYTES_MAX as u64).map_err(unread)?);
    }
    let format = match image_kind(&bytes).map_err(refuse)? {
        ImageKind::Jpeg(info) if stays(&info) => info.format(ColorOverride::default()).map_err(refuse)?,
        ImageKind::Jpeg(info) => {
            let (width, height) = turned_sides(&info);
            rgb_format(width, height).map_err(refuse)?
        }
        ImageKind::Png => {
            let (width, height) = png_sides(&bytes).map_err(refuse)?;
            rgb_format(width, height).map_err(refuse)?
        }
    };
    Ok(Announced { format, bytes: format.frame_bytes().unwrap_or(length as usize) })
}

/// Opens a regular file: a FIFO would wait for its writer.
fn open(path: &Path) -> Result<File> {
    let refuse = |why: &str| Error::degrade(Kind::Source, format!("picture '{}': {why}", path.display()));
    let kind = std::fs::metadata(path)
        .map_err(|error| refuse("cannot be opened: check the path and its permissions").caused_by(error))?
        .file_type();
    if kind.is_dir() {
        return Err(refuse("is a folder: use dir:"));
    }
    if !kind.is_file() {
        return Err(refuse("is not a regular file"));
    }
    File::open(path).map_err(|error| refuse("cannot be opened: check its permissions").caused_by(error))
}

fn read_up_to(file: &File, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn too_long(bytes: u64) -> String {
    format!("has {} MiB, the limit is {} MiB: scale it down", bytes >> 20, FRAME_BYTES_MAX >> 20)
}

/// Whether a JPEG stays undecoded.
fn stays(info: &JpegInfo) -> bool {
    info.baseline && info.orientation == 1
}

/// Width and height of the picture after rotation.
fn turned_sides(info: &JpegInfo) -> (u32, u32) {
    if info.orientation > 4 { (info.height, info.width) } else { (info.width, info.height) }
}

/// Decodes a file's bytes, or keeps them.
fn decode(bytes: Vec<u8>) -> std::result::Result<Picture, String> {
    match image_kind(&bytes)? {
        ImageKind::Jpeg(info) if stays(&info) => {
            Ok(Picture { format: info.format(ColorOverride::default())?, bytes })
        }
        ImageKind::Jpeg(info) => {
            let picture = decode_jpeg(&bytes, rgb_format(info.width, info.height)?)?;
            turned(picture, &info)
        }
        ImageKind::Png => decode_png(&bytes),
    }
}

fn image_kind(bytes: &[u8]) -> std::result::Result<ImageKind, String> {
    if bytes.starts_with(PNG_MAGIC) {
        return Ok(ImageKind::Png);
    }
    if bytes.starts_with(&[0xFF, 0xD8]) {
        return match jpeg_head(bytes) {
            Head::Info(JpegInfo { refusal: Some(why), .. }) => {
                Err(format!("is a JPEG of an unsupported kind ({why}): convert it to a baseline JPEG"))
            }
            Head::Info(info) => Ok(ImageKind::Jpeg(info)),
            Head::More => Err("the JPEG ends before its frame header".to_owned()),
            Head::Broken(why) => Err(format!("is a damaged JPEG: {why}")),
        };
    }
    if bytes.is_empty() {
        return Err("is empty".to_owned());
    }
    let start = &bytes[..bytes.len().min(12)];
    let name = match bytes {
        [b'G', b'I', b'F', b'8', ..] => " (a GIF)",
        [b'B', b'M', ..] => " (perhaps a BMP)",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => " (a WebP)",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => " (HEIC, AVIF or a video)",
        _ => "",
    };
    Err(format!("is not a JPEG or PNG: it begins with '{}'{name}; convert it", start.escape_ascii()))
}

/// Full-range RGB of that size, if the limits allow it.
fn rgb_format(width: u32, height: u32) -> std::result::Result<FrameFormat, String> {
    FrameFormat::packed(PixelFormat::Rgb24, width, height, Color::JPEG).map_err(|error| error.to_string())
}

/// Rotates the picture by its EXIF orientation.
fn turned(picture: Picture, info: &JpegInfo) -> std::result::Result<Picture, String> {
    if info.orientation == 1 {
        return Ok(picture);
    }
    let (width, height) = turned_sides(info);
    let format = rgb_format(width, height)?;
    let (w, h) = (info.width as usize, info.height as usize);
    let mut bytes = Vec::with_capacity(picture.bytes.len());
    for (y, x) in (0..height as usize).flat_map(|y| (0..width as usize).map(move |x| (y, x))) {
        // Source position of each pixel (Exif 2.32, 4.6.4, tag 0x0112: which side of the picture its first row and column are).
        let (from_x, from_y) = match info.orientation {
            2 => (w - 1 - x, y),
            3 => (w - 1 - x, h - 1 - y),
            4 => (x, h - 1 - y),
            5 => (y, x),
            6 => (y, h - 1 - x),
            7 => (w - 1 - y, h - 1 - x),
            8 => (w - 1 - y, x),
            _ => (x, y),
        };
        let at = (from_y * w + from_x) * 3;
        bytes.extend_from_slice(&picture.bytes[at..at + 3]);
    }
    Ok(Picture { format, bytes })
}

fn decode_jpeg(bytes: &[u8], format: FrameFormat) -> std::result::Result<Picture, String> {
    let options = DecoderOptions::default()
        .set_max_width(FRAME_SIDE_MAX as usize)
        .set_max_height(FRAME_SIDE_MAX as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let bytes = decoder.decode().map_err(|error| format!("is a damaged JPEG: {error:?}"))?;
    checked(format, bytes)
}

fn checked(format: FrameFormat, bytes: Vec<u8>) -> std::result::Result<Picture, String> {
    if Some(bytes.len()) != format.frame_bytes() {
        return Err(format!(
            "decoded to {} bytes where {format} has {:?}",
            bytes.len(),
            format.frame_bytes()
        ));
    }
    Ok(Picture { format, bytes })
}

/// A reader that has read the header and is limited to the memory of our largest frame in any form.
fn png_reader(bytes: &[u8]) -> std::result::Result<png::Reader<Cursor<&[u8]>>, String> {
    // Four channels of 16 bits, before they become three of 8.
    let limits = png::Limits { bytes: FRAME_BYTES_MAX / 3 * 8 };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    decoder.read_info().map_err(|error| format!("is a damaged PNG: {error}"))
}

/// Width and height, at a fixed position in the first chunk (PNG specification, section 11.2.1).
fn png_sides(bytes: &[u8]) -> std::result::Result<(u32, u32), String> {
    let field =
        |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).map(|b| u32::from_be_bytes(*b));
    match (bytes.get(12..16), field(16), field(20)) {
        (Some(b"IHDR"), Some(width), Some(height)) => Ok((width, height)),
        _ => Err("is a damaged PNG: its header is cut off".to_owned()),
    }
}

fn decode_png(bytes: &[u8]) -> std::result::Result<Picture, String> {
    let (width, height) = png_sides(bytes)?;
    let format = rgb_format(width, height)?;
    let mut reader = png_reader(bytes)?;
    let size = reader.output_buffer_size().ok_or("is too large a PNG: scale it down")?;
    let mut out = vec![0; size];
    let info = reader.next_frame(&mut out).map_err(|error| format!("is a damaged PNG: {error}"))?;
    out.truncate(info.buffer_size());
    let channels = info.color_type.samples();
    let rgb = match channels {
        3 => out,
        4 => out.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        1 | 2 => out.chunks_exact(channels).flat_map(|p| [p[0]; 3]).collect(),
        _ => return Err(format!("has {channels} channels: convert it to RGB or grey")),
    };
    checked(format, rgb)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::mjpeg_stream::tests::{exif, skeleton};
    use super::*;
    use crate::base::error::Class;
    use proptest::prelude::*;

    /// A PNG of one colour.
    pub(in super::super) fn png(
        width: u32,
        height: u32,
        kind: png::ColorType,
        depth: png::BitDepth,
        pixel: &[u8],
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, width, height);
        encoder.set_color(kind);
        encoder.set_depth(depth);
        if kind == png::ColorType::Indexed {
            encoder.set_palette(vec![0, 0, 0, 10, 20, 30]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&pixel.repeat((width * height) as usize)).unwrap();
        writer.finish().unwrap();
        out
    }

    /// A progressive JPEG of a vertical ramp, by jpeg-encoder.
    fn progressive(width: u16, height: u16) -> Vec<u8> {
        let pixels: Vec<u8> = (0..height)
            .flat_map(|y| std::iter::repeat_n([y as u8 * 4, 128, 255 - y as u8 * 4], width.into()))
            .flatten()
            .collect();
        let mut out = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut out, 95);
        encoder.set_progressive(true);
        encoder.encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb).unwrap();
        out
    }

    #[test]
    fn every_kind_of_png_becomes_rgb() {
        use png::{BitDepth, ColorType};
        for (kind, depth, pixel, expect) in [
            (ColorType::Rgb, BitDepth::Eight, &[10u8, 20, 30][..], [10, 20, 30]),
            (ColorType::Rgba, BitDepth::Eight, &[10, 20, 30, 0], [10, 20, 30]),
            (ColorType::Grayscale, BitDepth::Eight, &[77], [77; 3]),
            (ColorType::GrayscaleAlpha, BitDepth::Eight, &[77, 1], [77; 3]),
            (ColorType::Rgb, BitDepth::Sixteen, &[10, 0, 20, 0, 30, 0], [10, 20, 30]),
            (ColorType::Indexed, BitDepth::Eight, &[1], [10, 20, 30]),
        ] {
            let picture = decode(png(17, 16, kind, depth, pixel)).unwrap();
            assert_eq!(
                (picture.format.width, picture.format.height, picture.format.pixel),
                (17, 16, PixelFormat::Rgb24)
            );
            assert_eq!(picture.format.color, Color::JPEG);
            assert_eq!(picture.bytes, expect.repeat(17 * 16), "{kind:?} {depth:?}");
        }
    }

    #[test]
    fn baseline_stays_and_progressive_is_decoded() {
        let jpeg = skeleton(64, 48, 1);
        let picture = decode(jpeg.clone()).unwrap();
        assert_eq!(
            (picture.format.pixel, picture.format.width, picture.bytes),
            (PixelFormat::Mjpeg, 64, jpeg)
        );
        let picture = decode(progressive(64, 48)).unwrap();
        assert_eq!((picture.format.pixel, picture.format.height), (PixelFormat::Rgb24, 48));
        for y in [0usize, 20, 47] {
            let [r, g, b] = [0, 1, 2].map(|c| i32::from(picture.bytes[(y * 64 + 30) * 3 + c]));
            let ramp = y as i32 * 4;
            assert!(
                (r - ramp).abs() < 12 && (g - 128).abs() < 12 && (b - 255 + ramp).abs() < 12,
                "{y}: {r} {g} {b}"
            );
        }
    }

    #[test]
    fn orientations_are_applied() {
        // Rows of 32 pixels with a bright corner at the upper left, 16 rows.
        let (width, height) = (32usize, 16usize);
        let pixels: Vec<u8> = (0..height)
            .flat_map(|y| (0..width).map(move |x| if x < 8 && y < 8 { 250 } else { 10 }))
            .flat_map(|value| [value; 3])
            .collect();
        let mut jpeg = Vec::new();
        jpeg_encoder::Encoder::new(&mut jpeg, 95)
            .encode(&pixels, width as u16, height as u16, jpeg_encoder::ColorType::Rgb)
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turned.jpg");
        for (orientation, sides, corner) in [
            (2, (32, 16), (31, 0)),
            (3, (32, 16), (31, 15)),
            (4, (32, 16), (0, 15)),
            (5, (16, 32), (0, 0)),
            (6, (16, 32), (15, 0)),
            (7, (16, 32), (15, 31)),
            (8, (16, 32), (0, 31)),
        ] {
            let segment = exif(orientation, orientation % 2 == 0);
            std::fs::write(&path, [&jpeg[..2], &segment, &jpeg[2..]].concat()).unwrap();
            let picture = load(&path).unwrap();
            assert_eq!((picture.format.width, picture.format.height), sides, "{orientation}");
            assert_eq!(
                announced(&path).unwrap(),
                Announced { format: picture.format, bytes: picture.bytes.len() }
            );
            for (x, y) in [(0, 0), (sides.0 - 1, 0), (0, sides.1 - 1), (sides.0 - 1, sides.1 - 1)] {
                let bright = picture.bytes[((y * sides.0 + x) * 3) as usize] > 128;
                assert_eq!(bright, (x, y) == corner, "{orientation} at {x},{y}");
            }
        }
        // As it is: no decoding.
        std::fs::write(&path, [&jpeg[..2], &exif(1, true), &jpeg[2..]].concat()).unwrap();
        assert_eq!(load(&path).unwrap().format.pixel, PixelFormat::Mjpeg);
    }

    #[test]
    fn files_that_are_not_pictures_are_identified_in_the_error() {
        let mut arithmetic = skeleton(64, 48, 0);
        let sof = arithmetic.windows(2).rposition(|w| w == [0xFF, 0xC0]).unwrap();
        arithmetic[sof + 1] = 0xC9;
        let mut deep = skeleton(64, 48, 0);
        deep[sof + 4] = 12;
        let dir = tempfile::tempdir().unwrap();
        let mut wide = png(16, 16, png::ColorType::Rgb, png::BitDepth::Eight, &[0; 3]);
        wide[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let whole = png(64, 64, png::ColorType::Rgb, png::BitDepth::Eight, &[0; 3]);
        for (name, bytes, words) in [
            ("text.jpg", b"hello world, no picture".to_vec(), "begins with 'hello world,'"),
            ("empty.png", Vec::new(), "is empty"),
            ("gif.jpg", b"GIF89a..".to_vec(), "a GIF"),
            ("short.jpg", skeleton(64, 48, 0)[..20].to_vec(), "ends before its frame header"),
            ("zero.jpg", skeleton(0, 0, 0), "0x0"),
            ("wide.png", wide, "65536x65536 is outside 16..=8192"),
            ("big.jpg", skeleton(9000, 48, 0), "9000x48 is outside 16..=8192"),
            ("arithmetic.jpg", arithmetic, "unsupported kind (arithmetic coding)"),
            ("deep.jpg", deep, "unsupported kind (samples of more than 8 bits)"),
            ("half.png", whole[..whole.len() - 20].to_vec(), "damaged PNG"),
            ("magic.png", PNG_MAGIC.to_vec(), "cut off"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = load(&path).unwrap_err();
            assert_eq!(error.class(), Class::Degrade);
            assert!(error.to_string().contains(words) && error.to_string().contains(name), "{error}");
            assert_eq!(announced(&path).is_ok(), name == "half.png", "{name}");
        }
        assert!(load(&dir.path().join("absent.png")).unwrap_err().to_string().contains("absent.png"));
        assert!(load(dir.path()).unwrap_err().to_string().contains("dir:"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn any_bytes_and_any_damage_are_refused_or_decoded(
            which in 0usize..4,
            damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8),
            cut in any::<u16>(),
        ) {
            let mut bytes = match which {
                0 => progressive(40, 24),
                1 => png(40, 24, png::ColorType::Rgba, png::BitDepth::Eight, &[1, 2, 3, 4]),
                2 => skeleton(40, 24, 5),
                _ => vec![0x55; 300],
            };
            for (at, value) in damage {
                let at = usize::from(at) % bytes.len();
                bytes[at] = value;
            }
            if cut % 3 == 0 {
                bytes.truncate(usize::from(cut) % bytes.len());
            }
            if let Ok(picture) = decode(bytes) {
                prop_assert!(picture.format.check().is_ok());
                prop_assert!(picture.format.frame_bytes().is_none_or(|need| need == picture.bytes.len()));
            }
        }
    }
}
