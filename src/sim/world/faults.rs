//! The fault schedule: generated before the world begins, so that an additional fault does not shift the others.

use std::collections::BTreeSet;

use super::SECOND;
use super::scenario::Scenario;
use crate::sim::random::Random;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    CameraStalls,
    CameraUnplugged,
    CameraCorrupt,
    PowerCut,
    Crash,
    DiskFull,
    DiskAway,
    DiskBack,
    LinkOutage,
    Receiver,
    ClockStep,
    ClockLost,
}

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Fault::CameraStalls => "camera stalls",
            Fault::CameraUnplugged => "camera unplugged",
            Fault::CameraCorrupt => "camera corrupt",
            Fault::PowerCut => "power cut",
            Fault::Crash => "crash",
            Fault::DiskFull => "disk full",
            Fault::DiskAway => "disk away",
            Fault::DiskBack => "disk back",
            Fault::LinkOutage => "link outage",
            Fault::Receiver => "server fault",
            Fault::ClockStep => "clock step",
            Fault::ClockLost => "clock lost",
        }
    }
}

/// All faults of a world.
#[derive(Debug)]
pub(super) struct Faults(BTreeSet<(u64, Fault)>);

impl Faults {
    pub(super) fn new(scenario: &Scenario, end: u64, random: &mut Random) -> Self {
        let Scenario { camera, disk, link, clock, .. } = scenario;
        let mut all = BTreeSet::new();
        for (fault, a_day) in [
            (Fault::CameraStalls, camera.stalls),
            (Fault::CameraUnplugged, camera.unplugged),
            (Fault::CameraCorrupt, camera.corrupt),
            (Fault::PowerCut, disk.power_cuts),
            (Fault::Crash, disk.crashes),
            (Fault::DiskFull, disk.full),
            (Fault::DiskAway, disk.away),
            (Fault::LinkOutage, link.outages),
            (Fault::Receiver, link.receiver_faults),
            (Fault::ClockStep, clock.steps),
            (Fault::ClockLost, clock.lost),
        ] {
            let mut stream = Random::stream(random.bits(), fault as u64);
            let mut at = 0u64;
            if a_day <= 0.0 {
                continue;
            }
            loop {
                // A rare fault may be beyond the range of the numbers.
                let wait = (f64::from(stream.exponential(86_400.0 / a_day)) * SECOND as f64) as u64;
                at = at.saturating_add(wait).saturating_add(1);
                if at >= end {
                    break;
                }
                all.insert((at, fault));
            }
        }
        Faults(all)
    }

    /// When the next fault is due.
    pub(super) fn next(&self) -> u64 {
        self.0.first().map_or(u64::MAX, |(at, _)| *at)
    }

    /// Time of the next power loss or crash.
    pub(super) fn next_death(&self) -> u64 {
        let death = self.0.iter().find(|(_, fault)| matches!(fault, Fault::PowerCut | Fault::Crash));
        death.map_or(u64::MAX, |(at, _)| *at)
    }

    /// Takes the next fault that is due.
    pub(super) fn due(&mut self, now: u64) -> Option<Fault> {
        (self.next() <= now).then(|| self.0.pop_first()).flatten().map(|(_, fault)| fault)
    }

    /// Adds a fault that follows from another.
    pub(super) fn later(&mut self, at: u64, fault: Fault) {
        self.0.insert((at, fault));
    }
}
