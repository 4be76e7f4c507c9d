//! `flytrap check`: checks a configuration and the files that it names.

use std::path::Path;
use std::sync::Arc;

use super::{Failed, print, say};
use crate::analytics::count::CountingLine;
use crate::base::error::{Error, Kind};
use crate::capture::SourceSpec;
use crate::capture::ffmpeg::Input;
use crate::config::Config;
use crate::delivery::uplink;
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::SystemClock;
use crate::platform::cores::Machine;
use crate::status;
use crate::tools::pictures::Detector;

/// Checks `file`, its model, the path of its source and its uplink (without connecting); prints the settings in force.
pub(super) fn check(file: Option<&Path>) -> Result<(), Failed> {
    let config = Config::load(file, Vec::new(), &Machine::read())?;
    for setting in config.in_force.lines() {
        print(&setting)?;
    }
    for warning in config.first_camera().lines.iter().filter_map(CountingLine::edge_warning) {
        say("check", &warning);
    }
    let Some(file) = file else { return Ok(()) };
    let missing = |key: &str, option: &str| {
        say(
            "check",
            &format!("{}: {key} is not set: set it, or give {option} to flytrap run", file.display()),
        );
    };
    match &config.first_camera().source {
        None => missing("camera.source", "--source"),
        Some(
            SourceSpec::Dir(path)
            | SourceSpec::File(path)
            | SourceSpec::Ffmpeg(Input::File(path))
            | SourceSpec::V4l2(path),
        ) if !path.exists() => {
            let text = format!(
                "{}: camera.source: '{}' is not there: check the path",
                file.display(),
                path.display()
            );
            return Err(Error::fatal(Kind::Source, text).into());
        }
        Some(_) => {}
    }
    match &config.model.params {
        None => missing("model.path", "--model"),
        Some(_) => {
            let _model_and_classes_are_right = Detector::open(&config)?;
        }
    }
    if let Some(listen) = &config.status.listen {
        status::access::check_address(listen, config.status.token_file.is_some())?;
    }
    // A file: target is created when it is opened; only its folder can be wrong.
    if let Some(path) = config.uplink.target.first.strip_prefix("file:") {
        let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let text = format!(
                "{}: uplink.target: folder '{}' does not exist: create it",
                file.display(),
                folder.display()
            );
            return Err(Error::fatal(Kind::Config, text).into());
        }
    } else {
        let time = Arc::new(Timekeeper::new(Arc::new(SystemClock)));
        let _urls_and_files_are_right = uplink::open(&config.uplink.target, &config.uplink.http, &time)?;
    }
    spool_folder(&config, file)
}

/// The spool's folder, or the folder in which it will be created, must be writable. Creates nothing.
fn spool_folder(config: &Config, file: &Path) -> Result<(), Failed> {
    let Some(folder) = &config.spool.folder else { return Ok(()) };
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    if there.is_dir() && rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok() {
        return Ok(());
    }
    let text = format!(
        "{}: spool.folder '{}': '{}' is not a folder that this user may write to",
        file.display(),
        folder.display(),
        there.display()
    );
    Err(Error::fatal(Kind::Config, text).into())
}
