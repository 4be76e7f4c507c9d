//! The pipeline thread: takes the frames of all cameras from their rings through the gates, gives them their turn at the network, posts their
//! events to the outbox, and counts their outcomes.
//!
//! ```text
//!   ring of each camera ─► gate ─┬─ nothing moves: done
//!                                └─ waits, until a newer frame of this camera replaces it ─► scheduler ─► network ─► … ─► outbox
//!   capture threads ─► requests: join, absent, ended
//! ```
//! A camera joins when its first format is known. At the start the thread waits for all cameras, for [`START_MAX`] at most, so that the
//! network is planned once, for all of their shapes. A camera with another shape that comes later has the network planned again beside the
//! one that runs, so that the others miss nothing ([`network`]).

mod network;
mod stages;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use smol::channel::Sender;

use super::Shared;
use super::memory::Plan;
use crate::base::error::{Class, Error, Kind, Result};
use crate::capture::Lending;
use crate::capture::frame::FrameFormat;
use crate::capture::ring::{Bell, Writer};
use crate::config::Config;
use crate::delivery::uplink::Outbox;
use crate::event::Event;
use crate::pipeline::load::LoadControl;
use crate::pipeline::scheduler::Scheduler;
use crate::platform::system;
use crate::platform::watchdog::Stage;
use crate::vision::detect::letterbox::Size;
use crate::vision::detect::model::Loaded;
use network::Network;
use stages::{CameraStages, Turn};

/// How often a pipeline without frames checks whether its tracks have ended.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the start waits for cameras that have not said whether they are there.
const START_MAX: Duration = Duration::from_secs(5);
/// Longest time for building the stages before it counts as hung: a large model on a slow board.
pub(super) const BUILD_MAX: Duration = Duration::from_secs(180);

/// Memory requirements of a camera's frames, as announced by its source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming {
    /// The first format, the largest that will come.
    pub(super) format: FrameFormat,
    /// Bytes of a ring slot.
    pub(super) slot_bytes: usize,
    /// Number of the source's own buffers in which frames are processed.
    pub(super) lending: Option<Lending>,
}

impl Incoming {
    fn size(&self) -> Size {
        Size { width: self.format.width as usize, height: self.format.height as usize }
    }
}

/// What a capture thread asks of the pipeline thread, or tells it.
enum Request {
    /// Frames will come: build the stages.
    Join(Join),
    /// The camera is not there yet, and why.
    Absent { camera: usize, error: Error },
    /// The camera has other settings.
    Changed { camera: usize },
    /// The camera's thread is about to end.
    Ended { camera: usize, outcome: Result<()> },
}

/// A camera whose stages are to be built.
struct Join {
    camera: usize,
    incoming: Incoming,
    reply: mpsc::Sender<Result<Downstream>>,
}

/// What a capture thread has of its stages.
pub(super) struct Downstream {
    /// Where it puts frames.
    pub(super) ring: Writer,
    /// Closed when the stages have ended.
    ended: mpsc::Receiver<()>,
}

impl Downstream {
    /// Closes the ring, and waits until everything in it is processed.
    pub(super) fn close(self) {
        let Downstream { ring, ended } = self;
        drop(ring);
        // Nothing is ever sent; the other end is dropped.
        let _ended = ended.recv();
    }
}

/// A capture thread's way to the pipeline thread.
#[derive(Clone)]
pub(super) struct Requests {
    sender: mpsc::Sender<Request>,
    bell: Arc<Bell>,
}

impl Requests {
    /// Has the stages of a camera built; waits for them.
    ///
    /// # Errors
    /// They cannot be built for these frames, or the pipeline has ended.
    pub(super) fn join(&self, camera: usize, incoming: Incoming) -> Result<Downstream> {
        let (reply, built) = mpsc::channel();
        self.send(Request::Join(Join { camera, incoming, reply }));
        built.recv().unwrap_or_else(|_| Err(Error::fatal(Kind::System, "the pipeline has ended")))
    }

    /// A camera that never delivered is not there, because of `error`.
    pub(super) fn absent(&self, camera: usize, error: Error) {
        self.send(Request::Absent { camera, error });
    }

    /// A camera has other settings.
    pub(super) fn changed(&self, camera: usize) {
        self.send(Request::Changed { camera });
    }

    /// A camera's thread ends.
    pub(super) fn ended(&self, camera: usize, outcome: Result<()>) {
        self.send(Request::Ended { camera, outcome });
    }

    fn send(&self, request: Request) {
        // Without a receiver the pipeline has ended, and nobody needs to know.
        let _sent = self.sender.send(request);
        self.bell.ring();
    }
}

/// What is known of a camera.
#[derive(Default)]
struct Known {
    /// Its stages, while it delivers.
    stages: Option<CameraStages>,
    /// It has joined once.
    was_there: bool,
    /// Why it is not there, if it never was.
    absent: Option<Error>,
    /// The outcome of its thread, which has ended.
    outcome: Option<Result<()>>,
}

/// The thread's state.
pub(super) struct Inference {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    bell: Arc<Bell>,
    /// Where to report readiness, until that is done.
    up: Option<Sender<()>>,
    network: Network,
    /// In the order of the configuration.
    cameras: Vec<Known>,
    /// Cameras that wait for the start, or for the network.
    joining: Vec<Join>,
    scheduler: Scheduler,
    load: LoadControl,
    first_detection: bool,
}

impl Inference {
    /// The thread's state, and the way for capture threads to reach it.
    ///
    /// Reports once on `up` that the program is ready: the network has passed its self-test (on a frame of another size if there is no
    /// camera yet). A missing camera does not prevent readiness.
    pub(super) fn new(shared: Arc<Shared>, model: Loaded, up: Sender<()>) -> (Self, Requests) {
        let (sender, requests) = mpsc::channel();
        let bell = Arc::new(Bell::default());
        let now = shared.clock.mono();
        let limit = load_max(&shared);
        let inference = Inference {
            requests,
            bell: Arc::clone(&bell),
            up: Some(up),
            network: Network::new(Arc::clone(&shared), model),
            cameras: shared.cameras.iter().map(|_| Known::default()).collect(),
            joining: Vec::new(),
            scheduler: Scheduler::default(),
            load: LoadControl::new(limit, now),
            first_detection: true,
            shared,
        };
        (inference, Requests { sender, bell })
    }

    /// Processes until all captures have ended and everything they delivered is processed.
    ///
    /// # Errors
    /// The network fails, no camera can be used, or (recordings) one failed.
    pub(super) fn run(mut self) -> Result<()> {
        let outcome = self.process();
        for (index, known) in self.cameras.iter_mut().enumerate() {
            if let Some(stages) = known.stages.take() {
                stages.end(&self.shared, index);
            }
        }
        self.shared.ledger.ended(Stage::Pipeline);
        if outcome.is_err() {
            self.shared.stop.request();
        }
        outcome
    }

    fn process(&mut self) -> Result<()> {
        loop {
            let seen = self.bell.count();
            self.shared.heartbeat(Stage::Pipeline, PATIENCE);
            while let Ok(request) = self.requests.try_recv() {
                self.hear(request)?;
            }
            self.build()?;
            if self.cameras.iter().all(|camera| camera.outcome.is_some() && camera.stages.is_none()) {
                return self.all_ended();
            }
            if !self.turn()? {
                self.bell.wait(seen, PATIENCE);
            }
            self.load.set_limit(load_max(&self.shared));
            if let Some(factor) = self.load.poll(self.shared.clock.mono()) {
                self.set_rates(factor);
            }
            self.shared.load.set(self.load.load(), self.load.factor());
        }
    }

    fn hear(&mut self, request: Request) -> Result<()> {
        match request {
            Request::Join(join) => self.joining.push(join),
            Request::Absent { camera, error } => {
                self.cameras[camera].absent = Some(error);
                self.none_can_work()?;
            }
            Request::Changed { camera } => {
                let fps = self.rate(camera);
                self.shared.cameras[camera].set_rate(fps);
                self.scheduler.set_rate(camera, fps);
                if let Some(stages) = &mut self.cameras[camera].stages {
                    let params = self.network.stage_params(camera);
                    if let Err(error) = params.and_then(|params| stages.set(&self.shared, camera, params)) {
                        tracing::error!("{}: {error}", self.shared.camera_label(camera));
                    }
                }
            }
            Request::Ended { camera, outcome } => self.cameras[camera].outcome = Some(outcome),
        }
        Ok(())
    }

    /// If no camera ever worked, and none can, that ends the program: the settings are wrong, and a person is there to read it.
    fn none_can_work(&mut self) -> Result<()> {
        let hopeless = |camera: &Known| {
            !camera.was_there && camera.absent.as_ref().is_some_and(|error| error.class() == Class::Fatal)
        };
        if !self.cameras.iter().all(hopeless) {
            return Ok(());
        }
        self.cameras.iter_mut().find_map(|camera| camera.absent.take()).map_or(Ok(()), Err)
    }

    /// The outcome when all captures have ended: the first failure, if all failed or the source is a recording.
    fn all_ended(&mut self) -> Result<()> {
        let mut outcomes: Vec<Result<()>> =
            self.cameras.iter_mut().filter_map(|camera| camera.outcome.take()).collect();
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        if failed == outcomes.len() || self.shared.options.until_end {
            return outcomes.drain(..).collect();
        }
        Ok(())
    }

    /// Builds the stages of cameras that have joined, as soon as the network is there for them.
    fn build(&mut self) -> Result<()> {
        if self.up.is_some() {
            let heard = |camera: &Known| camera.absent.is_some() || camera.outcome.is_some();
            let joins = |index: usize| self.joining.iter().any(|join| join.camera == index);
            let all = self.cameras.iter().enumerate().all(|(index, camera)| heard(camera) || joins(index));
            let waited = self.shared.clock.mono().since(self.shared.started) >= START_MAX;
            if !all && (!waited || self.shared.stop.requested()) {
                return Ok(());
            }
        }
        if self.joining.is_empty() {
            if self.up.is_some() && !self.shared.stop.requested() {
                self.shared.heartbeat(Stage::Pipeline, BUILD_MAX);
                self.network.prove()?;
                self.is_up();
            }
            return Ok(());
        }
        let needed: Vec<Incoming> = self.joining.iter().map(|join| join.incoming).collect();
        let cameras: Vec<usize> = self.joining.iter().map(|join| join.camera).collect();
        if !self.network.provide(&cameras, &needed, &self.bell)? {
            return Ok(());
        }
        let now = self.shared.clock.mono();
        for Join { camera, incoming, reply } in std::mem::take(&mut self.joining) {
            let built = self.network.stages(camera, &incoming, &self.bell);
            let built = built.map(|(ring, stages, ended)| {
                let known = &mut self.cameras[camera];
                (known.stages, known.was_there, known.absent) = (Some(stages), true, None);
                let fps = self.shared.cameras[camera].settings().fps * self.load.factor() as f32;
                self.scheduler.join(camera, fps, now);
                Downstream { ring, ended }
            });
            // A capture thread that is gone does not need them; its ring is closed, which ends them.
            let _sent = reply.send(built);
        }
        self.network.settle()?;
        self.is_up();
        Ok(())
    }

    fn is_up(&mut self) {
        if let Some(up) = self.up.take() {
            // The main thread listens as long as this matters.
            let _sent = up.try_send(());
        }
    }

    /// Passes the newest frame of each camera through its gate, and gives one of those that wait its turn at the network. Returns whether
    /// there was anything to do.
    fn turn(&mut self) -> Result<bool> {
        let mut worked = false;
        for (index, known) in self.cameras.iter_mut().enumerate() {
            let Some(stages) = &mut known.stages else { continue };
            let begun = self.shared.clock.mono();
            match stages.look(&self.shared, index)? {
                Turn::Nothing => continue,
                Turn::Done => self.scheduler.looked(index, self.shared.clock.mono()),
                Turn::Waits { moves } => self.scheduler.waits(index, moves),
                Turn::Ended => {
                    self.scheduler.leave(index);
                    if let Some(stages) = known.stages.take() {
                        stages.end(&self.shared, index);
                    }
                }
            }
            worked = true;
            self.load.worked(self.shared.clock.mono().since(begun));
        }
        let begun = self.shared.clock.mono();
        let Some(index) = self.scheduler.next(begun) else { return Ok(worked) };
        if let (Some(stages), Some(engine)) = (&mut self.cameras[index].stages, self.network.engine()) {
            let found = stages.infer(&self.shared, index, engine)?;
            if found && std::mem::take(&mut self.first_detection) {
                let millis = self.shared.clock.mono().since(self.shared.started).as_millis() as u64;
                tracing::info!(millis, "the first road user was detected");
            }
        }
        let now = self.shared.clock.mono();
        self.scheduler.looked(index, now);
        self.load.worked(now.since(begun));
        Ok(true)
    }

    /// The target rate of a camera at the current load.
    fn rate(&self, camera: usize) -> f32 {
        self.shared.cameras[camera].settings().fps * self.load.factor() as f32
    }

    /// Lowers or raises the rates of all cameras evenly.
    fn set_rates(&mut self, factor: f64) {
        for (index, camera) in self.shared.cameras.iter().enumerate() {
            let fps = self.rate(index);
            camera.set_rate(fps);
            self.scheduler.set_rate(index, fps);
        }
        let load = self.load.load();
        tracing::debug!(factor, load, "the frame rates follow the load");
    }
}

/// Checks the budget with what is known before the first thread starts: the program, the model file, and everything that does not depend on
/// the cameras. The network is at least as large as its file.
pub(super) fn check_budget(config: &Config, model: &Loaded) -> Result<()> {
    let mut plan = Plan::default();
    let resident = system::resident_bytes() as usize;
    plan.add("program (measured)", resident.saturating_sub(model.file_bytes()));
    plan.add("network (at least)", model.file_bytes());
    plan.append(&fixed_plan(config));
    plan.check(config.memory.budget)
}

/// The highest load: recordings are processed as fast as possible.
fn load_max(shared: &Shared) -> f64 {
    if shared.options.until_end { 1.0 } else { shared.live().load_max }
}

/// What does not depend on the cameras or the model.
fn fixed_plan(config: &Config) -> Plan {
    let mut plan = Plan::default();
    plan.add("event queue", queue_bytes(config));
    plan.add("spool", config.spool.params.memory_bytes);
    plan.add("status pages", super::pages::memory_bytes(config));
    plan
}

/// What is allocated and touched before the first measurement, and planned by itself.
fn touched_bytes(config: &Config) -> usize {
    queue_bytes(config) + super::pages::memory_bytes(config)
}

fn queue_bytes(config: &Config) -> usize {
    Outbox::bytes(config.uplink.queue_events) + config.uplink.batching.events_max * size_of::<Event>()
}
