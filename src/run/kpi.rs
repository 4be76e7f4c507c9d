//! The KPI table of this run.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Shared;
use super::shared::CameraState;
use crate::metrics::kpi::{CameraFigures, Figures, Row, rows};
use crate::metrics::table::Time;
use crate::platform::system;

/// A rate over less says nothing yet.
const MEASURED_FROM: Duration = Duration::from_secs(10);

/// The table, of the time since the start.
pub(super) fn table(shared: &Shared) -> Vec<Row> {
    // A recording takes as much of the CPU as it can get.
    let usage = if shared.options.until_end { None } else { shared.latest().usage_since_start() };
    let cpu_permille = usage.and_then(|usage| usage.machine_permille);
    let figures = Figures {
        cameras: shared.cameras.iter().map(|camera| of_camera(shared, camera)).collect(),
        memory_peak_bytes: Some(system::peak_since_start_bytes()).filter(|bytes| *bytes > 0),
        cpu_permille,
        accuracy: shared.accuracy.clone(),
    };
    rows(&shared.live().kpi, &figures)
}

fn of_camera(shared: &Shared, camera: &CameraState) -> CameraFigures {
    let now = shared.processing_ended.get().copied().unwrap_or_else(|| shared.clock.mono());
    let settings = camera.settings();
    let snapshot = camera.metrics.camera_snapshot(now);
    let looked_at = snapshot.stats.inferences + snapshot.stats.frames_still;
    // A camera that has never been there has a rate of 0, once it counts as failed; before, it has none.
    let first_frame = camera.metrics.first_frame();
    let time = now.since(first_frame.unwrap_or(shared.started));
    let measured_from = match first_frame {
        _ if shared.processing_ended.get().is_some() => Duration::ZERO,
        Some(_) => MEASURED_FROM,
        None if shared.is_ready.load(Relaxed) => shared.live().frame_age_max,
        None => Duration::MAX,
    };
    let rate = looked_at as f64 / time.as_secs_f64().max(1e-3);
    // The frames of a recording have its own time.
    let latency = if shared.options.until_end { Time::Processing } else { Time::Latency };
    CameraFigures {
        name: (shared.cameras.len() > 1).then(|| settings.name.to_string()),
        rate_target: (!shared.options.until_end).then(|| f64::from(settings.fps)),
        rate: (time >= measured_from).then_some(rate),
        latency_p95_us: snapshot.times.of(latency).percentile_us(0.95),
        latency_note: shared.options.until_end.then(|| "of a recording: processing only".to_owned()),
    }
}
