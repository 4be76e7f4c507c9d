//! Measures the value ranges of a network's convolution inputs on pictures: the work of `flytrap calibrate`, for int8.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::pictures::{Detector, picture_names};
use crate::base::error::{Class, Error, Kind, Result};
use crate::config::Config;
use crate::vision::detect::calibration::{Calibration, Spreads};
use crate::vision::detect::engine::Precision;
use crate::vision::detect::model;

/// What to measure on.
#[derive(Debug, Clone)]
pub struct Params {
    /// Folder of pictures.
    pub images: PathBuf,
}

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct CalibrateReport {
    /// How many convolutions were measured.
    pub convolutions: usize,
    /// Number of pictures measured.
    pub pictures: usize,
    /// Number of damaged pictures, which the log names.
    pub skipped: usize,
    /// The file that was written.
    pub file: String,
}

/// Measures, and writes the file that `model.ranges` names. `progress` is called after each picture, with the number done and the total.
///
/// `Kind::Config`: no model, a folder without pictures. `Kind::Source`: all pictures are damaged. `Kind::Model`: see `Loaded::open`; a
/// model that our own executor does not support. `Kind::System`: the file cannot be written; an existing file stays.
pub fn calibrate(
    config: &Config,
    params: &Params,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<CalibrateReport> {
    let mut config = config.clone();
    if let Some(model) = &mut config.model.params {
        model.engine.precision = Precision::Fp32;
    }
    let mut detector = Detector::open(&config)?;
    let names = picture_names(&params.images)?;
    let place = config.model.params.as_ref().map(model::Params::ranges).unwrap_or_default();
    // Written beside the old file, which stays until the new one is complete; whether the folder is writable is checked before the work.
    let new = place.with_extension("toml.new");
    let cannot_write = |error: std::io::Error| {
        let text = format!(
            "'{}' cannot be written: check the path and its permissions, or give --ranges FILE",
            new.display()
        );
        Error::fatal(Kind::System, text).caused_by(error)
    };
    let mut file = File::create(&new).map_err(cannot_write)?;
    let measured = measure(&mut detector, &params.images, &names, progress);
    let written = measured.and_then(|(calibration, pictures)| {
        let mut write = || -> std::io::Result<()> {
            file.write_all(calibration.to_toml().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &place)
        };
        write().map_err(cannot_write).map(|()| (calibration, pictures))
    });
    let (calibration, pictures) = written.inspect_err(|_| {
        let _of_no_use = std::fs::remove_file(&new);
    })?;
    Ok(CalibrateReport {
        convolutions: calibration.ranges().len(),
        pictures,
        skipped: names.len() - pictures,
        file: place.display().to_string(),
    })
}

/// The input ranges of all convolutions over all undamaged pictures, and the number of those.
fn measure(
    detector: &mut Detector,
    images: &Path,
    names: &[String],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Calibration, usize)> {
    let (mut spreads, mut whole, mut damaged) = (Spreads::default(), 0, None);
    for (index, name) in names.iter().enumerate() {
        match detector.observe(&images.join(name), &mut |name, numbers| spreads.add(name, numbers)) {
            Ok(()) => whole += 1,
            Err(error) if error.class() == Class::Fatal => return Err(error),
            Err(error) => {
                tracing::warn!("{error}");
                damaged = Some(error);
            }
        }
        progress(index + 1, names.len());
    }
    match damaged {
        Some(error) if whole == 0 => Err(error),
        _ if spreads.is_empty() => {
            let text = "the model has no convolution for int8; set model.precision to fp16 or fp32";
            Err(Error::fatal(Kind::Model, text))
        }
        _ => Ok((Calibration::new(detector.model_sha256(), whole, &spreads), whole)),
    }
}
