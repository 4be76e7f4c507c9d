//! Shapes of road users: bodies of simple solids, each generated from its appearance seed.

mod cars;
mod cycles;
mod heavy;
mod people;

use super::mesh::{Mesh, Paint, Station};
use crate::sim::random::Random;
use crate::sim::space::{Vec3, vec3};
use crate::sim::traffic::{Kind, RoadUser};

/// One body of a road user; a bicycle's rider is a separate one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The vehicle, or the pedestrian.
    Whole,
    /// The rider.
    Rider,
}

/// State that changes from frame to frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Moment {
    /// Distance travelled since it appeared, metres.
    pub(super) travelled: f32,
    /// It brakes.
    pub(super) brakes: bool,
    /// Lamps are lit.
    pub(super) lamps: bool,
    /// It is raining.
    pub(super) rain: bool,
    /// It is moving.
    pub(super) moves: bool,
}

/// Builds a part of a road user into `mesh`: its centre at x = y = 0, its front towards positive x. False if it has no such part.
pub(super) fn build(mesh: &mut Mesh, user: &RoadUser, part: Part, moment: Moment) -> bool {
    mesh.clear();
    let mut random = Random::stream(user.looks, 1);
    match (user.kind, part) {
        (Kind::Person, Part::Whole) => people::on_foot(mesh, user.size, moment, &mut random),
        (Kind::Bicycle, Part::Whole) => cycles::bicycle(mesh, user.size, moment, &mut random),
        (Kind::Motorcycle, Part::Whole) => cycles::motorcycle(mesh, user.size, moment, &mut random),
        (Kind::Car, Part::Whole) => cars::car(mesh, user.size, moment, &mut random),
        (Kind::Bus, Part::Whole) => heavy::bus(mesh, user.size, moment, &mut random),
        (Kind::Truck, Part::Whole) => heavy::truck(mesh, user.size, moment, &mut random),
        (Kind::Bicycle | Kind::Motorcycle, Part::Rider) if !user.parked => {
            cycles::rider(mesh, user.kind, user.size, moment, &mut Random::stream(user.looks, 2));
        }
        (
            Kind::Person | Kind::Bicycle | Kind::Motorcycle | Kind::Car | Kind::Bus | Kind::Truck,
            Part::Rider,
        ) => {
            return false;
        }
    }
    true
}

const GLASS: Paint = Paint { color: [0.035, 0.045, 0.05], grain: 0.0, gloss: 0.55, lamp: 0.0 };
const TYRE: Paint = Paint::dull([0.03, 0.03, 0.032]);
const RUBBER: Paint = Paint::dull([0.05, 0.05, 0.055]);
const STEEL: Paint = Paint::glossy([0.35, 0.35, 0.37], 0.25);

/// Colours of cars and their frequencies (similar to Axalta's yearly colour report, rounded).
const CAR_COLORS: [([f32; 3], f32); 12] = [
    ([0.82, 0.82, 0.81], 26.0),
    ([0.03, 0.03, 0.035], 18.0),
    ([0.2, 0.21, 0.22], 15.0),
    ([0.5, 0.51, 0.52], 12.0),
    ([0.03, 0.08, 0.28], 9.0),
    ([0.45, 0.03, 0.03], 9.0),
    ([0.06, 0.16, 0.38], 4.0),
    ([0.32, 0.27, 0.18], 3.0),
    ([0.05, 0.15, 0.08], 3.0),
    ([0.62, 0.24, 0.03], 2.0),
    ([0.7, 0.52, 0.05], 2.0),
    ([0.2, 0.03, 0.06], 2.0),
];

fn body_color(random: &mut Random) -> Paint {
    let weights = CAR_COLORS.map(|(_, weight)| weight);
    let (color, _) = CAR_COLORS[random.weighted(&weights)];
    let shade = random.range(0.75, 1.2);
    Paint::glossy(color.map(|part| (part * shade).min(0.9)), random.range(0.1, 0.28))
}

/// Any saturated colour.
fn bright(random: &mut Random) -> [f32; 3] {
    let hue = random.range(0.0, 6.0);
    let (strong, weak) = (random.range(0.25, 0.75), random.range(0.02, 0.2));
    let part = |shift: f32| {
        // 1 within a sixth of the circle around its own hue, 0 from two sixths on.
        let distance = ((hue + shift) % 6.0 - 3.0).abs();
        weak + (strong - weak) * (2.0 - distance).clamp(0.0, 1.0)
    };
    [part(0.0), part(2.0), part(4.0)]
}

/// A flat patch on the left and on the right side of a body, raised by a centimetre.
fn on_both_sides(mesh: &mut Mesh, [back, front]: [f32; 2], z: [f32; 2], half: [f32; 2], paint: Paint) {
    let [low, high] = half.map(|half| half + 0.012);
    mesh.quad(
        [vec3(front, low, z[0]), vec3(back, low, z[0]), vec3(back, high, z[1]), vec3(front, high, z[1])],
        paint,
    );
    mesh.quad(
        [vec3(back, -low, z[0]), vec3(front, -low, z[0]), vec3(front, -high, z[1]), vec3(back, -high, z[1])],
        paint,
    );
}

/// A patch across the front (`forward` 1) or the back (-1) of a body at `x`.
fn across(mesh: &mut Mesh, x: f32, y: [f32; 2], z: [f32; 2], forward: f32, paint: Paint) {
    let x = x + 0.012 * forward;
    let (a, b) = if forward > 0.0 { (y[0], y[1]) } else { (y[1], y[0]) };
    mesh.quad([vec3(x, a, z[0]), vec3(x, b, z[0]), vec3(x, b, z[1]), vec3(x, a, z[1])], paint);
}

/// Lamps at both corners of the front and of the back.
fn lamps(mesh: &mut Mesh, [back, front]: [f32; 2], half: f32, z: [f32; 2], moment: Moment) {
    let (white, red) = match (moment.lamps, moment.brakes) {
        (true, true) => (2.5, 2.0),
        (true, false) => (2.5, 0.5),
        (false, true) => (0.0, 1.2),
        (false, false) => (0.0, 0.0),
    };
    for side in [-1.0f32, 1.0] {
        let outer = side * half;
        let inner = side * (half - 0.28 * half.min(1.0));
        let y = [outer.min(inner), outer.max(inner)];
        across(
            mesh,
            front,
            y,
            z,
            1.0,
            Paint { color: [0.75, 0.75, 0.7], grain: 0.0, gloss: 0.3, lamp: white },
        );
        across(
            mesh,
            back,
            y,
            z,
            -1.0,
            Paint { color: [0.45, 0.02, 0.02], grain: 0.0, gloss: 0.2, lamp: red },
        );
    }
}

/// A number plate.
fn plate(mesh: &mut Mesh, x: f32, z: f32, forward: f32, random: &mut Random) {
    let color = if random.chance(0.7) { [0.75, 0.75, 0.75] } else { [0.75, 0.6, 0.1] };
    across(mesh, x, [-0.26, 0.26], [z, z + 0.11], forward, Paint::dull(color));
}

/// A pair of wheels under a body, with the dark wheel arches around them.
fn axle(mesh: &mut Mesh, x: f32, radius: f32, half: f32, rim: Paint) {
    const SIDES: usize = 10;
    for side in [-1.0f32, 1.0] {
        mesh.wheel(vec3(x, side * (half - 0.1), radius), radius, 0.23, 0.62, [TYRE, rim]);
        // The arch: a dark half disc just outside of the body.
        let y = side * (half + 0.006);
        let rim_of = |step: usize| {
            let (sin, cos) = crate::sim::space::sin_cos(step as f32 / SIDES as f32 * std::f32::consts::PI);
            vec3(x - cos * radius * 1.15 * side, y, radius * 0.9 + sin * radius * 1.18)
        };
        let middle = vec3(x, y, radius * 0.9);
        for step in 0..SIDES {
            mesh.quad([middle, rim_of(step), rim_of(step + 1), rim_of(step + 1)], RUBBER);
        }
    }
}

/// Half the width of a loft between two stations, at a given height.
fn half_at(station: &Station, z: f32) -> f32 {
    let part = (z - station.z[0]) / (station.z[1] - station.z[0]).max(1e-3);
    station.half[0] + (station.half[1] - station.half[0]) * part
}

/// A limb: a tapering rod.
fn limb(mesh: &mut Mesh, from: Vec3, to: Vec3, radii: [f32; 2], paint: Paint) {
    mesh.rod(from, to, radii, 6, paint);
}
