//! The uplink thread: asks [`Session`] what to do, does it, counts it.
//!
//! ```text
//!   running ── close() or stop requested ──► draining ── empty and closed, or drain time over and tried ──► report
//! ```
//! While draining everything is due at once and a running back-off ends, so at least one more try is made; a send is
//! limited to what is left of the drain time. What could not be delivered is in the [`Report`] and in the log: never silent.
//! Memory: the queue, one batch, the sink's encode buffer.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, ClockMap, Mono};
use crate::event::{Event, Origin};
use crate::retry::Backoff;
use crate::stop::Stop;
use crate::uplink::outbox::Taken;
use crate::uplink::session::{Next, Outcome, Session, Verdict};
use crate::uplink::{Batch, Outbox, Sink};

/// How often a waiting uplink looks whether a stop was requested: [`Stop`] cannot wake it, [`Outbox::close`] can.
const STOP_LOOK: Duration = Duration::from_secs(1);

/// Shortest limit that a send gets while draining: less only fails.
const LAST_SEND_MIN: Duration = Duration::from_secs(1);

/// Times of the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkParams {
    /// Delay after the first failure; doubles with each.
    pub backoff_first: Duration,
    /// Longest delay of our own.
    pub backoff_cap: Duration,
    /// Longest delay that a receiver can ask for (`Retry-After`).
    pub retry_after_cap: Duration,
    /// How long the shutdown goes on trying. A send that is under way when it begins keeps its own deadline.
    pub drain: Duration,
    /// Makes the jitter differ between devices.
    pub seed: u64,
}

impl Default for UplinkParams {
    /// 1 s doubling to 5 min; a receiver may ask for 1 h; 10 s for the shutdown.
    fn default() -> Self {
        UplinkParams {
            backoff_first: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(300),
            retry_after_cap: Duration::from_secs(3600),
            drain: Duration::from_secs(10),
            seed: 0,
        }
    }
}

/// What became of the events of a run: every event that was posted is in exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Confirmed by the receiver.
    pub delivered: u64,
    /// Still waiting or in hand when the drain time was over.
    pub undelivered: u64,
    /// Refused for good, each named in the log.
    pub refused: u64,
    /// Dropped by a full queue, or posted after the end.
    pub dropped: u64,
}

/// What [`Uplink::run`] does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    End,
}

/// The shutdown under way.
#[derive(Debug, Clone, Copy)]
struct Draining {
    until: Mono,
    /// Whether a send was made since it began.
    tried: bool,
}

/// The body of the uplink thread.
pub struct Uplink {
    outbox: Arc<Outbox>,
    sink: Box<dyn Sink>,
    clock: Arc<dyn Clock>,
    origin: Origin,
    stop: Stop,
    drain: Duration,
    session: Session,
    /// The batch in hand.
    events: Vec<Event>,
    /// The clocks with which the batch in hand is sent.
    map: Option<ClockMap>,
    draining: Option<Draining>,
}

impl Uplink {
    /// An uplink that has sent nothing yet, with the memory for its batch.
    pub fn new(
        outbox: Arc<Outbox>,
        sink: Box<dyn Sink>,
        clock: Arc<dyn Clock>,
        origin: Origin,
        stop: Stop,
        params: UplinkParams,
    ) -> Self {
        let backoff = Backoff::new(params.backoff_first, params.backoff_cap, params.seed);
        let session = Session::new(backoff, params.retry_after_cap);
        let events = Vec::with_capacity(outbox.batch_events_max());
        let drain = params.drain;
        Uplink { outbox, sink, clock, origin, stop, drain, session, events, map: None, draining: None }
    }

    /// Delivers until the outbox is closed and empty, or the drain time of a shutdown is over. Closes the outbox at the
    /// end, so that nothing can be posted to nobody.
    pub fn run(mut self) -> Report {
        while self.run_once() == Flow::Continue {}
        self.outbox.close();
        let counters = self.outbox.counters();
        let report = Report {
            delivered: counters.delivered(),
            undelivered: (self.session.in_hand() + self.outbox.waiting()) as u64,
            refused: counters.refused(),
            dropped: counters.dropped(),
        };
        if report.undelivered > 0 {
            let (events, to) = (report.undelivered, self.sink.name());
            tracing::error!("{events} events were not delivered to {to} before the end and are lost");
        }
        report
    }

    /// One look, and one send or one wait.
    fn run_once(&mut self) -> Flow {
        // Read before anything is looked at: a signal from here on ends the wait below at once.
        let seen = self.outbox.signals();
        let now = self.clock.mono();
        self.notice_shutdown(now);
        if self.time_is_over(now) {
            return Flow::End;
        }
        match self.session.next(now) {
            Next::Load => match self.outbox.take(now, &mut self.events) {
                Taken::Batch(events) => {
                    self.map = None;
                    self.session.begin(events);
                }
                Taken::Ended => return Flow::End,
                Taken::Nothing { until } => self.wait(now, seen, until),
            },
            Next::Send(part) => self.send(now, part),
            Next::Wait { until } => {
                let closed = self.outbox.closed();
                if self.draining.is_some_and(|draining| closed && draining.tried && until >= draining.until) {
                    return Flow::End; // The next try would come too late.
                }
                self.wait(now, seen, Some(until));
            }
        }
        Flow::Continue
    }

    fn notice_shutdown(&mut self, now: Mono) {
        if self.draining.is_none() && (self.outbox.closed() || self.stop.requested()) {
            self.draining = Some(Draining { until: now + self.drain, tried: false });
            self.outbox.flush();
            self.session.hurry(now);
        }
    }

    /// Whether the drain time is over and the last try was made, if there was anything to try.
    fn time_is_over(&self, now: Mono) -> bool {
        self.draining.is_some_and(|draining| {
            let nothing_to_send = self.session.in_hand() + self.outbox.waiting() == 0;
            now >= draining.until && (draining.tried || nothing_to_send)
        })
    }

    fn wait(&self, now: Mono, seen: u64, until: Option<Mono>) {
        let ends = [until, self.draining.map(|draining| draining.until)];
        let first = ends.into_iter().flatten().map(|end| end.since(now)).min();
        self.outbox.wait(seen, first.unwrap_or(STOP_LOOK).min(STOP_LOOK));
    }

    fn send(&mut self, now: Mono, part: std::ops::Range<usize>) {
        if let Some(draining) = &mut self.draining {
            draining.tried = true;
            self.sink.hurry(draining.until.since(now).max(LAST_SEND_MIN));
        }
        // A retry keeps the map of the first try, so that its bytes are the same; only a map that nobody vouches for is
        // worth a new reading.
        let map = match self.map {
            Some(map) if map.wall.synchronised && map.wall.plausible() => map,
            Some(_) | None => self.clock.map(),
        };
        self.map = Some(map);
        let batch = Batch::new(&self.origin, map, &self.events[part]);
        let id = batch.id();
        let sent = self.sink.send(&batch);
        let now = self.clock.mono();
        let (outcome, error) = match sent {
            Ok(()) => (Outcome::Delivered, None),
            Err(error) => (error.outcome, Some(error)),
        };
        let text = error.map(|error| error.text).unwrap_or_default();
        match self.session.report(now, outcome) {
            Verdict::Delivered(events) => {
                self.outbox.counters().count_delivered(now, events);
                tracing::debug!("delivered {events} events as {id}");
            }
            Verdict::Kept { until } => {
                self.outbox.counters().count_failure();
                let wait = until.since(now);
                if outcome == Outcome::Misconfigured {
                    tracing::error!("{text}; batch {id} is kept and sent again in {wait:.1?}");
                } else {
                    tracing::warn!("{text}; batch {id} is sent again in {wait:.1?}");
                }
            }
            Verdict::Halved => {
                self.outbox.counters().count_failure();
                tracing::debug!("{text}; batch {id} is halved to find the event");
            }
            Verdict::Dropped(index) => {
                self.outbox.counters().count_refused();
                let (event, kind) = (self.origin.id(self.events[index].seq), self.events[index].body.kind());
                tracing::warn!("{text}; event {event} ({kind}) is dropped");
            }
        }
    }
}
