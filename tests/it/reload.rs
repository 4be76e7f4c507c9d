//! A changed configuration is applied while the program runs: SIGHUP.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use flytrap::platform::clock::{Clock, Mono, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{self, check_sequence};

/// Longest wait for an expected result.
const PATIENCE: Duration = Duration::from_secs(60);

fn now() -> Mono {
    SystemClock.mono()
}

/// The program, on a configuration that the test changes.
struct Run {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Run {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Run {
    /// `None`: skipped.
    fn start(test: &str, text: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flytrap.toml");
        std::fs::write(&file, text).unwrap();
        let stderr = std::fs::File::create(folder.path().join("stderr")).unwrap();
        let child = common::without_terminal(test)?
            .args(["run", "--model", "builtin", "--uplink"])
            .arg(format!("file:{}", folder.path().join("events").display()))
            .arg("--config")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let run = Run { child, folder };
        run.wait_for("ready", |run| run.log().contains("ready for"));
        Some(run)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    fn events(&self) -> Vec<Value> {
        events(&self.path("events"))
    }

    /// Changes the file and asks for a reload; returns what the log says about it.
    fn reload(&self, text: &str) -> String {
        let before = self.log().len();
        std::fs::write(self.path("flytrap.toml"), text).unwrap();
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
        let answer = |run: &Run| run.log()[before..].to_owned();
        self.wait_for("reloaded", |run| {
            let log = answer(run);
            log.contains("the configuration is reloaded") || log.contains("the configuration is not reloaded")
        });
        // Whether something waits for the next start is the next line.
        std::thread::park_timeout(Duration::from_millis(200));
        answer(self)
    }

    fn wait_for(&self, what: &str, fulfilled: impl Fn(&Run) -> bool) {
        let first = now();
        while !fulfilled(self) {
            assert!(now().since(first) < PATIENCE, "not {what}: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Ends it as the service manager does; returns the exit code and all events.
    fn end(mut self) -> (Option<i32>, Vec<Value>, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        (status.code(), self.events(), self.log())
    }
}

fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

const STREET: &str = "sim:7,calm,day,overcast,traffic=3";

fn two_cameras(rest: &str) -> String {
    format!(
        "memory.budget_mb = 512\nuplink.batch_age_max_s = 0.2\nevents.stats_interval_s = 1\n{rest}\n[[camera]]\nname = \"north\"\nsource = \"{STREET}\"\n\
         [[camera]]\nname = \"south\"\nsource = \"{STREET}\"\n"
    )
}

#[test]
fn each_change_takes_what_it_needs_and_no_more() {
    let Some(run) = Run::start("each_change_takes_what_it_needs_and_no_more", &two_cameras("")) else {
        return;
    };
    let said = run.reload(&two_cameras(""));
    assert!(said.contains("nothing changed"), "{said}");

    // A line in another place, for one camera only: it counts at the new place, and keeps its tracks.
    let lane =
        format!("{}[[camera.line]]\nname = \"lane\"\nfrom = [0.3, 1.0]\nto = [0.3, 0.0]\n", two_cameras(""));
    let said = run.reload(&lane);
    assert!(
        said.contains("camera 'south': line[0].name takes effect at once") && !said.contains("'north'"),
        "{said}"
    );
    run.wait_for("counting at the new line", |run| {
        run.events().iter().any(|event| event["data"]["line"] == "lane")
    });
    assert!(!run.log().contains("opened again"), "{}", run.log());

    // One camera gets another source: it is opened again, the other one is not.
    let moved =
        two_cameras("").replace("name = \"south\"\nsource = \"sim:7", "name = \"south\"\nsource = \"sim:8");
    let said = run.reload(&moved);
    assert!(said.contains("camera 'south': camera.source restarts the camera"), "{said}");
    run.wait_for("opened again", |run| {
        run.log().contains("camera 'south': opened again with its new settings")
    });
    assert!(!run.log().contains("'north': opened again"), "{}", run.log());

    // What needs a restart is named and waits; the rest of the same file is applied.
    let said = run.reload(
        &moved.replace("uplink.batch", "uplink.queue_events = 2048\ncount.frames_min = 4\nuplink.batch"),
    );
    assert!(said.contains("count.frames_min takes effect at once"), "{said}");
    assert!(said.contains("these settings take effect at the next start: uplink.queue_events"), "{said}");

    // A wrong file changes nothing, and all its mistakes are named.
    let said = run.reload("[gate]\nhold_ms = -1\nhold = 2\n");
    assert!(said.contains("not reloaded, nothing changes"), "{said}");
    assert!(said.contains("gate.hold_ms = -1") && said.contains("'gate.hold' is not a setting"), "{said}");
    let said = run.reload(&moved.replace(
        "[[camera]]\nname = \"south\"",
        "track.classes = [\"unicorn\"]\n[[camera]]\nname = \"south\"",
    ));
    assert!(said.contains("not reloaded"), "{said}");

    let (code, events, log) = run.end();
    assert_eq!(code, Some(0), "{log}");
    check_sequence(&events);
}

/// Settings with other values, of every kind: applied at once, by a restart of the camera, at the next start.
const SETTINGS: [(&str, &[&str]); 26] = [
    ("gate.enabled", &["true", "false"]),
    ("gate.hold_ms", &["0", "3000"]),
    ("gate.exclude", &["[]", "[[[0.0, 0.0], [1.0, 0.0], [1.0, 0.4], [0.0, 0.4]]]"]),
    ("gate.luma_delta_min", &["4.0", "20.0"]),
    ("focus.enabled", &["true", "false"]),
    ("focus.whole_s", &["1.0", "9.0"]),
    ("sampling.fps", &["2.0", "12.0"]),
    ("detect.iou_max", &["0.3", "0.7"]),
    ("track.classes", &["[]", "[\"car\"]"]),
    ("track.score_new", &["0.3", "0.5"]),
    ("track.lost_after_s", &["0.5", "4.0"]),
    ("count.frames_min", &["2", "5"]),
    ("count.travel_min", &["0.0", "0.1"]),
    ("camera.name", &["\"other\"", "\"third\""]),
    ("camera.source", &["\"sim:9,size=480x640\"", "\"sim:3,night,rain\"", "\"dir:/not/there\""]),
    ("camera.idle_timeout_s", &["2", "5"]),
    ("events.stats_interval_s", &["1", "3"]),
    ("uplink.batch_age_max_s", &["0.1", "2.0"]),
    ("uplink.interval_s", &["0", "1"]),
    ("uplink.backoff_first_s", &["0.2", "2.0"]),
    ("uplink.queue_events", &["512", "2000"]),
    ("spool.commit_interval_s", &["1", "30"]),
    ("spool.events_max", &["1000", "100000"]),
    ("watchdog.stage_timeout_s", &["20", "60"]),
    ("model.threads", &["1", "2"]),
    ("memory.ring_mb", &["16", "24"]),
];

/// Any sequence of valid files: whatever changes, no event is lost and none is repeated, and the program ends cleanly.
#[test]
fn any_valid_file_follows_any_other_without_losing_an_event() {
    const FILES: usize = 12;
    let seed = common::seed("any_valid_file_follows_any_other");
    let mut state = seed;
    let mut random = |below: usize| {
        // An LCG of Knuth's; its upper bits.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut file = |extra: &str| {
        let mut lines: Vec<String> = vec![extra.to_owned()];
        for (key, values) in SETTINGS {
            if random(4) == 0 && !extra.contains(key) {
                lines.push(format!("{key} = {}", values[random(values.len())]));
            }
        }
        if !lines.iter().any(|line| line.starts_with("camera.source")) {
            lines.push(format!("camera.source = \"{STREET}\""));
        }
        lines.join("\n")
    };
    let spool = tempfile::tempdir().unwrap();
    let folder = format!("spool.folder = \"{}\"", spool.path().display());
    let first = format!("{folder}\ncamera.source = \"{STREET}\"\nuplink.batch_age_max_s = 0.2");
    let Some(run) = Run::start("any_valid_file_follows_any_other", &first) else { return };
    for _ in 0..FILES {
        let text = file(&folder);
        let said = run.reload(&text);
        assert!(!said.contains("not reloaded"), "seed {seed}: {text}\n{said}");
    }
    // Once more with the settings of the start, so that it works again.
    run.reload(&format!(
        "{folder}\ncamera.source = \"{STREET}\"\nuplink.batch_age_max_s = 0.2\nevents.stats_interval_s = 1"
    ));
    let before = run.events().len();
    run.wait_for("delivering again", |run| run.events().len() > before + 3);
    let (code, events, log) = run.end();
    assert_eq!(code, Some(0), "seed {seed}: {log}");
    check_sequence(&events);
    assert!(!log.contains("panicked"), "seed {seed}: {log}");
}
