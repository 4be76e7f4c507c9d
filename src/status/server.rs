//! The status server: HTTP/1.1 for GET and HEAD on one thread of its own, bounded in everything a client can spend.
//!
//! - **Connections**: [`STATUS_CONNECTIONS_MAX`]. When the table is full, the connection that has been idle longest gives way to a new one:
//!   one between two requests, or one that has achieved nothing for a quarter of a second. If every connection is busy, the new client gets a 503.
//! - **Memory**: all of it is allocated and touched in [`Server::new`]; the kernel's buffers of each socket are limited too.
//! - **Time**: to send a request, to take a response, to stay idle (in the module `exchange`).
//! - **Processor**: after each round over the sockets the thread rests [`REST`] times the processor time that the round took, so that it
//!   takes a tenth of a core at most whatever clients do, and it gives way to every other thread of the program ([`NICE`]).
//!
//! Each of these limits has a counter ([`Counters`]). Nothing here ends the program: an address that cannot be listened on is tried again
//! until it can.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::base::error::{Error, Kind, Result};
use crate::base::limits::{STATUS_CONNECTIONS_MAX, STATUS_HEAD_BYTES_MAX};
use crate::base::stop::Stop;
use crate::platform::clock::{Clock, Mono, thread_cpu_time};
use crate::status::access::Access;
use crate::status::exchange::{Answer, Exchange, Phase};
use crate::status::page::Pages;

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
    /// Where it listens: see [`super::access::check_address`].
    pub address: SocketAddr,
    /// The file with the token that every request must carry: a path, or `credential:NAME`.
    pub token_file: Option<PathBuf>,
    /// Longest page, bytes. A longer one is a 500.
    pub page_bytes: usize,
}

impl Params {
    /// Memory that the server allocates, bytes: one summand of the memory budget (I1).
    pub const fn memory_bytes(&self) -> usize {
        STATUS_CONNECTIONS_MAX * Exchange::memory_bytes(self.page_bytes)
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
    stream: Option<TcpStream>,
    exchange: Exchange,
}

/// The server.
pub struct Server {
    params: Params,
    clock: Arc<dyn Clock>,
    access: Access,
    counters: Arc<Counters>,
    slots: Vec<Slot>,
    listener: Option<TcpListener>,
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
        let slot = || Slot { stream: None, exchange: Exchange::new(params.page_bytes) };
        let slots = (0..STATUS_CONNECTIONS_MAX).map(|_| slot()).collect();
        let counters = Arc::default();
        Ok(Server { params, clock, access, counters, slots, listener: None, accept_from: Mono::ZERO })
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Listens, unless it does already, and returns the address. [`Server::run`] does it too, and tries again until it succeeds.
    ///
    /// # Errors
    /// `Kind::System`: the address is in use, is not an address of this device, or its port is reserved.
    pub fn listen(&mut self) -> Result<SocketAddr> {
        let failed = |error: io::Error| listen_error(self.params.address, error);
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => listen(self.params.address, self.params.page_bytes).map_err(failed)?,
        };
        let address = listener.local_addr().map_err(failed)?;
        self.listener = Some(listener);
        Ok(address)
    }

    /// The body of the thread: serves until a stop is requested. Open connections are then closed.
    pub fn run(&mut self, pages: &mut dyn Pages, stop: &Stop) {
        let _as_it_is_where_that_is_forbidden = rustix::process::setpriority_process(None, NICE);
        if self.listen_until(stop) {
            let mut before = thread_cpu_time();
            while !stop.requested() {
                let ready = self.wait();
                self.round(ready, self.clock.mono(), pages);
                // Waiting costs next to nothing, and counts too.
                let used = thread_cpu_time();
                let worked = used.saturating_sub(before);
                before = used;
                stop.wait(worked.saturating_mul(REST).clamp(REST_TIME.0, REST_TIME.1));
            }
        }
        self.listener = None;
        for index in 0..self.slots.len() {
            self.close(index);
        }
    }

    /// Tries to listen until it succeeds. False: a stop was requested.
    fn listen_until(&mut self, stop: &Stop) -> bool {
        let mut said = false;
        loop {
            match self.listen() {
                Ok(address) => {
                    tracing::info!(%address, "the status server listens");
                    return true;
                }
                Err(error) if !said => tracing::error!("{error}; it is tried again"),
                Err(error) => tracing::debug!("{error}"),
            }
            said = true;
            if stop.wait(LISTEN_PAUSE) {
                return false;
            }
        }
    }

    /// Waits until a socket is ready, a deadline is over, or it is time to look for a stop request. Returns which slots are ready, a bit
    /// for each, and above them whether the listener is.
    fn wait(&self) -> u64 {
        let now = self.clock.mono();
        let mut polled = heapless::Vec::<(usize, PollFd<'_>), { STATUS_CONNECTIONS_MAX + 1 }>::new();
        let mut until = now + STOP_CHECK;
        let mut ready = 0;
        for (index, Slot { stream, exchange }) in self.slots.iter().enumerate() {
            let flags = match exchange.phase() {
                Phase::Closed => continue,
                Phase::Reading | Phase::Draining => PollFlags::IN,
                Phase::Writing { .. } => PollFlags::OUT,
            };
            if exchange.has_input() {
                (ready, until) = (ready | 1 << index, now);
            }
            until = exchange.deadline().map_or(until, |deadline| until.min(deadline));
            if let Some(stream) = stream {
                let _one_for_each_slot = polled.push((index, PollFd::new(stream, flags)));
            }
        }
        if let Some(listener) = self.listener.as_ref().filter(|_| now >= self.accept_from) {
            let _and_one_more = polled.push((STATUS_CONNECTIONS_MAX, PollFd::new(listener, PollFlags::IN)));
        }
        let mut fds = heapless::Vec::<PollFd<'_>, { STATUS_CONNECTIONS_MAX + 1 }>::new();
        fds.extend(polled.iter().map(|(_, fd)| fd.clone()));
        let timeout = Timespec::try_from(until.since(now)).unwrap_or_default();
        // An interrupted or failed call is a round without work; the rest after it bounds how often.
        if poll(&mut fds, Some(&timeout)).is_ok() {
            for ((index, _), fd) in polled.iter().zip(&fds) {
                ready |= u64::from(!fd.revents().is_empty()) << index;
            }
        }
        ready
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
        if ready & 1 << STATUS_CONNECTIONS_MAX != 0 {
            self.accept(now, pages);
        }
    }

    /// Reads what is there, answers a request at most, and sends what the socket takes.
    fn step(&mut self, index: usize, now: Mono, pages: &mut dyn Pages) {
        let Slot { stream: Some(stream), exchange } = &mut self.slots[index] else { return };
        let mut stream = &*stream;
        let room = exchange.room();
        if !room.is_empty() {
            match stream.read(room) {
                Ok(0) => return self.close(index),
                Ok(count) => exchange.received(count, now),
                Err(error) if is_for_later(&error) => {}
                Err(_) => return self.close(index),
            }
        }
        let counter = match exchange.answer(now, &mut self.access, pages) {
            Answer::None => None,
            Answer::Page => Some(&self.counters.answered),
            Answer::Truncated => Some(&self.counters.truncated),
            Answer::Unauthorized => Some(&self.counters.unauthorized),
            Answer::Refused => Some(&self.counters.refused),
        };
        counter.into_iter().for_each(count);
        if matches!(exchange.phase(), Phase::Writing { .. }) {
            match stream.write(exchange.pending()) {
                Ok(count) => exchange.sent(count, now),
                Err(error) if is_for_later(&error) => {}
                Err(_) => return self.close(index),
            }
            if exchange.phase() == Phase::Draining && stream.shutdown(Shutdown::Write).is_err() {
                self.close(index);
            }
        }
    }

    /// Accepts new connections.
    fn accept(&mut self, now: Mono, pages: &mut dyn Pages) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = &self.listener else { return };
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                // The client gave up before.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if is_for_later(&error) => return,
                Err(_) => return self.accept_from = now + ACCEPT_PAUSE,
            };
            if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                continue;
            }
            count(&self.counters.connections);
            match self.free_slot(now) {
                Some(index) => {
                    let slot = &mut self.slots[index];
                    slot.exchange.begin(now);
                    slot.stream = Some(stream);
                    self.counters.open.fetch_add(1, Relaxed);
                    // Its request is there already, most times.
                    self.step(index, now, pages);
                }
                None => {
                    count(&self.counters.rejected);
                    reject(&stream);
                }
            }
        }
    }

    /// A slot for a new connection: a free one, or that of the connection that has been idle longest.
    fn free_slot(&mut self, now: Mono) -> Option<usize> {
        if let Some(free) = self.slots.iter().position(|slot| slot.stream.is_none()) {
            return Some(free);
        }
        let idle = self.slots.iter().enumerate();
        let idle = idle.filter_map(|(index, slot)| Some((slot.exchange.idle_for(now)?, index)));
        let (_, index) = idle.max_by_key(|(time, _)| *time)?;
        count(&self.counters.evicted);
        self.close(index);
        Some(index)
    }

    fn close(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.exchange.close();
        if slot.stream.take().is_some() {
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
fn reject(mut stream: &TcpStream) {
    let mut sent = [0; 1024];
    let _whether_or_not_it_arrives = stream.write(FULL.as_bytes());
    let _either_way = stream.shutdown(Shutdown::Write);
    let _either_way_too = stream.read(&mut sent);
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

    struct Hello;

    impl Pages for Hello {
        fn respond(&mut self, request: &Request<'_>, page: &mut Page<'_>) -> Status {
            let _fits = std::fmt::Write::write_str(page, "hello\n");
            if request.path == "/" { Status::Ok } else { Status::NotFound }
        }
    }

    fn server(address: &str) -> Server {
        let params = Params { address: address.parse().unwrap(), token_file: None, page_bytes: 100 };
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
        let address = server.listen().unwrap();
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
}
