//! All queues together: append, commit, take, acknowledge, drop. Used by one thread at a time; gets `now` as a parameter.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::class_queue::{CLOCK_EVERY, ClassQueue, Damage, Finished, Full, Run};
use super::clock_memory::ClockMemory;
use super::disk::Disk;
use super::files::{self, Files};
use super::record::{self, Dead, PAYLOAD_BYTES_MAX, Record};
pub use super::recovery::Recovered;
use super::recovery::{self, Stock};
use super::retain::{self, Held, Reason};
use super::segment::{self, Footer, Named};
use super::{Class, Params};
use crate::base::retry::Backoff;
use crate::event::{Event, Origin};
use crate::platform::calendar::Bounds;
use crate::platform::clock::{ClockSyncSample, Mono};

/// Number of finished segments of dead letters that are kept, the newest.
const DEAD_SEGMENTS_MAX: usize = 2;

/// If a disk cannot read some of its segments, attempts to attach it before the readable ones are accepted.
pub const ATTACH_TRIES: u32 = 3;

/// Smallest unit that flash is written in.
const PAGE_BYTES: u64 = 4096;
/// No run has this number: stands for the run of events in flight whose disk is gone.
const RUN_GONE: u64 = u64::MAX;

/// Delay of the retry after a failure of the disk; doubles with each further failure, up to the cap.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(300);

/// How many numbers are tried immediately for a new segment if other programs' files have these names.
const NUMBERS_TRIED: u32 = 64;

/// Counters of a spool since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Events that were appended.
    pub appended: u64,
    /// Events that were dropped for lack of space, by class.
    pub dropped: [u64; Class::ALL.len()],
    /// Bytes written to files.
    pub written_bytes: u64,
    /// Commits that wrote something.
    pub commits: u64,
    /// Commits that failed.
    pub failures: u64,
    /// Segments abandoned after a failed write or sync.
    pub given_up: u64,
    /// Bytes on disk that were no longer valid records when they were read.
    pub damaged_bytes: u64,
    /// Events that were lost with them.
    pub damaged_events: u64,
    /// Segments of which nobody knows how many events are lost: see [`Recovered::lost_segments`].
    pub lost_segments: u64,
    /// Events that were skipped because a newer version of the program wrote them: this one cannot read them.
    pub newer_events: u64,
    /// The version of the records of the last of them; 0: there are none.
    pub newer_version: u8,
    /// Dead letters written.
    pub dead: u64,
    /// Files set aside because they are damaged or unreadable.
    pub set_aside: u64,
    /// How often the disk was gone: removed, replaced, or mounted over.
    pub detached: u64,
    /// What the disk writes for `written_bytes`, in whole pages: an estimate of flash wear.
    pub flash_bytes: u64,
}

impl Tally {
    /// Events that were dropped before they were sent: not dead letters, which a receiver has refused and which are counted there.
    pub fn dropped_unsent(&self) -> u64 {
        let sent = Class::ALL.into_iter().filter(|class| *class != Class::Dead);
        sent.map(|class| self.dropped[class as usize]).sum()
    }
}

/// The run that the taken events belong to, and its clocks, if known, to convert its times to calendar times.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// Which run of which device.
    pub origin: Arc<Origin>,
    /// For events of an earlier boot: its clocks, as far as they are known. `None`: this boot, use the current clock.
    pub clock: Option<ClockSyncSample>,
    /// Further known limits on the time of that boot.
    pub bounds: Bounds,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Log {
    disk: Option<Box<dyn Disk>>,
    queues: [ClassQueue; Class::ALL.len()],
    params: Params,
    origin: Arc<Origin>,
    next_id: u64,
    files: Files,
    tally: Tally,
    /// Reason of the last drop of each class; `None`: memory was full.
    last_drop: [Option<Reason>; Class::ALL.len()],
    /// Number of failed attempts to attach a disk because it could not be read.
    attempts: u32,
    /// The newest `now` that was passed in.
    now: Mono,
    /// The run whose events are in flight: taken, and not done.
    in_flight: Option<u64>,
    /// The origin of that run.
    in_flight_origin: Option<Arc<Origin>>,
    /// Segments of runs that ended uncleanly, to be closed when there is time.
    unclosed: Vec<(Class, Footer, u64)>,
    clocks: ClockMemory,
    /// The newest reading that is on disk in every queue that needs it.
    anchored: Option<ClockSyncSample>,
    /// Reason of the last loss of the disk.
    why_detached: Option<String>,
}

impl Log {
    /// Other times and limits from now on: the intervals of commits, and how many events are kept, for how long, with how much space left
    /// free. Sizes of files and memory stay.
    pub fn set(&mut self, params: &Params) {
        let retain::Quota { bytes: _, events, age_max, headroom } = params.quota;
        self.params.quota = retain::Quota { bytes: self.params.quota.bytes, events, age_max, headroom };
        self.params.commit_interval = params.commit_interval;
        self.params.checkpoint_interval = params.checkpoint_interval;
    }

    /// A spool without a disk: everything is in memory.
    ///
    /// # Panics
    /// If a segment is smaller than all that can wait in memory: a bug.
    pub fn new(params: Params, origin: Origin) -> Self {
        assert!(2 * params.memory_bytes <= params.segment_bytes as usize, "see Params::memory_bytes");
        let origin = Arc::new(origin);
        let run = Run { number: 0, origin: Arc::clone(&origin) };
        let queues = Class::ALL.map(|class| {
            let bytes = (params.memory_bytes as f64 * class.memory_share()) as usize;
            let backoff = Backoff::new(RETRY_FIRST, RETRY_CAP, params.seed.wrapping_add(class as u64));
            ClassQueue::new(class, bytes.max(2 * record::FRAME_BYTES_MAX + 512), run.clone(), backoff)
        });
        Log {
            disk: None,
            queues,
            params,
            origin,
            next_id: 0,
            files: Files::new(params.segment_bytes),
            tally: Tally::default(),
            last_drop: [None; Class::ALL.len()],
            attempts: 0,
            now: Mono::ZERO,
            in_flight: None,
            in_flight_origin: None,
            unclosed: Vec::new(),
            clocks: ClockMemory::default(),
            anchored: None,
            why_detached: None,
        }
    }

    /// Attaches `disk`: its events come before those in memory. Events in flight are requeued, unless it has none, or all of those in flight
    /// are from another disk that is gone and cannot be read again: then they stay in flight (see [`Self::has_in_flight`]).
    ///
    /// # Errors
    /// The disk cannot be listed, or cannot read some of its files: those are set aside at attempt [`ATTACH_TRIES`]. Nothing has changed.
    ///
    /// # Panics
    /// If there is a disk already: a bug.
    pub fn attach(&mut self, mut disk: Box<dyn Disk>) -> io::Result<Recovered> {
        assert!(self.disk.is_none(), "a spool has one disk at a time");
        let stock = recovery::take_stock(disk.as_mut(), &self.params)?;
        self.attempts += 1;
        if stock.unreadable && self.attempts < ATTACH_TRIES {
            return Err(io::Error::other("it cannot read some of its segments"));
        }
        self.settle_in_flight(&stock);
        let recovered = self.adopt(disk.as_mut(), stock);
        self.disk = Some(disk);
        // Delivered segments are removed; the rest is to be sent.
        self.dispose_read();
        let segments = self.queues.iter().map(|queue| queue.finished.len() as u64).sum();
        Ok(Recovered { segments, events: self.waiting(), ..recovered })
    }

    /// What becomes of the events in flight when a disk with `stock` is attached.
    fn settle_in_flight(&mut self, stock: &Stock) {
        let all_gone = self.queues.iter().all(ClassQueue::has_only_gone_in_flight);
        let is_empty = stock.classes.iter().all(|class| class.segments.is_empty() && class.acked.is_none());
        let has_their_run = |segment: &Finished| self.in_flight_origin.as_ref() == Some(&segment.run.origin);
        let is_theirs = stock.classes.iter().flat_map(|class| &class.segments).any(has_their_run);
        if is_empty || all_gone && !is_theirs {
            // Nothing comes before them, or they are nowhere else. Nothing may join them: another disk numbers runs anew.
            self.in_flight = self.in_flight.map(|_| RUN_GONE);
        } else if all_gone {
            // Their own disk is back, and they are read from it again.
            self.in_flight = None;
            self.queues.iter_mut().for_each(ClassQueue::forget_in_flight);
        } else {
            self.requeue();
        }
    }

    fn adopt(&mut self, disk: &mut dyn Disk, stock: Stock) -> Recovered {
        let Stock { mut recovered, classes, free, junk, run, set_aside, damaged, unclosed, .. } = stock;
        self.unclosed = unclosed;
        self.next_id = self.next_id.max(stock.next_id);
        self.tally.damaged_bytes += recovered.damaged_bytes;
        self.tally.damaged_events += recovered.damaged_events;
        self.tally.lost_segments += recovered.lost_segments;
        self.files.adopt(disk, free, damaged);
        recovered.set_aside += set_aside.len() as u64;
        for file in set_aside {
            // A file that cannot be renamed is found again by the next start.
            let _renamed = self.files.set_aside(disk, file);
        }
        junk.into_iter().for_each(|named| files::remove(disk, named));
        let run = Run { number: run, origin: Arc::clone(&self.origin) };
        for (queue, class) in self.queues.iter_mut().zip(classes) {
            queue.behind = queue.wants_commit();
            queue.begin(run.clone(), &mut self.next_id);
            queue.adopt(class.segments, class.acked);
        }
        self.clocks.learn(self.queues.iter().flat_map(|queue| &queue.finished));
        recovered.clock = Some(self.clock_of(&self.origin)).filter(|clock| clock.wall.plausible());
        recovered
    }

    /// Checks that the disk is still the one that was attached. If not, it is detached: events on it that were not taken are dropped and
    /// counted, at once or when those in flight are requeued; events that were not written yet wait for another disk.
    ///
    /// # Errors
    /// It is not: there is no disk now.
    pub fn check_disk(&mut self) -> io::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let Err(error) = disk.still_in_place() else { return Ok(()) };
        self.disk = None;
        self.files.forget();
        self.unclosed.clear();
        (self.attempts, self.anchored) = (0, None);
        self.tally.detached += 1;
        for (index, queue) in self.queues.iter_mut().enumerate() {
            let gone = queue.detach(&mut self.next_id);
            self.tally.dropped[index] += gone;
            if gone > 0 {
                self.last_drop[index] = Some(Reason::Detached);
            }
        }
        self.why_detached = Some(error.to_string());
        Err(error)
    }

    /// Reason of the last loss of the disk.
    pub fn why_detached(&self) -> Option<&str> {
        self.why_detached.as_deref()
    }

    /// The run of the device that this is.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether events that were taken are not done yet.
    pub fn has_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Requeues the events in flight. Those that cannot be read, because their disk is gone, are dropped and counted.
    pub fn requeue(&mut self) {
        self.in_flight = None;
        for (index, queue) in self.queues.iter_mut().enumerate() {
            let gone = queue.requeue();
            self.tally.dropped[index] += gone;
            if gone > 0 {
                self.last_drop[index] = Some(Reason::Detached);
            }
        }
    }

    /// Whether a receiver has confirmed anything, including in an earlier run whose files still exist.
    pub fn was_confirmed(&self) -> bool {
        self.sent_queues().any(ClassQueue::was_acked)
    }

    /// Whether there is a disk.
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Adds an event. If there is no other way to make space, an old one of its class is dropped for it, and counted.
    pub fn append(&mut self, now: Mono, event: &Event) {
        self.now = self.now.max(now);
        let class = Class::of(&event.body);
        let mut buffer = [0; PAYLOAD_BYTES_MAX];
        self.tally.appended += 1;
        let soon =
            if event.body.can_wait() { self.params.checkpoint_interval } else { self.params.commit_interval };
        self.push(now, class, record::encode_event(event, &mut buffer), soon);
    }

    /// Stores a dead letter.
    pub fn write_dead_letter(&mut self, now: Mono, dead: Dead) {
        let mut buffer = [0; PAYLOAD_BYTES_MAX];
        let record = Record::Dead(Box::new(dead));
        self.tally.dead += 1;
        self.push(now, Class::Dead, record.encode(&mut buffer), self.params.commit_interval);
        let index = Class::Dead as usize;
        while self.queues[index].finished.len() > DEAD_SEGMENTS_MAX
            && let Some((segment, lost)) = self.queues[index].evict(0)
        {
            self.tally.dropped[index] += lost;
            self.last_drop[index] = Some(Reason::Count);
            self.files.dispose(self.disk.as_deref_mut(), Class::Dead, [segment]);
        }
    }

    fn push(&mut self, now: Mono, class: Class, payload: &[u8], soon: Duration) {
        let index = class as usize;
        loop {
            let queue = &mut self.queues[index];
            match queue.append(payload, self.params.segment_bytes, &mut self.next_id) {
                Ok(()) => {
                    let due = now
                        + if queue.tail_bytes() >= self.params.commit_bytes { Duration::ZERO } else { soon };
                    queue.due = Some(queue.due.map_or(due, |earlier| earlier.min(due)));
                    return;
                }
                Err(Full::Segment) => {
                    if self.commit_queue(now, index, None) {
                        self.queues[index].rotate(self.params.segment_bytes);
                    } else {
                        // Events that wait for the disk continue in a segment with enough space, whenever it is written.
                        self.queues[index].give_up(self.params.segment_bytes, &mut self.next_id);
                    }
                }
                Err(Full::Tail) => {
                    if self.commit_queue(now, index, None) {
                        continue;
                    }
                    let queue = &mut self.queues[index];
                    let dropped = queue.drop_oldest(self.params.memory_bytes / 64 + 2 * payload.len() + 512);
                    self.tally.dropped[index] += dropped;
                    self.last_drop[index] = None;
                    if dropped == 0 && !queue.has_room_for(payload.len()) {
                        self.tally.dropped[index] += 1; // All events are in flight: the new one is dropped.
                        return;
                    }
                }
            }
        }
    }

    /// When the next commit is due.
    pub fn due(&self) -> Option<Mono> {
        self.disk.as_ref()?;
        self.queues.iter().filter_map(|queue| queue.due).min()
    }

    /// Commits what is due at `now`, or everything. `clock` is written along, so that a later boot knows the times: immediately where it is
    /// news for events on disk.
    pub fn commit(&mut self, now: Mono, clock: Option<ClockSyncSample>, everything: bool) {
        self.now = self.now.max(now);
        if let Some(clock) = clock.filter(|clock| clock.wall.is_trusted())
            && clock.is_news_after(self.anchored)
        {
            self.anchored = Some(clock);
            for queue in &mut self.queues {
                queue.anchor(now, clock);
            }
        }
        let is_due = |queue: &ClassQueue| {
            queue.due.is_some_and(|due| due <= now) || (everything && queue.wants_commit())
        };
        for index in 0..self.queues.len() {
            if is_due(&self.queues[index]) {
                self.commit_queue(now, index, clock);
            }
        }
    }

    /// Whether it worked, or there was nothing to do.
    fn commit_queue(&mut self, now: Mono, index: usize, clock: Option<ClockSyncSample>) -> bool {
        if self.disk.is_none() {
            return false;
        }
        if now < self.queues[index].retry_at {
            self.queues[index].due = Some(self.queues[index].retry_at);
            return false;
        }
        let dead = Class::Dead as usize;
        if index != dead && self.queues[index].has_news() && self.queues[dead].tail_bytes() > 0 {
            // A dead letter must be on disk before its event is recorded as done: see `write`.
            self.commit_queue(now, dead, clock);
        }
        if self.queues[index].active_file().is_none() && self.queues[index].wants_commit() {
            self.close_old();
            self.retain(clock, u64::from(self.params.segment_bytes));
        }
        let (mut outcome, mut tries) = (self.write(index, clock), 1);
        while tries < NUMBERS_TRIED
            && outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
        {
            // Another program's file has that name: try another number.
            self.queues[index].give_up(self.params.segment_bytes, &mut self.next_id);
            (outcome, tries) = (self.write(index, clock), tries + 1);
        }
        let (queue, segment_bytes) = (&mut self.queues[index], self.params.segment_bytes);
        match outcome {
            Ok(bytes) => {
                queue.behind = false;
                if queue.has_news() {
                    queue.due = Some(now + self.params.commit_interval);
                }
                self.tally.written_bytes += bytes;
                if bytes > 0 {
                    self.tally.commits += 1;
                    self.tally.flash_bytes += (bytes / PAGE_BYTES + 1) * PAGE_BYTES;
                    queue.backoff.succeeded();
                    queue.trouble = None;
                }
                true
            }
            Err(error) => {
                self.tally.failures += 1;
                queue.retry_at = now + queue.backoff.next_delay();
                queue.trouble = Some(error.to_string());
                self.tally.given_up += u64::from(queue.active_file().is_some());
                queue.give_up(segment_bytes, &mut self.next_id);
                queue.due = Some(queue.retry_at);
                false
            }
        }
    }

    fn write(&mut self, index: usize, clock: Option<ClockSyncSample>) -> io::Result<u64> {
        let Log { disk, files, queues, next_id, .. } = self;
        let disk = disk.as_mut().ok_or_else(|| io::Error::other("there is no disk"))?.as_mut();
        // While a dead letter is in memory only, nothing is recorded as done.
        let may_record = index == Class::Dead as usize || queues[Class::Dead as usize].tail_bytes() == 0;
        let queue = &mut queues[index];
        let (class, header) = (queue.class, queue.header());
        queue.commit(clock, may_record, next_id, |id| files.create(disk, Named::Segment(class, id), &header))
    }

    /// Writes the footers of segments whose runs did not get to it. Bytes behind the last record were never committed, and others need
    /// their space. None of this has to be durable: without it the next start reads the segments again.
    fn close_old(&mut self) {
        for (class, footer, id) in std::mem::take(&mut self.unclosed) {
            let Some(disk) = self.disk.as_mut() else { return };
            let queue = &mut self.queues[class as usize];
            let Some(segment) = queue.finished.iter_mut().find(|segment| segment.id == id) else { continue };
            let Ok(mut file) = disk.open(&Named::Segment(class, id).file()) else { continue };
            let used = u64::from(footer.sums.used);
            if used + 4096 < segment.bytes && file.set_len(used).is_ok() {
                segment.bytes = used;
            }
            let _written = segment::write_footer(file.as_mut(), id, &footer);
        }
    }

    /// Drops what exceeds the quota once `need` more bytes arrive.
    pub fn retain(&mut self, clock: Option<ClockSyncSample>, need: u64) {
        let Some(disk) = &mut self.disk else { return };
        let free = disk.free_bytes().ok();
        let free = self.remove_spare_files(free, need);
        let need = need.saturating_sub(self.files.free_bytes());
        let (held, whose) = self.held(clock);
        let segment_bytes = u64::from(self.params.segment_bytes);
        let active = self.queues.iter().filter(|queue| queue.active_file().is_some()).count() as u64;
        let fixed = active * segment_bytes + self.files.bytes();
        let quota =
            retain::Quota { bytes: self.params.quota.bytes.saturating_sub(fixed), ..self.params.quota };
        let mut plan = retain::plan(&held, &quota, free, need);
        // From the back, so that earlier indices stay valid.
        plan.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, reason) in plan {
            let (at, index) = whose[index];
            if let Some((segment, lost)) = self.queues[at].evict(index) {
                self.tally.dropped[at] += lost;
                self.last_drop[at] = Some(reason);
                self.files.dispose(self.disk.as_deref_mut(), self.queues[at].class, [segment]);
            }
        }
    }

    /// Removes files without events to send, as far as that frees space that is needed. `free`: free bytes of the file system; returns the
    /// value afterwards.
    fn remove_spare_files(&mut self, mut free: Option<u64>, need: u64) -> Option<u64> {
        let quota = self.params.quota;
        // A free file is the space that is needed; further ones are removed before any event is.
        let keep = need.div_ceil(u64::from(self.params.segment_bytes));
        while self.files.free_count() > keep
            && (self.disk_bytes() > quota.bytes || free.is_some_and(|free| free < quota.headroom))
            && let Some(bytes) = self.disk.as_mut().and_then(|disk| self.files.remove_free(disk.as_mut()))
        {
            free = free.map(|free| free + bytes);
        }
        // Files kept for inspection are removed next.
        while (self.disk_bytes() + need > quota.bytes
            || free.is_some_and(|free| free < quota.headroom.saturating_add(need)))
            && let Some(bytes) = self.disk.as_mut().and_then(|disk| self.files.remove_damaged(disk.as_mut()))
        {
            free = free.map(|free| free + bytes);
        }
        free
    }

    /// The finished segments as input for [`retain::plan`], each with its queue and its index there.
    fn held(&self, clock: Option<ClockSyncSample>) -> (Vec<Held>, Vec<(usize, usize)>) {
        let wall = clock.map(|clock| clock.wall).filter(|wall| wall.is_trusted());
        let (mut held, mut whose) = (Vec::new(), Vec::new());
        for (at, queue) in self.queues.iter().enumerate() {
            for (index, segment) in queue.finished.iter().enumerate() {
                let ended = segment.sums.clock.filter(|clock| clock.wall.is_trusted());
                let age = wall.zip(ended).map(|(now, then)| {
                    let since = now.unix_nanos.saturating_sub(then.wall.unix_nanos).max(0) as u64;
                    Duration::from_nanos(since).saturating_sub(CLOCK_EVERY)
                });
                let (bytes, events) = (segment.bytes, queue.unread_in(segment));
                let in_use = queue.is_in_flight(segment.id);
                held.push(Held { class: queue.class, bytes, events, age, in_use });
                whose.push((at, index));
            }
        }
        (held, whose)
    }

    /// Events that wait to be sent.
    pub fn waiting(&self) -> u64 {
        self.sent_queues().map(|queue| queue.unread).sum()
    }

    /// Those of one class.
    pub fn waiting_of(&self, class: Class) -> u64 {
        self.queues[class as usize].unread
    }

    fn sent_queues(&self) -> impl Iterator<Item = &ClassQueue> {
        self.queues.iter().filter(|queue| queue.class != Class::Dead)
    }

    /// Moves events of one run to the end of `out`, oldest first, until it has `most`. If there are more than one batch, alerts come first.
    /// Returns their run; `None` if there are none (of that run, if some are in flight).
    pub fn take(&mut self, most: usize, out: &mut Vec<Event>) -> Option<Taken> {
        let urgent = self.waiting() > most as u64;
        let mut whose = None;
        while out.len() < most
            && let Some((index, run)) = self.next_queue(urgent)
            && self.in_flight.is_none_or(|number| number == run.number)
        {
            out.extend(self.queues[index].take());
            self.in_flight = Some(run.number);
            whose = Some(run);
        }
        let run = whose?;
        self.in_flight_origin = Some(Arc::clone(&run.origin));
        let clock = (!run.origin.same_boot(&self.origin)).then(|| self.clock_of(&run.origin));
        let bounds = self.clocks.bounds_of(&run);
        Some(Taken { origin: run.origin, clock, bounds })
    }

    /// The queue with the next event.
    fn next_queue(&mut self, urgent: bool) -> Option<(usize, Run)> {
        let mut first: Option<(usize, Run, u64)> = None;
        for (index, queue) in
            self.queues.iter_mut().enumerate().filter(|(_, queue)| queue.class != Class::Dead)
        {
            let Some(peeked) = queue.peek(self.disk.as_deref_mut(), self.now) else { continue };
            let sooner = |(_, run, seq): &(usize, Run, u64)| {
                (peeked.run.number, peeked.event.seq) < (run.number, *seq)
            };
            if first.as_ref().is_none_or(sooner) {
                first = Some((index, peeked.run.clone(), peeked.event.seq));
            }
            if urgent
                && queue.class == Class::Alerts
                && self.in_flight.is_none_or(|number| queue.peeked_run() == Some(number))
            {
                break;
            }
        }
        self.note_damage();
        first.map(|(index, run, _)| (index, run))
    }

    fn note_damage(&mut self) {
        for queue in &mut self.queues {
            let Damage { bytes, events, newer, newer_version } = std::mem::take(&mut queue.damage);
            self.tally.damaged_bytes += bytes;
            self.tally.damaged_events += events;
            if newer > 0 {
                self.tally.newer_events += newer;
                self.tally.newer_version = newer_version;
            }
        }
    }

    /// The best known clock data of an earlier boot.
    fn clock_of(&self, origin: &Origin) -> ClockSyncSample {
        self.clocks.clock_of(origin, self.queues.iter().flat_map(|queue| &queue.finished))
    }

    /// Marks these events, which were taken, as delivered or dead letters: they are not sent again, whatever happens to the others.
    pub fn acknowledge(&mut self, now: Mono, events: &[Event]) {
        for event in events {
            self.queues[Class::of(&event.body) as usize].acknowledge(event.seq);
        }
        if self.queues.iter().any(ClassQueue::has_in_flight) {
            self.schedule_acknowledgement(now);
        } else {
            self.done(now);
        }
    }

    /// Everything that was taken is delivered or a dead letter: none of it is sent again.
    pub fn done(&mut self, now: Mono) {
        self.in_flight = None;
        self.queues.iter_mut().for_each(ClassQueue::ack);
        self.remove_read(now);
        self.schedule_acknowledgement(now);
    }

    /// The next commit records how far the queues are done.
    fn schedule_acknowledgement(&mut self, now: Mono) {
        self.now = self.now.max(now);
        let due = now + self.params.commit_interval;
        for queue in &mut self.queues {
            if queue.has_news() {
                // What was delivered must not be sent again, although other events may wait longer for their commit.
                queue.due = Some(queue.due.map_or(due, |other| other.min(due)));
            } else if queue.due.is_none() && queue.wants_commit() {
                queue.due = Some(due);
            }
        }
    }

    /// Removes the segments that were read to their ends, but not before the dead letters of their events are on disk.
    fn remove_read(&mut self, now: Mono) {
        let dead = Class::Dead as usize;
        let must_wait = self.queues[dead].tail_bytes() > 0
            && self.queues.iter().any(ClassQueue::has_read_segments)
            && !self.commit_queue(now, dead, None);
        if !must_wait {
            self.dispose_read();
        }
    }

    fn dispose_read(&mut self) {
        for queue in &mut self.queues {
            self.files.dispose(self.disk.as_deref_mut(), queue.class, queue.remove_read());
        }
    }

    /// Counters so far.
    pub fn tally(&self) -> Tally {
        Tally { set_aside: self.files.set_aside_count(), ..self.tally }
    }

    /// Reason why the last events of a class were dropped; `None`: not the quota, but full memory.
    pub fn last_drop(&self, class: Class) -> Option<Reason> {
        self.last_drop[class as usize]
    }

    /// The error of the disk, while there is one.
    pub fn trouble(&self) -> Option<&str> {
        self.queues.iter().find_map(|queue| queue.trouble.as_deref())
    }

    /// Whether events of a class are overdue for a commit: there is no disk, its last write failed, or it was just attached and the backlog
    /// is not written yet.
    pub fn fails(&self, class: Class) -> bool {
        let fails = |queue: &ClassQueue| queue.class == class && (queue.trouble.is_some() || queue.behind);
        self.disk.is_none() || self.queues.iter().any(fails)
    }

    /// Size of all files, bytes.
    pub fn disk_bytes(&self) -> u64 {
        let segment_bytes = u64::from(self.params.segment_bytes);
        let queues = self.queues.iter().map(|queue| {
            let finished: u64 = queue.finished.iter().map(|segment| segment.bytes).sum();
            finished + if queue.active_file().is_some() { segment_bytes } else { 0 }
        });
        queues.sum::<u64>() + self.files.bytes()
    }
}
