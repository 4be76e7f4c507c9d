//! From a model file to a tested network: planning, core affinity, self-test.
//!
//! ```text
//!   Loaded ──► plan ──► Prepared ──► start ──► Engine
//!   read and    sizes,   memory is     threads on their cores, every size run once,
//!   parsed      steps    known         the self-test
//! ```
//! The file is read and parsed once, even if loading fails later; clones of a [`Loaded`] share it.

use crate::base::error::Result;
use crate::platform::cores;
use crate::platform::system;
use crate::vision::detect::engine::{Costs, Engine, Precision, Shape};
use crate::vision::detect::letterbox::{PADDING, Size};
use crate::vision::detect::model::{Classes, Loaded, Planned, Sizing};
use crate::vision::roi;
use crate::vision::selftest::{self, Golden};

/// Settings for loading a network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Params {
    /// Cores for the engine's threads and the thread that loads it, from then on. Empty: the scheduler decides.
    pub cores: Vec<usize>,
    /// Whether regions of interest are wanted: needs several input sizes, if the model supports them.
    pub regions: bool,
}

/// A network that is planned for frames of one size. So far it holds nothing but the parsed file.
pub struct Prepared {
    planned: Planned,
    precision: Precision,
    cores: Vec<usize>,
    test: Test,
}

/// How to test the network at start.
enum Test {
    /// There is no record for the model.
    Nothing,
    /// At its own input size.
    Here(Golden),
    /// There is no record for that size: test the same file at another one.
    Elsewhere(Golden, Box<Loaded>),
}

impl Prepared {
    /// Properties that the stages around the network need.
    pub fn shape(&self) -> &Shape {
        self.planned.shape()
    }

    /// Its memory and arithmetic; `None`: unknown before it has run (tract).
    pub fn costs(&self) -> Option<Costs> {
        self.planned.costs()
    }

    /// Starts the threads on their cores, tests the network, and runs it once at each of its sizes with every anchor computed: this proves
    /// that it runs, and touches all memory that it ever uses.
    ///
    /// # Errors
    /// `Kind::Model`: the self-test failed, or the network; `Kind::Config`: the machine has no such cores; `Kind::System`: no threads.
    pub fn start(self) -> Result<(Box<dyn Engine>, Classes)> {
        let Prepared { planned, precision, cores, test } = self;
        // The engine's threads inherit the affinity.
        cores::run_on(&cores)?;
        let passes = |engine: &mut dyn Engine, classes: &Classes, golden: &Golden| -> Result<()> {
            let boxes = selftest::check(engine, precision, classes, golden)?;
            tracing::info!(boxes, "the self-test passed: the network gives the expected detections");
            Ok(())
        };
        let golden = match test {
            Test::Here(golden) => Some(golden),
            Test::Elsewhere(golden, model) => {
                let (mut engine, classes) = model.into_engine(selftest::FRAMES[0])?;
                passes(&mut *engine, &classes, &golden)?;
                None
            }
            Test::Nothing => {
                tracing::info!(
                    "no self-test record for this model: make one with 'flytrap selftest --record'"
                );
                None
            }
        };
        let (mut engine, classes) = planned.start()?;
        system::give_back_memory();
        system::reset_peak();
        let run_empty = |engine: &mut dyn Engine, index: usize| -> Result<()> {
            engine.select(index);
            engine.input().fill(PADDING);
            engine.run(0.0)?;
            Ok(())
        };
        for index in (1..engine.shape().sizes.len()).rev() {
            run_empty(&mut *engine, index)?;
        }
        engine.select(0);
        match golden {
            Some(golden) => passes(&mut *engine, &classes, &golden)?,
            None => run_empty(&mut *engine, 0)?,
        }
        Ok((engine, classes))
    }
}

/// The input sizes that the network of `model` needs for frames of that size: one for whole pictures, and smaller ones for regions of
/// interest if `regions` are wanted and the model supports them.
///
/// # Errors
/// `Kind::Model` if a side is too large.
pub fn input_sizes(model: &Sizing, frame: Size, regions: bool) -> Result<Vec<Size>> {
    let input = model.size_for(frame)?;
    if regions && model.is_dynamic() {
        return Ok(roi::input_sizes(input, model.stride()).to_vec());
    }
    if regions {
        let why = "the model has one input size (export it with dynamic=True)";
        tracing::info!("inference runs on whole pictures, not on regions of interest: {why}");
    }
    Ok(vec![input])
}

/// Plans the network for `sizes`, the largest first.
///
/// # Errors
/// `Kind::Model`: the model cannot run, or the record of its self-test is broken.
pub fn plan(model: Loaded, sizes: &[Size], cores: &[usize]) -> Result<Prepared> {
    let golden = Golden::of(&model.params().path, model.sha256())?;
    let precision = model.params().engine.precision;
    let test = match golden {
        Some(golden) if golden.knows(sizes[0]) => Test::Here(golden),
        Some(golden) => Test::Elsewhere(golden, Box::new(model.clone())),
        None => Test::Nothing,
    };
    let planned = model.plan(sizes)?;
    Ok(Prepared { planned, precision, cores: cores.to_vec(), test })
}

/// Plans and starts.
///
/// # Errors
/// As [`input_sizes`], [`plan`] and [`Prepared::start`].
pub fn engine(model: Loaded, frame: Size, params: &Params) -> Result<(Box<dyn Engine>, Classes)> {
    let sizes = input_sizes(&model.sizing(), frame, params.regions)?;
    plan(model, &sizes, &params.cores)?.start()
}
