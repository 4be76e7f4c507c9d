//! Tracks road users from frame to frame: a ByteTrack-class tracker (Zhang et al. 2022) of fixed capacity.
//!
//! Input: the detections of one frame; output: tracks with ids. Each update predicts every track to `now` (`kalman.rs`), then assigns
//! detections to tracks in three rounds, each solved for the optimum (`assign.rs`):
//! 1. confirmed and lost tracks x strong detections, by IoU with the predicted box, fused with the score;
//! 2. confirmed tracks still unmatched x weak detections, by IoU: a car that is half hidden scores low;
//! 3. all tracks still unmatched, new ones included x strong detections left, by distance in standard deviations.
//!
//! Strong detections without a track begin one. ByteTrack has no round 3. At 2 to 6 frames a second a car moves more than its own width
//! between frames, and a track with one detection has no velocity: its boxes do not overlap. A buffered IoU (C-BIoU, Yang et al. 2023)
//! needs a buffer tuned to one frame rate; the filter's own uncertainty already contains the true time since the last frame, the age of the
//! track and the size of the box. It is used last, so that a wide guess never takes what a good prediction explains.
//!
//! ```text
//!                 hits_min sightings                 not found
//!  (detection) ──► Tentative ──────────────► Confirmed ──────────► Lost ──┐ missed twice and unseen for lost_after,
//!                     │ missed twice             ▲                   │    │ predicted outside the frame, or evicted
//!                     ▼                          └───────────────────┘    ▼
//!                  forgotten, no event                 found again      ended
//! ```
//!
//! A track is never confirmed by a single detection, however strong: a crossing needs several positions anyway, and
//! a reflection with a high score would become an event.
//!
//! Classes: a model that wavers between car and truck must not split a track, so association ignores the class within a group
//! ([`group_of`]) except for a penalty, and a track's class is the score-weighted majority. Between groups (person and car, rider and
//! bicycle) there is no association: these really are in the same place.
//!
//! It reads no clock (it gets `now`), allocates nothing after [`Tracker::new`], ages tracks by time and never by frames, and panics for no
//! detection: invalid ones are refused and counted (I4, I8).

mod assign;
mod kalman;
mod params;

use std::cmp::Ordering;

use crate::base::error::Result;
use crate::base::geometry::{BoxPx, Frame, PointPx};
use crate::base::limits::{DETECTIONS_MAX, TRACKS_MAX};
use crate::event::EndReason;
use crate::platform::clock::Mono;
use crate::vision::detect::{ClassId, Detection};
use crate::vision::roi::Motion;
use assign::Assignment;
use kalman::BoxFilter;
pub use params::Params;

/// Minimum side of a box that is tracked, pixels: less than a pixel shows nothing.
const SIDE_MIN: f32 = 1.0;
/// Largest coordinate that is accepted, pixels: `u16::MAX`, far outside of `limits::FRAME_SIDE_MAX`.
const COORDINATE_MAX: f32 = 65_535.0;
/// Round 3 matches up to this distance: the 99 % point of the chi-square distribution of two dimensions, squared deviations.
const DISTANCE2_MAX: f32 = 9.21;
/// Standard deviation of the size between two detections, in natural logarithms: 0.35 is a factor of 1.4.
const SIZE_STD: f32 = 0.35;
/// The velocity is known from this many detections on; then round 3 allows no deviation above [`KNOWN_STD_MAX`].
const KNOWN_FRAMES: u32 = 3;
/// In sides. Without it a track lost for 2 s would reach five of its lengths ahead and take over the next car.
const KNOWN_STD_MAX: f32 = 0.7;
/// Misses in a row after which a tentative track is forgotten, and before which no track ends.
const MISSES_MIN: u32 = 2;
/// Two detections of a group that overlap this much are duplicates: one object (car and truck by class-wise suppression).
const DUPLICATE_IOU: f32 = 0.7;
/// ... and so are a box and a smaller one that lies in it to at least this fraction of its area ...
const DUPLICATE_COVER: f32 = 0.9;
/// ... if the smaller has this fraction of the larger one's area: the lower half of a car, as small models report it. A child in front of
/// an adult, or a car in front of a lorry, is smaller.
const DUPLICATE_AREA: f32 = 0.4;
/// A box this close to the frame's edge is cut by it, pixels.
const EDGE_PX: f32 = 2.0;
/// A track slower than this is stationary, sides a second along the faster axis: a car at walking pace, seen from the side.
const STATIONARY_BELOW: f32 = 0.3;
/// A track with this many detections is known well enough to rule out matches ...
const SETTLED_FRAMES: u32 = 10;
/// ... and while it is stationary its box does not grow by more than this factor in area between two frames: half of it may have been
/// hidden. A bus that drives past a parked car covers four times its area, a lorry three.
const GROWTH_MAX: f32 = 2.0;
/// ... or by this one if the detection has another class: a van covers half as much again as a car.
const OTHER_GROWTH_MAX: f32 = 1.4;
/// Speed assumed for a road user with too few detections, sides a second: a bicycle seen from the side, see [`Params::speed_max`].
const REACH: f32 = 5.0;
/// Classes that a track remembers; the one with the least weight is replaced.
const VOTES: usize = 4;

/// Group of a class name: a wavering model may give one road user any name of a group, but never names of two groups. `None` for a class
/// that is alone in its group.
pub fn group_of(class: &str) -> Option<u8> {
    match class {
        "car" | "truck" | "bus" | "van" | "train" => Some(0),
        "bicycle" | "motorcycle" | "motorbike" | "scooter" => Some(1),
        "person" | "pedestrian" | "people" | "rider" => Some(2),
        _ => None,
    }
}

/// The state of a track; see the drawing at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Detected less than `hits_min` times.
    Tentative,
    /// Confirmed by `hits_min` detections, and detected in the last frame with inference.
    Confirmed,
    /// Confirmed before, but not detected in the last frame with inference.
    Lost,
}

/// One road user.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    id: u64,
    slot: usize,
    state: State,
    filter: BoxFilter,
    bbox: BoxPx<Frame>,
    cut: bool,
    group: u32,
    votes: [(ClassId, f32); VOTES],
    score: f32,
    score_sum: f64,
    frames: u32,
    misses: u32,
    found: bool,
    first_seen: Mono,
    last_seen: Mono,
    /// The last moment at which it was certainly there: detected, or the gate saw no motion where it is.
    sure_at: Mono,
    first_point: PointPx,
}

impl Track {
    /// Number within the run, from 1, never reused. Tentative tracks take numbers too, so there are gaps.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Slot in the tracker, below `limits::TRACKS_MAX`: for state that other stages keep per track. Reused by later tracks.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Class with the greatest sum of scores so far.
    pub fn class(&self) -> ClassId {
        let best =
            self.votes.iter().fold(self.votes[0], |best, vote| if vote.1 > best.1 { *vote } else { best });
        best.0
    }

    /// The last detection, not smoothed.
    pub fn bbox(&self) -> BoxPx<Frame> {
        self.bbox
    }

    /// The predicted box at the time of the last update (equal to a smoothed [`Track::bbox`] if detected then).
    pub fn expected(&self) -> BoxPx<Frame> {
        self.filter.expected()
    }

    /// Score of the last detection, 0..=1.
    pub fn score_last(&self) -> f32 {
        self.score
    }

    /// Mean score of its detections, 0..=1.
    pub fn score_mean(&self) -> f32 {
        (self.score_sum / f64::from(self.frames)) as f32
    }

    /// Number of frames in which it was detected, at least 1.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Time of the first detection.
    pub fn first_seen(&self) -> Mono {
        self.first_seen
    }

    /// Time of the last detection.
    pub fn last_seen(&self) -> Mono {
        self.last_seen
    }

    /// Bottom centre at the first detection.
    pub fn first_point(&self) -> PointPx {
        self.first_point
    }

    /// Bottom centre at the last detection.
    pub fn last_point(&self) -> PointPx {
        self.bbox.bottom_centre()
    }

    /// Velocity of the centre, pixels per second to the right and down.
    pub fn velocity(&self) -> (f32, f32) {
        (self.filter.cx.speed, self.filter.cy.speed)
    }

    /// Whether it is stationary.
    fn is_stationary(&self) -> bool {
        let (across, down) = self.velocity();
        let most = (across.abs() / self.bbox.width()).max(down.abs() / self.bbox.height());
        most < STATIONARY_BELOW
    }

    fn begin(
        slot: usize,
        id: u64,
        now: Mono,
        detection: &Detection,
        cut: bool,
        tracker: &Params,
        group: u32,
    ) -> Self {
        let Detection { bbox, score, class } = *detection;
        Track {
            id,
            slot,
            state: State::Tentative,
            filter: BoxFilter::new(&bbox, cut, tracker.speed_max),
            bbox,
            cut,
            group,
            votes: std::array::from_fn(|i| (class, if i == 0 { score } else { 0.0 })),
            score,
            score_sum: f64::from(score),
            frames: 1,
            misses: 0,
            found: true,
            first_seen: now,
            last_seen: now,
            sure_at: now,
            first_point: bbox.bottom_centre(),
        }
    }

    fn see(&mut self, now: Mono, detection: &Detection, cut: bool) {
        self.filter.correct(&detection.bbox, cut);
        self.bbox = detection.bbox;
        self.cut = cut;
        self.score = detection.score;
        self.score_sum += f64::from(detection.score);
        self.frames = self.frames.saturating_add(1);
        self.misses = 0;
        self.found = true;
        self.last_seen = now;
        self.sure_at = now;
        self.vote(detection.class, detection.score);
    }

    /// Adds to the weight of a class. A fifth class replaces the lightest one and inherits its weight ("space saving",
    /// Metwally et al. 2005), so that a true majority is never forgotten.
    fn vote(&mut self, class: ClassId, score: f32) {
        let known = self.votes.iter_mut().find(|vote| vote.0 == class && vote.1 > 0.0);
        let vote = match known {
            Some(vote) => vote,
            None => {
                let lightest = self.votes.iter_mut().min_by(|a, b| a.1.total_cmp(&b.1));
                lightest.expect("VOTES is not 0")
            }
        };
        *vote = (class, vote.1 + score);
    }
}

/// What happened to a track.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrackEvent<'a> {
    /// It was confirmed.
    Began(&'a Track),
    /// It ended; only for confirmed tracks.
    Ended {
        /// Its state at the end.
        track: &'a Track,
        /// Reason of the end.
        reason: EndReason,
    },
}

/// What the tracker did since its start (I4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Tracks confirmed.
    pub began: u64,
    /// Tentative tracks dropped.
    pub forgotten: u64,
    /// Tracks evicted: the tracker was full and they were unseen for longest.
    pub evicted: u64,
    /// Detections dropped: the tracker was full of tracks seen in the same frame.
    pub no_room: u64,
    /// Invalid detections: NaN, infinite, inside out, below a pixel, far outside.
    pub refused: u64,
    /// Detections beyond `limits::DETECTIONS_MAX` in a frame.
    pub over: u64,
    /// Duplicate detections: second boxes of one object, which did not become a track.
    pub duplicates: u64,
}

/// The rounds of association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Strong,
    Weak,
    Near,
}

/// The tracker.
#[derive(Debug)]
pub struct Tracker {
    params: Params,
    width: f32,
    height: f32,
    groups: Box<[u32]>,
    tracks: Box<[Option<Track>]>,
    next_id: u64,
    now: Mono,
    counters: Counters,
    // Scratch memory of an update, allocated once.
    pending: Vec<Detection>,
    taken: Box<[bool]>,
    rows: Vec<usize>,
    columns: Vec<usize>,
    assignment: Assignment,
}

impl Tracker {
    /// A tracker for frames of `width` x `height` pixels and a model with these class names in order. Allocates all its memory
    /// ([`Tracker::heap_bytes`]).
    ///
    /// # Errors
    /// As [`Params::check`].
    pub fn new<'a>(
        params: Params,
        width: u32,
        height: u32,
        classes: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        params.check()?;
        let group = |(index, name)| group_of(name).map_or_else(|| alone(index), u32::from);
        Ok(Tracker {
            params,
            width: width as f32,
            height: height as f32,
            groups: classes.into_iter().enumerate().map(group).collect(),
            tracks: (0..TRACKS_MAX).map(|_| None).collect(),
            next_id: 1,
            now: Mono::ZERO,
            counters: Counters::default(),
            pending: Vec::with_capacity(DETECTIONS_MAX),
            taken: vec![false; DETECTIONS_MAX].into_boxed_slice(),
            rows: Vec::with_capacity(TRACKS_MAX),
            columns: Vec::with_capacity(DETECTIONS_MAX),
            assignment: Assignment::new(TRACKS_MAX, DETECTIONS_MAX),
        })
    }

    /// Other settings from the next frame on; the tracks continue.
    ///
    /// # Errors
    /// As [`Params::check`]; then nothing changed.
    pub fn set(&mut self, params: Params) -> Result<()> {
        params.check()?;
        self.params = params;
        Ok(())
    }

    /// Bytes on the heap, for the memory plan (I1).
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.groups)
            + size_of_val(&*self.tracks)
            + size_of_val(&*self.taken)
            + self.pending.capacity() * size_of::<Detection>()
            + (self.rows.capacity() + self.columns.capacity()) * size_of::<usize>()
            + self.assignment.heap_bytes()
    }

    /// The frame size changed. Call [`Tracker::finish`] first: old boxes mean nothing in the new frame.
    pub fn resize(&mut self, width: u32, height: u32) {
        self.width = width as f32;
        self.height = height as f32;
    }

    /// The counters since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// All tracks, tentative and lost ones included.
    pub fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().flatten()
    }

    /// Where the tracks are predicted to be at `now`, in the frame, and how they move. A track with too few detections to tell may be
    /// anywhere around.
    pub fn outlook(&self, now: Mono) -> impl Iterator<Item = (BoxPx<Frame>, Motion)> + Clone {
        let dt = now.since(self.now).min(self.params.lost_after).as_secs_f32();
        let expected = move |track: &Track| {
            let mut ahead = track.filter;
            ahead.predict(dt);
            let mut bbox = ahead.expected();
            let is_new = track.state == State::Tentative
                || (track.frames < KNOWN_FRAMES && now.since(track.first_seen) < self.params.lost_after);
            if is_new {
                bbox = bbox.grown(REACH * dt * bbox.width().max(bbox.height()));
            }
            let motion = if is_new || !track.is_stationary() { Motion::Moving } else { Motion::Stationary };
            (bbox.clipped(self.width, self.height), motion)
        };
        self.tracks.iter().flatten().map(expected)
    }

    /// Tracks that are confirmed and were seen in the last update: the counter's input.
    pub fn seen(&self) -> impl Iterator<Item = &Track> {
        self.tracks().filter(|track| track.state == State::Confirmed && track.found)
    }

    /// Inference ran on a whole frame: its detections in any order, in frame pixels. Calls `on` for each change of a track. A `now` before
    /// the last one counts as the last one.
    pub fn update(&mut self, now: Mono, detections: &[Detection], on: &mut dyn FnMut(TrackEvent<'_>)) {
        self.update_in(now, None, detections, on);
    }

    /// Inference ran on a region of a frame only, because the gate saw no motion elsewhere; boxes that a side of the region cuts are not
    /// among `detections`. Stationary tracks that are not wholly in the region stay as they are until inference runs there; all others are
    /// matched or missed, as in [`Self::update`].
    pub fn update_region(
        &mut self,
        now: Mono,
        region: &BoxPx<Frame>,
        detections: &[Detection],
        on: &mut dyn FnMut(TrackEvent<'_>),
    ) {
        self.update_in(now, Some(*region), detections, on);
    }

    fn update_in(
        &mut self,
        now: Mono,
        region: Option<BoxPx<Frame>>,
        detections: &[Detection],
        on: &mut dyn FnMut(TrackEvent<'_>),
    ) {
        self.accept(detections);
        let now = self.advance(now, false);
        self.associate(now, Round::Strong);
        self.associate(now, Round::Weak);
        self.associate(now, Round::Near);
        self.begin_tracks(now, on);
        for slot in 0..self.tracks.len() {
            if !region.is_some_and(|region| self.keep_outside(slot, now, &region, on)) {
                self.settle(slot, now, on);
            }
        }
    }

    /// There was no inference on a frame because nothing in it moved. Visible tracks stay where they are and do not age; those out of sight
    /// do. Do not call it for frames that were skipped for other reasons.
    pub fn still(&mut self, now: Mono, on: &mut dyn FnMut(TrackEvent<'_>)) {
        let now = self.advance(now, true);
        for slot in 0..self.tracks.len() {
            let Some(track) = &self.tracks[slot] else { continue };
            let unseen = now.since(track.sure_at) >= self.params.lost_after;
            if track.state == State::Lost && unseen {
                self.end(slot, EndReason::Lost, on);
            }
        }
    }

    /// Whether the track in `slot` is stationary where detections in `region` say nothing about it; sets its next state if so. A track that
    /// was missed once does not end before inference runs there again; one that was detected only once does, as it may have been a false
    /// detection.
    fn keep_outside(
        &mut self,
        slot: usize,
        now: Mono,
        region: &BoxPx<Frame>,
        on: &mut dyn FnMut(TrackEvent<'_>),
    ) -> bool {
        let Some(track) = &mut self.tracks[slot] else { return false };
        let expected = track.filter.expected().clipped(self.width, self.height);
        if track.found
            || !track.is_stationary()
            || expected.area() <= 0.0
            || region.grown(EDGE_PX).holds(&expected)
        {
            return false;
        }
        let is_over = match track.state {
            State::Tentative => now.since(track.last_seen) >= self.params.lost_after,
            State::Confirmed | State::Lost if track.misses == 0 => {
                track.filter.stop();
                track.sure_at = now;
                false
            }
            State::Confirmed | State::Lost => {
                track.misses >= MISSES_MIN && now.since(track.sure_at) >= self.params.lost_after
            }
        };
        if is_over {
            self.end(slot, EndReason::Lost, on);
        }
        true
    }

    /// The source has ended or changes: all tracks end.
    pub fn finish(&mut self, now: Mono, on: &mut dyn FnMut(TrackEvent<'_>)) {
        self.now = self.now.max(now);
        for slot in 0..self.tracks.len() {
            self.end(slot, EndReason::Stopped, on);
        }
    }

    /// Copies the valid detections into `pending`, in an order that does not depend on the caller's.
    fn accept(&mut self, detections: &[Detection]) {
        self.pending.clear();
        for detection in detections {
            if !plausible(detection) {
                self.counters.refused += 1;
            } else if detection.score < self.params.score_low {
                // Below score_low: ignored, not counted as a drop.
            } else if self.pending.len() == DETECTIONS_MAX {
                self.counters.over += 1;
            } else {
                self.pending.push(*detection);
            }
        }
        self.pending.sort_unstable_by(strongest_first);
        self.taken.fill(false);
    }

    /// Predicts all tracks to `now`; `still` if nothing moved since the last frame.
    fn advance(&mut self, now: Mono, still: bool) -> Mono {
        let now = now.max(self.now);
        // No velocity means anything after `lost_after`; until then it is the best estimate.
        let dt = now.since(self.now).min(self.params.lost_after).as_secs_f32();
        self.now = now;
        for track in self.tracks.iter_mut().flatten() {
            if still && track.misses == 0 {
                track.filter.stop();
                track.sure_at = now;
            }
            track.filter.predict(dt);
            track.found = still && track.found;
        }
        now
    }

    fn associate(&mut self, now: Mono, round: Round) {
        self.rows.clear();
        self.columns.clear();
        let takes_part = |track: &Track| match (round, track.state) {
            (Round::Strong, State::Confirmed | State::Lost) => true,
            (Round::Weak, State::Confirmed) => true,
            (Round::Near, State::Tentative | State::Confirmed | State::Lost) => true,
            (Round::Strong | Round::Weak, State::Tentative) | (Round::Weak, State::Lost) => false,
        };
        let candidates = self.tracks.iter().flatten().filter(|track| !track.found && takes_part(track));
        self.rows.extend(candidates.map(|track| track.slot));
        let strong = |score: f32| score >= self.params.score_high;
        let wanted = |&index: &usize| {
            !self.taken[index] && strong(self.pending[index].score) == (round != Round::Weak)
        };
        self.columns.extend((0..self.pending.len()).filter(wanted));
        if self.rows.is_empty() || self.columns.is_empty() {
            return;
        }
        self.assignment.start(self.rows.len(), self.columns.len());
        for (row, &slot) in self.rows.iter().enumerate() {
            let Some(track) = &self.tracks[slot] else { continue };
            let expected = track.filter.expected();
            for (column, &index) in self.columns.iter().enumerate() {
                let detection = &self.pending[index];
                let other = self.claimed(track, detection) || Self::hides(track, &expected, detection);
                if self.group(detection.class) == track.group && !other {
                    let cost = self.cost(round, track, &expected, detection);
                    self.assignment.allow(row, column, cost);
                }
            }
        }
        self.assignment.solve();
        for (column, &index) in self.columns.iter().enumerate() {
            let row = self.assignment.row(column);
            let Some(track) = row.and_then(|row| self.tracks[self.rows[row]].as_mut()) else { continue };
            let detection = &self.pending[index];
            let cut = is_cut(&detection.bbox, self.width, self.height);
            track.see(now, detection, cut);
            self.taken[index] = true;
        }
    }

    /// Whether `detection` belongs to a road user that has a visible track, so that the lost `track` may not be matched to it: a duplicate
    /// detection of the car behind would throw the lost track back over its line.
    fn claimed(&self, track: &Track, detection: &Detection) -> bool {
        let shows = |other: &Track| {
            other.state == State::Confirmed
                && other.group == track.group
                && is_duplicate(&other.filter.expected(), &detection.bbox)
        };
        track.state == State::Lost && self.tracks().any(shows)
    }

    /// Whether `detection` is an object that hides the stationary `track`, and not the track itself: a bus that has just appeared must not
    /// continue the track of the parked car that it covers.
    fn hides(track: &Track, expected: &BoxPx<Frame>, detection: &Detection) -> bool {
        let known = track.frames >= SETTLED_FRAMES && track.is_stationary() && !track.cut;
        let most = if detection.class == track.class() { GROWTH_MAX } else { OTHER_GROWTH_MAX };
        known && detection.bbox.area() > most * expected.area()
    }

    /// The cost of assigning `detection` to `track`: 0..=1, infinite if it is not allowed.
    fn cost(&self, round: Round, track: &Track, expected: &BoxPx<Frame>, detection: &Detection) -> f32 {
        let iou_cost = |least: f32, score: f32| {
            let iou = expected.iou(&detection.bbox);
            if iou >= least { 1.0 - iou * score } else { f32::INFINITY }
        };
        let cost = match round {
            Round::Strong => iou_cost(self.params.iou_min, detection.score),
            Round::Weak => iou_cost(self.params.iou_low_min, 1.0),
            Round::Near => {
                let known = track.frames >= KNOWN_FRAMES;
                let std_max = if known { KNOWN_STD_MAX } else { f32::INFINITY };
                let mut distance2 = track.filter.distance2(&detection.bbox, std_max);
                // A box that the frame's edge cuts says nothing about the object's size.
                if !track.cut && !is_cut(&detection.bbox, self.width, self.height) {
                    let w = (detection.bbox.width() / track.bbox.width()).ln() / SIZE_STD;
                    let h = (detection.bbox.height() / track.bbox.height()).ln() / SIZE_STD;
                    distance2 += w * w + h * h;
                }
                distance2 / DISTANCE2_MAX
            }
        };
        if cost > assign::UNMATCHED {
            return f32::INFINITY;
        }
        // The penalty reduces the pair's advantage, so it never forbids a pair without a rival.
        let penalty = if detection.class == track.class() { 0.0 } else { self.params.class_penalty };
        1.0 - (1.0 - cost) * (1.0 - penalty)
    }

    /// Strong detections without a track begin one.
    fn begin_tracks(&mut self, now: Mono, on: &mut dyn FnMut(TrackEvent<'_>)) {
        for index in 0..self.pending.len() {
            let detection = self.pending[index];
            if self.taken[index] || detection.score < self.params.score_new {
                continue;
            }
            let group = self.group(detection.class);
            let is_duplicate_of = |index: usize| {
                let other = &self.pending[index];
                self.taken[index]
                    && self.group(other.class) == group
                    && is_duplicate(&other.bbox, &detection.bbox)
            };
            if (0..self.pending.len()).any(is_duplicate_of) {
                self.counters.duplicates += 1;
                continue;
            }
            let Some(slot) = self.free_slot(on) else {
                self.counters.no_room += 1;
                continue;
            };
            let cut = is_cut(&detection.bbox, self.width, self.height);
            self.tracks[slot] =
                Some(Track::begin(slot, self.next_id, now, &detection, cut, &self.params, group));
            self.next_id += 1;
            self.taken[index] = true;
        }
    }

    /// A slot for a new track: a free one, or that of the track unseen for longest, or none if all were seen in this frame.
    fn free_slot(&mut self, on: &mut dyn FnMut(TrackEvent<'_>)) -> Option<usize> {
        if let Some(free) = self.tracks.iter().position(Option::is_none) {
            return Some(free);
        }
        let unseen = self.tracks().filter(|track| !track.found);
        let oldest = unseen.min_by_key(|track| (track.sure_at, track.id)).map(|track| track.slot)?;
        self.counters.evicted += 1;
        self.end(oldest, EndReason::Evicted, on);
        Some(oldest)
    }

    /// After association: sets the next state of the track in `slot`.
    fn settle(&mut self, slot: usize, now: Mono, on: &mut dyn FnMut(TrackEvent<'_>)) {
        let Some(track) = &mut self.tracks[slot] else { return };
        if track.found {
            match track.state {
                State::Tentative => {
                    if track.frames >= self.params.hits_min {
                        track.state = State::Confirmed;
                        self.counters.began += 1;
                        on(TrackEvent::Began(track));
                    }
                }
                State::Confirmed | State::Lost => track.state = State::Confirmed,
            }
            return;
        }
        track.misses = track.misses.saturating_add(1);
        let missed_enough = track.misses >= MISSES_MIN;
        let gone = match track.state {
            State::Tentative => missed_enough,
            State::Confirmed | State::Lost => {
                track.state = State::Lost;
                track.filter.hold_size();
                let (x, y) = (track.filter.cx.at, track.filter.cy.at);
                let outside = !(0.0..=self.width).contains(&x) || !(0.0..=self.height).contains(&y);
                missed_enough && (outside || now.since(track.sure_at) >= self.params.lost_after)
            }
        };
        if gone {
            self.end(slot, EndReason::Lost, on);
        }
    }

    /// Empties a slot.
    fn end(&mut self, slot: usize, reason: EndReason, on: &mut dyn FnMut(TrackEvent<'_>)) {
        let Some(track) = self.tracks[slot].take() else { return };
        match track.state {
            State::Tentative => self.counters.forgotten += 1,
            State::Confirmed | State::Lost => on(TrackEvent::Ended { track: &track, reason }),
        }
    }

    fn group(&self, class: ClassId) -> u32 {
        let index = usize::from(class.0);
        self.groups.get(index).copied().unwrap_or_else(|| alone(index))
    }
}

/// The group of a class that is alone in it: numbers above all those of [`group_of`].
fn alone(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX - 256).saturating_add(256)
}

/// Whether it is a box with an area and a score, in plausible numbers.
fn plausible(detection: &Detection) -> bool {
    let b = &detection.bbox;
    let numbers = b.to_array().iter().all(|v| v.abs() <= COORDINATE_MAX);
    numbers && b.width() >= SIDE_MIN && b.height() >= SIDE_MIN && (0.0..=1.0).contains(&detection.score)
}

/// Whether the frame's edge cuts the box.
fn is_cut(bbox: &BoxPx<Frame>, width: f32, height: f32) -> bool {
    bbox.x1 <= EDGE_PX || bbox.y1 <= EDGE_PX || bbox.x2 >= width - EDGE_PX || bbox.y2 >= height - EDGE_PX
}

fn strongest_first(a: &Detection, b: &Detection) -> Ordering {
    let places = || {
        let pairs = a.bbox.to_array().into_iter().zip(b.bbox.to_array());
        pairs.map(|(a, b)| a.total_cmp(&b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    };
    b.score.total_cmp(&a.score).then_with(places).then_with(|| a.class.cmp(&b.class))
}

/// Whether two boxes of a group show one object.
fn is_duplicate(a: &BoxPx<Frame>, b: &BoxPx<Frame>) -> bool {
    let (smaller, larger) = (a.area().min(b.area()), a.area().max(b.area()));
    let inside = a.intersection(b) >= DUPLICATE_COVER * smaller && smaller >= DUPLICATE_AREA * larger;
    inside || a.iou(b) >= DUPLICATE_IOU
}

#[cfg(test)]
mod tests;
