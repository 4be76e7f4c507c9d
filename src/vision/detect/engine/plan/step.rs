//! The steps of a plan: kernel, memory and number of tasks.

use std::ops::Range;

use super::super::graph::Binary;
use super::super::kernels::conv::Conv;
use super::super::kernels::flat::MatMul;
use super::super::kernels::int8::Int8Conv;
use super::super::kernels::maps::{Depthwise, MaxPool, Upsample};
use super::super::kernels::winograd::Winograd;
use super::super::kernels::{self, Isa, Kernels, TensorPtr};

/// Maximum number of axes of a tensor in element-wise steps.
pub const AXES_MAX: usize = 5;

/// Shape of a tensor, padded at the front with 1.
pub type Sides = [usize; AXES_MAX];

/// The tiles that a deferred step computes, set in each run.
#[derive(Debug, Clone, Default)]
pub struct ActiveTiles {
    /// Their numbers, in order.
    pub tiles: Vec<u32>,
    /// Tiles per task.
    pub per_task: usize,
}

/// The tiles of a step.
#[derive(Debug, Clone, Copy)]
pub enum TileSet {
    /// All: their numbers in order, and tiles per task.
    All { numbers: *const u32, per_task: usize },
    /// Those that the lazy head activated.
    Active(*const ActiveTiles),
}

impl TileSet {
    /// The tiles of a task, of `all` that the convolution has.
    ///
    /// # Safety
    /// Its pointers are valid, and nobody writes there.
    unsafe fn tiles(&self, all: usize, task: usize) -> &[u32] {
        // SAFETY: the caller guarantees it; `numbers` has as many as there are tiles.
        unsafe {
            match self {
                TileSet::All { numbers, per_task } => {
                    let part = part_of(task, *per_task, all);
                    std::slice::from_raw_parts(numbers.add(part.start), part.len())
                }
                TileSet::Active(active) => {
                    let ActiveTiles { tiles, per_task } = &**active;
                    &tiles[part_of(task, *per_task, tiles.len())]
                }
            }
        }
    }
}

/// The range of task `task` in `all`, `per_task` at a time.
fn part_of(task: usize, per_task: usize, all: usize) -> Range<usize> {
    task * per_task..((task + 1) * per_task).min(all)
}

/// The operation of a step.
#[derive(Debug, Clone)]
pub enum Kind<E> {
    /// Turns the picture's planes into pixels of four numbers with a border of zeros.
    Picture { from: *const f32, to: *mut E, size: (usize, usize) },
    /// A convolution of those pixels.
    First { conv: Conv<E>, rows: usize },
    /// A direct convolution of blocks of 8 channels; whether int8 would quantise it.
    Direct { conv: Conv<E>, rows: usize, for_int8: bool },
    /// A convolution in int8.
    Int8 { conv: Int8Conv<E>, rows: usize },
    /// A convolution by Winograd's method.
    Winograd { conv: Winograd<E>, which: TileSet },
    /// A depth-wise convolution.
    Depthwise { conv: Depthwise<E> },
    /// Max pooling.
    MaxPool { pool: MaxPool<E> },
    /// Upsampling by 2.
    Upsample { up: Upsample<E> },
    /// Row-major to blocks of 8 channels.
    Pack { from: *const f32, to: TensorPtr<E>, channels: usize, size: (usize, usize) },
    /// Blocks of 8 channels to row-major.
    Unpack { from: TensorPtr<E>, to: *mut f32, channels: usize, size: (usize, usize) },
    /// Copies blocks of 8 channels.
    Copy { from: TensorPtr<E>, to: TensorPtr<E>, size: (usize, usize) },
    /// Matrix products, `batch` of them.
    MatMul { mul: MatMul, m: usize, rows: usize },
    /// Softmax along the last axis.
    SoftmaxRows { first: *mut f32, len: usize, count: usize, rows: usize },
    /// Softmax along an axis with `inner` numbers between neighbours, `outer` times.
    SoftmaxColumns { first: *mut f32, len: usize, inner: usize, outer: usize },
    /// Element by element.
    Sigmoid { from: *const f32, to: *mut f32, len: usize, part: usize },
    /// Element by element.
    Silu { from: *const f32, to: *mut f32, len: usize, part: usize },
    /// Element by element, with broadcasting.
    Binary {
        op: Binary,
        a: *const f32,
        b: *const f32,
        to: *mut f32,
        sides: Sides,
        a_strides: Sides,
        b_strides: Sides,
    },
    /// A copy to other strides.
    Gather { from: *const f32, to: *mut f32, sides: Sides, from_strides: Sides, to_strides: Sides },
}

impl<E> Kind<E> {
    /// Name for messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Kind::Picture { .. } => "picture",
            Kind::First { .. } => "first",
            Kind::Direct { .. } => "direct",
            Kind::Int8 { .. } => "int8",
            Kind::Winograd { .. } => "winograd",
            Kind::Depthwise { .. } => "depthwise",
            Kind::MaxPool { .. } => "max-pool",
            Kind::Upsample { .. } => "upsample",
            Kind::Pack { .. } => "pack",
            Kind::Unpack { .. } => "unpack",
            Kind::Copy { .. } => "copy",
            Kind::MatMul { .. } => "matmul",
            Kind::SoftmaxRows { .. } | Kind::SoftmaxColumns { .. } => "softmax",
            Kind::Sigmoid { .. } => "sigmoid",
            Kind::Silu { .. } => "silu",
            Kind::Binary { .. } => "binary",
            Kind::Gather { .. } => "gather",
        }
    }
}

/// The border of a tensor, which must be zero before it is read.
#[derive(Debug, Clone, Copy)]
pub struct Border<E> {
    /// Pixel (0, 0) of the first block.
    pub tensor: TensorPtr<E>,
    /// Blocks.
    pub blocks: usize,
    /// Columns and rows.
    pub size: (usize, usize),
}

/// A step, ready to run.
#[derive(Debug, Clone)]
pub struct Step<E> {
    /// The nodes of the network that it stands for.
    pub name: String,
    /// The operation.
    pub kind: Kind<E>,
    /// Number of tasks.
    pub tasks: usize,
    /// Borders to clear after it, one task each.
    pub borders: Vec<Border<E>>,
    /// Multiply-accumulates of the step.
    pub macs: u64,
    /// Numbers that are read and written, each counted once: weights, input, output.
    pub numbers: u64,
}

// SAFETY: the pointers are into the plan's memory, which outlives its steps; tasks of a step write different places.
unsafe impl<E: Kernels> Send for Step<E> {}
// SAFETY: as above.
unsafe impl<E: Kernels> Sync for Step<E> {}

impl<E: Kernels> Step<E> {
    /// Runs task `task` of `tasks + borders`.
    ///
    /// # Safety
    /// The memory that the plan gave the step is valid, all steps before it are done, no other thread does the same task, the CPU has
    /// `isa`, and `scratch` belongs to this thread and is large enough for the plan.
    pub unsafe fn run(&self, isa: Isa, task: usize, scratch: *mut E) {
        if let Some(border) = task.checked_sub(self.tasks) {
            // SAFETY: the caller guarantees it.
            unsafe { zero(&self.borders[border]) };
            return;
        }
        let part = |per_task: usize, all: usize| part_of(task, per_task, all);
        // SAFETY: the caller guarantees it; each arm's tasks write different rows, tiles, blocks or numbers.
        unsafe {
            match &self.kind {
                Kind::Picture { from, to, size } => picture(isa, *from, *to, *size),
                Kind::First { conv, rows } => E::first_rows(isa, conv, part(*rows, conv.size.1)),
                Kind::Direct { conv, rows, .. } => E::conv_rows(isa, conv, part(*rows, conv.size.1)),
                Kind::Int8 { conv, rows } => E::int8_rows(isa, conv, part(*rows, conv.size.1), scratch),
                Kind::Winograd { conv, which } => {
                    let all = conv.tiles().0 * conv.tiles().1;
                    E::winograd_tiles(isa, conv, which.tiles(all, task), scratch);
                }
                Kind::Depthwise { conv } => E::depthwise_rows(isa, conv, task, 0..conv.size.1),
                Kind::MaxPool { pool } => E::max_pool_block(isa, pool, task, scratch),
                Kind::Upsample { up } => {
                    for row in 0..up.size.1 {
                        E::upsample_row(isa, up, task, row);
                    }
                }
                Kind::Pack { from, to, channels, size } => pack(*from, to, *channels, *size, task),
                Kind::Unpack { from, to, channels, size } => unpack(from, *to, *channels, *size, task),
                Kind::Copy { from, to, size } => copy_block(from, to, *size, task),
                Kind::MatMul { mul, m, rows } => matmul(isa, mul, *m, *rows, task),
                Kind::SoftmaxRows { first, len, count, rows } => {
                    for row in part(*rows, *count) {
                        kernels::softmax_row(isa, first.add(row * len), *len);
                    }
                }
                Kind::SoftmaxColumns { first, len, inner, outer } => {
                    for outer in 0..*outer {
                        softmax_columns(first.add(outer * len * inner), *len, *inner);
                    }
                }
                Kind::Sigmoid { from, to, len, part: size } => {
                    let part = part(*size, *len);
                    kernels::sigmoid(isa, from.add(part.start), to.add(part.start), part.len());
                }
                Kind::Silu { from, to, len, part: size } => {
                    let part = part(*size, *len);
                    kernels::silu(isa, from.add(part.start), to.add(part.start), part.len());
                }
                Kind::Binary { op, a, b, to, sides, a_strides, b_strides } => {
                    binary(*op, (*a, a_strides), (*b, b_strides), *to, sides);
                }
                Kind::Gather { from, to, sides, from_strides, to_strides } => {
                    gather((*from, from_strides), (*to, to_strides), sides);
                }
            }
        }
    }
}

fn dot(index: &Sides, strides: &Sides) -> usize {
    index.iter().zip(strides).map(|(index, strides)| index * strides).sum()
}

/// Calls `each` with the index of the first number of each row.
fn each_row(sides: &Sides, mut each: impl FnMut(&Sides)) {
    let mut index = [0; AXES_MAX];
    if sides.contains(&0) {
        return;
    }
    loop {
        each(&index);
        let mut axis = AXES_MAX - 1;
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < sides[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// # Safety
/// The border is inside the tensor's memory.
unsafe fn zero<E>(border: &Border<E>) {
    let (wide, high) = border.size;
    // SAFETY: the caller guarantees it.
    unsafe {
        for block in 0..border.blocks {
            let first = border.tensor.pixel(block, 0, 0).sub(border.tensor.row_stride + 8);
            std::ptr::write_bytes(first, 0, (wide + 2) * 8);
            std::ptr::write_bytes(first.add((high + 1) * border.tensor.row_stride), 0, (wide + 2) * 8);
            for row in 1..=high {
                std::ptr::write_bytes(first.add(row * border.tensor.row_stride), 0, 8);
                std::ptr::write_bytes(first.add(row * border.tensor.row_stride + (wide + 1) * 8), 0, 8);
            }
        }
    }
}

/// # Safety
/// `from` has three planes of the size, `to` has room for it with a border, four numbers a pixel.
unsafe fn picture<E: Kernels>(isa: Isa, from: *const f32, to: *mut E, (wide, high): (usize, usize)) {
    let (line, plane) = ((wide + 2) * 4, wide * high);
    // SAFETY: the caller guarantees it.
    unsafe {
        std::ptr::write_bytes(to, 0, line);
        std::ptr::write_bytes(to.add((high + 1) * line), 0, line);
        for row in 0..high {
            let (from, to) = (from.add(row * wide), to.add((row + 1) * line));
            std::ptr::write_bytes(to, 0, 4);
            std::ptr::write_bytes(to.add((wide + 1) * 4), 0, 4);
            let planes = [0, plane, 2 * plane].map(|plane| from.wrapping_add(plane));
            E::pixels(isa, planes, to.add(4), wide);
        }
    }
}

/// # Safety
/// The tensors have room for the sizes.
unsafe fn pack<E: Kernels>(
    from: *const f32,
    to: &TensorPtr<E>,
    channels: usize,
    (wide, high): (usize, usize),
    block: usize,
) {
    let count = 8.min(channels - block * 8);
    // SAFETY: the caller guarantees it.
    unsafe {
        for row in 0..high {
            for column in 0..wide {
                let mut eight = [0.0; 8];
                for (lane, number) in eight[..count].iter_mut().enumerate() {
                    *number = *from.add(((block * 8 + lane) * high + row) * wide + column);
                }
                to.pixel(block, column, row).cast::<[E; 8]>().write_unaligned(E::eight_of(eight));
            }
        }
    }
}

/// # Safety
/// The tensors have room for the sizes.
unsafe fn unpack<E: Kernels>(
    from: &TensorPtr<E>,
    to: *mut f32,
    channels: usize,
    (wide, high): (usize, usize),
    block: usize,
) {
    let count = 8.min(channels - block * 8);
    // SAFETY: the caller guarantees it.
    unsafe {
        for row in 0..high {
            for column in 0..wide {
                let eight = from.pixel(block, column, row).cast::<[E; 8]>().read_unaligned();
                for (lane, number) in E::eight_to(eight)[..count].iter().enumerate() {
                    *to.add(((block * 8 + lane) * high + row) * wide + column) = *number;
                }
            }
        }
    }
}

/// Copies a block of 8 channels.
///
/// # Safety
/// The tensors have room for the size, and do not overlap.
unsafe fn copy_block<E>(from: &TensorPtr<E>, to: &TensorPtr<E>, (wide, high): (usize, usize), block: usize) {
    for row in 0..high {
        // SAFETY: the caller guarantees it.
        unsafe {
            std::ptr::copy_nonoverlapping(from.pixel(block, 0, row), to.pixel(block, 0, row), wide * 8);
        }
    }
}

/// Computes some `rows` of `m` of one of the products.
///
/// # Safety
/// The matrices are valid, one after the other, and only this task writes the rows; the CPU has `isa`.
unsafe fn matmul(isa: Isa, first: &MatMul, m: usize, rows: usize, task: usize) {
    let chunks = m.div_ceil(rows);
    let (batch, chunk) = (task / chunks, task % chunks);
    // SAFETY: the caller guarantees it.
    unsafe {
        let mul = MatMul {
            a: first.a.add(batch * m * first.k),
            b: first.b.add(batch * first.k * first.n),
            out: first.out.add(batch * m * first.n),
            ..*first
        };
        kernels::matmul_rows(isa, &mul, part_of(chunk, rows, m));
    }
}

/// Element by element, from two tensors with their strides into a row-major one.
///
/// # Safety
/// All numbers that `sides` and the strides reach are valid.
unsafe fn binary(
    op: Binary,
    (a, a_strides): (*const f32, &Sides),
    (b, b_strides): (*const f32, &Sides),
    to: *mut f32,
    sides: &Sides,
) {
    let (len, last) = (sides[AXES_MAX - 1], AXES_MAX - 1);
    let mut at = to;
    each_row(sides, |index| {
        // SAFETY: the caller guarantees it.
        unsafe {
            let (a, b) = (a.add(dot(index, a_strides)), b.add(dot(index, b_strides)));
            for i in 0..len {
                *at.add(i) = op.of(*a.add(i * a_strides[last]), *b.add(i * b_strides[last]));
            }
            at = at.add(len);
        }
    });
}

/// Copies a tensor to one with other strides.
///
/// # Safety
/// All numbers that `sides` and the strides reach are valid; the two do not overlap.
unsafe fn gather(
    (from, from_strides): (*const f32, &Sides),
    (to, to_strides): (*mut f32, &Sides),
    sides: &Sides,
) {
    let (len, last) = (sides[AXES_MAX - 1], AXES_MAX - 1);
    each_row(sides, |index| {
        // SAFETY: the caller guarantees it.
        unsafe {
            let (from, to) = (from.add(dot(index, from_strides)), to.add(dot(index, to_strides)));
            if from_strides[last] == 1 && to_strides[last] == 1 {
                std::ptr::copy_nonoverlapping(from, to, len);
            } else {
                for i in 0..len {
                    *to.add(i * to_strides[last]) = *from.add(i * from_strides[last]);
                }
            }
        }
    });
}

/// # Safety
/// `first` is valid for `len * inner` numbers.
unsafe fn softmax_columns(first: *mut f32, len: usize, inner: usize) {
    // SAFETY: the caller guarantees it.
    unsafe {
        for column in 0..inner {
            let at = |i: usize| first.add(i * inner + column);
            let greatest = (0..len).map(|i| *at(i)).fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for i in 0..len {
                let e = (*at(i) - greatest).exp();
                *at(i) = e;
                sum += e;
            }
            for i in 0..len {
                *at(i) /= sum;
            }
        }
    }
}
