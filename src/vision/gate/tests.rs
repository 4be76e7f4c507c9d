//! Scenes with seeded noise, and two recordings.

use proptest::prelude::*;

use super::*;

const FRAME_MS: u64 = 100;

/// Standard normal numbers: a table, picked from at random (a recording's worth of noise in a second).
struct Noise {
    table: Vec<f32>,
    state: u64,
}

impl Noise {
    fn new(seed: u64) -> Self {
        let mut noise = Noise { table: Vec::new(), state: seed * 2 + 1 };
        // The sum of twelve uniforms has variance 1.
        let mut normal =
            || (0..12).map(|_| (noise.next() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0;
        let table = (0..1 << 16).map(|_| normal()).collect();
        noise.table = table;
        noise
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn normal(&mut self) -> f32 {
        let at = (self.next() >> 48) as usize;
        self.table[at]
    }
}

/// A rectangle with a brightness, in frame pixels.
#[derive(Clone, Copy)]
struct Thing {
    x: f32,
    y: f32,
    w: f32,
    h: f32,
    luma: f32,
}

/// A street of contrast 60..180 with objects on it, seen by a camera with gain, offset and noise.
struct Scene {
    width: usize,
    height: usize,
    street: Vec<f32>,
    noise: Noise,
    sigma: f32,
    gain: f32,
    offset: f32,
    things: Vec<Thing>,
}

impl Scene {
    fn new(width: usize, height: usize, sigma: f32, seed: u64) -> Self {
        let at = |i: usize| {
            let (x, y) = ((i % width) as f32 / width as f32, (i / width) as f32 / height as f32);
            let stripes = if ((x * 12.0 + y * 3.0) as usize).is_multiple_of(4) { 35.0 } else { 0.0 };
            75.0 + 40.0 * y + stripes + 10.0 * (x * 9.0).sin()
        };
        let street = (0..width * height).map(at).collect();
        let noise = Noise::new(seed);
        Scene { width, height, street, noise, sigma, gain: 1.0, offset: 0.0, things: Vec::new() }
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut picture = self.street.clone();
        for t in &self.things {
            // Partial coverage of edge pixels, so that a slow object moves by fractions of a pixel.
            let cover = |at: usize, from: f32, size: f32| {
                ((at as f32 + 1.0).min(from + size) - (at as f32).max(from)).clamp(0.0, 1.0)
            };
            let range = |from: f32, size: f32, limit: usize| {
                (from.max(0.0) as usize).min(limit)..((from + size).max(0.0).ceil() as usize).min(limit)
            };
            for y in range(t.y, t.h, self.height) {
                for x in range(t.x, t.w, self.width) {
                    let part = cover(x, t.x, t.w) * cover(y, t.y, t.h);
                    let pixel = &mut picture[y * self.width + x];
                    *pixel += part * (t.luma - *pixel);
                }
            }
        }
        let (gain, offset, sigma) = (self.gain, self.offset, self.sigma);
        picture.iter().map(|v| (v * gain + offset + sigma * self.noise.normal()).round() as u8).collect()
    }
}

/// A gate, its scene, and the time between them.
struct Rig {
    gate: Gate,
    scene: Scene,
    now: Mono,
    frame_ms: u64,
}

impl Rig {
    fn new(params: Params, scene: Scene) -> Self {
        let gate = Gate::new(params, scene.width as u32, scene.height as u32).unwrap();
        Rig { gate, scene, now: Mono::from_nanos(5_000_000_000), frame_ms: FRAME_MS }
    }

    /// A gate that has seen an empty street for `frames`.
    fn warm(params: Params, scene: Scene, frames: usize) -> Self {
        let mut rig = Rig::new(params, scene);
        (0..frames).for_each(|_| drop(rig.step()));
        rig
    }

    fn step(&mut self) -> Verdict {
        let frame = self.scene.frame();
        self.now = self.now + Duration::from_millis(self.frame_ms);
        let plane = Plane::new(&frame, self.scene.width, self.scene.height, self.scene.width, 1).unwrap();
        self.gate.look(self.now, &plane)
    }

    /// Reasons of the next frames.
    fn reasons(&mut self, frames: usize) -> Vec<Reason> {
        (0..frames).map(|_| self.step().reason).collect()
    }
}

/// No refresh and no hold, so that every verdict depends on its own frame only.
fn bare() -> Params {
    Params { refresh_s: 0, hold_ms: 0, ..Params::default() }
}

fn polygon(corners: &[(f32, f32)]) -> Polygon {
    corners.iter().map(|&(x, y)| PointRel { x, y }).collect()
}

/// At 640x360 a cell averages 4x4 pixels; at 160x120 a cell is a pixel and the gate sees the full noise.
#[test]
fn noise_never_opens() {
    for (width, height) in [(640, 360), (160, 120)] {
        for sigma in [0.0, 2.0, 6.0, 12.0] {
            for seed in [1, 2] {
                let mut rig = Rig::new(bare(), Scene::new(width, height, sigma, seed));
                let first = rig.reasons(6);
                assert_eq!(first, [Reason::Warmup; 6], "the first frames are let through");
                let open = rig.reasons(300).iter().filter(|r| r.open()).count();
                assert_eq!(open, 0, "{width}x{height} sigma {sigma} seed {seed}: open frames of 300");
            }
        }
    }
}

/// A camera that shakes in the wind by a pixel of its 640 (a quarter of a cell), over stripes of contrast 35.
#[test]
fn a_shaking_camera_never_opens() {
    let mut rig = Rig::warm(bare(), Scene::new(640, 360, 3.0, 14), 20);
    for frame in 0..100 {
        if frame % 3 == 0 {
            rig.scene.street.rotate_left(1);
        } else if frame % 3 == 1 {
            rig.scene.street.rotate_right(1);
        }
        assert!(!rig.step().open, "frame {frame}");
    }
}

/// Dead and hot pixels that come and go: isolated cells.
#[test]
fn salt_and_pepper_never_opens() {
    let mut rig = Rig::warm(bare(), Scene::new(160, 120, 2.0, 3), 20);
    for _ in 0..100 {
        let mut frame = rig.scene.frame();
        for _ in 0..40 {
            let at = (rig.scene.noise.next() as usize) % frame.len();
            frame[at] = if at.is_multiple_of(2) { 255 } else { 0 };
        }
        rig.now = rig.now + Duration::from_millis(100);
        let verdict = rig.gate.look(rig.now, &Plane::new(&frame, 160, 120, 160, 1).unwrap());
        assert!(!verdict.open, "{verdict:?}");
    }
}

/// Three by three cells, 25 code values brighter than the street under it, at several speeds, from the first frame that shows it whole to
/// the last: each frame opens, and a region covers the object.
#[test]
fn a_small_low_contrast_object_opens_every_frame() {
    for (width, height, sigma) in
        [(640, 360, 0.0), (640, 360, 6.0), (640, 360, 12.0), (160, 120, 0.0), (160, 120, 2.0)]
    {
        for cells_a_frame in [0.2f32, 0.5, 1.0, 3.0] {
            let cell = width as f32 / 160.0;
            let mut rig = Rig::warm(bare(), Scene::new(width, height, sigma, 4), 30);
            rig.scene.street.fill(90.0);
            rig.gate.background.forget();
            (0..20).for_each(|_| drop(rig.step()));
            let frames = (60.0 / cells_a_frame).min(150.0) as usize;
            for frame in 0..frames {
                let thing = Thing {
                    x: (20.0 + frame as f32 * cells_a_frame) * cell,
                    y: 40.0 * cell,
                    w: 3.0 * cell,
                    h: 3.0 * cell,
                    luma: 115.0,
                };
                rig.scene.things = vec![thing];
                let verdict = rig.step();
                let case = format!("{width}x{height} sigma {sigma} speed {cells_a_frame} frame {frame}");
                assert_eq!(verdict.reason, Reason::Motion, "{case}");
                let own: BoxPx<Frame> = BoxPx::new(thing.x, thing.y, thing.x + thing.w, thing.y + thing.h);
                let hit = verdict.regions.iter().map(|r| r.intersection(&own)).fold(0.0, f32::max);
                assert!(hit >= 0.4 * own.area(), "{case}: {:?} misses {own:?}", verdict.regions);
            }
        }
    }
}

/// A car (20x10 cells) that creeps stays visible until it has left.
#[test]
fn a_creeping_car_opens_every_frame() {
    let mut rig = Rig::warm(bare(), Scene::new(640, 360, 4.0, 5), 30);
    for frame in 0..400 {
        let x = -40.0 + frame as f32 * 0.2 * 4.0;
        rig.scene.things = vec![Thing { x, y: 180.0, w: 80.0, h: 40.0, luma: 60.0 }];
        let verdict = rig.step();
        assert!(verdict.reason == Reason::Motion, "frame {frame}: {verdict:?}");
    }
}

/// A stopped object opens the gate for `absorb_s` and then becomes background; when it drives away it opens the gate again.
#[test]
fn a_stopped_object_becomes_background() {
    let params = Params { absorb_s: 10, ..bare() };
    let mut rig = Rig::warm(params, Scene::new(640, 360, 3.0, 6), 30);
    rig.scene.things = vec![Thing { x: 200.0, y: 100.0, w: 80.0, h: 60.0, luma: 200.0 }];
    let standing = rig.reasons(130);
    assert!(standing[..98].iter().all(|r| *r == Reason::Motion), "{standing:?}");
    assert!(standing[104..].iter().all(|r| *r == Reason::Still), "{standing:?}");
    rig.scene.things[0].x += 8.0;
    assert_eq!(rig.step().reason, Reason::Motion);
}

/// Light steps: closed at once or after at most two frames, and the model is right again: the reverse step behaves the same.
#[test]
fn light_steps_are_not_motion() {
    for (gain, offset) in [(1.3, 0.0), (0.7, 0.0), (1.0, 30.0), (1.0, -30.0), (0.85, 12.0)] {
        for sigma in [0.0, 3.0, 12.0] {
            let mut rig = Rig::warm(bare(), Scene::new(640, 360, sigma, 7), 30);
            for (gain, offset) in [(gain, offset), (1.0, 0.0)] {
                (rig.scene.gain, rig.scene.offset) = (gain, offset);
                let after = rig.reasons(40);
                let case = format!("gain {gain} offset {offset} sigma {sigma}: {:?}", &after[..6]);
                assert!(after[..2].contains(&Reason::LightSwitch), "{case}");
                assert!(
                    after[2..].iter().all(|r| *r == Reason::Still || *r == Reason::LightSwitch),
                    "{case}"
                );
                assert!(after[10..].iter().all(|r| *r == Reason::Still), "{case}");
            }
        }
    }
}

/// A cloud or the sunset within 20 frames, and slowly within 600.
#[test]
fn light_ramps_are_not_motion() {
    for frames in [20, 600] {
        for (gain, offset) in [(0.6, 0.0), (1.35, 0.0), (1.0, -40.0)] {
            let mut rig = Rig::warm(bare(), Scene::new(640, 360, 4.0, 8), 30);
            let mut open = 0;
            for frame in 1..=frames + 20 {
                let part = (frame as f32 / frames as f32).min(1.0);
                (rig.scene.gain, rig.scene.offset) = (1.0 + (gain - 1.0) * part, offset * part);
                open += usize::from(rig.step().open);
            }
            assert_eq!(open, 0, "to gain {gain} offset {offset} over {frames} frames");
        }
    }
}

/// The light changes while a car drives: the car is detected in that frame and in all that follow.
#[test]
fn a_car_is_detected_during_a_light_change() {
    for (gain, offset) in [(1.3, 0.0), (0.7, 0.0), (1.0, 30.0), (1.0, -30.0)] {
        let mut rig = Rig::warm(bare(), Scene::new(640, 360, 3.0, 9), 30);
        for frame in 0..40 {
            let x = 40.0 + frame as f32 * 8.0;
            let car = Thing { x, y: 160.0, w: 120.0, h: 60.0, luma: 45.0 };
            rig.scene.things = vec![car];
            if frame == 10 {
                (rig.scene.gain, rig.scene.offset) = (gain, offset);
            }
            let verdict = rig.step();
            assert_eq!(verdict.reason, Reason::Motion, "gain {gain} offset {offset} frame {frame}");
            let hit: f32 =
                verdict.regions.iter().map(|r| r.intersection(&BoxPx::new(x, 160.0, x + 120.0, 220.0))).sum();
            assert!(hit >= 0.8 * 120.0 * 60.0, "frame {frame}: {:?}", verdict.regions);
            // The rest of the picture is not motion, from the second frame on.
            assert!(frame == 10 || verdict.moving_pixels < 900, "frame {frame}: {}", verdict.moving_pixels);
        }
        rig.scene.things.clear();
        let after = rig.reasons(10);
        assert!(after[1..].iter().all(|r| *r == Reason::Still), "{after:?}");
    }
}

/// A lamp that lights two thirds of the scene unevenly is not a linear change: motion at first, background once it has stood still for two
/// seconds.
#[test]
fn an_uneven_lamp_is_learnt_in_two_seconds() {
    let mut rig = Rig::warm(bare(), Scene::new(640, 360, 3.0, 10), 30);
    for (i, v) in rig.scene.street.iter_mut().enumerate() {
        let x = (i % 640) as f32 / 640.0;
        *v += 90.0 * (1.0 - x * 1.3).max(0.0);
    }
    let after = rig.reasons(60);
    assert!(after[25..].iter().all(|r| !r.open()), "{after:?}");
    assert!(after.contains(&Reason::LightSwitch));
}

/// A motion sensor opens a still picture for `hold_ms`, and does not affect learning.
#[test]
fn a_motion_sensor_wakes_the_gate() {
    let params = Params { hold_ms: 450, ..bare() };
    let mut rig = Rig::warm(params, Scene::new(640, 360, 3.0, 12), 30);
    assert_eq!(rig.reasons(3), [Reason::Still; 3]);
    rig.gate.wake(rig.now);
    assert_eq!(rig.reasons(4), [Reason::Woken; 4], "100 to 400 ms after");
    assert_eq!(rig.reasons(3), [Reason::Still; 3]);
    rig.gate.wake(rig.now - Duration::from_secs(5));
    assert_eq!(rig.step().reason, Reason::Still, "an old trigger has no effect");
}

#[test]
fn brightness_is_that_of_the_plane() {
    let mut gate = Gate::new(bare(), 64, 48).unwrap();
    for value in [0u8, 59, 255] {
        let frame = vec![value; 64 * 48];
        gate.look(Mono::from_nanos(1), &Plane::new(&frame, 64, 48, 64, 1).unwrap());
        assert_eq!(gate.brightness(), value);
    }
}

/// Night: the sensor's gain goes up, sigma 2 to 8, over two minutes and over twelve seconds, where a cell is a pixel.
#[test]
fn growing_noise_is_followed() {
    for frames in [1200, 120] {
        let mut rig = Rig::warm(bare(), Scene::new(160, 120, 2.0, 11), 100);
        for frame in 0..frames {
            rig.scene.sigma = 2.0 + 6.0 * frame as f32 / frames as f32;
            let verdict = rig.step();
            assert!(!verdict.open, "frame {frame} of {frames}: {verdict:?}");
        }
    }
}

#[test]
fn masks_limit_where_motion_counts() {
    let right = polygon(&[(0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)]);
    let lower_right = polygon(&[(0.5, 0.5), (1.0, 0.5), (1.0, 1.0), (0.5, 1.0)]);
    let include = Params { include: [right].into_iter().collect(), ..bare() };
    let both = Params { exclude: [lower_right].into_iter().collect(), ..include.clone() };
    // Object at: left, upper right, lower right.
    for (params, want) in
        [(bare(), [true, true, true]), (include, [false, true, true]), (both, [false, true, false])]
    {
        for ((x, y), want) in [(100.0, 100.0), (400.0, 60.0), (400.0, 260.0)].into_iter().zip(want) {
            let mut rig = Rig::warm(params.clone(), Scene::new(640, 360, 2.0, 12), 20);
            rig.scene.things = vec![Thing { x, y, w: 60.0, h: 40.0, luma: 220.0 }];
            assert_eq!(rig.step().open, want, "object at {x},{y}");
        }
    }
    let all_off = Params {
        exclude: [polygon(&[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])].into_iter().collect(),
        ..bare()
    };
    let error = Gate::new(all_off, 640, 360).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("leave no cell"), "{error}");
}

/// Other settings while it runs: the mask and thresholds change at once, what was learnt stays, and wrong ones change nothing.
#[test]
fn settings_change_without_a_new_warm_up() {
    let left = polygon(&[(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]);
    let everywhere = polygon(&[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]);
    let mut rig = Rig::warm(bare(), Scene::new(640, 360, 2.0, 12), 20);
    rig.gate.set(Params { exclude: [left].into_iter().collect(), ..bare() }).unwrap();
    assert_eq!(rig.step().reason, Reason::Still, "the background is known");
    rig.scene.things = vec![Thing { x: 100.0, y: 100.0, w: 60.0, h: 40.0, luma: 220.0 }];
    assert_eq!(rig.step().reason, Reason::Still, "the left half is excluded now");
    let error = rig.gate.set(Params { exclude: [everywhere].into_iter().collect(), ..bare() }).unwrap_err();
    assert!(error.to_string().contains("leave no cell"), "{error}");
    assert!(rig.gate.set(Params { hold_ms: 99_999, ..bare() }).is_err());
    assert_eq!(rig.step().reason, Reason::Still, "as before");
    rig.gate.set(Params { luma_delta_min: 100.0, noise_factor: 20.0, ..bare() }).unwrap();
    rig.scene.things = vec![Thing { x: 400.0, y: 100.0, w: 60.0, h: 40.0, luma: 140.0 }];
    assert_eq!(rig.step().reason, Reason::Still, "a weak contrast");
    rig.gate.set(bare()).unwrap();
    assert_eq!(rig.step().reason, Reason::Motion);
}

/// An object on one side of the mask's edge, which lies between cell centres, in frames of any size and in DC planes.
#[test]
fn the_mask_is_rasterised_by_cell_centres() {
    let half = polygon(&[(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]);
    let params = Params { include: [half].into_iter().collect(), ..bare() };
    for (width, height) in [(1280, 720), (636, 360), (100, 100), (97, 97)] {
        let mut gate = Gate::new(params.clone(), width, height).unwrap();
        let dc = ((width as usize).div_ceil(8), (height as usize).div_ceil(8));
        for (w, h) in [(width as usize, height as usize), dc] {
            gate.look(Mono::ZERO, &Plane::new(&vec![0; w * h], w, h, w, 1).unwrap());
            for (index, on) in gate.mask[..gate.grid.cells()].iter().enumerate() {
                let centre = ((index % gate.grid.width) as f64 + 0.5) * f64::from(gate.cell_px.0);
                assert_eq!(*on, centre < f64::from(width) / 2.0, "{width}x{height} as {w}x{h} cell {index}");
            }
        }
    }
}

#[test]
fn the_gate_holds_after_motion_and_refreshes() {
    let params = Params { hold_ms: 1000, refresh_s: 3, ..Params::default() };
    let mut rig = Rig::warm(params, Scene::new(160, 120, 1.0, 13), 10);
    rig.scene.things = vec![Thing { x: 30.0, y: 30.0, w: 20.0, h: 10.0, luma: 220.0 }];
    assert_eq!(rig.reasons(2), [Reason::Motion; 2]);
    rig.scene.things.clear();
    let after = rig.reasons(80);
    // Motion at t; open below t + 1000 ms (nine frames), the first refresh 3000 ms after the last open one, then each 3000 ms.
    let want: Vec<Reason> = (1..=80)
        .map(|frame| match frame {
            1..=9 => Reason::Hold,
            39 | 69 => Reason::Refresh,
            _ => Reason::Still,
        })
        .collect();
    assert_eq!(after, want);
}

#[test]
fn wrong_params_are_named_with_their_range() {
    for (params, text) in [
        (Params { luma_delta_min: f32::NAN, ..Params::default() }, "luma_delta_min = NaN is outside 1..=100"),
        (Params { noise_factor: 1.0, ..Params::default() }, "noise_factor = 1 is outside 2..=20"),
        (Params { area_min_px: 0, ..Params::default() }, "area_min_px = 0 is outside 1..=1000"),
        (Params { absorb_s: 4, ..Params::default() }, "absorb_s = 4 is outside 5..=3600"),
        (Params { hold_ms: 60_001, ..Params::default() }, "hold_ms = 60001 is outside 0..=60000"),
        (Params { refresh_s: 86_401, ..Params::default() }, "refresh_s = 86401 is outside 0..=86400"),
        (Params { warmup_frames: 1, ..Params::default() }, "warmup_frames = 1 is outside 2..=1000"),
        (
            Params {
                include: [polygon(&[(0.0, 0.0), (1.0, 1.0)])].into_iter().collect(),
                ..Params::default()
            },
            "include[0] has 2 corners",
        ),
        (
            Params {
                exclude: [polygon(&[(0.0, 0.0), (1.0, 1.0), (0.0, 1.1)])].into_iter().collect(),
                ..Params::default()
            },
            "exclude[0] has a corner outside",
        ),
    ] {
        let error = params.check().unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains(text), "{error}");
    }
    let two = Params { area_min_px: 0, absorb_s: 0, ..Params::default() }.check().unwrap_err().to_string();
    assert!(two.contains("area_min_px") && two.contains("absorb_s"), "all mistakes at once: {two}");
    assert!(Params::default().check().is_ok());
    assert_eq!(Gate::new(Params::default(), 8, 720).unwrap_err().kind(), Kind::Config);
}

/// A DC plane gives the verdict in the same frame pixels as the full plane.
#[test]
fn verdicts_of_an_eighth_size_plane_are_in_frame_pixels() {
    let mut gate = Gate::new(bare(), 1276, 716).unwrap();
    let (w, h) = (160, 90);
    let mut bytes = vec![90u8; w * h];
    let mut now = Mono::ZERO;
    for _ in 0..10 {
        now = now + Duration::from_millis(100);
        assert!(gate.look(now, &Plane::new(&bytes, w, h, w, 1).unwrap()).regions.is_empty());
    }
    for y in 85..90 {
        bytes[y * w + 155..y * w + 160].fill(200);
    }
    let verdict = gate.look(now, &Plane::new(&bytes, w, h, w, 1).unwrap());
    assert_eq!(verdict.moving_pixels, 25);
    assert_eq!(verdict.regions[..], [BoxPx::new(1240.0, 680.0, 1276.0, 716.0)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Planes of any sizes, contents and times, also backwards: no panic, regions lie in the frame, and open matches the reason.
    #[test]
    fn any_planes_never_panic(
        frame in (16u32..300, 16u32..300),
        looks in proptest::collection::vec((1usize..260, 1usize..260, 1usize..4, any::<u64>(), 0u8..4, 1usize..5), 1..8),
        warmup_frames in 2u32..6,
    ) {
        let mut gate = Gate::new(Params { warmup_frames, ..Params::default() }, frame.0, frame.1).unwrap();
        for (w, h, step, seed, kind, repeats) in looks {
            let mut noise = Noise { table: vec![0.0; 1 << 16], state: seed | 1 };
            for _ in 0..repeats {
                let bytes: Vec<u8> = (0..w * h * step).map(|_| match kind {
                    0 => 0,
                    1 => 255,
                    2 => noise.next() as u8,
                    _ => (noise.next() & 1) as u8 * 255,
                }).collect();
                let verdict = gate.look(Mono::from_nanos(noise.next() >> (seed % 60)), &Plane::new(&bytes, w, h, w * step, step).unwrap());
                prop_assert_eq!(verdict.open, verdict.reason.open());
                prop_assert_eq!(verdict.moving_pixels == 0, verdict.regions.is_empty());
                prop_assert_eq!(verdict.reason == Reason::Motion, verdict.moving_pixels > 0);
                for r in &verdict.regions {
                    prop_assert!(r.is_finite() && r.x1 >= 0.0 && r.y1 >= 0.0 && r.x2 <= frame.0 as f32 && r.y2 <= frame.1 as f32);
                }
            }
        }
    }
}

/// Writes to the real stderr: the test harness captures `eprintln`.
fn aloud(text: &str) {
    use std::io::Write;
    std::io::stderr().write_all(format!("\n{text}\n").as_bytes()).unwrap();
}

/// A recording as luma planes, decoded by the machine's ffmpeg; `None`, with a message, without ffmpeg or the file.
fn recording(name: &str, width: usize, height: usize) -> Option<Vec<Vec<u8>>> {
    let path = format!("{}/../shared/video/{name}", env!("CARGO_MANIFEST_DIR"));
    if !std::path::Path::new(&path).exists() {
        aloud(&format!("SKIPPED {name}: ../shared/video is not there"));
        return None;
    }
    let output = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-i", &path, "-f", "rawvideo", "-pix_fmt", "gray", "-"])
        .stdin(std::process::Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let bytes = output.stdout;
            assert_eq!(bytes.len() % (width * height), 0);
            Some(bytes.chunks_exact(width * height).map(<[u8]>::to_vec).collect())
        }
        Ok(output) => panic!("ffmpeg: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            aloud(&format!("SKIPPED {name}: ffmpeg is not installed: {error}"));
            None
        }
    }
}

/// The verdicts on every `every`-th frame of a recording, with the frame's number.
fn replay(
    params: Params,
    frames: &[Vec<u8>],
    (width, height): (usize, usize),
    every: usize,
    fps: f64,
) -> Vec<(usize, Verdict)> {
    let mut gate = Gate::new(params, width as u32, height as u32).unwrap();
    let look = |(index, bytes): (usize, &Vec<u8>)| {
        let now = Mono::from_nanos((index as f64 / fps * 1e9) as u64);
        (index, gate.look(now, &Plane::new(bytes, width, height, width, 1).unwrap()))
    };
    frames.iter().enumerate().step_by(every).map(look).collect()
}

/// What a person sees in car-detection.mp4 (frames counted from 0, examined one by one around each beginning and end). The frames between
/// the intervals show a bumper, its shadow or nothing: no expectation. The camera's exposure falls while a bright car is in the picture and
/// recovers for seconds after it.
const MOVING: [(usize, usize, &str); 3] = [
    (55, 107, "a white car enters at the bottom (a sliver in 54) and leaves at the top"),
    (181, 237, "a pale blue car from the top, from 188 a red one from the bottom"),
    (316, 347, "a white car from the top (a sliver in 315) to the bottom"),
];
const STILL: [(usize, usize); 4] = [(0, 52), (111, 178), (242, 312), (350, 376)];

#[test]
fn cars_open_the_gate_in_the_car_park_recording() {
    let Some(frames) = recording("car-detection.mp4", 768, 432) else { return };
    assert_eq!(frames.len(), 377);
    for (every, skipped_still_min) in [(1, 0.70), (5, 0.60)] {
        // Without hold and refresh, so that every moving frame has to open by itself.
        let alone = replay(bare(), &frames, (768, 432), every, 12.5);
        let verdicts = replay(Params::default(), &frames, (768, 432), every, 12.5);
        for (from, to, what) in MOVING {
            let inside = |index: &usize| (from..=to).contains(index);
            let seen = alone.iter().zip(&verdicts).filter(|((index, _), _)| inside(index));
            let mut checked = 0;
            for ((index, alone), (_, verdict)) in seen {
                assert!(verdict.open, "every {every}: frame {index} is closed ({verdict:?}) while {what}");
                assert_eq!(alone.reason, Reason::Motion, "every {every}: frame {index} while {what}");
                checked += 1;
            }
            assert!(checked * every + every > to - from, "only {checked} frames while {what}");
        }
        let still: Vec<_> =
            verdicts.iter().filter(|(i, _)| STILL.iter().any(|s| (s.0..=s.1).contains(i))).collect();
        let closed = |list: &[&(usize, Verdict)]| list.iter().filter(|(_, v)| !v.open).count();
        let all: Vec<_> = verdicts.iter().collect();
        let (open, shut) = (all.len() - closed(&all), closed(&all));
        let share = closed(&still) as f64 / still.len() as f64;
        aloud(&format!(
            "MEASURED car park, every {every}: {open} open and {shut} skipped of {}; of {} still ones {:.0} % skipped",
            all.len(),
            still.len(),
            share * 100.0
        ));
        assert!(share >= skipped_still_min, "every {every}: only {share} of the still frames were skipped");
    }
}

#[test]
fn the_busy_road_recording_keeps_the_gate_open() {
    let Some(frames) = recording("traffic.mp4", 1280, 720) else { return };
    for every in [1, 5] {
        let verdicts = replay(Params::default(), &frames, (1280, 720), every, 30.0);
        let open = verdicts.iter().filter(|(_, v)| v.open).count();
        aloud(&format!("MEASURED busy road, every {every}: {open} of {} frames open", verdicts.len()));
        assert!(open * 100 >= verdicts.len() * 95, "there is always traffic");
    }
}
