//! Random numbers from a seed: the same on every machine, every time.

use libm::logf;

/// A random number generator: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator for that seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// An independent generator for one purpose, so that drawing more numbers for one purpose does not change another.
    pub fn stream(seed: u64, purpose: u64) -> Self {
        Random(mix(seed ^ mix(purpose.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// Any number.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// In 0..1, in steps of 2^-24.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 16_777_216.0
    }

    /// A number in `least`..`most`.
    pub fn range(&mut self, least: f32, most: f32) -> f32 {
        least + (most - least) * self.unit()
    }

    /// A whole number in 0..`count`; 0 if there is none.
    pub fn below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { ((self.bits() >> 32).wrapping_mul(count as u64) >> 32) as usize }
    }

    /// A whole number in 0..`below`, for small `below`; 0 for 0.
    pub fn whole(&mut self, below: u64) -> u64 {
        self.bits() % below.max(1)
    }

    /// True with a probability of one in this many.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.whole(times) == 0
    }

    /// True with this probability.
    pub fn chance(&mut self, share: f32) -> bool {
        self.unit() < share
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is none: a bug in the caller.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// An index with a probability proportional to its weight; the last one if all are 0.
    pub fn weighted(&mut self, weights: &[f32]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f32>();
        for (index, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return index;
            }
        }
        weights.len().saturating_sub(1)
    }

    /// Bell-shaped around 0 with a standard deviation of 1, never beyond 6 (twelve uniform numbers).
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    /// Time to the next of independent events, `mean` apart on average.
    pub fn exponential(&mut self, mean: f32) -> f32 {
        -mean * logf(1.0 - self.unit())
    }
}

/// A hash that looks random for each input: the finaliser of SplitMix64.
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A hash of two small numbers, in 0..1; cheap enough for every pixel.
#[inline(always)]
pub fn speckle(x: i32, y: i32) -> f32 {
    let mut hash = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77);
    hash = (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d);
    hash = (hash ^ (hash >> 12)).wrapping_mul(0x297a_2d39);
    ((hash >> 8) & 0xffff) as f32 / 65_536.0
}

/// Smooth noise in 0..1 with features of size 1.
pub fn smooth_noise(x: f32, y: f32) -> f32 {
    let (column, row) = (x.floor(), y.floor());
    let ease = |part: f32| part * part * (3.0 - 2.0 * part);
    let (across, down) = (ease(x - column), ease(y - row));
    let (column, row) = (column as i32, row as i32);
    let at = |dx: i32, dy: i32| speckle(column.wrapping_add(dx), row.wrapping_add(dy));
    let top = at(0, 0) + (at(1, 0) - at(0, 0)) * across;
    let bottom = at(0, 1) + (at(1, 1) - at(0, 1)) * across;
    top + (bottom - top) * down
}

/// Sum of smooth noise at several scales, each half as large and half as strong, in 0..1.
pub fn cloud_noise(x: f32, y: f32) -> f32 {
    let mut sum = 0.0;
    let (mut scale, mut weight) = (1.0, 0.5);
    for layer in 0..4u8 {
        let shift = f32::from(layer) * 17.3;
        sum += weight * smooth_noise(x * scale + shift, y * scale - shift);
        scale *= 2.0;
        weight *= 0.5;
    }
    sum / 0.9375
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        // First output of SplitMix64 for the seed 1234567, from the reference implementation (prng.di.unimi.it).
        assert_eq!(Random::new(1_234_567).bits(), 6_457_827_717_110_365_317);
        let mut random = Random::stream(7, 1);
        let first: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        let mut again = Random::stream(7, 1);
        assert_eq!(first, (0..3).map(|_| again.bits()).collect::<Vec<_>>());
        assert_ne!(Random::stream(7, 2).bits(), first[0]);
        assert_ne!(Random::stream(8, 1).bits(), first[0]);
    }

    #[test]
    fn means_and_bounds_match_the_documentation() {
        let mut random = Random::new(1);
        let count = 20_000;
        let mut sums = [0.0f64; 4];
        for _ in 0..count {
            let (unit, normal, wait) = (random.unit(), random.normal(), random.exponential(3.0));
            assert!((0.0..1.0).contains(&unit) && wait >= 0.0 && random.below(5) < 5);
            for (sum, value) in sums.iter_mut().zip([unit, normal, normal * normal, wait]) {
                *sum += f64::from(value) / f64::from(count);
            }
        }
        for (mean, wanted) in sums.iter().zip([0.5, 0.0, 1.0, 3.0]) {
            assert!((mean - wanted).abs() < 0.05, "{mean} is not {wanted}");
        }
        let mut hits = [0; 3];
        for _ in 0..3000 {
            hits[random.weighted(&[1.0, 0.0, 2.0])] += 1;
        }
        assert_eq!(hits[1], 0);
        assert!((900..1100).contains(&hits[0]), "{hits:?}");
    }

    #[test]
    fn noise_is_smooth_and_between_0_and_1() {
        for step in 0..2000 {
            let x = step as f32 * 0.013 - 9.0;
            let (here, there) = (smooth_noise(x, 0.4), smooth_noise(x + 0.01, 0.4));
            assert!((0.0..=1.0).contains(&here) && (here - there).abs() < 0.03, "at {x}: {here} {there}");
            assert!((0.0..=1.0).contains(&cloud_noise(x, 0.3)));
        }
    }
}
