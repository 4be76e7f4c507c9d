//! `flytrap tune`: chooses the score threshold.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::eval::{Labelled, save};
use super::{Failed, PictureBar, Settings, cannot_write, print, print_json, start_log};
use crate::base::error::{Error, Kind};
use crate::tools::tune::{Params, Report, Row, Tuned, Tuning};

/// Arguments of `flytrap tune`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TuneArgs {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    labelled: Labelled,
    /// Classes to count; without it those of track.classes that are labelled.
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    classes: Vec<String>,
    /// Target precision: the fraction of detections that must be right, above 0 to 1.
    #[arg(long, value_name = "PART", default_value = "0.8", value_parser = part)]
    target_precision: f64,
    /// Lowest overlap (IoU) at which a detection counts as right, above 0 to 1.
    #[arg(long, value_name = "PART", default_value = "0.5", value_parser = part)]
    overlap: f64,
    /// Try 0.05, 0.06 … 0.95 instead of 0.10, 0.15 … 0.90.
    #[arg(long)]
    fine: bool,
    /// Also choose a threshold for each class.
    #[arg(long)]
    per_class: bool,
    /// Draw the precision-recall curve into this PNG file.
    #[arg(long, value_name = "FILE.png", default_value = "tune.png")]
    plot: PathBuf,
}

fn part(text: &str) -> Result<f64, &'static str> {
    let inside = |part: &f64| *part > 0.0 && *part <= 1.0;
    text.parse().ok().filter(inside).ok_or("must be above 0, up to 1")
}

/// Chooses, prints tables or (`json`) one object, and draws the curve; fails if no threshold reaches the precision.
pub(super) fn tune(args: &TuneArgs, json: bool) -> Result<(), Failed> {
    let TuneArgs { settings, labelled, classes, target_precision, overlap, fine, per_class, plot } = args;
    let config = settings.load(Vec::new(), json)?;
    start_log(&config);
    if plot.extension().is_none_or(|kind| !kind.eq_ignore_ascii_case("png")) {
        let text = format!("--plot '{}': the picture is a PNG file, name it NAME.png", plot.display());
        return Err(Error::fatal(Kind::Config, text).into());
    }
    let params = Params {
        labelled: labelled.params(),
        classes: classes.clone(),
        target_precision: *target_precision,
        overlap: *overlap,
        fine: *fine,
        per_class: *per_class,
    };
    let bar = PictureBar::new("tune");
    let tuning = Tuning::run(&config, &params, &mut |done, all| bar.show(done, all));
    bar.end();
    let tuning = tuning?;
    save(labelled, || tuning.results())?;
    let report = tuning.report();
    if json {
        print_json(&report)?;
    } else {
        print(tables(&report).trim_end())?;
    }
    std::fs::write(plot, tuning.chart(&report)?).map_err(|error| cannot_write(plot, error))?;
    Ok(report.verdict()?)
}

fn tables(report: &Report) -> String {
    let mut out = String::new();
    if let Some(engine) = &report.engine {
        let _fits = writeln!(out, "{engine}");
    }
    let Report { pictures, detections, classes, all, by_class, .. } = report;
    let _fits = writeln!(
        out,
        "{} objects in {pictures} pictures, {detections} detections: {}\n",
        all.objects,
        classes.join(", ")
    );
    let _fits = writeln!(
        out,
        "{:>9} {:>12} {:>7} {:>7} {:>10} {:>7} {:>7}",
        "threshold", "predictions", "right", "wrong", "precision", "recall", "F1"
    );
    for row in &all.thresholds {
        let mark = if all.chosen.or(all.nearest) == Some(*row) { "  <" } else { "" };
        let _fits = writeln!(
            out,
            "{:>9.2} {:>12} {:>7} {:>7} {:>10} {:>7} {:>7}{mark}",
            row.threshold,
            row.predictions,
            row.right,
            row.wrong,
            share(row.precision),
            share(row.recall),
            share(row.f1)
        );
    }
    if !by_class.is_empty() {
        let _fits = writeln!(out, "\n{}", class_table(by_class).trim_end());
    }
    if let (Some(row), Some(config)) = (all.chosen, &report.config) {
        let _fits = writeln!(
            out,
            "\nThe highest recall with a precision of at least {}: threshold {:.2}. In the configuration:\n\n{config}",
            report.target_precision, row.threshold
        );
    }
    out
}

/// The threshold for each class alone, which shows the classes that a common threshold suits badly.
fn class_table(classes: &[Tuned]) -> String {
    let mut out = format!(
        "{:<20} {:>8} {:>10} {:>10} {:>7}   (each class alone; the configuration has one threshold for all)\n",
        "", "objects", "threshold", "precision", "recall"
    );
    for Tuned { name, objects, chosen, nearest, .. } in classes {
        let row: Option<Row> = chosen.or(*nearest);
        let threshold = row.map_or_else(|| "-".to_owned(), |row| format!("{:.2}", row.threshold));
        let [precision, recall] =
            [row.and_then(|row| row.precision), row.and_then(|row| row.recall)].map(share);
        let note = if chosen.is_some() { "" } else { "   none reaches the precision" };
        let _fits =
            writeln!(out, "{name:<20} {objects:>8} {threshold:>10} {precision:>10} {recall:>7}{note}");
    }
    out
}

fn share(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{part:.3}"))
}
