//! How the last run ended, kept in a small file, so that the next run can report it.
//!
//! ```text
//!   start: read ─► the last run's end ─► write "running" ─► … ─► the end: write the reason
//! ```
//! A file that still says "running" belongs to a run that could not record its end: killed, crashed, or without power.
//! Written at the start and at the end only. The file is replaced whole (write, fsync, rename), so that a power cut leaves
//! the old one or the new one; bytes that are neither are set aside as `….damaged`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::platform::process::{lock_folder, sync_folder};

/// Name of the history file in the state folder.
const FILE: &str = "history.json";

/// Name of the lock file that marks this folder's history as in use.
const LOCK: &str = "history.lock";

/// Largest file that is read, bytes.
const BYTES_MAX: u64 = 4096;

/// Contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    /// Version of the file's form.
    version: u32,
    /// The kernel's boot id at the start of the run.
    boot: String,
    /// Starts so far.
    starts: u64,
    /// Ends so far that nobody requested.
    failures: u64,
    /// Why it ended; `None` while it runs.
    end: Option<String>,
    /// Whether that end was requested.
    #[serde(default)]
    clean: bool,
}

/// How the previous run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// The reason, for messages.
    pub reason: String,
    /// Whether the end was requested.
    pub clean: bool,
}

/// The history of a device, including the current run.
#[derive(Debug)]
pub struct History {
    file: PathBuf,
    contents: Contents,
    before: Option<Before>,
    _lock: File,
}

impl History {
    /// Reads the record of the last run in `folder`, and records that this run began, in the boot `boot`. `was_reset`: the watchdog reports
    /// that it reset the board.
    ///
    /// # Errors
    /// The folder cannot be read or written, or another program keeps its history there; the text says which.
    pub fn begin(folder: &Path, boot: &str, was_reset: bool) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = lock_folder(folder, LOCK).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                io::Error::new(error.kind(), "another flytrap uses it: give each one a folder of its own")
            } else {
                error
            }
        })?;
        let file = folder.join(FILE);
        let last = read(&file)?;
        let before = last.as_ref().map(|last| ended(last, boot, was_reset));
        let failed = before.as_ref().is_some_and(|before| !before.clean);
        let (starts, failures) = last.map_or((0, 0), |last| (last.starts, last.failures));
        let contents = Contents {
            version: 1,
            boot: boot.to_owned(),
            starts: starts.saturating_add(1),
            failures: failures.saturating_add(u64::from(failed)),
            end: None,
            clean: false,
        };
        let history = History { file, contents, before, _lock: lock };
        history.write()?;
        Ok(history)
    }

    /// How the previous run ended, if there was one.
    pub fn before(&self) -> Option<&Before> {
        self.before.as_ref()
    }

    /// Starts so far, this one included.
    pub fn starts(&self) -> u64 {
        self.contents.starts
    }

    /// Ends so far that nobody requested.
    pub fn failures(&self) -> u64 {
        self.contents.failures
    }

    /// Records the end of this run. If called twice, the last call counts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn end(&mut self, reason: &str, clean: bool) -> io::Result<()> {
        (self.contents.end, self.contents.clean) = (Some(reason.to_owned()), clean);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(&self.contents).map_err(io::Error::other)?;
        bytes.push(b'\n');
        let new = self.file.with_extension("json.new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // A new file, so that a link is never written through.
        let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.file)?;
        // The rename is durable only after the folder is synced.
        sync_folder(self.file.parent().unwrap_or(Path::new(".")))
    }
}

/// The file's contents; `None` if there is no file, or an unreadable one (which is set aside).
fn read(file: &Path) -> io::Result<Option<Contents>> {
    // Links are not followed, and opening a pipe does not block.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let open = match OpenOptions::new().read(true).custom_flags(flags).open(file) {
        Ok(open) => open,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    if open.metadata()?.is_file() {
        open.take(BYTES_MAX).read_to_end(&mut bytes)?;
    }
    match serde_json::from_slice::<Contents>(&bytes) {
        Ok(contents) if contents.version == 1 => Ok(Some(contents)),
        Ok(_) | Err(_) => {
            let aside = file.with_extension("json.damaged");
            tracing::warn!(
                "'{}' is damaged or of another version: renamed to '{}'",
                file.display(),
                aside.display()
            );
            fs::rename(file, aside)?;
            Ok(None)
        }
    }
}

/// How the run `last` ended, seen from the boot `boot`.
fn ended(last: &Contents, boot: &str, was_reset: bool) -> Before {
    let reason = match (&last.end, last.boot == boot) {
        (Some(reason), _) => reason.clone(),
        (None, true) => "killed, or crashed".to_owned(),
        (None, false) if was_reset => "the watchdog reset the board".to_owned(),
        (None, false) => "the board lost power or was reset".to_owned(),
    };
    Before { reason, clean: last.clean && last.end.is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(folder: &Path, boot: &str, was_reset: bool) -> (u64, u64, Option<(String, bool)>) {
        // The child of another test inherits the last start's lock between its fork and its exec.
        let mut begun = History::begin(folder, boot, was_reset);
        for _ in 0..500 {
            if !begun.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
            begun = History::begin(folder, boot, was_reset);
        }
        let history = begun.unwrap();
        (history.starts(), history.failures(), history.before().map(|b| (b.reason.clone(), b.clean)))
    }

    #[test]
    fn each_end_is_reported_to_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("state");
        assert_eq!(before(&folder, "a", false), (1, 0, None));
        let ended = |text: &str, clean| Some((text.to_owned(), clean));
        assert_eq!(before(&folder, "a", false), (2, 1, ended("killed, or crashed", false)));
        assert_eq!(before(&folder, "b", false), (3, 2, ended("the board lost power or was reset", false)));
        assert_eq!(before(&folder, "c", true), (4, 3, ended("the watchdog reset the board", false)));
        let mut history = History::begin(&folder, "c", true).unwrap();
        assert_eq!(history.before().unwrap().reason, "killed, or crashed", "within the boot it was no reset");
        history.end("the pipeline hangs", false).unwrap();
        let second = History::begin(&folder, "c", false).unwrap_err();
        assert!(second.to_string().contains("another flytrap uses it"), "{second}");
        drop(history);
        assert_eq!(before(&folder, "d", true), (6, 5, ended("the pipeline hangs", false)));
        let mut history = History::begin(&folder, "d", false).unwrap();
        history.end("terminated", true).unwrap();
        drop(history);
        assert_eq!(before(&folder, "e", false), (8, 6, ended("terminated", true)));
    }

    #[test]
    fn damaged_files_are_set_aside_and_nothing_stops() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let good = {
            before(folder.path(), "a", false);
            fs::read(&file).unwrap()
        };
        for cut in 0..good.len() - 1 {
            fs::write(&file, &good[..cut]).unwrap();
            assert_eq!(before(folder.path(), "a", false), (1, 0, None), "{cut} bytes");
            assert_eq!(fs::read(folder.path().join("history.json.damaged")).unwrap(), good[..cut]);
        }
        let later = String::from_utf8(good).unwrap().replace("\"version\":1", "\"version\":2");
        fs::write(&file, later).unwrap();
        assert_eq!(before(folder.path(), "a", false), (1, 0, None));
        fs::write(&file, vec![b' '; 1 << 20]).unwrap();
        assert_eq!(before(folder.path(), "a", false), (1, 0, None));
    }

    #[test]
    fn a_folder_has_one_history_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::begin(folder.path(), "a", false).unwrap();
        let second = History::begin(folder.path(), "a", false).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(history);
        assert_eq!(before(folder.path(), "b", false).0, 2, "the refused start does not count");
    }

    #[test]
    fn links_are_not_followed_and_pipes_do_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let (file, elsewhere) = (folder.path().join(FILE), folder.path().join("elsewhere"));
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert!(History::begin(folder.path(), "a", false).is_err(), "somebody made a link of it");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("history.json.new")).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(before(folder.path(), "a", false), (1, 0, None), "a pipe is set aside like damage");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
    }

    #[test]
    fn a_path_that_is_not_a_folder_is_an_error() {
        assert!(History::begin(Path::new("/proc/flytrap"), "a", false).is_err());
    }
}
