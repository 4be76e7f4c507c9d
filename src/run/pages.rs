//! The pages of the status server: `/metrics`, `/healthz`, `/readyz`, `/status.json`. They show copies of figures; nothing here waits for a
//! stage.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};

use super::monitor::{AlertState, Latest};
use super::spool_writer::storage;
use super::{Live, Shared};
use crate::base::limits::CAMERAS_MAX;
use crate::config::Config;
use crate::event::{CameraStats, Machine, Name, Stats, Storage};
use crate::metrics::families::{families, family};
use crate::metrics::histogram::{BOUNDS_US, Distribution};
use crate::metrics::table::{Metric, Time};
use crate::metrics::{CameraSnapshot, millis};
use crate::platform::clock::Mono;
use crate::status::openmetrics::{Buckets, Exposition, Family, Kind, Unit};
use crate::status::page::{JSON, PLAIN_TEXT};
use crate::status::socket::Place;
use crate::status::{Page, Pages, Request, Status, server};

/// Longest page, bytes: `/metrics` of two cameras has 34 kB (`tests/it/monitor.rs`), so that of eight has some 140 kB, and 200 kB with the
/// longest names and 32 rules for each.
pub(super) const PAGE_BYTES: usize = 256 << 10;

/// Memory of the status server, bytes.
pub(super) fn memory_bytes(config: &Config) -> usize {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let address = config.status.listen.as_ref().map(|_| any);
    let on_socket = config.status.socket != Place::None;
    server::Params { address, on_socket, token_file: None, page_bytes: PAGE_BYTES }.memory_bytes()
}

/// The first lines of `/`.
const INDEX: &str = "flytrap\n\n/metrics      for Prometheus (OpenMetrics)\n/healthz      200, or 503 with the reasons\n\
                     /readyz       200 once the network has passed its self-test\n/status.json  all figures\n/kpi.json     targets, and whether they are reached\n/reload       the last reload; POST on the status socket: read the configuration again\n";

/// Makes the pages.
pub(super) struct StatusPages(pub(super) Arc<Shared>);

impl Pages for StatusPages {
    fn respond(&mut self, request: &Request<'_>, page: &mut Page<'_>) -> Status {
        let shared = &*self.0;
        if request.is_post {
            return post(shared, request.path, page);
        }
        // A page that does not fit is noticed by the server.
        let (status, _written) = match request.path {
            "/" => {
                page.set_content_type(PLAIN_TEXT);
                (Status::Ok, page.write_str(INDEX).is_ok())
            }
            "/metrics" => {
                page.set_content_type(request.format.content_type());
                let written = metrics(shared, Exposition::new(page, request.format, "flytrap"));
                (Status::Ok, written.is_ok())
            }
            "/healthz" => {
                page.set_content_type(JSON);
                let health = Health::of(shared);
                let status = if health.reasons.is_empty() { Status::Ok } else { Status::Unavailable };
                (status, serde_json::to_writer(page, &health).is_ok())
            }
            "/readyz" => {
                let is_ready = shared.is_ready.load(Relaxed);
                let text =
                    if is_ready { "ready\n" } else { "the network has not passed its self-test yet\n" };
                let status = if is_ready { Status::Ok } else { Status::Unavailable };
                (status, page.write_str(text).is_ok())
            }
            "/status.json" => {
                page.set_content_type(JSON);
                (Status::Ok, serde_json::to_writer(page, &Overview::of(shared)).is_ok())
            }
            "/kpi.json" => {
                page.set_content_type(JSON);
                (Status::Ok, serde_json::to_writer(page, &super::kpi::table(shared)).is_ok())
            }
            "/reload" => {
                page.set_content_type(JSON);
                (Status::Ok, serde_json::to_writer(page, &shared.reloads.last()).is_ok())
            }
            _ => return Status::NotFound,
        };
        status
    }
}

/// Does what a client on the socket asks for.
fn post(shared: &Shared, path: &str, page: &mut Page<'_>) -> Status {
    if path != "/reload" {
        return Status::NotAllowed;
    }
    page.set_content_type(JSON);
    let number = shared.reloads.request();
    let _it_is_short = write!(page, "{{\"number\":{number},\"run\":{}}}", shared.run());
    Status::Accepted
}

/// Health is the age of the last good frame of each camera, and of the last delivery (I7).
#[derive(Serialize)]
struct Health {
    status: &'static str,
    reasons: Vec<String>,
    /// Seconds, by camera; `null`: none yet.
    last_frame_age_s: Vec<(Name, Option<u64>)>,
    last_delivery_age_s: Option<u64>,
}

impl Health {
    fn of(shared: &Shared) -> Self {
        let now = shared.clock.mono();
        let Live { frame_age_max, delivery_age_max, .. } = shared.live();
        let (frame_max, delivery_max) = (frame_age_max.as_millis(), delivery_age_max.as_millis());
        let up = millis(now, shared.started);
        let mut reasons = Vec::new();
        let mut ages = Vec::new();
        for (index, camera) in shared.cameras.iter().enumerate() {
            let age = camera.metrics.last_frame().map(|at| millis(now, at));
            if u128::from(age.unwrap_or(up)) > frame_max {
                let seconds = age.unwrap_or(up) / 1000;
                reasons.push(format!("{}: no good frame for {seconds} s", shared.camera_label(index)));
            }
            ages.push((camera.settings().name.clone(), age.map(|age| age / 1000)));
        }
        let delivered = shared.outbox.counters().last_delivery().map(|at| millis(now, at));
        if u128::from(delivered.unwrap_or(up)) > delivery_max {
            reasons.push(format!("no delivery for {} s", delivered.unwrap_or(up) / 1000));
        }
        let status = if reasons.is_empty() { "ok" } else { "failing" };
        Health {
            status,
            reasons,
            last_frame_age_s: ages,
            last_delivery_age_s: delivered.map(|age| age / 1000),
        }
    }
}

/// All figures.
struct Overview {
    now: Mono,
    shared_device: Name,
    stats: Stats,
    storage: Option<Storage>,
    latest: Latest,
    names: heapless::Vec<Name, CAMERAS_MAX>,
}

impl Overview {
    fn of(shared: &Shared) -> Self {
        Overview {
            now: shared.clock.mono(),
            shared_device: shared.config.device.name.clone(),
            stats: shared.snapshot().stats,
            storage: storage(shared),
            latest: shared.latest().clone(),
            names: shared.cameras.iter().map(|camera| camera.settings().name.clone()).collect(),
        }
    }
}

/// Rows of the table as an object.
struct Rows<I>(I);

impl<I: Iterator<Item = (&'static Metric, Option<u64>)> + Clone> Serialize for Rows<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.clone().map(|(metric, value)| (metric.name, value)))
    }
}

impl Serialize for Overview {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("device", &self.shared_device)?;
        map.serialize_entry("version", env!("CARGO_PKG_VERSION"))?;
        map.serialize_entry("stats", &Rows(self.stats.entries()))?;
        map.serialize_entry("machine", &Rows(self.latest.machine.entries()))?;
        map.serialize_entry("storage", &self.storage.as_ref().map(|storage| Rows(storage.entries())))?;
        map.serialize_entry("cameras", &Cameras(self))?;
        map.serialize_entry("today", &Today(self))?;
        map.serialize_entry("alerts", &AlertList(self))?;
        map.end()
    }
}

struct Cameras<'a>(&'a Overview);

impl Serialize for Cameras<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Overview { latest, names, .. } = self.0;
        serializer
            .collect_map(names.iter().zip(&latest.cameras).map(|(name, stats)| (name, Rows(stats.entries()))))
    }
}

struct Today<'a>(&'a Overview);

impl Serialize for Today<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let latest = &self.0.latest;
        map.serialize_entry("since", &latest.today.since.map(|since| since.to_string()))?;
        map.serialize_entry("crossings", &Crossings(self.0))?;
        map.end()
    }
}

struct Crossings<'a>(&'a Overview);

impl Serialize for Crossings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Overview { latest, names, .. } = self.0;
        serializer.collect_map(names.iter().zip(&latest.today.counts))
    }
}

struct AlertList<'a>(&'a Overview);

impl Serialize for AlertList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row<'a> {
            rule: &'a str,
            camera: Option<&'a Name>,
            active: bool,
            /// For how long it holds; `null`: it does not.
            since_s: Option<u64>,
            text: Option<&'a str>,
        }
        let Overview { now, latest, names, .. } = self.0;
        let mut list = serializer.serialize_seq(Some(latest.alerts.len()))?;
        for AlertState { rule, camera, held } in &latest.alerts {
            let since_s = held.as_ref().map(|(since, _)| now.since(*since).as_secs());
            let text = held.as_ref().map(|(_, text)| text.as_str());
            let camera = camera.and_then(|camera| names.get(camera));
            list.serialize_element(&Row { rule, camera, active: held.is_some(), since_s, text })?;
        }
        list.end()
    }
}

/// Writes all families.
fn metrics<W: std::fmt::Write>(shared: &Shared, mut exposition: Exposition<'_, W>) -> std::fmt::Result {
    let page = &mut exposition;
    let labels: heapless::Vec<Name, CAMERAS_MAX> =
        shared.cameras.iter().map(|camera| camera.settings().name.clone()).collect();
    let info = Family { name: "build", kind: Kind::Info, unit: Unit::None, help: "The program." };
    page.family(info)?
        .info(&[("version", env!("CARGO_PKG_VERSION")), ("device", &shared.config.device.name)])?;
    let (latest_cameras, machine, alerts) = {
        let latest = shared.latest();
        (latest.cameras.clone(), latest.machine, latest.alerts.clone())
    };
    for (index, metric) in CameraStats::METRICS.iter().enumerate() {
        let value = |stats: &CameraStats| stats.values()[index];
        let samples = labels.iter().zip(latest_cameras.iter().map(value));
        family(page, "", metric, samples.map(|(name, value)| (Some(name.as_str()), value)))?;
    }
    let shown_elsewhere = |metric: &Metric| {
        let rows = CameraStats::METRICS.iter().chain(Machine::METRICS);
        rows.into_iter().any(|row| row.name == metric.name) || metric.name.starts_with("processing_")
    };
    let totals = Stats::METRICS.iter().zip(shared.snapshot().stats.values());
    families(page, "", totals.filter(|(metric, _)| !shown_elsewhere(metric)))?;
    families(page, "", Machine::METRICS.iter().zip(machine.values()))?;
    if let Some(storage) = storage(shared) {
        families(page, "spool_", Storage::METRICS.iter().zip(storage.values()))?;
    }
    histograms(shared, &labels, page)?;
    let active = Family {
        name: "alert_active",
        kind: Kind::Gauge,
        unit: Unit::None,
        help: "1 while the rule of an alert holds.",
    };
    let mut samples = page.family(active)?;
    for AlertState { rule, camera, held } in &alerts {
        let camera = camera.and_then(|camera| labels.get(camera)).map_or("", |name| name.as_str());
        samples.sample(&[("rule", rule), ("camera", camera)], Some(u64::from(held.is_some())))?;
    }
    exposition.end()
}

fn histograms<W: std::fmt::Write>(
    shared: &Shared,
    labels: &[Name],
    page: &mut Exposition<'_, W>,
) -> std::fmt::Result {
    let now = shared.clock.mono();
    let snapshots: Vec<CameraSnapshot> =
        shared.cameras.iter().map(|camera| camera.metrics.camera_snapshot(now)).collect();
    for time in Time::ALL {
        let metric = time.metric();
        let name = metric.name.trim_end_matches(metric.unit.suffix());
        let histogram = Family { name, kind: Kind::Histogram, unit: Unit::Seconds, help: metric.help };
        let mut samples = page.family(histogram)?;
        for (name, snapshot) in labels.iter().zip(&snapshots) {
            let (bounds, counts) = coarse(snapshot.times.of(time));
            let sum = snapshot.times.of(time).sum_us;
            samples.histogram(
                &[("camera", name)],
                &Buckets { bounds: &bounds, counts: &counts, sum, places: 6 },
            )?;
        }
    }
    Ok(())
}

/// Number of bounds on a page: 1, 2 and 5 of each decade.
const COARSE: usize = 19;

/// A distribution with the bounds 1, 2 and 5 of each decade: a scraper keeps each as a series of its own.
fn coarse(distribution: &Distribution) -> ([u64; COARSE], [u64; COARSE + 1]) {
    let (mut bounds, mut counts) = ([0; COARSE], [0; COARSE + 1]);
    let mut to = 0;
    for (index, count) in distribution.buckets.iter().enumerate() {
        counts[to] += count;
        if index < BOUNDS_US.len() && matches!(index % 10, 0 | 3 | 7) {
            bounds[to] = BOUNDS_US[index];
            to += 1;
        }
    }
    (bounds, counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn coarse_bounds_are_1_2_and_5_and_nothing_is_lost() {
        let histogram = crate::metrics::histogram::Histogram::default();
        for micros in [50, 100, 101, 200, 201, 4_000, 100_000_000, 100_000_001] {
            histogram.add(Duration::from_micros(micros));
        }
        let read = histogram.read();
        let (bounds, counts) = coarse(&read);
        assert_eq!(&bounds[..6], [100, 200, 500, 1000, 2000, 5000]);
        assert_eq!(bounds[COARSE - 1], 100_000_000);
        assert_eq!(counts.iter().sum::<u64>(), read.count());
        assert_eq!((counts[0], counts[1], counts[2], counts[5], counts[18], counts[19]), (2, 2, 1, 1, 1, 1));
    }
}
