//! The device's two clocks: one that counts from its start, and a calendar that starts wrong, is set, is set wrong and loses
//! its server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};

use super::SECOND;
use super::device::Death;
use crate::platform::clock::{Clock, Mono, Wall};
use crate::sim::random::Random;

/// The world begins then: 2026-06-01T00:00:00Z, seconds since 1970.
const BEGIN_UNIX: i64 = 1_780_272_000;

/// Before the calendar is set a board without a battery believes this: 1970-01-01T00:00:10Z.
const UNSET_UNIX: i64 = 10;

#[derive(Debug, Default)]
struct Hands {
    mono: AtomicU64,
    /// Calendar minus boot clock, nanoseconds.
    offset: AtomicI64,
    synchronised: AtomicBool,
}

impl Clock for Hands {
    fn mono(&self) -> Mono {
        Mono::from_nanos(self.mono.load(SeqCst))
    }

    fn wall(&self) -> Wall {
        let unix_nanos = self.mono.load(SeqCst) as i64 + self.offset.load(SeqCst);
        Wall { unix_nanos, synchronised: self.synchronised.load(SeqCst) }
    }
}

/// The true time, nanoseconds since 1970, at a moment of the world.
pub(super) fn true_unix(now: u64) -> i64 {
    BEGIN_UNIX * SECOND as i64 + now as i64
}

/// Both clocks of the device, and the true time.
#[derive(Debug)]
pub(super) struct Calendar {
    hands: Arc<Hands>,
    booted: u64,
    /// When the time server is next heard, nanoseconds of the world.
    set_at: u64,
    begins_at: f32,
}

impl Calendar {
    pub(super) fn new(begins_at: f32) -> Self {
        Calendar { hands: Arc::default(), booted: 0, set_at: 0, begins_at }
    }

    /// The clocks as the program reads them.
    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::<Hands>::clone(&self.hands)
    }

    /// When the board was switched on, nanoseconds of the world.
    pub(super) fn booted(&self) -> u64 {
        self.booted
    }

    /// Hour of the day, 0..24, of the world.
    pub(super) fn hour(&self, now: u64) -> f32 {
        ((now / SECOND) as f32 / 3600.0 + self.begins_at) % 24.0
    }

    /// The program starts: after a power cut with the board.
    pub(super) fn boot(&mut self, now: u64, after: Option<Death>, random: &mut Random) {
        if after != Some(Death::Crash) {
            self.booted = now;
            self.hands.offset.store(UNSET_UNIX * SECOND as i64, SeqCst);
            self.hands.synchronised.store(false, SeqCst);
            self.set_at = now + (random.exponential(60.0) * SECOND as f32) as u64;
        }
        self.tick(now);
    }

    /// It is now.
    pub(super) fn tick(&self, now: u64) {
        self.hands.mono.store(now.saturating_sub(self.booted), SeqCst);
        if now >= self.set_at && !self.hands.synchronised.load(SeqCst) {
            self.hands.offset.store(true_unix(self.booted), SeqCst);
            self.hands.synchronised.store(true, SeqCst);
        }
    }

    /// Somebody sets it by hand, wrong; the server is heard again some minutes later.
    pub(super) fn step(&mut self, random: &mut Random) {
        let hours = [-20.0 * 8766.0, -1.0, 1.0, 30.0][random.below(4)] as i64;
        self.hands.offset.fetch_add(hours * 3600 * SECOND as i64, SeqCst);
        self.lose_synchronisation();
        self.set_at =
            self.booted + self.hands.mono.load(SeqCst) + (random.exponential(600.0) * SECOND as f32) as u64;
    }

    /// The server goes away for a while.
    pub(super) fn lose_synchronisation(&mut self) {
        self.hands.synchronised.store(false, SeqCst);
        self.set_at = self.set_at.max(self.booted + self.hands.mono.load(SeqCst) + 1800 * SECOND);
    }
}
