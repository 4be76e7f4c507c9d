//! Decides what to do with the batch in flight, and when; without I/O.
//!
//! ```text
//!            begin(n)                      Delivered, or the last bad event dropped: the batch is finished
//!   Idle ───────────────► Sending ──────────────────────────────────────────────────────────────► Idle
//!                        ▲ ▲ │ ▲ │
//!           refilled(n)  │ │ │ │ └─ Refused, more than one event: halved, the first half is sent next
//!                        │ │ │ └─── Delivered, dropped or set aside, and a part is left: it is sent next
//!                        │ │ ▼ Retry, Misconfigured; REFUSALS_MAX set aside in a row
//!                        │ Backoff{until}     due, or shut_down()
//!                        │
//!                        Open{until}  ◄── Sending: all that is left was set aside; Refill when due, or shut_down()
//! ```
//! A part of the batch (a range of its events) stays the same until it is delivered or refused: every retry carries the same ids. A batch
//! that is refused permanently is halved until the bad event is alone; only that one is dropped, and the caller counts it (I4). Never drops
//! anything for a temporary failure or one that a person can fix.
//!
//! Whether a refusal is accepted is the circuit breaker's decision (`breaker.rs`). An event whose refusal is not accepted goes to the end
//! of the queue and the next part is tried, with a back-off after every `REFUSALS_MAX` of them. After a full round without a confirmation,
//! all events are kept and need human action, like after a 404; the next round adds events that arrived since, as far as the batch has
//! room: one of those may be confirmed. When it is full, and the receiver has confirmed others before, each further round gives up some of
//! the oldest, which become dead letters: a series of bad events must not block the queue for ever.

use std::ops::Range;
use std::time::Duration;

use super::breaker::Breaker;
use super::part_size::PartSize;
use crate::base::limits::BATCH_EVENTS_MAX;
use crate::base::retry::Backoff;
use crate::platform::clock::Mono;

/// Delay before another receiver is used.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// How a send failed, as far as it matters to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The receiver may confirm next time: time-out, connection, 5xx, 408, 409, 423, 424, 425, 429.
    Retry {
        /// The delay that the receiver asked for (`Retry-After`).
        after: Option<Duration>,
    },
    /// The receiver did not confirm, but another one can be used: soon, without increasing later delays.
    Elsewhere,
    /// The receiver will never accept these events.
    Refused,
    /// Too many events in one request (413).
    TooLarge,
    /// A wrong setting, here or there: a token, the path, a redirect. The events are good; human action is needed.
    Misconfigured,
}

/// Consequence of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This many events are settled.
    Delivered(usize),
    /// The same part is sent again at `until`.
    Kept {
        /// Time of the next attempt.
        until: Mono,
    },
    /// The part was refused and is halved.
    Halved,
    /// The event at this index of the batch was refused alone: it is dropped. The caller counts and logs it.
    Dropped(usize),
    /// The event at this index was refused alone, but the circuit breaker does not accept the refusal: others are tried first.
    SetAside(usize),
    /// Only refusals: every event that is not settled is kept, and the next attempt is at `until`.
    CircuitOpen {
        /// Time of the next attempt.
        until: Mono,
    },
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing in flight: take a batch and [`Session::begin`].
    Load,
    /// Send these events of the batch, then [`Session::report`].
    Send(Range<usize>),
    /// All remaining events were refused: keep the events of the batch that are neither delivered nor dropped, add waiting events up to its
    /// limit, then call [`Session::refilled`].
    Refill,
    /// Call again at this time.
    Wait {
        /// Time of the next attempt.
        until: Mono,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Sending,
    Backoff { until: Mono },
    Open { until: Mono },
}

/// The state of one delivery.
#[derive(Debug)]
pub struct Session {
    state: State,
    backoff: Backoff,
    retry_after_cap: Duration,
    breaker: Breaker,
    part_size: PartSize,
    /// Parts that are not settled; the first one is sent next. Parts are not empty and do not overlap, so there are no more of them than
    /// events.
    queue: heapless::Deque<Range<usize>, BATCH_EVENTS_MAX>,
    /// Number of parts at the end of the queue that were set aside in this round.
    aside: usize,
}

impl Session {
    /// Other delays from the next failure on.
    pub fn set_delays(&mut self, first: Duration, cap: Duration, retry_after_cap: Duration) {
        self.backoff.set(first, cap);
        self.retry_after_cap = retry_after_cap;
    }

    /// Nothing in flight. `retry_after_cap` limits the delay that a receiver may ask for.
    pub fn new(backoff: Backoff, retry_after_cap: Duration) -> Self {
        Session {
            state: State::Idle,
            backoff,
            retry_after_cap,
            breaker: Breaker::default(),
            part_size: PartSize::new(),
            queue: heapless::Deque::new(),
            aside: 0,
        }
    }

    /// The current receiver has confirmed before, for example in an earlier run.
    pub fn assume_confirmed(&mut self) {
        self.breaker.assume_confirmed();
    }

    /// From now on another receiver is used, whose refusals are not accepted before it has confirmed something.
    pub fn switch_receiver(&mut self) {
        self.breaker.switch_receiver();
    }

    /// Takes a batch of `events` events.
    ///
    /// # Panics
    /// If one is already in flight, or the batch is empty or above the limit: a bug in the driver.
    pub fn begin(&mut self, events: usize) {
        assert!(self.state == State::Idle, "the batch in flight is not done");
        assert!((1..=BATCH_EVENTS_MAX).contains(&events), "a batch of {events} events");
        self.put_parts(events);
        self.state = State::Sending;
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Mono) -> Next {
        match self.state {
            State::Idle => Next::Load,
            State::Backoff { until } | State::Open { until } if now < until => Next::Wait { until },
            State::Open { .. } => Next::Refill,
            State::Sending | State::Backoff { .. } => {
                self.state = State::Sending;
                Next::Send(self.part())
            }
        }
    }

    /// Processes the outcome of the part that [`Self::next`] returned.
    ///
    /// # Panics
    /// If nothing was being sent: a bug in the driver.
    pub fn report(&mut self, now: Mono, outcome: Result<(), Failure>) -> Verdict {
        assert!(self.state == State::Sending, "an outcome without a send");
        match outcome {
            Ok(()) => {
                self.backoff.succeeded();
                let aside: usize = self.queue.iter().rev().take(self.aside).map(Range::len).sum();
                self.breaker.confirmed(aside);
                self.part_size.confirmed();
                let part = self.take_part();
                self.go_on();
                Verdict::Delivered(part.len())
            }
            Err(Failure::Refused) => self.refused(now),
            Err(Failure::TooLarge) => {
                self.part_size.too_large(self.part().len());
                self.refused(now)
            }
            Err(Failure::Retry { after }) => {
                Verdict::Kept { until: self.wait(now, after.unwrap_or_default()) }
            }
            Err(Failure::Elsewhere) => {
                let until = now + ELSEWHERE;
                self.breaker.pause();
                self.state = State::Backoff { until };
                Verdict::Kept { until }
            }
            Err(Failure::Misconfigured) => Verdict::Kept { until: self.wait(now, Duration::ZERO) },
        }
    }

    /// The batch was refilled after [`Next::Refill`]; it now has this many events; `full`: there was no room for more.
    ///
    /// # Panics
    /// If no refill was requested, or there are fewer events than before or more than the limit: a bug in the driver.
    pub fn refilled(&mut self, events: usize, full: bool) {
        assert!(matches!(self.state, State::Open { .. }), "no refill was requested");
        let left = self.in_flight();
        assert!((left..=BATCH_EVENTS_MAX).contains(&events), "{left} events became {events}");
        if full && events == left {
            self.breaker.blocked();
        }
        self.queue.clear();
        self.aside = 0;
        self.put_parts(events);
        self.state = State::Sending;
    }

    /// The batch is not in flight any more: it was called back.
    pub fn forget(&mut self) {
        self.queue.clear();
        self.breaker.pause();
        (self.aside, self.state) = (0, State::Idle);
    }

    /// The shutdown begins: the next attempt is due immediately, and later delays start small again.
    pub fn shut_down(&mut self, now: Mono) {
        self.backoff.succeeded();
        if let State::Backoff { until } | State::Open { until } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// Events in unsettled parts.
    fn in_flight(&self) -> usize {
        self.queue.iter().map(Range::len).sum()
    }

    /// The part being sent.
    fn part(&self) -> Range<usize> {
        self.queue.front().expect("there is a part in every state but Idle").clone()
    }

    fn take_part(&mut self) -> Range<usize> {
        self.queue.pop_front().expect("there is a part in every state but Idle")
    }

    fn put_first(&mut self, part: Range<usize>) {
        self.queue.push_front(part).expect("no more parts than events");
    }

    /// Queues this many events, in parts that the receiver accepts.
    fn put_parts(&mut self, events: usize) {
        for part in self.part_size.parts(events) {
            self.queue.push_back(part).expect("no more parts than events");
        }
    }

    /// Moves the part to the end of the queue; merges it with the last part if that was set aside in this round and the two are adjacent.
    fn put_last(&mut self, part: Range<usize>) {
        match self.queue.back_mut() {
            Some(last) if self.aside > 0 && last.end == part.start => last.end = part.end,
            Some(_) | None => {
                self.queue.push_back(part).expect("no more parts than events");
                self.aside += 1;
            }
        }
    }

    /// After a confirmation or an accepted refusal: the events that were set aside are tried again when the rest is done.
    fn go_on(&mut self) {
        if self.aside == self.queue.len() {
            self.aside = 0;
        }
        if self.queue.is_empty() {
            self.state = State::Idle;
        }
    }

    fn refused(&mut self, now: Mono) -> Verdict {
        let part = self.take_part();
        if part.len() > 1 {
            let middle = part.start + part.len() / 2;
            self.put_first(middle..part.end);
            self.put_first(part.start..middle);
            return Verdict::Halved;
        }
        if self.breaker.accepts_refusal() {
            self.go_on();
            return Verdict::Dropped(part.start);
        }
        let index = part.start;
        self.put_last(part);
        let opens = self.breaker.set_aside();
        let come_round = self.aside == self.queue.len();
        if !come_round && !opens {
            return Verdict::SetAside(index);
        }
        let until = self.wait(now, Duration::ZERO);
        if come_round {
            self.state = State::Open { until };
        }
        Verdict::CircuitOpen { until }
    }

    /// Begins a back-off.
    fn wait(&mut self, now: Mono, at_least: Duration) -> Mono {
        let delay = self.backoff.next_delay().max(at_least.min(self.retry_after_cap));
        let until = now + delay;
        self.breaker.pause();
        self.state = State::Backoff { until };
        until
    }
}

#[cfg(test)]
mod tests {
    use super::super::breaker::REFUSALS_MAX;
    use super::super::part_size::GROW_AFTER;
    use super::*;
    use proptest::prelude::*;

    const RETRY: Result<(), Failure> = Err(Failure::Retry { after: None });

    /// Whether the event at this index of the batch is neither delivered nor dropped.
    fn is_left(session: &Session, index: usize) -> bool {
        session.queue.iter().any(|part| part.contains(&index))
    }

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
        assert_eq!((s.next(secs(0)), s.in_flight()), (Next::Load, 0));
        s.begin(3);
        assert_eq!((s.next(secs(0)), s.in_flight()), (Next::Send(0..3), 3));
        assert_eq!(s.next(secs(0)), Next::Send(0..3), "asking twice changes nothing");
        assert_eq!(s.report(secs(0), Ok(())), Verdict::Delivered(3));
        assert_eq!((s.next(secs(0)), s.in_flight()), (Next::Load, 0));
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
                assert_eq!(s.in_flight(), 5);
                now = until;
            }
            assert_eq!(s.next(now), Next::Send(0..5));
            s.report(now, Ok(()));
            s.begin(1);
            let Verdict::Kept { until } = s.report(now, outcome) else { panic!("kept") };
            assert!(until.since(now) <= Duration::from_secs(1), "a success resets the delays");
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
        s.shut_down(secs(1));
        s.begin(2);
        for _ in 0..12 {
            assert_eq!(s.next(secs(100_000)), Next::Send(0..2));
            s.report(secs(10), RETRY);
            s.state = State::Sending;
        }
        let Verdict::Kept { until } = s.report(secs(10), RETRY) else { panic!("kept") };
        assert!(until >= secs(160));
        s.shut_down(secs(11));
        assert_eq!(s.next(secs(11)), Next::Send(0..2));
        let Verdict::Kept { until } = s.report(secs(11), RETRY) else { panic!("kept") };
        assert!(until <= secs(12));
    }

    /// Runs a batch against a receiver that refuses parts with a bad event, until it is settled or waits.
    fn steps(s: &mut Session, bad: &[usize]) -> Vec<(Range<usize>, Verdict)> {
        steps_at(s, secs(0), bad)
    }

    fn steps_at(s: &mut Session, now: Mono, bad: &[usize]) -> Vec<(Range<usize>, Verdict)> {
        let mut steps = Vec::new();
        while let Next::Send(part) = s.next(now) {
            let refused = part.clone().any(|index| bad.contains(&index));
            let verdict = s.report(now, if refused { Err(Failure::Refused) } else { Ok(()) });
            steps.push((part, verdict));
        }
        steps
    }

    #[test]
    fn a_size_that_was_too_large_is_remembered_and_tried_again_later() {
        let mut s = session();
        let takes = |s: &mut Session, most: usize| {
            let mut sizes = Vec::new();
            while let Next::Send(part) = s.next(secs(0)) {
                let outcome = if part.len() > most { Err(Failure::TooLarge) } else { Ok(()) };
                sizes.push(part.len());
                s.report(secs(0), outcome);
            }
            sizes
        };
        s.begin(100);
        assert_eq!(takes(&mut s, 30), [100, 50, 25, 25, 50, 25, 25]);
        s.begin(60);
        assert_eq!(takes(&mut s, 30), [25, 25, 10], "nothing is sent that is too large");
        for _ in 0..GROW_AFTER {
            s.begin(1);
            takes(&mut s, 30);
        }
        s.begin(60);
        assert_eq!(takes(&mut s, 60), [50, 10], "its limit was raised");
        // A single event that is too large is a bad event.
        s.begin(2);
        assert_eq!(takes(&mut s, 0).len(), 3);
        assert_eq!(s.in_flight(), 0);
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
    fn a_receiver_that_refuses_everything_causes_no_drops() {
        for events in [1, 2, 15, 16, 17, 33, 100, BATCH_EVENTS_MAX] {
            let mut s = session();
            s.begin(events);
            let (mut now, mut alone, mut rounds, mut sends) = (secs(0), vec![0; events], 0, 0);
            while rounds < 5 {
                match s.next(now) {
                    Next::Send(part) => {
                        sends += 1;
                        assert!(sends <= 3 * REFUSALS_MAX, "{sends} requests without a wait");
                        if part.len() == 1 {
                            alone[part.start] += 1;
                        }
                        let verdict = s.report(now, Err(Failure::Refused));
                        let fine = matches!(
                            verdict,
                            Verdict::Halved | Verdict::SetAside(_) | Verdict::CircuitOpen { .. }
                        );
                        assert!(fine, "{verdict:?}");
                    }
                    Next::Wait { until } => {
                        assert!(until > now);
                        (now, sends) = (until, 0);
                    }
                    Next::Refill => {
                        rounds += 1;
                        assert!(
                            alone.iter().all(|&tries| tries == rounds),
                            "a round tries each once: {alone:?}"
                        );
                        s.refilled(events, true);
                    }
                    Next::Load => panic!("nothing is done"),
                }
                assert_eq!(s.in_flight(), events);
            }
            assert!(now >= secs(15), "the delays grow, also over rounds of refusals: {now:?}");
            assert_eq!(s.next(now), Next::Send(0..events), "as one part again");
            assert_eq!(
                s.report(now, Ok(())),
                Verdict::Delivered(events),
                "and all are delivered once it is fixed"
            );
        }
    }

    #[test]
    fn a_receiver_that_recovers_during_a_round_gets_everything_in_few_parts() {
        let mut s = session();
        s.begin(100);
        steps(&mut s, &(0..100).collect::<Vec<_>>());
        let Next::Wait { until } = s.next(secs(0)) else { panic!("sixteen were set aside") };
        let mut delivered = Vec::new();
        while let Next::Send(part) = s.next(until) {
            delivered.push(part);
            s.report(until, Ok(()));
        }
        assert_eq!(delivered, [16..18, 18..25, 25..50, 50..100, 0..16]);
        assert_eq!(s.next(until), Next::Load);
    }

    #[test]
    fn a_receiver_that_starts_refusing_costs_only_the_refusal_budget() {
        let mut s = session();
        s.begin(1);
        s.report(secs(0), Ok(()));
        s.begin(100);
        let all: Vec<usize> = (0..100).collect();
        let verdicts: Vec<Verdict> = steps(&mut s, &all).into_iter().map(|step| step.1).collect();
        let dropped = verdicts.iter().filter(|v| matches!(v, Verdict::Dropped(_))).count();
        assert_eq!((dropped, s.in_flight()), (REFUSALS_MAX, 100 - REFUSALS_MAX));
        assert!(matches!(verdicts.last(), Some(Verdict::CircuitOpen { .. })));
    }

    #[test]
    fn a_round_of_refusals_keeps_what_is_left_and_asks_for_more() {
        let mut s = session();
        s.begin(40);
        // 10 to 19 are delivered, which grants a budget for 16 of those after them.
        let bad: Vec<usize> = (0..40).filter(|index| !(10..20).contains(index)).collect();
        let mut now = secs(0);
        loop {
            steps_at(&mut s, now, &bad);
            match s.next(now) {
                Next::Wait { until } => now = until,
                Next::Refill => break,
                other @ (Next::Load | Next::Send(_)) => panic!("{other:?}"),
            }
        }
        let left: Vec<usize> = (0..40).filter(|&index| is_left(&s, index)).collect();
        assert_eq!((left, s.in_flight()), ((0..10).chain(36..40).collect(), 14));
        s.refilled(24, false);
        assert_eq!((s.next(now), s.in_flight()), (Next::Send(0..24), 24));
        let bad: Vec<usize> = (0..14).collect();
        steps_at(&mut s, now, &bad);
        assert_eq!(
            (s.next(now), s.in_flight()),
            (Next::Load, 0),
            "after ten good ones the refusals are accepted"
        );
    }

    /// A receiver that accepts crossings but not statistics, and a night without a crossing: more refused events than a batch.
    #[test]
    fn more_bad_events_than_a_batch_are_given_up_slowly() {
        let night = |event: usize| (1..400).contains(&event);
        for most in [1, 2, 16, 100] {
            let d = deliver(402, most, night, Vec::new());
            assert_eq!((d.delivered, d.in_flight.len(), d.queue.len()), (vec![0, 400, 401], 0, 0), "{most}");
        }
        // The refusals of a receiver that has never confirmed anything are not accepted.
        let d = deliver(402, 100, |event| event < 400, Vec::new());
        assert_eq!((d.delivered.len(), d.dropped.len(), d.in_flight.len()), (0, 0, 100));
    }

    #[test]
    fn another_receiver_is_used_soon_and_its_refusals_are_not_accepted_immediately() {
        let mut s = session();
        s.begin(1);
        s.report(secs(0), Ok(()));
        s.begin(2);
        for _ in 0..10 {
            let Verdict::Kept { until } = s.report(secs(9), Err(Failure::Elsewhere)) else { panic!("kept") };
            assert_eq!(until, secs(10));
            s.next(until);
        }
        s.switch_receiver();
        s.report(secs(10), Err(Failure::Refused));
        assert_eq!(
            s.report(secs(10), Err(Failure::Refused)),
            Verdict::SetAside(0),
            "it had a budget of sixteen"
        );
    }

    #[test]
    fn a_shutdown_closes_an_open_circuit() {
        let mut s = session();
        s.begin(1);
        assert!(matches!(s.report(secs(5), Err(Failure::Refused)), Verdict::CircuitOpen { .. }));
        assert!(matches!(s.next(secs(5)), Next::Wait { .. }));
        s.shut_down(secs(5));
        assert_eq!(s.next(secs(5)), Next::Refill);
        s.refilled(3, false);
        assert_eq!(s.next(secs(5)), Next::Send(0..3));
    }

    /// Result of a driver with a queue of events 0, 1, 2, …
    #[derive(Debug, Default)]
    struct Delivery {
        delivered: Vec<usize>,
        dropped: Vec<usize>,
        /// Left in flight and in the queue when there was no more progress.
        in_flight: Vec<usize>,
        queue: Vec<usize>,
    }

    /// Delivers `events` events in batches of at most `most` to a receiver that refuses any part with a bad event, after it has followed
    /// `outcomes`: 0 asks to wait, 1 is misconfigured. Ends when everything is settled, or after three rounds without progress.
    fn deliver(events: usize, most: usize, is_bad: impl Fn(usize) -> bool, outcomes: Vec<u8>) -> Delivery {
        let mut s = session();
        let (mut now, mut outcomes, mut again, mut idle_rounds) = (Mono::ZERO, outcomes.into_iter(), None, 0);
        let (mut in_flight, mut queue) = (Vec::new(), (0..events).collect::<std::collections::VecDeque<_>>());
        let mut d = Delivery::default();
        while idle_rounds < 3 {
            match s.next(now) {
                Next::Load if queue.is_empty() => break,
                Next::Load => {
                    in_flight.clear();
                    in_flight.extend(queue.drain(..most.min(queue.len())));
                    s.begin(in_flight.len());
                }
                Next::Wait { until } => now = until,
                Next::Refill => {
                    idle_rounds += 1;
                    let left = s.in_flight();
                    in_flight = (0..in_flight.len())
                        .filter(|&index| is_left(&s, index))
                        .map(|index| in_flight[index])
                        .collect();
                    in_flight.extend(queue.drain(..(most - in_flight.len()).min(queue.len())));
                    s.refilled(in_flight.len(), left == most);
                }
                Next::Send(part) => {
                    assert!(again.take().is_none_or(|again| again == part), "a retry sends the same part");
                    let before = s.in_flight();
                    let outcome = match outcomes.next() {
                        Some(0) => RETRY,
                        Some(1) => Err(Failure::Misconfigured),
                        _ if in_flight[part.clone()].iter().any(|&event| is_bad(event)) => {
                            Err(Failure::Refused)
                        }
                        _ => Ok(()),
                    };
                    let finished = match s.report(now, outcome) {
                        Verdict::Delivered(count) => {
                            assert_eq!(count, part.len());
                            d.delivered.extend(&in_flight[part]);
                            count
                        }
                        Verdict::Dropped(index) => {
                            d.dropped.push(in_flight[index]);
                            1
                        }
                        Verdict::Kept { .. } => {
                            again = Some(part);
                            0
                        }
                        Verdict::Halved | Verdict::SetAside(_) | Verdict::CircuitOpen { .. } => 0,
                    };
                    if finished > 0 {
                        idle_rounds = 0;
                    }
                    assert_eq!(s.in_flight(), before - finished);
                }
            }
        }
        d.in_flight =
            (0..in_flight.len()).filter(|&index| is_left(&s, index)).map(|index| in_flight[index]).collect();
        d.queue = queue.into();
        d.delivered.sort_unstable();
        d.dropped.sort_unstable();
        d
    }

    proptest! {
        /// Whatever the receiver does in between, and however many are bad: good events are delivered once, bad ones dropped once, and
        /// nothing else happens. It stops making progress only with a batch full of bad events before any confirmation, or with only bad
        /// ones left: then it keeps them.
        #[test]
        fn every_event_ends_once(
            events in 1usize..400,
            most in prop_oneof![1usize..40, Just(100), Just(BATCH_EVENTS_MAX)],
            // Runs of events, alternately good and bad.
            rows in proptest::collection::vec(0usize..60, 1..20),
            first_is_bad in any::<bool>(),
            outcomes in proptest::collection::vec(0u8..4, 0..40),
        ) {
            let mut bad = Vec::new();
            for (number, &row) in rows.iter().enumerate() {
                bad.extend(std::iter::repeat_n((number % 2 == 0) == first_is_bad, row));
            }
            let is_bad = |event: usize| bad.get(event).copied().unwrap_or(false);
            let d = deliver(events, most, is_bad, outcomes);
            prop_assert!(d.delivered.iter().all(|&event| !is_bad(event)), "{d:?}");
            prop_assert!(d.dropped.iter().all(|&event| is_bad(event)), "{d:?}");
            let left = d.in_flight.iter().chain(&d.queue);
            let mut all: Vec<usize> = d.delivered.iter().chain(&d.dropped).chain(left).copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..events).collect::<Vec<_>>(), "each event once");
            prop_assert!(!d.delivered.is_empty() || d.dropped.is_empty(), "nothing was confirmed: {:?}", d);
            if !d.in_flight.is_empty() {
                prop_assert!(d.queue.is_empty() || (d.in_flight.len() == most && d.delivered.is_empty()), "{:?}", d);
                prop_assert!(d.in_flight.iter().all(|&event| is_bad(event)), "{:?}", d);
            }
        }

        /// Fewer bad events than a batch holds never block the queue.
        #[test]
        fn a_few_bad_events_are_dropped_exactly(
            events in 1usize..400,
            most in 2usize..60,
            bad in proptest::collection::btree_set(0usize..400, 0..60),
        ) {
            let bad: Vec<usize> = bad.into_iter().filter(|&event| event < events).take(most - 1).collect();
            prop_assume!(bad.len() < events);
            let is_bad = |event: usize| bad.binary_search(&event).is_ok();
            let d = deliver(events, most, is_bad, Vec::new());
            prop_assert_eq!(d.delivered, (0..events).filter(|&event| !is_bad(event)).collect::<Vec<_>>());
            if d.in_flight.is_empty() {
                prop_assert_eq!(d.dropped, bad);
            } else {
                // More bad ones at the very end than the budget of the last confirmation.
                prop_assert!(d.queue.is_empty() && d.in_flight.iter().all(|&event| is_bad(event)));
            }
        }
    }
}
