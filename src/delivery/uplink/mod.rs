//! Delivery: batches of events leave the device through a [`Sink`], at least once, with ids that survive every retry.
//!
//! ```text
//!   pipeline ── post ──► Outbox ── take ──► Spool ── take ──► Uplink (a thread) ── send ──► Sink: http(s)://, file:, stdout
//!                        numbers,           batches;          asks Session what to do,       format/ writes the bytes
//!                        queue, counters    on disk until     does it, counts it
//!                                           confirmed  ◄───── done, dead letters
//! ```
//! [`outbox`] is the bounded queue that the pipeline never waits for; two threads move its events to the [spool](crate::delivery::spool),
//! which decides when a batch is due and keeps every event until it is confirmed. [`session`] decides what is sent when (pure), with a
//! circuit breaker against receivers that refuse everything; [`driver`] executes it; [`http`] is the only folder that uses the HTTP client.
//! Nothing here drops an event that the receiver may still accept; an event that it refuses permanently becomes a dead letter, alone, by
//! name, and counted (I4).

mod breaker;
pub mod driver;
pub mod endpoints;
pub mod format;
pub mod http;
pub mod labels;
pub mod lines;
pub mod outbox;
mod part_size;
pub mod session;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::delivery::uplink::labels::Labels;
use crate::delivery::uplink::session::Failure;
use crate::event::{Event, Origin};
use crate::platform::calendar::{Calendar, Timekeeper};

pub use driver::{Flow, LiveParams, Report, Uplink, UplinkParams};
pub use outbox::{Outbox, Posted, UplinkCounters};

/// Events on their way out, oldest first, at least one.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The run of the device that they belong to.
    pub origin: &'a Origin,
    /// Turns the events' boot-clock times into calendar times.
    pub calendar: Calendar,
    /// The events.
    pub events: &'a [Event],
    /// What is added to the events of each camera.
    pub labels: &'a Labels,
}

impl<'a> Batch<'a> {
    /// A batch of `events`.
    ///
    /// # Panics
    /// If there are none: a bug.
    pub fn new(origin: &'a Origin, calendar: impl Into<Calendar>, events: &'a [Event]) -> Self {
        assert!(!events.is_empty(), "a batch has at least one event");
        Batch { origin, calendar: calendar.into(), events, labels: Labels::NONE }
    }

    /// The same with labels.
    #[must_use]
    pub const fn with(self, labels: &'a Labels) -> Self {
        Batch { labels, ..self }
    }

    /// The batch's identity: the same for the same events, on every retry.
    pub fn id(&self) -> BatchId<'a> {
        let (first, last) = (self.events.first(), self.events.last());
        BatchId {
            origin: self.origin,
            first: first.map_or(0, |event| event.seq),
            last: last.map_or(0, |event| event.seq),
            gaps: self.gaps(),
        }
    }

    /// A checksum over the numbers of its events, if there are gaps between them.
    fn gaps(&self) -> Option<u32> {
        let (first, last) = (self.events.first()?.seq, self.events.last()?.seq);
        let whole = last.wrapping_sub(first) == self.events.len() as u64 - 1;
        let sum = |sum, event: &Event| crc32c::crc32c_append(sum, &event.seq.to_le_bytes());
        (!whole).then(|| self.events.iter().fold(0, sum))
    }
}

/// `device/boot/first-last`, followed by a point and the checksum if there are gaps; for printing.
#[derive(Debug, Clone, Copy)]
pub struct BatchId<'a> {
    origin: &'a Origin,
    first: u64,
    last: u64,
    /// Distinguishes batches that begin and end with the same event.
    gaps: Option<u32>,
}

impl fmt::Display for BatchId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}-{}", self.origin.device, self.origin.boot, self.first, self.last)?;
        self.gaps.map_or(Ok(()), |gaps| write!(f, ".{gaps:08x}"))
    }
}

/// Why a send failed: what to do about it, and a line for the log that names the address and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendError {
    /// The class of the failure, for the session.
    pub failure: Failure,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// One line without secrets.
    pub text: String,
    /// No part of the batch left this device: the receiver cannot have any of it.
    pub kept_here: bool,
}

impl SendError {
    /// A temporary failure.
    pub fn retry(text: impl Into<String>) -> Self {
        SendError {
            failure: Failure::Retry { after: None },
            status: None,
            text: text.into(),
            kept_here: false,
        }
    }

    /// A failure that needs human action.
    pub fn misconfigured(text: impl Into<String>) -> Self {
        SendError { failure: Failure::Misconfigured, status: None, text: text.into(), kept_here: false }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SendError {}

/// Whether a send in progress must end. Cheap; a waiting sink calls it a few times a second, from the thread that sends.
pub type Interrupt = Arc<dyn Fn() -> bool + Send + Sync>;

/// A destination of events.
pub trait Sink: Send {
    /// Delivers the batch, or returns why not. `Ok` means that the receiver has confirmed all of it. Bounded in time by the sink's own
    /// deadlines.
    ///
    /// # Errors
    /// No part of the batch counts as delivered then; it is sent again with the same ids, or given up, depending on [`SendError::failure`].
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError>;

    /// The address, without secrets, for logs.
    fn name(&self) -> &str;

    /// Allocates the memory for batches of up to `events` events, before the first of them (I1).
    fn reserve(&mut self, events: usize) {
        let _ = events;
    }

    /// Whether the last send went to another receiver than the one before it.
    fn switched(&self) -> bool {
        false
    }

    /// Whether the receiver identifies events by their time, so that none can be sent before the calendar is known.
    fn needs_time(&self) -> bool {
        false
    }

    /// The shutdown has begun: from now on no send may take longer than `longest`. Sinks that never wait ignore it.
    fn limit_sends(&mut self, longest: Duration) {
        let _ = longest;
    }

    /// Passes the function that tells the sink whether a send in progress must end, because the shutdown's time is over. Called once,
    /// before the first send.
    fn interrupt_when(&mut self, interrupt: Interrupt) {
        drop(interrupt);
    }
}

/// The configured destinations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// See [`open`].
    pub first: String,
    /// Fall-backs if that fails: more of `http://…` and `https://…`.
    pub others: Vec<String>,
}

impl Target {
    /// Whether it is a receiver over the network.
    pub fn is_http(&self) -> bool {
        self.first.starts_with("http://") || self.first.starts_with("https://")
    }
}

impl From<&str> for Target {
    fn from(first: &str) -> Self {
        Target { first: first.to_owned(), others: Vec::new() }
    }
}

/// Opens the sink of a target: `stdout`, `file:PATH`, `http://HOST/PATH` or `https://HOST/PATH`. `http` holds the settings for HTTP; its
/// `url` is replaced by the target.
///
/// # Errors
/// [`Kind::Config`] if the target is none of these, or its file, URL or token cannot be used.
pub fn open(target: &Target, http: &http::HttpParams, time: &Arc<Timekeeper>) -> Result<Box<dyn Sink>> {
    let whole = http.deadlines.whole;
    let mut sinks = vec![open_one(&target.first, http, time)?];
    for other in &target.others {
        sinks.push(open_one(other, http, time)?);
    }
    if sinks.len() > endpoints::ENDPOINTS_MAX {
        let text = format!("uplink.fallbacks: at most {}", endpoints::ENDPOINTS_MAX - 1);
        return Err(Error::fatal(Kind::Config, text));
    }
    Ok(match sinks.len() {
        1 => sinks.remove(0),
        _ => Box::new(endpoints::Endpoints::new(sinks, Arc::clone(time), whole)),
    })
}

fn open_one(target: &str, http: &http::HttpParams, time: &Arc<Timekeeper>) -> Result<Box<dyn Sink>> {
    if target == "stdout" {
        return Ok(Box::new(lines::StdoutSink::new()));
    }
    if let Some(path) = target.strip_prefix("file:") {
        return Ok(Box::new(lines::FileSink::open(path)?));
    }
    if target.starts_with("http://") || target.starts_with("https://") {
        let params = http::HttpParams { url: target.to_owned(), ..http.clone() };
        return Ok(Box::new(http::HttpSink::new(params, Arc::clone(time))?));
    }
    let shown = http::redacted(target);
    let text =
        format!("uplink target '{shown}': use 'stdout', 'file:PATH', 'http://HOST/PATH' or 'https://…'");
    Err(Error::fatal(Kind::Config, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::samples;
    use crate::platform::clock::{ClockSyncSample, Mono, Wall};

    #[test]
    fn batch_ids_name_the_first_and_the_last_event() {
        let origin = Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::ZERO);
        let wall = Wall { unix_nanos: 0, synchronised: false };
        let clock = ClockSyncSample { mono: Mono::ZERO, wall };
        let events = samples();
        let id = |events| Batch::new(&origin, clock, events).id().to_string();
        assert_eq!(id(&events[2..5]), "mast-7/3f2a91c07d414c5e-0/2-4");
        assert_eq!(id(&events[3..4]), "mast-7/3f2a91c07d414c5e-0/3-3");
        let some = [events[2].clone(), events[4].clone(), events[6].clone()];
        let others = [events[2].clone(), events[3].clone(), events[6].clone()];
        assert_eq!(id(&some), "mast-7/3f2a91c07d414c5e-0/2-6.80e9cbcb");
        assert_ne!(id(&some), id(&others), "a receiver that compares ids must not confuse them");
    }

    #[test]
    fn targets_become_sinks_or_a_remedy() {
        let time = Arc::new(Timekeeper::new(Arc::new(crate::platform::clock::SystemClock)));
        let dir = tempfile::tempdir().unwrap();
        let file = format!("file:{}/events.ndjson", dir.path().display());
        for (target, name) in [
            ("stdout", "stdout"),
            (file.as_str(), file.as_str()),
            ("http://localhost:8086/x?token=s", "http://localhost:8086/x?…"),
            ("https://example.org", "https://example.org/"),
        ] {
            assert_eq!(open(&target.into(), &http::HttpParams::default(), &time).unwrap().name(), name);
        }
        for target in ["", "ftp://joe:secret@example.org/", "events.ndjson", "file:/nowhere/at/all"] {
            let error = open(&target.into(), &http::HttpParams::default(), &time).err().expect(target);
            assert_eq!(error.kind(), Kind::Config);
            let text = error.to_string();
            assert!(!text.contains("secret") && !text.contains('\n'), "{text}");
        }
    }
}
