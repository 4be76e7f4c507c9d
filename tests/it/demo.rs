//! The commands that a newcomer runs first, and everything that follows from a seed: `demo`, `selftest`, `sim`, run as a program.

use std::path::Path;
use std::process::Output;

use flytrap::analytics::count::CountingLine;
use flytrap::event::Direction;
use flytrap::sim::judge::Judge;
use flytrap::sim::scene::{Hour, Scene, SceneParams, Weather};
use flytrap::sim::traffic::Kind;
use serde_json::Value;

use crate::common::{self, output, say};

fn flytrap(folder: &Path, arguments: &[&str]) -> Output {
    output(common::flytrap().args(arguments).current_dir(folder))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_demo_counts_what_is_true_and_leaves_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let done = json(&flytrap(folder.path(), &["demo", "--json"]));
    let (counted, truth) = (done["counted"].as_u64().unwrap(), done["truth"].as_u64().unwrap());
    say(&format!("MEASURED demo: {counted} counted, {truth} true, {} frames", done["frames"]));
    assert!(truth >= 15, "hardly anybody comes: {done}");
    // Each class in each direction; the README has the figures for more streets.
    let off = |row: &Value| row["counted"].as_u64().unwrap().abs_diff(row["truth"].as_u64().unwrap());
    let wrong: u64 = done["rows"].as_array().unwrap().iter().map(off).sum();
    assert!(wrong <= 3, "{done}");
    let picture = std::fs::read(folder.path().join("flytrap-demo/demo.jpg")).unwrap();
    let clip = std::fs::read(folder.path().join("flytrap-demo/demo.mjpeg")).unwrap();
    assert!(picture.starts_with(&[0xff, 0xd8]) && picture.ends_with(&[0xff, 0xd9]));
    let frames = clip.windows(3).filter(|bytes| *bytes == [0xff, 0xd8, 0xff]).count();
    assert_eq!(frames, 200, "20 s at 10 a second");
}

#[test]
fn a_street_is_a_source_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let source = "sim:7,seconds=12,calm,day,overcast";
    let output = flytrap(
        folder.path(),
        &["run", "--until-end", "--source", source, "--model", "builtin", "--uplink", "stdout"],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let events = text(&output.stdout);
    assert!(events.lines().any(|line| line.contains("flytrap.track.begin")), "{events}");
    assert!(text(&output.stderr).contains("the self-test passed"), "{}", text(&output.stderr));
    let wrong = flytrap(folder.path(), &["run", "--source", "sim:sunny", "--model", "builtin"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("'sunny' is not understood"), "{}", text(&wrong.stderr));
}

/// A car parked at the picture's lower edge, of which only the bonnet shows, took over the cars that passed behind it: one was counted
/// three times, and five non-existing ones went the other way.
#[test]
fn cars_that_pass_a_parked_bonnet_are_counted_once() {
    const SECONDS: u32 = 60;
    let street = SceneParams {
        seed: 21,
        hour: Some(Hour::Day),
        weather: Some(Weather::Clear),
        ..SceneParams::default()
    };
    let mut scene = Scene::new(&street).unwrap();
    let mut judge =
        Judge::new(&[CountingLine::middle()], scene.setting().view(), street.width, street.height);
    let mut rgb = vec![0; scene.picture_bytes()];
    for frame in 0..10 * SECONDS {
        judge.see(scene.render(f64::from(frame) / 10.0, &mut rgb));
    }
    let folder = tempfile::tempdir().unwrap();
    let source = format!("sim:21,day,clear,seconds={SECONDS}");
    let output = flytrap(
        folder.path(),
        &["run", "--until-end", "--source", &source, "--model", "builtin", "--uplink", "stdout"],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let events: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut results = Vec::new();
    for (direction, name) in [(Direction::Forward, "forward"), (Direction::Backward, "backward")] {
        let of_cars = |event: &&Value| {
            let data = &event["data"];
            event["type"] == "flytrap.crossing" && data["class"] == "car" && data["direction"] == name
        };
        let counted = events.iter().filter(of_cars).count() as u64;
        let truth = judge.counts().get(&(0, direction, Kind::Car)).copied().unwrap_or(0);
        results.push(format!("{name}: {counted} counted, {truth} true"));
        assert!(counted.abs_diff(truth) <= 1, "{results:?}");
    }
    say(&format!("MEASURED cars past a parked bonnet, {}", results.join(", ")));
}

#[test]
fn the_self_test_passes_here_and_a_damaged_model_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let passed = flytrap(folder.path(), &["selftest"]);
    assert!(passed.status.success() && text(&passed.stdout).contains("passed"), "{}", text(&passed.stderr));
    let (_, hash) = common::damaged_model(folder.path());
    let stderr = text(&flytrap(folder.path(), &["selftest", "--model", "damaged.onnx"]).stderr);
    assert!(stderr.contains(&format!("its sha256 {hash} is not among the models")), "{stderr}");
    let trusted = ["--model", "damaged.onnx", "--model-sha256", &hash];
    let failed = flytrap(folder.path(), &[&["selftest"], &trusted[..]].concat());
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed.stdout));
    assert!(text(&failed.stderr).contains("self-test failed"), "{}", text(&failed.stderr));
    let run =
        flytrap(folder.path(), &[&["run", "--source", "sim:7", "--uplink", "stdout"], &trusted[..]].concat());
    assert_eq!(run.status.code(), Some(3), "{}", text(&run.stderr));
    assert!(!text(&run.stdout).contains("track.begin"), "nothing is counted");
}

/// Upright, or much wider than any usual camera: such an input size has no record, but the model is tested all the same, and passes.
#[test]
fn a_camera_of_any_shape_passes_the_self_test() {
    let folder = tempfile::tempdir().unwrap();
    for size in ["360x640", "640x160", "480x480", "64x1024"] {
        let source = format!("sim:7,seconds=0.2,size={size}");
        let arguments =
            ["run", "--until-end", "--source", &source, "--model", "builtin", "--uplink", "stdout"];
        let output = flytrap(folder.path(), &arguments);
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{size}: {stderr}");
        assert_eq!(stderr.matches("the self-test passed").count(), 1, "{size}: {stderr}");
    }
}

#[test]
fn a_world_is_the_same_to_the_last_byte_and_mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let world = || flytrap(folder.path(), &["sim", "--seed", "5", "--hours", "0.5", "--json"]).stdout;
    let first = world();
    assert!(!first.is_empty());
    assert_eq!(first, world());
    std::fs::write(folder.path().join("bad.toml"), "[link]\noutage = 3\n").unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    std::fs::write(folder.path().join("images/mine.jpg"), "").unwrap();
    for (arguments, words) in [
        (&["sim", "--scenario", "bad.toml"][..], "bad.toml:2: unknown field `outage`"),
        (&["sim", "--scenario", "none.toml"], "none.toml: cannot be read"),
        (&["sim", "--hours", "0"], "--hours is 0"),
        (&["sim", "--hours", "9000"], "--hours is 9000"),
        (&["sim", "--hours", "2", "--export", "out"], "cannot be used with"),
        (&["sim", "--export", "."], "is not empty"),
        (&["sim", "--model", "none.onnx"], "needs rendered frames"),
        (&["sim", "--export", "out", "--size", "641x360"], "width is 641"),
        (&["sim", "--export", "out", "--pictures", "0"], "0 is not in 1..=1000000"),
        (&["sim", "--export", "out", "--model", "builtin"], "does not apply to --export"),
        (&["sim", "--video", "out.y4m", "--model", "builtin"], "does not apply to --video"),
    ] {
        let output = flytrap(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}

/// The built-in network runs on rendered frames in a world.
#[test]
fn a_world_with_rendered_frames_runs() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("drawn.toml"), "rendered = true\nbegins_at = 8\ncamera_fps = 5\n")
        .unwrap();
    let arguments = ["sim", "--scenario", "drawn.toml", "--hours", "0.02", "--json"];
    let report = json(&flytrap(folder.path(), &arguments));
    assert!(report["inferences"].as_u64() > Some(50) && report["tracks"].as_u64() > Some(2), "{report}");
    assert_eq!((&report["lost"], &report["unseen_repeats"]), (&0.into(), &0.into()));
}

/// int8 with ranges measured on the street passes; with wrong ranges it fails.
#[test]
fn the_self_test_holds_for_int8_and_finds_wrong_ranges() {
    let folder = tempfile::tempdir().unwrap();
    json(&flytrap(
        folder.path(),
        &["sim", "--export", "streets", "--pictures", "20", "--for-training", "--json"],
    ));
    let ranges = ["--model", "builtin", "--ranges", "ranges.toml"];
    json(&flytrap(
        folder.path(),
        &[&["calibrate", "--images", "streets/images", "--json"], &ranges[..]].concat(),
    ));
    let test = || flytrap(folder.path(), &[&["selftest", "--precision", "int8"], &ranges[..]].concat());
    let passed = test();
    if text(&passed.stderr).contains("this CPU") {
        return say("SKIPPED int8 self-test: this CPU has no instructions for it");
    }
    assert!(passed.status.success(), "{}", text(&passed.stderr));
    // One convolution in the middle of the network is clipped to almost nothing.
    let place = folder.path().join("ranges.toml");
    let good = std::fs::read_to_string(&place).unwrap();
    let mut lines: Vec<String> = good.lines().map(str::to_owned).collect();
    let middle = lines.len() / 2;
    let name = lines[middle].split('=').next().unwrap().to_owned();
    lines[middle] = format!("{name}= [0.0, 0.001]");
    std::fs::write(&place, lines.join("\n")).unwrap();
    let failed = test();
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed.stdout));
    assert!(text(&failed.stderr).contains("self-test failed"), "{}", text(&failed.stderr));
}

/// A street as a video gives the same events as the street as a source.
#[test]
fn a_street_gives_the_same_events_as_video_and_as_source() {
    let folder = tempfile::tempdir().unwrap();
    let street = "7,seconds=20,day,overcast,calm";
    let done = json(&flytrap(folder.path(), &["sim", "--video", "street.y4m", "--street", street, "--json"]));
    assert_eq!(done["frames"], 200);
    let events = |source: &str| {
        let arguments =
            ["run", "--until-end", "--source", source, "--model", "builtin", "--uplink", "stdout"];
        let output = flytrap(folder.path(), &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let lines = text(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .collect::<Vec<_>>();
        let tracks = lines.iter().filter(|event| event["type"].as_str().unwrap().contains("track"));
        tracks
            .map(|event| {
                (event["type"].clone(), event["data"]["track"].clone(), event["data"]["bbox"].clone())
            })
            .collect::<Vec<_>>()
    };
    let as_source = events(&format!("sim:{street}"));
    assert!(as_source.len() > 2);
    assert_eq!(events("file:street.y4m"), as_source);
    let truth = std::fs::read_to_string(folder.path().join("street.truth.ndjson")).unwrap();
    let last: Value = serde_json::from_str(truth.lines().nth(199).unwrap()).unwrap();
    assert_eq!(last["frame"], 199);
    let object = &last["objects"][0];
    assert!(object["speed_m_s"].is_number() && object["ground_m"][1].is_number(), "{last}");
    let crossings = &serde_json::from_str::<Value>(truth.lines().last().unwrap()).unwrap()["crossings"];
    let of_middle = |row: &Value| row["line"] == "middle" && row["count"].as_u64() > Some(0);
    let crossings = crossings.as_array().unwrap();
    assert!(!crossings.is_empty() && crossings.iter().all(of_middle), "{crossings:?}");
    let wrong = flytrap(folder.path(), &["sim", "--video", "a.y4m", "--street", "7,pixel=nv12"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("yuv4mpeg needs pixels of i420"), "{}", text(&wrong.stderr));
}

#[test]
fn exported_pictures_can_be_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let exported =
        json(&flytrap(folder.path(), &["sim", "--export", "streets", "--pictures", "10", "--json"]));
    assert_eq!(exported["pictures"], 10);
    let objects = exported["objects"].as_u64().unwrap();
    let eval = |labels: &str| {
        let arguments =
            ["eval", "--json", "--model", "builtin", "--images", "streets/images", "--labels", labels];
        json(&flytrap(folder.path(), &arguments))
    };
    let (coco, yolo) = (eval("streets/instances.json"), eval("streets/labels"));
    // The labels have their own class names, in another order than the model's.
    let names = std::fs::read_to_string(folder.path().join("streets/labels/classes.txt")).unwrap();
    assert!(names.starts_with("person\nbicycle\ncar\n"), "{names}");
    std::fs::write(folder.path().join("streets/labels/classes.txt"), names.replacen("car", "tram", 1))
        .unwrap();
    let renamed = eval("streets/labels");
    assert_ne!(renamed["map50"], yolo["map50"], "cars are called otherwise");
    assert_eq!(
        coco["objects"].as_u64(),
        Some(objects),
        "hard objects are crowds, which are not counted: {coco}"
    );
    assert_eq!(yolo["objects"].as_u64(), Some(objects), "hard objects are not in YOLO's files");
    assert!(coco["map50"].as_f64().unwrap() > 30.0, "{coco}");
}
