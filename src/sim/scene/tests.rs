use super::*;
use sha2::{Digest, Sha256};

fn small(seed: u64) -> SceneParams {
    SceneParams { seed, width: 320, height: 180, ..SceneParams::default() }
}

fn pictures(params: &SceneParams, times: &[f64]) -> Vec<Vec<u8>> {
    let mut scene = Scene::new(params).unwrap();
    let mut rgb = vec![0; scene.picture_bytes()];
    let mut all = Vec::new();
    for &time in times {
        scene.render(time, &mut rgb);
        all.push(rgb.clone());
    }
    all
}

#[test]
fn a_seed_gives_the_same_picture_on_every_machine() {
    let hash = |seed| {
        let pictures = pictures(&small(seed), &[0.0, 0.7]);
        Sha256::digest(pictures.concat()).iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    // Made by this code on x86-64. If it changes on purpose, the shipped detector's training data changes with it.
    assert_eq!([hash(1), hash(2), hash(3)], ["1d278b5b1e1e", "36c5728a58ff", "da01103cbb9b"]);
}

#[test]
fn every_hour_and_weather_has_a_picture_that_differs() {
    let mut seen = std::collections::BTreeSet::new();
    for (_, hour) in Hour::ALL {
        for (_, weather) in Weather::ALL {
            let params = SceneParams { hour: Some(hour), weather: Some(weather), ..small(4) };
            let picture = pictures(&params, &[1.0]).remove(0);
            let mean = picture.iter().map(|&part| f64::from(part)).sum::<f64>() / picture.len() as f64;
            let least = if hour == Hour::Night { 8.0 } else { 35.0 };
            assert!((least..230.0).contains(&mean), "{hour:?} {weather:?} has a mean of {mean}");
            assert!(seen.insert(picture), "{hour:?} {weather:?} looks like another");
        }
    }
}

#[test]
fn the_truth_is_what_is_in_the_picture() {
    let mut kinds = std::collections::BTreeSet::new();
    let mut moved = 0;
    for seed in 0..12 {
        let params = SceneParams { calm: true, anything: true, ..small(seed) };
        let mut scene = Scene::new(&params).unwrap();
        let mut rgb = vec![0; scene.picture_bytes()];
        let mut before: Vec<Truth> = Vec::new();
        for step in 0..6 {
            let truth = scene.render(f64::from(step) * 0.5, &mut rgb).to_vec();
            for truth in &truth {
                let [left, top, right, bottom] = truth.seen;
                assert!(0.0 <= left && left < right && right <= 320.0, "{truth:?}");
                assert!(0.0 <= top && top < bottom && bottom <= 180.0, "{truth:?}");
                assert!((0.0..=1.0).contains(&truth.visible), "{truth:?}");
                let slack = 1.5;
                assert!(left >= truth.whole[0] - slack && right <= truth.whole[2] + slack, "{truth:?}");
                assert!(top >= truth.whole[1] - slack && bottom <= truth.whole[3] + slack, "{truth:?}");
                if !truth.is_hard(320) {
                    kinds.insert(truth.kind);
                }
                moved += usize::from(before.iter().any(|b| b.id == truth.id && b.seen != truth.seen));
            }
            let mut ids: Vec<u64> = truth.iter().map(|truth| truth.id).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), truth.len(), "each once");
            before = truth;
        }
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    assert!(moved > 100);
}

/// Checks boxes against the pixels: the picture with a car differs from the one without it only inside its box.
#[test]
fn a_box_is_where_the_picture_changes() {
    let params =
        SceneParams { calm: true, weather: Some(Weather::Overcast), hour: Some(Hour::Day), ..small(5) };
    let empty = SceneParams { traffic: Some(0.0), ..params };
    let mut scene = Scene::new(&params).unwrap();
    let mut rgb = vec![0; scene.picture_bytes()];
    let mut without = Scene::new(&empty).unwrap();
    let mut plain = rgb.clone();
    let (mut inside, mut outside) = (0u32, 0u32);
    for step in 0..8 {
        let time = f64::from(step) * 2.0;
        let truth = scene.render(time, &mut rgb).to_vec();
        without.render(time, &mut plain);
        for row in 0..180 {
            for column in 0..320 {
                let place = (row * 320 + column) * 3;
                let changed = (0..3).any(|part| rgb[place + part].abs_diff(plain[place + part]) > 40);
                let (x, y) = (column as f32 + 0.5, row as f32 + 0.5);
                let boxed = truth
                    .iter()
                    .any(|t| (t.seen[0]..=t.seen[2]).contains(&x) && (t.seen[1]..=t.seen[3]).contains(&y));
                inside += u32::from(changed && boxed);
                outside += u32::from(changed && !boxed);
            }
        }
    }
    // Changes outside are shadows and parked cars, which the seed places differently.
    assert!(inside > 500 && outside * 4 < inside, "{inside} changed inside, {outside} outside");
}

#[test]
fn a_setting_out_of_range_is_named() {
    for (params, words) in [
        (SceneParams { width: 321, ..small(1) }, "width is 321"),
        (SceneParams { height: 20, ..small(1) }, "height is 20"),
        (SceneParams { traffic: Some(7.0), ..small(1) }, "traffic is 7"),
    ] {
        let error = Scene::new(&params).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
}
