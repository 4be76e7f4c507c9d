//! The complete pipeline on a simulated street with the built-in detector: the work of `flytrap demo`. No camera, no configuration.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::analytics::count::CountingLine;
use crate::base::error::cannot_write;
use crate::base::error::{Error, Kind, Result};
use crate::capture::frame::{Color, FrameFormat, FrameView, PixelFormat};
use crate::config::Config;
use crate::event::{Body, Direction};
use crate::metrics::histogram::Histogram;
use crate::metrics::kpi;
use crate::pipeline::{Failure, Pipeline, WithEngine};
use crate::platform::clock::{Clock, Mono, SystemClock};
use crate::platform::system;
use crate::sim::judge::Judge;
use crate::sim::lines::counting_line;
use crate::sim::scene::{Hour, Scene, SceneParams, Weather};
use crate::sim::traffic::Kind as Class;
use crate::vision::detect::accuracy::Accuracy;
use crate::vision::detect::letterbox::Size;
use crate::vision::detect::model::{Loaded, wanted_classes};
use crate::vision::draw::Canvas;
use crate::vision::load;

/// Frame rate and length of the clip, which shows the end of the run.
const FPS: u32 = 10;
const CLIP_SECONDS: u32 = 20;

/// What to run.
#[derive(Debug, Clone)]
pub struct Params {
    /// Seed of the street.
    pub seed: u64,
    /// Duration, seconds of the street.
    pub seconds: u32,
    /// Output folder of the picture and the clip.
    pub folder: PathBuf,
}

/// Crossings of one class in one direction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name of the direction.
    #[serde(rename = "way")]
    pub direction: String,
    /// Name of the class.
    pub class: String,
    /// Number counted by the program.
    pub counted: u64,
    /// Number of true crossings.
    pub truth: u64,
}

/// Comparison of counted and true crossings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemoReport {
    /// Frames.
    pub frames: u64,
    /// Frames on which the network ran.
    pub inferences: u64,
    /// Tracks.
    pub tracks: u64,
    /// Crossings by direction and class.
    pub rows: Vec<Row>,
    /// All crossings that were counted.
    pub counted: u64,
    /// All true crossings.
    pub truth: u64,
    /// Crossings by road users that were too small or hidden; not in `truth`.
    pub unseen: u64,
    /// The annotated picture and clip.
    pub files: Vec<String>,
    /// The KPI table: the rate and latency of frames that follow each other without a pause.
    pub kpi: Vec<kpi::Row>,
}

/// Progress reports of a running demo.
pub enum DemoUpdate<'a> {
    /// An event, this many seconds after the start.
    Event(f64, &'a Body),
    /// Progress.
    Progress {
        /// Seconds done.
        seconds: u32,
        /// Seconds in total.
        total: u32,
        /// Crossings counted so far.
        counted: u64,
    },
}

/// Runs the street through the pipeline.
///
/// # Errors
/// `Kind::System`: the folder cannot be written. `Kind::Model`: the network fails. Errors of `on`, which end the run.
pub fn demo(
    config: &Config,
    params: &Params,
    on: &mut dyn FnMut(DemoUpdate<'_>) -> Result<()>,
) -> Result<DemoReport> {
    let mut scene = street(params.seed)?;
    let (width, height) = (scene.setting().width, scene.setting().height);
    let line = counting_line(scene.setting());
    let format = FrameFormat::packed(PixelFormat::Rgb24, width, height, Color::JPEG).map_err(|error| {
        Error::fatal(Kind::Config, "the size of the simulated street is not possible").caused_by(error)
    })?;
    let model = Loaded::open(&config.model()?)?;
    let timing = Timing { accuracy: model.accuracy(), ..Timing::default() };
    let mut stages = pipeline_with(model, config, &format, vec![line.clone()])?;
    let mut judge = Judge::new(std::slice::from_ref(&line), scene.setting().view(), width, height);
    let mut clip = ClipWriter::new(&params.folder, &line, (width, height))?;
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
        let mut printed = Ok(());
        let begun = SystemClock.mono();
        let outcome = stages.process(&view, at, &mut |body| {
            if let Body::Crossing(crossing) = &body {
                *counted.entry((crossing.direction, crossing.class.to_string())).or_default() += 1;
            }
            tracks += u64::from(matches!(body, Body::TrackBegin(_)));
            if printed.is_ok() {
                printed = on(DemoUpdate::Event(seconds, &body));
            }
        });
        printed?;
        let outcome = outcome.map_err(of_the_street)?;
        timing.add(SystemClock.mono().since(begun), outcome.inferred);
        inferences += u64::from(outcome.inferred);
        let sum = counted.values().sum();
        if frame + CLIP_SECONDS * FPS >= frames {
            let text = format!("{seconds:5.1} s  {sum} counted, {} true", judge.total());
            clip.add(&rgb, &stages.pipeline, config, &text)?;
        }
        if frame % FPS == 0 {
            on(DemoUpdate::Progress { seconds: frame / FPS, total: params.seconds, counted: sum })?;
        }
    }
    stages.pipeline.finish(Mono::ZERO + Duration::from_secs(u64::from(params.seconds)), &mut |_| {});
    let files = clip.finish()?;
    let rows = rows(&line, &counted, &judge);
    Ok(DemoReport {
        frames: u64::from(frames),
        inferences,
        tracks,
        counted: rows.iter().map(|row| row.counted).sum(),
        truth: rows.iter().map(|row| row.truth).sum(),
        unseen: judge.unseen(),
        rows,
        files,
        kpi: timing.table(config),
    })
}

/// A calm street on an overcast day.
fn street(seed: u64) -> Result<Scene> {
    let (hour, weather) = (Some(Hour::Day), Some(Weather::Overcast));
    Scene::new(&SceneParams { seed, hour, weather, calm: true, ..SceneParams::default() })
}

/// What the KPI table needs.
#[derive(Default)]
struct Timing {
    frames: Histogram,
    inferred: Histogram,
    accuracy: Option<Accuracy>,
}

impl Timing {
    /// A frame took this long.
    fn add(&self, took: Duration, inferred: bool) {
        self.frames.add(took);
        if inferred {
            self.inferred.add(took);
        }
    }

    fn table(self, config: &Config) -> Vec<kpi::Row> {
        let frames = self.frames.read();
        let camera = kpi::CameraFigures {
            rate: Some(frames.count() as f64 * 1e6 / frames.sum_us.max(1) as f64),
            latency_p95_us: self.inferred.read().percentile_us(0.95),
            ..kpi::CameraFigures::default()
        };
        let figures = kpi::Figures {
            cameras: vec![camera],
            memory_peak_bytes: Some(system::peak_since_start_bytes()).filter(|bytes| *bytes > 0),
            // It takes as much of the CPU as it can get, most of it for drawing the street.
            cpu_permille: None,
            accuracy: self.accuracy,
        };
        kpi::rows(&config.kpi, &figures)
    }
}

fn of_the_street(failure: Failure) -> Error {
    match failure {
        Failure::Engine(error) => error,
        Failure::Corrupt(why) => {
            Error::fatal(Kind::System, format!("a frame of the simulated street: {why}"))
        }
    }
}

/// The pipeline with the model of the configuration, counting at these lines.
///
/// # Errors
/// `Kind::Config`: no model, or a setting out of range; `Kind::Model`: the model cannot be loaded, or fails its self-test.
pub fn pipeline(config: &Config, format: &FrameFormat, lines: Vec<CountingLine>) -> Result<WithEngine> {
    pipeline_with(Loaded::open(&config.model()?)?, config, format, lines)
}

fn pipeline_with(
    model: Loaded,
    config: &Config,
    format: &FrameFormat,
    lines: Vec<CountingLine>,
) -> Result<WithEngine> {
    let wanted = wanted_classes(&config.first_camera().classes, model.classes())?;
    let frame = Size { width: format.width as usize, height: format.height as usize };
    let (engine, classes) = load::engine(model, frame, &config.loading(config.first_camera()))?;
    let mut stages = config.first_camera().stages(wanted);
    stages.analytics.lines = lines;
    let pipeline = Pipeline::new(stages, format, &engine.shape(), &classes)?;
    Ok(WithEngine { pipeline, engine })
}

/// Counted and true crossings, by direction and class.
fn rows(line: &CountingLine, counted: &BTreeMap<(Direction, String), u64>, judge: &Judge) -> Vec<Row> {
    let mut rows = Vec::new();
    for (direction, name) in [(Direction::Forward, &line.forward), (Direction::Backward, &line.backward)] {
        for class in Class::ALL {
            let counted = counted.get(&(direction, class.name().to_owned())).copied().unwrap_or(0);
            let truth = judge.counts().get(&(0, direction, class)).copied().unwrap_or(0);
            if counted + truth > 0 {
                rows.push(Row {
                    direction: name.to_string(),
                    class: class.name().to_owned(),
                    counted,
                    truth,
                });
            }
        }
        // Classes of another model that this street does not have.
        let known = |class: &str| Class::ALL.iter().any(|kind| kind.name() == class);
        for ((of, class), counted) in counted.iter().filter(|((_, class), _)| !known(class)) {
            if *of == direction {
                rows.push(Row {
                    direction: name.to_string(),
                    class: class.clone(),
                    counted: *counted,
                    truth: 0,
                });
            }
        }
    }
    rows
}

/// Writes the annotated clip and its best picture.
struct ClipWriter {
    picture: PathBuf,
    clip: PathBuf,
    file: std::fs::File,
    line: [(f32, f32); 2],
    size: (u32, u32),
    /// Largest number of boxes in a picture so far, and that picture.
    best: Option<(usize, Vec<u8>)>,
}

impl ClipWriter {
    fn new(folder: &Path, line: &CountingLine, size: (u32, u32)) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
        let (picture, clip) = (folder.join("demo.jpg"), folder.join("demo.mjpeg"));
        let file = std::fs::File::create(&clip).map_err(|error| cannot_write(&clip, error))?;
        let ends = [line.a, line.b].map(|end| end.to_px(size.0, size.1)).map(|end| (end.x, end.y));
        Ok(ClipWriter { picture, clip, file, line: ends, size, best: None })
    }

    fn add(&mut self, rgb: &[u8], pipeline: &Pipeline, config: &Config, caption: &str) -> Result<()> {
        let (width, height) = (self.size.0 as usize, self.size.1 as usize);
        let Some(mut canvas) = Canvas::from_rgb(width, height, rgb.to_vec()) else { return Ok(()) };
        canvas.line(self.line[0], self.line[1], 2, [255, 255, 0]);
        let strong =
            pipeline.detections().iter().filter(|found| found.score >= config.first_camera().track.score_new);
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

    /// Writes the picture; returns the names of both files.
    fn finish(self) -> Result<Vec<String>> {
        let Some((_, jpeg)) = self.best else { return Ok(Vec::new()) };
        std::fs::write(&self.picture, jpeg).map_err(|error| cannot_write(&self.picture, error))?;
        Ok(vec![self.picture.display().to_string(), self.clip.display().to_string()])
    }
}
