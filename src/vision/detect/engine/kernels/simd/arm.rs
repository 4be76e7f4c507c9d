//! 64-bit ARM.

#![allow(
    unknown_lints,
    inline_always_mismatching_target_features,
    reason = "all of this is inlined into functions that have the instructions switched on"
)]

use std::arch::aarch64::*;

use super::super::half::Half;
use super::{Four, Int8, MulAdd, Simd};

/// NEON: every 64-bit ARM CPU.
#[derive(Debug, Clone, Copy)]
pub struct Neon;

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: valid pointers"
)]
impl MulAdd for Neon {
    type E = f32;
    const LANES: usize = 4;
    const TILE: usize = 5;
    type V = float32x4_t;
    type Quad = float32x4_t;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn forget(mut place: *const f32) -> *const f32 {
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) place, options(pure, nomem, nostack, preserves_flags));
        }
        place
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
            // Lanes beyond the quad are never requested, but must be named.
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

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: valid pointers"
)]
impl Simd for Neon {
    type Eight = Neon;
    const TILE_8: usize = 10;

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: float32x4_t) {
        unsafe { vst1q_f32(to, v) }
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
}

/// NEON with fp16: ARMv8.2 and later with `fp16` (Cortex-A76, not A72).
#[derive(Debug, Clone, Copy)]
pub struct NeonHalf;

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: fp16 and valid pointers"
)]
impl MulAdd for NeonHalf {
    type E = Half;
    const LANES: usize = 8;
    const TILE: usize = 8;
    const QUAD: usize = 8;
    type V = float16x8_t;
    type Quad = float16x8_t;

    #[inline(always)]
    unsafe fn load(from: *const Half) -> float16x8_t {
        unsafe { vreinterpretq_f16_u16(vld1q_u16(from.cast())) }
    }
    #[inline(always)]
    unsafe fn forget(mut place: *const Half) -> *const Half {
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) place, options(pure, nomem, nostack, preserves_flags));
        }
        place
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

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: fp16 and valid pointers"
)]
impl Simd for NeonHalf {
    type Eight = NeonHalf;
    const TILE_8: usize = 10;
    const SUM_MOST: usize = 64;
    const EXP_MOST: f32 = 9.6;
    const MAGIC: f32 = 1536.0;

    #[inline(always)]
    unsafe fn store(to: *mut Half, v: float16x8_t) {
        unsafe { vst1q_u16(to.cast(), vreinterpretq_u16_f16(v)) }
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
}

/// NEON with int8, four products at a time: `dotprod` of ARMv8.2 and later (Cortex-A55 and A76, not A53 and A72).
#[derive(Debug, Clone, Copy)]
pub struct NeonDot;

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: dotprod and valid pointers"
)]
impl MulAdd for NeonDot {
    type E = Four;
    const LANES: usize = 4;
    const TILE: usize = 5;
    type V = int32x4_t;
    type Quad = int8x16_t;

    #[inline(always)]
    unsafe fn load(from: *const Four) -> int32x4_t {
        unsafe { vld1q_s32(from.cast()) }
    }
    #[inline(always)]
    unsafe fn forget(mut place: *const Four) -> *const Four {
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) place, options(pure, nomem, nostack, preserves_flags));
        }
        place
    }
    #[inline(always)]
    unsafe fn quad(from: *const Four) -> int8x16_t {
        unsafe { vld1q_s8(from.cast()) }
    }
    #[inline(always)]
    unsafe fn fma_lane<const L: i32, const N: usize>(
        acc: &mut [int32x4_t; N],
        w: &[int32x4_t; N],
        quad: int8x16_t,
    ) {
        // The compiler's intrinsics for it are not stable yet.
        macro_rules! sdot {
            ($acc:expr, $w:expr, $lane:literal) => {
                std::arch::asm!(
                    concat!("sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[", $lane, "]"),
                    acc = inout(vreg) *$acc, w = in(vreg) *$w, x = in(vreg) quad,
                    options(pure, nomem, nostack, preserves_flags)
                )
            };
        }
        for (acc, w) in acc.iter_mut().zip(w) {
            // Lanes beyond the quad are never requested, but must be named.
            unsafe {
                match L {
                    0 => sdot!(acc, w, 0),
                    1 => sdot!(acc, w, 1),
                    2 => sdot!(acc, w, 2),
                    _ => sdot!(acc, w, 3),
                }
            }
        }
    }
}

#[allow(
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "the trait says it: fp16, dotprod and valid pointers"
)]
impl Int8 for NeonHalf {
    type Dot = NeonDot;

    #[inline(always)]
    unsafe fn store_bytes(to: *mut i8, numbers: [float16x8_t; 2], per_one: float16x8_t, zero: i16) {
        unsafe {
            let zero = vdupq_n_s16(zero);
            let [low, high] = numbers.map(|x| vqaddq_s16(vcvtnq_s16_f16(vmulq_f16(x, per_one)), zero));
            vst1q_s8(to, vqmovn_high_s16(vqmovn_s16(low), high));
        }
    }
    #[inline(always)]
    unsafe fn of_sums<const N: usize>(sums: &[int32x4_t; N], scale: *const f32) -> [float16x8_t; 2] {
        unsafe {
            let four = |n: usize| vmulq_f32(vcvtq_f32_s32(sums[n % N]), vld1q_f32(scale.add(n * 4)));
            let eight = |n: usize| vcvt_high_f16_f32(vcvt_f16_f32(four(n)), four(n + 1));
            [eight(0), eight(2)]
        }
    }
}
