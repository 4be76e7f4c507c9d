//! 3x3 convolutions at stride 1 by Winograd's F(4x4, 3x3): 36 multiplications for 16 outputs instead of 144.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), with their matrices. A block of some tens of tiles goes
//! through three stages in the thread's scratch memory: input tiles of 6x6 are transformed, for each of the 36 positions the channels are
//! multiplied as in a 1x1 convolution, and the products are transformed to tiles of 4x4.

use super::conv::products;
use super::simd::{Number, Simd};
use super::{Act, TensorPtr};

/// One convolution, ready to run.
#[derive(Debug, Clone, Copy)]
pub struct Winograd<E> {
    /// Input pixel (0, 0) of the first block of channels; there is a border of zeros one pixel wide.
    pub x: TensorPtr<E>,
    /// Blocks of 8 input channels.
    pub blocks: usize,
    /// `[output block of 16][36][input channel][16]`.
    pub w: *const E,
    /// One per output channel.
    pub bias: *const E,
    /// Output pixel (0, 0) of the first output channel.
    pub out: TensorPtr<E>,
    /// Columns and rows.
    pub size: (usize, usize),
    /// Blocks of 8 output channels.
    pub out_blocks: usize,
    /// Activation of the sums.
    pub act: Act,
    /// Residual, added after the activation.
    pub residual: Option<TensorPtr<E>>,
}

// SAFETY: as `Conv`.
unsafe impl<E: Number> Send for Winograd<E> {}
// SAFETY: as `Conv`.
unsafe impl<E: Number> Sync for Winograd<E> {}

/// Positions of a transformed tile.
pub const POSITIONS: usize = 36;

impl<E: Number> Winograd<E> {
    /// Tiles in a row and rows of them.
    pub fn tiles(&self) -> (usize, usize) {
        (self.size.0.div_ceil(4), self.size.1.div_ceil(4))
    }

    /// Number of tiles that go through the stages together, so that their data fits into the L2 cache, in nearly equal blocks.
    pub fn tiles_a_block(&self, tile: usize) -> usize {
        /// Numbers of transformed input of a block: 384 kB.
        const INPUT: usize = 96 << 10;
        let all = self.tiles().0 * self.tiles().1;
        let most = (INPUT / (POSITIONS * 8 * self.blocks)).clamp(tile, 48) / tile * tile;
        all.div_ceil(all.div_ceil(most))
    }

    /// Numbers of scratch memory per thread for a block of `tiles`, with `group` channels of products at once.
    pub fn scratch_len(&self, tiles: usize, group: usize) -> usize {
        POSITIONS * tiles * (8 * self.blocks + group) + 16 * POSITIONS
    }
}

/// The transformed weights of one 3x3 kernel: `G g G'`.
pub fn transform_weights(kernel: &[f32; 9]) -> [f32; POSITIONS] {
    const G: [[f64; 3]; 6] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    std::array::from_fn(|position| {
        let (row, column) = (G[position / 6], G[position % 6]);
        let mut sum = 0.0;
        for y in 0..3 {
            for x in 0..3 {
                sum += row[y] * f64::from(kernel[y * 3 + x]) * column[x];
            }
        }
        sum as f32
    })
}

/// Computes tiles `tiles` (their numbers, row by row) of all output channels.
///
/// # Safety
/// The CPU has `S`; the pointers are valid for the sizes; `scratch` has room for `scratch_len(tiles.len(), GROUP)` numbers and belongs to
/// this thread; nobody else writes these tiles or their input.
#[inline(always)]
pub unsafe fn tiles<S: Simd>(conv: &Winograd<S::E>, tiles: &[u32], scratch: *mut S::E) {
    let count = tiles.len();
    // SAFETY: the caller guarantees it.
    unsafe {
        let input = scratch;
        let output = input.add(POSITIONS * count * 8 * conv.blocks);
        let edge = output.add(POSITIONS * count * S::GROUP);
        let at_once = S::LANES.div_ceil(8);
        let mut block = 0;
        while block < conv.blocks {
            let to = input.add(block * count * 8);
            if conv.blocks - block >= at_once {
                input_tiles::<S>(conv, block, tiles, to, edge);
                block += at_once;
            } else {
                input_tiles::<S::Eight>(conv, block, tiles, to, edge);
                block += 1;
            }
        }
        let mut block = 0;
        while block < conv.out_blocks {
            let left = conv.out_blocks - block;
            if const { S::GROUP == 32 } && left >= 4 {
                multiply::<S, 2>(conv, block, count, input, output);
                output_tiles::<S>(conv, block, tiles, (output, 32));
                output_tiles::<S>(conv, block + 2, tiles, (output.add(16), 32));
                block += 4;
                continue;
            }
            if const { S::LANES == 4 } {
                multiply::<S, 4>(conv, block, count, input, output);
            } else if const { S::LANES == 8 } {
                multiply::<S, 2>(conv, block, count, input, output);
            } else {
                multiply::<S, 1>(conv, block, count, input, output);
            }
            if left >= 2 && S::LANES == 16 {
                output_tiles::<S>(conv, block, tiles, (output, 16));
            } else {
                output_tiles::<S::Eight>(conv, block, tiles, (output, 16));
                if left >= 2 {
                    output_tiles::<S::Eight>(conv, block + 1, tiles, (output.add(8), 16));
                }
            }
            block += 2;
        }
    }
}

/// The products of all positions for `N` vectors of output channels from `block` on: `[position][tile][N * LANES]`.
#[inline(always)]
unsafe fn multiply<S: Simd, const N: usize>(
    conv: &Winograd<S::E>,
    block: usize,
    count: usize,
    input: *const S::E,
    output: *mut S::E,
) {
    let per_position = conv.blocks * 8 * 16;
    // SAFETY: the caller guarantees it.
    unsafe {
        let w = conv.w.add(block / 2 * POSITIONS * per_position);
        let next = if S::LANES == 16 { POSITIONS * per_position } else { S::LANES };
        for position in 0..POSITIONS {
            products::<S, N>(
                input.add(position * conv.blocks * count * 8),
                (conv.blocks, count * 8),
                (w.add(position * per_position), next),
                count,
                output.add(position * count * N * S::LANES),
            );
        }
    }
}

/// Transforms `tiles` of the block of input channels, or of two blocks if a vector spans two.
#[inline(always)]
unsafe fn input_tiles<S: Simd>(
    conv: &Winograd<S::E>,
    block: usize,
    tiles: &[u32],
    to: *mut S::E,
    edge: *mut S::E,
) {
    let (across, _) = conv.tiles();
    let count = tiles.len();
    let stride = (conv.blocks * count * 8, count * 8);
    // SAFETY: the caller guarantees it.
    unsafe {
        for (index, tile) in tiles.iter().enumerate() {
            let tile = *tile as usize;
            let (column, row) = (tile % across * 4, tile / across * 4);
            // The tile's first pixel is in the border, or the pixel before.
            let from = conv.x.pixel(block, column, row).sub(conv.x.row_stride + 8);
            let inside = (conv.size.0 + 2 - column, conv.size.1 + 2 - row);
            let to = to.add(index * 8);
            if inside.0 >= 6 && inside.1 >= 6 {
                input_tile::<S>(from, (conv.x.row_stride, conv.x.block_stride), to, stride);
                continue;
            }
            // Pixels outside the picture and its border are zero as well.
            for half in 0..S::LANES.div_ceil(8) {
                for y in 0..6 {
                    for x in 0..6 {
                        let to = edge.add((half * POSITIONS + y * 6 + x) * 8);
                        if x < inside.0 && y < inside.1 {
                            let from = from.add(half * conv.x.block_stride + y * conv.x.row_stride + x * 8);
                            std::ptr::copy_nonoverlapping(from, to, 8);
                        } else {
                            std::ptr::write_bytes(to, 0, 8);
                        }
                    }
                }
            }
            input_tile::<S>(edge, (48, POSITIONS * 8), to, stride);
        }
    }
}

/// `B' d B` of a tile of 8 or 16 channels, each position to one of 36 arrays that are `stride.0` numbers apart; blocks are `block_stride`
/// and `stride.1` apart.
#[inline(always)]
unsafe fn input_tile<S: Simd>(
    from: *const S::E,
    (row_stride, block_stride): (usize, usize),
    to: *mut S::E,
    stride: (usize, usize),
) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut part = 0;
        while part < 8 {
            let mut columns = [[S::splat(0.0); 6]; 6];
            for x in 0..6 {
                let mut d = [S::splat(0.0); 6];
                for y in 0..6 {
                    d[y] = S::load_blocks(from.add(y * row_stride + x * 8 + part), block_stride);
                }
                let t = input_row::<S>(d);
                for y in 0..6 {
                    columns[y][x] = t[y];
                }
            }
            for y in 0..6 {
                let t = input_row::<S>(columns[y]);
                for x in 0..6 {
                    S::store_blocks(to.add((y * 6 + x) * stride.0 + part), stride.1, t[x]);
                }
            }
            part += S::LANES;
        }
    }
}

/// `B' d`.
#[inline(always)]
unsafe fn input_row<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
    // SAFETY: the caller guarantees it.
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

/// Computes `tiles` of the block of output channels, or of two blocks if a vector spans two, from products with `group` channels per tile.
#[inline(always)]
unsafe fn output_tiles<S: Simd>(
    conv: &Winograd<S::E>,
    block: usize,
    tiles: &[u32],
    (from, group): (*const S::E, usize),
) {
    let (across, _) = conv.tiles();
    let stride = tiles.len() * group;
    for (index, tile) in tiles.iter().enumerate() {
        let tile = *tile as usize;
        let (column, row) = (tile % across * 4, tile / across * 4);
        // SAFETY: the caller guarantees it.
        unsafe { output_tile::<S>(conv, from.add(index * group), stride, block, column, row) };
    }
}

/// `A' m A` of a tile of 8 or 16 channels, bias, activation, residual, and the store of the part inside the picture.
#[inline(always)]
unsafe fn output_tile<S: Simd>(
    conv: &Winograd<S::E>,
    from: *const S::E,
    stride: usize,
    block: usize,
    column: usize,
    row: usize,
) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let (wide, high) = ((conv.size.0 - column).min(4), (conv.size.1 - row).min(4));
        let mut part = 0;
        while part < 8 {
            let bias = S::load(conv.bias.add(block * 8 + part));
            let mut columns = [[S::splat(0.0); 6]; 4];
            for x in 0..6 {
                let mut m = [S::splat(0.0); 6];
                for y in 0..6 {
                    m[y] = S::load(from.add((y * 6 + x) * stride + part));
                }
                let t = output_row::<S>(m);
                for y in 0..4 {
                    columns[y][x] = t[y];
                }
            }
            for y in 0..high {
                let to = conv.out.pixel(block, column, row + y).add(part);
                let residual = match &conv.residual {
                    Some(residual) => {
                        (residual.pixel(block, column, row + y).add(part), residual.block_stride)
                    }
                    None => (std::ptr::null_mut(), 0),
                };
                let t = output_row::<S>(columns[y]);
                for x in 0..4 {
                    if x < wide {
                        let mut v = S::add(t[x], bias);
                        if conv.act == Act::Silu {
                            v = S::silu(v);
                        }
                        if !residual.0.is_null() {
                            v = S::add(v, S::load_blocks(residual.0.add(x * 8), residual.1));
                        }
                        S::store_blocks(to.add(x * 8), conv.out.block_stride, v);
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
    // SAFETY: the caller guarantees it.
    unsafe {
        let (two, four, eight) = (S::splat(2.0), S::splat(4.0), S::splat(8.0));
        let a = S::add(m[1], m[2]);
        let b = S::sub(m[1], m[2]);
        let c = S::add(m[3], m[4]);
        let d = S::sub(m[3], m[4]);
        [S::add(S::add(m[0], a), c), S::fma(two, d, b), S::fma(four, c, a), S::add(S::fma(eight, d, b), m[5])]
    }
}
