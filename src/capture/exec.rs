//! `exec:` - a program that writes frames to its standard output: yuv4mpeg, JPEGs, or raw frames of the given size. ffmpeg with the arguments
//! of [`super::ffmpeg`] is such a program too, whose frames have their own times.
//!
//! Never restarts the program: its end is an error, after which the owner opens the source again. Errors name the
//! program but not its arguments, which may contain a camera's password.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::child::{Ended, Launch, Program};
use super::pts::{Placed, StreamClock};
use super::rate::{FrameRate, Timeline};
use super::stream::{Expect, Fault, Framer, Half, Next, Opened, Read, named};
use super::{Advance, CaptureParams, Filled, FrameSource, Timing, command};
use crate::base::error::{Error, Kind, Result};
use crate::base::mask::masked;
use crate::capture::frame::{FrameFormat, FrameMeta};
use crate::platform::clock::{Clock, Mono};

/// Where the capture times of a program's frames come from.
#[derive(Debug, Clone)]
pub(super) enum Stamps {
    /// From their number or their arrival, by [`CaptureParams::timing`].
    None,
    /// From their presentation times, in a recording: since the first frame's, which is kept here.
    Recorded(Option<Duration>),
    /// From their presentation times, in a live stream.
    Live(StreamClock),
}

/// What distinguishes one program from another.
pub(super) struct Run<'a> {
    pub(super) launch: Launch<'a>,
    /// What it writes.
    pub(super) expect: Expect,
    pub(super) stamps: Stamps,
    /// Its clean end is the end of the source, even in live timing.
    pub(super) is_finite: bool,
}

/// An external program's frames.
pub struct ExecSource {
    what: String,
    program: Program,
    framer: Framer,
    timeline: Timeline,
    stamps: Stamps,
    is_finite: bool,
    idle_timeout: Duration,
    idle: FrameWait,
    state: State,
}

/// The wait for the next frame. Bytes alone are no sign of life: a program may write for ever without completing a frame.
#[derive(Debug, Clone, Copy, Default)]
struct FrameWait {
    /// Time spent waiting since the last frame, good or damaged. Not the time in which nobody asked for a frame.
    waited: Duration,
    /// What the program had written when the wait began, bytes.
    received: u64,
}

/// State of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// The recording is over.
    Over,
    /// It failed, and this was reported.
    Failed,
}

impl ExecSource {
    /// Starts `line` (split by [`command::split`]) and waits until its output shows the format, at most
    /// [`CaptureParams::idle_timeout`]. If `params` names a raw pixel format, the output is read as that, unless it
    /// begins with a yuv4mpeg header.
    ///
    /// # Errors
    /// Fatal with the remedy: a bad command line, no such program, an unsupported output, no frame rate for a
    /// recording. Retry: it ended or stayed silent.
    pub fn open(line: &str, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Self> {
        let words = command::split(line)
            .map_err(|why| Error::fatal(Kind::Config, format!("exec '{}': {why}", masked(line))))?;
        let name =
            Path::new(&words[0]).file_name().map_or_else(|| words[0].clone(), |n| n.to_string_lossy().into());
        let what = format!("program '{name}'");
        if params.pixel.is_some_and(|pixel| pixel != crate::capture::frame::PixelFormat::Mjpeg) {
            // Its size may come from a yuv4mpeg header, but the settings must be valid.
            if let (Some(pixel), Some(_), Some(_)) = (params.pixel, params.width, params.height) {
                params.raw_format(pixel, &what)?;
            }
        }
        let run = Run {
            launch: Launch {
                words: &words,
                input: None,
                what: &what,
                absent: "is not installed: install it, or write its whole path",
            },
            expect: Expect::Detect(params.pixel),
            stamps: Stamps::None,
            is_finite: params.timing == Timing::Recording,
        };
        Self::start(run, params, clock)
    }

    /// Starts a program and waits until its output shows the format; see [`ExecSource::open`].
    pub(super) fn start(run: Run<'_>, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Self> {
        let what = run.launch.what.to_owned();
        let mut program = Program::start(run.launch, Arc::clone(&clock), params.stop.clone())?;
        program.wait_for(params.idle_timeout);
        let framer = match Framer::open(&mut program, run.expect, params, &what) {
            Ok(Opened::Yes(framer)) => framer,
            Ok(Opened::Idle) => return Err(silent(&what, &mut program, 0, params.idle_timeout)),
            Ok(Opened::End) => {
                let ended = program.ended();
                let bytes = program.received();
                let text =
                    format!("{ended} before its first frame, after {bytes} bytes{}", program.last_words());
                return Err(named(Error::retry, &what, &text));
            }
            Err(Fault::Source(error)) => return Err(error),
            Err(Fault::Stream(text) | Fault::Frame(text)) => {
                // Its message about that may arrive shortly after the output.
                program.ended();
                let text = format!("its output {text}{}", program.last_words());
                return Err(named(Error::fatal, &what, &text));
            }
        };
        let rate = match (params.fps.or(framer.rate()), params.timing) {
            (Some(rate), _) => rate,
            (None, Timing::Live) => FrameRate::whole(25),
            (None, Timing::Recording) if !matches!(run.stamps, Stamps::None) => FrameRate::whole(25),
            (None, Timing::Recording) => {
                return Err(Error::fatal(
                    Kind::Config,
                    format!("{what}: its frame rate is unknown: set fps, or treat it as live"),
                ));
            }
        };
        Ok(ExecSource {
            what,
            program,
            framer,
            timeline: Timeline::new(clock, params.stop.clone(), params.timing, rate),
            stamps: run.stamps,
            is_finite: run.is_finite,
            idle_timeout: params.idle_timeout,
            idle: FrameWait::default(),
            state: State::Running,
        })
    }

    /// Numbers the frame that arrived at `arrived`, and gives it its capture time. `None`: its time cannot be known, so it is no frame.
    fn stamp(&mut self, arrived: Mono) -> Option<FrameMeta> {
        let pts = self.framer.pts().unwrap_or_default();
        match &mut self.stamps {
            Stamps::None => Some(self.timeline.stamp_arrived(arrived)),
            Stamps::Recorded(first) => {
                let first = *first.get_or_insert(pts);
                Some(self.timeline.stamp_since_start(pts.saturating_sub(first)))
            }
            Stamps::Live(clock) => match clock.place(pts, arrived) {
                Placed::At(at) => Some(self.timeline.stamp_at(at)),
                Placed::Unknown => None,
            },
        }
    }

    /// The output has ended, perhaps inside a frame.
    fn ended(&mut self, half: Option<Half>) -> Result<Advance> {
        let ended = self.program.ended();
        let clean = ended == Ended::Status(0) && self.is_finite;
        self.state = if clean { State::Over } else { State::Failed };
        let inside = match half {
            Some(half) => format!(" inside frame {}: {half}", self.timeline.count()),
            None => String::new(),
        };
        if clean && half.is_none() {
            // ffmpeg ends with status 0 also after a lost connection; other programs chat.
            let is_quiet = matches!(self.stamps, Stamps::None);
            let messages = if is_quiet { String::new() } else { self.program.last_words() };
            if !messages.is_empty() {
                tracing::warn!("{}: ended, perhaps too early or with damaged frames{messages}", self.what);
            }
            return Ok(Advance::End);
        }
        let said = if ended == Ended::Running {
            "closed its output and is still running".to_owned()
        } else {
            ended.to_string()
        };
        let text = format!("{said}{inside}{}", self.program.last_words());
        Err(named(if clean { Error::degrade } else { Error::retry }, &self.what, &text))
    }

    fn failed(&mut self, error: Error) -> Error {
        self.state = State::Failed;
        error
    }
}

impl FrameSource for ExecSource {
    fn format(&self) -> &FrameFormat {
        self.framer.format()
    }

    fn announced_bytes(&self) -> Option<usize> {
        self.framer.announced_bytes()
    }

    fn advance(&mut self, patience: Duration) -> Result<Advance> {
        match self.state {
            State::Running => {}
            State::Over => return Ok(Advance::End),
            State::Failed => return Err(named(Error::retry, &self.what, "is gone: open it again")),
        }
        let (begun, received) = (self.program.wait_for(patience), self.program.received());
        let (next, stamp) = loop {
            let next = self.framer.advance(&mut self.program);
            let stamp = if let Ok(Next::Frame(arrived)) = next { self.stamp(arrived) } else { None };
            // One without a time is skipped as one that nobody wants.
            if stamp.is_some() || !matches!(next, Ok(Next::Frame(_))) {
                break (next, stamp);
            }
        };
        if !matches!(next, Ok(Next::Idle)) {
            self.idle = FrameWait::default();
        } else {
            if self.idle.waited.is_zero() {
                // The rest of a skipped frame may arrive in the first of several waits.
                let others_follow = patience < self.idle_timeout;
                self.idle.received = if others_follow { self.program.received() } else { received };
            }
            // A suspended process is no silent program.
            self.idle.waited += self.program.since(begun).min(patience);
        }
        match next {
            Ok(Next::Frame(_)) => Ok(stamp.map_or(Advance::Idle, Advance::Frame)),
            Ok(Next::Idle) if self.idle.waited >= self.idle_timeout => {
                self.state = State::Failed;
                Err(silent(&self.what, &mut self.program, self.idle.received, self.idle_timeout))
            }
            Ok(Next::Idle) => Ok(Advance::Idle),
            Ok(Next::End(half)) => self.ended(half),
            Err(Fault::Source(error)) => Err(self.failed(error)),
            Err(Fault::Frame(text)) => {
                let text = format!("frame {}: {text}", self.timeline.count());
                self.timeline.lost();
                Err(named(Error::degrade, &self.what, &text))
            }
            Err(Fault::Stream(text)) => {
                let text = format!("its output is {text}{}", self.program.last_words());
                Err(self.failed(named(Error::retry, &self.what, &text)))
            }
        }
    }

    fn read_into(&mut self, buffer: &mut [u8]) -> Result<Filled> {
        self.program.wait_for(self.idle_timeout);
        match self.framer.read_into(&mut self.program, buffer) {
            Ok(Read::Whole(filled)) => Ok(filled),
            // The announced frame is already numbered.
            Ok(Read::Cut(half)) => {
                let ended = self.program.ended();
                let clean = ended == Ended::Status(0) && self.is_finite;
                self.state = if clean { State::Over } else { State::Failed };
                let frame = self.timeline.count().saturating_sub(1);
                let text = format!("{ended} inside frame {frame}: {half}{}", self.program.last_words());
                Err(named(if clean { Error::degrade } else { Error::retry }, &self.what, &text))
            }
            Ok(Read::Late(half)) => {
                let text = format!(
                    "the rest of a frame did not arrive within {:?}: {half}{}",
                    self.idle_timeout,
                    self.program.last_words()
                );
                Err(self.failed(named(Error::retry, &self.what, &text)))
            }
            Err(Fault::Source(error)) => Err(self.failed(error)),
            Err(Fault::Frame(text) | Fault::Stream(text)) => Err(named(Error::degrade, &self.what, &text)),
        }
    }
}

/// No frame came in time; `received` is what the program had written when the wait began, bytes.
fn silent(what: &str, program: &mut Program, received: u64, idle_timeout: Duration) -> Error {
    let text = match program.received() - received {
        0 => format!("no bytes for {idle_timeout:?}{}", program.last_words()),
        bytes => {
            format!(
                "no frame within {idle_timeout:?}, although {bytes} bytes arrived{}",
                program.last_words()
            )
        }
    };
    named(Error::retry, what, &text)
}

impl std::fmt::Debug for ExecSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExecSource({})", self.what)
    }
}
