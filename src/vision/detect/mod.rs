//! From pixels to detections: letterbox → engine → decode.

pub mod accuracy;
pub mod builtin;
pub mod calibration;
pub mod decode;
pub mod engine;
pub mod letterbox;
pub mod model;
mod rgb;
pub mod trial;

use crate::base::geometry::{BoxPx, Frame};
use crate::base::limits::DETECTIONS_MAX;

/// Index into the model's class list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u16);

/// One road user in one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Position in frame pixels, clipped to the frame.
    pub bbox: BoxPx<Frame>,
    /// Score, 0..=1.
    pub score: f32,
    /// Class.
    pub class: ClassId,
}

/// The detections of a frame, strongest first.
pub type Detections = heapless::Vec<Detection, DETECTIONS_MAX>;
