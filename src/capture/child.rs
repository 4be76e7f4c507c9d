//! Runs an external program: in its own process group, with non-blocking reads of its output, and without leftovers at the end.
//!
//! ```text
//! start ─► running ─► (stdout ends) ─► status known
//!              └──────────┴─► drop: SIGTERM to the group, at most 1 s, SIGKILL to the group, reap
//! ```
//! The program is reaped last: until then its id cannot be reused, so no signal hits another process. Never uses a shell, never inherits
//! our stdin: it reads nothing, or a short text of ours. If we ourselves are killed, the program ends at its next write to the closed pipe (and systemd ends the whole unit).
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::stream::{Bytes, ReadOutcome};
use crate::base::error::{Error, Kind, Result, is_out_of_descriptors};
use crate::base::limits::EXEC_STDERR_BYTES_MAX;
use crate::base::mask::masked;
use crate::base::stop::Stop;
use crate::platform::clock::{Clock, Mono};

/// Time for a program to end after SIGTERM, or by itself after it closed its output.
const END_GRACE: Duration = Duration::from_secs(1);
/// Polling interval of such waits.
const END_STEP: Duration = Duration::from_millis(10);
/// Longest uninterrupted wait, so that a stop request is noticed soon.
const WAIT_STEP: Duration = Duration::from_millis(100);
/// Requested size of the pipe between the program and us, bytes: fewer wake-ups for the same frames. An unprivileged process may have that
/// much (`/proc/sys/fs/pipe-max-size`).
const PIPE_BYTES: usize = 1 << 20;
/// Buffer through which skipped frames are drained, bytes.
const SCRATCH_BYTES: usize = 64 << 10;
/// Longest input of a program, bytes: it fits into the pipe, so that writing it never waits.
pub(super) const INPUT_BYTES_MAX: usize = 16 << 10;
/// Maximum length of the program's own messages in an error message, characters.
const TAIL_CHARS_MAX: usize = 300;

/// The newest bytes of a program's stderr.
pub(super) struct StderrTail {
    ring: Box<[u8; EXEC_STDERR_BYTES_MAX]>,
    written: usize,
}

impl StderrTail {
    fn new() -> Self {
        StderrTail { ring: Box::new([0; EXEC_STDERR_BYTES_MAX]), written: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.ring[self.written % EXEC_STDERR_BYTES_MAX] = byte;
            self.written += 1;
        }
    }

    /// Its last three lines joined into one, without control characters and passwords; empty if there are none.
    fn text(&self) -> String {
        let start = self.written.saturating_sub(EXEC_STDERR_BYTES_MAX);
        let bytes: Vec<u8> = (start..self.written).map(|at| self.ring[at % EXEC_STDERR_BYTES_MAX]).collect();
        let text = String::from_utf8_lossy(&bytes);
        let mut lines: Vec<&str> =
            text.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).rev().take(3).collect();
        lines.reverse();
        let lines: Vec<_> = lines.into_iter().map(masked).collect();
        let line: String = lines.join("; ").chars().filter(|c| !c.is_control()).collect();
        let over = line.chars().count().saturating_sub(TAIL_CHARS_MAX);
        line.chars().skip(over).collect()
    }
}

/// Joins pieces of output into lines: a password that is split over two pieces would not be recognised in either.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Passes on each line that `bytes` completes, without blank ones; a line longer than [`EXEC_STDERR_BYTES_MAX`] is truncated.
    fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for &byte in bytes {
            if !matches!(byte, b'\n' | b'\r') && self.0.len() < EXEC_STDERR_BYTES_MAX {
                self.0.push(byte);
            }
            if matches!(byte, b'\n' | b'\r') {
                let text = String::from_utf8_lossy(&self.0);
                if !text.trim().is_empty() {
                    line(&text);
                }
                self.0.clear();
            }
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// Still running.
    Running,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Status(status) => write!(f, "ended with status {status}"),
            Ended::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Ended::Running => f.write_str("runs on"),
        }
    }
}

/// What to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Launch<'a> {
    /// The program and its arguments; not empty.
    pub(super) words: &'a [String],
    /// What it reads from its standard input, at most [`INPUT_BYTES_MAX`]. Unlike arguments, other users cannot see it.
    pub(super) input: Option<&'a str>,
    /// Names it in messages.
    pub(super) what: &'a str,
    /// What to say if it is not installed, with the remedy.
    pub(super) absent: &'a str,
}

/// A running program and its output.
pub(super) struct Program {
    child: Child,
    pid: Pid,
    stdout: ChildStdout,
    /// `None` once it was closed.
    stderr: Option<ChildStderr>,
    tail: StderrTail,
    lines: Lines,
    scratch: Box<[u8]>,
    clock: Arc<dyn Clock>,
    stop: Stop,
    /// Deadline of reads.
    deadline: Mono,
    /// Time of the last bytes.
    read_at: Mono,
    /// Bytes read so far.
    received: u64,
}

impl Program {
    /// Starts the program.
    ///
    /// # Errors
    /// Fatal if there is no such program or it may not be run; Retry if the system lacks resources now.
    pub(super) fn start(launch: Launch<'_>, clock: Arc<dyn Clock>, stop: Stop) -> Result<Self> {
        let Launch { words, input, what, absent } = launch;
        let (name, arguments) =
            words.split_first().ok_or_else(|| Error::fatal(Kind::Config, "no command"))?;
        let mut child = Command::new(name)
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| cannot_start(what, absent, error))?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            debug_assert!(input.len() <= INPUT_BYTES_MAX);
            // A program that does not read it says so itself.
            let _unread = stdin.write_all(input.as_bytes());
        }
        let pid = Pid::from_child(&child);
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::fatal(Kind::System, format!("{what}: its pipes are missing")));
        };
        let now = clock.mono();
        // From here on `Drop` ends the program.
        let program = Program {
            child,
            pid,
            stdout,
            stderr: Some(stderr),
            tail: StderrTail::new(),
            lines: Lines::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            clock,
            stop,
            deadline: now,
            read_at: now,
            received: 0,
        };
        let set = |fd: &dyn AsFd| -> rustix::io::Result<()> {
            let flags = rustix::fs::fcntl_getfl(fd.as_fd())?;
            rustix::fs::fcntl_setfl(fd.as_fd(), flags | rustix::fs::OFlags::NONBLOCK)
        };
        set(&program.stdout)
            .and_then(|()| program.stderr.as_ref().map_or(Ok(()), |stderr| set(stderr)))
            .map_err(|error| Error::fatal(Kind::System, format!("{what}: its pipes")).caused_by(error))?;
        if let Err(error) = rustix::pipe::fcntl_setpipe_size(&program.stdout, PIPE_BYTES) {
            tracing::debug!(%error, "{what}: the pipe stays at its usual size");
        }
        Ok(program)
    }

    /// Sets the deadline of the next reads to `patience` from now, and returns now.
    pub(super) fn wait_for(&mut self, patience: Duration) -> Mono {
        let now = self.clock.mono();
        self.deadline = now + patience;
        now
    }

    /// Time since `earlier`.
    pub(super) fn since(&self, earlier: Mono) -> Duration {
        self.clock.mono().since(earlier)
    }

    /// Bytes that it has written so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// How it ended; waits for that at most a second. Does not reap it.
    pub(super) fn ended(&mut self) -> Ended {
        for _ in 0..steps() {
            self.read_stderr();
            let ended = self.peek();
            if ended != Ended::Running {
                // Its last output may have arrived between the two reads.
                self.read_stderr();
                return ended;
            }
            pause(END_STEP);
        }
        Ended::Running
    }

    /// Its last messages, in brackets; empty if there are none.
    pub(super) fn last_words(&mut self) -> String {
        self.read_stderr();
        match self.tail.text() {
            text if text.is_empty() => text,
            text => format!(" ({text})"),
        }
    }

    /// Its status, without reaping it.
    fn peek(&self) -> Ended {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Ended::Status(status),
                (None, Some(signal)) => Ended::Signal(signal),
                (None, None) => Ended::Running,
            },
            Ok(None) | Err(_) => Ended::Running,
        }
    }

    /// Reads what is in the stderr pipe, never waits.
    fn read_stderr(&mut self) {
        let mut chunk = [0u8; 1024];
        // A program that floods its stderr must not keep us in this loop.
        for _ in 0..64 {
            let Some(stderr) = &mut self.stderr else { return };
            match stderr.read(&mut chunk) {
                Ok(0) => self.stderr = None,
                Ok(count) => {
                    self.tail.push(&chunk[..count]);
                    if tracing::enabled!(tracing::Level::DEBUG) {
                        let pid = self.pid.as_raw_nonzero().get();
                        self.lines.push(&chunk[..count], |line| tracing::debug!(pid, "{}", masked(line)));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.stderr = None,
            }
        }
    }

    /// Waits until stdout is readable or at its end, or until the deadline. False at the deadline or a stop request.
    fn wait_readable(&mut self) -> bool {
        loop {
            let now = self.clock.mono();
            let left = self.deadline.since(now);
            if left.is_zero() || self.stop.requested() {
                return false;
            }
            let timeout = timespec(left.min(WAIT_STEP));
            let mut fds =
                [PollFd::new(&self.stdout, PollFlags::IN), PollFd::new(&self.stdout, PollFlags::empty())];
            let mut count = 1;
            if let Some(stderr) = &self.stderr {
                fds[1] = PollFd::new(stderr, PollFlags::IN);
                count = 2;
            }
            let polled = poll(&mut fds[..count], Some(&timeout));
            let (out, err) = (!fds[0].revents().is_empty(), count == 2 && !fds[1].revents().is_empty());
            if polled.is_ok() && err {
                self.read_stderr();
            }
            if polled.is_ok() && out {
                return true;
            }
        }
    }

    /// One read from stdout into `self.scratch` or `buffer`.
    fn read_some(&mut self, mut buffer: Option<&mut [u8]>, most: usize) -> Result<ReadOutcome> {
        loop {
            // A program that writes without a pause must not keep us here: the last read may have been the last in time.
            if self.read_at > self.deadline {
                return Ok(ReadOutcome::Idle);
            }
            let target = match &mut buffer {
                Some(buffer) => &mut buffer[..],
                None => &mut self.scratch[..],
            };
            let most = most.min(target.len());
            match self.stdout.read(&mut target[..most]) {
                Ok(0) => return Ok(ReadOutcome::End),
                Ok(count) => {
                    self.read_at = self.clock.mono();
                    self.received += count as u64;
                    return Ok(ReadOutcome::Some(count));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait_readable() {
                        return Ok(ReadOutcome::Idle);
                    }
                }
                Err(error) => {
                    return Err(
                        Error::retry(Kind::Source, "reading a program's output failed").caused_by(error)
                    );
                }
            }
        }
    }

    /// Whether the program has ended and no process of its group holds its output any more.
    fn gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.stdout, PollFlags::empty())];
        let closed = poll(&mut fds, Some(&timespec(Duration::ZERO))).is_ok()
            && fds[0].revents().contains(PollFlags::HUP);
        closed && self.peek() != Ended::Running
    }
}

impl Bytes for Program {
    fn read(&mut self, buffer: &mut [u8]) -> Result<ReadOutcome> {
        let most = buffer.len();
        self.read_some(Some(buffer), most)
    }

    fn skip(&mut self, most: u64) -> Result<ReadOutcome> {
        self.read_some(None, usize::try_from(most).unwrap_or(usize::MAX))
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn now(&self) -> Mono {
        self.read_at
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Errors mean that no process is left, which is the goal.
        if kill_process_group(self.pid, Signal::TERM).is_ok() {
            for _ in 0..steps() {
                if self.gone() {
                    break;
                }
                pause(END_STEP);
            }
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "a program could not be reaped");
        }
    }
}

fn steps() -> u128 {
    END_GRACE.as_millis() / END_STEP.as_millis()
}

/// A short wait between the steps of ending a program, which a shutdown must not cut short.
fn pause(duration: Duration) {
    let _ = poll(&mut [], Some(&timespec(duration)));
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the errors of starting a program are open-ended")]
fn cannot_start(what: &str, absent: &str, error: std::io::Error) -> Error {
    let (make, remedy): (fn(Kind, String) -> Error, _) = match error.kind() {
        ErrorKind::NotFound => (Error::fatal, absent),
        ErrorKind::PermissionDenied => (Error::fatal, "may not be run: make it executable (chmod +x)"),
        ErrorKind::InvalidInput => (Error::fatal, "cannot be run: there is a zero byte in the command"),
        ErrorKind::WouldBlock | ErrorKind::OutOfMemory => (Error::retry, "cannot be started now"),
        // No descriptors for its pipes.
        _ if is_out_of_descriptors(&error) => (Error::retry, "cannot be started now"),
        _ => (Error::fatal, "cannot be started"),
    };
    make(Kind::Source, format!("{what} {remedy}")).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_shortages_are_retried() {
        use crate::base::error::Class;
        use rustix::io::Errno;
        for (errno, class) in [
            (Errno::MFILE, Class::Retry),
            (Errno::NFILE, Class::Retry),
            (Errno::AGAIN, Class::Retry),
            (Errno::NOMEM, Class::Retry),
            (Errno::NOENT, Class::Fatal),
            (Errno::ACCESS, Class::Fatal),
        ] {
            assert_eq!(
                cannot_start("program 'x'", "is not installed", errno.into()).class(),
                class,
                "{errno}"
            );
        }
    }

    #[test]
    fn split_lines_are_joined() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in ["rtsp://u:sec", "ret@h\r\n\n", "  \nsecond", "\n"] {
            lines.push(piece.as_bytes(), |line| seen.push(masked(line).into_owned()));
        }
        lines.push(&[b'x'; 2 * EXEC_STDERR_BYTES_MAX], |line| seen.push(line.to_owned()));
        assert_eq!(seen, ["rtsp://***@h", "second"]);
        lines.push(b"\n", |line| seen.push(line.to_owned()));
        assert_eq!(seen[2].len(), EXEC_STDERR_BYTES_MAX);
    }

    #[test]
    fn the_tail_is_the_newest_output_without_secrets_and_control_characters() {
        let mut tail = StderrTail::new();
        assert_eq!(tail.text(), "");
        tail.push(&vec![b'x'; EXEC_STDERR_BYTES_MAX * 2]);
        assert_eq!(tail.text().len(), TAIL_CHARS_MAX);
        tail.push(b"\nfirst\r\nsecond \x1b[31mred\x07\n\nrtsp://u:secret@h: refused\nlast\n");
        assert_eq!(tail.text(), "second [31mred; rtsp://***@h: refused; last");
        tail.push(&[0xFF, 0xFE, b'\n']);
        assert!(tail.text().ends_with("last; \u{FFFD}\u{FFFD}"));
    }
}
