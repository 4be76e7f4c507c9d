//! Arithmetic on row-major tensors: attention, the end of the head.

use super::simd::Simd;

/// A matrix product, all matrices row-major.
#[derive(Debug, Clone, Copy)]
pub struct MatMul {
    /// `[m][k]`.
    pub a: *const f32,
    /// `[k][n]`.
    pub b: *const f32,
    /// `[m][n]`.
    pub out: *mut f32,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
    /// Columns of `b`.
    pub n: usize,
}

// SAFETY: as `Conv`.
unsafe impl Send for MatMul {}
// SAFETY: as `Conv`.
unsafe impl Sync for MatMul {}

/// Computes rows `rows` of the product.
///
/// # Safety
/// The CPU has `S`; the pointers are valid for the sizes; nobody else writes these rows.
#[inline(always)]
pub unsafe fn matmul_rows<S: Simd<E = f32>>(mul: &MatMul, rows: std::ops::Range<usize>) {
    let wide = 2 * S::LANES;
    let whole = mul.n / wide * wide;
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut column = 0;
        while column < whole {
            let mut row = rows.start;
            while row + 4 <= rows.end {
                matmul_tile::<S, 4, 2>(mul, row, column);
                row += 4;
            }
            while row < rows.end {
                matmul_tile::<S, 1, 2>(mul, row, column);
                row += 1;
            }
            column += wide;
        }
        for row in rows {
            let a = mul.a.add(row * mul.k);
            for column in whole..mul.n {
                let mut sum = 0.0;
                for k in 0..mul.k {
                    sum += *a.add(k) * *mul.b.add(k * mul.n + column);
                }
                *mul.out.add(row * mul.n + column) = sum;
            }
        }
    }
}

#[inline(always)]
unsafe fn matmul_tile<S: Simd<E = f32>, const P: usize, const N: usize>(
    mul: &MatMul,
    row: usize,
    column: usize,
) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut acc = [[S::splat(0.0); N]; P];
        let a = mul.a.add(row * mul.k);
        let b = mul.b.add(column);
        for k in 0..mul.k {
            let mut b_row = [S::load(b.add(k * mul.n)); N];
            for n in 1..N {
                b_row[n] = S::load(b.add(k * mul.n + n * S::LANES));
            }
            for p in 0..P {
                let x = S::splat(*a.add(p * mul.k + k));
                for n in 0..N {
                    acc[p][n] = S::fma(x, b_row[n], acc[p][n]);
                }
            }
        }
        for p in 0..P {
            for n in 0..N {
                S::store(mul.out.add((row + p) * mul.n + column + n * S::LANES), acc[p][n]);
            }
        }
    }
}

/// Softmax of a row in place: `e^(x - maximum)`, divided by their sum.
///
/// # Safety
/// The CPU has `S`; `row` is valid for `len` numbers, and belongs to this thread.
#[inline(always)]
pub unsafe fn softmax_row<S: Simd<E = f32>>(row: *mut f32, len: usize) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let whole = len / S::LANES * S::LANES;
        let mut greatest = f32::NEG_INFINITY;
        for i in 0..len {
            greatest = greatest.max(*row.add(i));
        }
        let top = S::splat(greatest);
        let mut sum = 0.0f32;
        let mut at = 0;
        let mut sums = S::splat(0.0);
        while at < whole {
            let e = S::exp(S::sub(S::load(row.add(at)), top));
            sums = S::add(sums, e);
            S::store(row.add(at), e);
            at += S::LANES;
        }
        let mut lanes = [0.0f32; 16];
        S::store(lanes.as_mut_ptr(), sums);
        for lane in &lanes[..S::LANES] {
            sum += lane;
        }
        for i in whole..len {
            let e = (*row.add(i) - greatest).exp();
            *row.add(i) = e;
            sum += e;
        }
        let share = 1.0 / sum;
        let share_all = S::splat(share);
        at = 0;
        while at < whole {
            S::store(row.add(at), S::mul(S::load(row.add(at)), share_all));
            at += S::LANES;
        }
        for i in whole..len {
            *row.add(i) *= share;
        }
    }
}

/// `1 / (1 + e^-x)`.
///
/// # Safety
/// The CPU has `S`; both are valid for `len` numbers; `to` belongs to this thread.
#[inline(always)]
pub unsafe fn sigmoid<S: Simd<E = f32>>(from: *const f32, to: *mut f32, len: usize) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let whole = len / S::LANES * S::LANES;
        let mut at = 0;
        while at < whole {
            S::store(to.add(at), S::sigmoid(S::load(from.add(at))));
            at += S::LANES;
        }
        for i in whole..len {
            *to.add(i) = 1.0 / (1.0 + (-*from.add(i)).exp());
        }
    }
}

/// `x / (1 + e^-x)`.
///
/// # Safety
/// As [`sigmoid`].
#[inline(always)]
pub unsafe fn silu<S: Simd<E = f32>>(from: *const f32, to: *mut f32, len: usize) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let whole = len / S::LANES * S::LANES;
        let mut at = 0;
        while at < whole {
            S::store(to.add(at), S::silu(S::load(from.add(at))));
            at += S::LANES;
        }
        for i in whole..len {
            let x = *from.add(i);
            *to.add(i) = x / (1.0 + (-x).exp());
        }
    }
}

/// Number of sums in [`multiply_and_add`]: enough to hide the latency of one.
pub const SUMS: usize = 12;

/// Only multiply-adds in registers: measures the peak of the CPU.
///
/// # Safety
/// The CPU has `S`; `out` has room for a vector.
#[inline(always)]
pub unsafe fn multiply_and_add<S: Simd<E = f32>>(rounds: usize, out: *mut f32) {
    // SAFETY: the caller guarantees it.
    unsafe {
        let (a, b) = (S::splat(0.999_9), S::splat(1e-6));
        let mut sums = [b; SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = S::fma(a, *sum, b);
            }
        }
        let mut all = sums[0];
        for sum in &sums[1..] {
            all = S::add(all, *sum);
        }
        S::store(out, all);
    }
}
