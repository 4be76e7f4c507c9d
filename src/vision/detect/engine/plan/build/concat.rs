//! Concatenations in blocks of 8 channels: the parts are written into one buffer, so that nothing is copied where the parts allow it;
//! slices are views of a part.

use super::super::super::graph::{self, Op};
use super::super::super::kernels::Kernels;
use super::super::step::Kind;
use super::bind::Blocks;
use super::{GraphPlanner, picture_sides};

impl<E: Kernels> GraphPlanner<'_, E> {
    /// Whether the result of a node is stored in blocks.
    pub(super) fn is_blocked(&self, id: usize) -> bool {
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

    /// Gives each concatenation in blocks a buffer, and places its parts there if no other concatenation wants them.
    pub(super) fn place_concats(&mut self, needed: &[bool]) {
        for id in (0..self.graph.nodes.len()).filter(|id| needed[*id]) {
            let node = &self.graph.nodes[id];
            if !(self.blocked[id] && matches!(node.op, Op::Concat { .. })) {
                continue;
            }
            let (channels, rows, columns) = picture_sides(&node.shape).expect("it is blocked");
            let whole = Blocks { buffer: 0, first: 0, blocks: channels.div_ceil(8), size: (columns, rows) };
            let buffer = self.picture_buffer(whole.block_stride() * whole.blocks);
            self.wanted.insert(id, (buffer, 0));
            // The occupied ranges of the buffer: first block and end.
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

    /// Whether every part of concatenation `concat` that would lie in `root`, placed at block `first`, is a slice of it at that position,
    /// or `root` itself.
    pub(super) fn only_its_slices(&self, concat: &graph::Node, root: usize, first: usize) -> bool {
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

    /// The node that a slice is a view of, and the first block.
    pub(super) fn root(&self, mut id: usize) -> (usize, usize) {
        let mut inside = 0;
        while let Op::Slice { axis: 1, start } = self.graph.nodes[id].op
            && self.blocked[id]
        {
            inside += start / 8;
            id = self.graph.nodes[id].inputs[0];
        }
        (id, inside)
    }

    /// Copies the parts that are not in place already.
    pub(super) fn concat_blocks(&mut self, id: usize) -> Result<(), String> {
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
}
