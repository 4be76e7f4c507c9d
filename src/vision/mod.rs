//! From a frame to detections: JPEG decoder, motion gate, region of interest, detector, model loading, self-test.

pub mod detect;
pub mod draw;
pub mod gate;
pub mod jpeg;
pub mod load;
pub mod roi;
pub mod selftest;
