//! `flytrap tune`: its threshold compared with brute force, the effect of the pasted lines, and the messages when no threshold meets the
//! target.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::common::{self, data, describe, flytrap, json_lines, output};

/// Right, wrong, objects.
type Counts = (usize, usize, usize);

fn json(place: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(place).unwrap()).unwrap()
}

fn rect(value: &Value) -> [f64; 4] {
    serde_json::from_value(value["bbox"].clone()).unwrap()
}

fn shared_area(a: [f64; 4], b: [f64; 4]) -> f64 {
    let side = |at: usize| ((a[at] + a[at + 2]).min(b[at] + b[at + 2]) - a[at].max(b[at])).max(0.0);
    side(0) * side(1)
}

/// Counts at a threshold by the definition, on the files themselves: weaker detections are removed; of each class and picture the strongest
/// detection takes the object that it overlaps most, with an IoU of at least 0.5; detections that overlap a crowd by half are ignored.
fn counts(truth: &Value, results: &Value, names: &[String], threshold: f64) -> Counts {
    let list = |value: &Value| value.as_array().unwrap().clone();
    let categories: BTreeSet<i64> = list(&truth["categories"])
        .iter()
        .filter(|category| names.iter().any(|name| category["name"] == name.as_str()))
        .map(|category| category["id"].as_i64().unwrap())
        .collect();
    assert_eq!(categories.len(), names.len());
    let group = |value: &Value| (value["image_id"].as_i64().unwrap(), value["category_id"].as_i64().unwrap());
    let crowd = |value: &Value| value["iscrowd"] == 1;
    let objects: Vec<Value> =
        list(&truth["annotations"]).into_iter().filter(|o| categories.contains(&group(o).1)).collect();
    let mut found: Vec<Value> = list(results)
        .into_iter()
        .filter(|f| {
            categories.contains(&group(f).1) && f["score"].as_f64().unwrap() as f32 >= threshold as f32
        })
        .collect();
    found.sort_by(|a, b| b["score"].as_f64().unwrap().total_cmp(&a["score"].as_f64().unwrap()));
    let (mut right, mut wrong, mut taken) = (0, 0, BTreeSet::new());
    for one in &found {
        let ours = rect(one);
        let overlap = |object: &Value| {
            let theirs = rect(object);
            let shared = shared_area(ours, theirs);
            shared / (ours[2] * ours[3] + if crowd(object) { 0.0 } else { theirs[2] * theirs[3] - shared })
        };
        let near = objects.iter().enumerate().filter(|(_, o)| group(o) == group(one) && overlap(o) >= 0.5);
        let (crowds, singles): (Vec<_>, Vec<_>) = near.partition(|(_, object)| crowd(object));
        let free = singles.iter().filter(|(index, _)| !taken.contains(index));
        if let Some((index, _)) = free.max_by(|a, b| overlap(a.1).total_cmp(&overlap(b.1))) {
            taken.insert(*index);
            right += 1;
        } else if crowds.is_empty() {
            wrong += 1;
        }
    }
    (right, wrong, objects.iter().filter(|object| !crowd(object)).count())
}

/// The choice by brute force: the highest recall, then the highest precision, then the highest threshold.
fn brute_force(rows: &[(f64, Counts)], target: f64) -> Option<f64> {
    let mut best: Option<(f64, f64, f64)> = None;
    for (threshold, (right, wrong, objects)) in rows {
        let precision = *right as f64 / (right + wrong) as f64; // not a number where there is nothing: meets nothing
        let all = (*right as f64 / *objects as f64, precision, *threshold);
        if precision >= target && best.is_none_or(|best| all > best) {
            best = Some(all);
        }
    }
    best.map(|(_, _, threshold)| threshold)
}

/// Compares every row of a report, and its choice, with brute force. Returns the rows.
fn check(
    report: &Value,
    tuned: &Value,
    truth: &Value,
    results: &Value,
    names: &[String],
) -> Vec<(f64, Counts)> {
    let rows: Vec<(f64, Counts)> = tuned["thresholds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let threshold = row["threshold"].as_f64().unwrap();
            let expected = counts(truth, results, names, threshold);
            let count = |key: &str| row[key].as_u64().unwrap() as usize;
            let ours = (count("right"), count("wrong"), tuned["objects"].as_u64().unwrap() as usize);
            assert_eq!(ours, expected, "{names:?} at {threshold}");
            assert_eq!(count("predictions"), expected.0 + expected.1);
            assert_eq!(row["precision"].is_null(), expected.0 + expected.1 == 0);
            (threshold, expected)
        })
        .collect();
    let target = report["target_precision"].as_f64().unwrap();
    assert_eq!(tuned["chosen"]["threshold"].as_f64(), brute_force(&rows, target), "{names:?}");
    rows
}

fn names(report: &Value) -> Vec<String> {
    serde_json::from_value(report["classes"].clone()).unwrap()
}

/// Runs it in `folder`; returns the report, stderr and the exit code.
fn tune(folder: &Path, args: &[&str]) -> (Value, String, Option<i32>) {
    let output = output(flytrap().current_dir(folder).args(["tune", "--json"]).args(args));
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (report, String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

/// The case "plain" of eval's tests as two files.
fn plain(folder: &Path) -> (String, String) {
    let case = json(Path::new(&data("eval/plain.json")));
    let put = |name: &str, value: &Value| {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
        name.to_owned()
    };
    (put("instances.json", &case["truth"]), put("results.json", &case["results"]))
}

#[test]
fn the_choice_equals_brute_force() {
    let folder = tempfile::tempdir().unwrap();
    let (labels, results) = plain(folder.path());
    let files = ["--labels", &labels, "--detections", &results, "--classes", "class 0,class 1,class 2"];
    let read = |name: &str| json(&folder.path().join(name));
    let (truth, found) = (read(&labels), read(&results));
    let mut picks = Vec::new();
    for target in ["0.25", "0.3", "0.35"] {
        for more in [&["--per-class"][..], &["--fine"]] {
            let (report, errors, code) =
                tune(folder.path(), &[&files[..], &["--target-precision", target], more].concat());
            assert_eq!(code, Some(0), "{target} {more:?}: {errors}");
            let rows = check(&report, &report["all"], &truth, &found, &names(&report));
            assert_eq!(rows.len(), if more == ["--fine"] { 91 } else { 17 });
            for class in report["by_class"].as_array().unwrap() {
                check(&report, class, &truth, &found, &[class["name"].as_str().unwrap().to_owned()]);
            }
            assert_eq!(report["by_class"].as_array().unwrap().len(), if more == ["--fine"] { 0 } else { 3 });
            picks.push(report["all"]["chosen"]["threshold"].as_f64().unwrap());
        }
    }
    // The target matters: a choice that ignored it would always be the same.
    assert!(picks.iter().any(|pick| *pick != picks[0]), "{picks:?}");
    let picture = std::fs::read(folder.path().join("tune.png")).unwrap();
    assert_eq!(&picture[..8], b"\x89PNG\r\n\x1a\n");
}

#[test]
fn a_target_out_of_reach_names_the_nearest_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (labels, results) = plain(folder.path());
    let args =
        ["--labels", &labels, "--detections", &results, "--classes", "class 0", "--target-precision", "0.99"];
    let (report, errors, code) = tune(folder.path(), &args);
    assert_eq!(code, Some(3), "{errors}");
    let all = &report["all"];
    assert!(all["chosen"].is_null() && report["config"].is_null(), "{all}");
    let precision = |row: &Value| row["precision"].as_f64();
    let best = all["thresholds"].as_array().unwrap().iter().filter_map(precision).fold(0.0, f64::max);
    assert!(best > 0.0 && best < 0.99 && precision(&all["nearest"]) == Some(best), "{all}");
    let nearest =
        format!("{:.2} comes nearest with {best:.3}", all["nearest"]["threshold"].as_f64().unwrap());
    for part in ["0.99", "class 0", &nearest, "--target-precision"] {
        assert!(errors.contains(part), "'{part}' is not in: {errors}");
    }
    assert_eq!(errors.lines().count(), 1, "{errors}");
    // The curve is still there, as numbers and as a picture.
    assert_eq!(all["thresholds"].as_array().unwrap().len(), 17);
    assert!(folder.path().join("tune.png").is_file());
    // Without detections the message differs.
    std::fs::write(folder.path().join("none.json"), "[]").unwrap();
    let (report, errors, code) =
        tune(folder.path(), &["--labels", &labels, "--detections", "none.json", "--classes", "class 0"]);
    assert!(code == Some(3) && errors.contains("nothing was found"), "{errors}");
    assert!(report["all"]["nearest"].is_null());
}

#[test]
fn mistakes_are_reported_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let (labels, results) = plain(folder.path());
    let files = ["--labels", &labels, "--detections", &results];
    for (more, parts) in [
        (&["--classes", "tram"][..], &["'tram'", "class 0, class 1, class 2"][..]),
        (&[], &["track.classes", "--classes"]),
        (&["--classes", "class 0", "--target-precision", "0"], &["--target-precision", "above 0"]),
        (&["--classes", "class 0", "--overlap", "1.5"], &["--overlap", "up to 1"]),
        (&["--classes", "class 0", "--plot", "curve.svg"], &["curve.svg", "NAME.png"]),
    ] {
        let (_, errors, code) = tune(folder.path(), &[&files[..], more].concat());
        assert_eq!(code, Some(2), "{more:?}: {errors}");
        for part in parts {
            assert!(errors.contains(part), "{more:?}: '{part}' is not in: {errors}");
        }
    }
    let plot = ["--classes", "class 0", "--target-precision", "0.1", "--plot", "nowhere/curve.png"];
    let (report, errors, code) = tune(folder.path(), &[&files[..], &plot].concat());
    assert!(code == Some(1) && errors.contains("nowhere/curve.png") && !report.is_null(), "{errors}");
}

/// The pasted lines are a valid configuration, and `flytrap detect` finds with it what tune counted.
fn keeps_its_promise(
    report: &Value,
    results: &Value,
    classes: &[String],
    folder: &Path,
    model: &str,
    pictures: &[String],
) {
    let pasted = format!("{}\n[model]\npath = \"{model}\"\n", report["config"].as_str().unwrap());
    std::fs::write(folder.join("pasted.toml"), pasted).unwrap();
    let checked = output(flytrap().current_dir(folder).args(["check", "pasted.toml"]));
    assert!(checked.status.success(), "{}", describe(&checked));
    let threshold = report["all"]["chosen"]["threshold"].as_f64().unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    for key in ["detect.score_min", "track.score_high", "track.score_new"] {
        let line = said.lines().find(|line| line.starts_with(&format!("{key} ="))).unwrap();
        assert!(line.ends_with(&format!("= {threshold}")), "{line}");
    }
    let detected = output(
        flytrap().current_dir(folder).args(["detect", "--json", "--config", "pasted.toml"]).args(pictures),
    );
    assert!(detected.status.success(), "{}", describe(&detected));
    let ours = |item: &&Value| classes.iter().any(|class| item["class"] == class.as_str());
    let lines = json_lines(&detected);
    let count: usize =
        lines.iter().map(|line| line["detections"].as_array().unwrap().iter().filter(ours).count()).sum();
    let reached = |found: &&Value| found["score"].as_f64().unwrap() as f32 >= threshold as f32;
    let promised = results.as_array().unwrap().iter().filter(reached).count();
    assert!(
        count > 0 && count == promised && promised < results.as_array().unwrap().len(),
        "{count}, {promised}"
    );
}

/// The simulated street, with every tenth frame labelled in YOLO's format.
#[test]
fn a_folder_of_yolo_labels_is_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let (images, labels) = (folder.path().join("images"), folder.path().join("labels"));
    std::fs::create_dir(&images).unwrap();
    std::fs::create_dir(&labels).unwrap();
    let clip = std::fs::read(data("squares.mjpeg")).unwrap();
    let starts: Vec<usize> =
        (0..clip.len() - 2).filter(|at| clip[*at..].starts_with(b"\xff\xd8\xff")).collect();
    let truth = json(Path::new(&data("squares.truth.json")));
    let frames = truth["frames"].as_array().unwrap();
    assert_eq!(starts.len(), frames.len());
    let (mut objects, mut pictures) = (0, Vec::new());
    for frame in frames.iter().step_by(10) {
        let at = frame["frame"].as_u64().unwrap() as usize;
        let picture = images.join(format!("{at:03}.jpg"));
        std::fs::write(&picture, &clip[starts[at]..starts.get(at + 1).copied().unwrap_or(clip.len())])
            .unwrap();
        pictures.push(picture.display().to_string());
        let mut text = String::new();
        for object in frame["objects"].as_array().unwrap() {
            let [x1, y1, x2, y2]: [f64; 4] = serde_json::from_value(object["box"].clone()).unwrap();
            let class = usize::from(object["class"] == "person");
            text += &format!(
                "{class} {} {} {} {}\n",
                (x1 + x2) / 480.0,
                (y1 + y2) / 288.0,
                (x2 - x1) / 240.0,
                (y2 - y1) / 144.0
            );
            objects += 1;
        }
        std::fs::write(labels.join(format!("{at:03}.txt")), text).unwrap();
    }
    let model = data("squares.onnx");
    let args = ["--model", &model, "--images", "images", "--labels", "labels", "--save", "found.json"];
    let (report, errors, code) = tune(folder.path(), &args);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(
        (names(&report), &report["all"]["objects"]),
        (vec!["car".into(), "person".into()], &objects.into())
    );
    assert!(report["all"]["chosen"]["recall"].as_f64().unwrap() > 0.8, "{report}");
    let results = json(&folder.path().join("found.json"));
    keeps_its_promise(&report, &results, &names(&report), folder.path(), &model, &pictures);
}

/// YOLO11n on pictures of COCO: the choice equals brute force on the results of `--save`, and the pasted lines give what they promise.
#[test]
fn the_real_model_reaches_its_target_on_coco() {
    let Some(shared) = common::shared("the_real_model_reaches_its_target_on_coco") else { return };
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| shared.join(name).canonicalize().unwrap().display().to_string();
    let (model, images) = (place("models/yolo11n-640.onnx"), place("coco-val/images"));
    let labels = place("coco-val/instances.json");
    let args =
        ["--model", &model, "--images", &images, "--labels", &labels, "--save", "found.json", "--per-class"];
    let (report, errors, code) = tune(folder.path(), &args);
    assert_eq!(code, Some(0), "{errors}");
    let (truth, results) = (json(Path::new(&labels)), json(&folder.path().join("found.json")));
    let rows = check(&report, &report["all"], &truth, &results, &names(&report));
    for class in report["by_class"].as_array().unwrap() {
        check(&report, class, &truth, &results, &[class["name"].as_str().unwrap().to_owned()]);
    }
    // The guide's rule, fewest predictions, would have discarded most detections.
    let chosen = &report["all"]["chosen"];
    let fewest =
        rows.iter().map(|(_, (right, wrong, _))| right + wrong).filter(|count| *count > 0).min().unwrap();
    let predictions = chosen["predictions"].as_u64().unwrap() as usize;
    common::say(&format!(
        "MEASURED tune, fp32, 640: {} for a precision of 0.8 ({:.3} at a recall of {:.3}); {predictions} detections, by the guide's rule {fewest}",
        chosen["threshold"],
        chosen["precision"].as_f64().unwrap(),
        chosen["recall"].as_f64().unwrap()
    ));
    assert!(predictions > 2 * fewest);
    let pictures: Vec<String> = truth["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| format!("{images}/{}", image["file_name"].as_str().unwrap()))
        .collect();
    // At another target, so that the pasted lines differ from the defaults.
    let args = ["--labels", &labels, "--detections", "found.json", "--target-precision", "0.95"];
    let (report, errors, code) = tune(folder.path(), &args);
    assert_eq!(code, Some(0), "{errors}");
    assert!(report["all"]["chosen"]["threshold"].as_f64().unwrap() > 0.3);
    keeps_its_promise(&report, &results, &names(&report), folder.path(), &model, &pictures);
}
