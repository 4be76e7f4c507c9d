//! The supervisor in the main thread: feeds the watchdogs while every stage meets its heartbeat deadline, and records how runs ended.

use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_lite::StreamExt;

use crate::base::error::{Error, Kind, Result};
use crate::event::{Body, Restarted, fixed};
use crate::platform::clock::{Clock, Mono};
use crate::platform::threads;
use crate::platform::watchdog::device::Hardware;
use crate::platform::watchdog::fault::Faults;
use crate::platform::watchdog::history::History;
use crate::platform::watchdog::notify::Notify;
use crate::platform::watchdog::{Ledger, Overdue, Params};

/// Longest interval between two checks of the deadlines.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// A capture thread that hangs alone ends the program only after this time: nothing but a restart can free a camera whose driver hangs, and
/// a restart costs the other cameras some seconds.
const ALONE_MAX: Duration = Duration::from_secs(3600);

/// Longest wait until the end of a run is recorded on disk: the disk may be what hangs.
const RECORD_MAX: Duration = Duration::from_secs(3);

/// A slow start does not time out as long as this message is repeated within its time, 30 s: sd_notify(3).
const START_GOES_ON: &str = "EXTEND_TIMEOUT_USEC=30000000";

/// State shared by the stages and the supervisor.
pub(super) struct Watched {
    /// The deadline of each stage for its next finished work.
    pub(super) ledger: Arc<Ledger>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) faults: Faults,
}

/// Feeds the watchdogs, or stops feeding them.
pub(super) struct Supervisor {
    watched: Watched,
    started: Mono,
    notify: Notify,
    hardware: Option<Hardware>,
    recorder: Option<Recorder>,
    restarted: Option<Restarted>,
    timer: smol::Timer,
    is_ready: bool,
    /// A stage was late: no watchdog is fed from then on, whatever happens.
    hung: Option<Overdue>,
}

impl Supervisor {
    /// Opens the watchdogs that are configured. From here on a hardware watchdog runs.
    ///
    /// # Errors
    /// A configured hardware watchdog cannot be used. An unreachable service manager and an unusable state folder are only warnings:
    /// counting continues without them.
    pub(super) fn open(params: &Params, state: Option<&Path>, boot: &str, watched: Watched) -> Result<Self> {
        let notify = Notify::from_environment();
        let hardware =
            params.device.as_deref().map(|path| Hardware::open(path, params.timeout)).transpose()?;
        if let Some(hardware) = &hardware {
            let (name, timeout) = (hardware.identity(), hardware.timeout());
            tracing::info!("the watchdog {name} resets this board if a stage hangs, within {timeout:?}");
        }
        let was_reset = hardware.as_ref().is_some_and(Hardware::was_reset);
        let history = state.and_then(|folder| begin_history(folder, boot, was_reset));
        let restarted = history.as_ref().and_then(restarted);
        let recorder = history.and_then(Recorder::start);
        let started = watched.clock.mono();
        let limits = [hardware.as_ref().map(Hardware::timeout), notify.watchdog()];
        let look = limits.into_iter().flatten().map(|limit| limit / 4).fold(LOOK_MAX, Duration::min);
        let timer = smol::Timer::interval(look);
        Ok(Supervisor {
            watched,
            started,
            notify,
            hardware,
            recorder,
            restarted,
            timer,
            is_ready: false,
            hung: None,
        })
    }

    /// How the previous run ended, as an event, if it is known.
    pub(super) fn restarted(&self) -> Option<Body> {
        self.restarted.clone().map(Body::Restarted)
    }

    /// The network has passed its self-test, or there is no camera yet.
    pub(super) fn ready(&mut self) {
        self.is_ready = true;
        self.notify.send("READY=1");
    }

    /// One status line for `systemctl status`.
    pub(super) fn status(&self, line: impl FnOnce() -> String) {
        if self.notify.present() {
            self.notify.send(&format!("STATUS={}", line()));
        }
    }

    /// Feeds the watchdogs while counting goes on; returns when it does not, and immediately on every later call. One of several cameras
    /// whose capture hangs does not stop the others: see `run::hanging`.
    pub(super) async fn watch(&mut self) -> Overdue {
        self.watch_by(|ledger, now| ledger.overdue_for_all(now, ALONE_MAX)).await
    }

    /// As [`Supervisor::watch`], but returns when any stage misses its deadline: during shutdown everything waits for every stage.
    pub(super) async fn watch_all(&mut self) -> Overdue {
        self.watch_by(Ledger::overdue).await
    }

    async fn watch_by(&mut self, overdue: impl Fn(&Ledger, Mono) -> Option<Overdue>) -> Overdue {
        loop {
            if let Some(overdue) = &self.hung {
                return overdue.clone();
            }
            self.watched.faults.inject(None, self.started, self.watched.clock.mono());
            match overdue(&self.watched.ledger, self.watched.clock.mono()) {
                None => self.feed(),
                Some(overdue) => {
                    // First the record for the next start, then the log message.
                    self.hung = Some(overdue.clone());
                    self.record_end(&overdue.to_string(), false);
                    tracing::error!("{overdue}: the watchdog is fed no more");
                    continue;
                }
            }
            self.timer.next().await;
        }
    }

    /// The configuration is being read again (`Type=notify-reload`).
    pub(super) fn reloading(&self) {
        let micros = self.watched.clock.mono().as_nanos() / 1000;
        self.notify.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// That is done.
    pub(super) fn reloaded(&self, is_up: bool) {
        if is_up {
            self.notify.send("READY=1");
        }
    }

    /// Feeds the watchdogs once, if counting goes on.
    pub(super) fn feed_if_on_time(&mut self) {
        let now = self.watched.clock.mono();
        if self.watched.ledger.overdue_for_all(now, ALONE_MAX).is_none() {
            self.feed();
        }
    }

    /// Feeds the watchdogs once.
    pub(super) fn feed(&mut self) {
        self.notify.send("WATCHDOG=1");
        if !self.is_ready {
            // A small board may take longer to load and test a large network than a service manager waits by default.
            self.notify.send(START_GOES_ON);
        }
        if let Some(hardware) = &mut self.hardware
            && let Err(error) = hardware.feed()
        {
            tracing::error!("the watchdog cannot be fed: {error}");
        }
    }

    /// Records the reason of the end for the next start.
    fn record_end(&self, reason: &str, clean: bool) {
        if let Some(recorder) = &self.recorder
            && let Err(why) = recorder.end(reason, clean)
        {
            tracing::warn!("the reason of the end could not be kept: {why}");
        }
    }

    /// Ends the program with `outcome`; `reason` says why. After a hang a hardware watchdog stays armed and this never returns: the board
    /// resets.
    pub(super) fn close(mut self, reason: &str, outcome: Result<()>) -> Result<()> {
        let Some(overdue) = self.hung else {
            self.notify.send("STOPPING=1");
            let asked_for = outcome.as_ref().map_or_else(|error| error.kind() == Kind::Delivery, |()| true);
            match &outcome {
                Err(error) if !asked_for => self.record_end(&error.to_string(), false),
                Ok(()) | Err(_) => self.record_end(reason, true),
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
        Err(Error::fatal(Kind::System, format!("{overdue}: ended so that its supervisor starts it again")))
    }
}

fn begin_history(folder: &Path, boot: &str, was_reset: bool) -> Option<History> {
    let error = match History::begin(folder, boot, was_reset) {
        Ok(history) => return Some(history),
        Err(error) => error,
    };
    let folder = folder.display();
    if error.kind() == io::ErrorKind::WouldBlock {
        tracing::warn!(
            "device.state_folder '{folder}': another flytrap uses it: give each its own; this one's restarts are not counted"
        );
    } else {
        tracing::warn!("device.state_folder '{folder}' cannot be used: {error}; restarts are not counted");
    }
    None
}

fn restarted(history: &History) -> Option<Restarted> {
    let before = history.before()?;
    let (starts, failures) = (history.starts(), history.failures());
    tracing::info!(starts, failures, clean = before.clean, "the last run ended: {}", before.reason);
    Some(Restarted { starts, failures, clean: before.clean, reason: fixed(&before.reason) })
}

/// Writes the end of the run into the history. It runs on a thread of its own, because the disk may be what hangs: the caller waits for it
/// for [`RECORD_MAX`] at most. The thread exists from the start, because later the system may be out of threads.
struct Recorder {
    ends: mpsc::Sender<End>,
    recorded: mpsc::Receiver<io::Result<()>>,
}

struct End {
    reason: String,
    clean: bool,
}

impl Recorder {
    fn start(mut history: History) -> Option<Self> {
        let (ends, to_record) = mpsc::channel::<End>();
        let (record, recorded) = mpsc::channel();
        let body = move || {
            for End { reason, clean } in to_record {
                let _nobody_waits_any_more = record.send(history.end(&reason, clean));
            }
        };
        match threads::spawn("history", body) {
            Ok(_) => Some(Recorder { ends, recorded }),
            Err(error) => {
                tracing::warn!("{error}; the end of this run will not be recorded");
                None
            }
        }
    }

    fn end(&self, reason: &str, clean: bool) -> Result<(), String> {
        let end = End { reason: reason.to_owned(), clean };
        self.ends.send(end).map_err(|_| "its thread is gone".to_owned())?;
        match self.recorded.recv_timeout(RECORD_MAX) {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the disk did not write it within {RECORD_MAX:?}")),
        }
    }
}
