//! The NUT container (nut.txt of MPlayer and ffmpeg, version 3) with one stream of raw I420 frames: what our ffmpeg writes to its pipe,
//! since yuv4mpeg carries no time stamps and Matroska's muxer holds each frame back until the next one.
//!
//! ```text
//! "nut/multimedia container\0"  main  stream  info…  (syncpoint  frame)  (syncpoint  frame) …   headers are repeated now and then
//! ```
//! Pure and resumable: [`Demuxer::next`] looks at the bytes that are there and says how many it used. Never allocates after
//! [`Demuxer::new`] except for error texts, and never by a claimed size: every length is compared with its limit first (I8). Checksums are not
//! verified, since a pipe on the same machine does not flip bits. Elided headers, side data and other codecs are refused; ffmpeg writes none
//! of them here.

use std::time::Duration;

/// The first bytes of every NUT file.
pub const FILE_MAGIC: &[u8] = b"nut/multimedia container\0";
/// Largest header that is accepted, bytes; a larger one cannot be what our ffmpeg writes. The main header has about 60.
pub const HEADER_BYTES_MAX: usize = 2048;

const MAIN: u64 = 0x4E4D_7A56_1F5F_04AD;
const STREAM: u64 = 0x4E53_1140_5BF2_F9DB;
const SYNCPOINT: u64 = 0x4E4B_E4AD_EECA_4569;
const INDEX: u64 = 0x4E58_DD67_2F23_E64E;
const INFO: u64 = 0x4E49_AB68_B596_BA78;

/// Longest header without a checksum of its own length, bytes.
const UNCHECKED_BYTES_MAX: u64 = 4096;
/// Fields of a frame code's entry; later versions may add some.
const FIELDS_MAX: u64 = 32;

const CODED_PTS: u64 = 8;
const STREAM_ID: u64 = 16;
const SIZE_MSB: u64 = 32;
const CHECKSUM: u64 = 64;
const RESERVED: u64 = 128;
const SIDE_DATA: u64 = 256;
const HEADER_INDEX: u64 = 1024;
const MATCH_TIME: u64 = 2048;
const CODED_FLAGS: u64 = 4096;
const INVALID: u64 = 8192;

/// Result of [`Demuxer::next`]. `used` bytes from the start belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    More,
    /// Nothing for the reader.
    Passed {
        /// Bytes.
        used: usize,
    },
    /// The frames that follow have this size.
    Stream {
        /// Bytes.
        used: usize,
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A frame's payload follows.
    Frame {
        /// Bytes.
        used: usize,
        /// Bytes of the payload.
        bytes: u64,
        /// Its presentation time.
        at: Duration,
    },
}

/// What a frame code stands for.
#[derive(Debug, Clone, Copy, Default)]
struct Code {
    flags: u64,
    pts_delta: i64,
    size_mul: u64,
    size_lsb: u64,
    reserved: u64,
}

/// Why a piece cannot be parsed.
enum Stop {
    /// It does not end within the bytes that are there.
    More,
    Bad(String),
}

fn bad<T>(text: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Bad(text.into()))
}

/// Reads numbers from the start of a slice.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::More)?;
        self.at += 1;
        Ok(byte)
    }

    /// A number of seven bits a byte, the most significant first.
    fn v(&mut self) -> Result<u64, Stop> {
        let mut value = 0u64;
        loop {
            let byte = self.byte()?;
            if value >> 57 != 0 {
                return bad("a number of more than 64 bits");
            }
            value = value << 7 | u64::from(byte & 0x7F);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    /// A number with a sign.
    fn s(&mut self) -> Result<i64, Stop> {
        let value = self.v()?;
        let half = i64::try_from(value / 2).unwrap_or(i64::MAX);
        Ok(if value % 2 == 1 { half.saturating_add(1) } else { -half })
    }

    fn limited(&mut self, what: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, Stop> {
        match self.v()? {
            value if range.contains(&value) => Ok(value),
            value => bad(format!("{what} is {value}")),
        }
    }
}

/// Parser of one NUT stream.
pub struct Demuxer {
    /// Whether the file's own first bytes were seen.
    is_begun: bool,
    codes: Box<[Code; 256]>,
    /// Seconds of a unit of time, as a fraction; `None` before the main header.
    time_base: Option<(u32, u32)>,
    /// Low bits of the time of a frame that are coded; `None` before the stream's header.
    pts_shift: Option<u32>,
    /// The previous frame's time.
    last_pts: i64,
}

impl Default for Demuxer {
    fn default() -> Self {
        Self::new()
    }
}

impl Demuxer {
    /// At the start of a stream.
    pub fn new() -> Self {
        let invalid = Code { flags: INVALID, ..Code::default() };
        Demuxer {
            is_begun: false,
            codes: Box::new([invalid; 256]),
            time_base: None,
            pts_shift: None,
            last_pts: 0,
        }
    }

    /// Parses what `bytes` begins with: a header, or a frame's header. After a frame the caller passes the bytes after its payload.
    ///
    /// # Errors
    /// One phrase: what is wrong. The rest of the stream cannot be parsed.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Step, String> {
        let parsed = match bytes {
            _ if !self.is_begun => self.magic(bytes),
            [] => return Ok(Step::More),
            [b'N', ..] => self.header(bytes),
            _ => self.frame(bytes),
        };
        match parsed {
            Ok(step) => Ok(step),
            Err(Stop::More) if bytes.len() > HEADER_BYTES_MAX => {
                Err(format!("a header of more than {HEADER_BYTES_MAX} bytes"))
            }
            Err(Stop::More) => Ok(Step::More),
            Err(Stop::Bad(why)) => Err(why),
        }
    }

    fn magic(&mut self, bytes: &[u8]) -> Result<Step, Stop> {
        let known = bytes.len().min(FILE_MAGIC.len());
        if bytes[..known] != FILE_MAGIC[..known] {
            let start = &bytes[..bytes.len().min(16)];
            return bad(format!("'{}' instead of a NUT header", start.escape_ascii()));
        }
        if known < FILE_MAGIC.len() {
            return Err(Stop::More);
        }
        self.is_begun = true;
        Ok(Step::Passed { used: FILE_MAGIC.len() })
    }

    fn header(&mut self, bytes: &[u8]) -> Result<Step, Stop> {
        let start = bytes.get(..8).ok_or(Stop::More)?;
        let code = start.iter().fold(0u64, |code, byte| code << 8 | u64::from(*byte));
        let mut reader = Reader { bytes, at: 8 };
        let length = reader.v()?;
        if !(4..=UNCHECKED_BYTES_MAX).contains(&length) {
            return bad(format!("a header of {length} bytes"));
        }
        // The last four bytes are a checksum.
        let used = reader.at + length as usize;
        let body = bytes.get(reader.at..used - 4).ok_or(Stop::More)?;
        bytes.get(..used).ok_or(Stop::More)?;
        let mut body = Reader { bytes: body, at: 0 };
        // Inside a complete header, a missing byte is damage.
        let cut = |stop| match stop {
            Stop::More => Stop::Bad("a header that ends too early".to_owned()),
            Stop::Bad(why) => Stop::Bad(why),
        };
        match code {
            // They are repeated, and do not change.
            MAIN | STREAM if self.pts_shift.is_some() => Ok(Step::Passed { used }),
            MAIN => self.main_header(&mut body).map(|()| Step::Passed { used }).map_err(cut),
            STREAM => {
                let (width, height) = self.stream_header(&mut body).map_err(cut)?;
                Ok(Step::Stream { used, width, height })
            }
            SYNCPOINT => {
                self.last_pts = i64::try_from(body.v().map_err(cut)?).unwrap_or(i64::MAX);
                Ok(Step::Passed { used })
            }
            INFO | INDEX => Ok(Step::Passed { used }),
            _ => bad(format!("'{}' instead of a header", start.escape_ascii())),
        }
    }

    fn main_header(&mut self, body: &mut Reader) -> Result<(), Stop> {
        body.limited("its version", 2..=3)?;
        body.limited("the number of its streams", 1..=1)?;
        body.v()?; // Greatest distance of syncpoints.
        body.limited("the number of its time bases", 1..=1)?;
        let numerator = body.limited("the time base's numerator", 1..=u64::from(u32::MAX >> 1))?;
        let denominator = body.limited("the time base's denominator", 1..=u64::from(u32::MAX >> 1))?;
        self.codes(body)?;
        self.time_base = Some((numerator as u32, denominator as u32));
        Ok(())
    }

    /// The table of frame codes: each entry stands for one or several of them, and repeats what it does not mention.
    fn codes(&mut self, body: &mut Reader) -> Result<(), Stop> {
        let mut entry = Code { size_mul: 1, ..Code::default() };
        let mut index = 0usize;
        while index < self.codes.len() {
            entry.flags = body.v()?;
            let fields = body.limited("the number of a frame code's fields", 0..=FIELDS_MAX)?;
            (entry.size_lsb, entry.reserved) = (0, 0);
            let mut count = None;
            for field in 0..fields {
                match field {
                    0 => entry.pts_delta = body.s()?,
                    1 => entry.size_mul = body.limited("a frame code's factor", 0..=u64::from(u16::MAX))?,
                    2 => _ = body.limited("a frame code's stream", 0..=0)?,
                    3 => entry.size_lsb = body.limited("a frame code's size", 0..=u64::from(u16::MAX))?,
                    4 => entry.reserved = body.limited("a frame code's reserve", 0..=FIELDS_MAX)?,
                    5 => count = Some(body.v()?),
                    6 => _ = body.s()?,
                    7 => _ = body.limited("a frame code's elided header", 0..=0)?,
                    _ => _ = body.v()?,
                }
            }
            let count = count.unwrap_or(entry.size_mul.saturating_sub(entry.size_lsb));
            // 'N' begins a header, and has no entry.
            let left = self.codes.len() - index - usize::from(index <= usize::from(b'N'));
            if count == 0 || count > left as u64 {
                return bad(format!("{count} frame codes at {index}"));
            }
            for step in 0..count {
                if index == usize::from(b'N') {
                    index += 1;
                }
                self.codes[index] = Code { size_lsb: entry.size_lsb + step, ..entry };
                index += 1;
            }
        }
        Ok(())
    }

    fn stream_header(&mut self, body: &mut Reader) -> Result<(u32, u32), Stop> {
        if self.time_base.is_none() {
            return bad("a stream before the main header");
        }
        body.limited("the number of a stream", 0..=0)?;
        body.limited("the stream's class", 0..=0)?;
        body.limited("the length of the codec's name", 4..=4)?;
        let name = [body.byte()?, body.byte()?, body.byte()?, body.byte()?];
        if &name != b"I420" {
            return bad(format!("frames of the format '{}', not I420", name.escape_ascii()));
        }
        body.limited("the stream's time base", 0..=0)?;
        let shift = body.limited("the bits of a time", 0..=15)?;
        body.v()?; // Greatest distance of times without a checksum.
        body.limited("the decoder's delay", 0..=1000)?;
        body.v()?; // Flags.
        body.limited("the size of the codec's own data", 0..=0)?;
        let sides = 1..=u64::from(u32::MAX);
        let (width, height) = (body.limited("the width", sides.clone())?, body.limited("the height", sides)?);
        self.pts_shift = Some(shift as u32);
        Ok((width as u32, height as u32))
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<Step, Stop> {
        let (Some(shift), Some((numerator, denominator))) = (self.pts_shift, self.time_base) else {
            return bad("a frame before the headers");
        };
        let mut reader = Reader { bytes, at: 0 };
        let code = self.codes[usize::from(reader.byte()?)];
        if code.flags & INVALID != 0 {
            return bad(format!("'{}' instead of a frame", bytes[..1].escape_ascii()));
        }
        let flags = if code.flags & CODED_FLAGS != 0 { code.flags ^ reader.v()? } else { code.flags };
        if flags & STREAM_ID != 0 {
            reader.limited("a frame's stream", 0..=0)?;
        }
        let pts = if flags & CODED_PTS != 0 {
            full_pts(reader.v()?, self.last_pts, shift)
        } else {
            self.last_pts.saturating_add(code.pts_delta)
        };
        let mut size = code.size_lsb;
        if flags & SIZE_MSB != 0 {
            size = reader.v()?.saturating_mul(code.size_mul).saturating_add(size);
        }
        if flags & MATCH_TIME != 0 {
            reader.s()?;
        }
        if flags & HEADER_INDEX != 0 {
            reader.limited("a frame's elided header", 0..=0)?;
        }
        let reserved =
            if flags & RESERVED != 0 { reader.limited("a reserve", 0..=FIELDS_MAX)? } else { code.reserved };
        for _ in 0..reserved {
            reader.v()?;
        }
        if flags & CHECKSUM != 0 {
            for _ in 0..4 {
                reader.byte()?;
            }
        }
        if flags & SIDE_DATA != 0 {
            return bad("a frame with side data");
        }
        self.last_pts = pts;
        let nanos = u128::from(pts.max(0).unsigned_abs()) * u128::from(numerator) * 1_000_000_000
            / u128::from(denominator);
        let at = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Ok(Step::Frame { used: reader.at, bytes: size, at })
    }
}

/// A coded time: below 2^shift its low bits, of which the value nearest to the previous time is meant; else the whole time.
fn full_pts(coded: u64, last: i64, shift: u32) -> i64 {
    let one = 1u64 << shift;
    if coded >= one {
        return i64::try_from(coded - one).unwrap_or(i64::MAX);
    }
    let mask = (one - 1) as i64;
    let from = last.saturating_sub(mask / 2);
    ((coded as i64).wrapping_sub(from) & mask).saturating_add(from)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(out: &mut Vec<u8>, value: u64) {
        let groups = (64 - value.leading_zeros()).div_ceil(7).max(1);
        for group in (0..groups).rev() {
            out.push((value >> (7 * group)) as u8 & 0x7F | if group > 0 { 0x80 } else { 0 });
        }
    }

    fn header(out: &mut Vec<u8>, code: u64, body: &[u8]) {
        out.extend(code.to_be_bytes());
        put(out, body.len() as u64 + 4);
        out.extend(body);
        out.extend([0; 4]);
    }

    /// The headers of a stream with times in microseconds, as ffmpeg 5.1 writes them.
    pub(crate) fn start(width: u32, height: u32) -> Vec<u8> {
        let mut out = FILE_MAGIC.to_vec();
        // The table of frame codes as ffmpeg writes it.
        let codes = b"c000060000000000 01a0000201012801002900210101200201 8179c000060000000000 01";
        let codes: Vec<u8> = codes.iter().copied().filter(u8::is_ascii_hexdigit).collect();
        let mut main = vec![3, 1];
        put(&mut main, 32_767);
        put(&mut main, 1);
        put(&mut main, 1);
        put(&mut main, 1_000_000);
        main.extend(
            codes.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()),
        );
        main.push(0); // No elided headers.
        header(&mut out, MAIN, &main);
        let mut stream = vec![0, 0, 4];
        stream.extend(b"I420");
        stream.extend([0, 14]);
        put(&mut stream, 1_000_000);
        stream.extend([0, 0, 0]);
        put(&mut stream, width.into());
        put(&mut stream, height.into());
        stream.extend([1, 1, 0]);
        header(&mut out, STREAM, &stream);
        out
    }

    /// A syncpoint and a frame's header, for a frame of `bytes` at `micros`.
    pub(crate) fn frame(out: &mut Vec<u8>, micros: u64, bytes: usize) {
        let mut sync = Vec::new();
        put(&mut sync, micros);
        put(&mut sync, 0);
        header(out, SYNCPOINT, &sync);
        // Code 1: all flags are coded. Key frame, coded time, coded size, checksum.
        out.push(1);
        put(out, 1 | CODED_PTS | SIZE_MSB | CHECKSUM);
        put(out, micros + (1 << 14));
        put(out, bytes as u64);
        out.extend([0; 4]);
    }

    /// All steps until more bytes are needed; payloads are skipped.
    fn steps(demuxer: &mut Demuxer, bytes: &[u8]) -> Result<Vec<Step>, String> {
        let mut at = 0usize;
        let mut all = Vec::new();
        while at <= bytes.len() {
            match demuxer.next(&bytes[at..])? {
                Step::More => break,
                step @ Step::Passed { used } => {
                    assert!(used > 0);
                    at += used;
                    all.push(step);
                }
                step @ Step::Stream { used, .. } => {
                    at += used;
                    all.push(step);
                }
                step @ Step::Frame { used, bytes, .. } => {
                    at = at.saturating_add(used).saturating_add(usize::try_from(bytes).unwrap());
                    all.push(step);
                }
            }
        }
        Ok(all)
    }

    /// ffmpeg's own bytes: `ffmpeg -f lavfi -i testsrc=size=16x16:rate=30 -frames:v 3 … -f nut` with the options of `ffmpeg.rs`.
    #[test]
    fn the_output_of_ffmpeg_is_read() {
        let bytes = include_bytes!("../../tests/data/frames.nut");
        let all = steps(&mut Demuxer::new(), bytes).unwrap();
        let frames: Vec<_> = all.iter().filter(|step| !matches!(step, Step::Passed { .. })).collect();
        assert!(matches!(frames[0], Step::Stream { width: 16, height: 16, .. }), "{frames:?}");
        let times: Vec<_> = frames[1..]
            .iter()
            .map(|step| {
                let Step::Frame { bytes: 384, at, .. } = step else { panic!("{step:?}") };
                at.as_micros()
            })
            .collect();
        assert_eq!(times, [0, 33_333, 66_667]);
    }

    #[test]
    fn times_and_sizes_are_read_also_across_a_jump() {
        let mut bytes = start(320, 180);
        let micros = [0, 40_000, 80_000, 3_600_000_000, 5, 1 << 50];
        for at in micros {
            frame(&mut bytes, at, 86_400);
            bytes.extend(vec![0x4E; 86_400]);
        }
        let all = steps(&mut Demuxer::new(), &bytes).unwrap();
        let times: Vec<_> = all
            .iter()
            .filter_map(|step| {
                let Step::Frame { bytes: 86_400, at, .. } = step else { return None };
                Some(at.as_micros() as u64)
            })
            .collect();
        assert_eq!(times, micros);
    }

    #[test]
    fn short_times_mean_the_nearest() {
        for (coded, last, full) in [
            (5, 0, 5),
            (16_383, 16_384, 16_383),
            (1, 16_383, 16_385),
            (16_384 + 7, 99, 7),
            (0, 1 << 40, 1 << 40),
        ] {
            assert_eq!(full_pts(coded, last, 14), full, "{coded} after {last}");
        }
    }

    #[test]
    fn other_streams_are_refused_with_the_reason() {
        let good = start(16, 16);
        let at = |part: &[u8]| good.windows(part.len()).position(|window| window == part).unwrap();
        let with = |place: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[place] = byte;
            bytes
        };
        let main = FILE_MAGIC.len() + 9;
        for (bytes, words) in [
            (b"YUV4MPEG2 W16 H16".to_vec(), "instead of a NUT header"),
            (with(main, 4), "its version is 4"),
            (with(main + 1, 2), "the number of its streams is 2"),
            (with(at(b"I420"), b'Y'), "frames of the format 'Y420'"),
            (with(FILE_MAGIC.len() + 1, b'?'), "instead of a header"),
            ([&good[..], b"\0"].concat(), "instead of a frame"),
            ([FILE_MAGIC, b"\x01"].concat(), "a frame before the headers"),
            (
                [&good[..], b"NI\xAB\x68\xB5\x96\xBA\x78\xFF\xFF\xFF\x7F"].concat(),
                "a header of 268435455 bytes",
            ),
        ] {
            let error = steps(&mut Demuxer::new(), &bytes).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    proptest! {
        /// The same steps, wherever the bytes are cut.
        #[test]
        fn it_resumes_at_any_byte(cut in 0usize..400, count in 1usize..4) {
            let mut bytes = start(16, 16);
            for number in 0..count {
                frame(&mut bytes, number as u64 * 33_333, 384);
                bytes.extend([7; 384]);
            }
            let whole = steps(&mut Demuxer::new(), &bytes).unwrap();
            let mut demuxer = Demuxer::new();
            let (mut at, mut end, mut all) = (0usize, cut.min(bytes.len()), Vec::new());
            loop {
                match demuxer.next(&bytes[at.min(end)..end]).unwrap() {
                    Step::More if end == bytes.len() => break,
                    Step::More => end += 1,
                    step @ (Step::Passed { used } | Step::Stream { used, .. }) => {
                        at += used;
                        all.push(step);
                    }
                    step @ Step::Frame { used, bytes, .. } => {
                        at += used + bytes as usize;
                        end = end.max(at);
                        all.push(step);
                    }
                }
            }
            prop_assert_eq!(all, whole);
        }

        /// Any bytes after any part of a good start: no panic, no endless loop, nothing used that is not there.
        #[test]
        fn any_bytes_are_read_or_refused(
            keep in 0usize..200,
            noise in proptest::collection::vec(prop_oneof![Just(b'N'), Just(1u8), Just(0xFF), any::<u8>()], 0..300),
        ) {
            let mut bytes = start(16, 16);
            frame(&mut bytes, 7, 3);
            bytes.truncate(keep);
            bytes.extend(noise);
            let mut demuxer = Demuxer::new();
            let mut at = 0usize;
            for _ in 0..=bytes.len() {
                match demuxer.next(&bytes[at..]) {
                    Ok(Step::More) | Err(_) => return Ok(()),
                    Ok(Step::Passed { used } | Step::Stream { used, .. } | Step::Frame { used, .. }) => {
                        prop_assert!(used > 0 && at + used <= bytes.len());
                        at += used;
                    }
                }
            }
            prop_assert!(false, "no end");
        }
    }
}
