//! One set of vector operations per instruction set, so that each kernel is written once.
//!
//! A kernel is a generic function that is always inlined; [`super::on!`] instantiates it inside a function which has the
//! instruction set switched on. Nothing here may be called where the CPU does not have it: that is the contract of every
//! `unsafe fn` below, besides valid pointers.

use super::half::Half;

/// How a number lies in memory.
pub trait Number: Copy + Default + Send + Sync + std::fmt::Debug + 'static {
    /// The nearest that there is.
    fn of(number: f32) -> Self;
    /// Exactly.
    fn to(self) -> f32;
    /// `self < other`; what is not a number is below nothing.
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

/// Vector operations on numbers of one kind.
pub trait Simd: Copy {
    /// How a number lies in memory.
    type E: Number;
    /// The same instruction set with vectors that a block of 8 channels is a whole number of.
    type Eight: Simd<E = Self::E>;
    /// Numbers in a vector: 4, 8 or 16.
    const LANES: usize;
    /// Tallest tile of [`Self::GROUP`] channels, in pixels, whose sums stay in registers.
    const TILE: usize;
    /// The same for 8 channels, of [`Self::Eight`].
    const TILE_8: usize;
    /// Channels of a tile: 16, or 32 where a vector has 16.
    const GROUP: usize = if Self::LANES == 16 { 32 } else { 16 };
    /// Neighbouring numbers that are multiplied one by one: so many.
    const QUAD: usize = 4;
    /// Products that are added up before the sum goes to the others: a long sum of short numbers loses its last bits.
    const SUM_MOST: usize = usize::MAX;
    /// What `x` of `e^x` is clamped to, on both sides: where the result is a number still.
    const EXP_MOST: f32 = 87.0;
    /// Added to a number it leaves that rounded in the lowest bits: 1.5 times the first number whose neighbour is 1 away.
    const MAGIC: f32 = 12_582_912.0;
    /// A vector.
    type V: Copy;
    /// `QUAD` neighbouring numbers: a register where the CPU has "by element", else their place.
    type Quad: Copy;

    /// `LANES` numbers, at any alignment.
    unsafe fn load(from: *const Self::E) -> Self::V;
    /// `LANES` numbers, at any alignment.
    unsafe fn store(to: *mut Self::E, v: Self::V);
    /// A vector of neighbouring channels of a pixel, from blocks of 8 that are `plane` apart.
    #[inline(always)]
    unsafe fn load_blocks(from: *const Self::E, plane: usize) -> Self::V {
        let _ = plane;
        // SAFETY: the caller's promise.
        unsafe { Self::load(from) }
    }
    /// The same way back.
    #[inline(always)]
    unsafe fn store_blocks(to: *mut Self::E, plane: usize, v: Self::V) {
        let _ = plane;
        // SAFETY: the caller's promise.
        unsafe { Self::store(to, v) }
    }
    /// `N` vectors that are `next` apart: 16 numbers in a row, or others' places.
    #[inline(always)]
    unsafe fn load_some<const N: usize>(from: *const Self::E, next: usize) -> [Self::V; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut some = [Self::load(from); N];
            for n in 1..N {
                some[n] = Self::load(from.add(n * next));
            }
            some
        }
    }
    /// The same place, of which the compiler does not know that it is: it then puts no loads together that lie side by side.
    #[inline(always)]
    unsafe fn forget(place: *const Self::E) -> *const Self::E {
        place
    }
    /// The same number everywhere.
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
    /// The greater.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The lesser.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `p * 2^n`, where `t` is `n + MAGIC` and so has `n` in its lowest bits; `p` in 0.5..2, the product a normal number.
    unsafe fn scale(p: Self::V, t: Self::V) -> Self::V;
    /// `QUAD` numbers, at any alignment.
    unsafe fn quad(from: *const Self::E) -> Self::Quad;
    /// `acc[i] += w[i] * quad[L]`.
    unsafe fn fma_lane<const L: i32, const N: usize>(
        acc: &mut [Self::V; N],
        w: &[Self::V; N],
        quad: Self::Quad,
    );

    /// Pixels of four numbers, the last 0, of a row of three planes. Tells how many were made: all that are left are less than a
    /// vector.
    #[inline(always)]
    unsafe fn pixels(planes: [*const f32; 3], to: *mut Self::E, count: usize) -> usize {
        let _ = (planes, to, count);
        0
    }

    /// `e^x`, clamped to what [`Self::EXP_MOST`] gives; `f32`: to 3 units in the last place.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { Self::exp_scaled(Self::clamp(x), std::f32::consts::LOG2_E) }
    }

    /// `x` in ±[`Self::EXP_MOST`].
    #[inline(always)]
    unsafe fn clamp(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { Self::max(Self::min(x, Self::splat(Self::EXP_MOST)), Self::splat(-Self::EXP_MOST)) }
    }

    /// `2^(x * scale)`, where that is a normal number.
    #[inline(always)]
    unsafe fn exp_scaled(x: Self::V, scale: f32) -> Self::V {
        // 2^f for f in -0.5..=0.5: least greatest relative error (Lawson), 2.3e-7 with its rounding.
        const C: [f32; 6] =
            [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_647_2];
        // The same with three factors, for numbers of 11 bits: 7.5e-5.
        const SHORT: [f32; 4] = [0.999_928, 0.693_261, 0.242_611, 0.055_171_7];
        // SAFETY: the caller's promise.
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
        // SAFETY: the caller's promise.
        unsafe {
            let one = Self::splat(1.0);
            Self::div(one, Self::add(one, Self::exp_minus(x)))
        }
    }

    /// `x / (1 + e^-x)`.
    #[inline(always)]
    unsafe fn silu(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { Self::div(x, Self::add(Self::splat(1.0), Self::exp_minus(x))) }
    }

    /// `e^-x`, as [`Self::exp`].
    #[inline(always)]
    unsafe fn exp_minus(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { Self::exp_scaled(Self::clamp(x), -std::f32::consts::LOG2_E) }
    }
}

/// Plain Rust: the fall-back, and what the others are held against. Four numbers, so that the compiler finds vectors.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

#[allow(clippy::missing_safety_doc, reason = "the trait says it")]
impl Simd for Portable {
    type E = f32;
    type Eight = Portable;
    const LANES: usize = 4;
    const TILE: usize = 3;
    const TILE_8: usize = 4;
    type V = [f32; 4];
    type Quad = [f32; 4];

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 4]) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn fnma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn scale(p: [f32; 4], t: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| f32::from_bits(p[i].to_bits().wrapping_add(t[i].to_bits() << 23)))
    }
    #[inline(always)]
    unsafe fn quad(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { Self::load(from) }
    }
    #[inline(always)]
    unsafe fn fma_lane<const L: i32, const N: usize>(
        acc: &mut [[f32; 4]; N],
        w: &[[f32; 4]; N],
        quad: [f32; 4],
    ) {
        for (acc, w) in acc.iter_mut().zip(w) {
            // SAFETY: the caller's promise.
            *acc = unsafe { Self::fma(*w, [quad[L as usize]; 4], *acc) };
        }
    }
}

/// AVX2 with FMA: every x86-64 CPU since 2013 (Intel) and 2015 (AMD).
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Avx2, Simd};

    #[allow(
        clippy::missing_safety_doc,
        clippy::undocumented_unsafe_blocks,
        reason = "the trait says it: AVX2 and valid pointers"
    )]
    impl Simd for Avx2 {
        type E = f32;
        type Eight = Avx2;
        const LANES: usize = 8;
        const TILE: usize = 5;
        const TILE_8: usize = 12;
        type V = __m256;
        type Quad = *const f32;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fnmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn scale(p: __m256, t: __m256) -> __m256 {
            unsafe {
                let n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n))
            }
        }
        #[inline(always)]
        unsafe fn pixels(planes: [*const f32; 3], to: *mut f32, count: usize) -> usize {
            unsafe {
                let mut at = 0;
                while at + 8 <= count {
                    let [r, g, b] = [0, 1, 2].map(|plane| planes[plane].add(at));
                    let (r, g, b) = (_mm256_loadu_ps(r), _mm256_loadu_ps(g), _mm256_loadu_ps(b));
                    // Of each half of four: r g r g, then b 0 b 0.
                    let (rg_low, rg_high) = (_mm256_unpacklo_ps(r, g), _mm256_unpackhi_ps(r, g));
                    let zero = _mm256_setzero_ps();
                    let (b_low, b_high) = (_mm256_unpacklo_ps(b, zero), _mm256_unpackhi_ps(b, zero));
                    let first = _mm256_shuffle_ps::<0x44>(rg_low, b_low);
                    let second = _mm256_shuffle_ps::<0xEE>(rg_low, b_low);
                    let third = _mm256_shuffle_ps::<0x44>(rg_high, b_high);
                    let fourth = _mm256_shuffle_ps::<0xEE>(rg_high, b_high);
                    let to = to.add(at * 4);
                    _mm256_storeu_ps(to, _mm256_permute2f128_ps::<0x20>(first, second));
                    _mm256_storeu_ps(to.add(8), _mm256_permute2f128_ps::<0x20>(third, fourth));
                    _mm256_storeu_ps(to.add(16), _mm256_permute2f128_ps::<0x31>(first, second));
                    _mm256_storeu_ps(to.add(24), _mm256_permute2f128_ps::<0x31>(third, fourth));
                    at += 8;
                }
                at
            }
        }
        #[inline(always)]
        unsafe fn quad(from: *const f32) -> *const f32 {
            from
        }
        #[inline(always)]
        unsafe fn fma_lane<const L: i32, const N: usize>(
            acc: &mut [__m256; N],
            w: &[__m256; N],
            quad: *const f32,
        ) {
            unsafe {
                let x = _mm256_broadcast_ss(&*quad.add(L as usize));
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = _mm256_fmadd_ps(*w, x, *acc);
                }
            }
        }
    }
}

/// AVX-512 with the parts that every CPU has which has it today: F, VL, DQ and BW.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx512;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Avx2, Avx512, Simd};

    #[allow(
        clippy::missing_safety_doc,
        clippy::undocumented_unsafe_blocks,
        reason = "the trait says it: AVX-512 and valid pointers"
    )]
    impl Simd for Avx512 {
        type E = f32;
        type Eight = Avx2;
        const LANES: usize = 16;
        const TILE: usize = 10;
        const TILE_8: usize = 12;
        type V = __m512;
        type Quad = *const f32;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn load_blocks(from: *const f32, plane: usize) -> __m512 {
            unsafe {
                let low = _mm512_castps256_ps512(_mm256_loadu_ps(from));
                _mm512_insertf32x8::<1>(low, _mm256_loadu_ps(from.add(plane)))
            }
        }
        #[inline(always)]
        unsafe fn store_blocks(to: *mut f32, plane: usize, v: __m512) {
            unsafe {
                _mm256_storeu_ps(to, _mm512_castps512_ps256(v));
                _mm256_storeu_ps(to.add(plane), _mm512_extractf32x8_ps::<1>(v));
            }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fnmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn scale(p: __m512, t: __m512) -> __m512 {
            unsafe {
                let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n))
            }
        }
        #[inline(always)]
        unsafe fn quad(from: *const f32) -> *const f32 {
            from
        }
        #[inline(always)]
        unsafe fn fma_lane<const L: i32, const N: usize>(
            acc: &mut [__m512; N],
            w: &[__m512; N],
            quad: *const f32,
        ) {
            unsafe {
                let x = _mm512_set1_ps(*quad.add(L as usize));
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = _mm512_fmadd_ps(*w, x, *acc);
                }
            }
        }
    }
}

/// NEON: every 64-bit ARM CPU.
#[cfg(target_arch = "aarch64")]
#[derive(Debug, Clone, Copy)]
pub struct Neon;

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::{Neon, Simd};

    #[allow(
        clippy::missing_safety_doc,
        clippy::undocumented_unsafe_blocks,
        reason = "the trait says it: valid pointers"
    )]
    impl Simd for Neon {
        type E = f32;
        type Eight = Neon;
        const LANES: usize = 4;
        const TILE: usize = 5;
        const TILE_8: usize = 10;
        type V = float32x4_t;
        type Quad = float32x4_t;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> float32x4_t {
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: float32x4_t) {
            unsafe { vst1q_f32(to, v) }
        }
        #[inline(always)]
        unsafe fn forget(mut place: *const f32) -> *const f32 {
            unsafe {
                std::arch::asm!("/* {0} */", inout(reg) place, options(pure, nomem, nostack, preserves_flags));
            }
            place
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> float32x4_t {
            unsafe { vdupq_n_f32(x) }
        }
        #[inline(always)]
        unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            unsafe { vfmsq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vaddq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vsubq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vmulq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vdivq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vmaxq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vminq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn scale(p: float32x4_t, t: float32x4_t) -> float32x4_t {
            unsafe {
                let n = vshlq_n_s32::<23>(vreinterpretq_s32_f32(t));
                vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), n))
            }
        }
        #[inline(always)]
        unsafe fn pixels(planes: [*const f32; 3], to: *mut f32, count: usize) -> usize {
            unsafe {
                let mut at = 0;
                while at + 4 <= count {
                    let [r, g, b] = [0, 1, 2].map(|plane| vld1q_f32(planes[plane].add(at)));
                    vst4q_f32(to.add(at * 4), float32x4x4_t(r, g, b, vdupq_n_f32(0.0)));
                    at += 4;
                }
                at
            }
        }
        #[inline(always)]
        unsafe fn quad(from: *const f32) -> float32x4_t {
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn fma_lane<const L: i32, const N: usize>(
            acc: &mut [float32x4_t; N],
            w: &[float32x4_t; N],
            quad: float32x4_t,
        ) {
            for (acc, w) in acc.iter_mut().zip(w) {
                // Lanes beyond the quad are asked for by nobody, but named.
                *acc = unsafe {
                    match L {
                        0 => vfmaq_laneq_f32::<0>(*acc, *w, quad),
                        1 => vfmaq_laneq_f32::<1>(*acc, *w, quad),
                        2 => vfmaq_laneq_f32::<2>(*acc, *w, quad),
                        _ => vfmaq_laneq_f32::<3>(*acc, *w, quad),
                    }
                };
            }
        }
    }
}

/// NEON on numbers of 16 bits: ARMv8.2 and later with `fp16` (Cortex-A76, not A72).
#[cfg(target_arch = "aarch64")]
#[derive(Debug, Clone, Copy)]
pub struct NeonHalf;

#[cfg(target_arch = "aarch64")]
mod neon_half {
    use std::arch::aarch64::*;

    use super::{Half, NeonHalf, Simd};

    #[allow(
        clippy::missing_safety_doc,
        clippy::undocumented_unsafe_blocks,
        reason = "the trait says it: fp16 and valid pointers"
    )]
    impl Simd for NeonHalf {
        type E = Half;
        type Eight = NeonHalf;
        const LANES: usize = 8;
        const TILE: usize = 8;
        const TILE_8: usize = 10;
        const QUAD: usize = 8;
        const SUM_MOST: usize = 64;
        const EXP_MOST: f32 = 9.6;
        const MAGIC: f32 = 1536.0;
        type V = float16x8_t;
        type Quad = float16x8_t;

        #[inline(always)]
        unsafe fn load(from: *const Half) -> float16x8_t {
            unsafe { vreinterpretq_f16_u16(vld1q_u16(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut Half, v: float16x8_t) {
            unsafe { vst1q_u16(to.cast(), vreinterpretq_u16_f16(v)) }
        }
        #[inline(always)]
        unsafe fn forget(mut place: *const Half) -> *const Half {
            unsafe {
                std::arch::asm!("/* {0} */", inout(reg) place, options(pure, nomem, nostack, preserves_flags));
            }
            place
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> float16x8_t {
            unsafe { vreinterpretq_f16_u16(vdupq_n_u16(Half::of_const(x).0)) }
        }
        #[inline(always)]
        unsafe fn fma(a: float16x8_t, b: float16x8_t, c: float16x8_t) -> float16x8_t {
            unsafe { vfmaq_f16(c, a, b) }
        }
        #[inline(always)]
        unsafe fn fnma(a: float16x8_t, b: float16x8_t, c: float16x8_t) -> float16x8_t {
            unsafe { vfmsq_f16(c, a, b) }
        }
        #[inline(always)]
        unsafe fn add(a: float16x8_t, b: float16x8_t) -> float16x8_t {
            unsafe { vaddq_f16(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: float16x8_t, b: float16x8_t) -> float16x8_t {
            unsafe { vsubq_f16(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: float16x8_t, b: float16x8_t) -> float16x8_t {
            unsafe { vmulq_f16(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: float16x8_t, b: float16x8_t) -> float16x8_t {
            unsafe { vdivq_f16(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: float16x8_t, b: float16x8_t) -> float16x8_t {
            unsafe { vmaxq_f16(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: float16x8_t, b: float16x8_t) -> float16x8_t {
            unsafe { vminq_f16(a, b) }
        }
        #[inline(always)]
        unsafe fn scale(p: float16x8_t, t: float16x8_t) -> float16x8_t {
            unsafe {
                let n = vshlq_n_s16::<10>(vreinterpretq_s16_f16(t));
                vreinterpretq_f16_s16(vaddq_s16(vreinterpretq_s16_f16(p), n))
            }
        }
        #[inline(always)]
        unsafe fn pixels(planes: [*const f32; 3], to: *mut Half, count: usize) -> usize {
            unsafe {
                let mut at = 0;
                while at + 8 <= count {
                    let [r, g, b] = [0, 1, 2].map(|plane| {
                        let from = planes[plane].add(at);
                        let low = vcvt_f16_f32(vld1q_f32(from));
                        vreinterpretq_u16_f16(vcvt_high_f16_f32(low, vld1q_f32(from.add(4))))
                    });
                    vst4q_u16(to.cast::<u16>().add(at * 4), uint16x8x4_t(r, g, b, vdupq_n_u16(0)));
                    at += 8;
                }
                at
            }
        }
        #[inline(always)]
        unsafe fn quad(from: *const Half) -> float16x8_t {
            unsafe { Self::load(from) }
        }
        #[inline(always)]
        unsafe fn fma_lane<const L: i32, const N: usize>(
            acc: &mut [float16x8_t; N],
            w: &[float16x8_t; N],
            quad: float16x8_t,
        ) {
            for (acc, w) in acc.iter_mut().zip(w) {
                *acc = unsafe { vfmaq_laneq_f16::<L>(*acc, *w, quad) };
            }
        }
    }
}

/// What [`NeonHalf`] computes, step by step with AVX2 and F16C: slow, to measure on a desk what a board would find.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx2Half;

#[cfg(target_arch = "x86_64")]
mod avx2_half {
    use std::arch::x86_64::*;

    use super::{Avx2Half, Half, Simd};

    /// As it would be stored: each result is rounded so. A product of two numbers of 11 bits is exact in 24, so that a fused
    /// multiplication is rounded twice at most in its addition, which rarely shows.
    #[inline(always)]
    unsafe fn rounded(v: __m256) -> __m256 {
        // SAFETY: the caller's promise: F16C.
        unsafe { _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[allow(
        clippy::missing_safety_doc,
        clippy::undocumented_unsafe_blocks,
        reason = "the trait says it: AVX2, F16C and valid pointers"
    )]
    impl Simd for Avx2Half {
        type E = Half;
        type Eight = Avx2Half;
        const LANES: usize = 8;
        const TILE: usize = 8;
        const TILE_8: usize = 10;
        const QUAD: usize = 8;
        const SUM_MOST: usize = 64;
        const EXP_MOST: f32 = 9.6;
        const MAGIC: f32 = 1536.0;
        type V = __m256;
        type Quad = *const Half;

        #[inline(always)]
        unsafe fn load(from: *const Half) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut Half, v: __m256) {
            unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { rounded(_mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { rounded(_mm256_fmadd_ps(a, b, c)) }
        }
        #[inline(always)]
        unsafe fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { rounded(_mm256_fnmadd_ps(a, b, c)) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { rounded(_mm256_add_ps(a, b)) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { rounded(_mm256_sub_ps(a, b)) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { rounded(_mm256_mul_ps(a, b)) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { rounded(_mm256_div_ps(a, b)) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn scale(p: __m256, t: __m256) -> __m256 {
            unsafe {
                let n = _mm256_cvtps_epi32(_mm256_sub_ps(t, _mm256_set1_ps(Self::MAGIC)));
                let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)));
                rounded(_mm256_mul_ps(p, _mm256_castsi256_ps(power)))
            }
        }
        #[inline(always)]
        unsafe fn quad(from: *const Half) -> *const Half {
            from
        }
        #[inline(always)]
        unsafe fn fma_lane<const L: i32, const N: usize>(
            acc: &mut [__m256; N],
            w: &[__m256; N],
            quad: *const Half,
        ) {
            unsafe {
                let x = _mm256_cvtph_ps(_mm_set1_epi16((*quad.add(L as usize)).0.cast_signed()));
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = rounded(_mm256_fmadd_ps(*w, x, *acc));
                }
            }
        }
    }
}
