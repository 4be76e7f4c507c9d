//! A changed configuration is applied while the program runs: SIGHUP.

use std::time::Duration;

use rustix::process::Signal;

use crate::common::daemon::Daemon;
use crate::common::{self, check_sequence};

/// Starts the program on a configuration that the test changes. `None`: skipped.
fn start(test: &str, text: &str) -> Option<Daemon> {
    let run = Daemon::start(common::without_terminal(test)?, |_| text.to_owned());
    run.wait_for("ready", |run| run.log().contains("ready for").then_some(()));
    Some(run)
}

/// Changes the file and asks for a reload; returns what the log says about it.
fn reload(run: &Daemon, text: &str) -> String {
    let before = run.log().len();
    std::fs::write(run.path("flytrap.toml"), text).unwrap();
    run.signal(Signal::HUP);
    let answer = || run.log()[before..].to_owned();
    run.wait_for("reloaded", |_| {
        let log = answer();
        let words = ["the configuration is reloaded", "the configuration is not reloaded"];
        words.iter().any(|words| log.contains(words)).then_some(())
    });
    // Whether something waits for the next start is the next line.
    std::thread::park_timeout(Duration::from_millis(200));
    answer()
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
    let Some(run) = start("each_change_takes_what_it_needs_and_no_more", &two_cameras("")) else {
        return;
    };
    let said = reload(&run, &two_cameras(""));
    assert!(said.contains("nothing changed"), "{said}");

    // A line in another place, for one camera only: it counts at the new place, and keeps its tracks.
    let lane =
        format!("{}[[camera.line]]\nname = \"lane\"\nfrom = [0.3, 1.0]\nto = [0.3, 0.0]\n", two_cameras(""));
    let said = reload(&run, &lane);
    assert!(
        said.contains("camera 'south': line[0].name takes effect at once") && !said.contains("'north'"),
        "{said}"
    );
    run.wait_for("counting at the new line", |run| {
        run.events().iter().any(|event| event["data"]["line"] == "lane").then_some(())
    });
    assert!(!run.log().contains("opened again"), "{}", run.log());

    // One camera gets another source: it is opened again, the other one is not.
    let moved =
        two_cameras("").replace("name = \"south\"\nsource = \"sim:7", "name = \"south\"\nsource = \"sim:8");
    let said = reload(&run, &moved);
    assert!(said.contains("camera 'south': camera.source restarts the camera"), "{said}");
    run.wait_for("opened again", |run| {
        run.log().contains("camera 'south': opened again with its new settings").then_some(())
    });
    assert!(!run.log().contains("'north': opened again"), "{}", run.log());

    // What needs a restart is named and waits; the rest of the same file is applied.
    let said = reload(
        &run,
        &moved.replace("uplink.batch", "uplink.queue_events = 2048\ncount.frames_min = 4\nuplink.batch"),
    );
    assert!(said.contains("count.frames_min takes effect at once"), "{said}");
    assert!(said.contains("these settings take effect at the next start: uplink.queue_events"), "{said}");

    // A wrong file changes nothing, and all its mistakes are named.
    let said = reload(&run, "[gate]\nhold_ms = -1\nhold = 2\n");
    assert!(said.contains("not reloaded, nothing changes"), "{said}");
    assert!(said.contains("gate.hold_ms = -1") && said.contains("'gate.hold' is not a setting"), "{said}");
    let said = reload(
        &run,
        &moved.replace(
            "[[camera]]\nname = \"south\"",
            "track.classes = [\"unicorn\"]\n[[camera]]\nname = \"south\"",
        ),
    );
    assert!(said.contains("not reloaded"), "{said}");

    let (status, events, log) = run.end();
    assert_eq!(status.code(), Some(0), "{log}");
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
    let Some(run) = start("any_valid_file_follows_any_other", &first) else { return };
    for _ in 0..FILES {
        let text = file(&folder);
        let said = reload(&run, &text);
        assert!(!said.contains("not reloaded"), "seed {seed}: {text}\n{said}");
    }
    // Once more with the settings of the start, so that it works again.
    reload(
        &run,
        &format!(
            "{folder}\ncamera.source = \"{STREET}\"\nuplink.batch_age_max_s = 0.2\nevents.stats_interval_s = 1"
        ),
    );
    let before = run.events().len();
    run.wait_for_events("delivering again", |events| events.len() > before + 3);
    let (status, events, log) = run.end();
    assert_eq!(status.code(), Some(0), "seed {seed}: {log}");
    check_sequence(&events);
    assert!(!log.contains("panicked"), "seed {seed}: {log}");
}
