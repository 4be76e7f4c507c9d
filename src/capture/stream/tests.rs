//! Streams of known frames, cut into arbitrary pieces; and random streams.

use super::super::mjpeg_stream::tests::skeleton;
use super::super::nut::tests as nut_bytes;
use super::*;
use proptest::prelude::*;

/// Bytes that come in pieces. A piece of 0: nothing within the time limit.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    /// Sizes of the pieces, repeated.
    pieces: Vec<usize>,
    turn: usize,
    /// Whether the length is known, as for a file.
    known: bool,
    /// Waits over the pauses, as while the rest of a frame is read.
    patient: bool,
    calls: usize,
}

impl Pieces {
    fn new(bytes: Vec<u8>, pieces: &[usize], known: bool) -> Self {
        // Not all of them may be pauses.
        let pieces = pieces.iter().copied().chain([1000]).collect();
        Pieces { bytes, at: 0, pieces, turn: 0, known, patient: true, calls: 0 }
    }

    fn next(&mut self, most: usize) -> ReadOutcome {
        assert!(most > 0, "asked for nothing");
        self.calls += 1;
        if self.at == self.bytes.len() {
            return ReadOutcome::End;
        }
        loop {
            let piece = self.pieces[self.turn % self.pieces.len()];
            self.turn += 1;
            match piece.min(most).min(self.bytes.len() - self.at) {
                0 if self.patient => {}
                0 => return ReadOutcome::Idle,
                count => {
                    self.at += count;
                    return ReadOutcome::Some(count);
                }
            }
        }
    }
}

impl Bytes for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> Result<ReadOutcome> {
        let start = self.at;
        let got = self.next(buffer.len());
        if let ReadOutcome::Some(count) = got {
            buffer[..count].copy_from_slice(&self.bytes[start..start + count]);
        }
        Ok(got)
    }

    fn skip(&mut self, most: u64) -> Result<ReadOutcome> {
        Ok(self.next(usize::try_from(most).unwrap()))
    }

    fn remaining(&self) -> Option<u64> {
        self.known.then(|| (self.bytes.len() - self.at) as u64)
    }

    fn now(&self) -> Mono {
        Mono::from_nanos(self.calls as u64)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Y4m,
    Raw,
    Mjpeg,
    Nut,
}

/// 16x16 I420.
const RAW_BYTES: usize = 16 * 16 * 3 / 2;

/// A stream of frames: its bytes, and each frame's offset and payload.
fn stream(kind: Kind, fills: &[u8]) -> (Vec<u8>, Vec<(usize, Vec<u8>)>) {
    let mut bytes = match kind {
        Kind::Y4m => b"YUV4MPEG2 W16 H16 F25:1 Ip C420jpeg\n".to_vec(),
        Kind::Nut => nut_bytes::start(16, 16),
        Kind::Raw | Kind::Mjpeg => Vec::new(),
    };
    let mut frames = Vec::new();
    for &fill in fills {
        let start = bytes.len();
        match kind {
            Kind::Y4m => bytes.extend(b"FRAME\n"),
            Kind::Nut => nut_bytes::frame(&mut bytes, frames.len() as u64 * 40_000, RAW_BYTES),
            Kind::Raw | Kind::Mjpeg => {}
        }
        let payload = match kind {
            Kind::Y4m | Kind::Raw | Kind::Nut => {
                (0..RAW_BYTES).map(|at| fill.wrapping_add(at as u8)).collect()
            }
            Kind::Mjpeg => skeleton(16, 16, fill),
        };
        bytes.extend(&payload);
        frames.push((start, payload));
    }
    (bytes, frames)
}

fn params() -> CaptureParams {
    CaptureParams { width: Some(16), height: Some(16), ..CaptureParams::default() }
}

fn expect(kind: Kind, look: bool) -> Expect {
    match kind {
        Kind::Raw if look => Expect::Detect(Some(PixelFormat::I420)),
        Kind::Y4m | Kind::Mjpeg if look => Expect::Detect(None),
        Kind::Y4m => Expect::Y4m,
        Kind::Raw => Expect::Raw(PixelFormat::I420),
        Kind::Mjpeg => Expect::Mjpeg,
        Kind::Nut => Expect::Nut,
    }
}

/// Everything that came out of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Played {
    announced: usize,
    /// Number and bytes of the frames read.
    read: Vec<(usize, Vec<u8>)>,
    /// Number of partial frames reported.
    halves: Vec<u64>,
    faults: usize,
}

/// Plays to the end, reading the frames that `wanted` selects, repeatedly.
fn play(framer: &mut Framer, source: &mut Pieces, wanted: &[bool]) -> Played {
    let mut played = Played::default();
    let mut buffer = vec![0; 1 << 16];
    let calls_max = 4 * source.bytes.len() + 100;
    for _ in 0..calls_max {
        source.patient = false;
        let next = framer.advance(source);
        source.patient = true;
        match next {
            Ok(Next::Frame(arrived)) => {
                assert!(arrived <= source.now());
                let number = played.announced;
                played.announced += 1;
                if wanted[number % wanted.len()] {
                    match framer.read_into(source, &mut buffer).unwrap() {
                        Read::Whole(filled) => {
                            played.read.push((number, buffer[..filled.bytes_used].to_vec()));
                        }
                        Read::Cut(half) => played.halves.push(half.have),
                        Read::Late(half) => panic!("late without a pause: {half}"),
                    }
                }
            }
            Ok(Next::Idle) => {}
            Ok(Next::End(half)) => {
                played.halves.extend(half.map(|half| half.have));
                // The end is permanent, and is reported without the partial frame.
                assert_eq!(framer.advance(source).unwrap(), Next::End(None));
                return played;
            }
            Err(Fault::Frame(_) | Fault::Stream(_)) => played.faults += 1,
            Err(Fault::Source(error)) => panic!("{error}"),
        }
    }
    panic!("no end after {calls_max} steps: {played:?}");
}

fn opened(source: &mut Pieces, expect: Expect) -> Framer {
    match Framer::open(source, expect, &params(), "test") {
        Ok(Opened::Yes(framer)) => framer,
        Ok(Opened::Idle | Opened::End) => panic!("not opened"),
        Err(fault) => panic!("{fault:?}"),
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Y4m), Just(Kind::Raw), Just(Kind::Mjpeg), Just(Kind::Nut)]
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![Just(0usize), 1usize..8, 8usize..600], 0..12)
}

proptest! {
    /// Every frame is announced once, and frames that are read have the right bytes, whatever the pieces and pauses and whichever frames
    /// are skipped.
    #[test]
    fn frames_are_byte_exact(
        kind in kinds(),
        fills in proptest::collection::vec(any::<u8>(), 1..8),
        wanted in proptest::collection::vec(any::<bool>(), 1..5),
        pieces in pieces(),
        known: bool,
        look: bool,
    ) {
        let (bytes, frames) = stream(kind, &fills);
        let mut source = Pieces::new(bytes, &pieces, known);
        let mut framer = opened(&mut source, expect(kind, look));
        let played = play(&mut framer, &mut source, &wanted);
        let read = frames.into_iter().map(|(_, payload)| payload).enumerate();
        let read = read.filter(|(number, _)| wanted[number % wanted.len()]).collect();
        prop_assert_eq!(played, Played { announced: fills.len(), read, halves: vec![], faults: 0 });
    }

    /// A stream that ends anywhere: the complete frames before the end are read, the partial one is reported once, with its length.
    #[test]
    fn a_partial_frame_is_reported_once(
        kind in kinds(),
        fills in proptest::collection::vec(any::<u8>(), 2..6),
        wanted in proptest::collection::vec(any::<bool>(), 1..5),
        pieces in pieces(),
        known: bool,
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut bytes, frames) = stream(kind, &fills);
        // The first frame stays complete: it determines an MJPEG stream's format.
        let first = frames[1].0;
        let whole_length = bytes.len();
        bytes.truncate(first + cut.index(bytes.len() - first));
        let length = bytes.len();
        let header_of = |start: usize| match kind {
            Kind::Y4m => b"FRAME\n".len(),
            // The time in a frame's header grows by a byte or two.
            Kind::Nut => {
                let next = frames.iter().map(|frame| frame.0).find(|next| *next > start).unwrap_or(whole_length);
                next - start - RAW_BYTES
            }
            Kind::Raw | Kind::Mjpeg => 0,
        };
        let end = |(start, payload): &(usize, Vec<u8>)| start + payload.len() + header_of(*start);
        let whole: Vec<_> = frames.iter().filter(|frame| end(frame) <= length).collect();
        let mut source = Pieces::new(bytes, &pieces, known);
        let mut framer = opened(&mut source, expect(kind, false));
        let played = play(&mut framer, &mut source, &wanted);
        let read: Vec<_> = whole.iter().map(|(_, payload)| payload.clone()).enumerate()
            .filter(|(number, _)| wanted[number % wanted.len()]).collect();
        prop_assert_eq!(played.faults, 0);
        let left = length - end(whole.last().unwrap());
        // If a JPEG's picture data have begun, perhaps only EOI is missing: the decoder decides.
        let rest = length - left;
        let begun = kind == Kind::Mjpeg && source.bytes[rest..].windows(2).any(|pair| pair == [0xFF, 0xDA]) && {
            let header = source.bytes[rest..].windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
            left >= header + 14
        };
        if begun {
            prop_assert_eq!(played.announced, whole.len() + 1);
            prop_assert!(played.halves.is_empty());
            prop_assert_eq!(&played.read[..read.len()], &read);
            return Ok(());
        }
        prop_assert_eq!(&played.read, &read);
        let cut_frame = frames.get(whole.len()).map(|frame| frame.0);
        let header = cut_frame.is_some_and(|start| left > 0 && left == header_of(start));
        if header {
            // A header alone has no frame data: reported only if the reader wanted a frame that a pipe announced.
            let asked = !known && wanted[whole.len() % wanted.len()];
            prop_assert_eq!(&played.halves, &vec![0; usize::from(asked)]);
        } else {
            // A NUT header may be used up piece by piece, so that nothing of it is left.
            let in_header = kind == Kind::Nut && cut_frame.is_some_and(|start| left < header_of(start));
            if !in_header {
                prop_assert_eq!(played.halves.len(), usize::from(left > 0), "{:?} of {}", played.halves, left);
            }
            prop_assert!(played.halves.iter().all(|&have| have > 0 && have <= left as u64));
        }
        // A pipe announces a frame by its first bytes, a file only when it is complete.
        let announced_early = !known && kind != Kind::Mjpeg && played.announced == whole.len() + 1;
        prop_assert!(played.announced == whole.len() || announced_early);
    }

    /// Any bytes: no panic, an end, and no more work than there are bytes.
    #[test]
    fn any_bytes_reach_the_end(
        start in prop_oneof![
            Just(&b""[..]), Just(&b"YUV4MPEG2 W16 H16 F25:1\n"[..]), Just(&b"YUV4MPEG2 "[..]), Just(&b"FRAME\n"[..]),
            Just(&b"\xFF\xD8\xFF"[..]), Just(&b"YUV4MPEG2 W16 H16 F25:1\nFRAME\n"[..]), Just(&nut_bytes::start(16, 16).leak()[..]),
        ],
        jpeg: bool,
        noise in proptest::collection::vec(
            prop_oneof![Just(0xFFu8), Just(0xD8), Just(0xD9), Just(0xC0), Just(0), Just(b'\n'), Just(b'F'), any::<u8>()], 0..2000),
        at in any::<prop::sample::Index>(),
        wanted in proptest::collection::vec(any::<bool>(), 1..5),
        pieces in pieces(),
        known: bool,
        what in prop_oneof![
            Just(Expect::Y4m), Just(Expect::Mjpeg), Just(Expect::Raw(PixelFormat::I420)), Just(Expect::Detect(None)),
            Just(Expect::Detect(Some(PixelFormat::Yuyv))), Just(Expect::Nut),
        ],
    ) {
        let mut noise = noise;
        if jpeg {
            let at = at.index(noise.len() + 1);
            noise.splice(at..at, skeleton(16, 16, 1));
        }
        let mut source = Pieces::new([start, &noise].concat(), &pieces, known);
        let bytes = source.bytes.len();
        if let Ok(Opened::Yes(mut framer)) = Framer::open(&mut source, what, &params(), "test") {
            let played = play(&mut framer, &mut source, &wanted);
            prop_assert!(played.halves.len() <= 1);
            prop_assert!(framer.offset() <= bytes as u64);
        }
        prop_assert!(source.calls <= 2 * bytes + 100, "{} reads of {} bytes", source.calls, bytes);
    }
}

/// A pipe that ends after a frame's header: the frame was announced, so its reader learns that no data followed.
#[test]
fn a_header_alone_is_a_cut_frame_without_a_byte() {
    let (mut bytes, frames) = stream(Kind::Y4m, &[0, 0]);
    bytes.truncate(frames[1].0 + b"FRAME\n".len());
    for (wanted, halves) in [(true, vec![0]), (false, vec![])] {
        let mut source = Pieces::new(bytes.clone(), &[], false);
        let mut framer = opened(&mut source, Expect::Y4m);
        let played = play(&mut framer, &mut source, &[true, wanted]);
        assert_eq!((played.announced, played.read.len(), played.halves), (2, 1, halves), "wanted: {wanted}");
    }
}

#[test]
fn a_frame_can_be_read_once_and_only_into_a_large_enough_buffer() {
    let (bytes, frames) = stream(Kind::Y4m, &[1, 2]);
    let mut source = Pieces::new(bytes, &[7], false);
    let mut framer = opened(&mut source, Expect::Y4m);
    let mut buffer = vec![0; RAW_BYTES];
    assert!(matches!(framer.read_into(&mut source, &mut buffer), Err(Fault::Frame(_))), "not announced");
    assert!(matches!(framer.advance(&mut source), Ok(Next::Frame(_))));
    let short = framer.read_into(&mut source, &mut buffer[1..]).unwrap_err();
    assert!(
        matches!(&short, Fault::Frame(text) if text == "a frame of 384 bytes, but a buffer of only 383"),
        "{short:?}"
    );
    assert!(
        matches!(framer.read_into(&mut source, &mut buffer), Ok(Read::Whole(_))),
        "nothing of it was lost"
    );
    assert_eq!(buffer, frames[0].1);
    assert!(matches!(framer.read_into(&mut source, &mut buffer), Err(Fault::Frame(_))), "once");
}

#[test]
fn a_pause_inside_a_frame_is_reported_and_the_rest_is_skipped() {
    let (bytes, frames) = stream(Kind::Raw, &[1, 2]);
    let mut source = Pieces::new(bytes, &[10, 0], false);
    let mut framer = opened(&mut source, Expect::Raw(PixelFormat::I420));
    assert!(matches!(framer.advance(&mut source), Ok(Next::Frame(_))));
    source.patient = false;
    let mut buffer = vec![0; RAW_BYTES];
    let late = framer.read_into(&mut source, &mut buffer).unwrap();
    assert_eq!(late, Read::Late(Half { have: 10, need: Some(RAW_BYTES) }));
    source.patient = true;
    assert!(matches!(framer.advance(&mut source), Ok(Next::Frame(_))));
    assert!(matches!(framer.read_into(&mut source, &mut buffer), Ok(Read::Whole(_))));
    assert_eq!(buffer, frames[1].1, "the next frame is read correctly");
}

#[test]
fn damage_ends_a_y4m_stream_with_its_offset() {
    let (mut bytes, frames) = stream(Kind::Y4m, &[1, 2]);
    let at = frames[1].0;
    bytes[at + 1] = b'X';
    let mut source = Pieces::new(bytes, &[], true);
    let mut framer = opened(&mut source, Expect::Y4m);
    assert!(matches!(framer.advance(&mut source), Ok(Next::Frame(_))));
    let fault = framer.advance(&mut source).unwrap_err();
    assert!(matches!(&fault, Fault::Stream(text) if text.contains(&format!("byte {at}"))), "{fault:?}");
    assert_eq!(framer.advance(&mut source).unwrap(), Next::End(None));
}

#[test]
fn an_mjpeg_stream_may_change_its_size_and_restarts_with_the_first() {
    let (small, large) = (skeleton(16, 16, 1), skeleton(48, 32, 2));
    let bytes = [small.repeat(2), large.repeat(5), small.clone(), large.clone()].concat();
    for pieces in [&[1][..], &[50], &[]] {
        let mut source = Pieces::new(bytes.clone(), pieces, true);
        let mut framer = opened(&mut source, Expect::Mjpeg);
        let played = play(&mut framer, &mut source, &[true]);
        // The first two frames of the new size are not accepted, nor is the single small frame among large ones.
        let frames: Vec<_> = played.read.iter().map(|(_, bytes)| bytes.clone()).collect();
        let expected = [&small, &small, &large, &large, &large, &large].map(Clone::clone);
        assert_eq!((frames.as_slice(), played.faults), (&expected[..], 3));
        assert_eq!((framer.format().width, framer.format().height), (48, 32));
        framer.rewound(0);
        assert_eq!(framer.format().width, 16);
    }
}

#[test]
fn a_second_yuv4mpeg_header_changes_the_size() {
    let (first, _) = stream(Kind::Y4m, &[1, 2]);
    let second = [&b"YUV4MPEG2 W32 H16 F25:1 Ip C420jpeg\nFRAME\n"[..], &[7; 32 * 16 * 3 / 2]].concat();
    let mut source = Pieces::new([first, second].concat(), &[5], true);
    let mut framer = opened(&mut source, Expect::Y4m);
    let played = play(&mut framer, &mut source, &[true]);
    let lengths: Vec<usize> = played.read.iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!((lengths, played.faults), (vec![384, 384, 768], 0));
    assert_eq!(framer.format().width, 32);
}

/// Text before the first frame, a multipart boundary, half a frame: the stream begins at its first complete frame.
#[test]
fn the_start_of_a_stream_is_found_after_other_bytes() {
    let jpeg = skeleton(16, 16, 1);
    let middle = &jpeg[jpeg.len() - 20..];
    for kind in [Kind::Y4m, Kind::Mjpeg] {
        let (bytes, frames) = stream(kind, &[1, 2, 3]);
        for before in [
            &b"Setting pipeline to PAUSED ...\n"[..],
            b"--b\r\nContent-Type: image/jpeg\r\n\r\n",
            middle,
            b"YUV4",
            &[b'x'; 60_000],
        ] {
            for pieces in [&[1][..], &[7, 0], &[4000]] {
                let mut source = Pieces::new([before, &bytes].concat(), pieces, false);
                let mut framer = opened(&mut source, Expect::Detect(None));
                assert!(framer.offset() <= (before.len() + frames[0].0) as u64);
                let played = play(&mut framer, &mut source, &[true]);
                let read: Vec<_> = played.read.into_iter().map(|(_, bytes)| bytes).collect();
                assert!(
                    read.iter().eq(frames.iter().map(|(_, payload)| payload)),
                    "{kind:?} after {before:?}"
                );
            }
        }
    }
    let (bytes, _) = stream(Kind::Mjpeg, &[1]);
    for (before, words) in
        [(vec![b'x'; 80_000], "camera.pixel_format = \"mjpeg\""), (b"usage: video".to_vec(), "usage: video")]
    {
        let rest = if before.len() > 1000 { &bytes[..] } else { &[] };
        let mut source = Pieces::new([&before, rest].concat(), &[1000], false);
        match Framer::open(&mut source, Expect::Detect(None), &params(), "test") {
            Err(Fault::Stream(text)) => assert!(text.contains(words), "{text}"),
            _ => panic!("opened"),
        }
    }
}

#[test]
fn a_jpeg_without_its_end_is_a_frame_where_the_next_begins_or_the_stream_ends() {
    let whole = skeleton(16, 16, 1);
    let bare = &whole[..whole.len() - 2];
    let mut source = Pieces::new(bare.repeat(4), &[9, 0], false);
    let mut framer = opened(&mut source, Expect::Mjpeg);
    let played = play(&mut framer, &mut source, &[true, false]);
    assert_eq!((played.announced, played.faults, played.halves.len()), (4, 0, 0));
    assert!(played.read.iter().all(|(_, bytes)| bytes == bare) && played.read.len() == 2);
}

/// A JPEG may be larger than its size suggests.
#[test]
fn a_jpeg_of_many_bytes_is_collected() {
    let mut large = skeleton(16, 16, 1);
    let end = large.len() - 2;
    large.splice(end..end, vec![0x11; 1 << 20]);
    let mut source = Pieces::new(large.repeat(2), &[65_536], false);
    let mut framer = opened(&mut source, Expect::Mjpeg);
    for _ in 0..2 {
        assert!(matches!(framer.advance(&mut source), Ok(Next::Frame(_))));
        assert_eq!(framer.announced_bytes(), Some(large.len()));
        let mut buffer = vec![0; large.len()];
        assert!(matches!(framer.read_into(&mut source, &mut buffer), Ok(Read::Whole(_))));
        assert!(buffer == large);
    }
}

#[test]
fn padded_rows_are_noticed_and_packed_ones_are_not() {
    let picture = |row: usize, width: usize| -> Vec<u8> {
        (0..200 * row)
            .map(|at| (at % row, at / row))
            .map(|(x, y)| {
                if x >= width {
                    0
                } else if (x + y / 3) % 90 > 40 {
                    180 + (x % 7) as u8
                } else {
                    30 + (y % 5) as u8
                }
            })
            .collect()
    };
    for (row, width, likely) in [
        (832, 780, Some(832)),
        (780, 780, None),
        (832, 832, None),
        (128, 100, Some(128)),
        (112, 100, Some(112)),
    ] {
        assert_eq!(likely_row_bytes(&picture(row, width), width), likely, "rows of {row} for {width}");
    }
    assert_eq!(likely_row_bytes(&[128; 10_000], 100), None, "nothing can be seen");
    assert_eq!(likely_row_bytes(&[], 100), None);
}
