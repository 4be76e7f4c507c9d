//! The resource log (S11): a CSV file with a row of figures at a time, bounded in size.
//!
//! ```text
//! Timestamp,CPU%,Memory_MB,GPU_Memory_MB,FPS,Uptime_s,…
//! 2026-11-23T08:15:30.250Z,41.5,183.2,,14.9,86400.0,…
//! ```
//! The first five columns are those of the original program; ours follow. A field without a value is empty, never 0: there is no GPU.
//!
//! Two files: `PATH`, and `PATH.1` with the rows before. Each is at most half of the limit; when a row does not fit into the first, the
//! first replaces the second. Rows are appended with one write each and are not flushed to the disk one by one: a power cut costs the last
//! seconds, and flash is spared. What it left of the last line is removed when the file is opened.
//!
//! A failed write (a full disk) is a value: the row is lost, the file is as it was, and the next row tries again.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::platform::clock::Rfc3339;
use crate::status::openmetrics::Decimal;

/// The first columns, as the original program wrote them.
pub const HEADER: &str = "Timestamp,CPU%,Memory_MB,GPU_Memory_MB,FPS";

/// Least limit of both files together, bytes.
pub const LIMIT_BYTES_MIN: u64 = 64 << 10;

/// Longest line, bytes, with the line break.
const LINE_BYTES_MAX: usize = 2048;

/// The figures of a moment. `None` is an empty field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Calendar time, nanoseconds since 1970; none while the clock has not been set (I5).
    pub unix_nanos: Option<i64>,
    /// Processor time of the whole machine since the row before, thousandths of all its cores together.
    pub cpu_permille: Option<u32>,
    /// Resident memory of this process, bytes; written as mebibytes.
    pub memory_bytes: Option<u64>,
    /// Frames processed per second, all cameras together, thousandths.
    pub fps_thousandths: Option<u64>,
    /// Our own columns, in the order of [`ResourceLog::new`].
    pub more: &'a [Option<Decimal>],
}

/// One row, without the line break.
impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(nanos) = self.unix_nanos {
            write!(f, "{}", Rfc3339(nanos))?;
        }
        field(f, self.cpu_permille.map(|permille| Tenths(u64::from(permille))))?;
        field(f, self.memory_bytes.map(|bytes| Tenths(bytes.saturating_mul(10) >> 20)))?;
        f.write_char(',')?;
        field(f, self.fps_thousandths.map(|fps| Tenths(fps / 100)))?;
        self.more.iter().try_for_each(|value| field(f, *value))
    }
}

fn field(f: &mut fmt::Formatter<'_>, value: Option<impl fmt::Display>) -> fmt::Result {
    f.write_char(',')?;
    value.map_or(Ok(()), |value| write!(f, "{value}"))
}

/// Tenths with their decimal place, always.
struct Tenths(u64);

impl fmt::Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

/// The log. A row makes no heap call, except for the first and for one that begins a new file.
#[derive(Debug)]
pub struct ResourceLog {
    path: PathBuf,
    before: PathBuf,
    /// The header line.
    header: String,
    file_bytes_max: u64,
    line: heapless::String<LINE_BYTES_MAX>,
    /// The file and its size; none after a failure, and before the first row.
    file: Option<(File, u64)>,
}

impl ResourceLog {
    /// The log at `path` with our `columns` after those of [`HEADER`], of at most `limit_bytes` (at least [`LIMIT_BYTES_MIN`]). Files are
    /// opened with the first row.
    pub fn new(path: &Path, limit_bytes: u64, columns: &[&str]) -> Self {
        let mut header = HEADER.to_owned();
        for column in columns {
            debug_assert!(!column.contains([',', '"', '\n']), "{column}");
            header.push(',');
            header.push_str(column);
        }
        header.push('\n');
        let mut before = path.as_os_str().to_owned();
        before.push(".1");
        ResourceLog {
            path: path.to_owned(),
            before: before.into(),
            header,
            file_bytes_max: limit_bytes.max(LIMIT_BYTES_MIN) / 2,
            line: heapless::String::new(),
            file: None,
        }
    }

    /// Appends a row.
    ///
    /// # Errors
    /// The disk is full, the folder is missing or not writable, the path is no regular file. The row is lost; the next call tries anew.
    pub fn append(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.line.clear();
        if writeln!(self.line, "{row}").is_err() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the row is too long"));
        }
        let result = self.append_line();
        if result.is_err() {
            self.file = None;
        }
        result
    }

    fn append_line(&mut self) -> io::Result<()> {
        let length = self.line.len() as u64;
        let (mut file, mut size) = match self.file.take() {
            // Somebody may have removed or renamed it.
            Some((file, size)) if file.metadata()?.nlink() > 0 && size + length <= self.file_bytes_max => {
                (file, size)
            }
            _ => self.open(length)?,
        };
        if size == 0 {
            file.write_all(self.header.as_bytes()).inspect_err(|_| undo(&file, 0))?;
            size = self.header.len() as u64;
        }
        file.write_all(self.line.as_bytes()).inspect_err(|_| undo(&file, size))?;
        self.file = Some((file, size + length));
        Ok(())
    }

    /// Opens the file where `length` more bytes fit, and returns it with its size.
    fn open(&self, length: u64) -> io::Result<(File, u64)> {
        // Files of an earlier, higher limit.
        if fs::metadata(&self.before).is_ok_and(|metadata| metadata.len() > self.file_bytes_max) {
            fs::remove_file(&self.before)?;
        }
        let file = open_regular(&self.path)?;
        let size = self.repair(&file)?;
        if size.is_some_and(|size| size + length <= self.file_bytes_max) {
            return Ok((file, size.unwrap_or(0)));
        }
        if file.metadata()?.len() > self.file_bytes_max {
            fs::remove_file(&self.path)?;
        } else {
            fs::rename(&self.path, &self.before)?;
        }
        Ok((open_regular(&self.path)?, 0))
    }

    /// Removes what a power cut left of the last line: a part of it, or zeros where data had not reached the disk. Returns the size of what
    /// is sound; `None` for a file with other columns.
    fn repair(&self, file: &File) -> io::Result<Option<u64>> {
        let size = file.metadata()?.len();
        let mut header = vec![0; self.header.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut header, 0)?;
        if !header.starts_with(self.header.as_bytes()) {
            let written = header.iter().position(|byte| *byte == 0).unwrap_or(header.len());
            let torn = self.header.as_bytes().starts_with(&header[..written]);
            if torn {
                file.set_len(0)?;
            }
            return Ok(torn.then_some(0));
        }
        // Zeros may cover many lines: all rows of the last half minute.
        let mut tail = vec![0; usize::try_from(size.min(64 << 10)).unwrap_or(0)];
        let begin = size - tail.len() as u64;
        file.read_exact_at(&mut tail, begin)?;
        let zeros = tail.iter().position(|byte| *byte == 0).unwrap_or(tail.len());
        let sound = tail[..zeros].iter().rposition(|byte| *byte == b'\n').map(|at| begin + at as u64 + 1);
        match sound {
            Some(sound) if sound < size => file.set_len(sound).map(|()| Some(sound)),
            // No end of a line in so many bytes: not our file any more.
            other => Ok(other),
        }
    }
}

/// Cuts a file back to its last whole line. If that fails, it is repaired when it is opened again.
fn undo(file: &File, size: u64) {
    let _repaired_later = file.set_len(size);
}

/// Opens or makes a file to append to. A pipe or device is refused: writing to it may block.
fn open_regular(path: &Path) -> io::Result<File> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).append(true).create(true).custom_flags(nonblocking).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROW: Row<'_> = Row {
        unix_nanos: Some(1_795_421_730_250_000_000),
        cpu_permille: Some(415),
        memory_bytes: Some(192_098_304),
        fps_thousandths: Some(14_960),
        more: &[Some(Decimal::from_millis(86_400_500)), None],
    };
    const LINE: &str = "2026-11-23T08:15:30.250Z,41.5,183.1,,14.9,86400.5,\n";
    const COLUMNS: [&str; 2] = ["Uptime_s", "Temperature_C"];

    fn header() -> String {
        format!("{HEADER},Uptime_s,Temperature_C\n")
    }

    fn log(folder: &Path) -> ResourceLog {
        ResourceLog::new(&folder.join("resources.csv"), 0, &COLUMNS)
    }

    fn text(folder: &Path) -> String {
        fs::read_to_string(folder.join("resources.csv")).unwrap()
    }

    #[test]
    fn rows_follow_the_header_of_the_original_and_absent_figures_are_empty() {
        assert_eq!(HEADER, "Timestamp,CPU%,Memory_MB,GPU_Memory_MB,FPS");
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path());
        log.append(&ROW).unwrap();
        let nothing = Row {
            unix_nanos: None,
            cpu_permille: None,
            memory_bytes: None,
            fps_thousandths: None,
            more: &[None; 2],
        };
        log.append(&nothing).unwrap();
        assert_eq!(text(folder.path()), format!("{}{LINE},,,,,,\n", header()));
        let zero =
            Row { cpu_permille: Some(0), memory_bytes: Some(u64::MAX), fps_thousandths: Some(99), ..nothing };
        assert_eq!(zero.to_string(), ",0.0,1759218604441.5,,0.0,,");
    }

    #[test]
    fn a_log_is_continued_and_one_with_other_columns_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path()).append(&ROW).unwrap();
        log(folder.path()).append(&ROW).unwrap();
        assert_eq!(text(folder.path()), format!("{}{LINE}{LINE}", header()));
        let mut other = ResourceLog::new(&folder.path().join("resources.csv"), 0, &["Else"]);
        other.append(&Row { more: &[None], ..ROW }).unwrap();
        assert!(text(folder.path()).starts_with(&format!("{HEADER},Else\n")));
        let before = fs::read_to_string(folder.path().join("resources.csv.1")).unwrap();
        assert_eq!(before, format!("{}{LINE}{LINE}", header()));
    }

    #[test]
    fn both_files_stay_below_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path());
        let size = |name: &str| fs::metadata(folder.path().join(name)).map_or(0, |metadata| metadata.len());
        let (mut lines, mut turns, mut last) = (0, 0, 0);
        while turns < 3 {
            log.append(&ROW).unwrap();
            lines += 1;
            let now = size("resources.csv");
            turns += usize::from(now < last);
            last = now;
            assert!(now <= LIMIT_BYTES_MIN / 2 && size("resources.csv.1") <= LIMIT_BYTES_MIN / 2);
        }
        assert!(size("resources.csv.1") > LIMIT_BYTES_MIN / 2 - LINE.len() as u64, "both are used");
        assert!(lines > 3 * 600, "{lines}");
        assert_eq!(text(folder.path()), format!("{}{LINE}", header()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn files_above_a_lowered_limit_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("{}{}", header(), LINE.repeat(1000));
        for name in ["resources.csv", "resources.csv.1"] {
            fs::write(folder.path().join(name), &long).unwrap();
        }
        log(folder.path()).append(&ROW).unwrap();
        assert_eq!(text(folder.path()), format!("{}{LINE}", header()));
        assert!(!folder.path().join("resources.csv.1").exists());
    }

    #[test]
    fn a_file_that_is_taken_away_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path());
        log.append(&ROW).unwrap();
        fs::remove_file(folder.path().join("resources.csv")).unwrap();
        log.append(&ROW).unwrap();
        assert_eq!(text(folder.path()), format!("{}{LINE}", header()));
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(log.append(&ROW).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(folder.path()).unwrap();
        log.append(&ROW).unwrap();
        assert_eq!(text(folder.path()), format!("{}{LINE}", header()));
    }

    #[test]
    fn a_write_that_was_cut_short_is_undone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resources.csv");
        fs::write(&path, header()).unwrap();
        let mut file = open_regular(&path).unwrap();
        file.write_all(&LINE.as_bytes()[..9]).unwrap();
        undo(&file, header().len() as u64);
        assert_eq!(text(folder.path()), header());
    }

    #[test]
    fn a_pipe_is_refused_and_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("mkfifo").arg(folder.path().join("resources.csv")).status();
        assert!(status.unwrap().success());
        log(folder.path()).append(&ROW).unwrap_err();
    }

    proptest! {
        /// A power cut leaves any part of the file, with or without zeros at its end.
        #[test]
        fn the_end_is_repaired_after_any_power_cut(cut in 0usize..400, zeros in 0usize..90) {
            let folder = tempfile::tempdir().unwrap();
            let whole = format!("{}{}", header(), LINE.repeat(5));
            let left = whole.as_bytes()[..cut.min(whole.len())].to_vec();
            let lines = left.split(|byte| *byte == b'\n').count().saturating_sub(2);
            fs::write(folder.path().join("resources.csv"), [left, vec![0; zeros]].concat()).unwrap();
            log(folder.path()).append(&ROW).unwrap();
            let text = text(folder.path());
            prop_assert_eq!(text, format!("{}{}", header(), LINE.repeat(lines + 1)));
        }
    }
}
