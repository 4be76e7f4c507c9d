//! What a spool needs done, again and again, by whoever has the thread and the clock.

use std::time::Duration;

use super::Spool;
use crate::event::Event;
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::Mono;

/// How often the quota's age is looked at.
const RETAIN_EVERY: Duration = Duration::from_secs(600);

/// A disk that could not be opened is tried again so often.
const ATTACH_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked whether the disk is still the one that was opened: no later than the shortest commit interval.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Remembers what was done when.
#[derive(Debug)]
pub struct SpoolWriter {
    retained: Mono,
    /// When a disk that is not there is tried again.
    attach_at: Mono,
    checked: Mono,
}

impl SpoolWriter {
    /// The spool was just opened, or could not be.
    pub fn new(now: Mono) -> Self {
        SpoolWriter { retained: now, attach_at: now + ATTACH_EVERY, checked: now }
    }

    /// One turn: appends what `source` moves into the list that it is given, commits what is due (or everything, if it is `closed`: no more will come),
    /// lets go of what the quota does not allow, and has `attach` try to open a disk that is not there.
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
                self.attach_at = now; // Another one may be there already.
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

    /// When the next turn is due at the latest, whatever comes.
    pub fn due(&self, spool: &Spool) -> Mono {
        let retain = self.retained + RETAIN_EVERY;
        let state = spool.state();
        let attach = (!state.has_disk).then_some(self.attach_at);
        [state.commit_due, attach].into_iter().flatten().fold(retain, Mono::min)
    }
}
