//! `v4l2:` - a V4L2 camera. Frames are lent, not copied: the gate and the letterbox read the mapped buffers.
//!
//! ```text
//!   open ─► ask what it is ─► choose a format ─► map buffers ─► stream ─┬─► frames
//!                                                    ▲                  │ silent for idle_timeout / 2
//!                                                    └── restart, once ─┤
//!                                                                       └─► silent again, gone: Class::Retry
//! ```
//! An unwanted frame goes back to the kernel unread. The owner reopens the camera, by a path that stays the same when it is plugged in
//! again (`/dev/v4l/by-path/...`).

mod controls;
mod device;
mod negotiate;
mod queue;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use controls::{Control, Range, Setting};
pub use device::DeviceInfo;
pub use negotiate::Offer;

use rustix::io::Errno;

use device::{Agreed, Camera};
use negotiate::{FormatRequest, StartError, start_best};
use queue::{Dequeued, Kernel, Queue, Ready};

use super::mjpeg_stream::{Head, SizeWatch, jpeg_head};
use super::{Advance, CaptureParams, ColorOverride, Filled, FrameSource, Lending};
use crate::base::error::{Error, Kind, Result, is_out_of_descriptors};
use crate::base::stop::Stop;
use crate::capture::frame::{Color, FrameFormat, FrameMeta, Lease, PixelFormat};
use crate::platform::clock::{Clock, Mono};

/// Number of buffers that we request: one being read, one or two ready, one announced, and two for the camera to fill meanwhile.
const BUFFERS_WISHED: u32 = 6;
/// With fewer the camera has no buffer to fill while ours are in use.
const BUFFERS_MIN: u32 = 4;
/// Longest uninterrupted wait, so that a stop request is noticed soon.
const WAIT_STEP: Duration = Duration::from_millis(100);

/// A streaming camera.
struct Stream<K: Kernel + 'static> {
    what: String,
    queue: Arc<Queue<K>>,
    buffer_bytes: usize,
    format: FrameFormat,
    clock: Arc<dyn Clock>,
    stop: Stop,
    idle_timeout: Duration,
    announced: Option<(Lease, usize)>,
    last: Option<Last>,
    /// Our frame number for the driver's 0.
    seq: u64,
    /// Time since which no usable frame has come.
    silent_since: Mono,
    restarted: bool,
    sizes: SizeWatch,
    color: ColorOverride,
}

/// The newest frame.
#[derive(Debug, Clone, Copy)]
struct Last {
    sequence: u32,
    at: Mono,
}

/// The port of the camera that was opened first, kept between openings: it may come back under another number, and another camera may have
/// taken its old number. Whatever is plugged into that port is the camera, even if it was replaced.
#[derive(Debug, Clone, Default)]
pub struct PinnedDevice(Arc<OnceLock<DeviceInfo>>);

impl PinnedDevice {
    /// The camera at `path`; if that is not the pinned one, the pinned one wherever it is now.
    ///
    /// # Errors
    /// The error of opening `path`, or that another camera is there and the pinned one is missing.
    fn open(&self, path: &Path) -> io::Result<(Camera, io::Result<DeviceInfo>)> {
        let there = Camera::open(path).map(|camera| (camera.info(), camera));
        let Some(known) = self.0.get() else {
            let (info, camera) = there?;
            return Ok((camera, info));
        };
        let at_home = |info: &DeviceInfo| info.bus == known.bus && info.captures == known.captures;
        match there {
            Ok((Ok(info), camera)) if at_home(&info) => Ok((camera, Ok(info))),
            other => {
                let same = |node: &PathBuf| {
                    let camera = Camera::open(node).ok()?;
                    let info = camera.info().ok().filter(at_home)?;
                    tracing::info!("camera '{}' is now at '{}'", path.display(), node.display());
                    Some((camera, Ok(info)))
                };
                let found = nodes().unwrap_or_default().iter().find_map(|(_, node)| same(node));
                found.ok_or_else(|| match other {
                    Err(error) => error,
                    Ok(_) => io::Error::other(format!(
                        "another camera is there; '{}' ({}) is gone",
                        known.name, known.bus
                    )),
                })
            }
        }
    }

    fn remember(&self, info: &DeviceInfo) {
        // The first camera stays pinned.
        let _known = self.0.set(info.clone());
    }
}

/// Opens the camera and starts it, in the best format (see [`Offer`]) unless `params` requires one.
///
/// # Errors
/// Fatal with the remedy: not a camera (a metadata, output or codec node), no supported format, none that `params` requires. Retry:
/// missing, busy, or no bandwidth on its bus.
pub fn open(path: &Path, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Box<dyn FrameSource>> {
    let what = format!("camera '{}'", path.display());
    let (camera, info) = params.pinned.open(path).map_err(|error| cannot_open(&what, error))?;
    let info = info.map_err(|error| not_a_camera(&what, error))?;
    if !info.captures {
        let text = format!(
            "'{}' gives no pictures on this node (metadata, output or codec): `flytrap cameras` lists those that do",
            info.name
        );
        return Err(named(Error::fatal, &what, &text));
    }
    let offers = camera.offers();
    drop(camera);
    let request = FormatRequest {
        width: params.width,
        height: params.height,
        pixel: params.pixel,
        fps: params.fps.map_or(params.serve_fps, |rate| rate.as_f64() as f32),
        side: params.serve_side,
    };
    let started = start_best(&offers, &request, |offer| start(path, &what, offer, request.fps, params));
    let (queue, format, fps) = match started {
        Some(Ok(started)) => started,
        Some(Err(StartError::Bandwidth(error) | StartError::Other(error))) => return Err(error),
        None => return Err(named(Error::fatal, &what, &no_offer(&offers, &request))),
    };
    params.pinned.remember(&info);
    tracing::info!(name = %info.name, driver = %info.driver, bus = %info.bus, fps, "{what}: {format}");
    let buffer_bytes = queue.kernel().buffer_bytes();
    Ok(Box::new(Stream::new(what, queue, buffer_bytes, format, params, clock)))
}

/// The node cannot be opened.
fn cannot_open(what: &str, error: io::Error) -> Error {
    let remedy = if is_out_of_descriptors(&error) {
        "raise LimitNOFILE= of the unit (ulimit -n)"
    } else {
        "check the path, the cable and the permissions"
    };
    named(Error::retry, what, &format!("cannot be opened: {remedy}")).caused_by(error)
}

/// The node does not describe itself. Only a device that does not know the request is no camera; one that is being unplugged reports
/// `ENODEV`, and may come back.
fn not_a_camera(what: &str, error: io::Error) -> Error {
    match Errno::from_io_error(&error) {
        Some(Errno::NOTTY | Errno::INVAL) => {
            named(Error::fatal, what, "is not a video device: `flytrap cameras` lists them").caused_by(error)
        }
        None | Some(_) => cannot_open(what, error),
    }
}

/// A streaming camera: its buffers, its format, its rate if known.
type Started = (Arc<Queue<Camera>>, FrameFormat, Option<f32>);

/// Opens the camera and streams in the format `offer`.
fn start(
    path: &Path,
    what: &str,
    offer: &Offer,
    fps: f32,
    params: &CaptureParams,
) -> std::result::Result<Started, StartError<Error>> {
    let retry =
        |text: &str, error: io::Error| StartError::Other(named(Error::retry, what, text).caused_by(error));
    let fatal = |text: &str| StartError::Other(named(Error::fatal, what, text));
    let (mut camera, _) =
        params.pinned.open(path).map_err(|error| StartError::Other(cannot_open(what, error)))?;
    let agreed = camera
        .agree(offer, fps)
        .map_err(|error| retry("did not take its own format: is another program using it?", error))?;
    let format = frame_format(&agreed, params).map_err(|text| fatal(&text))?;
    set_controls(&camera, &params.controls, what).map_err(StartError::Other)?;
    camera
        .map(BUFFERS_WISHED)
        .map_err(|error| retry("gives no buffers: is another program using it?", error))?;
    if camera.buffers() < BUFFERS_MIN {
        return Err(fatal(&format!("gives {} buffers, {BUFFERS_MIN} are needed", camera.buffers())));
    }
    let queue = Queue::new(camera);
    queue.start().map_err(|error| {
        if error.raw_os_error() != Some(libc::ENOSPC) {
            return retry("cannot start streaming", error);
        }
        tracing::warn!("{what}: its bus has no bandwidth left for {format}: a lighter format is tried");
        let text = "its bus has no bandwidth left for any format that the settings allow: set fewer frames a second or a \
                    smaller size, leave camera.pixel_format to flytrap, or give it a USB port of its own";
        StartError::Bandwidth(named(Error::retry, what, text).caused_by(error))
    })?;
    Ok((queue, format, agreed.fps))
}

impl<K: Kernel + 'static> Stream<K> {
    fn new(
        what: String,
        queue: Arc<Queue<K>>,
        buffer_bytes: usize,
        format: FrameFormat,
        params: &CaptureParams,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let silent_since = clock.mono();
        Stream {
            what,
            queue,
            buffer_bytes,
            format,
            clock,
            stop: params.stop.clone(),
            idle_timeout: params.idle_timeout,
            announced: None,
            last: None,
            seq: 0,
            silent_since,
            restarted: false,
            sizes: SizeWatch::default(),
            color: params.color,
        }
    }

    /// No usable frame came. After half of the time-out the stream is restarted, once; after all of it the camera counts as lost.
    fn silent(&mut self) -> Result<Advance> {
        let silence = self.clock.mono().since(self.silent_since);
        if silence >= self.idle_timeout {
            let text = format!("no usable frame for {silence:.1?}, also after its stream was restarted");
            return Err(named(Error::retry, &self.what, &text));
        }
        if silence >= self.idle_timeout / 2 && !self.restarted {
            self.restarted = true;
            tracing::warn!("{}: no usable frame for {silence:.1?}: its stream is restarted", self.what);
            // A failure shows when it is started.
            let _stopped = self.queue.stop();
            self.queue.start().map_err(|error| self.lost(error))?;
        }
        Ok(Advance::Idle)
    }

    fn lost(&self, error: io::Error) -> Error {
        let text =
            if error.raw_os_error() == Some(libc::ENODEV) { "was unplugged" } else { "stopped working" };
        named(Error::retry, &self.what, text).caused_by(error)
    }

    /// Numbers a frame and sets its capture time. Gaps in the driver's numbers become gaps in ours.
    fn stamp(&mut self, done: &Dequeued) -> FrameMeta {
        let now = self.clock.mono();
        let taken = done.monotonic_nanos.map_or(now, |nanos| self.clock.at_monotonic(nanos).min(now));
        let (seq, at) = match self.last {
            None => (self.seq, taken),
            Some(last) => {
                let step = done.sequence.wrapping_sub(last.sequence);
                // If a driver counts backwards, or not at all, drops cannot be detected.
                let step = if (1..1 << 31).contains(&step) { u64::from(step) } else { 1 };
                (self.seq + step, taken.max(last.at + Duration::from_nanos(1)))
            }
        };
        self.seq = seq;
        self.last = Some(Last { sequence: done.sequence, at });
        FrameMeta { seq, captured_at: at, bytes_used: 0 }
    }

    /// What is wrong with a frame of `used` bytes in the buffer `bytes`, as far as this is visible without decoding. JPEGs may have another
    /// size than negotiated: a lasting one becomes the stream's size.
    fn fault(&mut self, done: &Dequeued, bytes: &[u8]) -> Option<String> {
        let used = done.bytes_used as usize;
        let Some(valid) = bytes.get(..used).filter(|_| !done.damaged) else {
            return Some(format!("{used} bytes, damaged: {}", done.damaged));
        };
        if self.format.frame_bytes().is_some_and(|need| used < need) {
            return Some(format!("{used} bytes of {}", self.format));
        }
        if self.format.pixel != PixelFormat::Mjpeg {
            return None;
        }
        let Head::Info(info) = jpeg_head(valid) else { return Some("no JPEG".to_owned()) };
        let (size, found) = ((self.format.width, self.format.height), (info.width, info.height));
        if self.sizes.has_changed(size, found) {
            match info.format(self.color) {
                Ok(format) => self.format = format,
                Err(why) => return Some(why),
            }
            tracing::info!(
                "{}: it changed its picture size to {}x{}, from {}x{}",
                self.what,
                found.0,
                found.1,
                size.0,
                size.1
            );
            return None;
        }
        (size != found)
            .then(|| format!("a JPEG of {}x{} in a stream of {}x{}", found.0, found.1, size.0, size.1))
    }

    fn take_announced(&mut self) -> Result<(Lease, Filled)> {
        let (lease, bytes_used) = self
            .announced
            .take()
            .ok_or_else(|| named(Error::degrade, &self.what, "no frame was announced"))?;
        Ok((lease, Filled { format: self.format, bytes_used }))
    }
}

impl<K: Kernel + 'static> FrameSource for Stream<K> {
    fn format(&self) -> &FrameFormat {
        &self.format
    }

    fn slot_bytes(&self) -> usize {
        self.buffer_bytes
    }

    fn lending(&self) -> Option<Lending> {
        Some(Lending { buffers: self.queue.kernel().buffers() as usize, bytes: self.buffer_bytes })
    }

    fn advance(&mut self, patience: Duration) -> Result<Advance> {
        self.announced = None;
        let deadline = self.clock.mono() + patience;
        loop {
            if let Some((done, lease)) = self.queue.dequeue().map_err(|error| self.lost(error))? {
                let meta = self.stamp(&done);
                if let Some(why) = self.fault(&done, lease.bytes()) {
                    // A camera that sends nothing usable counts as silent.
                    drop(lease);
                    self.silent()?;
                    return Err(named(Error::degrade, &self.what, &format!("frame {}: {why}", meta.seq)));
                }
                (self.silent_since, self.restarted) = (self.clock.mono(), false);
                self.announced = Some((lease, done.bytes_used as usize));
                return Ok(Advance::Frame(meta));
            }
            let left = deadline.since(self.clock.mono());
            if left.is_zero() || self.stop.requested() {
                return self.silent();
            }
            match self.queue.kernel().wait(left.min(WAIT_STEP)).map_err(|error| self.lost(error))? {
                Ready::Frame | Ready::Nothing => {}
                Ready::Gone => return Err(self.lost(io::Error::from_raw_os_error(libc::ENODEV))),
            }
        }
    }

    fn read_into(&mut self, buffer: &mut [u8]) -> Result<Filled> {
        let (lease, filled) = self.take_announced()?;
        let target = buffer.get_mut(..filled.bytes_used).ok_or_else(|| {
            named(
                Error::degrade,
                &self.what,
                &format!("a frame of {} bytes does not fit into its buffer", filled.bytes_used),
            )
        })?;
        target.copy_from_slice(&lease.bytes()[..filled.bytes_used]);
        Ok(filled)
    }

    fn lend(&mut self) -> Result<(Lease, Filled)> {
        self.take_announced()
    }
}

impl<K: Kernel + 'static> Drop for Stream<K> {
    fn drop(&mut self) {
        self.announced = None;
        // A device that is gone cannot be stopped, and need not be.
        let _stopped = self.queue.stop();
        let (held, refused) = (self.queue.held(), self.queue.refused());
        tracing::debug!("{}: closed with {held} buffers on loan, {refused} not taken back", self.what);
    }
}

/// Sets the user's V4L2 controls in their order: an automatic control is switched off before the one that it governs is set.
fn set_controls(camera: &Camera, settings: &[Setting], what: &str) -> Result<()> {
    for setting in settings {
        // Read again each time: one control can activate another.
        let controls = camera.controls();
        let (control, value) =
            controls::resolve(&controls, setting).map_err(|text| named(Error::fatal, what, &text))?;
        match camera.set_control(control.id, value) {
            Ok(set) if set == value => tracing::info!("{what}: {setting}"),
            Ok(set) => tracing::warn!("{what}: {setting}: the camera set {set} instead"),
            Err(error) => {
                // Counting works without the control, too.
                let why = if control.inactive {
                    "; another control (an automatic one) governs it: set that first"
                } else {
                    ""
                };
                tracing::warn!("{what}: camera.controls: {setting} is refused: {error}{why}");
            }
        }
    }
    Ok(())
}

fn named(make: fn(Kind, String) -> Error, what: &str, text: &str) -> Error {
    make(Kind::Source, format!("{what}: {text}"))
}

fn frame_format(agreed: &Agreed, params: &CaptureParams) -> std::result::Result<FrameFormat, String> {
    let Agreed { pixel, width, height, row_bytes, buffer_bytes, .. } = *agreed;
    let guess = match pixel {
        PixelFormat::Rgb24 | PixelFormat::Grey | PixelFormat::Mjpeg => Color::JPEG,
        PixelFormat::Yuyv | PixelFormat::Uyvy | PixelFormat::Nv12 | PixelFormat::I420 => Color::default(),
    };
    let packed = FrameFormat::packed(pixel, width, height, params.color.apply(guess))
        .map_err(|error| error.to_string())?;
    let format = FrameFormat { row_bytes: row_bytes.max(packed.row_bytes), ..packed };
    match format.frame_bytes() {
        Some(need) if need > buffer_bytes as usize => {
            Err(format!("its buffers of {buffer_bytes} bytes cannot hold {format}"))
        }
        _ => Ok(format),
    }
}

fn no_offer(offers: &[Offer], request: &FormatRequest) -> String {
    if offers.is_empty() {
        return "it has no supported format (for raw Bayer use exec:rpicam-vid ...)".to_owned();
    }
    let mut there: Vec<String> =
        offers.iter().map(|o| format!("{} {}x{}", o.pixel, o.width, o.height)).collect();
    there.truncate(12);
    let side = |value: Option<u32>| value.map_or("any".to_owned(), |value| value.to_string());
    let pixel = request.pixel.map_or("any format".to_owned(), |pixel| pixel.to_string());
    format!(
        "it has no {pixel} of {} x {}: change camera.pixel_format, camera.width, camera.height to one of {}",
        side(request.width),
        side(request.height),
        there.join(", ")
    )
}

/// A device node that delivers pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraInfo {
    /// `/dev/videoN`.
    pub node: PathBuf,
    /// A path that stays the same when it is plugged in again, if there is one.
    pub stable: Option<PathBuf>,
    /// Its description of itself.
    pub info: DeviceInfo,
    /// The formats that it can deliver and we can read.
    pub offers: Vec<Offer>,
    /// Its V4L2 controls.
    pub controls: Vec<Control>,
}

/// All cameras of this machine, by node.
///
/// # Errors
/// If /dev cannot be listed. A node that cannot be opened is left out, with a warning.
pub fn list() -> Result<Vec<CameraInfo>> {
    let unread = |error| Error::fatal(Kind::System, "/dev cannot be listed").caused_by(error);
    let mut found = Vec::new();
    for (_, node) in nodes().map_err(unread)? {
        match Camera::open(&node).and_then(|camera| Ok((camera.info()?, camera))) {
            Ok((info, camera)) if info.captures => {
                let (stable, offers, controls) = (stable_path(&node), camera.offers(), camera.controls());
                found.push(CameraInfo { node, stable, info, offers, controls });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("{}: {error}", node.display()),
        }
    }
    Ok(found)
}

/// All `/dev/videoN` with their N, in order.
fn nodes() -> io::Result<Vec<(u32, PathBuf)>> {
    let mut nodes = Vec::new();
    for entry in std::fs::read_dir("/dev")? {
        let node = entry?.path();
        let number =
            node.to_str().and_then(|path| path.strip_prefix("/dev/video")).and_then(|n| n.parse().ok());
        nodes.extend(number.map(|number| (number, node)));
    }
    nodes.sort();
    Ok(nodes)
}

/// The udev link that leads to `node`.
fn stable_path(node: &Path) -> Option<PathBuf> {
    let links = std::fs::read_dir("/dev/v4l/by-path").ok()?;
    let mut links: Vec<PathBuf> = links.flatten().map(|entry| entry.path()).collect();
    links.sort();
    links.into_iter().find(|link| std::fs::canonicalize(link).is_ok_and(|to| to == node))
}

#[cfg(test)]
mod tests;
