//! The uplink thread: asks [`Session`] what to do, does it, counts it.
//!
//! ```text
//!   running ── stop requested ──► stopping ── close() ──► draining ── empty, or drain time over and tried ──► report
//! ```
//! While draining, everything is due immediately and a running back-off ends, so there is at least one more attempt. The drain time counts
//! from the close, also if a send is in progress: it is interrupted when the time is over. Events that could not be delivered are in the
//! [`Report`] and in the log: never silently lost. Memory: one batch, the sink's encode buffer.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::retry::Backoff;
use crate::base::stop::Stop;
use crate::delivery::spool::{InFlight, Spool, TakeOutcome};
use crate::delivery::uplink::labels::Labels;
use crate::delivery::uplink::session::{Failure, Next, Session, Verdict};
use crate::delivery::uplink::{Batch, Interrupt, Outbox, SendError, Sink};
use crate::event::fixed;
use crate::platform::calendar::{Calendar, Timekeeper};
use crate::platform::clock::Mono;

/// How often a waiting uplink checks whether a stop was requested: [`Stop`] cannot wake it, [`Outbox::close`] can.
const STOP_LOOK: Duration = Duration::from_secs(1);

/// Shortest time-out for the first send while draining: a shorter one would only fail. The drain time may be exceeded by this much if
/// nothing was tried yet.
const LAST_SEND_MIN: Duration = Duration::from_secs(1);

/// Delays and limits of the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkParams {
    /// Delay after the first failure; doubles with each further one.
    pub backoff_first: Duration,
    /// Longest delay of our own.
    pub backoff_cap: Duration,
    /// Longest delay that a receiver can ask for (`Retry-After`).
    pub retry_after_cap: Duration,
    /// How long the shutdown keeps trying, from the close of the outbox; at least a second, for one attempt.
    pub drain: Duration,
    /// Makes the jitter differ between devices.
    pub seed: u64,
    /// How long the first events wait for the calendar to be synchronised: a board without a battery does not know the time before its
    /// network is up. Not while draining.
    pub clock_wait: Duration,
}

impl Default for UplinkParams {
    /// 1 s doubling to 5 min; a receiver may ask for 1 h; 10 s for the shutdown;
    /// no wait for the calendar.
    fn default() -> Self {
        UplinkParams {
            backoff_first: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(300),
            retry_after_cap: Duration::from_secs(3600),
            drain: Duration::from_secs(10),
            seed: 0,
            clock_wait: Duration::ZERO,
        }
    }
}

/// Settings that another thread may change while the uplink runs.
#[derive(Debug)]
pub struct LiveParams {
    params: Mutex<UplinkParams>,
    labels: Mutex<Arc<Labels>>,
}

impl LiveParams {
    /// Other settings, from the uplink's next step on. The first events do not wait for the calendar again.
    pub fn set(&self, params: UplinkParams) {
        let mut in_force = self.params.lock().unwrap_or_else(PoisonError::into_inner);
        *in_force = UplinkParams { seed: in_force.seed, ..params };
    }

    /// Other labels, from the next batch on.
    pub fn set_labels(&self, labels: Labels) {
        *self.labels.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(labels);
    }

    fn get(&self) -> UplinkParams {
        *self.params.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn labels(&self) -> Arc<Labels> {
        Arc::clone(&self.labels.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Final counts of a run: every event that was posted is in exactly one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Confirmed by the receiver.
    pub delivered: u64,
    /// Still waiting or in flight when the drain time was over.
    pub undelivered: u64,
    /// Refused permanently, each named in the log.
    pub refused: u64,
    /// Dropped by a full queue, or posted after the close.
    pub dropped: u64,
}

/// What to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Take the next step immediately.
    Continue,
    /// Take the next step at this time, or when the outbox signals; without a time only on a signal.
    Wait(Option<Mono>),
    /// Finished: everything is delivered, or the drain time is over.
    End,
}

/// State of a shutdown in progress.
#[derive(Debug, Clone, Copy)]
struct Draining {
    until: Mono,
    /// Whether a send was attempted since it began, or took all of its time.
    tried: bool,
}

/// The delivery of one batch.
struct Delivery {
    batch: InFlight,
    /// The clocks that the batch was stamped with when it was last sent.
    calendar: Option<Calendar>,
    /// Part of the batch may have reached a receiver.
    has_left: bool,
    /// The labels that its events are sent with, on every retry: InfluxDB takes other tags for another event.
    labels: Arc<Labels>,
}

/// Result of a send.
struct Sent {
    /// The events of the batch that were sent.
    part: Range<usize>,
    /// Their name, for the log.
    id: String,
    calendar: Calendar,
    outcome: Result<(), Failure>,
    /// Why it failed.
    text: String,
}

/// The body of the uplink thread.
pub struct Uplink {
    outbox: Arc<Outbox>,
    spool: Arc<Spool>,
    sink: Box<dyn Sink>,
    clock: Arc<Timekeeper>,
    stop: Stop,
    live: Arc<LiveParams>,
    /// Those in force.
    params: UplinkParams,
    session: Session,
    /// The batch in flight, if one is.
    delivery: Option<Delivery>,
    /// Until this time events wait for the calendar.
    patient_until: Mono,
    /// A stop was requested, or the outbox is closed.
    stopping: bool,
    draining: Option<Draining>,
    /// When the last send ended.
    last_send: Option<Mono>,
}

impl Uplink {
    /// An uplink that has sent nothing yet; allocates the buffer for an encoded batch.
    pub fn new(
        outbox: Arc<Outbox>,
        spool: Arc<Spool>,
        mut sink: Box<dyn Sink>,
        clock: Arc<Timekeeper>,
        stop: Stop,
        params: UplinkParams,
    ) -> Self {
        let live = Arc::new(LiveParams { params: Mutex::new(params), labels: Mutex::default() });
        let backoff = Backoff::new(params.backoff_first, params.backoff_cap, params.seed);
        let mut session = Session::new(backoff, params.retry_after_cap);
        if spool.state().was_confirmed {
            session.assume_confirmed();
        }
        sink.reserve(spool.batch_events_max());
        sink.interrupt_when(interrupt(&outbox, &clock, &live));
        let patient_until = clock.mono() + params.clock_wait;
        Uplink {
            outbox,
            spool,
            sink,
            clock,
            stop,
            live,
            params,
            session,
            delivery: None,
            patient_until,
            stopping: false,
            draining: None,
            last_send: None,
        }
    }

    /// The way to change its settings while it runs.
    pub fn live_params(&self) -> Arc<LiveParams> {
        Arc::clone(&self.live)
    }

    /// Delivers until the outbox is closed and nothing is left, or the drain time of a shutdown is over. Calls `on_step` before each step
    /// with whether it is a send, which the deadlines of the sink limit; every other step takes a second at most.
    pub fn run(mut self, on_step: impl Fn(bool)) -> Report {
        loop {
            let now = self.clock.mono();
            // Before the next step is known: a shutdown may turn a wait into a send.
            self.notice_shutdown(now);
            on_step(matches!(self.session.next(now), Next::Send(_)));
            // Read before any check: a signal from here on ends the wait below immediately.
            let seen = self.outbox.signals();
            match self.act(now) {
                Flow::Continue => {}
                Flow::Wait(until) => self.wait(seen, until),
                Flow::End => break,
            }
        }
        self.report()
    }

    /// Counts of the events so far.
    pub fn report(&self) -> Report {
        let counters = self.outbox.counters();
        Report {
            delivered: counters.delivered(),
            undelivered: self.waiting(),
            refused: counters.refused(),
            dropped: counters.dropped(),
        }
    }

    /// Events that are not delivered, wherever they are.
    fn waiting(&self) -> u64 {
        (self.in_flight() + self.outbox.waiting()) as u64 + self.spool.waiting()
    }

    /// Events of the batch in flight that are neither delivered nor refused.
    fn in_flight(&self) -> usize {
        self.delivery.as_ref().map_or(0, |delivery| delivery.batch.left())
    }

    /// One step, with at most one send. Never waits itself, so that time can be simulated.
    pub fn step(&mut self) -> Flow {
        let now = self.clock.mono();
        self.notice_shutdown(now);
        self.act(now)
    }

    /// Applies settings that changed.
    fn follow_settings(&mut self) {
        let params = self.live.get();
        if params != self.params {
            self.params = params;
            self.session.set_delays(params.backoff_first, params.backoff_cap, params.retry_after_cap);
        }
    }

    fn act(&mut self, now: Mono) -> Flow {
        self.follow_settings();
        if self.delivery.as_ref().is_some_and(|delivery| delivery.batch.is_called_back()) {
            self.delivery = None;
            self.session.forget();
        }
        if self.time_is_over(now) {
            return Flow::End;
        }
        match self.session.next(now) {
            Next::Load => return self.load(now),
            Next::Send(part) => self.send(now, part),
            Next::Refill => self.refill(now),
            Next::Wait { until } => {
                if self.draining.is_some_and(|draining| draining.tried && until >= draining.until) {
                    return Flow::End; // The next attempt would come too late.
                }
                return Flow::Wait(Some(until));
            }
        }
        Flow::Continue
    }

    /// The next batch, if one is due.
    fn load(&mut self, now: Mono) -> Flow {
        let closed = self.outbox.closed();
        self.spool.put(now, |out| self.outbox.take(out));
        if closed {
            self.spool.flush();
        } else if now < self.patient_until && !self.stopping && !self.clock.sample().wall.is_trusted() {
            return Flow::Wait(Some(self.patient_until));
        }
        if self.sink.needs_time() && !self.clock.sample().wall.plausible() {
            // A receiver that identifies events by their time must not get a wrong time: the events wait for the calendar.
            if closed {
                return Flow::End;
            }
            return Flow::Wait(None);
        }
        match self.spool.take(now) {
            TakeOutcome::Batch(batch) => {
                self.session.begin(batch.left());
                let labels = self.live.labels();
                self.delivery = Some(Delivery { batch, calendar: None, has_left: false, labels });
            }
            TakeOutcome::Nothing { .. } if closed && self.waiting() == 0 => return Flow::End,
            // What waits cannot be read now, so there is nothing to try.
            TakeOutcome::Nothing { .. } if self.draining.is_some_and(|draining| now >= draining.until) => {
                return Flow::End;
            }
            TakeOutcome::Nothing { until } => return Flow::Wait(until),
        }
        Flow::Continue
    }

    /// The rest of the batch in flight, and more events of the same run.
    fn refill(&mut self, now: Mono) {
        let Some(Delivery { batch, calendar, .. }) = &mut self.delivery else { return };
        self.spool.put(now, |out| self.outbox.take(out));
        let left = batch.left();
        batch.refill();
        if !self.sink.needs_time() {
            *calendar = None; // Refused means stored nowhere, so the calendar may differ from that of the first attempt.
        }
        self.session.refilled(batch.left(), left >= self.spool.batch_events_max());
    }

    fn notice_shutdown(&mut self, now: Mono) {
        let closed_at = self.outbox.closed_at();
        if !self.stopping && (closed_at.is_some() || self.stop.requested()) {
            self.stopping = true;
            self.spool.flush();
            self.session.shut_down(now);
        }
        // Until then events still arrive: the stages end one after the other.
        if self.draining.is_none()
            && let Some(closed_at) = closed_at
        {
            // A send in progress that took all of the time was the last one.
            let most = self.params.drain.max(LAST_SEND_MIN);
            let tried = self.last_send.is_some_and(|ended| ended >= closed_at + most);
            self.draining = Some(Draining { until: closed_at + self.params.drain, tried });
            self.session.shut_down(now);
        }
    }

    /// Whether the drain time is over and the last attempt was made, if there was anything to send.
    fn time_is_over(&self, now: Mono) -> bool {
        self.draining.is_some_and(|draining| now >= draining.until && (draining.tried || self.waiting() == 0))
    }

    fn wait(&self, seen: u64, until: Option<Mono>) {
        let now = self.clock.mono();
        let ends = [until, self.draining.map(|draining| draining.until)];
        let first = ends.into_iter().flatten().map(|end| end.since(now)).min();
        self.outbox.wait(seen, first.unwrap_or(STOP_LOOK).min(STOP_LOOK));
    }

    /// Sends a part of the batch in flight.
    fn send(&mut self, now: Mono, part: Range<usize>) {
        if let Some(draining) = &mut self.draining {
            let left = draining.until.since(now);
            self.sink.limit_sends(if draining.tried { left } else { left.max(LAST_SEND_MIN) });
            draining.tried = true;
        }
        let Some(delivery) = &mut self.delivery else { return };
        let whose = delivery.batch.whose();
        // A retry keeps the stamps of the first attempt, so that its bytes are the same. Only unsynchronised stamps are renewed, and not
        // where an event is identified by its stamp.
        let calendar = match delivery.calendar {
            Some(calendar) if calendar.is_trusted() || self.sink.needs_time() => calendar,
            Some(_) | None => self.clock.calendar(whose.clock, whose.bounds),
        };
        let events = &delivery.batch.events()[part.clone()];
        let batch = Batch::new(&whose.origin, calendar, events).with(&delivery.labels);
        let id = batch.id().to_string();
        let sent = self.sink.send(&batch);
        delivery.has_left |= !matches!(&sent, Err(SendError { kept_here: true, .. }));
        // As long as no receiver has seen a stamp, the next attempt may use a better one.
        delivery.calendar = delivery.has_left.then_some(calendar);
        if self.sink.switched() {
            self.session.switch_receiver();
        }
        let now = self.clock.mono();
        self.last_send = Some(now);
        let (outcome, text) = match sent {
            Ok(()) => (Ok(()), String::new()),
            Err(error) => (Err(error.failure), error.text),
        };
        self.settle(now, Sent { part, id, calendar, outcome, text });
    }

    /// Applies the consequence of an outcome.
    fn settle(&mut self, now: Mono, sent: Sent) {
        let Sent { part, id, calendar, outcome, text } = sent;
        let Some(Delivery { batch, .. }) = &mut self.delivery else { return };
        match self.session.report(now, outcome) {
            Verdict::Delivered(events) => {
                batch.acknowledge(now, part);
                self.outbox.counters().count_delivered(now, events);
                self.outbox.report_trouble(None);
                tracing::debug!("delivered {events} events as {id}");
            }
            Verdict::Kept { until } => {
                self.outbox.counters().count_failure();
                let wait = until.since(now);
                if outcome == Err(Failure::Misconfigured) {
                    self.outbox.report_trouble(Some(&text));
                    tracing::error!("{text}; batch {id} is kept and sent again in {wait:.1?}");
                } else {
                    tracing::warn!("{text}; batch {id} is sent again in {wait:.1?}");
                }
            }
            Verdict::Halved => tracing::debug!("{text}; batch {id} is halved to find the event"),
            Verdict::SetAside(_) => tracing::debug!("{text}; {id} is set aside, others are tried"),
            Verdict::Dropped(index) => {
                self.outbox.counters().count_refused();
                let event = &batch.events()[index];
                let (id, kind) = (batch.whose().origin.id(event.seq), event.body.kind());
                tracing::warn!("{text}; event {id} ({kind}) is set aside as a dead letter");
                batch.refuse(now, index, fixed(&text), calendar.map);
            }
            Verdict::CircuitOpen { until } => {
                self.outbox.counters().count_failure();
                self.outbox.report_trouble(Some(&format!("it refuses everything: {text}")));
                let (events, wait) = (batch.left(), until.since(now));
                tracing::error!(
                    "{text}; it refuses everything: check which program responds at that URL; {events} events are kept and \
                     sent again in {wait:.1?}"
                );
            }
        }
        if batch.left() == 0 {
            self.delivery = None;
        }
    }
}

/// Interrupts a send in progress if the outbox was closed `drain` ago, or a second ago if that is longer.
fn interrupt(outbox: &Arc<Outbox>, clock: &Arc<Timekeeper>, live: &Arc<LiveParams>) -> Interrupt {
    let (outbox, clock, live) = (Arc::clone(outbox), Arc::clone(clock), Arc::clone(live));
    let most = move || live.get().drain.max(LAST_SEND_MIN);
    Arc::new(move || outbox.closed_at().is_some_and(|closed_at| closed_at + most() <= clock.mono()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::spool::{Batching, Log};
    use crate::delivery::uplink::SendError;
    use crate::event::{Body, Origin, fixed};
    use crate::platform::clock::{Clock, ClockSyncSample, Wall};
    use std::collections::VecDeque;
    use std::sync::Mutex;

    /// Both clocks, set by the test.
    struct SetClock(Mutex<ClockSyncSample>);

    impl SetClock {
        fn set(&self, seconds: u64, unix_seconds: i64, synchronised: bool) {
            let wall = Wall { unix_nanos: unix_seconds * 1_000_000_000, synchronised };
            *self.0.lock().unwrap() =
                ClockSyncSample { mono: Mono::from_nanos(seconds * 1_000_000_000), wall };
        }
    }

    impl Clock for SetClock {
        fn mono(&self) -> Mono {
            self.0.lock().unwrap().mono
        }
        fn wall(&self) -> Wall {
            self.0.lock().unwrap().wall
        }
    }

    type Sent = (String, Option<Wall>, Option<Duration>);

    /// Responds by script; records id, time of the first event, and the time limit.
    struct Scripted {
        responses: VecDeque<Result<(), SendError>>,
        sent: Arc<Mutex<Vec<Sent>>>,
        longest: Option<Duration>,
        needs_time: bool,
    }

    impl Sink for Scripted {
        fn needs_time(&self) -> bool {
            self.needs_time
        }

        fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError> {
            let stamp = batch.calendar.stamp(batch.events[0].at);
            let wall = stamp.time.map(|unix_nanos| Wall { unix_nanos, synchronised: stamp.synchronised });
            self.sent.lock().unwrap().push((batch.id().to_string(), wall, self.longest));
            self.responses.pop_front().expect("no more sends than responses")
        }
        fn name(&self) -> &'static str {
            "scripted"
        }
        fn limit_sends(&mut self, longest: Duration) {
            self.longest = Some(longest);
        }
    }

    struct Bench {
        uplink: Uplink,
        clock: Arc<SetClock>,
        outbox: Arc<Outbox>,
        sent: Arc<Mutex<Vec<Sent>>>,
    }

    const UNIX: i64 = 1_795_392_000;

    fn bench(responses: impl IntoIterator<Item = Result<(), SendError>>) -> Bench {
        bench_of(responses, false)
    }

    fn bench_of(responses: impl IntoIterator<Item = Result<(), SendError>>, needs_time: bool) -> Bench {
        let clock = Arc::new(SetClock(Mutex::new(ClockSyncSample {
            mono: Mono::ZERO,
            wall: Wall { unix_nanos: 0, synchronised: false },
        })));
        let outbox = Arc::new(Outbox::new(8).unwrap());
        let sent = Arc::new(Mutex::new(Vec::new()));
        let responses = responses.into_iter().collect();
        let sink = Scripted { responses, sent: Arc::clone(&sent), longest: None, needs_time };
        let origin = Origin::new("mast-7", "3f2a", Mono::ZERO);
        let log = Log::new(crate::delivery::spool::Params::default(), origin);
        let spool =
            Spool::new(log, Batching { events_max: 2, age_max: Duration::from_secs(60), interval: None });
        let uplink = Uplink::new(
            Arc::clone(&outbox),
            Arc::new(spool),
            Box::new(sink),
            Arc::new(Timekeeper::new(Arc::clone(&clock) as Arc<dyn Clock>)),
            Stop::new(),
            UplinkParams::default(),
        );
        Bench { uplink, clock, outbox, sent }
    }

    impl Bench {
        fn post(&self, events: usize) {
            for _ in 0..events {
                let body = Body::Stopping { reason: fixed("test") };
                self.outbox.post(Mono::ZERO, &fixed(""), body);
            }
        }

        fn steps(&mut self, count: usize) {
            for _ in 0..count {
                assert_ne!(self.uplink.step(), Flow::End);
            }
        }
    }

    #[test]
    fn a_retry_keeps_a_synchronised_calendar() {
        let fail = || Err(SendError::retry("no"));
        let mut bench = bench([fail(), fail(), fail(), fail(), Ok(())]);
        bench.post(2);
        bench.steps(1); // takes the batch
        for (seconds, unix, synchronised) in [
            (100, 100, false),        // never set
            (200, UNIX + 207, false), // set by hand
            (300, UNIX + 300, true),  // synchronised
            (400, UNIX + 401, true),  // stepped: the batch stays as it was sent
            (500, UNIX + 500, false),
        ] {
            bench.clock.set(seconds, unix, synchronised);
            bench.steps(1);
        }
        let wall = |unix: i64, synchronised| Some(Wall { unix_nanos: unix * 1_000_000_000, synchronised });
        let id = "mast-7/3f2a-0/0-1".to_owned();
        let expected = [None, wall(UNIX + 7, false), wall(UNIX, true), wall(UNIX, true), wall(UNIX, true)];
        assert_eq!(*bench.sent.lock().unwrap(), expected.map(|wall| (id.clone(), wall, None)));
        let counters = bench.outbox.counters();
        assert_eq!((counters.delivered(), counters.failures(), counters.batches()), (2, 4, 1));
        assert_eq!(counters.last_delivery(), Some(Mono::from_nanos(500_000_000_000)));
    }

    #[test]
    fn a_receiver_that_identifies_events_by_time_gets_the_same_time_on_every_retry() {
        let mut bench = bench_of([Err(SendError::retry("no")), Ok(())], true);
        bench.post(2);
        bench.clock.set(50, 100, false); // never set
        bench.steps(3);
        assert!(bench.sent.lock().unwrap().is_empty());
        bench.clock.set(100, UNIX + 100, false); // a clock chip
        bench.steps(2);
        bench.clock.set(300, UNIX + 307, true); // synchronised: too late for these
        bench.steps(1);
        let walls: Vec<_> =
            bench.sent.lock().unwrap().iter().map(|sent| sent.1.unwrap().unix_nanos).collect();
        assert_eq!(walls, [UNIX * 1_000_000_000; 2]);
    }

    #[test]
    fn one_batch_is_in_flight_and_the_next_is_taken_with_a_new_calendar() {
        let mut bench = bench([Ok(()), Err(SendError::retry("no"))]);
        bench.post(5);
        bench.clock.set(100, UNIX + 100, true);
        bench.steps(2);
        bench.clock.set(200, UNIX + 203, true);
        bench.steps(2);
        assert_eq!((bench.uplink.waiting(), bench.uplink.in_flight()), (3, 2));
        let walls: Vec<i64> = bench
            .sent
            .lock()
            .unwrap()
            .iter()
            .map(|sent| sent.1.unwrap().unix_nanos / 1_000_000_000)
            .collect();
        assert_eq!(walls, [UNIX, UNIX + 3]);
    }

    #[test]
    fn the_first_events_wait_for_the_calendar_but_not_for_ever_and_not_in_a_shutdown() {
        for (seconds, synchronised, closed, sends) in [
            (59, false, false, false),
            (60, false, false, true),
            (10, true, false, true),
            (10, false, true, true),
        ] {
            let mut bench = bench([Ok(())]);
            bench.uplink.patient_until = Mono::from_nanos(60_000_000_000);
            bench.post(2);
            bench.clock.set(seconds, UNIX, synchronised);
            if closed {
                bench.outbox.close(bench.clock.mono());
            }
            bench.steps(if sends { 2 } else { 1 });
            assert_eq!(bench.sent.lock().unwrap().len() == 1, sends, "{seconds} {synchronised} {closed}");
        }
    }

    #[test]
    fn the_shutdown_limits_sends_to_its_remaining_time() {
        let fail = || Err(SendError::retry("no"));
        let mut bench = bench([fail(), fail(), fail(), fail()]);
        bench.post(1);
        bench.uplink.spool.put(Mono::ZERO, |out| bench.outbox.take(out));
        bench.uplink.spool.flush();
        bench.steps(2);
        bench.clock.set(1, 0, false);
        bench.outbox.close(bench.clock.mono());
        bench.steps(1); // the back-off has ended: a send, with all of the drain time
        bench.clock.set(8, 0, false);
        bench.steps(1);
        bench.clock.set(10, 500, false); // 1 s left, and the delay of 2 to 4 s would end after it
        let last = bench.uplink.session.next(Mono::from_nanos(10_000_000_000));
        assert!(matches!(last, Next::Send(_)), "{last:?}");
        bench.steps(1);
        assert_eq!(bench.uplink.step(), Flow::End);
        let longest: Vec<Option<u64>> =
            bench.sent.lock().unwrap().iter().map(|sent| sent.2.map(|d| d.as_secs())).collect();
        assert_eq!(longest, [None, Some(10), Some(3), Some(1)]);
    }

    #[test]
    fn every_send_is_announced_also_when_a_shutdown_begins_it() {
        let fail = || Err(SendError::retry("no"));
        let mut bench = bench([fail(), Ok(())]);
        bench.post(1);
        bench.uplink.spool.put(Mono::ZERO, |out| bench.outbox.take(out));
        bench.uplink.spool.flush();
        bench.steps(2); // taken, and sent in vain
        let (outbox, sent) = (Arc::clone(&bench.outbox), Arc::clone(&bench.sent));
        let announced = std::cell::Cell::new(0);
        let report = bench.uplink.run(|sends| {
            announced.set(announced.get() + usize::from(sends));
            // The shutdown begins while the next step is thought to be a wait.
            if outbox.closed_at().is_none() {
                assert!(!sends);
                outbox.close(Mono::ZERO);
            }
            assert!(sent.lock().unwrap().len() <= 1 + announced.get());
        });
        assert_eq!((report.delivered, announced.get(), sent.lock().unwrap().len()), (1, 1, 2));
    }

    #[test]
    fn a_shutdown_does_not_wait_for_events_that_cannot_be_read() {
        let mut bench = bench([]);
        let disk = crate::sim::disk::FaultDisk::new(1);
        bench.uplink.spool.attach(Box::new(disk.clone())).unwrap();
        bench.post(2);
        bench.uplink.spool.put(Mono::ZERO, |out| bench.outbox.take(out));
        bench.uplink.spool.commit(Mono::ZERO, ClockSyncSample::UNKNOWN, true);
        disk.set_away(true);
        bench.clock.set(1, 0, false);
        bench.outbox.close(bench.clock.mono());
        bench.steps(1);
        bench.clock.set(60, 0, false);
        assert_eq!(bench.uplink.step(), Flow::End);
        assert_eq!(bench.uplink.report().undelivered, 2);
    }
}
