//! Tests of the element-wise functions; the plan's tests compare the kernels with their definitions.

use super::*;

#[test]
fn sigmoid_and_silu_match_their_definitions() {
    let numbers: Vec<f32> =
        (-4000..=4000).map(|i| i as f32 * 0.025).chain([1e6, -1e6, 0.0, -0.0, 1e-30]).collect();
    for isa in Isa::all() {
        // Without a fused multiply-add the argument itself is rounded.
        let error = if isa == Isa::Portable { 1e-5 } else { 1e-6 };
        let mut out = vec![0.0; numbers.len()];
        // SAFETY: both have that many numbers; the CPU has what `all` names.
        unsafe { sigmoid(isa, numbers.as_ptr(), out.as_mut_ptr(), numbers.len()) };
        for (x, y) in numbers.iter().zip(&out) {
            let exact = 1.0 / (1.0 + (-f64::from(*x)).exp());
            assert!((f64::from(*y) - exact).abs() <= error * exact + 1e-30, "{isa:?} sigmoid({x}) = {y}");
        }
        let none = [f32::NAN; 17];
        // SAFETY: as above.
        unsafe { sigmoid(isa, none.as_ptr(), out.as_mut_ptr(), none.len()) };
        assert!(out[..none.len()].iter().all(|y| y.is_nan()), "{isa:?}");
        // SAFETY: as above.
        unsafe { silu(isa, numbers.as_ptr(), out.as_mut_ptr(), numbers.len()) };
        for (x, y) in numbers.iter().zip(&out) {
            let exact = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
            assert!((f64::from(*y) - exact).abs() <= error * exact.abs() + 1e-8, "{isa:?} silu({x}) = {y}");
        }
    }
}

#[test]
fn a_softmax_sums_to_one_whatever_the_numbers() {
    for isa in Isa::all() {
        for len in 1..40 {
            let mut row: Vec<f32> = (0..len).map(|i| ((i * 37) % 19) as f32 * 5.0 - 300.0).collect();
            let exact: Vec<f64> = row.iter().map(|x| (f64::from(*x) + 210.0).exp()).collect();
            let sum: f64 = exact.iter().sum();
            // SAFETY: it has that many numbers; the CPU has what `all` names.
            unsafe { softmax_row(isa, row.as_mut_ptr(), len) };
            for (ours, exact) in row.iter().zip(exact) {
                assert!((f64::from(*ours) - exact / sum).abs() < 1e-6, "{isa:?} {len}");
            }
        }
    }
}
