//! The device's two clocks: the boot clock, and a calendar that starts wrong, gets set, gets set wrong and loses its time server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};

use super::SECOND;
use super::device::Death;
use crate::platform::clock::{Clock, Mono, Wall};
use crate::sim::random::Random;

/// Start of the world: 2026-06-01T00:00:00Z, seconds since 1970.
const BEGIN_UNIX: i64 = 1_780_272_000;

/// Calendar of a board without a battery before it is set: 1970-01-01T00:00:10Z.
const UNSET_UNIX: i64 = 10;

#[derive(Debug, Default)]
struct ClockState {
    mono: AtomicU64,
    /// Calendar minus boot clock, nanoseconds.
    offset: AtomicI64,
    synchronised: AtomicBool,
}

impl Clock for ClockState {
    fn mono(&self) -> Mono {
        Mono::from_nanos(self.mono.load(SeqCst))
    }

    fn wall(&self) -> Wall {
        let unix_nanos = self.mono.load(SeqCst) as i64 + self.offset.load(SeqCst);
        Wall { unix_nanos, synchronised: self.synchronised.load(SeqCst) }
    }
}

/// The true time, nanoseconds since 1970, at a time of the world.
pub(super) fn true_unix(now: u64) -> i64 {
    BEGIN_UNIX * SECOND as i64 + now as i64
}

/// Both clocks of the device, and the true time.
#[derive(Debug)]
pub(super) struct Calendar {
    state: Arc<ClockState>,
    booted: u64,
    /// When the time server next responds, nanoseconds of the world.
    set_at: u64,
    begins_at: f32,
}

impl Calendar {
    pub(super) fn new(begins_at: f32) -> Self {
        Calendar { state: Arc::default(), booted: 0, set_at: 0, begins_at }
    }

    /// The clocks as the program reads them.
    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::<ClockState>::clone(&self.state)
    }

    /// When the board was switched on, nanoseconds of the world.
    pub(super) fn booted(&self) -> u64 {
        self.booted
    }

    /// Hour of the day, 0..24, of the world.
    pub(super) fn hour(&self, now: u64) -> f32 {
        ((now / SECOND) as f32 / 3600.0 + self.begins_at) % 24.0
    }

    /// The program starts: after a power cut together with the board.
    pub(super) fn boot(&mut self, now: u64, after: Option<Death>, random: &mut Random) {
        if after != Some(Death::Crash) {
            self.booted = now;
            self.state.offset.store(UNSET_UNIX * SECOND as i64, SeqCst);
            self.state.synchronised.store(false, SeqCst);
            self.set_at = now + (random.exponential(60.0) * SECOND as f32) as u64;
        }
        self.tick(now);
    }

    /// Sets the time.
    pub(super) fn tick(&self, now: u64) {
        self.state.mono.store(now.saturating_sub(self.booted), SeqCst);
        if now >= self.set_at && !self.state.synchronised.load(SeqCst) {
            self.state.offset.store(true_unix(self.booted), SeqCst);
            self.state.synchronised.store(true, SeqCst);
        }
    }

    /// The calendar is set wrong by hand; the time server responds again some minutes later.
    pub(super) fn step(&mut self, random: &mut Random) {
        let hours = [-20.0 * 8766.0, -1.0, 1.0, 30.0][random.below(4)] as i64;
        self.state.offset.fetch_add(hours * 3600 * SECOND as i64, SeqCst);
        self.lose_synchronisation();
        self.set_at =
            self.booted + self.state.mono.load(SeqCst) + (random.exponential(600.0) * SECOND as f32) as u64;
    }

    /// The time server is unreachable for a while.
    pub(super) fn lose_synchronisation(&mut self) {
        self.state.synchronised.store(false, SeqCst);
        self.set_at = self.set_at.max(self.booted + self.state.mono.load(SeqCst) + 1800 * SECOND);
    }
}
