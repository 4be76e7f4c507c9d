//! Times the stages of a frame on this machine: the work of `flytrap bench`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::pictures::with_planes;
use crate::base::error::{Error, Kind, Result};
use crate::capture::frame::{Color, FrameFormat, FrameView, PixelFormat, Planes};
use crate::capture::picture::{self, Picture};
use crate::metrics::kpi::{self, CameraFigures, Row, Targets};
use crate::platform::clock::{Clock, SystemClock};
use crate::platform::system;
use crate::vision::detect::Detections;
use crate::vision::detect::accuracy::Accuracy;
use crate::vision::detect::decode::{self, Decoder};
use crate::vision::detect::engine::{self, Engine, Precision, StepTime};
use crate::vision::detect::letterbox::{Letterbox, Size};
use crate::vision::detect::model::{self, Loaded};

/// Heap calls of the whole program, if its allocator counts them here.
pub static HEAP_CALLS: AtomicU64 = AtomicU64::new(0);

/// Size of the noise frame that is used without pictures: what most cameras are set to.
const FRAME: (u32, u32) = (1280, 720);

/// Warm-up frames, not counted.
const WARM_UP: usize = 3;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Params {
    /// The model, and how it runs.
    pub model: model::Params,
    /// Targets of the KPI table.
    pub kpi: Targets,
    /// Thresholds of the decoder.
    pub decode: decode::Params,
    /// How many frames, 1 or more.
    pub frames: usize,
    /// Whether each layer is timed too.
    pub layers: bool,
    /// The pictures, in turn; the network's input is sized for the first. Empty: a noise frame.
    pub pictures: Vec<PathBuf>,
}

/// The measurements. Times in milliseconds, sizes in 10^6 bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Name of the engine.
    pub engine: String,
    /// Number of its threads.
    pub threads: usize,
    /// Frames that were timed.
    pub frames: usize,
    /// From the start of the measurement to the end of the first frame: reading, checking and planning the model.
    pub start_ms: f64,
    /// Resident memory at the end.
    pub rss_mb: f64,
    /// Allocations and releases per frame, the maximum of all timed frames; none if the allocator does not count.
    pub heap_calls_per_frame: Option<u64>,
    /// Size of our own executor's arena.
    pub arena_mb: Option<f64>,
    /// Lower bound for the size of any arena.
    pub arena_least_mb: Option<f64>,
    /// Size of its packed weights.
    pub weights_mb: Option<f64>,
    /// Times by stage.
    pub stages: Stages,
    /// Multiply-accumulates of the network per second, 10^9; includes those of box outputs that the lazy head skipped.
    pub gmac_per_s: Option<f64>,
    /// Peak multiply-accumulates of one core per second in fp32, measured in registers, 10^9; none in other precisions.
    pub peak_gmac_per_s: Option<f64>,
    /// The shortest time of each layer, on one thread.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// The KPI table: the rate and latency of frames that follow each other without a pause.
    pub kpi: Vec<Row>,
}

/// Times by stage.
#[derive(Debug, Clone, Serialize)]
pub struct Stages {
    /// From the frame to the network's input.
    pub letterbox_ms: Times,
    /// The network.
    pub infer_ms: Times,
    /// From its output to detections.
    pub decode_ms: Times,
    /// The whole frame.
    pub whole_ms: Times,
}

impl Stages {
    /// The stages with their names.
    pub fn rows(&self) -> [(&'static str, Times); 4] {
        [
            ("letterbox", self.letterbox_ms),
            ("infer", self.infer_ms),
            ("decode", self.decode_ms),
            ("whole", self.whole_ms),
        ]
    }
}

/// Distribution over all timed frames.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Times {
    /// Minimum.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Times {
    fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let at = |part: f64| nanos[((nanos.len() - 1) as f64 * part).round() as usize] as f64 / 1e6;
        Times { min: at(0.0), p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

/// Figures of one layer.
#[derive(Debug, Clone, Serialize)]
pub struct Layer {
    /// The nodes of the network that it stands for.
    pub name: String,
    /// The kernel that computes it.
    pub kernel: &'static str,
    /// Minimum time.
    pub us: f64,
    /// Multiply-accumulates per second at that time, 10^9.
    pub gmac_per_s: f64,
    /// Weights, input and output, each counted once.
    pub mb: f64,
}

/// A frame to run on.
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

    /// Calls `look` with its planes.
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
    let model = Loaded::open(&params.model)?;
    let accuracy = model.accuracy();
    let (mut engine, _) = model.into_engine(size)?;
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
    let layers = time_layers(&mut *engine, if params.layers { params.frames } else { 0 });
    let costs = engine.costs();
    let is_short = costs.is_some() && params.model.engine.precision != Precision::Fp32;
    let mb = |bytes: usize| bytes as f64 / 1e6;
    Ok(Figures {
        kpi: kpi(params, &whole_ms, accuracy),
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

/// The shortest time of each layer in so many rounds.
fn time_layers(engine: &mut dyn Engine, rounds: usize) -> Vec<StepTime> {
    let mut layers: Vec<StepTime> = Vec::new();
    for _ in 0..rounds {
        let these = engine.step_times(&mut || SystemClock.mono().as_nanos());
        if layers.is_empty() {
            layers = these;
        } else {
            layers.iter_mut().zip(these).for_each(|(best, this)| best.nanos = best.nanos.min(this.nanos));
        }
    }
    layers
}

/// The KPI table of the timed frames.
fn kpi(params: &Params, whole_ms: &Times, accuracy: Option<Accuracy>) -> Vec<Row> {
    let camera = CameraFigures {
        rate: Some(1e3 / whole_ms.p50),
        latency_p95_us: Some((whole_ms.p95 * 1e3) as u64),
        ..CameraFigures::default()
    };
    let memory_peak_bytes = Some(system::peak_since_start_bytes()).filter(|bytes| *bytes > 0);
    // It takes as much of the CPU as it can get.
    let figures = kpi::Figures { cameras: vec![camera], memory_peak_bytes, cpu_permille: None, accuracy };
    kpi::rows(&params.kpi, &figures)
}

impl Layer {
    /// The `bytes` of a pseudo-random number.
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

/// A noise frame, the same every time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(next).collect()
}
