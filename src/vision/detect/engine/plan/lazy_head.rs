//! The lazy head: the end of a detection head, computed only for anchors that may hold an object.
//!
//! After the last convolutions a head turns each of thousands of anchors (a column each) into a box and scores, every column independently.
//! Nearly all of them have scores near zero. So the graph is split there:
//!
//! ```text
//!   …─┬─► convolutions ─► scores ────────► pick the columns whose best class can reach the wanted score
//!     └─► 3x3 ─► 3x3 ─► 1x1 ─► boxes           │
//!          ▲      ▲      ▲                     │
//!          └──────┴──────┴── only around them ─┘ ─► the rest of the graph, a few columns at a time
//! ```
//! The box branch is a fifth of YOLO11n's multiply-accumulates; without objects none of it is computed.

use super::super::graph::{Conv, Graph, Node, Op};
use super::super::kernels::{Isa, Kernels, TensorPtr, conv};
use super::step::ActiveTiles;

/// Columns that are processed at a time.
pub(super) const COLUMNS: usize = 32;

/// How far below the wanted score the estimated best class of a column may be: rounding.
const MARGIN: f32 = 1e-3;

/// A graph split before the lazy part.
#[derive(Debug)]
pub(super) struct GraphSplit {
    /// The maps of each source of columns.
    pub(super) sources: Vec<Vec<MapOf>>,
    /// The rest of the graph, for [`COLUMNS`] columns, until it is taken. Its inputs are the sources, then `constants`.
    rest: Graph,
    /// Constants with one number per column: anchor positions and strides.
    pub(super) constants: Vec<Vec<f32>>,
    /// The source with the scores before the sigmoid, its first score row, and the number of classes.
    pub(super) scores: (usize, usize, usize),
    /// Columns in all.
    pub(super) columns: usize,
}

impl GraphSplit {
    /// The graph after the split.
    pub(super) fn take_rest(&mut self) -> Graph {
        std::mem::replace(&mut self.rest, Graph { nodes: Vec::new(), output: 0 })
    }
}

/// A map: nodes whose results are `[1, rows, height, width]`, stacked along the rows.
#[derive(Debug, Clone, Default)]
pub(super) struct MapOf {
    pub(super) pieces: Vec<PieceOf>,
    /// 3x3 convolutions that are computed only around picked columns, each on the result of the previous one.
    pub(super) chain: Vec<usize>,
}

/// Some rows of a map.
#[derive(Debug, Clone, Copy)]
pub(super) struct PieceOf {
    /// The node whose result it is.
    pub(super) node: usize,
    /// The 1x1 convolution on it that makes the rows, computed only for picked columns.
    pub(super) last: Option<usize>,
    /// The first row of the map, and the number of rows.
    pub(super) rows: (usize, usize),
}

/// Splits `graph`, if its output is that of a head: boxes and sigmoid scores, stacked, each column independent. `deferred`: whether
/// convolutions can be computed partially.
pub(super) fn split(graph: &Graph, deferred: bool) -> Option<GraphSplit> {
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
    let mut splitter =
        Splitter { graph, columns, sources: Vec::new(), constants: Vec::new(), inner: Vec::new() };
    splitter.take(graph.output)?;
    let which = splitter.sources.iter().position(|id| *id == source)?;
    let sources = splitter.sources.iter().map(|id| parts(graph, columns, *id)).collect::<Option<Vec<_>>>()?;
    // Column by column the same position in all of them.
    let sides = |maps: &Vec<usize>| -> Vec<Vec<usize>> {
        maps.iter().map(|id| graph.nodes[*id].shape[2..].to_vec()).collect()
    };
    if sources.iter().any(|maps| sides(maps) != sides(&sources[which])) {
        return None;
    }
    let whole = |id: &usize| {
        let rows = (0, graph.nodes[*id].shape[1]);
        MapOf { pieces: vec![PieceOf { node: *id, last: None, rows }], chain: Vec::new() }
    };
    let mut sources: Vec<Vec<MapOf>> =
        sources.iter().map(|parts| parts.iter().map(whole).collect()).collect();
    let constants = splitter.constants.iter().map(|id| match &graph.nodes[*id].op {
        Op::Const(numbers) => Some(numbers.clone()),
        _ => None,
    });
    let constants = constants.collect::<Option<_>>()?;
    let scores = (which, first, rows - 4);
    if deferred && let Some(maps) = deferred_maps(graph, &sources, scores) {
        sources = maps;
    }
    Some(GraphSplit { sources, constants, scores, columns, rest: splitter.rest() })
}

/// The maps of a concatenation of columns: `[1, rows, height, width]` each, flattened, one after the other.
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

/// The maps with everything but the scores deferred, if it comes from 3x3 convolutions and a 1x1 one that nothing else uses. For this, a
/// map that is a concatenation is split into its parts.
fn deferred_maps(
    graph: &Graph,
    sources: &[Vec<MapOf>],
    scores: (usize, usize, usize),
) -> Option<Vec<Vec<MapOf>>> {
    let (which, first, count) = scores;
    let mut users = vec![0usize; graph.nodes.len()];
    graph.nodes.iter().flat_map(|node| &node.inputs).for_each(|input| users[*input] += 1);
    let plain = |id: usize, kernel: usize| match &graph.nodes[id].op {
        Op::Conv(conv) => {
            let alone = graph.nodes[id].inputs.len() == 1 && users[id] == 1 && conv.groups == 1;
            alone && (conv.kernel, conv.stride, conv.pad) == ([kernel; 2], [1, 1], [kernel / 2; 2])
        }
        _ => false,
    };
    let apart = |source: usize, map: &MapOf| {
        let node = map.pieces[0].node;
        let parts = match &graph.nodes[node] {
            Node { op: Op::Concat { axis: 1 }, inputs, .. } if users[node] == 1 => inputs.clone(),
            _ => vec![node],
        };
        let (mut taken, mut row) = (MapOf::default(), 0);
        for part in parts {
            let rows = (row, graph.nodes[part].shape[1]);
            row += rows.1;
            if source == which && rows.0 < first + count && first < row {
                let all = rows.0 <= first && first + count <= row;
                taken.pieces.push(PieceOf { node: part, last: None, rows });
                if all { continue } else { return None }
            }
            if !plain(part, 1) || !taken.chain.is_empty() {
                return None;
            }
            let mut from = graph.nodes[part].inputs[0];
            taken.pieces.push(PieceOf { node: from, last: Some(part), rows });
            // The input picture itself has kernels of its own.
            while plain(from, 3) && graph.nodes[graph.nodes[from].inputs[0]].op != Op::Input {
                taken.chain.insert(0, from);
                from = graph.nodes[from].inputs[0];
            }
        }
        Some(taken)
    };
    let maps_of = |(source, maps): (usize, &Vec<MapOf>)| maps.iter().map(|map| apart(source, map)).collect();
    let all: Vec<Vec<MapOf>> = sources.iter().enumerate().map(maps_of).collect::<Option<_>>()?;
    // Nothing is computed twice.
    let maps = || all.iter().flatten();
    let lasts = maps().flat_map(|map| &map.pieces).filter_map(|piece| piece.last);
    let mut made: Vec<usize> = lasts.chain(maps().flat_map(|map| map.chain.iter().copied())).collect();
    let count = made.len();
    made.sort_unstable();
    made.dedup();
    (made.len() == count && maps().any(|map| !map.chain.is_empty())).then_some(all)
}

struct Splitter<'g> {
    graph: &'g Graph,
    columns: usize,
    sources: Vec<usize>,
    constants: Vec<usize>,
    /// The nodes after the sources, in order.
    inner: Vec<usize>,
}

impl Splitter<'_> {
    /// Moves a node and its inputs into the rest, if it treats each column independently.
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

    /// The rest as a separate graph.
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

/// A map whose columns are picked.
#[derive(Debug, Clone)]
pub(super) struct Map<E> {
    pub(super) pieces: Vec<Piece<E>>,
    /// Columns and rows.
    pub(super) size: (usize, usize),
    /// This map's part of the plan's active tiles, in the order of its chain.
    pub(super) active: Vec<usize>,
}

/// Some rows of a map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<E> {
    /// The input.
    pub(super) tensor: TensorPtr<E>,
    /// The first row of the map, and the number of rows.
    pub(super) rows: (usize, usize),
    /// The 1x1 convolution for picked columns, if any: of [`COLUMNS`] pixels, from its own input to its own output.
    pub(super) last: Option<conv::Conv<E>>,
}

/// The columns of `maps` (one after the other) whose highest score, of `count` rows from `first`, can reach `score_min`.
///
/// # Safety
/// The maps are valid, and nobody writes them; the rows are those of one piece.
pub(super) unsafe fn pick<E: Kernels>(
    maps: &[Map<E>],
    (first, count): (usize, usize),
    score_min: f32,
    picked: &mut Vec<u32>,
) {
    let least = E::of((score_min / (1.0 - score_min)).ln() - MARGIN);
    picked.clear();
    let mut before = 0;
    for map in maps {
        let piece =
            map.pieces.iter().find(|piece| piece.rows.0 <= first && first < piece.rows.0 + piece.rows.1);
        let piece = piece.expect("the scores are some rows of the map");
        let first = first - piece.rows.0;
        for row in 0..map.size.1 {
            for column in 0..map.size.0 {
                // SAFETY: the caller guarantees it; rows beyond the map's are not looked at.
                if unsafe { reaches(&piece.tensor, (column, row), first..first + count, least) } {
                    picked.push((before + row * map.size.0 + column) as u32);
                }
            }
        }
        before += map.size.0 * map.size.1;
    }
}

/// Whether one of the numbers is not below `least`: NaN passes, and the decoder discards it.
///
/// # Safety
/// The tensor is valid, and nobody writes it.
unsafe fn reaches<E: Kernels>(
    tensor: &TensorPtr<E>,
    (column, row): (usize, usize),
    rows: std::ops::Range<usize>,
    least: E,
) -> bool {
    let below = |numbers: &[E]| numbers.iter().filter(|x| x.is_below(least)).count();
    let (mut at, mut good) = (rows.start, false);
    while at < rows.end {
        // SAFETY: the caller guarantees it.
        let numbers = unsafe { tensor.pixel(at / 8, column, row).cast::<[E; 8]>().read_unaligned() };
        let upto = (rows.end - at / 8 * 8).min(8);
        // Eight at once where all of them are scores.
        good |= if at.is_multiple_of(8) && upto == 8 {
            below(&numbers) < 8
        } else {
            below(&numbers[at % 8..upto]) < upto - at % 8
        };
        at = at / 8 * 8 + 8;
    }
    good
}

/// Activates the tiles of 4x4 pixels that the picked columns of a map need: of the last convolution of its chain the tiles that contain the
/// columns, of each earlier one those around them.
///
/// `columns` are relative to the map; `marks` has room for two marks per tile.
pub(super) fn activate_tiles<E>(
    map: &Map<E>,
    columns: &[u32],
    active: &mut [ActiveTiles],
    threads: usize,
    marks: &mut [bool],
) {
    let (wide, high) = (map.size.0.div_ceil(4), map.size.1.div_ceil(4));
    let (marks, around) = marks.split_at_mut(wide * high);
    marks.fill(false);
    for column in columns {
        let (x, y) = (*column as usize % map.size.0, *column as usize / map.size.0);
        marks[y / 4 * wide + x / 4] = true;
    }
    for (index, which) in map.active.iter().enumerate().rev() {
        let ActiveTiles { tiles, per_task } = &mut active[*which];
        tiles.clear();
        tiles.extend((0..wide * high).filter(|tile| marks[*tile]).map(|tile| tile as u32));
        // Work for all threads, but tasks large enough to be worth their overhead.
        *per_task = tiles.len().div_ceil(threads).clamp(TILES_LEAST, TILES_MOST);
        if index > 0 {
            let around = &mut around[..wide * high];
            around.fill(false);
            for tile in (0..wide * high).filter(|tile| marks[*tile]) {
                let (x, y) = (tile % wide, tile / wide);
                for y in y.saturating_sub(1)..(y + 2).min(high) {
                    around[y * wide + x.saturating_sub(1)..y * wide + (x + 2).min(wide)].fill(true);
                }
            }
            marks.copy_from_slice(around);
        }
    }
}

/// Minimum number of tiles in a task.
const TILES_LEAST: usize = 6;
/// Maximum number of tiles in a task: the threads' scratch memory is sized for it.
pub(super) const TILES_MOST: usize = 40;

/// Copies some columns of a map to `to`, row by row, [`COLUMNS`] numbers a row. `columns` are relative to the map.
///
/// # Safety
/// The map is valid, and nobody writes it; `to` has room for its rows; the CPU has `isa`; only the caller uses the convolutions of its
/// pieces.
pub(super) unsafe fn gather<E: Kernels>(map: &Map<E>, columns: &[u32], isa: Isa, to: *mut f32) {
    let at = |column: u32| (column as usize % map.size.0, column as usize / map.size.0);
    for piece in &map.pieces {
        // SAFETY: the caller guarantees it.
        unsafe {
            if let Some(conv) = &piece.last {
                for (index, column) in columns.iter().enumerate() {
                    let (x, y) = at(*column);
                    for block in 0..conv.blocks.0 {
                        let to = conv.x.cast_mut().add(block * conv.blocks.1 + index * 8);
                        std::ptr::copy_nonoverlapping(piece.tensor.pixel(block, x, y), to, 8);
                    }
                }
                E::conv_rows(isa, conv, 0..1);
            }
            for (index, column) in columns.iter().enumerate() {
                let (tensor, (x, y)) = match &piece.last {
                    Some(conv) => (&conv.out, (index, 0)),
                    None => (&piece.tensor, at(*column)),
                };
                for row in 0..piece.rows.1 {
                    let number = *tensor.pixel(row / 8, x, y).add(row % 8);
                    *to.add((piece.rows.0 + row) * COLUMNS + index) = number.to();
                }
            }
        }
    }
}
