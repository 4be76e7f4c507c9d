//! The spool between its two threads: one commits, the other takes out and acknowledges; both put in what they find waiting.
//!
//! One lock, held across a commit: the uplink may wait for a sync, the pipeline never touches it (it posts to the outbox).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Class;
use super::disk::Disk;
use super::log::{Log, Recovered, Taken, Tally};
use super::record::Dead;
use crate::event::Event;
use crate::platform::clock::{ClockMap, Mono};

/// When a batch is worth a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Events at which a batch is due, and the most that one has.
    pub events_max: usize,
    /// How long the oldest event waits at most before its batch is due.
    pub age_max: Duration,
    /// How often the link is woken for what waits, if it is not always there; alerts wake it at once.
    pub interval: Option<Duration>,
}

/// What [`Spool::take`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// A batch, of this run.
    Batch(Taken),
    /// Nothing is due before `until`, unless something comes.
    Nothing {
        /// When.
        until: Option<Mono>,
    },
}

#[derive(Debug)]
struct Inside {
    log: Log,
    batching: Batching,
    /// When the oldest event that waits came, or earlier.
    since: Option<Mono>,
    flushed: bool,
    /// While the link sleeps: when it is woken.
    asleep_until: Option<Mono>,
    /// On their way from the outbox.
    coming: Vec<Event>,
    /// What was taken was put back: whoever has it in hand has to take it again.
    put_back: bool,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Spool {
    inside: Mutex<Inside>,
}

impl Spool {
    /// A spool around `log`.
    pub fn new(log: Log, batching: Batching) -> Self {
        let coming = Vec::with_capacity(batching.events_max);
        Spool {
            inside: Mutex::new(Inside {
                log,
                batching,
                since: None,
                flushed: false,
                asleep_until: None,
                coming,
                put_back: false,
            }),
        }
    }

    /// Takes `disk` into use, see [`Log::attach`]. What it holds is due at once, and comes before a batch that is in hand: see
    /// [`Self::was_put_back`].
    ///
    /// # Errors
    /// The disk cannot be listed.
    pub fn attach(&self, disk: Box<dyn Disk>) -> std::io::Result<Recovered> {
        let mut inside = self.lock();
        if inside.log.has_hand() {
            inside.log.put_back();
            inside.put_back = true;
        }
        let recovered = inside.log.attach(disk)?;
        if recovered.events > 0 {
            inside.since = Some(Mono::ZERO);
        }
        Ok(recovered)
    }

    /// Appends everything that `source` moves into the list that it is given, until it moves nothing. Under the lock, so that
    /// two threads that do this keep the order.
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

    /// When the next commit is due, if one is.
    pub fn commit_due(&self) -> Option<Mono> {
        self.lock().log.due()
    }

    /// Makes durable what is due, or everything.
    pub fn commit(&self, now: Mono, clock: ClockMap, everything: bool) {
        let clock = clock.wall.plausible().then_some(clock);
        self.lock().log.commit(now, clock, everything);
    }

    /// Drops what the quota does not allow (any more).
    pub fn retain(&self, clock: ClockMap) {
        self.lock().log.retain(Some(clock), 0);
    }

    /// Makes what waits due at once: the link is known to be good, or about to go away.
    pub fn flush(&self) {
        self.lock().flushed = true;
    }

    /// Moves a due batch into `out`, which is emptied before.
    pub fn take(&self, now: Mono, out: &mut Vec<Event>) -> Look {
        let mut inside = self.lock();
        out.clear();
        if !inside.due(now) {
            let until = inside.since.map(|since| since + inside.batching.age_max);
            return Look::Nothing {
                until: until.map(|until| until.max(inside.asleep_until.unwrap_or(until))),
            };
        }
        inside.asleep_until = None; // Once awake, until nothing is left.
        let most = inside.batching.events_max;
        match inside.log.take(most, out) {
            Some(taken) => {
                if inside.log.waiting() == 0 {
                    (inside.since, inside.flushed) = (None, false);
                    inside.asleep_until = inside.batching.interval.map(|interval| now + interval);
                }
                Look::Batch(taken)
            }
            None => {
                // What waited cannot be read: not now, or it is counted as damage.
                (inside.since, inside.flushed) = (None, false);
                Look::Nothing { until: None }
            }
        }
    }

    /// Moves events of the same run, due or not, behind those in `out`, as far as a batch has room.
    pub fn top_up(&self, out: &mut Vec<Event>) {
        let mut inside = self.lock();
        if !inside.put_back {
            let most = inside.batching.events_max;
            let _same_run = inside.log.take(most, out);
        }
    }

    /// What was taken is delivered, or buried.
    pub fn done(&self, now: Mono) {
        let mut inside = self.lock();
        // What was put back is sent once more, under the same ids.
        if !inside.put_back {
            inside.log.done(now);
        }
    }

    /// Whether what was taken was put back since this was last asked: it has to be forgotten, and taken again.
    pub fn was_put_back(&self) -> bool {
        std::mem::take(&mut self.lock().put_back)
    }

    /// See [`Log::was_confirmed`].
    pub fn was_confirmed(&self) -> bool {
        self.lock().log.was_confirmed()
    }

    /// Keeps a dead letter.
    pub fn bury(&self, now: Mono, dead: Dead) {
        self.lock().log.bury(now, dead);
    }

    /// Events that wait; those in hand are not among them.
    pub fn waiting(&self) -> u64 {
        self.lock().log.waiting()
    }

    /// Whether there is a disk, however it does.
    pub fn has_disk(&self) -> bool {
        self.lock().log.has_disk()
    }

    /// Whether what waits outlives the program.
    pub fn is_durable(&self) -> bool {
        let inside = self.lock();
        inside.log.has_disk() && inside.log.trouble().is_none()
    }

    /// Whether events of a class cannot be made durable now, see [`Log::fails`].
    pub fn fails(&self, class: Class) -> bool {
        self.lock().log.fails(class)
    }

    /// Counters, the size of all files, and what is wrong with the disk.
    pub fn state(&self) -> (Tally, u64, Option<String>) {
        let inside = self.lock();
        (inside.log.tally(), inside.log.disk_bytes(), inside.log.trouble().map(str::to_owned))
    }

    /// Why the last segment of a class had to go, see [`Log::last_drop`].
    pub fn last_drop(&self, class: Class) -> Option<super::retain::Reason> {
        self.lock().log.last_drop(class)
    }

    /// The most events of one batch.
    pub fn batch_events_max(&self) -> usize {
        self.lock().batching.events_max
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn due(&self, now: Mono) -> bool {
        let waiting = self.log.waiting();
        if waiting == 0 || self.flushed {
            return waiting > 0;
        }
        let old = self.since.is_none_or(|since| since + self.batching.age_max <= now);
        if self.batching.interval.is_some() {
            // Awake: everything, until nothing is left.
            let awake = self.asleep_until.is_none_or(|until| until <= now);
            return awake || self.log.waiting_of(Class::Alerts) > 0;
        }
        old || waiting >= self.batching.events_max as u64
    }
}
