//! What leaves the device: typed, fixed-size events with an identity that survives every retry.
//!
//! - `identity`: [`Origin`] and [`EventId`]. The identity is `device/boot/seq` (I3). `boot` is the kernel's boot id and the moment
//!   at which this process started, so that a restart within one boot starts a new sequence instead of repeating the old one. Within
//!   it `seq` has no gaps, so a receiver can tell what is missing.
//! - `bodies`: [`Event`] and what can happen. `stats`, `storage`, `camera.stats` and `machine` are made from the table of metrics
//!   ([`crate::metrics::table`]).
//! - [`wire`]: the binary form, its versions, and how to add the next.
//!
//! An event owns no heap memory.

mod bodies;
mod identity;
pub mod wire;

pub use bodies::{
    Alert, Body, BoxSent, Crossing, Direction, Dropped, EndReason, Event, Restarted, Started, TrackBegin,
    TrackEnd,
};
pub use identity::{EventId, Origin};
pub use wire::{RECORD_BYTES_MAX, RECORD_VERSION, RecordError};

pub use crate::base::text::{Name, Text, fixed};
pub use crate::metrics::table::{CameraStats, Machine, Stats, Storage};

#[cfg(test)]
pub(crate) mod tests;
