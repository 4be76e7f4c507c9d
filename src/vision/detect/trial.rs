//! A trial of a model file in a child process.
//!
//! tract reads the models that users bring. It panics on some malformed files, and a file of 300 bytes can make it ask for gigabytes or for
//! days of work (a tensor filled to given sides, a range, a loop). We abort on a panic and cannot take memory back from it, so a file that
//! only the user trusts is planned and run once in a child process first, with limits on memory and time; whatever happens there is
//! reported here in one line. A file that stays within the child's limits does so in this process as well: it does the same again.
//!
//! ```text
//!   parent                                   child: PROGRAM try-model …
//!   bounded walk, metadata (no tract)
//!   run_in_child ──── arguments ───────────► limits itself, checks the file's hash again
//!       │                                    plan, start, run each input size once
//!       ◄──── exit code, one line ────────── the error, phrased as this process would
//!   plan, start, run
//! ```

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::engine::{EngineParams, Isa, Precision};
use super::letterbox::{PADDING, Size};
use super::model::{Loaded, Params};
use crate::base::error::{Error, Kind, Result};

/// The hidden command that is started.
pub const COMMAND: &str = "try-model";

/// Maximum CPU time of the child, on all its threads. YOLO11n takes about a second on a Cortex-A53.
pub const CPU_MAX: Duration = Duration::from_secs(30);
/// Maximum time until the child has ended, on a machine that has other work too.
const WALL_MAX: Duration = Duration::from_secs(90);
/// Memory limit of the child: this many bytes,
const MEMORY_BASE: u64 = 256 << 20;
/// plus this many bytes for each byte of the file (parsed, as tract's tensors, as our graph, packed: Winograd's weights take four times as
/// much),
const MEMORY_PER_FILE_BYTE: u64 = 8;
/// plus this many for each pixel of the largest input (data between layers; YOLO11n takes about 50 on our executor).
const MEMORY_PER_PIXEL: u64 = 256;
/// Maximum length of the child's answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 2048;

/// Exit code of a process that was created, but whose program could not be started.
const NOT_STARTED: i32 = 127;

/// The executor to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// Our own, or tract where it does not support the model.
    Any,
    /// tract.
    Tract,
}

/// What to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The model.
    pub model: Params,
    /// The hash of its file, lower-case hex.
    pub sha256: String,
    /// Input sizes, the largest first.
    pub sizes: Vec<Size>,
    /// The executor.
    pub executor: Executor,
}

impl Trial {
    /// Memory limit of the child, bytes, for a file of that many bytes.
    pub fn memory_bytes_max(&self, file_bytes: u64) -> u64 {
        let pixels = self.sizes.iter().map(|size| (size.width * size.height) as u64).max().unwrap_or(0);
        MEMORY_BASE
            .saturating_add(file_bytes.saturating_mul(MEMORY_PER_FILE_BYTE))
            .saturating_add(pixels.saturating_mul(MEMORY_PER_PIXEL))
    }

    /// The arguments of [`COMMAND`].
    fn arguments(&self) -> Vec<OsString> {
        let EngineParams { threads, isa, precision } = self.model.engine;
        let mut all: Vec<OsString> = vec![COMMAND.into(), "--model".into(), self.model.path.clone().into()];
        let texts = [
            ("--sha256", self.sha256.clone()),
            ("--threads", threads.to_string()),
            ("--instructions", isa.name().to_owned()),
            ("--precision", precision.name().to_owned()),
        ];
        all.extend(texts.into_iter().flat_map(|(option, text)| [option.into(), text.into()]));
        all.extend(["--ranges".into(), self.model.ranges().into()]);
        for Size { width, height } in &self.sizes {
            all.extend(["--size".into(), format!("{width}x{height}").into()]);
        }
        all.extend((self.executor == Executor::Tract).then(|| "--tract".into()));
        all
    }

    /// Parses these arguments; sizes as `640x384`, width first.
    ///
    /// # Errors
    /// `Kind::Config`: they are not what this program writes.
    pub fn from_arguments(
        model: (&Path, &str),
        (threads, isa, precision): (usize, &str, &str),
        ranges: &Path,
        sizes: &[String],
        is_tract: bool,
    ) -> Result<Self> {
        let wrong = || Error::fatal(Kind::Config, format!("{COMMAND} is for the program's own use"));
        let size = |text: &String| -> Option<Size> {
            let (width, height) = text.split_once('x')?;
            Some(Size { width: width.parse().ok()?, height: height.parse().ok()? })
        };
        let isa = Isa::named(isa).ok_or_else(wrong)?;
        let precision =
            Precision::ALL.into_iter().find(|known| known.name() == precision).ok_or_else(wrong)?;
        let sha256 = model.1.to_owned();
        Ok(Trial {
            model: Params {
                path: model.0.to_owned(),
                sha256: Some(sha256.clone()),
                engine: EngineParams { threads, isa, precision },
                ranges: Some(ranges.to_owned()),
                trial: None,
            },
            sha256,
            sizes: sizes.iter().map(size).collect::<Option<_>>().ok_or_else(wrong)?,
            executor: if is_tract { Executor::Tract } else { Executor::Any },
        })
    }

    /// The child's part: plans the network and runs it once at each size, with every anchor computed. The limits are already set.
    ///
    /// # Errors
    /// As [`Loaded::open`], [`Loaded::plan`] and `Engine::run`.
    pub fn run(&self) -> Result<()> {
        let loaded = Loaded::open(&self.model)?;
        let (mut engine, _) = match (self.executor, self.sizes.first()) {
            (Executor::Tract, Some(size)) => loaded.into_tract(*size)?,
            (Executor::Tract | Executor::Any, _) => loaded.plan(&self.sizes)?.start()?,
        };
        for index in 0..engine.input_sizes().len().max(1) {
            engine.select(index);
            engine.input().fill(PADDING);
            engine.run(0.0)?;
        }
        Ok(())
    }

    /// The parent's part: starts `program` for the trial.
    ///
    /// # Errors
    /// The child's error; `Kind::Model` if a limit or the file ended it; `Kind::System` if no child can be started.
    pub fn run_in_child(&self, program: &Path) -> Result<()> {
        let no_child = |error: std::io::Error| self.not_started(program).caused_by(error);
        let mut child = Command::new(program)
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(no_child)?;
        let mut answer = Vec::new();
        let mut in_time = true;
        if let Some(pipe) = child.stdout.take() {
            // It writes nothing until it is done.
            in_time = is_ready(&pipe);
            if in_time {
                let _what_came = pipe.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
            }
        }
        if !in_time {
            let _is_gone_already = child.kill();
        }
        let status = child.wait().map_err(no_child)?;
        // Where a process is created without waiting for its program (as on emulated CPUs), only this code shows the failure.
        if status.code() == Some(NOT_STARTED) && answer.is_empty() {
            return Err(self.not_started(program));
        }
        self.judge(in_time.then_some(status), &String::from_utf8_lossy(&answer))
    }

    fn not_started(&self, program: &Path) -> Error {
        let text = format!(
            "'{}' cannot be started to try the model '{}' in a process of its own: mount /proc, and allow this user to start processes",
            program.display(),
            self.model.path.display()
        );
        Error::fatal(Kind::System, text)
    }

    /// What the child's exit means; `None`: it had to be killed.
    fn judge(&self, status: Option<ExitStatus>, answer: &str) -> Result<()> {
        let answer = answer.lines().next().unwrap_or_default().trim();
        let code = status.and_then(|status| status.code());
        let kind = match code {
            Some(0) => return Ok(()),
            Some(1) => Some(Kind::System),
            Some(2) => Some(Kind::Config),
            Some(3) => Some(Kind::Model),
            Some(_) | None => None,
        };
        if let Some(kind) = kind.filter(|_| !answer.is_empty()) {
            return Err(Error::fatal(kind, answer));
        }
        let why = match status.map(|status| (status.signal(), status)) {
            None => format!("its trial did not end within {} s", WALL_MAX.as_secs()),
            Some((Some(libc::SIGXCPU | libc::SIGKILL), _)) => {
                format!("its trial computed for more than {} s, or the machine ended it", CPU_MAX.as_secs())
            }
            Some((Some(_), _)) if !answer.is_empty() => answer.to_owned(),
            Some((Some(_), _)) => {
                "it asks for more memory than a detector of its size needs, or without limit".into()
            }
            Some((None, status)) => format!("{status} {answer}"),
        };
        let text = format!(
            "model '{}' cannot be loaded: it was tried in a process of its own, and {why}; the file is damaged or malicious, export \
             it again with format=onnx",
            self.model.path.display()
        );
        Err(Error::fatal(Kind::Model, text))
    }
}

/// Waits until there is something to read, or the other end is closed. False: [`WALL_MAX`] is over.
fn is_ready(pipe: &impl AsFd) -> bool {
    let limit = Timespec { tv_sec: WALL_MAX.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&limit)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(path: &str) -> Trial {
        Trial {
            model: Params {
                path: path.into(),
                sha256: Some("00".repeat(32)),
                engine: EngineParams { threads: 3, ..EngineParams::default() },
                ranges: Some("/r.toml".into()),
                trial: None,
            },
            sha256: "00".repeat(32),
            sizes: vec![Size { width: 640, height: 384 }, Size { width: 320, height: 192 }],
            executor: Executor::Tract,
        }
    }

    #[test]
    fn the_child_reads_what_the_parent_writes() {
        let sent = trial("/m.onnx");
        let arguments = sent.arguments();
        let texts: Vec<&str> = arguments.iter().map(|text| text.to_str().unwrap()).collect();
        let after = |option: &str| texts[texts.iter().position(|text| *text == option).unwrap() + 1];
        let sizes: Vec<String> =
            texts.windows(2).filter(|two| two[0] == "--size").map(|two| two[1].to_owned()).collect();
        let isa = (after("--threads").parse().unwrap(), after("--instructions"), after("--precision"));
        let model = (Path::new(after("--model")), after("--sha256"));
        let read =
            Trial::from_arguments(model, isa, after("--ranges").as_ref(), &sizes, texts.contains(&"--tract"));
        assert_eq!(read.unwrap(), sent);
        for (isa, size) in [("z80", "640x384"), (isa.1, "640")] {
            let wrong =
                Trial::from_arguments(model, (1, isa, "fp32"), "".as_ref(), &[size.to_owned()], false);
            assert_eq!(wrong.unwrap_err().kind(), Kind::Config, "{isa} {size}");
        }
    }

    #[test]
    fn every_end_of_the_child_is_one_line() {
        let trial = trial("/m.onnx");
        let exited = |code: i32| Some(ExitStatus::from_raw(code << 8));
        let killed = |signal: i32| Some(ExitStatus::from_raw(signal));
        trial.judge(exited(0), "").unwrap();
        for (status, answer, kind, part) in [
            (
                exited(3),
                "'/m.onnx': cannot read the network\n",
                Kind::Model,
                "'/m.onnx': cannot read the network",
            ),
            (exited(2), "no fp16", Kind::Config, "no fp16"),
            (exited(3), "", Kind::Model, "damaged"),
            (exited(1), "no threads", Kind::System, "no threads"),
            (exited(7), "?", Kind::Model, "exit status: 7 ?"),
            (killed(libc::SIGXCPU), "", Kind::Model, "more than 30 s"),
            (
                killed(libc::SIGABRT),
                "reading it failed with 'divide by zero'\n",
                Kind::Model,
                "divide by zero",
            ),
            (killed(libc::SIGABRT), "", Kind::Model, "more memory"),
            (None, "", Kind::Model, "within 90 s"),
        ] {
            let error = trial.judge(status, answer).unwrap_err();
            let text = error.to_string();
            assert!(error.kind() == kind && text.contains(part) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_missing_or_silent_program_is_an_error() {
        let error = trial("/m.onnx").run_in_child(Path::new("/nowhere/flytrap")).unwrap_err();
        assert_eq!(error.kind(), Kind::System);
        let error = trial("/m.onnx").run_in_child(Path::new("/bin/false")).unwrap_err();
        assert!(error.kind() == Kind::Model && error.to_string().contains("exit status: 1"), "{error}");
    }
}
