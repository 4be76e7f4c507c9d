//! The program on its board: the program's own stages, called as by its threads, in virtual time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::board::Board;
use super::camera_model::{CameraModel, FrameContent};
use super::clock::Calendar;
use super::scenario::Scenario;
use super::server::{Server, fingerprint};
use super::{SECOND, mono};
use crate::analytics::count::{self, CountingLine};
use crate::analytics::track;
use crate::analytics::{Analytics, Params};
use crate::base::error::{Error, Kind, Result};
use crate::base::stop::Stop;
use crate::capture::frame::{Color, FrameFormat, FrameMeta, FrameView, PixelFormat};
use crate::capture::ring::{Policy, Reader, Taken, Writer, ring};
use crate::capture::sampler::{Sample, Sampler};
use crate::delivery::spool::{
    self, Batching, Class, Condition, DailyWriteBudget, Log, MonitorParams, Quota, Spool, SpoolMonitor,
    SpoolWriter,
};
use crate::delivery::uplink::{Flow, Outbox, Uplink, UplinkParams};
use crate::event::{Body, Event, Name, Origin, Started, Stats, fixed};
use crate::pipeline::presence::{Back, Presence};
use crate::pipeline::worker::{FrameCounts, FrameWorker};
use crate::pipeline::{Failure, Outcome, WithEngine};
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::Mono;
use crate::sim::disk::FaultDisk;
use crate::sim::traffic;
use crate::vision::gate::Reason;

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The power is lost, and with it everything that is not on the disk.
    Power,
    /// Only the program ends; what it wrote to files stays.
    Crash,
    /// A clean shutdown.
    Orderly,
}

/// Queue sizes that are reached now and then.
const QUEUE_EVENTS: usize = 1000;
const BATCHING: Batching = Batching { events_max: 200, age_max: Duration::from_secs(5), interval: None };
/// Processing time of a frame in which nothing moves, or that is corrupt, nanoseconds.
const STILL_NANOS: u64 = 3_000_000;
/// The gate stays open for this long after the last motion, nanoseconds.
const OPEN_NANOS: u64 = 2 * SECOND;
/// Tracks end after this long without a frame, as in the program.
const SILENT: Duration = Duration::from_secs(2);
/// A camera without a usable frame is lost after this long, as in the program.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Since when events of a class cannot be made durable, by class, nanoseconds of the world.
pub(super) type Failing = [Option<u64>; Class::ALL.len()];

/// An event that was posted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Posted {
    /// Its time, nanoseconds of the world.
    pub(super) at: u64,
    pub(super) class: Class,
    /// Whether it can wait for its commit.
    pub(super) can_wait: bool,
    pub(super) print: u32,
}

/// Builds the program's own pipeline for RGB frames of that format.
pub type Network = Arc<dyn Fn(&FrameFormat, Vec<CountingLine>) -> Result<WithEngine>>;

/// The processing of frames.
enum FrameStages {
    /// The tracker and the counter, fed with the ground truth.
    Known(Box<Analytics>),
    /// The complete pipeline, fed with rendered frames.
    Network(Box<WithEngine>, FrameFormat),
}

impl FrameStages {
    fn new(camera_model: &CameraModel, network: Option<&Network>) -> Result<Self> {
        let (width, height) = camera_model.size();
        if let Some(network) = network {
            let format = FrameFormat::packed(PixelFormat::Rgb24, width, height, Color::JPEG)
                .map_err(|error| Error::fatal(Kind::Config, "scenario: size").caused_by(error))?;
            return Ok(FrameStages::Network(Box::new(network(&format, camera_model.lines())?), format));
        }
        let (track, count) = (track::Params::default(), count::Params::default());
        let params = Params { track, count, lines: camera_model.lines() };
        let names = traffic::Kind::ALL.map(traffic::Kind::name);
        Ok(FrameStages::Known(Box::new(Analytics::new(&params, (width, height), &names)?)))
    }

    /// Processes one frame; `open`: something moves, or did a moment ago.
    fn process(
        &mut self,
        at: Mono,
        seen: &FrameContent,
        open: bool,
        on: &mut dyn FnMut(Body),
    ) -> Result<Outcome, Failure> {
        match (self, seen) {
            (FrameStages::Known(analytics), FrameContent::Known { found, moves }) if open => {
                analytics.update(at, found, None, on);
                let gate = Some(if *moves { Reason::Motion } else { Reason::Hold });
                Ok(Outcome { gate, inferred: true, detections: found.len() as u32, ..Outcome::default() })
            }
            (FrameStages::Known(analytics), FrameContent::Known { .. }) => {
                analytics.still(at, on);
                Ok(Outcome { gate: Some(Reason::Still), ..Outcome::default() })
            }
            (FrameStages::Network(stages, format), FrameContent::Picture(rgb)) => {
                let view =
                    FrameView::new(*format, rgb).map_err(|error| Failure::Corrupt(error.to_string()))?;
                stages.process(&view, at, on)
            }
            (
                FrameStages::Known(_) | FrameStages::Network(..),
                FrameContent::Known { .. } | FrameContent::Picture(_) | FrameContent::Corrupt,
            ) => Err(Failure::Corrupt("no picture".into())),
        }
    }

    fn still(&mut self, at: Mono, on: &mut dyn FnMut(Body)) {
        if let FrameStages::Known(analytics) = self {
            analytics.still(at, on);
        }
    }

    fn track_counters(&self) -> track::Counters {
        match self {
            FrameStages::Known(analytics) => analytics.tracker().counters(),
            FrameStages::Network(stages, _) => stages.pipeline.track_counters(),
        }
    }

    fn finish(&mut self, at: Mono, on: &mut dyn FnMut(Body)) {
        match self {
            FrameStages::Known(analytics) => analytics.finish(at, on),
            FrameStages::Network(stages, _) => stages.pipeline.finish(at, on),
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

/// Opens the spool's folder; if that fails, the spool's worker tries again.
fn attach(spool: &Spool, disk: &FaultDisk, time: &Timekeeper) {
    if let Ok(recovered) = spool.attach(Box::new(disk.clone()))
        && let Some(clock) = recovered.clock
    {
        time.learn(clock);
    }
}

/// Record of a run that has ended.
#[derive(Debug)]
pub(super) struct Remains {
    /// The run.
    pub(super) run: String,
    /// Its events by sequence number.
    pub(super) posted: Vec<Posted>,
    /// When it ended.
    pub(super) ended: u64,
    pub(super) failing_since: Failing,
    /// Events dropped for lack of space, dead letters, and damaged events.
    pub(super) dropped: u64,
    pub(super) refused: u64,
    pub(super) damaged: u64,
    pub(super) spooled: u64,
    pub(super) written_bytes: u64,
    pub(super) stats: Stats,
}

/// The environment of a device.
pub(super) struct Surroundings<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) calendar: &'a Calendar,
    pub(super) disk: &'a FaultDisk,
    pub(super) server: &'a Server,
    pub(super) camera_model: &'a CameraModel,
    /// The pipeline for rendered frames.
    pub(super) network: Option<&'a Network>,
}

/// Resources that a device uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Largest number of events and frames that waited in its queues.
    pub(super) waiting_max: usize,
    /// Bytes on disk now.
    pub(super) disk_bytes: u64,
}

/// A frame in the ring; the ring itself holds no pixels.
struct WaitingFrame {
    seq: u64,
    content: FrameContent,
}

/// A frame being processed.
struct Processing {
    /// When processing ends, nanoseconds of the world.
    done_at: u64,
    meta: FrameMeta,
    content: FrameContent,
}

/// A running program.
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
    ring_in: Writer,
    ring_out: Reader,
    /// Number of the next frame if the camera drops none.
    next_seq: u64,
    /// Frames in the ring, oldest first.
    waiting: VecDeque<WaitingFrame>,
    /// The frame that is being processed.
    work: Option<Processing>,
    latency: u64,
    stages: FrameStages,
    moved_at: Option<u64>,
    frames: FrameWorker,
    /// When the last usable frame was processed.
    usable_at: Option<Mono>,
    presence: Presence,
    camera_is_open: bool,
    camera_size: (u32, u32),
    uplink_at: u64,
    /// A request is in progress until this time.
    sending_until: u64,
    signals: u64,
    writer: SpoolWriter,
    monitor: SpoolMonitor,
    written: DailyWriteBudget,
    failing_since: Failing,
    closed: bool,
    ended: bool,
    posted: Vec<Posted>,
    /// Largest number of waiting entries in the outbox and the ring.
    waiting_max: usize,
    stats: Stats,
    skipped_part: f64,
    fps_share: f64,
}

impl Device {
    /// The program starts: opens the spool of its last run, and posts its first event.
    pub(super) fn boot(surroundings: &Surroundings<'_>, now: u64, seed: u64) -> Result<Self> {
        let Surroundings { scenario, calendar, disk, server, camera_model, network } = *surroundings;
        let booted = calendar.booted();
        // One identity per boot: a crash keeps it.
        let boot_id = format!("{:016x}", crate::sim::random::mix(booted + 1));
        let origin = Origin::new("sim", &boot_id, mono(now, booted));
        server.begins(origin.boot.as_str(), booted);
        let time = Arc::new(Timekeeper::new(calendar.clock()));
        let outbox = Arc::new(Outbox::new(QUEUE_EVENTS)?);
        let spool = Arc::new(new_spool(scenario, seed, origin.clone()));
        let delivery = UplinkParams { seed, drain: Duration::from_secs(3600), ..UplinkParams::default() };
        let uplink = Uplink::new(
            Arc::clone(&outbox),
            Arc::clone(&spool),
            server.sink(),
            Arc::clone(&time),
            Stop::new(),
            delivery,
        );
        let stages = FrameStages::new(camera_model, network)?;
        let (ring_in, ring_out) = ring(Policy::NewestWins, 3, 0);
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
            ring_in,
            ring_out,
            next_seq: 0,
            waiting: VecDeque::new(),
            work: None,
            latency: (scenario.detector.latency_ms * 1e6) as u64,
            stages,
            moved_at: None,
            frames: FrameWorker::new(Some(SILENT)),
            usable_at: None,
            presence: Presence::new(mono(now, booted)),
            camera_is_open: false,
            camera_size: camera_model.size(),
            uplink_at: now,
            sending_until: now,
            signals: u64::MAX,
            writer: SpoolWriter::new(mono(now, booted)),
            monitor: SpoolMonitor::new(MonitorParams { wants_disk: true, write_budget: None }),
            written: DailyWriteBudget::default(),
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
        let model = fixed(if network.is_some() { "network" } else { "truth" });
        device.post(now, Body::Started(Started { version: fixed("sim"), model }));
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
        // The outbox counts what it drops.
        let _posted = self.outbox.post(at, &self.camera, event.body);
        self.note_waiting();
    }

    /// When it next has something to do.
    pub(super) fn next(&self) -> u64 {
        let done = self.work.as_ref().map_or(u64::MAX, |work| work.done_at);
        let keep = self.booted + self.writer.due(&self.spool).as_nanos();
        let wakes = if self.outbox.signals() == self.signals { self.uplink_at } else { 0 };
        let uplink = if self.ended { u64::MAX } else { wakes.max(self.sending_until) };
        done.min(keep).min(uplink)
    }

    /// No frame is waiting or being processed, and no track moves.
    pub(super) fn is_idle(&self) -> bool {
        self.work.is_none() && self.waiting.is_empty() && self.moved_at.is_none() && !self.presence.is_lost()
    }

    /// A frame arrives from the camera.
    pub(super) fn frame(
        &mut self,
        now: u64,
        seq: u64,
        corrupt: bool,
        camera_model: &mut CameraModel,
    ) -> Result<()> {
        self.stats.frames_captured += 1;
        // Frames that the camera itself lost are counted in the sequence numbers.
        self.stats.frames_camera_dropped += seq.saturating_sub(self.next_seq);
        self.next_seq = seq + 1;
        let at = self.mono(now);
        self.camera_delivers(now);
        if self.sampler.decide(at) == Sample::Skip {
            self.stats.frames_skipped += 1;
            return Ok(());
        }
        let seen = if corrupt { FrameContent::Corrupt } else { camera_model.frame(now) };
        let filled = self.ring_in.fill(|slot| {
            slot.meta = FrameMeta { seq, captured_at: at, bytes_used: 0 };
            Ok::<(), Error>(())
        });
        if !matches!(filled, crate::capture::ring::Fill::Committed(())) {
            return Err(Error::fatal(Kind::System, "simulation: the ring did not take a frame"));
        }
        // The ring has replaced its oldest frame, if it was full.
        for _replaced in self.stats.frames_ring_dropped..self.ring_in.dropped() {
            self.waiting.pop_front();
        }
        self.waiting.push_back(WaitingFrame { seq, content: seen });
        self.stats.frames_ring_dropped = self.ring_in.dropped();
        self.note_waiting();
        Ok(())
    }

    /// Frames without motion, the last of them at `now`; the camera lost `dropped` others among them.
    pub(super) fn saw_nothing(&mut self, frames: u64, dropped: u64, now: u64) {
        self.stats.frames_captured += frames;
        self.stats.frames_camera_dropped += dropped;
        self.next_seq += frames + dropped;
        self.skipped_part += frames as f64 * self.fps_share;
        let taken = self.skipped_part.floor();
        self.skipped_part -= taken;
        let taken = taken as u64;
        self.stats.frames_gated += taken;
        self.stats.frames_still += taken;
        self.stats.frames_skipped += frames - taken;
        self.camera_delivers(now);
        let (at, stages) = (self.mono(now), &mut self.stages);
        self.usable_at = Some(at);
        let mut happened = Vec::new();
        // Already counted above.
        let _counted = self.frames.frame(
            at,
            |on| {
                stages.still(at, on);
                Ok(Outcome::default())
            },
            &mut |at, body| happened.push((at, body)),
        );
        self.post_all(now, happened);
    }

    /// A frame arrives, possibly the first since the camera was opened.
    fn camera_delivers(&mut self, now: u64) {
        let at = self.mono(now);
        if !std::mem::replace(&mut self.camera_is_open, true) {
            self.presence.opened(at, at, self.stats.frames_corrupt);
        }
        let back = self.presence.frame(at);
        self.post_back(now, back);
    }

    /// The capture thread's reaction to frames that were processed, or were corrupt.
    fn check_liveness(&mut self, now: u64) {
        let (at, corrupt) = (self.mono(now), self.stats.frames_corrupt);
        let back = self.presence.note(self.usable_at, corrupt);
        self.post_back(now, back);
        if self.presence.overdue(at, corrupt, IDLE_TIMEOUT).is_some() {
            self.camera_lost(now, "no usable frame");
        }
    }

    fn post_back(&mut self, now: u64, back: Option<Back>) {
        if let Some(back) = back {
            let (width, height) = self.camera_size;
            self.post_at(now, back.at, back.event(width, height));
        }
    }

    /// Posts the events of the stages.
    fn post_all(&mut self, now: u64, happened: Vec<(Mono, Body)>) {
        for (at, body) in happened {
            self.stats.crossings += u64::from(matches!(body, Body::Crossing(_)));
            self.stats.tracks += u64::from(matches!(body, Body::TrackBegin(_)));
            self.post_at(now, at, body);
        }
    }

    /// The camera is lost; the next frame comes from a camera that was opened again.
    pub(super) fn camera_lost(&mut self, now: u64, reason: &str) {
        self.camera_is_open = false;
        if self.presence.lost(self.mono(now)) {
            self.stats.camera_losses += 1;
            self.post(now, Body::CameraLost { reason: fixed(reason) });
        }
    }

    /// Posts the counters, as every minute.
    pub(super) fn minute(&mut self, now: u64) {
        if self.closed {
            return;
        }
        let stats = self.stats(now);
        self.post(now, Body::Stats(stats));
        let state = self.spool.state();
        let written = self.written.note(self.mono(now), state.tally.flash_bytes);
        self.post(now, Body::Storage(state.storage(written)));
    }

    pub(super) fn stats(&self, now: u64) -> Stats {
        let (counters, tracks) = (self.outbox.counters(), self.stages.track_counters());
        Stats {
            detections_invalid: tracks.refused,
            detections_over_limit: tracks.over,
            detections_duplicate: tracks.duplicates,
            uptime_ms: (now - self.started) / 1_000_000,
            events_dropped: counters.dropped() + self.spool.state().tally.dropped_unsent(),
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

    pub(super) fn sizes(&self) -> Sizes {
        Sizes { waiting_max: self.waiting_max, disk_bytes: self.spool.state().disk_bytes }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Clean shutdown: tracks end, the final report is posted.
    pub(super) fn close(&mut self, now: u64) {
        self.end_tracks(now);
        let stats = self.stats(now);
        self.post(now, Body::Stats(stats));
        self.post(now, Body::Stopping { reason: fixed("the simulation ended") });
        self.outbox.close(self.mono(now));
        self.closed = true;
        self.uplink_at = now;
    }

    /// Executes what is due: frames, commits, requests.
    pub(super) fn work(&mut self, now: u64, board: &mut Board) -> Result<()> {
        if let Some(work) = self.work.take_if(|work| work.done_at <= now) {
            self.process(now, &work.meta, &work.content)?;
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
        let Taken::Frame(slot) = self.ring_out.take(Duration::ZERO) else { return };
        let meta = slot.meta;
        drop(slot);
        // Frames that were replaced in the ring by newer ones are removed here too.
        while self.waiting.front().is_some_and(|frame| frame.seq < meta.seq) {
            self.waiting.pop_front();
        }
        let Some(WaitingFrame { content, .. }) = self.waiting.pop_front() else { return };
        let takes = match &content {
            FrameContent::Known { moves, .. } => {
                let open = *moves || self.moved_at.is_some_and(|moved| now < moved + OPEN_NANOS);
                if open { board.infer(self.latency) } else { STILL_NANOS }
            }
            FrameContent::Picture(_) => board.infer(self.latency),
            FrameContent::Corrupt => STILL_NANOS,
        };
        self.work = Some(Processing { done_at: now + takes, meta, content });
    }

    fn process(&mut self, now: u64, meta: &FrameMeta, seen: &FrameContent) -> Result<()> {
        let at = meta.captured_at;
        let taken = self.booted + at.as_nanos();
        if let FrameContent::Known { moves: true, .. } = seen {
            self.moved_at = Some(taken);
        }
        let open = self.moved_at.is_some_and(|moved| taken < moved + OPEN_NANOS);
        let mut happened = Vec::new();
        let stages = &mut self.stages;
        let processed = self.frames.frame(at, |on| stages.process(at, seen, open, on), &mut |at, body| {
            happened.push((at, body));
        })?;
        let FrameCounts { frames_gated, frames_still, frames_corrupt, inferences, detections, .. } =
            processed.counts;
        self.stats.frames_gated += frames_gated;
        self.stats.frames_still += frames_still;
        self.stats.frames_corrupt += frames_corrupt;
        self.stats.inferences += inferences;
        self.stats.detections += detections;
        if let Ok(outcome) = processed.outcome {
            self.usable_at = Some(at);
            if !outcome.inferred {
                self.moved_at = None;
            }
        }
        self.post_all(now, happened);
        self.check_liveness(now);
        Ok(())
    }

    /// Tracks end without a camera. (No deadline of its own in [`Device::next`]: the world steps from frame to frame, also while the camera
    /// is away.)
    fn silence(&mut self, now: u64) {
        if self.work.is_some() {
            return;
        }
        let mut happened = Vec::new();
        let (at, stages) = (self.mono(now), &mut self.stages);
        let ended = self.frames.poll(at, |at, on| stages.finish(at, on), &mut |at, body| {
            happened.push((at, body));
        });
        if ended {
            self.moved_at = None;
        }
        self.post_all(now, happened);
    }

    fn end_tracks(&mut self, now: u64) {
        let mut happened = Vec::new();
        let stages = &mut self.stages;
        self.frames.end(|at, on| stages.finish(at, on), &mut |at, body| happened.push((at, body)));
        self.moved_at = None;
        self.post_all(now, happened);
    }

    /// The work of the spool's thread.
    fn keep(&mut self, now: u64) {
        let at = self.mono(now);
        let source = |out: &mut Vec<Event>| self.outbox.take(out);
        let again = || attach(&self.spool, &self.disk, &self.time);
        self.writer.turn(at, self.closed, &self.spool, &self.time, source, again);
        let state = self.spool.state();
        for class in Class::ALL {
            let since = &mut self.failing_since[class as usize];
            *since = if state.fails[class as usize] { since.or(Some(now)) } else { None };
        }
        // Without power nothing can be reported.
        if self.closed || self.disk.is_off() || self.monitor.is_silent(at) {
            return;
        }
        let uplink = self.outbox.trouble();
        let condition = Condition {
            state: &state,
            written_day_bytes: self.written.note(at, state.tally.flash_bytes),
            uplink_trouble: uplink.as_deref(),
        };
        let mut reported = Vec::new();
        self.monitor.report(at, &condition, &mut |body| reported.push(body));
        reported.into_iter().for_each(|body| self.post(now, body));
    }

    /// The work of the uplink's thread.
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
                    // The next step follows when the response has arrived.
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

    /// The record of the run.
    pub(super) fn end(self, now: u64) -> Remains {
        let tally = self.spool.state().tally;
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
