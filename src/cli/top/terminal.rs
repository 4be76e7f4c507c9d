//! The terminal of `flytrap top`: a screen of its own, keys one by one, its size. However the command ends, the terminal is as before.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use async_signal::{Signal, Signals};
use futures_lite::StreamExt as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::Event;
use super::view::{self, Line};
use crate::base::error::{Error, Kind, Result};
use crate::platform::threads::spawn;

/// Screen of its own; no cursor; what is too long for a line is cut, not wrapped.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// The opposite.
const LEAVE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";
const ALARM: &str = "\x1b[1;31m";
const NORMAL: &str = "\x1b[0m";

/// For how long the rest of a key's escape sequence may be on its way.
const SEQUENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The terminal while the command runs.
pub(super) struct Screen {
    before: Arc<Before>,
    keys: Arc<File>,
    has_colour: bool,
    /// What is on it.
    shown: String,
}

/// What is restored, once.
struct Before {
    out: File,
    keys: Arc<File>,
    settings: Termios,
    is_restored: OnceLock<()>,
}

impl Before {
    fn restore(&self) {
        self.is_restored.get_or_init(|| {
            // If the terminal is gone, there is nothing to restore.
            let _gone = (&self.out).write_all(LEAVE.as_bytes());
            let _gone = tcsetattr(&*self.keys, OptionalActions::Now, &self.settings);
        });
    }
}

/// Columns of the standard output: of its terminal, else 80.
pub(super) fn columns() -> usize {
    let size = tcgetwinsize(io::stdout()).ok();
    size.map(|size| size.ws_col.into()).filter(|columns| *columns > 0).unwrap_or(80)
}

impl Screen {
    /// Takes over the terminal; `None`: there is none that can show a screen.
    ///
    /// # Errors
    /// `Kind::System`: it refuses.
    pub(super) fn open() -> Result<Option<Self>> {
        let failed = |error: io::Error| {
            Error::fatal(Kind::System, "the terminal cannot be used: print once with --once").caused_by(error)
        };
        let is_dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
        if !io::stdout().is_terminal() || is_dumb {
            return Ok(None);
        }
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
        let keys = if io::stdin().is_terminal() {
            copy(io::stdin().as_fd()).map_err(failed)?
        } else {
            let Ok(terminal) = File::options().read(true).write(true).open("/dev/tty") else {
                return Ok(None);
            };
            terminal
        };
        let out = copy(io::stdout().as_fd()).map_err(failed)?;
        let settings = tcgetattr(&keys).map_err(|error| failed(error.into()))?;
        let mut raw = settings.clone();
        raw.make_raw();
        let keys = Arc::new(keys);
        let before =
            Arc::new(Before { out, keys: Arc::clone(&keys), settings, is_restored: OnceLock::new() });
        restore_on_panic(&before);
        // From here on it is restored when dropped.
        let has_colour = std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
        let screen = Screen { before, keys, has_colour, shown: String::new() };
        tcsetattr(&*screen.keys, OptionalActions::Now, &raw).map_err(|error| failed(error.into()))?;
        (&screen.before.out).write_all(ENTER.as_bytes()).map_err(failed)?;
        Ok(Some(screen))
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.before.out) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            // A serial line does not know.
            _ => (80, 24),
        }
    }

    /// Shows these lines, in one write, and nothing if they are there already. `again`: they may have been disturbed.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn draw(&mut self, lines: &[Line], again: bool) -> Result<()> {
        let text = screenful(lines, self.size(), self.has_colour);
        if text == self.shown && !again {
            return Ok(());
        }
        (&self.before.out)
            .write_all(text.as_bytes())
            .map_err(|error| Error::fatal(Kind::System, "the terminal is gone").caused_by(error))?;
        self.shown = text;
        Ok(())
    }

    /// Sends events for keys and signals from now on.
    ///
    /// # Errors
    /// `Kind::System`: no descriptors or threads are left.
    pub(super) fn listen(&self, events: &Sender<Event>) -> Result<()> {
        let (keys, sender) = (Arc::clone(&self.keys), events.clone());
        let _ends_with_the_process = spawn("keys", move || read_keys(&keys, &sender))?;
        let signals =
            Signals::new([Signal::Int, Signal::Term, Signal::Hup, Signal::Quit, Signal::Winch, Signal::Cont]);
        let mut signals = signals
            .map_err(|error| Error::fatal(Kind::System, "cannot listen for signals").caused_by(error))?;
        let sender = events.clone();
        let wait = async move {
            while let Some(signal) = signals.next().await {
                let is_redraw = matches!(signal, Ok(Signal::Winch | Signal::Cont));
                let _over = sender.send(if is_redraw { Event::Disturbed } else { Event::End });
            }
        };
        let _ends_with_the_process = spawn("signals", move || futures_lite::future::block_on(wait))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.before.restore();
    }
}

/// A panic ends the program without dropping anything.
fn restore_on_panic(before: &Arc<Before>) {
    let (before, report) = (Arc::clone(before), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        before.restore();
        report(panic);
    }));
}

/// What is written for these lines on a terminal of this size (columns, lines).
fn screenful(lines: &[Line], (width, height): (usize, usize), has_colour: bool) -> String {
    let mut text = String::from("\x1b[H");
    for (index, line) in lines.iter().enumerate() {
        text += if index > 0 { "\r\n" } else { "" };
        let (before, after) = if line.is_alarm && has_colour { (ALARM, NORMAL) } else { ("", "") };
        text += before;
        text += &line.text;
        text += after;
        // Behind a full line the cursor is still on its last character.
        text += if view::columns(&line.text) < width { "\x1b[K" } else { "" };
    }
    text += if lines.len() < height { "\r\n\x1b[J" } else { "" };
    text
}

/// Reads keys until one ends the command.
fn read_keys(keys: &File, events: &Sender<Event>) {
    let mut bytes = [0; 64];
    loop {
        let mut count = match (&*keys).read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let mut ready = [PollFd::new(keys, PollFlags::IN)];
        if count == 1 && bytes[0] == ESCAPE && poll(&mut ready, Some(&SEQUENCE)).is_ok_and(|ready| ready > 0)
        {
            count += (&*keys).read(&mut bytes[1..]).unwrap_or(0);
        }
        // Without a byte: the terminal is gone.
        if count == 0 || ends(&bytes[..count]) {
            let _over = events.send(Event::End);
            return;
        }
    }
}

const ESCAPE: u8 = 0x1b;

/// Whether one of these keys ends the command: q, Esc or Ctrl-C. Sequences of other keys, such as the arrows, do not.
fn ends(mut keys: &[u8]) -> bool {
    while let [key, rest @ ..] = keys {
        keys = match (key, rest) {
            (b'q' | b'Q' | 0x03, _) | (&ESCAPE, [] | [ESCAPE, ..]) => return true,
            (&ESCAPE, [b'[' | b'O', sequence @ ..]) => {
                let last = sequence.iter().position(|byte| (0x40..=0x7e).contains(byte));
                last.map_or(&[][..], |last| &sequence[last + 1..])
            }
            // With Alt.
            (&ESCAPE, [_, rest @ ..]) => rest,
            _ => rest,
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_ctrl_c_end_it_and_no_other_key() {
        for keys in ["q", "Q", "\x03", "\x1b", "\x1b\x1b", "xq", "\x1b[Aq", "\x1bOP\x1b"] {
            assert!(ends(keys.as_bytes()), "{keys:?}");
        }
        for keys in ["", "x", "\x1b[A", "\x1bOq", "\x1b[1;5C", "\x1b[15~x", "\x1b[", "\x1bq", "\r", "é"] {
            assert!(!ends(keys.as_bytes()), "{keys:?}");
        }
    }

    #[test]
    fn a_screen_is_overwritten_without_clearing_it() {
        let line = |text: &str, is_alarm| Line { text: text.into(), is_alarm };
        let lines = [line("full", false), line("red", true)];
        let shown = screenful(&lines, (4, 3), true);
        assert_eq!(shown, "\x1b[Hfull\r\n\x1b[1;31mred\x1b[0m\x1b[K\r\n\x1b[J");
        assert_eq!(
            screenful(&lines, (4, 2), false),
            "\x1b[Hfull\r\nred\x1b[K",
            "the last line stays the last"
        );
    }
}
