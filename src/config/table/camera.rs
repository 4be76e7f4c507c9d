//! `[camera]` and `[sampling]`.

use super::{Scope, Secret, Section, choice, names, number, switch, text, texts, whole};
use crate::base::limits::{FRAME_SIDE_MAX, FRAME_SIDE_MIN};
use crate::config::sections::camera::{
    AT_END, COLOR_MATRICES, COLOR_RANGES, DECODINGS, PIXEL_FORMATS, PROFILES, TRANSPORTS,
};

const SIDE_MIN: i64 = FRAME_SIDE_MIN as i64;
const SIDE_MAX: i64 = FRAME_SIDE_MAX as i64;

/// Above `[camera]` in the defaults.
const SEVERAL: &str = "\
The camera. For several cameras write [[camera]] instead, once for each, at most 8; each needs a name of its own. The tables \
[sampling], [detect], [gate], [focus], [track], [count] and [[line]] then hold for all of them, and each camera may have its \
own below its [[camera]], which replaces single keys, and all lines:\n   \
[[camera]]\n   \
name = \"north\"\n   \
source = \"v4l2:/dev/v4l/by-path/...\"\n   \
[camera.gate]\n   \
hold_ms = 2000\n   \
[[camera.line]]\n   \
name = \"lane 1\"";

pub(super) const CAMERA: Section = Section::new("camera", Scope::Camera, &[
    text("name", "camera").restarts_camera().help(
        "Name of the camera in every event. 1 to 32 characters: letters, digits, - _ .",
    ),
    text("source", "").secret(Secret::InCommand).restarts_camera().help(
        "Where frames come from. The option --source overrides it.\n   \
        v4l2:DEVICE   a camera of the Linux kernel (USB, CSI); `flytrap cameras` lists them. Use a path that does not\n                 \
        change when cameras are unplugged, such as /dev/v4l/by-path/...\n   \
        rtsp://...    a network camera or stream, also rtsps:// srt:// http:// https:// udp:// (needs ffmpeg 5.1 or newer:\n                 \
        apt-get install ffmpeg)\n   \
        exec:COMMAND  a program that writes yuv4mpegpipe, MJPEG or raw frames to its standard output:\n                 \
        exec:rpicam-vid -t 0 --nopreview --codec mjpeg --width 1280 --height 720 --framerate 15 -o -\n   \
        file:FILE     a recording: .y4m, .mjpeg, or raw frames (.yuv .nv12 .yuyv .uyvy .grey .rgb); through ffmpeg also .mp4 .mkv\n                 \
        .avi .ts and others. \"file:\" may be left out.\n   \
        dir:FOLDER    the pictures of a folder (.jpg .jpeg .png), by name (2.jpg before 10.jpg); without --until-end new ones too",
    ),
    texts("tags", &[]).live().help(
        "Tags of this camera's events, as \"KEY=VALUE\": KEY of letters, digits and _; at most 128 bytes together. InfluxDB gets them as \
        tags, CloudEvents as the attribute `tags`. They are added when an event is sent. Example: tags = [\"road=A7\", \"site=bridge 3\"]",
    ),
    text("influx_bucket", "").live().help(
        "Bucket of this camera's events in InfluxDB 2 and 3, or database in InfluxDB 1, instead of that of [uplink]. \"\" = the \
        uplink's.",
    ),
    text("credentials_file", "").restarts_camera().help(
        "File with user:password for rtsp, rtsps, http and https, or with the passphrase for srt; or \"credential:NAME\" for systemd's \
        LoadCredential=NAME:... They are never logged, and other users cannot see them in the list of processes. It is read again \
        whenever the stream is opened.",
    ),
    choice("rtsp_transport", "tcp", const { &names(&TRANSPORTS) }).restarts_camera().help(
        "How the packets of rtsp travel. Change it to udp only for cameras that do not support tcp: lost packets damage pictures.",
    ),
    choice("hwaccel", "none", const { &names(&DECODINGS) }).restarts_camera().help(
        "What decodes streams and compressed recordings: \"none\" = the CPU, \"auto\" = what ffmpeg finds, else the CPU; the others are \
        ffmpeg's -hwaccel of that name. h264_v4l2m2m and hevc_v4l2m2m are decoders of boards such as the Raspberry Pi 4, each for the \
        codec in its name only.",
    ),
    switch("key_frames_only", false).restarts_camera().help(
        "Decode only key frames of streams and compressed recordings, for a fraction of the CPU time. A camera sends one every 1 to 10 \
        seconds (its GOP or I-frame interval): switch it on only where sampling.fps is not higher than that.",
    ),
    whole("width", 0, SIDE_MIN, SIDE_MAX).unit("pixels").special(0, "automatic").restarts_camera().help(
        "Width of frames. Raw frames need it; other streams and files state their size. For a v4l2 camera it selects a size; \
        automatic = the smallest size that is large enough for the model. What ffmpeg reads is scaled to width and height; \
        automatic = to the size of the model, if it is larger.",
    ),
    whole("height", 0, SIDE_MIN, SIDE_MAX).unit("pixels").special(0, "automatic").restarts_camera().help(
        "Height of frames; see width.",
    ),
    choice("pixel_format", "auto", const { &names(&PIXEL_FORMATS) }).restarts_camera().help(
        "Pixel format of frames. Set it for raw frames; \"auto\" = as the stream or the file's extension says, and for a v4l2 \
        camera the format that costs least CPU time at the frame rate that is needed.",
    ),
    whole("row_bytes", 0, SIDE_MIN, 4 * SIDE_MAX).unit("bytes").special(0, "no padding").restarts_camera().help(
        "Distance between rows of raw frames. Set it for programs that pad rows, such as rpicam-vid, which pads them to a multiple \
        of 64 bytes.",
    ),
    text("fps", "auto").restarts_camera().help(
        "Frame rate of the source, frames per second: \"25\", \"29.97\" or \"30000/1001\"; \"auto\" = as the stream says. \
        Recordings of raw frames need it. Set it for time-lapse recordings, whose files state a wrong rate.",
    ),
    choice("color_matrix", "auto", const { &names(&COLOR_MATRICES) }).restarts_camera().help(
        "Colour matrix (YUV to RGB) of the source. \"auto\" = as the stream says, else the usual one for its format and size. \
        Change it only if colours in annotated pictures are wrong.",
    ),
    choice("color_range", "auto", const { &names(&COLOR_RANGES) }).restarts_camera().help(
        "Value range of the source: full = 0 to 255, limited = 16 to 235. \"auto\" = as the stream says, else the usual one. \
        Change it only if annotated pictures look washed out or too dark.",
    ),
    choice("at_end", "stop", const { &names(&AT_END) }).restarts_camera().help(
        "What to do after the last frame of a file or folder: stop, or loop from the first frame.",
    ),
    texts("controls", &[]).restarts_camera().help(
        "V4L2 controls to set each time the camera is opened, in this order, as \"NAME = VALUE\"; `flytrap cameras` lists names \
        and values. Example for street lamps on 50 Hz mains and a short fixed exposure, so that moving cars are not blurred:\n   \
        controls = [\"power_line_frequency = 50 Hz\", \"auto_exposure = Manual Mode\", \"exposure_time_absolute = 50\"]",
    ),
    whole("idle_timeout_s", 10, 1, 600).unit("seconds").restarts_camera().help(
        "A source that delivers no usable frame for this long has failed and is opened again. The stream of a v4l2 camera is restarted \
        once after half of this time. Raise it for sources with long pauses between frames.",
    ),
    whole("restart_first_s", 1, 1, 3600).unit("seconds").restarts_camera().help(
        "Delay before a failed source is opened again. It doubles after each further failure, up to restart_cap_s.",
    ),
    whole("restart_cap_s", 60, 1, 86_400)
        .unit("seconds")
        .at_least("camera.restart_first_s")
        .restarts_camera()
        .help(
            "Longest delay between attempts to open a failed source. A v4l2 camera is tried every 4 seconds or more often, so \
            that it is back soon after it is plugged in.",
        ),
])
.help(SEVERAL);

pub(super) const SAMPLING: Section = Section::new("sampling", Scope::Camera, &[
    choice("profile", "traffic_analysis", const { &names(&PROFILES) }).live().help(
        "How many frames per second to analyse, by use: real_time_tracking 15, traffic_analysis 6, security_surveillance 4, \
        batch_processing 2, low_power 1. More frames count fast traffic better and cost more CPU time.",
    ),
    number("fps", 0.0, 0.1, 60.0)
        .unit("frames per second")
        .special(0, "the profile's rate")
        .live()
        .help(
            "Frames per second to analyse, instead of the profile's rate. After a reload with a higher rate than before the camera is \
            opened again, because it may need another mode.",
        ),
]);
