//! The capture thread: opens the source, takes the frames that the sampler wants into the ring, and opens it again when it
//! is lost (I12).

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use smol::channel::Sender;

use super::inference::{Processor, build, prove};
use super::{Shared, Timing};
use crate::base::error::{Class, Error, Kind, Result};
use crate::base::retry::Backoff;
use crate::capture::frame::{FrameFormat, FrameMeta, PixelFormat};
use crate::capture::ring::{Fill, Writer};
use crate::capture::sampler::{Sample, Sampler};
use crate::capture::{Advance, CaptureParams, FrameSource, SourceSpec};
use crate::event::{Body, fixed};
use crate::platform::clock::{Clock, Mono};
use crate::platform::threads::spawn;
use crate::platform::watchdog::Stage;
use crate::sim::source::SimSource;
use crate::vision::detect::ClassId;
use crate::vision::detect::letterbox::Size;
use crate::vision::detect::model::Loaded;

/// How long the source may keep the thread from looking whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(500);

/// Longest delay before a camera of the kernel is looked for again: that costs one failed `open`, and five seconds after it
/// is plugged in it is to deliver.
const CAMERA_RESTART_CAP: Duration = Duration::from_secs(4);

/// Longest time that building the stages may take before it counts as hung: a large model on a slow board.
const BUILD_MAX: Duration = Duration::from_secs(180);

/// The picture that a model with free sides is asked about before there is a camera.
const SERVED: Size = Size { width: 640, height: 480 };

/// The thread's state.
pub(super) struct Capture {
    shared: Arc<Shared>,
    spec: SourceSpec,
    params: CaptureParams,
    backoff: Backoff,
    /// When the camera was lost; `None` while it delivers.
    lost_at: Option<Mono>,
    /// What the pipeline is built from at the first format.
    model: Option<(Loaded, Vec<ClassId>)>,
    downstream: Option<Downstream>,
}

/// The stages behind the ring, once there is a format.
struct Downstream {
    ring: Writer,
    /// What they were built for.
    format: FrameFormat,
    slot_bytes: usize,
    /// Frames are looked at in the source's own buffers.
    lent: bool,
    pipeline: JoinHandle<Result<()>>,
}

/// Why a source is no longer pumped.
enum Ended {
    /// The recording is over.
    Over,
    /// A stop was requested, or the pipeline is gone.
    Stopped,
    /// Open it again.
    Lost(Error),
}

impl Capture {
    pub(super) fn new(shared: Arc<Shared>, spec: SourceSpec, model: Loaded, wanted: Vec<ClassId>) -> Self {
        let size = model.size_for(SERVED);
        let params = CaptureParams {
            serve_side: size.map_or(SERVED.width, |size| size.width.max(size.height)) as u32,
            serve_fps: shared.config.fps,
            timing: if shared.options.until_end { Timing::Recording } else { Timing::Live },
            stop: shared.stop.clone(),
            ..shared.config.capture.clone()
        };
        let cap = match &spec {
            SourceSpec::V4l2(_) => params.restart_cap.min(CAMERA_RESTART_CAP),
            SourceSpec::Dir(_) | SourceSpec::File(_) | SourceSpec::Exec(_) | SourceSpec::Sim(_) => {
                params.restart_cap
            }
        };
        let backoff = Backoff::new(params.restart_first.min(cap), cap, shared.started.as_nanos());
        Capture {
            shared,
            spec,
            params,
            backoff,
            lost_at: None,
            model: Some((model, wanted)),
            downstream: None,
        }
    }

    /// Captures until the end; then waits for the pipeline to finish what is in the ring.
    ///
    /// Says on `up` once that the program is ready: the network has passed its self-test, if there is no camera yet on pictures of
    /// another size; that there is none is a state of the road and not of the program.
    pub(super) fn run(mut self, up: &Sender<()>) -> Result<()> {
        let captured = self.capture(up);
        self.shared.ledger.ended(Stage::Capture);
        let Some(Downstream { ring, pipeline, .. }) = self.downstream.take() else { return captured };
        drop(ring);
        let processed = pipeline.join().unwrap_or_else(|_| {
            Err(Error::fatal(Kind::System, "the pipeline thread failed; see the message above"))
        });
        // What the pipeline says is the cause if both failed.
        processed.and(captured)
    }

    fn capture(&mut self, up: &Sender<()>) -> Result<()> {
        loop {
            if self.shared.stop.requested() {
                return Ok(());
            }
            // A program has its idle time-out to show its first frame.
            self.shared.heartbeat(Stage::Capture, self.params.idle_timeout);
            let ended = match open(&self.spec, &self.params, Arc::clone(&self.shared.clock)) {
                Ok(source) => {
                    self.fit(&*source)?;
                    say_up(up);
                    self.pump(source)?
                }
                // What worked before may work again, whatever it says now.
                Err(error) if error.class() == Class::Fatal && self.downstream.is_none() => {
                    return Err(error);
                }
                Err(error) => Ended::Lost(error),
            };
            match ended {
                Ended::Over | Ended::Stopped => return Ok(()),
                Ended::Lost(_) if self.shared.stop.requested() => return Ok(()),
                Ended::Lost(error) if self.shared.options.until_end => return Err(error.into_fatal()),
                Ended::Lost(error) => self.lost(&error),
            }
            if self.downstream.is_none() && !up.is_closed() {
                self.prove()?;
            }
            say_up(up);
            let delay = self.backoff.next_delay();
            self.shared.heartbeat(Stage::Capture, delay);
            if self.shared.stop.wait(delay) {
                return Ok(());
            }
        }
    }

    /// There is no camera yet to build the stages for; that the network works is shown all the same before anybody is told that the
    /// program is ready. On a thread of its own, which leaves no memory behind.
    fn prove(&self) -> Result<()> {
        self.shared.heartbeat(Stage::Capture, BUILD_MAX);
        let shared = Arc::clone(&self.shared);
        spawn("self-test", move || prove(&shared.config))?.join().unwrap_or_else(|_| {
            Err(Error::fatal(Kind::System, "the self-test failed; see the message above"))
        })
    }

    fn lost(&mut self, error: &Error) {
        if self.lost_at.is_some() {
            tracing::warn!(%error, tries = self.backoff.failures() + 1, "the camera is still away");
            return;
        }
        let now = self.shared.clock.mono();
        self.lost_at = Some(now);
        self.shared.metrics.camera_losses.add(1);
        tracing::warn!(%error, "the camera is lost; it will be opened again");
        self.shared.post(now, Body::CameraLost { reason: fixed(&error.to_string()) });
    }

    /// The first frame after an absence, or at all.
    fn back(&mut self, format: &FrameFormat, at: Mono) {
        self.backoff.succeeded();
        let absent_ms = self.lost_at.take().map_or(0, |lost| at.since(lost).as_millis() as u64);
        let FrameFormat { pixel, width, height, .. } = *format;
        tracing::info!(%pixel, width, height, absent_ms, "the camera delivers");
        self.shared.post(at, Body::CameraBack { absent_ms, width, height });
    }

    /// Takes frames from `source` for as long as it gives any.
    fn pump(&mut self, mut source: Box<dyn FrameSource>) -> Result<Ended> {
        let shared = Arc::clone(&self.shared);
        let metrics = &shared.metrics;
        let mut sampler = Sampler::new(shared.config.fps);
        let mut expected = 0;
        let mut first = true;
        // A program may take its idle time-out for the rest of a frame that it began.
        let longest = match &self.spec {
            SourceSpec::V4l2(_) => PATIENCE,
            SourceSpec::Dir(_) | SourceSpec::File(_) | SourceSpec::Exec(_) | SourceSpec::Sim(_) => {
                PATIENCE + self.params.idle_timeout
            }
        };
        loop {
            if shared.stop.requested() {
                return Ok(Ended::Stopped);
            }
            shared.heartbeat(Stage::Capture, longest);
            let error = match source.advance(PATIENCE) {
                Ok(Advance::Idle) => continue,
                Ok(Advance::End) => return Ok(Ended::Over),
                Ok(Advance::Frame(meta)) => {
                    metrics.frames_captured.add(1);
                    // Frames that the source lost itself keep their numbers.
                    metrics.frames_camera_dropped.add(meta.seq.saturating_sub(expected));
                    expected = meta.seq + 1;
                    if std::mem::take(&mut first) {
                        self.back(source.format(), meta.captured_at);
                    }
                    if sampler.decide(meta.captured_at) == Sample::Skip {
                        metrics.frames_skipped.add(1);
                        continue;
                    }
                    match self.take(&mut *source, meta) {
                        Fill::Committed(()) => continue,
                        Fill::Closed => return Ok(Ended::Stopped),
                        Fill::Failed(error) => error,
                    }
                }
                Err(error) => {
                    expected += u64::from(error.class() == Class::Degrade);
                    error
                }
            };
            match error.class() {
                Class::Degrade => corrupt(&shared, &error),
                Class::Retry => return Ok(Ended::Lost(error)),
                Class::Fatal => return Err(error),
            }
        }
    }

    /// The announced frame into the ring.
    fn take(&self, source: &mut dyn FrameSource, meta: FrameMeta) -> Fill<(), Error> {
        let Some(downstream) = &self.downstream else { return Fill::Closed };
        let fill = downstream.ring.fill(|slot| {
            let filled = if downstream.lent {
                let (lease, filled) = source.lend()?;
                slot.lent = Some(lease);
                filled
            } else {
                source.read_into(&mut slot.bytes)?
            };
            slot.format = filled.format;
            slot.meta = FrameMeta { bytes_used: filled.bytes_used, ..meta };
            Ok(())
        });
        self.shared.metrics.frames_ring_dropped.set(downstream.ring.dropped());
        fill
    }

    /// Builds what is behind the ring at the first format; later formats must fit into it.
    fn fit(&mut self, source: &dyn FrameSource) -> Result<()> {
        let (format, slot_bytes, lending) = (*source.format(), source.slot_bytes(), source.lending());
        if let Some(there) = &self.downstream {
            let larger = format.width > there.format.width
                || format.height > there.format.height
                || slot_bytes > there.slot_bytes
                || (format.pixel == PixelFormat::Mjpeg && there.format.pixel != PixelFormat::Mjpeg);
            if larger {
                return Err(Error::fatal(
                    Kind::Source,
                    format!(
                        "the camera came back with {} {}x{}, memory was planned for {} {}x{}: starting anew",
                        format.pixel,
                        format.width,
                        format.height,
                        there.format.pixel,
                        there.format.width,
                        there.format.height
                    ),
                ));
            }
            return Ok(());
        }
        let Some((model, wanted)) = self.model.take() else {
            return Err(Error::fatal(Kind::System, "the model was used up without a pipeline"));
        };
        self.shared.heartbeat(Stage::Capture, BUILD_MAX);
        // Built on the thread that runs it: what building frees, that thread's part of the heap uses again.
        let (ready, built) = mpsc::channel();
        let shared = Arc::clone(&self.shared);
        let pipeline =
            spawn("pipeline", move || match build(&shared, &format, slot_bytes, lending, model, wanted) {
                Ok((ring, reader, pipeline)) => {
                    let _waits_for_it = ready.send(Ok(ring));
                    Processor::new(shared, reader, pipeline).run()
                }
                Err(error) => {
                    let _waits_for_it = ready.send(Err(error));
                    Ok(())
                }
            })?;
        let ring = built.recv().unwrap_or_else(|_| {
            Err(Error::fatal(Kind::System, "the pipeline thread failed; see the message above"))
        })?;
        self.downstream = Some(Downstream { ring, format, slot_bytes, lent: lending.is_some(), pipeline });
        Ok(())
    }
}

/// The first time only; nobody waits for more.
fn say_up(up: &Sender<()>) {
    let _said_or_said_before = up.try_send(());
    up.close();
}

/// Opens a source, a simulated street too.
fn open(spec: &SourceSpec, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Box<dyn FrameSource>> {
    match spec {
        SourceSpec::Sim(text) => Ok(Box::new(SimSource::open(text, params, clock)?)),
        SourceSpec::Dir(_) | SourceSpec::File(_) | SourceSpec::Exec(_) | SourceSpec::V4l2(_) => {
            spec.open(params, clock)
        }
    }
}

/// Counts a frame whose bytes are no picture; tells at 1, 2, 4, 8, … so that a bad cable does not fill the log.
pub(super) fn corrupt(shared: &Shared, why: &dyn std::fmt::Display) {
    let count = shared.metrics.frames_corrupt.add(1);
    if count.is_power_of_two() {
        tracing::warn!(count, "corrupt frame: {why}");
    }
}
