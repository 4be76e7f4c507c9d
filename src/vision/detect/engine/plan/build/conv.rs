//! Convolutions: the choice of kernel, the number of tasks, and the layout of the weights.

use super::super::super::graph::{self, Op};
use super::super::super::kernels::conv::Conv;
use super::super::super::kernels::int8::{self, Int8Conv};
use super::super::super::kernels::maps::Depthwise;
use super::super::super::kernels::winograd::Winograd;
use super::super::super::kernels::{Act, Kernels};
use super::super::lazy_head::TILES_MOST;
use super::super::step::{Kind, TileSet};
use super::bind::{At, Bind, Blocks};
use super::weights::{Int8Parts, PackedKind};
use super::{GraphPlanner, picture_sides};

/// Maximum input of a task of a direct convolution, numbers: it is read once for each block of output channels, and so should stay in the
/// L2 cache. 128 kB.
const TASK_INPUT: usize = 32 << 10;

/// The checked sizes of a convolution.
struct Shape<'a> {
    id: usize,
    conv: &'a graph::Conv,
    /// Input channels, rows and columns.
    from: (usize, usize, usize),
    /// Output channels, rows and columns.
    to: (usize, usize, usize),
    act: Act,
    residual: Option<Blocks>,
    macs: u64,
    numbers: usize,
}

impl Shape<'_> {
    /// Columns and rows of the result.
    fn size(&self) -> (usize, usize) {
        (self.to.2, self.to.1)
    }

    fn weights(&self) -> &[f32] {
        &self.conv.weights
    }
}

impl<E: Kernels> GraphPlanner<'_, E> {
    pub(super) fn conv(&mut self, id: usize, conv: &graph::Conv) -> Result<(), String> {
        let node = &self.graph.nodes[id];
        let input = &self.graph.nodes[node.inputs[0]];
        let from = picture_sides(&input.shape).ok_or("a convolution whose input is not a picture")?;
        let to = picture_sides(&node.shape).ok_or("a convolution whose output is not a picture")?;
        fits(conv, from, to)?;
        let residual = match node.inputs.get(1) {
            Some(other) => Some(self.in_blocks(*other)?),
            None => None,
        };
        let shape = Shape {
            id,
            conv,
            from,
            to,
            act: if conv.silu { Act::Silu } else { Act::None },
            residual,
            macs: (conv.weights.len() * to.1 * to.2) as u64,
            numbers: from.0 * from.1 * from.2 + to.0 * to.1 * to.2 + conv.weights.len(),
        };
        if conv.groups > 1 {
            return self.depthwise(&shape);
        }
        if input.op == Op::Input && from.0 == 3 && residual.is_none() {
            return self.first(&shape);
        }
        let x = self.in_blocks(node.inputs[0])?;
        if conv.pad != [0, 0] {
            self.border(x);
        }
        let straight = conv.kernel == [3, 3] && conv.stride == [1, 1] && conv.pad == [1, 1];
        if let Some(bytes) = conv.int8 {
            self.int8(&shape, x, bytes)?;
        } else if straight && self.options.winograd {
            self.winograd(&shape, x);
        } else {
            self.direct(&shape, x);
        }
        Ok(())
    }

    /// Allocates the result, in a step that also reads `x`.
    fn output_for(&mut self, shape: &Shape<'_>, x: usize) -> Blocks {
        self.output_of(shape.id, &[Some(x), shape.residual.map(|residual| residual.buffer)])
    }

    /// Output rows per task if a task reads `row_numbers` numbers per input row: an equal number of tasks for each thread.
    fn task_rows(&self, shape: &Shape<'_>, row_numbers: usize) -> usize {
        let rows = shape.to.1;
        let most = (TASK_INPUT / (shape.conv.stride[0] * row_numbers)).clamp(1, rows);
        rows.div_ceil(rows.div_ceil(most).next_multiple_of(self.options.threads).min(rows))
    }

    fn depthwise(&mut self, shape: &Shape<'_>) -> Result<(), String> {
        let (conv, channels) = (shape.conv, shape.to.0);
        if conv.groups != channels || channels != shape.from.0 || conv.kernel != [3, 3] {
            return Err(format!("{} groups of {} channels", conv.groups, shape.from.0));
        }
        if conv.stride != [1, 1] || conv.pad != [1, 1] {
            return Err("a depth-wise convolution with a stride or without padding".into());
        }
        let node = &self.graph.nodes[shape.id];
        let x = self.in_blocks(node.inputs[0])?;
        self.border(x);
        let w = self.keep(pack_depthwise(shape.weights(), channels));
        let out = self.output_for(shape, x.buffer);
        let bias = self.keep_bias(shape.conv);
        let (size, act, residual) = (shape.size(), shape.act, shape.residual);
        self.step(
            &node.name,
            x.blocks,
            shape.macs,
            shape.numbers,
            Box::new(move |bind, _| Kind::Depthwise {
                conv: Depthwise {
                    x: bind.blocks(x),
                    w: bind.numbers(w),
                    bias: bind.numbers(bias),
                    out: bind.blocks(out),
                    size,
                    act,
                    residual: residual.map(|r| bind.blocks(r)),
                },
            }),
        );
        Ok(())
    }

    fn winograd(&mut self, shape: &Shape<'_>, x: Blocks) {
        let how = PackedKind::Winograd { node: shape.id, channels: shape.to.0, in_channels: shape.from.0 };
        let w = self.weights.keep::<E>(how);
        let out = self.output_for(shape, x.buffer);
        let bias = self.keep_bias(shape.conv);
        let (size, act, residual) = (shape.size(), shape.act, shape.residual);
        let make = move |bind: &Bind<'_, E>| Winograd {
            x: bind.blocks(x),
            blocks: x.blocks,
            w: bind.numbers(w),
            bias: bind.numbers(bias),
            out: bind.blocks(out),
            size,
            out_blocks: out.blocks,
            act,
            residual: residual.map(|r| bind.blocks(r)),
        };
        let nowhere = make(&Bind::nowhere());
        let all = nowhere.tiles().0 * nowhere.tiles().1;
        let (_, tile, group) = E::sides(self.options.isa);
        let most = nowhere.tiles_a_block(tile);
        let tasks = all.div_ceil(most).next_multiple_of(self.options.threads).min(all);
        let per_task = all.div_ceil(tasks);
        self.tiles_most = self.tiles_most.max(all);
        let deferred = self.is_deferred.then_some(self.deferred_tiles.len());
        if deferred.is_some() {
            self.deferred_tiles.push(all);
        }
        let tiles = if deferred.is_some() { TILES_MOST } else { per_task };
        self.scratch_len = self.scratch_len.max(nowhere.scratch_len(tiles, group));
        self.step(
            &self.graph.nodes[shape.id].name,
            all.div_ceil(per_task),
            shape.macs,
            shape.numbers,
            Box::new(move |bind, tables| Kind::Winograd {
                conv: make(bind),
                which: match deferred {
                    Some(deferred) => TileSet::Active(&raw const tables.active[deferred]),
                    None => TileSet::All { numbers: tables.numbers, per_task },
                },
            }),
        );
    }

    /// Weights and biases of the 1x1 convolution `id`.
    pub(super) fn keep_direct(
        &mut self,
        id: usize,
        conv: &graph::Conv,
        channels: usize,
        in_channels: usize,
    ) -> (At, At) {
        let w = self.weights.direct::<E>((id, 1), channels, (in_channels, 8));
        (w, self.keep_bias(conv))
    }

    /// Biases padded with zeros to a block of 16.
    fn keep_bias(&mut self, conv: &graph::Conv) -> At {
        let mut bias = conv.bias.clone();
        bias.resize(bias.len().next_multiple_of(16), 0.0);
        self.keep(bias)
    }

    fn direct(&mut self, shape: &Shape<'_>, x: Blocks) {
        let [high, wide] = shape.conv.kernel;
        let ([down, across], [above, left]) = (shape.conv.stride, shape.conv.pad);
        let taps = wide * high;
        let w = self.weights.direct::<E>((shape.id, taps), shape.to.0, (shape.from.0, 8));
        let out = self.output_for(shape, x.buffer);
        let bias = self.keep_bias(shape.conv);
        let (size, act, residual) = (shape.size(), shape.act, shape.residual);
        let rows = self.task_rows(shape, x.row_stride() * x.blocks);
        let for_int8 = shape.conv.is_for_int8(shape.from.0);
        let make = move |bind: &Bind<'_, E>| Conv {
            x: bind.blocks(x).first.wrapping_sub(above * x.row_stride() + left * 8),
            step: (across * 8, down * x.row_stride()),
            tap: (8, x.row_stride()),
            taps: (wide, high),
            blocks: (x.blocks, x.block_stride()),
            w: bind.numbers(w),
            bias: bind.numbers(bias),
            out: bind.blocks(out),
            size,
            out_blocks: out.blocks,
            act,
            residual: residual.map(|r| bind.blocks(r)),
        };
        self.step(
            &self.graph.nodes[shape.id].name,
            size.1.div_ceil(rows),
            shape.macs,
            shape.numbers,
            Box::new(move |bind, _| Kind::Direct { conv: make(bind), rows, for_int8 }),
        );
    }

    fn int8(&mut self, shape: &Shape<'_>, x: Blocks, bytes: graph::Bytes) -> Result<(), String> {
        if !E::has_int8(self.options.isa) || !shape.conv.is_for_int8(shape.from.0) {
            return Err("an int8 convolution that has no kernel".into());
        }
        let [high, wide] = shape.conv.kernel;
        let ([down, across], [above, left]) = (shape.conv.stride, shape.conv.pad);
        let parts = Int8Parts { channels: shape.to.0, in_channels: shape.from.0, taps: wide * high };
        let w = self.weights.keep::<E>(PackedKind::Int8 { node: shape.id, parts });
        let [bias, scale, _] = parts.offsets().map(|at| At { offset: w.offset + at / size_of::<E>(), ..w });
        let out = self.output_for(shape, x.buffer);
        let (size, act, residual) = (shape.size(), shape.act, shape.residual);
        let rows = self.task_rows(shape, x.row_stride() * x.blocks);
        let make = move |bind: &Bind<'_, E>| Int8Conv {
            x: bind.blocks(x),
            blocks: parts.in_channels / int8::BLOCK,
            per_one: bytes.per_one,
            zero: bytes.zero,
            stride: (across, down),
            taps: (wide, high),
            pad: (left, above),
            w: bind.numbers(w).cast(),
            bias: bind.numbers(bias).cast(),
            scale: bind.numbers(scale).cast(),
            out: bind.blocks(out),
            size,
            out_blocks: out.blocks,
            act,
            residual: residual.map(|r| bind.blocks(r)),
        };
        let scratch = make(&Bind::nowhere()).scratch_bytes(rows).div_ceil(size_of::<E>());
        self.scratch_len = self.scratch_len.max(scratch);
        self.step(
            &self.graph.nodes[shape.id].name,
            size.1.div_ceil(rows),
            shape.macs,
            shape.numbers,
            Box::new(move |bind, _| Kind::Int8 { conv: make(bind), rows }),
        );
        Ok(())
    }

    /// A convolution of the input picture itself.
    fn first(&mut self, shape: &Shape<'_>) -> Result<(), String> {
        let [high, wide] = shape.conv.kernel;
        let ([down, across], [above, left]) = (shape.conv.stride, shape.conv.pad);
        let row_stride = (shape.from.2 + 2) * 4;
        let pixels = self.pixels(shape)?;
        let w = self.weights.direct::<E>((shape.id, wide * high), shape.to.0, (3, 3));
        let out = self.output_for(shape, pixels.buffer);
        let bias = self.keep_bias(shape.conv);
        let (size, act) = (shape.size(), shape.act);
        let rows = self.task_rows(shape, row_stride);
        let make = move |bind: &Bind<'_, E>| Conv {
            x: bind.numbers(At { offset: (1 - above) * row_stride + (1 - left) * 4, ..pixels }),
            step: (across * 4, down * row_stride),
            tap: (4, row_stride),
            taps: (wide, high),
            blocks: (1, 0),
            w: bind.numbers(w),
            bias: bind.numbers(bias),
            out: bind.blocks(out),
            size,
            out_blocks: out.blocks,
            act,
            residual: None,
        };
        self.step(
            &self.graph.nodes[shape.id].name,
            size.1.div_ceil(rows),
            shape.macs,
            shape.numbers,
            Box::new(move |bind, _| Kind::First { conv: make(bind), rows }),
        );
        Ok(())
    }

    /// The picture with a border, four numbers a pixel; made once.
    fn pixels(&mut self, shape: &Shape<'_>) -> Result<At, String> {
        if let Some(pixels) = self.pixels {
            return Ok(pixels);
        }
        let (_, rows, columns) = shape.from;
        let from = self.in_rows(self.graph.nodes[shape.id].inputs[0])?;
        let to = At { buffer: self.picture_buffer((columns + 2) * 4 * (rows + 2)), offset: 0 };
        self.uses(from.buffer);
        self.uses(to.buffer);
        self.step(
            "the picture into pixels",
            1,
            0,
            7 * rows * columns,
            Box::new(move |bind, _| Kind::Picture {
                from: bind.rows(from),
                to: bind.numbers(to),
                size: (columns, rows),
            }),
        );
        self.pixels = Some(to);
        Ok(to)
    }
}

/// Checks that the sizes match, and that the padding is supported.
fn fits(conv: &graph::Conv, from: (usize, usize, usize), to: (usize, usize, usize)) -> Result<(), String> {
    let ([high, wide], [down, across], [above, left]) = (conv.kernel, conv.stride, conv.pad);
    if above > 1 || left > 1 || from.1 + 2 * above < high || from.2 + 2 * left < wide {
        return Err(format!("padding of {above} x {left}"));
    }
    let rows = (from.1 + 2 * above - high) / down + 1;
    let columns = (from.2 + 2 * left - wide) / across + 1;
    if (rows, columns) != (to.1, to.2) {
        return Err("a convolution whose result has the wrong size".into());
    }
    Ok(())
}

/// `[block][tap][8]` of `[channel][9]`.
fn pack_depthwise(weights: &[f32], channels: usize) -> Vec<f32> {
    let mut packed = vec![0.0; channels.next_multiple_of(8) * 9];
    for channel in 0..channels {
        for tap in 0..9 {
            packed[(channel / 8 * 9 + tap) * 8 + channel % 8] = weights[channel * 9 + tap];
        }
    }
    packed
}
