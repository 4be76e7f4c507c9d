//! The spool's thread: takes what the outbox holds, commits when it is due, tells what was lost, and has the last word.

use std::io;
use std::path::Path;
use std::time::Duration;

use smol::channel::{Receiver, Sender, TryRecvError};

use super::Shared;
use crate::base::error::{Error, Kind, Result};
use crate::config::Config;
use crate::delivery::spool::disk::Folder;
use crate::delivery::spool::{Class, Log, Params, Spool, SpoolWriter, Tally};
use crate::delivery::uplink::Report;
use crate::event::{Body, Dropped, Event, Origin, RecordError, Storage, fixed};
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::Mono;
use crate::platform::watchdog::Stage;

/// Longest time between two looks.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(1);

/// What was dropped is told at most so often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The spool as the settings want it.
///
/// # Errors
/// `Kind::Config`: the folder cannot be used, or another program uses it.
pub(super) fn open(config: &Config, origin: &Origin, time: &Timekeeper) -> Result<Spool> {
    let params = Params { seed: super::seed(origin), ..config.spool.params };
    let spool = Spool::new(Log::new(params, origin.clone()), config.uplink.batching);
    let Some(path) = &config.spool.folder else { return Ok(spool) };
    match attach(&spool, path, time) {
        Ok(()) => {}
        Err(error) if !may_heal(&error) => {
            let remedy = if error.kind() == io::ErrorKind::WouldBlock {
                "another flytrap uses it: end that one, or give this one a folder of its own"
            } else {
                "it must be a folder that this user may write to"
            };
            let text = format!("spool.folder '{}': {remedy}", path.display());
            return Err(Error::fatal(Kind::Config, text).caused_by(error));
        }
        // Counting goes on (I12); `keep` says it as an event, and tries again.
        Err(error) => tracing::error!("spool.folder '{}': {error}; events wait in memory", path.display()),
    }
    Ok(spool)
}

/// Whether an error is one of the disk, not of the settings: a card that is not mounted yet, full, or broken.
fn may_heal(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    !matches!(error.kind(), K::WouldBlock | K::PermissionDenied | K::NotADirectory | K::InvalidInput)
}

/// Takes the folder into use.
fn attach(spool: &Spool, path: &Path, time: &Timekeeper) -> io::Result<()> {
    let recovered = Folder::open(path).and_then(|folder| spool.attach(Box::new(folder)))?;
    if let Some(clock) = recovered.clock {
        time.learn(clock);
    }
    tracing::info!(
        waiting = recovered.events,
        segments = recovered.segments,
        unclosed = recovered.unclosed,
        damaged_bytes = recovered.damaged_bytes,
        damaged_events = recovered.damaged_events,
        set_aside = recovered.set_aside,
        foreign = recovered.foreign,
        "the spool is open"
    );
    Ok(())
}

/// The body of the thread: ends when the uplink has ended and everything is safe, or cannot be; then passes the uplink's report on.
pub(super) fn keep(shared: &Shared, uplink_ended: &Receiver<Report>, report: &Sender<Report>) {
    let mut told = Told::default();
    let mut writer = SpoolWriter::new(shared.clock.mono());
    let last = loop {
        shared.heartbeat(Stage::Spool, LOOK_MAX);
        // All are read before anything is looked at: what comes from here on ends the wait below at once.
        let (seen, ended) = (shared.outbox.signals(), uplink_ended.try_recv());
        let (closed, now) = (shared.outbox.closed(), shared.clock.mono());
        let again = || {
            if let Some(path) = &shared.config.spool.folder {
                // What is wrong was said.
                let _again = attach(&shared.spool, path, &shared.time);
            }
        };
        let source = |out: &mut Vec<Event>| shared.outbox.take(out);
        writer.turn((now, closed), &shared.spool, &shared.time, source, again);
        match ended {
            Ok(last) => break Some(last),
            Err(TryRecvError::Closed) => break None, // It failed; the message is above.
            Err(TryRecvError::Empty) => {}
        }
        if !closed {
            told.tell(shared, now);
        }
        // At the end everything was done just now, whatever is due.
        let due = if closed { LOOK_MAX } else { writer.due(&shared.spool).since(shared.clock.mono()) };
        shared.outbox.wait(seen, due.min(LOOK_MAX));
    };
    shared.ledger.ended(Stage::Spool);
    if let Some(last) = last {
        super::tell(report, last);
    }
}

/// What the events so far have said about losses.
#[derive(Default)]
struct Told {
    tally: Tally,
    at: Mono,
    trouble: bool,
    /// More was written in a day than the budget allows.
    over_budget: bool,
    /// The uplink waits for a person.
    uplink: bool,
}

impl Told {
    fn tell(&mut self, shared: &Shared, now: Mono) {
        if now.since(self.at) < TELL_EVERY {
            return;
        }
        let state = shared.spool.state();
        let tally = state.tally;
        if tally.detached > self.tally.detached {
            let why = state.why_detached.as_deref().unwrap_or("its folder is gone");
            let text = format!("spool: {why}: what waited there is out of reach");
            tracing::error!("{text}; the folder is opened again");
            shared.post_own(Body::Degraded { reason: fixed(&text) });
        }
        let missing = shared.config.spool.folder.is_some() && !state.has_disk;
        let trouble = state.trouble.or_else(|| missing.then(|| "it cannot be opened".to_owned()));
        for class in Class::ALL {
            let lost = tally.dropped[class as usize] - self.tally.dropped[class as usize];
            if lost > 0 {
                let reason = state.last_drop[class as usize].map_or("memory", |reason| reason.name());
                self.post(shared, now, class.name(), reason, lost, tally.dropped[class as usize]);
            }
        }
        let damaged = tally.damaged_events - self.tally.damaged_events;
        if damaged > 0 {
            self.post(shared, now, "unknown", "damage", damaged, tally.damaged_events);
        }
        let newer = tally.newer_events - self.tally.newer_events;
        if newer > 0 {
            let version = RecordError::Version(tally.newer_version);
            tracing::error!("spool: {version}; {newer} events of the newer one are skipped");
            self.post(shared, now, "unknown", "version", newer, tally.newer_events);
        }
        if tally.set_aside > self.tally.set_aside {
            let text = "spool: files with damage are set aside: look at them with 'flytrap spool ls'";
            tracing::error!("{text}");
            shared.post_own(Body::Degraded { reason: fixed(text) });
        }
        if let Some(why) = trouble.as_ref().filter(|_| !self.trouble) {
            let text = format!("spool: the disk fails: {why}");
            tracing::error!("{text}; events wait in memory, and it is tried again");
            shared.post_own(Body::Degraded { reason: fixed(&text) });
        }
        if self.trouble && trouble.is_none() {
            tracing::info!("spool: the disk works again");
        }
        (self.tally, self.trouble) = (tally, trouble.is_some());
        self.tell_budget(shared, now);
        let uplink = shared.outbox.trouble();
        if let Some(why) = uplink.as_ref().filter(|_| !self.uplink) {
            // It leaves when it is mended, or through a fall-back: so that it is known when and why nothing came.
            shared.post_own(Body::Degraded { reason: fixed(&format!("uplink: {why}")) });
        }
        self.uplink = uplink.is_some();
    }

    /// Flash wears: more than was planned for is told, once until it is less again.
    fn tell_budget(&mut self, shared: &Shared, now: Mono) {
        let Some(budget) = shared.config.spool.write_budget else { return };
        let written = shared.written_in_a_day(now);
        if written > budget && !self.over_budget {
            let (written, budget) = (written >> 20, budget >> 20);
            let text = format!(
                "spool: {written} MB written in a day, over spool.write_budget_mb_per_day = {budget}"
            );
            tracing::warn!("{text}");
            shared.post_own(Body::Degraded { reason: fixed(&text) });
        }
        self.over_budget = written > budget;
    }

    fn post(&mut self, shared: &Shared, now: Mono, class: &str, reason: &str, events: u64, total: u64) {
        self.at = now;
        tracing::warn!("spool: {events} events ({class}) had to go: {reason}");
        let dropped = Dropped { class: fixed(class), reason: fixed(reason), events, total };
        shared.post_own(Body::Dropped(dropped));
    }
}

/// The state of the spool, if it is on disk.
pub(super) fn storage(shared: &Shared) -> Option<Storage> {
    shared.config.spool.folder.as_ref()?;
    let state = shared.spool.state();
    let tally = state.tally;
    Some(Storage {
        waiting: state.waiting,
        disk_bytes: state.disk_bytes,
        written_bytes: tally.written_bytes,
        written_day_bytes: shared.written_in_a_day(shared.clock.mono()),
        commits: tally.commits,
        failures: tally.failures,
        dropped: tally.dropped.iter().sum(),
        damaged: tally.damaged_events,
        dead: tally.dead,
        newer: tally.newer_events,
    })
}
