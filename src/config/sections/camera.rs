//! One camera: its source, and all stages from the sampler to the counter.

use std::time::Duration;

use super::shapes::{lines, polygons};
use super::{name, path, seconds};
use crate::analytics::count;
use crate::analytics::track;
use crate::capture::ffmpeg::{self, Decoding, Transport};
use crate::capture::frame::{ColorMatrix, ColorRange, PixelFormat};
use crate::capture::v4l2::Setting;
use crate::capture::{AtEnd, CaptureParams, ColorOverride, FrameRate, SourceSpec};
use crate::config::check::check;
use crate::config::scopes::{Camera, Capture};
use crate::config::values::Values;
use crate::delivery::uplink::labels::CameraLabels;
use crate::vision::detect::decode;
use crate::vision::gate;
use crate::vision::roi;

/// Target rates by use (S12), frames a second.
pub(in crate::config) const PROFILES: [(&str, f32); 5] = [
    ("traffic_analysis", 6.0),
    ("real_time_tracking", 15.0),
    ("security_surveillance", 4.0),
    ("batch_processing", 2.0),
    ("low_power", 1.0),
];

/// Layouts of raw frames.
pub(in crate::config) const PIXEL_FORMATS: [(&str, Option<PixelFormat>); PixelFormat::ALL.len() + 1] = {
    let mut formats = [("auto", None); PixelFormat::ALL.len() + 1];
    let mut index = 0;
    while index < PixelFormat::ALL.len() {
        let format = PixelFormat::ALL[index];
        formats[index + 1] = (format.name(), Some(format));
        index += 1;
    }
    formats
};

/// Luma weights.
pub(in crate::config) const COLOR_MATRICES: [(&str, Option<ColorMatrix>); 3] =
    [("auto", None), ("bt601", Some(ColorMatrix::Bt601)), ("bt709", Some(ColorMatrix::Bt709))];

/// Code ranges.
pub(in crate::config) const COLOR_RANGES: [(&str, Option<ColorRange>); 3] =
    [("auto", None), ("full", Some(ColorRange::Full)), ("limited", Some(ColorRange::Limited))];

/// What to do after the last frame.
pub(in crate::config) const AT_END: [(&str, AtEnd); 2] = [("stop", AtEnd::Stop), ("loop", AtEnd::Loop)];

/// How packets of RTSP streams travel.
pub(in crate::config) const TRANSPORTS: [(&str, Transport); 2] =
    [("tcp", Transport::Tcp), ("udp", Transport::Udp)];

/// What decodes streams and recordings.
pub(in crate::config) const DECODINGS: [(&str, Decoding); 10] = [
    ("none", Decoding::Software),
    ("auto", Decoding::Accelerated("auto")),
    ("drm", Decoding::Accelerated("drm")),
    ("vaapi", Decoding::Accelerated("vaapi")),
    ("qsv", Decoding::Accelerated("qsv")),
    ("cuda", Decoding::Accelerated("cuda")),
    ("vdpau", Decoding::Accelerated("vdpau")),
    ("vulkan", Decoding::Accelerated("vulkan")),
    ("h264_v4l2m2m", Decoding::Decoder("h264_v4l2m2m")),
    ("hevc_v4l2m2m", Decoding::Decoder("hevc_v4l2m2m")),
];

/// All cameras, each from its own values; their mistakes are added to those of the file.
pub(in crate::config) fn cameras(values: &mut Values, each: &mut [Values]) -> Vec<Camera> {
    let mut cameras: Vec<Camera> = Vec::new();
    for own in each {
        check(own);
        let camera = camera(own);
        if cameras.iter().any(|other| other.name == camera.name) {
            own.mistake("camera.name", "must be a name of its own");
        }
        let device = |camera: &Camera| match &camera.source {
            Some(SourceSpec::V4l2(path)) => Some(path.clone()),
            Some(_) | None => None,
        };
        let shared = |other: &&Camera| device(other).is_some() && device(other) == device(&camera);
        if let Some(other) = cameras.iter().find(shared) {
            let why = format!("camera '{}' reads this device already: give each camera its own", other.name);
            own.mistake("camera.source", why);
        }
        values.absorb(own.take_mistakes());
        cameras.push(camera);
    }
    cameras
}

fn camera(values: &mut Values) -> Camera {
    let profile = values.choice("sampling.profile", &PROFILES);
    Camera {
        name: name(values, "camera.name"),
        source: source(values),
        capture: Capture(capture(values)),
        fps: values.float_or_auto("sampling.fps").map_or(profile, |fps| fps as f32),
        decode: decode::Params {
            score_min: values.float("detect.score_min") as f32,
            iou_max: values.float("detect.iou_max") as f32,
        },
        gate: gate(values),
        roi: values
            .bool("focus.enabled")
            .then(|| roi::Params { whole: Duration::from_secs_f64(values.float("focus.whole_s")) }),
        classes: values.texts("track.classes"),
        track: track(values),
        count: count::Params {
            band_min_px: values.float("count.band_min_px") as f32,
            band_share: values.float("count.band_share") as f32,
            travel_min: values.float("count.travel_min") as f32,
            frames_min: values.int("count.frames_min") as u32,
        },
        lines: lines(values),
        labels: labels(values),
    }
}

fn labels(values: &mut Values) -> CameraLabels {
    let texts = values.texts("camera.tags");
    CameraLabels::new(&texts, values.text_or_none("camera.influx_bucket")).unwrap_or_else(|why| {
        values.mistake("camera.tags", why);
        CameraLabels::default()
    })
}

fn source(values: &mut Values) -> Option<SourceSpec> {
    let text = values.text("camera.source");
    if text.is_empty() {
        return None;
    }
    match SourceSpec::parse(text) {
        Ok(spec) => Some(spec),
        // The error names the source itself, with passwords masked.
        Err(error) => {
            values.mistake_without_value("camera.source", error);
            None
        }
    }
}

fn capture(values: &mut Values) -> CaptureParams {
    let fps = match values.text("camera.fps") {
        "auto" => None,
        text => match text.parse::<FrameRate>() {
            Ok(rate) => Some(rate),
            Err(why) => {
                values.mistake("camera.fps", why);
                None
            }
        },
    };
    let mut controls = Vec::new();
    for text in values.texts("camera.controls") {
        match Setting::parse(&text) {
            Ok(setting) => controls.push(setting),
            Err(why) => values.mistake("camera.controls", why),
        }
    }
    CaptureParams {
        controls,
        width: values.int_or_auto("camera.width").map(|side| side as u32),
        height: values.int_or_auto("camera.height").map(|side| side as u32),
        pixel: values.choice("camera.pixel_format", &PIXEL_FORMATS),
        row_bytes: values.int_or_auto("camera.row_bytes").map(|bytes| bytes as u32),
        fps,
        color: ColorOverride {
            matrix: values.choice("camera.color_matrix", &COLOR_MATRICES),
            range: values.choice("camera.color_range", &COLOR_RANGES),
        },
        stream: ffmpeg::Params {
            transport: values.choice("camera.rtsp_transport", &TRANSPORTS),
            decoding: values.choice("camera.hwaccel", &DECODINGS),
            key_frames_only: values.bool("camera.key_frames_only"),
            credentials_file: path(values, "camera.credentials_file"),
        },
        at_end: values.choice("camera.at_end", &AT_END),
        idle_timeout: seconds(values.int("camera.idle_timeout_s")),
        restart_first: seconds(values.int("camera.restart_first_s")),
        restart_cap: seconds(values.int("camera.restart_cap_s")),
        ..CaptureParams::default()
    }
}

fn gate(values: &mut Values) -> Option<gate::Params> {
    let params = gate::Params {
        luma_delta_min: values.float("gate.luma_delta_min") as f32,
        noise_factor: values.float("gate.noise_factor") as f32,
        area_min_px: values.int("gate.area_min_px") as u32,
        absorb_s: values.int("gate.absorb_s") as u32,
        hold_ms: values.int("gate.hold_ms") as u32,
        refresh_s: values.int("gate.refresh_s") as u32,
        warmup_frames: values.int("gate.warmup_frames") as u32,
        include: polygons(values, "gate.include"),
        exclude: polygons(values, "gate.exclude"),
    };
    values.bool("gate.enabled").then_some(params)
}

fn track(values: &Values) -> track::Params {
    track::Params {
        score_low: values.float("track.score_low") as f32,
        score_high: values.float("track.score_high") as f32,
        score_new: values.float("track.score_new") as f32,
        iou_min: values.float("track.iou_min") as f32,
        iou_low_min: values.float("track.iou_low_min") as f32,
        class_penalty: values.float("track.class_penalty") as f32,
        hits_min: values.int("track.hits_min") as u32,
        lost_after: Duration::from_secs_f64(values.float("track.lost_after_s")),
        speed_max: values.float("track.speed_max") as f32,
    }
}
