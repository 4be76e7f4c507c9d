//! What systemd wants to hear (sd_notify(3)): READY, EXTEND_TIMEOUT_USEC, STATUS, WATCHDOG, STOPPING. Without systemd nothing is sent.
//!
//! The protocol is one datagram of `KEY=VALUE` lines to the socket that `NOTIFY_SOCKET` names; `WATCHDOG_USEC` says how often
//! it wants a sign of life, `WATCHDOG_PID` from whom.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};

/// The way to the supervisor, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment says.
    ///
    /// # Errors
    /// `Kind::System` if it names a socket that cannot be reached: a supervisor that waits for READY would end us later,
    /// without a word.
    pub fn from_environment() -> Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Notify::default());
        };
        let failed = |error: std::io::Error| {
            let text = format!(
                "NOTIFY_SOCKET={} cannot be used: unset it, or set NotifyAccess=main in the unit",
                name.display()
            );
            Error::fatal(Kind::System, text).caused_by(error)
        };
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
            _ => SocketAddr::from_pathname(&name),
        };
        let socket = UnixDatagram::unbound().map_err(failed)?;
        socket.connect_addr(&address.map_err(failed)?).map_err(failed)?;
        // The executor must not wait for a supervisor that does not read.
        socket.set_nonblocking(true).map_err(failed)?;
        let variable = |name: &str| std::env::var(name).ok();
        let watchdog = interval(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Ok(Notify { socket: Some(socket), watchdog })
    }

    /// How long it waits for a sign of life before it ends us; `None` if it does not.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Whether anybody listens.
    pub fn present(&self) -> bool {
        self.socket.is_some()
    }

    /// One message, such as `WATCHDOG=1`. A supervisor that does not read loses it.
    pub fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            let _full_or_gone = socket.send(message.as_bytes());
        }
    }
}

/// What WATCHDOG_USEC and WATCHDOG_PID say to the process `own`.
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
        assert_eq!(interval(say("30000000"), say("8"), 7), None, "somebody else's");
        for bad in ["0", "", "-1", "soon"] {
            assert_eq!(interval(say(bad), None, 7), None, "{bad}");
        }
        assert_eq!(interval(None, say("7"), 7), None);
    }

    #[test]
    fn nobody_listens_and_nothing_happens() {
        let notify = Notify::default();
        notify.send("READY=1");
        assert!(!notify.present() && notify.watchdog().is_none());
    }
}
