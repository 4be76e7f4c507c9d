//! Inference on regions of interest, on real clips: its cost and its detections compared with whole pictures, with the detections of the
//! same network at twice the resolution as truth.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flytrap::capture::frame::{Color, FrameFormat, FrameView, PixelFormat};
use flytrap::capture::picture::{self, Picture};
use flytrap::config::Config;
use flytrap::event::Body;
use flytrap::pipeline::{Params, Pipeline, WithEngine};
use flytrap::platform::clock::Mono;
use flytrap::platform::cores::Machine;
use flytrap::vision::detect::decode::{self, Decoder, HeadShape};
use flytrap::vision::detect::engine::{Engine, EngineParams, Output};
use flytrap::vision::detect::letterbox::{Letterbox, Size};
use flytrap::vision::detect::model::{Classes, Loaded, Params as ModelParams};
use flytrap::vision::detect::{Detection, Detections};
use flytrap::vision::roi;

use crate::common;

/// A clip, and the part of it that is alive: the whole picture, or a rectangle (left, top, right, bottom), outside which it is frozen at
/// the first frame.
struct Case {
    name: &'static str,
    clip: &'static str,
    lives: Option<[usize; 4]>,
    /// Maximum work relative to whole pictures, and minimum gain of recall in points.
    work_max: f64,
    gain_min: f64,
    /// Whether regions are expected, and whether the network detects the objects.
    in_roi: bool,
    is_known: bool,
}

const CASES: [Case; 3] = [
    // The network does not detect cars from above: only the work is compared.
    Case {
        name: "car park",
        clip: "car-detection.mp4",
        lives: None,
        work_max: 0.75,
        gain_min: 0.0,
        in_roi: true,
        is_known: false,
    },
    Case {
        name: "busy road, its far end",
        clip: "traffic.mp4",
        lives: Some([290, 0, 560, 250]),
        work_max: 0.7,
        gain_min: -4.0,
        in_roi: true,
        is_known: true,
    },
    // Where everything moves, inference runs on whole pictures as usual.
    Case {
        name: "busy road",
        clip: "traffic.mp4",
        lives: None,
        work_max: 1.0,
        gain_min: 0.0,
        in_roi: false,
        is_known: false,
    },
];

fn open(shared: &Path) -> Loaded {
    let path = shared.join("models/yolo11n-dynamic.onnx");
    let engine = EngineParams { threads: 2, ..EngineParams::default() };
    Loaded::open(&ModelParams { path, sha256: None, engine, ranges: None, trial: None }).unwrap()
}

fn pipeline(frame: &Picture, shared: &Path, roi: Option<roi::Params>) -> (WithEngine, Vec<Size>, Classes) {
    let config = Config::load(None, Vec::new(), &Machine::default()).unwrap();
    let model = open(shared);
    let size = Size { width: frame.format.width as usize, height: frame.format.height as usize };
    let sizes: Vec<Size> = roi::input_sizes(model.size_for(size).unwrap(), model.stride()).to_vec();
    let (engine, classes) = model.plan(&sizes).unwrap().start().unwrap();
    let wanted = ["car", "truck", "bus"].iter().map(|name| classes.find(name).unwrap()).collect();
    let params = Params { roi, ..config.first_camera().stages(wanted) };
    let pipeline = Pipeline::new(params, &frame.format, &engine.shape(), &classes).unwrap();
    (WithEngine { pipeline, engine }, sizes, classes)
}

/// Freezes the frames at the first one outside `lives`.
fn freeze(frames: &mut [Picture], lives: Option<[usize; 4]>) {
    let (Some([left, top, right, bottom]), Some((first, others))) = (lives, frames.split_first_mut()) else {
        return;
    };
    let line = 3 * first.format.width as usize;
    assert_eq!(first.format.pixel, PixelFormat::Rgb24);
    for frame in others {
        let mut bytes = first.bytes.clone();
        for row in top..bottom {
            let part = row * line + 3 * left..row * line + 3 * right;
            bytes[part.clone()].copy_from_slice(&frame.bytes[part]);
        }
        frame.bytes = bytes;
    }
}

/// The recall of one mode.
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
fn regions_cost_less_and_find_as_much() {
    let test = "regions_cost_less_and_find_as_much";
    let (Some(shared), true) = (common::shared(test), common::ffmpeg(test)) else { return };
    // One shows what a part of the picture costs and finds, the others that nothing is lost where it does not help.
    let is_full = common::is_full(test, "a car park from above, and a road that is busy everywhere");
    for case in CASES.iter().filter(|case| is_full || (case.in_roi && case.is_known)) {
        let folder = tempfile::tempdir().unwrap();
        let mut ffmpeg = std::process::Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-i"]).arg(shared.join("video").join(case.clip)).args(["-vf", "fps=6"]);
        assert!(ffmpeg.arg(folder.path().join("%04d.png")).status().unwrap().success());
        let count = std::fs::read_dir(folder.path()).unwrap().count();
        let mut frames: Vec<Picture> =
            (1..=count).map(|n| picture::load(&folder.path().join(format!("{n:04}.png"))).unwrap()).collect();
        freeze(&mut frames, case.lives);
        let (mut parts, sizes, classes) = pipeline(&frames[0], &shared, Some(roi::Params::default()));
        let (mut wholes, ..) = pipeline(&frames[0], &shared, None);
        // The same network at twice the resolution.
        let fine = Size { width: 2 * sizes[0].width, height: 2 * sizes[0].height };
        let (mut engine, _) = open(&shared).plan(&[fine]).unwrap().start().unwrap();
        let mut letterbox = Letterbox::new(fine);
        let road_users = ["car", "truck", "bus"].map(|name| classes.find(name).unwrap());
        let params = decode::Params { score_min: 0.5, iou_max: 0.7 };
        let mut decoder = Decoder::new(engine.head(), params, |class| road_users.contains(&class));
        let mut truth = Detections::new();
        let (mut ours, mut theirs, mut there) = (Tally::default(), Tally::default(), 0);
        let (mut inferences, mut in_roi) = (0, 0);
        for (index, frame) in frames.iter().enumerate() {
            let at = Mono::ZERO + Duration::from_secs_f64(1.0 + index as f64 / 6.0);
            let view = FrameView::new(frame.format, &frame.bytes).unwrap();
            let began = |tally: &mut Tally, stages: &mut WithEngine| {
                let tracks = &mut tally.tracks;
                let count = &mut |body| *tracks += usize::from(matches!(body, Body::TrackBegin(_)));
                stages.process(&view, at, count).unwrap()
            };
            let outcome = began(&mut ours, &mut parts);
            let whole = began(&mut theirs, &mut wholes);
            assert_eq!(outcome.inferred, whole.inferred, "the gate is the same");
            if !outcome.inferred {
                continue;
            }
            let area =
                |size: Size| (size.width * size.height) as f64 / (sizes[0].width * sizes[0].height) as f64;
            inferences += 1;
            theirs.work += 1.0;
            ours.work += outcome.roi.map_or(1.0, |roi| area(sizes[roi.size_index]));
            let Some(roi) = outcome.roi else { continue };
            in_roi += 1;
            let placement = letterbox.fill(&view.planes().unwrap(), frame.format.color, engine.input());
            decoder.decode(engine.run(0.5).unwrap(), &placement, &mut truth);
            let part = roi.region.bbox();
            for wanted in truth.iter().filter(|wanted| part.grown(-4.0).holds(&wanted.bbox)) {
                there += 1;
                ours.found += usize::from(has(parts.pipeline.detections(), wanted));
                theirs.found += usize::from(has(wholes.pipeline.detections(), wanted));
            }
        }
        let percent = |found: usize| 100.0 * found as f64 / f64::from(there.max(1));
        let (gain, work) = (percent(ours.found) - percent(theirs.found), ours.work / theirs.work);
        common::say(&format!(
            "MEASURED region of interest, {}: {in_roi} of {inferences} inferences on a region, {work:.2} of the work; of {there} road users in the regions \
             {} found, {} in whole pictures; {} tracks, {}",
            case.name, ours.found, theirs.found, ours.tracks, theirs.tracks
        ));
        assert!(work <= case.work_max, "{}: {work}", case.name);
        assert!(gain >= case.gain_min, "{}: {gain} points", case.name);
        // Regions must neither add nor remove track ids.
        let same = ours.tracks.abs_diff(theirs.tracks) <= 2;
        assert!(same || !case.is_known, "{}: {} tracks", case.name, ours.tracks);
        assert_eq!((in_roi > 0, there > 0), (case.in_roi, case.is_known), "{}", case.name);
    }
}

/// An engine that detects rectangles by their colour, as far as they are visible, at any of its sizes.
struct ColourDetector {
    sizes: Vec<Size>,
    at: usize,
    input: Vec<f32>,
    output: Vec<f32>,
    /// Number of runs at each size.
    inferences: Arc<[AtomicUsize; 4]>,
}

/// Colours of the objects on the simulated street: none becomes another when mixed with the road, and all are visible in green, which the
/// gate uses.
const COLOURS: [[u8; 3]; 4] = [[230, 150, 80], [80, 150, 230], [230, 150, 230], [80, 230, 80]];

impl ColourDetector {
    fn new(whole: Size, inferences: &Arc<[AtomicUsize; 4]>) -> Self {
        let sizes = roi::input_sizes(whole, 32).to_vec();
        let (input, output) = (vec![0.0; 3 * whole.width * whole.height], vec![0.0; 6 * COLOURS.len()]);
        ColourDetector { sizes, at: 0, input, output, inferences: Arc::clone(inferences) }
    }
}

impl Engine for ColourDetector {
    fn size(&self) -> Size {
        self.sizes[self.at]
    }
    fn input_sizes(&self) -> &[Size] {
        &self.sizes
    }
    fn select(&mut self, level: usize) {
        self.at = level;
    }
    fn head(&self) -> HeadShape {
        HeadShape { classes: 2, anchors: COLOURS.len() }
    }
    fn input(&mut self) -> &mut [f32] {
        let Size { width, height } = self.size();
        &mut self.input[..3 * width * height]
    }
    fn run(&mut self, _: f32) -> flytrap::base::error::Result<Output<'_>> {
        let Size { width, height } = self.size();
        self.inferences[self.at].fetch_add(1, Ordering::Relaxed);
        for (anchor, colour) in COLOURS.into_iter().enumerate() {
            let area = width * height;
            let is_it = |at: &usize| {
                (0..3).all(|channel| {
                    let x = self.input[channel * area + at] * 255.0;
                    (x - f32::from(colour[channel])).abs() < 35.0
                })
            };
            let (mut left, mut right, mut top, mut bottom) = (usize::MAX, 0, usize::MAX, 0);
            for at in (0..area).filter(is_it) {
                let (x, y) = (at % width, at / width);
                (left, right) = (left.min(x), right.max(x + 1));
                (top, bottom) = (top.min(y), bottom.max(y + 1));
            }
            let is_there = right > left.saturating_add(2) && bottom > top.saturating_add(2);
            let column = if is_there {
                let [x1, y1, x2, y2] = [left, top, right, bottom].map(|side| side as f32);
                [(x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1, 0.0, 0.8]
            } else {
                [0.0; 6]
            };
            for (row, value) in column.into_iter().enumerate() {
                self.output[row * COLOURS.len() + anchor] = value;
            }
        }
        Ok(Output { numbers: &self.output, columns: COLOURS.len() })
    }
    fn describe(&self) -> String {
        "seeing".into()
    }
}

/// The simulated street, 640x360: the upper left corner of each object at a time, seconds. 80x40 pixels each.
fn street(time: f64) -> [Option<(f64, f64)>; 4] {
    // From the left; one that stops behind the line and drives on; one that is parked there from the beginning; a fast one later.
    let first = Some((-80.0 + 160.0 * (time - 3.0), 60.0)).filter(|_| time > 3.0);
    let second = (time > 5.0).then(|| {
        let driven = if time < 7.0 { time - 5.0 } else { 2.0 + (time - 15.0).max(0.0) };
        (640.0 - 150.0 * driven, 160.0)
    });
    let fast = Some((-80.0 + 300.0 * (time - 20.0), 110.0)).filter(|_| time > 20.0);
    [first, second, Some((90.0, 300.0)), fast]
}

fn drawn(time: f64) -> Vec<u8> {
    let mut picture: Vec<u8> = (0..3 * 640 * 360).map(|at: usize| 80 + (at * 7 % 5) as u8).collect();
    for (place, colour) in street(time).into_iter().zip(COLOURS) {
        let Some((x, y)) = place else { continue };
        let (from, to) = (x.clamp(0.0, 640.0) as usize, (x + 80.0).clamp(0.0, 640.0) as usize);
        for row in y as usize..y as usize + 40 {
            for pixel in picture[3 * (row * 640 + from)..3 * (row * 640 + to)].chunks_exact_mut(3) {
                pixel.copy_from_slice(&colour);
            }
        }
    }
    picture
}

/// Confirmed tracks and crossings of the simulated street at a rate; and the number of runs at each size.
fn count_street(fps: f64, exclude: &str, roi: Option<roi::Params>) -> (usize, Vec<String>, [usize; 4]) {
    let file = common::config(&format!(
        "[gate]\nexclude = [{exclude}]\n[[line]]\nname = \"middle\"\nfrom = [0.5, 0.0]\nto = [0.5, 1.0]\n"
    ));
    let config = Config::load(Some(file.path()), Vec::new(), &Machine::default()).unwrap();
    let format = FrameFormat::packed(PixelFormat::Rgb24, 640, 360, Color::JPEG).unwrap();
    let inferences = Arc::default();
    let mut engine = ColourDetector::new(Size { width: 320, height: 192 }, &inferences);
    let params =
        Params { roi, decode: config.first_camera().decode, ..config.first_camera().stages(Vec::new()) };
    let classes = Classes::from_metadata("{0: 'person', 1: 'car'}").unwrap();
    let mut pipeline = Pipeline::new(params, &format, &engine.shape(), &classes).unwrap();
    let (mut began, mut crossings) = (0, Vec::new());
    for index in 0..(26.0 * fps) as u32 {
        let time = f64::from(index) / fps;
        let picture = drawn(time);
        let at = Mono::ZERO + Duration::from_secs_f64(1.0 + time);
        pipeline
            .process(&mut engine, &FrameView::new(format, &picture).unwrap(), at, &mut |body| {
                if let Body::Crossing(crossing) = &body {
                    crossings.push(format!("{:?}", crossing.direction));
                }
                began += usize::from(matches!(body, Body::TrackBegin(_)));
            })
            .unwrap();
    }
    crossings.sort_unstable();
    (began, crossings, [0, 1, 2, 3].map(|level| inferences[level].load(Ordering::Relaxed)))
}

/// Four road users, three of whom cross the line: the same with regions as with whole pictures, at any rate, and where the gate does not
/// see all of their path.
#[test]
fn regions_give_the_same_counts_as_whole_pictures() {
    for exclude in [
        "",
        "[[0.3, 0.0], [0.45, 0.0], [0.45, 1.0], [0.3, 1.0]]",
        "[[0.85, 0.0], [1.0, 0.0], [1.0, 1.0], [0.85, 1.0]]",
    ] {
        for fps in [10.0, 6.0, 4.0, 3.0] {
            let (began, crossings, inferences) = count_street(fps, exclude, Some(roi::Params::default()));
            let (whole_began, whole_crossings, whole_inferences) = count_street(fps, exclude, None);
            let what = format!("{fps} a second, blind at {exclude:?}: {inferences:?}, {whole_inferences:?}");
            assert_eq!((whole_began, whole_crossings.len()), (4, 3), "{what}: {whole_crossings:?}");
            assert_eq!((began, &crossings), (whole_began, &whole_crossings), "{what}");
            assert!(inferences[1..].iter().sum::<usize>() > inferences[0], "{what}");
        }
    }
}

/// A camera that sends a JPEG of another size than announced: that frame is corrupt, the next one is fine.
#[test]
fn a_jpeg_of_another_size_is_a_corrupt_frame() {
    let bytes = std::fs::read(common::data("pixels/420-even.jpg")).unwrap();
    let (width, height) = (48, 32);
    let mjpeg = |width, height| FrameFormat::packed(PixelFormat::Mjpeg, width, height, Color::JPEG).unwrap();
    let format = mjpeg(width, height);
    let config = Config::load(None, Vec::new(), &Machine::default()).unwrap();
    let classes = Classes::from_metadata("{0: 'person', 1: 'car'}").unwrap();
    for (wider, higher) in [(0, 0), (16, 0), (0, 16), (160, 160)] {
        let promised = mjpeg(width + wider, height + higher);
        let params = Params {
            decode: config.first_camera().decode,
            roi: None,
            ..config.first_camera().stages(Vec::new())
        };
        let mut engine = ColourDetector::new(Size { width: 64, height: 64 }, &Arc::default());
        let mut pipeline = Pipeline::new(params, &promised, &engine.shape(), &classes).unwrap();
        let mut process = |format, second| {
            let view = FrameView::new(format, &bytes).unwrap();
            pipeline.process(&mut engine, &view, Mono::ZERO + Duration::from_secs(second), &mut |_| {})
        };
        let outcome = process(promised, 1);
        if (wider, higher) == (0, 0) {
            assert!(outcome.unwrap().inferred);
        } else {
            let failure = format!("{:?}", outcome.unwrap_err());
            assert!(failure.contains("Corrupt") && failure.contains("a JPEG of"), "{failure}");
        }
        // At its own size it is valid, as in a folder of different pictures.
        assert!(process(format, 2).unwrap().inferred);
    }
}
