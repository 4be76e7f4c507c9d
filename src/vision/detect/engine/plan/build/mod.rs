//! From a graph to steps: which kernel does what, which tensors are views of others, and where each buffer lies.
//!
//! Pictures inside the network lie in blocks of 8 channels ([`super::super::kernels`]), everything else row by row. What is
//! wanted in the other form is converted once. A concatenation along channels is one buffer that its parts are written into; a
//! slice is a part of one.

mod conv;
mod rows;
mod weights;

use std::collections::HashMap;

use super::super::graph::{self, Graph, Op};
use super::super::kernels::maps::{MaxPool, Upsample};
use super::super::kernels::{Act, Kernels, Place};
use super::Options;
use super::memory::{Memory, Need, least, place};
use super::step::{Border, Chosen, Kind, Step};
use rows::pitches;
use weights::{Weights, What};

/// Numbers that one task of something simple works on.
const TASK_NUMBERS: usize = 16 << 10;

/// What is wanted of a graph instead of its output.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Nodes whose results stay in blocks.
    pub(super) maps: Vec<usize>,
    /// 3x3 convolutions that are done in a second part, of which only some tiles.
    pub(super) later: Vec<usize>,
    /// 1x1 convolutions whose weights are wanted, but no step.
    pub(super) lasts: Vec<usize>,
}

/// A 1x1 convolution without a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last<E> {
    pub(super) w: *const E,
    pub(super) bias: *const E,
    /// Blocks of channels that go in and come out.
    pub(super) blocks: (usize, usize),
    pub(super) act: Act,
}

/// What [`build`] made.
pub(super) struct Built<E> {
    pub(super) steps: Vec<Step<E>>,
    /// Those of the second part.
    pub(super) later: Vec<Step<E>>,
    /// The numbers of all tiles that any step has; steps point into it.
    pub(super) _numbers: Box<[u32]>,
    /// Which tiles the second part's steps do, one each; steps point into it.
    pub(super) chosen: Box<[Chosen]>,
    /// As they were wanted.
    pub(super) lasts: Vec<Last<E>>,
    /// Numbers of the file that are no weights; the arena and the weights, if they are this one's alone.
    pub(super) memory: Vec<Memory>,
    pub(super) scratch_len: usize,
    pub(super) least_len: usize,
    /// The inputs in their order, and how many numbers each has.
    pub(super) inputs: Vec<(*mut f32, usize)>,
    /// The results that were asked for in blocks: places and sizes.
    pub(super) maps: Vec<(Place<E>, (usize, usize))>,
    /// The output, unless those were asked for.
    pub(super) output: (*mut f32, usize),
}

/// Plans `graph`, which is fused: up to its output, or up to `wanted`.
///
/// # Errors
/// One line: what has no kernel.
pub(super) fn build<E: Kernels>(
    graph: &mut Graph,
    options: Options,
    wanted: &Wanted,
) -> Result<Built<E>, String> {
    let mut draft = draft(graph, options, wanted)?;
    let [mut arena, mut weights] = [draft.arena_len(), draft.weights_len()].map(Memory::zeroed);
    // SAFETY: there is room for them, and nobody else has it.
    unsafe { draft.pack(graph, weights.first().cast()) };
    // SAFETY: as above; both go with the steps.
    let mut built = unsafe { draft.bind(arena.first(), weights.first().cast()) };
    built.memory.extend([arena, weights]);
    Ok(built)
}

/// What there is to do, without memory for it: whether `graph` can be built costs no more than this.
///
/// # Errors
/// As [`build`].
pub(super) fn draft<E: Kernels>(
    graph: &Graph,
    options: Options,
    wanted: &Wanted,
) -> Result<Draft<E>, String> {
    let mut build = Build::new(graph, options);
    let Wanted { maps, later, lasts } = wanted;
    let mut needed = vec![maps.is_empty(); graph.nodes.len()];
    for map in maps {
        needed[*map] = true;
    }
    for id in (0..graph.nodes.len()).rev().filter(|_| !maps.is_empty()) {
        if needed[id] {
            graph.nodes[id].inputs.iter().for_each(|input| needed[*input] = true);
        }
    }
    build.place_concats(&needed);
    let mut node = |id: usize| {
        build.is_later = later.contains(&id);
        build.node(id).map_err(|what| format!("{}: {what}", graph.nodes[id].name))
    };
    (0..graph.nodes.len()).filter(|id| needed[*id] && !later.contains(id)).try_for_each(&mut node)?;
    // What is looked at between the parts is there before the second.
    build.is_later = false;
    for map in maps.iter().filter(|map| !later.contains(map)) {
        build.in_blocks(*map)?;
    }
    for id in later {
        build.is_later = true;
        build.node(*id).map_err(|what| format!("{}: {what}", graph.nodes[*id].name))?;
    }
    build.finish(maps, lasts)
}

/// Where a tensor is, before the arena has a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    buffer: usize,
    offset: usize,
}

/// A tensor in blocks of 8 channels with a border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Blocks {
    buffer: usize,
    /// Its first block in the buffer.
    first: usize,
    blocks: usize,
    /// Columns and rows.
    size: (usize, usize),
}

impl Blocks {
    fn line(&self) -> usize {
        (self.size.0 + 2) * 8
    }

    fn plane(&self) -> usize {
        self.line() * (self.size.1 + 2)
    }

    /// Of pixel (0, 0) in the buffer.
    fn offset(&self) -> usize {
        self.first * self.plane() + self.line() + 8
    }
}

/// Where everything lies.
struct Bind<'a, E> {
    /// By buffer, in `f32` from the begin of the arena.
    places: &'a [usize],
    arena: *mut f32,
    constants: *mut f32,
    weights: *mut E,
}

impl<E: Kernels> Bind<'_, E> {
    /// To see a step's sizes.
    const fn nowhere() -> Self {
        let null = std::ptr::null_mut();
        Bind { places: &[], arena: null, constants: null, weights: std::ptr::null_mut() }
    }

    /// A tensor row by row.
    fn rows(&self, at: At) -> *mut f32 {
        match at.buffer {
            CONSTANTS => self.constants.wrapping_add(at.offset),
            buffer => self.arena.wrapping_add(self.places[buffer] + at.offset),
        }
    }

    /// Numbers of the kind that pictures are made of.
    fn numbers(&self, at: At) -> *mut E {
        match at.buffer {
            WEIGHTS => self.weights.wrapping_add(at.offset),
            buffer => {
                let place = self.places.get(buffer).copied().unwrap_or(0);
                self.arena.wrapping_add(place).cast::<E>().wrapping_add(at.offset)
            }
        }
    }

    fn blocks(&self, blocks: Blocks) -> Place<E> {
        Place {
            first: self.numbers(At { buffer: blocks.buffer, offset: blocks.offset() }),
            line: blocks.line(),
            plane: blocks.plane(),
        }
    }
}

/// What steps point to besides tensors.
struct Tables<'a> {
    /// The numbers of tiles, from 0.
    numbers: *const u32,
    chosen: &'a [Chosen],
}

/// A step whose memory has no place yet.
type MakeKind<E> = Box<dyn Fn(&Bind<'_, E>, &Tables<'_>) -> Kind<E>>;

struct Drafted<E> {
    name: String,
    draft: MakeKind<E>,
    is_later: bool,
    tasks: usize,
    borders: Vec<Blocks>,
    macs: u64,
    numbers: u64,
}

/// The buffer of the weights.
const WEIGHTS: usize = usize::MAX;
/// The buffer of the file's other numbers.
const CONSTANTS: usize = usize::MAX - 1;

struct Build<'g, E> {
    graph: &'g Graph,
    options: Options,
    /// Nodes whose result lies in blocks.
    blocked: Vec<bool>,
    /// Where concatenations want their parts.
    wanted: HashMap<usize, (usize, usize)>,
    blocks: Vec<Option<Blocks>>,
    flat: Vec<Option<At>>,
    /// The picture with a border, four numbers a pixel.
    pixels: Option<At>,
    needs: Vec<Need>,
    drafts: Vec<Drafted<E>>,
    weights: Weights,
    constants: Vec<f32>,
    /// Borders that are zero already: buffer, first block, blocks.
    bordered: Vec<(usize, usize, usize)>,
    scratch_len: usize,
    /// Whether the node at hand belongs to the second part.
    is_later: bool,
    /// Tiles of each step of that.
    later_tiles: Vec<usize>,
    /// Most tiles of any step.
    tiles_most: usize,
}

fn picture_sides(shape: &[usize]) -> Option<(usize, usize, usize)> {
    match *shape {
        [1, channels, rows, columns] => Some((channels, rows, columns)),
        _ => None,
    }
}

impl<'g, E: Kernels> Build<'g, E> {
    fn new(graph: &'g Graph, options: Options) -> Self {
        let count = graph.nodes.len();
        let mut build = Build {
            graph,
            options,
            blocked: vec![false; count],
            wanted: HashMap::new(),
            blocks: vec![None; count],
            flat: vec![None; count],
            pixels: None,
            needs: Vec::new(),
            drafts: Vec::new(),
            weights: Weights::default(),
            constants: Vec::new(),
            bordered: Vec::new(),
            scratch_len: 0,
            is_later: false,
            later_tiles: Vec::new(),
            tiles_most: 0,
        };
        for id in 0..count {
            build.blocked[id] = build.is_blocked(id);
        }
        build
    }

    /// Whether the result of a node is made in blocks.
    fn is_blocked(&self, id: usize) -> bool {
        let node = &self.graph.nodes[id];
        let Some((channels, ..)) = picture_sides(&node.shape) else { return false };
        let whole =
            |input: &usize| self.blocked[*input] && self.graph.nodes[*input].shape[1].is_multiple_of(8);
        match &node.op {
            Op::Conv(_) | Op::MaxPool { .. } | Op::Upsample => true,
            Op::Concat { axis: 1 } => {
                let (last, rest) = node.inputs.split_last().expect("a concatenation of something");
                rest.iter().all(whole) && self.blocked[*last]
            }
            Op::Slice { axis: 1, start } => {
                let input = node.inputs[0];
                let to_the_end = start + channels == self.graph.nodes[input].shape[1];
                self.blocked[input] && start.is_multiple_of(8) && (channels.is_multiple_of(8) || to_the_end)
            }
            _ => false,
        }
    }

    /// Gives each concatenation in blocks a buffer, and each of its parts that nobody else wants elsewhere a place in it.
    fn place_concats(&mut self, needed: &[bool]) {
        for id in (0..self.graph.nodes.len()).filter(|id| needed[*id]) {
            let node = &self.graph.nodes[id];
            if !(self.blocked[id] && matches!(node.op, Op::Concat { .. })) {
                continue;
            }
            let (channels, rows, columns) = picture_sides(&node.shape).expect("it is blocked");
            let whole = Blocks { buffer: 0, first: 0, blocks: channels.div_ceil(8), size: (columns, rows) };
            let buffer = self.picture_buffer(whole.plane() * whole.blocks);
            self.wanted.insert(id, (buffer, 0));
            // What is taken in the buffer so far: first block and the one behind the last.
            let mut taken: Vec<(usize, usize)> = Vec::new();
            let mut at: usize = 0;
            for input in &node.inputs {
                let blocks = self.graph.nodes[*input].shape[1].div_ceil(8);
                let (root, inside) = self.root(*input);
                let root_blocks = self.graph.nodes[root].shape[1].div_ceil(8);
                if let Some(first) = at.checked_sub(inside)
                    && !self.wanted.contains_key(&root)
                    && self.blocked[root]
                    && !matches!(self.graph.nodes[root].op, Op::Concat { .. })
                    && first + root_blocks <= whole.blocks
                    && taken.iter().all(|(from, to)| first + root_blocks <= *from || *to <= first)
                    && self.only_its_slices(node, root, first)
                {
                    self.wanted.insert(root, (buffer, first));
                    taken.push((first, first + root_blocks));
                }
                at += blocks;
            }
        }
    }

    /// Whether every part of concatenation `concat` that would lie in `root`, placed at block `first`, is a slice of it at its
    /// place, or itself.
    fn only_its_slices(&self, concat: &graph::Node, root: usize, first: usize) -> bool {
        let root_blocks = self.graph.nodes[root].shape[1].div_ceil(8);
        let mut at = 0;
        concat.inputs.iter().all(|input| {
            let blocks = self.graph.nodes[*input].shape[1].div_ceil(8);
            let apart = at + blocks <= first || first + root_blocks <= at;
            let ours = self.root(*input) == (root, at.wrapping_sub(first));
            at += blocks;
            apart || ours
        })
    }

    /// The node whose result a slice is a part of, and at which block.
    fn root(&self, mut id: usize) -> (usize, usize) {
        let mut inside = 0;
        while let Op::Slice { axis: 1, start } = self.graph.nodes[id].op
            && self.blocked[id]
        {
            inside += start / 8;
            id = self.graph.nodes[id].inputs[0];
        }
        (id, inside)
    }

    /// A buffer for a picture of that many numbers.
    fn picture_buffer(&mut self, len: usize) -> usize {
        // The first layer reads a vector where it needs a pixel.
        self.buffer((len * size_of::<E>()).div_ceil(4) + 16)
    }

    fn buffer(&mut self, len: usize) -> usize {
        self.needs.push(Need { len, first: usize::MAX, last: 0 });
        self.needs.len() - 1
    }

    /// The buffer is used by the step that comes next.
    fn uses(&mut self, buffer: usize) {
        let step = self.drafts.len();
        let need = &mut self.needs[buffer];
        (need.first, need.last) = (need.first.min(step), need.last.max(step));
    }

    fn step(&mut self, name: &str, tasks: usize, macs: u64, numbers: usize, draft: MakeKind<E>) {
        self.drafts.push(Drafted {
            name: name.to_owned(),
            draft,
            is_later: self.is_later,
            tasks,
            borders: Vec::new(),
            macs,
            numbers: numbers as u64,
        });
    }

    fn keep(&mut self, numbers: Vec<f32>) -> At {
        self.weights.keep::<E>(What::Numbers(numbers))
    }

    fn keep_rows(&mut self, numbers: &[f32]) -> At {
        let offset = self.constants.len();
        self.constants.extend_from_slice(numbers);
        self.constants.resize(self.constants.len().next_multiple_of(16), 0.0);
        At { buffer: CONSTANTS, offset }
    }

    /// Where the result of `id` is to be in blocks.
    fn blocks_for(&mut self, id: usize) -> Blocks {
        let (channels, rows, columns) = picture_sides(&self.graph.nodes[id].shape).expect("looked at before");
        let mut blocks = Blocks { buffer: 0, first: 0, blocks: channels.div_ceil(8), size: (columns, rows) };
        (blocks.buffer, blocks.first) = match self.wanted.get(&id) {
            Some(place) => *place,
            None => (self.picture_buffer(blocks.plane() * blocks.blocks), 0),
        };
        self.blocks[id] = Some(blocks);
        blocks
    }

    fn flat_for(&mut self, id: usize) -> At {
        let len = self.graph.nodes[id].shape.iter().product();
        let at = At { buffer: self.buffer(len), offset: 0 };
        self.flat[id] = Some(at);
        at
    }

    /// The result of `id` in blocks; converted if it is not.
    fn in_blocks(&mut self, id: usize) -> Result<Blocks, String> {
        if let Some(blocks) = self.blocks[id] {
            return Ok(blocks);
        }
        let (channels, rows, columns) = picture_sides(&self.graph.nodes[id].shape)
            .ok_or("a picture of other sides than [1, channels, rows, columns]")?;
        let from = self.in_rows(id)?;
        let to = self.blocks_for(id);
        self.uses(from.buffer);
        self.uses(to.buffer);
        let name = format!("{}: into blocks", self.graph.nodes[id].name);
        let numbers = 2 * channels * rows * columns;
        self.step(
            &name,
            to.blocks,
            0,
            numbers,
            Box::new(move |bind, _| Kind::Pack {
                from: bind.rows(from),
                to: bind.blocks(to),
                channels,
                size: (columns, rows),
            }),
        );
        Ok(to)
    }

    /// The result of `id` row by row; converted if it is not.
    fn in_rows(&mut self, id: usize) -> Result<At, String> {
        if let Some(at) = self.flat[id] {
            return Ok(at);
        }
        let from = self.blocks[id].ok_or("a result that is nowhere")?;
        let to = self.flat_for(id);
        self.uses(from.buffer);
        self.uses(to.buffer);
        let channels = self.graph.nodes[id].shape[1];
        let name = format!("{}: into rows", self.graph.nodes[id].name);
        let numbers = 2 * channels * from.size.0 * from.size.1;
        self.step(
            &name,
            from.blocks,
            0,
            numbers,
            Box::new(move |bind, _| Kind::Unpack {
                from: bind.blocks(from),
                to: bind.rows(to),
                channels,
                size: from.size,
            }),
        );
        Ok(to)
    }

    /// Sees to it that the border of `blocks` is zero before the next step.
    fn border(&mut self, blocks: Blocks) {
        let ours = (blocks.buffer, blocks.first, blocks.blocks);
        let there = self.bordered.iter().any(|(buffer, first, count)| {
            *buffer == ours.0 && *first <= ours.1 && ours.1 + ours.2 <= first + count
        });
        if !there {
            self.bordered.push(ours);
            self.drafts.last_mut().expect("somebody wrote it").borders.push(blocks);
        }
    }

    fn node(&mut self, id: usize) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        match &node.op {
            Op::Input => {
                self.flat_for(id);
                // The caller writes it before the first step.
                self.uses(self.needs.len() - 1);
                Ok(())
            }
            Op::Const(numbers) => {
                self.flat[id] = Some(self.keep_rows(numbers));
                Ok(())
            }
            Op::Conv(conv) => self.conv(id, conv),
            Op::MaxPool { reach } => self.max_pool(id, *reach),
            Op::Upsample => self.upsample(id),
            Op::Concat { .. } if self.blocked[id] => self.concat_blocks(id),
            Op::Slice { start, .. } if self.blocked[id] => {
                let input = self.in_blocks(node.inputs[0])?;
                let blocks = node.shape[1].div_ceil(8);
                self.blocks[id] = Some(Blocks { first: input.first + start / 8, blocks, ..input });
                Ok(())
            }
            Op::Reshape => {
                self.flat[id] = Some(self.in_rows(node.inputs[0])?);
                Ok(())
            }
            Op::Concat { axis } => self.concat_rows(id, *axis),
            Op::Slice { axis, start } => {
                let (from, shape) = (self.in_rows(node.inputs[0])?, &self.graph.nodes[node.inputs[0]].shape);
                let pitch = pitches(shape);
                let from = At { offset: from.offset + start * pitch[*axis], ..from };
                self.gather(id, from, &pitch)
            }
            Op::Transpose(axes) => {
                let from = self.in_rows(node.inputs[0])?;
                let pitch = pitches(&self.graph.nodes[node.inputs[0]].shape);
                let pitch: Vec<usize> = axes.iter().map(|axis| pitch[*axis]).collect();
                self.gather(id, from, &pitch)
            }
            Op::MatMul => self.matmul(id),
            Op::Softmax { axis } => self.softmax(id, *axis),
            Op::Sigmoid | Op::Silu => self.gate(id),
            Op::Binary(op) => self.binary(id, *op),
        }
    }

    /// A place for the result of `id`, in a step that also reads `buffers`.
    fn output_of(&mut self, id: usize, buffers: &[Option<usize>]) -> Blocks {
        let out = self.blocks_for(id);
        for buffer in buffers.iter().flatten() {
            self.uses(*buffer);
        }
        self.uses(out.buffer);
        out
    }

    fn max_pool(&mut self, id: usize, reach: usize) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let x = self.in_blocks(node.inputs[0])?;
        let out = self.output_of(id, &[Some(x.buffer)]);
        let (wide, high) = x.size;
        self.scratch_len = self.scratch_len.max(8 * wide * high);
        let numbers = 16 * x.blocks * wide * high;
        self.step(
            &node.name,
            x.blocks,
            0,
            numbers,
            Box::new(move |bind, _| Kind::MaxPool {
                pool: MaxPool { x: bind.blocks(x), out: bind.blocks(out), size: (wide, high), reach },
            }),
        );
        Ok(())
    }

    fn upsample(&mut self, id: usize) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let x = self.in_blocks(node.inputs[0])?;
        let out = self.output_of(id, &[Some(x.buffer)]);
        let numbers = 40 * x.blocks * x.size.0 * x.size.1;
        self.step(
            &node.name,
            x.blocks,
            0,
            numbers,
            Box::new(move |bind, _| Kind::Upsample {
                up: Upsample { x: bind.blocks(x), out: bind.blocks(out), size: x.size },
            }),
        );
        Ok(())
    }

    /// The parts that are not there already are copied.
    fn concat_blocks(&mut self, id: usize) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let whole = self.blocks_for(id);
        let mut first = whole.first;
        for input in &node.inputs {
            let from = self.in_blocks(*input)?;
            let to = Blocks { buffer: whole.buffer, first, ..from };
            if from != to {
                self.uses(from.buffer);
                self.uses(to.buffer);
                let numbers = 16 * from.blocks * from.size.0 * from.size.1;
                self.step(
                    &node.name,
                    from.blocks,
                    0,
                    numbers,
                    Box::new(move |bind, _| Kind::Copy {
                        from: bind.blocks(from),
                        to: bind.blocks(to),
                        size: from.size,
                    }),
                );
            }
            first += from.blocks;
        }
        Ok(())
    }

    /// The 1x1 convolution `id`, whose weights are kept.
    fn last(&mut self, id: usize) -> Result<(At, At, (usize, usize), Act), String> {
        let node = &self.graph.nodes[id];
        let (Op::Conv(conv), Some((channels, ..))) = (&node.op, picture_sides(&node.shape)) else {
            return Err("no convolution of a picture".into());
        };
        let from = self.graph.nodes[node.inputs[0]].shape[1];
        let (w, bias) = self.keep_direct(id, conv, channels, from);
        let act = if conv.silu { Act::Silu } else { Act::None };
        Ok((w, bias, (from.div_ceil(8), channels.div_ceil(8)), act))
    }

    fn finish(mut self, maps: &[usize], lasts: &[usize]) -> Result<Draft<E>, String> {
        let graph = self.graph;
        let kept = maps.iter().map(|id| self.in_blocks(*id)).collect::<Result<Vec<_>, _>>()?;
        let lasts = lasts.iter().map(|id| self.last(*id)).collect::<Result<Vec<_>, _>>()?;
        let output = if maps.is_empty() { Some(self.in_rows(graph.output)?) } else { None };
        let is_input = |id: &usize| graph.nodes[*id].op == Op::Input;
        let numbers_of = |id: usize| graph.nodes[id].shape.iter().product();
        let inputs: Vec<(At, usize)> = (0..graph.nodes.len())
            .filter(is_input)
            .filter_map(|id| Some((self.flat[id]?, numbers_of(id))))
            .collect();
        if inputs.is_empty() || output.is_some_and(|output| output.buffer == CONSTANTS) {
            return Err("its output does not depend on the picture".into());
        }
        let end = self.drafts.len();
        for buffer in kept.iter().map(|map| map.buffer).chain(output.map(|output| output.buffer)) {
            self.needs[buffer].last = end;
        }
        for need in &mut self.needs {
            need.first = need.first.min(end);
            need.last = need.last.max(need.first);
        }
        Ok(Draft {
            drafted: self.drafts,
            places: place(&self.needs),
            least_len: least(&self.needs),
            weights: self.weights,
            constants: self.constants,
            inputs,
            output: output.map(|output| (output, numbers_of(graph.output))),
            kept,
            lasts,
            later_tiles: self.later_tiles,
            tiles_most: self.tiles_most,
            scratch_len: self.scratch_len,
        })
    }
}

/// A plan without memory.
pub(super) struct Draft<E> {
    drafted: Vec<Drafted<E>>,
    /// Where each buffer lies in the arena, and how long that is.
    places: (Vec<usize>, usize),
    least_len: usize,
    weights: Weights,
    constants: Vec<f32>,
    inputs: Vec<(At, usize)>,
    output: Option<(At, usize)>,
    kept: Vec<Blocks>,
    lasts: Vec<(At, At, (usize, usize), Act)>,
    later_tiles: Vec<usize>,
    tiles_most: usize,
    scratch_len: usize,
}

impl<E: Kernels> Draft<E> {
    /// Numbers of `f32` that the arena has.
    pub(super) const fn arena_len(&self) -> usize {
        self.places.1
    }

    /// Numbers of `f32` that have room for the weights.
    pub(super) const fn weights_len(&self) -> usize {
        (self.weights.len * size_of::<E>()).div_ceil(4)
    }

    /// Whether the weights of both, packed, are the same: the same network at another size.
    pub(super) fn shares_weights(&self, graph: &Graph, other: &Self, other_graph: &Graph) -> bool {
        self.weights.equal((graph, other_graph), &other.weights)
    }

    /// Packs the weights, which `graph` loses on the way, so that both are never there as a whole.
    ///
    /// # Safety
    /// `to` has room for them, and nobody else has it.
    pub(super) unsafe fn pack(&mut self, graph: &mut Graph, to: *mut E) {
        // SAFETY: the caller's promise.
        unsafe { std::mem::take(&mut self.weights).pack(graph, to) };
    }

    /// Gives it its places: an arena and weights that may be others' too, if they are not run at the same time.
    ///
    /// # Safety
    /// They have room for it, and stay as long as the steps.
    pub(super) unsafe fn bind(self, arena: *mut f32, weights: *mut E) -> Built<E> {
        let mut constants = Memory::zeroed(self.constants.len());
        // SAFETY: it has room for that many, and nobody else has it.
        unsafe {
            std::ptr::copy_nonoverlapping(self.constants.as_ptr(), constants.first(), self.constants.len());
        };
        let bind = Bind { places: &self.places.0, arena, constants: constants.first(), weights };
        let numbers: Box<[u32]> = (0..self.tiles_most as u32).collect();
        let room = |tiles: &usize| Chosen { tiles: Vec::with_capacity(*tiles), per_task: 1 };
        let chosen: Box<[Chosen]> = self.later_tiles.iter().map(room).collect();
        let tables = Tables { numbers: numbers.as_ptr(), chosen: &chosen };
        let border = |blocks: &Blocks| Border {
            place: bind.blocks(*blocks),
            blocks: blocks.blocks,
            size: blocks.size,
        };
        let (mut steps, mut later) = (Vec::new(), Vec::new());
        for drafted in self.drafted {
            let part = if drafted.is_later { &mut later } else { &mut steps };
            part.push(Step {
                kind: (drafted.draft)(&bind, &tables),
                name: drafted.name,
                tasks: drafted.tasks,
                borders: drafted.borders.iter().map(border).collect(),
                macs: drafted.macs,
                numbers: drafted.numbers,
            });
        }
        let last =
            |(w, bias, blocks, act)| Last { w: bind.numbers(w), bias: bind.numbers(bias), blocks, act };
        Built {
            steps,
            later,
            inputs: self.inputs.into_iter().map(|(at, len)| (bind.rows(at), len)).collect(),
            maps: self.kept.iter().map(|blocks| (bind.blocks(*blocks), blocks.size)).collect(),
            lasts: self.lasts.into_iter().map(last).collect(),
            output: self.output.map_or((std::ptr::null_mut(), 0), |(at, len)| (bind.rows(at), len)),
            least_len: self.least_len,
            memory: vec![constants],
            _numbers: numbers,
            chosen,
            scratch_len: self.scratch_len,
        }
    }
}
