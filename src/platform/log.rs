//! Writes the log to stderr. No thread ever waits for the reader of the log, and a failed write is not an error.
//!
//! ```text
//!   any thread ── line ──► queue in fixed memory ──► writer thread ──► stderr
//!                            full: the line is              a write fails: its lines are
//!                            dropped and counted            dropped and counted
//! ```
//! A terminal that is stopped with Ctrl-S, a pipe that nobody reads, a disk that is full or hangs: each costs log lines and nothing else.
//! The number of lost lines is logged as soon as something can be written again.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::base::error::Result;
use crate::base::limits::{LOG_LINE_BYTES_MAX, LOG_QUEUE_BYTES};
use crate::platform::threads;

static STDERR: OnceLock<Log> = OnceLock::new();

/// Starts the log on stderr; it stays for the life of the process.
///
/// # Errors
/// `Kind::System`: no thread can be made.
pub fn start() -> Result<&'static Log> {
    if let Some(log) = STDERR.get() {
        return Ok(log);
    }
    let log = Log::start(io::stderr())?;
    Ok(STDERR.get_or_init(|| log))
}

/// The log on stderr, if it was started.
pub fn started() -> Option<&'static Log> {
    STDERR.get()
}

/// A queue of lines and the thread that writes them.
#[derive(Debug, Clone)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something is in the queue.
    filled: Condvar,
    /// Everything is written or dropped.
    drained: Condvar,
}

/// Whole lines in a ring of bytes.
#[derive(Debug)]
struct Queue {
    ring: Box<[u8]>,
    start: usize,
    used: usize,
    /// The writer has taken lines and not finished them.
    writing: bool,
    /// Lines that were never written.
    dropped: u64,
}

impl Log {
    /// A queue in front of `to`, and its thread.
    fn start(to: impl AsFd + Send + 'static) -> Result<Self> {
        let queue = Queue {
            ring: vec![0; LOG_QUEUE_BYTES].into_boxed_slice(),
            start: 0,
            used: 0,
            writing: false,
            dropped: 0,
        };
        let log = Log(Arc::new(Shared {
            queue: Mutex::new(queue),
            filled: Condvar::new(),
            drained: Condvar::new(),
        }));
        let writer = log.clone();
        threads::spawn("log", move || writer.write_all(&mut Output { to, torn: false }))?;
        Ok(log)
    }

    /// Queues a line, with or without the line break at its end. Never waits: a line that does not fit is dropped and counted; one longer
    /// than [`LOG_LINE_BYTES_MAX`] is truncated.
    pub fn line(&self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = &line[..line.len().min(LOG_LINE_BYTES_MAX - 1)];
        let mut queue = self.queue();
        if queue.push(line) {
            self.0.filled.notify_one();
        } else {
            queue.dropped += 1;
        }
    }

    /// Waits until everything is written or dropped, at most for `limit`. False: it was not enough.
    pub fn flush(&self, limit: Duration) -> bool {
        let pending = |queue: &mut Queue| queue.used > 0 || queue.writing;
        let wait = self.0.drained.wait_timeout_while(self.queue(), limit, pending);
        let (mut queue, _) = wait.unwrap_or_else(PoisonError::into_inner);
        !pending(&mut queue)
    }

    /// Lines that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.queue().dropped
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of the thread.
    fn write_all(&self, output: &mut Output<impl AsFd>) {
        let mut chunk = vec![0; LOG_LINE_BYTES_MAX];
        let mut reported = 0;
        loop {
            let lines = {
                let mut queue = self.queue();
                queue.writing = false;
                if queue.used == 0 {
                    self.0.drained.notify_all();
                }
                let wait = self.0.filled.wait_while(queue, |queue| queue.used == 0);
                let mut queue = wait.unwrap_or_else(PoisonError::into_inner);
                queue.writing = true;
                queue.take(&mut chunk)
            };
            let lost = output.write(&chunk[..lines]);
            let (dropped, has_room) = {
                let mut queue = self.queue();
                queue.dropped += lost;
                (queue.dropped, queue.used <= LOG_QUEUE_BYTES / 2)
            };
            // Reported only after a successful write, so that a full disk is not written to just for this; and only when the reader has
            // caught up, so that the report sums up a flood and does not add to it.
            if lost == 0 && has_room && dropped > reported {
                let lines = dropped - reported;
                reported = dropped;
                tracing::error!(
                    lines,
                    "log lines were lost: they came faster than they were read, or could not be written"
                );
            }
        }
    }
}

/// What the log's formatter writes to: a line at a time, never an error.
impl io::Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    /// Appends `line` and a line break. False: it does not fit.
    fn push(&mut self, line: &[u8]) -> bool {
        if self.ring.len() - self.used < line.len() + 1 {
            return false;
        }
        for part in [line, b"\n"] {
            let at = (self.start + self.used) % self.ring.len();
            let first = part.len().min(self.ring.len() - at);
            self.ring[at..at + first].copy_from_slice(&part[..first]);
            self.ring[..part.len() - first].copy_from_slice(&part[first..]);
            self.used += part.len();
        }
        true
    }

    /// Moves as many whole lines as fit into `chunk`, and returns their length in bytes. No line is longer than `chunk`.
    fn take(&mut self, chunk: &mut [u8]) -> usize {
        let most = self.used.min(chunk.len());
        let first = most.min(self.ring.len() - self.start);
        chunk[..first].copy_from_slice(&self.ring[self.start..self.start + first]);
        chunk[first..most].copy_from_slice(&self.ring[..most - first]);
        let count = chunk[..most].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.start = (self.start + count) % self.ring.len();
        self.used -= count;
        count
    }
}

/// Where the lines go.
struct Output<To> {
    to: To,
    /// The last write failed within a line.
    torn: bool,
}

impl<To: AsFd> Output<To> {
    /// Writes whole lines, however long it takes. Returns how many lines were lost because a write failed.
    fn write(&mut self, lines: &[u8]) -> u64 {
        if self.torn {
            let (_, failed) = self.write_bytes(b"\n");
            self.torn = failed;
        }
        let (written, failed) = if self.torn { (0, true) } else { self.write_bytes(lines) };
        if written > 0 {
            self.torn = lines[written - 1] != b'\n';
        }
        let lost = lines[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
        if failed { lost } else { 0 }
    }

    /// How many bytes were written, and whether it failed.
    fn write_bytes(&self, bytes: &[u8]) -> (usize, bool) {
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::write(&self.to, &bytes[written..]) {
                Ok(0) => return (written, true),
                Ok(count) => written += count,
                Err(rustix::io::Errno::INTR) => {}
                // Another process made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => {
                    let _either_way = poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], None);
                }
                Err(_) => return (written, true),
            }
        }
        (written, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::io::Read;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn lines_come_out_in_order_and_long_ones_are_cut() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = Log::start(writer).unwrap();
        log.line(b"one\n");
        log.line(b"two");
        log.line(&vec![b'x'; 2 * LOG_LINE_BYTES_MAX]);
        let mut text = vec![0; 8 + LOG_LINE_BYTES_MAX];
        reader.read_exact(&mut text).unwrap();
        assert!(log.flush(LONG));
        assert!(text.starts_with(b"one\ntwo\nxxx") && text.ends_with(b"xxx\n"));
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn nobody_waits_for_a_reader_and_lost_lines_are_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = Log::start(writer).unwrap();
        let line = [b'x'; 999];
        let queued = 3 * (LOG_QUEUE_BYTES + (64 << 10)) / 1000;
        for _ in 0..queued {
            log.line(&line);
        }
        assert!(!log.flush(Duration::from_millis(50)), "nobody reads");
        let dropped = log.dropped();
        assert!(dropped > 0 && dropped < queued as u64, "{dropped}");
        let mut text = vec![0; 1000 * (queued - dropped as usize)];
        reader.read_exact(&mut text).unwrap();
        assert!(log.flush(LONG));
        assert!(text.chunks(1000).all(|chunk| chunk[..999] == line && chunk[999] == b'\n'));
        log.line(b"last");
        let mut text = [0; 5];
        reader.read_exact(&mut text).unwrap();
        assert_eq!((&text, log.dropped()), (b"last\n", dropped));
    }

    #[test]
    fn failed_writes_drop_only_their_lines() {
        let log = Log::start(File::options().write(true).open("/dev/full").unwrap()).unwrap();
        for _ in 0..10 {
            log.line(b"a line");
        }
        assert!(log.flush(LONG), "a full disk holds nobody up");
        assert_eq!(log.dropped(), 10);
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let log = Log::start(writer).unwrap();
        log.line(b"two\nlines");
        assert!(log.flush(LONG));
        assert_eq!(log.dropped(), 2);
    }

    /// A disk that became full in the middle of a line.
    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut output = Output { to: File::create(&path).unwrap(), torn: true };
        assert_eq!(output.write(b"next\n"), 0);
        assert_eq!(output.write(b"one more\n"), 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "\nnext\none more\n");
    }

    proptest! {
        /// Compared with a list of lines: what was pushed comes out, whole and in order, wherever the ring wraps.
        #[test]
        fn the_ring_keeps_lines_whole(lines in proptest::collection::vec((0usize..30, any::<bool>()), 0..80)) {
            let mut queue = Queue { ring: vec![0; 64].into(), start: 0, used: 0, writing: false, dropped: 0 };
            let (mut waiting, mut chunk) = (std::collections::VecDeque::new(), [0; 32]);
            for (number, (length, take)) in lines.into_iter().enumerate() {
                let line = vec![b'a' + (number % 26) as u8; length];
                let room = 64 - waiting.iter().map(|line: &Vec<u8>| line.len() + 1).sum::<usize>();
                prop_assert_eq!(queue.push(&line), room > length);
                if room > length {
                    waiting.push_back(line);
                }
                if take {
                    let count = queue.take(&mut chunk);
                    let mut rest = &chunk[..count];
                    prop_assert!(waiting.is_empty() || count > 0);
                    while !rest.is_empty() {
                        let line = waiting.pop_front().unwrap();
                        prop_assert_eq!(&rest[..line.len()], &line[..]);
                        prop_assert_eq!(rest[line.len()], b'\n');
                        rest = &rest[line.len() + 1..];
                    }
                }
            }
        }
    }
}
