//! What the server asks for a page, and what it gets.

use std::fmt;
use std::io;

use crate::status::openmetrics::Format;

/// Makes the pages. Called on the server's thread, so it must not wait for anything.
pub trait Pages: Send {
    /// Writes the page at the path of `request`. What was written is sent with [`Status::Ok`], [`Status::Accepted`] and [`Status::Unavailable`].
    fn respond(&mut self, request: &Request<'_>, page: &mut Page<'_>) -> Status;
}

/// What a client asks for: GET, or HEAD, whose page is written and not sent; or POST, on the socket only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The path, beginning with `/`, as it was sent: not decoded, without the query.
    pub path: &'a str,
    /// The format of metrics that the client accepts.
    pub format: Format,
    /// POST: the client asks for something to be done. Only who may change something can ask for it.
    pub is_post: bool,
}

/// The status of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 200.
    Ok,
    /// 202: what was asked for will be done.
    Accepted,
    /// 404, with a text of the server's own.
    NotFound,
    /// 405, with a text of the server's own: this page takes no POST, or nothing else.
    NotAllowed,
    /// 503: the page says why something is not healthy or not ready.
    Unavailable,
}

/// A page in fixed memory. A write beyond its end fails, and the client gets a 500.
#[derive(Debug)]
pub struct Page<'a> {
    room: &'a mut [u8],
    used: usize,
    truncated: bool,
    content_type: &'static str,
}

/// The `Content-Type` of JSON.
pub const JSON: &str = "application/json";
/// The `Content-Type` of plain text, which a page has unless it says otherwise.
pub const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

impl<'a> Page<'a> {
    /// An empty page in `room`.
    pub fn new(room: &'a mut [u8]) -> Self {
        Page { room, used: 0, truncated: false, content_type: PLAIN_TEXT }
    }

    /// Says what the page is: [`JSON`], [`Format::content_type`].
    pub fn set_content_type(&mut self, content_type: &'static str) {
        self.content_type = content_type;
    }

    /// What the page is.
    pub fn content_type(&self) -> &'static str {
        self.content_type
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.used]
    }

    /// Whether a write did not fit.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// All of `bytes`, or none of them. False: they do not fit.
    fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = !self.truncated && bytes.len() <= self.room.len() - self.used;
        if fits {
            self.room[self.used..self.used + bytes.len()].copy_from_slice(bytes);
            self.used += bytes.len();
        }
        self.truncated = !fits;
        fits
    }
}

impl fmt::Write for Page<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.push(text.as_bytes()) { Ok(()) } else { Err(fmt::Error) }
    }
}

/// For serde_json.
impl io::Write for Page<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.push(bytes) { Ok(bytes.len()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn a_page_holds_exactly_its_room_and_remembers_what_did_not_fit() {
        let mut room = [0; 5];
        let mut page = Page::new(&mut room);
        page.write_str("abc").unwrap();
        page.write_str("de").unwrap();
        assert!(!page.is_truncated());
        page.write_str("").unwrap();
        page.write_str("f").unwrap_err();
        assert!(page.is_truncated());
        page.write_str("").unwrap_err();
        assert_eq!(page.bytes(), b"abcde", "the end of a text that lost a part is not written");
        let mut page = Page::new(&mut room);
        serde_json::to_writer(&mut page, &[1, 2]).unwrap();
        assert_eq!((page.bytes(), page.content_type()), (&b"[1,2]"[..], PLAIN_TEXT));
        serde_json::to_writer(&mut page, &1).unwrap_err();
        assert!(page.is_truncated());
    }
}
