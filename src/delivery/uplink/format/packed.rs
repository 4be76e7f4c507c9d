//! The smallest form: postcard, a version, a checksum. `flytrap decode` makes CloudEvents of it again.
//!
//! ```text
//!   "FTB1"  u32 length of what follows  crc32c of it  postcard: Head  { u16 length, event record } …
//! ```
//! Little-endian. Batches may follow each other in a file or a body. Nothing in it needs this program's memory of anything
//! else: the calendar is inside. An event record is the one of the spool ([`crate::event::Event::encode`]): a version byte,
//! then postcard. Another form gets another magic.

use serde::{Deserialize, Serialize};

use crate::base::limits::BATCH_EVENTS_MAX;
use crate::delivery::uplink::Batch;
use crate::event::{Event, Origin, RECORD_BYTES_MAX};
use crate::platform::calendar::Calendar;

/// Content type.
pub const CONTENT_TYPE: &str = "application/vnd.flytrap.batch+postcard";

/// Most bytes of one event.
pub const EVENT_BYTES: usize = 2 + RECORD_BYTES_MAX;

/// Most bytes before the first event.
pub const HEAD_BYTES_MAX: usize = 192;

const MAGIC: [u8; 4] = *b"FTB1";
const FRAME_BYTES: usize = 12;

/// Most bytes that a batch can have behind its frame; a longer length is malformed.
const BODY_BYTES_MAX: usize = HEAD_BYTES_MAX + BATCH_EVENTS_MAX * EVENT_BYTES;

/// Most bytes of a batch, its frame included.
pub const BATCH_BYTES_MAX: usize = FRAME_BYTES + BODY_BYTES_MAX;

/// Whose events, and with which calendar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    origin: Origin,
    calendar: Calendar,
    events: u16,
}

/// A batch that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpacked {
    /// Which run of which device.
    pub origin: Origin,
    /// What its events are dated with.
    pub calendar: Calendar,
    /// At least one.
    pub events: Vec<Event>,
}

/// Why bytes are no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// They begin otherwise.
    Magic,
    /// They end too early.
    Short,
    /// They are too long for a batch, or what is in them is none.
    Malformed,
    /// The checksum is of other bytes.
    Damaged,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unreadable::Magic => {
                "not a batch of version 1: it does not begin with FTB1 (gzip? uncompress it first)"
            }
            Unreadable::Short => "the batch ends too early",
            Unreadable::Malformed => "the batch holds what this program does not know",
            Unreadable::Damaged => "the batch is damaged: its checksum is of other bytes",
        })
    }
}

impl std::error::Error for Unreadable {}

/// Writes the batch into `out`, which is emptied before.
///
/// # Panics
/// If it has more than [`BATCH_EVENTS_MAX`] events: our own mistake.
pub fn write_batch(batch: &Batch<'_>, out: &mut Vec<u8>) {
    assert!(batch.events.len() <= BATCH_EVENTS_MAX, "a batch of {} events", batch.events.len());
    out.clear();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    let events = batch.events.len() as u16;
    let head = Head { origin: batch.origin.clone(), calendar: batch.calendar, events };
    let mut buffer = [0; HEAD_BYTES_MAX];
    out.extend_from_slice(
        postcard::to_slice(&head, &mut buffer).expect("the largest head fits, see the test"),
    );
    let mut buffer = [0; RECORD_BYTES_MAX];
    for event in batch.events {
        let record = event.encode(&mut buffer);
        out.extend_from_slice(&(record.len() as u16).to_le_bytes());
        out.extend_from_slice(record);
    }
    let body = &out[FRAME_BYTES..];
    let (length, sum) = (body.len() as u32, crc32c::crc32c(body));
    out[..4].copy_from_slice(&MAGIC);
    out[4..8].copy_from_slice(&length.to_le_bytes());
    out[8..12].copy_from_slice(&sum.to_le_bytes());
}

/// The batch at the start of `bytes`, and what comes behind it.
///
/// # Errors
/// There is none that can be read. Never panics, whatever the bytes (I8).
pub fn read_batch(bytes: &[u8]) -> Result<(Unpacked, &[u8]), Unreadable> {
    let magic = bytes.len().min(MAGIC.len());
    if bytes[..magic] != MAGIC[..magic] {
        return Err(Unreadable::Magic);
    }
    let (frame, rest) = bytes.split_first_chunk::<FRAME_BYTES>().ok_or(Unreadable::Short)?;
    let number = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let length = number(4) as usize;
    if length > BODY_BYTES_MAX {
        return Err(Unreadable::Malformed);
    }
    let (body, rest) = rest.split_at_checked(length).ok_or(Unreadable::Short)?;
    if crc32c::crc32c(body) != number(8) {
        return Err(Unreadable::Damaged);
    }
    let (head, mut records): (Head, &[u8]) =
        postcard::take_from_bytes(body).map_err(|_| Unreadable::Malformed)?;
    let Head { origin, calendar, events: count } = head;
    let mut events = Vec::with_capacity(usize::from(count).min(BATCH_EVENTS_MAX));
    for _ in 0..count {
        let (length, behind) = records.split_first_chunk::<2>().ok_or(Unreadable::Malformed)?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (record, behind) = behind.split_at_checked(length).ok_or(Unreadable::Malformed)?;
        events.push(Event::decode(record).map_err(|_| Unreadable::Malformed)?);
        records = behind;
    }
    if !records.is_empty() || events.is_empty() {
        return Err(Unreadable::Malformed);
    }
    Ok((Unpacked { origin, calendar, events }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::samples;
    use crate::platform::calendar::Bounds;
    use crate::platform::clock::{ClockMap, Mono, Wall};
    use proptest::prelude::*;

    fn packed() -> (Origin, Calendar, Vec<u8>) {
        let origin =
            Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::from_nanos(5_000_000_000));
        let wall = Wall { unix_nanos: 1_795_421_730_000_000_000, synchronised: true };
        let now = ClockMap { mono: Mono::from_nanos(20_000_000_000), wall };
        let calendar =
            Calendar::new((now, now.mono), None, Bounds { started_after: Some(7), over_before: None });
        let mut out = b"old".to_vec();
        write_batch(&Batch::new(&origin, calendar, &samples()), &mut out);
        (origin, calendar, out)
    }

    /// What receivers rely on. Never edit it; another form gets another magic, and this one stays readable for ever.
    #[test]
    fn version_1_golden_bytes() {
        let (origin, calendar, bytes) = packed();
        let golden = include_str!("../../../../tests/data/batch-v1.hex");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, golden.trim(), "the packed form of version 1 changed");
        let twice = [&bytes[..], &bytes[..]].concat();
        let (first, rest) = read_batch(&twice).unwrap();
        assert_eq!(first, Unpacked { origin, calendar, events: samples() });
        assert_eq!(read_batch(rest).unwrap(), (first, &[][..]));
    }

    #[test]
    fn the_largest_head_fits() {
        let read = ClockMap {
            mono: Mono::from_nanos(u64::MAX),
            wall: Wall { unix_nanos: i64::MIN, synchronised: true },
        };
        let bounds = Bounds { started_after: Some(i64::MIN), over_before: Some(i64::MIN) };
        let calendar = Calendar { map: read, bounds, latest: i64::MIN };
        let mut origin = Origin::new(&"m".repeat(32), "3f2a91c07d414c5e", Mono::from_nanos(u64::MAX));
        while origin.boot.push('9').is_ok() {}
        let head = Head { origin, calendar, events: u16::MAX };
        assert!(postcard::to_slice(&head, &mut [0; HEAD_BYTES_MAX]).is_ok());
    }

    #[test]
    fn damage_is_told_by_its_kind() {
        let (_, _, bytes) = packed();
        for end in 0..bytes.len() {
            assert_eq!(read_batch(&bytes[..end]), Err(Unreadable::Short), "{end}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            assert!(read_batch(&bytes).is_err(), "{at}");
        }
        assert_eq!(read_batch(b"\x1f\x8b\x08"), Err(Unreadable::Magic));
        assert_eq!(read_batch(b"FTB1\xff\xff\xff\xff0000"), Err(Unreadable::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), sealed: bool) {
            let _outcome = read_batch(&bytes);
            if sealed && bytes.len() >= FRAME_BYTES {
                // With a frame that fits, so that the inside is looked at.
                let (length, sum) = (bytes.len() - FRAME_BYTES, crc32c::crc32c(&bytes[FRAME_BYTES..]));
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4..8].copy_from_slice(&(length as u32).to_le_bytes());
                bytes[8..12].copy_from_slice(&sum.to_le_bytes());
                let outcome = read_batch(&bytes);
                prop_assert!(!matches!(outcome, Err(Unreadable::Short | Unreadable::Magic | Unreadable::Damaged)));
            }
        }
    }
}
