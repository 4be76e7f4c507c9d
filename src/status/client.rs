//! The client of the status pages, for the commands that look at a running program. HTTP/1.0, one request for each connection, over the
//! status socket or TCP, without TLS.
//!
//! Connecting, writing and reading have a deadline each, a reply has a most of bytes. What comes back is untrusted (I8): whatever listens at
//! the address may be another program.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::base::error::{Error, Kind, Result};
use crate::base::limits::{STATUS_HEAD_BYTES_MAX, STATUS_HEADERS_MAX, STATUS_REPLY_BYTES_MAX};
use crate::platform::clock::{Clock as _, SystemClock};

/// Longest time for each of connecting, writing the request, and reading the reply.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the status pages are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The path of a Unix socket.
    Socket(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

impl Address {
    /// What a user wrote: `http://HOST:PORT`, `HOST:PORT`, or the path of a socket (with a `/` in it).
    ///
    /// # Errors
    /// `Kind::Config`: none of these.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Err(Error::fatal(Kind::Config, format!("address '{text}': {why}")));
        let (scheme, rest) =
            text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        match scheme.map(str::to_ascii_lowercase).as_deref() {
            None if rest.contains('/') => return Ok(Address::Socket(rest.into())),
            None | Some("http") => {}
            Some("https") => {
                return wrong(
                    "this client has no TLS: forward a port with ssh -L and write http://127.0.0.1:PORT",
                );
            }
            Some(_) => return wrong("write http://HOST:PORT, or the path of a socket"),
        }
        let rest = if scheme.is_some() { rest.trim_end_matches('/') } else { rest };
        let (host, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_host = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/@?#".contains(&byte))
            && (is_bracketed || !host.contains(':'));
        if !is_host || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return wrong(
                "write HOST:PORT such as 127.0.0.1:9464 or [::1]:9464, or the path of a socket such as /run/flytrap/status.sock",
            );
        }
        Ok(Address::Tcp(rest.to_owned()))
    }

    /// The setting of the running program that decides about it, for messages.
    const fn setting(&self) -> &'static str {
        match self {
            Address::Socket(_) => "status.socket",
            Address::Tcp(_) => "status.listen",
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Socket(path) => write!(f, "{}", path.display()),
            Address::Tcp(address) => f.write_str(address),
        }
    }
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code, such as 200.
    pub status: u16,
    /// The page, [`STATUS_REPLY_BYTES_MAX`] at most.
    pub body: Vec<u8>,
}

/// Asks one server.
pub struct Client {
    /// Where it is.
    pub address: Address,
    /// The token that each request carries.
    pub token: Option<Vec<u8>>,
}

impl fmt::Debug for Client {
    /// Without the token (I10).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Client {
    /// Whether something listens at the address.
    ///
    /// # Errors
    /// Nothing does, or it may not be used; with the remedy.
    pub fn probe(&self) -> Result<()> {
        self.connect().map(drop)
    }

    /// Reads a page, such as `/status.json`. Any status but 401 is a reply.
    ///
    /// # Errors
    /// One line with the remedy: nothing listens there, no permission, the token is refused, it takes too long, it is not flytrap.
    pub fn get(&self, path: &str) -> Result<Reply> {
        self.exchange("GET", path)
    }

    /// Asks for an action, such as `/reload`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str) -> Result<Reply> {
        self.exchange("POST", path)
    }

    fn exchange(&self, method: &str, path: &str) -> Result<Reply> {
        let mut connection = self.connect()?;
        let mut request = format!("{method} {path} HTTP/1.0\r\n").into_bytes();
        if method != "GET" {
            request.extend_from_slice(b"Content-Length: 0\r\n");
        }
        if let Some(token) = &self.token {
            request.extend_from_slice(b"Authorization: Bearer ");
            request.extend_from_slice(token);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let broken = |error| self.broken(error);
        let deadline = SystemClock.mono() + PATIENCE;
        let mut left = &request[..];
        while !left.is_empty() {
            connection.set_timeout(remaining(deadline).map_err(broken)?).map_err(broken)?;
            let written = connection.write(left).map_err(broken)?;
            left = &left[written.min(left.len())..];
            if written == 0 {
                return Err(self.broken(io::ErrorKind::WriteZero.into()));
            }
        }
        let deadline = SystemClock.mono() + PATIENCE;
        let mut read = |chunk: &mut [u8]| {
            connection.set_timeout(remaining(deadline)?)?;
            connection.read(chunk)
        };
        let reply = read_reply(&mut read).map_err(|fault| self.faulty(fault))?;
        if reply.status == 401 { Err(self.refused()) } else { Ok(reply) }
    }

    fn connect(&self) -> Result<Box<dyn Connection>> {
        match &self.address {
            Address::Socket(path) => {
                let stream = connect_socket(path).map_err(|error| self.unreachable(error))?;
                Ok(Box::new(stream))
            }
            Address::Tcp(address) => {
                let resolved = address.to_socket_addrs().map_err(|error| {
                    let text =
                        format!("'{address}' cannot be resolved: check the name, or write an IP address");
                    Error::retry(Kind::System, text).caused_by(error)
                })?;
                let stream = connect_tcp(resolved).map_err(|error| self.unreachable(error))?;
                Ok(Box::new(stream))
            }
        }
    }

    fn unreachable(&self, error: io::Error) -> Error {
        use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, InvalidInput, NotFound, PermissionDenied};
        let (address, setting) = (&self.address, self.address.setting());
        let kind = error.kind();
        if is_timeout(&error) {
            return self.too_slow();
        }
        let text = if matches!(kind, NotFound | ConnectionRefused | AddrNotAvailable) {
            format!("nothing listens at {address}: flytrap is not running, or {setting} is elsewhere")
        } else if kind == PermissionDenied {
            format!(
                "{address}: permission denied: use sudo, or join the group of the socket (ls -l {address})"
            )
        } else if kind == InvalidInput {
            format!("{address}: not the path of a socket")
        } else {
            let text = format!("{address} cannot be reached: check the address and the network");
            return Error::retry(Kind::System, text).caused_by(error);
        };
        Error::retry(Kind::System, text)
    }

    fn too_slow(&self) -> Error {
        let (address, seconds) = (&self.address, PATIENCE.as_secs());
        let text = format!(
            "no answer from {address} within {seconds} s: check the address and the network, or try again when the device is less busy"
        );
        Error::retry(Kind::System, text)
    }

    fn broken(&self, error: io::Error) -> Error {
        if is_timeout(&error) {
            return self.too_slow();
        }
        let text = format!("the connection to {} broke: try again", self.address);
        Error::retry(Kind::System, text).caused_by(error)
    }

    fn refused(&self) -> Error {
        let address = &self.address;
        let text = match self.token {
            None => format!(
                "{address} wants a token (401): give the file of its status.token_file with --token-file"
            ),
            Some(_) => format!(
                "{address} refuses the token (401): --token-file must hold that of its status.token_file"
            ),
        };
        Error::fatal(Kind::Config, text)
    }

    fn faulty(&self, fault: Fault) -> Error {
        let address = &self.address;
        let text = match fault {
            Fault::Broken(error) => return self.broken(error),
            Fault::Silent => format!("{address} closed the connection without an answer: try again"),
            Fault::Truncated => format!("the answer of {address} ended early: try again"),
            Fault::NotHttp => format!("what answers at {address} is not flytrap: check the address"),
            Fault::TooLong => {
                format!(
                    "the answer of {address} is longer than {STATUS_REPLY_BYTES_MAX} bytes: it is not flytrap"
                )
            }
        };
        Error::retry(Kind::System, text)
    }
}

/// A stream with a time-out for each read and write.
trait Connection: Read + Write {
    fn set_timeout(&self, time: Duration) -> io::Result<()>;
}

impl Connection for UnixStream {
    fn set_timeout(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

impl Connection for TcpStream {
    fn set_timeout(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

fn connect_socket(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path).map_err(|_| io::ErrorKind::InvalidInput)?;
    // A blocking connect would wait for ever where the server accepts nobody.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let deadline = SystemClock.mono() + PATIENCE;
    while let Err(error) = rustix::net::connect(&socket, &address) {
        if error != Errno::AGAIN {
            return Err(error.into());
        }
        let _more_time = remaining(deadline)?;
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// To the first of the addresses that accepts a connection.
fn connect_tcp(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let deadline = SystemClock.mono() + PATIENCE;
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, remaining(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Time until `deadline`.
///
/// # Errors
/// `TimedOut`: it is over.
fn remaining(deadline: crate::platform::clock::Mono) -> io::Result<Duration> {
    let left = deadline.since(SystemClock.mono());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Why there is no reply.
#[derive(Debug)]
enum Fault {
    /// Reading failed.
    Broken(io::Error),
    /// Not a byte came.
    Silent,
    /// The end is missing.
    Truncated,
    /// Not what our server sends.
    NotHttp,
    TooLong,
}

/// The head of a reply.
struct Head {
    /// Its size, bytes.
    end: usize,
    status: u16,
    /// Size of the body, bytes; `None`: until the connection ends.
    length: Option<usize>,
}

/// Reads a reply from whatever bytes come.
fn read_reply(read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>) -> Result<Reply, Fault> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 8 << 10];
    let mut head: Option<Head> = None;
    loop {
        if head.is_none() {
            head = parse_head(&bytes)?;
        }
        if let Some(Head { end, status, length }) = head {
            let whole = length.map(|length| end + length);
            if whole.is_some_and(|whole| bytes.len() >= whole) {
                bytes.truncate(whole.unwrap_or(end));
                return Ok(Reply { status, body: bytes.split_off(end) });
            }
            if bytes.len() - end > STATUS_REPLY_BYTES_MAX {
                return Err(Fault::TooLong);
            }
        }
        let count = match read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Fault::Broken(error)),
        };
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..count.min(chunk.len())]);
    }
    match head {
        Some(Head { end, status, length: None }) => Ok(Reply { status, body: bytes.split_off(end) }),
        Some(_) => Err(Fault::Truncated),
        None if bytes.is_empty() => Err(Fault::Silent),
        None => Err(Fault::NotHttp),
    }
}

/// The head at the beginning of `bytes`; `None`: not complete yet.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; STATUS_HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let end = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) if bytes.len() < STATUS_HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Fault::NotHttp),
    };
    let all = |name: &'static str| {
        let named = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        parsed.headers.iter().filter(named).map(|header| header.value)
    };
    if all("transfer-encoding").next().is_some() {
        return Err(Fault::NotHttp); // Never in reply to HTTP/1.0.
    }
    let length = match (all("content-length").next(), all("content-length").nth(1)) {
        (None, _) => None,
        (Some(text), None) => {
            let digits = std::str::from_utf8(text).unwrap_or_default();
            Some(digits.parse::<u64>().map_err(|_| Fault::NotHttp)?)
        }
        (Some(_), Some(_)) => return Err(Fault::NotHttp),
    };
    if length.is_some_and(|length| length > STATUS_REPLY_BYTES_MAX as u64) {
        return Err(Fault::TooLong);
    }
    let status = parsed.code.ok_or(Fault::NotHttp)?;
    Ok(Some(Head { end, status, length: length.and_then(|length| usize::try_from(length).ok()) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    #[test]
    fn addresses_are_hosts_with_ports_or_paths() {
        let tcp = |text: &str| Address::Tcp(text.into());
        for (text, address) in [
            ("127.0.0.1:9464", tcp("127.0.0.1:9464")),
            ("http://mast-7:9464", tcp("mast-7:9464")),
            ("HTTP://mast-7:9464/", tcp("mast-7:9464")),
            ("[::1]:9464", tcp("[::1]:9464")),
            ("/run/flytrap/status.sock", Address::Socket("/run/flytrap/status.sock".into())),
            ("./status.sock", Address::Socket("./status.sock".into())),
        ] {
            assert_eq!(Address::parse(text).unwrap(), address, "{text}");
        }
        for text in [
            "",
            "9464",
            ":9464",
            "mast-7",
            "mast-7:",
            "mast-7:0",
            "mast-7:65536",
            "::1:9464",
            "status.sock",
            "http://",
            "http://mast-7",
            "http://mast-7:9464/status.json",
            "https://mast-7:9464",
            "ftp://h:1",
            "a b:1",
            "user@host:1",
            "ho\u{1b}st:1",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.to_string().starts_with("address '"), "{error}");
        }
    }

    /// A reply that comes in pieces of `step` bytes.
    fn reply(bytes: &[u8], step: usize) -> Result<Reply, Fault> {
        let mut left = bytes;
        read_reply(&mut |chunk| {
            let count = left.len().min(step).min(chunk.len());
            chunk[..count].copy_from_slice(&left[..count]);
            left = &left[count..];
            Ok(count)
        })
    }

    #[test]
    fn a_reply_is_read_however_it_is_split() {
        let with_length =
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsickmore";
        let without = b"HTTP/1.0 200 OK\r\n\r\nall until the end";
        for step in [1, 2, 7, 8192] {
            let expected = Reply { status: 503, body: b"sick".to_vec() };
            assert_eq!(reply(with_length, step).unwrap(), expected, "{step}");
            let expected = Reply { status: 200, body: b"all until the end".to_vec() };
            assert_eq!(reply(without, step).unwrap(), expected, "{step}");
        }
        let largest = [b"HTTP/1.0 200 OK\r\n\r\n", &vec![b'x'; STATUS_REPLY_BYTES_MAX][..]].concat();
        assert_eq!(reply(&largest, 8192).unwrap().body.len(), STATUS_REPLY_BYTES_MAX);
    }

    #[test]
    fn bad_replies_are_refused() {
        let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\nbody").into_bytes();
        let too_long = [&head("")[..], &vec![b'x'; STATUS_REPLY_BYTES_MAX][..]].concat();
        let endless = [b"HTTP/1.1 200 OK\r\nX: ", &vec![b'x'; STATUS_HEAD_BYTES_MAX][..]].concat();
        for (bytes, fault) in [
            (b"".to_vec(), "Silent"),
            (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "NotHttp"),
            (b"HTTP/1.1 200".to_vec(), "NotHttp"),
            (b"\x15\x03\x01\x00\x02\x02\x16".to_vec(), "NotHttp"),
            (head("Content-Length: 5\r\n"), "Truncated"),
            (head("Content-Length: -1\r\n"), "NotHttp"),
            (head("Content-Length: 4\r\nContent-Length: 4\r\n"), "NotHttp"),
            (head("Content-Length: 99999999999999999999\r\n"), "NotHttp"),
            (head("Content-Length: 1048577\r\n"), "TooLong"),
            (head("Transfer-Encoding: chunked\r\n"), "NotHttp"),
            (head(&"a: b\r\n".repeat(STATUS_HEADERS_MAX + 1)), "NotHttp"),
            (too_long, "TooLong"),
            (endless, "NotHttp"),
        ] {
            let found = format!("{:?}", reply(&bytes, 8192).unwrap_err());
            assert_eq!(found, fault, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), valid in any::<bool>()) {
            let bytes = if valid { [b"HTTP/1.1 200 OK\r\n", &bytes[..]].concat() } else { bytes };
            let _no_panic = reply(&bytes, 5);
        }
    }

    fn client(address: Address, token: Option<&str>) -> Client {
        Client { address, token: token.map(|token| token.as_bytes().to_vec()) }
    }

    /// Answers one request; returns it.
    fn answer(mut stream: impl Read + Write, reply: &str) -> String {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            request.push(byte[0]);
        }
        stream.write_all(reply.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    }

    #[test]
    fn a_page_comes_over_the_socket_and_an_action_over_tcp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server =
            std::thread::spawn(move || answer(listener.accept().unwrap().0, "HTTP/1.1 200 OK\r\n\r\n{}"));
        let page = client(Address::Socket(path), None).get("/status.json").unwrap();
        assert_eq!(page, Reply { status: 200, body: b"{}".to_vec() });
        assert_eq!(server.join().unwrap(), "GET /status.json HTTP/1.0\r\n\r\n");

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        let refusal = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
        let server = std::thread::spawn(move || {
            [refusal, refusal].map(|reply| answer(listener.accept().unwrap().0, reply))
        });
        let asking = client(address.clone(), Some("s3cret"));
        let error = asking.post("/reload").unwrap_err();
        assert!(error.to_string().contains("refuses the token (401)"), "{error}");
        assert!(!format!("{asking:?}{error}").contains("s3cret"));
        let error = client(address, None).get("/").unwrap_err();
        assert!(error.to_string().contains("wants a token (401)"), "{error}");
        let requests = server.join().unwrap();
        assert_eq!(
            requests[0],
            "POST /reload HTTP/1.0\r\nContent-Length: 0\r\nAuthorization: Bearer s3cret\r\n\r\n"
        );
    }

    #[test]
    fn whoever_is_not_there_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none.sock");
        let stale = folder.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        for path in [missing, stale] {
            let line = client(Address::Socket(path.clone()), None).get("/").unwrap_err().to_string();
            let expected = format!(
                "nothing listens at {}: flytrap is not running, or status.socket is elsewhere",
                path.display()
            );
            assert_eq!(line, expected);
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let line = client(Address::Tcp(free.to_string()), None).get("/").unwrap_err().to_string();
        assert!(line.contains("nothing listens at 127.0.0.1") && line.contains("status.listen"), "{line}");
        let long = Address::Socket(format!("/{}", "x".repeat(200)).into());
        let line = client(long, None).probe().unwrap_err().to_string();
        assert!(line.contains("not the path of a socket"), "{line}");
    }

    #[test]
    fn an_unanswered_connection_ends_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let begun = SystemClock.mono();
        let line = client(Address::Socket(path), None).get("/").unwrap_err().to_string();
        let took = SystemClock.mono().since(begun);
        assert!(line.contains("within 5 s") && took >= PATIENCE, "{line} {took:?}");
        drop(listener);
    }
}
