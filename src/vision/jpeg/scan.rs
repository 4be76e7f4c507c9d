//! One scan: its header (T.81 B.2.3), and the loops over its blocks.
//!
//! ```text
//! Bits ─► DC difference ─► AC run/size ─► dequantised block ─► idct ─► 8 rows into the component's plane
//!                      └► (DC only) skip AC ─► mean of the block ─► one sample of the small plane
//! ```

use super::error::JpegError;
use super::header::{Frame, Layout};
use super::huffman::{Bits, END_OF_BLOCK, Table};
use super::idct;
use super::tables::ZIGZAG;

/// A component in a scan.
#[derive(Clone, Copy)]
pub(super) struct ScanComponent {
    /// Index into the frame's components.
    pub(super) index: usize,
    /// Its DC and AC Huffman table, 0..=3.
    pub(super) dc: u8,
    pub(super) ac: u8,
}

/// A scan header: its components, in order.
#[derive(Clone, Copy)]
pub(super) struct Sos {
    pub(super) count: usize,
    pub(super) components: [ScanComponent; 3],
}

impl Sos {
    /// Reads a scan header. `done` says which components had their scan: components of the same name come in turn, as in libjpeg.
    pub(super) fn parse(frame: &Frame, done: &[bool; 3], body: &[u8]) -> Result<Sos, JpegError> {
        let Some((&count, list)) = body.split_first() else {
            return Err(JpegError::BadSegment("SOS is too short"));
        };
        let count = usize::from(count);
        if count == 0 || count > frame.count || list.len() != count * 2 + 3 {
            return Err(JpegError::BadSegment("SOS has the wrong length for its components"));
        }
        let mut sos = Sos { count, components: [ScanComponent { index: 0, dc: 0, ac: 0 }; 3] };
        // The last three bytes (Ss, Se, Ah/Al) have only one legal value in sequential JPEG, and some cameras write others; libjpeg warns
        // and ignores them, we ignore them.
        for (at, from) in list[..count * 2].chunks_exact(2).enumerate() {
            let named = |&index: &usize| frame.layouts[index].sof.id == from[0];
            let free = |&index: &usize| sos.components[..at].iter().all(|other| other.index != index);
            let mut candidates = (0..frame.count).filter(named);
            if candidates.clone().next().is_none() {
                return Err(JpegError::BadSegment("SOS names a component that SOF does not"));
            }
            let index = candidates.clone().filter(free).find(|&index| !done[index]);
            let index = index
                .or_else(|| candidates.find(free))
                .ok_or(JpegError::BadSegment("SOS names a component twice"))?;
            let (dc, ac) = (from[1] >> 4, from[1] & 15);
            if dc > 3 || ac > 3 {
                return Err(JpegError::BadSegment("SOS names a Huffman table above 3"));
            }
            sos.components[at] = ScanComponent { index, dc, ac };
        }
        Ok(sos)
    }
}

/// The state for decoding a component's blocks.
#[derive(Clone, Copy)]
pub(super) struct Coder<'a> {
    pub(super) index: usize,
    pub(super) dc: &'a Table,
    pub(super) ac: &'a Table,
    /// In zigzag order.
    pub(super) quant: &'a [u16; 64],
}

/// Receives decoded blocks. `bx`, `by`: the block's position in its component, within the padded plane.
pub(super) trait Sink {
    /// Decodes (or skips) the next block.
    fn block(
        &mut self,
        bits: &mut Bits<'_>,
        coder: &Coder<'_>,
        layout: &Layout,
        prediction: &mut i32,
        place: (usize, usize),
    ) -> Result<(), JpegError>;
}

/// Decodes the blocks of a scan in their order (A.2), including restart intervals. Returns how many stray bytes were skipped.
pub(super) fn run<S: Sink>(
    bits: &mut Bits<'_>,
    frame: &Frame,
    coders: &[Coder<'_>],
    restart_interval: usize,
    sink: &mut S,
) -> Result<usize, JpegError> {
    let (units_x, units_y) = match coders {
        // A.2.2: a lone component is stored block by block, without the padding to MCUs.
        [one] => {
            let layout = &frame.layouts[one.index];
            (layout.width.div_ceil(8), layout.height.div_ceil(8))
        }
        _ => (frame.mcus_x, frame.mcus_y),
    };
    let mut predictions = [0; 3];
    // B.2.4.4: an interval of 0 switches restarts off.
    let mut until_restart = if restart_interval == 0 { usize::MAX } else { restart_interval };
    let mut restarts = 0u8;
    let mut stray = 0;
    for unit_y in 0..units_y {
        for unit_x in 0..units_x {
            if until_restart == 0 {
                stray += bits.restart(restarts & 7)?;
                restarts = restarts.wrapping_add(1);
                predictions = [0; 3];
                until_restart = restart_interval;
            }
            until_restart -= 1;
            for (coder, prediction) in coders.iter().zip(&mut predictions) {
                let layout = &frame.layouts[coder.index];
                let (h, v) = match coders.len() {
                    1 => (1, 1),
                    _ => (usize::from(layout.sof.h), usize::from(layout.sof.v)),
                };
                for y in 0..v {
                    for x in 0..h {
                        sink.block(bits, coder, layout, prediction, (unit_x * h + x, unit_y * v + y))?;
                    }
                }
            }
        }
        // Appended zeros decode to something: this check limits the work on a truncated picture to a row.
        if bits.overrun() {
            return Err(JpegError::Truncated);
        }
    }
    Ok(stray)
}

/// Decodes the DC difference and updates the prediction, which wraps at 16 bits: legal pictures need 12.
#[inline(always)]
fn dc(bits: &mut Bits<'_>, coder: &Coder<'_>, prediction: &mut i32) -> Result<(), JpegError> {
    bits.ensure();
    let entry = coder.dc.look(bits)?;
    *prediction = i32::from((*prediction + bits.value(entry)) as i16);
    Ok(())
}

/// Full decode: planes of samples, rows of `stride_blocks * 8` bytes.
pub(super) struct FullSink<'a> {
    pub(super) planes: &'a mut [Vec<u8>; 3],
}

impl Sink for FullSink<'_> {
    #[inline(always)]
    fn block(
        &mut self,
        bits: &mut Bits<'_>,
        coder: &Coder<'_>,
        layout: &Layout,
        prediction: &mut i32,
        (bx, by): (usize, usize),
    ) -> Result<(), JpegError> {
        dc(bits, coder, prediction)?;
        let mut coefficients = [0i32; 64];
        // Fits: 16 bits times 16 bits.
        coefficients[0] = prediction.wrapping_mul(i32::from(coder.quant[0]));
        let last = ac(bits, coder, &mut coefficients)?;
        let samples = idct::idct(&coefficients, last);
        let stride = layout.stride_blocks * 8;
        let rows = self.planes[coder.index][by * 8 * stride..][..8 * stride].chunks_exact_mut(stride);
        for (row, from) in rows.zip(&samples) {
            row[bx * 8..][..8].copy_from_slice(from);
        }
        Ok(())
    }
}

/// Decodes the AC coefficients of a block (F.2.2.2). Returns the zigzag position of the last one.
#[inline(always)]
fn ac(bits: &mut Bits<'_>, coder: &Coder<'_>, coefficients: &mut [i32; 64]) -> Result<usize, JpegError> {
    let (mut next, mut last) = (1, 0);
    while next < 64 {
        bits.ensure();
        let entry = coder.ac.look(bits)?;
        let advance = entry.advance();
        if entry.size() == 0 {
            bits.consume(entry.total());
            match advance {
                0 => return Err(JpegError::BadCode),
                END_OF_BLOCK => return Ok(last),
                _ => next += advance,
            }
            continue;
        }
        last = next + advance - 1;
        if last > 63 {
            return Err(JpegError::BadCode);
        }
        // Fits: 15 bits and a sign times 16 bits.
        let value = bits.value(entry).wrapping_mul(i32::from(coder.quant[last]));
        coefficients[usize::from(ZIGZAG[last] & 63)] = value;
        next = last + 1;
    }
    if next == 64 { Ok(last) } else { Err(JpegError::BadCode) }
}

/// DC only: one sample for each luma block, rows of `stride_blocks` bytes.
pub(super) struct DcSink<'a> {
    pub(super) plane: &'a mut [u8],
}

impl Sink for DcSink<'_> {
    #[inline(always)]
    fn block(
        &mut self,
        bits: &mut Bits<'_>,
        coder: &Coder<'_>,
        layout: &Layout,
        prediction: &mut i32,
        (bx, by): (usize, usize),
    ) -> Result<(), JpegError> {
        if layout.is_luma {
            dc(bits, coder, prediction)?;
            let dequantised = prediction.wrapping_mul(i32::from(coder.quant[0]));
            self.plane[by * layout.stride_blocks + bx] = idct::mean(dequantised);
        } else {
            bits.ensure();
            let entry = coder.dc.look(bits)?;
            bits.consume(entry.total());
        }
        coder.ac.skip_ac(bits)
    }
}
