//! The pure stages in sequence: everything that happens to one frame.
//!
//! ```text
//!   frame ─► gate ──closed──► tracks stand still
//!              │ open
//!              ▼
//!   roi   ─► (JPEG decode) ─► letterbox ─► engine ─► decode ─► track ─► count ─► events
//! ```
//! No camera, no clock, no network, no disk: the same [`Pipeline`] runs from a camera, a recording, or a simulated street.
//! The caller owns the engine, so pipelines of several cameras may share one: each frame passes the gate at once
//! ([`Pipeline::look`]), and those that need it wait for their turn at the engine ([`Pipeline::infer`], [`scheduler`]). After the first frame our own stages make no heap call (I1).

pub mod load;
pub mod presence;
pub mod scheduler;
pub mod worker;

use crate::analytics::track;
use crate::analytics::{self, Analytics};
use crate::base::error::Result;
use crate::capture::frame::{FrameFormat, FrameView, PixelFormat};
use crate::event::Body;
use crate::platform::clock::Mono;
use crate::vision::detect::decode::{self, Decoder, Dropped};
use crate::vision::detect::engine::{Engine, Shape};
use crate::vision::detect::letterbox::{Letterbox, Region, Size};
use crate::vision::detect::model::Classes;
use crate::vision::detect::{ClassId, Detections};
use crate::vision::gate::{self, Gate, Verdict};
use crate::vision::jpeg::JpegDecoder;
use crate::vision::roi::{self, INPUT_SIZES_MAX, RoiPlan, RoiPlanner};

/// Settings of all stages.
#[derive(Debug, Clone)]
pub struct Params {
    /// The motion gate; `None`: every frame is processed.
    pub gate: Option<gate::Params>,
    /// Thresholds of the decoder. Its `score_min` is the lowest score with which the tracker may continue a track.
    pub decode: decode::Params,
    /// Classes to track; empty: all classes of the model.
    pub wanted: Vec<ClassId>,
    /// The tracker and counting.
    pub analytics: analytics::Params,
    /// Regions of interest, for an engine with several input sizes; `None`: always the whole frame.
    pub roi: Option<roi::Params>,
}

/// What was done with a frame; input to the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The gate's reason, if there is a gate.
    pub gate: Option<gate::Reason>,
    /// Whether inference ran.
    pub inferred: bool,
    /// The region that inference ran on, if not the whole frame.
    pub roi: Option<RoiPlan>,
    /// Detections of the wanted classes, including weak ones; without those that the edge of the region cuts off.
    pub detections: u32,
    /// Detections dropped because the decoder was full.
    pub dropped: Dropped,
    /// The frame is a JPEG with stray bytes; it was decoded without them.
    pub repaired: bool,
}

/// Why a frame was not processed.
#[derive(Debug)]
pub enum Failure {
    /// The bytes are not a valid picture: the frame is counted and processing continues.
    Corrupt(String),
    /// Inference failed.
    Engine(crate::base::error::Error),
}

/// A frame that has passed the gate.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "lives on the stack for a moment; a box would be a heap call for every frame"
)]
pub enum Looked {
    /// It is processed: nothing moved.
    Still(Outcome),
    /// Inference is to run on it.
    Open(OpenFrame),
}

/// A step of [`Pipeline::infer`] that is done: the caller, who has a clock, measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The JPEG is decoded, and the network's input filled.
    Prepared,
    /// The network has run.
    Ran,
}

/// What is known of a frame before inference runs on it.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenFrame {
    verdict: Option<Verdict>,
}

impl OpenFrame {
    /// Whether something moves in it, or moved a moment ago. Without a gate nobody knows, so it counts as moving.
    pub fn moves(&self) -> bool {
        self.verdict.as_ref().is_none_or(|verdict| match verdict.reason {
            gate::Reason::Motion | gate::Reason::Hold | gate::Reason::Woken => true,
            gate::Reason::Warmup
            | gate::Reason::Refresh
            | gate::Reason::LightSwitch
            | gate::Reason::Still => false,
        })
    }
}

/// All stages of one camera.
pub struct Pipeline {
    gate: Option<Gate>,
    planner: Option<RoiPlanner>,
    /// Lowest score with which a detection begins a track.
    score_new: f32,
    jpeg: Option<JpegDecoder>,
    letterbox: Letterbox,
    decoder: Decoder,
    detections: Detections,
    analytics: Analytics,
    size: (u32, u32),
    /// The input sizes that this camera uses, the whole frame's first. The engine may have more.
    input_sizes: heapless::Vec<Size, INPUT_SIZES_MAX>,
}

impl Pipeline {
    /// Builds the stages for frames of `format` (the largest that will come) and a network of the given shape: with the input sizes that
    /// this camera uses, the whole frame's first. Allocates all memory.
    ///
    /// # Errors
    /// `Kind::Config`: a stage's settings are out of range.
    pub fn new(params: Params, format: &FrameFormat, network: &Shape, classes: &Classes) -> Result<Self> {
        let FrameFormat { width, height, pixel, .. } = *format;
        let wanted = |class| params.wanted.is_empty() || params.wanted.contains(&class);
        let jpeg = (pixel == PixelFormat::Mjpeg).then(|| JpegDecoder::new(width, height));
        let planner = match params.roi {
            Some(planner) if params.gate.is_some() => RoiPlanner::new(planner, &network.sizes)?,
            _ => None,
        };
        let names: Vec<&str> = classes.names().collect();
        Ok(Pipeline {
            planner,
            score_new: params.analytics.track.score_new,
            gate: params.gate.map(|gate| Gate::new(gate, width, height)).transpose()?,
            jpeg,
            letterbox: Letterbox::new(network.sizes[0]),
            decoder: Decoder::new(network.head, params.decode, wanted),
            detections: Detections::new(),
            analytics: Analytics::new(&params.analytics, (width, height), &names)?,
            size: (width, height),
            input_sizes: network.sizes.iter().copied().take(INPUT_SIZES_MAX).collect(),
        })
    }

    /// Heap bytes that the stages allocated, without the engine: one summand of the memory budget (I1).
    pub fn heap_bytes(&self) -> usize {
        self.gate.as_ref().map_or(0, |_| Gate::bytes())
            + self.jpeg.as_ref().map_or(0, JpegDecoder::heap_bytes)
            + self.letterbox.heap_bytes()
            + self.decoder.heap_bytes()
            + self.analytics.heap_bytes()
            + size_of::<Detections>()
    }

    /// Other settings from the next frame on; background, tracks and counts continue. Whether there is a gate, and which input sizes the
    /// network has, stays.
    ///
    /// # Errors
    /// `Kind::Config`: a stage's settings are out of range; that stage and those behind it are as before.
    pub fn set(&mut self, params: Params) -> Result<()> {
        if let (Some(gate), Some(params)) = (&mut self.gate, params.gate) {
            gate.set(params)?;
        }
        if let (Some(planner), Some(params)) = (&mut self.planner, params.roi) {
            planner.set(params)?;
        }
        self.analytics.set(&params.analytics, self.size)?;
        self.score_new = params.analytics.track.score_new;
        let wanted = params.wanted;
        self.decoder.set(params.decode, |class| wanted.is_empty() || wanted.contains(&class));
        Ok(())
    }

    /// The detections of the last inference.
    pub fn detections(&self) -> &Detections {
        &self.detections
    }

    /// The name of a class of the model; `?` for an unknown class.
    pub fn class_name(&self, class: ClassId) -> &str {
        self.analytics.class_name(class)
    }

    /// The tracker's counters.
    pub fn track_counters(&self) -> track::Counters {
        self.analytics.tracker().counters()
    }

    /// Takes one frame, captured at `at`, through all stages. `engine` must have the input sizes that the pipeline was built for. Events go
    /// to `on`.
    ///
    /// # Errors
    /// [`Failure::Corrupt`] costs this frame only; [`Failure::Engine`] is permanent.
    pub fn process(
        &mut self,
        engine: &mut dyn Engine,
        frame: &FrameView<'_>,
        at: Mono,
        on: &mut dyn FnMut(Body),
    ) -> std::result::Result<Outcome, Failure> {
        match self.look(frame, at, on)? {
            Looked::Still(outcome) => Ok(outcome),
            Looked::Open(open) => self.infer(engine, (frame, at), &open, &mut |_| {}, on),
        }
    }

    /// The first half of [`Pipeline::process`]: the gate. A frame that it lets through goes to [`Pipeline::infer`], unless a newer one
    /// replaces it.
    ///
    /// # Errors
    /// [`Failure::Corrupt`].
    pub fn look(
        &mut self,
        frame: &FrameView<'_>,
        at: Mono,
        on: &mut dyn FnMut(Body),
    ) -> std::result::Result<Looked, Failure> {
        self.follow_size(frame.format(), at, on);
        let verdict = self.ask_gate(frame, at)?;
        if let Some(reason) = verdict.as_ref().map(|verdict| verdict.reason).filter(|reason| !reason.open()) {
            self.analytics.still(at, on);
            let repaired = self.repaired(frame);
            return Ok(Looked::Still(Outcome { gate: Some(reason), repaired, ..Outcome::default() }));
        }
        Ok(Looked::Open(OpenFrame { verdict }))
    }

    /// The second half: inference on the newest frame that passed the gate, and all stages behind it. Calls `mark` after each step.
    ///
    /// # Errors
    /// As [`Pipeline::process`].
    pub fn infer(
        &mut self,
        engine: &mut dyn Engine,
        (frame, at): (&FrameView<'_>, Mono),
        open: &OpenFrame,
        mark: &mut dyn FnMut(Step),
        on: &mut dyn FnMut(Body),
    ) -> std::result::Result<Outcome, Failure> {
        let verdict = open.verdict.as_ref();
        let gate = verdict.map(|verdict| verdict.reason);
        let roi = self.plan_roi(at, verdict);
        let dropped = self.detect(engine, frame, roi, mark)?;
        if let Some(planner) = &mut self.planner {
            planner.looked(at, roi);
            if let Some(roi) = &roi {
                let tracks = self.analytics.tracker().outlook(at);
                planner.drop_cut(
                    roi,
                    &mut self.detections,
                    &tracks,
                    self.score_new,
                    size_of_frame(self.size),
                );
            }
        }
        let part = roi.map(|roi| roi.region.bbox());
        self.analytics.update(at, &self.detections, part.as_ref(), on);
        let detections = self.detections.len() as u32;
        Ok(Outcome { gate, inferred: true, roi, detections, dropped, repaired: self.repaired(frame) })
    }

    /// Whether the JPEG that was decoded last had stray bytes.
    fn repaired(&self, frame: &FrameView<'_>) -> bool {
        let is_jpeg = frame.format().pixel == PixelFormat::Mjpeg;
        is_jpeg && self.jpeg.as_ref().is_some_and(|jpeg| jpeg.stray_bytes() > 0)
    }

    /// Opens the gate at `at` because something other than the picture (the motion sensor) reports motion.
    pub fn wake(&mut self, at: Mono) {
        if let Some(gate) = &mut self.gate {
            gate.wake(at);
        }
    }

    /// Mean brightness of the last frame, code values; `None` without a gate, because only the gate measures it.
    pub fn brightness(&self) -> Option<u8> {
        self.gate.as_ref().map(Gate::brightness)
    }

    /// Ends all tracks: the source ended at `at`.
    pub fn finish(&mut self, at: Mono, on: &mut dyn FnMut(Body)) {
        self.analytics.finish(at, on);
    }

    /// Adapts to frames of another size (a picture folder): all state in frame pixels is reset.
    fn follow_size(&mut self, format: &FrameFormat, at: Mono, on: &mut dyn FnMut(Body)) {
        let size = (format.width, format.height);
        if size == self.size {
            return;
        }
        self.finish(at, on);
        self.size = size;
        self.analytics.resize(size.0, size.1);
        if let Some(planner) = &mut self.planner {
            planner.reset();
        }
        if let Some(gate) = &mut self.gate {
            // A mask that leaves nothing at this size makes the gate watch the whole frame; a size out of range is not a valid frame.
            let _looks_everywhere = gate.set_frame(size.0, size.1).is_err();
        }
    }

    /// Runs the gate. A JPEG is not decoded for it: the block means are enough.
    fn ask_gate(&mut self, frame: &FrameView<'_>, at: Mono) -> std::result::Result<Option<Verdict>, Failure> {
        let Some(gate) = &mut self.gate else { return Ok(None) };
        let verdict = match (frame.planes(), &mut self.jpeg) {
            (Ok(planes), _) => gate.look(at, &planes.luma()),
            (Err(_), Some(jpeg)) => gate.look(at, &jpeg.decode_dc_luma(frame.bytes()).map_err(corrupt)?),
            (Err(error), None) => return Err(corrupt(error)),
        };
        Ok(Some(verdict))
    }

    /// Plans the region of interest.
    fn plan_roi(&mut self, at: Mono, verdict: Option<&Verdict>) -> Option<RoiPlan> {
        let planner = self.planner.as_mut()?;
        let tracks = self.analytics.tracker().outlook(at);
        verdict.and_then(|verdict| planner.choose(at, verdict, &tracks, size_of_frame(self.size)))
    }

    /// Letterbox, inference, decode: fills `detections`.
    fn detect(
        &mut self,
        engine: &mut dyn Engine,
        frame: &FrameView<'_>,
        roi: Option<RoiPlan>,
        mark: &mut dyn FnMut(Step),
    ) -> std::result::Result<Dropped, Failure> {
        let size = size_of_frame(self.size);
        let part = roi.map_or(Region::whole(size), |roi| roi.region);
        let Pipeline { jpeg, letterbox, decoder, detections, .. } = self;
        // Another camera may have left the engine at another size, and its sizes may be in another order than ours.
        let input = self.input_sizes[roi.map_or(0, |roi| roi.size_index)];
        if let Some(index) = engine.input_sizes().iter().position(|size| *size == input) {
            engine.select(index);
        }
        let model = engine.size();
        let placement = match (frame.planes(), jpeg) {
            (Ok(planes), _) => {
                letterbox.fill_region((&planes, frame.format().color), part, model, engine.input())
            }
            (Err(_), Some(jpeg)) => {
                let decoded = jpeg.decode(frame.bytes()).map_err(corrupt)?;
                let have = Size { width: decoded.planes.width(), height: decoded.planes.height() };
                if have != size {
                    return Err(corrupt(format!(
                        "a JPEG of {}x{} among those of {}x{}",
                        have.width, have.height, size.width, size.height
                    )));
                }
                letterbox.fill_region((&decoded.planes, decoded.color), part, model, engine.input())
            }
            (Err(error), None) => return Err(corrupt(error)),
        };
        mark(Step::Prepared);
        let output = engine.run(decoder.score_min()).map_err(Failure::Engine)?;
        mark(Step::Ran);
        Ok(decoder.decode(output, &placement, detections))
    }
}

/// A pipeline that has an engine of its own.
pub struct WithEngine {
    /// The stages.
    pub pipeline: Pipeline,
    /// The engine.
    pub engine: Box<dyn Engine>,
}

impl WithEngine {
    /// As [`Pipeline::process`].
    ///
    /// # Errors
    /// As [`Pipeline::process`].
    pub fn process(
        &mut self,
        frame: &FrameView<'_>,
        at: Mono,
        on: &mut dyn FnMut(Body),
    ) -> std::result::Result<Outcome, Failure> {
        self.pipeline.process(&mut *self.engine, frame, at, on)
    }
}

fn size_of_frame((width, height): (u32, u32)) -> Size {
    Size { width: width as usize, height: height as usize }
}

fn corrupt(error: impl std::fmt::Display) -> Failure {
    Failure::Corrupt(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::frame::Color;
    use crate::vision::detect::engine::EngineParams;
    use crate::vision::detect::model::{self, BUILTIN, Loaded};
    use std::time::Duration;

    const FRAMES: u32 = 30;

    /// Frames of a simulated street.
    fn street(seed: u64, frames: u32) -> (FrameFormat, Vec<Vec<u8>>) {
        use crate::sim::scene::{Scene, SceneParams};
        let params = SceneParams { seed, calm: true, ..SceneParams::default() };
        let mut scene = Scene::new(&params).unwrap();
        let (width, height) = (scene.setting().width, scene.setting().height);
        let format = FrameFormat::packed(PixelFormat::Rgb24, width, height, Color::JPEG).unwrap();
        let mut picture = |frame: u32| {
            let mut rgb = vec![0; scene.picture_bytes()];
            scene.render(f64::from(frame) / 5.0, &mut rgb);
            rgb
        };
        (format, (0..frames).map(&mut picture).collect())
    }

    fn loaded() -> Loaded {
        let engine = EngineParams::default();
        Loaded::open(&model::Params { path: BUILTIN.into(), sha256: None, engine, ranges: None, trial: None })
            .unwrap()
    }

    fn params() -> Params {
        Params {
            gate: Some(gate::Params::default()),
            decode: decode::Params { score_min: 0.1, iou_max: 0.5 },
            wanted: Vec::new(),
            analytics: analytics::Params {
                track: track::Params::default(),
                count: analytics::count::Params::default(),
                lines: Vec::new(),
            },
            roi: Some(roi::Params::default()),
        }
    }

    /// What a pipeline finds in each frame, and at which input size.
    type Found = Vec<(Option<RoiPlan>, Vec<crate::vision::detect::Detection>)>;

    fn step(
        pipeline: &mut Pipeline,
        engine: &mut dyn Engine,
        format: FrameFormat,
        frame: &[u8],
        at: usize,
        found: &mut Found,
    ) {
        let at = Mono::ZERO + Duration::from_millis(200 * at as u64);
        let outcome =
            pipeline.process(engine, &FrameView::new(format, frame).unwrap(), at, &mut |_| {}).unwrap();
        found.push((outcome.roi, pipeline.detections().to_vec()));
    }

    #[test]
    fn cameras_that_share_an_engine_detect_the_same_as_alone() {
        let loaded = loaded();
        let sizes =
            roi::input_sizes(loaded.size_for(Size { width: 640, height: 360 }).unwrap(), loaded.stride());
        assert!(sizes.len() > 1, "{sizes:?}");
        let start = || loaded.clone().plan(&sizes).unwrap().start().unwrap();
        let cameras = [street(3, FRAMES), street(4, FRAMES)];
        let (mut shared, classes) = start();
        let pipeline = |format: &FrameFormat, engine: &dyn Engine| {
            Pipeline::new(params(), format, &engine.shape(), &classes).unwrap()
        };
        let mut pipelines: Vec<Pipeline> =
            cameras.iter().map(|(format, _)| pipeline(format, &*shared)).collect();
        let mut together: [Found; 2] = Default::default();
        for at in 0..FRAMES as usize {
            for (camera, (format, frames)) in cameras.iter().enumerate() {
                step(&mut pipelines[camera], &mut *shared, *format, &frames[at], at, &mut together[camera]);
            }
        }
        let looks = |found: &Found| found.iter().filter(|(roi, _)| roi.is_some()).count();
        assert!(together.iter().map(looks).sum::<usize>() > 0, "the engine was never at another size");
        for ((format, frames), together) in cameras.iter().zip(&together) {
            let (mut engine, _) = start();
            let mut alone = pipeline(format, &*engine);
            let mut found = Found::new();
            frames
                .iter()
                .enumerate()
                .for_each(|(at, frame)| step(&mut alone, &mut *engine, *format, frame, at, &mut found));
            assert!(found.iter().any(|(_, detections)| !detections.is_empty()));
            assert_eq!(&found, together);
        }
    }
}
