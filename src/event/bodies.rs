//! What can happen: the events and their fields.
//!
//! These types are the newest version of the binary form: postcard writes their fields in the order of declaration. Before you change,
//! append or add anything, read [`crate::event::wire`]: it takes a new version. The bodies of `stats` and `storage` come from the table of
//! metrics ([`crate::metrics::table`]).

use serde::{Deserialize, Serialize};

use crate::base::geometry::PointPx;
use crate::base::text::{Name, Text};
use crate::metrics::table::{CameraStats, Machine, Stats, Storage};
use crate::platform::clock::Mono;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number within the run, from 0, without gaps.
    pub seq: u64,
    /// When it happened, on the boot clock: for tracks and crossings the capture time of the frame. For a recording: start of the program
    /// plus the recording's own time. Wall time is added when the event is sent.
    pub at: Mono,
    /// The camera that saw it; empty for what concerns the device.
    pub camera: Name,
    /// What happened.
    pub body: Body,
}

/// What happened. The order of the kinds and of their fields is the binary form: append, never reorder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// The program started.
    Started(Started),
    /// The program is about to end.
    Stopping {
        /// The reason.
        reason: Text,
    },
    /// A track was confirmed: a road user was detected often enough.
    TrackBegin(TrackBegin),
    /// A road user has left, or was not detected for too long.
    TrackEnd(TrackEnd),
    /// A road user crossed a counting line.
    Crossing(Crossing),
    /// Counters, at a fixed interval and at the end.
    Stats(Stats),
    /// The camera stopped delivering.
    CameraLost {
        /// The source's error.
        reason: Text,
    },
    /// The camera delivers (again).
    CameraBack {
        /// How long it was away, milliseconds; 0 for the first time.
        absent_ms: u64,
        /// Width of its frames, pixels.
        width: u32,
        /// Height of its frames, pixels.
        height: u32,
    },
    /// How the previous run ended; sent by every run but the device's first.
    Restarted(Restarted),
    /// A part of the device does not work; the rest goes on (I12).
    Degraded {
        /// The part and the error.
        reason: Text,
    },
    /// Events were dropped before they were delivered (I4).
    Dropped(Dropped),
    /// State of the spool and what it has written, sent with each statistics event.
    Storage(Storage),
    /// Counters and gauges of one camera, sent with each statistics event.
    CameraStats(CameraStats),
    /// The load of the machine and its sensors, sent with each statistics event.
    Machine(Machine),
    /// A rule for alerts began to hold, or holds no more.
    Alert(Alert),
}

impl Body {
    /// The type as receivers see it, without the `flytrap.` in front.
    pub const fn kind(&self) -> &'static str {
        match self {
            Body::Started(_) => "started",
            Body::Stopping { .. } => "stopping",
            Body::TrackBegin(_) => "track.begin",
            Body::TrackEnd(_) => "track.end",
            Body::Crossing(_) => "crossing",
            Body::Stats(_) => "stats",
            Body::CameraLost { .. } => "camera.lost",
            Body::CameraBack { .. } => "camera.back",
            Body::Restarted(_) => "restarted",
            Body::Degraded { .. } => "degraded",
            Body::Dropped(_) => "dropped",
            Body::Storage(_) => "storage",
            Body::CameraStats(_) => "camera.stats",
            Body::Machine(_) => "machine",
            Body::Alert(_) => "alert",
        }
    }

    /// Whether the next event of this kind makes up for the loss of this one: true of counters and gauges.
    pub const fn can_wait(&self) -> bool {
        matches!(self, Body::Stats(_) | Body::Storage(_) | Body::CameraStats(_) | Body::Machine(_))
    }
}

/// A rule for alerts began to hold, or holds no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Name of the rule.
    pub rule: Name,
    /// Whether it holds now.
    pub active: bool,
    /// The metric that it watches, in the unit of its name.
    pub metric: Name,
    /// The metric's value over the rule's window; `None`: it does not exist.
    pub value: Option<u64>,
    /// The rule's limit, if it has one.
    pub limit: Option<u64>,
    /// The same in words.
    pub text: Text,
}

/// Events that were dropped before they were delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Their class: `alerts`, `counts`, `details` or `dead`.
    pub class: Name,
    /// Why: `memory`, `quota`, `count`, `age`, `headroom`, `damage`, or `version` (written by a newer flytrap).
    pub reason: Name,
    /// How many since the last event of this kind.
    pub events: u64,
    /// How many of this class since the start of the program.
    pub total: u64,
}

/// The program started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Version of the program.
    pub version: Name,
    /// First 12 hex digits of the model file's sha256.
    pub model: Name,
}

/// How the previous run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restarted {
    /// Starts of the program on this device, this one included.
    pub starts: u64,
    /// Ends that nobody requested: crashes, hangs, resets, power cuts.
    pub failures: u64,
    /// Whether the last end was requested.
    pub clean: bool,
    /// Why the last run ended.
    pub reason: Text,
}

/// A box in frame pixels, as it is sent: left, top, right, bottom.
pub type BoxSent = [f32; 4];

/// A track was confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackBegin {
    /// Number of the track within this run and camera, from 1, never reused.
    pub track: u64,
    /// Class name.
    pub class: Name,
    /// Score of the detection that confirmed it, 0..=1.
    pub score: f32,
    /// Position of the track.
    pub bbox: BoxSent,
}

/// Why a track ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Not seen for longer than the tracker waits.
    Lost,
    /// The tracker was full and this was the track unseen for longest.
    Evicted,
    /// The program or the recording ended, or the camera stopped delivering.
    Stopped,
}

/// A track ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackEnd {
    /// Number of the track.
    pub track: u64,
    /// Class name by majority of its detections.
    pub class: Name,
    /// Frames in which it was seen.
    pub frames: u32,
    /// From first to last detection, milliseconds.
    pub seen_ms: u64,
    /// Bottom centre at the first detection, frame pixels.
    pub from: PointPx,
    /// Bottom centre at the last detection, frame pixels.
    pub to: PointPx,
    /// Reason of the end.
    pub reason: EndReason,
}

/// In which direction a line was crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the left side of the line to its right side, looking along it from its first point to its second.
    Forward,
    /// The other direction.
    Backward,
}

/// A line was crossed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Crossing {
    /// Number of the track.
    pub track: u64,
    /// Class name by majority so far.
    pub class: Name,
    /// Name of the line.
    pub line: Name,
    /// In which direction.
    pub direction: Direction,
    /// The name that the configuration gives this direction, such as `left-to-right`.
    pub direction_name: Name,
    /// Position when the crossing was certain, frame pixels.
    pub point: PointPx,
    /// Mean score of the track's detections so far, 0..=1.
    pub score: f32,
}
