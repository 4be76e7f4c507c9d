//! State that the threads of a run share: settings in force, counters, and the figures that others show.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::reload::Reloads;
use super::{RunOptions, gpio, monitor};
use crate::base::stop::Stop;
use crate::config::scopes::Camera;
use crate::config::{self, Config};
use crate::delivery::spool::{DailyWriteBudget, Spool};
use crate::delivery::uplink::Outbox;
use crate::event::{Body, CameraStats, Name, Stats};
use crate::metrics::alert::Rule;
use crate::metrics::kpi::Targets;
use crate::metrics::{CameraReader, CameraSnapshot, IntervalReader, Metrics, Snapshot, millis};
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::{Clock, Mono};
use crate::platform::gpio::signals::LightParams;
use crate::platform::log::{self, Log};
use crate::platform::system;
use crate::platform::watchdog::fault::Faults;
use crate::platform::watchdog::{Ledger, Stage};
use crate::vision::detect::accuracy::Accuracy;

/// State of a camera that several threads read.
#[derive(Debug)]
pub(crate) struct CameraState {
    /// Its settings in force.
    pub(super) settings: Mutex<Arc<Camera>>,
    /// How often a change of its settings asked for it to be opened again.
    pub(crate) changes: AtomicU64,
    pub(crate) metrics: Metrics,
    pub(crate) motion_and_light: gpio::MotionAndLight,
    /// Reason of the last corrupt frame.
    pub(crate) last_corrupt: Mutex<String>,
    /// Target rate in force, frames a second, as bits: the configured one, lowered while the network is overloaded. 0: not chosen yet.
    pub(super) rate: AtomicU32,
    /// Its capture thread was reported as hanging.
    pub(super) hangs: AtomicBool,
    /// Whether it is lost now.
    pub(crate) is_lost: AtomicBool,
}

impl CameraState {
    pub(super) fn new(settings: Camera) -> Self {
        CameraState {
            settings: Mutex::new(Arc::new(settings)),
            changes: AtomicU64::new(0),
            metrics: Metrics::default(),
            motion_and_light: gpio::MotionAndLight::default(),
            last_corrupt: Mutex::default(),
            rate: AtomicU32::new(0),
            hangs: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
        }
    }

    /// Its settings in force.
    pub(crate) fn settings(&self) -> Arc<Camera> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, settings: Camera) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// The target rate is `fps` from now on.
    pub(crate) fn set_rate(&self, fps: f32) {
        self.rate.store(fps.to_bits(), Relaxed);
    }

    /// The target rate in force, if one was chosen.
    pub(crate) fn rate(&self) -> Option<f32> {
        Some(f32::from_bits(self.rate.load(Relaxed))).filter(|fps| *fps > 0.0)
    }
}

/// Settings of the device that may change while it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Live {
    pub(super) stats_interval: Duration,
    pub(super) stage_timeout: Duration,
    pub(crate) lighting: LightParams,
    pub(crate) write_budget: Option<u64>,
    pub(crate) drain: Duration,
    pub(super) frame_age_max: Duration,
    pub(super) delivery_age_max: Duration,
    pub(super) load_max: f64,
    pub(super) kpi: Targets,
}

impl Live {
    pub(super) fn of(config: &Config) -> Self {
        Live {
            stats_interval: config.events.stats_interval,
            stage_timeout: config.watchdog.stage_timeout,
            lighting: config.pins.lighting,
            write_budget: config.spool.write_budget,
            drain: config.uplink.delivery.drain,
            frame_age_max: config.status.frame_age_max,
            delivery_age_max: config.status.delivery_age_max,
            load_max: config.model.load_max,
            kpi: config.kpi,
        }
    }
}

/// The network's load and what it leaves of the target rates, thousandths.
#[derive(Debug)]
pub(crate) struct Load {
    pub(super) load: AtomicU32,
    pub(super) factor: AtomicU32,
}

impl Default for Load {
    fn default() -> Self {
        Load { load: AtomicU32::new(0), factor: AtomicU32::new(1000) }
    }
}

impl Load {
    /// From parts of 1.
    pub(crate) fn set(&self, load: f64, factor: f64) {
        self.load.store((load * 1e3).round() as u32, Relaxed);
        self.factor.store((factor * 1e3).round() as u32, Relaxed);
    }

    pub(crate) fn load_permille(&self) -> u64 {
        self.load.load(Relaxed).into()
    }

    pub(crate) fn factor_permille(&self) -> u64 {
        self.factor.load(Relaxed).into()
    }
}

/// State shared by all threads.
pub(crate) struct Shared {
    /// As of the start; [`Shared::live`] and [`CameraState::settings`] have what may have changed since.
    pub(crate) config: Config,
    pub(super) live: Mutex<Live>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) time: Arc<Timekeeper>,
    pub(crate) stop: Stop,
    /// In the order of the configuration.
    pub(crate) cameras: Vec<CameraState>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) started: Mono,
    pub(crate) options: RunOptions,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) faults: Faults,
    /// When the motion sensor was last high.
    pub(crate) motion_sensor: gpio::MotionSensor,
    /// What the spool has written.
    pub(super) written: Mutex<DailyWriteBudget>,
    /// The values behind the last `stats` event.
    pub(super) interval: Mutex<IntervalReader>,
    /// The values behind the last `camera.stats` events.
    pub(super) camera_intervals: Mutex<Vec<CameraReader>>,
    /// The network's load.
    pub(crate) load: Load,
    /// Rules for alerts in force.
    pub(super) rules: Mutex<Arc<[Rule]>>,
    /// Requests to read the configuration again, and what became of the last.
    pub(super) reloads: Reloads,
    /// When the last frame had been processed, at the end of the run.
    pub(super) processing_ended: OnceLock<Mono>,
    /// Measured of the model, if it is noted.
    pub(super) accuracy: Option<Accuracy>,
    /// The monitor's last figures.
    pub(super) latest: Mutex<monitor::Latest>,
    /// How many rules for alerts hold.
    pub(super) alerts_active: AtomicU64,
    /// Reported ready: the network has passed its self-test.
    pub(super) is_ready: AtomicBool,
}

/// The rules for alerts. A recording is no device: nothing of it can fail.
pub(super) fn rules_of(config: &Config, options: RunOptions) -> Vec<Rule> {
    if options.until_end { Vec::new() } else { config.alerts.clone() }
}

/// What [`Shared`] is made of besides the configuration.
pub(super) struct Parts {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) time: Arc<Timekeeper>,
    pub(super) stop: Stop,
    pub(super) outbox: Arc<Outbox>,
    pub(super) spool: Arc<Spool>,
    pub(super) started: Mono,
    pub(super) options: RunOptions,
    pub(super) ledger: Arc<Ledger>,
    pub(super) faults: Faults,
    pub(super) accuracy: Option<Accuracy>,
}

impl Shared {
    pub(super) fn new(config: Config, parts: Parts) -> Self {
        let Parts { clock, time, stop, outbox, spool, started, options, ledger, faults, accuracy } = parts;
        Shared {
            clock,
            time,
            stop,
            cameras: config.cameras.iter().cloned().map(CameraState::new).collect(),
            outbox,
            spool,
            started,
            options,
            ledger,
            faults,
            motion_sensor: gpio::MotionSensor::default(),
            written: Mutex::default(),
            interval: Mutex::default(),
            camera_intervals: Mutex::new(config.cameras.iter().map(|_| CameraReader::default()).collect()),
            load: Load::default(),
            rules: Mutex::new(rules_of(&config, options).into()),
            reloads: Reloads::default(),
            processing_ended: OnceLock::new(),
            accuracy,
            latest: Mutex::default(),
            alerts_active: AtomicU64::new(0),
            is_ready: AtomicBool::new(false),
            live: Mutex::new(Live::of(&config)),
            config,
        }
    }

    /// Bytes that the disk wrote for the spool in the last 24 hours, in whole pages.
    pub(super) fn written_in_a_day(&self, now: Mono) -> u64 {
        let written = self.spool.state().tally.flash_bytes;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).note(now, written)
    }

    /// Which run of the program this is, for whoever asks again: when it started.
    pub(super) fn run(&self) -> u64 {
        self.started.as_nanos()
    }

    /// The monitor's last figures.
    pub(super) fn latest(&self) -> MutexGuard<'_, monitor::Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules for alerts in force.
    pub(super) fn rules(&self) -> Arc<[Rule]> {
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The settings of the device in force.
    pub(crate) fn live(&self) -> Live {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `stage` has finished a piece of work; the next one comes within `wait` plus the longest time for one piece of work.
    pub(crate) fn heartbeat(&self, stage: Stage, wait: Duration) {
        let now = self.clock.mono();
        self.ledger.set_deadline(stage, now + wait + self.live().stage_timeout);
        self.faults.inject(Some(stage), self.started, now);
    }

    /// Posts an event of camera number `camera` that happened at `at`.
    pub(crate) fn post(&self, camera: usize, at: Mono, body: Body) {
        self.post_as(&self.cameras[camera].settings().name, at, body);
    }

    /// How a camera is called in messages: by its name where there are several.
    pub(crate) fn camera_label(&self, camera: usize) -> String {
        match &self.cameras[..] {
            [_] => "the camera".to_owned(),
            several => format!("camera '{}'", several[camera].settings().name),
        }
    }

    pub(super) fn post_as(&self, camera: &Name, at: Mono, body: Body) {
        // The outbox itself counts what it drops.
        let _posted = self.outbox.post(at, camera, body);
    }

    /// Posts an event of the device that happens now.
    pub(super) fn post_own(&self, body: Body) {
        self.post_as(&Name::new(), self.clock.mono(), body);
    }

    /// What the cameras count, together.
    pub(super) fn total(&self, now: Mono) -> Snapshot {
        Metrics::total(self.cameras.iter().map(|camera| &camera.metrics), self.started, now)
    }

    /// All counters and gauges as of now. Reading them changes nothing, so there may be any number of readers.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = self.clock.mono();
        let counters = self.outbox.counters();
        let Snapshot { stats, processing } = self.total(now);
        let stats = Stats {
            events: counters.posted(),
            events_dropped: counters.dropped() + self.spool.state().tally.dropped_unsent(),
            events_delivered: counters.delivered(),
            send_failures: counters.failures(),
            events_refused: counters.refused(),
            last_delivery_age_ms: counters.last_delivery().map_or(u64::MAX, |at| millis(now, at)),
            rss_bytes: system::resident_bytes(),
            log_lines_dropped: log::started().map_or(0, Log::dropped),
            ..stats
        };
        Snapshot { stats, processing }
    }

    /// What a camera counts, and its state now.
    pub(super) fn camera_snapshot(&self, camera: usize) -> CameraSnapshot {
        let state = &self.cameras[camera];
        let snapshot = state.metrics.camera_snapshot(self.clock.mono());
        let wanted = state.rate().unwrap_or_else(|| state.settings().fps);
        let stats = CameraStats {
            lost: u64::from(state.is_lost.load(Relaxed)),
            rate_wanted_millihertz: (wanted * 1e3).round() as u64,
            ..snapshot.stats
        };
        CameraSnapshot { stats, ..snapshot }
    }

    /// A camera's statistics since the reader's last look.
    pub(super) fn camera_stats(&self, camera: usize, reader: &mut CameraReader) -> CameraStats {
        let target = (self.cameras[camera].settings().fps * 1e3).round() as u64;
        reader.stats(self.camera_snapshot(camera), self.started, target)
    }

    /// Posts the `stats` event, those of the cameras and of the machine; returns the contents of the first.
    pub(super) fn post_stats(&self) -> Stats {
        if self.posts_new_statistics() {
            self.post_camera_and_machine_stats();
        }
        let snapshot = self.snapshot();
        let stats = self.interval.lock().unwrap_or_else(PoisonError::into_inner).stats(&snapshot);
        self.post_own(Body::Stats(stats));
        stats
    }

    /// Whether the receiver's format has the kinds of version 3: events that it does not get would be gaps in its sequence numbers.
    pub(super) fn posts_new_statistics(&self) -> bool {
        let config::scopes::Uplink { target, http, .. } = &self.config.uplink;
        !target.is_http() || http.format.record_version() >= 3
    }

    pub(super) fn post_camera_and_machine_stats(&self) {
        let mut readers = self.camera_intervals.lock().unwrap_or_else(PoisonError::into_inner);
        for (camera, reader) in readers.iter_mut().enumerate() {
            let stats = self.camera_stats(camera, reader);
            self.post(camera, self.clock.mono(), Body::CameraStats(stats));
        }
        drop(readers);
        let machine = self.latest().machine_event();
        self.post_own(Body::Machine(machine));
    }
}
