//! Buses and trucks.

use super::{
    GLASS, Moment, Paint, RUBBER, STEEL, across, axle, body_color, bright, lamps, on_both_sides, plate,
};
use crate::sim::random::Random;
use crate::sim::scene::mesh::{Mesh, station};
use crate::sim::space::vec3;

/// A bus: one long box with one row of windows, or two.
pub(super) fn bus(mesh: &mut Mesh, size: [f32; 3], moment: Moment, random: &mut Random) {
    let [length, width, height] = size;
    let double = length < 11.5 && random.chance(0.25);
    let height = if double { 4.2 } else { height };
    let (half, front) = (width / 2.0, length / 2.0);
    let color = if random.chance(0.3) { [0.75; 3] } else { bright(random) };
    let paint = Paint::glossy(color, 0.15);
    let second = if random.chance(0.5) { paint.times(0.5) } else { Paint::glossy(bright(random), 0.1) };
    let cut =
        |x: f32, low: f32, top: f32, wide: f32| station(x, [low, top], [half * wide, half * wide * 0.97]);
    let stations = [
        cut(-front, 0.45, height * 0.95, 0.95),
        cut(-front + 0.15, 0.32, height, 1.0),
        cut(front - 0.25, 0.32, height, 1.0),
        cut(front, 0.4, height * 0.96, 0.95),
    ];
    mesh.loft(&stations, &[paint], &[paint.times(0.9)], [paint, paint]);
    on_both_sides(mesh, [-front + 0.2, front - 0.3], [0.34, 0.75], [half, half], second);
    let decks: &[[f32; 2]] = if double { &[[1.35, 2.15], [2.75, 3.6]] } else { &[[1.3, 0.0]] };
    for &[low, high] in decks {
        let high = if high > 0.0 { high } else { height - random.range(0.35, 0.55) };
        windows(mesh, [-front + 0.4, front - 0.35], [low, high], half, random);
        across(mesh, front, [-half * 0.88, half * 0.88], [low - 0.25, high], 1.0, GLASS);
        across(mesh, -front, [-half * 0.7, half * 0.7], [low + 0.2, high], -1.0, GLASS);
    }
    // Illuminated destination sign; doors on the right.
    let sign = Paint::lamp([0.9, 0.5, 0.05], if moment.lamps { 1.6 } else { 0.5 });
    across(mesh, front, [-half * 0.6, half * 0.6], [height - 0.34, height - 0.12], 1.0, sign);
    for x in [front - 1.4, -0.3] {
        let door = |x: f32| [x, x + 0.55];
        for [back, end] in [door(x), door(x + 0.6)] {
            mesh.quad(
                [
                    vec3(back, -half - 0.02, 0.4),
                    vec3(end, -half - 0.02, 0.4),
                    vec3(end, -half - 0.02, 2.1),
                    vec3(back, -half - 0.02, 2.1),
                ],
                GLASS,
            );
        }
    }
    for x in [front - 2.6, -front + 2.9] {
        axle(mesh, x, 0.48, half, Paint::glossy([0.4; 3], 0.1));
    }
    lamps(mesh, [-front, front], half * 0.9, [0.62, 0.85], moment);
    plate(mesh, front, 0.45, 1.0, random);
    plate(mesh, -front, 0.7, -1.0, random);
}

fn windows(mesh: &mut Mesh, [back, front]: [f32; 2], z: [f32; 2], half: f32, random: &mut Random) {
    let wide = random.range(1.1, 1.8);
    let count = ((front - back) / wide).floor().max(1.0);
    let step = (front - back) / count;
    for index in 0..count as usize {
        let x = back + index as f32 * step;
        on_both_sides(mesh, [x + 0.06, x + step - 0.06], z, [half * 0.995, half * 0.985], GLASS);
    }
}

/// A truck: pickup, delivery van with a box, tipper, tanker or articulated lorry, depending on its length.
pub(super) fn truck(mesh: &mut Mesh, size: [f32; 3], moment: Moment, random: &mut Random) {
    let [length, width, height] = size;
    if length < 6.0 && height < 2.7 {
        return pickup(mesh, [length, width.min(2.05), height.min(2.0)], moment, random);
    }
    let width = width.max(2.1);
    let height = height.max(2.6 + (length - 6.0) * 0.12).min(4.0);
    let (half, front) = (width / 2.0, length / 2.0);
    let cab_length = random.range(1.6, 2.3);
    let cab_height = (height * random.range(0.72, 0.95)).clamp(2.2, 3.6);
    cab(mesh, [front - cab_length, front], half, cab_height, random);
    let deck = 0.95;
    let rear = [-front, front - cab_length - 0.15];
    mesh.cuboid(vec3(rear[0], -half * 0.4, 0.55), vec3(rear[1] + 0.3, half * 0.4, deck), RUBBER);
    load(mesh, rear, half, [deck, height], random);
    let rim = Paint::glossy([random.range(0.3, 0.6); 3], 0.1);
    let radius = if length > 8.0 { 0.5 } else { 0.4 };
    axle(mesh, front - cab_length * 0.6, radius, half, rim);
    let rear_axles = if length > 11.0 {
        3
    } else if length > 8.0 {
        2
    } else {
        1
    };
    for index in 0..rear_axles {
        axle(mesh, rear[0] + length * 0.14 + index as f32 * (radius * 2.0 + 0.25), radius, half, rim);
    }
    if length > 11.0 {
        axle(mesh, front - cab_length - 1.6, radius, half, rim);
    }
    lamps(mesh, [-front, front], half * 0.92, [0.6, 0.8], moment);
    across(mesh, -front, [-half, half], [0.5, 0.62], -1.0, RUBBER);
    plate(mesh, front, 0.45, 1.0, random);
    plate(mesh, -front, 0.62, -1.0, random);
}

fn cab(mesh: &mut Mesh, [back, front]: [f32; 2], half: f32, height: f32, random: &mut Random) {
    let paint = if random.chance(0.5) { body_color(random) } else { Paint::glossy(bright(random), 0.15) };
    let cut =
        |x: f32, low: f32, top: f32, wide: f32| station(x, [low, top], [half * wide, half * wide * 0.94]);
    let nose = random.range(0.08, 0.35);
    let stations = [
        cut(back, 0.5, height, 1.0),
        cut(front - nose, 0.45, height * 0.97, 1.0),
        cut(front, 0.45, height * 0.62, 0.97),
    ];
    let windscreen = Paint { ..GLASS };
    mesh.loft(&stations, &[paint], &[paint, windscreen], [paint.times(0.7), paint]);
    across(mesh, front - nose * 0.3, [-half * 0.84, half * 0.84], [height * 0.56, height * 0.86], 1.0, GLASS);
    on_both_sides(
        mesh,
        [front - 1.05, front - nose - 0.05],
        [height * 0.56, height * 0.84],
        [half * 0.97, half * 0.955],
        GLASS,
    );
    across(mesh, front, [-half * 0.7, half * 0.7], [0.75, height * 0.5], 1.0, RUBBER);
    across(mesh, front, [-half * 0.95, half * 0.95], [0.45, 0.7], 1.0, paint.times(0.5));
    for side in [-1.0f32, 1.0] {
        let y = side * (half + 0.16);
        mesh.cuboid(
            vec3(front - 0.25, y - 0.08, height * 0.55),
            vec3(front - 0.15, y + 0.08, height * 0.8),
            RUBBER,
        );
    }
}

fn load(mesh: &mut Mesh, [back, front]: [f32; 2], half: f32, [deck, height]: [f32; 2], random: &mut Random) {
    let color = if random.chance(0.6) { [random.range(0.55, 0.8); 3] } else { bright(random) };
    let paint = Paint { color, grain: 0.08, gloss: 0.04, lamp: 0.0 };
    match random.weighted(&[0.6, 0.2, 0.1, 0.1]) {
        0 => {
            mesh.cuboid(vec3(back, -half, deck), vec3(front, half, height), paint);
            lettering(mesh, [back, front], half, [deck, height], random);
            for y in [-half + 0.04, 0.0, half - 0.04] {
                across(mesh, back, [y - 0.02, y + 0.02], [deck, height], -1.0, paint.times(0.5));
            }
        }
        1 => {
            // A tipper: open at the top, ribs on its sides.
            let top = deck + (height - deck) * 0.55;
            mesh.cuboid(vec3(back, -half, deck), vec3(front, half, top), paint);
            let count = 5;
            for rib in 0..=count {
                let x = back + 0.05 + (front - back - 0.1) * rib as f32 / count as f32;
                on_both_sides(mesh, [x - 0.05, x + 0.05], [deck, top], [half, half], paint.times(0.6));
            }
            let heap = Paint::rough([0.28, 0.22, 0.15]);
            mesh.ball(
                vec3((back + front) / 2.0, 0.0, top - 0.1),
                vec3((front - back) * 0.45, half * 0.85, 0.5),
                |_| heap,
            );
        }
        2 => {
            let radius = (half * 0.95).min((height - deck) / 2.0);
            let tank = Paint::glossy([0.5, 0.51, 0.53], 0.3);
            mesh.rod(vec3(back, 0.0, deck + radius), vec3(front, 0.0, deck + radius), [radius; 2], 12, tank);
        }
        _ => {
            // A flat bed with crates.
            mesh.cuboid(vec3(back, -half, deck - 0.1), vec3(front, half, deck + 0.05), STEEL);
            let mut x = back + 0.2;
            while x < front - 0.8 {
                let (long, tall) = (random.range(0.7, 1.8), random.range(0.4, 1.2));
                let wide = half * random.range(0.6, 0.95);
                let crate_paint =
                    Paint::rough([random.range(0.15, 0.5), random.range(0.12, 0.4), random.range(0.08, 0.3)]);
                mesh.cuboid(
                    vec3(x, -wide, deck + 0.05),
                    vec3((x + long).min(front), wide, deck + tall),
                    crate_paint,
                );
                x += long + random.range(0.05, 0.6);
            }
        }
    }
}

/// Stripes and blocks that look like a company name.
fn lettering(
    mesh: &mut Mesh,
    [back, front]: [f32; 2],
    half: f32,
    [low, high]: [f32; 2],
    random: &mut Random,
) {
    let paint = Paint::dull(bright(random));
    if random.chance(0.5) {
        let z = low + (high - low) * random.range(0.1, 0.3);
        on_both_sides(mesh, [back, front], [z, z + 0.25], [half, half], paint);
    }
    if random.chance(0.7) {
        let (z, tall) =
            (low + (high - low) * random.range(0.4, 0.6), (high - low) * random.range(0.12, 0.25));
        let mut x = back + (front - back) * random.range(0.1, 0.3);
        while x < front - 0.6 {
            let wide = random.range(0.15, 0.4);
            on_both_sides(mesh, [x, x + wide], [z, z + tall], [half, half], paint);
            x += wide + 0.12;
        }
    }
}

fn pickup(mesh: &mut Mesh, [length, width, height]: [f32; 3], moment: Moment, random: &mut Random) {
    let paint = body_color(random);
    let (half, front) = (width / 2.0, length / 2.0);
    let belt = height * 0.6;
    let at = |part: f32| front - part * length;
    let cut = |part: f32, low: f32, top: f32, wide: f32| {
        station(at(part), [low, top], [half * wide, half * wide * 0.98])
    };
    let lower = [
        cut(1.0, 0.5, belt * 0.96, 0.95),
        cut(0.62, 0.42, belt * 0.96, 1.0),
        cut(0.26, 0.42, belt, 1.0),
        cut(0.03, 0.45, belt * 0.92, 0.97),
        cut(0.0, 0.5, belt * 0.8, 0.9),
    ];
    // The bed is open: dark from above.
    mesh.loft(&lower, &[paint], &[RUBBER, paint, paint, paint], [paint.times(0.9), paint.times(0.8)]);
    let house = [
        cut(0.61, belt - 0.01, belt + 0.03, 0.95),
        cut(0.585, belt - 0.01, height, 0.9),
        cut(0.36, belt - 0.01, height, 0.9),
        cut(0.25, belt - 0.01, belt + 0.03, 0.9),
    ];
    mesh.loft(&house, &[GLASS], &[GLASS, paint, GLASS], [paint; 2]);
    for part in [0.31, 0.47, 0.585] {
        on_both_sides(
            mesh,
            [at(part) - 0.05, at(part) + 0.05],
            [belt, height * 0.98],
            [half * 0.95, half * 0.88],
            paint,
        );
    }
    on_both_sides(mesh, [at(0.59), at(0.36)], [height * 0.93, height], [half * 0.9, half * 0.89], paint);
    for x in [at(0.17), at(0.78)] {
        axle(mesh, x, 0.39, half, Paint::glossy([0.4; 3], 0.2));
    }
    if random.chance(0.4) {
        let heap = Paint::rough([random.range(0.1, 0.5), random.range(0.1, 0.4), random.range(0.05, 0.3)]);
        mesh.cuboid(
            vec3(at(0.95), -half * 0.7, belt * 0.8),
            vec3(at(0.66), half * 0.7, belt + random.range(0.1, 0.5)),
            heap,
        );
    }
    lamps(mesh, [-front, front], half * 0.95, [belt * 0.68, belt * 0.88], moment);
    across(mesh, front, [-half * 0.55, half * 0.55], [belt * 0.5, belt * 0.75], 1.0, RUBBER);
    plate(mesh, front, belt * 0.42, 1.0, random);
    plate(mesh, -front, belt * 0.6, -1.0, random);
}
