//! A network as a flat list of steps over one arena, planned when the model is loaded. Running it makes no heap call.

#![allow(unsafe_code, reason = "kernels and the memory that they share; each block argues its safety")]
#![allow(clippy::needless_range_loop, reason = "an index is several arrays' place here")]

mod build;
mod lazy_head;
pub mod memory;
pub mod step;
pub mod thread_pool;

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::graph::Graph;
use super::kernels::conv::Conv;
use super::kernels::{Isa, Kernels, TensorPtr};
use super::{Costs, StepTime};
use build::{Built, Last, Wanted};
use lazy_head::{COLUMNS, Map, Piece};
use memory::Memory;
use step::{ActiveTiles, Kind, Step, TileSet};
use thread_pool::{ThreadPool, Work};

/// Settings of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The instruction set.
    pub isa: Isa,
    /// Threads, 1 or more.
    pub threads: usize,
    /// Whether Winograd's method is used where it is faster.
    pub winograd: bool,
}

/// A sequence of steps.
struct StepList<E> {
    steps: Vec<Step<E>>,
    /// See [`Work::begins`].
    begins: Vec<u64>,
}

/// The steps and their memory, which all threads share during a run.
struct Body<E> {
    /// For each input size the steps on the whole picture, then those for active tiles.
    parts: UnsafeCell<Vec<StepList<E>>>,
    /// The part that runs.
    part: AtomicUsize,
    /// For each input size the active tiles of its second part; its steps point here.
    active: UnsafeCell<Vec<Box<[ActiveTiles]>>>,
    isa: Isa,
    /// The arena, the weights; steps point into them.
    _memory: UnsafeCell<Vec<Memory>>,
    _numbers: Vec<Box<[u32]>>,
    /// Scratch memory, one per thread.
    scratch: Vec<*mut E>,
}

// SAFETY: the memory is only touched through the steps, whose tasks write different places, and by the plan's owner between runs; so are
// the parts and the active tiles.
unsafe impl<E: Kernels> Send for Body<E> {}
// SAFETY: as above.
unsafe impl<E: Kernels> Sync for Body<E> {}

impl<E: Kernels> Body<E> {
    /// The part that runs.
    fn now(&self) -> &StepList<E> {
        // SAFETY: it is changed between runs only, and the thread pool looks at it only during a run.
        let parts = unsafe { &*self.parts.get() };
        &parts[self.part.load(Ordering::Relaxed)]
    }
}

impl<E: Kernels> Work for Body<E> {
    fn begins(&self) -> &[u64] {
        &self.now().begins
    }

    fn task(&self, step: usize, task: u64, worker: usize) {
        // SAFETY: the thread pool gives each task to one worker, after all of the steps before; the rest is as the plan was built.
        unsafe { self.now().steps[step].run(self.isa, task as usize, self.scratch[worker]) };
    }
}

impl<E: Kernels> StepList<E> {
    fn new(steps: Vec<Step<E>>) -> Self {
        let begins = vec![0; steps.len() + 1];
        let mut part = StepList { steps, begins };
        part.count();
        part
    }

    /// Sets the number of tasks of steps on active tiles according to the number of those.
    fn set_tasks(&mut self) {
        for step in &mut self.steps {
            if let Kind::Winograd { which: TileSet::Active(active), .. } = step.kind {
                // SAFETY: it is the body's, and nobody changes it now.
                let ActiveTiles { tiles, per_task } = unsafe { &*active };
                step.tasks = tiles.len().div_ceil(*per_task);
            }
        }
        self.count();
    }

    /// Recomputes where each step begins, after the number of tasks changed.
    fn count(&mut self) {
        for (at, step) in self.steps.iter().enumerate() {
            self.begins[at + 1] = self.begins[at] + (step.tasks + step.borders.len()) as u64;
        }
    }
}

/// The end of the network, run for a few columns at a time. See [`lazy_head`].
struct LazyHead<E> {
    steps: Vec<Step<E>>,
    _memory: Vec<Memory>,
    scratch: Memory,
    /// Input and output of the convolutions for picked columns.
    _columns_memory: Memory,
    /// The maps of each source.
    sources: Vec<Vec<Map<E>>>,
    /// The input of each source's columns in the rest of the graph, then that of each of `constants`.
    inputs: Vec<(*mut f32, usize)>,
    constants: Vec<Vec<f32>>,
    output: (*mut f32, usize),
    scores: (usize, usize, usize),
    columns: usize,
    picked: Vec<u32>,
    /// Number of picked columns in each map.
    in_map: Vec<usize>,
    /// Scratch memory of [`lazy_head::activate_tiles`].
    marks: Vec<bool>,
    /// The result: rows of as many numbers as there are picked columns.
    result: Vec<f32>,
}

/// A network that is planned for one input size, without memory: the input of [`Plan::new`].
pub struct PlanBuilder<E> {
    options: Options,
    graph: Graph,
    planned: build::PlannedGraph<E>,
    head: Option<PlannedHead<E>>,
}

/// A planned lazy head, without memory.
struct PlannedHead<E> {
    split: lazy_head::GraphSplit,
    /// The rest after the split, planned for one thread.
    rest: Graph,
    planned: build::PlannedGraph<E>,
}

impl<E: Kernels> PlanBuilder<E> {
    /// Plans `graph`, which is fused.
    ///
    /// # Errors
    /// One line: the operation that has no kernel.
    pub fn new(graph: Graph, options: Options) -> Result<Self, String> {
        let split = lazy_head::split(&graph, options.winograd);
        let wanted = split.as_ref().map(lazy_head::GraphSplit::wanted).unwrap_or_default();
        let planned = build::plan_graph::<E>(&graph, options, &wanted)?;
        let head = split.map(|split| PlannedHead::new(split, options)).transpose()?;
        Ok(PlanBuilder { options, graph, planned, head })
    }

    /// Whether it is the same network as `other`, perhaps at another size, so that they can share packed weights.
    pub fn shares_weights(&self, other: &Self) -> bool {
        self.options == other.options
            && self.planned.shares_weights(&self.graph, &other.planned, &other.graph)
    }

    /// Shape of the output with every column in it.
    pub fn output_shape(&self) -> &[usize] {
        &self.graph.nodes[self.graph.output].shape
    }

    /// Drops the weights, if the same network at another size has them.
    pub fn drop_weights(&mut self) {
        self.graph.drop_weights();
    }

    /// Bytes that belong to this size alone: constants, the lazy head.
    fn own_bytes(&self) -> (usize, usize) {
        let head = self.head.as_ref().map_or(0, PlannedHead::bytes);
        let columns = self.head.as_ref().map_or(0, |_| self.planned.last_blocks_most() * COLUMNS * 8);
        (Memory::bytes_of(self.planned.constants_len()), head + Memory::bytes_of(columns))
    }
}

impl<E: Kernels> PlannedHead<E> {
    fn new(mut split: lazy_head::GraphSplit, options: Options) -> Result<Self, String> {
        let mut rest = split.take_rest();
        rest.fuse();
        let planned = build::plan_graph::<E>(&rest, Options { threads: 1, ..options }, &Wanted::default())?;
        if planned.inputs_len() != split.sources.len() + split.constants.len() {
            return Err("a head that does not use all of its inputs".into());
        }
        Ok(PlannedHead { split, rest, planned })
    }

    /// Bytes of its arena, weights and constants, and of the result.
    fn bytes(&self) -> usize {
        let lens = [self.planned.arena_len(), self.planned.weights_len(), self.planned.constants_len()];
        let scratch = scratch_len::<E>(self.planned.scratch_len());
        lens.into_iter().chain([scratch]).map(Memory::bytes_of).sum::<usize>() + 4 * self.split.result_len()
    }
}

/// The memory of a plan of `builders`, before any of it is allocated.
pub fn costs<E: Kernels>(builders: &[PlanBuilder<E>]) -> Costs {
    let Some(first) = builders.first() else { return Costs::default() };
    let most = |len: fn(&build::PlannedGraph<E>) -> usize| {
        builders.iter().map(|builder| len(&builder.planned)).max().unwrap_or(0)
    };
    let (constants, heads) =
        builders.iter().map(PlanBuilder::own_bytes).fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1));
    let scratch = Memory::bytes_of(scratch_len::<E>(most(build::PlannedGraph::scratch_len)));
    Costs {
        arena_bytes: Memory::bytes_of(most(build::PlannedGraph::arena_len)),
        arena_least_bytes: 4 * most(build::PlannedGraph::least_len),
        weights_bytes: Memory::bytes_of(first.planned.weights_len()) + constants,
        scratch_bytes: first.options.threads * scratch,
        head_bytes: heads,
        macs: first.graph.macs(),
    }
}

/// The network at one size.
struct AtSize<E> {
    input: (*mut f32, usize),
    output: (*mut f32, usize),
    output_shape: Vec<usize>,
    lazy_head: Option<LazyHead<E>>,
}

/// A network with one or more input sizes, running at one of them at a time: they share the weights, the arena and the threads.
pub struct Plan<E> {
    body: Arc<Body<E>>,
    pool: ThreadPool,
    threads: usize,
    sizes: Vec<AtSize<E>>,
    /// The selected size.
    current: usize,
    costs: Costs,
}

// SAFETY: the pointers are into memory that the body and the lazy heads own.
unsafe impl<E: Kernels> Send for Plan<E> {}

impl<E: Kernels> Plan<E> {
    /// Allocates the memory that `builders` planned, packs the weights and starts the threads. The first builder has the weights, the
    /// others share them. The first size is selected.
    ///
    /// # Errors
    /// One line: weights that cannot be shared, or no more threads.
    pub fn new(mut builders: Vec<PlanBuilder<E>>) -> Result<Self, String> {
        let costs = costs(&builders);
        let (first, others) = builders.split_first_mut().ok_or("no network")?;
        if others.iter().any(|other| !other.shares_weights(first)) {
            return Err("the network has other weights at another size".into());
        }
        let options = first.options;
        let mut weights = Memory::zeroed(first.planned.weights_len());
        // SAFETY: there is room for them, and nobody else has it.
        unsafe { first.planned.pack(&mut first.graph, weights.first().cast()) };
        let lens = builders.iter().map(|builder| builder.planned.arena_len());
        let mut arena = Memory::zeroed(lens.max().unwrap_or(0));
        let (mut parts, mut active, mut numbers, mut memory) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut sizes, mut scratch_most) = (Vec::new(), 0);
        for PlanBuilder { graph, planned, head, .. } in builders {
            // SAFETY: the arena is as long as the longest needs, the weights are those of all; both live as long as the body.
            let mut built = unsafe { planned.bind(arena.first(), weights.first().cast()) };
            let output_shape = graph.nodes[graph.output].shape.clone();
            drop(graph);
            let lazy_head = head.map(|head| LazyHead::new(head, &built));
            scratch_most = scratch_most.max(built.scratch_len);
            sizes.push(AtSize { input: built.inputs[0], output: built.output, output_shape, lazy_head });
            parts.extend([StepList::new(built.steps), StepList::new(built.deferred)]);
            active.push(built.active);
            numbers.push(built._numbers);
            memory.append(&mut built.memory);
        }
        let mut scratch: Vec<Memory> =
            (0..options.threads).map(|_| Memory::zeroed(scratch_len::<E>(scratch_most))).collect();
        let firsts = scratch.iter_mut().map(|scratch| scratch.first().cast::<E>()).collect();
        memory.extend(scratch.into_iter().chain([arena, weights]));
        debug_assert_eq!(
            memory.iter().map(Memory::bytes).sum::<usize>(),
            costs.arena_bytes + costs.weights_bytes + costs.scratch_bytes,
            "as much as was planned"
        );
        let body = Arc::new(Body {
            parts: UnsafeCell::new(parts),
            part: AtomicUsize::new(0),
            active: UnsafeCell::new(active),
            isa: options.isa,
            _memory: UnsafeCell::new(memory),
            _numbers: numbers,
            scratch: firsts,
        });
        let pool = ThreadPool::new(&body, options.threads).map_err(|error| error.to_string())?;
        Ok(Plan { body, pool, threads: options.threads, sizes, current: 0, costs })
    }

    /// Selects another size: that of builder `index`. The contents of the input are lost.
    pub fn select(&mut self, index: usize) {
        assert!(index < self.sizes.len(), "size {index} of {}", self.sizes.len());
        self.current = index;
    }

    /// The input picture: three planes, row by row.
    pub fn input(&mut self) -> &mut [f32] {
        let (first, len) = self.sizes[self.current].input;
        // SAFETY: it lies in the arena, nobody runs while we are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }

    /// Runs all steps: returns the output row by row, and its number of columns. With a lazy head only those columns whose best score can
    /// reach `score_min` (0: all; below 1), in their order. Valid until the next run.
    pub fn run(&mut self, score_min: f32) -> (&[f32], usize) {
        self.body.part.store(2 * self.current, Ordering::Relaxed);
        self.pool.run(&*self.body);
        let at_size = &mut self.sizes[self.current];
        let Some(lazy_head) = &mut at_size.lazy_head else {
            let columns = at_size.output_shape.last().copied().unwrap_or(1);
            // SAFETY: it lies in the arena, the run is over, and nobody runs while we are borrowed mutably.
            return (unsafe { std::slice::from_raw_parts(at_size.output.0, at_size.output.1) }, columns);
        };
        lazy_head.pick(score_min);
        if !lazy_head.picked.is_empty() {
            // SAFETY: no run is on, and nobody else begins one.
            let (parts, active) = unsafe { (&mut *self.body.parts.get(), &mut *self.body.active.get()) };
            lazy_head.activate_tiles(&mut active[self.current], self.threads);
            parts[2 * self.current + 1].set_tasks();
            self.body.part.store(2 * self.current + 1, Ordering::Relaxed);
            self.pool.run(&*self.body);
        }
        lazy_head.run(self.body.isa)
    }

    /// Whether the head is lazy.
    pub fn is_sparse(&self) -> bool {
        self.sizes[self.current].lazy_head.is_some()
    }

    /// Its memory and arithmetic.
    pub fn costs(&self) -> Costs {
        self.costs
    }

    /// Runs all steps on this thread and returns the time of each.
    pub fn step_times(&mut self, now: &mut dyn FnMut() -> u64) -> Vec<StepTime> {
        let mut times = Vec::new();
        let mut begun = 0;
        self.for_each_step(&mut |step, is_done| match is_done {
            false => begun = now(),
            true => {
                let nanos = now() - begun;
                let Step { name, kind, macs, numbers, .. } = step;
                let (name, kernel) = (name.clone(), kind.name());
                times.push(StepTime { name, kernel, nanos, macs: *macs, numbers: *numbers });
            }
        });
        times
    }

    /// Runs all steps on this thread and calls back with the inputs of the convolutions that int8 quantises, eight channels of a pixel at a
    /// time; each number once, even if it is read several times.
    pub fn observe(&mut self, each: &mut dyn FnMut(&str, [f32; 8])) {
        self.for_each_step(&mut |step, is_done| {
            let Kind::Direct { conv, for_int8: true, .. } = &step.kind else { return };
            if is_done {
                return;
            }
            // Of each output pixel the taps that the next one does not share: at a stride of 2 four of nine.
            let stride = (conv.step.0 / conv.tap.0, conv.step.1 / conv.tap.1);
            let taps = (conv.taps.0.min(stride.0), conv.taps.1.min(stride.1));
            let pixels = (0..conv.size.1).flat_map(|row| (0..conv.size.0).map(move |column| (row, column)));
            for (row, column) in pixels {
                for tap in 0..taps.0 * taps.1 {
                    let tap = tap / taps.0 * conv.tap.1 + tap % taps.0 * conv.tap.0;
                    for block in 0..conv.blocks.0 {
                        let at = tap + block * conv.blocks.1 + row * conv.step.1 + column * conv.step.0;
                        // SAFETY: the convolution reads it next; nobody else runs while we are borrowed mutably.
                        let eight = unsafe { conv.x.add(at).cast::<[E; 8]>().read_unaligned() };
                        each(&step.name, E::eight_to(eight));
                    }
                }
            }
        });
    }

    /// Runs all steps on this thread, as if every column were picked, with a callback before and after each.
    fn for_each_step(&mut self, show: &mut dyn FnMut(&Step<E>, bool)) {
        // SAFETY: no run is on, and nobody else begins one.
        let (parts, active) = unsafe { (&mut *self.body.parts.get(), &mut *self.body.active.get()) };
        let parts = &mut parts[2 * self.current..][..2];
        if let Some(lazy_head) = &mut self.sizes[self.current].lazy_head {
            lazy_head.pick_all();
            lazy_head.activate_tiles(&mut active[self.current], 1);
        }
        parts[1].set_tasks();
        for step in parts.iter().flat_map(|part| &part.steps) {
            show(step, false);
            for task in 0..step.tasks + step.borders.len() {
                // SAFETY: one thread does all tasks in order; nobody else runs while we are borrowed mutably.
                unsafe { step.run(self.body.isa, task, self.body.scratch[0]) };
            }
            show(step, true);
        }
    }
}

impl lazy_head::GraphSplit {
    /// Length of the result if every column is picked.
    fn result_len(&self) -> usize {
        (self.scores.2 + 4) * self.columns
    }

    /// The results that the steps must provide.
    fn wanted(&self) -> Wanted {
        let maps = || self.sources.iter().flatten();
        let pieces = || maps().flat_map(|map| &map.pieces);
        // Results nearer to the picture come before those computed from them.
        let chain_len = maps().map(|map| map.chain.len()).max().unwrap_or(0);
        let deferred = (0..chain_len).flat_map(|at| maps().filter_map(move |map| map.chain.get(at).copied()));
        Wanted {
            maps: pieces().map(|piece| piece.node).collect(),
            deferred: deferred.collect(),
            lasts: pieces().filter_map(|piece| piece.last).collect(),
        }
    }

    /// The maps of each source as built, with `columns_memory` for the convolutions of their pieces.
    fn maps<E: Kernels>(&self, built: &Built<E>, columns_memory: *mut E) -> Vec<Vec<Map<E>>> {
        let wanted = self.wanted();
        let (mut tensors, mut lasts) = (built.maps.iter(), built.lasts.iter());
        let mut map_of = |map: &lazy_head::MapOf| {
            let mut size = (0, 0);
            let pieces = map.pieces.iter().map(|piece| {
                let (tensor, tensor_size) = *tensors.next().expect("one each");
                size = tensor_size;
                let last = piece.last.map(|_| last_conv(lasts.next().expect("one each"), columns_memory));
                Piece { tensor, rows: piece.rows, last }
            });
            let pieces = pieces.collect();
            let active =
                map.chain.iter().filter_map(|id| wanted.deferred.iter().position(|other| other == id));
            Map { pieces, size, active: active.collect() }
        };
        self.sources.iter().map(|maps| maps.iter().map(&mut map_of).collect()).collect()
    }
}

/// Scratch memory for `len` numbers, in `f32`.
fn scratch_len<E>(len: usize) -> usize {
    (len * size_of::<E>()).div_ceil(4).max(16)
}

/// A convolution of [`COLUMNS`] pixels at `columns_memory`.
fn last_conv<E: Kernels>(last: &Last<E>, columns_memory: *mut E) -> Conv<E> {
    let block_stride = COLUMNS * 8;
    Conv {
        x: columns_memory,
        step: (8, 0),
        tap: (0, 0),
        taps: (1, 1),
        blocks: (last.blocks.0, block_stride),
        w: last.w,
        bias: last.bias,
        out: TensorPtr {
            first: columns_memory.wrapping_add(last.blocks.0 * block_stride),
            row_stride: 0,
            block_stride,
        },
        size: (COLUMNS, 1),
        out_blocks: last.blocks.1,
        act: last.act,
        residual: None,
    }
}

impl<E: Kernels> LazyHead<E> {
    fn new(head: PlannedHead<E>, body: &Built<E>) -> Self {
        let PlannedHead { split, mut rest, planned } = head;
        let blocks_most = body.lasts.iter().map(|last| last.blocks.0 + last.blocks.1).max().unwrap_or(0);
        let mut columns_memory = Memory::zeroed(blocks_most * COLUMNS * 8);
        let sources = split.maps(body, columns_memory.first().cast());
        let built = planned.allocate(&mut rest);
        let maps = &sources[split.scores.0];
        let tiles = maps.iter().map(|map| map.size.0.div_ceil(4) * map.size.1.div_ceil(4)).max();
        LazyHead {
            steps: built.steps,
            _memory: built.memory,
            scratch: Memory::zeroed(scratch_len::<E>(built.scratch_len)),
            _columns_memory: columns_memory,
            in_map: vec![0; maps.len()],
            marks: vec![false; 2 * tiles.unwrap_or(0)],
            sources,
            inputs: built.inputs,
            output: built.output,
            scores: split.scores,
            columns: split.columns,
            picked: Vec::with_capacity(split.columns),
            // Pages that are never touched are never taken from the system.
            result: vec![0.0; split.result_len()],
            constants: split.constants,
        }
    }

    /// Picks the columns that can reach `score_min`.
    fn pick(&mut self, score_min: f32) {
        let (source, first, count) = self.scores;
        // SAFETY: the maps are in the arena of the body, whose run is over.
        unsafe { lazy_head::pick(&self.sources[source], (first, count), score_min, &mut self.picked) };
        self.count();
    }

    fn pick_all(&mut self) {
        self.picked.clear();
        self.picked.extend(0..self.columns as u32);
        self.count();
    }

    /// Counts the picked columns in each map.
    fn count(&mut self) {
        let (mut begin, mut before) = (0, 0);
        for (map, count) in self.sources[self.scores.0].iter().zip(&mut self.in_map) {
            before += map.size.0 * map.size.1;
            let end = self.picked.partition_point(|column| (*column as usize) < before);
            *count = end - begin;
            // From here on columns are relative to the map.
            let first = (before - map.size.0 * map.size.1) as u32;
            self.picked[begin..end].iter_mut().for_each(|column| *column -= first);
            begin = end;
        }
    }

    /// Activates the tiles that the picked columns need.
    fn activate_tiles(&mut self, active: &mut [ActiveTiles], threads: usize) {
        for maps in &self.sources {
            let mut columns = &self.picked[..];
            for (map, count) in maps.iter().zip(&self.in_map) {
                let (ours, others) = columns.split_at(*count);
                columns = others;
                lazy_head::activate_tiles(map, ours, active, threads, &mut self.marks);
            }
        }
    }

    /// Computes the picked columns.
    fn run(&mut self, isa: Isa) -> (&[f32], usize) {
        let rows = self.scores.2 + 4;
        let all = self.picked.len();
        let scratch = self.scratch.first().cast::<E>();
        let (mut done, mut before) = (0, 0);
        for (index, count) in self.in_map.iter().enumerate() {
            for columns in self.picked[done..][..*count].chunks(COLUMNS) {
                for (maps, input) in self.sources.iter().zip(&self.inputs) {
                    // SAFETY: the maps are in the arena of the body, whose run is over; the input has a row for each of theirs.
                    unsafe { lazy_head::gather(&maps[index], columns, isa, input.0) };
                }
                for (numbers, input) in self.constants.iter().zip(&self.inputs[self.sources.len()..]) {
                    // SAFETY: it lies in the lazy head's arena, and nobody else is there.
                    let input = unsafe { std::slice::from_raw_parts_mut(input.0, input.1) };
                    let rows = numbers.chunks_exact(self.columns).zip(input.chunks_exact_mut(COLUMNS));
                    for (from, to) in rows {
                        let from = &from[before..];
                        columns.iter().zip(to).for_each(|(column, to)| *to = from[*column as usize]);
                    }
                }
                for step in &self.steps {
                    for task in 0..step.tasks + step.borders.len() {
                        // SAFETY: all before it are done, on this thread, in the lazy head's own memory.
                        unsafe { step.run(isa, task, scratch) };
                    }
                }
                // SAFETY: as above.
                let out = unsafe { std::slice::from_raw_parts(self.output.0, self.output.1) };
                for (row, numbers) in out.chunks_exact(COLUMNS).enumerate() {
                    let at = row * all + done;
                    self.result[at..at + columns.len()].copy_from_slice(&numbers[..columns.len()]);
                }
                done += columns.len();
            }
            let map = &self.sources[self.scores.0][index];
            before += map.size.0 * map.size.1;
        }
        (&self.result[..rows * all], all)
    }
}

#[cfg(test)]
mod tests;
