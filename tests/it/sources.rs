//! Files and external programs as sources: their frames, and everything that goes wrong with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flytrap::base::error::{Class, Error, Kind};
use flytrap::base::stop::Stop;
use flytrap::capture::frame::PixelFormat;
use flytrap::capture::{Advance, AtEnd, CaptureParams, FrameSource, SourceSpec, Timing};
use flytrap::platform::clock::{Clock, SystemClock};

use crate::common::{
    config, data, describe, ffmpeg, flytrap, json_lines, of_type, output, run_squares, shared,
};

/// Longest wait for an expected result.
const BOUND: Duration = Duration::from_secs(30);
/// 16x16 I420.
const FRAME_BYTES: usize = 16 * 16 * 3 / 2;
/// Shell commands that write the head of a stream, and a frame of zeros.
const HEAD: &str = "printf 'YUV4MPEG2 W16 H16 F25:1\\n'\n";
const FRAME: &str = "printf 'FRAME\\n'; head -c 384 /dev/zero\n";

/// A folder with a shell script in it.
struct Script {
    folder: tempfile::TempDir,
}

impl Script {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("program.sh"), text).unwrap();
        Script { folder }
    }

    /// Its command line: it gets its folder as `$1`.
    fn command(&self) -> String {
        let folder = self.folder.path().display();
        format!("exec:sh '{folder}/program.sh' '{folder}'")
    }

    /// A number that the script has written into a file.
    fn number(&self, name: &str) -> i32 {
        let path = self.folder.path().join(name);
        wait_until(|| std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')), "a number");
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }
}

fn open(spec: &str, params: &CaptureParams) -> Result<Box<dyn FrameSource>, Error> {
    SourceSpec::parse(spec).and_then(|spec| spec.open(params, Arc::new(SystemClock)))
}

fn refused(spec: &str, params: &CaptureParams) -> Error {
    open(spec, params).err().unwrap_or_else(|| panic!("{spec} was opened"))
}

fn live() -> CaptureParams {
    CaptureParams { timing: Timing::Live, idle_timeout: BOUND, ..CaptureParams::default() }
}

fn wait_until(mut done: impl FnMut() -> bool, what: &str) {
    let begun = SystemClock.mono();
    let patience = Stop::new();
    while !done() {
        assert!(SystemClock.mono().since(begun) < BOUND, "waited without success for {what}");
        patience.wait(Duration::from_millis(10));
    }
}

/// The next result that is not a pause.
fn next(source: &mut dyn FrameSource) -> Result<Advance, Error> {
    let begun = SystemClock.mono();
    loop {
        match source.advance(Duration::from_millis(50)) {
            Ok(Advance::Idle) => {
                assert!(SystemClock.mono().since(begun) < BOUND + BOUND, "nothing but pauses");
            }
            other => return other,
        }
    }
}

/// Reads whole frames until something else comes: returns their number, and what came.
fn play(source: &mut dyn FrameSource) -> (usize, Result<Advance, Error>) {
    let mut buffer = vec![0xAA; source.slot_bytes()];
    for count in 0.. {
        match next(source) {
            Ok(Advance::Frame(meta)) => {
                assert_eq!(meta.seq, count as u64);
                match source.read_into(&mut buffer) {
                    Ok(filled) => assert_eq!(filled.bytes_used, source.format().frame_bytes().unwrap()),
                    Err(error) => return (count, Err(error)),
                }
            }
            other => return (count, other),
        }
    }
    unreachable!("the loop has no end of its own")
}

/// Ids of the live processes of a group, from /proc.
fn living(group: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // PID (NAME) STATE PARENT GROUP ...
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let dead = matches!(fields.next(), Some("Z" | "X"));
        if !dead && fields.nth(1) == Some(&group.to_string()) {
            found.push(entry.file_name().to_str().unwrap().parse().unwrap());
        }
    }
    found
}

#[test]
fn a_program_that_fails_inside_a_frame_is_reported_with_status_and_messages() {
    let script = Script::new(&format!(
        "{HEAD}{FRAME}{FRAME}printf 'FRAME\\n'; head -c 100 /dev/zero; echo opening >&2\n\
         echo 'rtsp://joe:hunter2@cam: lost' >&2; exit 3\n"
    ));
    for timing in [Timing::Live, Timing::Recording] {
        let mut source = open(&script.command(), &CaptureParams { timing, ..live() }).unwrap();
        let (frames, end) = play(&mut *source);
        // The half frame is announced by its first bytes; reading it shows the end, and the next call the reason.
        let error = end.unwrap_err();
        assert_eq!((frames, error.class(), error.kind()), (2, Class::Retry, Kind::Source), "{error}");
        let text = error.to_string();
        for words in ["program 'sh'", "status 3", "100 of 384 bytes", "opening", "rtsp://***@cam: lost"] {
            assert!(text.contains(words), "{words} in {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
        let again = next(&mut *source).unwrap_err();
        assert_eq!(again.class(), Class::Retry, "and it stays gone: {again}");
    }
}

#[test]
fn a_clean_end_is_the_end_of_a_recording_and_the_loss_of_a_camera() {
    let script = Script::new(&format!("{HEAD}{FRAME}{FRAME}{FRAME}"));
    let mut source = open(&script.command(), &CaptureParams { timing: Timing::Recording, ..live() }).unwrap();
    let (frames, end) = play(&mut *source);
    assert_eq!((frames, end.unwrap()), (3, Advance::End));
    let mut source = open(&script.command(), &live()).unwrap();
    let (frames, end) = play(&mut *source);
    let error = end.unwrap_err();
    assert_eq!((frames, error.class()), (3, Class::Retry), "{error}");
    assert!(error.to_string().contains("status 0"), "{error}");
}

#[test]
fn a_program_that_hangs_is_given_up_and_its_whole_group_ends() {
    let script = Script::new(&format!(
        "echo $$ > $1/group\n{HEAD}{FRAME}sleep 1000 & echo $! > $1/child\nprintf 'FRAME\\n'; head -c 50 /dev/zero; wait\n"
    ));
    let params = CaptureParams { idle_timeout: Duration::from_secs(2), ..live() };
    let mut source = open(&script.command(), &params).unwrap();
    let (frames, end) = play(&mut *source);
    let error = end.unwrap_err();
    assert_eq!((frames, error.class()), (1, Class::Retry), "{error}");
    let text = error.to_string();
    assert!(text.contains("did not arrive within 2s") && text.contains("50 of 384 bytes"), "{text}");
    let (group, child) = (script.number("group"), script.number("child"));
    let mut there = living(group);
    there.sort_unstable();
    assert!(there.contains(&group) && there.contains(&child), "{there:?} of {group}, {child}");
    drop(source);
    wait_until(|| living(group).is_empty(), "the end of the group");
}

#[test]
fn silence_from_the_start_is_given_up_with_the_last_messages() {
    let script = Script::new("echo 'waiting for the camera' >&2; sleep 1000\n");
    let params = CaptureParams { idle_timeout: Duration::from_millis(500), ..live() };
    let error = refused(&script.command(), &params);
    assert_eq!(error.class(), Class::Retry);
    assert!(error.to_string().contains("no bytes for 500ms (waiting for the camera)"), "{error}");
}

#[test]
fn a_program_that_ignores_the_signal_is_killed() {
    let script =
        Script::new(&format!("trap '' TERM\necho $$ > $1/group\n{HEAD}while :; do {FRAME}sleep 0.1; done\n"));
    let mut source = open(&script.command(), &live()).unwrap();
    assert!(matches!(next(&mut *source), Ok(Advance::Frame(_))));
    let group = script.number("group");
    assert!(living(group).contains(&group));
    drop(source);
    wait_until(|| living(group).is_empty(), "the end of the group");
}

/// Four megabytes of messages: more than any pipe holds, so a program whose messages nobody reads would block.
#[test]
fn a_flood_of_messages_blocks_nothing() {
    let flood = "head -c 4000000 /dev/zero | tr '\\0' x >&2\n";
    let script =
        Script::new(&format!("{flood}{HEAD}{FRAME}{flood}{FRAME}{flood}echo >&2; echo done >&2; exit 7\n"));
    let mut source = open(&script.command(), &live()).unwrap();
    let (frames, end) = play(&mut *source);
    let error = end.unwrap_err();
    assert_eq!(frames, 2, "{error}");
    let text = error.to_string();
    assert!(text.contains("status 7") && text.ends_with("done)") && text.len() < 600, "{text}");
}

#[test]
fn commands_that_cannot_run_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "text").unwrap();
    let plain = format!("exec:{}", plain.display());
    for (spec, kind, words) in [
        ("exec:no-such-program-here -i x", Kind::Source, "program 'no-such-program-here' is not installed"),
        ("exec:sh -c 'exit", Kind::Config, "a ' is never closed"),
        ("exec:cat a | cat", Kind::Config, "sh -c"),
        (plain.as_str(), Kind::Source, "chmod +x"),
    ] {
        let error = refused(spec, &live());
        assert_eq!((error.class(), error.kind()), (Class::Fatal, kind), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let secret = refused("exec:ffmpeg -i 'rtsp://joe:hunter2@cam/1 -", &live()).to_string();
    assert!(secret.contains("rtsp://***@cam") && !secret.contains("hunter2"), "{secret}");
}

#[test]
fn output_that_is_not_video_is_refused_with_its_messages() {
    let script = Script::new("echo 'Usage: video [options]'; echo 'no camera' >&2\n");
    let error = refused(&script.command(), &live());
    assert_eq!(error.class(), Class::Fatal, "{error}");
    assert!(error.to_string().contains("no camera"), "{error}");
    let script = Script::new("echo 'cannot open display' >&2; exit 1\n");
    let error = refused(&script.command(), &live());
    assert_eq!(error.class(), Class::Retry, "{error}");
    assert!(error.to_string().contains("status 1") && error.to_string().contains("display"), "{error}");
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn y4m(frames: usize) -> Vec<u8> {
    let mut bytes = b"YUV4MPEG2 W16 H16 F25:1\n".to_vec();
    for frame in 0..frames {
        bytes.extend(b"FRAME\n");
        bytes.extend(vec![frame as u8; FRAME_BYTES]);
    }
    bytes
}

#[test]
fn files_play_once_or_for_ever_and_report_a_partial_frame_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = y4m(3);
    bytes.truncate(bytes.len() - 10);
    let path = write(folder.path(), "cut.y4m", &bytes);
    let spec = format!("file:{}", path.display());
    let mut source = open(&spec, &CaptureParams::default()).unwrap();
    let (frames, end) = play(&mut *source);
    let error = end.unwrap_err();
    assert_eq!((frames, error.class()), (2, Class::Degrade));
    assert!(
        error.to_string().contains("inside frame 2") && error.to_string().contains("374 of 384"),
        "{error}"
    );
    assert_eq!(next(&mut *source).unwrap(), Advance::End);

    let mut source = open(&spec, &CaptureParams { at_end: AtEnd::Loop, ..CaptureParams::default() }).unwrap();
    let (mut frames, mut faults) = (0, 0);
    let mut buffer = vec![0; FRAME_BYTES];
    while frames < 9 {
        match next(&mut *source) {
            Ok(Advance::Frame(meta)) => {
                assert_eq!(meta.seq, frames);
                assert_eq!(source.read_into(&mut buffer).unwrap().bytes_used, FRAME_BYTES);
                assert!(buffer.iter().all(|&byte| u64::from(byte) == frames % 2), "frame {frames}");
                frames += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => faults += 1,
        }
    }
    assert_eq!(faults, 1);
}

#[test]
fn raw_files_are_read_by_the_size_that_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "clip.yuyv", &[7; 16 * 16 * 2 * 5]);
    let spec = format!("file:{}", path.display());
    let error = refused(&spec, &CaptureParams::default());
    assert!(error.to_string().contains("set width and height"), "{error}");
    let size = CaptureParams { width: Some(16), height: Some(16), ..CaptureParams::default() };
    let error = refused(&spec, &size);
    assert!(error.to_string().contains("set fps"), "{error}");
    let rate = Some(flytrap::capture::FrameRate::whole(10));
    let mut source = open(&spec, &CaptureParams { fps: rate, ..size }).unwrap();
    assert_eq!(source.format().pixel, PixelFormat::Yuyv);
    let (frames, end) = play(&mut *source);
    assert_eq!((frames, end.unwrap()), (5, Advance::End));
}

#[test]
fn invalid_files_are_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name, bytes: &[u8]| format!("file:{}", write(folder.path(), name, bytes).display());
    for (spec, words) in [
        (format!("file:{}/absent.y4m", folder.path().display()), "check the path"),
        (format!("file:{}", folder.path().display()), "use dir:"),
        ("file:/dev/null".to_owned(), "use v4l2:"),
        (write("one.jpg", b"\xFF\xD8"), "use dir:"),
        (write("empty.y4m", b""), "is empty"),
        (
            write("long.y4m", &[b"YUV4MPEG2 W16 H16 X", &[b'a'; 5000][..], b"\n"].concat()),
            "more than 4096 bytes",
        ),
        (write("text.y4m", b"hello, this is no video at all\n"), "YUV4MPEG2"),
        (write("head.y4m", b"YUV4MPEG2 W16 H16 F25:1"), "before its first frame"),
        (write("large.y4m", b"YUV4MPEG2 W99999 H16 F25:1\nFRAME\n"), "8192"),
        (write("what.bin", b"x"), "none of y4m"),
    ] {
        let error = refused(&spec, &CaptureParams::default());
        assert_eq!(error.class(), Class::Fatal, "{spec}: {error}");
        assert!(error.to_string().contains(words), "{spec}: {error}");
    }
}

#[test]
fn ffmpeg_delivers_every_frame_of_the_clip() {
    let test = "ffmpeg_delivers_every_frame_of_the_clip";
    let (Some(shared), true) = (shared(test), ffmpeg(test)) else { return };
    let video = shared.join("video/traffic.mp4");
    let spec = format!("exec:ffmpeg -v error -i '{}' -f yuv4mpegpipe -pix_fmt yuv420p -", video.display());
    let mut source = open(&spec, &CaptureParams::default()).unwrap();
    assert_eq!((source.format().width, source.format().height), (1280, 720));
    let (frames, end) = play(&mut *source);
    assert_eq!((frames, end.unwrap()), (161, Advance::End));
}

/// A baseline JPEG of grey noise: most of its bytes are picture data.
fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let pixels: Vec<u8> = (0..height)
        .flat_map(|y| (0..width).map(move |x| (u32::from(x) * 7919 + u32::from(y) * 104_729) as u8 % 251))
        .collect();
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 80)
        .encode(&pixels, width, height, jpeg_encoder::ColorType::Luma)
        .unwrap();
    bytes
}

/// The same, cut off in the middle of its picture data, with EOI: good headers, damaged picture.
fn torn_jpeg(width: u16, height: u16) -> Vec<u8> {
    let whole = jpeg(width, height);
    [&whole[..whole.len() / 2], &[0xFF, 0xD9]].concat()
}

/// `flytrap run` on a live source until its stderr satisfies `enough`; then it is ended. Returns its output.
fn run_live(source: &str, settings: &str, enough: impl Fn(&str) -> bool) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let out = folder.path().join("events");
    let config = config(&format!("[events]\nstats_interval_s = 1\n{settings}"));
    let mut child = flytrap()
        .args(["run", "--uplink", "stdout", "--model", &data("squares.onnx"), "--source", source, "--config"])
        .arg(config.path())
        .stderr(std::fs::File::create(&log).unwrap())
        .stdout(std::fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    wait_until(|| enough(&said()) || child.try_wait().unwrap().is_some(), "what the program says");
    let id = rustix::process::Pid::from_child(&child);
    let _sent_or_gone = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    let status = child.wait().unwrap();
    std::process::Output {
        status,
        stdout: std::fs::read(&out).unwrap(),
        stderr: std::fs::read(&log).unwrap(),
    }
}

/// A placeholder, then another size for ever: the program accepts the larger size while it runs, and the camera is not lost.
#[test]
fn a_stream_may_change_to_a_larger_size() {
    let script = Script::new(
        "for i in 1 2 3 4 5; do cat $1/small; sleep 0.1; done; while :; do cat $1/large; sleep 0.1; done\n",
    );
    std::fs::write(script.folder.path().join("small"), jpeg(64, 48)).unwrap();
    std::fs::write(script.folder.path().join("large"), jpeg(192, 128)).unwrap();
    let frames = |text: &str| text.matches("ready for").count();
    let output = run_live(&script.command(), "", |text| frames(text) == 2);
    assert!(output.status.success(), "{}", describe(&output));
    let events = json_lines(&output);
    assert_eq!(of_type(&events, "camera.back").len(), 1, "{}", describe(&output));
    assert_eq!(of_type(&events, "camera.lost").len(), 0, "{}", describe(&output));
    let corrupt = of_type(&events, "stats").last().unwrap()["frames_corrupt"].as_u64().unwrap();
    assert_eq!(corrupt, 2, "the third frame of a size makes it the stream's: {}", describe(&output));
}

/// A stream without a usable frame is a lost camera, however many bytes come.
#[test]
fn a_stream_without_a_usable_frame_is_lost_and_opened_again() {
    let script = Script::new("echo >> $1/starts; while :; do cat $1/torn; sleep 0.1; done\n");
    std::fs::write(script.folder.path().join("torn"), torn_jpeg(64, 64)).unwrap();
    let starts = || {
        std::fs::read_to_string(script.folder.path().join("starts")).map_or(0, |text| text.lines().count())
    };
    let settings = "[camera]\nidle_timeout_s = 1\n";
    let output = run_live(&script.command(), settings, |_| starts() == 3);
    assert!(output.status.success(), "{}", describe(&output));
    let events = json_lines(&output);
    let lost = of_type(&events, "camera.lost");
    assert_eq!(lost.len(), 1, "once, as it never came back: {}", describe(&output));
    let reason = lost[0]["reason"].as_str().unwrap();
    assert!(reason.contains("no usable frame for 1s"), "{reason}");
}

/// Bytes are no sign of life: a camera whose stream stops being pictures is lost, whether the rest trickles in or is a flood.
#[test]
fn a_stream_that_stops_being_pictures_is_lost_and_opened_again() {
    let rest = ["while :; do head -c 1000 /dev/zero; sleep 0.05; done", "exec cat /dev/zero"];
    std::thread::scope(|scope| {
        for rest in rest {
            scope.spawn(move || {
                let script = Script::new(&format!(
                    "echo >> $1/starts; for i in 1 2 3 4 5 6 7 8 9 10; do cat $1/good; sleep 0.05; done\n{rest}\n"
                ));
                std::fs::write(script.folder.path().join("good"), jpeg(64, 64)).unwrap();
                let starts = script.folder.path().join("starts");
                let starts = || std::fs::read_to_string(&starts).map_or(0, |text| text.lines().count());
                let settings = "[camera]\nidle_timeout_s = 1\n";
                let output = run_live(&script.command(), settings, |_| starts() == 3);
                assert!(output.status.success(), "{rest}: {}", describe(&output));
                let events = json_lines(&output);
                let lost = of_type(&events, "camera.lost");
                assert_eq!(lost.len(), 2, "{rest}: {}", describe(&output));
                let reason = lost[0]["reason"].as_str().unwrap();
                assert!(reason.contains("no frame within 1s, although "), "{rest}: {reason}");
            });
        }
    });
}

/// The tracks of a camera that delivers damaged frames only, without a pause, end as if nothing came.
#[test]
fn tracks_end_while_every_frame_is_damaged() {
    let clip = std::fs::read(data("squares.mjpeg")).unwrap();
    let starts: Vec<usize> =
        (0..clip.len() - 2).filter(|&at| clip[at..].starts_with(&[0xFF, 0xD8, 0xFF])).collect();
    // In the middle of the clip two cars and a person are in the picture.
    let frame = |number: usize| &clip[starts[number]..starts[number + 1]];
    let torn = [&frame(60)[..frame(60).len() / 2], &[0xFF, 0xD9]].concat();
    let script = Script::new(
        "for i in $(seq 30 59); do cat $1/$i; sleep 0.1; done\nwhile :; do cat $1/torn; sleep 0.1; done\n",
    );
    for number in 30..60 {
        write(script.folder.path(), &number.to_string(), frame(number));
    }
    write(script.folder.path(), "torn", &torn);
    let settings =
        "[camera]\nidle_timeout_s = 60\n[track]\nlost_after_s = 1.0\n[uplink]\nbatch_age_max_s = 0.1\n";
    // Ends 64 damaged frames, 6 s, after the last good one.
    let output = run_live(&script.command(), settings, |text| text.contains("count=64"));
    assert!(output.status.success(), "{}", describe(&output));
    let events = json_lines(&output);
    let (begun, ended) = (of_type(&events, "track.begin").len(), of_type(&events, "track.end").len());
    assert!(begun >= 2 && ended == begun, "{begun} {ended}: {}", describe(&output));
    let place = |kind: &str| events.iter().rposition(|event| event["type"] == kind).unwrap();
    let statistics =
        events.iter().skip(place("flytrap.track.end")).filter(|event| event["type"] == "flytrap.stats");
    assert!(statistics.count() >= 3, "the tracks ended with the program only: {}", describe(&output));
    assert!(of_type(&events, "camera.lost").is_empty(), "{}", describe(&output));
}

/// Recordings: other bytes that may occur between and around their JPEGs.
#[test]
fn jpegs_without_their_end_and_among_other_bytes_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let one = jpeg(96, 64);
    let bare = &one[..one.len() - 2];
    let boundary = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n";
    let multipart = [boundary, &one[..], b"\r\n"].concat().repeat(3);
    for (name, bytes, expected) in [
        ("no EOI", bare.repeat(4), 4),
        ("multipart", multipart, 3),
        ("text before", [b"Setting pipeline to PAUSED ...\n".repeat(20), one.repeat(2)].concat(), 2),
        ("in the middle of a frame", [&one[one.len() / 2..], &one, &one].concat(), 2),
    ] {
        std::fs::write(folder.path().join("stream"), &bytes).unwrap();
        let source = format!("exec:cat '{}'", folder.path().join("stream").display());
        let mut command = flytrap();
        command.args([
            "run",
            "--until-end",
            "--uplink",
            "stdout",
            "--model",
            &data("squares.onnx"),
            "--source",
            &source,
        ]);
        let output = output(&mut command);
        assert!(output.status.success(), "{name}: {}", describe(&output));
        let events = json_lines(&output);
        let stats = of_type(&events, "stats");
        let count = |key: &str| stats.last().unwrap()[key].as_u64().unwrap();
        assert_eq!(
            (count("frames_captured"), count("frames_corrupt")),
            (expected, 0),
            "{name}: {}",
            describe(&output)
        );
    }
}

#[test]
fn a_recording_without_a_usable_frame_is_an_error_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "torn.mjpeg", &torn_jpeg(64, 64).repeat(3));
    for options in [&["--until-end"][..], &[]] {
        let mut command = flytrap();
        command.arg("run").args(options).args(["--uplink", "stdout", "--model", &data("squares.onnx")]);
        let output = output(command.args(["--source", &format!("file:{}", path.display())]));
        let text = describe(&output);
        assert_eq!(output.status.code(), Some(4), "{options:?}: {text}");
        assert!(
            text.contains("no usable frame (3 came")
                && text.contains("the JPEG ends before its picture does"),
            "{options:?}: {text}"
        );
    }
    assert!(output_of_squares().status.success());
}

/// Something moves for a minute and nothing is detected: the model may not know this view.
#[test]
fn a_view_in_which_nothing_is_detected_is_reported() {
    let (width, height) = (160usize, 120usize);
    let frame = |number: usize| {
        let left = number * 8 % (width - 40);
        let light =
            move |at: usize| (left..left + 40).contains(&(at % width)) && (40..80).contains(&(at / width));
        (0..width * height).map(move |at| if light(at) { 180u8 } else { 100 })
    };
    let video = |frames: usize| {
        let mut bytes = format!("YUV4MPEG2 W{width} H{height} F5:1\n").into_bytes();
        for number in 0..frames {
            bytes.extend(b"FRAME\n");
            bytes.extend(frame(number));
            bytes.extend(vec![128; width * height / 2]);
        }
        bytes
    };
    let folder = tempfile::tempdir().unwrap();
    // At 5 frames a second: 50 s and 70 s.
    for (frames, expected) in [(250, 0), (350, 1)] {
        let path = write(folder.path(), "grey.y4m", &video(frames));
        let mut command = flytrap();
        command.args(["run", "--until-end", "--uplink", "file:/dev/null", "--model", &data("squares.onnx")]);
        let output = output(command.args(["--source", &format!("file:{}", path.display())]));
        assert!(output.status.success(), "{}", describe(&output));
        let warnings = describe(&output).matches("something has moved for a minute, but nothing").count();
        assert_eq!(warnings, expected, "{frames} frames: {}", describe(&output));
    }
}

/// Pictures of 16 megapixels: accepted where the memory allows it, else refused with the figure to set.
#[test]
fn large_pictures_are_accepted_or_refused_with_the_figure_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let large = write(folder.path(), "large.mjpeg", &jpeg(4656, 3496).repeat(2));
    let raw = write(folder.path(), "raw.yuv", &vec![128; 4608 * 2592 * 3 / 2]);
    let run = |path: &Path, settings: &str| {
        let config = config(&format!("[camera]\nfps = \"5\"\n{settings}"));
        let mut command = flytrap();
        command.args(["run", "--until-end", "--uplink", "stdout", "--model", &data("squares.onnx")]);
        command.args(["--source", &format!("file:{}", path.display()), "--config"]).arg(config.path());
        output(&mut command)
    };
    let output = run(&large, "[memory]\nbudget_mb = 512\nring_mb = 200\n");
    assert!(output.status.success(), "{}", describe(&output));
    let events = json_lines(&output);
    let stats = of_type(&events, "stats");
    assert_eq!(stats.last().unwrap()["frames_captured"], 2, "{}", describe(&output));
    assert_eq!(stats.last().unwrap()["frames_corrupt"], 0, "{}", describe(&output));
    for (path, settings, remedy) in [
        (&large, "[memory]\nbudget_mb = 60\nring_mb = 20\n", "memory.budget_mb allows 60.0 MiB: set it to "),
        (
            &raw,
            "pixel_format = \"i420\"\nwidth = 4608\nheight = 2592\n",
            "memory.ring_mb = 32: set it to 52 or more",
        ),
    ] {
        let output = run(path, settings);
        assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
        assert!(describe(&output).contains(remedy), "{remedy}: {}", describe(&output));
    }
}

/// The check above must not turn a good recording into an error.
fn output_of_squares() -> std::process::Output {
    output(run_squares().args(["--uplink", "stdout"]))
}

/// Rows that a program pads: read correctly, and noticed where the settings do not mention the padding.
#[test]
fn padded_rows_are_read_and_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (width, height, row) = (76usize, 64usize, 128usize);
    // A picture with visible content: a gradient with an edge.
    let value = |x: usize, y: usize| if x > 40 { 200 - y as u8 } else { (x + y) as u8 };
    let mut padded = Vec::new();
    for y in 0..height {
        padded.extend((0..row).map(|x| if x < width { value(x, y) } else { 0 }));
    }
    for _ in 0..height {
        padded.extend([128u8; 64]);
    }
    let path = write(folder.path(), "clip.yuv", &padded.repeat(3));
    let run = |settings: &str| {
        let config =
            config(&format!("[camera]\nwidth = {width}\nheight = {height}\nfps = \"5\"\n{settings}"));
        let mut command = flytrap();
        command.args([
            "run",
            "--until-end",
            "--uplink",
            "stdout",
            "--model",
            &data("squares.onnx"),
            "--config",
        ]);
        let output =
            output(command.arg(config.path()).args(["--source", &format!("file:{}", path.display())]));
        assert!(output.status.success(), "{}", describe(&output));
        let events = json_lines(&output);
        (of_type(&events, "stats").last().unwrap()["frames_captured"].as_u64().unwrap(), describe(&output))
    };
    let (frames, text) = run("row_bytes = 128\n");
    assert!(frames == 3 && !text.contains("slanted") && !text.contains("bytes are"), "{frames}: {text}");
    let (frames, text) = run("");
    assert!(
        frames == 5 && text.contains("set camera.row_bytes = 128") && text.contains("frames of 7296 and"),
        "{frames}: {text}"
    );
}

#[test]
fn a_program_that_never_completes_a_frame_is_reported() {
    let script = Script::new("while :; do head -c 1000 /dev/zero; sleep 0.05; done\n");
    let params =
        CaptureParams { idle_timeout: Duration::from_secs(1), pixel: Some(PixelFormat::Mjpeg), ..live() };
    let error = refused(&script.command(), &params);
    assert_eq!(error.class(), Class::Retry, "{error}");
    let text = error.to_string();
    let bytes = text.split("no frame within 1s, although ").nth(1).and_then(|rest| rest.split(' ').next());
    let bytes: u64 = bytes.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(bytes >= 1000, "{text}");
}

/// What a message says about the output is true: how much came, and why it cannot be read.
#[test]
fn messages_about_an_output_give_its_size_and_its_kind() {
    let mjpeg = CaptureParams { pixel: Some(PixelFormat::Mjpeg), ..live() };
    let script = Script::new("head -c 3000 /dev/zero; exit 1\n");
    let error = refused(&script.command(), &mjpeg);
    assert!(error.to_string().contains("before its first frame, after 3000 bytes"), "{error}");
    let mut picture = jpeg(64, 64);
    let frame = picture.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    picture[frame + 1] = 0xC9;
    let script = Script::new("cat $1/picture\n");
    write(script.folder.path(), "picture", &picture);
    let error = refused(&script.command(), &mjpeg);
    assert!(error.to_string().contains("its JPEGs are not baseline (arithmetic coding)"), "{error}");
}

/// A frame rate of 25:0 is no rate: the settings' own serves.
#[test]
fn an_impossible_rate_in_a_header_leaves_it_to_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let text = [&b"YUV4MPEG2 W16 H16 F25:0\n"[..], &y4m(8)["YUV4MPEG2 W16 H16 F25:1\n".len()..]].concat();
    let spec = format!("file:{}", write(folder.path(), "clip.y4m", &text).display());
    let rate = Some(flytrap::capture::FrameRate::whole(25));
    let (frames, end) =
        play(&mut *open(&spec, &CaptureParams { fps: rate, ..CaptureParams::default() }).unwrap());
    assert_eq!((frames, end.unwrap()), (8, Advance::End));
    let error = refused(&spec, &CaptureParams::default());
    assert!(error.to_string().contains("fps"), "{error}");
}
