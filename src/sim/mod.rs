//! A simulated street from a seed: traffic, and rendered pictures of it with their ground truth.
//!
//! Everything here follows from a seed, bit for bit and on every machine. Only [`crate::run`], [`crate::cli`] and tests use it; no stage of
//! the pipeline depends on it.

pub mod disk;
pub mod judge;
pub mod labels;
pub mod lines;
pub mod outline;
pub mod pixels;
pub mod random;
pub mod scene;
pub mod source;
pub mod space;
pub mod traffic;
pub mod view;
pub mod world;
