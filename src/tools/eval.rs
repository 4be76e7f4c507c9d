//! Scores a model on labelled pictures: the work of `flytrap eval`.
//!
//! The protocol is that of Ultralytics' `val`: each class score above 0.001 is a candidate, so one box may appear with several classes;
//! boxes are clipped to the picture; NMS per class at an IoU of 0.7; the 300 strongest detections of a picture.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::labelled::{Labelled, Params};
use super::pictures::Detector;
use crate::base::error::{Error, Kind, Result};
use crate::base::geometry::{BoxPx, Model};
use crate::capture::picture;
use crate::config::Config;
use crate::platform::clock::{Clock, Rfc3339, SystemClock};
use crate::tools::score::coco::{self, Ids};
use crate::tools::score::{Area, ScoredBox, Scores, Truth, score};
use crate::vision::detect::accuracy::{self, Accuracy};
use crate::vision::detect::engine::Output;
use crate::vision::detect::letterbox::Placement;
use crate::vision::detect::model::BUILTIN;
use crate::vision::detect::{ClassId, Detection};

/// Score above which a detection is a candidate.
const SCORE_MIN: f32 = 0.001;
/// IoU above which two boxes of one class are the same object.
const IOU_MAX: f32 = 0.7;
/// Maximum number of detections in a picture, strongest first.
const DETECTIONS_MAX: usize = 300;

/// The scores. Average precision, per cent; none where there are no objects.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Mean over classes and the IoU thresholds 0.50, 0.55 … 0.95.
    pub map50_95: Option<f64>,
    /// Mean over classes at an IoU of 0.50.
    pub map50: Option<f64>,
    /// `map50_95` of objects up to 32 x 32 pixels.
    pub map50_95_small: Option<f64>,
    /// `map50_95` of objects from 32 x 32 to 96 x 96 pixels.
    pub map50_95_medium: Option<f64>,
    /// `map50_95` of objects from 96 x 96 pixels.
    pub map50_95_large: Option<f64>,
    /// Pictures.
    pub pictures: usize,
    /// Objects in them, without crowds.
    pub objects: usize,
    /// Number of detections.
    pub detections: usize,
    /// Name of the engine.
    pub engine: Option<String>,
    /// The classes that have objects.
    pub classes: Vec<Class>,
}

/// Scores of one class.
#[derive(Debug, Clone, Serialize)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Objects, without crowds.
    pub objects: usize,
    /// As in [`Figures`].
    pub ap50_95: Option<f64>,
    /// As in [`Figures`].
    pub ap50: Option<f64>,
}

/// Truth and detections.
#[derive(Debug)]
pub struct Evaluation {
    truth: Truth,
    ids: Ids,
    found: Vec<ScoredBox>,
    engine: Option<String>,
    /// The model's path and hash; none for another program's detections.
    model: Option<(PathBuf, String)>,
}

impl Evaluation {
    /// Runs the model on all pictures, or reads the detections of another program. `progress` is called after each picture, with the number
    /// done and the total.
    ///
    /// # Errors
    /// `Kind::Config`: invalid labels or results, no model, a folder without pictures. `Kind::Source`: a picture that is missing or
    /// damaged, since scores without it could not be compared. `Kind::Model`: see `Loaded::open`.
    pub fn run(config: &Config, params: &Params, progress: &mut dyn FnMut(usize, usize)) -> Result<Self> {
        let mut labelled = Labelled::open(config, params)?;
        let look = |detector: &mut Detector, path: &Path| {
            let (mut kept, classes) = (Vec::new(), detector.classes().count());
            detector.run(&picture::load(path)?, path, SCORE_MIN, |output, placement, _| {
                kept = strongest(output, classes, placement);
            })?;
            Ok(kept)
        };
        let found = labelled.find(look, progress)?;
        let engine = labelled.engine();
        let model = labelled
            .detector
            .as_ref()
            .map(|detector| (detector.model_path().to_owned(), detector.model_sha256().to_owned()));
        let Labelled { truth, ids, .. } = labelled;
        Ok(Evaluation { truth, ids, found, engine, model })
    }

    /// The detections, as a file of COCO results.
    ///
    /// # Errors
    /// `Kind::System`: a bug.
    pub fn results(&self) -> Result<String> {
        coco::results(&self.found, &self.ids)
    }

    /// Whether scores of the configured model can be recorded: worth knowing before they are measured.
    ///
    /// # Errors
    /// `Kind::Config`: the built-in model, which is in no folder; a clock that is not set.
    pub fn check_record(config: &Config) -> Result<()> {
        let wrong = |text: &str| Err(Error::fatal(Kind::Config, text.to_owned()));
        if config.model()?.path.as_os_str() == BUILTIN {
            return wrong("--record: the built-in model is in no folder: name a model file with --model");
        }
        if !SystemClock.wall().plausible() {
            return wrong("--record: the clock is not set: set it, so that the record has its date");
        }
        Ok(())
    }

    /// Keeps the scores in a file beside the model, for the KPI table. Returns where it is.
    ///
    /// # Errors
    /// `Kind::Config`: another program's detections; labels without objects. `Kind::System`: the file cannot be written.
    pub fn record(&self, config: &Config, params: &Params, figures: &Figures) -> Result<PathBuf> {
        let (Some((path, sha256)), Some(map50)) = (&self.model, figures.map50) else {
            let text = "--record: there are no objects in these labels, or no model of ours was run";
            return Err(Error::fatal(Kind::Config, text));
        };
        let wall = SystemClock.wall();
        let folder =
            |images: &PathBuf| Some(images.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned());
        let data = params.images.as_ref().and_then(folder);
        let accuracy = Accuracy {
            map50,
            map50_95: figures.map50_95,
            pictures: figures.pictures,
            data: data.unwrap_or_else(|| params.labels.display().to_string()),
            precision: config.model()?.engine.precision.name().to_owned(),
            date: Rfc3339(wall.unix_nanos).to_string().chars().take("2026-11-30".len()).collect(),
        };
        accuracy::save(path, sha256, &accuracy)
    }

    /// The scores.
    pub fn figures(&self) -> Figures {
        let of = |area| score(&self.truth, &self.found, area);
        let points = |part: Option<f64>| part.map(|part| 100.0 * part);
        let Scores { mean, classes } = of(Area::All);
        let [map50_95_small, map50_95_medium, map50_95_large] =
            [Area::Small, Area::Medium, Area::Large].map(|area| points(of(area).mean.ap50_95));
        Figures {
            map50_95: points(mean.ap50_95),
            map50: points(mean.ap50),
            map50_95_small,
            map50_95_medium,
            map50_95_large,
            pictures: self.truth.pictures.len(),
            objects: self.truth.objects.iter().filter(|object| !object.crowd).count(),
            detections: self.found.len(),
            engine: self.engine.clone(),
            classes: classes
                .into_iter()
                .map(|class| Class {
                    name: self.truth.classes[class.class].clone(),
                    objects: class.objects,
                    ap50_95: points(class.ap.ap50_95),
                    ap50: points(class.ap.ap50),
                })
                .collect(),
        }
    }
}

/// The detections that the protocol keeps of an output.
fn strongest(output: Output<'_>, classes: usize, placement: &Placement) -> Vec<Detection> {
    let Output { numbers, columns } = output;
    let (boxes, scores) = numbers.split_at(4 * columns);
    let mut kept: Vec<Detection> = Vec::new();
    for class in 0..classes {
        let row = &scores[class * columns..(class + 1) * columns];
        let mut of_class: Vec<Detection> = (0..columns)
            .filter(|anchor| row[*anchor] > SCORE_MIN && row[*anchor].is_finite())
            .map(|anchor| {
                let [cx, cy, w, h] = [0, 1, 2, 3].map(|row| boxes[row * columns + anchor]);
                let bbox = placement.to_frame(&BoxPx::<Model>::from_centre(cx, cy, w, h));
                Detection { class: ClassId(class as u16), bbox, score: row[anchor] }
            })
            .filter(|candidate| candidate.bbox.is_finite())
            .collect();
        of_class.sort_by(|a, b| b.score.total_cmp(&a.score));
        let first = kept.len();
        for candidate in of_class {
            if !kept[first..].iter().any(|other| other.bbox.iou(&candidate.bbox) > IOU_MAX) {
                kept.push(candidate);
            }
        }
    }
    kept.sort_by(|a, b| b.score.total_cmp(&a.score));
    kept.truncate(DETECTIONS_MAX);
    kept
}
