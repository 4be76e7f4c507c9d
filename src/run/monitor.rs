//! The monitor thread: once a second it reads the machine's figures, evaluates the rules for alerts, and writes the resource log. What others
//! show (the status pages, the `machine` event) is a copy of its last figures.
//!
//! A thread of its own, because a sensor or a disk may hang: then the figures grow old, and nothing else waits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::spool_writer::storage;
use super::today::{Counts, Crossings, Today};
use crate::event::{Alert, Body, CameraStats, Machine, Storage, fixed};
use crate::metrics::CameraReader;
use crate::metrics::alert::{Alerts, Change, Figures, Rule};
use crate::platform::clock::Mono;
use crate::platform::machine::slope::{INTERVAL, SlopeEstimator};
use crate::platform::machine::{MachineReader, Reading, Usage};
use crate::platform::system;
use crate::platform::zone::Zone;
use crate::status::csv::{ResourceLog, Row};
use crate::status::openmetrics::Decimal;

/// Time between two readings.
const TICK: Duration = Duration::from_secs(1);

/// The columns of the resource log behind those of the original program.
const COLUMNS: [&str; 12] = [
    "Uptime_s",
    "FPS_captured",
    "Inferences",
    "Tracks",
    "Crossings",
    "Frames_dropped",
    "Temperature_C",
    "Clock_MHz",
    "Throttled",
    "Load%",
    "Events_waiting",
    "Last_delivery_s",
];

/// The last figures, for whoever shows them.
#[derive(Debug, Clone)]
pub(crate) struct Latest {
    /// When they were read; `None`: not yet.
    pub(crate) at: Option<Mono>,
    /// With processor use of the last second.
    pub(crate) machine: Machine,
    /// With rates and percentiles of the last second.
    pub(crate) cameras: Vec<CameraStats>,
    /// The rules for alerts, each for the cameras that it watches.
    pub(crate) alerts: Vec<AlertState>,
    /// Crossings of the local day.
    pub(crate) today: Crossings,
    /// What the machine showed, for processor use over a longer time.
    reading: Reading,
    /// The reading at the last `machine` event.
    reported: Reading,
    /// The first reading.
    first: Reading,
}

impl Default for Latest {
    /// Nothing was read yet: no sensor has a value.
    fn default() -> Self {
        let machine = Machine {
            cpu_permille: u64::MAX,
            cpu_process_permille: u64::MAX,
            rss_growth_per_hour_bytes: u64::MAX,
            temperature_millicelsius: u64::MAX,
            clock_khz: u64::MAX,
            throttle_flags: u64::MAX,
            throttled: u64::MAX,
            under_voltage: u64::MAX,
            rss_bytes: system::resident_bytes(),
            ..Machine::default()
        };
        Latest {
            at: None,
            machine,
            cameras: Vec::new(),
            alerts: Vec::new(),
            today: Crossings::default(),
            reading: Reading::default(),
            reported: Reading::default(),
            first: Reading::default(),
        }
    }
}

impl Latest {
    /// Processor use since the first reading; `None`: there is only one, or none.
    pub(super) fn usage_since_start(&self) -> Option<Usage> {
        (self.reading.at > self.first.at).then(|| Usage::between(&self.first, &self.reading))
    }

    /// The `machine` event: processor use since the last one.
    pub(super) fn machine_event(&mut self) -> Machine {
        let usage = Usage::between(&self.reported, &self.reading);
        self.reported = self.reading;
        with_usage(self.machine, usage)
    }
}

/// A rule for alerts as it is now.
#[derive(Debug, Clone)]
pub(crate) struct AlertState {
    pub(crate) rule: String,
    /// The camera, if the rule watches cameras.
    pub(crate) camera: Option<usize>,
    /// If it holds: since when, and what the event said.
    pub(crate) held: Option<(Mono, String)>,
}

/// The thread's state.
pub(super) struct Monitor {
    shared: Arc<Shared>,
    machine: MachineReader,
    reading: Reading,
    slope: SlopeEstimator,
    /// As they were given to `alerts`.
    rules: Arc<[Rule]>,
    alerts: Alerts,
    today: Today,
    cameras: Vec<CameraReader>,
    log: Option<Log>,
}

/// The resource log and its schedule.
struct Log {
    file: ResourceLog,
    interval: Duration,
    due: Mono,
    /// The machine's reading and the cameras' state at the last row.
    reading: Reading,
    cameras: Vec<CameraReader>,
    has_failed: bool,
}

impl Monitor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let now = shared.clock.mono();
        let readers = || shared.cameras.iter().map(|_| CameraReader::default()).collect();
        let settings = &shared.config.status;
        let log = settings.resource_log.as_ref().map(|path| Log {
            file: ResourceLog::new(path, settings.resource_log_bytes, &COLUMNS),
            interval: settings.resource_log_interval,
            due: now + settings.resource_log_interval,
            reading: Reading { at: now, ..Reading::default() },
            cameras: readers(),
            has_failed: false,
        });
        let rules = shared.rules();
        let alerts = Alerts::new(rules.to_vec(), shared.cameras.len());
        Monitor {
            rules,
            machine: MachineReader::open(Path::new("/")),
            reading: Reading { at: now, ..Reading::default() },
            slope: SlopeEstimator::new(INTERVAL),
            alerts,
            today: Today::new(shared.started, Zone::of_device()),
            cameras: readers(),
            log,
            shared,
        }
    }

    /// Runs until the outbox is closed.
    pub(super) fn run(mut self) {
        while !self.shared.outbox.closed() {
            self.tick();
            std::thread::park_timeout(TICK);
        }
    }

    fn tick(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.mono();
        let reading = self.machine.read(now);
        if let Some(bytes) = reading.resident_bytes {
            self.slope.add(now, bytes);
        }
        let growth = self.slope.bytes_per_hour();
        let usage = Usage::between(&self.reading, &reading);
        self.reading = reading;
        let machine = with_usage(machine_of(&shared, &reading, growth), usage);
        let cameras: Vec<CameraStats> = camera_stats(&shared, &mut self.cameras);
        let storage = storage(&shared);
        self.evaluate(now, &machine, &cameras, storage.as_ref());
        self.write_row(now, &reading, &machine, storage.as_ref());
        let alerts = self.alerts.states().map(|(rule, camera, held)| AlertState {
            rule: rule.name.clone(),
            camera,
            held: held.map(|(since, began)| (since, began.to_string())),
        });
        let alerts = alerts.collect();
        let counters: Counts = cameras.iter().map(|camera| camera.crossings).collect();
        let today = self.today.look(now, shared.time.wall(), &counters);
        let mut latest = shared.latest();
        let at_start = Reading { at: shared.started, ..reading };
        let (reported, first) =
            if latest.at.is_none() { (at_start, reading) } else { (latest.reported, latest.first) };
        *latest = Latest { at: Some(now), machine, cameras, alerts, today, reading, reported, first };
    }

    fn evaluate(&mut self, now: Mono, machine: &Machine, cameras: &[CameraStats], storage: Option<&Storage>) {
        let shared = Arc::clone(&self.shared);
        let stats = shared.snapshot().stats;
        let figures = Figures { stats: &stats, storage, cameras, machine };
        let new_rules = Some(shared.rules()).filter(|rules| !Arc::ptr_eq(rules, &self.rules));
        let mut post = |change: Change<'_>| {
            let text = change.to_string();
            let label = change.camera.map(|camera| shared.camera_label(camera));
            match (change.active, label) {
                (true, Some(camera)) => tracing::warn!("alert: {camera}: {text}"),
                (true, None) => tracing::warn!("alert: {text}"),
                (false, Some(camera)) => tracing::info!("alert over: {camera}: {text}"),
                (false, None) => tracing::info!("alert over: {text}"),
            }
            let body = Body::Alert(Alert {
                rule: fixed(&change.rule.name),
                active: change.active,
                metric: fixed(change.rule.metric.metric().name),
                value: change.value,
                limit: change.limit(),
                text: fixed(&text),
            });
            match change.camera {
                Some(camera) => shared.post(camera, now, body),
                None => shared.post_own(body),
            }
        };
        if let Some(rules) = new_rules {
            self.alerts.replace(rules.to_vec(), &mut post);
            self.rules = rules;
        }
        self.alerts.evaluate(now, &figures, &mut post);
        shared.alerts_active.store(self.alerts.active(), std::sync::atomic::Ordering::Relaxed);
    }

    /// Appends a row to the resource log, if one is due.
    fn write_row(&mut self, now: Mono, reading: &Reading, machine: &Machine, storage: Option<&Storage>) {
        let Some(log) = self.log.as_mut().filter(|log| now >= log.due) else { return };
        // Missed rows are not caught up.
        log.due = now + log.interval;
        let usage = Usage::between(&log.reading, reading);
        log.reading = *reading;
        let shared = &self.shared;
        let cameras = camera_stats(shared, &mut log.cameras);
        let sum = |value: fn(&CameraStats) -> u64| cameras.iter().map(value).sum::<u64>();
        let stats = shared.snapshot().stats;
        let number =
            |value: u64, places: u8| (value != u64::MAX).then(|| Decimal::scaled(value as i64, places));
        let more = [
            number(stats.uptime_ms, 3),
            number(sum(|camera| camera.rate_captured_millihertz), 3),
            number(stats.inferences, 0),
            number(stats.tracks, 0),
            number(stats.crossings, 0),
            number(stats.frames_camera_dropped + stats.frames_ring_dropped + stats.frames_corrupt, 0),
            number(machine.temperature_millicelsius, 3),
            number(machine.clock_khz, 3),
            number(machine.throttled, 0),
            number(machine.load_permille, 1),
            storage
                .map_or(Some(Decimal::whole(shared.spool.waiting())), |storage| number(storage.waiting, 0)),
            number(stats.last_delivery_age_ms, 3),
        ];
        let wall = shared.time.wall();
        let row = Row {
            unix_nanos: wall.plausible().then_some(wall.unix_nanos),
            cpu_permille: usage.machine_permille,
            memory_bytes: reading.resident_bytes,
            fps_thousandths: Some(sum(|camera| camera.rate_processed_millihertz)),
            more: &more,
        };
        match log.file.append(&row) {
            Ok(()) => log.has_failed = false,
            Err(error) if !std::mem::replace(&mut log.has_failed, true) => {
                tracing::warn!("status.resource_log: {error}; rows are lost until it can be written");
            }
            Err(_) => {}
        }
    }
}

/// The statistics of all cameras since each reader's last look.
fn camera_stats(shared: &Shared, readers: &mut [CameraReader]) -> Vec<CameraStats> {
    let stats = |(camera, reader): (usize, &mut CameraReader)| shared.camera_stats(camera, reader);
    readers.iter_mut().enumerate().map(stats).collect()
}

fn with_usage(machine: Machine, usage: Usage) -> Machine {
    let or_absent = |permille: Option<u32>| permille.map_or(u64::MAX, u64::from);
    Machine {
        cpu_permille: or_absent(usage.machine_permille),
        cpu_process_permille: or_absent(usage.process_permille),
        ..machine
    }
}

/// The figures that are not a use over time. What this machine does not have is absent.
fn machine_of(shared: &Shared, reading: &Reading, growth: Option<i64>) -> Machine {
    let flag = |flag: Option<bool>| flag.map_or(u64::MAX, u64::from);
    let throttling = reading.throttling;
    let bits = throttling.map(|flags| {
        // The places of the flags in the firmware's word.
        let places = [0, 1, 2, 3, 16, 17, 18, 19];
        let set = flags.flags().into_iter().zip(places).filter(|((_, set), _)| *set == Some(true));
        set.map(|(_, place)| 1 << place).sum()
    });
    let lost =
        shared.cameras.iter().filter(|camera| camera.is_lost.load(std::sync::atomic::Ordering::Relaxed));
    Machine {
        cpu_permille: u64::MAX,
        cpu_process_permille: u64::MAX,
        rss_bytes: reading.resident_bytes.unwrap_or(0),
        rss_growth_per_hour_bytes: growth.map_or(u64::MAX, |growth| u64::try_from(growth).unwrap_or(0)),
        temperature_millicelsius: reading
            .temperature_millicelsius
            .map_or(u64::MAX, |degrees| u64::try_from(degrees).unwrap_or(0)),
        clock_khz: reading.frequency_hertz.map_or(u64::MAX, |hertz| hertz / 1000),
        throttle_flags: bits.unwrap_or(u64::MAX),
        throttled: flag(throttling.and_then(|flags| flags.throttled)),
        under_voltage: flag(throttling.and_then(|flags| flags.under_voltage)),
        clock_synchronised: u64::from(shared.time.wall().is_trusted()),
        load_permille: shared.load.load_permille(),
        rate_factor_permille: shared.load.factor_permille(),
        cameras: shared.cameras.len() as u64,
        cameras_lost: lost.count() as u64,
    }
}
