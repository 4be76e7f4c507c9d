//! The command line: `run`, `demo`, `detect`, `bench`, `eval`, `tune`, `calibrate`, `selftest`, `cameras`, `pins`, `spool`, `decode`, `sim`,
//! `check`; and for a running program `top`, `kpi`, `reload`. Settings come from the configuration; options override single ones.
//!
//! Exit codes: 0 all went well; 1 the machine (memory, threads, disk); 2 command line or configuration; 3 model; 4 source or
//! picture; 5 events that could not be delivered; 6 a target that is not reached (`kpi`). Results go to stdout, everything else to stderr.

mod bench;
mod calibrate;
mod cameras;
mod check;
mod decode;
#[cfg(feature = "desktop")]
mod desktop;
#[cfg(not(feature = "desktop"))]
#[path = "device.rs"]
mod desktop;
mod detect;
mod kpi;
mod pins;
mod progress;
mod reload;
mod running;
mod selftest;
mod spool;
mod top;
mod trial;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use self::progress::PictureBar;
use crate::base::error::{Error, Kind, Result};
use crate::capture::SourceSpec;
use crate::config::values::Value;
use crate::config::{Config, Mistakes, Override};
use crate::platform::cores::Machine;
use crate::platform::log;
use crate::platform::process;
use crate::platform::system;
use crate::run::{self, RunOptions};
use crate::vision::detect::model::BUILTIN;

/// Unattended road counter.
///
/// Watches a camera, runs a detector when something moves, tracks and counts road users, and delivers events.
///
/// Exit codes: 0 all went well, 1 the machine (memory, threads, disk), 2 command line or configuration, 3 model, 4 source or
/// picture, 5 events that could not be delivered, 6 a target that is not reached (kpi).
#[derive(Debug, Parser)]
#[command(name = "flytrap", version)]
struct Cli {
    /// Machine-readable output: `detect` prints JSON lines; `bench`, `demo`, `eval`, `tune`, `calibrate`, `selftest`, `sim`,
    /// `top` and `reload` print one object, `kpi` a list; logs on stderr are JSON lines.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count road users: capture, detect, track, count and deliver until stopped.
    Run {
        #[command(flatten)]
        settings: Settings,
        /// As --source, except that a recording such as street.mp4 is processed to its end, as with --until-end. Without --model and
        /// --config the built-in detector is used.
        #[arg(value_name = "SOURCE", conflicts_with = "source")]
        typed: Option<String>,
        /// Where frames come from: /dev/video0, rtsp://…, srt://…, http://…, a recording such as street.mp4, exec:COMMAND, dir:FOLDER or
        /// sim:SEED (camera.source).
        #[arg(long, value_name = "SOURCE")]
        source: Option<String>,
        /// Where events go: stdout, file:PATH, http://… or https://… (uplink.target).
        #[arg(long, value_name = "TARGET")]
        uplink: Option<String>,
        /// Treat the source as a recording: process every frame at its own time, as fast as possible, and exit at its end.
        #[arg(long)]
        until_end: bool,
    },
    #[command(flatten)]
    Desktop(desktop::Command),
    /// Detect road users in single pictures.
    Detect {
        #[command(flatten)]
        settings: Settings,
        /// JPEG or PNG files.
        #[arg(required = true, value_name = "PICTURE")]
        pictures: Vec<PathBuf>,
        /// Write each picture with its boxes into this folder, as NAME.jpg.
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
    /// Measure how long each stage of a frame takes on this machine.
    Bench(bench::BenchArgs),
    /// Measure the value ranges that --precision int8 needs, on pictures, and write them beside the model.
    Calibrate(calibrate::CalibrateArgs),
    /// Test whether the network gives the expected detections on this machine; exit code 3 if not.
    Selftest(selftest::SelftestArgs),
    /// List the cameras of this machine and their formats.
    Cameras,
    /// Test the wiring of a pin: read it, or drive it and read it back.
    Pins {
        /// Number of the pin on the chip; on a Raspberry Pi, Broadcom's number.
        #[arg(value_name = "PIN")]
        pin: u8,
        /// Drive the pin instead of only reading it.
        #[arg(long, value_name = "high|low", value_parser = level)]
        set: Option<bool>,
        /// GPIO driver: auto, rppal, or a chip such as /dev/gpiochip0 (gpio.chip).
        #[arg(long, value_name = "CHIP", default_value = "auto")]
        chip: String,
    },
    /// Inspect the spool, the folder in which events wait (spool.folder); also while flytrap runs.
    Spool {
        #[command(subcommand)]
        what: SpoolCommand,
    },
    /// Print batches in the format "postcard", "postcard2" or "postcard3" as CloudEvents, one JSON object per line.
    Decode {
        /// The file; standard input if not given.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Show what a running flytrap does, live in the terminal: cameras, device, spool, uplink, alerts. q ends it.
    Top(top::TopArgs),
    /// Plan and run a model file within limits: the child process that other commands start for a file that only the user trusts.
    #[command(name = trial::COMMAND, hide = true)]
    TryModel(trial::TrialArgs),
    /// Ask a running flytrap whether it reaches its targets ([kpi] of its configuration); exit code 6 if not.
    Kpi(kpi::KpiArgs),
    /// Have a running flytrap read its configuration again, as with SIGHUP; exit code 2 if it is wrong, and then nothing changes.
    Reload(reload::ReloadArgs),
    /// Check a configuration and the files that it names; print all settings in force.
    Check {
        /// The configuration file; without it the defaults are printed.
        #[arg(value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum SpoolCommand {
    /// List its segments: run, number of events, number of waiting events.
    Ls {
        /// The spool's folder.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Print its events, one JSON object per line.
    Cat {
        /// The spool's folder.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
        /// Print the dead letters instead: events that the receiver refused permanently.
        #[arg(long)]
        dead: bool,
    },
    /// Read everything and report damage; exit code 1 if there is any.
    Check {
        /// The spool's folder.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

/// Options that several commands share.
#[derive(Debug, Args, Clone)]
struct Settings {
    /// The configuration file; settings that it leaves out have the defaults that `flytrap check` prints.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// ONNX file of a YOLO11 or YOLOv8 detector, or "builtin", the small one inside the program (model.path).
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// SHA-256 of a model file that flytrap does not know: states that you trust this file (model.sha256).
    #[arg(long, value_name = "HEX")]
    model_sha256: Option<String>,
    /// Precision of the network: fp32, or fp16 or int8 where the CPU supports it (model.precision).
    #[arg(long, value_name = "NAME")]
    precision: Option<String>,
    /// File with the value ranges for int8, written by flytrap calibrate (model.ranges).
    #[arg(long, value_name = "FILE")]
    ranges: Option<PathBuf>,
}

impl Settings {
    /// The configuration, overridden by these options and `more`.
    fn load(&self, more: Vec<Override>, json: bool) -> Result<Config, Mistakes> {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let mut overrides = vec![];
        for (key, value, option) in [
            ("model.path", text(&self.model), "--model"),
            ("model.sha256", self.model_sha256.clone(), "--model-sha256"),
            ("model.precision", self.precision.clone(), "--precision"),
            ("model.ranges", text(&self.ranges), "--ranges"),
        ] {
            overrides.extend(value.map(|text| (key, Value::Text(text), option)));
        }
        overrides.extend(json.then_some(("log.json", Value::Bool(true), "--json")));
        overrides.extend(more);
        let mut config = Config::load(self.config.as_deref(), overrides, &Machine::read())?;
        if let Some(model) = &mut config.model.params {
            // This program, even if its file has been replaced by an update.
            model.trial = Some(PathBuf::from("/proc/self/exe"));
        }
        Ok(config)
    }

    /// As [`Self::load`], with the built-in detector if neither a model nor a configuration is named.
    fn load_or_builtin(&self, json: bool) -> Result<Config, Mistakes> {
        let builtin = ("model.path", Value::Text(BUILTIN.into()), "without --model");
        self.load(if self.names_no_model() { vec![builtin] } else { Vec::new() }, json)
    }

    /// Whether neither a model is named nor a configuration, which may name one.
    const fn names_no_model(&self) -> bool {
        self.model.is_none() && self.config.is_none()
    }
}

/// Reads the command line and runs the command.
pub fn main() -> ExitCode {
    process::harden();
    system::map_large_pieces();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own messages: help and version go to stdout with 0, mistakes to stderr with 2.
            let _ignored = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let Cli { json, command } = cli;
    let (what, outcome) = match command {
        Command::Run { settings, typed, source, uplink, until_end } => {
            ("run", run(&settings, Source { typed, option: source }, uplink, RunOptions { until_end }, json))
        }
        Command::Detect { settings, pictures, out } => {
            ("detect", detect::detect(&settings, &pictures, out.as_deref(), json))
        }
        Command::Desktop(command) => desktop::execute(&command, json),
        Command::Bench(args) => ("bench", bench::bench(args, json)),
        Command::Calibrate(args) => ("calibrate", calibrate::calibrate(&args, json)),
        Command::Cameras => ("cameras", cameras::cameras(json)),
        Command::Pins { pin, set, chip } => ("pins", pins::pins(&chip, pin, set, json)),
        Command::Spool { what } => (
            "spool",
            match what {
                SpoolCommand::Ls { folder } => spool::ls(&folder, json),
                SpoolCommand::Cat { folder, dead } => spool::cat(&folder, dead),
                SpoolCommand::Check { folder } => spool::check(&folder),
            },
        ),
        Command::Decode { file } => ("decode", decode::decode(file.as_deref())),
        Command::Top(args) => ("top", top::top(&args, json)),
        Command::Selftest(args) => ("selftest", selftest::selftest(&args, json)),
        Command::Kpi(args) => ("kpi", kpi::kpi(&args, json)),
        Command::Reload(args) => ("reload", reload::reload(&args, json)),
        Command::TryModel(args) => return trial::try_model(&args),
        Command::Check { config } => ("check", check::check(config.as_deref())),
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Mistakes(Mistakes(mistakes))) => {
            for mistake in mistakes {
                say(what, &mistake);
            }
            ExitCode::from(Kind::Config.exit_code())
        }
        // The table says which.
        Err(Failed::Targets) => ExitCode::from(TARGETS_EXIT_CODE),
        Err(Failed::Error(error)) => {
            say(what, &error);
            ExitCode::from(error.kind().exit_code())
        }
    };
    if let Some(log) = log::started() {
        let _whoever_does_not_read_misses_it = log.flush(LAST_LINES_MAX);
    }
    code
}

fn level(text: &str) -> Result<bool, &'static str> {
    match text {
        "high" => Ok(true),
        "low" => Ok(false),
        _ => Err("must be high or low"),
    }
}

/// The exit code of `kpi` if a target is not reached.
const TARGETS_EXIT_CODE: u8 = 6;

/// Why a command failed.
enum Failed {
    Mistakes(Mistakes),
    Error(Error),
    /// A target is not reached.
    Targets,
}

impl From<Mistakes> for Failed {
    fn from(mistakes: Mistakes) -> Self {
        Failed::Mistakes(mistakes)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Error(error)
    }
}

/// The source on the command line of `run`: at most one of the two.
struct Source {
    /// Without an option before it.
    typed: Option<String>,
    option: Option<String>,
}

impl Source {
    /// Whether a recording was typed, which is to be processed to its end.
    fn is_typed_recording(&self) -> bool {
        // What cannot be parsed is reported with the configuration.
        let spec = self.typed.as_deref().and_then(|text| SourceSpec::parse(text).ok());
        spec.is_some_and(|spec| spec.recording_path().is_some())
    }
}

fn run(
    settings: &Settings,
    source: Source,
    uplink: Option<String>,
    options: RunOptions,
    json: bool,
) -> Result<(), Failed> {
    let until_end = options.until_end || source.is_typed_recording();
    let needs_model = source.typed.is_some() && settings.names_no_model();
    let overrides = [
        ("camera.source", source.typed, "SOURCE"),
        ("camera.source", source.option, "--source"),
        ("uplink.target", uplink, "--uplink"),
        ("model.path", needs_model.then(|| BUILTIN.to_owned()), "without --model"),
    ];
    let overrides: Vec<Override> = overrides
        .into_iter()
        .filter_map(|(key, text, option)| Some((key, Value::Text(text?), option)))
        .collect();
    let config = settings.load(overrides.clone(), json)?;
    start_daemon_log(&config)?;
    if needs_model {
        tracing::warn!(
            "no model is named: using the built-in detector, which was trained on simulated streets and finds little on real roads; \
             name another with --model"
        );
    }
    if until_end && !options.until_end {
        tracing::info!(
            "a recording: it is processed to its end, each frame at its own time (--source instead replaces a camera)"
        );
    }
    let settings = settings.clone();
    let again = move || settings.load(overrides.clone(), json).map_err(Error::from);
    let rows = run::run(config, RunOptions { until_end }, Box::new(again))?;
    if until_end {
        kpi::say_at_the_end(&rows, json);
    }
    Ok(())
}

/// How long an exiting daemon waits at most for the reader of its log.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);

/// As [`start_log`], for a program that runs unattended: nothing in it ever waits for the reader of its log.
fn start_daemon_log(config: &Config) -> Result<()> {
    let log = log::start()?;
    std::panic::set_hook(Box::new(|panic| {
        // The default hook would wait for the reader.
        let text = panic.payload_as_str().unwrap_or("without a text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked, which is a bug in flytrap: {text}");
        let _whoever_does_not_read_misses_it = log.flush(LAST_LINES_MAX);
    }));
    start_log_to(config, move || log);
    Ok(())
}

/// Sends logs to stderr from here on; if a log was started already, it stays.
fn start_log(config: &Config) {
    start_log_to(config, || Stderr);
}

fn start_log_to<W: Write>(config: &Config, writer: impl Fn() -> W + Send + Sync + 'static) {
    let level = config.log.level.parse().unwrap_or(tracing::level_filters::LevelFilter::INFO);
    let builder = tracing_subscriber::fmt()
        .with_writer(writer)
        // clap would report it with eprintln, which ends the program where stderr cannot be written.
        .log_internal_errors(false)
        .with_max_level(level)
        .with_target(false);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _already_there = if config.log.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(ansi).try_init()
    };
}

/// The stderr of a command: its user waits for it, so it blocks; what cannot be written is dropped without an error.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let _a_full_disk_or_nobody_there = std::io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One line on stderr: what failed, and the remedy.
fn say(what: &str, text: &dyn std::fmt::Display) {
    write_log(&format!("flytrap {what}: {text}\n"));
}

/// A line on stderr, among those of the log.
fn write_log(line: &str) {
    match log::started() {
        Some(log) => log.line(line.as_bytes()),
        // If stderr is closed, nobody can be told.
        None => {
            let _ignored = Stderr.write_all(line.as_bytes());
        }
    }
}

/// One line on stdout.
///
/// # Errors
/// `Kind::System` if it cannot be written (a full disk, a closed pipe).
fn print(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").map_err(|error| {
        Error::fatal(Kind::System, "stdout cannot be written: check for a full disk or a closed pipe")
            .caused_by(error)
    })
}

/// One object on a line of its own.
fn print_json(object: &impl serde::Serialize) -> Result<(), Failed> {
    let line = serde_json::to_string(object).map_err(|error| {
        Error::fatal(Kind::System, "a line of JSON could not be written").caused_by(error)
    })?;
    Ok(print(&line)?)
}

fn cannot_write(place: &std::path::Path, error: std::io::Error) -> Error {
    Error::fatal(
        Kind::System,
        format!("'{}' cannot be written: check the path and its permissions", place.display()),
    )
    .caused_by(error)
}
