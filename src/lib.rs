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
//! Read it from top to bottom: [`capture`] announces frames, [`sample`] chooses those that the target rate wants, [`ring`]
//! carries them to the [`pipeline`], which asks the [`gate`] whether anything moved and [`focus`] where to look, runs [`detect`] if
//! so (JPEGs through [`jpeg`]; the network on an executor of our own, [`detect::engine`]), follows what was found in [`track`] and
//! counts it in [`count`] (the two together are [`follow`]). What happens becomes an [`event`], waits in [`batch`], is kept by the [`spool`] until a receiver has confirmed it, and leaves through [`uplink`].
//!
//! Around it: the [`watchdog`] is fed while every stage finishes work, [`power`] knows the board's pins (LED, motion sensor,
//! light), [`cores`] keeps the network to the large cores of a board, [`eval`] scores a model on labelled pictures and chooses its
//! threshold.
//!
//! A street in a seed, [`sim`], stands in for the field: pictures with the truth about them, and a device's life in virtual time, through
//! these same stages. [`selftest`] holds the network against a known picture at every start.
//!
//! # Who knows whom
//! Imports point one way: `limits, error, clock ◄ frame ◄ ring, gate, capture, detect ◄ track ◄ focus, count ◄ event ◄ batch ◄
//! spool ◄ uplink`. [`pipeline`] knows the pure stages only; [`app`] is the only wiring; [`config`] turns the user's file into each
//! stage's `Params`; nobody imports [`app`] or [`cli`]. No stage knows the configuration or the counters: it takes `Params` and
//! returns outcomes, which [`app`] adds up in [`metrics`]. `tests/tidy.rs` enforces this, and names the one home of each
//! outside crate that matters (`tract`, `ureq`, `rustls`, clocks), and of `unsafe`: one call in [`clock`], cameras, the watchdog's
//! device, and the engine's kernels and memory.
//!
//! # What holds
//! - **Memory is fixed.** It is taken before the first frame, [`app`] prints who has how much and refuses to start above the
//!   budget. After that no stage makes a heap call per frame, the network included (`tests/no_alloc.rs` counts them).
//! - **The newest frame wins.** A slow detector costs old frames, counted, never latency that grows. A frame that is not wanted
//!   is not decoded, converted or copied.
//! - **Dropping is allowed, silently dropping is not.** Each limit is in [`limits`], each drop in [`event::Stats`].
//! - **Nothing committed is lost.** A power cut at any moment costs at most `spool.commit_interval_s` of events; whatever bytes
//!   are found on disk, the spool opens.
//! - **An event has one identity** (`device/boot/seq`), the same on every retry, so that a receiver can drop repeats.
//! - **Deadlines use the boot clock** ([`clock`]); the calendar ([`calendar`]) is attached when an event is sent: true to a second
//!   and vouched for, or told to be not, with bounds.
//! - **What comes from outside is not believed**: bytes of cameras, models, answers, configuration. Lengths are checked
//!   first; a model loads only if its hash is vouched for.
//! - **Errors are one line**: the place, what is wrong, the remedy ([`error`]).
//!
//! # What is deliberately absent
//! No async in the data path (two blocking threads and a ring are simpler to prove), no plugin system, no database, no colour
//! conversion of whole frames, no garbage to collect.
//!
//! # Decisions
//! See [`decisions`].

pub mod app;
pub mod batch;
pub mod calendar;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cores;
pub mod count;
pub mod detect;
pub mod draw;
pub mod error;
pub mod eval;
pub mod event;
pub mod focus;
pub mod follow;
pub mod frame;
pub mod gate;
pub mod geometry;
pub mod jpeg;
pub mod limits;
pub mod metrics;
pub mod pipeline;
pub mod power;
pub mod retry;
pub mod ring;
pub mod sample;
pub mod selftest;
pub mod sim;
pub mod spool;
pub mod stop;
pub mod track;
pub mod uplink;
pub mod watchdog;

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
