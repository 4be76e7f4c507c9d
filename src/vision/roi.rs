//! Where the network looks: at the whole picture, or only at the part in which something moves, in more detail and for less work.
//!
//! ```text
//!   gate: regions ──┐
//!   moving tracks ──┴► one rectangle ─► grown ─► the cheapest input rectangle that shows it at least as large as the whole
//!                                                picture is shown ─► widened until it fills that
//! ```
//! The engine has the network at some sizes ("rungs", the largest for the whole picture). Every [`Params::whole`] the whole
//! picture is looked at in any case, for what stands still; so it is while the gate learns, or was opened by something else than
//! what it saw, and after a look whose sides cut something through that nobody knew.
//!
//! It never reads a clock, never takes heap memory after [`Focus::new`], and never leaves the frame.

use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::geometry::{BoxPx, Frame};
use crate::platform::clock::Mono;
use crate::vision::detect::letterbox::{Part, Placement, Size};
use crate::vision::detect::{Detection, Detections};
use crate::vision::gate::{Reason, Verdict};

/// Rungs that an engine is made for, the whole picture's among them.
pub const RUNGS_MAX: usize = 4;
/// Sides of the smaller rungs, as parts of the largest one's: a half, a quarter and an eighth of the work.
const SIDES: [f64; RUNGS_MAX - 1] = [0.7, 0.5, 0.35];
/// What moves is shown with so much around it, as a part of its longer side ...
const MARGIN: f32 = 0.2;
/// ... but so many pixels at least and at most.
const MARGIN_PX: (f32, f32) = (16.0, 96.0);
/// A track of which the moving part covers so much is a moving one, and is shown whole.
const COVER_MIN: f32 = 0.15;
/// What comes nearer to a side of the part, in pixels of the network's input or as a part of its own side, is cut by it: boxes of
/// what is half out of sight end a little before the side.
const CUT_PX: f32 = 2.0;
const CUT_SHARE: f32 = 0.06;
/// A cut detection that overlaps a track so much is that one's.
const KNOWN_IOU: f32 = 0.3;

/// Least time between two looks at the whole picture for the sake of something unknown at a side.
const CUT_EVERY: Duration = Duration::from_secs(1);

/// How a track moves, for who wants to know where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// It may be somewhere else at the next look.
    Moves,
    /// It stays.
    Stands,
}

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// The whole picture is looked at after so long, 100 ms..=10 minutes. Default 5 s.
    pub whole: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Params { whole: Duration::from_secs(5) }
    }
}

impl Params {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// `Kind::Config` with the range.
    pub fn check(&self) -> Result<()> {
        if (Duration::from_millis(100)..=Duration::from_secs(600)).contains(&self.whole) {
            return Ok(());
        }
        Err(Error::fatal(
            Kind::Config,
            format!("focus: whole is {:?}, allowed is 100 ms to 10 minutes", self.whole),
        ))
    }
}

/// The rungs for a network whose whole picture is `whole`, the largest first, sides multiples of `stride`.
pub fn rungs(whole: Size, stride: usize) -> heapless::Vec<Size, RUNGS_MAX> {
    let stride = stride.max(1);
    let mut rungs = heapless::Vec::new();
    rungs.extend([whole]);
    for part in SIDES {
        let side = |side: usize| ((side as f64 * part / stride as f64).round() as usize).max(2) * stride;
        let size = Size { width: side(whole.width), height: side(whole.height) };
        let last = rungs.last().copied().unwrap_or(whole);
        if size.width * size.height < last.width * last.height
            && size.width <= whole.width
            && size.height <= whole.height
        {
            rungs.extend([size]);
        }
    }
    rungs
}

/// A look at a part of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Which part.
    pub part: Part,
    /// At which of the engine's sizes.
    pub rung: usize,
}

/// Decides where to look.
#[derive(Debug)]
pub struct Focus {
    params: Params,
    rungs: heapless::Vec<Size, RUNGS_MAX>,
    /// When the whole picture was looked at last.
    whole_at: Option<Mono>,
    /// Where the gate saw something move last: it may still be there, and has just stopped.
    last: Option<BoxPx<Frame>>,
    /// Something unknown was cut: a look at the whole picture is due.
    cut: bool,
}

impl Focus {
    /// For an engine with these `rungs`, the whole picture's first. `None` if there is only one.
    ///
    /// # Errors
    /// As [`Params::check`].
    pub fn new(params: Params, rungs: &[Size]) -> Result<Option<Self>> {
        params.check()?;
        let rungs: heapless::Vec<Size, RUNGS_MAX> = rungs.iter().copied().take(RUNGS_MAX).collect();
        let focus = Focus { params, rungs, whole_at: None, last: None, cut: false };
        Ok((focus.rungs.len() > 1).then_some(focus))
    }

    /// Pictures have another size from now on: the next look is at a whole one.
    pub fn reset(&mut self) {
        (self.whole_at, self.last, self.cut) = (None, None, false);
    }

    /// Where to look in a `frame` for which the gate gave this verdict. `tracks`: where road users are expected now, in the frame, and
    /// how they move. `None`: at all of it.
    pub fn choose(
        &mut self,
        now: Mono,
        verdict: &Verdict,
        tracks: &(impl Iterator<Item = (BoxPx<Frame>, Motion)> + Clone),
        frame: Size,
    ) -> Option<Look> {
        let moving = match verdict.reason {
            Reason::Motion => verdict.regions.iter().copied().reduce(|a, b| a.union(&b)),
            Reason::Hold => self.last,
            Reason::Warmup | Reason::Woken | Reason::Refresh | Reason::LightSwitch | Reason::Still => None,
        };
        self.last = moving;
        let since_whole = now.since(self.whole_at?);
        let is_due = since_whole >= self.params.whole || (self.cut && since_whole >= CUT_EVERY);
        if is_due { None } else { self.look_at(moving?, tracks, frame) }
    }

    /// The network has looked: at a part, or at the whole picture.
    pub const fn looked(&mut self, now: Mono, look: Option<Look>) {
        if look.is_none() {
            (self.whole_at, self.cut) = (Some(now), false);
        }
    }

    fn look_at(
        &self,
        moving: BoxPx<Frame>,
        tracks: &(impl Iterator<Item = (BoxPx<Frame>, Motion)> + Clone),
        frame: Size,
    ) -> Option<Look> {
        let (wide, high) = (frame.width as f32, frame.height as f32);
        let mut shown = moving.clipped(wide, high);
        let movers = tracks.clone().filter(|(track, motion)| *motion == Motion::Moves && track.area() > 0.0);
        for (track, _) in movers {
            shown = shown.union(&track);
        }
        // Tracks that one brings in may bring in others; who is in stays in, so that it ends.
        loop {
            let is_new = |track: &BoxPx<Frame>| {
                !shown.holds(track)
                    && shown.intersection(track) >= COVER_MIN * track.area()
                    && track.area() > 0.0
            };
            let Some(track) = tracks.clone().map(|(track, _)| track).find(is_new) else { break };
            shown = shown.union(&track);
        }
        let margin = (MARGIN * shown.width().max(shown.height())).clamp(MARGIN_PX.0, MARGIN_PX.1);
        let shown = shown.grown(margin).clipped(wide, high);
        let scale = |size: &Size| {
            (size.width as f32 / shown.width().max(1.0)).min(size.height as f32 / shown.height().max(1.0))
        };
        let whole = Placement::new(frame, self.rungs[0]).pixels_per_frame_pixel();
        // The smallest that shows it pixel by pixel, or as the whole picture would if that is larger; else the smallest that shows it
        // no smaller than that.
        let best = whole.max(1.0);
        let smaller = || self.rungs.iter().enumerate().skip(1).rev();
        let native = smaller().find(|(_, size)| scale(size) >= best);
        let (rung, size) = native.or_else(|| smaller().find(|(_, size)| scale(size) >= whole))?;
        let scale = scale(size).min(best);
        let fill = |side: usize, of: usize| ((side as f32 / scale).floor() as usize).clamp(1, of);
        let (width, height) = (fill(size.width, frame.width), fill(size.height, frame.height));
        let begin = |from: f32, to: f32, side: usize, of: usize| {
            (((from + to - side as f32) / 2.0).round().max(0.0) as usize).min(of - side)
        };
        let left = begin(shown.x1, shown.x2, width, frame.width);
        let top = begin(shown.y1, shown.y2, height, frame.height);
        Some(Look { part: Part { left, top, size: Size { width, height } }, rung })
    }

    /// Takes out of `detections` what the sides of the part cut through, except where they are the frame's own. If one of them, as
    /// strong as `score_min`, is no track's, a look at the whole picture is due.
    pub fn drop_cut(
        &mut self,
        look: &Look,
        detections: &mut Detections,
        tracks: &(impl Iterator<Item = (BoxPx<Frame>, Motion)> + Clone),
        score_min: f32,
        frame: Size,
    ) {
        let part = look.part.bbox();
        let edge = CUT_PX / Placement::of_part(look.part, self.rungs[look.rung]).pixels_per_frame_pixel();
        let (wide, high) = (frame.width as f32, frame.height as f32);
        let is_cut = |b: &BoxPx<Frame>| {
            let (across, down) = (edge.max(CUT_SHARE * b.width()), edge.max(CUT_SHARE * b.height()));
            (part.x1 > 0.0 && b.x1 < part.x1 + across)
                || (part.y1 > 0.0 && b.y1 < part.y1 + down)
                || (part.x2 < wide && b.x2 > part.x2 - across)
                || (part.y2 < high && b.y2 > part.y2 - down)
        };
        let mut unknown = false;
        detections.retain(|Detection { bbox, score, .. }| {
            let cut = is_cut(bbox);
            if cut && *score >= score_min {
                let shown = |track: BoxPx<Frame>| {
                    BoxPx::new(
                        track.x1.max(part.x1),
                        track.y1.max(part.y1),
                        track.x2.min(part.x2),
                        track.y2.min(part.y2),
                    )
                };
                unknown |= !tracks.clone().any(|(track, _)| shown(track).iou(bbox) >= KNOWN_IOU);
            }
            !cut
        });
        self.cut |= unknown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: Size = Size { width: 1280, height: 720 };
    const WHOLE: Size = Size { width: 640, height: 384 };

    fn focus() -> Focus {
        let mut focus = Focus::new(Params::default(), &rungs(WHOLE, 32)).unwrap().unwrap();
        assert_eq!(next(&mut focus, 0, &verdict(Reason::Warmup, &[]), &none()), None);
        focus
    }

    /// Chooses and looks.
    fn next(
        focus: &mut Focus,
        millis: u64,
        verdict: &Verdict,
        tracks: &(impl Iterator<Item = (BoxPx<Frame>, Motion)> + Clone),
    ) -> Option<Look> {
        let look = focus.choose(at(millis), verdict, tracks, FRAME);
        focus.looked(at(millis), look);
        look
    }

    fn at(millis: u64) -> Mono {
        Mono::ZERO + Duration::from_millis(millis)
    }

    fn none() -> std::iter::Empty<(BoxPx<Frame>, Motion)> {
        std::iter::empty()
    }

    fn verdict(reason: Reason, regions: &[BoxPx<Frame>]) -> Verdict {
        Verdict { open: reason.open(), reason, moving_pixels: 9, regions: regions.iter().copied().collect() }
    }

    fn size(width: usize, height: usize) -> Size {
        Size { width, height }
    }

    #[test]
    fn rungs_fall_and_fit() {
        assert_eq!(rungs(WHOLE, 32)[..], [WHOLE, size(448, 256), size(320, 192), size(224, 128)]);
        assert_eq!(rungs(size(64, 64), 32)[..], [size(64, 64)]);
        assert!(Focus::new(Params::default(), &rungs(size(64, 64), 32)).unwrap().is_none());
        let error = Focus::new(Params { whole: Duration::ZERO }, &[WHOLE]).unwrap_err();
        assert!(error.to_string().contains("100 ms to 10 minutes"), "{error}");
    }

    #[test]
    fn a_small_thing_is_shown_pixel_by_pixel_and_a_large_one_no_smaller_than_before() {
        let mut focus = focus();
        let small = BoxPx::new(600.0, 300.0, 680.0, 340.0);
        let look = next(&mut focus, 100, &verdict(Reason::Motion, &[small]), &none()).unwrap();
        assert_eq!((look.rung, look.part.size), (3, size(224, 128)));
        assert!(look.part.bbox().holds(&small.grown(16.0)));
        // At the frame's corner the part moves inwards, it does not shrink.
        let corner = BoxPx::new(1200.0, 0.0, 1280.0, 40.0);
        let look = next(&mut focus, 200, &verdict(Reason::Motion, &[corner]), &none()).unwrap();
        assert_eq!((look.part.left, look.part.top, look.part.size), (1056, 0, size(224, 128)));
        let middle = BoxPx::new(300.0, 200.0, 700.0, 400.0);
        let look = next(&mut focus, 300, &verdict(Reason::Motion, &[middle]), &none()).unwrap();
        assert_eq!(look.rung, 2, "560 pixels in 320: more than the half of the whole picture");
        let large = BoxPx::new(100.0, 100.0, 1000.0, 600.0);
        assert_eq!(next(&mut focus, 400, &verdict(Reason::Motion, &[large]), &none()), None);
    }

    #[test]
    fn the_whole_picture_has_its_turn() {
        let mut focus = focus();
        let moving = verdict(Reason::Motion, &[BoxPx::new(600.0, 300.0, 680.0, 340.0)]);
        let held = verdict(Reason::Hold, &[]);
        let first = next(&mut focus, 100, &moving, &none()).unwrap();
        assert_eq!(next(&mut focus, 300, &held, &none()), Some(first), "where it was last");
        assert!(next(&mut focus, 4900, &held, &none()).is_some());
        assert_eq!(next(&mut focus, 5000, &moving, &none()), None, "5 s after the last one");
        assert!(next(&mut focus, 5100, &moving, &none()).is_some());
        for reason in [Reason::Refresh, Reason::Woken, Reason::Warmup] {
            assert_eq!(next(&mut focus, 5200, &verdict(reason, &[]), &none()), None);
            assert_eq!(next(&mut focus, 5300, &held, &none()), None, "nothing is known to have moved");
        }
        focus.reset();
        assert_eq!(next(&mut focus, 5400, &moving, &none()), None);
    }

    #[test]
    fn tracks_that_move_are_looked_at_wherever_they_are() {
        let mut focus = focus();
        let moving = verdict(Reason::Motion, &[BoxPx::new(600.0, 300.0, 680.0, 340.0)]);
        let near = BoxPx::new(480.0, 300.0, 560.0, 340.0);
        let look = next(&mut focus, 100, &moving, &[(near, Motion::Moves)].into_iter()).unwrap();
        assert!(look.part.bbox().holds(&near), "the gate does not see it, but it was on its way");
        assert!(next(&mut focus, 200, &moving, &[(near, Motion::Stands)].into_iter()).is_some());
        let far = BoxPx::new(0.0, 600.0, 80.0, 700.0);
        assert_eq!(
            next(&mut focus, 300, &moving, &[(far, Motion::Moves)].into_iter()),
            None,
            "too far apart"
        );
        // A picture that is enlarged is enlarged in part too.
        let mut small = Focus::new(Params::default(), &rungs(size(640, 480), 32)).unwrap().unwrap();
        small.looked(at(0), None);
        let frame = size(320, 240);
        let region = verdict(Reason::Motion, &[BoxPx::new(100.0, 100.0, 120.0, 130.0)]);
        let Look { part, rung } = small.choose(at(100), &region, &none(), frame).unwrap();
        assert_eq!(Placement::of_part(part, small.rungs[rung]).pixels_per_frame_pixel(), 2.0);
    }

    #[test]
    fn moving_tracks_are_shown_whole_and_what_is_cut_is_dropped() {
        let mut focus = focus();
        let wheels = BoxPx::new(600.0, 330.0, 700.0, 370.0);
        let lorry = BoxPx::new(560.0, 250.0, 720.0, 380.0);
        let parked = BoxPx::new(690.0, 300.0, 900.0, 400.0);
        let tracks = [(parked, Motion::Stands), (lorry, Motion::Moves)].into_iter();
        let look = next(&mut focus, 100, &verdict(Reason::Motion, &[wheels]), &tracks).unwrap();
        let part = look.part.bbox();
        assert!(part.holds(&lorry) && !part.holds(&parked), "{look:?}");
        let class = crate::vision::detect::ClassId(2);
        let detection = |bbox, score| Detection { bbox, score, class };
        let seen_of_parked = BoxPx::new(690.0, 300.0, part.x2, 400.0);
        let mut detections = Detections::new();
        detections.extend([detection(lorry, 0.8), detection(seen_of_parked, 0.9)]);
        focus.drop_cut(&look, &mut detections, &tracks, 0.25, FRAME);
        assert_eq!(detections.as_slice(), [detection(lorry, 0.8)]);
        assert!(next(&mut focus, 200, &verdict(Reason::Motion, &[wheels]), &tracks).is_some(), "it is known");
        // Somebody unknown at the side, strong enough to begin a track: one look at everything.
        let stranger = |score| detection(BoxPx::new(part.x1, 300.0, part.x1 + 30.0, 360.0), score);
        for (score, is_part) in [(0.2, true), (0.5, false)] {
            let look = focus
                .choose(
                    at(300),
                    &verdict(Reason::Motion, &[wheels]),
                    &[(lorry, Motion::Moves)].into_iter(),
                    FRAME,
                )
                .unwrap();
            detections.clear();
            detections.extend([stranger(score)]);
            focus.drop_cut(&look, &mut detections, &[(lorry, Motion::Moves)].into_iter(), 0.25, FRAME);
            assert!(detections.is_empty());
            let next = next(&mut focus, 1400, &verdict(Reason::Motion, &[wheels]), &none());
            assert_eq!(next.is_some(), is_part, "{score}");
        }
        assert!(next(&mut focus, 1500, &verdict(Reason::Motion, &[wheels]), &none()).is_some());
    }

    proptest! {
        /// Whatever moves wherever: the part is in the frame, has all that moves, and shows it at least as large as the whole picture.
        #[test]
        fn parts_are_in_the_frame_and_hold_what_moves(
            wide in 16usize..2000, high in 16usize..2000, (mw, mh) in (2usize..21, 2usize..21),
            boxes in proptest::collection::vec((0.0f32..1.0, 0.0f32..1.0, 0.0f32..0.4, 0.0f32..0.4), 1..8),
            tracks in proptest::collection::vec((-0.2f32..1.2, -0.2f32..1.2, 0.0f32..0.5, 0.0f32..0.5), 0..8)
        ) {
            let frame = size(wide, high);
            let whole = size(32 * mw, 32 * mh);
            let Some(mut focus) = Focus::new(Params::default(), &rungs(whole, 32)).unwrap() else { return Ok(()) };
            let to_box = |(x, y, w, h): &(f32, f32, f32, f32)| {
                BoxPx::<Frame>::new(x * wide as f32, y * high as f32, (x + w) * wide as f32, (y + h) * high as f32)
            };
            let regions: Vec<_> = boxes.iter().map(|b| to_box(b).clipped(wide as f32, high as f32)).collect();
            let tracks: Vec<_> = tracks.iter().map(to_box).collect();
            focus.looked(at(0), None);
            let look = focus.choose(at(1), &verdict(Reason::Motion, &regions), &tracks.iter().map(|track| (*track, Motion::Stands)), frame);
            let Some(Look { part, rung }) = look else { return Ok(()) };
            prop_assert!(part.left + part.size.width <= wide && part.top + part.size.height <= high);
            prop_assert!(part.size.width > 0 && part.size.height > 0 && (1..focus.rungs.len()).contains(&rung));
            for region in &regions {
                prop_assert!(part.bbox().grown(1.0).holds(region), "{region:?} in {part:?}");
            }
            let shown = Placement::of_part(part, focus.rungs[rung]).pixels_per_frame_pixel();
            let before = Placement::new(frame, whole).pixels_per_frame_pixel();
            prop_assert!(shown >= before * 0.95, "{shown} for {before}");
        }
    }
}
