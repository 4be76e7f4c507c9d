//! Global light change: the gain and offset that turn the background into the current frame.
//!
//! Auto-exposure, a cloud, sunset and a lamp over the whole scene change the brightness of all cells roughly along one
//! straight line from old to new; a road user does not. So: propose a few lines (none needs the whole picture to be
//! unobstructed), keep the one that most cells agree with, and refine it by least squares over those cells. If too few
//! cells agree, it is motion and not a light change.

use super::downscale::CELL_BITS;
use super::regions::CELLS_MAX;

/// Share of all cells that must lie on a line before it is accepted, in percent: a truck may cover a third.
const INLIERS_MIN_PERCENT: u32 = 60;
/// Accepted gains: one stop either way. Beyond that, a bright or dark object fills the picture.
const GAIN_RANGE: std::ops::RangeInclusive<f32> = 0.5..=2.0;
/// Lines that move less than this at any brightness, code values, are left to the background's own averaging.
const SHIFT_MIN: f32 = 0.5;
/// Weight (code values squared) of the prior "gain is 1" in the fit: decides in a scene without contrast.
const GAIN_PRIOR: f32 = 4.0;
/// Cells outside are clipped by the camera and say nothing about the gain, code values.
const UNCLIPPED: std::ops::RangeInclusive<f32> = 5.0..=250.0;

/// Brightness now = `gain` * background + `offset`, in code values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LightChange {
    pub(super) gain: f32,
    pub(super) offset: f32,
}

impl LightChange {
    const SAME: LightChange = LightChange { gain: 1.0, offset: 0.0 };

    /// Unclipped brightness, which may leave 0..=255.
    pub(super) fn of(self, background: f32) -> f32 {
        self.gain * background + self.offset
    }

    /// How much the line changes a cell of that brightness, code values.
    pub(super) fn shift(self, background: f32) -> f32 {
        self.of(background) - background
    }

    fn residual(self, now: f32, background: f32) -> f32 {
        now - self.of(background).clamp(0.0, 255.0)
    }
}

/// Scratch memory of the fit: cells as code values.
pub(super) struct Light {
    now: Box<[f32]>,
    background: Box<[f32]>,
}

/// Counts of values in bins of equal width, for medians without sorting.
struct Histogram {
    bins: [u32; 1024],
    count: u32,
    low: f32,
    per_unit: f32,
}

impl Histogram {
    fn new(low: f32, high: f32) -> Self {
        Histogram { bins: [0; 1024], count: 0, low, per_unit: 1024.0 / (high - low) }
    }

    fn add(&mut self, value: f32) {
        // `as` saturates: values outside go to the first or last bin.
        let bin = ((value - self.low) * self.per_unit) as usize;
        self.bins[bin.min(1023)] += 1;
        self.count += 1;
    }

    /// The centre of the bin that contains the median.
    fn median(&self) -> Option<f32> {
        let mut below = 0;
        for (index, bin) in self.bins.iter().enumerate() {
            below += bin;
            if below * 2 > self.count {
                return Some(self.low + (index as f32 + 0.5) / self.per_unit);
            }
        }
        None
    }
}

impl Light {
    pub(super) fn new() -> Self {
        Light { now: vec![0.0; CELLS_MAX].into(), background: vec![0.0; CELLS_MAX].into() }
    }

    pub(super) const fn bytes() -> usize {
        2 * CELLS_MAX * size_of::<f32>()
    }

    /// The line from `background` (16 fraction bits) to `now` (`CELL_BITS`), if there is a light change worth
    /// following. Cells within `tolerance` code values agree with a line.
    pub(super) fn fit(&mut self, now: &[u16], background: &[i32], tolerance: f32) -> Option<LightChange> {
        let cells = now.len().min(background.len());
        for (to, from) in self.now.iter_mut().zip(now) {
            *to = f32::from(*from) / (1u32 << CELL_BITS) as f32;
        }
        for (to, from) in self.background.iter_mut().zip(background) {
            *to = *from as f32 / 65536.0;
        }
        let mut differences = Histogram::new(-256.0, 256.0);
        self.pairs(cells).for_each(|(n, b)| differences.add(n - b));
        let offset = differences.median()?;
        let agreeing = self.inliers(cells, LightChange::SAME, tolerance);
        // The usual frame: nearly all cells agree and the median did not move (a bin is half a code value wide).
        if agreeing * 100 >= cells as u32 * 98 && offset.abs() <= SHIFT_MIN {
            return None;
        }
        let mut best = (agreeing, LightChange::SAME);
        for line in [Some(LightChange { gain: 1.0, offset }), self.gain_only(cells), self.two_halves(cells)] {
            let Some(line) = line.filter(|line| GAIN_RANGE.contains(&line.gain)) else { continue };
            let agreeing = self.inliers(cells, line, tolerance);
            if agreeing > best.0 {
                best = (agreeing, line);
            }
        }
        // Narrowing tolerances, so that cells which only happen to lie near the line drop out. Losing a few cells (two
        // in a hundred) for a better line is worth it.
        for part in [1.0, 0.5, 0.5] {
            let Some(line) = self.least_squares(cells, best.1, tolerance * part) else { break };
            let agreeing = self.inliers(cells, line, tolerance);
            if agreeing * 100 < best.0 * 98 || !GAIN_RANGE.contains(&line.gain) {
                break;
            }
            best = (agreeing, line);
        }
        let moves = [0.0, 128.0, 255.0].iter().any(|&b| best.1.shift(b).abs() > SHIFT_MIN);
        (moves && best.0 * 100 >= cells as u32 * INLIERS_MIN_PERCENT).then_some(best.1)
    }

    fn pairs(&self, cells: usize) -> impl Iterator<Item = (f32, f32)> + '_ {
        self.now[..cells].iter().copied().zip(self.background[..cells].iter().copied())
    }

    fn inliers(&self, cells: usize, line: LightChange, tolerance: f32) -> u32 {
        self.pairs(cells).map(|(n, b)| u32::from(line.residual(n, b).abs() <= tolerance)).sum()
    }

    /// Median ratio: exposure time and analogue gain act like this.
    fn gain_only(&self, cells: usize) -> Option<LightChange> {
        let mut ratios = Histogram::new(0.0, 4.0);
        self.pairs(cells)
            .filter(|(n, b)| *b >= 8.0 && UNCLIPPED.contains(n))
            .for_each(|(n, b)| ratios.add(n / b));
        ratios.median().map(|gain| LightChange { gain, offset: 0.0 })
    }

    /// The line through the medians of the darker and the brighter half of the scene.
    fn two_halves(&self, cells: usize) -> Option<LightChange> {
        let mut all = Histogram::new(0.0, 256.0);
        self.pairs(cells).for_each(|(_, b)| all.add(b));
        let middle = all.median()?;
        let mut halves = [(); 4].map(|()| Histogram::new(0.0, 256.0));
        for (n, b) in self.pairs(cells) {
            let half = usize::from(b > middle) * 2;
            halves[half].add(b);
            halves[half + 1].add(n);
        }
        let [b0, n0, b1, n1] = halves.map(|h| h.median());
        let (b0, n0, b1, n1) = (b0?, n0?, b1?, n1?);
        // Halves closer than this show noise, not gain.
        (b1 - b0 >= 4.0).then(|| {
            let gain = (n1 - n0) / (b1 - b0);
            LightChange { gain, offset: n0 - gain * b0 }
        })
    }

    /// Least squares over the unclipped cells that agree with `line`.
    fn least_squares(&self, cells: usize, line: LightChange, tolerance: f32) -> Option<LightChange> {
        let agree = |(n, b): &(f32, f32)| UNCLIPPED.contains(n) && line.residual(*n, *b).abs() <= tolerance;
        let (mut count, mut sum_b, mut sum_d) = (0.0f32, 0.0f32, 0.0f32);
        for (n, b) in self.pairs(cells).filter(agree) {
            count += 1.0;
            sum_b += b;
            sum_d += n - b;
        }
        if count < 1.0 {
            return None;
        }
        let (mean_b, mean_d) = (sum_b / count, sum_d / count);
        let (mut bb, mut bd) = (GAIN_PRIOR * count, 0.0);
        for (n, b) in self.pairs(cells).filter(agree) {
            bb += (b - mean_b) * (b - mean_b);
            bd += (b - mean_b) * (n - b - mean_d);
        }
        let slope = bd / bb;
        Some(LightChange { gain: 1.0 + slope, offset: mean_d - slope * mean_b })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scene of 60x60 cells with contrast, whose light follows `truth`, partly covered by something else.
    fn scene(truth: LightChange, covered_percent: usize) -> (Vec<u16>, Vec<i32>) {
        let background: Vec<f32> = (0..3600).map(|i| 60.0 + ((i * 37) % 101) as f32).collect();
        let now = background.iter().enumerate().map(|(i, b)| {
            let seen = if i * 100 < covered_percent * 3600 { 210.0 } else { truth.of(*b).clamp(0.0, 255.0) };
            (seen * 64.0).round() as u16
        });
        (now.collect(), background.iter().map(|b| (b * 65536.0) as i32).collect())
    }

    #[test]
    fn light_changes_are_found_although_a_third_is_covered() {
        for truth in [(1.3, 0.0), (0.7, 0.0), (1.0, 30.0), (1.0, -30.0), (0.8, 12.0), (1.9, -20.0)] {
            for covered in [0, 10, 35] {
                let truth = LightChange { gain: truth.0, offset: truth.1 };
                let (now, background) = scene(truth, covered);
                let found = Light::new().fit(&now, &background, 8.0).expect("a line");
                for b in [60.0, 110.0, 160.0] {
                    let off = (found.of(b) - truth.of(b)).abs();
                    assert!(off < 1.5, "{truth:?} covered {covered} %: {found:?} is off by {off} at {b}");
                }
            }
        }
    }

    #[test]
    fn an_object_that_covers_more_is_not_a_light_change() {
        let (now, background) = scene(LightChange::SAME, 55);
        assert_eq!(Light::new().fit(&now, &background, 8.0), None);
        let (now, background) = scene(LightChange { gain: 1.3, offset: 0.0 }, 60);
        assert_eq!(Light::new().fit(&now, &background, 8.0), None);
    }

    /// Just over half of the cells follow a line and the rest is random: the light is unknown.
    #[test]
    fn agreement_of_half_the_cells_is_not_enough() {
        let (mut now, background) = scene(LightChange { gain: 1.3, offset: 0.0 }, 0);
        for (i, cell) in now.iter_mut().enumerate().filter(|(i, _)| i % 20 >= 11) {
            *cell = (20 * 64) + ((i * 7919) % 3000) as u16;
        }
        assert_eq!(Light::new().fit(&now, &background, 8.0), None);
    }

    #[test]
    fn unchanged_light_gives_no_line() {
        for covered in [0, 1, 5, 30] {
            let (now, background) = scene(LightChange::SAME, covered);
            assert_eq!(Light::new().fit(&now, &background, 8.0), None, "covered {covered} %");
        }
    }
}
