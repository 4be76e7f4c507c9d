use super::super::graph::{Binary, Conv, Graph, Node, Op, Ranges};
use super::super::kernels::half::Half;
use super::super::reference;
use super::*;
use proptest::prelude::*;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, below: usize) -> usize {
        (self.next() % below as u64) as usize
    }

    /// -1..=1.
    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}

/// Builds graphs.
struct GraphBuilder {
    graph: Graph,
    random: Random,
}

impl GraphBuilder {
    fn new(seed: u64, channels: usize, rows: usize, columns: usize) -> Self {
        let input =
            Node { name: "0".into(), op: Op::Input, inputs: vec![], shape: vec![1, channels, rows, columns] };
        GraphBuilder { graph: Graph { nodes: vec![input], output: 0 }, random: Random(seed) }
    }

    fn add(&mut self, op: Op, inputs: &[usize], shape: Vec<usize>) -> usize {
        let id = self.graph.nodes.len();
        self.graph.nodes.push(Node { name: id.to_string(), op, inputs: inputs.to_vec(), shape });
        self.graph.output = id;
        id
    }

    fn shape(&self, id: usize) -> Vec<usize> {
        self.graph.nodes[id].shape.clone()
    }

    fn conv(&mut self, x: usize, channels: usize, kernel: usize, stride: usize, groups: usize) -> usize {
        let shape = self.shape(x);
        let (pad, in_group) = (kernel / 2, shape[1] / groups);
        let scale = 1.5 / ((in_group * kernel * kernel) as f32).sqrt();
        let weights = self.random.numbers(channels * in_group * kernel * kernel);
        let conv = Conv {
            weights: weights.into_iter().map(|w| w * scale).collect(),
            bias: self.random.numbers(channels),
            kernel: [kernel; 2],
            stride: [stride; 2],
            pad: [pad; 2],
            groups,
            silu: false,
            int8: None,
        };
        let side = |side: usize| (side + 2 * pad - kernel) / stride + 1;
        let shape = vec![1, channels, side(shape[2]), side(shape[3])];
        self.add(Op::Conv(conv), &[x], shape)
    }

    fn silu(&mut self, x: usize) -> usize {
        let gate = self.add(Op::Sigmoid, &[x], self.shape(x));
        self.add(Op::Binary(Binary::Mul), &[x, gate], self.shape(x))
    }

    fn slice(&mut self, x: usize, axis: usize, start: usize, len: usize) -> usize {
        let mut shape = self.shape(x);
        shape[axis] = len;
        self.add(Op::Slice { axis, start }, &[x], shape)
    }

    fn concat(&mut self, parts: &[usize], axis: usize) -> usize {
        let mut shape = self.shape(parts[0]);
        shape[axis] = parts.iter().map(|part| self.graph.nodes[*part].shape[axis]).sum();
        self.add(Op::Concat { axis }, parts, shape)
    }

    fn sum(&mut self, a: usize, b: usize) -> usize {
        self.add(Op::Binary(Binary::Add), &[a, b], self.shape(a))
    }

    /// The main block of YOLO11: split, convolve a half, add, concatenate all.
    fn c3k2(&mut self, x: usize, half: usize) -> usize {
        let whole = self.conv(x, 2 * half, 1, 1, 1);
        let whole = self.silu(whole);
        let (a, b) = (self.slice(whole, 1, 0, half), self.slice(whole, 1, half, half));
        let inner = self.conv(b, half, 3, 1, 1);
        let inner = self.silu(inner);
        let inner = self.conv(inner, half, 3, 1, 1);
        let inner = self.silu(inner);
        let c = self.sum(b, inner);
        let all = self.concat(&[a, b, c], 1);
        self.conv(all, half, 1, 1, 1)
    }

    /// Attention as in YOLO11, with one axis too many and the transpositions of the export.
    fn attention(&mut self, x: usize) -> usize {
        let [_, channels, rows, columns] = self.shape(x)[..] else { unreachable!("a picture") };
        let (heads, tokens) = (2, rows * columns);
        let all = self.conv(x, 2 * channels, 1, 1, 1);
        let per_head = 2 * channels / heads;
        let flat = self.add(Op::Reshape, &[all], vec![1, heads, per_head, tokens]);
        let (q, k) = (self.slice(flat, 2, 0, per_head / 4), self.slice(flat, 2, per_head / 4, per_head / 4));
        let v = self.slice(flat, 2, per_head / 2, per_head / 2);
        let q = self.add(Op::Transpose(vec![0, 1, 3, 2]), &[q], vec![1, heads, tokens, per_head / 4]);
        let scale = self.add(Op::Const(vec![0.3]), &[], vec![1, 1, 1, 1]);
        let q = self.add(Op::Binary(Binary::Mul), &[q, scale], self.shape(q));
        let near = self.add(Op::MatMul, &[q, k], vec![1, heads, tokens, tokens]);
        let near = self.add(Op::Softmax { axis: 3 }, &[near], self.shape(near));
        let near = self.add(Op::Transpose(vec![0, 1, 3, 2]), &[near], self.shape(near));
        let seen = self.add(Op::MatMul, &[v, near], vec![1, heads, per_head / 2, tokens]);
        let seen = self.add(Op::Reshape, &[seen], vec![1, channels, rows, columns]);
        let v = self.add(Op::Reshape, &[v], vec![1, channels, rows, columns]);
        let place = self.conv(v, channels, 3, 1, channels);
        let sum = self.sum(seen, place);
        let out = self.conv(sum, channels, 1, 1, 1);
        self.sum(x, out)
    }
}

fn plan<E: Kernels>(mut graph: Graph, options: Options) -> Result<Plan<E>, String> {
    graph.fuse();
    Plan::new(vec![PlanBuilder::new(graph, options)?])
}

fn all_options() -> Vec<Options> {
    let mut all = Vec::new();
    for isa in Isa::all() {
        for (threads, winograd) in [(1, true), (1, false), (3, true)] {
            all.push(Options { isa, threads, winograd });
        }
    }
    all
}

/// Runs `graph` with every kernel and option, twice, and compares with the definitions; in fp16 too.
fn check(draw: GraphBuilder) {
    let GraphBuilder { graph, mut random } = draw;
    check_as::<f32>(&graph, &mut random, 2e-4);
    // Winograd's transforms cost fp16 numbers their last bits: now and then a tenth, a hundredth on average.
    check_as::<Half>(&graph, &mut random, 0.4);
}

fn check_as<E: Kernels>(graph: &Graph, random: &mut Random, error: f32) {
    let pictures: Vec<Vec<f32>> =
        (0..2).map(|_| random.numbers(graph.nodes[0].shape.iter().product())).collect();
    let expected: Vec<Vec<f32>> = pictures.iter().map(|picture| reference::run(graph, picture)).collect();
    for options in all_options().into_iter().filter(|options| size_of::<E>() == 4 || options.isa.has_half()) {
        let mut plan = plan::<E>(graph.clone(), options).unwrap();
        for (picture, expected) in pictures.iter().zip(&expected) {
            plan.input().copy_from_slice(picture);
            let (out, _) = plan.run(0.5);
            assert_eq!(out.len(), expected.len());
            let size = (expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32).sqrt();
            let off = out.iter().zip(expected).map(|(ours, theirs)| (ours - theirs).powi(2)).sum::<f32>();
            let off = (off / expected.len() as f32).sqrt();
            assert!(off <= error * size / 2.0 + 1e-6, "{options:?}: off by {off} in the mean of {size}");
            for (at, (ours, theirs)) in out.iter().zip(expected).enumerate() {
                let off = (ours - theirs).abs();
                assert!(off <= error * (size + theirs.abs()), "{options:?} at {at}: {ours} for {theirs}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_match_the_reference_at_any_size(
        seed: u64, channels in 1usize..40, out in 1usize..40, rows in 1usize..30, columns in 1usize..30,
        kernel in prop_oneof![Just(1usize), Just(3)], stride in 1usize..3, silu: bool, residual: bool
    ) {
        let mut draw = GraphBuilder::new(seed, channels, rows, columns);
        let other = draw.conv(0, out, 1, stride, 1);
        let mut x = draw.conv(0, out, kernel, stride, 1);
        if silu {
            x = draw.silu(x);
        }
        if residual {
            draw.sum(other, x);
        }
        check(draw);
    }

    #[test]
    fn depthwise_convolutions_match_the_reference(seed: u64, channels in 1usize..40, rows in 1usize..20, columns in 1usize..20) {
        let mut draw = GraphBuilder::new(seed, channels, rows, columns);
        let x = draw.conv(0, channels, 3, 1, channels);
        draw.silu(x);
        check(draw);
    }

    #[test]
    fn pooling_and_upsampling_match_the_reference(seed: u64, channels in 1usize..20, rows in 1usize..15, columns in 1usize..15, reach in 1usize..4) {
        let mut draw = GraphBuilder::new(seed, channels, rows, columns);
        let pooled = draw.add(Op::MaxPool { reach }, &[0], vec![1, channels, rows, columns]);
        draw.add(Op::Upsample, &[pooled], vec![1, channels, 2 * rows, 2 * columns]);
        check(draw);
    }

    #[test]
    fn yolo_blocks_match_the_reference(seed: u64, half in 1usize..4, rows in 2usize..14, columns in 2usize..14, more in 0usize..3) {
        let mut draw = GraphBuilder::new(seed, 3, 2 * rows, 2 * columns);
        let x = draw.conv(0, 8 * (1 + more), 3, 2, 1);
        let x = draw.silu(x);
        let x = draw.c3k2(x, 8 * half);
        let shape = draw.shape(x);
        let p1 = draw.add(Op::MaxPool { reach: 2 }, &[x], shape.clone());
        let p2 = draw.add(Op::MaxPool { reach: 2 }, &[p1], shape);
        let all = draw.concat(&[x, p1, p2], 1);
        let small = draw.conv(all, 16, 3, 2, 1);
        let near = draw.attention(small);
        let shape = draw.shape(near);
        let big = draw.add(Op::Upsample, &[near], vec![1, 16, 2 * shape[2], 2 * shape[3]]);
        // Both sizes match only where an even side was halved.
        if draw.shape(big)[2..] == draw.shape(x)[2..] {
            let both = draw.concat(&[big, x], 1);
            draw.c3k2(both, 8);
        }
        check(draw);
    }

    #[test]
    fn row_major_operations_match_the_reference(seed: u64, a in 1usize..7, b in 1usize..30, c in 1usize..30) {
        let mut draw = GraphBuilder::new(seed, a, b, c);
        let k = 1 + draw.random.below(30);
        let numbers = draw.random.numbers(a * c * k);
        let other = draw.add(Op::Const(numbers), &[], vec![1, a, c, k]);
        let product = draw.add(Op::MatMul, &[0, other], vec![1, a, b, k]);
        let axis = draw.random.below(4);
        let soft = draw.add(Op::Softmax { axis }, &[product], draw.shape(product));
        let turned = draw.add(Op::Transpose(vec![0, 2, 1, 3]), &[soft], vec![1, b, a, k]);
        let both = draw.concat(&[turned, turned], 3);
        let half = draw.slice(both, 3, k / 2, k);
        let numbers = draw.random.numbers(k);
        let line = draw.add(Op::Const(numbers.iter().map(|x| x + 2.0).collect()), &[], vec![k]);
        let all = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min];
        let op = all[draw.random.below(all.len())];
        let out = draw.add(Op::Binary(op), &[half, line], draw.shape(half));
        let gate = [Op::Sigmoid, Op::Silu][draw.random.below(2)].clone();
        draw.add(gate, &[out], draw.shape(out));
        check(draw);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Int8 is computed as defined; an input that lies between two steps may be rounded either way in fp16.
    #[test]
    fn int8_convolutions_match_the_reference(
        seed: u64, blocks in 1usize..5, out in 1usize..5, rows in 1usize..30, columns in 1usize..30,
        (kernel, stride) in prop_oneof![Just((1usize, 1usize)), Just((1, 2)), Just((3, 2)), Just((3, 3))],
        residual: bool, low in -1.0f32..0.0, high in 0.0f32..1.0
    ) {
        let mut draw = GraphBuilder::new(seed, 16 * blocks, rows, columns);
        let other = draw.conv(0, 16 * out, 1, stride, 1);
        let x = draw.conv(0, 16 * out, kernel, stride, 1);
        let x = draw.silu(x);
        if residual {
            draw.sum(other, x);
        }
        let GraphBuilder { mut graph, mut random } = draw;
        graph.fuse();
        let ids = graph.for_int8();
        prop_assert_eq!(ids.len(), 1);
        prop_assert_eq!(graph.set_int8(&Ranges::new()), 0);
        prop_assert_eq!(graph.set_int8(&Ranges::from([(graph.nodes[ids[0]].name.clone(), [low, high])])), 1);
        let picture = random.numbers(graph.nodes[0].shape.iter().product());
        let expected = reference::run(&graph, &picture);
        for options in all_options().into_iter().filter(|options| options.isa.has_int8()) {
            let mut plan = plan::<Half>(graph.clone(), options).unwrap();
            plan.input().copy_from_slice(&picture);
            let off = off(plan.run(0.5).0, &expected);
            prop_assert!(off < 0.005, "{options:?}: off by {off}");
        }
        let options = Options { isa: Isa::Portable, ..all_options()[0] };
        let refusal = plan::<Half>(graph, options).err().unwrap_or_default();
        prop_assert!(refusal.contains("int8"), "{refusal}");
    }
}

/// Mean difference relative to the mean magnitude.
fn off(ours: &[f32], theirs: &[f32]) -> f32 {
    let mean = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
    mean(&mut ours.iter().zip(theirs).map(|(a, b)| a - b)) / mean(&mut theirs.iter().copied())
}

/// The observed ranges suit int8: with them a network gives nearly the fp16 result, with a tenth of them something else.
#[test]
fn observed_ranges_suit_int8() {
    let mut draw = GraphBuilder::new(5, 3, 40, 36);
    let x = draw.conv(0, 16, 3, 2, 1);
    let x = draw.silu(x);
    let x = draw.conv(x, 32, 3, 2, 1);
    let x = draw.silu(x);
    let x = draw.c3k2(x, 16);
    draw.conv(x, 16, 1, 1, 1);
    let GraphBuilder { mut graph, mut random } = draw;
    graph.fuse();
    let picture = random.numbers(3 * 40 * 36);
    let mut observer = plan::<f32>(graph.clone(), all_options()[0]).unwrap();
    observer.input().copy_from_slice(&picture);
    let mut ranges = Ranges::new();
    observer.observe(&mut |name, numbers| {
        let [low, high] = ranges.entry(name.to_owned()).or_default();
        for x in numbers {
            (*low, *high) = (low.min(x), high.max(x));
        }
    });
    let ids = graph.for_int8();
    assert_eq!(ids.len(), 2, "the second one and that of the block: the others have no activation");
    assert!(ids.iter().all(|id| ranges.contains_key(&graph.nodes[*id].name)), "{ranges:?}");
    let tenth = ranges.iter().map(|(name, range)| (name.clone(), range.map(|x| x / 10.0))).collect();
    for options in all_options().into_iter().filter(|options| options.isa.has_int8()) {
        let mut plain = plan::<Half>(graph.clone(), options).unwrap();
        plain.input().copy_from_slice(&picture);
        let (expected, _) = plain.run(0.5);
        let run = |ranges: &Ranges| {
            let mut graph = graph.clone();
            assert_eq!(graph.set_int8(ranges), ids.len());
            let mut plan = plan::<Half>(graph, options).unwrap();
            let steps = plan.step_times(&mut || 0);
            assert_eq!(steps.iter().filter(|step| step.kernel == "int8").count(), ids.len());
            plan.input().copy_from_slice(&picture);
            off(plan.run(0.5).0, expected)
        };
        let (good, bad) = (run(&ranges), run(&tenth));
        assert!(
            good < 0.01 && bad > 5.0 * good,
            "{options:?}: off by {good}, with a tenth of the ranges by {bad}"
        );
    }
}

/// A network at several sizes in one plan gives the same result at each as alone, in any order, however many of its columns are computed;
/// another network is refused.
#[test]
fn sizes_share_weights_and_memory() {
    sizes_as::<f32>(None);
    sizes_as::<Half>(None);
    sizes_as::<Half>(Some([-0.3, 2.0]));
}

/// `range`: for all convolutions that suit int8.
fn sizes_as<E: Kernels>(range: Option<[f32; 2]>) {
    let network = |seed: u64, rows: usize, columns: usize| {
        let mut draw = GraphBuilder::new(seed, 3, rows, columns);
        let x = draw.conv(0, 16, 3, 2, 1);
        let x = draw.silu(x);
        let x = draw.c3k2(x, 16);
        let near = draw.silu(x);
        let far = draw.conv(near, 16, 3, 2, 1);
        let far = draw.silu(far);
        draw.head(&[near, far], 5, false);
        let mut graph = draw.graph;
        graph.fuse();
        if let Some(range) = range {
            let ids = graph.for_int8();
            let ranges = ids.iter().map(|id| (graph.nodes[*id].name.clone(), range)).collect();
            assert!(graph.set_int8(&ranges) >= 3);
        }
        graph
    };
    let sides = [(32, 48), (16, 24), (20, 8)];
    let graphs = sides.map(|(rows, columns)| network(9, rows, columns));
    let can = |options: &Options| {
        size_of::<E>() == 4 || if range.is_some() { options.isa.has_int8() } else { options.isa.has_half() }
    };
    for options in all_options().into_iter().filter(can) {
        let builder = |graph: &Graph| PlanBuilder::<E>::new(graph.clone(), options).unwrap();
        let builders = || {
            let mut builders: Vec<_> = graphs.iter().map(builder).collect();
            builders[1..].iter_mut().for_each(PlanBuilder::drop_weights);
            builders
        };
        let mut renamed = graphs[1].clone();
        let conv = renamed.nodes.iter_mut().rfind(|node| matches!(node.op, Op::Conv(_))).unwrap();
        conv.name.push('x');
        for other in [network(10, 16, 24), renamed] {
            assert!(Plan::new(vec![builder(&graphs[0]), builder(&other)]).is_err());
        }
        let mut plan = Plan::new(builders()).unwrap();
        let mut alone: Vec<_> = graphs.iter().map(|graph| Plan::new(vec![builder(graph)]).unwrap()).collect();
        let mut random = Random(3);
        let mut some = 0;
        for (turn, size) in [0, 2, 1, 1, 0, 2, 2, 0, 1, 0, 2].into_iter().enumerate() {
            plan.select(size);
            let picture = random.numbers(3 * sides[size].0 * sides[size].1);
            plan.input().copy_from_slice(&picture);
            alone[size].input().copy_from_slice(&picture);
            let score_min = [0.0, 0.7, 0.9, 0.6][turn % 4];
            let (out, columns) = plan.run(score_min);
            let expected = alone[size].run(score_min);
            assert_eq!((out, columns), expected, "{options:?} {turn} {size}");
            some += usize::from(score_min > 0.0 && columns > 0);
        }
        assert!(some > 2, "{options:?}: some columns are computed, not all");
    }
}

impl GraphBuilder {
    /// A head on the maps `on`, as YOLO11's: boxes by 3x3 convolutions and a 1x1 one, scores by a 1x1 one. `together`: boxes and scores of
    /// a map are stacked before they are flattened.
    fn head(&mut self, on: &[usize], classes: usize, together: bool) {
        let (mut boxes, mut scores, mut both, mut columns) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for map in on {
            let shape = self.shape(*map);
            let channels = 8 + 8 * self.random.below(2);
            let x = self.conv(*map, channels, 3, 1, 1);
            let x = self.silu(x);
            let x = self.conv(x, 16, 3, 1, 1);
            let x = self.silu(x);
            let x = self.conv(x, 4, 1, 1, 1);
            let mut s = self.conv(*map, classes, 1, 1, 1);
            // Scores that are stored row by row.
            if self.random.below(3) == 0 {
                let two = self.add(Op::Const(vec![2.0]), &[], vec![1, 1, 1, 1]);
                s = self.add(Op::Binary(Binary::Mul), &[s, two], self.shape(s));
            }
            let count = shape[2] * shape[3];
            columns += count;
            if together {
                let one = self.concat(&[x, s], 1);
                both.push(self.add(Op::Reshape, &[one], vec![1, 4 + classes, count]));
            } else {
                boxes.push(self.add(Op::Reshape, &[x], vec![1, 4, count]));
                scores.push(self.add(Op::Reshape, &[s], vec![1, classes, count]));
            }
        }
        let (x, s) = if together {
            let all = self.concat(&both, 2);
            (self.slice(all, 1, 0, 4), self.slice(all, 1, 4, classes))
        } else {
            (self.concat(&boxes, 2), self.concat(&scores, 2))
        };
        let numbers = self.random.numbers(columns);
        let places = self.add(Op::Const(numbers), &[], vec![1, 1, columns]);
        let x = self.add(Op::Binary(Binary::Add), &[x, places], vec![1, 4, columns]);
        let s = self.add(Op::Sigmoid, &[s], vec![1, classes, columns]);
        self.concat(&[x, s], 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A column is present if one of its scores reaches the threshold, with the numbers that the definitions give, whatever was picked in
    /// the previous run.
    #[test]
    fn lazy_heads_compute_only_anchors_that_reach_the_score(
        seed: u64, rows in 1usize..20, columns in 1usize..20, classes in 1usize..20, together: bool
    ) {
        let mut draw = GraphBuilder::new(seed, 8, rows, columns);
        let near = draw.conv(0, 16, 1, 1, 1);
        let far = draw.conv(near, 16, 3, 2, 1);
        draw.head(&[near, far], classes, together);
        let GraphBuilder { graph, mut random } = draw;
        heads_as::<f32>(&graph, &mut random, classes, 2e-3)?;
        heads_as::<Half>(&graph, &mut random, classes, 0.4)?;
    }
}

/// Runs a head in every variant with higher and lower thresholds; numbers may be `error` off.
fn heads_as<E: Kernels>(
    graph: &Graph,
    random: &mut Random,
    classes: usize,
    error: f32,
) -> Result<(), TestCaseError> {
    for options in all_options().into_iter().filter(|options| size_of::<E>() == 4 || options.isa.has_half()) {
        let mut plan = plan::<E>(graph.clone(), options).unwrap();
        prop_assert!(plan.is_sparse());
        for score_min in [0.3, 0.9, 0.6, 0.0, 0.999] {
            let picture = random.numbers(graph.nodes[0].shape.iter().product());
            let expected = reference::run(graph, &picture);
            let all = expected.len() / (4 + classes);
            plan.input().copy_from_slice(&picture);
            let (out, picked) = plan.run(score_min);
            prop_assert_eq!(out.len(), (4 + classes) * picked);
            let best_of =
                |column: usize| (4..4 + classes).map(|row| expected[row * all + column]).fold(0.0, f32::max);
            let above = |least: f32| (0..all).filter(|column| best_of(*column) > least).count();
            prop_assert!((above(score_min + error)..=above(score_min - error)).contains(&picked));
            // Columns can only be identified by exact numbers, or if all are present.
            if size_of::<E>() == 2 && picked < all {
                continue;
            }
            let mut at = 0;
            for column in 0..all {
                let number = |row: usize| expected[row * all + column];
                let same = at < picked
                    && (0..4 + classes).all(|row| {
                        (out[row * picked + at] - number(row)).abs() < error * (1.0 + number(row).abs())
                    });
                let best = best_of(column);
                prop_assert!(same || best < score_min + error, "{options:?} {score_min}: column {column}");
                at += usize::from(same && best > score_min - error);
            }
            prop_assert_eq!(at, picked, "{:?} {}", options, score_min);
        }
    }
    Ok(())
}

/// Heads whose boxes cannot be deferred, or only partly: on the picture itself, and with maps that two sources share.
#[test]
fn heads_that_cannot_be_deferred_are_computed_in_full() {
    for seed in 0..20 {
        let mut draw = GraphBuilder::new(seed, 3, 9, 11);
        draw.head(&[0], 3, false);
        let GraphBuilder { graph, mut random } = draw;
        heads_as::<f32>(&graph, &mut random, 3, 2e-3).unwrap();

        let mut draw = GraphBuilder::new(seed, 8, 9, 11);
        let x = draw.conv(0, 8, 3, 1, 1);
        let x = draw.conv(x, 4, 1, 1, 1);
        let s = draw.conv(0, 3, 1, 1, 1);
        let both = draw.concat(&[x, s], 1);
        let flat = draw.add(Op::Reshape, &[both], vec![1, 7, 99]);
        let (one, other) = (draw.concat(&[flat], 2), draw.concat(&[flat], 2));
        let (boxes, scores) = (draw.slice(one, 1, 0, 4), draw.slice(other, 1, 4, 3));
        let scores = draw.add(Op::Sigmoid, &[scores], vec![1, 3, 99]);
        draw.concat(&[boxes, scores], 1);
        let GraphBuilder { graph, mut random } = draw;
        heads_as::<f32>(&graph, &mut random, 3, 2e-3).unwrap();
    }
}

/// Slices that a concatenation cannot use in place: in another order, twice, overlapping, or only some of them.
#[test]
fn slices_are_concatenated_in_any_order() {
    for seed in 0..60 {
        let mut draw = GraphBuilder::new(seed, 8, 5, 6);
        let whole = draw.conv(0, 32, 1, 1, 1);
        let other = draw.conv(0, 16, 3, 1, 1);
        let mut parts = Vec::new();
        for _ in 0..2 + draw.random.below(4) {
            let start = 8 * draw.random.below(4);
            let len = 8 * (1 + draw.random.below(4 - start / 8));
            parts.push(match draw.random.below(4) {
                0 => other,
                1 => whole,
                _ => draw.slice(whole, 1, start, len),
            });
        }
        let all = draw.concat(&parts, 1);
        let used_again = draw.random.below(2) == 0;
        let mut x = draw.conv(all, 8, 3, 1, 1);
        if used_again {
            let again = draw.concat(&[parts[0], x, parts[1]], 1);
            x = draw.conv(again, 8, 3, 2, 1);
        }
        let _ = x;
        check(draw);
    }
}

#[test]
fn operations_without_a_kernel_are_named() {
    let mut draw = GraphBuilder::new(1, 8, 9, 9);
    let x = draw.conv(0, 8, 3, 1, 1);
    let Op::Conv(conv) = &mut draw.graph.nodes[x].op else { unreachable!("just added") };
    (conv.pad, draw.graph.nodes[x].shape) = ([2, 2], vec![1, 8, 11, 11]);
    let options = Options { isa: Isa::best(), threads: 1, winograd: true };
    let error = plan::<f32>(draw.graph, options).err().unwrap();
    assert!(error.contains("1: padding of 2 x 2"), "{error}");
}

/// The comparison can fail.
#[test]
#[should_panic(expected = "at ")]
fn a_wrong_weight_is_detected() {
    let mut draw = GraphBuilder::new(1, 16, 9, 9);
    let x = draw.conv(0, 16, 3, 1, 1);
    let expected = draw.graph.clone();
    let Op::Conv(conv) = &mut draw.graph.nodes[x].op else { unreachable!("just added") };
    conv.weights[40] += 0.01;
    let picture = draw.random.numbers(16 * 81);
    let mut plan = plan::<f32>(draw.graph, all_options()[0]).unwrap();
    plan.input().copy_from_slice(&picture);
    for (at, (ours, theirs)) in plan.run(0.5).0.iter().zip(reference::run(&expected, &picture)).enumerate() {
        assert!((ours - theirs).abs() < 2e-4, "at {at}");
    }
}
