//! The encoding of a batch. Pure: bytes into a reused buffer, no I/O, no clock.

pub mod cloudevents;
pub mod influx;
pub mod packed;

use crate::delivery::uplink::Batch;
use crate::event::{Event, RECORD_VERSION};

/// Encodings of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// CloudEvents 1.0, a batch in JSON.
    #[default]
    CloudEvents,
    /// InfluxDB's line protocol, as version 1 (`/write`) takes it.
    Influx1,
    /// The same for version 2 (`/api/v2/write`).
    Influx2,
    /// Postcard: about a tenth of the bytes. Records of version 1, for receivers that know no other.
    Packed,
    /// The same with records of versions 1 and 2.
    Packed2,
    /// The same with records of versions 1 to 3.
    Packed3,
}

impl Format {
    /// Writes the batch into `out`, which is cleared first.
    pub fn write(self, batch: &Batch<'_>, out: &mut Vec<u8>) {
        match self {
            Format::CloudEvents => cloudevents::write_batch(batch, out),
            Format::Influx1 | Format::Influx2 => influx::write_batch(batch, out),
            Format::Packed => packed::write_batch(batch, packed::Version::V1, out),
            Format::Packed2 => packed::write_batch(batch, packed::Version::V2, out),
            Format::Packed3 => packed::write_batch(batch, packed::Version::V3, out),
        }
    }

    /// The content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::CloudEvents => cloudevents::CONTENT_TYPE,
            Format::Influx1 | Format::Influx2 => influx::CONTENT_TYPE,
            Format::Packed => packed::Version::V1.content_type(),
            Format::Packed2 => packed::Version::V2.content_type(),
            Format::Packed3 => packed::Version::V3.content_type(),
        }
    }

    /// Buffer size for `events`, bytes.
    pub const fn bytes_for(self, events: usize) -> usize {
        match self {
            Format::CloudEvents => events * cloudevents::EVENT_BYTES,
            Format::Influx1 | Format::Influx2 => events * influx::EVENT_BYTES,
            Format::Packed | Format::Packed2 | Format::Packed3 => {
                packed::HEAD_BYTES_MAX + events * packed::EVENT_BYTES
            }
        }
    }

    /// Whether the event can be expressed at all: the older postcard formats do not have every kind.
    pub fn holds(self, event: &Event) -> bool {
        event.holds_in(self.record_version())
    }

    /// The newest version of the event record whose kinds and fields it can express.
    pub const fn record_version(self) -> u8 {
        match self {
            Format::CloudEvents | Format::Influx1 | Format::Influx2 => RECORD_VERSION,
            Format::Packed => 1,
            Format::Packed2 => 2,
            Format::Packed3 => 3,
        }
    }

    /// Whether the receiver stores events in buckets or databases, so that cameras may have their own.
    pub const fn has_buckets(self) -> bool {
        matches!(self, Format::Influx1 | Format::Influx2)
    }

    /// Whether the receiver identifies an event by its time: without a time it cannot be sent.
    pub const fn needs_time(self) -> bool {
        matches!(self, Format::Influx1 | Format::Influx2)
    }
}
