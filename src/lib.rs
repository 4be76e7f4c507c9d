//! Flytrap. The map comes with the wiring.
pub mod capture;
pub mod clock;
pub mod detect;
pub mod error;
pub mod event;
pub mod frame;
pub mod geometry;
pub mod jpeg;
pub mod limits;
pub mod retry;
pub mod stop;
