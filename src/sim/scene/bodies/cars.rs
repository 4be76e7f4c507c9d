//! Cars: a lower body along a profile, with a glasshouse above it.

use super::{GLASS, Moment, Paint, RUBBER, across, axle, body_color, half_at, lamps, on_both_sides, plate};
use crate::sim::random::Random;
use crate::sim::scene::mesh::{Mesh, Station, station};
use crate::sim::space::vec3;

/// Where the roof begins and ends and where the glass meets the body, as fractions of the length from the front; lengths of the bonnet and
/// the boot.
struct Style {
    /// Windscreen bottom and top; rear window top and bottom.
    glass: [f32; 4],
    /// Height of the bonnet's front and of the boot's end, as fractions of the beltline height.
    ends: [f32; 2],
    /// Height of the beltline, as a fraction of the total height.
    belt: f32,
    /// Extra height.
    taller: f32,
}

/// Hatchback, saloon, estate, sport utility, van.
const STYLES: [(Style, f32); 5] = [
    (Style { glass: [0.28, 0.42, 0.86, 0.97], ends: [0.78, 0.98], belt: 0.62, taller: 1.0 }, 30.0),
    (Style { glass: [0.3, 0.44, 0.72, 0.86], ends: [0.76, 0.97], belt: 0.62, taller: 0.96 }, 27.0),
    (Style { glass: [0.29, 0.42, 0.92, 0.985], ends: [0.77, 1.0], belt: 0.61, taller: 1.0 }, 14.0),
    (Style { glass: [0.28, 0.4, 0.9, 0.985], ends: [0.88, 1.0], belt: 0.62, taller: 1.12 }, 20.0),
    (Style { glass: [0.13, 0.27, 0.97, 0.995], ends: [0.82, 1.0], belt: 0.54, taller: 1.2 }, 9.0),
];

/// A car.
pub(super) fn car(mesh: &mut Mesh, size: [f32; 3], moment: Moment, random: &mut Random) {
    let weights = STYLES.each_ref().map(|(_, weight)| *weight);
    let (style, _) = &STYLES[random.weighted(&weights)];
    let [length, width, height] = [size[0], size[1], size[2] * style.taller];
    let paint = body_color(random);
    let lower = lower_body(mesh, style, [length, width, height], paint, random);
    glass_house(mesh, style, [length, width, height], paint, random);
    let rim = Paint::glossy([random.range(0.25, 0.6); 3], 0.2);
    let radius = (0.3 + random.range(0.0, 0.06)) * (height / 1.5).min(1.15);
    for x in [length * 0.31, -length * 0.3] {
        axle(mesh, x, radius, width / 2.0, rim);
    }
    let belt = style.belt * height;
    let [back, front] = [lower[0].x, lower[lower.len() - 1].x];
    lamps(mesh, [back, front], width * 0.46, [belt * 0.62, belt * 0.8], moment);
    across(mesh, front, [-width * 0.25, width * 0.25], [belt * 0.45, belt * 0.66], 1.0, RUBBER);
    plate(mesh, front, belt * 0.4, 1.0, random);
    plate(mesh, back, belt * 0.62, -1.0, random);
}

fn lower_body(
    mesh: &mut Mesh,
    style: &Style,
    size: [f32; 3],
    paint: Paint,
    random: &mut Random,
) -> [Station; 6] {
    let [length, width, height] = size;
    let belt = style.belt * height;
    let (half, sill) = (width / 2.0, random.range(0.17, 0.24));
    let at = |part: f32| length / 2.0 - part * length;
    let cut = |part: f32, low: f32, top: f32, wide: f32| {
        station(at(part), [low, top], [half * wide, half * wide * 0.97])
    };
    let stations = [
        cut(1.0, sill + 0.12, belt * style.ends[1] * 0.86, 0.88),
        cut(0.95, sill, belt * style.ends[1], 0.98),
        cut(0.7, sill, belt, 1.0),
        cut(style.glass[0], sill, belt * 0.99, 1.0),
        cut(0.06, sill, belt * style.ends[0], 0.96),
        cut(0.0, sill + 0.1, belt * style.ends[0] * 0.8, 0.84),
    ];
    mesh.loft(&stations, &[paint], &[paint], [paint.times(0.9), paint.times(0.9)]);
    // Sills and bumpers of black plastic, seams of the doors.
    on_both_sides(mesh, [at(0.93), at(0.05)], [sill, sill + 0.08], [half * 0.99, half * 1.0], RUBBER);
    for part in [0.3, 0.52, 0.72] {
        let seam = [at(part) - 0.012, at(part) + 0.012];
        on_both_sides(mesh, seam, [sill + 0.1, belt * 0.95], [half, half * 0.98], paint.times(0.35));
    }
    across(mesh, stations[0].x, [-half * 0.8, half * 0.8], [sill + 0.12, sill + 0.26], -1.0, RUBBER);
    stations
}

fn glass_house(mesh: &mut Mesh, style: &Style, size: [f32; 3], paint: Paint, random: &mut Random) {
    let [length, width, height] = size;
    let belt = style.belt * height - 0.01;
    let half = width / 2.0;
    let at = |part: f32| length / 2.0 - part * length;
    let [screen_low, screen_high, rear_high, rear_low] = style.glass;
    let roof = half * random.range(0.74, 0.82);
    let house = [
        station(at(rear_low), [belt, belt + 0.02], [half * 0.93, half * 0.92]),
        station(at(rear_high), [belt, height * 0.985], [half * 0.96, roof * 0.97]),
        station(at((screen_high + rear_high) / 2.0), [belt, height], [half * 0.97, roof]),
        station(at(screen_high), [belt, height * 0.985], [half * 0.96, roof * 0.97]),
        station(at(screen_low), [belt, belt + 0.02], [half * 0.9, half * 0.89]),
    ];
    mesh.loft(&house, &[GLASS], &[GLASS, paint, paint, GLASS], [paint; 2]);
    // Pillars and the edge of the roof.
    let pillar = |mesh: &mut Mesh, low: f32, high: f32, wide: f32| {
        let (low, high) = (at(low), at(high));
        let top = height * 0.975;
        for side in [-1.0f32, 1.0] {
            let (y0, y1) = (side * (half * 0.97 + 0.014), side * (roof + 0.014));
            let corners = [
                vec3(low + wide, y0, belt),
                vec3(low - wide, y0, belt),
                vec3(high - wide, y1, top),
                vec3(high + wide, y1, top),
            ];
            let corners = if side > 0.0 { corners } else { [corners[1], corners[0], corners[3], corners[2]] };
            mesh.quad(corners, paint.times(0.85));
        }
    };
    let middle = (screen_high + rear_high) / 2.0;
    pillar(mesh, screen_low + 0.015, screen_high, 0.035);
    pillar(mesh, middle, middle, 0.05);
    pillar(mesh, rear_low - 0.02, rear_high - 0.01, 0.09);
    let edge = half_at(&house[2], height * 0.955);
    on_both_sides(
        mesh,
        [at(rear_high), at(screen_high)],
        [height * 0.93, height * 0.985],
        [edge, edge * 0.985],
        paint,
    );
    // Mirrors.
    for side in [-1.0f32, 1.0] {
        let y = side * (half + 0.07);
        let x = at(screen_low + 0.05);
        mesh.cuboid(
            vec3(x - 0.08, y - 0.08, belt + 0.02),
            vec3(x + 0.06, y + 0.08, belt + 0.16),
            paint.times(0.8),
        );
    }
}
