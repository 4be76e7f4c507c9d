//! Several receivers for one delivery: the first of the list, and others to fail over to.
//!
//! Each has a load: the share of its deadline that its responses take, 1 if it does not respond or does not confirm, and halving with time
//! while it is not used. The least loaded one below [`LOAD_MAX`] is chosen, else the first. Loads below a tenth count as none, and among
//! equals the first wins: so a fail-over reverts by itself.
//!
//! The receivers of a list should lead to the same store: an event whose confirmation was lost at one may be sent to another, under the
//! same id.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::uplink::session::Failure;
use crate::delivery::uplink::{Batch, Interrupt, SendError, Sink};
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::Mono;

/// Maximum number of receivers in a list.
pub const ENDPOINTS_MAX: usize = 8;

/// From this load on a receiver is used only if all others are as bad.
pub const LOAD_MAX: f64 = 0.8;

/// Below this a receiver counts as idle.
const IDLE: f64 = 0.1;

/// Half-life of the load of an unused receiver: one that failed is tried again after 20 s, and the first one is preferred again after 3
/// min.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Weight of the last response in the load.
const NEWEST: f64 = 0.3;

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    load: f64,
    at: Mono,
}

/// Loads of the receivers. Pure.
#[derive(Debug, Clone)]
pub struct Loads(heapless::Vec<Load, ENDPOINTS_MAX>);

impl Loads {
    /// This many receivers, with unknown loads.
    ///
    /// # Panics
    /// If there are none, or more than [`ENDPOINTS_MAX`]: a bug.
    pub fn new(count: usize) -> Self {
        assert!((1..=ENDPOINTS_MAX).contains(&count), "{count} receivers");
        Loads((0..count).map(|_| Load::default()).collect())
    }

    /// The load of a receiver at `now`, 0..=1.
    pub fn load(&self, index: usize, now: Mono) -> f64 {
        let Load { load, at } = self.0[index];
        load * 0.5f64.powf(now.since(at).as_secs_f64() / HALF_LIFE.as_secs_f64())
    }

    /// The receiver to use at `now`.
    pub fn choose(&self, now: Mono) -> usize {
        let shown = |index: usize| match self.load(index, now) {
            load if load < IDLE => 0.0,
            load => load,
        };
        let able = (0..self.0.len()).filter(|&index| shown(index) < LOAD_MAX);
        able.min_by(|&a, &b| shown(a).total_cmp(&shown(b))).unwrap_or(0)
    }

    /// Whether any receiver is below [`LOAD_MAX`] at `now`.
    pub fn any_able(&self, now: Mono) -> bool {
        (0..self.0.len()).any(|index| self.load(index, now) < LOAD_MAX)
    }

    /// A response took this share of its deadline, or (`None`) did not arrive or was not a confirmation.
    pub fn report(&mut self, index: usize, now: Mono, response_s: Option<f64>) {
        let load = match response_s {
            Some(part) => {
                let old = self.load(index, now).min(LOAD_MAX);
                old + NEWEST * (part.clamp(0.0, 1.0) - old)
            }
            None => 1.0,
        };
        self.0[index] = Load { load, at: now };
    }
}

/// Sends to one of several sinks.
pub struct Endpoints {
    sinks: Vec<Box<dyn Sink>>,
    loads: Loads,
    time: Arc<Timekeeper>,
    deadline: Duration,
    last: usize,
    switched: bool,
    /// The current receiver has confirmed something since the switch to it.
    known: bool,
}

impl Endpoints {
    /// Sends to `sinks`, the first before the others. Responses within a small part of `deadline` are no load.
    ///
    /// # Panics
    /// As [`Loads::new`].
    pub fn new(sinks: Vec<Box<dyn Sink>>, time: Arc<Timekeeper>, deadline: Duration) -> Self {
        let loads = Loads::new(sinks.len());
        Endpoints { sinks, loads, time, deadline, last: 0, switched: false, known: false }
    }
}

impl Sink for Endpoints {
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError> {
        let begun = self.time.mono();
        let index = self.loads.choose(begun);
        self.switched = index != self.last;
        if self.switched {
            tracing::warn!("uplink: from {} to {}", self.sinks[self.last].name(), self.sinks[index].name());
            (self.last, self.known) = (index, false);
        }
        let outcome = self.sinks[index].send(batch);
        let now = self.time.mono();
        let part = now.since(begun).as_secs_f64() / self.deadline.as_secs_f64();
        let response_s = match &outcome {
            Ok(()) => Some(part),
            // Its refusal is about these events, not about itself, if it has confirmed others.
            Err(SendError { failure: Failure::Refused | Failure::TooLarge, .. })
                if self.known || index == 0 =>
            {
                Some(part)
            }
            Err(_) => None,
        };
        self.known |= outcome.is_ok();
        self.loads.report(index, now, response_s);
        outcome.map_err(|error| match error.failure {
            // The delay that it asks for applies only to it: another one is used.
            Failure::Retry { .. } | Failure::Misconfigured if self.loads.any_able(now) => {
                SendError { failure: Failure::Elsewhere, ..error }
            }
            Failure::Retry { .. }
            | Failure::Elsewhere
            | Failure::Refused
            | Failure::TooLarge
            | Failure::Misconfigured => error,
        })
    }

    fn switched(&self) -> bool {
        self.switched
    }

    fn name(&self) -> &str {
        self.sinks[self.last].name()
    }

    fn reserve(&mut self, events: usize) {
        self.sinks.iter_mut().for_each(|sink| sink.reserve(events));
    }

    fn needs_time(&self) -> bool {
        self.sinks.iter().any(|sink| sink.needs_time())
    }

    fn limit_sends(&mut self, longest: Duration) {
        self.sinks.iter_mut().for_each(|sink| sink.limit_sends(longest));
    }

    fn interrupt_when(&mut self, interrupt: Interrupt) {
        self.sinks.iter_mut().for_each(|sink| sink.interrupt_when(Arc::clone(&interrupt)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: u64) -> Mono {
        Mono::from_nanos(s * 1_000_000_000)
    }

    #[test]
    fn the_first_is_preferred_and_used_again_after_it_recovers() {
        let mut loads = Loads::new(3);
        assert_eq!(loads.choose(secs(0)), 0);
        loads.report(0, secs(0), None);
        assert_eq!(loads.choose(secs(0)), 1);
        loads.report(1, secs(0), None);
        assert_eq!(loads.choose(secs(0)), 2);
        loads.report(2, secs(0), None);
        assert!(!loads.any_able(secs(0)));
        assert_eq!(loads.choose(secs(0)), 0, "all are equally bad: the first");
        loads.report(1, secs(1), Some(0.01));
        assert_eq!(loads.choose(secs(2)), 1);
        // The first is unused for as long as its load takes to decay: it is chosen again.
        let back = (0..600).find(|&s| loads.choose(secs(s + 2)) == 0).unwrap();
        assert!((150..=250).contains(&back), "{back}");
        loads.report(0, secs(back + 2), None);
        assert_eq!(loads.choose(secs(back + 2)), 1, "and dropped again if it still fails");
    }

    #[test]
    fn the_least_loaded_is_chosen_and_a_slow_one_is_not_a_failure() {
        let mut loads = Loads::new(2);
        for s in 0..20 {
            loads.report(0, secs(s), Some(0.7));
        }
        assert!(loads.load(0, secs(20)) > 0.6 && loads.any_able(secs(20)));
        assert_eq!(loads.choose(secs(20)), 1);
        for s in 20..40 {
            loads.report(1, secs(s), Some(0.75));
        }
        assert_eq!(loads.choose(secs(40)), 0, "both are slow: the one that was unused for longer");
        assert_eq!(Loads::new(1).choose(secs(5)), 0);
    }
}
