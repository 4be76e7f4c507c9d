//! Recordings through the whole program: its events match what happens in them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::common::{
    check_sequence, config, crossings, data, describe, ffmpeg, flytrap, json_lines, of_type, output,
    run_squares, say, shared, squares_truth,
};

#[test]
fn squares_are_counted_as_they_were_drawn() {
    let truth = squares_truth();
    for settings in [
        "",
        "[sampling]\nfps = 10\n",
        "[gate]\nenabled = false\n",
        "[sampling]\nprofile = \"security_surveillance\"\n",
    ] {
        let file = config(settings);
        let output = output(run_squares().arg("--config").arg(file.path()));
        assert!(output.status.success(), "{settings}: {}", describe(&output));
        let events = json_lines(&output);
        check_sequence(&events);
        assert_eq!(crossings(&events), truth, "{settings}");
        let stats = of_type(&events, "stats");
        assert_eq!(stats.last().unwrap()["frames_captured"], 160, "{settings}");
        assert_eq!(stats.last().unwrap()["frames_corrupt"], 0, "{settings}");
        // Every confirmed track has ended, once.
        let tracks =
            |kind| of_type(&events, kind).iter().map(|t| t["track"].as_u64().unwrap()).collect::<Vec<_>>();
        let (began, mut ended) = (tracks("track.begin"), tracks("track.end"));
        ended.sort_unstable();
        assert_eq!(began, ended, "{settings}");
    }
}

#[test]
fn other_lines_count_only_what_crosses_them() {
    // One line across the picture above the lanes, which nobody crosses; and one from top to bottom in the middle: the direction names
    // change.
    let file = config(
        "[[line]]\nname = \"sky\"\nfrom = [0.0, 0.05]\nto = [1.0, 0.05]\n[[line]]\nname = \"down\"\nfrom = [0.5, 0.0]\nto = [0.5, 1.0]\nforward = \"west\"\nbackward = \"east\"\n",
    );
    let output = output(run_squares().arg("--config").arg(file.path()));
    assert!(output.status.success(), "{}", describe(&output));
    let counts = crossings(&json_lines(&output));
    let count = |class: &str, way: &str| counts.get(&(class.into(), way.into())).copied().unwrap_or(0);
    assert_eq!(
        (count("car", "east"), count("car", "west"), count("person", "east")),
        (3, 2, 1),
        "{counts:?}"
    );
    assert_eq!(counts.values().sum::<u64>(), 6, "{counts:?}");
}

/// A folder of pictures of different sizes, shapes and formats is a source like any other.
#[test]
fn a_folder_of_unlike_pictures_runs_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    for (index, name) in ["444.jpg", "420.jpg", "420-even.jpg", "440.jpg"].into_iter().enumerate() {
        std::fs::copy(data(&format!("pixels/{name}")), folder.path().join(format!("{index}.jpg"))).unwrap();
    }
    std::fs::write(folder.path().join("9.jpg"), b"not a picture").unwrap();
    let mut command = flytrap();
    command.args(["run", "--until-end", "--source"]).arg(format!("dir:{}", folder.path().display()));
    let output = output(command.arg("--model").arg(data("squares.onnx")));
    assert!(output.status.success(), "{}", describe(&output));
    let events = json_lines(&output);
    let stats = *of_type(&events, "stats").last().unwrap();
    assert_eq!(
        (&stats["frames_captured"], &stats["frames_corrupt"]),
        (&5.into(), &1.into()),
        "{}",
        describe(&output)
    );
    assert_eq!(stats["frames_gated"], 4);
}

/// First and last position of a track's bottom centre, and its duration.
#[derive(Debug)]
struct Passage {
    from: [f64; 2],
    to: [f64; 2],
    seconds: f64,
    class: String,
}

fn passages(events: &[Value]) -> Vec<Passage> {
    let point = |value: &Value| [value["x"].as_f64().unwrap(), value["y"].as_f64().unwrap()];
    let passage = |end: &&Value| Passage {
        from: point(&end["from"]),
        to: point(&end["to"]),
        seconds: end["seen_ms"].as_f64().unwrap() / 1000.0,
        class: end["class"].as_str().unwrap().to_owned(),
    };
    of_type(events, "track.end").iter().map(passage).collect()
}

fn run_video(shared: &Path, video: &str, settings: &str) -> Vec<Value> {
    let file = config(settings);
    let video = shared.join("video").join(video);
    let source = format!("exec:ffmpeg -v error -i '{}' -f yuv4mpegpipe -pix_fmt yuv420p -", video.display());
    let mut command = flytrap();
    command.args(["run", "--until-end", "--source", &source, "--config"]).arg(file.path());
    let output = output(command.arg("--model").arg(shared.join("models/yolo11n-320.onnx")));
    assert!(output.status.success(), "{}", describe(&output));
    let events = json_lines(&output);
    check_sequence(&events);
    events
}

struct Car {
    from: [f64; 2],
    to: [f64; 2],
    seconds: f64,
    what: &'static str,
    count: usize,
}

/// The cars of traffic.mp4 that a person can follow (examined picture by picture): first and last position of their wheels, minimum time in
/// the picture, and how many of them take that path. 1280x720, 161 frames, 30 a second.
const CARS: [Car; 7] = [
    Car {
        from: [306.0, 124.0],
        to: [306.0, 141.0],
        seconds: 5.3,
        what: "parked at the kerb from beginning to end",
        count: 1,
    },
    Car {
        from: [598.0, 266.0],
        to: [621.0, 715.0],
        seconds: 5.3,
        what: "the second car of the right lane, in sight to the end",
        count: 1,
    },
    Car {
        from: [635.0, 403.0],
        to: [672.0, 705.0],
        seconds: 3.1,
        what: "the first car of the right lane, leaves at the bottom",
        count: 1,
    },
    Car {
        from: [271.0, 364.0],
        to: [26.0, 714.0],
        seconds: 0.9,
        what: "the white car, leaves at the lower left",
        count: 1,
    },
    Car {
        from: [424.0, 205.0],
        to: [185.0, 719.0],
        seconds: 1.7,
        what: "the dark estate car behind it",
        count: 1,
    },
    Car {
        from: [374.0, 135.0],
        to: [40.0, 719.0],
        seconds: 2.1,
        what: "the next two, a second and a half apart",
        count: 2,
    },
    Car {
        from: [430.0, 124.0],
        to: [229.0, 714.0],
        seconds: 2.6,
        what: "the last one to reach the bottom",
        count: 1,
    },
];

#[test]
fn cars_keep_their_ids_through_the_clip() {
    let test = "cars_keep_their_ids_through_the_clip";
    let (Some(shared), true) = (shared(test), ffmpeg(test)) else { return };
    for fps in [6, 15] {
        let events = run_video(&shared, "traffic.mp4", &format!("[sampling]\nfps = {fps}\n"));
        let passages = passages(&events);
        let near = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]) < 35.0;
        for Car { from, to, seconds, what, count } in CARS {
            let fits = |p: &&Passage| near(p.from, from) && near(p.to, to) && p.seconds >= seconds;
            let found: Vec<_> = passages.iter().filter(fits).collect();
            assert_eq!(found.len(), count, "{fps} fps, {what}: {found:?} among {passages:#?}");
            assert_eq!(found[0].class, "car", "{what}");
        }
        // Others: one that shows at the right edge, and those that appear far away at the end.
        assert!(passages.len() <= 8 + 3, "{fps} fps: ids change: {passages:#?}");
        let resident = of_type(&events, "stats").last().unwrap()["rss_bytes"].as_u64().unwrap();
        assert!((20 << 20..128 << 20).contains(&resident), "{resident} bytes are resident");
        // All of them stay on one side of the middle.
        assert_eq!(crossings(&events), BTreeMap::new(), "{fps} fps");
    }
}

/// The gate skips inference on a still road, and the cars are detected all the same.
#[test]
fn inference_is_skipped_while_nothing_moves() {
    let test = "inference_is_skipped_while_nothing_moves";
    let (Some(shared), true) = (shared(test), ffmpeg(test)) else { return };
    let (gated, all) = (
        run_video(&shared, "car-detection.mp4", ""),
        run_video(&shared, "car-detection.mp4", "[gate]\nenabled = false\n"),
    );
    let stat = |events: &[Value], key: &str| of_type(events, "stats").last().unwrap()[key].as_u64().unwrap();
    let (still, frames) = (stat(&gated, "frames_still"), stat(&gated, "frames_gated"));
    let share = still as f64 / frames as f64;
    say(&format!("MEASURED car-detection.mp4: the network rested for {still} of {frames} frames"));
    assert!(share > 0.3, "{still} of {frames}");
    assert_eq!(stat(&all, "frames_still"), 0);
    assert_eq!(stat(&gated, "inferences") + still, frames);
    // Every track that lasts half a second or more without a gate also exists with it, at the same time.
    let spans = |events: &[Value]| {
        let time = |event: &Value| event["boottime"].as_str().unwrap().parse::<u64>().unwrap() as f64 / 1e9;
        let zero = time(events.iter().find(|event| event["type"] == "flytrap.camera.back").unwrap());
        let ends = events.iter().filter(|event| event["type"] == "flytrap.track.end");
        ends.map(|event| (time(event) - zero, event["data"]["seen_ms"].as_f64().unwrap() / 1000.0))
            .collect::<Vec<_>>()
    };
    let (with, without) = (spans(&gated), spans(&all));
    for (end, seconds) in without.iter().filter(|(_, seconds)| *seconds >= 0.5) {
        let found = with.iter().any(|(other, _)| (other - end).abs() < 1.5);
        assert!(found, "a track of {seconds} s that ended at {end} is missing with the gate: {with:?}");
    }
}
