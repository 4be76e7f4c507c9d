//! The periodic work of a spool; the caller provides thread and clock.

use std::time::Duration;

use super::Spool;
use crate::event::Event;
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::Mono;

/// Interval between two checks of the quota's age.
const RETAIN_EVERY: Duration = Duration::from_secs(600);

/// Interval between attempts to open a disk that could not be opened.
const ATTACH_EVERY: Duration = Duration::from_secs(5);

/// Interval of the check that the disk is still the one that was opened: no longer than the shortest commit interval.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// When each task was last done.
#[derive(Debug)]
pub struct SpoolWriter {
    retained: Mono,
    /// Next attempt to open a missing disk.
    attach_at: Mono,
    checked: Mono,
}

impl SpoolWriter {
    /// The spool was just opened, or opening it failed.
    pub fn new(now: Mono) -> Self {
        SpoolWriter { retained: now, attach_at: now + ATTACH_EVERY, checked: now }
    }

    /// One round: appends what `source` moves into the list that is passed to it, commits what is due (or everything, if `closed`: no more
    /// events will come), drops what exceeds the quota, and has `attach` try to open a missing disk.
    pub fn turn(
        &mut self,
        now: Mono,
        closed: bool,
        spool: &Spool,
        time: &Timekeeper,
        source: impl FnMut(&mut Vec<Event>),
        attach: impl FnOnce(),
    ) {
        if now.since(self.checked) >= CHECK_EVERY {
            self.checked = now;
            if spool.check_disk().is_err() {
                self.attach_at = now; // Another disk may be available already.
            }
        }
        spool.put(now, source);
        spool.commit(now, time.sample(), closed);
        if closed {
            return;
        }
        if now.since(self.retained) >= RETAIN_EVERY {
            self.retained = now;
            spool.retain(time.sample());
        }
        if now >= self.attach_at && !spool.state().has_disk {
            self.attach_at = now + ATTACH_EVERY;
            attach();
        }
    }

    /// Latest time of the next round, whatever happens.
    pub fn due(&self, spool: &Spool) -> Mono {
        let retain = self.retained + RETAIN_EVERY;
        let state = spool.state();
        let attach = (!state.has_disk).then_some(self.attach_at);
        [state.commit_due, attach].into_iter().flatten().fold(retain, Mono::min)
    }
}
