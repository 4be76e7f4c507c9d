//! The spool: events stay on disk until a receiver has confirmed them.
//!
//! ```text
//!              append              commit: every commit_interval           take, acknowledge
//!   outbox ─────────────► tail ─────────────────────────────► segments ─────────────────► uplink
//!                        memory                                 disk
//! ```
//! Each [`Class`] of events has its own queue, because they differ in value when space runs out: crossings outlive tracks and statistics,
//! alerts outlive crossings. A queue (`class_queue/`) is a sequence of segment files ([`segment`]) of records ([`record`]). [`log`] manages
//! the queues together; `recovery.rs` examines what a disk holds, [`retain`] decides what is dropped, `files.rs` manages the files without
//! events to send, and [`disk`] is the only file that touches a disk. [`Spool`] shares all of it between two threads; [`InFlight`] is the
//! batch that one of them delivers.
//!
//! # The order of writes, and the invariant of each step
//! Making events durable (a commit of a queue):
//! 1. A queue without a segment: a file is created (or a free one renamed) and the names are synced; then its header is
//!    written and synced. *A record is never in a file whose name or header a power cut can undo, and a file is not
//!    overwritten while a cut can still restore its old name.*
//! 2. The tail is written behind the committed part. *Committed bytes are never written again, except unchanged as part of
//!    the same sector.*
//! 3. The file is synced. Only now do the events count as committed, and only now is the tail's memory free. *A cut before
//!    that loses uncommitted events, at most those of `commit_interval`; checksums show how far the write got.*
//! 4. A write or sync that fails is not tried again on that file, because the kernel drops the pages that it could not write: the
//!    segment is abandoned and the tail moves to a new one, whose header says where the old one ends. *Anything that the failed
//!    write left behind that end is not read: the new segment has all of it.*
//!
//! Removing events (only ever after the receiver's confirmation, or by quota and counted):
//! 5. The acknowledgement moves in memory; segments before it are renamed to free files or removed. *A cut brings them back:
//!    they are sent again under the same ids.*
//! 6. After an abandoned segment is removed, the names are synced before the one behind it is removed. *Only that one records where
//!    the first one ends: if a cut brought the first back alone, its events and the copies behind it would both be read.*
//! 7. The next commit writes how far the queue is done, as a record of the queue itself: one sync for both. For a batch that was
//!    delivered in part, this is up to the first event that was not. *A cut repeats at most what one commit has not written yet.*
//! 8. Events that are delivered before they are committed are never written.
//!
//! A full segment gets its footer (the sums of its records, in its first page, not synced): it only saves the next start from reading the
//! segment.
//!
//! # Recovery at a start
//! A start copes with any bytes. Files whose names are not ours, and files with our names that do not begin like ours, are left alone; a
//! segment without a valid footer is read through once; invalid bytes are skipped up to the next valid record; a file that is shorter than
//! recorded in its footer or in the next segment has lost events, which are counted; damaged segments are kept aside (the newest four, and
//! removed first when space runs out). Nothing that we did not write passes two checksums and a decoder. Memory: 32 kB a queue and the list
//! of segments.
//!
//! # Unreadable segments
//! An unreadable segment is not damage yet. A start that cannot read a segment fails and is tried again; at run time, a queue that cannot
//! read on waits ten minutes while the others continue. Each queue also has its own delay after a failed write: if there is no space for a
//! new segment of one, another can still write to the segment that it has.
//!
//! # A folder that disappears
//! If the folder is removed, replaced, or hidden by a mount, this is noticed within a second, reported, and the folder is opened again.
//! Events in it that were not taken yet are dropped and counted; should the folder come back, a later start sends them after all.

mod class_queue;
mod clock_memory;
pub mod disk;
mod files;
mod in_flight;
pub mod inspect;
pub mod log;
mod monitor;
pub mod record;
mod recovery;
pub mod retain;
pub mod segment;
mod shared;
mod write_budget;
mod writer;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::Body;
pub use in_flight::InFlight;
pub use log::{Log, Recovered, Taken, Tally};
pub use monitor::{Condition, MonitorParams, SpoolMonitor};
pub use retain::Quota;
pub use shared::{Batching, Spool, State, TakeOutcome};
pub use write_budget::DailyWriteBudget;
pub use writer::SpoolWriter;

/// Class of an event: decides which events are dropped first. The order is the order on disk: append, never reorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// About the device and its camera: few, and a person waits for them.
    Alerts,
    /// Crossings: the purpose of the device.
    Counts,
    /// Tracks and statistics.
    Details,
    /// Events that the receiver refused permanently; kept for inspection, not sent.
    Dead,
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 4] = [Class::Alerts, Class::Counts, Class::Details, Class::Dead];

    /// Its name in file names and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Alerts => "alerts",
            Class::Counts => "counts",
            Class::Details => "details",
            Class::Dead => "dead",
        }
    }

    /// The class of an event.
    pub const fn of(body: &Body) -> Class {
        match body {
            Body::Started(_)
            | Body::Stopping { .. }
            | Body::CameraLost { .. }
            | Body::CameraBack { .. }
            | Body::Restarted(_)
            | Body::Degraded { .. }
            | Body::Dropped(_)
            | Body::Alert(_) => Class::Alerts,
            Body::Crossing(_) => Class::Counts,
            Body::TrackBegin(_)
            | Body::TrackEnd(_)
            | Body::Stats(_)
            | Body::Storage(_)
            | Body::CameraStats(_)
            | Body::Machine(_) => Class::Details,
        }
    }

    /// Its share of the memory.
    const fn memory_share(self) -> f64 {
        match self {
            Class::Alerts => 0.125,
            Class::Counts => 0.375,
            Class::Details => 0.4375,
            Class::Dead => 0.0625,
        }
    }
}

/// Sizes and times of a spool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// Size of a segment file.
    pub segment_bytes: u32,
    /// Memory of all tails: events that wait for a commit, and all events while there is no disk. At most half of a segment.
    pub memory_bytes: usize,
    /// A tail of this many bytes is committed immediately.
    pub commit_bytes: usize,
    /// The longest that an event waits for its commit, and so the most that a power cut can lose.
    pub commit_interval: Duration,
    /// The same for statistics, which are superseded by the next ones.
    pub checkpoint_interval: Duration,
    /// Limits of what it may store.
    pub quota: Quota,
    /// Makes the jitter of retries differ between devices.
    pub seed: u64,
}

impl Params {
    /// Size of a segment for this much memory and disk quota: few files to open at a start, none of them a large part of the quota, and
    /// large enough for all that can wait in memory.
    pub const fn segment_bytes_for(memory_bytes: usize, quota_bytes: u64) -> u32 {
        let share = quota_bytes / 64;
        let share = if share > 4 << 20 { 4 << 20 } else { share as u32 };
        let least = 2 * memory_bytes as u32;
        if share > least { share / 4096 * 4096 } else { least }
    }
}

impl Default for Params {
    /// 256 MiB and 4 000 000 events on disk, none older than 90 days, 64 MiB left free for others; 512 KiB of memory; commits every 5 s, of
    /// statistics every 5 min.
    fn default() -> Self {
        Params {
            segment_bytes: Params::segment_bytes_for(512 << 10, 256 << 20),
            memory_bytes: 512 << 10,
            commit_bytes: 64 << 10,
            commit_interval: Duration::from_secs(5),
            checkpoint_interval: Duration::from_secs(300),
            quota: Quota {
                bytes: 256 << 20,
                events: 4_000_000,
                age_max: Some(Duration::from_secs(90 * 86_400)),
                headroom: 64 << 20,
            },
            seed: 0,
        }
    }
}

#[cfg(test)]
mod tests;
