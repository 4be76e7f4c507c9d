//! `dir:` - the pictures of a folder, in the order of their names: `2.jpg` before `10.jpg`. Hidden files (`._x.jpg`) are ignored.
//!
//! The folder is listed when it is opened, and every header is read. A live folder is listed again whenever its pictures are used up:
//! pictures that are added later come once each, when they have stopped growing. Baseline JPEGs go straight into the caller's buffer; all
//! others are decoded on the heap, one at a time. Subfolders are ignored.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::mjpeg_stream::{Head, jpeg_head};
use super::rate::{FrameRate, Timeline};
use super::{Advance, AtEnd, CaptureParams, ColorOverride, Filled, FrameSource, Timing, picture};
use crate::base::error::{Error, Kind, Result};
use crate::base::stop::Stop;
use crate::capture::frame::{FrameFormat, PixelFormat};
use crate::platform::clock::{Clock, Mono};

/// Maximum number of pictures in a folder: their names are kept in memory, and each header is read when it is opened.
pub const PICTURES_MAX: usize = 100_000;
/// How often a live folder is listed. A picture whose size is the same in two lists is complete.
const LIST_INTERVAL: Duration = Duration::from_secs(1);

/// A folder of pictures.
pub struct DirSource {
    folder: PathBuf,
    /// State of a live folder.
    watch: Option<Watch>,
    clock: Arc<dyn Clock>,
    stop: Stop,
    pictures: Vec<Entry>,
    format: FrameFormat,
    slot_bytes: usize,
    timeline: Timeline,
    at_end: AtEnd,
    color: ColorOverride,
    next: usize,
    /// The picture that was announced and not read yet.
    announced: Option<usize>,
    over: bool,
}

/// A picture, and whether its header promised a JPEG that goes into the ring undecoded.
struct Entry {
    path: PathBuf,
    baseline: bool,
    bytes: usize,
}

/// State of a live folder.
struct Watch {
    known: BTreeMap<OsString, FileState>,
    next_list: Mono,
    /// Listing failed, and this was reported.
    failed: bool,
}

/// A file of a live folder in the last list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileState {
    /// It was delivered.
    Taken,
    /// It had this many bytes.
    Growing(u64),
}

impl Watch {
    /// The names of complete pictures that were not delivered yet. Forgets files that are no longer in the folder.
    fn complete(&mut self, list: Vec<(OsString, u64)>) -> Vec<OsString> {
        let mut new = Vec::new();
        let mut known = BTreeMap::new();
        for (name, bytes) in list {
            let seen = match self.known.get(&name) {
                Some(FileState::Taken) => FileState::Taken,
                Some(FileState::Growing(before)) if *before == bytes && bytes > 0 => {
                    new.push(name.clone());
                    FileState::Taken
                }
                Some(FileState::Growing(_)) | None => FileState::Growing(bytes),
            };
            known.insert(name, seen);
        }
        self.known = known;
        new.sort_by(|a, b| by_number(a.as_encoded_bytes(), b.as_encoded_bytes()));
        new
    }
}

impl DirSource {
    /// Lists `.jpg`, `.jpeg` and `.png` in `path` (in any case) and reads their headers. A file that turns out not to be a picture is
    /// reported when its turn comes.
    ///
    /// # Errors
    /// Fatal with the remedy: no such folder, more than [`PICTURES_MAX`]; none of these files, or none with a good header (for a live
    /// folder Retry: they may be added).
    pub fn open(path: &Path, params: &CaptureParams, clock: Arc<dyn Clock>) -> Result<Self> {
        let is_live = params.timing == Timing::Live && params.at_end == AtEnd::Stop;
        let none = |text: &str| {
            let make: fn(Kind, String) -> Error = if is_live { Error::retry } else { Error::fatal };
            make(Kind::Source, format!("folder '{}': {text}", path.display()))
        };
        let list = list(path)?;
        if list.is_empty() {
            return Err(none("has no .jpg, .jpeg or .png in it"));
        }
        let mut names: Vec<&OsString> = list.iter().map(|(name, _)| name).collect();
        names.sort_by(|a, b| by_number(a.as_encoded_bytes(), b.as_encoded_bytes()));
        let mut pictures = Vec::with_capacity(names.len());
        let (mut format, mut slot_bytes, mut first_error) = (None::<FrameFormat>, 0, None);
        for name in names {
            let (entry, found) = announced(path.join(name));
            pictures.push(entry);
            match found {
                Ok(found) => {
                    slot_bytes = slot_bytes.max(found.bytes);
                    format = Some(format.map_or(found.format, |format| around(&format, &found.format)));
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        let Some(mut format) = format else {
            let error = none("none of its pictures can be read");
            return Err(match first_error {
                Some(first) => error.caused_by(first),
                None => error,
            });
        };
        format.color = params.color.apply(format.color);
        let rate = params.fps.unwrap_or(FrameRate::whole(1));
        let watch = is_live.then(|| Watch {
            known: list.into_iter().map(|(name, _)| (name, FileState::Taken)).collect(),
            next_list: clock.mono() + LIST_INTERVAL,
            failed: false,
        });
        Ok(DirSource {
            folder: path.to_owned(),
            watch,
            clock: Arc::clone(&clock),
            stop: params.stop.clone(),
            pictures,
            slot_bytes: slot_bytes.max(format.slot_bytes()),
            format,
            timeline: Timeline::new(clock, params.stop.clone(), params.timing, rate),
            at_end: params.at_end,
            color: params.color,
            next: 0,
            announced: None,
            over: false,
        })
    }

    /// All pictures of a live folder were delivered: lists it again, if it is time to. Waits at most `patience`.
    fn look_for_more(&mut self, patience: Duration) {
        let Some(watch) = &mut self.watch else { return };
        let now = self.clock.mono();
        if now < watch.next_list {
            self.stop.wait(watch.next_list.since(now).min(patience));
            return;
        }
        watch.next_list = now + LIST_INTERVAL;
        let new = match list(&self.folder) {
            Ok(list) => watch.complete(list),
            Err(error) => {
                if !std::mem::replace(&mut watch.failed, true) {
                    tracing::warn!(%error, "no new pictures are seen until the folder can be listed again");
                }
                return;
            }
        };
        watch.failed = false;
        (self.pictures, self.next) = (Vec::with_capacity(new.len()), 0);
        for name in new {
            let (entry, found) = announced(self.folder.join(name));
            self.pictures.push(entry);
            if let Ok(found) = found {
                self.slot_bytes = self.slot_bytes.max(found.bytes);
                let color = self.format.color;
                self.format = FrameFormat { color, ..around(&self.format, &found.format) };
            }
        }
    }
}

impl FrameSource for DirSource {
    fn format(&self) -> &FrameFormat {
        &self.format
    }

    fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    fn announced_bytes(&self) -> Option<usize> {
        self.announced.and_then(|at| self.pictures.get(at)).map(|entry| entry.bytes)
    }

    fn advance(&mut self, patience: Duration) -> Result<Advance> {
        self.announced = None;
        if self.next == self.pictures.len() {
            match (self.at_end, self.watch.is_some()) {
                (AtEnd::Stop, true) => {
                    self.look_for_more(patience);
                    return Ok(Advance::Idle);
                }
                (AtEnd::Stop, false) => self.over = true,
                (AtEnd::Loop, _) => self.next = 0,
            }
        }
        if self.over {
            return Ok(Advance::End);
        }
        if !self.timeline.wait_due(patience) {
            return Ok(Advance::Idle);
        }
        self.announced = Some(self.next);
        self.next += 1;
        Ok(Advance::Frame(self.timeline.stamp_by_rate()))
    }

    fn read_into(&mut self, buffer: &mut [u8]) -> Result<Filled> {
        let Some(entry) = self.announced.take().and_then(|at| self.pictures.get(at)) else {
            return Err(Error::degrade(Kind::Source, "folder: no picture was announced"));
        };
        let mut filled = match entry.baseline {
            true => read_jpeg(&entry.path, buffer),
            false => load_into(&entry.path, buffer),
        }?;
        filled.format.color = self.color.apply(filled.format.color);
        Ok(filled)
    }
}

impl std::fmt::Debug for DirSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DirSource({} pictures, {})", self.pictures.len(), self.format)
    }
}

/// A format at least as wide, as high and as costly to decode as both.
fn around(a: &FrameFormat, b: &FrameFormat) -> FrameFormat {
    let (width, height) = (a.width.max(b.width), a.height.max(b.height));
    let mjpeg = [a, b].into_iter().find(|format| format.pixel == PixelFormat::Mjpeg);
    // MJPEG has no row stride; the other formats are packed RGB.
    let row_bytes = if mjpeg.is_some() { 0 } else { width * 3 };
    FrameFormat { width, height, row_bytes, ..*mjpeg.unwrap_or(a) }
}

/// The pictures of a folder and their lengths in bytes, unsorted.
fn list(folder: &Path) -> Result<Vec<(OsString, u64)>> {
    let fatal = |text: &str| Error::fatal(Kind::Source, format!("folder '{}': {text}", folder.display()));
    let unread = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::NotADirectory {
            return fatal("is not a folder: use file: for a recording");
        }
        fatal("cannot be listed: check the path and its permissions").caused_by(error)
    };
    let mut pictures = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let (Some(name), true) = (path.file_name(), is_picture_name(&path)) else { continue };
        // A broken link is listed, and reported when its turn comes.
        let data = std::fs::metadata(&path);
        if data.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
            continue;
        }
        if pictures.len() == PICTURES_MAX {
            return Err(fatal(&format!("has more than {PICTURES_MAX} pictures: split it")));
        }
        pictures.push((name.to_owned(), data.map_or(0, |data| data.len())));
    }
    Ok(pictures)
}

/// The format in the header of the picture `path`.
fn announced(path: PathBuf) -> (Entry, Result<picture::Announced>) {
    let found = picture::announced(&path);
    let baseline = found.as_ref().is_ok_and(|found| found.format.pixel == PixelFormat::Mjpeg);
    let bytes = found.as_ref().map_or(0, |found| found.bytes);
    (Entry { path, baseline, bytes }, found)
}

/// Whether this is the name of a picture: `.jpg`, `.jpeg` or `.png`, in any case. Hidden files are not: macOS puts `._x.jpg`, which is not
/// a picture, beside each `x.jpg` on foreign disks.
pub fn is_picture_name(path: &Path) -> bool {
    let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden
        && extension.is_some_and(|e| ["jpg", "jpeg", "png"].iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// Natural order of names: runs of digits by their number, everything else by its bytes.
pub fn by_number(a: &[u8], b: &[u8]) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    while let (Some(&first_a), Some(&first_b)) = (rest_a.first(), rest_b.first()) {
        if first_a.is_ascii_digit() && first_b.is_ascii_digit() {
            let (number_a, number_b);
            (number_a, rest_a) = number(rest_a);
            (number_b, rest_b) = number(rest_b);
            // Without leading zeros the longer number is the larger one.
            let order = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
            if order.is_ne() {
                return order;
            }
        } else {
            if first_a != first_b {
                return first_a.cmp(&first_b);
            }
            (rest_a, rest_b) = (&rest_a[1..], &rest_b[1..]);
        }
    }
    // Equal except for leading zeros, or one is a prefix of the other.
    rest_a.len().cmp(&rest_b.len()).then_with(|| a.cmp(b))
}

/// The digits that `text` begins with, without leading zeros, and what follows them.
fn number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    (&digits[zeros..], rest)
}

/// Reads a baseline JPEG straight into the buffer. The file may have changed since it was listed, so its header is checked again.
fn read_jpeg(path: &Path, buffer: &mut [u8]) -> Result<Filled> {
    let refuse = |why: &str| Error::degrade(Kind::Source, format!("picture '{}': {why}", path.display()));
    let unread = |error: std::io::Error| refuse("cannot be read").caused_by(error);
    let mut file = File::open(path).map_err(unread)?;
    let mut used = 0;
    loop {
        if used == buffer.len() {
            match file.read(&mut [0]).map_err(unread)? {
                0 => break,
                _ => return Err(refuse(&format!("is larger than the {} bytes of its buffer", buffer.len()))),
            }
        }
        match file.read(&mut buffer[used..]) {
            Ok(0) => break,
            Ok(count) => used += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unread(error)),
        }
    }
    match jpeg_head(&buffer[..used]) {
        Head::Info(info) if info.baseline && info.orientation == 1 => {
            let format = info.format(ColorOverride::default()).map_err(|why| refuse(&why))?;
            Ok(Filled { format, bytes_used: used })
        }
        Head::Info(_) | Head::More | Head::Broken(_) => Err(refuse("is not a baseline JPEG any more")),
    }
}

/// Any other picture, decoded on the heap.
fn load_into(path: &Path, buffer: &mut [u8]) -> Result<Filled> {
    let picture = picture::load(path)?;
    let used = picture.bytes.len();
    let Some(target) = buffer.get_mut(..used) else {
        let text =
            format!("picture '{}': {used} bytes, but a buffer of only {}", path.display(), buffer.len());
        return Err(Error::degrade(Kind::Source, text));
    };
    target.copy_from_slice(&picture.bytes);
    Ok(Filled { format: picture.format, bytes_used: used })
}

#[cfg(test)]
mod tests {
    use super::super::mjpeg_stream::tests::skeleton;
    use super::super::picture::tests::png;
    use super::*;
    use crate::base::error::Class;
    use crate::platform::clock::Mono;
    use crate::platform::clock::fake::FakeClock;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("b.JPG", &skeleton(64, 48, 1));
        write("a.png", &png(80, 60, png::ColorType::Rgb, png::BitDepth::Eight, &[1, 2, 3]));
        write("c.jpeg", b"not a picture");
        write("d.jpg", &skeleton(32, 32, 2));
        write("notes.txt", b"ignored");
        std::fs::create_dir(dir.path().join("e.png")).unwrap();
        dir
    }

    fn at(nanos: u64) -> Mono {
        Mono::from_nanos(nanos)
    }

    #[test]
    fn pictures_come_by_name_one_second_apart_and_a_bad_one_is_skipped() {
        let dir = folder();
        let clock = Arc::new(FakeClock::default());
        clock.set(at(5_000_000_000));
        let params = CaptureParams { at_end: AtEnd::Loop, ..CaptureParams::default() };
        let mut source = DirSource::open(dir.path(), &params, clock).unwrap();
        // As large as the PNG, and MJPEG because there are JPEGs.
        let FrameFormat { pixel, width, height, row_bytes, .. } = *source.format();
        assert_eq!((pixel, width, height, row_bytes), (PixelFormat::Mjpeg, 80, 60, 0));
        assert!(source.slot_bytes() >= 80 * 60 * 3);
        let mut buffer = vec![0; source.slot_bytes()];
        for seq in 0..8u64 {
            let Advance::Frame(meta) = source.advance(Duration::ZERO).unwrap() else { panic!("frame {seq}") };
            assert_eq!((meta.seq, meta.captured_at), (seq, at((5 + seq) * 1_000_000_000)));
            let filled = source.read_into(&mut buffer);
            match seq % 4 {
                0 => {
                    let filled = filled.unwrap();
                    assert_eq!((filled.format.pixel, filled.bytes_used), (PixelFormat::Rgb24, 80 * 60 * 3));
                    assert_eq!(buffer[..6], [1, 2, 3, 1, 2, 3]);
                }
                1 => {
                    let filled = filled.unwrap();
                    assert_eq!((filled.format.pixel, filled.format.width), (PixelFormat::Mjpeg, 64));
                    assert_eq!(&buffer[..filled.bytes_used], skeleton(64, 48, 1));
                }
                2 => {
                    let error = filled.unwrap_err();
                    assert_eq!(error.class(), Class::Degrade);
                    assert!(
                        error.to_string().contains("c.jpeg") && error.to_string().contains("not a pictur"),
                        "{error}"
                    );
                }
                _ => assert_eq!(filled.unwrap().format.width, 32),
            }
            assert_eq!(source.read_into(&mut buffer).unwrap_err().class(), Class::Degrade, "once a frame");
        }
    }

    #[test]
    fn names_are_ordered_by_their_numbers() {
        for (low, high) in [
            ("2.jpg", "10.jpg"),
            ("a9", "a10"),
            ("a1b2", "a1b10"),
            ("a", "a1"),
            ("01", "1"),
            ("1", "02"),
            ("x99999999999999999999999998", "x99999999999999999999999999"),
            ("", "0"),
            ("B", "a"),
        ] {
            let order = by_number(low.as_bytes(), high.as_bytes());
            assert_eq!(
                (order, by_number(high.as_bytes(), low.as_bytes())),
                (Ordering::Less, Ordering::Greater),
                "{low} {high}"
            );
            assert_eq!(by_number(low.as_bytes(), low.as_bytes()), Ordering::Equal);
        }
    }

    /// A live folder waits for more pictures, and delivers each once, when it has stopped growing.
    #[test]
    fn a_live_folder_takes_each_picture_once_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        let clock = Arc::new(FakeClock::default());
        let params =
            CaptureParams { timing: Timing::Live, fps: FrameRate::new(1000, 1), ..CaptureParams::default() };
        let empty = DirSource::open(dir.path(), &params, clock.clone()).unwrap_err();
        assert_eq!(empty.class(), Class::Retry, "{empty}");
        for name in ["10.jpg", "2.jpg", "1.jpg", "._1.jpg"] {
            write(name, &skeleton(64, 48, 1));
        }
        let mut source = DirSource::open(dir.path(), &params, clock.clone()).unwrap();
        let mut buffer = vec![0; source.slot_bytes()];
        // Widths of the pictures that come within this many seconds.
        let mut come = |source: &mut DirSource, seconds: u64| {
            let mut widths = Vec::new();
            for _ in 0..seconds * 10 {
                clock.set(clock.mono() + Duration::from_millis(100));
                match source.advance(Duration::ZERO).unwrap() {
                    Advance::Frame(_) => {
                        widths.push(source.read_into(&mut buffer).map_or(0, |f| f.format.width));
                    }
                    Advance::Idle => {}
                    Advance::End => panic!("it has no end"),
                }
            }
            widths
        };
        let names: Vec<_> =
            source.pictures.iter().map(|entry| entry.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["1.jpg", "2.jpg", "10.jpg"]);
        assert_eq!(come(&mut source, 5), [64, 64, 64]);
        let whole = skeleton(80, 48, 1);
        write("11.jpg", &whole[..20]);
        write("9.jpg", &skeleton(32, 32, 1));
        assert_eq!(come(&mut source, 1), [] as [u32; 0], "listed once is not complete");
        write("11.jpg", &whole);
        assert_eq!(come(&mut source, 4), [32, 80]);
        assert_eq!(source.format().width, 80);
        assert_eq!(come(&mut source, 5), [] as [u32; 0], "once each");
        std::fs::remove_file(dir.path().join("9.jpg")).unwrap();
        assert_eq!(come(&mut source, 2), [] as [u32; 0]);
        write("9.jpg", &skeleton(48, 48, 1));
        assert_eq!(come(&mut source, 4), [48], "a new file with an old name");
    }

    #[test]
    fn the_end_of_a_folder_is_final() {
        let dir = folder();
        let mut source =
            DirSource::open(dir.path(), &CaptureParams::default(), Arc::new(FakeClock::default())).unwrap();
        let frames =
            (0..10).filter(|_| matches!(source.advance(Duration::ZERO).unwrap(), Advance::Frame(_))).count();
        assert_eq!(frames, 4);
        assert_eq!(source.advance(Duration::ZERO).unwrap(), Advance::End);
    }

    #[test]
    fn a_picture_that_changed_is_refused_not_misread() {
        let dir = folder();
        let mut source =
            DirSource::open(dir.path(), &CaptureParams::default(), Arc::new(FakeClock::default())).unwrap();
        source.advance(Duration::ZERO).unwrap();
        source.advance(Duration::ZERO).unwrap();
        let mut buffer = vec![0; source.slot_bytes()];
        std::fs::write(dir.path().join("b.JPG"), vec![0xFF; buffer.len() + 1]).unwrap();
        assert!(source.read_into(&mut buffer).unwrap_err().to_string().contains("of its buffer"));
        source.advance(Duration::ZERO).unwrap();
        source.advance(Duration::ZERO).unwrap();
        std::fs::write(dir.path().join("d.jpg"), b"gone").unwrap();
        assert!(source.read_into(&mut buffer).unwrap_err().to_string().contains("any more"));
    }

    #[test]
    fn the_format_bounds_every_picture() {
        let dir = tempfile::tempdir().unwrap();
        let rgb = |name: &str, width, height| {
            let png = png(width, height, png::ColorType::Rgb, png::BitDepth::Eight, &[1, 2, 3]);
            std::fs::write(dir.path().join(name), png).unwrap();
        };
        let format = || {
            let params = CaptureParams::default();
            *DirSource::open(dir.path(), &params, Arc::new(FakeClock::default())).unwrap().format()
        };
        rgb("wide.png", 100, 20);
        rgb("high.png", 30, 90);
        let FrameFormat { pixel, width, height, row_bytes, .. } = format();
        assert_eq!((pixel, width, height, row_bytes), (PixelFormat::Rgb24, 100, 90, 300));
        std::fs::write(dir.path().join("a.jpg"), skeleton(16, 200, 1)).unwrap();
        let FrameFormat { pixel, width, height, row_bytes, .. } = format();
        assert_eq!((pixel, width, height, row_bytes), (PixelFormat::Mjpeg, 100, 200, 0));
    }

    #[test]
    fn folders_without_pictures_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path| {
            DirSource::open(path, &CaptureParams::default(), Arc::new(FakeClock::default())).unwrap_err()
        };
        assert!(open(dir.path()).to_string().contains("no .jpg"));
        assert!(open(&dir.path().join("absent")).to_string().contains("check the path"));
        let file = dir.path().join("x.jpg");
        std::fs::write(&file, b"text").unwrap();
        let error = open(dir.path());
        assert!(
            error.to_string().contains("none of its pictures") && error.to_string().contains("x.jpg"),
            "{error}"
        );
        assert!(open(&file).to_string().contains("is not a folder"));
        assert_eq!(error.class(), Class::Fatal);
    }
}
