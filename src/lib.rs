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
//! [`run`] adds up in [`metrics`]. `tests/tidy.rs` enforces this module by module, and names the one home of each outside crate that
//! matters (`tract`, `ureq`, `rustls`, clocks), and of `unsafe`: one call in [`platform::clock`], memory figures in
//! [`platform::system`], cameras, the watchdog's device, and the engine's kernels and memory.
//!
//! # What holds
//! - **Memory is fixed.** It is taken before the first frame, [`run`] prints who has how much and refuses to start above the
//!   budget. After that no stage makes a heap call per frame, the network included (`tests/no_alloc.rs` counts them).
//! - **The newest frame wins.** A slow detector costs old frames, counted, never latency that grows. A frame that is not wanted
//!   is not decoded, converted or copied.
//! - **Dropping is allowed, silently dropping is not.** Each limit is in [`base::limits`], each drop in [`event::Stats`].
//! - **Nothing committed is lost.** A power cut at any moment costs at most `spool.commit_interval_s` of events; whatever bytes
//!   are found on disk, the spool opens.
//! - **An event has one identity** (`device/boot/seq`), the same on every retry, so that a receiver can drop repeats.
//! - **Deadlines use the boot clock** ([`platform::clock`]); the calendar ([`platform::calendar`]) is attached when an event is sent: true to a second
//!   and vouched for, or told to be not, with bounds.
//! - **What comes from outside is not believed**: bytes of cameras, models, answers, configuration. Lengths are checked
//!   first; a model loads only if its hash is vouched for.
//! - **Errors are one line**: the place, what is wrong, the remedy ([`base::error`]).
//!
//! # What is deliberately absent
//! No async in the data path (two blocking threads and a ring are simpler to prove), no plugin system, no database, no colour
//! conversion of whole frames, no garbage to collect.
//!
//! # Decisions
//! See [`decisions`].

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
pub mod sim;
pub mod tools;
pub mod vision;

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
}
