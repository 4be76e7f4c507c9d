//! The self-test: does the network still give the expected detections? A known picture goes through JPEG decoder, letterbox, network and
//! decoder; a wrong result means a damaged model, a broken kernel or a faulty CPU, and the program refuses to count with it.
//!
//! The picture is a simulated street (a test renders it again and compares). The expected detections are built in for the shipped model;
//! for any other one they come from a file that `flytrap selftest --record` wrote beside it, after an independent executor gave the same
//! result.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Kind, Result};
use crate::base::geometry::{BoxPx, Frame};
use crate::vision::detect::decode::{Decoder, Params};
use crate::vision::detect::engine::{Engine, Output, Precision};
use crate::vision::detect::letterbox::{Letterbox, Placement, Size};
use crate::vision::detect::model::Classes;
use crate::vision::detect::{Detection, Detections};
use crate::vision::jpeg::JpegDecoder;

/// The picture: seed and size of its street are in the test.
pub const PICTURE: &[u8] = include_bytes!("selftest.jpg");
/// Its size, pixels.
pub const PICTURE_SIZE: (u32, u32) = (640, 360);

/// The expected detections of the shipped model.
const BUILTIN_GOLDEN: &str = include_str!("../../../models/street-320.selftest.toml");

/// Minimum score of boxes that are recorded, and of boxes that must be found: scores may differ a little.
const SCORE_NOTED: f32 = 0.3;
const SCORE_SEEN: f32 = 0.1;
/// Minimum number of boxes in a record: with fewer, a comparison of boxes alone would prove little.
const BOXES_MIN: usize = 3;
/// Tolerances: int8 moves boxes by a pixel or two and scores by a few hundredths, a damaged weight moves everything.
const SLACK: Slack = Slack { sure: 0.6, iou: 0.7, score: 0.2 };

/// Number of pieces for which the network's output is averaged: the last is the whole coarsest grid, so that a fault there shows although
/// the picture has few objects so large.
const PIECES: usize = 16;
/// Relative and absolute tolerance of a mean, in fp32 and fp16. Two orders of summation differ by 1e-5 of a number, fp16 by 2e-3 of the
/// largest intermediate one, and logits near the limit by more.
const MEAN_SINGLE: [f32; 2] = [1e-3, 0.01];
const MEAN_HALF: [f32; 2] = [0.03, 0.2];

/// Frame sizes for whose input sizes a model with free input sides is recorded: 16:9, 4:3, 5:4. For a camera of another shape the model is
/// tested at the first of them: at other input sizes the picture is scaled differently, and small objects are found less well.
pub const FRAMES: [Size; 3] =
    [Size { width: 640, height: 360 }, Size { width: 640, height: 480 }, Size { width: 720, height: 576 }];

/// The expected results, by input size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Hash of the model's file, lower-case hex.
    pub model: String,
    /// One record for each input size.
    pub record: Vec<Record>,
}

/// The expected result at an input size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Width and height of the input, pixels.
    pub input: [usize; 2],
    /// The mean of each output row in each of 16 pieces, row by row; for scores, of their logits.
    pub means: Vec<f32>,
    /// The expected detections, strongest first.
    #[serde(rename = "box", default)]
    pub boxes: Vec<Expected>,
}

/// One expected detection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Class name.
    pub class: String,
    /// Score.
    pub score: f32,
    /// Left, top, right, bottom, pixels of the picture.
    pub bbox: [f32; 4],
}

/// Tolerances of boxes.
#[derive(Debug, Clone, Copy)]
struct Slack {
    /// Expected boxes with at least this score must be found.
    sure: f32,
    /// Minimum IoU.
    iou: f32,
    /// Maximum difference of the scores.
    score: f32,
}

impl Golden {
    /// The record of a model: the built-in one's, or that of the file beside it. None if there is none.
    ///
    /// # Errors
    /// `Kind::Model`: the file is broken, or belongs to another model.
    pub fn of(model: &Path, sha256: &str) -> Result<Option<Self>> {
        let builtin: Golden = toml::from_str(BUILTIN_GOLDEN).expect("checked in, parsed by a test");
        if builtin.model == sha256 {
            return Ok(Some(builtin));
        }
        let place = place_beside(model);
        let wrong = |why: String| {
            let text =
                format!("'{}': {why}; record it again with 'flytrap selftest --record'", place.display());
            Error::fatal(Kind::Model, text)
        };
        let text = match std::fs::read_to_string(&place) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong("cannot be read".into()).caused_by(error)),
        };
        let golden: Golden =
            toml::from_str(&text).map_err(|error| wrong(error.message().replace('\n', " ")))?;
        if golden.record.is_empty() || golden.record.iter().any(|record| record.boxes.len() < BOXES_MIN) {
            return Err(wrong(format!("it must have at least {BOXES_MIN} boxes at each size")));
        }
        if golden.model != sha256 {
            return Err(wrong(format!(
                "it is for a model with sha256 {}, this one has {sha256}",
                golden.model
            )));
        }
        Ok(Some(golden))
    }

    /// Adds the result of our own executor on the picture, unless its input size is recorded already, after another executor gave the same
    /// result. Returns the number of boxes.
    ///
    /// # Errors
    /// `Kind::Model`: the two results differ, or have too few boxes to identify the network; errors of [`look`].
    pub fn note(
        &mut self,
        engine: &mut dyn Engine,
        other: &mut dyn Engine,
        classes: &Classes,
    ) -> Result<usize> {
        let mut record = look(engine, classes)?;
        let second = look(other, classes)?;
        record.boxes.retain(|found| found.score >= SCORE_NOTED);
        let count = record.boxes.len();
        if count < BOXES_MIN {
            let text = format!(
                "the model finds {count} road users in the self-test's picture, a simulated street; with fewer than {BOXES_MIN} a damaged \
                 model could not be told from a sound one: nothing is recorded"
            );
            return Err(Error::fatal(Kind::Model, text));
        }
        second.compare_boxes(&record, SLACK).map_err(|why| {
            let text = format!("the two executors do not agree, so no record is written: {why}");
            Error::fatal(Kind::Model, text)
        })?;
        if self.record.iter().all(|known| known.input != record.input) {
            self.record.push(record);
        }
        Ok(count)
    }

    /// Whether it has a record for that input size.
    pub fn knows(&self, input: Size) -> bool {
        self.at(input).is_some()
    }

    fn at(&self, input: Size) -> Option<&Record> {
        self.record.iter().find(|known| known.input == [input.width, input.height])
    }
}

impl Record {
    fn of(input: Size, output: Output<'_>) -> Self {
        let mut means = Vec::new();
        for (index, row) in output.numbers.chunks_exact(output.columns.max(1)).enumerate() {
            for piece in 0..PIECES {
                let at = |piece: usize| piece * row.len() / PIECES;
                let numbers = &row[at(piece)..at(piece + 1)];
                let mean = numbers.iter().map(|number| term(index, *number)).sum::<f64>()
                    / numbers.len().max(1) as f64;
                // Five digits: the tolerance is far larger than the last of them.
                means.push(format!("{mean:.4e}").parse().unwrap_or(0.0));
            }
        }
        Record { input: [input.width, input.height], means, boxes: Vec::new() }
    }

    /// Compares an output with the record; returns how many boxes had to be found. For int8 only boxes are compared: its numbers depend on
    /// the calibration.
    fn compare(&self, own: &Self, precision: Precision) -> std::result::Result<usize, String> {
        match precision {
            Precision::Fp32 => self.compare_means(own, MEAN_SINGLE)?,
            Precision::Fp16 => self.compare_means(own, MEAN_HALF)?,
            Precision::Int8 => {}
        }
        self.compare_boxes(own, SLACK)
    }

    fn compare_means(&self, own: &Self, [part, more]: [f32; 2]) -> std::result::Result<(), String> {
        let (want, have) = (self.means.len() / PIECES, own.means.len() / PIECES);
        if want != have {
            return Err(format!("its output has {have} rows instead of {want}"));
        }
        for (index, (want, have)) in self.means.iter().zip(&own.means).enumerate() {
            // NaN is not near anything.
            let near = (want - have).abs() <= want.abs() * part + more;
            if !near {
                let (row, piece) = (index / PIECES, index % PIECES);
                return Err(format!(
                    "row {row} of its output has a mean of {have} instead of {want} in piece {piece}"
                ));
            }
        }
        Ok(())
    }

    /// The strongest boxes must be found, and no others with a score clearly above the threshold. Returns how many had to be found.
    fn compare_boxes(&self, own: &Self, slack: Slack) -> std::result::Result<usize, String> {
        let iou = |a: &Expected, b: &Expected| a.to_box().iou(&b.to_box());
        let sure = |(rank, expected): &(usize, &Expected)| *rank < BOXES_MIN || expected.score >= slack.sure;
        let wanted = self.boxes.iter().enumerate().filter(sure);
        let count = wanted.clone().count();
        for (_, expected) in wanted {
            let Expected { class, score, bbox } = expected;
            let same = |found: &&Expected| iou(found, expected) >= slack.iou && found.class == *class;
            let Some(there) = own.boxes.iter().find(same) else {
                return Err(format!("the {class} at {bbox:?} is not found"));
            };
            if (there.score - score).abs() > slack.score {
                return Err(format!(
                    "the {class} at {bbox:?} has score {:.2} instead of {score:.2}",
                    there.score
                ));
            }
        }
        for found in own.boxes.iter().filter(|found| found.score >= slack.sure + slack.score) {
            if !self.boxes.iter().any(|expected| iou(found, expected) >= slack.iou) {
                let Expected { class, bbox, .. } = found;
                return Err(format!("a {class} is found at {bbox:?}, where none is expected"));
            }
        }
        Ok(count)
    }
}

/// The contribution of an output number to a mean: box sides unchanged; scores as their logits, so that the many scores near 0 count too.
/// (Our sigmoid is accurate to 1e-6, so another executor's logits differ below -10; our own do not, whatever the CPU.)
fn term(row: usize, number: f32) -> f64 {
    const SIDES: usize = 4;
    let number = f64::from(number);
    if row < SIDES { number } else { (number / (1.0 - number)).ln().clamp(-40.0, 40.0) }
}

impl Expected {
    fn of(found: &Detection, classes: &Classes) -> Self {
        Expected {
            class: classes.name(found.class).to_owned(),
            score: (found.score * 1000.0).round() / 1000.0,
            bbox: found.bbox.to_array().map(|side| (side * 10.0).round() / 10.0),
        }
    }

    fn to_box(&self) -> BoxPx<Frame> {
        let [left, top, right, bottom] = self.bbox;
        BoxPx::new(left, top, right, bottom)
    }
}

/// Path of a model's record.
pub fn place_beside(model: &Path) -> PathBuf {
    model.with_extension("selftest.toml")
}

/// Puts the picture into an engine's input; returns its placement.
///
/// # Errors
/// `Kind::System`: the picture, which is part of the program, cannot be decoded.
pub fn show(engine: &mut dyn Engine) -> Result<Placement> {
    let (width, height) = PICTURE_SIZE;
    let mut decoder = JpegDecoder::new(width, height);
    let decoded = decoder.decode(PICTURE).map_err(|error| {
        Error::fatal(Kind::System, format!("self-test: its own picture is not a JPEG (a bug): {error}"))
    })?;
    let mut letterbox = Letterbox::new(engine.size());
    Ok(letterbox.fill(&decoded.planes, decoded.color, engine.input()))
}

/// Runs an engine on the picture once. Returns all detections, including low scores.
///
/// # Errors
/// As [`show`]; `Kind::Model`: the network fails.
pub fn look(engine: &mut dyn Engine, classes: &Classes) -> Result<Record> {
    let placement = show(engine)?;
    let params = Params { score_min: SCORE_SEEN, iou_max: 0.5 };
    let mut decoder = Decoder::new(engine.head(), params, |_| true);
    let mut found = Detections::new();
    let size = engine.size();
    // Every anchor is computed, so that the peak memory of the network is touched.
    let output = engine.run(0.0)?;
    let mut record = Record::of(size, output);
    let _room_for_all = decoder.decode(output, &placement, &mut found);
    record.boxes = found.iter().map(|found| Expected::of(found, classes)).collect();
    Ok(record)
}

/// The self-test: one inference, compared. Returns how many boxes had to be found, and were.
///
/// # Errors
/// As [`look`]; `Kind::Model`: the result is wrong, with the difference; or there is no record for the engine's input size.
pub fn check(
    engine: &mut dyn Engine,
    precision: Precision,
    classes: &Classes,
    golden: &Golden,
) -> Result<usize> {
    let known = golden.at(engine.size()).ok_or_else(|| {
        let text = format!(
            "self-test: no record for an input of {}: record it again with 'flytrap selftest --record'",
            engine.size()
        );
        Error::fatal(Kind::Model, text)
    })?;
    known.compare(&look(engine, classes)?, precision).map_err(|why| {
        let text = format!(
            "self-test failed: {why}. The model is damaged or the CPU computes wrong: nothing is counted; replace the model's \
             file, and if that does not help the board ({})",
            engine.describe()
        );
        Error::fatal(Kind::Model, text)
    })
}

#[cfg(test)]
mod tests;
