//! The spool between its two threads: one commits, the other takes and acknowledges; both move waiting events from the outbox into it.
//!
//! One lock, held across a commit: the uplink may wait for a sync, the pipeline never touches it (it posts to the outbox). Reading the
//! status ([`Spool::state`]) never waits for the lock: the state is published each time that the lock is released.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::Disk;
use super::in_flight::{Buffers, InFlight};
use super::log::{Log, Recovered, Tally};
use super::record::Dead;
use super::retain::Reason;
use super::{Class, Params};
use crate::event::{Event, Storage};
use crate::platform::clock::{ClockSyncSample, Mono};

/// When a batch is due for delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Events at which a batch is due, and the most that one has.
    pub events_max: usize,
    /// Longest time that the oldest event waits before its batch is due.
    pub age_max: Duration,
    /// Interval at which a link that is not always up is woken for waiting events; alerts wake it immediately.
    pub interval: Option<Duration>,
}

/// Result of [`Spool::take`].
#[derive(Debug)]
pub enum TakeOutcome {
    /// A batch, now in flight.
    Batch(InFlight),
    /// Nothing is due before `until`, unless something arrives.
    Nothing {
        /// Time of the next check.
        until: Option<Mono>,
    },
}

/// State of a spool, as of the last time that a thread released it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Counters.
    pub tally: Tally,
    /// Size of all files, bytes.
    pub disk_bytes: u64,
    /// Events that wait to be sent; those in flight are not among them.
    pub waiting: u64,
    /// Whether there is a disk, in whatever state.
    pub has_disk: bool,
    /// The error of the disk, while there is one.
    pub trouble: Option<String>,
    /// Reason of the last loss of the disk, see [`Tally::detached`].
    pub why_detached: Option<String>,
    /// Reason of the last drop of each class, see [`Log::last_drop`].
    pub last_drop: [Option<Reason>; Class::ALL.len()],
    /// Classes whose events cannot be made durable now, see [`Log::fails`].
    pub fails: [bool; Class::ALL.len()],
    /// When the next commit is due, if one is.
    pub commit_due: Option<Mono>,
    /// See [`Log::was_confirmed`].
    pub was_confirmed: bool,
}

impl State {
    /// Whether waiting events outlive the program.
    pub fn is_durable(&self) -> bool {
        self.has_disk && self.trouble.is_none()
    }

    /// The event that reports this state; `written_day_bytes` were written in the last 24 hours.
    pub fn storage(&self, written_day_bytes: u64) -> Storage {
        let tally = &self.tally;
        Storage {
            waiting: self.waiting,
            disk_bytes: self.disk_bytes,
            written_bytes: tally.written_bytes,
            written_day_bytes,
            commits: tally.commits,
            failures: tally.failures,
            dropped: tally.dropped.iter().sum(),
            damaged: tally.damaged_events,
            dead: tally.dead,
            newer: tally.newer_events,
        }
    }

    fn update(&mut self, log: &Log) {
        // No heap calls while there is no error, or the same as before.
        let keep = |text: &mut Option<String>, now: Option<&str>| {
            if text.as_deref() != now {
                *text = now.map(str::to_owned);
            }
        };
        keep(&mut self.trouble, log.trouble());
        keep(&mut self.why_detached, log.why_detached());
        (self.tally, self.disk_bytes, self.waiting) = (log.tally(), log.disk_bytes(), log.waiting());
        (self.has_disk, self.commit_due, self.was_confirmed) =
            (log.has_disk(), log.due(), log.was_confirmed());
        self.last_drop = Class::ALL.map(|class| log.last_drop(class));
        self.fails = Class::ALL.map(|class| log.fails(class));
    }
}

#[derive(Debug)]
struct Inside {
    log: Log,
    batching: Batching,
    /// Arrival of the oldest waiting event, or earlier.
    since: Option<Mono>,
    /// While the link sleeps: when it is woken.
    asleep_until: Option<Mono>,
    /// Events on their way from the outbox.
    coming: Vec<Event>,
    /// Memory for the batch in flight, while there is none.
    buffers: Buffers,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Spool {
    inside: Mutex<Inside>,
    /// Locked only for a copy.
    state: Mutex<State>,
    batch_events_max: usize,
    /// Waiting events are due immediately.
    flushed: AtomicBool,
    /// Number of the batch that may be in flight; incremented when one is taken or called back. Written under the lock.
    batch: AtomicU64,
}

/// The locked interior; publishes its state when it is released.
struct Held<'a> {
    inside: MutexGuard<'a, Inside>,
    spool: &'a Spool,
}

impl Deref for Held<'_> {
    type Target = Inside;
    fn deref(&self) -> &Inside {
        &self.inside
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Inside {
        &mut self.inside
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.spool.state.lock().unwrap_or_else(PoisonError::into_inner).update(&self.inside.log);
    }
}

impl Spool {
    /// Other times and limits from now on: what [`Log::set`] takes, and when a batch is due, not how many events it has.
    pub fn set(&self, params: &Params, batching: Batching) {
        let mut inside = self.lock();
        inside.log.set(params);
        (inside.batching.age_max, inside.batching.interval) = (batching.age_max, batching.interval);
        inside.asleep_until = None;
    }

    /// A spool around `log`.
    pub fn new(log: Log, batching: Batching) -> Self {
        let coming = Vec::with_capacity(batching.events_max);
        let mut state = State::default();
        state.update(&log);
        let buffers = Buffers::for_events(batching.events_max);
        let inside = Inside { log, batching, since: None, asleep_until: None, coming, buffers };
        Spool {
            inside: Mutex::new(inside),
            state: Mutex::new(state),
            batch_events_max: batching.events_max,
            flushed: AtomicBool::new(false),
            batch: AtomicU64::new(0),
        }
    }

    /// Attaches `disk`, see [`Log::attach`]. Its events are due immediately, and come before a batch that is in flight, which is then
    /// called back: see [`InFlight::is_called_back`].
    ///
    /// # Errors
    /// The disk cannot be listed, or read. Then nothing is called back.
    pub fn attach(&self, disk: Box<dyn Disk>) -> std::io::Result<Recovered> {
        let mut inside = self.lock();
        let had_in_flight = inside.log.has_in_flight();
        let recovered = inside.log.attach(disk)?;
        if had_in_flight && !inside.log.has_in_flight() {
            self.batch.fetch_add(1, Relaxed);
        }
        if recovered.events > 0 {
            inside.since = Some(Mono::ZERO);
        }
        Ok(recovered)
    }

    /// Detaches the disk if it is no longer the attached one, see [`Log::check_disk`].
    ///
    /// # Errors
    /// It is not: there is no disk now.
    pub fn check_disk(&self) -> std::io::Result<()> {
        self.lock().log.check_disk()
    }

    /// Appends everything that `source` moves into the list that is passed to it, until it moves nothing. Holds the lock, so that two
    /// threads that do this keep the order.
    pub fn put(&self, now: Mono, mut source: impl FnMut(&mut Vec<Event>)) {
        let mut inside = self.lock();
        let Inside { log, coming, since, .. } = &mut *inside;
        loop {
            source(coming);
            if coming.is_empty() {
                return;
            }
            since.get_or_insert(now);
            coming.drain(..).for_each(|event| log.append(now, &event));
        }
    }

    /// Commits what is due, or everything.
    pub fn commit(&self, now: Mono, clock: ClockSyncSample, everything: bool) {
        let clock = clock.wall.plausible().then_some(clock);
        self.lock().log.commit(now, clock, everything);
    }

    /// Drops what exceeds the quota.
    pub fn retain(&self, clock: ClockSyncSample) {
        self.lock().log.retain(Some(clock), 0);
    }

    /// Makes waiting events due immediately: the link is known to be up, or about to go down.
    pub fn flush(&self) {
        self.flushed.store(true, Relaxed);
    }

    /// Takes a batch, if one is due.
    ///
    /// # Panics
    /// If one is in flight: a bug in the caller.
    pub fn take(self: &Arc<Self>, now: Mono) -> TakeOutcome {
        let mut inside = self.lock();
        assert!(!inside.log.has_in_flight(), "one batch at a time is in flight");
        if !inside.due(now, self.flushed.load(Relaxed)) {
            let until = inside.since.map(|since| since + inside.batching.age_max);
            return TakeOutcome::Nothing {
                until: until.map(|until| until.max(inside.asleep_until.unwrap_or(until))),
            };
        }
        inside.asleep_until = None; // Once awake, it stays so until nothing is left.
        let most = inside.batching.events_max;
        let mut buffers = std::mem::take(&mut inside.buffers);
        let taken = inside.log.take(most, &mut buffers.events);
        if taken.is_none() || inside.log.waiting() == 0 {
            inside.since = None;
            self.flushed.store(false, Relaxed);
        }
        let Some(whose) = taken else {
            // The waiting events cannot be read: temporarily, or they are counted as damage.
            inside.buffers = buffers;
            return TakeOutcome::Nothing { until: None };
        };
        if inside.log.waiting() == 0 {
            inside.asleep_until = inside.batching.interval.map(|interval| now + interval);
        }
        let number = self.batch.fetch_add(1, Relaxed) + 1;
        TakeOutcome::Batch(InFlight::new(Arc::clone(self), number, whose, buffers))
    }

    /// Whether the batch with that number was called back.
    pub(super) fn is_called_back(&self, number: u64) -> bool {
        self.batch.load(Relaxed) != number
    }

    /// Moves events of the run in flight, due or not, to the end of `out`, up to the size of a batch.
    pub(super) fn top_up(&self, number: u64, out: &mut Vec<Event>) {
        let mut inside = self.lock();
        if !self.is_called_back(number) {
            let most = inside.batching.events_max;
            let _same_run = inside.log.take(most, out);
        }
    }

    /// Marks these events of the batch as delivered. After a call-back they are sent once more, under the same ids.
    pub(super) fn acknowledge(&self, number: u64, now: Mono, events: &[Event]) {
        let mut inside = self.lock();
        if !self.is_called_back(number) {
            inside.log.acknowledge(now, events);
        }
    }

    /// Turns this event of the batch into a dead letter.
    pub(super) fn refuse(&self, number: u64, now: Mono, dead: Dead) {
        let mut inside = self.lock();
        let event = dead.event.clone();
        inside.log.write_dead_letter(now, dead);
        if !self.is_called_back(number) {
            inside.log.acknowledge(now, &[event]);
        }
    }

    /// Ends the batch. Events that are not acknowledged wait again.
    pub(super) fn give_back(&self, number: u64, buffers: Buffers) {
        let mut inside = self.lock();
        inside.buffers = buffers;
        if !self.is_called_back(number) && inside.log.has_in_flight() {
            inside.log.requeue();
            self.batch.fetch_add(1, Relaxed);
        }
    }

    /// Its state. Never waits for the disk: while a thread waits for the disk, this is the state before.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Events that were dropped or lost to damage so far, and segments that were lost. Never waits for the disk.
    pub fn losses(&self) -> u64 {
        let tally = &self.state.lock().unwrap_or_else(PoisonError::into_inner).tally;
        tally.dropped_unsent() + tally.damaged_events + tally.newer_events + tally.lost_segments
    }

    /// Events that wait to be sent; those in flight are not among them. Never waits for the disk.
    pub fn waiting(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).waiting
    }

    /// The most events of one batch.
    pub fn batch_events_max(&self) -> usize {
        self.batch_events_max
    }

    fn lock(&self) -> Held<'_> {
        Held { inside: self.inside.lock().unwrap_or_else(PoisonError::into_inner), spool: self }
    }
}

impl Inside {
    fn due(&self, now: Mono, flushed: bool) -> bool {
        let waiting = self.log.waiting();
        if waiting == 0 || flushed {
            return waiting > 0;
        }
        let old = self.since.is_none_or(|since| since + self.batching.age_max <= now);
        if self.batching.interval.is_some() {
            // Awake: everything is due, until nothing is left.
            let awake = self.asleep_until.is_none_or(|until| until <= now);
            return awake || self.log.waiting_of(Class::Alerts) > 0;
        }
        old || waiting >= self.batching.events_max as u64
    }
}
