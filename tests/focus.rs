//! Looking at parts of the picture, on real clips: what it costs and finds against whole pictures, held against what the same
//! network finds in twice the detail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::path::Path;
use std::time::Duration;

use flytrap::capture::picture::{self, Picture};
use flytrap::clock::Mono;
use flytrap::config::Config;
use flytrap::detect::decode::{self, Decoder};
use flytrap::detect::engine::EngineParams;
use flytrap::detect::letterbox::{Letterbox, Size};
use flytrap::detect::model::{Classes, Loaded, Params as ModelParams};
use flytrap::detect::{Detection, Detections};
use flytrap::focus;
use flytrap::frame::FrameView;
use flytrap::geometry::PointRel;
use flytrap::pipeline::{Params, Pipeline};

/// Clips, and where motion counts: all of the picture, or polygons.
struct Case {
    name: &'static str,
    clip: &'static str,
    include: &'static [(f32, f32)],
    /// At most so much of the work of whole pictures, and at least so many more points of what there is are found.
    work_max: f64,
    gain_min: f64,
}

const CASES: [Case; 3] = [
    Case { name: "car park", clip: "car-detection.mp4", include: &[], work_max: 0.7, gain_min: -5.0 },
    Case {
        name: "busy road, its far end",
        clip: "traffic.mp4",
        include: &[(0.26, 0.0), (0.42, 0.0), (0.34, 0.34), (0.22, 0.34)],
        work_max: 0.6,
        gain_min: 5.0,
    },
    // Where everything moves whole pictures are looked at as ever.
    Case { name: "busy road", clip: "traffic.mp4", include: &[], work_max: 1.0, gain_min: -1.0 },
];

fn open(shared: &Path) -> Loaded {
    let path = shared.join("models/yolo11n-dynamic.onnx");
    let engine = EngineParams { threads: 2, ..EngineParams::default() };
    Loaded::open(&ModelParams { path, sha256: None, engine, ranges: None }).unwrap()
}

fn pipeline(
    case: &Case,
    frame: &Picture,
    shared: &Path,
    focus: Option<focus::Params>,
) -> (Pipeline, Vec<Size>, Classes) {
    let config = Config::load(None, Vec::new()).unwrap();
    let mut gate = config.gate.unwrap();
    if !case.include.is_empty() {
        gate.include.push(case.include.iter().map(|(x, y)| PointRel { x: *x, y: *y }).collect()).unwrap();
    }
    let model = open(shared);
    let size = Size { width: frame.format.width as usize, height: frame.format.height as usize };
    let rungs: Vec<Size> = focus::rungs(model.size_for(size).unwrap(), model.stride()).to_vec();
    let (engine, classes) = model.into_rungs(&rungs).unwrap();
    let params = Params {
        gate: Some(gate),
        decode: decode::Params { score_min: config.track.score_low, ..config.decode },
        wanted: ["car", "truck", "bus"].iter().map(|name| classes.find(name).unwrap()).collect(),
        track: config.track,
        count: config.count,
        lines: config.lines,
        focus,
    };
    (Pipeline::new(params, &frame.format, engine, &classes).unwrap(), rungs, classes)
}

/// What one way of looking found of what there was.
#[derive(Default)]
struct Tally {
    work: f64,
    found: usize,
    tracks: usize,
}

fn has(detections: &[Detection], wanted: &Detection) -> bool {
    detections.iter().any(|found| found.score >= 0.25 && found.bbox.iou(&wanted.bbox) >= 0.5)
}

#[test]
fn parts_cost_less_and_show_as_much() {
    let test = "parts_cost_less_and_show_as_much";
    let (Some(shared), true) = (common::shared(test), common::ffmpeg(test)) else { return };
    for case in &CASES {
        let folder = tempfile::tempdir().unwrap();
        let mut ffmpeg = std::process::Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-i"]).arg(shared.join("video").join(case.clip)).args(["-vf", "fps=6"]);
        assert!(ffmpeg.arg(folder.path().join("%04d.png")).status().unwrap().success());
        let count = std::fs::read_dir(folder.path()).unwrap().count();
        let frames: Vec<Picture> =
            (1..=count).map(|n| picture::load(&folder.path().join(format!("{n:04}.png"))).unwrap()).collect();
        let (mut parts, rungs, classes) = pipeline(case, &frames[0], &shared, Some(focus::Params::default()));
        let (mut wholes, ..) = pipeline(case, &frames[0], &shared, None);
        // The same network with twice the pixels a side.
        let fine = Size { width: 2 * rungs[0].width, height: 2 * rungs[0].height };
        let (mut engine, _) = open(&shared).into_rungs(&[fine]).unwrap();
        let mut letterbox = Letterbox::new(fine);
        let road_users = ["car", "truck", "bus"].map(|name| classes.find(name).unwrap());
        let params = decode::Params { score_min: 0.5, iou_max: 0.7 };
        let mut decoder = Decoder::new(engine.head(), params, |class| road_users.contains(&class));
        let mut truth = Detections::new();
        let (mut ours, mut theirs, mut there) = (Tally::default(), Tally::default(), 0);
        let (mut looks, mut in_part) = (0, 0);
        for (index, frame) in frames.iter().enumerate() {
            let at = Mono::ZERO + Duration::from_secs_f64(1.0 + index as f64 / 6.0);
            let view = FrameView::new(frame.format, &frame.bytes).unwrap();
            let began = |tally: &mut Tally, pipeline: &mut Pipeline| {
                let tracks = &mut tally.tracks;
                let count =
                    &mut |body| *tracks += usize::from(matches!(body, flytrap::event::Body::TrackBegin(_)));
                pipeline.process(&view, at, count).unwrap()
            };
            let outcome = began(&mut ours, &mut parts);
            let whole = began(&mut theirs, &mut wholes);
            assert_eq!(outcome.inferred, whole.inferred, "the gate is the same");
            if !outcome.inferred {
                continue;
            }
            let area =
                |size: Size| (size.width * size.height) as f64 / (rungs[0].width * rungs[0].height) as f64;
            looks += 1;
            theirs.work += 1.0;
            ours.work += outcome.look.map_or(1.0, |look| area(rungs[look.rung]));
            let Some(look) = outcome.look else { continue };
            in_part += 1;
            let placement = letterbox.fill(&view.planes().unwrap(), frame.format.color, engine.input());
            decoder.decode(engine.run(0.5).unwrap(), &placement, &mut truth);
            let part = look.part.bbox();
            for wanted in truth.iter().filter(|wanted| part.grown(-4.0).holds(&wanted.bbox)) {
                there += 1;
                ours.found += usize::from(has(parts.detections(), wanted));
                theirs.found += usize::from(has(wholes.detections(), wanted));
            }
        }
        let percent = |found: usize| 100.0 * found as f64 / f64::from(there.max(1));
        let (gain, work) = (percent(ours.found) - percent(theirs.found), ours.work / theirs.work);
        common::say(&format!(
            "MEASURED focus, {}: {in_part} of {looks} looks at a part, {work:.2} of the work; of {there} road users in the parts \
             {} found, {} in whole pictures; {} tracks, {}",
            case.name, ours.found, theirs.found, ours.tracks, theirs.tracks
        ));
        assert!(work <= case.work_max, "{}: {work}", case.name);
        assert!(gain >= case.gain_min, "{}: {gain} points", case.name);
        // Nobody gets a second number because he was looked at in another way.
        assert!(ours.tracks <= theirs.tracks + 1, "{}: {} tracks", case.name, ours.tracks);
    }
}
