//! The machine: clocks, the log, memory and identity of the process, threads, CPU cores, pins, watchdogs.

pub mod calendar;
pub mod clock;
pub mod cores;
pub mod gpio;
pub mod log;
pub mod machine;
pub mod process;
pub mod secret;
pub mod system;
pub mod threads;
pub mod watchdog;
pub mod zone;
