//! The command line: every kind of bad input gets one line with the place and the remedy, and the documented exit code.

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use flytrap::platform::clock::{Clock, Mono, SystemClock};
use rustix::process::{Pid, Signal};

use crate::common::{self, data, describe, flytrap, json_lines, of_type, output, run_squares};

/// Runs it and expects `code` and, on stderr, exactly one line of ours that has all of `words`.
fn refused(command: &mut Command, code: i32, words: &[&str]) -> String {
    let output = output(command);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", describe(&output));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let ours: Vec<&str> = stderr.lines().filter(|line| line.starts_with("flytrap ")).collect();
    assert_eq!(ours.len(), 1, "{command:?}: {stderr}");
    for word in words {
        assert!(ours[0].contains(word), "{command:?}: '{word}' is not in: {}", ours[0]);
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

fn file(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

fn detect(model: &str, pictures: &[&str]) -> Command {
    let mut command = flytrap();
    command.args(["detect", "--model", model]).args(pictures);
    command
}

fn run(source: &str) -> Command {
    let mut command = flytrap();
    command.args(["run", "--until-end", "--source", source, "--model"]).arg(data("squares.onnx"));
    command
}

#[test]
fn invalid_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let picture = data("pixels/420.jpg");
    refused(&mut detect("/nowhere/model.onnx", &[&picture]), 3, &["'/nowhere/model.onnx'", "--model"]);
    let unknown = file(folder.path(), "text.onnx", b"hello");
    refused(&mut detect(&unknown, &[&picture]), 3, &["text.onnx", "sha256", "--model-sha256"]);
    let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; // of "hello"
    refused(detect(&unknown, &[&picture]).args(["--model-sha256", hash]), 3, &["text.onnx", "ONNX"]);
    let squares = data("squares.onnx");
    refused(detect(&squares, &[&picture]).args(["--model-sha256", hash]), 3, &["squares.onnx", hash]);
    refused(detect(&squares, &[&picture]).args(["--model-sha256", "12"]), 2, &["--model-sha256", "64"]);
    // A good file, cut.
    let bytes = std::fs::read(&squares).unwrap();
    let half = file(folder.path(), "half.onnx", &bytes[..bytes.len() / 2]);
    let sum = output(Command::new("sha256sum").arg(&half));
    let sum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    refused(detect(&half, &[&picture]).args(["--model-sha256", &sum]), 3, &["half.onnx"]);
    let mut none = flytrap();
    refused(none.args(["detect", &picture]), 2, &["model.path", "--model"]);
}

/// int8 without ranges is refused with the option to give; a model that runs on tract does not need them.
#[test]
fn int8_needs_ranges() {
    let (squares, picture) = (data("squares.onnx"), data("pixels/420.jpg"));
    let mut detect = detect(&squares, &[&picture]);
    let words = ["squares.int8.toml", "flytrap calibrate", "--ranges", "fp16"];
    refused(detect.args(["--precision", "int8"]), 3, &words);
    let mut calibrate = flytrap();
    let folder = tempfile::tempdir().unwrap();
    let ranges = file(folder.path(), "r.toml", b"what was there before");
    calibrate.args(["calibrate", "--model", &squares, "--images", &data("pixels"), "--ranges", &ranges]);
    refused(&mut calibrate, 3, &["squares.onnx", "only tract", "fp32"]);
    assert_eq!(std::fs::read(&ranges).unwrap(), b"what was there before");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

/// Models of other kinds are identified, each with its remedy.
#[test]
fn models_of_other_kinds_are_refused_with_the_remedy() {
    let folder = std::fs::read_dir(data("other-models")).unwrap();
    let mut seen = 0;
    for entry in folder {
        let path = entry.unwrap().path();
        let sum = output(Command::new("sha256sum").arg(&path));
        let sum = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
        let words: &[&str] = match path.file_stem().unwrap().to_str().unwrap() {
            "segment" => &["'segment'", "detect"],
            "classifier" => &["detect", "export"],
            "end2end" => &["suppression", "end2end=False"],
            "yolov5" => &["objectness", "YOLO11"],
            "no-names" => &["names", "Ultralytics"],
            "two-inputs" => &["inputs"],
            "grey-input" => &["3 channels"],
            other => panic!("{other}: what is expected of it?"),
        };
        let path = path.display().to_string();
        refused(detect(&path, &[&data("pixels/420.jpg")]).args(["--model-sha256", &sum]), 3, words);
        seen += 1;
    }
    assert_eq!(seen, 7);
}

#[test]
fn invalid_pictures_are_skipped_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let text = file(folder.path(), "text.jpg", b"hello world, no picture");
    let bytes = std::fs::read(data("pixels/420.jpg")).unwrap();
    let half = file(folder.path(), "half.jpg", &bytes[..bytes.len() - 400]);
    let gone = folder.path().join("gone.jpg").display().to_string();
    let (good, squares) = (data("pixels/420.jpg"), data("squares.onnx"));
    let found = output(detect(&squares, &[&text, &half, &gone, &good]).arg("--json"));
    assert_eq!(found.status.code(), Some(4), "{}", describe(&found));
    let lines = json_lines(&found);
    assert_eq!(lines.len(), 1, "the good one is there all the same");
    assert_eq!(lines[0]["photo"], "420.jpg");
    let stderr = String::from_utf8(found.stderr).unwrap();
    for words in
        ["text.jpg': is not a JPEG or PNG", "half.jpg", "gone.jpg': cannot be opened", "3 of 4 pictures"]
    {
        assert!(stderr.contains(words), "{stderr}");
    }
    let lines = stderr.lines().filter(|line| !line.contains("runs on tract"));
    assert_eq!(lines.count(), 4, "{stderr}");
    refused(detect(&squares, &[&good]).args(["--out", &text]), 1, &["text.jpg", "permissions"]);
}

#[test]
fn invalid_sources_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    refused(&mut run("file:/nowhere.y4m"), 4, &["/nowhere.y4m", "check the path"]);
    refused(&mut run("tv:1"), 2, &["--source", "unknown scheme 'tv'", "file:FILE"]);
    refused(&mut run("rtmp://joe:secret@cam/1"), 2, &["exec:ffmpeg"]);
    refused(&mut run("rtsp://joe:secret@cam/a b"), 2, &["rtsp://***@cam", "%20"]);
    let film = file(folder.path(), "film.mp4", b"....ftypisom");
    // With ffmpeg: its words; without: how to install it.
    refused(&mut run(&format!("file:{film}")), 4, &["film.mp4", "ffmpeg"]);
    refused(&mut run("exec:no-such-program-anywhere -x"), 4, &["no-such-program-anywhere", "install"]);
    refused(
        &mut run("exec:sh -c 'echo out of film >&2; exit 3'"),
        4,
        &["ended with status 3", "out of film"],
    );
    let empty = folder.path().display().to_string();
    refused(&mut run(&format!("dir:{empty}/nothing")), 4, &["nothing"]);
    let raw = file(folder.path(), "a.yuv", &[0; 100]);
    refused(&mut run(&format!("file:{raw}")), 2, &["a.yuv", "width"]);
    let mut none = flytrap();
    refused(none.args(["run", "--model"]).arg(data("squares.onnx")), 2, &["camera.source", "--source"]);
}

/// A program that dies in the middle of a frame: an error, but the crossings before it are delivered.
#[test]
fn crossings_before_a_source_dies_are_delivered() {
    let squares = data("squares.mjpeg");
    let length = std::fs::metadata(&squares).unwrap().len() / 2;
    let script = format!("exec:sh -c 'head -c {length} \"{squares}\"; echo the cable broke >&2; exit 7'");
    let folder = tempfile::tempdir().unwrap();
    let config = file(folder.path(), "flytrap.toml", b"[camera]\nfps = \"10\"\n");
    let output = output(run(&script).args(["--config", &config]));
    assert_eq!(output.status.code(), Some(4), "{}", describe(&output));
    let events = json_lines(&output);
    let counted = of_type(&events, "crossing").len();
    assert!(counted >= 2, "{counted} crossings in the first half");
    assert_eq!(events.last().unwrap()["type"], "flytrap.stopping");
    let reason = events.last().unwrap()["data"]["reason"].as_str().unwrap();
    assert!(reason.contains("the cable broke"), "{reason}");
    assert_eq!(of_type(&events, "track.begin").len(), of_type(&events, "track.end").len());
}

#[test]
fn invalid_pins_and_watchdogs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = b"[gpio]\nstatus_led = 17\nlight = 17\nchip = \"gpio\"\ninverted = [\"lamp\"]\n[watchdog]\ntimeout_s = 2\n\
        [camera]\ncontrols = [\"brightness\"]\n";
    let wrong = file(folder.path(), "pins.toml", text);
    let output = output(flytrap().args(["check", &wrong]));
    assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for words in [
        "pins.toml:2: gpio.status_led: each pin can do one thing only",
        "pins.toml:4: gpio.chip = \"gpio\": must be \"auto\"",
        "pins.toml:5: gpio.inverted = [\"lamp\"]: 'lamp' must be one of status_led",
        "pins.toml:7: watchdog.timeout_s = 2: must be 5..=3600",
        "pins.toml:9: camera.controls = [\"brightness\"]: 'brightness' must be NAME = VALUE",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    assert_eq!(stderr.lines().count(), 5, "{stderr}");
    refused(flytrap().args(["pins", "3", "--chip", "/dev/null"]), 1, &["gpio.chip", "/dev/null"]);
    refused(flytrap().args(["pins", "3", "--chip", "gpio0"]), 2, &["--chip gpio0", "/dev/gpiochip0"]);
    let none = file(folder.path(), "none.toml", b"[watchdog]\ndevice = \"/dev/null\"\n");
    refused(
        run_squares().args(["--config", &none]),
        1,
        &["'/dev/null' is not a watchdog", "watchdog.device"],
    );
}

#[test]
fn invalid_configurations_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = file(
        folder.path(),
        "wrong.toml",
        b"[camera]\nwidht = 640\n[gate]\ninclude = [[[0, 0], [9, 9], [1, 0]]]\n[track]\nhits_min = \"two\"\n",
    );
    let output = output(flytrap().args(["check", &wrong]));
    assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for words in [
        "wrong.toml:2: 'camera.widht' is not a setting; did you mean 'camera.width'?",
        "wrong.toml:4: gate.include",
        "wrong.toml:6: track.hits_min",
    ] {
        assert!(stderr.contains(words), "{stderr}");
    }
    assert_eq!(stderr.lines().count(), 3, "one line a mistake: {stderr}");
    let syntax = file(folder.path(), "syntax.toml", b"[camera\n");
    refused(flytrap().args(["check", &syntax]), 2, &["syntax.toml:1"]);
    refused(flytrap().args(["check", "/nowhere.toml"]), 2, &["/nowhere.toml", "check the path"]);
    let budget = file(folder.path(), "small.toml", b"[memory]\nbudget_mb = 16\n");
    refused(
        run_squares().args(["--config", &budget]),
        2,
        &["memory.budget_mb allows 16.0 MiB", "event queue"],
    );
    let classes = file(folder.path(), "classes.toml", b"[track]\nclasses = [\"lorry\"]\n");
    refused(run_squares().args(["--config", &classes]), 2, &["track.classes", "lorry", "car"]);
    let token = file(
        folder.path(),
        "token.toml",
        b"[uplink]\ntarget = \"http://127.0.0.1:9/\"\ntoken_file = \"/nowhere/token\"\n",
    );
    refused(run_squares().args(["--config", &token]), 2, &["/nowhere/token"]);
    let plain = file(folder.path(), "plain", b"");
    let model = data("squares.onnx");
    let spool = format!(
        "[camera]\nsource = \"dir:/\"\n[model]\npath = \"{model}\"\n[spool]\nfolder = \"{plain}/a/b\"\n"
    );
    let spool = file(folder.path(), "spool.toml", spool.as_bytes());
    refused(flytrap().args(["check", &spool]), 2, &["spool.folder", "plain' is not a folder"]);
    refused(run_squares().args(["--uplink", "ftp://joe:secret@h/"]), 2, &["--uplink", "https://"]);
}

#[test]
fn check_prints_what_is_in_force_and_reads_back() {
    let defaults = output(flytrap().arg("check"));
    assert!(defaults.status.success());
    let text = String::from_utf8(defaults.stdout).unwrap();
    assert!(
        text.contains("track.lost_after_s = 2.0") && text.contains("line[0].name = \"middle\""),
        "{text}"
    );
    let folder = tempfile::tempdir().unwrap();
    let model = data("squares.onnx");
    let good = format!("camera.source = \"file:{}\"\nmodel.path = \"{model}\"\n", data("squares.mjpeg"));
    let good = file(folder.path(), "good.toml", good.as_bytes());
    let checked = output(flytrap().args(["check", &good]));
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", describe(&checked));
    assert!(output(flytrap().args(["run", "--until-end", "--config", &good])).status.success());
}

#[test]
fn secrets_stay_out_of_all_output() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[camera]\nsource = \"exec:sh -c 'exit 1' rtsp://joe:secret@cam/1\"\n[log]\nlevel = \"debug\"\n[uplink]\ntarget = \"https://h.example/x?token=secret\"\n";
    let config = file(folder.path(), "flytrap.toml", text.as_bytes());
    let checked = output(flytrap().args(["check", &config]));
    let mut command = flytrap();
    command
        .args(["run", "--until-end", "--uplink", "stdout", "--config", &config, "--model"])
        .arg(data("squares.onnx"));
    let ran = output(&mut command);
    for output in [&checked, &ran] {
        assert!(!describe(output).contains("secret"), "{}", describe(output));
    }
    assert!(describe(&ran).contains("rtsp://***@cam"), "{}", describe(&ran));
}

/// Every way to pass a password to a program or a URL, in the settings and in the program's output before it fails.
#[test]
fn passwords_of_every_kind_are_masked() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = [
        "http://cam/snap?user=joe&pwd=s3cret&ch=1",
        "rtsp://cam/user=joe_password=s3cret_channel=1",
        "-u joe:s3cret http://cam/1",
        "-H \"Authorization: Basic s3cret=\" http://cam/1",
        "--password s3cret",
        "-fsSku joe:s3cret http://cam/1",
        "--oauth2-bearer s3cret http://cam/1",
        "-u joe s3cret rtsp://cam/1",
        "rtsp://joe:s3/cret@cam/1",
    ];
    for (number, arguments) in kinds.into_iter().enumerate() {
        let script = "printf \"cannot open %s\\n\" \"$*\" >&2; exit 1";
        let source = format!("exec:sh -c '{script}' sh {arguments}");
        let text = format!("[camera]\nsource = '''\n{source}'''\n[log]\nlevel = \"debug\"\n");
        let config = file(folder.path(), &format!("{number}.toml"), text.as_bytes());
        let checked = output(flytrap().args(["check", &config]));
        let mut command = flytrap();
        command.args(["run", "--until-end", "--config", &config, "--model"]).arg(data("squares.onnx"));
        let ran = output(&mut command);
        assert_eq!(ran.status.code(), Some(4), "{}", describe(&ran));
        for output in [&checked, &ran] {
            assert!(describe(output).contains("***"), "{arguments}: {}", describe(output));
            assert!(!describe(output).contains("cret"), "{arguments}: {}", describe(output));
        }
        assert!(describe(&ran).contains("cannot open"), "text without secrets is shown: {}", describe(&ran));
    }
}

/// A token file that others can read causes a warning; one with the right mode does not.
#[test]
fn a_token_that_others_can_read_is_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let token = file(folder.path(), "token", b"s3cret");
    let text = format!(
        "[uplink]\ntoken_file = \"{token}\"\ndrain_s = 0\nwhole_timeout_s = 2\nconnect_timeout_s = 1\nresponse_timeout_s = 1\n"
    );
    let config = file(folder.path(), "flytrap.toml", text.as_bytes());
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        std::fs::set_permissions(&token, Permissions::from_mode(mode)).unwrap();
        let ran = output(run_squares().args(["--config", &config, "--uplink", "http://127.0.0.1:9/"]));
        let has_warned = describe(&ran).contains("other users of this device can read it");
        assert_eq!(has_warned, warned, "{mode:o}: {}", describe(&ran));
        assert!(!describe(&ran).contains("s3cret"), "{}", describe(&ran));
    }
}

/// A log that cannot be written costs only the log: a full disk, a reader that is gone, one that does not read.
#[test]
fn nobody_depends_on_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let gone = std::io::pipe().unwrap().1;
    let (unread, small) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&small, 4096).unwrap();
    // The pipe is full before the first line.
    rustix::io::write(&small, &[b'x'; 4096]).unwrap();
    for (name, stderr) in [("full", full().into()), ("gone", gone.into()), ("unread", Stdio::from(small))] {
        let events = folder.path().join(name);
        let mut command = run_squares();
        command.args(["--uplink", &format!("file:{}", events.display())]).stderr(stderr);
        let status = command.status().unwrap();
        assert!(status.success(), "{name}: {status}");
        let text = std::fs::read_to_string(&events).unwrap();
        let events: Vec<_> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        common::check_sequence(&events);
        assert_eq!(common::crossings(&events), common::squares_truth(), "{name}");
    }
    drop(unread);
    // Commands that end by themselves do not abort either.
    let mut command = detect(&data("squares.onnx"), &[&data("pixels/420.jpg"), "/nowhere.jpg"]);
    assert_eq!(command.stderr(full()).status().unwrap().code(), Some(4));
}

/// Writes many lines to its stderr, which the debug log repeats: more than the log's queue holds.
const FLOOD: &str =
    "i=0; while [ $i -lt 9000 ]; do echo a line of some length about nothing at all $i >&2; i=$((i+1)); done";

/// A flood of debug lines that nobody reads: counting goes on, and SIGTERM ends the program in time.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[camera]\nat_end = \"loop\"\nfps = \"10\"\n[log]\nlevel = \"debug\"\n[events]\nstats_interval_s = 1\n\
                [uplink]\nbatch_age_max_s = 0.2\ndrain_s = 2\n";
    let config = file(folder.path(), "flytrap.toml", text.as_bytes());
    let events = folder.path().join("events");
    let script = format!("{FLOOD}; while cat \"{}\"; do echo again >&2; done", data("squares.mjpeg"));
    let child = flytrap()
        .args(["run", "--config", &config, "--model", &data("squares.onnx")])
        .args(["--source", &format!("exec:sh -c '{script}'")])
        .args(["--uplink", &format!("file:{}", events.display())])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let child = &mut running.0;
    let patience = |first: Mono, seconds: u64, what: &str| {
        assert!(SystemClock.mono().since(first).as_secs() < seconds, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    };
    let text = || std::fs::read_to_string(&events).unwrap_or_default();
    let first = SystemClock.mono();
    while text().lines().filter(|line| line.contains("flytrap.stats")).count() < 5 {
        patience(first, 60, "it has stopped");
    }
    let mut stderr = child.stderr.take().unwrap();
    rustix::process::kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    let first = SystemClock.mono();
    while child.try_wait().unwrap().is_none() {
        patience(first, 20, "SIGTERM is without effect");
    }
    assert!(child.wait().unwrap().success());
    assert!(
        text().lines().last().unwrap().contains("flytrap.stopping"),
        "{}",
        text().lines().last().unwrap()
    );
    let mut log = String::new();
    stderr.read_to_string(&mut log).unwrap();
    assert!(log.len() < 100_000, "only what the pipe holds: {}", log.len());
}

/// Events on a standard output that nobody reads: the watchdog stays fed, and SIGTERM ends the program in time.
#[test]
fn a_standard_output_that_nobody_reads_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[camera]\nat_end = \"loop\"\nfps = \"10\"\n[events]\nstats_interval_s = 1\n\
                [uplink]\nbatch_age_max_s = 0.2\ndrain_s = 1\n";
    let config = file(folder.path(), "flytrap.toml", text.as_bytes());
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let child = flytrap()
        .args(["run", "--config", &config, "--model", &data("squares.onnx"), "--uplink", "stdout"])
        .args(["--source", &format!("file:{}", data("squares.mjpeg"))])
        .stdout(writer)
        .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let patience = |first: Mono, what: &str| {
        assert!(SystemClock.mono().since(first).as_secs() < 60, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    };
    let first = SystemClock.mono();
    // A pipe of one page takes more only when it is empty.
    while rustix::io::ioctl_fionread(&reader).unwrap() == 0 {
        patience(first, "nothing is written");
    }
    // Longer than it takes to have something more to write.
    std::thread::park_timeout(Duration::from_secs(3));
    assert!(running.0.try_wait().unwrap().is_none(), "it has ended");
    rustix::process::kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
    let first = SystemClock.mono();
    while running.0.try_wait().unwrap().is_none() {
        patience(first, "SIGTERM is without effect");
    }
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(5), "events that nobody took are reported: {log}");
    assert!(log.contains("not delivered to stdout within uplink.drain_s"), "{log}");
}

/// A counting line along the picture's edge is warned about before and while it counts.
#[test]
fn a_line_along_the_edge_is_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let line = "[[line]]\nname = \"gate\"\nfrom = [0.0, 0.97]\nto = [1.0, 0.97]\n";
    let config = file(folder.path(), "flytrap.toml", line.as_bytes());
    let warning = "line 'gate' lies within";
    let checked = output(flytrap().args(["check", &config]));
    assert!(checked.status.success() && describe(&checked).contains(warning), "{}", describe(&checked));
    let ran = output(run_squares().args(["--config", &config, "--uplink", "file:/dev/null"]));
    assert!(ran.status.success() && describe(&ran).contains(warning), "{}", describe(&ran));
}

/// A reader that comes back is told how many lines are missing.
#[test]
fn lost_log_lines_are_reported_when_the_reader_returns() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(folder.path(), "flytrap.toml", b"[log]\nlevel = \"debug\"\n");
    let ready = folder.path().join("ready");
    let script = format!("{FLOOD}; echo > {}; exec sleep 60", ready.display());
    let child = flytrap()
        .args(["run", "--config", &config, "--model", &data("squares.onnx"), "--uplink", "file:/dev/null"])
        .args(["--source", &format!("exec:sh -c '{script}'")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    while !ready.exists() {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let (mut seen, mut lost) = (0, 0);
    // Every line of the flood is there or counted; the program's other lines are some dozens.
    for line in BufReader::new(running.0.stderr.take().unwrap()).lines().map(Result::unwrap) {
        seen += u64::from(line.contains("about nothing at all"));
        if line.contains("log lines were lost") {
            assert!(line.contains("ERROR"), "{line}");
            lost += line.rsplit("lines=").next().unwrap().trim().parse::<u64>().unwrap();
        }
        if seen + lost >= 9000 {
            break;
        }
    }
    assert!(lost > 1000 && seen > 100 && seen + lost < 9100, "{lost} lost, {seen} seen");
}

/// A program that is killed when the test ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Too few threads or descriptors: one line with the remedy, or it works; never a panic. As another user, since root has no limit of
/// threads; each run as a different user, since the limit counts a user's threads.
#[test]
fn shortages_of_threads_and_descriptors_are_reported() {
    const NAME: &str = "shortages_of_threads_and_descriptors_are_reported";
    let root = rustix::process::getuid().is_root();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    // Where another user can reach them.
    let copy = |from: &str, name: &str| {
        let to = folder.path().join(name);
        std::fs::copy(from, &to).unwrap();
        to.display().to_string()
    };
    let program = copy(env!("CARGO_BIN_EXE_flytrap"), "flytrap");
    let (model, film) = (copy(&data("squares.onnx"), "m.onnx"), copy(&data("squares.mjpeg"), "s.mjpeg"));
    let threads = (1..=12).map(|threads| (format!("ulimit -u {threads}"), root, "TasksMax="));
    // With fewer than these not even the C library can be loaded.
    let files = [8, 12, 20, 63].map(|files| (format!("ulimit -n {files}"), true, "LimitNOFILE="));
    let mut runs = Vec::new();
    for (number, (limit, can, remedy)) in threads.chain(files).enumerate() {
        if !can {
            common::skip(NAME, "only root can be another user");
            continue;
        }
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{limit} && exec \"$@\""), "bash", &program, "run", "--until-end"]);
        command.args(["--model", &model, "--source", &format!("file:{film}")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if root {
            command.uid(54_000 + number as u32).gid(54_000);
        }
        runs.push((limit, remedy, command.spawn().unwrap()));
    }
    let mut failed = 0;
    for (limit, remedy, child) in runs {
        let output = child.wait_with_output().unwrap();
        let text = describe(&output);
        assert!(!text.contains("panicked"), "{limit}: {text}");
        match output.status.code() {
            Some(0) => {}
            Some(1) => {
                let ours: Vec<&str> = text.lines().filter(|line| line.starts_with("flytrap run: ")).collect();
                assert_eq!(ours.len(), 1, "{limit}: {text}");
                assert!(ours[0].contains(remedy), "{limit}: {text}");
                failed += 1;
            }
            other => panic!("{limit}: {other:?}: {text}"),
        }
    }
    assert!(failed >= 4, "only {failed} runs were short of anything");
}

/// No core dump, to a file or a program, and no files that others may write to, whatever the umask.
#[test]
fn nothing_leaks_through_dumps_or_modes() {
    let folder = tempfile::tempdir().unwrap();
    let (limits, place) = (folder.path().join("limits"), folder.path().display());
    let text = format!(
        "[device]\nstate_folder = \"{place}/state\"\n[spool]\nfolder = \"{place}/spool\"\n[camera]\nfps = \"10\"\n"
    );
    let config = file(folder.path(), "flytrap.toml", text.as_bytes());
    let script = format!("cat /proc/$PPID/limits > {}; cat {}", limits.display(), data("squares.mjpeg"));
    let mut command = Command::new("sh");
    command.args(["-c", "umask 000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_flytrap"), "run", "--until-end"]);
    command.args(["--config", &config, "--model", &data("squares.onnx")]);
    command.args([
        "--source",
        &format!("exec:sh -c '{script}'"),
        "--uplink",
        &format!("file:{place}/events"),
    ]);
    let ran = output(&mut command);
    assert!(ran.status.success(), "{}", describe(&ran));
    let limits = std::fs::read_to_string(&limits).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core")).unwrap();
    assert!(matches!(core.split_whitespace().nth(4), Some("0" | "1")), "{core}");
    let (mut seen, mut folders) = (0, vec![folder.path().to_owned()]);
    while let Some(place) = folders.pop() {
        for entry in std::fs::read_dir(place).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            let mode = metadata.permissions().mode();
            assert_eq!(mode & 0o022, 0, "{} has mode {mode:o}", entry.path().display());
            seen += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    assert!(seen >= 7, "{seen} files");
}

#[test]
fn help_and_version_go_to_stdout() {
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = output(flytrap().args(args));
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(), "{args:?}");
    }
    let wrong = output(flytrap().args(["run", "--no-such-option"]));
    assert_eq!(wrong.status.code(), Some(2));
    let logs = output(run_squares().arg("--json"));
    let stderr = String::from_utf8(logs.stderr).unwrap();
    assert!(stderr.lines().count() > 3);
    for line in stderr.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

/// A closed stdout must not cause a hang or a wrong exit code.
#[test]
fn a_closed_stdout_is_an_error_not_a_hang() {
    let mut command = run_squares();
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let folder = tempfile::tempdir().unwrap();
    let config = file(folder.path(), "flytrap.toml", b"[uplink]\ndrain_s = 1\n");
    let mut child = command.args(["--config", &config]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", describe(&output));
}

#[test]
fn invalid_cameras_are_refused_and_the_list_works_without_any() {
    let list = output(flytrap().args(["cameras", "--json"]));
    assert!(list.status.success(), "{}", describe(&list));
    for camera in json_lines(&list) {
        assert!(camera["node"].as_str().unwrap().starts_with("/dev/video"), "{camera}");
    }
    for (source, words) in [
        ("v4l2:/dev/null", "camera '/dev/null': is not a video device"),
        ("/dev/video-not-there", "camera '/dev/video-not-there': cannot be opened: check the path"),
    ] {
        let mut command = flytrap();
        command.args(["run", "--until-end", "--source", source, "--model"]).arg(data("squares.onnx"));
        let output = output(&mut command);
        assert_eq!(output.status.code(), Some(4), "{}", describe(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{}", describe(&output));
    }
}

/// The batch in a golden file.
fn golden_batch(name: &str) -> Vec<u8> {
    let hex = std::fs::read_to_string(common::data(name)).unwrap();
    let hex = hex.trim();
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// Batches of both versions, as in the unit tests, decode to the golden CloudEvents.
#[test]
fn decode_makes_cloudevents_of_packed_batches() {
    let (first, second) = (golden_batch("batch-v1.hex"), golden_batch("batch-v2.hex"));
    let folder = tempfile::tempdir().unwrap();
    let decode = |bytes: &[u8]| output(flytrap().arg("decode").arg(file(folder.path(), "batch", bytes)));
    let golden = std::fs::read_to_string(common::data("cloudevents-v2.json")).unwrap();
    let golden: Vec<serde_json::Value> = serde_json::from_str(&golden).unwrap();
    let mut older = golden.clone();
    for event in &mut older {
        // Counters that version 1 did not have are 0.
        for key in [
            "detections_invalid",
            "detections_over_limit",
            "detections_duplicate",
            "processing_sum_us",
            "frames_repaired",
            "log_lines_dropped",
            "newer",
        ] {
            if let Some(value) = event["data"].get_mut(key) {
                *value = 0.into();
            }
        }
    }
    assert_ne!(older, golden);
    let out = decode(&[&first[..], &second[..], &first[..]].concat());
    assert!(out.status.success(), "{}", describe(&out));
    assert_eq!(common::json_lines(&out), [&older[..], &golden[..], &older[..]].concat());
    let mut newer = second;
    newer[3] = b'4';
    for (tail, words) in
        [(&first[..100], "the batch ends too early"), (&newer[..], "the batch is of version 4")]
    {
        let out = decode(&[&first[..], tail].concat());
        let lines = common::json_lines(&out).len();
        assert_eq!((lines, out.status.code()), (older.len(), Some(2)), "{}", describe(&out));
        let expected = format!("byte {}: {words}", first.len());
        assert!(describe(&out).contains(&expected), "{expected}: {}", describe(&out));
    }
}

#[test]
fn bench_measures_each_stage() {
    let squares = data("squares.onnx");
    let bench =
        |more: &[&str]| output(flytrap().args(["bench", "--model", &squares, "--frames", "2"]).args(more));
    let found = bench(&["--json"]);
    assert!(found.status.success(), "{}", describe(&found));
    let lines = json_lines(&found);
    let object = &lines[0];
    for stage in ["letterbox_ms", "infer_ms", "decode_ms", "whole_ms"] {
        let times = &object["stages"][stage];
        let [min, p50, p99] = ["min", "p50", "p99"].map(|part| times[part].as_f64().unwrap());
        assert!(0.0 < min && min <= p50 && p50 <= p99, "{stage}: {times}");
    }
    assert!(
        object["rss_mb"].as_f64().unwrap() > 1.0 && object["start_ms"].as_f64().unwrap() > 0.0,
        "{object}"
    );
    let table = bench(&[]);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.contains("letterbox") && text.contains("p99"), "{text}");
    // For readers of the output: this build is not fully optimised.
    if let Some(shared) = common::shared("bench_measures_each_stage (YOLO11n)") {
        let model = shared.join("models/yolo11n-320.onnx");
        let found = output(flytrap().args(["bench", "--json", "--frames", "10", "--model"]).arg(model));
        common::say(&format!(
            "MEASURED bench, test build: {}",
            String::from_utf8(found.stdout).unwrap().trim()
        ));
    }
    refused(flytrap().args(["bench", "--model", &squares, "--frames", "0"]), 2, &["--frames", "1 or more"]);
    refused(flytrap().args(["bench", "--model", &squares, "--threads", "99"]), 2, &["model.threads"]);
    refused(flytrap().args(["bench"]), 2, &["--model"]);
}
