//! The arithmetic of a network: each kernel is a generic function over a set of vector operations ([`simd`]); the tests have a scalar
//! reference for each.
//!
//! Pictures inside the network are stored in blocks of 8 channels: `[channel / 8][row][column][channel % 8]`, with a border of one pixel
//! around each block of rows, which is zero where a 3x3 kernel reads it. A concatenation is then a sequence of blocks, and a slice some of
//! them.

#![allow(unsafe_code, reason = "kernels and the memory that they share; each block argues its safety")]
#![allow(
    clippy::needless_range_loop,
    reason = "an index is several arrays' place here, and the compiler unrolls these loops"
)]

pub mod conv;
pub mod flat;
pub mod half;
pub mod int8;
pub mod maps;
pub mod simd;
pub mod winograd;

use std::ops::Range;

use half::Half;
use simd::Number;

/// A tensor in memory; strides count numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorPtr<E> {
    /// Pixel (0, 0) of the first block.
    pub first: *mut E,
    /// Row stride.
    pub row_stride: usize,
    /// Stride between blocks of 8 channels.
    pub block_stride: usize,
}

impl<E> TensorPtr<E> {
    /// A null pointer.
    pub const NULL: Self = TensorPtr { first: std::ptr::null_mut(), row_stride: 0, block_stride: 0 };

    /// The 8 channels of `block` of a pixel.
    ///
    /// # Safety
    /// The pixel is inside the tensor or its border.
    #[inline(always)]
    pub unsafe fn pixel(&self, block: usize, column: usize, row: usize) -> *mut E {
        // SAFETY: the caller guarantees it.
        unsafe { self.first.add(block * self.block_stride + row * self.row_stride + column * 8) }
    }
}

/// Activation of a convolution's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// None.
    None,
    /// `x / (1 + e^-x)`.
    Silu,
}

/// An instruction set that has kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust.
    Portable,
    /// Plain Rust with a deliberate fault: for the test of the self-test.
    #[cfg(test)]
    Sick,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 F, VL, DQ and BW as well.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 64-bit ARM.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The best one of this CPU.
    pub fn best() -> Self {
        Self::all()[0]
    }

    /// All of this CPU, the best first.
    pub fn all() -> heapless::Vec<Self, 3> {
        let mut all = heapless::Vec::new();
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            let wide = std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512bw");
            if wide {
                all.extend([Isa::Avx512]);
            }
            all.extend([Isa::Avx2]);
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.extend([Isa::Neon]);
        }
        all.extend([Isa::Portable]);
        all
    }

    /// The one of this CPU with that name, in any letter case.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name))
    }

    /// Name for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(test)]
            Isa::Sick => "sick",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "AVX-512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "NEON",
        }
    }

    /// Whether it has fp16 kernels: ARM from v8.2 on; AVX2 emulates the same steps, slowly.
    pub fn has_half(self) -> bool {
        match self {
            Isa::Portable => false,
            #[cfg(test)]
            Isa::Sick => false,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 => std::is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("fp16"),
        }
    }
}

impl Isa {
    /// Whether it has int8 kernels: ARM with `dotprod`, which implies fp16.
    pub fn has_int8(self) -> bool {
        #[cfg(target_arch = "aarch64")]
        let has_dot = std::arch::is_aarch64_feature_detected!("dotprod");
        #[cfg(not(target_arch = "aarch64"))]
        let has_dot = true;
        self.has_half() && has_dot
    }
}

/// The vector type of an instruction set: its widest, or one that fits into a block of 8 channels.
macro_rules! vectors {
    (wide, $simd:ident) => {
        simd::$simd
    };
    (eight, $simd:ident) => {
        <simd::$simd as simd::Simd>::Eight
    };
}

/// Calls the instance of an `f32` kernel for the instruction set `$isa`, inside a function with that set enabled.
macro_rules! single {
    ($isa:ident, $width:ident $module:ident :: $kernel:ident [$($extra:tt)*] ($($arg:ident: $kind:ty),* $(,)?)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2($($arg: $kind),*) {
            // SAFETY: the caller guarantees it.
            unsafe { $module::$kernel::<vectors!($width, Avx2) $($extra)*>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")]
        unsafe fn avx512($($arg: $kind),*) {
            // SAFETY: the caller guarantees it.
            unsafe { $module::$kernel::<vectors!($width, Avx512) $($extra)*>($($arg),*) }
        }
        #[cfg(target_arch = "aarch64")]
        unsafe fn neon($($arg: $kind),*) {
            // SAFETY: the caller guarantees it.
            unsafe { $module::$kernel::<vectors!($width, Neon) $($extra)*>($($arg),*) }
        }
        unsafe fn portable($($arg: $kind),*) {
            // SAFETY: the caller guarantees it.
            unsafe { $module::$kernel::<vectors!($width, Portable) $($extra)*>($($arg),*) }
        }
        #[cfg(test)]
        unsafe fn sick($($arg: $kind),*) {
            // SAFETY: the caller guarantees it.
            unsafe { $module::$kernel::<simd::Plain<true> $($extra)*>($($arg),*) }
        }
        // SAFETY: the caller guarantees it.
        unsafe {
            match $isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2($($arg),*),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512($($arg),*),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => neon($($arg),*),
                Isa::Portable => portable($($arg),*),
                #[cfg(test)]
                Isa::Sick => sick($($arg),*),
            }
        }
    }};
}

/// The same for fp16, for instruction sets that have it.
macro_rules! halved {
    ($isa:ident, $width:ident $module:ident :: $kernel:ident [$($extra:tt)*] ($($arg:ident: $kind:ty),* $(,)?) $(, $more:literal)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2($($arg: $kind),*) {
            // SAFETY: the caller guarantees it.
            unsafe { $module::$kernel::<simd::Avx2Half $($extra)*>($($arg),*) }
        }
        #[cfg(target_arch = "aarch64")]
        #[target_feature(enable = "neon,fp16")]
        $(#[target_feature(enable = $more)])?
        unsafe fn neon($($arg: $kind),*) {
            // SAFETY: the caller guarantees it.
            unsafe { $module::$kernel::<simd::NeonHalf $($extra)*>($($arg),*) }
        }
        // SAFETY: the caller guarantees it.
        unsafe {
            match $isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 | Isa::Avx512 => avx2($($arg),*),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => neon($($arg),*),
                #[cfg(test)]
                Isa::Sick => unreachable!("it has no half"),
                Isa::Portable => unreachable!("it has no half: {:?}", ($($arg),*)),
            }
        }
    }};
}

/// Number types that have kernels for pictures in blocks.
///
/// # Safety
/// For all functions: the CPU has `isa`, and `isa` supports the type; beyond that see each kernel.
#[allow(clippy::missing_safety_doc, reason = "see above")]
pub trait Kernels: Number {
    /// Numbers per vector, the tallest tile in pixels, and its channels.
    fn sides(isa: Isa) -> (usize, usize, usize);
    /// [`conv::rows`] with 8 channels a block.
    unsafe fn conv_rows(isa: Isa, conv: &conv::Conv<Self>, rows: Range<usize>);
    /// [`conv::rows`] with 3 channels a block: the first layer.
    unsafe fn first_rows(isa: Isa, conv: &conv::Conv<Self>, rows: Range<usize>);
    /// [`winograd::tiles`].
    unsafe fn winograd_tiles(isa: Isa, conv: &winograd::Winograd<Self>, tiles: &[u32], scratch: *mut Self);
    /// [`maps::depthwise_rows`].
    unsafe fn depthwise_rows(isa: Isa, conv: &maps::Depthwise<Self>, block: usize, rows: Range<usize>);
    /// [`maps::max_pool_block`].
    unsafe fn max_pool_block(isa: Isa, pool: &maps::MaxPool<Self>, block: usize, scratch: *mut Self);
    /// [`maps::upsample_row`].
    unsafe fn upsample_row(isa: Isa, up: &maps::Upsample<Self>, block: usize, row: usize);
    /// Whether `int8_rows` exists.
    fn has_int8(isa: Isa) -> bool {
        let _ = isa;
        false
    }
    /// [`int8::rows`], if it exists.
    unsafe fn int8_rows(isa: Isa, conv: &int8::Int8Conv<Self>, rows: Range<usize>, scratch: *mut Self) {
        unreachable!("{isa:?} has none: {conv:?}, {rows:?}, {scratch:?}");
    }
    /// [`maps::pixels`].
    unsafe fn pixels(isa: Isa, planes: [*const f32; 3], to: *mut Self, count: usize);
}

const fn sides_of<S: simd::Simd>() -> (usize, usize, usize) {
    (S::LANES, S::TILE, S::GROUP)
}

macro_rules! kernels {
    ($E:ty, $on:ident) => {
        unsafe fn conv_rows(isa: Isa, conv: &conv::Conv<$E>, rows: Range<usize>) {
            $on!(isa, wide conv::rows [, 8] (conv: &conv::Conv<$E>, rows: Range<usize>))
        }
        unsafe fn first_rows(isa: Isa, conv: &conv::Conv<$E>, rows: Range<usize>) {
            $on!(isa, wide conv::rows [, 3] (conv: &conv::Conv<$E>, rows: Range<usize>))
        }
        unsafe fn winograd_tiles(isa: Isa, conv: &winograd::Winograd<$E>, tiles: &[u32], scratch: *mut $E) {
            $on!(isa, wide winograd::tiles [] (conv: &winograd::Winograd<$E>, tiles: &[u32], scratch: *mut $E))
        }
        unsafe fn depthwise_rows(isa: Isa, conv: &maps::Depthwise<$E>, block: usize, rows: Range<usize>) {
            $on!(isa, eight maps::depthwise_rows [] (conv: &maps::Depthwise<$E>, block: usize, rows: Range<usize>))
        }
        unsafe fn max_pool_block(isa: Isa, pool: &maps::MaxPool<$E>, block: usize, scratch: *mut $E) {
            $on!(isa, eight maps::max_pool_block [] (pool: &maps::MaxPool<$E>, block: usize, scratch: *mut $E))
        }
        unsafe fn upsample_row(isa: Isa, up: &maps::Upsample<$E>, block: usize, row: usize) {
            $on!(isa, eight maps::upsample_row [] (up: &maps::Upsample<$E>, block: usize, row: usize))
        }
        unsafe fn pixels(isa: Isa, planes: [*const f32; 3], to: *mut $E, count: usize) {
            $on!(isa, eight maps::pixels [] (planes: [*const f32; 3], to: *mut $E, count: usize))
        }
    };
}

impl Kernels for f32 {
    fn sides(isa: Isa) -> (usize, usize, usize) {
        match isa {
            Isa::Portable => sides_of::<simd::Portable>(),
            #[cfg(test)]
            Isa::Sick => sides_of::<simd::Plain<true>>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => sides_of::<simd::Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => sides_of::<simd::Avx512>(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => sides_of::<simd::Neon>(),
        }
    }
    kernels!(f32, single);
}

impl Kernels for Half {
    fn sides(isa: Isa) -> (usize, usize, usize) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 => sides_of::<simd::Avx2Half>(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => sides_of::<simd::NeonHalf>(),
            Isa::Portable => (8, 1, 16),
            #[cfg(test)]
            Isa::Sick => (8, 1, 16),
        }
    }
    kernels!(Half, halved);
    fn has_int8(isa: Isa) -> bool {
        isa.has_int8()
    }
    unsafe fn int8_rows(isa: Isa, conv: &int8::Int8Conv<Half>, rows: Range<usize>, scratch: *mut Half) {
        halved!(isa, wide int8::rows [] (conv: &int8::Int8Conv<Half>, rows: Range<usize>, scratch: *mut Half), "dotprod");
    }
}

/// Defines `$name($isa, …)` for an `f32` kernel.
macro_rules! instances {
    ($(#[$doc:meta])* $name:ident = $width:ident $module:ident :: $kernel:ident [$($extra:tt)*] ($($arg:ident: $kind:ty),* $(,)?)) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The CPU has `isa`; beyond that see the kernel.
        pub unsafe fn $name(isa: Isa, $($arg: $kind),*) {
            single!(isa, $width $module::$kernel [$($extra)*] ($($arg: $kind),*))
        }
    };
}

instances! {
    /// [`flat::matmul_rows`].
    matmul_rows = wide flat::matmul_rows [] (mul: &flat::MatMul, rows: std::ops::Range<usize>)
}
instances! {
    /// [`flat::softmax_row`].
    softmax_row = wide flat::softmax_row [] (row: *mut f32, len: usize)
}
instances! {
    /// [`flat::sigmoid`].
    sigmoid = wide flat::sigmoid [] (from: *const f32, to: *mut f32, len: usize)
}
instances! {
    /// [`flat::silu`].
    silu = wide flat::silu [] (from: *const f32, to: *mut f32, len: usize)
}

instances! {
    /// [`flat::multiply_and_add`].
    multiply_and_add = wide flat::multiply_and_add [] (rounds: usize, out: *mut f32)
}

/// Peak multiply-adds of one core, 10^9 a second, measured with a clock of nanoseconds: the best of some tries.
pub fn peak_macs_per_nano(isa: Isa, now: &mut dyn FnMut() -> u64) -> f64 {
    const ROUNDS: usize = 200_000;
    let mut out = [0.0; 16];
    let mut best = u64::MAX;
    for _ in 0..20 {
        let begun = now();
        // SAFETY: the CPU has the set that `best` returned, and there is room for a vector.
        unsafe { multiply_and_add(isa, ROUNDS, out.as_mut_ptr()) };
        best = best.min(now() - begun);
    }
    std::hint::black_box(out);
    (ROUNDS * flat::SUMS * f32::sides(isa).0) as f64 / best.max(1) as f64
}

#[cfg(test)]
mod tests;
