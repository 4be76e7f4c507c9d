//! Looking at a spool without touching it, while a program writes to it or not: for people.

use std::io;

use super::Class;
use super::disk::Disk;
use super::record::{Acked, Place, Record};
use super::segment::{self, Begin, Header, Named, Scan, Sums};

/// A segment, read through.
#[derive(Debug, Clone, PartialEq)]
pub struct Looked {
    /// What its file is called.
    pub named: Named,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// Whose it is; `None`: nobody knows.
    pub header: Option<Header>,
    /// Whether its run got to sealing it.
    pub sealed: bool,
    /// Its seal promises so many events.
    pub promised: Option<u32>,
    /// What was found.
    pub scan: Scan,
}

impl Looked {
    /// Whether all of it could be read, and is what its seal says.
    pub fn is_whole(&self) -> bool {
        let kept = self.promised.is_none_or(|events| events == self.scan.sums.events);
        let aside =
            matches!(self.named, Named::Damaged(..)) || (self.header.is_none() && self.scan.sums.events > 0);
        kept && !aside && self.scan.damaged_bytes == 0 && !self.scan.unreadable
    }
}

/// Reads every segment through, the oldest first, and shows its records to `each`.
///
/// # Errors
/// The folder cannot be listed. Segments that go while this looks are left out.
pub fn look(
    disk: &mut dyn Disk,
    mut each: impl FnMut(Option<&Header>, Named, Place, &Record),
) -> io::Result<Vec<Looked>> {
    let mut files: Vec<(Named, u64)> =
        disk.list()?.into_iter().filter_map(|(name, bytes)| Some((Named::parse(&name)?, bytes))).collect();
    files.sort_unstable_by_key(|(named, _)| named.id());
    let mut all = Vec::with_capacity(files.len());
    for (named, bytes) in files {
        let id = named.id();
        if matches!(named, Named::Free(_)) {
            continue;
        }
        let Ok(mut file) = disk.open(&named.file()) else { continue };
        let begin = segment::read_begin(file.as_mut(), id).unwrap_or(Begin::Nothing);
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        let (header, sealed, promised, end) = match begin {
            Begin::Sealed(seal) => {
                (Some(seal.header), true, Some(seal.sums.events), seal.sums.used.min(size))
            }
            Begin::Open(header, _) => (Some(header), false, None, size),
            Begin::Nothing => (None, false, None, size),
        };
        let scan = segment::scan(file.as_mut(), id, end, Sums::default(), |place, payload| {
            if let Some(record) = Record::decode(payload) {
                each(header.as_ref(), named, place, &record);
            }
        });
        all.push(Looked { named, bytes, header, sealed, promised, scan });
    }
    Ok(all)
}

/// How far the lane of `class` is done.
pub fn acked(all: &[Looked], class: Class) -> Option<Acked> {
    let of_class = all.iter().filter(|looked| matches!(looked.named, Named::Segment(of, _) if of == class));
    of_class.filter_map(|looked| looked.scan.sums.acked).max()
}
