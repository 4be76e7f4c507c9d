//! Progress where somebody waits.

use super::say;

#[cfg(feature = "desktop")]
use indicatif::{ProgressBar, ProgressStyle};

/// Progress in pictures on stderr: a bar, drawn only on a terminal. The device build has a line at each tenth instead.
pub(super) struct PictureBar {
    what: &'static str,
    #[cfg(feature = "desktop")]
    bar: ProgressBar,
}

impl PictureBar {
    /// For the command `what`.
    pub(super) fn new(what: &'static str) -> Self {
        PictureBar {
            what,
            #[cfg(feature = "desktop")]
            bar: bar(),
        }
    }

    pub(super) fn show(&self, done: usize, all: usize) {
        #[cfg(feature = "desktop")]
        {
            self.bar.set_length(all as u64);
            self.bar.set_position(done as u64);
        }
        if !cfg!(feature = "desktop") && is_tenth(done, all) {
            say(self.what, &format!("{done} of {all} pictures"));
        }
    }

    pub(super) fn end(&self) {
        #[cfg(feature = "desktop")]
        self.bar.finish_and_clear();
    }
}

#[cfg(feature = "desktop")]
fn bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} pictures, {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// Whether another tenth of all pictures is done.
const fn is_tenth(done: usize, all: usize) -> bool {
    done > 0 && all >= 10 && done * 10 / all != (done - 1) * 10 / all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_at_most() {
        let lines = |all: usize| (0..=all).filter(|done| is_tenth(*done, all)).collect::<Vec<_>>();
        assert_eq!(lines(200), [20, 40, 60, 80, 100, 120, 140, 160, 180, 200]);
        assert_eq!(lines(13).len(), 10);
        assert!(lines(9).is_empty());
    }
}
