//! The status server: HTTP/1.1 for GET and HEAD on one thread of its own, bounded in everything a client can spend. It listens on an address,
//! on a [`Socket`], or on both.
//!
//! - **Connections**: [`STATUS_CONNECTIONS_MAX`], and [`SOCKET_CONNECTIONS_MAX`] of the socket, which others cannot use up. When the table is full, the connection that has been idle longest gives way to a new one:
//!   one between two requests, or one that has achieved nothing for a quarter of a second. If every connection is busy, the new client gets a 503.
//! - **Memory**: all of it is allocated and touched in [`Server::new`]; the kernel's buffers of each socket are limited too.
//! - **Time**: to send a request, to take a response, to stay idle (in the module `exchange`).
//! - **Processor**: after each round over the sockets the thread rests [`REST`] times the processor time that the round took, so that it
//!   takes a tenth of a core at most whatever clients do, and it gives way to every other thread of the program ([`NICE`]).
//!
//! Each of these limits has a counter ([`Counters`]). Nothing here ends the program: an address that cannot be listened on is tried again
//! until it can.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown, sockopt};

use crate::base::error::{Error, Kind, Result};
use crate::base::limits::{SOCKET_CONNECTIONS_MAX, STATUS_CONNECTIONS_MAX, STATUS_HEAD_BYTES_MAX};
use crate::base::stop::Stop;
use crate::platform::clock::{Clock, Mono, thread_cpu_time};
use crate::status::access::Access;
use crate::status::exchange::{Answer, Exchange, Phase};
use crate::status::page::Pages;
use crate::status::socket::Socket;

/// How much longer the thread rests after each round than it worked.
pub const REST: u32 = 9;
/// Shortest and longest rest.
const REST_TIME: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));
/// How much the thread gives way to others, as of nice(1): a tenth of the weight of a normal thread.
pub const NICE: i32 = 10;
/// How often the thread looks for a stop request while no client does anything.
const STOP_CHECK: Duration = Duration::from_millis(250);
/// Most new connections in a round. The kernel queues 128, and lets a client wait for seconds when its queue is full.
const ACCEPTS_MAX: usize = 64;
/// How long no connection is accepted after the system had no descriptor or memory for one.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Time between two attempts to listen.
const LISTEN_PAUSE: Duration = Duration::from_secs(10);

/// The response to a client for whom there is no connection.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 35\r\n\
                    Retry-After: 1\r\nConnection: close\r\n\r\nall connections are busy: try again";

/// What the server is opened with.
#[derive(Debug, Clone)]
pub struct Params {
    /// The address on which it listens, if on one: see [`super::access::check_address`].
    pub address: Option<SocketAddr>,
    /// Whether it gets a [`Socket`], too.
    pub on_socket: bool,
    /// The file with the token that every request must carry: a path, or `credential:NAME`.
    pub token_file: Option<PathBuf>,
    /// Longest page, bytes. A longer one is a 500.
    pub page_bytes: usize,
}

impl Params {
    /// Memory that the server allocates, bytes: one summand of the memory budget (I1).
    pub const fn memory_bytes(&self) -> usize {
        (self.remote_slots() + self.local_slots()) * Exchange::memory_bytes(self.page_bytes)
    }

    const fn remote_slots(&self) -> usize {
        if self.address.is_some() { STATUS_CONNECTIONS_MAX } else { 0 }
    }

    const fn local_slots(&self) -> usize {
        if self.on_socket { SOCKET_CONNECTIONS_MAX } else { 0 }
    }
}

/// Most places for connections.
const SLOTS_MAX: usize = STATUS_CONNECTIONS_MAX + SOCKET_CONNECTIONS_MAX;

/// Where connections come from. Each has its bit, above those of the slots, where readiness is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    Address,
    Socket,
}

impl Via {
    const fn bit(self) -> u64 {
        1 << (SLOTS_MAX + self as usize)
    }
}

/// Counts since the start of the program.
#[derive(Debug, Default)]
pub struct Counters {
    connections: AtomicU64,
    open: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    unauthorized: AtomicU64,
    truncated: AtomicU64,
    timed_out: AtomicU64,
    evicted: AtomicU64,
    rejected: AtomicU64,
}

/// A reading of [`Counters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Requests answered with a page, or with a 404.
    pub answered: u64,
    /// Requests that could not be read or that asked for more than to read: 400, 405, 431, 505.
    pub refused: u64,
    /// Requests without the token, or by another name: 401, 421.
    pub unauthorized: u64,
    /// Pages that did not fit: 500.
    pub truncated: u64,
    /// Connections closed because a request or the taking of a response lasted too long.
    pub timed_out: u64,
    /// Idle connections closed in favour of new ones.
    pub evicted: u64,
    /// Connections refused because all others were busy: 503.
    pub rejected: u64,
}

impl Counters {
    /// The counts so far.
    pub fn read(&self) -> Counts {
        Counts {
            connections: self.connections.load(Relaxed),
            open: self.open.load(Relaxed),
            answered: self.answered.load(Relaxed),
            refused: self.refused.load(Relaxed),
            unauthorized: self.unauthorized.load(Relaxed),
            truncated: self.truncated.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// A place for a connection.
struct Slot {
    connection: Option<OwnedFd>,
    exchange: Exchange,
}

/// The server.
pub struct Server {
    params: Params,
    clock: Arc<dyn Clock>,
    access: Access,
    counters: Arc<Counters>,
    /// Those for the address first.
    slots: Vec<Slot>,
    listener: Option<TcpListener>,
    socket: Option<Socket>,
    /// Until when it does not try again to listen.
    listen_from: Mono,
    /// That it cannot was said.
    said: bool,
    /// Until when no connection is accepted.
    accept_from: Mono,
}

impl Server {
    /// Allocates all memory and reads the token. Does not listen yet.
    ///
    /// # Errors
    /// `Kind::Config`: the token cannot be read.
    pub fn new(params: Params, clock: Arc<dyn Clock>) -> Result<Self> {
        let access = Access::open(params.token_file.as_deref())?;
        let slot = || Slot { connection: None, exchange: Exchange::new(params.page_bytes) };
        let slots = (0..params.remote_slots() + params.local_slots()).map(|_| slot()).collect();
        Ok(Server {
            params,
            clock,
            access,
            counters: Arc::default(),
            slots,
            listener: None,
            socket: None,
            listen_from: Mono::ZERO,
            said: false,
            accept_from: Mono::ZERO,
        })
    }

    /// Serves connections to `socket` too. They get the slots of [`Params::on_socket`].
    pub fn add_socket(&mut self, mut socket: Socket) {
        socket.keep();
        self.socket = Some(socket);
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Listens on the address, if there is one, unless it does already, and returns it. [`Server::run`] does it too, and tries again until it
    /// succeeds.
    ///
    /// # Errors
    /// `Kind::System`: the address is in use, is not an address of this device, or its port is reserved.
    pub fn listen(&mut self) -> Result<Option<SocketAddr>> {
        let Some(address) = self.params.address else { return Ok(None) };
        let failed = |error: io::Error| listen_error(address, error);
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => listen(address, self.params.page_bytes).map_err(failed)?,
        };
        let address = listener.local_addr().map_err(failed)?;
        self.listener = Some(listener);
        Ok(Some(address))
    }

    /// The body of the thread: serves until a stop is requested. Open connections are then closed.
    pub fn run(&mut self, pages: &mut dyn Pages, stop: &Stop) {
        let _as_it_is_where_that_is_forbidden = rustix::process::setpriority_process(None, NICE);
        let mut before = thread_cpu_time();
        while !stop.requested() {
            self.keep_listening();
            let ready = self.wait();
            self.round(ready, self.clock.mono(), pages);
            // Waiting costs next to nothing, and counts too.
            let used = thread_cpu_time();
            let worked = used.saturating_sub(before);
            before = used;
            stop.wait(worked.saturating_mul(REST).clamp(REST_TIME.0, REST_TIME.1));
        }
        (self.listener, self.socket) = (None, None);
        for index in 0..self.slots.len() {
            self.close(index);
        }
    }

    /// Looks from time to time whether it listens, and tries again where it does not.
    fn keep_listening(&mut self) {
        let now = self.clock.mono();
        if now < self.listen_from {
            return;
        }
        self.listen_from = now + LISTEN_PAUSE;
        if let Some(socket) = &mut self.socket {
            socket.keep();
        }
        if self.listener.is_some() {
            return;
        }
        match self.listen() {
            Ok(None) => {}
            Ok(Some(address)) => tracing::info!(%address, "the status server listens"),
            Err(error) if !std::mem::replace(&mut self.said, true) => {
                tracing::error!("{error}; it is tried again");
            }
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// Waits until a connection is ready, a deadline is over, or it is time to look for a stop request. Returns which slots are ready, a
    /// bit for each, and above them which listeners are.
    fn wait(&self) -> u64 {
        let now = self.clock.mono();
        let mut polled = heapless::Vec::<(u64, PollFd<'_>), { SLOTS_MAX + 2 }>::new();
        let mut until = now + STOP_CHECK;
        let mut ready = 0;
        for (index, Slot { connection, exchange }) in self.slots.iter().enumerate() {
            let flags = match exchange.phase() {
                Phase::Closed => continue,
                Phase::Reading | Phase::Draining => PollFlags::IN,
                Phase::Writing { .. } => PollFlags::OUT,
            };
            if exchange.has_input() {
                (ready, until) = (ready | 1 << index, now);
            }
            until = exchange.deadline().map_or(until, |deadline| until.min(deadline));
            if let Some(connection) = connection {
                let _one_for_each_slot = polled.push((1 << index, PollFd::new(connection, flags)));
            }
        }
        if now >= self.accept_from {
            for via in [Via::Address, Via::Socket] {
                let Some(listener) = self.listener_of(via) else { continue };
                let listener = PollFd::from_borrowed_fd(listener, PollFlags::IN);
                let _and_two_more = polled.push((via.bit(), listener));
            }
        }
        let mut fds = heapless::Vec::<PollFd<'_>, { SLOTS_MAX + 2 }>::new();
        fds.extend(polled.iter().map(|(_, fd)| fd.clone()));
        let timeout = Timespec::try_from(until.since(now)).unwrap_or_default();
        // An interrupted or failed call is a round without work; the rest after it bounds how often.
        if poll(&mut fds, Some(&timeout)).is_ok() {
            let found = polled.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
            ready |= found.fold(0, |bits, ((bit, _), _)| bits | bit);
        }
        ready
    }

    fn listener_of(&self, via: Via) -> Option<BorrowedFd<'_>> {
        match via {
            Via::Address => self.listener.as_ref().map(|listener| listener.as_fd()),
            Via::Socket => self.socket.as_ref().and_then(Socket::listener),
        }
    }

    /// One step for each connection that is ready or late, and for the listener.
    fn round(&mut self, ready: u64, now: Mono, pages: &mut dyn Pages) {
        for index in 0..self.slots.len() {
            if ready & 1 << index != 0 {
                self.step(index, now, pages);
            }
            let exchange = &self.slots[index].exchange;
            if exchange.deadline().is_some_and(|deadline| now >= deadline) {
                if !exchange.is_at_rest() {
                    count(&self.counters.timed_out);
                }
                self.close(index);
            }
        }
        for via in [Via::Address, Via::Socket] {
            if ready & via.bit() != 0 {
                self.accept(via, now, pages);
            }
        }
    }

    /// Reads what is there, answers a request at most, and sends what the socket takes.
    fn step(&mut self, index: usize, now: Mono, pages: &mut dyn Pages) {
        let is_remote = index < self.params.remote_slots();
        let Slot { connection: Some(connection), exchange } = &mut self.slots[index] else { return };
        let room = exchange.room();
        if !room.is_empty() {
            match rustix::io::read(&*connection, room) {
                Ok(0) => return self.close(index),
                Ok(count) => exchange.received(count, now),
                Err(error) if is_for_later(&error.into()) => {}
                Err(_) => return self.close(index),
            }
        }
        let access = if is_remote { &mut self.access } else { &mut Access::Socket };
        let counter = match exchange.answer(now, access, pages) {
            Answer::None => None,
            Answer::Page => Some(&self.counters.answered),
            Answer::Truncated => Some(&self.counters.truncated),
            Answer::Unauthorized => Some(&self.counters.unauthorized),
            Answer::Refused => Some(&self.counters.refused),
        };
        counter.into_iter().for_each(count);
        if matches!(exchange.phase(), Phase::Writing { .. }) {
            match rustix::io::write(&*connection, exchange.pending()) {
                Ok(count) => exchange.sent(count, now),
                Err(error) if is_for_later(&error.into()) => {}
                Err(_) => return self.close(index),
            }
            if exchange.phase() == Phase::Draining && shutdown(&*connection, Shutdown::Write).is_err() {
                self.close(index);
            }
        }
    }

    /// Accepts new connections.
    fn accept(&mut self, via: Via, now: Mono, pages: &mut dyn Pages) {
        let remote = self.params.remote_slots();
        let slots = match via {
            Via::Address => 0..remote,
            Via::Socket => remote..self.slots.len(),
        };
        for _ in 0..ACCEPTS_MAX {
            let accepted = match (via, &self.listener, &self.socket) {
                (Via::Address, Some(listener), _) => accept_tcp(listener),
                (Via::Socket, _, Some(socket)) => socket.accept(),
                _ => return,
            };
            let connection = match accepted {
                Ok(connection) => connection,
                // The client gave up before.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if is_for_later(&error) => return,
                Err(_) => return self.accept_from = now + ACCEPT_PAUSE,
            };
            count(&self.counters.connections);
            match self.free_slot(slots.clone(), now) {
                Some(index) => {
                    let slot = &mut self.slots[index];
                    slot.exchange.begin(now);
                    slot.connection = Some(connection);
                    self.counters.open.fetch_add(1, Relaxed);
                    // Its request is there already, most times.
                    self.step(index, now, pages);
                }
                None => {
                    count(&self.counters.rejected);
                    reject(&connection);
                }
            }
        }
    }

    /// A slot for a new connection: a free one, or that of the connection that has been idle longest.
    fn free_slot(&mut self, slots: Range<usize>, now: Mono) -> Option<usize> {
        if let Some(free) = slots.clone().find(|index| self.slots[*index].connection.is_none()) {
            return Some(free);
        }
        let idle = slots.filter_map(|index| Some((self.slots[index].exchange.idle_for(now)?, index)));
        let (_, index) = idle.max_by_key(|(time, _)| *time)?;
        count(&self.counters.evicted);
        self.close(index);
        Some(index)
    }

    fn close(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.exchange.close();
        if slot.connection.take().is_some() {
            self.counters.open.fetch_sub(1, Relaxed);
        }
    }
}

/// Whether a call on a socket succeeds later.
fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Says that there is no connection, and closes. What the client has sent is read first, or the kernel would reset the connection before
/// the client sees the answer.
fn reject(connection: &OwnedFd) {
    let mut sent = [0; 1024];
    let _whether_or_not_it_arrives = rustix::io::write(connection, FULL.as_bytes());
    let _either_way = shutdown(connection, Shutdown::Write);
    let _either_way_too = rustix::io::read(connection, &mut sent[..]);
}

fn accept_tcp(listener: &TcpListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    // A connection that cannot be set up so is as good as one that its client has given up.
    let given_up = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).map_err(given_up)?;
    Ok(stream.into())
}

fn listen(address: SocketAddr, page_bytes: usize) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    // Connections inherit these limits of the kernel's memory. A whole page fits, so that a slow reader holds the kernel's memory and not
    // the server's attention.
    sockopt::set_socket_send_buffer_size(listener.as_fd(), page_bytes.max(4096))?;
    sockopt::set_socket_recv_buffer_size(listener.as_fd(), STATUS_HEAD_BYTES_MAX)?;
    Ok(listener)
}

fn listen_error(address: SocketAddr, error: io::Error) -> Error {
    let remedies = [
        (
            io::ErrorKind::AddrInUse,
            "another program listens there (`ss -ltnp` names it): stop it or choose another port",
        ),
        (
            io::ErrorKind::AddrNotAvailable,
            "no interface of this device has this address now (`ip address` lists them)",
        ),
        (io::ErrorKind::PermissionDenied, "ports below 1024 need a privilege: choose a higher one"),
    ];
    let known = remedies.iter().find(|(kind, _)| *kind == error.kind());
    let remedy = known.map_or("choose another address or port", |(_, remedy)| remedy);
    Error::retry(Kind::System, format!("status.listen {address}: {remedy}")).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::SystemClock;
    use crate::status::page::{Page, Request, Status};
    use crate::status::socket::Place;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    struct Hello;

    impl Pages for Hello {
        fn respond(&mut self, request: &Request<'_>, page: &mut Page<'_>) -> Status {
            let _fits = std::fmt::Write::write_str(page, "hello\n");
            if request.path == "/" { Status::Ok } else { Status::NotFound }
        }
    }

    fn server(address: &str) -> Server {
        let address = Some(address.parse().unwrap());
        let params = Params { address, on_socket: false, token_file: None, page_bytes: 100 };
        Server::new(params, Arc::new(SystemClock)).unwrap()
    }

    #[test]
    fn the_text_for_a_full_table_has_its_length() {
        let (head, body) = FULL.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }

    #[test]
    fn an_address_that_is_taken_is_named_with_a_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = server(&address).listen().unwrap_err();
        let line = error.to_string();
        assert!(line.starts_with(&format!("status.listen {address}: another program")), "{line}");
        let line = server("192.0.2.1:9464").listen().unwrap_err().to_string();
        assert!(line.contains("no interface"), "{line}");
    }

    #[test]
    fn a_stop_request_ends_it_while_it_waits_for_its_address() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let stop = Stop::new();
        let mut server = server(&taken.local_addr().unwrap().to_string());
        let thread = {
            let stop = stop.clone();
            std::thread::spawn(move || server.run(&mut Hello, &stop))
        };
        stop.request();
        thread.join().unwrap();
    }

    #[test]
    fn requests_on_one_connection_are_answered_until_the_stop() {
        let stop = Stop::new();
        let mut server = server("127.0.0.1:0");
        let address = server.listen().unwrap().unwrap();
        let counters = server.counters();
        let thread = {
            let stop = stop.clone();
            std::thread::spawn(move || server.run(&mut Hello, &stop))
        };
        let mut client = TcpStream::connect(address).unwrap();
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3);
        client.write_all(request.as_bytes()).unwrap();
        let mut response = Vec::new();
        while response.windows(7).filter(|part| part == b"\nhello\n").count() < 3 {
            let mut piece = [0; 100];
            let count = client.read(&mut piece).unwrap();
            assert!(count > 0, "the connection stays");
            response.extend_from_slice(&piece[..count]);
        }
        assert_eq!(counters.read(), Counts { connections: 1, open: 1, answered: 3, ..Counts::default() });
        stop.request();
        thread.join().unwrap();
        assert_eq!(client.read(&mut [0; 9]).unwrap_or(0), 0, "closed");
        assert_eq!(counters.read().open, 0);
    }

    #[test]
    fn the_socket_has_connections_of_its_own_beside_an_address_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.sock");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Some(taken.local_addr().unwrap());
        let params = Params { address, on_socket: true, token_file: None, page_bytes: 100 };
        let mut server = Server::new(params, Arc::new(SystemClock)).unwrap();
        server.add_socket(Socket::new(&Place::Path(path.clone())).unwrap());
        let stop = Stop::new();
        let (thread, counters) = {
            let (stop, counters) = (stop.clone(), server.counters());
            (std::thread::spawn(move || server.run(&mut Hello, &stop)), counters)
        };
        let get = |client: &mut UnixStream| {
            client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut response = String::new();
            client.read_to_string(&mut response).unwrap();
            response
        };
        let mut idle: Vec<_> =
            (0..SOCKET_CONNECTIONS_MAX).map(|_| UnixStream::connect(&path).unwrap()).collect();
        assert!(get(&mut idle.pop().unwrap()).ends_with("hello\n"));
        for _ in 0..3 {
            assert!(get(&mut UnixStream::connect(&path).unwrap()).ends_with("hello\n"));
        }
        stop.request();
        thread.join().unwrap();
        assert_eq!(counters.read().answered, 4);
        assert!(!path.exists(), "removed at the end");
    }
}
