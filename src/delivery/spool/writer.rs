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

/// Remembers what was done when.
#[derive(Debug)]
pub struct Keeper {
    retained: Mono,
    attached: Mono,
}

impl Keeper {
    /// The spool was just opened, or could not be.
    pub fn new(now: Mono) -> Self {
        Keeper { retained: now, attached: now }
    }

    /// One turn: appends what `source` moves into the list that it is given, commits what is due (or everything, if no more will come),
    /// lets go of what the quota does not allow, and has `attach` try to open a disk that is not there.
    pub fn turn(
        &mut self,
        (now, closed): (Mono, bool),
        spool: &Spool,
        time: &Timekeeper,
        source: impl FnMut(&mut Vec<Event>),
        attach: impl FnOnce(),
    ) {
        spool.put(now, source);
        spool.commit(now, time.map(), closed);
        if closed {
            return;
        }
        if now.since(self.retained) >= RETAIN_EVERY {
            self.retained = now;
            spool.retain(time.map());
        }
        if !spool.has_disk() && now.since(self.attached) >= ATTACH_EVERY {
            self.attached = now;
            attach();
        }
    }

    /// When the next turn is due at the latest, whatever comes.
    pub fn due(&self, spool: &Spool) -> Mono {
        let retain = self.retained + RETAIN_EVERY;
        let attach = (!spool.has_disk()).then(|| self.attached + ATTACH_EVERY);
        [spool.commit_due(), attach].into_iter().flatten().fold(retain, Mono::min)
    }
}
