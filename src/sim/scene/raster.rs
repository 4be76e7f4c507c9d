//! Rasterises triangles and discs: colour, depth and object id for each sample.
//!
//! A picture has [`SAMPLES`] x [`SAMPLES`] samples per pixel; a pixel shows their mean, so edges are as soft as through a lens.

use super::super::random::speckle;
use super::super::view::Seen;

/// Samples along a pixel's side.
pub(super) const SAMPLES: usize = 2;

/// A projected vertex.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Corner {
    /// Its position in the picture, in samples.
    pub(super) seen: Seen,
    /// Red, green, blue, 0..=255.
    pub(super) color: [f32; 3],
    /// Its position on the surface, for the grain.
    pub(super) on: [f32; 2],
}

/// Visibility of one body.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Coverage {
    /// Samples that it would cover with nothing in front of it.
    pub(super) own: u32,
    /// Samples in which it is visible.
    pub(super) seen: u32,
    /// Bounding rectangle of those: left, top, right, bottom; the last two excluded.
    pub(super) bounds: [usize; 4],
}

/// A picture being rendered.
#[derive(Debug, Clone)]
pub(super) struct Raster {
    width: usize,
    height: usize,
    /// Red, green, blue, and an unused byte.
    pub(super) color: Vec<[u8; 4]>,
    /// One over the distance; 0 is the sky.
    pub(super) near: Vec<f32>,
    /// Object id per sample: 0 is no object.
    pub(super) whose: Vec<u16>,
    /// Object id that the sample would have without the other objects.
    stamp: Vec<u16>,
    own: Vec<u32>,
}

/// A value that is interpolated linearly over the picture.
#[derive(Clone, Copy)]
struct Slope {
    at: f32,
    dx: f32,
    dy: f32,
}

impl Slope {
    /// Through the values at three corners; `scale` is one over twice the triangle's area.
    fn through(corners: &[Corner; 3], values: [f32; 3], scale: f32) -> Self {
        let [a, b, c] = corners.map(|corner| corner.seen);
        let (p, q) = (values[1] - values[0], values[2] - values[0]);
        let dx = (p * (c.y - a.y) - q * (b.y - a.y)) * scale;
        let dy = (q * (b.x - a.x) - p * (c.x - a.x)) * scale;
        Slope { at: values[0] - dx * a.x - dy * a.y, dx, dy }
    }

    #[inline(always)]
    fn value(&self, x: f32, y: f32) -> f32 {
        self.at + self.dx * x + self.dy * y
    }
}

impl Raster {
    /// A black picture with this many samples.
    pub(super) fn new(width: usize, height: usize) -> Self {
        let samples = width * height;
        Raster {
            width,
            height,
            color: vec![[0; 4]; samples],
            near: vec![0.0; samples],
            whose: vec![0; samples],
            stamp: vec![0; samples],
            own: Vec::new(),
        }
    }

    /// The same with every page touched from the start, so that memory measurements include all of it. Not black: rendering starts from
    /// another picture.
    pub(super) fn resident(width: usize, height: usize) -> Self {
        let mut raster = Raster::new(width, height);
        raster.color.fill([1; 4]);
        raster.near.fill(1.0);
        raster.whose.fill(1);
        raster.stamp.fill(1);
        raster
    }

    /// Samples in a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Rows of samples.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// Starts from a part of another picture whose top left sample is `left`, `top`.
    pub(super) fn start_from(&mut self, other: &Raster, left: usize, top: usize) {
        for row in 0..self.height {
            let from = (top + row) * other.width + left;
            let to = row * self.width;
            self.color[to..to + self.width].copy_from_slice(&other.color[from..from + self.width]);
            self.near[to..to + self.width].copy_from_slice(&other.near[from..from + self.width]);
        }
        self.whose.fill(0);
        self.stamp.fill(0);
        self.own.clear();
    }

    /// The samples of a row between the edges of a triangle: those whose centre is inside.
    fn span(&self, corners: &[Corner; 3], y: f32) -> (usize, usize) {
        let (mut left, mut right) = (f32::INFINITY, f32::NEG_INFINITY);
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let (a, b) = (corners[from].seen, corners[to].seen);
            if (a.y <= y) != (b.y <= y) {
                let x = a.x + (y - a.y) / (b.y - a.y) * (b.x - a.x);
                left = left.min(x);
                right = right.max(x);
            }
        }
        let limit = self.width as f32;
        // A cast from a float saturates.
        ((left - 0.5).ceil().clamp(0.0, limit) as usize, (right - 0.5).ceil().clamp(0.0, limit) as usize)
    }

    /// Rows whose centre may be inside, and one over twice the area; none if there is nothing to render.
    fn rows(&self, corners: &[Corner; 3]) -> Option<(usize, usize, f32)> {
        let [a, b, c] = corners.map(|corner| corner.seen);
        let area = (b.x - a.x) * (c.y - a.y) - (c.x - a.x) * (b.y - a.y);
        if area.abs() < 1e-6 {
            return None;
        }
        let limit = self.height as f32;
        let top = (a.y.min(b.y).min(c.y) - 0.5).ceil().clamp(0.0, limit) as usize;
        let bottom = (a.y.max(b.y).max(c.y) - 0.5).ceil().clamp(0.0, limit) as usize;
        (top < bottom).then_some((top, bottom, 1.0 / area))
    }

    /// Renders a triangle of `whose`; `grain` is how much its surface varies, 0..1, in cells of 1 of `on`.
    pub(super) fn triangle(&mut self, corners: &[Corner; 3], whose: u16, grain: f32) {
        let Some((top, bottom, scale)) = self.rows(corners) else { return };
        let slope = |values: [f32; 3]| Slope::through(corners, values, scale);
        let near = slope(corners.map(|corner| corner.seen.near));
        let color: [Slope; 3] = [0, 1, 2].map(|part| slope(corners.map(|corner| corner.color[part])));
        let on: [Slope; 2] = [0, 1].map(|part| slope(corners.map(|corner| corner.on[part])));
        if self.own.len() <= usize::from(whose) {
            self.own.resize(usize::from(whose) + 1, 0);
        }
        let mut own = 0u32;
        for row in top..bottom {
            let y = row as f32 + 0.5;
            let (left, right) = self.span(corners, y);
            if left >= right {
                continue;
            }
            let line = row * self.width;
            let range = line + left..line + right;
            let samples = self.near[range.clone()]
                .iter_mut()
                .zip(&mut self.color[range.clone()])
                .zip(&mut self.whose[range.clone()])
                .zip(&mut self.stamp[range]);
            for (index, (((nearest, shown), owner), stamp)) in samples.enumerate() {
                let x = (left + index) as f32 + 0.5;
                own = own.wrapping_add(u32::from(*stamp != whose));
                *stamp = whose;
                let own_near = near.value(x, y);
                if own_near <= *nearest {
                    continue;
                }
                *nearest = own_near;
                *owner = whose;
                let mut light = 1.0;
                if grain > 0.0 {
                    let cell = speckle(on[0].value(x, y).floor() as i32, on[1].value(x, y).floor() as i32);
                    light += grain * (cell - 0.5);
                }
                for (part, slope) in color.iter().enumerate() {
                    shown[part] = (slope.value(x, y) * light) as u8;
                }
            }
        }
        self.own[usize::from(whose)] = self.own[usize::from(whose)].wrapping_add(own);
    }

    /// Darkens (`keep` < 1) the ground below a triangle, each sample once per call of [`Raster::start_from`]: only samples in the
    /// triangle's own plane.
    pub(super) fn shadow(&mut self, corners: &[Corner; 3], keep: f32) {
        let Some((top, bottom, scale)) = self.rows(corners) else { return };
        let near = Slope::through(corners, corners.map(|corner| corner.seen.near), scale);
        for row in top..bottom {
            let y = row as f32 + 0.5;
            let (left, right) = self.span(corners, y);
            for column in left..right.max(left) {
                let place = row * self.width + column;
                let plane = near.value(column as f32 + 0.5, y);
                let on_it = (self.near[place] - plane).abs() < plane * 0.02;
                // The fourth byte marks samples that are already in the shadow.
                if on_it && self.color[place][3] == 0 {
                    let [red, green, blue, _] = self.color[place].map(|part| (f32::from(part) * keep) as u8);
                    self.color[place] = [red, green, blue, 1];
                }
            }
        }
    }

    /// Adds light to samples in a triangle's plane, as given by the corners' colours.
    pub(super) fn glow(&mut self, corners: &[Corner; 3]) {
        let Some((top, bottom, scale)) = self.rows(corners) else { return };
        let slope = |values: [f32; 3]| Slope::through(corners, values, scale);
        let near = slope(corners.map(|corner| corner.seen.near));
        let color: [Slope; 3] = [0, 1, 2].map(|part| slope(corners.map(|corner| corner.color[part])));
        for row in top..bottom {
            let y = row as f32 + 0.5;
            let (left, right) = self.span(corners, y);
            for column in left..right.max(left) {
                let (x, place) = (column as f32 + 0.5, row * self.width + column);
                let plane = near.value(x, y);
                if (self.near[place] - plane).abs() < plane * 0.02 {
                    for (part, slope) in color.iter().enumerate() {
                        let light = f32::from(self.color[place][part]) + slope.value(x, y).max(0.0);
                        self.color[place][part] = light as u8;
                    }
                }
            }
        }
    }

    /// Renders a disc that faces the camera.
    pub(super) fn disc(&mut self, at: Seen, radius: f32, color: [f32; 3], whose: u16) {
        let limit = |value: f32, most: usize| value.clamp(0.0, most as f32) as usize;
        let rows = limit((at.y - radius - 0.5).ceil(), self.height)
            ..limit((at.y + radius - 0.5).ceil(), self.height);
        let shown = color.map(|part| part as u8);
        for row in rows {
            let dy = row as f32 + 0.5 - at.y;
            let half = (radius * radius - dy * dy).max(0.0).sqrt();
            let left = limit((at.x - half - 0.5).ceil(), self.width);
            let right = limit((at.x + half - 0.5).ceil(), self.width);
            for place in row * self.width + left..row * self.width + right.max(left) {
                if self.near[place] < at.near {
                    self.near[place] = at.near;
                    self.whose[place] = whose;
                    let [red, green, blue] = shown;
                    self.color[place] = [red, green, blue, 0];
                }
            }
        }
    }

    /// Visibility of the body `whose`, which lies within `within` (left, top, right, bottom).
    pub(super) fn coverage(&self, whose: u16, within: [f32; 4]) -> Coverage {
        let limit = |value: f32, most: usize| value.clamp(0.0, most as f32) as usize;
        let (left, right) = (limit(within[0].floor(), self.width), limit(within[2].ceil() + 1.0, self.width));
        let (top, bottom) =
            (limit(within[1].floor(), self.height), limit(within[3].ceil() + 1.0, self.height));
        let own = self.own.get(usize::from(whose)).copied().unwrap_or(0);
        let mut coverage = Coverage { own, seen: 0, bounds: [right, bottom, left, top] };
        for row in top..bottom {
            for column in left..right {
                if self.whose[row * self.width + column] == whose {
                    coverage.seen += 1;
                    let [l, t, r, b] = coverage.bounds;
                    coverage.bounds = [l.min(column), t.min(row), r.max(column + 1), b.max(row + 1)];
                }
            }
        }
        coverage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corner(x: f32, y: f32, near: f32) -> Corner {
        Corner { seen: Seen { x, y, near }, color: [200.0, 100.0, 50.0], on: [0.0; 2] }
    }

    fn square(raster: &mut Raster, [left, top, right, bottom]: [f32; 4], near: f32, whose: u16) {
        let corners = [
            corner(left, top, near),
            corner(right, top, near),
            corner(right, bottom, near),
            corner(left, bottom, near),
        ];
        raster.triangle(&[corners[0], corners[1], corners[2]], whose, 0.0);
        raster.triangle(&[corners[0], corners[2], corners[3]], whose, 0.0);
    }

    #[test]
    fn two_triangles_of_a_square_cover_each_sample_once() {
        let mut raster = Raster::new(20, 10);
        square(&mut raster, [2.0, 3.0, 12.0, 7.0], 0.5, 1);
        let coverage = raster.coverage(1, [0.0, 0.0, 20.0, 10.0]);
        assert_eq!(coverage, Coverage { own: 40, seen: 40, bounds: [2, 3, 12, 7] });
        assert_eq!(raster.color[3 * 20 + 2], [200, 100, 50, 0]);
    }

    #[test]
    fn the_nearer_body_is_seen_and_the_farther_one_reports_its_hidden_share() {
        for order in [[1u16, 2], [2, 1]] {
            let mut raster = Raster::new(20, 10);
            for whose in order {
                let (left, near) = if whose == 1 { (2.0, 0.5) } else { (6.0, 0.7) };
                square(&mut raster, [left, 3.0, left + 8.0, 7.0], near, whose);
            }
            assert_eq!(
                raster.coverage(1, [0.0, 0.0, 20.0, 10.0]),
                Coverage { own: 32, seen: 16, bounds: [2, 3, 6, 7] }
            );
            assert_eq!(raster.coverage(2, [0.0, 0.0, 20.0, 10.0]).seen, 32);
        }
    }

    #[test]
    fn triangles_outside_the_picture_do_no_harm() {
        let mut raster = Raster::new(16, 16);
        square(&mut raster, [-1e6, -1e6, 1e6, 1e6], 0.5, 1);
        square(&mut raster, [20.0, 0.0, 30.0, 10.0], 0.6, 2);
        raster.disc(Seen { x: -3.0, y: 17.0, near: 0.9 }, 1e5, [1.0; 3], 3);
        assert_eq!(raster.coverage(1, [-1e9, -1e9, 1e9, 1e9]).own, 256);
        assert_eq!(raster.coverage(2, [0.0, 0.0, 16.0, 16.0]).own, 0);
        assert_eq!(raster.coverage(3, [0.0, 0.0, 16.0, 16.0]).seen, 256);
        raster.triangle(&[corner(f32::NAN, 0.0, 1.0), corner(5.0, 0.0, 1.0), corner(5.0, 9.0, 1.0)], 4, 0.0);
    }

    #[test]
    fn a_shadow_darkens_its_own_plane_once() {
        let mut raster = Raster::new(8, 8);
        let mut light = raster.clone();
        square(&mut light, [0.0, 0.0, 8.0, 4.0], 0.5, 0);
        raster.start_from(&light, 0, 0);
        let all = [corner(-20.0, -20.0, 0.5), corner(40.0, -20.0, 0.5), corner(0.0, 40.0, 0.5)];
        raster.shadow(&all, 0.5);
        raster.shadow(&all, 0.5);
        assert_eq!(raster.color[0], [100, 50, 25, 1]);
        assert_eq!(raster.color[7 * 8], [0, 0, 0, 0], "not in the plane");
    }
}
