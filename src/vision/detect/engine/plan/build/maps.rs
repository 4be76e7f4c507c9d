//! Steps on pictures in blocks other than convolutions.

use super::super::super::kernels::Kernels;
use super::super::super::kernels::maps::{MaxPool, Upsample};
use super::super::step::Kind;
use super::GraphPlanner;

impl<E: Kernels> GraphPlanner<'_, E> {
    pub(super) fn max_pool(&mut self, id: usize, reach: usize) -> Result<(), String> {
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

    pub(super) fn upsample(&mut self, id: usize) -> Result<(), String> {
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
}
