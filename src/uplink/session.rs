//! What to do with the batch in hand, and when: the decisions of the delivery, without I/O.
//!
//! ```text
//!            begin(n)                      Delivered, or the last bad event dropped: nothing of the batch is left
//!   Idle ───────────────► Sending ──────────────────────────────────────────────────────────────► Idle
//!                          ▲ │ ▲ │
//!              due, or     │ │ │ └─ Refused, more than one event: halved, the first half is sent next
//!              hurry()     │ │ └─── Delivered or dropped, and a part is left: that is sent next
//!                          │ ▼ Retry, Misconfigured
//!                      Backoff{until}
//! ```
//! A part of the batch (a range of its events) stays the same until it is delivered or refused: every retry carries the
//! same ids. A batch that is refused for good is halved until the bad event is alone; only that one is dropped, and the
//! caller counts it (I4). Never drops anything for an outcome that time or a person can heal.

use std::ops::Range;
use std::time::Duration;

use crate::clock::Mono;
use crate::limits::BATCH_EVENTS_MAX;
use crate::retry::Backoff;

/// Halvings of the largest batch down to one event: 1000, 500, ... 1 are ten.
const HALVINGS_MAX: usize = 16;
const _: () = assert!(BATCH_EVENTS_MAX < 1 << HALVINGS_MAX, "every halving has a place on the stack");

/// How a send failed, as far as the session cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The receiver may confirm next time: time-out, connection, 5xx, 408, 425, 429.
    Retry {
        /// What the receiver asked for (`Retry-After`).
        after: Option<Duration>,
    },
    /// The receiver will never take these events.
    Refused,
    /// Something is set wrong, here or there: 401, 403, 404, 407. The events are good; a person is needed.
    Misconfigured,
}

/// What an outcome led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// So many events are done.
    Delivered(usize),
    /// The same part goes out again at `until`.
    Kept {
        /// When.
        until: Mono,
    },
    /// The part was refused and is halved.
    Halved,
    /// The event at this index of the batch was refused alone: it is dropped. The caller counts and logs it.
    Dropped(usize),
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing in hand: take a batch and [`Session::begin`].
    Load,
    /// Send these events of the batch, then [`Session::report`].
    Send(Range<usize>),
    /// Come back then.
    Wait {
        /// When the next try is due.
        until: Mono,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Sending,
    Backoff { until: Mono },
}

/// The state of one delivery.
#[derive(Debug)]
pub struct Session {
    state: State,
    backoff: Backoff,
    retry_after_cap: Duration,
    /// First event of the batch that is not done.
    start: usize,
    /// Ends of the parts still to send, the next one on top; the lowest is the end of the batch.
    ends: heapless::Vec<usize, HALVINGS_MAX>,
}

impl Session {
    /// Nothing in hand. `retry_after_cap` limits what a receiver may ask for.
    pub fn new(backoff: Backoff, retry_after_cap: Duration) -> Self {
        Session { state: State::Idle, backoff, retry_after_cap, start: 0, ends: heapless::Vec::new() }
    }

    /// Takes a batch of `events` events in hand.
    ///
    /// # Panics
    /// If one is already in hand, or the batch is empty or above the limit: the driver's own mistake.
    pub fn begin(&mut self, events: usize) {
        assert!(self.state == State::Idle, "the batch in hand is not done");
        assert!((1..=BATCH_EVENTS_MAX).contains(&events), "a batch of {events} events");
        self.start = 0;
        self.ends.clear();
        self.ends.push(events).expect("the stack was just emptied");
        self.state = State::Sending;
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Mono) -> Next {
        match self.state {
            State::Idle => Next::Load,
            State::Backoff { until } if now < until => Next::Wait { until },
            State::Sending | State::Backoff { .. } => {
                self.state = State::Sending;
                Next::Send(self.part())
            }
        }
    }

    /// Takes the outcome of the part that [`Self::next`] gave out.
    ///
    /// # Panics
    /// If nothing was being sent: the driver's own mistake.
    pub fn report(&mut self, now: Mono, outcome: Result<(), Failure>) -> Verdict {
        assert!(self.state == State::Sending, "an outcome of nothing");
        let part = self.part();
        match outcome {
            Ok(()) => {
                self.backoff.succeeded();
                self.done_with(&part);
                Verdict::Delivered(part.len())
            }
            Err(Failure::Refused) if part.len() == 1 => {
                self.backoff.succeeded();
                self.done_with(&part);
                Verdict::Dropped(part.start)
            }
            Err(Failure::Refused) => {
                self.backoff.succeeded();
                self.ends.push(part.start + part.len() / 2).expect("checked at compile time above");
                Verdict::Halved
            }
            Err(Failure::Retry { after }) => self.wait(now, after.unwrap_or_default()),
            Err(Failure::Misconfigured) => self.wait(now, Duration::ZERO),
        }
    }

    /// Shutdown: the next try is due at once, and later ones start with small delays again.
    pub fn hurry(&mut self, now: Mono) {
        self.backoff.succeeded();
        if let State::Backoff { until } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// Events in hand that are neither delivered nor dropped.
    pub fn in_hand(&self) -> usize {
        self.ends.first().map_or(0, |end| end - self.start)
    }

    /// The part being sent.
    fn part(&self) -> Range<usize> {
        self.start..*self.ends.last().expect("outside Idle there is a part")
    }

    fn done_with(&mut self, part: &Range<usize>) {
        self.start = part.end;
        self.ends.pop();
        self.state = if self.ends.is_empty() { State::Idle } else { State::Sending };
    }

    fn wait(&mut self, now: Mono, at_least: Duration) -> Verdict {
        let delay = self.backoff.next_delay().max(at_least.min(self.retry_after_cap));
        let until = now + delay;
        self.state = State::Backoff { until };
        Verdict::Kept { until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RETRY: Result<(), Failure> = Err(Failure::Retry { after: None });

    fn secs(s: u64) -> Mono {
        Mono::from_nanos(s * 1_000_000_000)
    }

    fn session() -> Session {
        Session::new(
            Backoff::new(Duration::from_secs(1), Duration::from_secs(300), 1),
            Duration::from_secs(600),
        )
    }

    #[test]
    fn a_delivered_batch_makes_room_for_the_next() {
        let mut s = session();
        assert_eq!((s.next(secs(0)), s.in_hand()), (Next::Load, 0));
        s.begin(3);
        assert_eq!((s.next(secs(0)), s.in_hand()), (Next::Send(0..3), 3));
        assert_eq!(s.next(secs(0)), Next::Send(0..3), "asking twice changes nothing");
        assert_eq!(s.report(secs(0), Ok(())), Verdict::Delivered(3));
        assert_eq!((s.next(secs(0)), s.in_hand()), (Next::Load, 0));
    }

    #[test]
    fn a_retry_waits_and_sends_the_same_part() {
        for outcome in [RETRY, Err(Failure::Misconfigured)] {
            let mut s = session();
            s.begin(5);
            let mut now = secs(100);
            for whole in [1.0, 2.0, 4.0, 8.0, 16.0f64] {
                assert_eq!(s.next(now), Next::Send(0..5));
                let Verdict::Kept { until } = s.report(now, outcome) else { panic!("kept") };
                let delay = until.since(now).as_secs_f64();
                assert!((whole / 2.0..=whole).contains(&delay), "{delay} of {whole}");
                let before = Mono::from_nanos(until.as_nanos() - 1);
                assert_eq!((s.next(now), s.next(before)), (Next::Wait { until }, Next::Wait { until }));
                assert_eq!(s.in_hand(), 5);
                now = until;
            }
            assert_eq!(s.next(now), Next::Send(0..5));
            s.report(now, Ok(()));
            s.begin(1);
            let Verdict::Kept { until } = s.report(now, outcome) else { panic!("kept") };
            assert!(until.since(now) <= Duration::from_secs(1), "success starts the delays again");
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_its_cap_and_never_shortens() {
        for (asked, low, high) in [(60, 60.0, 60.0), (4000, 600.0, 600.0), (0, 0.5, 1.0f64)] {
            let mut s = session();
            s.begin(1);
            let outcome = Err(Failure::Retry { after: Some(Duration::from_secs(asked)) });
            let Verdict::Kept { until } = s.report(secs(10), outcome) else { panic!("kept") };
            let delay = until.since(secs(10)).as_secs_f64();
            assert!((low..=high).contains(&delay), "{delay} for {asked}");
        }
    }

    #[test]
    fn a_shutdown_ends_the_back_off_but_not_the_batch() {
        let mut s = session();
        s.hurry(secs(1));
        s.begin(2);
        for _ in 0..12 {
            assert_eq!(s.next(secs(100_000)), Next::Send(0..2));
            s.report(secs(10), RETRY);
            s.state = State::Sending;
        }
        let Verdict::Kept { until } = s.report(secs(10), RETRY) else { panic!("kept") };
        assert!(until >= secs(160));
        s.hurry(secs(11));
        assert_eq!(s.next(secs(11)), Next::Send(0..2));
        let Verdict::Kept { until } = s.report(secs(11), RETRY) else { panic!("kept") };
        assert!(until <= secs(12));
    }

    #[test]
    fn a_refusal_isolates_the_bad_event_step_by_step() {
        let mut s = session();
        s.begin(5);
        let mut steps = Vec::new();
        while let Next::Send(part) = s.next(secs(0)) {
            let outcome = if part.contains(&3) { Err(Failure::Refused) } else { Ok(()) };
            let verdict = s.report(secs(0), outcome);
            steps.push((part, verdict));
        }
        assert_eq!(
            steps,
            [
                (0..5, Verdict::Halved),
                (0..2, Verdict::Delivered(2)),
                (2..5, Verdict::Halved),
                (2..3, Verdict::Delivered(1)),
                (3..5, Verdict::Halved),
                (3..4, Verdict::Dropped(3)),
                (4..5, Verdict::Delivered(1)),
            ]
        );
    }

    proptest! {
        /// Whatever the receiver does in between: the good events are delivered once and in order, the bad ones dropped
        /// once, a part is repeated only unchanged, and nothing else happens.
        #[test]
        fn every_event_ends_once(
            events in 1usize..=BATCH_EVENTS_MAX,
            bad in proptest::collection::hash_set(0usize..BATCH_EVENTS_MAX, 0..6),
            moods in proptest::collection::vec(0u8..4, 0..40),
        ) {
            let mut s = session();
            let mut now = Mono::ZERO;
            let mut moods = moods.into_iter();
            let (mut delivered, mut dropped, mut again) = (Vec::new(), Vec::new(), None);
            s.begin(events);
            loop {
                let part = match s.next(now) {
                    Next::Load => break,
                    Next::Wait { until } => { now = until; continue }
                    Next::Send(part) => part,
                };
                if let Some(again) = again.take() { prop_assert_eq!(&part, &again); }
                let before = s.in_hand();
                let outcome = match moods.next() {
                    Some(0) => RETRY,
                    Some(1) => Err(Failure::Misconfigured),
                    _ if bad.iter().any(|index| part.contains(index)) => Err(Failure::Refused),
                    _ => Ok(()),
                };
                let finished = match s.report(now, outcome) {
                    Verdict::Delivered(count) => {
                        prop_assert_eq!(count, part.len());
                        delivered.extend(part);
                        count
                    }
                    Verdict::Dropped(index) => { dropped.push(index); 1 }
                    Verdict::Kept { .. } => { again = Some(part); 0 }
                    Verdict::Halved => 0,
                };
                prop_assert_eq!(s.in_hand(), before - finished);
            }
            let is_bad = |index: &usize| bad.contains(index);
            prop_assert_eq!(delivered, (0..events).filter(|i| !is_bad(i)).collect::<Vec<_>>());
            prop_assert_eq!(dropped, (0..events).filter(is_bad).collect::<Vec<_>>());
        }
    }
}
