//! The capture thread: opens the source, puts the frames that the sampler selects into the ring, and reopens the source after a loss (I12).
//!
//! A source is alive while the pipeline gets usable frames from it, not merely while bytes arrive. If frames outgrow what the stages behind
//! the ring were built for, the stages are rebuilt within the same memory budget.

use std::sync::{Arc, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use smol::channel::Sender;

use super::inference::{Incoming, build, prove};
use super::{Shared, Timing};
use crate::base::error::{Class, Error, Kind, Result};
use crate::base::limits::RING_SLOTS_MIN;
use crate::base::retry::Backoff;
#[cfg(not(feature = "desktop"))]
use crate::base::text::DESKTOP_BUILD;
use crate::capture::frame::{FrameFormat, FrameMeta, PixelFormat};
use crate::capture::ring::{Fill, Writer};
use crate::capture::sampler::{Sample, Sampler};
use crate::capture::{Advance, CaptureParams, FrameSource, SourceSpec};
use crate::event::{Body, fixed};
use crate::pipeline::presence::{Back, Presence};
use crate::platform::clock::{Clock, Mono};
use crate::platform::threads::spawn;
use crate::platform::watchdog::Stage;
#[cfg(feature = "desktop")]
use crate::sim::source::SimSource;
use crate::vision::detect::ClassId;
use crate::vision::detect::letterbox::Size;
use crate::vision::detect::model::{Loaded, wanted_classes};

/// Longest time that the source may block the thread before it checks whether to stop.
const PATIENCE: Duration = Duration::from_millis(500);

/// Longest delay before the next attempt to open a kernel camera. An attempt costs one failed `open`, and a camera must deliver five
/// seconds after it is plugged in, also on a slow board and after many losses in a row.
const CAMERA_RESTART_CAP: Duration = Duration::from_secs(2);

/// Longest time for building the stages before it counts as hung: a large model on a slow board.
const BUILD_MAX: Duration = Duration::from_secs(180);

/// Frame size used to inspect a model with variable input size before there is a camera.
const SERVED: Size = Size { width: 640, height: 480 };

/// The thread's state.
pub(super) struct Capture {
    shared: Arc<Shared>,
    spec: SourceSpec,
    params: CaptureParams,
    recovery: Recovery,
    presence: Presence,
    /// What the pipeline is built from at the first format.
    model: Option<(Loaded, Vec<ClassId>)>,
    downstream: Option<Downstream>,
    /// Drops of the earlier rings.
    ring_dropped: u64,
    /// The stages were built once: errors from now on may be temporary.
    worked: bool,
}

/// The stages behind the ring, from the first format on.
struct Downstream {
    ring: Writer,
    /// The format and size that they were built for.
    format: FrameFormat,
    slot_bytes: usize,
    /// Frames are processed in the source's own buffers.
    lent: bool,
    pipeline: JoinHandle<Result<()>>,
}

impl Downstream {
    /// Whether frames like these require rebuilding the stages.
    fn is_outgrown(&self, format: &FrameFormat, slot_bytes: usize, lent: bool) -> bool {
        let is_jpeg = format.pixel == PixelFormat::Mjpeg;
        // Slots for JPEGs grow by themselves.
        let needs_slots = !is_jpeg && !lent && slot_bytes > self.slot_bytes;
        format.width > self.format.width
            || format.height > self.format.height
            || (is_jpeg && self.format.pixel != PixelFormat::Mjpeg)
            || lent != self.lent
            || needs_slots
    }
}

/// Decides when a lost source is opened again. A source that fails again soon after its return must not be reopened at full rate for ever:
/// the delay starts small again only after the source has delivered for `trusted_after` and for as long as the last delay. Pure.
struct Recovery {
    backoff: Backoff,
    trusted_after: Duration,
    /// The last delay.
    waited: Duration,
    /// Time since which it delivers; `None` while it is lost, and once it is trusted.
    back_at: Option<Mono>,
}

impl Recovery {
    fn new(backoff: Backoff, trusted_after: Duration) -> Self {
        Recovery { backoff, trusted_after, waited: Duration::ZERO, back_at: None }
    }

    /// The source delivers again, since `at`.
    fn back(&mut self, at: Mono) {
        self.back_at = Some(at);
    }

    /// The source still delivers at `now`.
    fn delivers(&mut self, now: Mono) {
        let trusted_after = self.trusted_after.max(self.waited);
        if self.back_at.is_some_and(|at| now.since(at) >= trusted_after) {
            self.back_at = None;
            self.backoff.succeeded();
        }
    }

    /// The source is lost: returns how long to wait before it is opened again.
    fn next_delay(&mut self) -> Duration {
        self.back_at = None;
        self.waited = self.backoff.next_delay();
        self.waited
    }
}

/// Why frames are no longer read from a source.
enum Ended {
    /// The recording is over.
    Over,
    /// A stop was requested, or the pipeline has ended.
    Stopped,
    /// It has to be opened again.
    Lost(Error),
}

impl Capture {
    pub(super) fn new(shared: Arc<Shared>, spec: SourceSpec, model: Loaded, wanted: Vec<ClassId>) -> Self {
        let size = model.size_for(SERVED);
        let params = CaptureParams {
            serve_side: size.map_or(SERVED.width, |size| size.width.max(size.height)) as u32,
            serve_fps: shared.config.camera.fps,
            timing: if shared.options.until_end { Timing::Recording } else { Timing::Live },
            stop: shared.stop.clone(),
            ..shared.config.camera.capture.0.clone()
        };
        let cap = match &spec {
            SourceSpec::V4l2(_) => params.restart_cap.min(CAMERA_RESTART_CAP),
            SourceSpec::Dir(_)
            | SourceSpec::File(_)
            | SourceSpec::Exec(_)
            | SourceSpec::Ffmpeg(_)
            | SourceSpec::Sim(_) => params.restart_cap,
        };
        let backoff = Backoff::new(params.restart_first.min(cap), cap, shared.started.as_nanos());
        let recovery = Recovery::new(backoff, params.idle_timeout);
        let presence = Presence::new(shared.started);
        Capture {
            shared,
            spec,
            params,
            recovery,
            presence,
            model: Some((model, wanted)),
            downstream: None,
            ring_dropped: 0,
            worked: false,
        }
    }

    /// Captures until the end; then waits for the pipeline to process what is left in the ring.
    ///
    /// Reports once on `up` that the program is ready: the network has passed its self-test (on a frame of another size if there is no
    /// camera yet). A missing camera does not prevent readiness.
    pub(super) fn run(mut self, up: &Sender<()>) -> Result<()> {
        let captured = self.capture(up);
        self.shared.ledger.ended(Stage::Capture);
        // If both failed, the pipeline's error is the cause.
        self.close_downstream().and(captured).and_then(|()| self.was_usable())
    }

    /// Lets the pipeline process what is left in the ring, and waits for it.
    fn close_downstream(&mut self) -> Result<()> {
        let Some(Downstream { ring, pipeline, .. }) = self.downstream.take() else { return Ok(()) };
        drop(ring);
        pipeline.join().unwrap_or_else(|_| {
            Err(Error::fatal(Kind::System, "the pipeline thread failed; see the message above"))
        })
    }

    /// A recording without a usable frame is an error.
    fn was_usable(&self) -> Result<()> {
        let Shared { stop, metrics, .. } = &*self.shared;
        if stop.requested() || metrics.last_frame().is_some() {
            return Ok(());
        }
        let (captured, corrupt) = (metrics.frames_captured.get(), metrics.frames_corrupt.get());
        let skipped = metrics.frames_skipped.get();
        let why = self.shared.last_corrupt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let why = if why.is_empty() { String::new() } else { format!("; the last one: {why}") };
        let text = format!(
            "{}: no usable frame ({captured} came, {corrupt} were corrupt, {skipped} were not wanted at camera.fps){why}",
            self.spec
        );
        Err(Error::fatal(Kind::Source, text))
    }

    fn capture(&mut self, up: &Sender<()>) -> Result<()> {
        loop {
            if self.shared.stop.requested() {
                return Ok(());
            }
            // A program may take its idle time-out to deliver its first frame.
            self.shared.heartbeat(Stage::Capture, self.params.idle_timeout);
            let begun = self.shared.clock.mono();
            let ended = match open(&self.spec, &self.params, Arc::clone(&self.shared.clock)) {
                Ok(source) => match self.fit(&*source) {
                    Ok(()) => {
                        say_up(up);
                        self.pump(source, begun)?
                    }
                    Err(error) => self.cannot_fit(error)?,
                },
                // It worked before, so it may work again: every error is treated as temporary.
                Err(error) if error.class() == Class::Fatal && !self.worked => return Err(error),
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
            let delay = self.recovery.next_delay();
            self.shared.heartbeat(Stage::Capture, delay);
            if self.shared.stop.wait(delay) {
                return Ok(());
            }
        }
    }

    /// Runs the self-test although there is no camera to build the stages for: the program must not report ready before the network is
    /// known to work. It runs on a thread of its own so that its memory is returned.
    fn prove(&self) -> Result<()> {
        self.shared.heartbeat(Stage::Capture, BUILD_MAX);
        let Some((model, _)) = &self.model else { return Ok(()) };
        // A clone shares the parsed file.
        let (shared, model) = (Arc::clone(&self.shared), model.clone());
        spawn("self-test", move || prove(&shared.config, model))?.join().unwrap_or_else(|_| {
            Err(Error::fatal(Kind::System, "the self-test failed; see the message above"))
        })
    }

    fn lost(&mut self, error: &Error) {
        let now = self.shared.clock.mono();
        if !self.presence.lost(now) {
            tracing::warn!(%error, tries = self.recovery.backoff.failures() + 1, "the camera is still away");
            return;
        }
        self.shared.metrics.camera_losses.add(1);
        tracing::warn!(%error, "the camera is lost; it will be opened again");
        self.shared.post(now, Body::CameraLost { reason: fixed(&error.to_string()) });
    }

    /// The first usable frame after an absence, or the first one ever.
    fn back(&mut self, format: &FrameFormat, back: Back) {
        self.recovery.back(back.at);
        let FrameFormat { pixel, width, height, .. } = *format;
        tracing::info!(%pixel, width, height, absent_ms = back.absent_ms, "the camera delivers");
        self.shared.post(back.at, back.event(width, height));
    }

    /// Reads frames from `source`, which was opened from `begun` on, until it ends or fails.
    fn pump(&mut self, mut source: Box<dyn FrameSource>, begun: Mono) -> Result<Ended> {
        let shared = Arc::clone(&self.shared);
        let metrics = &shared.metrics;
        let mut sampler = Sampler::new(shared.config.camera.fps);
        let mut expected = 0;
        self.presence.opened(begun, shared.clock.mono(), metrics.frames_corrupt.get());
        // A program may take its idle time-out for the rest of a frame that it has begun.
        let longest = match &self.spec {
            SourceSpec::V4l2(_) => PATIENCE,
            SourceSpec::Dir(_)
            | SourceSpec::File(_)
            | SourceSpec::Exec(_)
            | SourceSpec::Ffmpeg(_)
            | SourceSpec::Sim(_) => PATIENCE + self.params.idle_timeout,
        };
        loop {
            if shared.stop.requested() {
                return Ok(Ended::Stopped);
            }
            shared.heartbeat(Stage::Capture, longest);
            if let Some(error) = self.check_liveness(source.format()) {
                return Ok(Ended::Lost(error));
            }
            let error = match source.advance(PATIENCE) {
                Ok(Advance::Idle) => continue,
                Ok(Advance::End) => return Ok(Ended::Over),
                Ok(Advance::Frame(meta)) => {
                    metrics.frames_captured.add(1);
                    // Frames that the source itself lost are counted in the sequence numbers.
                    metrics.frames_camera_dropped.add(meta.seq.saturating_sub(expected));
                    expected = meta.seq + 1;
                    if let Some(back) = self.presence.frame(meta.captured_at) {
                        self.back(source.format(), back);
                    }
                    if let Err(error) = self.fit(&*source) {
                        return self.cannot_fit(error);
                    }
                    if sampler.decide(meta.captured_at) == Sample::Skip {
                        metrics.frames_skipped.add(1);
                        continue;
                    }
                    match self.take(&mut *source, meta) {
                        Ok(true) => continue,
                        Ok(false) => return Ok(Ended::Stopped),
                        Err(error) => error,
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

    /// Checks that the pipeline gets usable frames. Returns why the source counts as lost, if it does.
    fn check_liveness(&mut self, format: &FrameFormat) -> Option<Error> {
        let (now, metrics) = (self.shared.clock.mono(), &self.shared.metrics);
        let corrupt = metrics.frames_corrupt.get();
        let back = self.presence.note(metrics.last_captured(), corrupt);
        self.recovery.delivers(now);
        let limit = self.params.idle_timeout;
        let can_heal = match &self.spec {
            SourceSpec::V4l2(_) | SourceSpec::Exec(_) | SourceSpec::Ffmpeg(_) | SourceSpec::File(_) => {
                !self.shared.options.until_end
            }
            // Pictures in a folder are unrelated, so bad ones prove nothing.
            SourceSpec::Dir(_) | SourceSpec::Sim(_) => false,
        };
        let overdue = self.presence.overdue(now, corrupt, limit);
        if let Some(back) = back {
            self.back(format, back);
        }
        let bad = overdue.filter(|_| can_heal)?;
        let why = self.shared.last_corrupt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = format!("no usable frame for {limit:?}, although {bad} arrived; the last one: {why}");
        Some(Error::retry(Kind::Source, text))
    }

    /// The stages behind the ring cannot be built for the current frames. At the start this ends the program; later the source is closed,
    /// because it may deliver another size when it is opened again.
    fn cannot_fit(&self, error: Error) -> Result<Ended> {
        if self.worked && !self.shared.options.until_end && !self.shared.stop.requested() {
            return Ok(Ended::Lost(error));
        }
        Err(error)
    }

    /// Puts the announced frame into the ring. False if nobody reads the ring any more.
    fn take(&self, source: &mut dyn FrameSource, meta: FrameMeta) -> Result<bool> {
        let Some(downstream) = &self.downstream else { return Ok(false) };
        let need = if downstream.lent { 0 } else { source.announced_bytes().unwrap_or(0) };
        let fill = downstream.ring.fill_sized(need, |slot| {
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
        self.shared.metrics.frames_ring_dropped.set(self.ring_dropped + downstream.ring.dropped());
        match fill {
            Fill::NoRoom(most) => {
                let needed_mb = (RING_SLOTS_MIN * need).div_ceil(1 << 20);
                let text = format!(
                    "a frame of {need} bytes does not fit into the ring ({most} at most): set memory.ring_mb = {needed_mb} or more"
                );
                Err(Error::degrade(Kind::Source, text))
            }
            Fill::Committed(()) => Ok(true),
            Fill::Closed => Ok(false),
            Fill::Failed(error) => Err(error),
        }
    }

    /// Builds the stages behind the ring at the first format, and again if frames outgrow them.
    fn fit(&mut self, source: &dyn FrameSource) -> Result<()> {
        let (format, lending) = (*source.format(), source.lending());
        let slot_bytes = source.slot_bytes();
        if let Some(there) = &self.downstream {
            if !there.is_outgrown(&format, slot_bytes, lending.is_some()) {
                return Ok(());
            }
            tracing::info!("frames of {format} follow {}: the stages are rebuilt", there.format);
            self.shared.heartbeat(Stage::Capture, BUILD_MAX);
            self.close_downstream()?;
            self.ring_dropped = self.shared.metrics.frames_ring_dropped.get();
        }
        let (model, wanted) = match self.model.take() {
            Some(first) => first,
            None => {
                let model = Loaded::open(&self.shared.config.model()?)?;
                let wanted = wanted_classes(&self.shared.config.camera.classes, model.classes())?;
                (model, wanted)
            }
        };
        self.shared.heartbeat(Stage::Capture, BUILD_MAX);
        // Built on the thread that runs it, so that memory freed during the build is reused from that thread's part of the heap.
        let (ready, built) = mpsc::channel();
        let incoming = Incoming { format, slot_bytes, lending };
        let shared = Arc::clone(&self.shared);
        let pipeline = spawn("pipeline", move || match build(&shared, &incoming, model, wanted) {
            Ok((ring, processor)) => {
                let _waits_for_it = ready.send(Ok(ring));
                processor.run()
            }
            Err(error) => {
                let _waits_for_it = ready.send(Err(error));
                Ok(())
            }
        })?;
        let ring = built.recv().unwrap_or_else(|_| {
            Err(Error::fatal(Kind::System, "the pipeline thread failed; see the message above"))
        })?;
        self.worked = true;
        self.downstream = Some(Downstream { ring, format, slot_bytes, lent: lending.is_some(), pipeline });
        Ok(())
    }
}

/// Reports only the first time; nobody waits for later ones.
fn say_up(up: &Sender<()>) {
    let _said_or_said_before = up.try_send(());
    up.close();
}

/// Opens a source, including simulated streets.
fn open(spec: &SourceSpec, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Box<dyn FrameSource>> {
    match spec {
        #[cfg(feature = "desktop")]
        SourceSpec::Sim(text) => Ok(Box::new(SimSource::open(text, params, clock)?)),
        #[cfg(not(feature = "desktop"))]
        SourceSpec::Sim(_) => Err(Error::fatal(
            Kind::Config,
            format!("source '{spec}': the device build has no simulated street; {DESKTOP_BUILD}"),
        )),
        SourceSpec::Dir(_)
        | SourceSpec::File(_)
        | SourceSpec::Exec(_)
        | SourceSpec::Ffmpeg(_)
        | SourceSpec::V4l2(_) => spec.open(params, clock),
    }
}

/// Counts a corrupt frame and records the reason; logs at 1, 2, 4, 8, …, so that a bad cable does not fill the log.
pub(super) fn corrupt(shared: &Shared, why: &dyn std::fmt::Display) {
    let count = shared.metrics.frames_corrupt.add(1);
    *shared.last_corrupt.lock().unwrap_or_else(PoisonError::into_inner) = why.to_string();
    if count.is_power_of_two() {
        tracing::warn!(count, "corrupt frame: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    /// A stream that breaks every second is reopened less and less often; one that was good for a while is reopened immediately.
    #[test]
    fn the_delay_is_reset_only_after_a_while_of_good_frames() {
        let second = Duration::from_secs(1);
        let mut recovery = Recovery::new(Backoff::new(second, 60 * second, 1), 10 * second);
        let mut now = 0;
        let mut delays = Vec::new();
        for good in [1, 1, 1, 1, 9, 17, 1] {
            recovery.back(at(now));
            (now..=now + good).for_each(|second| recovery.delivers(at(second)));
            now += good + 1;
            delays.push(recovery.next_delay());
        }
        for (delay, whole) in delays.iter().zip([1, 2, 4, 8, 16, 1, 2]) {
            assert!((second * whole / 2..=second * whole).contains(delay), "{delays:?}");
        }
    }
}
