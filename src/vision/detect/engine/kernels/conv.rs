//! Convolutions by direct multiplication: 1x1 with any stride, 3x3 at stride 1 and 2, the first layer on 3 channels.
//!
//! A tile is `P` neighbouring pixels of one output row times 16 (or 8) output channels: its sums stay in registers while the whole input of
//! the tile streams past. For each input number the tile loads one weight vector per lane group and multiplies it with each of `P` pixels,
//! so arithmetic outweighs the loads.

use super::simd::{MulAdd, Number, Simd};
use super::{Act, TensorPtr};

/// One convolution, ready to run: all strides and sizes in numbers, not bytes.
#[derive(Debug, Clone, Copy)]
pub struct Conv<E> {
    /// Input pixel of the first tap of output pixel (0, 0).
    pub x: *const E,
    /// Input strides between neighbouring output pixels, along the row and down.
    pub step: (usize, usize),
    /// Strides between taps, along the row and down.
    pub tap: (usize, usize),
    /// Taps per row, and rows of taps.
    pub taps: (usize, usize),
    /// Number of input channel blocks, and the stride between them.
    pub blocks: (usize, usize),
    /// `[output block of 16 or 8][input block][tap row][tap][input channel][output channel]`.
    pub w: *const E,
    /// One per output channel.
    pub bias: *const E,
    /// Output pixel (0, 0) of the first output channel.
    pub out: TensorPtr<E>,
    /// Columns and rows of the output.
    pub size: (usize, usize),
    /// Blocks of 8 output channels.
    pub out_blocks: usize,
    /// Activation of the sums.
    pub act: Act,
    /// Residual, added after the activation: a tensor with the output's sizes.
    pub residual: Option<TensorPtr<E>>,
}

// SAFETY: the pointers are into the plan's memory, which outlives its steps; the plan assigns who writes where.
unsafe impl<E: Number> Send for Conv<E> {}
// SAFETY: as above.
unsafe impl<E: Number> Sync for Conv<E> {}

/// Strides of a tile's input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strides {
    /// Between neighbouring output pixels.
    pub(super) pixel: usize,
    /// Between taps, along the row and down.
    pub(super) tap: (usize, usize),
    /// Taps per row, and rows of taps.
    pub(super) taps: (usize, usize),
    /// Between blocks of channels.
    pub(super) block: usize,
}

impl<E> Conv<E> {
    #[inline(always)]
    const fn strides(&self) -> Strides {
        Strides { pixel: self.step.0, tap: self.tap, taps: self.taps, block: self.blocks.1 }
    }
}

/// Computes output rows `rows` of all output channels. `C`: used channels of an input block, 8 or 3.
///
/// # Safety
/// The CPU has `S`; the pointers of `conv` are valid for its sizes, and nobody else writes these rows or what they read.
#[inline(always)]
pub unsafe fn rows<S: Simd, const C: usize>(conv: &Conv<S::E>, rows: std::ops::Range<usize>) {
    // SAFETY: the caller guarantees it.
    unsafe {
        // Constants save arithmetic: 1x1 convolutions, stride 2, the first layer.
        match conv.step.0 {
            8 if const { C == 8 } && conv.taps == (1, 1) => rows_at::<S, C, 8, 1>(conv, rows),
            8 if const { C == 3 } => rows_at::<S, C, 8, 0>(conv, rows),
            16 if const { C == 8 } => rows_at::<S, C, 16, 0>(conv, rows),
            _ => rows_at::<S, C, 0, 0>(conv, rows),
        }
    }
}

/// [`rows`] with a pixel stride of `A` and `T` taps; 0: as in `conv`.
#[inline(always)]
unsafe fn rows_at<S: Simd, const C: usize, const A: usize, const T: usize>(
    conv: &Conv<S::E>,
    rows: std::ops::Range<usize>,
) {
    // SAFETY: the caller guarantees it, for each tile.
    unsafe {
        let per_channel = conv.blocks.0 * conv.taps.0 * conv.taps.1 * C;
        let mut block = 0;
        while block < conv.out_blocks {
            let w = conv.w.add(block * 8 * per_channel);
            let left = conv.out_blocks - block;
            if const { S::GROUP == 32 } && left >= 4 {
                let cursor = WeightCursor { w, next: 16 * per_channel, block };
                for row in rows.clone() {
                    for (column, p) in Tiles::of(conv.size.0, S::TILE) {
                        dispatch_32::<S, C, A, T>(conv, p, cursor, column, row);
                    }
                }
                block += 4;
            } else if left >= 2 {
                let cursor = WeightCursor { w, next: S::LANES, block };
                for row in rows.clone() {
                    for (column, p) in Tiles::of(conv.size.0, S::TILE) {
                        dispatch_16::<S, C, A, T>(conv, p, cursor, column, row);
                    }
                }
                block += 2;
            } else {
                let cursor = WeightCursor { w, next: <S::Eight as MulAdd>::LANES, block };
                for row in rows.clone() {
                    for (column, p) in Tiles::of(conv.size.0, S::TILE_8) {
                        dispatch_8::<S::Eight, C, A, T>(conv, p, cursor, column, row);
                    }
                }
                block += 1;
            }
        }
    }
}

/// A tile's weights, and its output channels.
#[derive(Debug, Clone, Copy)]
struct WeightCursor<E> {
    /// Weights of the first vector.
    w: *const E,
    /// Stride between vectors of weights.
    next: usize,
    /// First block of output channels.
    block: usize,
}

/// A row split into tiles of nearly the same width.
pub(super) struct Tiles {
    column: usize,
    width: usize,
    least: usize,
    more: usize,
}

impl Tiles {
    #[inline(always)]
    pub(super) fn of(width: usize, widest: usize) -> Self {
        let count = width.div_ceil(widest).max(1);
        Tiles { column: 0, width, least: width / count, more: width % count }
    }
}

impl Iterator for Tiles {
    /// First column and width of a tile.
    type Item = (usize, usize);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.column >= self.width {
            return None;
        }
        let wide = self.least + usize::from(self.more > 0);
        self.more = self.more.saturating_sub(1);
        let column = self.column;
        self.column += wide;
        Some((column, wide))
    }
}

/// Calls `$go` with the literal that equals `$p`, up to the tallest tile. `const` in the guards keeps the compiler from instantiating
/// taller ones: otherwise two thirds of all kernels are never called.
macro_rules! tiles_of {
    ($go:ident, $p:expr, $tallest:expr) => {
        match $p {
            1 => $go!(1),
            2 => $go!(2),
            3 => $go!(3),
            4 if const { $tallest >= 4 } => $go!(4),
            5 if const { $tallest >= 5 } => $go!(5),
            6 if const { $tallest >= 6 } => $go!(6),
            7 if const { $tallest >= 7 } => $go!(7),
            8 if const { $tallest >= 8 } => $go!(8),
            9 if const { $tallest >= 9 } => $go!(9),
            10 if const { $tallest >= 10 } => $go!(10),
            11 if const { $tallest >= 11 } => $go!(11),
            12 if const { $tallest >= 12 } => $go!(12),
            _ => unreachable!("no tile is wider"),
        }
    };
}
pub(super) use tiles_of;

/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn dispatch_32<S: Simd, const C: usize, const A: usize, const T: usize>(
    conv: &Conv<S::E>,
    p: usize,
    cursor: WeightCursor<S::E>,
    column: usize,
    row: usize,
) {
    macro_rules! go {
        ($p:literal) => {
            // SAFETY: the caller guarantees it.
            unsafe { tile::<S, $p, 2, C, A, T>(conv, cursor, column, row) }
        };
    }
    tiles_of!(go, p, S::TILE);
}

/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn dispatch_16<S: Simd, const C: usize, const A: usize, const T: usize>(
    conv: &Conv<S::E>,
    p: usize,
    cursor: WeightCursor<S::E>,
    column: usize,
    row: usize,
) {
    macro_rules! go {
        ($p:literal) => {
            // SAFETY: the caller guarantees it.
            unsafe {
                if const { S::LANES == 4 } {
                    tile::<S, $p, 4, C, A, T>(conv, cursor, column, row);
                } else if const { S::LANES == 8 } {
                    tile::<S, $p, 2, C, A, T>(conv, cursor, column, row);
                } else {
                    tile::<S, $p, 1, C, A, T>(conv, cursor, column, row);
                }
            }
        };
    }
    tiles_of!(go, p, S::TILE);
}

/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn dispatch_8<S: Simd, const C: usize, const A: usize, const T: usize>(
    conv: &Conv<S::E>,
    p: usize,
    cursor: WeightCursor<S::E>,
    column: usize,
    row: usize,
) {
    macro_rules! go {
        ($p:literal) => {
            // SAFETY: the caller guarantees it.
            unsafe {
                if const { S::LANES == 4 } {
                    tile::<S, $p, 2, C, A, T>(conv, cursor, column, row);
                } else {
                    tile::<S, $p, 1, C, A, T>(conv, cursor, column, row);
                }
            }
        };
    }
    tiles_of!(go, p, S::TILE_8);
}

/// Weight stride between input channels, in a tile of `n` vectors: a vector of 16 is a block of its own.
const fn weights_step<S: MulAdd>(n: usize) -> usize {
    if S::LANES == 16 { 16 } else { n * S::LANES }
}

/// Sums of one tile: `acc[p][n] += sum of x[p] * w[n]` over all taps and the input channels of `blocks`, with the weights from `w` on.
///
/// # Safety
/// The CPU has `S`; `x` and `w` are valid for all reads that `strides` implies.
#[inline(always)]
pub(super) unsafe fn sums<
    S: MulAdd,
    const P: usize,
    const N: usize,
    const C: usize,
    const A: usize,
    const T: usize,
>(
    strides: Strides,
    blocks: std::ops::Range<usize>,
    (mut w, next): (*const S::E, usize),
    x: *const S::E,
    acc: &mut [[S::V; N]; P],
) {
    let step = weights_step::<S>(N);
    // SAFETY: the caller guarantees it.
    unsafe {
        let pixel = if A == 0 { strides.pixel } else { A };
        let taps = if T == 1 { (1, 1) } else { strides.taps };
        for block in blocks {
            for tap_row in 0..taps.1 {
                let mut x = x.add(block * strides.block + tap_row * strides.tap.1);
                for _ in 0..taps.0 {
                    let mut part = 0;
                    while part < C {
                        // A quad at a time: more would not fit into the registers.
                        let x = S::forget(x.add(part));
                        let mut quads = [S::quad(x); P];
                        for p in 1..P {
                            quads[p] = S::quad(x.add(p * pixel));
                        }
                        macro_rules! lane {
                            ($l:literal) => {
                                if const { $l < S::QUAD } && part + $l < C {
                                    let weights = S::load_some::<N>(w, next);
                                    w = w.add(step);
                                    for p in 0..P {
                                        S::fma_lane::<$l, N>(&mut acc[p], &weights, quads[p]);
                                    }
                                }
                            };
                        }
                        lane!(0);
                        lane!(1);
                        lane!(2);
                        lane!(3);
                        lane!(4);
                        lane!(5);
                        lane!(6);
                        lane!(7);
                        part += S::QUAD;
                    }
                    x = x.add(strides.tap.0);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const P: usize, const N: usize, const C: usize, const A: usize, const T: usize>(
    conv: &Conv<S::E>,
    cursor: WeightCursor<S::E>,
    column: usize,
    row: usize,
) {
    let (lanes, block) = (S::LANES, cursor.block);
    // SAFETY: the caller guarantees it.
    unsafe {
        let x = conv.x.add(row * conv.step.1 + column * conv.step.0);
        let mut bias = [S::load(conv.bias.add(block * 8)); N];
        for n in 1..N {
            bias[n] = S::load(conv.bias.add(block * 8 + n * lanes));
        }
        let mut acc = [bias; P];
        let taps = if T == 1 { 1 } else { conv.taps.0 * conv.taps.1 };
        let together = (S::SUM_MOST / (taps * C)).max(1);
        if const { size_of::<S::E>() == 4 } || conv.blocks.0 <= together {
            sums::<S, P, N, C, A, T>(conv.strides(), 0..conv.blocks.0, (cursor.w, cursor.next), x, &mut acc);
        } else {
            let step = weights_step::<S>(N);
            let mut begin = 0;
            while begin < conv.blocks.0 {
                let end = (begin + together).min(conv.blocks.0);
                let w = cursor.w.add(begin * taps * C * step);
                let mut part = [[S::splat(0.0); N]; P];
                sums::<S, P, N, C, A, T>(conv.strides(), begin..end, (w, cursor.next), x, &mut part);
                for p in 0..P {
                    for n in 0..N {
                        acc[p][n] = S::add(acc[p][n], part[p][n]);
                    }
                }
                begin = end;
            }
        }
        // A constant number, so that the growing sums stay in registers.
        macro_rules! column {
            ($n:literal) => {
                if const { $n < N } {
                    let mut sums = [acc[0][$n % N]; P];
                    for p in 1..P {
                        sums[p] = acc[p][$n % N];
                    }
                    let channel = $n * lanes;
                    let (block, channel) = (block + channel / 8, channel % 8);
                    let at = conv.out.pixel(block, column, row).add(channel);
                    let residual = conv.residual.map(|residual| {
                        (residual.pixel(block, column, row).add(channel).cast_const(), residual.block_stride)
                    });
                    finish::<S, P>(&sums, conv.act, residual, (at, conv.out.block_stride));
                }
            };
        }
        column!(0);
        column!(1);
        column!(2);
        column!(3);
    }
}

/// Activation, residual, store: a vector of channels of `P` neighbouring pixels. Pointers come with their block stride.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd, const P: usize>(
    sums: &[S::V; P],
    act: Act,
    residual: Option<(*const S::E, usize)>,
    (at, block_stride): (*mut S::E, usize),
) {
    // SAFETY: the caller guarantees it.
    unsafe {
        for p in 0..P {
            let mut v = sums[p];
            if act == Act::Silu {
                v = S::silu(v);
            }
            if let Some((residual, residual_stride)) = residual {
                v = S::add(v, S::load_blocks(residual.add(p * 8), residual_stride));
            }
            S::store_blocks(at.add(p * 8), block_stride, v);
        }
    }
}

/// Plain sums of a row of `count` pixels, 8 numbers apart, for `N` vectors of output channels, stored one pixel after the other at `out`:
/// the multiplications of Winograd's method. `next` is the stride between vectors of weights.
///
/// # Safety
/// As [`rows`]; `w` is the output block's, `out` has room for `N * LANES * count` numbers.
#[inline(always)]
pub unsafe fn products<S: Simd, const N: usize>(
    x: *const S::E,
    blocks: (usize, usize),
    (w, next): (*const S::E, usize),
    count: usize,
    out: *mut S::E,
) {
    let conv = Conv {
        x,
        step: (8, 0),
        tap: (0, 0),
        taps: (1, 1),
        blocks,
        w,
        bias: std::ptr::null(),
        out: TensorPtr::NULL,
        size: (count, 1),
        out_blocks: 2,
        act: Act::None,
        residual: None,
    };
    #[inline(always)]
    unsafe fn one<S: Simd, const P: usize, const N: usize>(
        conv: &Conv<S::E>,
        next: usize,
        column: usize,
        out: *mut S::E,
    ) {
        // SAFETY: the caller guarantees it.
        unsafe {
            let mut acc = [[S::splat(0.0); N]; P];
            sums::<S, P, N, 8, 8, 1>(
                conv.strides(),
                0..conv.blocks.0,
                (conv.w, next),
                conv.x.add(column * 8),
                &mut acc,
            );
            for p in 0..P {
                for n in 0..N {
                    S::store(out.add(((column + p) * N + n) * S::LANES), acc[p][n]);
                }
            }
        }
    }
    for (column, p) in Tiles::of(count, S::TILE) {
        macro_rules! go {
            ($p:literal) => {
                // SAFETY: the caller guarantees it.
                unsafe { one::<S, $p, N>(&conv, next, column, out) }
            };
        }
        tiles_of!(go, p, S::TILE);
    }
}
