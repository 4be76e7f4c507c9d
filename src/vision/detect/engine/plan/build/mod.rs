//! From a graph to steps: chooses kernels, views and the position of each buffer.
//!
//! Pictures inside the network are stored in blocks of 8 channels ([`super::super::kernels`]), everything else row by row. A result that is
//! needed in the other form is converted once. A concatenation along channels is one buffer that its parts are written into; a slice is a
//! view of a part of one.

mod bind;
mod buffers;
mod concat;
mod conv;
mod maps;
mod rows;
mod weights;

use std::collections::HashMap;

use super::super::graph::{Graph, Op};
use super::super::kernels::{Act, Kernels};
use super::Options;
use super::memory::{Need, assign_offsets, least};
use bind::{At, Blocks, CONSTANTS, PlannedLast, PlannedStep};
pub(super) use bind::{Built, Last, PlannedGraph};
use rows::row_major_strides;
use weights::Weights;

/// Numbers per task of a simple operation.
const TASK_NUMBERS: usize = 16 << 10;

/// Results wanted instead of the graph's output.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Nodes whose results stay in blocks.
    pub(super) maps: Vec<usize>,
    /// 3x3 convolutions of the second part, computed only for active tiles.
    pub(super) deferred: Vec<usize>,
    /// 1x1 convolutions whose weights are wanted, but no step.
    pub(super) lasts: Vec<usize>,
}

/// Plans `graph`, which is fused: up to its output, or up to `wanted`.
///
/// # Errors
/// One line: the operation that has no kernel.
pub(super) fn plan_graph<E: Kernels>(
    graph: &Graph,
    options: Options,
    wanted: &Wanted,
) -> Result<PlannedGraph<E>, String> {
    let mut planner = GraphPlanner::new(graph, options);
    let Wanted { maps, deferred, lasts } = wanted;
    let mut needed = vec![maps.is_empty(); graph.nodes.len()];
    for map in maps {
        needed[*map] = true;
    }
    for id in (0..graph.nodes.len()).rev().filter(|_| !maps.is_empty()) {
        if needed[id] {
            graph.nodes[id].inputs.iter().for_each(|input| needed[*input] = true);
        }
    }
    planner.place_concats(&needed);
    let mut node = |id: usize| {
        planner.is_deferred = deferred.contains(&id);
        planner.node(id).map_err(|what| format!("{}: {what}", graph.nodes[id].name))
    };
    (0..graph.nodes.len()).filter(|id| needed[*id] && !deferred.contains(id)).try_for_each(&mut node)?;
    // Results that are read between the parts must exist before the second part.
    planner.is_deferred = false;
    for map in maps.iter().filter(|map| !deferred.contains(map)) {
        planner.in_blocks(*map)?;
    }
    for id in deferred {
        planner.is_deferred = true;
        planner.node(*id).map_err(|what| format!("{}: {what}", graph.nodes[*id].name))?;
    }
    planner.finish(maps, lasts)
}

/// A graph while it is being planned.
struct GraphPlanner<'g, E> {
    graph: &'g Graph,
    options: Options,
    /// Nodes whose result is stored in blocks.
    blocked: Vec<bool>,
    /// Positions of the parts of concatenations.
    wanted: HashMap<usize, (usize, usize)>,
    blocks: Vec<Option<Blocks>>,
    flat: Vec<Option<At>>,
    /// The picture with a border, four numbers a pixel.
    pixels: Option<At>,
    needs: Vec<Need>,
    steps: Vec<PlannedStep<E>>,
    weights: Weights,
    constants: Vec<f32>,
    /// Borders that are zero already: buffer, first block, blocks.
    bordered: Vec<(usize, usize, usize)>,
    scratch_len: usize,
    /// Whether the current node belongs to the second part.
    is_deferred: bool,
    /// Active tiles of each step of the second part.
    deferred_tiles: Vec<usize>,
    /// Largest number of tiles in a step.
    tiles_most: usize,
}

fn picture_sides(shape: &[usize]) -> Option<(usize, usize, usize)> {
    match *shape {
        [1, channels, rows, columns] => Some((channels, rows, columns)),
        _ => None,
    }
}

impl<'g, E: Kernels> GraphPlanner<'g, E> {
    fn new(graph: &'g Graph, options: Options) -> Self {
        let count = graph.nodes.len();
        let mut planner = GraphPlanner {
            graph,
            options,
            blocked: vec![false; count],
            wanted: HashMap::new(),
            blocks: vec![None; count],
            flat: vec![None; count],
            pixels: None,
            needs: Vec::new(),
            steps: Vec::new(),
            weights: Weights::default(),
            constants: Vec::new(),
            bordered: Vec::new(),
            scratch_len: 0,
            is_deferred: false,
            deferred_tiles: Vec::new(),
            tiles_most: 0,
        };
        for id in 0..count {
            planner.blocked[id] = planner.is_blocked(id);
        }
        planner
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
                let strides = row_major_strides(shape);
                let from = At { offset: from.offset + start * strides[*axis], ..from };
                self.gather(id, from, &strides)
            }
            Op::Transpose(axes) => {
                let from = self.in_rows(node.inputs[0])?;
                let strides = row_major_strides(&self.graph.nodes[node.inputs[0]].shape);
                let strides: Vec<usize> = axes.iter().map(|axis| strides[*axis]).collect();
                self.gather(id, from, &strides)
            }
            Op::MatMul => self.matmul(id),
            Op::Softmax { axis } => self.softmax(id, *axis),
            Op::Sigmoid | Op::Silu => self.gate(id),
            Op::Binary(op) => self.binary(id, *op),
        }
    }

    /// The 1x1 convolution `id`, whose weights are kept without a step.
    fn last(&mut self, id: usize) -> Result<PlannedLast, String> {
        let node = &self.graph.nodes[id];
        let (Op::Conv(conv), Some((channels, ..))) = (&node.op, picture_sides(&node.shape)) else {
            return Err("not a convolution of a picture".into());
        };
        let from = self.graph.nodes[node.inputs[0]].shape[1];
        let (w, bias) = self.keep_direct(id, conv, channels, from);
        let act = if conv.silu { Act::Silu } else { Act::None };
        Ok(PlannedLast { w, bias, blocks: (from.div_ceil(8), channels.div_ceil(8)), act })
    }

    fn finish(mut self, maps: &[usize], lasts: &[usize]) -> Result<PlannedGraph<E>, String> {
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
        let end = self.steps.len();
        for buffer in kept.iter().map(|map| map.buffer).chain(output.map(|output| output.buffer)) {
            self.needs[buffer].last = end;
        }
        for need in &mut self.needs {
            need.first = need.first.min(end);
            need.last = need.last.max(need.first);
        }
        Ok(PlannedGraph {
            steps: self.steps,
            offsets: assign_offsets(&self.needs),
            least_len: least(&self.needs),
            weights: self.weights,
            constants: self.constants,
            inputs,
            output: output.map(|output| (output, numbers_of(graph.output))),
            kept,
            lasts,
            deferred_tiles: self.deferred_tiles,
            tiles_most: self.tiles_most,
            scratch_len: self.scratch_len,
        })
    }
}
