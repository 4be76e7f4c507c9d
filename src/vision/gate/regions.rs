//! From single moving cells to connected regions: isolated cells and small regions are dropped, the rest becomes boxes.

use crate::base::limits::{GATE_HEIGHT_MAX, GATE_REGIONS_MAX, GATE_WIDTH_MAX};

use super::downscale::Grid;

/// Maximum number of cells in a grid.
pub(super) const CELLS_MAX: usize = GATE_WIDTH_MAX * GATE_HEIGHT_MAX;
const _: () = assert!(CELLS_MAX <= u16::MAX as usize + 1, "a cell's index fits u16");

/// Minimum number of moving neighbours (of eight) of a moving cell. Two: salt-and-pepper noise leaves at most chains,
/// and the corner of a 2x2 object keeps its three.
const NEIGHBOURS_MIN: u8 = 2;

/// A box of cells, sides included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CellBox {
    pub(super) x1: usize,
    pub(super) y1: usize,
    pub(super) x2: usize,
    pub(super) y2: usize,
}

impl CellBox {
    fn union(self, other: CellBox) -> CellBox {
        CellBox {
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
            x2: self.x2.max(other.x2),
            y2: self.y2.max(other.y2),
        }
    }

    fn area(self) -> usize {
        (self.x2 - self.x1 + 1) * (self.y2 - self.y1 + 1)
    }

    /// Extra cells of a common box compared with the two separate ones: the measure of "nearest". Negative if they
    /// overlap.
    fn cost_of_merging(self, other: CellBox) -> isize {
        self.union(other).area() as isize - self.area() as isize - other.area() as isize
    }
}

/// The boxes of a frame.
pub(super) type CellBoxes = heapless::Vec<CellBox, GATE_REGIONS_MAX>;

/// Copies cells of `raw` with at least [`NEIGHBOURS_MIN`] neighbours into `kept`.
pub(super) fn drop_lonely(raw: &[bool], grid: Grid, kept: &mut [bool]) {
    for y in 0..grid.height {
        for x in 0..grid.width {
            let at = y * grid.width + x;
            kept[at] = raw[at] && {
                let mut neighbours = 0u8;
                for_neighbours(x, y, grid, |n| neighbours += u8::from(raw[n]));
                neighbours >= NEIGHBOURS_MIN
            };
        }
    }
}

/// Calls `each` with the index of every one of the up to eight neighbours.
fn for_neighbours(x: usize, y: usize, grid: Grid, mut each: impl FnMut(usize)) {
    for ny in y.saturating_sub(1)..=(y + 1).min(grid.height - 1) {
        for nx in x.saturating_sub(1)..=(x + 1).min(grid.width - 1) {
            if (nx, ny) != (x, y) {
                each(ny * grid.width + nx);
            }
        }
    }
}

/// Finds the 8-connected regions of `moving` with at least `area_min` cells: their number of cells and their boxes.
/// Clears `moving` on the way. `stack` has room for every cell.
pub(super) fn find(moving: &mut [bool], grid: Grid, area_min: u32, stack: &mut [u16]) -> (u32, CellBoxes) {
    let mut boxes = CellBoxes::new();
    let mut total = 0;
    for start in 0..grid.cells() {
        if moving[start] {
            let (area, found) = flood(moving, grid, start, stack);
            if area >= area_min {
                total += area;
                push_merged(&mut boxes, found);
            }
        }
    }
    (total, boxes)
}

/// Removes the region around `start` from `moving`. A cell is cleared when it is pushed, so that each is pushed once.
fn flood(moving: &mut [bool], grid: Grid, start: usize, stack: &mut [u16]) -> (u32, CellBox) {
    let (sx, sy) = (start % grid.width, start / grid.width);
    let mut found = CellBox { x1: sx, y1: sy, x2: sx, y2: sy };
    let (mut area, mut top) = (0, 1);
    moving[start] = false;
    stack[0] = start as u16;
    while top > 0 {
        top -= 1;
        let at = usize::from(stack[top]);
        let (x, y) = (at % grid.width, at / grid.width);
        area += 1;
        found = found.union(CellBox { x1: x, y1: y, x2: x, y2: y });
        for_neighbours(x, y, grid, |n| {
            if moving[n] {
                moving[n] = false;
                stack[top] = n as u16;
                top += 1;
            }
        });
    }
    (area, found)
}

/// Adds a box; when full, the two nearest of all (the new one included) become one.
fn push_merged(boxes: &mut CellBoxes, new: CellBox) {
    let Err(new) = boxes.push(new) else { return };
    // Merge the new one with an old one, or two old ones: whichever pair costs the fewest extra cells.
    let mut best = (isize::MAX, 0, None);
    for a in 0..boxes.len() {
        let with_new = boxes[a].cost_of_merging(new);
        if with_new < best.0 {
            best = (with_new, a, None);
        }
        for b in a + 1..boxes.len() {
            let cost = boxes[a].cost_of_merging(boxes[b]);
            if cost < best.0 {
                best = (cost, a, Some(b));
            }
        }
    }
    match best {
        (_, a, None) => boxes[a] = boxes[a].union(new),
        (_, a, Some(b)) => {
            boxes[a] = boxes[a].union(boxes[b]);
            boxes[b] = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Oracle: labels spread from cell to cell until nothing changes. Returns (area, box) of each component.
    fn components(moving: &[bool], grid: Grid) -> Vec<(u32, CellBox)> {
        let mut label: Vec<usize> =
            (0..moving.len()).map(|i| if moving[i] { i } else { usize::MAX }).collect();
        loop {
            let before = label.clone();
            for i in 0..label.len() {
                for j in 0..label.len() {
                    let near = |a: usize, b: usize| a.abs_diff(b) <= 1;
                    if moving[i]
                        && moving[j]
                        && near(i % grid.width, j % grid.width)
                        && near(i / grid.width, j / grid.width)
                    {
                        label[i] = label[i].min(label[j]);
                    }
                }
            }
            if label == before {
                break;
            }
        }
        let mut roots: Vec<usize> = label.iter().copied().filter(|&l| l != usize::MAX).collect();
        roots.sort_unstable();
        roots.dedup();
        let of = |root: usize| {
            let cells = (0..label.len()).filter(|&i| label[i] == root);
            let cells: Vec<_> = cells.map(|i| (i % grid.width, i / grid.width)).collect();
            let (xs, ys) = (cells.iter().map(|c| c.0), cells.iter().map(|c| c.1));
            let found = CellBox {
                x1: xs.clone().min().unwrap(),
                y1: ys.clone().min().unwrap(),
                x2: xs.max().unwrap(),
                y2: ys.max().unwrap(),
            };
            (cells.len() as u32, found)
        };
        roots.into_iter().map(of).collect()
    }

    fn scene() -> impl Strategy<Value = (Grid, Vec<bool>, u32)> {
        (1usize..24, 1usize..24, 0.02f64..0.6, 1u32..8).prop_flat_map(|(width, height, density, area_min)| {
            let cells = proptest::collection::vec(proptest::bool::weighted(density), width * height);
            (Just(Grid { width, height }), cells, Just(area_min))
        })
    }

    proptest! {
        #[test]
        fn regions_are_the_components((grid, cells, area_min) in scene()) {
            let oracle: Vec<_> = components(&cells, grid).into_iter().filter(|c| c.0 >= area_min).collect();
            let mut moving = cells;
            let (total, boxes) = find(&mut moving, grid, area_min, &mut [0; CELLS_MAX]);
            prop_assert_eq!(total, oracle.iter().map(|c| c.0).sum::<u32>());
            if oracle.len() <= GATE_REGIONS_MAX {
                let mut want: Vec<_> = oracle.iter().map(|c| c.1).collect();
                let mut have = boxes.to_vec();
                let key = |b: &CellBox| (b.y1, b.x1, b.y2, b.x2);
                want.sort_by_key(key);
                have.sort_by_key(key);
                prop_assert_eq!(have, want);
            } else {
                prop_assert_eq!(boxes.len(), GATE_REGIONS_MAX);
            }
            // Whole components are covered, so every moving cell is.
            for (_, c) in oracle {
                prop_assert!(boxes.iter().any(|b| b.union(c) == *b), "{:?} not in {:?}", c, boxes);
            }
            prop_assert!(moving.iter().all(|m| !m));
        }

        #[test]
        fn isolated_cells_are_removed((grid, cells, _) in scene()) {
            let mut kept = vec![true; cells.len()];
            drop_lonely(&cells, grid, &mut kept);
            for y in 0..grid.height as isize { for x in 0..grid.width as isize {
                let at = |x: isize, y: isize| x >= 0 && y >= 0 && x < grid.width as isize && y < grid.height as isize
                    && cells[y as usize * grid.width + x as usize];
                let around = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy)))
                    .filter(|&(dx, dy)| (dx, dy) != (0, 0) && at(x + dx, y + dy)).count();
                prop_assert_eq!(kept[y as usize * grid.width + x as usize], at(x, y) && around >= 2);
            } }
        }
    }

    /// Seventeen dots, two of them close together: those two become one and the others keep their boxes.
    #[test]
    fn the_nearest_two_are_merged() {
        let dot = |x, y| CellBox { x1: x, y1: y, x2: x, y2: y };
        let mut boxes = CellBoxes::new();
        for i in 0..16 {
            push_merged(&mut boxes, dot(i * 9, 0));
        }
        push_merged(&mut boxes, dot(29, 0));
        assert_eq!(boxes.len(), GATE_REGIONS_MAX);
        assert!(boxes.contains(&CellBox { x1: 27, y1: 0, x2: 29, y2: 0 }));
        assert!((0..16).filter(|i| *i != 3).all(|i| boxes.contains(&dot(i * 9, 0))));
    }
}
