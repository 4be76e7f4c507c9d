//! Whether a camera delivers usable frames, and when this is reported: lost once, and back with its first usable frame. The caller provides
//! thread and clock (the daemon's capture thread, or a device in virtual time) and passes the time and the counters.

use std::time::Duration;

use crate::event::Body;
use crate::platform::clock::Mono;

/// Lowest number of consecutive unusable frames before a source may count as lost.
const BAD_FRAMES_MIN: u64 = 3;

/// The camera delivers, for the first time or again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    /// Since this time.
    pub at: Mono,
    /// How long it was away, milliseconds; 0 for the first time.
    pub absent_ms: u64,
}

impl Back {
    /// The event that reports it, for frames of this size.
    pub const fn event(&self, width: u32, height: u32) -> Body {
        Body::CameraBack { absent_ms: self.absent_ms, width, height }
    }
}

/// State of a camera over all the times that it is opened. It is alive while its frames are usable, not merely while bytes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// Time of the loss; `None` while it delivers.
    lost_at: Option<Mono>,
    /// Whether its delivery was already reported since it was opened.
    is_reported: bool,
    /// When opening it last began: older frames are from the time before.
    begun: Mono,
    /// When it was open.
    opened_at: Mono,
    /// When the newest usable frame since then was captured.
    usable_at: Option<Mono>,
    /// Number of corrupt frames up to then.
    corrupt: u64,
}

impl Presence {
    /// A camera that was never opened; the time is `now`.
    pub const fn new(now: Mono) -> Self {
        Presence {
            lost_at: None,
            is_reported: false,
            begun: now,
            opened_at: now,
            usable_at: None,
            corrupt: 0,
        }
    }

    /// It is open at `now`, which began at `begun`, after `corrupt` unusable frames in total.
    pub fn opened(&mut self, begun: Mono, now: Mono, corrupt: u64) {
        *self = Presence { lost_at: self.lost_at, begun, corrupt, ..Presence::new(now) };
    }

    /// A frame arrived that was captured at `at`. This is enough unless the camera was lost: then a frame must first prove usable.
    pub fn frame(&mut self, at: Mono) -> Option<Back> {
        if self.lost_at.is_some() { None } else { self.report(at) }
    }

    /// Records when the newest usable frame was captured, and the total number of corrupt frames. A frame from before it was opened proves
    /// nothing, however long its processing took.
    pub fn note(&mut self, usable: Option<Mono>, corrupt: u64) -> Option<Back> {
        let is_new = |at: &Mono| self.usable_at.map_or(*at >= self.begun, |last| *at > last);
        if let Some(at) = usable.filter(is_new) {
            (self.usable_at, self.corrupt) = (Some(at), corrupt);
        }
        self.usable_at.and_then(|at| self.report(at))
    }

    /// How many frames arrived, none of them usable, during `limit` or longer.
    pub fn overdue(&self, now: Mono, corrupt: u64, limit: Duration) -> Option<u64> {
        let bad = corrupt.saturating_sub(self.corrupt);
        let since = self.usable_at.unwrap_or(self.opened_at);
        (bad >= BAD_FRAMES_MIN && now.since(since) >= limit).then_some(bad)
    }

    /// Marks it as lost. False if it already was.
    pub fn lost(&mut self, now: Mono) -> bool {
        let is_news = self.lost_at.is_none();
        self.lost_at.get_or_insert(now);
        is_news
    }

    /// Whether it is lost.
    pub const fn is_lost(&self) -> bool {
        self.lost_at.is_some()
    }

    fn report(&mut self, at: Mono) -> Option<Back> {
        if std::mem::replace(&mut self.is_reported, true) {
            return None;
        }
        let absent_ms = self.lost_at.take().map_or(0, |lost| at.since(lost).as_millis() as u64);
        Some(Back { at, absent_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_camera_is_alive_while_its_frames_are_usable() {
        let mut presence = Presence::new(at(0));
        presence.opened(at(99), at(100), 7);
        // A frame from before it was opened proves nothing.
        assert_eq!(presence.note(Some(at(98)), 7), None);
        assert_eq!(
            presence.overdue(at(200), 7, LIMIT),
            None,
            "a source that sends nothing has its own time-out"
        );
        assert_eq!(presence.overdue(at(200), 9, LIMIT), None, "two bad frames prove nothing");
        assert_eq!(presence.overdue(at(109), 90, LIMIT), None, "too early");
        assert_eq!(presence.overdue(at(110), 90, LIMIT), Some(83));
        assert_eq!(presence.note(Some(at(108)), 90), Some(Back { at: at(108), absent_ms: 0 }));
        assert_eq!(presence.overdue(at(110), 90, LIMIT), None);
        assert_eq!(presence.overdue(at(117), 190, LIMIT), None);
        assert_eq!(presence.overdue(at(118), 190, LIMIT), Some(100));
        // One good frame among many bad ones keeps it alive: the bad ones are counted.
        assert_eq!(presence.note(Some(at(117)), 189), None, "reported before");
        assert_eq!(presence.overdue(at(120), 200, LIMIT), None);
    }

    #[test]
    fn a_camera_is_lost_once_and_back_with_its_first_usable_frame() {
        let mut presence = Presence::new(at(0));
        presence.opened(at(1), at(1), 0);
        assert_eq!(
            presence.frame(at(2)),
            Some(Back { at: at(2), absent_ms: 0 }),
            "at first any frame is enough"
        );
        assert_eq!(presence.frame(at(3)), None);
        assert!(presence.lost(at(4)) && !presence.lost(at(5)) && presence.is_lost());
        presence.opened(at(6), at(7), 0);
        assert_eq!(presence.frame(at(7)), None, "it must first prove usable");
        assert_eq!(presence.note(Some(at(5)), 1), None);
        assert!(presence.is_lost() && !presence.lost(at(8)), "the same absence");
        presence.opened(at(8), at(8), 1);
        assert_eq!(presence.note(Some(at(9)), 1), Some(Back { at: at(9), absent_ms: 5000 }));
        assert!(!presence.is_lost());
    }
}
