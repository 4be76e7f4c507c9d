//! `flytrap calibrate`: measures the value ranges that int8 needs.

use std::path::PathBuf;

use clap::Args;

use super::{Failed, PictureBar, Settings, print, print_json, start_log};
use crate::tools::calibrate::{Params, calibrate as run};

/// Arguments of `flytrap calibrate`.
#[derive(Debug, Args)]
pub(super) struct CalibrateArgs {
    #[command(flatten)]
    settings: Settings,
    /// Folder of pictures like those of the camera: some tens, by day and by night.
    #[arg(long, value_name = "FOLDER")]
    images: PathBuf,
}

/// Measures, writes the file, and prints its path.
pub(super) fn calibrate(args: &CalibrateArgs, json: bool) -> Result<(), Failed> {
    let config = args.settings.load(Vec::new(), json)?;
    start_log(&config);
    let bar = PictureBar::new("calibrate");
    let params = Params { images: args.images.clone() };
    let done = run(&config, &params, &mut |done, all| bar.show(done, all));
    bar.end();
    let done = done?;
    if json {
        return print_json(&done);
    }
    let skipped = if done.skipped > 0 { format!(" ({} skipped)", done.skipped) } else { String::new() };
    let line =
        format!("{} convolutions on {} pictures{skipped}: {}", done.convolutions, done.pictures, done.file);
    Ok(print(&line)?)
}
