//! `flytrap selftest`: does the network give the expected detections on this machine?

use clap::Args;

use super::{Failed, Settings, print, print_json, start_log};
use crate::tools::selftest::check;

/// Arguments of `flytrap selftest`.
#[derive(Debug, Args)]
pub(super) struct SelftestArgs {
    #[command(flatten)]
    settings: Settings,
    /// Record the detections of a model beside its file, as NAME.selftest.toml, once two executors agree on them; for models that flytrap
    /// does not ship.
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
        None => {
            format!("passed: {} finds all {} expected road users ({})", done.model, done.boxes, done.engine)
        }
    };
    Ok(print(&line)?)
}
