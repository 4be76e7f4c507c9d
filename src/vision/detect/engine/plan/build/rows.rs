//! Row-major tensors: concatenations, slices and transpositions are copies, the rest is element-wise arithmetic.

use super::super::super::graph::{Binary, Op};
use super::super::super::kernels::Kernels;
use super::super::super::kernels::flat::MatMul;
use super::super::step::{AXES_MAX, Kind, Sides};
use super::bind::{At, CONSTANTS};
use super::{GraphPlanner, TASK_NUMBERS};

impl<E: Kernels> GraphPlanner<'_, E> {
    fn uses_if_buffer(&mut self, at: At) {
        if at.buffer != CONSTANTS {
            self.uses(at.buffer);
        }
    }

    pub(super) fn concat_rows(&mut self, id: usize, axis: usize) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let to_strides = row_major_strides(&node.shape);
        let to = self.flat_for(id);
        let mut start = 0;
        for input in &node.inputs {
            let shape = &self.graph.nodes[*input].shape;
            let from = self.in_rows(*input)?;
            let to = At { offset: to.offset + start * to_strides[axis], ..to };
            self.gather_to(&node.name, from, &row_major_strides(shape), to, &to_strides, shape)?;
            start += shape[axis];
        }
        Ok(())
    }

    pub(super) fn gather(&mut self, id: usize, from: At, strides: &[usize]) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let to = self.flat_for(id);
        self.gather_to(&node.name, from, strides, to, &row_major_strides(&node.shape), &node.shape)
    }

    fn gather_to(
        &mut self,
        name: &str,
        from: At,
        from_strides: &[usize],
        to: At,
        to_strides: &[usize],
        shape: &[usize],
    ) -> Result<(), String> {
        let (sides, from_strides, to_strides) =
            (sides(shape, 1)?, sides(from_strides, 0)?, sides(to_strides, 0)?);
        self.uses_if_buffer(from);
        self.uses(to.buffer);
        let numbers = 2 * shape.iter().product::<usize>();
        self.step(
            name,
            1,
            0,
            numbers,
            Box::new(move |bind, _| Kind::Gather {
                from: bind.rows(from),
                to: bind.rows(to),
                sides,
                from_strides,
                to_strides,
            }),
        );
        Ok(())
    }

    pub(super) fn matmul(&mut self, id: usize) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let [a, b] = node.inputs[..] else { return Err("a matrix product with one input".into()) };
        let (a_shape, b_shape) = (&self.graph.nodes[a].shape, &self.graph.nodes[b].shape);
        let ([a_batch @ .., m, k], [b_batch @ .., k2, n]) = (&a_shape[..], &b_shape[..]) else {
            return Err("a matrix product of vectors".into());
        };
        if a_batch != b_batch || k != k2 {
            return Err(format!("a matrix product of {a_shape:?} and {b_shape:?}"));
        }
        let (m, k, n, batch) = (*m, *k, *n, a_batch.iter().product::<usize>());
        let (a, b) = (self.in_rows(a)?, self.in_rows(b)?);
        let out = self.flat_for(id);
        [a, b, out].into_iter().for_each(|at| self.uses_if_buffer(at));
        let rows = (4 * TASK_NUMBERS / n.max(1)).next_multiple_of(4).clamp(4, m.next_multiple_of(4));
        let numbers = batch * (m * k + k * n + m * n);
        let macs = (batch * m * k * n) as u64;
        self.step(
            &node.name,
            batch * m.div_ceil(rows),
            macs,
            numbers,
            Box::new(move |bind, _| Kind::MatMul {
                mul: MatMul { a: bind.rows(a), b: bind.rows(b), out: bind.rows(out), k, n },
                m,
                rows,
            }),
        );
        Ok(())
    }

    /// In place, if no other node needs the input.
    pub(super) fn softmax(&mut self, id: usize, axis: usize) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let from = self.in_rows(node.inputs[0])?;
        let strides = row_major_strides(&node.shape);
        self.gather(id, from, &strides)?;
        let at = self.flat[id].ok_or("a result that was not computed")?;
        self.uses(at.buffer);
        let len = node.shape[axis];
        let inner: usize = node.shape[axis + 1..].iter().product();
        let outer: usize = node.shape[..axis].iter().product();
        let numbers = 2 * len * inner * outer;
        if inner == 1 {
            let rows = (TASK_NUMBERS / len.max(1)).clamp(1, outer);
            self.step(
                &node.name,
                outer.div_ceil(rows),
                0,
                numbers,
                Box::new(move |bind, _| Kind::SoftmaxRows { first: bind.rows(at), len, count: outer, rows }),
            );
        } else {
            self.step(
                &node.name,
                1,
                0,
                numbers,
                Box::new(move |bind, _| Kind::SoftmaxColumns { first: bind.rows(at), len, inner, outer }),
            );
        }
        Ok(())
    }

    pub(super) fn gate(&mut self, id: usize) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let silu = node.op == Op::Silu;
        let from = self.in_rows(node.inputs[0])?;
        let to = self.flat_for(id);
        self.uses_if_buffer(from);
        self.uses(to.buffer);
        let len: usize = node.shape.iter().product();
        self.step(
            &node.name,
            len.div_ceil(TASK_NUMBERS),
            0,
            2 * len,
            Box::new(move |bind, _| {
                let (from, to, part) = (bind.rows(from).cast_const(), bind.rows(to), TASK_NUMBERS);
                if silu { Kind::Silu { from, to, len, part } } else { Kind::Sigmoid { from, to, len, part } }
            }),
        );
        Ok(())
    }

    pub(super) fn binary(&mut self, id: usize, op: Binary) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let [a, b] = node.inputs[..] else { return Err("a binary operation with one input".into()) };
        let strides = |id: usize| -> Result<Sides, String> {
            let shape = &self.graph.nodes[id].shape;
            let mut strides = row_major_strides(shape);
            for (axis, side) in shape.iter().enumerate() {
                let whole = node.shape.len() - shape.len() + axis;
                if *side == 1 && node.shape[whole] != 1 {
                    strides[axis] = 0;
                } else if *side != node.shape[whole] {
                    return Err(format!("{shape:?} broadcast to {:?}", node.shape));
                }
            }
            sides(&strides, 0)
        };
        if node.shape.len() < self.graph.nodes[a].shape.len().max(self.graph.nodes[b].shape.len()) {
            return Err("an operation with fewer axes than its inputs".into());
        }
        let (a_strides, b_strides, sides) = (strides(a)?, strides(b)?, sides(&node.shape, 1)?);
        let (a, b) = (self.in_rows(a)?, self.in_rows(b)?);
        let to = self.flat_for(id);
        [a, b, to].into_iter().for_each(|at| self.uses_if_buffer(at));
        let numbers = 3 * node.shape.iter().product::<usize>();
        self.step(
            &node.name,
            1,
            0,
            numbers,
            Box::new(move |bind, _| Kind::Binary {
                op,
                a: bind.rows(a),
                b: bind.rows(b),
                to: bind.rows(to),
                sides,
                a_strides,
                b_strides,
            }),
        );
        Ok(())
    }
}

/// Strides of a row-major tensor.
pub(super) fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Padded at the front with `with`.
fn sides(shape: &[usize], with: usize) -> Result<Sides, String> {
    let front = AXES_MAX.checked_sub(shape.len()).ok_or_else(|| format!("{} axes", shape.len()))?;
    let mut sides = [with; AXES_MAX];
    sides[front..].copy_from_slice(shape);
    Ok(sides)
}
