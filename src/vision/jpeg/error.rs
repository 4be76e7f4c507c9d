//! Errors of the JPEG decoder.

use std::fmt;

/// What is wrong with a JPEG. Plain data without heap memory: making one costs nothing on the frame path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JpegError {
    /// The bytes do not begin with SOI (0xFF 0xD8).
    NotJpeg,
    /// The bytes, or the entropy-coded data before the next marker, end before the picture does.
    Truncated,
    /// Too many bytes between the headers' segments.
    Junk {
        /// Offset at which the search for the next marker was given up.
        at: usize,
    },
    /// A segment that contradicts itself or T.81; the text names segment and fault.
    BadSegment(&'static str),
    /// A side of zero pixels.
    Empty {
        /// Claimed width.
        width: u32,
        /// Claimed height.
        height: u32,
    },
    /// Larger than the decoder's maximum.
    TooLarge {
        /// Claimed width.
        width: u32,
        /// Claimed height.
        height: u32,
        /// Largest width.
        width_max: u32,
        /// Largest height.
        height_max: u32,
    },
    /// A kind of JPEG that we do not decode: progressive, arithmetic, 12 bits, CMYK.
    Unsupported(&'static str),
    /// A component names a quantisation table that the picture does not define.
    MissingQuantTable(u8),
    /// A scan names a Huffman table that neither the picture nor T.81 Annex K defines.
    MissingHuffmanTable(u8),
    /// Entropy-coded bits that are no code, or more than 64 coefficients for a block.
    BadCode,
    /// No restart marker where the restart interval puts it, or not the next in turn.
    BadRestart {
        /// The expected number, 0..=7.
        expected: u8,
    },
    /// The end of the picture before every component had its scan.
    NoPicture,
}

impl fmt::Display for JpegError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JpegError::NotJpeg => f.write_str("not a JPEG: it does not begin with FF D8"),
            JpegError::Truncated => f.write_str("the JPEG ends before its picture does"),
            JpegError::Junk { at } => {
                write!(f, "too many bytes between the JPEG's header segments: no marker near byte {at}")
            }
            JpegError::BadSegment(what) => write!(f, "broken JPEG segment: {what}"),
            JpegError::Empty { width, height } => write!(f, "a JPEG of {width}x{height} pixels is empty"),
            JpegError::TooLarge { width, height, width_max, height_max } => {
                write!(f, "a JPEG of {width}x{height} pixels is larger than {width_max}x{height_max}")
            }
            JpegError::Unsupported(what) => write!(f, "JPEG not supported: {what}"),
            JpegError::MissingQuantTable(id) => write!(f, "the JPEG lacks its quantisation table {id}"),
            JpegError::MissingHuffmanTable(id) => write!(f, "the JPEG lacks its Huffman table {id}"),
            JpegError::BadCode => f.write_str("corrupt JPEG data: no such Huffman code"),
            JpegError::BadRestart { expected } => {
                write!(f, "corrupt JPEG data: restart marker {expected} is missing")
            }
            JpegError::NoPicture => f.write_str("the JPEG ends without a scan for every component"),
        }
    }
}

impl std::error::Error for JpegError {}
