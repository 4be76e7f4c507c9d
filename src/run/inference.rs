//! The pipeline thread: frames from the ring through all stages, their events to the outbox, their outcomes to the counters.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::capture::corrupt;
use super::memory::Plan;
use crate::base::error::{Error, Kind, Result};
use crate::base::limits::RING_SLOTS_MIN;
use crate::capture::Lending;
use crate::capture::frame::{Color, FrameFormat, FrameView, PixelFormat};
use crate::capture::ring::{Policy, Reader, SlotGuard, Taken, Writer, ring, slots_for};
use crate::config::Config;
use crate::delivery::batch::Batcher;
use crate::event::{Body, Event};
use crate::pipeline::{Failure, Outcome, Pipeline};
use crate::platform::clock::Mono;
use crate::platform::cores;
use crate::platform::system;
use crate::platform::watchdog::Stage;
use crate::vision::detect::ClassId;
use crate::vision::detect::engine::{Engine, Precision};
use crate::vision::detect::letterbox::{PADDING, Size};
use crate::vision::detect::model::{BUILTIN, Classes, Loaded};
use crate::vision::gate::Reason;
use crate::vision::roi;
use crate::vision::selftest::{self, Golden};

/// How often a pipeline without frames looks whether its tracks have ended.
const PATIENCE: Duration = Duration::from_millis(500);

/// Everything behind the source for frames of `format`: takes all memory, or refuses to.
pub(super) fn build(
    shared: &Shared,
    format: &FrameFormat,
    slot_bytes: usize,
    lending: Option<Lending>,
    model: Loaded,
    wanted: Vec<ClassId>,
) -> Result<(Writer, Reader, Pipeline)> {
    let config = &shared.config;
    let (engine, classes) = engine(config, model, format)?;
    let resident = system::peak_resident_bytes() as usize;
    let queue = Batcher::bytes(config.uplink.batch.queue_events)
        + config.uplink.batch.batch_events_max * size_of::<Event>();
    let pipeline = Pipeline::new(config.stages(wanted), format, engine, &classes)?;
    let fits = || slots_for(system::memory_bytes(), config.fps, slot_bytes, config.ring_budget);
    // What a camera lends needs no slots of ours: few, so that few of its buffers wait.
    let (slots, slot_bytes, ring_bytes) = match lending {
        Some(Lending { buffers, bytes }) => (RING_SLOTS_MIN, 0, buffers * bytes),
        None => {
            let slots = fits().ok_or_else(|| {
                let text = format!(
                    "memory: three frames of {}x{} do not fit into memory.ring_mb: raise it, or take smaller pictures",
                    format.width, format.height
                );
                Error::fatal(Kind::Config, text)
            })?;
            // A recording waits for us: more than the next frames are memory for nothing.
            let slots = if shared.options.until_end { RING_SLOTS_MIN } else { slots };
            (slots, slot_bytes, slots * slot_bytes)
        }
    };
    let mut plan = Plan::default();
    plan.add("program, model and network (measured)", resident.saturating_sub(queue));
    plan.add("event queue", queue);
    plan.add("spool", config.spool.params.memory_bytes);
    plan.add("stages", pipeline.heap_bytes());
    plan.add(if lending.is_some() { "camera buffers" } else { "frame ring" }, ring_bytes);
    tracing::info!(
        engine = pipeline.describe_engine(),
        slots,
        slot_bytes,
        "ready for {}x{}",
        format.width,
        format.height
    );
    plan.settle(config.memory_budget)?;
    let policy = if shared.options.until_end { Policy::Lossless } else { Policy::NewestWins };
    let (writer, reader) = ring(policy, slots, slot_bytes);
    Ok((writer, reader, pipeline))
}

/// The network for frames of that size, run once at each of its sizes as if something were everywhere: proves that it runs, and
/// shows what it takes at most. The largest is run on the picture of the self-test; if nothing is recorded for it, the same file at
/// a size for which something is.
pub(crate) fn engine(
    config: &Config,
    model: Loaded,
    format: &FrameFormat,
) -> Result<(Box<dyn Engine>, Classes)> {
    let size = Size { width: format.width as usize, height: format.height as usize };
    let path = config.model.as_ref().map_or(Path::new(BUILTIN), |model| &model.path);
    let golden = Golden::of(path, model.sha256())?;
    let precision = config.model.as_ref().map_or(Precision::Fp32, |model| model.engine.precision);
    // The engine's threads, which begin here, stay there too.
    cores::run_on(&config.cores)?;
    let test = |engine: &mut dyn Engine, classes: &Classes, golden: &Golden| -> Result<()> {
        let boxes = selftest::check(engine, precision, classes, golden)?;
        tracing::info!(boxes, "the self-test passed: the network finds what it must");
        Ok(())
    };
    let input = model.size_for(size)?;
    let tested_here = golden.as_ref().is_some_and(|golden| golden.knows(input));
    match &golden {
        Some(_) if tested_here => {}
        Some(golden) => {
            let (mut engine, classes) = Loaded::open(&config.model()?)?.into_engine(selftest::FRAMES[0])?;
            test(&mut *engine, &classes, golden)?;
        }
        None => tracing::info!(
            "nothing is recorded for a self-test of this model: 'flytrap selftest --record' does that"
        ),
    }
    let focuses = config.focus.is_some() && config.gate.is_some();
    let (mut engine, classes) = if focuses && model.is_dynamic() {
        let rungs = roi::rungs(input, model.stride());
        model.into_rungs(&rungs)?
    } else {
        if focuses {
            let why = "the model has one input size (export it with dynamic=True)";
            tracing::info!("whole pictures are looked at, not parts: {why}");
        }
        model.into_engine(size)?
    };
    system::give_back_memory();
    system::reset_peak();
    for rung in (1..engine.rungs().len()).rev() {
        engine.select(rung);
        engine.input().fill(PADDING);
        engine.run(0.0)?;
    }
    engine.select(0);
    match golden.filter(|_| tested_here) {
        Some(golden) => test(&mut *engine, &classes, &golden)?,
        None => {
            engine.input().fill(PADDING);
            engine.run(0.0)?;
        }
    }
    Ok((engine, classes))
}

/// That the network of the configuration passes its self-test, before there is a camera.
pub(super) fn prove(config: &Config) -> Result<()> {
    let format = FrameFormat::packed(PixelFormat::I420, 640, 480, Color::default())
        .map_err(|error| Error::fatal(Kind::System, "a usual format").caused_by(error))?;
    engine(config, Loaded::open(&config.model()?)?, &format)?;
    system::give_back_memory();
    Ok(())
}

/// The thread's state.
pub(super) struct Processor {
    shared: Arc<Shared>,
    reader: Reader,
    pipeline: Pipeline,
    /// Stamp of the newest frame, and whether tracks may be open since.
    newest: Option<Mono>,
    first: bool,
    /// Looks at a part of the picture.
    in_part: u64,
}

impl Processor {
    pub(super) fn new(shared: Arc<Shared>, reader: Reader, pipeline: Pipeline) -> Self {
        Processor { shared, reader, pipeline, newest: None, first: true, in_part: 0 }
    }

    /// Processes until the ring is closed and empty.
    pub(super) fn run(mut self) -> Result<()> {
        let outcome = loop {
            self.shared.heartbeat(Stage::Pipeline, PATIENCE);
            match self.reader.take(PATIENCE) {
                Taken::Frame(slot) => {
                    if let Err(error) = self.process(&slot) {
                        break Err(error);
                    }
                }
                Taken::TimedOut => self.silence(),
                Taken::Closed => break Ok(()),
            }
        };
        self.end_tracks();
        tracing::info!(in_part = self.in_part, "looks at a part of the picture");
        self.shared.ledger.ended(Stage::Pipeline);
        if outcome.is_err() {
            self.shared.stop.request();
        }
        outcome
    }

    fn process(&mut self, slot: &SlotGuard) -> Result<()> {
        let at = slot.meta.captured_at;
        let begun = self.shared.clock.mono();
        self.newest = Some(at);
        let frame = match FrameView::new(slot.format, slot.valid()) {
            Ok(frame) => frame,
            Err(error) => {
                corrupt(&self.shared, &error);
                return Ok(());
            }
        };
        let shared = &self.shared;
        if let Some(sensed) = shared.motion_and_light.last_sensed() {
            self.pipeline.wake(sensed);
        }
        let outcome = self.pipeline.process(&frame, at, &mut |body| post(shared, at, body));
        match outcome {
            Ok(outcome) => self.count(&outcome, begun),
            Err(Failure::Corrupt(why)) => corrupt(&self.shared, &why),
            Err(Failure::Engine(error)) => return Err(error),
        }
        Ok(())
    }

    /// Outcomes become counters; `begun` is when the frame left the ring.
    fn count(&mut self, outcome: &Outcome, begun: Mono) {
        let now = self.shared.clock.mono();
        let metrics = &self.shared.metrics;
        metrics.saw_frame(now);
        if let Some(brightness) = self.pipeline.brightness() {
            self.shared.motion_and_light.note_picture(now, outcome.gate == Some(Reason::Motion), brightness);
        }
        metrics.frames_gated.add(u64::from(outcome.gate.is_some()));
        metrics.frames_still.add(u64::from(!outcome.inferred));
        if outcome.inferred {
            metrics.inferences.add(1);
            self.in_part += u64::from(outcome.look.is_some());
            metrics.detections.add(u64::from(outcome.detections));
            metrics.candidates_dropped.add(u64::from(outcome.dropped.candidates));
            metrics.detections_dropped.add(u64::from(outcome.dropped.detections));
            metrics.processed(now.since(begun).as_micros() as u64);
        }
        self.count_tracks();
        if outcome.detections > 0 && std::mem::take(&mut self.first) {
            let millis = now.since(self.shared.started).as_millis() as u64;
            tracing::info!(millis, "the first road user was detected");
        }
    }

    fn count_tracks(&self) {
        let tracks = self.pipeline.track_counters();
        self.shared.metrics.tracks.set(tracks.began);
        self.shared.metrics.tracks_evicted.set(tracks.evicted + tracks.no_room);
    }

    /// No frame came. A camera that stays away takes its tracks with it; a recording only has a slow reader.
    fn silence(&mut self) {
        let Some(newest) = self.newest else { return };
        let silent = self.shared.clock.mono().since(newest);
        if !self.shared.options.until_end && silent >= self.shared.config.track.lost_after {
            self.end_tracks();
        }
    }

    fn end_tracks(&mut self) {
        let Some(at) = self.newest.take() else { return };
        let shared = &self.shared;
        self.pipeline.finish(at, &mut |body| post(shared, at, body));
        self.count_tracks();
    }
}

fn post(shared: &Shared, at: Mono, body: Body) {
    if matches!(body, Body::Crossing(_)) {
        shared.metrics.crossings.add(1);
    }
    shared.post(at, body);
}
