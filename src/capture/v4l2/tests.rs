//! A camera's stream against a scripted kernel and a clock that stands still: numbers, stamps, damage, silence, loss.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::base::error::Class;
use crate::platform::clock::fake::FakeClock;

const BUFFERS: usize = 4;
/// 16x16 YUYV.
const FRAME_BYTES: u32 = 16 * 16 * 2;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A frame is done: sequence number, valid bytes, whether it is damaged, taken at this millisecond.
    Frame(u32, u32, bool, u64),
    /// Nothing for this many milliseconds.
    Quiet(u64),
    /// The device is gone.
    Gone,
}

struct Script {
    clock: Arc<FakeClock>,
    steps: Mutex<VecDeque<Step>>,
    queued: Mutex<VecDeque<u32>>,
    memory: Vec<Vec<u8>>,
    starts: Mutex<u32>,
}

impl Script {
    fn wait_ms(&self, patience: Duration, quiet: u64) -> u64 {
        let waited = (patience.as_millis() as u64).min(quiet);
        self.clock.set(self.clock.mono() + Duration::from_millis(waited));
        quiet - waited
    }
}

impl Kernel for Script {
    fn buffers(&self) -> u32 {
        BUFFERS as u32
    }
    fn bytes(&self, index: u32) -> &[u8] {
        &self.memory[index as usize]
    }
    fn queue(&self, index: u32) -> io::Result<()> {
        self.queued.lock().unwrap().push_back(index);
        Ok(())
    }
    fn dequeue(&self) -> io::Result<Option<Dequeued>> {
        let mut steps = self.steps.lock().unwrap();
        let Some(&Step::Frame(sequence, bytes_used, damaged, ms)) = steps.front() else { return Ok(None) };
        let Some(index) = self.queued.lock().unwrap().pop_front() else { return Ok(None) };
        steps.pop_front();
        Ok(Some(Dequeued { index, bytes_used, sequence, monotonic_nanos: Some(ms * 1_000_000), damaged }))
    }
    fn start(&self) -> io::Result<()> {
        *self.starts.lock().unwrap() += 1;
        Ok(())
    }
    fn stop(&self) -> io::Result<()> {
        self.queued.lock().unwrap().clear();
        Ok(())
    }
    fn wait(&self, patience: Duration) -> io::Result<Ready> {
        let mut steps = self.steps.lock().unwrap();
        match steps.pop_front() {
            Some(frame @ Step::Frame(..)) => {
                steps.push_front(frame);
                Ok(Ready::Frame)
            }
            Some(Step::Gone) => Ok(Ready::Gone),
            Some(Step::Quiet(ms)) => {
                let left = self.wait_ms(patience, ms);
                if left > 0 {
                    steps.push_front(Step::Quiet(left));
                }
                Ok(Ready::Nothing)
            }
            None => {
                self.wait_ms(patience, u64::MAX);
                Ok(Ready::Nothing)
            }
        }
    }
}

fn stream(steps: &[Step]) -> Stream<Script> {
    stream_of(steps, (0..BUFFERS).map(|n| vec![n as u8; FRAME_BYTES as usize + 16]).collect())
}

fn stream_of(steps: &[Step], memory: Vec<Vec<u8>>) -> Stream<Script> {
    let clock = Arc::new(FakeClock::default());
    clock.set(Mono::from_nanos(1_000_000_000));
    let kernel = Script {
        clock: Arc::clone(&clock),
        steps: Mutex::new(steps.iter().copied().collect()),
        queued: Mutex::default(),
        memory,
        starts: Mutex::new(0),
    };
    let queue = Queue::new(kernel);
    queue.start().unwrap();
    let format = FrameFormat::packed(PixelFormat::Yuyv, 16, 16, Color::default()).unwrap();
    let params = CaptureParams { idle_timeout: Duration::from_secs(10), ..CaptureParams::default() };
    Stream::new("camera 'test'".to_owned(), queue, FRAME_BYTES as usize + 16, format, &params, clock)
}

const PATIENCE: Duration = Duration::from_millis(500);

fn good(sequence: u32, ms: u64) -> Step {
    Step::Frame(sequence, FRAME_BYTES, false, ms)
}

fn number(advance: &Result<Advance>) -> u64 {
    let Ok(Advance::Frame(meta)) = advance else { panic!("{advance:?}") };
    meta.seq
}

#[test]
fn gaps_of_the_driver_are_kept_and_invalid_numbers_ignored() {
    // A gap, a wrap, a driver that restarts from 0, one whose number never changes.
    let sequences = [7, 8, 11, u32::MAX, 1, 0, 0, 1];
    let steps: Vec<Step> = sequences.iter().map(|&sequence| good(sequence, 100)).collect();
    let mut stream = stream(&steps);
    let numbers: Vec<u64> = (0..sequences.len()).map(|_| number(&stream.advance(PATIENCE))).collect();
    assert_eq!(numbers, [0, 1, 4, 5, 7, 8, 9, 10], "{sequences:?}");
}

#[test]
fn capture_times_are_the_drivers_and_grow_and_are_never_in_the_future() {
    let mut stream = stream(&[good(0, 900), good(1, 900), good(2, 850), good(3, 5000)]);
    let mut at = || {
        let Ok(Advance::Frame(meta)) = stream.advance(PATIENCE) else { panic!("a frame") };
        meta.captured_at.as_nanos()
    };
    assert_eq!((at(), at(), at(), at()), (900_000_000, 900_000_001, 900_000_002, 1_000_000_000));
}

#[test]
fn damaged_short_and_impossible_frames_are_skipped() {
    let mut stream = stream(&[
        good(0, 1),
        Step::Frame(1, FRAME_BYTES, true, 2),
        Step::Frame(2, FRAME_BYTES - 1, false, 3),
        Step::Frame(3, FRAME_BYTES + 17, false, 4),
        good(4, 5),
    ]);
    assert_eq!(number(&stream.advance(PATIENCE)), 0);
    for bad in 1..4 {
        let error = stream.advance(PATIENCE).unwrap_err();
        assert_eq!(error.class(), Class::Degrade);
        assert!(error.to_string().contains(&format!("frame {bad}:")), "{error}");
    }
    assert_eq!(number(&stream.advance(PATIENCE)), 4);
    assert_eq!(stream.queue.held(), 1, "the bad ones were returned");
}

/// A camera that sends only damaged frames is not alive: its stream is restarted, then the camera counts as lost.
#[test]
fn a_camera_that_only_sends_damaged_frames_is_restarted_once_and_then_given_up() {
    let damaged = [Step::Frame(0, FRAME_BYTES, true, 1), Step::Quiet(200)];
    let mut stream = stream(&[good(0, 1)].into_iter().chain(damaged.repeat(100)).collect::<Vec<_>>());
    assert_eq!(number(&stream.advance(PATIENCE)), 0);
    let mut bad = 0;
    let error = loop {
        match stream.advance(PATIENCE) {
            Err(error) if error.class() == Class::Degrade => bad += 1,
            Err(error) => break error,
            Ok(Advance::Idle) => {}
            Ok(other) => panic!("{other:?}"),
        }
    };
    assert_eq!((error.class(), *stream.queue.kernel().starts.lock().unwrap()), (Class::Retry, 2), "{error}");
    assert!(bad > 20 && error.to_string().contains("no usable frame for 10"), "{bad}: {error}");
    assert_eq!(stream.queue.held(), 0);
}

/// The size is that of the JPEGs: a lasting one is accepted, whatever the driver negotiated.
#[test]
fn a_lasting_jpeg_size_becomes_the_streams_size() {
    use crate::capture::mjpeg_stream::tests::skeleton;
    // The buffers rotate: one JPEG of the negotiated size, three of another.
    let jpegs = [(16, 16), (32, 32), (32, 32), (32, 32)].map(|(width, height)| skeleton(width, height, 0));
    let length = jpegs[0].len() as u32;
    let steps: Vec<Step> = (0..7).map(|at| Step::Frame(at, length, false, 1)).collect();
    let mut stream = stream_of(&steps, jpegs.to_vec());
    stream.format = FrameFormat::packed(PixelFormat::Mjpeg, 16, 16, Color::JPEG).unwrap();
    let mut width = || stream.advance(PATIENCE).ok().map(|_| stream.format().width);
    let widths: Vec<Option<u32>> = (0..7).map(|_| width()).collect();
    assert_eq!(widths, [Some(16), None, None, Some(32), None, Some(32), Some(32)]);
    assert_eq!(stream.lend().unwrap().1.format.height, 32);
}

#[test]
fn a_frame_is_lent_or_copied_once_and_returned() {
    let mut stream = stream(&[good(0, 1), good(1, 2), good(2, 3)]);
    assert_eq!(stream.lend().unwrap_err().class(), Class::Degrade, "no frame is announced");
    stream.advance(PATIENCE).unwrap();
    let (lease, filled) = stream.lend().unwrap();
    assert_eq!((filled.bytes_used, lease.bytes()[0]), (FRAME_BYTES as usize, 0));
    assert_eq!(stream.lend().unwrap_err().class(), Class::Degrade, "once");
    stream.advance(PATIENCE).unwrap();
    let mut buffer = vec![9; FRAME_BYTES as usize];
    assert_eq!(stream.read_into(&mut buffer[1..]).unwrap_err().class(), Class::Degrade, "no room");
    stream.advance(PATIENCE).unwrap();
    stream.read_into(&mut buffer).unwrap();
    assert_eq!((buffer[0], stream.queue.held()), (2, 1), "only the lease is out");
    let queue = Arc::clone(&stream.queue);
    drop(stream);
    assert_eq!(lease.bytes()[5], 0, "and outlives the stream");
    drop(lease);
    assert_eq!(queue.held(), 0);
}

#[test]
fn a_silent_camera_is_restarted_once_and_then_given_up() {
    let mut stream = stream(&[Step::Quiet(6000), good(0, 7000), Step::Quiet(u64::MAX)]);
    let starts = |stream: &Stream<Script>| *stream.queue.kernel().starts.lock().unwrap();
    let mut looks = 0;
    let first = loop {
        looks += 1;
        match stream.advance(PATIENCE).unwrap() {
            Advance::Idle => assert_eq!(starts(&stream), 1 + u32::from(looks >= 10), "after {looks} looks"),
            frame @ (Advance::Frame(_) | Advance::End) => break frame,
        }
    };
    assert!(matches!(first, Advance::Frame(_)) && looks == 12 && starts(&stream) == 2, "{first:?} {looks}");
    let error = loop {
        looks += 1;
        match stream.advance(PATIENCE) {
            Ok(Advance::Idle) => assert!(looks < 50),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!((error.class(), looks, starts(&stream)), (Class::Retry, 32, 3), "{error}");
    assert!(error.to_string().contains("no usable frame for 10.0s"), "{error}");
}

#[test]
fn an_unplugged_camera_is_lost_after_its_last_frame() {
    let mut stream = stream(&[good(0, 1), Step::Gone]);
    assert_eq!(number(&stream.advance(PATIENCE)), 0);
    let error = stream.advance(PATIENCE).unwrap_err();
    assert_eq!(error.class(), Class::Retry);
    assert!(error.to_string().contains("unplugged"), "{error}");
}

#[test]
fn formats_that_do_not_fit_their_buffers_are_refused() {
    let agreed = Agreed {
        pixel: PixelFormat::Yuyv,
        width: 32,
        height: 16,
        row_bytes: 80,
        buffer_bytes: 80 * 16,
        fps: None,
    };
    let params = CaptureParams::default();
    let format = frame_format(&agreed, &params).unwrap();
    assert_eq!((format.row_bytes, format.color), (80, Color::default()));
    let short = Agreed { buffer_bytes: 79 * 16, ..agreed };
    assert!(frame_format(&short, &params).unwrap_err().contains("cannot hold"));
    let mjpeg = Agreed { pixel: PixelFormat::Mjpeg, row_bytes: 0, buffer_bytes: 100, ..agreed };
    assert_eq!(frame_format(&mjpeg, &params).unwrap().color, Color::JPEG);
    let huge = Agreed { width: 9000, ..agreed };
    assert!(frame_format(&huge, &params).unwrap_err().contains("8192"));
}

#[test]
fn only_a_device_that_knows_no_video_is_refused_for_good() {
    for (errno, class, text) in [
        (Errno::NOTTY, Class::Fatal, "is not a video device"),
        (Errno::INVAL, Class::Fatal, "is not a video device"),
        (Errno::NODEV, Class::Retry, "check the path, the cable"),
        (Errno::IO, Class::Retry, "check the path, the cable"),
    ] {
        let error = not_a_camera("camera 'x'", errno.into());
        assert_eq!(error.class(), class, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    for (errno, text) in [(Errno::MFILE, "LimitNOFILE="), (Errno::NOENT, "check the path")] {
        let error = cannot_open("camera 'x'", errno.into());
        assert_eq!(error.class(), Class::Retry, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}
