//! Shared by the tests: the location of real input, and helpers to run the binary.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "each test uses its part")]
#![allow(clippy::explicit_write, reason = "the test harness keeps what eprintln says")]

pub(crate) mod daemon;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The folder of real models, photos and video beside the project, if it exists. If not, prints that `test` is skipped: not with
/// `eprintln`, which the test harness captures.
pub(crate) fn shared(test: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared"));
    if folder.join("models/yolo11n-320.onnx").is_file() {
        return Some(folder);
    }
    skip(test, "../shared (real models, photos, video) is not there");
    None
}

/// Whether `ffmpeg` is installed; if not, prints that `test` is skipped.
pub(crate) fn ffmpeg(test: &str) -> bool {
    let found = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        skip(test, "ffmpeg is not installed");
    }
    found
}

/// Whether `scripts/check.sh full` is running. If not, prints which part of `test` is left out because it takes too long.
pub(crate) fn is_full(test: &str, left_out: &str) -> bool {
    let is_full = std::env::var_os("FLYTRAP_FULL").is_some();
    if !is_full {
        skip(test, &format!("{left_out}: only in scripts/check.sh full (FLYTRAP_FULL=1)"));
    }
    is_full
}

/// Prints that `test` is skipped.
pub(crate) fn skip(test: &str, why: &str) {
    say(&format!("SKIPPED {test}: {why}"));
}

/// The built-in model with the signs of some weights flipped, as `damaged.onnx` in `folder`, and its sha256. Beside it lies the sound
/// model's record under the hash of the damaged one, so a self-test has to fail.
pub(crate) fn damaged_model(folder: &Path) -> (PathBuf, String) {
    use sha2::Digest as _;
    let mut bytes = std::fs::read("models/street-320.onnx").unwrap();
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 4096] {
        *byte ^= 0x80;
    }
    let hash: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let model = folder.join("damaged.onnx");
    std::fs::write(&model, &bytes).unwrap();
    let record = std::fs::read_to_string("models/street-320.selftest.toml").unwrap();
    let own = record.replacen(record.lines().next().unwrap(), &format!("model = \"{hash}\""), 1);
    std::fs::write(folder.join("damaged.selftest.toml"), own).unwrap();
    (model, hash)
}

/// The seed of a random test: `FLYTRAP_SEED`, else drawn from the clock. Prints it.
pub(crate) fn seed(test: &str) -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed =
        std::env::var("FLYTRAP_SEED").map_or(now, |text| text.parse().expect("FLYTRAP_SEED is a number"));
    say(&format!("SEED {test}: {}", repeat(test, seed)));
    seed
}

/// The command that repeats a random test.
pub(crate) fn repeat(test: &str, seed: u64) -> String {
    format!("FLYTRAP_SEED={seed} cargo test --test it {test}")
}

/// A line on the real stderr, in one piece: other tests write there too.
pub(crate) fn say(line: &str) {
    std::io::stderr().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}

/// A file of tests/data.
pub(crate) fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The program. Its status socket, if it has one, is not that of a service on this machine.
pub(crate) fn flytrap() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flytrap"));
    command.stdin(Stdio::null()).env("RUNTIME_DIRECTORY", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// The program in a session of its own, without a terminal, and with SIGHUP as usual: the caller of the tests may ignore it (`nohup`),
/// which is inherited. `None`, printed as skipped: the tools for that are not installed.
pub(crate) fn without_terminal(test: &str) -> Option<Command> {
    let done = Command::new("env").args(["--default-signal=HUP", "setsid", "true"]).status();
    if !done.is_ok_and(|status| status.success()) {
        skip(test, "env --default-signal (coreutils 8.31) or setsid (util-linux) is not installed");
        return None;
    }
    let mut command = Command::new("setsid");
    command.args(["env", "--default-signal=HUP", env!("CARGO_BIN_EXE_flytrap")]).stdin(Stdio::null());
    Some(command)
}

/// Runs to the end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Both streams as text, for messages.
pub(crate) fn describe(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// stdout as one JSON value a line.
pub(crate) fn json_lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The events of a type, without `flytrap.` in front.
pub(crate) fn of_type<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| event["type"] == format!("flytrap.{kind}"))
        .map(|event| &event["data"])
        .collect()
}

/// `run` on the clip of coloured squares with its hand-written detector: the whole program without external input.
pub(crate) fn run_squares() -> Command {
    let mut command = flytrap();
    command.args(["run", "--until-end", "--source"]);
    command.arg(format!("file:{}", data("squares.mjpeg"))).arg("--model").arg(data("squares.onnx"));
    command
}

/// A configuration file with this text.
pub(crate) fn config(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// Crossings by class and direction.
pub(crate) fn crossings(events: &[Value]) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for crossing in of_type(events, "crossing") {
        let text = |key: &str| crossing[key].as_str().unwrap().to_owned();
        *counts.entry((text("class"), text("direction_name"))).or_default() += 1;
    }
    counts
}

/// Checks: sequence numbers without a gap from 0, unique ids, `started` first and `stopping` last.
pub(crate) fn check_sequence(events: &[Value]) {
    for (number, event) in events.iter().enumerate() {
        let id = event["id"].as_str().unwrap();
        assert_eq!(id.rsplit('/').next().unwrap(), number.to_string(), "{id}");
    }
    assert_eq!(events.first().unwrap()["type"], "flytrap.started");
    assert_eq!(events.last().unwrap()["type"], "flytrap.stopping");
}

/// The crossings that tests/data/make.py drew in the clip of squares.
pub(crate) fn squares_truth() -> BTreeMap<(String, String), u64> {
    let truth = std::fs::read_to_string(data("squares.truth.json")).unwrap();
    let truth: Value = serde_json::from_str(&truth).unwrap();
    let lines = truth["crossings"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    lines.map(|line| ((text(&line[0]), text(&line[1])), line[2].as_u64().unwrap())).collect()
}
