//! The fallback in plain Rust.

use super::{MulAdd, Simd};

/// Plain Rust: the fallback, and the reference for the others. Four numbers, so that the compiler vectorises. With
/// `SICK` it forgets its sum in every fourth lane: for the test that a self-test detects this.
#[derive(Debug, Clone, Copy)]
pub struct Plain<const SICK: bool>;

/// The fallback.
pub type Portable = Plain<false>;

#[allow(clippy::missing_safety_doc, reason = "the trait says it")]
impl<const SICK: bool> MulAdd for Plain<SICK> {
    type E = f32;
    const LANES: usize = 4;
    const TILE: usize = 3;
    type V = [f32; 4];
    type Quad = [f32; 4];

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller guarantees it.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn quad(from: *const f32) -> [f32; 4] {
        // SAFETY: the caller guarantees it.
        unsafe { Self::load(from) }
    }
    #[inline(always)]
    unsafe fn fma_lane<const L: i32, const N: usize>(
        acc: &mut [[f32; 4]; N],
        w: &[[f32; 4]; N],
        quad: [f32; 4],
    ) {
        for (acc, w) in acc.iter_mut().zip(w) {
            // SAFETY: the caller guarantees it.
            *acc = unsafe { Self::fma(*w, [quad[L as usize]; 4], *acc) };
        }
    }
}

#[allow(clippy::missing_safety_doc, reason = "the trait says it")]
impl<const SICK: bool> Simd for Plain<SICK> {
    type Eight = Self;
    const TILE_8: usize = 4;

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 4]) {
        // SAFETY: the caller guarantees it.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if SICK && i == 3 { a[i] * b[i] } else { a[i] * b[i] + c[i] })
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
}
