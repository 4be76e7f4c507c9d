//! The work of the commands besides counting: measuring, scoring, calibrating, exporting. [`crate::cli`] parses their options and prints
//! their results.

pub mod bench;
pub mod calibrate;
#[cfg(feature = "desktop")]
pub mod demo;
#[cfg(feature = "desktop")]
pub mod eval;
#[cfg(feature = "desktop")]
pub mod export;
#[cfg(feature = "desktop")]
pub mod labelled;
pub mod pictures;
#[cfg(feature = "desktop")]
pub mod score;
pub mod selftest;
#[cfg(feature = "desktop")]
pub mod tune;
