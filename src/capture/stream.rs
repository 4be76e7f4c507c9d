//! Splits a stream of bytes into frames: shared by `file:`, `exec:` and ffmpeg.
//!
//! Pure except for the [`Bytes`] below it. One frame at a time, resumable at any byte: a pipe that pauses inside a header is continued
//! there. Never keeps a raw frame (its bytes go straight into the caller's buffer); an MJPEG frame is collected first, because only its end
//! determines its length. No heap calls after [`Framer::open`] except for error texts.

mod start;

use std::time::Duration;

use super::mjpeg_stream::{Head, Scan, SizeWatch, Splitter, jpeg_head};
use super::rate::FrameRate;
use super::{CaptureParams, ColorOverride, Filled, nut, y4m};
use crate::base::error::{Error, Kind, Result};
use crate::base::limits::{FRAME_BYTES_MAX, Y4M_HEADER_BYTES_MAX};
use crate::capture::frame::{FrameFormat, PixelFormat};
use crate::platform::clock::Mono;
use start::{detect_start, open_mjpeg, open_nut, open_y4m};

/// Largest JPEG of a stream, bytes: about the size at best quality and the largest sides.
const JPEG_BYTES_MAX: usize = 32 << 20;
const _: () = assert!(JPEG_BYTES_MAX <= FRAME_BYTES_MAX);

/// Result of a read or skip of [`Bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// This many bytes, at least one.
    Some(usize),
    /// None within the owner's time limit.
    Idle,
    /// The stream has ended.
    End,
}

/// A source of bytes. Its owner decides how long it waits.
pub(super) trait Bytes {
    /// Reads at least one byte into the start of `buffer`, which is not empty.
    fn read(&mut self, buffer: &mut [u8]) -> Result<ReadOutcome>;
    /// Skips at least one and at most `most` bytes; `most` is not 0.
    fn skip(&mut self, most: u64) -> Result<ReadOutcome>;
    /// Bytes left, if known.
    fn remaining(&self) -> Option<u64>;
    /// Time of the last read.
    fn now(&self) -> Mono;
}

/// An error inside a stream.
#[derive(Debug)]
pub(super) enum Fault {
    /// Reading failed.
    Source(Error),
    /// This frame is bad, the next may be good.
    Frame(String),
    /// The rest of the stream cannot be read.
    Stream(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Source(error)
    }
}

/// Result of [`Framer::advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A frame, whose first bytes came at this time.
    Frame(Mono),
    /// Nothing yet.
    Idle,
    /// The end; with the partial frame, if there was one. Returned again by every further call, then without the partial frame.
    End(Option<Half>),
}

/// The length of a frame that ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Half {
    /// Bytes present.
    pub(super) have: u64,
    /// Bytes needed, if known.
    pub(super) need: Option<usize>,
}

impl std::fmt::Display for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.need {
            Some(need) => write!(f, "{} of {need} bytes", self.have),
            None => write!(f, "{} bytes, its end is missing", self.have),
        }
    }
}

/// Bytes that were read and not used yet, in a buffer of fixed size.
struct Ahead {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    arrived: Mono,
}

impl Ahead {
    fn new(bytes: usize) -> Self {
        Ahead { buffer: vec![0; bytes].into_boxed_slice(), start: 0, end: 0, arrived: Mono::ZERO }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    fn is_full(&self) -> bool {
        self.len() == self.buffer.len()
    }

    fn consume(&mut self, count: usize) {
        self.start += count.min(self.len());
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Reads more after the existing bytes; there must be space.
    fn fill(&mut self, source: &mut impl Bytes) -> Result<ReadOutcome> {
        if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let got = source.read(&mut self.buffer[self.end..])?;
        if let ReadOutcome::Some(count) = got {
            self.end += count;
            self.arrived = source.now();
        }
        Ok(got)
    }

    fn grow(&mut self, bytes: usize) {
        if bytes > self.buffer.len() {
            let mut larger = Ahead::new(bytes);
            larger.end = self.len();
            larger.buffer[..larger.end].copy_from_slice(self.bytes());
            larger.arrived = self.arrived;
            *self = larger;
        }
    }
}

/// The format of the stream.
enum Layout {
    Raw,
    Y4m,
    Mjpeg(Splitter),
    Nut(Box<nut::Demuxer>),
}

/// The expected format, before the stream is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// yuv4mpeg.
    Y4m,
    /// JPEGs.
    Mjpeg,
    /// Raw frames of this layout; the size comes from the parameters.
    Raw(PixelFormat),
    /// NUT with raw I420 frames.
    Nut,
    /// Detected from the first bytes: yuv4mpeg, JPEGs, or else the raw layout, if given.
    Detect(Option<PixelFormat>),
}

/// State of the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between frames, or inside a header.
    Between,
    /// A frame was announced and none of its payload was read.
    Announced,
    /// This many bytes are to be skipped.
    Skipping(u64),
    /// At the end.
    Ended,
}

/// Splits a stream into frames.
pub(super) struct Framer {
    layout: Layout,
    format: FrameFormat,
    /// State at the first frame, for another pass.
    first_format: FrameFormat,
    color: ColorOverride,
    sizes: SizeWatch,
    /// The rows of the first frame were checked, see [`likely_row_bytes`].
    rows_checked: bool,
    /// Frame rate from the stream itself.
    rate: Option<FrameRate>,
    /// Presentation time of the announced frame, if the stream has them.
    pts: Option<Duration>,
    /// Payload bytes of the announced frame; fixed for raw frames.
    need: usize,
    ahead: Ahead,
    state: State,
    /// Arrival time of the first byte of the next frame.
    first_byte: Option<Mono>,
    /// Stream offset, bytes.
    offset: u64,
}

impl Framer {
    /// Reads enough of the stream to know its format. `what` names the source in errors. `Ok(None)`: no bytes came in time.
    ///
    /// # Errors
    /// `Fault::Stream` with the remedy if the format is not supported.
    pub(super) fn open(
        source: &mut impl Bytes,
        expect: Expect,
        params: &CaptureParams,
        what: &str,
    ) -> std::result::Result<Opened, Fault> {
        let mut ahead = Ahead::new(Y4M_HEADER_BYTES_MAX);
        let (expect, skipped) = match expect {
            Expect::Detect(_) | Expect::Y4m => match detect_start(&mut ahead, source, expect)? {
                Ok(found) => found,
                Err(opened) => return Ok(opened),
            },
            Expect::Mjpeg | Expect::Raw(_) | Expect::Nut => (expect, 0),
        };
        let opened = match expect {
            Expect::Raw(pixel) => {
                let format = params.raw_format(pixel, what)?;
                Ok(Opened::Yes(Self::with(Layout::Raw, (format, params.color), None, ahead)))
            }
            Expect::Y4m => open_y4m(source, ahead, params),
            Expect::Nut => open_nut(source, ahead, params),
            Expect::Mjpeg | Expect::Detect(_) => open_mjpeg(source, ahead, params),
        };
        opened.map(|mut opened| {
            if let Opened::Yes(framer) = &mut opened {
                framer.offset += skipped;
            }
            opened
        })
    }

    fn with(
        layout: Layout,
        (format, color): (FrameFormat, ColorOverride),
        rate: Option<FrameRate>,
        ahead: Ahead,
    ) -> Self {
        Framer {
            layout,
            format,
            first_format: format,
            color,
            sizes: SizeWatch::default(),
            rows_checked: false,
            rate,
            pts: None,
            need: format.frame_bytes().unwrap_or(0),
            ahead,
            state: State::Between,
            first_byte: None,
            offset: 0,
        }
    }

    /// Bytes of the announced frame.
    pub(super) fn announced_bytes(&self) -> Option<usize> {
        (self.state == State::Announced).then_some(self.need)
    }

    /// The current format of the frames. A stream may change its size.
    pub(super) fn format(&self) -> &FrameFormat {
        &self.format
    }

    /// The stream's frame rate: `None` if it has none; 25 for MJPEG, which cannot contain one.
    pub(super) fn rate(&self) -> Option<FrameRate> {
        match self.layout {
            Layout::Raw | Layout::Y4m | Layout::Nut(_) => self.rate,
            Layout::Mjpeg(_) => Some(FrameRate::whole(25)),
        }
    }

    /// Presentation time of the announced frame: since the stream's zero, if it has such times.
    pub(super) fn pts(&self) -> Option<Duration> {
        self.pts
    }

    /// Bytes consumed since the start or the last [`Framer::rewound`].
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The source was rewound to `offset`, the start of a frame.
    pub(super) fn rewound(&mut self, offset: u64) {
        self.ahead.clear();
        self.state = State::Between;
        self.first_byte = None;
        self.offset = offset;
        self.set_format(self.first_format);
        if let Layout::Mjpeg(splitter) = &mut self.layout {
            splitter.restart();
        }
    }

    fn set_format(&mut self, format: FrameFormat) {
        self.format = format;
        self.need = format.frame_bytes().unwrap_or(0);
    }

    /// Skips unread bytes and looks for the next frame.
    pub(super) fn advance(&mut self, source: &mut impl Bytes) -> std::result::Result<Next, Fault> {
        if self.state == State::Announced {
            self.state = State::Skipping(self.need as u64);
        }
        if let State::Skipping(left) = self.state {
            match self.drop_payload(source, left)? {
                ReadOutcome::Some(_) => self.state = State::Between,
                ReadOutcome::Idle => return Ok(Next::Idle),
                ReadOutcome::End => {
                    let State::Skipping(left) = self.state else { return Ok(Next::End(None)) };
                    let have = (self.need as u64).saturating_sub(left);
                    return Ok(self.end(Some(Half { have, need: Some(self.need) })));
                }
            }
        }
        if self.state == State::Ended {
            return Ok(Next::End(None));
        }
        if self.first_byte.is_none() && self.ahead.len() > 0 {
            self.first_byte = Some(self.ahead.arrived);
        }
        let next = match self.layout {
            Layout::Raw => self.advance_raw(source),
            Layout::Y4m => self.advance_y4m(source),
            Layout::Mjpeg(_) => self.advance_mjpeg(source),
            Layout::Nut(_) => self.advance_nut(source),
        };
        match &next {
            Ok(Next::Frame(_)) => self.state = State::Announced,
            Err(Fault::Stream(_)) => self.state = State::Ended,
            Ok(Next::Idle | Next::End(_)) | Err(Fault::Source(_) | Fault::Frame(_)) => {}
        }
        next
    }

    /// Copies the announced frame. Waits for it as long as `source` does; `ReadOutcome::Idle` from it is a fault here.
    pub(super) fn read_into(
        &mut self,
        source: &mut impl Bytes,
        buffer: &mut [u8],
    ) -> std::result::Result<Read, Fault> {
        if self.state != State::Announced {
            return Err(Fault::Frame("no frame was announced".to_owned()));
        }
        let need = self.need;
        if buffer.len() < need {
            return Err(Fault::Frame(format!(
                "a frame of {need} bytes, but a buffer of only {}",
                buffer.len()
            )));
        }
        let target = &mut buffer[..need];
        let ready = self.ahead.len().min(need);
        target[..ready].copy_from_slice(&self.ahead.bytes()[..ready]);
        self.use_up(ready);
        let mut have = ready;
        while have < need {
            self.state = State::Skipping((need - have) as u64);
            match source.read(&mut target[have..])? {
                ReadOutcome::Some(count) => {
                    have += count;
                    self.offset += count as u64;
                }
                ReadOutcome::Idle => return Ok(Read::Late(Half { have: have as u64, need: Some(need) })),
                ReadOutcome::End => {
                    self.state = State::Ended;
                    return Ok(Read::Cut(Half { have: have as u64, need: Some(need) }));
                }
            }
        }
        self.state = State::Between;
        if !std::mem::replace(&mut self.rows_checked, true) && matches!(self.layout, Layout::Raw) {
            self.check_rows(target);
        }
        Ok(Read::Whole(Filled { format: self.format, bytes_used: need }))
    }

    /// Warns if the rows of the first raw frame are padded and the settings do not mention it.
    fn check_rows(&self, frame: &[u8]) {
        let have = self.format.row_bytes as usize;
        if let Some(likely) = likely_row_bytes(frame, have) {
            tracing::warn!(
                "the picture of raw {} looks slanted: its rows seem to have {likely} bytes, not {have}: set camera.row_bytes = \
                 {likely}, or camera.width right",
                self.format
            );
        }
    }

    fn use_up(&mut self, count: usize) {
        self.ahead.consume(count);
        self.offset += count as u64;
        self.first_byte = None;
    }

    /// Skips `left` bytes of payload and remembers the progress. `ReadOutcome::Some` when all are skipped.
    fn drop_payload(&mut self, source: &mut impl Bytes, mut left: u64) -> Result<ReadOutcome> {
        let ready = usize::try_from(left).unwrap_or(usize::MAX).min(self.ahead.len());
        self.use_up(ready);
        left -= ready as u64;
        self.state = State::Skipping(left);
        while left > 0 {
            match source.skip(left)? {
                ReadOutcome::Some(count) => {
                    left -= (count as u64).min(left);
                    self.offset += count as u64;
                    self.state = State::Skipping(left);
                }
                ReadOutcome::Idle => return Ok(ReadOutcome::Idle),
                ReadOutcome::End => return Ok(ReadOutcome::End),
            }
        }
        Ok(ReadOutcome::Some(1))
    }

    /// The end; the first call includes the partial frame.
    fn end(&mut self, half: Option<Half>) -> Next {
        self.state = State::Ended;
        self.ahead.clear();
        Next::End(half.filter(|half| half.have > 0))
    }

    /// Reads more; `Some` if the caller has to return for now.
    fn more(&mut self, source: &mut impl Bytes, need: Option<usize>) -> Result<Option<Next>> {
        Ok(match self.ahead.fill(source)? {
            ReadOutcome::Some(_) => {
                self.first_byte.get_or_insert(self.ahead.arrived);
                None
            }
            ReadOutcome::Idle => Some(Next::Idle),
            ReadOutcome::End => {
                let have = self.ahead.len() as u64;
                Some(self.end(Some(Half { have, need })))
            }
        })
    }

    /// Whether a payload of `need` bytes can still be complete, if known.
    fn cut_short(&self, source: &impl Bytes) -> Option<Half> {
        let have = source.remaining()? + self.ahead.len() as u64;
        (have < self.need as u64).then_some(Half { have, need: Some(self.need) })
    }

    fn announce(&mut self, source: &impl Bytes) -> Next {
        if let Some(half) = self.cut_short(source) {
            return self.end(Some(half));
        }
        let arrived = self.first_byte.unwrap_or_else(|| source.now());
        Next::Frame(arrived)
    }

    fn advance_raw(&mut self, source: &mut impl Bytes) -> std::result::Result<Next, Fault> {
        // A file knows its remaining length without being read; a pipe only shows its first bytes.
        if source.remaining().is_none()
            && self.ahead.len() == 0
            && let Some(give_up) = self.more(source, Some(self.need))?
        {
            return Ok(give_up);
        }
        Ok(self.announce(source))
    }

    fn advance_y4m(&mut self, source: &mut impl Bytes) -> std::result::Result<Next, Fault> {
        loop {
            let bytes = self.ahead.bytes();
            let line = bytes.iter().position(|&b| b == b'\n');
            let begins = |magic: &[u8]| {
                let known = bytes.len().min(magic.len());
                bytes[..known] == magic[..known]
            };
            let plausible = begins(y4m::FRAME_MAGIC) || begins(y4m::STREAM_MAGIC);
            if let Some(length) = line.filter(|_| begins(y4m::STREAM_MAGIC)) {
                // Another stream follows, as in `cat a.y4m b.y4m`.
                let header = y4m::parse_stream_header(&bytes[..length], self.color)
                    .map_err(|why| Fault::Stream(format!("damaged at byte {}: {why}", self.offset)))?;
                self.use_up(length + 1);
                self.set_format(header.format);
                continue;
            }
            if let Some(length) = line {
                y4m::check_frame_header(&bytes[..length])
                    .map_err(|why| Fault::Stream(format!("damaged at byte {}: {why}", self.offset)))?;
                let first_byte = self.first_byte;
                self.use_up(length + 1);
                self.first_byte = first_byte;
                let next = self.announce(source);
                self.first_byte = None;
                return Ok(next);
            }
            if !plausible || self.ahead.is_full() {
                let start = &bytes[..bytes.len().min(16)];
                return Err(Fault::Stream(format!(
                    "damaged at byte {}: '{}' instead of FRAME",
                    self.offset,
                    start.escape_ascii()
                )));
            }
            if let Some(give_up) = self.more(source, None)? {
                return Ok(give_up);
            }
        }
    }

    fn advance_nut(&mut self, source: &mut impl Bytes) -> std::result::Result<Next, Fault> {
        loop {
            let Layout::Nut(demuxer) = &mut self.layout else {
                return Err(Fault::Stream("not NUT".to_owned()));
            };
            let step = demuxer
                .next(self.ahead.bytes())
                .map_err(|why| Fault::Stream(format!("damaged at byte {}: {why}", self.offset)))?;
            match step {
                nut::Step::Frame { bytes, .. } if bytes != self.need as u64 => {
                    // Without a scaler at its end ffmpeg's graph follows the stream; the header does not.
                    return Err(Fault::Stream(format!(
                        "of another shape than before: a frame of {bytes} bytes after frames of {}",
                        self.need
                    )));
                }
                nut::Step::Frame { used, at, .. } => {
                    let first_byte = self.first_byte;
                    self.use_up(used);
                    (self.first_byte, self.pts) = (first_byte, Some(at));
                    let next = self.announce(source);
                    self.first_byte = None;
                    return Ok(next);
                }
                nut::Step::Passed { used } | nut::Step::Stream { used, .. } => {
                    self.use_up(used);
                    self.first_byte = (self.ahead.len() > 0).then_some(self.ahead.arrived);
                }
                nut::Step::More => {
                    if let Some(give_up) = self.more(source, None)? {
                        return Ok(give_up);
                    }
                }
            }
        }
    }

    fn advance_mjpeg(&mut self, source: &mut impl Bytes) -> std::result::Result<Next, Fault> {
        loop {
            let Layout::Mjpeg(splitter) = &mut self.layout else {
                return Err(Fault::Stream("not MJPEG".to_owned()));
            };
            match splitter.scan(self.ahead.bytes()) {
                Scan::Frame(length) => {
                    if let Err(why) = self.check_jpeg(length) {
                        self.use_up(length);
                        return Err(Fault::Frame(why));
                    }
                    self.need = length;
                    let arrived = self.first_byte.take().unwrap_or_else(|| source.now());
                    return Ok(Next::Frame(arrived));
                }
                Scan::Skip(count) => self.use_up(count),
                Scan::Broken(count, why) => {
                    self.use_up(count);
                    return Err(Fault::Frame(format!("not a JPEG before byte {}: {why}", self.offset)));
                }
                Scan::More if self.ahead.is_full() && self.ahead.len() < JPEG_BYTES_MAX => {
                    self.ahead.grow((self.ahead.len() * 2).min(JPEG_BYTES_MAX));
                }
                Scan::More if self.ahead.is_full() => {
                    splitter.restart();
                    // After its start, so that the search for the next one continues behind it.
                    let most = self.ahead.len();
                    self.use_up(most.min(2));
                    return Err(Fault::Frame(format!("a JPEG of more than {most} bytes")));
                }
                Scan::More => {
                    let ends_here = splitter.ends_here();
                    match self.ahead.fill(source)? {
                        ReadOutcome::Some(_) => {
                            self.first_byte.get_or_insert(self.ahead.arrived);
                        }
                        ReadOutcome::Idle => return Ok(Next::Idle),
                        ReadOutcome::End if ends_here => return self.last_jpeg(source),
                        ReadOutcome::End => {
                            let have = self.ahead.len() as u64;
                            return Ok(self.end(Some(Half { have, need: None })));
                        }
                    }
                }
            }
        }
    }

    /// The stream has ended, and its last JPEG has no EOI: perhaps nothing else is missing.
    fn last_jpeg(&mut self, source: &impl Bytes) -> std::result::Result<Next, Fault> {
        let length = self.ahead.len();
        if let Layout::Mjpeg(splitter) = &mut self.layout {
            splitter.restart();
        }
        if let Err(why) = self.check_jpeg(length) {
            self.use_up(length);
            return Err(Fault::Frame(why));
        }
        self.need = length;
        Ok(Next::Frame(self.first_byte.take().unwrap_or_else(|| source.now())))
    }

    /// Whether the first `length` bytes are a JPEG of the stream's size. A lasting new size becomes the stream's size.
    fn check_jpeg(&mut self, length: usize) -> std::result::Result<(), String> {
        let info = match jpeg_head(&self.ahead.bytes()[..length]) {
            Head::Info(info) => info,
            Head::More => return Err("a JPEG without a frame header".to_owned()),
            Head::Broken(why) => return Err(format!("not a JPEG: {why}")),
        };
        let size = (self.format.width, self.format.height);
        let found = (info.width, info.height);
        if self.sizes.has_changed(size, found) {
            self.format = info.format(self.color)?;
            tracing::info!(
                "the stream changed its picture size to {}x{}, from {}x{}",
                found.0,
                found.1,
                size.0,
                size.1
            );
        } else if found != size {
            return Err(format!("a JPEG of {}x{} in a stream of {}x{}", found.0, found.1, size.0, size.1));
        }
        Ok(())
    }
}

/// The row length that a raw frame seems to have, if not `have`: drivers pad rows to certain multiples, and with the right length
/// neighbouring rows are far more alike. A frame that is read with the wrong length looks slanted.
pub(super) fn likely_row_bytes(frame: &[u8], have: usize) -> Option<usize> {
    /// Number of rows that are compared.
    const ROWS: usize = 64;
    /// Below this mean difference nothing is slanted, or the picture has no visible content.
    const DIFFERENCE_MIN: f64 = 4.0;
    let difference = |distance: usize| {
        let count = (ROWS * have).min(frame.len().saturating_sub(distance));
        let sum: u64 = frame[..count]
            .iter()
            .zip(&frame[frame.len().min(distance)..])
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        sum as f64 / count.max(1) as f64
    };
    let now = difference(have);
    let padded = [16, 32, 64, 128, 256].map(|step| have.next_multiple_of(step));
    let best = padded
        .into_iter()
        .filter(|&row| row > have)
        .min_by(|a, b| difference(*a).total_cmp(&difference(*b)))?;
    (now > DIFFERENCE_MIN && difference(best) * 2.0 < now).then_some(best)
}

/// Result of [`Framer::read_into`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// The complete frame.
    Whole(Filled),
    /// The stream ends inside it.
    Cut(Half),
    /// The rest did not arrive in time.
    Late(Half),
}

/// Result of [`Framer::open`].
pub(super) enum Opened {
    /// The format is known.
    Yes(Framer),
    /// No (more) bytes in time.
    Idle,
    /// The stream ended before its format was known.
    End,
}

/// An error about a named source.
pub(super) fn named(make: fn(Kind, String) -> Error, what: &str, text: &str) -> Error {
    make(Kind::Source, format!("{what}: {text}"))
}

#[cfg(test)]
mod tests;
