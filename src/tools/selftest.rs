//! The self-test of a model as a command, and its record: the work of `flytrap selftest`.

use std::path::PathBuf;

use serde::Serialize;

use crate::base::error::cannot_write;
use crate::base::error::{Error, Kind, Result};
use crate::config::Config;
use crate::vision::detect::engine::Precision;
use crate::vision::detect::model::{self, Loaded};
use crate::vision::selftest::{self, FRAMES, Golden, place_beside};

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct SelftestReport {
    /// Name of the model.
    pub model: String,
    /// Name of the engine.
    pub engine: String,
    /// Number of expected boxes that were found, or of recorded boxes.
    pub boxes: usize,
    /// Path of the record, if it was written.
    pub recorded: Option<String>,
}

/// Tests the configured model, or records its detections once two executors agree on them.
///
/// # Errors
/// `Kind::Config`: no model; `Kind::Model`: the result is wrong, there is no record, or the executors disagree; `Kind::System`: the
/// record cannot be written.
pub fn check(config: &Config, record: bool) -> Result<SelftestReport> {
    let model = config.model()?;
    if record {
        return record_for(model);
    }
    let loaded = Loaded::open(&model)?;
    let name = loaded.name().to_owned();
    let golden = Golden::of(&model.path, loaded.sha256())?.ok_or_else(|| {
        let text = format!(
            "no record for '{}': make one with 'flytrap selftest --record --model {}', on a machine that you trust",
            model.path.display(),
            model.path.display()
        );
        Error::fatal(Kind::Model, text)
    })?;
    let (mut engine, classes) = loaded.into_engine(FRAMES[0])?;
    let boxes = selftest::check(&mut *engine, model.engine.precision, &classes, &golden)?;
    Ok(SelftestReport { model: name, engine: engine.describe(), boxes, recorded: None })
}

fn record_for(mut params: model::Params) -> Result<SelftestReport> {
    if params.path.to_str() == Some(model::BUILTIN) {
        return Err(Error::fatal(
            Kind::Config,
            "the built-in model has its record already: use --record with other models only",
        ));
    }
    // In full precision, which all other precisions are compared with.
    params.engine.precision = Precision::Fp32;
    let loaded = Loaded::open(&params)?;
    let (name, model) = (loaded.name().to_owned(), loaded.sha256().to_owned());
    let (mut boxes, mut engine_name) = (0, String::new());
    let mut golden = Golden { model, record: Vec::new() };
    for frame in FRAMES {
        let (mut reference, classes) = loaded.clone().into_tract(frame)?;
        let (mut engine, _) = loaded.clone().into_engine(frame)?;
        (boxes, engine_name) = (golden.note(&mut *engine, &mut *reference, &classes)?, engine.describe());
    }
    let place: PathBuf = place_beside(&params.path);
    let text = toml::to_string(&golden)
        .map_err(|error| Error::fatal(Kind::System, "the record as TOML").caused_by(error))?;
    std::fs::write(&place, text).map_err(|error| cannot_write(&place, error))?;
    Ok(SelftestReport {
        model: name,
        engine: engine_name,
        boxes,
        recorded: Some(place.display().to_string()),
    })
}
