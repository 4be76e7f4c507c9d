//! Streams (`rtsp://`, `srt://`, `http://` …) and compressed recordings (`street.mp4`): read through a supervised ffmpeg, 5.1 or newer.
//!
//! ```text
//!   camera.source, camera.credentials_file ─► arguments, script ─► ffmpeg ─► NUT with raw I420 ─► nut.rs, pts.rs
//! ```
//! This module decides what ffmpeg is told; [`super::exec`] runs it and notices when it fails or falls silent. `src/decisions/0016-streams.md`
//! has the reasons and what was measured.
//! - **Times** pass through: no frame is duplicated or dropped for a constant rate, and each keeps its presentation time.
//! - **Size**: the longer side is the model's, never more than the source's; the aspect ratio stays. The scaler interpolates as our letterbox
//!   does, without a low-pass filter: that is what detectors are trained with.
//! - **Rate**: of a live stream, ffmpeg passes on two frames for each that is wanted, the first in every half period of a fixed grid, before it
//!   scales them. The sampler then picks by the same rule as for a camera of that rate, and nothing drifts. Of a recording it passes on every
//!   frame, so that the sampler decides exactly as it does for uncompressed files.
//! - **Shape**: if a live stream changes its size and keeps its aspect ratio, the scaled frames stay as they are. With another aspect ratio their
//!   size changes, which ends the source: it is opened again and takes the new shape up. A recording is scaled to its first size.
//! - **Secrets**: the address of a stream goes to ffmpeg's standard input, as a playlist of one entry. Its arguments, which all users of the
//!   device can list, contain neither address nor password.
//!
//! Pure except for [`open`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::child::{INPUT_BYTES_MAX, Launch};
use super::exec::{ExecSource, Run, Stamps};
use super::pts::StreamClock;
use super::stream::Expect;
use super::{AtEnd, CaptureParams, Timing};
use crate::base::error::{Error, Kind, Result};
use crate::base::mask::masked;
use crate::capture::frame::ColorRange;
use crate::platform::clock::Clock;
use crate::platform::secret::{read, warn_of_other_readers};

/// Addresses that ffmpeg reads, and the protocols that it may use for each: a server must not be able to name a file of the device.
const PROTOCOLS: [(&str, &str); 6] = [
    ("rtsp", "pipe,rtsp,rtp,udp,tcp"),
    ("rtsps", "pipe,rtsp,rtsps,rtp,srtp,udp,tcp,tls"),
    ("srt", "pipe,srt"),
    ("http", "pipe,http,https,httpproxy,tcp,tls,crypto,data"),
    ("https", "pipe,http,https,httpproxy,tcp,tls,crypto,data"),
    ("udp", "pipe,udp"),
];

/// Extensions of recordings that are read through ffmpeg.
const EXTENSIONS: [&str; 24] = [
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mts", "m2ts", "mpg", "mpeg", "vob", "flv", "wmv",
    "asf", "h264", "264", "h265", "265", "hevc", "ogv", "3gp", "dav", "nut",
];

/// Longest address, bytes.
const ADDRESS_BYTES_MAX: usize = 2048;
/// Longest text of user and password, bytes.
const CREDENTIALS_BYTES_MAX: u64 = 1024;
/// Frames that ffmpeg passes on for each that is wanted.
const FRAMES_PER_WANTED: f64 = 2.0;
const NOT_INSTALLED: &str =
    "is not installed: apt-get install ffmpeg (Debian, Ubuntu, Raspberry Pi OS), version 5.1 or newer";

/// What ffmpeg reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A stream's address.
    Address(String),
    /// A recording.
    File(PathBuf),
}

/// How packets of an RTSP stream travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// Within the RTSP connection: nothing is lost.
    #[default]
    Tcp,
    /// Each for itself.
    Udp,
}

/// What decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decoding {
    /// ffmpeg's own decoder for the stream's codec.
    #[default]
    Software,
    /// ffmpeg's `-hwaccel` of this name; software where it does not support the stream.
    Accelerated(&'static str),
    /// The decoder of this name, which must be the one for the stream's codec.
    Decoder(&'static str),
}

/// Settings for streams and compressed recordings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Params {
    /// How packets of an RTSP stream travel.
    pub transport: Transport,
    /// What decodes.
    pub decoding: Decoding,
    /// Decodes only frames that do not depend on others.
    pub key_frames_only: bool,
    /// File with user:password, or `credential:NAME`.
    pub credentials_file: Option<PathBuf>,
}

impl Input {
    /// The address in `text`, if it has a scheme that ffmpeg reads here.
    ///
    /// # Errors
    /// One phrase: the address cannot be right.
    pub fn address(text: &str) -> Option<std::result::Result<Input, String>> {
        let (scheme, rest) = text.split_once("://")?;
        protocols(scheme)?;
        Some(if rest.is_empty() || rest.starts_with('/') {
            Err("an address without a host".to_owned())
        } else if text.len() > ADDRESS_BYTES_MAX {
            Err(format!("an address of more than {ADDRESS_BYTES_MAX} bytes"))
        } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            Err("an address with a space or control character: write it as %20".to_owned())
        } else {
            Ok(Input::Address(text.to_owned()))
        })
    }

    /// Whether the file's name says that ffmpeg must read it.
    pub fn is_compressed(path: &Path) -> bool {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|found| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(found)))
    }

    /// Names it in messages: without user, path and query, which may contain secrets.
    fn what(&self) -> String {
        match self {
            Input::File(path) => format!("ffmpeg for '{}'", path.display()),
            Input::Address(address) => {
                let address = masked(address);
                let (scheme, rest) = address.split_once("://").unwrap_or(("", &address));
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                format!("ffmpeg for {}://{host}", scheme.to_ascii_lowercase())
            }
        }
    }
}

fn protocols(scheme: &str) -> Option<&'static str> {
    PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme)).map(|(_, protocols)| *protocols)
}

/// What is started: the arguments, and what ffmpeg reads from its standard input.
#[derive(PartialEq, Eq)]
struct Command {
    words: Vec<String>,
    input: Option<String>,
}

impl Command {
    /// The command for `input`; `credentials` is the text of `camera.credentials_file`.
    ///
    /// # Errors
    /// Credentials that do not fit the address.
    fn new(
        input: &Input,
        params: &CaptureParams,
        credentials: Option<&str>,
    ) -> std::result::Result<Command, String> {
        let mut words: Vec<String> =
            ["ffmpeg", "-nostdin", "-hide_banner", "-nostats", "-v", "error"].map(str::to_owned).into();
        let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        let is_live = params.timing == Timing::Live;
        match params.stream.decoding {
            Decoding::Software => {}
            Decoding::Accelerated(name) => add(&["-hwaccel", name]),
            Decoding::Decoder(name) => add(&["-c:v", name]),
        }
        if params.stream.key_frames_only {
            // A decoder with several threads, or one that reorders, holds key frames back that come once in seconds.
            add(&["-skip_frame", "nokey", "-threads", "1", "-flags", "low_delay"]);
        }
        let script = match input {
            Input::File(path) => {
                if is_live {
                    add(&["-re"]);
                }
                if params.at_end == AtEnd::Loop {
                    add(&["-stream_loop", "-1"]);
                }
                add(&["-protocol_whitelist", "file", "-i", &format!("file:{}", path.display())]);
                None
            }
            Input::Address(address) => {
                let scheme = address.split("://").next().unwrap_or_default();
                add(&["-fflags", "+discardcorrupt", "-fpsprobesize", "0"]);
                add(&["-f", "concat", "-safe", "0"]);
                add(&["-protocol_whitelist", protocols(scheme).unwrap_or_default(), "-i", "pipe:0"]);
                Some(script(address, params, credentials)?)
            }
        };
        // The best video stream that is no cover picture; others are not even received.
        add(&["-map", "0:V:0", "-map_metadata", "-1", "-map_chapters", "-1"]);
        let is_stream = is_live && matches!(input, Input::Address(_));
        add(&["-vf", &filters(params, is_stream), "-fps_mode", "passthrough"]);
        if is_stream {
            add(&["-autoscale", "0"]);
        }
        // The encoder of raw frames has threads too, and holds a frame back for each. An index would grow for as long as ffmpeg runs.
        add(&["-enc_time_base", "1/1000000", "-c:v", "rawvideo", "-threads", "1"]);
        add(&["-f", "nut", "-write_index", "0", "-flush_packets", "1", "pipe:1"]);
        Ok(Command { words, input: script })
    }
}

/// The filters: dropping unwanted frames, the size, the pixel format.
fn filters(params: &CaptureParams, is_stream: bool) -> String {
    let mut filters = String::new();
    if is_stream {
        // The number of the grid's cell differs from the previous frame's. Times are rounded: a frame at a cell's very start belongs to it.
        let rate = f64::from(params.serve_fps) * FRAMES_PER_WANTED;
        let cell = |time: &str| format!("floor({time}*{rate:.4}+0.001)");
        let _infallible = write!(filters, "select='not(eq({},{}))',", cell("t"), cell("prev_t"));
    }
    let (width, height) = match (params.width, params.height) {
        (Some(width), Some(height)) => (width.to_string(), height.to_string()),
        _ => {
            let longer = params.serve_side;
            let side = |own: &str| format!("2*trunc(({own}*min(1,{longer}/max(iw,ih))+0.5)/2)");
            (side("iw"), side("ih"))
        }
    };
    let range = match params.color.range {
        Some(ColorRange::Full) => "full",
        Some(ColorRange::Limited) => "limited",
        None => "auto",
    };
    let _infallible = write!(
        filters,
        "scale=w='{width}':h='{height}':flags=fast_bilinear:in_range={range}:out_range=limited,format=yuv420p"
    );
    filters
}

/// The playlist that ffmpeg reads from its standard input.
fn script(
    address: &str,
    params: &CaptureParams,
    credentials: Option<&str>,
) -> std::result::Result<String, String> {
    let (scheme, rest) = address.split_once("://").unwrap_or_default();
    let scheme = scheme.to_ascii_lowercase();
    // Ours decides. At its own time-out ffmpeg 5.1 reads again, and waits again, for each frame that its decoder holds, and passes that frame
    // on: a stalled stream would seem to live. It is there for an ffmpeg whose flytrap was killed.
    let timeout = (params.idle_timeout * 2).as_micros().to_string();
    let mut options = vec![("fpsprobesize", "0".to_owned())];
    let mut user = String::new();
    match (&*scheme, credentials) {
        ("srt", Some(passphrase)) => options.push(("passphrase", passphrase.to_owned())),
        ("udp", Some(_)) => return Err("udp:// has no user and password: unset it".to_owned()),
        (_, Some(text)) => user = user_info(rest, text)?,
        (_, None) => {}
    }
    match &*scheme {
        "rtsp" | "rtsps" => {
            let transport = match params.stream.transport {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            };
            options.extend([("rtsp_transport", transport.to_owned()), ("timeout", timeout)]);
            options.push(("allowed_media_types", "video".to_owned()));
        }
        "udp" => options.extend([("timeout", timeout), ("overrun_nonfatal", "1".to_owned())]),
        "srt" => options.push(("timeout", timeout)),
        _ => options.push(("rw_timeout", timeout)),
    }
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let mut script = format!("ffconcat version 1.0\nfile {}\n", quoted(&format!("{scheme}://{user}{rest}")));
    for (key, value) in options {
        let _infallible = writeln!(script, "option {key} {}", quoted(&value));
    }
    const {
        // Each byte of a password takes three in an address, each quote four.
        assert!(4 * ADDRESS_BYTES_MAX + 4 * CREDENTIALS_BYTES_MAX as usize + 1024 < INPUT_BYTES_MAX);
    }
    Ok(script)
}

/// `user:password@` for an address, from `text`.
fn user_info(rest: &str, text: &str) -> std::result::Result<String, String> {
    let Some((user, password)) = text.split_once(':') else {
        return Err("it must hold user:password".to_owned());
    };
    if rest.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@')) {
        return Err("camera.source has a user too: remove one of them".to_owned());
    }
    Ok(format!("{}:{}@", percent_encoded(user), percent_encoded(password)))
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

/// The one line of the file of a setting. The error names the file, never its text.
fn read_credentials(path: &Path) -> std::result::Result<String, String> {
    static SAID: AtomicBool = AtomicBool::new(false);
    const SETTING: &str = "camera.credentials_file";
    warn_of_other_readers(SETTING, path, &SAID);
    let wrong = || format!("{SETTING} {}: it must hold one line, user:password", path.display());
    let bytes = read(SETTING, path, CREDENTIALS_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let line = text.trim_end_matches(['\n', '\r']);
    if line.is_empty() || line.chars().any(char::is_control) {
        return Err(wrong());
    }
    Ok(line.to_owned())
}

/// Starts ffmpeg and waits until it writes, at most [`CaptureParams::idle_timeout`].
///
/// # Errors
/// Fatal with the remedy: no ffmpeg, no such file, wrong credentials file. Retry: it ended or stayed silent.
pub fn open(input: &Input, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<ExecSource> {
    let what = input.what();
    if let Input::File(path) = input {
        let fatal = |text: &str| Error::fatal(Kind::Source, format!("file '{}' {text}", path.display()));
        let found = std::fs::metadata(path).map_err(|error| {
            fatal("cannot be opened: check the path and its permissions").caused_by(error)
        })?;
        if !found.is_file() {
            return Err(fatal("is not a regular file"));
        }
    }
    let wrong = |text: String| Error::fatal(Kind::Config, text);
    let setting = params.stream.credentials_file.as_deref().filter(|_| matches!(input, Input::Address(_)));
    let credentials = setting.map(read_credentials).transpose().map_err(wrong)?;
    let command = Command::new(input, params, credentials.as_deref()).map_err(|why| {
        let path = setting.unwrap_or_else(|| Path::new("")).display();
        wrong(format!("camera.credentials_file {path}: {why}"))
    })?;
    let has_own_rate = params.timing == Timing::Recording && params.fps.is_some();
    let stamps = match params.timing {
        // A rate that is set replaces a time-lapse recording's own.
        Timing::Recording if has_own_rate => Stamps::None,
        Timing::Recording => Stamps::Recorded(None),
        Timing::Live => Stamps::Live(StreamClock::new(matches!(input, Input::Address(_)))),
    };
    let launch =
        Launch { words: &command.words, input: command.input.as_deref(), what: &what, absent: NOT_INSTALLED };
    let is_finite = params.timing == Timing::Recording || matches!(input, Input::File(_));
    ExecSource::start(Run { launch, expect: Expect::Nut, stamps, is_finite }, params, clock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn live() -> CaptureParams {
        CaptureParams { timing: Timing::Live, ..CaptureParams::default() }
    }

    fn address(text: &str) -> Input {
        Input::address(text).unwrap().unwrap()
    }

    fn command(input: &Input, params: &CaptureParams, credentials: Option<&str>) -> Command {
        Command::new(input, params, credentials).unwrap_or_else(|why| panic!("{why}"))
    }

    #[test]
    fn a_stream_is_received_over_tcp_with_time_outs_and_reduced_before_it_is_scaled() {
        let Command { words, input } = command(&address("rtsp://cam:554/1?a=b&c=d"), &live(), None);
        let line = words.join(" ");
        assert_eq!(
            line,
            "ffmpeg -nostdin -hide_banner -nostats -v error -fflags +discardcorrupt -fpsprobesize 0 -f concat -safe 0 \
             -protocol_whitelist pipe,rtsp,rtp,udp,tcp -i pipe:0 -map 0:V:0 -map_metadata -1 -map_chapters -1 -vf \
             select='not(eq(floor(t*12.0000+0.001),floor(prev_t*12.0000+0.001)))',\
             scale=w='2*trunc((iw*min(1,640/max(iw,ih))+0.5)/2)':h='2*trunc((ih*min(1,640/max(iw,ih))+0.5)/2)':flags=fast_bilinear:\
             in_range=auto:out_range=limited,format=yuv420p -fps_mode passthrough -autoscale 0 -enc_time_base 1/1000000 \
             -c:v rawvideo -threads 1 -f nut -write_index 0 -flush_packets 1 pipe:1"
        );
        assert_eq!(
            input.unwrap(),
            "ffconcat version 1.0\nfile 'rtsp://cam:554/1?a=b&c=d'\noption fpsprobesize '0'\noption rtsp_transport 'tcp'\n\
             option timeout '20000000'\noption allowed_media_types 'video'\n"
        );
    }

    #[test]
    fn a_recording_keeps_all_frames_and_is_paced_only_in_place_of_a_camera() {
        let file = Input::File("-street 1.mp4".into());
        let line = |params: &CaptureParams| command(&file, params, None).words.join(" ");
        let recorded = line(&CaptureParams::default());
        assert!(recorded.contains(" -protocol_whitelist file -i file:-street 1.mp4 -map"), "{recorded}");
        for part in ["select=", "-re", "-stream_loop", "-autoscale"] {
            assert!(!recorded.contains(part), "{recorded}");
        }
        assert!(line(&live()).contains(" -re -protocol_whitelist"), "{}", line(&live()));
        let endless = CaptureParams { at_end: AtEnd::Loop, ..CaptureParams::default() };
        assert!(line(&endless).contains(" -stream_loop -1 "), "{}", line(&endless));
    }

    #[test]
    fn settings_reach_ffmpeg() {
        let stream = Params {
            transport: Transport::Udp,
            decoding: Decoding::Accelerated("drm"),
            key_frames_only: true,
            credentials_file: None,
        };
        let size = CaptureParams { width: Some(320), height: Some(240), stream: stream.clone(), ..live() };
        let Command { words, input } = command(&address("RTSPS://cam/1"), &size, None);
        let line = words.join(" ");
        for part in [
            "-hwaccel drm -skip_frame nokey -threads 1 -flags low_delay ",
            ",tls -i",
            "scale=w='320':h='240':",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let input = input.unwrap();
        assert!(
            input.contains("file 'rtsps://cam/1'\n") && input.contains("rtsp_transport 'udp'"),
            "{input}"
        );
        let decoder = Params { decoding: Decoding::Decoder("h264_v4l2m2m"), ..stream };
        let line = command(&Input::File("x.mp4".into()), &CaptureParams { stream: decoder, ..live() }, None)
            .words
            .join(" ");
        assert!(
            line.contains("-c:v h264_v4l2m2m -skip_frame nokey -threads 1 -flags low_delay -re"),
            "{line}"
        );
    }

    #[test]
    fn credentials_are_in_the_input_and_nowhere_else() {
        for (text, credentials, part) in [
            ("rtsp://cam/1", "joe:hunter2", "file 'rtsp://joe:hunter2@cam/1'"),
            (
                "http://cam/?x=a@b",
                "j o:a/b:c@d?e'é",
                "file 'http://j%20o:a%2Fb%3Ac%40d%3Fe%27%C3%A9@cam/?x=a@b'",
            ),
            ("srt://host:7000", "it's ten or more", r"option passphrase 'it'\''s ten or more'"),
        ] {
            let Command { words, input } = command(&address(text), &live(), Some(credentials));
            assert!(!words.join(" ").contains("cam") && !words.join(" ").contains("hunter2"));
            let input = input.unwrap();
            assert!(input.contains(part), "{input}");
            assert_eq!(input.lines().count(), input.trim_end().split('\n').count());
        }
        for (text, credentials, words) in [
            ("rtsp://cam/1", "joe", "user:password"),
            ("rtsp://joe:x@cam/1", "joe:hunter2", "has a user too"),
            ("udp://239.0.0.1:1234", "joe:hunter2", "udp:// has no user"),
        ] {
            let error = Command::new(&address(text), &live(), Some(credentials)).err().unwrap();
            assert!(error.contains(words) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn addresses_and_recordings_are_recognised() {
        for text in [
            "rtsp://h",
            "RTSP://u:p@h/1",
            "https://h:8443/x.m3u8?token=1",
            "srt://h:1",
            "udp://@239.0.0.1:1",
            "udp://:1",
        ] {
            assert_eq!(Input::address(text), Some(Ok(Input::Address(text.to_owned()))), "{text}");
        }
        for text in ["rtsp://", "rtsp:///1", "rtsp://h/a b", "rtsp://h/\n"] {
            assert!(matches!(Input::address(text), Some(Err(_))), "{text}");
        }
        assert!(matches!(Input::address(&format!("rtsp://{}", "x".repeat(3000))), Some(Err(_))));
        for text in ["file://x", "rtsp:h", "ftp://h", "x.mp4", ""] {
            assert_eq!(Input::address(text), None, "{text}");
        }
        for (path, expected) in
            [("a.mp4", true), ("A.MKV", true), ("a.y4m", false), ("mp4", false), ("a.mp4.txt", false)]
        {
            assert_eq!(Input::is_compressed(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn messages_name_the_host_only() {
        for (text, what) in [
            ("rtsp://joe:hunter2@cam:554/user=a&password=b", "ffmpeg for rtsp://cam:554"),
            ("HTTPS://cam?token=x", "ffmpeg for https://cam"),
            ("rtsp://u:p/s?s#s@host:554/1", "ffmpeg for rtsp://host:554"),
        ] {
            assert_eq!(address(text).what(), what);
        }
        assert_eq!(Input::File("a b.mp4".into()).what(), "ffmpeg for 'a b.mp4'");
    }

    #[test]
    fn a_file_of_credentials_holds_one_line_which_no_error_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("camera");
        std::fs::write(&path, "joe:hunter 2\r\n").unwrap();
        assert_eq!(read_credentials(&path).unwrap(), "joe:hunter 2");
        let long = "hunter2".repeat(200);
        for bad in ["", "\n", "joe:hunter2\nmore", "joe:hunter2\u{7}", long.as_str()] {
            std::fs::write(&path, bad).unwrap();
            let error = read_credentials(&path).unwrap_err();
            assert!(error.contains("camera.credentials_file") && !error.contains("hunter"), "{error}");
        }
    }

    proptest! {
        /// Whatever a password contains, it stays one word of the script: it cannot add a line or an option.
        #[test]
        fn a_password_cannot_leave_its_place(user in "[^:\\p{Cc}]{1,20}", password in "[^\\p{Cc}]{1,40}") {
            let plain = command(&address("rtsp://cam/1"), &live(), None).input.unwrap();
            let text = command(&address("rtsp://cam/1"), &live(), Some(&format!("{user}:{password}"))).input.unwrap();
            let (info, rest) = text.split_once("file 'rtsp://").unwrap().1.split_once('@').unwrap();
            prop_assert!(info.chars().all(|c| c.is_ascii_alphanumeric() || "-._~%:".contains(c)), "{}", info);
            prop_assert_eq!(rest, plain.split_once("file 'rtsp://").unwrap().1);
        }
    }
}
