//! Inverse DCT of an 8x8 block, accurate integer: the algorithm of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) with
//! 13 fraction bits and 2 extra bits between the passes, as in the IJG's `jidctint.c` ("islow"), bit for bit.
//!
//! ```text
//! coefficients (rows) ─► pass over 8 columns at once ─► transpose ─► the same pass ─► transpose ─► +128, clamp
//! ```
//! A pass works on all eight columns side by side, so that the compiler keeps them in vector registers. All arithmetic wraps: coefficients
//! that no encoder writes give wrong pixels, never a panic.

/// One value for each of eight columns.
#[derive(Clone, Copy)]
struct Lanes([i32; 8]);

impl Lanes {
    const ZERO: Lanes = Lanes([0; 8]);

    #[inline(always)]
    fn plus(self, other: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
    }

    #[inline(always)]
    fn minus(self, other: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|i| self.0[i].wrapping_sub(other.0[i])))
    }

    #[inline(always)]
    fn times(self, factor: i32) -> Lanes {
        Lanes(std::array::from_fn(|i| self.0[i].wrapping_mul(factor)))
    }

    /// Divides by 2^`SHIFT`, rounded to nearest.
    #[inline(always)]
    fn descale<const SHIFT: u32>(self) -> Lanes {
        Lanes(std::array::from_fn(|i| self.0[i].wrapping_add(1 << (SHIFT - 1)) >> SHIFT))
    }
}

/// Fraction bits of the constants below.
const CONST_BITS: u32 = 13;
/// Extra bits that the first pass keeps for the second.
const PASS1_BITS: u32 = 2;
const FIX_0_298631336: i32 = 2446;
const FIX_0_390180644: i32 = 3196;
const FIX_0_541196100: i32 = 4433;
const FIX_0_765366865: i32 = 6270;
const FIX_0_899976223: i32 = 7373;
const FIX_1_175875602: i32 = 9633;
const FIX_1_501321110: i32 = 12299;
const FIX_1_847759065: i32 = 15137;
const FIX_1_961570560: i32 = 16069;
const FIX_2_053119869: i32 = 16819;
const FIX_2_562915447: i32 = 20995;
const FIX_3_072711026: i32 = 25172;

/// Last position in zigzag order up to which all coefficients lie in the upper left 4x4: such blocks, the majority of a camera's, take the
/// short path. Positions 0..=9 are the diagonals 0..=3.
const QUARTER_LAST: usize = 9;

/// The inverse DCT of dequantised `coefficients` (row by row, 8 a row), of which none beyond zigzag position `last` is
/// other than zero. Samples 0..=255, row by row.
pub(super) fn idct(coefficients: &[i32; 64], last: usize) -> [[u8; 8]; 8] {
    if last == 0 {
        return [[mean(coefficients[0]); 8]; 8];
    }
    if last <= QUARTER_LAST { both_passes::<true>(coefficients) } else { both_passes::<false>(coefficients) }
}

/// The sample value of a block that has only its DC coefficient, and the mean of every other block.
#[inline(always)]
pub(super) fn mean(dc: i32) -> u8 {
    ((dc.wrapping_add(4) >> 3).wrapping_add(128)).clamp(0, 255) as u8
}

#[inline(always)]
fn both_passes<const QUARTER: bool>(coefficients: &[i32; 64]) -> [[u8; 8]; 8] {
    let mut rows = [Lanes::ZERO; 8];
    for (row, from) in rows.iter_mut().zip(coefficients.chunks_exact(8)) {
        row.0.copy_from_slice(from);
    }
    let columns = transpose(&pass::<QUARTER, { CONST_BITS - PASS1_BITS }>(&rows));
    // Division by 8 belongs to the two-dimensional transform (T.81 A.3.3): 3 bits more.
    let samples = transpose(&pass::<QUARTER, { CONST_BITS + PASS1_BITS + 3 }>(&columns));
    samples.map(|row| row.0.map(|v| v.wrapping_add(128).clamp(0, 255) as u8))
}

#[inline(always)]
fn transpose(m: &[Lanes; 8]) -> [Lanes; 8] {
    std::array::from_fn(|row| Lanes(std::array::from_fn(|column| m[column].0[row])))
}

/// One-dimensional transform down the columns. With `QUARTER` the inputs 4..8 are known to be zero.
#[inline(always)]
fn pass<const QUARTER: bool, const SHIFT: u32>(input: &[Lanes; 8]) -> [Lanes; 8] {
    let at = |index: usize| if QUARTER && index >= 4 { Lanes::ZERO } else { input[index] };
    // Even part.
    let rotated = at(2).plus(at(6)).times(FIX_0_541196100);
    let even2 = rotated.minus(at(6).times(FIX_1_847759065));
    let even3 = rotated.plus(at(2).times(FIX_0_765366865));
    let even0 = at(0).plus(at(4)).times(1 << CONST_BITS);
    let even1 = at(0).minus(at(4)).times(1 << CONST_BITS);
    let (sum0, sum3) = (even0.plus(even3), even0.minus(even3));
    let (sum1, sum2) = (even1.plus(even2), even1.minus(even2));
    // Odd part. The names follow figure 1 of the paper, as in jidctint.c.
    let (t0, t1, t2, t3) = (at(7), at(5), at(3), at(1));
    let z5 = t0.plus(t2).plus(t1.plus(t3)).times(FIX_1_175875602);
    let z1 = t0.plus(t3).times(-FIX_0_899976223);
    let z2 = t1.plus(t2).times(-FIX_2_562915447);
    let z3 = t0.plus(t2).times(-FIX_1_961570560).plus(z5);
    let z4 = t1.plus(t3).times(-FIX_0_390180644).plus(z5);
    let odd0 = t0.times(FIX_0_298631336).plus(z1).plus(z3);
    let odd1 = t1.times(FIX_2_053119869).plus(z2).plus(z4);
    let odd2 = t2.times(FIX_3_072711026).plus(z2).plus(z3);
    let odd3 = t3.times(FIX_1_501321110).plus(z1).plus(z4);
    [
        sum0.plus(odd3).descale::<SHIFT>(),
        sum1.plus(odd2).descale::<SHIFT>(),
        sum2.plus(odd1).descale::<SHIFT>(),
        sum3.plus(odd0).descale::<SHIFT>(),
        sum3.minus(odd0).descale::<SHIFT>(),
        sum2.minus(odd1).descale::<SHIFT>(),
        sum1.minus(odd2).descale::<SHIFT>(),
        sum0.minus(odd3).descale::<SHIFT>(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tables::ZIGZAG;
    use super::*;
    use proptest::prelude::*;

    /// T.81 A.3.3, literally.
    fn by_the_book(coefficients: &[i32; 64]) -> [[f64; 8]; 8] {
        let scale = |index: usize| if index == 0 { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 };
        let wave = |at: usize, index: usize| {
            ((2 * at + 1) as f64 * index as f64 * std::f64::consts::PI / 16.0).cos() * scale(index)
        };
        std::array::from_fn(|y| {
            std::array::from_fn(|x| {
                let mut sum = 0.0;
                for v in 0..8 {
                    for u in 0..8 {
                        sum += f64::from(coefficients[v * 8 + u]) * wave(x, u) * wave(y, v);
                    }
                }
                (sum / 4.0 + 128.0).clamp(0.0, 255.0)
            })
        })
    }

    proptest! {
        /// Never more than one code value from the exact transform, on average at most half of one, which rounding alone may cost.
        #[test]
        fn within_one_of_the_definition(
            values in proptest::collection::vec(-300i32..300, 64), last in 0usize..64, zeroes in any::<u64>(),
        ) {
            let mut coefficients = [0; 64];
            for k in 0..=last {
                if zeroes >> k & 1 == 0 { coefficients[usize::from(ZIGZAG[k])] = values[k]; }
            }
            let (ours, exact) = (idct(&coefficients, last), by_the_book(&coefficients));
            let mut sum = 0.0;
            for y in 0..8 { for x in 0..8 {
                let error = (f64::from(ours[y][x]) - exact[y][x]).abs();
                prop_assert!(error < 1.0, "{error} at {x},{y}");
                sum += error;
            } }
            prop_assert!(sum / 64.0 < 0.51, "{sum}");
        }

        /// Any numbers at all: no panic, and the short paths equal the long one where both apply.
        #[test]
        fn any_coefficients_never_panic_and_short_paths_equal_the_long_one(values in proptest::collection::vec(any::<i32>(), 64), last in 0usize..=QUARTER_LAST) {
            let _ = idct(&std::array::from_fn(|i| values[i]), 63);
            let mut small = [0; 64];
            for k in 0..=last { small[usize::from(ZIGZAG[k])] = values[k] % 2000; }
            prop_assert_eq!(idct(&small, last), both_passes::<false>(&small));
        }
    }
}
