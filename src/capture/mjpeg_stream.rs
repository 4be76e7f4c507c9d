//! JPEGs one after the other: where one ends and the next begins, and what a JPEG says about itself before it is decoded.
//!
//! Pure. Walks from marker to marker (ITU-T T.81 annex B), so that a thumbnail inside a segment is not taken for a frame.
//! Never decodes, never copies, never allocates but for the text of an error.

use crate::capture::frame::{Color, FrameFormat, PixelFormat};

/// What a JPEG's frame header (SOF) says.
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

/// What the beginning of a JPEG reveals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The frame header.
    Info(JpegInfo),
    /// It comes later: more bytes are needed.
    More,
    /// This is no JPEG, for this reason.
    Broken(&'static str),
}

/// Looks for the frame header in the first bytes of a JPEG.
pub fn jpeg_head(bytes: &[u8]) -> Head {
    let mut at = match bytes {
        [0xFF, 0xD8, ..] => 2,
        [] | [0xFF] => return Head::More,
        _ => return Head::Broken("it does not begin with FF D8"),
    };
    loop {
        match segment(bytes, at) {
            Segment::More => return Head::More,
            Segment::Broken(why) => return Head::Broken(why),
            Segment::Bare { next, .. } => at = next,
            Segment::Body { marker, next, body } => {
                if is_sof(marker) {
                    let Some(&[precision, h1, h0, w1, w0, components]) = body.first_chunk::<6>() else {
                        return Head::Broken("its frame header is cut off");
                    };
                    return Head::Info(JpegInfo {
                        width: u32::from(u16::from_be_bytes([w1, w0])),
                        height: u32::from(u16::from_be_bytes([h1, h0])),
                        components,
                        baseline: matches!(marker, 0xC0 | 0xC1)
                            && precision == 8
                            && matches!(components, 1 | 3),
                    });
                }
                if marker == 0xDA {
                    return Head::Broken("its picture data come before the frame header");
                }
                at = next;
            }
        }
    }
}

/// SOF0..SOF15 without DHT, JPG and DAC, which lie between.
fn is_sof(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

enum Segment<'a> {
    More,
    Broken(&'static str),
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

/// The segment at `at`, if it is wholly there.
fn segment(bytes: &[u8], mut at: usize) -> Segment<'_> {
    match bytes.get(at) {
        None => return Segment::More,
        Some(0xFF) => at += 1,
        Some(_) => return Segment::Broken("something else where a marker must stand"),
    }
    // Any number of FF may fill the space before a marker.
    while bytes.get(at) == Some(&0xFF) {
        at += 1;
    }
    let Some(&marker) = bytes.get(at) else { return Segment::More };
    match marker {
        0x00 => Segment::Broken("a stuffed byte where a marker must stand"),
        0x01 | 0xD0..=0xD9 => Segment::Bare { marker, next: at + 1 },
        _ => {
            let Some(&[high, low]) = bytes.get(at + 1..).and_then(|rest| rest.first_chunk::<2>()) else {
                return Segment::More;
            };
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length < 2 {
                return Segment::Broken("a segment shorter than its own length");
            }
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
    /// Undecided: call again with the same bytes and more behind them.
    More,
    /// This many bytes are no JPEG; drop them.
    Skip(usize),
    /// This many bytes are one whole JPEG.
    Frame(usize),
    /// This many bytes began like a JPEG and are none; drop them.
    Broken(usize, &'static str),
}

/// Finds the frames of a stream. Remembers how far it looked, so that no byte is looked at twice.
#[derive(Debug, Default)]
pub struct Splitter {
    /// Where to go on, relative to the frame's start.
    at: usize,
    /// Inside entropy-coded data rather than between segments.
    in_scan: bool,
}

impl Splitter {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at `bytes`, which begin where the last answer's bytes ended. After any answer but [`Scan::More`] those bytes are
    /// to be dropped from the front.
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
                Segment::Broken(why) => return self.broken(bytes, why),
                Segment::Bare { marker: 0xD9, next } => {
                    self.restart();
                    return Scan::Frame(next);
                }
                Segment::Bare { marker: 0xD8, next } => {
                    self.restart();
                    return Scan::Broken(next - 2, "the next one begins inside it");
                }
                Segment::Bare { next, .. } => self.at = next,
                Segment::Body { marker, next, .. } => (self.at, self.in_scan) = (next, marker == 0xDA),
            }
        }
    }

    /// Forgets the frame that it was in: the bytes before the next call were dropped.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    /// Gives up this frame up to the next start of one.
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

/// Index of the marker that ends the entropy-coded data from `at` on (restarts and stuffed bytes belong to it), or how far it
/// was looked.
fn entropy_end(bytes: &[u8], mut at: usize) -> Result<usize, usize> {
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xFF)) {
        at += found;
        match bytes.get(at + 1) {
            None => return Err(at),
            Some(0x00 | 0xD0..=0xD7) => at += 2,
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

    /// Everything that the splitter finds when the bytes come in pieces of `piece`.
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

    #[test]
    fn a_torn_frame_costs_itself_only() {
        let (a, b) = (skeleton(64, 48, 1), skeleton(64, 48, 2));
        let torn = &a[..a.len() - 4];
        for piece in [1, 3, 1000] {
            let found = split(&[torn, &b[..]].concat(), piece);
            assert_eq!(found, [(false, torn.to_vec()), (true, b.clone())], "pieces of {piece}");
        }
    }

    #[test]
    fn the_head_tells_size_and_kind() {
        let jpeg = skeleton(640, 480, 0);
        let info = JpegInfo { width: 640, height: 480, components: 3, baseline: true };
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
        assert_eq!(jpeg_head(&deep), Head::Info(JpegInfo { baseline: false, ..info }));
        assert!(matches!(jpeg_head(b"GIF89a"), Head::Broken(_)));
        assert!(matches!(jpeg_head(&[0xFF, 0xD8, 0xFF, 0xDA, 0, 2]), Head::Broken(_)));
        assert!(matches!(jpeg_head(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 1]), Head::Broken(_)));
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
            // Broken pieces may be cut differently (what comes later is not known yet); whole frames may not.
            let whole = |found: Vec<(bool, Vec<u8>)>| found.into_iter().filter(|f| f.0).map(|f| f.1).collect::<Vec<_>>();
            prop_assert_eq!(whole(split(&stream, piece)), whole(split(&stream, stream.len())));
            let _ = jpeg_head(&stream);
        }
    }
}
