//! Flytrap. The map comes with the wiring.
pub mod batch;
pub mod capture;
pub mod clock;
pub mod config;
pub mod detect;
pub mod draw;
pub mod error;
pub mod event;
pub mod frame;
pub mod gate;
pub mod geometry;
pub mod limits;
pub mod retry;
pub mod ring;
pub mod sample;
pub mod stop;
pub mod uplink;
