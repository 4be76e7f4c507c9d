//! The region of interest: inference runs on the whole picture, or only on the region in which something moves, at lower cost and in more
//! detail.
//!
//! ```text
//!   gate: regions ──┐
//!   moving tracks ──┴► one rectangle ─► grown ─► the cheapest input rectangle that shows it at least as large as the whole
//!                                                picture is shown ─► widened until it fills that
//! ```
//! The engine has the network at several input sizes, the largest for the whole picture. Inference runs on the whole picture at least every
//! [`Params::whole`], for stationary objects; also while the gate learns, when something other than motion in the picture opened the gate,
//! and after a side of a region cut an object that has no track.
//!
//! It reads no clock, allocates nothing after [`RoiPlanner::new`], and never leaves the frame.

use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::geometry::{BoxPx, Frame};
use crate::platform::clock::Mono;
use crate::vision::detect::letterbox::{Placement, Region, Size};
use crate::vision::detect::{Detection, Detections};
use crate::vision::gate::{Reason, Verdict};

/// Maximum number of input sizes of an engine, including the whole picture's.
pub const INPUT_SIZES_MAX: usize = 4;
/// Sides of the smaller input sizes, as fractions of the largest one's: a half, a quarter and an eighth of the work.
const SIDES: [f64; INPUT_SIZES_MAX - 1] = [0.7, 0.5, 0.35];
/// Margin around moving regions, as a fraction of the longer side ...
const MARGIN: f32 = 0.2;
/// ... and its minimum and maximum, pixels.
const MARGIN_PX: (f32, f32) = (16.0, 96.0);
/// A track is included as a whole if the moving region covers this share of it.
const COVER_MIN: f32 = 0.15;
/// A box nearer than this to a side of the region, in pixels of the network's input or as a fraction of its own side, is cut by it: boxes
/// of partly visible objects end a little before the side.
const CUT_PX: f32 = 2.0;
const CUT_SHARE: f32 = 0.06;
/// A cut detection belongs to a track if their IoU is at least this.
const KNOWN_IOU: f32 = 0.3;

/// Minimum time between two runs on the whole picture that are caused by cut detections without a track.
const CUT_EVERY: Duration = Duration::from_secs(1);

/// How a track moves, for planning the region of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// It may have moved by the next frame.
    Moving,
    /// It stays where it is.
    Stationary,
}

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// Maximum time between two runs on the whole picture, 100 ms..=10 minutes. Default 5 s.
    pub whole: Duration,
}

impl Default for Params {
    fn default() -> Self {
        Params { whole: Duration::from_secs(5) }
    }
}

impl Params {
    /// Checks the settings.
    ///
    /// # Errors
    /// `Kind::Config` with the range.
    pub fn check(&self) -> Result<()> {
        if (Duration::from_millis(100)..=Duration::from_secs(600)).contains(&self.whole) {
            return Ok(());
        }
        Err(Error::fatal(
            Kind::Config,
            format!("planner: whole is {:?}, allowed is 100 ms to 10 minutes", self.whole),
        ))
    }
}

/// The input sizes of a network whose size for the whole picture is `whole`, the largest first, sides multiples of `stride`.
pub fn input_sizes(whole: Size, stride: usize) -> heapless::Vec<Size, INPUT_SIZES_MAX> {
    let stride = stride.max(1);
    let mut input_sizes = heapless::Vec::new();
    input_sizes.extend([whole]);
    for part in SIDES {
        let side = |side: usize| ((side as f64 * part / stride as f64).round() as usize).max(2) * stride;
        let size = Size { width: side(whole.width), height: side(whole.height) };
        let last = input_sizes.last().copied().unwrap_or(whole);
        if size.width * size.height < last.width * last.height
            && size.width <= whole.width
            && size.height <= whole.height
        {
            input_sizes.extend([size]);
        }
    }
    input_sizes
}

/// The plan for an inference on a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoiPlan {
    /// The region, frame pixels.
    pub region: Region,
    /// Index of the engine's input size.
    pub size_index: usize,
}

/// Plans regions of interest.
#[derive(Debug)]
pub struct RoiPlanner {
    params: Params,
    input_sizes: heapless::Vec<Size, INPUT_SIZES_MAX>,
    /// Time of the last run on the whole picture.
    whole_at: Option<Mono>,
    /// The last moving regions of the gate: the object may still be there, and have just stopped.
    last: Option<BoxPx<Frame>>,
    /// A cut detection had no track: a run on the whole picture is due.
    cut: bool,
}

impl RoiPlanner {
    /// A planner for an engine with these `input_sizes`, the whole picture's first. `None` if there is only one.
    ///
    /// # Errors
    /// As [`Params::check`].
    pub fn new(params: Params, input_sizes: &[Size]) -> Result<Option<Self>> {
        params.check()?;
        let input_sizes: heapless::Vec<Size, INPUT_SIZES_MAX> =
            input_sizes.iter().copied().take(INPUT_SIZES_MAX).collect();
        let planner = RoiPlanner { params, input_sizes, whole_at: None, last: None, cut: false };
        Ok((planner.input_sizes.len() > 1).then_some(planner))
    }

    /// Other settings from the next frame on.
    ///
    /// # Errors
    /// As [`Params::check`]; then nothing changed.
    pub fn set(&mut self, params: Params) -> Result<()> {
        params.check()?;
        self.params = params;
        Ok(())
    }

    /// The frame size changed: the next run is on the whole picture.
    pub fn reset(&mut self) {
        (self.whole_at, self.last, self.cut) = (None, None, false);
    }

    /// The region of a `frame` with this verdict of the gate. `tracks`: the predicted boxes of road users, in the frame, and how they move.
    /// `None`: the whole frame.
    pub fn choose(
        &mut self,
        now: Mono,
        verdict: &Verdict,
        tracks: &(impl Iterator<Item = (BoxPx<Frame>, Motion)> + Clone),
        frame: Size,
    ) -> Option<RoiPlan> {
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

    /// Records a run: on a region, or on the whole picture.
    pub const fn looked(&mut self, now: Mono, plan: Option<RoiPlan>) {
        if plan.is_none() {
            (self.whole_at, self.cut) = (Some(now), false);
        }
    }

    fn look_at(
        &self,
        moving: BoxPx<Frame>,
        tracks: &(impl Iterator<Item = (BoxPx<Frame>, Motion)> + Clone),
        frame: Size,
    ) -> Option<RoiPlan> {
        let (wide, high) = (frame.width as f32, frame.height as f32);
        let mut shown = moving.clipped(wide, high);
        let movers = tracks.clone().filter(|(track, motion)| *motion == Motion::Moving && track.area() > 0.0);
        for (track, _) in movers {
            shown = shown.union(&track);
        }
        // An included track may overlap further ones; tracks are never removed again, so that the loop ends.
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
        let whole = Placement::new(frame, self.input_sizes[0]).pixels_per_frame_pixel();
        // The smallest size that shows it at least pixel by pixel, or at the whole picture's scale if that is larger; otherwise the
        // smallest that is at least at the whole picture's scale.
        let best = whole.max(1.0);
        let smaller = || self.input_sizes.iter().enumerate().skip(1).rev();
        let native = smaller().find(|(_, size)| scale(size) >= best);
        let (size_index, size) = native.or_else(|| smaller().find(|(_, size)| scale(size) >= whole))?;
        let scale = scale(size).min(best);
        let fill = |side: usize, of: usize| ((side as f32 / scale).floor() as usize).clamp(1, of);
        let (width, height) = (fill(size.width, frame.width), fill(size.height, frame.height));
        let begin = |from: f32, to: f32, side: usize, of: usize| {
            (((from + to - side as f32) / 2.0).round().max(0.0) as usize).min(of - side)
        };
        let left = begin(shown.x1, shown.x2, width, frame.width);
        let top = begin(shown.y1, shown.y2, height, frame.height);
        Some(RoiPlan { region: Region { left, top, size: Size { width, height } }, size_index })
    }

    /// Removes detections that the sides of the region cut, except where they are the frame's own sides. If one of them, with a score of at
    /// least `score_min`, belongs to no track, a run on the whole picture is due.
    pub fn drop_cut(
        &mut self,
        plan: &RoiPlan,
        detections: &mut Detections,
        tracks: &(impl Iterator<Item = (BoxPx<Frame>, Motion)> + Clone),
        score_min: f32,
        frame: Size,
    ) {
        let part = plan.region.bbox();
        let edge = CUT_PX
            / Placement::of_region(plan.region, self.input_sizes[plan.size_index]).pixels_per_frame_pixel();
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

    fn planner() -> RoiPlanner {
        let mut planner = RoiPlanner::new(Params::default(), &input_sizes(WHOLE, 32)).unwrap().unwrap();
        assert_eq!(next(&mut planner, 0, &verdict(Reason::Warmup, &[]), &none()), None);
        planner
    }

    /// Plans and records the run.
    fn next(
        planner: &mut RoiPlanner,
        millis: u64,
        verdict: &Verdict,
        tracks: &(impl Iterator<Item = (BoxPx<Frame>, Motion)> + Clone),
    ) -> Option<RoiPlan> {
        let plan = planner.choose(at(millis), verdict, tracks, FRAME);
        planner.looked(at(millis), plan);
        plan
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
    fn input_sizes_fall_and_fit() {
        assert_eq!(input_sizes(WHOLE, 32)[..], [WHOLE, size(448, 256), size(320, 192), size(224, 128)]);
        assert_eq!(input_sizes(size(64, 64), 32)[..], [size(64, 64)]);
        assert!(RoiPlanner::new(Params::default(), &input_sizes(size(64, 64), 32)).unwrap().is_none());
        let error = RoiPlanner::new(Params { whole: Duration::ZERO }, &[WHOLE]).unwrap_err();
        assert!(error.to_string().contains("100 ms to 10 minutes"), "{error}");
    }

    #[test]
    fn small_regions_are_shown_pixel_by_pixel_and_large_ones_at_the_whole_pictures_scale() {
        let mut planner = planner();
        let small = BoxPx::new(600.0, 300.0, 680.0, 340.0);
        let plan = next(&mut planner, 100, &verdict(Reason::Motion, &[small]), &none()).unwrap();
        assert_eq!((plan.size_index, plan.region.size), (3, size(224, 128)));
        assert!(plan.region.bbox().holds(&small.grown(16.0)));
        // At the frame's corner the region moves inwards, it does not shrink.
        let corner = BoxPx::new(1200.0, 0.0, 1280.0, 40.0);
        let plan = next(&mut planner, 200, &verdict(Reason::Motion, &[corner]), &none()).unwrap();
        assert_eq!((plan.region.left, plan.region.top, plan.region.size), (1056, 0, size(224, 128)));
        let middle = BoxPx::new(300.0, 200.0, 700.0, 400.0);
        let plan = next(&mut planner, 300, &verdict(Reason::Motion, &[middle]), &none()).unwrap();
        assert_eq!(plan.size_index, 2, "560 pixels in 320: more than the half of the whole picture");
        let large = BoxPx::new(100.0, 100.0, 1000.0, 600.0);
        assert_eq!(next(&mut planner, 400, &verdict(Reason::Motion, &[large]), &none()), None);
    }

    #[test]
    fn the_whole_picture_is_run_at_least_every_5_seconds() {
        let mut planner = planner();
        let moving = verdict(Reason::Motion, &[BoxPx::new(600.0, 300.0, 680.0, 340.0)]);
        let held = verdict(Reason::Hold, &[]);
        let first = next(&mut planner, 100, &moving, &none()).unwrap();
        assert_eq!(next(&mut planner, 300, &held, &none()), Some(first), "where it was last");
        assert!(next(&mut planner, 4900, &held, &none()).is_some());
        assert_eq!(next(&mut planner, 5000, &moving, &none()), None, "5 s after the last one");
        assert!(next(&mut planner, 5100, &moving, &none()).is_some());
        for reason in [Reason::Refresh, Reason::Woken, Reason::Warmup] {
            assert_eq!(next(&mut planner, 5200, &verdict(reason, &[]), &none()), None);
            assert_eq!(next(&mut planner, 5300, &held, &none()), None, "no motion is known");
        }
        planner.reset();
        assert_eq!(next(&mut planner, 5400, &moving, &none()), None);
    }

    #[test]
    fn moving_tracks_are_included_wherever_they_are() {
        let mut planner = planner();
        let moving = verdict(Reason::Motion, &[BoxPx::new(600.0, 300.0, 680.0, 340.0)]);
        let near = BoxPx::new(480.0, 300.0, 560.0, 340.0);
        let plan = next(&mut planner, 100, &moving, &[(near, Motion::Moving)].into_iter()).unwrap();
        assert!(plan.region.bbox().holds(&near), "the gate does not report it, but it was moving");
        assert!(next(&mut planner, 200, &moving, &[(near, Motion::Stationary)].into_iter()).is_some());
        let far = BoxPx::new(0.0, 600.0, 80.0, 700.0);
        assert_eq!(
            next(&mut planner, 300, &moving, &[(far, Motion::Moving)].into_iter()),
            None,
            "too far apart"
        );
        // A picture that is enlarged is enlarged in regions too.
        let mut small =
            RoiPlanner::new(Params::default(), &input_sizes(size(640, 480), 32)).unwrap().unwrap();
        small.looked(at(0), None);
        let frame = size(320, 240);
        let region = verdict(Reason::Motion, &[BoxPx::new(100.0, 100.0, 120.0, 130.0)]);
        let RoiPlan { region: part, size_index } = small.choose(at(100), &region, &none(), frame).unwrap();
        assert_eq!(Placement::of_region(part, small.input_sizes[size_index]).pixels_per_frame_pixel(), 2.0);
    }

    #[test]
    fn moving_tracks_are_included_whole_and_cut_detections_are_dropped() {
        let mut planner = planner();
        let wheels = BoxPx::new(600.0, 330.0, 700.0, 370.0);
        let lorry = BoxPx::new(560.0, 250.0, 720.0, 380.0);
        let parked = BoxPx::new(690.0, 300.0, 900.0, 400.0);
        let tracks = [(parked, Motion::Stationary), (lorry, Motion::Moving)].into_iter();
        let plan = next(&mut planner, 100, &verdict(Reason::Motion, &[wheels]), &tracks).unwrap();
        let part = plan.region.bbox();
        assert!(part.holds(&lorry) && !part.holds(&parked), "{plan:?}");
        let class = crate::vision::detect::ClassId(2);
        let detection = |bbox, score| Detection { bbox, score, class };
        let seen_of_parked = BoxPx::new(690.0, 300.0, part.x2, 400.0);
        let mut detections = Detections::new();
        detections.extend([detection(lorry, 0.8), detection(seen_of_parked, 0.9)]);
        planner.drop_cut(&plan, &mut detections, &tracks, 0.25, FRAME);
        assert_eq!(detections.as_slice(), [detection(lorry, 0.8)]);
        assert!(
            next(&mut planner, 200, &verdict(Reason::Motion, &[wheels]), &tracks).is_some(),
            "it is known"
        );
        // A cut detection without a track, strong enough to begin one: one run on the whole picture.
        let stranger = |score| detection(BoxPx::new(part.x1, 300.0, part.x1 + 30.0, 360.0), score);
        for (score, is_part) in [(0.2, true), (0.5, false)] {
            let plan = planner
                .choose(
                    at(300),
                    &verdict(Reason::Motion, &[wheels]),
                    &[(lorry, Motion::Moving)].into_iter(),
                    FRAME,
                )
                .unwrap();
            detections.clear();
            detections.extend([stranger(score)]);
            planner.drop_cut(&plan, &mut detections, &[(lorry, Motion::Moving)].into_iter(), 0.25, FRAME);
            assert!(detections.is_empty());
            let next = next(&mut planner, 1400, &verdict(Reason::Motion, &[wheels]), &none());
            assert_eq!(next.is_some(), is_part, "{score}");
        }
        assert!(next(&mut planner, 1500, &verdict(Reason::Motion, &[wheels]), &none()).is_some());
    }

    proptest! {
        /// Whatever moves wherever: the region is in the frame, contains everything that moves, and shows it at least at the whole
        /// picture's scale.
        #[test]
        fn regions_are_in_the_frame_and_contain_all_motion(
            wide in 16usize..2000, high in 16usize..2000, (mw, mh) in (2usize..21, 2usize..21),
            boxes in proptest::collection::vec((0.0f32..1.0, 0.0f32..1.0, 0.0f32..0.4, 0.0f32..0.4), 1..8),
            tracks in proptest::collection::vec((-0.2f32..1.2, -0.2f32..1.2, 0.0f32..0.5, 0.0f32..0.5), 0..8)
        ) {
            let frame = size(wide, high);
            let whole = size(32 * mw, 32 * mh);
            let Some(mut planner) = RoiPlanner::new(Params::default(), &input_sizes(whole, 32)).unwrap() else { return Ok(()) };
            let to_box = |(x, y, w, h): &(f32, f32, f32, f32)| {
                BoxPx::<Frame>::new(x * wide as f32, y * high as f32, (x + w) * wide as f32, (y + h) * high as f32)
            };
            let regions: Vec<_> = boxes.iter().map(|b| to_box(b).clipped(wide as f32, high as f32)).collect();
            let tracks: Vec<_> = tracks.iter().map(to_box).collect();
            planner.looked(at(0), None);
            let plan = planner.choose(at(1), &verdict(Reason::Motion, &regions), &tracks.iter().map(|track| (*track, Motion::Stationary)), frame);
            let Some(RoiPlan { region: part, size_index }) = plan else { return Ok(()) };
            prop_assert!(part.left + part.size.width <= wide && part.top + part.size.height <= high);
            prop_assert!(part.size.width > 0 && part.size.height > 0 && (1..planner.input_sizes.len()).contains(&size_index));
            for region in &regions {
                prop_assert!(part.bbox().grown(1.0).holds(region), "{region:?} in {part:?}");
            }
            let shown = Placement::of_region(part, planner.input_sizes[size_index]).pixels_per_frame_pixel();
            let before = Placement::new(frame, whole).pixels_per_frame_pixel();
            prop_assert!(shown >= before * 0.95, "{shown} for {before}");
        }
    }
}
