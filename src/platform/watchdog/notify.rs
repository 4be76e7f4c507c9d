//! Messages to systemd (sd_notify(3)): READY, EXTEND_TIMEOUT_USEC, STATUS, WATCHDOG, STOPPING. Without systemd nothing is sent.
//!
//! The protocol is one datagram of `KEY=VALUE` lines to the socket that `NOTIFY_SOCKET` names; `WATCHDOG_USEC` says how often systemd
//! expects a keep-alive message, `WATCHDOG_PID` from which process.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The socket of the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    /// Not connected, so that a socket that is created later, or again, is reached too.
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// From the environment. A socket that cannot be reached is a warning, and is tried again with each message: counting goes on, for as
    /// long as a service manager without messages lets us run.
    pub fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Notify::default();
        };
        let warn = |error: io::Error| {
            tracing::warn!(
                "NOTIFY_SOCKET={} cannot be reached: {error}; it goes on, but systemd ends a unit of Type=notify from which it \
                 hears nothing (after TimeoutStartSec=): unset the variable, or mount the socket",
                name.display()
            );
        };
        let socket = match Self::open(&name) {
            Ok((socket, address)) => {
                // Connected for a moment, to find out whether somebody listens.
                if let Err(error) = UnixDatagram::unbound().and_then(|probe| probe.connect_addr(&address)) {
                    warn(error);
                }
                Some((socket, address))
            }
            Err(error) => {
                warn(error);
                None
            }
        };
        let variable = |name: &str| std::env::var(name).ok();
        let watchdog = interval(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Notify { socket, watchdog }
    }

    fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
            _ => SocketAddr::from_pathname(name),
        }?;
        let socket = UnixDatagram::unbound()?;
        // The supervisor must not wait for a service manager that does not read.
        socket.set_nonblocking(true)?;
        Ok((socket, address))
    }

    /// The time without a keep-alive message after which systemd ends us; `None` if it does not.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Whether there is a service manager.
    pub fn present(&self) -> bool {
        self.socket.is_some()
    }

    /// Sends one message, such as `WATCHDOG=1`. It is lost if the service manager does not read.
    pub fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            let _full_or_gone = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

/// The interval that WATCHDOG_USEC and WATCHDOG_PID set for the process `own`.
fn interval(micros: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.trim() != own.to_string()) {
        return None;
    }
    let micros: u64 = micros?.trim().parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_ours_only_if_it_says_so() {
        let say = |text: &str| Some(text.to_owned());
        assert_eq!(interval(say("30000000"), None, 7), Some(Duration::from_secs(30)));
        assert_eq!(interval(say("30000000"), say("7"), 7), Some(Duration::from_secs(30)));
        assert_eq!(interval(say("30000000"), say("8"), 7), None, "meant for another process");
        for bad in ["0", "", "-1", "soon"] {
            assert_eq!(interval(say(bad), None, 7), None, "{bad}");
        }
        assert_eq!(interval(None, say("7"), 7), None);
    }

    /// systemd is re-executed and creates its socket again; or the socket appears late.
    #[test]
    fn a_socket_that_comes_later_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let notify = Notify { socket: Some(Notify::open(path.as_os_str()).unwrap()), watchdog: None };
        notify.send("READY=1");
        for _ in 0..2 {
            let listener = UnixDatagram::bind(&path).unwrap();
            notify.send("WATCHDOG=1");
            listener.set_nonblocking(true).unwrap();
            let mut buffer = [0; 64];
            let count = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"WATCHDOG=1");
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn without_a_listener_messages_do_nothing() {
        let notify = Notify::default();
        notify.send("READY=1");
        assert!(!notify.present() && notify.watchdog().is_none());
    }
}
