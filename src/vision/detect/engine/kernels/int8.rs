//! Int8 convolutions: 1x1, and 3x3 at stride 2. (At stride 1 fp16 Winograd needs no more multiplications, and loses less precision.)
//!
//! The input of a task is quantised into the thread's memory, `byte = round(x * per_one) + zero`; weights are bytes with a scale for each
//! output channel. Products are summed exactly, in 32 bits, starting from the bias and the zero point's share. Jacob et al., "Quantization
//! and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018).

use std::ops::Range;

use super::conv::{Strides, Tiles, finish, sums, tiles_of};
use super::simd::{Four, Int8, MulAdd, Number};
use super::{Act, TensorPtr};

/// Channels of a block of bytes.
pub const BLOCK: usize = 16;
/// Maximum number of products in a sum, so that 32 bits never overflow: 2^15 products of two bytes, as much again for the zero point's
/// share, and the bias, which the weights' scale keeps below 2^28.
pub const PRODUCTS_MAX: usize = 32 << 10;

/// One convolution, ready to run.
#[derive(Debug, Clone, Copy)]
pub struct Int8Conv<E> {
    /// Input pixel (0, 0); the border is zero where it is read.
    pub x: TensorPtr<E>,
    /// Blocks of 16 input channels.
    pub blocks: usize,
    /// Quantisation steps per 1.0: a number of type `E`.
    pub per_one: f32,
    /// The zero point.
    pub zero: i16,
    /// Input strides between neighbouring output pixels, in pixels, along the row and down.
    pub stride: (usize, usize),
    /// Taps per row, and rows of taps.
    pub taps: (usize, usize),
    /// Border columns on the left, and border rows above, that are read.
    pub pad: (usize, usize),
    /// `[output block of 16][input block of 16][tap row][tap][4][output channel][4 input channels]`.
    pub w: *const Four,
    /// One bias per output channel, as a sum of products.
    pub bias: *const i32,
    /// One scale per output channel, applied to its sum.
    pub scale: *const f32,
    /// Output pixel (0, 0) of the first output channel.
    pub out: TensorPtr<E>,
    /// Columns and rows of the output.
    pub size: (usize, usize),
    /// Blocks of 8 output channels, an even number.
    pub out_blocks: usize,
    /// Activation of the sums.
    pub act: Act,
    /// Residual, added after the activation.
    pub residual: Option<TensorPtr<E>>,
}

// SAFETY: as `Conv`.
unsafe impl<E: Number> Send for Int8Conv<E> {}
// SAFETY: as `Conv`.
unsafe impl<E: Number> Sync for Int8Conv<E> {}

impl<E> Int8Conv<E> {
    /// Columns and rows of the input that `rows` output rows need.
    const fn window(&self, rows: usize) -> (usize, usize) {
        ((self.size.0 - 1) * self.stride.0 + self.taps.0, (rows - 1) * self.stride.1 + self.taps.1)
    }

    /// Bytes of scratch memory per thread for this many rows.
    pub const fn scratch_bytes(&self, rows: usize) -> usize {
        let (wide, high) = self.window(rows);
        self.blocks * BLOCK * wide * high
    }
}

/// Computes output rows `rows` of all output channels.
///
/// # Safety
/// The CPU has `S` and its `Dot`; the pointers are valid for the sizes; `scratch` has room for `scratch_bytes(rows.len())` and belongs to
/// this thread; nobody else writes these rows or their input.
#[inline(always)]
pub unsafe fn rows<S: Int8>(conv: &Int8Conv<S::E>, rows: Range<usize>, scratch: *mut S::E) {
    let bytes = scratch.cast::<Four>();
    let (wide, high) = conv.window(rows.len());
    let strides =
        Strides { pixel: 4 * conv.stride.0, tap: (4, 4 * wide), taps: conv.taps, block: 4 * wide * high };
    // SAFETY: the caller guarantees it.
    unsafe {
        into_bytes::<S>(conv, rows.start * conv.stride.1, (wide, high), bytes.cast());
        // Constants save arithmetic.
        match (conv.stride.0, conv.taps) {
            (1, (1, 1)) => tiles::<S, 4, 1>(conv, rows, strides, bytes),
            (2, _) => tiles::<S, 8, 0>(conv, rows, strides, bytes),
            _ => tiles::<S, 0, 0>(conv, rows, strides, bytes),
        }
    }
}

/// Quantises the input from `row` on, as far as it is read.
#[inline(always)]
unsafe fn into_bytes<S: Int8>(
    conv: &Int8Conv<S::E>,
    row: usize,
    (wide, high): (usize, usize),
    mut to: *mut i8,
) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let per_one = S::splat(conv.per_one);
        for block in 0..conv.blocks {
            for input_row in row..row + high {
                let first = conv
                    .x
                    .pixel(2 * block, 0, input_row)
                    .sub(conv.pad.1 * conv.x.row_stride + conv.pad.0 * 8);
                for column in 0..wide {
                    let low = first.add(column * 8);
                    let numbers = [S::load(low), S::load(low.add(conv.x.block_stride))];
                    S::store_bytes(to, numbers, per_one, conv.zero);
                    to = to.add(BLOCK);
                }
            }
        }
    }
}

/// All tiles, with a pixel stride of `A` and `T` taps; 0: as in `strides`.
#[inline(always)]
unsafe fn tiles<S: Int8, const A: usize, const T: usize>(
    conv: &Int8Conv<S::E>,
    rows: Range<usize>,
    strides: Strides,
    bytes: *const Four,
) {
    // SAFETY: the caller guarantees it.
    unsafe {
        for block in (0..conv.out_blocks).step_by(2) {
            for row in rows.clone() {
                let row_start = bytes.add((row - rows.start) * conv.stride.1 * strides.tap.1);
                for (column, p) in Tiles::of(conv.size.0, S::Dot::TILE) {
                    let x = row_start.add(column * strides.pixel);
                    macro_rules! go {
                        ($p:literal) => {
                            if const { S::Dot::LANES == 4 } {
                                tile::<S, $p, 4, A, T>(conv, strides, x, (block, column, row))
                            } else {
                                tile::<S, $p, 2, A, T>(conv, strides, x, (block, column, row))
                            }
                        };
                    }
                    tiles_of!(go, p, S::Dot::TILE);
                }
            }
        }
    }
}

/// `P` pixels of 16 output channels from `block` on.
#[inline(always)]
unsafe fn tile<S: Int8, const P: usize, const N: usize, const A: usize, const T: usize>(
    conv: &Int8Conv<S::E>,
    strides: Strides,
    x: *const Four,
    (block, column, row): (usize, usize, usize),
) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let lanes = S::Dot::LANES;
        let taps = strides.taps.0 * strides.taps.1;
        let w = conv.w.add(block * 8 * conv.blocks * taps * 4);
        let bias = S::Dot::load_some::<N>(conv.bias.add(block * 8).cast(), lanes);
        let mut acc = [bias; P];
        sums::<S::Dot, P, N, 4, A, T>(strides, 0..conv.blocks, (w, lanes), x, &mut acc);
        let scale = conv.scale.add(block * 8);
        let mut numbers = [S::of_sums(&acc[0], scale); P];
        for p in 1..P {
            numbers[p] = S::of_sums(&acc[p], scale);
        }
        for half in 0..2 {
            let mut eights = [numbers[0][half]; P];
            for p in 1..P {
                eights[p] = numbers[p][half];
            }
            let at = conv.out.pixel(block + half, column, row);
            let residual = conv.residual.map(|residual| {
                (residual.pixel(block + half, column, row).cast_const(), residual.block_stride)
            });
            finish::<S, P>(&eights, conv.act, residual, (at, conv.out.block_stride));
        }
    }
}
