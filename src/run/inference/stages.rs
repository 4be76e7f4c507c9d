//! The stages of one camera in the pipeline thread: its ring, its pipeline, and the frame that waits for the network.

use std::sync::mpsc;
use std::time::Duration;

use crate::analytics::UnseenMotion;
use crate::base::error::Result;
use crate::capture::frame::FrameView;
use crate::capture::ring::{Policy, Reader, SlotGuard, Taken};
use crate::event::Body;
use crate::metrics::Metrics;
use crate::metrics::table::Time;
use crate::pipeline::worker::{FrameCounts, FrameWorker};
use crate::pipeline::{self, Failure, Looked, OpenFrame, Outcome, Pipeline, Step};
use crate::platform::clock::Mono;
use crate::run::capture::corrupt;
use crate::run::{CameraState, Shared};
use crate::vision::detect::engine::Engine;
use crate::vision::gate::Reason;

/// What a camera had to do.
pub(super) enum Turn {
    /// No frame was there.
    Nothing,
    /// A frame was processed, without the network.
    Done,
    /// A frame waits for the network; `moves`: something moves in it.
    Waits { moves: bool },
    /// No more frames come, and all are processed.
    Ended,
}

/// A frame that waits for the network.
struct Candidate {
    slot: SlotGuard,
    open: OpenFrame,
    times: Times,
    /// Since when it waits.
    since: Mono,
}

/// Times of a frame.
#[derive(Debug, Clone, Copy)]
struct Times {
    captured_at: Mono,
    /// When it left the ring.
    begun: Mono,
}

/// The stages.
pub(super) struct CameraStages {
    reader: Reader,
    pipeline: Pipeline,
    worker: FrameWorker,
    candidate: Option<Candidate>,
    /// Frames that were replaced while they waited for the network.
    replaced: u64,
    /// Frames that earlier rings dropped.
    ring_dropped_before: u64,
    /// Inferences on a region of interest.
    in_region: u64,
    unseen: UnseenMotion,
    /// When the last frame was processed, and how often the camera had been lost then.
    looked_at: Option<(Mono, u64)>,
    /// Dropped with the stages: their capture thread waits for it.
    _ended: mpsc::Sender<()>,
}

impl CameraStages {
    /// Stages that read from `reader`.
    pub(super) fn new(
        shared: &Shared,
        camera: usize,
        reader: Reader,
        pipeline: Pipeline,
        ended: mpsc::Sender<()>,
    ) -> Self {
        CameraStages {
            reader,
            pipeline,
            worker: FrameWorker::new(silence_max(shared, camera)),
            candidate: None,
            replaced: 0,
            ring_dropped_before: shared.cameras[camera].metrics.frames_ring_dropped.get(),
            in_region: 0,
            unseen: UnseenMotion::default(),
            looked_at: None,
            _ended: ended,
        }
    }

    /// Other settings from the next frame on.
    pub(super) fn set(&mut self, shared: &Shared, camera: usize, params: pipeline::Params) -> Result<()> {
        self.worker.set_silence_max(silence_max(shared, camera));
        self.pipeline.set(params)
    }

    /// Passes the next frame through the gate, if there is one. A frame that waits for the network is replaced by a newer one; frames of a
    /// recording are not replaced but wait for each other.
    pub(super) fn look(&mut self, shared: &Shared, camera: usize) -> Result<Turn> {
        if let Some(waiting) = &self.candidate {
            if self.reader.policy() == Policy::Lossless || !self.reader.has_frame() {
                return Ok(Turn::Nothing);
            }
            tracing::trace!(seq = waiting.slot.meta.seq, "replaced by a newer frame");
            // Its slot is free before the next is taken: a camera lends few.
            self.candidate = None;
            self.replaced += 1;
        }
        let turn = match self.reader.try_take() {
            Taken::Frame(slot) => self.gate(shared, camera, slot)?,
            Taken::TimedOut => {
                self.end_lost_tracks(shared, camera, shared.clock.mono());
                return Ok(Turn::Nothing);
            }
            Taken::Closed => return Ok(Turn::Ended),
        };
        self.count_drops(shared, camera);
        Ok(turn)
    }

    fn gate(&mut self, shared: &Shared, camera: usize, slot: SlotGuard) -> Result<Turn> {
        let times = Times { captured_at: slot.meta.captured_at, begun: shared.clock.mono() };
        let at = times.captured_at;
        if let Some(sensed) = shared.motion_sensor.last_sensed() {
            self.pipeline.wake(sensed);
        }
        let CameraStages { pipeline, worker, .. } = self;
        let mut open = None;
        let look = |on: &mut dyn FnMut(Body)| match pipeline.look(&view(&slot)?, at, on)? {
            Looked::Still(outcome) => Ok(outcome),
            Looked::Open(frame) => {
                open = Some(frame);
                Ok(Outcome::default())
            }
        };
        let processed = worker.frame(at, look, &mut |at, body| post(shared, camera, at, body))?;
        let since = shared.clock.mono();
        shared.cameras[camera].metrics.times.add(Time::Gate, since.since(times.begun));
        if let Some(open) = open {
            let moves = open.moves();
            self.candidate = Some(Candidate { slot, open, times, since });
            return Ok(Turn::Waits { moves });
        }
        match processed.outcome {
            Ok(outcome) => {
                self.unseen.look(at, false, 0);
                self.count(shared, camera, &processed.counts, &outcome, times);
            }
            Err(why) => corrupt(&shared.cameras[camera], &why),
        }
        // Not the clock: behind a slow network, frames that wait in the ring are not silence.
        self.end_lost_tracks(shared, camera, at);
        Ok(Turn::Done)
    }

    /// Runs the network and everything behind it on the frame that waits. Returns whether anything was detected.
    pub(super) fn infer(&mut self, shared: &Shared, camera: usize, engine: &mut dyn Engine) -> Result<bool> {
        let Some(Candidate { slot, open, times, since }) = self.candidate.take() else { return Ok(false) };
        let at = times.captured_at;
        let CameraStages { pipeline, worker, .. } = self;
        let measured = &shared.cameras[camera].metrics.times;
        let mut last = shared.clock.mono();
        measured.add(Time::Wait, last.since(since));
        let mut lap = |time: Time| {
            let now = shared.clock.mono();
            measured.add(time, now.since(last));
            last = now;
        };
        let mut mark = |step: Step| {
            lap(match step {
                Step::Prepared => Time::Prepare,
                Step::Ran => Time::Network,
            });
        };
        let infer =
            |on: &mut dyn FnMut(Body)| pipeline.infer(engine, (&view(&slot)?, at), &open, &mut mark, on);
        let processed = worker.frame(at, infer, &mut |at, body| post(shared, camera, at, body))?;
        if processed.outcome.is_ok() {
            lap(Time::Track);
        }
        let mut found = false;
        match processed.outcome {
            Ok(outcome) => {
                found = outcome.detections > 0;
                if self.unseen.look(at, outcome.gate == Some(Reason::Motion), outcome.detections) {
                    tracing::warn!(
                        "{}: something has moved for a minute, but nothing of the counted classes was detected: the model may not know this view \
                         (from straight above, or road users that are too small): look with `flytrap detect`, move the camera closer \
                         or lower, or name other track.classes",
                        shared.camera_label(camera)
                    );
                }
                self.count(shared, camera, &processed.counts, &outcome, times);
            }
            Err(why) => corrupt(&shared.cameras[camera], &why),
        }
        self.end_lost_tracks(shared, camera, at);
        Ok(found)
    }

    /// Adds the outcomes to the counters; the frame was captured at `at` and left the ring at `begun`.
    fn count(
        &mut self,
        shared: &Shared,
        camera: usize,
        counts: &FrameCounts,
        outcome: &Outcome,
        frame: Times,
    ) {
        let now = shared.clock.mono();
        let CameraState { metrics, motion_and_light, .. } = &shared.cameras[camera];
        metrics.saw_frame(frame.captured_at, now);
        // Not over a loss: an absent camera is not one that waits.
        let losses = metrics.camera_losses.get();
        let before = self.looked_at.replace((now, losses)).filter(|(_, before)| *before == losses);
        if let Some((before, _)) = before {
            metrics.times.add(Time::Interval, now.since(before));
        }
        if let Some(brightness) = self.pipeline.brightness() {
            motion_and_light.note_picture(now, outcome.gate == Some(Reason::Motion), brightness);
        }
        // Corrupt frames do not get here: they are counted where they are reported.
        let FrameCounts {
            frames_gated,
            frames_still,
            frames_corrupt: _,
            frames_repaired,
            inferences,
            inferences_in_region,
            detections,
            candidates_dropped,
            detections_dropped,
        } = *counts;
        metrics.frames_gated.add(frames_gated);
        metrics.frames_still.add(frames_still);
        if frames_repaired > 0 {
            let count = metrics.frames_repaired.add(frames_repaired);
            if count.is_power_of_two() {
                tracing::warn!(count, "JPEGs with stray bytes: they are decoded without them");
            }
        }
        metrics.inferences.add(inferences);
        metrics.detections.add(detections);
        metrics.candidates_dropped.add(candidates_dropped);
        metrics.detections_dropped.add(detections_dropped);
        self.in_region += inferences_in_region;
        if outcome.inferred {
            metrics.times.add(Time::Processing, now.since(frame.begun));
            if !shared.options.until_end {
                // The frames of a recording have its own time.
                metrics.times.add(Time::Latency, now.since(frame.captured_at));
            }
        }
        self.count_tracks(metrics);
    }

    fn count_tracks(&self, metrics: &Metrics) {
        let tracks = self.pipeline.track_counters();
        metrics.tracks.set(tracks.began);
        metrics.tracks_evicted.set(tracks.evicted + tracks.no_room);
        metrics.detections_invalid.set(tracks.refused);
        metrics.detections_over_limit.set(tracks.over);
        metrics.detections_duplicate.set(tracks.duplicates);
    }

    fn count_drops(&self, shared: &Shared, camera: usize) {
        let dropped = self.ring_dropped_before + self.replaced + self.reader.dropped();
        shared.cameras[camera].metrics.frames_ring_dropped.set(dropped);
    }

    /// Ends the tracks of a camera that has delivered nothing usable for too long, as of `now`.
    fn end_lost_tracks(&mut self, shared: &Shared, camera: usize, now: Mono) {
        let CameraStages { pipeline, worker, .. } = self;
        let finish = |at, on: &mut dyn FnMut(Body)| pipeline.finish(at, on);
        if worker.poll(now, finish, &mut |at, body| post(shared, camera, at, body)) {
            self.count_tracks(&shared.cameras[camera].metrics);
        }
    }

    /// No more frames come: ends all tracks.
    pub(super) fn end(mut self, shared: &Shared, camera: usize) {
        let CameraStages { pipeline, worker, .. } = &mut self;
        let finish = |at, on: &mut dyn FnMut(Body)| pipeline.finish(at, on);
        if worker.end(finish, &mut |at, body| post(shared, camera, at, body)) {
            self.count_tracks(&shared.cameras[camera].metrics);
        }
        // Including those that the reader dropped after the last frame was put.
        self.count_drops(shared, camera);
        tracing::info!(
            in_region = self.in_region,
            "{}: inferences on a region of interest",
            shared.camera_label(camera)
        );
    }
}

/// Tracks end this long after the last frame. A recording cannot fall silent, its reader can only be slow: its tracks end with it.
fn silence_max(shared: &Shared, camera: usize) -> Option<Duration> {
    (!shared.options.until_end).then(|| shared.cameras[camera].settings().track.lost_after)
}

/// The frame in a slot.
fn view(slot: &SlotGuard) -> std::result::Result<FrameView<'_>, Failure> {
    FrameView::new(slot.format, slot.valid()).map_err(|error| Failure::Corrupt(error.to_string()))
}

fn post(shared: &Shared, camera: usize, at: Mono, body: Body) {
    if matches!(body, Body::Crossing(_)) {
        shared.cameras[camera].metrics.crossings.add(1);
    }
    shared.post(camera, at, body);
}
