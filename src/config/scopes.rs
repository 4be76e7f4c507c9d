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
use crate::delivery::uplink::labels::CameraLabels;
use crate::delivery::uplink::{Target, UplinkParams};
use crate::event::Name;
use crate::pipeline;
use crate::status::socket::Place;
use crate::vision::detect::{ClassId, decode, model};
use crate::vision::gate;
use crate::vision::roi;

/// The device as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its name in every event.
    pub name: Name,
    /// Folder for state that the next start needs, if configured.
    pub state_folder: Option<PathBuf>,
}

/// One camera: its source, and all stages from the sampler to the counter.
#[derive(Debug, Clone, PartialEq)]
pub struct Camera {
    /// Its name in every event.
    pub name: Name,
    /// Where frames come from, if set.
    pub source: Option<SourceSpec>,
    /// How the source is opened.
    pub capture: Capture,
    /// Target rate, frames a second.
    pub fps: f32,
    /// Thresholds for single pictures.
    pub decode: decode::Params,
    /// The motion gate, if there is one.
    pub gate: Option<gate::Params>,
    /// The region of interest, if the network does not always get the whole frame.
    pub roi: Option<roi::Params>,
    /// Names of the classes to track; empty for all.
    pub classes: Vec<String>,
    /// The tracker.
    pub track: track::Params,
    /// Counting.
    pub count: count::Params,
    /// Counting lines.
    pub lines: Vec<CountingLine>,
    /// What is added to its events when they are sent.
    pub labels: CameraLabels,
}

impl Camera {
    /// Whether the network runs on regions of interest, if the model has several input sizes: needs the gate, which says what moved.
    pub const fn uses_regions(&self) -> bool {
        self.roi.is_some() && self.gate.is_some()
    }

    /// Settings of the camera's stages, with a model of which these classes are tracked; empty for all.
    pub fn stages(&self, wanted: Vec<ClassId>) -> pipeline::Params {
        pipeline::Params {
            gate: self.gate.clone(),
            // The tracker continues tracks with detections too weak to begin one.
            decode: decode::Params { score_min: self.track.score_low, ..self.decode },
            wanted,
            analytics: analytics::Params { track: self.track, count: self.count, lines: self.lines.clone() },
            roi: self.roi,
        }
    }
}

/// How a source is opened. Fields that the program sets while it runs (`pinned`, `timing`, `serve_side`, `serve_fps`, `stop`) have their
/// defaults here, and are not compared.
#[derive(Debug, Clone)]
pub struct Capture(pub CaptureParams);

impl PartialEq for Capture {
    fn eq(&self, other: &Self) -> bool {
        // Destructured, so that a new field does not compile until it is handled here.
        let CaptureParams {
            width,
            height,
            pixel,
            row_bytes,
            fps,
            color,
            stream,
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
            && (*color, *at_end, stream, controls)
                == (other.color, other.at_end, &other.stream, &other.controls)
            && (*idle_timeout, *restart_first, *restart_cap)
                == (other.idle_timeout, other.restart_first, other.restart_cap)
    }
}

/// The network, which cameras share.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The model and how it runs, if one is named.
    pub params: Option<model::Params>,
    /// The cores that it runs on. Empty: the scheduler decides.
    pub cores: Vec<usize>,
    /// Part of its time for which it may be busy, above 0 to 1.
    pub load_max: f64,
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
    /// The receiver's address, see [`crate::delivery::uplink::open`].
    pub target: Target,
    /// Settings for HTTP only.
    pub http: HttpParams,
    /// The queue of events on their way to the spool.
    pub queue_events: usize,
    /// When a batch is due.
    pub batching: Batching,
    /// Retries and the final report at exit.
    pub delivery: UplinkParams,
}

/// The spool: keeps events until they are delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Spool {
    /// Its folder; `None`: in memory.
    pub folder: Option<PathBuf>,
    /// Sizes and times.
    pub params: spool::Params,
    /// Bytes that may be written within 24 hours before an event reports it.
    pub write_budget: Option<u64>,
}

/// The memory plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// Memory budget of the program, bytes.
    pub budget: usize,
    /// Memory budget of the frame ring, bytes.
    pub ring: usize,
}

/// The status pages and the resource log.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Where the pages are served, if they are.
    pub listen: Option<String>,
    /// The Unix socket.
    pub socket: Place,
    /// The file with the token that every request must carry.
    pub token_file: Option<PathBuf>,
    /// A camera without a good frame for longer is not healthy.
    pub frame_age_max: Duration,
    /// A device without a delivery for longer is not healthy.
    pub delivery_age_max: Duration,
    /// The resource log, if there is one.
    pub resource_log: Option<PathBuf>,
    /// Time between two of its rows.
    pub resource_log_interval: Duration,
    /// Its largest size, bytes.
    pub resource_log_bytes: u64,
}

/// The log.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// `off`, `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    /// As JSON.
    pub json: bool,
}
