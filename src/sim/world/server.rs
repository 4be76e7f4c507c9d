//! The receiver and the link to it, in all moods; it remembers every identity that it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SECOND;
use super::clock::true_unix;
use super::report::Report;
use crate::event::{Body, Direction};
use crate::sim::random::Random;
use crate::uplink::session::Failure;
use crate::uplink::{Batch, SendError, Sink};

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
    /// By run: which numbers came, and how often each.
    runs: BTreeMap<String, BTreeMap<u64, u32>>,
    /// Crossings by what they were, each identity once.
    counts: BTreeMap<String, u64>,
    /// A crossing of a track under a second identity.
    crossings: BTreeSet<(String, u64, String, Direction)>,
    twice_unseen: u64,
    requests: u64,
    stamped_wrong: u64,
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
            crossings: BTreeSet::new(),
            twice_unseen: 0,
            requests: 0,
            stamped_wrong: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins on a board that was switched on then.
    pub(super) fn begins(&self, run: &str, booted: u64) {
        self.lock().boots.insert(run.to_owned(), booted);
    }

    pub(super) fn cut_link(&self, until: u64) {
        let mut inside = self.lock();
        inside.link_back = inside.link_back.max(until);
    }

    pub(super) fn next_mood(&self, until: u64) {
        let mut inside = self.lock();
        let moods = [Mood::Fails, Mood::Forgetful, Mood::Silent, Mood::Busy, Mood::Moved, Mood::Small];
        inside.mood = *inside.random.pick(&moods);
        inside.mood_ends = until;
    }

    pub(super) fn heal(&self) {
        let mut inside = self.lock();
        (inside.link_back, inside.mood) = (0, Mood::Good);
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

    /// Numbers of a run that came.
    pub(super) fn came(&self, run: &str) -> BTreeSet<u64> {
        self.lock().runs.get(run).map(|numbers| numbers.keys().copied().collect()).unwrap_or_default()
    }

    /// What it knows, into the report.
    pub(super) fn close(&self, report: &mut Report) {
        let inside = self.lock();
        report.requests = inside.requests;
        report.counted.clone_from(&inside.counts);
        report.unseen_repeats = inside.twice_unseen;
        report.stamped_wrong = inside.stamped_wrong;
        for numbers in inside.runs.values() {
            report.received += numbers.len() as u64;
            report.repeats += numbers.values().map(|times| u64::from(times - 1)).sum::<u64>();
        }
    }
}

impl Inside {
    /// Takes every event of a batch.
    fn store(&mut self, batch: &Batch<'_>) {
        for event in batch.events {
            let run = batch.origin.boot.as_str();
            let times = self.runs.entry(run.to_owned()).or_default().entry(event.seq).or_default();
            *times += 1;
            let first = *times == 1;
            let stamp = batch.calendar.stamp(event.at);
            // Who vouches for a stamp must be right.
            let truth = self.boots.get(run).map(|booted| true_unix(booted + event.at.as_nanos()));
            let off = truth.zip(stamp.time).map_or(0, |(truth, time)| (truth - time).unsigned_abs());
            self.stamped_wrong += u64::from(first && stamp.synchronised && off > STAMP_SLACK);
            let Body::Crossing(crossing) = &event.body else { continue };
            if !first {
                continue;
            }
            let line = crossing.line.to_string();
            let key = (run.to_owned(), crossing.track, line.clone(), crossing.direction);
            self.twice_unseen += u64::from(!self.crossings.insert(key));
            let way = if crossing.direction == Direction::Forward { "forward" } else { "backward" };
            *self.counts.entry(format!("{line} {way} {}", crossing.class)).or_default() += 1;
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
        match inside.mood {
            Mood::Good => inside.store(batch),
            Mood::Fails => return fail(retry, "500"),
            Mood::Forgetful => {
                inside.store(batch);
                inside.took = SILENCE;
                return fail(retry, "no answer");
            }
            Mood::Silent => {
                inside.took = SILENCE;
                return fail(retry, "no answer");
            }
            Mood::Busy => return fail(Failure::Retry { after: Some(Duration::from_secs(120)) }, "429"),
            Mood::Moved => return fail(Failure::Misconfigured, "404"),
            Mood::Small if batch.events.len() > 10 => return fail(Failure::TooLarge, "413"),
            Mood::Small => inside.store(batch),
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        "simulated receiver"
    }
}
