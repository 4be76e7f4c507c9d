//! Renders bodies into a picture: the positions of their faces, their lighting, and the shadows that they cast.

use super::light::Lighting;
use super::mesh::Mesh;
use super::raster::{Corner, Raster};
use crate::sim::space::{Heading, Vec3, vec3};
use crate::sim::view::View;

/// Grain cells per metre of surface.
const GRAIN_PER_M: f32 = 14.0;

/// Renders what a camera sees in a given light.
pub(super) struct Brush<'a> {
    /// The target.
    pub(super) raster: &'a mut Raster,
    /// The camera's view, in samples.
    pub(super) view: View,
    /// The light.
    pub(super) lighting: &'a Lighting,
}

impl Brush<'_> {
    /// Renders a body at `at` with heading `heading`. Returns its whole rectangle, visible or not.
    pub(super) fn mesh(
        &mut self,
        mesh: &Mesh,
        heading: Heading,
        at: [f32; 2],
        whose: u16,
    ) -> Option<[f32; 4]> {
        let stand = vec3(at[0], at[1], 0.0);
        let mut whole: Option<[f32; 4]> = None;
        for face in &mesh.faces {
            let corners = face.corners.map(|corner| heading.turn(corner) + stand);
            let [a, b, c, d] = corners;
            let middle = (a + b + c + d) * 0.25;
            let to_eye = self.view.at() - middle;
            let normal = (c - a).cross(d - b);
            let seen = corners.map(|corner| self.view.see(corner));
            for seen in seen.into_iter().flatten() {
                let [left, top, right, bottom] = whole.unwrap_or([seen.x, seen.y, seen.x, seen.y]);
                whole = Some([left.min(seen.x), top.min(seen.y), right.max(seen.x), bottom.max(seen.y)]);
            }
            let [Some(p), Some(q), Some(r), Some(s)] = seen else { continue };
            if normal.dot(to_eye) <= 0.0 {
                continue;
            }
            let color = self.lighting.shade(&face.paint, middle, normal.unit(), to_eye);
            let own = face.corners;
            // Its grain lies in the two directions of its largest extent.
            let flat = (own[2] - own[0]).cross(own[3] - own[1]);
            let (ax, ay, az) = (flat.x.abs(), flat.y.abs(), flat.z.abs());
            let corner = |seen, own: Vec3| {
                let on = if az >= ax && az >= ay {
                    [own.x, own.y]
                } else if ay >= ax {
                    [own.x, own.z]
                } else {
                    [own.y, own.z]
                };
                // Less light comes from below, near the ground.
                let open = 0.72 + 0.28 * (own.z * 1.4).clamp(0.0, 1.0);
                let color = color.map(|part| (part * open).min(255.0));
                Corner { seen, color, on: on.map(|value| value * GRAIN_PER_M) }
            };
            let corners = [corner(p, own[0]), corner(q, own[1]), corner(r, own[2]), corner(s, own[3])];
            let grain = face.paint.grain;
            self.raster.triangle(&[corners[0], corners[1], corners[2]], whose, grain);
            if own[2] != own[3] {
                self.raster.triangle(&[corners[0], corners[2], corners[3]], whose, grain);
            }
        }
        whole
    }

    /// The shadow of a body on the ground, while the sun shines.
    pub(super) fn shadow(&mut self, mesh: &Mesh, heading: Heading, at: [f32; 2]) {
        if self.lighting.shadow >= 1.0 {
            return;
        }
        let (sun, stand) = (self.lighting.sun, vec3(at[0], at[1], 0.0));
        for face in &mesh.faces {
            let corners = face.corners.map(|corner| heading.turn(corner) + stand);
            if (corners[2] - corners[0]).cross(corners[3] - corners[1]).dot(sun) <= 0.0 {
                continue;
            }
            let ground = corners.map(|corner| corner - sun * (corner.z / sun.z));
            self.dark([ground[0], ground[1], ground[2]], self.lighting.shadow);
            self.dark([ground[0], ground[2], ground[3]], self.lighting.shadow);
        }
    }

    /// The shadow of a ball, for example of leaves.
    pub(super) fn blob_shadow(&mut self, middle: Vec3, radius: f32) {
        if self.lighting.shadow >= 1.0 {
            return;
        }
        let ground = middle - self.lighting.sun * (middle.z / self.lighting.sun.z);
        let (along, wide) = (vec3(self.lighting.sun.x, self.lighting.sun.y, 0.0).unit(), radius);
        let aside = vec3(-along.y, along.x, 0.0);
        let long = radius / self.lighting.sun.z;
        let corners =
            [along * long, aside * wide, along * -long, aside * -wide].map(|corner| ground + corner);
        self.dark([corners[0], corners[1], corners[2]], self.lighting.shadow);
        self.dark([corners[0], corners[2], corners[3]], self.lighting.shadow);
    }

    /// The contact shadow below a body of that length and width, in every weather.
    pub(super) fn contact(&mut self, heading: Heading, at: [f32; 2], [length, width]: [f32; 2]) {
        let stand = vec3(at[0], at[1], 0.0);
        for (grown, keep) in [(1.0, 0.45), (1.12, 0.78)] {
            let (x, y) = (length / 2.0 * grown, width / 2.0 * grown);
            let corners = [vec3(x, y, 0.0), vec3(-x, y, 0.0), vec3(-x, -y, 0.0), vec3(x, -y, 0.0)]
                .map(|c| heading.turn(c) + stand);
            self.dark([corners[0], corners[1], corners[2]], keep);
            self.dark([corners[0], corners[2], corners[3]], keep);
        }
    }

    fn dark(&mut self, corners: [Vec3; 3], keep: f32) {
        let [Some(a), Some(b), Some(c)] = corners.map(|corner| self.view.see(corner)) else { return };
        let corner = |seen| Corner { seen, color: [0.0; 3], on: [0.0; 2] };
        self.raster.shadow(&[corner(a), corner(b), corner(c)], keep);
    }

    /// Headlight on the ground in front of a vehicle: from 1 m before its nose, widening.
    pub(super) fn beam(&mut self, heading: Heading, at: [f32; 2], nose: f32, strength: f32) {
        let stand = vec3(at[0], at[1], 0.0);
        let point = |x: f32, y: f32| heading.turn(vec3(nose + x, y, 0.0)) + stand;
        let light = [255.0, 240.0, 205.0].map(|part| part * strength);
        // Bright in the middle, dark at its edges and far away.
        let fan = [
            (point(0.5, 0.6), 0.5),
            (point(4.0, 0.0), 1.0),
            (point(16.0, 3.2), 0.0),
            (point(22.0, 0.0), 0.1),
        ];
        let mirror = [
            (point(0.5, -0.6), 0.5),
            (point(4.0, 0.0), 1.0),
            (point(16.0, -3.2), 0.0),
            (point(22.0, 0.0), 0.1),
        ];
        for side in [fan, mirror] {
            for piece in [[0, 1, 2], [1, 2, 3]] {
                let corners = piece.map(|index: usize| {
                    let (point, part) = side[index];
                    self.view.see(point).map(|seen| Corner {
                        seen,
                        color: light.map(|c| c * part),
                        on: [0.0; 2],
                    })
                });
                if let [Some(a), Some(b), Some(c)] = corners {
                    self.raster.glow(&[a, b, c]);
                }
            }
        }
    }
}
