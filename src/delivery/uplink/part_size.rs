//! Number of events per request: remembers what a receiver called too large (413), and tries larger requests again later.

use std::ops::Range;

use crate::base::limits::BATCH_EVENTS_MAX;

/// After this many confirmations in a row, a receiver that found a batch too large is offered twice as much again: its limit is in bytes,
/// or was raised.
pub(super) const GROW_AFTER: u32 = 100;

/// The most events of one request.
#[derive(Debug)]
pub(super) struct PartSize {
    max: usize,
    /// Confirmations since the last change.
    confirmed: u32,
}

impl PartSize {
    pub(super) const fn new() -> Self {
        PartSize { max: BATCH_EVENTS_MAX, confirmed: 0 }
    }

    /// This many events were too large.
    pub(super) fn too_large(&mut self, events: usize) {
        (self.max, self.confirmed) = ((events / 2).max(1), 0);
    }

    /// A request was confirmed.
    pub(super) fn confirmed(&mut self) {
        self.confirmed = self.confirmed.saturating_add(1);
        if self.confirmed >= GROW_AFTER && self.max < BATCH_EVENTS_MAX {
            (self.max, self.confirmed) = ((2 * self.max).min(BATCH_EVENTS_MAX), 0);
        }
    }

    /// Splits a batch of `events` events into parts that the receiver accepts.
    pub(super) fn parts(&self, events: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let max = self.max;
        (0..events).step_by(max).map(move |start| start..events.min(start + max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(size: &PartSize, events: usize) -> Vec<Range<usize>> {
        size.parts(events).collect()
    }

    #[test]
    fn parts_shrink_immediately_and_grow_after_several_confirmations() {
        let mut size = PartSize::new();
        assert_eq!(parts(&size, BATCH_EVENTS_MAX), vec![0..BATCH_EVENTS_MAX; 1]);
        size.too_large(50);
        assert_eq!(parts(&size, 60), [0..25, 25..50, 50..60]);
        (1..GROW_AFTER).for_each(|_| size.confirmed());
        assert_eq!(parts(&size, 50).len(), 2);
        size.confirmed();
        assert_eq!(parts(&size, 50), vec![0..50; 1]);
        size.too_large(1);
        assert_eq!(parts(&size, 3), [0..1, 1..2, 2..3], "one event is the minimum");
        assert!(parts(&size, 0).is_empty());
    }
}
