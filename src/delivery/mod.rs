//! From an event to a confirmed delivery: the outbox, the spool on disk, the uplink.

pub mod spool;
pub mod uplink;
