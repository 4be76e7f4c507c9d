//! `flytrap eval`: scores a model on labelled pictures.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::{Failed, PictureBar, Settings, cannot_write, print, print_json, say, start_log};
use crate::base::error::Result;
use crate::tools::eval::{Evaluation, Figures};
use crate::tools::labelled::Params;

/// Arguments of `flytrap eval`.
#[derive(Debug, Args)]
pub(in crate::cli) struct EvalArgs {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    labelled: Labelled,
    /// Keep the scores in a file beside the model, NAME.accuracy.toml, for the KPI table of a device with this model.
    #[arg(long, conflicts_with = "detections")]
    record: bool,
}

/// Labelled pictures and detections, for `eval` and `tune`.
#[derive(Debug, Args)]
pub(super) struct Labelled {
    /// Folder of the pictures.
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,
    /// Labels: COCO's instances.json, or a folder of YOLO's text files, NAME.txt for NAME.jpg.
    #[arg(long, value_name = "FILE_OR_FOLDER")]
    labels: PathBuf,
    /// Score these COCO results of another program instead of running a model.
    #[arg(long, value_name = "FILE")]
    detections: Option<PathBuf>,
    /// Write the detections into this file, as COCO results.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

impl Labelled {
    pub(super) fn params(&self) -> Params {
        let Labelled { images, labels, detections, .. } = self;
        Params { images: images.clone(), labels: labels.clone(), detections: detections.clone() }
    }
}

/// Writes `results` to the file of `--save`, if given.
pub(super) fn save(args: &Labelled, results: impl FnOnce() -> Result<String>) -> Result<()> {
    let Some(place) = &args.save else { return Ok(()) };
    std::fs::write(place, results()?).map_err(|error| cannot_write(place, error))
}

/// Scores, and prints a table or (`json`) one object.
pub(super) fn eval(args: &EvalArgs, json: bool) -> Result<(), Failed> {
    let EvalArgs { settings, labelled, record } = args;
    let config = settings.load(Vec::new(), json)?;
    start_log(&config);
    if *record {
        Evaluation::check_record(&config)?;
    }
    let params = labelled.params();
    let bar = PictureBar::new("eval");
    let evaluation = Evaluation::run(&config, &params, &mut |done, all| bar.show(done, all));
    bar.end();
    let evaluation = evaluation?;
    save(labelled, || evaluation.results())?;
    let figures = evaluation.figures();
    if json {
        print_json(&figures)?;
    } else {
        print(table(&figures).trim_end())?;
    }
    if *record {
        let place = evaluation.record(&config, &params, &figures)?;
        say("eval", &format!("the scores are kept in '{}'", place.display()));
    }
    Ok(())
}

fn table(figures: &Figures) -> String {
    let mut out = String::new();
    let points = |part: Option<f64>| part.map_or_else(|| "-".to_owned(), |part| format!("{part:.2}"));
    if let Some(engine) = &figures.engine {
        let _fits = writeln!(out, "{engine}");
    }
    let Figures { pictures, objects, detections, .. } = figures;
    let _fits = writeln!(out, "{objects} objects in {pictures} pictures, {detections} detections\n");
    let _fits = writeln!(out, "{:<20} {:>8} {:>10} {:>8}", "", "objects", "mAP50-95", "mAP50");
    let _fits = writeln!(
        out,
        "{:<20} {:>8} {:>10} {:>8}",
        "all",
        objects,
        points(figures.map50_95),
        points(figures.map50)
    );
    let sizes = [
        ("  up to 32 x 32", figures.map50_95_small),
        ("  to 96 x 96", figures.map50_95_medium),
        ("  greater", figures.map50_95_large),
    ];
    for (name, part) in sizes {
        let _fits = writeln!(out, "{name:<20} {:>8} {:>10}", "", points(part));
    }
    let _fits = writeln!(out);
    for class in &figures.classes {
        let (all, at_half) = (points(class.ap50_95), points(class.ap50));
        let _fits = writeln!(out, "{:<20} {:>8} {all:>10} {at_half:>8}", class.name, class.objects);
    }
    out
}
