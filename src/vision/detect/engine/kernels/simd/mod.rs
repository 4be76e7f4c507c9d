//! One set of vector operations per instruction set, so that each kernel is written once.
//!
//! A kernel is a generic function that is always inlined; the macros of [`super`] instantiate it inside a function with the instruction set
//! enabled. Nothing here may be called on a CPU without it: that is the contract of every `unsafe fn` below, in addition to valid pointers.

#[cfg(target_arch = "aarch64")]
mod arm;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use arm::{Neon, NeonHalf};
#[cfg(test)]
pub use portable::Plain;
pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx2Half, Avx512};

/// How a number is stored in memory.
pub trait Number: Copy + Default + Send + Sync + std::fmt::Debug + 'static {
    /// Converts, rounding to nearest.
    fn of(number: f32) -> Self;
    /// Converts exactly.
    fn to(self) -> f32;
    /// `self < other`; NaN is not below anything.
    fn is_below(self, other: Self) -> bool;
    /// [`Self::of`] of eight.
    #[inline(always)]
    fn eight_of(numbers: [f32; 8]) -> [Self; 8] {
        numbers.map(Self::of)
    }
    /// [`Self::to`] of eight.
    #[inline(always)]
    fn eight_to(numbers: [Self; 8]) -> [f32; 8] {
        numbers.map(Self::to)
    }
}

impl Number for f32 {
    fn of(number: f32) -> Self {
        number
    }
    fn to(self) -> f32 {
        self
    }
    fn is_below(self, other: Self) -> bool {
        self < other
    }
}

/// Four int8 numbers, which are multiplied and added up in one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Four(pub [i8; 4]);

/// Operations for sums of products.
pub trait MulAdd: Copy {
    /// The factors, as stored in memory.
    type E: Copy;
    /// Numbers per vector: 4, 8 or 16.
    const LANES: usize;
    /// Tallest tile of [`Simd::GROUP`] channels, in pixels, whose sums stay in registers.
    const TILE: usize;
    /// Number of neighbouring factors that are loaded together and multiplied one by one.
    const QUAD: usize = 4;
    /// A vector.
    type V: Copy;
    /// `QUAD` neighbouring numbers: a register where the CPU multiplies "by element", else a pointer.
    type Quad: Copy;

    /// Loads `LANES` numbers, at any alignment.
    unsafe fn load(from: *const Self::E) -> Self::V;
    /// Loads `N` vectors with stride `next`: 16 numbers in a row, or vectors elsewhere.
    #[inline(always)]
    unsafe fn load_some<const N: usize>(from: *const Self::E, next: usize) -> [Self::V; N] {
        // SAFETY: the caller guarantees it.
        unsafe {
            let mut some = [Self::load(from); N];
            for n in 1..N {
                some[n] = Self::load(from.add(n * next));
            }
            some
        }
    }
    /// The same pointer, but opaque to the compiler, so that it does not combine neighbouring loads.
    #[inline(always)]
    unsafe fn forget(place: *const Self::E) -> *const Self::E {
        place
    }
    /// Loads `QUAD` numbers, at any alignment.
    unsafe fn quad(from: *const Self::E) -> Self::Quad;
    /// `acc[i] += w[i] * quad[L]`.
    unsafe fn fma_lane<const L: i32, const N: usize>(
        acc: &mut [Self::V; N],
        w: &[Self::V; N],
        quad: Self::Quad,
    );
}

/// Vector operations on one number type.
pub trait Simd: MulAdd<E: Number> {
    /// The same instruction set with vectors of which a whole number fits into a block of 8 channels.
    type Eight: Simd<E = Self::E>;
    /// The same for 8 channels, of [`Self::Eight`].
    const TILE_8: usize;
    /// Channels of a tile: 16, or 32 where a vector has 16.
    const GROUP: usize = if Self::LANES == 16 { 32 } else { 16 };
    /// Products that are added up before the sum is added to the others: long sums of short numbers lose their last bits.
    const SUM_MOST: usize = usize::MAX;
    /// Limit of `x` in `e^x` on both sides: the result is still finite there.
    const EXP_MOST: f32 = 87.0;
    /// Adding this to a number leaves the rounded number in the lowest bits: 1.5 times the first number whose neighbour is 1 away.
    const MAGIC: f32 = 12_582_912.0;

    /// Loads `LANES` numbers, at any alignment.
    unsafe fn store(to: *mut Self::E, v: Self::V);
    /// Loads a vector of neighbouring channels of a pixel, from blocks of 8 that are `block_stride` apart.
    #[inline(always)]
    unsafe fn load_blocks(from: *const Self::E, block_stride: usize) -> Self::V {
        let _ = block_stride;
        // SAFETY: the caller guarantees it.
        unsafe { Self::load(from) }
    }
    /// Stores it back.
    #[inline(always)]
    unsafe fn store_blocks(to: *mut Self::E, block_stride: usize, v: Self::V) {
        let _ = block_stride;
        // SAFETY: the caller guarantees it.
        unsafe { Self::store(to, v) }
    }
    /// The same number in all lanes.
    unsafe fn splat(x: f32) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`.
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// Maximum.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Minimum.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `p * 2^n`, where `t` is `n + MAGIC` and so has `n` in its lowest bits; `p` in 0.5..2, the product a normal number.
    unsafe fn scale(p: Self::V, t: Self::V) -> Self::V;
    /// Interleaves a row of three planes into pixels of four numbers, the last 0. Returns how many were made: the rest is less than a
    /// vector.
    #[inline(always)]
    unsafe fn pixels(planes: [*const f32; 3], to: *mut Self::E, count: usize) -> usize {
        let _ = (planes, to, count);
        0
    }
    /// `e^x`, clamped at [`Self::EXP_MOST`]; `f32`: to 3 units in the last place.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: the caller guarantees it.
        unsafe { Self::exp_scaled(Self::clamp(x), std::f32::consts::LOG2_E) }
    }
    /// `x` clamped to ±[`Self::EXP_MOST`]. NaN stays NaN: x86 returns the second of two in that case.
    #[inline(always)]
    unsafe fn clamp(x: Self::V) -> Self::V {
        // SAFETY: the caller guarantees it.
        unsafe { Self::max(Self::splat(-Self::EXP_MOST), Self::min(Self::splat(Self::EXP_MOST), x)) }
    }
    /// `2^(x * scale)`, where that is a normal number.
    #[inline(always)]
    unsafe fn exp_scaled(x: Self::V, scale: f32) -> Self::V {
        // 2^f for f in -0.5..=0.5: minimax relative error (Lawson), 2.3e-7 with its rounding.
        const C: [f32; 6] =
            [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_647_2];
        // The same with three factors, for numbers of 11 bits: 7.5e-5.
        const SHORT: [f32; 4] = [0.999_928, 0.693_261, 0.242_611, 0.055_171_7];
        // SAFETY: the caller guarantees it.
        unsafe {
            let scale = Self::splat(scale);
            let t = Self::fma(x, scale, Self::splat(Self::MAGIC));
            let n = Self::sub(t, Self::splat(Self::MAGIC));
            let f = Self::fma(x, scale, Self::sub(Self::splat(0.0), n));
            let mut p;
            if size_of::<Self::E>() == 2 {
                p = Self::splat(SHORT[3]);
                p = Self::fma(p, f, Self::splat(SHORT[2]));
                p = Self::fma(p, f, Self::splat(SHORT[1]));
                p = Self::fma(p, f, Self::splat(SHORT[0]));
            } else {
                p = Self::splat(C[5]);
                p = Self::fma(p, f, Self::splat(C[4]));
                p = Self::fma(p, f, Self::splat(C[3]));
                p = Self::fma(p, f, Self::splat(C[2]));
                p = Self::fma(p, f, Self::splat(C[1]));
                p = Self::fma(p, f, Self::splat(C[0]));
            }
            Self::scale(p, t)
        }
    }
    /// `1 / (1 + e^-x)`.
    #[inline(always)]
    unsafe fn sigmoid(x: Self::V) -> Self::V {
        // SAFETY: the caller guarantees it.
        unsafe {
            let one = Self::splat(1.0);
            Self::div(one, Self::add(one, Self::exp_minus(x)))
        }
    }
    /// `x / (1 + e^-x)`.
    #[inline(always)]
    unsafe fn silu(x: Self::V) -> Self::V {
        // SAFETY: the caller guarantees it.
        unsafe { Self::div(x, Self::add(Self::splat(1.0), Self::exp_minus(x))) }
    }
    /// `e^-x`, as [`Self::exp`].
    #[inline(always)]
    unsafe fn exp_minus(x: Self::V) -> Self::V {
        // SAFETY: the caller guarantees it.
        unsafe { Self::exp_scaled(Self::clamp(x), -std::f32::consts::LOG2_E) }
    }
}

/// Vectors of 8 numbers that are quantised, and dequantised from sums of products.
pub trait Int8: Simd {
    /// The multiplication of bytes; its sums have 32 bits.
    type Dot: MulAdd<E = Four>;

    /// `round(x * per_one) + zero` of 16 numbers, clamped to -128..=127. NaN becomes `zero`: bytes have no NaN.
    unsafe fn store_bytes(to: *mut i8, numbers: [Self::V; 2], per_one: Self::V, zero: i16);
    /// Multiplies 16 sums by their scales.
    unsafe fn of_sums<const N: usize>(
        sums: &[<Self::Dot as MulAdd>::V; N],
        scale: *const f32,
    ) -> [Self::V; 2];
}
