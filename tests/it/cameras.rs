//! Several cameras in one process: `[[camera]]`, one network for all, and one that fails beside others that go on.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc;

use serde_json::Value;

use crate::common::daemon::Daemon;
use crate::common::{config, data, describe, flytrap, json_lines, output};

/// The events of a camera that follow from its pictures alone: type and data, in order.
fn seen_by(events: &[Value], camera: &str) -> Vec<(String, Value)> {
    let kind = |event: &Value| event["type"].as_str().unwrap().trim_start_matches("flytrap.").to_owned();
    let of_camera = |event: &&Value| event["source"].as_str().unwrap().ends_with(&format!("/{camera}"));
    let of_pictures = |kind: &str| kind.starts_with("track") || kind == "crossing";
    let events = events.iter().filter(of_camera).map(|event| (kind(event), event["data"].clone()));
    events.filter(|(kind, _)| of_pictures(kind)).collect()
}

/// Processes all sources of a configuration to their end.
fn process(text: &str) -> Vec<Value> {
    let file = config(&format!(
        "memory.budget_mb = 512\nuplink.target = \"stdout\"\nmodel.path = \"builtin\"\n{text}"
    ));
    let done = output(flytrap().args(["run", "--until-end", "--config"]).arg(file.path()));
    assert!(done.status.success(), "{}", describe(&done));
    json_lines(&done)
}

/// Four streets, of three shapes, with gate and regions of interest: what each camera finds is what it finds alone.
#[test]
fn cameras_of_one_process_find_what_each_finds_alone() {
    let cameras = [
        ("north", "sim:7,seconds=12,calm,day,overcast,traffic=3", ""),
        ("south", "sim:3,seconds=9,day,clear,size=480x640,traffic=3", "[camera.focus]\nenabled = true\n"),
        ("east", "sim:4,seconds=8,day,rain,traffic=3", "[camera.gate]\nenabled = false\n"),
        (
            "west",
            "sim:5,seconds=9,dusk,size=640x480,traffic=3",
            "[[camera.line]]\nname = \"lane\"\nfrom = [0.4, 1.0]\nto = [0.4, 0.0]\n",
        ),
    ];
    let table = |(name, source, own): &(&str, &str, &str)| {
        format!("[[camera]]\nname = \"{name}\"\nsource = \"{source}\"\n{own}")
    };
    let together = process(&cameras.iter().map(table).collect::<String>());
    let mut found = 0;
    for camera in &cameras {
        let alone = seen_by(&process(&table(camera)), camera.0);
        assert_eq!(seen_by(&together, camera.0), alone, "{}", camera.0);
        found += alone.len();
    }
    assert!(found > 20, "hardly anybody came: {found}");
    let lines: Vec<&str> = together.iter().filter_map(|event| event["data"]["line"].as_str()).collect();
    assert!(lines.contains(&"middle") && lines.contains(&"lane"), "{lines:?}");
}

/// A receiver that confirms everything; returns its address and what it got: path and body of each request.
fn influx() -> (SocketAddr, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    break;
                }
                let path = line.split(' ').nth(1).unwrap().to_owned();
                let mut length = 0;
                loop {
                    let mut header = String::new();
                    reader.read_line(&mut header).unwrap();
                    if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if header == "\r\n" {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                // Nobody listens any more when the test is over.
                let _sent = sender.send((path, String::from_utf8(body).unwrap()));
                reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            }
        }
    });
    (address, requests)
}

#[test]
fn each_camera_has_its_own_tags_and_bucket() {
    let (address, requests) = influx();
    let clip = format!("source = \"file:{}\"\n", data("squares.mjpeg"));
    let file = config(&format!(
        "[model]\npath = \"{}\"\n[uplink]\ntarget = \"http://{address}\"\nformat = \"influx2\"\ninflux_org = \"o\"\n\
         influx_bucket = \"all\"\n[[camera]]\nname = \"north\"\n{clip}tags = [\"road=A 7\", \"site=bridge\"]\n\
         influx_bucket = \"own\"\n[[camera]]\nname = \"south\"\n{clip}",
        data("squares.onnx")
    ));
    let done = output(flytrap().args(["run", "--until-end", "--config"]).arg(file.path()));
    assert!(done.status.success(), "{}", describe(&done));
    let mut lines = [0, 0];
    while let Ok((path, body)) = requests.try_recv() {
        let is_own = path.contains("bucket=own");
        assert!(is_own || path.contains("bucket=all"), "{path}");
        for line in body.lines() {
            assert_eq!(line.contains(",source=north"), is_own, "{path}: {line}");
            assert_eq!(line.contains(r",road=A\ 7,site=bridge"), is_own, "{line}");
            lines[usize::from(is_own)] += 1;
        }
    }
    assert!(lines[0] > 10 && lines[1] > 10, "{lines:?}");
}

/// Starts the program with the built-in model; `fault`: see src/platform/watchdog/fault.rs.
fn start(fault: &str, text: impl FnOnce(&Path) -> String) -> Daemon {
    let mut command = flytrap();
    command.env("FLYTRAP_FAULT", fault);
    Daemon::start(command, |folder| {
        format!(
            "memory.budget_mb = 512\nuplink.batch_age_max_s = 0.2\nevents.stats_interval_s = 1\nwatchdog.stage_timeout_s = 5\n{}",
            text(folder)
        )
    })
}

fn of(event: &Value, camera: &str, kind: &str) -> bool {
    event["type"] == format!("flytrap.{kind}")
        && event["source"].as_str().unwrap().ends_with(&format!("/{camera}"))
}

fn has(events: &[Value], camera: &str, kind: &str) -> bool {
    events.iter().any(|event| of(event, camera, kind))
}

/// Three more cameras beside one that works: one that is not there, one that sends garbage, and one whose thread hangs. Each is reported as
/// lost; the first one counts on.
#[test]
fn a_camera_that_fails_disturbs_no_other() {
    let street = "sim:7,calm,day,overcast,traffic=3";
    let text = format!(
        "camera = [\n  {{ name = \"good\", source = \"{street}\" }},\n  {{ name = \"hangs\", source = \"{street}\" }},\n  \
         {{ name = \"missing\", source = \"v4l2:/dev/there-is-none\" }},\n  \
         {{ name = \"garbage\", source = \"exec:sh -c 'cat {}; while head -c 4096 /dev/urandom; do sleep 0.1; done'\", idle_timeout_s = 2 }},\n]\n",
        data("squares.mjpeg")
    );
    let run = start("hang:capture1:3", |_| text);
    run.wait_for_events("all lost", |events| {
        ["hangs", "missing", "garbage"].iter().all(|camera| has(events, camera, "camera.lost"))
    });
    let tracks = |events: &[Value]| events.iter().filter(|event| of(event, "good", "track.begin")).count();
    let before = tracks(&run.events());
    let events = run.wait_for_events("counting on", |events| tracks(events) > before + 2);
    let reason = |camera: &str| {
        let lost = events.iter().find(|event| of(event, camera, "camera.lost")).unwrap();
        lost["data"]["reason"].as_str().unwrap().to_owned()
    };
    assert!(reason("hangs").contains("the capture of camera 'hangs' hangs"), "{}", reason("hangs"));
    assert!(reason("missing").contains("there-is-none"), "{}", reason("missing"));
    assert!(!has(&events, "good", "camera.lost"));
    let (_, _, log) = run.end();
    assert!(log.contains("the other cameras go on"), "{log}");
}

/// A camera that comes with frames of another shape when the network is in use: the network is planned for it too, and nobody notices.
#[test]
fn a_camera_with_another_shape_may_come_later() {
    let run = start("", |folder| {
        format!(
            "[[camera]]\nname = \"first\"\nsource = \"sim:7,calm,day,overcast,traffic=3\"\n\
             [[camera]]\nname = \"late\"\nsource = \"exec:cat {}\"\nrestart_cap_s = 1\n",
            folder.join("late.y4m").display()
        )
    });
    run.wait_for_events("started", |events| {
        has(events, "first", "track.begin") && has(events, "late", "camera.lost")
    });
    y4m(&run.path("late.y4m"), 240, 320);
    let events = run.wait_for_events("both there", |events| has(events, "late", "camera.back"));
    assert!(!has(&events, "first", "camera.lost"));
    let (_, _, log) = run.end();
    assert!(log.contains("built again beside the one that runs"), "{log}");
    assert!(log.contains("the network runs with more input sizes"), "{log}");
}

/// Grey frames that pause after each, 10 s of them.
fn y4m(path: &Path, width: usize, height: usize) {
    let mut bytes = format!("YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420\n").into_bytes();
    for _ in 0..250 {
        bytes.extend_from_slice(b"FRAME\n");
        bytes.extend(std::iter::repeat_n(128, width * height * 3 / 2));
    }
    let unfinished = path.with_extension("tmp");
    std::fs::write(&unfinished, bytes).unwrap();
    std::fs::rename(unfinished, path).unwrap();
}

#[test]
fn wrong_settings_of_cameras_are_refused_with_their_place() {
    let street = "source = \"sim:7\"\n";
    let nine: String = (0..9).map(|camera| format!("[[camera]]\nname = \"c{camera}\"\n{street}")).collect();
    for (text, why) in [
        (nine.as_str(), "9 cameras: there are at most 8"),
        (
            "[[camera]]\nname = \"a\"\n[[camera]]\nname = \"a\"\n",
            ":4: camera[1].name = \"a\": must be a name of its own",
        ),
        (
            "[[camera]]\nname = \"a\"\nsource = \"/dev/video0\"\n[[camera]]\nname = \"b\"\nsource = \"v4l2:/dev/video0\"\n",
            ":6: camera[1].source = \"v4l2:/dev/video0\": camera 'a' reads this device already: give each camera its own",
        ),
        (
            "[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"\n[camera.gate]\nhold_ms = -1\nhold = 1\n",
            ":6: camera[1].gate.hold_ms = -1: must be 0..=60000",
        ),
        (
            "[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"\n[camera.gate]\nhold_mss = 1\n",
            ":6: 'camera[1].gate.hold_mss' is not a setting; did you mean 'gate.hold_ms'?",
        ),
        (
            "[gate]\nhold_ms = -1\n[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"\n",
            ":2: gate.hold_ms = -1: must be",
        ),
    ] {
        let file = config(text);
        let done = output(flytrap().arg("check").arg(file.path()));
        assert_eq!(done.status.code(), Some(2), "{}", describe(&done));
        assert_eq!(
            String::from_utf8_lossy(&done.stderr).matches(why).count(),
            1,
            "{why}: {}",
            describe(&done)
        );
    }
    let file = config("[[camera]]\nname = \"a\"\n[[camera]]\nname = \"b\"\n");
    let done = output(flytrap().args(["run", "--source", "sim:1", "--config"]).arg(file.path()));
    assert!(describe(&done).contains("--source: the file has 2 cameras"), "{}", describe(&done));
    // All of them impossible: a person is there to read it.
    let file = config(
        "model.path = \"builtin\"\n[[camera]]\nname = \"a\"\nsource = \"file:/not/there.y4m\"\n[[camera]]\nname = \"b\"\nsource = \"sim:sunny\"\n",
    );
    let done = output(flytrap().args(["run", "--config"]).arg(file.path()));
    assert!(!done.status.success() && describe(&done).contains("/not/there.y4m"), "{}", describe(&done));
}
