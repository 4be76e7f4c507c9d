//! Streams and compressed recordings, against real servers: RTSP by live555MediaServer, SRT, HTTP and UDP by ffmpeg as the other end. Servers
//! are killed, come back, stall, and change the size of the picture.

mod server;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flytrap::base::error::{Class, Error};
use flytrap::base::stop::Stop;
use flytrap::capture::ffmpeg::Params;
use flytrap::capture::{Advance, CaptureParams, FrameSource, SourceSpec, Timing};
use flytrap::platform::clock::{Clock, Mono, SystemClock};
use serde_json::Value;

use self::server::{Answering, Rtsp, Server, free_port, in_own_network};
use crate::common::{
    config, crossings, data, describe, ffmpeg, flytrap, json_lines, of_type, output, shared, squares_truth,
};

/// Longest wait for an expected result.
const BOUND: Duration = Duration::from_secs(60);
/// 320x180, ten frames a second with B-frames, a key frame a second.
const CODED: &[&str] =
    &["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "10", "-pix_fmt", "yuv420p"];

fn wait_until(mut done: impl FnMut() -> bool, what: &str) {
    let begun = SystemClock.mono();
    while !done() {
        assert!(SystemClock.mono().since(begun) < BOUND, "waited without success for {what}");
        Stop::new().wait(Duration::from_millis(20));
    }
}

/// Runs ffmpeg to make a file.
fn make(path: &Path, arguments: &[&str]) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y"]).args(arguments).arg(path);
    let output = output(command.stdin(Stdio::null()));
    assert!(output.status.success(), "{arguments:?}: {}", describe(&output));
}

/// A test picture of this size for so many seconds, encoded as [`CODED`].
fn clip(folder: &Path, name: &str, size: &str, seconds: u32) -> PathBuf {
    let path = folder.join(name);
    let picture = format!("testsrc=size={size}:rate=10:duration={seconds}");
    make(&path, &[&["-f", "lavfi", "-i", &picture], CODED].concat());
    path
}

fn open(spec: &str, params: &CaptureParams) -> Result<Box<dyn FrameSource>, Error> {
    SourceSpec::parse(spec).and_then(|spec| spec.open(params, Arc::new(SystemClock)))
}

/// Capture times of all frames of a recording, relative to the first, and the frames' size.
fn times(spec: &str, params: &CaptureParams) -> (Vec<Duration>, (u32, u32)) {
    let mut source = open(spec, params).unwrap_or_else(|error| panic!("{spec}: {error}"));
    let mut times: Vec<Mono> = Vec::new();
    let size = (source.format().width, source.format().height);
    loop {
        match source.advance(BOUND).unwrap_or_else(|error| panic!("{spec}: {error}")) {
            Advance::Frame(meta) => times.push(meta.captured_at),
            Advance::End => break,
            Advance::Idle => panic!("{spec}: nothing for {BOUND:?}"),
        }
    }
    (times.iter().map(|at| at.since(times[0])).collect(), size)
}

/// `flytrap run` on a live source, with its events and its log in files. Ended when dropped.
struct Live {
    folder: tempfile::TempDir,
    child: Child,
}

impl Live {
    fn start(source: &str, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[uplink]\nbatch_age_max_s = 0.1\n[camera]\nidle_timeout_s = 3\nrestart_first_s = 1\nrestart_cap_s = 1\n{settings}"
        );
        std::fs::write(folder.path().join("flytrap.toml"), text).unwrap();
        let file = |name: &str| std::fs::File::create(folder.path().join(name)).unwrap();
        let child = flytrap()
            .args([
                "run",
                "--uplink",
                "stdout",
                "--model",
                &data("squares.onnx"),
                "--source",
                source,
                "--config",
            ])
            .arg(folder.path().join("flytrap.toml"))
            .stdout(file("events"))
            .stderr(file("log"))
            .spawn()
            .unwrap();
        Live { folder, child }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The data of all events of this type so far.
    fn events(&self, kind: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("events")).unwrap();
        // The last line may not be complete.
        let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        of_type(&events, kind).into_iter().cloned().collect()
    }

    /// Waits for the first frame; returns how often the camera was lost before, as while its server was not listening yet.
    fn wait_for_the_first(&mut self) -> usize {
        wait_until(
            || !self.events("camera.back").is_empty() || self.child.try_wait().unwrap().is_some(),
            "frames",
        );
        let lost = self.events("camera.lost").len();
        assert!(lost <= 1, "{}", self.log());
        self.wait(1, lost);
        lost
    }

    /// Waits for the camera to be reported back, and lost, so many times.
    fn wait(&mut self, back: usize, lost: usize) {
        let begun = SystemClock.mono();
        while (self.events("camera.back").len(), self.events("camera.lost").len()) != (back, lost) {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && SystemClock.mono().since(begun) < BOUND,
                "{ended:?}, waited for {back} camera.back, {lost} camera.lost: {:?} {:?}\n{}",
                self.events("camera.back"),
                self.events("camera.lost"),
                self.log()
            );
            Stop::new().wait(Duration::from_millis(20));
        }
    }

    /// Ids of the ffmpeg processes that it has started.
    fn children(&self) -> Vec<u32> {
        let place = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(place).unwrap().flatten();
        let lists =
            tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
        lists
            .flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>())
            .collect()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        let _sent_or_gone = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let _reaped = self.child.wait();
    }
}

/// Kill, return, stall, return.
fn kill_and_stall(source: &str, settings: &str, server: &mut Server) {
    let mut live = Live::start(source, settings);
    let before = live.wait_for_the_first();
    server.kill();
    live.wait(1, before + 1);
    server.start_again();
    live.wait(2, before + 1);
    server.stall();
    live.wait(2, before + 2);
    server.kill();
    server.start_again();
    live.wait(3, before + 2);
    for back in live.events("camera.back") {
        assert_eq!((&back["width"], &back["height"]), (&160.into(), &90.into()), "{back}");
    }
    for lost in live.events("camera.lost") {
        let reason = lost["reason"].as_str().unwrap();
        assert!(reason.starts_with("ffmpeg for ") && reason.contains("127.0.0.1"), "{reason}");
    }
}

#[test]
fn rtsp_survives_a_server_that_is_killed_and_one_that_stalls() {
    let test = "rtsp_survives_a_server_that_is_killed_and_one_that_stalls";
    if !ffmpeg(test) || !in_own_network(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    clip(folder.path(), "street.mkv", "320x180", 120);
    let Some(Rtsp { mut server, port }) = Rtsp::start(test, folder.path()) else { return };
    kill_and_stall(&format!("rtsp://127.0.0.1:{port}/street.mkv"), "", &mut server);
}

#[test]
fn srt_survives_a_server_that_is_killed_and_one_that_stalls() {
    let test = "srt_survives_a_server_that_is_killed_and_one_that_stalls";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path(), "street.ts", "320x180", 20);
    let secret = folder.path().join("passphrase");
    std::fs::write(&secret, "it's a secret!\n").unwrap();
    let port = free_port();
    let target = format!("srt://127.0.0.1:{port}?mode=listener");
    let mut server =
        Server::ffmpeg(&clip, &["-passphrase", "it's a secret!", "-f", "mpegts", &target], folder.path());
    let settings = format!("credentials_file = \"{}\"\n", secret.display());
    kill_and_stall(&format!("srt://127.0.0.1:{port}"), &settings, &mut server);
}

#[test]
fn http_survives_a_server_that_is_killed_and_one_that_stalls() {
    let test = "http_survives_a_server_that_is_killed_and_one_that_stalls";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path(), "street.ts", "320x180", 20);
    let address = format!("http://127.0.0.1:{}/street.ts", free_port());
    let mut server = Server::ffmpeg(&clip, &["-f", "mpegts", "-listen", "1", &address], folder.path());
    kill_and_stall(&address, "", &mut server);
}

#[test]
fn udp_survives_a_sender_that_is_killed_and_one_that_stalls() {
    let test = "udp_survives_a_sender_that_is_killed_and_one_that_stalls";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path(), "street.ts", "320x180", 20);
    let address = format!("udp://127.0.0.1:{}", free_port());
    let mut server = Server::ffmpeg(&clip, &["-f", "mpegts", &address], folder.path());
    kill_and_stall(&address, "", &mut server);
}

/// A camera that is switched to another resolution: with the same aspect ratio nothing happens, with another one it is opened again.
#[test]
fn a_stream_may_change_its_size() {
    let test = "a_stream_may_change_its_size";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let parts =
        ["320x180", "640x360", "240x180"].map(|size| clip(folder.path(), &format!("{size}.ts"), size, 4));
    let parts = parts.map(|part| std::fs::read(part).unwrap());
    let all = folder.path().join("all.ts");
    std::fs::write(&all, parts.concat()).unwrap();
    let address = format!("udp://127.0.0.1:{}", free_port());
    let mut live = Live::start(&address, "");
    let _server = Server::ffmpeg(&all, &["-f", "mpegts", &address], folder.path());
    let before = live.wait_for_the_first();
    live.wait(2, before + 1);
    let size = |back: &Value| (back["width"].as_u64().unwrap(), back["height"].as_u64().unwrap());
    let sizes: Vec<_> = live.events("camera.back").iter().map(size).collect();
    assert_eq!(sizes, [(160, 90), (160, 120)], "{}", live.log());
    let lost = live.events("camera.lost");
    assert!(lost[before]["reason"].as_str().unwrap().contains("of another shape than before"), "{lost:?}");
}

/// The frames of a live stream keep the sender's spacing, are not in the future, and only as many come as can be wanted.
#[test]
fn frames_of_a_stream_have_the_senders_times() {
    let test = "frames_of_a_stream_have_the_senders_times";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let picture = "testsrc=size=320x180:rate=30:duration=30";
    let clip = folder.path().join("street.ts");
    make(&clip, &[&["-f", "lavfi", "-i", picture], CODED].concat());
    let address = format!("http://127.0.0.1:{}/street.ts", free_port());
    let _server = Server::ffmpeg(&clip, &["-f", "mpegts", "-listen", "1", &address], folder.path());
    let params =
        CaptureParams { timing: Timing::Live, serve_fps: 5.0, serve_side: 160, ..CaptureParams::default() };
    let mut opened = None;
    wait_until(
        || {
            opened = open(&address, &params).ok();
            opened.is_some()
        },
        "the server",
    );
    let mut source = opened.unwrap();
    let mut times = Vec::new();
    while times.len() < 40 {
        if let Advance::Frame(meta) = source.advance(BOUND).unwrap() {
            assert!(meta.captured_at <= SystemClock.mono());
            times.push(meta.captured_at);
        }
    }
    // Every third frame of 30 a second: two for each of the five that are wanted. While a faster frame than all before comes, the offset
    // falls, so not every step is exact.
    let times = &times[10..];
    let exact =
        times.windows(2).filter(|pair| (98..=102).contains(&pair[1].since(pair[0]).as_millis())).count();
    let all = times[times.len() - 1].since(times[0]).as_millis();
    assert!(exact >= 20 && (2700..=3100).contains(&all), "{exact} of 29, {all} ms: {times:?}");
}

#[test]
fn frames_of_a_recording_have_its_own_times() {
    let test = "frames_of_a_recording_have_its_own_times";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // 10 frames of 30 a second, then every seventh: a variable rate, as of a phone.
    let path = folder.path().join("phone.mp4");
    let filter = "select='lt(n,10)+not(mod(n,7))'";
    let picture = ["-f", "lavfi", "-i", "testsrc=size=360x640:rate=30:duration=3", "-vf", filter];
    make(&path, &[&picture[..], &["-fps_mode", "passthrough"], CODED].concat());
    let expected: Vec<u64> = (0..90u64).filter(|n| *n < 10 || n % 7 == 0).collect();
    let (times, size) =
        times(&path.display().to_string(), &CaptureParams { serve_side: 320, ..CaptureParams::default() });
    assert_eq!(size, (180, 320), "half of it");
    let numbers: Vec<u64> = times.iter().map(|at| (at.as_secs_f64() * 30.0).round() as u64).collect();
    assert_eq!(numbers, expected);
    let error = times.iter().zip(&expected).map(|(at, n)| (at.as_secs_f64() - *n as f64 / 30.0).abs());
    assert!(error.fold(0.0, f64::max) < 2e-6, "{times:?}");
    // A picture smaller than the model's input stays as it is.
    let large = CaptureParams { serve_side: 1000, ..CaptureParams::default() };
    assert_eq!(super::streams::times(&format!("file:{}", path.display()), &large).1, (360, 640));
}

/// The same frames at the same times as through a program that writes yuv4mpeg, in every usual container.
#[test]
fn containers_give_the_same_frames() {
    let test = "containers_give_the_same_frames";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let first = clip(folder.path(), "x.mp4", "160x96", 3);
    let command = format!("exec:ffmpeg -v error -i '{}' -f yuv4mpegpipe -pix_fmt yuv420p -", first.display());
    let (expected, _) = times(&command, &CaptureParams::default());
    assert_eq!(expected.len(), 30);
    for name in ["x.mp4", "x.mkv", "x.avi", "x.ts", "x.mov"] {
        let path = folder.path().join(name);
        // AVI has no presentation times, so its streams do without B-frames.
        let codec = if name == "x.avi" { "mjpeg" } else { "copy" };
        if path != first {
            make(&path, &["-i", &first.display().to_string(), "-c:v", codec]);
        }
        let (found, _) = times(&path.display().to_string(), &CaptureParams::default());
        let far = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(
            found.len() == 30 && far <= Duration::from_millis(1),
            "{name}: {} frames, {far:?}",
            found.len()
        );
    }
}

#[test]
fn a_recording_is_counted_as_it_stands() {
    let test = "a_recording_is_counted_as_it_stands";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("squares.mp4");
    make(&path, &["-i", &data("squares.mjpeg"), "-c:v", "libx264", "-qp", "10", "-pix_fmt", "yuv420p"]);
    let output = output(flytrap().arg("run").arg(&path).args(["--model", &data("squares.onnx")]));
    assert!(output.status.success(), "{}", describe(&output));
    let events = json_lines(&output);
    assert_eq!(crossings(&events), squares_truth(), "{}", describe(&output));
}

/// The README's line, without a model or a setting.
#[test]
fn the_traffic_video_runs_as_it_stands() {
    let test = "the_traffic_video_runs_as_it_stands";
    let (Some(shared), true) = (shared(test), ffmpeg(test)) else { return };
    let output = output(flytrap().arg("run").arg(shared.join("video/traffic.mp4")));
    assert!(output.status.success(), "{}", describe(&output));
    assert!(describe(&output).contains("using the built-in detector"), "{}", describe(&output));
    let events = json_lines(&output);
    let stats = of_type(&events, "stats");
    let count = |key: &str| stats.last().unwrap()[key].as_u64().unwrap();
    // 161 frames at 30 a second, of which every fifth is wanted.
    assert_eq!((count("frames_captured"), count("frames_corrupt")), (161, 0), "{}", describe(&output));
    assert_eq!(161 - count("frames_skipped"), 33, "{}", describe(&output));
}

/// A server that wants a user: the password arrives, and is neither in the list of processes nor in the log nor in an event.
#[test]
fn credentials_reach_the_server_and_nothing_else() {
    let test = "credentials_reach_the_server_and_nothing_else";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("camera");
    std::fs::write(&secret, "joe:hunter2/@:?'é\n").unwrap();
    for scheme in ["rtsp", "http"] {
        let server = Answering::start();
        let source = format!("{scheme}://127.0.0.1:{}/live?channel=1", server.port);
        let settings = format!("credentials_file = \"{}\"\n[log]\nlevel = \"debug\"\n", secret.display());
        let mut live = Live::start(&source, &settings);
        // user:password in base64, as in RFC 7617.
        let sent = format!("Authorization: Basic {}", "am9lOmh1bnRlcjIvQDo/J8Op");
        wait_until(|| server.received().contains(&sent), "the password");
        let children = live.children();
        assert!(!children.is_empty(), "{}", live.log());
        for child in children {
            let line = std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            let environment = std::fs::read_to_string(format!("/proc/{child}/environ")).unwrap_or_default();
            assert!(!line.contains("hunter2") && !line.contains("127.0.0.1"), "{line}");
            assert!(!environment.contains("hunter2"), "{environment}");
        }
        server.refuse();
        live.wait(0, 1);
        let events = std::fs::read_to_string(live.folder.path().join("events")).unwrap();
        let log = live.log();
        assert!(log.contains("the camera is lost") && log.contains(scheme), "{log}");
        for text in [&events, &log] {
            assert!(!text.contains("hunter2") && !text.contains("am9lOmh1bnRlcjI"), "{text}");
        }
    }
}

#[test]
fn what_is_missing_is_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.mp4"), "no video").unwrap();
    let run = |source: &str, settings: &str, path: Option<&Path>| {
        let config = config(settings);
        let mut command = flytrap();
        command.args(["run", source, "--model", &data("squares.onnx"), "--config"]).arg(config.path());
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = output(&mut command);
        let text = String::from_utf8(output.stderr).unwrap();
        let line = text.lines().find(|line| line.starts_with("flytrap run: ")).unwrap_or_default().to_owned();
        (output.status.code(), line)
    };
    let video = folder.path().join("x.mp4").display().to_string();
    let absent = folder.path().join("absent.mkv").display().to_string();
    let settings = "[camera]\ncredentials_file = \"/no/such/file\"\n";
    for (source, settings, path, code, words) in [
        (&*video, "", Some(folder.path()), 4, "is not installed: apt-get install ffmpeg"),
        ("rtsp://127.0.0.1/1", "", Some(folder.path()), 4, "is not installed: apt-get install ffmpeg"),
        (&absent, "", None, 4, "absent.mkv' cannot be opened: check the path"),
        ("rtsp://127.0.0.1/1", settings, None, 2, "camera.credentials_file /no/such/file"),
        ("traffic", "", None, 2, "is file:traffic or dir:traffic meant?"),
    ] {
        let (status, line) = run(source, settings, path);
        assert_eq!(status, Some(code), "{source}: {line}");
        assert!(line.contains(words), "{source}: {line}");
    }
    let test = "what_is_missing_is_named_in_one_line";
    if ffmpeg(test) {
        let (status, line) = run(&video, "", None);
        assert_eq!(status, Some(4), "{line}");
        assert!(line.contains("Invalid data found"), "ffmpeg's own words: {line}");
    }
}

/// A setting that ffmpeg refuses, such as a decoder that the machine does not have, is reported with ffmpeg's own words.
#[test]
fn decoders_and_key_frames_are_set() {
    let test = "decoders_and_key_frames_are_set";
    if !ffmpeg(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = clip(folder.path(), "x.mp4", "160x96", 5).display().to_string();
    let with = |stream: Params| CaptureParams { stream, ..CaptureParams::default() };
    let (found, _) = times(&path, &with(Params { key_frames_only: true, ..Params::default() }));
    let seconds: Vec<u64> = found.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [0, 1, 2, 3, 4], "a key frame a second: {found:?}");
    let auto = flytrap::capture::ffmpeg::Decoding::Accelerated("auto");
    let (found, _) = times(&path, &with(Params { decoding: auto, ..Params::default() }));
    assert_eq!(found.len(), 50);
    let decoder = flytrap::capture::ffmpeg::Decoding::Decoder("hevc");
    let error = open(&path, &with(Params { decoding: decoder, ..Params::default() })).err().unwrap();
    assert_eq!(error.class(), Class::Retry, "{error}");
    assert!(error.to_string().contains("before its first frame"), "{error}");
}
