//! Value ranges of a network's convolution inputs, which int8 needs: measured on pictures once and kept in a file beside the model.

use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use super::engine::Ranges;
use crate::base::error::{Error, Kind, Result};

/// Largest number allowed in a range: a network with larger ones is not suitable for fp16.
const NUMBER_MAX: f32 = 30_000.0;

/// The file of `flytrap calibrate`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// SHA-256 of the model, lower-case hex.
    model_sha256: String,
    /// Number of pictures that it was measured on.
    pictures: usize,
    /// Minimum and maximum input of convolutions, by their names.
    ranges: Ranges,
}

impl Calibration {
    /// The measurements on `pictures` pictures.
    pub fn new(model_sha256: &str, pictures: usize, spreads: &Spreads) -> Self {
        let ranges = spreads.0.iter().map(|(name, spread)| (name.clone(), spread.range())).collect();
        Calibration { model_sha256: model_sha256.to_owned(), pictures, ranges }
    }

    /// Reads the file for the model with that hash.
    ///
    /// # Errors
    /// `Kind::Model`, one line with the file and the remedy: missing, malformed, made for another model.
    pub fn load(place: &Path, model_sha256: &str) -> Result<Self> {
        let name = place.display();
        let wrong = |why: String| {
            let remedy = format!(
                "make them with flytrap calibrate --model MODEL --images FOLDER --ranges '{name}', or set model.precision to fp16 or fp32"
            );
            Error::fatal(Kind::Model, format!("ranges for int8, '{name}': {why}; {remedy}"))
        };
        let text = std::fs::read_to_string(place).map_err(|error| wrong(error.to_string()))?;
        let calibration: Calibration = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            wrong(format!("line {line}: {}", error.message()))
        })?;
        if calibration.model_sha256 != model_sha256 {
            return Err(wrong(format!(
                "made for the model {}, this one is {model_sha256}",
                calibration.model_sha256
            )));
        }
        let is_good = |[low, high]: &[f32; 2]| (-NUMBER_MAX..=*high).contains(low) && *high <= NUMBER_MAX;
        match calibration.ranges.iter().find(|(_, range)| !is_good(range)) {
            Some((conv, range)) => {
                Err(wrong(format!("'{conv}' = {range:?} is not a range within ±{NUMBER_MAX}")))
            }
            None => Ok(calibration),
        }
    }

    /// The ranges.
    pub const fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        let mut text = format!(
            "# Made by flytrap calibrate: least and greatest input of convolutions, for model.precision = \"int8\".\n\
             model_sha256 = \"{}\"\npictures = {}\n\n[ranges]\n",
            self.model_sha256, self.pictures
        );
        for (name, [low, high]) in &self.ranges {
            let _fits = writeln!(text, "{} = [{low:?}, {high:?}]", toml::Value::from(name.as_str()));
        }
        text
    }
}

/// Histograms of the inputs of each convolution.
#[derive(Debug, Default)]
pub struct Spreads(std::collections::BTreeMap<String, Spread>);

impl Spreads {
    /// Adds eight numbers.
    pub fn add(&mut self, name: &str, numbers: [f32; 8]) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Spread::default());
        }
        if let Some(spread) = self.0.get_mut(name) {
            numbers.into_iter().for_each(|x| spread.add(x));
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Cells of a [`Spread`].
const CELLS: usize = 2048;

/// A histogram: equal cells from 0 upwards, whose width doubles whenever a number lies beyond the last.
#[derive(Debug, Clone)]
struct Spread {
    cells: Vec<u64>,
    /// Width of a cell.
    width: f32,
    least: f32,
    greatest: f32,
}

impl Default for Spread {
    fn default() -> Self {
        Spread { cells: vec![0; CELLS], width: 1.0 / 1024.0, least: 0.0, greatest: 0.0 }
    }
}

impl Spread {
    fn add(&mut self, x: f32) {
        if !x.is_finite() {
            return;
        }
        let x = x.clamp(-NUMBER_MAX, NUMBER_MAX);
        (self.least, self.greatest) = (self.least.min(x), self.greatest.max(x));
        let mut cell = (x.max(0.0) / self.width) as usize;
        while cell >= CELLS {
            for at in 0..CELLS / 2 {
                self.cells[at] = self.cells[2 * at] + self.cells[2 * at + 1];
            }
            self.cells[CELLS / 2..].fill(0);
            self.width *= 2.0;
            cell = (x / self.width) as usize;
        }
        self.cells[cell] += 1;
    }

    /// The range with the smallest quantisation error in 255 steps: the largest numbers are clipped where finer steps for all others reduce
    /// the sum of squared errors.
    fn range(&self) -> [f32; 2] {
        let last = self.cells.iter().rposition(|count| *count > 0).unwrap_or(0);
        let count: u64 = self.cells.iter().sum();
        let mut best = (f64::INFINITY, self.greatest);
        for end in (last / 8).max(8)..=last {
            let high = (end + 1) as f32 * self.width;
            let step = f64::from(high - self.least) / 255.0;
            let rounded = count as f64 * step * step / 12.0;
            let cut = |at: usize| {
                let beyond = f64::from((at - end) as f32 * self.width);
                self.cells[at] as f64 * beyond * beyond
            };
            let error = rounded + (end + 1..=last).map(cut).sum::<f64>();
            if error < best.0 {
                best = (error, high.min(self.greatest));
            }
        }
        [self.least, best.1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(numbers: impl Iterator<Item = f32>) -> [f32; 2] {
        let mut spread = Spread::default();
        numbers.for_each(|x| spread.add(x));
        spread.range()
    }

    #[test]
    fn a_range_covers_all_numbers_except_rare_outliers() {
        let [low, high] = spread((0..10_000).map(|i| i as f32 / 1000.0 - 0.25));
        assert_eq!(low, -0.25);
        assert!((9.7..=9.75).contains(&high), "{high}");
        // One in a million, ten times as large: clipping it costs less than coarser steps for all.
        let rare = (0..1_000_000).map(|i| if i == 77 { 100.0 } else { (i % 1000) as f32 / 100.0 });
        let [_, high] = spread(rare);
        assert!((9.9..60.0).contains(&high), "{high}");
        // One in a hundred is not rare.
        let [_, high] = spread((0..10_000).map(|i| if i % 100 == 0 { 100.0 } else { 1.0 }));
        assert!(high > 99.0, "{high}");
        assert_eq!(spread([f32::NAN, f32::INFINITY, -1.0, 0.0].into_iter()), [-1.0, 0.0]);
        assert_eq!(spread(std::iter::empty()), [0.0, 0.0]);
    }

    #[test]
    fn the_file_round_trips_and_others_are_refused_with_a_reason() {
        let mut spreads = Spreads::default();
        spreads.add("/model.1/act/Mul", [-0.2, 0.0, 1.0, 2.0, 3.0, 0.1, 0.2, 7.5]);
        spreads.add("with \"quotes\"", [0.5; 8]);
        let calibration = Calibration::new("abc", 3, &spreads);
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("x.int8.toml");
        let refusal = |sha256: &str| Calibration::load(&place, sha256).unwrap_err().to_string();
        assert!(refusal("abc").contains("x.int8.toml") && refusal("abc").contains("flytrap calibrate"));
        std::fs::write(&place, calibration.to_toml()).unwrap();
        assert_eq!(Calibration::load(&place, "abc").unwrap(), calibration);
        assert!(refusal("def").contains("made for the model abc, this one is def"), "{}", refusal("def"));
        for (text, word) in [
            ("hello", "x.int8.toml"),
            ("model_sha256 = \"abc\"\npictures = 1\n[ranges]\na = [1.0, 0.0]\n", "'a' = [1.0, 0.0]"),
            ("model_sha256 = \"abc\"\npictures = 1\n[ranges]\na = [nan, 0.0]\n", "is not a range"),
            ("model_sha256 = \"abc\"\npictures = 1\n[ranges]\na = [-1e9, 0.0]\n", "is not a range"),
            ("model_sha256 = \"abc\"\npictures = 1\n[ranges]\na = [1.0]\n", "line 4"),
            ("model_sha256 = \"abc\"\npictures = 1\nmore = 2\n[ranges]\n", "more"),
        ] {
            std::fs::write(&place, text).unwrap();
            assert!(refusal("abc").contains(word) && !refusal("abc").contains('\n'), "{}", refusal("abc"));
        }
    }
}
