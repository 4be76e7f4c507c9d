//! A planned graph without memory, and its binding to memory.

use super::super::super::graph::Graph;
use super::super::super::kernels::{Act, Kernels, TensorPtr};
use super::super::memory::Memory;
use super::super::step::{ActiveTiles, Border, Kind, Step};
use super::weights::Weights;

/// A position by buffer and offset, before the arena has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) buffer: usize,
    pub(super) offset: usize,
}

/// A tensor in blocks of 8 channels with a border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) buffer: usize,
    /// Its first block in the buffer.
    pub(super) first: usize,
    pub(super) blocks: usize,
    /// Columns and rows.
    pub(super) size: (usize, usize),
}

impl Blocks {
    pub(super) fn row_stride(&self) -> usize {
        (self.size.0 + 2) * 8
    }

    pub(super) fn block_stride(&self) -> usize {
        self.row_stride() * (self.size.1 + 2)
    }

    /// Offset of pixel (0, 0) in the buffer.
    pub(super) fn offset(&self) -> usize {
        self.first * self.block_stride() + self.row_stride() + 8
    }
}

/// The addresses of all buffers.
pub(super) struct Bind<'a, E> {
    /// Offsets by buffer, in `f32` from the start of the arena.
    pub(super) offsets: &'a [usize],
    pub(super) arena: *mut f32,
    pub(super) constants: *mut f32,
    pub(super) weights: *mut E,
}

impl<E: Kernels> Bind<'_, E> {
    /// For the sizes of a step's results.
    pub(super) const fn nowhere() -> Self {
        let null = std::ptr::null_mut();
        Bind { offsets: &[], arena: null, constants: null, weights: std::ptr::null_mut() }
    }

    /// The address of a row-major tensor.
    pub(super) fn rows(&self, at: At) -> *mut f32 {
        match at.buffer {
            CONSTANTS => self.constants.wrapping_add(at.offset),
            buffer => self.arena.wrapping_add(self.offsets[buffer] + at.offset),
        }
    }

    /// Numbers of the picture's type.
    pub(super) fn numbers(&self, at: At) -> *mut E {
        match at.buffer {
            WEIGHTS => self.weights.wrapping_add(at.offset),
            buffer => {
                let offset = self.offsets.get(buffer).copied().unwrap_or(0);
                self.arena.wrapping_add(offset).cast::<E>().wrapping_add(at.offset)
            }
        }
    }

    pub(super) fn blocks(&self, blocks: Blocks) -> TensorPtr<E> {
        TensorPtr {
            first: self.numbers(At { buffer: blocks.buffer, offset: blocks.offset() }),
            row_stride: blocks.row_stride(),
            block_stride: blocks.block_stride(),
        }
    }
}

/// Other data that steps point to.
pub(super) struct Tables<'a> {
    /// The numbers of tiles, from 0.
    pub(super) numbers: *const u32,
    pub(super) active: &'a [ActiveTiles],
}

/// Makes a step once its memory has an address.
pub(super) type MakeKind<E> = Box<dyn Fn(&Bind<'_, E>, &Tables<'_>) -> Kind<E>>;

pub(super) struct PlannedStep<E> {
    pub(super) name: String,
    pub(super) make_kind: MakeKind<E>,
    pub(super) is_deferred: bool,
    pub(super) tasks: usize,
    pub(super) borders: Vec<Blocks>,
    pub(super) macs: u64,
    pub(super) numbers: u64,
}

/// The buffer of the weights.
pub(super) const WEIGHTS: usize = usize::MAX;
/// The buffer of the file's other constants.
pub(super) const CONSTANTS: usize = usize::MAX - 1;

/// A planned graph without memory: this is enough to know whether it can be built.
pub struct PlannedGraph<E> {
    pub(super) steps: Vec<PlannedStep<E>>,
    /// Offset of each buffer in the arena, and the arena's length.
    pub(super) offsets: (Vec<usize>, usize),
    pub(super) least_len: usize,
    pub(super) weights: Weights,
    pub(super) constants: Vec<f32>,
    pub(super) inputs: Vec<(At, usize)>,
    pub(super) output: Option<(At, usize)>,
    pub(super) kept: Vec<Blocks>,
    pub(super) lasts: Vec<PlannedLast>,
    pub(super) deferred_tiles: Vec<usize>,
    pub(super) tiles_most: usize,
    pub(super) scratch_len: usize,
}

/// A 1x1 convolution without a step: see [`Last`].
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedLast {
    pub(super) w: At,
    pub(super) bias: At,
    /// Blocks of input and output channels.
    pub(super) blocks: (usize, usize),
    pub(super) act: Act,
}

impl<E: Kernels> PlannedGraph<E> {
    /// Length of the arena in `f32`.
    pub const fn arena_len(&self) -> usize {
        self.offsets.1
    }

    /// Length of the packed weights in `f32`.
    pub const fn weights_len(&self) -> usize {
        (self.weights.len * size_of::<E>()).div_ceil(4)
    }

    /// Length of the file's other constants in `f32`.
    pub const fn constants_len(&self) -> usize {
        self.constants.len()
    }

    /// Scratch numbers per thread, of the picture's type.
    pub const fn scratch_len(&self) -> usize {
        self.scratch_len
    }

    /// Numbers of `f32` used in the largest step: no arena can be smaller.
    pub const fn least_len(&self) -> usize {
        self.least_len
    }

    /// Number of inputs.
    pub const fn inputs_len(&self) -> usize {
        self.inputs.len()
    }

    /// Blocks of input and output channels of the largest convolution without a step.
    pub fn last_blocks_most(&self) -> usize {
        self.lasts.iter().map(|last| last.blocks.0 + last.blocks.1).max().unwrap_or(0)
    }

    /// Whether both pack the same weights: the same network at another input size.
    pub fn shares_weights(&self, graph: &Graph, other: &Self, other_graph: &Graph) -> bool {
        self.weights.equal((graph, other_graph), &other.weights)
    }

    /// Packs the weights and removes them from `graph` one by one, so that both copies never exist in full.
    ///
    /// # Safety
    /// `to` has room for them, and nobody else uses it.
    pub unsafe fn pack(&mut self, graph: &mut Graph, to: *mut E) {
        // SAFETY: the caller guarantees it.
        unsafe { std::mem::take(&mut self.weights).pack(graph, to) };
    }

    /// Allocates its own memory and binds to it; removes the weights from `graph`.
    pub fn allocate(mut self, graph: &mut Graph) -> Built<E> {
        let [mut arena, mut weights] = [self.arena_len(), self.weights_len()].map(Memory::zeroed);
        // SAFETY: there is room for them, and nobody else has it.
        unsafe { self.pack(graph, weights.first().cast()) };
        // SAFETY: as above; both go with the steps.
        let mut built = unsafe { self.bind(arena.first(), weights.first().cast()) };
        built.memory.extend([arena, weights]);
        built
    }

    /// Binds it to memory: an arena and weights that may be shared with others, if they do not run at the same time.
    ///
    /// # Safety
    /// They are large enough, and live as long as the steps.
    pub unsafe fn bind(self, arena: *mut f32, weights: *mut E) -> Built<E> {
        let mut constants = Memory::zeroed(self.constants.len());
        // SAFETY: it has room for that many, and nobody else has it.
        unsafe {
            std::ptr::copy_nonoverlapping(self.constants.as_ptr(), constants.first(), self.constants.len());
        };
        let bind = Bind { offsets: &self.offsets.0, arena, constants: constants.first(), weights };
        let numbers: Box<[u32]> = (0..self.tiles_most as u32).collect();
        let room = |tiles: &usize| ActiveTiles { tiles: Vec::with_capacity(*tiles), per_task: 1 };
        let active: Box<[ActiveTiles]> = self.deferred_tiles.iter().map(room).collect();
        let tables = Tables { numbers: numbers.as_ptr(), active: &active };
        let border = |blocks: &Blocks| Border {
            tensor: bind.blocks(*blocks),
            blocks: blocks.blocks,
            size: blocks.size,
        };
        let (mut steps, mut deferred) = (Vec::new(), Vec::new());
        for step in self.steps {
            let part = if step.is_deferred { &mut deferred } else { &mut steps };
            part.push(Step {
                kind: (step.make_kind)(&bind, &tables),
                name: step.name,
                tasks: step.tasks,
                borders: step.borders.iter().map(border).collect(),
                macs: step.macs,
                numbers: step.numbers,
            });
        }
        let last = |PlannedLast { w, bias, blocks, act }| Last {
            w: bind.numbers(w),
            bias: bind.numbers(bias),
            blocks,
            act,
        };
        Built {
            steps,
            deferred,
            inputs: self.inputs.into_iter().map(|(at, len)| (bind.rows(at), len)).collect(),
            maps: self.kept.iter().map(|blocks| (bind.blocks(*blocks), blocks.size)).collect(),
            lasts: self.lasts.into_iter().map(last).collect(),
            output: self.output.map_or((std::ptr::null_mut(), 0), |(at, len)| (bind.rows(at), len)),
            memory: vec![constants],
            _numbers: numbers,
            active,
            scratch_len: self.scratch_len,
        }
    }
}

/// A 1x1 convolution without a step.
#[derive(Debug, Clone, Copy)]
pub struct Last<E> {
    pub w: *const E,
    pub bias: *const E,
    /// Blocks of input and output channels.
    pub blocks: (usize, usize),
    pub act: Act,
}

/// A planned graph that is bound to memory.
pub struct Built<E> {
    pub steps: Vec<Step<E>>,
    /// Steps of the second part.
    pub deferred: Vec<Step<E>>,
    /// The numbers of all tiles that any step has; steps point into it.
    pub _numbers: Box<[u32]>,
    /// The active tiles of the second part's steps, one list each; steps point into it.
    pub active: Box<[ActiveTiles]>,
    /// In the order in which they were wanted.
    pub lasts: Vec<Last<E>>,
    /// Constants of the file that are not weights; the arena and the weights, if they are not shared.
    pub memory: Vec<Memory>,
    pub scratch_len: usize,
    /// The inputs in order, with their lengths.
    pub inputs: Vec<(*mut f32, usize)>,
    /// The wanted results in blocks, with their sizes.
    pub maps: Vec<(TensorPtr<E>, (usize, usize))>,
    /// The output, unless results in blocks were wanted instead.
    pub output: (*mut f32, usize),
}
