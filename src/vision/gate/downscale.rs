//! Area average of a luma plane onto the gate's grid.
//!
//! Exact for any pair of sizes: a sample that lies in two cells counts in each by its overlap. All in integers: along an axis of `n`
//! samples and `cells` cells a sample is `cells` units wide and a cell `n` units, so every overlap is a whole number. No rows are skipped:
//! averaging is what reduces sensor noise (8x8 samples: to an eighth), and reading 1280x720 once is about a million additions.

use crate::base::limits::{FRAME_SIDE_MAX, GATE_HEIGHT_MAX, GATE_WIDTH_MAX};
use crate::capture::frame::Plane;

/// Fraction bits of a cell: luma 255 is `255 << CELL_BITS`, which fits `u16`.
pub(super) const CELL_BITS: u32 = 6;

/// Maximum side of a plane; a longer plane (no camera makes one) is cut there.
const SIDE_MAX: usize = FRAME_SIDE_MAX as usize;
const _: () = assert!(255 * SIDE_MAX <= u32::MAX as usize, "a row's sum of a cell fits u32");
const _: () = assert!(255usize << CELL_BITS <= u16::MAX as usize);

/// Sides of the gate's grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Grid {
    /// The grid for a plane: its own sides if they fit, else both scaled down by the same factor until they do.
    pub(super) fn for_plane(width: usize, height: usize) -> Grid {
        let (w, h) = (width.clamp(1, SIDE_MAX), height.clamp(1, SIDE_MAX));
        let scaled = |side: usize, num: usize, den: usize| ((side * num + den / 2) / den).max(1);
        if w <= GATE_WIDTH_MAX && h <= GATE_HEIGHT_MAX {
            Grid { width: w, height: h }
        } else if w * GATE_HEIGHT_MAX >= h * GATE_WIDTH_MAX {
            Grid { width: GATE_WIDTH_MAX, height: scaled(h, GATE_WIDTH_MAX, w).min(GATE_HEIGHT_MAX) }
        } else {
            Grid { width: scaled(w, GATE_HEIGHT_MAX, h).min(GATE_WIDTH_MAX), height: GATE_HEIGHT_MAX }
        }
    }

    pub(super) fn cells(self) -> usize {
        self.width * self.height
    }
}

/// The samples of a cell along one axis: `first..=last`, with the weights of the two ends; those between have the full weight.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    first: usize,
    last: usize,
    head: u32,
    tail: u32,
}

impl Span {
    fn of(cell: usize, cells: usize, samples: usize) -> Span {
        let (start, end) = (cell * samples, (cell + 1) * samples);
        let (first, last) = (start / cells, (end - 1) / cells);
        if first == last {
            return Span { first, last, head: (end - start) as u32, tail: 0 };
        }
        Span { first, last, head: ((first + 1) * cells - start) as u32, tail: (end - last * cells) as u32 }
    }

    /// Weight of sample `index`, where a whole sample weighs `full`.
    fn weight(&self, index: usize, full: usize) -> u64 {
        u64::from(match index {
            i if i == self.first => self.head,
            i if i == self.last => self.tail,
            _ => full as u32,
        })
    }

    /// Weighted sum of the cell's samples in a row.
    fn sum(&self, row: &[u8], step: usize, full: usize) -> u32 {
        let ends =
            self.head * u32::from(row[self.first * step]) + self.tail * u32::from(row[self.last * step]);
        if self.last <= self.first + 1 {
            return ends;
        }
        let between: u32 = if step == 1 {
            row[self.first + 1..self.last].iter().map(|&v| u32::from(v)).sum()
        } else {
            row[(self.first + 1) * step..self.last * step].iter().step_by(step).map(|&v| u32::from(v)).sum()
        };
        ends + between * full as u32
    }
}

/// Writes the average of each cell of `grid` into `cells` (row by row, `CELL_BITS` fraction bits, rounded). `grid` comes
/// from [`Grid::for_plane`] and `cells` holds at least `grid.cells()`.
pub(super) fn downscale(plane: &Plane<'_>, grid: Grid, cells: &mut [u16]) {
    let (width, height) = (plane.width().min(SIDE_MAX), plane.height().min(SIDE_MAX));
    let mut across = [Span::default(); GATE_WIDTH_MAX];
    for (x, span) in across[..grid.width].iter_mut().enumerate() {
        *span = Span::of(x, grid.width, width);
    }
    let area = (width * height) as u64;
    for (y, out) in cells[..grid.cells()].chunks_exact_mut(grid.width).enumerate() {
        let down = Span::of(y, grid.height, height);
        let mut sums = [0u64; GATE_WIDTH_MAX];
        for sample in down.first..=down.last {
            let (row, weight) = (plane.row(sample), down.weight(sample, grid.height));
            for (sum, span) in sums.iter_mut().zip(&across[..grid.width]) {
                *sum += weight * u64::from(span.sum(row, plane.step(), grid.width));
            }
        }
        for (cell, sum) in out.iter_mut().zip(&sums) {
            *cell = (((sum << CELL_BITS) + area / 2) / area) as u16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Brute force: every overlap of a sample and a cell in floating point.
    fn average(plane: &Plane<'_>, grid: Grid, cx: usize, cy: usize) -> f64 {
        let overlap = |sample: usize, cell: usize, cells: usize, samples: usize| {
            let size = samples as f64 / cells as f64;
            let (a, b) = (cell as f64 * size, (cell + 1) as f64 * size);
            (b.min(sample as f64 + 1.0) - a.max(sample as f64)).max(0.0)
        };
        let (mut sum, mut area) = (0.0, 0.0);
        let range = |cell: usize, cells: usize, samples: usize| {
            (cell * samples / cells).saturating_sub(1)..((cell + 1) * samples / cells + 2).min(samples)
        };
        for y in range(cy, grid.height, plane.height()) {
            for x in range(cx, grid.width, plane.width()) {
                let part =
                    overlap(x, cx, grid.width, plane.width()) * overlap(y, cy, grid.height, plane.height());
                sum += part * f64::from(plane.row(y)[x * plane.step()]);
                area += part;
            }
        }
        sum / area
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equals_the_area_average(w in 16usize..2000, h in 16usize..2000, step in 1usize..4, pad in 0usize..9, seed in 1u32..) {
            let row = w * step + pad;
            let mut state = seed;
            let bytes: Vec<u8> = (0..row * h).map(|_| {
                state ^= state << 13; state ^= state >> 17; state ^= state << 5;
                (state >> 8) as u8
            }).collect();
            let plane = Plane::new(&bytes, w, h, row, step).unwrap();
            let grid = Grid::for_plane(w, h);
            prop_assert!(grid.width <= GATE_WIDTH_MAX && grid.height <= GATE_HEIGHT_MAX);
            let mut cells = vec![0u16; grid.cells()];
            downscale(&plane, grid, &mut cells);
            for cy in 0..grid.height { for cx in (cy % 7..grid.width).step_by(7) {
                let want = average(&plane, grid, cx, cy) * 64.0;
                let have = f64::from(cells[cy * grid.width + cx]);
                prop_assert!((want - have).abs() <= 0.5 + 1e-6, "{}x{} cell {},{}: {} not {}", w, h, cx, cy, have, want);
            } }
        }
    }

    #[test]
    fn the_grid_has_at_most_160_cells_a_side() {
        for (plane, grid) in [
            ((1280, 720), (160, 90)),
            ((160, 90), (160, 90)),
            ((768, 432), (160, 90)),
            ((240, 135), (160, 90)),
            ((720, 1280), (90, 160)),
            ((80, 60), (80, 60)),
            ((4096, 16), (160, 1)),
            ((16, 4096), (1, 160)),
            ((1, 1), (1, 1)),
            ((9000, 9000), (160, 160)),
        ] {
            let have = Grid::for_plane(plane.0, plane.1);
            assert_eq!((have.width, have.height), grid, "{plane:?}");
        }
    }

    /// The brightest plane of the largest size does not overflow and stays the brightest.
    #[test]
    fn the_largest_plane_fits_the_arithmetic() {
        let side = SIDE_MAX + 1;
        let bytes = vec![255u8; side * side];
        let plane = Plane::new(&bytes, side, side, side, 1).unwrap();
        let grid = Grid::for_plane(side, side);
        let mut cells = vec![0u16; grid.cells()];
        downscale(&plane, grid, &mut cells);
        assert!(cells.iter().all(|&c| c == 255 << CELL_BITS));
    }
}
