//! The receiver and the link to it, in every fault mode; it remembers the id of every event that it got.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SECOND;
use super::clock::true_unix;
use super::report::{Report, counted_as};
use crate::delivery::uplink::session::Failure;
use crate::delivery::uplink::{Batch, SendError, Sink};
use crate::event::{Body, Event, RECORD_BYTES_MAX};
use crate::sim::random::Random;

/// A request without a response takes as long as its deadline.
const SILENCE: u64 = 30 * SECOND;

/// Tolerance of a time stamp, nanoseconds: two clocks cannot be read at the same instant.
const STAMP_TOLERANCE: u64 = 2 * SECOND;

/// Behaviour of the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultMode {
    Good,
    /// Responds with 500 to everything.
    Fails,
    /// Stores the batch and does not respond.
    Forgetful,
    /// Neither stores it nor responds.
    Silent,
    /// 429 with a time to wait.
    Busy,
    /// 404: the endpoint has moved.
    Moved,
    /// 413 above ten events.
    Small,
    /// 400 to some events, permanently.
    Picky,
}

/// Whether a picky receiver refuses the event with that sequence number.
fn is_refused(seq: u64) -> bool {
    seq % 40 == 7
}

#[derive(Debug)]
struct State {
    now: u64,
    link_back: u64,
    mode: FaultMode,
    fault_ends: u64,
    random: Random,
    took: u64,
    /// By run: when its board was switched on, nanoseconds of the world.
    boots: BTreeMap<String, u64>,
    /// By run: the sequence numbers that arrived.
    runs: BTreeMap<String, Came>,
    /// Crossings by line, direction and class, each event id once.
    counts: BTreeMap<String, u64>,
    /// By run: the events that it refused, each in a batch of its own, so that the device knows which one it was.
    refused: BTreeMap<String, BTreeSet<u64>>,
    /// An event id arrived again with different contents.
    changed: u64,
    /// Events of confirmed batches.
    confirmed: u64,
    /// It confirms and stores nothing: for a test that this is noticed.
    stores_nothing: bool,
    requests: u64,
    stamped_wrong: u64,
    /// The device's power, or its program, ends at this time.
    fails_at: u64,
    /// Offset added to the sequence number of each event, and to the time at which a board was switched on: 0, except in tests that a wrong
    /// one is noticed.
    misread: (u64, u64),
}

/// Events that arrived from a run: by sequence number the count and the fingerprint.
pub(super) type Came = BTreeMap<u64, (u32, u32)>;

/// Fingerprint of an event: its time, content and sequence number.
pub(super) fn fingerprint(event: &Event) -> u32 {
    crc32c::crc32c(event.encode(&mut [0; RECORD_BYTES_MAX]))
}

/// A receiver. A clone is the same receiver.
#[derive(Debug, Clone)]
pub(super) struct Server(Arc<Mutex<State>>);

impl Server {
    pub(super) fn new(seed: u64) -> Self {
        Server(Arc::new(Mutex::new(State {
            now: 0,
            link_back: 0,
            mode: FaultMode::Good,
            fault_ends: 0,
            random: Random::new(seed),
            took: 0,
            boots: BTreeMap::new(),
            runs: BTreeMap::new(),
            counts: BTreeMap::new(),
            refused: BTreeMap::new(),
            changed: 0,
            confirmed: 0,
            stores_nothing: false,
            requests: 0,
            stamped_wrong: 0,
            fails_at: u64::MAX,
            misread: (0, 0),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins on a board that was switched on at this time.
    pub(super) fn begins(&self, run: &str, booted: u64) {
        self.lock().boots.insert(run.to_owned(), booted);
    }

    /// Time of the device's next power loss: a request in progress at that time never gets a response.
    pub(super) fn fails_at(&self, at: u64) {
        self.lock().fails_at = at;
    }

    #[cfg(test)]
    pub(super) fn confirm_without_storing(&self) {
        self.lock().stores_nothing = true;
    }

    #[cfg(test)]
    pub(super) fn misread(&self, number: u64, boot: u64) {
        self.lock().misread = (number, boot);
    }

    pub(super) fn cut_link(&self, until: u64) {
        let mut state = self.lock();
        state.link_back = state.link_back.max(until);
    }

    pub(super) fn next_fault_mode(&self, until: u64) {
        let mut state = self.lock();
        let modes = [
            FaultMode::Fails,
            FaultMode::Forgetful,
            FaultMode::Silent,
            FaultMode::Busy,
            FaultMode::Moved,
            FaultMode::Small,
            FaultMode::Picky,
        ];
        state.mode = *state.random.pick(&modes);
        state.fault_ends = until;
    }

    pub(super) fn heal(&self) {
        let mut state = self.lock();
        (state.link_back, state.mode, state.fails_at) = (0, FaultMode::Good, u64::MAX);
    }

    /// The sink that the device sends to.
    pub(super) fn sink(&self) -> Box<dyn Sink> {
        Box::new(ServerSink(self.clone()))
    }

    /// Sets the time; returns how long the last request took, once.
    pub(super) fn tick(&self, now: u64) -> u64 {
        let mut state = self.lock();
        state.now = now;
        if state.mode != FaultMode::Good && now >= state.fault_ends {
            state.mode = FaultMode::Good;
        }
        std::mem::take(&mut state.took)
    }

    /// All events that arrived, by run.
    pub(super) fn came(&self) -> BTreeMap<String, Came> {
        self.lock().runs.clone()
    }

    /// All events that it refused permanently, by run. An event refused before a power cut may have arrived later if the device did not
    /// record the refusal.
    pub(super) fn refused(&self) -> BTreeMap<String, BTreeSet<u64>> {
        self.lock().refused.clone()
    }

    /// Adds its counts to the report.
    pub(super) fn close(&self, report: &mut Report) {
        let state = self.lock();
        report.requests = state.requests;
        report.confirmed = state.confirmed;
        report.counted.clone_from(&state.counts);
        report.unseen_repeats = state.changed;
        report.stamped_wrong = state.stamped_wrong;
        for numbers in state.runs.values() {
            report.received += numbers.len() as u64;
            report.repeats += numbers.values().map(|(times, _)| u64::from(times - 1)).sum::<u64>();
        }
    }
}

impl State {
    /// Stores every event of a batch.
    fn store(&mut self, batch: &Batch<'_>) {
        for event in batch.events {
            let run = batch.origin.boot.as_str();
            let print = fingerprint(event);
            let seq = event.seq + self.misread.0;
            let (times, known) =
                self.runs.entry(run.to_owned()).or_default().entry(seq).or_insert((0, print));
            *times += 1;
            let first = *times == 1;
            self.changed += u64::from(*known != print);
            let stamp = batch.calendar.stamp(event.at);
            // A stamp that is marked synchronised must be right.
            let truth =
                self.boots.get(run).map(|booted| true_unix(booted + event.at.as_nanos() + self.misread.1));
            let off = truth.zip(stamp.time).map_or(0, |(truth, time)| (truth - time).unsigned_abs());
            self.stamped_wrong += u64::from(first && stamp.synchronised && off > STAMP_TOLERANCE);
            let Body::Crossing(crossing) = &event.body else { continue };
            if first {
                let name = counted_as(&crossing.line, crossing.direction, &crossing.class);
                *self.counts.entry(name).or_default() += 1;
            }
        }
    }
}

/// The device's side of the link.
#[derive(Debug)]
struct ServerSink(Server);

impl Sink for ServerSink {
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError> {
        let mut state = self.0.lock();
        state.requests += 1;
        state.took = SECOND / 5;
        let fail = |failure, text: &str| {
            Err(SendError { failure, status: None, text: text.to_owned(), kept_here: false })
        };
        let retry = Failure::Retry { after: None };
        if state.now < state.link_back {
            return Err(SendError { kept_here: true, ..SendError::retry("no route") });
        }
        if matches!(state.mode, FaultMode::Forgetful | FaultMode::Silent) {
            state.took = SILENCE;
        }
        if state.now + state.took > state.fails_at {
            // In progress: it arrived or it did not, and the device never learns which.
            state.took = state.fails_at.saturating_sub(state.now);
            if state.random.chance(0.5) {
                state.store(batch);
            }
            return fail(retry, "no answer");
        }
        match state.mode {
            FaultMode::Good if state.stores_nothing => {}
            FaultMode::Good => state.store(batch),
            FaultMode::Fails => return fail(retry, "500"),
            FaultMode::Forgetful => {
                state.store(batch);
                return fail(retry, "no answer");
            }
            FaultMode::Silent => return fail(retry, "no answer"),
            FaultMode::Busy => return fail(Failure::Retry { after: Some(Duration::from_secs(120)) }, "429"),
            FaultMode::Moved => return fail(Failure::Misconfigured, "404"),
            FaultMode::Small if batch.events.len() > 10 => return fail(Failure::TooLarge, "413"),
            FaultMode::Picky if batch.events.iter().any(|event| is_refused(event.seq)) => {
                if let [event] = batch.events {
                    state.refused.entry(batch.origin.boot.to_string()).or_default().insert(event.seq);
                }
                return fail(Failure::Refused, "400");
            }
            FaultMode::Small | FaultMode::Picky => state.store(batch),
        }
        state.confirmed += batch.events.len() as u64;
        Ok(())
    }

    fn name(&self) -> &'static str {
        "simulated receiver"
    }
}
