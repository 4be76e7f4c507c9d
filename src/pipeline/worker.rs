//! State of a camera's frame processing besides the stages. The caller provides thread and clock: the daemon's pipeline thread, or a device
//! in virtual time.
//!
//! Duty: turns outcomes into counts, gives events the time of their frame, and ends tracks when no frame has been processed for a while,
//! because the camera is gone or delivers only corrupt frames. It gets `now` as a parameter, returns when to call again, and never waits.

use std::time::Duration;

use super::{Failure, Outcome};
use crate::base::error::Error;
use crate::event::Body;
use crate::platform::clock::Mono;

/// Receives an event and the capture time of its frame.
pub type OnEvent<'a> = dyn FnMut(Mono, Body) + 'a;

/// What one frame adds to the counters; the names are those of [`crate::event::Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameCounts {
    /// The gate processed it.
    pub frames_gated: u64,
    /// Inference was skipped.
    pub frames_still: u64,
    /// Its bytes were not a valid picture.
    pub frames_corrupt: u64,
    /// Its JPEG had stray bytes, and was decoded without them.
    pub frames_repaired: u64,
    /// Inference ran.
    pub inferences: u64,
    /// Inference ran on a region only.
    pub inferences_in_region: u64,
    /// Detections of the wanted classes.
    pub detections: u64,
    /// Candidates dropped because the decoder was full.
    pub candidates_dropped: u64,
    /// Detections dropped because the decoder was full.
    pub detections_dropped: u64,
}

impl FrameCounts {
    fn of(outcome: &Outcome) -> Self {
        let inferred = u64::from(outcome.inferred);
        FrameCounts {
            frames_gated: u64::from(outcome.gate.is_some()),
            frames_still: 1 - inferred,
            frames_corrupt: 0,
            frames_repaired: u64::from(outcome.repaired),
            inferences: inferred,
            inferences_in_region: u64::from(outcome.roi.is_some()),
            detections: u64::from(outcome.detections),
            candidates_dropped: u64::from(outcome.dropped.candidates),
            detections_dropped: u64::from(outcome.dropped.detections),
        }
    }
}

/// Result of processing a frame.
#[derive(Debug)]
pub struct Processed {
    /// Increments for the counters.
    pub counts: FrameCounts,
    /// The outcome of the stages, or why the frame is corrupt.
    pub outcome: Result<Outcome, String>,
}

/// A camera's state between two frames.
#[derive(Debug)]
pub struct FrameWorker {
    silence_max: Option<Duration>,
    /// Capture time of the newest processed frame, if tracks may be open since.
    newest: Option<Mono>,
}

impl FrameWorker {
    /// Tracks end `silence_max` after the last processed frame; `None`: never, because a recording cannot fall silent, its reader can only
    /// be slow.
    pub fn new(silence_max: Option<Duration>) -> Self {
        FrameWorker { silence_max, newest: None }
    }

    /// Another limit from now on, see [`FrameWorker::new`].
    pub fn set_silence_max(&mut self, silence_max: Option<Duration>) {
        self.silence_max = silence_max;
    }

    /// Processes the frame captured at `at` with `process`, which gets a callback for events.
    ///
    /// # Errors
    /// Inference failed permanently. A corrupt frame is not an error.
    pub fn frame(
        &mut self,
        at: Mono,
        process: impl FnOnce(&mut dyn FnMut(Body)) -> Result<Outcome, Failure>,
        on: &mut OnEvent<'_>,
    ) -> Result<Processed, Error> {
        match process(&mut |body| on(at, body)) {
            Ok(outcome) => {
                self.newest = Some(at);
                Ok(Processed { counts: FrameCounts::of(&outcome), outcome: Ok(outcome) })
            }
            Err(Failure::Corrupt(why)) => {
                let counts = FrameCounts { frames_corrupt: 1, ..FrameCounts::default() };
                Ok(Processed { counts, outcome: Err(why) })
            }
            Err(Failure::Engine(error)) => Err(error),
        }
    }

    /// Ends all tracks with `finish` if no frame has been processed for too long; returns whether it did. Call it at [`FrameWorker::due`]
    /// with the clock's time if no frame is waiting. Call it also after each frame, because all frames may be corrupt; then `now` is the
    /// capture time of that frame, because newer ones may be queued behind it.
    pub fn poll(
        &mut self,
        now: Mono,
        finish: impl FnOnce(Mono, &mut dyn FnMut(Body)),
        on: &mut OnEvent<'_>,
    ) -> bool {
        self.due().is_some_and(|due| now >= due) && self.end(finish, on)
    }

    /// When [`FrameWorker::poll`] has something to do, unless a frame is processed earlier.
    pub fn due(&self) -> Option<Mono> {
        Some(self.newest? + self.silence_max?)
    }

    /// No more frames will come, or none for a while: ends all tracks at the newest frame. False if none can be open.
    pub fn end(&mut self, finish: impl FnOnce(Mono, &mut dyn FnMut(Body)), on: &mut OnEvent<'_>) -> bool {
        let Some(at) = self.newest.take() else { return false };
        finish(at, &mut |body| on(at, body));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;
    use crate::event::fixed;

    fn at(seconds: u64) -> Mono {
        Mono::ZERO + Duration::from_secs(seconds)
    }

    fn degraded(reason: &str) -> Body {
        Body::Degraded { reason: fixed(reason) }
    }

    fn finish(_: Mono, on: &mut dyn FnMut(Body)) {
        on(degraded("finished"));
    }

    fn never(_: Mono, _: Body) {
        unreachable!("nothing happened");
    }

    fn good(_: &mut dyn FnMut(Body)) -> Result<Outcome, Failure> {
        Ok(Outcome { inferred: true, detections: 3, ..Outcome::default() })
    }

    fn corrupt(_: &mut dyn FnMut(Body)) -> Result<Outcome, Failure> {
        Err(Failure::Corrupt("torn".to_owned()))
    }

    #[test]
    fn events_have_the_time_of_their_frame_and_outcomes_become_counts() {
        let mut worker = FrameWorker::new(Some(Duration::from_secs(2)));
        let mut heard = Vec::new();
        let process = |on: &mut dyn FnMut(Body)| {
            on(degraded("a"));
            good(on)
        };
        let done = worker.frame(at(5), process, &mut |at, body| heard.push((at, body))).unwrap();
        let expected =
            FrameCounts { inferences: 1, frames_still: 0, detections: 3, ..FrameCounts::default() };
        assert_eq!((done.counts, done.outcome.is_ok()), (expected, true));
        assert_eq!(heard, [(at(5), degraded("a"))]);
        let still = |_: &mut dyn FnMut(Body)| Ok(Outcome::default());
        let done = worker.frame(at(6), still, &mut never).unwrap();
        assert_eq!(done.counts, FrameCounts { frames_still: 1, ..FrameCounts::default() });
        let done = worker.frame(at(7), corrupt, &mut never).unwrap();
        assert_eq!(done.counts, FrameCounts { frames_corrupt: 1, ..FrameCounts::default() });
        assert_eq!(done.outcome, Err("torn".to_owned()));
        let broken = |_: &mut dyn FnMut(Body)| Err(Failure::Engine(Error::fatal(Kind::Model, "gone")));
        assert_eq!(worker.frame(at(8), broken, &mut never).unwrap_err().kind(), Kind::Model);
    }

    /// Silence means no processable frame: corrupt frames do not keep tracks open.
    #[test]
    fn tracks_end_once_after_silence_or_corrupt_frames() {
        let mut worker = FrameWorker::new(Some(Duration::from_secs(2)));
        assert_eq!(worker.due(), None);
        assert!(!worker.poll(at(9), finish, &mut never), "no frame was processed yet");
        worker.frame(at(10), good, &mut never).unwrap();
        worker.frame(at(11), corrupt, &mut never).unwrap();
        assert_eq!(worker.due(), Some(at(12)));
        assert!(!worker.poll(at(11), finish, &mut never));
        let mut heard = Vec::new();
        assert!(worker.poll(at(12), finish, &mut |at, body| heard.push((at, body))));
        assert_eq!(heard, [(at(10), degraded("finished"))]);
        assert!(!worker.poll(at(20), finish, &mut never) && worker.due().is_none(), "once");
        // A recording waits for its reader; its tracks end only with the recording.
        let mut recording = FrameWorker::new(None);
        recording.frame(at(1), good, &mut never).unwrap();
        assert!(recording.due().is_none() && !recording.poll(at(1000), finish, &mut never));
        let mut heard = Vec::new();
        assert!(recording.end(finish, &mut |at, body| heard.push((at, body))));
        assert_eq!(heard, [(at(1), degraded("finished"))]);
    }
}
