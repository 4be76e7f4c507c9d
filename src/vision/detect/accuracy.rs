//! How accurate a model is, as `flytrap eval` has measured it: kept in a file beside the model, or for the built-in one in the manifest. The file
//! is untrusted input (I8).

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Kind, Result, cannot_write};
use crate::platform::process::open_regular;

/// Longest file, bytes.
const FILE_BYTES_MAX: u64 = 4096;
/// Longest text in it, bytes.
const TEXT_BYTES_MAX: usize = 200;

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
    /// The precision of the network, as in `model.precision`.
    pub precision: String,
}

impl Accuracy {
    /// Whether these can be measurements, and short texts.
    fn is_plausible(&self) -> bool {
        let Accuracy { map50, map50_95, pictures: _, data, date, precision } = self;
        let is_percent = |value: &f64| (0.0..=100.0).contains(value);
        let is_short = |text: &&String| text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control);
        is_percent(map50)
            && map50_95.as_ref().is_none_or(is_percent)
            && [data, date, precision].iter().all(is_short)
    }
}

impl fmt::Display for Accuracy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(map50_95) = self.map50_95 {
            write!(f, "mAP50-95 {map50_95:.1} %; ")?;
        }
        write!(f, "{}, {} pictures of {}, {}", self.precision, self.pictures, self.data, self.date)
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
    let text = read(&place)?;
    let name = place.display();
    match toml::from_str::<Record>(&text) {
        Ok(record) if !record.accuracy.is_plausible() => {
            tracing::warn!("'{name}' has figures that cannot be: flytrap eval --record writes it again");
            None
        }
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

/// A short regular file, if there is one.
fn read(place: &Path) -> Option<String> {
    if !place.exists() {
        return None;
    }
    let mut text = String::new();
    let file = open_regular(place);
    let count = file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    if count.is_ok_and(|count| count as u64 <= FILE_BYTES_MAX) {
        return Some(text);
    }
    tracing::warn!("'{}' is no text file of at most {FILE_BYTES_MAX} bytes: it is ignored", place.display());
    None
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
            precision: "int8".into(),
        };
        assert_eq!(load(&model, "ab12"), None);
        let place = save(&model, "ab12", &accuracy).unwrap();
        assert_eq!(place, folder.path().join("yolo11n-320.accuracy.toml"));
        assert_eq!(load(&model, "ab12"), Some(accuracy.clone()));
        assert_eq!(load(&model, "cd34"), None);
        save(Path::new("/proc/none.onnx"), "ab12", &accuracy).unwrap_err();
        for wrong in [
            Accuracy { map50: f64::INFINITY, ..accuracy.clone() },
            Accuracy { map50_95: Some(-1.0), ..accuracy.clone() },
            Accuracy { data: "x".repeat(TEXT_BYTES_MAX + 1), ..accuracy.clone() },
            Accuracy { date: "\u{1b}[2J".into(), ..accuracy },
        ] {
            save(&model, "ab12", &wrong).unwrap();
            assert_eq!(load(&model, "ab12"), None, "{wrong:?}");
        }
        std::fs::write(&place, "map50 = \"much\"\n").unwrap();
        assert_eq!(load(&model, "ab12"), None);
        std::fs::write(&place, "#".repeat(FILE_BYTES_MAX as usize + 1)).unwrap();
        assert_eq!(load(&model, "ab12"), None);
        std::fs::remove_file(&place).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &place, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        assert_eq!(load(&model, "ab12"), None, "a pipe does not block");
    }
}
