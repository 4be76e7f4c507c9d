//! How weights lie for the kernels. They are packed when there is memory for them, convolution by convolution, and the graph loses
//! them on the way.

use super::super::super::graph::{Graph, Op};
use super::super::super::kernels::{Kernels, winograd};
use super::{At, WEIGHTS};

/// Numbers that are kept.
pub(super) enum What {
    /// These.
    Numbers(Vec<f32>),
    /// A convolution's for the direct kernel.
    Direct { node: usize, taps: usize, channels: usize, in_channels: usize, a_block: usize },
    /// A 3x3 convolution's for Winograd's method.
    Winograd { node: usize, channels: usize, in_channels: usize },
}

impl What {
    /// How many they are when they are packed.
    pub(super) fn len(&self) -> usize {
        match self {
            What::Numbers(numbers) => numbers.len(),
            What::Direct { taps, channels, in_channels, a_block, .. } => {
                channels.next_multiple_of(8) * in_channels.next_multiple_of(*a_block) * taps
            }
            What::Winograd { channels, in_channels, .. } => {
                channels.next_multiple_of(16) * in_channels.next_multiple_of(8) * winograd::PLACES
            }
        }
    }

    /// Packs them. The node's weights are gone then.
    fn packed(self, graph: &mut Graph) -> Vec<f32> {
        let mut take = |node: usize| match &mut graph.nodes[node].op {
            Op::Conv(conv) => std::mem::take(&mut conv.weights),
            _ => Vec::new(),
        };
        match self {
            What::Numbers(numbers) => numbers,
            What::Direct { node, taps, channels, in_channels, a_block } => {
                pack_direct(&take(node), channels, in_channels, a_block, taps)
            }
            What::Winograd { node, channels, in_channels } => {
                pack_winograd(&take(node), channels, in_channels)
            }
        }
    }
}

/// All that is kept, and where.
#[derive(Default)]
pub(super) struct Weights {
    kept: Vec<(usize, What)>,
    /// Numbers of all.
    pub(super) len: usize,
}

impl Weights {
    /// A place for `what`, which are `len` numbers, at a cache line.
    pub(super) fn keep<E: Kernels>(&mut self, len: usize, what: What) -> At {
        let offset = self.len;
        self.kept.push((offset, what));
        self.len = (offset + len).next_multiple_of(64 / size_of::<E>());
        At { buffer: WEIGHTS, offset }
    }

    /// The same for a convolution's in the direct kernel: a node and its taps, output channels, input channels and how many of them
    /// are a block.
    pub(super) fn direct<E: Kernels>(
        &mut self,
        (node, taps): (usize, usize),
        channels: usize,
        (in_channels, a_block): (usize, usize),
    ) -> At {
        let what = What::Direct { node, taps, channels, in_channels, a_block };
        self.keep::<E>(what.len(), what)
    }

    /// Packs all of them.
    ///
    /// # Safety
    /// `to` has room for `len` numbers, and nobody else has it.
    pub(super) unsafe fn pack<E: Kernels>(self, graph: &mut Graph, to: *mut E) {
        for (offset, what) in self.kept {
            let len = what.len();
            let packed = what.packed(graph);
            assert_eq!(packed.len(), len, "as many as there is room for");
            for (at, number) in packed.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { to.add(offset + at).write(E::of(number)) };
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
    let mut packed = vec![0.0; out_blocks * winograd::PLACES * in_wide * 16];
    for out in 0..channels {
        for channel in 0..in_channels {
            let kernel = weights[(out * in_channels + channel) * 9..][..9].try_into().expect("nine of them");
            for (place, number) in winograd::transform_weights(kernel).into_iter().enumerate() {
                let at = ((out / 16 * winograd::PLACES + place) * in_wide + channel) * 16 + out % 16;
                packed[at] = number;
            }
        }
    }
    packed
}
