//! The pipeline thread: takes frames from the ring through all stages, posts their events to the outbox, and counts their outcomes.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::capture::corrupt;
use super::memory::{Mebibytes, Plan};
use crate::analytics::UnseenMotion;
use crate::base::error::{Error, Kind, Result};
use crate::base::limits::RING_SLOTS_MIN;
use crate::capture::Lending;
use crate::capture::frame::{FrameFormat, FrameView, PixelFormat};
use crate::capture::ring::{Policy, Reader, SlotGuard, Taken, Writer, ring, slots_for};
use crate::config::Config;
use crate::delivery::uplink::Outbox;
use crate::event::{Body, Event};
use crate::pipeline::worker::{FrameCounts, FrameWorker};
use crate::pipeline::{Failure, Outcome, Pipeline, WithEngine};
use crate::platform::clock::Mono;
use crate::platform::system;
use crate::platform::watchdog::Stage;
use crate::vision::detect::ClassId;
use crate::vision::detect::letterbox::Size;
use crate::vision::detect::model::Loaded;
use crate::vision::gate::Reason;
use crate::vision::load;

/// How often a pipeline without frames checks whether its tracks have ended.
const PATIENCE: Duration = Duration::from_millis(500);

/// Memory requirements of a camera's frames, as announced by its source.
pub(super) struct Incoming {
    /// The first format, the largest that will come.
    pub(super) format: FrameFormat,
    /// Bytes of a ring slot.
    pub(super) slot_bytes: usize,
    /// Number of the source's own buffers in which frames are processed.
    pub(super) lending: Option<Lending>,
}

/// Builds everything behind the source: allocates all memory, or refuses to. The sum is computed from the plans before the engine's threads
/// start and the ring is allocated; afterwards it is checked again with measured values.
pub(super) fn build(
    shared: &Arc<Shared>,
    incoming: &Incoming,
    model: Loaded,
    wanted: Vec<ClassId>,
) -> Result<(Writer, Processor)> {
    let config = &shared.config;
    let format = &incoming.format;
    // Measured: resident memory now, without the parsed file, which is freed, and the event queue, which is counted below.
    let program =
        (system::resident_bytes() as usize).saturating_sub(model.file_bytes() + queue_bytes(config));
    let classes = model.classes().clone();
    let prepared = load::plan(model, frame_size(format), &config.loading())?;
    let before_stages = system::resident_bytes() as usize;
    let pipeline = Pipeline::new(config.camera.stages(wanted), format, prepared.shape(), &classes)?;
    let stages_touched = (system::resident_bytes() as usize).saturating_sub(before_stages);
    let (slots, slot_bytes, ring_bytes) = ring_of(shared, incoming)?;
    // Computed: the plans of everything else. Only tract's memory is unknown before it has run.
    let mut others = Plan::default();
    others.append(&fixed_plan(config));
    others.add("stages", pipeline.heap_bytes());
    others.add(if incoming.lending.is_some() { "camera buffers" } else { "frame ring" }, ring_bytes);
    let mut planned = Plan::default();
    planned.add("program (measured)", program);
    planned.add("network", prepared.costs().map_or(0, |costs| costs.total_bytes()));
    planned.append(&others);
    planned.check(config.memory.budget)?;
    let (engine, _) = prepared.start()?;
    // Measured: peak resident memory while the network ran at each size.
    let resident = system::peak_resident_bytes() as usize;
    let mut measured = Plan::default();
    measured.add(
        "program, model and network (measured)",
        resident.saturating_sub(queue_bytes(config) + stages_touched),
    );
    measured.append(&others);
    tracing::info!(
        engine = engine.describe(),
        slots,
        slot_bytes,
        "ready for {}x{}",
        format.width,
        format.height
    );
    tracing::info!("memory: {} were planned before the network started", Mebibytes(planned.sum()));
    measured.settle(config.memory.budget)?;
    let policy = if shared.options.until_end { Policy::Lossless } else { Policy::NewestWins };
    let (writer, reader) = ring(policy, slots, slot_bytes);
    if incoming.lending.is_none() {
        writer.allow(ring_bytes);
    }
    Ok((writer, Processor::new(Arc::clone(shared), reader, WithEngine { pipeline, engine })))
}

/// Checks the budget with what is known before the first thread starts: the program, the model file, and everything that does not depend on
/// the camera. The network is at least as large as its file.
pub(super) fn check_budget(config: &Config, model: &Loaded) -> Result<()> {
    let mut plan = Plan::default();
    let resident = system::resident_bytes() as usize;
    plan.add("program (measured)", resident.saturating_sub(model.file_bytes()));
    plan.add("network (at least)", model.file_bytes());
    plan.append(&fixed_plan(config));
    plan.check(config.memory.budget)
}

/// What does not depend on the camera or the model.
fn fixed_plan(config: &Config) -> Plan {
    let mut plan = Plan::default();
    plan.add("event queue", queue_bytes(config));
    plan.add("spool", config.spool.params.memory_bytes);
    plan
}

fn queue_bytes(config: &Config) -> usize {
    Outbox::bytes(config.uplink.queue_events) + config.uplink.batching.events_max * size_of::<Event>()
}

fn frame_size(format: &FrameFormat) -> Size {
    Size { width: format.width as usize, height: format.height as usize }
}

/// Number and size of the ring's slots, and the total bytes for frames.
fn ring_of(shared: &Shared, incoming: &Incoming) -> Result<(usize, usize, usize)> {
    let (config, Incoming { format, slot_bytes, lending }) = (&shared.config, incoming);
    // Buffers lent by a camera need no slots of ours: few, so that few of its buffers are held.
    if let Some(Lending { buffers, bytes }) = lending {
        return Ok((RING_SLOTS_MIN, 0, buffers * bytes));
    }
    // JPEGs have no fixed size: their slots begin with an estimate, within the ring's budget, and grow with the frames.
    let is_jpeg = format.pixel == PixelFormat::Mjpeg;
    let slot_bytes =
        if is_jpeg { (*slot_bytes).min(config.memory.ring / RING_SLOTS_MIN) } else { *slot_bytes };
    let slots = slots_for(system::memory_bytes(), config.camera.fps, slot_bytes, config.memory.ring);
    let slots = slots.ok_or_else(|| {
        let needed_mb = (RING_SLOTS_MIN * slot_bytes).div_ceil(1 << 20);
        let text = format!(
            "memory: {RING_SLOTS_MIN} frames of {format} do not fit into memory.ring_mb = {}: set it to {needed_mb} or more, and \
             memory.budget_mb accordingly, or take smaller pictures",
            config.memory.ring >> 20
        );
        Error::fatal(Kind::Config, text)
    })?;
    // A recording waits for us: queueing more than the next frames only costs memory.
    let slots = if shared.options.until_end { RING_SLOTS_MIN } else { slots };
    let largest =
        if is_jpeg { config.memory.ring.min(RING_SLOTS_MIN * format.encoded_bytes_max()) } else { 0 };
    Ok((slots, slot_bytes, largest.max(slots * slot_bytes)))
}

/// Checks that the configured network passes its self-test before the camera is opened.
pub(super) fn prove(config: &Config, model: Loaded) -> Result<()> {
    let usual = Size { width: 640, height: 480 };
    load::engine(model, usual, &config.loading())?;
    system::give_back_memory();
    Ok(())
}

/// The thread's state.
pub(super) struct Processor {
    shared: Arc<Shared>,
    reader: Reader,
    stages: WithEngine,
    worker: FrameWorker,
    /// Frames that earlier rings dropped.
    ring_dropped_before: u64,
    first: bool,
    /// Inferences on a region of interest.
    in_region: u64,
    unseen: UnseenMotion,
}

impl Processor {
    fn new(shared: Arc<Shared>, reader: Reader, stages: WithEngine) -> Self {
        // A recording cannot fall silent, its reader can only be slow: its tracks end with it.
        let silence_max = (!shared.options.until_end).then_some(shared.config.camera.track.lost_after);
        let ring_dropped_before = shared.metrics.frames_ring_dropped.get();
        Processor {
            ring_dropped_before,
            shared,
            reader,
            stages,
            worker: FrameWorker::new(silence_max),
            first: true,
            in_region: 0,
            unseen: UnseenMotion::default(),
        }
    }

    /// Processes until the ring is closed and empty.
    pub(super) fn run(mut self) -> Result<()> {
        let outcome = loop {
            self.shared.heartbeat(Stage::Pipeline, PATIENCE);
            let now = match self.reader.take(PATIENCE) {
                Taken::Frame(slot) => {
                    if let Err(error) = self.process(&slot) {
                        break Err(error);
                    }
                    // Not the clock: behind a slow network, frames that wait in the ring are not silence.
                    slot.meta.captured_at
                }
                Taken::TimedOut => self.shared.clock.mono(),
                Taken::Closed => break Ok(()),
            };
            self.end_lost_tracks(now);
        };
        self.end_tracks();
        // Including those that the reader dropped after the last frame was put.
        self.shared.metrics.frames_ring_dropped.set(self.ring_dropped_before + self.reader.dropped());
        tracing::info!(in_region = self.in_region, "inferences on a region of interest");
        self.shared.ledger.ended(Stage::Pipeline);
        if outcome.is_err() {
            self.shared.stop.request();
        }
        outcome
    }

    fn process(&mut self, slot: &SlotGuard) -> Result<()> {
        let at = slot.meta.captured_at;
        let begun = self.shared.clock.mono();
        let Processor { shared, stages, worker, .. } = self;
        if let Some(sensed) = shared.motion_and_light.last_sensed() {
            stages.pipeline.wake(sensed);
        }
        let view_and_process = |on: &mut dyn FnMut(Body)| {
            let frame = FrameView::new(slot.format, slot.valid())
                .map_err(|error| Failure::Corrupt(error.to_string()))?;
            stages.process(&frame, at, on)
        };
        let processed = worker.frame(at, view_and_process, &mut |at, body| post(shared, at, body))?;
        match processed.outcome {
            Ok(outcome) => {
                if self.unseen.look(at, outcome.gate == Some(Reason::Motion), outcome.detections) {
                    tracing::warn!(
                        "something has moved for a minute, but nothing of the counted classes was detected: the model may not know this view \
                         (from straight above, or road users that are too small): look with `flytrap detect`, move the camera closer \
                         or lower, or name other track.classes"
                    );
                }
                self.count(&processed.counts, &outcome, at, begun);
            }
            Err(why) => corrupt(shared, &why),
        }
        Ok(())
    }

    /// Adds the outcomes to the counters; the frame was captured at `at` and left the ring at `begun`.
    fn count(&mut self, counts: &FrameCounts, outcome: &Outcome, at: Mono, begun: Mono) {
        let now = self.shared.clock.mono();
        let metrics = &self.shared.metrics;
        metrics.saw_frame(at, now);
        if let Some(brightness) = self.stages.pipeline.brightness() {
            self.shared.motion_and_light.note_picture(now, outcome.gate == Some(Reason::Motion), brightness);
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
            metrics.processed(now.since(begun).as_micros() as u64);
        }
        self.count_tracks();
        if outcome.detections > 0 && std::mem::take(&mut self.first) {
            let millis = now.since(self.shared.started).as_millis() as u64;
            tracing::info!(millis, "the first road user was detected");
        }
    }

    fn count_tracks(&self) {
        let (tracks, metrics) = (self.stages.pipeline.track_counters(), &self.shared.metrics);
        metrics.tracks.set(tracks.began);
        metrics.tracks_evicted.set(tracks.evicted + tracks.no_room);
        metrics.detections_invalid.set(tracks.refused);
        metrics.detections_over_limit.set(tracks.over);
        metrics.detections_duplicate.set(tracks.duplicates);
    }

    /// Ends the tracks of a camera that has delivered nothing usable for too long, as of `now`.
    fn end_lost_tracks(&mut self, now: Mono) {
        let Processor { shared, stages, worker, .. } = self;
        let finish = |at, on: &mut dyn FnMut(Body)| stages.pipeline.finish(at, on);
        if worker.poll(now, finish, &mut |at, body| post(shared, at, body)) {
            self.count_tracks();
        }
    }

    /// No more frames come.
    fn end_tracks(&mut self) {
        let Processor { shared, stages, worker, .. } = self;
        let finish = |at, on: &mut dyn FnMut(Body)| stages.pipeline.finish(at, on);
        if worker.end(finish, &mut |at, body| post(shared, at, body)) {
            self.count_tracks();
        }
    }
}

fn post(shared: &Shared, at: Mono, body: Body) {
    if matches!(body, Body::Crossing(_)) {
        shared.metrics.crossings.add(1);
    }
    shared.post(at, body);
}
