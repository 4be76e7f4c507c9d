//! DNS look-up and connecting, with deadlines that hold whatever the name server and the addresses do.
//!
//! A host often has several addresses, and one of them may never respond (typically IPv6 without a route). They are tried as in RFC 8305
//! ("happy eyeballs"): each starts [`ATTEMPT_DELAY`] after the one before it, the first to connect wins, and the winner is tried first next
//! time. All of it runs on the uplink thread, with `poll`.
//!
//! Only the look-up of a name needs a thread, because `getaddrinfo` has no deadline: one at most, however often it is retried. A missing
//! thread or descriptor is an error that is retried, never the end of the program.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

use crate::delivery::uplink::Interrupt;
use crate::platform::calendar::Timekeeper;
use crate::platform::clock::Mono;

/// How long an address is tried alone before the next one is tried in parallel (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How often a wait checks whether it is interrupted.
const SLICE: Duration = Duration::from_millis(250);

/// At most this many addresses are tried. `ureq` keeps as many.
const ADDRESSES_MAX: usize = 16;

/// Stack of the look-up thread: `getaddrinfo` of glibc and musl needs some tens of kB.
const LOOKUP_STACK_BYTES: usize = 256 << 10;

/// The clock, and the flag that ends a wait early.
#[derive(Clone)]
pub(super) struct Waits {
    pub(super) time: Arc<Timekeeper>,
    pub(super) interrupt: Arc<OnceLock<Interrupt>>,
}

impl Waits {
    fn deadline(&self, timeout: &NextTimeout) -> Mono {
        // "Never" is later than a time can represent.
        self.time.mono() + (*timeout.after).min(Duration::from_secs(86_400))
    }

    /// How long to wait until the next check, at most [`SLICE`].
    fn slice(&self, deadline: Mono, timeout: &NextTimeout) -> Result<Duration, ureq::Error> {
        if self.interrupt.get().is_some_and(|interrupt| interrupt()) {
            let text = "the shutdown has waited for uplink.drain_s";
            return Err(ureq::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        match deadline.since(self.time.mono()) {
            Duration::ZERO => Err(ureq::Error::Timeout(timeout.reason)),
            left => Ok(left.clamp(Duration::from_millis(1), SLICE)),
        }
    }
}

/// No connection: nothing was sent.
#[derive(Debug)]
pub(super) struct NotConnected {
    text: String,
    /// The remedy.
    pub(super) remedy: &'static str,
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for NotConnected {}

fn not_connected(what: &str, error: &io::Error, remedy: &'static str) -> ureq::Error {
    let short = error.raw_os_error().map(Errno::from_raw_os_error);
    let remedy = match short {
        Some(Errno::MFILE | Errno::NFILE) => {
            "this device has no file descriptor left: raise LimitNOFILE=, or find what uses them"
        }
        Some(Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS) => {
            "this device is short of memory or threads: raise TasksMax= and MemoryMax=, or find what uses them"
        }
        Some(_) | None => remedy,
    };
    let inner = NotConnected { text: format!("{what}: {error}"), remedy };
    ureq::Error::Io(io::Error::new(error.kind(), inner))
}

/// A DNS look-up in progress.
struct Lookup {
    host: String,
    receiver: Receiver<io::Result<Vec<IpAddr>>>,
}

/// Looks hosts up.
pub(super) struct Lookups {
    waits: Waits,
    /// A look-up that took longer than its deadline.
    late: Mutex<Option<Lookup>>,
    stack_bytes: usize,
}

impl Lookups {
    pub(super) fn new(waits: Waits) -> Self {
        Lookups { waits, late: Mutex::new(None), stack_bytes: LOOKUP_STACK_BYTES }
    }

    /// The look-up of `host` that is still in progress, else a new one.
    fn start(&self, host: &str) -> Result<Lookup, ureq::Error> {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Lookup { host: late_host, receiver }) = late
            && late_host == host
        {
            // A result that is already here is as old as the last attempt.
            match receiver.try_recv() {
                Err(TryRecvError::Empty) => return Ok(Lookup { host: late_host, receiver }),
                Ok(_) | Err(TryRecvError::Disconnected) => {}
            }
        }
        let (sender, receiver) = sync_channel(1);
        let name = host.to_owned();
        let lookup = move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            // No caller waits any more: the next attempt starts a new look-up.
            let _sent = sender.send(found.map(|all| all.map(|address| address.ip()).collect()));
        };
        let thread = std::thread::Builder::new().name("look-up".to_owned()).stack_size(self.stack_bytes);
        thread.spawn(lookup).map_err(|error| {
            not_connected("start a thread for the DNS look-up", &error, "this device is short of threads")
        })?;
        Ok(Lookup { host: host.to_owned(), receiver })
    }

    fn lookup(&self, host: &str, timeout: &NextTimeout) -> Result<Vec<IpAddr>, ureq::Error> {
        let deadline = self.waits.deadline(timeout);
        let lookup = self.start(host)?;
        loop {
            let slice = match self.waits.slice(deadline, timeout) {
                Ok(slice) => slice,
                Err(late) => {
                    *self.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(lookup);
                    return Err(late);
                }
            };
            match lookup.receiver.recv_timeout(slice) {
                Ok(Ok(addresses)) => return Ok(addresses),
                Ok(Err(error)) => {
                    let remedy = "check the host's name and this device's DNS";
                    return Err(not_connected("look the host up", &error, remedy));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ureq::Error::HostNotFound),
            }
        }
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LookUps")
    }
}

impl Resolver for Lookups {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default_port);
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.lookup(host, &timeout)?,
        };
        let mut all = self.empty();
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            all.push(SocketAddr::new(address, port));
        }
        if all.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(all) }
    }
}

/// Connects to the first address that accepts.
pub(super) struct Tcp {
    waits: Waits,
    /// The address that accepted last.
    worked: Mutex<Option<SocketAddr>>,
}

impl Tcp {
    pub(super) fn new(waits: Waits) -> Self {
        Tcp { waits, worked: Mutex::new(None) }
    }
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tcp")
    }
}

impl<In: Transport> Connector<In> for Tcp {
    type Out = Either<In, Connection>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(proxied) = chained {
            return Ok(Some(Either::A(proxied)));
        }
        let mut worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = in_order(&details.addrs[..], *worked);
        let stream = race(&addresses, &self.waits, &details.timeout)?;
        *worked = stream.peer_addr().ok();
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(Connection { stream, buffers, waits: self.waits.clone() })))
    }
}

/// The one that worked last first, then the two families in turn, in the order of the resolver (RFC 8305, section 4).
fn in_order(found: &[SocketAddr], worked: Option<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let mut same = found.iter().filter(|address| address.is_ipv6() == first_is_v6);
    let mut other = found.iter().filter(|address| address.is_ipv6() != first_is_v6);
    let mut all: Vec<SocketAddr> = worked.filter(|address| found.contains(address)).into_iter().collect();
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            return all;
        }
        for address in pair.into_iter().flatten() {
            if !all.contains(address) {
                all.push(*address);
            }
        }
    }
}

/// Connects to the first of `addresses` that accepts before the deadline.
fn race(addresses: &[SocketAddr], waits: &Waits, timeout: &NextTimeout) -> Result<TcpStream, ureq::Error> {
    let deadline = waits.deadline(timeout);
    let mut left = addresses.iter();
    let mut attempts: Vec<(OwnedFd, SocketAddr)> = Vec::with_capacity(addresses.len());
    let mut next_at = waits.time.mono();
    let mut last = None;
    loop {
        let slice = waits.slice(deadline, timeout)?;
        let now = waits.time.mono();
        if next_at <= now
            && let Some(address) = left.next()
        {
            match start(address) {
                Ok(socket) => {
                    attempts.push((socket, *address));
                    next_at = now + ATTEMPT_DELAY;
                }
                Err(error) => last = Some((*address, error)),
            }
            continue;
        }
        if attempts.is_empty() && left.len() == 0 {
            let (address, error) = last.ok_or(ureq::Error::HostNotFound)?;
            let remedy = "check the link and whether the receiver runs";
            return Err(not_connected(&format!("connect to {address}"), &error.into(), remedy));
        }
        let until_next = if left.len() > 0 { next_at.since(now) } else { SLICE };
        wait_for(&attempts, slice.min(until_next));
        let mut index = 0;
        while index < attempts.len() {
            match finished(&attempts[index].0) {
                None => index += 1,
                Some(Ok(())) => return usable(attempts.swap_remove(index).0).map_err(ureq::Error::Io),
                Some(Err(error)) => {
                    last = Some((attempts.remove(index).1, error));
                    next_at = now; // The next address need not wait.
                }
            }
        }
    }
}

/// Starts a connection attempt.
fn start(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Waits until one of the attempts may have finished.
fn wait_for(attempts: &[(OwnedFd, SocketAddr)], longest: Duration) {
    let mut polled: Vec<PollFd<'_>> =
        attempts.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::OUT)).collect();
    let longest = longest.max(Duration::from_millis(1));
    let timeout = Timespec::try_from(longest).ok();
    // Interrupted by a signal: each attempt is checked, and the wait continues.
    let _ready = rustix::event::poll(&mut polled, timeout.as_ref());
}

/// Whether the attempt has finished, and its result.
fn finished(socket: &OwnedFd) -> Option<Result<(), Errno>> {
    let mut polled = [PollFd::new(socket, PollFlags::OUT)];
    match rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(0) | Err(Errno::INTR) => None,
        Ok(_) => Some(sockopt::socket_error(socket).and_then(|outcome| outcome)),
        Err(error) => Some(Err(error)),
    }
}

fn usable(socket: OwnedFd) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A TCP connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffers: LazyBuffers,
    waits: Waits,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

/// Whether the call has to be repeated: the time slice is over, or a signal arrived.
fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
        && error.raw_os_error() != Some(Errno::TIMEDOUT.raw_os_error())
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        let deadline = self.waits.deadline(&timeout);
        let mut sent = 0;
        while sent < amount {
            self.stream.set_write_timeout(Some(self.waits.slice(deadline, &timeout)?))?;
            match self.stream.write(&self.buffers.output()[sent..amount]) {
                Ok(0) => return Err(ureq::Error::Io(io::ErrorKind::WriteZero.into())),
                Ok(count) => sent += count,
                Err(error) if again(&error) => {}
                Err(error) => return Err(ureq::Error::Io(error)),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        let deadline = self.waits.deadline(&timeout);
        loop {
            self.stream.set_read_timeout(Some(self.waits.slice(deadline, &timeout)?))?;
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(count) => {
                    self.buffers.input_appended(count);
                    return Ok(count > 0);
                }
                Err(error) if again(&error) => {}
                Err(error) => return Err(ureq::Error::Io(error)),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // Only a connection without pending bytes counts as open: unsolicited bytes cannot be the response to the next request.
        let quiet = self.stream.set_nonblocking(true).is_ok()
            && self.stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        quiet && self.stream.set_nonblocking(false).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::{Clock as _, SystemClock};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
    use ureq::Timeout;
    use ureq::unversioned::transport::time;

    fn waits() -> Waits {
        Waits { time: Arc::new(Timekeeper::new(Arc::new(SystemClock))), interrupt: Arc::default() }
    }

    fn within(millis: u64) -> NextTimeout {
        NextTimeout {
            after: time::Duration::from_millis(millis),
            reason: Timeout::Connect,
            ..NextTimeout::default()
        }
    }

    fn resolved(lookups: &Lookups, uri: &str) -> Result<Vec<SocketAddr>, ureq::Error> {
        let uri: Uri = uri.parse().unwrap();
        lookups.resolve(&uri, &Config::default(), within(20_000)).map(|all| all[..].to_vec())
    }

    /// An address that neither accepts nor refuses connections, because its queue is full. Returns the connections that fill it.
    fn silent() -> (SocketAddr, Vec<OwnedFd>) {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let mut held = vec![OwnedFd::from(listener)];
        for _ in 0..16 {
            let attempt = start(&address).unwrap();
            wait_for(&[(attempt.try_clone().unwrap(), address)], Duration::from_millis(100));
            let connected = finished(&attempt).is_some();
            held.push(attempt);
            if !connected {
                return (address, held);
            }
        }
        panic!("a queue of 16 is not full");
    }

    #[test]
    fn a_silent_address_costs_little_time_and_the_working_one_is_first_next_time() {
        let (silent, _held) = silent();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let live = listener.local_addr().unwrap();
        let begun = SystemClock.mono();
        let stream = race(&[silent, live], &waits(), &within(15_000)).unwrap();
        let took = SystemClock.mono().since(begun);
        assert_eq!(stream.peer_addr().unwrap(), live);
        assert!((ATTEMPT_DELAY..Duration::from_secs(5)).contains(&took), "{took:?}");
        let begun = SystemClock.mono();
        let error = race(&[silent], &waits(), &within(300)).unwrap_err();
        assert!(matches!(error, ureq::Error::Timeout(Timeout::Connect)), "{error}");
        assert!(SystemClock.mono().since(begun) < Duration::from_secs(5));
    }

    #[test]
    fn a_refused_address_costs_no_time_and_the_last_reason_is_reported() {
        let closed = |listener: TcpListener| listener.local_addr().unwrap();
        let dead = closed(TcpListener::bind(("127.0.0.2", 0)).unwrap());
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let live = listener.local_addr().unwrap();
        let begun = SystemClock.mono();
        assert_eq!(race(&[dead, dead, live], &waits(), &within(9_000)).unwrap().peer_addr().unwrap(), live);
        assert!(SystemClock.mono().since(begun) < Duration::from_secs(5));
        let text = race(&[dead], &waits(), &within(9_000)).unwrap_err().to_string();
        assert!(text.contains("refused") && text.contains(&dead.to_string()), "{text}");
    }

    #[test]
    fn an_interrupt_ends_a_wait_long_before_its_deadline() {
        let (silent, _held) = silent();
        let waits = waits();
        let interrupt: Interrupt = Arc::new(|| true);
        waits.interrupt.set(interrupt).ok().unwrap();
        let text = race(&[silent], &waits, &within(3_600_000)).unwrap_err().to_string();
        assert!(text.contains("drain_s"), "{text}");
    }

    #[test]
    fn address_families_alternate_and_the_working_address_comes_first() {
        let v6 = |last| SocketAddr::from((Ipv6Addr::from(last), 1));
        let v4 = |last: u32| SocketAddr::from((Ipv4Addr::from(last), 1));
        let found = [v6(1), v6(2), v6(3), v4(1)];
        assert_eq!(in_order(&found, None), [v6(1), v4(1), v6(2), v6(3)]);
        assert_eq!(in_order(&found, Some(v4(1))), [v4(1), v6(1), v6(2), v6(3)]);
        assert_eq!(
            in_order(&found, Some(v4(9))),
            [v6(1), v4(1), v6(2), v6(3)],
            "the host no longer has this address"
        );
        assert_eq!(in_order(&[v4(1), v6(1)], None), [v4(1), v6(1)]);
        assert_eq!(in_order(&[], None), []);
    }

    /// Without a thread a name cannot be looked up, which is reported and retried; an IP address needs none.
    #[test]
    fn a_missing_thread_is_a_temporary_error_and_an_ip_address_needs_none() {
        let mut lookups = Lookups::new(waits());
        lookups.stack_bytes = 1 << 60; // No machine has this much: the thread cannot be created.
        for (uri, address) in [
            ("http://127.0.0.1:8086/x", "127.0.0.1:8086"),
            ("https://127.0.0.1/", "127.0.0.1:443"),
            ("http://[::1]/", "[::1]:80"),
        ] {
            assert_eq!(resolved(&lookups, uri).unwrap(), [address.parse::<SocketAddr>().unwrap()]);
        }
        let error = resolved(&lookups, "http://localhost:8086/").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("thread"), "{text}");
        lookups.stack_bytes = LOOKUP_STACK_BYTES;
        let found = resolved(&lookups, "http://localhost:8086/").unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
    }

    #[test]
    fn a_late_look_up_is_waited_for_again_and_not_started_twice() {
        let lookups = Lookups::new(waits());
        let (sender, receiver) = sync_channel(1);
        *lookups.late.lock().unwrap() = Some(Lookup { host: "example.org".to_owned(), receiver });
        let late = lookups.lookup("example.org", &within(20)).unwrap_err();
        assert!(matches!(late, ureq::Error::Timeout(_)), "{late}");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                crate::base::stop::Stop::new().wait(Duration::from_millis(50));
                sender.send(Ok(vec![IpAddr::from(Ipv4Addr::LOCALHOST)])).unwrap();
            });
            assert_eq!(
                lookups.lookup("example.org", &within(20_000)).unwrap(),
                [IpAddr::from(Ipv4Addr::LOCALHOST)]
            );
        });
    }
}
