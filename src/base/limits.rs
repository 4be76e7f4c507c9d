//! Every capacity of the program: a name, a unit, a reason, and a check at compile time.
//!
//! A limit that can drop something has a counter with the same root in [`crate::metrics`] (invariant I4).

/// Largest side of a frame, pixels. Frames of 33 megapixels (8K) fit; `u16` holds every coordinate. Memory is planned for the actual frame
/// size, not for this limit.
pub const FRAME_SIDE_MAX: u32 = 8192;

/// Smallest side of a frame, pixels: below it the chroma of a 4:2:0 frame and the gate's cells become too small.
pub const FRAME_SIDE_MIN: u32 = 16;

/// Largest encoded or raw frame, bytes: RGB24 at the largest sides.
pub const FRAME_BYTES_MAX: usize = (FRAME_SIDE_MAX * FRAME_SIDE_MAX * 3) as usize;

/// Maximum number of cameras of one process. Eight at 2 frames a second are the inferences of three at the default rate, more than a small
/// board has.
pub const CAMERAS_MAX: usize = 8;
/// Maximum number of frame shapes (aspect ratios) that cameras with a shared network may bring; a further one gets the most similar of them.
pub const FRAME_SHAPES_MAX: usize = 4;

/// Minimum number of slots in the frame ring: one being written, one being read, one spare, so that a slow detector costs old frames and
/// never stalls the camera.
pub const RING_SLOTS_MIN: usize = 3;
/// The S14 formula gives at least this many slots when memory allows.
pub const RING_SLOTS_WISHED_MIN: usize = 10;
/// The S14 formula gives at most this many slots.
pub const RING_SLOTS_MAX: usize = 200;
const _: () = assert!(RING_SLOTS_MIN >= 3, "writer + reader + at least one spare");
const _: () = assert!(RING_SLOTS_MIN <= RING_SLOTS_WISHED_MIN && RING_SLOTS_WISHED_MIN <= RING_SLOTS_MAX);

/// Maximum width of the motion gate's luma plane, pixels. An eighth of 1280: exactly the DC coefficients of a JPEG.
pub const GATE_WIDTH_MAX: usize = 160;
/// Maximum height of the gate's luma plane, pixels (portrait pictures are scaled further down).
pub const GATE_HEIGHT_MAX: usize = 160;
/// Maximum number of moving regions that the gate reports per frame; further ones are merged into the nearest.
pub const GATE_REGIONS_MAX: usize = 16;

/// Maximum number of polygons in a mask.
pub const MASK_POLYGONS_MAX: usize = 16;
/// Maximum number of corners of a polygon.
pub const POLYGON_POINTS_MAX: usize = 32;

/// Maximum number of classes in a model. COCO has 80, Objects365 365, Open Images 601.
pub const CLASSES_MAX: usize = 1024;
/// Longest class, line or camera name, bytes of UTF-8. Fits "Mechanical fan" and every COCO name.
pub const NAME_BYTES_MAX: usize = 32;
/// Largest side of a model's input, pixels.
pub const MODEL_SIDE_MAX: usize = 2048;
/// Largest model file, bytes. YOLO11x in fp32 is 228 MB.
pub const MODEL_FILE_BYTES_MAX: u64 = 512 << 20;

/// Maximum number of anchors of a detection head. YOLO11 has 86016 at an input of 2048x2048.
pub const ANCHORS_MAX: usize = 1 << 18;

/// Candidates above the score threshold that NMS processes; the weakest beyond this are dropped and counted. An 80-class model at 640 has
/// 8400 anchors, of which a crowded street brings some hundreds over 0.1.
pub const CANDIDATES_MAX: usize = 4096;
/// Maximum number of detections per frame, strongest first. Ultralytics' `max_det`.
pub const DETECTIONS_MAX: usize = 300;

/// Maximum number of tracks at once, lost ones included.
pub const TRACKS_MAX: usize = 128;
/// Maximum number of counting lines per camera.
pub const LINES_MAX: usize = 16;
const _: () = assert!(TRACKS_MAX * LINES_MAX <= 1 << 16, "a line state per track and line stays small");

/// Maximum number of rules for alerts that a user gives.
pub const ALERTS_MAX: usize = 32;

/// Most bytes of a camera's tags together, with 2 for each: they are repeated in every event.
pub const TAGS_BYTES_MAX: usize = 128;

/// Events that wait in memory for the uplink. A busy junction produces about 3 events a second: 45 minutes.
pub const EVENT_QUEUE_MAX: usize = 8192;
/// Maximum number of events in one batch.
pub const BATCH_EVENTS_MAX: usize = 1000;
/// Longest text inside an event (a reason, an error), bytes of UTF-8; longer ones are truncated at a character boundary.
pub const EVENT_TEXT_BYTES_MAX: usize = 160;
const _: () = assert!(BATCH_EVENTS_MAX <= EVENT_QUEUE_MAX);

/// Log lines that wait to be written to stderr, bytes: a minute of debug output, or some hours at the default level.
pub const LOG_QUEUE_BYTES: usize = 128 << 10;
/// Longest line of the log, bytes; the rest is truncated. An error with all its causes has some hundreds.
pub const LOG_LINE_BYTES_MAX: usize = 8 << 10;
const _: () = assert!(LOG_LINE_BYTES_MAX < LOG_QUEUE_BYTES);

/// How much of an external program's stderr is kept for the error message, bytes; the newest part.
pub const EXEC_STDERR_BYTES_MAX: usize = 4096;
/// Longest header line of a yuv4mpeg stream, bytes (mjpegtools uses 1024 for frames, 4096 is ample).
pub const Y4M_HEADER_BYTES_MAX: usize = 4096;

/// Largest response of a receiver that is read, bytes; the rest is discarded.
pub const REPLY_BYTES_MAX: u64 = 64 << 10;
/// Connections that the status address serves at once; see [`crate::status::server`] for what happens to further ones. A scraper needs
/// one, a dashboard and a person with a browser some more.
pub const STATUS_CONNECTIONS_MAX: usize = 16;
/// Longest head of a request to the status address, bytes: Prometheus sends 300, a browser 1000, a token adds up to half of it.
pub const STATUS_HEAD_BYTES_MAX: usize = 8 << 10;
/// Maximum number of headers of a request to the status address. Browsers behind proxies send about 30.
pub const STATUS_HEADERS_MAX: usize = 64;
/// Largest page that a client of the status address reads, bytes: five of the largest that the server makes.
pub const STATUS_REPLY_BYTES_MAX: usize = 1 << 20;
const _: () = assert!(STATUS_CONNECTIONS_MAX <= 32, "a bit for each in a word, and descriptors to spare");

/// Largest configuration file, bytes.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
