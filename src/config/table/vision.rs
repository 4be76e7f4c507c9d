//! `[detect]`, `[gate]`, `[focus]`.

use super::{Scope, Section, number, polygons, switch, whole};

pub(super) const DETECT: Section = Section::new("detect", Scope::Camera, &[
    number("score_min", 0.25, 0.01, 0.99).live().help(
        "Lowest score of a detection that `flytrap detect` reports. `flytrap run` uses the thresholds in [track] instead.",
    ),
    number("iou_max", 0.5, 0.1, 0.95).live().help(
        "Non-maximum suppression: if two boxes of the same class overlap by more than this (IoU, intersection over union), the \
        one with the lower score is dropped. Raise it if neighbours in dense traffic are merged, lower it if one vehicle gets \
        two boxes.",
    ),
]);

pub(super) const GATE: Section = Section::new("gate", Scope::Camera, &[
    switch("enabled", true).restarts_camera().help(
        "Motion gate: run the network only while something moves. Saves CPU time on quiet roads. false = run it on \
        every sampled frame.",
    ),
    number("luma_delta_min", 8.0, 1.0, 100.0).unit("brightness levels (of 255)").live().help(
        "Smallest change in brightness that counts as motion. Raise it if flicker or camera shake opens the gate, lower it if \
        dark vehicles are missed at night.",
    ),
    number("noise_factor", 4.0, 2.0, 20.0).unit("standard deviations").live().help(
        "A change must also exceed the measured image noise by this factor. Raise it for noisy cameras.",
    ),
    whole("area_min_px", 4, 1, 1000).unit("pixels").live().help(
        "Smallest moving area, in pixels of the reduced image (at most 160 pixels wide) that the gate works on. Raise it to \
        ignore leaves and insects, lower it for distant road users.",
    ),
    whole("absorb_s", 60, 5, 3600).unit("seconds").live().help(
        "What stands still for this long becomes part of the background. Set it longer than the longest red light in view.",
    ),
    whole("hold_ms", 1000, 0, 60_000).unit("milliseconds").live().help(
        "The gate stays open for this long after the last motion.",
    ),
    whole("refresh_s", 30, 0, 86_400).unit("seconds").special(0, "never").live().help(
        "The network runs on at least one frame in this time, even without motion.",
    ),
    whole("warmup_frames", 6, 2, 1000).unit("frames").live().help(
        "The gate stays open for this many frames after each start, while it learns the background.",
    ),
    polygons("include").live().help(
        "Areas in which motion counts: polygons of 3 to 32 corners, at most 16 polygons. [] = the whole frame.",
    ),
    polygons("exclude").live().help(
        "Areas in which motion does not count, such as trees or flags; they also apply inside `include`. Example, the sky in \
        the top 30 % of the frame:\n   \
        exclude = [[[0.0, 0.0], [1.0, 0.0], [1.0, 0.3], [0.0, 0.3]]]",
    ),
]);

pub(super) const FOCUS: Section = Section::new("focus", Scope::Camera, &[
    switch("enabled", false).restarts_camera().help(
        "Region of interest: run the network only on the part of the frame in which something moves. This costs less CPU time \
        and shows distant road users at a higher resolution. It needs the motion gate and a model with free input sizes \
        (exported with dynamic=True); other models always get the whole frame.",
    ),
    number("whole_s", 5.0, 0.1, 600.0).unit("seconds").live().help(
        "The network gets the whole frame at least this often, to find road users that stand still.",
    ),
]);
