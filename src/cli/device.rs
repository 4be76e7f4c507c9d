//! Replaces the desktop commands in the device build: each one reports where it is available.

use clap::{Args, Subcommand};

use super::Failed;
use crate::base::error::{Error, Kind};
use crate::base::text::DESKTOP_BUILD;

/// Names of the commands that this build leaves out.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    #[command(hide = true)]
    Demo(Anything),
    #[command(hide = true)]
    Eval(Anything),
    #[command(hide = true)]
    Tune(Anything),
    #[command(hide = true)]
    Sim(Anything),
}

/// Any arguments after the name.
#[derive(Debug, Args)]
pub(super) struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<std::ffi::OsString>,
}

/// The command's name, and the error that this build does not have it.
pub(super) fn execute(command: &Command, _json: bool) -> (&'static str, Result<(), Failed>) {
    let name = match command {
        Command::Demo(_) => "demo",
        Command::Eval(_) => "eval",
        Command::Tune(_) => "tune",
        Command::Sim(_) => "sim",
    };
    (
        name,
        Err(Error::fatal(Kind::Config, format!("'{name}' is not in the device build; {DESKTOP_BUILD}"))
            .into()),
    )
}
