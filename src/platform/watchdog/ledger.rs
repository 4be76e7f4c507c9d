//! Heartbeat deadlines: by when each stage has to finish its next piece of work. Pure: reads no clock, starts nothing.
//!
//! A stage that has finished a piece of work sets the deadline of the next one (its heartbeat deadline). A stage that is going to wait (a
//! back-off, an empty queue) includes the wait. A late stage is reported for as long as it is late: whether to trust a recovery is up to
//! the caller.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::base::limits::{CAMERAS_MAX, NAME_BYTES_MAX};
use crate::platform::clock::Mono;

type Name = heapless::String<NAME_BYTES_MAX>;

/// A thread that has to show finished work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Opens the source of camera number `.0`, takes frames from it.
    Capture(usize),
    /// Everything from the rings to the events.
    Pipeline,
    /// Keeps events until they are delivered.
    Spool,
    /// Delivers events.
    Uplink,
}

impl Stage {
    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Capture(_) => "capture",
            Stage::Pipeline => "pipeline",
            Stage::Spool => "spool",
            Stage::Uplink => "uplink",
        }
    }

    const fn index(self) -> usize {
        match self {
            Stage::Pipeline => 0,
            Stage::Spool => 1,
            Stage::Uplink => 2,
            Stage::Capture(camera) => 3 + camera,
        }
    }
}

/// Deadline of a stage that has nothing to do: not started yet, or ended.
const NEVER: u64 = u64::MAX;

/// The deadlines of all stages. Each thread writes its own; nobody waits.
#[derive(Debug)]
pub struct Ledger {
    due: [AtomicU64; 3 + CAMERAS_MAX],
    /// The names of several cameras; empty for a single one.
    cameras: Vec<Name>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::new(&[])
    }
}

/// A stage that missed its deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// The stage.
    pub stage: Stage,
    /// The camera whose capture it is, if there are several.
    pub camera: Name,
    /// How far past its deadline it is.
    pub late: Duration,
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {}", self.stage.name())?;
        if !self.camera.is_empty() {
            write!(f, " of camera '{}'", self.camera)?;
        }
        write!(f, " hangs: its work is {:.1} s overdue", self.late.as_secs_f64())
    }
}

impl Ledger {
    /// For cameras with these names; the names only matter if there are several.
    pub fn new(cameras: &[Name]) -> Self {
        let cameras = if cameras.len() > 1 { cameras.to_vec() } else { Vec::new() };
        Ledger { due: std::array::from_fn(|_| AtomicU64::new(NEVER)), cameras }
    }

    /// `stage` has finished a piece of work; the deadline of the next one is `by`.
    pub fn set_deadline(&self, stage: Stage, by: Mono) {
        self.due[stage.index()].store(by.as_nanos().min(NEVER - 1), Relaxed);
    }

    /// `stage` has ended: it has no deadline any more.
    pub fn ended(&self, stage: Stage) {
        self.due[stage.index()].store(NEVER, Relaxed);
    }

    /// The stage that is latest at `now`, if any is.
    pub fn overdue(&self, now: Mono) -> Option<Overdue> {
        let captures = (0..CAMERAS_MAX).map(Stage::Capture);
        self.latest(now, captures.chain([Stage::Pipeline, Stage::Spool, Stage::Uplink]))
    }

    /// The stage without which nothing is counted or delivered, if it is late at `now`. The captures of several cameras are such only
    /// together: as long as one of them is in time, counting goes on without the others. `alone_max`: after this long a capture counts
    /// whatever the others do, because only a restart can help it.
    pub fn overdue_for_all(&self, now: Mono, alone_max: Duration) -> Option<Overdue> {
        let common = self.latest(now, [Stage::Pipeline, Stage::Spool, Stage::Uplink].into_iter());
        let running = (0..CAMERAS_MAX).map(Stage::Capture).filter(|stage| self.is_running(*stage));
        let all_late = running.clone().all(|stage| !self.late(stage, now).is_zero());
        let captures = running.filter(|stage| all_late || self.late(*stage, now) >= alone_max);
        let capture = self.latest(now, captures);
        [common, capture].into_iter().flatten().max_by_key(|overdue| overdue.late)
    }

    /// Whether the capture of camera number `camera` is late at `now`.
    pub fn capture_overdue(&self, camera: usize, now: Mono) -> Option<Overdue> {
        self.latest(now, [Stage::Capture(camera)].into_iter())
    }

    fn is_running(&self, stage: Stage) -> bool {
        self.due[stage.index()].load(Relaxed) != NEVER
    }

    fn late(&self, stage: Stage, now: Mono) -> Duration {
        match self.due[stage.index()].load(Relaxed) {
            NEVER => Duration::ZERO,
            due => now.since(Mono::from_nanos(due)),
        }
    }

    fn latest(&self, now: Mono, stages: impl Iterator<Item = Stage>) -> Option<Overdue> {
        let (stage, late) =
            stages.map(|stage| (stage, self.late(stage, now))).max_by_key(|(_, late)| *late)?;
        let camera = match stage {
            Stage::Capture(camera) => self.cameras.get(camera).cloned().unwrap_or_default(),
            Stage::Pipeline | Stage::Spool | Stage::Uplink => Name::new(),
        };
        (!late.is_zero()).then_some(Overdue { stage, camera, late })
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
        let expected = Overdue { stage: Stage::Pipeline, camera: Name::new(), late: Duration::from_secs(2) };
        assert_eq!(late, expected);
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

    #[test]
    fn one_camera_that_hangs_is_not_a_hang_of_the_program_until_all_of_them_do() {
        let names: Vec<Name> = ["north", "south"].iter().map(|name| Name::try_from(*name).unwrap()).collect();
        let ledger = Ledger::new(&names);
        let hour = Duration::from_secs(3600);
        ledger.set_deadline(Stage::Capture(0), at(10));
        ledger.set_deadline(Stage::Capture(1), at(5000));
        assert_eq!(ledger.overdue_for_all(at(12), hour), None);
        assert_eq!(ledger.capture_overdue(1, at(12)), None);
        let late = ledger.capture_overdue(0, at(12)).unwrap();
        assert_eq!(late.to_string(), "the capture of camera 'north' hangs: its work is 2.0 s overdue");
        assert_eq!(ledger.overdue(at(12)), Some(late), "at the end nobody waits for it");
        let late = ledger.overdue_for_all(at(3610), hour).unwrap();
        assert_eq!((late.stage, late.late), (Stage::Capture(0), hour), "only a restart can help it");
        ledger.set_deadline(Stage::Capture(1), at(11));
        assert_eq!(ledger.overdue_for_all(at(12), hour).unwrap().stage, Stage::Capture(0), "all hang");
        ledger.ended(Stage::Capture(0));
        assert_eq!(
            ledger.overdue_for_all(at(12), hour).unwrap().stage,
            Stage::Capture(1),
            "the only one left"
        );
        ledger.set_deadline(Stage::Spool, at(9));
        assert_eq!(ledger.overdue_for_all(at(12), hour).unwrap().stage, Stage::Spool);
    }

    const STAGES: [Stage; 4] = [Stage::Capture(0), Stage::Capture(7), Stage::Pipeline, Stage::Uplink];

    proptest! {
        /// Compared with the plain rule: a stage is late if its deadline has passed and it has not ended; the latest one is named.
        #[test]
        fn the_latest_is_named(
            steps in proptest::collection::vec((0usize..4, proptest::option::of(0u64..100)), 0..40),
            now in 0u64..120,
        ) {
            let ledger = Ledger::default();
            let mut due = [None; 4];
            for (stage, by) in steps {
                match by {
                    Some(by) => ledger.set_deadline(STAGES[stage], at(by)),
                    None => ledger.ended(STAGES[stage]),
                }
                due[stage] = by;
            }
            let most = due.iter().flatten().map(|by| now.saturating_sub(*by)).max().filter(|late| *late > 0);
            let found = ledger.overdue(at(now));
            prop_assert_eq!(found.as_ref().map(|late| late.late.as_secs()), most);
            if let Some(found) = found {
                let index = STAGES.iter().position(|stage| *stage == found.stage).unwrap();
                prop_assert_eq!(due[index].map(|by| now - by), most);
            }
        }
    }
}
