//! Events wait here until they are worth a delivery: enough of them, or old enough.
//!
//! ```text
//!   push ──► [oldest ........ newest] ──► take_into      due: batch_events_max are there, or
//!               │ full: the oldest goes,                      the oldest has waited age_max, or
//!               ▼ counted                                     a flush covers it
//!            dropped
//! ```
//! All memory is taken at construction. Pure: told `now`, never waits, never asks a clock, never touches a lock; a
//! driver ([`crate::delivery::uplink`]) does. Age is counted from the push, not from [`Event::at`]: recordings carry their own time.

use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::limits::{BATCH_EVENTS_MAX, EVENT_QUEUE_MAX};
use crate::event::Event;
use crate::platform::clock::Mono;

/// Sizes and ages of a [`Batcher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchParams {
    /// Events that can wait, `1..=`[`EVENT_QUEUE_MAX`].
    pub queue_events: usize,
    /// Events at which a batch is due, and the most that one takes, `1..=`[`BATCH_EVENTS_MAX`] and not above `queue_events`.
    pub batch_events_max: usize,
    /// How long the oldest event waits at most before its batch is due.
    pub age_max: Duration,
}

/// What became of an event that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// There was room.
    Kept,
    /// The queue was full: this event is in, the oldest is gone and counted in [`Batcher::dropped`].
    ReplacedOldest,
}

/// Whether a batch is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStep {
    /// Not yet.
    Wait {
        /// When it will be if nothing is pushed; `None`: the queue is empty.
        until: Option<Mono>,
    },
    /// Now: call [`Batcher::take_into`].
    Ready,
}

/// A waiting event and when it came.
#[derive(Debug)]
struct Waiting {
    since: Mono,
    event: Event,
}

/// The queue of events and the decision when a batch of them is due.
#[derive(Debug)]
pub struct Batcher {
    /// A ring; `slots[(head + i) % len]` is the i-th oldest for `i < count`, all others are `None`.
    slots: Box<[Option<Waiting>]>,
    head: usize,
    count: usize,
    /// How many of the oldest are due whatever their age.
    flushed: usize,
    dropped: u64,
    batch_events_max: usize,
    age_max: Duration,
}

impl Batcher {
    /// An empty queue with all its memory.
    ///
    /// # Errors
    /// [`Kind::Config`] if a size is 0 or above its limit.
    pub fn new(params: BatchParams) -> Result<Self> {
        let BatchParams { queue_events, batch_events_max, age_max } = params;
        if !(1..=EVENT_QUEUE_MAX).contains(&queue_events) {
            let text = format!("event queue of {queue_events} events: choose 1 to {EVENT_QUEUE_MAX}");
            return Err(Error::fatal(Kind::Config, text));
        }
        let most = queue_events.min(BATCH_EVENTS_MAX);
        if !(1..=most).contains(&batch_events_max) {
            let text = format!(
                "batch of {batch_events_max} events: choose 1 to {most} (the queue holds {queue_events})"
            );
            return Err(Error::fatal(Kind::Config, text));
        }
        let slots = (0..queue_events).map(|_| None).collect();
        Ok(Batcher { slots, head: 0, count: 0, flushed: 0, dropped: 0, batch_events_max, age_max })
    }

    /// Memory of a queue of `queue_events` events, bytes. For the sum that is printed at start (I1).
    pub const fn bytes(queue_events: usize) -> usize {
        queue_events * size_of::<Option<Waiting>>()
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Events that a full queue dropped so far, always the oldest (I4).
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The most that [`Self::take_into`] takes at once.
    pub fn batch_events_max(&self) -> usize {
        self.batch_events_max
    }

    /// Adds an event as the newest. A full queue drops its oldest for it.
    pub fn push(&mut self, now: Mono, event: Event) -> Pushed {
        let full = self.count == self.slots.len();
        if full {
            self.pop().expect("a full queue has an oldest event");
            self.dropped += 1;
        }
        let index = (self.head + self.count) % self.slots.len();
        self.slots[index] = Some(Waiting { since: now, event });
        self.count += 1;
        if full { Pushed::ReplacedOldest } else { Pushed::Kept }
    }

    /// Whether a batch is due at `now`. Changes nothing.
    pub fn poll(&self, now: Mono) -> BatchStep {
        let Some(oldest) = self.slots[self.head].as_ref() else { return BatchStep::Wait { until: None } };
        let due = oldest.since + self.age_max;
        if self.flushed > 0 || self.count >= self.batch_events_max || due <= now {
            BatchStep::Ready
        } else {
            BatchStep::Wait { until: Some(due) }
        }
    }

    /// Moves the batch that is due at `now`, oldest event first, into `out`, which is emptied before. Nothing if none is
    /// due. Returns how many. No heap call if `out` has room for `batch_events_max`.
    pub fn take_into(&mut self, now: Mono, out: &mut Vec<Event>) -> usize {
        out.clear();
        if self.poll(now) == BatchStep::Ready {
            self.top_up(out);
        }
        out.len()
    }

    /// Moves the oldest events, due or not, behind those in `out`, until it has `batch_events_max`. No heap call if it has
    /// room for so many.
    pub fn top_up(&mut self, out: &mut Vec<Event>) {
        while out.len() < self.batch_events_max
            && let Some(waiting) = self.pop()
        {
            out.push(waiting.event);
        }
    }

    /// Makes everything that waits now due at once, whatever its age; what is pushed later is not covered.
    pub fn flush(&mut self) {
        self.flushed = self.count;
    }

    fn pop(&mut self) -> Option<Waiting> {
        let oldest = self.slots[self.head].take()?;
        self.head = (self.head + 1) % self.slots.len();
        self.count -= 1;
        self.flushed = self.flushed.saturating_sub(1);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Body, fixed};
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn event(seq: u64) -> Event {
        let body = Body::Stopping { reason: fixed("test") };
        Event { seq, at: Mono::ZERO, camera: fixed(""), body }
    }

    fn ms(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn batcher(queue_events: usize, batch_events_max: usize, age_ms: u64) -> Batcher {
        let age_max = Duration::from_millis(age_ms);
        Batcher::new(BatchParams { queue_events, batch_events_max, age_max }).unwrap()
    }

    fn seqs(events: &[Event]) -> Vec<u64> {
        events.iter().map(|e| e.seq).collect()
    }

    #[test]
    fn sizes_out_of_range_are_refused_in_words() {
        for (queue_events, batch_events_max, words) in [
            (0, 1, "queue of 0 events"),
            (EVENT_QUEUE_MAX + 1, 1, "queue of 8193"),
            (5, 0, "batch of 0"),
            (5, 6, "1 to 5"),
            (EVENT_QUEUE_MAX, BATCH_EVENTS_MAX + 1, "1 to 1000"),
        ] {
            let params = BatchParams { queue_events, batch_events_max, age_max: Duration::ZERO };
            let error = Batcher::new(params).expect_err(words);
            assert!(error.kind() == Kind::Config && error.to_string().contains(words), "{error}");
        }
        batcher(EVENT_QUEUE_MAX, BATCH_EVENTS_MAX, 0);
        batcher(1, 1, 0);
    }

    #[test]
    fn due_by_size_by_age_and_by_flush() {
        let mut queue = batcher(10, 3, 100);
        let mut out = Vec::with_capacity(3);
        assert_eq!(queue.poll(ms(0)), BatchStep::Wait { until: None });
        queue.push(ms(5), event(0));
        queue.push(ms(50), event(1));
        assert_eq!(queue.poll(ms(104)), BatchStep::Wait { until: Some(ms(105)) });
        assert_eq!(queue.take_into(ms(104), &mut out), 0);
        assert_eq!(queue.poll(ms(105)), BatchStep::Ready);
        queue.push(ms(60), event(2));
        assert_eq!(queue.poll(ms(60)), BatchStep::Ready, "by size");
        queue.push(ms(60), event(3));
        assert_eq!(queue.take_into(ms(60), &mut out), 3);
        assert_eq!(seqs(&out), [0, 1, 2]);
        assert_eq!(queue.poll(ms(60)), BatchStep::Wait { until: Some(ms(160)) });
        queue.flush();
        assert_eq!(queue.poll(ms(60)), BatchStep::Ready, "by flush");
        queue.push(ms(61), event(4));
        assert_eq!(queue.take_into(ms(61), &mut out), 2);
        queue.push(ms(61), event(5));
        assert_eq!(queue.poll(ms(61)), BatchStep::Wait { until: Some(ms(161)) }, "a flush does not last");
    }

    #[test]
    fn a_queue_of_one_keeps_the_newest() {
        let mut queue = batcher(1, 1, 1000);
        assert_eq!(queue.push(ms(0), event(0)), Pushed::Kept);
        assert_eq!(queue.push(ms(0), event(1)), Pushed::ReplacedOldest);
        let mut out = Vec::new();
        queue.take_into(ms(0), &mut out);
        assert_eq!((seqs(&out), queue.dropped(), queue.is_empty()), (vec![1], 1, true));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Push,
        Advance(u64),
        Take,
        Flush,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => Just(Op::Push),
            2 => (0u64..60).prop_map(Op::Advance),
            2 => Just(Op::Take),
            1 => Just(Op::Flush),
        ]
    }

    proptest! {
        /// Against a VecDeque: order, drops, due times and sizes are those of the model after any row of calls.
        #[test]
        fn behaves_like_the_model(
            ops in proptest::collection::vec(op(), 0..200),
            queue_events in 1usize..12, batch_part in 0.0f64..1.0, age_ms in 0u64..100,
        ) {
            let batch_max = 1 + ((queue_events - 1) as f64 * batch_part) as usize;
            let mut queue = batcher(queue_events, batch_max, age_ms);
            let mut model: VecDeque<(u64, u64, bool)> = VecDeque::new(); // since, seq, flushed
            let mut out = Vec::with_capacity(batch_max);
            let room = out.capacity();
            let (mut now, mut next, mut dropped, mut taken) = (0u64, 0u64, Vec::new(), Vec::new());
            for op in ops {
                match op {
                    Op::Push => {
                        let full = model.len() == queue_events;
                        if full { dropped.push(model.pop_front().unwrap().1); }
                        model.push_back((now, next, false));
                        let pushed = queue.push(ms(now), event(next));
                        prop_assert_eq!(pushed == Pushed::ReplacedOldest, full);
                        next += 1;
                    }
                    Op::Advance(by) => now += by,
                    Op::Flush => {
                        model.iter_mut().for_each(|waiting| waiting.2 = true);
                        queue.flush();
                    }
                    Op::Take => {
                        let due = model.front().is_some_and(|&(since, _, flushed)| {
                            flushed || since + age_ms <= now || model.len() >= batch_max
                        });
                        let most = if due { batch_max.min(model.len()) } else { 0 };
                        let expected: Vec<u64> = model.drain(..most).map(|waiting| waiting.1).collect();
                        queue.take_into(ms(now), &mut out);
                        prop_assert_eq!(seqs(&out), expected.clone());
                        prop_assert!(out.len() <= batch_max && out.capacity() == room);
                        taken.extend(expected);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.dropped(), dropped.len() as u64);
                // Never later than `age_max` after the oldest, never asked to wait for nothing.
                match queue.poll(ms(now)) {
                    BatchStep::Wait { until: None } => prop_assert!(model.is_empty()),
                    BatchStep::Wait { until: Some(until) } => {
                        prop_assert_eq!(until, ms(model[0].0 + age_ms));
                        prop_assert!(until > ms(now));
                    }
                    BatchStep::Ready => prop_assert!(!model.is_empty()),
                }
            }
            queue.flush();
            while queue.take_into(ms(now), &mut out) > 0 { taken.extend(seqs(&out)); }
            prop_assert!(taken.is_sorted(), "order kept");
            let mut all: Vec<u64> = taken.into_iter().chain(dropped).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..next).collect::<Vec<_>>(), "taken and dropped are all, once");
        }
    }
}
