//! `flytrap detect`: pictures in, detections out.

use std::path::Path;

use super::{Failed, Settings, cannot_write, print, say, start_log};
use crate::base::error::{Class, Error, Kind, Result};
use crate::tools::pictures::{Detector, PictureDetections};
use crate::vision::detect::model::Classes;

/// Detects in each picture; unreadable ones are reported, and set the exit code to 4 at the end.
pub(super) fn detect(
    settings: &Settings,
    pictures: &[impl AsRef<Path>],
    out: Option<&Path>,
    json: bool,
) -> Result<(), Failed> {
    let config = settings.load(Vec::new(), json)?;
    start_log(&config);
    let mut detector = Detector::open(&config)?;
    if let Some(folder) = out {
        std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
    }
    let mut failed = 0;
    for path in pictures.iter().map(AsRef::as_ref) {
        match detector.detect(path).and_then(|found| show(&found, path, detector.classes(), out, json)) {
            Ok(()) => {}
            Err(error) if error.class() == Class::Degrade => {
                say("detect", &error);
                failed += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    match failed {
        0 => Ok(()),
        _ => {
            let text = format!("{failed} of {} pictures could not be read, see above", pictures.len());
            Err(Error::fatal(Kind::Source, text).into())
        }
    }
}

/// Prints the detections, and writes the picture if there is a folder for it.
fn show(
    found: &PictureDetections,
    path: &Path,
    classes: &Classes,
    out: Option<&Path>,
    json: bool,
) -> Result<()> {
    if json {
        print(&found.to_json(path, classes)?)?;
    } else {
        print(&format!("{}: {} found", path.display(), found.detections.len()))?;
        for detection in &found.detections {
            let [left, top, right, bottom] = detection.bbox.to_array();
            let (class, score) = (classes.name(detection.class), detection.score);
            print(&format!("  {class:<12} {score:.2}  {left:7.1} {top:7.1} {right:7.1} {bottom:7.1}"))?;
        }
    }
    let Some(folder) = out else { return Ok(()) };
    let mut name = path.file_stem().unwrap_or(path.as_os_str()).to_owned();
    name.push(".jpg");
    let place = folder.join(name);
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if same(&place, path) {
        let text = format!("'{}' is the picture itself: choose another folder for --out", place.display());
        return Err(Error::fatal(Kind::Config, text));
    }
    std::fs::write(&place, found.drawn(path, classes)?).map_err(|error| cannot_write(&place, error))
}
