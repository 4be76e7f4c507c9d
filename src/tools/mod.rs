//! The work of the commands besides counting: measuring, scoring, calibrating, exporting. [`crate::cli`] parses their options and prints
//! their results.

pub mod bench;
pub mod calibrate;
pub mod demo;
pub mod eval;
pub mod export;
pub mod labelled;
pub mod pictures;
pub mod score;
pub mod selftest;
pub mod tune;
