//! A network as plain data: made by the importer from a model file, and turned into a plan.

use std::collections::BTreeMap;

use super::kernels::half::Half;
use super::kernels::int8;
use super::kernels::simd::Number as _;

/// Minimum and maximum input of convolutions, by their names.
pub type Ranges = BTreeMap<String, [f32; 2]>;

/// A network with one input and one output. Each node's inputs come before it.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The operations, in executable order.
    pub nodes: Vec<Node>,
    /// The node whose result is the output.
    pub output: usize,
}

/// An operation and its result.
#[derive(Debug, Clone)]
pub struct Node {
    /// Name for messages.
    pub name: String,
    /// The operation.
    pub op: Op,
    /// Indices of the nodes whose results it takes.
    pub inputs: Vec<usize>,
    /// Shape of the result; stored row by row.
    pub shape: Vec<usize>,
}

/// An operation. All numbers are `f32`.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The input picture.
    Input,
    /// A constant of the file.
    Const(Vec<f32>),
    /// A convolution in two dimensions of `[1, channels, rows, columns]`.
    Conv(Conv),
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x / (1 + e^-x)`.
    Silu,
    /// Element by element; an axis of length 1 is broadcast.
    Binary(Binary),
    /// Concatenation along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// A slice along an axis.
    Slice {
        /// The axis.
        axis: usize,
        /// The first element that stays; the length is that of the result.
        start: usize,
    },
    /// Reshape: the same numbers with another shape.
    Reshape,
    /// Transpose: axis `i` of the result is axis `[i]` of the input.
    Transpose(Vec<usize>),
    /// `[…, m, k]` times `[…, k, n]`.
    MatMul,
    /// Softmax along an axis.
    Softmax {
        /// The axis.
        axis: usize,
    },
    /// Max pooling with a square window at stride 1, `2 * reach + 1` pixels a side.
    MaxPool {
        /// How far the window reaches to each side.
        reach: usize,
    },
    /// Nearest-neighbour upsampling by 2 in both directions.
    Upsample,
}

/// A convolution; the second input, if there is one, is added to its result after the activation.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    /// `[output channel][input channel of the group][row][column]`.
    pub weights: Vec<f32>,
    /// One per output channel.
    pub bias: Vec<f32>,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Strides down and across.
    pub stride: [usize; 2],
    /// Zero padding above and to the left of the picture; the same on the other sides.
    pub pad: [usize; 2],
    /// Number of channel groups.
    pub groups: usize,
    /// Whether `x / (1 + e^-x)` is applied to the sums.
    pub silu: bool,
    /// How its input is quantised, if it is computed in int8.
    pub int8: Option<Bytes>,
}

/// Quantisation: `byte = round(x * per_one) + zero`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bytes {
    /// Steps per 1.0; an fp16 number, so that nothing is lost where it is multiplied.
    pub per_one: f32,
    /// The zero point.
    pub zero: i16,
}

impl Bytes {
    /// The quantisation that spreads `low..=high`, extended to include 0, over all bytes.
    pub fn over(low: f32, high: f32) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let per_one = Half::of(255.0 / (high - low).clamp(0.01, 60_000.0)).to();
        Bytes { per_one, zero: -128 - (low * per_one).round() as i16 }
    }
}

impl Conv {
    /// Whether it can and should be computed in int8: not for 3x3 at stride 1, where fp16 Winograd is as fast; not without an activation,
    /// where attention and the head add up their results.
    pub fn is_for_int8(&self, in_channels: usize) -> bool {
        let channels = self.bias.len();
        let is_one = self.kernel == [1, 1] && self.pad == [0, 0];
        let is_strided = self.kernel == [3, 3] && self.stride != [1, 1] && self.pad == [1, 1];
        self.groups == 1
            && self.silu
            && (is_one || is_strided)
            && in_channels * self.kernel[0] * self.kernel[1] <= int8::PRODUCTS_MAX
            && channels.is_multiple_of(int8::BLOCK)
            && in_channels.is_multiple_of(int8::BLOCK)
    }
}

/// A binary operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// Maximum.
    Max,
    /// Minimum.
    Min,
}

impl Binary {
    /// Its result.
    pub fn of(self, a: f32, b: f32) -> f32 {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Max => a.max(b),
            Binary::Min => a.min(b),
        }
    }
}

impl Graph {
    /// The users of each node's result.
    pub fn users(&self) -> Vec<Vec<usize>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                users[*input].push(id);
            }
        }
        users
    }

    /// Multiply-accumulates with weights for one picture.
    pub fn macs(&self) -> u64 {
        let one = |node: &Node| match &node.op {
            Op::Conv(conv) => {
                let pixels: usize = node.shape[2..].iter().product();
                (conv.weights.len() * pixels) as u64
            }
            Op::MatMul => {
                let k = self.nodes[node.inputs[0]].shape.last().copied().unwrap_or(0);
                (node.shape.iter().product::<usize>() * k) as u64
            }
            _ => 0,
        };
        self.nodes.iter().map(one).sum()
    }

    /// Fuses operations into one node: an activation after a convolution, and a sum after that. A convolution whose result is only used in
    /// slices becomes one for each. Unused nodes are removed.
    pub fn fuse(&mut self) {
        self.find_silu();
        self.silu_into_conv();
        self.split_sliced();
        self.add_into_conv();
        self.sweep();
    }

    /// `x * sigmoid(x)`.
    fn find_silu(&mut self) {
        for id in 0..self.nodes.len() {
            if self.nodes[id].op != Op::Binary(Binary::Mul) {
                continue;
            }
            let [a, b] = self.nodes[id].inputs[..] else { continue };
            for (x, gate) in [(a, b), (b, a)] {
                if self.nodes[gate].op == Op::Sigmoid && self.nodes[gate].inputs == [x] {
                    (self.nodes[id].op, self.nodes[id].inputs) = (Op::Silu, vec![x]);
                    break;
                }
            }
        }
        self.sweep();
    }

    fn silu_into_conv(&mut self) {
        let users = self.users();
        for (id, users) in users.iter().enumerate() {
            let Op::Conv(conv) = &self.nodes[id].op else { continue };
            let [user] = users[..] else { continue };
            if self.nodes[user].op == Op::Silu && !conv.silu && id != self.output {
                let mut conv = conv.clone();
                conv.silu = true;
                let inputs = self.nodes[id].inputs.clone();
                (self.nodes[user].op, self.nodes[user].inputs) = (Op::Conv(conv), inputs);
            }
        }
        self.sweep();
    }

    /// Slices of a convolution's result along its channels, unless they are concatenated again in the same order.
    fn split_sliced(&mut self) {
        let users = self.users();
        for id in 0..self.nodes.len() {
            let Op::Conv(conv) = &self.nodes[id].op else { continue };
            let slices = &users[id];
            let start = |id: &usize| match self.nodes[*id].op {
                Op::Slice { axis: 1, start } if start % 8 == 0 => Some(start),
                _ => None,
            };
            if conv.groups != 1
                || self.nodes[id].inputs.len() != 1
                || slices.is_empty()
                || !slices.iter().all(|slice| start(slice).is_some())
                || self.joined_again(slices, &users)
            {
                continue;
            }
            let conv = conv.clone();
            let per_channel = conv.weights.len() / conv.bias.len();
            let starts: Vec<_> = slices.iter().map(|slice| (*slice, start(slice).unwrap_or(0))).collect();
            for (slice, start) in starts {
                let end = start + self.nodes[slice].shape[1];
                let part = Conv {
                    weights: conv.weights[start * per_channel..end * per_channel].to_vec(),
                    bias: conv.bias[start..end].to_vec(),
                    ..conv.clone()
                };
                (self.nodes[slice].op, self.nodes[slice].inputs) =
                    (Op::Conv(part), self.nodes[id].inputs.clone());
            }
        }
        self.sweep();
    }

    /// Whether a concatenation contains all of `slices` in their order, next to each other.
    fn joined_again(&self, slices: &[usize], users: &[Vec<usize>]) -> bool {
        let mut sorted = slices.to_vec();
        sorted.sort_by_key(|slice| match self.nodes[*slice].op {
            Op::Slice { start, .. } => start,
            _ => 0,
        });
        users[sorted[0]].iter().any(|user| {
            let node = &self.nodes[*user];
            node.op == Op::Concat { axis: 1 }
                && node.inputs.windows(sorted.len()).any(|inputs| inputs == sorted)
        })
    }

    /// Drops the weights; everything else stays.
    pub fn drop_weights(&mut self) {
        for node in &mut self.nodes {
            if let Op::Conv(conv) = &mut node.op {
                conv.weights = Vec::new();
            }
        }
    }

    /// The convolutions that suit int8.
    pub fn for_int8(&self) -> Vec<usize> {
        let is_one = |id: &usize| match &self.nodes[*id] {
            Node { op: Op::Conv(conv), inputs, .. } => {
                self.nodes[inputs[0]].shape.get(1).is_some_and(|channels| conv.is_for_int8(*channels))
            }
            _ => false,
        };
        (0..self.nodes.len()).filter(is_one).collect()
    }

    /// Sets them to int8, with the ranges of their inputs; those without a range stay as they are. Returns how many have one. The graph is
    /// fused.
    pub fn set_int8(&mut self, ranges: &Ranges) -> usize {
        let mut count = 0;
        for id in self.for_int8() {
            let Node { name, op: Op::Conv(conv), .. } = &mut self.nodes[id] else { continue };
            if let Some([low, high]) = ranges.get(name) {
                conv.int8 = Some(Bytes::over(*low, *high));
                count += 1;
            }
        }
        count
    }

    /// `a + conv`, where `a` is computed before the convolution.
    fn add_into_conv(&mut self) {
        let users = self.users();
        for id in 0..self.nodes.len() {
            if self.nodes[id].op != Op::Binary(Binary::Add) || self.nodes[id].shape.len() != 4 {
                continue;
            }
            let [a, b] = self.nodes[id].inputs[..] else { continue };
            for (other, conv) in [(a, b), (b, a)] {
                let same = self.nodes[other].shape == self.nodes[id].shape
                    && self.nodes[conv].shape == self.nodes[id].shape;
                if matches!(self.nodes[conv].op, Op::Conv(_))
                    && self.nodes[conv].inputs.len() == 1
                    && users[conv] == [id]
                    && same
                    && conv != other
                {
                    // The sum comes after both.
                    let inputs = vec![self.nodes[conv].inputs[0], other];
                    (self.nodes[id].op, self.nodes[id].inputs) = (self.nodes[conv].op.clone(), inputs);
                    break;
                }
            }
        }
    }

    /// Removes nodes that the output does not need.
    fn sweep(&mut self) {
        let mut needed = vec![false; self.nodes.len()];
        needed[self.output] = true;
        for id in (0..self.nodes.len()).rev() {
            if needed[id] {
                for input in &self.nodes[id].inputs {
                    needed[*input] = true;
                }
            }
        }
        let mut place = vec![usize::MAX; self.nodes.len()];
        let mut kept = Vec::with_capacity(self.nodes.len());
        for (id, mut node) in std::mem::take(&mut self.nodes).into_iter().enumerate() {
            if needed[id] || node.op == Op::Input {
                for input in &mut node.inputs {
                    *input = place[*input];
                }
                place[id] = kept.len();
                kept.push(node);
            }
        }
        (self.nodes, self.output) = (kept, place[self.output]);
    }
}
