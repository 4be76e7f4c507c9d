//! The hardware watchdog: a timer in the board that resets it unless it is fed (Documentation/watchdog/watchdog-api.rst).
//!
//! ```text
//!   open ─► set the time-out ─► read it back ─► feed, feed, … ─┬─► clean end: magic close, the timer stops
//!                                                              └─► killed or hung: the timer runs out, the board resets
//! ```
#![allow(unsafe_code, reason = "four ioctls without a safe wrapper; argued below")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};

/// `struct watchdog_info` of linux/watchdog.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}
const _: () = assert!(size_of::<Info>() == 40, "as the kernel's");

// linux/watchdog.h: _IOR('W', 0, struct watchdog_info), _IOR('W', 2, int), _IOWR('W', 6, int), _IOR('W', 7, int).
const GET_SUPPORT: u32 = 0x8028_5700;
const GET_BOOT_STATUS: u32 = 0x8004_5702;
const SET_TIMEOUT: u32 = 0xC004_5706;
const GET_TIMEOUT: u32 = 0x8004_5707;
/// WDIOF_SETTIMEOUT: the time-out can be set.
const CAN_SET_TIMEOUT: u32 = 0x0080;
/// WDIOF_MAGICCLOSE: the timer stops when `V` is written before the close.
const CAN_CLOSE: u32 = 0x0100;
/// Where the kernel describes its watchdogs (Documentation/ABI/testing/sysfs-class-watchdog).
const SYSFS: &str = "/sys/class/watchdog";
/// WDIOF_CARDRESET: the board was last reset by the watchdog.
const CARD_RESET: i32 = 0x0020;

/// An armed watchdog. Dropped without [`Hardware::close`] it stays armed.
#[derive(Debug)]
pub struct Hardware {
    file: File,
    path: PathBuf,
    identity: String,
    timeout: Duration,
    closes: bool,
    was_reset: bool,
}

impl Hardware {
    /// Opens the device, which arms it, and sets its time-out.
    ///
    /// # Errors
    /// `Kind::Config` if the board refuses the time-out or sets another one (the watchdog is disarmed then, where
    /// possible); `Kind::System` if the device is missing, not ours, or in use.
    pub fn open(path: &Path, timeout: Duration) -> Result<Self> {
        let what = format!("watchdog '{}'", path.display());
        // Checked before opening: opening arms the watchdog, and not every board can disarm it.
        if let Some(limits) = limits(Path::new(SYSFS), path)
            && !limits.contains(&timeout.as_secs())
        {
            let (least, most) = (limits.start(), limits.end());
            let text = format!(
                "{what} does not take watchdog.timeout_s = {}: this board takes {least} to {most}",
                timeout.as_secs()
            );
            return Err(Error::fatal(Kind::Config, text));
        }
        let file = OpenOptions::new().write(true).open(path).map_err(|error| {
            let remedy = match error.raw_os_error() {
                Some(libc::EBUSY) => {
                    "another program has it: unset watchdog.device here or RuntimeWatchdogSec= in systemd"
                }
                Some(libc::EACCES | libc::EPERM) => "give this user write permission for it",
                _ => "is its driver loaded? Else set watchdog.device = \"\"",
            };
            Error::fatal(Kind::System, format!("{what} cannot be opened: {remedy}")).caused_by(error)
        })?;
        let mut info = Info { options: 0, firmware_version: 0, identity: [0; 32] };
        if let Err(error) = call(&file, GET_SUPPORT, &mut info) {
            let text = format!("{what} is not a watchdog: set watchdog.device to the one of this board");
            return Err(Error::fatal(Kind::System, text).caused_by(error));
        }
        let mut boot_status = 0i32;
        let _not_every_driver_knows = call(&file, GET_BOOT_STATUS, &mut boot_status);
        let end = info.identity.iter().position(|byte| *byte == 0).unwrap_or(info.identity.len());
        let mut hardware = Hardware {
            file,
            path: path.to_owned(),
            identity: String::from_utf8_lossy(&info.identity[..end]).into_owned(),
            timeout: Duration::ZERO,
            closes: info.options & CAN_CLOSE != 0,
            was_reset: boot_status & CARD_RESET != 0,
        };
        match hardware.set_timeout(timeout, info.options & CAN_SET_TIMEOUT != 0) {
            Ok(effective) => hardware.timeout = effective,
            Err(why) => {
                let text = format!(
                    "{what} ({}) does not take watchdog.timeout_s = {}: {why}",
                    hardware.identity,
                    timeout.as_secs()
                );
                hardware.close();
                return Err(Error::fatal(Kind::Config, text));
            }
        }
        Ok(hardware)
    }

    /// The time-out in force after requesting `timeout`; any other value is refused.
    fn set_timeout(&self, timeout: Duration, can: bool) -> std::result::Result<Duration, String> {
        let wanted = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        let mut seconds = wanted;
        if can && let Err(error) = call(&self.file, SET_TIMEOUT, &mut seconds) {
            return Err(format!("{error}: set a smaller one (a Raspberry Pi allows at most 15)"));
        }
        let mut effective = 0i32;
        call(&self.file, GET_TIMEOUT, &mut effective)
            .map_err(|error| format!("its time-out cannot be read back: {error}"))?;
        if effective != wanted {
            return Err(format!("it set {effective} s instead: set watchdog.timeout_s = {effective}"));
        }
        Ok(timeout)
    }

    /// The time-out in force.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The driver's name.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether the driver reports that the watchdog caused the board's last reset.
    pub fn was_reset(&self) -> bool {
        self.was_reset
    }

    /// Restarts the time-out.
    ///
    /// # Errors
    /// The error of the kernel: the device is gone, and with it the protection.
    pub fn feed(&mut self) -> io::Result<()> {
        self.file.write_all(b"\0")
    }

    /// Clean end: disarms the watchdog, where the driver can.
    pub fn close(mut self) {
        let path = self.path.display();
        // Any byte feeds; `V` is the magic one.
        match self.file.write_all(b"V") {
            Ok(()) if self.closes => tracing::info!("watchdog '{path}' is disarmed"),
            Ok(()) => tracing::warn!(
                "watchdog '{path}' cannot be disarmed: the board resets in {:?} unless flytrap runs again",
                self.timeout
            ),
            Err(error) => tracing::warn!("watchdog '{path}' cannot be disarmed: {error}"),
        }
    }
}

/// Range of time-outs of the device `path`, seconds, as far as its driver reports it.
fn limits(sysfs: &Path, path: &Path) -> Option<RangeInclusive<u64>> {
    let name = path.file_name()?;
    // The old name is an alias of the first device.
    let name = if name == "watchdog" { "watchdog0".as_ref() } else { name };
    let read = |file: &str| -> Option<u64> {
        std::fs::read_to_string(sysfs.join(name).join(file)).ok()?.trim().parse().ok()
    };
    // A driver without an upper limit of its own reports 0: the kernel feeds its hardware in between.
    let most = read("max_timeout")?;
    Some(read("min_timeout").unwrap_or(0)..=if most == 0 { u64::MAX } else { most })
}

/// One ioctl whose argument is a `T`.
fn call<T: Copy>(file: &File, request: u32, argument: &mut T) -> io::Result<()> {
    assert_eq!((request >> 16) as usize & 0x3FFF, size_of::<T>(), "request and argument belong together");
    // SAFETY: the descriptor is open; the request's size field is that of `T` (checked above), a plain struct without
    // pointers, so the kernel reads and writes within it.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_a_watchdog_is_refused_with_the_remedy() {
        let timeout = Duration::from_secs(15);
        let error = Hardware::open(Path::new("/dev/null"), timeout).unwrap_err();
        assert_eq!(error.kind(), Kind::System);
        assert!(error.to_string().contains("'/dev/null' is not a watchdog"), "{error}");
        let error = Hardware::open(Path::new("/dev/watchdog-of-nobody"), timeout).unwrap_err();
        assert!(error.to_string().contains("watchdog.device"), "{error}");
    }

    #[test]
    fn the_drivers_range_is_read_before_the_watchdog_is_armed() {
        let sysfs = tempfile::tempdir().unwrap();
        let folder = sysfs.path().join("watchdog0");
        std::fs::create_dir(&folder).unwrap();
        let found = |path: &str| limits(sysfs.path(), Path::new(path));
        assert_eq!(found("/dev/watchdog0"), None, "an old kernel says nothing");
        std::fs::write(folder.join("min_timeout"), "1\n").unwrap();
        std::fs::write(folder.join("max_timeout"), "15\n").unwrap();
        assert_eq!(found("/dev/watchdog"), Some(1..=15));
        assert_eq!(found("/dev/watchdog0"), Some(1..=15));
        assert_eq!(found("/dev/watchdog1"), None);
        std::fs::write(folder.join("max_timeout"), "0\n").unwrap();
        assert_eq!(found("/dev/watchdog0"), Some(1..=u64::MAX));
    }
}
