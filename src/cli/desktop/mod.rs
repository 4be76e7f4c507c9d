//! Commands for a desktop computer: `demo`, `sim`, `eval`, `tune`. They need the simulator or charts, which are of no use on a device; the
//! device build (`--no-default-features`) has `device.rs` instead.

mod demo;
mod eval;
mod sim;
mod tune;

use clap::Subcommand;

use super::{Failed, PictureBar, Settings, cannot_write, print, print_json, say, start_log};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Try everything without a camera: count a simulated street, write an annotated picture and clip, compare with the truth.
    Demo(demo::DemoArgs),
    /// Score a model on labelled pictures: COCO's average precision.
    Eval(eval::EvalArgs),
    /// Choose the score threshold on labelled pictures: the highest recall that meets the target precision.
    Tune(tune::TuneArgs),
    /// Simulate a device in the field for days of virtual time, or export simulated streets as labelled pictures or video.
    Sim(sim::SimArgs),
}

/// The command's name and its result.
pub(super) fn execute(command: &Command, json: bool) -> (&'static str, Result<(), Failed>) {
    match command {
        Command::Demo(args) => ("demo", demo::demo(args, json)),
        Command::Eval(args) => ("eval", eval::eval(args, json)),
        Command::Tune(args) => ("tune", tune::tune(args, json)),
        Command::Sim(args) => ("sim", sim::sim(args, json)),
    }
}

impl Settings {
    /// Whether any of these options is given.
    fn is_given(&self) -> bool {
        self.config.is_some() || self.names_a_model()
    }

    /// Whether a model, or an option for running one, is given.
    fn names_a_model(&self) -> bool {
        let Settings { config: _, model, model_sha256, precision, ranges } = self;
        model.is_some() || model_sha256.is_some() || precision.is_some() || ranges.is_some()
    }
}
