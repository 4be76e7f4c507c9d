//! Bridges CloudEvents to NATS JetStream, as a user would. Each event is published under its id (`Nats-Msg-Id`), which JetStream stores
//! once; the batch is confirmed when the server has confirmed each event.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

/// A connection to the server, with one inbox.
struct Nats(BufReader<TcpStream>);

impl Nats {
    fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        let mut nats = Nats(BufReader::new(stream));
        nats.line()?; // INFO
        nats.write(b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB _INBOX.test 1\r\n")?;
        Ok(nats)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }

    /// The next message to the inbox.
    fn answer(&mut self) -> io::Result<Value> {
        loop {
            let line = self.line()?;
            if line.starts_with("PING") {
                self.write(b"PONG\r\n")?;
            } else if line.starts_with("MSG ") || line.starts_with("HMSG ") {
                let numbers: Vec<usize> =
                    line.split_whitespace().rev().map_while(|n| n.parse().ok()).collect();
                let mut bytes = vec![0; numbers[0] + 2];
                self.0.read_exact(&mut bytes)?;
                let head = if line.starts_with('H') { numbers[1] } else { 0 };
                return Ok(serde_json::from_slice(&bytes[head..numbers[0]]).unwrap_or(Value::Null));
            }
        }
    }

    fn ask(&mut self, subject: &str, payload: &str) -> io::Result<Value> {
        self.write(format!("PUB {subject} _INBOX.test {}\r\n{payload}\r\n", payload.len()).as_bytes())?;
        self.answer()
    }

    /// Publishes under an id; true once the stream has stored it.
    fn publish(&mut self, id: &str, payload: &str) -> io::Result<bool> {
        let head = format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\n\r\n");
        let whole = head.len() + payload.len();
        self.write(
            format!("HPUB events.road _INBOX.test {} {whole}\r\n{head}{payload}\r\n", head.len()).as_bytes(),
        )?;
        Ok(self.answer()?.get("seq").is_some())
    }
}

const STREAM: &str =
    r#"{"name":"EVENTS","subjects":["events.>"],"storage":"file","duplicate_window":3600000000000}"#;

/// Creates the stream.
pub(crate) fn create_stream(port: u16) {
    let answer = Nats::connect(port).unwrap().ask("$JS.API.STREAM.CREATE.EVENTS", STREAM).unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
}

/// All events in the stream.
pub(crate) fn stored(port: u16) -> Vec<Value> {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let mut nats = Nats::connect(port).unwrap();
    let info = nats.ask("$JS.API.STREAM.INFO.EVENTS", "").unwrap();
    let messages = info["state"]["messages"].as_u64().unwrap_or_else(|| panic!("{info}"));
    let message = |seq| {
        let answer = nats.ask("$JS.API.STREAM.MSG.GET.EVENTS", &format!("{{\"seq\":{seq}}}")).unwrap();
        serde_json::from_slice(&BASE64_STANDARD.decode(answer["message"]["data"].as_str().unwrap()).unwrap())
            .unwrap()
    };
    (1..=messages).map(message).collect()
}

/// The bridge: accepts batches over HTTP, publishes each event, responds with 200 when all are stored and 503 otherwise.
pub(crate) struct Bridge {
    pub(crate) port: u16,
    over: Arc<AtomicBool>,
}

impl Bridge {
    pub(crate) fn start(nats: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let over = Arc::new(AtomicBool::new(false));
        std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                for stream in listener.incoming().filter_map(Result::ok) {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::spawn(move || serve(stream, nats));
                }
            }
        });
        Bridge { port, over }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: TcpStream, nats: u16) -> io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line != "\r\n" {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let events: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
        let store = || -> io::Result<bool> {
            let mut nats = Nats::connect(nats)?;
            for event in &events {
                if !nats.publish(event["id"].as_str().unwrap_or_default(), &event.to_string())? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let status = if matches!(store(), Ok(true)) { "200 OK" } else { "503 Busy" };
        write!(out, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")?;
    }
}
