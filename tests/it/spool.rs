//! The program with a spool on disk: events that were seen while the receiver was away arrive later, once, also after a kill.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flytrap::delivery::spool::record::{self, Position};
use flytrap::event::RECORD_VERSION;
use flytrap::platform::clock::{Clock as _, SystemClock};
use serde_json::Value;

use crate::common::{
    self, config, crossings, data, describe, flytrap, json_lines, output, run_squares, squares_truth,
};
use crate::receivers::server::{Behaviour, Server};

const EAGER: &str = "[uplink]\nclock_wait_s = 0\nbatch_events_max = 7\nbatch_age_max_s = 0.1\nbackoff_first_s = 0.1\nbackoff_cap_s = 0.2\n";

/// Settings with a spool in `folder`; the drain time limits the last deliveries.
fn settings(folder: &Path, drain_s: u32) -> tempfile::NamedTempFile {
    let spool = format!(
        "[spool]\nfolder = {:?}\ncommit_interval_s = 1\nheadroom_mb = 0\n",
        folder.display().to_string()
    );
    config(&format!("{EAGER}drain_s = {drain_s}\n{spool}"))
}

/// An address without a server, of its own, so that no receiver of another test gets it.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.3", 0)).unwrap();
    format!("http://{}/events", listener.local_addr().unwrap())
}

/// The stored events by run, in order of arrival.
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
fn undelivered_events_are_delivered_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("spool");
    let file = settings(&place, 0);
    for run in 1..=2 {
        let output = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &nobody()]));
        assert!(output.status.success(), "{}", describe(&output));
        let text = describe(&output);
        assert!(text.contains("events wait on disk for the next start"), "{text}");
        let listed = common::output(&mut spool(&["ls", "--json"], &place));
        let waiting: u64 = json_lines(&listed).iter().map(|line| line["waiting"].as_u64().unwrap()).sum();
        assert!(waiting >= 28 * run, "{waiting} of run {run}");
    }
    let kept = json_lines(&output(&mut spool(&["cat"], &place)));
    let server = Server::start([], Behaviour::Accept(200));
    let file = settings(&place, 60);
    let last = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &server.url()]));
    assert!(last.status.success(), "{}", describe(&last));
    let stored = server.stored();
    assert_eq!(server.deliveries(), stored.len(), "nothing arrived twice");
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
    // All of it is delivered and recorded as delivered: the next start sends only its own events.
    let server = Server::start([], Behaviour::Accept(200));
    let again = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &server.url()]));
    assert!(again.status.success(), "{}", describe(&again));
    assert_eq!(by_run(&server.stored()).len(), 1);
    let check = output(&mut spool(&["check"], &place));
    assert!(check.status.success(), "{}", describe(&check));
}

/// A run that continues until it is killed; `settings` are its own.
fn looped(settings: &str, uplink: &str) -> (Child, tempfile::NamedTempFile) {
    let file = config(&format!("{settings}[camera]\nat_end = \"loop\"\nfps = \"25\"\n"));
    let mut command = flytrap();
    command.arg("run").arg("--config").arg(file.path()).args(["--uplink", uplink]);
    command.arg("--source").arg(format!("file:{}", data("squares.mjpeg")));
    command.arg("--model").arg(data("squares.onnx")).stdout(Stdio::null()).stderr(Stdio::null());
    (command.spawn().unwrap(), file)
}

/// The receiver accepts the first half of a batch, and the program is killed before the second: the next start sends only that one.
#[test]
fn after_a_kill_only_the_undelivered_half_of_a_batch_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let file = settings(folder.path(), 60);
    let text = std::fs::read_to_string(file.path()).unwrap();
    let text = text
        .replace("batch_events_max = 7", "batch_events_max = 20")
        .replace("batch_age_max_s = 0.1", "batch_age_max_s = 60");
    let first = Server::start([Behaviour::Status(413), Behaviour::Accept(200)], Behaviour::Status(500));
    let (mut child, _settings) = looped(&text, &first.url());
    first.wait_for_requests(4);
    // Longer than the commit interval.
    flytrap::base::stop::Stop::new().wait(Duration::from_secs(3));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(first.stored().len(), 10, "the first half");
    let second = Server::start([], Behaviour::Accept(200));
    let next = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &second.url()]));
    assert!(next.status.success(), "{}", describe(&next));
    assert_eq!(second.deliveries(), second.stored().len());
    let (before, after) = (by_run(&first.stored()), by_run(&second.stored()));
    let (run, mut seqs) = before.into_iter().next().unwrap();
    assert_eq!(seqs, (0..10).collect::<Vec<_>>());
    // The kill may have cost some of the newest events.
    seqs.extend(&after[&run]);
    seqs.sort_unstable();
    assert!(seqs.len() >= 20, "{seqs:?}");
    assert_eq!(seqs[..20], (0..20).collect::<Vec<_>>(), "each once: no event is sent again, none is missing");
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
}

#[test]
fn a_kill_costs_only_uncommitted_events() {
    let folder = tempfile::tempdir().unwrap();
    let file = settings(folder.path(), 0);
    let (mut child, _settings) = looped(&std::fs::read_to_string(file.path()).unwrap(), &nobody());
    // Until there are events on disk from at least two commits.
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
    let server = Server::start([], Behaviour::Accept(200));
    let file = settings(folder.path(), 60);
    let next = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &server.url()]));
    assert!(next.status.success(), "{}", describe(&next));
    let runs = by_run(&server.stored());
    assert_eq!(runs.len(), 2);
    assert!(
        runs.values().any(|seqs| seqs.len() as u64 == before),
        "{runs:?}: does not contain the {before} events of the killed run"
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
    let server = Server::start([Behaviour::Accept(200), Behaviour::Status(400)], Behaviour::Accept(200));
    let run = output(run_squares().arg("--config").arg(single.path()).args(["--uplink", &server.url()]));
    assert_eq!(run.status.code(), Some(5), "{}", describe(&run));
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
    assert_eq!(refused.status.code(), Some(2), "{}", describe(&refused));
    assert!(describe(&refused).contains("another flytrap uses it"), "{}", describe(&refused));
    let no_folder = tempfile::NamedTempFile::new().unwrap();
    let file = settings(&no_folder.path().join("spool"), 0);
    let refused = output(run_squares().arg("--config").arg(file.path()));
    assert_eq!(refused.status.code(), Some(2), "{}", describe(&refused));
    assert!(describe(&refused).contains("it must be a folder"), "{}", describe(&refused));
    let missing = output(&mut spool(&["ls"], Path::new("/proc/nowhere")));
    assert!(
        !missing.status.success() && describe(&missing).contains("spool.folder names"),
        "{}",
        describe(&missing)
    );
}

/// A card that is mounted late: counting begins without it, and later events are safe.
#[test]
fn a_disk_that_is_mounted_late_is_attached() {
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
            assert!(child.try_wait().unwrap().is_none(), "the program ended while waiting for {what}");
            flytrap::base::stop::Stop::new().wait(Duration::from_millis(100));
        }
        panic!("{what} did not appear: {}", read());
    };
    wait_for("the report about the disk", &|| read().contains("it cannot be opened"));
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

/// `event` with only those data keys that `golden` has: newer versions add counters to statistics only.
fn with_the_keys_of(golden: &Value, event: &Value) -> Value {
    let mut event = event.clone();
    let kind = event["type"].as_str().unwrap().to_owned();
    if let (Some(data), Some(golden)) = (event["data"].as_object_mut(), golden["data"].as_object()) {
        let before = data.len();
        data.retain(|key, _| golden.contains_key(key));
        let may_grow = kind.ends_with(".stats") || kind.ends_with(".storage");
        assert!(may_grow || data.len() == before, "{kind} has new keys");
    }
    event
}

/// An event of a newer version is reported with its file and byte, and all others are printed.
#[test]
fn an_event_of_a_newer_version_is_named_and_the_others_are_printed() {
    let name = "counts-0000000000000003.seg";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/spool-v1").join(name);
    let (folder, mut bytes) = (tempfile::tempdir().unwrap(), std::fs::read(golden).unwrap());
    let at = |offset: usize| Position { segment: 3, offset: offset as u32 };
    let is_event = |payload: &[u8]| payload[0] <= RECORD_VERSION;
    let records =
        (0..bytes.len()).filter(|&offset| record::read(&bytes[offset..], at(offset)).is_some_and(is_event));
    let records: Vec<usize> = records.collect();
    let mut payload = record::read(&bytes[records[1]..], at(records[1])).unwrap().to_vec();
    payload[0] = RECORD_VERSION + 1;
    let mut frame = Vec::new();
    record::write(&mut frame, at(records[1]), &payload);
    bytes[records[1]..][..frame.len()].copy_from_slice(&frame);
    std::fs::write(folder.path().join(name), bytes).unwrap();
    let expected = format!("{name}', byte {}: ", records[1]);
    for (command, lines) in [("cat", records.len() - 1), ("check", 1)] {
        let output = output(&mut spool(&[command], folder.path()));
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!((output.status.code(), stdout.lines().count()), (Some(2), lines), "{}", describe(&output));
        assert!(stderr.contains(&expected) && stderr.contains("or a newer one"), "{}", describe(&output));
    }
}

/// A spool written by an earlier version of the program (see its README): with closed segments, open ones and a dead letter.
#[test]
fn the_spool_of_an_earlier_version_is_delivered() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/spool-v1");
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("spool");
    std::fs::create_dir(&place).unwrap();
    for file in std::fs::read_dir(&golden).unwrap().map(Result::unwrap) {
        let name = file.file_name().into_string().unwrap();
        if name.ends_with(".seg") {
            std::fs::copy(file.path(), place.join(&name)).unwrap();
            if ["7.seg", "8.seg", "9.seg"].iter().any(|end| name.ends_with(end)) {
                let open = std::fs::OpenOptions::new().write(true).open(place.join(&name)).unwrap();
                open.set_len(262_144).unwrap();
            }
        }
    }
    let text = |name: &str| std::fs::read_to_string(golden.join(name)).unwrap();
    let printed = |what: &[&str]| {
        let output = output(&mut spool(what, &place));
        assert!(output.status.success(), "{}", describe(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = |text: String| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (what, golden) in [(&["cat"][..], "events.ndjson"), (&["cat", "--dead"], "dead.ndjson")] {
        let (ours, golden) = (lines(printed(what)), lines(text(golden)));
        assert_eq!(ours.len(), golden.len(), "{what:?}");
        for (ours, golden) in ours.iter().zip(&golden) {
            assert_eq!(&with_the_keys_of(golden, ours), golden, "{what:?}");
        }
    }
    assert!(printed(&["check"]).contains("10 segments, 80 events, 80 waiting, 0 segments with damage"));

    let expected: Vec<Value> =
        text("events.ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(expected.len(), 79);
    let server = Server::start([], Behaviour::Accept(200));
    let file = settings(&place, 60);
    let run = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &server.url()]));
    assert!(run.status.success(), "{}", describe(&run));
    let stored = server.stored();
    assert_eq!(server.deliveries(), stored.len(), "nothing arrived twice");
    let by_id = |events: &[Value]| -> BTreeMap<String, Value> {
        let what =
            |event: &Value| ["source", "type", "boottime", "data"].map(|key| event[key].clone()).to_vec();
        let of_id = |event: &Value| (event["id"].as_str().unwrap().to_owned(), Value::from(what(event)));
        events
            .iter()
            .filter(|event| event["id"].as_str().unwrap().starts_with("mast-7/"))
            .map(of_id)
            .collect()
    };
    let expected_by_id: BTreeMap<String, &Value> =
        expected.iter().map(|event| (event["id"].as_str().unwrap().to_owned(), event)).collect();
    let of_before: Vec<Value> = stored
        .iter()
        .map(|event| match expected_by_id.get(event["id"].as_str().unwrap()) {
            Some(golden) => with_the_keys_of(golden, event),
            None => event.clone(),
        })
        .collect();
    assert_eq!(by_id(&of_before), by_id(&expected), "exactly its events");
    assert!(stored.len() > expected.len(), "and this run's own");
}

/// What `spool check` reports missing is reported by the program too: as a number while the footer is there, as a file without it.
#[test]
fn a_truncated_segment_is_reported() {
    for kept_bytes in [0, 1500, 4096 + 400] {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("spool");
        let file = settings(&place, 0);
        for _ in 0..2 {
            let output = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &nobody()]));
            assert!(output.status.success(), "{}", describe(&output));
        }
        let listed = json_lines(&output(&mut spool(&["ls", "--json"], &place)));
        let is_sealed = |line: &&Value| {
            line["file"].as_str().unwrap().starts_with("details-") && line["state"] == "sealed"
        };
        let first = listed.iter().find(is_sealed).expect("the segment of the first run");
        let path = place.join(first["file"].as_str().unwrap());
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(kept_bytes).unwrap();
        let check = output(&mut spool(&["check"], &place));
        assert_eq!(check.status.code(), Some(1), "{}", describe(&check));
        let text = describe(&check);
        let missing = text.split(" are missing").next().unwrap().rsplit(' ').next().unwrap();
        let server = Server::start([], Behaviour::Accept(200));
        let file = settings(&place, 60);
        let run = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &server.url()]));
        assert_eq!(run.status.code(), Some(5), "{}", describe(&run));
        let stored = server.stored();
        let dropped = common::of_type(&stored, "dropped");
        let degraded = common::of_type(&stored, "degraded");
        if kept_bytes < 4096 {
            assert!(text.contains("an unknown number are missing"), "{text}");
            assert!(
                describe(&run).contains("an unknown number in 1 truncated or damaged files"),
                "{}",
                describe(&run)
            );
            assert!(degraded[0]["reason"].as_str().unwrap().contains("an unknown number of events"));
        } else {
            let missing: u64 = missing.parse().unwrap();
            assert!(missing > 0 && missing < first["events"].as_u64().unwrap(), "{text}");
            assert!(describe(&run).contains(&format!("{missing} damaged on disk")), "{}", describe(&run));
            assert_eq!(dropped.len(), 1);
            assert_eq!(
                (&dropped[0]["reason"], dropped[0]["events"].as_u64()),
                (&Value::from("damage"), Some(missing))
            );
        }
        let names = std::fs::read_dir(&place).unwrap();
        let names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name.starts_with("damaged-details-")).count(), 1);
    }
}

/// The program on an endless recording, with a service manager that listens.
struct Endless {
    child: std::process::Child,
    heard: std::os::unix::net::UnixDatagram,
    _settings: tempfile::NamedTempFile,
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// `more`: further settings; `hang`: while this file exists, syncs of files block.
fn endless(folder: &Path, place: &Path, more: &str, uplink: &str, hang: Option<&Path>) -> Endless {
    let file = settings(place, 5);
    let text = std::fs::read_to_string(file.path()).unwrap();
    let text = text.replace("batch_events_max = 7", "batch_events_max = 7\nqueue_events = 12");
    let file = config(&format!(
        "{text}[camera]\nat_end = \"loop\"\nfps = \"25\"\n[events]\nstats_interval_s = 1\n{more}"
    ));
    let socket = folder.join("notify");
    let _not_there_yet = std::fs::remove_file(&socket);
    let heard = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    heard.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut command = flytrap();
    command.arg("run").arg("--config").arg(file.path()).args(["--uplink", uplink]);
    command.arg("--source").arg(format!("file:{}", data("squares.mjpeg")));
    command.arg("--model").arg(data("squares.onnx")).env("NOTIFY_SOCKET", &socket);
    if let Some(hang) = hang {
        command.env("LD_PRELOAD", library(folder, HANGING_SYNC)).env("FLYTRAP_TEST_HANG", hang);
    }
    let stderr = std::fs::File::create(folder.join("stderr")).unwrap();
    let child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    Endless { child, heard, _settings: file }
}

impl Endless {
    /// The status lines that it reports, until it is silent for half a second.
    fn statuses(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut all = Vec::new();
        while let Ok(count) = self.heard.recv(&mut buffer) {
            all.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
        all.retain(|text| text.starts_with("STATUS="));
        all
    }

    fn wait_for(&mut self, what: &str, there: &dyn Fn() -> bool) {
        for _ in 0..600 {
            if there() {
                return;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the program ended while waiting for {what}");
            flytrap::base::stop::Stop::new().wait(Duration::from_millis(100));
        }
        panic!("{what} did not appear");
    }

    fn wait_for_a_crossing(&self) {
        let counts = |status: &String| crossings_in(status) > 0;
        assert!((0..100).any(|_| self.statuses().iter().any(counts)), "no crossing");
    }

    fn terminate(mut self) -> std::process::ExitStatus {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

/// Builds a library for LD_PRELOAD. Rust needs a C compiler to link, so there is one.
fn library(folder: &Path, text: &str) -> std::path::PathBuf {
    let (source, library) = (folder.join("preload.c"), folder.join("preload.so"));
    std::fs::write(&source, text).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(built.unwrap().success());
    library
}

/// Makes `fdatasync` block while a file exists.
const HANGING_SYNC: &str = r#"
    #define _GNU_SOURCE
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    int fdatasync(int fd) {
        const char *hang = getenv("FLYTRAP_TEST_HANG");
        while (hang && access(hang, F_OK) == 0) usleep(10000);
        return (int)syscall(SYS_fdatasync, fd);
    }
"#;

/// Makes the kernel return EINVAL for `fallocate` and `fsync`, as some file systems do (the spool syncs files with `fdatasync`, folders
/// with `fsync`).
const REFUSING: &str = r#"
    #include <errno.h>
    #include <linux/filter.h>
    #include <linux/seccomp.h>
    #include <stddef.h>
    #include <stdlib.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    __attribute__((constructor)) static void refuse(void) {
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fallocate, 1, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {sizeof code / sizeof code[0], code};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) exit(99);
    }
"#;

/// A file system that can neither reserve space nor sync a folder still holds events.
#[test]
fn a_file_system_that_cannot_reserve_or_sync_folders_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("spool");
    let file = settings(&place, 0);
    let mut command = run_squares();
    command.arg("--config").arg(file.path()).args(["--uplink", &nobody()]);
    command.env("LD_PRELOAD", library(folder.path(), REFUSING));
    let output = output(&mut command);
    if output.status.code() == Some(99) {
        return common::skip("a_file_system_that_cannot_reserve_or_sync_folders", "no seccomp here");
    }
    let text = describe(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("cannot sync a folder") && text.contains("events wait on disk"), "{text}");
    assert!(segments(&place) >= 3);
}

fn segments(place: &Path) -> usize {
    let Ok(files) = std::fs::read_dir(place) else { return 0 };
    files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().ends_with(".seg")).count()
}

/// Crossings in a status line.
fn crossings_in(status: &str) -> u64 {
    status.rsplit("crossings: ").next().unwrap().trim().parse().unwrap()
}

/// A disk whose sync blocks: counting and statistics continue until the watchdog names the spool.
#[test]
fn a_hanging_disk_is_named_and_blocks_no_other_stage() {
    for uplink_works in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (place, hang) = (folder.path().join("spool"), folder.path().join("hang"));
        let server = Server::start([], Behaviour::Accept(200));
        let url = if uplink_works { server.url() } else { nobody() };
        let more = format!(
            "[watchdog]\nstage_timeout_s = 8\n[device]\nstate_folder = {:?}\n",
            folder.path().join("state").display().to_string()
        );
        let mut run = endless(folder.path(), &place, &more, &url, Some(&hang));
        run.wait_for("a segment", &|| segments(&place) > 0);
        run.wait_for_a_crossing();
        std::fs::write(&hang, "").unwrap();
        let began = SystemClock.mono();
        let (mut statuses, mut status) = (Vec::new(), None);
        while status.is_none() {
            assert!(SystemClock.mono().since(began) < Duration::from_secs(60), "the program does not end");
            statuses.extend(run.statuses());
            status = run.child.try_wait().unwrap();
        }
        let stderr = std::fs::read_to_string(folder.path().join("stderr")).unwrap();
        assert!(stderr.contains("the spool hangs") && !stderr.contains("the uplink hangs"), "{stderr}");
        assert_ne!(status.unwrap().code(), Some(0));
        // It hung for at least nine seconds, with statistics each second.
        assert!(statuses.len() >= 6, "statistics stopped: {statuses:?}");
        let (first, last) = (crossings_in(&statuses[0]), crossings_in(statuses.last().unwrap()));
        assert!(last > first, "counting stopped: {statuses:?}");
        std::fs::remove_file(&hang).unwrap();
        let history = std::fs::read_to_string(folder.path().join("state/history.json")).unwrap();
        assert!(history.contains("the spool hangs"), "{history}");
    }
}

/// A disk that recovers before the watchdog's deadline: events that did not fit into the queue are counted.
#[test]
fn a_disk_that_hangs_for_a_while_costs_only_what_the_queue_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (place, hang) = (folder.path().join("spool"), folder.path().join("hang"));
    let server = Server::start([], Behaviour::Accept(200));
    let more = "[watchdog]\nstage_timeout_s = 60\n";
    let mut run = endless(folder.path(), &place, more, &server.url(), Some(&hang));
    run.wait_for("a segment", &|| segments(&place) > 0);
    run.wait_for_a_crossing();
    std::fs::write(&hang, "").unwrap();
    let began = SystemClock.mono();
    let mut statuses = Vec::new();
    while SystemClock.mono().since(began) < Duration::from_secs(12) {
        statuses.extend(run.statuses());
    }
    std::fs::remove_file(&hang).unwrap();
    assert!(statuses.len() >= 8, "{statuses:?}");
    let before = server.stored().len();
    run.wait_for("deliveries", &|| server.stored().len() > before + 20);
    let status = run.terminate();
    assert_eq!(status.code(), Some(5), "events were dropped");
    let stored = server.stored();
    let stats = common::of_type(&stored, "stats");
    let last = stats.iter().max_by_key(|stats| stats["events"].as_u64()).unwrap();
    let dropped = last["events_dropped"].as_u64().unwrap();
    assert!(dropped > 5, "{last}");
    let runs = by_run(&stored);
    assert_eq!(runs.len(), 1);
    let mut seqs = runs.into_values().next().unwrap();
    seqs.sort_unstable();
    seqs.dedup();
    let missing = seqs.last().unwrap() + 1 - seqs.len() as u64;
    assert_eq!(missing, dropped, "each event was delivered, or counted");
    let rss = |stats: &Value| stats["rss_bytes"].as_u64().unwrap();
    let (least, most) =
        (stats.iter().map(|s| rss(s)).min().unwrap(), stats.iter().map(|s| rss(s)).max().unwrap());
    assert!(most < least + (24 << 20), "memory grew from {least} to {most}");
}

/// The folder is removed while the program runs: this is reported, and the program continues in a new one.
#[test]
fn a_removed_folder_is_reported_and_created_again() {
    let folder = tempfile::tempdir().unwrap();
    let (place, away) = (folder.path().join("spool"), folder.path().join("away"));
    let events = folder.path().join("events.ndjson");
    let mut run = endless(folder.path(), &place, "", &format!("file:{}", events.display()), None);
    let read = || std::fs::read_to_string(&events).unwrap_or_default();
    run.wait_for("a segment", &|| segments(&place) > 0);
    std::fs::rename(&place, &away).unwrap();
    run.wait_for("the report about it", &|| {
        read().contains("its folder is gone: the events in it cannot be reached")
    });
    run.wait_for("a segment in a new folder", &|| segments(&place) > 0);
    run.terminate();
    let written = read();
    let runs =
        by_run(&written.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>());
    assert_eq!(runs.len(), 1);
    let mut seqs = runs.into_values().next().unwrap();
    let count = seqs.len();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), count, "each once");
}
