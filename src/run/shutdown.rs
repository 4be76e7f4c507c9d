//! Shutdown: the stages end one after the other, remaining events are delivered or kept, and the result is reported.
//!
//! ```text
//!   why it ends ──► stages end  ──► last statistics, `stopping` ──► outbox closes ──► uplink drains ──► spool commits
//!   recording over    (signals        │                                                 at most uplink.drain_s
//!   signal             only)          │ a second signal, a hung stage: immediately
//!   stage hangs                       ▼
//! ```

use futures_lite::FutureExt;
use smol::channel::Receiver;

use super::Shared;
use super::signals::EndSignals;
use super::supervisor::Supervisor;
use crate::base::error::{Error, Kind, Result};
use crate::delivery::uplink::{Report, http};
use crate::event::{Body, fixed};
use crate::platform::watchdog::{Overdue, Stage};

/// Why the program ends.
#[derive(Debug)]
pub(super) enum End {
    /// All sources have ended, with their recordings or on request, and what they delivered is processed.
    Sources(Result<()>),
    /// A signal, by its name.
    Signal(&'static str),
    /// A stage hangs.
    Hung(Overdue),
}

/// What the main thread receives from the other threads. Each channel carries one message.
pub(super) struct Reports {
    /// The network has passed its self-test, or there is no camera yet.
    pub(super) ready: Receiver<()>,
    /// The pipeline has ended, after all captures.
    pub(super) processed: Receiver<Result<()>>,
    /// The uplink has ended.
    pub(super) delivered: Receiver<Report>,
}

impl Reports {
    /// The pipeline's result, which contains that of the captures; a thread that panicked has none.
    pub(super) async fn processing_ended(&self) -> Result<()> {
        match self.processed.recv().await {
            Ok(result) => result,
            Err(_) => Err(Error::fatal(Kind::System, "the pipeline thread failed; see the message above")),
        }
    }
}

/// Shuts everything down because of `end`. Returns when everything that was possible is done.
///
/// # Errors
/// What failed, or `Kind::Delivery` if events were lost.
pub(super) async fn shut_down(
    shared: &Shared,
    mut supervisor: Supervisor,
    mut signals: EndSignals,
    reports: &Reports,
    end: End,
) -> Result<()> {
    let (outcome, reason) = stages_leave(shared, &mut supervisor, &mut signals, reports, end).await;
    let _only_once = shared.processing_ended.set(shared.clock.mono());
    shared.post_stats();
    shared.post_own(Body::Stopping { reason: fixed(&reason) });
    shared.outbox.close(shared.clock.mono());
    let delivered = async { reports.delivered.recv().await.map_err(|_| left_at_once()) };
    let again = async {
        signals.second_request(&*shared.clock).await;
        Err(left_at_once())
    };
    let outcome = match delivered.or(again).or(while_draining(shared, &mut supervisor)).await {
        Ok(report) => {
            log_summary(shared, &report);
            outcome.and_then(|()| all_delivered(shared, &report))
        }
        Err(error) => Err(error),
    };
    supervisor.close(&reason, outcome)
}

/// Waits for the captures and the pipeline, if they have not ended. Returns its outcome, and the reason of the end as text.
async fn stages_leave(
    shared: &Shared,
    supervisor: &mut Supervisor,
    signals: &mut EndSignals,
    reports: &Reports,
    end: End,
) -> (Result<()>, String) {
    let (outcome, reason) = match end {
        End::Sources(result) => {
            let what = if shared.cameras.len() == 1 { "the source" } else { "all sources" };
            tracing::info!("{what} ended: the last events are delivered");
            (result, format!("{what} ended"))
        }
        End::Hung(overdue) => (Ok(()), overdue.to_string()),
        End::Signal(name) => {
            tracing::info!("{name}: shutting down; repeat it to exit immediately");
            shared.stop.request();
            let again = async {
                signals.second_request(&*shared.clock).await;
                Err(left_at_once())
            };
            // A stage that hangs now costs only its own part of the final report.
            let hung = async {
                supervisor.watch_all().await;
                Ok(())
            };
            (reports.processing_ended().or(again).or(hung).await, name.to_owned())
        }
    };
    match &outcome {
        Err(error) => {
            let reason = error.to_string();
            (outcome, reason)
        }
        Ok(()) => (outcome, reason),
    }
}

/// Feeds the watchdogs while the last events are delivered. If a stage hangs, the uplink still gets its drain time, unless the uplink is
/// that stage.
async fn while_draining(shared: &Shared, supervisor: &mut Supervisor) -> Result<Report> {
    let overdue = supervisor.watch_all().await;
    if overdue.stage != Stage::Uplink {
        smol::Timer::after(shared.live().drain).await;
    }
    Err(left_at_once())
}

fn all_delivered(shared: &Shared, report: &Report) -> Result<()> {
    let Report { undelivered, refused, .. } = *report;
    let kept = if shared.spool.state().is_durable() { undelivered } else { 0 };
    if kept > 0 {
        tracing::info!("{kept} events wait on disk for the next start");
    }
    let (lost, dropped) = (undelivered - kept, shared.snapshot().stats.events_dropped);
    let tally = shared.spool.state().tally;
    let (damaged, lost_segments) = (tally.damaged_events, tally.lost_segments);
    if lost + refused + dropped + damaged + lost_segments == 0 {
        return Ok(());
    }
    let to = http::redacted(&shared.config.uplink.target.first);
    let text = format!(
        "events lost: {lost} not delivered to {to} within uplink.drain_s, {refused} refused by it, {dropped} \
         dropped because there was no room (uplink.queue_events, spool), {damaged} damaged on disk, an unknown number in {lost_segments} truncated or damaged files: the lines above say why"
    );
    Err(Error::fatal(Kind::Delivery, text))
}

fn log_summary(shared: &Shared, report: &Report) {
    let stats = shared.snapshot().stats;
    tracing::info!(
        frames = stats.frames_captured,
        looked_at = stats.inferences,
        still = stats.frames_still,
        tracks = stats.tracks,
        crossings = stats.crossings,
        delivered = report.delivered,
        undelivered = report.undelivered,
        refused = report.refused,
        dropped = report.dropped,
        "the end"
    );
}

fn left_at_once() -> Error {
    Error::fatal(
        Kind::Delivery,
        "exited immediately on a second signal: events that were neither delivered nor on disk are lost",
    )
}
