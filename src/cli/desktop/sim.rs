//! `flytrap sim`: a device in a simulated field, and labelled pictures of simulated streets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failed, PictureBar, Settings, print, print_json};
use crate::base::error::{Error, Kind, Result};
use crate::sim::scene::SceneParams;
use crate::sim::source::SimSpec;
use crate::sim::world::{Network, Scenario, World};
use crate::tools::demo::pipeline;
use crate::tools::export;

/// A leap year: all events stay in memory until the end.
const HOURS_MAX: f64 = 8784.0;

/// Arguments of `flytrap sim`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SimArgs {
    #[command(flatten)]
    settings: Settings,
    /// Seed of the simulation: the same seed gives the same result.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Hours of the device's life to simulate, in virtual time: 0.01 to 8784.
    #[arg(long, value_name = "HOURS", default_value_t = 24.0, conflicts_with = "export")]
    hours: f64,
    /// Scenario: what goes wrong and how often, as TOML; without it a bad day.
    #[arg(long, value_name = "FILE", conflicts_with = "export")]
    scenario: Option<PathBuf>,
    /// Print the whole scenario with all its keys, as TOML, and exit.
    #[arg(long, conflicts_with_all = ["export", "video", "hours", "seed"])]
    print_scenario: bool,
    /// Write labelled pictures into this folder instead: images/, labels/ (YOLO) and instances.json (COCO).
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// How many pictures, 1 to a million.
    #[arg(long, value_name = "NUMBER", default_value_t = 200, requires = "export",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pictures: u32,
    /// Size of the pictures.
    #[arg(long, value_name = "WxH", default_value = "640x360", value_parser = size, requires = "export")]
    size: (u32, u32),
    /// Use every class and view that a detector should know, not only what a camera on a mast sees.
    #[arg(long, requires = "export")]
    for_training: bool,
    /// Write a street as a video instead, .y4m or bare frames, and the truth beside it: one JSON line per frame, and a
    /// last line with the crossings of the configured lines.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["export", "hours", "scenario"])]
    video: Option<PathBuf>,
    /// Which street the video shows, and how: options as after `sim:`, such as
    /// 7,night,rain,fps=15,seconds=30,size=1280x720.
    #[arg(long, value_name = "WORDS", requires = "video", conflicts_with = "seed")]
    street: Option<String>,
}

/// Simulates, or writes pictures.
pub(super) fn sim(args: &SimArgs, json: bool) -> Result<(), Failed> {
    match (&args.export, &args.video) {
        (Some(folder), _) => pictures(args, folder.clone(), json),
        (None, Some(path)) => video(args, path, json),
        (None, None) if args.print_scenario => Ok(print(scenario(args)?.to_toml().trim_end())?),
        (None, None) => world(args, json),
    }
}

/// An option that would be ignored is a mistake.
fn ignored(what: &str) -> Error {
    Error::fatal(Kind::Config, format!("{what}, or leave it out"))
}

fn pictures(args: &SimArgs, folder: PathBuf, json: bool) -> Result<(), Failed> {
    if args.settings.is_given() {
        return Err(ignored("a model or a configuration does not apply to --export: leave it out").into());
    }
    let (width, height) = args.size;
    let scene =
        SceneParams { seed: args.seed, width, height, anything: args.for_training, ..SceneParams::default() };
    let params = export::Params { scene, pictures: args.pictures as usize, folder };
    let bar = PictureBar::new("sim");
    let done = export::export(&params, &mut |done, all| bar.show(done, all));
    bar.end();
    let done = done?;
    if json {
        return print_json(&done);
    }
    Ok(print(&format!("{} pictures with {} objects: {}", done.pictures, done.objects, done.folder))?)
}

fn video(args: &SimArgs, path: &Path, json: bool) -> Result<(), Failed> {
    if args.settings.names_a_model() {
        return Err(ignored(
            "a model does not apply to --video, which only uses the lines of a configuration: leave it out",
        )
        .into());
    }
    let words = args.street.clone().unwrap_or_else(|| args.seed.to_string());
    let spec = SimSpec::parse(&words)?;
    let bar = PictureBar::new("sim");
    let lines = args.settings.load_or_builtin(json)?.first_camera().lines.clone();
    let done = export::video(&spec, &lines, path, &mut |done, all| bar.show(done, all));
    bar.end();
    let done = done?;
    if json {
        return print_json(&done);
    }
    Ok(print(&format!("{} frames: {}; the truth: {}", done.frames, done.file, done.truth))?)
}

fn world(args: &SimArgs, json: bool) -> Result<(), Failed> {
    if !(0.01..=HOURS_MAX).contains(&args.hours) {
        let text = format!("--hours is {}, allowed is 0.01 to {HOURS_MAX}, a year", args.hours);
        return Err(Error::fatal(Kind::Config, text).into());
    }
    let scenario = scenario(args)?;
    if !scenario.rendered && args.settings.is_given() {
        return Err(ignored(
            "a model or a configuration needs rendered frames: set rendered = true in a scenario",
        )
        .into());
    }
    let network = if scenario.rendered { Some(network(args, json)?) } else { None };
    let bar = ProgressBar::new(1000);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent} %, {eta} left") {
        bar.set_style(style);
    }
    let report = World::new(args.seed, args.hours, &scenario, network)?
        .run(&mut |part| bar.set_position((part * 1000.0) as u64));
    bar.finish_and_clear();
    let report = report?;
    if json {
        print_json(&report)?;
    } else {
        print(report.table().trim_end())?;
    }
    report.verdict().map_err(|why| Error::fatal(Kind::Delivery, why).into())
}

fn scenario(args: &SimArgs) -> Result<Scenario> {
    let Some(path) = &args.scenario else { return Ok(Scenario::default()) };
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::fatal(Kind::Config, format!("{place}: cannot be read: check the path")).caused_by(error)
    })?;
    Scenario::from_toml(&text, &place)
}

/// The program's own pipeline, for scenarios with rendered frames.
fn network(args: &SimArgs, json: bool) -> Result<Network, Failed> {
    let config = args.settings.load_or_builtin(json)?;
    Ok(Arc::new(move |format, lines| pipeline(&config, format, lines)))
}

fn size(text: &str) -> Result<(u32, u32), &'static str> {
    let sides =
        text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    sides.ok_or("must be WIDTHxHEIGHT, such as 640x360")
}
