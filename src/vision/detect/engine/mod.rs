//! Runs the network: on our own executor ([`planned`]) if it supports every operation of the model, else on tract.
//!
//! ```text
//!   ONNX ─► onnx.rs ─► tract.rs ─► import.rs ─► graph.rs ─► plan/ ─► kernels/
//!           bounded    reads,      typed model   plain data,  steps,   vector
//!           walk       checks      to ours       fused        arena    instructions
//! ```

// Public items in these modules are public for the engine; exports are listed here.
#[allow(unreachable_pub, reason = "see above")]
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "each pass handles some operations and leaves all others unchanged"
)]
mod graph;
#[allow(unreachable_pub, reason = "see above")]
#[allow(clippy::wildcard_enum_match_arm, reason = "unknown operations are refused")]
mod import;
#[allow(unreachable_pub, reason = "see above")]
mod kernels;
#[allow(unreachable_pub, reason = "see above")]
mod onnx;
#[allow(unreachable_pub, reason = "see above")]
#[allow(clippy::wildcard_enum_match_arm, reason = "unknown operations are refused or left unchanged")]
mod plan;
pub mod planned;
#[cfg(test)]
mod reference;
pub mod tract;

pub use graph::Ranges;
pub use kernels::Isa;

use super::decode::HeadShape;
use super::letterbox::Size;
use crate::base::error::{Error, Kind, Result};

/// Precision of a network's arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    Fp32,
    /// 16-bit floating point in all convolutions: half the memory, twice the numbers per vector.
    Fp16,
    /// 8-bit integers in the convolutions that cost most and lose least, fp16 in the others.
    Int8,
}

impl Precision {
    /// All precisions, the most precise first.
    pub const ALL: [Precision; 3] = [Precision::Fp32, Precision::Fp16, Precision::Int8];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Int8 => "int8",
        }
    }
}

/// Settings of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineParams {
    /// Threads that run it, 1 or more.
    pub threads: usize,
    /// The instruction set of its kernels, which this CPU has.
    pub isa: Isa,
    /// Its precision.
    pub precision: Precision,
}

impl EngineParams {
    /// Checks that the CPU supports the settings.
    ///
    /// # Errors
    /// `Kind::Config`: it does not; the text names what it supports.
    pub fn check(&self) -> Result<()> {
        let has = |precision| match precision {
            Precision::Fp32 => true,
            Precision::Fp16 => self.isa.has_half(),
            Precision::Int8 => self.isa.has_int8(),
        };
        if has(self.precision) {
            return Ok(());
        }
        let instead: Vec<&str> =
            Precision::ALL.into_iter().filter(|other| has(*other)).map(Precision::name).collect();
        let text = format!(
            "{} on this CPU has no {} (Cortex-A76 and later have it); set model.precision to {}",
            self.isa.name(),
            self.precision.name(),
            instead.join(" or ")
        );
        Err(Error::fatal(Kind::Config, text))
    }
}

impl Default for EngineParams {
    fn default() -> Self {
        EngineParams { threads: 1, isa: Isa::best(), precision: Precision::default() }
    }
}

/// The result of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output<'a> {
    /// `4 + classes` rows of `columns` numbers.
    pub numbers: &'a [f32],
    /// Number of anchors: all of the head's, or only the relevant ones, in the head's order.
    pub columns: usize,
}

/// Memory and arithmetic of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Costs {
    /// The arena, bytes.
    pub arena_bytes: usize,
    /// Memory used in the largest step: no arena can be smaller.
    pub arena_least_bytes: usize,
    /// Packed weights, bytes.
    pub weights_bytes: usize,
    /// Memory of the threads, bytes.
    pub scratch_bytes: usize,
    /// Memory of the lazy head, bytes, including its result; pages are only touched as far as anchors are picked.
    pub head_bytes: usize,
    /// Multiply-accumulates of the network.
    pub macs: u64,
}

impl Costs {
    /// Total memory, bytes.
    pub const fn total_bytes(&self) -> usize {
        self.arena_bytes + self.weights_bytes + self.scratch_bytes + self.head_bytes
    }
}

/// Properties of a network that the stages around it need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// All possible input sizes, the largest first.
    pub sizes: Vec<Size>,
    /// Shape of the output at the largest input size.
    pub head: HeadShape,
}

/// A planned network: no threads are started, its memory is known but not allocated.
pub struct Planned {
    shape: Shape,
    costs: Option<Costs>,
    start: Box<dyn FnOnce() -> Result<Box<dyn Engine>>>,
}

impl Planned {
    /// The future [`Engine::shape`].
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The future [`Engine::costs`]; `None`: unknown before it has run (tract).
    pub fn costs(&self) -> Option<Costs> {
        self.costs
    }

    /// Allocates the memory and starts the threads.
    ///
    /// # Errors
    /// `Kind::System`: the machine has no more threads.
    pub fn start(self) -> Result<Box<dyn Engine>> {
        (self.start)()
    }
}

/// Time of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTime {
    /// The nodes of the network that it stands for.
    pub name: String,
    /// The kernel that computes it.
    pub kernel: &'static str,
    /// How long it took.
    pub nanos: u64,
    /// Multiply-accumulates of the step.
    pub macs: u64,
    /// Numbers that are read and written, each counted once: weights, input, output.
    pub numbers: u64,
}

/// Peak multiply-adds of one core with `isa`, which this CPU has: 10^9 a second, measured with a clock of nanoseconds.
pub fn peak_macs_per_nano(isa: Isa, now: &mut dyn FnMut() -> u64) -> f64 {
    kernels::peak_macs_per_nano(isa, now)
}

/// A loaded network with one or more input sizes. Input and output live in the engine, so that nothing is copied.
pub trait Engine: Send {
    /// The selected input size.
    fn size(&self) -> Size;

    /// All possible input sizes, the largest first; empty if it has none but [`Self::size`].
    fn input_sizes(&self) -> &[Size] {
        &[]
    }

    /// Selects an input size, an index into [`Self::input_sizes`], for [`Self::size`], [`Self::input`] and [`Self::run`]. Users of a shared
    /// engine select before each input.
    fn select(&mut self, index: usize) {
        let _ = index;
    }

    /// Properties that the stages around it need.
    fn shape(&self) -> Shape {
        let sizes = self.input_sizes();
        let sizes = if sizes.is_empty() { vec![self.size()] } else { sizes.to_vec() };
        Shape { sizes, head: self.head() }
    }

    /// Shape of the output at the largest input rectangle.
    fn head(&self) -> HeadShape;

    /// The input: planar R, G, B, row by row, 0..=1, `3 * width * height` numbers. Previous contents are not preserved.
    fn input(&mut self) -> &mut [f32];

    /// Runs the network on the input. The output, which is valid until the next run, may leave out anchors none of whose scores reaches
    /// `score_min` (0 to below 1).
    ///
    /// # Errors
    /// `Kind::Model` if the network fails; it then fails for every input.
    fn run(&mut self, score_min: f32) -> Result<Output<'_>>;

    /// Its memory and arithmetic, if known.
    fn costs(&self) -> Option<Costs> {
        None
    }

    /// Runs the network once on one thread and returns the time of each step, by a clock of nanoseconds. Empty: it has no steps.
    fn step_times(&mut self, now: &mut dyn FnMut() -> u64) -> Vec<StepTime> {
        let _ = now;
        Vec::new()
    }

    /// Runs the network once on one thread and calls back with the inputs of each convolution that [`Precision::Int8`] quantises, with its
    /// name, eight at a time. Returns whether it can.
    fn observe(&mut self, each: &mut dyn FnMut(&str, [f32; 8])) -> bool {
        let _ = each;
        false
    }

    /// Description for messages: `AVX2, input 320, 80 classes, 2100 anchors`.
    fn describe(&self) -> String;
}
