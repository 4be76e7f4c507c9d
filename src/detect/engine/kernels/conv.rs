//! Convolutions by direct multiplication: 1x1 at any pitch, 3x3 at stride 1 and 2, the first layer on 3 channels.
//!
//! A tile is `P` neighbouring pixels of one output row times 16 (or 8) output channels: its sums stay in registers while the
//! whole input of the tile passes by. Per input number the tile loads one vector of weights a lane group and multiplies it
//! with each of `P` pixels, so the arithmetic outweighs the loads.

use super::simd::Simd;
use super::{Act, Place};

/// One convolution, ready to run: all places and sizes in numbers of `f32`.
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    /// Input pixel of the first tap of output pixel (0, 0).
    pub x: *const f32,
    /// From a pixel of the input to the one that the next output pixel needs, in its row and down.
    pub step: (usize, usize),
    /// From one tap to the next, in its row and down.
    pub tap: (usize, usize),
    /// Taps in a row, and rows.
    pub taps: (usize, usize),
    /// Blocks of input channels, and from one to the next.
    pub blocks: (usize, usize),
    /// `[output block of 16 or 8][input block][tap row][tap][input channel][output channel]`.
    pub w: *const f32,
    /// One per output channel.
    pub bias: *const f32,
    /// Output pixel (0, 0) of the first output channel.
    pub out: Place,
    /// Columns and rows of the output.
    pub size: (usize, usize),
    /// Blocks of 8 output channels.
    pub out_blocks: usize,
    /// What is done to the sums.
    pub act: Act,
    /// What is added to that: a tensor with the output's sizes.
    pub residual: Option<Place>,
}

// SAFETY: the pointers are into the plan's memory, which outlives its steps; who writes where is the plan's business.
unsafe impl Send for Conv {}
// SAFETY: as above.
unsafe impl Sync for Conv {}

/// Output rows `rows` of all output channels. `C`: channels of an input block that count, 8 or 3.
///
/// # Safety
/// The CPU has `S`; the places of `conv` are valid for its sizes, and nobody else writes these rows or what they read.
#[inline(always)]
pub unsafe fn rows<S: Simd, const C: usize>(conv: &Conv, rows: std::ops::Range<usize>) {
    // SAFETY: the caller's promise, for each tile.
    unsafe {
        let per_channel = conv.blocks.0 * conv.taps.0 * conv.taps.1 * C;
        let mut block = 0;
        while block < conv.out_blocks {
            let w = conv.w.add(block * 8 * per_channel);
            if conv.out_blocks - block >= 2 {
                for row in rows.clone() {
                    for (column, p) in Tiles::of(conv.size.0, S::TILE_16) {
                        dispatch_16::<S, C>(conv, p, w, block, column, row);
                    }
                }
                block += 2;
            } else {
                for row in rows.clone() {
                    for (column, p) in Tiles::of(conv.size.0, S::TILE_8) {
                        dispatch_8::<S, C>(conv, p, w, block, column, row);
                    }
                }
                block += 1;
            }
        }
    }
}

/// A row cut into tiles of nearly the same width.
struct Tiles {
    column: usize,
    width: usize,
    least: usize,
    more: usize,
}

impl Tiles {
    #[inline(always)]
    fn of(width: usize, widest: usize) -> Self {
        let count = width.div_ceil(widest).max(1);
        Tiles { column: 0, width, least: width / count, more: width % count }
    }
}

impl Iterator for Tiles {
    /// First column, and how many.
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

#[inline(always)]
unsafe fn dispatch_16<S: Simd, const C: usize>(
    conv: &Conv,
    p: usize,
    w: *const f32,
    block: usize,
    column: usize,
    row: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        // One of these is 16 / LANES.
        macro_rules! go {
            ($p:literal) => {
                match S::LANES {
                    4 => tile::<S, $p, 4, C>(conv, w, block, column, row),
                    8 => tile::<S, $p, 2, C>(conv, w, block, column, row),
                    _ => tile::<S, $p, 1, C>(conv, w, block, column, row),
                }
            };
        }
        match p {
            1 => go!(1),
            2 => go!(2),
            3 => go!(3),
            4 if S::TILE_16 >= 4 => go!(4),
            5 if S::TILE_16 >= 5 => go!(5),
            6 if S::TILE_16 >= 6 => go!(6),
            _ => unreachable!("no tile is wider"),
        }
    }
}

#[inline(always)]
unsafe fn dispatch_8<S: Simd, const C: usize>(
    conv: &Conv,
    p: usize,
    w: *const f32,
    block: usize,
    column: usize,
    row: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        macro_rules! go {
            ($p:literal) => {
                match S::LANES {
                    4 => tile::<S, $p, 2, C>(conv, w, block, column, row),
                    _ => tile::<S, $p, 1, C>(conv, w, block, column, row),
                }
            };
        }
        match p {
            1 => go!(1),
            2 => go!(2),
            3 => go!(3),
            4 => go!(4),
            5 if S::TILE_8 >= 5 => go!(5),
            6 if S::TILE_8 >= 6 => go!(6),
            7 if S::TILE_8 >= 7 => go!(7),
            8 if S::TILE_8 >= 8 => go!(8),
            9 if S::TILE_8 >= 9 => go!(9),
            10 if S::TILE_8 >= 10 => go!(10),
            11 if S::TILE_8 >= 11 => go!(11),
            12 if S::TILE_8 >= 12 => go!(12),
            _ => unreachable!("no tile is wider"),
        }
    }
}

/// Sums of one tile, from `start`: `acc[p][n] += sum of x[p] * w[n]` over all taps and input channels.
///
/// # Safety
/// The CPU has `S`; `x` and `w` are valid for what `conv` says is read.
#[inline(always)]
unsafe fn sums<S: Simd, const P: usize, const N: usize, const C: usize>(
    conv: &Conv,
    mut w: *const f32,
    x: *const f32,
    acc: &mut [[S::V; N]; P],
) {
    let lanes = S::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let pixel = conv.step.0;
        for block in 0..conv.blocks.0 {
            for tap_row in 0..conv.taps.1 {
                let mut x = x.add(block * conv.blocks.1 + tap_row * conv.tap.1);
                for _ in 0..conv.taps.0 {
                    let mut part = 0;
                    while part < C {
                        let mut quads = [S::quad(x.add(part)); P];
                        for p in 1..P {
                            quads[p] = S::quad(x.add(p * pixel + part));
                        }
                        macro_rules! lane {
                            ($l:literal) => {
                                if part + $l < C {
                                    let mut weights = [S::load(w); N];
                                    for n in 1..N {
                                        weights[n] = S::load(w.add(n * lanes));
                                    }
                                    w = w.add(N * lanes);
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
                        part += 4;
                    }
                    x = x.add(conv.tap.0);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const P: usize, const N: usize, const C: usize>(
    conv: &Conv,
    w: *const f32,
    block: usize,
    column: usize,
    row: usize,
) {
    let lanes = S::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let x = conv.x.add(row * conv.step.1 + column * conv.step.0);
        let mut bias = [S::load(conv.bias.add(block * 8)); N];
        for n in 1..N {
            bias[n] = S::load(conv.bias.add(block * 8 + n * lanes));
        }
        let mut acc = [bias; P];
        sums::<S, P, N, C>(conv, w, x, &mut acc);
        for n in 0..N {
            let channel = n * lanes;
            let at = conv.out.pixel(block + channel / 8, column, row).add(channel % 8);
            let residual = match &conv.residual {
                Some(residual) => residual.pixel(block + channel / 8, column, row).add(channel % 8),
                None => std::ptr::null_mut(),
            };
            finish::<S, P, N>(&acc, n, conv.act, residual, at);
        }
    }
}

/// Activation, residual, store: vector `n` of `P` neighbouring pixels.
#[inline(always)]
unsafe fn finish<S: Simd, const P: usize, const N: usize>(
    acc: &[[S::V; N]; P],
    n: usize,
    act: Act,
    residual: *const f32,
    at: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for p in 0..P {
            let mut v = acc[p][n];
            if act == Act::Silu {
                v = S::silu(v);
            }
            if !residual.is_null() {
                v = S::add(v, S::load(residual.add(p * 8)));
            }
            S::store(at.add(p * 8), v);
        }
    }
}

/// Plain sums of a row of `count` pixels, 8 numbers apart, for 16 output channels, stored 16 numbers apart at `out`: the
/// multiplications of Winograd's method.
///
/// # Safety
/// As [`rows`]; `w` is the output block's, `out` takes `16 * count` numbers.
#[inline(always)]
pub unsafe fn products<S: Simd>(
    x: *const f32,
    blocks: (usize, usize),
    w: *const f32,
    count: usize,
    out: *mut f32,
) {
    let conv = Conv {
        x,
        step: (8, 0),
        tap: (0, 0),
        taps: (1, 1),
        blocks,
        w,
        bias: std::ptr::null(),
        out: Place::NOWHERE,
        size: (count, 1),
        out_blocks: 2,
        act: Act::None,
        residual: None,
    };
    #[inline(always)]
    unsafe fn one<S: Simd, const P: usize, const N: usize>(conv: &Conv, column: usize, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [[S::splat(0.0); N]; P];
            sums::<S, P, N, 8>(conv, conv.w, conv.x.add(column * 8), &mut acc);
            for p in 0..P {
                for n in 0..N {
                    S::store(out.add((column + p) * 16 + n * S::LANES), acc[p][n]);
                }
            }
        }
    }
    for (column, p) in Tiles::of(count, S::TILE_16) {
        // SAFETY: the caller's promise.
        unsafe {
            macro_rules! go {
                ($p:literal) => {
                    match S::LANES {
                        4 => one::<S, $p, 4>(&conv, column, out),
                        8 => one::<S, $p, 2>(&conv, column, out),
                        _ => one::<S, $p, 1>(&conv, column, out),
                    }
                };
            }
            match p {
                1 => go!(1),
                2 => go!(2),
                3 => go!(3),
                4 if S::TILE_16 >= 4 => go!(4),
                5 if S::TILE_16 >= 5 => go!(5),
                6 if S::TILE_16 >= 6 => go!(6),
                _ => unreachable!("no tile is wider"),
            }
        }
    }
}
