//! All lanes together: what is appended, committed, taken, acknowledged and dropped. One thread at a time; told the time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::class_queue::{CLOCK_EVERY, Damage, Finished, Full, Lane, Run};
use super::disk::{Disk, DiskFile};
use super::record::{self, Acked, Dead, PAYLOAD_BYTES_MAX, Place, Record};
use super::retain::{self, Held, Reason};
use super::segment::{self, Begin, Named, Seal, Sums};
use super::{Class, Params};
use crate::base::retry::Backoff;
use crate::event::{Event, Origin};
use crate::platform::calendar::{Bounds, started_before};
use crate::platform::clock::{ClockMap, Mono};

/// Empty files that are kept for the next segments: writing over a file costs about half of what writing into a new one
/// does, because the file system has nothing to note. They are the first to go when there is no room.
const FREE_FILES_MAX: usize = 32;

/// Segments with damage that are kept for people to look at, the newest.
const DAMAGED_FILES_MAX: usize = 4;

/// Finished segments of dead letters that are kept, the newest.
const DEAD_SEGMENTS_MAX: usize = 2;

/// A disk that cannot read some of its segments is tried so often before it is taken as it is.
pub const ATTACH_TRIES: u32 = 3;

/// What flash is written in, at least.
const PAGE_BYTES: u64 = 4096;

/// After a failure of the disk it is tried again so soon, then after twice as long, up to the cap.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(300);

/// What was found when a spool was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Segments with events.
    pub segments: u64,
    /// Events that are not delivered yet.
    pub events: u64,
    /// Segments without a seal: the last run did not end well. They were read through.
    pub unsealed: u64,
    /// Bytes between records that are no records.
    pub damaged_bytes: u64,
    /// Files that belong to nobody any more, or cannot be read: they are left or set aside.
    pub set_aside: u64,
    /// The best reading of the calendar that an earlier process of this boot left.
    pub clock: Option<ClockMap>,
}

/// What has happened to a spool since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Events that were appended.
    pub appended: u64,
    /// Events that were dropped for want of room, by class.
    pub dropped: [u64; Class::ALL.len()],
    /// Bytes written to files.
    pub written_bytes: u64,
    /// Commits that wrote something.
    pub commits: u64,
    /// Commits that failed.
    pub failures: u64,
    /// Segments given up after a failed write or sync.
    pub given_up: u64,
    /// Bytes on disk that were no records any more when they were read.
    pub damaged_bytes: u64,
    /// Events that were lost with them.
    pub damaged_events: u64,
    /// Events that were skipped because a newer version of the program wrote them: this one cannot read them.
    pub newer_events: u64,
    /// The version of the records of the last of them; 0: there are none.
    pub newer_version: u8,
    /// Dead letters written.
    pub dead: u64,
    /// Files with damage, or that nobody can read, that were set aside.
    pub set_aside: u64,
    /// What the disk has to write for `written_bytes`, in whole pages: what its flash wears by, about.
    pub flash_bytes: u64,
}

/// Whose events were taken, and the clocks that turn their times into calendar times, if it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// Which run of which device.
    pub origin: Arc<Origin>,
    /// For events of an earlier boot: its clocks, as far as anybody knew. `None`: this boot's, ask the clock.
    pub clock: Option<ClockMap>,
    /// What else is known about the time of that boot.
    pub bounds: Bounds,
}

/// A reading of the calendar by an earlier run that somebody vouched for.
#[derive(Debug)]
struct Vouched {
    run: u64,
    origin: Arc<Origin>,
    clock: ClockMap,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Log {
    disk: Option<Box<dyn Disk>>,
    lanes: [Lane; Class::ALL.len()],
    params: Params,
    origin: Arc<Origin>,
    next_id: u64,
    free: Vec<u64>,
    damaged: VecDeque<(Class, u64, u64)>,
    tally: Tally,
    /// Why the last drop of each class was needed; `None`: memory.
    last_drop: [Option<Reason>; Class::ALL.len()],
    /// How often a disk could not be attached because it could not be read.
    attempts: u32,
    /// The last time that was told.
    now: Mono,
    /// The run whose events are in hand.
    hand: Option<u64>,
    /// Segments of runs that did not end well, to be sealed when there is time.
    unsealed: Vec<(Class, u64, Seal)>,
    /// The best of each earlier run, in their order.
    vouched: Vec<Vouched>,
    /// The newest reading that is on disk in every lane that needs it.
    anchored: Option<ClockMap>,
}

impl Log {
    /// A spool without a disk: everything is in memory.
    ///
    /// # Panics
    /// If a segment does not take all that can wait in memory: our own mistake.
    pub fn new(params: Params, origin: Origin) -> Self {
        assert!(2 * params.memory_bytes <= params.segment_bytes as usize, "see Params::memory_bytes");
        let origin = Arc::new(origin);
        let run = Run { number: 0, origin: Arc::clone(&origin) };
        let lanes = Class::ALL.map(|class| {
            let bytes = (params.memory_bytes as f64 * class.memory_share()) as usize;
            let backoff = Backoff::new(RETRY_FIRST, RETRY_CAP, params.seed.wrapping_add(class as u64));
            Lane::new(class, bytes.max(2 * record::FRAME_BYTES_MAX + 512), run.clone(), backoff)
        });
        Log {
            disk: None,
            lanes,
            params,
            origin,
            next_id: 0,
            free: Vec::new(),
            damaged: VecDeque::new(),
            tally: Tally::default(),
            last_drop: [None; Class::ALL.len()],
            attempts: 0,
            now: Mono::ZERO,
            hand: None,
            unsealed: Vec::new(),
            vouched: Vec::new(),
            anchored: None,
        }
    }

    /// Takes `disk` into use: what it holds comes before what is in memory.
    ///
    /// # Errors
    /// The disk cannot be listed, or cannot read some of its files: those are set aside at the last of [`ATTACH_TRIES`].
    ///
    /// # Panics
    /// If events are in hand (see [`Self::put_back`]), or there is a disk already: our own mistake.
    pub fn attach(&mut self, mut disk: Box<dyn Disk>) -> io::Result<Recovered> {
        assert!(self.disk.is_none() && self.hand.is_none(), "a spool has one disk from its start");
        let mut files: Vec<(Named, u64)> = disk
            .list()?
            .into_iter()
            .filter_map(|(name, bytes)| Some((Named::parse(&name)?, bytes)))
            .collect();
        files.sort_unstable_by_key(|(named, _)| named.id());
        let mut found = Found::default();
        // The newest first: each says where the one before it ends.
        for (named, bytes) in files.into_iter().rev() {
            self.next_id = self.next_id.max(named.id() + 1);
            match named {
                Named::Segment(class, id) => found.look_at(disk.as_mut(), class, id, bytes, &self.params),
                Named::Free(id) if bytes == u64::from(self.params.segment_bytes) => found.free.push(id),
                Named::Free(_) => found.junk.push(named),
                Named::Damaged(class, id) => found.damaged.push_front((class, id, bytes)),
            }
        }
        self.attempts += 1;
        if (!found.unreadable.is_empty() || found.tries_again) && self.attempts < ATTACH_TRIES {
            return Err(io::Error::other("it cannot read some of its segments"));
        }
        self.disk = Some(disk);
        Ok(self.adopt(found))
    }

    fn adopt(&mut self, found: Found) -> Recovered {
        let Found { mut recovered, segments, acked, free, junk, run, mut set_aside, unsealed, .. } = found;
        self.unsealed = unsealed;
        self.damaged = found.damaged;
        self.tally.damaged_bytes += recovered.damaged_bytes;
        recovered.set_aside += found.unreadable.len() as u64;
        set_aside.extend(found.unreadable);
        let run = Run { number: run, origin: Arc::clone(&self.origin) };
        self.free = free;
        for (class, id, bytes) in set_aside {
            self.set_aside(class, id, bytes);
        }
        for (lane, (segments, acked)) in self.lanes.iter_mut().zip(segments.into_iter().zip(acked)) {
            self.next_id = self.next_id.max(acked.map_or(0, |acked| acked.place.segment.saturating_add(1)));
            lane.behind = lane.wants_commit();
            lane.begin(run.clone(), &mut self.next_id);
            lane.adopt(segments, acked);
        }
        self.remember_clocks();
        recovered.clock = Some(self.clock_of(&self.origin)).filter(|clock| clock.wall.plausible());
        for junk in junk {
            self.remove(junk);
        }
        self.trim_free();
        for index in 0..self.lanes.len() {
            // What is delivered goes; the rest is what there is to send.
            let done = self.lanes[index].ack();
            self.dispose(index, done);
            recovered.segments += self.lanes[index].finished.len() as u64;
        }
        recovered.events = self.waiting();
        recovered
    }

    /// Which run of which device this is.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether events were taken that are not done.
    pub fn has_hand(&self) -> bool {
        self.hand.is_some()
    }

    /// What is in hand is to be taken again.
    pub fn put_back(&mut self) {
        self.hand = None;
        self.lanes.iter_mut().for_each(Lane::put_back);
    }

    /// Whether a receiver has confirmed anything, also in an earlier run whose files are still there.
    pub fn was_confirmed(&self) -> bool {
        self.sent_lanes().any(Lane::was_acked)
    }

    /// Whether there is a disk.
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Adds an event. When nothing else makes room, an old one of its class is dropped for it, and counted.
    pub fn append(&mut self, now: Mono, event: &Event) {
        self.now = self.now.max(now);
        let class = Class::of(&event.body);
        let mut buffer = [0; PAYLOAD_BYTES_MAX];
        self.tally.appended += 1;
        let soon =
            if event.body.can_wait() { self.params.checkpoint_interval } else { self.params.commit_interval };
        self.push(now, class, record::encode_event(event, &mut buffer), soon);
    }

    /// Keeps a dead letter.
    pub fn bury(&mut self, now: Mono, dead: Dead) {
        let mut buffer = [0; PAYLOAD_BYTES_MAX];
        let record = Record::Dead(Box::new(dead));
        self.tally.dead += 1;
        self.push(now, Class::Dead, record.encode(&mut buffer), self.params.commit_interval);
        let index = Class::Dead as usize;
        while self.lanes[index].finished.len() > DEAD_SEGMENTS_MAX
            && let Some((segment, lost)) = self.lanes[index].lose(0)
        {
            self.tally.dropped[index] += lost;
            self.dispose(index, vec![segment]);
        }
    }

    fn push(&mut self, now: Mono, class: Class, payload: &[u8], soon: Duration) {
        let index = class as usize;
        loop {
            let lane = &mut self.lanes[index];
            match lane.append(payload, self.params.segment_bytes, &mut self.next_id) {
                Ok(()) => {
                    let due = now
                        + if lane.tail_bytes() >= self.params.commit_bytes { Duration::ZERO } else { soon };
                    lane.due = Some(lane.due.map_or(due, |earlier| earlier.min(due)));
                    return;
                }
                Err(Full::Segment) => {
                    if self.commit_lane(now, index, None) {
                        self.lanes[index].rotate(self.params.segment_bytes);
                    } else {
                        // What waits for the disk goes on in a segment that has room, whenever that is written.
                        self.lanes[index].give_up(self.params.segment_bytes, &mut self.next_id);
                    }
                }
                Err(Full::Tail) => {
                    if self.commit_lane(now, index, None) {
                        continue;
                    }
                    let lane = &mut self.lanes[index];
                    let dropped = lane.drop_oldest(self.params.memory_bytes / 64 + 2 * payload.len() + 512);
                    self.tally.dropped[index] += dropped;
                    self.last_drop[index] = None;
                    if dropped == 0 && !lane.has_room_for(payload.len()) {
                        self.tally.dropped[index] += 1; // All of it is in hand: the new one goes.
                        return;
                    }
                }
            }
        }
    }

    /// When the next commit is due.
    pub fn due(&self) -> Option<Mono> {
        self.disk.as_ref()?;
        self.lanes.iter().filter_map(|lane| lane.due).min()
    }

    /// Makes durable what is due at `now`, or everything. `clock` is written along, so that a later boot knows the times:
    /// at once where events are on disk that it is news for.
    pub fn commit(&mut self, now: Mono, clock: Option<ClockMap>, everything: bool) {
        self.now = self.now.max(now);
        if let Some(clock) = clock.filter(|clock| clock.wall.vouched())
            && clock.is_news_after(self.anchored)
        {
            self.anchored = Some(clock);
            for lane in &mut self.lanes {
                lane.anchor(now, clock);
            }
        }
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            if lane.due.is_some_and(|due| due <= now) || (everything && lane.wants_commit()) {
                self.commit_lane(now, index, clock);
            }
        }
    }

    /// Whether it worked, or there was nothing to do.
    fn commit_lane(&mut self, now: Mono, index: usize, clock: Option<ClockMap>) -> bool {
        if self.disk.is_none() {
            return false;
        }
        if now < self.lanes[index].retry_at {
            self.lanes[index].due = Some(self.lanes[index].retry_at);
            return false;
        }
        if self.lanes[index].active_file().is_none() && self.lanes[index].wants_commit() {
            self.seal_old();
            self.retain(clock, u64::from(self.params.segment_bytes));
        }
        let lane = &mut self.lanes[index];
        let (class, header, segment_bytes) = (lane.class, lane.header(), self.params.segment_bytes);
        let (disk, free) = (&mut self.disk, &mut self.free);
        let disk = disk.as_mut().expect("looked at above").as_mut();
        let outcome =
            lane.commit(clock, &mut self.next_id, |id| create(disk, free, class, id, &header, segment_bytes));
        match outcome {
            Ok(bytes) => {
                lane.behind = false;
                self.tally.written_bytes += bytes;
                if bytes > 0 {
                    self.tally.commits += 1;
                    self.tally.flash_bytes += (bytes / PAGE_BYTES + 1) * PAGE_BYTES;
                    lane.backoff.succeeded();
                    lane.trouble = None;
                }
                true
            }
            Err(error) => {
                self.tally.failures += 1;
                lane.retry_at = now + lane.backoff.next_delay();
                lane.trouble = Some(error.to_string());
                self.tally.given_up += u64::from(lane.active_file().is_some());
                lane.give_up(segment_bytes, &mut self.next_id);
                lane.due = Some(lane.retry_at);
                false
            }
        }
    }

    /// Seals segments whose runs did not get to it. What is behind the last record was never promised, and its room is
    /// needed by others. None of this has to last: without it the next start reads them through again.
    fn seal_old(&mut self) {
        for (class, id, seal) in std::mem::take(&mut self.unsealed) {
            let Some(disk) = self.disk.as_mut() else { return };
            let lane = &mut self.lanes[class as usize];
            let Some(segment) = lane.finished.iter_mut().find(|segment| segment.id == id) else { continue };
            let Ok(mut file) = disk.open(&Named::Segment(class, id).file()) else { continue };
            let used = u64::from(seal.sums.used);
            if used + 4096 < segment.bytes && file.set_len(used).is_ok() {
                segment.bytes = used;
            }
            let _sealed = segment::write_seal(file.as_mut(), id, &seal);
        }
    }

    /// Drops what the quota does not allow, if `need` more bytes come.
    pub fn retain(&mut self, clock: Option<ClockMap>, need: u64) {
        let Some(disk) = &mut self.disk else { return };
        let mut free = disk.free_bytes().ok();
        let segment_bytes = u64::from(self.params.segment_bytes);
        // A free file is the room that is needed; those beyond it go before any event does.
        let keep = need.div_ceil(segment_bytes);
        while self.free.len() as u64 > keep
            && (self.disk_bytes() > self.params.quota.bytes
                || free.is_some_and(|free| free < self.params.quota.headroom))
            && let Some(id) = self.free.pop()
        {
            self.remove(Named::Free(id));
            free = free.map(|free| free + segment_bytes);
        }
        // What is kept for people goes next.
        while (self.disk_bytes() + need > self.params.quota.bytes
            || free.is_some_and(|free| free < self.params.quota.headroom.saturating_add(need)))
            && let Some((class, id, bytes)) = self.damaged.pop_front()
        {
            self.remove(Named::Damaged(class, id));
            free = free.map(|free| free + bytes);
        }
        let spare = self.free.len() as u64 * segment_bytes;
        let need = need.saturating_sub(spare);
        let mut held = Vec::new();
        let mut whose = Vec::new();
        let wall = clock.map(|clock| clock.wall).filter(|wall| wall.vouched());
        for (at, lane) in self.lanes.iter().enumerate() {
            for (index, segment) in lane.finished.iter().enumerate() {
                let ended = segment.sums.clock.filter(|clock| clock.wall.vouched());
                let age = wall.zip(ended).map(|(now, then)| {
                    let since = now.unix_nanos.saturating_sub(then.wall.unix_nanos).max(0) as u64;
                    Duration::from_nanos(since).saturating_sub(CLOCK_EVERY)
                });
                let (bytes, events) = (segment.bytes, lane.unread_in(segment));
                held.push(Held {
                    class: lane.class,
                    bytes,
                    events,
                    age,
                    in_use: lane.is_in_hand(segment.id),
                });
                whose.push((at, index));
            }
        }
        let active = self.lanes.iter().filter(|lane| lane.active_file().is_some()).count() as u64;
        let fixed =
            active * segment_bytes + spare + self.damaged.iter().map(|(.., bytes)| bytes).sum::<u64>();
        let quota =
            retain::Quota { bytes: self.params.quota.bytes.saturating_sub(fixed), ..self.params.quota };
        let mut plan = retain::plan(&held, &quota, free, need);
        // From the back, so that the indices in front stay what they are.
        plan.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, reason) in plan {
            let (at, index) = whose[index];
            if let Some((segment, lost)) = self.lanes[at].lose(index) {
                self.tally.dropped[at] += lost;
                self.last_drop[at] = Some(reason);
                self.dispose(at, vec![segment]);
            }
        }
    }

    /// Events that wait to be sent.
    pub fn waiting(&self) -> u64 {
        self.sent_lanes().map(|lane| lane.unread).sum()
    }

    /// Those of one class.
    pub fn waiting_of(&self, class: Class) -> u64 {
        self.lanes[class as usize].unread
    }

    fn sent_lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(|lane| lane.class != Class::Dead)
    }

    /// Moves events of one run behind those in `out`, oldest first, until it has `most`. With more to send than one batch,
    /// alerts come first. Says whose they are; `None` if there are none (of that run, if some are in hand).
    pub fn take(&mut self, most: usize, out: &mut Vec<Event>) -> Option<Taken> {
        let urgent = self.waiting() > most as u64;
        let mut whose = None;
        while out.len() < most
            && let Some((index, run)) = self.next_lane(urgent)
            && self.hand.is_none_or(|hand| hand == run.number)
        {
            out.extend(self.lanes[index].take());
            self.hand = Some(run.number);
            whose = Some(run);
        }
        let run = whose?;
        let clock = (!run.origin.same_boot(&self.origin)).then(|| self.clock_of(&run.origin));
        let bounds = self.bounds_of(&run);
        Some(Taken { origin: run.origin, clock, bounds })
    }

    /// The lane with the next event.
    fn next_lane(&mut self, urgent: bool) -> Option<(usize, Run)> {
        let mut first: Option<(usize, Run, u64)> = None;
        for (index, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.class != Class::Dead) {
            let Some(peeked) = lane.peek(self.disk.as_deref_mut(), self.now) else { continue };
            let sooner = |(_, run, seq): &(usize, Run, u64)| {
                (peeked.run.number, peeked.event.seq) < (run.number, *seq)
            };
            if first.as_ref().is_none_or(sooner) {
                first = Some((index, peeked.run.clone(), peeked.event.seq));
            }
            if urgent
                && lane.class == Class::Alerts
                && self.hand.is_none_or(|hand| lane.peeked_run() == Some(hand))
            {
                break;
            }
        }
        self.note_damage();
        first.map(|(index, run, _)| (index, run))
    }

    fn note_damage(&mut self) {
        for lane in &mut self.lanes {
            let Damage { bytes, events, newer, newer_version } = std::mem::take(&mut lane.damage);
            self.tally.damaged_bytes += bytes;
            self.tally.damaged_events += events;
            if newer > 0 {
                self.tally.newer_events += newer;
                self.tally.newer_version = newer_version;
            }
        }
    }

    /// Keeps the calendars of earlier runs, which outlive the segments that they are in.
    fn remember_clocks(&mut self) {
        for segment in self.lanes.iter().flat_map(|lane| &lane.finished) {
            let Some(clock) = segment.sums.clock.filter(|clock| clock.wall.vouched()) else { continue };
            let origin = Arc::clone(&segment.run.origin);
            self.vouched.push(Vouched { run: segment.run.number, origin, clock });
        }
        self.vouched.sort_by_key(|vouched| (vouched.run, std::cmp::Reverse(vouched.clock.mono)));
        self.vouched.dedup_by_key(|vouched| vouched.run);
    }

    /// The newest calendar of the boot of `origin` that somebody vouched for.
    fn vouched_for(&self, origin: &Origin) -> Option<ClockMap> {
        let of_boot = self.vouched.iter().filter(|vouched| vouched.origin.same_boot(origin));
        of_boot.map(|vouched| vouched.clock).max_by_key(|clock| clock.mono)
    }

    /// The best that is known about the clocks of an earlier boot.
    fn clock_of(&self, origin: &Origin) -> ClockMap {
        let segments = self.lanes.iter().flat_map(|lane| &lane.finished);
        let of_boot = segments.filter(|segment| segment.run.origin.same_boot(origin));
        let guess = || of_boot.filter_map(|segment| segment.sums.clock).max_by_key(|clock| clock.mono);
        self.vouched_for(origin).or_else(guess).unwrap_or(ClockMap::UNKNOWN)
    }

    /// What the calendars of other boots say about the boot of `run`.
    fn bounds_of(&self, run: &Run) -> Bounds {
        let others = || self.vouched.iter().filter(|vouched| !vouched.origin.same_boot(&run.origin));
        let (before, after) = (
            others().filter(|other| other.run < run.number),
            others().filter(|other| other.run > run.number),
        );
        Bounds {
            started_after: before.map(|other| other.clock.wall.unix_nanos).max(),
            over_before: after.map(|other| started_before(&other.clock)).min(),
        }
    }

    /// Everything that was taken is delivered, or buried: nothing of it is sent again.
    pub fn done(&mut self, now: Mono) {
        self.now = self.now.max(now);
        self.hand = None;
        for index in 0..self.lanes.len() {
            let done = self.lanes[index].ack();
            self.dispose(index, done);
            let lane = &mut self.lanes[index];
            if lane.due.is_none() && lane.wants_commit() {
                lane.due = Some(now + self.params.commit_interval);
            }
        }
    }

    /// Counters so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Why the last segment of a class had to go; `None`: it was not a segment, but memory that was full.
    pub fn last_drop(&self, class: Class) -> Option<Reason> {
        self.last_drop[class as usize]
    }

    /// What is wrong with the disk, while it is.
    pub fn trouble(&self) -> Option<&str> {
        self.lanes.iter().find_map(|lane| lane.trouble.as_deref())
    }

    /// Whether events of a class wait longer than they should to be made durable: there is no disk, its last write failed, or it has just
    /// come and what waited for it is not written yet.
    pub fn fails(&self, class: Class) -> bool {
        let fails = |lane: &Lane| lane.class == class && (lane.trouble.is_some() || lane.behind);
        self.disk.is_none() || self.lanes.iter().any(fails)
    }

    /// Size of all files, bytes.
    pub fn disk_bytes(&self) -> u64 {
        let segment_bytes = u64::from(self.params.segment_bytes);
        let lanes = self.lanes.iter().map(|lane| {
            let finished: u64 = lane.finished.iter().map(|segment| segment.bytes).sum();
            finished + if lane.active_file().is_some() { segment_bytes } else { 0 }
        });
        lanes.sum::<u64>()
            + self.free.len() as u64 * segment_bytes
            + self.damaged.iter().map(|(.., bytes)| bytes).sum::<u64>()
    }

    /// Takes files away whose segments nobody needs any more, or keeps them for the next, or for people.
    fn dispose(&mut self, lane: usize, segments: Vec<Finished>) {
        let class = self.lanes[lane].class;
        for segment in segments {
            let named = Named::Segment(class, segment.id);
            if segment.damaged {
                self.set_aside(class, segment.id, segment.bytes);
            } else if segment.bytes == u64::from(self.params.segment_bytes)
                && self.free.len() < FREE_FILES_MAX
                && self.rename(named, Named::Free(segment.id))
            {
                self.free.push(segment.id);
            } else {
                self.remove(named);
            }
        }
    }

    fn set_aside(&mut self, class: Class, id: u64, bytes: u64) {
        self.tally.set_aside += 1;
        if self.rename(Named::Segment(class, id), Named::Damaged(class, id)) {
            self.damaged.push_back((class, id, bytes));
        }
        while self.damaged.len() > DAMAGED_FILES_MAX
            && let Some((class, id, _)) = self.damaged.pop_front()
        {
            self.remove(Named::Damaged(class, id));
        }
    }

    fn trim_free(&mut self) {
        while self.free.len() > FREE_FILES_MAX
            && let Some(id) = self.free.pop()
        {
            self.remove(Named::Free(id));
        }
    }

    fn rename(&mut self, from: Named, to: Named) -> bool {
        let Some(disk) = &mut self.disk else { return false };
        disk.rename(&from.file(), &to.file()).is_ok()
    }

    /// A file that stays because it cannot be removed is found, and removed, by the next start.
    fn remove(&mut self, named: Named) {
        if let Some(disk) = &mut self.disk {
            let _removed = disk.remove(&named.file());
        }
    }
}

/// The file of a new segment, its header durable, its name too. The bytes written.
fn create(
    disk: &mut dyn Disk,
    free: &mut Vec<u64>,
    class: Class,
    id: u64,
    header: &segment::Header,
    segment_bytes: u32,
) -> io::Result<(Box<dyn DiskFile>, u64)> {
    let name = Named::Segment(class, id).file();
    let blocks = segment::header_blocks(id, header);
    let file = loop {
        let Some(old) = free.pop() else { break disk.create(&name, u64::from(segment_bytes)) };
        match disk.rename(&Named::Free(old).file(), &name) {
            Ok(()) => break disk.open(&name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // Somebody took it away.
            Err(error) => return Err(error),
        }
    };
    let durable = file.and_then(|mut file| {
        // First the name: a file that is used again must not be written over while a cut can give its old name back.
        disk.sync_names()?;
        file.write_at(&blocks, 0)?;
        file.sync()?;
        Ok((file, blocks.len() as u64))
    });
    durable.inspect_err(|_| {
        let _removed = disk.remove(&name);
    })
}

/// What a disk holds.
#[derive(Default)]
struct Found {
    recovered: Recovered,
    segments: [VecDeque<Finished>; Class::ALL.len()],
    acked: [Option<Acked>; Class::ALL.len()],
    /// Where the segment before the one looked at last ends.
    follows: [Option<Place>; Class::ALL.len()],
    free: Vec<u64>,
    junk: Vec<Named>,
    /// Records, but nobody knows whose.
    set_aside: Vec<(Class, u64, u64)>,
    /// The disk cannot read them.
    unreadable: Vec<(Class, u64, u64)>,
    damaged: VecDeque<(Class, u64, u64)>,
    unsealed: Vec<(Class, u64, Seal)>,
    /// A part of a segment could not be read.
    tries_again: bool,
    /// Number for this run.
    run: u64,
}

impl Found {
    fn look_at(&mut self, disk: &mut dyn Disk, class: Class, id: u64, bytes: u64, params: &Params) {
        let begin = disk.open(&Named::Segment(class, id).file()).and_then(|mut file| {
            let begin = segment::read_begin(file.as_mut(), id)?;
            Ok((file, begin))
        });
        let (mut file, begin) = match begin {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => return self.unreadable.push((class, id, bytes)),
        };
        let begin = match begin {
            // Sums that cannot be are not believed: it is read through.
            Begin::Sealed(Seal { header, sums, .. }) if !sums.can_be_of(id, bytes) => {
                Begin::Open(header, Sums::default())
            }
            Begin::Open(header, sums) if !sums.can_be_of(id, bytes) => Begin::Open(header, Sums::default()),
            Begin::Sealed(_) | Begin::Open(..) | Begin::Nothing => begin,
        };
        let lane = class as usize;
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        let size = match self.follows[lane] {
            Some(end) if end.segment == id => size.min(end.offset),
            Some(_) | None => size,
        };
        let (header, sums, damaged, short) = match begin {
            Begin::Sealed(Seal { header, sums, .. }) if header.class == class => (header, sums, false, false),
            Begin::Open(header, sums) if header.class == class => {
                let scan = segment::scan(file.as_mut(), id, size, sums, |_, _| {});
                self.recovered.unsealed += 1;
                self.recovered.damaged_bytes += u64::from(scan.damaged_bytes);
                if !scan.unreadable {
                    // Else the next start may see more of it.
                    self.unsealed.push((
                        class,
                        id,
                        Seal { header: header.clone(), last: true, sums: scan.sums },
                    ));
                }
                let damaged = scan.damaged_bytes > 0 || scan.unreadable;
                self.tries_again |= scan.unreadable;
                (header, scan.sums, damaged, scan.unreadable)
            }
            Begin::Sealed(_) | Begin::Open(..) | Begin::Nothing => {
                let scan = segment::scan(file.as_mut(), id, size, Sums::default(), |_, _| {});
                if scan.unreadable {
                    self.unreadable.push((class, id, bytes));
                } else if scan.sums.events > 0 {
                    self.recovered.set_aside += 1;
                    self.set_aside.push((class, id, bytes));
                } else if bytes == u64::from(params.segment_bytes) && self.free.len() < FREE_FILES_MAX {
                    let (from, to) = (Named::Segment(class, id), Named::Free(id));
                    if disk.rename(&from.file(), &to.file()).is_ok() {
                        self.free.push(id);
                    }
                } else {
                    self.junk.push(Named::Segment(class, id));
                }
                return;
            }
        };
        self.follows[lane] = header.follows;
        self.run = self.run.max(header.run.saturating_add(1));
        self.acked[lane] = self.acked[lane].max(sums.acked);
        let run = Run { number: header.run, origin: Arc::new(header.origin) };
        self.segments[lane].push_front(Finished { id, run, sums, bytes, damaged, short });
    }
}
