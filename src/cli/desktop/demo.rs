//! `flytrap demo`: a simulated street, counted with the built-in detector.

use std::path::PathBuf;

use clap::Args;

use super::{Failed, Settings, print, print_json, say};
use crate::event::Body;
use crate::metrics::kpi;
use crate::tools::demo::{DemoReport, DemoUpdate, Params, demo as run};

/// Arguments of `flytrap demo`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DemoArgs {
    #[command(flatten)]
    settings: Settings,
    /// Seed of the street.
    #[arg(long, value_name = "NUMBER", default_value_t = 7)]
    seed: u64,
    /// Length of the simulation, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=3600))]
    seconds: u32,
    /// Folder for the annotated picture and clip.
    #[arg(long, value_name = "FOLDER", default_value = "flytrap-demo")]
    out: PathBuf,
}

/// Counts, prints events, and ends with a comparison of counted and true crossings.
pub(super) fn demo(args: &DemoArgs, json: bool) -> Result<(), Failed> {
    let config = args.settings.load_or_builtin(json)?;
    let params = Params { seed: args.seed, seconds: args.seconds, folder: args.out.clone() };
    let done = run(&config, &params, &mut |news| {
        match news {
            DemoUpdate::Event(seconds, body) => {
                if let Some(line) = event_line(seconds, body).filter(|_| !json) {
                    print(&line)?;
                }
            }
            DemoUpdate::Progress { seconds, total, counted } if !json && seconds % 10 == 0 && seconds > 0 => {
                say("demo", &format!("{seconds} of {total} s, {counted} counted"));
            }
            DemoUpdate::Progress { .. } => {}
        }
        Ok(())
    })?;
    if json {
        return print_json(&done);
    }
    Ok(print(&table(&done))?)
}

fn event_line(seconds: f64, body: &Body) -> Option<String> {
    match body {
        Body::Crossing(crossing) => Some(format!(
            "{seconds:6.1} s  crossing      {} {} of track {} ({:.2})",
            crossing.class, crossing.direction_name, crossing.track, crossing.score
        )),
        Body::TrackBegin(track) => Some(format!(
            "{seconds:6.1} s  track begins  {} {} ({:.2})",
            track.class, track.track, track.score
        )),
        Body::TrackEnd(_)
        | Body::Started(_)
        | Body::Stopping { .. }
        | Body::Stats(_)
        | Body::CameraLost { .. }
        | Body::CameraBack { .. }
        | Body::Restarted(_)
        | Body::Degraded { .. }
        | Body::Dropped(_)
        | Body::Storage(_)
        | Body::CameraStats(_)
        | Body::Machine(_)
        | Body::Alert(_) => None,
    }
}

fn table(done: &DemoReport) -> String {
    let mut lines = vec![
        String::new(),
        format!("{} frames, the network ran on {}, {} tracks", done.frames, done.inferences, done.tracks),
        String::new(),
        format!("{:<12} {:<12} {:>8} {:>8}", "direction", "class", "counted", "true"),
    ];
    for row in &done.rows {
        lines.push(format!("{:<12} {:<12} {:>8} {:>8}", row.direction, row.class, row.counted, row.truth));
    }
    lines.push(format!("{:<12} {:<12} {:>8} {:>8}", "all", "", done.counted, done.truth));
    if done.unseen > 0 {
        lines.push(format!(
            "not included: {} crossings by road users too small or hidden to be seen",
            done.unseen
        ));
    }
    lines.push(String::new());
    lines.push(kpi::table(&done.kpi));
    lines.push(format!("open {}", done.files.join(" and ")));
    lines.join("\n")
}
