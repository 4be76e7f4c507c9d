//! `flytrap try-model`: the child in which a model file is tried that only the user trusts. See [`crate::vision::detect::trial`].

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::error::Result;
use crate::platform::process;
pub(super) use crate::vision::detect::trial::COMMAND;
use crate::vision::detect::trial::{CPU_MAX, Trial};

/// Longest part of a panic's message that is reported, characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// Arguments, set by the parent process.
#[derive(Debug, Args)]
pub(super) struct TrialArgs {
    #[arg(long)]
    model: PathBuf,
    #[arg(long)]
    sha256: String,
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    instructions: String,
    #[arg(long)]
    precision: String,
    #[arg(long)]
    ranges: PathBuf,
    #[arg(long)]
    size: Vec<String>,
    #[arg(long)]
    tract: bool,
}

/// Limits this process and tries the model. On failure it prints the reason on stdout in one line; the exit code is the error's.
pub(super) fn try_model(args: &TrialArgs) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a panic");
        let message: String =
            message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_CHARS_MAX).collect();
        say(&format!("reading it failed with '{message}'"));
    }));
    match limited(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn limited(args: &TrialArgs) -> Result<()> {
    let TrialArgs { model, sha256, threads, instructions, precision, ranges, size, tract } = args;
    let trial =
        Trial::from_arguments((model, sha256), (*threads, instructions, precision), ranges, size, *tract)?;
    let file_bytes = std::fs::metadata(model).map_or(0, |file| file.len());
    process::limit_self(trial.memory_bytes_max(file_bytes), CPU_MAX)?;
    trial.run()
}

fn say(line: &str) {
    // The parent may have exited.
    let _ignored = writeln!(std::io::stdout(), "{line}");
}
