use super::*;
use crate::sim::scene::{Hour, Scene, SceneParams, Weather};
use crate::vision::detect::builtin;
use crate::vision::detect::engine::{EngineParams, Isa, Precision};
use crate::vision::detect::letterbox::Size;
use crate::vision::detect::model::{self, Loaded};
use crate::vision::draw::Canvas;

/// Parameters of the picture's street.
fn street() -> SceneParams {
    let (width, height) = PICTURE_SIZE;
    SceneParams {
        seed: 483,
        width,
        height,
        hour: Some(Hour::Day),
        weather: Some(Weather::Overcast),
        anything: true,
        calm: true,
        ..SceneParams::default()
    }
}

fn loaded(path: &Path, sha256: Option<String>, engine: EngineParams) -> Loaded {
    Loaded::open(&model::Params { path: path.into(), sha256, engine, ranges: None, trial: None }).unwrap()
}

fn builtin(engine: EngineParams) -> Loaded {
    loaded(Path::new(model::BUILTIN), None, engine)
}

fn test_of(model: Loaded, frame: Size, golden: &Golden) -> Result<usize> {
    test_with(model, Precision::Fp32, frame, golden)
}

fn test_with(model: Loaded, precision: Precision, frame: Size, golden: &Golden) -> Result<usize> {
    let (mut engine, classes) = model.into_engine(frame).unwrap();
    check(&mut *engine, precision, &classes, golden)
}

const WIDE: Size = Size { width: 640, height: 360 };

fn golden() -> Golden {
    let model = builtin(EngineParams::default());
    Golden::of(Path::new(model::BUILTIN), model.sha256()).unwrap().expect("the shipped model has a record")
}

/// `FLYTRAP_RECORD=1` rewrites the picture and the expected detections of the shipped model, after either was changed on purpose.
#[test]
fn the_picture_is_that_of_its_seed() {
    let mut scene = Scene::new(&street()).unwrap();
    let mut rgb = vec![0; scene.picture_bytes()];
    let truth = scene.render(1.0, &mut rgb).to_vec();
    let jpeg = Canvas::from_rgb(640, 360, rgb).unwrap().to_jpeg().unwrap();
    if std::env::var_os("FLYTRAP_RECORD").is_some() {
        std::fs::write("src/vision/selftest/selftest.jpg", &jpeg).unwrap();
        let kinds: Vec<_> =
            truth.iter().filter(|truth| !truth.is_hard(640)).map(|truth| truth.kind).collect();
        println!("{kinds:?}");
        let mut golden =
            Golden { model: builtin(EngineParams::default()).sha256().to_owned(), record: vec![] };
        for frame in FRAMES {
            let (mut engine, classes) = builtin(EngineParams::default()).into_engine(frame).unwrap();
            let (mut reference, _) = builtin(EngineParams::default()).into_tract(frame).unwrap();
            golden.note(&mut *engine, &mut *reference, &classes).unwrap();
        }
        std::fs::write("models/street-320.selftest.toml", toml::to_string(&golden).unwrap()).unwrap();
        return;
    }
    assert!(jpeg == PICTURE, "the street is rendered differently");
}

#[test]
fn the_shipped_model_passes_at_every_size_and_precision() {
    let golden = golden();
    for record in &golden.record {
        let sure = record.boxes.iter().filter(|expected| expected.score >= SLACK.sure).count();
        assert!(sure >= 3, "the picture shows too little at {:?}: {sure}", record.input);
    }
    // An emulated CPU takes seconds for each; `scripts/check.sh full` has them all.
    let is_brief = cfg!(target_arch = "aarch64") && std::env::var_os("FLYTRAP_FULL").is_none();
    let frames = || FRAMES.into_iter().chain([Size { width: 800, height: 600 }]);
    let count = if is_brief { 1 } else { frames().count() };
    for isa in Isa::all() {
        for precision in [Precision::Fp32, Precision::Fp16] {
            let params = EngineParams { isa, precision, ..EngineParams::default() };
            if params.check().is_err() {
                continue;
            }
            for frame in frames().take(count) {
                test_with(builtin(params), precision, frame, &golden)
                    .unwrap_or_else(|error| panic!("{isa:?} {precision:?} {frame}: {error}"));
            }
        }
    }
}

#[test]
fn an_input_size_without_a_record_is_reported_as_such() {
    let square = Size { width: 600, height: 600 };
    assert!(!golden().knows(square));
    let error = test_of(builtin(EngineParams::default()), square, &golden()).unwrap_err();
    assert!(error.to_string().contains("no record for an input of 320"), "{error}");
}

#[test]
fn a_broken_kernel_is_detected() {
    let params = EngineParams { isa: Isa::Sick, ..EngineParams::default() };
    let error = test_of(builtin(params), WIDE, &golden()).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    assert!(error.to_string().contains("self-test failed"), "{error}");
}

/// Flips the signs of one weight tensor after another.
#[test]
fn a_model_with_a_flipped_weight_tensor_is_detected() {
    let golden = golden();
    let bytes = builtin::bytes();
    let folder = tempfile::tempdir().unwrap();
    let tensors = weight_tensors(&bytes);
    assert!(tensors.len() > 60, "only {} tensors of weights", tensors.len());
    let mut missed = Vec::new();
    // An emulated CPU takes a second for each.
    let step = if cfg!(target_arch = "x86_64") { 1 } else { 9 };
    for (name, at, len) in tensors.iter().step_by(step) {
        let mut damaged = bytes.to_vec();
        for number in damaged[*at..at + len].chunks_exact_mut(4) {
            number[3] ^= 0x80;
        }
        let path = folder.path().join("damaged.onnx");
        std::fs::write(&path, &damaged).unwrap();
        let hash: String =
            <sha2::Sha256 as sha2::Digest>::digest(&damaged).iter().map(|b| format!("{b:02x}")).collect();
        let model = loaded(&path, Some(hash), EngineParams::default());
        if test_of(model, WIDE, &golden).is_ok() {
            missed.push(name.as_str());
        }
    }
    assert!(missed.is_empty(), "{missed:?} of {} tensors", tensors.len());
}

/// Names of large tensors in an ONNX file, and the positions of their raw data: fields 8 and 9 of `TensorProto` in field 5 of `GraphProto`
/// in field 7 of `ModelProto` (onnx.proto3). At least 256 numbers: biases and shapes are not weights.
fn weight_tensors(bytes: &[u8]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (number, at, len) in fields(bytes, 0, bytes.len()) {
        for (number, at, len) in if number == 7 { fields(bytes, at, at + len) } else { Vec::new() } {
            let tensor = if number == 5 { fields(bytes, at, at + len) } else { Vec::new() };
            let field = |wanted: u64| tensor.iter().find(|(number, ..)| *number == wanted);
            if let (Some((_, name, name_len)), Some((_, at, len))) = (field(8), field(9))
                && *len >= 1024
            {
                let name = String::from_utf8_lossy(&bytes[*name..name + name_len]).into_owned();
                found.push((name, *at, *len));
            }
        }
    }
    found
}

/// The fields of a message: number, start, length; the length is 0 for other types than byte strings.
fn fields(bytes: &[u8], mut at: usize, end: usize) -> Vec<(u64, usize, usize)> {
    let varint = |at: &mut usize| {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let mut found = Vec::new();
    while at < end {
        let key = varint(&mut at);
        let len = match key & 7 {
            0 => {
                varint(&mut at);
                0
            }
            1 => 8,
            5 => 4,
            _ => varint(&mut at) as usize,
        };
        found.push((key >> 3, at, if key & 7 == 2 { len } else { 0 }));
        at += len;
    }
    found
}

#[test]
fn missing_and_extra_detections_are_named() {
    let expected = |class: &str, score: f32, by: f32| Expected {
        class: class.into(),
        score,
        bbox: [10.0 + by, 10.0, 50.0 + by, 40.0],
    };
    let record = |boxes: Vec<Expected>| Record { input: [320, 192], means: vec![], boxes };
    let others = [expected("car", 0.8, 400.0), expected("car", 0.7, 500.0)];
    let with = |boxes: Vec<Expected>| record(boxes.into_iter().chain(others.clone()).collect());
    let mut known = with(vec![expected("car", 0.9, 0.0)]);
    known.boxes.push(expected("car", 0.4, 100.0));
    let compare = |boxes: Vec<Expected>| known.compare_boxes(&with(boxes), SLACK);
    assert_eq!(compare(vec![expected("car", 0.85, 1.0)]), Ok(3), "a box with a low score may be missing");
    for (boxes, words) in [
        (vec![], "not found"),
        (vec![expected("person", 0.9, 0.0)], "not found"),
        (vec![expected("car", 0.9, 20.0)], "not found"),
        (vec![expected("car", 0.6, 0.0)], "score 0.60"),
        (vec![expected("car", 0.9, 0.0), expected("bus", 0.95, 200.0)], "where none is expected"),
    ] {
        let why = compare(boxes).unwrap_err();
        assert!(why.contains(words), "{why}");
    }
    // If all scores are low, the three strongest boxes must be found.
    let weak = record((0..4u8).map(|k| expected("car", 0.45, 100.0 * f32::from(k))).collect());
    assert_eq!(weak.compare_boxes(&weak, SLACK), Ok(3));
    assert!(weak.compare_boxes(&record(vec![]), SLACK).unwrap_err().contains("not found"));
}

#[test]
fn means_are_compared_with_a_tolerance_and_nan_never_matches() {
    let record = |mean: f32| Record { input: [320, 192], means: vec![0.5, mean], boxes: vec![] };
    let known = record(0.2);
    assert_eq!(known.compare_means(&record(0.2001), MEAN_SINGLE), Ok(()));
    for wrong in [0.5, -0.2, f32::NAN, f32::INFINITY] {
        assert!(known.compare_means(&record(wrong), MEAN_HALF).is_err(), "{wrong}");
    }
}

#[test]
fn a_record_beside_a_model_is_used_only_for_that_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.onnx");
    assert_eq!(Golden::of(&model, "abc").unwrap(), None);
    let found = Expected { class: "car".into(), score: 0.5, bbox: [0.0, 0.0, 9.0, 9.0] };
    let record = |boxes| Record { input: [320, 192], means: vec![], boxes: vec![found.clone(); boxes] };
    let golden = Golden { model: "abc".into(), record: vec![record(3)] };
    for records in [vec![], vec![record(3), record(2)]] {
        let poor = Golden { record: records, ..golden.clone() };
        std::fs::write(place_beside(&model), toml::to_string(&poor).unwrap()).unwrap();
        assert!(Golden::of(&model, "abc").unwrap_err().to_string().contains("at least 3 boxes"));
    }
    std::fs::write(place_beside(&model), toml::to_string(&golden).unwrap()).unwrap();
    assert_eq!(Golden::of(&model, "abc").unwrap(), Some(golden));
    assert!(Golden::of(&model, "abd").unwrap_err().to_string().contains("it is for a model"));
    std::fs::write(place_beside(&model), "model = 5").unwrap();
    assert!(Golden::of(&model, "abc").unwrap_err().to_string().contains("--record"));
}
