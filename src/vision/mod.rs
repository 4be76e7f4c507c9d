//! From a frame to detections: the JPEG decoder, the motion gate, the region of interest, the detector and its self-test.

pub mod detect;
pub mod draw;
pub mod gate;
pub mod jpeg;
pub mod roi;
pub mod selftest;
