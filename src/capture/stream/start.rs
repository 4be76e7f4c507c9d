//! The start of a stream: its position, its kind, and its format.

use super::super::mjpeg_stream::{Head, Scan, Splitter, jpeg_head};
use super::super::{CaptureParams, nut, y4m};
use super::{Ahead, Bytes, Expect, Fault, Framer, Layout, Opened, ReadOutcome};
use crate::base::limits::Y4M_HEADER_BYTES_MAX;
use crate::capture::frame::{Color, ColorRange, FrameFormat, PixelFormat};

/// First guess of how much of an MJPEG stream contains the first frame header, bytes; doubles while that is not found.
const JPEG_PROBE_BYTES: usize = 64 << 10;
/// If the first frame header is not within this many bytes, the stream is not MJPEG.
const JPEG_PROBE_BYTES_MAX: usize = 4 << 20;
/// How far a stream is searched for its first frame, bytes: before it there may be a program's messages, a multipart boundary, or the rest
/// of a frame in whose middle the reader joined.
const START_BYTES_MAX: usize = 64 << 10;

/// Finds the start of the stream in its first [`START_BYTES_MAX`]: its kind, and how many bytes were skipped before it. The inner error
/// ends the opening.
pub(super) fn detect_start(
    ahead: &mut Ahead,
    source: &mut impl Bytes,
    expect: Expect,
) -> std::result::Result<std::result::Result<(Expect, u64), Opened>, Fault> {
    let raw = match expect {
        Expect::Detect(Some(PixelFormat::Mjpeg)) => return Ok(Ok((Expect::Mjpeg, 0))),
        Expect::Detect(raw) => raw,
        Expect::Y4m | Expect::Mjpeg | Expect::Raw(_) | Expect::Nut => None,
    };
    let mut start = heapless::Vec::<u8, 16>::new();
    let mut skipped = 0;
    loop {
        let bytes = ahead.bytes();
        if skipped == 0 {
            start = bytes.iter().copied().take(start.capacity()).collect();
        }
        let known = start.len().min(y4m::STREAM_MAGIC.len());
        let is_no_y4m = start[..known] != y4m::STREAM_MAGIC[..known];
        if let Some(pixel) = raw
            && is_no_y4m
        {
            return Ok(Ok((Expect::Raw(pixel), 0)));
        }
        if let Some((at, found)) = find_start(bytes, expect, skipped == 0) {
            ahead.consume(at);
            return Ok(Ok((found, skipped + at as u64)));
        }
        // A start may continue in the next bytes.
        let seen = bytes.len().saturating_sub(y4m::STREAM_MAGIC.len() - 1);
        ahead.consume(seen);
        skipped += seen as u64;
        if skipped > START_BYTES_MAX as u64 {
            return Err(Fault::Stream(no_start(&start, expect)));
        }
        match ahead.fill(source)? {
            ReadOutcome::Some(_) => {}
            ReadOutcome::Idle => return Ok(Err(Opened::Idle)),
            // A cut-off start of one kind is not a stream of another kind.
            ReadOutcome::End if is_no_y4m && start != [0xFF] => {
                return Err(Fault::Stream(no_start(&start, expect)));
            }
            ReadOutcome::End => return Ok(Err(Opened::End)),
        }
    }
}

/// The first yuv4mpeg header or JPEG in `bytes`; with `Expect::Y4m` only the former.
fn find_start(bytes: &[u8], expect: Expect, at_start: bool) -> Option<(usize, Expect)> {
    let y4m = bytes.windows(y4m::STREAM_MAGIC.len()).position(|window| window == y4m::STREAM_MAGIC);
    // Among other bytes a longer match is required than at the start: a marker must follow SOI.
    let jpeg = match bytes {
        [0xFF, 0xD8, ..] if at_start => Some(0),
        _ => bytes.windows(3).position(|window| window == [0xFF, 0xD8, 0xFF]),
    };
    let jpeg = jpeg.filter(|_| expect != Expect::Y4m);
    [y4m.map(|at| (at, Expect::Y4m)), jpeg.map(|at| (at, Expect::Mjpeg))]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
}

fn no_start(start: &[u8], expect: Expect) -> String {
    let start = start.escape_ascii();
    if expect == Expect::Y4m {
        return format!("begins with '{start}', not with a yuv4mpeg header (YUV4MPEG2)");
    }
    format!(
        "begins with '{start}', and neither yuv4mpeg nor a JPEG comes within {} KiB: add -f yuv4mpegpipe -pix_fmt yuv420p to \
         ffmpeg, set camera.pixel_format = \"mjpeg\" for JPEGs, or camera.pixel_format, width and height for raw frames",
        START_BYTES_MAX >> 10
    )
}

pub(super) fn open_y4m(
    source: &mut impl Bytes,
    mut ahead: Ahead,
    params: &CaptureParams,
) -> std::result::Result<Opened, Fault> {
    loop {
        let bytes = ahead.bytes();
        if let Some(length) = bytes.iter().position(|&b| b == b'\n') {
            let header = y4m::parse_stream_header(&bytes[..length], params.color).map_err(Fault::Stream)?;
            ahead.consume(length + 1);
            let mut framer = Framer::with(Layout::Y4m, (header.format, params.color), header.rate, ahead);
            framer.offset = length as u64 + 1;
            return Ok(Opened::Yes(framer));
        }
        if ahead.is_full() {
            return Err(Fault::Stream(format!(
                "has a yuv4mpeg header of more than {Y4M_HEADER_BYTES_MAX} bytes: shorten its comments (X)"
            )));
        }
        match ahead.fill(source)? {
            ReadOutcome::Some(_) => {}
            ReadOutcome::Idle => return Ok(Opened::Idle),
            ReadOutcome::End => return Ok(Opened::End),
        }
    }
}

pub(super) fn open_nut(
    source: &mut impl Bytes,
    mut ahead: Ahead,
    params: &CaptureParams,
) -> std::result::Result<Opened, Fault> {
    const { assert!(Y4M_HEADER_BYTES_MAX > nut::HEADER_BYTES_MAX, "a header fits into the buffer") };
    let mut demuxer = nut::Demuxer::new();
    let mut offset = 0;
    loop {
        let step = demuxer.next(ahead.bytes()).map_err(|why| Fault::Stream(format!("damaged: {why}")))?;
        match step {
            nut::Step::Passed { used } => {
                ahead.consume(used);
                offset += used as u64;
            }
            nut::Step::Stream { used, width, height } => {
                ahead.consume(used);
                let format = nut_format(width, height, params).map_err(Fault::Stream)?;
                let mut framer =
                    Framer::with(Layout::Nut(Box::new(demuxer)), (format, params.color), None, ahead);
                framer.offset = offset + used as u64;
                return Ok(Opened::Yes(framer));
            }
            nut::Step::Frame { .. } => {
                return Err(Fault::Stream("damaged: a frame before its headers".to_owned()));
            }
            nut::Step::More => match ahead.fill(source)? {
                ReadOutcome::Some(_) => {}
                ReadOutcome::Idle => return Ok(Opened::Idle),
                ReadOutcome::End => return Ok(Opened::End),
            },
        }
    }
}

/// I420 of limited range, which ffmpeg was told to make. NUT does not carry the matrix, which ffmpeg leaves as it is. It is guessed from the
/// size of the camera's pictures: those that fill the size that was asked for were probably larger before.
fn nut_format(width: u32, height: u32, params: &CaptureParams) -> std::result::Result<FrameFormat, String> {
    let guess = if width.max(height) >= params.serve_side {
        Color::guess_for_video(1280, 720)
    } else {
        Color::guess_for_video(width, height)
    };
    let color = Color { range: ColorRange::Limited, ..params.color.apply(guess) };
    FrameFormat::packed(PixelFormat::I420, width, height, color).map_err(|error| error.to_string())
}

pub(super) fn open_mjpeg(
    source: &mut impl Bytes,
    mut ahead: Ahead,
    params: &CaptureParams,
) -> std::result::Result<Opened, Fault> {
    ahead.grow(JPEG_PROBE_BYTES);
    let mut offset = 0;
    loop {
        let mut splitter = Splitter::new();
        if let Scan::Skip(count) = splitter.scan(ahead.bytes()) {
            ahead.consume(count);
            offset += count as u64;
            continue;
        }
        match jpeg_head(ahead.bytes()) {
            Head::Info(info) => {
                if !info.baseline {
                    let why =
                        info.refusal.unwrap_or("progressive, or with other than one or three components");
                    return Err(Fault::Stream(format!(
                        "its JPEGs are not baseline ({why}): let ffmpeg write them with -c:v mjpeg"
                    )));
                }
                let format = info.format(params.color).map_err(Fault::Stream)?;
                let mut framer =
                    Framer::with(Layout::Mjpeg(Splitter::new()), (format, params.color), None, ahead);
                framer.offset = offset;
                return Ok(Opened::Yes(framer));
            }
            // A torn frame at the start of the stream; the next one shows the format.
            Head::Broken(_) => {
                ahead.consume(2);
                offset += 2;
                continue;
            }
            Head::More => {}
        }
        if ahead.is_full() {
            if ahead.len() >= JPEG_PROBE_BYTES_MAX {
                return Err(Fault::Stream("no JPEG frame header within 4 MiB".to_owned()));
            }
            ahead.grow(ahead.len() * 2);
        }
        match ahead.fill(source)? {
            ReadOutcome::Some(_) => {}
            ReadOutcome::Idle => return Ok(Opened::Idle),
            ReadOutcome::End => return Ok(Opened::End),
        }
    }
}
