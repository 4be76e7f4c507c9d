//! Reports problems of the spool, as events and in the log: lost events, a failing or missing disk, excessive flash wear; and an uplink
//! that needs human action. The caller provides thread and clock; the work is done by [`SpoolWriter`].
//!
//! [`SpoolWriter`]: super::SpoolWriter

use std::time::Duration;

use super::{Class, State, Tally};
use crate::event::{Body, Dropped, RecordError, fixed};
use crate::platform::clock::Mono;

/// Shortest time between two reports of losses.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Expected state of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MonitorParams {
    /// There should be a disk.
    pub wants_disk: bool,
    /// Bytes that may be written in 24 hours; `None`: no limit.
    pub write_budget: Option<u64>,
}

/// Current state.
#[derive(Debug, Clone, Copy)]
pub struct Condition<'a> {
    /// The spool.
    pub state: &'a State,
    /// Bytes written in the last 24 hours.
    pub written_day_bytes: u64,
    /// Why nothing is delivered, if human action is needed.
    pub uplink_trouble: Option<&'a str>,
}

/// What was reported so far.
#[derive(Debug)]
pub struct SpoolMonitor {
    params: MonitorParams,
    tally: Tally,
    /// Time of the last report of a loss.
    reported_at: Mono,
    /// The disk fails.
    in_trouble: bool,
    is_over_budget: bool,
    /// The uplink needs human action.
    uplink_in_trouble: bool,
}

impl SpoolMonitor {
    /// Another budget from the next report on.
    pub fn set_write_budget(&mut self, budget: Option<u64>) {
        self.params.write_budget = budget;
    }

    /// Nothing was reported yet.
    pub fn new(params: MonitorParams) -> Self {
        SpoolMonitor {
            params,
            tally: Tally::default(),
            reported_at: Mono::ZERO,
            in_trouble: false,
            is_over_budget: false,
            uplink_in_trouble: false,
        }
    }

    /// Whether [`Self::report`] would do nothing at `now`, whatever has happened.
    pub fn is_silent(&self, now: Mono) -> bool {
        now.since(self.reported_at) < REPORT_EVERY
    }

    /// Reports to `on` what is new.
    pub fn report(&mut self, now: Mono, condition: &Condition<'_>, on: &mut dyn FnMut(Body)) {
        if self.is_silent(now) {
            return;
        }
        self.report_detached(condition.state, on);
        self.report_losses(now, condition.state, on);
        self.report_trouble(condition.state, on);
        self.report_budget(condition.written_day_bytes, on);
        let uplink = condition.uplink_trouble;
        if let Some(why) = uplink.filter(|_| !self.uplink_in_trouble) {
            // This event is delivered when the problem is solved, or through a fall-back: so it is known when and why nothing arrived.
            on(Body::Degraded { reason: fixed(&format!("uplink: {why}")) });
        }
        self.uplink_in_trouble = uplink.is_some();
        self.tally = condition.state.tally;
    }

    /// The folder is gone.
    fn report_detached(&self, state: &State, on: &mut dyn FnMut(Body)) {
        if state.tally.detached > self.tally.detached {
            let why = state.why_detached.as_deref().unwrap_or("its folder is gone");
            let text = format!("spool: {why}: the events in it cannot be reached");
            tracing::error!("{text}; the folder is opened again");
            on(Body::Degraded { reason: fixed(&text) });
        }
    }

    fn report_losses(&mut self, now: Mono, state: &State, on: &mut dyn FnMut(Body)) {
        let (tally, reported) = (&state.tally, self.tally);
        for class in Class::ALL {
            let (lost, before) = (tally.dropped[class as usize], reported.dropped[class as usize]);
            let reason = state.last_drop[class as usize].map_or("memory", |reason| reason.name());
            self.report_loss(now, dropped(class.name(), reason, lost - before, lost), on);
        }
        let (lost, before) = (tally.damaged_events, reported.damaged_events);
        self.report_loss(now, dropped("unknown", "damage", lost - before, lost), on);
        let newer = tally.newer_events - reported.newer_events;
        if newer > 0 {
            let version = RecordError::Version(tally.newer_version);
            tracing::error!("spool: {version}; {newer} events of the newer one are skipped");
        }
        self.report_loss(now, dropped("unknown", "version", newer, tally.newer_events), on);
    }

    fn report_loss(&mut self, now: Mono, loss: Dropped, on: &mut dyn FnMut(Body)) {
        let Dropped { class, reason, events, .. } = &loss;
        if *events > 0 {
            self.reported_at = now;
            tracing::warn!("spool: {events} events ({class}) were dropped: {reason}");
            on(Body::Dropped(loss));
        }
    }

    /// The disk fails, or some of its files are damaged.
    fn report_trouble(&mut self, state: &State, on: &mut dyn FnMut(Body)) {
        let lost = state.tally.lost_segments - self.tally.lost_segments;
        if lost > 0 {
            let text = format!(
                "spool: {lost} files are truncated or damaged, an unknown number of events is lost: see 'flytrap spool ls'"
            );
            tracing::error!("{text}");
            on(Body::Degraded { reason: fixed(&text) });
        }
        if state.tally.set_aside > self.tally.set_aside {
            let text = "spool: damaged files are set aside: inspect them with 'flytrap spool ls'";
            tracing::error!("{text}");
            on(Body::Degraded { reason: fixed(text) });
        }
        let is_missing = self.params.wants_disk && !state.has_disk;
        let trouble = state.trouble.as_deref().or_else(|| is_missing.then_some("it cannot be opened"));
        if let Some(why) = trouble.filter(|_| !self.in_trouble) {
            let text = format!("spool: the disk fails: {why}");
            tracing::error!("{text}; events wait in memory; the disk is tried again");
            on(Body::Degraded { reason: fixed(&text) });
        }
        if self.in_trouble && trouble.is_none() {
            tracing::info!("spool: the disk works again");
        }
        self.in_trouble = trouble.is_some();
    }

    /// Flash wear above the planned amount is reported once, and again only after it was below.
    fn report_budget(&mut self, written: u64, on: &mut dyn FnMut(Body)) {
        let Some(budget) = self.params.write_budget else { return };
        if written > budget && !self.is_over_budget {
            let (written, budget) = (written >> 20, budget >> 20);
            let text = format!(
                "spool: {written} MB written in a day, more than spool.write_budget_mb_per_day = {budget}"
            );
            tracing::warn!("{text}");
            on(Body::Degraded { reason: fixed(&text) });
        }
        self.is_over_budget = written > budget;
    }
}

fn dropped(class: &str, reason: &str, events: u64, total: u64) -> Dropped {
    Dropped { class: fixed(class), reason: fixed(reason), events, total }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(monitor: &mut SpoolMonitor, seconds: u64, condition: &Condition<'_>) -> Vec<String> {
        let mut reported = Vec::new();
        let now = Mono::ZERO + Duration::from_secs(seconds);
        monitor.report(now, condition, &mut |body| {
            if let Body::Dropped(Dropped { class, reason, events, total }) = body {
                reported.push(format!("{class} {reason} {events} {total}"));
            } else if let Body::Degraded { reason } = body {
                reported.push(reason.to_string());
            }
        });
        reported
    }

    fn condition(state: &State) -> Condition<'_> {
        Condition { state, written_day_bytes: 0, uplink_trouble: None }
    }

    #[test]
    fn each_loss_is_reported_once_with_its_total_and_rate_limited() {
        let mut monitor = SpoolMonitor::new(MonitorParams::default());
        let mut state = State::default();
        assert!(report(&mut monitor, 100, &condition(&state)).is_empty());
        state.tally.dropped[Class::Counts as usize] = 3;
        state.tally.damaged_events = 2;
        let reported = report(&mut monitor, 101, &condition(&state));
        assert_eq!(reported, ["counts memory 3 3", "unknown damage 2 2"]);
        state.tally.dropped[Class::Counts as usize] = 10;
        assert!(
            report(&mut monitor, 110, &condition(&state)).is_empty()
                && monitor.is_silent(Mono::ZERO + Duration::from_secs(110))
        );
        assert_eq!(report(&mut monitor, 111, &condition(&state)), ["counts memory 7 10"]);
        assert!(report(&mut monitor, 200, &condition(&state)).is_empty());
    }

    #[test]
    fn a_failing_disk_a_full_budget_and_a_stuck_uplink_are_each_reported_once() {
        let mut monitor = SpoolMonitor::new(MonitorParams { wants_disk: true, write_budget: Some(5 << 20) });
        let gone = State::default();
        let works = State { has_disk: true, ..State::default() };
        let fails = State { has_disk: true, trouble: Some("no space".to_owned()), ..State::default() };
        let missing = ["spool: the disk fails: it cannot be opened"];
        assert_eq!(report(&mut monitor, 10, &condition(&gone)), missing);
        assert!(report(&mut monitor, 11, &condition(&fails)).is_empty(), "it still fails");
        assert!(report(&mut monitor, 12, &condition(&works)).is_empty());
        assert_eq!(report(&mut monitor, 13, &condition(&fails)), ["spool: the disk fails: no space"]);
        report(&mut monitor, 14, &condition(&works));
        let worse = Condition { state: &works, written_day_bytes: 6 << 20, uplink_trouble: Some("404") };
        let reported = report(&mut monitor, 15, &worse);
        let budget = "spool: 6 MB written in a day, more than spool.write_budget_mb_per_day = 5";
        assert_eq!(reported, [budget, "uplink: 404"]);
        assert!(report(&mut monitor, 16, &worse).is_empty());
        report(&mut monitor, 17, &condition(&works));
        assert_eq!(report(&mut monitor, 18, &worse).len(), 2, "again");
    }
}
