//! Other kernels on pictures in blocks of 8 channels: depth-wise convolution, pooling, upsampling.

use super::simd::{Number, Simd};
use super::{Act, TensorPtr};

/// A depth-wise 3x3 convolution, at stride 1 with zero padding of one pixel.
#[derive(Debug, Clone, Copy)]
pub struct Depthwise<E> {
    /// Input pixel (0, 0); the border is zero.
    pub x: TensorPtr<E>,
    /// `[block][tap row][tap][8]`.
    pub w: *const E,
    /// One per channel.
    pub bias: *const E,
    /// Output pixel (0, 0).
    pub out: TensorPtr<E>,
    /// Columns and rows.
    pub size: (usize, usize),
    /// Activation of the sums.
    pub act: Act,
    /// Residual, added after the activation.
    pub residual: Option<TensorPtr<E>>,
}

// SAFETY: as `Conv`.
unsafe impl<E: Number> Send for Depthwise<E> {}
// SAFETY: as `Conv`.
unsafe impl<E: Number> Sync for Depthwise<E> {}

/// Computes output rows `rows` of one block of channels.
///
/// # Safety
/// The CPU has `S`; the pointers are valid for the sizes; nobody else writes these rows or their input.
#[inline(always)]
pub unsafe fn depthwise_rows<S: Simd>(conv: &Depthwise<S::E>, block: usize, rows: std::ops::Range<usize>) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut part = 0;
        while part < 8 {
            let w = conv.w.add(block * 72 + part);
            let mut weights = [[S::splat(0.0); 3]; 3];
            for y in 0..3 {
                for x in 0..3 {
                    weights[y][x] = S::load(w.add((y * 3 + x) * 8));
                }
            }
            let bias = S::load(conv.bias.add(block * 8 + part));
            for row in rows.clone() {
                let x = conv.x.pixel(block, 0, row).sub(conv.x.row_stride + 8).add(part);
                let to = conv.out.pixel(block, 0, row).add(part);
                let residual = match &conv.residual {
                    Some(residual) => residual.pixel(block, 0, row).add(part),
                    None => std::ptr::null_mut(),
                };
                let mut column = 0;
                while column < conv.size.0 {
                    let pair = column + 2 <= conv.size.0;
                    // Two pixels share six of the nine columns that they read.
                    let mut sums = [bias; 2];
                    for y in 0..3 {
                        let window = x.add(y * conv.x.row_stride + column * 8);
                        let mut d = [S::load(window); 4];
                        for x in 1..3 {
                            d[x] = S::load(window.add(x * 8));
                        }
                        if pair {
                            d[3] = S::load(window.add(24));
                        }
                        for x in 0..3 {
                            sums[0] = S::fma(d[x], weights[y][x], sums[0]);
                            sums[1] = S::fma(d[x + 1], weights[y][x], sums[1]);
                        }
                    }
                    for p in 0..2 {
                        if p == 0 || pair {
                            let at = (column + p) * 8;
                            let mut v = sums[p];
                            if conv.act == Act::Silu {
                                v = S::silu(v);
                            }
                            if !residual.is_null() {
                                v = S::add(v, S::load(residual.add(at)));
                            }
                            S::store(to.add(at), v);
                        }
                    }
                    column += 2;
                }
            }
            part += S::LANES;
        }
    }
}

/// Maximum over a square window around each pixel, at stride 1; pixels outside are ignored.
#[derive(Debug, Clone, Copy)]
pub struct MaxPool<E> {
    /// Input pixel (0, 0).
    pub x: TensorPtr<E>,
    /// Output pixel (0, 0).
    pub out: TensorPtr<E>,
    /// Columns and rows.
    pub size: (usize, usize),
    /// How far the window reaches to each side.
    pub reach: usize,
}

// SAFETY: as `Conv`.
unsafe impl<E: Number> Send for MaxPool<E> {}
// SAFETY: as `Conv`.
unsafe impl<E: Number> Sync for MaxPool<E> {}

/// Computes one block of channels: maximum along rows, then along columns.
///
/// # Safety
/// The CPU has `S`; the pointers are valid for the sizes; `scratch` has room for 8 numbers a pixel and belongs to this thread; nobody else
/// writes this block.
#[inline(always)]
pub unsafe fn max_pool_block<S: Simd>(pool: &MaxPool<S::E>, block: usize, scratch: *mut S::E) {
    let (wide, high) = pool.size;
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut part = 0;
        while part < 8 {
            for row in 0..high {
                let x = pool.x.pixel(block, 0, row).add(part);
                for column in 0..wide {
                    let (from, to) = (column.saturating_sub(pool.reach), (column + pool.reach).min(wide - 1));
                    let mut v = S::load(x.add(from * 8));
                    for near in from + 1..=to {
                        v = S::max(v, S::load(x.add(near * 8)));
                    }
                    S::store(scratch.add((row * wide + column) * 8), v);
                }
            }
            for row in 0..high {
                let (from, to) = (row.saturating_sub(pool.reach), (row + pool.reach).min(high - 1));
                let out = pool.out.pixel(block, 0, row).add(part);
                for column in 0..wide {
                    let mut v = S::load(scratch.add((from * wide + column) * 8));
                    for near in from + 1..=to {
                        v = S::max(v, S::load(scratch.add((near * wide + column) * 8)));
                    }
                    S::store(out.add(column * 8), v);
                }
            }
            part += S::LANES;
        }
    }
}

/// Nearest-neighbour upsampling by 2 in each direction.
#[derive(Debug, Clone, Copy)]
pub struct Upsample<E> {
    /// Input pixel (0, 0).
    pub x: TensorPtr<E>,
    /// Output pixel (0, 0).
    pub out: TensorPtr<E>,
    /// Columns and rows of the input.
    pub size: (usize, usize),
}

// SAFETY: as `Conv`.
unsafe impl<E: Number> Send for Upsample<E> {}
// SAFETY: as `Conv`.
unsafe impl<E: Number> Sync for Upsample<E> {}

/// Computes the two output rows of an input row of one block of channels.
///
/// # Safety
/// The CPU has `S`; the pointers are valid for the sizes; nobody else writes these rows.
#[inline(always)]
pub unsafe fn upsample_row<S: Simd>(up: &Upsample<S::E>, block: usize, row: usize) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let x = up.x.pixel(block, 0, row);
        let to = [up.out.pixel(block, 0, 2 * row), up.out.pixel(block, 0, 2 * row + 1)];
        for column in 0..up.size.0 {
            let mut part = 0;
            while part < 8 {
                let v = S::load(x.add(column * 8 + part));
                for to in to {
                    S::store(to.add(column * 16 + part), v);
                    S::store(to.add(column * 16 + 8 + part), v);
                }
                part += S::LANES;
            }
        }
    }
}

/// Interleaves a row of three planes into pixels of four numbers, the last 0.
///
/// # Safety
/// The CPU has `S`; the planes have `count` numbers, `to` has room for four times as many; nobody else writes them.
#[inline(always)]
pub unsafe fn pixels<S: Simd>(planes: [*const f32; 3], to: *mut S::E, count: usize) {
    // SAFETY: the caller guarantees it.
    unsafe {
        for column in S::pixels(planes, to, count)..count {
            for plane in 0..3 {
                *to.add(column * 4 + plane) = S::E::of(*planes[plane].add(column));
            }
            *to.add(column * 4 + 3) = S::E::default();
        }
    }
}
