//! Flytrap: an unattended road counter. A camera goes in, counted road users come out, on a small ARM board.
//!
//! # Frame path
//! ```text
//! capture ──► ring ──► gate ──► detect ──► track ──► count ──► event ──► spool ──► uplink
//!  v4l2:      fixed    motion   letterbox  Byte-     lines     typed,    on disk   HTTP, file,
//!  exec:      slots,   on a     engine     Track               with ids  until     stdout; retries
//!  file:      newest   small    decode                                   confirmed with the same ids
//!  rtsp://…   wins     luma     NMS
//!  +sample
//! ```
//! From left to right: [`capture`] announces frames, [`capture::sampler`] chooses those for the target rate, and [`capture::ring`] passes
//! them to the [`pipeline`], where several cameras share one network ([`pipeline::scheduler`]). The [`vision::gate`] decides whether anything moved, and [`vision::roi`] which region of the frame inference
//! runs on. [`vision::detect`] detects road users (JPEGs through [`vision::jpeg`]; the network on our own executor,
//! [`vision::detect::engine`]), [`analytics::track`] tracks them, and [`analytics::count`] counts crossings. Each result becomes an
//! [`event`], waits in the [outbox](delivery::uplink::Outbox), is stored by [`delivery::spool`] until a receiver has confirmed it, and
//! leaves through [`delivery::uplink`].
//!
//! **Where a frame is dropped**, each with its counter in [`metrics::table`]: by the camera itself (`frames_camera_dropped`), by the
//! sampler (`frames_skipped`), by a newer frame in the ring (`frames_ring_dropped`), as damaged (`frames_corrupt`). A frame without motion
//! is not dropped: the gate skips its inference (`frames_still`).
//!
//! **When an event gets its time**: [`event::Event::at`] is on the boot clock: for tracks and crossings the capture time of the frame, for
//! all other events the time of posting. [`platform::calendar`] converts it to wall time when [`delivery::uplink`] sends the event.
//!
//! **Where a configuration key is defined**: one entry in `config/table/` (type, range, default, comment) and one line in `config/sections/`
//! that reads its value into a stage's `Params` ([`config`]). `config/table/mod.rs` lists which file has which section.
//!
//! Around it: [`platform::watchdog`] is fed while every stage finishes work, [`platform::gpio`] drives the board's pins (LED,
//! motion sensor, light), [`platform::cores`] pins the network to the fast cores, [`tools`] measures, scores and calibrates models.
//! [`platform::machine`] reads the figures of board and process, and [`status`] shows figures to scrapers (OpenMetrics over HTTP) and
//! spreadsheets (CSV). The command `flytrap top` reads them through [`status::client`].
//!
//! [`sim`] replaces the field: pictures of a simulated street with ground truth, and a device's life in virtual time, through these
//! same stages; the device build leaves it out (feature `desktop`). [`vision::selftest`] tests the network with a known picture at every start.
//!
//! # Import layers
//! Imports point one way: `base ◄ platform ◄ capture ◄ vision ◄ event ◄ analytics ◄ pipeline, delivery ◄ metrics ◄ config,
//! status ◄ run ◄ tools ◄ cli`. [`pipeline`] knows the pure stages only; [`run`] alone wires the daemon; [`config`] turns the user's file
//! into each stage's `Params`. No stage knows the configuration or the counters: it takes `Params` and returns outcomes, which
//! [`run`] adds up in [`metrics`]. [`metrics::table`], which names every counter, is below [`event`], which carries them.
//! `tests/tidy.rs` enforces this module by module, and names the only file that may use each important external crate
//! (`tract`, `ureq`, `rustls`, `httparse`, clocks), and the files that may use `unsafe`: one call in [`platform::clock`], memory figures in
//! [`platform::system`], cameras, the watchdog's device, and the engine's kernels and memory.
//!
//! # Invariants
//! The code cites them by number.
//! - **I1 Fixed memory.** All large blocks of memory are allocated before the first frame; [`run`] logs the share of each part and refuses
//!   to start above `memory.budget_mb`. After that no stage makes a heap call per frame, the network included (`tests/no_alloc.rs` counts
//!   them).
//! - **I2 The newest frame wins.** A slow detector costs old frames, which are counted, and never growing latency. An unwanted frame is
//!   not decoded, converted or copied.
//! - **I3 Nothing acknowledged is lost, nothing is delivered twice unnoticed.** Each event has one identity (`device/boot/seq`), the same
//!   on every retry. Only a confirmation removes an event from the spool. A power cut at any moment costs at most
//!   `spool.commit_interval_s` of events; the spool opens whatever bytes are on disk.
//! - **I4 Dropping is allowed, dropping silently is not.** Each limit is in [`base::limits`], each drop is counted in
//!   [`metrics::table`] and sent.
//! - **I5 Time.** Deadlines use the boot clock ([`platform::clock`]). Wall time ([`platform::calendar`]) is attached when an event is
//!   sent: true to a second and synchronised, or marked as not, with bounds.
//! - **I6 The watchdog is fed by finished work.** Each stage proves progress by its deadline; an absent camera is a state, not a
//!   hang ([`platform::watchdog`]).
//! - **I7 Health is measured by two ages**: of the last good frame, and of the last confirmed delivery.
//! - **I8 Input is untrusted**: camera data, models, server responses, the configuration, our own disk after a power cut.
//!   Lengths are checked before use; a model loads only if its hash is in the manifest or in the configuration.
//! - **I9 Unknown configuration keys are errors.** All mistakes are reported at once, each with key, value and range; key names end in
//!   their units.
//! - **I10 Least privilege.** No capabilities, no listening port beyond loopback without a token ([`status::access`]), changes only through
//!   a socket with permissions ([`status::socket`]), TLS is verified, secrets come from files or systemd credentials ([`platform::secret`])
//!   and never reach a log or an event.
//! - **I11 Pictures stay on the device.**
//! - **I12 Fail small.** A lost camera, a full disk, a dead link, a missing pin degrades only that part, is reported as an event, and
//!   recovers by itself; the rest continues.
//!
//! An error is one line: the place, what is wrong, the remedy ([`base::error`]).
//!
//! # What is deliberately absent
//! No async in the data path (blocking threads and rings are simpler to prove), no plugin system, no database, no colour
//! conversion of whole frames, no clean-up of memory at run time.
//!
//! # More
//! [`glossary`]: terms. [`decisions`]: design decisions and their reasons. [`systems`]: the numbers S1-S19 and F1-F9 that the code cites.

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
pub mod status;
pub mod tools;
pub mod vision;

pub mod glossary {
    //! Terms of this program.
    #![doc = include_str!("glossary.md")]
}

pub mod systems {
    //! The systems of the original program, and their counterparts here.
    #![doc = include_str!("systems.md")]
}

pub mod decisions {
    //! Design decisions, their reasons, and attempts that did not help.
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
    #![doc = include_str!("decisions/0014-size.md")]
    #![doc = include_str!("decisions/0015-cameras-together.md")]
    #![doc = include_str!("decisions/0016-streams.md")]
    #![doc = include_str!("decisions/0017-figures.md")]
    #![doc = include_str!("decisions/0018-idle.md")]
}
