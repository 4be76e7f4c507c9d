//! Bounding boxes of road users, computed from their sizes alone without rendering: for simulations of days.

use super::scene::Truth;
use super::space::vec3;
use super::traffic::{Kind, RoadUser, Traffic};
use super::view::View;

/// All road users that are at least partly inside a picture of `width` x `height`, `ahead` seconds after the traffic's last step. Boxes are
/// those of solids around the bodies; the hidden share is the largest share that a single nearer box covers.
pub fn outlines(
    traffic: &Traffic,
    view: &View,
    (width, height): (u32, u32),
    ahead: f32,
    out: &mut Vec<Truth>,
) {
    out.clear();
    let mut distances = heapless::Vec::<f32, { 2 * super::traffic::ROAD_USERS_MAX }>::new();
    for user in traffic.users() {
        for part in [0u64, 1] {
            let Some((low, high, kind)) = solid(user, part == 1) else { continue };
            let Some((truth, distance)) = outline(user, (low, high, kind), part, view, ahead) else {
                continue;
            };
            let [left, top, right, bottom] = truth.whole;
            let inside = right > 0.0 && bottom > 0.0 && left < width as f32 && top < height as f32;
            if inside && distances.push(distance).is_ok() {
                out.push(truth);
            }
        }
    }
    for index in 0..out.len() {
        let [left, top, right, bottom] = out[index].whole;
        let seen = [left.max(0.0), top.max(0.0), right.min(width as f32), bottom.min(height as f32)];
        let area = |[l, t, r, b]: [f32; 4]| (r - l).max(0.0) * (b - t).max(0.0);
        let own = area(seen);
        let hidden = out
            .iter()
            .zip(&distances)
            .filter(|(other, distance)| **distance < distances[index] && other.id / 2 != out[index].id / 2)
            .map(|(other, _)| {
                let [l, t, r, b] = other.whole;
                area([l.max(seen[0]), t.max(seen[1]), r.min(seen[2]), b.min(seen[3])])
            })
            .fold(0.0, f32::max);
        out[index].seen = seen;
        out[index].visible = (own - hidden).max(0.0) / area(out[index].whole).max(1e-3);
    }
}

/// Lower and upper height of a part of a road user, and its class; none if there is no such part.
fn solid(user: &RoadUser, rider: bool) -> Option<(f32, f32, Kind)> {
    let high = user.size[2];
    match (user.kind, rider) {
        (_, false) => Some((0.0, high, user.kind)),
        (Kind::Bicycle, true) if !user.parked => Some((0.2, high + 0.75, Kind::Person)),
        (Kind::Motorcycle, true) if !user.parked => Some((0.25, high + 0.5, Kind::Person)),
        (Kind::Bicycle | Kind::Motorcycle | Kind::Person | Kind::Car | Kind::Bus | Kind::Truck, true) => None,
    }
}

fn outline(
    user: &RoadUser,
    (low, high, kind): (f32, f32, Kind),
    part: u64,
    view: &View,
    ahead: f32,
) -> Option<(Truth, f32)> {
    let pose = user.pose(ahead);
    let middle = vec3(pose.at[0], pose.at[1], 0.0);
    let (x, y) = if part == 1 { (0.45, 0.3) } else { (user.size[0] / 2.0, user.size[1] / 2.0) };
    let mut whole = [f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
    for corner in 0..8u8 {
        let sign = |bit: u8| if corner & bit == 0 { -1.0 } else { 1.0 };
        let z = if corner & 4 == 0 { low } else { high };
        let seen = view.see(pose.heading.turn(vec3(x * sign(1), y * sign(2), z)) + middle)?;
        whole = [whole[0].min(seen.x), whole[1].min(seen.y), whole[2].max(seen.x), whole[3].max(seen.y)];
    }
    let id = u64::from(user.id) * 2 + part;
    let truth = Truth { id, kind, seen: whole, whole, visible: 1.0, at: pose.at, speed: pose.speed };
    Some((truth, view.distance(middle)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scene::{Scene, SceneParams};

    #[test]
    fn outlines_approximate_the_rendered_boxes() {
        let (mut close, mut all) = (0, 0);
        for seed in 0..16 {
            let params = SceneParams { seed, width: 320, height: 180, calm: true, ..SceneParams::default() };
            let mut scene = Scene::new(&params).unwrap();
            let view = View::new(&scene.setting().mount, 320.0, 180.0);
            let mut rgb = vec![0; scene.picture_bytes()];
            let drawn = scene.render(0.0, &mut rgb).to_vec();
            let mut outlined = Vec::new();
            outlines(scene.traffic(), &view, (320, 180), 0.0, &mut outlined);
            for truth in drawn.iter().filter(|truth| truth.visible > 0.9 && !truth.is_hard(320)) {
                let other = outlined.iter().find(|other| other.id == truth.id).unwrap();
                assert_eq!(other.kind, truth.kind);
                let [l, t, r, b] = truth.seen;
                let [ol, ot, or, ob] = other.seen;
                let shared = (r.min(or) - l.max(ol)).max(0.0) * (b.min(ob) - t.max(ot)).max(0.0);
                let iou = shared / ((r - l) * (b - t) + (or - ol) * (ob - ot) - shared);
                all += 1;
                close += u32::from(iou > 0.6);
            }
        }
        assert!(all > 30 && close * 10 > all * 8, "{close} of {all}");
    }
}
