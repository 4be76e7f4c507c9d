//! Reads the configuration again and applies what changed: SIGHUP, `flytrap reload` (over the status socket).
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

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use smol::channel::{Receiver, Sender, bounded};

use super::inference::Requests;
use super::shared::rules_of;
use super::{Live, Loader, Shared, sources};
use crate::base::error::{Error, Kind, Result};
use crate::config::diff::{Change, Changed, Difference};
use crate::config::in_force::InForce;
use crate::config::{Config, LIMITS};
use crate::delivery::uplink::LiveParams;
use crate::metrics::alert::Rule;
use crate::vision::detect::model::{Classes, wanted_classes};

/// How often the watchdogs are fed while the file is read.
const FEED: Duration = Duration::from_secs(1);
/// How long a disk may take to give the file.
const READ_MAX: Duration = Duration::from_secs(60);
/// Shortest time between two reloads that clients of the status socket ask for.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Requests for a reload, by number, and what became of the last.
pub(crate) struct Reloads {
    requested: AtomicU64,
    last: Mutex<Outcome>,
    /// Wakes the main thread.
    bell: (Sender<()>, Receiver<()>),
}

/// What became of a reload.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Outcome {
    /// The number of the newest request that it fulfils; 0: there was none.
    number: u64,
    /// Whether the file was good. If not, nothing has changed.
    applied: bool,
    /// Which run of the program: when it started, nanoseconds on the boot clock.
    run: u64,
    /// What was done, or why nothing was.
    text: String,
    /// Settings that take effect at the next start.
    pending: Vec<String>,
}

impl Default for Reloads {
    fn default() -> Self {
        Reloads { requested: AtomicU64::new(0), last: Mutex::default(), bell: bounded(1) }
    }
}

impl Reloads {
    /// Asks for a reload. Returns its number.
    pub(super) fn request(&self) -> u64 {
        let number = self.requested.fetch_add(1, Relaxed) + 1;
        // If it is full, the reload that begins next fulfils this request too.
        let _rung = self.bell.0.try_send(());
        number
    }

    /// Waits for the next request.
    pub(super) async fn requested(&self) {
        if self.bell.1.recv().await.is_err() {
            futures_lite::future::pending::<()>().await;
        }
    }

    /// The last one.
    pub(super) fn last(&self) -> Outcome {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn finish(&self, outcome: Outcome) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
    }
}

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
        let number = self.shared.reloads.requested.load(Relaxed);
        let again = Arc::clone(&self.again);
        let reading = smol::unblock(move || again());
        futures_lite::pin!(reading);
        let until = self.shared.clock.mono() + READ_MAX;
        let config = loop {
            let late = async {
                smol::Timer::after(FEED).await;
                None
            };
            match futures_lite::FutureExt::or(async { Some((&mut reading).await) }, late).await {
                Some(config) => break config,
                None if self.shared.clock.mono() > until => {
                    let text = format!("the file could not be read within {READ_MAX:?}: check the disk");
                    break Err(Error::retry(Kind::System, text));
                }
                None => feed(),
            }
        };
        let applied = config.and_then(|config| self.apply(&config));
        let outcome = outcome(number, self.shared.run(), applied);
        let Outcome { applied, text, pending, .. } = &outcome;
        match applied {
            true => tracing::info!("{text}"),
            false => tracing::error!("{text}"),
        }
        if !pending.is_empty() {
            tracing::warn!("these settings take effect at the next start: {}", pending.join(", "));
        }
        self.shared.reloads.finish(outcome);
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
        *shared.live.lock().unwrap_or_else(PoisonError::into_inner) = Live::of(new);
        let rules = rules_of(new, shared.options);
        let rules = with_limits_in_force(rules, &shared.rules(), &difference);
        if rules[..] != *shared.rules() {
            *shared.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules.into();
        }
        shared.spool.set(&new.spool.params, new.uplink.batching);
        self.uplink.set(new.uplink.delivery);
        self.uplink.set_labels(new.labels());
        shared.outbox.wake();
        self.in_force = new.in_force.without(&self.in_force, difference.pending());
        Ok(difference)
    }
}

/// The rules of a new file, but those of the defaults whose limit is a setting that waits for the next start as they are.
fn with_limits_in_force(mut new: Vec<Rule>, old: &[Rule], difference: &Difference) -> Vec<Rule> {
    for (key, name) in LIMITS {
        if difference.pending().any(|changed| changed.key == key)
            && let Some(old) = old.iter().find(|rule| rule.name == name)
        {
            new.iter_mut().filter(|rule| rule.name == name).for_each(|rule| rule.clone_from(old));
        }
    }
    new
}

/// In words.
fn outcome(number: u64, run: u64, result: Result<Difference>) -> Outcome {
    let (applied, text, pending) = match result {
        Ok(difference) => {
            let pending = difference.pending().map(|changed| changed.key.clone()).collect();
            (true, format!("the configuration is reloaded: {difference}"), pending)
        }
        Err(error) => {
            (false, format!("the configuration is not reloaded, nothing changes: {error}"), Vec::new())
        }
    };
    Outcome { number, run, applied, text, pending }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reload_fulfils_all_requests_before_it() {
        let reloads = Reloads::default();
        assert_eq!(reloads.last().number, 0);
        assert_eq!((reloads.request(), reloads.request()), (1, 2));
        smol::block_on(reloads.requested());
        assert!(reloads.bell.1.is_empty(), "two requests, one reload");
        reloads.finish(outcome(2, 1, Err(Error::fatal(Kind::Config, "line 3"))));
        let last = reloads.last();
        assert_eq!((last.number, last.applied), (2, false));
        assert!(last.text.contains("nothing changes: line 3"), "{}", last.text);
    }
}
