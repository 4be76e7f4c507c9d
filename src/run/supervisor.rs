//! The watchdogs' part of the main thread: feeds them while every stage keeps its promises, and tells how runs ended.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::StreamExt;

use crate::base::error::{Error, Kind, Result};
use crate::event::{Body, Restarted, fixed};
use crate::platform::clock::{Clock, Mono};
use crate::platform::watchdog::device::Hardware;
use crate::platform::watchdog::fault::Faults;
use crate::platform::watchdog::history::History;
use crate::platform::watchdog::notify::Notify;
use crate::platform::watchdog::{Ledger, Overdue, Params};

/// Longest time between two looks at the ledger.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// The start goes on and is not late as long as this comes again within its time, 30 s: sd_notify(3).
const START_GOES_ON: &str = "EXTEND_TIMEOUT_USEC=30000000";

/// Everything that wants to be fed, and the reason to.
pub(super) struct Guard {
    ledger: Arc<Ledger>,
    clock: Arc<dyn Clock>,
    faults: Faults,
    started: Mono,
    notify: Notify,
    hardware: Option<Hardware>,
    history: Option<History>,
    timer: smol::Timer,
    is_ready: bool,
    /// Somebody was late: nobody is fed any more, whatever happens.
    hung: Option<Overdue>,
}

impl Guard {
    /// Opens what there is. From here on a hardware watchdog runs.
    ///
    /// # Errors
    /// A hardware watchdog or a supervisor's socket that is named but cannot be used. A state folder that cannot be used is
    /// a warning: the road is counted all the same.
    pub(super) fn open(
        params: &Params,
        state: Option<&Path>,
        boot: &str,
        (ledger, clock, faults): (Arc<Ledger>, Arc<dyn Clock>, Faults),
    ) -> Result<Self> {
        let notify = Notify::from_environment()?;
        let hardware =
            params.device.as_deref().map(|path| Hardware::open(path, params.timeout)).transpose()?;
        if let Some(hardware) = &hardware {
            let (name, timeout) = (hardware.identity(), hardware.timeout());
            tracing::info!("the watchdog {name} resets this board if a stage hangs, within {timeout:?}");
        }
        let was_reset = hardware.as_ref().is_some_and(Hardware::was_reset);
        let history = state.and_then(|folder| match History::begin(folder, boot, was_reset) {
            Ok(history) => Some(history),
            Err(error) => {
                let folder = folder.display();
                tracing::warn!(
                    "device.state_folder '{folder}' cannot be used: {error}; restarts are not counted"
                );
                None
            }
        });
        let started = clock.mono();
        let limits = [hardware.as_ref().map(Hardware::timeout), notify.watchdog()];
        let look = limits.into_iter().flatten().map(|limit| limit / 4).fold(LOOK_MAX, Duration::min);
        let timer = smol::Timer::interval(look);
        Ok(Guard {
            ledger,
            clock,
            faults,
            started,
            notify,
            hardware,
            history,
            timer,
            is_ready: false,
            hung: None,
        })
    }

    /// What the run before this one ended with, as an event, if anything is known.
    pub(super) fn restarted(&self) -> Option<Body> {
        let history = self.history.as_ref()?;
        let before = history.before()?;
        let (starts, failures) = (history.starts(), history.failures());
        tracing::info!(starts, failures, clean = before.clean, "the last run ended: {}", before.reason);
        Some(Body::Restarted(Restarted {
            starts,
            failures,
            clean: before.clean,
            reason: fixed(&before.reason),
        }))
    }

    /// The network has passed its self-test, or there is no camera yet.
    pub(super) fn ready(&mut self) {
        self.is_ready = true;
        self.notify.send("READY=1");
    }

    /// One line about how things are, for `systemctl status`.
    pub(super) fn status(&self, line: impl FnOnce() -> String) {
        if self.notify.present() {
            self.notify.send(&format!("STATUS={}", line()));
        }
    }

    /// Feeds for as long as every stage keeps its promises; comes back when one does not, and from then on at once.
    pub(super) async fn watch(&mut self) -> Overdue {
        loop {
            if let Some(overdue) = self.hung {
                return overdue;
            }
            self.faults.strike(None, self.started, self.clock.mono());
            match self.ledger.overdue(self.clock.mono()) {
                None => self.feed(),
                Some(overdue) => {
                    tracing::error!("{overdue}: the watchdog is fed no more");
                    self.tell_end(&overdue.to_string(), false);
                    self.hung = Some(overdue);
                    continue;
                }
            }
            self.timer.next().await;
        }
    }

    fn feed(&mut self) {
        self.notify.send("WATCHDOG=1");
        if !self.is_ready {
            // A small board may load and try a large network for longer than a supervisor waits by default.
            self.notify.send(START_GOES_ON);
        }
        if let Some(hardware) = &mut self.hardware
            && let Err(error) = hardware.feed()
        {
            tracing::error!("the watchdog cannot be fed: {error}");
        }
    }

    /// Keeps the reason of the end for the next start.
    fn tell_end(&mut self, reason: &str, clean: bool) {
        if let Some(history) = &mut self.history
            && let Err(error) = history.end(reason, clean)
        {
            tracing::warn!("the reason of the end could not be kept: {error}");
        }
    }

    /// The end of the program, with `outcome`; `reason` says why it ended. After a hang a hardware watchdog stays armed and
    /// this does not come back: the board resets.
    pub(super) fn close(mut self, reason: &str, outcome: Result<()>) -> Result<()> {
        let Some(overdue) = self.hung else {
            self.notify.send("STOPPING=1");
            let asked_for = outcome.as_ref().map_or_else(|error| error.kind() == Kind::Delivery, |()| true);
            match &outcome {
                Err(error) if !asked_for => self.tell_end(&error.to_string(), false),
                Ok(()) | Err(_) => self.tell_end(reason, true),
            }
            match self.hardware.take() {
                Some(hardware) if asked_for => hardware.close(),
                Some(hardware) => {
                    let left = hardware.timeout();
                    tracing::warn!(
                        "the watchdog stays armed: the board resets in {left:?} unless flytrap runs again"
                    );
                }
                None => {}
            }
            return outcome;
        };
        if let Some(hardware) = &self.hardware {
            tracing::error!("waiting for the watchdog to reset the board, within {:?}", hardware.timeout());
            loop {
                std::thread::park();
            }
        }
        Err(Error::fatal(Kind::System, format!("{overdue}: ended so that the supervisor starts it anew")))
    }
}
