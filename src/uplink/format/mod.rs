//! What a batch looks like on the wire. Pure: bytes into a reused buffer, no I/O, no clock.
//!
//! One file a format; [`cloudevents`] is the one that is always there.

pub mod cloudevents;
