//! Joins header lines that continue in the next line (RFC 9112, section 5.2, "obs-fold") before the client's parser sees them: the parser
//! refuses them, and with them the confirmation of a batch that is stored.

use ureq::unversioned::transport::{Buffers, LazyBuffers, NextTimeout, Transport};

/// Largest piece that is read from the connection in one step.
const PIECE_BYTES: usize = 4096;

/// Position of the next byte in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In its first line, this many bytes from the start; after an interim status (1xx) another header section follows.
    First(usize),
    /// In the rest of the headers.
    Header,
    /// In the body.
    Body,
}

/// The filter. It holds back the end of a line until the next byte shows whether the line continues.
#[derive(Debug)]
struct Unfold {
    at: At,
    interim: bool,
    /// Bytes of a line end that are held back: none, LF or CR LF.
    held: usize,
    /// The last byte was a CR.
    cr: bool,
    /// Bytes of this line so far.
    line: usize,
}

impl Unfold {
    const fn new() -> Self {
        Unfold { at: At::First(0), interim: false, held: 0, cr: false, line: 0 }
    }

    /// Passes one byte on, after the bytes held back before it. At most three bytes come out for one that goes in, and never more in total
    /// than went in.
    fn push(&mut self, byte: u8, mut out: impl FnMut(u8)) {
        if self.at == At::Body {
            out(byte);
            return;
        }
        if self.held > 0 {
            let folded = matches!(byte, b' ' | b'\t');
            let end: &[u8] = match (folded, self.held) {
                (true, 1) => b" ",
                (true, _) => b"  ",
                (false, 1) => b"\n",
                (false, _) => b"\r\n",
            };
            end.iter().for_each(|&byte| out(byte));
            self.held = 0;
            if !folded {
                self.line = 0;
                self.at = At::Header;
            }
        }
        if let At::First(index) = self.at {
            // "HTTP/1.1 100 Continue"
            if index == 9 {
                self.interim = byte == b'1';
            }
            self.at = At::First(index + 1);
        }
        match byte {
            b'\r' if !self.cr => {
                self.cr = true;
                return;
            }
            b'\n' => {
                let end = 1 + usize::from(std::mem::take(&mut self.cr));
                if self.line > 0 || matches!(self.at, At::First(_)) {
                    self.held = end;
                    return;
                }
                // An empty line: the headers end.
                if end == 2 {
                    out(b'\r');
                }
                out(b'\n');
                *self = if self.interim { Unfold::new() } else { Unfold { at: At::Body, ..Unfold::new() } };
                return;
            }
            _ => {}
        }
        if std::mem::take(&mut self.cr) {
            out(b'\r');
            self.line += 1;
            if byte == b'\r' {
                self.cr = true;
                return;
            }
        }
        out(byte);
        self.line += 1;
    }

    /// The bytes still held back when the connection ends.
    fn finish(&mut self, mut out: impl FnMut(u8)) {
        if self.held == 2 || std::mem::take(&mut self.cr) {
            out(b'\r');
        }
        if self.held > 0 {
            out(b'\n');
        }
        self.held = 0;
    }
}

/// A connection whose responses contain no folded lines.
#[derive(Debug)]
pub(super) struct Unfolded<T> {
    inner: T,
    buffers: LazyBuffers,
    filter: Unfold,
}

impl<T: Transport> Unfolded<T> {
    /// Wraps `inner`, whose buffers have `input` and `output` bytes.
    pub(super) fn new(inner: T, (input, output): (usize, usize)) -> Self {
        Unfolded { inner, buffers: LazyBuffers::new(input, output), filter: Unfold::new() }
    }
}

impl<T: Transport> Transport for Unfolded<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.filter = Unfold::new(); // A response comes next.
        let mut sent = 0;
        while sent < amount {
            let room = self.inner.buffers().output();
            let piece = room.len().min(amount - sent);
            room[..piece].copy_from_slice(&self.buffers.output()[sent..sent + piece]);
            self.inner.transmit_output(piece, timeout)?;
            sent += piece;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        loop {
            if self.inner.buffers().input().is_empty() && !self.inner.await_input(timeout)? {
                let mut rest = heapless::Vec::<u8, 2>::new();
                self.filter.finish(|byte| rest.extend([byte]));
                let passed = append(&mut self.buffers, &rest);
                return Ok(passed > 0);
            }
            let room = self.buffers.input_append_buf().len();
            let input = self.inner.buffers().input();
            // Two bytes may have been held back from before.
            let piece = input.len().min(room.saturating_sub(2)).min(PIECE_BYTES);
            if piece == 0 {
                return Ok(false);
            }
            let mut out = heapless::Vec::<u8, { PIECE_BYTES + 2 }>::new();
            for &byte in &input[..piece] {
                self.filter.push(byte, |byte| out.extend([byte]));
            }
            self.inner.buffers().input_consume(piece);
            if append(&mut self.buffers, &out) > 0 {
                return Ok(true);
            }
        }
    }

    fn is_open(&mut self) -> bool {
        self.inner.buffers().input().is_empty() && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

fn append(buffers: &mut LazyBuffers, bytes: &[u8]) -> usize {
    let room = buffers.input_append_buf();
    let count = bytes.len().min(room.len());
    room[..count].copy_from_slice(&bytes[..count]);
    buffers.input_appended(count);
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unfolded(text: &[u8]) -> Vec<u8> {
        let (mut filter, mut out) = (Unfold::new(), Vec::new());
        text.iter().for_each(|&byte| filter.push(byte, |byte| out.push(byte)));
        filter.finish(|byte| out.push(byte));
        out
    }

    #[test]
    fn folded_lines_become_one_and_nothing_else_changes() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nA: 1\r\n\r\nbody\r\n more", None),
            ("HTTP/1.1 200 OK\r\n\r\n", None),
            ("HTTP/1.1 200 OK\nA: 1\n\nbody\n more", None),
            ("HTTP/1.1 200 OK\r\nA: 1\rx\r\r\nB: 2\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\nA: 1\r\n", None),
            ("HTTP/1.1 200 OK\r\nA: 1\r", None),
            (
                "HTTP/1.1 200 OK\r\nA: 1,\r\n 2,\r\n\t3\r\nB: 4\r\n\r\nb\r\n c",
                Some("HTTP/1.1 200 OK\r\nA: 1,   2,  \t3\r\nB: 4\r\n\r\nb\r\n c"),
            ),
            ("HTTP/1.1 200 OK\nA: 1\n 2\n\nbody", Some("HTTP/1.1 200 OK\nA: 1  2\n\nbody")),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: 1\r\n 2\r\n\r\nb\r\n c",
                Some("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: 1   2\r\n\r\nb\r\n c"),
            ),
        ] {
            let out = unfolded(text.as_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), expected.unwrap_or(text), "{text:?}");
        }
    }

    proptest! {
        /// No byte is lost or added, whatever arrives; only the ends of folded lines become spaces.
        #[test]
        fn any_bytes_keep_their_number(text in "[\\r\\n a:1]{0,60}") {
            let text = format!("HTTP/1.1 200 OK\r\n{text}");
            let out = unfolded(text.as_bytes());
            prop_assert_eq!(out.len(), text.len());
            for (before, after) in text.bytes().zip(out) {
                prop_assert!(before == after || (after == b' ' && matches!(before, b'\r' | b'\n')));
            }
        }
    }
}
