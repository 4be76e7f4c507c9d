//! Reads the configuration again and applies what changed: SIGHUP, `flytrap reload`.
//!
//! ```text
//!   file ─► Config::load ─ mistakes ─► nothing changes; the log says what is wrong
//!              │
//!              ▼
//!           diff with the settings in force, by what each change needs
//!              ├─ takes effect at once: stages, uplink and spool get their new settings between two pieces of work
//!              ├─ restarts the camera: its capture thread closes the source, and opens it with the new settings; others go on
//!              └─ needs a restart of the program: stays as it is, and the log says so
//! ```
//! Events that were posted are not touched: the outbox, the spool and the uplink go on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::inference::Requests;
use super::{Live, Loader, Shared, sources};
use crate::base::error::Result;
use crate::config::Config;
use crate::config::diff::{Change, Changed, Difference};
use crate::config::in_force::InForce;
use crate::delivery::uplink::LiveParams;
use crate::vision::detect::model::{Classes, wanted_classes};

/// How often the watchdogs are fed while the file is read.
const FEED: std::time::Duration = std::time::Duration::from_secs(1);

/// What a reload needs.
pub(super) struct Reload {
    pub(super) shared: Arc<Shared>,
    pub(super) again: Arc<Loader>,
    /// The settings in force: those of the start, and all changes that were applied.
    pub(super) in_force: InForce,
    /// The model's classes.
    pub(super) classes: Classes,
    pub(super) uplink: Arc<LiveParams>,
    pub(super) requests: Requests,
}

impl Reload {
    /// Reads the configuration and applies it. A slow disk does not hold up the caller: `feed` is called meanwhile.
    pub(super) async fn run(&mut self, mut feed: impl FnMut()) {
        let again = Arc::clone(&self.again);
        let reading = smol::unblock(move || again());
        futures_lite::pin!(reading);
        let config = loop {
            let late = async {
                smol::Timer::after(FEED).await;
                None
            };
            match futures_lite::FutureExt::or(async { Some((&mut reading).await) }, late).await {
                Some(config) => break config,
                None => feed(),
            }
        };
        match config.and_then(|config| self.apply(&config)) {
            Ok(difference) => log(&difference),
            Err(error) => tracing::error!("the configuration is not reloaded, nothing changes: {error}"),
        }
    }

    /// Applies all changes that do not need a restart of the program; returns all of them.
    fn apply(&mut self, new: &Config) -> Result<Difference> {
        sources(new)?;
        for camera in &new.cameras {
            wanted_classes(&camera.classes, &self.classes)?;
        }
        let difference = self.in_force.diff(&new.in_force);
        let shared = &self.shared;
        for (index, state) in shared.cameras.iter().enumerate() {
            let name = state.settings().name.clone();
            let new = match (&shared.cameras[..], &new.cameras[..]) {
                ([_], [only]) => Some(only),
                (_, cameras) => cameras.iter().find(|camera| camera.name == name),
            };
            let is_own = |changed: &&Changed| changed.camera.as_deref().is_none_or(|camera| camera == name);
            let needs = difference.of_cameras().filter(is_own).map(|changed| changed.needs).max();
            let Some(new) = new else { continue };
            // Another mode of the camera may be needed.
            let needs = needs.max((new.fps > state.settings().fps).then_some(Change::RestartCamera));
            match needs.unwrap_or(Change::Nothing) {
                Change::Nothing | Change::RestartProcess => {}
                needs @ (Change::Live | Change::RestartCamera) => {
                    state.set(new.clone());
                    if needs == Change::RestartCamera {
                        state.changes.fetch_add(1, Relaxed);
                    }
                    self.requests.changed(index);
                }
            }
        }
        *shared.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Live::of(new);
        shared.spool.set(&new.spool.params, new.uplink.batching);
        self.uplink.set(new.uplink.delivery);
        self.uplink.set_labels(new.labels());
        shared.outbox.wake();
        self.in_force = new.in_force.without(&self.in_force, difference.pending());
        Ok(difference)
    }
}

/// What was applied, and what waits.
fn log(difference: &Difference) {
    if difference.needs() == Change::Nothing {
        tracing::info!("the configuration is reloaded: nothing changed");
        return;
    }
    tracing::info!("the configuration is reloaded: {difference}");
    let pending: Vec<&str> = difference.pending().map(|changed| changed.key.as_str()).collect();
    if !pending.is_empty() {
        tracing::warn!("these settings take effect at the next start: {}", pending.join(", "));
    }
}
