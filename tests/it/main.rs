//! Integration tests: the library and the program from outside, one module for each subject. One binary, because each more would be
//! linked with the whole library once more, and because what waits in one module then runs beside what computes in another.
//!
//! `cargo test --test it spool_crash` runs one module.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests, and some print what they measured"
)]

mod cli;
mod common;
mod delivery;
mod demo;
mod eval;
mod focus;
mod fuzz;
mod hostile_models;
mod parity;
mod real_receivers;
mod receivers;
mod replay;
mod sim;
mod sources;
mod spool;
mod spool_crash;
mod spool_days;
mod spool_time;
mod spool_trouble;
mod tune;
mod watchdog;
