//! The settings by scope: one struct for each part of the program that is started, or restarted, as a whole. All of them can
//! be compared. What belongs to one camera is in [`Camera`] alone, so that there can be several.

use std::path::PathBuf;
use std::time::Duration;

use crate::analytics;
use crate::analytics::count::{self, CountingLine};
use crate::analytics::track;
use crate::capture::{CaptureParams, SourceSpec};
use crate::delivery::spool;
use crate::delivery::spool::Batching;
use crate::delivery::uplink::http::HttpParams;
use crate::delivery::uplink::{Target, UplinkParams};
use crate::event::Name;
use crate::pipeline;
use crate::vision::detect::{ClassId, decode, model};
use crate::vision::gate;
use crate::vision::roi;

/// The device as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its name in every event.
    pub name: Name,
    /// Where the program keeps what the next start must know, if anywhere.
    pub state_folder: Option<PathBuf>,
}

/// One camera: its source, and all stages from the sampler to the counter.
#[derive(Debug, Clone, PartialEq)]
pub struct Camera {
    /// Its name in every event.
    pub name: Name,
    /// Where frames come from, if anything says it.
    pub source: Option<SourceSpec>,
    /// How the source is opened.
    pub capture: Capture,
    /// Target rate, frames a second.
    pub fps: f32,
    /// Thresholds for single pictures.
    pub decode: decode::Params,
    /// The motion gate, if there is one.
    pub gate: Option<gate::Params>,
    /// The region of interest, if the network does not always see the whole frame.
    pub roi: Option<roi::Params>,
    /// Names of the classes to track; empty for all.
    pub classes: Vec<String>,
    /// The tracker.
    pub track: track::Params,
    /// Counting.
    pub count: count::Params,
    /// Counting lines.
    pub lines: Vec<CountingLine>,
}

impl Camera {
    /// What the camera's stages are set to, with a model of which these classes are tracked; empty for all.
    pub fn stages(&self, wanted: Vec<ClassId>) -> pipeline::Params {
        pipeline::Params {
            gate: self.gate.clone(),
            // The tracker keeps tracks on detections too weak to begin one.
            decode: decode::Params { score_min: self.track.score_low, ..self.decode },
            wanted,
            analytics: analytics::Params { track: self.track, count: self.count, lines: self.lines.clone() },
            roi: self.roi,
        }
    }
}

/// How a source is opened. What the program adds while it runs (`pinned`, `timing`, `serve_side`, `serve_fps`, `stop`) is as
/// by default, and is not compared.
#[derive(Debug, Clone)]
pub struct Capture(pub CaptureParams);

impl PartialEq for Capture {
    fn eq(&self, other: &Self) -> bool {
        // Taken apart, so that a new field has to be thought of here.
        let CaptureParams {
            width,
            height,
            pixel,
            row_bytes,
            fps,
            color,
            controls,
            pinned: _,
            at_end,
            timing: _,
            idle_timeout,
            restart_first,
            restart_cap,
            serve_side: _,
            serve_fps: _,
            stop: _,
        } = &self.0;
        let other = &other.0;
        (*width, *height, *pixel, *row_bytes, *fps)
            == (other.width, other.height, other.pixel, other.row_bytes, other.fps)
            && (*color, *at_end, controls) == (other.color, other.at_end, &other.controls)
            && (*idle_timeout, *restart_first, *restart_cap)
                == (other.idle_timeout, other.restart_first, other.restart_cap)
    }
}

/// The network, which cameras share.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Which one, and how it runs, if anything names one.
    pub params: Option<model::Params>,
    /// The cores that it runs on; none: wherever the system puts it.
    pub cores: Vec<usize>,
}

/// The device's own events.
#[derive(Debug, Clone, PartialEq)]
pub struct Events {
    /// Time between statistics.
    pub stats_interval: Duration,
}

/// Delivery.
#[derive(Debug, Clone, PartialEq)]
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

/// What keeps events until they are delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Spool {
    /// Where; `None`: in memory.
    pub folder: Option<PathBuf>,
    /// Sizes and times.
    pub params: spool::Params,
    /// Bytes that may be written within 24 hours before an event reports it.
    pub write_budget: Option<u64>,
}

/// The memory plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// Most memory, bytes, that the program may plan with.
    pub budget: usize,
    /// Most memory, bytes, of the frame ring.
    pub ring: usize,
}

/// The log.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// `off`, `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    /// As JSON.
    pub json: bool,
}
