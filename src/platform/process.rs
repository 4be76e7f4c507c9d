//! Settings of this process in the kernel: limits, no core dumps, umask, file descriptors, and the meaning of SIGHUP.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

use crate::base::error::{Error, Kind, Result};

/// Descriptors that a run may need at once: a camera or a program's pipes, the spool's files, the receivers' sockets, signals, timers,
/// pins, a watchdog; about thirty at most, plus some that libraries open briefly.
pub const DESCRIPTORS_MIN: u64 = 64;

/// Limit of a core dump, bytes: one, not none. The kernel hands a dump to a program such as systemd-coredump whatever the limit is,
/// but for 1 (fs/coredump.c).
const CORE_BYTES_MAX: u64 = 1;

/// Call this first, before other threads exist.
///
/// - No core dump: memory holds the receivers' tokens, the cameras' passwords and pictures of the road, and an SD card has no room for
///   hundreds of megabytes at each restart. Only the soft limit is set: to debug, raise it with `prlimit --core=unlimited --pid PID`.
/// - Whatever umask was inherited, only the owner may write to files that we create.
pub fn harden() {
    umask(umask(Mode::empty()) | Mode::WGRP | Mode::WOTH);
    let hard = getrlimit(Resource::Core).maximum;
    let soft = hard.map_or(CORE_BYTES_MAX, |hard| hard.min(CORE_BYTES_MAX));
    let _where_it_is_forbidden_it_stays =
        setrlimit(Resource::Core, Rlimit { current: Some(soft), maximum: hard });
}

/// Limits this process for good, before it reads untrusted data: writable memory, processor time of all threads together, no core dump. If
/// memory still runs short, the kernel ends this process before others.
///
/// # Errors
/// `Kind::System`: the kernel does not allow it.
pub fn limit_self(memory_bytes: u64, cpu: Duration) -> Result<()> {
    /// Memory that is only reserved (a thread's part of the C library's heap, stacks), bytes: the limit counts it although it is never
    /// written to.
    const RESERVED_BYTES_MAX: u64 = 2 << 30;
    let limits = [
        (Resource::Data, memory_bytes),
        (Resource::As, memory_bytes + RESERVED_BYTES_MAX),
        (Resource::Cpu, cpu.as_secs()),
        (Resource::Core, CORE_BYTES_MAX),
    ];
    for (resource, most) in limits {
        // An existing limit may be lower, and cannot be raised.
        let most = getrlimit(resource).maximum.map_or(most, |there| there.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| Error::fatal(Kind::System, "cannot limit a process").caused_by(error))?;
    }
    let _older_kernel = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

/// Makes sure that [`DESCRIPTORS_MIN`] files can be open at once.
///
/// # Errors
/// `Kind::System`: the hard limit is lower.
pub fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let enough = |value: Option<u64>| value.is_none_or(|value| value >= DESCRIPTORS_MIN);
    if enough(limit.current) {
        return Ok(());
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if enough(limit.maximum) && setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    let text = format!(
        "only {} files may be open at once: set LimitNOFILE= of the unit (ulimit -n) to {DESCRIPTORS_MIN} or more",
        limit.maximum.or(limit.current).unwrap_or(0)
    );
    Err(Error::fatal(Kind::System, text))
}

/// What SIGHUP means to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// Started with it ignored (`nohup`): ignore it.
    Ignored,
    /// There is a terminal, and it was closed: exit.
    Ends,
    /// There is no terminal: a service manager asks for a reload.
    Reload,
}

impl Hangup {
    /// As this process was started. Call it before a handler for the signal is installed.
    pub fn of_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let terminal = || File::open("/dev/tty").is_ok(); // Only who has a controlling terminal can open it.
        if ignores_hangup(&status) {
            Hangup::Ignored
        } else if terminal() {
            Hangup::Ends
        } else {
            Hangup::Reload
        }
    }
}

/// Whether signal 1 is among the ignored ones of a /proc/PID/status.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// Opens a regular file to read it. A pipe, socket or device is refused: it may block the reader for ever.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`]: it is not a regular file; else it is missing or unreadable.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Without NONBLOCK, opening a pipe without a writer blocks.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Opens and locks the file `name` of a folder; creates it if needed, and never follows a link. The lock is held as long as the file is
/// open.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`]: another program holds the lock; [`io::ErrorKind::InvalidInput`]: it is not a regular file.
pub fn lock_file(folder: &File, name: &str) -> io::Result<File> {
    let no_file = || {
        let text = format!("its file '{name}' is not a regular file: remove it");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = match rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(lock) => File::from(lock),
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(no_file()),
        Err(error) => return Err(error.into()),
    };
    if !lock.metadata()?.is_file() {
        return Err(no_file());
    }
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Locks the file `name` of the folder at `path`; see [`lock_file`].
///
/// # Errors
/// As [`lock_file`], or the folder cannot be opened.
pub fn lock_folder(path: &Path, name: &str) -> io::Result<File> {
    lock_file(&File::open(path)?, name)
}

/// Makes the names in `folder` durable (fsync). Some file systems cannot (EINVAL), which is not an error.
///
/// # Errors
/// The disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_seen() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"));
        for no in ["", "SigIgn:\t0000000000001000\n", "SigIgn:\tnonsense\n", "SigCgt:\t1\n"] {
            assert!(!ignores_hangup(no), "{no}");
        }
    }

    #[test]
    fn a_folder_is_locked_once_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock_folder(folder.path(), "lock").unwrap();
        assert_eq!(lock_folder(folder.path(), "lock").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        drop(lock_folder(folder.path(), "lock").unwrap());
        let elsewhere = folder.path().join("elsewhere");
        fs::remove_file(folder.path().join("lock")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("lock")).unwrap();
        lock_folder(folder.path(), "lock").unwrap_err();
        assert!(!elsewhere.exists(), "nothing is made where a link points");
        fs::remove_file(folder.path().join("lock")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            folder.path().join("lock"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert_eq!(lock_folder(folder.path(), "lock").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
