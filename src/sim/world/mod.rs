//! A device in the field, in virtual time: traffic, weather, light and heat around it, and faults at all its interfaces.
//!
//! ```text
//!   traffic ─► camera model ─► sampler ─► ring ─► analytics ─► outbox ─► spool ─► uplink ─► server
//!   (truth)    camera faults      latency                       disk     link      fault
//!                                                               faults   faults    modes
//! ```
//! From the sampler to the uplink these are the program's own stages, driven by the calls that its threads make. Simulated is everything
//! beyond them: the camera's scene, the network's results (or, with rendered frames, the network itself runs), the disk, the receiver, the
//! clocks and the board. Time jumps to the next deadline. One seed drives everything, and the same seed gives the same report to the last
//! byte; with rendered frames as far as the network computes the same on another CPU.

mod board;
mod camera_model;
mod clock;
mod device;
mod faults;
mod report;
mod scenario;
mod server;

use std::collections::BTreeMap;

use self::board::Board;
use self::camera_model::CameraModel;
use self::clock::Calendar;
pub use self::device::Network;
use self::device::{Death, Device, Surroundings};
use self::faults::{Fault, Faults};
pub use self::report::Report;
use self::report::counted_as;
pub use self::scenario::Scenario;
use self::server::Server;
use super::disk::FaultDisk;
use super::judge::Judge;
use super::random::Random;
use crate::base::error::{Error, Kind, Result};
use crate::platform::clock::Mono;

/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;

/// How long the world waits at the end for events that are still on the device.
const DRAIN: u64 = 6 * 3600 * SECOND;

/// Interval between two evaluations of the truth: a road user moves less than its own length in it.
const JUDGED_EVERY: u64 = SECOND / 5;

/// A device and its environment.
pub struct World {
    scenario: Scenario,
    network: Option<Network>,
    /// Time since the world began, nanoseconds.
    now: u64,
    end: u64,
    random: Random,
    camera_model: CameraModel,
    judge: Judge,
    judged: u64,
    faults: Faults,
    board: Board,
    calendar: Calendar,
    disk: FaultDisk,
    server: Server,
    device: Option<Device>,
    /// When the device is switched on again.
    boots_at: u64,
    /// The camera is unplugged until then.
    camera_away: u64,
    camera_stalls: u64,
    camera_corrupt: u64,
    disk_full: u64,
    next_frame: u64,
    /// Number of the next frame since the camera was opened.
    frame: u64,
    next_minute: u64,
    report: Report,
}

impl World {
    /// A world of `hours` hours. `network` runs on the frames of a scenario with rendered frames.
    ///
    /// # Errors
    /// `Kind::Config`: a setting of the scenario is out of range. For rendered frames: see [`crate::vision::detect::model::Loaded::open`].
    pub fn new(seed: u64, hours: f64, scenario: &Scenario, network: Option<Network>) -> Result<Self> {
        scenario.check()?;
        if scenario.rendered && network.is_none() {
            let text = "scenario: rendered frames need a network";
            return Err(Error::fatal(Kind::Config, text));
        }
        let camera_model = CameraModel::new(seed, scenario)?;
        let judge = Judge::new(
            &camera_model.lines(),
            camera_model.view(),
            camera_model.size().0,
            camera_model.size().1,
        );
        let end = (hours * 3600.0 * SECOND as f64) as u64;
        let mut random = Random::stream(seed, 101);
        let faults = Faults::new(scenario, end, &mut random);
        let disk = FaultDisk::new(random.bits());
        disk.set_fault_modes(scenario.disk_fault_modes(false));
        let server = Server::new(random.bits());
        server.fails_at(faults.next_death());
        Ok(World {
            now: 0,
            end,
            camera_model,
            judge,
            judged: 0,
            faults,
            board: Board::new(scenario, &mut random),
            calendar: Calendar::new(scenario.begins_at),
            server,
            disk,
            device: None,
            boots_at: 0,
            camera_away: 0,
            camera_stalls: 0,
            camera_corrupt: 0,
            disk_full: 0,
            next_frame: 0,
            frame: 0,
            next_minute: 0,
            report: Report::new(seed, hours),
            random,
            scenario: scenario.clone(),
            network,
        })
    }

    /// Runs all the hours, then gives the device time to deliver its remaining events.
    ///
    /// # Errors
    /// A stage failed permanently: a bug in the program.
    pub fn run(mut self, on: &mut dyn FnMut(f64)) -> Result<Report> {
        let mut reported = 0;
        while self.now < self.end {
            self.step()?;
            if self.now / SECOND / 600 != reported {
                reported = self.now / SECOND / 600;
                on(self.now as f64 / self.end as f64);
            }
        }
        self.drain()?;
        Ok(self.finish())
    }

    /// Advances to the next deadline and does what is due.
    fn step(&mut self) -> Result<()> {
        let quiet = self.skip_quiet();
        let mut next = self.end.min(self.next_minute).min(self.faults.next());
        if !quiet {
            next = next.min(self.next_frame).min(self.judged + JUDGED_EVERY);
        }
        next = match &self.device {
            Some(device) => next.min(device.next()),
            None => next.min(self.next_boot()),
        };
        // At least a millisecond, so that a permanently due deadline cannot stop the world.
        self.now = next.max(self.now + SECOND / 1000);
        self.calendar.tick(self.now);
        self.judge_truth();
        while let Some(fault) = self.faults.due(self.now) {
            self.inject(fault);
        }
        if self.now >= self.next_minute {
            self.minute();
        }
        if self.device.is_none() && self.now >= self.boots_at && self.board.has_power() {
            self.boot()?;
        }
        if self.now >= self.next_frame {
            self.frame()?;
        }
        self.work()
    }

    /// Does what is due on the device.
    fn work(&mut self) -> Result<()> {
        let Some(device) = &mut self.device else { return Ok(()) };
        device.work(self.now, &mut self.board)?;
        self.cut_in_a_write();
        Ok(())
    }

    /// The power failed during a write.
    fn cut_in_a_write(&mut self) {
        if self.device.is_some() && self.disk.is_off() {
            self.die(Death::Power, 40);
        }
    }

    /// While nothing moves on the street all frames are alike: they are counted, not processed one by one. True if the street was skipped;
    /// the device's own deadlines still apply.
    fn skip_quiet(&mut self) -> bool {
        let Some(until) = self.camera_model.quiet_until(self.now) else { return false };
        if self.camera_is_away()
            || self.now < self.camera_corrupt
            || self.device.as_ref().is_some_and(|device| !device.is_idle())
        {
            return false;
        }
        let mut until = until.min(self.end).min(self.next_minute).min(self.faults.next());
        until = until.min(self.device.as_ref().map_or(self.next_boot(), Device::next));
        let period = self.scenario.frame_period();
        let frames = until.saturating_sub(self.next_frame) / period;
        if frames < 2 {
            return false;
        }
        self.next_frame += frames * period;
        self.frame += frames;
        // The time of the last of them.
        self.now = self.now.max(self.next_frame - period);
        self.calendar.tick(self.now);
        if let Some(device) = &mut self.device {
            let dropped = (frames as f32 * self.scenario.camera.drop_share + self.random.unit()) as u64;
            let dropped = dropped.min(frames);
            self.report.camera_drops += dropped;
            device.saw_nothing(frames - dropped, dropped, self.now);
        }
        self.camera_model.skip_to(self.now);
        self.judged = self.judged.max(self.now);
        true
    }

    /// When the program may start: never while the battery is flat, which is checked every minute.
    fn next_boot(&self) -> u64 {
        if self.board.has_power() { self.boots_at } else { u64::MAX }
    }

    fn camera_is_away(&self) -> bool {
        self.now < self.camera_away.max(self.camera_stalls)
    }

    fn judge_truth(&mut self) {
        if self.now < self.judged + JUDGED_EVERY {
            return;
        }
        self.judged = self.now;
        let before = self.judge.total();
        let truth = self.camera_model.truth(self.now);
        self.judge.see(truth);
        let crossed = self.judge.total() - before;
        if self.device.is_none() || self.camera_is_away() {
            self.report.unwatched += crossed;
        }
    }

    fn minute(&mut self) {
        self.next_minute += 60 * SECOND;
        let hour = self.calendar.hour(self.now);
        self.camera_model.hour(hour);
        let on = self.device.is_some();
        self.board.minute(hour, on, &mut self.random);
        if let Some(device) = &mut self.device {
            device.minute(self.now);
            self.report.note_device(device);
        }
        if on && !self.board.has_power() {
            self.report.flat_battery += 1;
            self.die(Death::Power, 0);
        }
        if self.disk_full > 0 && self.now >= self.disk_full {
            self.disk_full = 0;
            self.disk.set_fault_modes(self.scenario.disk_fault_modes(false));
        }
    }

    fn frame(&mut self) -> Result<()> {
        self.next_frame += self.scenario.frame_period();
        let away = self.camera_is_away();
        let Some(device) = &mut self.device else { return Ok(()) };
        if self.now < self.camera_away {
            device.camera_lost(self.now, "unplugged");
            return Ok(());
        }
        if away {
            return Ok(());
        }
        let seq = self.frame;
        self.frame += 1;
        if self.random.unit() < self.scenario.camera.drop_share {
            self.report.camera_drops += 1;
            return Ok(());
        }
        let corrupt = self.now < self.camera_corrupt;
        device.frame(self.now, seq, corrupt, &mut self.camera_model)
    }

    fn inject(&mut self, fault: Fault) {
        self.server.fails_at(self.faults.next_death());
        if fault != Fault::DiskBack {
            *self.report.faults.entry(fault.name()).or_default() += 1;
        }
        let mut lasts = |mean: f32| (self.random.exponential(mean).max(0.5) * SECOND as f32) as u64;
        match fault {
            Fault::CameraStalls => self.camera_stalls = self.now + lasts(8.0),
            Fault::CameraUnplugged => self.camera_away = self.now + lasts(240.0),
            Fault::CameraCorrupt => self.camera_corrupt = self.now + lasts(3.0),
            Fault::PowerCut => self.cut(),
            Fault::Crash => self.die(Death::Crash, 6),
            Fault::DiskFull => {
                self.disk_full = self.now + lasts(1800.0);
                self.disk.set_fault_modes(self.scenario.disk_fault_modes(true));
            }
            Fault::DiskAway => {
                self.disk.set_away(true);
                self.faults.later(self.now + lasts(300.0), Fault::DiskBack);
            }
            Fault::DiskBack => self.disk.set_away(false),
            Fault::LinkOutage => self.server.cut_link(self.now + lasts(self.scenario.link.outage_mean_s)),
            Fault::Receiver => {
                let until = self.now + lasts(self.scenario.link.receiver_fault_mean_s);
                self.server.next_fault_mode(until);
            }
            Fault::ClockStep => self.calendar.step(&mut self.random),
            Fault::ClockLost => self.calendar.lose_synchronisation(),
        }
    }

    /// A power cut: immediately, or in the middle of one of the next writes.
    fn cut(&mut self) {
        if self.device.is_some() && self.random.chance(0.5) {
            self.disk.cut_after(self.random.below(8) as u64);
        } else {
            self.die(Death::Power, 40);
        }
    }

    /// The device is off for some seconds; without power, until there is some.
    fn die(&mut self, how: Death, seconds: u64) {
        let Some(device) = self.device.take() else { return };
        self.report.note_death(device.end(self.now), how);
        self.disk.reboot(how == Death::Crash);
        let more = (self.random.unit() * seconds as f32 * SECOND as f32) as u64;
        self.boots_at = self.now + seconds * SECOND + more;
    }

    fn boot(&mut self) -> Result<()> {
        self.calendar.boot(self.now, self.report.last_death, &mut self.random);
        self.report.boots += 1;
        self.frame = 0; // The camera is opened.
        let surroundings = Surroundings {
            scenario: &self.scenario,
            calendar: &self.calendar,
            disk: &self.disk,
            server: &self.server,
            camera_model: &self.camera_model,
            network: self.network.as_ref(),
        };
        self.device = Some(Device::boot(&surroundings, self.now, self.random.bits())?);
        Ok(())
    }

    /// The link is good and no more faults happen: all events on the device arrive.
    fn drain(&mut self) -> Result<()> {
        self.disk.spare();
        self.disk.set_fault_modes(self.scenario.disk_fault_modes(false));
        self.disk.set_away(false);
        self.server.heal();
        self.board.charge_full();
        let last = self.now + DRAIN;
        while self.now < last {
            if self.device.is_none() {
                self.now = self.now.max(self.boots_at);
                self.boot()?;
            }
            let Some(device) = &mut self.device else { continue };
            if device.waiting() == 0 && device.is_closed() {
                break;
            }
            if !device.is_closed() {
                device.close(self.now);
            }
            self.now = device.next().clamp(self.now + SECOND / 10, self.now + 60 * SECOND);
            self.calendar.tick(self.now);
            device.work(self.now, &mut self.board)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Report {
        if let Some(device) = self.device.take() {
            self.report.note_device(&device);
            self.report.note_death(device.end(self.now), Death::Orderly);
        }
        let names: Vec<String> = self.camera_model.lines().iter().map(|line| line.name.to_string()).collect();
        let mut truth: BTreeMap<String, u64> = BTreeMap::new();
        for ((line, direction, kind), count) in self.judge.counts() {
            *truth.entry(counted_as(&names[*line], *direction, kind.name())).or_default() += count;
        }
        self.report.truth = truth;
        self.report.unseen = self.judge.unseen();
        self.report.energy_wh = self.board.energy_wh();
        self.report.hottest_c = self.board.hottest_c();
        self.report.throttled_s = self.board.throttled_s();
        self.server.close(&mut self.report);
        self.report.settle(&self.server);
        self.report.disk_errors = self.disk.faults();
        self.report
    }
}

/// A moment of the boot clock of a device that was switched on at `booted`.
fn mono(now: u64, booted: u64) -> Mono {
    Mono::from_nanos(now.saturating_sub(booted))
}

#[cfg(test)]
mod tests;
