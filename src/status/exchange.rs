//! One connection without its socket: bytes in, pages out, in memory that is allocated once. Pure: time and bytes are given.
//!
//! ```text
//!   begin ──► Reading ── head is complete ──► Writing ── sent ──► Reading …
//!                │                              │ └──── sent, last one ──► Draining
//!                └── too late, end of input ────┴── too late ─────────────────┴──► Closed
//! ```
//! `Draining` reads and discards for a moment what a client still sends: if the socket were closed at once, the kernel would reset the
//! connection, and the client would not see the response.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use crate::base::limits::STATUS_HEAD_BYTES_MAX;
use crate::platform::clock::Mono;
use crate::status::access::{Access, Decision};
use crate::status::page::{PLAIN_TEXT, Page, Pages, Status};
use crate::status::request::{self, Head, Refusal};

/// Longest time from the beginning of the connection to the end of the first head, and from the first byte of a further head to its end.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time between two requests of a connection. Prometheus scrapes every minute at most times.
const IDLE_TIME_MAX: Duration = Duration::from_secs(120);
/// Longest time to send a response.
const SEND_TIME_MAX: Duration = Duration::from_secs(20);
/// Longest time to discard what a client still sends.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);
/// A connection that achieves nothing for this long gives way to a new one when the table is full. A client sends its head together with
/// the end of the handshake; only a lost packet takes longer than this, and then only a full table cuts it off.
const PATIENCE: Duration = Duration::from_millis(250);

/// Bytes in front of a page for the head of the response.
const HEAD_ROOM: usize = 512;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing: it is free for a new connection.
    Closed,
    /// The head of a request.
    Reading,
    /// The client, to take the response.
    Writing {
        /// No further request is answered.
        last: bool,
    },
    /// The client, to close.
    Draining,
}

/// What came of looking for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is no complete head yet.
    None,
    /// A page, or that there is none at that path.
    Page,
    /// The page did not fit; 500.
    Truncated,
    /// 401, 421.
    Unauthorized,
    /// 400, 405, 431, 505.
    Refused,
}

/// The beginning of a response.
struct Start {
    /// Code and reason.
    status: &'static str,
    content_type: &'static str,
    /// Whole lines.
    headers: &'static str,
}

impl Start {
    const fn of_text(status: &'static str, headers: &'static str) -> Self {
        Start { status, content_type: PLAIN_TEXT, headers }
    }
}

/// A connection's memory and state.
#[derive(Debug)]
pub(super) struct Exchange {
    input: Box<[u8]>,
    /// Bytes of `input` that were received and not used.
    filled: usize,
    /// Bytes of `input` in which no head ends.
    searched: usize,
    output: Box<[u8]>,
    /// The part of `output` that is still to be sent.
    pending: Range<usize>,
    phase: Phase,
    /// A request was answered on this connection.
    answered: bool,
    /// A byte of the next request has come.
    head_begun: bool,
    /// When the phase, or a further head, began.
    since: Mono,
    /// When it last got on.
    progress: Mono,
}

impl Exchange {
    /// Bytes that one of them takes, with pages of at most `page_bytes`.
    pub(super) const fn memory_bytes(page_bytes: usize) -> usize {
        STATUS_HEAD_BYTES_MAX + HEAD_ROOM + page_bytes
    }

    pub(super) fn new(page_bytes: usize) -> Self {
        // Not of zeros, whose pages would be allocated only when they are first written to.
        Exchange {
            input: vec![b' '; STATUS_HEAD_BYTES_MAX].into_boxed_slice(),
            filled: 0,
            searched: 0,
            output: vec![b' '; HEAD_ROOM + page_bytes].into_boxed_slice(),
            pending: 0..0,
            phase: Phase::Closed,
            answered: false,
            head_begun: false,
            since: Mono::ZERO,
            progress: Mono::ZERO,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// A new connection.
    pub(super) fn begin(&mut self, now: Mono) {
        (self.filled, self.searched, self.pending) = (0, 0, 0..0);
        (self.answered, self.head_begun) = (false, false);
        self.enter(Phase::Reading, now);
    }

    /// The connection is over.
    pub(super) fn close(&mut self) {
        self.phase = Phase::Closed;
    }

    fn enter(&mut self, phase: Phase, now: Mono) {
        (self.phase, self.since, self.progress) = (phase, now, now);
    }

    /// Where received bytes go; empty unless it reads. Never empty while it reads.
    pub(super) fn room(&mut self) -> &mut [u8] {
        match self.phase {
            Phase::Reading => &mut self.input[self.filled..],
            Phase::Draining => &mut self.input,
            Phase::Closed | Phase::Writing { .. } => &mut [],
        }
    }

    /// `count` bytes were written to [`Self::room`].
    pub(super) fn received(&mut self, count: usize, now: Mono) {
        if self.phase == Phase::Reading && count > 0 {
            if self.answered && !self.head_begun {
                (self.since, self.progress) = (now, now);
            }
            self.head_begun = true;
            self.filled += count;
        }
    }

    /// Answers the next request, if its head is complete.
    pub(super) fn answer(&mut self, now: Mono, access: &mut Access, pages: &mut dyn Pages) -> Answer {
        if self.phase != Phase::Reading {
            return Answer::None;
        }
        self.skip_line_breaks();
        let input = &self.input[..self.filled];
        let refusal = match request::end(input, self.searched) {
            Some(end) => match request::parse(&input[..end]) {
                Ok(head) => {
                    let answer = respond(&head, &mut self.output, access, pages);
                    let last = !head.keep_alive || matches!(answer.1, Answer::Unauthorized | Answer::Refused);
                    self.pending = answer.0.finish(&mut self.output, head.without_body, last);
                    self.input.copy_within(end..self.filled, 0);
                    (self.filled, self.searched) = (self.filled - end, 0);
                    (self.answered, self.head_begun) = (true, self.filled > 0);
                    self.enter(Phase::Writing { last }, now);
                    return answer.1;
                }
                Err(refusal) => refusal,
            },
            None if !request::may_begin(input) => Refusal::Bad("not a request"),
            None if self.filled == self.input.len() => Refusal::TooLarge,
            None => {
                self.searched = self.filled;
                return Answer::None;
            }
        };
        self.pending = refused(refusal, &mut self.output).finish(&mut self.output, false, true);
        self.enter(Phase::Writing { last: true }, now);
        Answer::Refused
    }

    /// Line breaks in front of a request are ignored (RFC 9112, section 2.2).
    fn skip_line_breaks(&mut self) {
        let breaks =
            self.input[..self.filled].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if breaks > 0 {
            self.input.copy_within(breaks..self.filled, 0);
            (self.filled, self.searched) = (self.filled - breaks, 0);
        }
    }

    /// What is to be sent.
    pub(super) fn pending(&self) -> &[u8] {
        &self.output[self.pending.clone()]
    }

    /// `count` bytes of [`Self::pending`] were sent.
    pub(super) fn sent(&mut self, count: usize, now: Mono) {
        let Phase::Writing { last } = self.phase else { return };
        self.pending.start = (self.pending.start + count).min(self.pending.end);
        if count > 0 {
            self.progress = now;
        }
        if self.pending.is_empty() {
            self.enter(if last { Phase::Draining } else { Phase::Reading }, now);
        }
    }

    /// Whether a request may be complete already, so that nothing needs to arrive before [`Self::answer`].
    pub(super) fn has_input(&self) -> bool {
        self.phase == Phase::Reading && self.filled > self.searched
    }

    /// Until when the present phase may last.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let limit = match self.phase {
            Phase::Closed => return None,
            Phase::Reading if self.answered && !self.head_begun => IDLE_TIME_MAX,
            Phase::Reading => HEAD_TIME_MAX,
            Phase::Writing { .. } => SEND_TIME_MAX,
            Phase::Draining => DRAIN_TIME_MAX,
        };
        Some(self.since + limit)
    }

    /// Whether nothing is lost if it is closed at its deadline: it was idle or done.
    pub(super) fn is_at_rest(&self) -> bool {
        match self.phase {
            Phase::Closed | Phase::Draining => true,
            Phase::Reading => self.answered && !self.head_begun,
            Phase::Writing { .. } => false,
        }
    }

    /// For how long it has achieved nothing, if it may be closed in favour of another.
    pub(super) fn idle_for(&self, now: Mono) -> Option<Duration> {
        let idle = now.since(self.progress);
        (self.is_at_rest() || idle >= PATIENCE).then_some(idle)
    }
}

/// Writes the page that `head` asks for behind [`HEAD_ROOM`].
fn respond(
    head: &Head<'_>,
    output: &mut [u8],
    access: &mut Access,
    pages: &mut dyn Pages,
) -> (Response, Answer) {
    let (start, text, answer) = match access.decide(head.host, head.authorization, head.request.is_post) {
        Decision::Allowed => {
            let mut page = Page::new(&mut output[HEAD_ROOM..]);
            let status = pages.respond(&head.request, &mut page);
            let (length, content_type) = (page.bytes().len(), page.content_type());
            match status {
                Status::Ok | Status::Accepted | Status::Unavailable if page.is_truncated() => (
                    Start::of_text("500 Internal Server Error", ""),
                    "the page is longer than its memory",
                    Answer::Truncated,
                ),
                Status::Ok => {
                    let start = Start { status: "200 OK", content_type, headers: "" };
                    return (Response { start, length }, Answer::Page);
                }
                Status::Accepted => {
                    let start = Start { status: "202 Accepted", content_type, headers: "" };
                    return (Response { start, length }, Answer::Page);
                }
                Status::Unavailable => {
                    let start = Start { status: "503 Service Unavailable", content_type, headers: "" };
                    return (Response { start, length }, Answer::Page);
                }
                Status::NotFound => {
                    (Start::of_text("404 Not Found", ""), "there is nothing at this path", Answer::Page)
                }
                Status::NotAllowed => {
                    (Start::of_text("405 Method Not Allowed", ""), "this path takes no POST", Answer::Page)
                }
            }
        }
        Decision::NoToken => (
            Start::of_text("401 Unauthorized", "WWW-Authenticate: Bearer\r\n"),
            "send the token of status.token_file: Authorization: Bearer TOKEN",
            Answer::Unauthorized,
        ),
        Decision::OtherHost => (
            Start::of_text("421 Misdirected Request", ""),
            "ask for it by IP address or as localhost, or set status.token_file",
            Answer::Unauthorized,
        ),
        Decision::ReadOnly => (
            Start::of_text("405 Method Not Allowed", "Allow: GET, HEAD\r\n"),
            "only GET and HEAD are served here; a reload is asked for on the status socket: flytrap reload",
            Answer::Refused,
        ),
    };
    (Response::of_text(start, text, output), answer)
}

/// The response to a request that cannot be read.
fn refused(refusal: Refusal, output: &mut [u8]) -> Response {
    let (status, headers, text) = match refusal {
        Refusal::Bad(why) => ("400 Bad Request", "", why),
        Refusal::Method => ("405 Method Not Allowed", "Allow: GET, HEAD\r\n", "only GET and HEAD are served"),
        Refusal::TooLarge => {
            ("431 Request Header Fields Too Large", "", "the head of the request is too large")
        }
        Refusal::Version => ("505 HTTP Version Not Supported", "", "only HTTP/1.0 and HTTP/1.1 are served"),
    };
    Response::of_text(Start::of_text(status, headers), text, output)
}

/// The beginning of a response, whose body is in place.
struct Response {
    start: Start,
    length: usize,
}

impl Response {
    /// Writes `text` as the body.
    fn of_text(start: Start, text: &str, output: &mut [u8]) -> Self {
        let mut page = Page::new(&mut output[HEAD_ROOM..]);
        let _a_page_is_longer = writeln!(page, "{text}");
        Response { start, length: page.bytes().len() }
    }

    /// Writes the head in front of the body. Returns the place of both, or of the head alone.
    fn finish(&self, output: &mut [u8], without_body: bool, last: bool) -> Range<usize> {
        let Response { start: Start { status, content_type, headers }, length } = self;
        let mut head = heapless::String::<HEAD_ROOM>::new();
        let connection = if last { "Connection: close\r\n" } else { "" };
        let written = write!(
            head,
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{headers}{connection}\r\n"
        );
        written.expect("content types are constants of some ten bytes");
        let begin = HEAD_ROOM - head.len();
        output[begin..HEAD_ROOM].copy_from_slice(head.as_bytes());
        begin..if without_body { HEAD_ROOM } else { HEAD_ROOM + length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::page::Request;
    use proptest::prelude::*;

    const PAGE_BYTES: usize = 300;

    /// `/ok`, `/sick`, `/long`, and the format at `/format`.
    struct TestPages;

    impl Pages for TestPages {
        fn respond(&mut self, request: &Request<'_>, page: &mut Page<'_>) -> Status {
            let _seen_by_the_page = match request.path {
                "/ok" => page.write_str("fine\n"),
                "/sick" => page.write_str("no frame\n"),
                "/long" => (0..99).try_for_each(|_| page.write_str("0123456789")),
                "/format" => write!(page, "{:?}", request.format),
                "/do" if request.is_post => return Status::Accepted,
                _ => return Status::NotFound,
            };
            if request.path == "/sick" { Status::Unavailable } else { Status::Ok }
        }
    }

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    fn begun() -> Exchange {
        let mut exchange = Exchange::new(PAGE_BYTES);
        exchange.begin(at(0));
        exchange
    }

    fn receive(exchange: &mut Exchange, bytes: &[u8], now: Mono) {
        exchange.room()[..bytes.len()].copy_from_slice(bytes);
        exchange.received(bytes.len(), now);
    }

    fn answer(exchange: &mut Exchange) -> Answer {
        exchange.answer(at(0), &mut Access::Local, &mut TestPages)
    }

    /// The response to `request`, in one piece.
    fn response(request: &str) -> (Answer, String, Phase) {
        let mut exchange = begun();
        receive(&mut exchange, request.as_bytes(), at(0));
        let answer = answer(&mut exchange);
        let text = String::from_utf8(exchange.pending().to_vec()).unwrap();
        exchange.sent(text.len(), at(0));
        (answer, text, exchange.phase())
    }

    #[test]
    fn pages_are_sent_with_their_length_and_the_connection_stays() {
        let (answer, text, phase) = response("GET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\nfine\n"
        );
        assert_eq!((answer, phase), (Answer::Page, Phase::Reading));
        let (_, text, phase) = response("HEAD /ok HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(
            text.contains("Content-Length: 5\r\n") && text.ends_with("Connection: close\r\n\r\n"),
            "{text}"
        );
        assert_eq!(phase, Phase::Draining);
    }

    #[test]
    fn each_status_has_its_text() {
        for (request, expected, status, body) in [
            ("GET /none HTTP/1.1\r\nHost: localhost", Answer::Page, "404", "nothing"),
            ("GET /sick HTTP/1.1\r\nHost: localhost", Answer::Page, "503", "no frame"),
            ("GET /long HTTP/1.1\r\nHost: localhost", Answer::Truncated, "500", "longer"),
            ("GET /ok HTTP/1.1\r\nHost: example.org", Answer::Unauthorized, "421", "localhost"),
            ("PUT /ok HTTP/1.1\r\nHost: localhost", Answer::Refused, "405", "GET and HEAD"),
            ("POST /ok HTTP/1.1\r\nHost: localhost", Answer::Refused, "405", "flytrap reload"),
            ("GET /ok HTTP/1.1", Answer::Refused, "400", "Host"),
            ("GET /ok HTTP/3.0", Answer::Refused, "505", "HTTP/1.1"),
        ] {
            let (answer, text, _) = response(&format!("{request}\r\n\r\n"));
            assert_eq!(answer, expected, "{request}");
            let (head, text) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(text.contains(body) && text.lines().count() == 1, "{text}");
        }
        assert!(response("PUT / HTTP/1.1\r\n\r\n").1.contains("\r\nAllow: GET, HEAD\r\n"));
    }

    #[test]
    fn a_token_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "s3cret").unwrap();
        let mut access = Access::open(Some(&path)).unwrap();
        for (authorization, expected) in
            [("", Answer::Unauthorized), ("Authorization: Bearer s3cret\r\n", Answer::Page)]
        {
            let mut exchange = begun();
            let text = format!("GET /ok HTTP/1.1\r\nHost: h\r\n{authorization}\r\n");
            receive(&mut exchange, text.as_bytes(), at(0));
            assert_eq!(exchange.answer(at(0), &mut access, &mut TestPages), expected);
            let text = String::from_utf8_lossy(exchange.pending()).into_owned();
            assert_eq!(text.contains("401 Unauthorized\r\n"), expected == Answer::Unauthorized, "{text}");
            assert_eq!(text.contains("WWW-Authenticate: Bearer\r\n"), expected == Answer::Unauthorized);
        }
    }

    #[test]
    fn only_the_socket_takes_a_post() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "s3cret").unwrap();
        let token = Access::open(Some(&path)).unwrap();
        for (mut access, expected, code) in [
            (Access::Socket, Answer::Page, "202"),
            (Access::Local, Answer::Refused, "405"),
            (token, Answer::Refused, "405"),
        ] {
            let mut exchange = begun();
            let text = "POST /do HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\nContent-Length: 0\r\n\r\n";
            receive(&mut exchange, text.as_bytes(), at(0));
            assert_eq!(exchange.answer(at(0), &mut access, &mut TestPages), expected);
            let text = String::from_utf8_lossy(exchange.pending()).into_owned();
            assert!(text.starts_with(&format!("HTTP/1.1 {code} ")), "{text}");
        }
    }

    #[test]
    fn pipelined_requests_are_answered_one_by_one() {
        let mut exchange = begun();
        let request = "\r\nGET /ok HTTP/1.1\r\nHost: localhost\r\n\r\n";
        receive(&mut exchange, format!("{request}{request}GET /no").as_bytes(), at(0));
        for _ in 0..2 {
            assert!(exchange.has_input());
            assert_eq!(answer(&mut exchange), Answer::Page);
            assert!(exchange.room().is_empty(), "nothing is read while a response is sent");
            assert_eq!(answer(&mut exchange), Answer::None);
            exchange.sent(exchange.pending().len(), at(0));
        }
        assert_eq!(answer(&mut exchange), Answer::None);
        assert!(!exchange.has_input());
        receive(&mut exchange, b"ne HTTP/1.0\n\n", at(0));
        assert_eq!(answer(&mut exchange), Answer::Page);
        assert!(exchange.pending().starts_with(b"HTTP/1.1 404"));
    }

    #[test]
    fn a_head_without_an_end_is_refused() {
        let mut exchange = begun();
        let answer_to_all = loop {
            let room = exchange.room().len().min(1000);
            receive(&mut exchange, &vec![b'a'; room], at(0));
            let answer = answer(&mut exchange);
            if answer != Answer::None {
                break answer;
            }
            assert!(!exchange.room().is_empty());
        };
        assert_eq!(answer_to_all, Answer::Refused);
        assert!(exchange.pending().starts_with(b"HTTP/1.1 431 "));
        exchange.sent(exchange.pending().len(), at(0));
        assert_eq!(exchange.phase(), Phase::Draining);
        receive(&mut exchange, b"GET /ok HTTP/1.0\n\n", at(0));
        assert_eq!(answer(&mut exchange), Answer::None, "nothing is answered after a refusal");
    }

    #[test]
    fn tls_and_binary_protocols_are_refused_at_the_first_byte() {
        let mut exchange = begun();
        receive(&mut exchange, b"\x16\x03\x01", at(0));
        assert_eq!(answer(&mut exchange), Answer::Refused);
    }

    #[test]
    fn time_is_limited_in_every_phase() {
        let mut exchange = begun();
        receive(&mut exchange, b"GET /ok", at(5));
        receive(&mut exchange, b" HTTP/1.1\r\nHost: localhost\r\n", at(9));
        assert_eq!(exchange.deadline(), Some(at(10)), "bytes give no more time");
        receive(&mut exchange, b"\r\n", at(9));
        exchange.answer(at(9), &mut Access::Local, &mut TestPages);
        assert_eq!(exchange.deadline(), Some(at(29)));
        exchange.sent(5, at(28));
        assert_eq!(exchange.deadline(), Some(at(29)), "nor do some bytes of a response");
        assert!(!exchange.is_at_rest());
        exchange.sent(exchange.pending().len(), at(28));
        assert_eq!((exchange.deadline(), exchange.is_at_rest()), (Some(at(148)), true), "idle");
        for second in [100, 105] {
            receive(&mut exchange, b"\r\n", at(second));
            assert_eq!(answer(&mut exchange), Answer::None);
            assert_eq!(
                (exchange.deadline(), exchange.is_at_rest()),
                (Some(at(110)), false),
                "a further head"
            );
        }
        exchange.close();
        assert_eq!(exchange.deadline(), None);
    }

    #[test]
    fn who_achieves_nothing_gives_way() {
        let mut exchange = begun();
        assert_eq!(exchange.idle_for(at(0)), None, "a new client may be about to send");
        receive(&mut exchange, b"GET /ok HTTP/1.1\r\nHost: localhost\r\n", at(0));
        assert_eq!(exchange.idle_for(at(1)), Some(Duration::from_secs(1)), "bytes alone are no progress");
        receive(&mut exchange, b"\r\n", at(3));
        exchange.answer(at(3), &mut Access::Local, &mut TestPages);
        assert_eq!(exchange.idle_for(at(3)), None);
        exchange.sent(1, at(5));
        assert_eq!(exchange.idle_for(at(5)), None, "it reads, slowly");
        assert!(exchange.idle_for(at(6)).is_some());
        exchange.sent(exchange.pending().len(), at(6));
        assert_eq!(exchange.idle_for(at(6)), Some(Duration::ZERO), "idle between requests");
    }

    proptest! {
        /// Whatever is sent in whatever pieces, and however slowly responses are taken: no panic, and every phase ends.
        #[test]
        fn any_bytes_in_any_pieces_are_survived(
            pieces in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..60),
                    "(GET|HEAD|PUT) /(ok|long|sick|x) HTTP/1.[01]\r\n(Host: localhost\r\n)?(Connection: close\r\n)?\r\n".prop_map(String::into_bytes),
                    "[GETHOST /:.1\r\n]{0,30}".prop_map(String::into_bytes),
                ], 0..60),
            takes in proptest::collection::vec(0usize..400, 1..20),
        ) {
            let mut exchange = begun();
            let mut takes = takes.iter().cycle();
            for piece in &pieces {
                let mut rest = &piece[..];
                loop {
                    let count = rest.len().min(exchange.room().len());
                    receive(&mut exchange, &rest[..count], at(0));
                    rest = &rest[count..];
                    let answer = answer(&mut exchange);
                    let writes = matches!(exchange.phase(), Phase::Writing { .. });
                    prop_assert!(answer == Answer::None || writes);
                    if writes {
                        prop_assert!(exchange.pending().len() <= HEAD_ROOM + PAGE_BYTES);
                        let count = takes.next().unwrap() % (exchange.pending().len() + 1);
                        exchange.sent(count.max(1), at(0));
                    } else if rest.is_empty() {
                        break;
                    }
                    prop_assert!(exchange.deadline().is_some());
                }
            }
        }

        /// However a request is cut into pieces, the response is the same.
        #[test]
        fn pieces_make_no_difference(splits in proptest::collection::vec(1usize..60, 0..10)) {
            let request = "GET /format HTTP/1.1\r\nHost: [::1]:9464\r\nAccept: application/openmetrics-text\r\n\r\n";
            let mut exchange = begun();
            let (mut rest, mut last) = (request.as_bytes(), Answer::None);
            for split in splits.into_iter().chain([request.len()]) {
                let (piece, later) = rest.split_at(split.min(rest.len()));
                receive(&mut exchange, piece, at(0));
                rest = later;
                last = answer(&mut exchange);
                if rest.is_empty() {
                    break;
                }
                prop_assert_eq!(last, Answer::None);
            }
            prop_assert_eq!(last, Answer::Page);
            prop_assert!(exchange.pending().ends_with(b"\r\n\r\nOpenMetrics"));
        }
    }
}
