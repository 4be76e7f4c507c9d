//! `flytrap selftest`: does the network find what it must on this machine?

use clap::Args;

use super::{Failed, Settings, print, print_json, start_log};
use crate::tools::selftest::check;

/// What `flytrap selftest` is told.
#[derive(Debug, Args)]
pub(super) struct SelftestArgs {
    #[command(flatten)]
    settings: Settings,
    /// Write down what a model finds, beside its file as NAME.selftest.toml, once two executors agree: for models that flytrap does
    /// not ship.
    #[arg(long)]
    record: bool,
}

/// Tests, or records.
pub(super) fn selftest(args: &SelftestArgs, json: bool) -> Result<(), Failed> {
    let config = args.settings.load_or_builtin(json)?;
    start_log(&config);
    let done = check(&config, args.record)?;
    if json {
        return print_json(&done);
    }
    let line = match &done.recorded {
        Some(place) => format!("recorded {} boxes of {}: {place}", done.boxes, done.model),
        None => format!(
            "passed: {} finds all {} road users that it must ({})",
            done.model, done.boxes, done.engine
        ),
    };
    Ok(print(&line)?)
}
