//! What to do with the batch in hand, and when: the decisions of the delivery, without I/O.
//!
//! ```text
//!            begin(n)                      Delivered, or the last bad event dropped: nothing of the batch is left
//!   Idle ───────────────► Sending ──────────────────────────────────────────────────────────────► Idle
//!                          ▲ │ ▲ │
//!              due, or     │ │ │ └─ Refused, more than one event: halved, the first half is sent next
//!              hurry()     │ │ └─── Delivered, dropped or set aside, and a part is left: that is sent next
//!                          │ ▼ Retry, Misconfigured; nothing but refusals
//!                      Backoff{until}
//! ```
//! A part of the batch (a range of its events) stays the same until it is delivered or refused: every retry carries the
//! same ids. A batch that is refused for good is halved until the bad event is alone; only that one is dropped, and the
//! caller counts it (I4). Never drops anything for an outcome that time or a person can heal.
//!
//! A receiver that refuses everything (another program answers at that address, its format changed) must not empty the
//! device. So a refusal is believed only from a receiver that also confirms: each confirmation is good for
//! [`REFUSALS_MAX`] refused events. Without that credit a refused event is set aside and the next one is tried; the first
//! confirmation brings what was set aside to another try, on credit now. If there is none in the batch, or as many again
//! are set aside, all of it is kept and waits for a person, like after a 404.

use std::ops::Range;
use std::time::Duration;

use crate::clock::Mono;
use crate::limits::BATCH_EVENTS_MAX;
use crate::retry::Backoff;

/// Parts of a batch that wait. Each halving leaves one: the largest batch down to one event (1000, 500, ... 1) leaves ten,
/// and events that were set aside and come again (16, 8, ... 1) five more.
const PARTS_MAX: usize = 16;
const _: () = assert!(
    BATCH_EVENTS_MAX.next_power_of_two().ilog2() + REFUSALS_MAX.next_power_of_two().ilog2() + 2
        <= PARTS_MAX as u32,
    "every part has a place on the stack"
);

/// Events that may be refused one by one after a confirmation before the receiver is doubted. A bad event is a fault of
/// ours and rare; sixteen in a row are a fault of the receiver.
pub const REFUSALS_MAX: usize = 16;

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
    /// Something is set wrong, here or there: a token, the path, a redirect. The events are good; a person is needed.
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
    /// The event at this index was refused alone by a receiver that has confirmed nothing: others are tried first.
    SetAside(usize),
    /// Nothing but refusals: every event that is not done is kept and goes out again at `until`.
    Doubted {
        /// When.
        until: Mono,
    },
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
    /// Refused events that are still believed.
    credit: usize,
    /// Parts still to send, the next one on top. Apart from a part that was set aside and comes again, each begins where
    /// the one above it ends.
    parts: heapless::Vec<Range<usize>, PARTS_MAX>,
    /// Events set aside: refused one by one, just before the part on top.
    aside: Range<usize>,
}

impl Session {
    /// Nothing in hand. `retry_after_cap` limits what a receiver may ask for.
    pub fn new(backoff: Backoff, retry_after_cap: Duration) -> Self {
        let (state, parts) = (State::Idle, heapless::Vec::new());
        Session { state, backoff, retry_after_cap, credit: 0, parts, aside: 0..0 }
    }

    /// Takes a batch of `events` events in hand.
    ///
    /// # Panics
    /// If one is already in hand, or the batch is empty or above the limit: the driver's own mistake.
    pub fn begin(&mut self, events: usize) {
        assert!(self.state == State::Idle, "the batch in hand is not done");
        assert!((1..=BATCH_EVENTS_MAX).contains(&events), "a batch of {events} events");
        self.aside = 0..0;
        self.put(0..events);
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
                self.credit = REFUSALS_MAX;
                self.parts.pop();
                if !self.aside.is_empty() {
                    let again = std::mem::replace(&mut self.aside, 0..0);
                    self.put(again);
                }
                self.go_on();
                Verdict::Delivered(part.len())
            }
            Err(Failure::Refused) if part.len() == 1 => self.refused_alone(now, part.start),
            Err(Failure::Refused) => {
                let middle = part.start + part.len() / 2;
                self.parts.pop();
                self.put(middle..part.end);
                self.put(part.start..middle);
                Verdict::Halved
            }
            Err(Failure::Retry { after }) => {
                Verdict::Kept { until: self.wait(now, after.unwrap_or_default()) }
            }
            Err(Failure::Misconfigured) => Verdict::Kept { until: self.wait(now, Duration::ZERO) },
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
        self.aside.len() + self.parts.iter().map(Range::len).sum::<usize>()
    }

    /// The part being sent.
    fn part(&self) -> Range<usize> {
        self.parts.last().expect("outside Idle there is a part").clone()
    }

    fn put(&mut self, part: Range<usize>) {
        self.parts.push(part).expect("checked at compile time above");
    }

    fn go_on(&mut self) {
        self.state = if self.parts.is_empty() { State::Idle } else { State::Sending };
    }

    fn refused_alone(&mut self, now: Mono, index: usize) -> Verdict {
        self.parts.pop();
        if self.credit > 0 {
            self.credit -= 1;
            self.go_on();
            return Verdict::Dropped(index);
        }
        // Without credit nothing set aside has come again: what is not done is one range.
        let first = if self.aside.is_empty() { index } else { self.aside.start };
        self.aside = first..index + 1;
        if self.parts.is_empty() || self.aside.len() == REFUSALS_MAX {
            let end = self.parts.first().map_or(index + 1, |part| part.end);
            self.parts.clear();
            self.aside = 0..0;
            self.put(first..end);
            return Verdict::Doubted { until: self.wait(now, Duration::ZERO) };
        }
        Verdict::SetAside(index)
    }

    fn wait(&mut self, now: Mono, at_least: Duration) -> Mono {
        let delay = self.backoff.next_delay().max(at_least.min(self.retry_after_cap));
        let until = now + delay;
        self.state = State::Backoff { until };
        until
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

    /// Runs a batch against a receiver that refuses parts with a bad event, until it is done or waits.
    fn steps(s: &mut Session, bad: &[usize]) -> Vec<(Range<usize>, Verdict)> {
        let mut steps = Vec::new();
        while let Next::Send(part) = s.next(secs(0)) {
            let refused = part.clone().any(|index| bad.contains(&index));
            let verdict = s.report(secs(0), if refused { Err(Failure::Refused) } else { Ok(()) });
            steps.push((part, verdict));
        }
        steps
    }

    #[test]
    fn a_refusal_isolates_the_bad_event_step_by_step() {
        let mut s = session();
        s.begin(5);
        assert_eq!(
            steps(&mut s, &[3]),
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
        assert_eq!(s.next(secs(0)), Next::Load);
    }

    #[test]
    fn a_bad_event_at_the_head_is_set_aside_until_another_is_confirmed() {
        let mut s = session();
        s.begin(4);
        assert_eq!(
            steps(&mut s, &[0, 1]),
            [
                (0..4, Verdict::Halved),
                (0..2, Verdict::Halved),
                (0..1, Verdict::SetAside(0)),
                (1..2, Verdict::SetAside(1)),
                (2..4, Verdict::Delivered(2)),
                (0..2, Verdict::Halved),
                (0..1, Verdict::Dropped(0)),
                (1..2, Verdict::Dropped(1)),
            ]
        );
    }

    #[test]
    fn a_receiver_that_refuses_everything_gets_nothing_dropped() {
        for events in [1, 2, 15, 16, 17, 100, BATCH_EVENTS_MAX] {
            let mut s = session();
            s.begin(events);
            let all: Vec<usize> = (0..events).collect();
            let mut now = secs(0);
            for _ in 0..5 {
                let mut sends = 0;
                let until = loop {
                    let Next::Send(part) = s.next(now) else { panic!("a part is sent until it is doubted") };
                    sends += 1;
                    assert!(sends <= 2 * REFUSALS_MAX + PARTS_MAX, "{sends} requests at once");
                    let refused = part.clone().any(|index| all.contains(&index));
                    assert!(refused && (sends > 1 || part == (0..events)));
                    match s.report(now, Err(Failure::Refused)) {
                        Verdict::Halved | Verdict::SetAside(_) => {}
                        Verdict::Doubted { until } => break until,
                        other @ (Verdict::Delivered(_) | Verdict::Dropped(_) | Verdict::Kept { .. }) => {
                            panic!("{other:?}")
                        }
                    }
                    assert_eq!(s.in_hand(), events);
                };
                assert!(until > now);
                assert_eq!((s.next(now), s.in_hand()), (Next::Wait { until }, events));
                now = until;
            }
            assert!(now >= secs(15), "the delays grow, also over rounds of refusals: {now:?}");
            assert_eq!(s.next(now), Next::Send(0..events));
            assert_eq!(s.report(now, Ok(())), Verdict::Delivered(events), "and all go once it is mended");
        }
    }

    #[test]
    fn a_receiver_that_turns_to_refusing_costs_the_credit_and_no_more() {
        let mut s = session();
        s.begin(1);
        s.report(secs(0), Ok(()));
        s.begin(100);
        let all: Vec<usize> = (0..100).collect();
        let verdicts: Vec<Verdict> = steps(&mut s, &all).into_iter().map(|step| step.1).collect();
        let dropped = verdicts.iter().filter(|v| matches!(v, Verdict::Dropped(_))).count();
        assert_eq!((dropped, s.in_hand()), (REFUSALS_MAX, 100 - REFUSALS_MAX));
        assert!(matches!(verdicts.last(), Some(Verdict::Doubted { .. })));
        let Next::Wait { until } = s.next(secs(0)) else { panic!("doubted") };
        assert_eq!(s.next(until), Next::Send(REFUSALS_MAX..100));
    }

    proptest! {
        /// Whatever the receiver does in between: the good events are delivered once, the bad ones dropped
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
            let mut rounds = 0;
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
                    Verdict::Halved | Verdict::SetAside(_) => 0,
                    Verdict::Doubted { .. } => { rounds += 1; if rounds > 3 { break } 0 }
                };
                prop_assert_eq!(s.in_hand(), before - finished);
            }
            let is_bad = |index: &usize| bad.contains(index);
            if rounds > 3 {
                // Not one good event: then nothing was confirmed, and nothing may be dropped.
                prop_assert!((0..events).all(|index| bad.contains(&index)));
                prop_assert_eq!((delivered.len(), dropped.len(), s.in_hand()), (0, 0, events));
            } else {
                delivered.sort_unstable();
                dropped.sort_unstable();
                prop_assert_eq!(delivered, (0..events).filter(|i| !is_bad(i)).collect::<Vec<_>>());
                prop_assert_eq!(dropped, (0..events).filter(is_bad).collect::<Vec<_>>());
            }
        }
    }
}
