//! Malicious model files that the user trusts: each ends in one line and exit code 3, with bounded memory and time.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use sha2::Digest as _;

use crate::common;

/// Limit of the address space of the program and its child, kB.
const ADDRESS_SPACE_KB: u32 = 4 << 20;
/// Time limit; the trial itself allows 30 s of CPU time.
const TIME_MAX: Duration = Duration::from_secs(120);

/// The generated models that are unusual but harmless, if they load.
const HARMLESS: &[&str] = &[
    "conv_kernel_larger",
    "dup_node_names",
    "good",
    "imgsz_neg",
    "init_zero_dims",
    "input_2048",
    "input_batch",
    "input_zero",
    "resize_nan",
    "resize_zero",
    "stride0",
    "two_outputs",
];

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A field of bytes in the wire format of Protocol Buffers.
fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn integer(number: u64, value: i64) -> Vec<u8> {
    [varint(number << 3), varint(value.cast_unsigned())].concat()
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs = inputs.iter().flat_map(|input| bytes(1, input.as_bytes()));
    let attributes = attributes.iter().flat_map(|attribute| bytes(5, attribute));
    let named = [bytes(2, output.as_bytes()), bytes(4, op.as_bytes())].concat();
    inputs.chain(named).chain(attributes).collect()
}

fn attribute(name: &str, numbers: &[i64]) -> Vec<u8> {
    let numbers = numbers.iter().flat_map(|number| integer(8, *number));
    bytes(1, name.as_bytes()).into_iter().chain(integer(20, 7)).chain(numbers).collect()
}

/// A tensor of 64-bit integers.
fn integers(name: &str, numbers: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    [integer(1, numbers.len() as i64), integer(2, 7), bytes(8, name.as_bytes()), bytes(9, &raw)].concat()
}

fn value(name: &str, sides: &[i64]) -> Vec<u8> {
    let sides: Vec<u8> = sides.iter().flat_map(|side| bytes(1, &integer(1, *side))).collect();
    let tensor = [integer(1, 1), bytes(2, &sides)].concat();
    [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
}

/// A model that looks like a detector of two classes: its mean, expanded to `shape`, after `nodes`.
fn model(nodes: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
    let metadata =
        |key: &str, text: &str| bytes(14, &[bytes(1, key.as_bytes()), bytes(2, text.as_bytes())].concat());
    let graph: Vec<u8> = nodes
        .iter()
        .map(|node| bytes(1, node))
        .chain([bytes(2, b"g")])
        .chain(tensors.iter().map(|tensor| bytes(5, tensor)))
        .chain([bytes(11, &value("images", &[1, 3, 32, 32])), bytes(12, &value("output0", &[1, 6, 21]))])
        .flatten()
        .collect();
    [
        integer(1, 8),
        bytes(7, &graph),
        bytes(8, &integer(2, 17)),
        metadata("task", "detect"),
        metadata("names", "{0: 'person', 1: 'car'}"),
    ]
    .concat()
}

fn mean() -> Vec<u8> {
    let no_dimensions = [bytes(1, b"keepdims"), integer(3, 0), integer(20, 2)].concat();
    node("ReduceMean", &["images"], "mean", &[attribute("axes", &[0, 1, 2, 3]), no_dimensions])
}

/// Runs `detect` with the model, trusted by its hash.
fn detect(path: &Path) -> Output {
    let hash: String =
        sha2::Sha256::digest(std::fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut shell = Command::new("sh");
    let limited = format!("ulimit -v {ADDRESS_SPACE_KB}; ulimit -c 0; exec \"$@\"");
    shell.args(["-c", &limited, "sh", env!("CARGO_BIN_EXE_flytrap"), "detect", "--model"]).arg(path);
    shell.args(["--model-sha256", &hash, &common::data("pixels/420-even.jpg")]).stdin(Stdio::null());
    let child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = rustix::process::Pid::from_child(&child);
    let (ended, end) = std::sync::mpsc::channel();
    let timer = std::thread::spawn(move || {
        if end.recv_timeout(TIME_MAX).is_err() {
            let _gone = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    ended.send(()).unwrap();
    timer.join().unwrap();
    output
}

/// The single line of an error; log lines may come before it.
fn error_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let (log, errors): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains(" INFO "));
    assert!(errors.len() == 1 && errors[0].len() < 1500, "one line: {log:?} {errors:?}");
    assert!(!errors[0].contains(|c: char| c.is_control()), "{errors:?}");
    errors[0].to_owned()
}

#[test]
fn models_that_crash_the_importer_end_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let expand = node("Expand", &["mean", "shape"], "output0", &[]);
    let shape = integers("shape", &[1, 6, 21]);
    let range = node("ConstantOfShape", &["sides"], "filled", &[]);
    let of_filled = node("ReduceMean", &["filled"], "mean", &[attribute("axes", &[0])]);
    let steps = node("Slice", &["images", "zero", "end", "axis", "zero"], "part", &[]);
    let of_part = node("ReduceMean", &["part"], "mean", &[attribute("axes", &[0, 1, 2, 3])]);
    for (name, bytes, part) in [
        (
            "a slice in steps of nothing",
            model(
                &[steps, of_part, expand.clone()],
                &[shape.clone(), integers("zero", &[0]), integers("end", &[9]), integers("axis", &[2])],
            ),
            "reading it failed with",
        ),
        (
            "16 GB made from one number",
            model(
                &[range.clone(), of_filled.clone(), expand.clone()],
                &[shape.clone(), integers("sides", &[2_000_000_000])],
            ),
            "failed to allocate",
        ),
        (
            // Less than this test's own limit: only the trial's limit refuses it.
            "1.6 GB made from one number",
            model(&[range, of_filled, expand.clone()], &[shape, integers("sides", &[400_000_000])]),
            "failed to allocate",
        ),
        (
            "half a billion boxes",
            model(&[mean(), expand.clone()], &[integers("shape", &[1, 6, 80_000_000])]),
            "anchors",
        ),
        ("a picture in another file", model(&[mean(), expand], &[bytes(13, b"")]), "other files"),
    ] {
        let path = folder.path().join("hostile.onnx");
        std::fs::write(&path, bytes).unwrap();
        let output = detect(&path);
        assert_eq!(output.status.code(), Some(3), "{name}: {}", common::describe(&output));
        let line = error_line(&output);
        assert!(line.contains(part) && line.contains("hostile.onnx"), "{name}: {line}");
    }
}

/// The trial of a sound model that only the user trusts costs nothing but time: on our executor, and on tract.
#[test]
fn a_sound_model_that_only_the_user_trusts_passes_its_trial() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.onnx");
    for file in ["models/street-320.onnx".to_owned(), common::data("squares.onnx")] {
        let mut file = std::fs::read(file).unwrap();
        // A changed text in it, so another hash.
        file.extend(bytes(6, b"mine"));
        std::fs::write(&path, &file).unwrap();
        let output = detect(&path);
        assert_eq!(output.status.code(), Some(0), "{}", common::describe(&output));
    }
}

#[test]
fn generated_hostile_models_end_in_one_line() {
    let test = "generated_hostile_models_end_in_one_line";
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/cases/models"));
    if !source.join("models.py").is_file() {
        common::skip(test, "../shared/cases/models is not there");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for file in ["models.py", "pb.py"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let made =
        Command::new("python3").arg("models.py").current_dir(folder.path()).stdout(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        common::skip(test, "python3 does not run models.py");
        return;
    }
    let mut paths: Vec<_> = std::fs::read_dir(folder.path().join("made"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "onnx"))
        .collect();
    paths.sort();
    assert!(paths.len() > 50, "{paths:?}");
    let mut refused = 0;
    for path in &paths {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let output = detect(path);
        match output.status.code() {
            Some(0) => assert!(HARMLESS.contains(&name), "{name} loads: {}", common::describe(&output)),
            Some(3) => {
                let line = error_line(&output);
                assert!(line.contains(name) || line.contains("input"), "{name}: {line}");
                refused += 1;
            }
            _ => panic!("{name}: {}", common::describe(&output)),
        }
    }
    common::say(&format!(
        "MEASURED {refused} of {} generated models refused, the others do no harm",
        paths.len()
    ));
}
