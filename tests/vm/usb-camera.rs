//! A USB camera (UVC 1.0, MJPEG, bulk) in software, for a kernel with vhci-hcd: the kernel's own uvcvideo drives it. Each picture of a clip
//! is sent once, at its rate; some are damaged in the ways in which real cameras damage them.
//!
//! Usage: usb-camera CLIP.mjpeg WIDTH HEIGHT FPS BREAK-EVERY WAIT-S. The first picture is sent this long after streaming starts. Prints a
//! summary when the clip is over, then stays plugged in, silent, until it is killed, which unplugs it. USB/IP:
//! Documentation/usb/usbip_protocol.rst of the kernel; UVC: USB Device Class Definition for Video Devices 1.0, and its MJPEG payload.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a tool of the tests")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use flytrap::platform::clock::{Clock, Mono, SystemClock};

/// File that connects a virtual port: port, descriptor of the socket, device id, speed (3: high).
const ATTACH: &str = "/sys/devices/platform/vhci_hcd.0/attach";
/// A payload: 32 packets of 512 bytes, which uvcvideo requests in one transfer.
const PAYLOAD_BYTES: usize = 32 * 512;
/// The first pictures are garbage, as with many cameras.
const GARBAGE_FIRST: usize = 3;

const CMD_SUBMIT: u32 = 1;
const CMD_UNLINK: u32 = 2;
const RET_SUBMIT: u32 = 3;
const RET_UNLINK: u32 = 4;
const EPIPE: i32 = -32;
const ECONNRESET: i32 = -104;

/// How a picture is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// Truncated in the middle.
    Truncated,
    /// Only its first bytes.
    HeaderOnly,
    /// Other bytes, the same number of them.
    Garbage,
    /// Another marker in place of the start of image.
    WrongMarker,
    /// The camera's own error flag.
    Flagged,
    /// Stray bytes behind its end: harmless.
    ExtraBytes,
}

const BREAKS: [Break; 6] = [
    Break::Truncated,
    Break::HeaderOnly,
    Break::Garbage,
    Break::WrongMarker,
    Break::Flagged,
    Break::ExtraBytes,
];

fn broken(picture: &[u8], how: Break) -> Vec<u8> {
    let mut bytes = picture.to_vec();
    match how {
        Break::Truncated => bytes.truncate(picture.len() / 2),
        Break::HeaderOnly => bytes.truncate(20),
        Break::Garbage => bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 131 % 251) as u8),
        Break::WrongMarker => bytes[1] = 0xC4,
        Break::Flagged => {}
        Break::ExtraBytes => bytes.extend([0xAB; 1000]),
    }
    bytes
}

/// The pictures of a clip: from start of image to start of image.
fn pictures(clip: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> =
        (0..clip.len().saturating_sub(2)).filter(|&at| clip[at..at + 3] == [0xFF, 0xD8, 0xFF]).collect();
    let ends = starts.iter().skip(1).copied().chain([clip.len()]);
    starts.iter().zip(ends).map(|(&from, to)| &clip[from..to]).collect()
}

fn le16(value: usize) -> [u8; 2] {
    (value as u16).to_le_bytes()
}

fn le32(value: usize) -> [u8; 4] {
    (value as u32).to_le_bytes()
}

/// Device, configuration and text descriptors, and the response to PROBE and COMMIT.
struct Descriptors {
    device: Vec<u8>,
    configuration: Vec<u8>,
    probe: Vec<u8>,
}

impl Descriptors {
    fn new(width: usize, height: usize, interval: usize) -> Self {
        let frame_bytes = width * height * 2;
        let device = [&[18, 1, 0, 2, 0xEF, 2, 1, 64, 0x09, 0x12, 1, 0, 0, 1, 0, 1, 0, 1][..]].concat();
        let association = [8, 0x0B, 0, 2, 0x0E, 3, 0, 0];
        let control = [9, 4, 0, 0, 0, 0x0E, 1, 0, 0];
        let input = [18, 0x24, 2, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0];
        let output = [9, 0x24, 3, 2, 1, 1, 0, 1, 0];
        let control_total = le16(13 + input.len() + output.len());
        let control_header = [&[13, 0x24, 1, 0, 1][..], &control_total, &le32(48_000_000), &[1, 1]].concat();
        let streaming = [9, 4, 1, 0, 1, 0x0E, 2, 0, 0];
        let format = [11, 0x24, 6, 1, 1, 1, 1, 0, 0, 0, 0];
        let rate = le32(frame_bytes * 8 * 10);
        let frame = [
            &[30, 0x24, 7, 1, 0][..],
            &le16(width),
            &le16(height),
            &rate,
            &rate,
            &le32(frame_bytes),
            &le32(interval),
            &[1],
            &le32(interval),
        ]
        .concat();
        let colors = [6, 0x24, 0x0D, 1, 1, 4];
        let streaming_total = le16(14 + format.len() + frame.len() + colors.len());
        let streaming_header =
            [&[14, 0x24, 1, 1][..], &streaming_total, &[0x81, 0, 2, 0, 0, 0, 1, 0]].concat();
        let endpoint = [7, 5, 0x81, 2, 0, 2, 0];
        let interfaces = [
            &association[..],
            &control,
            &control_header,
            &input,
            &output,
            &streaming,
            &streaming_header,
            &format,
            &frame,
            &colors,
            &endpoint,
        ]
        .concat();
        let head = [&[9, 2][..], &le16(9 + interfaces.len()), &[2, 1, 0, 0x80, 50]].concat();
        // bmHint, format, frame, interval, three rates and sizes, delay; then bytes of a frame and of a payload.
        let probe =
            [&[0, 0, 1, 1][..], &le32(interval), &[0; 10], &le32(frame_bytes), &le32(PAYLOAD_BYTES)].concat();
        Descriptors { device, configuration: [head, interfaces].concat(), probe }
    }

    /// The response to a request on endpoint 0; `None` stalls it.
    fn answer(&self, setup: [u8; 8]) -> Option<Vec<u8>> {
        let [kind, request, value_low, value_high, ..] = setup;
        match (kind, request) {
            // GET_DESCRIPTOR
            (0x80, 6) => match value_high {
                1 => Some(self.device.clone()),
                2 => Some(self.configuration.clone()),
                3 if value_low == 0 => Some(vec![4, 3, 9, 4]),
                3 => {
                    let text: Vec<u8> = "Test camera".encode_utf16().flat_map(u16::to_le_bytes).collect();
                    Some([&[text.len() as u8 + 2, 3][..], &text].concat())
                }
                _ => None,
            },
            (0x80..=0x82, 0) => Some(vec![0, 0]),
            // SET_CONFIGURATION, SET_INTERFACE, CLEAR_FEATURE, SET_FEATURE, and UVC's SET_CUR
            (0x00, 9) | (0x01, 11) | (0x00..=0x02, 1 | 3) | (0x21, 1) => Some(Vec::new()),
            // UVC: GET_INFO, GET_LEN, and all others of PROBE and COMMIT
            (0xA1, 0x86) => Some(vec![3]),
            (0xA1, 0x85) => Some(le16(self.probe.len()).to_vec()),
            (0xA1, 0x81..=0x87) if matches!(value_high, 1 | 2) => Some(self.probe.clone()),
            _ => None,
        }
    }
}

/// The device's end of the cable.
struct Cable {
    socket: UnixStream,
    descriptors: Descriptors,
    /// Numbers and lengths of the transfers that wait for a payload.
    waiting: VecDeque<(u32, usize)>,
    /// Received bytes that are not a whole message yet.
    inbox: Vec<u8>,
}

impl Cable {
    /// Completes a transfer or an unlink request: this many bytes were moved, and these are for the kernel.
    fn reply(&mut self, command: u32, seq: u32, status: i32, moved: usize, data: &[u8]) {
        let mut message = Vec::with_capacity(48 + data.len());
        for word in [command, seq, 0, 0, 0, status as u32, moved as u32, 0, 0, 0, 0, 0] {
            message.extend(word.to_be_bytes());
        }
        message.extend(data);
        self.socket.write_all(&message).unwrap();
    }

    /// Handles the kernel's messages until `until`.
    fn serve(&mut self, clock: &dyn Clock, until: Mono) {
        loop {
            let left = until.since(clock.mono());
            if left.is_zero() {
                return;
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut bytes = [0; 4096];
            match self.socket.read(&mut bytes) {
                Ok(0) => panic!("unplugged by the kernel"),
                Ok(count) => {
                    self.inbox.extend(&bytes[..count]);
                    while self.message() {}
                }
                // The time is over.
                Err(_) => {}
            }
        }
    }

    /// Handles the first message of the inbox, if it is complete.
    fn message(&mut self) -> bool {
        if self.inbox.len() < 48 {
            return false;
        }
        let word = |at: usize| u32::from_be_bytes(self.inbox[at..at + 4].try_into().unwrap());
        let (command, seq, direction, endpoint) = (word(0), word(4), word(12), word(16));
        let length = word(24) as usize;
        let data = if command == CMD_SUBMIT && direction == 0 { length } else { 0 };
        if self.inbox.len() < 48 + data {
            return false;
        }
        let unlinked = word(20);
        let setup: [u8; 8] = self.inbox[40..48].try_into().unwrap();
        self.inbox.drain(..48 + data);
        match (command, endpoint) {
            (CMD_SUBMIT, 0) => match self.descriptors.answer(setup) {
                Some(mut answer) => {
                    answer.truncate(length);
                    // A write is acknowledged in full.
                    let moved = if direction == 0 { data } else { answer.len() };
                    self.reply(RET_SUBMIT, seq, 0, moved, &answer);
                }
                None => self.reply(RET_SUBMIT, seq, EPIPE, 0, &[]),
            },
            (CMD_SUBMIT, _) => self.waiting.push_back((seq, length)),
            (CMD_UNLINK, _) => {
                let before = self.waiting.len();
                self.waiting.retain(|(waiting, _)| *waiting != unlinked);
                let status = if self.waiting.len() < before { ECONNRESET } else { 0 };
                self.reply(RET_UNLINK, seq, status, 0, &[]);
            }
            _ => panic!("command {command}"),
        }
        true
    }

    /// Sends a picture as payloads, each in a transfer of its own. False if streaming has stopped.
    fn send(&mut self, clock: &dyn Clock, picture: &[u8], even: bool, flagged: bool) -> bool {
        let mut left = picture;
        while !left.is_empty() {
            let patient_until = clock.mono() + Duration::from_secs(1);
            while self.waiting.is_empty() && clock.mono() < patient_until {
                let soon = clock.mono() + Duration::from_millis(5);
                self.serve(clock, soon);
            }
            let Some((seq, length)) = self.waiting.pop_front() else { return false };
            let (now, later) = left.split_at(left.len().min(length.min(PAYLOAD_BYTES) - 2));
            left = later;
            // Header flags: end of header, frame id, end of frame, error.
            let info = 0x80 | u8::from(even) | u8::from(left.is_empty()) << 1 | u8::from(flagged) << 6;
            let payload = [&[2, info][..], now].concat();
            self.reply(RET_SUBMIT, seq, 0, payload.len(), &payload);
        }
        true
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, clip, width, height, fps, break_every, wait_s] = &arguments[..] else {
        panic!("usage: usb-camera CLIP.mjpeg WIDTH HEIGHT FPS BREAK-EVERY WAIT-S");
    };
    let number = |text: &String| text.parse::<usize>().unwrap();
    let (fps, break_every) = (number(fps), number(break_every));
    let clip = std::fs::read(clip).unwrap();
    let pictures = pictures(&clip);
    let clock = SystemClock;
    let (ours, kernels) = UnixStream::pair().unwrap();
    let descriptors = Descriptors::new(number(width), number(height), 10_000_000 / fps);
    let mut cable = Cable { socket: ours, descriptors, waiting: VecDeque::new(), inbox: Vec::new() };
    // Port 0, device 1.0, high speed.
    std::fs::write(ATTACH, format!("0 {} 65536 3", kernels.as_raw_fd())).expect("is vhci-hcd loaded?");
    let (mut sent, mut bad, mut even, mut breaks) = (0usize, 0usize, false, BREAKS.into_iter().cycle());
    while cable.waiting.is_empty() {
        let soon = clock.mono() + Duration::from_millis(5);
        cable.serve(&clock, soon);
    }
    let mut next = clock.mono() + Duration::from_secs(number(wait_s) as u64);
    cable.serve(&clock, next);
    while sent < pictures.len() + GARBAGE_FIRST {
        next = next + Duration::from_nanos(1_000_000_000 / fps as u64);
        cable.serve(&clock, next);
        if cable.waiting.is_empty() {
            // Not streaming.
            next = clock.mono();
            continue;
        }
        let how = match sent {
            first if first < GARBAGE_FIRST => Some(Break::Garbage),
            sent => (sent % break_every == 0).then(|| breaks.next().unwrap()),
        };
        let picture = pictures[sent.saturating_sub(GARBAGE_FIRST)];
        let bytes = how.map_or(picture.to_vec(), |how| broken(picture, how));
        if cable.send(&clock, &bytes, even, how == Some(Break::Flagged)) {
            even = !even;
            sent += 1;
            bad += usize::from(how.is_some_and(|how| how != Break::ExtraBytes));
        }
    }
    println!("SENT {sent} BAD {bad}");
    loop {
        let soon = clock.mono() + Duration::from_secs(3600);
        cable.serve(&clock, soon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every descriptor has its correct length, and the totals are correct.
    #[test]
    fn descriptors_add_up() {
        let Descriptors { device, configuration, probe } = Descriptors::new(240, 144, 1_000_000);
        assert_eq!((device.len(), device[0] as usize, probe.len()), (18, 18, 26));
        assert_eq!(usize::from(configuration[2]) | usize::from(configuration[3]) << 8, configuration.len());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < configuration.len() {
            kinds.push(configuration[at + 1]);
            at += usize::from(configuration[at]);
        }
        assert_eq!(at, configuration.len());
        assert_eq!(kinds, [2, 0x0B, 4, 0x24, 0x24, 0x24, 4, 0x24, 0x24, 0x24, 0x24, 5]);
    }
}
