//! The end of a detection head, done only for the places of the picture that may hold something.
//!
//! Behind the last convolutions a head turns each of thousands of places ("anchors", a column each) into a box and scores, every
//! column by itself. Nearly all of them score next to nothing. So the graph is cut there: the plan ends with the maps of the
//! convolutions, those columns whose best class can reach the wanted score are picked out of them, and the rest of the graph runs
//! on a few columns at a time.

use super::super::graph::{Conv, Graph, Node, Op};
use super::super::kernels::Place;

/// Columns that are done at a time.
pub(super) const COLUMNS: usize = 32;

/// How far below the wanted score the best class of a column may be before it is exactly known: rounding.
const MARGIN: f32 = 1e-3;

/// Where a graph is cut.
#[derive(Debug)]
pub(super) struct Cut {
    /// The maps: for each source of columns its parts, nodes whose result is `[1, rows, height, width]`.
    pub(super) sources: Vec<Vec<usize>>,
    /// The rest, for [`COLUMNS`] columns. Its inputs are the sources, then `constants`.
    pub(super) rest: Graph,
    /// Rows of numbers that belong to the columns: where an object can be, how large it is.
    pub(super) constants: Vec<Vec<f32>>,
    /// The source with the scores before the sigmoid, the first of its rows, and how many.
    pub(super) scores: (usize, usize, usize),
    /// Columns in all.
    pub(super) columns: usize,
}

/// The cut of `graph`, if its output is a head's: boxes and sigmoid scores, one above the other, each column by itself.
pub(super) fn cut(graph: &Graph) -> Option<Cut> {
    let output = &graph.nodes[graph.output];
    let [1, rows, columns] = output.shape[..] else { return None };
    let (Op::Concat { axis: 1 }, [boxes, scores]) = (&output.op, &output.inputs[..]) else { return None };
    let scores = &graph.nodes[*scores];
    if scores.op != Op::Sigmoid || graph.nodes[*boxes].shape != [1, 4, columns] {
        return None;
    }
    let (source, first) = match &graph.nodes[scores.inputs[0]] {
        Node { op: Op::Slice { axis: 1, start }, inputs, .. } => (inputs[0], *start),
        _ => (scores.inputs[0], 0),
    };
    let mut cutter = Cutter { graph, columns, sources: Vec::new(), constants: Vec::new(), inner: Vec::new() };
    cutter.take(graph.output)?;
    let which = cutter.sources.iter().position(|id| *id == source)?;
    let sources = cutter.sources.iter().map(|id| parts(graph, columns, *id)).collect::<Option<_>>()?;
    let constants = cutter.constants.iter().map(|id| match &graph.nodes[*id].op {
        Op::Const(numbers) => Some(numbers.clone()),
        _ => None,
    });
    let constants = constants.collect::<Option<_>>()?;
    Some(Cut { sources, constants, scores: (which, first, rows - 4), columns, rest: cutter.rest() })
}

/// The maps that a concatenation of columns is made of: `[1, rows, height, width]` each, made flat, one behind the other.
fn parts(graph: &Graph, columns: usize, id: usize) -> Option<Vec<usize>> {
    let node = &graph.nodes[id];
    let ([1, rows, all], Op::Concat { axis: 2 }) = (&node.shape[..], &node.op) else { return None };
    let part = |input: &usize| {
        let flat = &graph.nodes[*input];
        let map = *flat.inputs.first()?;
        let shape = &graph.nodes[map].shape;
        let fits = matches!(shape[..], [1, r, h, w] if r == *rows && flat.shape == [1, r, h * w]);
        (flat.op == Op::Reshape && fits).then_some(map)
    };
    node.inputs.iter().map(part).collect::<Option<_>>().filter(|_| *all == columns)
}

struct Cutter<'g> {
    graph: &'g Graph,
    columns: usize,
    sources: Vec<usize>,
    constants: Vec<usize>,
    /// What is behind the sources, in order.
    inner: Vec<usize>,
}

impl Cutter<'_> {
    /// Takes a node and what it needs into the rest, if it does each column by itself.
    fn take(&mut self, id: usize) -> Option<()> {
        if [&self.sources, &self.constants, &self.inner].iter().any(|list| list.contains(&id)) {
            return Some(());
        }
        if parts(self.graph, self.columns, id).is_some() {
            self.sources.push(id);
            return Some(());
        }
        let node = &self.graph.nodes[id];
        let last = node.shape.len().checked_sub(1)?;
        let is_wide = node.shape[last] == self.columns;
        let input = |index: usize| &self.graph.nodes[node.inputs[index]];
        let by_itself = match &node.op {
            Op::Const(_) if is_wide => {
                self.constants.push(id);
                return Some(());
            }
            Op::Const(_) => true,
            Op::Sigmoid | Op::Silu => is_wide,
            Op::Binary(_) => {
                is_wide
                    && node.inputs.iter().all(|input| {
                        let side = self.graph.nodes[*input].shape.last().copied();
                        side == Some(self.columns) || side == Some(1)
                    })
            }
            Op::Concat { axis } | Op::Slice { axis, .. } | Op::Softmax { axis } => is_wide && *axis < last,
            Op::Reshape => is_wide && input(0).shape.last() == Some(&self.columns),
            Op::Transpose(axes) => is_wide && axes[last] == last,
            Op::Conv(Conv { kernel: [1, 1], stride: [1, 1], pad: [0, 0], groups: 1, .. }) => is_wide,
            Op::Conv(_) | Op::Input | Op::MatMul | Op::MaxPool { .. } | Op::Upsample => false,
        };
        if !by_itself {
            return None;
        }
        for input in &node.inputs {
            self.take(*input)?;
        }
        self.inner.push(id);
        Some(())
    }

    /// The rest as a graph of its own.
    fn rest(&self) -> Graph {
        let order: Vec<usize> = [&self.sources[..], &self.constants, &self.inner].concat();
        let inputs = self.sources.len() + self.constants.len();
        let nodes = order.iter().enumerate().map(|(at, id)| {
            let mut node = self.graph.nodes[*id].clone();
            if let Some(last) = node.shape.last_mut()
                && *last == self.columns
            {
                *last = COLUMNS;
            }
            if at < inputs {
                (node.op, node.inputs) = (Op::Input, Vec::new());
            }
            for input in &mut node.inputs {
                *input = order.iter().position(|other| other == input).expect("it was taken before");
            }
            node
        });
        Graph { nodes: nodes.collect(), output: order.len() - 1 }
    }
}

/// A map whose columns are picked: where it lies, its rows and its size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map {
    pub(super) place: Place,
    pub(super) rows: usize,
    pub(super) size: (usize, usize),
}

/// The columns of `maps` (one behind the other) whose greatest score, of `count` rows from `first`, can reach `score_min`.
///
/// # Safety
/// The maps are there, and nobody writes them.
pub(super) unsafe fn pick(
    maps: &[Map],
    (first, count): (usize, usize),
    score_min: f32,
    picked: &mut Vec<u32>,
) {
    let least = (score_min / (1.0 - score_min)).ln() - MARGIN;
    picked.clear();
    let mut before = 0;
    for map in maps {
        for row in 0..map.size.1 {
            for column in 0..map.size.0 {
                // SAFETY: the caller's promise; rows beyond the map's are not looked at.
                let is_good = unsafe {
                    let block = |block: usize| {
                        map.place.pixel(block, column, row).cast::<[f32; 8]>().read_unaligned()
                    };
                    let (mut at, end, mut good) = (first, first + count, false);
                    while at < end {
                        let numbers = block(at / 8);
                        let upto = (end - at / 8 * 8).min(8);
                        // Counted are those below: what is not a number goes on, the decoder throws it away.
                        let rows = &numbers[at % 8..upto];
                        good |= rows.iter().filter(|x| **x < least).count() < rows.len();
                        at = at / 8 * 8 + 8;
                    }
                    good
                };
                if is_good {
                    picked.push((before + row * map.size.0 + column) as u32);
                }
            }
        }
        before += map.size.0 * map.size.1;
    }
}

/// Copies some columns of `maps` to `to`, row by row, [`COLUMNS`] numbers a row.
///
/// # Safety
/// The maps are there, and nobody writes them; `to` has room for their rows; the columns are theirs.
pub(super) unsafe fn gather(maps: &[Map], columns: &[u32], to: *mut f32) {
    for (index, column) in columns.iter().enumerate() {
        let mut column = *column as usize;
        for map in maps {
            let count = map.size.0 * map.size.1;
            if column >= count {
                column -= count;
                continue;
            }
            let (x, y) = (column % map.size.0, column / map.size.0);
            for row in 0..map.rows {
                // SAFETY: the caller's promise.
                unsafe { *to.add(row * COLUMNS + index) = *map.place.pixel(row / 8, x, y).add(row % 8) };
            }
            break;
        }
    }
}
