//! The background model: each cell's usual brightness and noise.
//!
//! ```text
//!            |now - background| <= threshold            differs                      differs, and has looked
//!   warm-up ────────────────────────────────► Still ───────────► Different ── ... ──► the same for absorb_s
//!   (running mean)                              ▲  ◄───────────────┘ returns               │
//!                                               └──────────────────────────────────────────┘ that look is learnt
//! ```
//! A cell that is still updates its background and its noise; one that differs changes neither, so a slow car cannot
//! teach the model that it is road. Two things act on all cells at once: a change of light moves the whole background
//! ([`super::light`]), and a picture that is different nearly everywhere and yet stands still (a lamp that lights the
//! scene unevenly, a camera that was turned) becomes the new background after [`RELEARN_S`].

use std::time::Duration;

use super::downscale::CELL_BITS;
use super::light::{Light, LightChange};
use super::regions::CELLS_MAX;

/// Fraction bits of background and noise: averaging over minutes changes them by less than a thousandth per frame.
const BITS: u32 = 16;
/// From cells to background units.
const CELL_SHIFT: u32 = BITS - CELL_BITS;
/// Highest code value, and the range of an unclipped background, which is kept so that a light change and its opposite
/// cancel although the camera clipped in between.
const WHITE: i32 = 255 << BITS;
const UNCLIPPED: (i32, i32) = (-(256 << BITS), 512 << BITS);

/// Time constant of a still cell's background, seconds: follows sun and clouds, but a contrast of 25 that grows over
/// less than about ten seconds still crosses the threshold.
const STILL_S: f32 = 4.0;
/// Time constant of the noise, seconds; growing night-time gain is slower.
const NOISE_S: f32 = 8.0;
/// Time constant of the noise of the whole picture, seconds.
const NOISE_ALL_S: f32 = 2.0;
/// Seconds that a picture which differs nearly everywhere must stand still before it becomes the background.
const RELEARN_S: f32 = 2.0;
/// Share of cells (percent) that must differ from the background, and must equal the previous frame, for that.
const RELEARN_DIFFERENT_PERCENT: usize = 50;
const RELEARN_STEADY_PERCENT: usize = 98;
/// Light steps above this (code values at the scene's mean) are reported; smaller ones are drift.
const LIGHT_STEP_MIN: f32 = 2.0;
/// Fraction of a light step by which a cell may be off: tone curves and shadows are not linear.
const LIGHT_SLACK: f32 = 1.0 / 8.0;
/// Fraction of the contrast to the neighbouring cells by which a cell may be off: the camera shakes in the wind by this
/// fraction of a cell (a quarter of an 8-pixel cell: two pixels), and bright road markings must not open the gate for
/// that.
const TREMBLE: f32 = 0.25;
/// Frames in the running mean after a light step: its remainder is gone in a few frames.
const FRAMES_AFTER_LIGHT: u32 = 3;

/// A normal distribution's standard deviation over its mean absolute deviation, and its mean absolute deviation over
/// its median absolute deviation: sqrt(pi/2) and sqrt(2/pi)/0.6745.
const SIGMA_PER_MEAN: f32 = 1.2533;
const MEAN_PER_MEDIAN: f32 = 1.1829;

/// Settings of the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuning {
    /// Minimum difference, code values.
    pub(super) luma_delta_min: f32,
    /// Minimum difference in standard deviations of the noise.
    pub(super) noise_factor: f32,
    /// How long a stationary object stays different.
    pub(super) absorb: Duration,
}

/// The effect of a frame on the whole model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// No change of all cells.
    None,
    /// The light of the whole scene changed, and the background followed.
    Light,
    /// The whole picture became the new background.
    Relearnt,
}

/// The model of all cells. [`Background::new`] allocates all memory.
pub(super) struct Background {
    tuning: Tuning,
    light: Light,
    /// Usual brightness.
    mean: Box<[i32]>,
    /// Mean absolute deviation from it, while still.
    noise: Box<[i32]>,
    /// The brightness of a cell that differs, and for how long, milliseconds.
    candidate: Box<[i32]>,
    candidate_ms: Box<[u32]>,
    /// The previous frame.
    previous: Box<[u16]>,
    /// Highest contrast of the mean to one of the four neighbouring cells.
    contrast: Box<[i32]>,
    /// Frames in the running mean; no longer counted once the time constants take over.
    frames: u32,
    /// Mean absolute deviation of the whole picture (from the median, so that moving objects do not count).
    noise_all: f32,
    /// Extra threshold after a light step, code values; halves with each frame.
    slack: f32,
    /// How long the picture has been different and steady.
    relearn_s: f32,
}

impl Background {
    /// Other thresholds from the next look on.
    pub(super) const fn set_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    pub(super) fn new(tuning: Tuning) -> Self {
        Background {
            tuning,
            light: Light::new(),
            mean: vec![0; CELLS_MAX].into(),
            noise: vec![0; CELLS_MAX].into(),
            candidate: vec![0; CELLS_MAX].into(),
            candidate_ms: vec![0; CELLS_MAX].into(),
            previous: vec![0; CELLS_MAX].into(),
            contrast: vec![0; CELLS_MAX].into(),
            frames: 0,
            noise_all: 0.0,
            slack: 0.0,
            relearn_s: 0.0,
        }
    }

    pub(super) const fn bytes() -> usize {
        CELLS_MAX * (4 * size_of::<i32>() + size_of::<u32>() + size_of::<u16>()) + Light::bytes()
    }

    /// Resets the model: the next frame becomes the background.
    pub(super) fn forget(&mut self) {
        self.frames = 0;
    }

    /// Compares a frame with the model, marks the cells that differ, and learns. `dt` is the time since the previous
    /// frame. A row has `width` cells.
    pub(super) fn look(&mut self, now: &[u16], width: usize, dt: Duration, different: &mut [bool]) -> Change {
        if self.frames == 0 {
            self.relearn(now);
            different[..now.len()].fill(false);
            return Change::None;
        }
        let dt_s = dt.as_secs_f32();
        let line = self.light.fit(now, &self.mean[..now.len()], self.threshold_all());
        let step = line.map_or(0.0, |line| self.follow(line, now.len()));
        self.measure_contrast(now.len(), width);
        let count = self.compare(now, dt, different);
        self.follow_noise(now, dt_s);
        let steady = self.steady(now);
        self.previous[..now.len()].copy_from_slice(now);
        self.slack /= 2.0;
        if steady && count * 100 >= now.len() * RELEARN_DIFFERENT_PERCENT {
            self.relearn_s += dt_s;
            if self.relearn_s >= RELEARN_S {
                self.relearn(now);
                different[..now.len()].fill(false);
                return Change::Relearnt;
            }
        } else {
            self.relearn_s = 0.0;
        }
        if step >= LIGHT_STEP_MIN { Change::Light } else { Change::None }
    }

    /// Makes this frame the background. The noise of the camera is kept, if it is known.
    fn relearn(&mut self, now: &[u16]) {
        let first = self.frames == 0;
        for (at, &cell) in now.iter().enumerate() {
            self.mean[at] = i32::from(cell) << CELL_SHIFT;
            self.candidate[at] = self.mean[at];
            self.candidate_ms[at] = 0;
            self.previous[at] = cell;
            if first {
                self.noise[at] = 0;
            }
        }
        if first {
            self.noise_all = 0.0;
        }
        (self.frames, self.slack, self.relearn_s) = (1, 0.0, 0.0);
    }

    /// Threshold for the picture as a whole, code values.
    fn threshold_all(&self) -> f32 {
        self.tuning.luma_delta_min.max(self.tuning.noise_factor * SIGMA_PER_MEAN * self.noise_all)
    }

    /// Moves the whole background to the new light. Returns the step at the mean brightness, code values.
    fn follow(&mut self, line: LightChange, cells: usize) -> f32 {
        let moved = |value: i32| {
            let to = line.of(value as f32 / WHITE as f32 * 255.0) * (WHITE as f32 / 255.0);
            (to as i32).clamp(UNCLIPPED.0, UNCLIPPED.1)
        };
        let mut sum = 0i64;
        for (mean, candidate) in self.mean[..cells].iter_mut().zip(&mut self.candidate) {
            sum += i64::from(*mean);
            *mean = moved(*mean);
            *candidate = moved(*candidate);
        }
        let step = line.shift(sum as f32 / cells as f32 / (1u32 << BITS) as f32).abs();
        self.slack = self.slack.max(step * LIGHT_SLACK);
        if step >= LIGHT_STEP_MIN {
            self.frames = self.frames.min(FRAMES_AFTER_LIGHT);
        }
        step
    }

    /// The highest contrast of each cell to its four neighbours.
    fn measure_contrast(&mut self, cells: usize, width: usize) {
        let mean = &self.mean[..cells];
        let contrast = &mut self.contrast[..cells];
        contrast.fill(0);
        let mut pair = |a: usize, b: usize| {
            let difference = (mean[a] - mean[b]).abs();
            contrast[a] = contrast[a].max(difference);
            contrast[b] = contrast[b].max(difference);
        };
        for at in 0..cells {
            if at % width > 0 {
                pair(at - 1, at);
            }
            if at >= width {
                pair(at - width, at);
            }
        }
    }

    /// Marks and counts the cells that differ; the others learn.
    fn compare(&mut self, now: &[u16], dt: Duration, different: &mut [bool]) -> usize {
        let fixed = |codes: f32| (codes * (1u32 << BITS) as f32) as i32;
        let dt_ms = u32::try_from(dt.as_millis()).unwrap_or(u32::MAX);
        let absorb_ms = u32::try_from(self.tuning.absorb.as_millis()).unwrap_or(u32::MAX);
        let (fast, slow) = (part(dt, STILL_S, self.frames + 1), part(dt, NOISE_S, self.frames));
        let factor = i64::from(fixed(self.tuning.noise_factor * SIGMA_PER_MEAN));
        let least = fixed(self.threshold_all());
        let slack = fixed(self.slack);
        let tremble = i64::from(fixed(TREMBLE));
        let mut count = 0;
        for (at, &cell) in now.iter().enumerate() {
            let value = i32::from(cell) << CELL_SHIFT;
            let mean = self.mean[at];
            let off = value - mean.clamp(0, WHITE);
            let noisy = ((i64::from(self.noise[at]) * factor) >> BITS).min(i64::from(WHITE)) as i32;
            let threshold = least.max(noisy) + slack + scaled(self.contrast[at], tremble);
            different[at] = off.abs() > threshold;
            if !different[at] {
                // A clipped cell says nothing about its true brightness.
                if (0..=WHITE).contains(&mean) {
                    self.mean[at] = mean + scaled(off, fast);
                }
                self.noise[at] += scaled(off.abs() - self.noise[at], slow);
                (self.candidate[at], self.candidate_ms[at]) = (value, 0);
                continue;
            }
            count += 1;
            if (value - self.candidate[at].clamp(0, WHITE)).abs() <= threshold {
                self.candidate[at] += scaled(value - self.candidate[at], fast);
                self.candidate_ms[at] = self.candidate_ms[at].saturating_add(dt_ms);
                if self.candidate_ms[at] >= absorb_ms {
                    self.mean[at] = self.candidate[at];
                }
            } else {
                (self.candidate[at], self.candidate_ms[at]) = (value, 0);
            }
        }
        // From here on the time constants decide; the count must not overflow in years.
        self.frames = (self.frames + 1).min(1 << 12);
        count
    }

    /// Follows the noise of the whole picture by the median of the deviations. It may grow no faster than its time
    /// constant allows, so that a truck across the picture is not taken for noise.
    fn follow_noise(&mut self, now: &[u16], dt_s: f32) {
        // Bins of a sixteenth of a code value, up to 32 code values.
        let mut bins = [0u32; 512];
        for (&cell, &mean) in now.iter().zip(&self.mean) {
            let off = (i32::from(cell) << CELL_SHIFT) - mean.clamp(0, WHITE);
            bins[((off.unsigned_abs() >> (BITS - 4)) as usize).min(511)] += 1;
        }
        let mut below = 0;
        let middle = bins.iter().position(|bin| {
            below += *bin as usize;
            below * 2 > now.len()
        });
        let seen = (middle.unwrap_or(0) as f32 + 0.5) / 16.0 * MEAN_PER_MEDIAN;
        let keep = dt_s / (NOISE_ALL_S + dt_s);
        // The first frame sets the value. After that a frame adds at most a fraction of the current value (and of half
        // a code value, so that it can grow from zero).
        if self.frames <= 3 {
            self.noise_all = self.noise_all.max(seen.min(16.0));
        } else {
            let step = (seen - self.noise_all) * keep;
            self.noise_all += step.min((self.noise_all + 0.5) * keep);
        }
    }

    /// Whether nearly all cells equal those of the previous frame.
    fn steady(&self, now: &[u16]) -> bool {
        // Two frames' noise: the square root of two.
        let limit = (self.threshold_all() * 1.5 * (1u32 << CELL_BITS) as f32) as u16;
        let same = now.iter().zip(&self.previous).filter(|(a, b)| a.abs_diff(**b) <= limit).count();
        same * 100 >= now.len() * RELEARN_STEADY_PERCENT
    }
}

/// The weight (16 fraction bits) of a deviation in a mean, for a frame `dt` after the last: a running mean over the
/// first `frames`, then an exponential one with `time_s`.
fn part(dt: Duration, time_s: f32, frames: u32) -> i64 {
    let dt_s = dt.as_secs_f32();
    let part = (dt_s / (time_s + dt_s)).max(1.0 / frames.max(1) as f32);
    (part.min(1.0) * 65536.0) as i64
}

fn scaled(value: i32, part: i64) -> i32 {
    ((i64::from(value) * part) >> BITS) as i32
}
