//! The most compact encoding: postcard, a version, a checksum. `flytrap decode` converts it to CloudEvents.
//!
//! ```text
//!   "FTB" version  u32 length of what follows  crc32c of it  postcard: Head  { u16 length, event record } …
//! ```
//! Little-endian. Several batches may follow each other in a file or a body. A batch is self-contained: the calendar is part of it. An
//! event record is the one of the spool ([`crate::event::wire`]): a version byte, then postcard.
//!
//! The batch's version, the digit `1`, `2` or `3` behind `FTB`, is the newest version among its records. The first four bytes show a receiver
//! whether it can read the batch, and it never gets a version that it was not configured for: `uplink.format = "postcard"` sends version 1
//! for ever, byte for byte, `"postcard2"` version 2, `"postcard3"` version 3. An update of a device changes nothing for its receiver.
//! Statistics of kinds that a version does not have are left out; an alert is in it as `degraded`. [`read_batch`] reads all versions.

use serde::{Deserialize, Serialize};

use crate::base::limits::BATCH_EVENTS_MAX;
use crate::delivery::uplink::Batch;
use crate::event::{Event, Origin, RECORD_BYTES_MAX, RecordError};
use crate::platform::calendar::Calendar;

/// Most bytes of one event.
pub const EVENT_BYTES: usize = 2 + RECORD_BYTES_MAX;

/// Most bytes before the first event.
pub const HEAD_BYTES_MAX: usize = 192;

/// The first bytes of every batch; the digit of its version follows.
const MAGIC: [u8; 3] = *b"FTB";
const FRAME_BYTES: usize = 12;

/// Most bytes of a batch behind its frame; a longer length is malformed.
const BODY_BYTES_MAX: usize = HEAD_BYTES_MAX + BATCH_EVENTS_MAX * EVENT_BYTES;

/// A version of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Records of version 1 only: newer fields and events are left out.
    V1,
    /// Records of versions 1 and 2.
    V2,
    /// Records of versions 1 to 3.
    V3,
}

impl Version {
    /// The newest.
    pub const NEWEST: Version = Version::V3;

    /// The content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Version::V1 => "application/vnd.flytrap.batch+postcard",
            Version::V2 => "application/vnd.flytrap.batch+postcard;version=2",
            Version::V3 => "application/vnd.flytrap.batch+postcard;version=3",
        }
    }

    /// The newest version among its records.
    const fn records(self) -> u8 {
        match self {
            Version::V1 => 1,
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }

    const fn digit(self) -> u8 {
        b'0' + self.records()
    }
}
/// Most bytes of a batch, including its frame.
pub const BATCH_BYTES_MAX: usize = FRAME_BYTES + BODY_BYTES_MAX;

/// The run that the events belong to, and its calendar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    origin: Origin,
    calendar: Calendar,
    events: u16,
}

/// A decoded batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Unpacked {
    /// The run of the device that they belong to.
    pub origin: Origin,
    /// The calendar that dates its events.
    pub calendar: Calendar,
    /// None if it had only events of younger kinds.
    pub events: Vec<Event>,
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// The magic bytes are missing.
    Magic,
    /// A batch of this version, which this program does not know.
    Newer(u8),
    /// They end too early.
    Short,
    /// They are too long for a batch, or their contents are invalid.
    Malformed,
    /// The checksum does not match.
    Damaged,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unreadable::Magic => "not a batch: it does not begin with FTB1, FTB2 or FTB3 (gzip? uncompress it first)",
            Unreadable::Newer(version) => {
                let known = Version::NEWEST.records();
                return write!(
                    f,
                    "the batch is of version {version}, this flytrap reads versions up to {known}: decode it with the \
                     flytrap that wrote it, or a newer one"
                );
            }
            Unreadable::Short => "the batch ends too early: it was cut when it was stored or copied, get it again",
            Unreadable::Malformed => "the batch holds what no flytrap writes: it was not made by one",
            Unreadable::Damaged => "the batch is damaged: its checksum is of other bytes, get it again",
        })
    }
}

impl std::error::Error for Unreadable {}

/// Writes the batch in that version into `out`, which is cleared first.
///
/// # Panics
/// If it has more than [`BATCH_EVENTS_MAX`] events: a bug.
pub fn write_batch(batch: &Batch<'_>, version: Version, out: &mut Vec<u8>) {
    assert!(batch.events.len() <= BATCH_EVENTS_MAX, "a batch of {} events", batch.events.len());
    out.clear();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    let sent = || batch.events.iter().filter(|event| event.holds_in(version.records()));
    let events = sent().count() as u16;
    let head = Head { origin: batch.origin.clone(), calendar: batch.calendar, events };
    let mut buffer = [0; HEAD_BYTES_MAX];
    out.extend_from_slice(
        postcard::to_slice(&head, &mut buffer).expect("the largest head fits, see the test"),
    );
    let mut buffer = [0; RECORD_BYTES_MAX];
    for event in sent() {
        let record = event.encode_up_to(version.records(), &mut buffer);
        out.extend_from_slice(&(record.len() as u16).to_le_bytes());
        out.extend_from_slice(record);
    }
    let body = &out[FRAME_BYTES..];
    let (length, sum) = (body.len() as u32, crc32c::crc32c(body));
    out[..3].copy_from_slice(&MAGIC);
    out[3] = version.digit();
    out[4..8].copy_from_slice(&length.to_le_bytes());
    out[8..12].copy_from_slice(&sum.to_le_bytes());
}

/// The version of the batch at the start of `bytes`.
fn version_of(bytes: &[u8]) -> Result<Version, Unreadable> {
    let magic = bytes.len().min(MAGIC.len());
    if bytes[..magic] != MAGIC[..magic] {
        return Err(Unreadable::Magic);
    }
    match bytes.get(MAGIC.len()) {
        None => Err(Unreadable::Short),
        Some(b'1') => Ok(Version::V1),
        Some(b'2') => Ok(Version::V2),
        Some(b'3') => Ok(Version::V3),
        Some(digit @ b'4'..=b'9') => Err(Unreadable::Newer(digit - b'0')),
        Some(_) => Err(Unreadable::Magic),
    }
}

/// One event record of a batch of `version`, which guarantees that no record is newer.
fn read_record(record: &[u8], version: Version) -> Result<Event, Unreadable> {
    match Event::decode(record) {
        Ok(event) if record[0] <= version.records() => Ok(event),
        Ok(_) | Err(RecordError::Version(_) | RecordError::Malformed) => Err(Unreadable::Malformed),
    }
}

/// Decodes the batch at the start of `bytes`; returns it and the bytes behind it.
///
/// # Errors
/// There is no valid batch. Never panics, whatever the bytes (I8).
pub fn read_batch(bytes: &[u8]) -> Result<(Unpacked, &[u8]), Unreadable> {
    let version = version_of(bytes)?;
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
        events.push(read_record(record, version)?);
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
    use crate::event::tests::{golden, samples, samples_v2, samples_v3};
    use crate::platform::calendar::Bounds;
    use crate::platform::clock::{ClockSyncSample, Mono, Wall};
    use proptest::prelude::*;

    fn packed(events: &[Event], version: Version) -> (Origin, Calendar, Vec<u8>) {
        let origin =
            Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::from_nanos(5_000_000_000));
        let wall = Wall { unix_nanos: 1_795_421_730_000_000_000, synchronised: true };
        let now = ClockSyncSample { mono: Mono::from_nanos(20_000_000_000), wall };
        let calendar =
            Calendar::new((now, now.mono), None, Bounds { started_after: Some(7), over_before: None });
        let mut out = b"old".to_vec();
        write_batch(&Batch::new(&origin, calendar, events), version, &mut out);
        (origin, calendar, out)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The contract with receivers. Never edit it: `uplink.format = "postcard"` sends these bytes for ever, even for events with newer
    /// fields.
    #[test]
    fn version_1_golden_bytes() {
        let golden = include_str!("../../../../tests/data/batch-v1.hex");
        let (origin, calendar, bytes) = packed(&samples(), Version::V1);
        assert_eq!(hex(&bytes), golden.trim(), "version 1 of the batch is frozen");
        let (_, _, of_newer) = packed(&samples_v2(), Version::V1);
        assert_eq!(hex(&of_newer), golden.trim(), "newer fields are left out");
        let twice = [&bytes[..], &bytes[..]].concat();
        let (first, rest) = read_batch(&twice).unwrap();
        assert_eq!(first, Unpacked { origin, calendar, events: samples() });
        assert_eq!(read_batch(rest).unwrap(), (first, &[][..]));
    }

    /// The same for `uplink.format = "postcard3"`. Never edit it. Older formats leave out what they do not have.
    #[test]
    fn version_3_golden_bytes() {
        let (origin, calendar, bytes) = packed(&samples_v3(), Version::V3);
        assert_eq!(
            hex(&bytes),
            golden("batch-v3.hex", &hex(&bytes)).trim(),
            "version 3 of the batch is frozen"
        );
        let (read, rest) = read_batch(&bytes).unwrap();
        assert_eq!((read, rest), (Unpacked { origin, calendar, events: samples_v3() }, &[][..]));
        for (version, kinds) in [(Version::V1, 13), (Version::V2, 13)] {
            let (_, _, bytes) = packed(&samples_v3(), version);
            let (read, _) = read_batch(&bytes).unwrap();
            assert_eq!(read.events.len(), kinds);
            assert_eq!(read.events[12].body.kind(), "degraded", "the alert");
        }
    }

    /// The same for `uplink.format = "postcard2"`. Never edit it.
    #[test]
    fn version_2_golden_bytes() {
        let golden = include_str!("../../../../tests/data/batch-v2.hex");
        let (origin, calendar, bytes) = packed(&samples_v2(), Version::V2);
        assert_eq!(hex(&bytes), golden.trim(), "version 2 of the batch is frozen");
        let (_, _, before) = packed(&samples(), Version::V1);
        let mixed = [&before[..], &bytes[..], &before[..]].concat();
        let (first, rest) = read_batch(&mixed).unwrap();
        assert_eq!(first.events, samples());
        let (second, rest) = read_batch(rest).unwrap();
        assert_eq!(second, Unpacked { origin, calendar, events: samples_v2() });
        assert_eq!(read_batch(rest).unwrap(), (first, &[][..]));
    }

    #[test]
    fn a_newer_version_is_not_damage_and_the_error_names_the_remedy() {
        let (_, _, mut bytes) = packed(&samples(), Version::V2);
        for digit in b'4'..=b'9' {
            bytes[3] = digit;
            let error = read_batch(&bytes).unwrap_err();
            assert_eq!(error, Unreadable::Newer(digit - b'0'));
            let text = error.to_string();
            assert!(text.contains(&format!("version {}", digit - b'0')) && text.contains("newer"), "{text}");
        }
        for other in [b'0', b':', b'A', 0, 2] {
            bytes[3] = other;
            assert_eq!(read_batch(&bytes), Err(Unreadable::Magic));
        }
        // A batch of version 1 with a record of version 2, which a receiver of version 1 could not read: no program writes it.
        bytes[3] = b'1';
        assert_eq!(read_batch(&bytes), Err(Unreadable::Malformed));
    }

    #[test]
    fn the_largest_head_fits() {
        let read = ClockSyncSample {
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
    fn damage_is_reported_by_kind() {
        let (_, _, bytes) = packed(&samples_v2(), Version::V2);
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
        fn any_bytes_are_read_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            sealed: bool,
            newest: bool,
        ) {
            let _outcome = read_batch(&bytes);
            if sealed && bytes.len() >= FRAME_BYTES {
                // With a valid frame, so that the contents are decoded.
                let (length, sum) = (bytes.len() - FRAME_BYTES, crc32c::crc32c(&bytes[FRAME_BYTES..]));
                bytes[..3].copy_from_slice(&MAGIC);
                bytes[3] = if newest { b'2' } else { b'1' };
                bytes[4..8].copy_from_slice(&(length as u32).to_le_bytes());
                bytes[8..12].copy_from_slice(&sum.to_le_bytes());
                let outcome = read_batch(&bytes);
                prop_assert!(!matches!(outcome, Err(Unreadable::Short | Unreadable::Magic | Unreadable::Damaged)));
            }
        }
    }
}
