//! The user's file as settings for every stage. The only place that knows keys.
//!
//! ```text
//! defaults.toml ─► Values ◄─ flytrap.toml ◄─ command line      (values.rs: what was written, and where)
//!                    │
//!                    ▼  ranges, cross-checks, all mistakes at once
//!                  Config: one `Params` for each stage
//! ```
//! `defaults.toml` documents every key and is the only source of defaults; a test holds it to each stage's
//! `Params::default()`. Nothing here opens anything but the user's file.

pub mod values;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::analytics;
use crate::analytics::count::{self, Line};
use crate::analytics::track;
use crate::base::error::{Error, Kind};
use crate::base::geometry::{PointRel, Polygon};
use crate::base::limits::{
    BATCH_EVENTS_MAX, CONFIG_BYTES_MAX, EVENT_QUEUE_MAX, FRAME_SIDE_MAX, FRAME_SIDE_MIN, LINES_MAX,
    MASK_POLYGONS_MAX, NAME_BYTES_MAX, POLYGON_POINTS_MAX,
};
use crate::capture::frame::{ColorMatrix, ColorRange, PixelFormat};
use crate::capture::sampler;
use crate::capture::v4l2::Setting;
use crate::capture::{AtEnd, CaptureParams, ColorOverride, FrameRate, SourceSpec, command};
use crate::delivery::spool;
use crate::delivery::spool::Batching;
use crate::delivery::uplink::endpoints::ENDPOINTS_MAX;
use crate::delivery::uplink::format::Format;
use crate::delivery::uplink::http::tls::{KeyPin, Roots, TlsParams};
use crate::delivery::uplink::http::{Deadlines, HttpParams, InfluxPlace, redacted};
use crate::delivery::uplink::{Target, UplinkParams};
use crate::event::{Name, fixed};
use crate::pipeline;
use crate::platform::cores;
use crate::platform::gpio::chip::Chip;
use crate::platform::gpio::signals::LightParams;
use crate::platform::gpio::{Pin, PinParams};
use crate::platform::watchdog;
use crate::vision::detect::engine::{EngineParams, Precision};
use crate::vision::detect::{ClassId, decode, model};
use crate::vision::gate;
use crate::vision::roi;
use values::{Value, Values};

/// The documented defaults: also the schema.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// Target rates by use (S12), frames a second.
const PROFILES: [(&str, f32); 5] = [
    ("traffic_analysis", 6.0),
    ("real_time_tracking", 15.0),
    ("security_surveillance", 4.0),
    ("batch_processing", 2.0),
    ("low_power", 1.0),
];

/// Levels of the log, as the configuration names them.
const LEVELS: [(&str, &str); 5] =
    [("info", "info"), ("off", "off"), ("error", "error"), ("warn", "warn"), ("debug", "debug")];

/// Everything that is wrong with a configuration, one line each: place, key, value, what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl From<Mistakes> for Error {
    fn from(mistakes: Mistakes) -> Self {
        Error::fatal(Kind::Config, mistakes.to_string())
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// A setting from the command line: key, value, and the option's name.
pub type Override = (&'static str, Value, &'static str);

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the device in every event.
    pub device: Name,
    /// Where the program keeps what the next start must know, if anywhere.
    pub state_folder: Option<PathBuf>,
    /// The watchdogs.
    pub watchdog: watchdog::Params,
    /// The board's pins.
    pub pins: PinParams,
    /// Name of the camera in every event.
    pub camera: Name,
    /// Where frames come from, if anything says it.
    pub source: Option<SourceSpec>,
    /// How the source is opened; `timing` and `stop` are the program's business.
    pub capture: CaptureParams,
    /// Target rate, frames a second.
    pub fps: f32,
    /// The model, if anything names it.
    pub model: Option<model::Params>,
    /// The cores that it runs on; none: wherever the system puts it.
    pub cores: Vec<usize>,
    /// Thresholds for single pictures.
    pub decode: decode::Params,
    /// Names of the classes to follow; empty for all.
    pub classes: Vec<String>,
    /// The motion gate, if there is one.
    pub gate: Option<gate::Params>,
    /// Where to look, if not always at the whole picture.
    pub focus: Option<roi::Params>,
    /// The tracker.
    pub track: track::Params,
    /// Counting.
    pub count: count::Params,
    /// Counting lines.
    pub lines: Vec<Line>,
    /// Time between statistics.
    pub stats_interval: Duration,
    /// Delivery.
    pub uplink: Uplink,
    /// What keeps events until they are delivered.
    pub spool: Spool,
    /// Most memory, bytes, that the program may plan with.
    pub memory_budget: usize,
    /// Most memory, bytes, of the frame ring.
    pub ring_budget: usize,
    /// `off`, `error`, `warn`, `info` or `debug`.
    pub log_level: &'static str,
    /// Logs as JSON.
    pub log_json: bool,
    /// Every setting in force as `key = value`, without secrets.
    pub in_force: Vec<String>,
    /// Those of them that the user gave.
    pub given: Vec<String>,
}

/// Settings of the delivery.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// Where to, see [`crate::delivery::uplink::open`].
    pub target: Target,
    /// What only HTTP needs.
    pub http: HttpParams,
    /// Events on their way to the spool.
    pub queue_events: usize,
    /// When a batch is due.
    pub batching: Batching,
    /// Retries and the end.
    pub delivery: UplinkParams,
}

/// Settings of the spool.
#[derive(Debug, Clone)]
pub struct Spool {
    /// Where; `None`: in memory.
    pub folder: Option<PathBuf>,
    /// Sizes and times.
    pub params: spool::Params,
    /// Bytes that may be written within 24 hours before it is told.
    pub write_budget: Option<u64>,
}

impl Config {
    /// The defaults, `file` over them, `overrides` over that.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(file: Option<&Path>, overrides: Vec<Override>) -> Result<Self, Mistakes> {
        let mut values = Values::new(DEFAULTS);
        if let Some(path) = file {
            let text = read(path).map_err(|mistake| Mistakes(vec![mistake]))?;
            values.lay_over(&text, &path.display().to_string());
        }
        for (path, value, option) in overrides {
            values.set(path, value, option);
        }
        let config = from_values(&mut values);
        if values.has_mistakes() { Err(Mistakes(values.into_mistakes())) } else { Ok(config) }
    }

    /// The model.
    ///
    /// # Errors
    /// `Kind::Config`: none is named.
    pub fn model(&self) -> Result<model::Params, Error> {
        self.model.clone().ok_or_else(|| {
            Error::fatal(
                Kind::Config,
                "no model: set model.path in the configuration, or give --model FILE (builtin: the shipped one)",
            )
        })
    }

    /// What the stages of a camera are set to, with a model of which these classes are followed; empty for all.
    pub fn stages(&self, wanted: Vec<ClassId>) -> pipeline::Params {
        pipeline::Params {
            gate: self.gate.clone(),
            // The tracker keeps tracks on detections too weak to begin one.
            decode: decode::Params { score_min: self.track.score_low, ..self.decode },
            wanted,
            follow: analytics::Params { track: self.track, count: self.count, lines: self.lines.clone() },
            focus: self.focus,
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let place = path.display();
    let mut text = String::new();
    let file = std::fs::File::open(path)
        .map_err(|error| format!("{place}: cannot be opened: {error}: check the path"))?;
    file.take(CONFIG_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("{place}: cannot be read as text: {error}"))?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(format!("{place}: is larger than {CONFIG_BYTES_MAX} bytes: is this the right file?"));
    }
    Ok(text)
}

/// Takes every value out, noting mistakes.
fn from_values(values: &mut Values) -> Config {
    let fps = values.choice("sampling.profile", &PROFILES);
    let fps_range = f64::from(*sampler::FPS_RANGE.start())..=f64::from(*sampler::FPS_RANGE.end());
    let fps = values.float_or_auto("sampling.fps", fps_range).map_or(fps, |fps| fps as f32);
    let text_path =
        |values: &Values, key| Some(values.text(key)).filter(|t| !t.is_empty()).map(PathBuf::from);
    let cores = cores(values);
    Config {
        device: name(values, "device.name"),
        state_folder: text_path(values, "device.state_folder"),
        watchdog: watchdog::Params {
            device: text_path(values, "watchdog.device"),
            timeout: seconds(values.int("watchdog.timeout_s", 5..=3600)),
            stage_timeout: seconds(values.int("watchdog.stage_timeout_s", 5..=600)),
        },
        camera: name(values, "camera.name"),
        source: source(values),
        capture: capture(values),
        pins: pins(values),
        fps,
        model: model(values, &cores),
        cores,
        decode: decode::Params {
            score_min: values.float("detect.score_min", 0.01..=0.99) as f32,
            iou_max: values.float("detect.iou_max", 0.1..=0.95) as f32,
        },
        classes: texts(values, "track.classes"),
        gate: gate(values),
        focus: focus(values),
        track: track(values),
        count: count::Params {
            band_min_px: values.float("count.band_min_px", 0.0..=100.0) as f32,
            band_share: values.float("count.band_share", 0.0..=1.0) as f32,
            travel_min: values.float("count.travel_min", 0.0..=1.0) as f32,
            frames_min: values.int("count.frames_min", 2..=100) as u32,
        },
        lines: lines(values),
        stats_interval: Duration::from_secs(values.int("events.stats_interval_s", 1..=86_400) as u64),
        uplink: uplink(values),
        spool: spool(values),
        memory_budget: (values.int("memory.budget_mb", 16..=65_536) as usize) << 20,
        ring_budget: (values.int("memory.ring_mb", 1..=4096) as usize) << 20,
        log_level: values.choice("log.level", &LEVELS),
        log_json: values.bool("log.json"),
        in_force: shown(values, |_| true),
        given: shown(values, |path| values.is_set(path)),
    }
}

/// A name for identities: letters, digits, `-`, `_`, `.`.
fn name(values: &mut Values, key: &str) -> Name {
    let text = values.text(key).to_owned();
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(fine) {
        values.mistake(key, format_args!("must be 1 to {NAME_BYTES_MAX} of letters, digits, - _ ."));
    }
    fixed(&text)
}

fn source(values: &mut Values) -> Option<SourceSpec> {
    let text = values.text("camera.source");
    if text.is_empty() {
        return None;
    }
    match SourceSpec::parse(text) {
        Ok(spec) => Some(spec),
        // Its own words name the source, with passwords masked.
        Err(error) => {
            values.mistake_without_value("camera.source", error);
            None
        }
    }
}

fn capture(values: &mut Values) -> CaptureParams {
    let sides = i64::from(FRAME_SIDE_MIN)..=i64::from(FRAME_SIDE_MAX);
    let pixels: Vec<(&str, Option<PixelFormat>)> = std::iter::once(("auto", None))
        .chain(PixelFormat::ALL.iter().map(|format| (format.name(), Some(*format))))
        .collect();
    let fps = match values.text("camera.fps") {
        "auto" => None,
        text => match text.parse::<FrameRate>() {
            Ok(rate) => Some(rate),
            Err(why) => {
                values.mistake("camera.fps", why);
                None
            }
        },
    };
    let restart_first = values.int("camera.restart_first_s", 1..=3600);
    let mut controls = Vec::new();
    for text in texts(values, "camera.controls") {
        match Setting::parse(&text) {
            Ok(setting) => controls.push(setting),
            Err(why) => values.mistake("camera.controls", why),
        }
    }
    CaptureParams {
        controls,
        width: values.int_or_auto("camera.width", sides.clone()).map(|side| side as u32),
        height: values.int_or_auto("camera.height", sides).map(|side| side as u32),
        pixel: values.choice("camera.pixel_format", &pixels),
        fps,
        color: ColorOverride {
            matrix: values.choice(
                "camera.color_matrix",
                &[("auto", None), ("bt601", Some(ColorMatrix::Bt601)), ("bt709", Some(ColorMatrix::Bt709))],
            ),
            range: values.choice(
                "camera.color_range",
                &[("auto", None), ("full", Some(ColorRange::Full)), ("limited", Some(ColorRange::Limited))],
            ),
        },
        at_end: values.choice("camera.at_end", &[("stop", AtEnd::Stop), ("loop", AtEnd::Loop)]),
        idle_timeout: seconds(values.int("camera.idle_timeout_s", 1..=600)),
        restart_first: seconds(restart_first),
        restart_cap: seconds(values.int("camera.restart_cap_s", restart_first..=86_400)),
        ..CaptureParams::default()
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Those that the user names, else the large ones where there are small ones too.
fn cores(values: &mut Values) -> Vec<usize> {
    let list = values.list("model.cores").to_vec();
    let core = |item: &Value| match item {
        Value::Int(id) => usize::try_from(*id).ok().filter(|id| *id < cores::CORES_MAX),
        Value::Bool(_) | Value::Float(_) | Value::Text(_) | Value::List(_) => None,
    };
    let asked: Option<Vec<usize>> = list.iter().map(core).collect();
    match asked {
        Some(asked) if asked.is_empty() => cores::large(&cores::of_system()).unwrap_or_default(),
        Some(asked) => asked,
        None => {
            let most = cores::CORES_MAX - 1;
            values.mistake(
                "model.cores",
                format_args!("must be a list of whole numbers, 0..={most}, such as [2, 3]"),
            );
            Vec::new()
        }
    }
}

/// Most threads that are taken without being asked for.
const THREADS_MAX: usize = 4;

fn model(values: &mut Values, cores: &[usize]) -> Option<model::Params> {
    let threads = values.int("model.threads", 0..=8) as usize;
    // One is left to the camera, unless there are others than those.
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let others = if (1..all).contains(&cores.len()) { cores.len() } else { all - 1 };
    let threads = if threads == 0 { others.clamp(1, THREADS_MAX) } else { threads };
    let precision =
        values.choice("model.precision", &Precision::ALL.map(|precision| (precision.name(), precision)));
    let engine = EngineParams { threads, precision, ..EngineParams::default() };
    let sha256 = sha256(values);
    let path = values.text("model.path");
    let ranges = Some(values.text("model.ranges")).filter(|place| !place.is_empty()).map(PathBuf::from);
    (!path.is_empty()).then(|| model::Params { path: PathBuf::from(path), sha256, engine, ranges })
}

fn sha256(values: &mut Values) -> Option<String> {
    let text = values.text("model.sha256").to_ascii_lowercase();
    if text.is_empty() {
        return None;
    }
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        values.mistake("model.sha256", "must be the 64 hexadecimal digits that sha256sum prints");
    }
    Some(text)
}

fn pins(values: &mut Values) -> PinParams {
    let inverted = texts(values, "gpio.inverted");
    let known = ["status_led", "motion_sensor", "light"];
    if let Some(other) = inverted.iter().find(|name| !known.contains(&name.as_str())) {
        values.mistake("gpio.inverted", format_args!("'{other}' must be one of {}", known.join(", ")));
    }
    let mut pin = |name: &str| {
        let number = values.int(&format!("gpio.{name}"), -1..=255);
        u8::try_from(number).ok().map(|number| Pin { number, inverted: inverted.iter().any(|n| n == name) })
    };
    let (status_led, motion_sensor, light) = (pin(known[0]), pin(known[1]), pin(known[2]));
    let mut used: Vec<u8> =
        [status_led, motion_sensor, light].iter().flatten().map(|pin| pin.number).collect();
    used.sort_unstable();
    if used.windows(2).any(|pair| pair[0] == pair[1]) {
        values.mistake_without_value("gpio.status_led", "each pin can do one thing only");
    }
    let chip = Chip::parse(values.text("gpio.chip")).unwrap_or_else(|why| {
        values.mistake("gpio.chip", why);
        Chip::Auto
    });
    let lighting = LightParams {
        hold: seconds(values.int("gpio.light_hold_s", 1..=3600)),
        dark_below: values.int("gpio.light_dark_below", 1..=255) as u8,
    };
    PinParams { chip, status_led, motion_sensor, light, lighting }
}

/// A list of texts.
fn texts(values: &mut Values, key: &str) -> Vec<String> {
    let list = values.list(key).to_vec();
    let mut out = Vec::with_capacity(list.len());
    for item in list {
        match item {
            Value::Text(text) => out.push(text),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::List(_) => {
                values.mistake(key, "must be a list of texts in quotes");
                break;
            }
        }
    }
    out
}

fn gate(values: &mut Values) -> Option<gate::Params> {
    let params = gate::Params {
        luma_delta_min: values.float("gate.luma_delta_min", 1.0..=100.0) as f32,
        noise_factor: values.float("gate.noise_factor", 2.0..=20.0) as f32,
        area_min_px: values.int("gate.area_min_px", 1..=1000) as u32,
        absorb_s: values.int("gate.absorb_s", 5..=3600) as u32,
        hold_ms: values.int("gate.hold_ms", 0..=60_000) as u32,
        refresh_s: values.int("gate.refresh_s", 0..=86_400) as u32,
        warmup_frames: values.int("gate.warmup_frames", 2..=1000) as u32,
        include: polygons(values, "gate.include"),
        exclude: polygons(values, "gate.exclude"),
    };
    values.bool("gate.enabled").then_some(params)
}

fn focus(values: &mut Values) -> Option<roi::Params> {
    let whole = Duration::from_secs_f64(values.float("focus.whole_s", 0.1..=600.0));
    values.bool("focus.enabled").then_some(roi::Params { whole })
}

/// A list of polygons, each a list of points.
fn polygons(values: &mut Values, key: &str) -> gate::Polygons {
    let mut out = gate::Polygons::new();
    for (index, item) in values.list(key).to_vec().iter().enumerate() {
        let pushed = polygon(item).and_then(|polygon| {
            out.push(polygon).map_err(|_| format!("one too many: there are at most {MASK_POLYGONS_MAX}"))
        });
        if let Err(why) = pushed {
            values.mistake(key, format_args!("polygon {index}: {why}"));
        }
    }
    out
}

fn polygon(value: &Value) -> Result<Polygon, String> {
    let Value::List(corners) = value else {
        return Err("must be a list of corners [x, y]".into());
    };
    if !(3..=POLYGON_POINTS_MAX).contains(&corners.len()) {
        return Err(format!("has {} corners, must have 3 to {POLYGON_POINTS_MAX}", corners.len()));
    }
    let mut polygon = Polygon::new();
    for (index, corner) in corners.iter().enumerate() {
        let point = point(corner).map_err(|why| format!("corner {index}: {why}"))?;
        if polygon.push(point).is_err() {
            return Err("has too many corners".into());
        }
    }
    let area: f32 = (0..polygon.len())
        .map(|i| (polygon[i], polygon[(i + 1) % polygon.len()]))
        .map(|(a, b)| a.x * b.y - b.x * a.y)
        .sum();
    // Half of one 160x90 cell of the gate covers this much.
    if area.abs() / 2.0 < 0.5 / (160.0 * 90.0) {
        return Err("has no area: its corners lie on a line".into());
    }
    Ok(polygon)
}

/// `[x, y]` in parts of the picture.
fn point(value: &Value) -> Result<PointRel, String> {
    let number = |value: &Value| match value {
        Value::Int(int) => Some(*int as f64),
        Value::Float(float) => Some(*float),
        Value::Bool(_) | Value::Text(_) | Value::List(_) => None,
    };
    let (x, y) = match value {
        Value::List(pair) if pair.len() == 2 => (number(&pair[0]), number(&pair[1])),
        Value::List(_) | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => (None, None),
    };
    let (Some(x), Some(y)) = (x, y) else {
        return Err(format!("{value} must be a point [x, y]"));
    };
    if !(0.0..=1.0).contains(&x) || !(0.0..=1.0).contains(&y) {
        return Err(format!(
            "{value} must lie in the picture, 0.0 to 1.0 (parts of its width and height, not pixels)"
        ));
    }
    Ok(PointRel { x: x as f32, y: y as f32 })
}

fn track(values: &mut Values) -> track::Params {
    let score_low = values.float("track.score_low", 0.01..=1.0);
    let score_high = values.float("track.score_high", score_low..=1.0);
    track::Params {
        score_low: score_low as f32,
        score_high: score_high as f32,
        score_new: values.float("track.score_new", score_high..=1.0) as f32,
        iou_min: values.float("track.iou_min", 0.01..=0.99) as f32,
        iou_low_min: values.float("track.iou_low_min", 0.01..=0.99) as f32,
        class_penalty: values.float("track.class_penalty", 0.0..=0.5) as f32,
        hits_min: values.int("track.hits_min", 2..=20) as u32,
        lost_after: Duration::from_secs_f64(values.float("track.lost_after_s", 0.1..=60.0)),
        speed_max: values.float("track.speed_max", 1.0..=50.0) as f32,
    }
}

fn lines(values: &mut Values) -> Vec<Line> {
    let count = values.count("line");
    if count > LINES_MAX {
        values
            .mistake(&format!("line[{LINES_MAX}].name"), format_args!("there are at most {LINES_MAX} lines"));
    }
    let mut lines: Vec<Line> = Vec::new();
    for index in 0..count.min(LINES_MAX) {
        let key = |field: &str| format!("line[{index}].{field}");
        let mut end = |field: &str| {
            let list = Value::List(values.list(&key(field)).to_vec());
            point(&list).unwrap_or_else(|why| {
                values.mistake_without_value(&key(field), why);
                PointRel { x: 0.5, y: 0.5 }
            })
        };
        let (a, b) = (end("from"), end("to"));
        let mut label = |field: &str| {
            let text = values.text(&key(field)).to_owned();
            if text.is_empty() || text.len() > NAME_BYTES_MAX {
                values.mistake(&key(field), format_args!("must have 1 to {NAME_BYTES_MAX} bytes"));
            }
            fixed(&text)
        };
        let line = Line { name: label("name"), a, b, forward: label("forward"), backward: label("backward") };
        if !values.has_mistakes()
            && let Err(error) = line.check()
        {
            values.mistake_without_value(&key("from"), error);
        }
        if lines.iter().any(|other| other.name == line.name) {
            values.mistake(&key("name"), "must be a name of its own");
        }
        lines.push(line);
    }
    lines
}

fn uplink(values: &mut Values) -> Uplink {
    let queue_events = values.int("uplink.queue_events", 1..=EVENT_QUEUE_MAX as i64);
    let batch_events_max =
        values.int("uplink.batch_events_max", 1..=(BATCH_EVENTS_MAX as i64).min(queue_events));
    let backoff_first = values.float("uplink.backoff_first_s", 0.1..=60.0);
    let target = target(values);
    let clock_wait_s = values.int("uplink.clock_wait_s", 0..=3600);
    let interval_s = values.int("uplink.interval_s", 0..=86_400);
    Uplink {
        http: http(values),
        queue_events: queue_events as usize,
        batching: Batching {
            events_max: batch_events_max as usize,
            age_max: Duration::from_secs_f64(values.float("uplink.batch_age_max_s", 0.1..=3600.0)),
            interval: (interval_s > 0).then(|| seconds(interval_s)),
        },
        delivery: UplinkParams {
            backoff_first: Duration::from_secs_f64(backoff_first),
            // A link that sleeps is not woken more often for a receiver that is away.
            backoff_cap: Duration::from_secs_f64(
                values.float("uplink.backoff_cap_s", backoff_first..=86_400.0).max(interval_s as f64),
            ),
            retry_after_cap: seconds(values.int("uplink.retry_after_cap_s", 1..=86_400)),
            drain: seconds(values.int("uplink.drain_s", 0..=3600)),
            seed: 0,
            // A file or a reader of the output is here already.
            clock_wait: if target.is_http() { seconds(clock_wait_s) } else { Duration::ZERO },
        },
        target,
    }
}

fn target(values: &mut Values) -> Target {
    let target =
        Target { first: values.text("uplink.target").to_owned(), others: texts(values, "uplink.fallbacks") };
    if !(target.is_http() || target.first == "stdout" || target.first.starts_with("file:")) {
        let shown = redacted(&target.first);
        values.mistake_without_value(
            "uplink.target",
            format_args!("'{shown}' must be stdout, file:PATH, http://HOST/PATH or https://HOST/PATH"),
        );
    }
    let over_http = |url: &String| Target::from(url.as_str()).is_http();
    if !target.others.iter().all(over_http) || !(target.is_http() || target.others.is_empty()) {
        values.mistake_without_value(
            "uplink.fallbacks",
            format_args!("these and uplink.target must be http://HOST/PATH or https://HOST/PATH"),
        );
    }
    if target.others.len() >= ENDPOINTS_MAX {
        let most = ENDPOINTS_MAX - 1;
        values.mistake_without_value("uplink.fallbacks", format_args!("give at most {most}"));
    }
    target
}

/// What only HTTP needs. Its URL comes with the target.
fn http(values: &mut Values) -> HttpParams {
    let whole = values.int("uplink.whole_timeout_s", 1..=600);
    let formats = [
        ("cloudevents", Format::CloudEvents),
        ("influx1", Format::Influx1),
        ("influx2", Format::Influx2),
        ("postcard", Format::Packed),
    ];
    let format = values.choice("uplink.format", &formats);
    let text = |values: &Values, key| values.text(key).to_owned();
    let path = |values: &Values, key| Some(text(values, key)).filter(|text| !text.is_empty());
    for (wanted, key) in [
        (Format::Influx1, "uplink.influx_database"),
        (Format::Influx2, "uplink.influx_org"),
        (Format::Influx2, "uplink.influx_bucket"),
    ] {
        if format == wanted && values.text(key).is_empty() {
            values.mistake(key, format_args!("must be set for this uplink.format"));
        }
    }
    let pin = path(values, "uplink.pin");
    if pin.as_ref().is_some_and(|pin| KeyPin::parse(pin).is_none()) {
        values.mistake(
            "uplink.pin",
            format_args!("must be sha256//… in base64, the hash of the receiver's public key"),
        );
    }
    HttpParams {
        url: String::new(),
        format,
        influx: InfluxPlace {
            database: text(values, "uplink.influx_database"),
            retention_policy: text(values, "uplink.influx_retention_policy"),
            org: text(values, "uplink.influx_org"),
            bucket: text(values, "uplink.influx_bucket"),
        },
        gzip: values.bool("uplink.gzip"),
        token_file: path(values, "uplink.token_file").map(PathBuf::from),
        tls: TlsParams {
            roots: match values.text("uplink.ca") {
                "builtin" => Roots::Builtin,
                "system" => Roots::System,
                path => Roots::File(PathBuf::from(path)),
            },
            client_cert: path(values, "uplink.client_cert_file").map(PathBuf::from),
            client_key: path(values, "uplink.client_key_file").map(PathBuf::from),
            pin: pin.and_then(|pin| KeyPin::parse(&pin)),
        },
        proxy: path(values, "uplink.proxy"),
        deadlines: Deadlines {
            connect: seconds(values.int("uplink.connect_timeout_s", 1..=whole)),
            response: seconds(values.int("uplink.response_timeout_s", 1..=whole)),
            whole: seconds(whole),
            ..Deadlines::default()
        },
    }
}

fn spool(values: &mut Values) -> Spool {
    let memory_bytes = (values.int("spool.memory_kb", 64..=1024) as usize) << 10;
    let quota_bytes = (values.int("spool.quota_mb", 16..=65_536) as u64) << 20;
    // Room for several segments of each class, and for what is kept for people.
    if quota_bytes < 32 * memory_bytes as u64 {
        let least = (32 * memory_bytes as u64).div_ceil(1 << 20);
        values.mistake(
            "spool.quota_mb",
            format_args!("must be {least} or more for spool.memory_kb = {}", memory_bytes >> 10),
        );
    }
    let commit_interval_s = values.int("spool.commit_interval_s", 1..=300);
    let days = values.int("spool.age_max_days", 0..=3650);
    let budget_mb = values.int("spool.write_budget_mb_per_day", 0..=1_048_576) as u64;
    let folder = values.text("spool.folder");
    Spool {
        write_budget: (budget_mb > 0).then_some(budget_mb << 20),
        folder: Some(folder).filter(|text| !text.is_empty()).map(PathBuf::from),
        params: spool::Params {
            segment_bytes: spool::Params::segment_bytes_for(memory_bytes, quota_bytes),
            memory_bytes,
            commit_interval: seconds(commit_interval_s),
            checkpoint_interval: seconds(values.int("spool.checkpoint_interval_s", commit_interval_s..=3600)),
            quota: spool::Quota {
                bytes: quota_bytes,
                events: values.int("spool.events_max", 1000..=1_000_000_000) as u64,
                age_max: (days > 0).then(|| seconds(days * 86_400)),
                headroom: (values.int("spool.headroom_mb", 0..=1_048_576) as u64) << 20,
            },
            ..spool::Params::default()
        },
    }
}

/// The `chosen` settings as `key = value` for logs: passwords and tokens in addresses are masked (I10).
fn shown(values: &Values, chosen: impl Fn(&str) -> bool) -> Vec<String> {
    let masked = |path: &str, value: &Value| match (path, value) {
        ("camera.source", Value::Text(text)) => Value::Text(command::masked(text).into_owned()).to_string(),
        ("uplink.target" | "uplink.proxy", Value::Text(text)) => Value::Text(redacted(text)).to_string(),
        ("uplink.fallbacks", Value::List(list)) => {
            let text = |value: &Value| match value {
                Value::Text(text) => Value::Text(redacted(text)).to_string(),
                other @ (Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::List(_)) => {
                    other.to_string()
                }
            };
            format!("[{}]", list.iter().map(text).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    };
    let entries = values.entries().filter(|(path, _)| chosen(path));
    entries.map(|(path, value)| format!("{path} = {}", masked(path, value))).collect()
}

#[cfg(test)]
mod tests;
