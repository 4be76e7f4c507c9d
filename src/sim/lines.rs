//! The counting line of a simulated street.

use super::scene::Setting;
use super::space::vec3;
use super::traffic::Street;
use crate::analytics::count::CountingLine;
use crate::base::geometry::PointRel;
use crate::event::fixed;

/// A line straight across all lanes where they are in the picture and objects are large; else the middle of the picture.
pub fn counting_line(setting: &Setting) -> CountingLine {
    let (width, height) = (setting.width as f32, setting.height as f32);
    let view = setting.view();
    let street = &setting.street;
    let seen_at = |x: f32, y: f32| {
        let seen = view.see(vec3(x, y, 0.0))?;
        let (x, y) = (seen.x / width, seen.y / height);
        ((0.02..=0.98).contains(&x) && (0.12..=0.97).contains(&y)).then_some(PointRel { x, y })
    };
    // From the lanes outward, as far over the pavement as the picture shows.
    let end = |x: f32, direction: usize| {
        let lanes = street.lanes_m(direction) + street.cycle_m + 0.3;
        let most = street.kerb_m(direction) + street.pavement_m;
        let at = |out: f32| seen_at(x, Street::side(direction, out));
        let mut best = at(lanes)?;
        let mut out = lanes;
        while let Some(further) = at(out) {
            (best, out) = (further, out + 0.25);
            if out > most {
                break;
            }
        }
        Some(best)
    };
    for step in 0..160u8 {
        let x = -10.0 + f32::from(step) * 0.5;
        let (Some(a), Some(b)) = (end(x, 0), end(x, 1)) else { continue };
        // Not where it would be almost parallel to the view, nor right below the camera.
        if (a.x - b.x).abs() + (a.y - b.y).abs() > 0.25 && view.distance(vec3(x, 0.0, 0.0)) > 7.0 {
            let (forward, backward) = (fixed("one way"), fixed("other way"));
            return CountingLine { name: fixed("road"), a, b, forward, backward };
        }
    }
    CountingLine { name: fixed("road"), ..CountingLine::middle() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scene::SceneParams;

    #[test]
    fn most_streets_have_a_line_across_all_lanes() {
        let mut middles = 0;
        for seed in 0..60 {
            let setting = SceneParams { seed, ..SceneParams::default() }.complete().unwrap();
            let line = counting_line(&setting);
            line.check().unwrap();
            middles += u32::from(line.a == CountingLine::middle().a);
        }
        assert!(middles < 12, "{middles} of 60 streets have none");
    }
}
