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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    #[test]
    fn a_command_that_is_left_out_names_the_desktop_build() {
        for line in [["flytrap", "demo", "--seconds", "5"], ["flytrap", "tune", "--model", "x.onnx"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            let super::super::Command::Desktop(command) = cli.command else { panic!("{line:?}") };
            let (name, outcome) = execute(&command, false);
            let Err(Failed::Error(error)) = outcome else { panic!("{line:?}") };
            assert_eq!((name, error.kind()), (line[1], Kind::Config));
            assert!(error.to_string().contains("cargo build --release"), "{error}");
        }
    }
}
