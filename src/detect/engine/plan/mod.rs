//! A network as a flat list of steps over one arena that is planned when the model is loaded. Running it makes no heap call.

#![allow(unsafe_code, reason = "kernels and the memory that they share; each block argues its safety")]
#![allow(clippy::needless_range_loop, reason = "an index is several arrays' place here")]

mod build;
pub mod crew;
pub mod memory;
pub mod step;
mod tail;

use std::cell::UnsafeCell;
use std::sync::Arc;

use super::graph::Graph;
use super::kernels::Isa;
use super::{Costs, StepTime};
use crew::{Crew, Work};
use memory::Memory;
use step::Step;

/// How a plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The instruction set.
    pub isa: Isa,
    /// Threads, 1 or more.
    pub threads: usize,
    /// Whether Winograd's method is used where it is faster.
    pub winograd: bool,
}

/// The steps and their memory, which all threads share during a run.
struct Body {
    steps: Vec<Step>,
    /// See [`Work::begins`].
    begins: Vec<u64>,
    isa: Isa,
    /// The arena, the weights; steps point into them.
    _memory: UnsafeCell<Vec<Memory>>,
    /// One a thread.
    scratch: Vec<*mut f32>,
}

// SAFETY: the memory is only touched through the steps, whose tasks write different places, and by the plan's owner between runs.
unsafe impl Send for Body {}
// SAFETY: as above.
unsafe impl Sync for Body {}

impl Work for Body {
    fn begins(&self) -> &[u64] {
        &self.begins
    }

    fn task(&self, step: usize, task: u64, worker: usize) {
        // SAFETY: the crew gives each task to one worker, after all of the steps before; the rest is as the plan was built.
        unsafe { self.steps[step].run(self.isa, task as usize, self.scratch[worker]) };
    }
}

/// The end of the network, for a few columns at a time. See `tail.rs`.
struct Tail {
    steps: Vec<Step>,
    _memory: Vec<Memory>,
    scratch: Memory,
    /// For each source its maps.
    sources: Vec<Vec<tail::Map>>,
    /// Where the columns of each source go, then those of each of `constants`.
    inputs: Vec<(*mut f32, usize)>,
    constants: Vec<Vec<f32>>,
    output: (*mut f32, usize),
    scores: (usize, usize, usize),
    columns: usize,
    picked: Vec<u32>,
    /// The result: rows of as many numbers as there are picked columns.
    result: Vec<f32>,
}

/// A network of one input size, ready to run.
pub struct Plan {
    body: Arc<Body>,
    crew: Crew,
    input: (*mut f32, usize),
    output: (*mut f32, usize),
    output_shape: Vec<usize>,
    tail: Option<Tail>,
    costs: Costs,
}

// SAFETY: the pointers are into memory that the body and the tail own.
unsafe impl Send for Plan {}

impl Plan {
    /// Plans `graph`.
    ///
    /// # Errors
    /// One line: what has no kernel, or that the system has no more threads.
    pub fn new(mut graph: Graph, options: Options) -> Result<Self, String> {
        let macs = graph.macs();
        graph.fuse();
        let cut = tail::cut(&graph);
        let maps: Vec<usize> = cut.iter().flat_map(|cut| cut.sources.iter().flatten().copied()).collect();
        let built = build::build(&graph, options, &maps)?;
        let output_shape = graph.nodes[graph.output].shape.clone();
        drop(graph);
        let tail = cut.map(|cut| Tail::new(cut, options, &built.maps)).transpose()?;
        let mut begins = vec![0];
        for step in &built.steps {
            begins.push(begins[begins.len() - 1] + (step.tasks + step.borders.len()) as u64);
        }
        let mut scratch: Vec<Memory> =
            (0..options.threads).map(|_| Memory::zeroed(built.scratch_len.max(16))).collect();
        let costs = Costs {
            arena_bytes: built.memory[0].bytes(),
            arena_least_bytes: 4 * built.least_len,
            weights_bytes: built.memory[1].bytes(),
            scratch_bytes: scratch.iter().map(Memory::bytes).sum(),
            macs,
        };
        let firsts = scratch.iter_mut().map(Memory::first).collect();
        let mut memory = built.memory;
        memory.extend(scratch);
        let body = Arc::new(Body {
            steps: built.steps,
            begins,
            isa: options.isa,
            _memory: UnsafeCell::new(memory),
            scratch: firsts,
        });
        let crew = Crew::new(&body, options.threads)
            .map_err(|error| format!("no thread for the engine: {error}"))?;
        Ok(Plan { body, crew, input: built.inputs[0], output: built.output, output_shape, tail, costs })
    }

    /// The picture: three planes, row by row.
    pub fn input(&mut self) -> &mut [f32] {
        // SAFETY: it lies in the arena, nobody runs while we are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.input.0, self.input.1) }
    }

    /// Runs all steps: the output row by row, with so many columns. Of a head's only those columns whose best score can reach
    /// `score_min` (above 0, below 1), in their order. Valid until the next run.
    pub fn run(&mut self, score_min: f32) -> (&[f32], usize) {
        self.crew.run(&*self.body);
        match &mut self.tail {
            Some(tail) => tail.run(self.body.isa, score_min),
            None => {
                let columns = self.output_shape.last().copied().unwrap_or(1);
                // SAFETY: it lies in the arena, the run is over, and nobody runs while we are borrowed mutably.
                (unsafe { std::slice::from_raw_parts(self.output.0, self.output.1) }, columns)
            }
        }
    }

    /// Sides of the output if every column is in it.
    pub fn output_shape(&self) -> &[usize] {
        &self.output_shape
    }

    /// Whether only the columns that matter are finished.
    pub fn is_sparse(&self) -> bool {
        self.tail.is_some()
    }

    /// What it takes.
    pub fn costs(&self) -> Costs {
        self.costs
    }

    /// Runs all steps on this thread and tells how long each took.
    pub fn step_times(&mut self, now: &mut dyn FnMut() -> u64) -> Vec<StepTime> {
        let time = |step: &Step| {
            let begun = now();
            for task in 0..step.tasks + step.borders.len() {
                // SAFETY: one thread does all tasks in order; nobody else runs while we are borrowed mutably.
                unsafe { step.run(self.body.isa, task, self.body.scratch[0]) };
            }
            let nanos = now() - begun;
            let Step { name, macs, numbers, .. } = step;
            StepTime { name: name.clone(), kernel: step.kind.name(), nanos, macs: *macs, numbers: *numbers }
        };
        self.body.steps.iter().map(time).collect()
    }
}

impl Tail {
    fn new(cut: tail::Cut, options: Options, maps: &[tail::Map]) -> Result<Self, String> {
        let mut rest = cut.rest;
        rest.fuse();
        let built = build::build(&rest, Options { threads: 1, ..options }, &[])?;
        let mut maps = maps.iter().copied();
        let sources: Vec<Vec<tail::Map>> =
            cut.sources.iter().map(|parts| maps.by_ref().take(parts.len()).collect()).collect();
        if built.inputs.len() != sources.len() + cut.constants.len() {
            return Err("a head that does not use all of its inputs".into());
        }
        let rows = cut.scores.2 + 4;
        Ok(Tail {
            steps: built.steps,
            _memory: built.memory,
            scratch: Memory::zeroed(built.scratch_len.max(16)),
            sources,
            inputs: built.inputs,
            constants: cut.constants,
            output: built.output,
            scores: cut.scores,
            columns: cut.columns,
            picked: Vec::with_capacity(cut.columns),
            // Not touched, and so not taken from the system, as far as it is not needed.
            result: vec![0.0; rows * cut.columns],
        })
    }

    fn run(&mut self, isa: Isa, score_min: f32) -> (&[f32], usize) {
        let (source, first, count) = self.scores;
        let rows = count + 4;
        // SAFETY: the maps are in the arena of the body, whose run is over.
        unsafe { tail::pick(&self.sources[source], (first, count), score_min, &mut self.picked) };
        let all = self.picked.len();
        let scratch = self.scratch.first();
        for (chunk, columns) in self.picked.chunks(tail::COLUMNS).enumerate() {
            for (maps, input) in self.sources.iter().zip(&self.inputs) {
                // SAFETY: as above; the input has a row for each of the maps'.
                unsafe { tail::gather(maps, columns, input.0) };
            }
            for (numbers, input) in self.constants.iter().zip(&self.inputs[self.sources.len()..]) {
                // SAFETY: it lies in the tail's arena, and nobody else is there.
                let input = unsafe { std::slice::from_raw_parts_mut(input.0, input.1) };
                let lines = numbers.chunks_exact(self.columns).zip(input.chunks_exact_mut(tail::COLUMNS));
                for (from, to) in lines {
                    columns.iter().zip(to).for_each(|(column, to)| *to = from[*column as usize]);
                }
            }
            for step in &self.steps {
                for task in 0..step.tasks + step.borders.len() {
                    // SAFETY: all before it are done, on this thread, in the tail's own memory.
                    unsafe { step.run(isa, task, scratch) };
                }
            }
            // SAFETY: as above.
            let out = unsafe { std::slice::from_raw_parts(self.output.0, self.output.1) };
            for (row, numbers) in out.chunks_exact(tail::COLUMNS).enumerate() {
                let at = row * all + chunk * tail::COLUMNS;
                self.result[at..at + columns.len()].copy_from_slice(&numbers[..columns.len()]);
            }
        }
        (&self.result[..rows * all], all)
    }
}

#[cfg(test)]
mod tests;
