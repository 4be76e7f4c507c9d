//! An unreliable link between the uplink and a real receiver: forwards bytes only, so it works for HTTP and TLS alike. The fate of each
//! connection is drawn from a seed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Closed immediately.
    Refused,
    /// Closed after this many request bytes: the receiver has a part of a request.
    CutRequest(usize),
    /// Closed after this many response bytes: the receiver has stored the batch, but the sender does not know.
    CutResponse(usize),
    /// Open, and silent.
    Silent,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    faults: AtomicU64,
    random: Mutex<u64>,
    /// A response is cut within this many bytes: some responses.
    response_bytes: u64,
}

impl Shared {
    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn below(&self, below: u64) -> u64 {
        let mut state = self.random.lock().unwrap();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    fn fate(&self) -> Fate {
        self.faults.fetch_add(1, Ordering::Relaxed);
        match self.below(20) {
            0..=2 => Fate::Refused,
            3..=8 => Fate::CutRequest(self.below(100_000) as usize),
            9..=18 => Fate::CutResponse(self.below(self.response_bytes) as usize),
            _ => Fate::Silent,
        }
    }
}

/// The running proxy; ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of the receiver at `port` of this machine, whose first responses have about `response_bytes`.
    pub(crate) fn start(port: u16, seed: u64, response_bytes: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { random: Mutex::new(seed), response_bytes, ..Shared::default() });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming() {
                    if shared.over.load(Ordering::Relaxed) {
                        return;
                    }
                    let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                    std::thread::spawn(move || {
                        // A peer that disconnects in the middle is expected.
                        let _outcome = carry(&stream, port, &shared);
                        let _closed = stream.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Proxy { address, shared, thread: Some(thread) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections forwarded and cut so far.
    pub(crate) fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn carry(client: &TcpStream, port: u16, shared: &Shared) -> io::Result<()> {
    let fate = shared.fate();
    if fate == Fate::Refused {
        return Ok(());
    }
    if fate == Fate::Silent {
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut sink = [0; 4096];
        while (&mut &*client).read(&mut sink)? > 0 {}
        return Ok(());
    }
    let server = TcpStream::connect(("127.0.0.1", port))?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (up, down) = match fate {
        Fate::CutRequest(bytes) => (bytes, usize::MAX),
        Fate::CutResponse(bytes) => (usize::MAX, bytes),
        Fate::Refused | Fate::Silent => (usize::MAX, usize::MAX),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _outcome = copy(client, &server, up);
            let _closed = server.shutdown(Shutdown::Write);
            if up != usize::MAX {
                let _closed = client.shutdown(Shutdown::Both);
            }
        });
        let _outcome = copy(&server, client, down);
        let _closed = client.shutdown(Shutdown::Both);
        let _closed = server.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Copies until the end, or `most` bytes; further bytes are read, so that the sender can send them, and discarded.
fn copy(mut from: &TcpStream, mut to: &TcpStream, most: usize) -> io::Result<()> {
    let (mut buffer, mut left) = ([0; 16 << 10], most);
    loop {
        let count = from.read(&mut buffer)?;
        let sent = count.min(left);
        to.write_all(&buffer[..sent])?;
        left -= sent;
        if count == 0 || sent < count {
            return Ok(());
        }
    }
}
