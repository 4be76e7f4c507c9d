//! How well a model finds what is in labelled pictures: what `flytrap eval` does.
//!
//! The protocol is that of Ultralytics' `val`: each class score above 0.001 is a candidate, so that one box may stand for several
//! classes; boxes are clipped to the picture; suppression per class at an overlap of 0.7; the 300 strongest of a picture.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::pictures::{Detector, picture_names, with_planes};
use crate::capture::picture;
use crate::config::Config;
use crate::detect::engine::Output;
use crate::detect::letterbox::Placement;
use crate::detect::model::Classes;
use crate::error::{Error, Kind, Result};
use crate::eval::coco::{self, Ids};
use crate::eval::{Area, Found, Scores, Truth, labels, score};
use crate::geometry::{BoxPx, Frame, Model};

/// Scores above this are candidates.
const SCORE_MIN: f32 = 0.001;
/// Boxes of one class that overlap a stronger one by more are the same object.
const IOU_MAX: f32 = 0.7;
/// Detections of a picture, the strongest.
const DETECTIONS_MAX: usize = 300;

/// Where the truth and the pictures are.
#[derive(Debug, Clone)]
pub struct Params {
    /// Folder of the pictures; needed unless `detections` and COCO's labels are given.
    pub images: Option<PathBuf>,
    /// COCO's `instances.json`, or a folder of YOLO's text files, named as the pictures.
    pub labels: PathBuf,
    /// COCO results of another program, which are scored instead of the model's.
    pub detections: Option<PathBuf>,
}

/// What was measured. Average precision in points, 0..=100; none where there is nothing to find.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Mean over classes and the overlaps 0.50, 0.55 … 0.95.
    pub map50_95: Option<f64>,
    /// Mean over classes at an overlap of 0.50.
    pub map50: Option<f64>,
    /// `map50_95` of objects up to 32 x 32 pixels.
    pub map50_95_small: Option<f64>,
    /// From there to 96 x 96 pixels.
    pub map50_95_medium: Option<f64>,
    /// From 96 x 96 pixels.
    pub map50_95_large: Option<f64>,
    /// Pictures.
    pub pictures: usize,
    /// Objects in them, crowds included.
    pub objects: usize,
    /// What was found.
    pub detections: usize,
    /// What ran the network.
    pub engine: Option<String>,
    /// The classes that have objects.
    pub classes: Vec<Class>,
}

/// Of one class.
#[derive(Debug, Clone, Serialize)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Objects, without crowds.
    pub objects: usize,
    /// As of all.
    pub ap50_95: Option<f64>,
    /// As of all.
    pub ap50: Option<f64>,
}

/// The truth, and what was found.
#[derive(Debug)]
pub struct Evaluation {
    truth: Truth,
    ids: Ids,
    found: Vec<Found>,
    engine: Option<String>,
}

impl Evaluation {
    /// Reads the labels and looks at all pictures, or reads what another program found. `progress` hears of each picture: how many
    /// there were, and of how many.
    ///
    /// # Errors
    /// `Kind::Config`: labels or results that are none, no model, a folder without pictures. `Kind::Source`: a picture that is
    /// missing or damaged; a measurement without it would be another one. `Kind::Model`: see `Loaded::open`.
    pub fn run(config: &Config, params: &Params, progress: &mut dyn FnMut(usize, usize)) -> Result<Self> {
        let mut detector = match &params.detections {
            Some(_) => None,
            None => Some(Detector::open(config)?),
        };
        let (truth, ids) = truth(params, detector.as_ref().map(Detector::classes))?;
        let (found, engine) = match (&mut detector, &params.detections) {
            (Some(detector), _) => look(detector, &truth, params, progress)?,
            (None, Some(file)) => (coco::found(&read(file)?, file, &ids)?, None),
            (None, None) => unreachable!("one of them is there"),
        };
        Ok(Evaluation { truth, ids, found, engine })
    }

    /// What was found, as a file of COCO results.
    ///
    /// # Errors
    /// `Kind::System`: a bug.
    pub fn results(&self) -> Result<String> {
        coco::results(&self.found, &self.ids)
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
            objects: self.truth.objects.len(),
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

fn read(place: &Path) -> Result<String> {
    std::fs::read_to_string(place).map_err(|error| {
        Error::fatal(Kind::Config, format!("cannot read '{}'", place.display())).caused_by(error)
    })
}

fn truth(params: &Params, classes: Option<&Classes>) -> Result<(Truth, Ids)> {
    if !params.labels.is_dir() {
        return coco::truth(&read(&params.labels)?, &params.labels);
    }
    if params.detections.is_some() {
        let text = "a folder of labels has no ids that --detections could name: give --labels in COCO's form, instances.json";
        return Err(Error::fatal(Kind::Config, text));
    }
    let (Some(classes), Some(images)) = (classes, &params.images) else {
        let text = "a folder of labels says neither which pictures there are nor what the classes are called: give --model \
                    and --images, or labels in COCO's form";
        return Err(Error::fatal(Kind::Config, text));
    };
    let mut truth = Truth {
        pictures: picture_names(images)?,
        classes: classes.names().map(ToOwned::to_owned).collect(),
        objects: Vec::new(),
    };
    for (index, name) in truth.pictures.iter().enumerate() {
        let place = params.labels.join(Path::new(name).with_extension("txt"));
        // Nothing in the picture, nothing in the folder: that is how such sets come.
        if !place.exists() {
            continue;
        }
        let path = images.join(name);
        let size =
            with_planes(&picture::load(&path)?, &path, |planes, _| Ok((planes.width(), planes.height())))?;
        let objects = labels::objects(&read(&place)?, index, size, truth.classes.len())
            .map_err(|why| Error::fatal(Kind::Config, format!("'{}', {why}", place.display())))?;
        truth.objects.extend(objects);
    }
    if truth.objects.is_empty() {
        let text = format!(
            "'{}' has no label for any picture of '{}': NAME.txt for NAME.jpg",
            params.labels.display(),
            images.display()
        );
        return Err(Error::fatal(Kind::Config, text));
    }
    let ids = Ids::counted(&truth);
    Ok((truth, ids))
}

fn look(
    detector: &mut Detector,
    truth: &Truth,
    params: &Params,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Vec<Found>, Option<String>)> {
    let Some(images) = &params.images else {
        return Err(Error::fatal(Kind::Config, "no pictures: give their folder with --images"));
    };
    // Classes go by name: labels may have more than the model, or others.
    let classes: Vec<Option<usize>> =
        detector.classes().names().map(|name| truth.classes.iter().position(|class| class == name)).collect();
    if classes.iter().all(Option::is_none) {
        let names: Vec<&str> = truth.classes.iter().take(5).map(String::as_str).collect();
        let text = format!(
            "'{}' has none of the model's classes (it has {} …): name them as the model does, {} …",
            params.labels.display(),
            names.join(", "),
            detector.classes().names().take(5).collect::<Vec<_>>().join(", ")
        );
        return Err(Error::fatal(Kind::Config, text));
    }
    let mut found = Vec::new();
    for (index, name) in truth.pictures.iter().enumerate() {
        let path = images.join(name);
        let picture = picture::load(&path)?;
        let mut candidates = Vec::new();
        detector.run(&picture, &path, SCORE_MIN, |output, placement, _| {
            candidates = strongest(output, classes.len(), placement);
        })?;
        for Candidate { class, bbox, score } in candidates {
            if let Some(class) = classes[class] {
                let [x1, y1, x2, y2] = bbox.to_array().map(f64::from);
                let rect = [x1, y1, x2 - x1, y2 - y1];
                found.push(Found { picture: index, class, rect, score: f64::from(score) });
            }
        }
        progress(index + 1, truth.pictures.len());
    }
    Ok((found, detector.describe()))
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    class: usize,
    bbox: BoxPx<Frame>,
    score: f32,
}

/// What is left of an output by the protocol.
fn strongest(output: Output<'_>, classes: usize, placement: &Placement) -> Vec<Candidate> {
    let Output { numbers, columns } = output;
    let (boxes, scores) = numbers.split_at(4 * columns);
    let mut kept: Vec<Candidate> = Vec::new();
    for class in 0..classes {
        let row = &scores[class * columns..(class + 1) * columns];
        let mut of_class: Vec<Candidate> = (0..columns)
            .filter(|anchor| row[*anchor] > SCORE_MIN && row[*anchor].is_finite())
            .map(|anchor| {
                let [cx, cy, w, h] = [0, 1, 2, 3].map(|row| boxes[row * columns + anchor]);
                let bbox = placement.to_frame(&BoxPx::<Model>::from_centre(cx, cy, w, h));
                Candidate { class, bbox, score: row[anchor] }
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
