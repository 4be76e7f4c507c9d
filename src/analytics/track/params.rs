//! Settings of the tracker.

use std::time::Duration;

use crate::base::error::{Error, Kind, Result};

/// Settings of the tracker. See [`Params::check`] for the ranges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// Detections with a lower score are ignored, 0..=1. Default 0.1 (`track_low_thresh` of Ultralytics' bytetrack.yaml).
    pub score_low: f32,
    /// Detections with at least this score are strong, `score_low`..=1. Default 0.25 (`track_high_thresh` there, set for YOLO scores; the
    /// paper's 0.6 is for YOLOX).
    pub score_high: f32,
    /// Detections with at least this score may begin a track, `score_high`..=1. Default 0.25 (`new_track_thresh` there).
    pub score_new: f32,
    /// Minimum IoU in round 1, above 0 and below 1. Default 0.2 (ByteTrack's `match_thresh` 0.8 is the distance). Ours gates by IoU alone
    /// and uses the score only as a preference: with fused gating, a score of 0.25 would need an IoU of 0.8.
    pub iou_min: f32,
    /// Minimum IoU in round 2, above 0 and below 1. Default 0.5 (ByteTrack).
    pub iou_low_min: f32,
    /// Cost of a class other than the track's within its group, 0..=0.5, on the scale of costs from 0 to 1. Default 0.1.
    pub class_penalty: f32,
    /// Detections that confirm a track, 2..=20. Default 2.
    pub hits_min: u32,
    /// A track ends after this long out of sight, 100 ms..=60 s. Default 2 s.
    pub lost_after: Duration,
    /// Highest plausible velocity, box sides a second along either axis, 1..=50. Default 12: a car at 50 km/h seen from the side makes 3 a
    /// second, a bicycle 5, a motorcycle that crosses the view at 90 km/h 12.
    pub speed_max: f32,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            score_low: 0.1,
            score_high: 0.25,
            score_new: 0.25,
            iou_min: 0.2,
            iou_low_min: 0.5,
            class_penalty: 0.1,
            hits_min: 2,
            lost_after: Duration::from_secs(2),
            speed_max: 12.0,
        }
    }
}

fn within(name: &str, value: f32, least: f32, most: f32) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::fatal(Kind::Config, format!("tracking: {name} is {value}, allowed is {least} to {most}")))
}

impl Params {
    /// Checks all settings.
    ///
    /// # Errors
    /// `Kind::Config` with the name, the value and the range of the first invalid setting.
    pub fn check(&self) -> Result<()> {
        within("score_low", self.score_low, 0.0, 1.0)?;
        within("score_high", self.score_high, self.score_low, 1.0)?;
        within("score_new", self.score_new, self.score_high, 1.0)?;
        within("iou_min", self.iou_min, 0.01, 0.99)?;
        within("iou_low_min", self.iou_low_min, 0.01, 0.99)?;
        within("class_penalty", self.class_penalty, 0.0, 0.5)?;
        within("hits_min", self.hits_min as f32, 2.0, 20.0)?;
        within("lost_after (seconds)", self.lost_after.as_secs_f32(), 0.1, 60.0)?;
        within("speed_max (sides per second)", self.speed_max, 1.0, 50.0)
    }
}
