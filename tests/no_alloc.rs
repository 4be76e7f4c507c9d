//! Fixed memory (I1): after warm-up our own stages make no heap call per frame, and tract's count does not grow.
//!
//! The complete frame path runs on one thread, so that the counter sees all of it and nothing else: source, sampler, ring, gate, (JPEG),
//! letterbox, decoder, tracker, counter, event, outbox, metrics, alerts.
#![allow(unsafe_code, reason = "a global allocator that counts calls and forwards them to the system's")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "it/common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use flytrap::capture::frame::{FrameMeta, FrameView, PixelFormat};
use flytrap::capture::ring::{Fill, Policy, Taken, ring};
use flytrap::capture::sampler::{Sample, Sampler};
use flytrap::capture::{Advance, AtEnd, CaptureParams, FrameRate, FrameSource, SourceSpec};
use flytrap::config::Config;
use flytrap::delivery::uplink::Outbox;
use flytrap::event::{Machine as MachineStats, fixed};
use flytrap::metrics::alert::{self, Alerts};
use flytrap::metrics::table::Time;
use flytrap::metrics::{CameraReader, Metrics};
use flytrap::pipeline::{Params, Pipeline, WithEngine};
use flytrap::platform::clock::{Mono, SystemClock};
use flytrap::platform::cores::Machine;
use flytrap::vision::detect::decode::HeadShape;
use flytrap::vision::detect::engine::{Engine, EngineParams, Output};
use flytrap::vision::detect::letterbox::Size;
use flytrap::vision::detect::model::{Classes, Loaded, Params as ModelParams};

struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count_one() {
    // While a thread is torn down its counter is gone, and nobody needs it.
    let _gone = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: the caller guarantees it.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count_one();
        // SAFETY: the caller guarantees it.
        unsafe { System.dealloc(place, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: the caller guarantees it.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count_one();
        // SAFETY: the caller guarantees it.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Heap calls of `work` on this thread: allocations, reallocations, releases.
fn heap_calls<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = CALLS.get();
    let result = work();
    (CALLS.get() - before, result)
}

#[test]
fn the_counter_sees_a_single_call() {
    let (calls, boxed) = heap_calls(|| std::hint::black_box(Box::new(7u64)));
    assert_eq!(calls, 1);
    assert_eq!(heap_calls(|| drop(boxed)).0, 1);
    let mut list: Vec<u8> = Vec::with_capacity(1);
    assert_eq!(heap_calls(|| list.extend([1, 2, 3])).0, 1, "a reallocation");
    assert_eq!(heap_calls(|| std::hint::black_box(3 + 4)).0, 0);
}

/// An engine without a network: two cars that drive back and forth, one to the right and one to the left.
struct Scripted {
    sizes: Vec<Size>,
    at: usize,
    input: Vec<f32>,
    output: Vec<f32>,
    runs: u32,
}

const ANCHORS: usize = 100;

impl Scripted {
    fn new(size: Size) -> Self {
        let input = vec![0.0; 3 * size.width * size.height];
        let sizes = flytrap::vision::roi::input_sizes(size, 32).to_vec();
        Scripted { sizes, at: 0, input, output: vec![0.0; 6 * ANCHORS], runs: 0 }
    }
}

impl Engine for Scripted {
    fn size(&self) -> Size {
        self.sizes[self.at]
    }
    fn input_sizes(&self) -> &[Size] {
        &self.sizes
    }
    fn select(&mut self, index: usize) {
        self.at = index;
    }
    fn head(&self) -> HeadShape {
        HeadShape { classes: 2, anchors: ANCHORS }
    }
    fn input(&mut self) -> &mut [f32] {
        let Size { width, height } = self.size();
        &mut self.input[..3 * width * height]
    }
    fn run(&mut self, _: f32) -> flytrap::base::error::Result<Output<'_>> {
        assert!(self.input.iter().any(|value| *value != self.input[0]), "the letterbox has drawn something");
        let width = self.size().width as f32;
        // Out of sight for a while after each passage, so that tracks begin and end.
        let part = (self.runs % 80) as f32 / 40.0;
        self.runs += 1;
        let visible = if part < 1.0 { 0.8 } else { 0.0 };
        for anchor in 0..ANCHORS {
            let x = if anchor < 50 { part } else { 1.0 - part };
            let y = if anchor < 50 { 0.4 } else { 0.7 };
            let score = visible - (anchor % 50) as f32 * 0.01;
            let column = [x * width, y * self.size().height as f32, width / 8.0, width / 12.0, 0.0, score];
            for (row, value) in column.into_iter().enumerate() {
                self.output[row * ANCHORS + anchor] = value;
            }
        }
        Ok(Output { numbers: &self.output, columns: ANCHORS })
    }
    fn describe(&self) -> String {
        "scripted".into()
    }
}

/// A raw recording of a block that moves over noise, `frames` of `bytes`.
fn recording(pixel: PixelFormat, width: u32, height: u32, frames: usize) -> tempfile::NamedTempFile {
    let format =
        flytrap::capture::frame::FrameFormat::packed(pixel, width, height, Default::default()).unwrap();
    let bytes = format.frame_bytes().unwrap();
    let mut file = tempfile::Builder::new().suffix(".raw").tempfile().unwrap();
    for frame in 0..frames {
        let block = frame * bytes / frames;
        let picture: Vec<u8> = (0..bytes)
            .map(|at| if at.abs_diff(block) < bytes / 16 { 220 } else { 90 + (at * 7 % 5) as u8 })
            .collect();
        file.write_all(&picture).unwrap();
    }
    file
}

/// The complete frame path, on one thread.
struct FramePath {
    source: Box<dyn FrameSource>,
    sampler: Sampler,
    ring: (flytrap::capture::ring::Writer, flytrap::capture::ring::Reader),
    stages: WithEngine,
    outbox: Outbox,
    inferred: u64,
    in_roi: u64,
    still: u64,
    /// Number of frames not wanted, lent, copied into a slot.
    skipped: u64,
    lent: u64,
    copied: u64,
    figures: Figures,
}

/// What is counted of each frame, and what readers make of it: as often as there are frames, which is more than the program does.
struct Figures {
    metrics: Metrics,
    reader: CameraReader,
    alerts: Alerts,
}

impl Figures {
    fn new(rules: Vec<flytrap::metrics::alert::Rule>) -> Self {
        Figures {
            metrics: Metrics::default(),
            reader: CameraReader::default(),
            alerts: Alerts::new(rules, 1),
        }
    }

    fn note(&mut self, at: Mono, inferred: bool) {
        let Figures { metrics, reader, alerts } = self;
        metrics.saw_frame(at, at);
        metrics.frames_captured.add(1);
        if inferred { &metrics.inferences } else { &metrics.frames_still }.add(1);
        Time::ALL.iter().for_each(|time| metrics.times.add(*time, Duration::from_millis(7)));
        let cameras = [reader.stats(metrics.camera_snapshot(at), Mono::ZERO, 6000)];
        let (stats, machine) = (metrics.snapshot(Mono::ZERO, at).stats, MachineStats::default());
        let figures = alert::Figures { stats: &stats, storage: None, cameras: &cameras, machine: &machine };
        alerts.evaluate(at, &figures, &mut |_| {});
    }
}

impl FramePath {
    fn new(
        source: &str,
        pixel: Option<PixelFormat>,
        side: (u32, u32),
        engine: Box<dyn Engine>,
        classes: &Classes,
    ) -> Self {
        FramePath::focusing(source, pixel, side, engine, classes, None)
    }

    fn focusing(
        source: &str,
        pixel: Option<PixelFormat>,
        side: (u32, u32),
        engine: Box<dyn Engine>,
        classes: &Classes,
        roi: Option<flytrap::vision::roi::Params>,
    ) -> Self {
        let capture = CaptureParams {
            width: Some(side.0),
            height: Some(side.1),
            pixel,
            fps: Some(FrameRate::whole(10)),
            at_end: AtEnd::Loop,
            ..CaptureParams::default()
        };
        let source = SourceSpec::parse(source).unwrap().open(&capture, Arc::new(SystemClock)).unwrap();
        let config = Config::load(None, Vec::new(), &Machine::default()).unwrap();
        let params =
            Params { decode: config.first_camera().decode, roi, ..config.first_camera().stages(Vec::new()) };
        let pipeline = Pipeline::new(params, source.format(), &engine.shape(), classes).unwrap();
        let slot_bytes = if source.lending().is_some() { 0 } else { source.slot_bytes() };
        let ring = ring(Policy::Lossless, 3, slot_bytes);
        // Small, so that it is full and drops before the counting begins.
        let outbox = Outbox::new(8).unwrap();
        let sampler = Sampler::new(6.0);
        FramePath {
            source,
            sampler,
            ring,
            stages: WithEngine { pipeline, engine },
            outbox,
            inferred: 0,
            in_roi: 0,
            still: 0,
            skipped: 0,
            lent: 0,
            copied: 0,
            figures: Figures::new(config.alerts),
        }
    }

    /// One frame from the source to the outbox.
    fn step(&mut self) {
        let Advance::Frame(meta) = self.source.advance(Duration::from_secs(5)).unwrap() else {
            panic!("no frame")
        };
        if self.sampler.decide(meta.captured_at) == Sample::Skip {
            self.skipped += 1;
            return;
        }
        let FramePath { source, lent, copied, .. } = self;
        let filled = self.ring.0.fill(|slot| {
            let filled = if source.lending().is_some() {
                let (lease, filled) = source.lend()?;
                slot.lent = Some(lease);
                *lent += 1;
                filled
            } else {
                *copied += 1;
                source.read_into(&mut slot.bytes)?
            };
            slot.format = filled.format;
            slot.meta = FrameMeta { bytes_used: filled.bytes_used, ..meta };
            Ok::<(), flytrap::base::error::Error>(())
        });
        assert!(matches!(filled, Fill::Committed(())));
        let Taken::Frame(slot) = self.ring.1.take(Duration::from_secs(5)) else {
            panic!("no frame in the ring")
        };
        let view = FrameView::new(slot.format, slot.valid()).unwrap();
        let at = slot.meta.captured_at;
        let (outbox, camera) = (&self.outbox, fixed("camera"));
        let outcome = self.stages.process(&view, at, &mut |body| {
            outbox.post(at, &camera, body);
        });
        let outcome = outcome.unwrap();
        self.inferred += u64::from(outcome.inferred);
        self.in_roi += u64::from(outcome.roi.is_some());
        self.still += u64::from(!outcome.inferred);
        self.figures.note(at, outcome.inferred);
    }
}

fn classes() -> Classes {
    Classes::from_metadata("{0: 'person', 1: 'car'}").unwrap()
}

/// Runs `frames` after as many to warm up; returns the heap calls of all of them.
fn calls_after_warm_up(frame_path: &mut FramePath, frames: usize) -> Vec<u64> {
    (0..frames).for_each(|_| frame_path.step());
    let (posted, inferred) = (frame_path.outbox.counters().posted(), frame_path.inferred);
    let calls = (0..frames).map(|_| heap_calls(|| frame_path.step()).0).collect();
    // Doing nothing would make no heap call either.
    assert!(frame_path.inferred > inferred, "no frame was inferred");
    assert!(frame_path.outbox.counters().posted() >= posted + 6, "tracks began, crossed and ended");
    calls
}

#[test]
fn raw_frames_make_no_heap_call_in_our_stages() {
    for pixel in PixelFormat::ALL.into_iter().filter(|pixel| *pixel != PixelFormat::Mjpeg) {
        let file = recording(pixel, 320, 240, 40);
        let source = format!("file:{}", file.path().display());
        let engine = Box::new(Scripted::new(Size { width: 320, height: 320 }));
        let mut frame_path = FramePath::new(&source, Some(pixel), (320, 240), engine, &classes());
        let calls = calls_after_warm_up(&mut frame_path, 400);
        assert_eq!(calls.iter().sum::<u64>(), 0, "{pixel}: {calls:?}");
    }
}

/// Regions of pictures, of changing sizes and at changing positions.
#[test]
fn regions_of_interest_make_no_heap_call_in_our_stages() {
    let source = format!("file:{}", common::data("squares.mjpeg"));
    let engine = Box::new(Scripted::new(Size { width: 320, height: 192 }));
    let focus = Some(flytrap::vision::roi::Params::default());
    let mut frame_path = FramePath::focusing(&source, None, (240, 144), engine, &classes(), focus);
    let calls = calls_after_warm_up(&mut frame_path, 480);
    assert_eq!(calls.iter().sum::<u64>(), 0, "{calls:?}");
    assert!(
        frame_path.in_roi > 50,
        "{} of {} inferences on a region",
        frame_path.in_roi,
        frame_path.inferred
    );
}

#[test]
fn mjpeg_frames_make_no_heap_call_in_our_stages() {
    let source = format!("file:{}", common::data("squares.mjpeg"));
    let engine = Box::new(Scripted::new(Size { width: 320, height: 320 }));
    let mut frame_path = FramePath::new(&source, None, (240, 144), engine, &classes());
    let calls = calls_after_warm_up(&mut frame_path, 480);
    assert_eq!(calls.iter().sum::<u64>(), 0, "{calls:?}");
    assert!(frame_path.still > 0, "the gate was closed for some frames, which skipped inference");
}

#[test]
fn yuv4mpeg_from_a_program_makes_no_heap_call_in_our_stages() {
    let mut script = tempfile::Builder::new().suffix(".y4m").tempfile().unwrap();
    script.write_all(b"YUV4MPEG2 W64 H48 F10:1 C420jpeg\n").unwrap();
    for frame in 0..900usize {
        script.write_all(b"FRAME\n").unwrap();
        let picture: Vec<u8> =
            (0..64 * 48 * 3 / 2).map(|at| if at / 200 == frame % 20 { 230 } else { 60 }).collect();
        script.write_all(&picture).unwrap();
    }
    let source = format!("exec:cat {}", script.path().display());
    let engine = Box::new(Scripted::new(Size { width: 64, height: 64 }));
    let mut frame_path = FramePath::new(&source, None, (64, 48), engine, &classes());
    let calls = calls_after_warm_up(&mut frame_path, 400);
    assert_eq!(calls.iter().sum::<u64>(), 0, "{calls:?}");
}

/// With a device in FLYTRAP_TEST_CAMERA, as in tests/vm: frames of a real driver, read in its buffers.
#[test]
fn a_v4l2_camera_makes_no_heap_call_and_no_copy() {
    let name = "a_v4l2_camera_makes_no_heap_call_and_no_copy";
    let Ok(camera) = std::env::var("FLYTRAP_TEST_CAMERA") else {
        return common::skip(name, "no FLYTRAP_TEST_CAMERA (tests/vm/run has one)");
    };
    for pixel in [PixelFormat::Yuyv, PixelFormat::Nv12] {
        let engine = Box::new(Scripted::new(Size { width: 320, height: 320 }));
        let mut frame_path =
            FramePath::new(&format!("v4l2:{camera}"), Some(pixel), (640, 480), engine, &classes());
        (0..20).for_each(|_| frame_path.step());
        let calls: Vec<u64> = (0..60).map(|_| heap_calls(|| frame_path.step()).0).collect();
        assert_eq!(calls.iter().sum::<u64>(), 0, "{pixel}: {calls:?}");
        assert!(
            frame_path.lent > 20 && frame_path.inferred > 0,
            "{pixel}: {} lent, {} inferred",
            frame_path.lent,
            frame_path.inferred
        );
        assert_eq!(frame_path.copied, 0, "{pixel}");
        let (lent, skipped) = (frame_path.lent, frame_path.skipped);
        common::say(&format!(
            "MEASURED camera {pixel}: 0 heap calls in 60 frames; {lent} frames taken, 0 copied; {skipped} skipped, 0 touched"
        ));
    }
}

/// Heap calls of five runs, of our own executor and of tract.
fn engine_calls(path: &std::path::Path) -> [Vec<u64>; 2] {
    let engine = EngineParams { threads: 2, ..EngineParams::default() };
    let open = || {
        Loaded::open(&ModelParams { path: path.into(), sha256: None, engine, ranges: None, trial: None })
            .unwrap()
    };
    let size = Size { width: 1280, height: 720 };
    [open().into_engine(size), open().into_tract(size)].map(|engine| {
        let (mut engine, _) = engine.unwrap();
        let mut run = || {
            let input = engine.input();
            input.iter_mut().enumerate().for_each(|(at, x)| *x = (at * 37 % 101) as f32 / 101.0);
            // So low that there are columns to compute.
            heap_calls(|| assert!(engine.run(1e-4).unwrap().columns > 0)).0
        };
        run();
        (0..5).map(|_| run()).collect()
    })
}

/// tract allocates every node's output again: growth would be a leak. Ours allocates nothing.
#[test]
fn engines_take_no_more_with_each_frame() {
    let report = |model: &str, [ours, tracts]: [Vec<u64>; 2]| {
        // The model for the drawn squares adds up boxes of 25 pixels, for which ours has no kernel: tract runs it.
        if model != "squares.onnx" {
            assert_eq!(ours, [0; 5], "{model}");
        }
        assert!(tracts.iter().all(|count| *count == tracts[0]) && tracts[0] > 0, "{model}: {tracts:?}");
        common::say(&format!("MEASURED heap calls a frame with {model}: {}; tract {}", ours[0], tracts[0]));
    };
    report("squares.onnx", engine_calls(common::data("squares.onnx").as_ref()));
    if let Some(shared) = common::shared("engines_take_no_more_with_each_frame (YOLO11n)") {
        report("YOLO11n 320", engine_calls(&shared.join("models/yolo11n-320.onnx")));
    }
}

/// One engine alternating between several sizes: no heap call either.
#[test]
fn another_size_costs_no_heap_call() {
    let Some(shared) = common::shared("another_size_costs_no_heap_call") else { return };
    let engine = EngineParams { threads: 2, ..EngineParams::default() };
    let path = shared.join("models/yolo11n-dynamic.onnx");
    let model = Loaded::open(&ModelParams { path, sha256: None, engine, ranges: None, trial: None }).unwrap();
    let sizes = flytrap::vision::roi::input_sizes(Size { width: 640, height: 384 }, model.stride());
    let (mut engine, _) = model.plan(&sizes).unwrap().start().unwrap();
    assert_eq!(engine.input_sizes(), &sizes[..]);
    let mut round = || {
        heap_calls(|| {
            for index in 0..sizes.len() {
                engine.select(index);
                let (size, area) = (engine.size(), sizes[index].width * sizes[index].height);
                assert_eq!((size, engine.input().len()), (sizes[index], 3 * area));
                engine.input().iter_mut().enumerate().for_each(|(at, x)| *x = (at * 37 % 101) as f32 / 101.0);
                assert!(engine.run(1e-4).unwrap().columns > 0);
            }
        })
        .0
    };
    round();
    assert_eq!([round(), round()], [0, 0]);
}

/// What the status address and the resource log take for a page, a row and the figures in them.
#[test]
fn figures_pages_and_rows_make_no_heap_call() {
    use flytrap::platform::machine::slope::SlopeEstimator;
    use flytrap::platform::machine::{MachineReader, Usage};
    use flytrap::status::Page;
    use flytrap::status::csv::{ResourceLog, Row};
    use flytrap::status::openmetrics::{Buckets, Decimal, Exposition, Family, Format, Kind, Unit};

    let folder = tempfile::tempdir().unwrap();
    let mut log = ResourceLog::new(&folder.path().join("resources.csv"), 1 << 20, &["Uptime_s"]);
    let mut reader = MachineReader::open(std::path::Path::new("/"));
    let mut slope = SlopeEstimator::new(Duration::from_secs(1));
    let mut room = vec![0; 64 << 10];
    let family = |name, kind, unit| Family { name, kind, unit, help: "A \\ family." };
    let mut second = 0;
    let mut round = || {
        second += 1;
        let now = flytrap::platform::clock::Mono::from_nanos(second * 1_000_000_000);
        let reading = reader.read(now);
        let usage = Usage::between(&Default::default(), &reading);
        slope.add(now, reading.resident_bytes.unwrap());
        let growth = slope.bytes_per_hour();
        let mut page = Page::new(&mut room);
        let mut metrics = Exposition::new(&mut page, Format::OpenMetrics, "flytrap");
        let mut frames = metrics.family(family("frames", Kind::Counter, Unit::None)).unwrap();
        frames.sample(&[("camera", "a\"\n")], Some(second)).unwrap();
        let mut gauge = metrics.family(family("growth", Kind::Gauge, Unit::Bytes)).unwrap();
        gauge.sample(&[], growth.map(|bytes| bytes as f64 / 3.0)).unwrap();
        let buckets = Buckets { bounds: &[5, 1000], counts: &[second, 2, 3], sum: 99, places: 6 };
        let mut time = metrics.family(family("time", Kind::Histogram, Unit::Seconds)).unwrap();
        time.histogram(&[("camera", "b")], &buckets).unwrap();
        metrics.end().unwrap();
        assert!(page.bytes().len() > 500);
        let row = Row {
            unix_nanos: Some(1_795_421_730_250_000_000),
            cpu_permille: usage.machine_permille,
            memory_bytes: reading.resident_bytes,
            fps_thousandths: Some(second),
            more: &[Some(Decimal::from_millis(second))],
        };
        log.append(&row).unwrap();
    };
    // Opens the files.
    round();
    let calls: Vec<u64> = (0..80).map(|_| heap_calls(&mut round).0).collect();
    assert_eq!(calls.iter().sum::<u64>(), 0, "{calls:?}");
}
