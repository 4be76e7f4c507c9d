//! What a disk holds when a spool is opened: every segment is looked at once, whatever is in it. Decides nothing that needs the
//! queues; [`super::log`] adopts what is found.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::class_queue::{Finished, Run};
use super::disk::{Disk, DiskFile};
use super::files::{DamagedFile, FREE_FILES_MAX};
use super::record::{Acked, Place};
use super::segment::{self, Begin, Footer, Header, ID_END, Named, Scan, Sums};
use super::{Class, Params};
use crate::platform::clock::ClockSyncSample;

/// A number that nobody vouches for counts as one of ours up to here: a segment each second for 30 000 years.
const PLAUSIBLE_IDS: u64 = 1 << 40;

/// What was found when a spool was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Segments with events.
    pub segments: u64,
    /// Events that are not delivered yet.
    pub events: u64,
    /// Segments without a last footer: the last run did not end well. They were read through.
    pub unclosed: u64,
    /// Bytes between records that are no records, or are missing.
    pub damaged_bytes: u64,
    /// Events that are lost, as footers promise more than is there.
    pub damaged_events: u64,
    /// Files that belong to nobody any more, or cannot be read: they are left or set aside.
    pub set_aside: u64,
    /// Files that are called like segments and that nobody here wrote: they are left alone.
    pub foreign: u64,
    /// The best reading of the calendar that an earlier process of this boot left.
    pub clock: Option<ClockSyncSample>,
}

/// A segment whose file has fewer events than its footer promises.
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
            Some(acked) if acked.place.segment > self.id => self.promised,
            Some(acked) if acked.place.segment == self.id => acked.events,
            Some(_) | None => 0,
        };
        u64::from(self.promised.saturating_sub(done.max(self.found)))
    }
}

/// What is known of one class.
#[derive(Default)]
pub(super) struct ClassStock {
    /// Its segments, the oldest first.
    pub(super) segments: VecDeque<Finished>,
    pub(super) acked: Option<Acked>,
    /// Where the segment before the one that was looked at last ends, as that one says.
    follows: Option<Place>,
    short: Vec<Short>,
}

impl ClassStock {
    /// Where segment `id` ends, if the one behind it says so.
    fn end_of(&self, id: u64) -> Option<u32> {
        let end = self.follows.filter(|end| end.segment == id && end.offset <= segment::SIZE_MAX);
        end.map(|end| end.offset)
    }
}

/// What a disk holds.
#[derive(Default)]
pub(super) struct Stock {
    pub(super) recovered: Recovered,
    pub(super) classes: [ClassStock; Class::ALL.len()],
    pub(super) free: Vec<u64>,
    /// Files of ours without contents.
    pub(super) junk: Vec<Named>,
    /// Files with records that nobody knows the owner of, or that cannot be read.
    pub(super) set_aside: Vec<DamagedFile>,
    pub(super) damaged: VecDeque<DamagedFile>,
    /// Footers for segments whose runs did not get to writing them.
    pub(super) unclosed: Vec<(Class, Footer, u64)>,
    /// A part of the disk could not be read: it may be readable later.
    pub(super) unreadable: bool,
    /// Number for this run.
    pub(super) run: u64,
    /// The first number for new segments.
    pub(super) next_id: u64,
}

/// Looks at everything on `disk`.
///
/// # Errors
/// The disk cannot be listed, or no numbers are left for new segments.
pub(super) fn take_stock(disk: &mut dyn Disk, params: &Params) -> io::Result<Stock> {
    let parse = |(name, bytes): (String, u64)| Some((Named::parse(&name)?, bytes));
    let mut files: Vec<(Named, u64)> = disk.list()?.into_iter().filter_map(parse).collect();
    files.sort_unstable_by_key(|(named, _)| named.id());
    let mut stock = Stock::default();
    // The newest first: each says where the one before it ends.
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
        let acked = class.acked.map_or(0, |acked| acked.place.segment.saturating_add(1));
        stock.next_id = stock.next_id.max(acked);
    }
    if stock.next_id >= ID_END {
        return Err(io::Error::other("a segment has the last number that there is: move it elsewhere"));
    }
    Ok(stock)
}

/// Whether we made a file, by its first bytes: nothing, as a file system gives it to us, or one of our blocks, of whatever segment.
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
                return self.set_aside.push(DamagedFile { class, id, bytes });
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

    /// A segment whose header says whose it is.
    fn add_known(
        &mut self,
        file: &mut dyn DiskFile,
        (id, bytes): (u64, u64),
        header: &Header,
        noted: Sums,
        closed: bool,
    ) {
        let of_class = &mut self.classes[header.class as usize];
        // What the segment behind this one says about its end.
        let told_end = of_class.end_of(id);
        of_class.follows.clone_from(&header.follows);
        let run = Run { number: header.run, origin: Arc::new(header.origin.clone()) };
        let mut finished =
            Finished { id, run, sums: noted, bytes, damaged: false, short: false, torn: false };
        let believed = noted.can_be_of(id, bytes);
        if !closed || !believed {
            // Sums that cannot be are not believed: it is read through.
            let from = if believed { noted } else { Sums::default() };
            let size = u32::try_from(bytes).unwrap_or(u32::MAX);
            let end = told_end.map_or(size, |end| size.min(end));
            let scan = segment::scan(file, id, end, from, |_, _| {});
            self.recovered.unclosed += 1;
            // Committed bytes that are not there any more: the file was cut short.
            let cut = told_end.unwrap_or(segment::DATA).saturating_sub(scan.sums.used.min(size));
            let damaged_bytes = scan.damaged_bytes + cut;
            self.recovered.damaged_bytes += u64::from(damaged_bytes);
            self.unreadable |= scan.unreadable;
            let promised = if noted.could_be_of(id) { noted.events } else { 0 };
            if promised > scan.sums.events && !scan.unreadable {
                of_class.short.push(Short { id, promised, found: scan.sums.events });
            }
            finished.damaged = damaged_bytes > 0 || scan.unreadable || promised > scan.sums.events;
            finished.short = scan.unreadable;
            finished.torn = told_end.is_some_and(|end| end < size);
            finished.sums = scan.sums;
            if !scan.unreadable {
                // Else the next start may see more of it.
                let footer = Footer { header: header.clone(), last: true, sums: scan.sums };
                self.unclosed.push((header.class, footer, id));
            }
        }
        of_class.acked = of_class.acked.max(finished.sums.acked);
        of_class.segments.push_front(finished);
    }

    /// A file that is called like a segment and does not say whose it is: never begun, damaged, or not ours.
    fn add_nameless(
        &mut self,
        disk: &mut dyn Disk,
        file: &mut dyn DiskFile,
        (class, id, bytes): (Class, u64, u64),
        params: &Params,
    ) {
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        let told_end = self.classes[class as usize].end_of(id);
        let end = told_end.map_or(size, |end| size.min(end));
        let scan: Scan = segment::scan(file, id, end, Sums::default(), |_, _| {});
        let promised = told_end.is_some_and(|end| end > segment::DATA);
        let named = Named::Segment(class, id);
        if scan.unreadable {
            self.unreadable = true;
            self.set_aside.push(DamagedFile { class, id, bytes });
        } else if scan.sums.events > 0 || promised {
            self.recovered.damaged_bytes += u64::from(told_end.map_or(0, |end| end.saturating_sub(size)));
            self.set_aside.push(DamagedFile { class, id, bytes });
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
