//! NDJSON sinks: standard output, and a file that is appended to. One line an event, the same object as over HTTP.
//!
//! A line cut short by a crash, a full disk or a power cut is ended before anything is appended, so that it spoils itself
//! only. The batch that it belonged to is written again as a whole: at least once, like everywhere, with the same ids.
//! Never truncates, rotates or rewrites a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Kind, Result};
use crate::delivery::uplink::format::cloudevents;
use crate::delivery::uplink::{Batch, SendError, Sink};

/// Writes events to standard output.
#[derive(Debug, Default)]
pub struct StdoutSink {
    buffer: Vec<u8>,
    /// The last write failed, perhaps within a line.
    torn: bool,
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
        self.write(&mut io::stdout().lock())
            .map_err(|error| SendError::retry(format!("write to stdout: {error}: is the reader gone?")))
    }

    fn name(&self) -> &'static str {
        "stdout"
    }

    fn reserve(&mut self, events: usize) {
        self.buffer.reserve(events * cloudevents::EVENT_BYTES);
    }
}

/// Appends events to a file.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    name: String,
    /// `None` after a failure: opened again, and its last line checked, before the next batch.
    file: Option<File>,
    buffer: Vec<u8>,
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
        Ok(FileSink { path: path.to_owned(), name, file: Some(file), buffer: Vec::new() })
    }

    fn append(&mut self) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open_terminated(&self.path)?,
        };
        file.write_all(&self.buffer)?;
        if file.metadata()?.is_file() {
            file.sync_data()?;
        }
        self.file = Some(file);
        Ok(())
    }
}

impl Sink for FileSink {
    fn send(&mut self, batch: &Batch<'_>) -> Result<(), SendError> {
        cloudevents::write_lines(batch, &mut self.buffer);
        self.append().map_err(|error| {
            SendError::retry(format!("append to {}: {error}: is the disk full or gone?", self.name))
        })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn reserve(&mut self, events: usize) {
        self.buffer.reserve(events * cloudevents::EVENT_BYTES);
    }
}

/// The file for appending, its last line ended. A pipe or device is taken as it is.
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
    use crate::event::{Origin, tests::samples};
    use crate::platform::clock::{ClockMap, Mono, Wall};

    fn with_batch<T>(run: impl FnOnce(&Batch<'_>) -> T) -> T {
        let origin = Origin::new("mast-7", "3f2a91c0-7d41-4c5e-9a3b-0123456789ab", Mono::ZERO);
        let wall = Wall { unix_nanos: 1_795_421_730_000_000_000, synchronised: true };
        let events = samples();
        run(&Batch::new(&origin, ClockMap { mono: Mono::ZERO, wall }, &events))
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
        // A handle that cannot write stands for a full disk; half a line is what it left behind.
        sink.file = Some(File::open(&path).unwrap());
        let error = with_batch(|batch| sink.send(batch)).unwrap_err();
        assert!(error.text.contains("events.ndjson"), "{error}");
        std::fs::write(&path, "{\"half").unwrap();
        with_batch(|batch| sink.send(batch)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{{\"half\n{}", lines()));
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
