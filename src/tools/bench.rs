//! How long the stages of a frame take on this machine: what `flytrap bench` does.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::pictures::with_planes;
use crate::base::error::{Error, Kind, Result};
use crate::capture::frame::{Color, FrameFormat, FrameView, PixelFormat, Planes};
use crate::capture::picture::{self, Picture};
use crate::platform::clock::{Clock, SystemClock};
use crate::platform::system;
use crate::vision::detect::Detections;
use crate::vision::detect::decode::{self, Decoder};
use crate::vision::detect::engine::{self, Precision, StepTime};
use crate::vision::detect::letterbox::{Letterbox, Size};
use crate::vision::detect::model::{self, Loaded};

/// Heap calls of the whole program, if its allocator counts them here.
pub static HEAP_CALLS: AtomicU64 = AtomicU64::new(0);

/// The frame of noise that is looked at without pictures: what most cameras are set to.
const FRAME: (u32, u32) = (1280, 720);

/// Frames before the first that counts.
const WARM_UP: usize = 3;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Params {
    /// The model, and how it runs.
    pub model: model::Params,
    /// Thresholds of the decoder.
    pub decode: decode::Params,
    /// How many frames, 1 or more.
    pub frames: usize,
    /// Whether each layer is timed too.
    pub layers: bool,
    /// What is looked at, in turn; the network's input is made for the first. Empty: a frame of noise.
    pub pictures: Vec<PathBuf>,
}

/// What was measured. Times in milliseconds, sizes in 10^6 bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// What runs the network.
    pub engine: String,
    /// Threads that it has.
    pub threads: usize,
    /// Frames that were timed.
    pub frames: usize,
    /// From the begin of the measurement to the end of the first frame: reading, checking and planning the model.
    pub start_ms: f64,
    /// Resident memory at the end.
    pub rss_mb: f64,
    /// Allocations and releases of a frame, the most of all frames that were timed; none if nobody counts.
    pub heap_calls_per_frame: Option<u64>,
    /// The arena of our own executor.
    pub arena_mb: Option<f64>,
    /// The least that any arena would need.
    pub arena_least_mb: Option<f64>,
    /// Its packed weights.
    pub weights_mb: Option<f64>,
    /// By stage.
    pub stages: Stages,
    /// Multiplications that the network asks for a second, 10^9: those of boxes that nobody needed were not done.
    pub gmac_per_s: Option<f64>,
    /// What one core multiplies and adds a second at most in fp32, measured in registers, 10^9; none in other precisions.
    pub peak_gmac_per_s: Option<f64>,
    /// The shortest time of each layer, on one thread.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

/// By stage.
#[derive(Debug, Clone, Serialize)]
pub struct Stages {
    /// From the frame to the network's input.
    pub letterbox_ms: Times,
    /// The network.
    pub infer_ms: Times,
    /// From its output to detections.
    pub decode_ms: Times,
    /// All of it.
    pub whole_ms: Times,
}

impl Stages {
    /// With their names.
    pub fn rows(&self) -> [(&'static str, Times); 4] {
        [
            ("letterbox", self.letterbox_ms),
            ("infer", self.infer_ms),
            ("decode", self.decode_ms),
            ("whole", self.whole_ms),
        ]
    }
}

/// Of all frames.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Times {
    /// The shortest.
    pub min: f64,
    /// Half of them are below.
    pub p50: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
}

impl Times {
    fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let at = |part: f64| nanos[((nanos.len() - 1) as f64 * part).round() as usize] as f64 / 1e6;
        Times { min: at(0.0), p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

/// A layer.
#[derive(Debug, Clone, Serialize)]
pub struct Layer {
    /// Which nodes of the network it stands for.
    pub name: String,
    /// What does it.
    pub kernel: &'static str,
    /// The shortest time.
    pub us: f64,
    /// Multiplications that the network asks for in that time, 10^9 a second.
    pub gmac_per_s: f64,
    /// Weights, input and output, each once.
    pub mb: f64,
}

/// What is looked at.
enum Scene {
    Noise(FrameFormat, Vec<u8>),
    Picture(PathBuf, Picture),
}

impl Scene {
    fn all(pictures: &[PathBuf]) -> Result<Vec<Self>> {
        let wrong = |error: &dyn std::fmt::Display| Error::fatal(Kind::System, error.to_string());
        if pictures.is_empty() {
            let color = Color::guess_for_video(FRAME.0, FRAME.1);
            let format = FrameFormat::packed(PixelFormat::I420, FRAME.0, FRAME.1, color);
            let format = format.map_err(|error| wrong(&error))?;
            return Ok(vec![Scene::Noise(format, noise(format.frame_bytes().unwrap_or_default()))]);
        }
        pictures.iter().map(|path| Ok(Scene::Picture(path.clone(), picture::load(path)?))).collect()
    }

    /// Lends its planes to `look`.
    fn with<T>(&self, look: impl FnOnce(&Planes<'_>, Color) -> Result<T>) -> Result<T> {
        let wrong = |error: &dyn std::fmt::Display| Error::fatal(Kind::System, error.to_string());
        match self {
            Scene::Noise(format, bytes) => {
                let view = FrameView::new(*format, bytes).map_err(|error| wrong(&error))?;
                look(&view.planes().map_err(|error| wrong(&error))?, format.color)
            }
            Scene::Picture(path, picture) => with_planes(picture, path, look),
        }
    }
}

/// Runs the stages on frames, one after the other.
///
/// # Errors
/// As [`Loaded::open`] and [`picture::load`]; `Kind::Config`: no frames.
pub fn measure(params: &Params) -> Result<Figures> {
    if params.frames == 0 {
        return Err(Error::fatal(Kind::Config, "--frames must be 1 or more"));
    }
    let now = || SystemClock.mono().as_nanos();
    let scenes = Scene::all(&params.pictures)?;
    let size = scenes[0].with(|planes, _| Ok(Size { width: planes.width(), height: planes.height() }))?;
    let begun = now();
    let (mut engine, _) = Loaded::open(&params.model)?.into_engine(size)?;
    system::give_back_memory();
    let mut letterbox = Letterbox::new(engine.size());
    let mut decoder = Decoder::new(engine.head(), params.decode, |_| true);
    let mut detections = Detections::new();
    let mut times = [const { Vec::new() }; 4];
    times.iter_mut().for_each(|times| times.reserve(params.frames));
    let (mut start, mut heap_calls) = (0, 0);
    for frame in 0..WARM_UP + params.frames {
        let moments = scenes[frame % scenes.len()].with(|planes, color| {
            let heap_before = HEAP_CALLS.load(Ordering::Relaxed);
            let first = now();
            let placement = letterbox.fill(planes, color, engine.input());
            let second = now();
            let output = engine.run(decoder.score_min())?;
            let third = now();
            let _room_for_all = decoder.decode(output, &placement, &mut detections);
            Ok([first, second, third, now(), HEAP_CALLS.load(Ordering::Relaxed) - heap_before])
        })?;
        let [first, second, third, last, calls] = moments;
        if frame == 0 {
            start = last - begun;
        }
        if frame >= WARM_UP {
            heap_calls = heap_calls.max(calls);
            let spans = [second - first, third - second, last - third, last - first];
            times.iter_mut().zip(spans).for_each(|(times, span)| times.push(span));
        }
    }
    let [letterbox_ms, infer_ms, decode_ms, whole_ms] = times.map(Times::of);
    let mut layers: Vec<StepTime> = Vec::new();
    for _ in 0..if params.layers { params.frames } else { 0 } {
        let these = engine.step_times(&mut || now());
        if layers.is_empty() {
            layers = these;
        } else {
            layers.iter_mut().zip(these).for_each(|(best, this)| best.nanos = best.nanos.min(this.nanos));
        }
    }
    let costs = engine.costs();
    let is_short = costs.is_some() && params.model.engine.precision != Precision::Fp32;
    let mb = |bytes: usize| bytes as f64 / 1e6;
    Ok(Figures {
        engine: engine.describe(),
        threads: params.model.engine.threads,
        frames: params.frames,
        start_ms: start as f64 / 1e6,
        rss_mb: mb(system::resident_bytes() as usize),
        heap_calls_per_frame: (HEAP_CALLS.load(Ordering::Relaxed) > 0).then_some(heap_calls),
        arena_mb: costs.map(|costs| mb(costs.arena_bytes)),
        arena_least_mb: costs.map(|costs| mb(costs.arena_least_bytes)),
        weights_mb: costs.map(|costs| mb(costs.weights_bytes)),
        stages: Stages { letterbox_ms, infer_ms, decode_ms, whole_ms },
        gmac_per_s: costs.map(|costs| costs.macs as f64 / 1e6 / infer_ms.min),
        peak_gmac_per_s: costs
            .filter(|_| !is_short)
            .map(|_| engine::peak_macs_per_nano(params.model.engine.isa, &mut || now())),
        layers: layers.into_iter().map(|step| Layer::new(step, if is_short { 2.0 } else { 4.0 })).collect(),
    })
}

impl Layer {
    /// `bytes`: of a number.
    fn new(step: StepTime, bytes: f64) -> Self {
        let nanos = step.nanos.max(1) as f64;
        Layer {
            name: step.name,
            kernel: step.kernel,
            us: nanos / 1e3,
            gmac_per_s: step.macs as f64 / nanos,
            mb: step.numbers as f64 * bytes / 1e6,
        }
    }
}

/// The same each time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(next).collect()
}
