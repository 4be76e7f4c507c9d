//! What runs the network. One trait; [`tract`] is the reference behind it.

pub mod tract;

use super::decode::HeadShape;
use super::letterbox::Size;
use crate::error::Result;

/// A loaded network of one input size. Input and output live in the engine, so that nobody copies them.
pub trait Engine: Send {
    /// The input rectangle.
    fn size(&self) -> Size;

    /// Shape of the output.
    fn head(&self) -> HeadShape;

    /// The input: planar R, G, B, row by row, 0..=1, `3 * width * height` numbers. Keeps no promise about what was in it before.
    fn input(&mut self) -> &mut [f32];

    /// Runs the network on the input. The output has `4 + classes` rows of `anchors` numbers and is valid until the next run.
    ///
    /// # Errors
    /// `Kind::Model` if the network fails; it does so for every input or for none.
    fn run(&mut self) -> Result<&[f32]>;

    /// What it is, for people: `tract 0.23, 320, 2100 anchors`.
    fn describe(&self) -> String;
}
