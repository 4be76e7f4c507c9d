//! Integration tests: the library and the program from outside, one module for each subject. One binary, because each further one would
//! link the whole library again, and because tests that wait run beside tests that compute.
//!
//! `cargo test --test it spool_crash` runs one module.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests, and some print what they measured"
)]

mod cameras;
mod cli;
mod common;
mod control;
mod delivery;
mod demo;
mod eval;
mod fuzz;
mod hostile_models;
mod monitor;
mod monitoring;
mod parity;
mod real_receivers;
mod receivers;
mod reload;
mod replay;
mod roi;
mod sim;
mod sources;
mod spool;
mod spool_crash;
mod spool_days;
mod spool_time;
mod spool_trouble;
mod status;
mod streams;
mod top;
mod tune;
mod watchdog;
