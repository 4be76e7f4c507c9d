//! The program with a spool on disk: what was seen while no receiver was there arrives later, once, also after a kill.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;
#[allow(dead_code, reason = "tests/receivers.rs uses the rest")]
#[path = "receivers/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{config, crossings, data, flytrap, json_lines, output, run_squares, squares_truth, told};
use serde_json::Value;
use server::{Mood, Server};

const EAGER: &str = "[uplink]\nclock_wait_s = 0\nbatch_events_max = 7\nbatch_age_max_s = 0.1\nbackoff_first_s = 0.1\nbackoff_cap_s = 0.2\n";

/// Settings with a spool in `folder`; at the end there is so long for the last deliveries.
fn settings(folder: &Path, drain_s: u32) -> tempfile::NamedTempFile {
    let spool = format!(
        "[spool]\nfolder = {:?}\ncommit_interval_s = 1\nheadroom_mb = 0\n",
        folder.display().to_string()
    );
    config(&format!("{EAGER}drain_s = {drain_s}\n{spool}"))
}

/// An address where nobody answers, of its own: no receiver of another test gets it.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.3", 0)).unwrap();
    format!("http://{}/events", listener.local_addr().unwrap())
}

/// The stored events by run, in the order of their arrival.
fn by_run(events: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let mut runs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in events {
        let id = event["id"].as_str().unwrap();
        let (run, seq) = id.rsplit_once('/').unwrap();
        runs.entry(run.to_owned()).or_default().push(seq.parse().unwrap());
    }
    runs
}

fn spool(what: &[&str], folder: &Path) -> Command {
    let mut command = flytrap();
    command.arg("spool").args(what).arg(folder);
    command
}

#[test]
fn what_no_receiver_took_is_delivered_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("spool");
    let file = settings(&place, 0);
    for run in 1..=2 {
        let output = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &nobody()]));
        assert!(output.status.success(), "{}", told(&output));
        let told = told(&output);
        assert!(told.contains("events wait on disk for the next start"), "{told}");
        let listed = common::output(&mut spool(&["ls", "--json"], &place));
        let waiting: u64 = json_lines(&listed).iter().map(|line| line["waiting"].as_u64().unwrap()).sum();
        assert!(waiting >= 28 * run, "{waiting} of run {run}");
    }
    let kept = json_lines(&output(&mut spool(&["cat"], &place)));
    let server = Server::start([], Mood::Accept(200));
    let file = settings(&place, 60);
    let last = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &server.url()]));
    assert!(last.status.success(), "{}", told(&last));
    let stored = server.stored();
    assert_eq!(server.deliveries(), stored.len(), "nothing came twice");
    let runs = by_run(&stored);
    assert_eq!(runs.len(), 3);
    for (run, mut seqs) in runs {
        seqs.sort_unstable();
        assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "{run}: none is missing");
    }
    let thrice = squares_truth().into_iter().map(|(line, count)| (line, 3 * count)).collect();
    assert_eq!(crossings(&stored), thrice);
    let ids = |events: &[Value]| -> Vec<String> {
        let mut ids: Vec<_> = events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let earlier = &ids(&kept)[..];
    assert!(earlier.iter().all(|id| ids(&stored).contains(id)), "`spool cat` shows what is sent");
    assert!(stored.iter().all(|event| event["clock"] == "synced" || event.get("time").is_some()));
    // All of it is delivered, and known to be: the next start sends only its own.
    let server = Server::start([], Mood::Accept(200));
    let again = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &server.url()]));
    assert!(again.status.success(), "{}", told(&again));
    assert_eq!(by_run(&server.stored()).len(), 1);
    let check = output(&mut spool(&["check"], &place));
    assert!(check.status.success(), "{}", told(&check));
}

#[test]
fn a_kill_costs_what_was_not_committed() {
    let folder = tempfile::tempdir().unwrap();
    let file = settings(folder.path(), 0);
    let looped = config(&format!(
        "{}[camera]\nat_end = \"loop\"\nfps = \"25\"\n",
        std::fs::read_to_string(file.path()).unwrap()
    ));
    let mut command = flytrap();
    command.arg("run").arg("--config").arg(looped.path()).args(["--uplink", &nobody()]);
    command.arg("--source").arg(format!("file:{}", data("squares.mjpeg")));
    command.arg("--model").arg(data("squares.onnx")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // Until there are some on disk, written by at least two commits.
    let waits = || -> u64 {
        let listed = output(&mut spool(&["ls", "--json"], folder.path()));
        json_lines(&listed).iter().map(|line| line["waiting"].as_u64().unwrap()).sum()
    };
    let mut tries = 0;
    while waits() < 12 {
        tries += 1;
        assert!(tries < 600, "no events on disk");
        flytrap::base::stop::Stop::new().wait(Duration::from_millis(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = waits();
    let server = Server::start([], Mood::Accept(200));
    let file = settings(folder.path(), 60);
    let next = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &server.url()]));
    assert!(next.status.success(), "{}", told(&next));
    let runs = by_run(&server.stored());
    assert_eq!(runs.len(), 2);
    assert!(
        runs.values().any(|seqs| seqs.len() as u64 == before),
        "{runs:?}: not the {before} of the killed run"
    );
    assert_eq!(server.deliveries(), server.stored().len());
}

#[test]
fn refused_events_are_kept_as_dead_letters() {
    let folder = tempfile::tempdir().unwrap();
    let file = settings(folder.path(), 60);
    let single = config(
        &std::fs::read_to_string(file.path())
            .unwrap()
            .replace("batch_events_max = 7", "batch_events_max = 1"),
    );
    let server = Server::start([Mood::Accept(200), Mood::Status(400)], Mood::Accept(200));
    let run = output(run_squares().arg("--config").arg(single.path()).args(["--uplink", &server.url()]));
    assert_eq!(run.status.code(), Some(5), "{}", told(&run));
    let dead = json_lines(&output(&mut spool(&["cat", "--dead"], folder.path())));
    let stored = server.stored();
    assert_eq!(dead.len(), 1);
    assert!(stored.len() > 20 && stored.iter().all(|event| event["id"] != dead[0]["id"]));
    assert!(dead[0]["id"].as_str().unwrap().ends_with("/1"), "{dead:?}");
}

#[test]
fn one_folder_serves_one_program() {
    let folder = tempfile::tempdir().unwrap();
    let _other = flytrap::delivery::spool::disk::Folder::open(folder.path()).unwrap();
    let file = settings(folder.path(), 0);
    let refused = output(run_squares().arg("--config").arg(file.path()));
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    assert!(told(&refused).contains("another flytrap uses it"), "{}", told(&refused));
    let no_folder = tempfile::NamedTempFile::new().unwrap();
    let file = settings(&no_folder.path().join("spool"), 0);
    let refused = output(run_squares().arg("--config").arg(file.path()));
    assert_eq!(refused.status.code(), Some(2), "{}", told(&refused));
    assert!(told(&refused).contains("it must be a folder"), "{}", told(&refused));
    let missing = output(&mut spool(&["ls"], Path::new("/proc/nowhere")));
    assert!(!missing.status.success() && told(&missing).contains("spool.folder names"), "{}", told(&missing));
}

/// A card that is mounted late: counting begins without it, and what happens from then on is safe.
#[test]
fn a_disk_that_comes_late_is_taken_into_use() {
    let folder = tempfile::tempdir().unwrap();
    let (link, card) = (folder.path().join("spool"), folder.path().join("card"));
    std::os::unix::fs::symlink(&card, &link).unwrap();
    let file = settings(&link, 5);
    let text = std::fs::read_to_string(file.path()).unwrap();
    let file =
        config(&format!("{text}[camera]\nat_end = \"loop\"\nfps = \"25\"\n[events]\nstats_interval_s = 1\n"));
    let events = folder.path().join("events.ndjson");
    let mut command = flytrap();
    command.arg("run").arg("--config").arg(file.path());
    command.args(["--uplink", &format!("file:{}", events.display())]);
    command.arg("--source").arg(format!("file:{}", data("squares.mjpeg")));
    command.arg("--model").arg(data("squares.onnx")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let read = || std::fs::read_to_string(&events).unwrap_or_default();
    let mut wait_for = |what: &str, there: &dyn Fn() -> bool| {
        for _ in 0..300 {
            if there() {
                return;
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended while waiting for {what}");
            flytrap::base::stop::Stop::new().wait(Duration::from_millis(100));
        }
        panic!("{what} did not come: {}", read());
    };
    wait_for("the word about the disk", &|| read().contains("it cannot be opened"));
    std::fs::create_dir(&card).unwrap();
    wait_for("a segment", &|| std::fs::read_dir(&card).unwrap().count() > 1);
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let written = read();
    let seqs = written.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let seqs = by_run(&seqs.collect::<Vec<_>>());
    assert_eq!(seqs.len(), 1);
    for mut seqs in seqs.into_values() {
        seqs.sort_unstable();
        assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "each once");
    }
}
