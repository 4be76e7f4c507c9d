//! Writing a queue: committing the tail, moving it to another segment, dropping events for space.

use std::io;

use super::{Active, CLOCK_EVERY, ClassQueue, Finished};
use crate::delivery::spool::disk::DiskFile;
use crate::delivery::spool::record::{self, Acked, Position, Record};
use crate::delivery::spool::segment::{self, DATA, Footer};
use crate::platform::clock::{ClockSyncSample, Mono};

/// Bytes after which the sums are written to the footer again: the most that a start has to read through.
const NOTE_BYTES: u32 = 32 << 10;

impl ClassQueue {
    /// Whether a commit would write anything.
    pub(in crate::delivery::spool) fn wants_commit(&self) -> bool {
        !self.tail.is_empty() || self.news
    }

    /// Whether the files do not say yet how far the queue is done, or which clock applies.
    pub(in crate::delivery::spool) fn has_news(&self) -> bool {
        self.news
    }

    /// Makes the next commit write `clock` if the active file has events that are not done.
    pub(in crate::delivery::spool) fn anchor(&mut self, now: Mono, clock: ClockSyncSample) {
        let Some(active) = self.active.as_ref().filter(|active| active.file.is_some()) else { return };
        let done = self.acked.position.segment == active.id && self.acked.position.offset >= active.sums.used;
        if !done && clock.is_news_after(active.sums.clock) {
            (self.news, self.due) = (true, Some(now));
        }
    }

    /// `acked`, limited to what files hold.
    fn committed_ack(&self) -> Acked {
        match &self.active {
            Some(active)
                if self.acked.position.segment == active.id
                    && self.acked.position.offset > active.sums.used =>
            {
                Acked {
                    position: Position { segment: active.id, offset: active.sums.used },
                    events: active.sums.events,
                }
            }
            Some(_) | None => self.acked,
        }
    }

    /// Drops events from the tail that are done: they need no disk any more.
    pub(super) fn forget_done(&mut self) {
        let Some(active) = &self.active else { return };
        let start = Acked {
            position: Position { segment: active.id, offset: active.sums.used },
            events: active.sums.events,
        };
        if self.acked.position.segment != start.position.segment || self.acked.position <= start.position {
            return;
        }
        let bytes = (self.acked.position.offset - start.position.offset) as usize;
        self.cut_tail(0, bytes, self.acked.events - start.events);
        self.acked = start;
    }

    /// Drops the oldest events of the tail that are not in flight, until `bytes` are free. Returns how many.
    pub(in crate::delivery::spool) fn drop_oldest(&mut self, bytes: usize) -> u64 {
        self.forget_done();
        let Some(active) = &self.active else { return 0 };
        let (id, used) = (active.id, active.sums.used);
        let from = if self.read.segment == id { self.read.offset.saturating_sub(used) as usize } else { 0 };
        let (mut to, mut events) = (from, 0);
        while to < self.tail.len() && to - from < bytes {
            let frame = record::whole_frame_bytes(&self.tail[to..]);
            let payload = &self.tail[to + record::HEAD_BYTES..to + frame];
            events += u32::from(matches!(Record::decode(payload), Some(Record::Event(_) | Record::Dead(_))));
            to += frame;
        }
        self.cut_tail(from, to, events);
        self.unread = self.unread.saturating_sub(u64::from(events));
        u64::from(events)
    }

    /// Removes `from..to`, with this many events, from the tail; the rest moves up.
    fn cut_tail(&mut self, from: usize, to: usize, events: u32) {
        let Some(active) = &self.active else { return };
        let (id, used) = (active.id, active.sums.used);
        let cut = (to - from) as u32;
        self.tail.drain(from..to);
        let position = Position { segment: id, offset: used + from as u32 };
        record::move_to(&mut self.tail[from..], position);
        self.tail_events -= events;
        if self.read.segment == id && self.read.offset >= used + to as u32 {
            self.read.offset -= cut;
            self.read_events -= events;
        }
        for Acked { position, events: before } in self.in_flight.iter_mut().map(|event| &mut event.behind) {
            if position.segment == id && position.offset >= used + to as u32 {
                position.offset -= cut;
                *before -= events;
            }
        }
        self.peeked = None;
    }

    /// Writes the tail and makes it durable, and, if it `may_record` that, how far the queue is done; `create` creates the file of a segment
    /// that has none. Returns the bytes written.
    ///
    /// # Errors
    /// The error of the disk: nothing of the tail counts as durable then, and [`Self::give_up`] has to be called if there was a file.
    pub(in crate::delivery::spool) fn commit(
        &mut self,
        clock: Option<ClockSyncSample>,
        may_record: bool,
        next_id: &mut u64,
        create: impl FnOnce(u64) -> io::Result<(Box<dyn DiskFile>, u64)>,
    ) -> io::Result<u64> {
        self.forget_done();
        let header = self.header();
        let (news, acked) = (self.news && may_record, self.committed_ack());
        if self.tail.is_empty() && !news {
            self.due = None;
            return Ok(0);
        }
        let active = self.active.get_or_insert_with(|| {
            let id = *next_id;
            *next_id += 1;
            Active::new(id)
        });
        let mut written = 0;
        if active.file.is_none() {
            let (file, bytes) = create(active.id)?;
            (active.file, written) = (Some(file), bytes);
        }
        let kept = self.tail.len();
        let mut add = |record: &Record| {
            let position = Position { segment: active.id, offset: active.sums.used + self.tail.len() as u32 };
            record::write(&mut self.tail, position, record.encode(&mut [0; record::PAYLOAD_BYTES_MAX]));
        };
        let old = |clock: &ClockSyncSample| {
            active.sums.clock.is_some_and(|before| clock.mono.since(before.mono) >= CLOCK_EVERY)
        };
        let clock_news = clock.filter(|clock| clock.is_news_after(active.sums.clock) || old(clock));
        if let Some(clock) = clock_news {
            add(&Record::Clock(clock));
        }
        if news {
            add(&Record::Acked(acked));
        }
        let file = active.file.as_mut().expect("made above");
        let mut noted = Ok(());
        if active.sums.used >= active.noted + NOTE_BYTES {
            // It refers to events that are durable already, so it may become durable at any time.
            let footer = Footer { header, last: false, sums: active.sums };
            noted = segment::write_footer(file.as_mut(), active.id, &footer);
            if noted.is_ok() {
                active.noted = active.sums.used;
            }
        }
        let written_at =
            |()| file.write_at(&self.tail, u64::from(active.sums.used)).and_then(|()| file.sync());
        if let Err(error) = noted.and_then(written_at) {
            self.tail.truncate(kept);
            return Err(error);
        }
        written += self.tail.len() as u64;
        active.sums.used += self.tail.len() as u32;
        active.sums.events += self.tail_events;
        active.sums.clock = clock_news.or(active.sums.clock);
        if news {
            (active.sums.acked, self.news) = (Some(acked), false);
        }
        self.tail.clear();
        self.tail_events = 0;
        self.due = None;
        self.reader.forget();
        Ok(written)
    }

    /// Abandons the active segment after a failed write or sync: everything that is not durable moves to a new segment.
    pub(in crate::delivery::spool) fn give_up(&mut self, segment_bytes: u32, next_id: &mut u64) {
        if let Some(old) = self.renumber(next_id)
            && old.file.is_some()
        {
            self.finish(&old, u64::from(segment_bytes), true);
        }
    }

    /// Moves the tail to a segment with a new number, which has no file yet. Returns the old one.
    pub(super) fn renumber(&mut self, next_id: &mut u64) -> Option<Active> {
        let old = self.active.take()?;
        let new = *next_id;
        *next_id += 1;
        record::move_to(&mut self.tail, Position { segment: new, offset: DATA });
        self.active = Some(Active::new(new));
        self.peeked = None;
        let there = |position: Position| {
            let in_tail = position.segment == old.id && position.offset >= old.sums.used;
            in_tail.then(|| Position { segment: new, offset: position.offset - old.sums.used + DATA })
        };
        if let Some(position) = there(self.read) {
            (self.read, self.read_events) = (position, self.read_events.saturating_sub(old.sums.events));
        }
        let behind = self.in_flight.iter_mut().map(|event| &mut event.behind);
        for acked in std::iter::once(&mut self.acked).chain(behind) {
            if let Some(position) = there(acked.position) {
                *acked = Acked { position, events: acked.events.saturating_sub(old.sums.events) };
            }
        }
        Some(old)
    }

    /// Ends the active segment, whose tail is empty, and closes it.
    pub(in crate::delivery::spool) fn rotate(&mut self, segment_bytes: u32) {
        let Some(mut active) = self.active.take() else { return };
        assert!(self.tail.is_empty(), "a tail belongs to its segment");
        let header = self.header();
        if let Some(file) = active.file.as_mut() {
            // Without the footer the next start reads the segment through: slower, not wrong.
            let _written = segment::write_footer(
                file.as_mut(),
                active.id,
                &Footer { header, last: true, sums: active.sums },
            );
        }
        self.finish(&active, u64::from(segment_bytes), false);
    }

    fn finish(&mut self, active: &Active, bytes: u64, torn: bool) {
        let run = self.this_run.clone();
        let (id, sums) = (active.id, active.sums);
        self.end_of_last = Some(Position { segment: id, offset: sums.used });
        self.finished.push_back(Finished { id, run, sums, bytes, damaged: false, short: false, torn });
    }

    /// The header of this run's segments.
    pub(in crate::delivery::spool) fn header(&self) -> segment::Header {
        segment::Header {
            version: segment::VERSION,
            class: self.class,
            run: self.this_run.number,
            origin: (*self.this_run.origin).clone(),
            follows: self.end_of_last,
        }
    }

    /// Detaches from the disk, which is gone, with everything on it: the tail stays. Returns how many events that were not taken were lost
    /// with it.
    pub(in crate::delivery::spool) fn detach(&mut self, next_id: &mut u64) -> u64 {
        let committed = self.active.as_ref().map_or(0, |active| match active.id.cmp(&self.read.segment) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => active.sums.events.saturating_sub(self.read_events),
            std::cmp::Ordering::Greater => active.sums.events,
        });
        let finished: u64 = self.finished.iter().map(|segment| self.unread_in(segment)).sum();
        let gone = (finished + u64::from(committed)).min(self.unread);
        self.unread -= gone;
        self.finished.clear();
        (self.open, self.stalled, self.peeked, self.news, self.end_of_last) = (None, None, None, false, None);
        self.reader.forget();
        let _old = self.renumber(next_id);
        // Only the tail is left; positions before it become positions at its beginning.
        let segment = self.active.as_ref().map_or(*next_id, |active| active.id);
        let start = Acked { position: Position { segment, offset: DATA }, events: 0 };
        if self.read.segment != segment {
            (self.read, self.read_events) = (start.position, 0);
        }
        if self.acked.position.segment != segment {
            self.acked = start;
        }
        let in_tail = (self.read_events - self.acked.events) as usize;
        let on_disk = self.in_flight.len().saturating_sub(in_tail);
        self.in_flight.iter_mut().take(on_disk).for_each(|event| event.is_gone = true);
        (self.trouble, self.retry_at, self.behind) = (None, Mono::ZERO, self.wants_commit());
        self.backoff.succeeded();
        gone
    }
}
