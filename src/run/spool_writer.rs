//! The spool's thread: moves events from the outbox into the spool, commits when due, reports losses, and writes the final report.

use std::io;
use std::path::Path;
use std::time::Duration;

use smol::channel::{Receiver, Sender, TryRecvError};

use super::Shared;
use crate::base::error::{Error, Kind, Result};
use crate::config::Config;
use crate::delivery::spool::disk::Folder;
use crate::delivery::spool::{Condition, Log, MonitorParams, Params, Spool, SpoolMonitor, SpoolWriter};
use crate::delivery::uplink::Report;
use crate::event::{Event, Origin, Storage};
use crate::platform::calendar::Timekeeper;
use crate::platform::watchdog::Stage;

/// Longest interval between two polls.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(1);

/// Opens the spool as configured.
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
        // Counting continues (I12); `keep` reports the failure as an event, and tries again.
        Err(error) => tracing::error!("spool.folder '{}': {error}; events wait in memory", path.display()),
    }
    Ok(spool)
}

/// Whether an error is caused by the disk, not by the settings: a card that is not mounted yet, full, or broken.
fn may_heal(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    !matches!(error.kind(), K::WouldBlock | K::PermissionDenied | K::NotADirectory | K::InvalidInput)
}

/// Attaches the folder to the spool.
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
        lost_segments = recovered.lost_segments,
        set_aside = recovered.set_aside,
        foreign = recovered.foreign,
        "the spool is open"
    );
    Ok(())
}

/// The body of the thread: ends when the uplink has ended and everything is committed, or cannot be; then forwards the uplink's report.
pub(super) fn keep(shared: &Shared, uplink_ended: &Receiver<Report>, report: &Sender<Report>) {
    let spool = &shared.config.spool;
    let mut monitor = SpoolMonitor::new(MonitorParams {
        wants_disk: spool.folder.is_some(),
        write_budget: spool.write_budget,
    });
    let mut writer = SpoolWriter::new(shared.clock.mono());
    let last = loop {
        shared.heartbeat(Stage::Spool, LOOK_MAX);
        // All wake-ups are consumed before any work: one that arrives from here on ends the wait below immediately.
        let (seen, ended) = (shared.outbox.signals(), uplink_ended.try_recv());
        let (closed, now) = (shared.outbox.closed(), shared.clock.mono());
        let again = || {
            if let Some(path) = &spool.folder {
                // The error was already reported.
                let _again = attach(&shared.spool, path, &shared.time);
            }
        };
        let source = |out: &mut Vec<Event>| shared.outbox.take(out);
        writer.turn(now, closed, &shared.spool, &shared.time, source, again);
        match ended {
            Ok(last) => break Some(last),
            Err(TryRecvError::Closed) => break None, // It failed; the message is above.
            Err(TryRecvError::Empty) => {}
        }
        monitor.set_write_budget(shared.live().write_budget);
        if !closed && !monitor.is_silent(now) {
            let uplink = shared.outbox.trouble();
            let condition = Condition {
                state: &shared.spool.state(),
                written_day_bytes: shared.written_in_a_day(now),
                uplink_trouble: uplink.as_deref(),
            };
            monitor.report(now, &condition, &mut |body| shared.post_own(body));
        }
        // During shutdown everything is committed immediately, whatever is due.
        let due = if closed { LOOK_MAX } else { writer.due(&shared.spool).since(shared.clock.mono()) };
        shared.outbox.wait(seen, due.min(LOOK_MAX));
    };
    shared.ledger.ended(Stage::Spool);
    if let Some(last) = last {
        super::forward(report, last);
    }
}

/// State of the spool; `None` if it is in memory only.
pub(super) fn storage(shared: &Shared) -> Option<Storage> {
    shared.config.spool.folder.as_ref()?;
    let written = shared.written_in_a_day(shared.clock.mono());
    Some(shared.spool.state().storage(written))
}
