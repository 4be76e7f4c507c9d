//! One set of vector operations per instruction set, so that each kernel is written once.
//!
//! A kernel is a generic function that is always inlined; [`super::on!`] instantiates it inside a function which has the
//! instruction set switched on. Nothing here may be called where the CPU does not have it: that is the contract of every
//! `unsafe fn` below, besides valid pointers.

/// Vector operations on `f32`.
pub trait Simd: Copy {
    /// The same instruction set with vectors that a block of 8 channels is a whole number of.
    type Eight: Simd;
    /// Numbers in a vector: 4, 8 or 16.
    const LANES: usize;
    /// Tallest tile of [`Self::GROUP`] channels, in pixels, whose sums stay in registers.
    const TILE: usize;
    /// The same for 8 channels, of [`Self::Eight`].
    const TILE_8: usize;
    /// Channels of a tile: 16, or 32 where a vector has 16.
    const GROUP: usize = if Self::LANES == 16 { 32 } else { 16 };
    /// A vector.
    type V: Copy;
    /// Four neighbouring numbers that are multiplied one by one: a register where the CPU has "by element", else their place.
    type Quad: Copy;

    /// `LANES` numbers, at any alignment.
    unsafe fn load(from: *const f32) -> Self::V;
    /// `LANES` numbers, at any alignment.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// A vector of neighbouring channels of a pixel, from blocks of 8 that are `plane` apart.
    #[inline(always)]
    unsafe fn load_blocks(from: *const f32, plane: usize) -> Self::V {
        let _ = plane;
        // SAFETY: the caller's promise.
        unsafe { Self::load(from) }
    }
    /// The same way back.
    #[inline(always)]
    unsafe fn store_blocks(to: *mut f32, plane: usize, v: Self::V) {
        let _ = plane;
        // SAFETY: the caller's promise.
        unsafe { Self::store(to, v) }
    }
    /// `N` vectors that are `next` apart: 16 numbers in a row, or others' places.
    #[inline(always)]
    unsafe fn load_some<const N: usize>(from: *const f32, next: usize) -> [Self::V; N] {
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
    unsafe fn forget(place: *const f32) -> *const f32 {
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
    /// `p * 2^n`, where `t` is `n + 1.5 * 2^23` and so has `n` in its lowest bits; `p` in 0.5..2, the product a normal number.
    unsafe fn scale(p: Self::V, t: Self::V) -> Self::V;
    /// Four numbers, at any alignment.
    unsafe fn quad(from: *const f32) -> Self::Quad;
    /// `acc[i] += w[i] * quad[L]`.
    unsafe fn fma_lane<const L: i32, const N: usize>(
        acc: &mut [Self::V; N],
        w: &[Self::V; N],
        quad: Self::Quad,
    );

    /// `e^x`, to 3 units in the last place for x in -87..=87, clamped outside.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe {
            let x = Self::max(Self::min(x, Self::splat(87.0)), Self::splat(-87.0));
            Self::exp_scaled(x, std::f32::consts::LOG2_E)
        }
    }

    /// `2^(x * scale)` for products in -126..=126.
    #[inline(always)]
    unsafe fn exp_scaled(x: Self::V, scale: f32) -> Self::V {
        // Rounds to the nearest whole number, which is left in the lowest bits.
        const MAGIC: f32 = 12_582_912.0;
        // 2^f for f in -0.5..=0.5: least greatest relative error (Lawson), 2.3e-7 with its rounding.
        const C: [f32; 6] =
            [1.000_000_1, 0.693_146_94, 0.240_221_2, 0.055_507_13, 0.009_675_541, 0.001_327_647_2];
        // SAFETY: the caller's promise.
        unsafe {
            let scale = Self::splat(scale);
            let t = Self::fma(x, scale, Self::splat(MAGIC));
            let n = Self::sub(t, Self::splat(MAGIC));
            let f = Self::fma(x, scale, Self::sub(Self::splat(0.0), n));
            let mut p = Self::splat(C[5]);
            p = Self::fma(p, f, Self::splat(C[4]));
            p = Self::fma(p, f, Self::splat(C[3]));
            p = Self::fma(p, f, Self::splat(C[2]));
            p = Self::fma(p, f, Self::splat(C[1]));
            p = Self::fma(p, f, Self::splat(C[0]));
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

    /// `e^-x`, for x in -87..=87, clamped outside.
    #[inline(always)]
    unsafe fn exp_minus(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe {
            let x = Self::max(Self::min(x, Self::splat(87.0)), Self::splat(-87.0));
            Self::exp_scaled(x, -std::f32::consts::LOG2_E)
        }
    }
}

/// Plain Rust: the fall-back, and what the others are held against. Four numbers, so that the compiler finds vectors.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

#[allow(clippy::missing_safety_doc, reason = "the trait says it")]
impl Simd for Portable {
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
                *acc = unsafe { vfmaq_laneq_f32::<L>(*acc, *w, quad) };
            }
        }
    }
}
