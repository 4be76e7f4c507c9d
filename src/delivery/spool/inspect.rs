//! Inspection of a spool, for `flytrap spool`: reads it and changes nothing, whether a program writes to it or not.

use std::collections::BTreeMap;
use std::io;

use super::Class;
use super::disk::Disk;
use super::record::{Acked, Position, Record};
use super::segment::{self, Begin, DATA, Header, Named, Scan, Sums};

/// A segment, read through.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspected {
    /// Name of its file.
    pub named: Named,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// The run that it belongs to; `None`: unknown.
    pub header: Option<Header>,
    /// Whether it has its final footer: nothing more is appended.
    pub closed: bool,
    /// Its footer counts at least this many events.
    pub promised: Option<u32>,
    /// The contents found.
    pub scan: Scan,
    /// Bytes at its end that were written and are missing now.
    pub cut_bytes: u32,
}

impl Inspected {
    /// Whether all of it could be read and matches its footer.
    pub fn is_whole(&self) -> bool {
        let kept = self.cut_bytes == 0
            && match self.promised {
                Some(events) if self.closed => events == self.scan.sums.events,
                Some(events) => events <= self.scan.sums.events,
                None => true,
            };
        let aside =
            matches!(self.named, Named::Damaged(..)) || (self.header.is_none() && self.scan.sums.events > 0);
        kept && !aside && self.scan.damaged_bytes == 0 && !self.scan.unreadable
    }
}

/// Reads every segment, the oldest first, and passes its records to `each`.
///
/// # Errors
/// The folder cannot be listed. Segments that are removed in the meantime are left out.
pub fn inspect(
    disk: &mut dyn Disk,
    mut each: impl FnMut(Option<&Header>, Named, Position, &Record),
) -> io::Result<Vec<Inspected>> {
    let parse = |(name, bytes): (String, u64)| Some((Named::parse(&name)?, bytes));
    let mut files: Vec<(Named, u64)> = disk.list()?.into_iter().filter_map(parse).collect();
    files.sort_unstable_by_key(|(named, _)| named.id());
    let ends = ends(disk, &files);
    let mut all = Vec::with_capacity(files.len());
    for (named, bytes) in files {
        let id = named.id();
        if matches!(named, Named::Free(_)) {
            continue;
        }
        let Ok(mut file) = disk.open(&named.file()) else { continue };
        let begin = segment::read_begin(file.as_mut(), id).unwrap_or(Begin::Nothing);
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        let recorded_end = match named {
            Named::Segment(class, id) => ends.get(&(class, id)).copied(),
            Named::Free(_) | Named::Damaged(..) => None,
        };
        let (header, closed, promised, end) = match begin {
            Begin::Closed(footer) => (Some(footer.header), true, Some(footer.sums.events), footer.sums.used),
            Begin::Open(header, sums) => {
                (Some(header), false, (sums.used > DATA).then_some(sums.events), recorded_end.unwrap_or(size))
            }
            Begin::Nothing => (None, false, None, recorded_end.unwrap_or(size)),
        };
        let scan = segment::scan(file.as_mut(), id, end.min(size), Sums::default(), |position, payload| {
            if let Some(record) = Record::decode(payload) {
                each(header.as_ref(), named, position, &record);
            }
        });
        let least = recorded_end.unwrap_or(if header.is_some() { DATA } else { 0 });
        let cut_bytes = least.saturating_sub(scan.sums.used.min(size));
        all.push(Inspected { named, bytes, header, closed, promised, scan, cut_bytes });
    }
    Ok(all)
}

/// Where segments end, as recorded in the segments behind them.
fn ends(disk: &mut dyn Disk, files: &[(Named, u64)]) -> BTreeMap<(Class, u64), u32> {
    let mut ends = BTreeMap::new();
    for (named, _) in files {
        let Named::Segment(class, id) = *named else { continue };
        let begin = disk.open(&named.file()).and_then(|mut file| segment::read_begin(file.as_mut(), id));
        if let Ok(Begin::Closed(segment::Footer { header, .. }) | Begin::Open(header, _)) = begin
            && let Some(end) = header.follows
        {
            ends.insert((class, end.segment), end.offset);
        }
    }
    ends
}

/// How far the queue of `class` is done.
pub fn acked(all: &[Inspected], class: Class) -> Option<Acked> {
    let of_class = all.iter().filter(|segment| matches!(segment.named, Named::Segment(of, _) if of == class));
    of_class.filter_map(|segment| segment.scan.sums.acked).max()
}
