//! The wiring: the only place that starts threads and knows all stages.
//!
//! ```text
//!   main thread       signals, statistics, watchdogs, shutdown (smol)
//!   capture threads   source ─► sampler ─► ring           one a camera; reopens the source; its stages are built at the first format
//!   pipeline thread   rings ─► gate ─► turn at the engine ─► … count ─► outbox
//!   spool thread      outbox ─► spool
//!   uplink thread     spool ─► sink
//! ```
//! Shutdown (`run::shutdown`) keeps this order, so that nothing that was seen is lost: the sources end or a signal arrives; the capture
//! threads stop and close their rings; the pipeline processes what is left in them and ends its tracks; the last statistics and `stopping`
//! are posted; the outbox closes; the spool commits everything; the uplink delivers what it can within its drain time, and reports what it
//! could not; the spool commits the acknowledgements.

mod capture;
mod gpio;
mod inference;
mod kpi;
mod memory;
mod monitor;
mod pages;
mod reload;
mod shared;
mod shutdown;
mod signals;
mod spool_writer;
mod supervisor;
mod today;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_lite::{FutureExt, StreamExt};
use smol::channel::Sender;

use crate::analytics::count::CountingLine;
use crate::base::error::{Error, Kind, Result};
use crate::base::stop::Stop;
use crate::capture::{SourceSpec, Timing};
use crate::config::Config;
use crate::config::scopes::Camera;
use crate::delivery::uplink::{self, Outbox, Report, Uplink};
use crate::event::{Body, Name, Origin, Started, Stats, fixed};
use crate::metrics::kpi::Row;
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::{Clock, Mono, SystemClock};
use crate::platform::process;
use crate::platform::system;
use crate::platform::threads::{self, spawn};
use crate::platform::watchdog::fault::Faults;
use crate::platform::watchdog::{Ledger, Stage};
use crate::status;
use crate::status::socket::Socket;
use crate::vision::detect::model::{Loaded, wanted_classes};
use reload::Reload;
use shared::Parts;
pub(crate) use shared::{CameraState, Live, Shared};
use shutdown::{End, Reports, shut_down};
use signals::{Asked, EndSignals};
use supervisor::{Supervisor, Watched};

/// Options of the command line besides the settings.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Process the source as a recording: every frame, by its own timestamps, and the program ends with it. A failing source is then an
    /// error, not a reason to wait.
    pub until_end: bool,
}

/// Reads the configuration again, with the same overrides as at the start.
pub type Loader = Box<dyn Fn() -> Result<Config> + Send + Sync>;

/// Runs until the recording ends, a signal arrives, or something fails permanently. `again` reads the configuration again, for a reload.
///
/// Returns the KPI table of the run.
///
/// # Errors
/// The failure; its kind determines the exit code. `Kind::Delivery` if everything else worked but events were lost.
pub fn run(config: Config, options: RunOptions, again: Loader) -> Result<Vec<Row>> {
    // smol ends the process without a message if it cannot get descriptors or threads, so both are checked first.
    process::raise_descriptors()?;
    threads::probe()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let time = Arc::new(Timekeeper::new(Arc::clone(&clock)));
    let started = clock.mono();
    let given: Vec<String> = config.in_force.given().collect();
    tracing::info!("settings given: {}; `flytrap check` prints all", given.join(", "));
    let specs = sources(&config)?;
    let model = Loaded::open(&config.model()?)?;
    for camera in &config.cameras {
        wanted_classes(&camera.classes, model.classes())?;
    }
    inference::check_budget(&config, &model)?;
    let boot = system::boot_id()?;
    let origin = Origin::new(config.device.name.as_str(), &boot, started);
    // All errors in the settings are found before the first thread starts.
    let sink = uplink::open(&config.uplink.target, &config.uplink.http, &time)?;
    let stop = Stop::new();
    let outbox = Arc::new(Outbox::new(config.uplink.queue_events)?);
    let spool = Arc::new(spool_writer::open(&config, &origin, &time)?);
    let status = open_status(&config, options, &clock)?;
    let signals = EndSignals::listen()?;
    log_start(&specs, &model, &*sink, &origin);
    let names: Vec<Name> = config.cameras.iter().map(|camera| camera.name.clone()).collect();
    let ledger = Arc::new(Ledger::new(&names));
    let faults = Faults::from_environment();
    let watched = Watched { ledger: Arc::clone(&ledger), clock: Arc::clone(&clock), faults };
    let supervisor =
        Supervisor::open(&config.watchdog, config.device.state_folder.as_deref(), &boot, watched)?;
    let (in_force, accuracy) = (config.in_force.clone(), model.accuracy());
    let delivery = uplink::UplinkParams { seed: seed(&origin), ..config.uplink.delivery };
    let driver =
        Uplink::new(Arc::clone(&outbox), Arc::clone(&spool), sink, Arc::clone(&time), stop.clone(), delivery);
    let parts = Parts { clock, time, stop, outbox, spool, started, options, ledger, faults, accuracy };
    let shared = Arc::new(Shared::new(config, parts));
    post_start(&shared, &supervisor, &model);
    let (classes, uplink) = (model.classes().clone(), driver.live_params());
    uplink.set_labels(shared.config.labels());
    let threads = Threads::start(&shared, driver, specs, model)?;
    let _until_the_end = start_monitor(&shared, status)?;
    let requests = threads.requests.clone();
    let again = Arc::new(again);
    let reload = Reload { shared: Arc::clone(&shared), again, in_force, classes, uplink, requests };
    let pins = async {
        gpio::operate(&shared).await;
        futures_lite::future::pending().await
    };
    let hanging = report_hanging(&shared);
    let main = main_thread(&shared, supervisor, signals, &threads.reports, reload);
    smol::block_on(main.or(pins).or(hanging))?;
    threads.join()?;
    Ok(kpi::table(&shared))
}

/// Opens the status server, if an address or a socket is configured. An address in use is found before anything runs; a socket that cannot be
/// had is only reported.
///
/// # Errors
/// `Kind::Config` or `Kind::System`, with the setting and the remedy.
fn open_status(
    config: &Config,
    options: RunOptions,
    clock: &Arc<dyn Clock>,
) -> Result<Option<status::server::Server>> {
    let settings = &config.status;
    let token_file = settings.token_file.clone();
    let check = |listen: &String| status::access::check_address(listen, token_file.is_some());
    let address = settings.listen.as_ref().map(check).transpose()?;
    // A recording is not looked after.
    let socket = Socket::new(&settings.socket).filter(|_| !options.until_end);
    if address.is_none() && socket.is_none() {
        return Ok(None);
    }
    let on_socket = socket.is_some();
    let params = status::server::Params { address, on_socket, token_file, page_bytes: pages::PAGE_BYTES };
    let mut server = status::server::Server::new(params, Arc::clone(clock))?;
    if let Some(address) = server.listen()? {
        tracing::info!("status pages at http://{address}/");
    }
    if let Some(socket) = socket {
        server.add_socket(socket);
    }
    Ok(Some(server))
}

/// The thread of the status server. It ends when this is dropped: then its socket is removed.
struct StatusThread {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Drop for StatusThread {
    fn drop(&mut self) {
        self.stop.request();
        // It looks for the request several times a second.
        let _failed = self.thread.take().map(JoinHandle::join);
    }
}

/// Starts the threads that watch and show: no stage waits for them.
fn start_monitor(
    shared: &Arc<Shared>,
    status: Option<status::server::Server>,
) -> Result<Option<StatusThread>> {
    let monitor = monitor::Monitor::new(Arc::clone(shared));
    let _ends_with_the_process = spawn("monitor", move || monitor.run())?;
    let Some(mut server) = status else { return Ok(None) };
    let mut pages = pages::StatusPages(Arc::clone(shared));
    let stop = Stop::new();
    let stopped = stop.clone();
    let thread = spawn("status", move || server.run(&mut pages, &stopped))?;
    Ok(Some(StatusThread { stop, thread: Some(thread) }))
}

/// Where each camera's frames come from.
///
/// # Errors
/// `Kind::Config`: one has no source.
fn sources(config: &Config) -> Result<Vec<SourceSpec>> {
    let source = |(index, camera): (usize, &Camera)| {
        camera.source.clone().ok_or_else(|| {
            let text = match config.cameras.len() {
                1 => "no source: set camera.source in the configuration, or give --source".to_owned(),
                _ => format!("camera '{}' has no source: set camera[{index}].source", camera.name),
            };
            Error::fatal(Kind::Config, text)
        })
    };
    config.cameras.iter().enumerate().map(source).collect()
}

fn log_start(specs: &[SourceSpec], model: &Loaded, sink: &dyn uplink::Sink, origin: &Origin) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        source = specs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        model = model.name(),
        uplink = sink.name(),
        boot = origin.boot.as_str(),
        "flytrap starts"
    );
}

/// The threads of a run.
struct Threads {
    captures: Vec<JoinHandle<()>>,
    pipeline: JoinHandle<()>,
    uplink: JoinHandle<()>,
    spool: JoinHandle<()>,
    reports: Reports,
    requests: inference::Requests,
}

impl Threads {
    fn start(shared: &Arc<Shared>, driver: Uplink, specs: Vec<SourceSpec>, model: Loaded) -> Result<Self> {
        let (up, ready) = smol::channel::bounded(1);
        let (done, processed) = smol::channel::bounded(1);
        let (report, delivered) = smol::channel::bounded(1);
        let (uplink_report, uplink_ended) = smol::channel::bounded(1);
        let spool = spawn("spool", {
            let shared = Arc::clone(shared);
            move || spool_writer::keep(&shared, &uplink_ended, &report)
        })?;
        let uplink = spawn("uplink", deliver(Arc::clone(shared), driver, uplink_report))?;
        let serve_side = capture::serve_side(&model);
        let (pipeline, requests) = inference::Inference::new(Arc::clone(shared), model, up);
        let pipeline = spawn("pipeline", move || forward(&done, pipeline.run()))?;
        let mut captures = Vec::new();
        for (camera, spec) in specs.into_iter().enumerate() {
            let capture =
                capture::Capture::new(Arc::clone(shared), camera, spec, serve_side, requests.clone());
            captures.push(spawn("capture", move || capture.run())?);
        }
        let reports = Reports { ready, processed, delivered };
        Ok(Threads { captures, pipeline, uplink, spool, reports, requests })
    }

    /// The threads have sent their reports and are about to end: joins them.
    fn join(self) -> Result<()> {
        for thread in self.captures.into_iter().chain([self.pipeline, self.uplink, self.spool]) {
            if thread.join().is_err() {
                return Err(Error::fatal(Kind::System, "a thread failed; see the message above"));
            }
        }
        Ok(())
    }
}

fn post_start(shared: &Shared, supervisor: &Supervisor, model: &Loaded) {
    for (index, camera) in shared.cameras.iter().enumerate() {
        for warning in camera.settings().lines.iter().filter_map(CountingLine::edge_warning) {
            tracing::warn!("{}: {warning}", shared.camera_label(index));
        }
    }
    shared.post_own(Body::Started(Started {
        version: fixed(env!("CARGO_PKG_VERSION")),
        model: fixed(&model.sha256()[..12]),
    }));
    if let Some(restarted) = supervisor.restarted() {
        shared.post_own(restarted);
    }
}

/// The uplink thread: a send may take as long as its time-outs allow, and counts as finished work whatever the result. Between sends the
/// thread may wait for the spool; if that hangs, the spool must be named as the cause, so the uplink is late only after the spool has been
/// late for long.
fn deliver(shared: Arc<Shared>, driver: Uplink, report: Sender<Report>) -> impl FnOnce() + Send {
    move || {
        let spool = || spool_writer::LOOK_MAX + shared.live().stage_timeout;
        let wait = Duration::from_secs(1);
        let over_http = shared.config.uplink.target.is_http();
        let send = if over_http { shared.config.uplink.http.deadlines.whole } else { wait };
        let last =
            driver.run(|sends| shared.heartbeat(Stage::Uplink, spool() + if sends { send } else { wait }));
        shared.ledger.ended(Stage::Uplink);
        forward(&report, last);
        shared.outbox.wake(); // Wakes the spool's thread, which writes the final report.
    }
}

/// The main thread's part: statistics, readiness and watchdogs until the end, then shutdown.
async fn main_thread(
    shared: &Shared,
    mut supervisor: Supervisor,
    mut signals: EndSignals,
    reports: &Reports,
    mut reload: Reload,
) -> Result<()> {
    let mut interval = shared.live().stats_interval;
    let mut timer = smol::Timer::interval(interval);
    let mut is_up = false;
    let mut reload_from = Mono::ZERO;
    let end = loop {
        let tick = async {
            timer.next().await;
            Turn::Statistics
        };
        let up = async {
            // Reported once; then the channel is closed.
            if is_up || reports.ready.recv().await.is_err() {
                futures_lite::future::pending::<()>().await;
            }
            Turn::Up
        };
        let signal = async {
            match signals.request(&*shared.clock).await {
                Asked::End(name) => Turn::End(End::Signal(name)),
                Asked::Reload => Turn::Reload,
            }
        };
        let asked = async {
            // Whoever asks without a pause takes neither the processor nor the disk of the log.
            smol::Timer::after(reload_from.since(shared.clock.mono())).await;
            shared.reloads.requested().await;
            Turn::Reload
        };
        let over = async { Turn::End(End::Sources(reports.processing_ended().await)) };
        let hung = async { Turn::End(End::Hung(supervisor.watch().await)) };
        // The first that is ready: the watchdogs come before what clients ask for.
        match tick.or(signal).or(up).or(over).or(hung).or(asked).await {
            Turn::Statistics => post_state(shared, &supervisor),
            Turn::Up => {
                is_up = true;
                shared.is_ready.store(true, Relaxed);
                supervisor.ready();
            }
            Turn::Reload => {
                supervisor.reloading();
                reload.run(|| supervisor.feed_if_on_time()).await;
                supervisor.reloaded(is_up);
                reload_from = shared.clock.mono() + reload::PAUSE;
                if shared.live().stats_interval != interval {
                    interval = shared.live().stats_interval;
                    timer = smol::Timer::interval(interval);
                }
            }
            Turn::End(end) => break end,
        }
    };
    shut_down(shared, supervisor, signals, reports, end).await
}

/// Reports each camera whose capture thread hangs, while the others go on. Never returns.
async fn report_hanging<T>(shared: &Shared) -> T {
    let mut timer = smol::Timer::interval(Duration::from_secs(1));
    if shared.cameras.len() == 1 {
        // Then the program hangs, which the supervisor reports.
        return futures_lite::future::pending().await;
    }
    loop {
        timer.next().await;
        let now = shared.clock.mono();
        for (index, camera) in shared.cameras.iter().enumerate() {
            let Some(overdue) = shared.ledger.capture_overdue(index, now) else { continue };
            if !camera.hangs.swap(true, Relaxed) {
                camera.is_lost.store(true, Relaxed);
                camera.metrics.camera_losses.add(1);
                tracing::error!("{overdue}: the other cameras go on");
                shared.post(index, now, Body::CameraLost { reason: fixed(&overdue.to_string()) });
            }
        }
    }
}

/// What the main thread does next.
enum Turn {
    /// Reports statistics.
    Statistics,
    /// Reports readiness to the service manager.
    Up,
    /// Reads the configuration again.
    Reload,
    /// Shuts down.
    End(End),
}

/// Reports the statistics, as an event and to the service manager.
fn post_state(shared: &Shared, supervisor: &Supervisor) {
    let stats = shared.post_stats();
    supervisor.status(|| status_line(&stats));
    if let Some(storage) = spool_writer::storage(shared) {
        shared.post_own(Body::Storage(storage));
    }
}

/// Status in one line: the ages that define health (I7).
fn status_line(stats: &Stats) -> String {
    let age = |millis: u64| match millis {
        u64::MAX => "none yet".to_owned(),
        millis => format!("{} s ago", millis / 1000),
    };
    let (frame, delivery) = (age(stats.last_frame_age_ms), age(stats.last_delivery_age_ms));
    format!("last frame: {frame}, last delivery: {delivery}, crossings: {}", stats.crossings)
}

fn forward<T>(to: &Sender<T>, value: T) {
    // The receiver is gone only when the program exits immediately.
    let _sent = to.send_blocking(value);
}

/// Different devices and runs retry at different times (FNV-1a; any hash would do).
fn seed(origin: &Origin) -> u64 {
    let bytes = origin.device.bytes().chain(origin.boot.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
