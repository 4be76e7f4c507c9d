//! Labelled pictures and detections in them: shared by `flytrap eval` and `flytrap tune`.

use std::path::{Path, PathBuf};

use super::pictures::{Detector, picture_names, with_planes};
use crate::base::error::{Error, Kind, Result};
use crate::capture::picture;
use crate::config::Config;
use crate::tools::score::coco::{self, Ids};
use crate::tools::score::{ScoredBox, Truth, labels};
use crate::vision::detect::Detection;
use crate::vision::detect::model::Classes;

/// Location of labels and pictures.
#[derive(Debug, Clone)]
pub struct Params {
    /// Folder of the pictures; needed unless `detections` and COCO's labels are given.
    pub images: Option<PathBuf>,
    /// COCO's `instances.json`, or a folder of YOLO's text files, named as the pictures.
    pub labels: PathBuf,
    /// COCO results of another program, which are scored instead of the model's.
    pub detections: Option<PathBuf>,
}

/// Pictures with known objects, and the detector that runs on them.
pub(super) struct Labelled {
    pub(super) truth: Truth,
    pub(super) ids: Ids,
    /// None if the detections come from another program.
    pub(super) detector: Option<Detector>,
    params: Params,
}

impl Labelled {
    /// Loads the model, if one is to be run, and reads the labels.
    ///
    /// # Errors
    /// `Kind::Config`: invalid labels, no model, a folder without pictures. `Kind::Source`: a picture without a size.
    /// `Kind::Model`: see `Loaded::open`.
    pub(super) fn open(config: &Config, params: &Params) -> Result<Self> {
        let detector = match &params.detections {
            Some(_) => None,
            None => Some(Detector::open(config)?),
        };
        let (truth, ids) = truth(params, detector.as_ref().map(Detector::classes))?;
        Ok(Labelled { truth, ids, detector, params: params.clone() })
    }

    /// Runs `look` on all pictures, or reads the detections of another program. `progress` is called after each picture, with the number
    /// done and the total.
    ///
    /// # Errors
    /// `Kind::Config`: invalid results, labels without any class of the model. `Kind::Source`: a picture that is missing or damaged, since
    /// scores without it could not be compared. Errors of `look`.
    pub(super) fn find(
        &mut self,
        mut look: impl FnMut(&mut Detector, &Path) -> Result<Vec<Detection>>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<ScoredBox>> {
        let Labelled { truth, ids, detector, params } = self;
        let detector = match (detector, &params.detections) {
            (Some(detector), _) => detector,
            (None, Some(file)) => return coco::found(&read(file)?, file, ids),
            (None, None) => unreachable!("one of them is there"),
        };
        let Some(images) = &params.images else {
            return Err(Error::fatal(Kind::Config, "no pictures: give their folder with --images"));
        };
        let classes = shared_classes(detector.classes(), truth, params)?;
        let mut found = Vec::new();
        for (index, name) in truth.pictures.iter().enumerate() {
            for Detection { class, bbox, score } in look(detector, &images.join(name))? {
                if let Some(class) = classes[usize::from(class.0)] {
                    let [x1, y1, x2, y2] = bbox.to_array().map(f64::from);
                    let rect = [x1, y1, x2 - x1, y2 - y1];
                    found.push(ScoredBox { picture: index, class, rect, score: f64::from(score) });
                }
            }
            progress(index + 1, truth.pictures.len());
        }
        Ok(found)
    }

    /// Name of the engine, once it has run.
    pub(super) fn engine(&self) -> Option<String> {
        self.detector.as_ref().and_then(Detector::describe)
    }
}

/// Maps the model's classes to those of the labels, by name: the labels may have more classes, or others.
fn shared_classes(model: &Classes, truth: &Truth, params: &Params) -> Result<Vec<Option<usize>>> {
    let classes: Vec<Option<usize>> =
        model.names().map(|name| truth.classes.iter().position(|class| class == name)).collect();
    if classes.iter().all(Option::is_none) {
        let names: Vec<&str> = truth.classes.iter().take(5).map(String::as_str).collect();
        let text = format!(
            "'{}' has none of the model's classes (it has {} …): name them as the model does, {} …",
            params.labels.display(),
            names.join(", "),
            model.names().take(5).collect::<Vec<_>>().join(", ")
        );
        return Err(Error::fatal(Kind::Config, text));
    }
    Ok(classes)
}

/// In a folder of YOLO's labels: the names of the classes, one per line, if they differ from the model's.
pub const CLASSES_FILE: &str = "classes.txt";

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
        let text = "a folder of labels has no ids for --detections to refer to: give --labels as COCO's instances.json";
        return Err(Error::fatal(Kind::Config, text));
    }
    let (Some(classes), Some(images)) = (classes, &params.images) else {
        let text = "a folder of labels says neither which pictures there are nor what the classes are called: give --model \
                    and --images, or labels in COCO's form";
        return Err(Error::fatal(Kind::Config, text));
    };
    let named = params.labels.join(CLASSES_FILE);
    let classes: Vec<String> = if named.exists() {
        let text = read(&named)?;
        text.lines().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    } else {
        classes.names().map(ToOwned::to_owned).collect()
    };
    let mut truth = Truth { pictures: picture_names(images)?, classes, objects: Vec::new() };
    for (index, name) in truth.pictures.iter().enumerate() {
        let place = params.labels.join(Path::new(name).with_extension("txt"));
        // Pictures without objects often have no label file.
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
