//! The program on its board: its own stages, called as its threads call them, in virtual time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::board::Board;
use super::camera_model::{Eyes, Seen};
use super::clock::Calendar;
use super::scenario::Scenario;
use super::server::{Server, fingerprint};
use super::{SECOND, mono};
use crate::analytics::count::{self, Line};
use crate::analytics::track;
use crate::analytics::{Follower, Params};
use crate::base::error::{Error, Kind, Result};
use crate::base::stop::Stop;
use crate::capture::frame::{Color, FrameFormat, FrameMeta, FrameView, PixelFormat};
use crate::capture::ring::{Policy, Reader, Taken, Writer, ring};
use crate::capture::sampler::{Sample, Sampler};
use crate::delivery::spool::{self, Batching, Class, Keeper, Log, Quota, Spool};
use crate::delivery::uplink::{Flow, Outbox, Uplink, UplinkParams};
use crate::event::{Body, Event, Name, Origin, Started, Stats, Storage, fixed};
use crate::pipeline::{Failure, Outcome, Pipeline};
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::Mono;
use crate::sim::disk::FaultDisk;
use crate::sim::traffic;

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The power is gone, and with it whatever was not on the disk.
    Power,
    /// The program alone ends; what it wrote to files stays.
    Crash,
    /// It was asked to.
    Orderly,
}

/// Sizes that fit days of events and are full now and then.
const QUEUE_EVENTS: usize = 1000;
const BATCHING: Batching = Batching { events_max: 200, age_max: Duration::from_secs(5), interval: None };
/// The time of a frame in which nothing moves, and of one that is tracked: little, and not nothing.
const STILL_NANOS: u64 = 3_000_000;
/// The gate stays open so long after the last motion.
const OPEN_NANOS: u64 = 2 * SECOND;
/// A camera that is silent so long takes its tracks with it, as in the program.
const SILENT: Duration = Duration::from_secs(2);

/// Since when events of a class cannot be made durable, by class, nanoseconds of the world.
pub(super) type Failing = [Option<u64>; Class::ALL.len()];

/// An event that was made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Posted {
    /// When, nanoseconds of the world.
    pub(super) at: u64,
    pub(super) class: Class,
    /// Whether it can wait for its commit.
    pub(super) can_wait: bool,
    pub(super) print: u32,
}

/// Makes the program's own pipeline for RGB pictures of that format.
pub type Network = Arc<dyn Fn(&FrameFormat, Vec<Line>) -> Result<Pipeline>>;

/// What looks at frames.
enum Sight {
    /// The tracker and the counter, of what is known to be there.
    Known(Box<Follower>),
    /// All of the pipeline, of pictures.
    Network(Box<Pipeline>, FrameFormat),
}

impl Sight {
    fn new(eyes: &Eyes, network: Option<&Network>) -> Result<Self> {
        let (width, height) = eyes.size();
        if let Some(network) = network {
            let format = FrameFormat::packed(PixelFormat::Rgb24, width, height, Color::JPEG)
                .map_err(|error| Error::fatal(Kind::Config, "scenario: size").caused_by(error))?;
            return Ok(Sight::Network(Box::new(network(&format, eyes.lines())?), format));
        }
        let (track, count) = (track::Params::default(), count::Params::default());
        let follow = Params { track, count, lines: eyes.lines() };
        let names = traffic::Kind::ALL.map(traffic::Kind::name);
        Ok(Sight::Known(Box::new(Follower::new(&follow, (width, height), &names)?)))
    }

    /// One frame; `open`: something moves, or did a moment ago.
    fn look(
        &mut self,
        at: Mono,
        seen: &Seen,
        open: bool,
        on: &mut dyn FnMut(Body),
    ) -> Result<Outcome, Failure> {
        match (self, seen) {
            (Sight::Known(follower), Seen::Known { found, .. }) if open => {
                follower.update(at, found, None, on);
                Ok(Outcome { inferred: true, detections: found.len() as u32, ..Outcome::default() })
            }
            (Sight::Known(follower), Seen::Known { .. }) => {
                follower.still(at, on);
                Ok(Outcome::default())
            }
            (Sight::Network(pipeline, format), Seen::Picture(rgb)) => {
                let view =
                    FrameView::new(*format, rgb).map_err(|error| Failure::Corrupt(error.to_string()))?;
                pipeline.process(&view, at, on)
            }
            (Sight::Known(_) | Sight::Network(..), Seen::Known { .. } | Seen::Picture(_) | Seen::Corrupt) => {
                Err(Failure::Corrupt("no picture".into()))
            }
        }
    }

    fn still(&mut self, at: Mono, on: &mut dyn FnMut(Body)) {
        if let Sight::Known(follower) = self {
            follower.still(at, on);
        }
    }

    fn finish(&mut self, at: Mono, on: &mut dyn FnMut(Body)) {
        match self {
            Sight::Known(follower) => follower.finish(at, on),
            Sight::Network(pipeline, _) => pipeline.finish(at, on),
        }
    }
}

/// A spool without a disk yet.
fn new_spool(scenario: &Scenario, seed: u64, origin: Origin) -> Spool {
    let quota = Quota { bytes: scenario.disk.quota_bytes, headroom: 0, ..spool::Params::default().quota };
    let memory_bytes = 64 << 10;
    let params = spool::Params {
        segment_bytes: spool::Params::segment_bytes_for(memory_bytes, quota.bytes),
        memory_bytes,
        quota,
        seed,
        ..spool::Params::default()
    };
    Spool::new(Log::new(params, origin), BATCHING)
}

/// Opens the spool's folder; if it cannot be, somebody tries again.
fn attach(spool: &Spool, disk: &FaultDisk, time: &Timekeeper) {
    if let Ok(recovered) = spool.attach(Box::new(disk.clone()))
        && let Some(clock) = recovered.clock
    {
        time.learn(clock);
    }
}

/// What is left of a run.
#[derive(Debug)]
pub(super) struct Remains {
    /// Which.
    pub(super) run: String,
    /// Each event in the order of its numbers.
    pub(super) posted: Vec<Posted>,
    /// When it ended.
    pub(super) ended: u64,
    pub(super) failing_since: Failing,
    /// Events that were dropped for want of room, those that became dead letters, and those that are damaged.
    pub(super) dropped: u64,
    pub(super) refused: u64,
    pub(super) damaged: u64,
    pub(super) spooled: u64,
    pub(super) written_bytes: u64,
    pub(super) stats: Stats,
}

/// A program that runs.
pub(super) struct Device {
    booted: u64,
    started: u64,
    origin: Origin,
    camera: Name,
    disk: FaultDisk,
    server: Server,
    time: Arc<Timekeeper>,
    outbox: Arc<Outbox>,
    spool: Arc<Spool>,
    uplink: Uplink,
    sampler: Sampler,
    ring: (Writer, Reader),
    /// Frames in the ring, oldest first.
    waiting: VecDeque<(u64, Seen)>,
    /// A frame in work, and when it is done.
    work: Option<(u64, FrameMeta, Seen)>,
    latency: u64,
    sight: Sight,
    moved_at: Option<u64>,
    newest: Option<Mono>,
    lost_at: Option<u64>,
    uplink_at: u64,
    /// A request is under way until then.
    sending_until: u64,
    signals: u64,
    keeper: Keeper,
    failing_since: Failing,
    closed: bool,
    ended: bool,
    posted: Vec<Posted>,
    /// The most that waited in the outbox and the ring.
    waiting_max: usize,
    stats: Stats,
    skipped_part: f64,
    fps_share: f64,
}

impl Device {
    /// The program starts: opens what its last run left, tells that it is there.
    pub(super) fn boot(
        (scenario, now, seed): (&Scenario, u64, u64),
        calendar: &Calendar,
        disk: &FaultDisk,
        server: &Server,
        (eyes, network): (&Eyes, Option<&Network>),
    ) -> Result<Self> {
        let booted = calendar.booted();
        // One identity a boot: a crash keeps it.
        let boot_id = format!("{:016x}", crate::sim::random::mix(booted + 1));
        let origin = Origin::new("sim", &boot_id, mono(now, booted));
        server.begins(origin.boot.as_str(), booted);
        let time = Arc::new(Timekeeper::new(calendar.clock()));
        let outbox = Arc::new(Outbox::new(QUEUE_EVENTS)?);
        let spool = Arc::new(new_spool(scenario, seed, origin.clone()));
        let delivery = UplinkParams { seed, drain: Duration::from_secs(3600), ..UplinkParams::default() };
        let ends = (Arc::clone(&outbox), Arc::clone(&spool));
        let uplink =
            Uplink::new(ends, server.sink(), Arc::clone(&time), origin.clone(), Stop::new(), delivery);
        let sight = Sight::new(eyes, network)?;
        let mut device = Device {
            booted,
            started: now,
            origin,
            camera: fixed("street"),
            disk: disk.clone(),
            server: server.clone(),
            time,
            outbox,
            spool,
            uplink,
            sampler: Sampler::new(scenario.fps),
            ring: ring(Policy::NewestWins, 3, 0),
            waiting: VecDeque::new(),
            work: None,
            latency: (scenario.detector.latency_ms * 1e6) as u64,
            sight,
            moved_at: None,
            newest: None,
            lost_at: None,
            uplink_at: now,
            sending_until: now,
            signals: u64::MAX,
            keeper: Keeper::new(mono(now, booted)),
            failing_since: [Some(now); Class::ALL.len()],
            closed: false,
            ended: false,
            posted: Vec::new(),
            waiting_max: 0,
            stats: Stats::default(),
            skipped_part: 0.0,
            fps_share: f64::from(scenario.fps / scenario.camera_fps).min(1.0),
        };
        attach(&device.spool, &device.disk, &device.time);
        device.post(
            now,
            Body::Started(Started {
                version: fixed("sim"),
                model: fixed(if network.is_some() { "network" } else { "truth" }),
            }),
        );
        Ok(device)
    }

    fn mono(&self, now: u64) -> Mono {
        mono(now, self.booted)
    }

    fn post(&mut self, now: u64, body: Body) {
        self.post_at(now, self.mono(now), body);
    }

    fn post_at(&mut self, now: u64, at: Mono, body: Body) {
        let (class, can_wait) = (Class::of(&body), body.can_wait());
        let event = Event { seq: self.posted.len() as u64, at, camera: self.camera.clone(), body };
        self.posted.push(Posted { at: now, class, can_wait, print: fingerprint(&event) });
        self.stats.events += 1;
        // What the outbox dropped it has counted.
        let _posted = self.outbox.post(at, &self.camera, event.body);
        self.note_waiting();
    }

    /// When it next has something to do.
    pub(super) fn next(&self) -> u64 {
        let done = self.work.as_ref().map_or(u64::MAX, |(done, ..)| *done);
        let keep = self.booted + self.keeper.due(&self.spool).as_nanos();
        let wakes = if self.outbox.signals() == self.signals { self.uplink_at } else { 0 };
        let uplink = if self.ended { u64::MAX } else { wakes.max(self.sending_until) };
        done.min(keep).min(uplink)
    }

    /// Nothing is in work, nobody is followed who moves.
    pub(super) fn is_idle(&self) -> bool {
        self.work.is_none() && self.waiting.is_empty() && self.moved_at.is_none() && self.lost_at.is_none()
    }

    /// A frame comes from the camera.
    pub(super) fn frame(&mut self, now: u64, seq: u64, corrupt: bool, eyes: &mut Eyes) -> Result<()> {
        self.stats.frames_captured += 1;
        let at = self.mono(now);
        if let Some(lost) = self.lost_at.take() {
            let absent_ms = (now - lost) / 1_000_000;
            let (width, height) = eyes.size();
            self.post(now, Body::CameraBack { absent_ms, width, height });
        }
        if self.sampler.decide(at) == Sample::Skip {
            self.stats.frames_skipped += 1;
            return Ok(());
        }
        let seen = if corrupt { Seen::Corrupt } else { eyes.frame(now) };
        let filled = self.ring.0.fill(|slot| {
            slot.meta = FrameMeta { seq, captured_at: at, bytes_used: 0 };
            Ok::<(), Error>(())
        });
        if !matches!(filled, crate::capture::ring::Fill::Committed(())) {
            return Err(Error::fatal(Kind::System, "simulation: the ring did not take a frame"));
        }
        // The ring has replaced its oldest, if it had no room.
        for _replaced in self.stats.frames_ring_dropped..self.ring.0.dropped() {
            self.waiting.pop_front();
        }
        self.waiting.push_back((seq, seen));
        self.stats.frames_ring_dropped = self.ring.0.dropped();
        self.note_waiting();
        Ok(())
    }

    /// Frames in which nothing moved, the last of them at `now`.
    pub(super) fn saw_nothing(&mut self, frames: u64, now: u64) {
        self.stats.frames_captured += frames;
        self.skipped_part += frames as f64 * self.fps_share;
        let taken = self.skipped_part.floor();
        self.skipped_part -= taken;
        let taken = taken as u64;
        self.stats.frames_gated += taken;
        self.stats.frames_still += taken;
        self.stats.frames_skipped += frames - taken;
        let at = self.mono(now);
        self.newest = Some(at);
        self.tell(now, at, |sight, on| sight.still(at, on));
    }

    /// Has the stages do something, and posts what happened.
    fn tell(&mut self, now: u64, at: Mono, what: impl FnOnce(&mut Sight, &mut dyn FnMut(Body))) {
        let mut happened = Vec::new();
        what(&mut self.sight, &mut |body| happened.push(body));
        for body in happened {
            self.stats.crossings += u64::from(matches!(body, Body::Crossing(_)));
            self.stats.tracks += u64::from(matches!(body, Body::TrackBegin(_)));
            self.post_at(now, at, body);
        }
    }

    /// There is no camera.
    pub(super) fn camera_lost(&mut self, now: u64) {
        if self.lost_at.is_none() {
            self.lost_at = Some(now);
            self.stats.camera_losses += 1;
            self.post(now, Body::CameraLost { reason: fixed("unplugged") });
        }
    }

    /// Counters, as each minute.
    pub(super) fn minute(&mut self, now: u64) {
        if self.closed {
            return;
        }
        let stats = self.stats(now);
        self.post(now, Body::Stats(stats));
        let (tally, disk_bytes, _) = self.spool.state();
        self.post(
            now,
            Body::Storage(Storage {
                waiting: self.spool.waiting(),
                disk_bytes,
                written_bytes: tally.written_bytes,
                commits: tally.commits,
                failures: tally.failures,
                dropped: tally.dropped.iter().sum(),
                damaged: tally.damaged_events,
                dead: tally.dead,
                ..Storage::default()
            }),
        );
    }

    pub(super) fn stats(&self, now: u64) -> Stats {
        let counters = self.outbox.counters();
        Stats {
            uptime_ms: (now - self.started) / 1_000_000,
            events_dropped: counters.dropped() + self.spool.state().0.dropped.iter().sum::<u64>(),
            events_delivered: counters.delivered(),
            send_failures: counters.failures(),
            events_refused: counters.refused(),
            ..self.stats
        }
    }

    /// Events that are on the device.
    pub(super) fn waiting(&self) -> u64 {
        self.uplink.report().undelivered
    }

    fn note_waiting(&mut self) {
        self.waiting_max = self.waiting_max.max(self.outbox.waiting() + self.waiting.len());
    }

    /// The most that waited in its queues, events and frames, and bytes on disk now.
    pub(super) fn sizes(&self) -> (usize, u64) {
        (self.waiting_max, self.spool.state().1)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// It is asked to end: tracks end, the last words are said.
    pub(super) fn close(&mut self, now: u64) {
        self.end_tracks(now);
        let stats = self.stats(now);
        self.post(now, Body::Stats(stats));
        self.post(now, Body::Stopping { reason: fixed("the simulation ended") });
        self.outbox.close(self.mono(now));
        self.closed = true;
        self.uplink_at = now;
    }

    /// Whatever is due: frames, commits, sends.
    pub(super) fn work(&mut self, now: u64, board: &mut Board) -> Result<()> {
        if self.work.as_ref().is_some_and(|(done, ..)| *done <= now)
            && let Some((_, meta, seen)) = self.work.take()
        {
            self.process(now, &meta, &seen)?;
        }
        if self.work.is_none() {
            self.begin(now, board);
        }
        self.silence(now);
        self.keep(now);
        if !self.disk.is_off() {
            self.deliver(now);
        }
        Ok(())
    }

    /// Takes the next frame out of the ring, if there is one.
    fn begin(&mut self, now: u64, board: &mut Board) {
        if self.waiting.is_empty() {
            return;
        }
        let Taken::Frame(slot) = self.ring.1.take(Duration::ZERO) else { return };
        let meta = slot.meta;
        drop(slot);
        // Those that newer ones replaced are gone from here too.
        while self.waiting.front().is_some_and(|(seq, _)| *seq < meta.seq) {
            self.waiting.pop_front();
        }
        let Some((_, seen)) = self.waiting.pop_front() else { return };
        let takes = match &seen {
            Seen::Known { moves, .. } => {
                let open = *moves || self.moved_at.is_some_and(|moved| now < moved + OPEN_NANOS);
                if open { board.infer(self.latency) } else { STILL_NANOS }
            }
            Seen::Picture(_) => board.infer(self.latency),
            Seen::Corrupt => STILL_NANOS,
        };
        self.work = Some((now + takes, meta, seen));
    }

    fn process(&mut self, now: u64, meta: &FrameMeta, seen: &Seen) -> Result<()> {
        let at = meta.captured_at;
        let taken = self.booted + at.as_nanos();
        if let Seen::Known { moves: true, .. } = seen {
            self.moved_at = Some(taken);
        }
        let open = self.moved_at.is_some_and(|moved| taken < moved + OPEN_NANOS);
        let mut outcome = Ok(Outcome::default());
        self.tell(now, at, |sight, on| outcome = sight.look(at, seen, open, on));
        match outcome {
            Ok(Outcome { inferred, detections, .. }) => {
                self.stats.frames_gated += 1;
                self.stats.inferences += u64::from(inferred);
                self.stats.frames_still += u64::from(!inferred);
                self.stats.detections += u64::from(detections);
                if !inferred {
                    self.moved_at = None;
                }
                self.newest = Some(at);
                Ok(())
            }
            Err(Failure::Corrupt(_)) => {
                self.stats.frames_corrupt += 1;
                Ok(())
            }
            Err(Failure::Engine(error)) => Err(error),
        }
    }

    /// A camera that stays away takes its tracks with it.
    fn silence(&mut self, now: u64) {
        if self.newest.is_some_and(|newest| self.mono(now).since(newest) >= SILENT) && self.work.is_none() {
            self.end_tracks(now);
        }
    }

    fn end_tracks(&mut self, now: u64) {
        let Some(at) = self.newest.take() else { return };
        self.moved_at = None;
        self.tell(now, at, |sight, on| sight.finish(at, on));
    }

    /// What the spool's thread does.
    fn keep(&mut self, now: u64) {
        let at = self.mono(now);
        let source = |out: &mut Vec<Event>| self.outbox.take(out);
        let again = || attach(&self.spool, &self.disk, &self.time);
        self.keeper.turn((at, self.closed), &self.spool, &self.time, source, again);
        for class in Class::ALL {
            let since = &mut self.failing_since[class as usize];
            *since = if self.spool.fails(class) { since.or(Some(now)) } else { None };
        }
    }

    /// What the uplink's thread does.
    fn deliver(&mut self, now: u64) {
        let wakes = now >= self.uplink_at || self.outbox.signals() != self.signals;
        if self.ended || now < self.sending_until || !wakes {
            return;
        }
        loop {
            self.signals = self.outbox.signals();
            self.server.tick(now);
            let flow = self.uplink.step();
            let took = self.server.tick(now);
            match flow {
                Flow::Continue if took > 0 => {
                    // The next step when the answer is there.
                    (self.uplink_at, self.sending_until) = (now, now + took);
                    return;
                }
                Flow::Continue => {}
                Flow::Wait(until) => {
                    self.uplink_at =
                        until.map_or(u64::MAX, |until| (self.booted + until.as_nanos()).max(now + 1));
                    return;
                }
                Flow::End => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    /// What is left of it.
    pub(super) fn end(self, now: u64) -> Remains {
        let (tally, _, _) = self.spool.state();
        let stats = self.stats(now);
        Remains {
            run: self.origin.boot.to_string(),
            ended: now,
            failing_since: self.failing_since,
            dropped: stats.events_dropped,
            refused: stats.events_refused,
            damaged: tally.damaged_events,
            spooled: tally.appended,
            written_bytes: tally.flash_bytes,
            posted: self.posted,
            stats,
        }
    }
}
