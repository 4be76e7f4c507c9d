//! Baseline JPEG for the frames of MJPEG cameras: planes without converting colours, or only the mean of every 8x8 block.
//!
//! ```text
//! bytes ─► segments ─► tables, frame, scan headers ─► Huffman ─┬─► dequantise ─► IDCT ─► Y, U, V planes   (decode)
//!          (probe stops at the frame header)                   └─► DC of luma, AC skipped ─► 1/8 plane  (decode_dc_luma)
//! ```
//! Supported: baseline and 8-bit extended sequential Huffman coding, grey, Y'CbCr or RGB, any sampling factors, one scan or several,
//! restart intervals, frames without Huffman tables (as AVI1 cameras send them). Everything else is an [`JpegError::Unsupported`] with its
//! name.
//!
//! Camera faults that do not damage the picture are skipped and counted ([`JpegDecoder::stray_bytes`]): stray bytes before a restart
//! marker, segments longer than their length field and other junk between the headers, a second SOI, components of the same name.
//!
//! What never happens here: heap calls after [`JpegDecoder::new`]; a panic, whatever the bytes; more work than a constant for each byte and
//! each block of the largest picture; colour conversion; output of a picture with detectable damage (the caller counts it and waits for the
//! next).
//!
//! Source of all numbers: ITU-T T.81 (09/92); sections are named where they are used. JFIF: ITU-T T.871.

mod error;
mod header;
mod huffman;
mod idct;
mod scan;
mod tables;

pub use error::JpegError;
pub use header::{JpegInfo, Process, Sampling, probe};

use header::{Frame, Layout, Segments, Sof, marker};
use huffman::{Bits, Class, Table};
use scan::{Coder, DcSink, FullSink, Sink, Sos};
use tables::{CHROMA_AC, CHROMA_DC, CodeList, LUMA_AC, LUMA_DC};

use crate::capture::frame::{Color, Plane, Planes};

/// The longest sides of MCUs, pixels (a sampling factor of 4, of 3): plane buffers are padded to whole MCUs of either, and so to those of
/// factors 2 and 1.
const MCU_SIDES: [usize; 2] = [32, 24];
/// Maximum number of Huffman tables that a picture may define. One for each of 8 destinations before each of 3 scans is the most that makes
/// sense; building one costs some ten microseconds, so hostile bytes cannot make us build them for seconds.
const TABLES_MAX: usize = 24;

/// A decoded picture, borrowed from its decoder.
#[derive(Debug, Clone, Copy)]
pub struct DecodedJpeg<'a> {
    /// Width in pixels, without padding.
    pub width: u32,
    /// Height in pixels, without padding.
    pub height: u32,
    /// Grey, Y'CbCr, or RGB; chroma planes are halves or quarters of luma, rounded up (T.81 A.1.1), with JPEG's centred siting. Other
    /// sampling factors are scaled to full size by repeating samples.
    pub planes: Planes<'a>,
    /// Always [`Color::JPEG`].
    pub color: Color,
}

/// Decodes pictures up to a size fixed at construction.
pub struct JpegDecoder {
    width_max: u32,
    height_max: u32,
    planes: [Vec<u8>; 3],
    dc_plane: Vec<u8>,
    tables: Tables,
    stray_bytes: usize,
}

impl std::fmt::Debug for JpegDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JpegDecoder({}x{})", self.width_max, self.height_max)
    }
}

impl JpegDecoder {
    /// Allocates all memory: three planes of the largest size (4:4:4 needs them), see [`JpegDecoder::heap_bytes`].
    pub fn new(width_max: u32, height_max: u32) -> Self {
        // 65535 is the maximum in a frame header.
        let padded = |side: u32| {
            let side = side.min(65_535) as usize;
            MCU_SIDES.map(|mcu| side.next_multiple_of(mcu)).into_iter().max().unwrap_or(side)
        };
        let samples = padded(width_max) * padded(height_max);
        JpegDecoder {
            width_max,
            height_max,
            planes: std::array::from_fn(|_| vec![0; samples]),
            dc_plane: vec![0; samples / 64],
            tables: Tables::new(),
            stray_bytes: 0,
        }
    }

    /// Bytes of the last picture that were skipped as junk; 0 for a sound one.
    pub fn stray_bytes(&self) -> usize {
        self.stray_bytes
    }

    /// Bytes on the heap, for the memory plan (I1).
    pub fn heap_bytes(&self) -> usize {
        let planes: usize = self.planes.iter().map(Vec::len).sum();
        planes + self.dc_plane.len() + self.tables.heap_bytes()
    }

    /// Decodes a picture into planes. Ignores bytes after its last scan.
    ///
    /// # Errors
    /// Broken, truncated, too large or of an unsupported kind; the previous picture is then lost.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<DecodedJpeg<'_>, JpegError> {
        let limits = (self.width_max, self.height_max);
        let mut sink = FullSink { planes: &mut self.planes };
        let (mut frame, stray) = read(bytes, limits, &mut self.tables, &mut sink, false)?;
        self.stray_bytes = stray;
        if !frame.is_regular() {
            stretch(&mut frame, &mut self.planes);
        }
        let plane = |index: usize| {
            let layout = &frame.layouts[index];
            let bytes = &self.planes[index];
            Plane::new(bytes, layout.width, layout.height, layout.stride_blocks * 8, 1)
                .expect("the planes fit the largest frame, and this one is not larger")
        };
        let planes = match frame.count {
            1 => Planes::Grey(plane(0)),
            _ if frame.is_rgb => Planes::Rgb { r: plane(0), g: plane(1), b: plane(2) },
            _ => Planes::Yuv { y: plane(0), u: plane(1), v: plane(2) },
        };
        Ok(DecodedJpeg { width: frame.width as u32, height: frame.height as u32, planes, color: Color::JPEG })
    }

    /// Luma (green, of RGB) at an eighth of the size: the mean of each 8x8 block, from the DC coefficient alone. The plane has ceil(width /
    /// 8) x ceil(height / 8) samples, fewer if the picture has less luma than chroma; edge blocks of a size that is not a multiple of 8
    /// include their padding.
    ///
    /// # Errors
    /// As [`JpegDecoder::decode`], but damage that shows only in the coefficients' values is not detected.
    pub fn decode_dc_luma(&mut self, bytes: &[u8]) -> Result<Plane<'_>, JpegError> {
        let limits = (self.width_max, self.height_max);
        let mut sink = DcSink { plane: &mut self.dc_plane };
        let (frame, stray) = read(bytes, limits, &mut self.tables, &mut sink, true)?;
        self.stray_bytes = stray;
        let luma = &frame.layouts[frame.luma()];
        let (width, height) = (luma.width.div_ceil(8), luma.height.div_ceil(8));
        Ok(Plane::new(&self.dc_plane, width, height, luma.stride_blocks, 1)
            .expect("the plane fits the largest frame, and this one is not larger"))
    }
}

/// Scales planes of unusual sampling factors to the size of the picture, in place: libjpeg's box filter where factors are whole.
fn stretch(frame: &mut Frame, planes: &mut [Vec<u8>; 3]) {
    let (width, height, stride_blocks) = (frame.width, frame.height, frame.mcus_x * frame.h_max);
    for (layout, plane) in frame.layouts[..frame.count].iter_mut().zip(planes) {
        let (h, v) = (usize::from(layout.sof.h), usize::from(layout.sof.v));
        let (from, to) = (layout.stride_blocks * 8, stride_blocks * 8);
        // From the end: a sample comes from its own position or one before it, which is not overwritten yet.
        for y in (0..height).rev() {
            for x in (0..width).rev() {
                plane[y * to + x] = plane[y * v / frame.v_max * from + x * h / frame.h_max];
            }
        }
        *layout = Layout { width, height, stride_blocks, ..*layout };
    }
}

/// State of a picture being read, besides its tables.
#[derive(Default)]
struct Progress {
    frame: Option<Frame>,
    /// Which components had their scan.
    done: [bool; 3],
    restart_interval: usize,
    jfif: bool,
    /// The colour transform of Adobe's APP14: 0 is RGB.
    adobe_transform: Option<u8>,
    /// The components are named "R", "G", "B".
    named_rgb: bool,
    /// Bytes skipped within scans.
    stray: usize,
}

impl Progress {
    /// As libjpeg does: JFIF means Y'CbCr, then Adobe's flag counts, then the names.
    fn is_rgb(&self) -> bool {
        !self.jfif && self.adobe_transform.map_or(self.named_rgb, |transform| transform == 0)
    }
}

/// Walks the segments and decodes scans into `sink` until every component (or luma, if `luma_only`) had its own. Returns the frame, and how
/// many junk bytes were skipped.
fn read<S: Sink>(
    bytes: &[u8],
    limits: (u32, u32),
    tables: &mut Tables,
    sink: &mut S,
    luma_only: bool,
) -> Result<(Frame, usize), JpegError> {
    tables.forget();
    let mut segments = Segments::new(bytes)?;
    let mut progress = Progress::default();
    loop {
        let segment = segments.next()?;
        if let Some(process) = segment.process() {
            if progress.frame.is_some() {
                return Err(JpegError::BadSegment("a second SOF"));
            }
            let sof = Sof::parse(process, segment.body)?;
            progress.frame = Some(Frame::new(&sof, limits.0, limits.1)?);
            progress.named_rgb = sof.named_rgb();
            continue;
        }
        match segment.code {
            marker::DQT => tables.define_quant(segment.body)?,
            marker::DHT => tables.define_huffman(segment.body)?,
            marker::DRI => match *segment.body {
                [high, low] => progress.restart_interval = usize::from(u16::from_be_bytes([high, low])),
                _ => return Err(JpegError::BadSegment("DRI has a length other than 4")),
            },
            marker::DAC => return Err(JpegError::Unsupported("arithmetic coding")),
            marker::DNL => return Err(JpegError::Unsupported("height after the scan (DNL)")),
            marker::APP0 => progress.jfif |= segment.body.starts_with(b"JFIF\0"),
            marker::APP14 if segment.body.starts_with(b"Adobe") => {
                progress.adobe_transform = segment.body.get(11).copied();
            }
            marker::EOI => return Err(JpegError::NoPicture),
            marker::SOS => {
                let mut frame = progress.frame.ok_or(JpegError::BadSegment("SOS before SOF"))?;
                if frame.count == 3 && progress.is_rgb() {
                    frame.set_rgb();
                }
                let sos = Sos::parse(&frame, &progress.done, segment.body)?;
                let at = read_scan(bytes, segments.position(), &frame, &sos, &mut progress, tables, sink)?;
                let needed = if luma_only { frame.luma()..frame.luma() + 1 } else { 0..frame.count };
                if progress.done[needed].iter().all(|&done| done) {
                    return Ok((frame, progress.stray + segments.junk()));
                }
                segments.resume(at);
            }
            // APPn, COM: skipped by their length.
            _ => {}
        }
    }
}

/// Decodes the scan whose data begins at `at`; returns where it ends.
fn read_scan<S: Sink>(
    bytes: &[u8],
    at: usize,
    frame: &Frame,
    sos: &Sos,
    progress: &mut Progress,
    tables: &Tables,
    sink: &mut S,
) -> Result<usize, JpegError> {
    let first = tables.coder(frame, sos, 0)?;
    let mut coders = [first; 3];
    for (place, coder) in coders.iter_mut().enumerate().take(sos.count) {
        *coder = tables.coder(frame, sos, place)?;
        // Sequential JPEG has one scan per component; this also bounds the work.
        if std::mem::replace(&mut progress.done[coder.index], true) {
            return Err(JpegError::BadSegment("a second scan of a component"));
        }
    }
    let mut bits = Bits::new(bytes, at);
    progress.stray += scan::run(&mut bits, frame, &coders[..sos.count], progress.restart_interval, sink)?;
    Ok(bits.position())
}

/// Quantisation and Huffman tables.
struct Tables {
    quant: [[u16; 64]; 4],
    quant_defined: [bool; 4],
    /// 0..4 DC, 4..8 AC, as the picture defines them. Tables of earlier pictures are kept, to recognise repeated ones.
    huffman: Vec<Table>,
    huffman_defined: [bool; 8],
    /// Annex K.3: DC 0, DC 1, AC 0, AC 1.
    standard: Vec<Table>,
    /// DHT tables that this picture may still define.
    left: usize,
}

impl Tables {
    fn new() -> Self {
        let standard =
            [(Class::Dc, LUMA_DC), (Class::Dc, CHROMA_DC), (Class::Ac, LUMA_AC), (Class::Ac, CHROMA_AC)];
        let built = standard.map(|(class, list)| {
            let mut table = Table::empty(class);
            table.set(list).expect("the tables of Annex K are sound");
            table
        });
        Tables {
            quant: [[0; 64]; 4],
            quant_defined: [false; 4],
            huffman: (0..8).map(|i| Table::empty(if i < 4 { Class::Dc } else { Class::Ac })).collect(),
            huffman_defined: [false; 8],
            standard: Vec::from(built),
            left: TABLES_MAX,
        }
    }

    fn heap_bytes(&self) -> usize {
        (self.huffman.len() + self.standard.len()) * size_of::<Table>()
    }

    /// Nothing of the previous picture is valid for the next.
    fn forget(&mut self) {
        self.quant_defined = [false; 4];
        self.huffman_defined = [false; 8];
        self.left = TABLES_MAX;
    }

    /// B.2.4.1.
    fn define_quant(&mut self, mut body: &[u8]) -> Result<(), JpegError> {
        while let Some((&head, rest)) = body.split_first() {
            let (wide, id) = (head >> 4, usize::from(head & 15));
            if wide > 1 || id > 3 {
                return Err(JpegError::BadSegment(
                    "DQT has a precision other than 8 or 16 bits, or a number above 3",
                ));
            }
            let len = 64 << wide;
            let values = rest.get(..len).ok_or(JpegError::BadSegment("DQT is too short"))?;
            for (value, from) in self.quant[id].iter_mut().zip(values.chunks_exact(1 << wide)) {
                *value = from.iter().fold(0, |value, &byte| value << 8 | u16::from(byte));
            }
            self.quant_defined[id] = true;
            body = &rest[len..];
        }
        Ok(())
    }

    /// B.2.4.2.
    fn define_huffman(&mut self, mut body: &[u8]) -> Result<(), JpegError> {
        while let Some((&head, rest)) = body.split_first() {
            let (class, id) = (usize::from(head >> 4), usize::from(head & 15));
            if class > 1 || id > 3 {
                return Err(JpegError::BadSegment(
                    "DHT has a class other than DC and AC, or a number above 3",
                ));
            }
            self.left = self.left.checked_sub(1).ok_or(JpegError::BadSegment("too many Huffman tables"))?;
            let (counts, rest) =
                rest.split_first_chunk::<16>().ok_or(JpegError::BadSegment("DHT is too short"))?;
            let count = counts.iter().map(|&n| usize::from(n)).sum();
            let symbols = rest.get(..count).ok_or(JpegError::BadSegment("DHT is too short"))?;
            let place = class * 4 + id;
            self.huffman[place].set(CodeList { counts, symbols })?;
            self.huffman_defined[place] = true;
            body = &rest[count..];
        }
        Ok(())
    }

    /// The coder for the component at `place` of the scan.
    fn coder(&self, frame: &Frame, sos: &Sos, place: usize) -> Result<Coder<'_>, JpegError> {
        let component = sos.components[place];
        let quant = frame.layouts[component.index].sof.quant;
        if !self.quant_defined[usize::from(quant)] {
            return Err(JpegError::MissingQuantTable(quant));
        }
        Ok(Coder {
            index: component.index,
            dc: self.huffman_table(0, component.dc)?,
            ac: self.huffman_table(1, component.ac)?,
            quant: &self.quant[usize::from(quant)],
        })
    }

    /// The picture's table, otherwise the standard one.
    fn huffman_table(&self, class: usize, id: u8) -> Result<&Table, JpegError> {
        let at = usize::from(id);
        if self.huffman_defined[class * 4 + at] {
            return Ok(&self.huffman[class * 4 + at]);
        }
        match at {
            0 | 1 => Ok(&self.standard[class * 2 + at]),
            _ => Err(JpegError::MissingHuffmanTable(id)),
        }
    }
}

#[cfg(test)]
mod tests;
