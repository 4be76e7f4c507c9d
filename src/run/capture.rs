//! A camera's capture thread: opens the source, puts the frames that the sampler selects into the ring, and reopens the source after a loss
//! (I12).
//!
//! A source is alive while the pipeline gets usable frames from it, not merely while bytes arrive. The stages behind the ring belong to the
//! pipeline thread ([`super::inference`]), which builds them at the first format, and again, within the same memory budget, if frames
//! outgrow them.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::inference::{BUILD_MAX, Downstream, Incoming, Requests};
use super::{CameraState, Shared, Timing};
use crate::base::error::{Class, Error, Kind, Result};
use crate::base::limits::RING_SLOTS_MIN;
use crate::base::retry::Backoff;
#[cfg(not(feature = "desktop"))]
use crate::base::text::DESKTOP_BUILD;
use crate::capture::frame::{FrameFormat, FrameMeta, PixelFormat};
use crate::capture::ring::Fill;
use crate::capture::sampler::{Sample, Sampler};
use crate::capture::{Advance, CaptureParams, FrameSource, SourceSpec};
use crate::event::{Body, fixed};
use crate::pipeline::presence::{Back, Presence};
use crate::platform::clock::{Clock, Mono};
use crate::platform::watchdog::Stage;
#[cfg(feature = "desktop")]
use crate::sim::source::SimSource;
use crate::vision::detect::letterbox::Size;
use crate::vision::detect::model::Loaded;

/// Longest time that the source may block the thread before it checks whether to stop.
const PATIENCE: Duration = Duration::from_millis(500);

/// Longest delay before the next attempt to open a kernel camera. An attempt costs one failed `open`, and a camera must deliver five
/// seconds after it is plugged in, also on a slow board and after many losses in a row.
const CAMERA_RESTART_CAP: Duration = Duration::from_secs(2);

/// Frame size used to inspect a model with variable input size before there is a camera.
const SERVED: Size = Size { width: 640, height: 480 };

/// The longer side of the model's input: frames at least that large are large enough.
pub(super) fn serve_side(model: &Loaded) -> u32 {
    model.size_for(SERVED).map_or(SERVED.width, |size| size.width.max(size.height)) as u32
}

/// The thread's state.
pub(super) struct Capture {
    shared: Arc<Shared>,
    /// The camera's number.
    camera: usize,
    spec: SourceSpec,
    params: CaptureParams,
    recovery: Recovery,
    presence: Presence,
    requests: Requests,
    /// The stages behind the ring, from the first format on.
    downstream: Option<Built>,
    /// The stages were built once: errors from now on may be temporary.
    worked: bool,
    /// How many changes of the settings have been applied.
    changes: u64,
}

/// Stages that were built.
struct Built {
    stages: Downstream,
    /// What they were built for.
    incoming: Incoming,
}

impl Built {
    /// Whether frames like these require rebuilding the stages.
    fn is_outgrown(&self, new: &Incoming) -> bool {
        let is_jpeg = new.format.pixel == PixelFormat::Mjpeg;
        let (lent, has_lent) = (new.lending.is_some(), self.incoming.lending.is_some());
        // Slots for JPEGs grow by themselves.
        let needs_slots = !is_jpeg && !lent && new.slot_bytes > self.incoming.slot_bytes;
        new.format.width > self.incoming.format.width
            || new.format.height > self.incoming.format.height
            || (is_jpeg && self.incoming.format.pixel != PixelFormat::Mjpeg)
            || lent != has_lent
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
    /// It has to be opened again, because its settings changed.
    Changed,
}

impl Capture {
    pub(super) fn new(
        shared: Arc<Shared>,
        camera: usize,
        spec: SourceSpec,
        serve_side: u32,
        requests: Requests,
    ) -> Self {
        let changes = shared.cameras[camera].changes.load(Relaxed);
        let settings = shared.cameras[camera].settings();
        let params = CaptureParams {
            serve_side,
            serve_fps: settings.fps,
            timing: if shared.options.until_end { Timing::Recording } else { Timing::Live },
            stop: shared.stop.clone(),
            ..settings.capture.0.clone()
        };
        let cap = match &spec {
            SourceSpec::V4l2(_) => params.restart_cap.min(CAMERA_RESTART_CAP),
            SourceSpec::Dir(_)
            | SourceSpec::File(_)
            | SourceSpec::Exec(_)
            | SourceSpec::Ffmpeg(_)
            | SourceSpec::Sim(_) => params.restart_cap,
        };
        // Cameras that are lost together come back at different times.
        let seed = shared.started.as_nanos().wrapping_add(camera as u64);
        let backoff = Backoff::new(params.restart_first.min(cap), cap, seed);
        let recovery = Recovery::new(backoff, params.idle_timeout);
        let presence = Presence::new(shared.started);
        Capture {
            shared,
            camera,
            spec,
            params,
            recovery,
            presence,
            requests,
            downstream: None,
            worked: false,
            changes,
        }
    }

    /// Takes over changed settings, if there are any that need the source to be opened again. Returns whether there were.
    fn follow_settings(&mut self) -> bool {
        if self.state().changes.load(Relaxed) == self.changes {
            return false;
        }
        let settings = self.state().settings();
        let Some(spec) = settings.source.clone() else { return false };
        tracing::info!("{}: opened again with its new settings", self.label());
        let new = Capture::new(
            Arc::clone(&self.shared),
            self.camera,
            spec,
            self.params.serve_side,
            self.requests.clone(),
        );
        let Capture { spec, params, recovery, changes, .. } = new;
        (self.spec, self.params, self.recovery, self.changes) = (spec, params, recovery, changes);
        self.close_downstream();
        true
    }

    /// Captures until the end; then waits for the pipeline to process what is left in the ring, and tells it the outcome.
    pub(super) fn run(mut self) {
        let captured = self.capture();
        self.shared.ledger.ended(Stage::Capture(self.camera));
        self.close_downstream();
        let outcome = captured.and_then(|()| self.was_usable());
        if let Err(error) = &outcome
            && self.shared.cameras.len() > 1
        {
            tracing::error!("{}: {error}", self.shared.camera_label(self.camera));
        }
        self.requests.ended(self.camera, outcome);
    }

    fn state(&self) -> &CameraState {
        &self.shared.cameras[self.camera]
    }

    /// A piece of work is done. If the thread was reported as hanging, the camera is lost until its next frame.
    fn heartbeat(&mut self, wait: Duration) {
        if self.state().hangs.swap(false, Relaxed) {
            self.presence.lost(self.shared.clock.mono());
        }
        self.shared.heartbeat(Stage::Capture(self.camera), wait);
    }

    /// Lets the pipeline process what is left in the ring, and waits for it.
    fn close_downstream(&mut self) {
        if let Some(Built { stages, .. }) = self.downstream.take() {
            stages.close();
        }
    }

    /// A recording without a usable frame is an error.
    fn was_usable(&self) -> Result<()> {
        let CameraState { metrics, last_corrupt, .. } = self.state();
        if self.shared.stop.requested() || metrics.last_frame().is_some() {
            return Ok(());
        }
        let (captured, corrupt) = (metrics.frames_captured.get(), metrics.frames_corrupt.get());
        let skipped = metrics.frames_skipped.get();
        let why = last_corrupt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let why = if why.is_empty() { String::new() } else { format!("; the last one: {why}") };
        let text = format!(
            "{}: no usable frame ({captured} came, {corrupt} were corrupt, {skipped} were not wanted at camera.fps){why}",
            self.spec
        );
        Err(Error::fatal(Kind::Source, text))
    }

    fn capture(&mut self) -> Result<()> {
        loop {
            if self.shared.stop.requested() {
                return Ok(());
            }
            // A program may take its idle time-out to deliver its first frame.
            self.heartbeat(self.params.idle_timeout);
            let begun = self.shared.clock.mono();
            let opened = open(&self.spec, &self.params, Arc::clone(&self.shared.clock));
            let ended = match opened.and_then(|source| self.fit(&*source).map(|()| source)) {
                Ok(source) => self.pump(source, begun),
                Err(error) => Err(error),
            };
            let error = match ended {
                Ok(Ended::Over | Ended::Stopped) => return Ok(()),
                Ok(Ended::Lost(_)) if self.shared.stop.requested() => return Ok(()),
                Ok(Ended::Changed) => continue,
                Ok(Ended::Lost(error)) => error,
                Err(error) if self.may_recover(&error) => error,
                Err(error) => return Err(error),
            };
            if self.shared.options.until_end {
                return Err(error.into_fatal());
            }
            self.lost(&error);
            if !self.worked {
                self.requests.absent(self.camera, error);
            }
            let delay = self.recovery.next_delay();
            self.heartbeat(delay);
            if self.wait(delay) {
                return Ok(());
            }
        }
    }

    /// Waits before the source is opened again, unless its settings change. True: a stop was requested.
    fn wait(&mut self, delay: Duration) -> bool {
        let until = self.shared.clock.mono() + delay;
        loop {
            let left = until.since(self.shared.clock.mono());
            if left.is_zero() || self.follow_settings() {
                return false;
            }
            if self.shared.stop.wait(left.min(PATIENCE)) {
                return true;
            }
        }
    }

    /// Whether the source is opened again after `error`. A camera that worked before may work again, whatever the error; one of several must
    /// not end the others. The pipeline's own end is final.
    fn may_recover(&self, error: &Error) -> bool {
        let is_alone = self.shared.cameras.len() == 1;
        let is_final = self.shared.options.until_end || self.shared.stop.requested();
        !is_final && (error.class() != Class::Fatal || self.worked || !is_alone)
    }

    fn label(&self) -> String {
        self.shared.camera_label(self.camera)
    }

    fn lost(&mut self, error: &Error) {
        let now = self.shared.clock.mono();
        if !self.presence.lost(now) {
            let tries = self.recovery.backoff.failures() + 1;
            tracing::warn!(%error, tries, "{} is still away", self.label());
            return;
        }
        self.state().metrics.camera_losses.add(1);
        self.state().is_lost.store(true, Relaxed);
        tracing::warn!(%error, "{} is lost; it will be opened again", self.label());
        self.shared.post(self.camera, now, Body::CameraLost { reason: fixed(&error.to_string()) });
    }

    /// The first usable frame after an absence, or the first one ever.
    fn back(&mut self, format: &FrameFormat, back: Back) {
        self.recovery.back(back.at);
        self.state().is_lost.store(false, Relaxed);
        let FrameFormat { pixel, width, height, .. } = *format;
        tracing::info!(%pixel, width, height, absent_ms = back.absent_ms, "{} delivers", self.label());
        self.shared.post(self.camera, back.at, back.event(width, height));
    }

    /// Reads frames from `source`, which was opened from `begun` on, until it ends or fails.
    fn pump(&mut self, mut source: Box<dyn FrameSource>, begun: Mono) -> Result<Ended> {
        let shared = Arc::clone(&self.shared);
        let state = &shared.cameras[self.camera];
        let metrics = &state.metrics;
        let mut rate = state.rate().unwrap_or(self.params.serve_fps);
        let mut sampler = Sampler::new(rate);
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
            self.heartbeat(longest);
            if self.follow_settings() {
                return Ok(Ended::Changed);
            }
            if let Some(new) = state.rate().filter(|new| *new != rate) {
                rate = new;
                sampler.set_fps(rate);
            }
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
                    self.fit(&*source)?;
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
                Class::Degrade => corrupt(state, &error),
                Class::Retry => return Ok(Ended::Lost(error)),
                Class::Fatal => return Err(error),
            }
        }
    }

    /// Checks that the pipeline gets usable frames. Returns why the source counts as lost, if it does.
    fn check_liveness(&mut self, format: &FrameFormat) -> Option<Error> {
        let shared = Arc::clone(&self.shared);
        let (now, CameraState { metrics, last_corrupt, .. }) =
            (shared.clock.mono(), &shared.cameras[self.camera]);
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
        let why = last_corrupt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = format!("no usable frame for {limit:?}, although {bad} arrived; the last one: {why}");
        Some(Error::retry(Kind::Source, text))
    }

    /// Puts the announced frame into the ring. False if nobody reads the ring any more.
    fn take(&self, source: &mut dyn FrameSource, meta: FrameMeta) -> Result<bool> {
        let Some(Built { stages: Downstream { ring, .. }, incoming }) = &self.downstream else {
            return Ok(false);
        };
        let lent = incoming.lending.is_some();
        let need = if lent { 0 } else { source.announced_bytes().unwrap_or(0) };
        let fill = ring.fill_sized(need, |slot| {
            let filled = if lent {
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
        match fill {
            Fill::NoRoom(most) => {
                let needed_mb = (self.shared.cameras.len() * RING_SLOTS_MIN * need).div_ceil(1 << 20);
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

    /// Has the stages behind the ring built at the first format, and again if frames outgrow them.
    fn fit(&mut self, source: &dyn FrameSource) -> Result<()> {
        let (format, lending) = (*source.format(), source.lending());
        let incoming = Incoming { format, slot_bytes: source.slot_bytes(), lending };
        if let Some(built) = &self.downstream {
            if !built.is_outgrown(&incoming) {
                return Ok(());
            }
            let (label, old) = (self.label(), built.incoming.format);
            tracing::info!("{label}: frames of {format} follow {old}: the stages are rebuilt");
            self.heartbeat(BUILD_MAX);
            self.close_downstream();
        }
        self.heartbeat(BUILD_MAX);
        let stages = self.requests.join(self.camera, incoming)?;
        self.worked = true;
        self.downstream = Some(Built { stages, incoming });
        Ok(())
    }
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
pub(super) fn corrupt(camera: &CameraState, why: &dyn std::fmt::Display) {
    let count = camera.metrics.frames_corrupt.add(1);
    *camera.last_corrupt.lock().unwrap_or_else(PoisonError::into_inner) = why.to_string();
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
