//! Storage of results during planning: buffers and their lifetimes, in blocks of 8 channels or row by row; a result that is needed in the
//! other form is converted once.

use super::super::super::kernels::Kernels;
use super::super::memory::Need;
use super::super::step::Kind;
use super::bind::{At, Blocks, CONSTANTS, MakeKind, PlannedStep};
use super::weights::PackedKind;
use super::{GraphPlanner, picture_sides};

impl<E: Kernels> GraphPlanner<'_, E> {
    /// A buffer for a picture of this many numbers.
    pub(super) fn picture_buffer(&mut self, len: usize) -> usize {
        // The first layer reads a whole vector where it needs a pixel.
        self.buffer((len * size_of::<E>()).div_ceil(4) + 16)
    }

    pub(super) fn buffer(&mut self, len: usize) -> usize {
        self.needs.push(Need { len, first: usize::MAX, last: 0 });
        self.needs.len() - 1
    }

    /// Marks the buffer as used by the next step.
    pub(super) fn uses(&mut self, buffer: usize) {
        let step = self.steps.len();
        let need = &mut self.needs[buffer];
        (need.first, need.last) = (need.first.min(step), need.last.max(step));
    }

    pub(super) fn step(
        &mut self,
        name: &str,
        tasks: usize,
        macs: u64,
        numbers: usize,
        make_kind: MakeKind<E>,
    ) {
        self.steps.push(PlannedStep {
            name: name.to_owned(),
            make_kind,
            is_deferred: self.is_deferred,
            tasks,
            borders: Vec::new(),
            macs,
            numbers: numbers as u64,
        });
    }

    pub(super) fn keep(&mut self, numbers: Vec<f32>) -> At {
        self.weights.keep::<E>(PackedKind::Numbers(numbers))
    }

    pub(super) fn keep_rows(&mut self, numbers: &[f32]) -> At {
        let offset = self.constants.len();
        self.constants.extend_from_slice(numbers);
        self.constants.resize(self.constants.len().next_multiple_of(16), 0.0);
        At { buffer: CONSTANTS, offset }
    }

    /// Allocates the result of `id` in blocks.
    pub(super) fn blocks_for(&mut self, id: usize) -> Blocks {
        let (channels, rows, columns) = picture_sides(&self.graph.nodes[id].shape).expect("checked before");
        let mut blocks = Blocks { buffer: 0, first: 0, blocks: channels.div_ceil(8), size: (columns, rows) };
        (blocks.buffer, blocks.first) = match self.wanted.get(&id) {
            Some(place) => *place,
            None => (self.picture_buffer(blocks.block_stride() * blocks.blocks), 0),
        };
        self.blocks[id] = Some(blocks);
        blocks
    }

    pub(super) fn flat_for(&mut self, id: usize) -> At {
        let len = self.graph.nodes[id].shape.iter().product();
        let at = At { buffer: self.buffer(len), offset: 0 };
        self.flat[id] = Some(at);
        at
    }

    /// The result of `id` in blocks; converted if needed.
    pub(super) fn in_blocks(&mut self, id: usize) -> Result<Blocks, String> {
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

    /// The result of `id` row by row; converted if needed.
    pub(super) fn in_rows(&mut self, id: usize) -> Result<At, String> {
        if let Some(at) = self.flat[id] {
            return Ok(at);
        }
        let from = self.blocks[id].ok_or("a result that was not computed")?;
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

    /// Makes sure that the border of `blocks` is zero before the next step.
    pub(super) fn border(&mut self, blocks: Blocks) {
        let ours = (blocks.buffer, blocks.first, blocks.blocks);
        let there = self.bordered.iter().any(|(buffer, first, count)| {
            *buffer == ours.0 && *first <= ours.1 && ours.1 + ours.2 <= first + count
        });
        if !there {
            self.bordered.push(ours);
            self.steps.last_mut().expect("a step wrote the result").borders.push(blocks);
        }
    }

    /// Allocates the result of `id`, in a step that also reads `buffers`.
    pub(super) fn output_of(&mut self, id: usize, buffers: &[Option<usize>]) -> Blocks {
        let out = self.blocks_for(id);
        for buffer in buffers.iter().flatten() {
            self.uses(*buffer);
        }
        self.uses(out.buffer);
        out
    }
}
