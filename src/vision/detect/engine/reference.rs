//! Reference implementation of a graph, number by number: slow; the plan is compared with it.

use super::graph::{Bytes, Conv, Graph, Node, Op};

/// The output of `graph` for `picture`.
pub(super) fn run(graph: &Graph, picture: &[f32]) -> Vec<f32> {
    let mut results: Vec<Vec<f32>> = Vec::new();
    for node in &graph.nodes {
        let result = node_result(graph, node, &results, picture);
        let len: usize = node.shape.iter().product();
        assert_eq!(result.len(), len, "{}", node.name);
        results.push(result);
    }
    results.swap_remove(graph.output)
}

fn node_result(graph: &Graph, node: &Node, results: &[Vec<f32>], picture: &[f32]) -> Vec<f32> {
    let input = |index: usize| &results[node.inputs[index]][..];
    let shape_of = |index: usize| &graph.nodes[node.inputs[index]].shape[..];
    let len: usize = node.shape.iter().product();
    let each = |number: &dyn Fn(&[usize]) -> f32| -> Vec<f32> {
        (0..len).map(|at| number(&index_of(at, &node.shape))).collect()
    };
    match &node.op {
        Op::Input => picture.to_vec(),
        Op::Const(numbers) => numbers.clone(),
        Op::Conv(conv) => {
            let mut sums = convolution(conv, input(0), shape_of(0), &node.shape);
            if node.inputs.len() == 2 {
                sums.iter_mut().zip(input(1)).for_each(|(sum, other)| *sum += other);
            }
            sums
        }
        Op::Sigmoid => input(0).iter().map(|x| sigmoid(*x)).collect(),
        Op::Silu => input(0).iter().map(|x| x * sigmoid(*x)).collect(),
        Op::Binary(op) => each(&|index| {
            let number = |which: usize| {
                let shape = shape_of(which);
                let index = &index[index.len() - shape.len()..];
                let index: Vec<usize> =
                    index.iter().zip(shape).map(|(i, side)| if *side == 1 { 0 } else { *i }).collect();
                input(which)[place_of(&index, shape)]
            };
            op.of(number(0), number(1))
        }),
        Op::Concat { axis } => each(&|index| {
            let (mut index, mut which) = (index.to_vec(), 0);
            while index[*axis] >= shape_of(which)[*axis] {
                index[*axis] -= shape_of(which)[*axis];
                which += 1;
            }
            input(which)[place_of(&index, shape_of(which))]
        }),
        Op::Slice { axis, start } => each(&|index| {
            let mut index = index.to_vec();
            index[*axis] += start;
            input(0)[place_of(&index, shape_of(0))]
        }),
        Op::Reshape => input(0).to_vec(),
        Op::Transpose(axes) => each(&|index| {
            let mut from = vec![0; index.len()];
            axes.iter().zip(index).for_each(|(axis, i)| from[*axis] = *i);
            input(0)[place_of(&from, shape_of(0))]
        }),
        Op::MatMul => each(&|index| {
            let (batch, [row, column]) = index.split_at(index.len() - 2) else { unreachable!("two sides") };
            let at = |which: usize, last: [usize; 2]| {
                input(which)[place_of(&[batch, &last].concat(), shape_of(which))]
            };
            let k = shape_of(0)[index.len() - 1];
            (0..k).map(|k| f64::from(at(0, [*row, k])) * f64::from(at(1, [k, *column]))).sum::<f64>() as f32
        }),
        Op::Softmax { axis } => softmax(input(0), &node.shape, *axis),
        Op::MaxPool { reach } => each(&|index| greatest(input(0), &node.shape, index, *reach)),
        Op::Upsample => {
            each(&|index| input(0)[place_of(&[index[0], index[1], index[2] / 2, index[3] / 2], shape_of(0))])
        }
    }
}

fn softmax(x: &[f32], shape: &[usize], axis: usize) -> Vec<f32> {
    let one = |at: usize| {
        let index = index_of(at, shape);
        let along = |i: usize| {
            let mut index = index.clone();
            index[axis] = i;
            f64::from(x[place_of(&index, shape)])
        };
        let greatest = (0..shape[axis]).map(along).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..shape[axis]).map(|i| (along(i) - greatest).exp()).sum();
        ((along(index[axis]) - greatest).exp() / sum) as f32
    };
    (0..x.len()).map(one).collect()
}

fn greatest(x: &[f32], shape: &[usize], index: &[usize], reach: usize) -> f32 {
    let near = |i: usize, side: usize| i.saturating_sub(reach)..(i + reach + 1).min(side);
    let rows = near(index[2], shape[2]);
    let pixels = rows.flat_map(|row| near(index[3], shape[3]).map(move |column| (row, column)));
    let numbers = pixels.map(|(row, column)| x[place_of(&[index[0], index[1], row, column], shape)]);
    numbers.fold(f32::NEG_INFINITY, f32::max)
}

fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

fn index_of(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (axis, side) in shape.iter().enumerate().rev() {
        index[axis] = at % side;
        at /= side;
    }
    index
}

fn place_of(index: &[usize], shape: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |at, (i, side)| at * side + i)
}

fn convolution(conv: &Conv, x: &[f32], from: &[usize], to: &[usize]) -> Vec<f32> {
    if let Some(bytes) = conv.int8 {
        let (x, weights) = (x.iter().map(|x| as_byte(bytes, *x)).collect::<Vec<_>>(), weights_as_bytes(conv));
        return convolution(&Conv { int8: None, weights, ..conv.clone() }, &x, from, to);
    }
    let [high, wide] = conv.kernel;
    let (in_group, out_group) = (from[1] / conv.groups, to[1] / conv.groups);
    let mut sums = Vec::with_capacity(to.iter().product());
    for out in 0..to[1] {
        for row in 0..to[2] {
            for column in 0..to[3] {
                let mut sum = f64::from(conv.bias[out]);
                for channel in 0..in_group {
                    for y in 0..high {
                        for x_tap in 0..wide {
                            let (r, c) = (row * conv.stride[0] + y, column * conv.stride[1] + x_tap);
                            let inside = (conv.pad[0]..from[2] + conv.pad[0]).contains(&r)
                                && (conv.pad[1]..from[3] + conv.pad[1]).contains(&c);
                            if inside {
                                let channel_in = out / out_group * in_group + channel;
                                let at = (channel_in * from[2] + r - conv.pad[0]) * from[3] + c - conv.pad[1];
                                let w = conv.weights[((out * in_group + channel) * high + y) * wide + x_tap];
                                sum += f64::from(x[at]) * f64::from(w);
                            }
                        }
                    }
                }
                let sum = sum as f32;
                sums.push(if conv.silu { sum * sigmoid(sum) } else { sum });
            }
        }
    }
    sums
}

/// A number after quantisation to a byte and back.
fn as_byte(bytes: Bytes, x: f32) -> f32 {
    let byte = (x * bytes.per_one).round_ties_even() + f32::from(bytes.zero);
    (byte.clamp(-128.0, 127.0) - f32::from(bytes.zero)) / bytes.per_one
}

/// The same for weights: 127 steps to the maximum of an output channel.
fn weights_as_bytes(conv: &Conv) -> Vec<f32> {
    let of_channel = |weights: &[f32]| {
        let step = weights.iter().fold(0.0f32, |most, w| most.max(w.abs())) / 127.0;
        weights.iter().map(|w| (w / step).round_ties_even() * step).collect::<Vec<_>>()
    };
    conv.weights.chunks(conv.weights.len() / conv.bias.len()).flat_map(of_channel).collect()
}
