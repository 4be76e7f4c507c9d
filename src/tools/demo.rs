//! The whole of it on a simulated street with the shipped detector: what `flytrap demo` does. No camera, no configuration.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::analytics::count::Line;
use crate::base::error::cannot_write;
use crate::base::error::{Error, Kind, Result};
use crate::capture::frame::{Color, FrameFormat, FrameView, PixelFormat};
use crate::config::Config;
use crate::event::{Body, Direction};
use crate::pipeline::{Failure, Pipeline};
use crate::platform::clock::Mono;
use crate::sim::judge::Judge;
use crate::sim::lines::counting_line;
use crate::sim::scene::{Hour, Scene, SceneParams, Weather};
use crate::sim::traffic::Kind as Class;
use crate::vision::detect::model::Loaded;
use crate::vision::draw::Canvas;

/// Frames a second, and of how many seconds at the end the clip is.
const FPS: u32 = 10;
const CLIP_SECONDS: u32 = 20;

/// What is shown.
#[derive(Debug, Clone)]
pub struct Params {
    /// The street.
    pub seed: u64,
    /// How long.
    pub seconds: u32,
    /// Where the picture and the clip go.
    pub folder: PathBuf,
}

/// A class on a way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Line and way.
    pub way: String,
    /// What.
    pub class: String,
    /// As the program counted.
    pub counted: u64,
    /// As it was.
    pub truth: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Done {
    /// Frames.
    pub frames: u64,
    /// Frames at which the network looked.
    pub inferences: u64,
    /// Tracks.
    pub tracks: u64,
    /// Crossings by way and class.
    pub rows: Vec<Row>,
    /// All of them.
    pub counted: u64,
    /// All that there were.
    pub truth: u64,
    /// Besides: of what was too small or hidden.
    pub unseen: u64,
    /// The annotated picture and clip.
    pub files: Vec<String>,
}

/// Something to tell while it runs.
pub enum News<'a> {
    /// Something happened, so many seconds from the start.
    Event(f64, &'a Body),
    /// So many seconds of so many are over, so many crossings were counted.
    Progress(u32, u32, u64),
}

/// Runs the street through the pipeline.
///
/// # Errors
/// `Kind::System`: the folder cannot be written. `Kind::Model`: the network fails. What `on` says, which ends it.
pub fn demo(config: &Config, params: &Params, on: &mut dyn FnMut(News<'_>) -> Result<()>) -> Result<Done> {
    let scene = SceneParams {
        seed: params.seed,
        hour: Some(Hour::Day),
        weather: Some(Weather::Overcast),
        calm: true,
        ..SceneParams::default()
    };
    let mut scene = Scene::new(&scene)?;
    let (width, height) = (scene.setting().width, scene.setting().height);
    let line = counting_line(scene.setting());
    let format = FrameFormat::packed(PixelFormat::Rgb24, width, height, Color::JPEG)
        .map_err(|error| Error::fatal(Kind::Config, "the simulated street's size").caused_by(error))?;
    let mut pipeline = pipeline(config, &format, vec![line.clone()])?;
    let mut judge = Judge::new(std::slice::from_ref(&line), width, height);
    let mut reel = Reel::new(&params.folder, &line, (width, height))?;
    let mut rgb = vec![0; scene.picture_bytes()];
    let mut counted: BTreeMap<(Direction, String), u64> = BTreeMap::new();
    let (mut inferences, mut tracks) = (0, 0);
    let frames = params.seconds * FPS;
    for frame in 0..frames {
        let seconds = f64::from(frame) / f64::from(FPS);
        judge.see(scene.render(seconds, &mut rgb));
        let at = Mono::ZERO + Duration::from_secs_f64(seconds);
        let view = FrameView::new(format, &rgb).map_err(|error| {
            Error::fatal(Kind::System, "a frame of the simulated street").caused_by(error)
        })?;
        let mut told = Ok(());
        let outcome = pipeline.process(&view, at, &mut |body| {
            if let Body::Crossing(crossing) = &body {
                *counted.entry((crossing.direction, crossing.class.to_string())).or_default() += 1;
            }
            tracks += u64::from(matches!(body, Body::TrackBegin(_)));
            if told.is_ok() {
                told = on(News::Event(seconds, &body));
            }
        });
        told?;
        let outcome = outcome.map_err(of_the_street)?;
        inferences += u64::from(outcome.inferred);
        let sum = counted.values().sum();
        if frame + CLIP_SECONDS * FPS >= frames {
            reel.add(
                &rgb,
                &pipeline,
                config,
                &format!("{seconds:5.1} s  {sum} counted, {} true", judge.total()),
            )?;
        }
        if frame % FPS == 0 {
            on(News::Progress(frame / FPS, params.seconds, sum))?;
        }
    }
    pipeline.finish(Mono::ZERO + Duration::from_secs(u64::from(params.seconds)), &mut |_| {});
    let files = reel.end()?;
    let rows = rows(&line, &counted, &judge);
    Ok(Done {
        frames: u64::from(frames),
        inferences,
        tracks,
        counted: rows.iter().map(|row| row.counted).sum(),
        truth: rows.iter().map(|row| row.truth).sum(),
        unseen: judge.unseen(),
        rows,
        files,
    })
}

fn of_the_street(failure: Failure) -> Error {
    match failure {
        Failure::Engine(error) => error,
        Failure::Corrupt(why) => {
            Error::fatal(Kind::System, format!("a frame of the simulated street: {why}"))
        }
    }
}

/// The stages with the model of the configuration, counting at these lines.
///
/// # Errors
/// `Kind::Config`: no model, or a setting out of range; `Kind::Model`: the model cannot be loaded, or fails its self-test.
pub fn pipeline(config: &Config, format: &FrameFormat, lines: Vec<Line>) -> Result<Pipeline> {
    let model = Loaded::open(&config.model()?)?;
    let wanted = crate::vision::detect::model::wanted_classes(&config.camera.classes, model.classes())?;
    let (engine, classes) = crate::run::inference::engine(config, model, format)?;
    let mut stages = config.camera.stages(wanted);
    stages.follow.lines = lines;
    Pipeline::new(stages, format, engine, &classes)
}

/// Counted and true, by way and class.
fn rows(line: &Line, counted: &BTreeMap<(Direction, String), u64>, judge: &Judge) -> Vec<Row> {
    let mut rows = Vec::new();
    for (direction, name) in [(Direction::Forward, &line.forward), (Direction::Backward, &line.backward)] {
        for class in Class::ALL {
            let counted = counted.get(&(direction, class.name().to_owned())).copied().unwrap_or(0);
            let truth = judge.counts().get(&(0, direction, class)).copied().unwrap_or(0);
            if counted + truth > 0 {
                rows.push(Row { way: name.to_string(), class: class.name().to_owned(), counted, truth });
            }
        }
        // What another model knows besides, and what is not on this street.
        let known = |class: &str| Class::ALL.iter().any(|kind| kind.name() == class);
        for ((way, class), counted) in counted.iter().filter(|((_, class), _)| !known(class)) {
            if *way == direction {
                rows.push(Row { way: name.to_string(), class: class.clone(), counted: *counted, truth: 0 });
            }
        }
    }
    rows
}

/// The annotated clip and its best picture.
struct Reel {
    picture: PathBuf,
    clip: PathBuf,
    file: std::fs::File,
    line: [(f32, f32); 2],
    size: (u32, u32),
    /// Most boxes of a picture so far, and that picture.
    best: Option<(usize, Vec<u8>)>,
}

impl Reel {
    fn new(folder: &Path, line: &Line, size: (u32, u32)) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
        let (picture, clip) = (folder.join("demo.jpg"), folder.join("demo.mjpeg"));
        let file = std::fs::File::create(&clip).map_err(|error| cannot_write(&clip, error))?;
        let ends = [line.a, line.b].map(|end| end.to_px(size.0, size.1)).map(|end| (end.x, end.y));
        Ok(Reel { picture, clip, file, line: ends, size, best: None })
    }

    fn add(&mut self, rgb: &[u8], pipeline: &Pipeline, config: &Config, caption: &str) -> Result<()> {
        let (width, height) = (self.size.0 as usize, self.size.1 as usize);
        let Some(mut canvas) = Canvas::from_rgb(width, height, rgb.to_vec()) else { return Ok(()) };
        canvas.line(self.line[0], self.line[1], 2, [255, 255, 0]);
        let strong =
            pipeline.detections().iter().filter(|found| found.score >= config.camera.track.score_new);
        let mut boxes = 0;
        for found in strong {
            canvas.detection(found, pipeline.class_name(found.class));
            boxes += 1;
        }
        canvas.caption(caption, [255, 255, 0]);
        let jpeg = canvas
            .to_jpeg()
            .map_err(|why| Error::fatal(Kind::System, format!("'{}': {why}", self.clip.display())))?;
        self.file.write_all(&jpeg).map_err(|error| cannot_write(&self.clip, error))?;
        if self.best.as_ref().is_none_or(|(most, _)| boxes > *most) {
            self.best = Some((boxes, jpeg));
        }
        Ok(())
    }

    /// Tells where they are.
    fn end(self) -> Result<Vec<String>> {
        let Some((_, jpeg)) = self.best else { return Ok(Vec::new()) };
        std::fs::write(&self.picture, jpeg).map_err(|error| cannot_write(&self.picture, error))?;
        Ok(vec![self.picture.display().to_string(), self.clip.display().to_string()])
    }
}
