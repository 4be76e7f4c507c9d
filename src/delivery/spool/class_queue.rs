//! One lane: the events of one class in the order in which they happened, on disk and in memory.
//!
//! ```text
//!    finished segments                 the active segment
//!   ┌─────┐┌─────┐┌─────┐┌─────────────────────┬╌╌╌╌╌╌╌╌╌╌╌╌╌┐
//!   │     ││     ││     ││ committed           │ tail, memory┊
//!   └─────┘└─────┘└─────┘└─────────────────────┴╌╌╌╌╌╌╌╌╌╌╌╌╌┘
//!        ▲ acked      ▲ read                                 ▲ append
//! ```
//! The tail is what the next commit writes, at the place where its records already say they are. Without a disk, or while it
//! fails, the active segment has no file and all of it is tail: the lane works the same, from memory.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Class;
use super::disk::{Disk, DiskFile};
use super::record::{self, Acked, Place, Record};
use super::segment::{self, DATA, Named, Reader, Seal, Sums};
use crate::base::retry::Backoff;
use crate::event::{Event, Origin};
use crate::platform::clock::{ClockMap, Mono};

/// Room in the tail that appends leave to the records that a commit adds.
const COMMIT_ROOM: usize = 128;

/// Where a lane that nothing is known of begins.
const START: Acked = Acked { place: Place { segment: 0, offset: DATA }, events: 0 };

/// After so many bytes the sums are noted in the seal: the most that a start has to read through.
const NOTE_BYTES: u32 = 32 << 10;

/// What the disk cannot read is tried again for so long before it counts as lost: a card that lost its contact, a bus that is
/// being reset.
const READ_PATIENCE: Duration = Duration::from_secs(600);
/// And so often.
const READ_TRIES: u32 = 20;

/// The calendar is written so often besides its news: how old a segment is must be known to that.
pub(super) const CLOCK_EVERY: Duration = Duration::from_secs(3600);

/// A run whose events a lane holds.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) origin: Arc<Origin>,
}

/// A segment that nothing is appended to any more.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) id: u64,
    pub(super) run: Run,
    pub(super) sums: Sums,
    /// Size of the file.
    pub(super) bytes: u64,
    /// Something in it could not be read: it is set aside when its other events are delivered.
    pub(super) damaged: bool,
    /// A start could not read all of it, so where it ends is not known.
    pub(super) short: bool,
}

/// The segment that is appended to.
#[derive(Debug)]
struct Active {
    id: u64,
    /// `None`: there is none yet, everything is in the tail.
    file: Option<Box<dyn DiskFile>>,
    /// What is in the file: `used` is where the tail begins.
    sums: Sums,
    /// `used` when the sums were last noted in the seal.
    noted: u32,
}

impl Active {
    fn new(id: u64) -> Self {
        Active { id, file: None, sums: Sums::default(), noted: DATA }
    }
}

/// The next event of a lane, not taken yet.
#[derive(Debug)]
pub(super) struct Peeked {
    pub(super) event: Event,
    pub(super) run: Run,
    next: Place,
}

/// Why an event could not be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The tail: commit, or drop something.
    Tail,
    /// The segment: commit, then begin another.
    Segment,
}

/// A segment that the disk could not read.
#[derive(Debug, Clone, Copy)]
struct Stalled {
    segment: u64,
    since: Mono,
    last: Mono,
    /// At how many times it was tried.
    tries: u32,
}

/// What was found behind the last event.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives for a moment, and a box would be a heap call for each event"
)]
enum Look {
    /// A record.
    Found(heapless::Vec<u8, { record::PAYLOAD_BYTES_MAX }>, Place, Run),
    /// None here, but there may be one in the next place.
    Step,
    /// The disk cannot read it now.
    Stalled,
    /// There is none.
    End,
}

/// What a lane lost to damage, since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Damage {
    pub(super) bytes: u64,
    pub(super) events: u64,
    /// No damage: whole, but written by a newer version of the program, so that nobody here can read them.
    pub(super) newer: u64,
    /// The newest version of their records.
    pub(super) newer_version: u8,
}

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) class: Class,
    pub(super) finished: VecDeque<Finished>,
    active: Option<Active>,
    tail: Vec<u8>,
    tail_bytes_max: usize,
    /// Events in the tail.
    tail_events: u32,
    /// Where the next event is looked for; `read_events` of its segment lie before it.
    read: Place,
    read_events: u32,
    acked: Acked,
    /// Files hold events that are done, and the lane's records do not say so: a start after a power cut would send them again.
    news: bool,
    peeked: Option<Peeked>,
    reader: Reader,
    /// The finished segment that is open for reading.
    open: Option<(u64, Box<dyn DiskFile>)>,
    /// Events that were taken since the last acknowledgement.
    in_hand: u32,
    /// Events that were not read yet.
    pub(super) unread: u64,
    pub(super) damage: Damage,
    /// When the tail has to be on disk.
    pub(super) due: Option<Mono>,
    /// After a failure: when the disk is tried again, and why.
    pub(super) retry_at: Mono,
    pub(super) backoff: Backoff,
    pub(super) trouble: Option<String>,
    /// Whether what came before there was a disk is not written yet.
    pub(super) behind: bool,
    stalled: Option<Stalled>,
    /// A receiver has confirmed something of it, as far as files tell.
    confirmed: bool,
    this_run: Run,
}

impl Lane {
    pub(super) fn new(class: Class, tail_bytes_max: usize, this_run: Run, backoff: Backoff) -> Self {
        Lane {
            class,
            finished: VecDeque::new(),
            active: None,
            tail: Vec::with_capacity(tail_bytes_max),
            tail_bytes_max,
            tail_events: 0,
            read: START.place,
            read_events: 0,
            acked: START,
            news: false,
            peeked: None,
            reader: Reader::default(),
            open: None,
            in_hand: 0,
            unread: 0,
            damage: Damage::default(),
            due: None,
            retry_at: Mono::ZERO,
            backoff,
            trouble: None,
            behind: false,
            stalled: None,
            confirmed: false,
            this_run,
        }
    }

    /// This run's number is known, and which numbers of segments are free.
    pub(super) fn begin(&mut self, run: Run, next_id: &mut u64) {
        self.this_run = run;
        self.forget_done();
        self.renumber(next_id);
    }

    /// The run of the event that was peeked.
    pub(super) fn peeked_run(&self) -> Option<u64> {
        self.peeked.as_ref().map(|peeked| peeked.run.number)
    }

    /// Whether the tail takes a payload of so many bytes.
    pub(super) fn has_room_for(&self, payload: usize) -> bool {
        self.tail.len() + record::frame_bytes(payload) + COMMIT_ROOM <= self.tail_bytes_max
    }

    /// Takes over what was found on disk: finished segments in order, and how far the lane is done.
    pub(super) fn adopt(&mut self, finished: VecDeque<Finished>, acked: Option<Acked>) {
        self.finished = finished;
        self.confirmed |= acked.is_some();
        let acked = acked.unwrap_or(START);
        self.acked = acked;
        (self.read, self.read_events) = (acked.place, acked.events);
        let before = |segment: &Finished| segment.id < self.read.segment;
        let done = self.finished.iter().filter(|segment| before(segment));
        let done: u64 = done.map(|segment| u64::from(segment.sums.events)).sum();
        let all: u64 = self.finished.iter().map(|segment| u64::from(segment.sums.events)).sum();
        let part =
            self.finished.iter().find(|segment| segment.id == self.read.segment).map_or(0, |segment| {
                let events = segment.sums.events;
                if self.read.offset >= segment.sums.used { events } else { events.min(self.read_events) }
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
        record::write(&mut self.tail, Place { segment: active.id, offset }, payload);
        self.tail_events += 1;
        self.unread += 1;
        Ok(())
    }

    /// Bytes that wait for a commit.
    pub(super) fn tail_bytes(&self) -> usize {
        self.tail.len()
    }

    /// Number of the segment that is written, if it has a file.
    pub(super) fn active_file(&self) -> Option<u64> {
        self.active.as_ref().filter(|active| active.file.is_some()).map(|active| active.id)
    }

    /// Whether events of this segment are being sent.
    pub(super) fn is_in_hand(&self, id: u64) -> bool {
        self.in_hand > 0 && (self.acked.place.segment..=self.read.segment).contains(&id)
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

    /// Takes a finished segment out, whose unread events are lost. Returns how many.
    pub(super) fn lose(&mut self, index: usize) -> Option<(Finished, u64)> {
        let lost = self.unread_in(self.finished.get(index)?);
        let segment = self.finished.remove(index)?;
        self.unread -= lost;
        self.peeked = None;
        self.close(segment.id);
        if segment.id == self.read.segment && self.in_hand == 0 {
            // Nothing of it is in hand, and nothing of it is left.
            self.skip_to(Place { segment: segment.id + 1, offset: DATA });
        }
        Some((segment, lost))
    }

    fn skip_to(&mut self, place: Place) {
        (self.read, self.read_events) = (place, 0);
        self.acked = Acked { place, events: 0 };
    }

    fn close(&mut self, id: u64) {
        if self.open.as_ref().is_some_and(|(open, _)| *open == id) {
            self.open = None;
        }
    }

    /// The next event, not taken.
    pub(super) fn peek(&mut self, mut disk: Option<&mut (dyn Disk + 'static)>, now: Mono) -> Option<&Peeked> {
        while self.peeked.is_none() {
            if self.stalled.is_some_and(|stalled| {
                stalled.segment == self.read.segment
                    && stalled.last == now
                    && !self.has_waited_for(stalled.segment, now)
            }) {
                return None; // That was a moment ago.
            }
            let index = self.finished.partition_point(|segment| segment.id < self.read.segment);
            let look = match &mut disk {
                Some(disk) if index < self.finished.len() => self.look_in_finished(index, *disk, now),
                Some(_) | None => self.look_in_active(now),
            };
            match look {
                Look::Found(payload, next, run) => {
                    self.peeked = self.understand(&payload, next, run);
                    if self.peeked.is_none() {
                        self.read = next;
                    }
                }
                Look::Step => {}
                Look::Stalled | Look::End => return None,
            }
        }
        self.peeked.as_ref()
    }

    /// The disk could not read from `segment`.
    fn stall(&mut self, segment: u64, now: Mono) {
        match &mut self.stalled {
            Some(stalled) if stalled.segment == segment => {
                stalled.tries += u32::from(now > stalled.last);
                stalled.last = now;
            }
            stalled => *stalled = Some(Stalled { segment, since: now, last: now, tries: 1 }),
        }
    }

    /// Whether there is nothing to do about what the disk cannot read in `segment` but to go on without it.
    fn has_waited_for(&self, segment: u64, now: Mono) -> bool {
        self.stalled.is_some_and(|stalled| {
            stalled.segment == segment
                && stalled.tries >= READ_TRIES
                && now.since(stalled.since) >= READ_PATIENCE
        })
    }

    /// The next record of the finished segment `index`.
    fn look_in_finished(&mut self, index: usize, disk: &mut dyn Disk, now: Mono) -> Look {
        let id = self.finished[index].id;
        if id > self.read.segment {
            (self.read, self.read_events) = (Place { segment: id, offset: DATA }, 0);
        }
        let sums = self.finished[index].sums;
        if sums.events == 0 {
            // Nothing but acknowledgements and calendars.
            (self.read, self.read_events) = (Place { segment: id + 1, offset: DATA }, 0);
            return Look::Step;
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != id) {
            self.reader.forget();
            self.open = match disk.open(&Named::Segment(self.class, id).file()) {
                Ok(file) => Some((id, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(_) if !self.has_waited_for(id, now) => {
                    self.stall(id, now);
                    return Look::Stalled;
                }
                Err(_) => None,
            };
        }
        let from = self.read.offset;
        self.reader.lenient = self.has_waited_for(id, now);
        let found = match &mut self.open {
            Some((_, file)) => {
                let Ok(found) = self.reader.next(file.as_mut(), id, from, sums.used) else {
                    self.open = None; // A card that comes back does not do so for files that were open.
                    self.stall(id, now);
                    return Look::Stalled;
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
            // The end. What the sums promise and nobody found is lost to damage.
            self.lose_to_damage(sums.events);
            (self.read, self.read_events) = (Place { segment: id + 1, offset: DATA }, 0);
            return Look::Step;
        };
        let run = segment.run.clone();
        let payload = self.reader.payload(found).try_into().expect("a record's payload fits");
        Look::Found(payload, Place { segment: id, offset: found.next }, run)
    }

    /// The same in the active segment.
    fn look_in_active(&mut self, now: Mono) -> Look {
        let lenient = self.active.as_ref().is_some_and(|active| self.has_waited_for(active.id, now));
        let Some(active) = self.active.as_mut() else { return Look::End };
        if active.id > self.read.segment {
            (self.read, self.read_events) = (Place { segment: active.id, offset: DATA }, 0);
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
                return Look::Stalled;
            };
            let to = found.map_or(used, |found| found.at);
            self.damage.bytes += u64::from(to - from);
            let Some(found) = found else {
                self.read.offset = used;
                return Look::Step;
            };
            let payload = self.reader.payload(found).try_into().expect("a record's payload fits");
            return Look::Found(payload, Place { segment: id, offset: found.next }, self.this_run.clone());
        }
        if from == used && self.read_events < events {
            self.lose_to_damage(events);
            self.read_events = events;
        }
        let bytes = &self.tail[(from - used) as usize..];
        let Some(payload) = record::read(bytes, Place { segment: id, offset: from }) else {
            return Look::End;
        };
        let next = Place { segment: id, offset: from + record::frame_bytes(payload.len()) as u32 };
        let payload = payload.try_into().expect("a record's payload fits");
        Look::Found(payload, next, self.this_run.clone())
    }

    /// Of the segment that was read to its end, which has so many events, the others were not found.
    fn lose_to_damage(&mut self, events: u32) {
        let lost = u64::from(events.saturating_sub(self.read_events));
        self.damage.events += lost;
        self.unread = self.unread.saturating_sub(lost);
    }

    /// The event of a payload, unless it is none.
    fn understand(&mut self, payload: &[u8], next: Place, run: Run) -> Option<Peeked> {
        match Record::decode(payload) {
            Some(Record::Event(event)) => Some(Peeked { event, run, next }),
            Some(Record::Dead(_)) => {
                self.count_read();
                None
            }
            Some(Record::Newer(version)) => {
                self.count_read();
                // A dead letter was given up before.
                if self.class != Class::Dead {
                    self.damage.newer += 1;
                    self.damage.newer_version = version;
                }
                None
            }
            Some(Record::Acked(_) | Record::Clock(_) | Record::Unknown(_)) | None => None,
        }
    }

    fn count_read(&mut self) {
        self.read_events += 1;
        self.unread = self.unread.saturating_sub(1);
    }

    /// Takes the event that was peeked.
    pub(super) fn take(&mut self) -> Option<Event> {
        let Peeked { event, next, .. } = self.peeked.take()?;
        self.read = next;
        self.count_read();
        self.in_hand += 1;
        Some(event)
    }

    /// Everything that was taken is done. Returns the segments that nobody needs any more.
    pub(super) fn ack(&mut self) -> Vec<Finished> {
        let (read, finished) = (self.read, &self.finished);
        let at_its_end = |segment: &&Finished| segment.id == read.segment && read.offset >= segment.sums.used;
        if let Some(events) = finished.iter().find(at_its_end).map(|segment| segment.sums.events) {
            // It goes now: what it promised and nobody found is not looked for any more.
            self.lose_to_damage(events);
            self.read_events = self.read_events.max(events);
        }
        self.news |= self.in_hand > 0 && self.hand_is_in_files();
        self.confirmed |= self.in_hand > 0;
        self.acked = Acked { place: self.read, events: self.read_events };
        self.in_hand = 0;
        let mut done = Vec::new();
        while let Some(first) = self.finished.front()
            && (first.id < self.read.segment
                || first.id == self.read.segment && self.read.offset >= first.sums.used)
        {
            let id = first.id;
            self.close(id);
            done.extend(self.finished.pop_front());
        }
        done
    }

    /// Whether files hold any of the events between `acked` and `read`.
    fn hand_is_in_files(&self) -> bool {
        let from = |id: u64| if id == self.acked.place.segment { self.acked.events } else { 0 };
        let to = |id: u64| if id == self.read.segment { self.read_events } else { u32::MAX };
        let finished = self.finished.iter().map(|segment| (segment.id, segment.sums.events));
        let active = self.active.iter().map(|active| (active.id, active.sums.events));
        finished
            .chain(active)
            .take_while(|(id, _)| *id <= self.read.segment)
            .any(|(id, events)| from(id) < to(id).min(events))
    }

    /// What is in hand is to be read again.
    pub(super) fn put_back(&mut self) {
        self.unread += u64::from(std::mem::take(&mut self.in_hand));
        (self.read, self.read_events) = (self.acked.place, self.acked.events);
        self.peeked = None;
    }

    /// Whether a receiver has confirmed anything of it, in this run or an earlier one whose files are there.
    pub(super) fn was_acked(&self) -> bool {
        self.confirmed
    }

    /// Whether a commit would write anything.
    pub(super) fn wants_commit(&self) -> bool {
        !self.tail.is_empty() || self.news
    }

    /// Has `clock` written by the next commit if the file that is written to has events that are not done.
    pub(super) fn anchor(&mut self, now: Mono, clock: ClockMap) {
        let Some(active) = self.active.as_ref().filter(|active| active.file.is_some()) else { return };
        let done = self.acked.place.segment == active.id && self.acked.place.offset >= active.sums.used;
        if !done && clock.is_news_after(active.sums.clock) {
            (self.news, self.due) = (true, Some(now));
        }
    }

    /// `acked`, as far as it is about what is in files.
    fn committed_ack(&self) -> Acked {
        match &self.active {
            Some(active)
                if self.acked.place.segment == active.id && self.acked.place.offset > active.sums.used =>
            {
                Acked {
                    place: Place { segment: active.id, offset: active.sums.used },
                    events: active.sums.events,
                }
            }
            Some(_) | None => self.acked,
        }
    }

    /// Drops from the tail what is done: it needs no disk any more.
    pub(super) fn forget_done(&mut self) {
        let Some(active) = &self.active else { return };
        let start = Acked {
            place: Place { segment: active.id, offset: active.sums.used },
            events: active.sums.events,
        };
        if self.acked.place.segment != start.place.segment || self.acked.place <= start.place {
            return;
        }
        let bytes = (self.acked.place.offset - start.place.offset) as usize;
        self.cut_tail(0, bytes, self.acked.events - start.events);
        self.acked = start;
    }

    /// Drops the oldest events of the tail that are not in hand, until `bytes` are free. Returns how many.
    pub(super) fn drop_oldest(&mut self, bytes: usize) -> u64 {
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

    /// Takes `from..to`, with so many events, out of the tail; what comes behind moves up.
    fn cut_tail(&mut self, from: usize, to: usize, events: u32) {
        let Some(active) = &self.active else { return };
        let (id, used) = (active.id, active.sums.used);
        let cut = (to - from) as u32;
        self.tail.drain(from..to);
        let place = Place { segment: id, offset: used + from as u32 };
        record::move_to(&mut self.tail[from..], place);
        self.tail_events -= events;
        if self.read.segment == id && self.read.offset >= used + to as u32 {
            self.read.offset -= cut;
            self.read_events -= events;
        }
        self.peeked = None;
    }

    /// Writes the tail and makes it durable; `create` brings the file of a segment that has none. Returns the bytes written.
    ///
    /// # Errors
    /// As the disk says: nothing of the tail counts as durable then, and [`Self::give_up`] has to be called if there was a
    /// file.
    pub(super) fn commit(
        &mut self,
        clock: Option<ClockMap>,
        next_id: &mut u64,
        create: impl FnOnce(u64) -> io::Result<(Box<dyn DiskFile>, u64)>,
    ) -> io::Result<u64> {
        self.forget_done();
        let header = self.header();
        let (news, acked) = (self.news, self.committed_ack());
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
            let place = Place { segment: active.id, offset: active.sums.used + self.tail.len() as u32 };
            record::write(&mut self.tail, place, record.encode(&mut [0; record::PAYLOAD_BYTES_MAX]));
        };
        let old = |clock: &ClockMap| {
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
        if active.sums.used >= active.noted + NOTE_BYTES {
            // About what is durable already, so it may be durable at any time.
            let seal = Seal { header, last: false, sums: active.sums };
            segment::write_seal(file.as_mut(), active.id, &seal)?;
            active.noted = active.sums.used;
        }
        let done = file.write_at(&self.tail, u64::from(active.sums.used)).and_then(|()| file.sync());
        if let Err(error) = done {
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

    /// Gives the active segment up after a write or sync that failed: what is not durable moves to a new one.
    pub(super) fn give_up(&mut self, segment_bytes: u32, next_id: &mut u64) {
        if let Some(old) = self.renumber(next_id)
            && old.file.is_some()
        {
            self.finish(&old, u64::from(segment_bytes));
        }
    }

    /// Moves the tail to a segment with a new number, which has no file yet. Returns the old one.
    fn renumber(&mut self, next_id: &mut u64) -> Option<Active> {
        let old = self.active.take()?;
        let new = *next_id;
        *next_id += 1;
        record::move_to(&mut self.tail, Place { segment: new, offset: DATA });
        self.active = Some(Active::new(new));
        self.peeked = None;
        let there = |place: Place| {
            let in_tail = place.segment == old.id && place.offset >= old.sums.used;
            in_tail.then(|| Place { segment: new, offset: place.offset - old.sums.used + DATA })
        };
        if let Some(place) = there(self.read) {
            (self.read, self.read_events) = (place, self.read_events.saturating_sub(old.sums.events));
        }
        if let Some(place) = there(self.acked.place) {
            self.acked = Acked { place, events: self.acked.events.saturating_sub(old.sums.events) };
        }
        Some(old)
    }

    /// Ends the active segment, whose tail is empty, and seals it.
    pub(super) fn rotate(&mut self, segment_bytes: u32) {
        let Some(mut active) = self.active.take() else { return };
        assert!(self.tail.is_empty(), "a tail belongs to its segment");
        let header = self.header();
        if let Some(file) = active.file.as_mut() {
            // Without it the next start reads the segment through: slower, not wrong.
            let _sealed = segment::write_seal(
                file.as_mut(),
                active.id,
                &Seal { header, last: true, sums: active.sums },
            );
        }
        self.finish(&active, u64::from(segment_bytes));
    }

    fn finish(&mut self, active: &Active, bytes: u64) {
        let run = self.this_run.clone();
        let (id, sums) = (active.id, active.sums);
        self.finished.push_back(Finished { id, run, sums, bytes, damaged: false, short: false });
    }

    /// The header of this run's segments.
    pub(super) fn header(&self) -> segment::Header {
        segment::Header {
            version: segment::VERSION,
            class: self.class,
            run: self.this_run.number,
            origin: (*self.this_run.origin).clone(),
            follows: self
                .finished
                .back()
                .filter(|before| !before.short)
                .map(|before| Place { segment: before.id, offset: before.sums.used }),
        }
    }
}
