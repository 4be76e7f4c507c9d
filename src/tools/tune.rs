//! Which threshold of the score fits a model and labelled pictures: what `flytrap tune` does.
//!
//! The detections are those that `flytrap run` would have of these pictures if it took weaker ones: one class a box, suppression by
//! `detect.iou_max`, the 300 strongest. A stronger box never depends on a weaker one, so a threshold set later leaves exactly those
//! that are counted here.

use std::path::Path;

use serde::Serialize;

use super::labelled::{self, Labelled};
use super::pictures::Detector;
use crate::base::error::{Error, Kind, Result};
use crate::config::Config;
use crate::tools::score::coco::{self, Ids};
use crate::tools::score::threshold::{Choice, Matches, Point, choose, thresholds};
use crate::tools::score::{Found, Truth};
use crate::vision::detect::model::Classes;
use crate::vision::draw::{Chart, Curve, Mark};

/// Least score that is looked at, the least that `detect.score_min` may be.
const SCORE_MIN: f32 = 0.01;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Params {
    /// Where the truth and the pictures are.
    pub labelled: labelled::Params,
    /// Names of the classes that count; empty: those of `track.classes` that are labelled.
    pub classes: Vec<String>,
    /// How much of what is found must be right, above 0 to 1.
    pub target_precision: f64,
    /// Overlap (IoU) from which on a detection is of an object, above 0 to 1.
    pub overlap: f64,
    /// 91 thresholds instead of 17.
    pub fine: bool,
    /// A choice for each class too.
    pub per_class: bool,
}

/// What was found, and what to set.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was asked.
    pub target_precision: f64,
    /// What was asked.
    pub overlap: f64,
    /// Pictures.
    pub pictures: usize,
    /// Detections of the classes that count, however weak.
    pub detections: usize,
    /// What ran the network.
    pub engine: Option<String>,
    /// Names of the classes that count.
    pub classes: Vec<String>,
    /// All these classes together, each detection and object once.
    pub all: Tuned,
    /// Each of them, if asked.
    pub by_class: Vec<Tuned>,
    /// What to write into the configuration, in TOML.
    pub config: Option<String>,
}

/// The choice for some classes.
#[derive(Debug, Clone, Serialize)]
pub struct Tuned {
    /// The class, or `all`.
    pub name: String,
    /// Objects, without crowds.
    pub objects: usize,
    /// What each threshold gives.
    pub thresholds: Vec<Row>,
    /// The one that has the wanted precision and the greatest recall.
    pub chosen: Option<Row>,
    /// If there is none: the one with the greatest precision.
    pub nearest: Option<Row>,
    /// What each score that occurs would give.
    #[serde(skip)]
    curve: Vec<Point>,
}

/// What a threshold gives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// Least score.
    pub threshold: f64,
    /// Detections, but for those on crowds.
    pub predictions: usize,
    /// Those of an object.
    pub right: usize,
    /// Those of none.
    pub wrong: usize,
    /// Right ones of the predictions, 0..=1; none without predictions.
    pub precision: Option<f64>,
    /// Right ones of the objects, 0..=1; none without objects.
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

/// The truth, and what was found.
#[derive(Debug)]
pub struct Tuning {
    params: Params,
    config: Config,
    truth: Truth,
    ids: Ids,
    found: Vec<Found>,
    engine: Option<String>,
    /// Indices of the classes that count.
    classes: Vec<usize>,
}

impl Tuning {
    /// Looks at all pictures, or reads what another program found. `progress` hears of each picture: how many there were, and of
    /// how many.
    ///
    /// # Errors
    /// `Kind::Config`: labels or results that are none, classes that nobody knows or that have no objects, no model, a folder without
    /// pictures. `Kind::Source`: a picture that is missing or damaged. `Kind::Model`: see `Loaded::open`.
    pub fn run(config: &Config, params: &Params, progress: &mut dyn FnMut(usize, usize)) -> Result<Self> {
        let mut config = config.clone();
        config.camera.decode.score_min = SCORE_MIN;
        let mut labelled = Labelled::open(&config, &params.labelled)?;
        let model = labelled.detector.as_ref().map(Detector::classes);
        let classes = wanted(&params.classes, &config.camera.classes, &labelled.truth, model)?;
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

    /// What was found, as a file of COCO results.
    ///
    /// # Errors
    /// `Kind::System`: a bug.
    pub fn results(&self) -> Result<String> {
        coco::results(&self.found, &self.ids)
    }

    /// The choice and all that it stands on.
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

    /// Precision over recall as a PNG file.
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
    /// Whether a threshold has the wanted precision.
    ///
    /// # Errors
    /// `Kind::Model`: none has, with the one that comes nearest.
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

/// The classes that count, as indices into the labels': `asked`, or those of `followed` that are labelled and that the model knows.
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

/// The settings that make `threshold` the least score of what `flytrap detect` shows and of what `flytrap run` begins a track on; and that
/// just `classes` are followed, unless there are none: it was measured on no others.
fn settings(threshold: f64, classes: &[String], config: &Config) -> String {
    let mut text = format!("[detect]\nscore_min = {threshold:.2}\n\n[track]\n");
    if !classes.is_empty() {
        text += &format!("classes = {classes:?}\n");
    }
    // Weaker ones only continue a track; they may not be stronger than the strong ones.
    if threshold < f64::from(config.camera.track.score_low) {
        text += &format!("score_low = {threshold:.2}\n");
    }
    text + &format!("score_high = {threshold:.2}\nscore_new = {threshold:.2}\n")
}
