//! The batch that is being delivered: taken from the spool, and not acknowledged yet.

use std::ops::Range;
use std::sync::Arc;

use super::log::Taken;
use super::record::Dead;
use super::shared::Spool;
use crate::event::{Event, Text};
use crate::platform::clock::{ClockSyncSample, Mono};

/// Memory for a batch.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) events: Vec<Event>,
    is_done: Vec<bool>,
}

impl Buffers {
    pub(super) fn for_events(most: usize) -> Self {
        Buffers { events: Vec::with_capacity(most), is_done: Vec::with_capacity(most) }
    }
}

/// Events of one run that are being delivered, oldest first. [`Spool::take`] returns it, one at a time, and it is the only record of what
/// is in flight. Acknowledged events are done even if the rest of the batch never arrives: the next commit records this, for each class up
/// to its first event that is not done. Events that are not acknowledged when this is dropped wait in the spool again.
#[derive(Debug)]
#[must_use = "dropping it returns its events to the queue"]
pub struct InFlight {
    spool: Arc<Spool>,
    number: u64,
    whose: Taken,
    buffers: Buffers,
    /// Events that are not done.
    left: usize,
}

impl InFlight {
    pub(super) fn new(spool: Arc<Spool>, number: u64, whose: Taken, buffers: Buffers) -> Self {
        let mut batch = InFlight { spool, number, whose, buffers, left: 0 };
        batch.note_new();
        batch
    }

    /// The run that its events belong to.
    pub fn whose(&self) -> &Taken {
        &self.whose
    }

    /// All of its events, including those that are done.
    pub fn events(&self) -> &[Event] {
        &self.buffers.events
    }

    /// Events that are neither delivered nor refused.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Whether the spool has taken the events back, because a disk with older events was attached: drop the batch, and take one again.
    /// Events that are acknowledged anyway are sent once more.
    pub fn is_called_back(&self) -> bool {
        self.spool.is_called_back(self.number)
    }

    /// Marks these events as confirmed by the receiver.
    pub fn acknowledge(&mut self, now: Mono, part: Range<usize>) {
        self.spool.acknowledge(self.number, now, &self.buffers.events[part.clone()]);
        self.note_done(part);
    }

    /// The receiver refuses this event permanently: it becomes a dead letter. `clock`: the reading that it was stamped with.
    pub fn refuse(&mut self, now: Mono, index: usize, why: Text, clock: ClockSyncSample) {
        let (origin, event) = ((*self.whose.origin).clone(), self.buffers.events[index].clone());
        self.spool.refuse(self.number, now, Dead { origin, clock, why, event });
        self.note_done(index..index + 1);
    }

    /// Drops the events that are done, and takes more of the same run, due or not, up to the size of a batch.
    pub fn refill(&mut self) {
        let Buffers { events, is_done } = &mut self.buffers;
        let mut done = is_done.drain(..);
        events.retain(|_| !done.next().unwrap_or_default());
        drop(done);
        self.spool.top_up(self.number, events);
        self.left = 0;
        self.note_new();
    }

    /// Marks all events as still to be delivered.
    fn note_new(&mut self) {
        let Buffers { events, is_done } = &mut self.buffers;
        is_done.resize(events.len(), false);
        self.left = events.len();
    }

    fn note_done(&mut self, part: Range<usize>) {
        for is_done in &mut self.buffers.is_done[part] {
            self.left -= usize::from(!std::mem::replace(is_done, true));
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut buffers = std::mem::take(&mut self.buffers);
        buffers.events.clear();
        buffers.is_done.clear();
        self.spool.give_back(self.number, buffers);
    }
}
