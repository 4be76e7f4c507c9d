//! x86-64.

use std::arch::x86_64::*;

use super::super::half::Half;
use super::{Four, Int8, MulAdd, Simd};

/// AVX2 with FMA: every x86-64 CPU since 2013 (Intel) and 2015 (AMD).
#[derive(Debug, Clone, Copy)]
pub struct Avx2;

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: AVX2 and valid pointers"
)]
impl MulAdd for Avx2 {
    type E = f32;
    const LANES: usize = 8;
    const TILE: usize = 5;
    type V = __m256;
    type Quad = *const f32;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
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

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: AVX2 and valid pointers"
)]
impl Simd for Avx2 {
    type Eight = Avx2;
    const TILE_8: usize = 12;

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
                // Each half of four: r g r g, then b 0 b 0.
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
}

/// AVX-512 with the subsets that every current CPU with AVX-512 has: F, VL, DQ and BW.
#[derive(Debug, Clone, Copy)]
pub struct Avx512;

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: AVX-512 and valid pointers"
)]
impl MulAdd for Avx512 {
    type E = f32;
    const LANES: usize = 16;
    const TILE: usize = 10;
    type V = __m512;
    type Quad = *const f32;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
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

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: AVX-512 and valid pointers"
)]
impl Simd for Avx512 {
    type Eight = Avx2;
    const TILE_8: usize = 12;

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_blocks(from: *const f32, block_stride: usize) -> __m512 {
        unsafe {
            let low = _mm512_castps256_ps512(_mm256_loadu_ps(from));
            _mm512_insertf32x8::<1>(low, _mm256_loadu_ps(from.add(block_stride)))
        }
    }
    #[inline(always)]
    unsafe fn store_blocks(to: *mut f32, block_stride: usize, v: __m512) {
        unsafe {
            _mm256_storeu_ps(to, _mm512_castps512_ps256(v));
            _mm256_storeu_ps(to.add(block_stride), _mm512_extractf32x8_ps::<1>(v));
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
}

/// The computation of [`NeonHalf`], step by step with AVX2 and F16C: slow, to measure on a desktop what a board would
/// compute.
#[derive(Debug, Clone, Copy)]
pub struct Avx2Half;

/// Rounds each result as storing it would. A product of two numbers of 11 bits is exact in 24, so a fused multiply-add
/// is rounded at most twice, in its addition, which rarely matters.
#[inline(always)]
unsafe fn rounded(v: __m256) -> __m256 {
    // SAFETY: the caller guarantees it: F16C.
    unsafe { _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
}

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: AVX2, F16C and valid pointers"
)]
impl MulAdd for Avx2Half {
    type E = Half;
    const LANES: usize = 8;
    const TILE: usize = 8;
    const QUAD: usize = 8;
    type V = __m256;
    type Quad = *const Half;

    #[inline(always)]
    unsafe fn load(from: *const Half) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
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

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: AVX2, F16C and valid pointers"
)]
impl Simd for Avx2Half {
    type Eight = Avx2Half;
    const TILE_8: usize = 10;
    const SUM_MOST: usize = 64;
    const EXP_MOST: f32 = 9.6;
    const MAGIC: f32 = 1536.0;

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
}

/// The steps of `dotprod` on AVX2, slowly: to measure on x86-64 the accuracy of int8 on ARM.
#[derive(Debug, Clone, Copy)]
pub struct Avx2Dot;

/// The even and the odd bytes as 16-bit numbers.
#[inline(always)]
unsafe fn halves(bytes: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller guarantees it: AVX2.
    unsafe { [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)] }
}

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: AVX2 and valid pointers"
)]
impl MulAdd for Avx2Dot {
    type E = Four;
    const LANES: usize = 8;
    const TILE: usize = 5;
    type V = __m256i;
    type Quad = *const Four;

    #[inline(always)]
    unsafe fn load(from: *const Four) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    unsafe fn quad(from: *const Four) -> *const Four {
        from
    }
    #[inline(always)]
    unsafe fn fma_lane<const L: i32, const N: usize>(
        acc: &mut [__m256i; N],
        w: &[__m256i; N],
        quad: *const Four,
    ) {
        unsafe {
            let four = quad.add(L as usize).cast::<i32>().read_unaligned();
            let x = halves(_mm256_set1_epi32(four));
            for (acc, w) in acc.iter_mut().zip(w) {
                let w = halves(*w);
                let sums = _mm256_add_epi32(_mm256_madd_epi16(w[0], x[0]), _mm256_madd_epi16(w[1], x[1]));
                *acc = _mm256_add_epi32(*acc, sums);
            }
        }
    }
}

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: AVX2, F16C and valid pointers"
)]
impl Int8 for Avx2Half {
    type Dot = Avx2Dot;

    #[inline(always)]
    unsafe fn store_bytes(to: *mut i8, numbers: [__m256; 2], per_one: __m256, zero: i16) {
        unsafe {
            let most = _mm256_set1_ps(1000.0);
            let least = _mm256_set1_ps(-1000.0);
            for (half, x) in numbers.into_iter().enumerate() {
                let x = _mm256_and_ps(x, _mm256_cmp_ps::<_CMP_ORD_Q>(x, x));
                let steps = _mm256_max_ps(least, _mm256_min_ps(most, Self::mul(x, per_one)));
                let eight = _mm256_add_epi32(_mm256_cvtps_epi32(steps), _mm256_set1_epi32(i32::from(zero)));
                let (low, high) = (_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
                let eight = _mm_packs_epi32(low, high);
                _mm_storel_epi64(to.add(8 * half).cast(), _mm_packs_epi16(eight, eight));
            }
        }
    }
    #[inline(always)]
    unsafe fn of_sums<const N: usize>(sums: &[__m256i; N], scale: *const f32) -> [__m256; 2] {
        unsafe {
            let eight = |n: usize| {
                rounded(_mm256_mul_ps(_mm256_cvtepi32_ps(sums[n % N]), _mm256_loadu_ps(scale.add(n * 8))))
            };
            [eight(0), eight(1)]
        }
    }
}
