//! `file:` - a recording of yuv4mpeg, concatenated JPEGs or raw frames.
//!
//! Unwanted frames are seeked over, not read (except in MJPEG, where only parsing finds the end of a frame). Never maps the file, never
//! reads it whole into memory, never follows a file that grows.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::ffmpeg::Input;
use super::rate::Timeline;
use super::stream::{Bytes, Expect, Fault, Framer, Next, Opened, Read, ReadOutcome, named};
use super::{Advance, AtEnd, CaptureParams, Filled, FrameSource};
use crate::base::error::{Error, Kind, Result};
use crate::capture::frame::{FrameFormat, PixelFormat};
use crate::platform::clock::{Clock, Mono};

/// A regular file with our own read position: skipping is an addition.
struct FileBytes {
    file: File,
    at: u64,
    length: u64,
}

impl Bytes for FileBytes {
    fn read(&mut self, buffer: &mut [u8]) -> Result<ReadOutcome> {
        loop {
            match self.file.read_at(buffer, self.at) {
                Ok(0) => return Ok(ReadOutcome::End),
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(ReadOutcome::Some(count));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let text = format!("reading at byte {} failed", self.at);
                    return Err(Error::retry(Kind::Source, text).caused_by(error));
                }
            }
        }
    }

    fn skip(&mut self, most: u64) -> Result<ReadOutcome> {
        let count = most.min(self.length.saturating_sub(self.at));
        self.at += count;
        Ok(if count == 0 {
            ReadOutcome::End
        } else {
            ReadOutcome::Some(usize::try_from(count).unwrap_or(usize::MAX))
        })
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.length.saturating_sub(self.at))
    }

    fn now(&self) -> Mono {
        Mono::ZERO
    }
}

/// A recording.
pub struct FileSource {
    what: String,
    bytes: FileBytes,
    framer: Framer,
    timeline: Timeline,
    at_end: AtEnd,
    /// Offset of the first frame, bytes.
    first_frame_at: u64,
    frames_this_pass: u64,
    /// The partial frame or damage at the end of this recording was reported: once is enough, also when it is looped.
    tail_reported: bool,
    over: bool,
}

impl FileSource {
    /// Opens `path`: `.y4m`; `.mjpeg`, `.mjpg`; `.yuv` (I420), `.nv12`, `.yuyv`, `.uyvy`, `.grey`, `.gray`, `.rgb` with the
    /// size in `params`; any other extension as raw frames if `params` names the pixel format.
    ///
    /// # Errors
    /// Fatal with the remedy: missing, not a regular file, none of these formats, no frame rate for a recording.
    pub fn open(path: &Path, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Self> {
        let what = format!("file '{}'", path.display());
        let fatal = |text: &str| named(Error::fatal, &what, text);
        // Checked before opening: opening a FIFO would wait for its writer.
        let kind = std::fs::metadata(path)
            .map_err(|error| fatal("cannot be opened: check the path and its permissions").caused_by(error))?
            .file_type();
        if kind.is_dir() {
            return Err(fatal("is a folder: use dir:"));
        }
        if kind.is_char_device() {
            return Err(fatal("is a device: use v4l2:"));
        }
        if !kind.is_file() {
            return Err(fatal("is not a regular file: use exec:cat FILE"));
        }
        let expect = expect(path, params).map_err(|text| fatal(&text))?;
        let file = File::open(path)
            .map_err(|error| fatal("cannot be opened: check its permissions").caused_by(error))?;
        let length = file.metadata().map_err(|error| fatal("cannot be examined").caused_by(error))?.len();
        let mut bytes = FileBytes { file, at: 0, length };
        let framer = match Framer::open(&mut bytes, expect, params, &what) {
            Ok(Opened::Yes(framer)) => framer,
            Ok(Opened::Idle | Opened::End) if length == 0 => return Err(fatal("is empty")),
            Ok(Opened::Idle | Opened::End) => {
                return Err(fatal(&format!("ends after {length} bytes, before its first frame")));
            }
            Err(Fault::Source(error)) => return Err(error),
            Err(Fault::Stream(text) | Fault::Frame(text)) => return Err(fatal(&text)),
        };
        if let (Expect::Raw(_), Some(need)) = (expect, framer.format().frame_bytes()) {
            let (frames, rest) = (length / need as u64, length % need as u64);
            if rest > 0 {
                tracing::warn!(
                    "{what}: its {length} bytes are {frames} frames of {need} and {rest} more: check camera.width, camera.height, \
                     camera.pixel_format and camera.row_bytes if that is no cut recording"
                );
            }
        }
        let Some(rate) = params.fps.or(framer.rate()) else {
            return Err(Error::fatal(
                Kind::Config,
                format!("{what}: its frame rate is unknown, and speeds and times need it: set fps"),
            ));
        };
        let timeline = Timeline::new(clock, params.stop.clone(), params.timing, rate);
        Ok(FileSource {
            what,
            bytes,
            first_frame_at: framer.offset(),
            framer,
            timeline,
            at_end: params.at_end,
            frames_this_pass: 0,
            tail_reported: false,
            over: false,
        })
    }

    /// The end of the last frame. True if another pass begins.
    fn rewind(&mut self) -> Result<bool> {
        if self.timeline.count() == 0 {
            self.over = true;
            return Err(named(Error::fatal, &self.what, "has no complete frame"));
        }
        // A pass without a frame (the file was truncated meanwhile) must not loop for ever.
        if self.at_end == AtEnd::Stop || self.frames_this_pass == 0 {
            self.over = true;
            return Ok(false);
        }
        self.bytes.at = self.first_frame_at;
        self.framer.rewound(self.first_frame_at);
        self.frames_this_pass = 0;
        Ok(true)
    }

    fn degrade(&self, text: &str) -> Error {
        named(Error::degrade, &self.what, text)
    }
}

impl FrameSource for FileSource {
    fn format(&self) -> &FrameFormat {
        self.framer.format()
    }

    fn announced_bytes(&self) -> Option<usize> {
        self.framer.announced_bytes()
    }

    fn advance(&mut self, patience: Duration) -> Result<Advance> {
        loop {
            if self.over {
                return Ok(Advance::End);
            }
            if !self.timeline.wait_due(patience) {
                return Ok(Advance::Idle);
            }
            match self.framer.advance(&mut self.bytes) {
                Ok(Next::Frame(_)) => {
                    self.frames_this_pass += 1;
                    return Ok(Advance::Frame(self.timeline.stamp_by_rate()));
                }
                Ok(Next::Idle) => return Ok(Advance::Idle),
                Ok(Next::End(Some(half))) if !self.tail_reported => {
                    self.tail_reported = true;
                    let text = format!("the file ends inside frame {}: {half}", self.frames_this_pass);
                    return Err(self.degrade(&text));
                }
                Ok(Next::End(_)) => {
                    self.rewind()?;
                }
                Err(Fault::Source(error)) => return Err(error),
                Err(Fault::Frame(text)) => {
                    let text = format!("frame {}: {text}", self.timeline.count());
                    self.timeline.lost();
                    return Err(self.degrade(&text));
                }
                Err(Fault::Stream(text)) if !self.tail_reported => {
                    self.tail_reported = true;
                    let text = format!("frame {} and the rest: {text}", self.frames_this_pass);
                    return Err(self.degrade(&text));
                }
                Err(Fault::Stream(_)) => {}
            }
        }
    }

    fn read_into(&mut self, buffer: &mut [u8]) -> Result<Filled> {
        match self.framer.read_into(&mut self.bytes, buffer) {
            Ok(Read::Whole(filled)) => Ok(filled),
            Ok(Read::Cut(half) | Read::Late(half)) => {
                self.tail_reported = true;
                Err(self.degrade(&format!("was truncated while it was read: {half}")))
            }
            Err(Fault::Source(error)) => Err(error),
            Err(Fault::Frame(text) | Fault::Stream(text)) => Err(self.degrade(&text)),
        }
    }
}

/// Whether a path without a scheme names a recording, by its extension.
pub(super) fn is_recording(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let own = ["y4m", "mjpeg", "mjpg", "yuv", "nv12", "yuyv", "uyvy", "grey", "gray", "rgb"];
    own.contains(&&*extension) || Input::is_compressed(path)
}

/// The format that the extension stands for.
fn expect(path: &Path, params: &CaptureParams) -> std::result::Result<Expect, String> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let raw = |usual: PixelFormat| Ok(Expect::Raw(params.pixel.unwrap_or(usual)));
    match extension.as_str() {
        "y4m" => Ok(Expect::Y4m),
        "mjpeg" | "mjpg" => Ok(Expect::Mjpeg),
        "yuv" => raw(PixelFormat::I420),
        "nv12" => raw(PixelFormat::Nv12),
        "yuyv" => raw(PixelFormat::Yuyv),
        "uyvy" => raw(PixelFormat::Uyvy),
        "grey" | "gray" => raw(PixelFormat::Grey),
        "rgb" => raw(PixelFormat::Rgb24),
        "jpg" | "jpeg" | "png" => Err("is one picture: use dir: with its folder".to_owned()),
        _ => match params.pixel {
            Some(PixelFormat::Mjpeg) => Ok(Expect::Mjpeg),
            Some(pixel) => Ok(Expect::Raw(pixel)),
            None => Err(format!(
                "'{extension}' is none of y4m, mjpeg, yuv, nv12, yuyv, uyvy, grey, rgb and no video that ffmpeg reads (.mp4, .mkv, .ts \
                 …): set pixel format, width and height of raw frames, or use exec:ffmpeg -v error -i '{}' -f yuv4mpegpipe -pix_fmt \
                 yuv420p -",
                path.display()
            )),
        },
    }
    .map(|expect| if expect == Expect::Raw(PixelFormat::Mjpeg) { Expect::Mjpeg } else { expect })
}

impl std::fmt::Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileSource({})", self.what)
    }
}
