//! Heartbeat deadlines: by when each stage has to finish its next piece of work. Pure: reads no clock, starts nothing.
//!
//! A stage that has finished a piece of work sets the deadline of the next one (its heartbeat deadline). A stage that is going to wait (a
//! back-off, an empty queue) includes the wait. A late stage is reported for as long as it is late: whether to trust a recovery is up to
//! the caller.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::platform::clock::Mono;

/// A thread that has to show finished work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Opens the source, takes frames from it.
    Capture,
    /// Everything from the ring to the event.
    Pipeline,
    /// Keeps events until they are delivered.
    Spool,
    /// Delivers events.
    Uplink,
}

impl Stage {
    /// All of them, in the order of the data.
    pub const ALL: [Stage; 4] = [Stage::Capture, Stage::Pipeline, Stage::Spool, Stage::Uplink];

    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Capture => "capture",
            Stage::Pipeline => "pipeline",
            Stage::Spool => "spool",
            Stage::Uplink => "uplink",
        }
    }
}

/// Deadline of a stage that has nothing to do: not started yet, or ended.
const NEVER: u64 = u64::MAX;

/// The deadlines of all stages. Each thread writes its own; nobody waits.
#[derive(Debug)]
pub struct Ledger {
    due: [AtomicU64; Stage::ALL.len()],
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger { due: Stage::ALL.map(|_| AtomicU64::new(NEVER)) }
    }
}

/// A stage that missed its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    /// The stage.
    pub stage: Stage,
    /// How far past its deadline it is.
    pub late: Duration,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} hangs: its work is {:.1} s overdue", self.stage.name(), self.late.as_secs_f64())
    }
}

impl Ledger {
    /// `stage` has finished a piece of work; the deadline of the next one is `by`.
    pub fn set_deadline(&self, stage: Stage, by: Mono) {
        self.due[stage as usize].store(by.as_nanos().min(NEVER - 1), Relaxed);
    }

    /// `stage` has ended: it has no deadline any more.
    pub fn ended(&self, stage: Stage) {
        self.due[stage as usize].store(NEVER, Relaxed);
    }

    /// The stage that is latest at `now`, if any is.
    pub fn overdue(&self, now: Mono) -> Option<Overdue> {
        let late = |stage: &Stage| match self.due[*stage as usize].load(Relaxed) {
            NEVER => Duration::ZERO,
            due => now.since(Mono::from_nanos(due)),
        };
        let stage = Stage::ALL.into_iter().max_by_key(late)?;
        let late = late(&stage);
        (!late.is_zero()).then_some(Overdue { stage, late })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn no_stage_is_late_before_it_begins_or_after_it_ended() {
        let ledger = Ledger::default();
        assert_eq!(ledger.overdue(at(1 << 30)), None);
        ledger.set_deadline(Stage::Pipeline, at(5));
        assert_eq!(ledger.overdue(at(5)), None, "at the deadline is not late");
        let late = ledger.overdue(at(7)).unwrap();
        assert_eq!(late, Overdue { stage: Stage::Pipeline, late: Duration::from_secs(2) });
        assert_eq!(late.to_string(), "the pipeline hangs: its work is 2.0 s overdue");
        ledger.ended(Stage::Pipeline);
        assert_eq!(ledger.overdue(at(7)), None);
    }

    #[test]
    fn a_deadline_at_the_end_of_time_counts() {
        let ledger = Ledger::default();
        ledger.set_deadline(Stage::Uplink, Mono::from_nanos(u64::MAX));
        assert_eq!(ledger.overdue(Mono::from_nanos(u64::MAX)).map(|late| late.stage), Some(Stage::Uplink));
    }

    proptest! {
        /// Compared with the plain rule: a stage is late if its deadline has passed and it has not ended; the latest one is named.
        #[test]
        fn the_latest_is_named(
            steps in proptest::collection::vec((0usize..3, proptest::option::of(0u64..100)), 0..40),
            now in 0u64..120,
        ) {
            let ledger = Ledger::default();
            let mut due = [None; 3];
            for (stage, by) in steps {
                match by {
                    Some(by) => ledger.set_deadline(Stage::ALL[stage], at(by)),
                    None => ledger.ended(Stage::ALL[stage]),
                }
                due[stage] = by;
            }
            let most = due.iter().flatten().map(|by| now.saturating_sub(*by)).max().filter(|late| *late > 0);
            let found = ledger.overdue(at(now));
            prop_assert_eq!(found.map(|late| late.late.as_secs()), most);
            if let Some(found) = found {
                prop_assert_eq!(due[found.stage as usize].map(|by| now - by), most);
            }
        }
    }
}
