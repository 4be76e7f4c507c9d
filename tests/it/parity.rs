//! `flytrap detect` compared with ONNX Runtime, libjpeg and OpenCV: the same boxes, classes and scores on real photos.

use std::io::Write;
use std::path::Path;

use flytrap::capture::frame::FrameView;
use flytrap::capture::picture::{self, Picture};
use flytrap::vision::detect::Detections;
use flytrap::vision::detect::decode::{Decoder, Params as DecodeParams};
use flytrap::vision::detect::engine::{Engine, EngineParams, Precision};
use flytrap::vision::detect::letterbox::{Letterbox, Size};
use flytrap::vision::detect::model::{Loaded, Params as ModelParams};
use serde_json::Value;

use crate::common::{self, data, describe, flytrap, json_lines, output, shared};

/// Reference boxes below this score are not compared: they appear and disappear with the last bit.
const SCORE_MIN: f64 = 0.3;
const IOU_MIN: f64 = 0.98;
const SCORE_TOLERANCE: f64 = 0.01;

fn sides(detection: &Value) -> [f64; 4] {
    let sides: Vec<f64> =
        detection["box"].as_array().unwrap().iter().map(|side| side.as_f64().unwrap()).collect();
    sides.try_into().unwrap()
}

fn iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |s: [f64; 4]| (s[2] - s[0]).max(0.0) * (s[3] - s[1]).max(0.0);
    let inner = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    inner / (area(a) + area(b) - inner)
}

fn score(detection: &Value) -> f64 {
    detection["score"].as_f64().unwrap()
}

/// Differences between two photos' detections.
fn differences(ours: &Value, reference: &Value) -> Vec<String> {
    let list = |side: &Value| side["detections"].as_array().unwrap().clone();
    let (ours_all, reference_all) = (list(ours), list(reference));
    let mut wrong = Vec::new();
    if ours["size"] != reference["size"] {
        wrong.push(format!("input size {} for {}", ours["size"], reference["size"]));
    }
    // In both directions: nothing missing, nothing extra.
    for (from, to, what) in [(&reference_all, &ours_all, "missing"), (&ours_all, &reference_all, "too much")]
    {
        // A box whose score exceeds the limit by more than the tolerance must exist on the other side, even if its score is below the limit
        // there.
        for wanted in from.iter().filter(|d| score(d) >= SCORE_MIN) {
            let same = to.iter().filter(|d| d["class"] == wanted["class"]);
            let near =
                same.max_by(|a, b| iou(sides(a), sides(wanted)).total_cmp(&iou(sides(b), sides(wanted))));
            let fine = near.is_some_and(|near| {
                iou(sides(near), sides(wanted)) >= IOU_MIN
                    && (score(near) - score(wanted)).abs() <= SCORE_TOLERANCE
            });
            if !fine {
                wrong.push(format!("{what}: {wanted}, nearest {near:?}"));
            }
        }
    }
    wrong
}

/// Runs `detect` on the reference's photos.
fn hold(shared: &Path, model: &str, reference: &[Value]) {
    assert!(!reference.is_empty());
    let photos = reference.iter().map(|line| shared.join("photos").join(line["photo"].as_str().unwrap()));
    let mut command = flytrap();
    // The reference's NMS, which leaves more duplicates than ours.
    let mut config = tempfile::NamedTempFile::new().unwrap();
    config.write_all(b"[detect]\niou_max = 0.7\n").unwrap();
    command.arg("detect").arg("--config").arg(config.path());
    command.args(["--json", "--model"]).arg(shared.join("models").join(model)).args(photos);
    let output = output(&mut command);
    assert!(output.status.success(), "{}", describe(&output));
    let ours = json_lines(&output);
    assert_eq!(ours.len(), reference.len());
    for (ours, reference) in ours.iter().zip(reference) {
        assert_eq!(ours["photo"], reference["photo"]);
        let wrong = differences(ours, reference);
        assert!(wrong.is_empty(), "{model} {}: {wrong:#?}", reference["photo"]);
    }
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_640_model_finds_what_the_reference_finds() {
    let Some(shared) = shared("the_640_model_finds_what_the_reference_finds") else { return };
    hold(&shared, "yolo11n-640.onnx", &lines(shared.join("reference/photos-640.jsonl")));
}

#[test]
fn the_320_model_finds_what_the_reference_finds() {
    let Some(shared) = shared("the_320_model_finds_what_the_reference_finds") else { return };
    hold(&shared, "yolo11n-320.onnx", &lines(shared.join("reference/photos-320.jsonl")));
}

#[test]
fn the_rectangular_model_finds_what_the_reference_finds() {
    let Some(shared) = shared("the_rectangular_model_finds_what_the_reference_finds") else { return };
    hold(&shared, "yolo11n-384x640.onnx", &lines(shared.join("reference/photos-384x640.jsonl")));
}

/// Free input sides: wide photos get 384x640, for which there is a reference; the portrait one gets 640x480, whose reference was made with
/// the same script.
#[test]
fn the_model_with_free_input_sides_fits_each_photo() {
    let Some(shared) = shared("the_model_with_free_input_sides_fits_each_photo") else { return };
    let mut reference = lines(shared.join("reference/photos-384x640.jsonl"));
    reference.retain(|line| line["photo"] != "bus.jpg");
    reference.extend(lines(data("bus-dynamic-640x480.jsonl")));
    hold(&shared, "yolo11n-dynamic.onnx", &reference);
}

/// An engine's detections in a frame: class, score, box.
type Seen = Vec<(u16, f32, [f64; 4])>;

/// An engine's detections in all of `frames`.
fn seen(engine: &mut dyn Engine, frames: &[Picture]) -> Vec<Seen> {
    let mut letterbox = Letterbox::new(engine.size());
    let params = DecodeParams { score_min: 0.25, iou_max: 0.7 };
    let mut decoder = Decoder::new(engine.head(), params, |_| true);
    let mut detections = Detections::new();
    let mut see = |frame: &Picture| {
        let view = FrameView::new(frame.format, &frame.bytes).unwrap();
        let placement = letterbox.fill(&view.planes().unwrap(), frame.format.color, engine.input());
        let output = engine.run(decoder.score_min()).unwrap();
        decoder.decode(output, &placement, &mut detections);
        detections.iter().map(|d| (d.class.0, d.score, d.bbox.to_array().map(f64::from))).collect()
    };
    frames.iter().map(&mut see).collect()
}

/// Of the boxes of `wanted` with a score of 0.3 and more: their number, the number of them that `ours` has with an IoU of `iou_min` and a
/// score within `off_max`, and the largest difference of a score among those.
fn share(wanted: &[Seen], ours: &[Seen], iou_min: f64, off_max: f32) -> (usize, usize, f32) {
    let (mut all, mut same, mut off) = (0, 0, 0.0f32);
    for (wanted, ours) in wanted.iter().zip(ours) {
        for (class, score, bbox) in wanted.iter().filter(|(_, score, _)| f64::from(*score) >= SCORE_MIN) {
            all += 1;
            let near =
                ours.iter().filter(|(other, _, sides)| other == class && iou(*sides, *bbox) >= iou_min);
            let near = near.map(|(_, other, _)| (other - score).abs()).min_by(f32::total_cmp);
            if let Some(near) = near.filter(|near| *near <= off_max) {
                (same, off) = (same + 1, off.max(near));
            }
        }
    }
    (all, same, off)
}

/// 60 frames of a road, evenly from the clip (every tenth of them unless `full`): our executor compared with tract, which the photos
/// above compare with ONNX Runtime.
#[test]
fn detections_on_road_frames_match_tract() {
    let test = "detections_on_road_frames_match_tract";
    let (Some(shared), true) = (shared(test), common::ffmpeg(test)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let clip = shared.join("video/traffic.mp4");
    let every = if common::is_full(test, "nine of ten frames") { 1 } else { 10 };
    let mut ffmpeg = std::process::Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(clip).args(["-vf", "select=not(mod(n\\,2))", "-vsync", "vfr"]);
    assert!(ffmpeg.args(["-frames:v", "60"]).arg(folder.path().join("%03d.png")).status().unwrap().success());
    let frames: Vec<Picture> = (1..=60)
        .step_by(every)
        .map(|n| picture::load(&folder.path().join(format!("{n:03}.png"))).unwrap())
        .collect();
    let size = Size { width: frames[0].format.width as usize, height: frames[0].format.height as usize };
    let (path, ranges) = (shared.join("models/yolo11n-384x640.onnx"), folder.path().join("ranges.toml"));
    let open = |precision| {
        let engine = EngineParams { precision, ..EngineParams::default() };
        let (path, ranges) = (path.clone(), Some(ranges.clone()));
        Loaded::open(&ModelParams { path, sha256: None, engine, ranges, trial: None }).unwrap()
    };
    let (mut tract, _) = open(Precision::Fp32).into_tract(size).unwrap();
    let wanted = seen(&mut *tract, &frames);
    let (mut ours, _) = open(Precision::Fp32).into_engine(size).unwrap();
    let (all, same, off) = share(&wanted, &seen(&mut *ours, &frames), 0.99, 0.005);
    common::say(&format!(
        "MEASURED fp32 on {} frames: {same} of {all} boxes, scores off by {off:.5} at most",
        frames.len()
    ));
    assert!(all * every > 200 && same * 1000 >= all * 995, "{same} of {all}");
    let mut calibrate = flytrap();
    calibrate.arg("calibrate").arg("--model").arg(&path).arg("--images").arg(shared.join("photos"));
    assert!(output(calibrate.arg("--ranges").arg(&ranges)).status.success());
    // int8 moves boxes by a pixel: its cost is measured as average precision, in eval.rs.
    for (precision, iou, percent) in
        [(Precision::Fp16, 0.95, 99), (Precision::Int8, 0.95, 90), (Precision::Int8, 0.8, 98)]
    {
        if (EngineParams { precision, ..EngineParams::default() }).check().is_err() {
            common::skip(test, &format!("{}: not on this CPU (the rest of it ran)", precision.name()));
            continue;
        }
        let (mut short, _) = open(precision).into_engine(size).unwrap();
        let (all, same, off) = share(&wanted, &seen(&mut *short, &frames), iou, 1.0);
        common::say(&format!(
            "MEASURED {} on {} frames: {same} of {all} boxes at IoU {iou}, scores off by {off:.5} at most",
            precision.name(),
            frames.len()
        ));
        assert!(same * 100 >= all * percent, "{}: {same} of {all}", precision.name());
    }
    // The comparison can fail: boxes of another frame do not match.
    let (first, second) = wanted.split_at(wanted.len() / 2);
    let (some, elsewhere, _) = share(first, second, 0.99, 0.005);
    assert!(elsewhere * 2 < some, "{elsewhere} of {some}");
}

#[test]
fn the_comparison_can_fail() {
    let line = |detections: &str| -> Value {
        serde_json::from_str(&format!(r#"{{"photo":"a","size":"640","detections":[{detections}]}}"#)).unwrap()
    };
    let car = r#"{"class":"car","score":0.8,"box":[0,0,100,100]}"#;
    let weak = r#"{"class":"car","score":0.29,"box":[0,0,100,100]}"#;
    assert!(differences(&line(car), &line(car)).is_empty());
    assert!(differences(&line(""), &line(weak)).is_empty());
    for other in [
        r#"{"class":"bus","score":0.8,"box":[0,0,100,100]}"#,
        r#"{"class":"car","score":0.811,"box":[0,0,100,100]}"#,
        r#"{"class":"car","score":0.8,"box":[0,0,100,97.9]}"#,
        "",
    ] {
        assert!(!differences(&line(other), &line(car)).is_empty(), "{other}");
        assert!(!differences(&line(car), &line(other)).is_empty(), "{other}");
    }
}

/// Boxes are drawn at their positions, and other pixels stay unchanged (except for the encoder's loss).
#[test]
fn annotated_pictures_show_the_boxes() {
    let Some(shared) = shared("annotated_pictures_show_the_boxes") else { return };
    let out = tempfile::tempdir().unwrap();
    let photo = shared.join("photos/bus.jpg");
    let mut command = flytrap();
    command.args(["detect", "--json", "--model"]).arg(shared.join("models/yolo11n-320.onnx"));
    command.arg(&photo).arg("--out").arg(out.path());
    let found = output(&mut command);
    assert!(found.status.success(), "{}", describe(&found));
    let luma = |path: &Path| {
        let mut decoder = flytrap::vision::jpeg::JpegDecoder::new(810, 1080);
        let bytes = std::fs::read(path).unwrap();
        let decoded = decoder.decode(&bytes).unwrap();
        let plane = decoded.planes.luma();
        (0..1080).flat_map(|y| plane.row(y)[..810].to_vec()).collect::<Vec<u8>>()
    };
    let (before, after) = (luma(&photo), luma(&out.path().join("bus.jpg")));
    let changed = |x: usize, y: usize| before[y * 810 + x].abs_diff(after[y * 810 + x]) > 24;
    let bus = &json_lines(&found)[0]["detections"][0];
    let [x1, y1, x2, y2] = sides(bus).map(|side| side.round() as usize);
    let on_edges = (x1 + 20..x2 - 20).filter(|x| changed(*x, y1) || changed(*x, y2 - 1)).count();
    assert!(on_edges > (x2 - x1) / 2, "{on_edges} changed pixels along a box {} wide", x2 - x1);
    let far_away =
        (0..100).flat_map(|y| (200..600).map(move |x| (x, y))).filter(|(x, y)| changed(*x, *y)).count();
    assert!(far_away < 40, "{far_away} pixels changed where nothing was drawn");
}
