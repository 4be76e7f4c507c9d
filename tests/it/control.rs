//! The commands that talk to a running program over its status socket: `kpi` and `reload`.

use std::process::Output;

use serde_json::Value;

use crate::common::daemon::Daemon;
use crate::common::{check_sequence, config, describe, flytrap, of_type, output, run_squares};

const STREET: &str = "memory.budget_mb = 512\nuplink.batch_age_max_s = 0.2\n\
                      [[camera]]\nname = \"street\"\nsource = \"sim:7,calm,day,overcast,traffic=3\"\n";

/// Targets that every machine reaches.
const EASY: &str = "kpi.frame_rate_min = 0.1\nkpi.latency_max_ms = 60000.0\nkpi.memory_max_mb = 4096.0\nkpi.cpu_max_percent = 100.0\n";

fn start(text: &str) -> Daemon {
    let daemon = Daemon::start(flytrap(), |_| text.to_owned());
    daemon.wait_for("ready", |daemon| daemon.log().contains("ready for").then_some(()));
    daemon
}

/// A command for the daemon.
fn ask(daemon: &Daemon, command: &[&str]) -> Output {
    output(flytrap().args(command).arg("--at").arg(daemon.path("status.sock")))
}

fn rewrite(daemon: &Daemon, text: &str) {
    std::fs::write(daemon.path("flytrap.toml"), text).unwrap();
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn kpi_says_which_targets_a_running_device_misses() {
    let easy = format!("{EASY}{STREET}");
    let daemon = start(&easy);
    let rows = daemon.wait_for("measured", |daemon| {
        let output = ask(daemon, &["kpi", "--json"]);
        // Nothing is measured yet: nobody says that it is fit.
        if output.status.code() == Some(1) {
            assert!(stderr(&output).contains("still starting"), "{}", describe(&output));
        }
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).ok()?;
        let is_measured = |kpi: &str| rows.iter().any(|row| row["kpi"] == kpi && row["measured"].is_f64());
        let all = ["frame rate", "latency, p95", "memory, peak", "CPU"].iter().all(|kpi| is_measured(kpi));
        (all && output.status.success()).then_some(rows)
    });
    let of = |kpi: &str| rows.iter().find(|row| row["kpi"] == kpi).unwrap();
    assert_eq!((&of("frame rate")["at_least"], &of("frame rate")["result"]), (&0.1.into(), &"pass".into()));
    assert_eq!(
        (&of("GPU memory")["measured"], &of("GPU memory")["result"]),
        (&Value::Null, &"not_measured".into())
    );

    // Another target, without a restart.
    rewrite(&daemon, &easy.replace("memory_max_mb = 4096.0", "memory_max_mb = 1.0"));
    let reloaded = ask(&daemon, &["reload"]);
    assert!(reloaded.status.success(), "{}", describe(&reloaded));
    assert!(stdout(&reloaded).contains("kpi.memory_max_mb takes effect at once"), "{}", describe(&reloaded));
    let output = ask(&daemon, &["kpi"]);
    assert_eq!(output.status.code(), Some(6), "{}", describe(&output));
    let table = stdout(&output);
    let row = table.lines().find(|line| line.starts_with("memory, peak")).unwrap();
    assert!(row.contains("≤ 1.00 MiB") && row.ends_with("FAIL"), "{table}");
    assert!(stderr(&output).is_empty(), "the table says it: {}", describe(&output));
}

#[test]
fn reload_says_what_became_of_it() {
    let daemon = start(STREET);
    let same = ask(&daemon, &["reload"]);
    assert!(same.status.success() && stdout(&same).contains("nothing changed"), "{}", describe(&same));

    // The limit of a rule of the defaults waits with the setting that it is: nothing of it is in force yet.
    rewrite(
        &daemon,
        &format!("count.frames_min = 4\nuplink.queue_events = 2048\nspool.quota_mb = 512\n{STREET}"),
    );
    let applied = ask(&daemon, &["reload"]);
    assert!(applied.status.success(), "{}", describe(&applied));
    assert!(stdout(&applied).contains("count.frames_min takes effect at once"), "{}", describe(&applied));
    let pending = "these settings take effect at the next start: spool.quota_mb, uplink.queue_events";
    assert!(stderr(&applied).contains(pending), "{}", describe(&applied));

    rewrite(&daemon, &format!("count.frames_least = 3\n{STREET}"));
    let wrong = ask(&daemon, &["reload"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", describe(&wrong));
    let line = stderr(&wrong);
    assert!(line.contains("nothing changes") && line.contains("count.frames_least"), "{line}");

    // Several at once: each gets an answer that is about its own request or a later one.
    rewrite(&daemon, STREET);
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let mut command = flytrap();
            command.arg("reload").arg("--at").arg(daemon.path("status.sock"));
            std::thread::spawn(move || output(&mut command))
        })
        .collect();
    for request in requests {
        let output = request.join().unwrap();
        assert!(output.status.success(), "{}", describe(&output));
    }
    let (status, events, log) = daemon.end();
    assert!(status.success(), "{log}");
    check_sequence(&events);
}

#[test]
fn a_rule_that_is_changed_while_it_holds_ends_its_alert() {
    let rule = |limit: u64| {
        format!(
            "{STREET}[[alert]]\nname = \"memory in use\"\nmetric = \"machine.rss_bytes\"\nlimit = {limit}\nwindow_s = 0\nhold_s = 0\n"
        )
    };
    let daemon = start(&rule(1));
    let active = |events: &[Value]| -> Vec<bool> {
        let own = of_type(events, "alert").into_iter().filter(|alert| alert["rule"] == "memory in use");
        own.map(|alert| alert["active"].as_bool().unwrap()).collect()
    };
    daemon.wait_for_events("an alert", |events| active(events) == [true]);
    rewrite(&daemon, &rule(1 << 50));
    let reloaded = ask(&daemon, &["reload"]);
    assert!(stdout(&reloaded).contains("limit takes effect at once"), "{}", describe(&reloaded));
    let events = daemon.wait_for_events("its end", |events| active(events) == [true, false]);
    let last = of_type(&events, "alert").into_iter().rfind(|alert| alert["rule"] == "memory in use");
    assert_eq!(last.unwrap()["text"], "memory in use: the rule was removed or changed");
    daemon.end();
}

#[test]
fn without_a_running_program_the_error_says_where_it_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("status.sock");
    for command in ["kpi", "reload"] {
        let output = output(flytrap().args([command, "--at"]).arg(&at));
        let line = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(line.starts_with(&format!("flytrap {command}: ")) && line.lines().count() == 1, "{line}");
        assert!(line.contains("status.sock") && line.contains("not running"), "{line}");
    }
    let relative = config("status.socket = \"flytrap.sock\"\n");
    let line = stderr(&output(flytrap().arg("check").arg(relative.path())));
    assert!(line.contains("status.socket") && line.contains("absolute path"), "{line}");
}

#[test]
fn a_recording_ends_with_its_kpi_table() {
    let output = output(&mut run_squares());
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    let row = |kpi: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("flytrap run: "));
        lines.find(|line| line.starts_with(kpi)).unwrap_or_else(|| panic!("{kpi}: {text}")).to_owned()
    };
    assert!(row("frame rate").ends_with("pass"), "{text}");
    assert!(row("latency, p95").contains("pass  (of a recording"), "{text}");
    assert!(row("CPU").ends_with("not measured"), "as fast as possible: {text}");
    assert!(row("memory, peak").contains("MiB") && row("accuracy, mAP50").contains("not measured"), "{text}");
    assert!(output.stdout.starts_with(b"{"), "events have stdout for themselves");
}
