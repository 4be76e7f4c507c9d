//! From an event to a confirmed delivery: batches, the spool on disk, the uplink.

pub mod batch;
pub mod spool;
pub mod uplink;
