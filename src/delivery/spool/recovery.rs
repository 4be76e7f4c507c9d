//! Examines a disk when a spool is opened: reads every segment once, whatever it contains. Decides nothing that needs the queues;
//! [`super::log`] adopts what is found.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::class_queue::{Finished, Run};
use super::disk::{Disk, DiskFile};
use super::files::{DamagedFile, FREE_FILES_MAX};
use super::record::{Acked, Position};
use super::segment::{self, Begin, Footer, Header, ID_END, Named, Scan, Sums};
use super::{Class, Params};
use crate::platform::clock::ClockSyncSample;

/// Highest number that counts as ours if nothing else confirms it: a segment each second for 30 000 years.
const PLAUSIBLE_IDS: u64 = 1 << 40;

/// Summary of what was found when a spool was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Segments with events.
    pub segments: u64,
    /// Events that are not delivered yet.
    pub events: u64,
    /// Segments without a final footer: the last run ended uncleanly. They were read through.
    pub unclosed: u64,
    /// Invalid bytes between records, and missing bytes.
    pub damaged_bytes: u64,
    /// Lost events: footers count more than were found.
    pub damaged_events: u64,
    /// Truncated, damaged or unreadable segments without the footer that counts their events: how many are lost is unknown.
    pub lost_segments: u64,
    /// Files of an unknown run, or unreadable ones: they are left or set aside.
    pub set_aside: u64,
    /// Files with names of segments that this program did not write: they are left alone.
    pub foreign: u64,
    /// The best calendar reading that an earlier process of this boot left.
    pub clock: Option<ClockSyncSample>,
}

/// A segment whose file has fewer events than its footer counts.
#[derive(Debug, Clone, Copy)]
struct Short {
    id: u64,
    promised: u32,
    found: u32,
}

impl Short {
    /// Events that are lost, if the queue is done up to `acked`.
    fn lost(&self, acked: Option<Acked>) -> u64 {
        let done = match acked {
            Some(acked) if acked.position.segment > self.id => self.promised,
            Some(acked) if acked.position.segment == self.id => acked.events,
            Some(_) | None => 0,
        };
        u64::from(self.promised.saturating_sub(done.max(self.found)))
    }
}

/// What is known about one class.
#[derive(Default)]
pub(super) struct ClassStock {
    /// Its segments, the oldest first.
    pub(super) segments: VecDeque<Finished>,
    pub(super) acked: Option<Acked>,
    /// End of the segment before the last one examined, as recorded in that one.
    follows: Option<Position>,
    short: Vec<Short>,
}

impl ClassStock {
    /// End of segment `id`, if the segment behind it records it.
    fn end_of(&self, id: u64) -> Option<u32> {
        let end = self.follows.filter(|end| end.segment == id && end.offset <= segment::SIZE_MAX);
        end.map(|end| end.offset)
    }
}

/// Contents of a disk.
#[derive(Default)]
pub(super) struct Stock {
    pub(super) recovered: Recovered,
    pub(super) classes: [ClassStock; Class::ALL.len()],
    pub(super) free: Vec<u64>,
    /// Our own files without contents.
    pub(super) junk: Vec<Named>,
    /// Files with records of an unknown run, or unreadable ones.
    pub(super) set_aside: Vec<DamagedFile>,
    pub(super) damaged: VecDeque<DamagedFile>,
    /// Footers for segments whose runs did not write them.
    pub(super) unclosed: Vec<(Class, Footer, u64)>,
    /// A part of the disk could not be read: it may be readable later.
    pub(super) unreadable: bool,
    /// Number for this run.
    pub(super) run: u64,
    /// The first number for new segments.
    pub(super) next_id: u64,
}

/// Examines everything on `disk`.
///
/// # Errors
/// The disk cannot be listed, or no numbers are left for new segments.
pub(super) fn take_stock(disk: &mut dyn Disk, params: &Params) -> io::Result<Stock> {
    let parse = |(name, bytes): (String, u64)| Some((Named::parse(&name)?, bytes));
    let mut files: Vec<(Named, u64)> = disk.list()?.into_iter().filter_map(parse).collect();
    files.sort_unstable_by_key(|(named, _)| named.id());
    let mut stock = Stock::default();
    // The newest first: each records where the one before it ends.
    for (named, bytes) in files.into_iter().rev() {
        if named.id() < PLAUSIBLE_IDS {
            stock.next_id = stock.next_id.max(named.id() + 1);
        }
        match named {
            Named::Segment(class, id) => stock.add_segment(disk, class, id, bytes, params),
            Named::Free(id) => {
                if !is_ours(disk, named) {
                    stock.recovered.foreign += 1;
                } else if bytes == u64::from(params.segment_bytes) {
                    stock.free.push(id);
                } else {
                    stock.junk.push(named);
                }
            }
            Named::Damaged(class, id) => stock.damaged.push_front(DamagedFile { class, id, bytes }),
        }
    }
    for class in &stock.classes {
        stock.recovered.damaged_events +=
            class.short.iter().map(|short| short.lost(class.acked)).sum::<u64>();
        let acked = class.acked.map_or(0, |acked| acked.position.segment.saturating_add(1));
        stock.next_id = stock.next_id.max(acked);
    }
    if stock.next_id >= ID_END {
        return Err(io::Error::other("a segment has the last number that there is: move it elsewhere"));
    }
    Ok(stock)
}

/// Whether this program created a file, by its first bytes: empty, as a file system creates it, or one of our blocks, of any segment.
fn is_ours(disk: &mut dyn Disk, named: Named) -> bool {
    let mut bytes = [0; segment::BLOCKS_BYTES];
    let Ok(filled) = disk.open(&named.file()).and_then(|mut file| file.read_at(&mut bytes, 0)) else {
        return false;
    };
    segment::looks_like_ours(&bytes[..filled])
}

impl Stock {
    fn add_segment(&mut self, disk: &mut dyn Disk, class: Class, id: u64, bytes: u64, params: &Params) {
        let begin = disk.open(&Named::Segment(class, id).file()).and_then(|mut file| {
            let begin = segment::read_begin(file.as_mut(), id)?;
            Ok((file, begin))
        });
        let (mut file, begin) = match begin {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => {
                self.unreadable = true;
                return self.lose(DamagedFile { class, id, bytes });
            }
        };
        let (header, sums, closed) = match begin {
            Begin::Closed(Footer { header, sums, .. }) if header.class == class => (header, sums, true),
            Begin::Open(header, sums) if header.class == class => (header, sums, false),
            Begin::Closed(_) | Begin::Open(..) | Begin::Nothing => {
                return self.add_nameless(disk, file.as_mut(), (class, id, bytes), params);
            }
        };
        self.next_id = self.next_id.max(id + 1);
        self.run = self.run.max(header.run.saturating_add(1));
        self.add_known(file.as_mut(), (id, bytes), &header, sums, closed);
    }

    /// Sets a segment aside whose events nobody can count any more. It is no loss if the queue is already beyond it.
    fn lose(&mut self, file: DamagedFile) {
        let acked = self.classes[file.class as usize].acked;
        self.recovered.lost_segments +=
            u64::from(acked.is_none_or(|acked| acked.position.segment <= file.id));
        self.set_aside.push(file);
    }

    /// A segment whose header names its run.
    fn add_known(
        &mut self,
        file: &mut dyn DiskFile,
        (id, bytes): (u64, u64),
        header: &Header,
        noted: Sums,
        closed: bool,
    ) {
        let of_class = &mut self.classes[header.class as usize];
        // End of this segment, as recorded in the one behind it.
        let recorded_end = of_class.end_of(id);
        of_class.follows.clone_from(&header.follows);
        let run = Run { number: header.run, origin: Arc::new(header.origin.clone()) };
        let mut finished =
            Finished { id, run, sums: noted, bytes, damaged: false, short: false, torn: false };
        let believed = noted.can_be_of(id, bytes);
        if !closed || !believed {
            // Impossible sums are ignored: the segment is read through.
            let from = if believed { noted } else { Sums::default() };
            let size = u32::try_from(bytes).unwrap_or(u32::MAX);
            let end = recorded_end.map_or(size, |end| size.min(end));
            let scan = segment::scan(file, id, end, from, |_, _| {});
            self.recovered.unclosed += 1;
            // Committed bytes are missing: the file was truncated.
            let cut = recorded_end.unwrap_or(segment::DATA).saturating_sub(scan.sums.used.min(size));
            let damaged_bytes = scan.damaged_bytes + cut;
            self.recovered.damaged_bytes += u64::from(damaged_bytes);
            self.unreadable |= scan.unreadable;
            let promised = if noted.could_be_of(id) { noted.events } else { 0 };
            if promised > scan.sums.events && !scan.unreadable {
                of_class.short.push(Short { id, promised, found: scan.sums.events });
            } else if let Some(offset) = recorded_end.filter(|end| *end > segment::DATA && cut > 0)
                && !scan.unreadable
            {
                // The footer, which counts the events, is missing too.
                let end = Position { segment: id, offset };
                let is_done = of_class.acked.is_some_and(|acked| acked.position >= end);
                self.recovered.lost_segments += u64::from(!is_done);
            }
            finished.damaged = damaged_bytes > 0 || scan.unreadable || promised > scan.sums.events;
            finished.short = scan.unreadable;
            finished.torn = recorded_end.is_some_and(|end| end < size);
            finished.sums = scan.sums;
            if !scan.unreadable {
                // Otherwise the next start may read more of it.
                let footer = Footer { header: header.clone(), last: true, sums: scan.sums };
                self.unclosed.push((header.class, footer, id));
            }
        }
        of_class.acked = of_class.acked.max(finished.sums.acked);
        of_class.segments.push_front(finished);
    }

    /// A file with the name of a segment that does not name its run: never begun, damaged, or not ours.
    fn add_nameless(
        &mut self,
        disk: &mut dyn Disk,
        file: &mut dyn DiskFile,
        (class, id, bytes): (Class, u64, u64),
        params: &Params,
    ) {
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        let recorded_end = self.classes[class as usize].end_of(id);
        let end = recorded_end.map_or(size, |end| size.min(end));
        let scan: Scan = segment::scan(file, id, end, Sums::default(), |_, _| {});
        let promised = recorded_end.is_some_and(|end| end > segment::DATA);
        let named = Named::Segment(class, id);
        if scan.unreadable {
            self.unreadable = true;
            self.lose(DamagedFile { class, id, bytes });
        } else if scan.sums.events > 0 || promised {
            self.recovered.damaged_bytes += u64::from(recorded_end.map_or(0, |end| end.saturating_sub(size)));
            self.lose(DamagedFile { class, id, bytes });
        } else if !is_ours(disk, named) {
            self.recovered.foreign += 1;
        } else if bytes == u64::from(params.segment_bytes) && self.free.len() < FREE_FILES_MAX {
            if disk.rename(&named.file(), &Named::Free(id).file()).is_ok() {
                self.free.push(id);
            }
        } else {
            self.junk.push(named);
        }
    }
}
