//! The bytes of one record in a segment. Pure.
//!
//! ```text
//!   ┌─────────────┬───────────────┬──────┬──────────────────────┐
//!   │ length  u16 │ crc32c    u32 │ kind │ postcard             │   little endian; length = kind and postcard, 1..=1024
//!   └─────────────┴───────────────┴──────┴──────────────────────┘
//! ```
//! The checksum covers the segment's number, the record's offset, the length and the payload: leftovers from an earlier use of the file,
//! and bytes that were written to the wrong place, are not valid records. The kind is also its version: 1..=[`RECORD_VERSION_LAST`] is an
//! [`Event`]'s own version byte ([`crate::event::wire`]). A kind never gets another meaning; a new form gets a new number.

use serde::{Deserialize, Serialize};

use crate::event::wire::{RECORD_VERSION_LAST, is_event_version, v1};
use crate::event::{Event, Origin, RECORD_BYTES_MAX, RecordError, Text};
use crate::platform::clock::ClockSyncSample;

/// Bytes before the payload.
pub const HEAD_BYTES: usize = 6;

/// Longest payload. The largest event has [`RECORD_BYTES_MAX`]; a dead letter adds the run, the time and the reason.
pub const PAYLOAD_BYTES_MAX: usize = 1024;
const _: () = assert!(RECORD_BYTES_MAX + 256 + 40 + 40 <= PAYLOAD_BYTES_MAX);

/// Longest record.
pub const FRAME_BYTES_MAX: usize = HEAD_BYTES + PAYLOAD_BYTES_MAX;

const KIND_ACKED: u8 = b'A';
const KIND_CLOCK: u8 = b'C';
/// A dead letter with an event of version 1: [`DeadV1`].
const KIND_DEAD_V1: u8 = b'D';
/// A dead letter with an event of any version: [`DeadHead`], then the event's own record.
const KIND_DEAD: u8 = b'E';
const _: () = assert!(RECORD_VERSION_LAST < KIND_ACKED, "an event's version is no other kind");

/// A position in a queue: a segment's number and an offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Number of the segment; increases over the lifetime of a spool.
    pub segment: u64,
    /// Bytes from the start of its file.
    pub offset: u32,
}

/// How far a queue is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Acked {
    /// Everything before it is delivered, refused or dropped.
    pub position: Position,
    /// Events of that segment before it.
    pub events: u32,
}

/// An event that its receiver refused permanently.
#[derive(Debug, Clone, PartialEq)]
pub struct Dead {
    /// The run that it belongs to.
    pub origin: Origin,
    /// The clocks at the time of the refusal.
    pub clock: ClockSyncSample,
    /// The receiver's reason.
    pub why: Text,
    /// The event.
    pub event: Event,
}

/// [`Dead`] with an event of version 1, in its encoded form. Frozen.
#[derive(Serialize, Deserialize)]
struct DeadV1 {
    origin: Origin,
    clock: ClockSyncSample,
    why: Text,
    event: v1::Event,
}

/// [`Dead`] without its event, in its encoded form.
#[derive(Serialize, Deserialize)]
struct DeadHead {
    origin: Origin,
    clock: ClockSyncSample,
    why: Text,
}

impl Dead {
    /// The payload, in `buffer`: what a program of version 1 can read is written exactly as version 1 wrote it.
    fn encode<'b>(&self, buffer: &'b mut [u8; PAYLOAD_BYTES_MAX]) -> &'b [u8] {
        let Dead { origin, clock, why, event } = self;
        let (origin, clock, why) = (origin.clone(), *clock, why.clone());
        if event.record_version() == 1 {
            return encode_as(KIND_DEAD_V1, &DeadV1 { origin, clock, why, event: event.into() }, buffer);
        }
        let head = encode_as(KIND_DEAD, &DeadHead { origin, clock, why }, buffer).len();
        let mut record = [0; RECORD_BYTES_MAX];
        let record = event.encode(&mut record);
        let end = head + record.len();
        buffer[head..end].copy_from_slice(record);
        &buffer[..end]
    }

    fn decode(rest: &[u8]) -> Option<Record> {
        let (DeadHead { origin, clock, why }, record) = postcard::take_from_bytes(rest).ok()?;
        match Event::decode(record) {
            Ok(event) => Some(Record::Dead(Box::new(Dead { origin, clock, why, event }))),
            Err(RecordError::Version(version)) => Some(Record::Newer(version)),
            Err(RecordError::Malformed) => None,
        }
    }
}

impl From<DeadV1> for Dead {
    fn from(old: DeadV1) -> Self {
        let DeadV1 { origin, clock, why, event } = old;
        Dead { origin, clock, why, event: event.into() }
    }
}

/// Contents of a record.
#[allow(
    clippy::large_enum_variant,
    reason = "lives on the stack for a moment; a box would be a heap call for every event"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Something happened.
    Event(Event),
    /// The queue is done up to here.
    Acked(Acked),
    /// Both clocks, read together while the calendar was set.
    Clock(ClockSyncSample),
    /// A dead letter.
    Dead(Box<Dead>),
    /// An event or a dead letter written by a newer version of the program, with its record's version: valid, but not readable here.
    Newer(u8),
    /// Another kind of a newer version of the program: valid, but not readable here.
    Unknown(u8),
}

impl Record {
    /// The payload, in `buffer`.
    pub fn encode<'b>(&self, buffer: &'b mut [u8; PAYLOAD_BYTES_MAX]) -> &'b [u8] {
        match self {
            Record::Event(event) => encode_event(event, buffer),
            Record::Acked(acked) => encode_as(KIND_ACKED, acked, buffer),
            Record::Clock(map) => encode_as(KIND_CLOCK, map, buffer),
            Record::Dead(dead) => dead.encode(buffer),
            Record::Newer(kind) | Record::Unknown(kind) => encode_as(*kind, &(), buffer),
        }
    }

    /// Decodes a payload; `None` if its checksum is right but its contents are invalid: it was damaged before it was written.
    pub fn decode(payload: &[u8]) -> Option<Record> {
        let (&kind, rest) = payload.split_first()?;
        match kind {
            version if is_event_version(version) => match Event::decode(payload) {
                Ok(event) => Some(Record::Event(event)),
                Err(RecordError::Version(version)) => Some(Record::Newer(version)),
                Err(RecordError::Malformed) => None,
            },
            KIND_ACKED => whole(rest).map(Record::Acked),
            KIND_CLOCK => whole(rest).map(Record::Clock),
            KIND_DEAD_V1 => whole::<DeadV1>(rest).map(|dead| Record::Dead(Box::new(dead.into()))),
            KIND_DEAD => Dead::decode(rest),
            other => Some(Record::Unknown(other)),
        }
    }
}

/// The payload of an event, in `buffer`.
pub fn encode_event<'b>(event: &Event, buffer: &'b mut [u8; PAYLOAD_BYTES_MAX]) -> &'b [u8] {
    let (head, _) = buffer.split_first_chunk_mut().expect("an event's buffer is smaller");
    event.encode(head)
}

fn encode_as<'b, T: Serialize>(kind: u8, what: &T, buffer: &'b mut [u8; PAYLOAD_BYTES_MAX]) -> &'b [u8] {
    buffer[0] = kind;
    let used = postcard::to_slice(what, &mut buffer[1..]).expect("the largest fits, see above").len();
    &buffer[..=used]
}

fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((what, [])) => Some(what),
        Ok(_) | Err(_) => None,
    }
}

/// Whether a payload is an event or a dead letter, of any version: without decoding all of it.
pub fn is_event(payload: &[u8]) -> bool {
    payload.first().is_some_and(|kind| is_event_version(*kind) || matches!(*kind, KIND_DEAD_V1 | KIND_DEAD))
}

/// Size of the record of a payload of `bytes`.
pub const fn frame_bytes(bytes: usize) -> usize {
    HEAD_BYTES + bytes
}

/// Appends the record of `payload` at `position` to `out`.
///
/// # Panics
/// If the payload is empty or too long: a bug.
pub fn write(out: &mut Vec<u8>, position: Position, payload: &[u8]) {
    assert!((1..=PAYLOAD_BYTES_MAX).contains(&payload.len()), "a payload of {} bytes", payload.len());
    let length = payload.len() as u16;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(position, length, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The payload of the record at `position`, whose bytes begin `bytes`; `None` if there is none.
pub fn read(bytes: &[u8], position: Position) -> Option<&[u8]> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let length = u16::from_le_bytes([head[0], head[1]]);
    let payload = rest.get(..usize::from(length))?;
    let stored = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
    let fits = (1..=PAYLOAD_BYTES_MAX).contains(&payload.len());
    (fits && checksum(position, length, payload) == stored).then_some(payload)
}

/// Whether these bytes could be the beginning of a record that needs more bytes.
pub fn wants_more(bytes: &[u8]) -> bool {
    match bytes.first_chunk::<2>() {
        None => true,
        Some(&length) => {
            let length = usize::from(u16::from_le_bytes(length));
            (1..=PAYLOAD_BYTES_MAX).contains(&length) && bytes.len() < HEAD_BYTES + length
        }
    }
}

/// Number of leading bytes, at least one, where no record can begin, judged by the length field that would be there.
pub fn no_begin(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&[low, high, ..]) = bytes.get(at..) {
        if let Some(word) = bytes[at..].first_chunk::<8>().filter(|_| low == 0)
            && u64::from_le_bytes(*word) == 0
        {
            at += 7; // The last zero may be the low byte of a length.
            continue;
        }
        if (1..=PAYLOAD_BYTES_MAX).contains(&usize::from(u16::from_le_bytes([low, high]))) {
            break;
        }
        at += 1;
    }
    at
}

/// Moves whole records, `frames`, to another position: recomputes their checksums.
///
/// # Panics
/// If they are not whole records: a bug.
pub fn move_to(frames: &mut [u8], position: Position) {
    let mut at = 0;
    while at < frames.len() {
        let length = u16::from_le_bytes([frames[at], frames[at + 1]]);
        let end = at + frame_bytes(usize::from(length));
        let here = Position { offset: position.offset + at as u32, ..position };
        let sum = checksum(here, length, &frames[at + HEAD_BYTES..end]);
        frames[at + 2..at + HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
}

/// The length of the record that begins `frames`, header included; it must be known to be whole.
pub fn whole_frame_bytes(frames: &[u8]) -> usize {
    frame_bytes(usize::from(u16::from_le_bytes([frames[0], frames[1]])))
}

fn checksum(position: Position, length: u16, payload: &[u8]) -> u32 {
    let mut seed = [0; 14];
    seed[..8].copy_from_slice(&position.segment.to_le_bytes());
    seed[8..12].copy_from_slice(&position.offset.to_le_bytes());
    seed[12..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&seed), payload)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::delivery::spool::disk::Folder;
    use crate::delivery::spool::segment::{self, Header, Named};
    use crate::delivery::spool::{Class, Log, Params, Tally, inspect};
    use crate::event::tests::{samples, samples_v2};
    use crate::event::{RECORD_VERSION, fixed};
    use crate::platform::clock::{Mono, Wall};
    use proptest::prelude::*;

    const AT: Position = Position { segment: 42, offset: 4096 };

    /// One record of each kind with events of version 1, and events and a dead letter of version 2.
    pub(crate) fn all_kinds() -> Vec<Record> {
        let version_2 = kinds_with(samples_v2(), 5).into_iter();
        let version_2 = version_2.filter(|record| matches!(record, Record::Event(_) | Record::Dead(_)));
        kinds_with(samples(), 4).into_iter().chain(version_2).collect()
    }

    /// `events`, and one record of each other kind, the dead letter with one of them.
    fn kinds_with(events: Vec<Event>, dead: usize) -> Vec<Record> {
        let clock = ClockSyncSample {
            mono: Mono::from_nanos(7_000_000_000),
            wall: Wall { unix_nanos: 1_795_392_000_000_000_000, synchronised: true },
        };
        let dead = Dead {
            origin: Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::from_nanos(5)),
            clock,
            why: fixed("400 Bad Request"),
            event: events[dead].clone(),
        };
        let acked = Acked { position: Position { segment: 41, offset: 70_000 }, events: 900 };
        let rest = [Record::Acked(acked), Record::Clock(clock), Record::Dead(Box::new(dead))];
        events.into_iter().map(Record::Event).chain(rest).collect()
    }

    fn framed(records: &[Record], position: Position) -> Vec<u8> {
        let mut out = Vec::new();
        for record in records {
            let here = Position { offset: position.offset + out.len() as u32, ..position };
            write(&mut out, here, record.encode(&mut [0; PAYLOAD_BYTES_MAX]));
        }
        out
    }

    fn unframed(bytes: &[u8], position: Position) -> Vec<Record> {
        let (mut at, mut out) = (0, Vec::new());
        while let Some(payload) =
            read(&bytes[at..], Position { offset: position.offset + at as u32, segment: position.segment })
        {
            out.push(Record::decode(payload).expect("a record"));
            at += frame_bytes(payload.len());
        }
        out
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn unhex(line: &str) -> Vec<u8> {
        (0..line.len() / 2).map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// Records that a program wrote to disk, one a line, each encoded for [`AT`]: they must read as `expected`.
    fn assert_reads(golden: &str, expected: &[Record]) {
        let read: Vec<Record> = golden.lines().flat_map(|line| unframed(&unhex(line), AT)).collect();
        assert_eq!(read, expected);
    }

    /// The form of version 1 on disk. Never edit a line. Today's output differs only where an event has new fields.
    #[test]
    fn version_1_golden_bytes_stay_readable() {
        let golden = include_str!("../../../tests/data/spool-records-v1.hex");
        let expected = kinds_with(samples(), 4);
        assert_reads(golden, &expected);
        for (line, record) in golden.lines().zip(expected) {
            let as_before = !matches!(&record, Record::Event(event) if event.record_version() > 1);
            assert_eq!(line == hex(&framed(&[record], AT)), as_before, "{line}");
        }
    }

    /// The form of version 2. Never edit a line.
    #[test]
    fn version_2_golden_bytes_stay_readable() {
        let golden = include_str!("../../../tests/data/spool-records-v2.hex");
        let expected = kinds_with(samples_v2(), 5);
        assert_reads(golden, &expected);
        let ours: Vec<String> =
            expected.into_iter().map(|record| hex(&framed(std::slice::from_ref(&record), AT))).collect();
        assert_eq!(golden.lines().collect::<Vec<_>>(), ours, "version 2 on disk is frozen");
    }

    #[test]
    fn an_event_of_a_newer_version_is_recognised_but_not_decoded() {
        let newer = RECORD_VERSION + 1;
        let mut payload = [0; PAYLOAD_BYTES_MAX];
        let mut event = samples()[4].encode(&mut [0; RECORD_BYTES_MAX]).to_vec();
        event[0] = newer;
        assert!(is_event(&event));
        assert_eq!(Record::decode(&event), Some(Record::Newer(newer)));
        let Some(Record::Dead(dead)) = kinds_with(samples_v2(), 5).pop() else { panic!("a dead letter") };
        let mut letter = dead.encode(&mut payload).to_vec();
        let record = dead.event.encode(&mut [0; RECORD_BYTES_MAX]).len();
        let at = letter.len() - record;
        letter[at] = newer;
        assert!(is_event(&letter));
        assert_eq!(Record::decode(&letter), Some(Record::Newer(newer)));
    }

    /// A spool's folder with one segment without a footer that holds `payloads`.
    fn folder_with(payloads: &[Vec<u8>]) -> tempfile::TempDir {
        let origin = Origin { device: fixed("mast-7"), boot: fixed("3f2a91c07d414c5e-12345") };
        let header =
            Header { version: segment::VERSION, class: Class::Counts, run: 1, origin, follows: None };
        let mut bytes = segment::header_blocks(1, &header);
        bytes.resize(segment::DATA as usize, 0);
        for payload in payloads {
            let position = Position { segment: 1, offset: bytes.len() as u32 };
            write(&mut bytes, position, payload);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(Named::Segment(Class::Counts, 1).file()), bytes).unwrap();
        folder
    }

    /// Everything that a new run finds in `folder`, and the counters of its log.
    fn delivered(folder: &tempfile::TempDir) -> (Vec<Event>, Tally) {
        let origin = Origin { device: fixed("mast-7"), boot: fixed("3f2a91c07d414c5e-99999") };
        let mut log = Log::new(Params::default(), origin);
        log.attach(Box::new(Folder::open(folder.path()).unwrap())).unwrap();
        let (mut all, mut out) = (Vec::new(), Vec::new());
        while log.take(100, &mut out).is_some() {
            all.append(&mut out);
            log.done(Mono::ZERO);
        }
        assert_eq!(log.waiting(), 0);
        (all, log.tally())
    }

    #[test]
    fn a_folder_of_version_1_opens_and_its_events_are_delivered() {
        let golden = include_str!("../../../tests/data/spool-records-v1.hex");
        let payloads: Vec<Vec<u8>> =
            golden.lines().take(samples().len()).map(|line| unhex(line).split_off(HEAD_BYTES)).collect();
        let (events, tally) = delivered(&folder_with(&payloads));
        assert_eq!(events, samples());
        assert_eq!((tally.damaged_events, tally.damaged_bytes, tally.newer_events), (0, 0, 0));
    }

    #[test]
    fn events_of_a_newer_version_are_skipped_counted_and_not_damage() {
        let crossing = samples()[4].encode(&mut [0; RECORD_BYTES_MAX]).to_vec();
        let newer = [&[RECORD_VERSION + 1], &crossing[1..], b"a field of version 3"].concat();
        let folder = folder_with(&[crossing.clone(), newer, crossing]);
        let mut disk = Folder::inspect(folder.path()).unwrap();
        let looked = inspect::inspect(&mut disk, |_, _, _, _| {}).unwrap();
        assert_eq!((looked[0].scan.sums.events, looked[0].is_whole()), (3, true));
        drop(disk);
        let (events, tally) = delivered(&folder);
        assert_eq!(events, [samples()[4].clone(), samples()[4].clone()]);
        assert_eq!((tally.newer_events, tally.newer_version), (1, RECORD_VERSION + 1));
        assert_eq!((tally.damaged_events, tally.damaged_bytes, tally.set_aside), (0, 0, 0));
    }

    #[test]
    fn records_are_read_back_and_can_be_moved() {
        let records = all_kinds();
        let mut bytes = framed(&records, AT);
        assert_eq!(unframed(&bytes, AT), records);
        let there = Position { segment: 43, offset: 5000 };
        assert_eq!(unframed(&bytes, there), [], "not valid at another position");
        move_to(&mut bytes, there);
        assert_eq!(unframed(&bytes, there), records);
        assert_eq!(bytes, framed(&records, there));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_detected() {
        for record in all_kinds() {
            let bytes = framed(&[record], AT);
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut], AT), None);
                assert!(wants_more(&bytes[..cut]));
            }
            assert!(!wants_more(&bytes));
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(read(&flipped, AT), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_newer_kind_is_valid_but_unknown() {
        assert_eq!(Record::decode(&[200, 1, 2, 3]), Some(Record::Unknown(200)));
        assert_eq!(Record::decode(&[KIND_ACKED, 1]), None);
        assert_eq!(Record::decode(&[]), None);
    }

    #[test]
    fn no_begin_skips_the_same_bytes_as_a_byte_by_byte_search() {
        let slow = |bytes: &[u8]| {
            let may = |at: &usize| {
                let length = bytes.get(*at..at + 2).map(|two| u16::from_le_bytes([two[0], two[1]]));
                length.is_none_or(|length| (1..=PAYLOAD_BYTES_MAX).contains(&usize::from(length)))
            };
            (1..).find(may).unwrap()
        };
        for zeros in 0..40 {
            for end in
                [&[][..], &[0, 1], &[1, 0], &[0, 255, 255, 7, 0, 0], &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
            {
                let bytes = [&vec![0; zeros][..], end].concat();
                assert_eq!(no_begin(&bytes), slow(&bytes), "{bytes:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_begin_is_right_on_any_bytes(
            bytes in proptest::collection::vec(prop_oneof![3 => Just(0u8), 1 => 0u8..4, 1 => any::<u8>()], 0..200),
        ) {
            let end = no_begin(&bytes);
            for at in 1..end.min(bytes.len().saturating_sub(1)) {
                let length = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                prop_assert!(!(1..=PAYLOAD_BYTES_MAX).contains(&usize::from(length)), "{at} of {end}");
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1200), segment: u64, offset: u32) {
            if let Some(payload) = read(&bytes, Position { segment, offset }) {
                let _record = Record::decode(payload);
            }
            let _record = Record::decode(&bytes);
            let _more = wants_more(&bytes);
        }
    }
}
