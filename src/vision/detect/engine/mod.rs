//! What runs the network: our own executor ([`planned`]) where it knows every operation of the model, else tract.
//!
//! ```text
//!   ONNX ─► onnx.rs ─► tract.rs ─► import.rs ─► graph.rs ─► plan/ ─► kernels/
//!           bounded    reads,      typed model   plain data,  steps,   vector
//!           walk       checks      to ours       fused        arena    instructions
//! ```

// What is public in these is so for the engine; what leaves it is public here.
#[allow(unreachable_pub, reason = "see above")]
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "each pass looks at some operations; those that it does not know stay"
)]
mod graph;
#[allow(unreachable_pub, reason = "see above")]
#[allow(clippy::wildcard_enum_match_arm, reason = "what is not known is refused")]
mod import;
#[allow(unreachable_pub, reason = "see above")]
mod kernels;
#[allow(unreachable_pub, reason = "see above")]
mod onnx;
#[allow(unreachable_pub, reason = "see above")]
#[allow(clippy::wildcard_enum_match_arm, reason = "what is not known is refused, or stays as it is")]
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

/// How precisely a network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Numbers of 32 bits.
    #[default]
    Fp32,
    /// Numbers of 16 bits in all convolutions: half the memory, twice the numbers in a vector.
    Fp16,
    /// Numbers of 8 bits in those convolutions that are the most work and take it best, of 16 bits in the others.
    Int8,
}

impl Precision {
    /// All, the most precise first.
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

/// What an engine is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineParams {
    /// Threads that run it, 1 or more.
    pub threads: usize,
    /// The vector instructions of its kernels, which this CPU has.
    pub isa: Isa,
    /// How precisely it computes.
    pub precision: Precision,
}

impl EngineParams {
    /// Whether the CPU has what is asked for.
    ///
    /// # Errors
    /// `Kind::Config`: it has not, and what it has instead.
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

/// What a network found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Output<'a> {
    /// `4 + classes` rows of `columns` numbers.
    pub numbers: &'a [f32],
    /// Places of the picture: all of the head's anchors, or those that matter, in the head's order.
    pub columns: usize,
}

/// What a network takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Costs {
    /// The arena, bytes.
    pub arena_bytes: usize,
    /// What all that is needed in one step comes to: no arena can be smaller.
    pub arena_least_bytes: usize,
    /// Packed weights, bytes.
    pub weights_bytes: usize,
    /// Memory of the threads, bytes.
    pub scratch_bytes: usize,
    /// Memory of the lazily run head, bytes; the result is part of it, which is only touched as far as something is found.
    pub head_bytes: usize,
    /// Multiplications that the network asks for.
    pub macs: u64,
}

impl Costs {
    /// All of it, bytes.
    pub const fn total_bytes(&self) -> usize {
        self.arena_bytes + self.weights_bytes + self.scratch_bytes + self.head_bytes
    }
}

/// What the stages before and behind a network must know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// All input rectangles that it can be run at, the largest first.
    pub sizes: Vec<Size>,
    /// Shape of the output at the first of them.
    pub head: HeadShape,
}

/// A network that is planned: it has no threads yet, and its memory is known, but not taken.
pub struct Planned {
    shape: Shape,
    costs: Option<Costs>,
    start: Box<dyn FnOnce() -> Result<Box<dyn Engine>>>,
}

impl Planned {
    /// What [`Engine::shape`] will be.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What [`Engine::costs`] will be; `None`: nobody knows before it has run (tract).
    pub fn costs(&self) -> Option<Costs> {
        self.costs
    }

    /// Takes the memory and starts the threads.
    ///
    /// # Errors
    /// `Kind::System`: the machine has no more threads.
    pub fn start(self) -> Result<Box<dyn Engine>> {
        (self.start)()
    }
}

/// How long a step took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTime {
    /// Which nodes of the network it stands for.
    pub name: String,
    /// What does it.
    pub kernel: &'static str,
    /// How long it took.
    pub nanos: u64,
    /// Multiplications that the network asks for here.
    pub macs: u64,
    /// Numbers that are read and written, each once: weights, input, output.
    pub numbers: u64,
}

/// What one core multiplies and adds at most with `isa`, which this CPU has: 10^9 a second, by a clock of nanoseconds.
pub fn peak_macs_per_nano(isa: Isa, now: &mut dyn FnMut() -> u64) -> f64 {
    kernels::peak_macs_per_nano(isa, now)
}

/// A loaded network of one input size or some. Input and output live in the engine, so that nobody copies them.
pub trait Engine: Send {
    /// The input rectangle.
    fn size(&self) -> Size;

    /// All input rectangles that it can be run at, the largest first; empty if it knows of none but [`Self::size`].
    fn input_sizes(&self) -> &[Size] {
        &[]
    }

    /// From now on [`Self::size`], [`Self::input`] and [`Self::run`] are those of an input size, an index into
    /// [`Self::input_sizes`]. Who shares an engine selects before each input.
    fn select(&mut self, index: usize) {
        let _ = index;
    }

    /// What the stages around it must know.
    fn shape(&self) -> Shape {
        let sizes = self.input_sizes();
        let sizes = if sizes.is_empty() { vec![self.size()] } else { sizes.to_vec() };
        Shape { sizes, head: self.head() }
    }

    /// Shape of the output at the largest input rectangle.
    fn head(&self) -> HeadShape;

    /// The input: planar R, G, B, row by row, 0..=1, `3 * width * height` numbers. Keeps no promise about what was in it before.
    fn input(&mut self) -> &mut [f32];

    /// Runs the network on the input. Anchors none of whose scores reaches `score_min` (0 to below 1) may be missing in the output,
    /// which is valid until the next run.
    ///
    /// # Errors
    /// `Kind::Model` if the network fails; it does so for every input or for none.
    fn run(&mut self, score_min: f32) -> Result<Output<'_>>;

    /// What it takes, if that is known.
    fn costs(&self) -> Option<Costs> {
        None
    }

    /// Runs the network once on one thread and tells how long each step took, by a clock of nanoseconds. Empty: it has no steps.
    fn step_times(&mut self, now: &mut dyn FnMut() -> u64) -> Vec<StepTime> {
        let _ = now;
        Vec::new()
    }

    /// Runs the network once on one thread and shows the numbers that go into each convolution which [`Precision::Int8`] does on bytes,
    /// with its name, eight at a time. Tells whether it can.
    fn observe(&mut self, each: &mut dyn FnMut(&str, [f32; 8])) -> bool {
        let _ = each;
        false
    }

    /// What it is, for people: `AVX2, input 320, 80 classes, 2100 anchors`.
    fn describe(&self) -> String;
}
