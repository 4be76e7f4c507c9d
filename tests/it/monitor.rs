//! What a running device shows of itself: status pages, alerts, the resource log.

use serde_json::Value;

use crate::common::daemon::Daemon;
use crate::common::{config, data, describe, flytrap, output, say};
use crate::receivers::programs::free_port;
use crate::status::{get, prometheus, promtool};

/// The program while it runs, with status pages.
struct Run {
    daemon: Daemon,
    port: u16,
}

impl std::ops::Deref for Run {
    type Target = Daemon;
    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl Run {
    /// Two cameras: a street, and the clip of squares with a pause of `pause` seconds in the middle. `rest`: more settings, in `[status]`
    /// first; FOLDER is the program's.
    fn start(rest: &str, pause: u32) -> Self {
        let (port, clip) = (free_port(), data("squares.mjpeg"));
        let daemon = Daemon::start(flytrap(), |folder| {
            let rest = rest.replace("FOLDER", &folder.display().to_string());
            format!(
                "memory.budget_mb = 512\nuplink.batch_age_max_s = 0.2\nevents.stats_interval_s = 1\nspool.folder = \"{}\"\n\
                 [status]\nlisten = \"127.0.0.1:{port}\"\n{rest}\n\
                 [[camera]]\nname = \"street\"\nsource = \"sim:7,calm,day,overcast,traffic=3\"\n\
                 [[camera]]\nname = \"clip\"\nidle_timeout_s = 600\n\
                 source = \"exec:sh -c 'cat {clip}; sleep {pause}; while cat {clip}; do sleep 0.2; done'\"\n",
                folder.join("spool").display(),
            )
        });
        Run { daemon, port }
    }

    fn page(&self, path: &str) -> Option<(u16, String)> {
        get(([127, 0, 0, 1], self.port).into(), path, "")
    }

    fn end(self) -> String {
        let (status, _, log) = self.daemon.end();
        assert!(status.success(), "{log}");
        log
    }
}

/// The value of a sample, by the beginning of its line.
fn sample(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn the_status_pages_show_what_the_device_does() {
    let run = Run::start("resource_log = \"FOLDER/resources.csv\"\n", 1);
    // Before the network is proven, and after.
    run.wait_for("ready", |_| run.page("/readyz").filter(|(status, _)| *status == 200));
    let tracks = |page: &str| sample(page, "flytrap_tracks_total{camera=\"street\"}");
    let page = run.wait_for("tracks", |_| {
        let (status, page) = run.page("/metrics")?;
        assert_eq!(status, 200);
        tracks(&page).filter(|count| *count > 0.0).map(|_| page)
    });
    for name in [
        "flytrap_frames_captured_total{camera=\"street\"}",
        "flytrap_rate_wanted_hertz{camera=\"street\"}",
        "flytrap_network_time_seconds_count{camera=\"street\"}",
        "flytrap_latency_seconds_bucket{camera=\"clip\",le=\"+Inf\"}",
        "flytrap_cpu_ratio",
        "flytrap_rss_bytes",
        "flytrap_spool_waiting",
        "flytrap_events_total",
        "flytrap_alert_active{rule=\"no frame\",camera=\"street\"}",
    ] {
        assert!(sample(&page, name).is_some(), "{name}: {page}");
    }
    assert!(!page.contains("gpu"), "what there is not is absent: {page}");
    assert_eq!(sample(&page, "flytrap_rate_wanted_hertz{camera=\"street\"}"), Some(6.0));
    if let Some(folder) = prometheus("the_status_pages_show_what_the_device_does") {
        assert_eq!(promtool(&folder, &page), (true, String::new()), "{page}");
    }
    say(&format!("MEASURED a page of metrics of two cameras: {} bytes", page.len()));

    let (status, health) = run.page("/healthz").unwrap();
    let health: Value = serde_json::from_str(&health).unwrap();
    assert_eq!((status, &health["status"]), (200, &Value::from("ok")), "{health}");
    let (_, overview) = run.page("/status.json").unwrap();
    let overview: Value = serde_json::from_str(&overview).unwrap();
    assert!(overview["cameras"]["street"]["frames_captured"].as_u64().unwrap() > 0, "{overview}");
    assert!(
        overview["machine"]["cpu_permille"].is_u64() && overview["storage"]["waiting"].is_u64(),
        "{overview}"
    );
    assert!(overview["alerts"].as_array().unwrap().len() >= 12, "{overview}");
    assert_eq!(run.page("/nothing").unwrap().0, 404);

    // The same figures as events.
    let events = run.wait_for("statistics", |run| {
        let events = run.events();
        let has = |kind: &str| events.iter().filter(|event| event["type"] == kind).count() > 3;
        (has("flytrap.camera.stats") && has("flytrap.machine")).then_some(events)
    });
    let last = events.iter().rfind(|event| event["type"] == "flytrap.camera.stats").unwrap();
    assert!(last["data"]["latency_p95_us"].is_u64(), "{last}");
    let last = events.iter().rfind(|event| event["type"] == "flytrap.machine").unwrap();
    assert!(last["data"]["cpu_process_permille"].as_u64().is_some_and(|cpu| cpu > 0), "{last}");
    let log = run.wait_for("resource log", |run| {
        let log = std::fs::read_to_string(run.path("resources.csv")).ok()?;
        (log.lines().count() > 2).then_some(log)
    });
    run.end();
    assert!(log.starts_with("Timestamp,CPU%,Memory_MB,GPU_Memory_MB,FPS,Uptime_s,"), "{log}");
    let row = log.lines().nth(1).unwrap();
    let fields: Vec<&str> = row.split(',').collect();
    assert_eq!(fields.len(), log.lines().next().unwrap().split(',').count(), "{row}");
    assert!(fields[2].parse::<f64>().unwrap() > 1.0 && fields[3].is_empty(), "{row}");
}

/// A rule of the user: it begins when a camera pauses, and ends when it is back, for this camera only.
#[test]
fn an_alert_begins_and_recovers() {
    let rule =
        "[[alert]]\nname = \"quiet\"\nmetric = \"camera.last_frame_age_ms\"\nlimit = 2000\nhold_s = 0\n";
    let run = Run::start(rule, 7);
    let alert = |run: &Daemon, active: bool| {
        run.events().into_iter().find(|event| {
            event["type"] == "flytrap.alert"
                && event["data"]["rule"] == "quiet"
                && event["data"]["active"] == active
        })
    };
    let begun = run.wait_for("alert", |run| alert(run, true));
    assert!(begun["source"].as_str().unwrap().ends_with("/clip"), "{begun}");
    assert!(begun["data"]["value"].as_u64().unwrap() > 2000, "{begun}");
    let page = run.wait_for("shown", |_| {
        let (_, page) = run.page("/metrics")?;
        sample(&page, "flytrap_alert_active{rule=\"quiet\",camera=\"clip\"}")
            .filter(|active| *active > 0.0)?;
        Some(page)
    });
    assert_eq!(sample(&page, "flytrap_alert_active{rule=\"quiet\",camera=\"street\"}"), Some(0.0));
    let over = run.wait_for("recovery", |run| alert(run, false));
    assert!(over["source"].as_str().unwrap().ends_with("/clip"), "{over}");
    let log = run.end();
    assert!(
        log.contains("alert: camera 'clip': quiet: last_frame_age_ms is") && log.contains("alert over"),
        "{log}"
    );
}

#[test]
fn wrong_settings_of_status_and_alerts_are_refused_with_the_remedy() {
    for (text, why) in [
        ("[status]\nlisten = \"0.0.0.0:9464\"\n", "set status.token_file"),
        ("[status]\nlisten = \"localhost\"\n", "write an IP address and a port"),
        (
            "[[alert]]\nname = \"a\"\nmetric = \"machine.temperature_milicelsius\"\n",
            "is not a metric; did you mean 'machine.temperature_millicelsius'?",
        ),
        (
            "[[alert]]\nname = \"a\"\nmetric = \"camera.lost\"\nlimit = 5\nclear = 9\n",
            "must be on the good side of the limit",
        ),
        ("[[alert]]\nmetric = \"camera.lost\"\n", "must have 1 to 32 bytes"),
        (
            "[[alert]]\nname = \"a\"\nmetric = \"camera.lost\"\n[[alert]]\nname = \"a\"\nmetric = \"camera.lost\"\n",
            "must be a name of its own",
        ),
    ] {
        let file = config(text);
        let done = output(flytrap().arg("check").arg(file.path()));
        assert_eq!(done.status.code(), Some(2), "{}", describe(&done));
        assert!(describe(&done).contains(why), "{why}: {}", describe(&done));
    }
    // A port in use: found before anything runs.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let file = config(&format!(
        "status.listen = \"{address}\"\nmodel.path = \"builtin\"\n[camera]\nsource = \"sim:7\"\n"
    ));
    let done = output(flytrap().args(["run", "--config"]).arg(file.path()));
    assert!(!done.status.success() && describe(&done).contains("status.listen"), "{}", describe(&done));
}
