//! Single pictures through letterbox, network and decoder: the work of `flytrap detect`. All classes, no gate, no tracks.

use std::borrow::Cow;
use std::path::Path;

use serde::Serialize;

use crate::base::error::{Error, Kind, Result};
use crate::capture::dir::{by_number, is_picture_name};
use crate::capture::frame::{Color, FrameView, Planes};
use crate::capture::picture::{self, Picture};
use crate::config::Config;
use crate::vision::detect::decode::{Decoder, Params};
use crate::vision::detect::engine::{Engine, Output};
use crate::vision::detect::letterbox::{Letterbox, Placement, Size};
use crate::vision::detect::model::{Classes, Loaded};
use crate::vision::detect::{Detection, Detections};
use crate::vision::draw::Canvas;
use crate::vision::jpeg::JpegDecoder;

/// Network inputs that are kept ready at once: a model with a free input size gets one for each aspect ratio of pictures.
const STAGES_MAX: usize = 4;

/// A model ready for pictures of any size, one at a time.
pub struct Detector {
    params: Params,
    classes: Classes,
    /// Whether each class is wanted, by the model's index.
    wanted: Vec<bool>,
    model_sha256: String,
    /// The model's file, read and parsed once for all input sizes.
    loaded: Loaded,
    /// Newest last.
    stages: Vec<Stage>,
}

/// The model at one input size.
struct Stage {
    letterbox: Letterbox,
    engine: Box<dyn Engine>,
    decoder: Decoder,
}

/// The detections in a picture.
pub struct PictureDetections {
    /// The input size that the model ran at.
    pub input: Size,
    /// Strongest first, in the picture's pixels.
    pub detections: Detections,
    picture: Picture,
}

impl Detector {
    /// Loads and checks the model. No picture is needed yet.
    ///
    /// # Errors
    /// `Kind::Config`: no model is named. `Kind::Model`: see [`Loaded::open`].
    pub fn open(config: &Config) -> Result<Self> {
        let loaded = Loaded::open(&config.model()?)?;
        let (classes, model_sha256) = (loaded.classes().clone(), loaded.sha256().to_owned());
        let (stages, wanted) = (Vec::new(), vec![true; classes.count()]);
        Ok(Detector { params: config.first_camera().decode, classes, wanted, model_sha256, loaded, stages })
    }

    /// From the next picture on [`Self::detect`] returns only the classes of these names, as `flytrap run` does.
    #[cfg(feature = "desktop")]
    pub(super) fn want(&mut self, wanted: impl Fn(&str) -> bool) {
        self.wanted = self.classes.names().map(wanted).collect();
        self.stages.clear();
    }

    /// The model's classes.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Path of the model's file.
    pub fn model_path(&self) -> &Path {
        &self.loaded.params().path
    }

    /// SHA-256 of the model's file, lower-case hex.
    pub fn model_sha256(&self) -> &str {
        &self.model_sha256
    }

    /// Name of the engine, once it has run.
    pub fn describe(&self) -> Option<String> {
        self.stages.last().map(|stage| stage.engine.describe())
    }

    /// Detects every class of the model in the picture `path`.
    ///
    /// # Errors
    /// `Class::Degrade`: this file is not a picture; the next may be one. `Kind::Model`, fatal: the network fails.
    pub fn detect(&mut self, path: &Path) -> Result<PictureDetections> {
        let picture = picture::load(path)?;
        let mut detections = Detections::new();
        let score_min = self.params.score_min;
        let input = self.run(&picture, path, score_min, |output, placement, stage| {
            let _room_for_all = stage.decode(output, placement, &mut detections);
        })?;
        Ok(PictureDetections { input, detections, picture })
    }

    /// Runs the network on a picture, and calls back with the detections of at least `score_min`. Returns the input size.
    ///
    /// # Errors
    /// As [`Self::detect`].
    pub(super) fn run(
        &mut self,
        picture: &Picture,
        path: &Path,
        score_min: f32,
        look: impl FnOnce(Output<'_>, &Placement, &mut Decoder),
    ) -> Result<Size> {
        with_planes(picture, path, |planes, color| {
            let stage = self.stage_for(Size { width: planes.width(), height: planes.height() })?;
            let placement = stage.letterbox.fill(planes, color, stage.engine.input());
            let input = stage.engine.size();
            look(stage.engine.run(score_min)?, &placement, &mut stage.decoder);
            Ok(input)
        })
    }

    /// Runs the network on the picture `path` and calls back with the inputs of its convolutions; see [`Engine::observe`].
    ///
    /// # Errors
    /// As [`Self::detect`]; fatal if our own executor does not support the model.
    pub(super) fn observe(&mut self, path: &Path, each: &mut dyn FnMut(&str, [f32; 8])) -> Result<()> {
        let place = self.loaded.params().path.display().to_string();
        with_planes(&picture::load(path)?, path, |planes, color| {
            let stage = self.stage_for(Size { width: planes.width(), height: planes.height() })?;
            stage.letterbox.fill(planes, color, stage.engine.input());
            if stage.engine.observe(each) {
                return Ok(());
            }
            let text = format!(
                "model '{place}': only tract can run it, in fp32, so there is nothing to calibrate; set model.precision to fp32"
            );
            Err(Error::fatal(Kind::Model, text))
        })
    }

    /// The stage for pictures of that size; created if needed.
    fn stage_for(&mut self, frame: Size) -> Result<&mut Stage> {
        let size = self.loaded.size_for(frame)?;
        let at = match self.stages.iter().position(|stage| stage.engine.size() == size) {
            Some(at) => at,
            None => {
                let (engine, _) = self.loaded.clone().into_engine(frame)?;
                let decoder =
                    Decoder::new(engine.head(), self.params, |class| self.wanted[usize::from(class.0)]);
                if self.stages.len() == STAGES_MAX {
                    self.stages.remove(0);
                }
                self.stages.push(Stage { letterbox: Letterbox::new(size), engine, decoder });
                self.stages.len() - 1
            }
        };
        Ok(&mut self.stages[at])
    }
}

impl PictureDetections {
    /// The picture with its boxes and labels as a JPEG.
    ///
    /// # Errors
    /// `Kind::System` if it cannot be encoded.
    pub fn drawn(&self, path: &Path, classes: &Classes) -> Result<Vec<u8>> {
        with_planes(&self.picture, path, |planes, color| {
            let mut canvas = Canvas::from_planes(planes, color);
            // The strongest last, so that its label is on top.
            for detection in self.detections.iter().rev() {
                canvas.detection(detection, classes.name(detection.class));
            }
            canvas
                .to_jpeg()
                .map_err(|why| Error::fatal(Kind::System, format!("drawing '{}': {why}", path.display())))
        })
    }

    /// The line that `flytrap detect --json` prints: `photo` (file name), `size` (model input, `640` or `384x640`, height first),
    /// `detections` with `class`, `score` (0..=1, four decimals) and `box` (left, top, right, bottom in pixels, two decimals).
    ///
    /// # Errors
    /// `Kind::System`: a bug.
    pub fn to_json(&self, path: &Path, classes: &Classes) -> Result<String> {
        let line = PictureJson {
            photo: path.file_name().unwrap_or_default().to_string_lossy(),
            size: self.input.to_string(),
            detections: self
                .detections
                .iter()
                .map(|detection| DetectionJson::new(detection, classes))
                .collect(),
        };
        serde_json::to_string(&line).map_err(|error| {
            Error::fatal(Kind::System, "a line of JSON could not be written").caused_by(error)
        })
    }
}

#[derive(Serialize)]
struct PictureJson<'a> {
    photo: Cow<'a, str>,
    size: String,
    detections: Vec<DetectionJson<'a>>,
}

#[derive(Serialize)]
struct DetectionJson<'a> {
    class: &'a str,
    score: f64,
    #[serde(rename = "box")]
    bbox: [f64; 4],
}

impl<'a> DetectionJson<'a> {
    fn new(detection: &Detection, classes: &'a Classes) -> Self {
        DetectionJson {
            class: classes.name(detection.class),
            score: rounded(detection.score, 1e4),
            bbox: detection.bbox.to_array().map(|side| rounded(side, 1e2)),
        }
    }
}

fn rounded(value: f32, scale: f64) -> f64 {
    (f64::from(value) * scale).round() / scale
}

/// Decodes the picture if it is still a JPEG, and calls `use_them` with its planes.
pub(super) fn with_planes<T>(
    picture: &Picture,
    path: &Path,
    use_them: impl FnOnce(&Planes<'_>, Color) -> Result<T>,
) -> Result<T> {
    let damaged = |why: String| Error::degrade(Kind::Source, format!("picture '{}': {why}", path.display()));
    let view = FrameView::new(picture.format, &picture.bytes).map_err(|error| damaged(error.to_string()))?;
    if let Ok(planes) = view.planes() {
        return use_them(&planes, picture.format.color);
    }
    let mut decoder = JpegDecoder::new(picture.format.width, picture.format.height);
    let decoded = decoder.decode(&picture.bytes).map_err(|error| damaged(error.to_string()))?;
    use_them(&decoded.planes, decoded.color)
}

/// The pictures of a folder, sorted by name.
pub(super) fn picture_names(folder: &Path) -> Result<Vec<String>> {
    let failed = |error: std::io::Error| {
        Error::fatal(Kind::Config, format!("cannot read the folder '{}'", folder.display())).caused_by(error)
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if is_picture_name(Path::new(&name)) {
            names.push(name);
        }
    }
    if names.is_empty() {
        let text = format!("'{}' holds no .jpg, .jpeg or .png", folder.display());
        return Err(Error::fatal(Kind::Config, text));
    }
    names.sort_unstable_by(|a, b| by_number(a.as_bytes(), b.as_bytes()));
    Ok(names)
}
