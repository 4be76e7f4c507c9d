//! The KPI table of this run.

use super::Shared;
use super::shared::CameraState;
use crate::metrics::kpi::{CameraFigures, Figures, Row, rows};
use crate::metrics::table::Time;
use crate::platform::machine::Usage;
use crate::platform::system;

/// The table, of the time since the start.
pub(super) fn table(shared: &Shared) -> Vec<Row> {
    let figures = Figures {
        cameras: shared.cameras.iter().map(|camera| of_camera(shared, camera)).collect(),
        memory_peak_bytes: Some(system::peak_resident_bytes()).filter(|bytes| *bytes > 0),
        cpu_permille: shared.latest().usage_since_start().and_then(|usage: Usage| usage.machine_permille),
        accuracy: shared.accuracy.clone(),
    };
    rows(&shared.live().kpi, &figures)
}

fn of_camera(shared: &Shared, camera: &CameraState) -> CameraFigures {
    let now = shared.processing_ended.get().copied().unwrap_or_else(|| shared.clock.mono());
    let settings = camera.settings();
    let snapshot = camera.metrics.camera_snapshot(now);
    let looked_at = snapshot.stats.inferences + snapshot.stats.frames_still;
    // A camera that has never been there has a rate of 0; but a program that has just started has none yet.
    let since = camera.metrics.first_frame().unwrap_or(shared.started);
    let seconds = now.since(since).as_secs_f64();
    // The frames of a recording have its own time.
    let latency = if shared.options.until_end { Time::Processing } else { Time::Latency };
    CameraFigures {
        name: (shared.cameras.len() > 1).then(|| settings.name.to_string()),
        rate_target: (!shared.options.until_end).then(|| f64::from(settings.fps)),
        rate: (seconds > 1.0 || shared.processing_ended.get().is_some())
            .then(|| looked_at as f64 / seconds.max(1e-3)),
        latency_p95_us: snapshot.times.of(latency).percentile_us(0.95),
    }
}
