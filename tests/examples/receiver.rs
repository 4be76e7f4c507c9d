//! A receiver that stores each event once: how a server handles flytrap's batches, in one page with the standard library only.
//!
//! `cargo run --example receiver -- 127.0.0.1:8080 events.ndjson`, then `flytrap run … --uplink http://127.0.0.1:8080/events`.
//!
//! Three rules turn "at least once" into "exactly once":
//! 1. Store the events durably before you answer 200: the device deletes what is confirmed.
//! 2. Ignore an event whose `source` and `id` you have: after a lost response the device sends the batch again, with the same ids.
//! 3. Answer 5xx when you cannot store; the device keeps the events and tries again. 400 only for events that you will never accept.
#![allow(clippy::print_stdout, reason = "an example")]

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use serde_json::Value;

/// Larger bodies are refused; a batch has at most 1000 events of a few hundred bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

struct Store {
    file: File,
    known: HashSet<String>,
}

impl Store {
    /// Opens the file and reads the identities in it.
    fn open(path: &Path) -> io::Result<Self> {
        let mut known = HashSet::new();
        if let Ok(file) = File::open(path) {
            for line in BufReader::new(file).lines() {
                // A line that was cut by a power failure was never confirmed.
                if let Ok(event) = serde_json::from_str::<Value>(&line?) {
                    known.extend(identity(&event));
                }
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Store { file, known })
    }

    /// Stores the events that are new, durably; returns how many.
    fn add(&mut self, events: &[Value]) -> io::Result<usize> {
        let mut lines = String::new();
        let mut new = Vec::new();
        for event in events {
            let Some(id) = identity(event) else { continue };
            if !self.known.contains(&id) && !new.contains(&id) {
                lines += &event.to_string();
                lines.push('\n');
                new.push(id);
            }
        }
        // The leading newline ends a line that a power failure cut.
        self.file.write_all(format!("\n{lines}").as_bytes())?;
        self.file.sync_data()?;
        let count = new.len();
        self.known.extend(new);
        Ok(count)
    }
}

/// `source` and `id` together identify an event, as CloudEvents requires.
fn identity(event: &Value) -> Option<String> {
    Some(format!("{} {}", event.get("source")?.as_str()?, event.get("id")?.as_str()?))
}

/// The body of a request, or none if the peer is gone or sends anything but a POST with a length.
fn body(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut length = None;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.starts_with("POST ") {
        return Ok(None);
    }
    loop {
        line.clear();
        if stream.by_ref().take(8192).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    let Some(length) = length.filter(|length| *length <= BODY_BYTES_MAX) else { return Ok(None) };
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// Serves one connection until the peer closes it.
fn serve(stream: TcpStream, store: &mut Store) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(bytes) = body(&mut reader)? {
        let answer = match serde_json::from_slice::<Vec<Value>>(&bytes) {
            Err(_) => "400 Bad Request",
            Ok(events) => match store.add(&events) {
                Ok(new) => {
                    println!("{} events, {new} new", events.len());
                    "200 OK"
                }
                Err(_) => "503 Service Unavailable",
            },
        };
        write!(writer, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n")?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let path = arguments.next().unwrap_or_else(|| "events.ndjson".to_owned());
    let mut store = Store::open(Path::new(&path))?;
    let listener = TcpListener::bind(&address)?;
    println!("listening on http://{}", listener.local_addr()?);
    for stream in listener.incoming() {
        // A broken connection does not affect the others: the peer sends unconfirmed events again.
        let _broken_off = serve(stream?, &mut store);
    }
    Ok(())
}
