//! Reading a queue: the next event, from a finished segment or from the active one, and the reaction when the disk cannot read it.

use std::io;
use std::time::Duration;

use super::{ClassQueue, InFlight, Peeked, Run};
use crate::delivery::spool::Class;
use crate::delivery::spool::disk::Disk;
use crate::delivery::spool::record::{self, Acked, Position, Record};
use crate::delivery::spool::segment::{DATA, Named};
use crate::event::Event;
use crate::platform::clock::Mono;

/// How long an unreadable part is tried again before it counts as lost: a card may have lost contact, a bus may be resetting.
const READ_PATIENCE: Duration = Duration::from_secs(600);
/// And at least this many attempts.
const READ_TRIES: u32 = 20;

/// A segment with an unreadable part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stalled {
    segment: u64,
    since: Mono,
    last: Mono,
    /// Number of attempts so far.
    tries: u32,
}

/// Result of the search for the next event.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives for a moment, and a box would be a heap call for each event"
)]
enum Next {
    /// A record.
    Record(heapless::Vec<u8, { record::PAYLOAD_BYTES_MAX }>, Position, Run),
    /// None here, but there may be one in the next segment.
    Step,
    /// The disk cannot read it now.
    Stalled,
    /// There is no further event.
    End,
}

impl ClassQueue {
    /// The next event, without taking it.
    pub(in crate::delivery::spool) fn peek(
        &mut self,
        mut disk: Option<&mut (dyn Disk + 'static)>,
        now: Mono,
    ) -> Option<&Peeked> {
        while self.peeked.is_none() {
            if self.stalled.is_some_and(|stalled| {
                stalled.segment == self.read.segment
                    && stalled.last == now
                    && !self.has_waited_for(stalled.segment, now)
            }) {
                return None; // The last attempt was a moment ago.
            }
            let index = self.finished.partition_point(|segment| segment.id < self.read.segment);
            let next = match &mut disk {
                Some(disk) if index < self.finished.len() => self.read_finished(index, *disk, now),
                Some(_) | None => self.read_active(now),
            };
            match next {
                Next::Record(payload, behind, run) => {
                    self.peeked = self.understand(&payload, behind, run);
                    if self.peeked.is_none() {
                        self.read = behind;
                    }
                }
                Next::Step => {}
                Next::Stalled | Next::End => return None,
            }
        }
        self.peeked.as_ref()
    }

    /// Reading from `segment` failed.
    fn stall(&mut self, segment: u64, now: Mono) {
        match &mut self.stalled {
            Some(stalled) if stalled.segment == segment => {
                stalled.tries += u32::from(now > stalled.last);
                stalled.last = now;
            }
            stalled => *stalled = Some(Stalled { segment, since: now, last: now, tries: 1 }),
        }
    }

    /// Whether the unreadable part of `segment` has to be given up.
    fn has_waited_for(&self, segment: u64, now: Mono) -> bool {
        self.stalled.is_some_and(|stalled| {
            stalled.segment == segment
                && stalled.tries >= READ_TRIES
                && now.since(stalled.since) >= READ_PATIENCE
        })
    }

    /// The next record of the finished segment `index`.
    fn read_finished(&mut self, index: usize, disk: &mut dyn Disk, now: Mono) -> Next {
        let id = self.finished[index].id;
        if id > self.read.segment {
            (self.read, self.read_events) = (Position { segment: id, offset: DATA }, 0);
        }
        let sums = self.finished[index].sums;
        if sums.events == 0 {
            // Contains only acknowledgements and calendar records.
            (self.read, self.read_events) = (Position { segment: id + 1, offset: DATA }, 0);
            return Next::Step;
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != id) {
            self.reader.forget();
            self.open = match disk.open(&Named::Segment(self.class, id).file()) {
                Ok(file) => Some((id, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(_) if !self.has_waited_for(id, now) => {
                    self.stall(id, now);
                    return Next::Stalled;
                }
                Err(_) => None,
            };
        }
        let from = self.read.offset;
        self.reader.lenient = self.has_waited_for(id, now);
        let found = match &mut self.open {
            Some((_, file)) => {
                let Ok(found) = self.reader.next(file.as_mut(), id, from, sums.used) else {
                    self.open = None; // Files that were open stay unreadable even if the card comes back.
                    self.stall(id, now);
                    return Next::Stalled;
                };
                if !self.reader.lenient {
                    self.stalled = None;
                }
                found
            }
            None => None,
        };
        let skipped = found.map_or(sums.used, |found| found.at).saturating_sub(from);
        let segment = &mut self.finished[index];
        if skipped > 0 {
            self.damage.bytes += u64::from(skipped);
            segment.damaged = true;
        }
        let Some(found) = found else {
            // The end. Events that the sums count and that were not found are lost to damage.
            self.count_missing(sums.events);
            (self.read, self.read_events) = (Position { segment: id + 1, offset: DATA }, 0);
            return Next::Step;
        };
        let run = segment.run.clone();
        let payload = self.reader.payload(found).try_into().expect("a record's payload fits");
        Next::Record(payload, Position { segment: id, offset: found.next }, run)
    }

    /// The next record of the active segment.
    fn read_active(&mut self, now: Mono) -> Next {
        let lenient = self.active.as_ref().is_some_and(|active| self.has_waited_for(active.id, now));
        let Some(active) = self.active.as_mut() else { return Next::End };
        if active.id > self.read.segment {
            (self.read, self.read_events) = (Position { segment: active.id, offset: DATA }, 0);
        }
        let (id, from, used, events) = (active.id, self.read.offset, active.sums.used, active.sums.events);
        if from < used {
            self.reader.lenient = lenient;
            let found = match &mut active.file {
                Some(file) => self.reader.next(file.as_mut(), id, from, used),
                None => Ok(None),
            };
            let Ok(found) = found else {
                self.stall(id, now);
                return Next::Stalled;
            };
            if !lenient {
                self.stalled = None;
            }
            let to = found.map_or(used, |found| found.at);
            self.damage.bytes += u64::from(to - from);
            let Some(found) = found else {
                self.read.offset = used;
                return Next::Step;
            };
            let payload = self.reader.payload(found).try_into().expect("a record's payload fits");
            return Next::Record(
                payload,
                Position { segment: id, offset: found.next },
                self.this_run.clone(),
            );
        }
        if from == used && self.read_events < events {
            self.count_missing(events);
            self.read_events = events;
        }
        let bytes = &self.tail[(from - used) as usize..];
        let Some(payload) = record::read(bytes, Position { segment: id, offset: from }) else {
            return Next::End;
        };
        let next = Position { segment: id, offset: from + record::frame_bytes(payload.len()) as u32 };
        let payload = payload.try_into().expect("a record's payload fits");
        Next::Record(payload, next, self.this_run.clone())
    }

    /// The segment was read to its end and should have this many events: counts those that were not found as lost.
    pub(super) fn count_missing(&mut self, events: u32) {
        let lost = u64::from(events.saturating_sub(self.read_events));
        self.damage.events += lost;
        self.unread = self.unread.saturating_sub(lost);
    }

    /// The event in a payload; `None` if it holds something else.
    fn understand(&mut self, payload: &[u8], next: Position, run: Run) -> Option<Peeked> {
        match Record::decode(payload) {
            Some(Record::Event(event)) => Some(Peeked { event, run, next }),
            Some(Record::Dead(_)) => {
                self.count_read();
                None
            }
            Some(Record::Newer(version)) => {
                self.count_read();
                // A dead letter was given up before and is not sent.
                if self.class != Class::Dead {
                    self.damage.newer += 1;
                    self.damage.newer_version = version;
                }
                None
            }
            Some(Record::Acked(_) | Record::Clock(_) | Record::Unknown(_)) | None => None,
        }
    }

    pub(super) fn count_read(&mut self) {
        self.read_events += 1;
        self.unread = self.unread.saturating_sub(1);
    }

    /// Takes the event that was peeked.
    pub(in crate::delivery::spool) fn take(&mut self) -> Option<Event> {
        let Peeked { event, next, .. } = self.peeked.take()?;
        self.read = next;
        self.count_read();
        let behind = Acked { position: self.read, events: self.read_events };
        self.in_flight.push_back(InFlight { seq: event.seq, behind, is_done: false, is_gone: false });
        Some(event)
    }
}
