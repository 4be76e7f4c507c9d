//! The yuv4mpeg format (`yuv4mpeg(5)` of mjpegtools, with ffmpeg's `XCOLORRANGE`): from header lines to a checked frame format.
//!
//! Pure. Never allocates by a claimed size: sides are checked against [`crate::base::limits`] first.

use super::ColorOverride;
use super::rate::FrameRate;
use crate::capture::frame::{Color, ColorRange, FrameFormat, PixelFormat};

/// The first bytes of every yuv4mpeg stream.
pub const STREAM_MAGIC: &[u8] = b"YUV4MPEG2";
/// The first bytes of every frame.
pub const FRAME_MAGIC: &[u8] = b"FRAME";

/// The remedy for unsupported pixel formats.
const REMEDY_PIXELS: &str = "let ffmpeg convert it with -pix_fmt yuv420p";

/// The contents of the stream's header line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHeader {
    /// I420, or Grey for `Cmono`.
    pub format: FrameFormat,
    /// `F`, if present and possible. `0:0` means unknown; impossible rates such as `25:0` or 24000 a second are treated as unknown.
    pub rate: Option<FrameRate>,
}

/// Parses the stream's header line (without its line break).
///
/// `C420jpeg` without `XCOLORRANGE` counts as limited range: the name states the position of the chroma samples (centred, as in JPEG), not
/// the code range; ffmpeg also writes it for ordinary limited-range video. `Cmono` without it counts as full range, as ffmpeg's `gray` is.
/// The matrix is guessed from the size, since there is no tag for it. The pixels' aspect (`A`) and comments (`X`) are ignored.
///
/// # Errors
/// One line with the remedy: not such a header, sides missing, odd or beyond the limits, interlaced, not 8-bit 4:2:0 or mono.
pub fn parse_stream_header(line: &[u8], color: ColorOverride) -> Result<StreamHeader, String> {
    let text = std::str::from_utf8(line).map_err(|_| "the yuv4mpeg header is not text".to_owned())?;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    if words.next().map(str::as_bytes) != Some(STREAM_MAGIC) {
        return Err("it does not begin with YUV4MPEG2".to_owned());
    }
    let (mut width, mut height, mut rate) = (None, None, None);
    let mut chroma = "420jpeg";
    let mut range = None;
    for word in words {
        let mut chars = word.chars();
        let tag = chars.next();
        let value = chars.as_str();
        match tag {
            Some('W') => width = Some(side(value)?),
            Some('H') => height = Some(side(value)?),
            Some('F') => rate = parse_rate(value),
            Some('I') => check_interlace(value)?,
            Some('C') => chroma = value,
            Some('X') => match value {
                "COLORRANGE=FULL" => range = Some(ColorRange::Full),
                "COLORRANGE=LIMITED" => range = Some(ColorRange::Limited),
                _ => {}
            },
            _ => {}
        }
    }
    let (Some(width), Some(height)) = (width, height) else {
        return Err("the yuv4mpeg header has no W and H".to_owned());
    };
    let (pixel, usual_range) = match chroma {
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => (PixelFormat::I420, ColorRange::Limited),
        "mono" => (PixelFormat::Grey, ColorRange::Full),
        _ => return Err(format!("its pixels are C{}: {REMEDY_PIXELS}", chroma.escape_default())),
    };
    let guess = Color { range: range.unwrap_or(usual_range), ..Color::guess_for_video(width, height) };
    let format =
        FrameFormat::packed(pixel, width, height, color.apply(guess)).map_err(|error| error.to_string())?;
    Ok(StreamHeader { format, rate })
}

/// Checks a frame's header line (without its line break): `FRAME`, possibly with parameters, which progressive streams may have and which
/// are not needed.
///
/// # Errors
/// It is not a frame header.
pub fn check_frame_header(line: &[u8]) -> Result<(), String> {
    match line.strip_prefix(FRAME_MAGIC) {
        Some([] | [b' ', ..]) => Ok(()),
        _ => Err(format!("'{}' instead of FRAME", line[..line.len().min(16)].escape_ascii())),
    }
}

fn side(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("'{}' is not a side of a frame", value.escape_default()))
}

/// `num:den`, where that is a rate.
fn parse_rate(value: &str) -> Option<FrameRate> {
    let (frames, seconds) = value.split_once(':')?;
    FrameRate::new(frames.parse().ok()?, seconds.parse().ok()?)
}

/// Progressive or unknown. Combing artefacts of interlaced frames would disturb detection at every moving edge.
fn check_interlace(value: &str) -> Result<(), String> {
    match value {
        "p" | "?" => Ok(()),
        _ => Err(format!(
            "it is interlaced (I{}): let ffmpeg make whole frames with -vf bwdif",
            value.escape_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::frame::ColorMatrix;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<StreamHeader, String> {
        parse_stream_header(line.as_bytes(), ColorOverride::default())
    }

    #[test]
    fn headers_of_ffmpeg_are_read() {
        for (line, pixel, size, range, fps) in [
            (
                "YUV4MPEG2 W64 H48 F30000:1001 Ip A1:1 C420jpeg XYSCSS=420JPEG XCOLORRANGE=LIMITED",
                PixelFormat::I420,
                (64, 48),
                ColorRange::Limited,
                Some("30000/1001"),
            ),
            (
                "YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg XYSCSS=420JPEG XCOLORRANGE=FULL",
                PixelFormat::I420,
                (64, 48),
                ColorRange::Full,
                Some("25"),
            ),
            ("YUV4MPEG2 W64 H48 C420jpeg", PixelFormat::I420, (64, 48), ColorRange::Limited, None),
            ("YUV4MPEG2 H48 W64 F0:0 I?", PixelFormat::I420, (64, 48), ColorRange::Limited, None),
            ("YUV4MPEG2 W64 H48 F24000:1", PixelFormat::I420, (64, 48), ColorRange::Limited, None),
            ("YUV4MPEG2 W64 H48 F25:0", PixelFormat::I420, (64, 48), ColorRange::Limited, None),
            ("YUV4MPEG2 W64 H48 F25", PixelFormat::I420, (64, 48), ColorRange::Limited, None),
            ("YUV4MPEG2 W720 H576 C420paldv", PixelFormat::I420, (720, 576), ColorRange::Limited, None),
            ("YUV4MPEG2 W17 H33 Cmono", PixelFormat::Grey, (17, 33), ColorRange::Full, None),
            (
                "YUV4MPEG2 W64 H48 Cmono XCOLORRANGE=LIMITED",
                PixelFormat::Grey,
                (64, 48),
                ColorRange::Limited,
                None,
            ),
        ] {
            let header = parse(line).unwrap();
            let format = header.format;
            assert_eq!((format.width, format.height), size, "{line}");
            assert_eq!((format.pixel, format.color.range), (pixel, range), "{line}");
            assert_eq!(header.rate.map(|r| r.to_string()).as_deref(), fps, "{line}");
        }
    }

    #[test]
    fn unsupported_streams_are_refused_with_the_remedy() {
        for (line, words) in [
            ("YUV4MPEG2 W64 H48 C422", "-pix_fmt yuv420p"),
            ("YUV4MPEG2 W64 H48 C444", "-pix_fmt yuv420p"),
            ("YUV4MPEG2 W64 H48 C420p10 XYSCSS=420P10", "-pix_fmt yuv420p"),
            ("YUV4MPEG2 W64 H48 Cmono16", "-pix_fmt yuv420p"),
            ("YUV4MPEG2 W64 H48 It C420", "-vf bwdif"),
            ("YUV4MPEG2 W64 H48 Ib C420", "-vf bwdif"),
            ("YUV4MPEG2 W64 H48 Im C420", "-vf bwdif"),
            ("YUV4MPEG2 W100000 H100000 C420", "8192"),
            ("YUV4MPEG2 W4294967296 H48 C420", "not a side"),
            ("YUV4MPEG2 W65 H48 C420", "even sides"),
            ("YUV4MPEG2 W0 H0", "16..="),
            ("YUV4MPEG2 W64", "no W and H"),
            ("YUV4MPEG", "YUV4MPEG2"),
            ("", "YUV4MPEG2"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn the_matrix_depends_on_the_size_unless_set() {
        let matrix = |line, color| parse_stream_header(line, color).unwrap().format.color.matrix;
        let said = ColorOverride { matrix: Some(ColorMatrix::Bt601), range: None };
        assert_eq!(matrix(b"YUV4MPEG2 W1280 H720", ColorOverride::default()), ColorMatrix::Bt709);
        assert_eq!(matrix(b"YUV4MPEG2 W640 H480", ColorOverride::default()), ColorMatrix::Bt601);
        assert_eq!(matrix(b"YUV4MPEG2 W1280 H720", said), ColorMatrix::Bt601);
    }

    #[test]
    fn frame_headers_are_checked() {
        assert_eq!(check_frame_header(b"FRAME"), Ok(()));
        assert_eq!(check_frame_header(b"FRAME Ixyz Xhello"), Ok(()));
        for bad in [&b"FRAMES"[..], b"FRAM", b"", b"\xff\x00FRAME"] {
            assert!(check_frame_header(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(tail in "[ -~]{0,80}", raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(header) = parse(&format!("YUV4MPEG2 {tail}")) {
                prop_assert!(header.format.check().is_ok());
            }
            if let Ok(header) = parse(&format!("YUV4MPEG2 W64 H48 {tail}")) {
                prop_assert!(header.format.check().is_ok());
            }
            let _any = parse_stream_header(&raw, ColorOverride::default());
            let _any = check_frame_header(&raw);
        }
    }
}
