//! A street in a seed: simulated traffic, pictures of it with the truth about them.
//!
//! Everything here follows from a seed, to the last bit and on every machine. Only [`crate::run`], [`crate::cli`] and tests use it;
//! no stage of the pipeline knows that it exists.

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
