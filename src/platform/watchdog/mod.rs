//! Watchdogs: fed only while every stage finishes its work in time.
//!
//! ```text
//!   capture ──┐ "done; the next by 08:15:42"                        ┌─► systemd (notify.rs)
//!   pipeline ─┼────────► Ledger ── is anybody late? ── no ─► feed ──┤
//!   uplink ───┘                           │                         └─► /dev/watchdog (device.rs)
//!                                         └ yes ─► no more feeding: its name is recorded, logged, sent
//! ```
//! After a stage has hung, feeding stops for good: a hardware watchdog resets the board when its time-out passes; without one the program
//! ends and the service manager starts it again. An absent camera is not a hang: looking for it is work too. [`history`] records how the
//! last run ended, so that the next one can report it.

pub mod device;
pub mod fault;
pub mod history;
pub mod ledger;
pub mod notify;

use std::path::PathBuf;
use std::time::Duration;

pub use ledger::{Ledger, Overdue, Stage};

/// Settings of the watchdogs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// The hardware watchdog, such as `/dev/watchdog`; `None` leaves it alone.
    pub device: Option<PathBuf>,
    /// The time-out after which it resets the board, 5 s to 1 h; a value that the board refuses is an error.
    pub timeout: Duration,
    /// The longest time for one piece of a stage's work, waits that belong to it excluded, 5 s to 10 min.
    pub stage_timeout: Duration,
}

impl Default for Params {
    /// No device; 15 s, the longest time-out of a Raspberry Pi; 30 s for a stage.
    fn default() -> Self {
        Params { device: None, timeout: Duration::from_secs(15), stage_timeout: Duration::from_secs(30) }
    }
}
