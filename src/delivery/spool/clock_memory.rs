//! The calendars of earlier runs, which outlive the segments that they are in: what the times of their events were.

use std::sync::Arc;

use super::class_queue::{Finished, Run};
use crate::event::Origin;
use crate::platform::calendar::{Bounds, started_before};
use crate::platform::clock::ClockSyncSample;

/// A reading of the calendar by an earlier run that can be trusted.
#[derive(Debug)]
struct Trusted {
    run: u64,
    origin: Arc<Origin>,
    clock: ClockSyncSample,
}

/// The best reading of each earlier run, in their order.
#[derive(Debug, Default)]
pub(super) struct ClockMemory(Vec<Trusted>);

impl ClockMemory {
    /// Remembers what `segments` of earlier runs say, and nothing else.
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

    /// The best that is known about the clocks of an earlier boot, also by its `segments` that are still there.
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

    /// What the calendars of other boots say about the boot of `run`.
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
