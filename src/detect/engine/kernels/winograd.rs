//! 3x3 convolutions at stride 1 by Winograd's F(4x4, 3x3): 36 multiplications for 16 outputs instead of 144.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), with their matrices. A block of some tens of
//! tiles goes through three stages in memory of the thread: input tiles of 6x6 are transformed, for each of the 36 places the
//! channels are multiplied as a 1x1 convolution would, and the products are transformed to tiles of 4x4.

use super::conv::products;
use super::simd::Simd;
use super::{Act, Place};

/// One convolution, ready to run.
#[derive(Debug, Clone, Copy)]
pub struct Winograd {
    /// Input pixel (0, 0) of the first block of channels; there is a border of zeros one pixel wide.
    pub x: Place,
    /// Blocks of 8 input channels.
    pub blocks: usize,
    /// `[output block of 16][36][input channel][16]`.
    pub w: *const f32,
    /// One per output channel.
    pub bias: *const f32,
    /// Output pixel (0, 0) of the first output channel.
    pub out: Place,
    /// Columns and rows.
    pub size: (usize, usize),
    /// Blocks of 8 output channels.
    pub out_blocks: usize,
    /// What is done to the sums.
    pub act: Act,
    /// What is added to that.
    pub residual: Option<Place>,
}

// SAFETY: as `Conv`.
unsafe impl Send for Winograd {}
// SAFETY: as `Conv`.
unsafe impl Sync for Winograd {}

/// Places of a transformed tile.
pub const PLACES: usize = 36;

impl Winograd {
    /// Tiles in a row and rows of them.
    pub fn tiles(&self) -> (usize, usize) {
        (self.size.0.div_ceil(4), self.size.1.div_ceil(4))
    }

    /// Tiles that go through the stages together, so that what they need stays in a second-level cache, in nearly equal blocks.
    pub fn tiles_a_block(&self, tile_16: usize) -> usize {
        /// Numbers of transformed input of a block: 384 kB.
        const INPUT: usize = 96 << 10;
        let all = self.tiles().0 * self.tiles().1;
        let most = (INPUT / (PLACES * 8 * self.blocks)).clamp(tile_16, 48) / tile_16 * tile_16;
        all.div_ceil(all.div_ceil(most))
    }

    /// Numbers of memory that a thread needs for a block of `tiles`.
    pub fn scratch_len(&self, tiles: usize) -> usize {
        PLACES * tiles * (8 * self.blocks + 16) + 8 * PLACES
    }
}

/// The transformed weights of one 3x3 kernel: `G g G'`.
pub fn transform_weights(kernel: &[f32; 9]) -> [f32; PLACES] {
    const G: [[f64; 3]; 6] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    std::array::from_fn(|place| {
        let (row, column) = (G[place / 6], G[place % 6]);
        let mut sum = 0.0;
        for y in 0..3 {
            for x in 0..3 {
                sum += row[y] * f64::from(kernel[y * 3 + x]) * column[x];
            }
        }
        sum as f32
    })
}

/// Tiles `tiles` (numbered row by row) of all output channels.
///
/// # Safety
/// The CPU has `S`; the places are valid for the sizes; `scratch` has room for `scratch_len(tiles.len())` numbers and is this
/// thread's; nobody else writes these tiles or what they read.
#[inline(always)]
pub unsafe fn tiles<S: Simd>(conv: &Winograd, tiles: std::ops::Range<usize>, scratch: *mut f32) {
    let (across, _) = conv.tiles();
    let count = tiles.len();
    // SAFETY: the caller's promise.
    unsafe {
        let input = scratch;
        let output = input.add(PLACES * count * 8 * conv.blocks);
        let edge = output.add(PLACES * count * 16);
        for block in 0..conv.blocks {
            for (index, tile) in tiles.clone().enumerate() {
                let (column, row) = (tile % across * 4, tile / across * 4);
                let to = input.add((block * count + index) * 8);
                // The tile's first pixel is in the border, or the pixel before.
                let from = conv.x.pixel(block, column, row).sub(conv.x.line + 8);
                let inside = (conv.size.0 + 2 - column, conv.size.1 + 2 - row);
                if inside.0 >= 6 && inside.1 >= 6 {
                    input_tile::<S>(from, conv.x.line, to, conv.blocks * count * 8);
                } else {
                    // What is outside the picture and its border is zero as well.
                    for y in 0..6 {
                        for x in 0..6 {
                            let to = edge.add((y * 6 + x) * 8);
                            if x < inside.0 && y < inside.1 {
                                std::ptr::copy_nonoverlapping(from.add(y * conv.x.line + x * 8), to, 8);
                            } else {
                                std::ptr::write_bytes(to, 0, 8);
                            }
                        }
                    }
                    input_tile::<S>(edge, 48, to, conv.blocks * count * 8);
                }
            }
        }
        for pair in 0..conv.out_blocks.div_ceil(2) {
            let w = conv.w.add(pair * PLACES * conv.blocks * 8 * 16);
            for place in 0..PLACES {
                products::<S>(
                    input.add(place * conv.blocks * count * 8),
                    (conv.blocks, count * 8),
                    w.add(place * conv.blocks * 8 * 16),
                    count,
                    output.add(place * count * 16),
                );
            }
            for half in 0..(conv.out_blocks - pair * 2).min(2) {
                let block = pair * 2 + half;
                for (index, tile) in tiles.clone().enumerate() {
                    let (column, row) = (tile % across * 4, tile / across * 4);
                    let from = output.add(index * 16 + half * 8);
                    output_tile::<S>(conv, from, count * 16, block, column, row);
                }
            }
        }
    }
}

/// `B' d B` of a tile of 8 channels, each place to one of 36 arrays that are `pitch` numbers apart.
#[inline(always)]
unsafe fn input_tile<S: Simd>(from: *const f32, line: usize, to: *mut f32, pitch: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut part = 0;
        while part < 8 {
            let mut columns = [[S::splat(0.0); 6]; 6];
            for x in 0..6 {
                let mut d = [S::splat(0.0); 6];
                for y in 0..6 {
                    d[y] = S::load(from.add(y * line + x * 8 + part));
                }
                let t = input_row::<S>(d);
                for y in 0..6 {
                    columns[y][x] = t[y];
                }
            }
            for y in 0..6 {
                let t = input_row::<S>(columns[y]);
                for x in 0..6 {
                    S::store(to.add((y * 6 + x) * pitch + part), t[x]);
                }
            }
            part += S::LANES;
        }
    }
}

/// `B' d`.
#[inline(always)]
unsafe fn input_row<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
    // SAFETY: the caller's promise.
    unsafe {
        let (four, five, two) = (S::splat(4.0), S::splat(5.0), S::splat(2.0));
        let a = S::fnma(four, d[2], d[4]);
        let b = S::fnma(four, d[1], d[3]);
        let c = S::sub(d[4], d[2]);
        let e = S::sub(d[3], d[1]);
        [
            S::fma(four, d[0], S::fnma(five, d[2], d[4])),
            S::add(a, b),
            S::sub(a, b),
            S::fma(two, e, c),
            S::fnma(two, e, c),
            S::fma(four, d[1], S::fnma(five, d[3], d[5])),
        ]
    }
}

/// `A' m A` of a tile of 8 channels, bias, activation, residual, and the store of what is inside the picture.
#[inline(always)]
unsafe fn output_tile<S: Simd>(
    conv: &Winograd,
    from: *const f32,
    pitch: usize,
    block: usize,
    column: usize,
    row: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (wide, high) = ((conv.size.0 - column).min(4), (conv.size.1 - row).min(4));
        let mut part = 0;
        while part < 8 {
            let bias = S::load(conv.bias.add(block * 8 + part));
            let mut columns = [[S::splat(0.0); 6]; 4];
            for x in 0..6 {
                let mut m = [S::splat(0.0); 6];
                for y in 0..6 {
                    m[y] = S::load(from.add((y * 6 + x) * pitch + part));
                }
                let t = output_row::<S>(m);
                for y in 0..4 {
                    columns[y][x] = t[y];
                }
            }
            for y in 0..high {
                let to = conv.out.pixel(block, column, row + y).add(part);
                let residual = match &conv.residual {
                    Some(residual) => residual.pixel(block, column, row + y).add(part),
                    None => std::ptr::null_mut(),
                };
                let t = output_row::<S>(columns[y]);
                for x in 0..4 {
                    if x < wide {
                        let mut v = S::add(t[x], bias);
                        if conv.act == Act::Silu {
                            v = S::silu(v);
                        }
                        if !residual.is_null() {
                            v = S::add(v, S::load(residual.add(x * 8)));
                        }
                        S::store(to.add(x * 8), v);
                    }
                }
            }
            part += S::LANES;
        }
    }
}

/// `A' m`.
#[inline(always)]
unsafe fn output_row<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (two, four, eight) = (S::splat(2.0), S::splat(4.0), S::splat(8.0));
        let a = S::add(m[1], m[2]);
        let b = S::sub(m[1], m[2]);
        let c = S::add(m[3], m[4]);
        let d = S::sub(m[3], m[4]);
        [S::add(S::add(m[0], a), c), S::fma(two, d, b), S::fma(four, c, a), S::add(S::fma(eight, d, b), m[5])]
    }
}
