//! V4L2 devices: the only file that uses `v4l`, and the only one of [`crate::capture`] with unsafe code.
//!
//! The crate opens devices and lists sizes and rates. Capabilities, formats and the buffer queue are our own calls on its handle: version
//! 0.14 unwraps the text of names (a camera with a broken name would end the program), cannot resume after a time-out, and ignores
//! `bytesused` and the error flag.

#![allow(unsafe_code, reason = "system calls and mapped memory; each block argues its safety")]

use std::io;
use std::mem::zeroed;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::v4l_sys as sys;
use v4l::v4l2::{self, vidioc};
use v4l::video::Capture;
use v4l::{Device, Format, FourCC, Fraction};

use super::controls::{self, Control, Range};
use super::negotiate::{Offer, sizes_within};
use super::queue::{Dequeued, Kernel, Ready};
use crate::capture::frame::PixelFormat;

const CAPTURE: u32 = sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE;
const MMAP: u32 = sys::v4l2_memory_V4L2_MEMORY_MMAP;
/// Maximum number of entries that are read from a driver's list; a broken driver may never report its end.
const LIST_MAX: u32 = 256;

/// The kernel's names of the layouts that we read (videodev2.h).
const LAYOUTS: [(&[u8; 4], PixelFormat); 9] = [
    (b"NV12", PixelFormat::Nv12),
    (b"YU12", PixelFormat::I420),
    (b"YUYV", PixelFormat::Yuyv),
    (b"UYVY", PixelFormat::Uyvy),
    (b"RGB3", PixelFormat::Rgb24),
    (b"MJPG", PixelFormat::Mjpeg),
    (b"JPEG", PixelFormat::Mjpeg),
    (b"GREY", PixelFormat::Grey),
    (b"Y800", PixelFormat::Grey),
];

/// A kernel struct that is plain data: integers, arrays, unions and pointers.
///
/// # Safety
/// All zeros is a valid value.
unsafe trait Plain {}
// SAFETY: a struct of videodev2.h as bindgen writes it, without references or enums.
unsafe impl Plain for sys::v4l2_capability {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_fmtdesc {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_requestbuffers {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_buffer {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_queryctrl {}
// SAFETY: as above.
unsafe impl Plain for sys::v4l2_querymenu {}

fn blank<T: Plain>() -> T {
    // SAFETY: `Plain` guarantees it.
    unsafe { zeroed() }
}

/// A device's description of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The camera's name.
    pub name: String,
    /// The driver's name.
    pub driver: String,
    /// The bus and port that it is connected to.
    pub bus: String,
    /// Whether it delivers pictures by the calls that we use. Metadata, output and codec nodes do not.
    pub captures: bool,
}

/// The negotiated format of a camera.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Agreed {
    pub(super) pixel: PixelFormat,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) row_bytes: u32,
    pub(super) buffer_bytes: u32,
    pub(super) fps: Option<f32>,
}

/// An open device.
pub(super) struct Camera {
    device: Device,
    buffers: Vec<Mapping>,
}

/// A mapped buffer.
struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping is plain memory that stays in place until it is dropped; the queue decides who may read it when (a buffer on loan is
// not queued, so the kernel does not write it).
unsafe impl Send for Mapping {}
// SAFETY: as above; we only ever read.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of our own mmap, and no slice of it is alive: slices borrow the camera.
        let _gone = unsafe { v4l2::munmap(self.start, self.length) };
    }
}

impl Camera {
    /// Opens a device node; does not change its state.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Camera { device: Device::with_path(path)?, buffers: Vec::new() })
    }

    /// One ioctl with a kernel struct.
    ///
    /// `request` must be one whose argument is a `T`.
    fn call<T>(&self, request: vidioc::_IOC_TYPE, argument: &mut T) -> io::Result<()> {
        assert_eq!((request >> 16) as usize & 0x3FFF, size_of::<T>(), "request and argument belong together");
        loop {
            // SAFETY: the request's size field is that of `T` (checked above), so the kernel reads and writes within it;
            // pointers inside `T` are null or as the kernel filled them.
            let done = unsafe {
                v4l2::ioctl(self.device.handle().fd(), request, std::ptr::from_mut(argument).cast())
            };
            match done {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// VIDIOC_QUERYCAP.
    pub(super) fn info(&self) -> io::Result<DeviceInfo> {
        let mut caps: sys::v4l2_capability = blank();
        self.call(vidioc::VIDIOC_QUERYCAP, &mut caps)?;
        // The capabilities of this node, not of the whole device: a camera also has metadata nodes.
        let flags = match caps.capabilities & sys::V4L2_CAP_DEVICE_CAPS {
            0 => caps.capabilities,
            _ => caps.device_caps,
        };
        let needed = sys::V4L2_CAP_VIDEO_CAPTURE | sys::V4L2_CAP_STREAMING;
        let codec = flags & (sys::V4L2_CAP_VIDEO_M2M | sys::V4L2_CAP_VIDEO_M2M_MPLANE) != 0;
        Ok(DeviceInfo {
            name: text(&caps.card),
            driver: text(&caps.driver),
            bus: text(&caps.bus_info),
            captures: flags & needed == needed && !codec,
        })
    }

    /// Every format that the camera can deliver and we can read, in the driver's order.
    pub(super) fn offers(&self) -> Vec<Offer> {
        let mut offers = Vec::new();
        for index in 0..LIST_MAX {
            let mut entry: sys::v4l2_fmtdesc = blank();
            (entry.index, entry.type_) = (index, CAPTURE);
            if self.call(vidioc::VIDIOC_ENUM_FMT, &mut entry).is_err() {
                break;
            }
            let fourcc = FourCC::from(entry.pixelformat);
            let Some(pixel) = layout(fourcc) else { continue };
            for (width, height) in self.sizes(fourcc) {
                let fps_max = self.fps_max(fourcc, width, height);
                offers.push(Offer { pixel, width, height, fps_max });
            }
        }
        offers
    }

    fn sizes(&self, fourcc: FourCC) -> Vec<(u32, u32)> {
        let listed = self.device.enum_framesizes(fourcc).unwrap_or_default();
        let mut sizes = Vec::new();
        for size in listed.into_iter().take(LIST_MAX as usize) {
            match size.size {
                FrameSizeEnum::Discrete(size) => sizes.push((size.width, size.height)),
                FrameSizeEnum::Stepwise(s) => sizes.extend(sizes_within(
                    (s.min_width, s.min_height),
                    (s.max_width, s.max_height),
                    (s.step_width, s.step_height),
                )),
            }
        }
        sizes
    }

    fn fps_max(&self, fourcc: FourCC, width: u32, height: u32) -> Option<f32> {
        let listed = self.device.enum_frameintervals(fourcc, width, height).unwrap_or_default();
        let shortest = |interval: FrameIntervalEnum| match interval {
            FrameIntervalEnum::Discrete(interval) => interval,
            FrameIntervalEnum::Stepwise(steps) => steps.min,
        };
        let rates = listed.into_iter().filter_map(|interval| per_second(shortest(interval.interval)));
        rates.reduce(f32::max)
    }

    /// Every control with a number, a switch or a menu, in the driver's order.
    pub(super) fn controls(&self) -> Vec<Control> {
        let mut controls = Vec::new();
        let mut last = 0;
        while controls.len() < LIST_MAX as usize {
            let mut query: sys::v4l2_queryctrl = blank();
            query.id = last | sys::V4L2_CTRL_FLAG_NEXT_CTRL;
            // A broken driver may return the same control for ever.
            if self.call(vidioc::VIDIOC_QUERYCTRL, &mut query).is_err() || query.id <= last {
                break;
            }
            last = query.id;
            let Some(range) = self.range(&query) else { continue };
            let has = |flag| query.flags & flag != 0;
            if has(sys::V4L2_CTRL_FLAG_DISABLED) {
                continue;
            }
            let value = self.control(query.id).ok();
            controls.push(Control {
                id: query.id,
                name: controls::key(&text(&query.name)),
                range,
                default: query.default_value.into(),
                value: value.map(i64::from),
                writable: !has(sys::V4L2_CTRL_FLAG_READ_ONLY),
                inactive: has(sys::V4L2_CTRL_FLAG_INACTIVE),
            });
        }
        controls
    }

    fn range(&self, query: &sys::v4l2_queryctrl) -> Option<Range> {
        let (min, max, step) = (query.minimum.into(), query.maximum.into(), query.step.into());
        match query.type_ {
            sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_BOOLEAN => Some(Range::Switch),
            sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER => Some(Range::Number { min, max, step }),
            kind @ (sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_MENU
            | sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER_MENU) => {
                let plain = kind == sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_MENU;
                let last = u32::try_from(max).unwrap_or(0).min(LIST_MAX);
                let first = u32::try_from(min).unwrap_or(0);
                let items = (first..=last)
                    .filter_map(|index| Some((index.into(), self.item(query.id, index, plain)?)));
                Some(Range::Menu(items.collect()))
            }
            // A road counter never needs to set buttons, texts, bit masks and matrices.
            _ => None,
        }
    }

    /// The name of a menu entry. Menus may have gaps.
    fn item(&self, id: u32, index: u32, plain: bool) -> Option<String> {
        let mut item: sys::v4l2_querymenu = blank();
        (item.id, item.index) = (id, index);
        self.call(vidioc::VIDIOC_QUERYMENU, &mut item).ok()?;
        // SAFETY: both cases of the union are plain bytes, all of them initialised (it began as zeros).
        let (name, value) = unsafe { (item.__bindgen_anon_1.name, item.__bindgen_anon_1.value) };
        Some(if plain { text(&name) } else { value.to_string() })
    }

    fn control(&self, id: u32) -> io::Result<i32> {
        let mut control = sys::v4l2_control { id, value: 0 };
        self.call(vidioc::VIDIOC_G_CTRL, &mut control)?;
        Ok(control.value)
    }

    /// Sets a control and returns the value that the driver chose.
    pub(super) fn set_control(&self, id: u32, value: i64) -> io::Result<i64> {
        let value = i32::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.call(vidioc::VIDIOC_S_CTRL, &mut sys::v4l2_control { id, value })?;
        // If it cannot be read back, it is assumed to be set.
        Ok(self.control(id).unwrap_or(value).into())
    }

    /// Requests a format and a rate, and returns what the driver chose.
    pub(super) fn agree(&self, offer: &Offer, fps: f32) -> io::Result<Agreed> {
        let fourcc =
            LAYOUTS.iter().find(|(_, pixel)| *pixel == offer.pixel).map(|(name, _)| FourCC::new(name));
        let fourcc = fourcc.expect("every layout has a name");
        let format = self.device.set_format(&Format::new(offer.width, offer.height, fourcc))?;
        let pixel = layout(format.fourcc).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("it gives {}", format.fourcc))
        })?;
        // Not every driver can set a rate; that is fine.
        let interval = Fraction::new(1000, (fps * 1000.0) as u32);
        let rate = self.device.set_params(&v4l::video::capture::Parameters::new(interval));
        Ok(Agreed {
            pixel,
            width: format.width,
            height: format.height,
            row_bytes: if pixel == PixelFormat::Mjpeg { 0 } else { format.stride },
            buffer_bytes: format.size,
            fps: rate.ok().and_then(|params| per_second(params.interval)),
        })
    }

    /// Lets the kernel allocate buffers and maps them. The driver may give more or fewer than requested.
    pub(super) fn map(&mut self, wanted: u32) -> io::Result<()> {
        let mut request: sys::v4l2_requestbuffers = blank();
        (request.count, request.type_, request.memory) = (wanted, CAPTURE, MMAP);
        self.call(vidioc::VIDIOC_REQBUFS, &mut request)?;
        self.buffers.reserve(request.count as usize);
        for index in 0..request.count.min(super::queue::BUFFERS_MAX) {
            let mut buffer = buffer(index);
            self.call(vidioc::VIDIOC_QUERYBUF, &mut buffer)?;
            let length = buffer.length as usize;
            // SAFETY: with V4L2_MEMORY_MMAP the kernel fills in the offset; the mapping is new memory that nobody else uses.
            let start = unsafe {
                v4l2::mmap(
                    std::ptr::null_mut(),
                    length,
                    libc::PROT_READ,
                    libc::MAP_SHARED,
                    self.device.handle().fd(),
                    libc::off_t::from(buffer.m.offset),
                )
            }?;
            self.buffers.push(Mapping { start, length });
        }
        Ok(())
    }

    /// Bytes of each buffer.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffers.iter().map(|mapping| mapping.length).max().unwrap_or(0)
    }

    fn stream(&self, request: vidioc::_IOC_TYPE) -> io::Result<()> {
        let mut kind = CAPTURE as libc::c_int;
        self.call(request, &mut kind)
    }
}

impl Kernel for Camera {
    fn buffers(&self) -> u32 {
        self.buffers.len() as u32
    }

    fn bytes(&self, index: u32) -> &[u8] {
        let Mapping { start, length } = self.buffers[index as usize];
        // SAFETY: the mapping is that long and lives as long as `self`; the queue calls this for buffers on loan only,
        // which the kernel does not write.
        unsafe { std::slice::from_raw_parts(start.cast(), length) }
    }

    fn queue(&self, index: u32) -> io::Result<()> {
        self.call(vidioc::VIDIOC_QBUF, &mut buffer(index))
    }

    fn dequeue(&self) -> io::Result<Option<Dequeued>> {
        let mut done = buffer(0);
        match self.call(vidioc::VIDIOC_DQBUF, &mut done) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let clock = done.flags & sys::V4L2_BUF_FLAG_TIMESTAMP_MASK;
        let nanos =
            i128::from(done.timestamp.tv_sec) * 1_000_000_000 + i128::from(done.timestamp.tv_usec) * 1000;
        Ok(Some(Dequeued {
            index: done.index,
            bytes_used: done.bytesused,
            sequence: done.sequence,
            monotonic_nanos: (clock == sys::V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC)
                .then(|| u64::try_from(nanos).ok())
                .flatten(),
            damaged: done.flags & sys::V4L2_BUF_FLAG_ERROR != 0,
        }))
    }

    fn start(&self) -> io::Result<()> {
        self.stream(vidioc::VIDIOC_STREAMON)
    }

    fn stop(&self) -> io::Result<()> {
        self.stream(vidioc::VIDIOC_STREAMOFF)
    }

    fn wait(&self, patience: Duration) -> io::Result<Ready> {
        // SAFETY: the descriptor is open as long as the device is, and that as long as `self`.
        let fd = unsafe { BorrowedFd::borrow_raw(self.device.handle().fd()) };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN | PollFlags::PRI)];
        let limit =
            Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        match poll(&mut fds, Some(&limit)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Ready::Nothing),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let events = fds[0].revents();
        // Frames first: the last ones before a loss are as good as any.
        if events.contains(PollFlags::IN) && !events.contains(PollFlags::ERR) {
            return Ok(Ready::Frame);
        }
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        Ok(if events.intersects(gone) { Ready::Gone } else { Ready::Nothing })
    }
}

fn buffer(index: u32) -> sys::v4l2_buffer {
    let mut buffer: sys::v4l2_buffer = blank();
    (buffer.index, buffer.type_, buffer.memory) = (index, CAPTURE, MMAP);
    buffer
}

fn layout(fourcc: FourCC) -> Option<PixelFormat> {
    LAYOUTS.iter().find(|(name, _)| **name == fourcc.repr).map(|(_, pixel)| *pixel)
}

fn per_second(interval: Fraction) -> Option<f32> {
    let fps = interval.denominator as f32 / interval.numerator as f32;
    (fps.is_finite() && fps > 0.0).then_some(fps)
}

/// Text of a fixed-size field: up to its zero, whatever bytes are in it.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
