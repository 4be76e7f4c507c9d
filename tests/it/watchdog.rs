//! The whole program under watchdogs: messages to systemd, a hanging stage, the report at the next start. Injected faults come from the
//! environment, in test builds.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use flytrap::platform::clock::{Clock, Mono, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{self, config, data, flytrap, of_type};

/// Longest wait for an expected result.
const PATIENCE: Duration = Duration::from_secs(60);

fn now() -> Mono {
    SystemClock.mono()
}

/// A run on an endless recording, with a listening service manager.
struct Run {
    child: Child,
    heard: UnixDatagram,
    folder: tempfile::TempDir,
    _config: tempfile::NamedTempFile,
}

impl Drop for Run {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// `fault`: see src/platform/watchdog/fault.rs; "" for none. A watchdog time-out of 4 s: a keep-alive each second.
fn start(fault: &str, folder: tempfile::TempDir) -> Run {
    start_on(&format!("file:{}", data("squares.mjpeg")), fault, folder)
}

fn start_on(source: &str, fault: &str, folder: tempfile::TempDir) -> Run {
    start_with(&["--model", &data("squares.onnx"), "--source", source], fault, folder)
}

fn start_with(arguments: &[&str], fault: &str, folder: tempfile::TempDir) -> Run {
    start_as(flytrap(), arguments, fault, folder)
}

/// `command` is the program, possibly started through another one.
fn start_as(mut command: Command, arguments: &[&str], fault: &str, folder: tempfile::TempDir) -> Run {
    let state = folder.path().join("state");
    let file = config(&format!(
        "camera.at_end = \"loop\"\ndevice.state_folder = '{}'\nevents.stats_interval_s = 1\nuplink.batch_age_max_s = 0.2\n\
         watchdog.stage_timeout_s = 5\nuplink.drain_s = 2\n",
        state.display()
    ));
    let socket = folder.path().join("notify");
    let _not_there_yet = std::fs::remove_file(&socket);
    let heard = UnixDatagram::bind(&socket).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    let child = command
        .args(["run", "--config"])
        .arg(file.path())
        .args(arguments)
        .args(["--uplink", &format!("file:{}", folder.path().join("events").display())])
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "4000000")
        .env("FLYTRAP_FAULT", fault)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Run { child, heard, folder, _config: file }
}

impl Run {
    /// The next message that begins with `what`; others are skipped.
    fn hear(&self, what: &str) -> String {
        let mut buffer = [0; 4096];
        let first = now();
        loop {
            assert!(now().since(first) < PATIENCE, "no {what}, but other messages");
            let count = self.heard.recv(&mut buffer).unwrap_or_else(|error| panic!("no {what}: {error}"));
            let message = String::from_utf8(buffer[..count].to_vec()).unwrap();
            if message.starts_with(what) {
                return message;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end: returns status, stderr, events; and the folder for the next run.
    fn end(mut self) -> (ExitStatus, String, Vec<Value>, tempfile::TempDir) {
        let pid = Pid::from_child(&self.child);
        let (over, ended) = std::sync::mpsc::channel::<()>();
        // A program that does not end is killed, so that the test can report it.
        let impatient = std::thread::spawn(move || {
            let late = ended.recv_timeout(PATIENCE).is_err();
            if late {
                kill_process(pid, Signal::KILL).unwrap();
            }
            late
        });
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        let _gone = over.send(());
        assert!(!impatient.join().unwrap(), "it does not end: {stderr}");
        let events = events(self.folder.path());
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        (status, stderr, events, folder)
    }
}

fn events(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("events")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn systemd_gets_ready_keepalive_and_stopping_messages() {
    let run = start("", folder());
    run.hear("EXTEND_TIMEOUT_USEC=30000000");
    run.hear("READY=1");
    let (first, mut signs) = (now(), 0);
    while signs < 3 {
        let message = run.hear("");
        assert!(!message.starts_with("EXTEND"), "it has started");
        signs += u32::from(message == "WATCHDOG=1");
    }
    assert!(now().since(first) < Duration::from_secs(8), "a quarter of the time-out apart");
    let status = run.hear("STATUS=last frame: ");
    assert!(status.contains("last delivery: "), "{status}");
    run.signal(Signal::TERM);
    run.hear("STOPPING=1");
    let (status, stderr, events, folder) = run.end();
    assert!(status.success(), "{stderr}");
    assert!(of_type(&events, "restarted").is_empty(), "the first run restarts nothing");
    // The second run reports how the first ended.
    let run = start("", folder);
    run.hear("WATCHDOG=1");
    run.signal(Signal::TERM);
    let (.., events, _folder) = run.end();
    let restarts = of_type(&events, "restarted");
    assert_eq!(restarts[0]["starts"], 2);
    assert_eq!((&restarts[0]["failures"], &restarts[0]["clean"]), (&0.into(), &true.into()));
    assert_eq!(restarts[0]["reason"], "terminated");
}

#[test]
fn a_notify_socket_that_cannot_be_reached_is_a_warning() {
    for socket in ["/nowhere/notify", "@flytrap-nobody", &"/long".repeat(50)] {
        let output = common::run_squares().env("NOTIFY_SOCKET", socket).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains(&format!("NOTIFY_SOCKET={socket} cannot be reached")), "{stderr}");
        assert!(stderr.contains("Type=notify"), "the consequence is told: {stderr}");
    }
}

/// The watchdog acts although nobody reads the log: it does not wait for its own last log line.
#[test]
fn a_hang_is_recorded_while_nobody_reads_the_log() {
    let mut run = start("hang:pipeline:2", folder());
    let stderr = run.child.stderr.take().unwrap();
    rustix::pipe::fcntl_setpipe_size(&stderr, 4096).unwrap();
    let first = now();
    let status = loop {
        assert!(now().since(first) < PATIENCE, "it does not end");
        match run.child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::park_timeout(Duration::from_millis(50)),
        }
    };
    assert_eq!(status.code(), Some(1));
    let history = std::fs::read_to_string(run.folder.path().join("state/history.json")).unwrap();
    assert!(history.contains("the pipeline hangs"), "{history}");
    let events = events(run.folder.path());
    let last = of_type(&events, "stopping")[0]["reason"].as_str().unwrap();
    assert!(last.contains("the pipeline hangs"), "{last}");
}

/// A second process with the same state folder counts road users, but does not overwrite the history of the first.
#[test]
fn a_state_folder_has_one_owner() {
    let run = start("", folder());
    run.hear("READY=1");
    let file = config(&format!("device.state_folder = '{}'\n", run.folder.path().join("state").display()));
    let output = common::run_squares().arg("--config").arg(file.path()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("another flytrap uses it"), "{stderr}");
    run.signal(Signal::TERM);
    let (.., folder) = run.end();
    let history = std::fs::read_to_string(folder.path().join("state/history.json")).unwrap();
    assert!(history.contains("\"starts\":1") && history.contains("terminated"), "{history}");
}

#[test]
fn a_hung_stage_ends_the_feeding_and_is_named_by_the_next_start() {
    let runs =
        ["capture", "pipeline", "uplink"].map(|stage| (stage, start(&format!("hang:{stage}:2"), folder())));
    for (stage, run) in runs {
        let (status, stderr, events, folder) = run.end();
        assert_eq!(status.code(), Some(1), "{stage}: {stderr}");
        let hangs = format!("the {stage} hangs");
        let line = stderr.lines().find(|line| line.starts_with("flytrap run: ")).unwrap();
        assert!(line.contains(&hangs) && line.contains("supervisor"), "{line}");
        if stage != "uplink" {
            let last = of_type(&events, "stopping")[0]["reason"].as_str().unwrap();
            assert!(last.contains(&hangs), "{last}: the receiver is told too");
        }
        let run = start("", folder);
        run.hear("READY=1");
        run.hear("STATUS=");
        run.signal(Signal::TERM);
        let (.., events, _folder) = run.end();
        let restarts = of_type(&events, "restarted");
        assert_eq!((&restarts[0]["failures"], &restarts[0]["clean"]), (&1.into(), &false.into()), "{stage}");
        assert!(restarts[0]["reason"].as_str().unwrap().contains(&hangs), "{}", restarts[0]);
    }
}

#[test]
fn a_hung_main_thread_stops_the_feeding() {
    let run = start("hang:main:2", folder());
    run.hear("READY=1");
    let mut heard = 0;
    run.heard.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    while run.heard.recv(&mut [0; 4096]).is_ok() {
        heard += 1;
        assert!(heard < 20, "it goes on feeding");
    }
    assert!(heard > 0, "it fed before");
}

#[test]
fn slow_stages_are_not_hangs() {
    // Three seconds a frame, of the five that are allowed: for four times as long as it takes to detect a hang.
    let run = start("slow:pipeline:3", folder());
    run.hear("READY=1");
    let first = now();
    while now().since(first) < Duration::from_secs(20) {
        run.hear("WATCHDOG=1");
    }
    run.signal(Signal::TERM);
    let (status, stderr, events, _folder) = run.end();
    assert!(status.success(), "{stderr}");
    let stats = *of_type(&events, "stats").last().unwrap();
    let looked_at = stats["frames_gated"].as_u64().unwrap();
    assert!((3..10).contains(&looked_at), "{looked_at} frames in 20 s: it was slow, and it was alive");
}

#[test]
fn an_absent_camera_is_not_a_hang() {
    let run = start_on("v4l2:/dev/video-of-nobody", "", folder());
    run.hear("READY=1");
    let first = now();
    while now().since(first) < Duration::from_secs(12) {
        run.hear("WATCHDOG=1");
    }
    run.signal(Signal::TERM);
    let (status, stderr, events, _folder) = run.end();
    assert!(status.success(), "{stderr}");
    assert!(stderr.contains("the camera is still away"), "{stderr}");
    assert_eq!(of_type(&events, "camera.lost").len(), 1);
}

/// With frames to count, and while the camera is still absent.
#[test]
fn a_network_that_fails_its_self_test_is_never_ready() {
    for source in ["sim:7", "v4l2:/dev/video-of-nobody"] {
        let models = folder();
        let (model, hash) = common::damaged_model(models.path());
        let model = ["--model", model.to_str().unwrap(), "--model-sha256", &hash, "--source", source];
        let run = start_with(&model, "", folder());
        let heard = run.heard.try_clone().unwrap();
        let (status, stderr, ..) = run.end();
        assert_eq!(status.code(), Some(3), "{source}: {stderr}");
        assert!(stderr.contains("self-test failed"), "{source}: {stderr}");
        heard.set_nonblocking(true).unwrap();
        let (mut buffer, mut messages) = ([0; 4096], Vec::new());
        while let Ok(count) = heard.recv(&mut buffer) {
            messages.push(String::from_utf8(buffer[..count].to_vec()).unwrap());
        }
        let any = |what: &str| messages.iter().any(|message| message.contains(what));
        assert!(any("EXTEND_TIMEOUT_USEC") && !any("READY"), "{source}: {messages:?}");
    }
}

/// Without a terminal SIGHUP is a request to reload, which the service manager is told about (tests/it/reload.rs has what it does).
#[test]
fn a_hangup_without_a_terminal_reloads() {
    let Some(command) = common::without_terminal("a_hangup_without_a_terminal_reloads") else { return };
    let source = format!("file:{}", data("squares.mjpeg"));
    let run = start_as(command, &["--model", &data("squares.onnx"), "--source", &source], "", folder());
    run.hear("READY=1");
    run.signal(Signal::HUP);
    assert!(run.hear("RELOADING=1").contains("\nMONOTONIC_USEC="));
    run.hear("READY=1");
    for _ in 0..3 {
        run.hear("WATCHDOG=1");
    }
    run.signal(Signal::TERM);
    let (status, stderr, events, _folder) = run.end();
    assert!(status.success(), "{stderr}");
    assert!(stderr.contains("the configuration is reloaded: nothing changed"), "{stderr}");
    assert_eq!(of_type(&events, "stopping")[0]["reason"], "terminated");
}

/// `nohup flytrap run &`: an ignored SIGHUP stays ignored.
#[test]
fn an_ignored_hangup_stays_ignored() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_flytrap")]);
    let source = format!("file:{}", data("squares.mjpeg"));
    let run = start_as(command, &["--model", &data("squares.onnx"), "--source", &source], "", folder());
    run.hear("READY=1");
    run.signal(Signal::HUP);
    run.hear("WATCHDOG=1");
    run.signal(Signal::TERM);
    let (status, stderr, events, _folder) = run.end();
    assert!(status.success() && !stderr.contains("SIGHUP"), "{stderr}");
    assert_eq!(of_type(&events, "stopping")[0]["reason"], "terminated");
}

/// A terminal that is closed (or an ssh session that breaks) ends the program as SIGTERM does: everything is delivered.
#[test]
fn a_closed_terminal_ends_it_cleanly() {
    const NAME: &str = "a_closed_terminal_ends_it_cleanly";
    if common::without_terminal(NAME).is_none() {
        return;
    }
    if Command::new("script").arg("--version").output().is_err() {
        return common::skip(NAME, "script (util-linux) is not installed");
    }
    let folder = folder();
    let file =
        config("camera.at_end = \"loop\"\nevents.stats_interval_s = 1\nuplink.batch_age_max_s = 0.2\n");
    let line = format!(
        "echo $$ > {}; exec env --default-signal=HUP {} run --config {} --model {} --source file:{} --uplink file:{}",
        folder.path().join("pid").display(),
        env!("CARGO_BIN_EXE_flytrap"),
        file.path().display(),
        data("squares.onnx"),
        data("squares.mjpeg"),
        folder.path().join("events").display()
    );
    let mut terminal = Command::new("script")
        .args(["-q", "-c", &line, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = |what: &str| {
        let first = now();
        while of_type(&events(folder.path()), what).is_empty() {
            if now().since(first) >= PATIENCE {
                let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
                let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
                let _gone = kill_process(pid, Signal::KILL);
                panic!("no {what}");
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    };
    until("stats");
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    until("stopping");
    let events = events(folder.path());
    assert_eq!(of_type(&events, "stopping")[0]["reason"], "its terminal was closed");
    common::check_sequence(&events);
}

#[test]
fn a_kill_is_reported_by_the_next_start() {
    let run = start("", folder());
    run.hear("STATUS=");
    run.signal(Signal::KILL);
    let (.., folder) = run.end();
    let run = start("", folder);
    run.hear("STATUS=");
    run.signal(Signal::TERM);
    let (.., events, _folder) = run.end();
    let restarts = of_type(&events, "restarted");
    assert_eq!(restarts[0]["reason"], "killed, or crashed");
    assert_eq!((&restarts[0]["starts"], &restarts[0]["failures"]), (&2.into(), &1.into()));
}
