//! Splits a stream of JPEGs into frames, and reads a JPEG's headers without decoding it.
//!
//! Pure. Walks from marker to marker (ITU-T T.81 annex B), so that a thumbnail inside a segment is not taken for a frame. Bytes between
//! segments (a segment that is longer than its length field) are skipped, up to `JUNK_BYTES_MAX`. A frame ends with EOI; without one, where
//! the next begins. Never decodes, never copies, and allocates only for the text of an error.

use crate::capture::frame::{Color, FrameFormat, PixelFormat};

/// Maximum number of bytes between the segments of a JPEG's headers.
const JUNK_BYTES_MAX: usize = 64 << 10;
/// After this many frames in a row of one other size, the stream has changed its size.
const SIZE_STAYS_FRAMES: u32 = 3;

/// The contents of a JPEG's frame header (SOF).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JpegInfo {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// 1 for grey, 3 for colour, 4 for print.
    pub components: u8,
    /// Huffman-coded, sequential, 8 bits, grey or colour: what our own decoder reads.
    pub baseline: bool,
    /// Why no decoder here supports it, if none does.
    pub refusal: Option<&'static str>,
    /// EXIF orientation, 1..=8; 1 is upright.
    pub orientation: u8,
}

impl JpegInfo {
    /// The frame format of such a picture.
    ///
    /// # Errors
    /// Sides out of the limits.
    pub fn format(&self, color: super::ColorOverride) -> Result<FrameFormat, String> {
        FrameFormat::packed(PixelFormat::Mjpeg, self.width, self.height, color.apply(Color::JPEG))
            .map_err(|error| error.to_string())
    }
}

/// What the beginning of a JPEG shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The frame header.
    Info(JpegInfo),
    /// It comes later: more bytes are needed.
    More,
    /// Not a JPEG, for this reason.
    Broken(&'static str),
}

/// Searches the first bytes of a JPEG for the frame header.
pub fn jpeg_head(bytes: &[u8]) -> Head {
    let mut at = match bytes {
        [0xFF, 0xD8, ..] => 2,
        [] | [0xFF] => return Head::More,
        _ => return Head::Broken("it does not begin with FF D8"),
    };
    let (mut junk, mut orientation) = (0, 1);
    loop {
        match segment(bytes, at) {
            Segment::More => return Head::More,
            Segment::Junk { next } => {
                junk += next - at;
                at = next;
                if junk > JUNK_BYTES_MAX {
                    return Head::Broken(LOST_IN_JUNK);
                }
            }
            Segment::Bare { marker: 0xD9, .. } => return Head::Broken("it ends before its frame header"),
            Segment::Bare { next, .. } => at = next,
            Segment::Body { marker, next, body } => {
                if is_sof(marker) {
                    return frame_header(marker, body, orientation);
                }
                if marker == 0xDA {
                    return Head::Broken("its picture data come before the frame header");
                }
                if marker == 0xE1 {
                    orientation = exif_orientation(body).unwrap_or(orientation);
                }
                at = next;
            }
        }
    }
}

const LOST_IN_JUNK: &str = "there are too many bytes between its header segments";

/// Reads SOF (T.81 B.2.2).
fn frame_header(marker: u8, body: &[u8], orientation: u8) -> Head {
    let Some(&[precision, h1, h0, w1, w0, components]) = body.first_chunk::<6>() else {
        return Head::Broken("its frame header is cut off");
    };
    let refusal = match (marker, precision) {
        (0xC0..=0xC2, 8) => None,
        (0xC0..=0xC2, _) => Some("samples of more than 8 bits"),
        (0xC3, _) => Some("lossless coding"),
        (0xC9..=0xCB, _) => Some("arithmetic coding"),
        _ => Some("hierarchical coding"),
    };
    Head::Info(JpegInfo {
        width: u32::from(u16::from_be_bytes([w1, w0])),
        height: u32::from(u16::from_be_bytes([h1, h0])),
        components,
        baseline: matches!(marker, 0xC0 | 0xC1) && precision == 8 && matches!(components, 1 | 3),
        refusal,
        orientation,
    })
}

/// The orientation in an APP1 segment of EXIF: tag 0x0112 of the first directory of its TIFF structure (Exif 2.32, 4.6.4).
fn exif_orientation(body: &[u8]) -> Option<u8> {
    let tiff = body.strip_prefix(b"Exif\0\0")?;
    let little = match tiff.first_chunk::<4>()? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk::<2>()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let directory = {
        let bytes = *tiff.get(4..)?.first_chunk::<4>()?;
        let offset = if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
        usize::try_from(offset).ok().filter(|offset| *offset < tiff.len())?
    };
    let entries = usize::from(short(directory)?);
    let entry = (0..entries).map(|index| directory + 2 + index * 12).find(|&at| short(at) == Some(0x0112))?;
    // Type 3: one number of 16 bits, at the start of the entry's value.
    (short(entry + 2)? == 3)
        .then(|| short(entry + 8))?
        .and_then(|value| u8::try_from(value).ok())
        .filter(|value| (1..=8).contains(value))
}

/// Distinguishes a stream that has changed its size from single frames of another size (a placeholder, a thumbnail, damage).
#[derive(Debug, Default)]
pub struct SizeWatch {
    other: (u32, u32),
    /// Frames in a row of that size.
    count: u32,
}

impl SizeWatch {
    /// Whether the stream has changed its size from `size` to that of the newest frame, `found`.
    pub fn has_changed(&mut self, size: (u32, u32), found: (u32, u32)) -> bool {
        if size == found {
            self.count = 0;
            return false;
        }
        self.count = if self.other == found { self.count + 1 } else { 1 };
        self.other = found;
        let changed = self.count >= SIZE_STAYS_FRAMES;
        if changed {
            self.count = 0;
        }
        changed
    }
}

/// SOF0..SOF15 without DHT, JPG and DAC, whose codes lie in between.
fn is_sof(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

enum Segment<'a> {
    More,
    /// The bytes before `next` belong to no segment.
    Junk {
        next: usize,
    },
    /// A marker without a body.
    Bare {
        marker: u8,
        next: usize,
    },
    /// A marker with its body; `next` is the index of the first byte after it.
    Body {
        marker: u8,
        next: usize,
        body: &'a [u8],
    },
}

/// The segment at `at`, if it is complete.
fn segment(bytes: &[u8], mut at: usize) -> Segment<'_> {
    match bytes.get(at..).unwrap_or(&[]) {
        [] => return Segment::More,
        [0xFF, ..] => at += 1,
        rest => {
            let junk = rest.iter().position(|&byte| byte == 0xFF).unwrap_or(rest.len());
            return Segment::Junk { next: at + junk };
        }
    }
    // Any number of FF may fill the space before a marker.
    while bytes.get(at) == Some(&0xFF) {
        at += 1;
    }
    let Some(&marker) = bytes.get(at) else { return Segment::More };
    match marker {
        // A stuffed byte, or a code that T.81 reserves (table B.1).
        0x00 | 0x02..=0xBF => Segment::Junk { next: at + 1 },
        0x01 | 0xD0..=0xD9 => Segment::Bare { marker, next: at + 1 },
        _ => {
            let Some(&[high, low]) = bytes.get(at + 1..).and_then(|rest| rest.first_chunk::<2>()) else {
                return Segment::More;
            };
            // A length of less than its own two bytes: the next marker shows where the segment ends.
            let length = usize::from(u16::from_be_bytes([high, low])).max(2);
            match bytes.get(at + 3..at + 1 + length) {
                Some(body) => Segment::Body { marker, next: at + 1 + length, body },
                None => Segment::More,
            }
        }
    }
}

/// What [`Splitter::scan`] found at the start of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Undecided: call again with the same bytes and more after them.
    More,
    /// This many bytes are not a JPEG; drop them.
    Skip(usize),
    /// This many bytes are one whole JPEG.
    Frame(usize),
    /// This many bytes began like a JPEG and are not one; drop them.
    Broken(usize, &'static str),
}

/// Finds the frames of a stream. Remembers its position, so that no byte is examined twice.
#[derive(Debug, Default)]
pub struct Splitter {
    /// Where to continue, relative to the frame's start.
    at: usize,
    /// Inside entropy-coded data rather than between segments.
    in_scan: bool,
    /// A scan has begun: there is a picture, perhaps without its end.
    has_scan: bool,
    /// Bytes so far that belong to no segment.
    junk: usize,
}

impl Splitter {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Examines `bytes`, which begin where those of the last answer ended. After any answer but [`Scan::More`] the caller drops those bytes
    /// from the front.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        if self.at == 0 {
            match find_start(bytes) {
                0 if bytes.len() >= 2 => self.at = 2,
                0 => return Scan::More,
                skip => return Scan::Skip(skip),
            }
        }
        loop {
            if self.in_scan {
                match entropy_end(bytes, self.at) {
                    Ok(next) => (self.at, self.in_scan) = (next, false),
                    Err(seen) => {
                        self.at = seen;
                        return Scan::More;
                    }
                }
            }
            match segment(bytes, self.at) {
                Segment::More => return Scan::More,
                Segment::Junk { next } => {
                    self.junk += next - self.at;
                    self.at = next;
                    if self.junk > JUNK_BYTES_MAX {
                        return self.broken(bytes, LOST_IN_JUNK);
                    }
                }
                Segment::Bare { marker: 0xD9, next } => {
                    self.restart();
                    return Scan::Frame(next);
                }
                Segment::Bare { marker: 0xD8, next } => {
                    let (has_scan, is_first) = (self.has_scan, self.at == 2);
                    self.restart();
                    if has_scan {
                        // No EOI: the next frame ends this one, and the decoder judges it.
                        return Scan::Frame(next - 2);
                    }
                    if is_first {
                        // Two SOI.
                        return Scan::Skip(next - 2);
                    }
                    return Scan::Broken(next - 2, "the next one begins inside it");
                }
                Segment::Bare { next, .. } => self.at = next,
                Segment::Body { marker, next, .. } => {
                    (self.at, self.in_scan) = (next, marker == 0xDA);
                    self.has_scan |= self.in_scan;
                }
            }
        }
    }

    /// Whether the bytes since the last answer may be a frame if no more come: perhaps only EOI is missing; the decoder decides.
    pub fn ends_here(&self) -> bool {
        self.has_scan
    }

    /// Resets the state after the caller dropped the bytes so far.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    /// Skips the rest of this frame, up to the next start of one.
    fn broken(&mut self, bytes: &[u8], why: &'static str) -> Scan {
        self.restart();
        Scan::Broken(2 + find_start(&bytes[2..]), why)
    }
}

/// Index of the first `FF D8`, or of a last `FF` that may become one, or the length.
fn find_start(bytes: &[u8]) -> usize {
    match bytes.windows(2).position(|pair| pair == [0xFF, 0xD8]) {
        Some(at) => at,
        None if bytes.last() == Some(&0xFF) => bytes.len() - 1,
        None => bytes.len(),
    }
}

/// Index of the marker that ends the entropy-coded data from `at` on (restarts, stuffed bytes and codes that are not markers belong to the
/// data), or how far it was searched.
fn entropy_end(bytes: &[u8], mut at: usize) -> Result<usize, usize> {
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xFF)) {
        at += found;
        match bytes.get(at + 1) {
            None => return Err(at),
            Some(0x00..=0xBF | 0xD0..=0xD7) => at += 2,
            // A fill byte: the next FF decides.
            Some(0xFF) => at += 1,
            Some(_) => return Ok(at),
        }
    }
    Err(bytes.len().max(at))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The skeleton of a baseline JPEG: a thumbnail in APP1, SOF0, SOS, some stuffed data with restarts, EOI.
    pub(in super::super) fn skeleton(width: u16, height: u16, fill: u8) -> Vec<u8> {
        let mut jpeg = vec![0xFF, 0xD8];
        jpeg.extend([0xFF, 0xE1, 0, 10, 0xFF, 0xD8, 0xFF, 0xC0, 1, 2, 0xFF, 0xD9]);
        jpeg.extend([0xFF, 0xC0, 0, 17, 8]);
        jpeg.extend(height.to_be_bytes());
        jpeg.extend(width.to_be_bytes());
        jpeg.extend([3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
        jpeg.extend([0xFF, 0xDA, 0, 12, 3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0]);
        jpeg.extend([0x12, 0xFF, 0x00, fill & 0x7F, 0xFF, 0xD0, fill & 0x7F, 0xFF, 0xFF, 0xD1, 9]);
        jpeg.extend([0xFF, 0xD9]);
        jpeg
    }

    /// All results of the splitter for bytes that come in pieces of `piece`.
    fn split(stream: &[u8], piece: usize) -> Vec<(bool, Vec<u8>)> {
        let (mut found, mut splitter) = (Vec::new(), Splitter::new());
        let (mut start, mut end) = (0, 0);
        loop {
            match splitter.scan(&stream[start..end]) {
                Scan::More if end == stream.len() => return found,
                Scan::More => end = (end + piece).min(stream.len()),
                Scan::Skip(n) => {
                    assert!(n > 0 && start + n <= end);
                    start += n;
                }
                Scan::Frame(n) => {
                    found.push((true, stream[start..start + n].to_vec()));
                    start += n;
                }
                Scan::Broken(n, _) => {
                    assert!(n > 0 && start + n <= end);
                    found.push((false, stream[start..start + n].to_vec()));
                    start += n;
                }
            }
        }
    }

    #[test]
    fn frames_are_found_whatever_the_pieces_and_thumbnails_are_not_frames() {
        let (a, b) = (skeleton(64, 48, 1), skeleton(64, 48, 2));
        let stream = [&[0u8, 0, 7][..], &a, &[0, 0xFF, 0], &b, &[0]].concat();
        for piece in 1..stream.len() {
            assert_eq!(split(&stream, piece), [(true, a.clone()), (true, b.clone())], "pieces of {piece}");
        }
    }

    /// Torn within its headers it is not a frame; torn within its picture data the decoder decides, as perhaps only EOI is missing.
    #[test]
    fn a_torn_frame_ends_where_the_next_begins() {
        let (a, b) = (skeleton(64, 48, 1), skeleton(64, 48, 2));
        let sof = a.windows(2).rposition(|pair| pair == [0xFF, 0xC0]).unwrap();
        for (torn, whole) in [(&a[..sof], false), (&a[..a.len() - 4], true), (&a[..a.len() - 2], true)] {
            for piece in [1, 3, 1000] {
                let found = split(&[torn, &b[..]].concat(), piece);
                assert_eq!(found, [(whole, torn.to_vec()), (true, b.clone())], "pieces of {piece}");
            }
        }
    }

    #[test]
    fn segments_longer_than_their_length_and_a_second_soi_are_accepted() {
        let (a, b) = (skeleton(64, 48, 1), skeleton(64, 48, 2));
        let Head::Info(info) = jpeg_head(&a) else { panic!() };
        for junk in [
            &[&[0xFF, 0xFE, 0, 4, b'a', b'b'][..], &[0; 608]].concat()[..],
            &[0xFF, 0xE1, 0, 0, 7, 7],
            &[7, 0xFF, 0, 0xFF, 0x30, 0xFF, 0xD3],
        ] {
            let long = [&a[..2], junk, &a[2..]].concat();
            assert_eq!(jpeg_head(&long), Head::Info(info));
            for piece in [1, 3, 1000] {
                let found = split(&[&long[..], &b].concat(), piece);
                assert_eq!(found, [(true, long.clone()), (true, b.clone())], "{junk:?}, pieces of {piece}");
            }
        }
        assert_eq!(
            split(&[&[0xFF, 0xD8], &a[..], &[0xFF, 0xD8], &b].concat(), 5),
            [(true, a.clone()), (true, b)]
        );
        let lost = [&a[..2], &vec![7; JUNK_BYTES_MAX + 1], &a[2..]].concat();
        assert_eq!(jpeg_head(&lost), Head::Broken(LOST_IN_JUNK));
        // The thumbnail within it is scanned, too, and what looks like its frame header swallows some frames more.
        let found = split(&[&lost[..], &a.repeat(9)].concat(), 1000);
        assert!(!found[0].0 && found.last() == Some(&(true, a)), "the stream goes on");
    }

    #[test]
    fn a_lasting_change_of_size_is_accepted_and_a_single_frame_is_not() {
        let mut watch = SizeWatch::default();
        let (small, large, other) = ((64, 48), (128, 96), (32, 32));
        let changes = [small, large, small, large, large, other, large, large, large]
            .map(|found| watch.has_changed(small, found));
        assert_eq!(changes, [false, false, false, false, false, false, false, false, true]);
        assert!(!watch.has_changed(large, large) && !watch.has_changed(large, small));
    }

    /// An APP1 segment with an orientation.
    pub(in super::super) fn exif(orientation: u16, little: bool) -> Vec<u8> {
        let short = |value: u16| if little { value.to_le_bytes() } else { value.to_be_bytes() };
        let long = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
        let mut tiff = if little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        tiff.extend(long(8));
        tiff.extend(short(2));
        for (tag, value) in [(0x010f, 9), (0x0112, orientation)] {
            tiff.extend(
                short(tag).into_iter().chain(short(3)).chain(long(1)).chain(short(value)).chain([0, 0]),
            );
        }
        let length = (tiff.len() as u16 + 8).to_be_bytes();
        [&[0xFF, 0xE1], &length[..], b"Exif\0\0", &tiff].concat()
    }

    #[test]
    fn the_orientation_is_read_and_invalid_ones_are_ignored() {
        let jpeg = skeleton(64, 48, 0);
        let orientation = |segment: &[u8]| match jpeg_head(&[&jpeg[..2], segment, &jpeg[2..]].concat()) {
            Head::Info(info) => info.orientation,
            head @ (Head::More | Head::Broken(_)) => panic!("{head:?}"),
        };
        for (written, read) in [(1, 1), (3, 3), (6, 6), (8, 8), (0, 1), (9, 1), (300, 1)] {
            assert_eq!(
                [true, false].map(|little| orientation(&exif(written, little))),
                [read; 2],
                "{written}"
            );
        }
        let whole = exif(6, true);
        for cut in 4..whole.len() {
            let mut short = whole[..cut].to_vec();
            short[2..4].copy_from_slice(&(cut as u16 - 2).to_be_bytes());
            assert!([1, 6].contains(&orientation(&short)), "{cut}");
        }
    }

    #[test]
    fn the_head_has_size_and_kind() {
        let jpeg = skeleton(640, 480, 0);
        let info = JpegInfo {
            width: 640,
            height: 480,
            components: 3,
            baseline: true,
            refusal: None,
            orientation: 1,
        };
        assert_eq!(jpeg_head(&jpeg), Head::Info(info));
        for short in 0..33 {
            assert_eq!(jpeg_head(&jpeg[..short]), Head::More, "{short} bytes");
        }
        let mut progressive = jpeg.clone();
        let sof = jpeg.windows(2).rposition(|w| w == [0xFF, 0xC0]).unwrap();
        progressive[sof + 1] = 0xC2;
        assert_eq!(jpeg_head(&progressive), Head::Info(JpegInfo { baseline: false, ..info }));
        let mut deep = jpeg;
        deep[sof + 4] = 12;
        let refusal = Some("samples of more than 8 bits");
        assert_eq!(jpeg_head(&deep), Head::Info(JpegInfo { baseline: false, refusal, ..info }));
        for (marker, words) in [(0xC3, "lossless"), (0xC9, "arithmetic"), (0xC5, "hierarchical")] {
            let mut other = progressive.clone();
            other[sof + 1] = marker;
            let Head::Info(JpegInfo { refusal: Some(why), .. }) = jpeg_head(&other) else { panic!() };
            assert!(why.contains(words), "{why}");
        }
        assert!(matches!(jpeg_head(b"GIF89a"), Head::Broken(_)));
        assert!(matches!(jpeg_head(&[0xFF, 0xD8, 0xFF, 0xDA, 0, 2]), Head::Broken(_)));
        assert_eq!(jpeg_head(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 1]), Head::More);
    }

    proptest! {
        #[test]
        fn any_bytes_split_alike_whatever_the_pieces(
            noise in proptest::collection::vec(prop_oneof![Just(0xFFu8), Just(0xD8), Just(0xD9), Just(0), any::<u8>()], 0..300),
            at in 0usize..300,
            piece in 1usize..50,
        ) {
            let mut stream = [skeleton(64, 48, 3), noise].concat();
            let cut = at % stream.len();
            stream.rotate_left(cut);
            // Broken pieces may be divided differently (later bytes are not known yet); whole frames may not.
            let whole = |found: Vec<(bool, Vec<u8>)>| found.into_iter().filter(|f| f.0).map(|f| f.1).collect::<Vec<_>>();
            prop_assert_eq!(whole(split(&stream, piece)), whole(split(&stream, stream.len())));
            let _ = jpeg_head(&stream);
        }
    }
}
