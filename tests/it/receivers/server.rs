//! A receiver whose behaviour each test sets: real sockets, its own small HTTP/1.1 parser, all requests recorded.
//!
//! It stores events like a good receiver: by `source` and `id`, each once, in the order of first arrival.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use flytrap::base::stop::Stop;
use flytrap::platform::clock::{Clock, Mono, SystemClock};
use serde_json::Value;

/// Longest wait of a test for an expected event.
pub(crate) const BOUND: Duration = Duration::from_secs(15);

/// Behaviour of the server for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Stores and responds with this 2xx.
    Accept(u16),
    /// Stores nothing and responds with this status.
    Status(u16),
    /// Stores nothing, responds with 503 and a `Retry-After` of this many seconds.
    Busy(u32),
    /// Stores nothing, reads everything, never responds.
    Hang,
    /// Closes before it reads the body.
    CutBeforeBody,
    /// Stores, then closes without a response.
    CutAfterBody,
    /// Stores, then closes in the middle of the response headers.
    CutInHead,
    /// Stores, responds with 200, and closes in the middle of the response body.
    CutInReply,
    /// Stores, then sends the response headers a byte at a time, slower than any time-out.
    Drip,
    /// Stores nothing, responds with bytes that are not HTTP.
    Garbage,
    /// 413 for more events than this, else stores and responds with 200.
    AtMost(usize),
    /// 400 for more than one event, else stores and responds with 200.
    OneByOne,
    /// 400 if an event of class `bad` is included, else stores and responds with 200.
    Picky,
    /// 301 to another path of this server.
    Redirect,
    /// Stores, responds with this status and a megabyte of text.
    Talkative(u16),
    /// Stores, responds with 200, and closes in the middle of a JSON response.
    CutJson,
    /// The same, and the part that arrives reports no failure.
    CutJsonHarmless,
    /// Stores, responds with this status and the content type of a web page, but without one (a web framework's default).
    EmptyHtml(u16),
    /// Stores nothing, responds with 200 and a web page, like the login page of a guest network.
    WebPage,
    /// Stores nothing, and resets the connection.
    Reset,
    /// 401 without this token, else stores and responds with 200.
    NeedsToken(&'static str),
    /// Stores if told to, and responds with these bytes: headers, an empty line, a body. Then it closes.
    Says { stores: bool, answer: &'static [u8] },
}

/// A request as received.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) at: Mono,
    pub(crate) behaviour: Behaviour,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Ids of its events; `None` if the body was not read.
    pub(crate) ids: Option<Vec<String>>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn key(&self) -> &str {
        self.header("idempotency-key").expect("every request has a key")
    }
}

#[derive(Debug, Default)]
struct Book {
    script: VecDeque<Behaviour>,
    then: Option<Behaviour>,
    requests: Vec<Request>,
    seen: HashSet<(String, String)>,
    stored: Vec<Value>,
    /// Events in requests that were stored, including repeats.
    deliveries: usize,
}

#[derive(Debug, Default)]
struct Shared {
    book: Mutex<Book>,
    news: Condvar,
    stop: Stop,
}

/// The running server; ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Follows `script`, then behaves like `then`.
    pub(crate) fn start(script: impl IntoIterator<Item = Behaviour>, then: Behaviour) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        shared.book.lock().unwrap().script.extend(script);
        shared.book.lock().unwrap().then = Some(then);
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming() {
                    if shared.stop.requested() {
                        return;
                    }
                    let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                    std::thread::spawn(move || {
                        // A client that gives up in the middle is expected.
                        let _outcome = serve(stream, &shared);
                    });
                }
            }
        });
        Server { address, shared, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Sets its behaviour after the end of the script.
    pub(crate) fn turn(&self, then: Behaviour) {
        self.shared.book.lock().unwrap().then = Some(then);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.book.lock().unwrap().requests.clone()
    }

    /// The stored events in the order of first arrival.
    pub(crate) fn stored(&self) -> Vec<Value> {
        self.shared.book.lock().unwrap().stored.clone()
    }

    pub(crate) fn deliveries(&self) -> usize {
        self.shared.book.lock().unwrap().deliveries
    }

    /// Waits until this many requests have arrived.
    pub(crate) fn wait_for_requests(&self, count: usize) {
        let book = self.shared.book.lock().unwrap();
        let short = |book: &mut Book| book.requests.len() < count;
        let (book, waited) = self.shared.news.wait_timeout_while(book, BOUND, short).unwrap();
        assert!(!waited.timed_out(), "{count} requests expected, got {:?}", book.requests);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.request();
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Serves one connection, request after request.
fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?; // Responses are written in pieces; each would wait for an acknowledgement.
    let mut reader = Reader { stream: stream.try_clone()?, buffer: Vec::new() };
    while let Some((path, headers)) = reader.head()? {
        let behaviour = {
            let mut book = shared.book.lock().unwrap();
            let then = book.then.expect("set at start");
            book.script.pop_front().unwrap_or(then)
        };
        let read = behaviour != Behaviour::CutBeforeBody;
        let body = if read { Some(reader.body(&headers)?) } else { None };
        let events: Option<Vec<Value>> = body.map(|body| serde_json::from_slice(&body).unwrap());
        let ids = events.as_ref().map(|events| events.iter().map(|e| text(e, "id")).collect());
        let token = headers.iter().find(|(key, _)| key == "authorization").map(|(_, value)| value.clone());
        let request = Request { at: SystemClock.mono(), behaviour, path, headers, ids };
        let answer = write_down(shared, request, events.unwrap_or_default(), token.as_deref());
        shared.news.notify_all();
        if !respond_with(&mut stream, shared, behaviour, answer)? {
            if behaviour != Behaviour::Reset {
                stream.shutdown(Shutdown::Both)?;
            }
            return Ok(());
        }
    }
    Ok(())
}

fn text(event: &Value, key: &str) -> String {
    event[key].as_str().expect("a string").to_owned()
}

/// Stores the events if this behaviour does; returns the status of the response.
fn write_down(shared: &Shared, request: Request, events: Vec<Value>, token: Option<&str>) -> u16 {
    let bad = events.iter().any(|event| event["data"]["class"] == "bad");
    let (store, status) = match request.behaviour {
        Behaviour::Accept(status) | Behaviour::Talkative(status @ 200..300) => (true, status),
        Behaviour::Status(status) | Behaviour::Talkative(status) => (false, status),
        Behaviour::Busy(_) => (false, 503),
        Behaviour::Hang | Behaviour::CutBeforeBody | Behaviour::Garbage => (false, 0),
        Behaviour::CutAfterBody | Behaviour::CutInHead | Behaviour::CutInReply | Behaviour::Drip => {
            (true, 200)
        }
        Behaviour::CutJson | Behaviour::CutJsonHarmless => (true, 200),
        Behaviour::EmptyHtml(status) => (true, status),
        Behaviour::WebPage | Behaviour::Reset => (false, 200),
        Behaviour::AtMost(most) if events.len() > most => (false, 413),
        Behaviour::OneByOne if events.len() > 1 => (false, 400),
        Behaviour::Picky if bad => (false, 400),
        Behaviour::AtMost(_) | Behaviour::OneByOne | Behaviour::Picky => (true, 200),
        Behaviour::Redirect => (false, 301),
        Behaviour::NeedsToken(needed) if token == Some(needed) => (true, 200),
        Behaviour::NeedsToken(_) => (false, 401),
        Behaviour::Says { stores, .. } => (stores, 0),
    };
    let mut book = shared.book.lock().unwrap();
    book.requests.push(request);
    if store {
        book.deliveries += events.len();
        for event in events {
            if book.seen.insert((text(&event, "source"), text(&event, "id"))) {
                book.stored.push(event);
            }
        }
    }
    status
}

/// Responds according to `behaviour`. False: close the connection.
fn respond_with(
    stream: &mut TcpStream,
    shared: &Shared,
    behaviour: Behaviour,
    status: u16,
) -> io::Result<bool> {
    match behaviour {
        Behaviour::Hang => {
            shared.stop.wait(BOUND);
            return Ok(false);
        }
        Behaviour::CutBeforeBody | Behaviour::CutAfterBody => return Ok(false),
        Behaviour::CutInHead => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConten")?;
            return Ok(false);
        }
        Behaviour::CutInReply => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"ok\":")?;
            return Ok(false);
        }
        Behaviour::CutJson => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n";
            write!(stream, "{head}{{\"error\":\"disk")?;
            return Ok(false);
        }
        Behaviour::CutJsonHarmless => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n";
            write!(stream, "{head}{{\"accepted\":7,")?;
            return Ok(false);
        }
        Behaviour::EmptyHtml(status) => {
            let length = if status == 204 { "" } else { "Content-Length: 0\r\n" };
            write!(
                stream,
                "HTTP/1.1 {status} Said\r\nContent-Type: text/html; charset=utf-8\r\n{length}\r\n"
            )?;
        }
        Behaviour::WebPage => {
            let page = "\n<!doctype html><title>Welcome</title>";
            let length = page.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{page}"
            )?;
        }
        Behaviour::Says { answer, .. } => {
            stream.write_all(answer)?;
            return Ok(false);
        }
        Behaviour::Reset => {
            rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO))?;
            return Ok(false);
        }
        Behaviour::Drip => {
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" {
                stream.write_all(&[*byte])?;
                if shared.stop.wait(Duration::from_millis(30)) {
                    break;
                }
            }
            return Ok(false);
        }
        Behaviour::Garbage => {
            stream.write_all(b"\x16\x03\x01 SSH-2.0-what?\r\n\r\n\x00\xff")?;
            return Ok(false);
        }
        Behaviour::Talkative(_) => {
            let body = "so much to say; ".repeat(1 << 16);
            write!(stream, "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        }
        Behaviour::Busy(seconds) => {
            write!(stream, "HTTP/1.1 503 Busy\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n\r\n")?;
        }
        Behaviour::Redirect => {
            let head = "HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(head.as_bytes())?;
        }
        Behaviour::Accept(204) => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?,
        Behaviour::Accept(_)
        | Behaviour::Status(_)
        | Behaviour::AtMost(_)
        | Behaviour::OneByOne
        | Behaviour::Picky
        | Behaviour::NeedsToken(_) => {
            write!(stream, "HTTP/1.1 {status} Said\r\nContent-Length: 3\r\n\r\n{status}")?;
        }
    }
    Ok(true)
}

/// Reads requests from a connection.
struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
}

type Head = (String, Vec<(String, String)>);

impl Reader {
    /// Path and headers (names in lower case) of the next request; `None` at the end of the connection.
    fn head(&mut self) -> io::Result<Option<Head>> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            assert!(self.buffer.len() < 16 << 10, "headers of more than 16 kB");
            if !self.more()? {
                return Ok(None);
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end + 4).take(end).collect()).unwrap();
        let mut lines = head.split("\r\n");
        let path =
            lines.next().and_then(|l| l.strip_prefix("POST ")).and_then(|l| l.strip_suffix(" HTTP/1.1"));
        let headers = lines.map(|line| line.split_once(':').expect("name: value"));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Ok(Some((path.expect("a POST").to_owned(), headers.collect())))
    }

    /// The body, by content length or in chunks.
    fn body(&mut self, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
        let header = |name| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if header("transfer-encoding") != Some("chunked") {
            return self.bytes(header("content-length").map_or(0, |n| n.parse().unwrap()));
        }
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                    break self.bytes(at + 2)?;
                }
                if !self.more()? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            let size = std::str::from_utf8(&line).unwrap().trim().split(';').next().unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            let mut chunk = self.bytes(size + 2)?;
            chunk.truncate(size);
            body.extend(chunk);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut part = [0; 8192];
        let count = self.stream.read(&mut part)?;
        self.buffer.extend(&part[..count]);
        Ok(count > 0)
    }
}
