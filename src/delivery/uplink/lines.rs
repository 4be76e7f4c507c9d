//! NDJSON sinks: standard output, and a file that is appended to. One line per event, the same object as over HTTP.
//!
//! A line cut short by a crash, a full disk or a power cut is terminated before anything is appended, so that it spoils only itself. Its
//! batch is written again as a whole: at least once, like everywhere, with the same ids. Never truncates, rotates or rewrites a file. A
//! pipe or terminal without a reader blocks it for [`STALL_MAX`] at most.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::base::error::{Error, Kind, Result};
use crate::delivery::uplink::format::cloudevents;
use crate::delivery::uplink::{Batch, Interrupt, SendError, Sink};

/// Longest wait for the reader of a pipe or terminal.
pub const STALL_MAX: Duration = Duration::from_secs(10);

/// How often that wait checks whether it is interrupted.
const SLICE: Duration = Duration::from_millis(250);

/// Bytes of one write. A ready pipe accepts this many (`PIPE_BUF` is 4096) without blocking.
const PIECE_BYTES: usize = 4096;

/// Writes to a file, pipe or terminal, with a limited wait for its reader.
struct Patient<'a> {
    out: BorrowedFd<'a>,
    stall_max: Duration,
    interrupt: Option<&'a Interrupt>,
}

impl Patient<'_> {
    /// Waits until it accepts bytes.
    fn wait(&self) -> io::Result<()> {
        let mut left = self.stall_max;
        let stalled = |text| Err(io::Error::new(io::ErrorKind::TimedOut, text));
        loop {
            let slice = left.min(SLICE);
            let timeout = Timespec::try_from(slice).unwrap_or_default();
            let mut polled = [PollFd::from_borrowed_fd(self.out, PollFlags::OUT)];
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Ok(0) => left -= slice,
                // Ready, or its reader is gone: the write reports which.
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if self.interrupt.is_some_and(|interrupt| interrupt()) {
                return stalled("the shutdown has waited for uplink.drain_s");
            }
            if left.is_zero() {
                return stalled("it has no reader");
            }
        }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait()?;
            match rustix::io::write(self.out, &bytes[..bytes.len().min(PIECE_BYTES)]) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes events to standard output.
#[derive(Default)]
pub struct StdoutSink {
    buffer: Vec<u8>,
    /// The last write failed, possibly within a line.
    torn: bool,
    stall_max: Option<Duration>,
    interrupt: Option<Interrupt>,
}

impl StdoutSink {
    /// A sink that has written nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn write(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.torn {
            out.write_all(b"\n")?;
            self.torn = false;
        }
        self.torn = true;
        out.write_all(&self.buffer)?;
        out.flush()?;
        self.torn = false;
        Ok(())
    }
}

impl Sink for StdoutSink {
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError> {
        cloudevents::write_lines(batch, &mut self.buffer);
        let interrupt = self.interrupt.clone();
        let mut locked = io::stdout().lock();
        // Output that others have buffered is written first.
        let flushed = locked.flush();
        let stall_max = self.stall_max.unwrap_or(STALL_MAX).min(STALL_MAX);
        let mut out = Patient { out: locked.as_fd(), stall_max, interrupt: interrupt.as_ref() };
        flushed
            .and_then(|()| self.write(&mut out))
            .map_err(|error| SendError::retry(format!("write to stdout: {error}: is the reader gone?")))
    }

    fn name(&self) -> &'static str {
        "stdout"
    }

    fn limit_sends(&mut self, longest: Duration) {
        self.stall_max = Some(longest);
    }

    fn interrupt_when(&mut self, interrupt: Interrupt) {
        self.interrupt = Some(interrupt);
    }

    fn reserve(&mut self, events: usize) {
        self.buffer.reserve(events * cloudevents::EVENT_BYTES);
    }
}

/// Appends events to a file.
pub struct FileSink {
    path: PathBuf,
    name: String,
    /// `None` after a failure: before the next batch it is opened again and its last line checked.
    file: Option<File>,
    buffer: Vec<u8>,
    /// The last write to something other than a regular file failed, possibly within a line: nothing can be read back there.
    torn: bool,
    stall_max: Duration,
    interrupt: Option<Interrupt>,
}

impl FileSink {
    /// Opens or creates the file at `path`.
    ///
    /// # Errors
    /// [`Kind::Config`] if it cannot be opened for reading and appending.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = format!("file:{}", path.display());
        let file = open_terminated(path).map_err(|error| {
            let text = format!("open {name}: create its folder, or give another path");
            Error::fatal(Kind::Config, text).caused_by(error)
        })?;
        Ok(FileSink {
            path: path.to_owned(),
            name,
            file: Some(file),
            buffer: Vec::new(),
            torn: false,
            stall_max: STALL_MAX,
            interrupt: None,
        })
    }

    fn append(&mut self) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open_terminated(&self.path)?,
        };
        if file.metadata()?.is_file() {
            file.write_all(&self.buffer)?;
            file.sync_data()?;
        } else {
            let (stall_max, interrupt) = (self.stall_max, self.interrupt.as_ref());
            let mut out = Patient { out: file.as_fd(), stall_max, interrupt };
            if std::mem::replace(&mut self.torn, true) {
                out.write_all(b"\n")?;
            }
            out.write_all(&self.buffer)?;
            self.torn = false;
        }
        self.file = Some(file);
        Ok(())
    }
}

impl Sink for FileSink {
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError> {
        cloudevents::write_lines(batch, &mut self.buffer);
        self.append().map_err(|error| {
            SendError::retry(format!(
                "append to {}: {error}: check that the disk is mounted and has free space",
                self.name
            ))
        })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn limit_sends(&mut self, longest: Duration) {
        self.stall_max = self.stall_max.min(longest);
    }

    fn interrupt_when(&mut self, interrupt: Interrupt) {
        self.interrupt = Some(interrupt);
    }

    fn reserve(&mut self, events: usize) {
        self.buffer.reserve(events * cloudevents::EVENT_BYTES);
    }
}

/// Opens the file for appending and terminates its last line. A pipe or device is used as it is.
fn open_terminated(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::event::{Origin, tests::samples};
    use crate::platform::clock::{ClockSyncSample, Mono, Wall};

    fn with_batch<T>(run: impl FnOnce(&Batch<'_>) -> T) -> T {
        let origin = Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::ZERO);
        let wall = Wall { unix_nanos: 1_795_421_730_000_000_000, synchronised: true };
        let events = samples();
        run(&Batch::new(&origin, ClockSyncSample { mono: Mono::ZERO, wall }, &events))
    }

    fn lines() -> String {
        with_batch(|batch| {
            let mut out = Vec::new();
            cloudevents::write_lines(batch, &mut out);
            String::from_utf8(out).unwrap()
        })
    }

    #[test]
    fn a_file_is_created_and_appended_to_and_a_torn_line_is_ended() {
        for (before, after) in [("", ""), ("{\"whole\":1}\n", "{\"whole\":1}\n"), ("{\"to", "{\"to\n")] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("events.ndjson");
            if !before.is_empty() {
                std::fs::write(&path, before).unwrap();
            }
            let mut sink = FileSink::open(&path).unwrap();
            with_batch(|batch| sink.send(batch)).unwrap();
            with_batch(|batch| sink.send(batch)).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{after}{}{}", lines(), lines()));
        }
    }

    #[test]
    fn after_a_failure_the_file_is_opened_again_and_its_torn_line_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.ndjson");
        let mut sink = FileSink::open(&path).unwrap();
        // A handle that cannot write simulates a full disk; half a line is left behind.
        sink.file = Some(File::open(&path).unwrap());
        let error = with_batch(|batch| sink.send(batch)).unwrap_err();
        assert!(error.text.contains("events.ndjson"), "{error}");
        std::fs::write(&path, "{\"half").unwrap();
        with_batch(|batch| sink.send(batch)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{{\"half\n{}", lines()));
    }

    /// A pipe whose reader sleeps accepts 64 kB and then nothing.
    #[test]
    fn a_pipe_without_a_reader_blocks_only_for_a_limited_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        // A pipe that no process has open loses its contents.
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut sink = FileSink::open(&path).unwrap();
        sink.stall_max = Duration::from_millis(20);
        let mut sent = 0;
        let error = loop {
            match with_batch(|batch| sink.send(batch)) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 1000, "an endless pipe");
        };
        assert!(sent > 0 && error.text.contains("it has no reader"), "{sent} {error}");
        sink.interrupt_when(Arc::new(|| true));
        sink.stall_max = Duration::from_secs(3600);
        let error = with_batch(|batch| sink.send(batch)).unwrap_err();
        assert!(error.text.contains("drain_s"), "{error}");
        // Once it is read, whole lines follow the torn one.
        let mut read = vec![0; 1 << 17];
        let count = reader.read(&mut read).unwrap();
        let mut text = read[..count].to_vec();
        sink.interrupt = None;
        with_batch(|batch| sink.send(batch)).unwrap();
        let count = reader.read(&mut read).unwrap();
        text.extend(&read[..count]);
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with(&format!("\n{}", lines())), "{text}");
        assert_eq!(
            text.matches(&lines()).count(),
            sent + 1,
            "each batch that counts as delivered is complete"
        );
    }

    #[test]
    fn stdout_ends_a_torn_line_too() {
        struct Full(Vec<u8>, usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let taken = bytes.len().min(self.1);
                self.1 -= taken;
                self.0.extend(&bytes[..taken]);
                if taken == 0 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(taken) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut sink = StdoutSink::new();
        sink.buffer = b"{\"a\":1}\n".to_vec();
        let mut out = Full(Vec::new(), 3);
        sink.write(&mut out).unwrap_err();
        sink.write(&mut out).unwrap_err();
        out.1 = 100;
        sink.write(&mut out).unwrap();
        sink.write(&mut out).unwrap();
        assert_eq!(out.0, b"{\"a\n{\"a\":1}\n{\"a\":1}\n");
    }
}
