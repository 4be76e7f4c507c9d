//! Chooses the score threshold for a model on labelled pictures: the work of `flytrap tune`.
//!
//! The detections are those that `flytrap run` would have on these pictures at the lowest threshold: one class per box, NMS with
//! `detect.iou_max`, the 300 strongest. A stronger box never depends on a weaker one, so a threshold that is set later leaves exactly the
//! detections that are counted here.

use std::path::Path;

use serde::Serialize;

use super::labelled::{self, Labelled};
use super::pictures::Detector;
use crate::base::error::{Error, Kind, Result};
use crate::config::Config;
use crate::tools::score::coco::{self, Ids};
use crate::tools::score::threshold::{Choice, Matches, Point, choose, thresholds};
use crate::tools::score::{ScoredBox, Truth};
use crate::vision::detect::model::Classes;
use crate::vision::draw::{Chart, Curve, Mark};

/// Lowest score considered, the lowest value that `detect.score_min` allows.
const SCORE_MIN: f32 = 0.01;

/// The task.
#[derive(Debug, Clone)]
pub struct Params {
    /// Location of labels and pictures.
    pub labelled: labelled::Params,
    /// Names of the classes that count; empty: those of `track.classes` that are labelled.
    pub classes: Vec<String>,
    /// Target precision, above 0 to 1.
    pub target_precision: f64,
    /// IoU threshold of a match, above 0 to 1.
    pub overlap: f64,
    /// Try 91 thresholds instead of 17.
    pub fine: bool,
    /// Also choose for each class.
    pub per_class: bool,
}

/// The result, and the settings to use.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The target precision.
    pub target_precision: f64,
    /// The IoU threshold.
    pub overlap: f64,
    /// Pictures.
    pub pictures: usize,
    /// Detections of the classes that count, at any score.
    pub detections: usize,
    /// Name of the engine.
    pub engine: Option<String>,
    /// Names of the classes that count.
    pub classes: Vec<String>,
    /// All these classes together, each detection and object once.
    pub all: Tuned,
    /// Each class alone, if requested.
    pub by_class: Vec<Tuned>,
    /// The settings for the configuration, in TOML.
    pub config: Option<String>,
}

/// The choice for one class, or for all together.
#[derive(Debug, Clone, Serialize)]
pub struct Tuned {
    /// The class, or `all`.
    pub name: String,
    /// Objects, without crowds.
    pub objects: usize,
    /// The figures at each threshold.
    pub thresholds: Vec<Row>,
    /// The threshold with the highest recall that meets the target precision.
    pub chosen: Option<Row>,
    /// If there is none: the threshold with the highest precision.
    pub nearest: Option<Row>,
    /// The figures with each occurring score as threshold.
    #[serde(skip)]
    curve: Vec<Point>,
}

/// The figures at one threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// The threshold.
    pub threshold: f64,
    /// Detections, without those on crowds.
    pub predictions: usize,
    /// True positives.
    pub right: usize,
    /// False positives.
    pub wrong: usize,
    /// Precision, 0..=1; none without detections.
    pub precision: Option<f64>,
    /// Recall, 0..=1; none without objects.
    pub recall: Option<f64>,
    /// Harmonic mean of both.
    pub f1: Option<f64>,
}

impl From<Point> for Row {
    fn from(point: Point) -> Self {
        Row {
            threshold: point.threshold,
            predictions: point.predictions(),
            right: point.right,
            wrong: point.wrong,
            precision: point.precision(),
            recall: point.recall(),
            f1: point.f1(),
        }
    }
}

/// Truth and detections.
#[derive(Debug)]
pub struct Tuning {
    params: Params,
    config: Config,
    truth: Truth,
    ids: Ids,
    found: Vec<ScoredBox>,
    engine: Option<String>,
    /// Indices of the classes that count.
    classes: Vec<usize>,
}

impl Tuning {
    /// Runs the model on all pictures, or reads the detections of another program. `progress` is called after each picture, with the number
    /// done and the total.
    ///
    /// # Errors
    /// `Kind::Config`: invalid labels or results, classes that are unknown or have no objects, no model, a folder without pictures.
    /// `Kind::Source`: a picture that is missing or damaged. `Kind::Model`: see `Loaded::open`.
    pub fn run(config: &Config, params: &Params, progress: &mut dyn FnMut(usize, usize)) -> Result<Self> {
        let mut config = config.clone();
        config.cameras[0].decode.score_min = SCORE_MIN;
        let mut labelled = Labelled::open(&config, &params.labelled)?;
        let model = labelled.detector.as_ref().map(Detector::classes);
        let classes = wanted(&params.classes, &config.first_camera().classes, &labelled.truth, model)?;
        if let Some(detector) = &mut labelled.detector {
            let names = &labelled.truth.classes;
            detector.want(|name| classes.iter().any(|class| names[*class] == name));
        }
        let look = |detector: &mut Detector, path: &Path| Ok(detector.detect(path)?.detections.to_vec());
        let mut found = labelled.find(look, progress)?;
        found.retain(|found| classes.contains(&found.class));
        let engine = labelled.engine();
        let Labelled { truth, ids, .. } = labelled;
        Ok(Tuning { params: params.clone(), config, truth, ids, found, engine, classes })
    }

    /// The detections, as a file of COCO results.
    ///
    /// # Errors
    /// `Kind::System`: a bug.
    pub fn results(&self) -> Result<String> {
        coco::results(&self.found, &self.ids)
    }

    /// The chosen threshold, and the figures behind it.
    pub fn report(&self) -> Report {
        let Params { target_precision, overlap, per_class, .. } = self.params;
        let name = |class: &usize| self.truth.classes[*class].clone();
        let all = self.tuned("all".into(), &self.classes);
        let each = self.classes.iter().filter(|_| per_class);
        Report {
            target_precision,
            overlap,
            pictures: self.truth.pictures.len(),
            detections: self.found.len(),
            engine: self.engine.clone(),
            classes: self.classes.iter().map(name).collect(),
            config: all.chosen.map(|row| {
                let asked = !self.params.classes.is_empty();
                let names: Vec<String> = self.classes.iter().filter(|_| asked).map(name).collect();
                settings(row.threshold, &names, &self.config)
            }),
            by_class: each.map(|class| self.tuned(name(class), &[*class])).collect(),
            all,
        }
    }

    fn tuned(&self, name: String, classes: &[usize]) -> Tuned {
        let Params { target_precision, overlap, fine, .. } = self.params;
        let matches = Matches::new(&self.truth, &self.found, classes, overlap);
        let points: Vec<Point> =
            thresholds(fine).into_iter().map(|threshold| matches.at(threshold)).collect();
        let (chosen, nearest) = match choose(&points, target_precision) {
            Choice::Met(point) => (Some(point.into()), None),
            Choice::Missed(point) => (None, Some(point.into())),
            Choice::Nothing => (None, None),
        };
        let rows = points.into_iter().map(Row::from).collect();
        let curve = matches.curve();
        Tuned { name, objects: matches.objects(), thresholds: rows, chosen, nearest, curve }
    }

    /// The precision-recall curve as a PNG file.
    ///
    /// # Errors
    /// `Kind::System`: a bug.
    pub fn chart(&self, report: &Report) -> Result<Vec<u8>> {
        let labelled::Params { detections, labels, .. } = &self.params.labelled;
        let model = self.config.model.params.as_ref().map(|model| &model.path);
        let from = detections.as_ref().or(model).unwrap_or(labels).file_stem().unwrap_or_default();
        let Report { pictures, overlap, target_precision, all, by_class, .. } = report;
        let title = format!(
            "{}: {pictures} pictures, {} objects, overlap {overlap}",
            from.to_string_lossy(),
            all.objects
        );
        let curves = std::iter::once(all).chain(by_class).map(Tuned::drawn).collect();
        let chart = Chart { title, target: *target_precision, curves };
        chart.to_png().map_err(|why| Error::fatal(Kind::System, format!("drawing the curve: {why}")))
    }
}

impl Report {
    /// Checks that a threshold meets the target precision.
    ///
    /// # Errors
    /// `Kind::Model`: none does; the message names the nearest one.
    pub fn verdict(&self) -> Result<()> {
        let Report { target_precision, all, .. } = self;
        if all.chosen.is_some() {
            return Ok(());
        }
        let classes = self.classes.join(", ");
        let text = match all.nearest {
            Some(Row { threshold, precision: Some(precision), recall: Some(recall), .. }) => format!(
                "no threshold has a precision of {target_precision} for {classes}: {threshold:.2} comes nearest with {precision:.3} \
                 at a recall of {recall:.3}; take a larger model or input, or give a lower --target-precision"
            ),
            _ => format!(
                "no threshold has a precision of {target_precision} for {classes}: nothing was found in {} pictures; is it the model \
                 for these classes?",
                self.pictures
            ),
        };
        Err(Error::fatal(Kind::Model, text))
    }
}

impl Tuned {
    fn drawn(&self) -> Curve {
        let line = self.curve.iter().filter_map(|point| Some((point.recall()?, point.precision()?)));
        let place = |row: &Row| Some((row.recall?, row.precision?));
        let mark = |row: Row| {
            let near = if self.chosen.is_some() { "" } else { "nearest " };
            let [precision, recall] = [row.precision, row.recall].map(Option::unwrap_or_default);
            Some(Mark {
                at: place(&row)?,
                label: format!("{near}{:.2}", row.threshold),
                more: format!("precision {precision:.3}, recall {recall:.3}"),
            })
        };
        Curve {
            name: self.name.clone(),
            line: line.collect(),
            dots: self.thresholds.iter().filter_map(place).collect(),
            mark: self.chosen.or(self.nearest).and_then(mark),
        }
    }
}

/// The classes that count, as indices into those of the labels: `asked`, or those of `followed` that both the labels and the model have.
fn wanted(
    asked: &[String],
    followed: &[String],
    truth: &Truth,
    model: Option<&Classes>,
) -> Result<Vec<usize>> {
    let wrong = |text: String| Err(Error::fatal(Kind::Config, text));
    let labelled = |name: &str| truth.classes.iter().position(|class| class == name);
    let known = |name: &str| model.is_none_or(|model| model.find(name).is_some());
    for name in asked {
        if labelled(name).is_none() {
            return wrong(format!(
                "the labels have no class '{name}' for --classes: they have {}",
                truth.classes.join(", ")
            ));
        }
        if !known(name) {
            return wrong(format!("the model has no class '{name}' for --classes"));
        }
    }
    let names =
        [asked, followed, &truth.classes].into_iter().find(|names| !names.is_empty()).unwrap_or_default();
    let mut classes: Vec<usize> =
        names.iter().filter(|name| known(name)).filter_map(|name| labelled(name)).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.is_empty() {
        return wrong(format!(
            "neither labels nor model have a class of track.classes ({}) in common: give --classes, of the labels' {}",
            names.join(", "),
            truth.classes.join(", ")
        ));
    }
    if !truth.objects.iter().any(|object| !object.crowd && classes.contains(&object.class)) {
        let names: Vec<&str> = classes.iter().map(|class| truth.classes[*class].as_str()).collect();
        return wrong(format!(
            "the labels have no object of {}: give other --classes, or label some pictures with them",
            names.join(", ")
        ));
    }
    Ok(classes)
}

/// The settings that make `threshold` the lowest score of `flytrap detect` and the lowest score with which `flytrap run` begins a track. If
/// `classes` are given, only they are tracked, because no others were measured.
fn settings(threshold: f64, classes: &[String], config: &Config) -> String {
    let mut text = format!("[detect]\nscore_min = {threshold:.2}\n\n[track]\n");
    if !classes.is_empty() {
        text += &format!("classes = {classes:?}\n");
    }
    // Weaker detections only continue a track; score_low must not exceed score_high.
    if threshold < f64::from(config.first_camera().track.score_low) {
        text += &format!("score_low = {threshold:.2}\n");
    }
    text + &format!("score_high = {threshold:.2}\nscore_new = {threshold:.2}\n")
}
