//! Markers and the frame header (T.81 Annex B): the walk over segments, SOF, and the layout of the planes.

use super::error::JpegError;

/// Markers of T.81 table B.1 that the decoder handles.
pub(super) mod marker {
    pub(crate) const SOI: u8 = 0xd8;
    pub(crate) const EOI: u8 = 0xd9;
    pub(crate) const SOS: u8 = 0xda;
    pub(crate) const DQT: u8 = 0xdb;
    pub(crate) const DHT: u8 = 0xc4;
    pub(crate) const DAC: u8 = 0xcc;
    pub(crate) const JPG: u8 = 0xc8;
    pub(crate) const DRI: u8 = 0xdd;
    pub(crate) const DNL: u8 = 0xdc;
    pub(crate) const TEM: u8 = 0x01;
    pub(crate) const APP0: u8 = 0xe0;
    pub(crate) const APP14: u8 = 0xee;
}

/// Coding of the coefficients: which SOF marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// SOF0, the kind that cameras send.
    Baseline,
    /// SOF1: as baseline, but up to four tables a class or 12 bits. Decoded if it has 8 bits.
    Extended,
    /// SOF2.
    Progressive,
    /// SOF3 and all hierarchical and arithmetic ones.
    Other,
}

/// Chroma subsampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// One component.
    Grey,
    /// Chroma as large as luma.
    S444,
    /// Half as wide: most USB cameras.
    S422,
    /// Half as wide and half as high.
    S420,
    /// Half as high.
    S440,
    /// A quarter as wide.
    S411,
    /// Anything else, or not three components.
    Other,
}

/// The contents of a frame header, not yet checked against limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JpegInfo {
    /// Width in pixels; may be 0 in a broken file.
    pub width: u32,
    /// Height in pixels; 0 in a broken file or if it comes after the first scan (DNL).
    pub height: u32,
    /// Number of components: 1 grey, 3 colour, 4 CMYK.
    pub components: u8,
    /// Bits a sample.
    pub precision: u8,
    /// Chroma subsampling.
    pub sampling: Sampling,
    /// Coding of the coefficients.
    pub process: Process,
}

impl JpegInfo {
    /// Whether [`super::JpegDecoder`] decodes such pictures, apart from their size.
    ///
    /// # Errors
    /// [`JpegError::Unsupported`] with the reason.
    pub fn check(&self) -> Result<(), JpegError> {
        match self.process {
            Process::Baseline | Process::Extended => {}
            Process::Progressive => return Err(JpegError::Unsupported("progressive")),
            Process::Other => {
                return Err(JpegError::Unsupported("lossless, hierarchical or arithmetic coding"));
            }
        }
        match (self.precision, self.components) {
            (8, 1 | 3) => Ok(()),
            (8, 4) => Err(JpegError::Unsupported("CMYK (four components)")),
            (8, _) => Err(JpegError::Unsupported("neither one nor three components")),
            _ => Err(JpegError::Unsupported("samples of other than 8 bits")),
        }
    }
}

/// Reads the header of a JPEG, up to its SOF and no further: width, height, kind.
///
/// # Errors
/// Not a JPEG, or broken before its frame header. A kind that we cannot decode is not an error here: see [`JpegInfo::check`].
pub fn probe(bytes: &[u8]) -> Result<JpegInfo, JpegError> {
    let mut segments = Segments::new(bytes)?;
    loop {
        let segment = segments.next()?;
        if let Some(process) = segment.process() {
            return Sof::parse(process, segment.body).map(|sof| sof.info());
        }
        if matches!(segment.code, marker::SOS | marker::EOI) {
            return Err(JpegError::NoPicture);
        }
    }
}

/// Maximum number of header bytes outside marker segments: bytes beyond a segment's length field, or between segments. Dahua's cameras send
/// comments that are 608 bytes longer than their length field.
pub(super) const JUNK_BYTES_MAX: usize = 64 << 10;

/// A marker and its data.
pub(super) struct Segment<'a> {
    pub(super) code: u8,
    /// Without the two length bytes; empty for markers that stand alone.
    pub(super) body: &'a [u8],
}

impl Segment<'_> {
    /// The coding process of this SOF; `None` if it is not an SOF.
    pub(super) fn process(&self) -> Option<Process> {
        match self.code {
            0xc0 => Some(Process::Baseline),
            0xc1 => Some(Process::Extended),
            0xc2 => Some(Process::Progressive),
            marker::DHT | marker::JPG | marker::DAC => None,
            0xc3..=0xcf => Some(Process::Other),
            _ => None,
        }
    }
}

/// Iterates from marker to marker. Bytes in between are skipped and counted.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
    junk: usize,
}

impl<'a> Segments<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, JpegError> {
        if bytes.starts_with(&[0xff, marker::SOI]) {
            Ok(Segments { bytes, at: 2, junk: 0 })
        } else {
            Err(JpegError::NotJpeg)
        }
    }

    /// Offset after the last segment: where the entropy-coded data of a scan begins.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Bytes skipped so far, outside any segment.
    pub(super) fn junk(&self) -> usize {
        self.junk
    }

    /// Continues at the first marker from `at`, skipping the rest of entropy-coded data.
    pub(super) fn resume(&mut self, at: usize) {
        let data = self.bytes.get(at..).unwrap_or(&[]);
        let inside = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | 0xd0..=0xd7);
        self.at = at + data.windows(2).position(inside).unwrap_or(data.len());
    }

    /// The next segment.
    pub(super) fn next(&mut self) -> Result<Segment<'a>, JpegError> {
        let code = self.marker()?;
        if matches!(code, marker::EOI | marker::TEM) {
            return Ok(Segment { code, body: &[] });
        }
        let [high, low, body @ ..] = &self.bytes[self.at..] else { return Err(JpegError::Truncated) };
        // A length of less than its own two bytes: the next marker shows where the segment ends.
        let len = usize::from(u16::from_be_bytes([*high, *low])).max(2);
        self.at += len;
        Ok(Segment { code, body: body.get(..len - 2).ok_or(JpegError::Truncated)? })
    }

    /// Moves past the next marker and returns its code. A second SOI counts as junk, as does everything that is not a marker or is not
    /// allowed among the headers.
    fn marker(&mut self) -> Result<u8, JpegError> {
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or(&[]);
            let junk = rest.iter().take_while(|&&byte| byte != 0xff).count();
            // B.1.1.2: any number of 0xFF before the code are fill bytes.
            let fill = rest[junk..].iter().take_while(|&&byte| byte == 0xff).count();
            self.junk += junk;
            if self.junk > JUNK_BYTES_MAX {
                return Err(JpegError::Junk { at: self.at });
            }
            let &code = rest.get(junk + fill).ok_or(JpegError::Truncated)?;
            self.at += junk + fill + 1;
            match code {
                marker::TEM | 0xc0..=0xcf | 0xd9..=0xff => return Ok(code),
                0..=0xbf | 0xd0..=0xd8 => self.junk += 2,
            }
        }
    }
}

/// A component as SOF describes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SofComponent {
    pub(super) id: u8,
    /// Horizontal sampling factor, 1..=4.
    pub(super) h: u8,
    /// Vertical sampling factor, 1..=4.
    pub(super) v: u8,
    /// Its quantisation table, 0..=3.
    pub(super) quant: u8,
}

/// A frame header (B.2.2).
#[derive(Debug, Clone, Copy)]
pub(super) struct Sof {
    process: Process,
    precision: u8,
    width: u32,
    height: u32,
    count: u8,
    components: [SofComponent; 4],
}

impl Sof {
    pub(super) fn parse(process: Process, body: &[u8]) -> Result<Sof, JpegError> {
        let [precision, h1, h0, w1, w0, count, list @ ..] = body else {
            return Err(JpegError::BadSegment("SOF is too short"));
        };
        if !(1..=4).contains(count) || list.len() != usize::from(*count) * 3 {
            return Err(JpegError::BadSegment("SOF has the wrong length for its components"));
        }
        let mut components = [SofComponent::default(); 4];
        for (component, from) in components.iter_mut().zip(list.chunks_exact(3)) {
            *component = SofComponent { id: from[0], h: from[1] >> 4, v: from[1] & 15, quant: from[2] };
        }
        for component in &components[..usize::from(*count)] {
            if !(1..=4).contains(&component.h) || !(1..=4).contains(&component.v) {
                return Err(JpegError::BadSegment("SOF has a sampling factor outside 1..=4"));
            }
            if component.quant > 3 {
                return Err(JpegError::BadSegment("SOF names a quantisation table above 3"));
            }
        }
        let side = |high: u8, low: u8| u32::from(u16::from_be_bytes([high, low]));
        let (height, width) = (side(*h1, *h0), side(*w1, *w0));
        Ok(Sof { process, precision: *precision, width, height, count: *count, components })
    }

    pub(super) fn info(&self) -> JpegInfo {
        let [y, u, v, _] = self.components.map(|c| (c.h, c.v));
        let sampling = match (self.count, y, u, v) {
            (1, ..) => Sampling::Grey,
            (3, (yh, yv), (uh, uv), (vh, vv)) if uh == vh && uv == vv => {
                match (yh % uh, yv % uv, yh / uh, yv / uv) {
                    (0, 0, 1, 1) => Sampling::S444,
                    (0, 0, 2, 1) => Sampling::S422,
                    (0, 0, 2, 2) => Sampling::S420,
                    (0, 0, 1, 2) => Sampling::S440,
                    (0, 0, 4, 1) => Sampling::S411,
                    _ => Sampling::Other,
                }
            }
            _ => Sampling::Other,
        };
        JpegInfo {
            width: self.width,
            height: self.height,
            components: self.count,
            precision: self.precision,
            sampling,
            process: self.process,
        }
    }

    /// Whether the components are named "R", "G", "B": identifies RGB without an Adobe segment.
    pub(super) fn named_rgb(&self) -> bool {
        self.count == 3 && self.components[..3].iter().map(|c| c.id).eq(*b"RGB")
    }
}

/// Layout of a component in its plane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    pub(super) sof: SofComponent,
    /// True size in samples.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Blocks in a row of MCUs, and rows of MCUs, both including padding: the plane's rows have `stride_blocks * 8` bytes.
    pub(super) stride_blocks: usize,
    /// The component used as brightness: the first, or green.
    pub(super) is_luma: bool,
}

/// A frame that we decode: sizes and planes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    /// MCUs in a row and rows of MCUs, for scans of several components.
    pub(super) mcus_x: usize,
    pub(super) mcus_y: usize,
    /// One or three.
    pub(super) count: usize,
    /// The three are red, green and blue.
    pub(super) is_rgb: bool,
    /// Largest sampling factors.
    pub(super) h_max: usize,
    pub(super) v_max: usize,
    pub(super) layouts: [Layout; 3],
}

impl Frame {
    /// The layout of `sof`, if such frames up to `width_max` x `height_max` are supported.
    pub(super) fn new(sof: &Sof, width_max: u32, height_max: u32) -> Result<Frame, JpegError> {
        sof.info().check()?;
        let Sof { width, height, .. } = *sof;
        if width == 0 || height == 0 {
            return Err(JpegError::Empty { width, height });
        }
        if width > width_max || height > height_max {
            return Err(JpegError::TooLarge { width, height, width_max, height_max });
        }
        let (width, height) = (width as usize, height as usize);
        let count = usize::from(sof.count);
        let mut components = sof.components;
        if count == 1 {
            // A.2.2: a lone component is not interleaved, its sampling factors have no meaning.
            (components[0].h, components[0].v) = (1, 1);
        }
        // A.1.1: the largest factors are the picture's; they need not be the first component's.
        let largest = |factor: fn(&SofComponent) -> u8| {
            components[..count].iter().map(factor).max().map_or(1, usize::from)
        };
        let (h_max, v_max) = (largest(|c| c.h), largest(|c| c.v));
        let mut frame = Frame {
            width,
            height,
            mcus_x: width.div_ceil(8 * h_max),
            mcus_y: height.div_ceil(8 * v_max),
            count,
            is_rgb: false,
            h_max,
            v_max,
            layouts: [Layout::default(); 3],
        };
        for (layout, &sof) in frame.layouts.iter_mut().zip(&components[..count]) {
            let (h, v) = (usize::from(sof.h), usize::from(sof.v));
            *layout = Layout {
                sof,
                width: (width * h).div_ceil(h_max),
                height: (height * v).div_ceil(v_max),
                stride_blocks: frame.mcus_x * h,
                is_luma: false,
            };
        }
        frame.layouts[0].is_luma = true;
        // B.2.3: at most ten blocks an MCU.
        let blocks: u32 = components[..count].iter().map(|c| u32::from(c.h) * u32::from(c.v)).sum();
        if blocks > 10 {
            return Err(JpegError::BadSegment("SOF makes more than ten blocks an MCU"));
        }
        Ok(frame)
    }

    /// From here on the components are red, green and blue.
    pub(super) fn set_rgb(&mut self) {
        self.is_rgb = true;
        for (index, layout) in self.layouts.iter_mut().enumerate() {
            layout.is_luma = index == 1;
        }
    }

    /// Index of the component used as brightness.
    pub(super) fn luma(&self) -> usize {
        usize::from(self.is_rgb)
    }

    /// Whether the planes need no resizing: brightness in full size, the others halves or quarters of it. This covers all cameras.
    pub(super) fn is_regular(&self) -> bool {
        let part = |all: usize, factor: u8| {
            matches!((all % usize::from(factor), all / usize::from(factor)), (0, 1 | 2 | 4))
        };
        let full = |sof: &SofComponent| (usize::from(sof.h), usize::from(sof.v)) == (self.h_max, self.v_max);
        self.layouts[..self.count].iter().all(|Layout { sof, is_luma, .. }| {
            full(sof) || (!is_luma && !self.is_rgb && part(self.h_max, sof.h) && part(self.v_max, sof.v))
        })
    }
}
