//! What goes into a network's convolutions on pictures: what `flytrap calibrate` measures, for int8.

use std::path::PathBuf;

use serde::Serialize;

use super::pictures::{Detector, picture_names};
use crate::config::Config;
use crate::detect::calibration::{Calibration, Spreads};
use crate::detect::engine::Precision;
use crate::error::{Error, Kind, Result};

/// What it is measured on.
#[derive(Debug, Clone)]
pub struct Params {
    /// Folder of pictures.
    pub images: PathBuf,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// How many convolutions were measured.
    pub convolutions: usize,
    /// On so many pictures.
    pub pictures: usize,
    /// The file that was written.
    pub file: String,
}

/// Measures, and writes the file where `model.ranges` says. `progress` hears of each picture: how many there were, and of how many.
///
/// # Errors
/// `Kind::Config`: no model, a folder without pictures. `Kind::Source`: a damaged picture. `Kind::Model`: see `Loaded::open`; a
/// model that our own executor does not know. `Kind::System`: the file cannot be written.
pub fn calibrate(config: &Config, params: &Params, progress: &mut dyn FnMut(usize, usize)) -> Result<Done> {
    let mut config = config.clone();
    if let Some(model) = &mut config.model {
        model.engine.precision = Precision::Fp32;
    }
    let mut detector = Detector::open(&config)?;
    let names = picture_names(&params.images)?;
    let mut spreads = Spreads::default();
    for (index, name) in names.iter().enumerate() {
        detector.observe(&params.images.join(name), &mut |name, numbers| spreads.add(name, numbers))?;
        progress(index + 1, names.len());
    }
    let calibration = Calibration::new(detector.model_sha256(), names.len(), &spreads);
    let place = config.model.as_ref().map(|model| model.ranges()).unwrap_or_default();
    std::fs::write(&place, calibration.to_toml()).map_err(|error| {
        let text = format!("'{}' cannot be written: check the path, or give --ranges FILE", place.display());
        Error::fatal(Kind::System, text).caused_by(error)
    })?;
    Ok(Done {
        convolutions: calibration.ranges().len(),
        pictures: names.len(),
        file: place.display().to_string(),
    })
}
