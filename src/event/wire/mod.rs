//! The binary form of an event: a version byte, then postcard. The spool keeps it on disk, postcard batches carry it.
//!
//! ```text
//!   ┌─────────┬──────────────────────────────────────┐
//!   │ version │ postcard: seq, at, camera, kind, …   │     one record, at most RECORD_BYTES_MAX
//!   └─────────┴──────────────────────────────────────┘
//! ```
//! | version | new in it | reads | frozen in | golden bytes |
//! |---|---|---|---|---|
//! | 1 | | for ever | `wire/v1.rs` | `tests/data/events-v1.hex` |
//! | 2 | `stats`: `detections_invalid`, `detections_over_limit`, `detections_duplicate`, `processing_sum_us`, `frames_repaired`, `log_lines_dropped`; `storage`: `newer` | newest | the types in [`crate::event`] | `tests/data/events-v2.hex` |
//! | 3 | the kinds `camera.stats`, `machine` and `alert` | newest | the types in [`crate::event`] | `tests/data/events-v3.hex` |
//!
//! # Rules
//! - A version that was released never changes. Its golden bytes are never edited and are decoded for ever.
//! - An event is written in the **oldest version that holds all of it** ([`Event::record_version`]). A crossing is still a record of
//!   version 1: a program that is rolled back to an older image delivers the crossings that the newer one left on its disk.
//! - A record of an older version becomes the newest [`Event`] with the new fields at their default. A 0 in a field that is
//!   younger than the record means "not counted".
//! - A version that this program does not know is not damage: [`RecordError::Version`] names the version and the remedy. Bytes
//!   1..=[`RECORD_VERSION_LAST`] are reserved for versions, so that every reader can tell a newer event from garbage.
//! - A reader elsewhere chooses the version that it gets: [`Event::encode_up_to`] leaves out younger fields.
//!
//! - A kind that a version does not have is left out for its readers ([`Event::holds_in`]), but for `alert`: they get it as `degraded`,
//!   which every reader knows.
//!
//! # How to add version 4
//! A new kind of event needs only the steps from 2 on: the form of the older kinds stays. New fields need all of them.
//! 1. Copy the types of [`crate::event`] that version 2 is made of to `wire/v2.rs`, as `v1.rs` has those of version 1: with
//!    `From<v2::Event> for Event`, which gives new fields their default, and `From<&Event> for v2::Event`, which leaves them out.
//! 2. Append fields to the bodies or kinds to [`Body`] (never in between: the order is the form), or rows with `since` 4 to
//!    [`crate::metrics::table`]. `v1.rs` no longer compiles where it must state what happens to them.
//! 3. Raise [`RECORD_VERSION`]; let [`Event::record_version`] say 4 for the kinds that changed; decode older versions through their files.
//! 4. Add a golden file for version 4 beside the others, and its test.
//! 5. A batch in postcard needs a version too ([`crate::delivery::uplink::format::packed`]): no receiver gets records that it has
//!    not asked for. The table above and decision 0012 follow.
//!
//! The tests fail if a step is forgotten: a golden file no longer matches, or a field does not survive encoding and decoding.

pub(crate) mod v1;

use std::fmt;

use crate::event::{Body, Event};

/// The newest version, which this program writes.
pub const RECORD_VERSION: u8 = 3;

/// Version bytes up to this one are of events; the spool gives other meanings to those above.
pub const RECORD_VERSION_LAST: u8 = 31;
const _: () = assert!(RECORD_VERSION <= RECORD_VERSION_LAST);

/// Largest record, bytes: see the test that measures it.
pub const RECORD_BYTES_MAX: usize = 512;

/// Why bytes are not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// An event of a version that this program does not know.
    Version(u8),
    /// The bytes end early, run on, or are not valid.
    Malformed,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Version(version) => write!(
                f,
                "event record of version {version}, this flytrap reads versions up to {RECORD_VERSION}: use the \
                 flytrap that wrote it, or a newer one"
            ),
            RecordError::Malformed => f.write_str("event record is malformed"),
        }
    }
}

impl std::error::Error for RecordError {}

/// Whether a record that begins with `version` is an event, of whatever version.
pub const fn is_event_version(version: u8) -> bool {
    matches!(version, 1..=RECORD_VERSION_LAST)
}

impl Event {
    /// The oldest version that holds all of this event: the one in which it is written.
    pub const fn record_version(&self) -> u8 {
        match self.body {
            Body::CameraStats(_) | Body::Machine(_) | Body::Alert(_) => 3,
            Body::Stats(_) | Body::Storage(_) => 2,
            Body::Started(_)
            | Body::Stopping { .. }
            | Body::TrackBegin(_)
            | Body::TrackEnd(_)
            | Body::Crossing(_)
            | Body::CameraLost { .. }
            | Body::CameraBack { .. }
            | Body::Restarted(_)
            | Body::Degraded { .. }
            | Body::Dropped(_) => 1,
        }
    }

    /// Whether a reader that knows the versions up to `newest` can get this event at all, perhaps without younger fields.
    pub const fn holds_in(&self, newest: u8) -> bool {
        newest >= 3 || !matches!(self.body, Body::CameraStats(_) | Body::Machine(_))
    }

    /// The record, in `buffer`. Nothing is left out.
    pub fn encode<'b>(&self, buffer: &'b mut [u8; RECORD_BYTES_MAX]) -> &'b [u8] {
        self.encode_up_to(RECORD_VERSION, buffer)
    }

    /// The record for a reader that knows the versions up to `newest`, in `buffer`: fields that are younger are left out.
    ///
    /// # Panics
    /// If there is no such version, or the event does not hold in it ([`Event::holds_in`]): a bug.
    pub fn encode_up_to<'b>(&self, newest: u8, buffer: &'b mut [u8; RECORD_BYTES_MAX]) -> &'b [u8] {
        assert!((1..=RECORD_VERSION).contains(&newest) && self.holds_in(newest), "version {newest}");
        let older = if let Body::Alert(alert) = &self.body
            && newest < 3
        {
            let body = Body::Degraded { reason: alert.text.clone() };
            Some(Event { seq: self.seq, at: self.at, camera: self.camera.clone(), body })
        } else {
            None
        };
        let event = older.as_ref().unwrap_or(self);
        let version = event.record_version().min(newest);
        let (first, rest) = buffer.split_first_mut().expect("a record has bytes");
        *first = version;
        let used = match version {
            1 => postcard::to_slice(&v1::Event::from(event), rest),
            _ => postcard::to_slice(event, rest),
        };
        let used = used.expect("the largest event fits, see the test").len();
        &buffer[..=used]
    }

    /// The event whose record is `bytes`, no more and no less.
    ///
    /// # Errors
    /// A version from the future, or bytes that are not an event. Never panics, whatever the bytes (I8).
    pub fn decode(bytes: &[u8]) -> Result<Event, RecordError> {
        let (&version, rest) = bytes.split_first().ok_or(RecordError::Malformed)?;
        match version {
            1 => whole::<v1::Event>(rest).map(Event::from),
            2 | 3 => whole::<Event>(rest).and_then(|event| {
                // A kind that is younger than the record's version was not written by any flytrap.
                if event.record_version() <= version { Ok(event) } else { Err(RecordError::Malformed) }
            }),
            _ if is_event_version(version) => Err(RecordError::Version(version)),
            _ => Err(RecordError::Malformed),
        }
    }
}

fn whole<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RecordError> {
    match postcard::take_from_bytes(bytes) {
        Ok((what, [])) => Ok(what),
        Ok(_) | Err(_) => Err(RecordError::Malformed),
    }
}

#[cfg(test)]
mod tests;
