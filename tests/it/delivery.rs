//! The program against a receiver over real sockets: every event of a run arrives once, whatever the receiver does in between.

use std::process::{Child, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::{
    check_sequence, config, crossings, data, describe, flytrap, json_lines, of_type, output, run_squares,
    squares_truth,
};
use crate::receivers::server::{Behaviour, Server};

/// Small batches that are sent immediately, quick retries, a long drain time.
const EAGER: &str = "[uplink]\nclock_wait_s = 0\nbatch_events_max = 3\nbatch_age_max_s = 0.1\nbackoff_first_s = 0.1\nbackoff_cap_s = 0.2\n\
                     drain_s = 60\n";

/// A deadline that a hanging receiver exceeds soon. On a busy test machine others may exceed it too, so only that receiver gets it.
const HASTY: &str = "response_timeout_s = 1\n";

/// The part of every event that does not depend on when and how often the program ran.
fn facts(events: &[Value]) -> Vec<(String, Value)> {
    let lasting = |event: &&Value| {
        // Runs differ in their own events; what was seen does not.
        ["track.begin", "track.end", "crossing"].iter().any(|kind| event["type"] == format!("flytrap.{kind}"))
    };
    let fact = |event: &Value| (event["type"].to_string(), event["data"].clone());
    events.iter().filter(lasting).map(fact).collect()
}

/// The stored events by sequence number.
fn stored(server: &Server) -> Vec<Value> {
    let mut events = server.stored();
    events.sort_by_key(|event| {
        event["id"].as_str().unwrap().rsplit('/').next().unwrap().parse::<u64>().unwrap()
    });
    events
}

#[test]
fn every_event_arrives_once_whatever_the_receiver_does() {
    let alone = output(&mut run_squares());
    assert!(alone.status.success(), "{}", describe(&alone));
    let expected = facts(&json_lines(&alone));
    assert!(expected.len() > 20, "{expected:?}");
    let truth = squares_truth();
    for behaviour in [
        Behaviour::Accept(200),
        Behaviour::Status(500),
        Behaviour::Hang,
        Behaviour::CutBeforeBody,
        Behaviour::CutAfterBody,
        Behaviour::CutInHead,
        Behaviour::CutInReply,
        Behaviour::Redirect,
        Behaviour::Status(401),
        Behaviour::OneByOne,
        Behaviour::AtMost(2),
    ] {
        // The receiver behaves like this at the start, then again in the middle of the run.
        let script = [behaviour, behaviour, Behaviour::Accept(204), Behaviour::Accept(200), behaviour];
        let server = Server::start(script, Behaviour::Accept(202));
        let hangs = behaviour == Behaviour::Hang;
        let file = config(&if hangs { format!("{EAGER}{HASTY}") } else { EAGER.to_owned() });
        let output = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", &server.url()]));
        assert!(output.status.success(), "{behaviour:?}: {}", describe(&output));
        assert_eq!(output.stdout, b"", "{behaviour:?}: events went to stdout");
        let events = stored(&server);
        check_sequence(&events);
        assert_eq!(crossings(&events), truth, "{behaviour:?}");
        assert_eq!(facts(&events), expected, "{behaviour:?}");
        let requests = server.requests();
        assert!(requests.len() > 5, "{behaviour:?}: too few requests for the script");
        let confirms = matches!(behaviour, Behaviour::Accept(_) | Behaviour::CutInReply);
        let halves = matches!(behaviour, Behaviour::OneByOne | Behaviour::AtMost(_));
        if !confirms && !halves {
            let retries: Vec<_> = requests.windows(2).filter(|pair| pair[0].behaviour == behaviour).collect();
            assert_eq!(retries.len(), 3, "{behaviour:?}: each failure of the script is followed by a retry");
            assert!(retries.iter().all(|pair| pair[0].key() == pair[1].key()), "{behaviour:?}: {retries:#?}");
        }
        let repeats = server.deliveries() - events.len();
        let commits_silently = matches!(behaviour, Behaviour::CutAfterBody | Behaviour::CutInHead);
        assert!(
            hangs || (repeats > 0) == commits_silently,
            "{behaviour:?}: {repeats} events arrived more than once"
        );
    }
}

/// stderr as text.
fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exits with 5; the last line names the receiver's address and says that all 30 events are undelivered and none refused; a line before it
/// names the remedy.
fn loses_all_but_says_so(url: &str, remedy: &str) {
    let file = config("[uplink]\nbackoff_first_s = 0.1\ndrain_s = 1\n");
    let output = output(run_squares().arg("--config").arg(file.path()).args(["--uplink", url]));
    assert_eq!(output.status.code(), Some(5), "{}", describe(&output));
    let errors = errors(&output);
    let last = errors.lines().last().unwrap();
    assert!(last.contains(&format!("30 not delivered to {url}")) && last.contains(" 0 refused"), "{last}");
    assert!(errors.contains(remedy), "{errors}");
}

#[test]
fn a_missing_receiver_is_reported_in_one_line_and_by_the_exit_code() {
    // On an address of its own, so that no receiver of another test gets the port during this one.
    let listener = std::net::TcpListener::bind(("127.0.0.2", 0)).unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    drop(listener);
    loses_all_but_says_so(&url, "check the link and whether the receiver runs");
}

#[test]
fn a_receiver_that_refuses_everything_is_reported_and_nothing_counts_as_refused() {
    let server = Server::start([], Behaviour::Status(422));
    loses_all_but_says_so(&server.url(), "check which program responds at that URL");
}

/// After the end of a recording the first signal is the first one: the last events keep their drain time.
#[test]
fn one_signal_after_the_source_ended_does_not_cut_the_delivery_short() {
    let listener = std::net::TcpListener::bind(("127.0.0.2", 0)).unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    drop(listener);
    let file = config("[uplink]\nbackoff_first_s = 0.1\ndrain_s = 3\n");
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = run_squares();
    command.arg("--config").arg(file.path()).args(["--uplink", &url]);
    let mut running = Running(command.stderr(log.reopen().unwrap()).spawn().unwrap());
    let text = || std::fs::read_to_string(log.path()).unwrap();
    while !text().contains("the source ended") {
        assert!(running.0.try_wait().unwrap().is_none(), "{}", text());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&running.0),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(5), "{}", text());
    assert!(text().contains("terminated: already shutting down"), "{}", text());
    assert!(text().contains("within uplink.drain_s") && !text().contains("exited immediately"), "{}", text());
}

/// A child process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_stop_signal_delivers_waiting_events_and_the_final_report() {
    let server = Server::start([], Behaviour::Accept(200));
    let file = config(&format!("{EAGER}[camera]\nat_end = \"loop\"\n"));
    let mut command = flytrap();
    command.arg("run").arg("--config").arg(file.path()).args(["--uplink", &server.url()]);
    command.arg("--source").arg(format!("file:{}", data("squares.mjpeg")));
    command.arg("--model").arg(data("squares.onnx")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    server.wait_for_requests(3);
    let id = i32::try_from(running.0.id()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), rustix::process::Signal::TERM)
        .unwrap();
    let status = running.0.wait().unwrap();
    assert!(status.success(), "{status}");
    let events = stored(&server);
    check_sequence(&events);
    assert_eq!(of_type(&events, "stopping").last().unwrap()["reason"], "terminated");
    assert_eq!(of_type(&events, "stats").len(), 1, "the final statistics are sent at the end");
}
