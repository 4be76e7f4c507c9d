//! The receiver and the link to it, in all moods; it remembers every identity that it was given.

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

/// A send that nobody answers takes as long as the deadline of a whole request.
const SILENCE: u64 = 30 * SECOND;

/// A stamp may be off by so much, nanoseconds: readings of two clocks are not of the same moment.
const STAMP_SLACK: u64 = 2 * SECOND;

/// How the receiver behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Good,
    /// 500 to everything.
    Fails,
    /// It takes the batch and does not answer.
    Forgetful,
    /// It never takes it and does not answer.
    Silent,
    /// 429 with a time to wait.
    Busy,
    /// 404: somebody has moved it.
    Moved,
    /// 413 above ten events.
    Small,
    /// 400 to some events, for good.
    Picky,
}

/// Whether a picky receiver refuses the event of that number.
fn is_refused(seq: u64) -> bool {
    seq % 40 == 7
}

#[derive(Debug)]
struct Inside {
    now: u64,
    link_back: u64,
    mood: Mood,
    mood_ends: u64,
    random: Random,
    took: u64,
    /// By run: when its board was switched on, nanoseconds of the world.
    boots: BTreeMap<String, u64>,
    /// By run: which numbers came.
    runs: BTreeMap<String, Came>,
    /// Crossings by what they were, each identity once.
    counts: BTreeMap<String, u64>,
    /// By run: which it refused, each alone, so that the device knows which it was.
    refused: BTreeMap<String, BTreeSet<u64>>,
    /// An identity came again with another content.
    changed: u64,
    /// Events of batches to which it said yes.
    confirmed: u64,
    /// It says yes and takes nothing: for a test that this is noticed.
    lies: bool,
    requests: u64,
    stamped_wrong: u64,
    /// The device's power ends then, or its program.
    dies_at: u64,
    /// What it adds to the number of each event, and to the moment at which a board was switched on: nothing, unless a test
    /// wants to see that a wrong one is noticed.
    misread: (u64, u64),
}

/// What came of a run: by number how often, and the fingerprint.
pub(super) type Came = BTreeMap<u64, (u32, u32)>;

/// Of when and what an event is, and of its number.
pub(super) fn fingerprint(event: &Event) -> u32 {
    crc32c::crc32c(event.encode(&mut [0; RECORD_BYTES_MAX]))
}

/// A receiver. A clone is the same one.
#[derive(Debug, Clone)]
pub(super) struct Server(Arc<Mutex<Inside>>);

impl Server {
    pub(super) fn new(seed: u64) -> Self {
        Server(Arc::new(Mutex::new(Inside {
            now: 0,
            link_back: 0,
            mood: Mood::Good,
            mood_ends: 0,
            random: Random::new(seed),
            took: 0,
            boots: BTreeMap::new(),
            runs: BTreeMap::new(),
            counts: BTreeMap::new(),
            refused: BTreeMap::new(),
            changed: 0,
            confirmed: 0,
            lies: false,
            requests: 0,
            stamped_wrong: 0,
            dies_at: u64::MAX,
            misread: (0, 0),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins on a board that was switched on then.
    pub(super) fn begins(&self, run: &str, booted: u64) {
        self.lock().boots.insert(run.to_owned(), booted);
    }

    /// When the device dies next: what is on its way then is never answered.
    pub(super) fn dies_at(&self, at: u64) {
        self.lock().dies_at = at;
    }

    #[cfg(test)]
    pub(super) fn lie(&self) {
        self.lock().lies = true;
    }

    #[cfg(test)]
    pub(super) fn misread(&self, number: u64, boot: u64) {
        self.lock().misread = (number, boot);
    }

    pub(super) fn cut_link(&self, until: u64) {
        let mut inside = self.lock();
        inside.link_back = inside.link_back.max(until);
    }

    pub(super) fn next_mood(&self, until: u64) {
        let mut inside = self.lock();
        let moods =
            [Mood::Fails, Mood::Forgetful, Mood::Silent, Mood::Busy, Mood::Moved, Mood::Small, Mood::Picky];
        inside.mood = *inside.random.pick(&moods);
        inside.mood_ends = until;
    }

    pub(super) fn heal(&self) {
        let mut inside = self.lock();
        (inside.link_back, inside.mood, inside.dies_at) = (0, Mood::Good, u64::MAX);
    }

    /// The end that the device sends to.
    pub(super) fn sink(&self) -> Box<dyn Sink> {
        Box::new(Line(self.clone()))
    }

    /// It is now; tells how long the last send took, once.
    pub(super) fn tick(&self, now: u64) -> u64 {
        let mut inside = self.lock();
        inside.now = now;
        if inside.mood != Mood::Good && now >= inside.mood_ends {
            inside.mood = Mood::Good;
        }
        std::mem::take(&mut inside.took)
    }

    /// All that came, by run.
    pub(super) fn came(&self) -> BTreeMap<String, Came> {
        self.lock().runs.clone()
    }

    /// All that it refused for good, by run. What was cut off before the device noted that may have come later.
    pub(super) fn refused(&self) -> BTreeMap<String, BTreeSet<u64>> {
        self.lock().refused.clone()
    }

    /// What it knows, into the report.
    pub(super) fn close(&self, report: &mut Report) {
        let inside = self.lock();
        report.requests = inside.requests;
        report.confirmed = inside.confirmed;
        report.counted.clone_from(&inside.counts);
        report.unseen_repeats = inside.changed;
        report.stamped_wrong = inside.stamped_wrong;
        for numbers in inside.runs.values() {
            report.received += numbers.len() as u64;
            report.repeats += numbers.values().map(|(times, _)| u64::from(times - 1)).sum::<u64>();
        }
    }
}

impl Inside {
    /// Takes every event of a batch.
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
            // Who vouches for a stamp must be right.
            let truth =
                self.boots.get(run).map(|booted| true_unix(booted + event.at.as_nanos() + self.misread.1));
            let off = truth.zip(stamp.time).map_or(0, |(truth, time)| (truth - time).unsigned_abs());
            self.stamped_wrong += u64::from(first && stamp.synchronised && off > STAMP_SLACK);
            let Body::Crossing(crossing) = &event.body else { continue };
            if first {
                let name = counted_as(&crossing.line, crossing.direction, &crossing.class);
                *self.counts.entry(name).or_default() += 1;
            }
        }
    }
}

/// The device's end.
#[derive(Debug)]
struct Line(Server);

impl Sink for Line {
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError> {
        let mut inside = self.0.lock();
        inside.requests += 1;
        inside.took = SECOND / 5;
        let fail = |failure, text: &str| {
            Err(SendError { failure, status: None, text: text.to_owned(), kept_here: false })
        };
        let retry = Failure::Retry { after: None };
        if inside.now < inside.link_back {
            return Err(SendError { kept_here: true, ..SendError::retry("no route") });
        }
        if matches!(inside.mood, Mood::Forgetful | Mood::Silent) {
            inside.took = SILENCE;
        }
        if inside.now + inside.took > inside.dies_at {
            // Somewhere on the way: it arrived or it did not, and nobody hears which.
            inside.took = inside.dies_at.saturating_sub(inside.now);
            if inside.random.chance(0.5) {
                inside.store(batch);
            }
            return fail(retry, "no answer");
        }
        match inside.mood {
            Mood::Good if inside.lies => {}
            Mood::Good => inside.store(batch),
            Mood::Fails => return fail(retry, "500"),
            Mood::Forgetful => {
                inside.store(batch);
                return fail(retry, "no answer");
            }
            Mood::Silent => return fail(retry, "no answer"),
            Mood::Busy => return fail(Failure::Retry { after: Some(Duration::from_secs(120)) }, "429"),
            Mood::Moved => return fail(Failure::Misconfigured, "404"),
            Mood::Small if batch.events.len() > 10 => return fail(Failure::TooLarge, "413"),
            Mood::Picky if batch.events.iter().any(|event| is_refused(event.seq)) => {
                if let [event] = batch.events {
                    inside.refused.entry(batch.origin.boot.to_string()).or_default().insert(event.seq);
                }
                return fail(Failure::Refused, "400");
            }
            Mood::Small | Mood::Picky => inside.store(batch),
        }
        inside.confirmed += batch.events.len() as u64;
        Ok(())
    }

    fn name(&self) -> &'static str {
        "simulated receiver"
    }
}
