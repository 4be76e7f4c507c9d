//! One segment file: the run that it belongs to, how much of it is valid, and how its records are found again, whatever it contains.
//!
//! ```text
//!   0        512      1024     1536            4096                              used                 segment_bytes
//!   ├ header ┼ header ┼ footer ┼ (unused) ─────┼ record ─ record ─ … ─ record ──┼ old contents          ┤
//! ```
//! The header is stored twice, and again in the footer. The footer holds the end of the records and their sums, so that the next start need
//! not read them: it is written when nothing more will be appended, and occasionally before. Behind that end, and without a valid footer,
//! the last valid record is the end.

use std::io;

use serde::{Deserialize, Serialize};

use super::Class;
use super::disk::DiskFile;
use super::record::{self, Acked, FRAME_BYTES_MAX, HEAD_BYTES, Position, Record};
use crate::event::Origin;
use crate::platform::clock::ClockSyncSample;

/// Where the records begin.
pub const DATA: u32 = 4096;

/// Size of a header or footer, bytes: a sector.
const BLOCK: usize = 512;
const FOOTER_AT: u64 = 2 * BLOCK as u64;

/// The blocks before the records, bytes.
pub(super) const BLOCKS_BYTES: usize = 3 * BLOCK;

const HEADER_MAGIC: [u8; 8] = *b"FlytrapH";
const FOOTER_MAGIC: [u8; 8] = *b"FlytrapS";

/// The run that the records belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of this format.
    pub version: u8,
    /// The queue.
    pub class: Class,
    /// Number of the run, counted from the creation of the spool: orders events of different runs.
    pub run: u64,
    /// Which run of which device.
    pub origin: Origin,
    /// End of the queue's segment before this one. What is behind that end was abandoned, and is repeated here.
    pub follows: Option<Position>,
}

/// The version that this program writes.
pub const VERSION: u8 = 1;

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// Its header.
    pub header: Header,
    /// Nothing more was appended: the sums are complete. Otherwise there may be records behind `used`.
    pub last: bool,
    /// Sums of its records.
    pub sums: Sums,
}

/// Sums of the records of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// End of the last record, bytes from the start of the file.
    pub used: u32,
    /// Events among them.
    pub events: u32,
    /// The newest record of how far the queue is done.
    pub acked: Option<Acked>,
    /// The newest reading of both clocks.
    pub clock: Option<ClockSyncSample>,
}

impl Default for Sums {
    fn default() -> Self {
        Sums { used: DATA, events: 0, acked: None, clock: None }
    }
}

/// State of a segment, by its first blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Begin {
    /// Nothing more will be appended.
    Closed(Footer),
    /// The run that wrote it did not close it; these are the sums that were last written.
    Open(Header, Sums),
    /// Nothing valid: never begun, or damaged.
    Nothing,
}

/// The first blocks of segment `id`: written before its first record.
pub fn header_blocks(id: u64, header: &Header) -> Vec<u8> {
    let mut out = block(id, HEADER_MAGIC, header);
    out.extend_from_within(..);
    out
}

/// Writes the footer of segment `id`. Not synced: it only saves the next start some work.
///
/// # Errors
/// The error of the disk.
pub fn write_footer(file: &mut dyn DiskFile, id: u64, footer: &Footer) -> io::Result<()> {
    file.write_at(&block(id, FOOTER_MAGIC, footer), FOOTER_AT)
}

/// Reads the first blocks of segment `id`.
///
/// # Errors
/// The error of the disk.
pub fn read_begin(file: &mut dyn DiskFile, id: u64) -> io::Result<Begin> {
    let mut bytes = [0; BLOCKS_BYTES];
    let filled = file.read_at(&mut bytes, 0)?;
    Ok(begin(&bytes[..filled], id))
}

/// Decodes the first blocks of segment `id`.
pub fn begin(bytes: &[u8], id: u64) -> Begin {
    let at = |block: usize| bytes.get(block * BLOCK..(block + 1) * BLOCK);
    let known = |header: &Header| header.version == VERSION;
    if let Some(footer) = at(2).and_then(|bytes| unblock::<Footer>(bytes, id, FOOTER_MAGIC))
        && known(&footer.header)
        && footer.sums.used >= DATA
    {
        return if footer.last { Begin::Closed(footer) } else { Begin::Open(footer.header, footer.sums) };
    }
    let headers = (0..2).filter_map(|n| at(n).and_then(|bytes| unblock::<Header>(bytes, id, HEADER_MAGIC)));
    headers.filter(known).map(|header| Begin::Open(header, Sums::default())).next().unwrap_or(Begin::Nothing)
}

/// Whether a file with these first bytes can be one of ours, of any segment: it is still empty, or one of its blocks has our mark.
pub(super) fn looks_like_ours(bytes: &[u8]) -> bool {
    let marked = |block: usize, magic: [u8; 8]| {
        bytes.get(block * BLOCK..).is_some_and(|bytes| bytes.starts_with(&magic))
    };
    bytes.iter().all(|byte| *byte == 0)
        || marked(0, HEADER_MAGIC)
        || marked(1, HEADER_MAGIC)
        || marked(2, FOOTER_MAGIC)
}

fn block<T: Serialize>(id: u64, magic: [u8; 8], what: &T) -> Vec<u8> {
    let mut out = vec![0; BLOCK];
    let used = postcard::to_slice(what, &mut out[14..]).expect("names are short: see the test").len();
    out[..8].copy_from_slice(&magic);
    out[8..10].copy_from_slice(&(used as u16).to_le_bytes());
    let sum = block_checksum(id, &out[..10], &out[14..14 + used]);
    out[10..14].copy_from_slice(&sum.to_le_bytes());
    out
}

fn unblock<T: for<'a> Deserialize<'a>>(bytes: &[u8], id: u64, magic: [u8; 8]) -> Option<T> {
    let used = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let body = bytes.get(14..14 + used)?;
    let stored = u32::from_le_bytes([bytes[10], bytes[11], bytes[12], bytes[13]]);
    if bytes[..8] != magic || block_checksum(id, &bytes[..10], body) != stored {
        return None;
    }
    match postcard::take_from_bytes(body) {
        Ok((what, [])) => Some(what),
        Ok(_) | Err(_) => None,
    }
}

fn block_checksum(id: u64, head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&id.to_le_bytes()), head), body)
}

/// Size of a reader's window, bytes.
const WINDOW_BYTES: usize = 32 << 10;
const _: () = assert!(WINDOW_BYTES >= 4 * FRAME_BYTES_MAX);

/// Unreadable parts are skipped in steps of this many bytes: a page.
const UNREADABLE_STEP: u32 = 4096;

/// How far behind the last valid record the next one is searched for if the end is unknown. Damage to committed records is a bit, a sector
/// or a page; behind that there are only uncommitted and old bytes.
const RESYNC_BYTES: u32 = 64 << 10;

/// A record that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSpan {
    /// Where it begins. Bytes between the start of the search and it are damaged.
    pub at: u32,
    /// Where the next one begins.
    pub next: u32,
}

/// Reads records in sequence, with a window of fixed size.
#[derive(Debug)]
pub struct Reader {
    window: Vec<u8>,
    /// The file that the window shows, and the window's offset in it.
    position: Option<Position>,
    /// Whether unreadable parts are skipped like damage.
    pub lenient: bool,
    /// Some part could not be read so far.
    pub unreadable: bool,
}

/// The disk cannot read the bytes that are needed next; it may be able to later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

impl Default for Reader {
    fn default() -> Self {
        Reader { window: Vec::with_capacity(WINDOW_BYTES), position: None, lenient: false, unreadable: false }
    }
}

impl Reader {
    /// Discards what was read: the file has changed.
    pub fn forget(&mut self) {
        self.position = None;
    }

    /// The first valid record of segment `id` that begins at or after `from` and ends at or before `end`. Invalid bytes are skipped.
    ///
    /// The disk cannot read, and this reader is not lenient.
    /// The disk cannot read, and this reader is not lenient.
    pub fn next(
        &mut self,
        file: &mut dyn DiskFile,
        id: u64,
        from: u32,
        end: u32,
    ) -> Result<Option<RecordSpan>, Unreadable> {
        let mut at = from;
        while end.saturating_sub(at) > HEAD_BYTES as u32 {
            if let Err(readable_from) = self.fill(file, id, at, end) {
                if !self.lenient {
                    return Err(Unreadable);
                }
                at = readable_from;
                continue;
            }
            let bytes = self.rest(at);
            if let Some(payload) = record::read(bytes, Position { segment: id, offset: at }) {
                let next = at + record::frame_bytes(payload.len()) as u32;
                return Ok((next <= end).then_some(RecordSpan { at, next }));
            }
            if bytes.is_empty() {
                return Ok(None); // The file is shorter than it should be.
            }
            at += record::no_begin(bytes) as u32;
        }
        Ok(None)
    }

    /// The payload of a record that was just found.
    pub fn payload(&self, found: RecordSpan) -> &[u8] {
        let bytes = self.rest(found.at);
        &bytes[HEAD_BYTES..(found.next - found.at) as usize]
    }

    fn rest(&self, at: u32) -> &[u8] {
        let start = self.position.map_or(0, |position| position.offset);
        self.window.get(at.saturating_sub(start) as usize..).unwrap_or_default()
    }

    /// Makes the window begin at or before `at`, and hold the largest record that can be there.
    ///
    /// # Errors
    /// The offset at which to continue if the bytes there cannot be read.
    fn fill(&mut self, file: &mut dyn DiskFile, id: u64, at: u32, end: u32) -> Result<(), u32> {
        if let Some(position) = self.position
            && position.segment == id
            && position.offset <= at
        {
            let window_end = position.offset + self.window.len() as u32;
            if at + FRAME_BYTES_MAX as u32 <= window_end || (at < window_end && window_end >= end) {
                return Ok(());
            }
        }
        let unreadable_to = (at / UNREADABLE_STEP + 1) * UNREADABLE_STEP;
        for wanted in [WINDOW_BYTES, (unreadable_to - at) as usize] {
            self.window.resize(wanted.min((end - at) as usize), 0);
            if let Ok(filled) = file.read_at(&mut self.window, u64::from(at)) {
                self.window.truncate(filled);
                self.position = Some(Position { segment: id, offset: at });
                return Ok(());
            }
        }
        (self.position, self.unreadable) = (None, true);
        Err(unreadable_to)
    }
}

/// Result of a scan of a whole segment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scan {
    /// Sums of its records.
    pub sums: Sums,
    /// Invalid bytes between records.
    pub damaged_bytes: u32,
    /// Records of kinds that this version does not know, or with invalid contents.
    pub unknown: u32,
    /// The disk could not read a part: the result is incomplete.
    pub unreadable: bool,
}

/// Scans segment `id`, whose file has `size` bytes, from the end of `sums`, and passes each payload to `each`.
pub fn scan(
    file: &mut dyn DiskFile,
    id: u64,
    size: u32,
    sums: Sums,
    mut each: impl FnMut(Position, &[u8]),
) -> Scan {
    let mut reader = Reader { lenient: true, ..Reader::default() };
    let size = size.min(SIZE_MAX);
    let mut scan = Scan { sums, ..Scan::default() };
    loop {
        let end = size.min(scan.sums.used.saturating_add(RESYNC_BYTES));
        let Ok(Some(found)) = reader.next(file, id, scan.sums.used, end) else { break };
        scan.damaged_bytes += found.at - scan.sums.used;
        scan.sums.used = found.next;
        let payload = reader.payload(found);
        if record::is_event(payload) {
            scan.sums.events += 1;
        } else {
            match Record::decode(payload) {
                Some(Record::Acked(acked)) if acked.position.segment <= id => {
                    scan.sums.acked = scan.sums.acked.max(Some(acked));
                }
                Some(Record::Clock(map)) => scan.sums.clock = Some(map),
                Some(
                    Record::Event(_)
                    | Record::Dead(_)
                    | Record::Newer(_)
                    | Record::Unknown(_)
                    | Record::Acked(_),
                )
                | None => {
                    scan.unknown += 1;
                }
            }
        }
        each(Position { segment: id, offset: found.at }, payload);
    }
    Scan { unreadable: reader.unreadable, ..scan }
}

/// No segment is larger: sums fit into 32 bits.
pub(super) const SIZE_MAX: u32 = 1 << 30;

impl Sums {
    /// Whether segment `id` of this many bytes can have these sums.
    pub fn can_be_of(&self, id: u64, size: u64) -> bool {
        u64::from(self.used) <= size && self.could_be_of(id)
    }

    /// Whether segment `id` can have had these sums, whatever the size of its file now.
    pub fn could_be_of(&self, id: u64) -> bool {
        // A record has at least a header and a payload of two bytes.
        self.used <= SIZE_MAX
            && self.events <= self.used / (HEAD_BYTES as u32 + 2)
            && self.acked.is_none_or(|acked| acked.position.segment <= id)
    }
}

/// Numbers from here on are not ours: no spool ever reaches that many segments, and the next number must fit.
pub(super) const ID_END: u64 = 1 << 62;

/// Meaning of a file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A segment of a queue.
    Segment(Class, u64),
    /// A file without contents, kept for the next segment.
    Free(u64),
    /// A segment that was set aside because a part of it is damaged.
    Damaged(Class, u64),
}

impl Named {
    /// The name.
    pub fn file(self) -> String {
        match self {
            Named::Segment(class, id) => format!("{}-{id:016x}.seg", class.name()),
            Named::Free(id) => format!("free-{id:016x}.seg"),
            Named::Damaged(class, id) => format!("damaged-{}-{id:016x}.seg", class.name()),
        }
    }

    /// The number in it.
    pub const fn id(self) -> u64 {
        match self {
            Named::Segment(_, id) | Named::Free(id) | Named::Damaged(_, id) => id,
        }
    }

    /// Parses a name; `None` if it is not one of ours.
    pub fn parse(name: &str) -> Option<Named> {
        let (front, hex) = name.strip_suffix(".seg")?.rsplit_once('-')?;
        let small = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != 16 || !hex.bytes().all(small) {
            return None;
        }
        let id = u64::from_str_radix(hex, 16).ok().filter(|id| *id < ID_END)?;
        let class = |name: &str| Class::ALL.into_iter().find(|class| class.name() == name);
        match front.strip_prefix("damaged-") {
            Some(name) => Some(Named::Damaged(class(name)?, id)),
            None if front == "free" => Some(Named::Free(id)),
            None => Some(Named::Segment(class(front)?, id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::spool::record::PAYLOAD_BYTES_MAX;
    use crate::delivery::spool::record::tests::all_kinds;
    use crate::event::fixed;
    use crate::platform::clock::{Mono, Wall};
    use proptest::prelude::*;

    /// A file in memory, with unreadable pages.
    #[derive(Debug, Clone, Default)]
    struct Bytes {
        bytes: Vec<u8>,
        unreadable: Vec<u64>,
    }

    impl DiskFile for Bytes {
        fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let end = offset + buffer.len() as u64;
            if self.unreadable.iter().any(|page| page * 4096 < end && (page + 1) * 4096 > offset) {
                return Err(io::ErrorKind::Other.into());
            }
            let bytes = self.bytes.get(offset as usize..).unwrap_or_default();
            let filled = bytes.len().min(buffer.len());
            buffer[..filled].copy_from_slice(&bytes[..filled]);
            Ok(filled)
        }
        fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let end = offset as usize + bytes.len();
            self.bytes.resize(self.bytes.len().max(end), 0);
            self.bytes[offset as usize..end].copy_from_slice(bytes);
            Ok(())
        }
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn set_len(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    fn header() -> Header {
        let origin = Origin::new(&"n".repeat(32), &"f".repeat(36), Mono::from_nanos(u64::MAX));
        Header {
            version: VERSION,
            class: Class::Counts,
            run: u64::MAX,
            origin,
            follows: Some(Position { segment: u64::MAX, offset: u32::MAX }),
        }
    }

    fn footer() -> Footer {
        let acked = Acked { position: Position { segment: u64::MAX, offset: u32::MAX }, events: u32::MAX };
        let wall = Wall { unix_nanos: i64::MIN, synchronised: true };
        let clock = Some(ClockSyncSample { mono: Mono::from_nanos(u64::MAX), wall });
        Footer {
            header: header(),
            last: true,
            sums: Sums { used: u32::MAX, events: u32::MAX, acked: Some(acked), clock },
        }
    }

    /// A segment of 128 kB with `records`, and the offset of each.
    fn file(id: u64, records: &[Record]) -> (Bytes, Vec<u32>) {
        let (mut out, mut positions) = (Vec::new(), Vec::new());
        for record in records {
            let offset = DATA + out.len() as u32;
            positions.push(offset);
            record::write(
                &mut out,
                Position { segment: id, offset },
                record.encode(&mut [0; PAYLOAD_BYTES_MAX]),
            );
        }
        let mut file = Bytes { bytes: vec![0; 128 << 10], ..Bytes::default() };
        file.write_at(&header_blocks(id, &header()), 0).unwrap();
        file.write_at(&out, u64::from(DATA)).unwrap();
        (file, positions)
    }

    #[test]
    fn headers_and_footers_are_read_back_only_under_their_own_number() {
        let (mut file, _) = file(7, &[]);
        assert_eq!(read_begin(&mut file, 7).unwrap(), Begin::Open(header(), Sums::default()));
        assert_eq!(read_begin(&mut file, 8).unwrap(), Begin::Nothing);
        file.bytes[30] ^= 1;
        assert_eq!(
            read_begin(&mut file, 7).unwrap(),
            Begin::Open(header(), Sums::default()),
            "the second copy"
        );
        file.bytes[BLOCK + 30] ^= 1;
        assert_eq!(read_begin(&mut file, 7).unwrap(), Begin::Nothing);
        write_footer(&mut file, 7, &footer()).unwrap();
        assert_eq!(read_begin(&mut file, 7).unwrap(), Begin::Closed(footer()), "the third copy");
        assert_eq!(read_begin(&mut file, 8).unwrap(), Begin::Nothing);
        for short in 0..3 * BLOCK {
            let _begin = begin(&file.bytes[..short], 7);
        }
    }

    /// The form of version 1 on disk.
    #[test]
    fn golden_blocks_stay_readable() {
        let golden = include_str!("../../../tests/data/spool-blocks-v1.hex");
        let small = Header {
            version: 1,
            class: Class::Details,
            run: 3,
            origin: Origin { device: fixed("mast-7"), boot: fixed("3f2a91c07d414c5e-12345") },
            follows: None,
        };
        let hex = |bytes: &[u8]| {
            let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            bytes[..end].iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        let footer = Footer {
            header: small.clone(),
            last: false,
            sums: Sums { used: 5000, events: 12, ..Sums::default() },
        };
        let ours = [hex(&header_blocks(42, &small)[..BLOCK]), hex(&block(42, FOOTER_MAGIC, &footer))];
        assert_eq!(golden.lines().collect::<Vec<_>>(), ours, "the form on disk changed");
    }

    #[test]
    fn a_scan_finds_every_record_around_damage() {
        let kinds = all_kinds();
        let records: Vec<Record> = (0..20).flat_map(|_| kinds.clone()).collect();
        let (whole, positions) = file(77, &records);
        let size = whole.bytes.len() as u32;
        let found = |mut file: Bytes| {
            let mut found = Vec::new();
            let scan = scan(&mut file, 77, size, Sums::default(), |position, payload| {
                found.push((position.offset, Record::decode(payload).unwrap()));
            });
            (scan, found)
        };
        let all: Vec<_> = positions.iter().copied().zip(records.iter().cloned()).collect();
        let (sums, shown) = found(whole.clone());
        assert!(shown == all && sums.damaged_bytes == 0 && sums.unknown == 0);
        assert_eq!(sums.sums.events, 20 * (kinds.len() as u32 - 2));
        for hit in [0, 1, 50, records.len() - 2] {
            let mut file = whole.clone();
            file.bytes[positions[hit] as usize + 9] ^= 0x10;
            let (damaged, shown) = found(file);
            let others: Vec<_> =
                all.iter().filter(|(position, _)| *position != positions[hit]).cloned().collect();
            assert!(shown == others && damaged.damaged_bytes == positions[hit + 1] - positions[hit], "{hit}");
        }
        let mut file = whole;
        file.unreadable = vec![2];
        let (damaged, shown) = found(file);
        assert!(damaged.damaged_bytes >= 4096 && damaged.damaged_bytes < 4096 + 2 * FRAME_BYTES_MAX as u32);
        let beside = all.iter().enumerate().filter(|(n, (position, _))| {
            let end = positions.get(n + 1).copied().unwrap_or(damaged.sums.used);
            end <= 8192 || *position >= 12288
        });
        assert_eq!(shown, beside.map(|(_, found)| found.clone()).collect::<Vec<_>>());
    }

    #[test]
    fn file_names_are_parsed_and_unknown_ones_rejected() {
        for named in [
            Named::Segment(Class::Alerts, 0),
            Named::Segment(Class::Dead, ID_END - 1),
            Named::Free(17),
            Named::Damaged(Class::Details, 255),
        ] {
            assert_eq!(Named::parse(&named.file()), Some(named));
        }
        assert_eq!(Named::Segment(Class::Counts, 255).file(), "counts-00000000000000ff.seg");
        for other in [
            "",
            "lock",
            "counts-ff.seg",
            "counts-00000000000000FF.seg",
            "x-00000000000000ff.seg",
            "counts-00000000000000ff",
        ] {
            assert_eq!(Named::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_scanned(bytes in proptest::collection::vec(any::<u8>(), 0..20_000), id: u64) {
            let size = bytes.len() as u32;
            let _begin = begin(&bytes, id);
            let mut file = Bytes { bytes, ..Bytes::default() };
            let scan = scan(&mut file, id, size, Sums::default(), |_, _| {});
            prop_assert!(scan.sums.used <= size.max(DATA));
        }
    }
}
