//! `[track]`, `[count]`, `[[line]]`.

use super::{Scope, Section, number, point, text, texts, whole};

pub(super) const TRACK: Section = Section::new("track", Scope::Camera, &[
    texts("classes", &["person", "bicycle", "car", "motorcycle", "bus", "truck"]).live().help(
        "Classes to track and count, by the names that the model uses. [] = all classes of the model.",
    ),
    number("score_low", 0.1, 0.01, 1.0).live().help(
        "Detections with a lower score are ignored. Those between score_low and score_high only continue existing tracks.",
    ),
    number("score_high", 0.25, 0.01, 1.0).at_least("track.score_low").live().help(
        "Detections with at least this score are matched to tracks first.",
    ),
    number("score_new", 0.25, 0.01, 1.0).at_least("track.score_high").live().help(
        "Lowest score that starts a new track. Raise it if objects are counted that are no road users; `flytrap tune` finds a \
        good value.",
    ),
    number("iou_min", 0.2, 0.01, 0.99).live().help(
        "Smallest overlap (IoU) of a strong detection with the predicted box of a track to match it. Lower it if fast road \
        users get several tracks.",
    ),
    number("iou_low_min", 0.5, 0.01, 0.99).live().help(
        "The same for weak detections, those below score_high.",
    ),
    number("class_penalty", 0.1, 0.0, 0.5).live().help(
        "Penalty for a match whose class is not the track's, as a fraction of the highest cost of a match. Raise it to keep \
        similar classes, such as car and truck, apart more strictly.",
    ),
    whole("hits_min", 2, 2, 20).unit("detections").live().help(
        "Number of detections that confirm a track. Raise it if single false detections are counted.",
    ),
    number("lost_after_s", 2.0, 0.1, 60.0).unit("seconds").live().help(
        "A track without detections for this long has ended. Raise it if road users are hidden for longer, for example behind \
        a sign.",
    ),
    number("speed_max", 12.0, 1.0, 50.0).unit("box sides per second").live().help(
        "Highest plausible speed of a track. A car at 50 km/h seen from the side moves 3 box sides per second.",
    ),
]);

pub(super) const COUNT: Section = Section::new("count", Scope::Camera, &[
    number("band_min_px", 4.0, 0.0, 100.0).unit("pixels").live().help(
        "A road user must be past a line by at least this distance before the crossing counts. Raise it if trembling boxes \
        of standing vehicles are counted.",
    ),
    number("band_share", 0.1, 0.0, 1.0).unit("of the box's size").live().help(
        "The same distance as a fraction of the size of the road user's box; the larger of the two applies.",
    ),
    number("travel_min", 0.034, 0.0, 1.0).unit("of the frame's diagonal").live().help(
        "Smallest distance that a road user must have moved before it is counted.",
    ),
    whole("frames_min", 3, 2, 100).unit("frames").live().help(
        "Smallest number of frames in which a road user must have been detected before it is counted.",
    ),
]);

pub(super) const LINE: Section = Section::array("line", Scope::Camera, &[
    text("name", "middle").live().help(
        "Name of the line in events. 1 to 32 bytes; each line needs its own.",
    ),
    point("from", 0.5, 1.0).live().help(
        "First end of the line.",
    ),
    point("to", 0.5, 0.0).live().help(
        "Second end of the line.",
    ),
    text("forward", "left-to-right").live().help(
        "Name of the direction from left to right, looking from `from` to `to`. 1 to 32 bytes.",
    ),
    text("backward", "right-to-left").live().help(
        "Name of the direction from right to left. 1 to 32 bytes.",
    ),
])
.help(
    "Counting lines, at most 16, each with its own [[line]]. Your lines replace this default one, a vertical line in the middle \
    of the frame.",
);
