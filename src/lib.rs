//! Flytrap: an unattended road counter. A camera goes in, counted road users come out, on a small ARM board.
//!
//! # The way of a frame
//! ```text
//! capture ──► ring ──► gate ──► detect ──► track ──► count ──► event ──► spool ──► uplink
//!  v4l2:      fixed    motion   letterbox  Byte-     lines     typed,    on disk   HTTP, file,
//!  exec:      slots,   on a     engine     Track               with ids  until     stdout; retries
//!  file:      newest   small    decode                                   confirmed with the same ids
//!  dir:       wins     luma     NMS
//!  +sample
//! ```
//! Read it from top to bottom: [`capture`] announces frames, [`capture::sampler`] chooses those that the target rate needs,
//! [`capture::ring`] carries them to the [`pipeline`], which asks the [`vision::gate`] whether anything moved and [`vision::roi`]
//! where to look, runs [`vision::detect`] if so (JPEGs through [`vision::jpeg`]; the network on an executor of our own,
//! [`vision::detect::engine`]), follows detections in [`analytics::track`] and counts them in [`analytics::count`]. What happens
//! becomes an [`event`], waits in the [outbox](delivery::uplink::Outbox), is kept by [`delivery::spool`] until a receiver has confirmed it, and leaves
//! through [`delivery::uplink`].
//!
//! Around it: [`platform::watchdog`] is fed while every stage finishes work, [`platform::gpio`] drives the board's pins (LED,
//! motion sensor, light), [`platform::cores`] keeps the network on the fast cores, [`tools`] measures, scores and calibrates models.
//!
//! [`sim`] stands in for the field: pictures of a simulated street with the truth about them, and a device's life in virtual time,
//! through these same stages. [`vision::selftest`] checks the network against a known picture at every start.
//!
//! # Who may import whom
//! Imports point one way: `base ◄ platform ◄ capture ◄ vision ◄ event ◄ analytics ◄ pipeline, delivery ◄ metrics ◄ config ◄ run ◄
//! tools ◄ cli`. [`pipeline`] knows the pure stages only; [`run`] is the only wiring of the daemon; [`config`] turns the user's file
//! into each stage's `Params`. No stage knows the configuration or the counters: it takes `Params` and returns outcomes, which
//! [`run`] adds up in [`metrics`]. [`metrics::table`], which names every counter, stands below [`event`], which carries them.
//! `tests/tidy.rs` enforces this module by module, and names the one home of each outside crate that
//! matters (`tract`, `ureq`, `rustls`, clocks), and of `unsafe`: one call in [`platform::clock`], memory figures in
//! [`platform::system`], cameras, the watchdog's device, and the engine's kernels and memory.
//!
//! # Invariants
//! Cited in the code by their numbers.
//! - **I1 Fixed memory.** All big memory is taken before the first frame; [`run`] prints who has how much and refuses to start above
//!   `memory.budget_mb`. After that no stage makes a heap call per frame, the network included (`tests/no_alloc.rs` counts them).
//! - **I2 The newest frame wins.** A slow detector costs old frames, counted, never latency that grows. A frame that is not wanted is
//!   not decoded, converted or copied.
//! - **I3 Nothing acknowledged is lost, nothing is delivered twice unseen.** Each event has one identity (`device/boot/seq`), the same
//!   on every retry. Only a confirmation removes an event from the spool. A power cut at any moment costs at most
//!   `spool.commit_interval_s` of events; the spool opens whatever bytes it finds.
//! - **I4 Dropping is allowed, dropping silently is not.** Each limit is in [`base::limits`], each drop is counted in
//!   [`metrics::table`] and sent.
//! - **I5 Time.** Deadlines use the boot clock ([`platform::clock`]). Wall time ([`platform::calendar`]) is attached when an event is
//!   sent: true to a second and synchronised, or marked as not, with bounds.
//! - **I6 The watchdog is fed by finished work.** Each stage proves progress by its deadline; a camera that is away is a state, not a
//!   hang ([`platform::watchdog`]).
//! - **I7 Health is two ages**: of the last good frame, and of the last confirmed delivery.
//! - **I8 Input is untrusted**: bytes of cameras, models, answers of servers, the configuration, our own disk after a power cut.
//!   Lengths are checked before use; a model loads only if its hash is known or vouched for in the configuration.
//! - **I9 Unknown configuration keys are errors.** All mistakes are reported at once, each with key, value and range; key names end in
//!   their units.
//! - **I10 Least privilege.** No capabilities, no listening port, TLS is verified, secrets come from files or systemd credentials and
//!   never reach a log or an event.
//! - **I11 Pictures stay on the device.**
//! - **I12 Fail small.** A lost camera, a full disk, a dead link, a missing pin degrades that part, is an event, and recovers by itself;
//!   the rest goes on.
//!
//! Errors are one line: the place, what is wrong, the remedy ([`base::error`]).
//!
//! # What is deliberately absent
//! No async in the data path (two blocking threads and a ring are simpler to prove), no plugin system, no database, no colour
//! conversion of whole frames, no garbage to collect.
//!
//! # More
//! [`glossary`]: the terms. [`decisions`]: why things are as they are. [`systems`]: the numbers S1-S19 and F1-F9 that the code cites.

pub mod analytics;
pub mod base;
pub mod capture;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod event;
pub mod metrics;
pub mod pipeline;
pub mod platform;
pub mod run;
#[cfg(any(test, feature = "desktop"))]
pub mod sim;
pub mod tools;
pub mod vision;

pub mod glossary {
    //! What the words mean.
    #![doc = include_str!("glossary.md")]
}

pub mod systems {
    //! The systems of the original program, and where each lives here.
    #![doc = include_str!("systems.md")]
}

pub mod decisions {
    //! Why things are as they are; what was tried and did not help.
    #![doc = include_str!("decisions/0001-jpeg.md")]
    #![doc = include_str!("decisions/0002-identity.md")]
    #![doc = include_str!("decisions/0003-engine.md")]
    #![doc = include_str!("decisions/0004-configuration.md")]
    #![doc = include_str!("decisions/0005-cameras.md")]
    #![doc = include_str!("decisions/0006-watchdogs.md")]
    #![doc = include_str!("decisions/0007-spool.md")]
    #![doc = include_str!("decisions/0008-time.md")]
    #![doc = include_str!("decisions/0009-uplink.md")]
    #![doc = include_str!("decisions/0010-focus.md")]
    #![doc = include_str!("decisions/0011-simulation.md")]
    #![doc = include_str!("decisions/0012-wire.md")]
    #![doc = include_str!("decisions/0013-models.md")]
}
