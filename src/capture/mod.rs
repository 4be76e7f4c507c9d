//! Sources of frames. One trait; each kind of source has its own file.
//!
//! A source announces a frame ([`FrameSource::advance`]) before its bytes are read ([`FrameSource::read_into`]): frames that the sampler
//! does not want are skipped without being converted, decoded or copied (I2).
//!
//! ```text
//! SourceSpec::parse ─► open ─┬─ dir:     dir.rs ──► picture.rs
//!                            ├─ v4l2:    v4l2/ (frames are lent)
//!                            ├─ file:    file.rs ─┐
//!                            ├─ exec:    exec.rs ─┴► stream.rs ──► y4m.rs, mjpeg_stream.rs, nut.rs (pure)
//!                            │           child.rs, command.rs      rate.rs (numbers and stamps)
//!                            └─ rtsp://…, x.mp4: ffmpeg.rs ──► exec.rs, pts.rs (when the frames of a live stream were taken)
//! ```
//!
//! A source never restarts itself: after `Class::Retry` its owner drops it and opens it again, with the back-off of [`CaptureParams`].

pub mod child;
pub mod command;
pub mod dir;
pub mod exec;
pub mod ffmpeg;
pub mod file;
pub mod frame;
pub mod mjpeg_stream;
pub mod nut;
pub mod picture;
pub mod pts;
pub mod rate;
pub mod ring;
pub mod sampler;
mod stream;
pub mod v4l2;
pub mod y4m;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::mask::masked;
use crate::base::stop::Stop;
use crate::capture::frame::{Color, ColorMatrix, ColorRange, FrameFormat, FrameMeta, Lease, PixelFormat};
use crate::platform::clock::Clock;

pub use rate::FrameRate;

/// Result of [`FrameSource::advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// A frame is available: its number and when it was taken (`bytes_used` is not known yet and 0).
    Frame(FrameMeta),
    /// No frame within the given time. The caller may ask again at once.
    Idle,
    /// The recording is over, and stays over. Live sources never return this.
    End,
}

/// A frame that was copied into the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// The frame's own format: pictures of a folder may differ from one to the next.
    pub format: FrameFormat,
    /// Valid bytes at the start of the buffer.
    pub bytes_used: usize,
}

/// Buffers that a source lends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lending {
    /// Number of buffers.
    pub buffers: usize,
    /// Bytes of each buffer.
    pub bytes: usize,
}

/// A camera, a file, a folder, an external program, a simulated street.
///
/// Errors: `Class::Degrade` costs this frame (corrupt: counted, continue), `Class::Retry` means that the source is gone and must be dropped
/// and opened again, `Class::Fatal` that retrying cannot help.
pub trait FrameSource: Send {
    /// Upper bound for the frames that follow; determines the size of the ring's slots and the decoder. A stream may change its size:
    /// readers ask again after each frame. A folder's pictures may differ: then it is as wide as the widest and as high as the highest, and
    /// MJPEG if one of them is to be decoded.
    fn format(&self) -> &FrameFormat;

    /// Bytes of the announced frame, where they are known before it is read: it may be larger than a slot.
    fn announced_bytes(&self) -> Option<usize> {
        None
    }

    /// Bytes of a ring slot for a usual frame of this source.
    fn slot_bytes(&self) -> usize {
        self.format().slot_bytes()
    }

    /// Whether frames can be read in place: then [`FrameSource::lend`] returns them, nothing is copied, and ring slots need no memory.
    fn lending(&self) -> Option<Lending> {
        None
    }

    /// The announced frame in place; once per frame, and only from a source that is [`FrameSource::lending`].
    ///
    /// # Errors
    /// See the trait; also if none is announced or the source does not lend (`Class::Degrade`).
    fn lend(&mut self) -> Result<(Lease, Filled)> {
        Err(Error::degrade(Kind::Source, "this source does not lend frames (a bug: frames must be read)"))
    }

    /// Waits at most `patience` for the next frame and announces it. If the previously announced frame was not read, it is skipped as
    /// cheaply as the source can.
    ///
    /// # Errors
    /// See the trait.
    fn advance(&mut self, patience: Duration) -> Result<Advance>;

    /// Copies the announced frame to the start of `buffer`; once per frame.
    ///
    /// A program's frame is announced when its first bytes are there, and this call then waits for the rest, at most
    /// [`CaptureParams::idle_timeout`]; other sources do not wait.
    ///
    /// # Errors
    /// See the trait; also a frame larger than `buffer`, or none announced (`Class::Degrade`; the buffer then does not contain a frame).
    fn read_into(&mut self, buffer: &mut [u8]) -> Result<Filled>;
}

/// What happens after the last frame of a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtEnd {
    /// [`Advance::End`].
    #[default]
    Stop,
    /// Starts again with the first frame; numbers and times continue. (A program is opened again by the source's owner.)
    Loop,
}

/// What a frame's capture time means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timing {
    /// Stream time: the moment of opening + frame number / frame rate, exactly, however fast the frames are read.
    #[default]
    Recording,
    /// Clock time: when the frame's first bytes arrived. Files and folders are paced to their frame rate, so that they can replace a
    /// camera. A live program that ends is an error (`Class::Retry`), not an end.
    Live,
}

/// Colour settings that override the stream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ColorOverride {
    /// The luma weights.
    pub matrix: Option<ColorMatrix>,
    /// The code range.
    pub range: Option<ColorRange>,
}

impl ColorOverride {
    /// `guess`, with the fields that are set replaced.
    pub fn apply(self, guess: Color) -> Color {
        Color { matrix: self.matrix.unwrap_or(guess.matrix), range: self.range.unwrap_or(guess.range) }
    }
}

/// How a source is opened.
#[derive(Debug, Clone)]
pub struct CaptureParams {
    /// Pixels per row; needed only for raw frames, whose stream does not contain it.
    pub width: Option<u32>,
    /// Rows; as `width`.
    pub height: Option<u32>,
    /// How raw frames lie in memory; files also tell by their extension.
    pub pixel: Option<PixelFormat>,
    /// Bytes from a row of a raw frame to the next, for programs that pad rows; `None`: as many as the width needs.
    pub row_bytes: Option<u32>,
    /// Frames per second. Needed for raw recordings; for yuv4mpeg it overrides the header (time lapse); default 25 for MJPEG and 1 for
    /// folders.
    pub fps: Option<FrameRate>,
    /// Colour settings that override the stream's.
    pub color: ColorOverride,
    /// For streams and compressed recordings.
    pub stream: ffmpeg::Params,
    /// V4L2 controls, in the order in which they are set.
    pub controls: Vec<v4l2::Setting>,
    /// The camera that was opened first, for all later openings with (clones of) these settings.
    pub pinned: v4l2::PinnedDevice,
    /// What happens after the last frame.
    pub at_end: AtEnd,
    /// What capture times mean.
    pub timing: Timing,
    /// Longest silence of a program, and longest time for the rest of a frame that began, before it counts as failed.
    pub idle_timeout: Duration,
    /// For the owner of the source: delay before the first attempt to open it again.
    pub restart_first: Duration,
    /// For the owner of the source: the delay doubles up to this.
    pub restart_cap: Duration,
    /// For cameras: the longer side of the model's input; a picture at least that long is large enough.
    pub serve_side: u32,
    /// For cameras: frames per second that are processed; `fps` takes precedence.
    pub serve_fps: f32,
    /// Ends waits early at shutdown.
    pub stop: Stop,
}

impl Default for CaptureParams {
    /// A recording that describes itself, played once; 10 s of patience; restarts after 1 s to 60 s.
    fn default() -> Self {
        CaptureParams {
            width: None,
            height: None,
            pixel: None,
            row_bytes: None,
            fps: None,
            color: ColorOverride::default(),
            stream: ffmpeg::Params::default(),
            controls: Vec::new(),
            pinned: v4l2::PinnedDevice::default(),
            at_end: AtEnd::Stop,
            timing: Timing::Recording,
            idle_timeout: Duration::from_secs(10),
            restart_first: Duration::from_secs(1),
            restart_cap: Duration::from_secs(60),
            serve_side: 640,
            serve_fps: 6.0,
            stop: Stop::new(),
        }
    }
}

impl CaptureParams {
    /// The format of raw frames of that layout.
    ///
    /// Colour, unless set: packed 4:2:2 comes from USB cameras (BT.601, limited), 4:2:0 from video (by its size, limited),
    /// RGB and grey are full range.
    ///
    /// # Errors
    /// Fatal: sides missing, out of range, or odd; rows shorter than the width.
    pub(crate) fn raw_format(&self, pixel: PixelFormat, what: &str) -> Result<FrameFormat> {
        let (Some(width), Some(height)) = (self.width, self.height) else {
            return Err(Error::fatal(
                Kind::Config,
                format!("{what}: raw {pixel} frames have no header: set width and height"),
            ));
        };
        let guess = match pixel {
            PixelFormat::Yuyv | PixelFormat::Uyvy => Color::default(),
            PixelFormat::Nv12 | PixelFormat::I420 => Color::guess_for_video(width, height),
            PixelFormat::Grey | PixelFormat::Rgb24 | PixelFormat::Mjpeg => Color::JPEG,
        };
        let wrong =
            |key: &str, error| Error::fatal(Kind::Config, format!("{what}: correct {key}")).caused_by(error);
        let packed = FrameFormat::packed(pixel, width, height, self.color.apply(guess))
            .map_err(|error| wrong("width and height", error))?;
        let format = FrameFormat { row_bytes: self.row_bytes.unwrap_or(packed.row_bytes), ..packed };
        format.check().map_err(|error| wrong("camera.row_bytes", error))?;
        Ok(format)
    }
}

/// What [`SourceSpec::parse`] knows, for messages.
const SCHEMES: &str = "v4l2:DEVICE (or /dev/videoN), rtsp://, rtsps://, srt://, http://, https://, udp://, a recording \
    (file:FILE, or street.mp4, x.y4m), exec:COMMAND, dir:FOLDER, sim:SCENE";

/// A parsed source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// A folder of pictures.
    Dir(PathBuf),
    /// A recording of raw frames or JPEGs.
    File(PathBuf),
    /// A program that writes frames to its standard output.
    Exec(String),
    /// A stream or a compressed recording, which ffmpeg reads.
    Ffmpeg(ffmpeg::Input),
    /// A camera of the kernel.
    V4l2(PathBuf),
    /// A simulated scene.
    Sim(String),
}

impl SourceSpec {
    /// Parses what people type: `dir:PATH`, `file:PATH`, `exec:COMMAND`, `v4l2:PATH`, `/dev/...`, `sim:SCENE`, a stream's address, or the
    /// path of a recording. Accesses no disk.
    ///
    /// # Errors
    /// Fatal, `Kind::Config`: an unknown scheme or nothing after it; the text lists the schemes.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.starts_with("/dev/") {
            return Ok(SourceSpec::V4l2(text.into()));
        }
        let refuse =
            |why: String| Err(Error::fatal(Kind::Config, format!("source '{}': {why}", masked(text))));
        if let Some(address) = ffmpeg::Input::address(text) {
            return address.map(SourceSpec::Ffmpeg).or_else(refuse);
        }
        let (scheme, rest) = text.split_once(':').unwrap_or_default();
        let rest = rest.trim();
        let is_known = matches!(scheme, "dir" | "file" | "exec" | "v4l2" | "sim");
        if is_known && rest.is_empty() {
            return refuse(format!("nothing after the colon: there are {SCHEMES}"));
        }
        match scheme {
            "dir" => Ok(SourceSpec::Dir(rest.into())),
            "file" => Ok(SourceSpec::recording(rest)),
            "exec" => Ok(SourceSpec::Exec(rest.to_owned())),
            "v4l2" => Ok(SourceSpec::V4l2(rest.into())),
            "sim" => Ok(SourceSpec::Sim(rest.to_owned())),
            _ if !text.contains("://") && file::is_recording(Path::new(text)) => {
                Ok(SourceSpec::recording(text))
            }
            "" => refuse(format!("no scheme: is file:{text} or dir:{text} meant? There are {SCHEMES}")),
            "rtmp" | "rtmps" | "rtp" | "tcp" => refuse(format!(
                "this protocol is read through a program: exec:ffmpeg -v error -i '{scheme}:...' -f yuv4mpegpipe -pix_fmt yuv420p -"
            )),
            _ => refuse(format!("unknown scheme '{scheme}': there are {SCHEMES}")),
        }
    }

    /// A recording, read by ourselves or through ffmpeg.
    fn recording(path: &str) -> Self {
        if ffmpeg::Input::is_compressed(Path::new(path)) {
            SourceSpec::Ffmpeg(ffmpeg::Input::File(path.into()))
        } else {
            SourceSpec::File(path.into())
        }
    }

    /// The file that is read, if it is a recording.
    pub fn recording_path(&self) -> Option<&Path> {
        match self {
            SourceSpec::File(path) | SourceSpec::Ffmpeg(ffmpeg::Input::File(path)) => Some(path),
            SourceSpec::Dir(_)
            | SourceSpec::Exec(_)
            | SourceSpec::Ffmpeg(ffmpeg::Input::Address(_))
            | SourceSpec::V4l2(_)
            | SourceSpec::Sim(_) => None,
        }
    }

    /// Opens the source. Starts a program and waits until its output shows its format (at most [`CaptureParams::idle_timeout`]); reads the
    /// headers of a folder's pictures.
    ///
    /// # Errors
    /// Fatal where retrying cannot help (no such file, wrong format, missing setting), Retry where it may.
    pub fn open(&self, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Box<dyn FrameSource>> {
        Ok(match self {
            SourceSpec::Dir(path) => Box::new(dir::DirSource::open(path, params, clock)?),
            SourceSpec::File(path) => Box::new(file::FileSource::open(path, params, clock)?),
            SourceSpec::Exec(command) => Box::new(exec::ExecSource::open(command, params, clock)?),
            SourceSpec::Ffmpeg(input) => Box::new(ffmpeg::open(input, params, clock)?),
            SourceSpec::V4l2(path) => v4l2::open(path, params, clock)?,
            SourceSpec::Sim(_) => {
                let text = format!(
                    "source '{self}': a simulated street cannot be opened as a camera source (a bug)"
                );
                return Err(Error::fatal(Kind::Config, text));
            }
        })
    }
}

impl fmt::Display for SourceSpec {
    /// As it was written, with passwords in a command masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceSpec::Dir(path) => write!(f, "dir:{}", path.display()),
            SourceSpec::File(path) => write!(f, "file:{}", path.display()),
            SourceSpec::Exec(text) => write!(f, "exec:{}", masked(text)),
            SourceSpec::Ffmpeg(ffmpeg::Input::Address(address)) => write!(f, "{}", masked(address)),
            SourceSpec::Ffmpeg(ffmpeg::Input::File(path)) => write!(f, "file:{}", path.display()),
            SourceSpec::V4l2(path) => write!(f, "v4l2:{}", path.display()),
            SourceSpec::Sim(text) => write!(f, "sim:{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ffmpeg::Input;
    use super::*;
    use crate::base::error::Class;

    #[test]
    fn specs_are_read() {
        for (text, expect) in [
            ("dir:/a b/c", SourceSpec::Dir("/a b/c".into())),
            (" file:x:y.y4m ", SourceSpec::File("x:y.y4m".into())),
            ("exec:ffmpeg -i rtsp://h -", SourceSpec::Exec("ffmpeg -i rtsp://h -".into())),
            ("/dev/video0", SourceSpec::V4l2("/dev/video0".into())),
            ("v4l2:/dev/v4l/by-id/x", SourceSpec::V4l2("/dev/v4l/by-id/x".into())),
            ("sim:day", SourceSpec::Sim("day".into())),
            ("street.mp4", SourceSpec::Ffmpeg(Input::File("street.mp4".into()))),
            ("./a b/x.MKV", SourceSpec::Ffmpeg(Input::File("./a b/x.MKV".into()))),
            ("file:x.ts", SourceSpec::Ffmpeg(Input::File("x.ts".into()))),
            ("2026-11-30T12:00.mp4", SourceSpec::Ffmpeg(Input::File("2026-11-30T12:00.mp4".into()))),
            ("x.y4m", SourceSpec::File("x.y4m".into())),
            ("rtsp://u:p@h/1", SourceSpec::Ffmpeg(Input::Address("rtsp://u:p@h/1".into()))),
            ("http://h/x.mjpg", SourceSpec::Ffmpeg(Input::Address("http://h/x.mjpg".into()))),
        ] {
            assert_eq!(SourceSpec::parse(text).unwrap(), expect);
        }
    }

    #[test]
    fn unknown_specs_are_refused_with_a_list_of_schemes() {
        for (text, words) in [
            ("traffic", "is file:traffic or dir:traffic meant?"),
            ("photos/", "dir:photos/"),
            ("tv:1", "exec:COMMAND, dir:FOLDER"),
            ("ftp://h/x.mp4", "unknown scheme 'ftp'"),
            ("file:", "nothing after"),
            ("", "dir:FOLDER"),
            ("rtmp://u:secret@h/1", "exec:ffmpeg"),
            ("rtsp://", "without a host"),
            ("rtsp://u:secret@h/a b", "%20"),
        ] {
            let error = SourceSpec::parse(text).unwrap_err();
            assert_eq!((error.class(), error.kind()), (Class::Fatal, Kind::Config));
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let spec = SourceSpec::parse("exec:ffmpeg -i rtsp://u:secret@h -").unwrap();
        assert_eq!(spec.to_string(), "exec:ffmpeg -i rtsp://***@h -");
    }
}
