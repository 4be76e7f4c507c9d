//! Half-precision numbers, fp16 (IEEE 754 binary16): 11 bits of precision, up to 65504.

use super::simd::Number;

/// An fp16 number, by its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Half(pub u16);

impl Half {
    /// Rounds to nearest, ties to even; too large is infinite.
    pub const fn of_const(number: f32) -> Self {
        let bits = number.to_bits();
        let sign = (bits >> 16) as u16 & 0x8000;
        let size = bits & 0x7FFF_FFFF;
        if size > 0x7F80_0000 {
            return Half(sign | 0x7E00);
        }
        // 65520 and more.
        if size >= 0x477F_F000 {
            return Half(sign | 0x7C00);
        }
        // Below 2^-14: in steps of 2^-24, which adding 0.5 rounds to.
        if size < 0x3880_0000 {
            let steps = (f32::from_bits(size) + 0.5).to_bits() - 0.5f32.to_bits();
            return Half(sign | steps as u16);
        }
        let even = size >> 13 & 1;
        Half(sign | ((size - (112 << 23) + 0xFFF + even) >> 13) as u16)
    }

    /// Bits whose order as integers is that of the numbers.
    const fn key(self) -> i16 {
        let bits = self.0.cast_signed();
        bits ^ ((bits >> 15).cast_unsigned() >> 1).cast_signed()
    }
}

impl Number for Half {
    fn of(number: f32) -> Self {
        Half::of_const(number)
    }

    fn to(self) -> f32 {
        let (sign, size) = (u32::from(self.0 & 0x8000) << 16, u32::from(self.0 & 0x7FFF));
        let bits = if size >= 0x7C00 {
            size << 13 | 0x7F80_0000
        } else if size >= 0x400 {
            (size << 13) + (112 << 23)
        } else {
            (size as f32 / 16_777_216.0).to_bits()
        };
        f32::from_bits(sign | bits)
    }

    fn is_below(self, other: Self) -> bool {
        self.0 & 0x7FFF <= 0x7C00 && self.key() < other.key()
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn eight_of(numbers: [f32; 8]) -> [Self; 8] {
        use std::arch::aarch64::{
            vcvt_f16_f32, vcvt_high_f16_f32, vld1q_f32, vreinterpretq_u16_f16, vst1q_u16,
        };
        let mut eight = [Half(0); 8];
        // SAFETY: every 64-bit ARM CPU converts them; both have eight.
        unsafe {
            let low = vcvt_f16_f32(vld1q_f32(numbers.as_ptr()));
            let all = vcvt_high_f16_f32(low, vld1q_f32(numbers.as_ptr().add(4)));
            vst1q_u16(eight.as_mut_ptr().cast(), vreinterpretq_u16_f16(all));
        }
        eight
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn eight_to(numbers: [Self; 8]) -> [f32; 8] {
        use std::arch::aarch64::{
            vcvt_f32_f16, vcvt_high_f32_f16, vget_low_f16, vld1q_u16, vreinterpretq_f16_u16, vst1q_f32,
        };
        let mut eight = [0.0; 8];
        // SAFETY: every 64-bit ARM CPU converts them; both have eight.
        unsafe {
            let all = vreinterpretq_f16_u16(vld1q_u16(numbers.as_ptr().cast()));
            vst1q_f32(eight.as_mut_ptr(), vcvt_f32_f16(vget_low_f16(all)));
            vst1q_f32(eight.as_mut_ptr().add(4), vcvt_high_f32_f16(all));
        }
        eight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_round_trips_and_others_are_rounded_to_nearest() {
        let mut before: Option<Half> = None;
        for bits in 0..=0x7C00u16 {
            let half = Half(bits);
            assert_eq!((Half::of(half.to()), Half::of(-half.to()).0), (half, bits | 0x8000));
            if let Some(before) = before.replace(half).filter(|_| bits < 0x7C00) {
                let middle = f32::midpoint(before.to(), half.to());
                let even = if bits & 1 == 0 { half } else { before };
                assert_eq!(Half::of(middle), even, "{middle}");
                assert_eq!(Half::of(middle.next_up()), half);
                assert_eq!(Half::of(middle.next_down()), before);
                assert!(before.is_below(half) && !half.is_below(before) && !half.is_below(half));
                assert!(Half(bits | 0x8000).is_below(Half(before.0 | 0x8000)));
            }
        }
        let some = [0.1, -3e-6, 1e-8, -0.0, 65504.0, 7e4, 1.0 / 3.0, -2049.0];
        assert_eq!(Half::eight_of(some), some.map(Half::of));
        assert_eq!(Half::eight_to(some.map(Half::of)), some.map(Half::of).map(Half::to));
        assert_eq!((Half::of(65519.0).0, Half::of(65520.0).0, Half::of(1e9).0), (0x7BFF, 0x7C00, 0x7C00));
        assert!(Half::of(f32::NAN).to().is_nan() && !Half::of(f32::NAN).is_below(Half(0x7C00)));
        assert!(!Half(0xFE00).is_below(Half(0x7C00)));
    }
}
