//! One queue: the events of one class in the order in which they happened, on disk and in memory.
//!
//! ```text
//!    finished segments                 the active segment
//!   ┌─────┐┌─────┐┌─────┐┌─────────────────────┬╌╌╌╌╌╌╌╌╌╌╌╌╌┐
//!   │     ││     ││     ││ committed           │ tail, memory┊
//!   └─────┘└─────┘└─────┘└─────────────────────┴╌╌╌╌╌╌╌╌╌╌╌╌╌┘
//!        ▲ acked      ▲ read                                 ▲ append
//! ```
//! The tail is what the next commit writes, at the offsets that its records already carry. Without a disk, or while it fails, the active
//! segment has no file and is all tail: the queue works the same, from memory.

mod commit;
mod read;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Class;
use super::disk::DiskFile;
use super::record::{self, Acked, Position};
use super::segment::{DATA, Reader, Sums};
use crate::base::retry::Backoff;
use crate::event::{Event, Origin};
use crate::platform::clock::Mono;

/// Space in the tail that appends leave free for the records that a commit adds.
const COMMIT_ROOM: usize = 128;

/// The start position of a queue without any records.
const START: Acked = Acked { position: Position { segment: 0, offset: DATA }, events: 0 };

/// The calendar is also written at this interval, even without changes: it limits the error of a segment's age.
pub(super) const CLOCK_EVERY: Duration = Duration::from_secs(3600);

/// A run whose events a queue holds.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) origin: Arc<Origin>,
}

/// A segment that is not appended to any more.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) id: u64,
    pub(super) run: Run,
    pub(super) sums: Sums,
    /// Size of the file.
    pub(super) bytes: u64,
    /// A part of it could not be read: it is set aside when its other events are delivered.
    pub(super) damaged: bool,
    /// A start could not read all of it, so its end is unknown.
    pub(super) short: bool,
    /// A write to it failed: behind its end there may be records that the next segment repeats; that one records where the end is.
    pub(super) torn: bool,
}

/// The segment that is appended to.
#[derive(Debug)]
struct Active {
    id: u64,
    /// `None`: there is no file yet, everything is in the tail.
    file: Option<Box<dyn DiskFile>>,
    /// Sums of the file's contents: `used` is where the tail begins.
    sums: Sums,
    /// `used` when the sums were last written to the footer.
    noted: u32,
}

impl Active {
    fn new(id: u64) -> Self {
        Active { id, file: None, sums: Sums::default(), noted: DATA }
    }
}

/// The next event of a queue, not taken yet.
#[derive(Debug)]
pub(super) struct Peeked {
    pub(super) event: Event,
    pub(super) run: Run,
    next: Position,
}

/// An event that was taken and is not acknowledged yet, or that waits for an earlier one that is not.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    seq: u64,
    /// How far the queue is done once this event and all earlier ones are.
    behind: Acked,
    is_done: bool,
    /// Its disk is gone: it cannot be taken again.
    is_gone: bool,
}

/// Why an event could not be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The tail is full: commit, or drop something.
    Tail,
    /// The segment is full: commit, then begin another.
    Segment,
}

/// What a queue lost to damage since the last query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Damage {
    pub(super) bytes: u64,
    pub(super) events: u64,
    /// Not damage: valid, but written by a newer version of the program, so this one cannot read them.
    pub(super) newer: u64,
    /// The newest version of their records.
    pub(super) newer_version: u8,
}

/// See the top of the file.
#[derive(Debug)]
pub(super) struct ClassQueue {
    pub(super) class: Class,
    pub(super) finished: VecDeque<Finished>,
    active: Option<Active>,
    tail: Vec<u8>,
    tail_bytes_max: usize,
    /// Events in `tail`, which are not committed yet.
    tail_events: u32,
    /// Position of the next read; `read_events` of its segment lie before it.
    read: Position,
    read_events: u32,
    acked: Acked,
    /// Files hold events that are done, but the queue's records do not say so yet: a start after a power cut would send them again.
    news: bool,
    peeked: Option<Peeked>,
    reader: Reader,
    /// The finished segment that is open for reading.
    open: Option<(u64, Box<dyn DiskFile>)>,
    /// Events that were taken and are not acknowledged, oldest first; including those that were done out of order.
    in_flight: VecDeque<InFlight>,
    /// Some were acknowledged since the last [`Self::ack`].
    has_acknowledged: bool,
    /// Events that were not read yet.
    pub(super) unread: u64,
    pub(super) damage: Damage,
    /// Deadline for the commit of the tail.
    pub(super) due: Option<Mono>,
    /// After a failure: time of the next attempt, and the error.
    pub(super) retry_at: Mono,
    pub(super) backoff: Backoff,
    pub(super) trouble: Option<String>,
    /// Events from before the disk was attached are not written yet.
    pub(super) behind: bool,
    stalled: Option<read::Stalled>,
    /// End of the newest segment that is no longer written to, also when its file is gone or should be: a file that could not be removed
    /// must not be read beyond it.
    end_of_last: Option<Position>,
    /// A receiver has confirmed some of its events, as far as the files show.
    confirmed: bool,
    this_run: Run,
}

impl ClassQueue {
    pub(super) fn new(class: Class, tail_bytes_max: usize, this_run: Run, backoff: Backoff) -> Self {
        ClassQueue {
            class,
            finished: VecDeque::new(),
            active: None,
            tail: Vec::with_capacity(tail_bytes_max),
            tail_bytes_max,
            tail_events: 0,
            read: START.position,
            read_events: 0,
            acked: START,
            news: false,
            peeked: None,
            reader: Reader::default(),
            open: None,
            in_flight: VecDeque::new(),
            has_acknowledged: false,
            unread: 0,
            damage: Damage::default(),
            due: None,
            retry_at: Mono::ZERO,
            backoff,
            trouble: None,
            behind: false,
            stalled: None,
            end_of_last: None,
            confirmed: false,
            this_run,
        }
    }

    /// Sets this run's number, and the first free segment number.
    pub(super) fn begin(&mut self, run: Run, next_id: &mut u64) {
        self.this_run = run;
        self.forget_done();
        self.renumber(next_id);
    }

    /// The run of the event that was peeked.
    pub(super) fn peeked_run(&self) -> Option<u64> {
        self.peeked.as_ref().map(|peeked| peeked.run.number)
    }

    /// Whether a payload of this many bytes fits into the tail.
    pub(super) fn has_room_for(&self, payload: usize) -> bool {
        self.tail.len() + record::frame_bytes(payload) + COMMIT_ROOM <= self.tail_bytes_max
    }

    /// Adopts what was found on disk: finished segments in order, and how far the queue is done.
    pub(super) fn adopt(&mut self, finished: VecDeque<Finished>, acked: Option<Acked>) {
        self.finished = finished;
        let last = self.finished.back().filter(|last| !last.short);
        self.end_of_last = last.map(|last| Position { segment: last.id, offset: last.sums.used });
        self.confirmed |= acked.is_some();
        if self.finished.is_empty() && acked.is_none() {
            // What is in memory keeps its positions, also what is in flight.
            return;
        }
        let acked = acked.unwrap_or(START);
        self.acked = acked;
        (self.read, self.read_events) = (acked.position, acked.events);
        let before = |segment: &Finished| segment.id < self.read.segment;
        let done = self.finished.iter().filter(|segment| before(segment));
        let done: u64 = done.map(|segment| u64::from(segment.sums.events)).sum();
        let all: u64 = self.finished.iter().map(|segment| u64::from(segment.sums.events)).sum();
        let part =
            self.finished.iter().find(|segment| segment.id == self.read.segment).map_or(0, |segment| {
                let events = segment.sums.events;
                if self.read.offset >= segment.sums.used {
                    // All of it was read before; what was missing was counted then.
                    self.read_events = events;
                }
                events.min(self.read_events)
            });
        self.unread = all - done - u64::from(part) + u64::from(self.tail_events);
    }

    /// Adds a payload to the tail. `next_id` numbers a segment that begins with it.
    pub(super) fn append(
        &mut self,
        payload: &[u8],
        segment_bytes: u32,
        next_id: &mut u64,
    ) -> Result<(), Full> {
        let frame = record::frame_bytes(payload.len());
        if !self.has_room_for(payload.len()) {
            return Err(Full::Tail);
        }
        let active = self.active.get_or_insert_with(|| {
            let id = *next_id;
            *next_id += 1;
            Active::new(id)
        });
        let offset = active.sums.used + self.tail.len() as u32;
        if offset as usize + frame + COMMIT_ROOM > segment_bytes as usize {
            return Err(Full::Segment);
        }
        record::write(&mut self.tail, Position { segment: active.id, offset }, payload);
        self.tail_events += 1;
        self.unread += 1;
        Ok(())
    }

    /// Bytes not committed yet.
    pub(super) fn tail_bytes(&self) -> usize {
        self.tail.len()
    }

    /// Number of the active segment, if it has a file.
    pub(super) fn active_file(&self) -> Option<u64> {
        self.active.as_ref().filter(|active| active.file.is_some()).map(|active| active.id)
    }

    /// Whether events that were taken are not done yet.
    pub(super) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether all events that were taken, and are not done yet, are from a disk that is gone.
    pub(super) fn has_only_gone_in_flight(&self) -> bool {
        self.in_flight.iter().all(|event| event.is_gone)
    }

    /// They are read again, from the disk that they came from.
    pub(super) fn forget_in_flight(&mut self) {
        self.in_flight.clear();
    }

    /// Whether events of this segment are being sent.
    pub(super) fn is_in_flight(&self, id: u64) -> bool {
        self.has_in_flight() && (self.acked.position.segment..=self.read.segment).contains(&id)
    }

    /// Events of a finished segment that were not read.
    pub(super) fn unread_in(&self, segment: &Finished) -> u64 {
        let events = u64::from(segment.sums.events);
        match segment.id.cmp(&self.read.segment) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => events.saturating_sub(u64::from(self.read_events)),
            std::cmp::Ordering::Greater => events,
        }
    }

    /// Removes a finished segment, whose unread events are lost. Returns how many.
    pub(super) fn evict(&mut self, index: usize) -> Option<(Finished, u64)> {
        let lost = self.unread_in(self.finished.get(index)?);
        let segment = self.finished.remove(index)?;
        self.unread = self.unread.saturating_sub(lost);
        self.peeked = None;
        self.close(segment.id);
        if segment.id == self.read.segment && !self.has_in_flight() {
            // None of its events are in flight, and none are left.
            self.skip_to(Position { segment: segment.id + 1, offset: DATA });
        }
        Some((segment, lost))
    }

    fn skip_to(&mut self, position: Position) {
        (self.read, self.read_events) = (position, 0);
        self.acked = Acked { position, events: 0 };
    }

    fn close(&mut self, id: u64) {
        if self.open.as_ref().is_some_and(|(open, _)| *open == id) {
            self.open = None;
        }
    }

    /// Marks this event, which was taken, as done. The queue is done up to the first event that is not; later events are sent again after a
    /// restart even if they are done.
    pub(super) fn acknowledge(&mut self, seq: u64) {
        let waits = |event: &&mut InFlight| event.seq == seq && !event.is_done;
        let Some(event) = self.in_flight.iter_mut().find(waits) else { return };
        event.is_done = true;
        (self.confirmed, self.has_acknowledged) = (true, true);
        while let Some(first) = self.in_flight.front().copied().filter(|first| first.is_done) {
            self.in_flight.pop_front();
            if !first.is_gone {
                self.news |= self.files_have_events(self.acked, first.behind);
                self.acked = first.behind;
            }
        }
    }

    /// Marks everything in flight as done: [`Self::remove_read`] has the segments that are no longer needed.
    pub(super) fn ack(&mut self) {
        let (read, finished) = (self.read, &self.finished);
        let at_its_end = |segment: &&Finished| segment.id == read.segment && read.offset >= segment.sums.used;
        if let Some(events) = finished.iter().find(at_its_end).map(|segment| segment.sums.events) {
            // It is removed now: events that its footer counts and that were not found are reported missing.
            self.count_missing(events);
            self.read_events = self.read_events.max(events);
        }
        let to = Acked { position: self.read, events: self.read_events };
        let has_acknowledged = std::mem::take(&mut self.has_acknowledged) || self.has_in_flight();
        self.news |= has_acknowledged && self.files_have_events(self.acked, to);
        self.confirmed |= has_acknowledged;
        self.acked = to;
        self.in_flight.clear();
    }

    /// Whether the oldest finished segment was read to its end.
    pub(super) fn has_read_segments(&self) -> bool {
        self.finished.front().is_some_and(|first| {
            first.id < self.read.segment
                || first.id == self.read.segment && self.read.offset >= first.sums.used
        })
    }

    /// Removes the finished segments that were read to their ends, and returns them.
    pub(super) fn remove_read(&mut self) -> Vec<Finished> {
        let mut done = Vec::new();
        while self.has_read_segments()
            && let Some(first) = self.finished.pop_front()
        {
            self.close(first.id);
            done.push(first);
        }
        done
    }

    /// Whether files hold any of the events between these two positions.
    fn files_have_events(&self, from: Acked, to: Acked) -> bool {
        let first = |id: u64| if id == from.position.segment { from.events } else { 0 };
        let last = |id: u64| if id == to.position.segment { to.events } else { u32::MAX };
        let finished = self.finished.iter().map(|segment| (segment.id, segment.sums.events));
        let active = self.active.iter().map(|active| (active.id, active.sums.events));
        finished
            .chain(active)
            .filter(|(id, _)| (from.position.segment..=to.position.segment).contains(id))
            .any(|(id, events)| first(id) < last(id).min(events))
    }

    /// Makes the events in flight readable again. Returns how many cannot be read, because their disk is gone.
    pub(super) fn requeue(&mut self) -> u64 {
        let (mut again, mut gone) = (0, 0);
        for event in self.in_flight.drain(..) {
            again += u64::from(!event.is_gone);
            gone += u64::from(event.is_gone && !event.is_done);
        }
        self.unread += again;
        (self.read, self.read_events) = (self.acked.position, self.acked.events);
        self.peeked = None;
        gone
    }

    /// Whether a receiver has confirmed any of its events, in this run or an earlier one whose files still exist.
    pub(super) fn was_acked(&self) -> bool {
        self.confirmed
    }
}
