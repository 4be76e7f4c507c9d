//! Optimal assignment of detections to tracks, at most one each: shortest augmenting paths with potentials.
//!
//! Jonker and Volgenant (1987) without their start-up heuristics, O(tracks² x (tracks + detections)) at worst. A track
//! may stay without a detection at the cost of [`UNMATCHED`]; this is one more column for every track that exists only
//! in the arithmetic. All scratch memory is allocated in [`Assignment::new`].

/// Cost of a track without a detection. Costs of pairs lie in `0.0..=UNMATCHED`; larger ones and NaN are forbidden.
pub(super) const UNMATCHED: f32 = 1.0;

/// Row 0 and column 0 mean "none".
const NONE: usize = 0;

/// The solver and its memory.
#[derive(Debug)]
pub(super) struct Assignment {
    rows_max: usize,
    columns_max: usize,
    rows: usize,
    columns: usize,
    /// Costs, row after row.
    cost: Box<[f32]>,
    row_price: Box<[f64]>,
    column_price: Box<[f64]>,
    /// Row of every column, [`NONE`] if free.
    row_of: Box<[usize]>,
    /// Column before every column on the shortest path.
    before: Box<[usize]>,
    /// Length of the shortest path to every column.
    length: Box<[f64]>,
    visited: Box<[bool]>,
}

fn taken<T: Clone>(value: T, count: usize) -> Box<[T]> {
    vec![value; count].into_boxed_slice()
}

impl Assignment {
    /// Capacity for `rows_max` tracks and `columns_max` detections.
    pub(super) fn new(rows_max: usize, columns_max: usize) -> Self {
        let all = 1 + columns_max + rows_max;
        Assignment {
            rows_max,
            columns_max,
            rows: 0,
            columns: 0,
            cost: taken(f32::INFINITY, rows_max * columns_max),
            row_price: taken(0.0, 1 + rows_max),
            column_price: taken(0.0, all),
            row_of: taken(NONE, all),
            before: taken(NONE, all),
            length: taken(0.0, all),
            visited: taken(false, all),
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.cost)
            + size_of_val(&*self.row_price)
            + size_of_val(&*self.column_price)
            + size_of_val(&*self.row_of)
            + size_of_val(&*self.before)
            + size_of_val(&*self.length)
            + size_of_val(&*self.visited)
    }

    /// Begins a problem of that size; every pair is forbidden until [`Assignment::allow`].
    pub(super) fn start(&mut self, rows: usize, columns: usize) {
        assert!(
            rows <= self.rows_max && columns <= self.columns_max,
            "the tracker's own lists are this long"
        );
        self.rows = rows;
        self.columns = columns;
        self.cost[..rows * columns].fill(f32::INFINITY);
    }

    /// Allows a pair at `cost`; one above [`UNMATCHED`], below 0 or NaN stays forbidden.
    pub(super) fn allow(&mut self, row: usize, column: usize, cost: f32) {
        if (0.0..=UNMATCHED).contains(&cost) {
            self.cost[row * self.columns + column] = cost;
        }
    }

    /// Solves the problem; [`Assignment::row`] then gives the row of each column.
    pub(super) fn solve(&mut self) {
        let all = 1 + self.columns + self.rows;
        self.row_price[..=self.rows].fill(0.0);
        self.column_price[..all].fill(0.0);
        self.row_of[..all].fill(NONE);
        for row in 1..=self.rows {
            let mut column = self.cheapest_path(row, all);
            while column != NONE {
                let previous = self.before[column];
                self.row_of[column] = self.row_of[previous];
                column = previous;
            }
        }
    }

    /// The row (from 0) assigned to `column` (from 0).
    pub(super) fn row(&self, column: usize) -> Option<usize> {
        self.row_of[1 + column].checked_sub(1)
    }

    /// Shortest path (Dijkstra on reduced costs) from `row` to a free column; leaves the predecessors in `before`.
    fn cheapest_path(&mut self, row: usize, all: usize) -> usize {
        self.length[..all].fill(f64::INFINITY);
        self.visited[..all].fill(false);
        self.row_of[NONE] = row;
        let mut here = NONE;
        loop {
            self.visited[here] = true;
            let row = self.row_of[here];
            let costs = &self.cost[(row - 1) * self.columns..row * self.columns];
            let (mut step, mut next) = (f64::INFINITY, NONE);
            for column in 1..all {
                if self.visited[column] {
                    continue;
                }
                let cost = f64::from(costs.get(column - 1).copied().unwrap_or(UNMATCHED));
                let length = cost - self.row_price[row] - self.column_price[column];
                if length < self.length[column] {
                    self.length[column] = length;
                    self.before[column] = here;
                }
                if self.length[column] < step {
                    step = self.length[column];
                    next = column;
                }
            }
            // There is a free column of cost UNMATCHED for every row, so a next column always exists.
            assert!(next != NONE, "as many spare columns as rows");
            for column in 0..all {
                if self.visited[column] {
                    self.row_price[self.row_of[column]] += step;
                    self.column_price[column] -= step;
                } else {
                    self.length[column] -= step;
                }
            }
            here = next;
            if self.row_of[here] == NONE {
                return here;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn solved(cost: &[Vec<f32>], columns: usize) -> (f64, Vec<Option<usize>>) {
        let mut solver = Assignment::new(8, 9);
        // Leftovers of an earlier, larger problem must not matter.
        solver.start(8, 9);
        for row in 0..8 {
            for column in 0..9 {
                solver.allow(row, column, ((row * 7 + column * 5) % 11) as f32 / 11.0);
            }
        }
        solver.solve();
        solver.start(cost.len(), columns);
        for (r, row) in cost.iter().enumerate() {
            for (c, &value) in row.iter().enumerate() {
                solver.allow(r, c, value);
            }
        }
        solver.solve();
        let rows: Vec<Option<usize>> = (0..columns).map(|c| solver.row(c)).collect();
        let matched = rows.iter().flatten().count();
        let sum: f64 = rows.iter().enumerate().filter_map(|(c, r)| r.map(|r| f64::from(cost[r][c]))).sum();
        (sum + (cost.len() - matched) as f64, rows)
    }

    /// Brute force: every way to give row `row` and those after it a column or none.
    fn brute(cost: &[Vec<f32>], row: usize, used: u32) -> f64 {
        if row == cost.len() {
            return 0.0;
        }
        let mut best = 1.0 + brute(cost, row + 1, used);
        for (column, &value) in cost[row].iter().enumerate() {
            if used & (1 << column) == 0 && (0.0..=1.0).contains(&value) {
                best = best.min(f64::from(value) + brute(cost, row + 1, used | 1 << column));
            }
        }
        best
    }

    proptest! {
        #[test]
        fn the_total_cost_equals_brute_force(
            rows in 0usize..6, columns in 0usize..7,
            // Coarse steps make ties; above 1 and NaN are forbidden.
            values in proptest::collection::vec(prop_oneof![
                8 => (0u8..12).prop_map(|v| f32::from(v) / 8.0), 3 => 0.0f32..1.0, 1 => Just(f32::NAN)], 42),
        ) {
            let cost: Vec<Vec<f32>> = (0..rows).map(|r| values[r * 7..r * 7 + columns].to_vec()).collect();
            let (sum, rows_of) = solved(&cost, columns);
            prop_assert!((sum - brute(&cost, 0, 0)).abs() < 1e-6, "{sum} {cost:?} {rows_of:?}");
            let mut seen: Vec<usize> = rows_of.iter().flatten().copied().collect();
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), rows_of.iter().flatten().count(), "a row got two columns");
            for (c, r) in rows_of.iter().enumerate() {
                prop_assert!(r.is_none_or(|r| (0.0..=1.0).contains(&cost[r][c])), "a forbidden pair");
            }
        }
    }

    #[test]
    fn the_cheapest_pair_is_not_taken_if_the_sum_grows() {
        // The cheapest pair (0,0) would force 0.9 on the other.
        let cost = vec![vec![0.1, 0.2], vec![0.2, 0.9]];
        assert_eq!(solved(&cost, 2).1, [Some(1), Some(0)]);
    }

    #[test]
    fn more_rows_than_columns_and_empty_problems_are_solved() {
        assert_eq!(solved(&[vec![0.5], vec![0.3], vec![0.4]], 1).1, [Some(1)]);
        assert_eq!(solved(&[vec![], vec![]], 0).1, []);
        assert_eq!(solved(&[], 3).1, [None, None, None]);
        assert_eq!(solved(&[vec![f32::NAN, 1.5, -0.5]], 3).1, [None, None, None]);
    }
}
