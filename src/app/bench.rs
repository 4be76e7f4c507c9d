//! How long the stages of a frame take on this machine: what `flytrap bench` does.

use serde::Serialize;

use super::system;
use crate::clock::{Clock, SystemClock};
use crate::detect::Detections;
use crate::detect::decode::{self, Decoder};
use crate::detect::engine::{self, StepTime};
use crate::detect::letterbox::{Letterbox, Size};
use crate::detect::model::{self, Loaded};
use crate::error::{Error, Kind, Result};
use crate::frame::{Color, FrameFormat, FrameView, PixelFormat};

/// The frame that is looked at: what most cameras are set to.
const FRAME: (u32, u32) = (1280, 720);

/// Frames before the first that counts.
const WARM_UP: usize = 3;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Params {
    /// The model, and with how many threads.
    pub model: model::Params,
    /// Thresholds of the decoder.
    pub decode: decode::Params,
    /// How many frames, 1 or more.
    pub frames: usize,
    /// Whether each layer is timed too.
    pub layers: bool,
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
    /// The arena of our own executor.
    pub arena_mb: Option<f64>,
    /// The least that any arena would need.
    pub arena_least_mb: Option<f64>,
    /// Its packed weights.
    pub weights_mb: Option<f64>,
    /// By stage.
    pub stages: Stages,
    /// Multiplications of the network a second, 10^9.
    pub gmac_per_s: Option<f64>,
    /// What one core multiplies and adds a second at most, measured in registers, 10^9.
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

/// Runs the stages on a frame of noise.
///
/// # Errors
/// As [`Loaded::open`]; `Kind::Config`: no frames.
pub fn measure(params: &Params) -> Result<Figures> {
    if params.frames == 0 {
        return Err(Error::fatal(Kind::Config, "--frames must be 1 or more"));
    }
    let now = || SystemClock.mono().as_nanos();
    let begun = now();
    let size = Size { width: FRAME.0 as usize, height: FRAME.1 as usize };
    let (mut engine, _) = Loaded::open(&params.model)?.into_engine(size)?;
    let mut letterbox = Letterbox::new(engine.size());
    let mut decoder = Decoder::new(engine.head(), params.decode, |_| true);
    let mut detections = Detections::new();
    let format =
        FrameFormat::packed(PixelFormat::I420, FRAME.0, FRAME.1, Color::guess_for_video(FRAME.0, FRAME.1))
            .map_err(|error| Error::fatal(Kind::System, error.to_string()))?;
    let noise = noise(format.frame_bytes().unwrap_or_default());
    let view =
        FrameView::new(format, &noise).map_err(|error| Error::fatal(Kind::System, error.to_string()))?;
    let planes = view.planes().map_err(|error| Error::fatal(Kind::System, error.to_string()))?;
    let (mut start, mut times) = (0, [const { Vec::new() }; 4]);
    for frame in 0..WARM_UP + params.frames {
        let first = now();
        let placement = letterbox.fill(&planes, format.color, engine.input());
        let second = now();
        let output = engine.run(decoder.score_min())?;
        let third = now();
        let _room_for_all = decoder.decode(output, &placement, &mut detections);
        let last = now();
        if frame == 0 {
            start = last - begun;
        }
        if frame >= WARM_UP {
            for (times, time) in
                times.iter_mut().zip([second - first, third - second, last - third, last - first])
            {
                times.push(time);
            }
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
    let mb = |bytes: usize| bytes as f64 / 1e6;
    Ok(Figures {
        engine: engine.describe(),
        threads: params.model.threads,
        frames: params.frames,
        start_ms: start as f64 / 1e6,
        rss_mb: mb(system::resident_bytes() as usize),
        arena_mb: costs.map(|costs| mb(costs.arena_bytes)),
        arena_least_mb: costs.map(|costs| mb(costs.arena_least_bytes)),
        weights_mb: costs.map(|costs| mb(costs.weights_bytes)),
        stages: Stages { letterbox_ms, infer_ms, decode_ms, whole_ms },
        gmac_per_s: costs.map(|costs| costs.macs as f64 / 1e6 / infer_ms.min),
        peak_gmac_per_s: costs.map(|_| engine::peak_macs_per_nano(&mut || now())),
        layers: layers.into_iter().map(Layer::from).collect(),
    })
}

impl From<StepTime> for Layer {
    fn from(step: StepTime) -> Self {
        let nanos = step.nanos.max(1) as f64;
        Layer {
            name: step.name,
            kernel: step.kernel,
            us: nanos / 1e3,
            gmac_per_s: step.macs as f64 / nanos,
            mb: step.numbers as f64 * 4.0 / 1e6,
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
