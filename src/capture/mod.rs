//! Where frames come from. One trait; each kind of source has one home file.
//!
//! A source announces a frame ([`FrameSource::advance`]) before anybody pays for its bytes ([`FrameSource::read_into`]):
//! what the sampler does not want is skipped without being converted, decoded or copied (I2).

use std::time::Duration;

use crate::error::Result;
use crate::frame::{FrameFormat, FrameMeta};

/// What [`FrameSource::advance`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// A frame is there: its number and when it was taken (`bytes_used` is not known yet and 0).
    Frame(FrameMeta),
    /// Nothing within the time given. The caller may ask again at once.
    Idle,
    /// The recording is over. Live sources never say this.
    End,
}

/// A frame whose bytes now lie in the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// The frame's own format: pictures of a folder may differ from one to the next.
    pub format: FrameFormat,
    /// Valid bytes at the start of the buffer.
    pub bytes_used: usize,
}

/// A camera, a file, a folder, an external program, a simulated street.
///
/// Errors: `Class::Degrade` costs this frame (corrupt: counted, go on), `Class::Retry` means that the source is gone and is
/// to be dropped and opened again, `Class::Fatal` that trying again cannot help.
pub trait FrameSource: Send {
    /// The largest frame that will come; sizes the ring's slots.
    fn format(&self) -> &FrameFormat;

    /// Bytes that a ring slot needs for any frame of this source.
    fn slot_bytes(&self) -> usize {
        self.format().slot_bytes()
    }

    /// Waits at most `patience` for the next frame and announces it. If the frame announced before was not read, it is
    /// skipped as cheaply as the source can.
    ///
    /// # Errors
    /// See the trait.
    fn advance(&mut self, patience: Duration) -> Result<Advance>;

    /// Copies the announced frame into the start of `buffer`.
    ///
    /// # Errors
    /// See the trait; also a frame larger than `buffer` (`Class::Degrade`).
    fn read_into(&mut self, buffer: &mut [u8]) -> Result<Filled>;
}
