//! The network that all cameras share, and the memory plan of the pipeline thread.
//!
//! It is planned for the input sizes of all cameras that have joined, with one copy of the weights. When a camera needs a further size, the
//! network is planned and tested again on a thread of its own while the old one runs, and replaced between two frames; if the memory is not
//! enough for both, the old one is freed first.

use std::sync::{Arc, mpsc};

use super::{BUILD_MAX, CameraStages, Incoming, fixed_plan, touched_bytes};
use crate::base::error::{Error, Kind, Result};
use crate::base::limits::{FRAME_SHAPES_MAX, RING_SLOTS_MIN};
use crate::capture::Lending;
use crate::capture::frame::PixelFormat;
use crate::capture::ring::{Bell, Policy, Writer, ring_with_bell, slots_for};
use crate::pipeline::{self, Pipeline};
use crate::platform::system;
use crate::platform::threads::spawn;
use crate::platform::watchdog::Stage;
use crate::run::Shared;
use crate::run::memory::{Mebibytes, Plan};
use crate::vision::detect::engine::{Engine, Shape};
use crate::vision::detect::letterbox::Size;
use crate::vision::detect::model::{Classes, Loaded, Sizing, wanted_classes};
use crate::vision::load;

/// Frame size used to test the network before there is a camera.
const USUAL: Size = Size { width: 640, height: 480 };

/// The network and the memory of everything around it.
pub(super) struct Network {
    shared: Arc<Shared>,
    /// Read and parsed; until the first engine is built from it.
    model: Option<Loaded>,
    sizing: Sizing,
    classes: Classes,
    /// The input sizes of each camera that has joined, the whole frame's first.
    input_sizes: Vec<Vec<Size>>,
    engine: Option<Box<dyn Engine>>,
    /// A network with more input sizes, while it is built.
    replacement: Option<mpsc::Receiver<Result<Replacement>>>,
    /// Memory of the program and the network: planned, and measured once the network has run.
    program: Plan,
    /// Memory of each camera's stages and frames.
    cameras: Vec<Plan>,
    /// Peak memory of the program while the network ran at each of its first sizes, until it is logged.
    measured: Option<usize>,
}

/// A network with more input sizes.
enum Replacement {
    Ready(Box<dyn Engine>),
    /// There is no memory for two.
    NoRoom,
}

/// Number and size of a ring's slots, and the total bytes for frames.
struct RingSize {
    slots: usize,
    slot_bytes: usize,
    bytes: usize,
}

impl Network {
    pub(super) fn new(shared: Arc<Shared>, model: Loaded) -> Self {
        let cameras = shared.cameras.len();
        Network {
            sizing: model.sizing(),
            classes: model.classes().clone(),
            model: Some(model),
            input_sizes: vec![Vec::new(); cameras],
            engine: None,
            replacement: None,
            program: Plan::default(),
            cameras: vec![Plan::default(); cameras],
            measured: None,
            shared,
        }
    }

    /// The engine, once there is one.
    pub(super) fn engine(&mut self) -> Option<&mut (dyn Engine + 'static)> {
        self.engine.as_deref_mut()
    }

    /// Runs the self-test although there is no camera to build the stages for: the program must not report ready before the network is
    /// known to work. It runs on a thread of its own so that its memory is returned.
    pub(super) fn prove(&self) -> Result<()> {
        let Some(model) = self.model.clone() else { return Ok(()) };
        let cores = self.shared.config.model.cores.clone();
        let test = move || {
            load::engine(model, USUAL, &load::Params { cores, regions: false })?;
            system::give_back_memory();
            Ok(())
        };
        spawn("self-test", test)?.join().unwrap_or_else(|_| {
            Err(Error::fatal(Kind::System, "the self-test failed; see the message above"))
        })
    }

    /// Makes sure that the network has the input sizes for these cameras and their frames. False: it is being built; the bell rings when
    /// it is done.
    ///
    /// # Errors
    /// The network cannot run, or there is no memory for it.
    pub(super) fn provide(
        &mut self,
        cameras: &[usize],
        incoming: &[Incoming],
        bell: &Arc<Bell>,
    ) -> Result<bool> {
        if let Some(replacement) = &self.replacement {
            let built = match replacement.try_recv() {
                Ok(built) => built,
                Err(mpsc::TryRecvError::Empty) => return Ok(false),
                Err(mpsc::TryRecvError::Disconnected) => {
                    Err(Error::fatal(Kind::System, "the network's thread failed; see the message above"))
                }
            };
            self.replacement = None;
            match built? {
                Replacement::Ready(engine) => self.replace(engine),
                Replacement::NoRoom => {
                    tracing::info!(
                        "the network stops while it is built again: the memory is not enough for two"
                    );
                    self.engine = None;
                    let sizes = self.union();
                    self.build(&sizes)?;
                }
            }
        }
        for (camera, incoming) in cameras.iter().zip(incoming) {
            self.input_sizes[*camera] = self.sizes_for(*camera, incoming.size())?;
        }
        let sizes = self.union();
        match &self.engine {
            None => {
                self.shared.heartbeat(Stage::Pipeline, BUILD_MAX);
                self.build(&sizes)?;
                Ok(true)
            }
            Some(engine) if has_all(&**engine, &sizes) => Ok(true),
            Some(_) => {
                self.replacement = Some(self.build_beside(sizes, bell)?);
                Ok(false)
            }
        }
    }

    /// The input sizes for frames of that size. A model with one size has that one; beyond [`FRAME_SHAPES_MAX`] shapes a camera gets the
    /// sizes of the most similar one.
    fn sizes_for(&self, camera: usize, frame: Size) -> Result<Vec<Size>> {
        let regions = self.shared.cameras[camera].settings().uses_regions();
        let own = load::input_sizes(&self.sizing, frame, regions)?;
        let mut shapes: Vec<&Vec<Size>> = Vec::new();
        for (index, sizes) in self.input_sizes.iter().enumerate() {
            if index != camera && !sizes.is_empty() && !shapes.iter().any(|shape| shape[0] == sizes[0]) {
                shapes.push(sizes);
            }
        }
        if shapes.len() < FRAME_SHAPES_MAX || shapes.iter().any(|shape| shape[0] == own[0]) {
            return Ok(own);
        }
        // Where the frame is scaled least, the most of it is left.
        let scale = |shape: &&Vec<Size>| {
            let side = |input: usize, frame: usize| input as f64 / frame as f64;
            side(shape[0].width, frame.width).min(side(shape[0].height, frame.height))
        };
        let nearest = shapes.into_iter().max_by(|a, b| scale(a).total_cmp(&scale(b)));
        let nearest = nearest.cloned().unwrap_or(own);
        tracing::info!(
            "{}: the network has {FRAME_SHAPES_MAX} input shapes already; its frames of {frame} are fitted into {}",
            self.shared.camera_label(camera),
            nearest[0]
        );
        Ok(nearest)
    }

    /// The input sizes of all cameras, the largest first.
    fn union(&self) -> Vec<Size> {
        let mut sizes: Vec<Size> = Vec::new();
        for size in self.input_sizes.iter().flatten() {
            if !sizes.contains(size) {
                sizes.push(*size);
            }
        }
        sizes.sort_by_key(|size| std::cmp::Reverse(size.width * size.height));
        sizes
    }

    /// Plans and starts the network on this thread.
    fn build(&mut self, sizes: &[Size]) -> Result<()> {
        let config = &self.shared.config;
        let model = match self.model.take() {
            Some(model) => model,
            None => Loaded::open(&config.model()?)?,
        };
        // Measured: resident memory now, without the parsed file, which is freed, and what is planned by itself.
        let resident = system::resident_bytes() as usize;
        let resident = resident.saturating_sub(model.file_bytes() + touched_bytes(config));
        let prepared = load::plan(model, sizes, &config.model.cores)?;
        self.program = Plan::default();
        self.program.add("program (measured)", resident);
        self.program.add("network", prepared.costs().map_or(0, |costs| costs.total_bytes()));
        self.planned().check(config.memory.budget)?;
        let (engine, _) = prepared.start()?;
        tracing::info!(engine = engine.describe(), sizes = sizes.len(), "the network runs");
        self.engine = Some(engine);
        self.measured = Some(system::peak_resident_bytes() as usize);
        Ok(())
    }

    /// Plans and starts a network on a thread of its own.
    fn build_beside(
        &self,
        sizes: Vec<Size>,
        bell: &Arc<Bell>,
    ) -> Result<mpsc::Receiver<Result<Replacement>>> {
        let (params, cores) = (self.shared.config.model()?, self.shared.config.model.cores.clone());
        let (taken, budget) = (self.planned().sum(), self.shared.config.memory.budget);
        let (sender, receiver) = mpsc::channel();
        let build = move || {
            let prepared = load::plan(Loaded::open(&params)?, &sizes, &cores)?;
            // Without figures (tract) nobody knows whether there is room.
            let fits = prepared.costs().is_some_and(|costs| taken + costs.total_bytes() <= budget);
            if !fits {
                return Ok(Replacement::NoRoom);
            }
            Ok(Replacement::Ready(prepared.start()?.0))
        };
        let bell = Arc::clone(bell);
        spawn("network", move || {
            let _whoever_waited_has_ended = sender.send(build());
            bell.ring();
        })?;
        tracing::info!(
            "a camera brings frames of another shape: the network is built again beside the one that runs"
        );
        Ok(receiver)
    }

    fn replace(&mut self, engine: Box<dyn Engine>) {
        let bytes = |engine: &dyn Engine| engine.costs().map_or(0, |costs| costs.total_bytes());
        let before = self.engine.as_deref().map_or(0, bytes);
        self.program.add("input sizes that came later", bytes(&*engine).saturating_sub(before));
        tracing::info!(engine = engine.describe(), "the network runs with more input sizes");
        self.engine = Some(engine);
        system::give_back_memory();
    }

    /// Builds the stages of a camera, whose input sizes the network has. Allocates all memory, or refuses to.
    pub(super) fn stages(
        &mut self,
        camera: usize,
        incoming: &Incoming,
        bell: &Arc<Bell>,
    ) -> Result<(Writer, CameraStages, mpsc::Receiver<()>)> {
        let shared = Arc::clone(&self.shared);
        let config = &shared.config;
        let Some(engine) = self.engine.as_deref() else {
            return Err(Error::fatal(Kind::System, "there is no network (a bug)"));
        };
        let sizes = match engine.input_sizes() {
            [] => vec![engine.size()],
            _ => self.input_sizes[camera].clone(),
        };
        let shape = Shape { sizes, head: engine.head() };
        let params = self.stage_params(camera)?;
        let pipeline = Pipeline::new(params, &incoming.format, &shape, &self.classes)?;
        let RingSize { slots, slot_bytes, bytes } = ring_of(&shared, camera, incoming)?;
        let owner = |what: &str| match shared.cameras.len() {
            1 => what.to_owned(),
            _ => format!("{what} of '{}'", shared.cameras[camera].settings().name),
        };
        let mut plan = Plan::default();
        plan.add(owner("stages"), pipeline.heap_bytes());
        plan.add(owner(if incoming.lending.is_some() { "camera buffers" } else { "frame ring" }), bytes);
        let before = std::mem::replace(&mut self.cameras[camera], plan);
        if let Err(error) = self.planned().check(config.memory.budget) {
            self.cameras[camera] = before;
            return Err(error);
        }
        let policy = if shared.options.until_end { Policy::Lossless } else { Policy::NewestWins };
        let (writer, reader) = ring_with_bell(policy, slots, slot_bytes, bell);
        if incoming.lending.is_none() {
            writer.allow(bytes);
        }
        let (width, height) = (incoming.format.width, incoming.format.height);
        tracing::info!(slots, slot_bytes, "{}: ready for {width}x{height}", shared.camera_label(camera));
        let (end, ended) = mpsc::channel();
        Ok((writer, CameraStages::new(&shared, camera, reader, pipeline, end), ended))
    }

    /// The settings of a camera's stages.
    pub(super) fn stage_params(&self, camera: usize) -> Result<pipeline::Params> {
        let settings = self.shared.cameras[camera].settings();
        Ok(settings.stages(wanted_classes(&settings.classes, &self.classes)?))
    }

    /// All owners and their planned memory.
    fn planned(&self) -> Plan {
        let mut plan = self.program.clone();
        plan.append(&fixed_plan(&self.shared.config));
        self.cameras.iter().for_each(|camera| plan.append(camera));
        plan
    }

    /// After the network was built and the stages around it are planned: replaces the plan of the program and the network by what was
    /// measured while it ran, and logs the table.
    ///
    /// # Errors
    /// `Kind::Config`: more than the budget.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some(measured) = self.measured.take() else { return Ok(()) };
        tracing::info!("memory: {} were planned before the network started", Mebibytes(self.planned().sum()));
        let measured = measured.saturating_sub(touched_bytes(&self.shared.config));
        self.program = Plan::default();
        self.program.add("program, model and network (measured)", measured);
        self.planned().settle(self.shared.config.memory.budget)
    }
}

/// Whether an engine has all of these input sizes; one without a choice serves every frame.
fn has_all(engine: &dyn Engine, sizes: &[Size]) -> bool {
    let have = engine.input_sizes();
    have.is_empty() || sizes.iter().all(|size| have.contains(size))
}

/// Number and size of the ring's slots, and the total bytes for frames.
fn ring_of(shared: &Shared, camera: usize, incoming: &Incoming) -> Result<RingSize> {
    let (config, Incoming { format, slot_bytes, lending }) = (&shared.config, incoming);
    // Buffers lent by a camera need no slots of ours: few, so that few of its buffers are held.
    if let Some(Lending { buffers, bytes }) = lending {
        return Ok(RingSize { slots: RING_SLOTS_MIN, slot_bytes: 0, bytes: buffers * bytes });
    }
    let cameras = shared.cameras.len();
    let budget = config.memory.ring / cameras;
    // JPEGs have no fixed size: their slots begin with an estimate, within the ring's budget, and grow with the frames.
    let is_jpeg = format.pixel == PixelFormat::Mjpeg;
    let slot_bytes = if is_jpeg { (*slot_bytes).min(budget / RING_SLOTS_MIN) } else { *slot_bytes };
    let slots = slots_for(system::memory_bytes(), shared.cameras[camera].settings().fps, slot_bytes, budget);
    let slots = slots.ok_or_else(|| {
        let needed_mb = (cameras * RING_SLOTS_MIN * slot_bytes).div_ceil(1 << 20);
        let share = if cameras > 1 { " shared by all cameras" } else { "" };
        let text = format!(
            "memory: {RING_SLOTS_MIN} frames of {format} do not fit into memory.ring_mb = {}{share}: set it to {needed_mb} or more, and \
             memory.budget_mb accordingly, or take smaller pictures",
            config.memory.ring >> 20
        );
        Error::fatal(Kind::Config, text)
    })?;
    // A recording waits for us: queueing more than the next frames only costs memory.
    let slots = if shared.options.until_end { RING_SLOTS_MIN } else { slots };
    let largest = if is_jpeg { budget.min(RING_SLOTS_MIN * format.encoded_bytes_max()) } else { 0 };
    Ok(RingSize { slots, slot_bytes, bytes: largest.max(slots * slot_bytes) })
}
