//! Follows road users from frame to frame: a ByteTrack-class tracker (Zhang et al. 2022) of fixed capacity.
//!
//! Duty: detections of one frame in, tracks with an identity out. Per update: predict every track to `now`
//! (`kalman.rs`), then give detections to tracks in three rounds, each solved for the optimum (`assign.rs`):
//! 1. confirmed and lost tracks x strong detections, by IoU with the predicted box, fused with the score;
//! 2. confirmed tracks still without one x weak detections, by IoU: a car that is half hidden scores low;
//! 3. all tracks still without one, new ones included x strong detections left, by distance in standard deviations.
//!
//! Strong detections that nobody took begin a track. Round 3 is what ByteTrack does not have. At 2 to 6 frames a second
//! a car moves more than its own width between frames, and a track with one sighting has no velocity: its boxes do
//! not overlap. A buffered IoU (C-BIoU, Yang et al. 2023) needs a buffer made for one frame rate; the filter's own
//! uncertainty already contains the true time since the last frame, the age of the track and the size of the box. It is
//! asked last, so that a wide guess never takes what a good prediction explains.
//!
//! ```text
//!                 hits_min sightings                 not found
//!  (detection) ──► Tentative ──────────────► Confirmed ──────────► Lost ──┐ unseen for lost_after and two looks,
//!                     │ two looks in vain        ▲                   │    │ predicted outside the frame, or evicted
//!                     ▼                          └───────────────────┘    ▼
//!                  forgotten, no event                 found again      ended
//! ```
//!
//! A track is never confirmed by a single detection, however strong: a crossing needs several positions anyway, and
//! a sure-looking reflection would become an event.
//!
//! Classes: a model that wavers between car and truck must not split a track, so association ignores the class within
//! a group ([`group_of`]) but for a penalty, and a track's class is the score-weighted majority. Between groups
//! (person and car, rider and bicycle) there is no association: these really do stand in the same place.
//!
//! It never reads a clock (it is told `now`), never takes heap memory after [`Tracker::new`], never ages a track
//! by frames, and never panics for any detection: what is not a box is refused and counted (I4, I8).

mod assign;
mod kalman;

use std::cmp::Ordering;
use std::time::Duration;

use crate::clock::Mono;
use crate::detect::{ClassId, Detection};
use crate::error::{Error, Kind, Result};
use crate::event::EndReason;
use crate::geometry::{BoxPx, Frame, PointPx};
use crate::limits::{DETECTIONS_MAX, TRACKS_MAX};
use assign::Assignment;
use kalman::BoxFilter;

/// Shortest side of a box that is followed, pixels: less than a pixel is no picture of anything.
const SIDE_MIN: f32 = 1.0;
/// Largest coordinate that is believed, pixels: `u16::MAX`, far outside of `limits::FRAME_SIDE_MAX`.
const COORDINATE_MAX: f32 = 65_535.0;
/// Round 3 looks this far: the 99 % point of the chi-square distribution of two dimensions, squared deviations.
const DISTANCE2_MAX: f32 = 9.21;
/// Standard deviation of the size between two sights, in natural logarithms: 0.35 is a factor of 1.4.
const SIZE_STD: f32 = 0.35;
/// A velocity is known from so many sightings on; then round 3 believes no deviation above [`KNOWN_STD_MAX`].
const KNOWN_FRAMES: u32 = 3;
/// In sides. Without it a track lost for 2 s would reach five of its lengths far and take over the next car.
const KNOWN_STD_MAX: f32 = 0.7;
/// Looks in vain after which a tentative track is forgotten, and before which no track is given up.
const MISSES_MIN: u32 = 2;
/// Two detections of a group that overlap this much are one object (car and truck by class-wise suppression).
const DOUBLE_IOU: f32 = 0.7;
/// ... and so are a box and one that lies in it, where it covers this part of the smaller ...
const DOUBLE_COVER: f32 = 0.9;
/// ... and the smaller has this part of the larger one's area: the lower half of a car, as small models report it. A child
/// before an adult, or a car before a lorry, is smaller.
const DOUBLE_AREA: f32 = 0.4;
/// A box this near to the frame's edge is cut by it, pixels.
const EDGE_PX: f32 = 2.0;
/// Classes that a track remembers; the one with the least weight makes room.
const VOTES: usize = 4;

/// Settings of the tracker. See [`Params::check`] for the ranges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// Detections below are ignored, score 0..=1. Default 0.1 (`track_low_thresh` of Ultralytics' bytetrack.yaml).
    pub score_low: f32,
    /// From here on a detection is strong, score `score_low`..=1. Default 0.25 (`track_high_thresh` there, set for
    /// YOLO scores; the paper's 0.6 is for YOLOX).
    pub score_high: f32,
    /// From here on a detection may begin a track, score `score_high`..=1. Default 0.25 (`new_track_thresh` there).
    pub score_new: f32,
    /// Least IoU in round 1, above 0 and below 1. Default 0.2 (ByteTrack's `match_thresh` 0.8 is the distance). Ours gates the
    /// IoU alone and uses the score for preference only: fused gating would ask a score of 0.25 for an IoU of 0.8.
    pub iou_min: f32,
    /// Least IoU in round 2, above 0 and below 1. Default 0.5 (ByteTrack).
    pub iou_low_min: f32,
    /// Cost of a class other than the track's within its group, 0..=0.5 of a cost that runs from 0 to 1. Default 0.1.
    pub class_penalty: f32,
    /// Sightings that confirm a track, 2..=20. Default 2.
    pub hits_min: u32,
    /// A track unseen for so long has ended, 100 ms..=60 s. Default 2 s.
    pub lost_after: Duration,
    /// Highest believable velocity, box sides a second along either axis, 1..=50. Default 12: a car at 50 km/h seen
    /// from the side makes 3 a second, a bicycle 5, a motorcycle coming across at 90 km/h 12.
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
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// `Kind::Config` with the name, the value and the range of the first one that does not.
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

/// Group of a class name: names of one group are one road user under a wavering model, names of two never are.
/// `None` for a class that is alone in its group.
pub fn group_of(class: &str) -> Option<u8> {
    match class {
        "car" | "truck" | "bus" | "van" | "train" => Some(0),
        "bicycle" | "motorcycle" | "motorbike" | "scooter" => Some(1),
        "person" | "pedestrian" | "people" | "rider" => Some(2),
        _ => None,
    }
}

/// Where a track is in its life; see the drawing at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Seen less than `hits_min` times.
    Tentative,
    /// Believed, and seen in the last frame that was looked at.
    Confirmed,
    /// Believed, but not found in the last frame that was looked at.
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
    /// Whether the last update did not look where it is.
    away: bool,
    first_seen: Mono,
    last_seen: Mono,
    /// The last moment at which it was certainly there: seen, or nothing in the picture moved.
    sure_at: Mono,
    first_point: PointPx,
}

impl Track {
    /// Number within the run, from 1, never used again. Tentative tracks take numbers too, so there are gaps.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Place in the tracker, below `limits::TRACKS_MAX`: for state that others keep per track. Used again by later tracks.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// Class with the greatest sum of scores so far.
    pub fn class(&self) -> ClassId {
        let best =
            self.votes.iter().fold(self.votes[0], |best, vote| if vote.1 > best.1 { *vote } else { best });
        best.0
    }

    /// The last detection, not smoothed: what was seen where.
    pub fn bbox(&self) -> BoxPx<Frame> {
        self.bbox
    }

    /// Where the filter expects it at the time of the last update (equal to a smoothed [`Track::bbox`] if seen then).
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

    /// Frames in which it was seen, at least 1.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// When it was first seen.
    pub fn first_seen(&self) -> Mono {
        self.first_seen
    }

    /// When it was last seen.
    pub fn last_seen(&self) -> Mono {
        self.last_seen
    }

    /// Bottom centre at first sight.
    pub fn first_point(&self) -> PointPx {
        self.first_point
    }

    /// Bottom centre at last sight.
    pub fn last_point(&self) -> PointPx {
        self.bbox.bottom_centre()
    }

    /// Velocity of the centre, pixels per second to the right and down.
    pub fn velocity(&self) -> (f32, f32) {
        (self.filter.cx.speed, self.filter.cy.speed)
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
            away: false,
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

/// What became of a track.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrackEvent<'a> {
    /// It is believed from now on.
    Began(&'a Track),
    /// It is gone; only for tracks that began.
    Ended {
        /// As it was at the end.
        track: &'a Track,
        /// Why.
        reason: EndReason,
    },
}

/// What the tracker did, since its start (I4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Tracks confirmed.
    pub began: u64,
    /// Tentative tracks forgotten.
    pub forgotten: u64,
    /// Tracks given up because the tracker was full and they were unseen for longest.
    pub evicted: u64,
    /// Detections that found the tracker full of tracks seen in the same frame.
    pub no_room: u64,
    /// Detections that were no box or no score: NaN, infinite, inside out, below a pixel, far outside.
    pub refused: u64,
    /// Detections beyond `limits::DETECTIONS_MAX` in a frame.
    pub over: u64,
    /// Second boxes of one object, which did not become a track.
    pub doubles: u64,
}

/// The rounds of association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Strong,
    Weak,
    Near,
}

/// Where an update looks.
#[derive(Debug, Clone, Copy)]
enum View {
    Whole,
    Nothing,
    Part(BoxPx<Frame>),
}

impl View {
    /// Whether it does not look where the track will be in `dt` seconds. One that is sought is looked for wherever it may be in part.
    fn misses(self, track: &Track, dt: f32) -> bool {
        let View::Part(part) = self else { return matches!(self, View::Nothing) };
        let mut ahead = track.filter;
        ahead.predict(dt);
        let expected = ahead.expected();
        if track.misses > 0 {
            part.intersection(&expected) <= 0.0
        } else {
            !part.grown(EDGE_PX).holds(&expected)
        }
    }
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
    // Scratch of an update, taken once.
    inbox: Vec<Detection>,
    taken: Box<[bool]>,
    rows: Vec<usize>,
    columns: Vec<usize>,
    assignment: Assignment,
}

impl Tracker {
    /// A tracker for frames of `width` x `height` pixels and a model with these class names in order.
    /// Takes all its memory ([`Tracker::heap_bytes`]).
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
            inbox: Vec::with_capacity(DETECTIONS_MAX),
            taken: vec![false; DETECTIONS_MAX].into_boxed_slice(),
            rows: Vec::with_capacity(TRACKS_MAX),
            columns: Vec::with_capacity(DETECTIONS_MAX),
            assignment: Assignment::new(TRACKS_MAX, DETECTIONS_MAX),
        })
    }

    /// Bytes on the heap, for the sum of I1.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.groups)
            + size_of_val(&*self.tracks)
            + size_of_val(&*self.taken)
            + self.inbox.capacity() * size_of::<Detection>()
            + (self.rows.capacity() + self.columns.capacity()) * size_of::<usize>()
            + self.assignment.heap_bytes()
    }

    /// Frames have another size from now on. Call [`Tracker::finish`] first: old boxes mean nothing in the new frame.
    pub fn resize(&mut self, width: u32, height: u32) {
        self.width = width as f32;
        self.height = height as f32;
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// All tracks, tentative and lost ones included.
    pub fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().flatten()
    }

    /// Where all tracks in sight, tentative ones included, are expected at `now`.
    pub fn expected_at(&self, now: Mono) -> impl Iterator<Item = BoxPx<Frame>> + Clone {
        let dt = now.since(self.now).min(self.params.lost_after).as_secs_f32();
        let expected = move |track: &Track| {
            let mut ahead = track.filter;
            ahead.predict(dt);
            ahead.expected()
        };
        self.tracks.iter().flatten().filter(|track| track.state != State::Lost).map(expected)
    }

    /// Tracks that are confirmed and were seen in the last update: what the counter wants.
    pub fn seen(&self) -> impl Iterator<Item = &Track> {
        self.tracks().filter(|track| track.state == State::Confirmed && track.found && !track.away)
    }

    /// A frame was looked at: its detections in any order, in frame pixels. `on` hears what became of tracks.
    /// A `now` before the last one counts as the last one.
    pub fn update(&mut self, now: Mono, detections: &[Detection], on: &mut dyn FnMut(TrackEvent<'_>)) {
        self.look(now, View::Whole, detections, on);
    }

    /// A part of a frame was looked at, because nothing moved elsewhere: tracks that are not wholly in it stand where they are and do
    /// not age, as in [`Self::still`]; what is cut by its sides is none of `detections`.
    pub fn update_part(
        &mut self,
        now: Mono,
        part: &BoxPx<Frame>,
        detections: &[Detection],
        on: &mut dyn FnMut(TrackEvent<'_>),
    ) {
        self.look(now, View::Part(*part), detections, on);
    }

    fn look(&mut self, now: Mono, view: View, detections: &[Detection], on: &mut dyn FnMut(TrackEvent<'_>)) {
        self.take_in(detections);
        let now = self.advance(now, view);
        self.associate(now, Round::Strong);
        self.associate(now, Round::Weak);
        self.associate(now, Round::Near);
        self.begin_tracks(now, on);
        for slot in 0..self.tracks.len() {
            self.settle(slot, now, on);
        }
    }

    /// A frame was not looked at because nothing in it moved. Visible tracks stand where they are and do not age;
    /// those out of sight do. For frames that were skipped for other reasons: no call at all.
    pub fn still(&mut self, now: Mono, on: &mut dyn FnMut(TrackEvent<'_>)) {
        let now = self.advance(now, View::Nothing);
        for slot in 0..self.tracks.len() {
            self.stand(slot, now, on);
        }
    }

    /// Nobody looked where the track in `slot` is.
    fn stand(&mut self, slot: usize, now: Mono, on: &mut dyn FnMut(TrackEvent<'_>)) {
        let Some(track) = &self.tracks[slot] else { return };
        let unseen = now.since(track.sure_at) >= self.params.lost_after;
        if track.state == State::Lost && unseen {
            self.end(slot, EndReason::Lost, on);
        }
    }

    /// The source has ended or changes: so do all tracks.
    pub fn finish(&mut self, now: Mono, on: &mut dyn FnMut(TrackEvent<'_>)) {
        self.now = self.now.max(now);
        for slot in 0..self.tracks.len() {
            self.end(slot, EndReason::Stopped, on);
        }
    }

    /// Copies what is a detection into `inbox`, in an order that does not depend on the caller's.
    fn take_in(&mut self, detections: &[Detection]) {
        self.inbox.clear();
        for detection in detections {
            if !plausible(detection) {
                self.counters.refused += 1;
            } else if detection.score < self.params.score_low {
                // Not wanted; the decoder's business.
            } else if self.inbox.len() == DETECTIONS_MAX {
                self.counters.over += 1;
            } else {
                self.inbox.push(*detection);
            }
        }
        self.inbox.sort_unstable_by(strongest_first);
        self.taken.fill(false);
    }

    /// Predicts all tracks to `now`; where `view` does not look nothing moved since the last frame.
    fn advance(&mut self, now: Mono, view: View) -> Mono {
        let now = now.max(self.now);
        // Nobody's velocity is worth anything after `lost_after`; until then it is what we know.
        let dt = now.since(self.now).min(self.params.lost_after).as_secs_f32();
        self.now = now;
        for track in self.tracks.iter_mut().flatten() {
            let still = view.misses(track, dt);
            track.away = still;
            if still && track.misses == 0 {
                track.filter.stand();
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
        let plays = |track: &Track| match (round, track.state) {
            (Round::Strong, State::Confirmed | State::Lost) => true,
            (Round::Weak, State::Confirmed) => true,
            (Round::Near, State::Tentative | State::Confirmed | State::Lost) => true,
            (Round::Strong | Round::Weak, State::Tentative) | (Round::Weak, State::Lost) => false,
        };
        let waits = |track: &&Track| !track.found && !track.away && plays(track);
        let playing = self.tracks.iter().flatten().filter(waits);
        self.rows.extend(playing.map(|track| track.slot));
        let strong = |score: f32| score >= self.params.score_high;
        let wanted =
            |&index: &usize| !self.taken[index] && strong(self.inbox[index].score) == (round != Round::Weak);
        self.columns.extend((0..self.inbox.len()).filter(wanted));
        if self.rows.is_empty() || self.columns.is_empty() {
            return;
        }
        self.assignment.start(self.rows.len(), self.columns.len());
        for (row, &slot) in self.rows.iter().enumerate() {
            let Some(track) = &self.tracks[slot] else { continue };
            let expected = track.filter.expected();
            for (column, &index) in self.columns.iter().enumerate() {
                let detection = &self.inbox[index];
                if self.group(detection.class) == track.group && !self.claimed(track, detection) {
                    let cost = self.cost(round, track, &expected, detection);
                    self.assignment.allow(row, column, cost);
                }
            }
        }
        self.assignment.solve();
        for (column, &index) in self.columns.iter().enumerate() {
            let row = self.assignment.row(column);
            let Some(track) = row.and_then(|row| self.tracks[self.rows[row]].as_mut()) else { continue };
            let detection = &self.inbox[index];
            let cut = is_cut(&detection.bbox, self.width, self.height);
            track.see(now, detection, cut);
            self.taken[index] = true;
        }
    }

    /// Whether `detection` shows a road user in sight, so that `track`, which is out of sight, may not come back as it: the
    /// second box of the car behind would throw the lost one back over its line.
    fn claimed(&self, track: &Track, detection: &Detection) -> bool {
        let shows = |other: &Track| {
            other.state == State::Confirmed
                && other.group == track.group
                && is_double(&other.filter.expected(), &detection.bbox)
        };
        track.state == State::Lost && self.tracks().any(shows)
    }

    /// What it costs to believe that `detection` is `track`: 0..=1, infinite if it is not allowed.
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
                // What the frame's edge cuts says nothing about its size.
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
        // The penalty shrinks the advantage of the pair, so that a pair which is alone is never lost to it.
        let penalty = if detection.class == track.class() { 0.0 } else { self.params.class_penalty };
        1.0 - (1.0 - cost) * (1.0 - penalty)
    }

    /// Strong detections that nobody took begin tracks.
    fn begin_tracks(&mut self, now: Mono, on: &mut dyn FnMut(TrackEvent<'_>)) {
        for index in 0..self.inbox.len() {
            let detection = self.inbox[index];
            if self.taken[index] || detection.score < self.params.score_new {
                continue;
            }
            let group = self.group(detection.class);
            let twin = |other: usize| {
                let other_one = &self.inbox[other];
                self.taken[other]
                    && self.group(other_one.class) == group
                    && is_double(&other_one.bbox, &detection.bbox)
            };
            if (0..self.inbox.len()).any(twin) {
                self.counters.doubles += 1;
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

    /// A slot for a new track: a free one, or that of the track unseen for longest, or none if all were just seen.
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

    /// After association: the next state of the track in `slot`.
    fn settle(&mut self, slot: usize, now: Mono, on: &mut dyn FnMut(TrackEvent<'_>)) {
        let Some(track) = &mut self.tracks[slot] else { return };
        if track.away {
            return self.stand(slot, now, on);
        }
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
        let looked = track.misses >= MISSES_MIN;
        let gone = match track.state {
            State::Tentative => looked,
            State::Confirmed | State::Lost => {
                track.state = State::Lost;
                track.filter.hold_size();
                let (x, y) = (track.filter.cx.at, track.filter.cy.at);
                let outside = !(0.0..=self.width).contains(&x) || !(0.0..=self.height).contains(&y);
                looked && (outside || now.since(track.sure_at) >= self.params.lost_after)
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

/// The group of a class that is alone in it: above all those of [`group_of`].
fn alone(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX - 256).saturating_add(256)
}

/// Whether it is a box with an area and a score, in believable numbers.
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
fn is_double(a: &BoxPx<Frame>, b: &BoxPx<Frame>) -> bool {
    let (smaller, larger) = (a.area().min(b.area()), a.area().max(b.area()));
    let inside = a.intersection(b) >= DOUBLE_COVER * smaller && smaller >= DOUBLE_AREA * larger;
    inside || a.iou(b) >= DOUBLE_IOU
}

#[cfg(test)]
mod tests;
