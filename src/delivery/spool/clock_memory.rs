//! The calendar records of earlier runs, kept after their segments are removed: they date the events of these runs.

use std::sync::Arc;

use super::class_queue::{Finished, Run};
use crate::event::Origin;
use crate::platform::calendar::{Bounds, started_before};
use crate::platform::clock::ClockSyncSample;

/// A trusted calendar reading of an earlier run.
#[derive(Debug)]
struct Trusted {
    run: u64,
    origin: Arc<Origin>,
    clock: ClockSyncSample,
}

/// The best reading of each earlier run, in the order of the runs.
#[derive(Debug, Default)]
pub(super) struct ClockMemory(Vec<Trusted>);

impl ClockMemory {
    /// Keeps the readings in `segments` of earlier runs, and nothing else.
    pub(super) fn learn<'a>(&mut self, segments: impl Iterator<Item = &'a Finished>) {
        self.0 = segments
            .filter_map(|segment| {
                let clock = segment.sums.clock.filter(|clock| clock.wall.is_trusted())?;
                let origin = Arc::clone(&segment.run.origin);
                Some(Trusted { run: segment.run.number, origin, clock })
            })
            .collect();
        self.0.sort_by_key(|trusted| (trusted.run, std::cmp::Reverse(trusted.clock.mono)));
        self.0.dedup_by_key(|trusted| trusted.run);
    }

    /// The best known clock data of an earlier boot, including readings in its remaining `segments`.
    pub(super) fn clock_of<'a>(
        &self,
        origin: &Origin,
        segments: impl Iterator<Item = &'a Finished>,
    ) -> ClockSyncSample {
        let of_boot = self.0.iter().filter(|trusted| trusted.origin.same_boot(origin));
        let trusted = of_boot.map(|trusted| trusted.clock).max_by_key(|clock| clock.mono);
        let guess = || {
            let of_boot = segments.filter(|segment| segment.run.origin.same_boot(origin));
            of_boot.filter_map(|segment| segment.sums.clock).max_by_key(|clock| clock.mono)
        };
        trusted.or_else(guess).unwrap_or(ClockSyncSample::UNKNOWN)
    }

    /// What the calendar readings of other boots imply for the boot of `run`.
    pub(super) fn bounds_of(&self, run: &Run) -> Bounds {
        let others = || self.0.iter().filter(|trusted| !trusted.origin.same_boot(&run.origin));
        let before = others().filter(|other| other.run < run.number);
        let after = others().filter(|other| other.run > run.number);
        Bounds {
            started_after: before.map(|other| other.clock.wall.unix_nanos).max(),
            over_before: after.map(|other| started_before(&other.clock)).min(),
        }
    }
}
