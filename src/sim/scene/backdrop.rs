//! The static scene: the ground with its markings, houses, lamp posts, and trees, of which only the leaves move.

use super::draw::Brush;
use super::light::{Hour, Lighting, mix};
use super::mesh::{Mesh, Paint};
use super::raster::Raster;
use crate::sim::random::{Random, cloud_noise, speckle};
use crate::sim::space::{Heading, Vec3, vec3};
use crate::sim::traffic::Street;
use crate::sim::view::View;

/// A crown of leaves.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// Balls of leaves: middle, radius, colour.
    pub(super) leaves: Vec<(Vec3, f32, Paint)>,
    /// Phase of its swaying.
    pub(super) phase: f32,
}

/// The surroundings of the street.
#[derive(Debug, Clone)]
pub(super) struct Backdrop {
    /// Trees, unordered.
    pub(super) trees: Vec<Tree>,
    town: bool,
    asphalt: f32,
    cycle_red: bool,
    seed: i32,
    verge: [f32; 3],
}

impl Backdrop {
    /// Renders the surroundings of a street into `raster`; adds the street lamps to `look`.
    pub(super) fn draw(
        raster: &mut Raster,
        view: &View,
        street: &Street,
        lighting: &mut Lighting,
        random: &mut Random,
    ) -> Self {
        let green = [random.range(0.05, 0.1), random.range(0.1, 0.17), random.range(0.03, 0.06)];
        let dry = [random.range(0.2, 0.3), random.range(0.17, 0.24), random.range(0.1, 0.14)];
        let mut backdrop = Backdrop {
            trees: Vec::new(),
            town: random.chance(0.65),
            asphalt: random.range(0.06, 0.2),
            cycle_red: random.chance(0.3),
            seed: random.below(10_000) as i32,
            verge: if random.chance(0.75) { green } else { dry },
        };
        let posts = lamp_posts(street, view, random);
        if lighting.hour != Hour::Day {
            lighting.street_lamps = posts.iter().map(|[_, lamp]| *lamp).collect();
        }
        backdrop.sky(raster, view, lighting);
        backdrop.ground(raster, view, street, lighting);
        let mut mesh = Mesh::default();
        if backdrop.town {
            houses(&mut mesh, street, view, lighting, random);
        }
        clutter(&mut mesh, street, view, random);
        for [foot, lamp] in &posts {
            lamp_post(&mut mesh, *foot, *lamp, lighting.hour != Hour::Day);
        }
        backdrop.plant(&mut mesh, street, view, random);
        let mut brush = Brush { raster, view: *view, lighting };
        brush.shadow(&mesh, Heading::ALONG, [0.0; 2]);
        for tree in &backdrop.trees {
            for (middle, radius, _) in &tree.leaves {
                brush.blob_shadow(*middle, *radius);
            }
        }
        brush.mesh(&mesh, Heading::ALONG, [0.0; 2], 0);
        backdrop
    }

    fn sky(&self, raster: &mut Raster, view: &View, lighting: &Lighting) {
        let (width, height) = (raster.width(), raster.height());
        for row in 0..height {
            for column in 0..width {
                let ray = view.ray(column as f32 + 0.5, row as f32 + 0.5);
                if ray.z < -1e-4 {
                    continue;
                }
                let mut light = lighting.sky(ray);
                // Clouds on a plane above.
                if ray.z > 0.02 {
                    let (x, y) = (ray.x / ray.z * 1.3 + self.seed as f32, ray.y / ray.z * 1.3);
                    let cloud = ((cloud_noise(x, y) - 0.45) * 3.0).clamp(0.0, 1.0) * (ray.z * 6.0).min(1.0);
                    light =
                        mix(light, lighting.sky(vec3(1.0, 0.0, 0.0)).map(|part| part * 1.25), cloud * 0.7);
                }
                let [red, green, blue] = lighting.develop(light, 0.0).map(|part| part as u8);
                raster.color[row * width + column] = [red, green, blue, 0];
            }
        }
    }

    fn ground(&self, raster: &mut Raster, view: &View, street: &Street, lighting: &Lighting) {
        let (width, height) = (raster.width(), raster.height());
        let up = vec3(0.0, 0.0, 1.0);
        for row in 0..height {
            for column in 0..width {
                let Some(([x, y], distance)) = view.ground(column as f32 + 0.5, row as f32 + 0.5) else {
                    continue;
                };
                let at = vec3(x, y, 0.0);
                let paint = self.paint(street, lighting, [x, y], distance / view.focal());
                let [red, green, blue] =
                    lighting.shade(&paint, at, up, view.at() - at).map(|part| part as u8);
                let place = row * width + column;
                raster.color[place] = [red, green, blue, 0];
                raster.near[place] = 1.0 / distance;
            }
        }
    }

    /// Material of the ground at a position; `sample` is the width of a sample there, metres.
    fn paint(&self, street: &Street, lighting: &Lighting, [x, y]: [f32; 2], sample: f32) -> Paint {
        let direction = usize::from(y > 0.0);
        let out = y.abs();
        let (lanes, kerb) = (street.lanes_m(direction), street.kerb_m(direction));
        // Fine grain vanishes where a sample is wider than the grain.
        let fine = (0.06 / sample.max(1e-4)).min(1.0);
        let grain = (speckle((x * 18.0).floor() as i32 + self.seed, (y * 18.0).floor() as i32) - 0.5) * fine;
        let patches = cloud_noise(x * 0.35 + self.seed as f32, y * 0.5) - 0.5;
        let (mut color, mut gloss) = if out < kerb {
            let worn = 1.0 + 0.3 * grain + 0.45 * patches;
            let red = self.cycle_red && out > lanes && out < lanes + street.cycle_m;
            let tone = self.asphalt * worn;
            (if red { [tone * 1.7, tone * 0.75, tone * 0.65] } else { [tone, tone, tone * 1.03] }, 0.0)
        } else if out < kerb + 0.18 {
            ([0.34 + 0.06 * grain; 3], 0.0)
        } else if out < kerb + street.pavement_m {
            let tile = 0.5;
            let joint = (x / tile).rem_euclid(1.0) < 0.06 || (y / tile).rem_euclid(1.0) < 0.06;
            let stone = speckle((x / tile).floor() as i32, (y / tile).floor() as i32 + self.seed);
            let tone =
                0.2 + 0.06 * stone + 0.08 * grain + 0.1 * patches - if joint { 0.06 * fine } else { 0.0 };
            ([tone, tone * 0.97, tone * 0.92], 0.0)
        } else {
            let tone = 1.0 + 0.8 * grain + 1.1 * patches;
            (self.verge.map(|part| (part * tone).max(0.005)), 0.0)
        };
        if out < kerb && marked(street, x, y, direction) {
            let worn = 0.8 + 0.5 * patches;
            color = mix(color, [0.72, 0.72, 0.68], worn.clamp(0.2, 1.0));
        }
        if lighting.snow > 0.0 {
            let driven = out < lanes && {
                let from_middle = (out / street.lane_m).rem_euclid(1.0) * street.lane_m - street.lane_m / 2.0;
                (from_middle.abs() - 0.75).abs() < 0.32
            };
            let cover = lighting.snow * if driven { 0.25 } else { 1.0 } + patches * 0.7;
            color = mix(color, [0.82, 0.84, 0.88], cover.clamp(0.0, 1.0));
        }
        if lighting.wet > 0.0 {
            let puddle = ((patches + 0.1) * 4.0).clamp(0.0, 1.0);
            color = color.map(|part| part * (1.0 - 0.45 * lighting.wet));
            gloss = lighting.wet * (0.25 + 0.4 * puddle);
        }
        Paint { color, grain: 0.0, gloss, lamp: 0.0 }
    }

    /// Trees on both sides: stems into `mesh`, leaves kept for each frame.
    fn plant(&mut self, mesh: &mut Mesh, street: &Street, view: &View, random: &mut Random) {
        let count = random.below(if self.town { 7 } else { 14 });
        for _ in 0..count {
            let direction = random.below(2);
            let beyond = if self.town { random.range(0.3, 1.2) } else { random.range(0.5, 25.0) };
            let at = vec3(
                random.range(-60.0, 90.0),
                Street::side(direction, street.kerb_m(direction) + street.pavement_m + beyond),
                0.0,
            );
            if too_near(view, at, 9.0) {
                continue;
            }
            let tall = random.range(3.5, 9.0);
            let bark = Paint::rough([0.1, 0.075, 0.05]);
            mesh.rod(at, at + vec3(0.0, 0.0, tall * 0.6), [0.16, 0.1], 7, bark);
            let green = [random.range(0.03, 0.12), random.range(0.08, 0.18), random.range(0.02, 0.05)];
            let (crown, middle) = (tall * random.range(0.26, 0.38), at + vec3(0.0, 0.0, tall * 0.72));
            let mut leaves = Vec::new();
            for _ in 0..150 {
                let outward = vec3(random.normal(), random.normal(), random.normal() * 0.9).unit();
                let from_middle = crown * (0.35 + 0.65 * random.unit());
                let tone = random.range(0.6, 1.4) * (1.0 + 0.35 * outward.z);
                let paint = Paint::rough(green.map(|part| part * tone));
                leaves.push((middle + outward * from_middle, crown * random.range(0.07, 0.15), paint));
            }
            self.trees.push(Tree { leaves, phase: random.range(0.0, std::f32::consts::TAU) });
        }
    }
}

/// Whether there is white paint on the road at this position.
fn marked(street: &Street, x: f32, y: f32, direction: usize) -> bool {
    let out = y.abs();
    let lanes = street.lanes_m(direction);
    let from_crossing = x - street.crossing_x;
    if from_crossing.abs() < 1.8 {
        return out < street.kerb_m(direction) && (y / 0.55).rem_euclid(2.0) < 1.0;
    }
    // Stop lines before the crossing, for approaching traffic.
    let before = Street::side(direction, 1.0) * from_crossing;
    if (2.6..3.1).contains(&before) && out < lanes {
        return true;
    }
    let two_ways = street.lanes[0] > 0 && street.lanes[1] > 0;
    if two_ways && out < 0.07 {
        return (x / 3.0).rem_euclid(2.0) < 1.0;
    }
    for lane in 1..street.lanes[direction] {
        if (out - f32::from(lane) * street.lane_m).abs() < 0.06 && (x / 3.0).rem_euclid(3.0) < 1.0 {
            return true;
        }
    }
    let edge = (out - lanes + 0.08).abs() < 0.06 && street.lanes[direction] > 0;
    let cycle = street.cycle_m > 0.0 && (out - lanes - street.cycle_m).abs() < 0.06;
    edge || cycle
}

/// Whether an object at this position would block the lens.
fn too_near(view: &View, at: Vec3, least: f32) -> bool {
    let from = at - view.at();
    (from.x * from.x + from.y * from.y).sqrt() < least
}

/// Foot and lamp of each post.
fn lamp_posts(street: &Street, view: &View, random: &mut Random) -> Vec<[Vec3; 2]> {
    let direction = random.below(2);
    let (y, tall) = (Street::side(direction, street.kerb_m(direction) + 0.6), random.range(5.0, 9.0));
    let step = random.range(22.0, 40.0);
    (-4..5)
        .map(|index| {
            let foot = vec3(index as f32 * step + 4.0, y, 0.0);
            [foot, foot + vec3(0.0, -y.signum() * 1.4, tall)]
        })
        .filter(|[foot, _]| !too_near(view, *foot, 2.5))
        .collect()
}

fn lamp_post(mesh: &mut Mesh, foot: Vec3, lamp: Vec3, lit: bool) {
    let steel = Paint::dull([0.22, 0.23, 0.24]);
    let top = vec3(foot.x, foot.y, lamp.z);
    mesh.rod(foot, top, [0.09, 0.05], 6, steel);
    mesh.rod(top, lamp, [0.04, 0.04], 5, steel);
    let paint = if lit { Paint::lamp([1.0, 0.85, 0.6], 6.0) } else { Paint::dull([0.6; 3]) };
    mesh.cuboid(lamp - vec3(0.3, 0.12, 0.08), lamp + vec3(0.3, 0.12, 0.02), paint);
}

fn houses(mesh: &mut Mesh, street: &Street, view: &View, lighting: &Lighting, random: &mut Random) {
    for direction in 0..2 {
        let line = street.kerb_m(direction) + street.pavement_m + random.range(0.5, 5.0);
        // Behind the camera, if it stands on that side.
        let camera = Street::side(direction, 1.0) * view.at().y;
        let line = line.max(if camera > 0.0 { camera + 2.0 } else { 0.0 });
        let mut x = -110.0;
        while x < 130.0 {
            let (wide, deep, tall) =
                (random.range(7.0, 22.0), random.range(7.0, 14.0), random.range(3.2, 15.0));
            if random.chance(0.85) {
                let near = Street::side(direction, line + random.range(0.0, 1.5));
                let far = Street::side(direction, line + 2.0 + deep);
                house(mesh, [x, x + wide], [near.min(far), near.max(far)], tall, direction, lighting, random);
            }
            x += wide + if random.chance(0.4) { random.range(1.0, 9.0) } else { 0.0 };
        }
    }
}

fn house(
    mesh: &mut Mesh,
    x: [f32; 2],
    y: [f32; 2],
    tall: f32,
    direction: usize,
    lighting: &Lighting,
    random: &mut Random,
) {
    let walls = [
        [0.42, 0.2, 0.14],
        [0.55, 0.5, 0.42],
        [0.62, 0.62, 0.6],
        [0.35, 0.34, 0.33],
        [0.5, 0.4, 0.25],
        [0.3, 0.2, 0.16],
    ];
    let tone = random.range(0.7, 1.15);
    let grain = random.range(0.02, 0.2);
    let wall = Paint { grain, ..Paint::rough(random.pick(&walls).map(|part| part * tone)) };
    mesh.cuboid(vec3(x[0], y[0], 0.0), vec3(x[1], y[1], tall), wall);
    let front = if direction == 0 { y[1] } else { y[0] };
    let outward = if direction == 0 { 0.02 } else { -0.02 };
    let floors = ((tall - 0.6) / 2.9).floor().max(1.0) as usize;
    let columns = ((x[1] - x[0]) / random.range(1.9, 3.6)).floor().max(1.0) as usize;
    let step = (x[1] - x[0]) / columns as f32;
    let (wide, high) = (step * random.range(0.4, 0.7), random.range(1.2, 1.9));
    let pane = |mesh: &mut Mesh, left: f32, right: f32, low: f32, top: f32, paint: Paint| {
        let y = front + outward;
        let (a, b) = if direction == 0 { (right, left) } else { (left, right) };
        mesh.quad([vec3(a, y, low), vec3(b, y, low), vec3(b, y, top), vec3(a, y, top)], paint);
    };
    for floor in 0..floors {
        for column in 0..columns {
            let left = x[0] + column as f32 * step + (step - wide) / 2.0;
            let low = 0.9 + floor as f32 * 2.9;
            let lit = lighting.hour != Hour::Day && random.chance(0.3);
            let glass = if lit {
                Paint::lamp([0.9, 0.7, 0.4], random.range(0.1, 0.45))
            } else {
                Paint::glossy([0.04, 0.05, 0.06], 0.4)
            };
            pane(mesh, left - 0.08, left + wide + 0.08, low - 0.08, low + high + 0.08, wall.times(1.35));
            let y = outward * 1.5;
            let first = mesh.faces.len();
            pane(mesh, left, left + wide, low, low + high, glass);
            mesh.shift(first, vec3(0.0, y, 0.0));
        }
    }
    if random.chance(0.5) {
        let left = x[0] + step * 0.2;
        let first = mesh.faces.len();
        pane(mesh, left, left + 1.1, 0.0, 2.2, Paint::dull([0.12, 0.07, 0.05]));
        mesh.shift(first, vec3(0.0, outward * 2.0, 0.0));
    }
}

/// Signs, bins, bollards, boxes: objects that are not road users.
fn clutter(mesh: &mut Mesh, street: &Street, view: &View, random: &mut Random) {
    for _ in 0..random.below(16) {
        let direction = random.below(2);
        let y = Street::side(
            direction,
            street.kerb_m(direction) + random.range(0.4, street.pavement_m.max(1.0) + 3.0),
        );
        let at = vec3(random.range(-40.0, 60.0), y, 0.0);
        if too_near(view, at, 5.0) {
            continue;
        }
        let tone: [f32; 3] = [random.range(0.05, 0.6), random.range(0.05, 0.6), random.range(0.05, 0.6)];
        match random.below(5) {
            0 => {
                mesh.rod(at, at + vec3(0.0, 0.0, 2.6), [0.035; 2], 5, Paint::dull([0.35; 3]));
                let plate = at + vec3(0.0, 0.0, 2.3);
                let red = Paint::dull(if random.chance(0.5) { [0.5, 0.03, 0.03] } else { [0.04, 0.1, 0.42] });
                mesh.rod(plate - vec3(0.03, 0.0, 0.0), plate + vec3(0.03, 0.0, 0.0), [0.32; 2], 10, red);
            }
            1 => mesh.rod(at, at + vec3(0.0, 0.0, 1.0), [0.12, 0.12], 7, Paint::dull(tone)),
            2 => mesh.cuboid(
                at - vec3(0.35, 0.35, 0.0),
                at + vec3(0.35, 0.35, random.range(0.8, 1.5)),
                Paint::dull(tone),
            ),
            3 => mesh.cuboid(
                at - vec3(0.9, 0.25, -0.35),
                at + vec3(0.9, 0.25, 0.5),
                Paint::rough([0.2, 0.12, 0.06]),
            ),
            _ => {
                let leaf = Paint::rough([0.05, 0.11, 0.03]);
                let size = random.range(0.4, 1.0);
                mesh.ball(at + vec3(0.0, 0.0, size * 0.6), vec3(size * 1.4, size, size), |height| {
                    leaf.times(1.0 + 0.3 * height)
                });
            }
        }
    }
}
