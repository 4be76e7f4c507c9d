//! The library on single pictures: prints the road users in them and their boxes.
//!
//! `cargo run --release --example detect_pictures -- flytrap.toml street.jpg …`, where flytrap.toml names a model; `path = "builtin"`
//! in its section `[model]` is the detector that comes with flytrap and knows simulated streets.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example")]

use std::path::Path;
use std::process::ExitCode;

use flytrap::config::Config;
use flytrap::platform::cores::Machine;
use flytrap::tools::pictures::Detector;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((config, pictures)) = arguments.split_first() else {
        eprintln!("usage: detect_pictures CONFIG PICTURE …");
        return ExitCode::from(2);
    };
    // Both errors name the place, the fault and the remedy.
    let config = match Config::load(Some(Path::new(config)), Vec::new(), &Machine::read()) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(2);
        }
    };
    match print_detections(&config, pictures) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print_detections(config: &Config, pictures: &[String]) -> flytrap::base::error::Result<()> {
    let mut detector = Detector::open(config)?;
    for path in pictures {
        let found = detector.detect(Path::new(path))?;
        for detection in &found.detections {
            // Pixels of the picture: left, top, right, bottom.
            let [left, top, right, bottom] = detection.bbox.to_array();
            let class = detector.classes().name(detection.class);
            println!(
                "{path}: {class} {:.2} at {left:.0},{top:.0} to {right:.0},{bottom:.0}",
                detection.score
            );
        }
    }
    Ok(())
}
