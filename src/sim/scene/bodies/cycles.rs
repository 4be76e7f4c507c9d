//! Bicycles and motorcycles, and their riders.

use super::people::{Clothes, head, torso};
use super::{Moment, Paint, RUBBER, STEEL, TYRE, body_color, bright, limb};
use crate::sim::random::Random;
use crate::sim::scene::mesh::{Mesh, station};
use crate::sim::space::{sin_cos, vec3};
use crate::sim::traffic::Kind;

/// Distance that a bicycle travels per turn of the pedals, metres.
const PEDAL_M: f32 = 4.5;

/// A bicycle: two thin wheels, tubes, handlebar, saddle.
pub(super) fn bicycle(mesh: &mut Mesh, size: [f32; 3], _moment: Moment, random: &mut Random) {
    let [length, width, height] = size;
    let radius = 0.34;
    let (front, back) = (length / 2.0 - radius, -length / 2.0 + radius);
    let color = if random.chance(0.4) { [0.04; 3] } else { bright(random) };
    let frame = Paint::glossy(color, 0.1);
    for x in [front, back] {
        mesh.hoop(vec3(x, 0.0, radius), radius, 0.05, 0.86, TYRE);
        let spoke = Paint::glossy([0.3; 3], 0.1);
        for step in 0..4u8 {
            let (sin, cos) = sin_cos(f32::from(step) * 0.785);
            let arm = vec3(cos * radius * 0.88, 0.0, sin * radius * 0.88);
            let middle = vec3(x, 0.0, radius);
            mesh.rod(middle - arm, middle + arm, [0.005; 2], 3, spoke);
        }
    }
    let (crank, saddle, bar) =
        (vec3(-0.08, 0.0, 0.3), vec3(-0.28, 0.0, height * 0.86), vec3(front - 0.16, 0.0, height * 0.9));
    let tube = 0.022;
    for (from, to) in [
        (crank, saddle),
        (crank, bar),
        (saddle, bar),
        (crank, vec3(back, 0.0, radius)),
        (saddle, vec3(back, 0.0, radius)),
        (bar, vec3(front, 0.0, radius)),
    ] {
        mesh.rod(from, to, [tube; 2], 5, frame);
    }
    let grip = vec3(bar.x, 0.0, height);
    mesh.rod(bar, grip, [tube; 2], 5, STEEL);
    mesh.rod(grip + vec3(0.05, -width / 2.0, 0.0), grip + vec3(0.05, width / 2.0, 0.0), [0.016; 2], 5, STEEL);
    mesh.cuboid(saddle + vec3(-0.14, -0.07, 0.0), saddle + vec3(0.14, 0.07, 0.06), RUBBER);
    if random.chance(0.35) {
        let basket = Paint::rough([0.2, 0.14, 0.08]);
        mesh.cuboid(
            vec3(back - 0.2, -0.16, radius * 2.0 + 0.06),
            vec3(back + 0.25, 0.16, radius * 2.0 + 0.3),
            basket,
        );
    }
    if random.chance(0.4) {
        mesh.cuboid(
            vec3(back - radius, -0.03, radius * 1.9),
            vec3(back + 0.1, 0.03, radius * 2.08),
            frame.times(0.7),
        );
    }
}

/// A motorcycle or a scooter.
pub(super) fn motorcycle(mesh: &mut Mesh, size: [f32; 3], moment: Moment, random: &mut Random) {
    let [length, width, height] = size;
    let scooter = random.chance(0.35);
    let radius = if scooter { 0.23 } else { 0.32 };
    let (front, back) = (length / 2.0 - radius, -length / 2.0 + radius);
    let paint = if random.chance(0.5) { body_color(random) } else { Paint::glossy(bright(random), 0.2) };
    for x in [front, back] {
        mesh.wheel(vec3(x, 0.0, radius), radius, 0.14, 0.6, [TYRE, Paint::glossy([0.25; 3], 0.2)]);
        mesh.cuboid(
            vec3(x - radius * 0.7, -0.09, radius * 1.75),
            vec3(x + radius * 0.7, 0.09, radius * 2.1),
            paint.times(0.8),
        );
    }
    let seat = height * 0.68;
    let bar = vec3(front - 0.3, 0.0, height * 0.93);
    for y in [-0.09, 0.09] {
        mesh.rod(vec3(front, y, radius), vec3(bar.x, y, bar.z), [0.035; 2], 6, STEEL);
    }
    mesh.rod(
        bar + vec3(-0.08, -width / 2.0, 0.02),
        bar + vec3(-0.08, width / 2.0, 0.02),
        [0.022; 2],
        5,
        RUBBER,
    );
    let lamp = Paint { color: [0.8, 0.8, 0.75], grain: 0.0, gloss: 0.3, lamp: 2.0 };
    mesh.ball(
        bar + vec3(0.14, 0.0, -0.12),
        vec3(0.09, 0.11, 0.11),
        |_| if moment.moves { lamp } else { STEEL },
    );
    for side in [-1.0f32, 1.0] {
        mesh.rod(
            bar + vec3(0.0, side * 0.2, 0.05),
            bar + vec3(-0.05, side * 0.36, 0.2),
            [0.01, 0.06],
            5,
            RUBBER,
        );
    }
    frame(mesh, scooter, [back, bar.x], [seat, height], paint);
    if random.chance(0.3) {
        mesh.cuboid(vec3(back - 0.32, -0.22, seat + 0.1), vec3(back + 0.08, 0.22, seat + 0.48), RUBBER);
    }
    let red = Paint {
        color: [0.5, 0.02, 0.02],
        grain: 0.0,
        gloss: 0.2,
        lamp: if moment.brakes { 2.0 } else { 0.4 },
    };
    mesh.cuboid(vec3(back - 0.28, -0.08, seat - 0.02), vec3(back - 0.2, 0.08, seat + 0.06), red);
}

/// The parts between the wheels: from the rear wheel to the handlebar, with the heights of the seat and of the whole.
fn frame(mesh: &mut Mesh, scooter: bool, [back, bar]: [f32; 2], [seat, height]: [f32; 2], paint: Paint) {
    if scooter {
        let half = 0.17;
        mesh.loft(
            &[
                station(back - 0.3, [0.45, seat * 0.95], [half, half * 0.8]),
                station(0.0, [0.3, seat], [half, half * 0.9]),
            ],
            &[paint],
            &[RUBBER],
            [paint; 2],
        );
        mesh.cuboid(vec3(-0.05, -half, 0.25), vec3(bar, half, 0.33), RUBBER);
        mesh.cuboid(vec3(bar - 0.02, -0.2, 0.3), vec3(bar + 0.1, 0.2, height * 0.85), paint);
    } else {
        mesh.cuboid(vec3(-0.32, -0.16, 0.28), vec3(0.34, 0.16, 0.62), Paint::glossy([0.12; 3], 0.2));
        mesh.ball(vec3(0.16, 0.0, seat + 0.05), vec3(0.34, 0.17, 0.15), |_| paint);
        mesh.loft(
            &[
                station(back - 0.2, [seat + 0.04, seat + 0.16], [0.1, 0.07]),
                station(-0.1, [seat - 0.12, seat + 0.03], [0.15, 0.13]),
            ],
            &[paint],
            &[RUBBER],
            [paint; 2],
        );
        mesh.rod(vec3(0.1, -0.2, 0.32), vec3(back - 0.25, -0.22, 0.42), [0.05, 0.07], 7, STEEL);
    }
}

/// The rider.
pub(super) fn rider(mesh: &mut Mesh, kind: Kind, size: [f32; 3], moment: Moment, random: &mut Random) {
    let [length, width, height] = size;
    let on_bicycle = kind == Kind::Bicycle;
    let dark = !on_bicycle && random.chance(0.5);
    let clothes = Clothes::draw(random, dark);
    let tall = random.range(0.9, 1.08);
    let (seat, bar, foot) = if on_bicycle {
        (
            vec3(-0.28, 0.0, height * 0.92),
            vec3(length / 2.0 - 0.46, 0.0, height + 0.02),
            vec3(-0.08, 0.0, 0.3),
        )
    } else {
        (vec3(-0.22, 0.0, height * 0.76), vec3(length / 2.0 - 0.7, 0.0, height * 0.97), vec3(0.0, 0.0, 0.34))
    };
    let lean = if on_bicycle { random.range(0.12, 0.34) } else { random.range(0.05, 0.3) };
    let hip = seat + vec3(0.0, 0.0, 0.08);
    let neck = hip + vec3(lean * tall, 0.0, 0.52 * tall);
    torso(mesh, hip, neck, 0.19 * tall, &clothes);
    head(
        mesh,
        neck + vec3(0.06, 0.0, 0.17 * tall),
        0.11 * tall,
        &clothes,
        random.chance(if on_bicycle { 0.4 } else { 0.95 }),
    );
    let turn = moment.travelled / PEDAL_M * std::f32::consts::TAU;
    for side in [-1.0f32, 1.0] {
        let shoulder = neck + vec3(-0.02, side * 0.18, -0.05);
        let hand = vec3(bar.x, side * width * 0.42, bar.z);
        let elbow = shoulder.toward(hand, 0.5) + vec3(-0.04, side * 0.08, -0.06);
        limb(mesh, shoulder, elbow, [0.06, 0.05], clothes.upper);
        limb(mesh, elbow, hand, [0.05, 0.04], if clothes.sleeves { clothes.upper } else { clothes.skin });
        let (sin, cos) = sin_cos(turn + if side > 0.0 { std::f32::consts::PI } else { 0.0 });
        let pedal = if on_bicycle {
            foot + vec3(cos * 0.17, side * 0.12, -sin * 0.17)
        } else {
            foot + vec3(0.0, side * 0.2, 0.0)
        };
        let joint = hip + vec3(0.02, side * 0.1, 0.0);
        let knee = joint.toward(pedal, 0.5) + vec3(0.24, side * 0.04, 0.08);
        limb(mesh, joint, knee, [0.09, 0.07], clothes.lower);
        limb(
            mesh,
            knee,
            pedal + vec3(0.0, 0.0, 0.05),
            [0.065, 0.045],
            if clothes.shorts { clothes.skin } else { clothes.lower },
        );
        mesh.cuboid(pedal + vec3(-0.08, -0.045, -0.02), pedal + vec3(0.17, 0.045, 0.06), clothes.shoes);
    }
    if random.chance(0.3) {
        let bag = Paint::rough(bright(random));
        let back = hip.toward(neck, 0.62) + vec3(-0.2, 0.0, 0.0);
        mesh.cuboid(back + vec3(-0.1, -0.15, -0.2), back + vec3(0.1, 0.15, 0.2), bag);
    }
}
