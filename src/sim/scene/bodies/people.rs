//! Pedestrians.

use super::{Moment, Paint, bright, limb};
use crate::sim::random::Random;
use crate::sim::scene::mesh::{Mesh, station};
use crate::sim::space::{Vec3, sin_cos, vec3};

/// Clothes of a person.
pub(super) struct Clothes {
    pub(super) upper: Paint,
    pub(super) lower: Paint,
    pub(super) shoes: Paint,
    pub(super) skin: Paint,
    pub(super) hair: Paint,
    pub(super) sleeves: bool,
    pub(super) shorts: bool,
}

const SKINS: [[f32; 3]; 5] =
    [[0.62, 0.42, 0.33], [0.52, 0.34, 0.24], [0.36, 0.22, 0.14], [0.2, 0.11, 0.07], [0.1, 0.055, 0.04]];
const HAIRS: [[f32; 3]; 5] =
    [[0.02, 0.018, 0.015], [0.06, 0.035, 0.02], [0.2, 0.12, 0.05], [0.4, 0.3, 0.14], [0.4, 0.4, 0.4]];

fn cloth(random: &mut Random) -> Paint {
    let color = match random.weighted(&[0.4, 0.2, 0.4]) {
        0 => [random.range(0.015, 0.12); 3],
        1 => [random.range(0.4, 0.75); 3],
        _ => bright(random),
    };
    Paint::rough(color)
}

impl Clothes {
    pub(super) fn draw(random: &mut Random, dark: bool) -> Self {
        let blue = Paint::rough([0.05, 0.08, 0.17]);
        let upper = if dark { Paint::rough([0.03; 3]) } else { cloth(random) };
        let lower = if random.chance(0.45) { blue } else { cloth(random) };
        let shoes = Paint::dull(if random.chance(0.6) { [0.04; 3] } else { [0.6; 3] });
        let (skin, hair) = (Paint::dull(*random.pick(&SKINS)), Paint::rough(*random.pick(&HAIRS)));
        Clothes { upper, lower, shoes, skin, hair, sleeves: random.chance(0.65), shorts: random.chance(0.2) }
    }
}

/// From the hips to the neck.
pub(super) fn torso(mesh: &mut Mesh, hip: Vec3, neck: Vec3, half: f32, clothes: &Clothes) {
    // A loft extends along x: build it lying down, then rotate it upright between the two points.
    let along = (neck - hip).unit();
    let length = (neck - hip).length();
    let first = mesh.faces.len();
    let depth = half * 0.58;
    let cut = |part: f32, wide: f32, deep: f32| {
        station(part * length, [-depth * deep, depth * deep], [half * wide, half * wide * 0.85])
    };
    let stations = [
        cut(-0.08, 0.8, 0.9),
        cut(0.3, 0.72, 0.85),
        cut(0.72, 1.0, 1.0),
        cut(0.95, 0.85, 0.7),
        cut(1.05, 0.3, 0.4),
    ];
    let paint = clothes.upper;
    mesh.loft(&stations, &[paint], &[paint], [paint; 2]);
    // The lower side too: a loft has none, and here it is the front.
    for pair in stations.windows(2) {
        let [back, front] = pair else { continue };
        let low = |station: &crate::sim::scene::mesh::Station, left: f32| {
            vec3(station.x, left * station.half[0], station.z[0])
        };
        mesh.quad([low(back, -1.0), low(back, 1.0), low(front, 1.0), low(front, -1.0)], paint);
    }
    // x becomes up, z becomes backward.
    let back = vec3(-along.z, 0.0, along.x);
    for face in &mut mesh.faces[first..] {
        face.corners = face.corners.map(|at| hip + along * at.x + vec3(0.0, at.y, 0.0) + back * at.z);
    }
}

/// A head with hair, or with a helmet.
pub(super) fn head(mesh: &mut Mesh, middle: Vec3, radius: f32, clothes: &Clothes, helmet: bool) {
    let (skin, hair) = (clothes.skin, clothes.hair);
    mesh.ball(
        middle,
        vec3(radius, radius * 0.86, radius * 1.18),
        |height| if height > 0.45 { hair } else { skin },
    );
    let back = middle + vec3(-radius * 0.28, 0.0, radius * 0.16);
    mesh.ball(back, vec3(radius * 0.88, radius * 0.9, radius), |_| hair);
    if helmet {
        let shell = Paint::glossy(clothes.upper.color.map(|part| (part + 0.3) * 0.6), 0.25);
        mesh.ball(
            middle + vec3(-0.01, 0.0, radius * 0.35),
            vec3(radius * 1.25, radius * 1.15, radius * 1.05),
            |_| shell,
        );
    }
    mesh.rod(middle - vec3(0.01, 0.0, radius * 1.9), middle, [radius * 0.5; 2], 6, skin);
}

/// A person who walks or stands.
pub(super) fn on_foot(mesh: &mut Mesh, size: [f32; 3], moment: Moment, random: &mut Random) {
    let scale = size[2] / 1.78;
    let clothes = Clothes::draw(random, false);
    let wide = random.range(0.92, 1.15) * scale;
    let stride = if moment.moves { random.range(0.36, 0.5) } else { 0.06 };
    // A step of 0.7 m for each leg: a full cycle is 1.4 m.
    let phase = moment.travelled / (1.4 * scale) * std::f32::consts::TAU;
    let (swing, _) = sin_cos(phase);
    let hip = vec3(0.0, 0.0, 0.93 * scale);
    let neck = vec3(0.04 * scale, 0.0, 1.5 * scale);
    torso(mesh, hip, neck, 0.2 * wide, &clothes);
    head(mesh, vec3(0.07, 0.0, 1.65) * scale, 0.105 * scale, &clothes, false);
    let skirt = random.chance(0.12);
    for side in [-1.0f32, 1.0] {
        let forward = swing * side * stride * scale;
        let joint = hip + vec3(0.0, side * 0.09 * scale, -0.02);
        let lift = (-forward).max(0.0) * 0.22;
        let foot = vec3(forward, side * 0.09 * scale, 0.07 * scale + lift);
        let knee = joint.toward(foot, 0.5) + vec3(0.05 + lift * 0.5, 0.0, 0.0);
        limb(mesh, joint, knee, [0.092 * wide, 0.072 * wide], clothes.lower);
        let shin = if clothes.shorts || skirt { clothes.skin } else { clothes.lower };
        limb(mesh, knee, foot, [0.066 * wide, 0.045 * wide], shin);
        mesh.cuboid(foot + vec3(-0.09, -0.045, -0.07), foot + vec3(0.18, 0.045, 0.03), clothes.shoes);
        let shoulder = neck + vec3(-0.03, side * 0.2 * wide, -0.06);
        let hand = vec3(-forward * 0.75 + 0.04, side * 0.26 * wide, 0.82 * scale + forward.abs() * 0.12);
        let elbow = shoulder.toward(hand, 0.5) + vec3(-0.05, side * 0.02, 0.0);
        limb(mesh, shoulder, elbow, [0.055 * wide, 0.047 * wide], clothes.upper);
        limb(
            mesh,
            elbow,
            hand,
            [0.046 * wide, 0.035 * wide],
            if clothes.sleeves { clothes.upper } else { clothes.skin },
        );
        mesh.ball(hand, vec3(0.05, 0.035, 0.06) * scale, |_| clothes.skin);
    }
    if skirt {
        mesh.rod(
            vec3(0.0, 0.0, 0.5) * scale,
            hip + vec3(0.0, 0.0, 0.05),
            [0.24 * wide, 0.15 * wide],
            8,
            clothes.lower,
        );
    }
    carries(mesh, scale, moment, random);
}

fn carries(mesh: &mut Mesh, scale: f32, moment: Moment, random: &mut Random) {
    let bag = Paint::rough(bright(random));
    match random.weighted(&[0.6, 0.2, 0.2]) {
        0 => {}
        1 => mesh.cuboid(vec3(-0.32, -0.15, 1.05) * scale, vec3(-0.1, 0.15, 1.46) * scale, bag),
        _ => mesh.cuboid(vec3(-0.15, 0.24, 0.5) * scale, vec3(0.15, 0.36, 0.8) * scale, bag),
    }
    if moment.rain && random.chance(0.5) {
        let (below, above) = (vec3(0.1, -0.15, 1.1) * scale, vec3(0.1, -0.15, 2.05) * scale);
        mesh.rod(below, above, [0.012; 2], 4, Paint::dull([0.1; 3]));
        mesh.rod(above - vec3(0.0, 0.0, 0.18), above + vec3(0.0, 0.0, 0.06), [0.52, 0.03], 8, bag);
    }
}
