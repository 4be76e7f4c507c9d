//! Layout of the weights. They are packed when there is memory for them, convolution by convolution, and removed from the graph on the way.

use super::super::super::graph::{Bytes, Conv, Graph, Node, Op};
use super::super::super::kernels::{Kernels, int8, winograd};
use super::bind::{At, WEIGHTS};

/// Constants that are kept.
pub(super) enum PackedKind {
    /// Plain constants.
    Numbers(Vec<f32>),
    /// Weights of a convolution for the direct kernel.
    Direct { node: usize, taps: usize, channels: usize, in_channels: usize, a_block: usize },
    /// Weights of a 3x3 convolution for Winograd's method.
    Winograd { node: usize, channels: usize, in_channels: usize },
    /// Weights of an int8 convolution, with its biases and scales: see [`Int8Parts`].
    Int8 { node: usize, parts: Int8Parts },
}

/// The data of an int8 convolution, in this order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int8Parts {
    pub(super) channels: usize,
    pub(super) in_channels: usize,
    pub(super) taps: usize,
}

impl Int8Parts {
    const fn weights(self) -> usize {
        self.channels * self.in_channels * self.taps
    }

    /// Offsets of biases and scales, and the end, in bytes.
    pub(super) const fn offsets(self) -> [usize; 3] {
        let weights = self.weights();
        [weights, weights + 4 * self.channels, weights + 8 * self.channels]
    }
}

/// Packed numbers.
enum Packed {
    Numbers(Vec<f32>),
    Bytes(Vec<u8>),
}

impl PackedKind {
    /// Length after packing.
    pub(super) fn len<E>(&self) -> usize {
        match self {
            PackedKind::Int8 { parts, .. } => parts.offsets()[2] / size_of::<E>(),
            PackedKind::Numbers(numbers) => numbers.len(),
            PackedKind::Direct { taps, channels, in_channels, a_block, .. } => {
                channels.next_multiple_of(8) * in_channels.next_multiple_of(*a_block) * taps
            }
            PackedKind::Winograd { channels, in_channels, .. } => {
                channels.next_multiple_of(16) * in_channels.next_multiple_of(8) * winograd::POSITIONS
            }
        }
    }

    /// Whether both are packed from the same node in the same way. `graphs`: the graphs of the nodes.
    fn equals(&self, graphs: (&Graph, &Graph), other: &Self) -> bool {
        let node = |(graph, what): (&Graph, &Self)| match what {
            PackedKind::Numbers(_) => None,
            PackedKind::Direct { node, .. }
            | PackedKind::Winograd { node, .. }
            | PackedKind::Int8 { node, .. } => {
                let Node { name, op, .. } = &graph.nodes[*node];
                let more = match op {
                    Op::Conv(conv) => Some((conv.bias.clone(), conv.int8)),
                    _ => None,
                };
                Some((name.clone(), more))
            }
        };
        let how = |what: &Self| match what {
            PackedKind::Numbers(numbers) => (0, [numbers.len(), 0, 0, 0]),
            PackedKind::Direct { taps, channels, in_channels, a_block, .. } => {
                (1, [*channels, *in_channels, *taps, *a_block])
            }
            PackedKind::Winograd { channels, in_channels, .. } => (2, [*channels, *in_channels, 0, 0]),
            PackedKind::Int8 { parts, .. } => (3, [parts.channels, parts.in_channels, parts.taps, 0]),
        };
        let same_numbers = match (self, other) {
            (PackedKind::Numbers(ours), PackedKind::Numbers(theirs)) => ours == theirs,
            _ => true,
        };
        same_numbers && how(self) == how(other) && node((graphs.0, self)) == node((graphs.1, other))
    }

    /// Packs them. Removes the node's weights.
    fn packed(self, graph: &mut Graph) -> Packed {
        let mut take = |node: usize| match &mut graph.nodes[node].op {
            Op::Conv(conv) => std::mem::take(&mut conv.weights),
            _ => Vec::new(),
        };
        Packed::Numbers(match self {
            PackedKind::Numbers(numbers) => numbers,
            PackedKind::Direct { node, taps, channels, in_channels, a_block } => {
                pack_direct(&take(node), channels, in_channels, a_block, taps)
            }
            PackedKind::Winograd { node, channels, in_channels } => {
                pack_winograd(&take(node), channels, in_channels)
            }
            PackedKind::Int8 { node, parts } => {
                let weights = take(node);
                let Op::Conv(conv @ Conv { int8: Some(bytes), .. }) = &graph.nodes[node].op else {
                    unreachable!("the planner chose a node with weights");
                };
                return Packed::Bytes(pack_int8(&weights, &conv.bias, *bytes, parts));
            }
        })
    }
}

/// All constants that are kept, with their offsets.
#[derive(Default)]
pub(super) struct Weights {
    kept: Vec<(usize, PackedKind)>,
    /// Total length.
    pub(super) len: usize,
}

impl Weights {
    /// Reserves space for `what`, aligned to a cache line.
    pub(super) fn keep<E: Kernels>(&mut self, what: PackedKind) -> At {
        let offset = self.len;
        self.len = (offset + what.len::<E>()).next_multiple_of(64 / size_of::<E>());
        self.kept.push((offset, what));
        At { buffer: WEIGHTS, offset }
    }

    /// The same for a convolution with the direct kernel: a node and its taps, output channels, input channels and input channels per
    /// block.
    pub(super) fn direct<E: Kernels>(
        &mut self,
        (node, taps): (usize, usize),
        channels: usize,
        (in_channels, a_block): (usize, usize),
    ) -> At {
        self.keep::<E>(PackedKind::Direct { node, taps, channels, in_channels, a_block })
    }

    /// Whether `other` keeps the same constants at the same offsets. `graphs`: the graphs of the nodes.
    pub(super) fn equal(&self, graphs: (&Graph, &Graph), other: &Self) -> bool {
        let same = |(ours, theirs): (&(usize, PackedKind), &(usize, PackedKind))| {
            ours.0 == theirs.0 && ours.1.equals(graphs, &theirs.1)
        };
        let kept = (self.kept.len(), self.len) == (other.kept.len(), other.len);
        kept && self.kept.iter().zip(&other.kept).all(same)
    }

    /// Packs all of them.
    ///
    /// # Safety
    /// `to` has room for `len` numbers, and nobody else uses it.
    pub(super) unsafe fn pack<E: Kernels>(self, graph: &mut Graph, to: *mut E) {
        for (offset, what) in self.kept {
            let len = what.len::<E>();
            match what.packed(graph) {
                Packed::Numbers(numbers) => {
                    assert_eq!(numbers.len(), len, "as many as there is room for");
                    for (at, number) in numbers.into_iter().enumerate() {
                        // SAFETY: the caller guarantees it.
                        unsafe { to.add(offset + at).write(E::of(number)) };
                    }
                }
                Packed::Bytes(bytes) => {
                    assert_eq!(bytes.len(), len * size_of::<E>(), "as many as there is room for");
                    // SAFETY: the caller guarantees it; they do not overlap.
                    unsafe {
                        to.add(offset).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                    };
                }
            }
        }
    }
}

/// `[output block of 16, the last perhaps of 8][input block][tap][channel][output channel]` of `[output][input][tap]`.
fn pack_direct(
    weights: &[f32],
    channels: usize,
    in_channels: usize,
    a_block: usize,
    taps: usize,
) -> Vec<f32> {
    let in_blocks = in_channels.div_ceil(a_block);
    let out_blocks = channels.div_ceil(8);
    let mut packed = Vec::with_capacity(out_blocks * 8 * in_blocks * a_block * taps);
    let mut block = 0;
    while block < out_blocks {
        let wide = if out_blocks - block >= 2 { 16 } else { 8 };
        for in_block in 0..in_blocks {
            for tap in 0..taps {
                for lane in 0..a_block {
                    for out in block * 8..block * 8 + wide {
                        let channel = in_block * a_block + lane;
                        let inside = out < channels && channel < in_channels;
                        packed.push(if inside {
                            weights[(out * in_channels + channel) * taps + tap]
                        } else {
                            0.0
                        });
                    }
                }
            }
        }
        block += wide / 8;
    }
    packed
}

/// `[output block of 16][36][input channel][16]` of `[output][input][9]`.
fn pack_winograd(weights: &[f32], channels: usize, in_channels: usize) -> Vec<f32> {
    let (out_blocks, in_wide) = (channels.div_ceil(16), in_channels.next_multiple_of(8));
    let mut packed = vec![0.0; out_blocks * winograd::POSITIONS * in_wide * 16];
    for out in 0..channels {
        for channel in 0..in_channels {
            let kernel = weights[(out * in_channels + channel) * 9..][..9].try_into().expect("nine of them");
            for (position, number) in winograd::transform_weights(kernel).into_iter().enumerate() {
                let at = ((out / 16 * winograd::POSITIONS + position) * in_wide + channel) * 16 + out % 16;
                packed[at] = number;
            }
        }
    }
    packed
}

/// See [`Int8Parts`]; the weights are `[output block of 16][input block of 16][tap][4][output channel][4 input channels]`.
fn pack_int8(weights: &[f32], bias: &[f32], bytes: Bytes, parts: Int8Parts) -> Vec<u8> {
    let Int8Parts { channels, in_channels, taps } = parts;
    let per_channel = in_channels * taps;
    let mut packed = vec![0; parts.weights()];
    let (mut biases, mut scales) = (Vec::new(), Vec::new());
    for out in 0..channels {
        let (weights, bias) = (&weights[out * per_channel..][..per_channel], bias[out]);
        let most = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        // So that the bias fits as well, whatever the weights are.
        let step = (most / 127.0).max(bias.abs() * bytes.per_one / (1 << 28) as f32).max(1e-30);
        let mut sum = 0;
        for (at, w) in weights.iter().enumerate() {
            let (channel, tap) = (at / taps, at % taps);
            let byte = (w / step).round_ties_even().clamp(-127.0, 127.0) as i8;
            sum += i32::from(byte);
            let block = out / int8::BLOCK * (in_channels / int8::BLOCK) + channel / int8::BLOCK;
            let four =
                ((block * taps + tap) * 4 + channel % int8::BLOCK / 4) * int8::BLOCK + out % int8::BLOCK;
            packed[four * 4 + channel % 4] = byte.cast_unsigned();
        }
        biases.push((bias * bytes.per_one / step).round() as i32 - i32::from(bytes.zero) * sum);
        scales.push(step / bytes.per_one);
    }
    packed.extend(biases.into_iter().flat_map(i32::to_ne_bytes));
    packed.extend(scales.into_iter().flat_map(f32::to_ne_bytes));
    packed
}
