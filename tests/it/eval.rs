//! `flytrap eval`: compares its scores with pycocotools' on constructed cases (`data/eval/make.py`), and the models' scores on labelled
//! pictures with the reference program's.

use std::process::Command;

use flytrap::tools::score::{Area, coco, score};
use flytrap::vision::detect::engine::{EngineParams, Precision};
use serde_json::Value;

use crate::common;

/// Tolerance in points, for the rounding of sums.
const POINTS: f64 = 1e-4;

#[test]
fn scores_match_pycocotools() {
    let mut cases = 0;
    for entry in std::fs::read_dir(common::data("eval")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "json") {
            continue;
        }
        let case: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let (truth, ids) = coco::truth(&case["truth"].to_string(), &path).unwrap();
        let found = coco::found(&case["results"].to_string(), &path, &ids).unwrap();
        let all = score(&truth, &found, Area::All).mean;
        let of = |area| score(&truth, &found, area).mean.ap50_95;
        let ours = [all.ap50_95, all.ap50, of(Area::Small), of(Area::Medium), of(Area::Large)];
        for (ours, theirs) in ours.into_iter().zip(case["pycocotools"].as_array().unwrap()) {
            match (ours, theirs.as_f64()) {
                (None, None) => {}
                (Some(ours), Some(theirs)) if (100.0 * ours - theirs).abs() < POINTS => {}
                (ours, theirs) => panic!("{}: {ours:?}, pycocotools {theirs:?}", path.display()),
            }
        }
        cases += 1;
    }
    assert_eq!(cases, 9);
}

fn eval(args: &[&str]) -> (Value, String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_flytrap")).arg("eval").args(args).output().unwrap();
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (value, String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

/// Compares the models with the output of ../shared/reference/coco_eval.py with ONNX Runtime; lower precisions with our own fp32.
#[test]
fn models_score_as_in_the_reference_program() {
    let Some(shared) = common::shared("models_score_as_in_the_reference_program") else { return };
    // The same kernels run at each size, so that the smallest shows what fewer bits cost.
    let is_full =
        common::is_full("models_score_as_in_the_reference_program", "fp16 and int8 at 640 and 384x640");
    let folder = tempfile::tempdir().unwrap();
    let ranges = folder.path().join("ranges.toml").display().to_string();
    let place = |name: &str| shared.join(name).display().to_string();
    let (images, labels) = (place("coco-val/images"), place("coco-val/instances.json"));
    for (size, map50_95, map50) in [("640", 44.20, 60.16), ("320", 35.67, 52.38), ("384x640", 40.73, 55.77)] {
        let model = place(&format!("models/yolo11n-{size}.onnx"));
        let points = |precision: &str| {
            let (figures, errors, code) = eval(&[
                "--json",
                "--model",
                &model,
                "--images",
                &images,
                "--labels",
                &labels,
                "--precision",
                precision,
                "--ranges",
                &ranges,
            ]);
            assert_eq!(code, Some(0), "{errors}");
            ["map50_95", "map50"].map(|key| figures[key].as_f64().unwrap())
        };
        let ours = points("fp32");
        common::say(&format!(
            "MEASURED eval, fp32, {size}: {:.2}/{:.2}, the reference {map50_95:.2}/{map50:.2}",
            ours[0], ours[1]
        ));
        assert!((ours[0] - map50_95).abs() <= 0.1 && (ours[1] - map50).abs() <= 0.1, "{size}: {ours:?}");
        if size != "320" && !is_full {
            continue;
        }
        // The pictures differ from those of the measurement.
        let mut calibrate = Command::new(env!("CARGO_BIN_EXE_flytrap"));
        calibrate.args(["calibrate", "--model", &model, "--images", &place("photos"), "--ranges", &ranges]);
        assert!(calibrate.status().unwrap().success());
        for (kind, most) in [(Precision::Fp16, 0.2), (Precision::Int8, 1.0)] {
            let precision = kind.name();
            if (EngineParams { precision: kind, ..EngineParams::default() }).check().is_err() {
                let test = "models_score_as_in_the_reference_program";
                common::skip(test, &format!("{precision}: not on this CPU (the rest of it ran)"));
                continue;
            }
            let short = points(precision);
            let loss = ours[0] - short[0];
            common::say(&format!(
                "MEASURED eval, {precision}, {size}: {:.2}/{:.2}, {loss:.2} points below fp32",
                short[0], short[1]
            ));
            assert!(loss <= most, "{precision} {size}: {short:?}, fp32 {ours:?}");
        }
    }
}

#[test]
fn results_of_another_program_need_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let case: Value =
        serde_json::from_str(&std::fs::read_to_string(common::data("eval/plain.json")).unwrap()).unwrap();
    let put = |name: &str, text: String| {
        let place = folder.path().join(name);
        std::fs::write(&place, text).unwrap();
        place.to_str().unwrap().to_owned()
    };
    let labels = put("instances.json", case["truth"].to_string());
    let results = put("results.json", case["results"].to_string());
    let saved = folder.path().join("saved.json");
    let args = ["--json", "--labels", &labels, "--detections", &results, "--save", saved.to_str().unwrap()];
    let (figures, errors, code) = eval(&args);
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        (figures["map50_95"].as_f64().unwrap() - case["pycocotools"][0].as_f64().unwrap()).abs() < POINTS
    );
    assert_eq!(figures["classes"].as_array().unwrap().len(), 3);
    let again: Value = serde_json::from_str(&std::fs::read_to_string(saved).unwrap()).unwrap();
    assert_eq!(again.as_array().unwrap().len(), case["results"].as_array().unwrap().len());

    // Invalid labels are reported with their position, before a model is needed.
    let broken = put("broken.json", r#"[{"image_id": 1}]"#.into());
    let (_, errors, code) = eval(&["--labels", &labels, "--detections", &broken]);
    assert!(code == Some(2) && errors.contains("broken.json") && errors.contains("category_id"), "{errors}");
    let (_, errors, code) = eval(&["--labels", "/nowhere.json", "--detections", &results]);
    assert!(code == Some(2) && errors.contains("/nowhere.json"), "{errors}");
    let (_, errors, code) = eval(&["--labels", &labels]);
    assert!(code == Some(2) && errors.contains("--model"), "{errors}");
}

#[test]
fn labels_may_be_a_folder_of_text_files() {
    let folder = tempfile::tempdir().unwrap();
    let (images, labels) = (folder.path().join("images"), folder.path().join("labels"));
    std::fs::create_dir(&images).unwrap();
    std::fs::create_dir(&labels).unwrap();
    let model = common::data("squares.onnx");
    let args = |extra: &[&str]| {
        let mut args = vec!["--json", "--model", &model];
        args.extend(["--images", images.to_str().unwrap(), "--labels", labels.to_str().unwrap()]);
        args.extend(extra);
        eval(&args)
    };
    let (_, errors, code) = args(&[]);
    assert!(code == Some(2) && errors.contains("holds no .jpg"), "{errors}");
    std::fs::copy(common::data("pixels/420.jpg"), images.join("a.jpg")).unwrap();
    let (_, errors, code) = args(&[]);
    assert!(code == Some(2) && errors.contains("no label for any picture"), "{errors}");
    std::fs::write(labels.join("a.txt"), "0 0.5 0.5 0.1").unwrap();
    let (_, errors, code) = args(&[]);
    assert!(code == Some(2) && errors.contains("a.txt', line 1"), "{errors}");
    // A second picture without a label file has no objects.
    std::fs::copy(common::data("pixels/420.jpg"), images.join("b.jpg")).unwrap();
    std::fs::write(labels.join("a.txt"), "0 0.5 0.5 0.01 0.01\n").unwrap();
    let (figures, errors, code) = args(&[]);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!((&figures["pictures"], &figures["objects"]), (&2.into(), &1.into()));
    assert!(figures["map50"].as_f64().unwrap() < 100.0);
}
