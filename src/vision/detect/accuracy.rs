//! How accurate a model is, as `flytrap eval` has measured it: kept in a file beside the model, or for the built-in one in the manifest.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Kind, Result, cannot_write};

/// A measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accuracy {
    /// Mean over classes of the average precision at an IoU of 0.50, per cent.
    pub map50: f64,
    /// The same over the IoU thresholds 0.50, 0.55 … 0.95, if it was noted.
    pub map50_95: Option<f64>,
    /// Number of pictures.
    pub pictures: usize,
    /// Which pictures.
    pub data: String,
    /// The day, as 2026-11-30.
    pub date: String,
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(map50_95) = self.map50_95 {
            write!(f, "mAP50-95 {map50_95:.1} %; ")?;
        }
        write!(f, "{} pictures of {}, {}", self.pictures, self.data, self.date)
    }
}

/// The file beside a model.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// SHA-256 of the model, lower-case hex.
    model_sha256: String,
    accuracy: Accuracy,
}

/// `NAME.accuracy.toml` beside `NAME.onnx`.
pub fn place(model: &Path) -> PathBuf {
    model.with_extension("accuracy.toml")
}

/// What the file beside a model says, if it is about the model with that hash. A file about another one, or one that cannot be read, is as
/// good as none; the log says so.
pub fn load(model: &Path, sha256: &str) -> Option<Accuracy> {
    let place = place(model);
    let text = std::fs::read_to_string(&place).ok()?;
    let name = place.display();
    match toml::from_str::<Record>(&text) {
        Ok(record) if record.model_sha256 == sha256 => Some(record.accuracy),
        Ok(_) => {
            tracing::warn!("'{name}' is about another model: flytrap eval --record writes it again");
            None
        }
        Err(error) => {
            let why = error.message();
            tracing::warn!("'{name}': {why}: flytrap eval --record writes it again");
            None
        }
    }
}

/// Writes the file beside a model; returns where it is.
///
/// # Errors
/// `Kind::System`: it cannot be written.
pub fn save(model: &Path, sha256: &str, accuracy: &Accuracy) -> Result<PathBuf> {
    let place = place(model);
    let record = Record { model_sha256: sha256.to_owned(), accuracy: accuracy.clone() };
    let text = toml::to_string(&record)
        .map_err(|error| Error::fatal(Kind::System, "the accuracy cannot be written").caused_by(error))?;
    let text = format!(
        "# Made by flytrap eval --record: what the KPI table says about the model's accuracy.\n{text}"
    );
    std::fs::write(&place, text).map_err(|error| cannot_write(&place, error))?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_for_its_own_model_only() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("yolo11n-320.onnx");
        let accuracy = Accuracy {
            map50: 55.25,
            map50_95: Some(40.5),
            pictures: 79,
            data: "val \"mast\"".into(),
            date: "2026-11-30".into(),
        };
        assert_eq!(load(&model, "ab12"), None);
        let place = save(&model, "ab12", &accuracy).unwrap();
        assert_eq!(place, folder.path().join("yolo11n-320.accuracy.toml"));
        assert_eq!(load(&model, "ab12"), Some(accuracy));
        assert_eq!(load(&model, "cd34"), None);
        std::fs::write(&place, "map50 = \"much\"\n").unwrap();
        assert_eq!(load(&model, "ab12"), None);
        save(Path::new("/proc/none.onnx"), "ab12", &load_nothing()).unwrap_err();
    }

    fn load_nothing() -> Accuracy {
        Accuracy { map50: 0.0, map50_95: None, pictures: 0, data: String::new(), date: String::new() }
    }
}
