//! The hand-over from the pipeline to the uplink thread: numbers the events, holds them, counts what happens to them.
//!
//! One lock around the queue, held for a move of events at most, never across I/O: [`Outbox::post`] does not wait for a
//! receiver. When the queue is full the oldest event goes and is counted. The events that the uplink thread has in hand
//! are out of the queue and are not dropped by it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::error::Result;
use crate::delivery::batch::{BatchParams, BatchStep, Batcher, Pushed};
use crate::event::{Body, Event, Name};
use crate::platform::clock::Mono;

/// What has happened to the events so far. Written by [`Outbox`] and the uplink thread, read by anybody.
///
/// `posted = delivered + refused + dropped + still waiting or in hand`.
#[derive(Debug)]
pub struct UplinkCounters {
    posted: AtomicU64,
    dropped: AtomicU64,
    delivered: AtomicU64,
    batches: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
    /// Boot-clock nanoseconds; `u64::MAX`: never.
    last_delivery: AtomicU64,
}

impl UplinkCounters {
    const fn new() -> Self {
        UplinkCounters {
            posted: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_delivery: AtomicU64::new(u64::MAX),
        }
    }

    /// Events posted.
    pub fn posted(&self) -> u64 {
        self.posted.load(Relaxed)
    }

    /// Events dropped: the oldest of a full queue, and those posted after the end.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Events that the receiver confirmed.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// Sends that the receiver confirmed.
    pub fn batches(&self) -> u64 {
        self.batches.load(Relaxed)
    }

    /// Back-offs: sends after which the same events wait for another try. Halvings of a refused batch, and single
    /// events set aside on the way to the next one, are none.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Events that the receiver refused for good.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// When the receiver last confirmed something (I7).
    pub fn last_delivery(&self) -> Option<Mono> {
        match self.last_delivery.load(Relaxed) {
            u64::MAX => None,
            nanos => Some(Mono::from_nanos(nanos)),
        }
    }

    pub(super) fn count_delivered(&self, now: Mono, events: usize) {
        self.delivered.fetch_add(events as u64, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.last_delivery.store(now.as_nanos(), Relaxed);
    }

    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }
}

/// What became of a posted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It waits for its delivery.
    Kept,
    /// It waits; the oldest event was dropped for it and counted.
    ReplacedOldest,
    /// The outbox is closed: this event is dropped and counted.
    DroppedClosed,
}

#[derive(Debug)]
struct Inside {
    next_seq: u64,
    batcher: Batcher,
    closed: bool,
    /// Goes up whenever the uplink thread should look again; makes its waits free of lost wake-ups.
    signals: u64,
}

/// The queue that the pipeline posts to and the uplink thread empties.
#[derive(Debug)]
pub struct Outbox {
    inside: Mutex<Inside>,
    news: Condvar,
    counters: UplinkCounters,
    /// Why nothing is delivered, if a person has to do something about it.
    trouble: Mutex<Option<String>>,
}

impl Outbox {
    /// An open, empty outbox with all its memory; the first event gets number 0.
    ///
    /// # Errors
    /// Sizes out of range, see [`Batcher::new`].
    pub fn new(params: BatchParams) -> Result<Self> {
        let inside = Inside { next_seq: 0, batcher: Batcher::new(params)?, closed: false, signals: 0 };
        Ok(Outbox {
            inside: Mutex::new(inside),
            news: Condvar::new(),
            counters: UplinkCounters::new(),
            trouble: Mutex::new(None),
        })
    }

    /// Gives the event its number and queues it. `now` starts its age; `at` is when it happened. Never blocks on I/O.
    pub fn post(&self, now: Mono, at: Mono, camera: &Name, body: Body) -> Posted {
        let mut inside = self.lock();
        let seq = inside.next_seq;
        inside.next_seq += 1;
        self.counters.posted.fetch_add(1, Relaxed);
        if inside.closed {
            self.counters.dropped.fetch_add(1, Relaxed);
            return Posted::DroppedClosed;
        }
        let pushed = inside.batcher.push(now, Event { seq, at, camera: camera.clone(), body });
        // The first event sets the thread's alarm, a due batch ends its wait; in between it sleeps on.
        if inside.batcher.len() == 1 || inside.batcher.poll(now) == BatchStep::Ready {
            self.signal(inside);
        }
        match pushed {
            Pushed::Kept => Posted::Kept,
            Pushed::ReplacedOldest => {
                self.counters.dropped.fetch_add(1, Relaxed);
                Posted::ReplacedOldest
            }
        }
    }

    /// No more events will come: what waits is due at once, and the uplink thread ends when it is out.
    pub fn close(&self) {
        let mut inside = self.lock();
        inside.closed = true;
        inside.batcher.flush();
        self.signal(inside);
    }

    /// Makes what waits due at once (the link is known to be good, or about to go away).
    pub fn flush(&self) {
        let mut inside = self.lock();
        inside.batcher.flush();
        self.signal(inside);
    }

    /// Whether [`Self::close`] was called.
    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// Events that wait; those in the uplink thread's hands are not among them.
    pub fn waiting(&self) -> usize {
        self.lock().batcher.len()
    }

    /// The most events of one batch.
    pub fn batch_events_max(&self) -> usize {
        self.lock().batcher.batch_events_max()
    }

    /// What has happened so far.
    pub fn counters(&self) -> &UplinkCounters {
        &self.counters
    }

    /// Why nothing is delivered, if a person has to do something about it.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tell_trouble(&self, why: Option<&str>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_some() != why.is_some() {
            *trouble = why.map(str::to_owned);
        }
    }

    /// Moves what waits behind the events in `out`, as far as a batch has room.
    pub fn take(&self, out: &mut Vec<Event>) {
        self.lock().batcher.top_up(out);
    }

    /// The number of signals so far: read it before looking, hand it to [`Self::wait`] after.
    pub fn signals(&self) -> u64 {
        self.lock().signals
    }

    /// Waits until there was a signal after `seen`, or for `longest`.
    pub fn wait(&self, seen: u64, longest: Duration) {
        let inside = self.lock();
        let waited = self.news.wait_timeout_while(inside, longest, |inside| inside.signals == seen);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn signal(&self, mut inside: MutexGuard<'_, Inside>) {
        inside.signals += 1;
        drop(inside);
        self.news.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::fixed;

    fn outbox(queue_events: usize, batch_events_max: usize) -> Outbox {
        Outbox::new(BatchParams { queue_events, batch_events_max, age_max: Duration::from_secs(60) }).unwrap()
    }

    fn post(outbox: &Outbox) -> Posted {
        outbox.post(Mono::ZERO, Mono::ZERO, &fixed("north"), Body::Stopping { reason: fixed("test") })
    }

    #[test]
    fn numbers_have_no_gaps_and_drops_are_counted() {
        let outbox = outbox(2, 2);
        assert_eq!([post(&outbox), post(&outbox)], [Posted::Kept; 2]);
        assert_eq!(post(&outbox), Posted::ReplacedOldest);
        let mut out = Vec::new();
        outbox.take(&mut out);
        assert_eq!(out.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2]);
        outbox.close();
        assert_eq!(post(&outbox), Posted::DroppedClosed);
        assert_eq!((outbox.waiting(), outbox.counters().posted(), outbox.counters().dropped()), (0, 4, 2));
    }

    #[test]
    fn a_signal_between_look_and_wait_is_not_lost() {
        let outbox = outbox(10, 5);
        let seen = outbox.signals();
        post(&outbox);
        assert_ne!(outbox.signals(), seen, "the first event sets the alarm");
        outbox.wait(seen, Duration::from_secs(3600));
        let seen = outbox.signals();
        assert_eq!([post(&outbox), post(&outbox), post(&outbox)], [Posted::Kept; 3]);
        assert_eq!(outbox.signals(), seen, "neither first nor due: the thread sleeps on");
        post(&outbox);
        assert_ne!(outbox.signals(), seen, "the batch is full");
        let seen = outbox.signals();
        outbox.close();
        assert_ne!(outbox.signals(), seen);
        outbox.wait(seen, Duration::from_secs(3600));
    }
}
