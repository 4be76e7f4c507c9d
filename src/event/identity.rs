//! Which run of which device an event comes from: the identity that survives every retry (I3).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::text::{Name, fixed};
use crate::platform::clock::Mono;

/// Which run of which device the events come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The device's name from the configuration; letters, digits, `-`, `_`, `.`.
    pub device: Name,
    /// `<first 16 hex digits of the kernel's boot id>-<milliseconds from boot to the start of this process>`.
    pub boot: heapless::String<40>,
}

impl Origin {
    /// The origin of a process of `device` that started at `started` in the boot with `boot_id` (a UUID as
    /// `/proc/sys/kernel/random/boot_id` prints it).
    pub fn new(device: &str, boot_id: &str, started: Mono) -> Self {
        let hex: heapless::String<16> = boot_id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        let millis = started.as_nanos() / 1_000_000;
        let mut boot = heapless::String::new();
        fmt::Write::write_fmt(&mut boot, format_args!("{hex}-{millis}"))
            .expect("16 + 1 + 14 digits fit in 40");
        Origin { device: fixed(device), boot }
    }

    /// Whether both are of the same boot, and so of the same boot clock.
    pub fn same_boot(&self, other: &Origin) -> bool {
        self.device == other.device && self.boot.split('-').next() == other.boot.split('-').next()
    }

    /// The identity of event `seq`.
    pub fn id(&self, seq: u64) -> EventId<'_> {
        EventId { origin: self, seq }
    }
}

/// `device/boot/seq`, for printing.
#[derive(Debug, Clone, Copy)]
pub struct EventId<'a> {
    origin: &'a Origin,
    seq: u64,
}

impl fmt::Display for EventId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.origin.device, self.origin.boot, self.seq)
    }
}
