//! Tests of the tracker: a table of small scenes, then a simulated street, then hostile input.

use super::*;
use crate::analytics::count::{Counter, CountingLine, Params as CountParams};
use crate::base::error::Kind;
use crate::event::Direction;
use proptest::prelude::*;
use std::time::Duration;

const CLASSES: [&str; 8] = ["person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck"];
const PERSON: u16 = 0;
const BICYCLE: u16 = 1;
const CAR: u16 = 2;
const BUS: u16 = 5;
const TRUCK: u16 = 7;

fn tracker() -> Tracker {
    Tracker::new(Params::default(), 1280, 720, CLASSES).unwrap()
}

fn at(seconds: f64) -> Mono {
    Mono::from_nanos((seconds * 1e9) as u64 + 1_000_000_000)
}

fn seen(cx: f32, cy: f32, w: f32, h: f32, score: f32, class: u16) -> Detection {
    Detection { bbox: BoxPx::from_centre(cx, cy, w, h), score, class: ClassId(class) }
}

fn car(cx: f32, cy: f32) -> Detection {
    seen(cx, cy, 120.0, 60.0, 0.8, CAR)
}

fn quiet(_: TrackEvent<'_>) {}

/// Ids of the tracks seen in the last update, with the x of their centres.
fn ids(tracker: &Tracker) -> Vec<(u64, i32)> {
    tracker.seen().map(|t| (t.id(), f32::midpoint(t.bbox().x1, t.bbox().x2).round() as i32)).collect()
}

/// Track events of a run: `+id`, `-id reason`.
fn words(event: TrackEvent<'_>) -> String {
    match event {
        TrackEvent::Began(t) => format!("+{}", t.id()),
        TrackEvent::Ended { track, reason } => format!("-{} {reason:?}", track.id()),
    }
}

#[test]
fn tracks_are_confirmed_lost_found_again_and_ended() {
    let mut t = tracker();
    let mut heard = Vec::new();
    for frame in 0..4 {
        t.update(at(f64::from(frame) / 10.0), &[car(300.0 + 20.0 * frame as f32, 300.0)], &mut |e| {
            heard.push(words(e));
        });
    }
    let track = t.seen().next().unwrap().clone();
    assert_eq!(
        (track.id(), track.state(), track.frames(), track.class()),
        (1, State::Confirmed, 4, ClassId(CAR))
    );
    assert_eq!((track.first_seen(), track.last_seen()), (at(0.0), at(0.3)));
    assert_eq!(
        (track.first_point(), track.last_point()),
        (PointPx { x: 300.0, y: 330.0 }, PointPx { x: 360.0, y: 330.0 })
    );
    assert!((track.score_mean() - 0.8).abs() < 1e-6);
    assert!((track.velocity().0 - 200.0).abs() < 40.0, "{:?}", track.velocity());
    t.update(at(0.4), &[], &mut |e| heard.push(words(e)));
    assert_eq!(t.tracks().map(Track::state).collect::<Vec<_>>(), [State::Lost]);
    assert_eq!(t.seen().count(), 0);
    t.update(at(0.5), &[car(400.0, 300.0)], &mut |e| heard.push(words(e)));
    assert_eq!(ids(&t), [(1, 400)]);
    for frame in 6..40 {
        t.update(at(f64::from(frame) / 10.0), &[], &mut |e| heard.push(words(e)));
    }
    t.update(at(5.0), &[car(400.0, 300.0)], &mut |e| heard.push(words(e)));
    t.update(at(5.1), &[car(400.0, 300.0)], &mut |e| heard.push(words(e)));
    t.finish(at(5.2), &mut |e| heard.push(words(e)));
    assert_eq!(heard, ["+1", "-1 Lost", "+2", "-2 Stopped"]);
    assert_eq!(t.tracks().count(), 0);
}

/// A bus is first detected where it hides a car that stands there: it gets its own track, and the car keeps its track when the bus has
/// passed.
#[test]
fn a_bus_that_hides_a_parked_car_does_not_take_its_track() {
    let mut t = tracker();
    let mut heard = Vec::new();
    let bus = |frame: u16| seen(520.0 + 90.0 * f32::from(frame), 285.0, 250.0, 110.0, 0.85, BUS);
    for frame in 0..15 {
        t.update(at(f64::from(frame) / 5.0), &[car(600.0, 300.0)], &mut |e| heard.push(words(e)));
    }
    for frame in 0..7_u16 {
        let mut found = vec![bus(frame)];
        // The car is detected again as soon as the bus is past it.
        if frame > 3 {
            found.push(car(600.0, 300.0));
        }
        t.update(at(f64::from(frame + 15) / 5.0), &found, &mut |e| heard.push(words(e)));
    }
    let classes: Vec<_> = t.seen().map(|track| (track.id(), track.class())).collect();
    assert_eq!(classes, [(1, ClassId(CAR)), (2, ClassId(BUS))]);
    assert_eq!(heard, ["+1", "+2"]);
}

/// The numbers are those of `sim:21,day,clear`: of a car that is parked at the lower edge only the bonnet is in the picture, and another
/// car passes behind it. It was counted three times, because the bonnet's track was predicted as 205x102, matched the passing car's box and
/// continued with it.
#[test]
fn a_passing_car_does_not_take_over_a_parked_one_that_the_edge_cuts() {
    // The step in which the passing car is first detected, 41 pixels each: with an earlier track of its own, other rounds match it.
    for first_seen in 0..9 {
        let mut t = Tracker::new(Params::default(), 640, 360, CLASSES).unwrap();
        let mut counter = Counter::new(CountParams::default(), &[CountingLine::middle()], 640, 360).unwrap();
        let bonnet =
            Detection { bbox: BoxPx::new(248.1, 323.8, 456.3, 360.0), score: 0.7, class: ClassId(CAR) };
        let passing = |step: u16| {
            let x = 85.0 + 41.0 * f32::from(step);
            let bottom = 360.0 - 0.214 * (x - 246.0);
            let bbox = BoxPx::new(x - 87.0, bottom - 85.0, x + 87.0, bottom).clipped(640.0, 360.0);
            Detection { bbox, score: 0.88, class: ClassId(CAR) }
        };
        let mut crossings = Vec::new();
        for frame in 0..43_u16 {
            let mut found = vec![bonnet];
            if frame >= 30 + first_seen {
                found.push(passing(frame - 30));
            }
            let now = at(f64::from(frame) / 6.0);
            t.update(now, &found, &mut quiet);
            for track in t.seen() {
                counter.update(now, track, &mut |crossed| crossings.push((crossed.track, crossed.direction)));
            }
            let parked = t.tracks().find(|track| track.id() == 1).unwrap();
            assert_eq!(parked.bbox(), bonnet.bbox, "first seen in step {first_seen}, frame {frame}");
        }
        let crosses = if first_seen < 6 { vec![(2, Direction::Forward)] } else { Vec::new() };
        assert_eq!(crossings, crosses, "first seen in step {first_seen}");
    }
}

/// Inference runs on a region: stationary tracks outside it do not age, those in it that are not detected are lost, and one that drives
/// into it keeps its id.
#[test]
fn detections_in_a_region_leave_tracks_outside_it_unchanged() {
    let mut t = tracker();
    let mut heard = Vec::new();
    for frame in 0..4 {
        let x = 300.0 + 20.0 * frame as f32;
        t.update(
            at(f64::from(frame) / 10.0),
            &[car(x, 300.0), car(900.0, 300.0), car(320.0, 600.0)],
            &mut |e| {
                heard.push(words(e));
            },
        );
    }
    let region = BoxPx::new(200.0, 200.0, 700.0, 500.0);
    for frame in 4..60 {
        let x = (300.0 + 20.0 * frame as f32).min(600.0);
        t.update_region(at(f64::from(frame) / 10.0), &region, &[car(x, 300.0)], &mut |e| {
            heard.push(words(e));
        });
        assert_eq!(ids(&t), [(1, x as i32)], "only what is in the region was seen");
    }
    assert_eq!(heard, ["+1", "+2", "+3"], "no track aged");
    t.update(at(6.0), &[car(600.0, 300.0), car(905.0, 300.0)], &mut |e| heard.push(words(e)));
    assert_eq!(ids(&t), [(1, 600), (3, 905)]);
    // The second is gone: it is missed inside the region, and ends after lost_after.
    let states = |t: &Tracker| t.tracks().map(Track::state).collect::<Vec<_>>();
    assert_eq!(states(&t), [State::Confirmed, State::Lost, State::Confirmed]);
    for frame in 61..90 {
        t.update_region(at(f64::from(frame) / 10.0), &region, &[], &mut |e| heard.push(words(e)));
    }
    assert_eq!(heard[3..], ["-1 Lost"], "the second was outside all regions; the third is still there");
    t.update(at(9.1), &[car(905.0, 300.0)], &mut |e| heard.push(words(e)));
    assert_eq!((ids(&t), heard[4..].to_vec()), (vec![(3, 905)], vec!["-2 Lost".to_owned()]));
}

/// One miss in a whole frame does not end a stationary track; a tentative one outside all regions ends by itself.
#[test]
fn a_stationary_track_outside_the_region_ends_after_two_misses() {
    let mut t = tracker();
    let mut heard = Vec::new();
    let mut hear = |e: TrackEvent<'_>| heard.push(words(e));
    for frame in 0..10 {
        t.update(at(f64::from(frame) / 10.0), &[car(900.0, 300.0)], &mut hear);
    }
    let region = BoxPx::new(200.0, 200.0, 700.0, 500.0);
    t.update(at(1.0), &[car(300.0, 600.0)], &mut hear);
    for frame in 11..60 {
        t.update_region(at(f64::from(frame) / 10.0), &region, &[], &mut hear);
    }
    assert_eq!(t.tracks().map(Track::id).collect::<Vec<_>>(), [1], "the tentative one at 300, 600 is gone");
    t.update(at(6.0), &[car(900.0, 300.0)], &mut hear);
    assert_eq!(ids(&t), [(1, 900)]);
    assert_eq!(heard, ["+1"]);
}

/// A car that drives out of the picture, or out of the region and on, keeps its id.
#[test]
fn a_car_that_leaves_the_region_keeps_its_id() {
    let mut t = tracker();
    let mut heard = Vec::new();
    let mut drive = |t: &mut Tracker, step: u32, x: f32, region: Option<BoxPx<Frame>>| {
        let bbox = car(x, 300.0).bbox.clipped(1280.0, 720.0);
        let seen = [Detection { bbox, ..car(x, 300.0) }];
        let seen: &[Detection] = if bbox.width() > 10.0 { &seen } else { &[] };
        let hear = &mut |e: TrackEvent<'_>| heard.push(words(e));
        match region {
            Some(region) => t.update_region(at(f64::from(step) / 6.0), &region, seen, hear),
            None => t.update(at(f64::from(step) / 6.0), seen, hear),
        }
    };
    for step in 0..4 {
        drive(&mut t, step, 900.0 + 30.0 * step as f32, None);
    }
    let outlook: Vec<_> = t.outlook(at(4.0 / 6.0)).collect();
    assert!(matches!(outlook[..], [(_, Motion::Moving)]), "{outlook:?}");
    // The region is behind it, but it moves and is detected where it is.
    drive(&mut t, 4, 1020.0, Some(BoxPx::new(700.0, 200.0, 1000.0, 400.0)));
    assert_eq!(ids(&t), [(1, 1020)]);
    for step in 5..24 {
        drive(&mut t, step, 900.0 + 30.0 * step as f32, Some(BoxPx::new(1000.0, 200.0, 1280.0, 400.0)));
    }
    assert_eq!(heard, ["+1", "-1 Lost"]);
    // A moving track outside the region is missed, not frozen: its prediction continues.
    let mut t = tracker();
    for step in 0..4 {
        t.update(at(f64::from(step) / 6.0), &[car(900.0 + 30.0 * step as f32, 300.0)], &mut quiet);
    }
    t.update_region(at(4.0 / 6.0), &BoxPx::new(0.0, 0.0, 400.0, 400.0), &[], &mut quiet);
    let track = t.tracks().next().unwrap();
    assert!(track.state() == State::Lost && track.velocity().0 > 100.0, "{track:?}");
    // With one detection it may be anywhere around; with many in one place it is stationary.
    let mut t = tracker();
    t.update(at(0.0), &[car(300.0, 300.0)], &mut quiet);
    let (around, motion) = t.outlook(at(0.5)).next().unwrap();
    assert!(motion == Motion::Moving && around.holds(&car(550.0, 300.0).bbox), "{around:?}");
    for step in 1..20 {
        t.update(at(f64::from(step) / 6.0), &[car(300.0, 300.0)], &mut quiet);
    }
    let (there, motion) = t.outlook(at(4.0)).next().unwrap();
    assert!(motion == Motion::Stationary && there.iou(&car(300.0, 300.0).bbox) > 0.9, "{there:?}");
}

#[test]
fn one_detection_never_confirms_a_track_however_strong() {
    let mut t = tracker();
    let mut heard = Vec::new();
    t.update(at(0.0), &[seen(300.0, 300.0, 120.0, 60.0, 1.0, CAR)], &mut |e| heard.push(words(e)));
    for frame in 1..5 {
        t.update(at(f64::from(frame) / 10.0), &[], &mut |e| heard.push(words(e)));
    }
    t.finish(at(1.0), &mut |e| heard.push(words(e)));
    assert!(heard.is_empty(), "{heard:?}");
    assert_eq!(t.counters(), Counters { forgotten: 1, ..Counters::default() });
}

/// A weak detection continues a track, and never begins one.
#[test]
fn weak_detections_continue_tracks_but_do_not_begin_them() {
    let mut t = tracker();
    let weak = |x| seen(x, 300.0, 120.0, 60.0, 0.12, CAR);
    t.update(at(0.0), &[car(300.0, 300.0), weak(900.0)], &mut quiet);
    t.update(at(0.1), &[car(310.0, 300.0), weak(900.0)], &mut quiet);
    t.update(at(0.2), &[weak(320.0), weak(900.0)], &mut quiet);
    assert_eq!(ids(&t), [(1, 320)]);
    assert_eq!(t.tracks().count(), 1);
}

#[test]
fn a_fast_car_at_six_frames_a_second_keeps_its_id() {
    for (step, direction) in [(180.0, 1.0), (180.0, -1.0), (120.0, 1.0), (60.0, 1.0)] {
        let mut t = tracker();
        let start = if direction > 0.0 { 70.0 } else { 1210.0 };
        for frame in 0..6 {
            t.update(
                at(f64::from(frame) / 6.0),
                &[car(start + direction * step * frame as f32, 300.0)],
                &mut quiet,
            );
            assert_eq!(t.tracks().count(), 1, "step {step} frame {frame}");
            assert_eq!(t.tracks().next().unwrap().id(), 1);
        }
        assert_eq!(t.tracks().next().unwrap().frames(), 6);
    }
}

/// The same with the first and the last boxes cut by the frame's edge.
#[test]
fn a_fast_car_cut_by_the_edge_keeps_its_id() {
    let mut t = tracker();
    for frame in 0..9 {
        let bbox =
            BoxPx::from_centre(-40.0 + 160.0 * frame as f32, 300.0, 120.0, 60.0).clipped(1280.0, 720.0);
        t.update(
            at(f64::from(frame) / 6.0),
            &[Detection { bbox, score: 0.7, class: ClassId(CAR) }],
            &mut quiet,
        );
        assert_eq!(t.tracks().map(Track::id).collect::<Vec<_>>(), [1], "frame {frame}");
    }
}

#[test]
fn opposing_cars_side_by_side_do_not_swap() {
    for fps in [4.0f32, 6.0, 15.0, 30.0] {
        let mut t = tracker();
        let speed = 720.0; // 1.5 widths a frame at 4 FPS after doubling: see step below.
        let frames = (1160.0 / speed * fps) as i32;
        for frame in 0..=frames {
            let way = speed * frame as f32 / fps;
            let both = [car(60.0 + way, 300.0), car(1220.0 - way, 330.0)];
            t.update(at(f64::from(frame as f32 / fps)), &both, &mut quiet);
        }
        let end: Vec<(u64, bool)> = t.seen().map(|t| (t.id(), t.velocity().0 > 0.0)).collect();
        assert_eq!(end.len(), 2, "{fps}: {end:?}");
        assert_eq!(end.iter().map(|e| e.0).collect::<Vec<_>>(), [1, 2], "{fps}");
        for track in t.seen() {
            let right = track.velocity().0 > 0.0;
            assert_eq!(track.first_point().x < 640.0, right, "{fps}: {track:?}");
            assert_eq!(track.last_point().x > 640.0, right, "{fps}: {track:?}");
        }
    }
}

#[test]
fn a_second_behind_a_tree_is_the_same_car() {
    for fps in [2, 6, 15, 30] {
        let mut t = tracker();
        for frame in 0..=4 * fps {
            let time = f64::from(frame) / f64::from(fps);
            let hidden = time > 1.4 && time < 2.4;
            let here = car(100.0 + 240.0 * time as f32, 300.0);
            t.update(at(time), if hidden { &[] } else { std::slice::from_ref(&here) }, &mut quiet);
        }
        assert_eq!(ids(&t), [(1, 1060)], "{fps} FPS");
    }
}

#[test]
fn a_track_that_left_the_frame_does_not_take_the_next_car() {
    let mut t = tracker();
    let mut heard = Vec::new();
    for frame in 0..10 {
        t.update(at(f64::from(frame) / 10.0), &[car(900.0 + 40.0 * frame as f32, 300.0)], &mut |e| {
            heard.push(words(e));
        });
    }
    for frame in 10..13 {
        t.update(at(f64::from(frame) / 10.0), &[], &mut |e| heard.push(words(e)));
    }
    assert_eq!(heard, ["+1", "-1 Lost"]);
}

/// Tracks age by time, not by frames; while nothing moves, visible tracks do not age at all.
#[test]
fn visible_tracks_do_not_age_while_the_gate_is_closed() {
    let mut t = tracker();
    let mut heard = Vec::new();
    for frame in 0..10 {
        t.update(at(f64::from(frame) / 10.0), &[car(600.0, 300.0)], &mut |e| heard.push(words(e)));
    }
    for second in 1..100 {
        t.still(at(f64::from(second)), &mut |e| heard.push(words(e)));
    }
    t.update(at(100.0), &[], &mut |e| heard.push(words(e)));
    t.update(at(100.1), &[car(605.0, 300.0)], &mut |e| heard.push(words(e)));
    assert_eq!(ids(&t), [(1, 605)]);
    // Frames that were skipped without a call: the next detections decide.
    t.update(at(130.0), &[car(602.0, 300.0)], &mut |e| heard.push(words(e)));
    assert_eq!(ids(&t), [(1, 602)]);
    assert_eq!(heard, ["+1"]);
    // Tracks out of sight do age while nothing moves.
    t.update(at(130.1), &[], &mut |e| heard.push(words(e)));
    t.still(at(133.0), &mut |e| heard.push(words(e)));
    assert_eq!(heard, ["+1", "-1 Lost"]);
}

#[test]
fn a_wavering_class_is_one_track_and_the_majority_wins() {
    let mut t = tracker();
    for (frame, (class, score)) in
        [(TRUCK, 0.9), (CAR, 0.5), (CAR, 0.6), (TRUCK, 0.3), (CAR, 0.4)].iter().enumerate()
    {
        t.update(at(frame as f64 / 10.0), &[seen(300.0, 300.0, 120.0, 60.0, *score, *class)], &mut quiet);
    }
    let all: Vec<_> = t.seen().map(|t| (t.id(), t.class(), t.frames())).collect();
    assert_eq!(all, [(1, ClassId(CAR), 5)]);
}

#[test]
fn a_person_is_never_a_car_nor_a_rider_the_bicycle() {
    for (first, second) in [(CAR, PERSON), (PERSON, BICYCLE), (BICYCLE, CAR), (4, CAR), (4, 77), (77, 78)] {
        let mut t = tracker();
        t.update(at(0.0), &[seen(300.0, 300.0, 60.0, 60.0, 0.9, first)], &mut quiet);
        t.update(at(0.1), &[seen(300.0, 300.0, 60.0, 60.0, 0.9, second)], &mut quiet);
        assert_eq!(t.tracks().map(Track::frames).collect::<Vec<_>>(), [1, 1], "{first} {second}");
    }
}

/// Detections of a small model on a near car: the whole car, and its lower half again.
#[test]
fn the_lower_half_of_a_car_is_a_duplicate_but_a_car_in_front_of_a_lorry_is_not() {
    for (height, cars) in [(36.0, 1), (60.0, 1), (20.0, 2)] {
        let mut t = tracker();
        for frame in 0..4 {
            let whole = seen(300.0, 300.0, 60.0, 60.0, 0.9, CAR);
            // Its bottom is the whole's bottom.
            let part = seen(300.0, 330.0 - height / 2.0, 58.0, height, 0.6, CAR);
            t.update(at(f64::from(frame) / 10.0), &[whole, part], &mut quiet);
        }
        assert_eq!(ids(&t).len(), cars, "a part {height} high");
    }
}

/// Two cars in a lane: the first leaves, and the second is detected twice, whole and by its lower half.
#[test]
fn a_lost_track_is_not_matched_to_a_duplicate_of_another_car() {
    let mut t = tracker();
    let mut step = 0;
    let mut update = |t: &mut Tracker, boxes: &[Detection]| {
        t.update(at(f64::from(step) / 10.0), boxes, &mut quiet);
        step += 1;
    };
    for y in 0..6 {
        let y = 200.0 + 4.0 * y as f32;
        update(&mut t, &[car(300.0, y), car(300.0, y + 80.0)]);
    }
    assert_eq!(t.seen().count(), 2);
    for y in 6..14 {
        let y = 200.0 + 4.0 * y as f32;
        let whole = car(300.0, y);
        let (w, h) = (whole.bbox.width(), whole.bbox.height());
        let part = seen(300.0, y + h * 0.2, w, h * 0.6, 0.8, CAR);
        update(&mut t, &[whole, part]);
        assert_eq!(t.seen().map(Track::id).collect::<Vec<_>>(), [1], "the lost one stays lost");
    }
}

/// Two candidates of one group: the one of the track's own class is preferred.
#[test]
fn a_detection_of_the_tracks_own_class_is_preferred() {
    let mut t = tracker();
    t.update(at(0.0), &[car(300.0, 300.0)], &mut quiet);
    t.update(at(0.1), &[car(300.0, 300.0)], &mut quiet);
    let truck = seen(302.0, 300.0, 120.0, 60.0, 0.8, TRUCK);
    t.update(at(0.2), &[truck, car(296.0, 300.0)], &mut quiet);
    assert_eq!(ids(&t), [(1, 296)]);
    assert_eq!(t.counters().duplicates, 1, "and the other is a duplicate, not a second road user");
}

#[test]
fn a_fifth_class_makes_room_without_unseating_the_majority() {
    let mut track = Track::begin(0, 1, at(0.0), &car(1.0, 1.0), false, &Params::default(), 0);
    for _ in 0..5 {
        track.vote(ClassId(CAR), 0.5);
    }
    for other in 10..40 {
        track.vote(ClassId(other), 0.05);
    }
    assert_eq!(track.class(), ClassId(CAR));
}

#[test]
fn full_means_eviction_or_a_counted_drop() {
    let grid = |offset: f32| -> Vec<Detection> {
        (0..200)
            .map(|i| {
                seen(
                    30.0 + 62.0 * (i % 20) as f32 + offset,
                    30.0 + 60.0 * (i / 20) as f32,
                    30.0,
                    20.0,
                    0.8,
                    CAR,
                )
            })
            .collect()
    };
    let mut t = tracker();
    let mut heard = Vec::new();
    t.update(at(0.0), &grid(0.0), &mut |e| heard.push(words(e)));
    assert_eq!((t.tracks().count(), t.counters().no_room), (TRACKS_MAX, 200 - TRACKS_MAX as u64));
    t.update(at(0.1), &grid(0.0), &mut |e| heard.push(words(e)));
    assert_eq!((heard.len(), t.seen().count()), (TRACKS_MAX, TRACKS_MAX));
    heard.clear();
    // Two of them are unseen, one of these for longer: that one is evicted first.
    let now: Vec<Detection> = t.seen().filter(|t| t.id() != 5).map(seen_again).collect();
    t.update(at(0.2), &now, &mut |e| heard.push(words(e)));
    let mut now: Vec<Detection> = t.seen().filter(|t| t.id() != 9).map(seen_again).collect();
    now.push(car(640.0, 680.0));
    t.update(at(0.3), &now, &mut |e| heard.push(words(e)));
    assert_eq!(heard, ["-5 Evicted"]);
    now.push(car(200.0, 680.0));
    now.push(car(1000.0, 680.0));
    t.update(at(0.4), &now, &mut |e| heard.push(words(e)));
    assert_eq!(heard[..2], ["-5 Evicted", "-9 Evicted"]);
    assert_eq!(t.counters().evicted, 2);
    assert_eq!(t.counters().no_room, 2 * 72 + 1, "the third newcomer found only fresh tracks");
}

fn seen_again(track: &Track) -> Detection {
    Detection { bbox: track.bbox(), score: 0.8, class: track.class() }
}

#[test]
fn more_detections_than_a_frame_may_have_are_counted() {
    let mut t = tracker();
    let many: Vec<Detection> = (0..DETECTIONS_MAX + 7).map(|i| car(i as f32 * 3.0, 300.0)).collect();
    t.update(at(0.0), &many, &mut quiet);
    assert_eq!(t.counters().over, 7);
}

#[test]
fn invalid_boxes_are_refused() {
    let mut t = tracker();
    let nan = f32::NAN;
    let inf = f32::INFINITY;
    let boxes: [[f32; 4]; 8] = [
        [nan, 0.0, 10.0, 10.0],
        [0.0, 0.0, inf, 10.0],
        [-inf, 0.0, 10.0, 10.0],
        [10.0, 0.0, 0.0, 10.0],
        [10.0, 10.0, 10.0, 20.0],
        [10.0, 10.0, 10.5, 20.0],
        [0.0, 0.0, 1e9, 10.0],
        [0.0, 0.0, f32::MAX, f32::MAX],
    ];
    let mut wrong: Vec<Detection> = boxes
        .iter()
        .map(|b| Detection { bbox: BoxPx::new(b[0], b[1], b[2], b[3]), score: 0.9, class: ClassId(CAR) })
        .collect();
    wrong.extend([nan, inf, -0.1, 1.01].map(|score| seen(50.0, 50.0, 20.0, 20.0, score, CAR)));
    t.update(at(0.0), &wrong, &mut quiet);
    assert_eq!(t.counters(), Counters { refused: 12, ..Counters::default() });
    assert_eq!(t.tracks().count(), 0);
}

#[test]
fn settings_out_of_range_are_named() {
    assert!(Params::default().check().is_ok());
    let d = Params::default();
    for (params, name) in [
        (Params { score_low: -0.1, ..d }, "score_low"),
        (Params { score_high: 0.05, ..d }, "score_high"),
        (Params { score_new: f32::NAN, ..d }, "score_new"),
        (Params { iou_min: 0.0, ..d }, "iou_min"),
        (Params { iou_low_min: 1.0, ..d }, "iou_low_min"),
        (Params { class_penalty: 0.6, ..d }, "class_penalty"),
        (Params { hits_min: 1, ..d }, "hits_min"),
        (Params { lost_after: Duration::from_millis(50), ..d }, "lost_after"),
        (Params { speed_max: 0.5, ..d }, "speed_max"),
    ] {
        let error = params.check().unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains(name) && error.to_string().contains("allowed is"), "{error}");
    }
}

// ---- A street ----

/// xorshift64*: seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1u32 << 24) as f32
    }

    fn within(&mut self, from: f32, to: f32) -> f32 {
        from + (to - from) * self.unit()
    }

    /// Roughly normal: the sum of twelve.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}

struct Car {
    enters: f32,
    speed: f32,
    y: f32,
    w: f32,
    h: f32,
}

/// Imperfections of the simulated detector.
#[derive(Clone, Copy)]
struct Noise {
    jitter: f32,
    miss: f32,
    weak: f32,
    false_alarms: f32,
}

const FAIR: Noise = Noise { jitter: 0.02, miss: 0.08, weak: 0.12, false_alarms: 0.05 };

/// A minute of a two-way road: two lanes in each direction, headways as in dense traffic.
fn street(dice: &mut Random) -> Vec<Car> {
    let mut cars = Vec::new();
    for (y, way) in [(300.0, -1.0), (365.0, -1.0), (470.0, 1.0), (545.0, 1.0)] {
        let (mut time, speed) = (dice.within(0.0, 2.0), dice.within(240.0, 420.0));
        while time < 55.0 {
            let w = dice.within(100.0, 150.0);
            cars.push(Car { enters: time, speed: way * speed, y, w, h: w * 0.5 });
            // At least two car lengths of road between bumpers.
            time += (w + 300.0) / speed + dice.within(0.0, 4.0);
        }
    }
    cars
}

fn look(cars: &[Car], time: f32, noise: Noise, dice: &mut Random) -> Vec<Detection> {
    let mut out = Vec::new();
    for car in cars {
        let way = car.speed * (time - car.enters);
        let cx = if car.speed > 0.0 { way - car.w / 2.0 } else { 1280.0 + way + car.w / 2.0 };
        let mut tremble = |side: f32| dice.normal() * noise.jitter * side;
        let (dx, dy, dw, dh) = (tremble(car.w), tremble(car.h), tremble(car.w), tremble(car.h));
        let bbox = BoxPx::from_centre(cx + dx, car.y + dy, car.w + dw, car.h + dh).clipped(1280.0, 720.0);
        if time < car.enters || bbox.width() < 30.0 || dice.unit() < noise.miss {
            continue;
        }
        let score = if dice.unit() < noise.weak { dice.within(0.1, 0.25) } else { dice.within(0.4, 0.95) };
        let class = if dice.unit() < 0.15 { TRUCK } else { CAR };
        out.push(Detection { bbox, score, class: ClassId(class) });
    }
    if dice.unit() < noise.false_alarms {
        let (w, h) = (dice.within(40.0, 200.0), dice.within(30.0, 120.0));
        let score = dice.within(0.1, 0.5);
        out.push(seen(dice.within(0.0, 1280.0), dice.within(200.0, 600.0), w, h, score, CAR));
    }
    out
}

/// Results of a street: cars, confirmed tracks, counts to the right and to the left.
fn drive(seed: u64, fps: f32, noise: Noise) -> ([usize; 2], usize, [usize; 2]) {
    let mut dice = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let cars = street(&mut dice);
    let mut t = tracker();
    let mut counter = Counter::new(CountParams::default(), &[CountingLine::middle()], 1280, 720).unwrap();
    let (mut tracks, mut counts) = (0, [0; 2]);
    for frame in 0..(70.0 * fps) as u32 {
        // Frame intervals jitter, too.
        let time = (frame as f32 + dice.within(-0.2, 0.2)).max(0.0) / fps;
        let detections = look(&cars, time, noise, &mut dice);
        t.update(at(f64::from(time)), &detections, &mut |event| match event {
            TrackEvent::Began(_) => tracks += 1,
            TrackEvent::Ended { track, .. } => counter.forget(track.id()),
        });
        for track in t.seen() {
            counter.update(at(f64::from(time)), track, &mut |crossed| match crossed.direction {
                Direction::Forward => counts[0] += 1,
                Direction::Backward => counts[1] += 1,
            });
        }
    }
    let right = cars.iter().filter(|c| c.speed > 0.0).count();
    ([right, cars.len() - right], tracks, counts)
}

#[test]
fn a_street_with_a_good_detector_is_counted_exactly() {
    for fps in [2.0, 6.0, 15.0, 30.0] {
        let (mut cars, mut tracks, mut counts, mut off) = (0, 0, 0, 0);
        for seed in 1..=10 {
            let (truth, began, counted) = drive(seed, fps, FAIR);
            cars += truth[0] + truth[1];
            tracks += began;
            counts += counted[0] + counted[1];
            off += truth[0].abs_diff(counted[0]) + truth[1].abs_diff(counted[1]);
        }
        println!("{fps} FPS: {cars} cars, {tracks} tracks, {counts} counted, off by {off}");
    }
}

proptest! {
    /// Any floats, any times, any order: no panic, no track with invalid numbers.
    #[test]
    fn any_detections_never_panic(frames in proptest::collection::vec(
        (any::<u64>(), proptest::collection::vec((any::<[f32; 4]>(), any::<f32>(), any::<u16>()), 0..12), any::<bool>()), 0..20),
    ) {
        let mut t = tracker();
        let mut counter = Counter::new(CountParams::default(), &[CountingLine::middle()], 1280, 720).unwrap();
        for (now, detections, still) in frames {
            let now = Mono::from_nanos(now);
            let list: Vec<Detection> = detections.iter().enumerate().map(|(i, (b, score, class))| {
                // Half of them realistic enough to become tracks.
                let squeeze = |v: f32, to: f32| if i % 2 == 0 { (v.abs() % to).abs() } else { v };
                let (x, y) = (squeeze(b[0], 1280.0), squeeze(b[1], 720.0));
                let bbox = if i % 2 == 0 { BoxPx::new(x, y, x + squeeze(b[2], 300.0), y + squeeze(b[3], 300.0)) }
                           else { BoxPx::new(b[0], b[1], b[2], b[3]) };
                Detection { bbox, score: squeeze(*score, 1.0), class: ClassId(*class % 9) }
            }).collect();
            if still { t.still(now, &mut quiet); }
            t.update(now, &list, &mut quiet);
            for track in t.tracks() {
                prop_assert!(track.expected().is_finite() && track.bbox().is_finite());
                prop_assert!(track.velocity().0.is_finite() && (0.0..=1.0).contains(&track.score_mean()));
            }
            for track in t.seen() { counter.update(now, track, &mut |_| ()); }
        }
        t.finish(Mono::ZERO, &mut quiet);
        prop_assert_eq!(t.tracks().count(), 0);
    }

    /// The order of the detections changes nothing; every track has its own id, and ids only grow.
    #[test]
    fn the_order_of_detections_does_not_matter(seed in 1u64.., shuffle in any::<u64>()) {
        let mut dice = Random(seed | 1);
        let cars = street(&mut dice);
        let (mut a, mut b) = (tracker(), tracker());
        let (mut heard_a, mut heard_b) = (Vec::new(), Vec::new());
        for frame in 0..60u32 {
            let mut detections = look(&cars, frame as f32 / 6.0, FAIR, &mut dice);
            a.update(at(f64::from(frame) / 6.0), &detections, &mut |e| heard_a.push(words(e)));
            let turn = shuffle as usize % detections.len().max(1);
            detections.rotate_left(turn);
            if shuffle & 1 == 0 { detections.reverse(); }
            b.update(at(f64::from(frame) / 6.0), &detections, &mut |e| heard_b.push(words(e)));
        }
        prop_assert_eq!(&heard_a, &heard_b);
        prop_assert_eq!(ids(&a), ids(&b));
        let began: Vec<u64> = heard_a.iter().filter_map(|w| w.strip_prefix('+')).map(|w| w.parse().unwrap()).collect();
        let mut unique = began.clone();
        unique.sort_unstable();
        unique.dedup();
        prop_assert_eq!(unique.len(), began.len());
    }

    /// Repeated and backward times are a dt of 0.
    #[test]
    fn repeated_and_backward_times_are_accepted(times in proptest::collection::vec(0u64..3_000_000_000, 1..30)) {
        let mut t = tracker();
        for nanos in times {
            t.update(Mono::from_nanos(nanos), &[car(400.0, 300.0)], &mut quiet);
        }
        prop_assert_eq!(t.tracks().map(Track::id).collect::<Vec<_>>(), [1]);
    }
}
