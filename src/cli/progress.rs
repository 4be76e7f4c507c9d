//! A progress bar where somebody waits.

use indicatif::{ProgressBar, ProgressStyle};

/// Progress in pictures; drawn on stderr, and only on a terminal.
pub(super) struct PictureBar(ProgressBar);

impl PictureBar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} pictures, {eta} left") {
            bar.set_style(style);
        }
        PictureBar(bar)
    }

    pub(super) fn show(&self, done: usize, all: usize) {
        self.0.set_length(all as u64);
        self.0.set_position(done as u64);
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
