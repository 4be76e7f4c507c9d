//! The bounded queue between the pipeline and the spool: numbers the events, holds them, counts their fates.
//!
//! ```text
//!   post ──► [oldest ........ newest] ──► take      into the spool, by its thread or the uplink's, whichever is first
//!                │ full: drop oldest,
//!                ▼ counted
//!             dropped
//! ```
//! One lock around the queue, held at most while events are moved, never across I/O: [`Outbox::post`] waits neither for the disk nor for a
//! receiver. All memory is allocated at construction. The spool decides when a batch is due.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::limits::EVENT_QUEUE_MAX;
use crate::event::{Body, Event, Name};
use crate::platform::clock::Mono;

/// Counts of what has happened to the events so far. Written by [`Outbox`] and the uplink thread, read by any thread.
///
/// `posted = delivered + refused + dropped + still waiting or in flight`.
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

    /// Events dropped: the oldest of a full queue, and those posted after the close.
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

    /// Back-offs: sends after which the same events wait for another attempt. Halving a refused batch, or setting an event aside to try the
    /// next one, does not count.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Events that the receiver refused permanently.
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

/// What happened to a posted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It waits for delivery.
    Kept,
    /// It waits; the oldest event was dropped for it and counted.
    ReplacedOldest,
    /// The outbox is closed: this event is dropped and counted.
    DroppedClosed,
}

#[derive(Debug)]
struct Inside {
    next_seq: u64,
    /// Never longer than `room`, for which memory is allocated.
    queue: VecDeque<Event>,
    room: usize,
    closed_at: Option<Mono>,
    /// Incremented whenever the uplink thread should check again; prevents lost wake-ups.
    signals: u64,
}

/// See the top of the file.
#[derive(Debug)]
pub struct Outbox {
    inside: Mutex<Inside>,
    news: Condvar,
    counters: UplinkCounters,
    /// Why nothing is delivered, if human action is needed.
    trouble: Mutex<Option<String>>,
}

impl Outbox {
    /// An open, empty outbox with memory for `room` events, `1..=`[`EVENT_QUEUE_MAX`]; the first event gets number 0.
    ///
    /// # Errors
    /// [`Kind::Config`] if `room` is 0 or above the limit.
    pub fn new(room: usize) -> Result<Self> {
        if !(1..=EVENT_QUEUE_MAX).contains(&room) {
            let text = format!("event queue of {room} events: choose 1 to {EVENT_QUEUE_MAX}");
            return Err(Error::fatal(Kind::Config, text));
        }
        let queue = VecDeque::with_capacity(room);
        let inside = Inside { next_seq: 0, queue, room, closed_at: None, signals: 0 };
        Ok(Outbox {
            inside: Mutex::new(inside),
            news: Condvar::new(),
            counters: UplinkCounters::new(),
            trouble: Mutex::new(None),
        })
    }

    /// Bytes of an outbox for this many events: an entry in the memory table at start (I1).
    pub const fn bytes(room: usize) -> usize {
        room * size_of::<Event>()
    }

    /// Gives the event its number and queues it; `at` is when it happened. A full queue drops its oldest event. Never blocks on I/O.
    pub fn post(&self, at: Mono, camera: &Name, body: Body) -> Posted {
        let mut inside = self.lock();
        let seq = inside.next_seq;
        inside.next_seq += 1;
        self.counters.posted.fetch_add(1, Relaxed);
        if inside.closed_at.is_some() {
            self.counters.dropped.fetch_add(1, Relaxed);
            return Posted::DroppedClosed;
        }
        let full = inside.queue.len() == inside.room;
        if full {
            inside.queue.pop_front();
            self.counters.dropped.fetch_add(1, Relaxed);
        }
        inside.queue.push_back(Event { seq, at, camera: camera.clone(), body });
        // The waiting thread has emptied the queue before: the first event wakes it, and it takes those that follow.
        if inside.queue.len() == 1 {
            self.signal(inside);
        }
        if full { Posted::ReplacedOldest } else { Posted::Kept }
    }

    /// Closes the outbox: waiting events are due immediately, and the uplink thread ends when it is empty. Shutdown time counts from `now`,
    /// or from the first call.
    pub fn close(&self, now: Mono) {
        let mut inside = self.lock();
        inside.closed_at.get_or_insert(now);
        self.signal(inside);
    }

    /// Wakes the threads in [`Self::wait`].
    pub fn wake(&self) {
        self.signal(self.lock());
    }

    /// Whether [`Self::close`] was called.
    pub fn closed(&self) -> bool {
        self.closed_at().is_some()
    }

    /// When [`Self::close`] was called, if it was.
    pub fn closed_at(&self) -> Option<Mono> {
        self.lock().closed_at
    }

    /// Events that wait here; not those in the spool.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// The counts so far.
    pub fn counters(&self) -> &UplinkCounters {
        &self.counters
    }

    /// Why nothing is delivered, if human action is needed.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn report_trouble(&self, why: Option<&str>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_some() != why.is_some() {
            *trouble = why.map(str::to_owned);
        }
    }

    /// Moves the oldest events to the end of `out`, as far as it has capacity, without a heap call.
    pub fn take(&self, out: &mut Vec<Event>) {
        let mut inside = self.lock();
        let count = inside.queue.len().min(out.capacity() - out.len());
        out.extend(inside.queue.drain(..count));
    }

    /// Number of signals so far: read it before checking for work, then pass it to [`Self::wait`].
    pub fn signals(&self) -> u64 {
        self.lock().signals
    }

    /// Waits until there is a signal after `seen`, or for `longest`.
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
    use proptest::prelude::*;

    fn post(outbox: &Outbox) -> Posted {
        outbox.post(Mono::ZERO, &fixed("north"), Body::Stopping { reason: fixed("test") })
    }

    #[test]
    fn numbers_have_no_gaps_and_drops_are_counted() {
        let outbox = Outbox::new(2).unwrap();
        assert_eq!([post(&outbox), post(&outbox)], [Posted::Kept; 2]);
        assert_eq!(post(&outbox), Posted::ReplacedOldest);
        let mut out = Vec::with_capacity(8);
        outbox.take(&mut out);
        assert_eq!(out.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2]);
        outbox.close(Mono::ZERO);
        assert_eq!(post(&outbox), Posted::DroppedClosed);
        assert_eq!((outbox.waiting(), outbox.counters().posted(), outbox.counters().dropped()), (0, 4, 2));
    }

    #[test]
    fn a_signal_between_check_and_wait_is_not_lost() {
        let outbox = Outbox::new(10).unwrap();
        let seen = outbox.signals();
        post(&outbox);
        assert_ne!(outbox.signals(), seen, "the first event wakes");
        outbox.wait(seen, Duration::from_secs(3600));
        let seen = outbox.signals();
        post(&outbox);
        assert_eq!(outbox.signals(), seen, "the queue was not emptied: its consumer is awake");
        outbox.take(&mut Vec::with_capacity(10));
        post(&outbox);
        assert_ne!(outbox.signals(), seen);
        let seen = outbox.signals();
        outbox.close(Mono::ZERO);
        assert_ne!(outbox.signals(), seen);
        outbox.wait(seen, Duration::from_secs(3600));
    }

    #[test]
    fn the_shutdown_counts_from_the_first_close() {
        let outbox = Outbox::new(1).unwrap();
        assert_eq!((outbox.closed(), outbox.closed_at()), (false, None));
        outbox.close(Mono::from_nanos(7));
        outbox.close(Mono::from_nanos(9));
        assert_eq!((outbox.closed(), outbox.closed_at()), (true, Some(Mono::from_nanos(7))));
    }

    #[test]
    fn sizes_out_of_range_are_refused_with_the_range() {
        for room in [0, EVENT_QUEUE_MAX + 1] {
            let error = Outbox::new(room).expect_err("out of range");
            assert!(error.kind() == Kind::Config && error.to_string().contains("1 to 8192"), "{error}");
        }
        Outbox::new(EVENT_QUEUE_MAX).unwrap();
    }

    proptest! {
        /// Compared with a model: each event is taken once, in order, or is among the oldest and counted as dropped.
        #[test]
        fn events_are_taken_in_order_or_dropped_as_the_oldest(
            room in 1usize..12,
            ops in proptest::collection::vec((any::<bool>(), 0usize..5), 0..200),
        ) {
            let outbox = Outbox::new(room).unwrap();
            let (mut model, mut next, mut dropped) = (VecDeque::new(), 0u64, 0u64);
            for (is_post, most) in ops {
                if is_post {
                    let full = model.len() == room;
                    if full {
                        model.pop_front();
                        dropped += 1;
                    }
                    model.push_back(next);
                    next += 1;
                    prop_assert_eq!(post(&outbox) == Posted::ReplacedOldest, full);
                } else {
                    let mut out = Vec::with_capacity(most);
                    let room = out.capacity();
                    outbox.take(&mut out);
                    prop_assert_eq!(out.capacity(), room, "no heap call");
                    let expected: Vec<u64> = model.drain(..room.min(model.len())).collect();
                    prop_assert_eq!(out.iter().map(|event| event.seq).collect::<Vec<_>>(), expected);
                }
                prop_assert_eq!(outbox.waiting(), model.len());
                prop_assert_eq!((outbox.counters().posted(), outbox.counters().dropped()), (next, dropped));
            }
        }
    }
}
