//! Area average of a luma plane onto the gate's grid.
//!
//! Exact for any pair of sizes: a sample that lies in two cells counts in each by its overlap. All in integers: along an axis of `n`
//! samples and `cells` cells a sample is `cells` units wide and a cell `n` units, so every overlap is a whole number. No rows are skipped:
//! averaging is what reduces sensor noise (8x8 samples: to an eighth), and reading 1280x720 once is about a million additions: in vectors,
//! row by row into the sums of columns, of which a row of cells is then made.

use crate::base::limits::{FRAME_SIDE_MAX, GATE_HEIGHT_MAX, GATE_WIDTH_MAX};
use crate::capture::frame::Plane;

/// Fraction bits of a cell: luma 255 is `255 << CELL_BITS`, which fits `u16`.
pub(super) const CELL_BITS: u32 = 6;

/// Maximum side of a plane; a longer plane (no camera makes one) is cut there.
const SIDE_MAX: usize = FRAME_SIDE_MAX as usize;
/// A cell has at most this many samples along an axis, in whole or in part: the longer side has 160 cells, and of the shorter side, in the
/// same proportion, at most half a cell is missing, or all of it is one cell.
const CELL_SAMPLES_MAX: usize = SIDE_MAX / GATE_WIDTH_MAX * 2;
const _: () = assert!(255 * CELL_SAMPLES_MAX <= u16::MAX as usize, "a cell's part of a column fits u16");
const _: () =
    assert!(255 * SIDE_MAX * CELL_SAMPLES_MAX <= u32::MAX as usize, "so do a cell's weighted columns");
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
    fn weight(&self, index: usize, full: u32) -> u32 {
        match index {
            i if i == self.first => self.head,
            i if i == self.last => self.tail,
            _ => full,
        }
    }

    /// Weighted sum of the cell's columns.
    fn sum(&self, columns: &[u32], full: u64) -> u64 {
        let ends = u64::from(self.head) * u64::from(columns[self.first])
            + u64::from(self.tail) * u64::from(columns[self.last]);
        if self.last <= self.first + 1 {
            return ends;
        }
        let between = columns[self.first + 1..self.last].iter().fold(0, |sum: u32, &v| sum.wrapping_add(v));
        ends + full * u64::from(between)
    }
}

/// Weighted sums of the columns of a plane over the rows of a row of cells. Wrapping arithmetic, because checks keep the compiler from
/// vectors; the assertions above say why nothing wraps.
struct Columns {
    sums: [u32; SIDE_MAX],
    /// Of the rows that count in full, so that only their sum is multiplied.
    whole: [u16; SIDE_MAX],
}

impl Columns {
    /// The sums over `rows` of a plane, where a whole row weighs `full`.
    fn sum(&mut self, plane: &Plane<'_>, rows: Span, full: u32, width: usize) -> &[u32] {
        let (sums, whole) = (&mut self.sums[..width], &mut self.whole[..width]);
        sums.fill(0);
        whole.fill(0);
        for index in rows.first..=rows.last {
            let (row, weight) = (plane.row(index), rows.weight(index, full));
            if weight == full {
                for_each_sample(whole, row, plane.step(), |sum, v| *sum = sum.wrapping_add(v.into()));
            } else {
                let weighted = |v: u8| weight.wrapping_mul(v.into());
                for_each_sample(sums, row, plane.step(), |sum, v| *sum = sum.wrapping_add(weighted(v)));
            }
        }
        for (sum, &whole) in sums.iter_mut().zip(whole.iter()) {
            *sum = sum.wrapping_add(full.wrapping_mul(whole.into()));
        }
        sums
    }
}

/// Calls `add` with each sum and its sample of the row.
#[inline(always)]
fn for_each_sample<T>(sums: &mut [T], row: &[u8], step: usize, add: impl Fn(&mut T, u8)) {
    match step {
        1 => sums.iter_mut().zip(row).for_each(|(sum, &v)| add(sum, v)),
        // The brightness of YUYV. The last sample has nothing behind it.
        2 => {
            if let (Some((last_sum, sums)), Some((&last, pairs))) = (sums.split_last_mut(), row.split_last())
            {
                sums.iter_mut().zip(pairs.as_chunks::<2>().0).for_each(|(sum, pair)| add(sum, pair[0]));
                add(last_sum, last);
            }
        }
        _ => sums.iter_mut().zip(row.iter().step_by(step)).for_each(|(sum, &v)| add(sum, v)),
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
    // Rounded to the nearest, (sum + area / 2) / area, as a product, because a division of integers takes ten times as long. Of these four
    // times as large whole numbers plus one no quotient is nearer to a whole number than 2^-28; the error of a product is at most 2^-38.
    let quarter = 0.25 / area as f64;
    let mut columns = Columns { sums: [0; SIDE_MAX], whole: [0; SIDE_MAX] };
    for (y, out) in cells[..grid.cells()].chunks_exact_mut(grid.width).enumerate() {
        let sums = columns.sum(plane, Span::of(y, grid.height, height), grid.height as u32, width);
        for (cell, span) in out.iter_mut().zip(&across) {
            let sum = span.sum(sums, grid.width as u64) << CELL_BITS;
            *cell = ((4 * sum + 2 * area + 1) as f64 * quarter) as u16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Brute force: the overlap of every sample with a cell, and one division.
    fn average(plane: &Plane<'_>, grid: Grid, cx: usize, cy: usize) -> u64 {
        let overlap = |sample: usize, cell: usize, cells: usize, samples: usize| {
            let (start, end) = (sample * cells, (sample + 1) * cells);
            end.min((cell + 1) * samples).saturating_sub(start.max(cell * samples)) as u64
        };
        let mut sum = 0;
        for y in 0..plane.height() {
            let down = overlap(y, cy, grid.height, plane.height());
            // Most rows have nothing to do with the cell.
            for x in (0..plane.width()).filter(|_| down > 0) {
                let across = overlap(x, cx, grid.width, plane.width());
                sum += across * down * u64::from(plane.row(y)[x * plane.step()]);
            }
        }
        let area = (plane.width() * plane.height()) as u64;
        ((sum << CELL_BITS) + area / 2) / area
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
                let (want, have) = (average(&plane, grid, cx, cy), u64::from(cells[cy * grid.width + cx]));
                prop_assert_eq!(have, want, "{}x{} cell {},{}", w, h, cx, cy);
            } }
        }
    }

    proptest! {
        #[test]
        fn a_cell_has_at_most_the_samples_that_sums_have_room_for(w in 1..=SIDE_MAX, h in 1..=SIDE_MAX) {
            let grid = Grid::for_plane(w, h);
            for (cells, samples) in [(grid.width, w), (grid.height, h)] {
                let spans = (0..cells).map(|cell| Span::of(cell, cells, samples));
                let most = spans.map(|span| span.last - span.first + 1).max().unwrap();
                prop_assert!(most <= CELL_SAMPLES_MAX, "{}x{}: {}", w, h, most);
            }
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
