//! Short texts of fixed size: names, reasons.

use crate::base::limits::{EVENT_TEXT_BYTES_MAX, NAME_BYTES_MAX};

/// Where the commands and sources that the device build (`--no-default-features`) leaves out are available, for messages.
pub const DESKTOP_BUILD: &str =
    "run it on a desktop computer, with the program that `cargo build --release` makes";

/// A short name (device, camera, class, line).
pub type Name = heapless::String<NAME_BYTES_MAX>;

/// A short text (a reason, an error).
pub type Text = heapless::String<EVENT_TEXT_BYTES_MAX>;

/// Copies `text` into a fixed-size string; a longer text is cut at a character boundary.
pub fn fixed<const N: usize>(text: &str) -> heapless::String<N> {
    let mut end = text.len().min(N);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    heapless::String::try_from(&text[..end]).expect("cut to the capacity above")
}

/// A text without what a terminal acts on: control characters (and with them every escape sequence), invisible characters, and those that
/// change the direction of writing.
pub fn printable(text: &str) -> String {
    let is_hidden = |c: char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.chars().map(|c| if c.is_control() || is_hidden(c) { '?' } else { c }).collect()
}
