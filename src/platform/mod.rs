//! The machine: clocks, memory and identity of the process, CPU cores, pins, watchdogs.

pub mod calendar;
pub mod clock;
pub mod cores;
pub mod gpio;
pub mod system;
pub mod watchdog;
