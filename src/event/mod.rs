//! What leaves the device: typed, fixed-size events with an identity that survives every retry.
//!
//! The identity is `device/boot/seq` (I3). `boot` is the kernel's boot id and the moment at which this process started,
//! so that a restart within one boot begins a new row of numbers instead of repeating the old one; within it `seq` has no
//! gaps, so a receiver sees at once that something is missing.
//!
//! An event owns no heap memory. The binary form (postcard behind a version byte) has golden bytes in the tests: a new
//! version gets a new byte and the old one stays readable for ever.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::geometry::PointPx;
use crate::platform::clock::Mono;

pub use crate::base::text::{Name, Text, fixed};

/// Which run of which device the events come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The device's name from the configuration; letters, digits, `-`, `_`, `.`.
    pub device: Name,
    /// `<first 16 hex digits of the kernel's boot id>-<milliseconds from boot to the start of this process>`.
    pub boot: heapless::String<40>,
}

impl Origin {
    /// The origin of a process of `device` that started at `started` in the boot with `boot_id` (a UUID as
    /// `/proc/sys/kernel/random/boot_id` prints it).
    pub fn new(device: &str, boot_id: &str, started: Mono) -> Self {
        let hex: heapless::String<16> = boot_id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        let millis = started.as_nanos() / 1_000_000;
        let mut boot = heapless::String::new();
        fmt::Write::write_fmt(&mut boot, format_args!("{hex}-{millis}"))
            .expect("16 + 1 + 14 digits fit in 40");
        Origin { device: fixed(device), boot }
    }

    /// Whether both are of the same boot, and so of the same boot clock.
    pub fn same_boot(&self, other: &Origin) -> bool {
        self.device == other.device && self.boot.split('-').next() == other.boot.split('-').next()
    }

    /// The identity of event `seq`.
    pub fn id(&self, seq: u64) -> EventId<'_> {
        EventId { origin: self, seq }
    }
}

/// `device/boot/seq`, for printing.
#[derive(Debug, Clone, Copy)]
pub struct EventId<'a> {
    origin: &'a Origin,
    seq: u64,
}

impl fmt::Display for EventId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.origin.device, self.origin.boot, self.seq)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number within the run, from 0, without gaps.
    pub seq: u64,
    /// When it happened, on the boot clock. For a recording: start of the program plus the recording's own time.
    pub at: Mono,
    /// The camera that saw it; empty for what concerns the device.
    pub camera: Name,
    /// What happened.
    pub body: Body,
}

/// What happened. The order of the cases and of their fields is the binary format: append, never reorder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// The program started.
    Started(Started),
    /// The program is about to end.
    Stopping {
        /// Why.
        reason: Text,
    },
    /// A road user was seen often enough to be believed.
    TrackBegin(TrackBegin),
    /// A road user has left, or has not been seen for too long.
    TrackEnd(TrackEnd),
    /// A road user crossed a counting line.
    Crossing(Crossing),
    /// Counters, at a fixed interval and at the end.
    Stats(Stats),
    /// The camera stopped delivering.
    CameraLost {
        /// What the source said.
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
    /// This is not the device's first run: how the one before ended.
    Restarted(Restarted),
    /// A part of the device does not work; the rest goes on (I12).
    Degraded {
        /// Which, and why.
        reason: Text,
    },
    /// Events had to go for want of room (I4).
    Dropped(Dropped),
    /// What the spool holds and has written, with each statistics.
    Storage(Storage),
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
        }
    }

    /// Whether the next event of this kind makes up for the loss of this one: sums and gauges.
    pub const fn can_wait(&self) -> bool {
        matches!(self, Body::Stats(_) | Body::Storage(_))
    }
}

/// Events that had to go before they were delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Their class: `alerts`, `counts`, `details` or `dead`.
    pub class: Name,
    /// Why: `memory`, `quota`, `count`, `age`, `headroom` or `damage`.
    pub reason: Name,
    /// How many since the last event of this kind.
    pub events: u64,
    /// How many of this class since the start of the program.
    pub total: u64,
}

/// The state of the spool, and counters since the start of the program.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Storage {
    /// Events that wait to be sent.
    pub waiting: u64,
    /// Size of its files, bytes.
    pub disk_bytes: u64,
    /// Written to files, bytes.
    pub written_bytes: u64,
    /// Written in the last 24 hours, bytes.
    pub written_day_bytes: u64,
    /// Commits.
    pub commits: u64,
    /// Commits that failed.
    pub failures: u64,
    /// Events dropped for want of room.
    pub dropped: u64,
    /// Events lost to damage on disk.
    pub damaged: u64,
    /// Dead letters: events that the receiver refused for good.
    pub dead: u64,
}

/// The program started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Version of the program.
    pub version: Name,
    /// First 12 hex digits of the model file's sha256.
    pub model: Name,
}

/// How the run before this one ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restarted {
    /// Starts of the program on this device, this one included.
    pub starts: u64,
    /// Ends that nobody asked for: crashes, hangs, resets, power cuts.
    pub failures: u64,
    /// Whether the last end was asked for.
    pub clean: bool,
    /// Why the last run ended.
    pub reason: Text,
}

/// A box in frame pixels, as it is sent: left, top, right, bottom.
pub type BoxSent = [f32; 4];

/// A track was confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackBegin {
    /// Number of the track within this run and camera, from 1, never used again.
    pub track: u64,
    /// Class name.
    pub class: Name,
    /// Score of the detection that confirmed it, 0..=1.
    pub score: f32,
    /// Where.
    pub bbox: BoxSent,
}

/// Why a track ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Not seen for longer than the tracker waits.
    Lost,
    /// The tracker was full and this was the one unseen for longest.
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
    /// From first to last sight, milliseconds.
    pub seen_ms: u64,
    /// Bottom centre at first sight, frame pixels.
    pub from: PointPx,
    /// Bottom centre at last sight, frame pixels.
    pub to: PointPx,
    /// Why.
    pub reason: EndReason,
}

/// Which way a line was crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the left side of the line to its right side, looking along it from its first point to its second.
    Forward,
    /// The other way.
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
    /// Which way.
    pub direction: Direction,
    /// The name that the configuration gives this way, such as `left-to-right`.
    pub direction_name: Name,
    /// Where it was when the crossing was certain, frame pixels.
    pub point: PointPx,
    /// Mean score of the track's detections so far, 0..=1.
    pub score: f32,
}

/// Counters since the start of the program, and gauges. All drops of all limits are here (I4).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Since the start, milliseconds.
    pub uptime_ms: u64,
    /// Frames that the sources announced.
    pub frames_captured: u64,
    /// Frames that the camera itself dropped (gaps in its numbering).
    pub frames_camera_dropped: u64,
    /// Frames not wanted at the target rate.
    pub frames_skipped: u64,
    /// Frames that a newer one replaced before they were looked at.
    pub frames_ring_dropped: u64,
    /// Frames with bytes that were not a picture.
    pub frames_corrupt: u64,
    /// Frames that the gate saw.
    pub frames_gated: u64,
    /// Frames in which nothing moved and no inference was made.
    pub frames_still: u64,
    /// Inferences.
    pub inferences: u64,
    /// Detections of the wanted classes.
    pub detections: u64,
    /// Candidates that did not fit the decoder.
    pub candidates_dropped: u64,
    /// Detections that did not fit a frame's list.
    pub detections_dropped: u64,
    /// Tracks confirmed.
    pub tracks: u64,
    /// Tracks given up because the tracker was full, and detections that found no free track.
    pub tracks_evicted: u64,
    /// Crossings.
    pub crossings: u64,
    /// Times that a camera was lost.
    pub camera_losses: u64,
    /// Events made.
    pub events: u64,
    /// Events that a full queue dropped, oldest first.
    pub events_dropped: u64,
    /// Events that the receiver confirmed (as of this event).
    pub events_delivered: u64,
    /// Sends that failed and were tried again.
    pub send_failures: u64,
    /// Events that no try could deliver: refused for good.
    pub events_refused: u64,
    /// Age of the last good frame, milliseconds; `u64::MAX` before the first (I7).
    pub last_frame_age_ms: u64,
    /// Age of the last delivered batch, milliseconds; `u64::MAX` before the first (I7).
    pub last_delivery_age_ms: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Mean time since the last statistics that a frame took which the gate let through, from ring to events, microseconds.
    pub processing_us: u64,
}

/// Version byte of the binary form.
pub const RECORD_VERSION: u8 = 1;

/// Largest binary form, bytes: see the test that measures it.
pub const RECORD_BYTES_MAX: usize = 512;

/// Why bytes are not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// A version from the future, or no event at all.
    Version(u8),
    /// The bytes end early, run on, or are not valid.
    Malformed,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Version(v) => {
                write!(f, "event record of version {v}, this program knows {RECORD_VERSION}")
            }
            RecordError::Malformed => f.write_str("event record is malformed"),
        }
    }
}

impl std::error::Error for RecordError {}

impl Event {
    /// The binary form, in `buffer`: a version byte, then postcard.
    pub fn encode<'b>(&self, buffer: &'b mut [u8; RECORD_BYTES_MAX]) -> &'b [u8] {
        buffer[0] = RECORD_VERSION;
        let used =
            postcard::to_slice(self, &mut buffer[1..]).expect("the largest event fits, see the test").len();
        &buffer[..1 + used]
    }

    /// The event whose binary form is `bytes`, no more and no less.
    ///
    /// # Errors
    /// Another version, or bytes that are not an event. Never panics, whatever the bytes (I8).
    pub fn decode(bytes: &[u8]) -> Result<Event, RecordError> {
        let (&version, rest) = bytes.split_first().ok_or(RecordError::Malformed)?;
        if version != RECORD_VERSION {
            return Err(RecordError::Version(version));
        }
        match postcard::take_from_bytes(rest) {
            Ok((event, [])) => Ok(event),
            Ok(_) | Err(_) => Err(RecordError::Malformed),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::limits::{EVENT_TEXT_BYTES_MAX, NAME_BYTES_MAX};
    use proptest::prelude::*;

    /// One event of every kind, with every field away from its default.
    pub(crate) fn samples() -> Vec<Event> {
        let stats = Stats {
            uptime_ms: 60_000,
            frames_captured: 1800,
            rss_bytes: 48 << 20,
            last_delivery_age_ms: u64::MAX,
            ..Stats::default()
        };
        let bodies = [
            Body::Started(Started { version: fixed("0.1.0"), model: fixed("71283f2cb4b8") }),
            Body::Stopping { reason: fixed("end of the recording") },
            Body::TrackBegin(TrackBegin {
                track: 7,
                class: fixed("car"),
                score: 0.75,
                bbox: [10.0, 20.5, 110.0, 90.0],
            }),
            Body::TrackEnd(TrackEnd {
                track: 7,
                class: fixed("car"),
                frames: 31,
                seen_ms: 5000,
                from: PointPx { x: 60.0, y: 90.0 },
                to: PointPx { x: 600.0, y: 95.5 },
                reason: EndReason::Lost,
            }),
            Body::Crossing(Crossing {
                track: 7,
                class: fixed("car"),
                line: fixed("middle"),
                direction: Direction::Backward,
                direction_name: fixed("left-to-right"),
                point: PointPx { x: 322.25, y: 92.0 },
                score: 0.625,
            }),
            Body::Stats(stats),
            Body::CameraLost { reason: fixed("no frame for 5 s") },
            Body::CameraBack { absent_ms: 7250, width: 1280, height: 720 },
            Body::Restarted(Restarted {
                starts: 300,
                failures: 2,
                clean: false,
                reason: fixed("the pipeline hangs"),
            }),
            Body::Degraded { reason: fixed("gpio: pin 17 cannot be used") },
            Body::Dropped(Dropped {
                class: fixed("details"),
                reason: fixed("quota"),
                events: 12_000,
                total: 24_000,
            }),
            Body::Storage(Storage {
                waiting: 3,
                disk_bytes: 3 << 20,
                written_bytes: 700,
                ..Storage::default()
            }),
        ];
        let made = bodies.into_iter().enumerate().map(|(i, body)| Event {
            seq: i as u64,
            at: Mono::from_nanos(12_345_678_901 + i as u64),
            camera: fixed("north"),
            body,
        });
        made.collect()
    }

    /// The binary form of version 1, as each kind was first released. Never edit a line; a new kind adds one, a new version a
    /// new file.
    #[test]
    fn version_1_golden_bytes_stay_readable() {
        let golden = include_str!("../../tests/data/events-v1.hex");
        let lines: Vec<&str> = golden.lines().collect();
        let mut buffer = [0; RECORD_BYTES_MAX];
        let ours: Vec<String> = samples()
            .iter()
            .map(|e| e.encode(&mut buffer).iter().map(|b| format!("{b:02x}")).collect())
            .collect();
        assert_eq!(lines, ours, "the binary form of version 1 changed");
        for (line, event) in lines.iter().zip(samples()) {
            let bytes: Vec<u8> = (0..line.len() / 2)
                .map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            assert_eq!(Event::decode(&bytes), Ok(event));
        }
    }

    #[test]
    fn the_largest_event_fits_its_record() {
        let stats: Stats = postcard::from_bytes(&[0xff; 1024].map(|_| 0u8)).unwrap();
        let numbers = serde_json::to_value(stats).unwrap().as_object().unwrap().len();
        // Version, seq and at, camera, case, then at most 10 bytes a number; a text case is far smaller.
        assert!(1 + 10 + 10 + (1 + NAME_BYTES_MAX) + 1 + numbers * 10 <= RECORD_BYTES_MAX);
        const {
            assert!(
                1 + 10 + 10 + (1 + NAME_BYTES_MAX) + 1 + 2 + EVENT_TEXT_BYTES_MAX + 2 * 10 + 2
                    <= RECORD_BYTES_MAX
            );
            assert!(1 + 10 + 10 + (1 + NAME_BYTES_MAX) * 4 + 1 + 10 + 1 + 12 <= RECORD_BYTES_MAX);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _outcome = Event::decode(&bytes);
            let mut versioned = vec![RECORD_VERSION];
            versioned.extend(&bytes);
            let _outcome = Event::decode(&versioned);
        }

        #[test]
        fn a_truncated_record_is_refused(which in 0usize..12, kept in 0.0f64..1.0) {
            let mut buffer = [0; RECORD_BYTES_MAX];
            let bytes = samples()[which].encode(&mut buffer).to_vec();
            prop_assert!(Event::decode(&bytes[..(bytes.len() as f64 * kept) as usize]).is_err());
        }

        #[test]
        fn fixed_cuts_at_a_character(text in "\\PC{0,60}") {
            let cut: heapless::String<NAME_BYTES_MAX> = fixed(&text);
            prop_assert!(text.starts_with(cut.as_str()));
            prop_assert!(cut.len() == text.len() || cut.len() + 4 > NAME_BYTES_MAX);
        }
    }

    #[test]
    fn identities_tell_restarts_apart() {
        let boot = "3f2a91c0-7d41-4c5e-9a3b-0123456789ab\n";
        let first = Origin::new("mast-7", boot, Mono::from_nanos(12_345_678_901));
        let second = Origin::new("mast-7", boot, Mono::from_nanos(99_000_000_000));
        assert_eq!(first.id(3).to_string(), "mast-7/3f2a91c07d414c5e-12345/3");
        assert_ne!(first.id(3).to_string(), second.id(3).to_string());
    }
}
