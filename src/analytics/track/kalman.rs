//! Position and motion of a box: a constant-velocity Kalman filter in seconds, not in frames.
//!
//! ByteTrack, DeepSORT and BoT-SORT filter eight numbers: centre, size and their velocities. All their noise matrices
//! are diagonal and a position couples only with its own velocity, so that filter *is* four filters of two numbers
//! ([`Axis`]); a test compares them with the dense 8x8 form. Noise scales with the side of the box along its own axis
//! (BoT-SORT, Aharon et al. 2022, equations 3 and 4).
//!
//! **From frames to seconds.** The published constants (`1/20` of the side for positions, `1/160` for velocities) are
//! standard deviations *per frame* of MOT17, taken here as 30 frames a second. Variances add up over time, so the
//! rates are `30 * (1/20)²` side² per second and `30 * (30/160)²` (side/s)² per second; in between, velocity noise also
//! moves the position, hence the `dt²/2` and `dt³/3` terms of the continuous white-noise-acceleration model. With them
//! predicting twice by half the time equals predicting once, whatever the frame rate does.
//!
//! The initial velocity is our own: see [`BoxFilter::new`].

use crate::base::geometry::{BoxPx, Frame};

/// Frames a second behind the published per-frame constants.
const REFERENCE_FPS: f32 = 30.0;
/// Standard deviation of a measured side or centre, fraction of the side. `std_weight_position` of the ByteTrack code.
pub(super) const MEASURED_STD: f32 = 1.0 / 20.0;
/// The same for a box that the frame's edge cuts: its centre is not the object's. Our own value.
const CUT_STD: f32 = 3.0 / 20.0;
/// Growth of the position's variance, side² per second.
const POSITION_RATE: f32 = REFERENCE_FPS * MEASURED_STD * MEASURED_STD;
/// Growth of the velocity's variance, (side/s)² per second. `std_weight_velocity` of the ByteTrack code is 1/160.
const VELOCITY_RATE: f32 = REFERENCE_FPS * (REFERENCE_FPS / 160.0) * (REFERENCE_FPS / 160.0);
/// Standard deviation of the velocity of a new box's sides, sides per second: `10 * 30/160` of the ByteTrack code.
const GROWTH_STD: f32 = 10.0 * REFERENCE_FPS / 160.0;
/// A predicted side stays within this factor of the last measured one: extrapolated sizes are unreliable.
const SIDE_FACTOR_MAX: f32 = 2.0;

/// One coordinate and its velocity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    /// Pixels.
    pub(super) at: f32,
    /// Pixels per second.
    pub(super) speed: f32,
    /// Variance of `at`.
    var_at: f32,
    /// Covariance.
    var_both: f32,
    /// Variance of `speed`.
    var_speed: f32,
}

impl Axis {
    fn new(at: f32, at_std: f32, speed_std: f32) -> Self {
        Axis { at, speed: 0.0, var_at: at_std * at_std, var_both: 0.0, var_speed: speed_std * speed_std }
    }

    /// Predicts `dt` seconds ahead; `side` scales the noise.
    fn predict(&mut self, dt: f32, side: f32) {
        let (position, velocity) = (POSITION_RATE * side * side, VELOCITY_RATE * side * side);
        self.at += self.speed * dt;
        self.var_at += (2.0 * self.var_both + self.var_speed * dt + position + velocity * dt * dt / 3.0) * dt;
        self.var_both += (self.var_speed + velocity * dt / 2.0) * dt;
        self.var_speed += velocity * dt;
    }

    /// Updates with a measurement `at` of standard deviation `std`.
    fn correct(&mut self, at: f32, std: f32) {
        let total = self.var_at + std * std;
        let (gain_at, gain_speed) = (self.var_at / total, self.var_both / total);
        // `1 - gain_at`, but without the cancellation that f32 would suffer after a long gap.
        let kept = std * std / total;
        let surprise = at - self.at;
        self.at += gain_at * surprise;
        self.speed += gain_speed * surprise;
        self.var_speed = (self.var_speed - gain_speed * self.var_both).max(0.0);
        self.var_both *= kept;
        self.var_at *= kept;
    }
}

/// Centre and size of a box with their velocities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BoxFilter {
    pub(super) cx: Axis,
    pub(super) cy: Axis,
    w: Axis,
    h: Axis,
    /// The last measured sides; unchanged between measurements. Lower bounds of the predicted sides derive from them.
    measured: [f32; 2],
    /// The scale of the noise along each axis, at least the measured side. Upper bounds of the predicted sides derive from it.
    scale: [f32; 2],
}

fn sides(bbox: &BoxPx<Frame>) -> [f32; 2] {
    [bbox.width(), bbox.height()]
}

/// The scale of the noise for a box with these sides: the sides themselves, or the longer of them for a box that the frame's edge cuts,
/// because a sliver of a car moves and grows like the car.
fn noise_scale(sides: [f32; 2], cut: bool) -> [f32; 2] {
    if cut { [sides[0].max(sides[1]); 2] } else { sides }
}

fn centre(bbox: &BoxPx<Frame>) -> [f32; 2] {
    [f32::midpoint(bbox.x1, bbox.x2), f32::midpoint(bbox.y1, bbox.y2)]
}

impl BoxFilter {
    /// A box seen for the first time; `cut` if the frame's edge cuts it.
    ///
    /// Nothing is known about its velocity except that it is below `speed_max` sides a second, which is taken as three standard deviations.
    /// ByteTrack's start (1.9 sides/s, one standard deviation) suits people: a car that passes a roadside camera makes 3 to 9 of its widths
    /// a second.
    pub(super) fn new(bbox: &BoxPx<Frame>, cut: bool, speed_max: f32) -> Self {
        let measured = sides(bbox);
        let scale = noise_scale(measured, cut);
        let [cx, cy] = centre(bbox);
        let (at, speed) = (2.0 * MEASURED_STD, speed_max / 3.0);
        BoxFilter {
            cx: Axis::new(cx, at * scale[0], speed * scale[0]),
            cy: Axis::new(cy, at * scale[1], speed * scale[1]),
            w: Axis::new(measured[0], at * scale[0], GROWTH_STD * scale[0]),
            h: Axis::new(measured[1], at * scale[1], GROWTH_STD * scale[1]),
            measured,
            scale,
        }
    }

    /// Predicts `dt` seconds ahead, `dt >= 0`.
    pub(super) fn predict(&mut self, dt: f32) {
        let [across, down] = self.scale;
        for (axis, scale) in
            [(&mut self.cx, across), (&mut self.cy, down), (&mut self.w, across), (&mut self.h, down)]
        {
            axis.predict(dt, scale);
        }
    }

    /// Updates with a detection.
    pub(super) fn correct(&mut self, bbox: &BoxPx<Frame>, cut: bool) {
        self.measured = sides(bbox);
        self.scale = noise_scale(self.measured, cut);
        let std = if cut { CUT_STD } else { MEASURED_STD };
        let [cx, cy] = centre(bbox);
        self.cx.correct(cx, std * self.scale[0]);
        self.cy.correct(cy, std * self.scale[1]);
        self.w.correct(self.measured[0], std * self.scale[0]);
        self.h.correct(self.measured[1], std * self.scale[1]);
    }

    /// The predicted box.
    pub(super) fn expected(&self) -> BoxPx<Frame> {
        // Each side has its own lower bound: the bonnet of a parked car, 205x37 above the frame's lower edge, stays 37 high. Only a box
        // that is cut may become as large as its longer side suggests, because more of the object lies outside.
        let keep = |axis: &Axis, index: usize| {
            let (measured, scale) = (self.measured[index], self.scale[index]);
            axis.at.clamp(measured / SIDE_FACTOR_MAX, scale * SIDE_FACTOR_MAX)
        };
        BoxPx::from_centre(self.cx.at, self.cy.at, keep(&self.w, 0), keep(&self.h, 1))
    }

    /// Squared distance of a box's centre from the predicted one in standard deviations of both together (Mahalanobis). `std_max` limits
    /// the deviation of the prediction, in sides.
    pub(super) fn distance2(&self, bbox: &BoxPx<Frame>, std_max: f32) -> f32 {
        let [cx, cy] = centre(bbox);
        let part = |axis: &Axis, at: f32, scale: f32| {
            let expected = axis.var_at.min(std_max * std_max * scale * scale);
            let total = expected + MEASURED_STD * MEASURED_STD * scale * scale;
            (at - axis.at) * (at - axis.at) / total
        };
        part(&self.cx, cx, self.scale[0]) + part(&self.cy, cy, self.scale[1])
    }

    /// Stops the growth of the sides: for a box that is out of sight (ByteTrack does the same with its height).
    pub(super) fn hold_size(&mut self) {
        self.w.speed = 0.0;
        self.h.speed = 0.0;
    }

    /// Sets the velocity to zero: nothing moved in the picture.
    pub(super) fn stop(&mut self) {
        self.hold_size();
        self.cx.speed = 0.0;
        self.cy.speed = 0.0;
    }
}

#[cfg(test)]
#[allow(clippy::needless_range_loop, reason = "matrices read best with their indices")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type M = [[f64; 8]; 8];

    fn mul(a: &M, b: &M) -> M {
        let mut c = [[0.0; 8]; 8];
        for i in 0..8 {
            for j in 0..8 {
                c[i][j] = (0..8).map(|k| a[i][k] * b[k][j]).sum();
            }
        }
        c
    }

    fn transposed(a: &M) -> M {
        let mut t = [[0.0; 8]; 8];
        for i in 0..8 {
            for j in 0..8 {
                t[i][j] = a[j][i];
            }
        }
        t
    }

    /// Inverse of a 4x4 matrix by Gauss-Jordan with pivoting.
    fn inverse4(mut a: [[f64; 4]; 4]) -> [[f64; 4]; 4] {
        let mut inv = [[0.0; 4]; 4];
        for (i, row) in inv.iter_mut().enumerate() {
            row[i] = 1.0;
        }
        for c in 0..4 {
            let pivot = (c..4).max_by(|&x, &y| a[x][c].abs().total_cmp(&a[y][c].abs())).unwrap();
            a.swap(c, pivot);
            inv.swap(c, pivot);
            let d = a[c][c];
            for j in 0..4 {
                a[c][j] /= d;
                inv[c][j] /= d;
            }
            for i in (0..4).filter(|&i| i != c) {
                let f = a[i][c];
                for j in 0..4 {
                    a[i][j] -= f * a[c][j];
                    inv[i][j] -= f * inv[c][j];
                }
            }
        }
        inv
    }

    /// The textbook filter, dense, f64, its constants repeated independently.
    struct Dense {
        x: [f64; 8],
        p: M,
    }

    impl Dense {
        fn new(z: [f64; 4], speed_max: f64) -> Self {
            let mut p = [[0.0; 8]; 8];
            for i in 0..4 {
                let side = z[2 + i % 2];
                p[i][i] = (0.1 * side).powi(2);
                p[4 + i][4 + i] = (if i < 2 { speed_max / 3.0 } else { 1.875 } * side).powi(2);
            }
            Dense { x: [z[0], z[1], z[2], z[3], 0.0, 0.0, 0.0, 0.0], p }
        }

        fn predict(&mut self, dt: f64, side: [f64; 2]) {
            let mut f = [[0.0; 8]; 8];
            let mut q = [[0.0; 8]; 8];
            for i in 0..8 {
                f[i][i] = 1.0;
            }
            for i in 0..4 {
                f[i][i + 4] = dt;
                let s2 = side[i % 2].powi(2);
                let (qp, qv) = (30.0 / 400.0 * s2, 30.0 * (30.0f64 / 160.0).powi(2) * s2);
                q[i][i] = qp * dt + qv * dt.powi(3) / 3.0;
                q[i][i + 4] = qv * dt * dt / 2.0;
                q[i + 4][i] = q[i][i + 4];
                q[i + 4][i + 4] = qv * dt;
            }
            let x = self.x;
            for i in 0..8 {
                self.x[i] = (0..8).map(|k| f[i][k] * x[k]).sum();
            }
            self.p = mul(&mul(&f, &self.p), &transposed(&f));
            for i in 0..8 {
                for j in 0..8 {
                    self.p[i][j] += q[i][j];
                }
            }
        }

        fn correct(&mut self, z: [f64; 4]) {
            let mut s = [[0.0; 4]; 4];
            for i in 0..4 {
                for j in 0..4 {
                    s[i][j] = self.p[i][j];
                }
                s[i][i] += (0.05 * z[2 + i % 2]).powi(2);
            }
            let s = inverse4(s);
            let mut k = [[0.0; 4]; 8];
            for i in 0..8 {
                for j in 0..4 {
                    k[i][j] = (0..4).map(|l| self.p[i][l] * s[l][j]).sum();
                }
            }
            let y: [f64; 4] = std::array::from_fn(|i| z[i] - self.x[i]);
            for i in 0..8 {
                self.x[i] += (0..4).map(|j| k[i][j] * y[j]).sum::<f64>();
            }
            let p = self.p;
            for i in 0..8 {
                for j in 0..8 {
                    self.p[i][j] -= (0..4).map(|l| k[i][l] * p[l][j]).sum::<f64>();
                }
            }
        }
    }

    fn near(ours: f32, theirs: f64, scale: f64) -> bool {
        (f64::from(ours) - theirs).abs() < 2e-3 * scale
    }

    proptest! {
        /// Four filters of two numbers equal the dense filter of eight.
        #[test]
        fn agrees_with_the_dense_filter(
            steps in proptest::collection::vec(
                (0.0f32..2.0, 0.0f32..1000.0, 0.0f32..700.0, 20.0f32..200.0, 20.0f32..200.0), 1..20),
        ) {
            let of = |s: &(f32, f32, f32, f32, f32)| BoxPx::from_centre(s.1, s.2, s.3, s.4);
            let z = |b: &BoxPx<Frame>| {
                let [cx, cy] = centre(b);
                [cx, cy, b.width(), b.height()].map(f64::from)
            };
            let first = of(&steps[0]);
            let mut ours = BoxFilter::new(&first, false, 12.0);
            let mut dense = Dense::new(z(&first), 12.0);
            let mut side = [z(&first)[2], z(&first)[3]];
            for step in &steps[1..] {
                let seen = of(step);
                ours.predict(step.0);
                dense.predict(f64::from(step.0), side);
                ours.correct(&seen, false);
                dense.correct(z(&seen));
                side = [z(&seen)[2], z(&seen)[3]];
                for (i, axis) in [ours.cx, ours.cy, ours.w, ours.h].iter().enumerate() {
                    prop_assert!(near(axis.at, dense.x[i], 1000.0), "at {i}: {axis:?} {:?}", dense.x);
                    prop_assert!(near(axis.speed, dense.x[4 + i], 10_000.0), "speed {i}: {axis:?} {:?}", dense.x);
                    prop_assert!(near(axis.var_at, dense.p[i][i], 1.0 + dense.p[i][i]), "var {i}");
                    prop_assert!(near(axis.var_speed, dense.p[4 + i][4 + i], 1.0 + dense.p[4 + i][4 + i]), "var {i}");
                }
            }
        }

        /// However time is divided into frames, the prediction is the same.
        #[test]
        fn two_half_predictions_equal_one(cuts in proptest::collection::vec(0.0f32..0.5, 1..20), at in 0.0f32..1000.0) {
            let first = BoxPx::from_centre(at, 100.0, 80.0, 40.0);
            let mut many = BoxFilter::new(&first, false, 12.0);
            many.predict(0.1);
            many.correct(&BoxPx::from_centre(at + 30.0, 100.0, 84.0, 42.0), false);
            let mut once = many;
            for dt in &cuts {
                many.predict(*dt);
            }
            once.predict(cuts.iter().sum());
            for (a, b) in [(many.cx, once.cx), (many.h, once.h)] {
                prop_assert!((a.at - b.at).abs() < 0.1 + 1e-3 * b.at.abs());
                prop_assert!((a.var_at - b.var_at).abs() < 1e-3 * b.var_at);
                prop_assert!((a.var_both - b.var_both).abs() < 1e-3 * b.var_both.abs());
                prop_assert!((a.var_speed - b.var_speed).abs() < 1e-3 * b.var_speed);
            }
        }
    }

    /// One second of ByteTrack's own per-frame recursion at 30 FPS, compared with one second of ours.
    #[test]
    fn a_second_is_thirty_published_frames() {
        let side = 60.0f64;
        let (mut p, mut c, mut v) = ((0.1 * side).powi(2), 0.0, (10.0 / 160.0 * side).powi(2));
        for _ in 0..30 {
            p += 2.0 * c + v + (side / 20.0).powi(2);
            c += v;
            v += (side / 160.0).powi(2);
        }
        let mut ours = Axis::new(0.0, 0.1 * 60.0, GROWTH_STD * 60.0);
        ours.predict(1.0, 60.0);
        assert!((f64::from(ours.var_at) / p - 1.0).abs() < 0.03, "{} {p}", ours.var_at);
        assert!((f64::from(ours.var_speed) / (v * 900.0) - 1.0).abs() < 1e-4);
    }

    /// A stationary box that the frame's edge cuts is predicted as it was measured, at whichever edge, however flat or narrow it is: the
    /// bonnet of a parked car was predicted as 205x102 instead of 205x37.
    #[test]
    fn a_stationary_box_at_the_edge_is_predicted_as_measured() {
        for bbox in [
            BoxPx::new(251.0, 323.0, 456.0, 360.0),
            BoxPx::new(251.0, 0.0, 456.0, 37.0),
            BoxPx::new(0.0, 100.0, 25.0, 220.0),
            BoxPx::new(0.0, 352.0, 300.0, 360.0),
        ] {
            let mut filter = BoxFilter::new(&bbox, true, 12.0);
            for frame in 0..30 {
                let iou = filter.expected().iou(&bbox);
                assert!(iou > 0.99, "{frame}: {:?} for {bbox:?}, IoU {iou}", filter.expected());
                filter.predict(1.0 / 6.0);
                filter.correct(&bbox, true);
            }
        }
    }

    /// Each side of a car that drives into the picture grows up to twice its longer side, not only up to twice the slice seen so far.
    #[test]
    fn a_slice_at_the_edge_may_grow_to_a_whole_car() {
        let slice = |width: f32| BoxPx::new(0.0, 100.0, width, 160.0);
        let mut filter = BoxFilter::new(&slice(10.0), true, 12.0);
        filter.predict(0.1);
        filter.correct(&slice(40.0), true);
        filter.predict(0.6);
        let width = filter.expected().width();
        assert!((90.0..=120.0).contains(&width), "{width}");
        // And a box that shrinks while it leaves does not vanish.
        filter.w.at = -50.0;
        assert_eq!(filter.expected().width(), 20.0);
    }

    /// Two detections are enough to know the velocity.
    #[test]
    fn the_second_detection_gives_the_velocity() {
        for fps in [2.0f32, 6.0, 15.0, 30.0] {
            let mut filter = BoxFilter::new(&BoxPx::from_centre(100.0, 100.0, 120.0, 60.0), false, 12.0);
            filter.predict(1.0 / fps);
            filter.correct(&BoxPx::from_centre(100.0 + 400.0 / fps, 100.0, 120.0, 60.0), false);
            let part = filter.cx.speed / 400.0;
            assert!((0.5..1.01).contains(&part), "{fps}: {part}");
            assert_eq!(filter.cy.speed, 0.0);
        }
    }
}
