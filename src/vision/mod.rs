//! From a frame to detections: the JPEG decoder, the motion gate, the region of interest, the detector, its self-test and how it is loaded.

pub mod detect;
pub mod draw;
pub mod gate;
pub mod jpeg;
pub mod load;
pub mod roi;
pub mod selftest;
